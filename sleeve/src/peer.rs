//! One peer: its sessions, its attempt, and when something is due.

use crate::doubt::Doubt;
use crate::handshake::Initiation;
use crate::io::{DownReason, Output, PeerInfo, PeerState, PeerView, Way};
use crate::keys::{Cipher, Role, SessionKeys};
use crate::message::MAC_LEN;
use crate::path_mtu::{BASE, PathMtu, Probe};
use crate::shared::Shared;
use crate::timing::*;
use crate::way::{Target, Ways};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::{DropReason, NodeId, SessionIndex, Time};

/// A session that frames can be sent under.
pub(crate) struct Session {
    pub(crate) local: SessionIndex,
    pub(crate) cipher: Cipher,
    role: Role,
    established: Time,
    rekey_at: Time,
    sent: u64,
    /// Of these, those that carried frames.
    frames: u64,
    /// Of those, the large ones.
    large: u64,
    /// `frames` when something came straight last.
    answered: u64,
    received: u64,
    /// Of these, those that came by relay.
    relayed: u64,
    last_sent: Time,
    /// How long it may be silent before the next keepalive.
    keepalive_pause: Duration,
    /// `frames` and `received` when traffic other than keepalives was last noticed.
    noticed: (u64, u64, Time),
}

impl Session {
    pub(crate) fn new(
        now: Time,
        role: Role,
        local: SessionIndex,
        cipher: Cipher,
        shared: &mut Shared,
    ) -> Self {
        let grace = match role {
            Role::Initiator => Duration::ZERO,
            Role::Responder => REKEY_RESPONDER_GRACE,
        };
        Self {
            local,
            cipher,
            role,
            established: now,
            rekey_at: now + REKEY_AFTER + grace + shared.jitter(REKEY_JITTER),
            sent: 0,
            frames: 0,
            large: 0,
            answered: 0,
            received: 0,
            relayed: 0,
            last_sent: now,
            keepalive_pause: match role {
                Role::Initiator => CONFIRM_MIN,
                Role::Responder => KEEPALIVE_AFTER,
            },
            noticed: (0, 0, now),
        }
    }

    /// Datagrams sent after which this end rekeys: the responder leaves the initiator a head start.
    const fn rekey_after_datagrams(&self) -> u64 {
        match self.role {
            Role::Initiator => REKEY_AFTER_DATAGRAMS,
            Role::Responder => REKEY_AFTER_DATAGRAMS + REKEY_AFTER_DATAGRAMS / 8,
        }
    }

    /// When the next keepalive is due on a way that wants one after `interval` without sending.
    fn keepalive_at(&self, interval: Duration) -> Time {
        self.last_sent + self.keepalive_pause.min(interval)
    }

    fn keepalive(&mut self, now: Time, shared: &mut Shared) {
        self.last_sent = now;
        self.keepalive_pause = (self.keepalive_pause * 2).min(KEEPALIVE_AFTER);
        shared.push(Output::Keepalive { local: self.local });
    }

    /// Takes in the engine's counts; true when more than keepalives travelled.
    fn note(&mut self, now: Time, interval: Duration, sent: u64, received: u64, frames: u64) -> bool {
        // Keepalives are no news: `last_sent` knows of them since they were asked for. Nor are probes and answers:
        // two ends must not keep each other probing.
        if frames > self.frames {
            self.frames = frames;
            self.last_sent = now;
        }
        self.sent = self.sent.max(sent);
        if received > self.received {
            self.received = received;
            self.keepalive_pause = KEEPALIVE_AFTER;
        }
        let most = match self.role {
            Role::Initiator => self.sent.max(self.received),
            Role::Responder => self.sent,
        };
        if most >= self.rekey_after_datagrams() {
            self.rekey_at = self.rekey_at.min(now);
        }
        let (carried, heard, since) = self.noticed;
        // One keepalive in each interval, and the few by which an initiator shows a new session.
        let signs = now.since(since).as_secs() / interval.as_secs().max(1) + 4;
        let used = self.frames > carried || self.received - heard > signs;
        if used {
            self.noticed = (self.frames, self.received, now);
        }
        used
    }
}

