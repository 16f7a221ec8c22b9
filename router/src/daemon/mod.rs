//! `weft up`: gives the node its clock, sockets, disk and kernel.
//!
//! | module | what it does |
//! |---|---|
//! | [`start`] | everything before the first packet: state, founding or joining, sockets |
//! | [`adopt`] | this host becomes a member of another cluster |
//! | [`askers`] | who waits for an answer of the address space |
//! | [`attached`] | addresses of attached pods that the state does not know of |
//! | [`tcp`] | the mesh's connections |
//! | [`underlay`] | at which addresses this host can be reached, and with which MTU |
//! | [`bridge`] | keeps the kernel as the node wants it |
//! | [`disk`] | the thread that writes the state, and what is refused while the disk takes nothing |
//! | [`firewall`] | keeps frames between pods from being dropped by the host's packet filters |
//! | [`foreign`] | addresses on this host's bridge that weft did not make, told to other hosts |
//! | [`listeners`] | to which multicast groups pods of this host listen |
//! | [`loops`] | which bridges are joined outside the overlay, in words |
//! | [`probes`] | the sockets by which probes go through the kernel's own path to other hosts |
//! | [`notices`] | what the node has to say, as log lines |
//!
//! One task owns the node; all others send it [`NodeEvent`]s. The engine's threads never wait for it.

mod adopt;
mod askers;
mod attached;
mod bridge;
mod disk;
mod firewall;
mod foreign;
mod listeners;
mod loops;
mod notices;
mod probes;
mod start;
mod tcp;
mod underlay;

pub(crate) use start::run;

use askers::Askers;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;
use tcp::Connections;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use weft_fastpath::{Snooping, View};
use weft_gossip::{ConnId, PersistToken};
use weft_ipam_crdt::{Request as Ipam, RequestId, Wanted};
use weft_node::check::Checked;
use weft_node::report::EngineReport;
use weft_node::{EngineCommand, Input, MeshCommand, Node, Output};
use weft_sleeve_engine::{Engine, EngineEvent};
use weft_store::writer::SAVES_MAX;
use weft_store::{Difference, Job, Save, StoreError, Syncs};
use weft_wire::api::{
    AdoptRequest, Adopted, ApiError, EncryptionStatus, ErrorReason, FreeRequest, IpamStatus, KeepRequest,
    LeaveStatus, MulticastStatus, PodPlan, PodRequest, RemovalAsked, RemoveRequest, Status,
};
use weft_wire::fastpath::Encryption;
use weft_wire::group::Listening;
use weft_wire::{Mac, NodeId, Time};

use crate::config::{Multicast, parse_peer};

/// Events that wait for the node. Readers of connections wait when it is full; the engine drops and counts.
const EVENTS_MAX: usize = 1_024;
/// Events that the node takes before it does what came out of them: the engine's floods must not starve the timers.
const EVENTS_PER_TURN: usize = 64;
/// How often the engine's counters are read, on which rekeying and keepalives are decided, and the loop guard probes.
const ACTIVITY_INTERVAL: std::time::Duration = weft_sleeve_engine::LOOP_PROBE_INTERVAL;

/// Where the local API asks.
pub(crate) type NodeHandle = mpsc::Sender<Request>;

