//! The plain engine: one frame a read from the TAP device, one frame a datagram, two threads.
//!
//! It runs wherever there is a TAP device, with a kernel of any age and without offloads.

mod device;
mod pieces;
mod probes;
mod rx;
mod shared;
mod tx;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};

use mio::Waker;
use tun_tap::{Iface, Mode};
use weft_kernel::{link, socket};
use weft_sleeve::{ForwardingTable, Probe, SessionKeys};
use weft_wire::{DropReason, SessionIndex};

pub use self::device::FrameDevice;
use self::shared::Shared;
use crate::engine::{Counters, Engine, EngineConfig, EngineDescription, EngineError};

/// Octets that the socket should be able to hold: at 8 Gbit/s the receiving worker may be away for 16 ms.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Carries one frame a datagram. See the [module](self).
pub struct PlainEngine {
    shared: Arc<Shared>,
    tap: Arc<dyn FrameDevice>,
    wakers: Vec<Waker>,
    workers: Vec<JoinHandle<()>>,
    degradations: Vec<String>,
}

impl PlainEngine {
    /// Opens the TAP device and starts the workers. Nothing is sent before a table is published.
    ///
    /// # Errors
    /// The TAP device is missing, is none, or is held by another process; the socket refuses an option; a thread
    /// cannot be started.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let tap = open_tap(&config.tap)?;
        Self::start_on(tap, config)
    }

    /// As [`PlainEngine::start`], on a device that is open already; its name in the configuration is for messages only.
    ///
    /// # Errors
    /// The socket refuses an option; a thread cannot be started.
    pub fn start_on(device: impl FrameDevice, config: EngineConfig) -> Result<Self, EngineError> {
        let tap: Arc<dyn FrameDevice> = Arc::new(device);
        let mut degradations = Vec::new();
        let reached = socket::set_receive_buffer(&config.socket, RECEIVE_BUFFER)?;
        if reached < RECEIVE_BUFFER {
            degradations.push(format!(
                "the UDP socket holds {} KiB instead of {} KiB, so bursts may be lost: raise net.core.rmem_max to {}",
                reached >> 10,
                RECEIVE_BUFFER >> 10,
                RECEIVE_BUFFER
            ));
        }
        let shared = Arc::new(Shared::new(config.socket, config.events).map_err(EngineError::Socket)?);
        if shared.may_fragment() {
            degradations.push(
                "the kernel cannot be kept from fragmenting sleeve datagrams: paths that are too small are not \
                 noticed"
                    .into(),
            );
        }
        let (sender, wake_sender) = tx::Sender::new(Arc::clone(&shared), Arc::clone(&tap), config.tap)
            .map_err(EngineError::Worker)?;
        let (receiver, wake_receiver) =
            rx::Receiver::new(Arc::clone(&shared), Arc::clone(&tap)).map_err(EngineError::Worker)?;
        let mut engine = Self {
            shared,
            tap,
            wakers: vec![wake_sender, wake_receiver],
            workers: Vec::new(),
            degradations,
        };
        // If the second cannot be started, dropping the engine ends the first.
        engine.spawn("weft-sleeve-tx", || sender.run())?;
        engine.spawn("weft-sleeve-rx", || receiver.run())?;
        Ok(engine)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.workers.push(
            Builder::new()
                .name(name.into())
                .spawn(work)
                .map_err(EngineError::Worker)?,
        );
        Ok(())
    }
}

/// Opens a TAP device that exists, non-blocking. The kernel would make a missing one, which nobody wired.
fn open_tap(name: &str) -> Result<Iface, EngineError> {
    let found = link::find(name)?.ok_or_else(|| EngineError::NoTap { name: name.into() })?;
    if found.kind.as_deref() != Some("tun") {
        return Err(EngineError::NotATap { name: name.into() });
    }
    let failed = |source: io::Error| EngineError::OpenTap {
        name: name.into(),
        source,
    };
    let tap = Iface::without_packet_info(name, Mode::Tap).map_err(failed)?;
    tap.set_non_blocking().map_err(failed)?;
    Ok(tap)
}

impl Engine for PlainEngine {
    fn install(&self, keys: &SessionKeys) -> Result<(), EngineError> {
        self.shared.install(keys)
    }

    fn remove(&self, local: SessionIndex) {
        self.shared.remove(local);
    }

    fn publish(&self, table: &ForwardingTable) {
        self.shared.publish(table);
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.shared.send(to, datagram);
    }

    fn keepalive(&self, local: SessionIndex) {
        self.shared.keepalive(local);
    }

    fn probe(&self, local: SessionIndex, probe: Probe) {
        self.shared.probe(local, probe);
    }

    fn probe_for_loops(&self) {
        if let Some(probe) = self.shared.loop_probe()
            && self.tap.send(&probe).is_err()
        {
            self.shared.tally.drop(DropReason::TapFailed, None);
        }
    }

    fn counters(&self) -> Counters {
        self.shared.counters()
    }

    fn description(&self) -> EngineDescription {
        let failure = self
            .shared
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let degradations = self.degradations.iter().cloned().chain(failure).collect();
        EngineDescription {
            name: "plain",
            degradations,
        }
    }
}

impl Drop for PlainEngine {
    fn drop(&mut self) {
        self.shared.begin_stop();
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                tracing::warn!(%error, "cannot wake a worker of the engine");
            }
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker of the engine had panicked");
            }
        }
    }
}
