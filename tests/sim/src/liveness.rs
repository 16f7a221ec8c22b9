//! What must hold again, within a bound, once nothing goes wrong any more: every host is a member and knows the same
//! as the others, has a session with each, and frames arrive.

use crate::engine::Frame;
use crate::host::{Host, home_of, pod_mac};
use crate::invariants::Violation;
use crate::queue::Event;
use crate::world::World;
use std::collections::BTreeSet;
use std::time::Duration;
use weft_ipam_crdt::IpamState;
use weft_node::Node;
use weft_wire::{GenesisId, Mac, Time};

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A frame that has not arrived after this time is sent again: longer than most datagrams are under way.
const RESEND_INTERVAL: Duration = Duration::from_millis(200);

/// How far the end is.
#[derive(Default)]
pub(crate) struct Liveness {
    end: Option<Time>,
    /// Pairs of pods between which a frame must arrive, once the hosts are ready for it.
    missing: Option<BTreeSet<(Mac, Mac)>>,
    well: bool,
}

impl Liveness {
    pub(crate) fn begin(&mut self, end: Time) {
        self.end = Some(end);
    }

    pub(crate) fn is_well(&self) -> bool {
        self.well
    }

    /// A frame reached a host.
    pub(crate) fn arrived(&mut self, host: usize, frame: &Frame) {
        let destination = match frame.destination.is_group() {
            true => pod_mac(host, 0),
            false => frame.destination,
        };
        if let Some(missing) = &mut self.missing
            && home_of(destination) == host
        {
            missing.remove(&(frame.source, destination));
            self.well = missing.is_empty();
        }
    }
}

impl World {
    pub(crate) fn look(&mut self) {
        let hosts = self.scenario.hosts;
        if self.liveness.missing.is_none() {
            let what = unmet(&self.hosts[..hosts], self.genesis).or_else(|| match self.scenario.removes() {
                true => self.unfinished(),
                false => None,
            });
            if let Some(what) = what {
                return self.look_again(LOOK_INTERVAL, what);
            }
            let all = (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b)));
            let pairs = all
                .filter(|(a, b)| a != b)
                .map(|(a, b)| (pod_mac(a, 0), pod_mac(b, 0)));
            self.liveness.missing = Some(pairs.collect());
            // One frame to everybody also teaches where its sender lives; what gets lost of it is sent to each.
            for host in 0..hosts {
                self.send_frame(host, pod_mac(host, 0), Mac::BROADCAST);
            }
            return self.look_again(RESEND_INTERVAL, "frames are under way".into());
        }
        let missing = self.liveness.missing.clone().unwrap_or_default();
        let Some((a, b)) = missing.first() else {
            return;
        };
        let what = format!(
            "no frame from {a} reaches {b}, and {} more pairs of pods wait",
            missing.len() - 1
        );
        for (source, destination) in &missing {
            self.send_frame(home_of(*source), *source, *destination);
        }
        self.look_again(RESEND_INTERVAL, what);
    }

    /// What is still to come of hosts that were taken out of the cluster, in a few words.
    fn unfinished(&self) -> Option<String> {
        if let Some((node, _)) = self.not_removed().first() {
            return Some(format!("{} is not removed", node.short()));
        }
        let hosts = &self.hosts[..self.scenario.hosts];
        let states: Option<Vec<&IpamState>> = hosts.iter().map(|host| host.disk.ipam()).collect();
        let Some((first, others)) = states.as_ref().and_then(|states| states.split_first()) else {
            return Some("a host has no address state on its disk".into());
        };
        for (number, other) in others.iter().zip(1..).map(|(other, number)| (number, other)) {
            if other.epoch() != first.epoch() {
                return Some(format!("host{number} does not know the epoch of host0"));
            }
            let mut runs = first.table().all_runs().zip(other.table().all_runs());
            if let Some((one, another)) = runs.find(|(one, another)| one != another) {
                return Some(format!("host0 says {one:?}, and host{number} says {another:?}"));
            }
        }
        for (number, host) in hosts.iter().enumerate() {
            let is_removed = self.operators.removed.contains(&host.id());
            if is_removed || !first.members().contains(&host.id()) {
                return Some(format!("host{number} is in no epoch"));
            }
        }
        let runs = first.table().all_runs();
        let mut lost = runs.filter(|(_, owner, is_frozen)| !first.members().contains(owner) || *is_frozen);
        lost.next()
            .map(|(run, owner, _)| format!("{run:?} belongs to {}", owner.short()))
    }

    /// Looks again after a while, unless the time for it has run out.
    fn look_again(&mut self, after: Duration, what: String) {
        if self.liveness.end.is_some_and(|end| self.now >= end) {
            self.violation = Some(Violation {
                invariant: "liveness",
                host: 0,
                what: format!("{} s after the last fault {what}", self.scenario.settles_s),
            });
            return;
        }
        self.record.note(self.now, 0, "look", &[], || what);
        self.queue.push(self.now + after, Event::Look);
    }
}

/// What is still to come, in a few words.
fn unmet(hosts: &[Host], genesis: Option<GenesisId>) -> Option<String> {
    let mut nodes: Vec<(usize, &Node)> = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let Some(running) = host.running() else {
            return Some(format!("host{number} does not run"));
        };
        nodes.push((number, &running.node));
    }
    for (number, node) in &nodes {
        let cluster = node.mesh().membership().map(weft_gossip::Membership::id);
        if cluster.is_none() || cluster != genesis {
            return Some(format!("host{number} is no member"));
        }
    }
    for (number, node) in &nodes {
        if let Some((other, _)) = nodes
            .iter()
            .find(|(_, other)| !node.mesh().members().contains(&other.id()))
        {
            return Some(format!("host{number} does not know host{other} as a member"));
        }
    }
    let fingerprint = nodes
        .first()
        .map(|(_, node)| node.mesh().registers().fingerprint());
    if let Some((number, _)) = nodes
        .iter()
        .find(|(_, node)| Some(node.mesh().registers().fingerprint()) != fingerprint)
    {
        return Some(format!("host{number} has other records than host0"));
    }
    for (number, host) in hosts.iter().enumerate() {
        let table = &host.running()?.engine.table;
        let ready: BTreeSet<_> = table
            .peers
            .iter()
            .filter(|p| p.ready().is_some())
            .map(|p| p.peer)
            .collect();
        if let Some((other, _)) = nodes
            .iter()
            .find(|(other, node)| *other != number && !ready.contains(&node.id()))
        {
            return Some(format!("host{number} has no session with host{other}"));
        }
    }
    None
}
