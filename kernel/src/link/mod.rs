//! Network interfaces of the calling thread's namespace.

mod bridge;
mod veth;
mod vxlan;

pub use bridge::{
    BridgeAttributes, MulticastRouter, PortFlags, create_bridge, set_bridge_attributes, set_port_flags,
};
pub use veth::{VethEnd, create_veth};
pub use vxlan::{FoundTunnel, Tunnel, Vxlan, create_tunnel, create_vxlan};

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoTun, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::netlink::{LinkEvents, Netlink};
use crate::netns::Namespace;
use crate::{MacAddr, sysctl};

/// The longest interface name (IFNAMSIZ less its final zero).
pub const MAX_NAME: usize = 15;
/// The longest alias the kernel stores (IFALIASZ less its final zero).
pub const MAX_ALIAS: usize = 254;
/// `IFLA_TUN_PERSIST` in linux/if_link.h.
const IFLA_TUN_PERSIST: u16 = 6;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Driver kind: `veth`, `bridge`, `tun` (TAP as well), `vxlan`...; `None` for hardware and `lo`.
    pub kind: Option<String>,
    /// Ethernet address, where it has one of six bytes.
    pub mac: Option<MacAddr>,
    /// Largest payload in bytes.
    pub mtu: u32,
    /// Segments in one frame that is cut later, at most (`gso_max_segs`).
    pub gso_segments: u32,
    /// Administratively up.
    pub up: bool,
    /// A carrier is there: for a veth, both ends are up; for a TAP, a process holds it open.
    pub carrier: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Free text of the administrator (`ip link set alias`).
    pub alias: Option<String>,
    /// For a veth: the index of the other end, in that end's namespace.
    pub peer: Option<u32>,
    /// The id by which this namespace knows the namespace of [`peer`](Self::peer), when it is another one.
    pub peer_namespace: Option<i32>,
    /// For a bridge: its attributes.
    pub bridge: Option<BridgeAttributes>,
    /// For a VXLAN device: what it is made with.
    pub tunnel: Option<FoundTunnel>,
    /// For a bridge port: its flags.
    pub port: Option<PortFlags>,
    /// A bridge port that passes frames. One that has just got its carrier does so a moment later.
    pub forwarding: bool,
    /// For a TAP or TUN device: whether it outlives the process that holds it.
    pub persistent: Option<bool>,
}

impl Link {
    fn parse(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            gso_segments: 0,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            master: None,
            alias: None,
            peer: None,
            peer_namespace: None,
            bridge: None,
            tunnel: None,
            port: None,
            forwarding: false,
            persistent: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::GsoMaxSegs(count) => link.gso_segments = count,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(id),
                LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| link.read_info(info)),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Bridge(attributes)) => {
                self.bridge = Some(BridgeAttributes::parse(&attributes));
            }
            LinkInfo::Data(InfoData::Vxlan(attributes)) => {
                self.tunnel = Some(FoundTunnel::parse(&attributes));
            }
            LinkInfo::Data(InfoData::Tun(attributes)) => {
                self.persistent = attributes.iter().find_map(|attribute| {
                    let InfoTun::Other(nla) = attribute else {
                        return None;
                    };
                    let mut value = [0; 1];
                    let found = nla.kind() == IFLA_TUN_PERSIST && nla.value_len() == value.len();
                    found.then(|| {
                        nla.emit_value(&mut value);
                        value == [1]
                    })
                });
            }
            LinkInfo::PortData(InfoPortData::BridgePort(attributes)) => {
                self.forwarding = attributes.contains(&InfoBridgePort::State(BridgePortState::Forwarding));
                self.port = Some(PortFlags::parse(&attributes));
            }
            _ => {}
        }
    }
}

/// Every interface of this namespace.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list() -> Result<Vec<Link>> {
    let answers = Netlink::open()?.dump(RouteNetlinkMessage::GetLink(query()), || {
        "list the interfaces".into()
    })?;
    Ok(answers.into_iter().filter_map(link_of).collect())
}

/// The interface of that name, or `None`.
///
/// # Errors
/// When the kernel cannot be asked, or no interface can have that name.
pub fn find(name: &str) -> Result<Option<Link>> {
    check_name(name)?;
    let mut message = query();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    let answer = Netlink::open()?.get(RouteNetlinkMessage::GetLink(message), || {
        format!("look up the interface {name}")
    })?;
    Ok(answer.and_then(link_of))
}

