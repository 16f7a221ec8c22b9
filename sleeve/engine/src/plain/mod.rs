//! The plain engine: one frame a read from the TAP device, one frame a datagram, two threads.
//!
//! It runs wherever there is a TAP device, with a kernel of any age and without offloads.

mod device;
mod rx;
mod tx;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tun_tap::{Iface, Mode};
use weft_kernel::tap::clear_offload;
use weft_sleeve::door::DoorKeys;
use weft_sleeve::{ForwardingTable, Probe, SessionKeys};
use weft_wire::{DropReason, Mac, SessionIndex};

pub use self::device::FrameDevice;
use crate::common::check_tap;
use crate::common::shared::Shared;
use crate::common::workers::Workers;
use crate::engine::{Counters, Engine, EngineConfig, EngineDescription, EngineError};

/// Carries one frame a datagram. See the [module](self).
pub struct PlainEngine {
    shared: Arc<Shared>,
    tap: Arc<dyn FrameDevice>,
    _workers: Workers,
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

    /// The same, for want of a better engine; `why` says in a sentence why there is none.
    pub(crate) fn start_instead(config: EngineConfig, why: String) -> Result<Self, EngineError> {
        let mut engine = Self::start(config)?;
        engine.degradations.push(why);
        Ok(engine)
    }

    /// As [`PlainEngine::start`], on a device that is open already; its name in the configuration is for messages only.
    ///
    /// # Errors
    /// The socket refuses an option; a thread cannot be started.
    pub fn start_on(device: impl FrameDevice, config: EngineConfig) -> Result<Self, EngineError> {
        let tap: Arc<dyn FrameDevice> = Arc::new(device);
        let (shared, degradations) = Shared::start(config.socket, config.events)?;
        let sender = tx::Sender::new(Arc::clone(&shared), Arc::clone(&tap), config.tap)
            .map_err(EngineError::Worker)?;
        let receiver =
            rx::Receiver::new(Arc::clone(&shared), Arc::clone(&tap)).map_err(EngineError::Worker)?;
        let mut workers = Workers::new(Arc::clone(&shared));
        workers.spawn("weft-sleeve-tx", || sender.run())?;
        workers.spawn("weft-sleeve-rx", || receiver.run())?;
        Ok(Self {
            shared,
            tap,
            _workers: workers,
            degradations,
        })
    }
}

/// Opens a TAP device that exists, non-blocking. The kernel would make a missing one, which nobody wired.
fn open_tap(name: &str) -> Result<Iface, EngineError> {
    check_tap(name)?;
    // A fast engine may have left offloads on it.
    clear_offload(name).map_err(|error| EngineError::of_tap(name, error))?;
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

    fn guard(&self, cores: Vec<DoorKeys>) {
        self.shared.guard(cores);
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

    fn announce(&self, local: SessionIndex, mac: Mac) {
        self.shared.announce(local, mac);
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
        self.shared.describe("plain", &self.degradations)
    }
}
