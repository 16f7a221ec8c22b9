//! What a bridge knows of listeners, from real sockets in real namespaces.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use weft_kernel::capture::Capture;
use weft_kernel::link::{self, BridgeAttributes, VethEnd};
use weft_kernel::{Namespace, addr, mdb, mld};

const PATIENCE: Duration = Duration::from_secs(20);
const FOUR: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const SIX: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 7);

/// A bridge that looks into IGMP and MLD, in a namespace, and a pod beside it.
fn stage() -> (Namespace, Namespace) {
    let (host, pod) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    host.run(|| {
        let attributes = BridgeAttributes {
            mcast_snooping: true,
            ..BridgeAttributes::default()
        };
        link::create_bridge("hub", &attributes)?;
        link::set_ipv6("hub", false)?;
        link::set_up("hub")?;
        link::create_veth(&VethEnd::here("port"), &VethEnd::inside("eth0", &pod))?;
        link::set_up("port")
    })
    .unwrap()
    .unwrap();
    pod.run(|| {
        addr::add("eth0", "10.9.0.2/24".parse().unwrap())?;
        link::set_up("eth0")
    })
    .unwrap()
    .unwrap();
    (host, pod)
}

/// Sockets that belong to a group of each family.
fn join(pod: &Namespace) -> (UdpSocket, UdpSocket) {
    pod.run(|| {
        let four = UdpSocket::bind("0.0.0.0:0").unwrap();
        four.join_multicast_v4(&FOUR, &Ipv4Addr::new(10, 9, 0, 2))
            .unwrap();
        let six = UdpSocket::bind("[::]:0").unwrap();
        six.join_multicast_v6(&SIX, link::get("eth0").unwrap().index)
            .unwrap();
        (four, six)
    })
    .unwrap()
}

/// Waits for a dump that satisfies `test`, with a look at each event.
fn until(what: &str, events: &mdb::Events, test: impl Fn(&mdb::Database, u32) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (found, port) = (mdb::dump("hub").unwrap(), link::get("port").unwrap().index);
        if test(&found, port) {
            return;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(events.wait(left).unwrap(), "{what}: {found:?}");
        events.drain().unwrap();
    }
}

fn listens(found: &mdb::Database, port: u32, group: impl Into<IpAddr>) -> bool {
    let group = group.into();
    let mut registrations = found.registrations.iter();
    registrations.any(|one| one.port == port && one.group == group && !one.permanent)
}

#[test]
fn joins_and_leaves_are_told_and_read() {
    let (host, pod) = stage();
    host.run(|| {
        link::set_master("port", Some("hub")).unwrap();
        assert!(link::wait_forwarding("port", PATIENCE).unwrap());
        let events = mdb::Events::open().unwrap();
        let sockets = join(&pod);
        until("both groups are there", &events, |found, port| {
            listens(found, port, FOUR) && listens(found, port, SIX)
        });
        drop(sockets);
        until("both groups are gone", &events, |found, port| {
            !listens(found, port, FOUR) && !listens(found, port, SIX)
        });
        assert!(
            mdb::dump("port").unwrap().registrations.is_empty(),
            "no bridge of its own"
        );
        assert!(mdb::dump("none").is_err());
    })
    .unwrap();
}

#[test]
fn who_joined_before_the_bridge_knew_the_port_answers_a_query() {
    let (host, pod) = stage();
    let mut ear = host.run(|| Capture::open("port", 1 << 20)).unwrap().unwrap();
    let _sockets = join(&pod);
    host.run(move || {
        // A pod reports twice by itself (RFC 3810 §9.1), and here nobody has heard either.
        let group = SIX.octets();
        for report in 1..=2 {
            let end = Instant::now() + PATIENCE;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                let frame = ear.next_frame(left).unwrap();
                let frame = frame.unwrap_or_else(|| panic!("report {report} does not come"));
                if frame.data.windows(group.len()).any(|part| part == group) {
                    break;
                }
            }
        }
        link::set_master("port", Some("hub")).unwrap();
        assert!(link::wait_forwarding("port", PATIENCE).unwrap());
        let events = mdb::Events::open().unwrap();
        let (found, port) = (mdb::dump("hub").unwrap(), link::get("port").unwrap().index);
        assert!(!listens(&found, port, SIX), "{found:?}");
        mld::query("hub", link::get("hub").unwrap().mac.unwrap()).unwrap();
        until("the pod answers", &events, |found, port| {
            listens(found, port, SIX)
        });
    })
    .unwrap();
}