/// A session that was replaced: for receiving only.
pub(crate) struct Previous {
    pub(crate) local: SessionIndex,
    until: Time,
    received: u64,
}

/// INIT was sent.
pub(crate) struct Attempt {
    pub(crate) noise: Initiation,
    pub(crate) local: SessionIndex,
    /// Key of `mac1` in the response.
    pub(crate) mac1_key: [u8; 32],
    /// Key under which the responder would seal a cookie.
    pub(crate) cookie_key: [u8; 32],
    /// Where INIT went.
    pub(crate) target: Target,
    /// It only asks whether the straight way works: once.
    pub(crate) is_check: bool,
    /// Our `mac1`, which a cookie answers.
    pub(crate) mac1: [u8; MAC_LEN],
    pub(crate) with_cookie: bool,
    pub(crate) retry_at: Time,
}

/// RESP was sent.
pub(crate) struct Offer {
    pub(crate) session: Session,
    /// The relay that INIT came by.
    relay: Option<Target>,
    until: Time,
}

/// What the engine counted of a session since it was installed; [`crate::Input::Activity`] says what each is.
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) frames: u64,
    pub(crate) large: u64,
    pub(crate) relayed: u64,
}

/// What the handshake with a peer awaits.
pub(crate) enum Handshake {
    /// Nothing: none is wanted, or a session stands.
    Idle,
    /// A chance to begin: an address, a secret, room in the table.
    AwaitingChance { until: Time },
    /// The initiation of the other end, which would win against ours.
    AwaitingInitiation { until: Time },
    /// The responder.
    AwaitingResponse(Box<Attempt>),
    /// The initiator's first datagram.
    AwaitingInitiator(Box<Offer>),
}

pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) info: PeerInfo,
    /// Somebody wants a session to be kept up.
    pub(crate) wanted: bool,
    pub(crate) handshake: Handshake,
    pub(crate) current: Option<Session>,
    pub(crate) previous: Option<Previous>,
    /// How it is reached.
    pub(crate) ways: Ways,
    /// Whether the straight way in use still works.
    pub(crate) doubt: Doubt,
    /// What the path there carries, from the first session on.
    path: Option<PathMtu>,
    /// What the engine was told of it.
    datagram: u16,
    /// Where a datagram of its came from that proves less: tried once.
    pub(crate) hint: Option<Target>,
    /// Initiations since the last answer.
    pub(crate) tries: u32,
    pub(crate) last_init: Option<Time>,
    /// The greatest (incarnation, counter) of its initiations.
    pub(crate) greatest: Option<(u64, u64)>,
    /// A cookie of its, and until when it is good.
    pub(crate) cookie: Option<([u8; MAC_LEN], Time)>,
    pub(crate) last_error: Option<DropReason>,
    /// When anything opened last, under any of its sessions.
    pub(crate) heard: Time,
    /// When more than keepalives travelled last.
    pub(crate) used: Time,
    state: PeerState,
    since: Time,
    /// Deadline under which it is filed.
    pub(crate) filed: Time,
}

impl Peer {
    pub(crate) fn new(now: Time, node: NodeId, info: PeerInfo) -> Self {
        Self {
            node,
            info,
            wanted: false,
            handshake: Handshake::Idle,
            current: None,
            previous: None,
            ways: Ways::new(now),
            doubt: Doubt::None,
            path: None,
            datagram: BASE,
            hint: None,
            tries: 0,
            last_init: None,
            greatest: None,
            cookie: None,
            last_error: None,
            heard: now,
            used: now,
            state: PeerState::Idle,
            since: now,
            filed: Time::NEVER,
        }
    }

