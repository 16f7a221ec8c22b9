//! The attributes of nf_tables messages (`linux/netfilter/nf_tables.h`), as far as weft needs them.
//!
//! Numbers are in network order, names end with a zero octet, a rule is a list of expressions that work on registers.

use crate::nla::{Attributes, attribute, attributes, number, terminated, text};

use super::{Condition, Family, ForwardChain, Pattern, Policy, Rule, Verdict};

pub(super) const NEW_TABLE: u16 = libc::NFT_MSG_NEWTABLE as u16;
pub(super) const DEL_TABLE: u16 = libc::NFT_MSG_DELTABLE as u16;
pub(super) const NEW_CHAIN: u16 = libc::NFT_MSG_NEWCHAIN as u16;
pub(super) const GET_CHAIN: u16 = libc::NFT_MSG_GETCHAIN as u16;
pub(super) const NEW_RULE: u16 = libc::NFT_MSG_NEWRULE as u16;
pub(super) const GET_RULE: u16 = libc::NFT_MSG_GETRULE as u16;
pub(super) const DEL_RULE: u16 = libc::NFT_MSG_DELRULE as u16;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const HOOK_NUMBER: u16 = 1;
/// `NF_INET_FORWARD` and `NF_BR_FORWARD`.
const HOOK_FORWARD: u32 = 2;

const LIST_ELEMENT: u16 = 1;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
pub(super) const DATA_VERDICT: u16 = 2;
pub(super) const VERDICT_CODE: u16 = 1;
pub(super) const IMMEDIATE_REGISTER: u16 = 1;
pub(super) const IMMEDIATE_DATA: u16 = 2;
pub(super) const META_REGISTER: u16 = 1;
pub(super) const META_KEY: u16 = 2;
pub(super) const COMPARE_REGISTER: u16 = 1;
pub(super) const COMPARE_OPERATOR: u16 = 2;
pub(super) const COMPARE_DATA: u16 = 3;
pub(super) const COMPARE_EQUAL: u32 = 0;
/// Name of an extension of iptables that stands inside an expression `match` or `target`.
const EXTENSION_NAME: u16 = 1;
pub(super) const REGISTER: u32 = libc::NFT_REG_1 as u32;
pub(super) const REGISTER_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
const IN_NAME: u32 = libc::NFT_META_IIFNAME as u32;
const OUT_NAME: u32 = libc::NFT_META_OIFNAME as u32;
pub(super) const ACCEPT: u32 = libc::NF_ACCEPT as u32;
pub(super) const DROP: u32 = libc::NF_DROP as u32;
/// Type of the comment among what `nft` and iptables keep in a rule's user data: type, length, text with a zero octet.
const USERDATA_COMMENT: u8 = 0;
/// The length of it is one octet.
pub(super) const COMMENT_MAX: usize = 254;

