//! Addresses whose space another host has: five hosts, each with the machine in a thread, the shipped store with its
//! writer, and a TCP connection to every other one. Records and messages travel as they are, without the mesh's
//! encryption.

use super::{Cluster, durable};
use crate::figure::{Sample, median_and_p99};
use anyhow::{Context, anyhow, bail};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as saves;
use weft_ipam_crdt::{
    AllocError, Input, Ipam, IpamConfig, IpamState, Output, PersistToken, Request, RequestId, Role, Wanted,
};
use weft_store::writer::{self, SAVES_MAX};
use weft_store::{Job, Save, Told};
use weft_wire::envelope::Stamp;
use weft_wire::{Envelope, NodeId, NodeKey, Time};

/// Hosts of the cluster.
const HOSTS: u8 = 5;
/// Addresses of one run for which a slot has to move: enough for a 99th percentile of three.
const GRANTED: u32 = 300;
/// Addresses of one run that are lent: fewer than one host lends at a time.
const LENT: u32 = 200;
/// Where the founder's share of the range is: it keeps the lowest fifth.
const FOUNDERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 33, 0, 0), Ipv4Addr::new(10, 34, 0, 0)];
/// By then every host owns a part of the range: it takes two epochs at most, one a second.
const START_MAX: Duration = Duration::from_secs(20);
/// Octets of the longest frame: a record or a message, and a few more.
const FRAME_MAX: usize = 64 << 10;
/// Events that wait for one machine: one caller and four links make a few at a time.
const QUEUE: usize = 1_024;

/// What reaches a machine's thread.
enum Event {
    Allocate(String, Wanted, mpsc::SyncSender<Result<(), AllocError>>),
    Owned(mpsc::SyncSender<u64>),
    Told(Told<PersistToken>),
    Heard(NodeId, Vec<u8>),
    End,
}

/// What the first octet of a frame says that the others are.
const RECORD: u8 = 0;
const MESSAGE: u8 = 1;

pub(super) fn run(folder: &Path) -> anyhow::Result<Vec<Sample>> {
    let cluster = Cluster::new()?;
    let directory = tempfile::Builder::new()
        .prefix("weft-bench-")
        .tempdir_in(folder)
        .with_context(|| folder.display().to_string())?;
    let begin = Instant::now();
    let mut links = connections()?;
    let mut readers = Vec::new();
    let mut hosts = Vec::new();
    let mut events = Vec::new();
    for number in 0..HOSTS {
        let (tell, heard) = mpsc::sync_channel(QUEUE);
        let to: BTreeMap<NodeId, TcpStream> = links.remove(&number).unwrap_or_default();
        for (from, stream) in &to {
            readers.push((*from, stream.try_clone()?, tell.clone()));
        }
        let store = durable::store(&cluster, &directory.path().join(number.to_string()), key(number))?;
        hosts.push((store, heard, tell.clone(), machine(&cluster, number)?, to));
        events.push(tell);
    }
    std::thread::scope(|scope| {
        for (from, stream, tell) in readers {
            scope.spawn(move || read(from, stream, &tell));
        }
        let machines: Vec<_> = (0..)
            .zip(hosts)
            .map(|(number, (store, heard, told, ipam, to))| {
                let (to_disk, to_save) = saves::channel(SAVES_MAX);
                scope.spawn(move || {
                    writer::run(store, to_save, None, |what| told.send(Event::Told(what)).is_ok())
                });
                let host = Host {
                    key: key(number),
                    begin,
                    ipam,
                    versions: 0,
                    to,
                    to_disk,
                    asked: BTreeMap::new(),
                };
                scope.spawn(move || host.serve(&heard))
            })
            .collect();
        let samples = measure(&events);
        for tell in &events {
            // A machine that has ended by itself says why below.
            let _ = tell.send(Event::End);
        }
        for machine in machines {
            durable::joined(machine.join())?;
        }
        samples
    })
}

