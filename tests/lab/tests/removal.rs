//! Hosts that are gone for good are removed, and the others use their addresses; a minority removes nobody.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use weft_lab::{Api, Lab, Router, Underlay as _};
use weft_wire::api::{LinkState, RemovalDone};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what needs a silent peer to be noticed first.
const LATER: Duration = Duration::from_secs(30);

/// Three hosts that all own a part of a small range.
fn three(lab: &Lab) -> (weft_lab::Switch, [Router; 3]) {
    let (switch, routers) = lab
        .cluster(&["a", "b", "c"], &["--range", "10.40.0.0/25"], SOON)
        .unwrap();
    for router in &routers {
        router
            .host()
            .await_ipam("all own something", LATER, |status| {
                status.epoch_members == 3 && status.owned > 0
            })
            .unwrap();
    }
    (switch, routers.try_into().ok().unwrap())
}

fn is_cut_off(router: &Router, count: usize) {
    let is_down = |status: &weft_wire::api::Status| {
        let down = status.peers.iter().filter(|peer| peer.mesh != LinkState::Up);
        down.count() == count
    };
    router
        .wait_until("peers are seen to be gone", LATER, is_down)
        .unwrap();
}

#[test]
fn a_killed_host_is_removed_and_its_addresses_are_used() {
    let lab = Lab::new("removal").unwrap();
    let (_switch, [a, b, c]) = three(&lab);

    // What nobody means is refused, and says why.
    for (name, why) in [
        ("nobody", "no host of this cluster is called nobody"),
        ("a", "is this host"),
        ("c", "is connected just now"),
    ] {
        let refused = a.host().ask(&["peer", "remove", name]).unwrap();
        assert!(
            !refused.status.success() && refused.stderr.contains(why),
            "{refused:?}"
        );
    }

    c.kill().unwrap();
    is_cut_off(&a, 1);
    let output = a
        .host()
        .ask(&["peer", "remove", "c", "--fenced", "--json"])
        .unwrap()
        .success()
        .unwrap();
    let done: RemovalDone = serde_json::from_str(&output.stdout).unwrap();
    assert!(done.done && done.hosts[0].name == "c", "{done:?}");

    for router in [&a, &b] {
        let status = router
            .host()
            .await_ipam("it is over", LATER, |status| status.removals.is_empty())
            .unwrap();
        assert_eq!(status.removed, done.hosts);
        let strangers = status
            .ranges
            .iter()
            .filter(|range| range.owner == done.hosts[0].node);
        assert_eq!(strangers.count(), 0, "{status:?}");
    }
    // Every address of the range can be had, and once.
    let mut all = BTreeSet::new();
    let mut apis = [&a, &b].map(|router| Api::connect(router.host()).unwrap());
    for at in 0..126 {
        let address = apis[at % 2].allocate(&format!("pod-{at}")).unwrap();
        assert!(all.insert(address), "{address}");
    }
    // Asked again, it is done already.
    b.host().ask(&["peer", "remove", "c"]).unwrap().success().unwrap();
}

#[test]
fn a_minority_removes_nobody_and_the_majority_goes_on() {
    let lab = Lab::new("minority").unwrap();
    let (switch, [a, b, c]) = three(&lab);
    switch.partition(&[a.host()], &[b.host(), c.host()]).unwrap();
    is_cut_off(&a, 2);
    is_cut_off(&b, 1);

    let output = a
        .host()
        .ask(&["peer", "remove", "b", "c", "--no-wait", "--json"])
        .unwrap()
        .success()
        .unwrap();
    let asked: RemovalDone = serde_json::from_str(&output.stdout).unwrap();
    assert!(!asked.done);
    let status = a
        .host()
        .await_ipam("it waits for the others", LATER, |status| {
            status.removals.iter().any(|removal| removal.missing.len() == 2)
        })
        .unwrap();
    assert!(
        status.removals[0].epoch.is_none() && status.removed.is_empty(),
        "{status:?}"
    );
    let shown = a.host().ask(&["ipam"]).unwrap().success().unwrap().stdout;
    assert!(
        shown.contains("removing    b, c: 2 votes decide it, and these are missing: b, c"),
        "{shown}"
    );

    // The other side is enough to remove the one that is alone.
    b.host().ask(&["peer", "remove", "a"]).unwrap().success().unwrap();
    let status = c.host().ipam().unwrap();
    assert_eq!(status.removed.len(), 1, "{status:?}");
    // Its addresses rest: nothing of them is given out.
    assert!(a.host().ipam().unwrap().removed.is_empty());
    a.host()
        .ask(&["peer", "keep", "b", "c"])
        .unwrap()
        .success()
        .unwrap();
    assert!(a.host().ipam().unwrap().removals.is_empty());
}
