//! Beginning again: this host gives up its membership and becomes a new member, of this cluster or of another one,
//! with the addresses of its running pods as claims.
//!
//! A node id belongs to one cluster for its life, since its registers there end with it: so a host that begins again has
//! a new one. A second mesh, the *candidate*, asks to be let in under it, while the first goes on as before. Only when
//! a member has said yes, everything is replaced by one write: identity, membership, address state, claims. Before it
//! nothing has changed, after it nothing of the old is used but the sessions that carry frames: they stay, in a sleeve of
//! their own, until the new ones have taken over.

use crate::io::{EngineCommand, MeshCommand, Notice, Output};
use crate::node::{Node, Path};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use weft_gossip::status::LinkStage;
use weft_gossip::{DurableState, Identity, JoinToken, Mesh, MeshConfig, PersistToken};
use weft_ipam_crdt::{Claim, Claims, FreezeReason, Request};
use weft_sleeve::Sleeve;
use weft_sleeve::path_mtu::BASE;
use weft_wire::adopt::AdoptRecord;
use weft_wire::api::Adopted;
use weft_wire::hash::derive;
use weft_wire::limits::ENDPOINTS_MAX;
use weft_wire::record::{Body, PeerRecord};
use weft_wire::{NodeId, NodeKey, NoiseKeypair, Psk, RejectReason, Time, codec};

/// What an operator waits for at the most; the reason why it failed until then is the answer.
pub const ADOPT_PATIENCE: Duration = Duration::from_secs(15);
/// A host that has been let in elsewhere tells the others where, and goes after this: a record crosses a mesh link within
/// 50 ms, and no mesh is 20 links wide.
const SPREAD: Duration = Duration::from_secs(1);
/// Frames go where the former cluster's address space says for so long: until the other hosts have begun again, too, and
/// the claims are granted.
const PLACES_HELD: Duration = Duration::from_secs(5);
/// Sessions of the former membership are kept for so long: more than it takes any host to follow, and then some.
const FORMER_LIFE: Duration = Duration::from_secs(600);
/// Former memberships whose sessions are kept: whoever begins again more often meanwhile has had time to make new ones.
const FORMERS_MAX: usize = 4;
/// Dials of the candidate are numbered from so far above those of the mesh, which never makes as many.
const DIALS_APART: u64 = 1 << 32;
/// Requests that wait for the disk while it becomes another member; it takes milliseconds.
const HELD_MAX: usize = 256;

/// A join token as people write it, and the key that follows from it.
#[derive(Clone)]
pub struct Token {
    /// The text.
    pub text: String,
    /// The key.
    pub psk: Psk,
}

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Whoever has the text can join.
        write!(f, "Token({:?})", self.psk)
    }
}

/// Everything that a host is from now on, to be stored by one write in place of what it was.
#[derive(Clone)]
pub struct Beginning {
    /// Its identity.
    pub key: NodeKey,
    /// Its Noise static key.
    pub noise: NoiseKeypair,
    /// Its membership; the address state is the one of the genesis in it.
    pub state: DurableState,
    /// Addresses of running pods.
    pub claims: Vec<Claim>,
    /// Join token of the cluster, when it is another one than before.
    pub token: Option<String>,
    /// Where the host listens that let it in: all that it knows of others until it has heard from them.
    pub targets: Vec<String>,
}

impl core::fmt::Debug for Beginning {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (node, genesis) = (self.key.id(), self.state.genesis().id());
        write!(f, "Beginning({node:?} in {genesis:?} with {:?})", self.claims)
    }
}

/// Why this host begins again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The operator says so; the answer is awaited.
    Asked,
    /// A host of this cluster says that all do.
    Follows(NodeId),
    /// It is alone and has no address, and met another cluster.
    Alone,
    /// The others have removed it.
    Removed,
}

