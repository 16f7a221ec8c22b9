//! What the node asks of the address space, and hears of it.

use crate::io::{Notice, Output};
use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::IpAddr;
use weft_ipam_crdt::mac::weft_mac;
use weft_ipam_crdt::{AllocError, Allocation, Claims, Event, FreezeReason, Request, RequestId, WaitReason};
use weft_wire::api::{ApiError, ErrorReason, PodPlan};
use weft_wire::envelope::RegisterKey;
use weft_wire::record::{Admission, Body as _};
use weft_wire::{Mac, NodeId, Time};

/// What a host without a cluster says to whoever wants an address.
const NO_CLUSTER: &str =
    "this host belongs to no cluster yet, so it has no addresses: `weft status` says what it waits for";

/// Why there is no address, in a word.
fn reason_of(error: &AllocError) -> ErrorReason {
    match error {
        AllocError::BadId => ErrorReason::BadId,
        AllocError::Address(_) => ErrorReason::BadAddress,
        AllocError::Subnet(_) => ErrorReason::BadSubnet,
        AllocError::TooLong => ErrorReason::BadTimeout,
        AllocError::InUse { .. } | AllocError::TakenElsewhere { .. } => ErrorReason::AddressTaken,
        AllocError::TooManyAddresses(_) => ErrorReason::TooManyAddresses,
        AllocError::Deadline { .. } => ErrorReason::NoAddress,
        AllocError::TooManyWaiting => ErrorReason::TooManyRequests,
        AllocError::Frozen(FreezeReason::Leaving) => ErrorReason::JoiningAnother,
        AllocError::Frozen(_) => ErrorReason::Frozen,
        AllocError::Leaving => ErrorReason::Leaving,
        AllocError::Freed | AllocError::Cancelled => ErrorReason::Withdrawn,
    }
}

impl Node {
    /// Gives the address space an input, if there is one.
    pub(crate) fn ipam(&mut self, now: Time, input: weft_ipam_crdt::Input) {
        // What is being replaced changes no more; it only answers what it still has to.
        if self.is_leaving() && !matches!(input, weft_ipam_crdt::Input::Persisted(_)) {
            return;
        }
        if let Some(member) = &mut self.member {
            member.ipam.handle(now, input);
        }
    }

    pub(crate) fn on_ipam_request(&mut self, now: Time, request: Request) {
        let is_leaving = self.is_leaving();
        let request = match is_leaving {
            true => match self.hold(request) {
                Some(request) => request,
                None => return,
            },
            false => request,
        };
        if let (false, Request::Free { id, address, request }) = (is_leaving, &request) {
            self.forget_claims(now, id, *address, *request);
        }
        if self.member.is_some() && !is_leaving {
            let request = match request {
                // The address that it has is the one it gets, as soon as the cluster agrees.
                Request::Allocate { id, request } => match self.claims.of(&id) {
                    Some(address) => Request::Claim { id, address, request },
                    None => Request::Allocate { id, request },
                },
                other => other,
            };
            let stays = matches!(request, Request::Stay);
            self.ipam(now, weft_ipam_crdt::Input::Request(request));
            if stays {
                // The others may have decided meanwhile: then it comes back as a new host.
                self.on_epoch(now);
            }
            return;
        }
        match request {
            Request::Allocate { request, .. }
            | Request::Claim { request, .. }
            | Request::AllocateIn { request, .. } => {
                self.outputs.push_back(Output::Allocated {
                    request,
                    result: Err(ApiError::new(ErrorReason::NoCluster, NO_CLUSTER)),
                });
            }
            Request::Free { request, .. } => {
                self.outputs.push_back(Output::Freed {
                    request,
                    addresses: [].into(),
                });
            }
            Request::Remove { request, .. } | Request::Keep { request, .. } => {
                self.outputs.push_back(Output::Removal {
                    request,
                    result: Err(NO_CLUSTER.into()),
                });
            }
            Request::Cancel(_)
            | Request::Flush
            | Request::Leave
            | Request::Stay
            | Request::Depart
            | Request::RemoveSilent(_) => {}
        }
    }

