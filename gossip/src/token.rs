//! Join tokens: whoever holds one may become a member.
//!
//! A *generated* token carries 160 random bits and is written `weft1-` plus 36 letters and digits of Crockford's
//! base 32 (20 random octets, 2 octets of checksum, 4 zero bits). Any other text is taken as a *password*,
//! and stretched with Argon2id (RFC 9106), because a recorded handshake lets its owner try guesses.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use argon2::{Algorithm, Argon2, Params, Version};
use core::fmt;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use weft_wire::Psk;
use weft_wire::hash::hash;
use weft_wire::secret::Protocol;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// First characters of every generated token.
pub const TOKEN_PREFIX: &str = "weft1-";
/// Fewest characters of a password: below, even stretched guessing is quick.
pub const PASSWORD_MIN_CHARS: usize = 12;
/// Fewest different characters of a password: "aaaaaaaaaaaa" is no secret.
pub const PASSWORD_MIN_DISTINCT: usize = 5;
/// Longest token text that is read, in octets.
pub const TOKEN_TEXT_MAX: usize = 1_024;

/// The same for every cluster: a salt must be known before the first contact. Guessing tables for it would
/// cost as much as guessing.
const PASSWORD_SALT: &[u8] = b"weft join token v1";
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const RANDOM_LEN: usize = 20;
const CHECKSUM_LEN: usize = 2;
const TEXT_LEN: usize = ((RANDOM_LEN + CHECKSUM_LEN) * 8).div_ceil(5);

/// Why a text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Starts like a generated token and is not one.
    #[error(
        "the token is damaged: a generated token is `weft1-` and 36 letters and digits; copy it again in full"
    )]
    Damaged,
    /// A password that is too short.
    #[error(
        "the token has {0} characters; a password needs at least {PASSWORD_MIN_CHARS}. Better: use a generated token"
    )]
    TooShort(usize),
    /// A password of too few different characters.
    #[error(
        "the token has only {0} different characters; a password needs at least {PASSWORD_MIN_DISTINCT}. \
         Better: use a generated token"
    )]
    TooUniform(usize),
    /// More text than any token has.
    #[error("the token is longer than {TOKEN_TEXT_MAX} octets; is this the right file?")]
    TooLong,
    /// Argon2 did not run: not enough memory.
    #[error("the password could not be stretched: it takes {0} KiB of memory. A generated token needs none")]
    Stretch(u32),
}

/// What stretching a password costs. All hosts of a cluster must use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StretchCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
}

impl StretchCost {
    /// What weft ships: 64 MiB and 3 passes on one lane, the second recommended choice of RFC 9106 §4.
    pub const SHIPPED: Self = Self {
        memory_kib: 64 * 1_024,
        passes: 3,
    };
}

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
enum Form {
    Generated([u8; RANDOM_LEN]),
    Password([u8; 32]),
}

/// A join token; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct JoinToken(Form);

impl JoinToken {
    /// A new token of 160 random bits.
    pub fn generate(rng: &mut ChaCha20Rng) -> Self {
        let mut random = [0; RANDOM_LEN];
        rng.fill_bytes(&mut random);
        Self(Form::Generated(random))
    }

    /// Reads a token as an operator gives it; space around it is ignored. A password is stretched here, which
    /// takes some tenths of a second and 64 MiB.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        Self::parse_with(text, StretchCost::SHIPPED)
    }

    /// As [`JoinToken::parse`], at another cost.
    pub fn parse_with(text: &str, cost: StretchCost) -> Result<Self, TokenError> {
        if text.len() > TOKEN_TEXT_MAX {
            return Err(TokenError::TooLong);
        }
        let text = text.trim();
        if text
            .get(..TOKEN_PREFIX.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(TOKEN_PREFIX))
        {
            let random = read_generated(&text[TOKEN_PREFIX.len()..]).ok_or(TokenError::Damaged)?;
            return Ok(Self(Form::Generated(random)));
        }
        let chars = text.chars().count();
        if chars < PASSWORD_MIN_CHARS {
            return Err(TokenError::TooShort(chars));
        }
        let distinct = text.chars().collect::<BTreeSet<_>>().len();
        if distinct < PASSWORD_MIN_DISTINCT {
            return Err(TokenError::TooUniform(distinct));
        }
        let mut key = [0; 32];
        Params::new(cost.memory_kib, cost.passes, 1, Some(32))
            .and_then(|params| {
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(
                    text.as_bytes(),
                    PASSWORD_SALT,
                    &mut key,
                )
            })
            .map_err(|_| TokenError::Stretch(cost.memory_kib))?;
        Ok(Self(Form::Password(key)))
    }

    /// The pre-shared key of mesh handshakes under this token.
    pub fn psk(&self) -> Psk {
        let mut secret = match &self.0 {
            Form::Generated(random) => hash("weft join token v1", &[random]),
            Form::Password(key) => hash("weft join password v1", &[key]),
        };
        let psk = Psk::derive(&secret, Protocol::Mesh);
        secret.zeroize();
        psk
    }

    /// The text of a generated token, to be handed to operators; a password's text is not kept.
    pub fn text(&self) -> Option<String> {
        match &self.0 {
            Form::Generated(random) => Some(write_generated(random)),
            Form::Password(_) => None,
        }
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(&text),
            None => f.write_str("(password)"),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({:?})", self.psk().id)
    }
}

fn checksum(random: &[u8; RANDOM_LEN]) -> [u8; CHECKSUM_LEN] {
    let full = hash("weft join token checksum v1", &[random]);
    [full[0], full[1]]
}

