//! The expressions of a rule: what it asks of a packet, what it does with it. All work on one register.

use super::message::{
    ACCEPT, COMPARE_DATA, COMPARE_EQUAL, COMPARE_OPERATOR, COMPARE_REGISTER, DATA_VALUE, DATA_VERDICT, DROP,
    EXPRESSION_DATA, EXPRESSION_NAME, IMMEDIATE_DATA, IMMEDIATE_REGISTER, META_KEY, META_REGISTER, REGISTER,
    REGISTER_VERDICT, VERDICT_CODE, expression,
};
use crate::nla::{Attributes, attribute, attributes, number, terminated, text};

const COMPARE_DIFFERENT: u32 = libc::NFT_CMP_NEQ as u32;
const META_SOURCE: u16 = 3;
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const FIB_REGISTER: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
/// The interface, by the address of the source and the interface of arrival, and only whether there is one.
const FIB_INTERFACE: u32 = 1;
const FIB_COMES_BACK: u32 = 1 | 8 | 32;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_FLAGS: u16 = 5;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_TARGET: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const BITWISE_OPERATION: u16 = 6;

/// A step of a rule. It ends the rule when its question is answered with no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Load something about the packet.
    Load(Meta),
    /// Load octets of it.
    Payload(Payload),
    /// Load whether the route to the source of the packet leaves by the interface by which it came in: one octet, 1 or 0.
    LoadComesBack,
    /// Is what was loaded equal to this?
    Is(Vec<u8>),
    /// Is it not?
    IsNot(Vec<u8>),
    /// Keep only these bits of what was loaded, then turn over those.
    Bits {
        /// Bits that are kept.
        mask: Vec<u8>,
        /// Bits that are turned over.
        flip: Vec<u8>,
    },
    /// Is it in the set of this name?
    In(String),
    /// Make it the packet's mark.
    SetMark,
    /// Have connection tracking leave the packet alone.
    Untracked,
    /// Let it pass this chain.
    Accept,
    /// Drop it.
    Drop,
    /// Something else; found only.
    Other(String),
}

/// What is known of a packet beside its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The version of IP: `NFPROTO_IPV4` or `NFPROTO_IPV6`, one octet.
    Version,
    /// The protocol inside IP, one octet.
    Protocol,
    /// Name of the interface by which it came in, 16 octets.
    InName,
    /// Name of that by which it goes out, 16 octets.
    OutName,
    /// Its mark, four octets in the order of this machine.
    Mark,
}

/// Octets of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Destination port of UDP or TCP, two octets.
    DestinationPort,
    /// Source address of IPv4.
    Source4,
    /// Source address of IPv6.
    Source6,
    /// Destination address of IPv4.
    Destination4,
    /// Destination address of IPv6.
    Destination6,
}

impl Meta {
    const ALL: [Self; 5] = [
        Self::Version,
        Self::Protocol,
        Self::InName,
        Self::OutName,
        Self::Mark,
    ];

    fn key(self) -> u32 {
        let key = match self {
            Self::Version => libc::NFT_META_NFPROTO,
            Self::Protocol => libc::NFT_META_L4PROTO,
            Self::InName => libc::NFT_META_IIFNAME,
            Self::OutName => libc::NFT_META_OIFNAME,
            Self::Mark => libc::NFT_META_MARK,
        };
        key as u32
    }
}

impl Payload {
    const ALL: [Self; 5] = [
        Self::DestinationPort,
        Self::Source4,
        Self::Source6,
        Self::Destination4,
        Self::Destination6,
    ];

    /// Base header (1 is that of IP, 2 that of what is inside), offset and length.
    fn place(self) -> (u32, u32, u32) {
        match self {
            Self::DestinationPort => (2, 2, 2),
            Self::Source4 => (1, 12, 4),
            Self::Source6 => (1, 8, 16),
            Self::Destination4 => (1, 16, 4),
            Self::Destination6 => (1, 24, 16),
        }
    }
}

/// The name of an interface as rules compare it.
#[must_use]
pub fn interface(name: &str) -> Vec<u8> {
    let mut bytes = terminated(name);
    bytes.resize(16, 0);
    bytes
}

