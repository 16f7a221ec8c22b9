//! A table of iptables-legacy as the kernel hands it out: entries one after the other, chains by offset.
//!
//! Layout of 64-bit kernels and programs; `struct ipt_entry` and `struct ip6t_entry` differ in their first part only.

use super::Version;
use crate::error::{Error, Result};
use crate::link;
use crate::nft::{Condition, Pattern, Policy, Rule, Verdict};

/// `struct xt_counters`: packets and octets.
pub(super) const COUNTER: usize = 16;
const TABLE: &[u8] = b"filter";
/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// `NF_INET_NUMHOOKS`.
const HOOKS: usize = 5;
/// `NF_INET_FORWARD`.
const FORWARD: usize = 2;
/// `struct ipt_getinfo`.
const INFO: usize = NAME + 4 + 8 * HOOKS + 8;
/// What stands before the entries in `struct ipt_get_entries`, which is aligned to 8.
const ENTRIES_HEAD: usize = 40;
/// `struct xt_entry_match` and `xt_entry_target`: size, 29 octets of name, revision.
const EXTENSION: usize = 32;
const EXTENSION_NAME: usize = 29;
/// `struct xt_comment_info`.
const COMMENT: usize = 256;
/// A standard target with its verdict, aligned to 8.
const STANDARD: usize = 40;
/// `IFNAMSIZ`.
const IFNAME: usize = 16;
/// Offset of a chain that the table lacks.
const UNUSED: u32 = u32::MAX;
/// `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;
/// `-NF_DROP - 1`.
const DROP: i32 = -1;

/// Where the parts of an entry are.
struct Layout {
    /// Octets that say something about addresses.
    addresses: std::ops::Range<usize>,
    /// Two names, then two masks.
    interfaces: usize,
    /// Protocol and flags: zero when they ask for nothing.
    protocol: std::ops::Range<usize>,
    /// `u16` offset of the target, then `u16` offset of the next entry.
    target_offset: usize,
    /// The whole fixed part.
    fixed: usize,
}

const V4: Layout = Layout {
    addresses: 0..16,
    interfaces: 16,
    protocol: 80..84,
    target_offset: 88,
    fixed: 112,
};
const V6: Layout = Layout {
    addresses: 0..64,
    interfaces: 64,
    protocol: 128..133,
    target_offset: 140,
    fixed: 168,
};

fn layout(version: Version) -> &'static Layout {
    match version {
        Version::V4 => &V4,
        Version::V6 => &V6,
    }
}

/// Where the chains of a table are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    valid_hooks: u32,
    hook_entry: [u32; HOOKS],
    underflow: [u32; HOOKS],
    entries: u32,
    pub(super) size: usize,
}

impl Info {
    pub(super) fn request() -> Vec<u8> {
        let mut bytes = vec![0; INFO];
        bytes[..TABLE.len()].copy_from_slice(TABLE);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| read_u32(bytes, NAME + 4 * at);
        Self {
            valid_hooks: word(0),
            hook_entry: std::array::from_fn(|hook| word(1 + hook)),
            underflow: std::array::from_fn(|hook| word(1 + HOOKS + hook)),
            entries: word(1 + 2 * HOOKS),
            size: word(2 + 2 * HOOKS) as usize,
        }
    }

    pub(super) fn entries_request(&self) -> Vec<u8> {
        let mut bytes = vec![0; ENTRIES_HEAD + self.size];
        bytes[..TABLE.len()].copy_from_slice(TABLE);
        bytes[NAME..NAME + 4].copy_from_slice(&(self.size as u32).to_ne_bytes());
        bytes
    }
}

/// One entry, and where its counters were before anything was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    bytes: Vec<u8>,
    was: Option<usize>,
}

/// A table, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    version: Version,
    info: Info,
    entries: Vec<Entry>,
    /// Position of the first entry of FORWARD.
    first: usize,
    /// Position of its policy.
    policy: usize,
}

impl Table {
    pub(super) fn parse(version: Version, info: Info, bytes: &[u8]) -> Result<Self> {
        let malformed = |reason: &str| Error::Malformed {
            action: "read the rules of iptables-legacy".into(),
            reason: reason.into(),
        };
        let layout = layout(version);
        let blob = bytes
            .get(ENTRIES_HEAD..ENTRIES_HEAD + info.size)
            .ok_or_else(|| malformed("it is shorter than it says"))?;
        let (mut entries, mut at) = (Vec::new(), 0);
        let (mut first, mut policy) = (None, None);
        while at < blob.len() {
            if at == info.hook_entry[FORWARD] as usize {
                first = Some(entries.len());
            }
            if at == info.underflow[FORWARD] as usize {
                policy = Some(entries.len());
            }
            let rest = &blob[at..];
            if rest.len() < layout.fixed {
                return Err(malformed("an entry is cut off"));
            }
            let target = usize::from(read_u16(rest, layout.target_offset));
            let length = usize::from(read_u16(rest, layout.target_offset + 2));
            let bytes = rest
                .get(..length)
                .ok_or_else(|| malformed("an entry is cut off"))?;
            if target < layout.fixed || target + EXTENSION + 4 > length {
                return Err(malformed("an entry has no target"));
            }
            entries.push(Entry {
                bytes: bytes.to_vec(),
                was: Some(entries.len()),
            });
            at += length;
        }
        match (first, policy) {
            (Some(first), Some(policy)) if first <= policy => Ok(Self {
                version,
                info,
                entries,
                first,
                policy,
            }),
            _ => Err(malformed("it has no chain FORWARD")),
        }
    }

