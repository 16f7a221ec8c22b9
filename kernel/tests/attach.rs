//! The attachment of pods, each test in namespaces of its own.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::UdpSocket;
use std::time::Duration;

use weft_kernel::attach::{
    AttachRequest, Attachment, attach, attachments, detach, find, host_ifname, open_pod,
};
use weft_kernel::capture::Capture;
use weft_kernel::link::{self, BridgeAttributes, Link, PortFlags, VethEnd};
use weft_kernel::{Error, Namespace, addr, route};

const BRIDGE: &str = "weft-test";

struct Host {
    host: Namespace,
    pods: Vec<Namespace>,
}

impl Host {
    fn with_pods(pods: usize) -> Self {
        let host = Namespace::new().unwrap();
        host.run(|| {
            link::create_bridge(BRIDGE, &BridgeAttributes::default()).unwrap();
            link::set_up(BRIDGE).unwrap();
        })
        .unwrap();
        Self {
            host,
            pods: (0..pods).map(|_| Namespace::new().unwrap()).collect(),
        }
    }

    fn request(&self, pod: usize) -> AttachRequest<'_> {
        let last = u8::try_from(pod + 1).unwrap();
        AttachRequest {
            pod_netns: &self.pods[pod],
            bridge: BRIDGE,
            id: ["web-1", "web-2"][pod],
            ifname: "eth0",
            mac: [2, 0, 0, 0, 0, last],
            address: format!("10.32.0.{last}/12").parse().unwrap(),
            further: &[],
            mtu: 1390,
            gateway: None,
        }
    }

    fn attach(&self, request: &AttachRequest<'_>) -> Result<Attachment, Error> {
        self.host.run(|| attach(request)).unwrap()
    }

    fn in_host<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> T {
        self.host.run(work).unwrap().unwrap()
    }

    fn in_pod<T: Send>(&self, pod: usize, work: impl FnOnce() -> Result<T, Error> + Send) -> T {
        self.pods[pod].run(work).unwrap().unwrap()
    }

    /// Everything that an attachment can leave, in the host and in pod 0.
    fn state(&self) -> (Vec<Link>, Vec<Link>, Vec<route::Route>) {
        let (mut host, mut pod) = (self.in_host(link::list), self.in_pod(0, link::list));
        for link in host
            .iter_mut()
            .chain(&mut pod)
            .filter(|link| link.kind.as_deref() == Some("bridge"))
        {
            // A bridge takes its address and carrier from its ports.
            (link.mac, link.carrier) = (None, false);
        }
        // Link-local routes come and go in the background, some time after the carrier.
        let routes = self
            .in_pod(0, route::list)
            .into_iter()
            .filter(|r| r.is_default() || r.destination.addr().is_ipv4());
        (host, pod, routes.collect())
    }
}

#[test]
fn an_attached_pod_has_all_it_needs() {
    let lab = Host::with_pods(1);
    let request = lab.request(0);
    let made = lab.attach(&request).unwrap();
    assert_eq!(
        (made.id.as_str(), made.mac, made.address),
        ("web-1", request.mac, request.address)
    );
    let host = lab.in_host(|| link::get(&host_ifname("web-1")));
    assert_eq!(
        host.alias.as_deref(),
        Some("weft:web-1:02:00:00:00:00:01:10.32.0.1/12")
    );
    assert_eq!(
        (host.up, host.carrier, host.mtu, host.port),
        (true, true, 1390, Some(PortFlags::default()))
    );
    assert!(host.forwarding, "the pod's first frame passes");
    let pod = lab.in_pod(0, || link::get("eth0"));
    assert_eq!(
        (pod.mac, pod.up, pod.carrier, pod.mtu, pod.gso_segments),
        (Some(request.mac), true, true, 1390, 45)
    );
    let routes = lab.in_pod(0, route::list);
    let to = |net: &str| {
        routes
            .iter()
            .any(|r| r.destination.to_string() == net && r.interface == Some(pod.index))
    };
    assert!(to("10.32.0.0/12") && to("224.0.0.0/4"), "{routes:?}");
    assert_eq!(lab.in_host(|| attachments(BRIDGE)), [made]);
}

#[test]
fn attaching_twice_changes_nothing_and_detaching_leaves_nothing() {
    let lab = Host::with_pods(1);
    let before = lab.state();
    let first = lab.attach(&lab.request(0)).unwrap();
    let attached = lab.state();
    assert_eq!(lab.attach(&lab.request(0)).unwrap(), first);
    assert_eq!(lab.state(), attached);
    assert!(lab.in_host(|| detach("web-1")));
    assert_eq!(lab.state(), before);
    assert!(!lab.in_host(|| detach("web-1")));
    assert_eq!(lab.in_host(|| attachments(BRIDGE)), []);
}

