//! What the node asks of the address space, and hears of it.

use crate::io::{Notice, Output};
use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use core::net::IpAddr;
use weft_ipam_crdt::mac::weft_mac;
use weft_ipam_crdt::{AllocError, Allocation, Event, FreezeReason, Request, RequestId, WaitReason};
use weft_wire::api::PodPlan;
use weft_wire::envelope::RegisterKey;
use weft_wire::record::{Admission, Body as _};
use weft_wire::{NodeId, Time};

/// What a host without a cluster says to whoever wants an address.
const NO_CLUSTER: &str =
    "this host belongs to no cluster yet, so it has no addresses: `weft status` says what it waits for";

impl Node {
    /// Gives the address space an input, if there is one.
    pub(crate) fn ipam(&mut self, now: Time, input: weft_ipam_crdt::Input) {
        if let Some(member) = &mut self.member {
            member.ipam.handle(now, input);
        }
    }

    pub(crate) fn on_ipam_request(&mut self, now: Time, request: Request) {
        if self.member.is_some() {
            return self.ipam(now, weft_ipam_crdt::Input::Request(request));
        }
        match request {
            Request::Allocate { request, .. } | Request::Claim { request, .. } => {
                self.outputs.push_back(Output::Allocated {
                    request,
                    result: Err(NO_CLUSTER.into()),
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
            Request::Cancel(_) => {}
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
        match output {
            Ipam::Answer { request, result } => {
                let result = result.map_err(|error| self.words(&error));
                self.on_answer(request, result);
            }
            Ipam::Freed { request, addresses } => {
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
            Ipam::Event(event) => self.on_ipam_event(event),
        }
    }

    /// An error with the nicknames of the hosts in it.
    fn words(&self, error: &AllocError) -> String {
        match error {
            AllocError::TakenElsewhere { address, owner } => {
                format!(
                    "address {address} is in use or at rest: host {} keeps it",
                    self.name_of(owner)
                )
            }
            AllocError::Deadline {
                why: WaitReason::Space(node) | WaitReason::Loan(node),
            } => {
                format!(
                    "no address in time: host {} was asked and did not answer",
                    self.name_of(node)
                )
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
            reason => reason.to_string(),
        }
    }

    fn on_answer(&mut self, request: RequestId, result: Result<Allocation, String>) {
        let result = result.and_then(|allocation| self.plan(&allocation));
        self.outputs.push_back(Output::Allocated { request, result });
    }

    /// How to wire a pod that has this address.
    fn plan(&mut self, allocation: &Allocation) -> Result<PodPlan, String> {
        let member = self.member.as_ref().ok_or(NO_CLUSTER)?;
        let address = allocation.address;
        let mac = weft_mac(&member.genesis, &member.space, address.addr())
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

    fn on_ipam_event(&mut self, event: Event) {
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
            Event::Frozen(reason) => self.warn(format!("no addresses are given out: {reason}")),
            Event::Misbehaved { node, why } => {
                self.warn(format!(
                    "{} broke the rules of the address space: {why}",
                    self.name_of(&node)
                ));
            }
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
        self.member
            .as_ref()
            .map(|member| member.ipam.addresses_of(id))
            .unwrap_or_default()
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