    /// Number of entries, policies and chain heads included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn policy(&self) -> Policy {
        let entry = &self.entries[self.policy];
        match standard_verdict(layout(self.version), &entry.bytes) {
            Some(DROP) => Policy::Drop,
            _ => Policy::Accept,
        }
    }

    pub(super) fn rules(&self) -> Vec<Rule> {
        self.entries[self.first..self.policy]
            .iter()
            .zip(0..)
            .map(|(entry, handle)| parse_rule(layout(self.version), &entry.bytes, handle))
            .collect()
    }

    /// Puts an entry at the head of FORWARD.
    pub(super) fn insert(&mut self, rule: &[u8]) -> Result<()> {
        let (at, length) = (self.info.hook_entry[FORWARD], rule.len() as u32);
        let moved = |offset: u32, first: u32| match offset {
            UNUSED => UNUSED,
            _ if offset >= first => offset + length,
            _ => offset,
        };
        // FORWARD itself begins where it did, and all that was there comes after.
        self.info.hook_entry = self.info.hook_entry.map(|hook| moved(hook, at + 1));
        self.shift(|offset| moved(offset, at));
        let entry = Entry {
            bytes: rule.to_vec(),
            was: None,
        };
        self.entries.insert(self.first, entry);
        self.policy += 1;
        Ok(())
    }

    /// Removes the rule at this position of FORWARD.
    pub(super) fn remove(&mut self, rule: u64) -> Result<()> {
        let position = self.first + rule as usize;
        let before: usize = self.entries[..position]
            .iter()
            .map(|entry| entry.bytes.len())
            .sum();
        let (at, length) = (before as u32, self.entries[position].bytes.len() as u32);
        let moved = |offset: u32| match offset {
            UNUSED => UNUSED,
            _ if offset > at => offset - length,
            _ => offset,
        };
        self.info.hook_entry = self.info.hook_entry.map(moved);
        self.entries.remove(position);
        self.policy -= 1;
        self.shift(moved);
        Ok(())
    }

    /// Moves the ends of chains and the goals of jumps, among them those of rules without a target, which
    /// are jumps to the next.
    fn shift(&mut self, moved: impl Fn(u32) -> u32) {
        self.info.underflow = self.info.underflow.map(&moved);
        let layout = layout(self.version);
        for entry in &mut self.entries {
            if let Some(goal) = standard_verdict(layout, &entry.bytes).and_then(|v| u32::try_from(v).ok()) {
                let at = usize::from(read_u16(&entry.bytes, layout.target_offset)) + EXTENSION;
                entry.bytes[at..at + 4].copy_from_slice(&moved(goal).to_ne_bytes());
            }
        }
    }

    /// `struct ipt_replace` with the entries behind it.
    pub(super) fn replacement(&self, old_entries: usize, counters: usize) -> Vec<u8> {
        let size: usize = self.entries.iter().map(|entry| entry.bytes.len()).sum();
        let mut bytes = vec![0; NAME];
        bytes[..TABLE.len()].copy_from_slice(TABLE);
        let mut word = |value: u32| bytes.extend(value.to_ne_bytes());
        word(self.info.valid_hooks);
        word(self.entries.len() as u32);
        word(size as u32);
        self.info.hook_entry.into_iter().for_each(&mut word);
        self.info.underflow.into_iter().for_each(&mut word);
        word(old_entries as u32);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(counters.to_ne_bytes());
        for entry in &self.entries {
            bytes.extend(&entry.bytes);
        }
        bytes
    }

    /// `struct xt_counters_info`: what to add to the counters of this table, given those of the old one.
    pub(super) fn counters(&self, old: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ENTRIES_HEAD];
        bytes[..TABLE.len()].copy_from_slice(TABLE);
        bytes[NAME..NAME + 4].copy_from_slice(&(self.entries.len() as u32).to_ne_bytes());
        for entry in &self.entries {
            let counter = entry
                .was
                .and_then(|was| old.get(was * COUNTER..(was + 1) * COUNTER));
            bytes.extend(counter.unwrap_or(&[0; COUNTER]));
        }
        bytes
    }
}

