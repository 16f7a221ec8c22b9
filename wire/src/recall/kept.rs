//! Results of curve operations, remembered once somebody asks for it: for a simulator.
//!
//! There twenty hosts in one thread check the same signatures, both ends of a handshake compute the same secret, and a seed
//! that runs twice asks for all of it again. All operations here are pure functions, and what is remembered
//! is what they gave for the same octets. Only the feature `recall` brings it, and no program that is installed has that feature.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use snow::types::{Dh, Random};
use spin::{Mutex, Once};

/// Results of one kind that are kept; then all of them are dropped. A run of twenty hosts has about 5,000.
const KEPT_MAX: usize = 50_000;

type Octets = [u8; 32];
/// Who signed, what, and the signature.
type Signed = (Octets, Vec<u8>, [u8; 64]);

struct Kept {
    signatures: BTreeMap<(Octets, Vec<u8>), [u8; 64]>,
    verified: BTreeMap<Signed, bool>,
    public: BTreeMap<Octets, Octets>,
    /// By both public keys, the lower first: either end computes the same.
    shared: BTreeMap<(Octets, Octets), Octets>,
}

/// Whether anything is remembered.
static IS_ON: AtomicBool = AtomicBool::new(false);
/// Held for one look or one entry; all threads gain from what one has computed.
static KEPT: Mutex<Kept> = Mutex::new(Kept {
    signatures: BTreeMap::new(),
    verified: BTreeMap::new(),
    public: BTreeMap::new(),
    shared: BTreeMap::new(),
});

/// From now on results are remembered in this process.
pub fn begin() {
    IS_ON.store(true, Ordering::Relaxed);
}

/// What is kept for `key`, else what `compute` gives.
fn of<K, V, F>(of: F, key: K, compute: impl FnOnce() -> V) -> V
where
    K: Ord,
    V: Copy,
    F: Fn(&mut Kept) -> &mut BTreeMap<K, V>,
{
    if let Some(known) = of(&mut KEPT.lock()).get(&key) {
        return *known;
    }
    // Without the lock: this is what takes time.
    let value = compute();
    let mut kept = KEPT.lock();
    let kept = of(&mut kept);
    if kept.len() >= KEPT_MAX {
        kept.clear();
    }
    kept.insert(key, value);
    value
}

fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// A signature by the key that grows from `seed`.
pub(crate) fn signature(
    seed: impl FnOnce() -> Octets,
    message: &[u8],
    compute: impl FnOnce() -> [u8; 64],
) -> [u8; 64] {
    if !is_on() {
        return compute();
    }
    of(|kept| &mut kept.signatures, (seed(), message.to_vec()), compute)
}

/// Whether a signature holds.
pub(crate) fn verified(
    node: Octets,
    message: &[u8],
    signature: &[u8; 64],
    compute: impl FnOnce() -> bool,
) -> bool {
    if !is_on() {
        return compute();
    }
    of(
        |kept| &mut kept.verified,
        (node, message.to_vec(), *signature),
        compute,
    )
}

/// X25519 as `inner` does it.
pub(crate) fn dh(inner: Box<dyn Dh>, again: fn() -> Option<Box<dyn Dh>>) -> Box<dyn Dh> {
    if !is_on() {
        return inner;
    }
    Box::new(Recalling {
        secret: [0; 32],
        public: [0; 32],
        again,
        inner: Once::new(),
    })
}

struct Recalling {
    secret: Octets,
    public: Octets,
    again: fn() -> Option<Box<dyn Dh>>,
    /// Computes what is not known, once it has the secret.
    inner: Once<Option<Box<dyn Dh>>>,
}

impl Recalling {
    fn inner(&self) -> Option<&dyn Dh> {
        let made = self.inner.call_once(|| {
            let mut inner = (self.again)()?;
            inner.set(&self.secret);
            Some(inner)
        });
        made.as_deref()
    }
}

impl Dh for Recalling {
    fn name(&self) -> &'static str {
        "25519"
    }
    fn pub_len(&self) -> usize {
        32
    }
    fn priv_len(&self) -> usize {
        32
    }
    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.inner = Once::new();
        self.public = of(
            |kept| &mut kept.public,
            self.secret,
            || {
                let mut public = [0; 32];
                if let Some(inner) = self.inner() {
                    public.copy_from_slice(inner.pubkey());
                }
                public
            },
        );
    }
    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = [0; 32];
        random.try_fill_bytes(&mut secret)?;
        self.set(&secret);
        Ok(())
    }
    fn pubkey(&self) -> &[u8] {
        &self.public
    }
    fn privkey(&self) -> &[u8] {
        &self.secret
    }
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let theirs: Octets = public[..32].try_into().map_err(|_| snow::Error::Dh)?;
        let key = (self.public.min(theirs), self.public.max(theirs));
        let compute = || {
            let mut shared = [0; 32];
            if let Some(inner) = self.inner() {
                // X25519 has no input that it refuses.
                let _ = inner.dh(&theirs, &mut shared);
            }
            shared
        };
        out[..32].copy_from_slice(&of(|kept| &mut kept.shared, key, compute));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NodeKey, NoiseKeypair};
    use snow::params::DHChoice;
    use snow::resolvers::{CryptoResolver as _, DefaultResolver};

    /// What each end of an exchange gets, and what signatures are worth.
    fn all() -> Vec<Vec<u8>> {
        let [a, b] = [1, 2].map(|seed| NoiseKeypair::from_secret([seed; 32]).unwrap());
        let mut results = vec![a.public.to_vec(), b.public.to_vec()];
        let low_order = [0; 32];
        let not_canonical = [0xff; 32];
        for (own, theirs) in [
            (&a, &b.public),
            (&b, &a.public),
            (&a, &a.public),
            (&a, &low_order),
            (&b, &not_canonical),
        ] {
            let plain = DefaultResolver.resolve_dh(&DHChoice::Curve25519).unwrap();
            let mut ours = dh(plain, || DefaultResolver.resolve_dh(&DHChoice::Curve25519));
            ours.set(&own.secret);
            let mut out = vec![0; 32];
            ours.dh(theirs, &mut out).unwrap();
            results.push(out);
        }
        let key = NodeKey::from_seed([3; 32]);
        let signature = key.sign(b"one");
        results.push(signature.to_vec());
        for message in [b"one", b"two"] {
            results.push(vec![u8::from(key.id().verify(message, &signature))]);
        }
        results
    }

    #[test]
    fn what_is_remembered_is_what_was_computed() {
        let computed = all();
        begin();
        assert_eq!(all(), computed, "for the first time");
        assert_eq!(all(), computed, "again");
        let kept = KEPT.lock();
        // Other tests of this process may have added to it.
        assert!(kept.verified.len() >= 2 && kept.shared.len() >= 4);
    }
}
