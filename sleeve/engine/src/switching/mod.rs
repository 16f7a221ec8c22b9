//! What the workers decide about a frame beyond the table: rates, what was learned a moment ago, and loops.
//!
//! | module | what it holds |
//! |---|---|
//! | [`outgoing`] | [`Outgoing`]: from the TAP device to the peers |
//! | [`incoming`] | [`Incoming`]: from the peers to the TAP device |
//! | [`bucket`] | token buckets, and the rates with their reasons |
//! | [`fresh`] | what was learned since the table was published |
//! | [`guard`] | the loop guard: probes, and what they prove |
//! | [`probe`] | layout of a probe |

pub(crate) mod bucket;
pub(crate) mod fresh;
pub(crate) mod guard;
pub(crate) mod incoming;
pub(crate) mod outgoing;
pub(crate) mod probe;

pub use guard::LOOP_PROBE_INTERVAL;
pub(crate) use incoming::Incoming;
pub(crate) use outgoing::{Outgoing, Recipients, Seen, Verdict};

use fresh::Fresh;
use guard::Guard;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use weft_sleeve::ForwardingTable;
use weft_wire::PeerHash;

use crate::engine::Joined;

/// What both workers and the control thread share.
#[derive(Default)]
pub(crate) struct Switching {
    pub(crate) fresh: Fresh,
    pub(crate) guard: Guard,
    /// Number of the last probe.
    probed: AtomicU64,
}

impl Switching {
    /// The next probe of this host; `None` before it is a member.
    pub(crate) fn probe(&self, table: &ForwardingTable) -> Option<[u8; probe::LEN]> {
        let key = table.guard.as_ref()?;
        // Grows across restarts as long as no more than one probe a nanosecond is sent.
        let clock = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let clock = u64::try_from(clock.as_nanos()).unwrap_or_default();
        let last = self.probed.load(Relaxed);
        let number = clock.max(last.saturating_add(1));
        self.probed.store(number, Relaxed);
        Some(probe::build(table.origin, number, key))
    }

    /// With whom this host is joined now.
    pub(crate) fn joined(&self, this: PeerHash) -> Vec<Joined> {
        let Some(joins) = self.guard.joins(this, Instant::now()) else {
            return Vec::new();
        };
        let hosts = joins.hosts().iter().copied();
        hosts
            .chain(joins.itself().then_some(this))
            .map(|host| Joined {
                host,
                probe: probe::source(host),
            })
            .collect()
    }
}
