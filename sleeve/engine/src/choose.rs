//! Which engine runs.

use crate::engine::{Engine, EngineConfig, EngineError};
use crate::fast::{self, FastEngine};
use crate::plain::PlainEngine;

/// What the operator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The fast engine, and the plain one where the kernel lacks what the fast one needs.
    #[default]
    Best,
    /// The plain engine.
    Plain,
}

/// Starts an engine. When it is not the fast one because that does not start, its description says why.
///
/// # Errors
/// As [`PlainEngine::start`] and [`FastEngine::start`].
pub fn start(choice: EngineChoice, config: EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
    match choice {
        EngineChoice::Plain => Ok(Box::new(PlainEngine::start(config)?)),
        EngineChoice::Best => match fast::open_tap(&config.tap) {
            Ok(tap) => Ok(Box::new(FastEngine::start_on(tap, config)?)),
            Err(error) => {
                let why = format!(
                    "the fast engine does not start ({error}), so every frame costs several system calls: it needs \
                     Linux 4.18 or newer, and a TAP device with virtio-net headers"
                );
                Ok(Box::new(PlainEngine::start_instead(config, why)?))
            }
        },
    }
}