/// The interface of that index in the namespace that this one knows by `namespace`, in this one when `None`.
pub(crate) fn find_in(namespace: Option<i32>, index: u32) -> Result<Option<Link>> {
    let mut message = query();
    message.header.index = index;
    if let Some(id) = namespace {
        message.attributes.push(LinkAttribute::IfNetnsId(id));
    }
    let answer = Netlink::open()?.get(RouteNetlinkMessage::GetLink(message), || {
        format!("look up interface {index} of a pod")
    });
    match answer {
        Ok(answer) => Ok(answer.and_then(link_of)),
        // The namespace has gone in the meantime.
        Err(Error::Refused {
            errno: Errno::INVAL, ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The interface of that name.
///
/// # Errors
/// [`Error::NoSuchLink`] when there is none.
pub fn get(name: &str) -> Result<Link> {
    find(name)?.ok_or_else(|| Error::NoSuchLink { name: name.into() })
}

/// Removes an interface; `false` when there was none. The other end of a veth goes with it.
///
/// # Errors
/// When the kernel refuses.
pub fn delete(name: &str) -> Result<bool> {
    check_name(name)?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.into()));
    let result = Netlink::open()?.execute(RouteNetlinkMessage::DelLink(message), 0, || {
        format!("delete the interface {name}")
    });
    match result {
        Ok(()) => Ok(true),
        Err(Error::Refused {
            errno: Errno::NODEV, ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Brings an interface up.
///
/// # Errors
/// When it does not exist or the kernel refuses.
pub fn set_up(name: &str) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    change(name, message, "up")
}

/// Takes an interface down.
///
/// # Errors
/// When it does not exist or the kernel refuses.
pub fn set_down(name: &str) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.change_mask = LinkFlags::Up;
    change(name, message, "down")
}

/// Sets the largest payload, in bytes.
///
/// # Errors
/// When it does not exist or the kernel refuses the value.
pub fn set_mtu(name: &str, mtu: u32) -> Result<()> {
    set(name, LinkAttribute::Mtu(mtu), &format!("its MTU to {mtu}"))
}

/// Sets the Ethernet address.
///
/// # Errors
/// When it does not exist or the kernel refuses the value.
pub fn set_mac(name: &str, mac: MacAddr) -> Result<()> {
    set(
        name,
        LinkAttribute::Address(mac.to_vec()),
        &format!("its MAC to {}", crate::DisplayMac(mac)),
    )
}

/// Makes an interface a port of `bridge`, or of none.
///
/// # Errors
/// When either does not exist or the kernel refuses.
pub fn set_master(name: &str, bridge: Option<&str>) -> Result<()> {
    let index = bridge.map(get).transpose()?.map_or(0, |link| link.index);
    set(
        name,
        LinkAttribute::Controller(index),
        &format!("its bridge to {}", bridge.unwrap_or("none")),
    )
}

/// Sets the alias; an empty one removes it.
///
/// # Errors
/// When it does not exist, or the text is longer than [`MAX_ALIAS`] bytes.
pub fn set_alias(name: &str, alias: &str) -> Result<()> {
    if alias.len() > MAX_ALIAS {
        return Err(Error::Invalid {
            what: "interface alias",
            value: alias.into(),
            rule: "it has at most 254 bytes",
        });
    }
    set(name, LinkAttribute::IfAlias(alias.into()), "its alias")
}

/// Sets how many frames may wait to be sent.
///
/// # Errors
/// When it does not exist or the kernel refuses.
pub fn set_queue_length(name: &str, frames: u32) -> Result<()> {
    set(
        name,
        LinkAttribute::TxQueueLen(frames),
        &format!("its queue length to {frames}"),
    )
}

/// Sets how many segments a packet may stand for that is handed to the interface; 1 has the kernel cut all before.
///
/// # Errors
/// When it does not exist or the kernel refuses.
pub fn set_segments(name: &str, segments: u32) -> Result<()> {
    set(
        name,
        LinkAttribute::GsoMaxSegs(segments),
        &format!("its segments in one packet to {segments}"),
    )
}

/// Renames an interface.
///
/// # Errors
/// When it does not exist, or the new name is taken or unusable.
pub fn rename(name: &str, new: &str) -> Result<()> {
    check_name(new)?;
    let mut message = LinkMessage::default();
    message.header.index = get(name)?.index;
    message.attributes.push(LinkAttribute::IfName(new.into()));
    Netlink::open()?.execute(RouteNetlinkMessage::SetLink(message), 0, || {
        format!("rename the interface {name} to {new}")
    })
}

/// Moves an interface into another namespace. It arrives there down and without addresses.
///
/// # Errors
/// When it does not exist, its name is taken there, or its kind cannot move.
pub fn move_to(name: &str, namespace: &Namespace) -> Result<()> {
    set(name, namespace_attribute(namespace), "its network namespace")
}

/// Waits until a bridge port passes frames, at most for `timeout`. `false` when it does not by then,
/// for example because the bridge is down or the port has no carrier.
///
/// # Errors
/// When it does not exist.
pub fn wait_forwarding(name: &str, timeout: Duration) -> Result<bool> {
    let end = crate::process::deadline(timeout);
    let events = LinkEvents::open()?;
    loop {
        if get(name)?.forwarding {
            return Ok(true);
        }
        if !events.wait(end)? {
            return Ok(false);
        }
    }
}

/// The id under which the calling thread's namespace knows another one. `None` when it has not met it.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn namespace_id(namespace: &Namespace) -> Result<Option<i32>> {
    use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
    // A file descriptor is never negative.
    let fd = namespace.as_fd().as_raw_fd().unsigned_abs();
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(fd));
    let answer = Netlink::open()?.get(RouteNetlinkMessage::GetNsId(message), || {
        "look up a namespace's id".into()
    })?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
        return Ok(None);
    };
    Ok(answer.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
        _ => None,
    }))
}

