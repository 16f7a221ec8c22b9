//! The one error type of the package.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// The result of every call in this package, except [`crate::userns`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the kernel refused, or what was found in the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A netlink request was refused.
    #[error("cannot {action}: {errno}{}{}", detail_suffix(.detail), cure(*.errno))]
    Refused {
        /// What was asked for, as a verb phrase.
        action: String,
        /// The kernel's answer.
        errno: Errno,
        /// The kernel's own sentence (extended acknowledgement), empty when it gave none.
        detail: String,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was asked for, as a verb phrase.
        action: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The kernel's answer could not be understood.
    #[error("cannot {action}: the kernel's answer is not understood: {reason}")]
    Malformed {
        /// What was asked for.
        action: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// There is no interface of that name in this namespace.
    #[error("there is no network interface {name} in this network namespace")]
    NoSuchLink {
        /// The name asked for.
        name: String,
    },
    /// Something is there already, and it is not what was asked for.
    #[error("{what} exists already as {found}, but {wanted} is asked for")]
    Conflict {
        /// The object.
        what: String,
        /// What is there.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The file exists and is something else than a network namespace.
    #[error("{} is not a network namespace; give a path like /proc/<pid>/ns/net or /run/netns/<name>", path.display())]
    NotANamespace {
        /// The path given.
        path: PathBuf,
    },
    /// A pod's namespace is the host's own.
    #[error("{} is the network namespace of this host itself: a pod needs one of its own", path.display())]
    OwnNamespace {
        /// The path given.
        path: PathBuf,
    },
    /// A value that the kernel or this package cannot take.
    #[error("{what} {value:?} is not usable: {rule}")]
    Invalid {
        /// What kind of value.
        what: &'static str,
        /// The value as given.
        value: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// Code run inside a namespace panicked.
    #[error("code run inside the network namespace panicked: {0}")]
    Panicked(String),
    /// TAP devices cannot be used here; the text says why and what to do.
    #[error("{0}")]
    NoTun(String),
    /// The id is attached already, with other values.
    #[error("{id} is attached already with {found}; asked for is {wanted}. Detach it first")]
    AttachConflict {
        /// The id of the attachment.
        id: String,
        /// MAC and address as attached.
        found: String,
        /// MAC and address as requested.
        wanted: String,
    },
    /// The id is attached already, to another network namespace or interface.
    #[error("{id} is attached already, to another network namespace or interface name. Detach it first")]
    AttachedElsewhere {
        /// The id of the attachment.
        id: String,
    },
    /// A bridge does not pass the frames of a port.
    #[error(
        "the bridge {bridge} does not open the port {port}; look at `bridge link show dev {port}`, for example for STP"
    )]
    NotForwarding {
        /// The port.
        port: String,
        /// The bridge.
        bridge: String,
    },
    /// A failed attempt could not be undone either.
    #[error("{cause}; and what was made could not be removed: {undo}")]
    NotUndone {
        /// Why the attempt failed.
        cause: Box<Error>,
        /// Why the clean-up failed.
        undo: Box<Error>,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action: action.into(),
            source: source.into(),
        }
    }

    /// The kernel's error number, where there is one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw_os_error),
            _ => None,
        }
    }

    /// Whether the kernel knows what is asked for and does not let this process do it.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        self.errno() == Some(Errno::PERM)
    }
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

/// The remedy, for the refusals that have an obvious one.
fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => "; CAP_NET_ADMIN in this network namespace is needed: run as root",
        Errno::OPNOTSUPP => "; the kernel was built without this, or its module is not loaded",
        _ => "",
    }
}
