//! A host: its disk, its process, the clock of that process.

use crate::disk::Disk;
use crate::engine::Engine;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::ConnId;
use weft_node::Node;
use weft_wire::{Mac, NodeId, Psk, Time};

const MILLION: u64 = 1_000_000;

/// The clock of one process: it begins anywhere, runs a little fast or slow, and only forward.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Time,
    offset: Duration,
    /// Ticks in a million true ones.
    rate: u64,
}

impl Clock {
    /// A clock that shows `offset` at `start` and is wrong by so many parts per million.
    pub(crate) fn new(start: Time, offset: Duration, wrong_by: i16) -> Self {
        let rate = MILLION.saturating_add_signed(i64::from(wrong_by));
        Self { start, offset, rate }
    }

    /// What it shows at a moment of the world.
    pub(crate) fn reading(&self, world: Time) -> Time {
        let passed = world.since(self.start).as_nanos() * u128::from(self.rate) / u128::from(MILLION);
        Time::from_start(self.offset) + Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The first moment of the world at which it shows at least this.
    pub(crate) fn world(&self, reading: Time) -> Time {
        let shown = reading.since(Time::from_start(self.offset)).as_nanos() * u128::from(MILLION);
        let passed = shown.div_ceil(u128::from(self.rate));
        self.start + Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// A router that runs.
pub struct Running {
    /// The shipped node.
    pub node: Node,
    /// Its engine.
    pub engine: Engine,
    pub(crate) clock: Clock,
    /// The earliest timer that lies in the queue.
    pub(crate) timer: Option<Time>,
    /// Timers that came one after the other at this moment.
    pub(crate) timers_at: (Time, u32),
    /// Connections with a frame that is not yet written.
    pub(crate) unwritten: BTreeSet<ConnId>,
}

/// What runs on a host.
pub enum Process {
    /// Nothing: no power.
    Off,
    /// The kernel alone.
    Ended,
    /// The router writes its new incarnation.
    Starting,
    /// The router.
    Running(Box<Running>),
}

/// One host.
pub struct Host {
    /// Where others reach it now.
    pub address: SocketAddr,
    pub(crate) disk: Disk,
    /// What runs on it.
    pub process: Process,
    /// Number of this start; what was meant for an earlier one is not delivered.
    pub(crate) start: u64,
    /// The process stands still until then.
    pub(crate) paused_until: Time,
    /// The disk takes no writes until then.
    pub(crate) full_until: Time,
    pub(crate) token: Psk,
    pub(crate) targets: Vec<String>,
    /// It comes with another token.
    pub is_stranger: bool,
    /// A fault that lasts has it.
    pub(crate) is_in_trouble: bool,
}

impl Host {
    /// The router, if it runs.
    pub fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Running(running) => Some(running),
            Process::Off | Process::Ended | Process::Starting => None,
        }
    }

    pub(crate) fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.process {
            Process::Running(running) => Some(running),
            Process::Off | Process::Ended | Process::Starting => None,
        }
    }

    /// True when the kernel answers.
    pub(crate) fn has_power(&self) -> bool {
        !matches!(self.process, Process::Off)
    }

    /// Its identity, as it stands on its disk.
    pub fn id(&self) -> NodeId {
        self.disk.key.id()
    }

    /// Its cluster, as it stands on its disk.
    pub fn cluster(&self) -> Option<weft_wire::GenesisId> {
        self.disk.durable().map(|durable| durable.genesis().id())
    }

    /// The octets that a start would find now, without identity and incarnation.
    pub fn durable(&self) -> Option<Vec<u8>> {
        self.disk.durable().map(weft_gossip::DurableState::encode)
    }
}

/// Address of a pod: the host's number and the pod's.
pub fn pod_mac(host: usize, pod: u8) -> Mac {
    // Scenario::check keeps the number of hosts below 2^16.
    let [_, _, _, _, _, _, high, low] = (host as u64).to_be_bytes();
    // Never a weft MAC: where those live is not for traffic to teach.
    Mac([0x06, 0x99, 0, high, low, pod])
}

/// The host that a pod lives on.
pub fn home_of(mac: Mac) -> usize {
    usize::from(mac.0[3]) << 8 | usize::from(mac.0[4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_a_moment_late() {
        let start = Time::from_start(Duration::from_secs(3));
        for wrong_by in [-300, 0, 1, 299] {
            let clock = Clock::new(start, Duration::from_secs(40_000), wrong_by);
            for nanos in [0, 1, 2, 999_999_937, 86_400_000_000_001] {
                let reading = clock.reading(start) + Duration::from_nanos(nanos);
                let shown = clock.reading(clock.world(reading));
                assert!(shown >= reading && shown.since(reading) <= Duration::from_nanos(2));
            }
        }
    }

    #[test]
    fn a_pods_address_names_its_home() {
        assert_eq!(home_of(pod_mac(700, 3)), 700);
        assert!(pod_mac(700, 3).is_valid_source());
    }
}
