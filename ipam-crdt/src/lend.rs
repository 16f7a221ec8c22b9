//! Single addresses that one host lends to another.
//!
//! The lender's durable note keeps the address from everybody else; the slot does not move while it stands. A loan has a
//! number that the lender never uses again, and answers one question that the borrower never asks again: so a
//! message that comes late or twice can neither give an address nor take one back.

use crate::ipam::{Ipam, Standing, Waiting};
use crate::message::{AskId, Message, Refusal, Wish};
use crate::rules::KEPT_ASK;
use crate::state::{Change, Held};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use weft_wire::ipam::{BORROWERS_MAX, Grant, LENT_MAX, LentRecord, Loan};
use weft_wire::{NodeId, Time};

impl Ipam {
    /// Answers a question for a loan.
    pub(crate) fn on_ask_loan(&mut self, from: NodeId, ask: AskId, wish: Wish) {
        let before = self.state.addresses().iter().find_map(|(at, held)| match held {
            Held::Lent {
                to,
                number,
                ask: other,
            } if *to == from && (*other == ask || (*other == KEPT_ASK && wish == Wish::This(*at))) => {
                Some((*at, *number))
            }
            _ => None,
        });
        if let Some((offset, number)) = before {
            return self.send(from, &Message::Lend { ask, offset, number });
        }
        if let Wish::This(offset) = wish
            && let Some(Held::Lent {
                to,
                number,
                ask: before,
            }) = self.state.addresses().get(&offset).cloned()
            && to == from
        {
            // The answer to an earlier question was lost, or that question is closed. Said again it brings the address
            // back, and the one who asks gets it by a later question. It is not taken: nobody else has it.
            let (asked, why) = (ask, Refusal::Busy);
            self.send(
                from,
                &Message::Lend {
                    ask: before,
                    offset,
                    number,
                },
            );
            return self.send(from, &Message::Refuse { ask: asked, why });
        }
        match self.find_to_lend(from, wish) {
            Ok(offset) => {
                let number = self.state.loans() + 1;
                self.change(Change::Address(
                    offset,
                    Some(Held::Lent {
                        to: from,
                        number,
                        ask,
                    }),
                ));
                self.send(from, &Message::Lend { ask, offset, number });
            }
            Err(why) => self.send(from, &Message::Refuse { ask, why }),
        }
    }

    fn find_to_lend(&self, to: NodeId, wish: Wish) -> Result<u32, Refusal> {
        match self.standing {
            Standing::AwaitingConfirmation(_) => return Err(Refusal::NotConfirmed),
            Standing::Frozen(_) => return Err(Refusal::Frozen),
            Standing::Confirmed if self.leaving.is_some() => return Err(Refusal::NothingFree),
            Standing::Confirmed => {}
        }
        let mut borrowers = BTreeSet::from([to]);
        let mut loans = 0;
        for held in self.state.addresses().values() {
            if let Held::Lent { to, .. } = held {
                borrowers.insert(*to);
                loans += 1;
            }
        }
        if loans >= LENT_MAX || borrowers.len() > BORROWERS_MAX || self.state.loans() == u32::MAX {
            return Err(Refusal::TooManyLoans);
        }
        let offset = match wish {
            Wish::In(span) => {
                return self
                    .pool
                    .pick(&self.state, None, span)
                    .ok_or(Refusal::NothingFree);
            }
            Wish::This(offset) => offset,
        };
        let owner = self
            .state
            .table()
            .get(offset / self.space.slot_size())
            .map(|register| register.owner);
        if owner != Some(self.node) {
            Err(Refusal::NotOwner)
        } else if self.is_claimable(offset) {
            Ok(offset)
        } else {
            Err(Refusal::AddressTaken)
        }
    }

