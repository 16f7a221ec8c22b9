//! What goes wrong, when, and how it ends.

use crate::dice::Dice;
use crate::disk::Disk;
use crate::host::Process;
use crate::invariants::Seen;
use crate::network::Cut;
use crate::operators::tried_again;
use crate::queue::Event;
use crate::scenario::{Carrier, Fault, FaultKind};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weft_wire::Time;

/// A write under way at the end of a process is finished by the kernel that often, and that often at a loss of power.
const FINISHED_AFTER_KILL: f64 = 0.5;
const FINISHED_AFTER_POWER: f64 = 0.2;

/// What lasts.
pub(crate) enum Lasting {
    /// Hosts that are to be started again.
    Hosts(Vec<usize>),
    /// A cut or bad weather, under its own number.
    Network,
}

/// Faults that last, and the dice that choose.
pub(crate) struct Faults {
    dice: Dice,
    pub(crate) lasting: BTreeMap<u64, Lasting>,
    pub(crate) ids: u64,
    over: bool,
    /// A disk was lost.
    has_wiped: bool,
}

impl Faults {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            lasting: BTreeMap::new(),
            ids: 0,
            over: false,
            has_wiped: false,
        }
    }

    /// Between half of the mean time and one and a half of it.
    fn pause(&mut self, every_s: f64) -> Duration {
        self.dice.seconds([every_s / 2.0, every_s * 1.5])
    }
}

impl World {
    /// Puts the first of each fault into the queue.
    pub(crate) fn plan_faults(&mut self) {
        let faults = self.scenario.fault.clone();
        for (number, fault) in faults.iter().enumerate() {
            if let Some(every) = fault.every_s {
                let after = self.faults.pause(every);
                self.queue.push(Time::ZERO + after, Event::Fault(number));
            }
            for at in &fault.at_s {
                self.queue
                    .push(Time::ZERO + Duration::from_secs_f64(*at), Event::Fault(number));
            }
        }
    }

    pub(crate) fn fault(&mut self, number: usize) {
        if self.faults.over {
            return;
        }
        let fault = self.scenario.fault[number].clone();
        if let Some(every) = fault.every_s {
            let after = self.faults.pause(every);
            self.queue.push(self.now + after, Event::Fault(number));
        }
        self.faults.ids += 1;
        let (id, lasts) = (self.faults.ids, self.faults.dice.seconds(fault.lasts_s));
        let lasting = match fault.kind {
            FaultKind::Kill | FaultKind::Power | FaultKind::Wipe => {
                let host = self.end_process(fault.kind);
                host.inspect(|_| self.tally.fault(fault.kind))
                    .map(|host| Lasting::Hosts(vec![host]))
            }
            FaultKind::Split | FaultKind::OneWay => self.cut(id, &fault),
            FaultKind::Weather => {
                self.network.weather.insert(id, fault.loss);
                self.note_fault(0, format!("loss of {}", fault.loss));
                self.tally.fault(fault.kind);
                Some(Lasting::Network)
            }
            FaultKind::Pause => {
                if let Some(host) = self.victim() {
                    self.hosts[host].paused_until = self.now + lasts;
                    self.note_fault(host, format!("stands still for {lasts:?}"));
                    self.tally.fault(fault.kind);
                }
                None
            }
            FaultKind::Full => {
                if let Some(host) = self.victim() {
                    self.hosts[host].full_until = self.now + lasts;
                    self.note_fault(host, format!("its disk is full for {lasts:?}"));
                    self.tally.fault(fault.kind);
                }
                None
            }
            FaultKind::Move => {
                if let Some(host) = self.victim() {
                    let old = self.hosts[host].address;
                    self.hosts[host].address = self.fresh_address(host, Some(old));
                    self.note_fault(host, format!("moved from {old} to {}", self.hosts[host].address));
                    self.tally.fault(fault.kind);
                }
                None
            }
            FaultKind::Reset => {
                let connections = self.tcp.len();
                let place = self.faults.dice.below(connections);
                self.tcp.reset(self.now, &mut self.queue, place);
                self.note_fault(0, format!("connection {place} is reset"));
                if connections > 0 {
                    self.tally.fault(fault.kind);
                }
                None
            }
            FaultKind::RemoveDead
            | FaultKind::RemoveLive
            | FaultKind::RemoveApart
            | FaultKind::Fence
            | FaultKind::KillReclaimer
            | FaultKind::Newcomer
            | FaultKind::Adopt
            | FaultKind::Leave
            | FaultKind::FirstAlone => match self.operate_fault(number, id, &fault) {
                Ok(lasting) => lasting,
                Err(_) if fault.every_s.is_some() => None,
                Err(_) => {
                    self.queue.push(tried_again(self.now), Event::Fault(number));
                    None
                }
            },
        };
        if let Some(lasting) = lasting {
            self.faults.lasting.insert(id, lasting);
            self.queue.push(self.now + lasts, Event::Heal(id));
        }
    }

    pub(crate) fn note_fault(&mut self, host: usize, text: String) {
        self.record
            .note(self.now, host, "FAULT", &[text.as_bytes()], || text.clone());
    }

