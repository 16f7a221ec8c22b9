//! Rules of our own in the chains of others, seen and left in peace by `nft` and both forms of iptables.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use weft_kernel::nft::{self, Condition, Family, ForwardChain, Pattern, Policy, Verdict};
use weft_kernel::xtables::{self, Version};
use weft_kernel::{Error, Namespace};

const COMMENT: &str = "weft: a test";

/// Runs a program of Debian's in a namespace.
fn run(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().unwrap();
    let mut command = Command::new("/usr/sbin/".to_owned() + program);
    command.args(words);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let child = namespace
        .spawn(command)
        .unwrap_or_else(|error| panic!("{error}: install the Debian packages nftables and iptables"));
    let output = child.wait_with_output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{line}: {text}");
    text
}

fn between() -> [Condition; 2] {
    [
        Condition::In(Pattern::Exactly("weft".into())),
        Condition::Out(Pattern::Exactly("weft".into())),
    ]
}

fn chains(namespace: &Namespace) -> Vec<ForwardChain> {
    namespace.run(nft::forward_chains).unwrap().unwrap()
}

#[test]
fn an_empty_namespace_has_no_chain_and_gets_none() {
    let namespace = Namespace::new().unwrap();
    assert_eq!(chains(&namespace), []);
    for version in [Version::V4, Version::V6] {
        assert_eq!(
            namespace.run(|| xtables::forward(version)).unwrap().unwrap(),
            None
        );
    }
    assert_eq!(run(&namespace, "nft list ruleset"), "");
    let names = namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names"))
        .unwrap();
    assert_eq!(names.unwrap_or_default(), "", "looking has made a table");
}

#[test]
fn a_rule_among_those_of_iptables_nft() {
    let namespace = Namespace::new().unwrap();
    for (program, family) in [("iptables-nft", Family::Ip), ("ip6tables-nft", Family::Ip6)] {
        run(&namespace, &format!("{program} -P FORWARD DROP"));
        run(
            &namespace,
            &format!("{program} -A FORWARD -i a+ ! -o b -j REJECT"),
        );
        run(
            &namespace,
            &format!("{program} -A FORWARD -m comment --comment x -j DROP"),
        );
        let show = || run(&namespace, &format!("{program} -S"));
        let before = (show(), run(&namespace, "nft list ruleset"));
        let [chain] = &chains(&namespace)
            .into_iter()
            .filter(|chain| chain.family == family)
            .collect::<Vec<_>>()[..]
        else {
            panic!("one chain")
        };
        assert_eq!((chain.name.as_str(), chain.policy), ("FORWARD", Policy::Drop));
        let rules = || namespace.run(|| nft::rules(chain)).unwrap().unwrap();
        let [reject, drop] = &rules()[..] else {
            panic!("two rules")
        };
        assert_eq!(reject.verdict, Verdict::Drop);
        assert_eq!(
            reject.conditions,
            [Condition::In(Pattern::Prefix("a".into())), Condition::Other]
        );
        assert_eq!((&drop.conditions[..], drop.verdict), (&[][..], Verdict::Drop));

        namespace
            .run(|| nft::insert_accept(chain, &between(), COMMENT))
            .unwrap()
            .unwrap();
        let ours = rules()[0].clone();
        assert_eq!(ours.comment.as_deref(), Some(COMMENT));
        assert_eq!(
            (&ours.conditions[..], ours.verdict),
            (&between()[..], Verdict::Accept)
        );
        let shown = show();
        assert!(
            shown.contains(&format!(
                "-A FORWARD -i weft -o weft -m comment --comment \"{COMMENT}\" -j ACCEPT\n-A FORWARD -i a+"
            )),
            "{shown}"
        );
        // What iptables saves, it can load again.
        let saved = run(&namespace, &format!("{program}-save"));
        assert!(saved.contains("-i weft -o weft"), "{saved}");

        let delete = || {
            namespace
                .run(|| nft::delete_rule(chain, ours.handle))
                .unwrap()
                .unwrap()
        };
        assert!(delete() && !delete());
        assert_eq!((show(), run(&namespace, "nft list ruleset")), before);
    }
}