    /// Where it may be: where it was heard, then where it says it is.
    pub(crate) fn candidates(&self) -> Vec<SocketAddr> {
        let mut out: Vec<SocketAddr> = self.ways.endpoint.into_iter().collect();
        for endpoint in &self.info.endpoints {
            if !out.contains(endpoint) {
                out.push(*endpoint);
            }
        }
        out
    }

    /// True while it takes up one of the places for sessions.
    pub(crate) fn is_active(&self) -> bool {
        self.current.is_some()
            || matches!(
                self.handshake,
                Handshake::AwaitingResponse(_) | Handshake::AwaitingInitiator(_)
            )
    }

    pub(crate) fn is_silent(&self, now: Time) -> bool {
        now.since(self.heard) >= SILENT_AFTER
    }

    /// True when a hint may make us initiate now.
    pub(crate) fn may_follow_hint(&self, now: Time) -> bool {
        self.last_init.is_none_or(|last| now.since(last) >= HINT_INTERVAL)
    }

    /// True when an initiation is to be sent now.
    pub(crate) fn is_initiation_due(&self, now: Time) -> bool {
        match &self.handshake {
            Handshake::Idle => match &self.current {
                None => self.wanted,
                Some(_) => self.is_renewal_due(now) || self.ways.check_at() <= now,
            },
            Handshake::AwaitingChance { until } | Handshake::AwaitingInitiation { until } => *until <= now,
            Handshake::AwaitingResponse(attempt) => attempt.retry_at <= now,
            Handshake::AwaitingInitiator(_) => false,
        }
    }

    /// True when the session in use is to be replaced: by its age, or since nothing comes under it.
    pub(crate) fn is_renewal_due(&self, now: Time) -> bool {
        let is_old = self
            .current
            .as_ref()
            .is_some_and(|session| session.rekey_at <= now);
        is_old || self.is_silent(now) || self.is_relay_silent(now) || self.doubt.is_founded()
    }

    /// How long it may be silent before the other end is shown that it lives.
    fn keepalive_interval(&self) -> Duration {
        match self.ways.relay {
            Some(_) => RELAY_KEEPALIVE_AFTER,
            None => KEEPALIVE_AFTER,
        }
    }

    /// Shows the other end, by a keepalive on the way in use, that it lives.
    pub(crate) fn show(&mut self, now: Time, shared: &mut Shared) {
        if let Some(session) = &mut self.current {
            session.keepalive(now, shared);
        }
    }

    /// Leaves it to the other end to begin, while nothing is under way.
    pub(crate) fn begin_yield(&mut self, now: Time) {
        if let (Handshake::Idle, None) = (&self.handshake, &self.current) {
            self.handshake = Handshake::AwaitingInitiation { until: now + YIELD };
        }
    }

    /// A frame waits: the other end is not waited for.
    pub(crate) fn end_yield(&mut self) {
        if let Handshake::AwaitingInitiation { .. } = self.handshake {
            self.handshake = Handshake::Idle;
        }
    }

    /// When something is due next.
    pub(crate) fn deadline(&self) -> Time {
        let mut at = match &self.handshake {
            Handshake::Idle => match &self.current {
                None => Time::NEVER,
                Some(session) => {
                    let silent = match self.ways.relay {
                        Some(_) => RELAY_SILENT_AFTER,
                        None => SILENT_AFTER,
                    };
                    session
                        .rekey_at
                        .min(self.heard + silent)
                        .min(self.ways.check_at())
                        .min(self.doubt.founded_at())
                }
            },
            Handshake::AwaitingChance { until } | Handshake::AwaitingInitiation { until } => *until,
            Handshake::AwaitingResponse(attempt) => attempt.retry_at,
            Handshake::AwaitingInitiator(offer) => offer.until,
        };
        if let Some(session) = &self.current {
            at = at.min(session.keepalive_at(self.keepalive_interval()));
            at = at.min(self.heard + DEAD_AFTER).min(self.way_due());
            at = match (self.doubt.asks_at(), &self.path) {
                (Some(asks), _) => at.min(asks),
                (None, Some(path)) => at.min(path.poll_timeout()),
                (None, None) => at,
            };
        }
        if let Some(previous) = &self.previous {
            at = at.min(previous.until);
        }
        at
    }

