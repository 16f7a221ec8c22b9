//! The first questions to every frame that a port of the bridge sent.

use weft_wire::limits::FRAME_MAX;
use weft_wire::{DropReason, Mac};

use super::shared::Shared;
use crate::engine::EngineEvent;
use crate::switching::{Outgoing, Seen, Verdict};
use crate::view::View;

/// What becomes of a frame. One that was longer than [`FRAME_MAX`] may have been cut off behind one octet more.
pub(crate) fn judge<'v>(
    shared: &Shared,
    switching: &mut Outgoing,
    view: &'v View,
    frame: &[u8],
) -> Verdict<'v> {
    let Some(source) = Mac::source(frame) else {
        return Verdict::Drop(DropReason::RuntFrame);
    };
    if frame.len() > FRAME_MAX {
        return Verdict::Drop(DropReason::OversizeFrame);
    }
    if !source.is_valid_source() {
        return Verdict::Drop(DropReason::InvalidSource);
    }
    switching.decide(view, frame, source, |seen| {
        // An event that finds no room is counted where it is lost; a later frame brings it again.
        shared.emit(match seen {
            Seen::Moved => EngineEvent::Local { mac: source },
            Seen::Sent(mac, peer) => EngineEvent::Sent { mac, peer },
        });
    })
}
