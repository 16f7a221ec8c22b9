//! `weft multicast`: which hosts get the frames of which groups.

use crate::api::client::Client;
use crate::cli::StatusArgs;
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use weft_wire::api::{GroupStatus, MulticastStatus};

/// Groups that the screen shows; all are in the JSON.
const GROUPS_SHOWN: usize = 40;
/// Hosts of a group that the screen names.
const HOSTS_SHOWN: usize = 8;

pub(crate) fn multicast(args: &StatusArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.router.socket);
    let status: MulticastStatus =
        super::block_on(super::ASKING, async { client.get("/v1/multicast").await })?;
    super::print(args.router.json, &status, render(&status).trim_end())
}

fn render(status: &MulticastStatus) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_screen(&mut out, status);
    out
}

fn write_screen(out: &mut String, status: &MulticastStatus) -> std::fmt::Result {
    for host in &status.everything {
        let here = if host.here { " (here)" } else { "" };
        writeln!(out, "{}{here} gets all multicast: {}", host.host, host.reason)?;
    }
    if status.groups.is_empty() {
        return writeln!(
            out,
            "no pod listens to a multicast group, but for those that go to every host"
        );
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["GROUP", "LISTENERS ON"]);
    for group in status.groups.iter().take(GROUPS_SHOWN) {
        table.add_row([group.group.to_string(), hosts(group)]);
    }
    writeln!(out, "{table}")?;
    if status.groups.len() > GROUPS_SHOWN {
        let rest = status.groups.len() - GROUPS_SHOWN;
        writeln!(out, "and {rest} more groups: weft multicast --json")?;
    }
    Ok(())
}

fn hosts(group: &GroupStatus) -> String {
    let here = group.here.then_some("here");
    let names = here.into_iter().chain(group.hosts.iter().map(String::as_str));
    let all: Vec<&str> = names.collect();
    match all.split_at_checked(HOSTS_SHOWN) {
        Some((shown, rest)) if !rest.is_empty() => {
            format!("{} and {} more", shown.join(", "), rest.len())
        }
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::api::EverythingStatus;

    #[test]
    fn the_screen_names_groups_hosts_and_who_gets_everything() {
        let group = |group: &str, here, hosts: &[&str]| GroupStatus {
            group: group.parse().unwrap(),
            here,
            hosts: hosts.iter().map(ToString::to_string).collect(),
        };
        let many: Vec<String> = (0..20).map(|n| format!("host{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let screen = render(&MulticastStatus {
            groups: vec![group("239.1.1.1", true, &["b"]), group("ff15::7", false, &many)],
            everything: vec![EverythingStatus {
                host: "c".into(),
                here: false,
                reason: "it runs with --multicast flood".into(),
            }],
        });
        assert!(
            screen.starts_with("c gets all multicast: it runs with --multicast flood\n"),
            "{screen}"
        );
        assert!(screen.contains("here, b"), "{screen}");
        assert!(screen.contains("host7 and 12 more"), "{screen}");
        let nothing = MulticastStatus {
            groups: vec![],
            everything: vec![],
        };
        assert!(
            render(&nothing).contains("no pod listens"),
            "{}",
            render(&nothing)
        );
    }
}
