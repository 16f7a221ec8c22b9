//! `weft down --leave`: a host goes for good, and its addresses stay with those who remain.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::Duration;

use weft_lab::{Api, Host, Lab, Router, Schema};
use weft_wire::api::{ClusterStatus, IpamOwner, Status, TakenDown};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);

/// What a command that has to fail says.
fn refusal(host: &Host, arguments: &[&str]) -> String {
    let output = host.ask(arguments).unwrap();
    assert!(!output.status.success(), "{}", output.stdout);
    output.stderr
}

fn owner(seen_by: &Host, node: &str) -> Option<IpamOwner> {
    let owners = Api::connect(seen_by).unwrap().ipam().unwrap().owners;
    owners.into_iter().find(|owner| owner.node == node)
}

fn node(router: &Router) -> String {
    router
        .wait_until("it is a member", SOON, |status| {
            matches!(status.cluster, ClusterStatus::Member { .. })
        })
        .unwrap()
        .node
}

#[test]
fn a_host_that_leaves_hands_its_addresses_on() {
    let lab = Lab::new("leave").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c"], &[], SOON).unwrap();
    let [a, b, c] = &routers[..] else { unreachable!() };
    let owns = |router: &Router, least: u64| {
        let id = node(router);
        let enough = |_: &Status| owner(a.host(), &id).is_some_and(|owner| owner.addresses >= least);
        router
            .wait_until("it owns a part of the range", SOON, enough)
            .unwrap();
    };
    owns(b, 1);
    owns(c, 1);

    // Nothing happens while pods are attached, or anything else holds an address.
    let pod = c.host().pod_any("web").unwrap();
    let said = refusal(c.host(), &["down", "--leave"]);
    assert!(said.contains("1 pod is still attached: web"), "{said}");
    pod.detach().unwrap();
    c.host()
        .ask(&["ipam", "allocate", "db"])
        .unwrap()
        .success()
        .unwrap();
    let said = refusal(c.host(), &["down", "--leave"]);
    assert!(said.contains("still held here for db"), "{said}");
    c.host().ask(&["ipam", "free", "db"]).unwrap().success().unwrap();
    // Both addresses rest for a minute. Whoever does not wait stays a member, and gives out addresses as before.
    let said = refusal(c.host(), &["down", "--leave", "--deadline", "1"]);
    assert!(
        said.contains("rest for up to a minute") && said.contains("stays a member"),
        "{said}"
    );
    c.host()
        .ask(&["ipam", "allocate", "db"])
        .unwrap()
        .success()
        .unwrap();

    let before = node(b);
    let state = b.host().state_dir();
    let output = b
        .host()
        .ask(&["down", "--leave", "--json"])
        .unwrap()
        .success()
        .unwrap();
    Schema::published()
        .unwrap()
        .check("TakenDown", &output.stdout)
        .unwrap();
    let down: TakenDown = serde_json::from_str(&output.stdout).unwrap();
    let left = down.left.unwrap();
    assert!(left.done && left.handed > 0 && left.stays.is_empty(), "{left:?}");
    // The others have decided to go on without it: it is no voter any longer, and has no address.
    assert!(left.removed && left.waits_for.is_empty(), "{left:?}");
    let out = |status: &Status| {
        let ipam = Api::connect(a.host()).unwrap().ipam().unwrap();
        let is_removed = ipam.removed.iter().any(|host| host.node == before);
        members(status) == 2 && is_removed && ipam.epoch_members == 2 && ipam.removals.is_empty()
    };
    a.wait_until("the others are two", SOON, out).unwrap();
    assert!(b.wait(SOON).unwrap().unwrap().success());
    assert_eq!(
        down.identity_kept_at.unwrap(),
        state.join("state.left-the-cluster").display().to_string()
    );
    assert!(state.join("state.left-the-cluster").exists() && !state.join("state").exists());
    assert!(owner(a.host(), &before).is_none());
    let log = std::fs::read_to_string(b.host().log_file()).unwrap();
    assert!(!log.contains("It joins again by itself"), "{log}");
    let links = b
        .host()
        .namespace()
        .run(weft_kernel::link::list)
        .unwrap()
        .unwrap();
    assert!(
        links.iter().all(|link| !link.name.starts_with("weft")),
        "{links:?}"
    );
    // Who comes back is another host.
    b.restart().unwrap();
    owns(b, 1);
    assert_ne!(node(b), before);

    // Who does not wait for the addresses that rest is out with them; another host takes them over.
    let before = node(c);
    let said = c
        .host()
        .ask(&["down", "--leave", "--force", "--deadline", "4"])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    assert!(said.contains("addresses were not handed on in time"), "{said}");
    assert!(said.contains("it is no member any longer"), "{said}");
    a.wait_until("its last slot is another's", SOON, |status| {
        members(status) == 2 && owner(a.host(), &before).is_none()
    })
    .unwrap();
}

fn members(status: &Status) -> u32 {
    match &status.cluster {
        ClusterStatus::Member { members, .. } => *members,
        other => panic!("no member: {other:?}"),
    }
}

#[test]
fn a_host_that_leaves_without_a_majority_names_whose_votes_are_missing_and_stays() {
    let lab = Lab::new("leave-minority").unwrap();
    let (_switch, routers) = lab.cluster(&["a", "b", "c", "d"], &[], SOON).unwrap();
    let [a, b, c, d] = &routers[..] else {
        unreachable!()
    };
    a.wait_until("all are voters and own something", SOON, |_| {
        let ipam = Api::connect(a.host()).unwrap().ipam().unwrap();
        ipam.epoch_members == 4 && ipam.owners.iter().filter(|owner| owner.addresses > 0).count() == 4
    })
    .unwrap();
    b.kill().unwrap();
    c.kill().unwrap();
    // What it has goes to the one that is there; but two of four decide nothing.
    let said = refusal(d.host(), &["down", "--leave", "--deadline", "6"]);
    assert!(
        said.contains("3 votes decide to go on without this host, and these are missing: b, c"),
        "{said}"
    );
    assert!(said.contains("It stays a member"), "{said}");
    b.restart().unwrap();
    let output = d
        .host()
        .ask(&["down", "--leave"])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    assert!(output.contains("it is no member any longer"), "{output}");
    a.wait_until("d is out", SOON, |status| members(status) == 3)
        .unwrap();
}
