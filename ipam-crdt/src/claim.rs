//! Addresses of pods that run while their host becomes a new member, of this cluster or of another one.
//!
//! Such a host owns nothing, and its pods have addresses. It asks for each by a [`Request::Claim`]: the owner of the
//! slot lends it, if nobody else has it. What is refused is kept here, since the pod runs on with it, and asked for again
//! now and then, until the pod is gone or the address is free.

use crate::io::{AllocError, Request, RequestId};
use crate::space::AddressSpace;
use crate::state::{Held, IpamState};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use weft_wire::Time;

/// Claims that wait for an answer at once: half of the requests that may wait, so that pods get addresses meanwhile.
pub const CLAIMS_AT_ONCE: usize = crate::WAITING_MAX / 2;
/// A claim that was refused is made again after this: whoever has the address may have given it back.
pub const CLAIM_PAUSE: Duration = Duration::from_secs(30);
/// Numbers of requests from here on are claims'.
const NUMBERS: u64 = 1 << 63;

/// An address that a pod of this host has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// The pod.
    pub id: String,
    /// Its address.
    pub address: IpAddr,
}

impl IpamState {
    /// What pods of this host have, to be claimed when it begins again.
    pub fn claims(&self, space: &AddressSpace) -> Vec<Claim> {
        let pods = self.addresses().iter().filter_map(|(offset, held)| match held {
            Held::Pod(id) | Held::Borrowed { id, .. } => Some(Claim {
                id: id.clone(),
                address: space.address(*offset)?,
            }),
            _ => None,
        });
        pods.collect()
    }
}

/// Where a claim stands, by what it waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// To be made, at this time.
    Turn(Time),
    /// An answer.
    Answer(RequestId),
}

struct Entry {
    stage: Stage,
    refusal: Option<AllocError>,
}

/// The claims of one host that the cluster has not granted, and what became of the others.
#[derive(Default)]
pub struct Claims {
    entries: BTreeMap<Claim, Entry>,
    /// What was granted to this process, for people: at most as many as there were claims.
    kept: BTreeSet<Claim>,
    asked: u64,
}

impl Claims {
    /// These are to be made, as soon as there is somebody to ask.
    pub fn new(claims: Vec<Claim>) -> Self {
        let entry = || Entry {
            stage: Stage::Turn(Time::ZERO),
            refusal: None,
        };
        Self {
            entries: claims.into_iter().map(|claim| (claim, entry())).collect(),
            kept: BTreeSet::new(),
            asked: 0,
        }
    }

    /// Addresses that were claimed and granted, and that their pods still have.
    pub fn kept(&self) -> impl Iterator<Item = &Claim> {
        self.kept.iter()
    }

    /// The claims that are left, as they are to be stored.
    pub fn list(&self) -> Vec<Claim> {
        self.entries.keys().cloned().collect()
    }

    /// Claims with the last refusal; none while one was not answered.
    pub fn open(&self) -> impl Iterator<Item = (&Claim, Option<&AllocError>)> {
        self.entries
            .iter()
            .map(|(claim, entry)| (claim, entry.refusal.as_ref()))
    }

    /// True when none is left.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The address that a pod has and that is not granted: it is the one it gets when it asks for any.
    pub fn of(&self, id: &str) -> Option<IpAddr> {
        self.entries
            .keys()
            .find(|claim| claim.id == id)
            .map(|claim| claim.address)
    }

    /// The next request to make; `None` when none is due.
    pub fn poll_request(&mut self, now: Time) -> Option<Request> {
        let is_waiting = |entry: &&Entry| matches!(entry.stage, Stage::Answer(_));
        if self.entries.values().filter(is_waiting).count() >= CLAIMS_AT_ONCE {
            return None;
        }
        let is_due = |entry: &Entry| matches!(entry.stage, Stage::Turn(due) if due <= now);
        let (claim, entry) = self.entries.iter_mut().find(|(_, entry)| is_due(entry))?;
        self.asked += 1;
        let request = RequestId(NUMBERS + self.asked);
        entry.stage = Stage::Answer(request);
        Some(Request::Claim {
            id: claim.id.clone(),
            address: claim.address,
            request,
        })
    }

    /// When [`Self::poll_request`] has something again.
    pub fn poll_timeout(&self) -> Option<Time> {
        let due = |entry: &Entry| match entry.stage {
            Stage::Turn(due) => Some(due),
            Stage::Answer(_) => None,
        };
        self.entries.values().filter_map(due).min()
    }

    /// True for numbers that [`Self::poll_request`] gives.
    pub fn is_claim(request: RequestId) -> bool {
        request.0 >= NUMBERS
    }

    /// An answer came; what it says of the claim.
    pub fn answered(&mut self, now: Time, request: RequestId, refusal: Option<AllocError>) -> Answered {
        let waits = |entry: &Entry| entry.stage == Stage::Answer(request);
        let Some(claim) = self
            .entries
            .iter()
            .find(|(_, entry)| waits(entry))
            .map(|(claim, _)| claim.clone())
        else {
            return Answered::Nobodys;
        };
        let Some(refusal) = refusal else {
            self.entries.remove(&claim);
            self.kept.insert(claim.clone());
            return Answered::Granted(claim);
        };
        let Some(entry) = self.entries.get_mut(&claim) else {
            return Answered::Nobodys;
        };
        let is_silence = matches!(refusal, AllocError::Deadline { .. });
        // Who waits is served before others, so nobody on this host gets the address meanwhile.
        entry.stage = Stage::Turn(if is_silence { now } else { now + CLAIM_PAUSE });
        let is_news = entry.refusal.as_ref() != Some(&refusal);
        entry.refusal = Some(refusal);
        if is_news {
            Answered::Refused(claim)
        } else {
            Answered::Same
        }
    }

