//! Requests of this host: allocate, claim, free, and the wait for an address.

use crate::io::{AllocError, Allocation, Output, Request, RequestId, WaitReason, Wanted};
use crate::ipam::{
    ADDRESSES_MAX, ALLOCATE_DEADLINE, DEADLINE_MAX, ID_MAX, Ipam, REST, RETURN_GRACE, Standing, WAITING_MAX,
    Waiting, Want,
};
use crate::message::Message;
use crate::state::{Change, Held};
use crate::subnet::Subnet;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;
use weft_wire::Time;

impl Ipam {
    pub(crate) fn on_request(&mut self, now: Time, request: Request) {
        match request {
            Request::Allocate { id, request } => self.ask_for(now, id, Wanted::default(), None, request),
            Request::Claim { id, address, request } => {
                let wanted = Wanted {
                    address: Some(address),
                    subnet: None,
                };
                self.ask_for(now, id, wanted, None, request);
            }
            Request::AllocateIn {
                id,
                wanted,
                within,
                request,
            } => self.ask_for(now, id, wanted, within, request),
            Request::Free { id, address, request } => self.on_free(now, &id, address, request),
            Request::Flush => self.flush_due = now,
            Request::Leave => self.begin_leaving(now),
            Request::Stay => self.stop_leaving(),
            Request::Depart => self.ask_for_removal(),
            Request::RemoveSilent(hosts) => self.on_remove_silent(hosts),
            Request::Remove {
                hosts,
                fenced,
                request,
            } => self.on_remove(&hosts, Some(fenced), request),
            Request::Keep { hosts, request } => self.on_remove(&hosts, None, request),
            Request::Cancel(request) => {
                if let Some(at) = self.waiting.iter().position(|waiting| waiting.request == request) {
                    self.waiting.remove(at);
                    self.answer(request, Err(AllocError::Cancelled));
                }
            }
        }
    }

    fn want(&self, wanted: Wanted) -> Result<Want, AllocError> {
        let subnet = match wanted.subnet {
            None => self.space.whole(),
            Some(net) => self.space.subnet(net).map_err(AllocError::Subnet)?,
        };
        let named = match wanted.address {
            None => None,
            Some(address) => {
                let pod = self.space.for_pod_in(address, &subnet);
                self.space.offset(pod.map_err(AllocError::Address)?.addr())
            }
        };
        Ok(Want { subnet, named })
    }

    fn ask_for(
        &mut self,
        now: Time,
        id: String,
        wanted: Wanted,
        within: Option<Duration>,
        request: RequestId,
    ) {
        let within = within.unwrap_or(ALLOCATE_DEADLINE);
        let checked = if id.is_empty() || id.len() > ID_MAX {
            Err(AllocError::BadId)
        } else if self.waiting.len() >= WAITING_MAX {
            Err(AllocError::TooManyWaiting)
        } else if within > DEADLINE_MAX {
            Err(AllocError::TooLong)
        } else {
            self.want(wanted)
        };
        let want = match checked {
            Ok(want) => want,
            Err(error) => return self.answer(request, Err(error)),
        };
        let waiting = Waiting {
            request,
            id,
            want,
            within,
            deadline: now + within,
            grace: now + RETURN_GRACE,
            ask: None,
            is_unlendable: false,
            silent: None,
        };
        if let Some(waiting) = self.try_serve(now, waiting) {
            self.waiting.push(waiting);
        }
    }

    fn on_free(&mut self, now: Time, id: &str, address: Option<IpAddr>, request: RequestId) {
        let only = address.map(|address| self.space.offset(address));
        let mut freed = Vec::new();
        let offsets: Vec<u32> = self.ids.get(id).into_iter().flatten().copied().collect();
        for offset in offsets
            .into_iter()
            .filter(|offset| only.is_none_or(|only| only == Some(*offset)))
        {
            match self.state.addresses().get(&offset).cloned() {
                Some(Held::Pod(_)) => self.rest(now, offset),
                Some(Held::Borrowed { from, .. }) if self.is_gone(&from) => {
                    // There is nobody to return it to; a new owner of the slot that noted it is told as for any loan.
                    self.change(Change::Address(offset, None));
                }
                Some(Held::Borrowed { from, number, .. }) => {
                    self.change(Change::Address(offset, Some(Held::Returning { from, number })));
                    self.send(from, &Message::Return { offset, number });
                }
                _ => continue,
            }
            freed.extend(self.space.address(offset));
        }
        if address.is_none() {
            let (gone, kept) = core::mem::take(&mut self.waiting)
                .into_iter()
                .partition(|waiting: &Waiting| waiting.id == id);
            self.waiting = kept;
            for waiting in gone {
                self.answer(waiting.request, Err(AllocError::Freed));
            }
        }
        self.stage(Output::Freed {
            request,
            addresses: freed,
        });
    }

