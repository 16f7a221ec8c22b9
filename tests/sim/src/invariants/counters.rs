//! No counter is used twice under one key: with AES-GCM and ChaCha20-Poly1305 that would give the key away.

use super::{Invariant, Scene, Seen};
use std::collections::BTreeMap;

/// The last counter under each key, over all hosts and starts.
#[derive(Default)]
pub struct Counters {
    last: BTreeMap<[u8; 32], u64>,
}

impl Invariant for Counters {
    fn name(&self) -> &'static str {
        "counters"
    }

    fn see(&mut self, _: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Sealed(sealed) => match self.last.insert(sealed.key, sealed.counter) {
                Some(last) if sealed.counter <= last => Err(format!(
                    "counter {} was used under a key after {last}",
                    sealed.counter
                )),
                _ => Ok(()),
            },
            Seen::Installed {
                local,
                was_free: false,
            } => Err(format!("index {local:?} was installed twice")),
            _ => Ok(()),
        }
    }
}
