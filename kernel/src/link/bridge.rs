//! Bridges and their ports (`IFLA_BR_*` and `IFLA_BRPORT_*` of linux/if_link.h).

use std::time::Duration;

use netlink_packet_route::link::{
    BridgeMulticastRouterType, BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, LinkInfo,
};

use super::{change_kind, create, find};
use crate::error::{Error, Result};

/// The kernel counts bridge times in hundredths of a second (USER_HZ).
const TICK_MILLIS: u64 = 10;

/// Attributes of a bridge. [`Default`] is what weft uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeAttributes {
    /// Whether IGMP and MLD decide where multicast goes.
    pub mcast_snooping: bool,
    /// Whether the bridge itself asks who listens.
    pub mcast_querier: bool,
    /// In which version of IGMP it asks, and understands answers: 2 or 3.
    pub igmp_version: u8,
    /// In which version of MLD: 1 or 2.
    pub mld_version: u8,
    /// How long a learned address is kept, in steps of 10 ms.
    pub ageing: Duration,
    /// Whether the kernel runs the spanning tree protocol.
    pub stp: bool,
    /// How long a port listens before it forwards, in steps of 10 ms. The kernel accepts 0 only without STP.
    pub forward_delay: Duration,
    /// The VLAN given to untagged frames of a new port; 0 is none. With one, each static
    /// forwarding entry exists twice: with and without that VLAN.
    pub default_pvid: u16,
}

impl Default for BridgeAttributes {
    fn default() -> Self {
        Self {
            mcast_snooping: false,
            mcast_querier: false,
            igmp_version: 2,
            mld_version: 1,
            ageing: Duration::from_secs(300),
            stp: false,
            forward_delay: Duration::ZERO,
            default_pvid: 0,
        }
    }
}

impl BridgeAttributes {
    pub(super) fn parse(attributes: &[InfoBridge]) -> Self {
        // What the kernel does not report, it does not have: a kernel without VLAN filtering has no PVID.
        let mut found = Self {
            mcast_snooping: false,
            mcast_querier: false,
            igmp_version: 2,
            mld_version: 1,
            ageing: Duration::ZERO,
            stp: false,
            forward_delay: Duration::ZERO,
            default_pvid: 0,
        };
        for attribute in attributes {
            match attribute {
                InfoBridge::MulticastSnooping(on) => found.mcast_snooping = *on,
                InfoBridge::MulticastQuerier(on) => found.mcast_querier = *on,
                InfoBridge::MulticastIgmpVersion(version) => found.igmp_version = *version,
                InfoBridge::MulticastMldVersion(version) => found.mld_version = *version,
                InfoBridge::AgeingTime(ticks) => found.ageing = from_ticks(*ticks),
                InfoBridge::StpState(state) => found.stp = *state != BridgeStpState::Disabled,
                InfoBridge::ForwardDelay(ticks) => found.forward_delay = from_ticks(*ticks),
                InfoBridge::VlanDefaultPvid(vlan) => found.default_pvid = *vlan,
                _ => {}
            }
        }
        found
    }

    fn messages(&self, has_pvid: bool) -> Vec<InfoBridge> {
        let stp = if self.stp {
            BridgeStpState::KernelStp
        } else {
            BridgeStpState::Disabled
        };
        let mut messages = vec![
            InfoBridge::StpState(stp),
            InfoBridge::ForwardDelay(ticks(self.forward_delay)),
            InfoBridge::AgeingTime(ticks(self.ageing)),
            InfoBridge::MulticastSnooping(self.mcast_snooping),
            InfoBridge::MulticastQuerier(self.mcast_querier),
            InfoBridge::MulticastIgmpVersion(self.igmp_version),
            InfoBridge::MulticastMldVersion(self.mld_version),
        ];
        if has_pvid {
            messages.push(InfoBridge::VlanDefaultPvid(self.default_pvid));
        }
        messages
    }
}

fn from_ticks(ticks: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * TICK_MILLIS)
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / u128::from(TICK_MILLIS)).unwrap_or(u32::MAX)
}

/// Whether a port is taken to lead to a multicast router, and so gets all multicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MulticastRouter {
    /// Never.
    Never,
    /// While queries come in from it (the kernel's default).
    Learned,
    /// Always.
    Always,
}

