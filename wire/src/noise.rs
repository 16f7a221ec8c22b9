//! Noise patterns and the resolver that takes its randomness from outside (Noise Protocol Framework rev. 34).

use crate::id::{NoiseKeypair, NoisePublic};
use crate::recall;
use alloc::boxed::Box;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

/// Mesh links: both static keys are learned in the handshake, the secret is mixed in last.
pub const MESH_PATTERN: &str = "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s";
/// Sleeve sessions: the initiator knows the responder's static key, as in WireGuard.
pub const SLEEVE_PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Prologue of mesh handshakes: protocol name and version only.
pub const MESH_PROLOGUE: &[u8] = b"weft mesh 1";
/// Prologue of sleeve handshakes: protocol name and version only.
pub const SLEEVE_PROLOGUE: &[u8] = b"weft sleeve 1";

/// Gives snow its primitives, with a random source that grew from a seed.
///
/// One resolver serves one handshake: the seed must be fresh for each.
pub struct SeededResolver {
    seed: [u8; 32],
}

impl SeededResolver {
    /// A resolver whose ephemeral keys follow from the next 32 octets of `rng`.
    pub fn new(rng: &mut ChaCha20Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self { seed }
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(self.seed))))
    }
    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let again = || DefaultResolver.resolve_dh(&DHChoice::Curve25519);
        Some(recall::dh(DefaultResolver.resolve_dh(choice)?, again))
    }
    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl NoiseKeypair {
    /// A fresh key pair from `rng`, or `None` if the curve is not compiled in.
    pub fn generate(rng: &mut ChaCha20Rng) -> Option<Self> {
        let resolver = SeededResolver::new(rng);
        let mut dh = resolver.resolve_dh(&DHChoice::Curve25519)?;
        let mut random = resolver.resolve_rng()?;
        dh.generate(&mut *random).ok()?;
        Self::from_slices(dh.privkey(), dh.pubkey())
    }

    /// The key pair of a stored secret, or `None` if the curve is not compiled in.
    pub fn from_secret(secret: [u8; 32]) -> Option<Self> {
        let again = || DefaultResolver.resolve_dh(&DHChoice::Curve25519);
        let mut dh = recall::dh(again()?, again);
        dh.set(&secret);
        Self::from_slices(dh.privkey(), dh.pubkey())
    }

    fn from_slices(secret: &[u8], public: &[u8]) -> Option<Self> {
        Some(Self {
            secret: secret.try_into().ok()?,
            public: public.try_into().ok()?,
        })
    }
}

/// Static key of the other end, once a handshake has learned it.
pub fn remote_static(bytes: Option<&[u8]>) -> Option<NoisePublic> {
    Some(NoisePublic(bytes?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_pair_grows_from_its_seed_and_from_its_secret() {
        let a = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([1; 32])).unwrap();
        let again = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([1; 32])).unwrap();
        let other = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([2; 32])).unwrap();
        assert_eq!(a.public, again.public);
        assert_ne!(a.public, other.public);
        assert_eq!(NoiseKeypair::from_secret(a.secret).unwrap().public, a.public);
    }

    #[test]
    fn the_patterns_are_ones_that_snow_knows() {
        for pattern in [MESH_PATTERN, SLEEVE_PATTERN] {
            assert!(pattern.parse::<snow::params::NoiseParams>().is_ok(), "{pattern}");
        }
    }
}
