//! Connections of the mesh, as TCP gives them: ordered, complete until broken, silent while a cut lasts.
//!
//! A frame is written once the send buffer has taken it, and the buffer is bounded. A cut is not told to anybody: segments
//! are repeated until it heals, and only the timeouts of the mesh see it. A process that ends has its connections
//! closed by its kernel; a host without power says nothing until it is back, and then resets what it no longer knows.

use crate::network::Network;
use crate::queue::{Event, Queue};
use crate::scenario::Carrier;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::{ConnId, Input};
use weft_wire::Time;

/// Octets that a send buffer holds; one frame always fits.
const SEND_BUFFER: usize = 64 << 10;
/// The shell gives a dial up after this time.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before a SYN is repeated; doubled each time (RFC 6298 §2.1).
const SYN_RETRY: Duration = Duration::from_secs(1);
/// First and longest pause before a segment is repeated.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Between the shell and the kernel.
const LOCAL: Duration = Duration::from_micros(50);

/// One end: a connection of one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) host: usize,
    pub(crate) start: u64,
    pub(crate) conn: ConnId,
}

/// What travels on a connection.
#[derive(Debug)]
pub(crate) enum Item {
    Frame(Vec<u8>),
    Fin,
}

/// Something that happens to a connection. A side is 0, who dialled, or 1.
#[derive(Debug)]
pub(crate) enum TcpEvent {
    Syn {
        from: Key,
        to: SocketAddr,
        pause: Duration,
    },
    SynArrived {
        from: Key,
        to: SocketAddr,
        pause: Duration,
    },
    GiveUp {
        from: Key,
    },
    Refused {
        from: Key,
    },
    Answered {
        id: u64,
    },
    Accept {
        id: u64,
    },
    Written {
        key: Key,
    },
    /// `item` arrives at this side.
    Arrived {
        id: u64,
        side: usize,
        item: Item,
    },
    /// This side sends again what was not acknowledged.
    Retry {
        id: u64,
        side: usize,
    },
    /// This side learns that the connection is no more.
    Broken {
        id: u64,
        side: usize,
    },
}

/// What stands at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Station {
    Off,
    NoProcess,
    Running(u64),
}

struct Side {
    key: Key,
    address: SocketAddr,
    open: bool,
    /// Not yet in the send buffer.
    outbox: VecDeque<Item>,
    /// In the send buffer and not on its way.
    unsent: VecDeque<Item>,
    buffered: usize,
    last_arrival: Time,
    pause: Duration,
    retrying: bool,
    /// What was sent last went nowhere.
    lost: bool,
}

impl Side {
    fn new(key: Key, address: SocketAddr) -> Self {
        Self {
            key,
            address,
            open: true,
            outbox: VecDeque::new(),
            unsent: VecDeque::new(),
            buffered: 0,
            last_arrival: Time::ZERO,
            pause: RETRY_MIN,
            retrying: false,
            lost: false,
        }
    }
}

/// Every connection there is.
#[derive(Default)]
pub(crate) struct Tcp {
    connections: BTreeMap<u64, [Side; 2]>,
    sides: BTreeMap<Key, (u64, usize)>,
    dialling: BTreeSet<Key>,
    ids: u64,
}

/// Sends a SYN again after a pause, and the next one after twice that.
fn repeat_syn(now: Time, queue: &mut Queue, from: Key, to: SocketAddr, pause: Duration) {
    let again = TcpEvent::Syn {
        from,
        to,
        pause: pause * 2,
    };
    queue.push(now + pause, Event::Tcp(again));
}

type Stations<'a> = &'a dyn Fn(usize) -> Station;

impl Tcp {
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn dial(&mut self, now: Time, queue: &mut Queue, from: Key, to: SocketAddr) {
        self.dialling.insert(from);
        queue.push(now + DIAL_TIMEOUT, Event::Tcp(TcpEvent::GiveUp { from }));
        let pause = SYN_RETRY;
        queue.push(now + LOCAL, Event::Tcp(TcpEvent::Syn { from, to, pause }));
    }

    /// Takes a frame from a process.
    pub(crate) fn send(
        &mut self,
        now: Time,
        queue: &mut Queue,
        network: &mut Network,
        key: Key,
        frame: Vec<u8>,
    ) {
        if let Some((id, side)) = self.sides.get(&key).copied() {
            self.put(id, side, Item::Frame(frame));
            self.fill(now, queue, network, id, side);
        }
    }

    /// The process wants to hear no more of it; what it sent before still goes out.
    pub(crate) fn close(&mut self, now: Time, queue: &mut Queue, network: &mut Network, key: Key) {
        self.dialling.remove(&key);
        if let Some((id, side)) = self.sides.remove(&key) {
            self.put(id, side, Item::Fin);
            self.fill(now, queue, network, id, side);
            self.shut(id, side);
        }
    }

