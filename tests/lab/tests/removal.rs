//! Hosts that are gone for good are removed, and the others use their addresses; a minority removes nobody.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use weft_lab::{Api, Host, Lab, Output, Router, Underlay as _};
use weft_wire::api::{IpamStatus, LinkState, RemovalDone};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what needs a silent peer to be noticed first.
const LATER: Duration = Duration::from_secs(30);

fn weft(host: &Host, arguments: &[&str]) -> Output {
    let socket = host.socket().display().to_string();
    let all = arguments.iter().copied();
    host.weft(all.chain(["--socket", &socket])).unwrap()
}

fn ipam(host: &Host) -> IpamStatus {
    Api::connect(host).unwrap().ipam().unwrap()
}

/// Waits until the address space is as it should be.
fn await_ipam(host: &Host, what: &str, is_so: impl Fn(&IpamStatus) -> bool) -> IpamStatus {
    let begun = Instant::now();
    loop {
        let status = ipam(host);
        if is_so(&status) {
            return status;
        }
        assert!(begun.elapsed() < LATER, "{}: {what}: {status:?}", host.name());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Three hosts that all own a part of a small range.
fn three(lab: &Lab) -> (weft_lab::Switch, [Router; 3]) {
    let (switch, routers) = lab
        .cluster(&["a", "b", "c"], &["--range", "10.40.0.0/25"], SOON)
        .unwrap();
    for router in &routers {
        await_ipam(router.host(), "all own something", |status| {
            status.epoch_members == 3 && status.owned > 0
        });
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
        let refused = weft(a.host(), &["peer", "remove", name]);
        assert!(
            !refused.status.success() && refused.stderr.contains(why),
            "{refused:?}"
        );
    }

    c.kill().unwrap();
    is_cut_off(&a, 1);
    let output = weft(a.host(), &["peer", "remove", "c", "--fenced", "--json"])
        .success()
        .unwrap();
    let done: RemovalDone = serde_json::from_str(&output.stdout).unwrap();
    assert!(done.done && done.hosts[0].name == "c", "{done:?}");

    for router in [&a, &b] {
        let status = await_ipam(router.host(), "it is over", |status| status.removals.is_empty());
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
    weft(b.host(), &["peer", "remove", "c"]).success().unwrap();
}

#[test]
fn a_minority_removes_nobody_and_the_majority_goes_on() {
    let lab = Lab::new("minority").unwrap();
    let (switch, [a, b, c]) = three(&lab);
    switch.partition(&[a.host()], &[b.host(), c.host()]).unwrap();
    is_cut_off(&a, 2);
    is_cut_off(&b, 1);

    let output = weft(a.host(), &["peer", "remove", "b", "c", "--no-wait", "--json"])
        .success()
        .unwrap();
    let asked: RemovalDone = serde_json::from_str(&output.stdout).unwrap();
    assert!(!asked.done);
    let status = await_ipam(a.host(), "it waits for the others", |status| {
        status.removals.iter().any(|removal| removal.missing.len() == 2)
    });
    assert!(
        status.removals[0].epoch.is_none() && status.removed.is_empty(),
        "{status:?}"
    );
    let shown = weft(a.host(), &["ipam"]).success().unwrap().stdout;
    assert!(
        shown.contains("removing    b, c: 2 votes decide it, and these are missing: b, c"),
        "{shown}"
    );

    // The other side is enough to remove the one that is alone.
    weft(b.host(), &["peer", "remove", "a"]).success().unwrap();
    let status = ipam(c.host());
    assert_eq!(status.removed.len(), 1, "{status:?}");
    // Its addresses rest: nothing of them is given out.
    assert!(ipam(a.host()).removed.is_empty());
    weft(a.host(), &["peer", "keep", "b", "c"]).success().unwrap();
    assert!(ipam(a.host()).removals.is_empty());
}
