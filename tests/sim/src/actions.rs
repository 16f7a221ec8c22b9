//! What a node's outputs do to the world, and how they are taken down.

use crate::disk::Write;
use crate::host::Host;
use crate::invariants::Seen;
use crate::queue::{Event, Packet};
use crate::sabotage::Sabotage;
use crate::tcp::Key;
use crate::world::World;
use weft_gossip::{ConnId, DialTarget, Input as Mesh};
use weft_node::{EngineCommand, MeshCommand, Notice, Output};
use weft_sleeve::ForwardingTable;
use weft_wire::NodeId;

fn octets_of(conn: ConnId) -> [u8; 9] {
    let (side, number) = match conn {
        ConnId::Dialled(number) => (0, number),
        ConnId::Accepted(number) => (1, number),
    };
    let mut octets = [side; 9];
    octets[1..].copy_from_slice(&number.to_be_bytes());
    octets
}

fn octets_of_table(table: &ForwardingTable) -> Vec<u8> {
    let mut octets = Vec::new();
    for path in &table.peers {
        octets.extend(path.peer.0);
        octets.extend(
            path.session
                .map(|session| session.0)
                .unwrap_or_default()
                .to_be_bytes(),
        );
        octets.extend(
            path.endpoint
                .map(|endpoint| endpoint.to_string())
                .unwrap_or_default()
                .as_bytes(),
        );
        octets.extend(path.datagram.to_be_bytes());
        octets.push(u8::from(path.by_relay));
    }
    for (mac, at) in &table.macs {
        octets.extend(mac.0);
        octets.extend(at.to_be_bytes());
    }
    octets
}

impl World {
    /// Takes down what a node is told of its mesh.
    pub(crate) fn note_mesh(&mut self, host: usize, input: &Mesh) {
        let (kind, octets, bytes): (&str, Vec<u8>, &[u8]) = match input {
            // Its octets were taken down when it was sent.
            Mesh::Frame { conn, .. } => ("frame", octets_of(*conn).into(), &[]),
            Mesh::Dialled { conn, .. } => ("dialled", octets_of(*conn).into(), &[]),
            Mesh::DialFailed { conn, .. } => ("dial failed", octets_of(*conn).into(), &[]),
            Mesh::Accepted { conn, .. } => ("accepted", octets_of(*conn).into(), &[]),
            Mesh::Written { conn } => ("written", octets_of(*conn).into(), &[]),
            Mesh::Closed { conn } => ("closed", octets_of(*conn).into(), &[]),
            Mesh::Persisted(token) => ("persisted", token.0.to_be_bytes().into(), &[]),
            Mesh::SendTo { bytes, .. } => ("send to", vec![], bytes),
            Mesh::AddTarget(_)
            | Mesh::RemoveTarget(_)
            | Mesh::Agree { .. }
            | Mesh::Found { .. }
            | Mesh::SetRecord { .. }
            | Mesh::Removed(_)
            | Mesh::SetAdmitting(_)
            | Mesh::SetCapabilities(_)
            | Mesh::Shutdown
            | Mesh::Tick => ("mesh", vec![], &[]),
        };
        self.record
            .note(self.now, host, kind, &[&octets, bytes], || match input {
                Mesh::Frame { conn, bytes } => format!("{conn:?} {} octets", bytes.len()),
                other => format!("{other:?}"),
            });
    }

