//! Tables of one's own: made as a whole in one step, read back as a whole, and the elements of their sets with what they counted.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use rustix::io::Errno;

use super::expression::{self, Expression};
use super::message::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TABLE, DEL_TABLE, GET_CHAIN, GET_RULE, HOOK_NUMBER,
    NEW_CHAIN, NEW_RULE, NEW_TABLE, RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE,
};
use super::socket::{Change, Nfnetlink};
use super::{Policy, socket};
use crate::error::Result;
use crate::nla::{Attributes, attribute, attributes, number, text};

const GET_TABLE: u16 = libc::NFT_MSG_GETTABLE as u16;
const NEW_SET: u16 = libc::NFT_MSG_NEWSET as u16;
const GET_SET: u16 = libc::NFT_MSG_GETSET as u16;
const NEW_ELEMENT: u16 = libc::NFT_MSG_NEWSETELEM as u16;
const GET_ELEMENT: u16 = libc::NFT_MSG_GETSETELEM as u16;
const DEL_ELEMENT: u16 = libc::NFT_MSG_DELSETELEM as u16;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TYPE: u16 = 7;
const HOOK_PRIORITY: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const SET_EXPRESSION: u16 = 17;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const DATA_VALUE: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const COUNTER: &str = "counter";
const FILTER: &str = "filter";
/// How `nft` shows keys: its own numbers for `ipv4_addr` and `ipv6_addr`.
const SHOWN_IPV4: u32 = 7;
const SHOWN_IPV6: u32 = 8;
/// Elements in one message, whose length is told in 16 bits.
const ELEMENTS_IN_MESSAGE: usize = 500;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = libc::NFPROTO_INET as u8;

/// Where a chain sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As they arrive, whoever they are for.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that this host passes on.
    Forward,
    /// Those that it sends.
    Output,
}

/// A chain at a hook, which lets pass what no rule decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where it sees packets.
    pub hook: Hook,
    /// Its place among the chains there; lower ones come first.
    pub priority: i32,
    /// Its rules, in order.
    pub rules: Vec<Vec<Expression>>,
}

/// A set of IP addresses that counts what it is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Addresses of IPv6, not of IPv4.
    pub ipv6: bool,
}

/// A table for IPv4 and IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its sets, by name.
    pub sets: Vec<Set>,
    /// Its chains, by name.
    pub chains: Vec<Chain>,
}

/// What is there of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundTable {
    /// All of it is understood.
    Whole(Table),
    /// Something in it is no part of any [`Table`].
    Strange,
}

/// An address in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// The address.
    pub address: IpAddr,
    /// Octets of the packets that a rule found it for.
    pub bytes: u64,
    /// Those packets.
    pub packets: u64,
}

/// Makes a table anew with all that is in it, and with these elements in its sets by name, in one step: no packet meets half of it.
///
/// # Errors
/// When the kernel lacks something that is asked for; then what was there stays.
pub fn replace_table(table: &Table, elements: &[(&str, Vec<IpAddr>)]) -> Result<()> {
    let named = || Attributes::default().name(TABLE_NAME, &table.name);
    let change = |kind, flags, attributes| Change {
        kind,
        flags,
        family: INET,
        attributes,
    };
    // Adding comes first, because there must be something to delete.
    let mut changes = vec![
        change(NEW_TABLE, NLM_F_CREATE, named()),
        change(DEL_TABLE, 0, named()),
        change(NEW_TABLE, NLM_F_CREATE, named()),
    ];
    for (index, set) in (1..).zip(&table.sets) {
        let (shown, length) = if set.ipv6 {
            (SHOWN_IPV6, 16)
        } else {
            (SHOWN_IPV4, 4)
        };
        let attributes = Attributes::default()
            .name(SET_TABLE, &table.name)
            .name(SET_NAME, &set.name)
            .number(SET_FLAGS, 0)
            .number(SET_KEY_TYPE, shown)
            .number(SET_KEY_LENGTH, length)
            .number(SET_ID, index)
            .nest(
                SET_EXPRESSION,
                Attributes::default()
                    .name(EXPRESSION_NAME, COUNTER)
                    .nest(EXPRESSION_DATA, Attributes::default()),
            );
        changes.push(change(NEW_SET, NLM_F_CREATE, attributes));
    }
    for (set, addresses) in elements {
        changes.extend(element_changes(
            &table.name,
            set,
            addresses,
            NEW_ELEMENT,
            NLM_F_CREATE,
        ));
    }
    for chain in &table.chains {
        let hook = Attributes::default()
            .number(HOOK_NUMBER, chain.hook.number())
            .number(HOOK_PRIORITY, chain.priority.cast_unsigned());
        let attributes = Attributes::default()
            .name(CHAIN_TABLE, &table.name)
            .name(CHAIN_NAME, &chain.name)
            .nest(CHAIN_HOOK, hook)
            .number(CHAIN_POLICY, Policy::ACCEPT)
            .name(CHAIN_TYPE, FILTER);
        changes.push(change(NEW_CHAIN, NLM_F_CREATE, attributes));
        for rule in &chain.rules {
            let attributes = Attributes::default()
                .name(RULE_TABLE, &table.name)
                .name(RULE_CHAIN, &chain.name)
                .nest(RULE_EXPRESSIONS, expression::write(rule));
            changes.push(change(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, attributes));
        }
    }
    Nfnetlink::open()?.transact(&changes, &format!("make the table inet {}", table.name))
}

