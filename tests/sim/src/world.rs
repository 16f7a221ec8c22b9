//! The loop: takes the next event, gives it to a node, does what comes out, and looks whether all still holds.

use crate::dice::Dice;
use crate::disk::Disk;
use crate::engine::{Engine, Frame, Report, Sealed};
use crate::faults::Faults;
use crate::happenings::{Happening, Tally};
use crate::host::{Clock, Host, Process, Running, pod_mac};
use crate::invariants::{Invariants, Scene, Seen, Violation};
use crate::liveness::Liveness;
use crate::network::Network;
use crate::operators::Operators;
use crate::queue::{Event, Packet, Queue};
use crate::record::{Lines, Record};
use crate::requests::Requests;
use crate::sabotage::Sabotage;
use crate::scenario::Scenario;
use crate::tcp::{Station, Tcp, TcpEvent};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use weft_gossip::{DurableState, Identity, JoinToken};
use weft_ipam_crdt::genesis::{Expected, Terms};
use weft_ipam_crdt::{AddressSpace, Held, Role};
use weft_node::{Input, Node, NodeConfig};
use weft_sleeve::Cipher;
use weft_wire::datagram::Kind;
use weft_wire::record::Genesis;
use weft_wire::{ClusterSecret, GenesisId, Mac, Time};

/// How often a shell reads its engine's counters.
const ACTIVITY_INTERVAL: Duration = Duration::from_secs(1);
/// Clocks are wrong by up to this many parts per million.
const CLOCK_ERROR: i16 = 200;
/// Shortest time: what was kept during a pause comes so long after it.
const MOMENT: Duration = Duration::from_nanos(1);

/// Hosts, what is between them, and what is to come.
pub struct World {
    /// The time.
    pub now: Time,
    pub(crate) scenario: Scenario,
    /// Every host.
    pub hosts: Vec<Host>,
    pub(crate) queue: Queue,
    pub(crate) network: Network,
    pub(crate) tcp: Tcp,
    pub(crate) faults: Faults,
    pub(crate) liveness: Liveness,
    pub(crate) dice: Dice,
    pub(crate) traffic: Dice,
    pub(crate) invariants: Invariants,
    pub(crate) record: Record,
    pub(crate) sabotage: Option<Sabotage>,
    /// The one cluster, once somebody is a member.
    pub(crate) genesis: Option<GenesisId>,
    /// The other cluster, of a scenario in which two meet.
    pub(crate) other: Option<GenesisId>,
    pub(crate) operators: Operators,
    pub(crate) tally: Tally,
    pub(crate) violation: Option<Violation>,
    pub(crate) frames: u64,
    /// Frames that reached a host.
    pub(crate) delivered: u64,
    pub(crate) requests: Requests,
    addresses: u16,
}

impl World {
    pub(crate) fn new(scenario: &Scenario, seed: u64, sabotage: Option<Sabotage>, lines: Lines) -> Self {
        let mut dice = Dice::new(seed, "weft sim hosts");
        let token = JoinToken::generate(dice.generator()).psk();
        let other_token = match sabotage {
            Some(Sabotage::LeakedToken) => token.clone(),
            _ => JoinToken::generate(dice.generator()).psk(),
        };
        let mut world = Self {
            now: Time::ZERO,
            scenario: scenario.clone(),
            hosts: Vec::new(),
            queue: Queue::default(),
            network: Network::new(scenario.network.clone(), Dice::new(seed, "weft sim network")),
            tcp: Tcp::default(),
            faults: Faults::new(Dice::new(seed, "weft sim faults")),
            liveness: Liveness::default(),
            traffic: Dice::new(seed, "weft sim traffic"),
            invariants: Invariants::new(),
            record: Record::new(lines),
            sabotage,
            genesis: None,
            other: None,
            operators: Operators::new(Dice::new(seed, "weft sim operators")),
            tally: Tally::default(),
            violation: None,
            frames: 0,
            delivered: 0,
            requests: Requests::default(),
            addresses: 0,
            dice,
        };
        for number in 0..scenario.hosts + scenario.strangers {
            let is_stranger = number >= scenario.hosts;
            let address = world.fresh_address(number, None);
            let disk = Disk::new(&mut world.dice);
            let token = if is_stranger {
                other_token.clone()
            } else {
                token.clone()
            };
            world.hosts.push(Host {
                address,
                disk,
                process: Process::Off,
                start: 0,
                paused_until: Time::ZERO,
                full_until: Time::ZERO,
                token,
                targets: Vec::new(),
                is_stranger,
                is_in_trouble: false,
            });
        }
        match scenario.established {
            true => world.establish(),
            false if scenario.founders > 1 => {}
            false => {
                world.genesis = world.found(0);
                let other = scenario.first_other();
                world.other = (scenario.others > 0).then(|| world.found(other)).flatten();
            }
        }
        for host in 0..world.hosts.len() {
            if (host > 0 || scenario.founders > 1) && !scenario.established {
                world.name_targets(host);
            }
            let after = world.dice.seconds([0.0, scenario.starts_within_s]);
            if !(scenario.first_late()..scenario.hosts).contains(&host) {
                world.queue.push(Time::ZERO + after, Event::Start { host });
            }
            world.want_later(host);
            for pod in 0..scenario.pods {
                world.pod_later(host, pod);
            }
        }
        world.plan_faults();
        let end = Time::ZERO + Duration::from_secs_f64(scenario.lasts_s);
        world.queue.push(end, Event::Settle);
        world
    }

