//! Who waits for an answer of the address space, and what becomes of an address that nobody hears of.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::sync::oneshot;
use weft_ipam_crdt::{Request, RequestId};
use weft_wire::api::{ApiError, ErrorReason, PodPlan, RemovalAsked};

/// Number of a request whose answer nobody reads.
const NOBODY: RequestId = RequestId(0);

/// What was freed, or why nothing can be.
type Freed = Result<Vec<IpAddr>, ApiError>;

/// Somebody who wants an address.
struct Allocate {
    id: String,
    /// What the pod had when it asked, and what others were told since.
    known: Vec<IpAddr>,
    answer: oneshot::Sender<Result<PodPlan, ApiError>>,
}

/// Those who wait. Each request has exactly one answer, so nothing stays here for ever.
#[derive(Default)]
pub(super) struct Askers {
    allocate: BTreeMap<RequestId, Allocate>,
    free: BTreeMap<RequestId, oneshot::Sender<Freed>>,
    removals: BTreeMap<RequestId, (RemovalAsked, oneshot::Sender<Result<RemovalAsked, ApiError>>)>,
}

impl Askers {
    /// Somebody asks for an address of a pod, which has these already.
    pub(super) fn allocate(
        &mut self,
        request: RequestId,
        id: &str,
        known: Vec<IpAddr>,
        answer: oneshot::Sender<Result<PodPlan, ApiError>>,
    ) {
        let id = id.to_owned();
        self.allocate.insert(request, Allocate { id, known, answer });
    }

    /// Somebody wants hosts removed, or no longer.
    pub(super) fn remove(
        &mut self,
        request: RequestId,
        asked: RemovalAsked,
        answer: oneshot::Sender<Result<RemovalAsked, ApiError>>,
    ) {
        self.removals.insert(request, (asked, answer));
    }

    /// Passes on that a wish is durable, or why it is none.
    pub(super) fn removal(&mut self, request: RequestId, result: Result<(), String>) {
        if let Some((asked, answer)) = self.removals.remove(&request) {
            let refusal = |why| ApiError::new(ErrorReason::NotRemovable, why);
            // Whoever asked may have gone; the wish stands.
            let _ = answer.send(result.map(|()| asked).map_err(refusal));
        }
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
        result: Result<PodPlan, ApiError>,
    ) -> Option<Request> {
        let Allocate { id, known, answer } = self.allocate.remove(&request)?;
        let address = result.as_ref().ok().map(|plan| plan.address.addr());
        let is_heard = answer.send(result).is_ok();
        let address = address?;
        let mut others = self.allocate.values_mut().filter(|other| other.id == id);
        if is_heard {
            others.for_each(|other| other.known.push(address));
            return None;
        }
        let is_unwanted = !known.contains(&address) && others.next().is_none();
        is_unwanted.then_some(Request::Free {
            id,
            address: Some(address),
            request: NOBODY,
        })
    }

    /// Tells all that there is nothing now, since the disk takes no writes. What still comes for them comes as if they had hung up: a new
    /// address is freed again.
    pub(super) fn refuse_all(&mut self, why: &str) {
        let refusal = || ApiError::new(ErrorReason::Unwritable, why);
        for asker in self.allocate.values_mut() {
            let (nobody, _) = oneshot::channel();
            let _ = std::mem::replace(&mut asker.answer, nobody).send(Err(refusal()));
        }
        for (_, (_, answer)) in std::mem::take(&mut self.removals) {
            let _ = answer.send(Err(refusal()));
        }
        for (_, answer) in std::mem::take(&mut self.free) {
            let _ = answer.send(Err(refusal()));
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

    fn plan() -> Result<PodPlan, ApiError> {
        Ok(PodPlan {
            address: "10.32.0.9/12".parse().unwrap(),
            mac: "02:00:00:00:00:09".into(),
            mtu: 1366,
            bridge: "weft".into(),
        })
    }

    type Answered = oneshot::Receiver<Result<PodPlan, ApiError>>;

    fn ask(askers: &mut Askers, number: u64, id: &str, is_new: bool) -> Answered {
        let (answer, answered) = oneshot::channel();
        let known = match is_new {
            true => vec![],
            false => vec!["10.32.0.9".parse().unwrap()],
        };
        askers.allocate(RequestId(number), id, known, answer);
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
    fn a_further_address_is_freed_when_nobody_hears_of_it_and_the_first_one_stays() {
        let mut askers = Askers::default();
        let (answer, _) = oneshot::channel();
        askers.allocate(RequestId(1), "web", vec!["10.32.0.7".parse().unwrap()], answer);
        let freed = askers.allocated(RequestId(1), plan());
        assert!(matches!(freed, Some(Request::Free { address: Some(address), .. })
            if address == "10.32.0.9".parse::<IpAddr>().unwrap()));
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
        let full = || Err(ApiError::new(ErrorReason::Unwritable, "full"));
        assert_eq!(
            (new.try_recv().unwrap(), old.try_recv().unwrap()),
            (full(), full())
        );
        assert_eq!(
            freed.try_recv().unwrap(),
            Err(ApiError::new(ErrorReason::Unwritable, "full"))
        );
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
        assert_eq!(
            askers.allocated(
                RequestId(6),
                Err(ApiError::new(ErrorReason::NoAddress, "none is free"))
            ),
            None
        );
    }
}
