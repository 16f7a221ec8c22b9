//! Who is whose neighbour in the mesh, as the links records say.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::record::LinksRecord;

/// One host's neighbours, in the order of their ids.
struct Neighbours {
    incarnation: u64,
    nodes: Vec<NodeId>,
}

/// The neighbours of every host that has published some.
#[derive(Default)]
pub(crate) struct Topology {
    hosts: BTreeMap<NodeId, Neighbours>,
}

impl Topology {
    /// Takes a host's new record, and says who is no longer its neighbour.
    pub(crate) fn update(&mut self, host: NodeId, incarnation: u64, record: &LinksRecord) -> Vec<NodeId> {
        let nodes: Vec<NodeId> = record.links.iter().map(|link| link.neighbour).collect();
        let new = Neighbours { incarnation, nodes };
        let old = self.hosts.insert(host, new);
        let held = &self.hosts[&host].nodes;
        let mut lost = old.map(|old| old.nodes).unwrap_or_default();
        lost.retain(|node| held.binary_search(node).is_err());
        lost
    }

    /// True when this process of `speaker`, or a later one, has said who its neighbours are.
    pub(crate) fn knows(&self, speaker: &NodeId, incarnation: u64) -> bool {
        let links = self.hosts.get(speaker);
        links.is_some_and(|links| incarnation <= links.incarnation)
    }

    /// True when `node` gets what `speaker` writes from `speaker` itself. What a later process of `speaker` writes
    /// does not count: its links are not the ones that are known.
    pub(crate) fn hears(&self, node: &NodeId, speaker: &NodeId, incarnation: u64) -> bool {
        node == speaker
            || self.hosts.get(speaker).is_some_and(|links| {
                incarnation <= links.incarnation && links.nodes.binary_search(node).is_ok()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::record::PublishedLink;

    fn links(nodes: &[u8]) -> LinksRecord {
        let link = |n: &u8| PublishedLink {
            neighbour: NodeId([*n; 32]),
            rtt_log2_us: 9,
        };
        LinksRecord {
            links: nodes.iter().map(link).collect(),
        }
    }

    #[test]
    fn neighbours_hear_their_host_until_it_restarts_or_drops_them() {
        let [a, b, c] = [1, 2, 3].map(|n| NodeId([n; 32]));
        let mut topology = Topology::default();
        assert!(!topology.hears(&b, &a, 1), "nothing is known");
        assert!(topology.hears(&a, &a, 1), "a host knows what it says");
        assert_eq!(topology.update(a, 1, &links(&[2, 3])), []);
        assert!(topology.hears(&b, &a, 1) && topology.hears(&c, &a, 0));
        assert!(!topology.hears(&b, &a, 2), "a new process has no links yet");
        assert_eq!(topology.update(a, 2, &links(&[2])), [c]);
        assert!(topology.hears(&b, &a, 2) && !topology.hears(&c, &a, 2));
    }
}
