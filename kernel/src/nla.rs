//! Attributes of netlink messages, written and read as they are: length, type, value, padding to four octets.

use netlink_packet_core::NlasIterator;

/// Attributes being written.
#[derive(Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// A value has at most 65,531 octets: names, numbers, one rule, a thousand elements.
    pub(crate) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn name(self, kind: u16, name: &str) -> Self {
        self.put(kind, &terminated(name))
    }

    /// In network order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(self, kind: u16, inner: Self) -> Self {
        self.put(kind | libc::NLA_F_NESTED as u16, &inner.0)
    }
}

pub(crate) fn terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .filter_map(std::result::Result::ok)
        .map(|attribute| (attribute.kind(), attribute.into_inner()))
        .filter_map(|(kind, whole)| {
            let length = usize::from(u16::from_ne_bytes([*whole.first()?, *whole.get(1)?]));
            Some((kind, whole.get(4..length)?))
        })
}

pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

pub(crate) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    attribute(bytes, kind)?
        .first_chunk()
        .map(|value| u32::from_be_bytes(*value))
}

pub(crate) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(bytes, kind)?;
    let name = value.strip_suffix(&[0]).unwrap_or(value);
    Some(String::from_utf8_lossy(name).into_owned())
}