/// What the local API asks for.
pub(crate) enum Request {
    /// The status, without pods.
    Status(oneshot::Sender<Status>),
    /// An address for a pod, and how to wire it. The number is the caller's choice, above zero and not used before.
    Allocate(RequestId, PodRequest, oneshot::Sender<Result<PodPlan, ApiError>>),
    /// Nobody waits for this answer any longer.
    Cancel(RequestId),
    /// A pod is gone, or one of its addresses. Numbers as for [`Request::Allocate`].
    Free(
        RequestId,
        FreeRequest,
        oneshot::Sender<Result<Vec<IpAddr>, ApiError>>,
    ),
    /// Addresses of a pod of this host.
    AddressesOf(String, oneshot::Sender<Vec<IpAddr>>),
    /// Where an address lives, in words.
    Lookup(IpAddr, oneshot::Sender<String>),
    /// Who listens to which multicast groups.
    Multicast(oneshot::Sender<MulticastStatus>),
    /// The address space; none before this host is a member.
    Ipam(oneshot::Sender<Option<IpamStatus>>),
    /// Check the address space, and look up where these live; none before this host is a member.
    Check(Vec<IpAddr>, oneshot::Sender<Option<Check>>),
    /// Try this address until it answers. The answer is the address with its port.
    Connect(String, oneshot::Sender<Result<String, TargetRefusal>>),
    /// Try this address no more.
    Forget(String, oneshot::Sender<Result<String, TargetRefusal>>),
    /// Hand this host's part of the range on; where that stands, or none before this host is a member.
    Leave(oneshot::Sender<Option<LeaveStatus>>),
    /// Be out of the cluster, whatever is still to be handed on; as [`Request::Leave`].
    Depart(oneshot::Sender<Option<LeaveStatus>>),
    /// Stay after all.
    Stay(oneshot::Sender<()>),
    /// Give the identity up. Nothing is saved from here on; whoever asks asks the router to stop next.
    SetAside(oneshot::Sender<oneshot::Receiver<Result<PathBuf, StoreError>>>),
    /// Become a member of another cluster, with all hosts of this one; the token comes with its key. Answered when that is
    /// durable, or when it has come to nothing.
    Adopt(
        AdoptRequest,
        Option<weft_wire::Psk>,
        oneshot::Sender<Result<Adopted, ApiError>>,
    ),
    /// Have these hosts removed. Numbers as for [`Request::Allocate`]; the answer says that the wish is durable.
    Remove(
        RequestId,
        RemoveRequest,
        oneshot::Sender<Result<RemovalAsked, ApiError>>,
    ),
    /// Have them stay after all.
    Keep(
        RequestId,
        KeepRequest,
        oneshot::Sender<Result<RemovalAsked, ApiError>>,
    ),
    /// Have this encrypted in the whole cluster; answered when it is durable here.
    Encrypt(Encryption, oneshot::Sender<EncryptionStatus>),
    /// Stop; answered before anything stops.
    Stop(oneshot::Sender<()>),
}

/// The node's part of a check, and the disk's.
pub(crate) struct Check {
    /// What the node has to say.
    pub(crate) node: Checked,
    /// What the state file holds, once it has been read; or a sentence when the disk takes no writes.
    pub(crate) disk: Result<oneshot::Receiver<Result<(), Difference>>, String>,
}

/// Why an address is not tried, or not given up: a sentence.
pub(crate) enum TargetRefusal {
    /// It is no address.
    Malformed(String),
    /// It is not tried anyway.
    NotTried(String),
}

/// What reaches the node's task.
enum NodeEvent {
    Dialled {
        conn: ConnId,
        stream: TcpStream,
    },
    DialFailed {
        conn: ConnId,
        why: String,
    },
    Accepted {
        stream: TcpStream,
        from: SocketAddr,
    },
    Frame {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Written {
        conn: ConnId,
    },
    Closed {
        conn: ConnId,
    },
    Persisted(SaveToken),
    /// The bridge and what belongs to it are as the last view wants them.
    KernelFollows {
        has_vxlan: bool,
    },
    /// Addresses that the bridge has at ports of this host.
    OnBridge {
        macs: Vec<Mac>,
        told: foreign::Told,
    },
    /// The kernel has lately sent frames to these addresses by VXLAN.
    KernelUsed(Vec<Mac>),
    /// A frame came in by a probe device.
    KernelProbe(Box<[u8]>),
    /// Written, and not synced yet.
    OnDisk(SaveToken),
    /// A sentence while the disk takes no writes.
    Disk(Option<String>),
    Engine(EngineEvent),
    /// To which multicast groups pods here listen.
    Listening(Listening),
}

/// Which write is durable.
#[derive(Clone, Copy)]
enum SaveToken {
    /// Settings of the cluster.
    Settings,
    Mesh(PersistToken),
    Ipam(weft_ipam_crdt::PersistToken),
    Again,
    Claims,
    Agreement(u64),
}

/// The node and everything it acts on.
struct Daemon {
    clock: Instant,
    node: Node,
    connections: Connections,
    engine: Box<dyn Engine>,
    saves: mpsc::Sender<Job<SaveToken>>,
    /// A sentence once a write could not be handed over: the router must end, since it would wait for it for ever.
    save_trouble: Option<String>,
    /// A sentence while the disk takes no writes: then nothing is given out.
    disk_trouble: Option<String>,
    /// The identity is given up: what would still be saved is nobody's.
    is_set_aside: bool,
    syncs: Syncs,
    askers: Askers,
    /// Those who wait until this host has adopted another cluster, or has not.
    adopting: Vec<oneshot::Sender<Result<Adopted, ApiError>>>,
    kernel: watch::Sender<View>,
    /// Whether the bridge is to tell groups apart.
    multicast: Multicast,
    events: mpsc::Sender<NodeEvent>,
    /// The bridge's addresses are being looked at.
    is_looking: bool,
    /// When those that weft did not make were last announced.
    announced: Instant,
    probes: probes::Probes,
    /// Those who wait until a setting is durable.
    setting: Vec<oneshot::Sender<EncryptionStatus>>,
    bridge_trouble: watch::Receiver<Option<String>>,
    firewall: watch::Receiver<Vec<String>>,
    accepted: u64,
    /// Port of a target that names none.
    port: u16,
    log: notices::Log,
    loops: loops::Loops,
}

/// Why the node's task ended.
enum Ended {
    /// Asked to, by a signal or by `weft down`.
    Stopped,
    /// Something it cannot do without failed; a sentence.
    Failed(String),
}

impl Daemon {
    fn now(&self) -> Time {
        Time::from_start(self.clock.elapsed())
    }

