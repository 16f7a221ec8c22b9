//! Every interval and count of the session lifecycle. Where WireGuard has the same constant (its paper, §6.1),
//! its value stands here too, unless a reason is given.

use core::time::Duration;
use weft_wire::limits::SESSIONS_MAX;

/// The end that initiated a session rekeys it at this age; bounds what one stolen key opens.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// How much longer the responder waits, so that normally one end alone rekeys.
pub const REKEY_RESPONDER_GRACE: Duration = Duration::from_secs(10);
/// Each end adds up to this much at random, so that a cluster started at once does not rekey at once.
pub const REKEY_JITTER: Duration = Duration::from_secs(5);
/// An end that has sent so many datagrams rekeys. At 8 Gbit/s that is after 95 s; far below the 2^28 datagrams of
/// 2 KB up to which AES-GCM keeps its margin (RFC 9001 §6.6).
pub const REKEY_AFTER_DATAGRAMS: u64 = 1 << 26;
/// No counter from this one on is ever sealed under: the engine refuses, and the core ends the session. With
/// datagrams of 1,400 octets an attacker's advantage against AES-GCM is then still below 2^-50.
pub const COUNTER_LIMIT: u64 = 1 << 32;
/// A replaced session is kept for receiving so long: longer than any datagram stays in flight.
pub const PREVIOUS_KEPT: Duration = Duration::from_secs(10);
/// A responder waits so long for the first datagram under a session that it has answered: three keepalives of the
/// initiator may get lost.
pub const OFFER_KEPT: Duration = Duration::from_secs(20);

/// First pause before an initiation is repeated: above the round trip of most paths.
pub const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest pause; doubled up to here. A healed path carries frames again within it.
pub const RETRY_MAX: Duration = Duration::from_secs(10);
/// While no frame waits, the end with the higher node id leaves the other so long to initiate: of two initiations that
/// cross its own would be in vain. It is time for a first try that gets lost and a second one.
pub const YIELD: Duration = Duration::from_millis(500);
/// A peer's hint (an unknown index, a crossing initiation) makes us initiate at most so often.
pub const HINT_INTERVAL: Duration = Duration::from_secs(1);

/// An end that has sent nothing for so long sends a keepalive: half of what NAT tables forget first.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
/// First pause of the keepalives with which an initiator shows its new session to the responder; doubled up to
/// [`KEEPALIVE_AFTER`] until something was received under it.
pub const CONFIRM_MIN: Duration = Duration::from_millis(500);
/// Nothing heard for so long, which is three keepalives: the handshake is repeated, the session stays in use.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);
/// Nothing heard for so long: the session ends. It carried nothing that we know of.
pub const DEAD_AFTER: Duration = Duration::from_secs(180);
/// A session on which nothing but keepalives travelled for so long may make room for another.
pub const IDLE_AFTER: Duration = Duration::from_secs(30);

/// Initiations that a peer may leave unanswered before the next one goes by relay: they take less than two seconds.
pub const DIRECT_TRIES: u32 = 3;
/// Frames are sent straight and nothing comes back for so long: the straight way is asked. Activity comes in once a second,
/// so this is one such interval in which nothing came, less what a busy host is late by.
pub const UNANSWERED_AFTER: Duration = Duration::from_millis(900);
/// Pause between two questions, which are small probes.
pub const QUESTION_PAUSE: Duration = Duration::from_millis(300);
/// Questions that may stay without an answer before another way is looked for. They take 1.8 s: a peer that is held up for
/// less answers in time, and with one datagram of ten lost in each direction one round in 20,000 fails. With the two seconds in
/// which traffic is noticed, a straight way that is dead is left within five.
pub const QUESTIONS: u32 = 6;
/// A straight way that breaks again before it has held for so long is tried later and later: after twice the pause before,
/// up to this.
pub const STEADY_AFTER: Duration = Duration::from_secs(60);
/// On the way by relay a keepalive is sent after so long without sending: who relays may vanish at any time.
pub const RELAY_KEEPALIVE_AFTER: Duration = Duration::from_secs(1);
/// Nothing heard on the way by relay for so long: another relay takes over. The peer's keepalives come at most two seconds
/// apart and are noticed a second later. So a dead relay is replaced within five seconds.
pub const RELAY_SILENT_AFTER: Duration = Duration::from_millis(3_500);
/// The peer sends by relay, and nothing came from it straight for so long: it cannot reach us, so neither do we try to
/// reach it. Longer than datagrams of both ways overtake one another.
pub const FOLLOW_AFTER: Duration = Duration::from_secs(2);
/// When no relay can be reached, it is looked so often whether one can.
pub const RELAY_PAUSE: Duration = Duration::from_secs(1);
/// On the way by relay the straight one is tried with an initiation that is awaited so long.
pub const CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// First pause between such tries; doubled up to [`CHECK_MAX`].
pub const CHECK_MIN: Duration = Duration::from_secs(1);
/// Longest pause between them: a straight path that works again is used within it. A try costs each end a millisecond.
pub const CHECK_MAX: Duration = Duration::from_secs(5);
/// Relays to one peer that are remembered.
pub const RELAYS_MAX: usize = 3;

/// Sessions installed at once: for each peer the one in use, the one before it, and one offered.
pub const INSTALLED_MAX: usize = 3 * SESSIONS_MAX;
/// Peers that one call serves when the timer fires; the next call serves the others.
pub(crate) const PEERS_PER_TIMEOUT: usize = 64;

/// A cookie secret is replaced at this age; the one before it is still accepted.
pub const COOKIE_SECRET_LIFE: Duration = Duration::from_secs(120);
/// Handshakes a second that are served without asking for a cookie: some 6 % of one processor.
pub const HANDSHAKES_PER_SECOND: u32 = 200;
/// Handshakes a second that one address with a cookie may make; WireGuard's value.
pub const HANDSHAKES_PER_SECOND_AND_SOURCE: u32 = 20;
/// Addresses whose share is counted at once.
pub const SOURCES_MAX: usize = 4_096;

/// COOKIE datagrams that an engine sends in a second to senders it does not know: some 1 % of one processor. Senders at
/// the addresses of peers have [`HANDSHAKES_PER_SECOND`] of their own.
pub const COOKIES_PER_SECOND: u32 = 2_000;
/// RESP and COOKIE datagrams a second that an engine passes on to the core: two for each place for sessions.
pub const ANSWERS_PER_SECOND: u32 = 2 * SESSIONS_MAX as u32;
