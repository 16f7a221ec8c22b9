//! Randomness from the kernel: every seed that a core gets comes from here.

use anyhow::anyhow;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// 32 octets from getrandom(2).
pub(crate) fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| anyhow!("the kernel gives no random octets: {e}"))?;
    Ok(seed)
}

/// A generator that grew from such a seed.
pub(crate) fn rng() -> anyhow::Result<ChaCha20Rng> {
    Ok(ChaCha20Rng::from_seed(seed()?))
}
