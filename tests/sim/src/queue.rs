//! Events in the order of their times; at one time, in the order in which they were put in.

use crate::engine::{Report, Sealed};
use crate::operators::Operation;
use crate::tcp::TcpEvent;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use weft_gossip::Input;
use weft_wire::Time;

/// What travels in a datagram.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// INIT, RESP or COOKIE, as the sleeve wrote it.
    Handshake(Vec<u8>),
    /// What an engine sealed.
    Sealed(Sealed),
}

/// Something that happens. `start` names the start of the process it is for: one that has ended gets nothing.
#[derive(Debug)]
pub(crate) enum Event {
    /// A host is switched on, or its process started.
    Start { host: usize },
    /// The incarnation is durable: the process begins to run.
    Run { host: usize, start: u64 },
    /// A node's deadline.
    Timer { host: usize, start: u64 },
    /// A datagram arrives.
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        packet: Packet,
    },
    /// Something happens to a connection of the mesh.
    Tcp(TcpEvent),
    /// The write under way is durable.
    Synced { host: usize, start: u64 },
    /// The shell tells its node something that came while the process stood still, or that a write is done.
    Tell { host: usize, start: u64, input: Input },
    /// The shell tells its node that it is another member now.
    Began { host: usize, start: u64 },
    /// The shell tells its node that a write of its part in making a cluster is done.
    AgreementSynced { host: usize, start: u64, token: u64 },
    /// The shell tells its node that a write of the address state is done.
    IpamSynced {
        host: usize,
        start: u64,
        token: weft_ipam_crdt::PersistToken,
    },
    /// A pod of a host comes or goes.
    Want { host: usize },
    /// What the engine saw reaches its node.
    Reports {
        host: usize,
        start: u64,
        reports: Vec<Report>,
    },
    /// The shell reads the engine's counters.
    Activity { host: usize, start: u64 },
    /// A pod sends a frame.
    Pod { host: usize, pod: u8 },
    /// A fault of the scenario, by its position there, is due.
    Fault(usize),
    /// A fault that lasted ends.
    Heal(u64),
    /// Somebody types a command.
    Operate(Operation),
    /// The host that takes slots back dies, by a fault of the scenario.
    KillReclaimer { host: usize, start: u64, fault: usize },
    /// A founder is a member, as the first: the fault that waits for it.
    FirstMember { host: usize, fault: usize },
    /// Whoever wants a host to leave looks how far it is.
    LookAfterLeave { host: usize },
    /// Nothing goes wrong from now on.
    Settle,
    /// Looks whether all is well.
    Look,
}

/// The events to come.
#[derive(Default)]
pub(crate) struct Queue {
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
