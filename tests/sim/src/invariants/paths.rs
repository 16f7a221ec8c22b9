//! No verdict of the control plane takes away a path that works: a path ends only when nothing was heard on it for as
//! long as the sleeve says.

use super::{Invariant, Scene, Seen};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_node::Notice;
use weft_sleeve::DownReason;
use weft_sleeve::timing::DEAD_AFTER;
use weft_wire::NodeId;

/// By so much the node's idea of when it heard from a peer, and its clock, may be off.
const SLACK: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Watched {
    start: u64,
    ready: BTreeSet<NodeId>,
    ended: BTreeSet<NodeId>,
    changed: bool,
}

/// The paths of every host.
#[derive(Default)]
pub struct Paths {
    hosts: BTreeMap<usize, Watched>,
}

impl Invariant for Paths {
    fn name(&self) -> &'static str {
        "paths"
    }

    fn see(&mut self, scene: &Scene<'_>, seen: &Seen<'_>) -> Result<(), String> {
        let watched = self.hosts.entry(scene.host).or_default();
        match seen {
            Seen::Started { .. } => {
                *watched = Watched {
                    start: scene.this().start,
                    ..Watched::default()
                };
            }
            Seen::Removed(_) | Seen::Published(_) | Seen::Said(Notice::LinkDown { .. }) => {
                watched.changed = true
            }
            Seen::Said(Notice::SleeveDown { peer, why, .. }) => {
                let heard = scene
                    .this()
                    .running()
                    .and_then(|running| running.engine.heard(peer));
                let silent = heard.is_none_or(|heard| scene.now.since(heard) + SLACK >= DEAD_AFTER);
                if *why != DownReason::Silent || !silent {
                    return Err(format!(
                        "the path to {peer:?} was ended ({why}), heard last at {heard:?}"
                    ));
                }
                watched.ended.insert(*peer);
                watched.changed = true;
            }
            Seen::Settled { .. } if watched.changed => return watched.settled(scene),
            _ => {}
        }
        Ok(())
    }
}

impl Watched {
    /// Compares the paths that are ready now with those before the event.
    fn settled(&mut self, scene: &Scene<'_>) -> Result<(), String> {
        let ended = std::mem::take(&mut self.ended);
        self.changed = false;
        let Some(running) = scene
            .this()
            .running()
            .filter(|_| scene.this().start == self.start)
        else {
            return Ok(());
        };
        let engine = &running.engine;
        let ready: BTreeSet<NodeId> = engine
            .table
            .peers
            .iter()
            .filter(|path| {
                path.ready()
                    .is_some_and(|(local, _)| engine.peer_of(local) == Some(path.peer))
            })
            .map(|path| path.peer)
            .collect();
        let before = std::mem::replace(&mut self.ready, ready);
        match before.difference(&self.ready).find(|peer| !ended.contains(peer)) {
            Some(peer) => Err(format!("the path to {peer:?} is gone, and nobody said why")),
            None => Ok(()),
        }
    }
}
