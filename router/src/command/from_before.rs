//! The part of `weft ipam` that says what became of the addresses of a host that is a new member: because the others had
//! removed it, or because its cluster yielded to another one.

use super::ipam::LINES_SHOWN;
use std::fmt::Write as _;
use weft_wire::api::IpamStatus;

/// One line, where there is something to say.
pub(super) fn write_summary(out: &mut String, status: &IpamStatus) -> std::fmt::Result {
    let (kept, open) = (status.kept.len(), status.unclaimed.len());
    if kept + open == 0 {
        return Ok(());
    }
    let refused = status.unclaimed.iter().filter(|claim| claim.refusal.is_some());
    let refused = refused.count();
    writeln!(
        out,
        "from before {kept} addresses of pods kept, {refused} refused, {} being asked for",
        open - refused
    )
}

/// Each address: those that pods have and this host has not been given first.
pub(super) fn write_addresses(out: &mut String, status: &IpamStatus) -> std::fmt::Result {
    let mut lines = 0;
    for claim in status.unclaimed.iter().take(LINES_SHOWN) {
        let refusal = claim.refusal.as_deref().unwrap_or("being asked for");
        writeln!(out, "unclaimed   {}  {}: {refusal}", claim.address, claim.id)?;
        lines += 1;
    }
    for kept in status.kept.iter().take(LINES_SHOWN - lines) {
        writeln!(out, "kept        {}  {}", kept.address, kept.id)?;
        lines += 1;
    }
    match status.unclaimed.len() + status.kept.len() - lines {
        0 => Ok(()),
        more => writeln!(out, "and {more} more: weft ipam --json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::api::{HostName, Unclaimed, UsedAddress};

    #[test]
    fn every_address_from_before_has_its_line_until_there_are_too_many() {
        let mut status: IpamStatus = serde_json::from_value(serde_json::json!({
            "range": "10.32.0.0/12", "slot_size": 16, "ranges": [], "owned": 0, "free": 0, "used": [], "lent": 0,
            "borrowed": 0, "resting": 0, "waiting": [], "epoch": 2, "epoch_members": 2, "hindrance": null,
            "total": 1_048_576, "owners": [],
        }))
        .unwrap();
        let render = |status: &IpamStatus| {
            let mut out = String::new();
            write_summary(&mut out, status).unwrap();
            write_addresses(&mut out, status).unwrap();
            out
        };
        assert_eq!(render(&status), "");
        let used = |last: u8| UsedAddress {
            address: [10, 32, 0, last].into(),
            id: format!("pod-{last}"),
        };
        status.kept = vec![used(1), used(2)];
        let unclaimed = |last: u8, refusal: Option<&str>| Unclaimed {
            address: [10, 32, 0, last].into(),
            id: format!("pod-{last}"),
            refusal: refusal.map(str::to_owned),
            holder: refusal.map(|_| HostName {
                node: "0".repeat(64),
                name: "d".into(),
            }),
        };
        status.unclaimed = vec![
            unclaimed(3, Some("address 10.32.0.3 is in use: host d has it")),
            unclaimed(4, None),
        ];
        assert_eq!(
            render(&status),
            "from before 2 addresses of pods kept, 1 refused, 1 being asked for\n\
             unclaimed   10.32.0.3  pod-3: address 10.32.0.3 is in use: host d has it\n\
             unclaimed   10.32.0.4  pod-4: being asked for\n\
             kept        10.32.0.1  pod-1\n\
             kept        10.32.0.2  pod-2\n"
        );
        status.kept = (0..200).map(used).collect();
        let screen = render(&status);
        assert_eq!(screen.lines().count(), LINES_SHOWN + 2, "{screen}");
        assert!(screen.ends_with("and 182 more: weft ipam --json\n"), "{screen}");
    }
}