/// Removes a table; `false` when there was none.
///
/// # Errors
/// When the kernel refuses.
pub fn delete_table(name: &str) -> Result<bool> {
    let change = Change {
        kind: DEL_TABLE,
        flags: 0,
        family: INET,
        attributes: Attributes::default().name(TABLE_NAME, name),
    };
    match Nfnetlink::open()?.transact(&[change], &format!("remove the table inet {name}")) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads a table. `None` when there is none, or the kernel has no nf_tables.
///
/// # Errors
/// When it cannot be read.
pub fn read_table(name: &str) -> Result<Option<FoundTable>> {
    let mut netlink = match Nfnetlink::open() {
        Err(error) if error.errno() == Some(Errno::PROTONOSUPPORT) => return Ok(None),
        other => other?,
    };
    let action = format!("read the table inet {name}");
    let tables = match netlink.dump(GET_TABLE, INET, &Attributes::default(), &action) {
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::NOENT)
            ) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let is_ours = |bytes: &&Vec<u8>, kind| text(bytes, kind).as_deref() == Some(name);
    let Some(table) = tables.iter().find(|table| is_ours(table, TABLE_NAME)) else {
        return Ok(None);
    };
    // A dormant table sees no packets.
    if number(table, TABLE_FLAGS).unwrap_or(0) != 0 {
        return Ok(Some(FoundTable::Strange));
    }
    let filter = Attributes::default().name(SET_TABLE, name);
    let sets = netlink.dump(GET_SET, INET, &filter, &action)?;
    let chains = netlink.dump(GET_CHAIN, INET, &Attributes::default(), &action)?;
    let rules = netlink.dump(
        GET_RULE,
        INET,
        &Attributes::default().name(RULE_TABLE, name),
        &action,
    )?;
    let sets: Option<Vec<Set>> = sets
        .iter()
        .filter(|set| is_ours(set, SET_TABLE))
        .map(|set| read_set(set))
        .collect();
    let chains: Option<Vec<Chain>> = chains
        .iter()
        .filter(|chain| is_ours(chain, CHAIN_TABLE))
        .map(|chain| read_chain(chain))
        .collect();
    let (Some(mut sets), Some(mut chains)) = (sets, chains) else {
        return Ok(Some(FoundTable::Strange));
    };
    for rule in rules.iter().filter(|rule| is_ours(rule, RULE_TABLE)) {
        let chain = text(rule, RULE_CHAIN);
        let Some(chain) = chains
            .iter_mut()
            .find(|found| Some(&found.name) == chain.as_ref())
        else {
            return Ok(Some(FoundTable::Strange));
        };
        let expressions = attribute(rule, RULE_EXPRESSIONS).unwrap_or_default();
        chain.rules.push(expression::read(expressions));
    }
    sets.sort_by(|one, other| one.name.cmp(&other.name));
    chains.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Some(FoundTable::Whole(Table {
        name: name.into(),
        sets,
        chains,
    })))
}