#[test]
fn two_pods_reach_each_other_and_a_capture_sees_it() {
    let lab = Host::with_pods(2);
    for pod in 0..2 {
        lab.attach(&lab.request(pod)).unwrap();
    }
    let mut capture = lab.in_host(|| Capture::open(&host_ifname("web-2"), 1 << 20));
    let receiver = lab.pods[1]
        .run(|| UdpSocket::bind("10.32.0.2:7000"))
        .unwrap()
        .unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = lab.pods[0]
        .run(|| UdpSocket::bind("10.32.0.1:0"))
        .unwrap()
        .unwrap();
    let payload = b"a payload nobody else sends";
    sender.send_to(payload, "10.32.0.2:7000").unwrap();
    let mut buffer = [0; 64];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from.ip().to_string().as_str()),
        (&payload[..], "10.32.0.1")
    );
    loop {
        let frame = capture
            .next_frame(Duration::from_secs(5))
            .unwrap()
            .expect("the datagram passes this port");
        if frame.data.windows(payload.len()).any(|window| window == payload) {
            assert_eq!(frame.wire_length, 14 + 20 + 8 + payload.len());
            assert!(frame.outgoing, "from the bridge to pod 2");
            break;
        }
    }
    let sender = lab.pods[0].run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    sender
        .send_to(b"to a group", "239.1.2.3:9")
        .expect("there is a route for multicast");
}

