//! The sleeve's pure core: who may talk to us under which keys, since when, and where it is.
//!
//! No socket, no clock, no random source, and no sealing of frames: the engine beside this crate does that, with
//! the keys it is handed in [`Output::Install`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`io`] | what goes into the core and what comes out: [`Input`], [`Output`], [`LocalNode`], [`PeerInfo`], [`PeerView`] |
//! | [`machine`] | [`Sleeve`]: the state machine that turns one into the other |
//! | `inbound` | what INIT, RESP and COOKIE do |
//! | `peer` | one peer's sessions, its attempt, and when something is due |
//! | `way` | straight or by relay: which way datagrams to a peer take, and when another one |
//! | `doubt` | whether the straight way still works, asked when what is sent there is not answered |
//! | `shared` | what all peers share: outputs, random source, secrets, indexes |
//! | [`keys`] | [`Cipher`], [`Role`], [`SessionKeys`] and how they follow from a handshake |
//! | [`message`] | octets of INIT, RESP and COOKIE |
//! | `handshake` | Noise IKpsk2 over these octets |
//! | [`gate`] | cookies and rate limits before anything costly is done |
//! | [`door`] | [`Door`](door::Door): the same before an engine disturbs the core |
//! | [`replay`] | [`ReplayWindow`]: which counters were seen |
//! | [`table`] | [`ForwardingTable`]: what the engine's workers read for each frame |
//! | [`relaying`] | for whom this host passes datagrams on, and where to |
//! | [`mod@decide`] | [`Decision`]: where a frame goes by that table |
//! | [`locate`] | [`Locator`]: where addresses live by what hosts agree on |
//! | [`solicit`] | whose answer an ARP request or a neighbour solicitation wants |
//! | [`mod@multicast`] | what a frame to a group is, and which hosts listen to it: [`multicast::Groups`] |
//! | [`content`] | layout of what stands sealed in DATA, FLOOD and KEEPALIVE |
//! | [`path_mtu`] | [`PathMtu`]: how large a datagram may be on a path |
//! | [`fragment`] | cuts frames that are larger than the path, and [`Reassembler`] puts them together |
//! | [`segment`] | super-frames: how they are cut into slices, and what a part of one looks like |
//! | [`timing`] | every interval and count of the session lifecycle, with its reason |
//!
//! # Life of a session
//!
//! The initiator sends INIT and gets RESP; it may send under the new session at once and says so with a keepalive.
//! The responder installs its end for receiving only, and sends under it from the first datagram that opens under
//! it ([`Input::Opened`]): a replayed INIT can therefore never displace a session that works. The session before
//! it stays open for receiving for ten seconds.
//!
//! A session has no greatest age. It is rekeyed after two minutes, but one whose peer does not answer goes on
//! carrying traffic until nothing has been heard for three minutes or its counters are used up: a handshake that
//! fails must not cut a path that works, and no nonce is ever used twice.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

extern crate alloc;

pub mod content;
pub mod decide;
pub mod door;
mod doubt;
pub mod fragment;
pub mod gate;
mod handshake;
mod inbound;
pub mod io;
pub mod keys;
pub mod locate;
pub mod machine;
pub mod message;
pub mod multicast;
pub mod path_mtu;
mod peer;
pub mod relaying;
pub mod replay;
pub mod segment;
mod shared;
pub mod solicit;
pub mod table;
pub mod timing;
mod way;

pub use content::Content;
pub use decide::Decision;
pub use fragment::Reassembler;
pub use io::{DownReason, Input, LocalNode, Output, PeerInfo, PeerState, PeerView, Way};
pub use keys::{Cipher, ProofKeys, Role, SessionKeys};
pub use locate::{Locator, Place};
pub use machine::Sleeve;
pub use path_mtu::{PathMtu, Probe};
pub use relaying::{NextHops, Passed, Relaying};
pub use replay::{ReplayError, ReplayWindow};
pub use table::{ForwardingTable, PeerPath};
pub use timing::{COUNTER_LIMIT, INSTALLED_MAX};
