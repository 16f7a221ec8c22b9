//! The architecture rules of the workspace, as code that checks them.
//!
//! - [`table`]: which packages there are, which are cores, and what each may import.
//! - [`dependencies`]: what cargo says the packages really import.
//! - [`sources`]: what the source files may and must say.
//! - [`tree`]: the workspace on disk, and a copy of it in which a test may break a rule.
//!
//! `tests/rules_hold.rs` checks the real tree; `tests/rules_bite.rs` breaks each rule in a copy and sees
//! it reported, so that a rule which has stopped working fails too.
#![forbid(unsafe_code)]

pub mod dependencies;
pub mod sources;
pub mod table;
pub mod tree;

use std::fmt;

/// The rules, one variant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Every workspace member is in [`table::PACKAGES`], and every entry there is a member.
    Listed,
    /// A core depends, directly or through others, on none of [`table::IMPURE`].
    PureDependencies,
    /// A package imports only the project's packages that the table gives it.
    Imports,
    /// `unsafe` appears only in [`table::UNSAFE_HOME`].
    Unsafe,
    /// A crate root carries the attributes that make the compiler keep the rules.
    Attributes,
    /// A core does not bring `std` back with `extern crate std`.
    NoStd,
    /// Nothing is left unfinished: no markers, no placeholder macros.
    Finished,
    /// A source file has at most [`sources::MAX_LINES`] lines.
    Length,
    /// No file names a folder of the machine it was written on.
    Places,
    /// Each package is linted with the configuration of its kind.
    ClippyConfig,
    /// A source file can be read as Rust.
    Readable,
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The package, or the file relative to the root of the workspace.
    pub place: String,
    /// What was found and what to do about it.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: Rule, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            rule,
            place: place.into(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.rule, self.place, self.detail)
    }
}

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// cargo could not be started, or failed where it had to succeed.
    #[error("`cargo {arguments}` failed: {output}")]
    Cargo {
        /// Its arguments.
        arguments: String,
        /// What it wrote to its error output.
        output: String,
    },
    /// cargo's answer was not what this crate knows how to read.
    #[error("`cargo metadata` gave no readable answer: {0}")]
    Metadata(String),
}

/// All rules on one tree, in a stable order.
///
/// # Errors
/// When a file cannot be read or cargo cannot answer.
pub fn check(tree: &tree::Tree) -> Result<Vec<Violation>, Error> {
    let mut found = dependencies::check(tree)?;
    found.extend(sources::check(tree)?);
    found.sort();
    Ok(found)
}