fn write_generated(random: &[u8; RANDOM_LEN]) -> String {
    let mut text = String::from(TOKEN_PREFIX);
    let (mut bits, mut count) = (0u32, 0);
    for octet in random.iter().chain(&checksum(random)) {
        bits = (bits << 8) | u32::from(*octet);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(ALPHABET[(bits >> count) as usize & 31]));
        }
    }
    if count > 0 {
        text.push(char::from(ALPHABET[(bits << (5 - count)) as usize & 31]));
    }
    text
}

/// Value of one character; `o` reads as 0, `i` and `l` as 1, as Crockford's alphabet has it.
fn digit(c: u8) -> Option<u32> {
    let c = match c.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    let position = ALPHABET.iter().position(|&a| a == c)?;
    u32::try_from(position).ok()
}

fn read_generated(text: &str) -> Option<[u8; RANDOM_LEN]> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let (mut bits, mut count) = (0u32, 0);
    let mut octets = Vec::with_capacity(RANDOM_LEN + CHECKSUM_LEN);
    for c in text.bytes() {
        bits = ((bits << 5) | digit(c)?) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            octets.push((bits >> count) as u8);
        }
    }
    let left_over = bits & ((1 << count) - 1);
    let (random, sum) = octets.split_at_checked(RANDOM_LEN)?;
    let random: [u8; RANDOM_LEN] = random.try_into().ok()?;
    (left_over == 0 && sum == checksum(&random)).then_some(random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    const CHEAP: StretchCost = StretchCost {
        memory_kib: 32,
        passes: 1,
    };

    fn token(seed: u8) -> JoinToken {
        JoinToken::generate(&mut ChaCha20Rng::from_seed([seed; 32]))
    }

    #[test]
    fn a_generated_token_reads_back_also_when_typed_in_capitals() {
        let token = token(1);
        let text = token.text().unwrap();
        assert_eq!(text.len(), TOKEN_PREFIX.len() + 36);
        let sloppy = alloc::format!(" {}\n", text.to_uppercase().replace('0', "O").replace('1', "L"));
        for form in [&text, &sloppy.replace("WEFTL", "WEFT1")] {
            assert_eq!(JoinToken::parse(form).unwrap().psk(), token.psk());
        }
    }

    #[test]
    fn every_single_wrong_character_is_noticed() {
        let text = token(2).text().unwrap();
        let mut passed = 0;
        for i in TOKEN_PREFIX.len()..text.len() {
            for c in ALPHABET {
                let mut bytes = text.clone().into_bytes();
                if bytes[i] == *c {
                    continue;
                }
                bytes[i] = *c;
                let wrong = String::from_utf8(bytes).unwrap();
                match JoinToken::parse(&wrong) {
                    Err(error) => assert_eq!(error, TokenError::Damaged),
                    Ok(other) => {
                        assert_ne!(other.psk(), token(2).psk());
                        passed += 1;
                    }
                }
            }
        }
        // 1,116 changes against a checksum of 16 bits.
        assert!(passed <= 1, "{passed} damaged tokens passed the checksum");
        assert_eq!(JoinToken::parse(&text[..20]).unwrap_err(), TokenError::Damaged);
    }

    #[test]
    fn trivial_passwords_are_refused_with_the_cure() {
        assert_eq!(
            JoinToken::parse_with("short", CHEAP).unwrap_err(),
            TokenError::TooShort(5)
        );
        assert_eq!(
            JoinToken::parse_with("abababababababab", CHEAP).unwrap_err(),
            TokenError::TooUniform(2)
        );
        assert!(TokenError::TooShort(5).to_string().contains("generated token"));
        assert_eq!(
            JoinToken::parse_with(&"x".repeat(2_000), CHEAP).unwrap_err(),
            TokenError::TooLong
        );
    }

    #[test]
    fn a_password_gives_one_key_and_each_cost_another() {
        let text = "correct horse battery";
        let a = JoinToken::parse_with(text, CHEAP).unwrap();
        assert_eq!(JoinToken::parse_with(text, CHEAP).unwrap().psk(), a.psk());
        assert_ne!(
            JoinToken::parse_with("correct horse batterz", CHEAP)
                .unwrap()
                .psk(),
            a.psk()
        );
        let dearer = StretchCost {
            memory_kib: 64,
            passes: 1,
        };
        assert_ne!(JoinToken::parse_with(text, dearer).unwrap().psk(), a.psk());
        assert_eq!(a.to_string(), "(password)");
        assert!(!format!("{a:?}").contains("correct"));
    }

    #[test]
    fn the_shipped_cost_is_64_mib_and_three_passes() {
        assert_eq!(
            (StretchCost::SHIPPED.memory_kib, StretchCost::SHIPPED.passes),
            (65_536, 3)
        );
        let shipped = JoinToken::parse("correct horse battery").unwrap();
        let same = JoinToken::parse_with("correct horse battery", StretchCost::SHIPPED).unwrap();
        assert_eq!(shipped.psk(), same.psk());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}", tail in "[0-9a-z]{36}") {
            let _ = JoinToken::parse_with(&text, CHEAP);
            let _ = JoinToken::parse_with(&alloc::format!("weft1-{tail}"), CHEAP);
        }

        #[test]
        fn generated_tokens_read_back(seed in any::<[u8; 32]>()) {
            let token = JoinToken::generate(&mut ChaCha20Rng::from_seed(seed));
            prop_assert_eq!(JoinToken::parse(&token.to_string()).unwrap().psk(), token.psk());
        }
    }
}
