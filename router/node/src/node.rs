//! The node: routes what one core says to the others.

use crate::again::{Candidate, Former};
use crate::agreement::Founding;
use crate::contested::Contested;
use crate::fastpath::{Fastpath, FastpathConfig};
use crate::foreign::{Foreign, Meeting};
use crate::io::{EngineCommand, Input, MeshCommand, Notice, Output};
use crate::macs::{AGEING_INTERVAL, MacTable};
use crate::multicast::Multicast;
use crate::places::Places;
use crate::relays::Relays;
use crate::silence::Silence;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};
use weft_gossip::{DurableState, Identity, Mesh, MeshConfig, MeshEvent, StateError};
use weft_ipam_crdt::genesis::{Agreement, AgreementConfig, AgreementInput, AgreementState, Terms};
use weft_ipam_crdt::{AddressSpace, Claim, Claims, Ipam, IpamConfig, IpamState, RequestId, Role};
use weft_sleeve::path_mtu::BASE;
use weft_sleeve::{Cipher, DownReason, ForwardingTable, LocalNode, PeerInfo, PeerPath, Sleeve};
use weft_wire::adopt::AdoptRecord;
use weft_wire::envelope::RegisterKey;
use weft_wire::fastpath::FastpathRecord;
use weft_wire::group::GroupsRecord;
use weft_wire::hash::derive;
use weft_wire::limits::SESSIONS_MAX;
use weft_wire::mesh::CAPABILITY_AGREES;
use weft_wire::mtu::pod_mtu;
use weft_wire::record::{Body, Genesis, LinksRecord, PeerRecord};
use weft_wire::secret::ClusterSecret;
use weft_wire::{DropReason, GenesisId, Mac, NodeId, Psk, SessionIndex, Time, codec};

/// What a node starts from.
pub struct NodeConfig {
    /// Who this host is.
    pub identity: Identity,
    /// Key of the join token, if there is one.
    pub token: Option<Psk>,
    /// What was stored before, or what a founder has just laid down.
    pub durable: Option<DurableState>,
    /// What this host was told of a cluster that it is to make together with others, and what was stored of that; not
    /// used by a host that has a cluster.
    pub agreement: Option<(Terms, AgreementState)>,
    /// Whether it wants slots.
    pub role: Role,
    /// Slots and addresses that were stored before; made from the genesis when there are none.
    pub ipam: Option<IpamState>,
    /// Claims that were stored before.
    pub claims: Vec<Claim>,
    /// Addresses of peers that the operator named, `HOST:PORT`.
    pub targets: Vec<String>,
    /// Addresses at which others reach this host, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Smallest MTU of the interfaces that carry the underlay.
    pub underlay_mtu: u16,
    /// MTU for pods that the operator set.
    pub mtu: Option<u16>,
    /// Bridge that pods join.
    pub bridge: String,
    /// Program version.
    pub version: String,
    /// Ciphers for the data path, the preferred one first.
    pub ciphers: Vec<Cipher>,
    /// What the operator says of frames in the kernel.
    pub fastpath: FastpathConfig,
    /// 32 octets of a random source.
    pub seed: [u8; 32],
}

/// How frames travel to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    /// Session to send under.
    pub(crate) session: Option<SessionIndex>,
    /// Where the peer is.
    pub(crate) endpoint: Option<SocketAddr>,
    /// Who passes datagrams on to it, while it is not reached there.
    pub(crate) relay: Option<NodeId>,
    /// Octets that datagrams to it may have.
    pub(crate) datagram: u16,
    /// Why there is no session, when there was one.
    pub(crate) down: Option<DownReason>,
    /// When frames began, or ceased, to travel.
    pub(crate) since: Time,
    /// Number of the membership whose session it is, counted from the start.
    pub(crate) membership: u32,
}

/// What a member has and a host without a cluster has not.
pub(crate) struct Member {
    pub(crate) genesis: GenesisId,
    pub(crate) space: AddressSpace,
    pub(crate) sleeve: Sleeve,
    pub(crate) ipam: Ipam,
}