    /// Runs the node until it is asked to stop or something fails for good.
    async fn run(
        &mut self,
        mut events: mpsc::Receiver<NodeEvent>,
        mut requests: mpsc::Receiver<Request>,
        mut failures: mpsc::Receiver<String>,
        mut stop: watch::Receiver<bool>,
    ) -> Ended {
        let mut activity = tokio::time::interval(ACTIVITY_INTERVAL);
        activity.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(EVENTS_PER_TURN);
        self.input(Input::Timeout);
        loop {
            let due = self.node.poll_timeout();
            let sleep = tokio::time::sleep(due.since(self.now()));
            tokio::select! {
                biased;
                _ = stop.changed() => return Ended::Stopped,
                Some(why) = failures.recv() => return Ended::Failed(why),
                () = sleep => self.input(Input::Timeout),
                _ = activity.tick() => self.report_activity(),
                Some(request) = requests.recv() => {
                    if self.answer(request) {
                        return Ended::Stopped;
                    }
                }
                taken = events.recv_many(&mut batch, EVENTS_PER_TURN) => {
                    if taken == 0 {
                        return Ended::Failed("all tasks that feed the node have ended".into());
                    }
                    for event in batch.drain(..) {
                        if let Some(why) = self.event(event) {
                            return Ended::Failed(why);
                        }
                    }
                }
            }
        }
    }

    /// Says goodbye to the mesh; bridge, ports and pods stay.
    async fn stop(mut self) {
        self.input(Input::Mesh(weft_gossip::Input::Shutdown));
        self.connections.close_all().await;
        self.engine.stop();
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        self.node.handle(now, input);
        while let Some(output) = self.node.poll_output() {
            self.output(output);
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Mesh(MeshCommand::Dial { conn, to }) => self.connections.dial(conn, to),
            Output::Mesh(MeshCommand::Send { conn, frame }) => self.connections.send(conn, frame),
            Output::Mesh(MeshCommand::Close { conn }) => self.connections.close(conn),
            Output::Persist { token, state } => self.save(SaveToken::Mesh(token), Save::Cluster(state)),
            Output::PersistAgreement { token, state } => {
                self.save(SaveToken::Agreement(token), Save::Agreement(state));
            }
            Output::PersistIpam { token, changes } => self.save(SaveToken::Ipam(token), Save::Ipam(changes)),
            Output::BeginAgain(beginning) => self.begin_again(*beginning),
            Output::PersistClaims(claims) => self.save(SaveToken::Claims, Save::Claims(claims)),
            Output::Adopted(result) => self.adopted(result),
            Output::Allocated { request, result } => {
                if let Some(free) = self.askers.allocated(request, result) {
                    self.input(Input::Ipam(free));
                }
            }
            Output::Freed { request, addresses } => self.askers.freed(request, addresses),
            Output::Removal { request, result } => self.askers.removal(request, result),
            Output::Engine(command) => self.command(command),
            Output::Kernel(mut view) => {
                if self.multicast == Multicast::Flood {
                    view.snooping = Snooping::Off;
                }
                self.kernel.send_replace(*view);
            }
            Output::KernelProbe { to, frame } => self.probes.send(to, &frame),
            Output::PersistSettings(settings) => self.save(SaveToken::Settings, Save::Settings(settings)),
            Output::Notice(notice) => self.log.write(&notice),
        }
    }

