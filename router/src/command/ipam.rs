//! `weft ipam`: who owns which addresses, and addresses given out by hand.

use crate::api::client::Client;
use crate::cli::{IpamArgs, IpamCommand};
use anyhow::bail;
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use std::net::IpAddr;
use weft_wire::api::{AddressPlace, FreeRequest, IpamStatus, PodAddresses, PodRequest};

/// Ranges and used addresses that the screen shows; all are in the JSON.
const LINES_SHOWN: usize = 20;

pub(crate) fn ipam(args: &IpamArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket);
    match &args.command {
        None => {
            let status: IpamStatus = super::block_on(super::ASKING, async { client.get("/v1/ipam").await })?;
            super::print(args.json, &status, render(&status).trim_end())
        }
        Some(IpamCommand::Allocate { id }) => give(args, &client, id, None),
        Some(IpamCommand::Claim { id, address }) => give(args, &client, id, Some(*address)),
        Some(IpamCommand::Free { id, address }) => {
            let request = FreeRequest {
                id: id.clone(),
                address: *address,
            };
            let freed: PodAddresses = super::block_on(super::ASKING, async {
                client.post("/v1/pods/free", &request).await
            })?;
            if freed.addresses.is_empty() {
                bail!("{id} has no such address on this host");
            }
            super::print(
                args.json,
                &freed,
                &format!("freed {} of {id}", join(&freed.addresses)),
            )
        }
        Some(IpamCommand::Lookup { what }) => match what.parse::<IpAddr>() {
            Ok(address) => {
                let path = format!("/v1/addresses/{address}");
                let found: AddressPlace = super::block_on(super::ASKING, async { client.get(&path).await })?;
                super::print(args.json, &found, &format!("{address}: {}", found.place))
            }
            Err(_) => {
                let path = format!("/v1/pods/{}", percent_encoded(what));
                let found: PodAddresses = super::block_on(super::ASKING, async { client.get(&path).await })?;
                if found.addresses.is_empty() {
                    bail!("{what} has no address on this host");
                }
                super::print(args.json, &found, &format!("{what}: {}", join(&found.addresses)))
            }
        },
    }
}

fn give(args: &IpamArgs, client: &Client, id: &str, address: Option<IpAddr>) -> anyhow::Result<()> {
    let request = PodRequest {
        id: id.to_owned(),
        address,
    };
    let plan = super::allocate(client, &request)?;
    super::print(args.json, &plan, &plan.address.to_string())
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// An id as part of a path (RFC 3986 §2.1).
fn percent_encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

fn render(status: &IpamStatus) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_screen(&mut out, status);
    out
}

fn write_screen(out: &mut String, status: &IpamStatus) -> std::fmt::Result {
    writeln!(out, "range       {}, slots of {}", status.range, status.slot_size)?;
    writeln!(
        out,
        "here        {} owned, {} free, {} used, {} resting",
        status.owned,
        status.free,
        status.used.len(),
        status.resting
    )?;
    if status.lent + status.borrowed > 0 {
        writeln!(
            out,
            "single      {} lent to others, {} borrowed",
            status.lent, status.borrowed
        )?;
    }
    super::status::write_waiting(out, &status.waiting)?;
    writeln!(
        out,
        "epoch       {}, {} members",
        status.epoch, status.epoch_members
    )?;
    if let Some(hindrance) = &status.hindrance {
        writeln!(out, "hindrance   {hindrance}")?;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["OWNER", "FROM", "TO", ""]);
    for range in status.ranges.iter().take(LINES_SHOWN) {
        let frozen = if range.frozen {
            "frozen: two hosts claim it"
        } else {
            ""
        };
        table.add_row([
            &range.owner_name,
            &range.first.to_string(),
            &range.last.to_string(),
            frozen,
        ]);
    }
    writeln!(out, "\n{table}")?;
    if status.ranges.len() > LINES_SHOWN {
        writeln!(
            out,
            "and {} more: weft ipam --json",
            status.ranges.len() - LINES_SHOWN
        )?;
    }
    for used in status.used.iter().take(LINES_SHOWN) {
        writeln!(out, "used        {}  {}", used.address, used.id)?;
    }
    if status.used.len() > LINES_SHOWN {
        writeln!(
            out,
            "and {} more: weft ipam --json",
            status.used.len() - LINES_SHOWN
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_as_part_of_a_path() {
        assert_eq!(percent_encoded("/run/netns/a b"), "%2Frun%2Fnetns%2Fa%20b");
        assert_eq!(percent_encoded("web-1.x_~"), "web-1.x_~");
    }
}
