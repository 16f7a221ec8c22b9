//! Octets of the state file. All integers are big-endian.
//!
//! ```text
//! 0 "WEFTSTAT" 8 | 8 format version 2 | 10 check 2 (hash of the other 14) | 12 end of the snapshot 4
//! then records: kind 2 | length 4 | check 2 (hash of kind, length and place) | body | checksum 8 (hash of all of it)
//! ```
//!
//! Records up to the end of the snapshot were written as one file and are all there, or the file is damaged. Those
//! behind it were appended one after the other; the last of them may be torn by a crash, and then was never
//! acknowledged. Of several records of one kind the last one stands; changes of the address state add up.

use crate::error::FormatError;
use crate::machine::MachineId;
use weft_wire::hash::hash;
use weft_wire::{NodeKey, NoiseKeypair};

const MAGIC: &[u8; 8] = b"WEFTSTAT";
/// Version of the layout above.
pub(crate) const FORMAT_VERSION: u16 = 1;
const HEADER_LEN: usize = 16;
const RECORD_HEADER_LEN: usize = 8;
const CHECKSUM_LEN: usize = 8;

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum RecordKind {
    /// Machine binding 32, Ed25519 seed 32, X25519 secret 32.
    Identity = 1,
    /// Incarnation 8.
    Incarnation = 2,
    /// Genesis, secrets, admissions and peers, as gossip encodes them.
    Cluster = 3,
    /// The whole address state, as ipam-crdt encodes it.
    IpamState = 4,
    /// One change of the address state.
    IpamChange = 5,
    /// Addresses of pods that the cluster has not given to this host.
    Claims = 6,
    /// Join token of the cluster that this host has adopted, UTF-8.
    Token = 7,
    /// Where the host listens that let this one in, as encoded texts.
    Targets = 8,
    /// What binds this host while it makes a cluster together with others, as ipam-crdt encodes it.
    Agreement = 9,
    /// Settings of the cluster, as wire encodes them.
    Settings = 10,
}

impl RecordKind {
    fn from_number(number: u16) -> Option<Self> {
        [
            Self::Identity,
            Self::Incarnation,
            Self::Cluster,
            Self::IpamState,
            Self::IpamChange,
            Self::Claims,
            Self::Token,
            Self::Targets,
            Self::Agreement,
            Self::Settings,
        ]
        .into_iter()
        .find(|kind| *kind as u16 == number)
    }
}

fn checksum(head_and_body: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&hash("weft state record v1", &[head_and_body])[..CHECKSUM_LEN]);
    out
}

/// Check of a record's own header, so that a damaged length is told from a torn record.
fn header_check(kind_and_length: &[u8], place: usize) -> [u8; 2] {
    let full = hash(
        "weft state header v1",
        &[kind_and_length, &(place as u64).to_be_bytes()],
    );
    [full[0], full[1]]
}

/// Check of the file's own header, without the octets that hold it.
fn file_check(header: &[u8]) -> [u8; 2] {
    header_check(&[&header[..10], &header[12..HEADER_LEN]].concat(), 0)
}

/// Writes one record that will stand at `place` in the file.
pub(crate) fn encode_record(kind: RecordKind, body: &[u8], place: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_HEADER_LEN + body.len() + CHECKSUM_LEN);
    out.extend_from_slice(&(kind as u16).to_be_bytes());
    // Bodies are bounded far below 4 GiB by STATE_FILE_MAX.
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    let check = header_check(&out, place);
    out.extend_from_slice(&check);
    out.extend_from_slice(body);
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}

