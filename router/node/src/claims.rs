//! The node's part in claiming addresses of pods that ran while it became a new member.

use crate::io::Output;
use crate::node::Node;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use weft_ipam_crdt::{AllocError, Allocation, Answered, Input, Lookup, Request, RequestId};
use weft_wire::api::{Unclaimed, UsedAddress};
use weft_wire::{NodeId, Time};

/// Refused claims that the status names; all are in `weft ipam`.
const SHOWN_MAX: usize = 8;

impl Node {
    /// Makes the claims that are due.
    pub(crate) fn make_claims(&mut self, now: Time) {
        if self.is_leaving() {
            return;
        }
        while self.member.is_some()
            && let Some(request) = self.claims.poll_request(now)
        {
            self.ipam(now, Input::Request(request));
        }
    }

    /// The address space has answered a claim.
    pub(crate) fn on_claim_answer(
        &mut self,
        now: Time,
        request: RequestId,
        result: Result<Allocation, AllocError>,
    ) {
        let (allocation, refusal) = match result {
            Ok(allocation) => (Some(allocation), None),
            Err(error) => (None, Some(error)),
        };
        let words = refusal.as_ref().map(|refusal| self.words(refusal));
        match self.claims.answered(now, request, refusal) {
            Answered::Granted(claim) => {
                self.store_claims();
                self.outputs.push_back(Output::Notice(crate::io::Notice::Kept {
                    id: claim.id,
                    address: claim.address,
                }));
                if let Some(mac) = allocation.and_then(|allocation| self.mac_of(allocation.address.addr())) {
                    self.on_attached(mac);
                }
            }
            Answered::Refused(claim) => {
                let sentence = sentence(&claim.id, &claim.address, &words.unwrap_or_default());
                self.outputs
                    .push_back(Output::Notice(crate::io::Notice::Unclaimed { sentence }));
            }
            Answered::Same => {}
            Answered::Nobodys => {
                if let Some(Allocation { id, address, .. }) = allocation {
                    let address = Some(address.addr());
                    let request = NOBODY;
                    self.ipam(now, Input::Request(Request::Free { id, address, request }));
                }
            }
        }
    }

    /// A pod is gone, or one of its addresses: it is claimed no longer, and counts as freed.
    pub(crate) fn forget_claims(&mut self, now: Time, id: &str, address: Option<IpAddr>, request: RequestId) {
        let gone = self.claims.forget(id, address);
        if gone.is_empty() {
            return;
        }
        self.store_claims();
        for request in gone.iter().filter_map(|(_, asked)| *asked) {
            self.ipam(now, Input::Request(Request::Cancel(request)));
        }
        if request != NOBODY {
            let gone = gone.into_iter().map(|(address, _)| address);
            self.freed_claims.entry(request).or_default().extend(gone);
        }
    }

    fn store_claims(&mut self) {
        self.outputs.push_back(Output::PersistClaims(self.claims.list()));
    }

    /// Every claim that is not granted, for `weft ipam`.
    pub(crate) fn unclaimed(&self) -> Vec<Unclaimed> {
        let open = self.claims.open().map(|(claim, refusal)| Unclaimed {
            address: claim.address,
            id: claim.id.clone(),
            refusal: refusal.map(|refusal| self.words(refusal)),
            holder: refusal
                .and_then(|refusal| self.holder(refusal))
                .map(|holder| self.host_name(&holder)),
        });
        open.collect()
    }

    /// Every claim that was granted since the router started, by address, for `weft ipam`.
    pub(crate) fn kept(&self) -> Vec<UsedAddress> {
        let kept = self.claims.kept().map(|claim| UsedAddress {
            address: claim.address,
            id: claim.id.clone(),
        });
        let mut kept: Vec<UsedAddress> = kept.collect();
        kept.sort_by_key(|used| used.address);
        kept
    }

    /// The host that has an address which was refused; the one that owns what it lies in, where that has not said to
    /// whom it has lent it.
    pub(crate) fn holder(&self, refusal: &AllocError) -> Option<NodeId> {
        let AllocError::TakenElsewhere { address, owner } = refusal else {
            return None;
        };
        match self.member.as_ref()?.ipam.lookup(*address) {
            Lookup::Host(node) => Some(node),
            _ => Some(*owner),
        }
    }

    /// Sentences on the claims that were refused.
    pub(crate) fn claim_warnings(&self) -> Vec<String> {
        let refused = self
            .claims
            .open()
            .filter_map(|(claim, refusal)| Some(sentence(&claim.id, &claim.address, &self.words(refusal?))));
        let mut sentences: Vec<String> = refused.collect();
        let more = sentences.len().saturating_sub(SHOWN_MAX);
        if more > 0 {
            sentences.truncate(SHOWN_MAX);
            sentences.push(format!(
                "{more} more addresses of pods are not this host's: `weft ipam` lists them"
            ));
        }
        sentences
    }
}

/// Number of a request whose answer nobody reads.
const NOBODY: RequestId = RequestId(0);

fn sentence(id: &str, address: &IpAddr, why: &str) -> String {
    format!(
        "pod {id} has {address} from before, and the cluster has not given it to this host: {why}. The pod runs on \
         with it; detach and attach pod {id} to give it another one"
    )
}