    /// Puts an address of an own slot to rest.
    pub(crate) fn rest(&mut self, now: Time, offset: u32) {
        self.change(Change::Address(offset, Some(Held::Resting)));
        self.resting.insert((now + REST, offset));
    }

    pub(crate) fn answer(&mut self, request: RequestId, result: Result<Allocation, AllocError>) {
        self.stage(Output::Answer { request, result });
    }

    fn allocation(&self, id: &str, offset: u32, subnet: &Subnet) -> Result<Allocation, AllocError> {
        let address = self.space.address(offset).unwrap_or(self.space.range().network());
        let lender = match self.state.addresses().get(&offset) {
            Some(Held::Borrowed { from, .. }) => Some(*from),
            _ => None,
        };
        self.space
            .for_pod_in(address, subnet)
            .map(|address| Allocation {
                id: id.into(),
                address,
                lender,
            })
            .map_err(AllocError::Address)
    }

    /// Gives an address to a pod, as the last of those that it has.
    pub(crate) fn hold(&mut self, offset: u32, held: Held, id: &str) {
        let before = self.ids.get(id).into_iter().flatten();
        let last = before.map(|other| self.state.turn(*other)).max();
        self.change(Change::Address(offset, Some(held)));
        if let Some(last) = last {
            self.change(Change::Turn(offset, last.saturating_add(1)));
        }
    }

    /// The slots that may be used: all when `None`.
    pub(crate) fn allowed(&self) -> Option<&BTreeSet<u32>> {
        match &self.standing {
            Standing::AwaitingConfirmation(slots) => Some(slots),
            Standing::Confirmed | Standing::Frozen(_) => None,
        }
    }

    /// Answers a request if that can be done now; gives it back if it must wait.
    fn try_serve(&mut self, now: Time, waiting: Waiting) -> Option<Waiting> {
        let held = self.ids.get(&waiting.id);
        let (subnet, span) = (waiting.want.subnet, waiting.want.span());
        // Of several that would do, the one it has had for longest: so one question has one answer.
        let fitting = held.into_iter().flatten().filter(|offset| span.has(**offset));
        let known = fitting.copied().min_by_key(|offset| self.state.turn(*offset));
        if let Some(offset) = known {
            let result = self.allocation(&waiting.id, offset, &subnet);
            self.answer(waiting.request, result);
            return None;
        }
        if let Standing::Frozen(reason) = self.standing {
            self.answer(waiting.request, Err(AllocError::Frozen(reason)));
            return None;
        }
        if self.leaving.is_some() {
            self.answer(waiting.request, Err(AllocError::Leaving));
            return None;
        }
        if held.is_some_and(|offsets| offsets.len() >= ADDRESSES_MAX) {
            self.answer(waiting.request, Err(AllocError::TooManyAddresses(waiting.id)));
            return None;
        }
        let offset = match waiting.want.named {
            None => self.pool.pick(&self.state, self.allowed(), span),
            Some(offset) => {
                let is_lent = matches!(self.state.addresses().get(&offset), Some(Held::Lent { .. }));
                if is_lent && !is_over(waiting.grace, now) {
                    return Some(waiting);
                }
                if let Some(by) = self.holder_here(offset) {
                    let address = self.space.address(offset).unwrap_or(self.space.range().network());
                    self.answer(waiting.request, Err(AllocError::InUse { address, by }));
                    return None;
                }
                let slot = offset / self.space.slot_size();
                let may = self.allowed().is_none_or(|slots| slots.contains(&slot));
                (may && self.is_claimable(offset)).then_some(offset)
            }
        };
        let Some(offset) = offset else {
            return Some(waiting);
        };
        self.hold(offset, Held::Pod(waiting.id.clone()), &waiting.id);
        let result = self.allocation(&waiting.id, offset, &subnet);
        self.answer(waiting.request, result);
        None
    }

