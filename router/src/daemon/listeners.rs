//! To which multicast groups pods of this host listen: asked, heard by the bridge, and told to the node.
//!
//! IGMP is the bridge's own business. For IPv6 it only listens: it has no address to ask from, so the router asks in its stead.

use super::NodeEvent;
use crate::command::{BRIDGE, TAP};
use crate::config::Multicast;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_fastpath_driver::{Driver, MemberWatch, Members};
use weft_kernel::mld;
use weft_wire::group::{Everything, Listening};

/// The kernel is looked at this often even when it reports no change: its reports can be lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at a bridge whose listeners change without end. A whole database of 4,096 groups is read in milliseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// From the first query to the second (RFC 3810 §9.6): who was there before the router has two chances to answer soon.
const SECOND_QUERY: Duration = Duration::from_secs(31);

/// Tells the node, now and whenever that changes, until it takes nothing more.
pub(super) fn start(mode: Multicast, events: mpsc::Sender<NodeEvent>) -> anyhow::Result<()> {
    match mode {
        // Nobody is asked: who listens without saying so is why the operator wants it.
        Multicast::Flood => {
            let everything = Listening::Everything(Everything::Asked);
            tokio::spawn(async move { events.send(NodeEvent::Listening(everything)).await });
        }
        Multicast::Snoop => {
            let driver = Driver::new(BRIDGE, TAP)?;
            let watch = MemberWatch::open()?;
            tokio::spawn(follow(driver, watch, events));
            tokio::spawn(ask());
        }
    }
    Ok(())
}

async fn follow(driver: Driver, mut watch: MemberWatch, events: mpsc::Sender<NodeEvent>) {
    let mut told = None;
    loop {
        let read = driver.clone();
        match tokio::task::spawn_blocking(move || read.members_blocking()).await {
            Ok(Ok(members)) => {
                let listening = Some(of(members));
                if told != listening
                    && let Some(new) = listening.clone()
                {
                    if events.send(NodeEvent::Listening(new)).await.is_err() {
                        return;
                    }
                    told = listening;
                }
            }
            // The bridge may be made anew just now; what was told holds until it is there again.
            Ok(Err(error)) => tracing::debug!("who listens on bridge {BRIDGE} is not known: {error}"),
            Err(_) => return,
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        tokio::select! {
            seen = watch.changed() => {
                if seen.is_err() && let Ok(again) = MemberWatch::open() {
                    watch = again;
                }
            }
            () = tokio::time::sleep(REPAIR_INTERVAL - LOOK_INTERVAL) => {}
        }
    }
}

fn of(members: Members) -> Listening {
    if !members.snooping {
        Listening::Everything(Everything::NoSnooping)
    } else if members.router {
        Listening::Everything(Everything::Router)
    } else {
        Listening::to(members.groups)
    }
}

/// Asks for listeners of IPv6 groups, as often as the bridge asks for those of IPv4.
async fn ask() {
    let mut next = Instant::now() + SECOND_QUERY;
    loop {
        let asked = tokio::task::spawn_blocking(|| {
            let bridge = weft_kernel::link::get(BRIDGE)?;
            bridge.mac.map_or(Ok(()), |mac| mld::query(BRIDGE, mac))
        });
        match asked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!("pods were not asked to which IPv6 groups they listen: {error}")
            }
            Err(_) => return,
        }
        tokio::time::sleep_until(next).await;
        next += mld::QUERY_INTERVAL;
    }
}
