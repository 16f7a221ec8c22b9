//! Hosts of other clusters that were met, and which side yields when one has nothing to lose.

use crate::io::Notice;
use crate::node::Node;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::limits::DEFAULT_PORT;
use weft_wire::mesh::CAPABILITY_MAY_YIELD;
use weft_wire::{GenesisId, NodeId, Time};

/// Hosts of other clusters that are remembered: one is enough to see that there are two.
const FOREIGN_MAX: usize = 16;
/// One that was not met for so long is forgotten; it is dialled every half minute.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(90);

/// What one such host said.
struct Met {
    genesis: GenesisId,
    /// Where it can be asked, as far as that is known.
    target: Option<String>,
    at: Time,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Foreign(BTreeMap<NodeId, Met>);

impl Foreign {
    /// Somebody to ask: the one that was met last.
    pub(crate) fn target(&self, now: Time) -> Option<String> {
        let lately = self.0.values().filter(|met| now.since(met.at) < FORGOTTEN_AFTER);
        let with_target = lately.filter_map(|met| Some((met.at, met.target.clone()?)));
        with_target.max().map(|(_, target)| target)
    }

    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    fn note(&mut self, node: NodeId, met: Met) -> bool {
        self.0.retain(|_, other| met.at.since(other.at) < FORGOTTEN_AFTER);
        let is_new = !self.0.contains_key(&node);
        if is_new && self.0.len() >= FOREIGN_MAX {
            return false;
        }
        self.0.insert(node, met);
        is_new
    }
}

/// What a Hello of another cluster told.
pub(crate) struct Meeting {
    pub(crate) node: NodeId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) is_dialled: bool,
    pub(crate) genesis: GenesisId,
    /// Capability bits, theirs and ours.
    pub(crate) capabilities: [u64; 2],
    pub(crate) has_token: bool,
}

/// True when this side is the one that goes. If both can, the one with the higher genesis id does, so never both.
fn yields(ours: GenesisId, theirs: GenesisId, [their_bits, our_bits]: [u64; 2]) -> bool {
    let (they_may, we_may) = (
        their_bits & CAPABILITY_MAY_YIELD != 0,
        our_bits & CAPABILITY_MAY_YIELD != 0,
    );
    we_may && (!they_may || ours > theirs)
}

impl Node {
    pub(crate) fn on_foreign(&mut self, now: Time, meeting: Meeting) {
        let Some(ours) = self.member.as_ref().map(|member| member.genesis) else {
            return;
        };
        let Meeting {
            node,
            remote,
            is_dialled,
            genesis,
            capabilities,
            has_token,
        } = meeting;
        // A connection that it opened shows its address, but not the port on which it listens.
        let target = remote.map(|remote| match is_dialled {
            true => remote,
            false => SocketAddr::new(remote.ip(), DEFAULT_PORT),
        });
        let target = target.map(|target| target.to_string());
        let met = Met {
            genesis,
            target: target.clone(),
            at: now,
        };
        let sentence = sentence(&node, &met, &ours);
        if self.foreign.note(node, met) {
            self.outputs
                .push_back(crate::io::Output::Notice(Notice::Foreign { genesis, sentence }));
        }
        if has_token && yields(ours, genesis, capabilities) {
            self.on_foreign_met(now, target);
        }
    }

    /// One sentence for each other cluster whose hosts were met lately.
    pub(crate) fn foreign_warnings(&self, now: Time) -> Vec<String> {
        let Some(ours) = self.member.as_ref().map(|member| member.genesis) else {
            return Vec::new();
        };
        let lately = self
            .foreign
            .0
            .iter()
            .filter(|(_, met)| now.since(met.at) < FORGOTTEN_AFTER);
        let one_each: BTreeMap<GenesisId, String> = lately
            .map(|(node, met)| (met.genesis, sentence(node, met, &ours)))
            .collect();
        one_each.into_values().collect()
    }

    /// Lets the Hello say whether this host could leave its cluster.
    pub(crate) fn say_whether_alone(&mut self, now: Time) {
        let is_alone = self.is_alone();
        if core::mem::replace(&mut self.said_alone, is_alone) != is_alone {
            let capabilities = if is_alone { CAPABILITY_MAY_YIELD } else { 0 };
            self.mesh
                .handle(now, weft_gossip::Input::SetCapabilities(capabilities));
        }
    }
}

fn sentence(node: &NodeId, met: &Met, ours: &GenesisId) -> String {
    let place = met
        .target
        .as_ref()
        .map(|target| format!(" at {target}"))
        .unwrap_or_default();
    let peer = met.target.as_deref().unwrap_or("HOST");
    format!(
        "two clusters: host {}{place} belongs to {}, this host to {ours}. They share nothing. To make them one, run `weft \
         ipam adopt --peer {peer}` on one host of the side that shall yield; its pods keep the addresses that are free on \
         the other side",
        node.short(),
        met.genesis,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_sides_one_yields_or_none() {
        let [low, high] = [1, 2].map(|n| GenesisId([n; 32]));
        for bits in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            let [theirs, ours] = bits;
            let one = yields(low, high, [theirs, ours]);
            let other = yields(high, low, [ours, theirs]);
            assert!(!(one && other), "{bits:?}");
            assert_eq!(one || other, bits != [0, 0], "{bits:?}");
        }
        assert!(yields(high, low, [1, 1]));
    }

    #[test]
    fn what_was_not_met_lately_is_forgotten() {
        let mut foreign = Foreign::default();
        let met = |at| Met {
            genesis: GenesisId([1; 32]),
            target: Some(format!("192.0.2.1:{}", 7 + at)),
            at: Time::from_start(Duration::from_secs(at)),
        };
        assert!(foreign.note(NodeId([1; 32]), met(0)));
        assert!(!foreign.note(NodeId([1; 32]), met(30)));
        assert_eq!(foreign.target(met(40).at), Some("192.0.2.1:37".into()));
        assert_eq!(foreign.target(met(200).at), None);
        for n in 2..40 {
            foreign.note(NodeId([n; 32]), met(60));
        }
        assert_eq!(foreign.0.len(), FOREIGN_MAX);
        assert!(foreign.note(NodeId([50; 32]), met(200)));
        assert_eq!(foreign.0.len(), 1);
    }
}