#[test]
fn rules_in_tables_of_nft_and_of_a_bridge() {
    let namespace = Namespace::new().unwrap();
    for (family, name) in [(Family::Inet, "inet"), (Family::Bridge, "bridge")] {
        run(&namespace, &format!("nft add table {name} t"));
        run(
            &namespace,
            &format!("nft add chain {name} t c {{ type filter hook forward priority 0 ; policy drop ; }}"),
        );
        run(&namespace, &format!("nft add chain {name} t other"));
        run(
            &namespace,
            &format!("nft add chain {name} t in {{ type filter hook input priority 0 ; policy drop ; }}"),
        );
        let all = chains(&namespace);
        let [chain] = &all
            .iter()
            .filter(|chain| chain.family == family)
            .collect::<Vec<_>>()[..]
        else {
            panic!("{all:?}")
        };
        let conditions = [Condition::In(Pattern::Prefix("vw".into()))];
        namespace
            .run(|| nft::insert_accept(chain, &conditions, COMMENT))
            .unwrap()
            .unwrap();
        let shown = run(&namespace, &format!("nft list chain {name} t c"));
        assert!(
            shown.contains("iifname \"vw*\" counter packets 0 bytes 0 accept comment \"weft: a test\""),
            "{shown}"
        );
        run(&namespace, &format!("nft delete table {name} t"));
        assert_eq!(namespace.run(|| nft::rules(chain)).unwrap().unwrap(), []);
        let refused = namespace
            .run(|| nft::insert_accept(chain, &conditions, COMMENT))
            .unwrap()
            .unwrap_err();
        assert!(refused.to_string().contains("chain c of table"), "{refused}");
    }
    run(&namespace, "ebtables-nft -P FORWARD DROP");
    let all = chains(&namespace);
    assert_eq!(
        (all[0].family, all[0].policy),
        (Family::Bridge, Policy::Drop),
        "{all:?}"
    );
    let conditions = [Condition::In(Pattern::Exactly("weft-tap".into()))];
    namespace
        .run(|| nft::insert_accept(&all[0], &conditions, COMMENT))
        .unwrap()
        .unwrap();
    let shown = run(&namespace, "ebtables-nft -L FORWARD");
    assert!(shown.contains("-i weft-tap -j ACCEPT"), "{shown}");
}

#[test]
fn a_rule_among_those_of_iptables_legacy() {
    let namespace = Namespace::new().unwrap();
    for (program, version) in [
        ("iptables-legacy", Version::V4),
        ("ip6tables-legacy", Version::V6),
    ] {
        for rule in [
            "-P FORWARD DROP",
            "-N FIRST",
            "-N SECOND",
            "-A FIRST -i x",
            "-A FIRST -j SECOND",
            "-A SECOND -p tcp -j ACCEPT",
            "-A INPUT -i lo",
            "-A INPUT -j FIRST",
            "-A OUTPUT -j SECOND",
        ] {
            run(&namespace, &format!("{program} {rule}"));
        }
        let forward = || {
            namespace
                .run(|| xtables::forward(version))
                .unwrap()
                .unwrap()
                .unwrap()
        };
        let show = || run(&namespace, &format!("{program} -S"));
        let insert = || {
            namespace
                .run(|| xtables::insert_accept(version, &between(), COMMENT))
                .unwrap()
                .unwrap()
        };
        let delete = || {
            namespace
                .run(|| xtables::delete_marked(version, COMMENT))
                .unwrap()
                .unwrap()
        };
        let ours = "-A FORWARD -i weft -o weft -m comment --comment \"weft: a test\" -j ACCEPT\n";
        // Once in an empty chain, once among rules that jump, fall through and reject.
        for rule in [
            "-A FORWARD -j FIRST",
            "-A FORWARD -i y",
            "-A FORWARD -s ::/0 -j REJECT",
            "-A FORWARD -o z -j DROP",
        ] {
            let before = show();
            assert_eq!(forward().policy, Policy::Drop);
            insert();
            insert();
            assert_eq!(show().replacen(ours, "", 2), before);
            let first = forward().rules[0].clone();
            assert_eq!(
                (&first.conditions[..], first.verdict),
                (&between()[..], Verdict::Accept)
            );
            assert_eq!(first.comment.as_deref(), Some(COMMENT));
            assert_eq!((delete(), delete()), (2, 0));
            assert_eq!(show(), before);
            run(
                &namespace,
                &format!(
                    "{program} {}",
                    if program == "iptables-legacy" {
                        rule.replace("::/0", "0/0")
                    } else {
                        rule.into()
                    }
                ),
            );
        }
        let [.., reject, last] = &forward().rules[..] else {
            panic!("rules")
        };
        assert_eq!((&reject.conditions[..], reject.verdict), (&[][..], Verdict::Drop));
        assert_eq!(
            (&last.conditions[..], last.verdict),
            (&[Condition::Out(Pattern::Exactly("z".into()))][..], Verdict::Drop)
        );
        // Counters go on where they were.
        run(
            &namespace,
            &format!("{program} -A OUTPUT -c 7 700 -d ::1 -j ACCEPT").replace(
                "::1",
                if version == Version::V4 {
                    "127.0.0.1"
                } else {
                    "::1"
                },
            ),
        );
        insert();
        let counted = run(&namespace, &format!("{program} -nvxL OUTPUT"));
        assert!(counted.contains("       7      700 ACCEPT"), "{counted}");
        delete();
        let counted = run(&namespace, &format!("{program} -nvxL OUTPUT"));
        assert!(counted.contains("       7      700 ACCEPT"), "{counted}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let namespace = Namespace::new().unwrap();
    run(&namespace, "iptables-nft -P FORWARD DROP");
    run(&namespace, "iptables-legacy -P FORWARD DROP");
    let chain = chains(&namespace).remove(0);
    let long = "x".repeat(300);
    let name = [Condition::In(Pattern::Exactly("a name that is too long".into()))];
    for (conditions, comment) in [
        (&between()[..], long.as_str()),
        (&name, COMMENT),
        (&[Condition::Other], COMMENT),
    ] {
        let nft = namespace
            .run(|| nft::insert_accept(&chain, conditions, comment))
            .unwrap();
        let legacy = namespace
            .run(|| xtables::insert_accept(Version::V4, conditions, comment))
            .unwrap();
        for refused in [nft, legacy] {
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        }
    }
}
