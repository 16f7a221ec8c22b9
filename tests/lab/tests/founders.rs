//! Real routers that make a cluster together, started at once.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use weft_lab::{Api, Host, Lab, Router, Switch};
use weft_wire::api::{ClusterStatus, NodeRole, Status};

const SOON: Duration = Duration::from_secs(20);

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

fn genesis(status: &Status) -> String {
    match &status.cluster {
        ClusterStatus::Member { genesis, .. } => genesis.clone(),
        other => panic!("{other:?}"),
    }
}

/// Hosts without routers, and what each `weft up` of them gets: one command line for all.
struct Story {
    lab: Lab,
    _switch: Switch,
    hosts: Vec<Host>,
    token: PathBuf,
}

impl Story {
    fn new(label: &str, names: &[&str]) -> Self {
        let lab = Lab::new(label).unwrap();
        let switch = lab.switch().unwrap();
        let hosts: Vec<Host> = names
            .iter()
            .map(|name| lab.host(name).on(&switch).build().unwrap())
            .collect();
        // As the operator makes it, before there is any host of a cluster.
        let made = hosts[0].weft(["token", "--generate"]).unwrap().success().unwrap();
        let token = lab.secret_file("token", made.stdout.trim()).unwrap();
        Self {
            lab,
            _switch: switch,
            hosts,
            token,
        }
    }

    fn up(&self, host: &Host, more: &[&str]) -> Router {
        let peers: Vec<String> = self
            .hosts
            .iter()
            .map(|host| host.address().unwrap().to_string())
            .collect();
        let (peers, token) = (peers.join(","), self.token.to_str().unwrap());
        host.up([&["--peer", &peers, "--token-file", token], more].concat())
            .unwrap()
    }
}

#[test]
fn three_hosts_started_at_once_make_one_cluster_of_thirds() {
    let story = Story::new("founders", &["a", "b", "c", "d"]);
    let (late, together) = story.hosts.split_last().unwrap();
    let routers: Vec<Router> = together
        .iter()
        .map(|host| story.up(host, &["--expect", "3"]))
        .collect();
    let statuses: Vec<Status> = routers
        .iter()
        .map(|router| router.wait_until("it is a member", SOON, is_member).unwrap())
        .collect();
    let clusters: BTreeSet<String> = statuses.iter().map(genesis).collect();
    assert_eq!(clusters.len(), 1);
    // 65,536 slots of 16 addresses; the first and the last address are nobody's.
    for status in &statuses {
        let owned = status.ipam.as_ref().unwrap().owned;
        assert!(
            (349_488..=349_536).contains(&owned),
            "{} owns {owned}",
            status.name
        );
    }
    for router in &routers {
        router.wait_for_peers(2, SOON).unwrap();
        assert!(
            router.log_tail().contains("member of the cluster"),
            "{}",
            router.log_tail()
        );
    }
    let pods: Vec<_> = together
        .iter()
        .map(|host| host.pod_any(&format!("pod{}", host.name())).unwrap())
        .collect();
    for pod in &pods[1..] {
        let report = pod.ping(pods[0].address().unwrap(), 3).unwrap();
        assert!(!report.answers.is_empty(), "{report:?}");
    }
    // Whoever comes late with the same command line is let in.
    let router = story.up(late, &["--expect", "3"]);
    let status = router.wait_until("it is let in", SOON, is_member).unwrap();
    assert!(clusters.contains(&genesis(&status)));
    assert!(matches!(status.cluster, ClusterStatus::Member { members: 4, .. }));
}

#[test]
fn a_waiting_host_says_for_whom_and_two_that_differ_name_each_other() {
    let story = Story::new("waiting", &["a", "b", "c"]);
    let [a, b, c] = [0, 1, 2].map(|at| &story.hosts[at]);
    let first = story.up(a, &["--seed", "a,b"]);
    let waits = |words: &'static str| {
        move |status: &Status| match &status.cluster {
            ClusterStatus::Agreeing {
                reason, differing, ..
            } => reason.contains(words) || differing.iter().any(|one| one.contains(words)),
            _ => false,
        }
    };
    first
        .wait_until(
            "it waits for b",
            SOON,
            waits("waiting for 1 of 2 expected hosts: b"),
        )
        .unwrap();
    let shown = a
        .weft(["status", "--socket", a.socket().to_str().unwrap()])
        .unwrap()
        .success()
        .unwrap();
    assert!(
        shown
            .stdout
            .contains("cluster     none yet: waiting for 1 of 2 expected hosts: b"),
        "{}",
        shown.stdout
    );
    assert!(
        first.log_tail().contains("waiting for 1 of 2 expected hosts: b"),
        "{}",
        first.log_tail()
    );
    // Told something else: both say what, and what to do.
    let second = story.up(b, &["--expect", "2"]);
    first
        .wait_until(
            "it names what b was told",
            SOON,
            waits("b: it was started with --expect 2"),
        )
        .unwrap();
    second
        .wait_until(
            "it names what a was told",
            SOON,
            waits("a: it was started with --seed a,b"),
        )
        .unwrap();
    drop(second);
    // An observer waits meanwhile, and is let in.
    let observer = story.up(c, &["--seed", "a,b", "--observer"]);
    let second = story.up(b, &["--seed", "a,b"]);
    let of = |router: &Router| genesis(&router.wait_until("it is a member", SOON, is_member).unwrap());
    let cluster = of(&first);
    assert_eq!(of(&second), cluster);
    assert_eq!(of(&observer), cluster);
    let address = Api::connect(c).unwrap().allocate("pod").unwrap();
    let status = observer.status().unwrap();
    let ipam = status.ipam.unwrap();
    assert_eq!(status.role, NodeRole::Observer);
    assert_eq!((ipam.owned, ipam.borrowed), (0, 1), "{address}");
    drop(story.lab);
}

#[test]
fn contradicting_options_are_refused_with_the_cure() {
    let story = Story::new("contradict", &["a"]);
    let a = &story.hosts[0];
    let token = story.token.to_str().unwrap();
    for (arguments, words) in [
        (
            &["--expect", "3", "--peer", "192.0.2.1"][..],
            "weft token --generate",
        ),
        (&["--expect", "3", "--token-file", token], "at least one --peer"),
        (&["--expect", "3", "--found"], "contradict"),
        (&["--observer"], "cannot make a cluster"),
    ] {
        let router = a.up(arguments).unwrap();
        let ended = router.wait(SOON).unwrap().expect("it is refused");
        assert!(!ended.success(), "{arguments:?}");
        assert!(
            router.log_tail().contains(words),
            "{arguments:?}: {}",
            router.log_tail()
        );
        assert!(
            !a.state_dir().join("state").exists(),
            "{arguments:?} leaves an identity behind"
        );
    }
}
