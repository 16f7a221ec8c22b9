//! Two clusters meet, and one of them yields: its pods run on, and keep the addresses that are free on the other side.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_lab::{Content, Host, Lab, PingPlan, Pod, Router, Switch};
use weft_wire::api::{Adopted, ClusterStatus, IpamCheck, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);

fn genesis(status: &Status) -> Option<&str> {
    match &status.cluster {
        ClusterStatus::Member { genesis, .. } => Some(genesis),
        ClusterStatus::AwaitingAdmission | ClusterStatus::Agreeing { .. } => None,
    }
}

fn is_member_of(genesis_id: &str) -> impl Fn(&Status) -> bool {
    move |status| genesis(status) == Some(genesis_id)
}

fn used(host: &Host) -> Vec<(IpAddr, String)> {
    let used = host.ipam().unwrap().used.into_iter();
    used.map(|used| (used.address, used.id)).collect()
}

/// A cluster of these hosts, made with this token.
fn cluster(lab: &Lab, switch: &Switch, token: &str, names: &[&str]) -> Vec<Router> {
    let token = lab.secret_file("token", token).unwrap();
    let token = token.to_str().unwrap();
    let mut routers: Vec<Router> = Vec::new();
    for name in names {
        let host = lab.host(name).on(switch).build().unwrap();
        let router = match routers.first() {
            None => host.up(["--found", "--token-file", token]).unwrap(),
            Some(founder) => {
                let peer = founder.host().address().unwrap().to_string();
                host.up(["--peer", &peer, "--token-file", token]).unwrap()
            }
        };
        router
            .wait_until("it is a member", SOON, |status| genesis(status).is_some())
            .unwrap();
        routers.push(router);
    }
    for router in &routers {
        router.wait_for_peers(names.len() - 1, SOON).unwrap();
    }
    routers
}

const TOKEN: &str = "correct horse battery staple";

/// Dials a host of the other cluster, and waits until both have noticed.
fn meet(from: &Router, to: &Router) {
    let peer = to.host().address().unwrap().to_string();
    from.host().ask(&["connect", &peer]).unwrap().success().unwrap();
    let ids = [from, to].map(|router| genesis(&router.status().unwrap()).unwrap().to_owned());
    for router in [from, to] {
        let told = |status: &Status| {
            let named = |warning: &String| {
                ids.iter().all(|id| warning.contains(id)) && warning.contains("weft ipam adopt --peer")
            };
            status.warnings.iter().any(named)
        };
        router.wait_until("it names both clusters", SOON, told).unwrap();
    }
}

#[test]
fn a_host_adopts_another_cluster_and_its_pods_run_on() {
    let lab = Lab::new("adopt").unwrap();
    let switch = lab.switch().unwrap();
    let [a, b] = ["a", "b"].map(|name| cluster(&lab, &switch, TOKEN, &[name]).remove(0));
    let web = a.host().pod_any("web").unwrap();
    let [db, cache] = ["db", "cache"].map(|name| b.host().pod_any(name).unwrap());
    // Each cluster gives out the same addresses.
    assert_eq!(web.address().unwrap(), db.address().unwrap());
    meet(&b, &a);
    let before = b.status().unwrap();
    let target = genesis(&a.status().unwrap()).unwrap().to_owned();

    // Nobody lets it in with a wrong token: nothing changes.
    let peer = a.host().address().unwrap().to_string();
    let wrong = lab.secret_file("wrong", "another password entirely").unwrap();
    let arguments = [
        "ipam",
        "adopt",
        "--peer",
        &peer,
        "--token-file",
        wrong.to_str().unwrap(),
    ];
    let refused = b.host().ask(&arguments).unwrap();
    assert!(
        !refused.status.success() && refused.stderr.contains("stays in its cluster"),
        "{refused:?}"
    );
    assert_eq!(b.status().unwrap().node, before.node);

    let content = Content::random(48 << 20, 3);
    let adopted = AtomicBool::new(false);
    let transfer = db.tcp_send_watched(&cache, &content, &|done| {
        if done > 1 << 20 && !adopted.swap(true, Ordering::Relaxed) {
            let output = b
                .host()
                .ask(&["ipam", "adopt", "--json"])
                .unwrap()
                .success()
                .unwrap();
            let adopted: Adopted = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!((adopted.joined.as_str(), adopted.claims), (target.as_str(), 2));
        }
    });
    let transfer = transfer.unwrap();
    assert!(transfer.is_intact() && transfer.bytes == content.len() as u64);
    let after = b
        .wait_until("it is a member there", SOON, is_member_of(&target))
        .unwrap();
    assert_ne!(after.node, before.node, "a node id belongs to one cluster");
    assert_eq!(after.pods, before.pods, "no port was touched");

    // What is free there is kept, what is not is listed with the cure, and the pod keeps it.
    let kept = |_: &Status| {
        let status = b.host().ipam().unwrap();
        let refused = status
            .unclaimed
            .iter()
            .any(|claim| claim.id == "db" && claim.refusal.is_some());
        used(b.host()) == [(cache.address().unwrap(), "cache".to_owned())] && refused
    };
    b.wait_until("its addresses are kept or listed", SOON, kept)
        .unwrap();
    let warnings = b.status().unwrap().warnings.join("\n");
    assert!(
        warnings.contains("detach and attach pod db") && warnings.contains("host a keeps it"),
        "{warnings}"
    );
    assert!(db.ping(cache.address().unwrap(), 3).unwrap().is_complete());
    web.ping_until(cache.address().unwrap(), SOON).unwrap();

    // All of it is on the disk.
    b.restart().unwrap();
    b.wait_until("it is a member there", SOON, is_member_of(&target))
        .unwrap();
    b.wait_until("its addresses are kept or listed", SOON, kept)
        .unwrap();
    assert!(b.host().state_dir().join("state.before").exists());
    db.detach().unwrap();
    assert_eq!(b.host().ipam().unwrap().unclaimed, []);
    // The other one keeps its MAC address of the cluster before, which is worth a word and no more.
    let output = b
        .host()
        .ask(&["ipam", "check", "--json"])
        .unwrap()
        .success()
        .unwrap();
    let found: IpamCheck = serde_json::from_str(&output.stdout).unwrap();
    let found: Vec<(&str, bool)> = { found.findings.iter() }
        .map(|finding| (finding.kind.as_str(), finding.wrong))
        .collect();
    assert_eq!(found, [("former-mac", false)]);
    web.ping_until(cache.address().unwrap(), SOON).unwrap();
    // It gives out addresses of the cluster that it is in now.
    let next = b.host().pod_any("next").unwrap();
    web.ping_until(next.address().unwrap(), SOON).unwrap();
}

