//! Whose VXLAN is let in, and that pods send none: with each single rule, set or other object taken away, no frame of anybody
//! else is delivered. Without all of them it is, which shows that these tests can fail.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};

use common::{
    DATA, Host, MESH, MTU, PORT, Pod, acquaint, datagram, hosts, ipv4, ipv6, mac, program, sees_only, vxlan,
};
use weft_fastpath::{Via, View};
use weft_kernel::capture::Capture;
use weft_kernel::link::{self, VethEnd};
use weft_kernel::{Namespace, addr, gate, route, sysctl};

/// What is taken away.
#[derive(Clone, Copy)]
enum Gone {
    /// Nothing.
    Nothing,
    /// A rule, by chain and place.
    Rule(&'static str, usize),
    /// Every element of a set.
    Elements(&'static str),
    /// A set with the rule that looks into it, by chain and place.
    Set(&'static str, &'static str, usize),
    /// A chain.
    Chain(&'static str),
    /// The table.
    Table,
    /// Every rule of this host, as a restart of the packet filter's service does.
    Ruleset,
    /// The gates of the devices.
    Gates,
}

impl Gone {
    fn take(self, host: &Host) {
        let nft = |line: &str| program(&host.namespace, &format!("nft {line}"));
        match self {
            Self::Nothing => {}
            Self::Rule(chain, place) => {
                let listed = nft(&format!("-a list chain inet weft {chain}"));
                let mut handles = listed
                    .lines()
                    .filter_map(|line| line.split_once("# handle "))
                    .filter(|(rule, _)| !rule.trim_end().ends_with('{'))
                    .map(|(_, handle)| handle);
                let handle = handles.nth(place).unwrap_or_else(|| panic!("{listed}"));
                nft(&format!("delete rule inet weft {chain} handle {handle}"));
            }
            Self::Elements(set) => drop(nft(&format!("flush set inet weft {set}"))),
            Self::Set(set, chain, place) => {
                Self::Rule(chain, place).take(host);
                nft(&format!("delete set inet weft {set}"));
            }
            Self::Chain(chain) => {
                nft(&format!("flush chain inet weft {chain}"));
                nft(&format!("delete chain inet weft {chain}"));
            }
            Self::Table => drop(nft("delete table inet weft")),
            Self::Ruleset => drop(nft("flush ruleset")),
            Self::Gates => host.run(|_| {
                for name in ["weft-vx", "weft-vx6"] {
                    gate::open(name).unwrap();
                }
            }),
        }
    }
}

fn send(from: &Namespace, to: IpAddr, text: &[u8]) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    from.run(|| {
        let socket = UdpSocket::bind(any).unwrap();
        socket
            .send_to(&datagram(DATA, text), SocketAddr::new(to, PORT))
            .unwrap();
    })
    .unwrap();
}

/// A host with a peer, and with two pods.
struct Victim {
    _wire: Namespace,
    peer: Host,
    host: Host,
    stranger: Host,
    neighbour: Pod,
    capture: Capture,
    view: View,
    _pod: Pod,
}

impl Victim {
    fn new() -> Self {
        let (wire, [peer, host, stranger]) = hosts::<3>();
        let view = View {
            remote: [(mac(1), Via::Kernel(ipv4(1))), (mac(2), Via::Kernel(ipv6(1)))].into(),
            vxlan: Some(vxlan([ipv4(1), ipv6(1)])),
            ..View::new(MTU)
        };
        host.settle(&view);
        for to in [ipv4(2), ipv6(2)] {
            acquaint(&peer.namespace, &host.namespace, to);
            acquaint(&stranger.namespace, &host.namespace, to);
        }
        let (pod, neighbour) = (host.pod(21), host.pod(22));
        let capture = pod.capture();
        Self {
            _wire: wire,
            peer,
            host,
            stranger,
            neighbour,
            capture,
            view,
            _pod: pod,
        }
    }

    /// Whether the pod hears a host, over IPv4 or IPv6. Its neighbour speaks last.
    fn hears(&mut self, text: &[u8], speaks: impl FnOnce(&Self)) -> bool {
        speaks(self);
        let socket = self.neighbour.socket(0);
        socket.send_to(b"neighbour", "10.0.0.255:9").unwrap();
        !sees_only(&mut self.capture, b"neighbour", text)
    }

    fn hears_peer(&mut self, to: IpAddr) -> bool {
        let heard = self.hears(b"peer", |all| send(&all.peer.namespace, to, b"peer"));
        // The neighbour, who has spoken after it, is not to be taken for the next answer.
        heard && sees_only(&mut self.capture, b"neighbour", b"another peer")
    }

    fn hears_stranger(&mut self) -> bool {
        self.hears(b"stranger", |all| {
            for to in [ipv4(2), ipv6(2)] {
                send(&all.stranger.namespace, to, b"stranger");
            }
        })
    }
}

fn nothing_of_a_stranger_comes_in_without(gone: Gone) {
    let mut victim = Victim::new();
    for to in [ipv4(2), ipv6(2)] {
        assert!(victim.hears_peer(to), "the peer is not heard at {to}");
    }
    gone.take(&victim.host);
    assert!(!victim.hears_stranger());
    let view = victim.view.clone();
    victim.host.settle(&view);
    assert!(!victim.hears_stranger());
    assert!(victim.hears_peer(ipv4(2)) && victim.hears_peer(ipv6(2)));
}

#[test]
fn without_table_and_gates_a_stranger_is_heard() {
    let mut victim = Victim::new();
    assert!(!victim.hears_stranger());
    Gone::Table.take(&victim.host);
    Gone::Gates.take(&victim.host);
    assert!(victim.hears_stranger());
}

/// Only the first fragment has a port; the mark is that of the whole.
#[test]
fn fragments_of_a_peer_come_in_and_those_of_a_stranger_do_not() {
    let mut victim = Victim::new();
    for host in [&victim.peer, &victim.stranger] {
        host.run(|_| link::set_mtu("eth0", 1280).unwrap());
    }
    let long = |text: &[u8]| [vec![0; 1250], text.to_vec()].concat();
    for to in [ipv4(2), ipv6(2)] {
        assert!(victim.hears(b"long peer", |all| send(
            &all.peer.namespace,
            to,
            &long(b"long peer")
        )));
        assert!(sees_only(&mut victim.capture, b"neighbour", b"another peer"));
        assert!(!victim.hears(b"long stranger", |all| send(
            &all.stranger.namespace,
            to,
            &long(b"long stranger")
        )));
    }
}

#[test]
fn what_peers_send_is_counted() {
    let mut victim = Victim::new();
    assert!(victim.hears_peer(ipv4(2)));
    let traffic = victim.host.run(|driver| driver.traffic()).unwrap();
    let counted = traffic[&ipv4(1)];
    assert_eq!(counted.received_packets, 1);
    assert!(counted.received_bytes > 60 && counted.sent_packets == 0);
    assert_eq!(traffic[&ipv6(1)].received_packets, 0);
}

macro_rules! strangers {
    ($($name:ident: $gone:expr;)*) => {
        mod nothing_of_a_stranger_comes_in_without {
            use super::Gone;
            $(
                #[test]
                fn $name() {
                    super::nothing_of_a_stranger_comes_in_without($gone);
                }
            )*
        }
    };
}

strangers! {
    anything_missing: Gone::Nothing;
    the_rule_that_accepts_ipv4: Gone::Rule("arriving", 0);
    the_rule_that_accepts_ipv6: Gone::Rule("arriving", 1);
    the_rule_that_drops_others: Gone::Rule("arriving", 2);
    the_rule_for_what_pods_send_here: Gone::Rule("for-this-host", 0);
    the_rule_that_counts_ipv4: Gone::Rule("leaving", 0);
    the_rule_that_counts_ipv6: Gone::Rule("leaving", 1);
    the_rule_for_what_leaves: Gone::Rule("passing", 0);
    the_rule_for_what_is_passed_on: Gone::Rule("passing", 1);
    the_rule_for_what_is_marked: Gone::Rule("passing", 2);
    the_second_rule_for_what_leaves: Gone::Rule("passing-still", 0);
    the_elements_of_accepted4: Gone::Elements("accepted4");
    the_elements_of_accepted6: Gone::Elements("accepted6");
    the_elements_of_sent4: Gone::Elements("sent4");
    the_elements_of_sent6: Gone::Elements("sent6");
    the_set_accepted4: Gone::Set("accepted4", "arriving", 0);
    the_set_accepted6: Gone::Set("accepted6", "arriving", 1);
    the_set_sent4: Gone::Set("sent4", "leaving", 0);
    the_set_sent6: Gone::Set("sent6", "leaving", 1);
    the_chain_arriving: Gone::Chain("arriving");
    the_chain_for_this_host: Gone::Chain("for-this-host");
    the_chain_leaving: Gone::Chain("leaving");
    the_chain_passing: Gone::Chain("passing");
    the_chain_passing_still: Gone::Chain("passing-still");
    the_table: Gone::Table;
    any_rule_of_this_host: Gone::Ruleset;
    the_gates: Gone::Gates;
}

/// A host that hides its pods, and containers of another network, behind its own address; and a peer that trusts it.
struct Nat {
    _wire: Namespace,
    _peer: Host,
    host: Host,
    /// With the address inside of the host, as seen from there.
    insiders: [(Namespace, IpAddr); 2],
    _pods: [Pod; 3],
    /// At the peer, and at the host itself.
    captures: [Capture; 2],
    view: View,
    neighbours: [UdpSocket; 2],
}

impl Nat {
    fn new() -> Self {
        let (wire, [host, peer]) = hosts::<2>();
        let view = |other: u8, away: u8| View {
            remote: [(mac(other), Via::Kernel(ipv4(other)))].into(),
            // The host also has a peer that is away, whose address anybody may put into a packet.
            vxlan: Some(vxlan([ipv4(other), ipv4(away)])),
            ..View::new(MTU)
        };
        let own = view(2, 77);
        host.settle(&own);
        peer.settle(&view(1, 78));
        let pods = [host.pod(11), host.pod(12), peer.pod(21)];
        let peers_neighbour = peer.pod(22);
        let other = Namespace::new().unwrap();
        host.run(|_| {
            addr::add("weft", "10.0.0.254/24".parse().unwrap()).unwrap();
            link::create_veth(&VethEnd::here("other0"), &VethEnd::inside("eth0", &other)).unwrap();
            addr::add("other0", "172.17.0.1/24".parse().unwrap()).unwrap();
            link::set_up("other0").unwrap();
            sysctl::set("net/ipv4/ip_forward", "1").unwrap();
        });
        program(&host.namespace, "nft add table ip nat");
        program(
            &host.namespace,
            "nft add chain ip nat out { type nat hook postrouting priority 100 ; }",
        );
        program(&host.namespace, "nft add rule ip nat out oifname eth0 masquerade");
        let insider = |namespace: &Namespace, address: &str, gateway: IpAddr| {
            namespace
                .run(|| {
                    link::set_up("eth0").unwrap();
                    if !address.is_empty() {
                        addr::add("eth0", address.parse().unwrap()).unwrap();
                    }
                    route::add_default("eth0", gateway).unwrap();
                    link::set_up("lo").unwrap();
                    // Its own, it believes.
                    addr::add("lo", format!("{}/32", ipv4(77)).parse().unwrap()).unwrap();
                })
                .unwrap();
            (namespace.clone(), gateway)
        };
        let insiders = [
            insider(&pods[0].namespace, "", [10, 0, 0, 254].into()),
            insider(&other, "172.17.0.2/24", [172, 17, 0, 1].into()),
        ];
        for (namespace, gateway) in &insiders {
            acquaint(namespace, &peer.namespace, ipv4(2));
            acquaint(namespace, &host.namespace, *gateway);
        }
        let captures = [pods[2].capture(), pods[1].capture()];
        let neighbours = [peers_neighbour.socket(0), pods[0].socket(0)];
        let [first, second, third] = pods;
        Self {
            _wire: wire,
            _peer: peer,
            host,
            insiders,
            captures,
            view: own,
            neighbours,
            _pods: [first, second, third],
        }
    }

    /// Whether anything that insiders send as VXLAN becomes a frame of pods, at the peer or here.
    fn injects(&mut self) -> bool {
        for (namespace, gateway) in &self.insiders {
            namespace
                .run(|| {
                    for source in [IpAddr::from([0, 0, 0, 0]), ipv4(77)] {
                        let socket = UdpSocket::bind((source, 0)).unwrap();
                        for to in [ipv4(2), *gateway, ipv4(1)] {
                            // What is refused on the way is not delivered.
                            let _ = socket.send_to(&datagram(DATA, b"injected"), (to, PORT));
                        }
                    }
                })
                .unwrap();
        }
        let mut injected = false;
        for (capture, neighbour) in self.captures.iter_mut().zip(&self.neighbours) {
            neighbour.send_to(b"neighbour", "10.0.0.255:9").unwrap();
            injected |= !sees_only(capture, b"neighbour", b"injected");
        }
        injected
    }
}

fn no_pod_injects_without(gone: Gone) {
    let mut nat = Nat::new();
    assert!(!nat.injects());
    gone.take(&nat.host);
    assert!(!nat.injects());
    // The bridge has an address by now, and what is known by it.
    let view = nat.view.clone();
    nat.host.run(|driver| driver.reconcile_blocking(&view)).unwrap();
    assert!(!nat.injects());
}

#[test]
fn without_the_table_a_pod_injects_through_nat() {
    let mut nat = Nat::new();
    Gone::Table.take(&nat.host);
    assert!(nat.injects());
}

macro_rules! pods {
    ($($name:ident: $gone:expr;)*) => {
        mod no_pod_injects_without {
            use super::Gone;
            $(
                #[test]
                fn $name() {
                    super::no_pod_injects_without($gone);
                }
            )*
        }
    };
}

pods! {
    the_rule_that_accepts_ipv4: Gone::Rule("arriving", 0);
    the_rule_that_accepts_ipv6: Gone::Rule("arriving", 1);
    the_rule_that_drops_others: Gone::Rule("arriving", 2);
    the_rule_for_what_pods_send_here: Gone::Rule("for-this-host", 0);
    the_rule_that_counts_ipv4: Gone::Rule("leaving", 0);
    the_rule_that_counts_ipv6: Gone::Rule("leaving", 1);
    the_rule_for_what_leaves: Gone::Rule("passing", 0);
    the_rule_for_what_is_passed_on: Gone::Rule("passing", 1);
    the_rule_for_what_is_marked: Gone::Rule("passing", 2);
    the_second_rule_for_what_leaves: Gone::Rule("passing-still", 0);
    the_elements_of_accepted4: Gone::Elements("accepted4");
    the_elements_of_sent4: Gone::Elements("sent4");
    the_gates: Gone::Gates;
}

#[test]
fn pods_do_not_reach_the_mesh_by_the_bridge() {
    let nat = Nat::new();
    let mesh = nat
        .host
        .run(|_| ["10.0.0.254", "192.0.2.1"].map(|own| UdpSocket::bind((own, MESH)).unwrap()));
    let open = nat
        .host
        .run(|_| UdpSocket::bind(("10.0.0.254", MESH + 10)).unwrap());
    let (pod, gateway) = &nat.insiders[0];
    pod.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for to in [*gateway, ipv4(1)] {
            let _ = socket.send_to(b"mesh", (to, MESH));
        }
        socket.send_to(b"open", (*gateway, MESH + 10)).unwrap();
    })
    .unwrap();
    let mut buffer = [0; 16];
    open.set_read_timeout(Some(common::SOON)).unwrap();
    assert_eq!(open.recv(&mut buffer).unwrap(), 4);
    for socket in mesh {
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut buffer).is_err());
    }
}
