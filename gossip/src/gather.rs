//! Links between hosts that have no cluster yet and are to agree on one.
//!
//! Both hold the same token and say in their Hello that they take part. Such a link carries what the agreement says, and
//! nothing else: no record, no admission. What is lost is lost together with the link. Once a host is a member it closes
//! these links, and they are made again under its cluster's key, or to let the other end in.

use crate::conn::{Control, GATHERING_QUEUE_MAX, Gathering, Session, Stage};
use crate::join::Waiting;
use crate::membership::Membership;
use crate::mesh::{ConnId, Mesh, MeshEvent};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use weft_wire::limits::FOUNDERS_MAX;
use weft_wire::mesh::{AGREEMENT_MAX, CAPABILITY_AGREES, Hello};
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, NodeId, RejectReason, Time};

impl Mesh {
    /// True when this host and the one of this Hello, both without a cluster, can agree on one.
    pub(crate) fn may_gather(&self, hello: &Hello) -> bool {
        let both = self.capabilities & hello.capabilities & CAPABILITY_AGREES != 0;
        let others = self
            .gatherings()
            .filter(|(_, g)| g.session.peer.node != hello.node);
        both && others.count() < FOUNDERS_MAX
    }

    fn gatherings(&self) -> impl Iterator<Item = (ConnId, &Gathering)> {
        self.conns.iter().filter_map(|(id, conn)| match &conn.stage {
            Stage::AwaitingCluster(gathering) => Some((*id, &**gathering)),
            _ => None,
        })
    }

    fn gathering_with(&self, node: &NodeId) -> impl Iterator<Item = (ConnId, &Gathering)> {
        let node = *node;
        self.gatherings()
            .filter(move |(_, gathering)| gathering.session.peer.node == node)
    }

    /// True while a link to a host stands that has no cluster either.
    pub(crate) fn is_gathered(&self, node: &NodeId) -> bool {
        self.gathering_with(node).next().is_some()
    }

    /// The Hellos are exchanged: the link stands, unless another one between the two ends does. `words` are what this end
    /// still has to say of itself.
    pub(crate) fn gather(&mut self, now: Time, id: ConnId, session: Box<Session>, words: Option<Control>) {
        let peer = session.peer.clone();
        let others: Vec<ConnId> = self.gathering_with(&peer.node).map(|(id, _)| id).collect();
        let twin = self.gathering_with(&peer.node).find(|(_, other)| {
            let other = &other.session.peer;
            other.incarnation == peer.incarnation && other.boot_nonce != peer.boot_nonce
        });
        if twin.is_some() {
            let remote = self.conns.get(&id).and_then(|conn| conn.remote);
            self.event(MeshEvent::CopiedIdentity {
                node: peer.node,
                remote,
            });
            return self.refuse(now, id, session, RejectReason::CopiedIdentity);
        }
        let rank = self.rank(id, &peer);
        let loses = self
            .gathering_with(&peer.node)
            .any(|(other, gathering)| self.rank(other, &gathering.session.peer) > rank);
        if loses {
            return self.refuse(now, id, session, RejectReason::Duplicate);
        }
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.control.extend(words);
        conn.stage = Stage::AwaitingCluster(Box::new(Gathering {
            session: *session,
            since: now,
            last_heard: now,
            heartbeat_due: now,
            outbox: VecDeque::new(),
        }));
        self.dialer.linked(&self.conns, id, peer.node);
        self.event(MeshEvent::Gathered {
            node: peer.node,
            name: peer.name,
        });
        for other in others {
            self.close(now, other, RejectReason::Duplicate);
        }
    }

    /// The agreement of the other end says something; nothing is a sign of life.
    pub(crate) fn on_agreement(&mut self, id: ConnId, bytes: Vec<u8>) {
        let from = self.conns.get(&id).and_then(|conn| Some(conn.peer()?.node));
        if let Some(from) = from
            && !bytes.is_empty()
        {
            self.event(MeshEvent::Agreement { from, bytes });
        }
    }

    /// Says something to a host that has no cluster either.
    pub(crate) fn agree(&mut self, now: Time, to: &NodeId, bytes: Vec<u8>) {
        let link = self.gathering_with(to).map(|(id, _)| id).next();
        let Some((id, conn)) = link.and_then(|id| Some((id, self.conns.get_mut(&id)?))) else {
            return;
        };
        let Stage::AwaitingCluster(gathering) = &mut conn.stage else {
            return;
        };
        if gathering.outbox.len() >= GATHERING_QUEUE_MAX || bytes.len() > AGREEMENT_MAX {
            return self.close(now, id, RejectReason::LinkTimeout);
        }
        gathering.outbox.push_back(bytes);
    }

    /// The agreement has decided, and this host is a founder: a member once that is durable.
    pub(crate) fn found(&mut self, genesis: Genesis, secret: ClusterSecret) {
        if self.membership.is_some() || self.durability.awaits_membership() || !genesis.is_founder(&self.node)
        {
            return;
        }
        let membership = Membership::found(genesis, secret);
        self.persist(Waiting::Membership(Box::new(membership)));
    }

    /// This host is a member now: links to hosts without a cluster are made again, as those of a member.
    pub(crate) fn end_gathering(&mut self, now: Time) {
        let ids: Vec<ConnId> = self.gatherings().map(|(id, _)| id).collect();
        for id in ids {
            self.close(now, id, RejectReason::Agreed);
        }
    }
}
