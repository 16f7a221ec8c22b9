//! The one durable file of a host: identity, incarnation, what it knows of its cluster, and its addresses.
//!
//! `STATE_DIR/state` is bound to the machine id. At each start, and when what was appended outgrows it, it is
//! replaced as a whole: written beside, synced, renamed, and the directory synced, so that a crash leaves the old
//! file or the new one. In between, changes are appended and synced together. `STATE_DIR/lock` is held while a
//! router runs.

use crate::error::{Difference, FormatError, StoreError};
use crate::file::{check_owner, make_directory, rename_all, replace};
use crate::format::{self, RecordKind};
use crate::load::{State, decode, read};
use crate::machine::MachineId;
use crate::point::{Append, CrashAt, Occasion, Points, WritePoint};
use crate::syncs::Syncs;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use weft_gossip::DurableState;
use weft_ipam_crdt::genesis::AgreementState;
use weft_ipam_crdt::{Change, Claim, IpamState};
use weft_wire::codec::encode;
use weft_wire::fastpath::Settings;
use weft_wire::{NodeKey, NoiseKeypair};

/// The file is rewritten when it is this many times its snapshot, and [`APPENDED_MIN`] more.
const APPENDED_FACTOR: u64 = 3;
/// Octets that may be appended to any snapshot: some thousand changes, read in milliseconds at the next start.
const APPENDED_MIN: u64 = 1 << 20;

/// Added to the names of files of a host that has left its cluster.
const LEFT: &str = ".left-the-cluster";

/// What a host is once it has begun again: a new member, whose pods have addresses already.
#[derive(Clone)]
pub struct Again {
    /// Its new identity.
    pub key: NodeKey,
    /// Its new Noise static key.
    pub noise: NoiseKeypair,
    /// Its membership; the address state is the one of the genesis in it.
    pub durable: DurableState,
    /// Addresses of its pods.
    pub claims: Vec<Claim>,
    /// Join token of the cluster, when it is another one than before.
    pub token: Option<String>,
    /// Where the hosts listen that let it in.
    pub targets: Vec<String>,
}

impl std::fmt::Debug for Again {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Whoever has the token can join.
        write!(f, "Again({:?}, {:?})", self.key.id(), self.claims)
    }
}

/// Something that must be durable.
#[derive(Clone, Debug)]
pub enum Save {
    /// This is the cluster's state now.
    Cluster(DurableState),
    /// The address state changed like this.
    Ipam(Vec<Change>),
    /// All that was stored is over: this takes its place, by one write. What it was is kept in `state.before`.
    Again(Box<Again>),
    /// These addresses of pods are claimed, and no others.
    Claims(Vec<Claim>),
    /// This binds the node while it makes a cluster together with others.
    Agreement(Box<AgreementState>),
    /// These settings of the cluster are the ones that this host knows.
    Settings(Settings),
}

/// The open state directory; the lock is held until it is dropped.
pub struct Store {
    directory: PathBuf,
    machine: MachineId,
    identity: Vec<u8>,
    incarnation: u64,
    durable: Option<DurableState>,
    agreement: AgreementState,
    ipam: Option<IpamState>,
    claims: Vec<Claim>,
    token: Option<String>,
    targets: Vec<String>,
    settings: Settings,
    /// Octets of what the host was before it began again, until they are kept aside.
    former: Option<Vec<u8>>,
    file: File,
    /// Octets of the file, and how many of them are its snapshot.
    length: u64,
    snapshot: u64,
    /// True after a write that failed: the file lacks what this value holds.
    is_behind: bool,
    points: Points,
    syncs: Syncs,
    _lock: File,
}

impl Store {
    /// True when a host has had its state in this directory before.
    pub fn exists(directory: &Path) -> bool {
        directory.join("state").exists()
    }