    /// Tells the address space who is a member and what others have published, at the start and as it changes.
    pub(crate) fn tell_ipam_all(&mut self, now: Time) {
        let members = self.mesh.members();
        self.ipam(now, weft_ipam_crdt::Input::MembersChanged(members));
        let records: alloc::vec::Vec<_> = self
            .mesh
            .registers()
            .iter()
            .map(|(_, envelope)| envelope.clone())
            .collect();
        for record in records {
            self.ipam(now, weft_ipam_crdt::Input::Record(record));
        }
    }

    pub(crate) fn tell_ipam(&mut self, now: Time, key: RegisterKey) {
        if key.kind == Admission::KIND {
            let members = self.mesh.members();
            self.ipam(now, weft_ipam_crdt::Input::MembersChanged(members));
        }
        if let Some(record) = self.mesh.registers().get(&key).cloned() {
            self.ipam(now, weft_ipam_crdt::Input::Record(record));
        }
    }

    /// Two processes use this host's identity: what one gives out, the other may give out as well.
    pub(crate) fn freeze_ipam(&mut self, now: Time) {
        self.ipam(now, weft_ipam_crdt::Input::Freeze(FreezeReason::CopiedIdentity));
    }

    pub(crate) fn on_ipam_output(&mut self, now: Time, output: weft_ipam_crdt::Output) {
        use weft_ipam_crdt::Output as Ipam;
        let is_answer = matches!(output, Ipam::Answer { .. } | Ipam::Freed { .. });
        if self.is_leaving() && !is_answer {
            return;
        }
        match output {
            Ipam::Answer { request, result } if Claims::is_claim(request) => {
                self.on_claim_answer(now, request, result);
            }
            Ipam::Answer { request, result } => {
                let result = result.map_err(|error| ApiError::new(reason_of(&error), self.words(&error)));
                self.on_answer(request, result);
            }
            Ipam::Freed {
                request,
                mut addresses,
            } => {
                addresses.extend(self.freed_claims.remove(&request).into_iter().flatten());
                self.outputs.push_back(Output::Freed { request, addresses })
            }
            Ipam::Removal { request, result } => {
                let result = result.map_err(|error| error.to_string());
                self.outputs.push_back(Output::Removal { request, result });
            }
            Ipam::Persist { token, changes } => {
                self.outputs.push_back(Output::PersistIpam { token, changes })
            }
            Ipam::Publish { kind, body } => {
                self.mesh
                    .handle(now, weft_gossip::Input::SetRecord { kind, body });
            }
            Ipam::Send { to, bytes } => self.mesh.handle(now, weft_gossip::Input::SendTo { to, bytes }),
            Ipam::Event(event) => self.on_ipam_event(now, event),
        }
    }

    /// An error with the nicknames of the hosts in it.
    pub(crate) fn words(&self, error: &AllocError) -> String {
        match error {
            AllocError::TakenElsewhere { address, owner } => match self.holder(error) {
                Some(holder) if holder != *owner => format!(
                    "address {address} is in use: host {} has borrowed it from host {}",
                    self.owner_name(&holder),
                    self.name_of(owner)
                ),
                _ => format!(
                    "address {address} is in use or at rest: host {} keeps it",
                    self.name_of(owner)
                ),
            },
            AllocError::Deadline {
                why: WaitReason::Space(node) | WaitReason::Loan(node),
                within,
            } => {
                format!(
                    "no address within {within:?}: host {} was asked and has not answered",
                    self.name_of(node)
                )
            }
            AllocError::Deadline { why, within } => {
                format!("no address within {within:?}: {}", self.waits_for(why))
            }
            error => error.to_string(),
        }
    }

    /// What a request waits for, with the nicknames of the hosts in it.
    pub(crate) fn waits_for(&self, reason: &WaitReason) -> String {
        match reason {
            WaitReason::Space(node) => {
                format!(
                    "waiting for host {} to hand over address space",
                    self.name_of(node)
                )
            }
            WaitReason::Loan(node) => format!("waiting for host {} to lend an address", self.name_of(node)),
            WaitReason::Silent(node) => {
                format!(
                    "host {}, whose address space it is, does not answer: bring it back, or remove it from the cluster if \
                     it is gone for good",
                    self.name_of(node)
                )
            }
            reason => reason.to_string(),
        }
    }

    fn on_answer(&mut self, request: RequestId, result: Result<Allocation, ApiError>) {
        let internal = |why| ApiError::new(ErrorReason::Internal, why);
        let result = result.and_then(|allocation| self.plan(&allocation).map_err(internal));
        self.outputs.push_back(Output::Allocated { request, result });
    }

