//! Read, apply, read back.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::net::IpAddr;

use weft_fastpath::state::{Link, Tunnel};
use weft_fastpath::{Bridge, Change, Device, Family, Port, View, delta, desired};
use weft_kernel::link::{self, BridgeAttributes};
use weft_kernel::{fdb, gate, listeners, mdb, neighbour, nft, tap};

use crate::fence;
use crate::read::{TICK, alias, to_kernel, wrong_kind};

/// Setting one thing may move another: a bridge follows the MTU of a port that joins, until its own
/// is set. Two rounds settle that; one more shows whether somebody else keeps changing things.
const ROUNDS: usize = 3;
/// `EADDRINUSE`.
const ADDRESS_IN_USE: i32 = 98;

/// The result of the driver's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the kernel is not in the desired state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    #[error(transparent)]
    Kernel(#[from] weft_kernel::Error),
    /// A device of that name is there, and is not ours to use.
    #[error("{name} is a device of kind {found}, where weft needs a {wanted}: rename or remove it")]
    WrongKind {
        /// The device's name.
        name: String,
        /// The kind it has.
        found: String,
        /// The kind it should have.
        wanted: &'static str,
    },
    /// Everything was accepted, and yet reading back shows something else.
    #[error("{bridge} does not keep what is set; another program may manage it. Still to do: {remaining:?}")]
    Unsettled {
        /// The bridge's name.
        bridge: String,
        /// What differs after the last attempt.
        remaining: Vec<Change>,
    },
    /// Something else on this host takes VXLAN at that UDP port.
    #[error(
        "UDP port {port} is taken by another program, or by a VXLAN device of somebody else: `ss -lup` and `ip -d link show type \
         vxlan` tell; choose another with --vxlan-port, the same at all hosts"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// The blocking thread that did the work was lost, which only a shutdown does.
    #[error("the runtime shut down before the kernel was asked")]
    ShutDown,
}

/// What a [`Driver::reconcile`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The changes made, in order; empty when everything was as it should be.
    pub changes: Vec<Change>,
}

/// What a [`Driver::remove`] found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// There was a bridge.
    pub bridge: bool,
    /// There was a TAP.
    pub tap: bool,
    /// VXLAN devices that there were.
    pub vxlan: usize,
    /// There was a table of ours in the packet filter.
    pub fence: bool,
    /// Chains of the host's packet filters that held a rule of ours.
    pub chains: usize,
}

/// The fastpath of one host, by the names of its devices. It works in the network namespace of the
/// calling thread; its asynchronous calls, in that of the thread that runs the tokio runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    bridge: String,
    tap: String,
    /// How names of VXLAN devices in the bridge begin.
    vxlan_ports: String,
}

impl Driver {
    /// A driver for a bridge and a TAP of these names. Nothing is made yet.
    ///
    /// # Errors
    /// When no device can have such a name.
    pub fn new(bridge: &str, tap: &str) -> Result<Self> {
        link::check_name(bridge)?;
        link::check_name(tap)?;
        let driver = Self {
            bridge: bridge.into(),
            tap: tap.into(),
            vxlan_ports: format!("{bridge}-vx"),
        };
        for device in Device::ALL {
            link::check_name(&driver.device(device))?;
        }
        Ok(driver)
    }

    /// The name of the bridge.
    #[must_use]
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The name of the TAP.
    #[must_use]
    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// The name of a VXLAN device.
    #[must_use]
    pub fn device(&self, device: Device) -> String {
        let suffix = match device {
            Device::Data(Family::V4) => "vx",
            Device::Data(Family::V6) => "vx6",
            Device::Probe(Family::V4) => "hb",
            Device::Probe(Family::V6) => "hb6",
        };
        format!("{}-{suffix}", self.bridge)
    }

    /// How names of VXLAN devices in the bridge begin.
    pub(crate) fn vxlan_ports(&self) -> &str {
        &self.vxlan_ports
    }

    fn port(&self, port: Port) -> String {
        match port {
            Port::Tap => self.tap.clone(),
            Port::Vxlan(family) => self.device(Device::Data(family)),
        }
    }