    fn save(&mut self, token: SaveToken, save: Save) {
        if self.is_set_aside {
            return;
        }
        if self.saves.try_send(Job::Save(token, save)).is_err() {
            self.save_trouble = Some(format!(
                "the disk takes no writes: {SAVES_MAX} of them wait, or its writer has ended"
            ));
        }
    }

    fn command(&mut self, command: EngineCommand) {
        match command {
            EngineCommand::Install(keys) => {
                if let Err(error) = self.engine.install(&keys) {
                    tracing::error!(peer = ?keys.peer, %error, "a session was not installed");
                }
            }
            EngineCommand::Remove(local) => self.engine.remove(local),
            EngineCommand::Publish(table) => self.engine.publish(&table),
            EngineCommand::Guard(cores) => self.engine.guard(cores),
            EngineCommand::Send { to, bytes } => self.engine.send(to, &bytes),
            EngineCommand::Keepalive(local) => self.engine.keepalive(local),
            EngineCommand::Probe(local, probe) => self.engine.probe(local, probe),
        }
    }

    /// Takes one event; a sentence when the router cannot go on.
    fn event(&mut self, event: NodeEvent) -> Option<String> {
        use weft_gossip::Input as Mesh;
        let mesh = match event {
            NodeEvent::Dialled { conn, stream } => match stream.peer_addr() {
                Ok(remote) => {
                    self.connections.open(conn, stream);
                    Mesh::Dialled {
                        conn,
                        remote: tcp::canonical(remote),
                    }
                }
                Err(error) => Mesh::DialFailed {
                    conn,
                    why: error.to_string(),
                },
            },
            NodeEvent::DialFailed { conn, why } => Mesh::DialFailed { conn, why },
            NodeEvent::Accepted { stream, from } => {
                self.accepted += 1;
                let conn = ConnId::Accepted(self.accepted);
                self.connections.open(conn, stream);
                Mesh::Accepted { conn, from }
            }
            NodeEvent::Frame { conn, bytes } => Mesh::Frame { conn, bytes },
            NodeEvent::Written { conn } => Mesh::Written { conn },
            NodeEvent::Closed { conn } => {
                self.connections.close(conn);
                Mesh::Closed { conn }
            }
            NodeEvent::Persisted(SaveToken::Mesh(token)) => Mesh::Persisted(token),
            NodeEvent::Persisted(SaveToken::Ipam(token)) => {
                self.input(Input::IpamPersisted(token));
                return self.save_trouble.take();
            }
            NodeEvent::Persisted(SaveToken::Again) => {
                self.input(Input::BeganAgain);
                return self.save_trouble.take();
            }
            NodeEvent::Persisted(SaveToken::Claims) => return None,
            NodeEvent::Persisted(SaveToken::Settings) => {
                for asker in self.setting.drain(..) {
                    // Whoever asked may have gone.
                    let _ = asker.send(self.node.encryption_status());
                }
                return None;
            }
            NodeEvent::KernelFollows { has_vxlan } => {
                self.probes.follow();
                self.input(Input::KernelFollows { has_vxlan });
                return self.save_trouble.take();
            }
            NodeEvent::KernelUsed(macs) => {
                self.input(Input::KernelUsed(macs));
                return self.save_trouble.take();
            }
            NodeEvent::OnBridge { macs, told } => {
                self.announce_foreign(&macs, told);
                return None;
            }
            NodeEvent::KernelProbe(frame) => {
                self.input(Input::KernelProbe(&frame));
                return self.save_trouble.take();
            }
            NodeEvent::Persisted(SaveToken::Agreement(token)) => {
                self.input(Input::AgreementPersisted(token));
                return self.save_trouble.take();
            }
            NodeEvent::OnDisk(token) => {
                if let SaveToken::Ipam(token) = token {
                    self.input(Input::IpamWritten(token));
                }
                return self.save_trouble.take();
            }
            NodeEvent::Disk(trouble) => {
                self.disk_changed(trouble);
                return None;
            }
            NodeEvent::Engine(event) => return self.engine_event(event),
            NodeEvent::Listening(listening) => {
                self.input(Input::Listening(listening));
                return self.save_trouble.take();
            }
        };
        self.input(Input::Mesh(mesh));
        self.save_trouble.take()
    }

