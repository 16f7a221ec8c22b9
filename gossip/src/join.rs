//! Admission, from both sides, with its waits for the disk.
//!
//! A member that admits stores the admission first and sends Hello and Welcome then; a newcomer stores its
//! membership first and sends Joined then. A crash in between leaves either nothing, or a
//! membership that the other end gives out again when asked again.

use crate::conn::{Conn, Control, Session, Stage};
use crate::durable::DurableState;
use crate::membership::{AdmitError, Membership, envelopes};
use crate::mesh::{ConnId, JOIN_TIMEOUT, Mesh, MeshEvent, Output, PersistToken};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use weft_wire::mesh::{Message, Welcome};
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{Envelope, RejectReason, Time};

/// News of other hosts is stored this long after it came, so that a burst costs one write.
const LAZY_PERSIST: Duration = Duration::from_secs(1);

/// What leaves once a state is durable.
pub(crate) enum Waiting {
    /// A newcomer's admission, and the connection that waits for the Welcome.
    Admission {
        conn: ConnId,
        admission: Envelope,
        name: String,
    },
    /// Our own membership.
    Membership(Box<Membership>),
    /// Nothing: news only.
    News,
}

/// What is on its way to the disk.
#[derive(Default)]
pub(crate) struct Durability {
    tokens: u64,
    waiting: BTreeMap<PersistToken, Waiting>,
    /// True when members or their addresses changed since the last state was given out.
    pub(crate) is_stale: bool,
    due: Option<Time>,
}

impl Durability {
    pub(crate) fn deadline(&self) -> Time {
        self.due.unwrap_or(Time::NEVER)
    }

    /// True while this host's membership is on its way to the disk.
    pub(crate) fn awaits_membership(&self) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|waiting| matches!(waiting, Waiting::Membership(_)))
    }
}

impl Mesh {
    /// The state as it is to be stored, with what is still on its way there.
    fn durable_state(&self) -> Option<DurableState> {
        let pending = self.durability.waiting.values().find_map(|w| match w {
            Waiting::Membership(membership) => Some(&**membership),
            _ => None,
        });
        let mut membership = self.membership.as_ref().or(pending)?.clone();
        for waiting in self.durability.waiting.values() {
            if let Waiting::Admission { admission, .. } = waiting {
                // Signed by this host as a member, so it holds.
                let _ = membership.accept(admission);
            }
        }
        let peers = self.registers.of_kind(PeerRecord::KIND);
        let others = peers.filter(|e| e.key().owner != self.node);
        // At the next start the shell's word for who was removed comes again, and takes these out of the registers.
        let removed = self.removed.values().flatten();
        Some(DurableState::of(&membership, others.chain(removed)))
    }

    pub(crate) fn persist(&mut self, waiting: Waiting) {
        self.durability.tokens += 1;
        let token = PersistToken(self.durability.tokens);
        self.durability.waiting.insert(token, waiting);
        if let Some(state) = self.durable_state() {
            self.durability.is_stale = false;
            self.durability.due = None;
            self.outputs.push_back(Output::Persist { token, state });
        }
    }

    /// Stores news of others, late and never twice at once.
    pub(crate) fn persist_due(&mut self, now: Time) {
        if !self.durability.is_stale || self.membership.is_none() || !self.durability.waiting.is_empty() {
            return;
        }
        match self.durability.due {
            Some(due) if due <= now => self.persist(Waiting::News),
            Some(_) => {}
            None => self.durability.due = Some(now + LAZY_PERSIST),
        }
    }

    pub(crate) fn on_persisted(&mut self, now: Time, token: PersistToken) {
        let later = self
            .durability
            .waiting
            .split_off(&PersistToken(token.0.saturating_add(1)));
        let done = core::mem::replace(&mut self.durability.waiting, later);
        for waiting in done.into_values() {
            match waiting {
                Waiting::News => {}
                Waiting::Admission {
                    conn,
                    admission,
                    name,
                } => {
                    let node = admission.key().owner;
                    let new = self.membership.as_ref().is_some_and(|m| !m.is_member(&node));
                    self.accept_own(admission);
                    if new {
                        self.event(MeshEvent::Admitted { node, name });
                    }
                    self.welcome(now, conn);
                }
                Waiting::Membership(membership) => self.become_member(now, *membership),
            }
        }
    }

