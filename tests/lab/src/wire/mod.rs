//! A switch in userspace. The kernels that weft is tested on have no netem, so this is the wire
//! that delays, loses, reorders and doubles.
//!
//! Each port is a TAP device inside a host's namespace, and a thread that reads it. The thread
//! decides each frame's fate at once; one more thread delivers frames when they are due.

mod impairment;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tun_tap::{Iface, Mode};
use weft_kernel::{MacAddr, Namespace, link};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::underlay::{Port, Underlay};

pub use impairment::Impairment;
use impairment::{Dice, Fate};

/// The largest frame a TAP can hand over: the largest IP packet and its header with a VLAN tag.
const MAX_FRAME: usize = 65_535 + 18;
/// Frames on the way at once; more are dropped, as in any switch. 8192 full frames are 12 MB.
const MAX_IN_FLIGHT: usize = 8192;

/// What a wire has done so far, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounters {
    /// Came in from hosts.
    pub received: u64,
    /// Handed to hosts; a flooded frame counts once for each.
    pub delivered: u64,
    /// Lost by [`Impairment::loss`].
    pub lost: u64,
    /// Held back by [`Impairment::reorder`].
    pub reordered: u64,
    /// Doubled by [`Impairment::duplicate`].
    pub duplicated: u64,
    /// Stopped by a partition or a cut.
    pub blocked: u64,
    /// Dropped because too many were on the way.
    pub overflowed: u64,
    /// Refused by the receiving interface, for example because it is down.
    pub refused: u64,
}

/// A switch in userspace that does harm to what it carries.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Owner>);

/// Ends the threads when the last handle is gone.
#[derive(Debug)]
struct Owner {
    number: u32,
    shared: Arc<Shared>,
    deliverer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    impairment: Impairment,
    dice: Dice,
    ports: Vec<PortState>,
    learned: BTreeMap<MacAddr, Port>,
    cuts: BTreeSet<(Port, Port)>,
    sides: u32,
    queue: BinaryHeap<Reverse<InFlight>>,
    /// When the last frame that keeps its place is due, for each pair of ports.
    last_due: BTreeMap<(Port, Port), Instant>,
    sequence: u64,
    counters: WireCounters,
    closed: bool,
}

#[derive(Debug)]
struct PortState {
    tap: Arc<Iface>,
    namespace: Namespace,
    side: u32,
    reader: Option<JoinHandle<()>>,
}

/// A frame on the way, ordered by its time of arrival and then of sending.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct InFlight {
    due: Instant,
    sequence: u64,
    to: Port,
    frame: Arc<[u8]>,
}

impl Wire {
    pub(crate) fn new(number: u32, impairment: Impairment) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                impairment,
                dice: Dice::default(),
                ports: Vec::new(),
                learned: BTreeMap::new(),
                cuts: BTreeSet::new(),
                sides: 1,
                queue: BinaryHeap::new(),
                last_due: BTreeMap::new(),
                sequence: 0,
                counters: WireCounters::default(),
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let delivering = Arc::clone(&shared);
        let deliverer = std::thread::Builder::new()
            .name("weft-lab-wire".into())
            .spawn(move || deliver(&delivering))
            .map_err(|e| Error::io("start the wire's thread", e))?;
        Ok(Self(Arc::new(Owner {
            number,
            shared,
            deliverer: Mutex::new(Some(deliverer)),
        })))
    }

    /// Changes what the wire does to frames that come in from now on.
    pub fn impair(&self, impairment: Impairment) {
        self.0.shared.lock().impairment = impairment;
    }

    /// Stops frames from one host to another; the other direction stays open.
    ///
    /// # Errors
    /// When either is not plugged into this wire.
    pub fn cut(&self, from: &Host, to: &Host) -> Result<()> {
        let port = |host: &Host| {
            host.port_on(self.0.number).ok_or_else(|| {
                Error::invalid(
                    format!("a cut at {}", host.name()),
                    "it must be plugged into this wire",
                )
            })
        };
        let cut = (port(from)?, port(to)?);
        self.0.shared.lock().cuts.insert(cut);
        Ok(())
    }

    /// What the wire has done so far.
    #[must_use]
    pub fn counters(&self) -> WireCounters {
        self.0.shared.lock().counters
    }
}

impl Underlay for Wire {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn plug(&self, namespace: &Namespace, ifname: &str, mtu: u32) -> Result<Port> {
        weft_kernel::tap::check_tun_device()?;
        // The device belongs to the namespace of the thread that opens it.
        let tap = namespace.run(|| -> Result<Iface> {
            let tap = Iface::without_packet_info(ifname, Mode::Tap)
                .map_err(|e| Error::io(format!("make the TAP device {ifname}"), e))?;
            link::set_mtu(ifname, mtu)?;
            Ok(tap)
        })??;
        let tap = Arc::new(tap);
        let mut state = self.0.shared.lock();
        let port = u32::try_from(state.ports.len()).unwrap_or(Port::MAX);
        let (shared, reading) = (Arc::clone(&self.0.shared), Arc::clone(&tap));
        let reader = std::thread::Builder::new()
            .name(format!("weft-lab-port{port}"))
            .spawn(move || read(&shared, &reading, port))
            .map_err(|e| Error::io("start a port's thread", e))?;
        state.ports.push(PortState {
            tap,
            namespace: namespace.clone(),
            side: 0,
            reader: Some(reader),
        });
        Ok(port)
    }

