//! Hellos: what this host says of itself, and what another's makes of the connection.

use crate::conn::{Control, Origin, Session, Stage};
use crate::dial::Goal;
use crate::handshake::KeyRole;
use crate::membership::envelopes;
use crate::mesh::{ConnId, JOIN_TIMEOUT, Mesh, MeshEvent};
use alloc::boxed::Box;
use alloc::string::String;
use core::net::SocketAddr;
use weft_wire::envelope::RegisterKey;
use weft_wire::limits::NAME_MAX;
use weft_wire::mesh::{Hello, Message};
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{Envelope, RejectReason, Time};

/// What an acceptable Hello makes of the connection.
enum Standing {
    /// Both are members of one cluster.
    Member,
    /// We are a member, the other end asks to be let in.
    Admit,
    /// The other end is a member, we ask to be let in.
    AwaitWelcome,
    /// Neither is, and both are to agree on a cluster.
    Gather,
}

/// A nickname that a Hello may carry: control characters left out, cut to the longest length.
pub(crate) fn printable_name(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > NAME_MAX {
            break;
        }
        out.push(c);
    }
    out
}

impl Mesh {
    /// What this host says of itself.
    pub(crate) fn own_hello(&self, dial: u64) -> Hello {
        let chain = self
            .membership
            .as_ref()
            .and_then(|m| m.chain_of(&self.node))
            .unwrap_or_default();
        Hello {
            node: self.node,
            noise_certificate: self.certificate.into(),
            genesis: self.membership.as_ref().map(|m| m.id()),
            incarnation: self.identity.incarnation,
            boot_nonce: self.identity.boot_nonce,
            dial,
            capabilities: self.capabilities,
            name: self.identity.name.clone(),
            admissions: chain.iter().map(|e| e.as_bytes().to_vec()).collect(),
        }
    }

    /// Responder: the initiator's Hello is here.
    pub(crate) fn answer_hello(
        &mut self,
        now: Time,
        id: ConnId,
        role: KeyRole,
        hello: Hello,
        session: Session,
    ) {
        let own = Control::Message(Box::new(Message::Hello(self.own_hello(self.dialer.dials))));
        let session = Box::new(session);
        match self.judge(id, &hello, role) {
            Ok(Standing::Member) => {
                let rank = self.rank(id, &session.peer);
                let node = session.peer.node;
                // Our Hello is not out, so this connection is no link at the other end: refusing it takes
                // nothing away.
                let loses = self
                    .ups_to(&node)
                    .any(|(other, up)| self.rank(other, &up.session.peer) > rank);
                if loses {
                    self.refuse(now, id, session, RejectReason::Duplicate);
                } else {
                    self.enter(id, Stage::AwaitingProof(session), None, own);
                }
            }
            Ok(Standing::Admit) => self.admit(now, id, session),
            Ok(Standing::AwaitWelcome) => {
                self.enter(id, Stage::AwaitingWelcome(session), Some(now + JOIN_TIMEOUT), own);
            }
            Ok(Standing::Gather) => self.gather(now, id, session, Some(own)),
            Err(reason) => {
                if matches!(reason, RejectReason::ForeignCluster | RejectReason::NoCluster)
                    && let Some(conn) = self.conns.get_mut(&id)
                {
                    // So that the other end, too, can name both clusters.
                    conn.control.push_back(own);
                }
                self.refuse(now, id, session, reason);
            }
        }
    }

