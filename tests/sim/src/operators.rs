//! What people do to the cluster: they remove hosts, vouch for some, make two clusters one, and take hosts out.
//!
//! They err as people do: the host that somebody removes may be alive. Only a vouch is always true, since nothing holds
//! otherwise. Whoever has asked for something asks again once nothing goes wrong any more, until it is done.

use crate::dice::Dice;
use crate::disk::Before;
use crate::faults::Lasting;
use crate::happenings::Happening;
use crate::host::Process;
use crate::invariants::Seen;
use crate::network::Cut;
use crate::queue::Event;
use crate::sabotage::Sabotage;
use crate::scenario::{Carrier, Fault, FaultKind};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_ipam_crdt::{Change, IpamState, Request, RequestId, rules};
use weft_node::{Input, Notice};
use weft_wire::ipam::Version;
use weft_wire::{NodeId, Time};

/// A command that nobody can take just now is typed again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// Once nothing goes wrong any more, what is not done is asked for again so often.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Somebody notices after so many seconds that a host is gone.
const NOTICED_S: [f64; 2] = [0.1, 3.0];
/// A newcomer comes so many seconds after somebody has asked for a removal.
const NEWCOMER_S: [f64; 2] = [0.0, 1.0];
/// A host that takes slots back lives for so many more milliseconds.
const RECLAIMER_MS: [f64; 2] = [0.0, 30.0];
/// How often somebody looks whether a host has handed on what it had.
const LOOK_AFTER_LEAVE: Duration = Duration::from_millis(250);
/// After two clusters have met somebody makes them one, in seconds.
const ADOPT_AFTER_S: [f64; 2] = [1.0, 5.0];

/// What somebody types.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Remove these, on one of these hosts, or on any.
    Remove {
        victims: Vec<NodeId>,
        fenced: bool,
        askers: Option<BTreeSet<usize>>,
        /// The partition in which it is asked for, and on which side of it: 1 or 2.
        during: Option<(u64, u8)>,
    },
    /// Make the hosts of the other cluster adopt this one.
    Adopt,
    /// Ask again for everything that is not done.
    AskAgain,
}

/// What was asked for.
pub(crate) struct Operators {
    dice: Dice,
    /// Everybody whose removal somebody has asked for, and whether it was vouched for.
    pub(crate) named: BTreeMap<NodeId, bool>,
    /// Which sides of partitions have asked: their sum.
    apart: BTreeMap<u64, u8>,
    waiting: BTreeMap<RequestId, Operation>,
    /// Faults that wait for the host that takes slots back.
    reclaimers: Vec<usize>,
    /// Faults that wait for a removal.
    newcomers: u32,
    /// Hosts that have come late, or are about to.
    late: BTreeSet<usize>,
    /// Faults that wait for the first founder.
    firsts: Vec<usize>,
    /// Hosts that are to leave, the faults by which they do, and who they are.
    pub(crate) leaving: BTreeMap<usize, (usize, NodeId)>,
    /// Members that are said to be removed, by any host.
    pub(crate) removed: BTreeSet<NodeId>,
}

impl Operators {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            named: BTreeMap::new(),
            apart: BTreeMap::new(),
            waiting: BTreeMap::new(),
            reclaimers: Vec::new(),
            newcomers: 0,
            late: BTreeSet::new(),
            firsts: Vec::new(),
            leaving: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    fn after(&mut self, seconds: [f64; 2]) -> Duration {
        self.dice.seconds(seconds)
    }
}

/// True when this host's disk says that it is to take slots of removed hosts back, and has not.
fn is_half_way(state: &IpamState, node: &NodeId) -> bool {
    let is_gone = |owner: &NodeId| state.gone().contains_key(owner);
    rules::reclaimer_at(state, state.epoch()) == Some(*node)
        && state
            .table()
            .all_runs()
            .any(|(_, owner, is_frozen)| is_gone(&owner) && !is_frozen)
}

impl World {
    // --- faults ---------------------------------------------------------------------------------------