    /// Brings the kernel from the state of one view to that of the next, without reading it: in milliseconds, whatever else there
    /// is. Right only where the kernel is in the state of the first; what differs otherwise, [`Driver::reconcile`] finds.
    ///
    /// # Errors
    /// What the kernel refuses. What was done until then stays.
    pub async fn step(&self, before: &View, after: &View) -> Result<Report> {
        let (driver, before, after) = (self.clone(), before.clone(), after.clone());
        tokio::task::spawn_blocking(move || driver.step_blocking(&before, &after))
            .await
            .map_err(|_| Error::ShutDown)?
    }

    /// [`Driver::step`] on the calling thread.
    ///
    /// # Errors
    /// As [`Driver::step`].
    pub fn step_blocking(&self, before: &View, after: &View) -> Result<Report> {
        let changes = weft_fastpath::step(before, after);
        self.apply(&changes)?;
        Ok(Report { changes })
    }

    /// Brings the kernel to the state this view calls for. A second call changes nothing.
    ///
    /// # Errors
    /// When the kernel refuses something, or does not keep it. What was done until then stays; the
    /// next call goes on from there.
    pub async fn reconcile(&self, view: &View) -> Result<Report> {
        let (driver, view) = (self.clone(), view.clone());
        tokio::task::spawn_blocking(move || driver.reconcile_blocking(&view))
            .await
            .map_err(|_| Error::ShutDown)?
    }

    /// [`Driver::reconcile`] on the calling thread.
    ///
    /// # Errors
    /// As [`Driver::reconcile`].
    pub fn reconcile_blocking(&self, view: &View) -> Result<Report> {
        let wanted = desired(view);
        let mut report = Report::default();
        self.keep_tap()?;
        let mut remaining = delta(&self.read()?, &wanted);
        for _ in 0..ROUNDS {
            if remaining.is_empty() {
                return Ok(report);
            }
            self.apply(&remaining)?;
            report.changes.append(&mut remaining);
            remaining = delta(&self.read()?, &wanted);
        }
        if remaining.is_empty() {
            Ok(report)
        } else {
            Err(Error::Unsettled {
                bridge: self.bridge.clone(),
                remaining,
            })
        }
    }

