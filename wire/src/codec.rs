//! The only place that calls bincode: every control message and record body is encoded and decoded here.
//!
//! Format: bincode 2, big-endian, variable-length integers. A decode reads at most as many octets as its limit says, refuses
//! trailing octets, and so re-encodes to the same octets or fails.

use alloc::vec::Vec;
use serde::Serialize;
use serde::de::DeserializeOwned;

const CONFIG: bincode::config::Configuration<bincode::config::BigEndian> =
    bincode::config::standard().with_big_endian();

/// Why octets are not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More octets than the type may have.
    #[error("longer than its limit")]
    TooLong,
    /// The octets are not of this type, or claim more than the limit.
    #[error("malformed")]
    Malformed,
    /// A complete message, with octets behind it.
    #[error("octets behind the end")]
    Trailing,
    /// Not the shortest form of what it says.
    #[error("not in canonical form")]
    NotCanonical,
}

/// Encodes a value. Values of this crate always encode; a value whose `Serialize` fails gives no octets.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, CONFIG).unwrap_or_default()
}

/// Decodes a value of at most `LIMIT` octets, and only from its canonical form.
pub fn decode<T: Serialize + DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > LIMIT {
        return Err(DecodeError::TooLong);
    }
    let (value, read) = bincode::serde::decode_from_slice(bytes, CONFIG.with_limit::<LIMIT>())
        .map_err(|_| DecodeError::Malformed)?;
    if read != bytes.len() {
        return Err(DecodeError::Trailing);
    }
    if encode(&value) != bytes {
        return Err(DecodeError::NotCanonical);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Sample = (u64, Vec<u8>, Option<alloc::string::String>);

    proptest! {
        #[test]
        fn arbitrary_octets_decode_to_themselves_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = decode::<Sample, 128>(&bytes) {
                prop_assert_eq!(encode(&value), bytes);
            }
        }

        #[test]
        fn values_survive(a in any::<u64>(), b in proptest::collection::vec(any::<u8>(), 0..64)) {
            let value: Sample = (a, b, Some("x".into()));
            prop_assert_eq!(decode::<Sample, 256>(&encode(&value)), Ok(value));
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let good = encode(&(5u64, alloc::vec![1u8], None::<alloc::string::String>));
        let mut trailing = good.clone();
        trailing.push(0);
        assert_eq!(decode::<Sample, 64>(&trailing), Err(DecodeError::Trailing));
        assert_eq!(decode::<Sample, 2>(&good), Err(DecodeError::TooLong));
        assert_eq!(decode::<Sample, 64>(&good[..1]), Err(DecodeError::Malformed));
        // 5 written as a two-octet integer.
        assert_eq!(decode::<u64, 64>(&[251, 0, 5]), Err(DecodeError::NotCanonical));
    }

    #[test]
    fn a_length_bomb_is_refused_before_it_allocates() {
        let bomb = encode(&u64::MAX);
        assert_eq!(decode::<Vec<u8>, 64>(&bomb), Err(DecodeError::Malformed));
    }
}