/// All cores of one host.
pub struct Node {
    pub(crate) config: Local,
    pub(crate) mesh: Mesh,
    pub(crate) member: Option<Member>,
    pub(crate) founding: Option<Founding>,
    pub(crate) paths: BTreeMap<NodeId, Path>,
    pub(crate) macs: MacTable,
    pub(crate) contested: Contested,
    pub(crate) places: Option<Places>,
    pub(crate) relays: Relays,
    pub(crate) sleeve_drops: [u64; DropReason::COUNT],
    pub(crate) warnings: Vec<String>,
    ageing_due: Time,
    table_changed: bool,
    macs_changed: bool,
    pub(crate) outputs: VecDeque<Output>,
    /// What was stored of the address space, until this node is a member.
    stored_ipam: Option<IpamState>,
    /// This host as the member that it is about to become.
    pub(crate) candidate: Option<Box<Candidate>>,
    /// Sessions of the memberships before, the oldest first.
    pub(crate) formers: Vec<Former>,
    /// Number of this membership, counted from the start.
    pub(crate) membership: u32,
    /// Until then the places of the membership before hold; long ago when there was none.
    pub(crate) places_held: Time,
    pub(crate) claims: Claims,
    /// Claimed addresses that count as freed by these requests.
    pub(crate) freed_claims: BTreeMap<RequestId, Vec<IpAddr>>,
    pub(crate) foreign: Foreign,
    /// What the Hello says of it.
    pub(crate) said_alone: bool,
    /// The members go on without this host.
    pub(crate) is_removed: bool,
    /// Members that nobody has heard of.
    pub(crate) silence: Silence,
    /// Who listens to which groups.
    pub(crate) multicast: Multicast,
    /// Which peers' frames go through the kernel.
    pub(crate) fastpath: Fastpath,
}

/// What stays of the configuration.
pub(crate) struct Local {
    pub(crate) identity: Identity,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) underlay_mtu: u16,
    pub(crate) mtu: Option<u16>,
    pub(crate) bridge: String,
    pub(crate) version: String,
    ciphers: Vec<Cipher>,
    pub(crate) role: Role,
    pub(crate) seed: [u8; 32],
    pub(crate) token: Option<Psk>,
}

/// Warnings that are kept; later ones only repeat them.
const WARNINGS_MAX: usize = 16;

impl Node {
    /// A node at its start. Nothing leaves before the first [`Node::handle`].
    ///
    /// # Errors
    /// The stored state contradicts itself.
    pub fn new(now: Time, config: NodeConfig) -> Result<Self, StateError> {
        let genesis = config.durable.as_ref().map(|durable| durable.genesis().clone());
        let agreement = config.agreement.filter(|_| genesis.is_none());
        let founding = agreement.map(|(terms, durable)| {
            Founding::new(Agreement::new(AgreementConfig {
                node: config.identity.key.id(),
                name: config.identity.name.clone(),
                terms,
                durable,
                seed: derive(&config.seed, "weft seed agreement"),
            }))
        });
        let mesh = Mesh::new(MeshConfig {
            identity: config.identity.clone(),
            token: config.token.clone(),
            durable: config.durable,
            targets: config.targets,
            capabilities: if founding.is_some() { CAPABILITY_AGREES } else { 0 },
            seed: derive(&config.seed, "weft seed mesh"),
        })?;
        let mut node = Self {
            config: Local {
                identity: config.identity,
                endpoints: config.endpoints,
                underlay_mtu: config.underlay_mtu,
                mtu: config.mtu,
                bridge: config.bridge,
                version: config.version,
                ciphers: config.ciphers,
                role: config.role,
                seed: config.seed,
                token: config.token,
            },
            mesh,
            member: None,
            founding,
            paths: BTreeMap::new(),
            macs: MacTable::default(),
            contested: Contested::default(),
            places: None,
            relays: Relays::default(),
            sleeve_drops: [0; DropReason::COUNT],
            warnings: Vec::new(),
            ageing_due: now + AGEING_INTERVAL,
            table_changed: true,
            macs_changed: true,
            outputs: VecDeque::new(),
            stored_ipam: config.ipam,
            candidate: None,
            formers: Vec::new(),
            membership: 0,
            places_held: Time::ZERO,
            claims: Claims::new(config.claims),
            freed_claims: BTreeMap::new(),
            foreign: Foreign::default(),
            said_alone: false,
            is_removed: false,
            silence: Silence::default(),
            multicast: Multicast::default(),
            fastpath: Fastpath::new(config.fastpath),
        };
        let record = node.record_of(&node.config.identity);
        let body = codec::encode(&record);
        node.mesh.handle(
            now,
            weft_gossip::Input::SetRecord {
                kind: PeerRecord::KIND,
                body,
            },
        );
        if let Some(genesis) = genesis {
            node.become_member(now, &genesis);
        }
        node.agreement(now, AgreementInput::Tick);
        Ok(node)
    }