    fn engine_event(&mut self, event: EngineEvent) -> Option<String> {
        match event {
            EngineEvent::Handshake { from, bytes } => self.input(Input::Handshake { from, bytes: &bytes }),
            EngineEvent::Opened { local, from } => self.input(Input::Opened { local, from }),
            EngineEvent::Roamed { local, from } => self.input(Input::Roamed { local, from }),
            EngineEvent::UnknownIndex { from } => self.input(Input::UnknownIndex { from }),
            EngineEvent::Learned { mac, peer } => self.input(Input::Learned { mac, peer }),
            EngineEvent::Sought { local, mac } => self.look_for_foreign(foreign::Told::Asker(local, mac)),
            EngineEvent::Sent { mac, peer } => self.input(Input::Sent { mac, peer }),
            EngineEvent::Local { mac } => self.input(Input::Local { mac }),
            EngineEvent::Wanted { peer } => self.input(Input::Wanted { peer }),
            EngineEvent::ProbeAnswered { local, probe } => self.input(Input::ProbeAnswered { local, probe }),
            EngineEvent::ProbeRefused { local, probe } => self.input(Input::ProbeRefused { local, probe }),
            EngineEvent::TooBig { local, size } => self.input(Input::TooBig { local, size }),
            EngineEvent::Failed { what } => return Some(what),
        }
        None
    }

    fn report_activity(&mut self) {
        self.engine.probe_for_loops();
        if self.announced.elapsed() >= foreign::ANNOUNCE_INTERVAL {
            self.announced = Instant::now();
            let peers = self.node.fast_sessions();
            if !peers.is_empty() {
                self.look_for_foreign(foreign::Told::Fast(peers));
            }
        }
        let counters = self.engine.counters();
        self.loops.see(&self.node, &counters.joined);
        if !counters.relayed_for.is_empty() {
            self.input(Input::Relayed(counters.relayed_for));
        }
        for (local, counters) in counters.sessions {
            self.input(Input::Activity {
                local,
                sent: counters.sent,
                received: counters.received,
                frames: counters.frames,
                large: counters.large,
                relayed: counters.relayed,
            });
        }
    }

    /// Answers a request; true when it was to stop.
    fn answer(&mut self, request: Request) -> bool {
        // Whoever asked may have gone; then nobody needs the answer.
        match request {
            Request::Status(answer) => {
                let _ = answer.send(self.status());
            }
            Request::Allocate(request, asked, answer) => {
                if let Some(why) = &self.disk_trouble {
                    let _ = answer.send(Err(ApiError::new(ErrorReason::Unwritable, why.clone())));
                    return false;
                }
                let PodRequest {
                    id,
                    address,
                    subnet,
                    timeout_ms,
                } = asked;
                let held = self.node.addresses_of(&id);
                self.askers.allocate(request, &id, held, answer);
                self.input(Input::Ipam(Ipam::AllocateIn {
                    id,
                    wanted: Wanted { address, subnet },
                    within: timeout_ms.map(std::time::Duration::from_millis),
                    request,
                }));
            }
            Request::Cancel(request) => self.input(Input::Ipam(Ipam::Cancel(request))),
            Request::Free(request, FreeRequest { id, address }, answer) => {
                if let Some(why) = &self.disk_trouble {
                    let _ = answer.send(Err(ApiError::new(ErrorReason::Unwritable, why.clone())));
                    return false;
                }
                self.askers.free(request, answer);
                self.input(Input::Ipam(Ipam::Free { id, address, request }));
            }
            Request::AddressesOf(id, answer) => {
                let _ = answer.send(self.node.addresses_of(&id));
            }
            Request::Lookup(address, answer) => {
                let _ = answer.send(self.node.lookup(address));
            }
            Request::Multicast(answer) => {
                let _ = answer.send(self.node.multicast_status());
            }
            Request::Ipam(answer) => {
                let _ = answer.send(self.node.ipam_status(self.now()));
            }
            Request::Check(addresses, answer) => {
                let _ = answer.send(self.check(&addresses));
            }
            Request::Connect(target, answer) => {
                let _ = answer.send(self.connect(&target));
            }
            Request::Forget(target, answer) => {
                let _ = answer.send(self.forget(&target));
            }
            Request::Leave(answer) => {
                self.input(Input::Ipam(Ipam::Leave));
                let _ = answer.send(self.node.leave_status());
            }
            Request::Depart(answer) => {
                self.input(Input::Ipam(Ipam::Depart));
                let _ = answer.send(self.node.leave_status());
            }
            Request::Stay(answer) => {
                self.input(Input::Ipam(Ipam::Stay));
                let _ = answer.send(());
            }
            Request::SetAside(answer) => {
                let (done, when_done) = oneshot::channel();
                // What waits for the disk is written first. A writer that takes nothing more drops its end.
                let _ = self.saves.try_send(Job::SetAside(done));
                self.is_set_aside = true;
                let _ = answer.send(when_done);
            }
            Request::Adopt(request, psk, answer) => self.adopt(request, psk, answer),
            Request::Remove(request, asked, answer) => {
                let hosts = self.node.to_remove(&asked);
                self.remove(request, hosts, Some(asked.fenced), answer);
            }
            Request::Keep(request, asked, answer) => {
                let hosts = self.node.hosts_named(&asked.hosts);
                self.remove(request, hosts, None, answer);
            }
            Request::Encrypt(encryption, answer) => {
                self.setting.push(answer);
                self.input(Input::SetEncryption(encryption));
            }
            Request::Stop(answer) => {
                let _ = answer.send(());
                return true;
            }
        }
        false
    }

