//! Who waits for an answer of the address space, and what becomes of an address that nobody hears of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::oneshot;
use weft_ipam_crdt::{Request, RequestId};
use weft_wire::api::PodPlan;

/// Number of a request whose answer nobody reads.
const NOBODY: RequestId = RequestId(0);

/// What was freed, or why nothing can be.
type Freed = Result<Vec<IpAddr>, String>;

/// Somebody who wants an address.
struct Allocate {
    id: String,
    /// The pod had no address when it asked, and nobody was told of one since.
    is_new: bool,
    answer: oneshot::Sender<Result<PodPlan, String>>,
}

/// Those who wait. Each request has exactly one answer, so nothing stays here for ever.
#[derive(Default)]
pub(super) struct Askers {
    allocate: BTreeMap<RequestId, Allocate>,
    free: BTreeMap<RequestId, oneshot::Sender<Freed>>,
}

impl Askers {
    /// Somebody asks for an address of a pod; `is_new` when it has none yet.
    pub(super) fn allocate(
        &mut self,
        request: RequestId,
        id: &str,
        is_new: bool,
        answer: oneshot::Sender<Result<PodPlan, String>>,
    ) {
        let id = id.to_owned();
        self.allocate.insert(request, Allocate { id, is_new, answer });
    }

    /// Somebody gives addresses back.
    pub(super) fn free(&mut self, request: RequestId, answer: oneshot::Sender<Freed>) {
        self.free.insert(request, answer);
    }

    /// Passes an answer on. A new address that nobody hears of, since whoever asked has hung up, is to be freed
    /// again, unless somebody else asks for the same pod.
    pub(super) fn allocated(
        &mut self,
        request: RequestId,
        result: Result<PodPlan, String>,
    ) -> Option<Request> {
        let Allocate { id, is_new, answer } = self.allocate.remove(&request)?;
        let is_given = result.is_ok();
        match answer.send(result) {
            Ok(()) if is_given => {
                for other in self.allocate.values_mut().filter(|other| other.id == id) {
                    other.is_new = false;
                }
                None
            }
            Err(Ok(plan)) if is_new && self.allocate.values().all(|other| other.id != id) => {
                let address = Some(plan.address.addr());
                Some(Request::Free {
                    id,
                    address,
                    request: NOBODY,
                })
            }
            _ => None,
        }
    }

    /// Tells all that there is nothing now, and why. What still comes for them comes as if they had hung up: a new
    /// address is freed again.
    pub(super) fn refuse_all(&mut self, why: &str) {
        for asker in self.allocate.values_mut() {
            let (nobody, _) = oneshot::channel();
            let _ = std::mem::replace(&mut asker.answer, nobody).send(Err(why.to_owned()));
        }
        for (_, answer) in std::mem::take(&mut self.free) {
            let _ = answer.send(Err(why.to_owned()));
        }
    }

    /// Passes an answer on, if somebody still wants it.
    pub(super) fn freed(&mut self, request: RequestId, addresses: Vec<IpAddr>) {
        if let Some(answer) = self.free.remove(&request) {
            let _ = answer.send(Ok(addresses));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Result<PodPlan, String> {
        Ok(PodPlan {
            address: "10.32.0.9/12".parse().unwrap(),
            mac: "02:00:00:00:00:09".into(),
            mtu: 1366,
            bridge: "weft".into(),
        })
    }

    type Answered = oneshot::Receiver<Result<PodPlan, String>>;

    fn ask(askers: &mut Askers, number: u64, id: &str, is_new: bool) -> Answered {
        let (answer, answered) = oneshot::channel();
        askers.allocate(RequestId(number), id, is_new, answer);
        answered
    }

    #[test]
    fn an_address_that_nobody_hears_of_is_freed_again() {
        let mut askers = Askers::default();
        drop(ask(&mut askers, 1, "web", true));
        let freed = askers.allocated(RequestId(1), plan());
        let address = Some("10.32.0.9".parse().unwrap());
        assert_eq!(
            freed,
            Some(Request::Free {
                id: "web".into(),
                address,
                request: NOBODY
            })
        );
    }

    #[test]
    fn those_who_are_refused_are_told_once_and_leave_nothing_behind() {
        let mut askers = Askers::default();
        let mut new = ask(&mut askers, 1, "web", true);
        let mut old = ask(&mut askers, 2, "db", false);
        let (answer, mut freed) = oneshot::channel();
        askers.free(RequestId(3), answer);
        askers.refuse_all("full");
        askers.refuse_all("still full");
        let full = || Err("full".to_owned());
        assert_eq!(
            (new.try_recv().unwrap(), old.try_recv().unwrap()),
            (full(), full())
        );
        assert_eq!(freed.try_recv().unwrap(), Err("full".to_owned()));
        assert!(matches!(
            askers.allocated(RequestId(1), plan()),
            Some(Request::Free { .. })
        ));
        assert_eq!(askers.allocated(RequestId(2), plan()), None);
    }

    #[test]
    fn an_address_that_somebody_counts_on_stays() {
        let mut askers = Askers::default();
        // It was told before.
        drop(ask(&mut askers, 1, "web", false));
        assert_eq!(askers.allocated(RequestId(1), plan()), None);
        // Somebody else asks for the same pod.
        drop(ask(&mut askers, 2, "db", true));
        let mut other = ask(&mut askers, 3, "db", true);
        assert_eq!(askers.allocated(RequestId(2), plan()), None);
        assert_eq!(askers.allocated(RequestId(3), plan()), None);
        assert_eq!(other.try_recv().unwrap(), plan());
        // Somebody else was told meanwhile.
        drop(ask(&mut askers, 4, "ci", true));
        let mut other = ask(&mut askers, 5, "ci", true);
        assert_eq!(askers.allocated(RequestId(5), plan()), None);
        assert_eq!(other.try_recv().unwrap(), plan());
        assert_eq!(askers.allocated(RequestId(4), plan()), None);
        // Nothing was given.
        drop(ask(&mut askers, 6, "no", true));
        assert_eq!(askers.allocated(RequestId(6), Err("none is free".into())), None);
    }
}
