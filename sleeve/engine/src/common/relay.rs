//! Datagrams of others, passed on unread.
//!
//! What the kernel handed over at once leaves at once: a run of datagrams of one size for one host (UDP_GRO) goes on with
//! one call (UDP_SEGMENT), with no more work for each datagram than its hop limit.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sleeve::Passed;
use weft_wire::DropReason;
use weft_wire::api::Relayed;
use weft_wire::datagram::{FLAG_BY_RELAY, HEADER_LEN, Kind, RELAY_SHIM_LEN, RelayShim};

use super::shared::{Shared, send_reason};
use crate::switching::bucket::{Buckets, Rate};
use crate::view::View;

/// Datagrams that one neighbour may have relayed: some 5 Gbit/s of full ones, so that it takes about half of what a host
/// can pass on. The burst is what one tenth of a second allows.
const NEIGHBOUR: Rate = Rate {
    a_second: 400_000,
    burst: 40_000,
};
/// A neighbour for whom something was passed on counts as one in use for so long: two looks at the counters.
const IN_USE: Duration = Duration::from_secs(2);
/// Where the hop limit stands in a shim.
const HOP_LIMIT: usize = 1;

/// What was passed on since the engine started.
#[derive(Default)]
pub(crate) struct RelayTally {
    datagrams: AtomicU64,
    octets: AtomicU64,
    /// When something came from a neighbour, or went to one: those of [`Relaying::neighbours`](weft_sleeve::Relaying::neighbours).
    in_use: Mutex<HashMap<SocketAddr, Instant>>,
}

impl RelayTally {
    fn passed(&self, datagrams: usize, octets: usize) {
        self.datagrams.fetch_add(datagrams as u64, Relaxed);
        self.octets.fetch_add(octets as u64, Relaxed);
    }

    fn note(&self, between: [SocketAddr; 2], now: Instant) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.extend(between.map(|neighbour| (neighbour, now)));
    }

    /// The neighbours for whom something was passed on lately; the others are forgotten.
    pub(crate) fn neighbours(&self, now: Instant) -> Vec<SocketAddr> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, at| now.saturating_duration_since(*at) < IN_USE);
        in_use.keys().copied().collect()
    }

    pub(crate) fn read(&self) -> Relayed {
        Relayed {
            datagrams: self.datagrams.load(Relaxed),
            octets: self.octets.load(Relaxed),
        }
    }
}

/// True when the octets begin a RELAY datagram.
pub(crate) fn is_relay(datagram: &[u8]) -> bool {
    datagram.first() == Some(&(Kind::Relay as u8))
}

/// The datagram in a RELAY datagram, if it may stand there.
pub(crate) fn inner_of(datagram: &mut [u8]) -> Result<&mut [u8], DropReason> {
    let inner = datagram.get_mut(RELAY_SHIM_LEN..).unwrap_or_default();
    let is_marked = inner.get(1).is_some_and(|flags| flags & FLAG_BY_RELAY != 0);
    if inner.len() < HEADER_LEN || is_relay(inner) || !is_marked {
        return Err(DropReason::RelayBadInner);
    }
    Ok(inner)
}

/// Passes datagrams on, and keeps each neighbour to its share.
pub(crate) struct Relay {
    shares: Buckets<SocketAddr>,
    /// Between whom something was passed on last, in this batch of the socket.
    last: Option<([SocketAddr; 2], Instant)>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self {
            shares: Buckets::new(NEIGHBOUR),
            last: None,
        }
    }

    /// Takes from the front of what came from one address, in datagrams of `stride` octets, those that are for other
    /// hosts; says how many octets that were, 0 when the first one is not.
    pub(crate) fn take(
        &mut self,
        shared: &Shared,
        view: &View,
        from: SocketAddr,
        received: &mut [u8],
        stride: usize,
        now: Instant,
    ) -> usize {
        let Some((shim, _)) = RelayShim::split(received) else {
            return 0;
        };
        let relaying = &view.table.relaying;
        let (to, hop_limit) = match relaying.pass(view.origin, from, &shim) {
            Ok(Passed::Here) => return 0,
            Ok(Passed::On { to, hop_limit }) => (to, hop_limit),
            Err(reason) => {
                let run = run_of(received, stride);
                let count = received[..run].chunks(stride.max(1)).count();
                shared.tally.drop_many(reason, count as u64, Some(from));
                return run;
            }
        };
        let run = run_of(received, stride);
        let Some(datagrams) = received.get_mut(..run) else {
            return 0;
        };
        let count = datagrams.len().div_ceil(stride.max(1));
        if datagrams
            .chunks_mut(stride.max(1))
            .any(|one| inner_of(one).is_err())
        {
            // Whoever sends such a thing has no claim to the others of the run.
            shared
                .tally
                .drop_many(DropReason::RelayBadInner, count as u64, Some(from));
        } else if !self.shares.take_many(from, count as u32, now) {
            shared
                .tally
                .drop_many(DropReason::RelayRate, count as u64, Some(from));
        } else {
            for one in datagrams.chunks_mut(stride.max(1)) {
                if let Some(octet) = one.get_mut(HOP_LIMIT) {
                    *octet = hop_limit;
                }
            }
            send(shared, view, to, datagrams, stride.max(1));
            let between = [from, to];
            if self.last.replace((between, now)) != Some((between, now)) {
                shared.relayed.note(between, now);
            }
        }
        run
    }
}

