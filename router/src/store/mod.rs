//! The one durable file of a host: identity, incarnation, what it knows of its cluster, and its addresses.
//!
//! `STATE_DIR/state` is bound to the machine id. At each start, and when what was appended outgrows it, it is
//! replaced as a whole: written beside, synced, renamed, and the directory synced, so that a crash leaves the old
//! file or the new one. In between, changes are appended and synced together. `STATE_DIR/lock` is held while a
//! router runs.

mod format;
mod machine;

pub(crate) use machine::{DEFAULT_MACHINE_ID_FILE, MachineId};

use format::{FormatError, RecordKind};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use weft_gossip::DurableState;
use weft_ipam_crdt::{Change, IpamState};
use weft_wire::codec::encode;
use weft_wire::{NodeKey, NoiseKeypair};

/// Largest state file that is read: 65,536 owners' admissions and peer records.
const STATE_FILE_MAX: u64 = 64 << 20;
/// The file is rewritten when it is this many times its snapshot, and [`APPENDED_MIN`] more.
const APPENDED_FACTOR: u64 = 3;
/// Octets that may be appended to any snapshot: some thousand changes, read in milliseconds at the next start.
const APPENDED_MIN: u64 = 1 << 20;
/// Longest encoded change of the address state: a grant of all slots of a fragmented host.
const CHANGE_MAX: usize = 1 << 20;

/// Why the state cannot be used; each sentence names the file and the cure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The state directory cannot be made or entered.
    #[error("state directory {path}: {source}; choose another with --state-dir")]
    Directory { path: PathBuf, source: std::io::Error },
    /// Another router holds the lock.
    #[error(
        "state directory {path} is in use by another weft router; stop that one, or choose another with --state-dir"
    )]
    Locked { path: PathBuf },
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is not what a router wrote.
    #[error(
        "{path}: {why}; nothing was changed. Restore the file, or move it away: this host then becomes a new node"
    )]
    Damaged { path: PathBuf, why: FormatError },
    /// A newer program wrote the file.
    #[error(
        "{path} was written by a newer weft (format {found}, this program reads up to {known}): start that version"
    )]
    Newer { path: PathBuf, found: u16, known: u16 },
    /// The file came from another machine.
    #[error(
        "{path} belongs to another machine: a node's identity must never run twice. If this host is a copy, move \
         the file away: it then becomes a new node and joins again with the token"
    )]
    OtherMachine { path: PathBuf },
}

/// What a router is and knows when it starts.
pub(crate) struct State {
    /// The node's identity.
    pub(crate) key: NodeKey,
    /// Its Noise static key.
    pub(crate) noise: NoiseKeypair,
    /// Grows at each start.
    pub(crate) incarnation: u64,
    /// Genesis, secrets and records; none before the node has joined.
    pub(crate) durable: Option<DurableState>,
    /// Slots and addresses; none before the node has joined.
    pub(crate) ipam: Option<IpamState>,
}

/// Something that must be durable.
#[derive(Clone, Debug)]
pub(crate) enum Save {
    /// This is the cluster's state now.
    Cluster(DurableState),
    /// The address state changed like this.
    Ipam(Vec<Change>),
}

/// The open state directory; the lock is held until it is dropped.
pub(crate) struct Store {
    directory: PathBuf,
    identity: Vec<u8>,
    incarnation: u64,
    durable: Option<DurableState>,
    ipam: Option<IpamState>,
    file: File,
    /// Octets of the file, and how many of them are its snapshot.
    length: u64,
    snapshot: u64,
    _lock: File,
}

impl Store {
    /// True when a host has had its state in this directory before.
    pub(crate) fn exists(directory: &Path) -> bool {
        directory.join("state").exists()
    }

