//! The node's part of the status.

use crate::families;
use crate::node::Node;
use crate::silence;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use weft_gossip::status::{LinkStage, LinkStatus};
use weft_sleeve::PeerView;
use weft_wire::api::{
    ClusterStatus, DiskStatus, IpamRange, IpamStatus, IpamSummary, LinkState, NodeRole, PeerStatus, Relayed,
    Status, TargetStatus, Traffic, UsedAddress, WaitingRequest,
};
use weft_wire::mtu::whole_mtu;
use weft_wire::{DropReason, NodeId, RejectReason, Time};

/// What the engine counted, as far as the status shows it.
pub struct EngineReport {
    /// Name of the engine.
    pub name: String,
    /// Sentences on what works less well than it could.
    pub degradations: Vec<String>,
    /// Drops by reason, `drops[r as usize]`.
    pub drops: [u64; DropReason::COUNT],
    /// Frames exchanged with each peer.
    pub traffic: BTreeMap<NodeId, Traffic>,
    /// What was passed on for others.
    pub relayed: Relayed,
}

impl Node {
    /// Everything that this node knows of itself; pods are the kernel's to tell.
    pub fn status(&self, now: Time, engine: &EngineReport) -> Status {
        let peers = self.peers(now, engine);
        let mut warnings = self.warnings.clone();
        warnings.extend(self.begins_again());
        warnings.extend(self.foreign_warnings(now));
        warnings.extend(self.claim_warnings());
        warnings.extend(engine.degradations.iter().cloned());
        if self.macs.refused() > 0 {
            warnings.push(format!(
                "more MAC addresses than this host remembers: {} times one was not learned, and frames to it go to \
                 every host",
                self.macs.refused()
            ));
        }
        warnings.extend(self.multicast_warning());
        Status {
            version: self.config.version.clone(),
            node: self.id().to_string(),
            name: self.config.identity.name.clone(),
            cluster: self.cluster(),
            encryption: self.encryption_sentence(&peers),
            pod_mtu: self.pod_mtu(),
            engine: engine.name.clone(),
            endpoints: self.config.endpoints.clone(),
            peers,
            ipam: self.ipam_summary(),
            pods: Vec::new(),
            targets: self.unreached(),
            drops: self.drops(engine),
            refusals: RejectReason::ALL
                .iter()
                .map(|reason| (reason.label().to_string(), self.mesh.refusals()[*reason as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            warnings,
            // The kernel's to tell, as pods are.
            firewall: Vec::new(),
            uptime_s: now.since_start().as_secs(),
            role: match self.config.role {
                weft_ipam_crdt::Role::Owner => NodeRole::Owner,
                weft_ipam_crdt::Role::Observer => NodeRole::Observer,
            },
            // The shell's to tell.
            disk: DiskStatus::default(),
            relayed: engine.relayed,
            encrypt: self.encryption_status(),
        }
    }

    /// Addresses that the operator named.
    pub fn targets(&self) -> Vec<String> {
        self.mesh
            .targets()
            .into_iter()
            .map(|target| target.target)
            .collect()
    }

    /// The address space, or none before this node is a member.
    pub fn ipam_status(&self, now: Time) -> Option<IpamStatus> {
        let member = self.member.as_ref()?;
        let summary = member.ipam.summary();
        let ranges = summary.ranges.into_iter().map(|range| IpamRange {
            first: range.first,
            last: range.last,
            owner: range.owner.to_string(),
            owner_name: self.owner_name(&range.owner),
            frozen: range.is_frozen,
        });
        Some(IpamStatus {
            range: member.space.range(),
            slot_size: member.space.slot_size(),
            ranges: ranges.collect(),
            owned: summary.counts.owned,
            free: summary.counts.free,
            used: summary
                .used
                .into_iter()
                .map(|(address, id)| UsedAddress { address, id })
                .collect(),
            lent: summary.counts.lent,
            borrowed: summary.counts.borrowed,
            resting: summary.counts.resting,
            waiting: self.waiting(),
            epoch: summary.epoch,
            epoch_members: summary.epoch_members,
            hindrance: member.ipam.hindrance(),
            total: u64::try_from(member.space.size()).unwrap_or(u64::MAX),
            owners: self.owners(now),
            unclaimed: self.unclaimed(),
            removals: self.removals(),
            removed: self.removed(),
            kept: self.kept(),
        })
    }

    /// The address space without its lists, which are long.
    fn ipam_summary(&self) -> Option<IpamSummary> {
        let ipam = &self.member.as_ref()?.ipam;
        let counts = ipam.counts();
        Some(IpamSummary {
            owned: counts.owned,
            free: counts.free,
            used: counts.used,
            lent: counts.lent,
            borrowed: counts.borrowed,
            resting: counts.resting,
            waiting: self.waiting(),
            hindrance: ipam.hindrance(),
        })
    }

    fn waiting(&self) -> Vec<WaitingRequest> {
        let waiting = self.member.iter().flat_map(|member| member.ipam.waiting());
        waiting
            .map(|(id, reason)| WaitingRequest {
                id: id.to_string(),
                reason: self.waits_for(&reason),
            })
            .collect()
    }

    fn cluster(&self) -> ClusterStatus {
        match &self.member {
            None => self.agreeing().unwrap_or(ClusterStatus::AwaitingAdmission),
            Some(member) => ClusterStatus::Member {
                genesis: member.genesis.to_string(),
                range: member.space.range(),
                members: u32::try_from(self.mesh.members().len()).unwrap_or(u32::MAX),
            },
        }
    }

    fn drops(&self, engine: &EngineReport) -> BTreeMap<String, u64> {
        DropReason::ALL
            .iter()
            .map(|reason| {
                let passed = self.mesh.pass_drops().get(reason).copied().unwrap_or_default();
                let count = engine.drops[*reason as usize]
                    .saturating_add(self.sleeve_drops[*reason as usize])
                    .saturating_add(passed);
                (reason.label().to_string(), count)
            })
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    fn unreached(&self) -> Vec<TargetStatus> {
        let unreached = self
            .mesh
            .targets()
            .into_iter()
            .filter(|target| !target.connected && target.retried && target.node != Some(self.id()));
        unreached
            .map(|target| TargetStatus {
                target: target.target,
                reason: target
                    .failure
                    .map_or_else(|| "being tried".to_string(), |failure| failure.to_string()),
            })
            .collect()
    }

    fn peers(&self, now: Time, engine: &EngineReport) -> Vec<PeerStatus> {
        let mut links: BTreeMap<NodeId, LinkStatus> = BTreeMap::new();
        for link in self.mesh.links() {
            let Some(node) = link.node else { continue };
            // Of several connections to one peer the one that has come furthest is shown.
            let further = links.get(&node).is_none_or(|known| {
                (known.stage == LinkStage::Closing)
                    || (link.stage > known.stage && link.stage != LinkStage::Closing)
            });
            if further {
                links.insert(node, link);
            }
        }
        let views: BTreeMap<NodeId, PeerView> = match &self.member {
            Some(member) => member.sleeve.peers().map(|view| (view.node, view)).collect(),
            None => BTreeMap::new(),
        };
        let mut ids: BTreeSet<NodeId> = self.mesh.members().into_iter().collect();
        ids.extend(links.keys().copied());
        ids.remove(&self.id());
        // One that was removed and does not know it may have a link.
        ids.retain(|peer| !self.mesh.is_removed(peer));
        let mut peers: Vec<PeerStatus> = ids
            .iter()
            .map(|peer| self.peer(now, peer, links.get(peer), views.get(peer), engine))
            .collect();
        peers.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        peers
    }

    fn peer(
        &self,
        now: Time,
        peer: &NodeId,
        link: Option<&LinkStatus>,
        view: Option<&PeerView>,
        engine: &EngineReport,
    ) -> PeerStatus {
        let path = self.paths.get(peer);
        let session = path.and_then(|path| path.session);
        let relay = path.filter(|_| session.is_some()).and_then(|path| path.relay);
        let record = self.mesh.peer_record(peer);
        // What works needs no explanation.
        let unreached = record.as_ref().filter(|_| session.is_none());
        let apart =
            unreached.and_then(|record| families::none_in_common(&self.config.endpoints, &record.endpoints));
        let mut reason = self.reason(path.and_then(|path| path.down).map(|why| why.to_string()), view);
        if let Some(relay) = relay {
            reason = format!(
                "via {}: it does not answer straight, which is tried again and again; {reason}",
                self.name_of(&relay)
            );
        }
        let silence = self.silence_of(now, peer);
        let fastpath = self.fastpath_status(now, peer);
        let is_fast = fastpath.as_ref().is_some_and(|path| path.address.is_some());
        let linked_name = link.map(|link| link.name.clone()).unwrap_or_default();
        let mtu = record.as_ref().map(|record| {
            let smaller = record.underlay_mtu.min(self.config.underlay_mtu);
            // whole_mtu never exceeds its argument.
            whole_mtu(usize::from(smaller)) as u16
        });
        PeerStatus {
            node: peer.to_string(),
            name: record.map_or(linked_name, |record| record.name),
            mesh: match link.map(|link| link.stage) {
                Some(LinkStage::Up) => LinkState::Up,
                Some(LinkStage::Connecting | LinkStage::Handshaking | LinkStage::Joining) => {
                    LinkState::Connecting
                }
                Some(LinkStage::Closing) | None => LinkState::Down,
            },
            mesh_rtt_us: link
                .and_then(|link| link.rtt)
                .and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            mode: match (is_fast, session, relay) {
                (true, _, _) => "fastpath",
                (false, Some(_), None) => "sleeve",
                (false, Some(_), Some(_)) => "relay",
                (false, None, _) => "none",
            }
            .to_string(),
            reason: [Some(reason), apart, silence.as_ref().map(silence::words)]
                .into_iter()
                .flatten()
                .collect::<Vec<String>>()
                .join("; "),
            encrypted: session.is_some() && !is_fast,
            cipher: view
                .and_then(|view| view.cipher)
                .map(|cipher| cipher.label().to_string()),
            mtu,
            endpoint: path.and_then(|path| self.next_hop(path)),
            path_mtu: view.and_then(|view| view.path_mtu),
            since_s: path.map_or(0, |path| now.since(path.since).as_secs()),
            traffic: engine.traffic.get(peer).copied().unwrap_or_default(),
            silence,
            relay: relay.map(|relay| self.name_of(&relay)),
            fastpath,
        }
    }

    /// Why frames travel as they do, in words.
    fn reason(&self, down: Option<String>, view: Option<&PeerView>) -> String {
        let Some(view) = view else {
            return "where it listens is not known yet".to_string();
        };
        let mut reason = view.state.describe().to_string();
        if let Some(error) = view.last_error {
            reason = format!("{reason}; last handshake: {error}");
        }
        match down {
            Some(down) => format!("{down} Now: {reason}"),
            None => reason,
        }
    }
}