/// What it waits for.
enum Awaits {
    /// A member that lets it in.
    Welcome,
    /// The others, to hear where it goes.
    Spread { until: Time },
    /// The disk.
    Disk,
}

/// This host as the member that it asks to become.
pub(crate) struct Candidate {
    mesh: Mesh,
    why: Why,
    awaits: Awaits,
    identity: Identity,
    token: Option<Token>,
    /// Targets that nobody named.
    guesses: Vec<String>,
    began: Time,
    welcome: Option<(PersistToken, DurableState)>,
    claims: Claims,
    held: Vec<Request>,
    last_refusal: Option<RejectReason>,
}

/// The sessions of a membership before.
pub(crate) struct Former {
    pub(crate) sleeve: Sleeve,
    /// Number of that membership.
    number: u32,
    until: Time,
    /// Datagrams that it did not take.
    refused: u64,
}

impl Node {
    /// The operator wants this host, and the others of its cluster, to become members of another one.
    pub(crate) fn on_adopt(&mut self, now: Time, target: Option<String>, token: Option<Token>) {
        let refusal = self.adopt_refusal(target.as_deref());
        let target = target.or_else(|| self.foreign.target(now));
        match (refusal, target) {
            (Some(why), _) => self.outputs.push_back(Output::Adopted(Err(why))),
            (None, None) => self.outputs.push_back(Output::Adopted(Err(
                "no host of another cluster was met lately: name one with --peer, and its join token with --token-file"
                    .into(),
            ))),
            (None, Some(target)) => self.begin_again(now, Why::Asked, token, [target].into()),
        }
    }

    fn adopt_refusal(&self, target: Option<&str>) -> Option<String> {
        if self.member.is_none() {
            return Some("this host belongs to no cluster yet: it joins one with `weft up --peer`".into());
        }
        // Where it comes back to after a removal is the operator's to change.
        if let Some(candidate) = &self.candidate
            && (self.is_leaving() || candidate.why != Why::Removed)
        {
            return Some(format!(
                "this host joins another cluster already: {}",
                candidate.words(self)
            ));
        }
        let target = target.filter(|_| !self.is_removed)?;
        let members = self.mesh.members();
        let member = members.into_iter().find(|member| {
            let endpoints = self.mesh.peer_record(member).map(|record| record.endpoints);
            endpoints
                .unwrap_or_default()
                .iter()
                .any(|endpoint| endpoint.to_string() == target)
        })?;
        Some(format!(
            "{target} is {}, a host of this cluster: name a host of the other one with --peer",
            self.name_of(&member)
        ))
    }

    /// Another host of this cluster says that all of them adopt another one.
    pub(crate) fn on_adopt_record(&mut self, now: Time, owner: NodeId) {
        let Some(record) = self.mesh.registers().body::<AdoptRecord>(&owner) else {
            return;
        };
        let ours = self.member.as_ref().map(|member| member.genesis);
        if owner == self.id() || ours == Some(record.genesis) || self.candidate.is_some() || ours.is_none() {
            return;
        }
        let token = match record.token.as_str() {
            "" => None,
            text => match JoinToken::parse(text) {
                Ok(token) => Some(Token {
                    psk: token.psk(),
                    text: text.into(),
                }),
                Err(error) => {
                    return self.warn(format!(
                        "{} says that this cluster joins another one, with a token that cannot be used: {error}",
                        self.name_of(&owner)
                    ));
                }
            },
        };
        let targets = record.endpoints.iter().map(ToString::to_string).collect();
        self.begin_again(now, Why::Follows(owner), token, targets);
    }

    /// A host of another cluster was met, which can be asked there. Of two sides only one may yield.
    pub(crate) fn on_foreign_met(&mut self, now: Time, target: Option<String>) {
        if let Some(target) = target
            && self.is_alone()
            && self.candidate.is_none()
        {
            self.begin_again(now, Why::Alone, None, [target].into());
        }
    }