    /// Opens or makes the state of this host and raises its incarnation, durably, before it returns. `crash_at` is a
    /// test aid, see [`crate::point`].
    ///
    /// # Errors
    /// Whatever keeps the state from being used; the file is then as it was.
    pub fn open(
        directory: &Path,
        machine: MachineId,
        crash_at: Option<CrashAt>,
        new_identity: impl FnOnce() -> (NodeKey, NoiseKeypair),
    ) -> Result<(Self, State), StoreError> {
        let in_directory = |source: std::io::Error| match StoreError::of_io(directory, source) {
            StoreError::Io { path, source } => StoreError::Directory { path, source },
            named => named,
        };
        let mut points = Points::new(crash_at);
        if make_directory(directory).map_err(in_directory)? {
            points.reach(WritePoint::DirectoryMade);
        }
        check_owner(directory)?;
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
        let (stored, occasion) = match read(&path)? {
            Some(bytes) => (decode(&path, &bytes, &machine)?, Occasion::Start),
            None => {
                let (key, noise) = new_identity();
                let new = State {
                    key,
                    noise,
                    incarnation: 0,
                    durable: None,
                    agreement: AgreementState::default(),
                    ipam: None,
                    claims: Vec::new(),
                    token: None,
                    targets: Vec::new(),
                    settings: Settings::default(),
                };
                (new, Occasion::First)
            }
        };
        let state = State {
            incarnation: stored.incarnation + 1,
            ..stored
        };
        let mut store = Self {
            directory: directory.into(),
            identity: format::encode_identity(&machine, &state.key, &state.noise),
            machine,
            incarnation: state.incarnation,
            durable: state.durable.clone(),
            agreement: state.agreement.clone(),
            ipam: state.ipam.clone(),
            claims: state.claims.clone(),
            token: state.token.clone(),
            targets: state.targets.clone(),
            settings: state.settings,
            former: None,
            file: lock.try_clone().map_err(in_directory)?,
            length: 0,
            snapshot: 0,
            is_behind: false,
            points,
            syncs: Syncs::default(),
            _lock: lock,
        };
        store.rewrite(occasion)?;
        store.follow_token()?;
        Ok((store, state))
    }

    /// Makes all of this durable, with one sync, and with it whatever a call that failed before has left.
    ///
    /// # Errors
    /// It could not be written. The file then holds all that was durable before; this value keeps the rest, so the
    /// next call, also one with nothing new, tries to write all of it.
    pub fn save(&mut self, saves: &[Save]) -> Result<(), StoreError> {
        self.save_telling(saves, || {})
    }

