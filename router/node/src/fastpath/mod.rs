//! Which peers' frames go through the kernel, and what the kernel of this host is to hold for that.
//!
//! | module | what it holds |
//! |---|---|
//! | this | a path for each peer, fed with what sleeve, gossip and kernel say |
//! | `settings` | what the cluster wants encrypted, and what this host says of itself |
//! | `view` | the view from which the kernel state follows |
//! | `found` | what an earlier process of this host had the kernel do |
//! | `status` | all of it in words |

mod found;
mod settings;
mod status;
mod view;

use crate::io::{EngineCommand, Notice, Output};
use crate::node::{Node, Path as Sleeve};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;
use found::Found;
use ipnet::IpNet;
use weft_fastpath::View;
use weft_fastpath::path::{Ends, Input as PathInput, Output as PathOutput, Path, Why};
use weft_fastpath::policy::{Observed, Ours, Theirs, Verdict, judge};
use weft_fastpath::probe::{Probe, full_size};
use weft_sleeve::path_mtu::QUESTION;
use weft_sleeve::{Probe as SleeveProbe, ProofKeys};
use weft_wire::fastpath::{Ability, FastpathRecord, Settings, VXLAN_PORT};
use weft_wire::limits::{DEFAULT_PORT, FULL_MESH_MAX};
use weft_wire::{Mac, NodeId, PeerHash, SessionIndex, Time};

/// A pair that exchanged no frames for so long goes back to the sleeve, in a cluster of more than [`FULL_MESH_MAX`] hosts:
/// the ageing time of addresses.
const IDLE_AFTER: Duration = crate::macs::AGEING;
/// Octets of the datagram that asks for a sign of life: the smallest probe of the sleeve.
const QUESTION_SIZE: u16 = 64;

/// What the operator says of frames in the kernel.
#[derive(Clone, Debug)]
pub struct FastpathConfig {
    /// UDP port of VXLAN, the same on all hosts.
    pub port: u16,
    /// Whether this host's kernel takes part.
    pub ability: Ability,
    /// Networks that are trusted whatever their addresses look like.
    pub trusted: Vec<IpNet>,
    /// Settings of the cluster that were stored before.
    pub settings: Settings,
    /// Ports of this host that no pod reaches over the bridge: those of mesh and sleeve.
    pub closed: BTreeSet<u16>,
}

impl Default for FastpathConfig {
    /// A host that takes no part.
    fn default() -> Self {
        Self {
            port: VXLAN_PORT,
            ability: Ability::Declined,
            trusted: Vec::new(),
            settings: Settings::default(),
            closed: [DEFAULT_PORT].into(),
        }
    }
}

/// Everything about frames in the kernel.
pub(crate) struct Fastpath {
    config: FastpathConfig,
    /// What is in force, as far as this host knows.
    settings: Settings,
    paths: BTreeMap<NodeId, Path>,
    /// Whom a probe's sender is.
    hashes: BTreeMap<PeerHash, NodeId>,
    /// Keys of probes, for each session that is installed.
    keys: BTreeMap<SessionIndex, (NodeId, ProofKeys)>,
    /// The last question to each peer by the sleeve.
    questions: BTreeMap<NodeId, u64>,
    question: u64,
    flow: u32,
    found: Found,
    /// The kernel may have VXLAN devices.
    has_device: bool,
    /// What this host says of itself.
    said: Option<FastpathRecord>,
    /// The view that the shell has.
    shown: Option<View>,
    /// The verdicts on pairs may be others.
    look: bool,
    /// The view may be another one.
    changed: bool,
    /// When each peer last had frames, and how many it had then.
    traffic: BTreeMap<NodeId, (u64, Time)>,
}

impl Fastpath {
    pub(crate) fn new(config: FastpathConfig) -> Self {
        Self {
            settings: config.settings,
            config,
            paths: BTreeMap::new(),
            hashes: BTreeMap::new(),
            keys: BTreeMap::new(),
            questions: BTreeMap::new(),
            question: 0,
            flow: 0,
            found: Found::default(),
            has_device: false,
            said: None,
            shown: None,
            look: true,
            changed: true,
            traffic: BTreeMap::new(),
        }
    }

    /// Something changed on which verdicts depend.
    pub(crate) fn look_again(&mut self) {
        self.look = true;
    }

    /// Addresses have another place, or others are in use.
    pub(crate) fn macs_changed(&mut self) {
        self.changed = true;
    }

    /// This host is a new member: of its paths as the member before nothing holds.
    pub(crate) fn begin_again(&mut self) {
        self.paths.clear();
        self.hashes.clear();
        self.keys.clear();
        self.questions.clear();
        self.traffic.clear();
        self.said = None;
        // Those were the other cluster's.
        self.settings = Settings::default();
        (self.look, self.changed) = (true, true);
    }

    pub(crate) fn add_keys(&mut self, local: SessionIndex, peer: NodeId, keys: ProofKeys) {
        self.keys.insert(local, (peer, keys));
    }