    /// Makes changes, in their order, and stops at the first that is refused.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn apply(&self, changes: &[Change]) -> Result<()> {
        let mut rest = changes;
        while let Some(change) = rest.first() {
            // Entries come in long runs, in which their order does not matter; a run is one batch for each device.
            let kind = discriminant(change);
            let (run, others) =
                rest.split_at(rest.iter().take_while(|next| discriminant(*next) == kind).count());
            self.apply_run(run)?;
            rest = others;
        }
        Ok(())
    }

    fn apply_run(&self, run: &[Change]) -> Result<()> {
        let mut macs: BTreeMap<String, Vec<[u8; 6]>> = BTreeMap::new();
        let mut hosts: BTreeMap<String, Vec<([u8; 6], IpAddr)>> = BTreeMap::new();
        let (mut neighbours, mut addresses, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for change in run {
            match change {
                Change::SetEntry(mac, port) | Change::RemoveEntry(mac, port) => {
                    macs.entry(self.port(*port)).or_default().push(mac.0);
                }
                Change::RemoveDestination(device, mac) => {
                    macs.entry(self.device(*device)).or_default().push(mac.0);
                }
                Change::SetDestination(device, mac, host) => {
                    hosts
                        .entry(self.device(*device))
                        .or_default()
                        .push((mac.0, *host));
                }
                Change::SetNeighbour(address, mac) => neighbours.push((*address, mac.0)),
                Change::RemoveNeighbour(address) => addresses.push(*address),
                Change::Accept(source) | Change::Refuse(source) => sources.push(*source),
                other => self.apply_one(other)?,
            }
        }
        for (device, hosts) in &hosts {
            fdb::set_destinations(device, hosts)?;
        }
        for (name, macs) in &macs {
            match run.first() {
                Some(Change::SetEntry(..)) => fdb::replace(name, macs)?,
                Some(Change::RemoveEntry(..)) => fdb::delete(name, macs)?,
                _ => fdb::delete_destinations(name, macs)?,
            }
        }
        match run.first() {
            Some(Change::SetNeighbour(..)) => neighbour::replace(&self.bridge, &neighbours)?,
            Some(Change::RemoveNeighbour(_)) => neighbour::delete(&self.bridge, &addresses)?,
            Some(Change::Accept(_)) => fence::accept(&sources)?,
            Some(Change::Refuse(_)) => fence::refuse(&sources)?,
            _ => {}
        }
        Ok(())
    }

    /// Removes bridge, TAP and VXLAN devices, whatever state they are in, and every rule of ours in the packet filters. Pods on the bridge
    /// keep their devices, and lose the connection.
    ///
    /// # Errors
    /// When the kernel refuses, or a device of ours is of another kind.
    pub async fn remove(&self) -> Result<Removed> {
        let driver = self.clone();
        tokio::task::spawn_blocking(move || driver.remove_blocking())
            .await
            .map_err(|_| Error::ShutDown)?
    }

    /// [`Driver::remove`] on the calling thread.
    ///
    /// # Errors
    /// As [`Driver::remove`].
    pub fn remove_blocking(&self) -> Result<Removed> {
        let state = self.read()?;
        let mut removed = Removed {
            chains: self.unguard_blocking()?,
            ..Removed::default()
        };
        // The table goes last: as long as there are devices, it says who may send to them.
        for device in state.vxlan.keys() {
            removed.vxlan += usize::from(link::delete(&self.device(*device))?);
        }
        removed.tap = state.tap.is_some() && link::delete(&self.tap)?;
        removed.bridge = state.bridge.is_some() && link::delete(&self.bridge)?;
        removed.fence = state.fence.is_some() && nft::delete_table(fence::TABLE)?;
        Ok(removed)
    }

    fn apply_one(&self, change: &Change) -> Result<()> {
        match change {
            Change::RemoveBridge => drop(link::delete(&self.bridge)?),
            Change::SetBridge(bridge) => self.set_bridge(bridge)?,
            Change::RemoveTap => drop(link::delete(&self.tap)?),
            Change::SetTapLink(wanted) => {
                tap::create_persistent(&self.tap)?;
                set_link(&self.tap, wanted)?;
            }
            Change::SetTapUp(up) => set_up(&self.tap, *up)?,
            Change::RemoveVxlan(device) => drop(link::delete(&self.device(*device))?),
            Change::MakeVxlan(device, tunnel, link) => self.make_vxlan(*device, tunnel, link)?,
            Change::SetVxlanLink(device, link) => set_link(&self.device(*device), link)?,
            Change::CloseGate(device) => gate::close(&self.device(*device), fence::MARK)?,
            Change::SetVxlanUp(device, up) => self.set_vxlan_up(*device, *up)?,
            Change::Join(port) => link::set_master(&self.port(*port), Some(&self.bridge))?,
            Change::Leave(port) => link::set_master(&self.port(*port), None)?,
            Change::SetPortFlags(port, flags) => link::set_port_flags(&self.port(*port), &to_kernel(flags))?,
            Change::Register(found) => mdb::add(&self.bridge, &self.port(found.port), found.group)?,
            Change::Unregister(found) => {
                mdb::delete(&self.bridge, &self.port(found.port), found.group, found.source)?;
            }
            Change::AddListener(family, listener) => {
                listeners::add(&self.device(Device::Data(*family)), listener.group, listener.host)?;
            }
            Change::RemoveListener(family, listener) => {
                let device = self.device(Device::Data(*family));
                listeners::delete(&device, listener.group, listener.source, listener.host)?;
            }
            Change::SetFence(rules, accepted) => fence::set(&self.bridge, rules, accepted)?,
            Change::RemoveFence => drop(nft::delete_table(fence::TABLE)?),
            // `apply_run` has dealt with these.
            Change::SetEntry(..)
            | Change::RemoveEntry(..)
            | Change::SetDestination(..)
            | Change::RemoveDestination(..)
            | Change::SetNeighbour(..)
            | Change::RemoveNeighbour(_)
            | Change::Accept(_)
            | Change::Refuse(_) => {}
        }
        Ok(())
    }

    fn make_vxlan(&self, device: Device, tunnel: &Tunnel, wanted: &Link) -> Result<()> {
        let name = self.device(device);
        let made = link::Tunnel {
            // A desired device has one.
            id: tunnel.vni.map_or(0, weft_fastpath::Vni::get),
            port: tunnel.port,
            keep_whole: tunnel.keep_whole,
        };
        let ipv6 = matches!(device, Device::Data(Family::V6) | Device::Probe(Family::V6));
        link::create_tunnel(&name, &made, ipv6, wanted.mtu)?;
        gate::close(&name, fence::MARK)?;
        set_link(&name, wanted)?;
        Ok(link::set_alias(&name, alias(device))?)
    }

    fn set_vxlan_up(&self, device: Device, up: bool) -> Result<()> {
        let name = self.device(device);
        match set_up(&name, up) {
            Err(error) if error.errno().map(|errno| errno.raw_os_error()) == Some(ADDRESS_IN_USE) => {
                let tunnel = link::get(&name)?.tunnel;
                let port = tunnel.map_or(0, |found| found.tunnel.port);
                Err(Error::PortTaken { port })
            }
            other => Ok(other?),
        }
    }

    /// What went to and came from each outer address by VXLAN, probes included, since the table in the packet filter was made.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn traffic(&self) -> Result<BTreeMap<IpAddr, Traffic>> {
        let mut traffic: BTreeMap<IpAddr, Traffic> = BTreeMap::new();
        for element in fence::counted(true)? {
            let counted = traffic.entry(element.address).or_default();
            (counted.sent_bytes, counted.sent_packets) = (element.bytes, element.packets);
        }
        for element in fence::counted(false)? {
            let counted = traffic.entry(element.address).or_default();
            (counted.received_bytes, counted.received_packets) = (element.bytes, element.packets);
        }
        Ok(traffic)
    }

    fn set_bridge(&self, bridge: &Bridge) -> Result<()> {
        let attributes = BridgeAttributes {
            mcast_snooping: bridge.multicast_snooping,
            mcast_querier: bridge.multicast_querier,
            igmp_version: bridge.igmp_version,
            mld_version: bridge.mld_version,
            ageing: TICK * bridge.ageing,
            stp: bridge.spanning_tree,
            forward_delay: TICK * bridge.forward_delay,
            default_pvid: bridge.default_pvid,
        };
        match link::find(&self.bridge)? {
            None => link::create_bridge(&self.bridge, &attributes)?,
            Some(_) => link::set_bridge_attributes(&self.bridge, &attributes)?,
        }
        // In this order: an MTU that grows past 1280 brings IPv6 back.
        link::set_mtu(&self.bridge, bridge.mtu)?;
        link::set_ipv6(&self.bridge, bridge.ipv6)?;
        Ok(set_up(&self.bridge, bridge.up)?)
    }

    /// A TAP that would go when the process holding it ends is made to stay, if it can be.
    fn keep_tap(&self) -> Result<()> {
        match link::find(&self.tap)? {
            Some(found) if found.kind.as_deref() != Some("tun") => Err(wrong_kind(&found, "TAP")),
            Some(found) if found.persistent != Some(true) => Ok(tap::create_persistent(&self.tap)?),
            _ => Ok(()),
        }
    }
}

/// What VXLAN carried to and from one outer address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Octets of the outer IP packets that went there.
    pub sent_bytes: u64,
    /// Those packets; one may stand for many.
    pub sent_packets: u64,
    /// Octets of the outer IP packets that came from there.
    pub received_bytes: u64,
    /// Those packets; one may stand for many.
    pub received_packets: u64,
}

fn set_link(name: &str, wanted: &Link) -> weft_kernel::Result<()> {
    link::set_mtu(name, wanted.mtu)?;
    link::set_ipv6(name, wanted.ipv6)
}

fn set_up(name: &str, up: bool) -> weft_kernel::Result<()> {
    if up {
        link::set_up(name)
    } else {
        link::set_down(name)
    }
}
