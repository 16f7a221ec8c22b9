//! From the peers to the TAP device.

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_udp::RecvMeta;
use weft_kernel::tap::VnetTap;
use weft_wire::DropReason;

use super::gather::Gather;
use super::tx::Left;
use crate::address::normal;
use crate::common::inlet::Inlet;
use crate::common::relay::is_relay;
use crate::common::shared::Shared;
use crate::view::Views;

/// Buffers given to the kernel at once. Each may come back full of small datagrams. Few, so that what was received is
/// still in the processor's cache when it is opened.
const BATCH: usize = 4;
/// Octets of one buffer: no UDP datagram, and nothing that the kernel joins from several, is longer (RFC 768).
const BUFFER: usize = 65_536;

pub(super) struct Receiver {
    shared: Arc<Shared>,
    tap: Arc<VnetTap>,
    buffers: Box<[u8]>,
    inlet: Inlet,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, tap: Arc<VnetTap>) -> Self {
        Self {
            inlet: Inlet::new(Arc::clone(&shared)),
            shared,
            tap,
            buffers: vec![0; BATCH * BUFFER].into(),
        }
    }

    /// How long the worker may sleep; for ever while nothing is incomplete.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.inlet.patience()
    }

    /// Takes one batch from the socket and writes what came in it.
    ///
    /// # Errors
    /// What the socket says. Single errors tell of a datagram sent earlier.
    pub(super) fn turn(&mut self, views: &mut Views<'_>) -> io::Result<Left> {
        let mut metas = [RecvMeta::default(); BATCH];
        let mut rest = self.buffers.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        let received = self
            .shared
            .udp
            .recv((&self.shared.socket).into(), &mut slices, &mut metas);
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.inlet.expire();
                return Ok(Left::Nothing);
            }
            Err(error) => return Err(error),
        };
        // What was published before a datagram arrived holds for it.
        let view = views.load();
        let now = Instant::now();
        let mut gather = Gather::new(&self.tap, &self.shared, &mut self.inlet, view, now);
        for (buffer, meta) in slices.iter_mut().zip(&metas).take(count) {
            let from = normal(meta.addr);
            let filled = buffer.get_mut(..meta.len).unwrap_or_default();
            if filled.is_empty() {
                self.shared.tally.drop(DropReason::DatagramTooShort, Some(from));
            }
            // One datagram, or several of equal size that the kernel joined (UDP_GRO).
            let (stride, mut rest) = (meta.stride.max(1), filled);
            while !rest.is_empty() {
                let passed = match is_relay(rest) {
                    true => gather.relay(from, rest, stride),
                    false => 0,
                };
                let taken = if passed > 0 {
                    passed
                } else {
                    stride.min(rest.len())
                };
                let (datagram, after) = rest.split_at_mut(taken);
                if passed == 0
                    && let Err(reason) = gather.take(from, datagram)
                {
                    self.shared.tally.drop(reason, Some(from));
                }
                rest = after;
            }
        }
        gather.flush();
        Ok(Left::Perhaps)
    }
}
