//! Questions about the path, and answers to those of peers.

use weft_sleeve::Probe;
use weft_wire::datagram::{HEADER_LEN, Kind, PROBE_BODY_LEN, ProbeBody, TAG_LEN};
use weft_wire::{DropReason, SessionIndex};

use super::shared::{Shared, send_reason};
use crate::engine::EngineEvent;
use crate::session::Session;
use crate::view::Hop;

impl Shared {
    /// Sends one PROBE to where the table says that the session's peer is.
    pub(crate) fn probe(&self, local: SessionIndex, probe: Probe) {
        let view = self.view.load();
        let path = view
            .inbound(local)
            .and_then(|inbound| Some((&inbound.session, inbound.hop?)));
        let Some((session, hop)) = path else {
            return self.tally.drop(DropReason::NoSession, None);
        };
        let size = usize::from(probe.size).max(HEADER_LEN + PROBE_BODY_LEN + TAG_LEN);
        let mut datagram = vec![0; size];
        datagram[HEADER_LEN..HEADER_LEN + PROBE_BODY_LEN].copy_from_slice(&body_of(probe).to_bytes());
        if let Err(reason) = session.seal(Kind::Probe, hop.flags(), &mut datagram) {
            return self.tally.drop(reason, Some(hop.endpoint));
        }
        session.await_probe(probe.number);
        match self.transmit_by(&hop, &datagram) {
            Ok(()) => {}
            // What the probe was to find out: nothing was dropped.
            Err(error) if quinn_udp::is_msg_size_err(&error) => {
                self.emit(EngineEvent::ProbeRefused { local, probe });
            }
            Err(error) => self.tally.drop(send_reason(&error), Some(hop.endpoint)),
        }
    }

    /// Answers a probe, to where it came from: one small datagram for one larger or equal. It does not wait for room
    /// in the socket, since a probe is repeated.
    pub(crate) fn answer_probe(
        &self,
        session: &Session,
        from: &Hop,
        body: ProbeBody,
    ) -> Result<(), DropReason> {
        let mut datagram = [0; HEADER_LEN + PROBE_BODY_LEN + TAG_LEN];
        datagram[HEADER_LEN..HEADER_LEN + PROBE_BODY_LEN].copy_from_slice(&body.to_bytes());
        session.seal(Kind::ProbeAck, from.flags(), &mut datagram)?;
        self.transmit_by(from, &datagram)
            .map_err(|error| send_reason(&error))
    }

    /// Passes on the answer to the last probe.
    pub(crate) fn probe_answered(&self, session: &Session, body: ProbeBody) -> Result<(), DropReason> {
        if !session.is_awaited(body.number) {
            return Err(DropReason::NotAwaited);
        }
        let probe = Probe {
            number: body.number,
            size: body.size,
        };
        // An event that finds no room is counted where it is lost.
        self.emit(EngineEvent::ProbeAnswered {
            local: session.local,
            probe,
        });
        Ok(())
    }
}

fn body_of(probe: Probe) -> ProbeBody {
    ProbeBody {
        number: probe.number,
        size: probe.size,
    }
}