    /// True when nothing would be lost if this host left its cluster: there is no other host, and no address in use.
    pub(crate) fn is_alone(&self) -> bool {
        let is_empty = |member: &crate::node::Member| member.ipam.state().addresses().is_empty();
        self.mesh
            .membership()
            .is_some_and(|members| members.member_count() == 1)
            && self.member.as_ref().is_some_and(is_empty)
            && self.claims.is_empty()
    }

    pub(crate) fn begin_again(&mut self, now: Time, why: Why, token: Option<Token>, targets: Vec<String>) {
        if let Some(before) = self.candidate.take() {
            self.end_mesh(now, before.mesh);
        }
        let seed = derive(&self.config.seed, "weft seed again");
        self.config.seed = seed;
        let mut rng = ChaCha20Rng::from_seed(derive(&seed, "weft seed identity"));
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        let Some(noise) = NoiseKeypair::generate(&mut rng) else {
            return self.warn("no Noise key can be made: X25519 is not compiled in".into());
        };
        let identity = Identity {
            key: NodeKey::from_seed(key),
            noise,
            ..self.config.identity.clone()
        };
        let psk = token
            .as_ref()
            .map(|token| token.psk.clone())
            .or_else(|| self.config.token.clone());
        let mesh = Mesh::new(MeshConfig {
            identity: identity.clone(),
            token: psk,
            durable: None,
            targets: targets.clone(),
            capabilities: 0,
            seed: derive(&seed, "weft seed mesh"),
        });
        let mut mesh = match mesh {
            Ok(mesh) => mesh,
            Err(error) => return self.warn(error.to_string()),
        };
        mesh.number_dials_from(self.mesh.dials() + DIALS_APART);
        let body = codec::encode(&self.record_of(&identity));
        let kind = PeerRecord::KIND;
        mesh.handle(now, weft_gossip::Input::SetRecord { kind, body });
        self.mesh.handle(now, weft_gossip::Input::SetAdmitting(false));
        self.candidate = Some(Box::new(Candidate {
            mesh,
            guesses: if why == Why::Asked { Vec::new() } else { targets },
            why,
            awaits: Awaits::Welcome,
            identity,
            token,
            began: now,
            welcome: None,
            claims: Claims::default(),
            held: Vec::new(),
            last_refusal: None,
        }));
    }

    /// True when a mesh input is the candidate's.
    pub(crate) fn is_candidates(&self, input: &weft_gossip::Input) -> bool {
        use weft_gossip::{ConnId, Input as Mesh};
        let (Mesh::Dialled { conn, .. }
        | Mesh::DialFailed { conn, .. }
        | Mesh::Frame { conn, .. }
        | Mesh::Written { conn }
        | Mesh::Closed { conn }) = input
        else {
            return false;
        };
        // Its first dial has a number that the mesh never comes to.
        let first = self.mesh.dials().saturating_add(DIALS_APART / 2);
        self.candidate.is_some() && matches!(conn, ConnId::Dialled(number) if *number > first)
    }

    pub(crate) fn candidate_input(&mut self, now: Time, input: weft_gossip::Input) {
        if let Some(candidate) = &mut self.candidate {
            candidate.mesh.handle(now, input);
        }
    }

    /// Carries out what the candidate's mesh says. True when there was something.
    pub(crate) fn drain_candidate(&mut self, now: Time) -> bool {
        use weft_gossip::{MeshEvent, Output as Mesh};
        let Some(output) = self
            .candidate
            .as_mut()
            .and_then(|candidate| candidate.mesh.poll_output())
        else {
            return false;
        };
        match output {
            Mesh::Dial { conn, to } => self
                .outputs
                .push_back(Output::Mesh(MeshCommand::Dial { conn, to })),
            Mesh::Send { conn, frame } => self
                .outputs
                .push_back(Output::Mesh(MeshCommand::Send { conn, frame })),
            Mesh::Close { conn } => self.outputs.push_back(Output::Mesh(MeshCommand::Close { conn })),
            Mesh::Persist { token, state } => self.on_welcome(now, token, state),
            Mesh::Event(MeshEvent::LinkRefused { target, reason, .. }) => {
                if let Some(candidate) = &mut self.candidate {
                    candidate.last_refusal = Some(reason);
                }
                let with = target.unwrap_or_default();
                self.outputs
                    .push_back(Output::Notice(Notice::LinkRefused { with, reason }));
            }
            Mesh::Event(_) => {}
        }
        true
    }