    /// A fault that people have a part in. What lasts of it; an error when it could not occur just now.
    pub(crate) fn operate_fault(
        &mut self,
        number: usize,
        id: u64,
        fault: &Fault,
    ) -> Result<Option<Lasting>, NotNow> {
        let kind = fault.kind;
        match kind {
            FaultKind::RemoveDead => {
                let host = self.end_process(FaultKind::Power).ok_or(NotNow)?;
                self.remove_later(vec![self.hosts[host].id()], None, None);
                self.tally.fault(kind);
                Ok(Some(Lasting::Hosts(vec![host])))
            }
            FaultKind::RemoveLive => {
                let host = self.member_victim().ok_or(NotNow)?;
                self.note_fault(host, "somebody takes it for dead".into());
                self.remove_later(vec![self.hosts[host].id()], None, None);
                self.tally.fault(kind);
                Ok(None)
            }
            FaultKind::RemoveApart => self.remove_apart(id).map(Some),
            FaultKind::Fence => self.fence().map(|hosts| Some(Lasting::Hosts(hosts))),
            FaultKind::KillReclaimer => {
                self.operators.reclaimers.push(number);
                Ok(None)
            }
            FaultKind::Newcomer => {
                self.operators.newcomers += 1;
                Ok(None)
            }
            FaultKind::Adopt => self.meet().map(|()| None),
            FaultKind::Leave => {
                let host = self.member_victim().ok_or(NotNow)?;
                self.note_fault(host, "is to leave".into());
                let node = self.hosts[host].id();
                self.operators.leaving.insert(host, (number, node));
                self.queue.push(self.now, Event::LookAfterLeave { host });
                self.tally.fault(kind);
                Ok(None)
            }
            FaultKind::FirstAlone => {
                self.operators.firsts.push(number);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// A host that runs, is a member and has no other trouble.
    fn member_victim(&mut self) -> Option<usize> {
        let host = self.victim()?;
        let is_member = self.hosts[host].cluster().is_some() && self.hosts[host].cluster() == self.genesis;
        (is_member && !self.operators.leaving.contains_key(&host)).then_some(host)
    }

    pub(crate) fn remove_later(
        &mut self,
        victims: Vec<NodeId>,
        askers: Option<BTreeSet<usize>>,
        during: Option<(u64, u8)>,
    ) {
        let after = self.operators.after(NOTICED_S);
        let operation = Operation::Remove {
            victims,
            fenced: false,
            askers,
            during,
        };
        self.queue.push(self.now + after, Event::Operate(operation));
    }

    fn remove_apart(&mut self, id: u64) -> Result<Lasting, NotNow> {
        let hosts = self.scenario.hosts;
        let side: BTreeSet<usize> = (0..hosts).filter(|_| self.operators.dice.chance(0.5)).collect();
        let other: BTreeSet<usize> = (0..hosts).filter(|host| !side.contains(host)).collect();
        let members = |side: &BTreeSet<usize>| -> Vec<usize> {
            let of = side.iter().copied();
            of.filter(|host| self.hosts[*host].disk.durable().is_some())
                .collect()
        };
        let (mine, theirs) = (members(&side), members(&other));
        if mine.is_empty() || theirs.is_empty() {
            return Err(NotNow);
        }
        let both = |a: &usize, b: &usize| side.contains(a) != side.contains(b);
        let all = (0..hosts).flat_map(|a| (0..hosts).map(move |b| (a, b)));
        let pairs = all.filter(|(a, b)| both(a, b)).collect();
        self.note_fault(
            0,
            format!("{side:?} and the others are apart, and remove each other"),
        );
        let carrier = Carrier::All;
        self.network.cuts.insert(id, Cut { carrier, pairs });
        for (from, askers, number) in [(theirs, side, 1), (mine, other, 2)] {
            let count = 1 + self.operators.dice.below(2);
            let mut victims = BTreeSet::new();
            for _ in 0..count {
                victims.extend(self.operators.dice.pick(&from).map(|host| self.hosts[*host].id()));
            }
            self.remove_later(victims.into_iter().collect(), Some(askers), Some((id, number)));
        }
        self.tally.fault(FaultKind::RemoveApart);
        Ok(Lasting::Network)
    }

    /// Up to half of the members of the latest epoch burn, so that those that are left can still be sure that no other
    /// decision was made.
    fn fence(&mut self) -> Result<Vec<usize>, NotNow> {
        let states = self.hosts.iter().filter_map(|host| host.disk.ipam());
        let latest = states.max_by_key(|state| state.epoch()).ok_or(NotNow)?;
        let members = latest.members().clone();
        let is_member = |host: &usize| members.contains(&self.hosts[*host].id());
        let living: Vec<usize> = (0..self.scenario.hosts).filter(is_member).collect();
        let most = living.len().saturating_sub(members.len().div_ceil(2));
        let fit = |host: &usize| {
            let this = &self.hosts[*host];
            this.running().is_some() && !this.is_in_trouble && !self.operators.leaving.contains_key(host)
        };
        let mut fit: Vec<usize> = living.into_iter().filter(fit).collect();
        let mut burnt = Vec::new();
        // One that runs stays, to be asked.
        while burnt.len() < most && fit.len() > 1 {
            let at = self.operators.dice.below(fit.len());
            burnt.push(fit.swap_remove(at));
        }
        if burnt.is_empty() {
            return Err(NotNow);
        }
        let victims: Vec<NodeId> = burnt.iter().map(|host| self.hosts[*host].id()).collect();
        for host in &burnt {
            self.end_host(*host, FaultKind::Wipe);
        }
        for victim in &victims {
            self.operators.named.insert(*victim, true);
        }
        let after = self.operators.after(NOTICED_S);
        let operation = Operation::Remove {
            victims,
            fenced: true,
            askers: None,
            during: None,
        };
        self.queue.push(self.now + after, Event::Operate(operation));
        self.tally.fault(FaultKind::Fence);
        Ok(burnt)
    }

    fn meet(&mut self) -> Result<(), NotNow> {
        let others: Vec<usize> = (self.scenario.first_other()..self.scenario.first_late())
            .filter(|host| self.hosts[*host].running().is_some() && self.other.is_some())
            .collect();
        let host = *self.operators.dice.pick(&others).ok_or(NotNow)?;
        let target = self.operators.dice.below(self.scenario.first_other());
        let target = self.hosts[target].address.to_string();
        self.note_fault(host, format!("meets {target} of the other cluster"));
        self.hosts[host].targets.push(target.clone());
        self.feed(host, Input::Mesh(weft_gossip::Input::AddTarget(target)));
        let after = self.operators.after(ADOPT_AFTER_S);
        self.queue
            .push(self.now + after, Event::Operate(Operation::Adopt));
        Ok(())
    }

    // --- commands -------------------------------------------------------------------------------------

    pub(crate) fn operate(&mut self, operation: Operation) {
        match operation {
            Operation::Remove {
                victims,
                fenced,
                askers,
                during,
            } => self.operate_remove(victims, fenced, askers, during),
            Operation::Adopt => self.operate_adopt(),
            Operation::AskAgain => {
                self.queue
                    .push(self.now + ASK_AGAIN, Event::Operate(Operation::AskAgain));
                let left: Vec<(NodeId, bool)> = self.not_removed();
                for (victim, fenced) in left {
                    self.operate(Operation::Remove {
                        victims: vec![victim],
                        fenced,
                        askers: None,
                        during: None,
                    });
                }
                if self.strays().next().is_some() {
                    self.operate_adopt();
                }
            }
        }
    }

    /// Hosts whose removal was asked for and that no host has heard to be removed.
    pub(crate) fn not_removed(&self) -> Vec<(NodeId, bool)> {
        let named = self.operators.named.iter();
        named
            .filter(|(node, _)| !self.operators.removed.contains(*node))
            .map(|(node, fenced)| (*node, *fenced))
            .collect()
    }

    fn operate_remove(
        &mut self,
        mut victims: Vec<NodeId>,
        fenced: bool,
        askers: Option<BTreeSet<usize>>,
        during: Option<(u64, u8)>,
    ) {
        let during = during.filter(|(id, _)| self.network.cuts.contains_key(id));
        // Who cannot be asked on one side of a partition that has healed is asked anywhere.
        let askers = askers.filter(|_| during.is_some());
        victims.retain(|victim| !self.operators.removed.contains(victim) && !self.is_stray(victim));
        if victims.is_empty() {
            return;
        }
        let is_able = |host: &usize| {
            let this = &self.hosts[*host];
            let is_there = this.running().is_some() && this.paused_until < self.now && !this.is_stranger;
            let knows = this.disk.ipam().is_some() && self.hosts[*host].cluster() == self.genesis;
            let is_well = !victims.contains(&this.id()) && !self.operators.leaving.contains_key(host);
            is_there && knows && is_well && askers.as_ref().is_none_or(|askers| askers.contains(host))
        };
        let able: Vec<usize> = (0..self.scenario.hosts).filter(is_able).collect();
        let Some(host) = self.operators.dice.pick(&able).copied() else {
            let operation = Operation::Remove {
                victims,
                fenced,
                askers,
                during,
            };
            return self.queue.push(self.now + AGAIN, Event::Operate(operation));
        };
        for victim in &victims {
            *self.operators.named.entry(*victim).or_default() |= fenced;
        }
        if self.sabotage == Some(Sabotage::PlainTakeover) {
            return self.take_over(host, &victims);
        }
        self.requests.number += 1;
        let request = RequestId(self.requests.number);
        self.record
            .note(self.now, host, "remove", &[&request.0.to_be_bytes()], || {
                let names: Vec<String> = victims.iter().map(NodeId::short).collect();
                format!("{request:?} {names:?} fenced {fenced}")
            });
        let hosts = victims.clone();
        self.operators.waiting.insert(
            request,
            Operation::Remove {
                victims,
                fenced,
                askers,
                during,
            },
        );
        self.feed(
            host,
            Input::Ipam(Request::Remove {
                hosts,
                fenced,
                request,
            }),
        );
        if let Some((id, side)) = during {
            let sides = self.operators.apart.entry(id).or_default();
            let before = std::mem::replace(sides, *sides | side);
            let is_both = *sides == 3 && before != 3;
            self.tally.add(Happening::AskedApart, u64::from(is_both));
        }
        while self.operators.newcomers > 0 {
            self.operators.newcomers -= 1;
            let mut late = self.scenario.first_late()..self.scenario.hosts;
            let Some(host) = late.find(|host| self.operators.late.insert(*host)) else {
                continue;
            };
            self.note_fault(host, "comes while a removal is under way".into());
            let after = self.operators.after(NEWCOMER_S);
            self.queue.push(self.now + after, Event::Start { host });
            self.tally.fault(FaultKind::Newcomer);
        }
    }

    /// A host says whether it has taken a wish down.
    pub(crate) fn wished(&mut self, host: usize, request: RequestId, result: Result<(), String>) {
        let text = format!("{request:?} {result:?}");
        self.record
            .note(self.now, host, "wished", &[text.as_bytes()], || text.clone());
        if let (Some(operation), Err(_)) = (self.operators.waiting.remove(&request), result) {
            self.queue.push(self.now + AGAIN, Event::Operate(operation));
        }
    }

    /// What a broken shell does in place of asking the members: it takes what the removed hosts owned.
    fn take_over(&mut self, host: usize, victims: &[NodeId]) {
        let node = self.hosts[host].id();
        let Some(state) = self.hosts[host].disk.ipam() else {
            return;
        };
        let runs = state.table().all_runs();
        let theirs = runs.filter(|(_, owner, _)| victims.contains(owner));
        let changes: Vec<Change> = theirs
            .map(|(mut run, ..)| {
                let Version { epoch, seq } = run.version;
                run.version = Version { epoch, seq: seq + 1 };
                Change::Slots {
                    run,
                    owner: node,
                    is_frozen: false,
                }
            })
            .collect();
        self.tcp
            .end_process(self.now, &mut self.queue, &mut self.network, host, true);
        self.hosts[host].process = Process::Ended;
        self.hosts[host].disk.crash(1.0);
        self.hosts[host].disk.spoil(&changes);
        self.queue.push(self.now, Event::Start { host });
    }

    /// True for a host of the other cluster: nobody here can remove it.
    fn is_stray(&self, node: &NodeId) -> bool {
        let is_it = |host: usize| self.hosts[host].id() == *node;
        self.strays().any(is_it)
    }

    /// Hosts that are still in the other cluster.
    fn strays(&self) -> impl Iterator<Item = usize> + '_ {
        let hosts = 0..self.scenario.hosts;
        hosts.filter(|host| self.other.is_some() && self.hosts[*host].cluster() == self.other)
    }

    fn operate_adopt(&mut self) {
        let strays: Vec<usize> = self
            .strays()
            .filter(|host| self.hosts[*host].running().is_some() && self.pause_of(*host).is_none())
            .collect();
        let is_settled = |host: &usize| self.hosts[*host].cluster() == self.genesis;
        let targets: Vec<usize> = (0..self.scenario.hosts).filter(is_settled).collect();
        let (Some(host), Some(target)) = (
            self.operators.dice.pick(&strays).copied(),
            self.operators.dice.pick(&targets).copied(),
        ) else {
            return;
        };
        let target = self.hosts[target].address.to_string();
        self.note_fault(host, format!("adopts the cluster of {target}"));
        self.tally.fault(FaultKind::Adopt);
        self.feed(
            host,
            Input::Adopt {
                target: Some(target),
                token: None,
            },
        );
    }

    // --- what is waited for ---------------------------------------------------------------------------

    /// Somebody wants a host to leave: its pods go, then it is told, then it is switched off.
    pub(crate) fn look_after_leave(&mut self, host: usize) {
        let Some((number, node)) = self.operators.leaving.get(&host).copied() else {
            return;
        };
        self.queue
            .push(self.now + LOOK_AFTER_LEAVE, Event::LookAfterLeave { host });
        let is_awake = self.hosts[host].running().is_some() && self.pause_of(host).is_none();
        if !is_awake || self.hosts[host].is_in_trouble || self.hosts[host].disk.durable().is_none() {
            return;
        }
        let status = self.hosts[host]
            .running()
            .map(|running| (running.node.leave_status(), running.node.id()));
        match status {
            Some((Some(status), _)) if status.done => {
                self.operators.leaving.remove(&host);
                self.tally.add(Happening::Left, 1);
                self.end_host(host, FaultKind::Wipe);
                let lasts = self.scenario.fault[number].lasts_s;
                self.come_back_later(host, lasts);
            }
            Some((Some(_), _)) => {}
            Some((None, id)) => {
                if id != node {
                    self.operators.leaving.insert(host, (number, id));
                }
                // It asks the others to go on without it.
                self.operators.named.entry(id).or_default();
                for pod in 0..crate::requests::PODS {
                    self.take_away(host, format!("pod{pod}"));
                }
                self.feed(host, Input::Ipam(Request::Leave));
            }
            None => {}
        }
    }

    /// A host has written something of its address space.
    pub(crate) fn look_for_reclaimer(&mut self, host: usize) {
        if self.operators.reclaimers.is_empty() {
            return;
        }
        let this = &self.hosts[host];
        let node = this.id();
        if !this.disk.ipam().is_some_and(|state| is_half_way(state, &node)) {
            return;
        }
        let fault = self.operators.reclaimers.remove(0);
        let after = self.operators.dice.millis(RECLAIMER_MS);
        let start = self.hosts[host].start;
        self.queue
            .push(self.now + after, Event::KillReclaimer { host, start, fault });
    }

    pub(crate) fn kill_reclaimer(&mut self, host: usize, start: u64, fault: usize) {
        let this = &self.hosts[host];
        let node = this.id();
        let is_it = this.disk.ipam().is_some_and(|state| is_half_way(state, &node));
        let is_free = !this.is_in_trouble && !self.operators.leaving.contains_key(&host);
        if !self.is_running(host, start) || !is_it || !is_free {
            // It was faster.
            return self.operators.reclaimers.push(fault);
        }
        self.note_fault(host, "dies while it takes slots back".into());
        self.end_host(host, FaultKind::Power);
        self.tally.fault(FaultKind::KillReclaimer);
        if self.operators.dice.chance(0.5) {
            self.remove_later(vec![node], None, None);
        }
        let lasts = self.scenario.fault[fault].lasts_s;
        self.come_back_later(host, lasts);
    }

    /// A founder says that it is a member.
    pub(crate) fn look_for_first(&mut self, host: usize) {
        if host < self.scenario.founders && !self.operators.firsts.is_empty() {
            let fault = self.operators.firsts.remove(0);
            self.queue.push(self.now, Event::FirstMember { host, fault });
        }
    }

    pub(crate) fn first_member(&mut self, host: usize, fault: usize) {
        let hosts = self.scenario.hosts;
        self.note_fault(host, "is the first member, and alone".into());
        let others = (0..hosts).filter(|other| *other != host);
        let pairs = others.clone().flat_map(|other| [(host, other), (other, host)]);
        self.faults.ids += 1;
        let id = self.faults.ids;
        let carrier = Carrier::All;
        let pairs = pairs.collect();
        self.network.cuts.insert(id, Cut { carrier, pairs });
        let lasts = self.operators.after(self.scenario.fault[fault].lasts_s);
        self.faults.lasting.insert(id, Lasting::Network);
        self.queue.push(self.now + lasts, Event::Heal(id));
        for other in others {
            if self.hosts[other].running().is_some() && !self.hosts[other].is_in_trouble {
                self.end_host(other, FaultKind::Power);
                self.come_back_later(other, [0.1, 0.4]);
            }
        }
        self.tally.fault(FaultKind::FirstAlone);
    }

    fn come_back_later(&mut self, host: usize, lasts: [f64; 2]) {
        self.faults.ids += 1;
        let (id, lasts) = (self.faults.ids, self.operators.after(lasts));
        self.faults.lasting.insert(id, Lasting::Hosts(vec![host]));
        self.queue.push(self.now + lasts, Event::Heal(id));
    }

    /// What a host says of removals and of other clusters.
    pub(crate) fn operators_hear(&mut self, notice: &Notice) {
        match notice {
            Notice::Ipam(weft_ipam_crdt::Event::Removed(hosts)) => {
                for host in hosts {
                    if self.operators.removed.insert(*host) {
                        let is_fenced = self.operators.named.get(host) == Some(&true);
                        self.tally.add(Happening::Removed, 1);
                        self.tally.add(Happening::Fenced, u64::from(is_fenced));
                    }
                }
            }
            Notice::Ipam(weft_ipam_crdt::Event::Reclaimed { .. }) => self.tally.add(Happening::Reclaimed, 1),
            Notice::BeganAgain { left, joined, .. } => {
                let is_other = left.as_ref() != Some(joined);
                self.tally.add(Happening::BeganAgain, 1);
                self.tally.add(Happening::Adopted, u64::from(is_other));
            }
            Notice::Unclaimed { .. } => self.tally.add(Happening::Refused, 1),
            Notice::Foreign { .. } => self.tally.add(Happening::Met, 1),
            _ => {}
        }
    }

    /// People stop, and ask once more for what is not done.
    pub(crate) fn operators_settle(&mut self) {
        self.operators.reclaimers.clear();
        self.operators.firsts.clear();
        self.operators.newcomers = 0;
        for host in std::mem::take(&mut self.operators.leaving).into_keys() {
            self.feed(host, Input::Ipam(Request::Stay));
        }
        for host in self.scenario.first_late()..self.scenario.hosts {
            if self.operators.late.insert(host) {
                self.queue.push(self.now, Event::Start { host });
            }
        }
        if self.scenario.removes() {
            self.queue
                .push(self.now + AGAIN, Event::Operate(Operation::AskAgain));
        }
    }

    /// A host may have become another one by what it has just written; the claims that are done are pods' again.
    pub(crate) fn look_at_disk(&mut self, host: usize, before: Option<Before>) {
        if let Some(Before { id, state }) = before.filter(|before| before.id != self.hosts[host].id()) {
            self.see(host, &Seen::Wiped { id, state });
            self.see(host, &Seen::Began { old: id });
        }
        self.see(host, &Seen::Synced);
        self.look_for_reclaimer(host);
    }
}

/// It cannot occur just now.
pub(crate) struct NotNow;

/// When a fault that could not occur is tried again.
pub(crate) fn tried_again(now: Time) -> Time {
    now + AGAIN
}
