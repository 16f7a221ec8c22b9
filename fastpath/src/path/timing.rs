//! How often, how long, how many.

use core::time::Duration;

/// A probe a path that carries frames: four a second find a dead one within a second.
pub const INTERVAL: Duration = Duration::from_millis(250);
/// The same while neither end has frames: two packets a second for each pair that is idle.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(2);
/// A path counts as carrying frames for so long after the kernel was last seen to do so; it is looked at every 5 s.
pub const USED_FOR: Duration = Duration::from_secs(15);
/// The same while proofs are missing.
pub const FAST: Duration = Duration::from_millis(50);
/// Proofs may be late by so much: a busy host answers late.
pub const SLACK: Duration = Duration::from_millis(100);
/// So long is waited for a proof, once proofs are missing, before the path is given up.
pub const WINDOW: Duration = Duration::from_millis(250);
/// So many probes in that time must be without an answer,
pub const MISSED: u32 = 3;
/// each for so long.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// Meanwhile the sleeve is asked so often until it is answered.
pub const SLEEVE_PAUSE: Duration = Duration::from_millis(100);
/// A peer that no path brings an answer from for so long has a router that is silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(1);
/// How often a silent one is asked, by either path.
pub const SILENT_PAUSE: Duration = Duration::from_millis(500);
/// So long the kernel goes on sending to a host whose router is silent (DESIGN: one hour).
pub const SILENT_MAX: Duration = Duration::from_secs(3_600);
/// A try takes at most so long.
pub const PROBING_FOR: Duration = Duration::from_secs(3);
/// A try has worked after so many proofs of each size.
pub const PROOFS: u32 = 3;
/// How often a path that carries frames is proved at full size.
pub const FULL_INTERVAL: Duration = Duration::from_secs(10);
/// So many full-size probes in a row without an answer, while small ones have theirs, end a path.
pub const FULL_TRIES: u32 = 4;
/// Pause after the first failure; it doubles,
pub const BACKOFF_MIN: Duration = Duration::from_secs(5);
/// up to this: a fault that has gone is noticed within a minute.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A path that has worked for so long has no failures behind it.
pub const STABLE: Duration = Duration::from_secs(60);
/// An address that was given up is let in for so long: the peer needs a moment to hear of it.
pub const LINGER: Duration = Duration::from_secs(3);
/// Answers to one peer: four times what two ends that are suspicious ask for.
pub const ANSWERS_A_SECOND: u32 = 100;
/// Probes that are remembered: more than are sent within a second in any state.
pub const LEDGER_MAX: usize = 64;
