//! Members that nobody has heard of, and when this host asks to go on without them (`--remove-after`).
//!
//! A member is heard of while it has a mesh link to this host or to one that is heard of, as their links records say, or
//! when a datagram of its own is opened here. What is counted is the time for which this host is connected with a majority
//! of the members and none of them has heard of it: a host that is cut off itself cannot tell who is gone. The clock is
//! not stored. A router that starts again counts from the beginning, and so does one that has heard of the host meanwhile.
//!
//! Asking decides nothing: that takes a majority, as always, and nobody vouches for anything.

use crate::io::{Notice, Output};
use crate::node::Node;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use weft_ipam_crdt::Request;
use weft_wire::api::SilenceStatus;
use weft_wire::record::LinksRecord;
use weft_wire::{NodeId, SessionIndex, Time};

/// The shortest silence after which a host may be removed: twice what all need to see that a link is gone (4 s without a
/// heartbeat and a second until that is published), and twice the pause between two keepalives of a session.
pub const REMOVE_AFTER_MIN: Duration = Duration::from_secs(10);
/// The longest; whoever wants to wait for longer does not want it.
pub const REMOVE_AFTER_MAX: Duration = Duration::from_secs(366 * 86_400);
/// How often the links are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What one look adds at most: a router that was stopped for longer has not seen who was there meanwhile.
const COUNT_MAX: Duration = Duration::from_secs(2);

/// A member that is not heard of.
struct Quiet {
    since: Time,
    /// How much of it counts.
    counted: Duration,
    /// Datagrams that were opened under this session when it was last looked at.
    opened: Option<(SessionIndex, u64)>,
}

/// The clock.
pub(crate) struct Silence {
    after: Option<Duration>,
    looked: Time,
    due: Time,
    /// Whether a majority of the members could be reached at the last look.
    has_majority: bool,
    quiet: BTreeMap<NodeId, Quiet>,
    /// Whose removal is asked for.
    asked: BTreeSet<NodeId>,
}

impl Default for Silence {
    fn default() -> Self {
        Self {
            after: None,
            looked: Time::ZERO,
            due: Time::NEVER,
            has_majority: false,
            quiet: BTreeMap::new(),
            asked: BTreeSet::new(),
        }
    }
}

impl Node {
    /// The operator wants members removed that are silent for so long, or none.
    pub(crate) fn on_remove_after(&mut self, now: Time, after: Option<Duration>) {
        let after = after.map(|after| after.clamp(REMOVE_AFTER_MIN, REMOVE_AFTER_MAX));
        self.silence = Silence {
            after,
            looked: now,
            due: if after.is_some() { now } else { Time::NEVER },
            ..Silence::default()
        };
        self.ask_for_silent(now, BTreeSet::new());
    }

    /// This host is another one from now on, and so is its clock.
    pub(crate) fn forget_silence(&mut self, now: Time) {
        let after = self.silence.after;
        self.silence.asked.clear();
        self.on_remove_after(now, after);
    }

    /// When the clock is looked at next.
    pub(crate) fn silence_timeout(&self) -> Time {
        self.silence.due
    }

    /// Somebody may be heard of again.
    pub(crate) fn look_for_silent(&mut self, now: Time) {
        if self.silence.after.is_some() && !self.silence.quiet.is_empty() {
            self.silence.due = now;
        }
    }

    /// Counts, and says whose time is up.
    pub(crate) fn silence_due(&mut self, now: Time) {
        let Some(after) = self.silence.after.filter(|_| self.silence.due <= now) else {
            return;
        };
        self.silence.due = now + LOOK_INTERVAL;
        let passed = now.since(self.silence.looked).min(COUNT_MAX);
        self.silence.looked = now;
        let heard = self.heard_of();
        let has_majority = self.is_majority(&heard);
        let counts = has_majority && self.silence.has_majority;
        self.silence.has_majority = has_majority;
        let silent: BTreeSet<NodeId> = self
            .mesh
            .members()
            .into_iter()
            .filter(|member| !heard.contains(member))
            .collect();
        self.silence.quiet.retain(|member, _| silent.contains(member));
        let mut up: BTreeSet<NodeId> = BTreeSet::new();
        for member in silent {
            let quiet = self.silence.quiet.entry(member).or_insert(Quiet {
                since: now,
                counted: Duration::ZERO,
                opened: None,
            });
            if counts && quiet.since < now {
                quiet.counted += passed;
            }
            if quiet.counted >= after {
                up.insert(member);
            }
        }
        let may_ask = has_majority && !self.is_removed && !self.goes_for_good();
        self.ask_for_silent(now, if may_ask { up } else { BTreeSet::new() });
    }

