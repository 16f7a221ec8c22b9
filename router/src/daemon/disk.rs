//! The thread that writes the state, and what the daemon refuses while the disk takes nothing.

use super::{Daemon, NodeEvent, SaveToken};
use anyhow::Context;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use weft_store::writer::{self, SAVES_MAX};
use weft_store::{Job, Store, StoreError, Syncs, Told};
use weft_wire::api::DiskStatus;

type Saves = mpsc::Sender<Job<SaveToken>>;

/// Starts the writer; it ends when the sender is dropped. `join_token` is kept with the first write.
pub(super) fn start(
    store: Store,
    join_token: Option<String>,
    events: mpsc::Sender<NodeEvent>,
    failures: mpsc::Sender<String>,
) -> anyhow::Result<(Saves, JoinHandle<()>)> {
    let (saves, to_save) = mpsc::channel(SAVES_MAX);
    let tell = move |told| {
        let event = match told {
            Told::Durable(number) => NodeEvent::Persisted(number),
            Told::Written(number) => NodeEvent::OnDisk(number),
            Told::Refused(error) => NodeEvent::Disk(Some(sentence(&error))),
            Told::Recovered => NodeEvent::Disk(None),
            Told::Failed(error) => return failures.blocking_send(error.to_string()).is_ok(),
        };
        events.blocking_send(event).is_ok()
    };
    let thread = std::thread::Builder::new()
        .name("weft-state".into())
        .spawn(move || writer::run(store, to_save, join_token, tell))
        .context("no thread for the state file")?;
    Ok((saves, thread))
}

/// What the status says of a disk that is slow to sync.
pub(super) fn slow(disk: &DiskStatus) -> Option<String> {
    let median = disk.median_sync_us.filter(|_| disk.slow)?;
    Some(format!(
        "the disk that holds the state takes {} ms to sync: pods get their addresses before that is done, and a loss of power \
         within this time forgets them. Put the state on a faster disk (`weft up --state-dir`)",
        median / 1_000
    ))
}

/// How the disk does, for the status.
pub(super) fn status(syncs: &Syncs) -> DiskStatus {
    let report = syncs.report();
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    DiskStatus {
        syncs: report.count,
        last_sync_us: report.last.map(micros),
        median_sync_us: report.median.map(micros),
        slow: report.is_slow,
    }
}

fn sentence(error: &StoreError) -> String {
    format!(
        "no address is given out or freed, and no host let in, until the state can be written again: {error}. It is \
         tried again by itself; traffic is not touched"
    )
}

impl Daemon {
    /// The disk refuses, or takes writes again. Nobody is left waiting for a disk.
    pub(super) fn disk_changed(&mut self, trouble: Option<String>) {
        match &trouble {
            Some(why) if self.disk_trouble.is_none() => tracing::error!("{why}"),
            None if self.disk_trouble.is_some() => tracing::info!("the state can be written again"),
            _ => {}
        }
        if let Some(why) = &trouble {
            self.askers.refuse_all(why);
        }
        self.disk_trouble = trouble;
    }
}
