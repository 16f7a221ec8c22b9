//! The part of `weft ipam` that says who owns how much of the range.

use super::status::duration;
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use weft_wire::api::{IpamOwner, IpamStatus};

/// Owners that the screen shows; all are in the JSON.
const OWNERS_SHOWN: usize = 12;
/// Owners out of reach that get a sentence of their own.
const SILENT_SHOWN: usize = 4;

/// One sentence for each host that holds a part of the range and is out of reach.
pub(super) fn write_silent(out: &mut String, status: &IpamStatus) -> std::fmt::Result {
    let silent: Vec<&IpamOwner> = status
        .owners
        .iter()
        .filter(|owner| !owner.reachable && owner.addresses > 0)
        .collect();
    for owner in silent.iter().take(SILENT_SHOWN) {
        writeln!(
            out,
            "out of reach {} of the range belongs to {}, silent for {}: if it is gone for good, `weft peer remove {}` \
             gives it back",
            share(owner.addresses, status.total),
            owner.name,
            duration(owner.silent_s.unwrap_or_default()),
            owner.name
        )?;
    }
    if silent.len() > SILENT_SHOWN {
        let rest = &silent[SILENT_SHOWN..];
        writeln!(
            out,
            "out of reach {} more hosts with {} of the range: weft ipam --json",
            rest.len(),
            share(rest.iter().map(|owner| owner.addresses).sum(), status.total)
        )?;
    }
    Ok(())
}

pub(super) fn table(status: &IpamStatus) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["OWNER", "ADDRESSES", "SHARE", "FREE", "LENT", "BORROWED", ""]);
    for owner in status.owners.iter().take(OWNERS_SHOWN) {
        table.add_row([
            match owner.here {
                true => format!("{} (here)", owner.name),
                false => owner.name.clone(),
            },
            owner.addresses.to_string(),
            share(owner.addresses, status.total),
            match owner.here || owner.free == 0 {
                true => owner.free.to_string(),
                false => format!("{} or more", owner.free),
            },
            owner.lent.to_string(),
            owner.borrowed.to_string(),
            remarks(owner),
        ]);
    }
    table
}

/// What is left out of the table.
pub(super) fn write_rest(out: &mut String, status: &IpamStatus) -> std::fmt::Result {
    if status.owners.len() > OWNERS_SHOWN {
        let rest = &status.owners[OWNERS_SHOWN..];
        writeln!(
            out,
            "and {} more with {} of the range: weft ipam --json",
            rest.len(),
            share(rest.iter().map(|owner| owner.addresses).sum(), status.total)
        )?;
    }
    Ok(())
}

fn remarks(owner: &IpamOwner) -> String {
    let mut remarks = Vec::new();
    if let Some(seconds) = owner.silent_s {
        remarks.push(format!("out of reach for {}", duration(seconds)));
    }
    if owner.frozen > 0 {
        remarks.push(format!("{} frozen", owner.frozen));
    }
    if !owner.voter {
        remarks.push("in no epoch: borrows only".to_owned());
    }
    remarks.join(", ")
}

/// A part of the range in per cent; what is there is never 0 %.
fn share(part: u64, total: u64) -> String {
    match part as f64 * 100.0 / total.max(1) as f64 {
        0.0 => "0 %".to_owned(),
        percent if percent < 1.0 => "<1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_says_no_more_than_is_so() {
        assert_eq!(share(0, 1 << 32), "0 %");
        assert_eq!(share(1, 1 << 32), "<1 %");
        assert_eq!(share(1 << 30, 1 << 32), "25 %");
        assert_eq!(share(1 << 32, 1 << 32), "100 %");
    }
}