/// The entry of a rule that accepts what fulfils all conditions, as iptables makes it.
pub(super) fn accept_rule(version: Version, conditions: &[Condition], comment: &str) -> Result<Vec<u8>> {
    let refused = |rule| Error::Invalid {
        what: "rule for iptables-legacy",
        value: comment.to_owned(),
        rule,
    };
    if comment.len() >= COMMENT || comment.contains('\0') {
        return Err(refused("its comment has at most 255 octets without a zero one"));
    }
    let layout = layout(version);
    let target = layout.fixed + EXTENSION + COMMENT;
    let mut bytes = vec![0; target + STANDARD];
    for condition in conditions {
        let (side, pattern) = match condition {
            Condition::In(pattern) => (0, pattern),
            Condition::Out(pattern) => (IFNAME, pattern),
            Condition::Other => return Err(refused("its conditions are names of interfaces")),
        };
        // The mask of an exact name covers the octet that ends it.
        let (name, masked) = match pattern {
            Pattern::Exactly(name) => (name, name.len() + 1),
            Pattern::Prefix(name) => (name, name.len()),
        };
        link::check_name(name)?;
        let at = layout.interfaces + side;
        bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        bytes[at + 2 * IFNAME..at + 2 * IFNAME + masked].fill(0xff);
    }
    let offsets = layout.target_offset;
    bytes[offsets..offsets + 2].copy_from_slice(&(target as u16).to_ne_bytes());
    let length = bytes.len() as u16;
    bytes[offsets + 2..offsets + 4].copy_from_slice(&length.to_ne_bytes());
    let size = (EXTENSION + COMMENT) as u16;
    let extension = &mut bytes[layout.fixed..];
    extension[..2].copy_from_slice(&size.to_ne_bytes());
    extension[2..9].copy_from_slice(b"comment");
    extension[EXTENSION..EXTENSION + comment.len()].copy_from_slice(comment.as_bytes());
    let standard = &mut bytes[target..];
    standard[..2].copy_from_slice(&(STANDARD as u16).to_ne_bytes());
    standard[EXTENSION..EXTENSION + 4].copy_from_slice(&ACCEPT.to_ne_bytes());
    Ok(bytes)
}

fn parse_rule(layout: &Layout, bytes: &[u8], handle: u64) -> Rule {
    let mut conditions = Vec::new();
    let asks = |range: &std::ops::Range<usize>| bytes[range.clone()].iter().any(|octet| *octet != 0);
    for (side, make) in [
        (0, Condition::In as fn(Pattern) -> Condition),
        (IFNAME, Condition::Out),
    ] {
        let at = layout.interfaces + side;
        let masked = bytes[at + 2 * IFNAME..at + 3 * IFNAME]
            .iter()
            .take_while(|octet| **octet == 0xff)
            .count();
        let name: Vec<u8> = bytes[at..at + IFNAME]
            .iter()
            .copied()
            .take_while(|octet| *octet != 0)
            .collect();
        if masked > 0 {
            let name = String::from_utf8_lossy(&name).into_owned();
            conditions.push(make(if masked > name.len() {
                Pattern::Exactly(name)
            } else {
                Pattern::Prefix(name)
            }));
        }
    }
    // Protocol and flags hold the inversions too, also those of the names.
    if asks(&layout.addresses) || asks(&layout.protocol) {
        conditions.push(Condition::Other);
    }
    let target = usize::from(read_u16(bytes, layout.target_offset));
    let (mut comment, mut at) = (None, layout.fixed);
    while let Some(extension) = bytes.get(at..target).filter(|rest| rest.len() >= EXTENSION) {
        let size = usize::from(read_u16(extension, 0)).max(EXTENSION);
        match text(&extension[2..2 + EXTENSION_NAME]).as_str() {
            "comment" => comment = extension.get(EXTENSION..).map(text),
            _ => conditions.push(Condition::Other),
        }
        at += size;
    }
    let verdict = match text(&bytes[target + 2..target + 2 + EXTENSION_NAME]).as_str() {
        "" => match standard_verdict(layout, bytes) {
            Some(ACCEPT) => Verdict::Accept,
            Some(DROP) => Verdict::Drop,
            _ => Verdict::Elsewhere,
        },
        "REJECT" => Verdict::Drop,
        "LOG" | "NFLOG" => Verdict::Continue,
        _ => Verdict::Elsewhere,
    };
    Rule {
        handle,
        comment,
        conditions,
        verdict,
    }
}

/// The verdict of a standard target, which has no name: negative, or the offset of an entry.
fn standard_verdict(layout: &Layout, bytes: &[u8]) -> Option<i32> {
    let target = usize::from(read_u16(bytes, layout.target_offset));
    let name = *bytes.get(target + 2)?;
    (name == 0).then(|| read_u32(bytes, target + EXTENSION).cast_signed())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|octet| *octet == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Zero beyond the end.
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |octets| u16::from_ne_bytes(*octets))
}

/// Zero beyond the end.
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |octets| u32::from_ne_bytes(*octets))
}
