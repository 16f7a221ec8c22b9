//! The fast engine: frames of up to 64 KiB on both sides of the bridge, and runs of datagrams on both sides of the
//! socket.
//!
//! The kernel hands over what pods send before it is segmented, and takes back what it need not segment or check:
//! TAP devices with virtio-net headers, `UDP_SEGMENT` and `UDP_GRO`. A super-frame crosses in slices of which each can
//! be delivered alone ([`weft_sleeve::segment`]).
//!
//! | module | what it holds |
//! |---|---|
//! | `tx` | from the TAP device to the peers |
//! | `lane` | sealed datagrams for one peer, until they leave as one run |
//! | `rx` | from the peers to the TAP device |
//! | `gather` | slices and frames that arrived, until they are written as one |
//! | `work` | the threads, and what they wait for |

mod gather;
mod lane;
mod rx;
mod tx;
mod work;

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use weft_kernel::tap::{Offload, VnetHeader, VnetTap};
use weft_sleeve::door::DoorKeys;
use weft_sleeve::{ForwardingTable, Probe, SessionKeys};
use weft_wire::{DropReason, Mac, SessionIndex};

use crate::common::check_tap;
use crate::common::shared::Shared;
use crate::common::workers::Workers;
use crate::engine::{Counters, Engine, EngineConfig, EngineDescription, EngineError};

/// Carries super-frames. See the [module](self).
pub struct FastEngine {
    shared: Arc<Shared>,
    tap: Arc<VnetTap>,
    _workers: Workers,
    degradations: Vec<String>,
}

impl FastEngine {
    /// Opens the TAP device and starts the workers. Nothing is sent before a table is published.
    ///
    /// # Errors
    /// The TAP device is missing, is none, is held by another process, or does without virtio-net headers; the socket
    /// refuses an option; a thread cannot be started.
    pub fn start(config: EngineConfig) -> Result<Self, EngineError> {
        let tap = open_tap(&config.tap)?;
        Self::start_on(tap, config)
    }

    pub(crate) fn start_on(tap: VnetTap, config: EngineConfig) -> Result<Self, EngineError> {
        let tap = Arc::new(tap);
        let (shared, mut degradations) = Shared::start(config.socket, config.events)?;
        degradations.extend(lacking(tap.offload()));
        let sender = tx::Sender::new(Arc::clone(&shared), Arc::clone(&tap));
        let receiver = rx::Receiver::new(Arc::clone(&shared), Arc::clone(&tap));
        let mut workers = Workers::new(Arc::clone(&shared));
        work::start(&mut workers, &shared, &config.tap, sender, receiver)?;
        Ok(Self {
            shared,
            tap,
            _workers: workers,
            degradations,
        })
    }
}

/// Opens a TAP device that exists, with what offloads the kernel has.
pub(crate) fn open_tap(name: &str) -> Result<VnetTap, EngineError> {
    check_tap(name)?;
    VnetTap::open(name).map_err(|error| EngineError::of_tap(name, error))
}

/// What the kernel does not leave to the engine, in a sentence.
fn lacking(offload: Offload) -> Option<String> {
    let lack = match offload {
        Offload::TcpAndUdp => return None,
        Offload::Tcp => "UDP of pods in one frame for many datagrams (it came with Linux 6.2)",
        Offload::Checksum => "TCP of pods in frames of 64 KiB",
    };
    Some(format!(
        "the kernel does not hand over {lack}, so it is slower than it could be"
    ))
}

impl Engine for FastEngine {
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
        let header = VnetHeader::default().to_bytes();
        if let Some(probe) = self.shared.loop_probe()
            && self
                .tap
                .write(&[IoSlice::new(&header), IoSlice::new(&probe)])
                .is_err()
        {
            self.shared.tally.drop(DropReason::TapFailed, None);
        }
    }

    fn counters(&self) -> Counters {
        self.shared.counters()
    }

    fn description(&self) -> EngineDescription {
        self.shared.describe("fast", &self.degradations)
    }
}
