//! One step from one kernel state to another.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::{IpAddr, Ipv4Addr};

use weft_wire::Mac;

use crate::state::{
    Bridge, Destination, Device, Entry, Family, Fence, KernelState, Lasting, Link, Listener, Port, PortFlags,
    Registration, Rules, Tap, Tunnel, VxlanDevice,
};

/// One step from one [`KernelState`] to another. [`KernelState::apply`] says what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Remove the bridge; its ports become ordinary interfaces.
    RemoveBridge,
    /// Make the bridge, if there is none, and give it these attributes.
    SetBridge(Bridge),
    /// Remove the TAP device.
    RemoveTap,
    /// Make the TAP, if there is none, and give its device these attributes.
    SetTapLink(Link),
    /// Bring the TAP up (`true`) or down.
    SetTapUp(bool),
    /// Remove a VXLAN device with all that it has.
    RemoveVxlan(Device),
    /// Make a VXLAN device, which is down and no port, closes its gate, and has these attributes.
    MakeVxlan(Device, Tunnel, Link),
    /// Give a VXLAN device these attributes.
    SetVxlanLink(Device, Link),
    /// Have a VXLAN device let in only what the packet filter marked.
    CloseGate(Device),
    /// Bring a VXLAN device up (`true`) or down.
    SetVxlanUp(Device, bool),
    /// Make a device a port of the bridge.
    Join(Port),
    /// Take a device out of the bridge.
    Leave(Port),
    /// Set the flags of a port.
    SetPortFlags(Port, PortFlags),
    /// Make a port the fixed way to an address, in one step, wherever it led before.
    SetEntry(Mac, Port),
    /// Remove the entry by which a port leads to an address.
    RemoveEntry(Mac, Port),
    /// Have a VXLAN device send frames to an address to this host, in one step, wherever they went before.
    SetDestination(Device, Mac, IpAddr),
    /// Have a VXLAN device send frames to an address nowhere.
    RemoveDestination(Device, Mac),
    /// Answer ARP requests for an address.
    SetNeighbour(Ipv4Addr, Mac),
    /// No longer answer them.
    RemoveNeighbour(Ipv4Addr),
    /// Have frames of a group go to a port.
    Register(Registration),
    /// No longer.
    Unregister(Registration),
    /// Have a VXLAN device of pods' frames send those of a group to a host.
    AddListener(Family, Listener),
    /// No longer.
    RemoveListener(Family, Listener),
    /// Make the table of our own anew, in one step, with these rules and sources.
    SetFence(Rules, BTreeSet<IpAddr>),
    /// Remove it.
    RemoveFence,
    /// Let VXLAN of this source in.
    Accept(IpAddr),
    /// No longer.
    Refuse(IpAddr),
}

