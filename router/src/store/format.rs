//! Octets of the state file. All integers are big-endian.
//!
//! ```text
//! 0 "WEFTSTAT" 8 | 8 format version 2 | 10 zero 6
//! then records: kind 2 | length 4 | body | checksum 8 (hash of kind, length and body)
//! ```
//!
//! Of several records of one kind the last one stands.

use super::machine::MachineId;
use weft_wire::hash::hash;
use weft_wire::{NodeKey, NoiseKeypair};

const MAGIC: &[u8; 8] = b"WEFTSTAT";
/// Version of the layout above.
pub(super) const FORMAT_VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
const RECORD_HEADER_LEN: usize = 6;
const CHECKSUM_LEN: usize = 8;

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum RecordKind {
    /// Machine binding 32, Ed25519 seed 32, X25519 secret 32.
    Identity = 1,
    /// Incarnation 8.
    Incarnation = 2,
    /// Genesis, secrets, admissions and peers, as gossip encodes them.
    Cluster = 3,
}

impl RecordKind {
    fn from_number(number: u16) -> Option<Self> {
        [Self::Identity, Self::Incarnation, Self::Cluster]
            .into_iter()
            .find(|kind| *kind as u16 == number)
    }
}

/// Why octets are not a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// The first octets are not the magic.
    #[error("this is not a weft state file")]
    NotAStateFile,
    /// A newer format.
    #[error("format {found} is newer than this program")]
    Newer {
        /// Format version of the file.
        found: u16,
    },
    /// The file ends within a record.
    #[error("it ends in the middle of a record, at octet {at}")]
    Truncated {
        /// Where the record begins.
        at: usize,
    },
    /// A checksum does not match.
    #[error("the record at octet {at} is damaged")]
    Checksum {
        /// Where the record begins.
        at: usize,
    },
    /// A record of a kind that this version does not know.
    #[error("the record at octet {at} is of an unknown kind")]
    UnknownKind {
        /// Where the record begins.
        at: usize,
    },
    /// A record that must be there is not.
    #[error("its {0} record is missing or malformed")]
    Missing(&'static str),
    /// The cluster record does not decode.
    #[error("its cluster record is malformed")]
    Cluster,
    /// Larger than any state.
    #[error("it is larger than any state can be")]
    TooLarge,
}

fn checksum(head_and_body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&hash("weft state record v1", &[head_and_body])[..CHECKSUM_LEN]);
    out
}

/// A file of these records.
pub(super) fn encode(records: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    out.resize(HEADER_LEN, 0);
    for (kind, body) in records {
        let start = out.len();
        out.extend_from_slice(&(*kind as u16).to_be_bytes());
        // Bodies are bounded far below 4 GiB by STATE_FILE_MAX.
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum);
    }
    out
}

/// The records of a file, in order.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(RecordKind, &[u8])>, FormatError> {
    let (header, mut rest) = bytes
        .split_at_checked(HEADER_LEN)
        .ok_or(FormatError::NotAStateFile)?;
    if &header[..8] != MAGIC {
        return Err(FormatError::NotAStateFile);
    }
    let version = u16::from_be_bytes([header[8], header[9]]);
    if version > FORMAT_VERSION {
        return Err(FormatError::Newer { found: version });
    }
    if version == 0 || header[10..].iter().any(|octet| *octet != 0) {
        return Err(FormatError::NotAStateFile);
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let head = rest
            .get(..RECORD_HEADER_LEN)
            .ok_or(FormatError::Truncated { at })?;
        let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let end = RECORD_HEADER_LEN.saturating_add(length);
        let signed = rest.get(..end).ok_or(FormatError::Truncated { at })?;
        let sum = rest
            .get(end..end.saturating_add(CHECKSUM_LEN))
            .ok_or(FormatError::Truncated { at })?;
        if sum != checksum(signed) {
            return Err(FormatError::Checksum { at });
        }
        let kind = RecordKind::from_number(u16::from_be_bytes([head[0], head[1]]))
            .ok_or(FormatError::UnknownKind { at })?;
        records.push((kind, &signed[RECORD_HEADER_LEN..]));
        rest = &rest[end + CHECKSUM_LEN..];
    }
    Ok(records)
}

/// Body of the identity record.
pub(super) fn encode_identity(machine: &MachineId, key: &NodeKey, noise: &NoiseKeypair) -> Vec<u8> {
    [machine.binding(), key.seed(), noise.secret].concat()
}

/// Machine binding and keys from the identity record.
pub(super) fn decode_identity(body: &[u8]) -> Result<([u8; 32], NodeKey, NoiseKeypair), FormatError> {
    let missing = FormatError::Missing("identity");
    let part = |i: usize| -> Result<[u8; 32], FormatError> {
        body.get(32 * i..32 * (i + 1))
            .and_then(|octets| octets.try_into().ok())
            .ok_or(missing)
    };
    if body.len() != 96 {
        return Err(missing);
    }
    let noise = NoiseKeypair::from_secret(part(2)?).ok_or(missing)?;
    Ok((part(0)?, NodeKey::from_seed(part(1)?), noise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_in_order_and_the_newer_format_is_told_apart() {
        let records = vec![
            (RecordKind::Incarnation, vec![1, 2]),
            (RecordKind::Cluster, vec![]),
        ];
        let mut bytes = encode(&records);
        let read: Vec<_> = decode(&bytes)
            .unwrap()
            .into_iter()
            .map(|(k, b)| (k, b.to_vec()))
            .collect();
        assert_eq!(read, records);
        bytes[9] = 2;
        assert_eq!(decode(&bytes), Err(FormatError::Newer { found: 2 }));
    }
}
