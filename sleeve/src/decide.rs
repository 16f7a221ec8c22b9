//! Which hosts a frame from a pod goes to, as far as one immutable table can say.

use crate::locate::Place;
use crate::multicast::{self, Listeners, Multicast};
use crate::solicit;
use crate::table::ForwardingTable;
use weft_wire::{DropReason, Mac};

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to the peer at this position of the table.
    Peer(u16),
    /// Broadcast or multicast that concerns everybody: it goes to every peer.
    Everybody,
    /// Multicast of a group: it goes to these peers of the table, at least one.
    Group(Listeners),
    /// A unicast address that weft did not make, and of which nothing is known: a few frames go to every peer, until
    /// an answer teaches where it lives.
    Unknown(Mac),
    /// It goes nowhere.
    Drop(DropReason),
}

impl ForwardingTable {
    /// Where a frame goes. Multicast goes where pods listen. Other frames, in this order: who has announced the address, what traffic taught, who owns its slot.
    pub fn decide(&self, frame: &[u8]) -> Decision {
        let Some(destination) = Mac::destination(frame) else {
            return Decision::Drop(DropReason::RuntFrame);
        };
        if !destination.is_group() {
            return self.unicast(destination);
        }
        let group = match multicast::classify(frame) {
            // Each host asks its own pods, and tells others the answers by a record.
            Multicast::Membership => return Decision::Drop(DropReason::MembershipMessage),
            // A frame to all stations is not one of a group, whatever it carries.
            Multicast::Packet(group) if destination != Mac::BROADCAST => Some(group),
            Multicast::Packet(_) | Multicast::Other => None,
        };
        if let Some(group) = group.filter(|group| !group.is_for_everybody()) {
            return match self.groups.listeners(group) {
                Listeners::Nobody => Decision::Drop(DropReason::NoListener),
                Listeners::ByKernel => Decision::Drop(DropReason::KernelCarries),
                listeners => Decision::Group(listeners),
            };
        }
        // A question for one address is only its owner's business.
        let asked = self
            .locator
            .as_ref()
            .and_then(|locator| locator.address(solicit::target(frame)?));
        match asked {
            Some(Place::Here) => Decision::Drop(DropReason::AskedHere),
            Some(Place::Host(node)) => self.position(&node).map_or(Decision::Everybody, Decision::Peer),
            // The answers, if any, teach where it lives.
            Some(Place::Undecided) | None => Decision::Everybody,
        }
    }

    /// Where a frame to a unicast address goes.
    pub fn unicast(&self, destination: Mac) -> Decision {
        let learned = || self.learned(destination);
        let unknown = Decision::Unknown(destination);
        let Some(locator) = &self.locator else {
            return learned().map_or(unknown, Decision::Peer);
        };
        let uncertain = Decision::Drop(DropReason::OwnerUnknown);
        match locator.weft_mac(destination) {
            // The bridge has it, or nobody.
            Some(Place::Here) => Decision::Drop(DropReason::NotHere),
            Some(Place::Host(node)) => self.position(&node).map_or(uncertain, Decision::Peer),
            Some(Place::Undecided) => learned().map_or(uncertain, Decision::Peer),
            None => match locator.announced(destination) {
                Some(Place::Here) => Decision::Drop(DropReason::NotHere),
                Some(Place::Host(node)) => self
                    .position(&node)
                    .or_else(learned)
                    .map_or(unknown, Decision::Peer),
                Some(Place::Undecided) | None => learned().map_or(unknown, Decision::Peer),
            },
        }
    }