    /// The process that waited for answers is gone, and with it the answers: all are made again.
    pub fn begin_again(&mut self) {
        for entry in self.entries.values_mut() {
            entry.stage = Stage::Turn(Time::ZERO);
        }
    }

    /// A pod is gone, or one of its addresses: nothing of it is claimed any longer. The requests are to be cancelled.
    pub fn forget(&mut self, id: &str, address: Option<IpAddr>) -> Vec<(IpAddr, Option<RequestId>)> {
        let mut gone = Vec::new();
        let stays = |claim: &Claim| claim.id != id || address.is_some_and(|address| address != claim.address);
        self.kept.retain(stays);
        self.entries.retain(|claim, entry| {
            let stays = stays(claim);
            if !stays {
                gone.push((
                    claim.address,
                    match entry.stage {
                        Stage::Answer(request) => Some(request),
                        Stage::Turn(_) => None,
                    },
                ));
            }
            stays
        });
        gone
    }
}

/// What an answer says of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answered {
    /// The address is this host's; the claim is done.
    Granted(Claim),
    /// It was refused, for this reason for the first time.
    Refused(Claim),
    /// It was refused, as before.
    Same,
    /// Its pod is gone: what was granted is to be freed.
    Nobodys,
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_wire::NodeId;

    fn claim(n: u8) -> Claim {
        Claim {
            id: alloc::format!("pod{n}"),
            address: IpAddr::from([10, 32, 0, n]),
        }
    }

    fn numbers(claims: &mut Claims, now: Time) -> Vec<(IpAddr, RequestId)> {
        let request = || match claims.poll_request(now)? {
            Request::Claim { address, request, .. } => Some((address, request)),
            _ => None,
        };
        core::iter::from_fn(request).collect()
    }

    #[test]
    fn a_claim_is_made_until_it_is_granted() {
        let now = Time::ZERO;
        let mut claims = Claims::new([1, 2].map(claim).into());
        let asked = numbers(&mut claims, now);
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|(_, request)| Claims::is_claim(*request)));
        assert_eq!(claims.poll_timeout(), None);
        assert_eq!(
            claims.answered(now, asked[0].1, None),
            Answered::Granted(claim(1))
        );
        assert_eq!(claims.list(), [claim(2)]);
        assert_eq!(claims.kept().collect::<Vec<_>>(), [&claim(1)]);

        // Somebody has it: it is listed, and asked for again after a while.
        let taken = AllocError::TakenElsewhere {
            address: claim(2).address,
            owner: NodeId([9; 32]),
        };
        let refused = claims.answered(now, asked[1].1, Some(taken.clone()));
        assert_eq!(refused, Answered::Refused(claim(2)));
        assert_eq!(claims.open().collect::<Vec<_>>(), [(&claim(2), Some(&taken))]);
        assert_eq!(numbers(&mut claims, now), []);
        assert_eq!(claims.poll_timeout(), Some(now + CLAIM_PAUSE));
        let again = numbers(&mut claims, now + CLAIM_PAUSE);
        assert_eq!(claims.answered(now, again[0].1, Some(taken)), Answered::Same);
        let again = numbers(&mut claims, now + CLAIM_PAUSE);
        assert_eq!(
            claims.answered(now, again[0].1, None),
            Answered::Granted(claim(2))
        );
        assert!(claims.is_empty());
        // Whose pod is gone keeps nothing.
        assert_eq!(claims.forget("pod1", None), []);
        assert_eq!(claims.kept().collect::<Vec<_>>(), [&claim(2)]);
    }

    #[test]
    fn silence_is_asked_again_at_once_and_a_pod_that_is_gone_never() {
        let now = Time::ZERO + Duration::from_secs(7);
        let mut claims = Claims::new([1, 2].map(claim).into());
        let asked = numbers(&mut claims, now);
        let why = crate::io::WaitReason::NothingFree;
        let within = crate::ALLOCATE_DEADLINE;
        claims.answered(now, asked[0].1, Some(AllocError::Deadline { why, within }));
        let again = numbers(&mut claims, now);
        assert_eq!(again.len(), 1);
        assert_eq!(claims.of("pod1"), Some(claim(1).address));
        assert_eq!(
            claims.forget("pod1", None),
            [(claim(1).address, Some(again[0].1))]
        );
        assert_eq!(claims.forget("pod2", Some(claim(3).address)), []);
        assert_eq!(claims.answered(now, again[0].1, None), Answered::Nobodys);
        assert_eq!(claims.list(), [claim(2)]);
    }

    #[test]
    fn as_many_are_made_at_once_as_leave_room_for_pods() {
        let many = (0..=CLAIMS_AT_ONCE).map(|n| Claim {
            id: alloc::format!("pod{n}"),
            address: IpAddr::from([10, 33, (n >> 8) as u8, n as u8]),
        });
        let mut claims = Claims::new(many.collect());
        let asked = numbers(&mut claims, Time::ZERO);
        assert_eq!(asked.len(), CLAIMS_AT_ONCE);
        claims.answered(Time::ZERO, asked[0].1, None);
        assert_eq!(numbers(&mut claims, Time::ZERO).len(), 1);
    }
}
