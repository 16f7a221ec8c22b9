//! Ways to every host over the mesh links that all hosts publish: what a host asks when it cannot reach another one itself.
//!
//! Costs are the published round-trip times, then hops, then ids, so that every host computes the same from the same
//! records. A link counts only when both ends publish it: who claims links that he has not draws no traffic, and a host
//! that is gone is on no route as soon as its neighbours have said so.

use crate::topology::Topology;
use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use weft_wire::NodeId;
use weft_wire::limits::RELAY_HOPS_MAX;

/// Different first hops that are known for each host: the host itself, where it can be reached, and three neighbours,
/// so that a dead one can be replaced at once.
pub const FIRST_HOPS_MAX: usize = 4;

/// Links on the longest route: one more than relays.
const LINKS_MAX: u8 = RELAY_HOPS_MAX + 1;

/// For each host the neighbours by which it can be reached, the best first; a host that is reached without a relay
/// stands there itself.
pub type Routes = BTreeMap<NodeId, Vec<NodeId>>;

/// How good a route is; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cost {
    /// Sum of the round-trip times, in microseconds.
    rtt_us: u64,
    links: u8,
}

impl Cost {
    fn longer(self, rtt_log2_us: u8) -> Self {
        let us = 1u64.checked_shl(u32::from(rtt_log2_us)).unwrap_or(u64::MAX);
        Self {
            rtt_us: self.rtt_us.saturating_add(us),
            links: self.links.saturating_add(1),
        }
    }
}