    pub(crate) fn drop_keys(&mut self, local: SessionIndex) {
        self.keys.remove(&local);
    }

    fn ours(&self) -> Ours<'_> {
        Ours {
            wish: self.settings.encryption.value,
            ability: self.config.ability,
            port: self.config.port,
            trusted: &self.config.trusted,
        }
    }

    /// When something is due.
    pub(crate) fn timeout(&self) -> Time {
        let paths = self.paths.values().map(Path::poll_timeout).min();
        paths.unwrap_or(Time::NEVER).min(self.found.timeout())
    }
}

impl Node {
    /// What is known of a peer that decides about its path.
    fn verdict(&self, peer: &NodeId, sleeve: &Sleeve) -> Verdict {
        let record: Option<FastpathRecord> = self.mesh.registers().body(peer);
        let endpoints = self.mesh.peer_record(peer).map(|record| record.endpoints);
        let observed = match (sleeve.session, sleeve.relay, sleeve.endpoint) {
            // Of a membership before nothing is proved by the keys of this one.
            _ if sleeve.membership != self.membership => Observed::Nowhere,
            (Some(_), None, Some(at)) => Observed::At(at),
            (Some(_), Some(_), _) => Observed::ByRelay,
            _ => Observed::Nowhere,
        };
        judge(
            &self.fastpath.ours(),
            &Theirs {
                record: record.as_ref(),
                endpoints: endpoints.as_deref().unwrap_or_default(),
                observed,
                is_removed: self.mesh.is_removed(peer),
            },
        )
    }

    /// Says for each pair whether it may use the kernel, as of now.
    fn judge_all(&mut self, now: Time) {
        let everybody = self.mesh.members().len() <= FULL_MESH_MAX;
        let gone: Vec<NodeId> = self
            .fastpath
            .paths
            .keys()
            .filter(|peer| !self.paths.contains_key(peer))
            .copied()
            .collect();
        for peer in gone {
            self.fastpath.paths.remove(&peer);
            self.fastpath.hashes.remove(&peer.peer_hash());
            self.fastpath.questions.remove(&peer);
            self.fastpath.traffic.remove(&peer);
            self.fastpath.changed = true;
        }
        let said: Vec<(NodeId, Verdict, bool)> = self
            .paths
            .iter()
            .map(|(peer, sleeve)| {
                let lately = |(_, at): &(u64, Time)| now.since(*at) < IDLE_AFTER;
                let wanted = everybody || self.fastpath.traffic.get(peer).is_some_and(lately);
                (*peer, self.verdict(peer, sleeve), wanted)
            })
            .collect();
        for (peer, verdict, wanted) in said {
            self.path_input(now, &peer, PathInput::Verdict(verdict));
            self.path_input(now, &peer, PathInput::Wanted(wanted));
        }
    }

    fn ends(&self, peer: &NodeId) -> Ends {
        Ends {
            us: self.id().peer_hash(),
            them: peer.peer_hash(),
            boot: self.config.identity.boot_nonce,
        }
    }

    /// Gives a peer's path an input, and does what it says. A path begins with its first input.
    fn path_input(&mut self, now: Time, peer: &NodeId, input: PathInput<'_>) {
        let (ends, size) = (self.ends(peer), full_size(self.bridge_mtu()));
        let path = self
            .fastpath
            .paths
            .entry(*peer)
            .or_insert_with(|| Path::new(now, ends, size));
        self.fastpath.hashes.insert(ends.them, *peer);
        path.handle(now, input);
        self.pump(now, peer);
    }

    /// Does what a peer's path says.
    fn pump(&mut self, now: Time, peer: &NodeId) {
        loop {
            let Some(path) = self.fastpath.paths.get_mut(peer) else {
                return;
            };
            let to = path.probed_at();
            match path.poll_output() {
                None => return,
                Some(PathOutput::Send(probe)) => {
                    self.fastpath.flow = self.fastpath.flow.wrapping_add(1);
                    let session = self.paths.get(peer).and_then(|sleeve| sleeve.session);
                    let keys = session.and_then(|session| self.fastpath.keys.get(&session));
                    if let (Some(to), Some((_, keys))) = (to, keys) {
                        let frame = probe.build(&keys.send, self.fastpath.flow);
                        self.outputs.push_back(Output::KernelProbe { to, frame });
                    }
                }
                Some(PathOutput::AskSleeve) => self.ask_sleeve(peer),
                Some(PathOutput::Flipped) => {
                    self.fastpath.changed = true;
                    self.say_way(now, peer);
                }
            }
        }
    }

    fn ask_sleeve(&mut self, peer: &NodeId) {
        let Some(session) = self.paths.get(peer).and_then(|sleeve| sleeve.session) else {
            return;
        };
        self.fastpath.question += 1;
        let number = QUESTION | self.fastpath.question;
        self.fastpath.questions.insert(*peer, number);
        let probe = SleeveProbe {
            number,
            size: QUESTION_SIZE,
        };
        self.publish_if_changed();
        self.outputs
            .push_back(Output::Engine(EngineCommand::Probe(session, probe)));
    }

