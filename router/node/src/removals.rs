//! Removing hosts: which ones somebody means, and how far it is, in words.

use crate::node::Node;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use weft_gossip::status::LinkStage;
use weft_ipam_crdt::{Removal, RemovalPhase};
use weft_wire::NodeId;
use weft_wire::api::{HostName, RemovalStatus, RemoveRequest};

/// Digits of an id that name a host at least: nobody types fewer by mistake and hits one.
const ID_DIGITS_MIN: usize = 8;

impl Node {
    /// The hosts that somebody names to be removed.
    ///
    /// # Errors
    /// A sentence: one of them is nobody, several, this host, or connected although that was not said to be meant.
    pub fn to_remove(&self, request: &RemoveRequest) -> Result<Vec<NodeId>, String> {
        let hosts = self.hosts_named(&request.hosts)?;
        if hosts.contains(&self.id()) {
            return Err(format!(
                "{} is this host: `weft down --leave` takes it out of the cluster, or remove it on another host",
                self.config.identity.name
            ));
        }
        let links = self.mesh.links();
        let is_linked = |host: &&NodeId| {
            let mut to = links.iter().filter(|link| link.node == Some(**host));
            to.any(|link| link.stage == LinkStage::Up)
        };
        let linked: Vec<String> = hosts
            .iter()
            .filter(is_linked)
            .map(|host| self.name_of(host))
            .collect();
        match linked.as_slice() {
            [] => Ok(hosts),
            _ if request.force && !request.fenced => Ok(hosts),
            names if request.force => Err(format!(
                "{} is connected just now, so nobody can vouch that it is off: stop it first, or remove it without --fenced",
                names.join(", ")
            )),
            names => Err(format!(
                "{} is connected just now, and would lose its addresses while its pods run: stop it with `weft down \
                 --leave` there, or name it again with --force",
                names.join(", ")
            )),
        }
    }

    /// The hosts that somebody names.
    ///
    /// # Errors
    /// A sentence: one of the names is nobody's, or several hosts have it.
    pub fn hosts_named(&self, names: &[String]) -> Result<Vec<NodeId>, String> {
        if names.is_empty() {
            return Err("name the hosts".into());
        }
        let mut known = self.mesh.members();
        known.extend(
            self.member
                .iter()
                .flat_map(|member| member.ipam.removed().keys().copied()),
        );
        let epoch = self
            .member
            .iter()
            .flat_map(|member| member.ipam.state().members());
        known.extend(epoch.copied());
        known.sort();
        known.dedup();
        let find = |text: &String| {
            let is_it = |host: &&NodeId| {
                let by_id = text.len() >= ID_DIGITS_MIN && host.to_string().starts_with(&text.to_lowercase());
                by_id || self.host_name(host).name == *text
            };
            match known.iter().filter(is_it).collect::<Vec<_>>().as_slice() {
                [host] => Ok(**host),
                [] => Err(format!(
                    "no host of this cluster is called {text}: `weft peers` names them"
                )),
                several => {
                    let ids: Vec<String> = several.iter().map(|host| host.short()).collect();
                    Err(format!(
                        "{text} may be any of {}: name it by its id",
                        ids.join(", ")
                    ))
                }
            }
        };
        let mut hosts = names.iter().map(find).collect::<Result<Vec<NodeId>, String>>()?;
        hosts.sort();
        hosts.dedup();
        Ok(hosts)
    }

    /// A host by its names, also one that was removed.
    pub fn host_name(&self, host: &NodeId) -> HostName {
        let removed = self.mesh.removed_name(host);
        HostName {
            node: host.to_string(),
            name: removed.unwrap_or_else(|| match *host == self.id() {
                true => self.config.identity.name.clone(),
                false => self.name_of(host),
            }),
        }
    }

    /// Removals that are not finished.
    pub(crate) fn removals(&self) -> Vec<RemovalStatus> {
        let removals = self.member.iter().flat_map(|member| member.ipam.removals());
        removals.map(|removal| self.removal_status(removal)).collect()
    }

    /// Hosts that were removed.
    pub(crate) fn removed(&self) -> Vec<HostName> {
        let removed = self.member.iter().flat_map(|member| member.ipam.removed().keys());
        removed.map(|host| self.host_name(host)).collect()
    }

    fn removal_status(&self, removal: Removal) -> RemovalStatus {
        let names = |hosts: &[NodeId]| {
            let mut names: Vec<HostName> = hosts.iter().map(|host| self.host_name(host)).collect();
            names.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
            names
        };
        let join = |names: &[HostName]| {
            let names: Vec<&str> = names.iter().map(|host| host.name.as_str()).collect();
            names.join(", ")
        };
        let (epoch, slots, missing, waits_for) = match &removal.phase {
            RemovalPhase::AwaitingMajority { needed, missing } => {
                let missing = names(missing);
                let words = match missing.as_slice() {
                    [] => "the members decide it just now".to_string(),
                    some => format!("{needed} votes decide it, and these are missing: {}", join(some)),
                };
                (None, 0, missing, words)
            }
            RemovalPhase::AwaitingPromises {
                epoch,
                reclaimer,
                missing,
                more,
                slots,
            } => {
                let missing = names(missing);
                let reclaimer = self.host_name(reclaimer).name;
                let words = match missing.as_slice() {
                    [] => format!("{reclaimer} takes over the last {slots} slots"),
                    some => {
                        let more = if *more > 0 {
                            format!(" and {more} more")
                        } else {
                            String::new()
                        };
                        format!(
                            "{reclaimer} takes over {slots} slots once these have said that they have none of them: {}{more}",
                            join(some)
                        )
                    }
                };
                (Some(*epoch), *slots, missing, words)
            }
        };
        RemovalStatus {
            hosts: names(&removal.hosts),
            fenced: removal.fenced,
            epoch,
            slots,
            missing,
            waits_for,
        }
    }
}
