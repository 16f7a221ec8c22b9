//! The loop that makes writes durable: all that wait with one sync, in order, and none lost while the disk refuses.

use crate::error::{Difference, StoreError};
use crate::store::{Save, Store};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use weft_ipam_crdt::IpamState;

/// Writes that wait for the disk; the writer takes all of them at once and syncs them together.
pub const SAVES_MAX: usize = 4_096;
/// A disk that refused is tried again after this: nothing tells when there is room again.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What the writer has to say.
#[derive(Debug)]
pub enum Told<T> {
    /// This write of its kind, cluster, addresses, agreement, settings or a beginning, is durable, and all before it. Of claims
    /// nothing is told.
    Durable(T),
    /// This write of addresses is written, and all before it; the disk is slow and still has to sync it. Told only then.
    Written(T),
    /// The disk refused. Nothing is lost and nothing more becomes durable before [`Told::Recovered`].
    Refused(StoreError),
    /// The disk takes writes again.
    Recovered,
    /// The writer ends: no further try can succeed.
    Failed(StoreError),
}

/// What the writer is to do, in order.
#[derive(Debug)]
pub enum Job<T> {
    /// Make this durable; the number comes back in [`Told::Durable`].
    Save(T, Save),
    /// Read the file again and compare it, with [`Store::compare`]. While the disk refuses, the answer waits.
    Compare(Box<IpamState>, oneshot::Sender<Result<(), Difference>>),
    /// Give the identity up, with [`Store::set_aside`], and end.
    SetAside(oneshot::Sender<Result<PathBuf, StoreError>>),
}

/// Writes until the sender is dropped, or `tell` returns false, or nothing can be written for good. `join_token` is
/// kept with the first write: from then on there is a cluster that it admits to.
pub fn run<T: Clone>(
    store: Store,
    mut jobs: mpsc::Receiver<Job<T>>,
    join_token: Option<String>,
    tell: impl FnMut(Told<T>) -> bool,
) {
    let mut writer = Writer {
        store,
        join_token,
        tell,
        batch: Vec::new(),
        cluster: None,
        ipam: None,
        agreement: None,
        again: None,
        settings: None,
        is_refused: false,
    };
    let mut waiting = VecDeque::new();
    let mut taken = Vec::new();
    loop {
        if writer.is_refused {
            std::thread::sleep(RETRY_INTERVAL);
            while waiting.len() < SAVES_MAX
                && let Ok(next) = jobs.try_recv()
            {
                waiting.push_back(next);
            }
        } else if waiting.is_empty() {
            if jobs.blocking_recv_many(&mut taken, SAVES_MAX) == 0 {
                return;
            }
            waiting.extend(taken.drain(..));
        }
        // All up to the next comparison is written with one sync.
        while let Some(Job::Save(..)) = waiting.front() {
            let Some(Job::Save(number, save)) = waiting.pop_front() else {
                break;
            };
            writer.add(number, save);
        }
        match writer.write() {
            Next::Go => {}
            // Nobody waits any longer once the sender is gone.
            Next::Retry if !jobs.is_closed() => continue,
            Next::Retry | Next::End => return,
        }
        // Whoever asked may have gone.
        match waiting.pop_front() {
            Some(Job::Compare(state, answer)) => {
                let _ = answer.send(writer.store.compare(&state));
            }
            Some(Job::SetAside(answer)) => {
                let _ = answer.send(writer.store.set_aside());
                return;
            }
            Some(save @ Job::Save(..)) => waiting.push_front(save),
            None => {}
        }
    }
}

/// How a write ended.
enum Next {
    Go,
    /// The disk has refused.
    Retry,
    /// There is nobody to tell, or no use in another try.
    End,
}

struct Writer<T, F> {
    store: Store,
    join_token: Option<String>,
    tell: F,
    batch: Vec<Save>,
    cluster: Option<T>,
    ipam: Option<T>,
    agreement: Option<T>,
    again: Option<T>,
    settings: Option<T>,
    is_refused: bool,
}

