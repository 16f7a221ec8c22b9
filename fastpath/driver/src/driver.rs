//! Read, apply, read back.

use std::time::Duration;

use weft_fastpath::state::{self, Entry, Lasting, Registration, Tap};
use weft_fastpath::{Bridge, Change, KernelState, Port, PortFlags, View, delta, desired};
use weft_kernel::link::{self, BridgeAttributes, Link, MulticastRouter};
use weft_kernel::{fdb, mdb, tap};
use weft_wire::Mac;

/// Setting one thing may move another: a bridge follows the MTU of a port that joins, until its own
/// is set. Two rounds settle that; one more shows whether somebody else keeps changing things.
const ROUNDS: usize = 3;
/// The core counts bridge times in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

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
    /// The view asks for what this driver does not make.
    #[error("this version of weft makes no VXLAN device and no group entry")]
    Unable,
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
    /// Chains of the host's packet filters that held a rule of ours.
    pub chains: usize,
}

/// The fastpath of one host, by the names of its devices. It works in the network namespace of the
/// calling thread; its asynchronous calls, in that of the thread that runs the tokio runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    bridge: String,
    tap: String,
}

impl Driver {
    /// A driver for a bridge and a TAP of these names. Nothing is made yet.
    ///
    /// # Errors
    /// When no device can have such a name.
    pub fn new(bridge: &str, tap: &str) -> Result<Self> {
        link::check_name(bridge)?;
        link::check_name(tap)?;
        Ok(Self {
            bridge: bridge.into(),
            tap: tap.into(),
        })
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

    /// The state the kernel is in.
    ///
    /// # Errors
    /// When it cannot be read, or a device of ours is of another kind.
    pub fn read(&self) -> Result<KernelState> {
        let bridge = self.find_bridge()?;
        let tap = self.find_tap()?;
        let master = bridge.as_ref().map(|(link, _)| link.index);
        let is_port = master.is_some() && tap.as_ref().is_some_and(|tap| tap.master == master);
        let mut state = KernelState::default();
        if let Some(tap) = &tap {
            state.tap = Some(Tap {
                link: read_link(tap)?,
                up: tap.up,
                port: tap.port.as_ref().filter(|_| is_port).map(from_kernel),
            });
            if is_port {
                self.read_entries(tap.index, &mut state)?;
                self.read_groups(tap.index, &mut state)?;
            }
        }
        state.bridge = bridge
            .map(|(link, attributes)| self.read_bridge(&link, &attributes))
            .transpose()?;
        Ok(state)
    }

    /// Makes changes, in their order, and stops at the first that is refused.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn apply(&self, changes: &[Change]) -> Result<()> {
        let mut rest = changes;
        while let Some(change) = rest.first() {
            // Entries come in long runs; a run shares one netlink connection.
            let run: Vec<[u8; 6]> = match change {
                Change::SetEntry(..) => rest.iter().map_while(set_mac).collect(),
                Change::RemoveEntry(..) => rest.iter().map_while(removed_mac).collect(),
                _ => Vec::new(),
            };
            match change {
                Change::SetEntry(_, Port::Tap) => fdb::replace(&self.tap, &run)?,
                Change::RemoveEntry(_, Port::Tap) => fdb::delete(&self.tap, &run)?,
                other => self.apply_one(other)?,
            }
            rest = rest.get(run.len().max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Removes bridge and TAP, whatever state they are in, and every rule of ours in the packet filters. Pods on the bridge keep their devices,
    /// and lose the connection.
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
        let (bridge, tap) = (self.find_bridge()?.is_some(), self.find_tap()?.is_some());
        Ok(Removed {
            chains: self.unguard_blocking()?,
            tap: tap && link::delete(&self.tap)?,
            bridge: bridge && link::delete(&self.bridge)?,
        })
    }

    fn apply_one(&self, change: &Change) -> Result<()> {
        match change {
            Change::RemoveBridge => drop(link::delete(&self.bridge)?),
            Change::RemoveTap => drop(link::delete(&self.tap)?),
            Change::SetBridge(bridge) => self.set_bridge(bridge)?,
            Change::SetTapLink(wanted) => {
                tap::create_persistent(&self.tap)?;
                link::set_mtu(&self.tap, wanted.mtu)?;
                link::set_ipv6(&self.tap, wanted.ipv6)?;
            }
            Change::Join(Port::Tap) => link::set_master(&self.tap, Some(&self.bridge))?,
            Change::Leave(Port::Tap) => link::set_master(&self.tap, None)?,
            Change::SetPortFlags(Port::Tap, flags) => link::set_port_flags(&self.tap, &to_kernel(flags))?,
            Change::SetTapUp(up) => set_up(&self.tap, *up)?,
            Change::Register(Registration {
                port: Port::Tap,
                group,
                source: None,
            }) => mdb::add(&self.bridge, &self.tap, *group)?,
            Change::Unregister(Registration {
                port: Port::Tap,
                group,
                source,
            }) => mdb::delete(&self.bridge, &self.tap, *group, *source)?,
            _ => return Err(Error::Unable),
        }
        Ok(())
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
        if self.find_bridge()?.is_none() {
            link::create_bridge(&self.bridge, &attributes)?;
        } else {
            link::set_bridge_attributes(&self.bridge, &attributes)?;
        }
        // In this order: an MTU that grows past 1280 brings IPv6 back.
        link::set_mtu(&self.bridge, bridge.mtu)?;
        link::set_ipv6(&self.bridge, bridge.ipv6)?;
        Ok(set_up(&self.bridge, bridge.up)?)
    }

    /// A TAP that would go when the process holding it ends is made to stay, if it can be.
    fn keep_tap(&self) -> Result<()> {
        if self.find_tap()?.is_some_and(|tap| tap.persistent != Some(true)) {
            tap::create_persistent(&self.tap)?;
        }
        Ok(())
    }

    fn find_bridge(&self) -> Result<Option<(Link, BridgeAttributes)>> {
        let Some(found) = link::find(&self.bridge)? else {
            return Ok(None);
        };
        match found.bridge {
            Some(attributes) => Ok(Some((found, attributes))),
            None => Err(wrong_kind(&found, "bridge")),
        }
    }

    fn find_tap(&self) -> Result<Option<Link>> {
        match link::find(&self.tap)? {
            Some(found) if found.kind.as_deref() != Some("tun") => Err(wrong_kind(&found, "TAP")),
            found => Ok(found),
        }
    }

    fn read_bridge(&self, link: &Link, attributes: &BridgeAttributes) -> Result<Bridge> {
        Ok(Bridge {
            mtu: link.mtu,
            up: link.up,
            multicast_snooping: attributes.mcast_snooping,
            multicast_querier: attributes.mcast_querier,
            igmp_version: attributes.igmp_version,
            mld_version: attributes.mld_version,
            spanning_tree: attributes.stp,
            forward_delay: ticks(attributes.forward_delay),
            ageing: ticks(attributes.ageing),
            default_pvid: attributes.default_pvid,
            ipv6: weft_kernel::sysctl::ipv6_enabled(&link.name)?,
        })
    }

    fn read_groups(&self, index: u32, state: &mut KernelState) -> Result<()> {
        let found = mdb::dump(&self.bridge)?.registrations;
        for one in found.iter().filter(|one| one.port == index) {
            let registration = Registration {
                port: Port::Tap,
                group: one.group,
                source: one.source,
            };
            let lasting = match one.permanent {
                true => Lasting::Permanent,
                false => Lasting::Otherwise,
            };
            state.groups.insert(registration, lasting);
        }
        Ok(())
    }

    fn read_entries(&self, index: u32, state: &mut KernelState) -> Result<()> {
        for entry in fdb::dump(&self.bridge)?.iter().filter(|entry| {
            entry.port == index && entry.vlan.is_none() && entry.kind != fdb::EntryKind::Local
        }) {
            let (port, fixed) = (Port::Tap, entry.kind == fdb::EntryKind::Sticky);
            state.entries.insert(Mac(entry.mac), Entry { port, fixed });
        }
        Ok(())
    }
}

fn read_link(link: &Link) -> Result<weft_fastpath::state::Link> {
    Ok(weft_fastpath::state::Link {
        mtu: link.mtu,
        ipv6: weft_kernel::sysctl::ipv6_enabled(&link.name)?,
    })
}

fn set_up(name: &str, up: bool) -> weft_kernel::Result<()> {
    if up {
        link::set_up(name)
    } else {
        link::set_down(name)
    }
}

fn set_mac(change: &Change) -> Option<[u8; 6]> {
    if let Change::SetEntry(mac, Port::Tap) = change {
        Some(mac.0)
    } else {
        None
    }
}

fn removed_mac(change: &Change) -> Option<[u8; 6]> {
    if let Change::RemoveEntry(mac, Port::Tap) = change {
        Some(mac.0)
    } else {
        None
    }
}

fn wrong_kind(link: &Link, wanted: &'static str) -> Error {
    Error::WrongKind {
        name: link.name.clone(),
        found: link.kind.clone().unwrap_or_else(|| "hardware".into()),
        wanted,
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
}

fn to_kernel(flags: &PortFlags) -> link::PortFlags {
    link::PortFlags {
        learning: flags.learning,
        isolated: flags.isolated,
        flood: flags.unicast_flood,
        bcast_flood: flags.broadcast_flood,
        mcast_flood: flags.multicast_flood,
        mcast_router: match flags.multicast_router {
            state::MulticastRouter::Never => MulticastRouter::Never,
            state::MulticastRouter::Learned => MulticastRouter::Learned,
            state::MulticastRouter::Always => MulticastRouter::Always,
        },
        neigh_suppress: flags.neighbour_suppression,
        hairpin: flags.hairpin,
    }
}

fn from_kernel(flags: &link::PortFlags) -> PortFlags {
    PortFlags {
        learning: flags.learning,
        isolated: flags.isolated,
        unicast_flood: flags.flood,
        broadcast_flood: flags.bcast_flood,
        multicast_flood: flags.mcast_flood,
        multicast_router: match flags.mcast_router {
            MulticastRouter::Never => state::MulticastRouter::Never,
            MulticastRouter::Learned => state::MulticastRouter::Learned,
            MulticastRouter::Always => state::MulticastRouter::Always,
        },
        neighbour_suppression: flags.neigh_suppress,
        hairpin: flags.hairpin,
    }
}