    /// As [`Self::save`]; calls `written` between write and sync, when the file is not replaced as a whole: what was handed
    /// over outlives this process then.
    ///
    /// # Errors
    /// As [`Self::save`], also after `written` was called.
    pub fn save_telling(&mut self, saves: &[Save], written: impl FnMut()) -> Result<(), StoreError> {
        let mut appended = Vec::new();
        let mut at: fn(Append) -> WritePoint = WritePoint::Records;
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
                Save::Again(again) => self.take_again(again)?,
                Save::Claims(claims) => {
                    self.claims.clone_from(claims);
                    appended.extend(format::encode_record(RecordKind::Claims, &encode(claims), place));
                }
                Save::Settings(settings) => {
                    self.settings = *settings;
                    appended.extend(format::encode_record(
                        RecordKind::Settings,
                        &encode(settings),
                        place,
                    ));
                }
                Save::Agreement(state) => {
                    at = WritePoint::Agreement;
                    let body = encode(state);
                    appended.extend(format::encode_record(RecordKind::Agreement, &body, place));
                    self.agreement = (**state).clone();
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
        let length = self.length + appended.len() as u64;
        let is_long = length > APPENDED_FACTOR * self.snapshot + APPENDED_MIN;
        if self.former.is_some() {
            self.rewrite(Occasion::Again)?;
            return self.follow_token();
        }
        if self.is_behind || is_long || self.points.awaits_fold() {
            return self.rewrite(Occasion::Fold);
        }
        if appended.is_empty() {
            return Ok(());
        }
        self.append(&appended, at, written).map_err(|source| {
            // What was acknowledged before stays; nothing of this write may be found later. A file whose sync
            // failed is not written again either: the kernel may have dropped what it could not write (fsync(2)).
            self.is_behind = true;
            let _ = self.file.set_len(self.length);
            StoreError::of_io(&self.directory.join("state"), source)
        })
    }

    fn append(
        &mut self,
        records: &[u8],
        at: fn(Append) -> WritePoint,
        mut written: impl FnMut(),
    ) -> std::io::Result<()> {
        let torn = at(Append::Torn);
        if self.points.awaits(torn) {
            self.file
                .write_all_at(&records[..records.len() / 2], self.length)?;
            self.points.reach(torn);
        }
        self.file.write_all_at(records, self.length)?;
        self.points.reach(at(Append::Written));
        written();
        self.syncs.measured(|| self.file.sync_data())?;
        self.points.reach(at(Append::Synced));
        self.length += records.len() as u64;
        Ok(())
    }

    /// Counts this store's syncs.
    pub fn syncs(&self) -> Syncs {
        self.syncs.clone()
    }

    /// Reads the file again, and compares it with what was made durable and with `ipam`, the address state in memory.
    /// What differs is written anew from what this value holds.
    ///
    /// # Errors
    /// What differs, or why the file cannot be read or written anew.
    pub fn compare(&mut self, ipam: &IpamState) -> Result<(), Difference> {
        if self.ipam.as_ref() != Some(ipam) {
            return Err(Difference::Memory {
                handed: self.ipam.as_ref().map_or(0, IpamState::serial),
                memory: ipam.serial(),
            });
        }
        let path = self.directory.join("state");
        let found = match read(&path) {
            Ok(Some(bytes)) => decode(&path, &bytes, &self.machine).map_err(|error| error.to_string()),
            Ok(None) => Err(format!("{} is gone", path.display())),
            Err(error) => Err(error.to_string()),
        };
        let why = match found {
            Err(why) => why,
            Ok(state) => {
                let identity = format::encode_identity(&self.machine, &state.key, &state.noise);
                let differs = [
                    (identity != self.identity, "another identity"),
                    (state.incarnation != self.incarnation, "another incarnation"),
                    (state.durable != self.durable, "other members"),
                    (state.ipam != self.ipam, "other addresses or slots"),
                ];
                match differs.iter().find(|(differs, _)| *differs) {
                    None => return Ok(()),
                    Some((_, what)) => format!("{} holds {what}", path.display()),
                }
            }
        };
        self.is_behind = true;
        match self.save(&[]) {
            Ok(()) => Err(Difference::Mended { why }),
            Err(error) => Err(Difference::Lost { why, error }),
        }
    }

    /// Gives the identity up for good: the file and the token get names by which no router takes them, and which say
    /// why. Nothing may be saved afterwards. Returns where the file is kept.
    ///
    /// # Errors
    /// They could not be renamed; what is still there under its name must be moved by hand.
    pub fn set_aside(&mut self) -> Result<PathBuf, StoreError> {
        let is_free = |suffix: &String| {
            ["state", "token"]
                .iter()
                .all(|name| !self.directory.join(format!("{name}{suffix}")).exists())
        };
        let mut suffixes = (1u32..).map(|number| match number {
            1 => LEFT.to_owned(),
            number => format!("{LEFT}-{number}"),
        });
        // There are more numbers than files.
        let suffix = suffixes.find(is_free).unwrap_or_else(|| LEFT.to_owned());
        let names = ["state", "token"].map(|name| (name, format!("{name}{suffix}")));
        rename_all(&self.directory, &names)?;
        Ok(self.directory.join(format!("state{suffix}")))
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
        self.agreement = AgreementState::default();
        Ok(())
    }

    /// Becomes another member. What it was until now is kept as it is here, with all that was to be written before.
    fn take_again(&mut self, again: &Again) -> Result<(), StoreError> {
        let fresh = IpamState::genesis(again.durable.genesis()).map_err(|_| StoreError::Damaged {
            path: self.directory.join("state"),
            why: FormatError::Ipam,
        })?;
        if self.former.is_none() {
            self.former = Some(self.contents());
        }
        self.identity = format::encode_identity(&self.machine, &again.key, &again.noise);
        self.durable = Some(again.durable.clone());
        self.ipam = Some(fresh);
        self.claims.clone_from(&again.claims);
        self.targets.clone_from(&again.targets);
        // Those were the other cluster's.
        self.settings = Settings::default();
        if again.token.is_some() {
            self.token.clone_from(&again.token);
        }
        Ok(())
    }

    /// Makes the token's file say what the state says: a crash may have come between the two.
    fn follow_token(&mut self) -> Result<(), StoreError> {
        match self.token.clone() {
            Some(token) if self.token()?.as_ref() != Some(&token) => self.save_token(&token),
            _ => Ok(()),
        }
    }

    /// The octets of a file that holds all.
    fn contents(&self) -> Vec<u8> {
        let mut records = vec![
            (RecordKind::Identity, self.identity.clone()),
            (RecordKind::Incarnation, self.incarnation.to_be_bytes().to_vec()),
        ];
        records.extend(
            self.durable
                .iter()
                .map(|durable| (RecordKind::Cluster, durable.encode())),
        );
        if self.agreement != AgreementState::default() {
            records.push((RecordKind::Agreement, encode(&self.agreement)));
        }
        records.extend(
            self.ipam
                .iter()
                .map(|ipam| (RecordKind::IpamState, ipam.encode())),
        );
        if !self.claims.is_empty() {
            records.push((RecordKind::Claims, encode(&self.claims)));
        }
        records.extend(
            self.token
                .iter()
                .map(|token| (RecordKind::Token, token.clone().into_bytes())),
        );
        if !self.targets.is_empty() {
            records.push((RecordKind::Targets, encode(&self.targets)));
        }
        if self.settings != Settings::default() {
            records.push((RecordKind::Settings, encode(&self.settings)));
        }
        format::encode(&records)
    }

    /// Replaces the file by a snapshot of all.
    fn rewrite(&mut self, occasion: Occasion) -> Result<(), StoreError> {
        // Until it has succeeded the open file may be the old one, behind the name or without one.
        self.is_behind = true;
        if let Some(former) = &self.former {
            let place = (self.directory.as_path(), "state.before");
            replace(place, former, Occasion::Former, &mut self.points, &self.syncs)?;
        }
        let bytes = self.contents();
        let place = (self.directory.as_path(), "state");
        replace(place, &bytes, occasion, &mut self.points, &self.syncs)?;
        let path = self.directory.join("state");
        self.file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::of_io(&path, source))?;
        (self.length, self.snapshot) = (bytes.len() as u64, bytes.len() as u64);
        self.former = None;
        self.is_behind = false;
        Ok(())
    }