    /// Does what a node wants done.
    pub(crate) fn act(&mut self, host: usize, output: Output) {
        match output {
            Output::Mesh(command) => self.act_mesh(host, command),
            Output::Engine(command) => self.act_engine(host, command),
            Output::Persist { token, state } => {
                self.record.note(
                    self.now,
                    host,
                    "persist",
                    &[&token.0.to_be_bytes(), &state.encode()],
                    || format!("{token:?}"),
                );
                if self.sabotage == Some(Sabotage::EarlyPersisted) {
                    let (start, input) = (self.hosts[host].start, Mesh::Persisted(token));
                    self.queue.push(self.now, Event::Tell { host, start, input });
                }
                if self.hosts[host].disk.write(Write::Cluster(token, state)) {
                    self.sync_later(host);
                }
            }
            Output::PersistAgreement { token, state } => {
                let text = format!("{state:?}");
                self.record.note(
                    self.now,
                    host,
                    "persist",
                    &[&token.to_be_bytes(), text.as_bytes()],
                    || format!("agreement {token} {text}"),
                );
                if self.sabotage == Some(Sabotage::EarlyPromise) {
                    let start = self.hosts[host].start;
                    self.queue
                        .push(self.now, Event::AgreementSynced { host, start, token });
                }
                if self.hosts[host].disk.write(Write::Agreement(token, state)) {
                    self.sync_later(host);
                }
            }
            Output::PersistIpam { token, changes } => {
                let text = format!("{changes:?}");
                self.record.note(
                    self.now,
                    host,
                    "persist",
                    &[&token.0.to_be_bytes(), text.as_bytes()],
                    || format!("{token:?} {text}"),
                );
                if self.sabotage == Some(Sabotage::EarlyAnswer) {
                    let start = self.hosts[host].start;
                    self.queue
                        .push(self.now, Event::IpamSynced { host, start, token });
                }
                if self.hosts[host].disk.write(Write::Ipam(token, changes)) {
                    self.sync_later(host);
                }
            }
            Output::BeginAgain(beginning) => {
                let text = format!("{beginning:?}");
                self.record
                    .note(self.now, host, "persist", &[text.as_bytes()], || text.clone());
                if self.hosts[host].disk.write(Write::Again(beginning)) {
                    self.sync_later(host);
                }
            }
            Output::PersistClaims(claims) => {
                let text = format!("{claims:?}");
                self.record
                    .note(self.now, host, "persist", &[text.as_bytes()], || text.clone());
                if self.hosts[host].disk.write(Write::Claims(claims)) {
                    self.sync_later(host);
                }
            }
            Output::Adopted(result) => {
                let text = format!("{result:?}");
                self.record
                    .note(self.now, host, "adopted", &[text.as_bytes()], || text.clone());
            }
            Output::Allocated { request, result } => self.answered(host, request, result),
            Output::Removal { request, result } => self.wished(host, request, result),
            Output::Freed { request, addresses } => {
                let text = format!("{addresses:?}");
                self.record.note(
                    self.now,
                    host,
                    "freed",
                    &[&request.0.to_be_bytes(), text.as_bytes()],
                    || text.clone(),
                );
            }
            Output::Kernel(view) => {
                let octets: Vec<u8> = view.remote.keys().flat_map(|mac| mac.0).collect();
                let macs = || format!("{:?}", view.remote);
                self.record.note(self.now, host, "macs", &[&octets], macs);
            }
            // No simulated host takes part.
            Output::KernelProbe { .. } | Output::PersistSettings(_) => {}
            Output::Notice(notice) => {
                let text = format!("{notice:?}");
                self.record
                    .note(self.now, host, "notice", &[text.as_bytes()], || text.clone());
                if let (Notice::Joined { genesis }, None) = (&notice, self.genesis) {
                    self.genesis = Some(*genesis);
                    self.look_for_first(host);
                }
                self.operators_hear(&notice);
                self.see(host, &Seen::Said(&notice));
                if let (Notice::LinkDown { peer, .. }, Some(Sabotage::VerdictCutsPath)) =
                    (&notice, self.sabotage)
                {
                    cut_path(&mut self.hosts[host], *peer);
                }
            }
        }
    }