/// The elements of a set, in no particular order. None when there is no such set.
///
/// # Errors
/// When they cannot be read.
pub fn elements(table: &str, set: &str) -> Result<Vec<Element>> {
    let filter = Attributes::default()
        .name(ELEMENTS_TABLE, table)
        .name(ELEMENTS_SET, set);
    let action = format!("read the set {set} of the table inet {table}");
    match Nfnetlink::open()?.dump(GET_ELEMENT, INET, &filter, &action) {
        Ok(found) => Ok(found.iter().flat_map(|bytes| read_elements(bytes)).collect()),
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Puts addresses into sets, in one step. Those that are in it stay.
///
/// # Errors
/// When there is no such set.
pub fn add_elements(table: &str, elements: &[(&str, Vec<IpAddr>)]) -> Result<()> {
    change_elements(table, elements, NEW_ELEMENT, NLM_F_CREATE)
}

/// Takes addresses out of sets, in one step.
///
/// # Errors
/// When there is no such set, or one of them is not in it; then nothing is done.
pub fn delete_elements(table: &str, elements: &[(&str, Vec<IpAddr>)]) -> Result<()> {
    change_elements(table, elements, DEL_ELEMENT, 0)
}

fn change_elements(table: &str, elements: &[(&str, Vec<IpAddr>)], kind: u16, flags: u16) -> Result<()> {
    let changes: Vec<Change> = elements
        .iter()
        .flat_map(|(set, addresses)| element_changes(table, set, addresses, kind, flags))
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    Nfnetlink::open()?.transact(&changes, &format!("change the sets of the table inet {table}"))
}

fn element_changes(table: &str, set: &str, addresses: &[IpAddr], kind: u16, flags: u16) -> Vec<Change> {
    let message = |addresses: &[IpAddr]| {
        let mut list = Attributes::default();
        for address in addresses {
            let value = crate::neighbour::octets(*address);
            let key = Attributes::default().nest(ELEMENT_KEY, Attributes::default().put(DATA_VALUE, &value));
            list = list.nest(LIST_ELEMENT, key);
        }
        Change {
            kind,
            flags,
            family: INET,
            attributes: Attributes::default()
                .name(ELEMENTS_TABLE, table)
                .name(ELEMENTS_SET, set)
                .nest(ELEMENTS, list),
        }
    };
    addresses.chunks(ELEMENTS_IN_MESSAGE).map(message).collect()
}

/// Whether a datagram of [`super::EVENTS_GROUP`] is about a table of this name, or all that is in it.
#[must_use]
pub fn concerns_table(datagram: &[u8], table: &str) -> bool {
    // The first attribute of tables, chains, rules, sets and elements is the table's name.
    socket::messages(datagram).any(|(header, body)| {
        let about = socket::in_subsystem(header.kind).is_some_and(|kind| kind <= DEL_ELEMENT);
        let attributes = body.get(socket::GENERIC..).unwrap_or_default();
        about && text(attributes, TABLE_NAME).as_deref() == Some(table)
    })
}

fn read_set(bytes: &[u8]) -> Option<Set> {
    let counts = attribute(bytes, SET_EXPRESSION)
        .and_then(|expression| text(expression, EXPRESSION_NAME))
        .is_some_and(|name| name == COUNTER);
    let ipv6 = match number(bytes, SET_KEY_LENGTH)? {
        4 => false,
        16 => true,
        _ => return None,
    };
    let plain = counts && number(bytes, SET_FLAGS).unwrap_or(0) == 0;
    plain.then_some(Set {
        name: text(bytes, SET_NAME)?,
        ipv6,
    })
}

fn read_chain(bytes: &[u8]) -> Option<Chain> {
    let hook = attribute(bytes, CHAIN_HOOK)?;
    let is_plain = number(bytes, CHAIN_POLICY) == Some(Policy::ACCEPT) && text(bytes, CHAIN_TYPE)? == FILTER;
    let number_of_hook = number(hook, HOOK_NUMBER)?;
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
    is_plain.then_some(Chain {
        name: text(bytes, CHAIN_NAME)?,
        hook: hooks.into_iter().find(|hook| hook.number() == number_of_hook)?,
        priority: number(hook, HOOK_PRIORITY)?.cast_signed(),
        rules: Vec::new(),
    })
}

fn read_elements(bytes: &[u8]) -> impl Iterator<Item = Element> + '_ {
    let list = attribute(bytes, ELEMENTS).unwrap_or_default();
    attributes(list).filter_map(|(_, element)| {
        let key = attribute(attribute(element, ELEMENT_KEY)?, DATA_VALUE)?;
        let counter = attribute(element, ELEMENT_EXPRESSION)
            .and_then(|expression| attribute(expression, EXPRESSION_DATA))
            .unwrap_or_default();
        let count = |kind| {
            let value = attribute(counter, kind).and_then(|value| value.first_chunk());
            value.map_or(0, |value| u64::from_be_bytes(*value))
        };
        Some(Element {
            address: crate::neighbour::address(key)?,
            bytes: count(COUNTER_BYTES),
            packets: count(COUNTER_PACKETS),
        })
    })
}

impl Hook {
    /// `NF_INET_PRE_ROUTING` and so on.
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
        }
    }
}
