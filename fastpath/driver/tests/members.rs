//! Multicast at the real kernel: who listens here, and what goes to the TAP.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use weft_fastpath::{Listeners, Snooping, View};
use weft_fastpath_driver::{Driver, Members};
use weft_kernel::link::{self, MulticastRouter, VethEnd};
use weft_kernel::{Namespace, addr, mdb};
use weft_wire::Group;

const BRIDGE: &str = "weft-br";
const TAP: &str = "weft-tap";
const PATIENCE: Duration = Duration::from_secs(20);

fn group(text: &str) -> Group {
    Group::new(text.parse().unwrap()).unwrap()
}

fn view(groups: &[&str], snooping: Snooping) -> View {
    let listeners = || Listeners {
        router: true,
        ..Listeners::default()
    };
    View {
        groups: groups
            .iter()
            .map(|text| (group(text), listeners()))
            .collect::<BTreeMap<_, _>>(),
        snooping,
        ..View::new(1390)
    }
}

/// The groups that the bridge sends to the TAP.
fn at_tap() -> Vec<String> {
    let tap = link::get(TAP).unwrap().index;
    let found = mdb::dump(BRIDGE).unwrap().registrations;
    let mut groups: Vec<String> = found
        .iter()
        .filter(|one| one.port == tap && one.permanent)
        .map(|one| one.group.to_string())
        .collect();
    groups.sort();
    groups
}

#[test]
fn groups_with_listeners_elsewhere_lead_to_the_tap_and_pods_here_are_told_from_them() {
    let (host, pod) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    host.run(|| {
        let driver = Driver::new(BRIDGE, TAP).unwrap();
        let settle = |view: &View| {
            driver.reconcile_blocking(view).unwrap();
            assert_eq!(driver.reconcile_blocking(view).unwrap().changes, []);
        };
        settle(&view(&["239.1.1.1", "239.1.1.2"], Snooping::On));
        assert_eq!(at_tap(), ["239.1.1.1", "239.1.1.2"]);
        settle(&view(&["239.1.1.2", "239.1.1.3", "224.0.0.251"], Snooping::On));
        assert_eq!(
            at_tap(),
            ["239.1.1.2", "239.1.1.3"],
            "what is for everybody cannot be registered"
        );
        // Somebody removes one.
        mdb::delete(BRIDGE, TAP, "239.1.1.2".parse().unwrap(), None).unwrap();
        settle(&view(&["239.1.1.2"], Snooping::On));
        assert_eq!(at_tap(), ["239.1.1.2"]);
        let router = || link::get(TAP).unwrap().port.unwrap().mcast_router;
        assert_eq!(router(), MulticastRouter::Never);
        settle(&view(&["239.1.1.2"], Snooping::OnWithRouter));
        assert_eq!(router(), MulticastRouter::Always);

        link::create_veth(&VethEnd::here("port"), &VethEnd::inside("eth0", &pod)).unwrap();
        link::set_master("port", Some(BRIDGE)).unwrap();
        link::set_up("port").unwrap();
        let of_pods = |groups: &[&str]| Members {
            groups: groups.iter().map(|text| group(text)).collect(),
            router: false,
            snooping: true,
        };
        let wait = |groups: &[&str]| {
            let events = mdb::Events::open().unwrap();
            let end = Instant::now() + PATIENCE;
            loop {
                let mut members = driver.members_blocking().unwrap();
                members.groups.retain(|group| !group.is_for_everybody());
                if members == of_pods(groups) {
                    return;
                }
                let left = end.saturating_duration_since(Instant::now());
                assert!(events.wait(left).unwrap(), "{members:?}");
                events.drain().unwrap();
            }
        };
        wait(&[]);
        let sockets = pod.run(|| {
            addr::add("eth0", "10.9.0.2/24".parse().unwrap()).unwrap();
            link::set_up("eth0").unwrap();
            let four = UdpSocket::bind("0.0.0.0:0").unwrap();
            let own = Ipv4Addr::new(10, 9, 0, 2);
            four.join_multicast_v4(&Ipv4Addr::new(239, 1, 1, 2), &own)
                .unwrap();
            let six = UdpSocket::bind("[::]:0").unwrap();
            let index = link::get("eth0").unwrap().index;
            six.join_multicast_v6(&"ff15::7".parse().unwrap(), index).unwrap();
            (four, six)
        });
        let sockets = sockets.unwrap();
        wait(&["239.1.1.2", "ff15::7"]);
        drop(sockets);
        wait(&[]);
        assert_eq!(
            at_tap(),
            ["239.1.1.2"],
            "that a pod here has left concerns no other host"
        );

        settle(&view(&[], Snooping::Off));
        assert!(!driver.members_blocking().unwrap().snooping);
        settle(&view(&["239.1.1.9"], Snooping::On));
        assert_eq!(at_tap(), ["239.1.1.9"]);
    })
    .unwrap();
}