    /// Ends what has run out and sends the keepalive that is due.
    pub(crate) fn expire(&mut self, now: Time, shared: &mut Shared) {
        if self.previous.as_ref().is_some_and(|p| p.until <= now) {
            self.drop_previous(shared);
        }
        match &self.handshake {
            Handshake::AwaitingInitiator(offer) if offer.until <= now => self.drop_handshake(shared),
            Handshake::AwaitingResponse(attempt) if attempt.is_check && attempt.retry_at <= now => {
                self.drop_handshake(shared);
                self.ways.check_failed(now);
            }
            _ => {}
        }
        let interval = self.keepalive_interval();
        match &mut self.current {
            Some(session) if session.sent >= COUNTER_LIMIT => self.end(DownReason::CountersExhausted, shared),
            Some(_) if now.since(self.heard) >= DEAD_AFTER => self.end(DownReason::Silent, shared),
            Some(session) if session.keepalive_at(interval) <= now => session.keepalive(now, shared),
            _ => {}
        }
    }

    /// Does something with what is known of the path.
    pub(crate) fn with_path(&mut self, act: impl FnOnce(&mut PathMtu)) {
        if let Some(path) = &mut self.path {
            act(path);
        }
    }

    /// Sends the probe that is due, and says what the path carries.
    pub(crate) fn probe(&mut self, now: Time, shared: &mut Shared) {
        let (Some(session), Some(path)) = (&self.current, &mut self.path) else {
            return;
        };
        if self.doubt.asks_at().is_some() {
            // Only the last probe can be answered: sizes wait.
            if let Some(probe) = self.doubt.poll_probe(now, self.ways.heard) {
                let local = session.local;
                shared.push(Output::Probe { local, probe });
            }
            return;
        }
        if let Some(probe) = path.poll_probe(now, self.heard) {
            shared.push(Output::Probe {
                local: session.local,
                probe,
            });
        }
        if path.size() != self.datagram {
            self.datagram = path.size();
            shared.push(Output::PathMtu {
                peer: self.node,
                datagram: self.datagram,
            });
        }
    }

    /// Ends the session in use and the one before it. An attempt goes on.
    fn end(&mut self, why: DownReason, shared: &mut Shared) {
        self.drop_previous(shared);
        if let Some(session) = self.current.take() {
            shared.release(session.local);
            shared.push(Output::Remove { local: session.local });
            shared.push(Output::Down { peer: self.node, why });
        }
    }

    /// Ends everything; a session is no longer wanted.
    pub(crate) fn end_all(&mut self, why: DownReason, shared: &mut Shared) {
        self.wanted = false;
        self.drop_handshake(shared);
        self.end(why, shared);
    }

    fn drop_previous(&mut self, shared: &mut Shared) {
        if let Some(previous) = self.previous.take() {
            shared.release(previous.local);
            shared.push(Output::Remove {
                local: previous.local,
            });
        }
    }

    pub(crate) fn drop_handshake(&mut self, shared: &mut Shared) {
        match core::mem::replace(&mut self.handshake, Handshake::Idle) {
            Handshake::Idle | Handshake::AwaitingChance { .. } | Handshake::AwaitingInitiation { .. } => {}
            Handshake::AwaitingResponse(attempt) => shared.release(attempt.local),
            Handshake::AwaitingInitiator(offer) => {
                shared.release(offer.session.local);
                shared.push(Output::Remove {
                    local: offer.session.local,
                });
            }
        }
    }

