//! The threads of an engine, and their end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use super::shared::Shared;
use crate::engine::EngineError;

/// Dropping it stops the workers and waits for them.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            threads: Vec::new(),
        }
    }

    /// Starts one. If it cannot be started, dropping this ends those before it.
    pub(crate) fn spawn(
        &mut self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), EngineError> {
        self.threads.push(
            Builder::new()
                .name(name.into())
                .spawn(work)
                .map_err(EngineError::Worker)?,
        );
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.begin_stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker of the engine had panicked");
            }
        }
    }
}
