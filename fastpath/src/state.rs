//! The kernel state that the fastpath owns, and the changes that can be made to it.
//!
//! Times are in hundredths of a second, as the kernel counts them for bridges. Attribute names and
//! meanings: ip-link(8) and bridge(8).

use alloc::collections::BTreeSet;

use weft_wire::Mac;

/// Everything in the kernel that belongs to the fastpath of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// The bridge; `None` when there is none.
    pub bridge: Option<Bridge>,
    /// The router's TAP; `None` when there is none.
    pub tap: Option<Tap>,
}

/// A bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Largest payload in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// IGMP and MLD decide where multicast goes.
    pub multicast_snooping: bool,
    /// The kernel runs the spanning tree protocol.
    pub spanning_tree: bool,
    /// How long a new port waits before it forwards.
    pub forward_delay: u32,
    /// How long an address learned from a pod's traffic is kept.
    pub ageing: u32,
    /// The VLAN of untagged frames on new ports; 0 is none.
    pub default_pvid: u16,
    /// The bridge has IPv6 addresses of its own and speaks for itself.
    pub ipv6: bool,
}

/// The TAP and, while it is a port of the bridge, that port. It is persistent, so port and entries
/// stay while no process holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The device.
    pub link: TapLink,
    /// Administratively up.
    pub up: bool,
    /// Its port; `None` while it is not a port of *our* bridge.
    pub port: Option<Port>,
}

/// What a TAP has whether or not it is a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapLink {
    /// Largest payload in bytes.
    pub mtu: u32,
    /// It has IPv6 addresses of its own and speaks for itself.
    pub ipv6: bool,
}

/// A port of the bridge. What a port has goes with it when it leaves the bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its flags.
    pub flags: PortFlags,
    /// Addresses tied to it by static, sticky entries: they neither age nor move when the address
    /// appears on another port.
    pub fixed: BTreeSet<Mac>,
    /// Addresses that lead here by entries that a frame with a forged source moves: learned, or static
    /// without sticky. Found at times, never desired. The device's own address is in neither set.
    pub movable: BTreeSet<Mac>,
}

/// How the bridge treats a port. [`Default`] is what the kernel gives a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFlags {
    /// Source addresses seen here are learned.
    pub learning: bool,
    /// No frame passes between two isolated ports.
    pub isolated: bool,
    /// Unknown unicast goes out here.
    pub unicast_flood: bool,
    /// Broadcast goes out here.
    pub broadcast_flood: bool,
    /// Unregistered multicast goes out here.
    pub multicast_flood: bool,
    /// All multicast goes out here, or may after a query came in.
    pub multicast_router: bool,
    /// The bridge answers ARP and ND in place of hosts behind this port.
    pub neighbour_suppression: bool,
    /// A frame may leave by the port it came in.
    pub hairpin: bool,
}

impl Default for PortFlags {
    fn default() -> Self {
        Self {
            learning: true,
            isolated: false,
            unicast_flood: true,
            broadcast_flood: true,
            multicast_flood: true,
            multicast_router: true,
            neighbour_suppression: false,
            hairpin: false,
        }
    }
}

/// One step from one [`KernelState`] to another. [`KernelState::apply`] says what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Remove the bridge; its ports become ordinary interfaces.
    RemoveBridge,
    /// Remove the TAP device.
    RemoveTap,
    /// Make the bridge, if there is none, and give it these attributes.
    SetBridge(Bridge),
    /// Make the TAP, if there is none, and give its device these attributes.
    SetTapLink(TapLink),
    /// Make the TAP a port of the bridge.
    JoinBridge,
    /// Take the TAP out of the bridge.
    LeaveBridge,
    /// Set the flags of the TAP's port.
    SetPortFlags(PortFlags),
    /// Remove the entry of an address from the TAP's port.
    RemoveEntry(Mac),
    /// Make the TAP the fixed way to an address, in one step, wherever it led before.
    FixEntry(Mac),
    /// Bring the TAP up (`true`) or down.
    SetTapUp(bool),
}

impl KernelState {
    /// The state after `change`, as the kernel makes it. A change that needs what is not there does nothing;
    /// [`crate::delta`] never asks for one.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::RemoveBridge => {
                self.bridge = None;
                if let Some(tap) = &mut self.tap {
                    tap.port = None;
                }
            }
            Change::RemoveTap => self.tap = None,
            Change::SetBridge(bridge) => self.bridge = Some(*bridge),
            Change::SetTapLink(link) => match &mut self.tap {
                Some(tap) => tap.link = *link,
                None => {
                    self.tap = Some(Tap {
                        link: *link,
                        up: false,
                        port: None,
                    })
                }
            },
            Change::JoinBridge => {
                if let (Some(_), Some(tap)) = (self.bridge, &mut self.tap) {
                    tap.port.get_or_insert_with(Port::default);
                }
            }
            Change::LeaveBridge => {
                if let Some(tap) = &mut self.tap {
                    tap.port = None;
                }
            }
            Change::SetPortFlags(flags) => self.with_port(|port| port.flags = *flags),
            Change::RemoveEntry(mac) => self.with_port(|port| {
                port.fixed.remove(mac);
                port.movable.remove(mac);
            }),
            Change::FixEntry(mac) => self.with_port(|port| {
                port.movable.remove(mac);
                port.fixed.insert(*mac);
            }),
            Change::SetTapUp(up) => {
                if let Some(tap) = &mut self.tap {
                    tap.up = *up;
                }
            }
        }
    }

    fn with_port(&mut self, work: impl FnOnce(&mut Port)) {
        if let Some(port) = self.tap.as_mut().and_then(|tap| tap.port.as_mut()) {
            work(port);
        }
    }
}