    /// The join token that was kept for the next start, if any.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn token(&self) -> Result<Option<String>, StoreError> {
        let path = self.token_path();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::of_io(&path, source)),
        }
    }

    /// Keeps the join token, so that this host can admit others after a restart.
    ///
    /// # Errors
    /// It could not be written; the token that was kept before still is.
    pub fn save_token(&mut self, token: &str) -> Result<(), StoreError> {
        let place = (self.directory.as_path(), "token");
        let text = format!("{token}\n");
        replace(
            place,
            text.as_bytes(),
            Occasion::Token,
            &mut self.points,
            &self.syncs,
        )
    }

    /// Where the join token is kept.
    pub fn token_path(&self) -> PathBuf {
        self.directory.join("token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn open(directory: &Path, machine: &str) -> Result<(Store, State), StoreError> {
        Store::open(directory, MachineId::from_text(machine).unwrap(), None, || {
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
    fn what_binds_a_host_is_found_again_until_it_has_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let founder = NodeKey::from_seed([2; 32]).id();
        let bound = |round| AgreementState {
            set: vec![founder],
            promised: Some(weft_wire::ipam::Ballot {
                round,
                proposer: founder,
            }),
            ..AgreementState::default()
        };
        let mut store = open(dir.path(), MACHINE).unwrap().0;
        for round in [1, 2] {
            store.save(&[Save::Agreement(Box::new(bound(round)))]).unwrap();
        }
        drop(store);
        // From the log, then from the snapshot that the start made of it.
        for _ in 0..2 {
            assert_eq!(open(dir.path(), MACHINE).unwrap().1.agreement, bound(2));
        }
        let mut store = open(dir.path(), MACHINE).unwrap().0;
        store.save(&[Save::Cluster(founded())]).unwrap();
        drop(store);
        for _ in 0..2 {
            let state = open(dir.path(), MACHINE).unwrap().1;
            assert_eq!(state.agreement, AgreementState::default());
            assert!(state.durable.is_some());
        }
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
            founders: vec![founder],
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

    fn again() -> Again {
        let key = NodeKey::from_seed([9; 32]);
        let genesis = weft_wire::record::Genesis {
            founders: vec![NodeKey::from_seed([8; 32]).id()],
            ..founded().genesis().clone()
        };
        let secret = weft_wire::ClusterSecret {
            number: 1,
            key: [4; 32],
        };
        Again {
            noise: NoiseKeypair::generate(&mut ChaCha20Rng::from_seed([9; 32])).unwrap(),
            durable: DurableState::founded(genesis, secret),
            claims: vec![Claim {
                id: "pod1".into(),
                address: "10.32.0.1".parse().unwrap(),
            }],
            token: Some("of the other cluster".into()),
            targets: vec!["192.0.2.1:6783".into()],
            key,
        }
    }

    #[test]
    fn who_begins_again_is_one_or_the_other_and_never_both() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save_token("of this one").unwrap();
        store.save(&[Save::Cluster(founded()), pod(1)]).unwrap();
        // What is written together with it still belongs to what the host was.
        let blocked = dir.path().join("state.new");
        std::fs::create_dir(&blocked).unwrap();
        assert!(store.save(&[pod(2), Save::Again(Box::new(again()))]).is_err());
        let path = dir.path().join("state");
        let was = decode(&path, &read(&path).unwrap().unwrap(), &store.machine);
        assert_eq!(was.unwrap().durable, Some(founded()));
        std::fs::remove_dir(&blocked).unwrap();
        let mut settings = Settings::default();
        settings.encryption.number = 3;
        store
            .save(&[Save::Claims(again().claims), pod(7), Save::Settings(settings)])
            .unwrap();
        drop(store);

        let (mut store, state) = open(dir.path(), MACHINE).unwrap();
        assert_eq!(state.key.id(), again().key.id());
        assert_eq!(state.durable, Some(again().durable));
        assert_eq!(state.targets, again().targets);
        assert_eq!(state.settings, settings);
        assert_eq!((held(&state), state.claims), (1, again().claims));
        assert_eq!(store.token().unwrap().as_deref(), Some("of the other cluster"));
        store.save(&[Save::Claims(Vec::new())]).unwrap();
        drop(store);
        assert_eq!(open(dir.path(), MACHINE).unwrap().1.claims, []);

        // The file aside is all that it was, and can be put back.
        std::fs::rename(dir.path().join("state.before"), dir.path().join("state")).unwrap();
        let (_, state) = open(dir.path(), MACHINE).unwrap();
        assert_eq!(state.durable, Some(founded()));
        assert_eq!(held(&state), 2);
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

    #[test]
    fn what_a_failed_write_has_left_is_written_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save(&[Save::Cluster(founded()), pod(1)]).unwrap();
        // A directory in the place of the file beside it: neither the log nor a snapshot can be written.
        store.file = File::open(dir.path().join("state")).unwrap();
        let blocked = dir.path().join("state.new");
        std::fs::create_dir(&blocked).unwrap();
        assert!(store.save(&[pod(2)]).is_err());
        let error = store.save(&[pod(3)]).unwrap_err();
        assert!(error.may_pass(), "{error}");
        std::fs::remove_dir(&blocked).unwrap();
        let before = store.syncs().so_far();
        store.save(&[]).unwrap();
        // The file and its directory.
        assert_eq!(store.syncs().so_far(), before + 2);
        store.save(&[pod(4), pod(5)]).unwrap();
        assert_eq!(store.syncs().so_far(), before + 3);
        drop(store);
        assert_eq!(held(&open(dir.path(), MACHINE).unwrap().1), 5);
    }

    #[test]
    fn a_flipped_octet_anywhere_in_the_log_loses_no_earlier_record_silently() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path(), MACHINE).unwrap();
        store.save(&[Save::Cluster(founded()), pod(1)]).unwrap();
        let begin = store.length as usize;
        store.save(&[pod(2)]).unwrap();
        let end = store.length as usize;
        store.save(&[pod(3)]).unwrap();
        drop(store);
        let path = dir.path().join("state");
        let good = std::fs::read(&path).unwrap();
        for at in begin..end {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            std::fs::write(&path, &bad).unwrap();
            let error = open(dir.path(), MACHINE).err().unwrap();
            assert!(
                error.to_string().contains("Restore the file"),
                "octet {at}: {error}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), bad, "octet {at}");
        }
    }

    #[test]
    fn a_directory_that_others_may_change_is_refused_with_the_cure() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(mode)).unwrap();
        mode(0o770);
        let error = open(dir.path(), MACHINE).err().unwrap().to_string();
        assert!(
            error.contains("mode 770") && error.contains("chmod 700"),
            "{error}"
        );
        mode(0o755);
        drop(open(dir.path(), MACHINE).unwrap());
        if rustix::process::geteuid().is_root() {
            chown(dir.path(), Some(4_242), None).unwrap();
            let error = open(dir.path(), MACHINE).err().unwrap().to_string();
            assert!(
                error.contains("user 4242") && error.contains("chown 0"),
                "{error}"
            );
            chown(dir.path(), Some(0), None).unwrap();
        }
        assert_eq!(open(dir.path(), MACHINE).unwrap().1.incarnation, 2);
    }
}
