//! What must hold again, within a bound, once nothing goes wrong any more: every host is a member and knows the same
//! as the others, has a session with each, and frames arrive.

use crate::engine::Frame;
use crate::host::{Host, pod_mac};
use crate::invariants::Violation;
use crate::queue::Event;
use crate::world::World;
use std::collections::BTreeSet;
use std::time::Duration;
use weft_node::Node;
use weft_wire::{GenesisId, Mac, Time};

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

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
        if let Some(missing) = &mut self.missing
            && crate::host::home_of(frame.destination) == host
        {
            missing.remove(&(frame.source, frame.destination));
        }
    }
}

impl World {
    pub(crate) fn look(&mut self) {
        let hosts = self.scenario.hosts;
        let unmet = match &self.liveness.missing {
            None => unmet(&self.hosts[..hosts], self.genesis),
            Some(missing) => missing.first().map(|(a, b)| {
                format!(
                    "no frame from {a} reaches {b}, and {} more pairs of pods wait",
                    missing.len() - 1
                )
            }),
        };
        match (unmet, self.liveness.missing.is_some()) {
            (None, true) => {
                self.liveness.well = true;
                return;
            }
            (None, false) => {
                let all = (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b)));
                let pairs = all
                    .filter(|(a, b)| a != b)
                    .map(|(a, b)| (pod_mac(a, 0), pod_mac(b, 0)));
                self.liveness.missing = Some(pairs.collect());
            }
            (Some(what), _) if self.liveness.end.is_some_and(|end| self.now >= end) => {
                self.violation = Some(Violation {
                    invariant: "liveness",
                    host: 0,
                    what: format!("{} s after the last fault {what}", self.scenario.settles_s),
                });
                return;
            }
            (Some(_), _) => {}
        }
        for (source, destination) in self.liveness.missing.clone().unwrap_or_default() {
            self.send_frame(crate::host::home_of(source), source, destination);
        }
        self.queue.push(self.now + LOOK_INTERVAL, Event::Look);
    }
}

/// What is still to come, in a few words.
fn unmet(hosts: &[Host], genesis: GenesisId) -> Option<String> {
    let mut nodes: Vec<(usize, &Node)> = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let Some(running) = host.running() else {
            return Some(format!("host{number} does not run"));
        };
        nodes.push((number, &running.node));
    }
    for (number, node) in &nodes {
        if node.mesh().membership().map(weft_gossip::Membership::id) != Some(genesis) {
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
