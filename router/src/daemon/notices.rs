//! What the node has to say, as log lines. Addresses of single datagrams stay at debug level.

use std::time::{Duration, Instant};
use weft_ipam_crdt::Event;
use weft_node::Notice;
use weft_wire::RejectReason;

/// One line in this time for each reason to refuse a connection: whoever knocks must not fill the disk.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// Writes notices, and keeps quiet about refusals that come too often; they are counted in the status.
#[derive(Default)]
pub(super) struct Log {
    refused: [Option<Instant>; RejectReason::COUNT],
}

impl Log {
    pub(super) fn write(&mut self, notice: &Notice) {
        if let Notice::LinkRefused { reason, .. } = notice {
            let last = &mut self.refused[*reason as usize];
            if last.is_some_and(|last| last.elapsed() < REFUSAL_INTERVAL) {
                return;
            }
            *last = Some(Instant::now());
        }
        write(notice);
    }
}

fn write(notice: &Notice) {
    match notice {
        Notice::Joined { genesis } => {
            tracing::info!(cluster = ?genesis, "this host is a member of the cluster")
        }
        Notice::Gathering(sentence) => tracing::info!("{sentence}"),
        Notice::Admitted { peer, name } => tracing::info!(?peer, name, "let a host into the cluster"),
        Notice::LinkUp { peer, name } => tracing::info!(?peer, name, "mesh link up"),
        Notice::LinkDown { peer, name, reason } => tracing::info!(?peer, name, %reason, "mesh link down"),
        Notice::LinkRefused { with, reason } => tracing::warn!(with, %reason, "mesh connection refused"),
        Notice::Foreign { sentence, .. } | Notice::Unclaimed { sentence } => tracing::warn!("{sentence}"),
        Notice::Kept { id, address } => {
            tracing::info!(
                "pod {id} keeps {address}: the cluster has given it to this host, now that it is a new member"
            )
        }
        Notice::BeganAgain {
            node,
            left,
            joined,
            claims,
        } => {
            tracing::warn!(
                ?node,
                ?left,
                ?joined,
                claims,
                "this host is a new member; what it was is kept in `state.before` of its state directory"
            );
        }
        Notice::SleeveUp { peer, name, cipher } => {
            tracing::info!(?peer, name, cipher = cipher.label(), "encrypted session up");
        }
        Notice::Way { peer, name, relay } => match relay {
            Some(relay) => tracing::warn!(?peer, name, relay, "reached through another host"),
            None => tracing::info!(?peer, name, "reached straight again"),
        },
        Notice::Fastpath { peer, name, sentence } => tracing::info!(?peer, name, "{sentence}"),
        Notice::Encryption(sentence) => tracing::warn!("{sentence}"),
        Notice::SleeveDown { peer, name, why } => tracing::warn!(?peer, name, %why, "encrypted session down"),
        Notice::Ipam(Event::OwnersChanged) => {}
        Notice::Ipam(event) => tracing::info!(?event, "address space"),
        Notice::Silent { peer, name } => {
            tracing::warn!(
                ?peer,
                name,
                "no host has heard of this one for as long as --remove-after says: its removal is asked for"
            );
        }
        Notice::Warning(sentence) => tracing::warn!("{sentence}"),
        Notice::Dropped { reason, from } => tracing::debug!(?from, %reason, "handshake datagram dropped"),
    }
}
