//! A host that the others remove while it is alive: its pods talk on, it comes back by itself as a new host, and it says
//! of each address what became of it.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use weft_lab::{Host, Lab, Pod, Router, Underlay as _};
use weft_wire::api::{LinkState, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(20);
/// For what needs a silent peer to be noticed, or a silent connection to try again, first.
const LATER: Duration = Duration::from_secs(40);
/// Bytes by which a connection shows that it is alive.
const ALIVE: u64 = 256 * 1024;

/// Hosts that all own a part of the range.
fn members(lab: &Lab, names: &[&str]) -> (weft_lab::Switch, Vec<Router>) {
    let (switch, routers) = lab.cluster(names, &[], SOON).unwrap();
    for router in &routers {
        router
            .host()
            .await_ipam("all own something", LATER, |status| {
                status.epoch_members == names.len() as u64 && status.owned > 0
            })
            .unwrap();
    }
    (switch, routers)
}

fn is_cut_off(router: &Router, count: usize) {
    let is_down = |status: &Status| {
        let down = status.peers.iter().filter(|peer| peer.mesh != LinkState::Up);
        down.count() == count
    };
    router
        .wait_until("peers are seen to be gone", LATER, is_down)
        .unwrap();
}

/// Waits until a host is another one than before, and a voter.
fn comes_back(router: &Router, before: &Status) {
    router
        .wait_until("it is a new host", LATER, |status| status.node != before.node)
        .unwrap();
    router
        .host()
        .await_ipam("it owns something again", LATER, |status| {
            status.owned > 0 && status.hindrance.is_none()
        })
        .unwrap();
}

fn addresses<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<IpAddr> {
    pods.into_iter().map(|pod| pod.address().unwrap()).collect()
}

#[test]
fn a_removed_host_lives_on_comes_back_and_says_what_it_kept() {
    let lab = Lab::new("alive").unwrap();
    let (switch, routers) = members(&lab, &["a", "b", "c", "d"]);
    let [a, b, c, _] = &routers[..] else {
        unreachable!()
    };
    let web = a.host().pod_any("web").unwrap();
    let [db, cache, clash] = ["db", "cache", "clash"].map(|name| c.host().pod_any(name).unwrap());
    cache.ping_until(web.address().unwrap(), SOON).unwrap();
    let before = c.status().unwrap();
    let inside = db.tcp_stream(&cache).unwrap();
    let across = cache.tcp_stream(&web).unwrap();
    for stream in [&inside, &across] {
        stream.wait_for(ALIVE, SOON).unwrap();
    }

    let rest: Vec<&Host> = [0, 1, 3].map(|at| routers[at].host()).to_vec();
    switch.partition(&[c.host()], &rest).unwrap();
    is_cut_off(c, 3);
    for router in [a, b] {
        is_cut_off(router, 1);
    }
    // On both sides at once, and by two of one side.
    std::thread::scope(|scope| {
        for router in [a, b] {
            scope.spawn(|| {
                router
                    .host()
                    .ask(&["peer", "remove", "c"])
                    .unwrap()
                    .success()
                    .unwrap()
            });
        }
        scope.spawn(|| {
            let all = ["peer", "remove", "a", "b", "--no-wait"];
            c.host().ask(&all).unwrap().success().unwrap()
        });
    });
    let status = c.host().ipam().unwrap();
    assert!(
        status.removed.is_empty() && status.removals.len() == 1,
        "{status:?}"
    );
    // It goes on, and knows nothing of the pod that has the address of one of its own.
    let late = c.host().pod_any("late").unwrap();
    let twin = b.host().pod("twin", clash.address().unwrap()).unwrap();
    late.ping_until(db.address().unwrap(), SOON).unwrap();
    inside.wait_for(ALIVE, SOON).unwrap();

    switch.heal().unwrap();
    comes_back(c, &before);
    let kept = addresses([&db, &cache, &late]);
    let status = c
        .host()
        .await_ipam("each address is kept or refused", LATER, |status| {
            let of_all = status.kept.len() == kept.len() && status.unclaimed.len() == 1;
            of_all && status.unclaimed[0].refusal.is_some()
        })
        .unwrap();
    assert_eq!(
        status
            .kept
            .iter()
            .map(|kept| kept.address)
            .collect::<BTreeSet<_>>(),
        kept
    );
    assert_eq!(status.used, status.kept);
    let refused = &status.unclaimed[0];
    assert_eq!(
        (refused.id.as_str(), refused.address),
        ("clash", clash.address().unwrap())
    );
    assert_eq!(refused.holder.as_ref().unwrap().name, "b", "{refused:?}");
    // So for people, and in the log.
    let shown = c.host().ask(&["ipam"]).unwrap().success().unwrap().stdout;
    let lines = [
        "from before 3 addresses of pods kept, 1 refused, 0 being asked for".to_owned(),
        format!("kept        {}  late", late.address().unwrap()),
        format!("unclaimed   {}  clash: ", clash.address().unwrap()),
    ];
    for line in lines {
        assert!(shown.contains(&line), "{line} is missing in:\n{shown}");
    }
    let log = std::fs::read_to_string(c.host().log_file()).unwrap();
    for line in [
        format!("pod db keeps {}", db.address().unwrap()),
        format!("pod clash has {} from before", clash.address().unwrap()),
    ] {
        assert!(log.contains(&line), "{line} is missing in:\n{log}");
    }
    // The others know whom they removed, and have nobody of that name twice.
    let status = a.host().ipam().unwrap();
    assert_eq!(status.removed.len(), 1);
    assert_eq!(
        (&status.removed[0].node, status.removed[0].name.as_str()),
        (&before.node, "c")
    );
    assert!(
        status.removals.is_empty() && status.epoch_members == 4,
        "{status:?}"
    );

    // Both connections are the ones from before all this.
    for stream in [inside, across] {
        stream.wait_for(ALIVE, LATER).unwrap();
        println!("{} bytes from end to end", stream.finish().unwrap());
    }
    web.ping_until(late.address().unwrap(), SOON).unwrap();
    web.ping_until(twin.address().unwrap(), SOON).unwrap();
    let next = c.host().pod_any("next").unwrap();
    web.ping_until(next.address().unwrap(), SOON).unwrap();
    // The pod whose address another one has gets a free one when it is attached anew.
    clash.detach().unwrap();
    let again = c.host().pod_any("clash").unwrap();
    web.ping_until(again.address().unwrap(), SOON).unwrap();
    assert_eq!(c.host().ipam().unwrap().unclaimed, []);
}

#[test]
fn pods_of_a_removed_host_talk_to_the_host_that_they_reach_all_the_time() {
    let lab = Lab::new("beside").unwrap();
    let (switch, routers) = members(&lab, &["a", "b", "c", "d", "e"]);
    let [a, b, c, d, e] = &routers[..] else {
        unreachable!()
    };
    let [near, local] = ["near", "local"].map(|name| c.host().pod_any(name).unwrap());
    let far = d.host().pod_any("far").unwrap();
    near.ping_until(far.address().unwrap(), SOON).unwrap();
    let before = c.status().unwrap();
    let across = near.tcp_stream(&far).unwrap();
    let back = far.tcp_stream(&local).unwrap();
    across.wait_for(ALIVE, SOON).unwrap();

    // d is a member, and in reach of c alone: what c owned has no new owner before d has said its word.
    switch
        .partition(&[a.host(), b.host(), e.host()], &[c.host(), d.host()])
        .unwrap();
    for router in [a, b] {
        is_cut_off(router, 2);
    }
    let remove = |router: &Router| {
        router
            .host()
            .ask(&["peer", "remove", "c", "--no-wait"])
            .unwrap()
            .success()
            .unwrap();
    };
    std::thread::scope(|scope| {
        for router in [a, b] {
            scope.spawn(move || remove(router));
        }
    });
    for router in [a, b, e] {
        router
            .host()
            .await_ipam("they have decided", LATER, |status| {
                let waits_for_d =
                    |names: &[weft_wire::api::HostName]| names.len() == 1 && names[0].name == "d";
                status.removed.len() == 1
                    && status
                        .removals
                        .iter()
                        .all(|removal| waits_for_d(&removal.missing))
            })
            .unwrap();
    }
    for stream in [&across, &back] {
        stream.wait_for(ALIVE, SOON).unwrap();
    }
    switch.heal().unwrap();
    comes_back(c, &before);
    let kept = addresses([&near, &local]);
    c.host()
        .await_ipam("its pods keep their addresses", LATER, |status| {
            status.unclaimed.is_empty()
                && status
                    .used
                    .iter()
                    .map(|used| used.address)
                    .collect::<BTreeSet<_>>()
                    == kept
        })
        .unwrap();
    for stream in [across, back] {
        stream.wait_for(ALIVE, LATER).unwrap();
        println!("{} bytes from end to end", stream.finish().unwrap());
    }
}
