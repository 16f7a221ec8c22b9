//! Hosts whose packet filters drop what is forwarded, as Docker leaves them: pods reach each other all the same.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::{Duration, Instant};

use weft_lab::{Host, Lab, PingPlan, Pod, Router, Underlay};
use weft_wire::api::ClusterStatus;

/// For anything that needs no timeout to pass first, and for one regular look at the filters.
const SOON: Duration = Duration::from_secs(15);
/// The kernel tells of a change in nf_tables; a router that only looked every five seconds would be later, mostly.
const TOLD: Duration = Duration::from_secs(4);
/// How our rule looks in iptables.
const OURS: &str = "-A FORWARD -i weft -o weft -m comment --comment \"weft: frames between pods\" -j ACCEPT";

fn run(host: &Host, line: &str) -> String {
    let (program, arguments) = line.split_once(' ').unwrap();
    host.run_program(program, arguments.split(' '))
        .unwrap()
        .success()
        .unwrap()
        .stdout
}

fn found(host: &Host) -> Router {
    let router = host.up(["--found"]).unwrap();
    let member = |status: &weft_wire::api::Status| matches!(status.cluster, ClusterStatus::Member { .. });
    router.wait_until("it is a member", SOON, member).unwrap();
    router
}

fn two_hosts(lab: &Lab, underlay: &dyn Underlay, rules: [&[&str]; 2]) -> [Host; 2] {
    let hosts = ["a", "b"].map(|name| lab.host(name).on(underlay).build().unwrap());
    for (host, rules) in hosts.iter().zip(rules) {
        rules.iter().for_each(|line| drop(run(host, line)));
    }
    hosts
}

fn join(lab: &Lab, host: &Host, member: &Router) -> Router {
    let token = lab.secret_file("token", &member.token().unwrap()).unwrap();
    let peer = member.host().address().unwrap().to_string();
    let router = host
        .up(["--peer", &peer, "--token-file", token.to_str().unwrap()])
        .unwrap();
    router.wait_for_peers(1, SOON).unwrap();
    router
}

fn reach(from: &Pod, to: &Pod) {
    from.ping_until(to.address().unwrap(), SOON).unwrap();
}

/// Several requests, and no answer.
fn assert_cut(from: &Pod, to: &Pod, why: &str) {
    let plan = PingPlan {
        count: 5,
        patience: Duration::from_millis(300),
        ..PingPlan::default()
    };
    let report = from.ping_with(to.address().unwrap(), &plan).unwrap();
    assert_eq!(report.lost(), 5, "{why}: {}", filters(from.host()));
}

/// Every rule of a host, without counters.
fn filters(host: &Host) -> String {
    let parts = ["nft -s list ruleset", "iptables-nft -S", "iptables-legacy -S"];
    parts.map(|line| run(host, line)).concat()
}

fn down(host: &Host) {
    let socket = host.socket().display().to_string();
    host.weft(["down", "--socket", &socket])
        .unwrap()
        .success()
        .unwrap();
}

