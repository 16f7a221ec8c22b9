//! A host in a network namespace: a bridge with the engine's TAP device and a pod's, and the engine.
//!
//! The pod is a TAP device too, so that a test writes and reads frames as they are, with VLAN tags in place.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod peer;
pub(crate) mod tcp;

use std::fmt::Debug;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tun_tap::{Iface, Mode};
use weft_kernel::link::{VethEnd, create_veth};
use weft_kernel::{Namespace, addr, link, tap};
use weft_sleeve::{Cipher, ForwardingTable, PeerPath, SessionKeys};
use weft_sleeve_engine::{Engine, EngineChoice, EngineConfig, EngineError, EngineEvent};
use weft_wire::api::Traffic;
use weft_wire::{DropReason, Mac, NodeId, SessionIndex};

/// What is awaited comes at once; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const TAP: &str = "weft-tap";

pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) engine: Box<dyn Engine>,
    events: Receiver<EngineEvent>,
    pod: Pod,
}

struct Pod {
    tap: Iface,
    poll: Poll,
    events: Events,
}

/// Makes the bridge with both TAP devices in the calling thread's namespace; returns the pod's.
fn wire(mtu: u32) -> Iface {
    link::create_bridge("br", &Default::default()).unwrap();
    tap::create_persistent(TAP).unwrap();
    let pod = Iface::without_packet_info("pod", Mode::Tap).unwrap();
    pod.set_non_blocking().unwrap();
    for port in [TAP, "pod"] {
        link::set_mtu(port, mtu).unwrap();
        link::set_master(port, Some("br")).unwrap();
    }
    for device in ["br", TAP, "pod"] {
        // Else the kernel's own neighbour discovery would mix with the frames of the test.
        link::set_ipv6(device, false).unwrap();
        link::set_up(device).unwrap();
    }
    pod
}

pub(crate) fn start(
    choice: EngineChoice,
    address: SocketAddr,
) -> (
    Result<Box<dyn Engine>, EngineError>,
    SocketAddr,
    Receiver<EngineEvent>,
) {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    let (sender, events) = sync_channel(1_024);
    let config = EngineConfig {
        tap: TAP.into(),
        socket,
        events: Box::new(move |event| sender.try_send(event).is_ok()),
    };
    (weft_sleeve_engine::start(choice, config), address, events)
}

impl Host {
    /// A host whose devices carry packets of `mtu` octets, and whose engine listens at `address`.
    pub(crate) fn new(
        namespace: &Namespace,
        node: u8,
        mtu: u32,
        address: SocketAddr,
        choice: EngineChoice,
    ) -> Self {
        let (tap, (engine, address, events)) = namespace.run(|| (wire(mtu), start(choice, address))).unwrap();
        let engine = engine.unwrap();
        let name = if choice == EngineChoice::Best {
            "fast"
        } else {
            "plain"
        };
        assert_eq!(engine.description().name, name, "{:?}", engine.description());
        for port in [TAP, "pod"] {
            let forwarding = namespace
                .run(|| link::wait_forwarding(port, PATIENCE).unwrap())
                .unwrap();
            assert!(forwarding, "the bridge port {port} does not pass frames");
        }
        let poll = Poll::new().unwrap();
        poll.registry()
            .register(&mut SourceFd(&tap.as_raw_fd()), Token(0), Interest::READABLE)
            .unwrap();
        Self {
            namespace: namespace.clone(),
            node: NodeId([node; 32]),
            address,
            engine,
            events,
            pod: Pod {
                tap,
                poll,
                events: Events::with_capacity(1),
            },
        }
    }

    /// Sends a frame from the pod.
    pub(crate) fn write(&self, frame: &[u8]) {
        assert_eq!(self.pod.tap.send(frame).unwrap(), frame.len());
    }

    /// The next frame that reaches the pod.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 70_000];
        loop {
            match self.pod.tap.recv(&mut buffer) {
                Ok(length) => return buffer[..length].to_vec(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the pod's TAP device: {error}"),
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no frame reached the pod; drops: {:?}",
                self.drops()
            );
            self.pod.poll.poll(&mut self.pod.events, Some(left)).unwrap();
        }
    }