    /// Takes a loan if it answers a question that is open, and gives it back if not.
    pub(crate) fn on_lend(&mut self, now: Time, from: NodeId, ask: AskId, offset: u32, number: u32) {
        if self.is_renewal(from, ask, offset, number) {
            return;
        }
        let owner = self
            .state
            .table()
            .get(offset / self.space.slot_size())
            .map(|register| register.owner);
        match self.state.addresses().get(&offset) {
            Some(Held::Borrowed {
                from: other,
                number: held,
                ..
            }) if *other == from && *held == number => return,
            // The loan that follows one of a host that is gone; the question for it was an earlier process's.
            Some(Held::Borrowed { from: other, .. }) if self.is_gone(other) && owner == Some(from) => {
                return self.take_renewal(offset, from, number);
            }
            Some(Held::Returning {
                from: other,
                number: held,
            }) if *other == from && *held >= number => {
                return self.send(from, &Message::Return { offset, number });
            }
            _ => {}
        }
        let asked = self
            .loan_asks
            .iter()
            .position(|asked| asked.ask == ask && asked.to == from);
        let asked = asked.map(|at| self.loan_asks.swap_remove(at));
        let waiting = self
            .waiting
            .iter()
            .position(|waiting| waiting.ask == Some(ask))
            .filter(|_| asked.is_some());
        // A host can lend out of its own slots only, and only what nobody here has.
        let is_free = match self.state.addresses().get(&offset) {
            None => true,
            Some(Held::Returning { from: other, .. }) => *other == from,
            Some(_) => false,
        };
        let is_usable = self
            .space
            .address(offset)
            .is_some_and(|address| self.space.for_pod(address).is_ok());
        let fits = |waiting: &Waiting| waiting.want.span().has(offset);
        match waiting.and_then(|at| self.waiting.get(at)) {
            Some(waiting) if owner == Some(from) && is_free && is_usable && fits(waiting) => {
                let id = waiting.id.clone();
                self.hold(
                    offset,
                    Held::Borrowed {
                        from,
                        number,
                        id: id.clone(),
                    },
                    &id,
                );
                self.serve_waiting(now);
            }
            _ => self.send(from, &Message::Return { offset, number }),
        }
    }

    /// An address comes back.
    pub(crate) fn on_return(&mut self, now: Time, from: NodeId, offset: u32, number: u32) {
        if let Some(Held::Lent { to, number: held, .. }) = self.state.addresses().get(&offset)
            && *to == from
            && *held == number
        {
            self.rest(now, offset);
        } else if self.is_being_granted(offset, &from) {
            // It rests where it will be owned.
            return;
        }
        self.send(from, &Message::Returned { offset, number });
    }

    /// True while this host is handing the slot of an address to another one.
    fn is_being_granted(&self, offset: u32, to: &NodeId) -> bool {
        let slot = offset / self.space.slot_size();
        let has = |grant: &Grant| grant.runs.iter().any(|run| run.slots().contains(&slot));
        self.state
            .given()
            .values()
            .any(|grant| grant.to == *to && has(grant))
    }

    /// The lender has an address back.
    pub(crate) fn on_returned(&mut self, from: NodeId, offset: u32, number: u32) {
        if self.state.addresses().get(&offset) == Some(&Held::Returning { from, number }) {
            self.change(Change::Address(offset, None));
        }
    }

    /// Loans that others list for this host and that it does not use, and addresses on their way back.
    pub(crate) fn to_return(&self) -> Vec<(NodeId, u32, u32)> {
        let mut due = Vec::new();
        for (offset, held) in self.state.addresses() {
            if let Held::Returning { from, number } = held {
                due.push((*from, *offset, *number));
            }
        }
        for (node, peer) in self.peers.iter().filter(|(node, _)| !self.is_gone(node)) {
            let Ok(index) = peer.lent.borrowers.binary_search(&self.node) else {
                continue;
            };
            if self.loan_asks.iter().any(|asked| asked.to == *node) {
                continue;
            }
            for loan in peer
                .lent
                .loans
                .iter()
                .filter(|loan| usize::from(loan.borrower) == index)
            {
                let is_held = match self.state.addresses().get(&loan.offset) {
                    // It was borrowed of a host that is gone since, and this is the loan that follows.
                    Some(Held::Borrowed { from, .. }) if self.is_gone(from) => true,
                    Some(Held::Borrowed { from, number, .. } | Held::Returning { from, number }) => {
                        from == node && *number == loan.number
                    }
                    _ => false,
                };
                if !is_held {
                    due.push((*node, loan.offset, loan.number));
                }
            }
        }
        due
    }

    /// The record of what this host lends.
    pub(crate) fn lent_record(&self) -> LentRecord {
        let lent = self
            .state
            .addresses()
            .iter()
            .filter_map(|(offset, held)| match held {
                Held::Lent { to, number, .. } => Some((*offset, *to, *number)),
                _ => None,
            });
        let mut lent: Vec<(u32, NodeId, u32)> = lent.collect();
        let hosts: BTreeSet<NodeId> = lent.iter().map(|(_, to, _)| *to).collect();
        let borrowers: Vec<NodeId> = hosts.into_iter().take(BORROWERS_MAX).collect();
        // Loans that were taken over from removed hosts may be more than the record can list.
        lent.retain(|(_, to, _)| borrowers.binary_search(to).is_ok());
        lent.truncate(LENT_MAX);
        let loan = |(offset, to, number): (u32, NodeId, u32)| {
            let borrower = u8::try_from(borrowers.binary_search(&to).ok()?).ok()?;
            Some(Loan {
                offset,
                borrower,
                number,
            })
        };
        let loans = lent.into_iter().filter_map(loan).collect();
        LentRecord { borrowers, loans }
    }
}
