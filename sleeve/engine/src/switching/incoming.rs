//! What a frame from a peer must pass before it reaches the bridge.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use weft_sleeve::{Place, ReplayError, ReplayWindow};
use weft_wire::limits::SESSIONS_MAX;
use weft_wire::{DropReason, Mac, NodeId, PeerHash};

use super::Switching;
use crate::learn::Learner;
use crate::view::View;

/// State of the receiving worker.
pub(crate) struct Incoming {
    switching: Arc<Switching>,
    learner: Learner,
    /// Numbers seen of each origin, at most [`SESSIONS_MAX`] of them.
    floods: HashMap<PeerHash, ReplayWindow>,
}

impl Incoming {
    pub(crate) fn new(switching: Arc<Switching>) -> Self {
        Self {
            switching,
            learner: Learner::new(),
            floods: HashMap::new(),
        }
    }

    /// Whether a flooded frame is one to pass on.
    ///
    /// # Errors
    /// [`DropReason::DuplicateFlood`], [`DropReason::Looped`].
    pub(crate) fn admit_flood(
        &mut self,
        view: &View,
        origin: PeerHash,
        sequence: u64,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(joins) = self.switching.guard.joins(view.origin, now) {
            joins.accepts_flood(origin)?;
        }
        if self.floods.len() >= SESSIONS_MAX && !self.floods.contains_key(&origin) {
            // More origins than sessions: most of them have gone.
            self.floods.clear();
        }
        let window = self.floods.entry(origin).or_default();
        match window.commit(sequence) {
            Ok(()) => Ok(()),
            Err(ReplayError::Replayed) => Err(DropReason::DuplicateFlood),
            // No datagram is accepted twice, so it is new: the origin has started again with its clock set back.
            Err(ReplayError::TooOld) => {
                *window = ReplayWindow::new();
                window.commit(sequence).map_err(|_| DropReason::DuplicateFlood)
            }
        }
    }

    /// Notes behind which peer the source of a frame lives, and calls `report` when that is news.
    ///
    /// # Errors
    /// [`DropReason::SourceIsHere`] when the source belongs to this host; [`DropReason::Looped`] when the frame was sent
    /// from here.
    pub(crate) fn admit(
        &mut self,
        view: &View,
        source: Mac,
        peer: NodeId,
        now: Instant,
        report: impl FnOnce() -> bool,
    ) -> Result<(), DropReason> {
        let place = view
            .table
            .locator
            .as_ref()
            .and_then(|locator| locator.weft_mac(source));
        if place == Some(Place::Here) {
            // On a host that is joined outside the overlay it is a frame from here that comes round.
            if self.switching.guard.joins(view.origin, now).is_some() {
                return Err(DropReason::Looped);
            }
            // Another host's word does not move what is this host's: the bridge would take the pod for one behind the TAP
            // device, until its next frame. Somebody there has the address as well: worth a report, now and then.
            self.learner.saw(source, peer, true, now, report);
            return Err(DropReason::SourceIsHere);
        }
        let known = view
            .table
            .macs
            .get(&source)
            .and_then(|at| view.links.get(usize::from(*at)))
            .is_some_and(|link| link.peer == peer);
        let fresh = &self.switching.fresh;
        self.learner.saw(source, peer, known, now, || {
            // A weft MAC has its place from its slot.
            if place.is_none() {
                fresh.learn(source, peer, now);
            }
            report()
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use weft_sleeve::ForwardingTable;

    fn view() -> View {
        View::new(
            Arc::new(ForwardingTable::empty(PeerHash([5; 8]))),
            &BTreeMap::new(),
        )
    }

    #[test]
    fn a_flooded_frame_passes_once() {
        let (mut incoming, view) = (Incoming::new(Arc::default()), view());
        let now = Instant::now();
        let mut admit =
            |origin: u8, sequence| incoming.admit_flood(&view, PeerHash([origin; 8]), sequence, now);
        assert_eq!(admit(1, 1_000_000), Ok(()));
        assert_eq!(admit(1, 1_000_000), Err(DropReason::DuplicateFlood));
        assert_eq!(admit(2, 1_000_000), Ok(()), "another origin");
        assert_eq!(admit(1, 999_999), Ok(()), "one that was overtaken");
        assert_eq!(admit(1, 7), Ok(()), "the origin's clock was set back");
        assert_eq!(admit(1, 7), Err(DropReason::DuplicateFlood));
        assert_eq!(admit(1, 8), Ok(()));
    }

    #[test]
    fn windows_are_bounded() {
        let (mut incoming, view) = (Incoming::new(Arc::default()), view());
        for n in 0..2 * SESSIONS_MAX as u64 {
            let origin = PeerHash(n.to_be_bytes());
            assert_eq!(incoming.admit_flood(&view, origin, 1, Instant::now()), Ok(()));
        }
        assert!(incoming.floods.len() <= SESSIONS_MAX);
    }

    #[test]
    fn what_is_learned_is_known_at_once() {
        let (mut incoming, view) = (Incoming::new(Arc::default()), view());
        let (mac, peer, now) = (Mac([6; 6]), NodeId([1; 32]), Instant::now());
        let mut reports = 0;
        for _ in 0..3 {
            let report = || {
                reports += 1;
                true
            };
            assert_eq!(incoming.admit(&view, mac, peer, now, report), Ok(()));
        }
        assert_eq!(reports, 1);
        assert_eq!(incoming.switching.fresh.find(mac, now), Some(peer));
    }
}
