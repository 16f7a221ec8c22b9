//! Brings the kernel to the state that `weft-fastpath` computes, and keeps it there.
//!
//! | module | what it does |
//! |---|---|
//! | `driver` | [`Driver`]: apply, read back, remove |
//! | `read` | what the kernel holds |
//! | `fence` | the table of our own in the packet filter |
//! | `watch` | [`Watch`]: wakes up when somebody changes what the driver has set |
//! | `members` | [`Driver::members_blocking`]: to which groups pods listen, and [`MemberWatch`] |
//! | `firewall` | the same for rules of ours in the host's packet filters, and [`FirewallWatch`] |
//!
//! The driver keeps no state of its own: the kernel is read at each [`Driver::reconcile`]. So it does
//! not matter who changed what in between, or whether the router was running.
//!
//! Requests go through the synchronous `weft-kernel`, on tokio's blocking threads; each is answered
//! inside one system call. Events are awaited, so there rtnetlink does the work.

#![forbid(unsafe_code)]

mod driver;
mod fence;
mod firewall;
mod members;
mod read;
mod watch;

pub use driver::{Driver, Error, Removed, Report, Result, Traffic};
pub use firewall::{FirewallWatch, Guarded};
pub use members::{MemberWatch, Members};
pub use read::Found;
pub use watch::Watch;