#[test]
fn a_policy_that_drops_is_repaired_again_and_again_and_left_as_it_was() {
    let lab = Lab::new("forward").unwrap();
    let switch = lab.switch().unwrap();
    // Docker's habit on one host, in both forms of iptables; tables of their own on the other.
    let hosts = two_hosts(
        &lab,
        &switch,
        [
            &[
                "iptables-nft -N DOCKER-USER",
                "iptables-nft -A FORWARD -j DOCKER-USER",
                "iptables-nft -A FORWARD -o docker0 -j ACCEPT",
                "iptables-nft -P FORWARD DROP",
                "iptables-legacy -P FORWARD DROP",
            ],
            &[
                "nft add table inet strict",
                "nft add chain inet strict forward { type filter hook forward priority 0 ; policy drop ; }",
                "nft add rule inet strict forward ct state established accept",
                "nft add table bridge strict",
                "nft add chain bridge strict forward { type filter hook forward priority -200 ; policy drop ; }",
            ],
        ],
    );
    let before = hosts.each_ref().map(filters);
    let first = found(&hosts[0]);
    let second = join(&lab, &hosts[1], &first);
    let pods = [("a1", 0, 1), ("a2", 0, 2), ("b1", 1, 3), ("b2", 1, 4)]
        .map(|(name, host, last): (_, usize, _)| hosts[host].pod(name, [10, 32, 0, last]).unwrap());
    let [a1, a2, b1, b2] = &pods;
    for (from, to) in [(a1, a2), (b1, b2), (a1, b1), (b2, a2)] {
        reach(from, to);
    }
    assert!(run(&hosts[0], "iptables-nft -S FORWARD").starts_with(&format!("-P FORWARD DROP\n{OURS}\n")));
    for (router, chains) in [(&first, 2), (&second, 2)] {
        let said = router.status().unwrap().firewall;
        assert_eq!(said.len(), chains, "{said:?}");
        assert!(
            said.iter().all(|text| text.contains("drops what is forwarded")),
            "{said:?}"
        );
    }

    // Without our rules, and without a router that puts them back, not even pods of one host reach each other.
    for (router, from, to, flushes) in [
        (
            &first,
            a1,
            a2,
            ["iptables-nft -F FORWARD", "iptables-legacy -F FORWARD"],
        ),
        (
            &second,
            b1,
            b2,
            [
                "nft flush chain inet strict forward",
                "nft flush chain bridge strict forward",
            ],
        ),
    ] {
        router.stop().unwrap();
        reach(from, to);
        // Either of the two chains cuts, alone.
        for (flush, other) in flushes.iter().zip(flushes.iter().rev()) {
            run(router.host(), flush);
            assert_cut(from, to, flush);
            router.restart().unwrap();
            router.wait_ready(SOON).unwrap();
            reach(from, to);
            router.stop().unwrap();
            run(router.host(), other);
            assert_cut(from, to, other);
            router.restart().unwrap();
            router.wait_ready(SOON).unwrap();
            reach(from, to);
            router.stop().unwrap();
        }
        router.restart().unwrap();
    }
    reach(a1, b1);

    // A running router is told.
    for (host, from, to, flush) in [
        (&hosts[0], a1, a2, "iptables-nft -F"),
        (&hosts[1], b1, b2, "nft flush ruleset"),
    ] {
        run(host, flush);
        let begin = Instant::now();
        reach(from, to);
        assert!(begin.elapsed() < TOLD, "{:?}", begin.elapsed());
    }
    // And looks, where the kernel does not tell.
    run(&hosts[0], "iptables-legacy -F FORWARD");
    reach(a1, a2);

    // What is no longer needed goes by itself; what is left goes with weft.
    run(&hosts[0], "iptables-nft -P FORWARD ACCEPT");
    let gone = |_: &_| !run(&hosts[0], "iptables-nft -S FORWARD").contains("weft");
    first.wait_until("its rule is gone", SOON, gone).unwrap();
    run(&hosts[0], "iptables-nft -P FORWARD DROP");
    for line in [
        "iptables-nft -A FORWARD -j DOCKER-USER",
        "iptables-nft -A FORWARD -o docker0 -j ACCEPT",
    ] {
        run(&hosts[0], line);
    }
    let back = |_: &_| run(&hosts[0], "iptables-nft -S FORWARD").contains("weft");
    first.wait_until("its rule is back", SOON, back).unwrap();
    pods.iter().for_each(|pod| pod.detach().unwrap());
    hosts.iter().for_each(down);
    assert_eq!(filters(&hosts[0]), before[0]);
    // The other host's rules were flushed for good above.
    assert_eq!(filters(&hosts[1]).matches("weft").count(), 0);
}

