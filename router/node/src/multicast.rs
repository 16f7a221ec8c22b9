//! Multicast only where pods listen: this host's record of groups, and where frames of a group go by the records of others.
//!
//! A host without a record gets everything: it may be one that knows of no such records.

use crate::node::Node;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use weft_sleeve::multicast::Groups;
use weft_wire::api::{EverythingStatus, GroupStatus, MulticastStatus};
use weft_wire::group::{Everything, GROUPS_MAX, Group, GroupsRecord, Listening};
use weft_wire::record::Body;
use weft_wire::{NodeId, Time, codec};

/// Between two versions of this host's record: five changes a second, each of which every host hears of. A pod that joins and
/// leaves without end costs no more.
pub const SAY_INTERVAL: Duration = Duration::from_millis(200);
/// Between two tables that differ in who listens. Many hosts may change their records at once, and a table of many groups
/// takes a while to make; a listener does not notice.
pub const TABLE_INTERVAL: Duration = Duration::from_millis(20);

/// Multicast that other hosts want from this one by way of the router. IPv6 is not here: the bridge sends all of it to the
/// TAP.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RemoteGroups {
    /// Groups of IPv4 to which pods of other hosts listen.
    pub(crate) groups: BTreeSet<Group>,
    /// Some host wants the frames of every group.
    pub(crate) everything: bool,
}

/// Who listens to what.
#[derive(Default)]
pub(crate) struct Multicast {
    /// To what pods of this host listen; `None` until the kernel was asked.
    own: Option<Listening>,
    /// What the record says.
    said: Option<Listening>,
    say_from: Time,
    /// What the records of others say.
    others: BTreeMap<NodeId, Listening>,
    /// For the forwarding table; the last one made.
    groups: Arc<Groups>,
    /// For the bridge.
    pub(crate) remote: RemoteGroups,
    /// Records have changed since.
    is_stale: bool,
    /// Peers came or went since, so their positions are others.
    is_shifted: bool,
    table_from: Time,
}

impl Multicast {
    /// To what pods of this host listen, once the kernel was asked.
    pub(crate) fn own(&self) -> Option<&Listening> {
        self.own.as_ref()
    }

    /// To what the pods of another host listen.
    pub(crate) fn of(&self, peer: &NodeId) -> &Listening {
        const SILENT: Listening = Listening::Everything(Everything::Unknown);
        self.others.get(peer).unwrap_or(&SILENT)
    }

    /// Where the frames of groups go, as of the last table.
    pub(crate) fn groups(&self) -> Arc<Groups> {
        Arc::clone(&self.groups)
    }

    /// Peers came or went.
    pub(crate) fn shift(&mut self) {
        self.is_shifted = true;
    }

    /// When something is due.
    pub(crate) fn timeout(&self) -> Option<Time> {
        let say = (self.own.is_some() && self.own != self.said).then_some(self.say_from);
        let table = self.is_stale.then_some(self.table_from);
        say.into_iter().chain(table).min()
    }
}

impl Node {
    /// The kernel was asked to what pods of this host listen.
    pub(crate) fn on_listening(&mut self, now: Time, listening: Listening) {
        self.multicast.own = Some(listening);
        self.say_listening(now);
    }

    /// Another host's record has changed.
    pub(crate) fn on_groups(&mut self, peer: NodeId) {
        if peer == self.id() {
            return;
        }
        let record = self.mesh.registers().body::<GroupsRecord>(&peer);
        let listening = record.map(|record| record.listening());
        if self.multicast.others.get(&peer) == listening.as_ref() {
            return;
        }
        match listening {
            Some(listening) => drop(self.multicast.others.insert(peer, listening)),
            None => drop(self.multicast.others.remove(&peer)),
        }
        self.multicast.is_stale = true;
    }

    /// Says to what pods listen, if that is new and the record may change again.
    pub(crate) fn say_listening(&mut self, now: Time) {
        let multicast = &mut self.multicast;
        if multicast.own == multicast.said || now < multicast.say_from {
            return;
        }
        let Some(own) = &multicast.own else {
            return;
        };
        let body = codec::encode(&GroupsRecord::new(own));
        multicast.said = Some(own.clone());
        multicast.say_from = now + SAY_INTERVAL;
        let kind = GroupsRecord::KIND;
        self.mesh
            .handle(now, weft_gossip::Input::SetRecord { kind, body });
    }