/// A file whose snapshot is these records.
pub(crate) fn encode(records: &[(RecordKind, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
    out.resize(HEADER_LEN, 0);
    for (kind, body) in records {
        out.extend_from_slice(&encode_record(*kind, body, out.len()));
    }
    let end = (out.len() as u32).to_be_bytes();
    out[12..16].copy_from_slice(&end);
    let check = file_check(&out);
    out[10..12].copy_from_slice(&check);
    out
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents<'a> {
    /// The records, in order.
    pub(crate) records: Vec<(RecordKind, &'a [u8])>,
    /// Where a torn record was left out, if one was.
    pub(crate) torn_at: Option<usize>,
}

/// The records of a file, in order.
pub(crate) fn decode(bytes: &[u8]) -> Result<Contents<'_>, FormatError> {
    let header = bytes.get(..HEADER_LEN).ok_or(FormatError::NotAStateFile)?;
    if &header[..8] != MAGIC {
        return Err(FormatError::NotAStateFile);
    }
    let version = u16::from_be_bytes([header[8], header[9]]);
    if version > FORMAT_VERSION {
        return Err(FormatError::Newer { found: version });
    }
    if version == 0 || header[10..12] != file_check(header) {
        return Err(FormatError::NotAStateFile);
    }
    let snapshot_end = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
    if snapshot_end < HEADER_LEN || snapshot_end > bytes.len() {
        return Err(FormatError::Truncated {
            at: snapshot_end.min(bytes.len()),
        });
    }
    let mut contents = Contents {
        records: Vec::new(),
        torn_at: None,
    };
    let mut at = HEADER_LEN;
    while at < bytes.len() {
        // Within the snapshot nothing may be torn, and no record may reach over its end.
        let appended = at >= snapshot_end;
        let limit = if appended { bytes.len() } else { snapshot_end };
        match record(&bytes[..limit], at) {
            Ok((kind, body, next)) => {
                contents.records.push((kind, body));
                at = next;
            }
            Err(error @ (FormatError::Truncated { .. } | FormatError::Checksum { .. }))
                if appended && is_torn(bytes, at) =>
            {
                tracing::debug!(%error, "the last record was torn by a crash and is left out");
                contents.torn_at = Some(at);
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(contents)
}

/// The record at `at`, and where the next one begins.
fn record(bytes: &[u8], at: usize) -> Result<(RecordKind, &[u8], usize), FormatError> {
    let rest = &bytes[at..];
    let head = rest
        .get(..RECORD_HEADER_LEN)
        .ok_or(FormatError::Truncated { at })?;
    if head[6..8] != header_check(&head[..6], at) {
        return Err(FormatError::Checksum { at });
    }
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
    Ok((kind, &signed[RECORD_HEADER_LEN..], at + end + CHECKSUM_LEN))
}

/// True when what stands at `at` can be the end of a write that a crash interrupted: the file ends within the
/// record or right behind it, or only zeros follow, as file systems leave where data was not written yet. Anything
/// else was written completely once, and is damaged.
fn is_torn(bytes: &[u8], at: usize) -> bool {
    let written = bytes
        .iter()
        .rposition(|octet| *octet != 0)
        .map_or(0, |last| last + 1);
    let rest = &bytes[at..];
    let Some(head) = rest.get(..RECORD_HEADER_LEN) else {
        return true;
    };
    if written < at + RECORD_HEADER_LEN {
        return true;
    }
    let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    let end = at
        .saturating_add(RECORD_HEADER_LEN)
        .saturating_add(length)
        .saturating_add(CHECKSUM_LEN);
    head[6..8] == header_check(&head[..6], at) && written <= end
}

/// Body of the identity record.
pub(crate) fn encode_identity(machine: &MachineId, key: &NodeKey, noise: &NoiseKeypair) -> Vec<u8> {
    [machine.binding(), key.seed(), noise.secret].concat()
}

/// Machine binding and keys from the identity record.
pub(crate) fn decode_identity(body: &[u8]) -> Result<([u8; 32], NodeKey, NoiseKeypair), FormatError> {
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

    fn sample() -> Vec<u8> {
        let mut bytes = encode(&[
            (RecordKind::Incarnation, vec![1, 2]),
            (RecordKind::Cluster, vec![]),
        ]);
        for body in [&b"first"[..], b"second", b"third"] {
            bytes.extend_from_slice(&encode_record(RecordKind::IpamChange, body, bytes.len()));
        }
        bytes
    }

    fn bodies(bytes: &[u8]) -> Result<Vec<Vec<u8>>, FormatError> {
        Ok(decode(bytes)?
            .records
            .into_iter()
            .map(|(_, body)| body.to_vec())
            .collect())
    }

    #[test]
    fn records_read_back_in_order_and_the_newer_format_is_told_apart() {
        let mut bytes = sample();
        let all = bodies(&bytes).unwrap();
        assert_eq!(all, [&[1, 2][..], b"", b"first", b"second", b"third"]);
        bytes[9] = 2;
        assert_eq!(decode(&bytes), Err(FormatError::Newer { found: 2 }));
    }

    #[test]
    fn a_tail_torn_anywhere_costs_the_records_it_tears_and_no_other() {
        let whole = sample();
        let all = bodies(&whole).unwrap();
        let snapshot_end = encode(&[
            (RecordKind::Incarnation, vec![1, 2]),
            (RecordKind::Cluster, vec![]),
        ])
        .len();
        for cut in 0..whole.len() {
            match bodies(&whole[..cut]) {
                Ok(kept) => assert!(cut >= snapshot_end && kept == all[..kept.len()], "cut at {cut}"),
                Err(_) => assert!(cut < snapshot_end, "cut at {cut}"),
            }
            // The file system may have made room that was never filled.
            if cut >= snapshot_end {
                let mut zeros = whole[..cut].to_vec();
                zeros.resize(whole.len(), 0);
                let kept = bodies(&zeros).unwrap_or_else(|error| panic!("zeros from {cut}: {error}"));
                assert_eq!(kept, all[..kept.len()], "zeros from {cut}");
            }
        }
    }

    #[test]
    fn damage_before_the_last_record_is_never_taken_for_a_torn_tail() {
        let whole = sample();
        let last = whole.len() - encode_record(RecordKind::IpamChange, b"third", 0).len();
        for at in 0..last {
            let mut bad = whole.clone();
            bad[at] ^= 0x40;
            assert!(decode(&bad).is_err(), "octet {at}");
        }
    }
}