/// Octets of the datagrams at the front that have the same shim.
fn run_of(received: &[u8], stride: usize) -> usize {
    let first = received.get(..RELAY_SHIM_LEN);
    let same = |one: &&[u8]| one.len() >= RELAY_SHIM_LEN && one.get(..RELAY_SHIM_LEN) == first;
    received
        .chunks(stride.max(1))
        .take_while(same)
        .map(<[u8]>::len)
        .sum()
}

/// Sends datagrams of one size, the last of which may be shorter. It never waits: what the socket does not take is lost,
/// as in any router.
fn send(shared: &Shared, view: &View, to: SocketAddr, datagrams: &[u8], size: usize) {
    // A run with datagrams larger than the interface takes would be refused as if segmentation did not work at all.
    let fits = view
        .datagram_to(to)
        .is_some_and(|limit| size <= usize::from(limit));
    let at_once = if fits {
        shared.udp.max_gso_segments().max(1)
    } else {
        1
    };
    for run in datagrams.chunks(size.saturating_mul(at_once)) {
        let count = run.len().div_ceil(size);
        let sent = if count == 1 {
            shared.transmit(to, run)
        } else {
            shared.transmit_run(to, run, Some(size))
        };
        match sent {
            Ok(()) => shared.relayed.passed(count, run.len()),
            Err(_) if count > 1 => {
                for one in run.chunks(size) {
                    match shared.transmit(to, one) {
                        Ok(()) => shared.relayed.passed(1, one.len()),
                        Err(error) => shared.tally.drop(send_reason(&error), Some(to)),
                    }
                }
            }
            Err(error) => shared.tally.drop(send_reason(&error), Some(to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::sync::Arc;
    use weft_sleeve::{ForwardingTable, NextHops, Relaying};
    use weft_wire::PeerHash;

    fn datagram(destination: u8, length: usize) -> Vec<u8> {
        let shim = RelayShim {
            hop_limit: 3,
            destination: PeerHash([destination; 8]),
            source: PeerHash([9; 8]),
        };
        let mut bytes = shim.to_bytes().to_vec();
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn a_run_ends_where_the_shim_changes_or_the_octets_do() {
        let one = datagram(1, 60);
        assert_eq!(run_of(&one, 60), 60);
        assert_eq!(run_of(&[&one[..], &one, &one[..50]].concat(), 60), 170);
        assert_eq!(run_of(&[&one[..], &datagram(2, 60)].concat(), 60), 60);
        assert_eq!(run_of(&[&one[..], &one[..19]].concat(), 60), 60);
        assert_eq!(run_of(&one, 0), 0);
    }

    #[test]
    fn a_neighbour_that_wants_more_than_its_share_is_held_to_it() {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (shared, _) = Shared::start(socket(), Box::new(|_| true)).unwrap();
        let to = socket();
        let neighbours: [SocketAddr; 2] = ["192.0.2.1:1", "192.0.2.2:1"].map(|text| text.parse().unwrap());
        let next = NextHops {
            first: to.local_addr().unwrap(),
            second: None,
        };
        let mut table = ForwardingTable::empty(PeerHash([7; 8]));
        table.relaying = Arc::new(Relaying {
            neighbours: neighbours.into(),
            next: [(PeerHash([1; 8]), next)].into(),
        });
        shared.publish(&table);
        let view = shared.view.load();
        let mut one = datagram(1, 60);
        one[RELAY_SHIM_LEN + 1] = FLAG_BY_RELAY;
        let mut relay = Relay::new();
        let now = Instant::now();
        let mut take = |from, at| {
            let mut run = one.repeat(100);
            assert_eq!(
                relay.take(&shared, &view, from, &mut run, one.len(), at),
                run.len()
            );
            let refused = shared.tally.drops()[DropReason::RelayRate as usize];
            (refused, shared.relayed.read().datagrams)
        };
        for _ in 0..NEIGHBOUR.burst / 100 {
            assert_eq!(take(neighbours[0], now).0, 0);
        }
        let burst = u64::from(NEIGHBOUR.burst);
        assert_eq!(take(neighbours[0], now), (100, burst));
        assert_eq!(
            take(neighbours[1], now),
            (100, burst + 100),
            "another one has its own"
        );
        let later = now + Duration::from_secs(1) * 100 / NEIGHBOUR.a_second;
        assert_eq!(take(neighbours[0], later), (100, burst + 200));
        assert_eq!(take(neighbours[0], later), (200, burst + 200));
    }
}
