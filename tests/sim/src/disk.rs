//! A host's disk: a log that takes time to write, and what a crash leaves of it.
//!
//! All writes that wait go out together, as the store does it. A crash keeps a part of them from the front: a
//! record that was torn is left out, as the store's checksums do.

use crate::dice::Dice;
use std::fmt;
use weft_gossip::DurableState;
use weft_ipam_crdt::genesis::AgreementState;
use weft_ipam_crdt::{Change, Claim, IpamState};
use weft_node::again::Beginning;
use weft_wire::{NodeId, NodeKey, NoiseKeypair};

/// One write, with the number by which the node names it.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// The cluster's state.
    Cluster(weft_gossip::PersistToken, DurableState),
    /// Changes of the address state.
    Ipam(weft_ipam_crdt::PersistToken, Vec<Change>),
    /// What the host is from now on, in place of all before.
    Again(Box<Beginning>),
    /// Addresses that it claims.
    Claims(Vec<Claim>),
    /// What binds the host while it makes a cluster together with others.
    Agreement(u64, Box<AgreementState>),
}

/// Writes that have become durable, the last of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Synced {
    pub(crate) cluster: Option<weft_gossip::PersistToken>,
    pub(crate) ipam: Option<weft_ipam_crdt::PersistToken>,
    /// The host is another member now.
    pub(crate) began: bool,
    pub(crate) agreement: Option<u64>,
    /// The next writes begin.
    pub(crate) again: bool,
}

/// What a host was.
pub(crate) struct Before {
    pub(crate) id: NodeId,
    pub(crate) state: Option<Vec<u8>>,
}

/// What survives a start.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) key: NodeKey,
    pub(crate) noise: NoiseKeypair,
    /// Bumped, durably, before each start.
    pub(crate) incarnation: u64,
    durable: Option<DurableState>,
    ipam: Option<IpamState>,
    claims: Vec<Claim>,
    /// Where the hosts listen that let it in when it began again.
    targets: Vec<String>,
    agreement: AgreementState,
    writing: Vec<Write>,
    waiting: Vec<Write>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk of {}", self.key.id().short())
    }
}

