//! Reading the state file: what a router finds when it starts.

use crate::error::{FormatError, StoreError};
use crate::format::{self, RecordKind};
use crate::machine::MachineId;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use weft_gossip::DurableState;
use weft_ipam_crdt::genesis::AgreementState;
use weft_ipam_crdt::{Change, Claim, IpamState};
use weft_wire::fastpath::Settings;
use weft_wire::{NodeKey, NoiseKeypair};

/// Largest state file that is read: 65,536 owners' admissions and peer records.
const STATE_FILE_MAX: u64 = 64 << 20;
/// Longest encoded part in an agreement: 64 ids, in the set and in two geneses, with room to spare.
const AGREEMENT_STATE_MAX: usize = 64 << 10;
/// Longest encoded change of the address state: a grant of all slots of a fragmented host.
const CHANGE_MAX: usize = 1 << 20;
/// Longest encoded list of targets: a few socket addresses as text.
const TARGETS_MAX: usize = 4 << 10;
/// Longest encoded list of claims: 65,536 addresses with ids of 256 octets.
const CLAIMS_MAX: usize = 32 << 20;
/// Longest encoded settings: two numbers, two ids, two values.
const SETTINGS_MAX: usize = 128;

/// What a router is and knows when it starts.
pub struct State {
    /// The node's identity.
    pub key: NodeKey,
    /// Its Noise static key.
    pub noise: NoiseKeypair,
    /// Grows at each start.
    pub incarnation: u64,
    /// Genesis, secrets and records; none before the node has joined.
    pub durable: Option<DurableState>,
    /// What binds the node while it makes a cluster together with others; the default once it has one.
    pub agreement: AgreementState,
    /// Slots and addresses; none before the node has joined.
    pub ipam: Option<IpamState>,
    /// Addresses of pods from before it began again, that the cluster has not given to it.
    pub claims: Vec<Claim>,
    /// Join token of the cluster that it has adopted.
    pub token: Option<String>,
    /// Where the hosts listen that let it in when it began again.
    pub targets: Vec<String>,
    /// Settings of the cluster, as this host last knew them.
    pub settings: Settings,
}

pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let io = |source| StoreError::of_io(path, source);
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

pub(crate) fn decode(path: &Path, bytes: &[u8], machine: &MachineId) -> Result<State, StoreError> {
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
        let agreement = last(RecordKind::Agreement).map_or(Ok(AgreementState::default()), |body| {
            weft_wire::codec::decode::<_, AGREEMENT_STATE_MAX>(body)
        });
        return Ok(State {
            key,
            noise,
            incarnation,
            durable: None,
            agreement: agreement.map_err(|_| damaged(FormatError::Cluster))?,
            ipam: None,
            claims: Vec::new(),
            token: None,
            targets: Vec::new(),
            settings: Settings::default(),
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
    let claims = match last(RecordKind::Claims) {
        Some(body) => {
            weft_wire::codec::decode::<_, CLAIMS_MAX>(body).map_err(|_| damaged(FormatError::Ipam))?
        }
        None => Vec::new(),
    };
    let token = match last(RecordKind::Token) {
        Some(body) => Some(String::from_utf8(body.to_vec()).map_err(|_| damaged(FormatError::Cluster))?),
        None => None,
    };
    let targets = match last(RecordKind::Targets) {
        Some(body) => {
            weft_wire::codec::decode::<_, TARGETS_MAX>(body).map_err(|_| damaged(FormatError::Cluster))?
        }
        None => Vec::new(),
    };
    let settings = match last(RecordKind::Settings) {
        Some(body) => {
            weft_wire::codec::decode::<_, SETTINGS_MAX>(body).map_err(|_| damaged(FormatError::Cluster))?
        }
        None => Settings::default(),
    };
    Ok(State {
        key,
        noise,
        incarnation,
        durable: Some(durable),
        agreement: AgreementState::default(),
        ipam: Some(ipam),
        claims,
        token,
        targets,
        settings,
    })
}