    /// The next event that is none of [`EngineEvent::Learned`] and [`EngineEvent::Sent`].
    pub(crate) fn event(&self) -> EngineEvent {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("no event came") {
                EngineEvent::Learned { .. } | EngineEvent::Sent { .. } => {}
                event => return event,
            }
        }
    }

    /// Every event that came and was not read yet.
    pub(crate) fn pending_events(&self) -> Vec<EngineEvent> {
        self.events.try_iter().collect()
    }

    /// Counters that are not zero.
    pub(crate) fn drops(&self) -> Vec<(DropReason, u64)> {
        let counters = self.engine.counters();
        DropReason::ALL
            .iter()
            .map(|r| (*r, counters.drops[*r as usize]))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// Waits until these drops and no others are counted; workers count just after they drop.
    pub(crate) fn await_drops(&self, expected: &[(DropReason, u64)]) {
        await_value(|| self.drops(), &expected.to_vec());
    }

    /// Waits until the traffic with a peer is counted; workers count just after they send or deliver.
    pub(crate) fn await_traffic(&self, peer: NodeId, expected: Traffic) {
        await_value(|| self.engine.counters().peers[&peer], &expected);
    }

    /// A table with one peer.
    pub(crate) fn publish(
        &self,
        peer: NodeId,
        session: Option<u32>,
        endpoint: Option<SocketAddr>,
        macs: &[Mac],
    ) {
        self.publish_path(peer, session, endpoint, macs, u16::MAX);
    }

    /// The same, with what the path is known to carry.
    pub(crate) fn publish_path(
        &self,
        peer: NodeId,
        session: Option<u32>,
        endpoint: Option<SocketAddr>,
        macs: &[Mac],
        datagram: u16,
    ) {
        let mut table = ForwardingTable::empty(self.node.peer_hash());
        let session = session.map(SessionIndex);
        table.peers.push(PeerPath {
            peer,
            hash: peer.peer_hash(),
            session,
            endpoint,
            by_relay: false,
            datagram,
        });
        table.macs = macs.iter().map(|mac| (*mac, 0)).collect();
        self.engine.publish(&table);
    }
}

pub(crate) const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub(crate) const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

/// The engine of each of two hosts.
pub(crate) struct Engines([EngineChoice; 2]);

impl From<EngineChoice> for Engines {
    fn from(both: EngineChoice) -> Self {
        Self([both; 2])
    }
}

impl From<[EngineChoice; 2]> for Engines {
    fn from(each: [EngineChoice; 2]) -> Self {
        Self(each)
    }
}

/// Two hosts joined by a cable of this MTU, with a session between them. Each listens at its address.
pub(crate) fn two_hosts(
    engines: impl Into<Engines>,
    cipher: Cipher,
    underlay: u32,
    mtu: u32,
    listen: [&str; 2],
    reach: [&str; 2],
) -> [Host; 2] {
    let Engines(engines) = engines.into();
    let namespaces = [Namespace::new().unwrap(), Namespace::new().unwrap()];
    let end = |at: usize| VethEnd::inside("under", &namespaces[at]).mtu(underlay);
    namespaces[0]
        .run(|| create_veth(&end(0), &end(1)).unwrap())
        .unwrap();
    for (namespace, n) in namespaces.iter().zip(1..) {
        let addresses: [IpNet; 2] = [
            format!("192.0.2.{n}/24").parse().unwrap(),
            format!("2001:db8::{n}/64").parse().unwrap(),
        ];
        namespace
            .run(|| {
                link::set_up("under").unwrap();
                for address in addresses {
                    addr::add("under", address).unwrap();
                }
            })
            .unwrap();
    }
    let [one, other] = [0, 1].map(|at| {
        Host::new(
            &namespaces[at],
            at as u8 + 1,
            mtu,
            listen[at].parse().unwrap(),
            engines[at],
        )
    });
    one.engine
        .install(&keys(other.node, cipher, 100, 200, 11, 22))
        .unwrap();
    other
        .engine
        .install(&keys(one.node, cipher, 200, 100, 22, 11))
        .unwrap();
    one.publish(other.node, Some(100), Some(reach[1].parse().unwrap()), &[B]);
    other.publish(one.node, Some(200), Some(reach[0].parse().unwrap()), &[A]);
    [one, other]
}

pub(crate) const IPV4: [&str; 2] = ["192.0.2.1:6783", "192.0.2.2:6783"];
pub(crate) const IPV6: [&str; 2] = ["[2001:db8::1]:6783", "[2001:db8::2]:6783"];

pub(crate) fn await_value<T: PartialEq + Debug>(read: impl Fn() -> T, expected: &T) {
    let end = Instant::now() + PATIENCE;
    while read() != *expected {
        assert!(
            Instant::now() < end,
            "counted are {:?}, expected {expected:?}",
            read()
        );
        std::thread::yield_now();
    }
}

pub(crate) fn keys(
    peer: NodeId,
    cipher: Cipher,
    local: u32,
    remote: u32,
    send: u8,
    receive: u8,
) -> SessionKeys {
    SessionKeys {
        local: SessionIndex(local),
        remote: SessionIndex(remote),
        peer,
        cipher,
        send: [send; 32],
        receive: [receive; 32],
    }
}

/// A frame of `length` octets: both addresses, what follows them, and a pattern.
pub(crate) fn frame(to: Mac, from: Mac, then: &[u8], length: usize) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, then].concat();
    let filling = (frame.len()..length).map(|at| (at % 251) as u8);
    frame.extend(filling);
    frame
}

#[allow(unused_macros, reason = "each test binary uses its part")]
/// Makes a test of each of these functions for each engine.
macro_rules! with_each_engine {
    ($($test:ident),+ $(,)?) => {
        mod plain {
            $(#[test]
            fn $test() {
                super::$test(weft_sleeve_engine::EngineChoice::Plain);
            })+
        }
        mod fast {
            $(#[test]
            fn $test() {
                super::$test(weft_sleeve_engine::EngineChoice::Best);
            })+
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use with_each_engine;