    /// A datagram of a member was opened, or none was.
    pub(crate) fn on_opened(&mut self, now: Time, session: SessionIndex, opened: u64) {
        let paths = &self.paths;
        let of = |peer: &NodeId| paths.get(peer).is_some_and(|path| path.session == Some(session));
        let Some((_, quiet)) = self.silence.quiet.iter_mut().find(|(peer, _)| of(peer)) else {
            return;
        };
        let before = quiet.opened.replace((session, opened));
        if before.is_some_and(|(other, count)| other == session && count < opened) {
            // It is there, whatever its links say.
            (quiet.since, quiet.counted) = (now, Duration::ZERO);
            self.silence.due = now;
        }
    }

    fn ask_for_silent(&mut self, now: Time, hosts: BTreeSet<NodeId>) {
        if self.silence.asked == hosts || self.member.is_none() {
            return;
        }
        for host in hosts.difference(&self.silence.asked).copied().collect::<Vec<_>>() {
            let name = self.name_of(&host);
            self.outputs
                .push_back(Output::Notice(Notice::Silent { peer: host, name }));
        }
        self.silence.asked = hosts.clone();
        self.ipam(now, weft_ipam_crdt::Input::Request(Request::RemoveSilent(hosts)));
    }

    /// This host, those that it has a link to, and those that they have one to, and so on.
    fn heard_of(&self) -> BTreeSet<NodeId> {
        let members: BTreeSet<NodeId> = self.mesh.members().into_iter().collect();
        let linked = members.iter().filter(|member| self.mesh.is_linked(member));
        let mut open: Vec<NodeId> = linked.copied().collect();
        let mut heard: BTreeSet<NodeId> = open.iter().copied().chain([self.id()]).collect();
        // What a host says of its links holds while it is heard of itself.
        while heard.len() < members.len()
            && let Some(host) = open.pop()
        {
            let links = self
                .mesh
                .registers()
                .body::<LinksRecord>(&host)
                .unwrap_or_default();
            for link in links.links {
                if members.contains(&link.neighbour) && heard.insert(link.neighbour) {
                    open.push(link.neighbour);
                }
            }
        }
        heard
    }

    fn is_majority(&self, heard: &BTreeSet<NodeId>) -> bool {
        self.member.as_ref().is_some_and(|member| {
            let voters = member.ipam.state().members();
            voters.intersection(heard).count() > voters.len() / 2
        })
    }

    /// For how long nobody has heard of a member; `None` while somebody does, or if nobody asked for it.
    pub(crate) fn silence_of(&self, now: Time, peer: &NodeId) -> Option<SilenceStatus> {
        let after = self.silence.after?;
        let quiet = self.silence.quiet.get(peer)?;
        let left = after.saturating_sub(quiet.counted);
        Some(SilenceStatus {
            silent_s: now.since(quiet.since).as_secs(),
            counted_s: quiet.counted.as_secs(),
            removed_in_s: self.silence.has_majority.then_some(left.as_secs()),
        })
    }
}

/// The same in words.
pub(crate) fn words(status: &SilenceStatus) -> String {
    let silent = duration(status.silent_s);
    match status.removed_in_s {
        Some(0) => format!("no host has heard of it for {silent}: its removal is asked for"),
        Some(left) => format!(
            "no host has heard of it for {silent}: its removal is asked for in {}",
            duration(left)
        ),
        None => format!(
            "no host has heard of it for {silent}; this host is not connected with a majority, and does not count that"
        ),
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