/// Turns IPv6 on or off for one interface; see [`sysctl::set_ipv6`].
///
/// # Errors
/// When the kernel parameter cannot be written.
pub fn set_ipv6(name: &str, enabled: bool) -> Result<()> {
    check_name(name)?;
    sysctl::set_ipv6(name, enabled)
}

/// Refuses what cannot name an interface: the kernel's own rule (`dev_valid_name`).
///
/// # Errors
/// [`Error::Invalid`] with the rule.
pub fn check_name(name: &str) -> Result<()> {
    let usable = (1..=MAX_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
    if usable {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "interface name",
        value: name.into(),
        rule: "it has 1 to 15 bytes, without space, slash or colon",
    })
}

fn query() -> LinkMessage {
    let mut message = LinkMessage::default();
    // Statistics would be most of the answer, and nobody here reads them.
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::parse(message)),
        _ => None,
    }
}

fn namespace_attribute(namespace: &Namespace) -> LinkAttribute {
    LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd())
}

fn set(name: &str, attribute: LinkAttribute, what: &str) -> Result<()> {
    let mut message = LinkMessage::default();
    message.attributes.push(attribute);
    change(name, message, what)
}

fn change(name: &str, mut message: LinkMessage, what: &str) -> Result<()> {
    check_name(name)?;
    message.attributes.push(LinkAttribute::IfName(name.into()));
    Netlink::open()?
        .execute(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set the interface {name}: {what}")
        })
        .map_err(|error| no_such_link(error, name))
}

fn no_such_link(error: Error, name: &str) -> Error {
    match error {
        Error::Refused {
            errno: Errno::NODEV, ..
        } => Error::NoSuchLink { name: name.into() },
        other => other,
    }
}

fn create(
    name: &str,
    kind: InfoKind,
    data: Option<InfoData>,
    mut attributes: Vec<LinkAttribute>,
) -> Result<()> {
    check_name(name)?;
    let description = format!("create the {kind} {name}");
    attributes.push(LinkAttribute::IfName(name.into()));
    let infos = std::iter::once(LinkInfo::Kind(kind))
        .chain(data.map(LinkInfo::Data))
        .collect();
    attributes.push(LinkAttribute::LinkInfo(infos));
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    Netlink::open()?.execute(
        RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
        || description.clone(),
    )
}

/// Changes what belongs to a device's kind. The kernel takes that only by `RTM_NEWLINK`, which
/// without `NLM_F_CREATE` changes an existing device.
fn change_kind(name: &str, infos: Vec<LinkInfo>, what: &str) -> Result<()> {
    check_name(name)?;
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::LinkInfo(infos)];
    Netlink::open()?
        .execute(RouteNetlinkMessage::NewLink(message), 0, || {
            format!("set the interface {name}: {what}")
        })
        .map_err(|error| no_such_link(error, name))
}
