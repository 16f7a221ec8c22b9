//! The same, answered when it is on the disk: callers, the machine in a thread, and the shipped store with its writer.

use super::Cluster;
use crate::figure::{Sample, median_and_p99};
use anyhow::{Context, anyhow, bail};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc as saves;
use weft_gossip::DurableState;
use weft_ipam_crdt::{AllocError, Input, Ipam, Output, PersistToken, Request, RequestId};
use weft_store::writer::{self, SAVES_MAX};
use weft_store::{Job, MachineId, Save, Store, Told};
use weft_wire::{ClusterSecret, NodeKey, NoiseKeypair, Time};

/// Addresses of one run, whatever the number of callers: half a second of a disk that syncs in 0.2 ms.
const ADDRESSES: usize = 2_400;
/// Events that wait for the machine, as in the daemon.
const EVENTS_MAX: usize = 1_024;
/// Any machine id will do for a state that lives for one run.
const MACHINE_ID: &str = "0123456789abcdef0123456789abcdef";

/// What reaches the machine's thread.
enum Event {
    Allocate(String, mpsc::SyncSender<Result<(), AllocError>>),
    Told(Told<PersistToken>),
    End,
}

pub(super) fn run(folder: &Path, callers: usize) -> anyhow::Result<Vec<Sample>> {
    let cluster = Cluster::new()?;
    let directory = tempfile::Builder::new()
        .prefix("weft-bench-")
        .tempdir_in(folder)
        .with_context(|| folder.display().to_string())?;
    let store = store(&cluster, directory.path(), NodeKey::from_seed([1; 32]))?;
    let syncs = store.syncs();

    let (events, taken) = mpsc::sync_channel(EVENTS_MAX);
    let (to_disk, to_save) = saves::channel(SAVES_MAX);
    let mut ipam = cluster.machine()?;
    let before = syncs.so_far();
    let begin = Instant::now();
    let (mut times, machine) = std::thread::scope(|scope| {
        let told = events.clone();
        scope.spawn(move || writer::run(store, to_save, None, |what| told.send(Event::Told(what)).is_ok()));
        let machine = scope.spawn(move || serve(&mut ipam, &taken, &to_disk));
        let callers: Vec<_> = (0..callers)
            .map(|caller| {
                let events = events.clone();
                scope.spawn(move || call(caller, ADDRESSES / callers, &events))
            })
            .collect();
        let times: anyhow::Result<Vec<Vec<Duration>>> =
            callers.into_iter().map(|caller| joined(caller.join())).collect();
        // The machine may have ended by itself; what stopped it is then its own error.
        let _ = events.send(Event::End);
        (times.map(|times| times.concat()), joined(machine.join()))
    });
    let took = begin.elapsed();
    machine?;
    let times = times.as_mut().map_err(|error| anyhow!("{error:#}"))?;
    let count = times.len() as f64;
    let (median, p99) = median_and_p99(times);
    let what = |rest: &str| format!("durable allocation, {callers} at once, {rest}");
    let each = (syncs.so_far() - before) as f64 / count;
    Ok(vec![
        Sample::new(what("median"), "µs", median),
        Sample::new(what("p99"), "µs", p99),
        Sample::new(what("rate"), "1/s", count / took.as_secs_f64()),
        Sample::new(what("syncs"), "per address", each),
    ])
}

/// A store in a directory of its own, with a cluster in it.
pub(super) fn store(cluster: &Cluster, directory: &Path, key: NodeKey) -> anyhow::Result<Store> {
    let noise = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([3; 32])).context("X25519")?;
    let machine = MachineId::from_text(MACHINE_ID).context("a machine id of 32 digits")?;
    let (mut store, _) = Store::open(directory, machine, None, || (key, noise))?;
    let secret = ClusterSecret {
        number: 1,
        key: [4; 32],
    };
    let founded = DurableState::founded(cluster.genesis.clone(), secret);
    store.save(&[Save::Cluster(founded)])?;
    Ok(store)
}

pub(super) fn joined<T>(result: std::thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
    result.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

/// Asks for addresses, one after the other; how long each took.
fn call(caller: usize, count: usize, events: &mpsc::SyncSender<Event>) -> anyhow::Result<Vec<Duration>> {
    let (answer, answered) = mpsc::sync_channel(1);
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let id = format!("pod-{caller}-{number}");
        let begin = Instant::now();
        events
            .send(Event::Allocate(id, answer.clone()))
            .map_err(|_| anyhow!("the machine has ended"))?;
        answered.recv()??;
        times.push(begin.elapsed());
    }
    Ok(times)
}

/// Runs the machine as the daemon does: one event, then all that comes out of it.
fn serve(
    ipam: &mut Ipam,
    events: &mpsc::Receiver<Event>,
    disk: &saves::Sender<Job<PersistToken>>,
) -> anyhow::Result<()> {
    let mut asked = BTreeMap::new();
    for number in 0.. {
        let request = RequestId(number);
        match events.recv()? {
            Event::Allocate(id, answer) => {
                asked.insert(request, answer);
                ipam.handle(Time::ZERO, Input::Request(Request::Allocate { id, request }));
            }
            Event::Told(Told::Durable(token)) => ipam.handle(Time::ZERO, Input::Persisted(token)),
            Event::Told(Told::Written(token)) => ipam.handle(Time::ZERO, Input::Written(token)),
            Event::Told(Told::Recovered) => {}
            Event::Told(Told::Refused(error) | Told::Failed(error)) => bail!(error),
            Event::End => return Ok(()),
        }
        while let Some(output) = ipam.poll_output() {
            match output {
                Output::Persist { token, changes } => {
                    let full = || anyhow!("more than {SAVES_MAX} writes wait for the disk");
                    disk.try_send(Job::Save(token, Save::Ipam(changes)))
                        .map_err(|_| full())?;
                }
                Output::Answer { request, result } => {
                    if let Some(answer) = asked.remove(&request) {
                        // A caller that has failed waits for nothing.
                        let _ = answer.send(result.map(drop));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}
