//! What the hosts that agree on a genesis were told, and how two of them differ.

use super::Waits;
use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::NodeId;
use weft_wire::limits::{FOUNDERS_MAX, NAME_MAX};
use weft_wire::record::Genesis;

/// Which hosts decide.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expected {
    /// So many, whichever come first; 1 to [`FOUNDERS_MAX`].
    Count(u32),
    /// Exactly those with these nicknames, sorted, none twice; 1 to [`FOUNDERS_MAX`].
    Named(Vec<String>),
}

impl Expected {
    /// A list of nicknames, in any order.
    pub fn named(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().collect();
        Self::Named(names.into_iter().collect())
    }

    /// How many hosts decide.
    pub fn count(&self) -> usize {
        match self {
            Self::Count(count) => *count as usize,
            Self::Named(names) => names.len(),
        }
    }

    /// True when a host of this nickname may be among them.
    pub fn may_count(&self, name: &str) -> bool {
        match self {
            Self::Count(_) => true,
            Self::Named(names) => names.iter().any(|other| other == name),
        }
    }

    /// The set that decides, of the hosts that are there in the order of their ids; or what is missing.
    pub(super) fn choose(&self, there: &[(NodeId, &str)]) -> Result<Vec<NodeId>, Waits> {
        let names = match self {
            Self::Count(count) => {
                // Of more hosts than expected, the lowest ids.
                let set: Vec<NodeId> = there
                    .iter()
                    .map(|(node, _)| *node)
                    .take(*count as usize)
                    .collect();
                return match set.len() == *count as usize {
                    true => Ok(set),
                    false => Err(Waits::Hosts(Vec::new())),
                };
            }
            Self::Named(names) => names,
        };
        let count = |name: &str| there.iter().filter(|(_, other)| *other == name).count();
        if let Some(twice) = names.iter().find(|name| count(name) > 1) {
            return Err(Waits::Names(twice.clone()));
        }
        let missing: Vec<String> = names.iter().filter(|name| count(name) == 0).cloned().collect();
        if !missing.is_empty() {
            return Err(Waits::Hosts(missing));
        }
        let listed = there.iter().filter(|(_, name)| self.may_count(name));
        Ok(listed.map(|(node, _)| *node).collect())
    }

    fn text(&self) -> String {
        match self {
            Self::Count(count) => alloc::format!("--expect {count}"),
            Self::Named(names) => alloc::format!("--seed {}", names.join(",")),
        }
    }
}

/// What must be the same on all hosts that decide.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// Which hosts decide.
    pub expected: Expected,
    /// Addresses that pods get.
    pub range: IpNet,
    /// Addresses in one slot.
    pub slot_size: u32,
}

/// What another host was told differently.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Difference {
    /// Which hosts decide.
    #[error("it was started with {theirs}, and this host with {ours}: start all of them with the same")]
    Expected {
        /// This host's.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// The range.
    #[error(
        "its range for pods is {theirs}, and this host's {ours}: start all of them with the same --range"
    )]
    Range {
        /// This host's.
        ours: IpNet,
        /// The other's.
        theirs: IpNet,
    },
    /// It takes part, and is not listed.
    #[error("its nickname {name:?} is not in {ours}: give it a --name of the list")]
    NotListed {
        /// Its nickname.
        name: String,
        /// The list.
        ours: String,
    },
}

impl Terms {
    /// False when something is outside its documented bounds.
    pub fn is_within_bounds(&self) -> bool {
        let listed_ok = match &self.expected {
            Expected::Count(_) => true,
            Expected::Named(names) => {
                names.windows(2).all(|pair| pair[0] < pair[1])
                    && names.iter().all(|name| {
                        !name.is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control)
                    })
            }
        };
        listed_ok && (1..=FOUNDERS_MAX).contains(&self.expected.count())
    }

    /// True for a genesis of this range.
    pub(super) fn allow(&self, genesis: &Genesis) -> bool {
        genesis.range == self.range && genesis.slot_size == self.slot_size
    }

    /// How the terms of a host of this nickname differ from these.
    pub(super) fn compare(&self, theirs: &Terms, name: &str) -> Result<(), Difference> {
        if self.expected != theirs.expected {
            return Err(Difference::Expected {
                ours: self.expected.text(),
                theirs: theirs.expected.text(),
            });
        }
        if (self.range, self.slot_size) != (theirs.range, theirs.slot_size) {
            return Err(Difference::Range {
                ours: self.range,
                theirs: theirs.range,
            });
        }
        if !self.expected.may_count(name) {
            return Err(Difference::NotListed {
                name: name.to_string(),
                ours: self.expected.text(),
            });
        }
        Ok(())
    }
}