#[test]
fn weft_down_leaves_the_tables_of_others_as_they_were() {
    let lab = Lab::new("untouched").unwrap();
    let host = lab.host("a").on(&lab.switch().unwrap()).build().unwrap();
    for line in [
        "nft add table inet strict",
        "nft add chain inet strict forward { type filter hook forward priority 0 ; policy drop ; }",
        "nft add rule inet strict forward tcp dport 22 counter accept",
        "nft add table bridge strict",
        "nft add chain bridge strict forward { type filter hook forward priority -200 ; policy drop ; }",
        "ip6tables-nft -P FORWARD DROP",
        "ip6tables-legacy -P FORWARD DROP",
    ] {
        run(&host, line);
    }
    let before = (filters(&host), run(&host, "ip6tables-legacy -S"));
    let router = found(&host);
    assert_eq!(router.status().unwrap().firewall.len(), 4);
    assert_ne!(filters(&host), before.0);
    // Stopped is not down: bridge and pods stay, so the rules stay.
    router.stop().unwrap();
    assert!(filters(&host).contains("weft: frames between pods"));
    down(&host);
    assert_eq!(filters(&host), before.0);
    assert_eq!(run(&host, "ip6tables-legacy -S"), before.1);
}

#[test]
fn a_rule_that_drops_is_named_with_the_command_that_cures_it() {
    let lab = Lab::new("ruled").unwrap();
    let host = lab.host("a").on(&lab.switch().unwrap()).build().unwrap();
    for line in [
        "nft add table inet strict",
        "nft add chain inet strict forward { type filter hook forward priority 0 ; policy accept ; }",
        "nft add rule inet strict forward iifname eth7 accept",
        "nft add rule inet strict forward counter drop",
    ] {
        run(&host, line);
    }
    let before = filters(&host);
    let router = found(&host);
    let [one, two] = [("a1", 1), ("a2", 2)].map(|(name, last)| host.pod(name, [10, 32, 0, last]).unwrap());
    assert_cut(&one, &two, "a rule drops");
    assert_eq!(filters(&host), before);
    let said = router.status().unwrap().firewall;
    let [sentence] = &said[..] else { panic!("{said:?}") };
    let (_, cure) = sentence.rsplit_once("pass: ").unwrap();
    run(&host, cure);
    reach(&one, &two);
    router
        .wait_until("nothing is said any more", SOON, |status| {
            status.firewall.is_empty()
        })
        .unwrap();
}

#[test]
fn nothing_is_touched_while_bridged_frames_pass_unseen() {
    let lab = Lab::new("unseen").unwrap();
    let switch = lab.switch().unwrap();
    let rules: &[&str] = &["iptables-nft -P FORWARD DROP"];
    let hosts = two_hosts(&lab, &switch, [rules, rules]);
    for host in &hosts {
        for tables in ["iptables", "ip6tables"] {
            host.namespace()
                .run(|| weft_kernel::sysctl::set(&format!("net/bridge/bridge-nf-call-{tables}"), "0"))
                .unwrap()
                .unwrap();
        }
    }
    let first = found(&hosts[0]);
    let second = join(&lab, &hosts[1], &first);
    let [a1, a2, b1] = [("a1", 0, 1), ("a2", 0, 2), ("b1", 1, 3)]
        .map(|(name, host, last): (_, usize, _)| hosts[host].pod(name, [10, 32, 0, last]).unwrap());
    for (from, to) in [(&a1, &a2), (&a1, &b1)] {
        reach(from, to);
    }
    for router in [&first, &second] {
        assert_eq!(router.status().unwrap().firewall, [] as [String; 0]);
        assert!(!filters(router.host()).contains("weft"));
    }
    // Docker starts, and with it br_netfilter.
    hosts[0]
        .namespace()
        .run(|| weft_kernel::sysctl::set("net/bridge/bridge-nf-call-iptables", "1"))
        .unwrap()
        .unwrap();
    let repaired = |status: &weft_wire::api::Status| status.firewall.len() == 1;
    first.wait_until("it has looked", SOON, repaired).unwrap();
    reach(&a1, &a2);
}