/// A rule that accepts what fulfils all conditions, written as `nft` and iptables write it, so that both can show it.
pub(super) fn accept_rule(chain: &ForwardChain, conditions: &[Condition], comment: &str) -> Attributes {
    let mut expressions = Attributes::default();
    for condition in conditions {
        let (key, pattern) = match condition {
            Condition::In(pattern) => (IN_NAME, pattern),
            Condition::Out(pattern) => (OUT_NAME, pattern),
            // Only conditions on names can be asked for.
            Condition::Other => continue,
        };
        let value = match pattern {
            // The end of the name is compared too.
            Pattern::Exactly(name) => terminated(name),
            Pattern::Prefix(prefix) => prefix.as_bytes().to_vec(),
        };
        expressions = expression(
            expressions,
            "meta",
            Attributes::default()
                .number(META_KEY, key)
                .number(META_REGISTER, REGISTER),
        );
        expressions = expression(
            expressions,
            "cmp",
            Attributes::default()
                .number(COMPARE_REGISTER, REGISTER)
                .number(COMPARE_OPERATOR, COMPARE_EQUAL)
                .nest(COMPARE_DATA, Attributes::default().put(DATA_VALUE, &value)),
        );
    }
    let verdict =
        Attributes::default().nest(DATA_VERDICT, Attributes::default().number(VERDICT_CODE, ACCEPT));
    let expressions = expression(expressions, "counter", Attributes::default());
    let expressions = expression(
        expressions,
        "immediate",
        Attributes::default()
            .number(IMMEDIATE_REGISTER, REGISTER_VERDICT)
            .nest(IMMEDIATE_DATA, verdict),
    );
    let text = terminated(comment);
    let mut userdata = vec![USERDATA_COMMENT, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    userdata.extend(text);
    rule_of(chain)
        .nest(RULE_EXPRESSIONS, expressions)
        .put(RULE_USERDATA, &userdata)
}

pub(super) fn rule_of(chain: &ForwardChain) -> Attributes {
    Attributes::default()
        .name(RULE_TABLE, &chain.table)
        .name(RULE_CHAIN, &chain.name)
}

/// Reads a chain; `None` unless it is a base chain of the hook forward.
pub(super) fn forward_chain(family: Family, bytes: &[u8]) -> Option<ForwardChain> {
    let hook = attribute(bytes, CHAIN_HOOK)?;
    if number(hook, HOOK_NUMBER)? != HOOK_FORWARD {
        return None;
    }
    let policy = match number(bytes, CHAIN_POLICY) {
        Some(DROP) => Policy::Drop,
        _ => Policy::Accept,
    };
    Some(ForwardChain {
        family,
        table: text(bytes, CHAIN_TABLE)?,
        name: text(bytes, CHAIN_NAME)?,
        policy,
    })
}

/// Reads a rule.
pub(super) fn rule(bytes: &[u8]) -> Option<Rule> {
    let handle = attribute(bytes, RULE_HANDLE)?.first_chunk()?;
    let mut rule = Rule {
        handle: u64::from_be_bytes(*handle),
        comment: attribute(bytes, RULE_USERDATA).and_then(comment),
        conditions: Vec::new(),
        verdict: Verdict::Continue,
    };
    // What the register holds: set by `meta`, compared by `cmp`.
    let mut loaded = None;
    for (_, element) in attributes(attribute(bytes, RULE_EXPRESSIONS).unwrap_or_default()) {
        let name = text(element, EXPRESSION_NAME)?;
        let data = attribute(element, EXPRESSION_DATA).unwrap_or_default();
        match name.as_str() {
            "counter" | "log" => {}
            "meta" if number(data, META_REGISTER).is_some() => loaded = number(data, META_KEY),
            "cmp" => rule.conditions.push(condition(loaded.take(), data)),
            "immediate" if number(data, IMMEDIATE_REGISTER) == Some(REGISTER_VERDICT) => {
                rule.verdict = verdict(data);
            }
            "reject" => rule.verdict = Verdict::Drop,
            "match" if text(data, EXTENSION_NAME).as_deref() == Some("comment") => {}
            "target" => match text(data, EXTENSION_NAME).as_deref() {
                Some("REJECT") => rule.verdict = Verdict::Drop,
                Some("LOG" | "NFLOG") => {}
                _ => rule.conditions.push(Condition::Other),
            },
            _ => rule.conditions.push(Condition::Other),
        }
    }
    // A key that was read and not compared is part of something not understood.
    if loaded.is_some() {
        rule.conditions.push(Condition::Other);
    }
    Some(rule)
}

fn condition(loaded: Option<u32>, data: &[u8]) -> Condition {
    let pattern = || {
        let value = attribute(attribute(data, COMPARE_DATA)?, DATA_VALUE)?;
        let equal = number(data, COMPARE_OPERATOR)? == COMPARE_EQUAL;
        let name = value.split(|octet| *octet == 0).next()?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        equal.then_some(if name.len() < value.len() {
            Pattern::Exactly(name)
        } else {
            Pattern::Prefix(name)
        })
    };
    match (loaded, pattern()) {
        (Some(IN_NAME), Some(pattern)) => Condition::In(pattern),
        (Some(OUT_NAME), Some(pattern)) => Condition::Out(pattern),
        _ => Condition::Other,
    }
}

fn verdict(immediate: &[u8]) -> Verdict {
    let code = attribute(immediate, IMMEDIATE_DATA)
        .and_then(|data| attribute(data, DATA_VERDICT))
        .and_then(|verdict| number(verdict, VERDICT_CODE));
    match code {
        Some(ACCEPT) => Verdict::Accept,
        Some(DROP) => Verdict::Drop,
        _ => Verdict::Elsewhere,
    }
}

fn comment(mut userdata: &[u8]) -> Option<String> {
    loop {
        let (&kind, rest) = userdata.split_first()?;
        let (&length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        if kind == USERDATA_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        userdata = rest;
    }
}

/// One expression at the end of a list.
pub(super) fn expression(list: Attributes, name: &str, data: Attributes) -> Attributes {
    let inner = Attributes::default()
        .name(EXPRESSION_NAME, name)
        .nest(EXPRESSION_DATA, data);
    list.nest(LIST_ELEMENT, inner)
}
