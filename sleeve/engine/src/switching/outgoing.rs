//! What becomes of a frame that a port of the bridge sent.

use std::sync::Arc;
use std::time::Instant;

use weft_sleeve::{Decision, Place};
use weft_wire::{DropReason, Mac, NodeId};

use super::Switching;
use super::bucket::{self, Bucket, Buckets};
use super::guard::{Joins, Origin, Repeats};
use super::probe;
use crate::limit::Limit;
use crate::view::{Link, View};

/// State of the sending worker.
pub(crate) struct Outgoing {
    switching: Arc<Switching>,
    sources: Buckets<Mac>,
    unknown: Buckets<Mac>,
    copies: Bucket,
    group_copies: Bucket,
    /// The frame at hand is of a group to which somebody listens.
    is_of_group: bool,
    repeats: Repeats,
    moved: Limit<Mac>,
    sent: Limit<Mac>,
    /// While the frame at hand is flooded: with whom this host is joined.
    joins: Option<Joins>,
    now: Instant,
}

/// What the sending worker sees and the node wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// The frame's source is an address that the table has behind another host: it lives here now.
    Moved,
    /// A frame goes to this address, which weft made and the table does not have among those in use, and to this peer.
    Sent(Mac, NodeId),
}

/// What becomes of a frame.
pub(crate) enum Verdict<'a> {
    /// It is for the host behind this link.
    To(&'a Link),
    /// It is for many hosts; [`Outgoing::may_copy`] says so for each.
    Flood(Recipients<'a>),
    /// It goes nowhere.
    Drop(DropReason),
    /// It was a probe of the loop guard.
    Probe,
}

/// The hosts to which copies of a frame go.
#[derive(Clone, Copy)]
pub(crate) enum Recipients<'a> {
    /// Every host.
    All(&'a [Link]),
    /// Those at these positions.
    At(&'a [Link], &'a [u16]),
}

impl<'a> Recipients<'a> {
    /// Their links.
    pub(crate) fn links(self) -> impl Iterator<Item = &'a Link> {
        let (all, some) = match self {
            Self::All(links) => (links, None),
            Self::At(links, positions) => (&links[..0], Some((links, positions))),
        };
        let some = some.into_iter().flat_map(|(links, positions)| {
            positions.iter().filter_map(move |at| links.get(usize::from(*at)))
        });
        all.iter().chain(some)
    }
}

impl Outgoing {
    pub(crate) fn new(switching: Arc<Switching>) -> Self {
        let now = Instant::now();
        Self {
            switching,
            sources: Buckets::new(bucket::SOURCE),
            unknown: Buckets::new(bucket::UNKNOWN),
            copies: Bucket::full(bucket::HOST, now),
            group_copies: Bucket::full(bucket::GROUPS, now),
            is_of_group: false,
            repeats: Repeats::default(),
            moved: Limit::new(),
            sent: Limit::new(),
            joins: None,
            now,
        }
    }

