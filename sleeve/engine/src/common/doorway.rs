//! Handshake datagrams on their way to the control thread: a flood of them does not get there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_sleeve::door::{Admission, Door, DoorKeys, Sender};
use weft_wire::datagram::Header;
use weft_wire::{DropReason, Time};

use super::shared::Shared;
use crate::engine::EngineEvent;
use crate::view::View;

/// What the control thread last said of the cores behind this engine.
pub(crate) struct Cores {
    keys: Vec<DoorKeys>,
    /// When the youngest keys were made: the core's time, and this process's.
    at: (Time, Instant),
}

impl Cores {
    pub(crate) fn new(keys: Vec<DoorKeys>, now: Instant) -> Self {
        let at = keys.iter().map(|keys| keys.at).max().unwrap_or(Time::ZERO);
        Self { keys, at: (at, now) }
    }
}

/// The door as the receiving worker has it.
pub(crate) struct Doorway {
    shared: Arc<Shared>,
    /// The door that was made for these cores. There is none before they were told.
    door: Option<(Arc<Cores>, Door)>,
}

impl Doorway {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, door: None }
    }

    /// Takes an INIT, RESP or COOKIE datagram: `whole` is it with its shim, if it has one, and `datagram` without.
    ///
    /// # Errors
    /// Why it goes nowhere; also when a COOKIE answered it.
    pub(crate) fn take(
        &mut self,
        view: &View,
        from: SocketAddr,
        whole: &[u8],
        header: &Header,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let cores = self.shared.cores.load();
        if let Some(cores) = cores.as_ref()
            && self
                .door
                .as_ref()
                .is_none_or(|(made_for, _)| !Arc::ptr_eq(made_for, cores))
        {
            self.door = Some((Arc::clone(cores), Door::new(&cores.keys)));
        }
        if let Some((cores, door)) = &mut self.door {
            let (time, instant) = cores.at;
            let time = time + now.saturating_duration_since(instant);
            let sender = if datagram.len() < whole.len() {
                Sender::Relay
            } else if view.table.relaying.neighbours.contains(&from) {
                Sender::Peer(from)
            } else {
                Sender::Stranger(from)
            };
            if let Admission::Cookie(cookie) = door.admit(time, sender, header, datagram)? {
                self.shared.send(from, &cookie);
                return Err(DropReason::CookieRequired);
            }
        }
        // An event that finds no room is counted where it is lost.
        self.shared.emit(EngineEvent::Handshake {
            from,
            bytes: whole.to_vec(),
        });
        Ok(())
    }
}