#[test]
fn an_id_keeps_its_address_mac_and_namespace() {
    let lab = Host::with_pods(2);
    let request = lab.request(0);
    lab.attach(&request).unwrap();
    let before = lab.state();
    let moved = AttachRequest {
        address: "10.32.0.77/12".parse().unwrap(),
        ..request
    };
    let error = lab.attach(&moved).unwrap_err();
    assert!(matches!(error, Error::AttachConflict { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("web-1") && text.contains("10.32.0.1/12") && text.contains("10.32.0.77/12"),
        "{text}"
    );
    let other_mac = AttachRequest {
        mac: [2, 9, 9, 9, 9, 9],
        ..request
    };
    assert!(matches!(
        lab.attach(&other_mac),
        Err(Error::AttachConflict { .. })
    ));
    let elsewhere = AttachRequest {
        pod_netns: &lab.pods[1],
        ..request
    };
    assert!(matches!(
        lab.attach(&elsewhere),
        Err(Error::AttachedElsewhere { .. })
    ));
    assert_eq!(lab.state(), before);
}

#[test]
fn what_somebody_changed_is_repaired() {
    let lab = Host::with_pods(1);
    let request = lab.request(0);
    lab.attach(&request).unwrap();
    let attached = lab.state();
    let host = host_ifname(request.id);
    lab.in_host(|| {
        link::set_port_flags(
            &host,
            &PortFlags {
                isolated: true,
                ..PortFlags::default()
            },
        )?;
        link::set_master(&host, None)?;
        link::set_mtu(&host, 1000)?;
        link::set_down(&host)
    });
    lab.in_pod(0, || {
        addr::remove("eth0", request.address)?;
        link::set_down("eth0")?;
        link::set_mac("eth0", [2, 7, 7, 7, 7, 7])
    });
    lab.attach(&request).unwrap();
    assert_eq!(lab.state(), attached);
}

#[test]
fn a_half_done_attempt_is_replaced() {
    let lab = Host::with_pods(1);
    let request = lab.request(0);
    // As a process killed after its first step leaves it.
    lab.in_host(|| {
        let host = host_ifname(request.id);
        link::create_veth(&VethEnd::here(&host), &VethEnd::inside("eth0", request.pod_netns))
    });
    assert_eq!(lab.in_host(|| attachments(BRIDGE)), []);
    lab.attach(&request).unwrap();
    assert_eq!(lab.in_pod(0, || link::get("eth0")).mac, Some(request.mac));
    assert_eq!(lab.in_host(|| attachments(BRIDGE)).len(), 1);
}

#[test]
fn a_failed_attempt_leaves_nothing() {
    let lab = Host::with_pods(1);
    let before = lab.state();
    // Refused at the last step in the pod, after the pair, the address and the link are there.
    let request = AttachRequest {
        gateway: Some("192.0.2.1".parse().unwrap()),
        ..lab.request(0)
    };
    let error = lab.attach(&request).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1"), "{error}");
    assert_eq!(lab.state(), before);

    let cases = [
        (
            AttachRequest {
                bridge: "no-bridge",
                ..lab.request(0)
            },
            "no-bridge",
        ),
        (
            AttachRequest {
                bridge: "lo",
                ..lab.request(0)
            },
            "a bridge",
        ),
        (
            AttachRequest {
                ifname: "lo",
                ..lab.request(0)
            },
            "lo in the pod",
        ),
        (
            AttachRequest {
                ifname: "a/b",
                ..lab.request(0)
            },
            "a/b",
        ),
        (
            AttachRequest {
                id: "a:b",
                ..lab.request(0)
            },
            "a:b",
        ),
        (
            AttachRequest {
                mac: [1, 0, 0, 0, 0, 1],
                ..lab.request(0)
            },
            "01:00:00:00:00:01",
        ),
        (
            AttachRequest {
                mtu: 1,
                ..lab.request(0)
            },
            "create the veth",
        ),
    ];
    for (request, expected) in cases {
        let error = lab.attach(&request).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(lab.state(), before, "{expected}");
    }
}

#[test]
fn several_addresses_share_one_interface() {
    let lab = Host::with_pods(2);
    let further = ["10.32.7.9/24", "10.32.8.1/22"].map(|text| text.parse().unwrap());
    let request = AttachRequest {
        further: &further,
        ..lab.request(0)
    };
    let made = lab.attach(&request).unwrap();
    assert_eq!(made.further, further);
    assert_eq!(lab.in_host(|| find("web-1")), Some(made.clone()));
    let configured = |lab: &Host| {
        let found = lab.in_pod(0, || addr::list("eth0"));
        let mut found: Vec<_> = found.into_iter().map(|a| a.address).collect();
        found.retain(|address| address.addr().is_ipv4());
        found.sort();
        found
    };
    let mut all = vec![request.address, further[0], further[1]];
    all.sort();
    assert_eq!(configured(&lab), all);
    // Whoever names fewer of them means the same attachment, and what is missing is repaired.
    lab.in_pod(0, || addr::remove("eth0", further[1]));
    assert_eq!(lab.attach(&lab.request(0)).unwrap(), made);
    assert_eq!(configured(&lab), all);
    let other = AttachRequest {
        further: &further[1..],
        ..request
    };
    let error = lab.attach(&other).unwrap_err().to_string();
    assert!(
        error.contains("10.32.0.1/12,10.32.7.9/24,10.32.8.1/22"),
        "{error}"
    );
    let many: Vec<_> = (1..20)
        .map(|at| format!("10.32.7.{at}/24").parse().unwrap())
        .collect();
    let crowded = AttachRequest {
        further: &many,
        ..lab.request(1)
    };
    let error = lab.attach(&crowded).unwrap_err().to_string();
    assert!(error.contains("fewer addresses"), "{error}");
}

#[test]
fn ipv6_and_a_gateway() {
    let lab = Host::with_pods(1);
    let request = AttachRequest {
        address: "fd00:32::5/64".parse().unwrap(),
        gateway: Some("fd00:32::1".parse().unwrap()),
        ..lab.request(0)
    };
    let made = lab.attach(&request).unwrap();
    assert_eq!(made.address.to_string(), "fd00:32::5/64");
    assert_eq!(lab.attach(&request).unwrap(), made);
    let found = lab.in_pod(0, || addr::list("eth0"));
    assert!(
        found.iter().any(|a| a.address == request.address && !a.tentative),
        "{found:?}"
    );
    assert!(
        lab.in_pod(0, route::list)
            .iter()
            .any(|r| r.is_default() && r.gateway == request.gateway)
    );
    assert!(!lab.in_host(|| weft_kernel::sysctl::ipv6_enabled(&made.host_ifname)));
}

#[test]
fn an_attachment_is_found_by_its_id_alone() {
    let lab = Host::with_pods(2);
    assert_eq!(lab.in_host(|| find("web-1")), None);
    let made = lab.attach(&lab.request(0)).unwrap();
    assert_eq!(lab.in_host(|| find("web-1")), Some(made));
    assert_eq!(lab.in_host(|| find("web-2")), None);
    // One without a record is half done.
    let host = host_ifname("web-2");
    let half = || link::create_veth(&VethEnd::here(&host), &VethEnd::inside("eth0", &lab.pods[1]));
    lab.in_host(half);
    assert_eq!(lab.in_host(|| find("web-2")), None);
}

#[test]
fn the_namespace_of_the_host_is_no_pod() {
    let lab = Host::with_pods(1);
    let pod = lab.pods[0].path();
    assert_eq!(lab.in_host(|| open_pod(&pod)).id(), lab.pods[0].id());
    let own = lab.host.path();
    let refused = lab.host.run(|| open_pod(&own)).unwrap();
    assert!(
        matches!(&refused, Err(Error::OwnNamespace { path }) if *path == own),
        "{refused:?}"
    );
}

#[test]
fn a_pod_that_is_gone_takes_its_attachment_along() {
    let mut lab = Host::with_pods(1);
    lab.attach(&lab.request(0)).unwrap();
    lab.pods.clear();
    // The kernel ends a namespace in the background; asking again is harmless either way.
    lab.in_host(|| detach("web-1"));
    assert_eq!(lab.in_host(|| attachments(BRIDGE)), []);
}

#[test]
fn attempts_at_the_same_time_take_turns() {
    let host = Host::with_pods(1);
    let request = host.request(0);
    let together = std::sync::Barrier::new(4);
    let seen: Vec<Attachment> = std::thread::scope(|scope| {
        let attempts: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    host.attach(&request).unwrap()
                })
            })
            .collect();
        attempts
            .into_iter()
            .map(|attempt| attempt.join().unwrap())
            .collect()
    });
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    assert_eq!(host.in_host(|| attachments(BRIDGE)).len(), 1);
}
