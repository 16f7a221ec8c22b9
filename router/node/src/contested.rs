//! Addresses of this host that frames from another host carried as their source: whoever has them there has them twice.

use crate::macs::AGEING;
use alloc::collections::BTreeMap;
use weft_wire::{Mac, NodeId, Time};

/// Addresses that are remembered: more of them have one cause, and are found once it is cured.
const CONTESTED_MAX: usize = 64;

/// What was seen, and when last.
#[derive(Default)]
pub(crate) struct Contested(BTreeMap<Mac, (NodeId, Time)>);

impl Contested {
    /// A frame with this source, which by the rules lives here, came from `peer`.
    pub(crate) fn see(&mut self, now: Time, mac: Mac, peer: NodeId) {
        self.0.retain(|_, (_, seen)| now.since(*seen) < AGEING);
        if self.0.len() < CONTESTED_MAX || self.0.contains_key(&mac) {
            self.0.insert(mac, (peer, now));
        }
    }

    /// The address begins anew here: what was seen before was its last pod.
    pub(crate) fn forget(&mut self, mac: Mac) {
        self.0.remove(&mac);
    }

    /// Who was seen with the address within [`AGEING`].
    pub(crate) fn of(&self, now: Time, mac: Mac) -> Option<NodeId> {
        let (peer, seen) = self.0.get(&mac)?;
        (now.since(*seen) < AGEING).then_some(*peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_few_and_not_for_long() {
        let mut contested = Contested::default();
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let peer = NodeId([1; 32]);
        for last in 0..200 {
            contested.see(Time::ZERO, mac(last), peer);
        }
        assert_eq!(contested.0.len(), CONTESTED_MAX);
        assert_eq!(contested.of(Time::ZERO, mac(0)), Some(peer));
        assert_eq!(contested.of(Time::ZERO + AGEING, mac(0)), None);
        contested.see(Time::ZERO + AGEING, mac(200), peer);
        assert_eq!(contested.0.len(), 1);
        contested.forget(mac(200));
        assert_eq!(contested.of(Time::ZERO + AGEING, mac(200)), None);
    }
}