/// Flags of a bridge port. [`Default`] is what the kernel gives a new port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Source addresses seen here are learned.
    pub learning: bool,
    /// Frames between two isolated ports are dropped.
    pub isolated: bool,
    /// Unknown unicast goes out here.
    pub flood: bool,
    /// Broadcast goes out here.
    pub bcast_flood: bool,
    /// Unregistered multicast goes out here.
    pub mcast_flood: bool,
    /// Multicast router mode.
    pub mcast_router: MulticastRouter,
    /// The bridge answers ARP and ND for addresses it knows behind this port.
    pub neigh_suppress: bool,
    /// A frame may leave by the port it came in.
    pub hairpin: bool,
}

impl Default for PortFlags {
    fn default() -> Self {
        Self {
            learning: true,
            isolated: false,
            flood: true,
            bcast_flood: true,
            mcast_flood: true,
            mcast_router: MulticastRouter::Learned,
            neigh_suppress: false,
            hairpin: false,
        }
    }
}

impl PortFlags {
    pub(super) fn parse(attributes: &[InfoBridgePort]) -> Self {
        // A flag the kernel does not report is one it does not have; snooping decides whether it has a router mode.
        let mut found = Self::default();
        for attribute in attributes {
            match attribute {
                InfoBridgePort::Learning(on) => found.learning = *on,
                InfoBridgePort::Isolated(on) => found.isolated = *on,
                InfoBridgePort::UnicastFlood(on) => found.flood = *on,
                InfoBridgePort::BroadcastFlood(on) => found.bcast_flood = *on,
                InfoBridgePort::MulticastFlood(on) => found.mcast_flood = *on,
                InfoBridgePort::NeighSupress(on) => found.neigh_suppress = *on,
                InfoBridgePort::HairpinMode(on) => found.hairpin = *on,
                InfoBridgePort::MulticastRouter(mode) => {
                    found.mcast_router = match mode {
                        BridgeMulticastRouterType::Disabled => MulticastRouter::Never,
                        BridgeMulticastRouterType::Permanent => MulticastRouter::Always,
                        _ => MulticastRouter::Learned,
                    };
                }
                _ => {}
            }
        }
        found
    }

    fn messages(&self) -> Vec<InfoBridgePort> {
        let router = match self.mcast_router {
            MulticastRouter::Never => BridgeMulticastRouterType::Disabled,
            MulticastRouter::Learned => BridgeMulticastRouterType::TempQuery,
            MulticastRouter::Always => BridgeMulticastRouterType::Permanent,
        };
        vec![
            InfoBridgePort::Learning(self.learning),
            InfoBridgePort::Isolated(self.isolated),
            InfoBridgePort::UnicastFlood(self.flood),
            InfoBridgePort::BroadcastFlood(self.bcast_flood),
            InfoBridgePort::MulticastFlood(self.mcast_flood),
            InfoBridgePort::MulticastRouter(router),
            InfoBridgePort::NeighSupress(self.neigh_suppress),
            InfoBridgePort::HairpinMode(self.hairpin),
        ]
    }
}

/// Makes a bridge, down. A bridge of that name with these attributes is left as it is.
///
/// # Errors
/// [`Error::Conflict`] when the name belongs to something else or to a bridge with other attributes.
pub fn create_bridge(name: &str, attributes: &BridgeAttributes) -> Result<()> {
    match find(name)? {
        None => {
            create(name, InfoKind::Bridge, None, Vec::new())?;
            set_bridge_attributes(name, attributes)
        }
        Some(link) if link.bridge.as_ref() == Some(attributes) => Ok(()),
        Some(link) => Err(Error::Conflict {
            what: format!("the interface {name}"),
            found: match link.bridge {
                Some(found) => format!("a bridge with {found:?}"),
                None => format!("a device of kind {}", link.kind.as_deref().unwrap_or("hardware")),
            },
            wanted: format!("a bridge with {attributes:?}"),
        }),
    }
}

/// Sets the attributes of a bridge.
///
/// # Errors
/// When it does not exist, is no bridge, or a value is refused.
pub fn set_bridge_attributes(name: &str, attributes: &BridgeAttributes) -> Result<()> {
    let found = super::get(name)?;
    // The kernel takes a PVID only where it has VLAN filtering; there the default is 1, so 0 asked of
    // a bridge that reports 0 needs no message.
    let has_pvid = found
        .bridge
        .is_some_and(|bridge| bridge.default_pvid != attributes.default_pvid);
    let infos = vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(attributes.messages(has_pvid))),
    ];
    change_kind(name, infos, "its bridge attributes")
}

/// Sets all flags of a bridge port.
///
/// # Errors
/// When the interface does not exist or is not a port of a bridge.
pub fn set_port_flags(name: &str, flags: &PortFlags) -> Result<()> {
    let infos = vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flags.messages())),
    ];
    change_kind(name, infos, "its bridge port flags")
}
