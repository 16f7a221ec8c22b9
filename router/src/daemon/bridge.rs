//! Keeps bridge, TAP and forwarding entries as the node wants them, whoever changes them.

use crate::command::{BRIDGE, TAP};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use weft_fastpath::{Via, View};
use weft_fastpath_driver::{Driver, Watch};
use weft_wire::Mac;

/// The kernel is looked at this often even when it reports no change: its reports can be lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after a change that somebody made, our own included: a burst of them is looked at once.
const SETTLE: Duration = Duration::from_millis(50);

type Wanted = watch::Sender<BTreeSet<Mac>>;
type Trouble = watch::Receiver<Option<String>>;

/// Makes bridge and TAP, then follows the node until the sender is dropped. The receiver holds a sentence while the kernel
/// refuses what is asked of it.
pub(super) async fn start(mtu: u16) -> anyhow::Result<(Wanted, Trouble)> {
    let driver = Driver::new(BRIDGE, TAP)?;
    let view = move |macs: BTreeSet<Mac>| View {
        remote: macs.into_iter().map(|mac| (mac, Via::Router)).collect(),
        ..View::new(u32::from(mtu))
    };
    driver.reconcile(&view(BTreeSet::new())).await?;
    let (wanted, mut changed) = watch::channel(BTreeSet::new());
    let (trouble, troubled) = watch::channel(None);
    let mut kernel = Watch::open(&driver)?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                told = changed.changed() => {
                    if told.is_err() {
                        return;
                    }
                }
                seen = kernel.changed() => {
                    tokio::time::sleep(SETTLE).await;
                    if seen.is_err() && let Ok(again) = Watch::open(&driver) {
                        kernel = again;
                    }
                }
                () = tokio::time::sleep(REPAIR_INTERVAL) => {}
            }
            let macs = changed.borrow_and_update().clone();
            let outcome = driver
                .reconcile(&view(macs))
                .await
                .err()
                .map(|error| error.to_string());
            if let Some(error) = &outcome
                && *trouble.borrow() != outcome
            {
                tracing::warn!("bridge {BRIDGE}: {error}");
            }
            trouble.send_replace(outcome);
        }
    });
    Ok((wanted, troubled))
}
