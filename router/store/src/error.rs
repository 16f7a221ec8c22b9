//! Why a state cannot be used or written. Each sentence names the place and the cure.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Why octets are not a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The first octets are not the magic.
    #[error("this is not a weft state file")]
    NotAStateFile,
    /// A newer format.
    #[error("format {found} is newer than this program")]
    Newer {
        /// Format version of the file.
        found: u16,
    },
    /// The file ends within a record.
    #[error("it ends in the middle of a record, at octet {at}")]
    Truncated {
        /// Where the record begins.
        at: usize,
    },
    /// A checksum does not match.
    #[error("the record at octet {at} is damaged")]
    Checksum {
        /// Where the record begins.
        at: usize,
    },
    /// A record of a kind that this version does not know.
    #[error("the record at octet {at} is of an unknown kind")]
    UnknownKind {
        /// Where the record begins.
        at: usize,
    },
    /// A record that must be there is not.
    #[error("its {0} record is missing or malformed")]
    Missing(&'static str),
    /// The cluster record does not decode.
    #[error("its cluster record is malformed")]
    Cluster,
    /// The address state does not decode.
    #[error("its address state is malformed")]
    Ipam,
    /// Larger than any state.
    #[error("it is larger than any state can be")]
    TooLarge,
}

/// Why the state cannot be used or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory cannot be made or entered.
    #[error("state directory {path}: {source}; choose another with --state-dir")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another router holds the lock.
    #[error(
        "state directory {path} is in use by another weft router; stop that one, or choose another with --state-dir"
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else owns the directory, and could put another identity into it.
    #[error(
        "state directory {path} belongs to user {owner}, and this router runs as user {user}: it holds the host's \
         keys. `chown {user} {path}` hands it over, or choose another with --state-dir"
    )]
    OtherOwner {
        /// The directory.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// Others may write to the directory.
    #[error(
        "state directory {path} may be written by others (mode {mode:o}): it holds the host's keys. `chmod 700 \
         {path}` closes it, or choose another with --state-dir"
    )]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// No room.
    #[error("{path} cannot be written: its disk is full. Make room there; what was promised before is kept")]
    Full {
        /// What was written.
        path: PathBuf,
    },
    /// The file system takes no writes.
    #[error(
        "{path} cannot be written: its file system is read-only. Remount it writable, or choose another place with \
         --state-dir"
    )]
    ReadOnly {
        /// What was written.
        path: PathBuf,
    },
    /// The permissions forbid it.
    #[error("{path}: this router may not read or write it: run it as root, or give its user the directory")]
    Denied {
        /// The file or directory.
        path: PathBuf,
    },
    /// Reading or writing failed in another way.
    #[error(
        "{path}: {source}; see the kernel's log for the state of its disk, or choose another with --state-dir"
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what a router wrote.
    #[error(
        "{path}: {why}; nothing was changed. Restore the file, or move it away: this host then becomes a new node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: FormatError,
    },
    /// A newer program wrote the file.
    #[error(
        "{path} was written by a newer weft (format {found}, this program reads up to {known}): start that version"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u16,
        /// The latest that this program reads.
        known: u16,
    },
    /// The file came from another machine.
    #[error(
        "{path} belongs to another machine: a node's identity must never run twice. If this host is a copy, move \
         the file away: it then becomes a new node and joins again with the token"
    )]
    OtherMachine {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// What a failed call on `path` means.
    pub(crate) fn of_io(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path },
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path },
            ErrorKind::PermissionDenied => Self::Denied { path },
            _ => Self::Io { path, source },
        }
    }

    /// True when the disk refused: another try can succeed. Everything else is decided.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::ReadOnly { .. } | Self::Denied { .. } | Self::Io { .. }
        )
    }
}

/// What [`crate::Store::compare`] found.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    /// The router's memory is not what it handed over to be written.
    #[error(
        "the router's memory and what it wrote differ: change {handed} was written last, and it holds {memory}"
    )]
    Memory {
        /// Changes that were handed over.
        handed: u64,
        /// Changes in memory.
        memory: u64,
    },
    /// The file was not what was written; it is now.
    #[error("{why}: it was written anew from memory")]
    Mended {
        /// What was wrong.
        why: String,
    },
    /// The file is not what was written, and cannot be written anew.
    #[error("{why}, and it cannot be written anew: {error}")]
    Lost {
        /// What is wrong.
        why: String,
        /// Why it stays so.
        error: StoreError,
    },
}