    fn set_side(&self, ports: &[Port]) -> Result<()> {
        let mut state = self.0.shared.lock();
        let side = state.sides;
        state.sides += 1;
        for port in ports {
            if let Some(port) = state.ports.get_mut(*port as usize) {
                port.side = side;
            }
        }
        Ok(())
    }

    /// Undoes every partition and every cut.
    fn heal(&self) -> Result<()> {
        let mut state = self.0.shared.lock();
        state.cuts.clear();
        state.ports.iter_mut().for_each(|port| port.side = 0);
        Ok(())
    }

    fn handle(&self) -> Box<dyn Underlay> {
        Box::new(self.clone())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let ports = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.ports)
        };
        self.shared.changed.notify_all();
        for mut port in ports {
            // A read of a device that is gone ends with an error, and with it the thread.
            let name = port.tap.name().to_owned();
            let removed = port.namespace.run(|| link::delete(&name));
            if let (Ok(Ok(_)), Some(reader)) = (removed, port.reader.take()) {
                let _ = reader.join();
            }
        }
        let deliverer = self
            .deliverer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(deliverer) = deliverer {
            let _ = deliverer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Decides what becomes of a frame that came in on a port.
    fn accept(&mut self, from: Port, frame: &[u8], now: Instant) {
        self.counters.received += 1;
        let Some((destination, source)) = addresses(frame) else {
            return;
        };
        if !is_group(source) {
            self.learned.insert(source, from);
        }
        let known = self
            .learned
            .get(&destination)
            .copied()
            .filter(|_| !is_group(destination));
        let shared: Arc<[u8]> = frame.into();
        match known {
            Some(to) if to == from => {}
            Some(to) => self.send(from, to, &shared, now),
            None => {
                for to in 0..u32::try_from(self.ports.len()).unwrap_or(Port::MAX) {
                    if to != from {
                        self.send(from, to, &shared, now);
                    }
                }
            }
        }
    }

    fn send(&mut self, from: Port, to: Port, frame: &Arc<[u8]>, now: Instant) {
        if self.side(from) != self.side(to) || self.cuts.contains(&(from, to)) {
            self.counters.blocked += 1;
            return;
        }
        let impairment = self.impairment;
        let Fate::Arrives {
            after,
            held_back,
            twice,
        } = self.dice.roll(&impairment, from, to)
        else {
            self.counters.lost += 1;
            return;
        };
        let mut due = now + after;
        if held_back {
            self.counters.reordered += 1;
        } else {
            let last = self.last_due.entry((from, to)).or_insert(due);
            due = due.max(*last);
            *last = due;
        }
        self.counters.duplicated += u64::from(twice);
        for _ in 0..=u8::from(twice) {
            if self.queue.len() >= MAX_IN_FLIGHT {
                self.counters.overflowed += 1;
                continue;
            }
            self.sequence += 1;
            self.queue.push(Reverse(InFlight {
                due,
                sequence: self.sequence,
                to,
                frame: Arc::clone(frame),
            }));
        }
    }

    fn side(&self, port: Port) -> Option<u32> {
        self.ports.get(port as usize).map(|port| port.side)
    }
}

/// Reads one port until its device is gone.
fn read(shared: &Shared, tap: &Iface, port: Port) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        match tap.recv(&mut buffer) {
            Ok(length) => {
                let mut state = shared.lock();
                if state.closed {
                    return;
                }
                state.accept(port, &buffer[..length], Instant::now());
                drop(state);
                shared.changed.notify_one();
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Hands out frames when they are due, until the wire is closed.
fn deliver(shared: &Shared) {
    /// The queue is looked at again after this long even when nothing comes in.
    const IDLE: Duration = Duration::from_secs(3600);
    let mut state = shared.lock();
    while !state.closed {
        let now = Instant::now();
        let wait = state
            .queue
            .peek()
            .map_or(IDLE, |Reverse(first)| first.due.saturating_duration_since(now));
        if !wait.is_zero() {
            let waited = shared.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        let Some(Reverse(first)) = state.queue.pop() else {
            continue;
        };
        let Some(tap) = state
            .ports
            .get(first.to as usize)
            .map(|port| Arc::clone(&port.tap))
        else {
            continue;
        };
        drop(state);
        let sent = tap.send(&first.frame);
        state = shared.lock();
        match sent {
            Ok(_) => state.counters.delivered += 1,
            Err(_) => state.counters.refused += 1,
        }
    }
}

fn addresses(frame: &[u8]) -> Option<(MacAddr, MacAddr)> {
    let (destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, _) = rest.split_first_chunk::<6>()?;
    Some((*destination, *source))
}

fn is_group(address: MacAddr) -> bool {
    address[0] & 1 == 1
}
