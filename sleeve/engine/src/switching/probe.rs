//! A probe of the loop guard: an Ethernet frame that each host sends into its own bridge once a second and that never
//! crosses the overlay. Whoever hears another host's, or its own, has a bridge that is joined to that one elsewhere.
//!
//! ```text
//!  0  ff:ff:ff:ff:ff:ff | 06 and 5 octets of the origin | type 88b6
//! 14  "weftloop"   8
//! 22  origin       8   hash of the host
//! 30  number       8   grows with each probe, across restarts
//! 38  tag         16   keyed BLAKE2s over the 24 octets before it: pods cannot make one
//! 54  zeros        6   up to the shortest Ethernet frame
//! ```

use weft_wire::hash::{equal_in_constant_time, mac16};
use weft_wire::{Mac, PeerHash};

/// IEEE 802 local experimental ethertype 2: what bridges on the way do not know, they flood.
const TYPE: [u8; 2] = [0x88, 0xb6];
const MAGIC: &[u8; 8] = b"weftloop";
/// Octets of a probe, without frame check sequence.
pub(crate) const LEN: usize = 60;
/// First octet of a probe's source: locally administered, and never that of a weft MAC, which a bridge must not
/// learn from a probe.
const SOURCE_OCTET: u8 = 0x06;

/// The probe with this number.
pub(crate) fn build(origin: PeerHash, number: u64, key: &[u8; 32]) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&Mac::BROADCAST.0);
    frame[6..12].copy_from_slice(&source(origin).0);
    frame[12..14].copy_from_slice(&TYPE);
    frame[14..22].copy_from_slice(MAGIC);
    frame[22..30].copy_from_slice(&origin.0);
    frame[30..38].copy_from_slice(&number.to_be_bytes());
    let tag = mac16(key, &[&frame[14..38]]);
    frame[38..54].copy_from_slice(&tag);
    frame
}

/// Source address of a host's probes.
pub(crate) fn source(origin: PeerHash) -> Mac {
    let [a, b, c, d, e, ..] = origin.0;
    Mac([SOURCE_OCTET, a, b, c, d, e])
}

/// True for a frame that looks like a probe, whoever made it.
pub(crate) fn is_probe(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&TYPE[..]) && frame.get(14..22) == Some(&MAGIC[..])
}

/// Origin and number of a probe of this cluster.
pub(crate) fn parse(frame: &[u8], key: &[u8; 32]) -> Option<(PeerHash, u64)> {
    if !is_probe(frame) {
        return None;
    }
    let signed = frame.get(14..38)?;
    let tag = <[u8; 16]>::try_from(frame.get(38..54)?).ok()?;
    if !equal_in_constant_time(&mac16(key, &[signed]), &tag) {
        return None;
    }
    let origin = <[u8; 8]>::try_from(signed.get(8..16)?).ok()?;
    let number = <[u8; 8]>::try_from(signed.get(16..24)?).ok()?;
    Some((PeerHash(origin), u64::from_be_bytes(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_reads_back_and_a_forged_one_does_not() {
        let (origin, key) = (PeerHash([9; 8]), [3; 32]);
        let probe = build(origin, 77, &key);
        assert_eq!(parse(&probe, &key), Some((origin, 77)));
        assert_eq!(Mac::source(&probe), Some(source(origin)));
        assert!(source(origin).is_valid_source());
        assert_eq!(parse(&probe, &[4; 32]), None);
        for at in 12..54 {
            let mut forged = probe;
            forged[at] ^= 1;
            assert_eq!(parse(&forged, &key), None, "octet {at}");
        }
        for length in 0..54 {
            assert_eq!(parse(&probe[..length], &key), None);
        }
    }
}