    fn check(&mut self, addresses: &[IpAddr]) -> Option<Check> {
        // From here to the comparison nothing changes, so the file then holds just what memory does.
        self.input(Input::Ipam(Ipam::Flush));
        let node = self.node.check(self.now(), addresses)?;
        let disk = match &self.disk_trouble {
            Some(why) => Err(why.clone()),
            None => {
                let (answer, answered) = oneshot::channel();
                let job = Job::Compare(Box::new(node.state.clone()), answer);
                match self.saves.try_send(job) {
                    Ok(()) => Ok(answered),
                    Err(_) => Err(format!("more than {SAVES_MAX} writes wait for the disk")),
                }
            }
        };
        Some(Check { node, disk })
    }

    /// Has hosts removed, or with no `wish` kept.
    fn remove(
        &mut self,
        request: RequestId,
        hosts: Result<Vec<NodeId>, String>,
        wish: Option<bool>,
        answer: oneshot::Sender<Result<RemovalAsked, ApiError>>,
    ) {
        let trouble = self.disk_trouble.clone();
        let trouble = trouble.map(|why| Err(ApiError::new(ErrorReason::Unwritable, why)));
        let hosts = hosts.map_err(|why| ApiError::new(ErrorReason::NotRemovable, why));
        match trouble.unwrap_or(hosts) {
            Err(why) => {
                let _ = answer.send(Err(why));
            }
            Ok(hosts) => {
                let asked = RemovalAsked {
                    hosts: hosts.iter().map(|host| self.node.host_name(host)).collect(),
                };
                self.askers.remove(request, asked, answer);
                self.input(Input::Ipam(match wish {
                    Some(fenced) => Ipam::Remove {
                        hosts,
                        fenced,
                        request,
                    },
                    None => Ipam::Keep { hosts, request },
                }));
            }
        }
    }

    fn target(&self, text: &str) -> Result<String, TargetRefusal> {
        parse_peer(text, self.port).map_err(|error| TargetRefusal::Malformed(error.to_string()))
    }

    fn connect(&mut self, target: &str) -> Result<String, TargetRefusal> {
        let target = self.target(target)?;
        self.input(Input::Mesh(weft_gossip::Input::AddTarget(target.clone())));
        Ok(target)
    }

    /// Gives up an address; the error names those that are tried.
    fn forget(&mut self, target: &str) -> Result<String, TargetRefusal> {
        let target = self.target(target)?;
        let known = self.node.targets();
        if !known.contains(&target) {
            return Err(TargetRefusal::NotTried(match known.as_slice() {
                [] => format!("{target} is not tried: no address is"),
                some => format!("{target} is not tried; tried are: {}", some.join(", ")),
            }));
        }
        self.input(Input::Mesh(weft_gossip::Input::RemoveTarget(target.clone())));
        Ok(target)
    }

    fn status(&self) -> Status {
        let (counters, description) = (self.engine.counters(), self.engine.description());
        let mut status = self.node.status(
            self.now(),
            &EngineReport {
                name: description.name.to_owned(),
                degradations: description.degradations,
                drops: counters.drops,
                traffic: counters.peers,
                relayed: counters.relayed,
            },
        );
        status.warnings.extend(self.loops.warnings().cloned());
        status.warnings.extend(self.bridge_trouble.borrow().clone());
        status.warnings.extend(self.disk_trouble.clone());
        status.firewall = self.firewall.borrow().clone();
        status.disk = disk::status(&self.syncs);
        status.warnings.extend(disk::slow(&status.disk));
        status
    }
}
