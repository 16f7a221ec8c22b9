//! From a datagram to the frame in it: every check that all engines make, in one place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sleeve::fragment::Cut;
use weft_sleeve::{Content, Passed};
use weft_wire::datagram::{
    FloodPrefix, Header, HeaderError, Kind, NETWORK_DEFAULT, RELAY_SHIM_LEN, RelayShim,
};
use weft_wire::{DropReason, Mac};

use super::doorway::Doorway;
use super::pieces::Joiner;
use super::relay::{self, Relay};
use super::shared::Shared;
use crate::engine::{EngineEvent, HANDSHAKE_MAX};
use crate::limit::Limit;
use crate::session::{Opening, Session};
use crate::switching::Incoming;
use crate::view::{Hop, Inbound, View};

/// What a receiving worker needs for each datagram.
pub(crate) struct Inlet {
    shared: Arc<Shared>,
    joiner: Joiner,
    switching: Incoming,
    unknown: Limit<SocketAddr>,
    sought: Limit<Mac>,
    relay: Relay,
    doorway: Doorway,
}

/// The session of the datagram before, which is mostly that of the next one, too.
pub(crate) struct AtHand<'a> {
    inbound: &'a Inbound,
    opening: Opening<'a>,
}

/// What a datagram brought for the bridge.
pub(crate) struct Carried<'a> {
    pub(crate) session: &'a Session,
    /// Number of the datagram in its session.
    pub(crate) counter: u64,
    pub(crate) load: Load<'a>,
}

/// A frame, in one of the forms in which it travels.
pub(crate) enum Load<'a> {
    /// [`Content::Frame`], [`Content::Slice`] or [`Content::Flood`].
    Content(Content<'a>),
    /// Put together from pieces, the last of which has just come.
    Joined(Cut, Vec<u8>),
}