    fn learned(&self, mac: Mac) -> Option<u16> {
        self.macs
            .get(&mac)
            .copied()
            .filter(|at| usize::from(*at) < self.peers.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locate::{Known, Locator};
    use crate::multicast::Groups;
    use crate::table::PeerPath;
    use alloc::sync::Arc;
    use weft_wire::{GenesisId, Group, NodeId, PeerHash};

    const ME: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);
    const STRANGER: NodeId = NodeId([9; 32]);
    const FOREIGN: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    /// Slots of one address: 0 to 9 are ours, then B's, C's, nobody's for certain, and a stranger's.
    fn table() -> ForwardingTable {
        let mut table = ForwardingTable::empty(PeerHash([0; 8]));
        table.peers = [B, C]
            .iter()
            .map(|node| PeerPath {
                peer: *node,
                hash: node.peer_hash(),
                session: None,
                endpoint: None,
                by_relay: false,
                datagram: 1_232,
            })
            .collect();
        table.locator = Some(Arc::new(Locator::new(Known {
            genesis: GenesisId([7; 32]),
            node: ME,
            range: "10.32.0.0/24".parse().unwrap(),
            slot_size: 1,
            owners: vec![
                (0, Some(ME)),
                (10, Some(B)),
                (20, Some(C)),
                (30, None),
                (40, Some(STRANGER)),
            ],
            addresses: [("10.32.0.11".parse().unwrap(), C)].into(),
            macs: [(Mac([0x52, 0x54, 0, 0, 0, 2]), C)].into(),
        })));
        table
    }

    fn weft(n: u8) -> Mac {
        Mac([2, 7, 0, 0, 0, n])
    }

    #[test]
    fn weft_addresses_go_to_their_owner_whatever_traffic_taught() {
        let mut table = table();
        let all = [1, 12, 11, 22, 30, 41];
        let expected = [
            Decision::Drop(DropReason::NotHere),
            Decision::Peer(0),
            Decision::Peer(1),
            Decision::Peer(1),
            Decision::Drop(DropReason::OwnerUnknown),
            Decision::Drop(DropReason::OwnerUnknown),
        ];
        let decide = |table: &ForwardingTable| all.map(|n| table.unicast(weft(n)));
        assert_eq!(decide(&table), expected);
        table.macs = all.map(|n| (weft(n), 0)).into();
        let mut taught = expected;
        taught[4] = Decision::Peer(0);
        assert_eq!(
            decide(&table),
            taught,
            "only where two hosts claim the slot, traffic decides"
        );
    }

    #[test]
    fn foreign_addresses_go_where_traffic_taught_or_are_asked_for() {
        let mut table = table();
        assert_eq!(table.unicast(FOREIGN), Decision::Unknown(FOREIGN));
        assert_eq!(
            table.unicast(Mac([0x52, 0x54, 0, 0, 0, 2])),
            Decision::Peer(1),
            "announced"
        );
        table.macs = [(FOREIGN, 1)].into();
        assert_eq!(table.unicast(FOREIGN), Decision::Peer(1));
        table.macs = [(FOREIGN, 9)].into();
        assert_eq!(
            table.unicast(FOREIGN),
            Decision::Unknown(FOREIGN),
            "a position outside the table"
        );
        table.locator = None;
        assert_eq!(table.unicast(weft(12)), Decision::Unknown(weft(12)));
    }

    #[test]
    fn a_question_goes_to_the_one_host_that_can_answer() {
        let table = table();
        let ask = |target: [u8; 4]| {
            let mut frame = vec![0xff; 6];
            frame.extend([2, 7, 0, 0, 0, 1, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend([2, 7, 0, 0, 0, 1, 10, 32, 0, 1, 0, 0, 0, 0, 0, 0]);
            frame.extend(target);
            table.decide(&frame)
        };
        assert_eq!(ask([10, 32, 0, 2]), Decision::Drop(DropReason::AskedHere));
        assert_eq!(ask([10, 32, 0, 12]), Decision::Peer(0));
        assert_eq!(ask([10, 32, 0, 11]), Decision::Peer(1), "lent to another host");
        assert_eq!(ask([10, 32, 0, 31]), Decision::Everybody, "two hosts claim it");
        assert_eq!(ask([192, 0, 2, 1]), Decision::Everybody, "outside the range");
        assert_eq!(ask([10, 32, 0, 1]), Decision::Everybody, "gratuitous");
        assert_eq!(table.decide(&[0xff; 60]), Decision::Everybody);
        assert_eq!(table.decide(&[0xff; 13]), Decision::Drop(DropReason::RuntFrame));
    }

    #[test]
    fn multicast_goes_where_pods_listen_and_nowhere_else() {
        let mut table = table();
        let group = |d: u8| Group::new([239, 1, 1, d].into()).unwrap();
        table.groups = Arc::new(Groups::new([], [(group(1), vec![1]), (group(2), vec![])]));
        let send = |table: &ForwardingTable, to: Mac, packet_to: [u8; 4], protocol: u8| {
            let mut frame = [&to.0[..], &[2, 7, 0, 0, 0, 1, 8, 0, 0x45], &[0; 8], &[protocol]].concat();
            frame.extend([0, 0, 10, 32, 0, 1]);
            frame.extend(packet_to);
            frame.extend([0; 26]);
            table.decide(&frame)
        };
        let udp = |table: &ForwardingTable, d: u8| send(table, group(d).mac(), [239, 1, 1, d], 17);
        let Decision::Group(listeners) = udp(&table, 1) else {
            panic!("{:?}", udp(&table, 1));
        };
        assert_eq!(table.groups.positions(listeners), [1]);
        assert_eq!(udp(&table, 2), Decision::Drop(DropReason::KernelCarries));
        assert_eq!(udp(&table, 3), Decision::Drop(DropReason::NoListener));
        assert_eq!(
            send(&table, group(1).mac(), [239, 1, 1, 1], 2),
            Decision::Drop(DropReason::MembershipMessage)
        );
        assert_eq!(
            send(&table, group(3).mac(), [224, 0, 0, 251], 17),
            Decision::Everybody,
            "of the link"
        );
        assert_eq!(
            send(&table, Mac::BROADCAST, [239, 1, 1, 3], 17),
            Decision::Everybody
        );
        table.groups = Arc::new(Groups::new([0], []));
        let Decision::Group(listeners) = udp(&table, 3) else {
            panic!("{:?}", udp(&table, 3));
        };
        assert_eq!(table.groups.positions(listeners), [0], "it gets everything");
    }
}