    /// True when whoever names this address of an own slot gets it. Rest keeps an address from those who take any; one
    /// who names it means it, above all a pod that has moved.
    pub(crate) fn is_claimable(&self, offset: u32) -> bool {
        let is_own = |offset: u32| {
            let register = self.state.table().get(offset / self.space.slot_size());
            register.is_some_and(|register| register.owner == self.node && !register.is_frozen)
        };
        let held = self.state.addresses().get(&offset);
        let rests = match held {
            Some(Held::Resting | Held::Abandoned) => true,
            None => {
                let slot = offset / self.space.slot_size();
                let address = self.space.address(offset);
                self.state.resting_slots().contains(&slot)
                    && address.is_some_and(|address| self.space.for_pod(address).is_ok())
            }
            Some(_) => false,
        };
        self.pool.is_free(offset, &self.state) || (rests && is_own(offset))
    }

    /// What holds an address on this host, for people; `None` when a claim may go on.
    fn holder_here(&self, offset: u32) -> Option<String> {
        Some(match self.state.addresses().get(&offset)? {
            Held::Pod(id) | Held::Borrowed { id, .. } => format!("pod {id}"),
            Held::Resting | Held::Abandoned => return None,
            Held::Lent { to, .. } => format!("host {}, to which it is lent", to.short()),
            // Its lender is asked for it again.
            Held::Returning { .. } => return None,
        })
    }

    /// Answers what can be answered, and what has waited too long.
    pub(crate) fn serve_waiting(&mut self, now: Time) {
        for waiting in core::mem::take(&mut self.waiting) {
            if let Some(mut waiting) = self.try_serve(now, waiting) {
                if waiting.grace <= now {
                    waiting.grace = Time::NEVER;
                }
                if waiting.deadline <= now {
                    let (why, within) = (self.reason_of(&waiting), waiting.within);
                    self.answer(waiting.request, Err(AllocError::Deadline { why, within }));
                } else {
                    self.waiting.push(waiting);
                }
            }
        }
    }

    fn reason_of(&self, waiting: &Waiting) -> WaitReason {
        if matches!(self.standing, Standing::AwaitingConfirmation(_)) {
            return WaitReason::Confirmation;
        }
        let mut loans = self.loan_asks.iter();
        if let Some(asked) = loans.find(|asked| Some(asked.ask) == waiting.ask) {
            return WaitReason::Loan(asked.to);
        }
        let mut space = self.space_asks.iter();
        if let Some(asked) = space.find(|asked| asked.span == waiting.want.span()) {
            return WaitReason::Space(asked.to);
        }
        if self.is_orphaned(waiting.want.named) {
            return WaitReason::Reclaim;
        }
        let is_whole = waiting.want.subnet == self.space.whole();
        match waiting.silent {
            _ if is_whole && waiting.want.named.is_none() && !self.state.members().contains(&self.node) => {
                WaitReason::Epoch
            }
            Some(node) => WaitReason::Silent(node),
            None if is_whole => WaitReason::NothingFree,
            None => WaitReason::NothingFreeIn(waiting.want.subnet.net()),
        }
    }

    /// True when the owner of a wanted address was removed, and nobody has its slot yet.
    fn is_orphaned(&self, named: Option<u32>) -> bool {
        let Some(offset) = named else {
            return false;
        };
        let register = self.state.table().get(offset / self.space.slot_size());
        register.is_some_and(|register| self.is_gone(&register.owner))
    }

    /// Requests that wait, oldest first: the pod, and what it waits for.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, WaitReason)> {
        self.waiting
            .iter()
            .map(|waiting| (waiting.id.as_str(), self.reason_of(waiting)))
    }
}

/// True once the grace of a request has passed.
pub(crate) fn is_over(grace: Time, now: Time) -> bool {
    grace <= now || grace == Time::NEVER
}