impl Disk {
    /// An empty disk with a new identity.
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let key = NodeKey::from_seed(dice.octets());
        #[expect(
            clippy::expect_used,
            reason = "it fails only where X25519 is not compiled in, and it is"
        )]
        let noise = NoiseKeypair::generate(dice.generator()).expect("X25519");
        Self {
            key,
            noise,
            incarnation: 0,
            durable: None,
            ipam: None,
            claims: Vec::new(),
            targets: Vec::new(),
            agreement: AgreementState::default(),
            writing: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Lays down the state of a founder, at once.
    pub(crate) fn found(&mut self, state: DurableState) {
        self.durable = Some(state);
    }

    /// What a start would find now of the cluster.
    pub(crate) fn durable(&self) -> Option<&DurableState> {
        self.durable.as_ref()
    }

    /// What a start would find now of the addresses.
    pub(crate) fn ipam(&self) -> Option<&IpamState> {
        self.ipam.as_ref()
    }

    /// What a start would find now of the claims.
    pub(crate) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// Where others listened when the host began again.
    pub(crate) fn targets(&self) -> &[String] {
        &self.targets
    }

    /// Changes the address state as no node would.
    pub(crate) fn spoil(&mut self, changes: &[Change]) {
        if let Some(state) = &mut self.ipam {
            for change in changes {
                state.apply(change);
            }
        }
    }

    /// What a start would find now of a cluster that is still to be made.
    pub(crate) fn agreement(&self) -> &AgreementState {
        &self.agreement
    }

    /// True when the writes under way make another host of it.
    fn begins_again(&self) -> bool {
        self.writing.iter().any(|write| matches!(write, Write::Again(_)))
    }

    /// What it is before the writes under way, if they make another host of it.
    pub(crate) fn before(&self) -> Option<Before> {
        self.begins_again().then(|| Before {
            id: self.key.id(),
            state: self.durable.as_ref().map(DurableState::encode),
        })
    }

    /// Takes something to write; true when writing begins with it.
    pub(crate) fn write(&mut self, write: Write) -> bool {
        if !self.writing.is_empty() {
            self.waiting.push(write);
            return false;
        }
        self.writing.push(write);
        true
    }

    /// The writes under way are durable; none when none were.
    pub(crate) fn synced(&mut self) -> Option<Synced> {
        if self.writing.is_empty() {
            return None;
        }
        let mut synced = Synced::default();
        for write in core::mem::take(&mut self.writing) {
            match &write {
                Write::Cluster(token, _) => synced.cluster = Some(*token),
                Write::Ipam(token, _) => synced.ipam = Some(*token),
                Write::Again(_) => synced.began = true,
                Write::Claims(_) => {}
                Write::Agreement(token, _) => synced.agreement = Some(*token),
            }
            self.apply(write);
        }
        self.writing = core::mem::take(&mut self.waiting);
        synced.again = !self.writing.is_empty();
        Some(synced)
    }

    /// The process or the host ends when this part, from 0 to 1, of the writes under way has reached the disk.
    pub(crate) fn crash(&mut self, part: f64) {
        self.waiting.clear();
        let writing = core::mem::take(&mut self.writing);
        let kept = (writing.len() as f64 * part) as usize;
        for write in writing.into_iter().take(kept) {
            self.apply(write);
        }
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Cluster(_, state) => self.durable = Some(state),
            Write::Claims(claims) => self.claims = claims,
            Write::Again(beginning) => {
                let Beginning {
                    key,
                    noise,
                    state,
                    claims,
                    targets,
                    ..
                } = *beginning;
                (self.key, self.noise, self.claims) = (key, noise, claims);
                self.targets = targets;
                self.ipam = IpamState::genesis(state.genesis()).ok();
                self.durable = Some(state);
            }
            Write::Agreement(_, state) => self.agreement = *state,
            Write::Ipam(_, changes) => {
                let Some(durable) = &self.durable else { return };
                let fresh = || IpamState::genesis(durable.genesis()).ok();
                if let Some(mut state) = self.ipam.take().or_else(fresh) {
                    for change in &changes {
                        state.apply(change);
                    }
                    self.ipam = Some(state);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_gossip::PersistToken;
    use weft_ipam_crdt::Held;
    use weft_wire::ClusterSecret;
    use weft_wire::record::Genesis;

    fn state(nonce: u8) -> DurableState {
        DurableState::founded(
            Genesis {
                founders: vec![NodeKey::from_seed([1; 32]).id()],
                nonce: [nonce; 16],
                range: "10.32.0.0/24".parse().unwrap(),
                slot_size: 1,
            },
            ClusterSecret {
                number: 1,
                key: [0; 32],
            },
        )
    }

    fn cluster(number: u8) -> Write {
        Write::Cluster(PersistToken(number.into()), state(number))
    }

    fn address(number: u32) -> Write {
        let change = Change::Address(number, Some(Held::Pod("pod".into())));
        Write::Ipam(weft_ipam_crdt::PersistToken(number.into()), vec![change])
    }

    fn addresses(disk: &Disk) -> usize {
        disk.ipam().map_or(0, |ipam| ipam.addresses().len())
    }

    #[test]
    fn writes_are_there_only_after_their_sync_and_those_that_wait_go_out_together() {
        let mut disk = Disk::new(&mut Dice::new(1, "disk"));
        assert!(disk.write(cluster(1)));
        assert!(!disk.write(cluster(2)));
        assert!(!disk.write(address(1)));
        assert!(!disk.write(address(2)));
        assert_eq!(disk.durable(), None);
        let first = disk.synced().unwrap();
        assert_eq!(
            (first.cluster, first.ipam, first.again),
            (Some(PersistToken(1)), None, true)
        );
        assert_eq!(disk.durable(), Some(&state(1)));
        let second = disk.synced().unwrap();
        assert_eq!(second.cluster, Some(PersistToken(2)));
        assert_eq!(
            (second.ipam, second.again),
            (Some(weft_ipam_crdt::PersistToken(2)), false)
        );
        assert_eq!(addresses(&disk), 2);
        assert_eq!(disk.synced(), None);
    }

    #[test]
    fn a_crash_leaves_a_part_from_the_front() {
        for (part, kept) in [(0.0, 0), (0.5, 1), (1.0, 2)] {
            let mut disk = Disk::new(&mut Dice::new(1, "disk"));
            disk.found(state(0));
            assert!(disk.write(cluster(1)));
            disk.write(address(1));
            disk.write(address(2));
            disk.synced();
            disk.crash(part);
            assert_eq!(addresses(&disk), kept);
            assert_eq!(disk.synced(), None, "nobody is told of it any more");
        }
    }
}