/// The last host asks for addresses that the first one has.
fn measure(events: &[mpsc::SyncSender<Event>]) -> anyhow::Result<Vec<Sample>> {
    let begin = Instant::now();
    for tell in events {
        let (answer, answered) = mpsc::sync_channel(1);
        loop {
            tell.send(Event::Owned(answer.clone())).map_err(|_| ended())?;
            if answered.recv()? > 0 {
                break;
            }
            if begin.elapsed() > START_MAX {
                bail!("a host owns no part of the range after {START_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let asker = events.last().context("there are hosts")?;
    let at = |first: Ipv4Addr, offset: u32| IpAddr::V4((u32::from(first) + offset).into());
    // Each address in a slot of its own, of which all are free: the slot moves.
    let mut granted = ask(asker, GRANTED, |number| {
        let subnet = ipnet::IpNet::new(at(FOUNDERS[0], 16 * number), 28)?;
        Ok(Wanted {
            address: None,
            subnet: Some(subnet),
        })
    })?;
    // An address by its name is lent.
    let mut lent = ask(asker, LENT, |number| {
        Ok(Wanted {
            address: Some(at(FOUNDERS[1], number)),
            subnet: None,
        })
    })?;
    let mut samples = Vec::new();
    for (what, times) in [("handed over", &mut granted), ("lent", &mut lent)] {
        let (median, p99) = median_and_p99(times);
        let name = |rest: &str| format!("allocation of what another host has, {what}, {rest}");
        samples.push(Sample::new(name("median"), "µs", median));
        samples.push(Sample::new(name("p99"), "µs", p99));
    }
    Ok(samples)
}

fn ended() -> anyhow::Error {
    anyhow!("a machine has ended")
}

/// Asks for addresses, one after the other; how long each took.
fn ask(
    host: &mpsc::SyncSender<Event>,
    count: u32,
    wanted: impl Fn(u32) -> anyhow::Result<Wanted>,
) -> anyhow::Result<Vec<Duration>> {
    let (answer, answered) = mpsc::sync_channel(1);
    let mut times = Vec::new();
    for number in 0..count {
        let wanted = wanted(number)?;
        let begin = Instant::now();
        host.send(Event::Allocate(format!("{wanted:?}"), wanted, answer.clone()))
            .map_err(|_| ended())?;
        answered.recv()??;
        times.push(begin.elapsed());
    }
    Ok(times)
}

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed([number + 1; 32])
}

/// The machine of one host; the first one has founded the cluster.
fn machine(cluster: &Cluster, number: u8) -> anyhow::Result<Ipam> {
    let config = IpamConfig {
        node: key(number).id(),
        key: key(number),
        space: cluster.space,
        genesis: cluster.genesis.clone(),
        incarnation: 1,
        durable: IpamState::genesis(&cluster.genesis)?,
        expected: HOSTS.into(),
        role: Role::Owner,
        seed: [number; 32],
    };
    Ok(Ipam::new(config, Time::ZERO)?)
}

/// A connection over loopback between each two hosts: for each host, those to the others.
fn connections() -> anyhow::Result<BTreeMap<u8, BTreeMap<NodeId, TcpStream>>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut links: BTreeMap<u8, BTreeMap<NodeId, TcpStream>> = BTreeMap::new();
    for one in 0..HOSTS {
        for other in 0..one {
            let near = TcpStream::connect(listener.local_addr()?)?;
            let (far, _) = listener.accept()?;
            for (from, to, stream) in [(one, other, near), (other, one, far)] {
                stream.set_nodelay(true)?;
                links.entry(from).or_default().insert(key(to).id(), stream);
            }
        }
    }
    Ok(links)
}

/// Reads frames, each its length and its octets, until the connection ends.
fn read(from: NodeId, mut stream: TcpStream, tell: &mpsc::SyncSender<Event>) {
    let mut next = || -> std::io::Result<Vec<u8>> {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame)?;
        Ok(frame)
    };
    while let Ok(frame) = next() {
        if tell.send(Event::Heard(from, frame)).is_err() {
            return;
        }
    }
}

/// What one host's thread works with.
struct Host {
    key: NodeKey,
    begin: Instant,
    ipam: Ipam,
    versions: u64,
    to: BTreeMap<NodeId, TcpStream>,
    to_disk: saves::Sender<Job<PersistToken>>,
    asked: BTreeMap<RequestId, mpsc::SyncSender<Result<(), AllocError>>>,
}

impl Host {
    /// Runs the machine as the daemon does: one event, then all that comes out of it.
    fn serve(mut self, events: &mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let members: Vec<NodeId> = (0..HOSTS).map(|number| key(number).id()).collect();
        self.give(Input::MembersChanged(members))?;
        for number in 0.. {
            let now = Time::from_start(self.begin.elapsed());
            let wait = self.ipam.poll_timeout().map_or(START_MAX, |due| due.since(now));
            let input = match events.recv_timeout(wait) {
                Err(mpsc::RecvTimeoutError::Timeout) => Input::Tick,
                Err(mpsc::RecvTimeoutError::Disconnected) | Ok(Event::End) => break,
                Ok(Event::Allocate(id, wanted, answer)) => {
                    let request = RequestId(number);
                    self.asked.insert(request, answer);
                    Input::Request(Request::AllocateIn {
                        id,
                        wanted,
                        within: None,
                        request,
                    })
                }
                Ok(Event::Owned(answer)) => {
                    // Whoever asked may have given up.
                    let _ = answer.send(self.ipam.counts().owned);
                    continue;
                }
                Ok(Event::Told(Told::Durable(token))) => Input::Persisted(token),
                Ok(Event::Told(Told::Written(token))) => Input::Written(token),
                Ok(Event::Told(Told::Recovered)) => continue,
                Ok(Event::Told(Told::Refused(error) | Told::Failed(error))) => bail!(error),
                Ok(Event::Heard(from, frame)) => match frame.split_first() {
                    Some((&RECORD, bytes)) => {
                        let record = Envelope::from_bytes(bytes.to_vec())?;
                        if !record.is_signed_by(&record.key().owner) {
                            bail!("a record with a false signature");
                        }
                        Input::Record(record)
                    }
                    Some((_, bytes)) => Input::Message {
                        from,
                        bytes: bytes.to_vec(),
                    },
                    None => bail!("an empty frame"),
                },
            };
            self.give(input)?;
        }
        // What reads at the other ends ends with it.
        for stream in self.to.values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        Ok(())
    }

    fn give(&mut self, input: Input) -> anyhow::Result<()> {
        self.ipam.handle(Time::from_start(self.begin.elapsed()), input);
        while let Some(output) = self.ipam.poll_output() {
            match output {
                Output::Persist { token, changes } => {
                    let full = || anyhow!("more than {SAVES_MAX} writes wait for the disk");
                    let job = Job::Save(token, Save::Ipam(changes));
                    self.to_disk.try_send(job).map_err(|_| full())?;
                }
                Output::Publish { kind, body } => {
                    self.versions += 1;
                    let stamp = Stamp {
                        incarnation: 1,
                        version: self.versions,
                    };
                    let record = Envelope::sign(&self.key, kind, self.key.id(), stamp, &body)
                        .map_err(|error| anyhow!("{error}"))?;
                    let all: Vec<NodeId> = self.to.keys().copied().collect();
                    for to in all {
                        self.send(to, RECORD, record.as_bytes())?;
                    }
                }
                Output::Send { to, bytes } => self.send(to, MESSAGE, &bytes)?,
                Output::Answer { request, result } => {
                    if let Some(answer) = self.asked.remove(&request) {
                        // A caller that has failed waits for nothing.
                        let _ = answer.send(result.map(drop));
                    }
                }
                Output::Freed { .. } | Output::Removal { .. } | Output::Event(_) => {}
            }
        }
        Ok(())
    }

    fn send(&mut self, to: NodeId, what: u8, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(stream) = self.to.get_mut(&to) else {
            return Ok(());
        };
        let length = u32::try_from(bytes.len() + 1)?.to_be_bytes();
        match stream.write_all(&[&length[..], &[what], bytes].concat()) {
            Ok(()) => Ok(()),
            // The others end one after the other.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