    /// As responder: installs a session for receiving, in place of an attempt or an earlier offer.
    pub(crate) fn offer(&mut self, now: Time, keys: SessionKeys, relay: Option<Target>, shared: &mut Shared) {
        self.drop_handshake(shared);
        let session = Session::new(now, Role::Responder, keys.local, keys.cipher, shared);
        shared.claim(keys.local, self.node);
        shared.push(Output::Install(keys));
        let until = now + OFFER_KEPT;
        self.handshake = Handshake::AwaitingInitiator(Box::new(Offer {
            session,
            relay,
            until,
        }));
    }

    /// As initiator: the response came. Its index is the one that the attempt held.
    pub(crate) fn finish(&mut self, now: Time, keys: SessionKeys, way: Option<Target>, shared: &mut Shared) {
        self.drop_handshake(shared);
        let session = Session::new(now, Role::Initiator, keys.local, keys.cipher, shared);
        shared.claim(keys.local, self.node);
        shared.push(Output::Install(keys));
        self.select(now, session, way, shared);
    }

    /// As responder: the first datagram opened under the session we offered. It came from this address, or by relay.
    pub(crate) fn confirm(
        &mut self,
        now: Time,
        local: SessionIndex,
        from: Option<SocketAddr>,
        shared: &mut Shared,
    ) {
        match core::mem::replace(&mut self.handshake, Handshake::Idle) {
            Handshake::AwaitingInitiator(offer) if offer.session.local == local => {
                let way = from.map(Target::Address).or(offer.relay);
                self.select(now, offer.session, way, shared);
            }
            other => self.handshake = other,
        }
    }

    /// Sends under this session from now on and shows it to the other end with a keepalive.
    fn select(&mut self, now: Time, mut session: Session, way: Option<Target>, shared: &mut Shared) {
        self.drop_previous(shared);
        self.tries = 0;
        self.ways.answered();
        self.doubt = Doubt::None;
        self.hint = None;
        self.last_error = None;
        self.wanted = true;
        self.heard = now;
        if let Some(way) = way {
            self.take_way(now, way, shared);
        }
        shared.push(Output::Select {
            peer: self.node,
            local: session.local,
        });
        let pause = session.keepalive_pause;
        session.keepalive(now, shared);
        session.keepalive_pause = pause;
        let old = self.current.take();
        if old.as_ref().is_none_or(|old| old.cipher != session.cipher) {
            shared.push(Output::Up {
                peer: self.node,
                cipher: session.cipher,
            });
        }
        match old {
            Some(old) => {
                self.previous = Some(Previous {
                    local: old.local,
                    until: now + PREVIOUS_KEPT,
                    received: old.received,
                });
            }
            None => {
                self.used = now;
                // What the path was like before the last session ended is old.
                self.restart_path(now);
            }
        }
        self.current = Some(session);
    }

    /// The path is another one, of which nothing is known.
    pub(crate) fn restart_path(&mut self, now: Time) {
        self.doubt = Doubt::None;
        let (way, is_relay) = match (&self.ways.relay, &self.ways.endpoint) {
            (Some((_, address)), _) => (*address, true),
            (None, Some(endpoint)) => (*endpoint, false),
            (None, None) => return,
        };
        let path = self.path.get_or_insert_with(|| PathMtu::new(now, &way));
        if is_relay {
            path.restart_by_relay(now, &way);
        } else {
            path.restart(now, &way);
        }
    }

    /// Notes where it was heard from, and sends there from now on.
    pub(crate) fn move_to(&mut self, now: Time, endpoint: SocketAddr, shared: &mut Shared) {
        self.ways.note(now, true, false);
        let was_relayed = self.ways.relay.take().is_some();
        if was_relayed || self.ways.endpoint.is_none() {
            self.ways.straight_since = Some(now);
        }
        if self.ways.endpoint == Some(endpoint) && !was_relayed {
            return;
        }
        if let Some(old) = self.ways.endpoint.replace(endpoint)
            && old != endpoint
            && !self.info.endpoints.contains(&old)
        {
            shared.known.remove(&(old, self.node));
        }
        shared.known.insert((endpoint, self.node));
        self.restart_path(now);
        shared.push(Output::Way {
            peer: self.node,
            way: Way::Direct(endpoint),
        });
    }