    /// A process ended. With power its kernel closes what it had; without, nobody is told.
    pub(crate) fn end_process(
        &mut self,
        now: Time,
        queue: &mut Queue,
        network: &mut Network,
        host: usize,
        power: bool,
    ) {
        self.dialling.retain(|key| key.host != host);
        let ended: Vec<Key> = self
            .sides
            .keys()
            .filter(|key| key.host == host)
            .copied()
            .collect();
        for key in ended {
            if power {
                self.close(now, queue, network, key);
            } else if let Some((id, side)) = self.sides.remove(&key) {
                if let Some(sides) = self.connections.get_mut(&id) {
                    sides[side].outbox.clear();
                    sides[side].unsent.clear();
                }
                self.shut(id, side);
            }
        }
    }

    /// Resets the connection that stands at this place among all.
    pub(crate) fn reset(&mut self, now: Time, queue: &mut Queue, place: usize) {
        if let Some(id) = self.connections.keys().nth(place).copied() {
            for side in [0, 1] {
                queue.push(now, Event::Tcp(TcpEvent::Broken { id, side }));
            }
        }
    }

    fn put(&mut self, id: u64, side: usize, item: Item) {
        if let Some(sides) = self.connections.get_mut(&id) {
            sides[side].outbox.push_back(item);
        }
    }

    /// Marks a side as closed, and forgets a connection of which both are.
    fn shut(&mut self, id: u64, side: usize) {
        if let Some(sides) = self.connections.get_mut(&id) {
            sides[side].open = false;
            self.sides.remove(&sides[side].key);
            if sides.iter().all(|side| !side.open) {
                self.connections.remove(&id);
            }
        }
    }

    /// Moves frames into the send buffer as far as they fit, and on their way as far as the network lets them.
    fn fill(&mut self, now: Time, queue: &mut Queue, network: &mut Network, id: u64, side: usize) {
        let Some(sides) = self.connections.get_mut(&id) else {
            return;
        };
        let (from, to) = (sides[side].key.host, sides[1 - side].key.host);
        let reachable = sides
            .iter()
            .all(|s| network.owner(&s.address) == Some(s.key.host))
            && network.is_open(Carrier::Mesh, from, to)
            && network.is_open(Carrier::Mesh, to, from);
        let this = &mut sides[side];
        while let Some(item) = this.outbox.pop_front() {
            if let Item::Frame(frame) = &item {
                if this.buffered > 0 && this.buffered + frame.len() > SEND_BUFFER {
                    this.outbox.push_front(item);
                    break;
                }
                this.buffered += frame.len();
                queue.push(now + LOCAL, Event::Tcp(TcpEvent::Written { key: this.key }));
            }
            this.unsent.push_back(item);
        }
        if this.lost || (!reachable && !this.unsent.is_empty()) {
            if !this.retrying {
                this.retrying = true;
                queue.push(now + this.pause, Event::Tcp(TcpEvent::Retry { id, side }));
                this.pause = (this.pause * 2).min(RETRY_MAX);
            }
            return;
        }
        while let Some(item) = this.unsent.pop_front() {
            this.pause = RETRY_MIN;
            let arrival = (now + network.segment(from, to)).max(this.last_arrival);
            this.last_arrival = arrival;
            queue.push(
                arrival,
                Event::Tcp(TcpEvent::Arrived {
                    id,
                    side: 1 - side,
                    item,
                }),
            );
        }
    }

