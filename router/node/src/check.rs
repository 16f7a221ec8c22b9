//! The node's part of `weft ipam check`, and of `weft ipam`: what it knows of the owners of the range.

use crate::node::Node;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use weft_ipam_crdt::mac::weft_mac;
use weft_ipam_crdt::{AddressSpace, Held, IpamState};
use weft_wire::api::{IpamFinding, IpamOwner};
use weft_wire::ipam::SlotsRecord;
use weft_wire::record::Body as _;
use weft_wire::{GenesisId, Mac, NodeId, Time};

/// What the node has to say for a check; the kernel and the disk are the shell's to compare with it.
pub struct Checked {
    /// What is wrong within the node.
    pub findings: Vec<IpamFinding>,
    /// Addresses of each pod.
    pub pods: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Addresses held for whatever reason.
    pub addresses: u64,
    /// Other hosts whose records were compared.
    pub hosts: u64,
    /// Where the addresses that were asked for live, in words.
    pub places: BTreeMap<IpAddr, String>,
    /// The address state.
    pub state: IpamState,
    /// The range.
    pub space: AddressSpace,
    /// The cluster.
    pub genesis: GenesisId,
}

impl Checked {
    /// The MAC address that an interface with this address has.
    pub fn mac(&self, address: IpAddr) -> Option<Mac> {
        weft_mac(&self.genesis, &self.space, address)
    }
}

impl Node {
    /// Checks the address space, and looks up where `asked` live; `None` before this node is a member.
    pub fn check(&self, now: Time, asked: &[IpAddr]) -> Option<Checked> {
        let member = self.member.as_ref()?;
        let records = self.mesh.registers();
        let name = |node: &NodeId| self.owner_name(node);
        let found = member.ipam.check(records.iter().map(|(_, envelope)| envelope));
        let mut findings: Vec<IpamFinding> = found
            .iter()
            .map(|finding| IpamFinding {
                kind: finding.kind().to_string(),
                wrong: finding.is_wrong(),
                what: finding.what(&name),
                cure: finding.cure(&name),
            })
            .collect();
        let state = member.ipam.state();
        let mut pods: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
        for (offset, held) in state.addresses() {
            let (Held::Pod(id) | Held::Borrowed { id, .. }) = held else {
                continue;
            };
            let Some(address) = member.space.address(*offset) else {
                continue;
            };
            pods.entry(id.clone()).or_default().insert(address);
            let mac = weft_mac(&member.genesis, &member.space, address);
            if let Some(peer) = mac.and_then(|mac| self.contested.of(now, mac)) {
                findings.push(IpamFinding {
                    kind: "seen-elsewhere".to_string(),
                    wrong: true,
                    what: format!(
                        "{id} has {address}, and frames from its MAC address come from host {} as well",
                        name(&peer)
                    ),
                    cure: format!(
                        "run `weft ipam check` on {}: something there has the address too, or the bridges of both hosts are \
                         joined outside the overlay",
                        name(&peer)
                    ),
                });
            }
        }
        let others = records
            .of_kind(SlotsRecord::KIND)
            .filter(|envelope| envelope.key().owner != self.id());
        // What pods have from before counts as theirs: the status names what is wrong with it.
        for (claim, _) in self.claims.open() {
            pods.entry(claim.id.clone()).or_default().insert(claim.address);
        }
        Some(Checked {
            findings,
            pods,
            addresses: state.addresses().len() as u64,
            hosts: others.count() as u64,
            places: asked
                .iter()
                .map(|address| (*address, self.lookup(*address)))
                .collect(),
            state: state.clone(),
            space: member.space,
            genesis: member.genesis,
        })
    }

    /// Nickname of any host, this one included.
    pub(crate) fn owner_name(&self, node: &NodeId) -> String {
        if *node == self.id() {
            self.config.identity.name.clone()
        } else {
            self.name_of(node)
        }
    }

    /// Who owns how much of the range: this host, then those out of reach, then the others.
    pub(crate) fn owners(&self, now: Time) -> Vec<IpamOwner> {
        let Some(member) = &self.member else {
            return Vec::new();
        };
        let ipam = &member.ipam;
        let in_reach = self.mesh.in_reach();
        let mut owners: Vec<IpamOwner> = ipam
            .holdings()
            .into_iter()
            .map(|holding| {
                let (here, path) = (holding.node == self.id(), self.paths.get(&holding.node));
                let reachable = here
                    || in_reach.contains(&holding.node)
                    || path.is_some_and(|path| path.session.is_some());
                let silent = || path.map_or(now.since_start(), |path| now.since(path.since));
                IpamOwner {
                    node: holding.node.to_string(),
                    name: self.owner_name(&holding.node),
                    here,
                    voter: ipam.state().members().contains(&holding.node),
                    addresses: holding.addresses,
                    frozen: holding.frozen,
                    free: holding.free,
                    lent: holding.lent,
                    borrowed: holding.borrowed,
                    reachable,
                    silent_s: (!reachable).then(|| silent().as_secs()),
                }
            })
            .collect();
        owners.sort_by(|a, b| {
            let rank =
                |owner: &IpamOwner| (!owner.here, owner.reachable, core::cmp::Reverse(owner.addresses));
            (rank(a), &a.name, &a.node).cmp(&(rank(b), &b.name, &b.node))
        });
        owners
    }
}