    /// Decides about a frame with a valid source, and says what is news, at most once a second for each address.
    pub(crate) fn decide<'a>(
        &mut self,
        view: &'a View,
        frame: &[u8],
        source: Mac,
        mut report: impl FnMut(Seen),
    ) -> Verdict<'a> {
        let now = Instant::now();
        self.now = now;
        if probe::is_probe(frame)
            && let Some((origin, number)) = view.table.guard.as_ref().and_then(|key| probe::parse(frame, key))
        {
            self.switching.guard.hear(origin, number, now);
            return Verdict::Probe;
        }
        self.joins = self.switching.guard.joins(view.origin, now);
        let origin = origin(view, source);
        if origin == Origin::Foreign {
            self.switching.fresh.forget(source);
            if view.table.macs.contains_key(&source) && self.moved.pass(source, now) {
                report(Seen::Moved);
            }
        }
        let decision = view.table.decide(frame);
        let is_group = Mac::destination(frame).is_some_and(Mac::is_group);
        let is_for_many = is_group || matches!(decision, Decision::Unknown(_));
        if let Decision::Drop(reason) = decision {
            return Verdict::Drop(reason);
        }
        let fresh = Mac::destination(frame)
            .filter(|_| !is_group)
            .and_then(|destination| self.switching.fresh.find(destination, now))
            .and_then(|peer| view.table.position(&peer))
            .and_then(|at| view.links.get(usize::from(at)));
        if let Some(link) = fresh {
            return Verdict::To(link);
        }
        if is_for_many
            && let Some(joins) = &self.joins
            && (!joins.speaks_for(origin) || (joins.itself() && self.repeats.is_repeat(frame, now)))
        {
            return Verdict::Drop(DropReason::Looped);
        }
        // Frames of a group go to those who asked for them, as frames to one host do: only the copies count.
        self.is_of_group = matches!(decision, Decision::Group(_));
        if is_for_many && !self.is_of_group && !self.sources.take(source, now) {
            return Verdict::Drop(DropReason::FloodRateSource);
        }
        match decision {
            Decision::Peer(at) => match view.links.get(usize::from(at)) {
                Some(link)
                    if self
                        .joins
                        .as_ref()
                        .is_some_and(|joins| !joins.passes(origin, link.hash)) =>
                {
                    Verdict::Drop(DropReason::Looped)
                }
                Some(link) => {
                    if let Some(destination) = Mac::destination(frame).filter(|_| !is_group)
                        && !view.table.macs.contains_key(&destination)
                        && self.sent.pass(destination, now)
                    {
                        report(Seen::Sent(destination, link.peer));
                    }
                    Verdict::To(link)
                }
                // Links stand in the order of the table.
                None => Verdict::Drop(DropReason::OwnerUnknown),
            },
            Decision::Unknown(destination) if !self.unknown.take(destination, now) => {
                Verdict::Drop(DropReason::UnknownDestination)
            }
            Decision::Unknown(_) | Decision::Everybody => Verdict::Flood(Recipients::All(&view.links)),
            Decision::Group(listeners) => {
                let positions = view.table.groups.positions(listeners);
                Verdict::Flood(Recipients::At(&view.links, positions))
            }
            Decision::Drop(reason) => Verdict::Drop(reason),
        }
    }

    /// Whether a copy of the flooded frame goes to this peer.
    ///
    /// # Errors
    /// [`DropReason::Looped`], [`DropReason::FloodRateHost`].
    pub(crate) fn may_copy(&mut self, link: &Link) -> Result<(), DropReason> {
        let (copies, rate) = match self.is_of_group {
            true => (&mut self.group_copies, bucket::GROUPS),
            false => (&mut self.copies, bucket::HOST),
        };
        if self.joins.as_ref().is_some_and(|joins| joins.contains(link.hash)) {
            Err(DropReason::Looped)
        } else if copies.take(rate, self.now) {
            Ok(())
        } else {
            Err(DropReason::FloodRateHost)
        }
    }
}