    /// A member lets the candidate in: the others are told, then all is written.
    fn on_welcome(&mut self, now: Time, token: PersistToken, state: DurableState) {
        let theirs = state.genesis().id();
        let ours = self.member.as_ref().map(|member| member.genesis);
        let Some(candidate) = &mut self.candidate else {
            return;
        };
        if ours == Some(theirs) && !self.is_removed {
            return self.give_up(now, "the host that answered is of this same cluster".into());
        }
        let endpoints: Vec<SocketAddr> = candidate.admitters().collect();
        let record = AdoptRecord {
            genesis: theirs,
            token: candidate
                .token
                .as_ref()
                .map(|token| token.text.clone())
                .unwrap_or_default(),
            endpoints,
        };
        candidate.welcome = Some((token, state));
        let has_others = self
            .mesh
            .membership()
            .is_some_and(|members| members.member_count() > 1);
        if !has_others || !record.is_within_bounds() {
            return self.commit(now);
        }
        candidate.awaits = Awaits::Spread { until: now + SPREAD };
        let (kind, body) = (AdoptRecord::KIND, codec::encode(&record));
        self.mesh
            .handle(now, weft_gossip::Input::SetRecord { kind, body });
    }

    /// Has everything written that this host is from now on.
    fn commit(&mut self, now: Time) {
        let mut claims = self.claims.list();
        if let Some(member) = &mut self.member {
            // Whoever waits for an address hears of it; nothing more is given out or promised.
            member
                .ipam
                .handle(now, weft_ipam_crdt::Input::Freeze(FreezeReason::Leaving));
        }
        while let Some(output) = self.member.as_mut().and_then(|member| member.ipam.poll_output()) {
            if !matches!(output, weft_ipam_crdt::Output::Event(_)) {
                self.on_ipam_output(now, output);
            }
        }
        if let Some(member) = &self.member {
            claims.extend(member.ipam.state().claims(&member.space));
        }
        let Some(candidate) = &mut self.candidate else {
            return;
        };
        let Some((_, state)) = &candidate.welcome else {
            return;
        };
        candidate.awaits = Awaits::Disk;
        candidate.claims = Claims::new(claims);
        self.outputs.push_back(Output::BeginAgain(Box::new(Beginning {
            key: candidate.identity.key.clone(),
            noise: candidate.identity.noise.clone(),
            state: state.clone(),
            claims: candidate.claims.list(),
            token: candidate.token.as_ref().map(|token| token.text.clone()),
            targets: candidate
                .admitters()
                .map(|admitter| admitter.to_string())
                .collect(),
        })));
    }

    /// True from the moment at which all is handed over to be written until it is: nothing else may be written then.
    pub(crate) fn is_leaving(&self) -> bool {
        let stage = self.candidate.as_ref().map(|candidate| &candidate.awaits);
        matches!(stage, Some(Awaits::Disk))
    }

    /// True while it tries to come back after its removal.
    pub(crate) fn comes_back(&self) -> bool {
        let candidate = self.candidate.as_ref();
        candidate.is_some_and(|candidate| candidate.why == Why::Removed)
    }

    /// Keeps a request of that time for afterwards; gives it back when there are too many.
    pub(crate) fn hold(&mut self, request: Request) -> Option<Request> {
        match &mut self.candidate {
            Some(candidate) if candidate.held.len() < HELD_MAX => {
                candidate.held.push(request);
                None
            }
            _ => Some(request),
        }
    }

