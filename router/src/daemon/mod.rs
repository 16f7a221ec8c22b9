//! `weft up`: gives the node its clock, sockets, disk and kernel.
//!
//! | module | what it does |
//! |---|---|
//! | [`start`] | everything before the first packet: state, founding or joining, sockets |
//! | [`tcp`] | the mesh's connections |
//! | [`underlay`] | at which addresses this host can be reached, and with which MTU |
//! | [`bridge`] | keeps the kernel as the node wants it |
//! | [`notices`] | what the node has to say, as log lines |
//!
//! One task owns the node; all others send it [`NodeEvent`]s. The engine's threads never wait for it.

mod bridge;
mod notices;
mod start;
mod tcp;
mod underlay;

pub(crate) use start::run;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;
use tcp::Connections;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use weft_gossip::{ConnId, DurableState, PersistToken};
use weft_node::report::EngineReport;
use weft_node::{EngineCommand, Input, MeshCommand, Node, Output};
use weft_sleeve_engine::{Engine, EngineEvent};
use weft_wire::api::{PodPlan, PodRequest, Status};
use weft_wire::{Mac, Time};

use crate::config::parse_peer;
use crate::store::Store;

/// Events that wait for the node. Readers of connections wait when it is full; the engine drops and counts.
const EVENTS_MAX: usize = 1_024;
/// Events that the node takes before it does what came out of them: the engine's floods must not starve the timers.
const EVENTS_PER_TURN: usize = 64;
/// How often the engine's counters are read: what rekeying and keepalives are decided on.
const ACTIVITY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Where the local API asks.
pub(crate) type NodeHandle = mpsc::Sender<Request>;

/// What the local API asks for.
pub(crate) enum Request {
    /// The status, without pods.
    Status(oneshot::Sender<Status>),
    /// How to wire a pod.
    PlanPod(PodRequest, oneshot::Sender<Result<PodPlan, String>>),
    /// Try this address until it answers.
    Connect(String, oneshot::Sender<Result<(), String>>),
    /// Try this address no more.
    Forget(String, oneshot::Sender<Result<(), String>>),
    /// Stop; answered before anything stops.
    Stop(oneshot::Sender<()>),
}

/// What reaches the node's task.
enum NodeEvent {
    Dialled { conn: ConnId, stream: TcpStream },
    DialFailed { conn: ConnId, why: String },
    Accepted { stream: TcpStream, from: SocketAddr },
    Frame { conn: ConnId, bytes: Vec<u8> },
    Written { conn: ConnId },
    Closed { conn: ConnId },
    Persisted(PersistToken),
    Engine(EngineEvent),
}

/// The node and everything it acts on.
struct Daemon {
    clock: Instant,
    node: Node,
    connections: Connections,
    engine: Box<dyn Engine>,
    saves: mpsc::Sender<(PersistToken, DurableState)>,
    remote_macs: watch::Sender<BTreeSet<Mac>>,
    bridge_trouble: watch::Receiver<Option<String>>,
    accepted: u64,
    /// Port of a target that names none.
    port: u16,
    log: notices::Log,
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
            Output::Persist { token, state } => {
                // The mesh asks for the next write only when this one is durable.
                if self.saves.try_send((token, state)).is_err() {
                    tracing::error!("the state was not written: the writer has ended");
                }
            }
            Output::Engine(command) => self.command(command),
            Output::RemoteMacs(macs) => {
                self.remote_macs.send_replace(macs);
            }
            Output::Notice(notice) => self.log.write(&notice),
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
            EngineCommand::Send { to, bytes } => self.engine.send(to, &bytes),
            EngineCommand::Keepalive(local) => self.engine.keepalive(local),
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
            NodeEvent::Persisted(token) => Mesh::Persisted(token),
            NodeEvent::Engine(event) => return self.engine_event(event),
        };
        self.input(Input::Mesh(mesh));
        None
    }

    fn engine_event(&mut self, event: EngineEvent) -> Option<String> {
        match event {
            EngineEvent::Handshake { from, bytes } => self.input(Input::Handshake { from, bytes: &bytes }),
            EngineEvent::Opened { local, from } => self.input(Input::Opened { local, from }),
            EngineEvent::Roamed { local, from } => self.input(Input::Roamed { local, from }),
            EngineEvent::UnknownIndex { from } => self.input(Input::UnknownIndex { from }),
            EngineEvent::Learned { mac, peer } => self.input(Input::Learned { mac, peer }),
            EngineEvent::Wanted { peer } => self.input(Input::Wanted { peer }),
            EngineEvent::Failed { what } => return Some(what),
        }
        None
    }

    fn report_activity(&mut self) {
        for (local, counters) in self.engine.counters().sessions {
            let (sent, received) = (counters.sent, counters.received);
            self.input(Input::Activity {
                local,
                sent,
                received,
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
            Request::PlanPod(request, answer) => {
                let now = self.now();
                let plan = self.node.plan_pod(now, request.address);
                while let Some(output) = self.node.poll_output() {
                    self.output(output);
                }
                let _ = answer.send(plan);
            }
            Request::Connect(target, answer) => {
                let target = parse_peer(&target, self.port).map_err(|error| error.to_string());
                let _ = answer.send(target.map(|target| {
                    self.input(Input::Mesh(weft_gossip::Input::AddTarget(target)));
                }));
            }
            Request::Forget(target, answer) => {
                let _ = answer.send(self.forget(&target));
            }
            Request::Stop(answer) => {
                let _ = answer.send(());
                return true;
            }
        }
        false
    }

    /// Gives up an address; the error names those that are tried.
    fn forget(&mut self, target: &str) -> Result<(), String> {
        let target = parse_peer(target, self.port).map_err(|error| error.to_string())?;
        let known = self.node.targets();
        if !known.contains(&target) {
            return Err(match known.as_slice() {
                [] => format!("{target} is not tried: no address is"),
                some => format!("{target} is not tried; tried are: {}", some.join(", ")),
            });
        }
        self.input(Input::Mesh(weft_gossip::Input::RemoveTarget(target)));
        Ok(())
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
            },
        );
        status.warnings.extend(self.bridge_trouble.borrow().clone());
        status
    }
}

/// Writes states one after the other; the latest of those that wait is enough.
fn write_states(
    mut store: Store,
    mut saves: mpsc::Receiver<(PersistToken, DurableState)>,
    token: Option<String>,
    events: &mpsc::Sender<NodeEvent>,
    failures: &mpsc::Sender<String>,
) {
    while let Some((mut number, mut state)) = saves.blocking_recv() {
        while let Ok(later) = saves.try_recv() {
            (number, state) = later;
        }
        let saved = store.save(Some(&state)).and_then(|()| match &token {
            Some(token) => store.save_token(token),
            None => Ok(()),
        });
        let sent = match saved {
            Ok(()) => events.blocking_send(NodeEvent::Persisted(number)).is_ok(),
            Err(error) => {
                let _ = failures.blocking_send(error.to_string());
                false
            }
        };
        if !sent {
            return;
        }
    }
}