    /// Lays a cluster down on a host's disk.
    fn found(&mut self, founder: usize) -> Option<GenesisId> {
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&self.dice.octets()[..16]);
        let slot_size = match AddressSpace::of_range(self.scenario.range) {
            Ok(space) => space.slot_size(),
            Err(error) => {
                self.violation = Some(Violation {
                    invariant: "addresses",
                    host: 0,
                    what: format!("the scenario's range {}: {error}", self.scenario.range),
                });
                return None;
            }
        };
        let genesis = Genesis {
            founders: vec![self.hosts[founder].id()],
            nonce,
            range: self.scenario.range,
            slot_size,
        };
        let id = genesis.id();
        let secret = ClusterSecret {
            number: 1,
            key: self.dice.octets(),
        };
        let state = DurableState::founded(genesis, secret);
        self.hosts[founder].disk.found(state);
        Some(id)
    }

    /// Gives every host the disk of a cluster that has grown in good weather.
    fn establish(&mut self) {
        let disks = Arc::clone(&self.scenario.disks);
        let disks = disks.get_or_init(|| {
            let mut grown = Self::new(&self.scenario.in_good_weather(), 0, None, Lines::None);
            grown.run()?;
            Ok(grown.hosts.into_iter().map(|host| host.disk).collect())
        });
        let disks = match disks {
            Ok(disks) => disks,
            Err(violation) => return self.violation = Some(violation.clone()),
        };
        for (number, disk) in disks.iter().enumerate() {
            self.hosts[number].disk = disk.clone();
            let (Some(durable), Some(ipam)) = (disk.durable(), disk.ipam()) else {
                continue;
            };
            self.genesis = Some(durable.genesis().id());
            let Ok(space) = AddressSpace::of_genesis(durable.genesis()) else {
                continue;
            };
            for (offset, held) in ipam.addresses() {
                if let (Held::Pod(id), Some(address)) = (held, space.address(*offset)) {
                    self.see(
                        number,
                        &Seen::Given {
                            id: id.as_str(),
                            address,
                            asked: Time::ZERO,
                        },
                    );
                }
            }
        }
    }

    /// What an operator would type: those that make the cluster, and another one.
    pub(crate) fn name_targets(&mut self, host: usize) {
        let first_other = self.scenario.first_other();
        let named = match self.scenario.founders {
            1 if (first_other..self.scenario.first_late()).contains(&host) => {
                vec![first_other, first_other + self.dice.below(self.scenario.others)]
            }
            _ if self.scenario.others > 0 => vec![0, self.dice.below(first_other)],
            founders => self.named(founders),
        };
        let targets = named.into_iter().filter(|target| *target != host);
        self.hosts[host].targets = targets
            .map(|target| self.hosts[target].address.to_string())
            .collect();
    }

    /// The founders, or the one, and anybody.
    fn named(&mut self, founders: usize) -> Vec<usize> {
        let other = self.dice.below(self.scenario.hosts);
        match founders {
            1 => vec![0, other],
            founders => (0..founders).chain([other]).collect(),
        }
    }

    /// An address that no host had before.
    pub(crate) fn fresh_address(&mut self, host: usize, old: Option<SocketAddr>) -> SocketAddr {
        self.addresses += 1;
        let [high, low] = self.addresses.to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 6783));
        self.network.assign(host, old.as_ref(), address);
        address
    }

    /// Runs until all is well again, or something is not.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            self.step(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.liveness.is_well() {
                return Ok(());
            }
        }
        Err(Violation {
            invariant: "liveness",
            host: 0,
            what: "nothing is left to happen".into(),
        })
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Start { host } => self.start(host),
            Event::Run { host, start } => {
                if self.hosts[host].start == start && matches!(self.hosts[host].process, Process::Starting) {
                    self.run_node(host);
                }
            }
            Event::Timer { host, start } => self.timer(host, start),
            Event::Datagram { from, to, packet } => self.datagram(from, to, packet),
            Event::Tcp(event) => self.tcp_event(event),
            Event::Synced { host, start } => self.synced(host, start),
            Event::Tell { host, start, input } => self.tell(host, start, input),
            Event::Reports { host, start, reports } => self.reports(host, start, reports),
            Event::Activity { host, start } => self.activity(host, start),
            Event::AgreementSynced { host, start, token } => self.agreement_synced(host, start, token),
            Event::IpamSynced { host, start, token } => self.ipam_synced(host, start, token),
            Event::Began { host, start } => self.began(host, start),
            Event::Want { host } => self.want(host),
            Event::Pod { host, pod } => {
                self.pod_later(host, pod);
                self.pod_sends(host, pod);
            }
            Event::Fault(number) => self.fault(number),
            Event::Heal(id) => self.heal(id),
            Event::Operate(operation) => self.operate(operation),
            Event::KillReclaimer { host, start, fault } => self.kill_reclaimer(host, start, fault),
            Event::FirstMember { host, fault } => self.first_member(host, fault),
            Event::LookAfterLeave { host } => self.look_after_leave(host),
            Event::Settle => self.settle(),
            Event::Look => self.look(),
        }
    }

    // --- what everything else uses --------------------------------------------------------------------

    pub(crate) fn see(&mut self, host: usize, seen: &Seen<'_>) {
        if self.violation.is_none() {
            let scene = Scene {
                now: self.now,
                host,
                hosts: &self.hosts,
                genesis: self.genesis,
                other: self.other,
                named: &self.operators.named,
                removed: &self.operators.removed,
                carried: self.scenario.network.datagram_max(),
            };
            self.violation = self.invariants.see(&scene, seen);
        }
    }

    pub(crate) fn is_running(&self, host: usize, start: u64) -> bool {
        self.hosts[host].start == start && self.hosts[host].running().is_some()
    }

    /// When the process of a host runs again, if it stands still.
    pub(crate) fn pause_of(&self, host: usize) -> Option<Time> {
        let until = self.hosts[host].paused_until;
        (self.now <= until && until > Time::ZERO).then(|| until + MOMENT)
    }

    /// Gives the node of a host an input and does what comes out.
    pub(crate) fn feed(&mut self, host: usize, input: Input<'_>) {
        let now = self.now;
        let Some(running) = self.hosts[host].running_mut() else {
            return;
        };
        running.node.handle(running.clock.reading(now), input);
        let mut outputs = 0;
        while let Some(output) = self.hosts[host]
            .running_mut()
            .and_then(|running| running.node.poll_output())
        {
            outputs += 1;
            self.act(host, output);
        }
        self.see(host, &Seen::Settled { outputs });
        self.set_timer(host);
    }

    fn set_timer(&mut self, host: usize) {
        let (now, start) = (self.now, self.hosts[host].start);
        let Some(running) = self.hosts[host].running_mut() else {
            return;
        };
        let due = running.node.poll_timeout();
        if due == Time::NEVER {
            return;
        }
        let at = running.clock.world(due).max(now);
        if running.timer.is_none_or(|timer| at < timer) {
            running.timer = Some(at);
            self.queue.push(at, Event::Timer { host, start });
        }
    }

    // --- the process ----------------------------------------------------------------------------------

    fn start(&mut self, host: usize) {
        if matches!(self.hosts[host].process, Process::Starting | Process::Running(_)) {
            return;
        }
        let after = self.dice.millis(self.scenario.disk.sync_ms);
        let this = &mut self.hosts[host];
        this.start += 1;
        this.process = Process::Starting;
        this.paused_until = Time::ZERO;
        let start = this.start;
        // Its new incarnation is to be written.
        let from = self.now.max(this.full_until);
        self.record.note(self.now, host, "start", &[], String::new);
        self.queue.push(from + after, Event::Run { host, start });
    }

    /// The new incarnation is on the disk.
    fn run_node(&mut self, host: usize) {
        let offset = self.dice.seconds([0.0, 86_400.0]);
        let wrong_by = self.dice.below(2 * CLOCK_ERROR as usize) as i16 - CLOCK_ERROR;
        let clock = Clock::new(self.now, offset, wrong_by);
        let (boot_nonce, seed) = (self.dice.number(), self.dice.octets());
        let (now, sabotage) = (self.now, self.sabotage);
        let this = &mut self.hosts[host];
        let bumped = sabotage != Some(Sabotage::SameIncarnation) || this.disk.incarnation == 0;
        this.disk.incarnation += u64::from(bumped);
        let (incarnation, start) = (this.disk.incarnation, this.start);
        let has_state = this.disk.durable().is_some();
        // As the router does it: the same command line before and after there is a cluster.
        let is_told = self.scenario.founders > 1 && host < self.scenario.founders;
        let space = AddressSpace::of_range(self.scenario.range)
            .ok()
            .filter(|_| is_told);
        let agreement = space.map(|space| {
            let terms = Terms {
                expected: Expected::Count(self.scenario.founders as u32),
                range: space.range(),
                slot_size: space.slot_size(),
            };
            (terms, this.disk.agreement().clone())
        });
        let config = NodeConfig {
            identity: Identity {
                key: this.disk.key.clone(),
                noise: this.disk.noise.clone(),
                incarnation,
                boot_nonce,
                name: format!("host{host}"),
            },
            token: Some(this.token.clone()),
            durable: this.disk.durable().cloned(),
            agreement,
            role: Role::Owner,
            ipam: this.disk.ipam().cloned(),
            claims: this.disk.claims().to_vec(),
            targets: this.targets.iter().chain(this.disk.targets()).cloned().collect(),
            endpoints: vec![this.address],
            underlay_mtu: 1500,
            mtu: None,
            bridge: "weft".into(),
            version: "sim".into(),
            ciphers: Cipher::ALL.to_vec(),
            fastpath: weft_node::FastpathConfig::default(),
            seed,
        };
        let node = match Node::new(clock.reading(now), config) {
            Ok(node) => node,
            Err(error) => {
                self.violation = Some(Violation {
                    invariant: "durable",
                    host,
                    what: format!("the state on the disk is refused: {error}"),
                });
                return;
            }
        };
        let id = node.id();
        self.hosts[host].process = Process::Running(Box::new(Running {
            engine: Engine::new(id.peer_hash(), sabotage),
            node,
            clock,
            timer: None,
            timers_at: (Time::ZERO, 0),
            unwritten: std::collections::BTreeSet::new(),
        }));
        self.record
            .note(now, host, "run", &[&id.0, &incarnation.to_be_bytes()], || {
                format!("{} start {incarnation}", id.short())
            });
        self.see(
            host,
            &Seen::Started {
                id,
                incarnation,
                has_state,
            },
        );
        self.queue
            .push(now + ACTIVITY_INTERVAL, Event::Activity { host, start });
        self.feed(host, Input::Timeout);
    }

    fn timer(&mut self, host: usize, start: u64) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Timer { host, start });
        }
        let now = self.now;
        let Some(running) = self.hosts[host].running_mut() else {
            return;
        };
        if running.timer != Some(now) && running.timer.is_none_or(|timer| timer > now) {
            return;
        }
        running.timer = None;
        if running.node.poll_timeout() > running.clock.reading(now) {
            return self.set_timer(host);
        }
        let times = if running.timers_at.0 == now {
            running.timers_at.1 + 1
        } else {
            1
        };
        running.timers_at = (now, times);
        self.record.note(now, host, "timer", &[], String::new);
        self.see(host, &Seen::Spun { times });
        self.feed(host, Input::Timeout);
    }

    fn tell(&mut self, host: usize, start: u64, input: weft_gossip::Input) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Tell { host, start, input });
        }
        self.note_mesh(host, &input);
        if let (weft_gossip::Input::Written { conn }, Some(running)) =
            (&input, self.hosts[host].running_mut())
        {
            running.unwritten.remove(conn);
        }
        self.feed(host, Input::Mesh(input));
    }

    fn tcp_event(&mut self, event: TcpEvent) {
        let hosts = &self.hosts;
        let stations = |host: usize| match &hosts[host].process {
            Process::Off => Station::Off,
            Process::Ended | Process::Starting => Station::NoProcess,
            Process::Running(_) => Station::Running(hosts[host].start),
        };
        let told = self
            .tcp
            .handle(self.now, &mut self.queue, &mut self.network, &stations, event);
        if let Some((key, input)) = told {
            self.tell(key.host, key.start, input);
        }
    }

    fn synced(&mut self, host: usize, start: u64) {
        if self.hosts[host].start != start || !self.hosts[host].has_power() {
            return;
        }
        let full_until = self.hosts[host].full_until;
        if self.now < full_until {
            return self.queue.push(full_until, Event::Synced { host, start });
        }
        let before = self.hosts[host].disk.before();
        let is_same = before.is_none();
        let claims = self.hosts[host].disk.claims().len();
        let Some(synced) = self.hosts[host].disk.synced() else {
            return;
        };
        let done = claims.saturating_sub(self.hosts[host].disk.claims().len());
        self.tally
            .add(Happening::Claimed, if is_same { done as u64 } else { 0 });
        self.look_at_disk(host, before);
        self.record.note(
            self.now,
            host,
            "synced",
            &[format!("{synced:?}").as_bytes()],
            || format!("{synced:?}"),
        );
        if let (Some(token), true) = (synced.cluster, self.sabotage != Some(Sabotage::EarlyPersisted)) {
            let input = weft_gossip::Input::Persisted(token);
            let after = self.dice.millis([0.01, 1.0]);
            self.queue
                .push(self.now + after, Event::Tell { host, start, input });
        }
        if let (Some(token), true) = (synced.agreement, self.sabotage != Some(Sabotage::EarlyPromise)) {
            let after = self.dice.millis([0.01, 1.0]);
            self.queue
                .push(self.now + after, Event::AgreementSynced { host, start, token });
        }
        if let (Some(token), true) = (synced.ipam, self.sabotage != Some(Sabotage::EarlyAnswer)) {
            let after = self.dice.millis([0.01, 1.0]);
            self.queue
                .push(self.now + after, Event::IpamSynced { host, start, token });
        }
        if synced.began {
            // After what was written before it has been told.
            let at = self.now + std::time::Duration::from_millis(2);
            self.queue.push(at, Event::Began { host, start });
        }
        if synced.again {
            self.sync_later(host);
        }
    }

    fn began(&mut self, host: usize, start: u64) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Began { host, start });
        }
        self.feed(host, Input::BeganAgain);
    }

    fn agreement_synced(&mut self, host: usize, start: u64, token: u64) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self
                .queue
                .push(later, Event::AgreementSynced { host, start, token });
        }
        self.feed(host, Input::AgreementPersisted(token));
    }

    fn ipam_synced(&mut self, host: usize, start: u64, token: weft_ipam_crdt::PersistToken) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::IpamSynced { host, start, token });
        }
        self.feed(host, Input::IpamPersisted(token));
    }

    pub(crate) fn sync_later(&mut self, host: usize) {
        let start = self.hosts[host].start;
        let after = self.dice.millis(self.scenario.disk.sync_ms);
        self.queue.push(self.now + after, Event::Synced { host, start });
    }

    // --- the data path --------------------------------------------------------------------------------

    fn activity(&mut self, host: usize, start: u64) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Activity { host, start });
        }
        self.queue
            .push(self.now + ACTIVITY_INTERVAL, Event::Activity { host, start });
        let counters = self.hosts[host]
            .running()
            .map(|running| running.engine.counters());
        for (local, sent, received, frames, relayed) in counters.unwrap_or_default() {
            let octets = [sent, received, frames].map(u64::to_be_bytes).concat();
            self.record.note(self.now, host, "activity", &[&octets], || {
                format!("{local:?} sent {sent} received {received} frames {frames}")
            });
            self.feed(
                host,
                Input::Activity {
                    local,
                    sent,
                    received,
                    frames,
                    // The frames of the pods here have no length to speak of.
                    large: 0,
                    relayed,
                },
            );
        }
    }

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, packet: Packet) {
        let Some(host) = self
            .network
            .owner(&to)
            .filter(|host| self.hosts[*host].running().is_some())
        else {
            return;
        };
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Datagram { from, to, packet });
        }
        let Some(packet) = self.relay(host, from, packet) else {
            return;
        };
        match packet {
            Packet::Handshake(bytes) => {
                self.record.note(self.now, host, "handshake", &[&bytes], || {
                    format!("{} octets from {from}", bytes.len())
                });
                self.feed(host, Input::Handshake { from, bytes: &bytes });
            }
            Packet::Sealed(sealed) => self.sealed(host, from, &sealed),
        }
    }

    fn sealed(&mut self, host: usize, from: SocketAddr, sealed: &Sealed) {
        let now = self.now;
        let Some(running) = self.hosts[host].running_mut() else {
            return;
        };
        let (frame, answer, reports) = running.engine.receive(now, from, sealed);
        let (index, counter) = (sealed.index.0.to_be_bytes(), sealed.counter.to_be_bytes());
        self.record.note(now, host, "sealed", &[&index, &counter], || {
            format!(
                "{:?} {:?} #{} from {from}",
                sealed.kind, sealed.index, sealed.counter
            )
        });
        if let Some(frame) = frame {
            self.delivered += 1;
            self.liveness.arrived(host, &frame);
            self.see(host, &Seen::Delivered(&frame, sealed.kind));
        }
        if let Some(answer) = answer {
            self.send_sealed(host, from, answer);
        }
        self.report(host, reports);
    }

    fn reports(&mut self, host: usize, start: u64, reports: Vec<Report>) {
        if !self.is_running(host, start) {
            return;
        }
        if let Some(later) = self.pause_of(host) {
            return self.queue.push(later, Event::Reports { host, start, reports });
        }
        self.report(host, reports);
    }

    /// Tells the node what its engine saw.
    pub(crate) fn report(&mut self, host: usize, reports: Vec<Report>) {
        for report in reports {
            self.record
                .note(self.now, host, "report", &[], || format!("{report:?}"));
            let input = match report {
                Report::Opened(local, from) => Input::Opened { local, from },
                Report::Roamed(local, from) => Input::Roamed { local, from },
                Report::UnknownIndex(from) => Input::UnknownIndex { from },
                Report::Learned(mac, peer) => Input::Learned { mac, peer },
                Report::Wanted(peer) => Input::Wanted { peer },
                Report::ProbeAnswered(local, probe) => Input::ProbeAnswered { local, probe },
                Report::ProbeRefused(local, probe) => Input::ProbeRefused { local, probe },
            };
            self.feed(host, input);
        }
    }

    fn pod_later(&mut self, host: usize, pod: u8) {
        let mean = self.scenario.traffic.every_ms;
        let after = self.traffic.millis([mean / 2.0, mean * 1.5]);
        self.queue.push(self.now + after, Event::Pod { host, pod });
    }

    /// A pod sends to a pod of another host, or to all.
    fn pod_sends(&mut self, host: usize, pod: u8) {
        let other = self.traffic.below(self.scenario.hosts);
        let other_pod = self.traffic.below(usize::from(self.scenario.pods)) as u8;
        let to_all = self.traffic.chance(self.scenario.traffic.broadcast);
        let destination = match to_all {
            true => Mac::BROADCAST,
            false if other == host => return,
            false => pod_mac(other, other_pod),
        };
        self.send_frame(host, pod_mac(host, pod), destination);
    }

    /// Hands a frame to the engine of a host; without one it is gone.
    pub(crate) fn send_frame(&mut self, host: usize, source: Mac, destination: Mac) {
        self.frames += 1;
        let frame = Frame {
            number: self.frames,
            source,
            destination,
        };
        let (now, paused) = (self.now, self.pause_of(host).is_some());
        let Some(running) = self.hosts[host].running_mut().filter(|_| !paused) else {
            return;
        };
        let (datagrams, reports) = running.engine.send(now, frame);
        self.see(host, &Seen::Sent(&frame));
        for (to, sealed) in datagrams {
            self.send_sealed(host, to, sealed);
        }
        self.report(host, reports);
    }

    pub(crate) fn send_sealed(&mut self, host: usize, to: SocketAddr, sealed: Sealed) {
        self.see(host, &Seen::Sealed(&sealed));
        let carried = self.scenario.network.datagram_max();
        if sealed.kind == Kind::Probe && sealed.probe.is_some_and(|probe| probe.size > carried) {
            return;
        }
        self.send_datagram(host, to, Packet::Sealed(sealed));
    }

    pub(crate) fn send_datagram(&mut self, host: usize, to: SocketAddr, packet: Packet) {
        let Some(other) = self.network.owner(&to) else {
            return;
        };
        let from = self.hosts[host].address;
        for after in self.network.datagram(host, other) {
            let packet = packet.clone();
            self.queue
                .push(self.now + after, Event::Datagram { from, to, packet });
        }
    }
}
