//! Rules of ours in the packet filters of a host, each test in a network namespace of its own.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Stdio};
use std::time::Duration;

use weft_fastpath::firewall::{Pass, Repair};
use weft_fastpath_driver::{Driver, FirewallWatch, Removed};
use weft_kernel::Namespace;

/// What is awaited comes within milliseconds.
const SOON: Duration = Duration::from_secs(10);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(200);

fn driver() -> Driver {
    Driver::new("weft", "weft-tap").unwrap()
}

/// Runs a program of Debian's in a namespace.
fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new("/usr/sbin/".to_owned() + words.next().unwrap());
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = namespace
        .spawn(command)
        .unwrap_or_else(|error| panic!("{error}: install the Debian packages nftables and iptables"));
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn everything(namespace: &Namespace) -> String {
    let parts = ["nft list ruleset", "iptables-legacy -S", "ip6tables-legacy -S"];
    parts.map(|line| run(namespace, line)).concat()
}

#[test]
fn every_chain_that_drops_by_policy_gets_rules_and_loses_them() {
    let namespace = Namespace::new().unwrap();
    for line in [
        "iptables-nft -P FORWARD DROP",
        "iptables-nft -A FORWARD -i docker0 -j ACCEPT",
        "ip6tables-nft -P FORWARD DROP",
        "iptables-legacy -P FORWARD DROP",
        "ip6tables-legacy -P FORWARD DROP",
        "nft add table inet t",
        "nft add chain inet t c { type filter hook forward priority 0 ; policy drop ; }",
        "nft add chain inet t fine { type filter hook forward priority 1 ; policy accept ; }",
        "nft add table bridge t",
        "nft add chain bridge t c { type filter hook forward priority 0 ; policy drop ; }",
    ] {
        run(&namespace, line);
    }
    let before = everything(&namespace);
    let guard = || namespace.run(|| driver().guard_blocking()).unwrap().unwrap();
    let first = guard();
    let allowed = first
        .repairs
        .iter()
        .filter(|repair| matches!(repair, Repair::Allow(..)));
    assert_eq!((first.repairs.len(), allowed.count()), (8, 8), "{first:?}");
    assert_eq!(first.findings.len(), 6, "{first:?}");
    assert!(
        first
            .findings
            .iter()
            .all(|text| text.contains("weft: frames between pods")),
        "{first:?}"
    );
    let second = guard();
    assert_eq!((second.repairs, &second.findings), (Vec::new(), &first.findings));

    // Doubled, spoilt or lost, a rule is set right.
    run(
        &namespace,
        "iptables-nft -I FORWARD -i weft -o weft -m comment --comment x -j ACCEPT",
    );
    let spoilt = "nft insert rule ip filter FORWARD iifname other accept comment \"weft:\u{20}frames\u{20}between\u{20}pods\"";
    let mut command = Command::new("/usr/sbin/nft");
    command.arg(spoilt.strip_prefix("nft ").unwrap());
    assert!(namespace.spawn(command).unwrap().wait().unwrap().success());
    // Somebody else's rule does it now: ours goes, with the spoilt one.
    assert!(matches!(&guard().repairs[..], [Repair::Withdraw(_)]));
    run(
        &namespace,
        "iptables-nft -D FORWARD -i weft -o weft -m comment --comment x -j ACCEPT",
    );
    assert!(matches!(&guard().repairs[..], [Repair::Allow(_, Pass::Overlay)]));
    run(&namespace, "iptables-legacy -F FORWARD");
    assert!(matches!(&guard().repairs[..], [Repair::Allow(_, Pass::Overlay)]));
    // Nothing drops any more, so nothing of ours is needed.
    run(&namespace, "ip6tables-legacy -P FORWARD ACCEPT");
    assert!(matches!(&guard().repairs[..], [Repair::Withdraw(_)]));
    run(&namespace, "ip6tables-legacy -P FORWARD DROP");
    guard();

    let removed = namespace.run(|| driver().remove_blocking()).unwrap().unwrap();
    assert_eq!(
        removed,
        Removed {
            chains: 6,
            ..Removed::default()
        }
    );
    assert_eq!(everything(&namespace), before);
}

#[test]
fn a_table_that_a_program_keeps_for_itself_is_named_with_the_cure() {
    let namespace = Namespace::new().unwrap();
    let mut owner = Command::new("/usr/sbin/nft");
    owner.arg("-i").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut owner = namespace.spawn(owner).unwrap();
    let watch_owner = |lines: &str| {
        use std::io::Write as _;
        owner.stdin.as_ref().unwrap().write_all(lines.as_bytes()).unwrap();
    };
    watch_owner(
        "add table inet kept { flags owner ; }\nadd chain inet kept c { type filter hook forward priority 0 ; policy drop ; }\n",
    );
    let guard = || namespace.run(|| driver().guard_blocking()).unwrap().unwrap();
    let end = std::time::Instant::now() + SOON;
    let findings = loop {
        let found = guard().findings;
        if found.len() == 2 {
            break found;
        }
        assert!(std::time::Instant::now() < end, "{found:?}");
        std::thread::yield_now();
    };
    assert!(
        findings[1].contains("--zone=trusted --add-interface=weft"),
        "{findings:?}"
    );
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

#[test]
fn only_what_changes_rules_wakes_up() {
    let namespace = Namespace::new().unwrap();
    run(&namespace, "nft add table inet t");
    run(&namespace, "nft add set inet t s { type ipv4_addr ; }");
    namespace
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut watch = FirewallWatch::open().unwrap();
                run(&namespace, "nft add element inet t s { 192.0.2.1 }");
                tokio::time::timeout(QUIET, watch.changed()).await.unwrap_err();
                for line in [
                    "nft add chain inet t c { type filter hook forward priority 0 ; }",
                    "nft flush ruleset",
                    "iptables-nft -P FORWARD DROP",
                ] {
                    let mut watch = FirewallWatch::open().unwrap();
                    run(&namespace, line);
                    tokio::time::timeout(SOON, watch.changed())
                        .await
                        .unwrap()
                        .unwrap();
                }
            });
        })
        .unwrap();
}