    /// Opens or makes the state of this host and raises its incarnation, durably, before it returns.
    pub(crate) fn open(
        directory: &Path,
        machine: MachineId,
        new_identity: impl FnOnce() -> (NodeKey, NoiseKeypair),
    ) -> Result<(Self, State), StoreError> {
        let in_directory = |source| StoreError::Directory {
            path: directory.into(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(in_directory)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(in_directory)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| StoreError::Locked {
            path: directory.into(),
        })?;
        let path = directory.join("state");
        let stored = match read(&path)? {
            Some(bytes) => decode(&path, &bytes, &machine)?,
            None => {
                let (key, noise) = new_identity();
                State {
                    key,
                    noise,
                    incarnation: 0,
                    durable: None,
                    ipam: None,
                }
            }
        };
        let state = State {
            incarnation: stored.incarnation + 1,
            ..stored
        };
        let mut store = Self {
            directory: directory.into(),
            identity: format::encode_identity(&machine, &state.key, &state.noise),
            incarnation: state.incarnation,
            durable: state.durable.clone(),
            ipam: state.ipam.clone(),
            file: lock.try_clone().map_err(in_directory)?,
            length: 0,
            snapshot: 0,
            _lock: lock,
        };
        store.rewrite()?;
        Ok((store, state))
    }

    /// Makes all of this durable, with one sync.
    pub(crate) fn save(&mut self, saves: &[Save]) -> Result<(), StoreError> {
        let mut appended = Vec::new();
        for save in saves {
            let place = self.length as usize + appended.len();
            match save {
                Save::Cluster(durable) => {
                    self.take_cluster(durable)?;
                    appended.extend(format::encode_record(
                        RecordKind::Cluster,
                        &durable.encode(),
                        place,
                    ));
                }
                Save::Ipam(changes) => {
                    // Its snapshot stands before it, or is made from the genesis when the file is read.
                    for change in changes {
                        let place = self.length as usize + appended.len();
                        appended.extend(format::encode_record(
                            RecordKind::IpamChange,
                            &encode(change),
                            place,
                        ));
                        if let Some(ipam) = &mut self.ipam {
                            ipam.apply(change);
                        }
                    }
                }
            }
        }
        if self.length + appended.len() as u64 > APPENDED_FACTOR * self.snapshot + APPENDED_MIN {
            return self.rewrite();
        }
        let outcome = self
            .file
            .write_all_at(&appended, self.length)
            .and_then(|()| self.file.sync_data());
        match outcome {
            Ok(()) => {
                self.length += appended.len() as u64;
                Ok(())
            }
            Err(source) => {
                // What was acknowledged before stays; nothing of this write may be found later.
                let _ = self.file.set_len(self.length);
                Err(StoreError::Io {
                    path: self.directory.join("state"),
                    source,
                })
            }
        }
    }

    fn take_cluster(&mut self, durable: &DurableState) -> Result<(), StoreError> {
        if self.ipam.is_none() {
            let path = self.directory.join("state");
            let fresh = IpamState::genesis(durable.genesis());
            self.ipam = Some(fresh.map_err(|_| StoreError::Damaged {
                path,
                why: FormatError::Ipam,
            })?);
        }
        self.durable = Some(durable.clone());
        Ok(())
    }

    /// Replaces the file by a snapshot of all.
    fn rewrite(&mut self) -> Result<(), StoreError> {
        let mut records = vec![
            (RecordKind::Identity, self.identity.clone()),
            (RecordKind::Incarnation, self.incarnation.to_be_bytes().to_vec()),
        ];
        records.extend(
            self.durable
                .iter()
                .map(|durable| (RecordKind::Cluster, durable.encode())),
        );
        records.extend(
            self.ipam
                .iter()
                .map(|ipam| (RecordKind::IpamState, ipam.encode())),
        );
        let bytes = format::encode(&records);
        replace(&self.directory, "state", &bytes)?;
        let path = self.directory.join("state");
        self.file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::Io { path, source })?;
        (self.length, self.snapshot) = (bytes.len() as u64, bytes.len() as u64);
        Ok(())
    }

