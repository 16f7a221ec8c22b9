//! Frames larger than the path: cut before they are sent, put together when they have arrived.

use std::time::{Duration, Instant};

use weft_sleeve::Reassembler;
use weft_sleeve::fragment::{Cut, Piece, cut};
use weft_sleeve::path_mtu::FLOOR;
use weft_wire::datagram::{FragPrefix, HEADER_LEN, Kind, META_LEN, TAG_LEN};
use weft_wire::{DropReason, Time};

use super::outlet::Outlet;
use super::shared::Shared;

use crate::session::Session;
use crate::view::Path;

/// Sends a datagram to a peer: as it is where it fits the path, else what it carries in pieces. The content stands
/// behind the room for header and meta, and before the room for the tag.
pub(crate) fn send(
    outlet: &mut Outlet,
    path: &Path,
    kind: Kind,
    datagram: &mut [u8],
) -> Result<(), DropReason> {
    let limit = path.limit();
    let mut size = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    let mut room = limit;
    if datagram.len() <= usize::from(limit) {
        path.seal(kind, datagram)?;
        match outlet.send_by(&path.hop, datagram) {
            Err(DropReason::PathTooSmall) => {}
            done => return done,
        }
        // The kernel knows that the path has become smaller. The frame must not be lost for that.
        path.session.unseal(datagram)?;
        path.refused(size, |event| outlet.emit(event));
        room = limit.min(path.base());
        if datagram.len() <= usize::from(room) {
            room = FLOOR;
        }
    }
    let content = datagram
        .get(HEADER_LEN + META_LEN..datagram.len().saturating_sub(TAG_LEN))
        .unwrap_or_default();
    loop {
        match send_pieces(outlet, path, kind, content, usize::from(room)) {
            Err(DropReason::PathTooSmall) if room > FLOOR => {
                size = room;
                path.refused(size, |event| outlet.emit(event));
                room = if room > path.base() { path.base() } else { FLOOR };
            }
            Ok(()) => {
                path.session.traffic.fragmented();
                return Ok(());
            }
            failed => return failed,
        }
    }
}

fn send_pieces(
    outlet: &mut Outlet,
    path: &Path,
    kind: Kind,
    content: &[u8],
    room: usize,
) -> Result<(), DropReason> {
    let kind = match kind {
        Kind::Flood => Kind::FloodFrag,
        _ => Kind::Frag,
    };
    let places = cut(content.len(), room).ok_or(DropReason::PathTooSmall)?;
    let frame = path.session.next_cut();
    // One past the last octet is at most CONTENT_MAX, so all fit.
    let length = content.len() as u32;
    let mut datagram = std::mem::take(&mut outlet.piece);
    let result = places.into_iter().try_for_each(|(from, to)| {
        let prefix = FragPrefix {
            frame,
            offset: from as u32,
            length,
        };
        datagram.clear();
        datagram.extend_from_slice(&[0; HEADER_LEN]);
        datagram.extend_from_slice(&prefix.to_bytes());
        datagram.extend_from_slice(content.get(from..to).unwrap_or_default());
        datagram.extend_from_slice(&[0; TAG_LEN]);
        path.seal(kind, &mut datagram)?;
        outlet.send_by(&path.hop, &datagram)
    });
    outlet.piece = datagram;
    result
}

/// Puts together what comes in pieces.
pub(crate) struct Joiner {
    reassembler: Reassembler,
    start: Instant,
}

impl Joiner {
    pub(crate) fn new() -> Self {
        Self {
            reassembler: Reassembler::new(),
            start: Instant::now(),
        }
    }

    fn time(&self, now: Instant) -> Time {
        Time::from_start(now.saturating_duration_since(self.start))
    }

    /// How long the worker may sleep; for ever while nothing is incomplete.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let until = self.reassembler.poll_timeout()?;
        Some(until.since(self.time(Instant::now())))
    }

    /// Gives up what has waited for too long.
    pub(crate) fn expire(&mut self, shared: &Shared) {
        if self.reassembler.poll_timeout().is_some() {
            self.reassembler.expire(self.time(Instant::now()));
            self.count(shared);
        }
    }

    /// Takes a piece; returns what was cut once it is whole.
    pub(crate) fn take(
        &mut self,
        shared: &Shared,
        session: &Session,
        cut: Cut,
        prefix: FragPrefix,
        octets: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let piece = Piece {
            peer: session.peer,
            session: session.local,
            cut,
            prefix,
            octets,
        };
        let taken = self.reassembler.insert(self.time(now), piece);
        self.count(shared);
        taken
    }

    fn count(&mut self, shared: &Shared) {
        for (reason, count) in self.reassembler.take_lost() {
            if count > 0 {
                shared.tally.drop_many(reason, count, None);
            }
        }
    }
}