    /// The weft MAC of an address of the range.
    pub(crate) fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        let member = self.member.as_ref()?;
        weft_mac(&member.genesis, &member.space, address)
    }

    /// How to wire a pod that has this address.
    fn plan(&mut self, allocation: &Allocation) -> Result<PodPlan, String> {
        let address = allocation.address;
        let mac = self
            .mac_of(address.addr())
            .ok_or_else(|| format!("address {address} is outside the cluster's range"))?;
        // Frames for it must no longer be sent to where it lived before.
        self.on_attached(mac);
        Ok(PodPlan {
            address,
            mac: mac.to_string(),
            mtu: self.pod_mtu(),
            bridge: self.config.bridge.clone(),
        })
    }

    fn on_ipam_event(&mut self, now: Time, event: Event) {
        if matches!(event, Event::Epoch { .. }) {
            self.on_epoch(now);
        }
        match event {
            Event::Conflict {
                slots: (first, count),
                held,
                other,
            } => {
                let range = self.slot_range(first, count);
                self.warn(format!(
                    "{} and {} both own {range}: nothing more is given out there. One of them lies or was restored \
                     from a copy; traffic is not touched",
                    self.name_of(&held),
                    self.name_of(&other)
                ));
            }
            Event::Frozen(FreezeReason::Removed) if self.goes_for_good() => {
                self.outputs.push_back(Output::Notice(Notice::Ipam(event)));
            }
            Event::Frozen(reason) => self.warn(format!("no addresses are given out: {reason}")),
            Event::Misbehaved { node, why } => {
                self.warn(format!(
                    "{} broke the rules of the address space: {why}",
                    self.name_of(&node)
                ));
            }
            Event::Clash { address, id, owner } => self.warn(format!(
                "pod {id} has the address {address}, which it had borrowed from a host that was removed, and {} has given it to \
                 another pod: detach and attach pod {id}, it then gets another one",
                self.name_of(&owner)
            )),
            Event::Split { number, with } => self.warn(format!(
                "this host and {} belong to two parts of the cluster, of which each has decided epoch {number} for itself: \
                 hosts were removed with --fenced that were not off. Remove the state of the hosts of one part, so that they \
                 join again",
                self.name_of(&with)
            )),
            event => self.outputs.push_back(Output::Notice(Notice::Ipam(event))),
        }
    }

    /// Slots as the addresses in them, for people.
    fn slot_range(&self, first: u32, count: u32) -> String {
        let Some(member) = &self.member else {
            return String::new();
        };
        let size = member.space.slot_size();
        let address = |offset: Option<u32>| offset.and_then(|offset| member.space.address(offset));
        let begin = address(first.checked_mul(size));
        let end = address(
            first
                .checked_add(count)
                .and_then(|slot| slot.checked_mul(size))
                .map(|next| next - 1),
        );
        match (begin, end) {
            (Some(begin), Some(end)) => format!("{begin} to {end}"),
            _ => format!("{count} slots from {first}"),
        }
    }

    /// Addresses that a pod of this host has.
    pub fn addresses_of(&self, id: &str) -> alloc::vec::Vec<IpAddr> {
        let held = self.member.as_ref().map(|member| member.ipam.addresses_of(id));
        let mut addresses = held.unwrap_or_default();
        let unclaimed = self
            .claims
            .open()
            .map(|(claim, _)| claim)
            .filter(|claim| claim.id == id);
        addresses.extend(unclaimed.map(|claim| claim.address));
        addresses
    }

    /// Where an address lives, in words.
    pub fn lookup(&self, address: IpAddr) -> String {
        use weft_ipam_crdt::Lookup;
        let Some(member) = &self.member else {
            return NO_CLUSTER.into();
        };
        let named = |node: &NodeId| format!("host {} ({})", self.name_of(node), node.short());
        match member.ipam.lookup(address) {
            Lookup::Local(id) => format!("pod {id} on this host"),
            Lookup::Here => "this host, if anywhere: no pod has it".into(),
            Lookup::Host(node) => format!("{}, if anywhere", named(&node)),
            Lookup::Frozen => "two hosts claim it: it is frozen".into(),
            Lookup::Unknown => "nowhere: it is outside the range, and no host announces it".into(),
        }
    }
}
