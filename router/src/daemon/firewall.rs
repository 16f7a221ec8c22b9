//! Keeps the host's packet filters from dropping frames between pods, whoever changes them.

use crate::command::{BRIDGE, TAP};
use std::time::Duration;
use tokio::sync::watch;
use weft_fastpath_driver::{Driver, FirewallWatch, Guarded, Result};

/// The filters are looked at this often even when the kernel reports no change: it reports none of
/// iptables-legacy and of br_netfilter.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after each look. Some programs change rules all the time; reading them all must not become a load.
const PAUSE: Duration = Duration::from_millis(100);

/// What the operator should know, one sentence for each chain.
type Findings = watch::Receiver<Vec<String>>;

/// Looks at the packet filters and repairs them, then goes on doing so until the receiver is dropped.
pub(super) async fn start() -> anyhow::Result<Findings> {
    let driver = Driver::new(BRIDGE, TAP)?;
    // Before the first look, so that no change is missed.
    let mut watched = FirewallWatch::open()?;
    let (findings, found) = watch::channel(Vec::new());
    tell(&findings, driver.guard().await);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = findings.closed() => return,
                seen = watched.changed() => {
                    if seen.is_err() && let Ok(again) = FirewallWatch::open() {
                        watched = again;
                    }
                }
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            tell(&findings, driver.guard().await);
            tokio::time::sleep(PAUSE).await;
        }
    });
    Ok(found)
}

fn tell(findings: &watch::Sender<Vec<String>>, outcome: Result<Guarded>) {
    let (sentences, repaired) = match outcome {
        Ok(guarded) => (guarded.findings, !guarded.repairs.is_empty()),
        Err(error) => (
            vec![format!("whether frames between pods pass is not known: {error}")],
            false,
        ),
    };
    findings.send_if_modified(|before| {
        let changed = *before != sentences;
        if changed || repaired {
            for sentence in &sentences {
                tracing::warn!("firewall: {sentence}");
            }
        }
        *before = sentences;
        changed
    });
}
