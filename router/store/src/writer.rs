//! The loop that makes writes durable: all that wait with one sync, in order, and none lost while the disk refuses.

use crate::error::StoreError;
use crate::store::{Save, Store};
use std::time::Duration;
use tokio::sync::mpsc;

/// Writes that wait for the disk; the writer takes all of them at once and syncs them together.
pub const SAVES_MAX: usize = 4_096;
/// A disk that refused is tried again after this: nothing tells when there is room again.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the writer has to say.
#[derive(Debug)]
pub enum Told<T> {
    /// This write of its kind, cluster or addresses, is durable, and all before it.
    Durable(T),
    /// The disk refused. Nothing is lost and nothing more becomes durable before [`Told::Recovered`].
    Refused(StoreError),
    /// The disk takes writes again.
    Recovered,
    /// The writer ends: no further try can succeed.
    Failed(StoreError),
}

/// Writes until the sender is dropped, or `tell` returns false, or nothing can be written for good. `join_token` is
/// kept with the first write: from then on there is a cluster that it admits to.
pub fn run<T>(
    mut store: Store,
    mut saves: mpsc::Receiver<(T, Save)>,
    mut join_token: Option<String>,
    mut tell: impl FnMut(Told<T>) -> bool,
) {
    let mut waiting = Vec::new();
    let mut batch = Vec::new();
    let (mut cluster, mut ipam) = (None, None);
    let mut is_refused = false;
    loop {
        if is_refused {
            std::thread::sleep(RETRY_INTERVAL);
            while waiting.len() < SAVES_MAX
                && let Ok(next) = saves.try_recv()
            {
                waiting.push(next);
            }
        } else if saves.blocking_recv_many(&mut waiting, SAVES_MAX) == 0 {
            return;
        }
        for (number, save) in waiting.drain(..) {
            match save {
                Save::Cluster(_) => cluster = Some(number),
                Save::Ipam(_) => ipam = Some(number),
            }
            batch.push(save);
        }
        let saved = store.save(&batch).and_then(|()| {
            let Some(token) = &join_token else { return Ok(()) };
            store.save_token(token)?;
            join_token = None;
            Ok(())
        });
        // What was refused is in the store, and written with the next call.
        batch.clear();
        let goes_on = match saved {
            Ok(()) => {
                let recovered = !std::mem::take(&mut is_refused) || tell(Told::Recovered);
                recovered
                    && [cluster.take(), ipam.take()]
                        .into_iter()
                        .flatten()
                        .all(|number| tell(Told::Durable(number)))
            }
            Err(error) if error.may_pass() => {
                is_refused = true;
                // Nobody waits any longer once the sender is gone.
                tell(Told::Refused(error)) && !saves.is_closed()
            }
            Err(error) => {
                tell(Told::Failed(error));
                false
            }
        };
        if !goes_on {
            return;
        }
    }
}