    /// This host is another one from now on: its record is to be written anew, and those of others are.
    pub(crate) fn forget_listening(&mut self, now: Time) {
        self.multicast.said = None;
        self.multicast.say_from = now;
        self.multicast.others.clear();
        self.multicast.is_stale = true;
        self.say_listening(now);
    }

    /// Reads what all others say: records may have come before anybody wanted them.
    pub(crate) fn hear_listening(&mut self) {
        let records = self.mesh.registers().of_kind(GroupsRecord::KIND);
        let owners: Vec<NodeId> = records.map(|record| record.key().owner).collect();
        for owner in owners {
            self.on_groups(owner);
        }
    }

    /// True when frames of groups go elsewhere than before, by what records say.
    pub(crate) fn follow_listening(&mut self, now: Time) -> bool {
        if !self.multicast.is_stale || now < self.multicast.table_from {
            return false;
        }
        self.multicast.is_stale = false;
        self.multicast.table_from = now + TABLE_INTERVAL;
        self.make_groups()
    }

    /// Before a table is made: positions in it are those of the peers in `paths`.
    pub(crate) fn shift_listening(&mut self) {
        if self.multicast.is_shifted {
            self.make_groups();
        }
    }

    /// A sentence while pods of this host listen to more than a record names.
    pub(crate) fn multicast_warning(&self) -> Option<String> {
        let too_many = Listening::Everything(Everything::TooMany);
        (self.multicast.own() == Some(&too_many)).then(|| {
            format!(
                "pods of this host listen to more than {GROUPS_MAX} multicast groups, so all multicast of the cluster comes \
                 here: let fewer programs join, or spread the pods over more hosts"
            )
        })
    }

    /// Which hosts get the frames of which groups.
    pub fn multicast_status(&self) -> MulticastStatus {
        let mut everything = Vec::new();
        let mut groups: BTreeMap<Group, (bool, Vec<String>)> = BTreeMap::new();
        let own = self.multicast.own().map(|own| (self.id(), own));
        let others = self.paths.keys().map(|peer| (*peer, self.multicast.of(peer)));
        for (host, listening) in own.into_iter().chain(others) {
            let (name, here) = (self.name_of(&host), host == self.id());
            match listening {
                Listening::Everything(why) => everything.push(EverythingStatus {
                    host: name,
                    here,
                    reason: why.describe().into(),
                }),
                Listening::Groups(joined) => {
                    for group in joined {
                        let (is_here, hosts) = groups.entry(*group).or_default();
                        match here {
                            true => *is_here = true,
                            false => hosts.push(name.clone()),
                        }
                    }
                }
            }
        }
        let groups = groups.into_iter().map(|(group, (here, mut hosts))| {
            hosts.sort_unstable();
            GroupStatus {
                group: group.address(),
                here,
                hosts,
            }
        });
        MulticastStatus {
            groups: groups.collect(),
            everything,
        }
    }

    /// True when they are others than before.
    fn make_groups(&mut self) -> bool {
        self.multicast.is_shifted = false;
        let mut everything = Vec::new();
        let mut groups: BTreeMap<Group, Vec<u16>> = BTreeMap::new();
        for (position, peer) in (0u16..).zip(self.paths.keys()) {
            match self.multicast.of(peer) {
                Listening::Everything(_) => everything.push(position),
                Listening::Groups(joined) => {
                    for group in joined {
                        groups.entry(*group).or_default().push(position);
                    }
                }
            }
        }
        let remote = RemoteGroups {
            groups: groups
                .keys()
                .copied()
                .filter(|group| group.address().is_ipv4())
                .collect(),
            everything: !everything.is_empty(),
        };
        if self.multicast.remote != remote {
            self.multicast.remote = remote;
            self.fastpath.macs_changed();
        }
        let groups = Groups::new(everything, groups);
        if *self.multicast.groups == groups {
            return false;
        }
        self.multicast.groups = Arc::new(groups);
        true
    }
}