fn origin(view: &View, source: Mac) -> Origin {
    let locator = view.table.locator.as_ref();
    match locator.and_then(|locator| locator.weft_mac(source)) {
        Some(Place::Here) => Origin::Here,
        Some(Place::Host(_) | Place::Undecided) => Origin::Elsewhere,
        None => Origin::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::time::Duration;
    use weft_sleeve::locate::{Known, Locator};
    use weft_sleeve::multicast::Groups;
    use weft_sleeve::{ForwardingTable, PeerPath};
    use weft_wire::{GenesisId, Group, PeerHash};

    const KEY: [u8; 32] = [7; 32];
    const FOREIGN: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// Slots of ten addresses: of this host, of the first and of the second peer.
    fn view(macs: &[(Mac, u16)]) -> View {
        let mut table = ForwardingTable::empty(PeerHash([5; 8]));
        table.peers = [1, 9]
            .map(|n| PeerPath {
                peer: node(n),
                hash: PeerHash([n; 8]),
                session: None,
                endpoint: None,
                by_relay: false,
                datagram: 1_232,
            })
            .into();
        table.macs = macs.iter().copied().collect();
        table.guard = Some(KEY);
        table.locator = Some(Arc::new(Locator::new(Known {
            genesis: GenesisId([7; 32]),
            node: node(5),
            range: "10.32.0.0/24".parse().unwrap(),
            slot_size: 10,
            owners: vec![(0, Some(node(5))), (1, Some(node(1))), (2, Some(node(9)))],
            addresses: BTreeMap::new(),
            macs: BTreeMap::new(),
        })));
        View::new(Arc::new(table), &BTreeMap::new())
    }

    fn with_groups(groups: Groups) -> View {
        let mut table = (*view(&[]).table).clone();
        table.groups = Arc::new(groups);
        View::new(Arc::new(table), &BTreeMap::new())
    }

    fn weft(n: u8) -> Mac {
        Mac([2, 7, 0, 0, 0, n])
    }

    fn frame(to: Mac, from: Mac) -> Vec<u8> {
        [&to.0[..], &from.0, &[0x12, 0x34], &[0; 46]].concat()
    }

    fn new() -> Outgoing {
        Outgoing::new(Arc::default())
    }

    /// The verdict as a text, and for a flood the peers that get a copy.
    fn decide(outgoing: &mut Outgoing, view: &View, frame: &[u8]) -> String {
        let source = Mac::source(frame).unwrap();
        match outgoing.decide(view, frame, source, |_| {}) {
            Verdict::To(link) => format!("to {}", link.hash.0[0]),
            Verdict::Drop(reason) => reason.label().into(),
            Verdict::Probe => "probe".into(),
            Verdict::Flood(recipients) => {
                let copies: Vec<String> = recipients
                    .links()
                    .filter(|link| outgoing.may_copy(link).is_ok())
                    .map(|link| link.hash.0[0].to_string())
                    .collect();
                format!("all {}", copies.join(" "))
            }
        }
    }

    #[test]
    fn an_unknown_address_is_asked_for_with_a_few_frames_until_it_is_learned() {
        let (mut outgoing, view) = (new(), view(&[]));
        let unknown = frame(FOREIGN, weft(1));
        for _ in 0..3 {
            assert_eq!(decide(&mut outgoing, &view, &unknown), "all 1 9");
        }
        assert_eq!(decide(&mut outgoing, &view, &unknown), "unknown_destination");
        outgoing.switching.fresh.learn(FOREIGN, node(9), Instant::now());
        assert_eq!(
            decide(&mut outgoing, &view, &unknown),
            "to 9",
            "before the table has it"
        );
        assert_eq!(decide(&mut outgoing, &view, &frame(weft(11), weft(1))), "to 1");
        assert_eq!(decide(&mut outgoing, &view, &frame(weft(2), weft(1))), "not_here");
    }

    #[test]
    fn an_address_that_moves_here_is_reported_once_a_second() {
        let (mut outgoing, view) = (new(), view(&[(FOREIGN, 0), (weft(1), 0)]));
        let mut moved = 0;
        for source in [FOREIGN, FOREIGN, weft(1)] {
            let frame = frame(Mac::BROADCAST, source);
            outgoing.decide(&view, &frame, source, |seen| {
                moved += u32::from(seen == Seen::Moved)
            });
        }
        assert_eq!(moved, 1, "weft MACs have their place from their slot");
    }

    #[test]
    fn an_address_that_comes_into_use_is_reported_once_a_second() {
        let (mut outgoing, known) = (new(), view(&[(weft(12), 0)]));
        let mut sent = Vec::new();
        for to in [weft(11), weft(11), weft(12), weft(22), FOREIGN, Mac::BROADCAST] {
            let frame = frame(to, weft(1));
            outgoing.decide(&known, &frame, weft(1), |seen| sent.push(seen));
        }
        assert_eq!(
            sent,
            [Seen::Sent(weft(11), node(1)), Seen::Sent(weft(22), node(9))]
        );
    }

    #[test]
    fn one_sender_cannot_flood_without_end() {
        let (mut outgoing, view) = (new(), view(&[]));
        let many = frame(Mac::BROADCAST, weft(1));
        let passed = (0..2 * bucket::SOURCE.burst)
            .filter(|_| decide(&mut outgoing, &view, &many) != "flood_rate_source")
            .count();
        let most = f64::from(bucket::SOURCE.burst) + f64::from(bucket::SOURCE.a_second) * 10.0;
        assert!(
            passed >= bucket::SOURCE.burst as usize && (passed as f64) < most,
            "{passed}"
        );
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, weft(2))),
            "all 1 9"
        );
        assert_eq!(
            decide(&mut outgoing, &view, &frame(weft(11), weft(1))),
            "to 1",
            "unicast is free"
        );
    }

    #[test]
    fn a_host_makes_no_more_copies_than_it_may() {
        let (mut outgoing, view) = (new(), view(&[]));
        let start = outgoing.now;
        let link = &view.links[0];
        for _ in 0..bucket::HOST.burst {
            assert_eq!(outgoing.may_copy(link), Ok(()));
        }
        assert_eq!(outgoing.may_copy(link), Err(DropReason::FloodRateHost));
        outgoing.now = start + Duration::from_secs(1);
        assert_eq!(outgoing.may_copy(link), Ok(()));
    }

    fn to_group(from: Mac, group: Group) -> Vec<u8> {
        let IpAddr::V4(address) = group.address() else {
            panic!("the frame is of IPv4");
        };
        let mut frame = [&group.mac().0[..], &from.0, &[8, 0, 0x45, 0], &[0; 14]].concat();
        frame.extend(address.octets());
        frame.resize(60, 0);
        frame
    }

    #[test]
    fn a_stream_to_a_group_goes_to_its_listeners_at_any_rate_of_one_sender() {
        let group = Group::new([239, 1, 1, 1].into()).unwrap();
        let (mut outgoing, view) = (new(), with_groups(Groups::new([], [(group, vec![1])])));
        let stream = to_group(weft(1), group);
        for _ in 0..3 * bucket::SOURCE.burst {
            assert_eq!(decide(&mut outgoing, &view, &stream), "all 9");
        }
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, weft(1))),
            "all 1 9",
            "broadcasts of the same sender have their own share"
        );
        let other = Group::new([239, 1, 1, 2].into()).unwrap();
        assert_eq!(
            decide(&mut outgoing, &view, &to_group(weft(1), other)),
            "no_listener"
        );
    }

    #[test]
    fn copies_for_listeners_have_a_rate_of_their_own() {
        let group = Group::new([239, 1, 1, 1].into()).unwrap();
        let (mut outgoing, view) = (new(), with_groups(Groups::new([], [(group, vec![0, 1])])));
        let start = Instant::now();
        let stream = to_group(weft(1), group);
        let mut seen = String::new();
        for _ in 0..bucket::GROUPS.burst {
            seen = decide(&mut outgoing, &view, &stream);
            if seen != "all 1 9" {
                break;
            }
        }
        let gained = start.elapsed().as_secs_f64() * f64::from(bucket::GROUPS.a_second);
        assert!(
            gained > f64::from(bucket::GROUPS.burst) || seen != "all 1 9",
            "{seen}"
        );
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, weft(1))),
            "all 1 9",
            "broadcasts go on"
        );
    }

    #[test]
    fn a_probe_is_heard_and_goes_nowhere_and_a_forged_one_is_a_frame() {
        let (mut outgoing, view) = (new(), view(&[]));
        let forged = probe::build(PeerHash([1; 8]), 1, &[8; 32]);
        assert_eq!(decide(&mut outgoing, &view, &forged), "all 1 9");
        let real = probe::build(PeerHash([1; 8]), 1, &KEY);
        assert_eq!(decide(&mut outgoing, &view, &real), "probe");
        // Now this host is joined with the first peer, which speaks for both.
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, weft(1))),
            "all 9"
        );
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, weft(11))),
            "looped"
        );
        assert_eq!(
            decide(&mut outgoing, &view, &frame(Mac::BROADCAST, FOREIGN)),
            "looped"
        );
        assert_eq!(decide(&mut outgoing, &view, &frame(weft(11), weft(1))), "to 1");
        assert_eq!(decide(&mut outgoing, &view, &frame(weft(12), weft(11))), "looped");
        assert_eq!(decide(&mut outgoing, &view, &frame(weft(22), weft(11))), "to 9");
    }

    #[test]
    fn what_comes_round_on_one_host_is_sent_once() {
        let (mut outgoing, view) = (new(), view(&[]));
        let own = probe::build(PeerHash([5; 8]), 1, &KEY);
        assert_eq!(decide(&mut outgoing, &view, &own), "probe");
        let hello = frame(Mac::BROADCAST, weft(1));
        assert_eq!(decide(&mut outgoing, &view, &hello), "all 1 9");
        assert_eq!(decide(&mut outgoing, &view, &hello), "looped");
    }
}
