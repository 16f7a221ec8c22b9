//! The one durable file of a host: identity, incarnation and what it knows of its cluster.
//!
//! `STATE_DIR/state` is bound to the machine id. It is replaced as a whole: written beside, synced, renamed, and
//! the directory synced, so that a crash leaves the old file or the new one. `STATE_DIR/lock` is held while a
//! router runs.

mod format;
mod machine;

pub(crate) use machine::{DEFAULT_MACHINE_ID_FILE, MachineId};

use format::{FormatError, RecordKind};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use weft_gossip::DurableState;
use weft_wire::{NodeKey, NoiseKeypair};

/// Largest state file that is read: 65,536 owners' admissions and peer records.
const STATE_FILE_MAX: u64 = 64 << 20;

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
}

/// The open state directory; the lock is held until it is dropped.
pub(crate) struct Store {
    directory: PathBuf,
    identity: Vec<u8>,
    incarnation: u64,
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
        let (key, noise, incarnation, durable) = match read(&path)? {
            Some(bytes) => decode(&path, &bytes, &machine)?,
            None => {
                let (key, noise) = new_identity();
                (key, noise, 0, None)
            }
        };
        let identity = format::encode_identity(&machine, &key, &noise);
        let mut store = Self {
            directory: directory.into(),
            identity,
            incarnation: incarnation + 1,
            _lock: lock,
        };
        store.save(durable.as_ref())?;
        let state = State {
            key,
            noise,
            incarnation: store.incarnation,
            durable,
        };
        Ok((store, state))
    }

    /// Replaces the file, durably.
    pub(crate) fn save(&mut self, durable: Option<&DurableState>) -> Result<(), StoreError> {
        let mut records = vec![
            (RecordKind::Identity, self.identity.clone()),
            (RecordKind::Incarnation, self.incarnation.to_be_bytes().to_vec()),
        ];
        if let Some(durable) = durable {
            records.push((RecordKind::Cluster, durable.encode()));
        }
        replace(&self.directory, "state", &format::encode(&records))
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

type Decoded = (NodeKey, NoiseKeypair, u64, Option<DurableState>);

fn decode(path: &Path, bytes: &[u8], machine: &MachineId) -> Result<Decoded, StoreError> {
    let damaged = |why| StoreError::Damaged {
        path: path.into(),
        why,
    };
    let records = format::decode(bytes).map_err(|why| match why {
        FormatError::Newer { found } => StoreError::Newer {
            path: path.into(),
            found,
            known: format::FORMAT_VERSION,
        },
        other => damaged(other),
    })?;
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
    let durable = match last(RecordKind::Cluster) {
        Some(body) => Some(DurableState::decode(body).map_err(|_| damaged(FormatError::Cluster))?),
        None => None,
    };
    Ok((key, noise, incarnation, durable))
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
    fn every_truncation_and_every_flipped_octet_is_refused() {
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
}
