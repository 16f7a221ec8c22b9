//! The packet filter nf_tables, spoken to over netlink: which chains see what is forwarded, what their
//! rules are, and rules of one's own in them; and tables of one's own. No program is called; none needs to be installed.
//!
//! What iptables-nft makes is nf_tables too, and is seen here like anything else. The older tables of
//! iptables-legacy are another part of the kernel: [`crate::xtables`].

mod expression;
mod message;
mod socket;
mod table;

pub use expression::{Expression, Meta, Payload, interface};
pub use table::{
    Chain, Element, FoundTable, Hook, Set, Table, add_elements, concerns_table, delete_elements,
    delete_table, elements, read_table, replace_table,
};

use netlink_packet_core::NLM_F_CREATE;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::link;
use crate::nla::Attributes;
use message::{DEL_RULE, GET_CHAIN, GET_RULE, NEW_RULE, RULE_HANDLE};
use socket::{Change, Nfnetlink};

/// What kind of packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// Frames that a bridge passes on.
    Bridge,
}

/// What happens to a packet that no rule decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is dropped.
    Drop,
}

/// A base chain of the hook forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardChain {
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its policy.
    pub policy: Policy,
}

/// A rule, as far as it is understood here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The kernel's number for it, never used twice in a table.
    pub handle: u64,
    /// The comment that its maker gave it.
    pub comment: Option<String>,
    /// What a packet must fulfil; all of it.
    pub conditions: Vec<Condition>,
    /// What happens to a packet that does.
    pub verdict: Verdict,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It came in by an interface of such a name.
    In(Pattern),
    /// It goes out by an interface of such a name.
    Out(Pattern),
    /// Something else.
    Other,
}

/// Names of interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exactly(String),
    /// All that begin so.
    Prefix(String),
}

/// Where a rule leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The chain lets the packet pass.
    Accept,
    /// The packet is dropped, with an answer to its sender or without.
    Drop,
    /// To the next rule.
    Continue,
    /// Another chain decides, or something not understood here.
    Elsewhere,
}

/// Whether the kernel has packet filters that are spoken to over netlink.
#[must_use]
pub fn is_available() -> bool {
    Nfnetlink::open().is_ok()
}

/// The base chains of the hook forward. None where the kernel has no nf_tables.
///
/// # Errors
/// When they cannot be read.
pub fn forward_chains() -> Result<Vec<ForwardChain>> {
    let mut netlink = match Nfnetlink::open() {
        Err(error) if error.errno() == Some(Errno::PROTONOSUPPORT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut chains = Vec::new();
    for family in [Family::Ip, Family::Ip6, Family::Inet, Family::Bridge] {
        let action = "read the chains of the packet filter";
        let found = match netlink.dump(GET_CHAIN, family.number(), &Attributes::default(), action) {
            Ok(found) => found,
            // The kernel lacks nf_tables, or this family.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::NOENT)
                ) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        chains.extend(
            found
                .iter()
                .filter_map(|bytes| message::forward_chain(family, bytes)),
        );
    }
    Ok(chains)
}

/// The rules of a chain, in their order. None when the chain is gone.
///
/// # Errors
/// When they cannot be read.
pub fn rules(chain: &ForwardChain) -> Result<Vec<Rule>> {
    let action = format!("read the rules of {}", chain.describe());
    let family = chain.family.number();
    match Nfnetlink::open()?.dump(GET_RULE, family, &message::rule_of(chain), &action) {
        Ok(found) => Ok(found.iter().filter_map(|bytes| message::rule(bytes)).collect()),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Puts a rule at the head of a chain that accepts what fulfils all `conditions`, which are about names.
/// It carries a comment, by which it is found again.
///
/// # Errors
/// When the chain is gone, the table belongs to a running program that lets nobody else change it, or a
/// name or the comment is too long.
pub fn insert_accept(chain: &ForwardChain, conditions: &[Condition], comment: &str) -> Result<()> {
    for condition in conditions {
        match condition {
            Condition::In(Pattern::Exactly(name) | Pattern::Prefix(name))
            | Condition::Out(Pattern::Exactly(name) | Pattern::Prefix(name)) => link::check_name(name)?,
            Condition::Other => return Err(unusable("rule's condition", "a name of an interface is needed")),
        }
    }
    if comment.len() > message::COMMENT_MAX || comment.contains('\0') {
        return Err(unusable(
            "rule's comment",
            "at most 254 octets without a zero one",
        ));
    }
    let action = format!("put a rule into {}", chain.describe());
    let rule = message::accept_rule(chain, conditions, comment);
    // Without APPEND it goes to the head.
    let change = Change {
        kind: NEW_RULE,
        flags: NLM_F_CREATE,
        family: chain.family.number(),
        attributes: rule,
    };
    Nfnetlink::open()?.transact(&[change], &action)
}

/// Removes a rule; `false` when it, its chain or its table is gone already.
///
/// # Errors
/// When the kernel refuses.
pub fn delete_rule(chain: &ForwardChain, handle: u64) -> Result<bool> {
    let action = format!("remove a rule from {}", chain.describe());
    let rule = message::rule_of(chain).put(RULE_HANDLE, &handle.to_be_bytes());
    let change = Change {
        kind: DEL_RULE,
        flags: 0,
        family: chain.family.number(),
        attributes: rule,
    };
    match Nfnetlink::open()?.transact(&[change], &action) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The multicast group of the protocol `NETLINK_NETFILTER` in which the kernel tells what changes.
pub const EVENTS_GROUP: u32 = libc::NFNLGRP_NFTABLES as u32;

/// Whether a datagram of [`EVENTS_GROUP`] is about tables, chains or rules. Elements of sets, which some programs
/// change all the time, are not among them.
#[must_use]
pub fn changes_rules(datagram: &[u8]) -> bool {
    // From NFT_MSG_NEWTABLE to NFT_MSG_DELRULE.
    socket::messages(datagram)
        .any(|(header, _)| socket::in_subsystem(header.kind).is_some_and(|kind| kind <= DEL_RULE))
}

fn unusable(what: &'static str, rule: &'static str) -> Error {
    Error::Invalid {
        what,
        value: String::new(),
        rule,
    }
}

impl Policy {
    /// `NF_ACCEPT`.
    const ACCEPT: u32 = message::ACCEPT;
}

impl Family {
    /// `NFPROTO_INET` and so on.
    fn number(self) -> u8 {
        let number = match self {
            Self::Inet => libc::NFPROTO_INET,
            Self::Ip => libc::NFPROTO_IPV4,
            Self::Bridge => libc::NFPROTO_BRIDGE,
            Self::Ip6 => libc::NFPROTO_IPV6,
        };
        number as u8
    }

    /// As `nft` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

impl ForwardChain {
    fn describe(&self) -> String {
        format!(
            "chain {} of table {} {}",
            self.name,
            self.family.name(),
            self.table
        )
    }
}