impl Topology {
    /// Routes from `own` to every other host, the first hop of each being one of `usable`: the neighbours that `own`
    /// can send to without a relay.
    ///
    /// Dijkstra's algorithm that keeps, at each host, the best route for each of [`FIRST_HOPS_MAX`] first hops: a route
    /// that is none of the best to a host can be part of none of the best beyond it. So a host is looked at no more than
    /// that often, whatever the others publish.
    pub(crate) fn routes(&self, own: &NodeId, usable: &BTreeSet<NodeId>) -> Routes {
        // Hosts by their places in the order of their ids, so that comparing places is comparing ids.
        let hosts: Vec<&NodeId> = self.hosts().collect();
        let place = |node: &NodeId| hosts.binary_search(&node).ok();
        let mut links: Vec<Option<Vec<(usize, u8)>>> = vec![None; hosts.len()];
        let mut known: Vec<Vec<usize>> = vec![Vec::new(); hosts.len()];
        let is_news = |known: &Vec<usize>, first| known.len() < FIRST_HOPS_MAX && !known.contains(&first);
        let mut open = BinaryHeap::new();
        let start = Cost { rtt_us: 0, links: 0 };
        for (neighbour, rtt_log2_us) in self.mutual_links(own) {
            if let Some(at) = place(neighbour).filter(|_| usable.contains(neighbour)) {
                open.push(Reverse((start.longer(rtt_log2_us), at, at)));
            }
        }
        let own_place = place(own);
        while let Some(Reverse((cost, first, host))) = open.pop() {
            if !is_news(&known[host], first) {
                continue;
            }
            known[host].push(first);
            if cost.links >= LINKS_MAX {
                continue;
            }
            let links = links[host].get_or_insert_with(|| {
                let links = self.mutual_links(hosts[host]);
                let placed = links.filter_map(|(next, rtt_log2_us)| Some((place(next)?, rtt_log2_us)));
                placed.filter(|(next, _)| Some(*next) != own_place).collect()
            });
            for (next, rtt_log2_us) in links.iter().filter(|(next, _)| is_news(&known[*next], first)) {
                open.push(Reverse((cost.longer(*rtt_log2_us), first, *next)));
            }
        }
        let named = known.into_iter().zip(&hosts);
        named
            .filter(|(hops, _)| !hops.is_empty())
            .map(|(hops, host)| (**host, hops.into_iter().map(|hop| *hosts[hop]).collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weft_wire::record::{LinksRecord, PublishedLink};

    fn id(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// Hosts that publish these links: who, the other end, the round-trip time.
    fn topology(published: &[(u8, u8, u8)]) -> Topology {
        let mut links: BTreeMap<u8, BTreeMap<u8, u8>> = BTreeMap::new();
        for (host, neighbour, rtt) in published {
            links.entry(*host).or_default().insert(*neighbour, *rtt);
        }
        let mut topology = Topology::default();
        for (host, links) in links {
            let links = links.into_iter().map(|(n, rtt_log2_us)| PublishedLink {
                neighbour: id(n),
                rtt_log2_us,
            });
            topology.update(
                id(host),
                1,
                &LinksRecord {
                    links: links.collect(),
                },
            );
        }
        topology
    }

    /// Both ends publish.
    fn mutual(links: &[(u8, u8, u8)]) -> Vec<(u8, u8, u8)> {
        let both = links
            .iter()
            .flat_map(|(a, b, rtt)| [(*a, *b, *rtt), (*b, *a, *rtt)]);
        both.collect()
    }

    fn routes(published: &[(u8, u8, u8)], own: u8, usable: &[u8]) -> BTreeMap<u8, Vec<u8>> {
        let usable = usable.iter().map(|n| id(*n)).collect();
        let routes = topology(published).routes(&id(own), &usable);
        let plain =
            |(host, hops): (NodeId, Vec<NodeId>)| (host.0[0], hops.iter().map(|hop| hop.0[0]).collect());
        routes.into_iter().map(plain).collect()
    }

    #[test]
    fn along_a_line_each_host_is_reached_through_the_next() {
        let line = mutual(&[(1, 2, 9), (2, 3, 9), (3, 4, 9)]);
        let from_1 = routes(&line, 1, &[2]);
        assert_eq!(from_1, [(2, vec![2]), (3, vec![2]), (4, vec![2])].into());
        let from_2 = routes(&line, 2, &[1, 3]);
        assert_eq!(from_2, [(1, vec![1]), (3, vec![3]), (4, vec![3])].into());
    }

    #[test]
    fn around_a_ring_the_shorter_way_comes_first_and_the_other_one_second() {
        let ring = mutual(&[(1, 2, 9), (2, 3, 9), (3, 4, 9), (4, 5, 9), (5, 1, 9)]);
        let from_1 = routes(&ring, 1, &[2, 5]);
        assert_eq!(from_1[&3], [2, 5]);
        assert_eq!(from_1[&4], [5, 2]);
        assert_eq!(from_1[&2], [2, 5]);
        // One of them is all that can be sent to.
        assert_eq!(routes(&ring, 1, &[5])[&2], [5]);
        assert_eq!(routes(&ring, 1, &[]), BTreeMap::new());
    }

    #[test]
    fn time_counts_first_then_links_then_ids() {
        // Through 3 it takes as long as through 4 and 5 together; through 2 longer.
        let links = mutual(&[
            (1, 2, 9),
            (2, 6, 12),
            (1, 3, 9),
            (3, 6, 10),
            (1, 4, 9),
            (4, 5, 9),
            (5, 6, 9),
        ]);
        assert_eq!(routes(&links, 1, &[2, 3, 4])[&6], [3, 4, 2]);
        let tie = mutual(&[(1, 7, 9), (1, 5, 9), (1, 6, 9), (7, 9, 9), (5, 9, 9), (6, 9, 9)]);
        assert_eq!(routes(&tie, 1, &[5, 6, 7])[&9], [5, 6, 7]);
    }

    #[test]
    fn a_neighbour_that_cannot_be_sent_to_is_reached_through_another() {
        let full = mutual(&[(1, 2, 9), (1, 3, 9), (2, 3, 9), (1, 4, 9), (2, 4, 9), (3, 4, 9)]);
        assert_eq!(routes(&full, 1, &[2, 4])[&3], [2, 4]);
        assert_eq!(routes(&full, 3, &[2, 4])[&1], [2, 4]);
        assert_eq!(routes(&full, 2, &[1, 3, 4])[&3], [3, 1, 4]);
    }

    #[test]
    fn a_link_that_one_end_alone_claims_carries_nothing() {
        // 9 lies: it claims to be next to everybody, at no distance.
        let mut links = mutual(&[(1, 2, 9), (2, 3, 9), (1, 9, 9)]);
        links.extend([(9, 2, 0), (9, 3, 0), (9, 4, 0), (4, 9, 9), (9, 5, 0)]);
        let from_1 = routes(&links, 1, &[2, 9]);
        assert_eq!(from_1[&3], [2]);
        assert_eq!(from_1[&4], [9], "4 says so, too");
        assert_eq!(from_1.get(&5), None);
        // And who says that a link is quick does not make it so.
        let mut slow = mutual(&[(1, 2, 9), (2, 3, 9), (1, 4, 9)]);
        slow.extend([(4, 3, 0), (3, 4, 20)]);
        assert_eq!(routes(&slow, 1, &[2, 4])[&3], [2, 4]);
    }

    #[test]
    fn a_route_has_no_more_relays_than_may_be_passed() {
        let line: Vec<_> = (1..15).map(|n| (n, n + 1, 9)).collect();
        let from_1 = routes(&mutual(&line), 1, &[2]);
        let farthest = 2 + RELAY_HOPS_MAX;
        assert!(from_1.contains_key(&farthest) && !from_1.contains_key(&(farthest + 1)));
    }

    /// Hosts in an arbitrary topology: more than the longest route has.
    const HOSTS: u8 = 12;

    proptest! {
        /// From whatever is published: routes begin at usable neighbours, name no first hop twice and never this host;
        /// and where all compute from the same, following first hops comes to the end without a loop: what is left of the
        /// way costs less with each. It may have more links than a datagram passes where the quickest way that this host
        /// counts is longer than the one of a neighbour; there the hop limit ends it, and the next first hop is tried.
        #[test]
        fn first_hops_lead_there(published in proptest::collection::vec((0..HOSTS, 0..HOSTS, 0u8..40), 0..80)) {
            let links: Vec<_> = published.into_iter().filter(|(a, b, _)| a != b).collect();
            let topology = topology(&links);
            let usable = |n: u8| -> BTreeSet<NodeId> {
                topology.mutual_links(&id(n)).map(|(node, _)| *node).collect()
            };
            let all: Vec<Routes> = (0..HOSTS).map(|n| topology.routes(&id(n), &usable(n))).collect();
            for own in 0..HOSTS {
                for (host, hops) in &all[usize::from(own)] {
                    prop_assert!(*host != id(own));
                    prop_assert!(!hops.is_empty() && hops.len() <= FIRST_HOPS_MAX);
                    let distinct: BTreeSet<_> = hops.iter().collect();
                    prop_assert_eq!(distinct.len(), hops.len());
                    prop_assert!(hops.iter().all(|hop| usable(own).contains(hop)));
                    let (mut at, mut passed) = (own, 0);
                    while id(at) != *host {
                        at = all[usize::from(at)][host][0].0[0];
                        passed += 1;
                        prop_assert!(passed < HOSTS);
                    }
                }
            }
        }
    }
}