impl<T: Clone, F: FnMut(Told<T>) -> bool> Writer<T, F> {
    fn add(&mut self, number: T, save: Save) {
        match save {
            Save::Cluster(_) => self.cluster = Some(number),
            Save::Ipam(_) => self.ipam = Some(number),
            Save::Agreement(_) => self.agreement = Some(number),
            Save::Again(_) => {
                self.again = Some(number);
                // It was the token of the cluster before.
                self.join_token = None;
            }
            Save::Claims(_) => {}
            Save::Settings(_) => self.settings = Some(number),
        }
        self.batch.push(save);
    }

    /// Makes what was added durable, and what a call before could not.
    fn write(&mut self) -> Next {
        let is_slow = self.store.syncs().report().is_slow;
        let (tell, written) = (&mut self.tell, self.ipam.clone().filter(|_| is_slow));
        let telling = || {
            // Whoever does not listen any more is noticed when it is durable.
            let _ = written.clone().is_none_or(|number| tell(Told::Written(number)));
        };
        let saved = self.store.save_telling(&self.batch, telling).and_then(|()| {
            let Some(token) = &self.join_token else {
                return Ok(());
            };
            self.store.save_token(token)?;
            self.join_token = None;
            Ok(())
        });
        // What was refused is in the store, and written with the next call.
        self.batch.clear();
        let goes_on = match saved {
            Ok(()) => {
                let recovered = !std::mem::take(&mut self.is_refused) || (self.tell)(Told::Recovered);
                recovered
                    && [
                        self.agreement.take(),
                        self.cluster.take(),
                        self.ipam.take(),
                        self.again.take(),
                        self.settings.take(),
                    ]
                    .into_iter()
                    .flatten()
                    .all(|number| (self.tell)(Told::Durable(number)))
            }
            Err(error) if error.may_pass() => {
                self.is_refused = true;
                (self.tell)(Told::Refused(error))
            }
            Err(error) => {
                (self.tell)(Told::Failed(error));
                false
            }
        };
        match (goes_on, self.is_refused) {
            (false, _) => Next::End,
            (true, true) => Next::Retry,
            (true, false) => Next::Go,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::MachineId;
    use crate::syncs::{MEASURED, SLOW_ABOVE};
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;
    use weft_gossip::DurableState;
    use weft_ipam_crdt::{AddressSpace, Change, Held};
    use weft_wire::record::Genesis;
    use weft_wire::{ClusterSecret, NodeKey, NoiseKeypair};

    /// What the writer tells when it gets one change of the addresses, in order.
    fn told(make_slow: bool) -> Vec<&'static str> {
        let directory = tempfile::tempdir().unwrap();
        let machine = MachineId::from_text("0123456789abcdef0123456789abcdef").unwrap();
        let noise = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([1; 32])).unwrap();
        let key = NodeKey::from_seed([1; 32]);
        let founder = key.id();
        let (mut store, _) =
            Store::open(&directory.path().join("weft"), machine, None, || (key, noise)).unwrap();
        let space = AddressSpace::of_range("10.32.0.0/24".parse().unwrap()).unwrap();
        let genesis = Genesis {
            founders: vec![founder],
            nonce: [0; 16],
            range: space.range(),
            slot_size: space.slot_size(),
        };
        let secret = ClusterSecret {
            number: 1,
            key: [2; 32],
        };
        store
            .save(&[Save::Cluster(DurableState::founded(genesis, secret))])
            .unwrap();
        if make_slow {
            for _ in 0..MEASURED {
                // A disk that takes this long, as nearly as a test can have one.
                let slow = || {
                    std::thread::sleep(2 * SLOW_ABOVE);
                    Ok(())
                };
                store.syncs().measured(slow).unwrap();
            }
        }
        let (jobs, to_do) = mpsc::channel(8);
        let change = Change::Address(1, Some(Held::Pod("web".into())));
        jobs.try_send(Job::Save(7, Save::Ipam(vec![change]))).unwrap();
        drop(jobs);
        let mut said = Vec::new();
        run(store, to_do, None, |what| {
            said.push(match what {
                Told::Written(7) => "written",
                Told::Durable(7) => "durable",
                _ => "something else",
            });
            true
        });
        said
    }

    #[test]
    fn a_slow_disk_is_told_of_twice() {
        assert_eq!(told(false), ["durable"]);
        assert_eq!(told(true), ["written", "durable"]);
    }
}
