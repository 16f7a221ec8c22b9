//! The one error type of the lab.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The result of every call in this package.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a story could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] weft_kernel::Error),
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was asked for, as a verb phrase.
        action: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The `weft` program is not where it should be.
    #[error("there is no weft program at {}: build it first with `cargo build --bin weft`, or name it in WEFT_BIN", .0.display())]
    NoProgram(PathBuf),
    /// A program that firewalls and NAT boxes need is not installed.
    #[error("the program {program} is missing: install the Debian package {package}")]
    MissingProgram {
        /// Its name.
        program: &'static str,
        /// The package that brings it.
        package: &'static str,
    },
    /// A program ended with a failure.
    #[error("`{command}` on {place} failed ({status}): {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// The host on which it ran.
        place: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A program printed something that is not what it should print.
    #[error("`{command}` on {place} printed something else than expected: {reason}; it printed {text:?}")]
    Unreadable {
        /// The command line.
        command: String,
        /// The host on which it ran.
        place: String,
        /// What is wrong.
        reason: String,
        /// The text.
        text: String,
    },
    /// What was waited for did not happen.
    #[error("{what}: not within {patience:?}\n{seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// What was seen instead.
        seen: String,
    },
    /// A router ended while something was expected of it.
    #[error("the router on {place} ended by itself ({status})\n{log}")]
    RouterEnded {
        /// The host.
        place: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A router refused a request on its socket.
    #[error("the router on {place} refused {request}: {sentence}")]
    Refused {
        /// The host.
        place: String,
        /// Method and path.
        request: String,
        /// Why, in its words.
        sentence: String,
    },
    /// A TCP transfer broke off.
    #[error("the transfer from {from} to {to} broke off after {done} of {total} bytes: {source}")]
    Transfer {
        /// The sender's name.
        from: String,
        /// The receiver's name.
        to: String,
        /// Bytes that arrived.
        done: u64,
        /// Bytes to be sent.
        total: u64,
        /// Why.
        source: io::Error,
    },
    /// A name, number or combination that the lab cannot take.
    #[error("{what} is not possible: {rule}")]
    Invalid {
        /// What was asked for.
        what: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The interrupt flag was raised.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }

    pub(crate) fn invalid(what: impl Into<String>, rule: &'static str) -> Self {
        Self::Invalid {
            what: what.into(),
            rule,
        }
    }
}