    /// A probe was answered: the way in use passes datagrams both ways.
    pub(crate) fn on_answer(&mut self, now: Time, probe: Probe, shared: &mut Shared) {
        self.heard = now;
        if let Some(path) = &mut self.path {
            path.on_answer(now, probe);
        }
        if self.ways.relay.is_some() {
            return;
        }
        self.ways.note(now, true, false);
        if core::mem::replace(&mut self.doubt, Doubt::None).is_founded()
            && matches!(self.handshake, Handshake::AwaitingResponse(_))
            && !self.is_renewal_due(now)
        {
            // It was slow, and not broken: no other way is wanted any longer.
            self.drop_handshake(shared);
            self.tries = 0;
        }
    }

    /// Takes in the engine's counts for one of the sessions.
    pub(crate) fn note(&mut self, now: Time, local: SessionIndex, counts: Counts) {
        let Counts {
            sent,
            received,
            frames,
            large,
            relayed,
        } = counts;
        let interval = self.keepalive_interval();
        if let Some(session) = self.current.as_mut().filter(|s| s.local == local) {
            if received > session.received {
                self.heard = now;
                let by_relay = relayed.saturating_sub(session.relayed);
                session.relayed = session.relayed.max(relayed);
                let straight = received - session.received > by_relay;
                self.ways.note(now, straight, by_relay > 0);
                if straight {
                    session.answered = frames;
                }
            }
            let is_tested = large > session.large;
            session.large = session.large.max(large);
            if session.note(now, interval, sent, received, frames) {
                self.used = now;
            }
            let is_unanswered = session.frames > session.answered
                && self.ways.relay.is_none()
                && now.since(self.ways.heard) >= UNANSWERED_AFTER;
            if let Some(path) = &mut self.path {
                if is_tested {
                    path.on_traffic(now);
                }
                if is_unanswered && matches!(self.doubt, Doubt::None) {
                    self.doubt = Doubt::begin(now, path.next_number());
                }
            }
        } else if let Some(previous) = self.previous.as_mut().filter(|p| p.local == local)
            && received > previous.received
        {
            previous.received = received;
            self.heard = now;
        }
    }

    /// Brings state and its time up to date.
    pub(crate) fn settle(&mut self, now: Time) {
        let state = match (&self.current, &self.handshake) {
            (Some(_), _) if self.is_silent(now) => PeerState::Silent,
            (Some(_), _) => PeerState::Established,
            (None, Handshake::Idle) => PeerState::Idle,
            (None, Handshake::AwaitingChance { .. }) if self.candidates().is_empty() => {
                PeerState::AwaitingEndpoint
            }
            (None, Handshake::AwaitingChance { .. }) => PeerState::AwaitingChance,
            (None, Handshake::AwaitingInitiation { .. }) => PeerState::AwaitingInitiation,
            (None, Handshake::AwaitingResponse(_)) => PeerState::AwaitingResponse,
            (None, Handshake::AwaitingInitiator(_)) => PeerState::AwaitingInitiator,
        };
        if state != self.state {
            self.state = state;
            self.since = now;
        }
    }

    pub(crate) fn view(&self) -> PeerView {
        PeerView {
            node: self.node,
            state: self.state,
            since: self.since,
            endpoint: self.ways.endpoint,
            relay: self.current.as_ref().and(self.ways.relay).map(|(relay, _)| relay),
            path_mtu: self.current.as_ref().and(self.path.as_ref()).map(PathMtu::packet),
            session: self.current.as_ref().map(|s| s.local),
            cipher: self.current.as_ref().map(|s| s.cipher),
            established: self.current.as_ref().map(|s| s.established),
            unanswered: self.tries,
            last_error: self.last_error,
        }
    }
}
