//! Keeps bridge, TAP and forwarding entries as the node wants them, whoever changes them.

use crate::command::{BRIDGE, TAP};
use crate::config::Multicast;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use weft_fastpath::{Listeners, Snooping, Via, View};
use weft_fastpath_driver::{Driver, Watch};
use weft_node::RemoteGroups;
use weft_wire::Mac;

/// The kernel is looked at this often even when it reports no change: its reports can be lost.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);
/// Pause after a change that somebody made, our own included: a burst of them is looked at once.
const SETTLE: Duration = Duration::from_millis(50);

/// What the node wants of the bridge.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// MAC addresses that lead to the TAP.
    pub(super) macs: BTreeSet<Mac>,
    /// Multicast that leads there.
    pub(super) groups: RemoteGroups,
}

impl Wanted {
    fn view(&self, mtu: u16, mode: Multicast) -> View {
        let listeners = || Listeners {
            router: true,
            ..Listeners::default()
        };
        View {
            remote: self.macs.iter().map(|mac| (*mac, Via::Router)).collect(),
            groups: self
                .groups
                .groups
                .iter()
                .map(|group| (*group, listeners()))
                .collect(),
            snooping: match mode {
                Multicast::Flood => Snooping::Off,
                Multicast::Snoop if self.groups.everything => Snooping::OnWithRouter,
                Multicast::Snoop => Snooping::On,
            },
            ..View::new(u32::from(mtu))
        }
    }
}

type Trouble = watch::Receiver<Option<String>>;

/// Makes bridge and TAP, then follows the node until the sender is dropped. The receiver holds a sentence while the kernel
/// refuses what is asked of it.
pub(super) async fn start(mtu: u16, mode: Multicast) -> anyhow::Result<(watch::Sender<Wanted>, Trouble)> {
    let driver = Driver::new(BRIDGE, TAP)?;
    driver.reconcile(&Wanted::default().view(mtu, mode)).await?;
    let (wanted, mut changed) = watch::channel(Wanted::default());
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
            let view = changed.borrow_and_update().view(mtu, mode);
            let outcome = driver.reconcile(&view).await.err().map(|error| error.to_string());
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
