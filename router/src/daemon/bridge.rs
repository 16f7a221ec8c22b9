//! Keeps bridge, devices and forwarding entries as the node wants them, whoever changes them.

use super::NodeEvent;
use crate::command::{BRIDGE, TAP};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use weft_fastpath::View;
use weft_fastpath_driver::{Driver, Watch};
use weft_kernel::link;

/// The kernel is looked at this often even when it reports no change: its reports can be lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(4);
/// Pause after a change that somebody made, our own included: a burst of them is looked at once.
const SETTLE: Duration = Duration::from_millis(50);
/// The pause is at least so many times as long as the look before it: a hundred thousand addresses must not become a load.
const PAUSE: u32 = 4;

/// The kernel is asked this often which addresses it has sent frames to, and for what it has done since, and a little more.
const USE_INTERVAL: Duration = Duration::from_secs(5);
const USED_WITHIN: Duration = Duration::from_secs(6);

type Trouble = watch::Receiver<Option<String>>;

/// What follows the node.
pub(super) struct Follower {
    /// What the node wants.
    pub(super) wanted: watch::Sender<View>,
    /// A sentence while the kernel refuses what is asked of it.
    pub(super) trouble: Trouble,
}

/// The driver of this host's devices.
pub(super) fn driver() -> anyhow::Result<Driver> {
    Ok(Driver::new(BRIDGE, TAP)?)
}

/// Makes bridge and TAP, unless an earlier process has left them together with devices that carry frames now: those are not
/// touched before the node has said what it wants. Then follows the node until the sender is dropped, and tells it when the
/// kernel is so far.
pub(super) async fn start(
    driver: Driver,
    view: View,
    is_in_use: bool,
    events: mpsc::Sender<NodeEvent>,
) -> anyhow::Result<Follower> {
    let is_there = [BRIDGE, TAP].iter().all(|name| link::get(name).is_ok());
    if !(is_in_use && is_there) {
        driver.reconcile(&view).await?;
    }
    let (wanted, changed) = watch::channel(view);
    let (tell, trouble) = watch::channel(None);
    let kernel = Watch::open(&driver)?;
    tokio::spawn(follow(driver, changed, kernel, tell, events));
    Ok(Follower { wanted, trouble })
}

async fn follow(
    driver: Driver,
    mut changed: watch::Receiver<View>,
    mut kernel: Watch,
    trouble: watch::Sender<Option<String>>,
    events: mpsc::Sender<NodeEvent>,
) {
    let mut used_at = Instant::now();
    // What the kernel has, as far as it was not changed from outside since.
    let mut has: Option<View> = None;
    // What the node wants is not known before it has said so.
    if changed.changed().await.is_err() {
        return;
    }
    loop {
        let view = changed.borrow_and_update().clone();
        let start = Instant::now();
        // From one view to the next it takes a few messages. They are noticed like those of others, and then all of it is looked at.
        let stepped = match has.take().filter(|before| *before != view) {
            Some(before) => driver.step(&before, &view).await.is_ok(),
            None => false,
        };
        let outcome = if stepped {
            Ok(())
        } else {
            driver.reconcile(&view).await.map(drop)
        };
        let took = start.elapsed();
        if outcome.is_ok() {
            has = Some(view.clone());
            let has_vxlan = view.vxlan.is_some();
            // It is told again after the next look at the kernel.
            let _ = events.try_send(NodeEvent::KernelFollows { has_vxlan });
        }
        let sentence = outcome.err().map(|error| error.to_string());
        if let Some(error) = &sentence
            && *trouble.borrow() != sentence
        {
            tracing::warn!("bridge {BRIDGE}: {error}");
        }
        trouble.send_replace(sentence);
        if view.vxlan.is_some() && used_at.elapsed() >= USE_INTERVAL {
            used_at = Instant::now();
            let asked = driver.clone();
            let used = tokio::task::spawn_blocking(move || asked.used_within(USED_WITHIN)).await;
            if let Ok(Ok(macs)) = used {
                // A queue that is full has room at the next look.
                let _ = events.try_send(NodeEvent::KernelUsed(macs));
            }
        }
        tokio::select! {
            told = changed.changed() => {
                if told.is_err() {
                    return;
                }
            }
            seen = kernel.changed() => {
                if seen.is_err() && let Ok(again) = Watch::open(&driver) {
                    kernel = again;
                }
                tokio::select! {
                    told = changed.changed() => {
                        if told.is_err() {
                            return;
                        }
                    }
                    () = tokio::time::sleep(SETTLE.max(took * PAUSE)) => {}
                }
            }
            () = tokio::time::sleep(REPAIR_INTERVAL) => {}
        }
    }
}