impl Inlet {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            joiner: Joiner::new(),
            switching: Incoming::new(Arc::clone(&shared.switching)),
            unknown: Limit::new(),
            sought: Limit::new(),
            relay: Relay::new(),
            doorway: Doorway::new(Arc::clone(&shared)),
            shared,
        }
    }

    /// How long the worker may sleep; for ever while nothing is incomplete.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.joiner.patience()
    }

    /// Gives up what has waited for too long.
    pub(crate) fn expire(&mut self) {
        self.joiner.expire(&self.shared);
    }

    /// Passes on what others want relayed from the front of what came from one address, in datagrams of `stride` octets;
    /// says how many octets that were. What follows, up to one datagram, is for [`Inlet::take`].
    pub(crate) fn relay(
        &mut self,
        view: &View,
        from: SocketAddr,
        received: &mut [u8],
        stride: usize,
        now: Instant,
    ) -> usize {
        self.relay.take(&self.shared, view, from, received, stride, now)
    }

    /// Takes a datagram and does what it asks for; returns what is for the bridge. `at_hand` stays with the caller from
    /// one datagram to the next while the view is the same.
    pub(crate) fn take<'a>(
        &mut self,
        at_hand: &mut Option<AtHand<'a>>,
        view: &'a View,
        from: SocketAddr,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Option<Carried<'a>>, DropReason> {
        if relay::is_relay(datagram) {
            let (shim, _) = RelayShim::split(datagram).ok_or(DropReason::DatagramTooShort)?;
            return match view.table.relaying.pass(view.origin, from, &shim)? {
                Passed::Here => self.take_own(at_hand, view, from, Some(shim), datagram, now),
                Passed::On { .. } => Err(DropReason::KindNotServed),
            };
        }
        self.take_own(at_hand, view, from, None, datagram, now)
    }

    /// Takes a datagram that is for this host, behind its shim if it came by relay.
    fn take_own<'a>(
        &mut self,
        at_hand: &mut Option<AtHand<'a>>,
        view: &'a View,
        from: SocketAddr,
        shim: Option<RelayShim>,
        whole: &'a mut [u8],
        now: Instant,
    ) -> Result<Option<Carried<'a>>, DropReason> {
        let datagram = match shim {
            Some(_) => relay::inner_of(whole)?,
            None => &mut *whole,
        };
        let header = Header::parse(datagram).map_err(|error| match error {
            HeaderError::TooShort => DropReason::DatagramTooShort,
            HeaderError::UnknownKind => DropReason::UnknownKind,
        })?;
        if header.network != NETWORK_DEFAULT {
            return Err(DropReason::UnknownNetwork);
        }
        if matches!(header.kind, Kind::Init | Kind::Resp | Kind::Cookie) {
            if datagram.len() > HANDSHAKE_MAX {
                return Err(DropReason::BadHandshake);
            }
            let datagram = whole.get(if shim.is_some() { RELAY_SHIM_LEN } else { 0 }..);
            let datagram = datagram.unwrap_or_default();
            return self
                .doorway
                .take(view, from, whole, &header, datagram, now)
                .map(|()| None);
        }
        let AtHand { inbound, opening } = match at_hand {
            Some(at_hand) if at_hand.inbound.session.local == header.index => at_hand,
            _ => {
                let Some(inbound) = view.inbound(header.index) else {
                    // Behind a relay it may be anybody's.
                    if shim.is_none() && self.unknown.pass(from, now) {
                        self.shared.emit(EngineEvent::UnknownIndex { from });
                    }
                    return Err(DropReason::UnknownIndex);
                };
                let opening = inbound.session.opening();
                at_hand.insert(AtHand { inbound, opening })
            }
        };
        let session = opening.session();
        let datagram = match shim {
            Some(_) => relay::inner_of(whole)?,
            None => whole,
        };
        let content = opening.open(&header, datagram)?;
        opening.came_from(from, header.flags, inbound.endpoint, |event| {
            self.shared.emit(event)
        });
        let carried = |load| {
            Some(Carried {
                session,
                counter: header.counter,
                load,
            })
        };
        Ok(match Content::parse(header.kind, content)? {
            Content::Piece { cut, prefix, octets } => self
                .joiner
                .take(&self.shared, session, cut, prefix, octets, now)?
                .and_then(|whole| carried(Load::Joined(cut, whole))),
            Content::Probe(body) => {
                let back = match shim {
                    Some(_) => Hop::by_relay(from, view.origin, session.hash),
                    None => Hop::direct(from),
                };
                self.shared.answer_probe(session, &back, body)?;
                None
            }
            Content::ProbeAck(body) => {
                self.shared.probe_answered(session, body)?;
                None
            }
            Content::Keepalive => None,
            content @ (Content::Frame { .. } | Content::Slice { .. } | Content::Flood { .. }) => {
                carried(Load::Content(content))
            }
        })
    }

    /// Whether a frame may pass to the bridge: `headers` are its octets from the Ethernet header on, `flood` what
    /// stood before it when it came for everybody.
    pub(crate) fn admit(
        &mut self,
        view: &View,
        headers: &[u8],
        flood: Option<FloodPrefix>,
        session: &Session,
        now: Instant,
    ) -> Result<(), DropReason> {
        if let Some(prefix) = flood {
            // Copies come straight from their origin: nobody may flood in another's name.
            if prefix.origin != session.hash {
                return Err(DropReason::BadContent);
            }
            self.switching
                .admit_flood(view, prefix.origin, prefix.sequence, now)?;
            if let Some(mac) = Mac::destination(headers).filter(|mac| !mac.is_group())
                && self.sought.pass(mac, now)
            {
                let local = session.local;
                self.shared.emit(EngineEvent::Sought { local, mac });
            }
        }
        let source = Mac::source(headers).ok_or(DropReason::RuntFrame)?;
        if !source.is_valid_source() {
            return Err(DropReason::InvalidSource);
        }
        let peer = session.peer;
        self.switching.admit(view, source, peer, now, || {
            self.shared.emit(EngineEvent::Learned { mac: source, peer })
        })
    }
}
