//! The one hash of the project: BLAKE2s-256 (RFC 7693), always with a domain string.

use blake2::digest::consts::{U16, U32};
use blake2::digest::{FixedOutput, KeyInit, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest};

/// Hash of `parts` under `domain`. Every part is preceded by its length, so that no two lists collide.
pub fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut h = Blake2s256::new();
    Digest::update(&mut h, (domain.len() as u64).to_be_bytes());
    Digest::update(&mut h, domain.as_bytes());
    for part in parts {
        Digest::update(&mut h, (part.len() as u64).to_be_bytes());
        Digest::update(&mut h, part);
    }
    h.finalize().into()
}

/// Keyed BLAKE2s with a 16-octet output, as WireGuard uses for `mac1` and `mac2`.
pub fn mac16(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Blake2sMac<U16> as KeyInit>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// Keyed BLAKE2s with a 32-octet output: derives one key from another under a domain.
pub fn derive(key: &[u8; 32], domain: &str) -> [u8; 32] {
    let mut mac = <Blake2sMac<U32> as KeyInit>::new(key.into());
    mac.update(domain.as_bytes());
    mac.finalize_fixed().into()
}

/// True when both are equal; takes the same time wherever they differ.
pub fn equal_in_constant_time(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash("d", &[b"ab", b"c"]), hash("d", &[b"a", b"bc"]));
        assert_ne!(hash("d", &[b"ab"]), hash("e", &[b"ab"]));
        assert_ne!(derive(&[1; 32], "a"), derive(&[1; 32], "b"));
    }

    #[test]
    fn comparison_sees_every_octet() {
        let a = [7u8; 16];
        assert!(equal_in_constant_time(&a, &a));
        for i in 0..16 {
            let mut b = a;
            b[i] ^= 1;
            assert!(!equal_in_constant_time(&a, &b));
        }
    }
}