    /// All is written: from now on this host is the new member.
    pub(crate) fn on_began_again(&mut self, now: Time) {
        let Some(candidate) = self
            .candidate
            .take_if(|candidate| matches!(candidate.awaits, Awaits::Disk))
        else {
            return;
        };
        let Candidate {
            mesh,
            why,
            identity,
            token,
            guesses,
            welcome,
            claims,
            held,
            ..
        } = *candidate;
        let left = self.member.as_ref().map(|member| member.genesis);
        let targets = self.targets();
        let old = core::mem::replace(&mut self.mesh, mesh);
        self.end_mesh(now, old);
        for target in guesses {
            self.mesh.handle(now, weft_gossip::Input::RemoveTarget(target));
        }
        for target in targets {
            self.mesh.handle(now, weft_gossip::Input::AddTarget(target));
        }
        self.config.identity = identity;
        if let Some(token) = token {
            self.config.token = Some(token.psk);
        }
        if let Some(member) = self.member.take() {
            if self.formers.len() >= FORMERS_MAX {
                self.end_former(now, 0);
            }
            self.formers.push(Former {
                sleeve: member.sleeve,
                number: self.membership,
                until: now + FORMER_LIFE,
                refused: 0,
            });
            self.membership = self.membership.wrapping_add(1);
        }
        self.places_held = now + PLACES_HELD;
        self.claims = claims;
        // What was wrong with the membership before is over with it.
        self.warnings.clear();
        self.foreign.forget();
        (self.said_alone, self.is_removed) = (false, false);
        self.forget_silence(now);
        self.forget_listening(now);
        self.fastpath.begin_again();
        let count = self.claims.list().len();
        if let Some((token, state)) = welcome {
            let joined = state.genesis().id();
            self.outputs.push_back(Output::Notice(Notice::BeganAgain {
                node: self.id(),
                left,
                joined,
                claims: count,
            }));
            if why == Why::Asked {
                self.outputs.push_back(Output::Adopted(Ok(Adopted {
                    left: left.map(|left| left.to_string()).unwrap_or_default(),
                    joined: joined.to_string(),
                    node: self.id().to_string(),
                    claims: count as u64,
                })));
            }
            self.mesh.handle(now, weft_gossip::Input::Persisted(token));
        }
        self.drain(now);
        for request in held {
            self.on_ipam_request(now, request);
        }
    }

    /// Says goodbye on all connections of a mesh that is used no longer.
    fn end_mesh(&mut self, now: Time, mut mesh: Mesh) {
        use weft_gossip::Output as Mesh;
        mesh.handle(now, weft_gossip::Input::Shutdown);
        while let Some(output) = mesh.poll_output() {
            if let Mesh::Send { conn, frame } = output {
                self.outputs
                    .push_back(Output::Mesh(MeshCommand::Send { conn, frame }));
            }
        }
        for link in mesh.links() {
            self.outputs
                .push_back(Output::Mesh(MeshCommand::Close { conn: link.conn }));
        }
    }