#[test]
fn a_whole_side_follows_while_its_pods_talk() {
    let lab = Lab::new("side").unwrap();
    let switch = lab.switch().unwrap();
    let a = cluster(&lab, &switch, TOKEN, &["a"]).remove(0);
    let web = a.host().pod_any("web").unwrap();
    let side = cluster(&lab, &switch, "another password entirely", &["b", "c", "d"]);
    let pods: Vec<Pod> = side
        .iter()
        .zip(["10.32.1.1", "10.32.1.2", "10.32.1.3"])
        .map(|(router, address)| {
            let address: IpAddr = address.parse().unwrap();
            router
                .host()
                .pod(&format!("of-{}", router.host().name()), address)
                .unwrap()
        })
        .collect();
    let [b1, c1, d1] = &pods[..] else { unreachable!() };
    for to in [c1, d1] {
        b1.ping_until(to.address().unwrap(), SOON).unwrap();
    }
    c1.ping_until(d1.address().unwrap(), SOON).unwrap();

    let target = genesis(&a.status().unwrap()).unwrap().to_owned();
    let plan = PingPlan {
        count: 600,
        ..PingPlan::default()
    };
    let reports = std::thread::scope(|scope| {
        let pairs = [(b1, c1), (c1, d1), (d1, b1)];
        let pings = pairs.map(|(from, to)| {
            let plan = &plan;
            scope.spawn(move || from.ping_with(to.address().unwrap(), plan).unwrap())
        });
        let token = lab.secret_file("of-a", TOKEN).unwrap();
        let peer = a.host().address().unwrap().to_string();
        let arguments = [
            "ipam",
            "adopt",
            "--peer",
            &peer,
            "--token-file",
            token.to_str().unwrap(),
        ];
        side[1].host().ask(&arguments).unwrap().success().unwrap();
        pings.map(|ping| ping.join().unwrap())
    });
    for router in &side {
        router
            .wait_until("it is a member there", SOON, is_member_of(&target))
            .unwrap();
    }
    for report in &reports {
        assert!(report.is_complete(), "{} lost: {report:?}", report.lost());
    }
    for (router, pod) in side.iter().zip(&pods) {
        let kept = |_: &Status| {
            used(router.host()) == [(pod.address().unwrap(), pod.name().to_owned())]
                && router.host().ipam().unwrap().unclaimed.is_empty()
        };
        router.wait_until("its address is kept", SOON, kept).unwrap();
        web.ping_until(pod.address().unwrap(), SOON).unwrap();
    }
    a.wait_for_peers(3, SOON).unwrap();
}

#[test]
fn a_host_with_nothing_to_lose_yields_by_itself() {
    let lab = Lab::new("alone").unwrap();
    let switch = lab.switch().unwrap();
    let [a, b] = ["a", "b"].map(|name| cluster(&lab, &switch, TOKEN, &[name]).remove(0));
    let web = a.host().pod_any("web").unwrap();
    let target = genesis(&a.status().unwrap()).unwrap().to_owned();
    // The one with a pod dials the one without.
    let peer = b.host().address().unwrap().to_string();
    a.host().ask(&["connect", &peer]).unwrap().success().unwrap();
    for router in [&a, &b] {
        router
            .wait_until("it is a member there", SOON, is_member_of(&target))
            .unwrap();
    }
    let other = b.host().pod_any("other").unwrap();
    web.ping_until(other.address().unwrap(), SOON).unwrap();
}
