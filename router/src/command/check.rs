//! `weft ipam check`: what is wrong with the addresses of this host, and what to do.

use crate::api::client::Client;
use crate::cli::IpamArgs;
use std::fmt::Write as _;
use std::process::ExitCode;
use weft_wire::api::IpamCheck;

/// Findings that the screen shows; all are in the JSON.
const FINDINGS_SHOWN: usize = 20;

/// Fails when something is wrong, or could not be looked at.
pub(super) fn check(args: &IpamArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let found: IpamCheck = super::block_on("checking the addresses", async {
        client.get("/v1/ipam/check").await
    })?;
    super::print(args.json, &found, render(&found).trim_end())?;
    match wrong(&found) + found.unchecked.len() {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn wrong(found: &IpamCheck) -> usize {
    found.findings.iter().filter(|finding| finding.wrong).count()
}

fn render(found: &IpamCheck) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_screen(&mut out, found);
    out
}

fn write_screen(out: &mut String, found: &IpamCheck) -> std::fmt::Result {
    for finding in found.findings.iter().take(FINDINGS_SHOWN) {
        let label = if finding.wrong { "wrong" } else { "note" };
        writeln!(out, "{label:<11} {}", finding.what)?;
        writeln!(out, "{:<11} {}", "  cure", finding.cure)?;
    }
    if found.findings.len() > FINDINGS_SHOWN {
        writeln!(
            out,
            "and {} more: weft ipam check --json",
            found.findings.len() - FINDINGS_SHOWN
        )?;
    }
    for why in &found.unchecked {
        writeln!(out, "not checked {why}")?;
    }
    let verdict = match (wrong(found), found.unchecked.len()) {
        (0, 0) => "all is well".to_owned(),
        (0, _) => "nothing is wrong where it could be looked at".to_owned(),
        (1, _) => "1 thing is wrong".to_owned(),
        (wrong, _) => format!("{wrong} things are wrong"),
    };
    writeln!(
        out,
        "checked     {}, {}, the records of {} and the state file: {verdict}",
        count(found.pods, "pod", "pods"),
        count(found.addresses, "held address", "held addresses"),
        count(found.hosts, "other host", "other hosts")
    )
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::api::IpamFinding;

    #[test]
    fn the_worst_comes_with_its_cure_and_all_fits_one_screen() {
        let mut found = IpamCheck {
            findings: Vec::new(),
            pods: 1,
            addresses: 2,
            hosts: 0,
            unchecked: Vec::new(),
        };
        assert_eq!(
            render(&found),
            "checked     1 pod, 2 held addresses, the records of 0 other hosts and the state file: all is well\n"
        );
        found.unchecked.push("the state file: the disk is full".into());
        assert!(render(&found).contains("not checked the state file: the disk is full\n"));
        let finding = |number: u32| IpamFinding {
            kind: "leaked".into(),
            wrong: number < 30,
            what: format!("what {number}"),
            cure: format!("cure {number}"),
        };
        found.findings = (0..40).map(finding).collect();
        let screen = render(&found);
        for part in [
            "wrong       what 0\n  cure      cure 0\n",
            "and 20 more: weft ipam check --json",
            "30 things are wrong",
        ] {
            assert!(screen.contains(part), "{part} is missing in:\n{screen}");
        }
        assert!(screen.lines().count() <= 45, "{screen}");
    }
}