    /// What an event tells which process.
    pub(crate) fn handle(
        &mut self,
        now: Time,
        queue: &mut Queue,
        network: &mut Network,
        stations: Stations<'_>,
        event: TcpEvent,
    ) -> Option<(Key, Input)> {
        let conn = |key: Key| key.conn;
        match event {
            TcpEvent::Syn { from, to, pause } => {
                if !self.dialling.contains(&from) {
                    return None;
                }
                if let Some(other) = network.owner(&to)
                    && network.is_open(Carrier::Mesh, from.host, other)
                {
                    let after = network.segment(from.host, other);
                    queue.push(now + after, Event::Tcp(TcpEvent::SynArrived { from, to, pause }));
                } else {
                    repeat_syn(now, queue, from, to, pause);
                }
                None
            }
            TcpEvent::SynArrived { from, to, pause } => {
                if !self.answer(now, queue, network, stations, from, to) {
                    repeat_syn(now, queue, from, to, pause);
                }
                None
            }
            TcpEvent::GiveUp { from } => {
                let why = "no answer".into();
                self.dialling.remove(&from).then(|| {
                    (
                        from,
                        Input::DialFailed {
                            conn: conn(from),
                            why,
                        },
                    )
                })
            }
            TcpEvent::Refused { from } => {
                let why = "connection refused".into();
                self.dialling.remove(&from).then(|| {
                    (
                        from,
                        Input::DialFailed {
                            conn: conn(from),
                            why,
                        },
                    )
                })
            }
            TcpEvent::Answered { id } => {
                let sides = self.connections.get_mut(&id)?;
                let (key, remote) = (sides[0].key, sides[1].address);
                if !self.dialling.remove(&key) {
                    self.connections.remove(&id);
                    return None;
                }
                let after = network.segment(key.host, sides[1].key.host);
                sides[0].last_arrival = now + after;
                queue.push(now + after, Event::Tcp(TcpEvent::Accept { id }));
                self.sides.insert(key, (id, 0));
                Some((
                    key,
                    Input::Dialled {
                        conn: conn(key),
                        remote,
                    },
                ))
            }
            TcpEvent::Accept { id } => {
                let sides = self.connections.get(&id)?;
                let (key, from) = (sides[1].key, sides[0].address);
                if stations(key.host) != Station::Running(key.start) {
                    self.shut(id, 1);
                    return None;
                }
                self.sides.insert(key, (id, 1));
                Some((
                    key,
                    Input::Accepted {
                        conn: conn(key),
                        from,
                    },
                ))
            }
            TcpEvent::Written { key } => self
                .sides
                .contains_key(&key)
                .then(|| (key, Input::Written { conn: conn(key) })),
            TcpEvent::Arrived { id, side, item } => {
                self.arrive(now, queue, network, stations, id, side, item)
            }
            TcpEvent::Retry { id, side } => {
                let sides = self.connections.get_mut(&id)?;
                sides[side].retrying = false;
                let (from, to) = (sides[side].key.host, sides[1 - side].key.host);
                let open =
                    network.is_open(Carrier::Mesh, from, to) && network.is_open(Carrier::Mesh, to, from);
                if sides[side].lost && open && stations(to) != Station::Off {
                    // Whoever stands there now knows nothing of the connection.
                    let after = network.segment(to, from);
                    queue.push(now + after, Event::Tcp(TcpEvent::Broken { id, side }));
                    return None;
                }
                self.fill(now, queue, network, id, side);
                None
            }
            TcpEvent::Broken { id, side } => {
                let key = self.connections.get(&id)?[side].key;
                let known = self.sides.contains_key(&key);
                self.shut(id, side);
                known.then(|| (key, Input::Closed { conn: conn(key) }))
            }
        }
    }

    /// A SYN arrives: a listener answers it, a kernel without one refuses it, and nothing answers for nobody; then it is
    /// false.
    fn answer(
        &mut self,
        now: Time,
        queue: &mut Queue,
        network: &mut Network,
        stations: Stations<'_>,
        from: Key,
        to: SocketAddr,
    ) -> bool {
        let Some(other) = network.owner(&to) else {
            return false;
        };
        if stations(from.host) != Station::Running(from.start) || !self.dialling.contains(&from) {
            return true;
        }
        if !network.is_open(Carrier::Mesh, other, from.host) {
            return false;
        }
        let after = network.segment(other, from.host);
        match stations(other) {
            Station::Off => return false,
            Station::NoProcess => queue.push(now + after, Event::Tcp(TcpEvent::Refused { from })),
            Station::Running(start) => {
                self.ids += 1;
                let id = self.ids;
                let key = Key {
                    host: other,
                    start,
                    conn: ConnId::Accepted(id),
                };
                let Some(address) = network.address_of(from.host) else {
                    return false;
                };
                self.connections
                    .insert(id, [Side::new(from, address), Side::new(key, to)]);
                queue.push(now + after, Event::Tcp(TcpEvent::Answered { id }));
            }
        }
        true
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one event, and the world around it"
    )]
    fn arrive(
        &mut self,
        now: Time,
        queue: &mut Queue,
        network: &mut Network,
        stations: Stations<'_>,
        id: u64,
        side: usize,
        item: Item,
    ) -> Option<(Key, Input)> {
        let sides = self.connections.get_mut(&id)?;
        let key = sides[side].key;
        let station = stations(key.host);
        if station == Station::Off {
            sides[1 - side].lost = true;
            self.fill(now, queue, network, id, 1 - side);
            return None;
        }
        if let Item::Frame(frame) = &item {
            sides[1 - side].buffered -= frame.len();
        }
        if !sides[side].open || station != Station::Running(key.start) {
            let after = network.segment(key.host, sides[1 - side].key.host);
            queue.push(now + after, Event::Tcp(TcpEvent::Broken { id, side: 1 - side }));
            return None;
        }
        self.fill(now, queue, network, id, 1 - side);
        match item {
            Item::Frame(bytes) => Some((
                key,
                Input::Frame {
                    conn: key.conn,
                    bytes,
                },
            )),
            Item::Fin => {
                self.shut(id, side);
                Some((key, Input::Closed { conn: key.conn }))
            }
        }
    }
}