    /// The candidate is let in nowhere, or not where it should.
    fn give_up(&mut self, now: Time, why: String) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        let is_asked = candidate.why == Why::Asked;
        self.end_mesh(now, candidate.mesh);
        self.mesh.handle(now, weft_gossip::Input::SetAdmitting(true));
        if is_asked {
            let why = format!("this host stays in its cluster: {why}");
            self.outputs.push_back(Output::Adopted(Err(why)));
        }
    }

    /// What is due at `now`.
    pub(crate) fn again_due(&mut self, now: Time) {
        let due = self
            .candidate
            .as_ref()
            .is_some_and(|candidate| candidate.mesh.poll_timeout().is_some_and(|due| due <= now));
        if due {
            self.candidate_input(now, weft_gossip::Input::Tick);
        }
        if let Some(candidate) = &self.candidate {
            match candidate.awaits {
                Awaits::Spread { until } if until <= now => self.commit(now),
                Awaits::Welcome if candidate.gives_up_at() <= now => {
                    let why = candidate.words(self);
                    self.give_up(now, why);
                }
                _ => {}
            }
        }
        while self.formers.first().is_some_and(|former| former.until <= now) {
            self.end_former(now, 0);
        }
        for former in &mut self.formers {
            if former.sleeve.poll_timeout().is_some_and(|due| due <= now) {
                former.sleeve.handle(now, weft_sleeve::Input::Timeout);
            }
        }
        if self.places_held != Time::ZERO && self.places_held <= now {
            self.places_held = Time::ZERO;
            self.places = None;
        }
    }

    /// When something of this is due.
    pub(crate) fn again_timeout(&self) -> Option<Time> {
        let candidate = self.candidate.as_ref();
        let stage = candidate.map(|candidate| match candidate.awaits {
            Awaits::Welcome => candidate.gives_up_at(),
            Awaits::Spread { until } => until,
            Awaits::Disk => Time::NEVER,
        });
        let formers = self.formers.iter();
        [
            stage,
            candidate.and_then(|candidate| candidate.mesh.poll_timeout()),
            self.formers.first().map(|former| former.until),
            formers.filter_map(|former| former.sleeve.poll_timeout()).min(),
            (self.places_held != Time::ZERO).then_some(self.places_held),
            self.claims
                .poll_timeout()
                .filter(|_| self.member.is_some() && !self.is_leaving()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn end_former(&mut self, now: Time, at: usize) {
        let Some(former) = self.formers.get_mut(at) else {
            return;
        };
        let peers: Vec<NodeId> = former.sleeve.peers().map(|view| view.node).collect();
        for peer in peers {
            former.sleeve.handle(now, weft_sleeve::Input::RemovePeer(peer));
        }
        while self.drain_former(now) {}
        self.formers.remove(at);
        self.guard(now);
    }

    /// Gives the former sleeves what is their own; false when it is nobody's.
    pub(crate) fn former_takes(&mut self, now: Time, input: &weft_sleeve::Input<'_>) -> bool {
        use weft_sleeve::Input as S;
        match input {
            S::Opened { local, .. }
            | S::Roamed { local, .. }
            | S::Activity { local, .. }
            | S::ProbeAnswered { local, .. }
            | S::ProbeRefused { local, .. }
            | S::TooBig { local, .. } => {
                let mut formers = self.formers.iter_mut();
                let owner = formers.find(|former| former.sleeve.has_session(*local));
                owner
                    .map(|former| former.sleeve.handle(now, input.clone()))
                    .is_some()
            }
            S::Datagram { .. } => {
                while self.drain_former(now) {}
                (0..self.formers.len()).any(|at| self.former_understands(now, at, input))
            }
            _ => false,
        }
    }

    /// A handshake names its responder, so only one of the sleeves can understand it.
    fn former_understands(&mut self, now: Time, at: usize, input: &weft_sleeve::Input<'_>) -> bool {
        let Some(former) = self.formers.get_mut(at) else {
            return false;
        };
        let before = former.refused;
        former.sleeve.handle(now, input.clone());
        while self.drain_former(now) {}
        self.formers
            .get(at)
            .is_some_and(|former| former.refused == before)
    }

    /// Carries out what a former sleeve says. True when there was something.
    pub(crate) fn drain_former(&mut self, now: Time) -> bool {
        use weft_sleeve::Output as S;
        let mut formers = self.formers.iter_mut();
        let Some((former, output)) = formers.find_map(|former| {
            let output = former.sleeve.poll_output()?;
            Some((former, output))
        }) else {
            return false;
        };
        let number = former.number;
        let command = match output {
            S::Send { to, bytes } => EngineCommand::Send { to, bytes },
            // Sessions of the cluster before say nothing of the kernel's path.
            S::Proof { .. } => return true,
            S::Install(keys) => EngineCommand::Install(keys),
            S::Remove { local } => EngineCommand::Remove(local),
            S::Keepalive { local } => {
                self.publish_if_changed();
                EngineCommand::Keepalive(local)
            }
            S::Probe { local, probe } => {
                self.publish_if_changed();
                EngineCommand::Probe(local, probe)
            }
            S::PathMtu { peer, datagram } => {
                self.change_former_path(number, peer, |path| path.datagram = datagram);
                return true;
            }
            S::Select { peer, local } => {
                self.change_former_path(number, peer, |path| path.session = Some(local));
                return true;
            }
            S::Way { peer, way } => {
                self.change_former_path(number, peer, |path| path.take_way(now, way));
                return true;
            }
            S::Up { .. } => return true,
            S::Down { peer, why } => {
                self.change_former_path(number, peer, |path| {
                    (path.session, path.down, path.since) = (None, Some(why), now)
                });
                let is_member = self
                    .mesh
                    .membership()
                    .is_some_and(|members| members.is_member(&peer));
                let path = self.paths.get(&peer);
                if !is_member && path.is_some_and(|path| path.membership == number) {
                    self.forget_path(&peer);
                }
                return true;
            }
            S::Dropped(..) => {
                former.refused = former.refused.wrapping_add(1);
                return true;
            }
        };
        self.outputs.push_back(Output::Engine(command));
        true
    }

    fn change_former_path(&mut self, number: u32, peer: NodeId, change: impl FnOnce(&mut Path)) {
        if self
            .paths
            .get(&peer)
            .is_some_and(|path| path.membership == number)
        {
            self.change_path(peer, change);
        }
    }

    /// Where this host is going, in words.
    pub(crate) fn begins_again(&self) -> Option<String> {
        let candidate = self.candidate.as_ref()?;
        Some(candidate.words(self))
    }
}

impl Path {
    /// Frames travel under a session of this membership from now on.
    pub(crate) fn take_over(&mut self, membership: u32) {
        if core::mem::replace(&mut self.membership, membership) != membership {
            // What was found out about the path is in the other sleeve.
            self.datagram = BASE;
        }
    }
}

impl Candidate {
    /// Where the hosts listen that let it in.
    fn admitters(&self) -> impl Iterator<Item = SocketAddr> {
        let links = self.mesh.links().into_iter();
        let joining = links.filter(|link| link.stage == LinkStage::Joining);
        joining.filter_map(|link| link.remote).take(ENDPOINTS_MAX)
    }

    fn gives_up_at(&self) -> Time {
        match self.why {
            Why::Asked | Why::Alone => self.began + ADOPT_PATIENCE,
            Why::Follows(_) | Why::Removed => Time::NEVER,
        }
    }

    fn words(&self, node: &Node) -> String {
        let whom = match &self.why {
            Why::Asked => "as the operator said".into(),
            Why::Follows(other) => format!("as {} does", node.name_of(other)),
            Why::Removed => "again, since it was removed".into(),
            Why::Alone => "since it is alone and no pod of it has an address".into(),
        };
        let targets = self.mesh.targets();
        let asked: Vec<String> = targets
            .iter()
            .map(|target| match (&target.failure, self.last_refusal) {
                (Some(failure), _) => format!("{}: {failure}", target.target),
                (None, Some(reason)) => format!("{}: {reason}", target.target),
                (None, None) => format!("{}: being tried", target.target),
            })
            .collect();
        let stage = match self.awaits {
            Awaits::Welcome => format!("waiting to be let in by {}", asked.join("; ")),
            Awaits::Spread { .. } => "let in, and telling the other hosts".into(),
            Awaits::Disk => "let in, and writing it down".into(),
        };
        format!("joining {whom}: {stage}")
    }
}