impl KernelState {
    /// The state after `change`, as the kernel makes it. A change that needs what is not there does nothing;
    /// [`crate::delta()`] never asks for one.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::RemoveBridge => {
                self.bridge = None;
                self.neighbours.clear();
                Port::ALL.into_iter().for_each(|port| self.leave(port));
            }
            Change::SetBridge(bridge) => {
                self.bridge = Some(*bridge);
                if !bridge.multicast_snooping {
                    self.groups.clear();
                }
            }
            Change::RemoveTap => {
                self.leave(Port::Tap);
                self.tap = None;
            }
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
            Change::SetTapUp(up) => {
                if let Some(tap) = &mut self.tap {
                    tap.up = *up;
                }
            }
            Change::RemoveVxlan(device) => {
                device.port().into_iter().for_each(|port| self.leave(port));
                self.vxlan.remove(device);
            }
            Change::MakeVxlan(device, tunnel, link) => {
                let made = VxlanDevice {
                    tunnel: *tunnel,
                    link: *link,
                    gate: true,
                    up: false,
                    port: None,
                    destinations: BTreeMap::new(),
                    listeners: BTreeMap::new(),
                };
                self.vxlan.entry(*device).or_insert(made);
            }
            Change::SetVxlanLink(device, link) => self.with(*device, |found| found.link = *link),
            Change::CloseGate(device) => self.with(*device, |found| found.gate = true),
            Change::SetVxlanUp(device, up) => self.with(*device, |found| found.up = *up),
            Change::Join(port) => {
                if self.bridge.is_some()
                    && let Some(flags) = self.port_mut(*port)
                {
                    flags.get_or_insert_with(PortFlags::default);
                }
            }
            Change::Leave(port) => self.leave(*port),
            Change::SetPortFlags(port, wanted) => {
                if let Some(Some(flags)) = self.port_mut(*port) {
                    *flags = *wanted;
                }
            }
            Change::SetEntry(mac, port) => {
                if self.port(*port).is_some() {
                    let (port, fixed) = (*port, true);
                    self.entries.insert(*mac, Entry { port, fixed });
                }
            }
            Change::RemoveEntry(mac, port) => {
                if self.entries.get(mac).is_some_and(|entry| entry.port == *port) {
                    self.entries.remove(mac);
                }
            }
            Change::SetDestination(device, mac, host) => self.with(*device, |found| {
                found.destinations.insert(*mac, Destination::To(*host));
            }),
            Change::RemoveDestination(device, mac) => self.with(*device, |found| {
                found.destinations.remove(mac);
            }),
            Change::SetNeighbour(address, mac) => {
                if self.bridge.is_some() {
                    self.neighbours.insert(*address, *mac);
                }
            }
            Change::RemoveNeighbour(address) => drop(self.neighbours.remove(address)),
            Change::Register(registration) => {
                let snoops = self.bridge.is_some_and(|bridge| bridge.multicast_snooping);
                if snoops && self.port(registration.port).is_some() {
                    self.groups.insert(*registration, Lasting::Permanent);
                }
            }
            Change::Unregister(registration) => drop(self.groups.remove(registration)),
            Change::AddListener(family, listener) => self.with(Device::Data(*family), |found| {
                found.listeners.insert(*listener, Lasting::Permanent);
            }),
            Change::RemoveListener(family, listener) => self.with(Device::Data(*family), |found| {
                found.listeners.remove(listener);
            }),
            Change::SetFence(rules, accepted) => {
                self.fence = Some(Fence {
                    rules: Some(rules.clone()),
                    accepted: accepted.clone(),
                });
            }
            Change::RemoveFence => self.fence = None,
            Change::Accept(source) => {
                if let Some(fence) = &mut self.fence {
                    fence.accepted.insert(*source);
                }
            }
            Change::Refuse(source) => {
                if let Some(fence) = &mut self.fence {
                    fence.accepted.remove(source);
                }
            }
        }
    }

    /// Flags of a port; `None` when the device is no port of our bridge, or is not there.
    #[must_use]
    pub fn port(&self, port: Port) -> Option<PortFlags> {
        match port {
            Port::Tap => self.tap.as_ref()?.port,
            Port::Vxlan(family) => self.vxlan.get(&Device::Data(family))?.port,
        }
    }

    fn port_mut(&mut self, port: Port) -> Option<&mut Option<PortFlags>> {
        match port {
            Port::Tap => self.tap.as_mut().map(|tap| &mut tap.port),
            Port::Vxlan(family) => {
                let device = self.vxlan.get_mut(&Device::Data(family));
                device.map(|device| &mut device.port)
            }
        }
    }

    /// What a port has goes with it.
    fn leave(&mut self, port: Port) {
        if let Some(flags) = self.port_mut(port) {
            *flags = None;
        }
        self.entries.retain(|_, entry| entry.port != port);
        self.groups.retain(|registration, _| registration.port != port);
    }

    fn with(&mut self, device: Device, work: impl FnOnce(&mut VxlanDevice)) {
        if let Some(found) = self.vxlan.get_mut(&device) {
            work(found);
        }
    }
}