    /// This host.
    pub fn id(&self) -> NodeId {
        self.mesh.node()
    }

    /// What gossip knows: members, records, links.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Takes one input; `now` never goes back.
    pub fn handle(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Mesh(input) if self.is_candidates(&input) => self.candidate_input(now, input),
            Input::Mesh(input) => self.mesh.handle(now, input),
            Input::Adopt { target, token } => self.on_adopt(now, target, token),
            Input::RemoveAfter(after) => self.on_remove_after(now, after),
            Input::BeganAgain => self.on_began_again(now),
            Input::Handshake { from, bytes } => {
                self.sleeve(now, weft_sleeve::Input::Datagram { from, bytes })
            }
            Input::Opened { local, from } => self.sleeve(now, weft_sleeve::Input::Opened { local, from }),
            Input::Roamed { local, from } => self.sleeve(now, weft_sleeve::Input::Roamed { local, from }),
            Input::UnknownIndex { from } => self.sleeve(now, weft_sleeve::Input::UnknownIndex { from }),
            Input::Wanted { peer } => self.sleeve(now, weft_sleeve::Input::Connect(peer)),
            Input::Activity {
                local,
                sent,
                received,
                frames,
                large,
                relayed,
            } => {
                self.on_opened(now, local, received);
                self.on_sleeve_frames(now, local, frames);
                self.sleeve(
                    now,
                    weft_sleeve::Input::Activity {
                        local,
                        sent,
                        received,
                        frames,
                        large,
                        relayed,
                    },
                );
            }
            Input::Relayed(neighbours) => self.sleeve(now, weft_sleeve::Input::Relayed(&neighbours)),
            Input::ProbeAnswered { local, probe } => {
                // That the peer lives is news for the sleeve in either case.
                self.on_sign_of_life(now, local, probe);
                self.sleeve(now, weft_sleeve::Input::ProbeAnswered { local, probe })
            }
            Input::ProbeRefused { local, probe } => {
                self.sleeve(now, weft_sleeve::Input::ProbeRefused { local, probe })
            }
            Input::TooBig { local, size } => self.sleeve(now, weft_sleeve::Input::TooBig { local, size }),
            Input::Learned { mac, peer } => self.on_learned(now, mac, peer),
            Input::Local { mac } => self.on_local(mac),
            Input::Listening(listening) => self.on_listening(now, listening),
            Input::Sent { mac, peer } => self.on_learned(now, mac, peer),
            Input::KernelFound { entries, has_vxlan } => self.on_kernel_found(now, entries, has_vxlan),
            Input::KernelFollows { has_vxlan } => self.on_kernel_follows(has_vxlan),
            Input::KernelUsed(macs) => self.on_kernel_used(now, &macs),
            Input::KernelProbe(frame) => self.on_kernel_probe(now, frame),
            Input::SetEncryption(value) => self.set_encryption(value),
            Input::Ipam(request) => self.on_ipam_request(now, request),
            Input::AgreementPersisted(token) => self.agreement(now, AgreementInput::Persisted(token)),
            Input::IpamWritten(token) => self.ipam(now, weft_ipam_crdt::Input::Written(token)),
            Input::IpamPersisted(token) => self.ipam(now, weft_ipam_crdt::Input::Persisted(token)),
            Input::Timeout => {
                if self.mesh.poll_timeout().is_some_and(|due| due <= now) {
                    self.mesh.handle(now, weft_gossip::Input::Tick);
                }
                if self.sleeve_timeout().is_some_and(|due| due <= now) {
                    self.sleeve(now, weft_sleeve::Input::Timeout);
                }
                if self.ipam_timeout().is_some_and(|due| due <= now) {
                    self.ipam(now, weft_ipam_crdt::Input::Tick);
                }
                self.again_due(now);
                if self.agreement_timeout().is_some_and(|due| due <= now) {
                    self.agreement(now, AgreementInput::Tick);
                }
                self.silence_due(now);
                self.say_listening(now);
                if self.fastpath.timeout() <= now {
                    self.fastpath_due(now);
                }
                if self.ageing_due <= now {
                    self.ageing_due = now + AGEING_INTERVAL;
                    self.changed_macs(|macs| macs.age(now));
                    // Pairs fall idle without any event.
                    self.fastpath.look_again();
                }
            }
        }
        self.drain(now);
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Timeout`] if nothing happens before.
    pub fn poll_timeout(&self) -> Time {
        [
            self.mesh.poll_timeout(),
            self.sleeve_timeout(),
            self.ipam_timeout(),
            self.again_timeout(),
            self.agreement_timeout(),
            self.relays.timeout(),
            self.multicast.timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(Time::NEVER)
        .min(self.ageing_due)
        .min(self.fastpath.timeout())
        .min(self.silence_timeout())
    }

    /// A pod with this address is attached on this host.
    pub(crate) fn on_attached(&mut self, mac: Mac) {
        self.contested.forget(mac);
        self.changed_macs(|macs| macs.forget(mac));
    }

    /// MTU for pods that are attached now: what the operator set, else what the smallest known underlay leaves.
    pub fn pod_mtu(&self) -> u16 {
        let peers = self.mesh.members();
        let smallest = peers
            .iter()
            .filter_map(|peer| self.mesh.peer_record(peer))
            .map(|record| record.underlay_mtu)
            .chain([self.config.underlay_mtu])
            .min()
            .unwrap_or(self.config.underlay_mtu);
        // pod_mtu never exceeds 1500.
        self.config
            .mtu
            .unwrap_or_else(|| pod_mtu(usize::from(smallest)) as u16)
    }

    /// Nickname of a peer, or the short form of its id.
    pub fn name_of(&self, peer: &NodeId) -> String {
        let name = self.mesh.peer_record(peer).map(|record| record.name);
        name.or_else(|| self.mesh.removed_name(peer))
            .unwrap_or_else(|| peer.short())
    }

    /// What this host says of itself as a member.
    pub(crate) fn record_of(&self, identity: &Identity) -> PeerRecord {
        PeerRecord {
            name: identity.name.clone(),
            noise_static: identity.noise.public(),
            endpoints: self.config.endpoints.clone(),
            underlay_mtu: self.config.underlay_mtu,
            capabilities: 0,
            zone: String::new(),
            version: self.config.version.clone(),
            boot_nonce: identity.boot_nonce,
        }
    }

    fn sleeve_timeout(&self) -> Option<Time> {
        self.member
            .as_ref()
            .and_then(|member| member.sleeve.poll_timeout())
    }

    fn ipam_timeout(&self) -> Option<Time> {
        // What is being replaced takes nothing more, however long the disk needs.
        let member = self.member.as_ref().filter(|_| !self.is_leaving())?;
        member.ipam.poll_timeout()
    }

    /// Gives the sleeve an input, if there is one: a host without a cluster has no sessions.
    pub(crate) fn sleeve(&mut self, now: Time, input: weft_sleeve::Input<'_>) {
        if self.former_takes(now, &input) {
            return;
        }
        if let Some(member) = &mut self.member {
            member.sleeve.handle(now, input);
        }
    }

    pub(crate) fn changed_macs(&mut self, change: impl FnOnce(&mut MacTable) -> bool) {
        if change(&mut self.macs) {
            self.macs_changed = true;
            self.table_changed = true;
        }
    }

    /// Carries outputs between the cores until none is left, then says what changed for the engine.
    pub(crate) fn drain(&mut self, now: Time) {
        self.make_claims(now);
        self.say_whether_alone(now);
        self.drain_cores(now);
        if core::mem::take(&mut self.macs_changed) {
            self.fastpath.macs_changed();
        }
        // A table may find other listeners, which the kernel is to know of.
        self.publish_if_changed();
        while self.follow_fastpath(now) {
            self.drain_cores(now);
            self.publish_if_changed();
        }
    }

    fn drain_cores(&mut self, now: Time) {
        loop {
            if self.drain_candidate(now) || self.drain_former(now) {
            } else if let Some(output) = self.mesh.poll_output() {
                self.on_mesh_output(now, output);
            } else if let Some(output) = self
                .member
                .as_mut()
                .and_then(|member| member.sleeve.poll_output())
            {
                self.on_sleeve_output(now, output);
            } else if let Some(output) = self
                .founding
                .as_mut()
                .and_then(|founding| founding.machine.poll_output())
            {
                self.on_agreement_output(now, output);
            } else if let Some(output) = self.member.as_mut().and_then(|member| member.ipam.poll_output()) {
                self.on_ipam_output(now, output);
                self.make_claims(now);
            } else {
                break;
            }
        }
        self.table_changed |= self.follow_places();
        self.table_changed |= self.follow_listening(now);
        if self.follow_routes(now) {
            self.table_changed = true;
        }
        // What the sleeve makes of other routes.
        while let Some(output) = self
            .member
            .as_mut()
            .and_then(|member| member.sleeve.poll_output())
        {
            self.on_sleeve_output(now, output);
        }
    }

    fn on_mesh_output(&mut self, now: Time, output: weft_gossip::Output) {
        let output = match output {
            weft_gossip::Output::Dial { conn, to } => Output::Mesh(MeshCommand::Dial { conn, to }),
            weft_gossip::Output::Send { conn, frame } => Output::Mesh(MeshCommand::Send { conn, frame }),
            weft_gossip::Output::Close { conn } => Output::Mesh(MeshCommand::Close { conn }),
            // It would be written behind what replaces it.
            weft_gossip::Output::Persist { .. } if self.is_leaving() => return,
            weft_gossip::Output::Persist { token, state } => Output::Persist { token, state },
            weft_gossip::Output::Event(event) => return self.on_event(now, event),
        };
        self.outputs.push_back(output);
    }

    fn on_event(&mut self, now: Time, event: MeshEvent) {
        let notice = match event {
            MeshEvent::Joined { genesis } => return self.become_member(now, &genesis),
            MeshEvent::RecordChanged { key } => return self.on_record(now, key),
            MeshEvent::Direct { from, bytes } => {
                return self.ipam(now, weft_ipam_crdt::Input::Message { from, bytes });
            }
            MeshEvent::RecordOfRemoved(envelope) => {
                return self.ipam(now, weft_ipam_crdt::Input::Record(envelope));
            }
            MeshEvent::Gathered { node, name } => {
                return self.agreement(now, AgreementInput::Heard { node, name });
            }
            MeshEvent::Parted { node, .. } => return self.agreement(now, AgreementInput::Lost(node)),
            MeshEvent::Agreement { from, bytes } => {
                return self.agreement(now, AgreementInput::Message { from, bytes });
            }
            MeshEvent::Admitted { node, name } => Notice::Admitted { peer: node, name },
            MeshEvent::PeerUp { node, name } => {
                self.ipam(now, weft_ipam_crdt::Input::PeerUp(node));
                self.look_for_silent(now);
                Notice::LinkUp { peer: node, name }
            }
            MeshEvent::PeerDown { node, reason } => Notice::LinkDown {
                peer: node,
                name: self.name_of(&node),
                reason,
            },
            MeshEvent::LinkRefused {
                remote,
                target,
                node,
                reason,
            } => {
                let with = target
                    .or_else(|| remote.map(|remote| remote.to_string()))
                    .or_else(|| node.map(|node| node.short()))
                    .unwrap_or_default();
                Notice::LinkRefused { with, reason }
            }
            MeshEvent::Foreign {
                node,
                remote,
                is_dialled,
                genesis,
                capabilities,
                has_token,
            } => {
                return self.on_foreign(
                    now,
                    Meeting {
                        node,
                        remote,
                        is_dialled,
                        genesis,
                        capabilities,
                        has_token,
                    },
                );
            }
            MeshEvent::CopiedIdentity { node, remote } => {
                if node == self.id() {
                    self.freeze_ipam(now);
                }
                let whose = if node == self.id() {
                    "this host's".to_string()
                } else {
                    format!("{}'s", self.name_of(&node))
                };
                let place = remote
                    .map(|remote| format!(", one of them at {remote}"))
                    .unwrap_or_default();
                self.warn(format!(
                    "two routers use {whose} identity{place}: a state directory was copied, or put back from \
                     an old backup. Stop one of them and remove its state directory; it then becomes a new node"
                ));
                return;
            }
            MeshEvent::RecordRefused { kind, why } => {
                self.warn(format!("this host's own record ({kind:?}) was not taken: {why}"));
                return;
            }
        };
        self.outputs.push_back(Output::Notice(notice));
    }

    pub(crate) fn warn(&mut self, sentence: String) {
        if !self.warnings.contains(&sentence) && self.warnings.len() < WARNINGS_MAX {
            self.outputs
                .push_back(Output::Notice(Notice::Warning(sentence.clone())));
            self.warnings.push(sentence);
        }
    }

    /// Begins to act as a member: the sleeve needs the cluster's secrets.
    fn become_member(&mut self, now: Time, genesis: &Genesis) {
        let space = match AddressSpace::of_genesis(genesis) {
            Ok(space) => space,
            Err(error) => return self.warn(format!("the cluster's genesis cannot be used: {error}")),
        };
        let Some(membership) = self.mesh.membership() else {
            return;
        };
        let identity = &self.config.identity;
        let local = LocalNode {
            node: self.mesh.node(),
            certificate: identity.key.certify_noise_static(&identity.noise.public()),
            noise: identity.noise.clone(),
            genesis: genesis.id(),
            incarnation: identity.incarnation,
            ciphers: self.config.ciphers.clone(),
        };
        let durable = match self
            .stored_ipam
            .take()
            .map_or_else(|| IpamState::genesis(genesis), Ok)
        {
            Ok(durable) => durable,
            Err(error) => return self.warn(error.to_string()),
        };
        let ipam = Ipam::new(
            IpamConfig {
                node: self.mesh.node(),
                key: identity.key.clone(),
                space,
                genesis: genesis.clone(),
                incarnation: identity.incarnation,
                durable,
                expected: 1,
                role: self.config.role,
                seed: derive(&self.config.seed, "weft seed ipam"),
            },
            now,
        );
        let ipam = match ipam {
            Ok(ipam) => ipam,
            Err(error) => return self.warn(error.to_string()),
        };
        let mut sleeve = Sleeve::new(local, derive(&self.config.seed, "weft seed sleeve"));
        sleeve.handle(now, weft_sleeve::Input::Secrets(membership.secrets()));
        self.member = Some(Member {
            genesis: genesis.id(),
            space,
            sleeve,
            ipam,
        });
        self.guard(now);
        self.founding = None;
        self.outputs.push_back(Output::Notice(Notice::Joined {
            genesis: genesis.id(),
        }));
        self.on_epoch(now);
        self.tell_ipam_all(now);
        self.hear_listening();
        for peer in self.mesh.members() {
            self.upsert_peer(now, peer);
        }
    }

    /// Tells the engine for whom handshakes are.
    pub(crate) fn guard(&mut self, now: Time) {
        let formers = self.formers.iter_mut().map(|former| &mut former.sleeve);
        let own = self.member.iter_mut().map(|member| &mut member.sleeve);
        let keys = own.chain(formers).map(|sleeve| sleeve.door_keys(now)).collect();
        self.outputs.push_back(Output::Engine(EngineCommand::Guard(keys)));
    }

    fn on_record(&mut self, now: Time, key: RegisterKey) {
        self.tell_ipam(now, key);
        if key.kind == PeerRecord::KIND {
            self.upsert_peer(now, key.owner);
            self.fastpath.look_again();
        }
        if key.kind == FastpathRecord::KIND && key.owner != self.id() {
            self.on_fastpath_record(&key.owner);
        }
        if key.kind == LinksRecord::KIND {
            self.look_for_silent(now);
        }
        if key.kind == GroupsRecord::KIND {
            self.on_groups(key.owner);
        }
        if key.kind == AdoptRecord::KIND {
            self.on_adopt_record(now, key.owner);
        }
    }

    /// Tells the sleeve where a member listens, and asks it to keep up a session with it.
    fn upsert_peer(&mut self, now: Time, peer: NodeId) {
        if peer == self.id() {
            return;
        }
        let Some(record) = self.mesh.peer_record(&peer) else {
            return;
        };
        if self.paths.len() >= SESSIONS_MAX && !self.paths.contains_key(&peer) {
            return self.warn(format!(
                "more than {SESSIONS_MAX} peers: frames to some of them are not carried"
            ));
        }
        let PeerRecord {
            noise_static,
            endpoints,
            ..
        } = record;
        self.sleeve(
            now,
            weft_sleeve::Input::UpsertPeer(
                peer,
                PeerInfo {
                    noise_static,
                    endpoints,
                },
            ),
        );
        self.sleeve(now, weft_sleeve::Input::Keep(peer));
        self.tell_relays(now, peer);
        self.paths.entry(peer).or_insert_with(|| {
            self.table_changed = true;
            self.multicast.shift();
            Path {
                session: None,
                endpoint: None,
                relay: None,
                datagram: BASE,
                down: None,
                since: now,
                membership: self.membership,
            }
        });
    }

    fn on_sleeve_output(&mut self, now: Time, output: weft_sleeve::Output) {
        let output = match output {
            weft_sleeve::Output::Send { to, bytes } => Output::Engine(EngineCommand::Send { to, bytes }),
            weft_sleeve::Output::Proof { local, peer, keys } => {
                return self.fastpath.add_keys(local, peer, keys);
            }
            weft_sleeve::Output::Install(keys) => Output::Engine(EngineCommand::Install(keys)),
            weft_sleeve::Output::Remove { local } => {
                self.fastpath.drop_keys(local);
                Output::Engine(EngineCommand::Remove(local))
            }
            weft_sleeve::Output::Keepalive { local } => {
                self.publish_if_changed();
                Output::Engine(EngineCommand::Keepalive(local))
            }
            weft_sleeve::Output::Probe { local, probe } => {
                self.publish_if_changed();
                Output::Engine(EngineCommand::Probe(local, probe))
            }
            weft_sleeve::Output::PathMtu { peer, datagram } => {
                return self.change_path(peer, |path| path.datagram = datagram);
            }
            weft_sleeve::Output::Select { peer, local } => {
                let membership = self.membership;
                return self.change_path(peer, |path| {
                    path.take_over(membership);
                    path.session = Some(local);
                });
            }
            weft_sleeve::Output::Way { peer, way } => {
                return self.on_way(now, peer, way);
            }
            weft_sleeve::Output::Up { peer, cipher } => {
                self.change_path(peer, |path| (path.down, path.since) = (None, now));
                Output::Notice(Notice::SleeveUp {
                    peer,
                    name: self.name_of(&peer),
                    cipher,
                })
            }
            weft_sleeve::Output::Down { peer, why } => {
                self.change_path(peer, |path| {
                    (path.session, path.down, path.since) = (None, Some(why), now)
                });
                if self.mesh.is_removed(&peer) && why != DownReason::Removed {
                    self.end_removed(now, peer);
                }
                Output::Notice(Notice::SleeveDown {
                    peer,
                    name: self.name_of(&peer),
                    why,
                })
            }
            weft_sleeve::Output::Dropped(reason, from) => {
                self.sleeve_drops[reason as usize] = self.sleeve_drops[reason as usize].saturating_add(1);
                Output::Notice(Notice::Dropped { reason, from })
            }
        };
        self.outputs.push_back(output);
    }

    /// Hands the engine the table, if it has changed: before a datagram leaves to an endpoint that stands in it, and at
    /// the end of each input.
    pub(crate) fn publish_if_changed(&mut self) {
        if core::mem::take(&mut self.table_changed) {
            self.shift_listening();
            let table = self.table();
            self.outputs
                .push_back(Output::Engine(EngineCommand::Publish(table)));
        }
    }

    /// No frames go to this peer any longer.
    pub(crate) fn forget_path(&mut self, peer: &NodeId) {
        self.table_changed |= self.paths.remove(peer).is_some();
        self.multicast.shift();
        self.fastpath.look_again();
        self.relays.look_again();
    }

    pub(crate) fn change_path(&mut self, peer: NodeId, change: impl FnOnce(&mut Path)) {
        if let Some(path) = self.paths.get_mut(&peer) {
            let direct = path.direct(self.membership);
            change(path);
            if path.direct(self.membership) != direct {
                self.relays.look_again();
            }
            self.table_changed = true;
            self.fastpath.look_again();
        }
    }

    /// The forwarding table of this moment. Peers stand in order of id; SESSIONS_MAX keeps positions within u16.
    fn table(&self) -> ForwardingTable {
        let mut table = ForwardingTable::empty(self.id().peer_hash());
        let mut positions = BTreeMap::new();
        for (position, (peer, path)) in (0u16..).zip(&self.paths) {
            positions.insert(*peer, position);
            table.peers.push(PeerPath {
                peer: *peer,
                hash: peer.peer_hash(),
                session: path.session,
                endpoint: self.next_hop(path),
                by_relay: path.relay.is_some(),
                datagram: path.datagram,
            });
        }
        let place = |(mac, peer): (Mac, NodeId)| Some((mac, *positions.get(&peer)?));
        table.macs = self.macs.iter().filter_map(place).collect();
        table.locator = self.locator();
        table.groups = self.multicast.groups();
        table.relaying = self.relays.relaying();
        let secrets = self.mesh.membership().map(|membership| membership.secrets());
        table.guard = secrets
            .and_then(|secrets| secrets.first())
            .map(ClusterSecret::guard_key);
        table
    }
}
