//! `weft ipam`: who owns which addresses, and addresses given out by hand.

use super::{from_before, owners};
use crate::api::client::Client;
use crate::cli::{IpamArgs, IpamCommand};
use crate::config::read_token;
use crate::wish::Named;
use anyhow::bail;
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;
use weft_wire::api::{
    AddressPlace, AdoptRequest, Adopted, FreeRequest, IpamStatus, PodAddresses, PodRequest,
};

/// Ranges and used addresses that the screen shows; all are in the JSON.
pub(super) const LINES_SHOWN: usize = 20;

pub(crate) fn ipam(args: &IpamArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket);
    let answered = match &args.command {
        Some(IpamCommand::Check) => return super::check::check(args, &client),
        None => {
            let status: IpamStatus = super::block_on(super::ASKING, async { client.get("/v1/ipam").await })?;
            super::print(args.json, &status, render(&status).trim_end())
        }
        Some(IpamCommand::Allocate { id, subnet, patience }) => {
            give(args, &client, super::pod_request(id, None, *subnet, patience))
        }
        Some(IpamCommand::Claim {
            id,
            address: Named { address, subnet },
            patience,
        }) => give(
            args,
            &client,
            super::pod_request(id, Some(*address), *subnet, patience),
        ),
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
        Some(IpamCommand::Adopt { peer, token_file }) => {
            let request = AdoptRequest {
                peer: peer.clone(),
                token: token_file.as_deref().map(read_token).transpose()?,
            };
            let adopted: Adopted = super::block_on("waiting to be let in by the other cluster", async {
                client.post("/v1/ipam/adopt", &request).await
            })?;
            let words = format!(
                "this host has left cluster {} and is now {} in cluster {}; {} addresses of its pods are asked for there: \
                 `weft ipam` lists those that somebody else has",
                adopted.left, adopted.node, adopted.joined, adopted.claims
            );
            super::print(args.json, &adopted, &words)
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
    };
    answered.map(|()| ExitCode::SUCCESS)
}

fn give(args: &IpamArgs, client: &Client, request: PodRequest) -> anyhow::Result<()> {
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
pub(crate) fn percent_encoded(text: &str) -> String {
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
    let noun = if status.epoch_members == 1 {
        "member"
    } else {
        "members"
    };
    writeln!(
        out,
        "epoch       {}, {} {noun}",
        status.epoch, status.epoch_members
    )?;
    if let Some(hindrance) = &status.hindrance {
        writeln!(out, "hindrance   {hindrance}")?;
    }
    for removal in &status.removals {
        let names: Vec<&str> = removal.hosts.iter().map(|host| host.name.as_str()).collect();
        writeln!(out, "removing    {}: {}", names.join(", "), removal.waits_for)?;
    }
    from_before::write_summary(out, status)?;
    owners::write_silent(out, status)?;
    writeln!(out, "\n{}", owners::table(status))?;
    owners::write_rest(out, status)?;
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
    from_before::write_addresses(out, status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::api::{IpamOwner, IpamRange, UsedAddress};

    fn status(hosts: u32) -> IpamStatus {
        let size = (1u32 << 20) / hosts;
        let address = |offset: u32| IpAddr::from((0x0a20_0000 + offset).to_be_bytes());
        let owner = |host: u32| IpamOwner {
            node: format!("{host:064x}"),
            name: format!("host-{host}"),
            here: host == 0,
            voter: true,
            addresses: size.into(),
            frozen: if host == 2 { 16 } else { 0 },
            free: u64::from(size) / 2,
            lent: 1,
            borrowed: 0,
            reachable: host % 3 != 1,
            silent_s: (host % 3 == 1).then_some(185),
        };
        IpamStatus {
            range: "10.32.0.0/12".parse().unwrap(),
            slot_size: 16,
            ranges: (0..hosts)
                .map(|host| IpamRange {
                    first: address(host * size),
                    last: address(host * size + size - 1),
                    owner: format!("{host:064x}"),
                    owner_name: format!("host-{host}"),
                    frozen: false,
                })
                .collect(),
            owned: size.into(),
            free: u64::from(size) / 2,
            used: (0..5)
                .map(|pod| UsedAddress {
                    address: address(pod + 1),
                    id: format!("pod-{pod}"),
                })
                .collect(),
            lent: 1,
            borrowed: 0,
            resting: 3,
            waiting: Vec::new(),
            epoch: 1,
            epoch_members: 1,
            hindrance: None,
            total: 1 << 20,
            owners: (0..hosts).map(owner).collect(),
            unclaimed: Vec::new(),
            removals: Vec::new(),
            removed: Vec::new(),
            kept: Vec::new(),
        }
    }

    #[test]
    fn three_hosts_fit_one_screen_and_a_thousand_stay_bounded() {
        let screen = render(&status(3));
        for part in [
            "epoch       1, 1 member\n",
            "host-0 (here)",
            "174762 or more",
            "16 frozen",
            "out of reach 33 % of the range belongs to host-1, silent for 3 min: if it is gone for good, `weft peer remove \
             host-1` gives it back\n",
        ] {
            assert!(screen.contains(part), "{part} is missing in:\n{screen}");
        }
        assert!(screen.lines().count() <= 24, "{screen}");
        let screen = render(&status(1_000));
        assert!(screen.lines().count() <= 60, "{screen}");
        for part in [
            "and 988 more with 99 % of the range",
            "329 more hosts with 33 % of the range",
        ] {
            assert!(screen.contains(part), "{part} is missing in:\n{screen}");
        }
    }

    #[test]
    fn ids_survive_as_part_of_a_path() {
        assert_eq!(percent_encoded("/run/netns/a b"), "%2Frun%2Fnetns%2Fa%20b");
        assert_eq!(percent_encoded("web-1.x_~"), "web-1.x_~");
    }
}
