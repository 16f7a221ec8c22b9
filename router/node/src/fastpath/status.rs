//! Which frames go through the kernel, in words.

use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use weft_fastpath::path::State;
use weft_wire::api::{EncryptionSetting, EncryptionStatus, FastpathState, FastpathStatus, PeerStatus};
use weft_wire::fastpath::{Ability, Encryption};
use weft_wire::{NodeId, Time};

/// Names that a sentence holds; the rest is a number.
const NAMED_MAX: usize = 5;

impl Node {
    /// The path to a peer; none before anything is known of it.
    pub(crate) fn fastpath_status(&self, now: Time, peer: &NodeId) -> Option<FastpathStatus> {
        let path = self.fastpath.paths.get(peer)?;
        let (flipped, flips) = path.flips();
        let (probes, lost) = path.lost(now);
        Some(FastpathStatus {
            state: match path.state() {
                State::SleeveOnly { .. } => FastpathState::SleeveOnly,
                State::Probing { .. } => FastpathState::Probing,
                State::Fastpath { .. } => FastpathState::Fastpath,
                State::Degraded { .. } => FastpathState::Degraded,
                State::RouterSilent { .. } => FastpathState::RouterSilent,
            },
            why: path.why().map(|why| why.describe(self.fastpath.config.port)),
            address: path.carries(),
            since_s: now.since(flipped).as_secs(),
            flips,
            rtt_us: path
                .round_trip()
                .and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            probes,
            probes_lost: lost,
        })
    }

    /// What the cluster wants encrypted, and who is not yet so far.
    pub fn encryption_status(&self) -> EncryptionStatus {
        let setting = self.settings().encryption;
        EncryptionStatus {
            setting: match setting.value {
                Encryption::Auto => EncryptionSetting::Auto,
                Encryption::All => EncryptionSetting::All,
            },
            set_by: (setting.number > 0).then(|| self.host_name(&setting.origin).name),
            pending: match setting.number {
                0 => Vec::new(),
                _ => self.disobedient(),
            },
        }
    }

    /// In words: which traffic is encrypted, and how to change it.
    pub(crate) fn encryption_sentence(&self, peers: &[PeerStatus]) -> String {
        let plain: Vec<&str> = peers
            .iter()
            .filter(|peer| peer.mode == "fastpath")
            .map(|peer| peer.name.as_str())
            .collect();
        let up = peers.iter().filter(|peer| peer.mode != "none").count();
        if !plain.is_empty() {
            return format!(
                "NOT encrypted with {}, on networks taken for trusted{}; `weft encrypt all` encrypts everything",
                named(&plain),
                match up - plain.len() {
                    0 => String::new(),
                    others => format!(
                        "; encrypted with {others} other{}",
                        if others == 1 { "" } else { "s" }
                    ),
                }
            );
        }
        let may = self.settings().encryption.value == Encryption::Auto
            && self.fastpath.config.ability == Ability::Able;
        match (peers.len(), up, may) {
            (0, _, false) => "no other host yet; all traffic between hosts will be encrypted".to_string(),
            (0, _, true) => {
                "no other host yet; traffic to hosts on private networks will not be encrypted, and \
                             `weft encrypt all` changes that"
                    .to_string()
            }
            (_, 0, _) => "all traffic between hosts is encrypted; no other host is reachable now".to_string(),
            (_, up, _) => format!(
                "all traffic between hosts is encrypted ({up} of {} reachable)",
                peers.len()
            ),
        }
    }
}

fn named(names: &[&str]) -> String {
    match names.len().checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..NAMED_MAX].join(", ")),
        _ => names.join(", "),
    }
}
