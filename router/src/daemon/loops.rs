//! Which bridges are joined outside the overlay, in words.

use crate::command::BRIDGE;
use std::collections::BTreeMap;
use weft_kernel::{fdb, link};
use weft_node::Node;
use weft_sleeve_engine::Joined;
use weft_wire::Mac;

/// Remembers what was said, so that each join is logged when it comes and when it goes.
#[derive(Default)]
pub(super) struct Loops {
    known: BTreeMap<Joined, String>,
}

impl Loops {
    /// Takes what the engine's loop guard knows now.
    pub(super) fn see(&mut self, node: &Node, joined: &[Joined]) {
        self.known.retain(|join, sentence| {
            let stays = joined.contains(join);
            if !stays {
                tracing::info!("no longer: {sentence}");
            }
            stays
        });
        for join in joined {
            if !self.known.contains_key(join) {
                let sentence = sentence(node, join);
                tracing::warn!("{sentence}");
                self.known.insert(*join, sentence);
            }
        }
    }

    /// One sentence for each join there is.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &String> {
        self.known.values()
    }
}

fn sentence(node: &Node, join: &Joined) -> String {
    let port = port_of(join.probe).map_or_else(String::new, |port| format!(", by its port {port}"));
    if join.host == node.id().peer_hash() {
        return format!(
            "a loop: bridge {BRIDGE} of this host leads back to itself{port}. Broadcasts that come round are not sent to \
             other hosts; unplug one of the two ports to end the loop"
        );
    }
    let members = node.mesh().members();
    let host = members.iter().find(|member| member.peer_hash() == join.host);
    let name = host.map_or_else(|| format!("{:?}", join.host), |host| node.name_of(host));
    format!(
        "a loop: bridge {BRIDGE} of this host is joined with that of host {name} outside the overlay{port}: its probes, \
         sent from {}, come in there. Broadcasts between the two go by that way only, and what would come round is \
         dropped; unplug it to end the loop",
        join.probe
    )
}

/// The port at which the bridge has seen an address.
fn port_of(mac: Mac) -> Option<String> {
    let entries = fdb::dump(BRIDGE).ok()?;
    let port = entries.iter().find(|entry| entry.mac == mac.0)?.port;
    let links = link::list().ok()?;
    links
        .into_iter()
        .find(|link| link.index == port)
        .map(|link| link.name)
}