    /// A host that runs, is no stranger and has no other trouble.
    pub(crate) fn victim(&mut self) -> Option<usize> {
        let now = self.now;
        let fit = |host: &usize| {
            let host = &self.hosts[*host];
            host.running().is_some() && !host.is_stranger && !host.is_in_trouble && host.paused_until < now
        };
        let fit: Vec<usize> = (0..self.hosts.len()).filter(fit).collect();
        self.faults.dice.pick(&fit).copied()
    }

    pub(crate) fn end_process(&mut self, kind: FaultKind) -> Option<usize> {
        let host = self.victim()?;
        let is_member = |host: &crate::host::Host| host.disk.durable().is_some();
        // A cluster whose last member loses its disk is lost, and rightly so. Of three or more hosts that make one together
        // one can lose its disk on the way: the others are a majority.
        let others = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(other, this)| *other != host && is_member(this));
        let is_spare = self.scenario.founders >= 3 && !self.faults.has_wiped;
        if kind == FaultKind::Wipe && others.count() == 0 && !is_spare {
            return None;
        }
        self.end_host(host, kind);
        Some(host)
    }

    /// Ends a host's process or cuts its power; it has trouble from now on.
    pub(crate) fn end_host(&mut self, host: usize, kind: FaultKind) {
        let power = kind == FaultKind::Kill;
        let finished = match power {
            true => self.faults.dice.chance(FINISHED_AFTER_KILL),
            false => self.faults.dice.chance(FINISHED_AFTER_POWER),
        };
        let is_full = self.now < self.hosts[host].full_until;
        let part = if is_full {
            0.0
        } else if finished {
            1.0
        } else {
            self.faults.dice.below(100) as f64 / 100.0
        };
        self.note_fault(
            host,
            format!("{kind:?}, this part of the writes under way is kept: {part}"),
        );
        self.tcp
            .end_process(self.now, &mut self.queue, &mut self.network, host, power);
        let this = &mut self.hosts[host];
        this.process = if power { Process::Ended } else { Process::Off };
        this.is_in_trouble = true;
        let before = this.disk.before();
        this.disk.crash(part);
        self.look_at_disk(host, before);
        if kind == FaultKind::Wipe {
            self.faults.has_wiped = true;
            let this = &self.hosts[host];
            let (id, state) = (this.id(), this.durable());
            // Of the other cluster nobody asks: it ends when it adopts this one.
            let is_of_cluster = state.is_some() && this.cluster() == self.genesis;
            let disk = Disk::new(&mut self.faults.dice);
            self.hosts[host].disk = disk;
            self.name_targets(host);
            if self.hosts[host].targets.is_empty() || host == 0 {
                // Whoever lost the founder names hosts that are left.
                self.hosts[host].targets = (0..self.scenario.hosts)
                    .filter(|other| *other != host)
                    .map(|other| self.hosts[other].address.to_string())
                    .collect();
            }
            self.see(host, &Seen::Wiped { id, state });
            if is_of_cluster && self.scenario.removes() {
                // Nobody else can say what it owned last.
                self.remove_later(vec![id], None, None);
            }
        }
    }

    fn cut(&mut self, id: u64, fault: &Fault) -> Option<Lasting> {
        let hosts = self.hosts.len();
        let side: BTreeSet<usize> = (0..hosts).filter(|_| self.faults.dice.chance(0.5)).collect();
        let across = |a: &usize, b: &usize| side.contains(a) && !side.contains(b);
        let mut pairs = BTreeSet::new();
        for a in 0..hosts {
            for b in 0..hosts {
                if across(&a, &b) || (fault.kind == FaultKind::Split && across(&b, &a)) {
                    pairs.insert((a, b));
                }
            }
        }
        if !pairs.is_empty() {
            self.tally.fault(fault.kind);
        }
        let what = match fault.carrier {
            Carrier::All => "everything",
            Carrier::Mesh => "TCP",
            Carrier::Sleeve => "UDP",
        };
        self.note_fault(
            0,
            format!("{:?}: {what} between {side:?} and the others", fault.kind),
        );
        self.network.cuts.insert(
            id,
            Cut {
                carrier: fault.carrier,
                pairs,
            },
        );
        Some(Lasting::Network)
    }

    /// A fault that lasted ends.
    pub(crate) fn heal(&mut self, id: u64) {
        match self.faults.lasting.remove(&id) {
            None => {}
            Some(Lasting::Network) => {
                self.network.cuts.remove(&id);
                self.network.weather.remove(&id);
                self.note_fault(0, format!("fault {id} of the network is over"));
            }
            Some(Lasting::Hosts(hosts)) => {
                for host in hosts {
                    self.hosts[host].is_in_trouble = false;
                    self.queue.push(self.now, Event::Start { host });
                }
            }
        }
    }

    /// Nothing goes wrong from now on, apart from what the network always does.
    pub(crate) fn settle(&mut self) {
        self.faults.over = true;
        self.note_fault(0, "nothing goes wrong any more".into());
        let lasting: Vec<u64> = self.faults.lasting.keys().copied().collect();
        for id in lasting {
            self.heal(id);
        }
        for host in &mut self.hosts {
            host.paused_until = host.paused_until.min(self.now);
            host.full_until = host.full_until.min(self.now);
        }
        self.operators_settle();
        let end = self.now + Duration::from_secs_f64(self.scenario.settles_s);
        self.liveness.begin(end);
        self.queue.push(self.now, Event::Look);
    }
}
