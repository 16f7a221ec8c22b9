//! Frames of a connection in each of its stages, and the rule that leaves one connection a pair.
//!
//! Of several connections between two hosts the one of the higher rank stands: that of the newer process of
//! the other end; else the one whose initiator has the lower NodeId; else the one dialled last. Both ends
//! compute the same rank. A loser is closed by an end that knows the winner to stand at *both* ends, so no
//! end is ever left without a link.

use crate::conn::{Conn, Control, Origin, PeerInfo, Session, Stage, Up};
use crate::dial::Goal;
use crate::handshake::{initiate, refusal_frame, respond};
use crate::liveness::Rtt;
use crate::mesh::{CONNECTIONS_MAX, ConnId, HANDSHAKES_PER_IP_MAX, LINGER, Mesh, MeshEvent, Output};
use crate::summary::Summaries;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use weft_wire::limits::HANDSHAKE_TIMEOUT;
use weft_wire::mesh::Message;
use weft_wire::{NodeId, RejectReason, Time};

impl Mesh {
    pub(crate) fn on_dialled(&mut self, now: Time, id: ConnId, remote: SocketAddr) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (Stage::Connecting, Origin::Dialled { key, .. }) = (&conn.stage, &conn.origin) else {
            return;
        };
        conn.remote = Some(remote);
        let started = self
            .keyring
            .get(*key)
            .ok_or(RejectReason::UnknownKey)
            .and_then(|psk| initiate(&self.identity.noise, psk, &mut self.rng));
        match started {
            Ok((awaiting, frame)) => {
                conn.stage = Stage::AwaitingResponse(Box::new(awaiting));
                conn.deadline = now + HANDSHAKE_TIMEOUT;
                conn.control.push_back(Control::Raw(frame));
            }
            Err(reason) => self.close(now, id, reason),
        }
    }

    pub(crate) fn on_accepted(&mut self, now: Time, id: ConnId, from: SocketAddr) {
        if self.conns.contains_key(&id) {
            return;
        }
        let same_ip = self
            .conns
            .values()
            .filter(|c| c.is_unproved_guest() && c.remote.is_some_and(|r| r.ip() == from.ip()));
        if self.stopping || self.conns.len() >= CONNECTIONS_MAX || same_ip.count() >= HANDSHAKES_PER_IP_MAX {
            let reason = if self.stopping {
                RejectReason::Shutdown
            } else {
                RejectReason::TooManyConnections
            };
            self.refusals[reason as usize] += 1;
            return self.outputs.push_back(Output::Close { conn: id });
        }
        let mut conn = Conn::new(
            now,
            HANDSHAKE_TIMEOUT,
            Origin::Accepted,
            Stage::AwaitingInitiation,
        );
        conn.remote = Some(from);
        self.conns.insert(id, conn);
    }

    pub(crate) fn on_written(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.in_flight = None;
        }
    }

    pub(crate) fn on_closed(&mut self, now: Time, id: ConnId) {
        let connecting = matches!(self.conns.get(&id).map(|c| &c.stage), Some(Stage::Connecting));
        if connecting {
            return self.on_dial_failed(now, id, "the connection was closed at once".into());
        }
        self.close(now, id, RejectReason::Disconnected);
        self.conns.remove(&id);
    }

    pub(crate) fn on_shutdown(&mut self, now: Time) {
        self.stopping = true;
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            self.close(now, id, RejectReason::Shutdown);
        }
    }

    pub(crate) fn on_frame(&mut self, now: Time, id: ConnId, frame: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        match conn.take_stage() {
            stage @ (Stage::Connecting | Stage::Ended(_) | Stage::Closing(_)) => conn.stage = stage,
            Stage::AwaitingInitiation => {
                match respond(&self.identity.noise, &self.keyring, frame, &mut self.rng) {
                    Ok((awaiting, frame)) => {
                        conn.stage = Stage::AwaitingHello(Box::new(awaiting));
                        conn.control.push_back(Control::Raw(frame));
                    }
                    Err(reason) => {
                        conn.control.push_back(Control::Raw(refusal_frame(reason)));
                        self.close(now, id, reason);
                    }
                }
            }
            Stage::AwaitingResponse(awaiting) => {
                let Origin::Dialled { dial, .. } = conn.origin else {
                    return;
                };
                let hello = self.own_hello(dial);
                match awaiting.read_response(frame, &hello) {
                    Ok((awaiting, frame)) => {
                        let stage = Stage::AwaitingConfirmation(Box::new(awaiting));
                        self.enter(id, stage, None, Control::Raw(frame));
                    }
                    Err(reason) => self.close(now, id, reason),
                }
            }
            Stage::AwaitingHello(awaiting) => {
                let role = awaiting.role();
                match awaiting.read_hello(frame) {
                    Ok((transport, hello)) => {
                        let peer = PeerInfo::new(&hello, &conn.origin);
                        self.answer_hello(now, id, role, hello, Session { transport, peer });
                    }
                    Err((reason, transport)) => {
                        conn.stage = Stage::Ended(transport);
                        self.close(now, id, reason);
                    }
                }
            }
            Stage::AwaitingConfirmation(awaiting) => {
                let Origin::Dialled { key, .. } = conn.origin else {
                    return;
                };
                match awaiting.read_hello(frame) {
                    Ok((transport, hello)) => {
                        let peer = PeerInfo::new(&hello, &conn.origin);
                        self.take_hello(now, id, key, &hello, Session { transport, peer });
                    }
                    Err((reason, transport)) => {
                        conn.stage = Stage::Ended(transport);
                        self.close(now, id, reason);
                    }
                }
            }
            stage => {
                conn.stage = stage;
                self.on_sealed(now, id, frame);
            }
        }
    }

    /// A transport message behind the Hellos.
    fn on_sealed(&mut self, now: Time, id: ConnId, frame: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let transport = match &mut conn.stage {
            Stage::AwaitingProof(s)
            | Stage::AwaitingAdmission(s)
            | Stage::AwaitingWelcome(s)
            | Stage::AwaitingMembership(s)
            | Stage::AwaitingJoined(s) => &mut s.transport,
            Stage::AwaitingCluster(gathering) => {
                gathering.last_heard = now;
                &mut gathering.session.transport
            }
            Stage::Up(up) => {
                up.last_heard = now;
                &mut up.session.transport
            }
            _ => return,
        };
        let message = transport
            .open(frame)
            .and_then(|plain| Message::decode(&plain).map_err(|_| RejectReason::BadMessage));
        let message = match message {
            Ok(Some(message)) => message,
            // A type of a later version.
            Ok(None) => return,
            Err(reason) => return self.close(now, id, reason),
        };
        match (&conn.stage, message) {
            (_, Message::Goodbye(reason)) => self.close(now, id, reason),
            (
                Stage::AwaitingProof(_),
                message @ (Message::Heartbeat(_)
                | Message::Records(_)
                | Message::Direct(_)
                | Message::Summary(_)
                | Message::Passed(_)),
            ) => {
                self.go_up(now, id, true);
                self.on_gossip(now, id, message);
            }
            (
                Stage::Up(_),
                message @ (Message::Heartbeat(_)
                | Message::Records(_)
                | Message::Direct(_)
                | Message::Summary(_)
                | Message::Passed(_)),
            ) => {
                self.on_gossip(now, id, message);
            }
            (Stage::AwaitingWelcome(_), Message::Welcome(welcome)) => self.on_welcome(now, id, welcome),
            (Stage::AwaitingJoined(_), Message::Joined) => self.go_up(now, id, true),
            (Stage::AwaitingCluster(_), Message::Agreement(bytes)) => self.on_agreement(id, bytes),
            // The other end has become a member since its Hello; a new link begins with that.
            (Stage::AwaitingCluster(_), Message::Welcome(_)) => self.close(now, id, RejectReason::Agreed),
            _ => self.close(now, id, RejectReason::BadMessage),
        }
    }

    fn on_gossip(&mut self, now: Time, id: ConnId, message: Message) {
        let Some(up) = self.conns.get_mut(&id).and_then(Conn::up_mut) else {
            return;
        };
        let node = up.session.peer.node;
        let newly_mutual = !core::mem::replace(&mut up.mutual, true);
        match message {
            Message::Heartbeat(heartbeat) => self.on_heartbeat(now, id, &heartbeat),
            Message::Records(records) => self.on_records(now, id, records),
            Message::Direct(bytes) => self.event(MeshEvent::Direct { from: node, bytes }),
            Message::Summary(summary) => self.on_summary(now, id, &summary),
            Message::Passed(passed) => self.on_passed(now, id, passed),
            _ => {}
        }
        if newly_mutual {
            self.settle(now, node);
        }
    }

    /// Moves a connection on, with what it has to say in its new stage.
    pub(crate) fn enter(&mut self, id: ConnId, stage: Stage, deadline: Option<Time>, words: Control) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = stage;
            conn.deadline = deadline.unwrap_or(conn.deadline);
            conn.control.push_back(words);
        }
    }

    /// The standing links to a node: one, or for a moment two.
    pub(crate) fn ups_to(&self, node: &NodeId) -> impl Iterator<Item = (ConnId, &Up)> {
        let node = *node;
        self.conns
            .iter()
            .filter_map(|(id, conn)| Some((*id, conn.up()?)))
            .filter(move |(_, up)| up.session.peer.node == node)
    }

    /// Of two connections to one node the one of the higher rank stands.
    pub(crate) fn rank(&self, id: ConnId, peer: &PeerInfo) -> (u64, bool, u64) {
        let ours = matches!(id, ConnId::Dialled(_));
        (peer.incarnation, ours == (self.node < peer.node), peer.dial)
    }

    /// The link stands at this end; `mutual` if the other end has shown that it stands there.
    pub(crate) fn go_up(&mut self, now: Time, id: ConnId, mutual: bool) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let session = match conn.take_stage() {
            Stage::AwaitingProof(s) | Stage::AwaitingMembership(s) | Stage::AwaitingJoined(s) => *s,
            other => {
                conn.stage = other;
                return;
            }
        };
        let (node, name) = (session.peer.node, session.peer.name.clone());
        let first = self.ups_to(&node).next().is_none();
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = Stage::Up(Box::new(Up {
                session,
                since: now,
                last_heard: now,
                mutual,
                rtt: Rtt::default(),
                heartbeat_due: now,
                last_heartbeat: None,
                dirty: BTreeSet::new(),
                later: BTreeMap::new(),
                later_is_new: false,
                later_due: Time::NEVER,
                direct: VecDeque::new(),
                passing: VecDeque::new(),
                fingerprints: None,
                mismatches: 0,
                differences: 0,
                resync_after: now,
                resync_wait: Duration::ZERO,
                summaries: Summaries::default(),
            }));
        }
        self.dialer.linked(&self.conns, id, node);
        self.dialer.look_again();
        if first {
            self.event(MeshEvent::PeerUp { node, name });
        }
        if let Some(better) = self
            .membership
            .as_ref()
            .and_then(|m| m.raise(&self.identity.key, node))
        {
            self.accept_own(better);
        }
        self.settle(now, node);
    }

    /// Closes the connections to `node` that lose against one known to stand at both ends.
    fn settle(&mut self, now: Time, node: NodeId) {
        let winner = self
            .ups_to(&node)
            .filter(|(_, up)| up.mutual)
            .map(|(id, up)| self.rank(id, &up.session.peer))
            .max();
        let Some(winner) = winner else {
            return;
        };
        let losers: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| matches!(conn.stage, Stage::Up(_) | Stage::AwaitingProof(_)))
            .filter_map(|(id, conn)| Some((*id, conn.peer()?)))
            .filter(|(id, peer)| peer.node == node && self.rank(*id, peer) < winner)
            .map(|(id, _)| id)
            .collect();
        for id in losers {
            self.close(now, id, RejectReason::Duplicate);
        }
    }

    /// Ends a connection for `reason`, with a Goodbye if there are keys for one.
    pub(crate) fn close(&mut self, now: Time, id: ConnId, reason: RejectReason) {
        let node = self.conns.get(&id).and_then(Conn::peer).map(|p| p.node);
        self.close_as(now, id, reason, node);
    }

    pub(crate) fn close_as(&mut self, now: Time, id: ConnId, reason: RejectReason, node: Option<NodeId>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if matches!(conn.stage, Stage::Closing(_)) {
            return;
        }
        let lived = conn.up().map(|up| now.since(up.since));
        let gathered = match &conn.stage {
            Stage::AwaitingCluster(gathering) => Some(now.since(gathering.since)),
            _ => None,
        };
        self.dialer.look_again();
        self.publisher.look_again();
        let transport = match conn.take_stage() {
            Stage::AwaitingProof(s)
            | Stage::AwaitingAdmission(s)
            | Stage::AwaitingWelcome(s)
            | Stage::AwaitingMembership(s)
            | Stage::AwaitingJoined(s) => Some(Box::new(s.transport)),
            Stage::AwaitingConfirmation(a) => Some(Box::new(a.into_transport())),
            Stage::AwaitingCluster(gathering) => Some(Box::new(gathering.session.transport)),
            Stage::Up(up) => Some(Box::new(up.session.transport)),
            Stage::Ended(transport) => transport,
            _ => None,
        };
        if transport.is_some() {
            conn.say(Message::Goodbye(reason));
        }
        conn.stage = Stage::Closing(transport);
        conn.deadline = now + LINGER;
        let remote = conn.remote;
        let goal = match &conn.origin {
            Origin::Dialled { goal, .. } => Some(goal.clone()),
            Origin::Accepted => None,
        };
        self.refusals[reason as usize] += 1;
        match (lived, node) {
            (None, Some(node)) if let Some(gathered) = gathered => {
                if !self.is_gathered(&node) {
                    self.link_lost(now, node, gathered, reason);
                    self.event(MeshEvent::Parted { node, reason });
                }
            }
            (Some(lived), Some(node)) => {
                if self.ups_to(&node).next().is_none() {
                    self.link_lost(now, node, lived, reason);
                    self.event(MeshEvent::PeerDown { node, reason });
                }
            }
            _ => {
                if let Some(goal) = &goal {
                    self.dial_refused(now, id, goal, remote, reason);
                }
                if !matches!(reason, RejectReason::Duplicate | RejectReason::Shutdown) {
                    let target = match goal {
                        Some(Goal::Target(text)) => Some(text),
                        _ => None,
                    };
                    self.event(MeshEvent::LinkRefused {
                        remote,
                        target,
                        node,
                        reason,
                    });
                }
            }
        }
    }
}