    /// Initiator: the responder's Hello is here.
    pub(crate) fn take_hello(
        &mut self,
        now: Time,
        id: ConnId,
        role: KeyRole,
        hello: &Hello,
        session: Session,
    ) {
        let session = Box::new(session);
        self.dialer.answered(&self.conns, id, session.peer.node);
        match self.judge(id, hello, role) {
            Ok(Standing::Member) if self.is_needless(id, hello) => {
                self.refuse(now, id, session, RejectReason::Duplicate);
            }
            Ok(Standing::Member) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.stage = Stage::AwaitingProof(session);
                }
                // The responder's Hello is all the proof that an initiator waits for.
                self.go_up(now, id, false);
            }
            Ok(Standing::Admit) => self.admit(now, id, session),
            Ok(Standing::AwaitWelcome) => {
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.stage = Stage::AwaitingWelcome(session);
                    conn.deadline = now + JOIN_TIMEOUT;
                }
            }
            Ok(Standing::Gather) => self.gather(now, id, session, None),
            Err(reason) => self.refuse(now, id, session, reason),
        }
    }

    /// True when the address of one member led to another one, to which a link stands already. As a new link it would
    /// take the place of that one, and the first member would be dialled again at once, without end.
    fn is_needless(&self, id: ConnId, hello: &Hello) -> bool {
        let dialled_another = self.conns.get(&id).is_some_and(|conn| {
            matches!(&conn.origin, Origin::Dialled { goal: Goal::Peer(wanted), .. } if *wanted != hello.node)
        });
        dialled_another
            && self
                .ups_to(&hello.node)
                .any(|(_, up)| up.session.peer.incarnation >= hello.incarnation)
    }

    pub(crate) fn refuse(&mut self, now: Time, id: ConnId, session: Box<Session>, reason: RejectReason) {
        let node = session.peer.node;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stage = Stage::Ended(Some(Box::new(session.transport)));
        }
        self.close_as(now, id, reason, Some(node));
    }

    /// Membership, cluster and process of the other end.
    fn judge(&mut self, id: ConnId, hello: &Hello, role: KeyRole) -> Result<Standing, RejectReason> {
        let remote = self.conns.get(&id).and_then(|c| c.remote);
        if hello.node == self.node {
            if (hello.incarnation, hello.boot_nonce) == (self.identity.incarnation, self.identity.boot_nonce)
            {
                return Err(RejectReason::SelfConnection);
            }
            self.event(MeshEvent::CopiedIdentity {
                node: self.node,
                remote,
            });
            return Err(RejectReason::CopiedIdentity);
        }
        let Some(membership) = &self.membership else {
            return match hello.genesis {
                Some(_) => Ok(Standing::AwaitWelcome),
                None if role == KeyRole::Token && self.may_gather(hello) => Ok(Standing::Gather),
                None => Err(RejectReason::NoCluster),
            };
        };
        match hello.genesis {
            None if !self.is_admitting => Err(RejectReason::Adopting),
            None if role == KeyRole::Token => self.check_process(hello, remote).map(|()| Standing::Admit),
            None => Err(RejectReason::NotAMember),
            Some(theirs) if theirs != membership.id() => {
                self.event(MeshEvent::Foreign {
                    node: hello.node,
                    remote,
                    is_dialled: matches!(id, ConnId::Dialled(_)),
                    genesis: theirs,
                    capabilities: [hello.capabilities, self.capabilities],
                    has_token: role == KeyRole::Token,
                });
                Err(RejectReason::ForeignCluster)
            }
            Some(_) => {
                let chain = envelopes(&hello.admissions).map_err(|_| RejectReason::NotAMember)?;
                let proved = membership.is_proof(&chain, &hello.node);
                if !proved && !membership.is_member(&hello.node) {
                    return Err(RejectReason::NotAMember);
                }
                self.check_process(hello, remote)?;
                if proved {
                    for admission in chain {
                        self.accept_own(admission);
                    }
                }
                Ok(Standing::Member)
            }
        }
    }

    /// Two boot nonces at one incarnation are two processes with one identity. An incarnation below one that
    /// was seen is an old copy.
    fn check_process(&mut self, hello: &Hello, remote: Option<SocketAddr>) -> Result<(), RejectReason> {
        let record = RegisterKey {
            kind: PeerRecord::KIND,
            owner: hello.node,
        };
        let recorded = self
            .registers
            .get(&record)
            .map(Envelope::stamp)
            .and_then(|stamp| {
                let record: PeerRecord = self.registers.body(&hello.node)?;
                Some((stamp.incarnation, record.boot_nonce))
            });
        let linked = self
            .ups_to(&hello.node)
            .map(|(_, up)| (up.session.peer.incarnation, up.session.peer.boot_nonce));
        let newest = linked.chain(recorded).max_by_key(|(incarnation, _)| *incarnation);
        match newest {
            Some((incarnation, nonce)) if incarnation == hello.incarnation && nonce != hello.boot_nonce => {
                self.event(MeshEvent::CopiedIdentity {
                    node: hello.node,
                    remote,
                });
                Err(RejectReason::CopiedIdentity)
            }
            Some((incarnation, _)) if incarnation > hello.incarnation => Err(RejectReason::CopiedIdentity),
            _ => Ok(()),
        }
    }
}