    /// A newcomer asks to be let in, under the token's key.
    pub(crate) fn admit(&mut self, now: Time, id: ConnId, session: Box<Session>) {
        let (newcomer, name) = (session.peer.node, session.peer.name.clone());
        let Some(membership) = &self.membership else {
            return;
        };
        let known = membership.is_member(&newcomer);
        let admission = membership.admit(&self.identity.key, newcomer);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.stage = Stage::AwaitingAdmission(session);
        conn.deadline = now + JOIN_TIMEOUT;
        match admission {
            _ if known => self.welcome(now, id),
            Ok(admission) => self.persist(Waiting::Admission {
                conn: id,
                admission,
                name,
            }),
            Err(AdmitError::CollidingPeerHash(_)) => self.close(now, id, RejectReason::CollidingPeerHash),
            Err(AdmitError::TooFarFromFounder) => self.close(now, id, RejectReason::NotAMember),
        }
    }

    /// The newcomer's admission is durable: hands over the cluster.
    fn welcome(&mut self, now: Time, id: ConnId) {
        let hello = self.own_hello(self.dialer.dials);
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let session = match conn.take_stage() {
            Stage::AwaitingAdmission(session) => session,
            other => {
                conn.stage = other;
                return;
            }
        };
        let chain = self
            .membership
            .as_ref()
            .and_then(|m| Some((m, m.chain_of(&session.peer.node)?)));
        let Some((membership, chain)) = chain else {
            conn.stage = Stage::AwaitingAdmission(session);
            return self.close(now, id, RejectReason::NotAMember);
        };
        if matches!(id, ConnId::Accepted(_)) {
            conn.say(Message::Hello(hello));
        }
        let welcome = Message::Welcome(Welcome {
            genesis: membership.genesis().clone(),
            admissions: chain.iter().map(|e| e.as_bytes().to_vec()).collect(),
            secrets: membership.secrets().to_vec(),
        });
        self.enter(
            id,
            Stage::AwaitingJoined(session),
            Some(now + JOIN_TIMEOUT),
            Control::Message(Box::new(welcome)),
        );
    }

    /// A member lets us in.
    pub(crate) fn on_welcome(&mut self, now: Time, id: ConnId, welcome: Welcome) {
        let genesis = welcome.genesis.id();
        let said = self.conns.get(&id).and_then(Conn::peer).and_then(|p| p.genesis);
        if said != Some(genesis) {
            return self.close(now, id, RejectReason::BadMessage);
        }
        let pending = self.durability.waiting.values().find_map(|w| match w {
            Waiting::Membership(membership) => Some(&**membership),
            _ => None,
        });
        match (self.membership.as_ref().or(pending), self.membership.is_some()) {
            (Some(ours), _) if ours.id() != genesis => self.close(now, id, RejectReason::ForeignCluster),
            (Some(_), true) => {
                for admission in envelopes(&welcome.admissions).unwrap_or_default() {
                    self.accept_own(admission);
                }
                self.joined(now, id);
            }
            (Some(_), false) => self.await_membership(id),
            (None, _) => match Membership::from_welcome(&welcome, &self.node) {
                Ok(membership) => {
                    self.await_membership(id);
                    self.persist(Waiting::Membership(Box::new(membership)));
                }
                Err(_) => self.close(now, id, RejectReason::BadMessage),
            },
        }
    }

    fn await_membership(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = match conn.take_stage() {
                Stage::AwaitingWelcome(session) => Stage::AwaitingMembership(session),
                other => other,
            };
        }
    }

    fn become_member(&mut self, now: Time, membership: Membership) {
        if self.membership.is_some() {
            return;
        }
        let genesis = membership.genesis().clone();
        self.adopt(membership);
        self.event(MeshEvent::Joined { genesis });
        self.end_gathering(now);
        let waiting: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| matches!(c.stage, Stage::AwaitingMembership(_)))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.joined(now, id);
        }
    }

    /// Tells the admitter that we are a member, on disk; for us the link stands.
    fn joined(&mut self, now: Time, id: ConnId) {
        self.await_membership(id);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.say(Message::Joined);
        }
        self.go_up(now, id, false);
    }
}
