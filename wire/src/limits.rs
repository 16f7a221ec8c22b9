//! Bounds that more than one package must know, each with its reason.

use core::time::Duration;

/// TCP and UDP port of a router unless `--port` says otherwise.
pub const DEFAULT_PORT: u16 = 6783;

/// Largest plaintext of one mesh frame: a Noise transport message is at most 65,535 octets including its
/// 16-octet tag (Noise §3).
pub const MESH_FRAME_MAX: usize = 65_535 - 16;
/// Records in one mesh message: keeps the frame below [`MESH_FRAME_MAX`] with records of
/// [`RECORD_BODY_MAX`] octets each.
pub const RECORDS_PER_MESSAGE: usize = 13;
/// Largest body of one record. A record is the whole set of one kind of one owner; the largest, 256 multicast
/// groups of 18 octets, needs 4,608 with room to spare.
pub const RECORD_BODY_MAX: usize = 4_096 + 512;
/// Octets of records of unknown kinds that are kept for one owner: newer hosts may add some kinds.
pub const UNKNOWN_KIND_QUOTA: usize = 4 * RECORD_BODY_MAX;
/// Owners in the register map: the design is meant for thousands of hosts; removed ones stay for ever.
pub const OWNERS_MAX: usize = 65_536;
/// Admissions between the founder and a node. Each host may admit others; sixteen generations of "admitted by
/// one who was admitted" is more than any real cluster grows.
pub const ADMISSION_CHAIN_MAX: usize = 16;

/// Hosts that lay down one genesis together: their ids stand in it, and each of them votes in epoch 0.
pub const FOUNDERS_MAX: usize = 64;

/// Addresses that a host advertises for itself.
pub const ENDPOINTS_MAX: usize = 8;
/// Octets of a host's nickname: a DNS label (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 63;
/// Neighbours that a host publishes in its links record.
pub const PUBLISHED_LINKS_MAX: usize = 32;

/// Up to this many members the mesh is full: every pair holds a link.
pub const FULL_MESH_MAX: usize = 32;
/// Sleeve sessions of one engine; the least recently used idle one goes first.
pub const SESSIONS_MAX: usize = 1_024;
/// Relays that a datagram may pass. A full mesh needs one; a sparse one of thousands of hosts with eight links each has a
/// diameter of about five.
pub const RELAY_HOPS_MAX: u8 = 8;
/// MAC addresses learned from traffic that are remembered at once.
pub const LEARNED_MACS_MAX: usize = 16_384;

/// A mesh link sends something at least this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// A mesh link on which nothing arrived for so long is dead: four heartbeats missed, noticed within 5 s.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(4);
/// A mesh handshake that takes longer is given up: slow-loris senders hold a connection no longer.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest Ethernet frame that the plain engine reads from its TAP: 64 KiB of IP plus headers.
pub const FRAME_MAX: usize = 65_535 + 18;
