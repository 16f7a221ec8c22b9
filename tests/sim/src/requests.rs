//! Pods come and go, and want addresses.

use crate::host::Process;
use crate::invariants::Seen;
use crate::queue::Event;
use crate::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;
use weft_ipam_crdt::{Request, RequestId};
use weft_node::Input;
use weft_wire::api::PodPlan;

/// Pods that a host has at most.
const PODS: usize = 24;
/// Part of the requests that take a pod away, where there is one.
const LEAVES: f64 = 0.3;
/// A host asks so often on average, in milliseconds.
const EVERY_MS: f64 = 1_000.0;

/// What was asked and not answered yet, and how many addresses were given.
#[derive(Default)]
pub(crate) struct Requests {
    number: u64,
    open: BTreeMap<RequestId, (usize, String)>,
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
        self.requests.number += 1;
        let request = RequestId(self.requests.number);
        let asked = match leaves {
            true => {
                // The pod is gone from this moment on, whether the host lives to hear it or not.
                self.see(host, &Seen::Left { id: &id });
                // Nobody takes an answer that is still under way.
                self.requests.open.retain(|_, asked| *asked != (host, id.clone()));
                Request::Free {
                    id,
                    address: None,
                    request,
                }
            }
            false => {
                self.requests.open.insert(request, (host, id.clone()));
                Request::Allocate { id, request }
            }
        };
        self.record
            .note(self.now, host, "want", &[&request.0.to_be_bytes()], || {
                format!("{asked:?}")
            });
        self.feed(host, Input::Ipam(asked));
    }

    /// A host answers.
    pub(crate) fn answered(&mut self, host: usize, request: RequestId, result: Result<PodPlan, String>) {
        let text = format!("{result:?}");
        self.record.note(
            self.now,
            host,
            "answer",
            &[&request.0.to_be_bytes(), text.as_bytes()],
            || text.clone(),
        );
        let id = self.requests.open.remove(&request);
        if let (Some((_, id)), Ok(plan)) = (id, result) {
            self.requests.given += 1;
            let address: IpAddr = plan.address.addr();
            self.see(host, &Seen::Given { id: &id, address });
        }
    }
}
