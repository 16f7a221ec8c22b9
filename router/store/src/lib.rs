//! What a host keeps on its disk: identity, incarnation, what it knows of its cluster, and its addresses.
//!
//! | module | what it holds |
//! |---|---|
//! | [`store`] | [`Store`]: the state directory, its lock, the log and its snapshots |
//! | [`syncs`] | how long the disk takes, and whether that is too long to wait for |
//! | [`writer`] | the loop that makes writes durable, all that wait with one sync, and goes on when the disk is full |
//! | [`point`] | [`WritePoint`]: where a crash makes a difference, and dying there on purpose |
//! | [`machine`] | the machine id that the state is bound to |
//! | [`error`] | every reason for which the state cannot be used or written |
//! | `format` | the octets of the file |
//! | `load` | [`State`]: what a start finds in the file |
//! | `file` | replacing a file as a whole |
#![forbid(unsafe_code)]

pub mod error;
mod file;
mod format;
mod load;
pub mod machine;
pub mod point;
pub mod store;
pub mod syncs;
#[cfg(test)]
mod torn;
pub mod writer;

pub use error::{Difference, FormatError, StoreError};
pub use load::State;
pub use machine::{DEFAULT_MACHINE_ID_FILE, MachineId, MachineIdError};
pub use point::{CrashAt, WritePoint};
pub use store::{Again, Save, Store};
pub use syncs::{SyncReport, Syncs};
pub use writer::{Job, Told};
