//! A frame arrives at most once at each host, as it was sent, and only where it belongs.

use super::{Invariant, Scene, Seen};
use crate::engine::Frame;
use crate::host::home_of;
use std::collections::{BTreeMap, BTreeSet};
use weft_wire::datagram::Kind;

struct Sent {
    frame: Frame,
    origin: usize,
    arrived: BTreeSet<usize>,
}

/// Every frame that was sent.
#[derive(Default)]
pub struct Frames {
    sent: BTreeMap<u64, Sent>,
}

impl Invariant for Frames {
    fn name(&self) -> &'static str {
        "frames"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Sent(frame) => {
                let sent = Sent {
                    frame: **frame,
                    origin: scene.host,
                    arrived: BTreeSet::new(),
                };
                self.sent.insert(frame.number, sent);
                Ok(())
            }
            Seen::Delivered(frame, kind) => self.delivered(scene, frame, *kind),
            _ => Ok(()),
        }
    }
}

impl Frames {
    fn delivered(&mut self, scene: &Scene<'_>, frame: &Frame, kind: Kind) -> Result<(), String> {
        let Some(sent) = self.sent.get_mut(&frame.number) else {
            return Err(format!("{frame:?} arrived and was never sent"));
        };
        if sent.frame != *frame {
            return Err(format!("{frame:?} was sent as {:?}", sent.frame));
        }
        if scene.this().is_stranger {
            return Err(format!("{frame:?} reached a stranger"));
        }
        if sent.origin == scene.host {
            return Err(format!("{frame:?} came back to where it was sent"));
        }
        if kind == Kind::Data && home_of(frame.destination) != scene.host {
            return Err(format!("{frame:?}, for one host, reached another"));
        }
        if !sent.arrived.insert(scene.host) {
            return Err(format!("{frame:?} arrived twice"));
        }
        Ok(())
    }
}
