//! The network between the hosts: delay, loss, duplication, reordering, and cuts.

use crate::dice::Dice;
use crate::scenario::{Carrier, Network as Conditions};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// A datagram that is overtaken takes up to this much longer.
const OVERTAKEN_BY_MS: f64 = 100.0;
/// First retransmission of a segment (RFC 6298 §2.4 allows less than the second it asks for; Linux waits 200 ms).
const RETRANSMIT_MS: f64 = 200.0;
/// Retransmissions of one segment that are lost in a row, at most: later ones are as good as a cut.
const RETRANSMISSIONS_MAX: u32 = 5;

/// Pairs of hosts, in one direction, between which something does not pass.
pub(crate) struct Cut {
    pub(crate) carrier: Carrier,
    pub(crate) pairs: BTreeSet<(usize, usize)>,
}

/// The network.
pub(crate) struct Network {
    conditions: Conditions,
    /// Loss of bad weather, above that of the conditions.
    pub(crate) weather: BTreeMap<u64, f64>,
    pub(crate) cuts: BTreeMap<u64, Cut>,
    delays: BTreeMap<(usize, usize), Duration>,
    addresses: BTreeMap<SocketAddr, usize>,
    dice: Dice,
}

impl Network {
    pub(crate) fn new(conditions: Conditions, dice: Dice) -> Self {
        Self {
            conditions,
            weather: BTreeMap::new(),
            cuts: BTreeMap::new(),
            delays: BTreeMap::new(),
            addresses: BTreeMap::new(),
            dice,
        }
    }

    /// The host that has an address now.
    pub(crate) fn owner(&self, address: &SocketAddr) -> Option<usize> {
        self.addresses.get(address).copied()
    }

    /// The address that a host has now.
    pub(crate) fn address_of(&self, host: usize) -> Option<SocketAddr> {
        let mut all = self.addresses.iter();
        all.find(|(_, owner)| **owner == host)
            .map(|(address, _)| *address)
    }

    /// Gives a host an address in place of the one it had.
    pub(crate) fn assign(&mut self, host: usize, old: Option<&SocketAddr>, new: SocketAddr) {
        if let Some(old) = old {
            self.addresses.remove(old);
        }
        self.addresses.insert(new, host);
    }

    /// True when nothing keeps this carrier from passing in this direction.
    pub(crate) fn is_open(&self, carrier: Carrier, from: usize, to: usize) -> bool {
        !self.cuts.values().any(|cut| {
            (cut.carrier == Carrier::All || cut.carrier == carrier) && cut.pairs.contains(&(from, to))
        })
    }

    fn loss(&self) -> f64 {
        self.weather
            .values()
            .copied()
            .fold(self.conditions.loss, f64::max)
    }

    /// The one-way delay of a pair, without jitter.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> Duration {
        let pair = (from.min(to), from.max(to));
        if let Some(delay) = self.delays.get(&pair) {
            return *delay;
        }
        let delay = self.dice.millis(self.conditions.delay_ms);
        self.delays.insert(pair, delay);
        delay
    }

    /// After which times the copies of a datagram arrive: none, one or two.
    pub(crate) fn datagram(&mut self, from: usize, to: usize) -> Vec<Duration> {
        let copies = 1 + usize::from(self.dice.chance(self.conditions.duplicate));
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            if self.dice.chance(self.loss()) || !self.is_open(Carrier::Sleeve, from, to) {
                continue;
            }
            let mut after = self.delay(from, to) + self.dice.millis([0.0, self.conditions.jitter_ms]);
            if self.dice.chance(self.conditions.reorder) {
                after += self.dice.millis([0.0, OVERTAKEN_BY_MS]);
            }
            arrivals.push(after);
        }
        arrivals
    }

    /// After which time a segment arrives, with the retransmissions that it needed.
    pub(crate) fn segment(&mut self, from: usize, to: usize) -> Duration {
        let mut after = self.delay(from, to) + self.dice.millis([0.0, self.conditions.jitter_ms]);
        let mut wait = RETRANSMIT_MS;
        for _ in 0..RETRANSMISSIONS_MAX {
            if !self.dice.chance(self.loss()) {
                break;
            }
            after += Duration::from_secs_f64(wait / 1e3);
            wait *= 2.0;
        }
        after
    }
}
