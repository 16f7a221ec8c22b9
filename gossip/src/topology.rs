//! Who is whose neighbour in the mesh, as the links records say.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use weft_wire::NodeId;
use weft_wire::record::{LinksRecord, PublishedLink};

/// One host's neighbours, in the order of their ids.
struct Neighbours {
    incarnation: u64,
    links: Vec<PublishedLink>,
}

impl Neighbours {
    fn link(&self, node: &NodeId) -> Option<&PublishedLink> {
        let at = self
            .links
            .binary_search_by_key(node, |link| link.neighbour)
            .ok()?;
        self.links.get(at)
    }
}

/// The neighbours of every host that has published some.
#[derive(Default)]
pub(crate) struct Topology {
    hosts: BTreeMap<NodeId, Neighbours>,
    /// Grows with each change of a link.
    version: u64,
}

impl Topology {
    /// Takes a host's new record, and says who is no longer its neighbour.
    pub(crate) fn update(&mut self, host: NodeId, incarnation: u64, record: &LinksRecord) -> Vec<NodeId> {
        let new = Neighbours {
            incarnation,
            links: record.links.clone(),
        };
        let old = self.hosts.insert(host, new);
        let held = &self.hosts[&host];
        if old.as_ref().is_none_or(|old| old.links != held.links) {
            self.version += 1;
        }
        let old = old.into_iter().flat_map(|old| old.links);
        old.map(|link| link.neighbour)
            .filter(|node| held.link(node).is_none())
            .collect()
    }

    /// Says, by being another one, that links have changed.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Every host that has published some, in the order of their ids.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &NodeId> {
        self.hosts.keys()
    }

    /// The links of a host that the other end publishes, too, with the greater of both round-trip times.
    pub(crate) fn mutual_links(&self, host: &NodeId) -> impl Iterator<Item = (&NodeId, u8)> {
        let own = self.hosts.get_key_value(host);
        own.into_iter().flat_map(move |(host, held)| {
            held.links.iter().filter_map(move |link| {
                let back = self.hosts.get(&link.neighbour)?.link(host)?;
                Some((&link.neighbour, link.rtt_log2_us.max(back.rtt_log2_us)))
            })
        })
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
            || self
                .hosts
                .get(speaker)
                .is_some_and(|links| incarnation <= links.incarnation && links.link(node).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
