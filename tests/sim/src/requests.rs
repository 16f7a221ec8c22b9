//! Pods come and go, and want addresses.

use crate::happenings::Happening;
use crate::host::{Host, Process, Running};
use crate::invariants::Seen;
use crate::queue::Event;
use crate::sabotage::Sabotage;
use crate::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;
use weft_ipam_crdt::{AddressSpace, Held, IpamState, Request, RequestId};
use weft_node::Input;
use weft_wire::Time;
use weft_wire::api::{ApiError, PodPlan};

/// Pods that a host has at most.
pub(crate) const PODS: usize = 24;
/// Part of the requests that take a pod away, where there is one.
const LEAVES: f64 = 0.3;
/// A host asks so often on average, in milliseconds.
const EVERY_MS: f64 = 1_000.0;

/// What was asked and not answered yet, and how many addresses were given.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) number: u64,
    open: BTreeMap<RequestId, (usize, String, Time)>,
    /// Addresses that were handed out.
    pub(crate) given: u64,
}

impl World {
    /// Plans a host's next request.
    pub(crate) fn want_later(&mut self, host: usize) {
        let after = self.traffic.millis([EVERY_MS / 2.0, EVERY_MS * 1.5]);
        self.queue.push(self.now + after, Event::Want { host });
    }

    /// A pod comes or goes.
    pub(crate) fn want(&mut self, host: usize) {
        self.want_later(host);
        let (pod, leaves) = (self.traffic.below(PODS), self.traffic.chance(LEAVES));
        if !matches!(self.hosts[host].process, Process::Running(_)) || self.pause_of(host).is_some() {
            return;
        }
        let id = format!("pod{pod}");
        if self.operators.leaving.contains_key(&host) {
            return;
        }
        if leaves {
            return self.take_away(host, id);
        }
        let part = self.scenario.traffic.moved;
        if part > 0.0 && self.traffic.chance(part) {
            return self.move_here(host);
        }
        self.requests.number += 1;
        let request = RequestId(self.requests.number);
        self.requests.open.insert(request, (host, id.clone(), self.now));
        self.ask(host, request, Request::Allocate { id, request });
    }

    /// Somebody takes a host for dead and starts one of its pods here, under the address that it had.
    fn move_here(&mut self, host: usize) {
        let Some(space) = AddressSpace::of_range(self.scenario.range).ok() else {
            return;
        };
        let cluster = self.hosts[host].cluster();
        let named = |other: &Host| self.operators.named.contains_key(&other.id());
        let others = self
            .hosts
            .iter()
            .zip(0..)
            .filter(|(other, number)| *number != host && named(other) && other.cluster() == cluster);
        let had = others
            .filter_map(|(other, _)| other.disk.ipam())
            .flat_map(|state| {
                let pods = state.addresses().iter();
                pods.filter(|(_, held)| matches!(held, Held::Pod(_) | Held::Borrowed { .. }))
                    .map(|(offset, _)| *offset)
            });
        let had: Vec<u32> = had.collect();
        let Some(address) = self.traffic.pick(&had).and_then(|offset| space.address(*offset)) else {
            return;
        };
        // One such pod for each host: it keeps the address that it got first.
        let id = format!("pod{}", PODS - 1);
        let has = |running: &Running| running.node.addresses_of(&id);
        let own = self.hosts[host].running().map(has).unwrap_or_default();
        let is_open = self
            .requests
            .open
            .values()
            .any(|asked| asked.0 == host && asked.1 == id);
        if !own.is_empty() || is_open {
            return;
        }
        self.requests.number += 1;
        let request = RequestId(self.requests.number);
        self.requests.open.insert(request, (host, id.clone(), self.now));
        self.ask(host, request, Request::Claim { id, address, request });
    }

    /// A pod goes.
    pub(crate) fn take_away(&mut self, host: usize, id: String) {
        // The pod is gone from this moment on, whether the host lives to hear it or not.
        self.see(host, &Seen::Left { id: &id });
        // Nobody takes an answer that is still under way.
        let is_its = |asked: &(usize, String, Time)| asked.0 == host && asked.1 == id;
        self.requests.open.retain(|_, asked| !is_its(asked));
        self.requests.number += 1;
        let request = RequestId(self.requests.number);
        let address = None;
        self.ask(host, request, Request::Free { id, address, request });
    }

    fn ask(&mut self, host: usize, request: RequestId, asked: Request) {
        self.record
            .note(self.now, host, "want", &[&request.0.to_be_bytes()], || {
                format!("{asked:?}")
            });
        self.feed(host, Input::Ipam(asked));
    }

    /// A host answers.
    pub(crate) fn answered(&mut self, host: usize, request: RequestId, result: Result<PodPlan, ApiError>) {
        let text = format!("{result:?}");
        self.record.note(
            self.now,
            host,
            "answer",
            &[&request.0.to_be_bytes(), text.as_bytes()],
            || text.clone(),
        );
        let Some((_, id, asked)) = self.requests.open.remove(&request) else {
            return;
        };
        let result = match (result, self.sabotage) {
            (Err(_), Some(Sabotage::Unremoved)) => self.free_on_disk(host),
            (result, _) => result.ok().map(|plan| plan.address.addr()),
        };
        if let Some(address) = result {
            self.requests.given += 1;
            let is_overlap = self.is_held_by_removed(host, address);
            self.tally.add(Happening::Overlap, u64::from(is_overlap));
            let id = id.as_str();
            self.see(host, &Seen::Given { id, address, asked });
        }
    }

    /// True when a pod of another host, which was removed and is alive, has an address.
    fn is_held_by_removed(&self, host: usize, address: IpAddr) -> bool {
        let offset = AddressSpace::of_range(self.scenario.range)
            .ok()
            .and_then(|space| space.offset(address));
        let holds = |state: &IpamState| {
            let held = offset.and_then(|offset| state.addresses().get(&offset));
            matches!(held, Some(Held::Pod(_) | Held::Borrowed { .. }))
        };
        let mut others = self.hosts.iter().zip(0..).filter(|(_, other)| *other != host);
        others.any(|(other, _)| {
            self.operators.removed.contains(&other.id()) && other.disk.ipam().is_some_and(holds)
        })
    }

    /// What a broken shell gives out when its node, which was removed, gives nothing.
    fn free_on_disk(&self, host: usize) -> Option<IpAddr> {
        let this = &self.hosts[host];
        let state = this
            .disk
            .ipam()
            .filter(|state| state.gone().contains_key(&this.id()))?;
        let space = AddressSpace::of_range(self.scenario.range).ok()?;
        let runs = state.table().runs_of(&this.id());
        let mut slots = runs.iter().flat_map(|run| run.slots());
        let offset = slots.find_map(|slot| {
            let first = slot * space.slot_size();
            (first..first + space.slot_size()).find(|offset| !state.addresses().contains_key(offset))
        });
        space.address(offset?)
    }
}