    /// The join token that was kept for the next start, if any.
    pub(crate) fn token(&self) -> Result<Option<String>, StoreError> {
        let path = self.token_path();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    /// Keeps the join token, so that this host can admit others after a restart.
    pub(crate) fn save_token(&self, token: &str) -> Result<(), StoreError> {
        replace(&self.directory, "token", format!("{token}\n").as_bytes())
    }

    /// Where the join token is kept.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.directory.join("token")
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let io = |source| StoreError::Io {
        path: path.into(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    let mut bytes = Vec::new();
    file.take(STATE_FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > STATE_FILE_MAX {
        return Err(StoreError::Damaged {
            path: path.into(),
            why: FormatError::TooLarge,
        });
    }
    Ok(Some(bytes))
}

fn decode(path: &Path, bytes: &[u8], machine: &MachineId) -> Result<State, StoreError> {
    let damaged = |why| StoreError::Damaged {
        path: path.into(),
        why,
    };
    let contents = format::decode(bytes).map_err(|why| match why {
        FormatError::Newer { found } => StoreError::Newer {
            path: path.into(),
            found,
            known: format::FORMAT_VERSION,
        },
        other => damaged(other),
    })?;
    if let Some(at) = contents.torn_at {
        tracing::warn!(
            "{}: the last write was torn by a crash at octet {at}; it was never acknowledged",
            path.display()
        );
    }
    let records = contents.records;
    let last = |kind| {
        records
            .iter()
            .rev()
            .find(|(k, _)| *k == kind)
            .map(|(_, body)| *body)
    };
    let identity = last(RecordKind::Identity).ok_or(damaged(FormatError::Missing("identity")))?;
    let (bound_to, key, noise) = format::decode_identity(identity).map_err(damaged)?;
    if bound_to != machine.binding() {
        return Err(StoreError::OtherMachine { path: path.into() });
    }
    let incarnation = last(RecordKind::Incarnation)
        .and_then(|body| body.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or(damaged(FormatError::Missing("incarnation")))?;
    let Some(body) = last(RecordKind::Cluster) else {
        return Ok(State {
            key,
            noise,
            incarnation,
            durable: None,
            ipam: None,
        });
    };
    let durable = DurableState::decode(body).map_err(|_| damaged(FormatError::Cluster))?;
    let genesis = durable.genesis();
    let mut ipam = match last(RecordKind::IpamState) {
        Some(body) => IpamState::decode(body, genesis),
        None => IpamState::genesis(genesis),
    }
    .map_err(|_| damaged(FormatError::Ipam))?;
    for (_, body) in records.iter().filter(|(kind, _)| *kind == RecordKind::IpamChange) {
        let change: Change =
            weft_wire::codec::decode::<_, CHANGE_MAX>(body).map_err(|_| damaged(FormatError::Ipam))?;
        ipam.apply(&change);
    }
    Ok(State {
        key,
        noise,
        incarnation,
        durable: Some(durable),
        ipam: Some(ipam),
    })
}

/// Writes a file so that a crash leaves the old octets or the new ones, never a mixture.
fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let path = directory.join(name);
    let beside = directory.join(format!("{name}.new"));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(directory)?.sync_all()
    };
    write().map_err(|source| {
        // The old file still stands; what was written beside it is of no use to anybody.
        let _ = std::fs::remove_file(&beside);
        StoreError::Io {
            path: path.clone(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn open(directory: &Path, machine: &str) -> Result<(Store, State), StoreError> {
        Store::open(directory, MachineId::from_text(machine).unwrap(), || {
            let noise = NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([1; 32])).unwrap();
            (NodeKey::from_seed([2; 32]), noise)
        })
    }

    const MACHINE: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn identity_stays_and_incarnation_grows() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), MACHINE).unwrap().1;
        let second = open(dir.path(), MACHINE).unwrap().1;
        assert_eq!((first.incarnation, second.incarnation), (1, 2));
        assert_eq!(first.key.id(), second.key.id());
        assert_eq!(first.noise.public, second.noise.public);
    }

    #[test]
    fn a_second_router_on_the_same_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(dir.path(), MACHINE).unwrap();
        assert!(matches!(
            open(dir.path(), MACHINE),
            Err(StoreError::Locked { .. })
        ));
    }

    #[test]
    fn another_machine_is_refused_and_nothing_changes() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), MACHINE).unwrap());
        let before = std::fs::read(dir.path().join("state")).unwrap();
        let error = open(dir.path(), "ffffffffffffffffffffffffffffffff")
            .err()
            .unwrap();
        assert!(error.to_string().contains("another machine"), "{error}");
        assert_eq!(std::fs::read(dir.path().join("state")).unwrap(), before);
    }

    #[test]
    fn every_truncation_and_every_flipped_octet_of_a_snapshot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), MACHINE).unwrap());
        let path = dir.path().join("state");
        let good = std::fs::read(&path).unwrap();
        for cut in 0..good.len() {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(open(dir.path(), MACHINE).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            std::fs::write(&path, &bad).unwrap();
            assert!(open(dir.path(), MACHINE).is_err(), "octet {at}");
        }
    }

    fn founded() -> DurableState {
        let founder = NodeKey::from_seed([2; 32]).id();
        let range = "10.32.0.0/24".parse().unwrap();
        let genesis = weft_wire::record::Genesis {
            founder,
            nonce: [1; 16],
            range,
            slot_size: 1,
        };
        DurableState::founded(
            genesis,
            weft_wire::ClusterSecret {
                number: 1,
                key: [3; 32],
            },
        )
    }

    fn pod(offset: u32) -> Save {
        Save::Ipam(vec![Change::Address(
            offset,
            Some(weft_ipam_crdt::Held::Pod(format!("pod{offset}"))),
        )])
    }

    fn held(state: &State) -> usize {
        state.ipam.as_ref().map_or(0, |ipam| ipam.addresses().len())
    }

    #[test]
    fn what_was_saved_is_found_and_a_torn_tail_costs_only_what_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save(&[Save::Cluster(founded()), pod(1)]).unwrap();
        store.save(&[pod(2)]).unwrap();
        let path = dir.path().join("state");
        let two = std::fs::metadata(&path).unwrap().len();
        store.save(&[pod(3), pod(4)]).unwrap();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        for cut in two as usize..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (_, state) = open(dir.path(), MACHINE).unwrap();
            assert!((2..=4).contains(&held(&state)), "cut at {cut}");
            assert_eq!(held(&state) == 4, cut == whole.len(), "cut at {cut}");
            assert_eq!(state.durable, Some(founded()));
        }
    }

    #[test]
    fn a_long_log_is_folded_into_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save(&[Save::Cluster(founded())]).unwrap();
        let saves: Vec<Save> = (0..200).map(|i| pod(1 + i % 100)).collect();
        for _ in 0..200 {
            store.save(&saves).unwrap();
        }
        drop(store);
        let length = std::fs::metadata(dir.path().join("state")).unwrap().len();
        assert!(length < 2 * APPENDED_MIN, "{length}");
        assert_eq!(held(&open(dir.path(), MACHINE).unwrap().1), 100);
    }

    #[test]
    fn a_write_that_fails_loses_nothing_that_was_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save(&[Save::Cluster(founded()), pod(1)]).unwrap();
        // A file that is open for reading only takes no write.
        store.file = File::open(dir.path().join("state")).unwrap();
        let error = store.save(&[pod(2)]).unwrap_err();
        assert!(error.to_string().contains("state"), "{error}");
        drop(store);
        assert_eq!(held(&open(dir.path(), MACHINE).unwrap().1), 1);
    }
}
