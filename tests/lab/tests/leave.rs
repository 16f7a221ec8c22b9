//! `weft down --leave`: a host goes for good, and its addresses stay with those who remain.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::Duration;

use weft_lab::{Api, Host, Lab, Output, Router, Schema};
use weft_wire::api::{ClusterStatus, IpamOwner, Status, TakenDown};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);

fn weft(host: &Host, arguments: &[&str]) -> Output {
    let socket = host.socket().display().to_string();
    let all = arguments.iter().copied().chain(["--socket", &socket]);
    host.weft(all).unwrap()
}

/// What a command that has to fail says.
fn refusal(host: &Host, arguments: &[&str]) -> String {
    let output = weft(host, arguments);
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
    weft(c.host(), &["ipam", "allocate", "db"]).success().unwrap();
    let said = refusal(c.host(), &["down", "--leave"]);
    assert!(said.contains("still held here for db"), "{said}");
    weft(c.host(), &["ipam", "free", "db"]).success().unwrap();
    // Both addresses rest for a minute. Whoever does not wait stays a member, and gives out addresses as before.
    let said = refusal(c.host(), &["down", "--leave", "--deadline", "1"]);
    assert!(
        said.contains("rest for up to a minute") && said.contains("stays a member"),
        "{said}"
    );
    weft(c.host(), &["ipam", "allocate", "db"]).success().unwrap();

    let before = node(b);
    let state = b.host().state_dir();
    let output = weft(b.host(), &["down", "--leave", "--json"]).success().unwrap();
    Schema::published()
        .unwrap()
        .check("TakenDown", &output.stdout)
        .unwrap();
    let down: TakenDown = serde_json::from_str(&output.stdout).unwrap();
    let left = down.left.unwrap();
    assert!(left.done && left.handed > 0 && left.stays.is_empty(), "{left:?}");
    assert!(b.wait(SOON).unwrap().unwrap().success());
    assert_eq!(
        down.identity_kept_at.unwrap(),
        state.join("state.left-the-cluster").display().to_string()
    );
    assert!(state.join("state.left-the-cluster").exists() && !state.join("state").exists());
    assert_eq!(owner(a.host(), &before).unwrap().addresses, 0);
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

    // The identity that is gone for good does not answer; what it was offered goes to the others.
    let before = node(c);
    let said = weft(c.host(), &["down", "--leave", "--force", "--deadline", "4"])
        .success()
        .unwrap()
        .stdout;
    assert!(said.contains("not handed on: "), "{said}");
    let rest = owner(a.host(), &before).unwrap().addresses;
    assert_eq!(rest, 16, "the slot with the resting addresses");
}