    /// Says once which way frames to a peer go from now on.
    fn say_way(&mut self, now: Time, peer: &NodeId) {
        let port = self.fastpath.config.port;
        let Some(path) = self.fastpath.paths.get(peer) else {
            return;
        };
        let (flipped, flips) = path.flips();
        if flips == 0 || flipped != now {
            return;
        }
        let sentence = match (path.carries(), path.why()) {
            (Some(to), _) => format!("frames go through the kernel, unencrypted, to {to} UDP port {port}"),
            (None, Some(Why::NoTraffic)) => return,
            (None, why) => {
                let why = why.map(|why| why.describe(port)).unwrap_or_default();
                format!("frames go by the sleeve again: {why}")
            }
        };
        let name = self.name_of(peer);
        let peer = *peer;
        self.outputs
            .push_back(Output::Notice(Notice::Fastpath { peer, name, sentence }));
    }

    /// A frame came in by the device of probes.
    pub(crate) fn on_kernel_probe(&mut self, now: Time, frame: &[u8]) {
        let Some(peer) = Probe::sender(frame).and_then(|hash| self.fastpath.hashes.get(&hash).copied())
        else {
            return;
        };
        let keys = self.fastpath.keys.values();
        let keys = keys.filter(|(of, _)| *of == peer).map(|(_, keys)| &keys.receive);
        if let Ok(probe) = Probe::open(frame, self.id().peer_hash(), keys) {
            self.path_input(now, &peer, PathInput::Heard(&probe));
        }
    }

    /// True when a sign of life was asked for, and this is it.
    pub(crate) fn on_sign_of_life(&mut self, now: Time, local: SessionIndex, probe: SleeveProbe) -> bool {
        if probe.number & QUESTION == 0 {
            return false;
        }
        let peer = self.fastpath.keys.get(&local).map(|(peer, _)| *peer);
        if let Some(peer) = peer
            && self.fastpath.questions.get(&peer) == Some(&probe.number)
        {
            self.path_input(now, &peer, PathInput::SleeveAnswered);
        }
        true
    }

    /// The kernel has lately sent frames to these addresses by VXLAN.
    pub(crate) fn on_kernel_used(&mut self, now: Time, macs: &[Mac]) {
        let peers: BTreeSet<NodeId> = macs.iter().filter_map(|mac| self.macs.touch(now, *mac)).collect();
        for peer in peers {
            let count = self.fastpath.traffic.get(&peer).map_or(0, |(count, _)| *count);
            self.fastpath.traffic.insert(peer, (count, now));
            if self.fastpath.paths.contains_key(&peer) {
                self.path_input(now, &peer, PathInput::Used);
            }
        }
    }

    /// Sessions of peers whose frames go through the kernel.
    pub fn fast_sessions(&self) -> Vec<SessionIndex> {
        let fast = self
            .fastpath
            .paths
            .iter()
            .filter(|(_, path)| path.carries().is_some());
        fast.filter_map(|(peer, _)| self.paths.get(peer)?.session)
            .collect()
    }

    /// Whether weft made this address, and where it lives so follows from its slot.
    pub fn is_weft_mac(&self, mac: Mac) -> bool {
        self.locator()
            .is_some_and(|locator| locator.weft_mac(mac).is_some())
    }

    /// The engine has so far sent so many frames under this session.
    pub(crate) fn on_sleeve_frames(&mut self, now: Time, local: SessionIndex, frames: u64) {
        let Some((peer, _)) = self.fastpath.keys.get(&local) else {
            return;
        };
        let (known, at) = self.fastpath.traffic.entry(*peer).or_insert((0, Time::ZERO));
        // A new session counts from nothing.
        if frames != *known {
            *known = frames;
            if now.since(*at) >= IDLE_AFTER || *at == Time::ZERO {
                self.fastpath.look = true;
            }
            *at = now;
        }
    }

    /// What the paths have to do at this time.
    pub(crate) fn fastpath_due(&mut self, now: Time) {
        let due: Vec<NodeId> = self
            .fastpath
            .paths
            .iter()
            .filter(|(_, path)| path.poll_timeout() <= now)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.path_input(now, &peer, PathInput::Timeout);
        }
        // Pairs fall idle without any event; it is looked at with what ages.
        if self.mesh.members().len() > FULL_MESH_MAX {
            self.fastpath.look = true;
        }
    }

    /// Follows sleeve, gossip and kernel. True when the mesh has something to send.
    pub(crate) fn follow_fastpath(&mut self, now: Time) -> bool {
        self.adopt_found(now);
        if core::mem::take(&mut self.fastpath.look) {
            self.judge_all(now);
        }
        if core::mem::take(&mut self.fastpath.changed) {
            self.show_kernel(now);
        }
        self.say_fastpath(now)
    }
}
