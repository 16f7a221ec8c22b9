//! Pairs of virtual Ethernet devices (veth(4)).

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};

use super::{check_name, create, namespace_attribute};
use crate::MacAddr;
use crate::error::Result;
use crate::netns::Namespace;

/// One end of a pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is made; `None` is the calling thread's namespace.
    pub namespace: Option<&'a Namespace>,
    /// Its Ethernet address; `None` lets the kernel choose one at random.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes; `None` is the kernel's 1500.
    pub mtu: Option<u32>,
    /// Segments in one frame that is cut later (`gso_max_segs`); `None` is the kernel's 65,535.
    pub gso_segments: Option<u32>,
}

impl<'a> VethEnd<'a> {
    /// An end in the calling thread's namespace, with a random address.
    #[must_use]
    pub fn here(name: &'a str) -> Self {
        Self {
            name,
            namespace: None,
            mac: None,
            mtu: None,
            gso_segments: None,
        }
    }

    /// An end in another namespace, with a random address.
    #[must_use]
    pub fn inside(name: &'a str, namespace: &'a Namespace) -> Self {
        Self {
            namespace: Some(namespace),
            ..Self::here(name)
        }
    }

    /// With this Ethernet address.
    #[must_use]
    pub fn mac(self, mac: MacAddr) -> Self {
        Self {
            mac: Some(mac),
            ..self
        }
    }

    /// With this MTU in bytes.
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Self {
        Self {
            mtu: Some(mtu),
            ..self
        }
    }

    /// With at most so many segments in one frame that is cut later.
    #[must_use]
    pub fn gso_segments(self, count: u32) -> Self {
        Self {
            gso_segments: Some(count),
            ..self
        }
    }

    fn attributes(&self) -> Vec<LinkAttribute> {
        let mut attributes = Vec::new();
        attributes.extend(self.namespace.map(namespace_attribute));
        attributes.extend(self.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes.extend(self.gso_segments.map(LinkAttribute::GsoMaxSegs));
        attributes
    }
}

/// Makes a pair in one step, each end in its namespace. Both are down.
///
/// # Errors
/// `EEXIST` when either name is taken where it is to be.
pub fn create_veth(one: &VethEnd<'_>, other: &VethEnd<'_>) -> Result<()> {
    check_name(other.name)?;
    let mut peer = LinkMessage::default();
    peer.attributes = other.attributes();
    peer.attributes.push(LinkAttribute::IfName(other.name.into()));
    create(
        one.name,
        InfoKind::Veth,
        Some(InfoData::Veth(InfoVeth::Peer(peer))),
        one.attributes(),
    )
}
