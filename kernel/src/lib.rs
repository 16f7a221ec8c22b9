//! What weft asks of the Linux kernel: namespaces, links, addresses, routes, the bridge's
//! forwarding database, TAP devices, packet capture and the one [`attach::attach`].
//!
//! | module | what it does |
//! |---|---|
//! | [`netns`] | network namespaces: make, open, run code or a child inside |
//! | [`userns`] | become root of a new user namespace |
//! | [`link`] | veth pairs, bridges, VXLAN devices, link and bridge port attributes |
//! | [`offload`] | what a device does in the kernel's stead: segmentation, checksums |
//! | [`addr`], [`route`] | addresses and routes |
//! | [`fdb`] | the bridge's forwarding database, and where VXLAN devices send frames |
//! | [`mdb`] | the bridge's multicast database: who listens to which groups |
//! | [`mld`] | asks pods to which groups of IPv6 they listen |
//! | [`neighbour`] | permanent neighbours of an interface |
//! | [`listeners`] | that of VXLAN devices: to which hosts they send frames of which groups |
//! | [`gate`] | an interface that lets in only what the packet filter marked |
//! | [`nft`], [`xtables`] | the packet filters: chains that see what is forwarded, and rules of our own in them |
//! | [`sysctl`] | `/proc/sys` of the calling thread's namespace |
//! | [`tap`] | persistent TAP devices, and those with offloads |
//! | [`socket`] | receive buffers, peer credentials, times of arrival |
//! | [`capture`] | frames seen by an interface, from a ring shared with the kernel |
//! | [`packet`] | frames of one ethertype on one interface, both ways |
//! | [`process`] | bounded waiting for children |
//! | [`announce`] | tell everybody where an address lives now: gratuitous ARP, unsolicited advertisements
//! | [`attach`] | connect a pod to the bridge, idempotently |
//! | [`inspect`] | what the attached pods really have |
//!
//! Every function is synchronous and works in the network namespace of the calling *thread*.
//! From tokio, call through `spawn_blocking`, or keep the call short: a request is answered by
//! the kernel inside the system call that sends it.
//!
//! The netlink connection is our own hundred lines over netlink-sys, with the messages of
//! netlink-packet-route. rtnetlink needs a tokio runtime for each call, and a runtime inside a
//! runtime panics; it is used where events are awaited, in the fastpath driver.
//!
//! This is the only package with `unsafe` code. It is allowed in the modules that need it
//! ([`netns`], [`userns`], [`tap`], [`socket`], [`capture`], [`packet`], [`offload`], [`xtables`]), and each block carries its proof.

#![warn(missing_docs)]

pub mod addr;
pub mod announce;
pub mod attach;
mod batch;
pub mod capture;
mod error;
pub mod fdb;
pub mod gate;
pub mod inspect;
pub mod link;
pub mod listeners;
pub mod mdb;
pub mod mld;
pub mod neighbour;
mod netlink;
pub mod netns;
pub mod nft;
mod nla;
pub mod offload;
pub mod packet;
pub mod process;
pub mod route;
pub mod socket;
pub mod sysctl;
pub mod tap;
pub mod userns;
pub mod xtables;

pub use error::{Error, Result};
pub use netns::Namespace;

/// An Ethernet address, in transmission order.
pub type MacAddr = [u8; 6];

/// A MAC address as six hexadecimal pairs with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayMac(pub MacAddr);

impl std::fmt::Display for DisplayMac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for DisplayMac {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut mac = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut mac {
            let pair = pairs
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(pair.ok_or(())?, 16).map_err(|_| ())?;
        }
        if pairs.next().is_some() {
            Err(())
        } else {
            Ok(Self(mac))
        }
    }
}