pub(super) fn write(rule: &[Expression]) -> Attributes {
    let new = Attributes::default;
    let value = |bytes: &[u8]| new().put(DATA_VALUE, bytes);
    let compare = |operator, bytes: &[u8]| {
        new()
            .number(COMPARE_REGISTER, REGISTER)
            .number(COMPARE_OPERATOR, operator)
            .nest(COMPARE_DATA, value(bytes))
    };
    let verdict = |code| {
        let verdict = new().nest(DATA_VERDICT, new().number(VERDICT_CODE, code));
        new()
            .number(IMMEDIATE_REGISTER, REGISTER_VERDICT)
            .nest(IMMEDIATE_DATA, verdict)
    };
    let mut list = new();
    for step in rule {
        let (name, data) = match step {
            Expression::Load(meta) => (
                "meta",
                new().number(META_KEY, meta.key()).number(META_REGISTER, REGISTER),
            ),
            Expression::Payload(payload) => {
                let (base, offset, length) = payload.place();
                let data = new()
                    .number(PAYLOAD_REGISTER, REGISTER)
                    .number(PAYLOAD_BASE, base)
                    .number(PAYLOAD_OFFSET, offset)
                    .number(PAYLOAD_LENGTH, length);
                ("payload", data)
            }
            Expression::LoadComesBack => (
                "fib",
                new()
                    .number(FIB_REGISTER, REGISTER)
                    .number(FIB_RESULT, FIB_INTERFACE)
                    .number(FIB_FLAGS, FIB_COMES_BACK),
            ),
            Expression::Is(bytes) => ("cmp", compare(COMPARE_EQUAL, bytes)),
            Expression::IsNot(bytes) => ("cmp", compare(COMPARE_DIFFERENT, bytes)),
            Expression::Bits { mask, flip } => {
                // Masks are four octets, and never longer than an address.
                let length = mask.len() as u32;
                let data = new()
                    .number(BITWISE_SOURCE, REGISTER)
                    .number(BITWISE_TARGET, REGISTER)
                    .number(BITWISE_LENGTH, length)
                    .nest(BITWISE_MASK, value(mask))
                    .nest(BITWISE_XOR, value(flip));
                ("bitwise", data)
            }
            Expression::In(set) => (
                "lookup",
                new().name(LOOKUP_SET, set).number(LOOKUP_SOURCE, REGISTER),
            ),
            Expression::SetMark => (
                "meta",
                new()
                    .number(META_KEY, Meta::Mark.key())
                    .number(META_SOURCE, REGISTER),
            ),
            Expression::Untracked => ("notrack", new()),
            Expression::Accept => ("immediate", verdict(ACCEPT)),
            Expression::Drop => ("immediate", verdict(DROP)),
            // It is found only.
            Expression::Other(_) => continue,
        };
        list = expression(list, name, data);
    }
    list
}

pub(super) fn read(list: &[u8]) -> Vec<Expression> {
    let read_one = |(_, element)| {
        let name = text(element, EXPRESSION_NAME).unwrap_or_default();
        let data = attribute(element, EXPRESSION_DATA).unwrap_or_default();
        parse(&name, data).unwrap_or(Expression::Other(name))
    };
    attributes(list).map(read_one).collect()
}

fn parse(name: &str, data: &[u8]) -> Option<Expression> {
    let is = |kind, wanted| number(data, kind) == Some(wanted);
    let bytes = |kind| Some(attribute(attribute(data, kind)?, DATA_VALUE)?.to_vec());
    match name {
        "meta" if is(META_REGISTER, REGISTER) => {
            let key = number(data, META_KEY)?;
            let meta = Meta::ALL.into_iter().find(|meta| meta.key() == key)?;
            Some(Expression::Load(meta))
        }
        "meta" if is(META_SOURCE, REGISTER) && is(META_KEY, Meta::Mark.key()) => Some(Expression::SetMark),
        "payload" if is(PAYLOAD_REGISTER, REGISTER) => {
            let place = (
                number(data, PAYLOAD_BASE)?,
                number(data, PAYLOAD_OFFSET)?,
                number(data, PAYLOAD_LENGTH)?,
            );
            let payload = Payload::ALL
                .into_iter()
                .find(|payload| payload.place() == place)?;
            Some(Expression::Payload(payload))
        }
        "fib"
            if is(FIB_REGISTER, REGISTER)
                && is(FIB_RESULT, FIB_INTERFACE)
                && is(FIB_FLAGS, FIB_COMES_BACK) =>
        {
            Some(Expression::LoadComesBack)
        }
        "cmp" if is(COMPARE_REGISTER, REGISTER) => match number(data, COMPARE_OPERATOR)? {
            COMPARE_EQUAL => Some(Expression::Is(bytes(COMPARE_DATA)?)),
            COMPARE_DIFFERENT => Some(Expression::IsNot(bytes(COMPARE_DATA)?)),
            _ => None,
        },
        "bitwise"
            if is(BITWISE_SOURCE, REGISTER)
                && is(BITWISE_TARGET, REGISTER)
                && number(data, BITWISE_OPERATION).unwrap_or(0) == 0 =>
        {
            Some(Expression::Bits {
                mask: bytes(BITWISE_MASK)?,
                flip: bytes(BITWISE_XOR)?,
            })
        }
        "lookup" if is(LOOKUP_SOURCE, REGISTER) && number(data, LOOKUP_FLAGS).unwrap_or(0) == 0 => {
            Some(Expression::In(text(data, LOOKUP_SET)?))
        }
        "notrack" => Some(Expression::Untracked),
        "immediate" if is(IMMEDIATE_REGISTER, REGISTER_VERDICT) => {
            let verdict = attribute(attribute(data, IMMEDIATE_DATA)?, DATA_VERDICT)?;
            match number(verdict, VERDICT_CODE)? {
                ACCEPT => Some(Expression::Accept),
                DROP => Some(Expression::Drop),
                _ => None,
            }
        }
        _ => None,
    }
}