    fn act_mesh(&mut self, host: usize, command: MeshCommand) {
        let (now, start) = (self.now, self.hosts[host].start);
        let key = |conn| Key { host, start, conn };
        match command {
            MeshCommand::Dial { conn, to } => {
                let to = match to {
                    DialTarget::Address(to) => to,
                    DialTarget::Name(name) => {
                        let why = format!("no host has the name {name}");
                        let input = Mesh::DialFailed { conn, why };
                        return self.queue.push(now, Event::Tell { host, start, input });
                    }
                };
                self.record.note(now, host, "dial", &[&octets_of(conn)], || {
                    format!("{conn:?} {to}")
                });
                self.tcp.dial(now, &mut self.queue, key(conn), to);
            }
            MeshCommand::Send { conn, frame } => {
                self.record
                    .note(now, host, "send", &[&octets_of(conn), &frame], || {
                        format!("{conn:?} {} octets", frame.len())
                    });
                let is_early = self.hosts[host]
                    .running_mut()
                    .is_some_and(|running| !running.unwritten.insert(conn));
                self.see(host, &Seen::MeshFrame { conn, is_early });
                self.tcp
                    .send(now, &mut self.queue, &mut self.network, key(conn), frame);
            }
            MeshCommand::Close { conn } => {
                self.record
                    .note(now, host, "close", &[&octets_of(conn)], || format!("{conn:?}"));
                if let Some(running) = self.hosts[host].running_mut() {
                    running.unwritten.remove(&conn);
                }
                self.tcp.close(now, &mut self.queue, &mut self.network, key(conn));
            }
        }
    }

    fn act_engine(&mut self, host: usize, command: EngineCommand) {
        let now = self.now;
        match command {
            EngineCommand::Install(keys) => {
                let local = keys.local;
                self.record
                    .note(now, host, "install", &[&keys.send, &keys.receive], || {
                        format!("{keys:?}")
                    });
                let was_free = self.hosts[host]
                    .running_mut()
                    .is_some_and(|running| running.engine.install(keys));
                self.see(host, &Seen::Installed { local, was_free });
            }
            EngineCommand::Remove(local) => {
                self.record
                    .note(now, host, "remove", &[&local.0.to_be_bytes()], || {
                        format!("{local:?}")
                    });
                if let Some(running) = self.hosts[host].running_mut() {
                    running.engine.remove(local);
                }
                self.see(host, &Seen::Removed(local));
            }
            EngineCommand::Publish(table) => {
                self.record
                    .note(now, host, "publish", &[&octets_of_table(&table)], || {
                        format!("{} peers, {} addresses", table.peers.len(), table.macs.len())
                    });
                self.see(host, &Seen::Published(&table));
                if let Some(running) = self.hosts[host].running_mut() {
                    running.engine.table = table;
                }
            }
            // Nobody floods here.
            EngineCommand::Guard(_) => {}
            EngineCommand::Send { to, bytes } => {
                self.record.note(now, host, "init", &[&bytes], || {
                    format!("{} octets to {to}", bytes.len())
                });
                self.send_datagram(host, to, Packet::Handshake(bytes));
            }
            EngineCommand::Probe(local, probe) => {
                let octets = [u64::from(local.0), probe.number, u64::from(probe.size)].map(u64::to_be_bytes);
                self.record.note(now, host, "probe", &[&octets.concat()], || {
                    format!("{local:?} {probe:?}")
                });
                let probed = self.hosts[host]
                    .running_mut()
                    .map(|running| running.engine.probe(local, probe));
                let (sealed, reports) = probed.unwrap_or_default();
                if let Some((to, sealed)) = sealed {
                    self.send_sealed(host, to, sealed);
                }
                if !reports.is_empty() {
                    let start = self.hosts[host].start;
                    self.queue.push(now, Event::Reports { host, start, reports });
                }
            }
            EngineCommand::Keepalive(local) => {
                self.record
                    .note(now, host, "keepalive", &[&local.0.to_be_bytes()], || {
                        format!("{local:?}")
                    });
                let sealed = self.hosts[host]
                    .running_mut()
                    .and_then(|running| running.engine.keepalive(local));
                if let Some((to, sealed)) = sealed {
                    self.send_sealed(host, to, sealed);
                }
            }
        }
    }
}

/// What a broken shell does with a verdict.
fn cut_path(host: &mut Host, peer: NodeId) {
    if let Some(running) = host.running_mut() {
        for path in running
            .engine
            .table
            .peers
            .iter_mut()
            .filter(|path| path.peer == peer)
        {
            path.session = None;
        }
    }
}
