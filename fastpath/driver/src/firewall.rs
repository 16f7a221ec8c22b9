//! The rules of ours in the host's packet filters: read, apply, and wake up when somebody changes rules.

use std::io;

use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket, protocols::NETLINK_NETFILTER};
use weft_fastpath::firewall::{
    Chain, ChainId, Filter, Finding, Meets, Names, Owner, Pass, Repair, Rule, Ruleset, Verdict, findings,
    repairs, withdrawal,
};
use weft_kernel::nft::{self, Condition, ForwardChain, Pattern, Policy};
use weft_kernel::xtables::{self, Version};
use weft_kernel::{attach, sysctl};

use crate::driver::{Driver, Error, Result};

/// Comment of every rule of ours. It tells them apart from all others, also those of an older version, so it never changes.
const MARK: &str = "weft: frames between pods";
/// Inserting a rule makes no other one necessary, so one round is enough; a second meets what changed meanwhile.
const ROUNDS: usize = 2;

/// The kernel puts no more than two pages of events into a datagram.
const EVENT_BUFFER: usize = 32 * 1024;

/// What a [`Driver::guard`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The changes made, in order; empty when everything was as it should be.
    pub repairs: Vec<Repair>,
    /// What the operator should know, in words.
    pub findings: Vec<String>,
}

impl Driver {
    /// Lets frames between pods pass the chains that drop by policy what is forwarded, by rules of our own there, and
    /// takes these rules out of all others. A second call changes nothing.
    ///
    /// # Errors
    /// When the packet filters cannot be read. A change that the kernel refuses is among the findings.
    pub async fn guard(&self) -> Result<Guarded> {
        let driver = self.clone();
        tokio::task::spawn_blocking(move || driver.guard_blocking())
            .await
            .map_err(|_| Error::ShutDown)?
    }

    /// [`Driver::guard`] on the calling thread.
    ///
    /// # Errors
    /// As [`Driver::guard`].
    pub fn guard_blocking(&self) -> Result<Guarded> {
        let mut done = Guarded::default();
        let mut refusals = Vec::new();
        let mut found = self.read_filters()?;
        for _ in 0..ROUNDS {
            let wanted = repairs(&found);
            if wanted.is_empty() {
                break;
            }
            refusals.clear();
            for repair in wanted {
                match self.repair(&repair) {
                    Ok(()) => done.repairs.push(repair),
                    Err(error) => refusals.push(self.explain(&repair, &error)),
                }
            }
            found = self.read_filters()?;
        }
        let names = self.names();
        done.findings = findings(&found)
            .iter()
            .map(|finding: &Finding| finding.describe(&names))
            .chain(refusals)
            .collect();
        Ok(done)
    }

    /// Removes every rule of ours, whatever chain it is in; says in how many chains there was one.
    ///
    /// # Errors
    /// When the packet filters cannot be read, or the kernel refuses.
    pub fn unguard_blocking(&self) -> Result<usize> {
        let repairs = withdrawal(&self.read_filters()?);
        repairs.iter().try_for_each(|repair| self.repair(repair))?;
        Ok(repairs.len())
    }

    /// The packet filters as they are.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read_filters(&self) -> Result<Ruleset> {
        let mut ruleset = Ruleset {
            sees_ipv4: shown("iptables")?,
            sees_ipv6: shown("ip6tables")?,
            ..Ruleset::default()
        };
        for chain in nft::forward_chains()? {
            let id = id_of(&chain);
            let rules = nft::rules(&chain)?;
            let rules = rules
                .iter()
                .map(|rule| self.understand(rule, id.filter))
                .collect();
            let drops = chain.policy == Policy::Drop;
            ruleset.chains.insert(id, Chain { drops, rules });
        }
        for (version, filter) in [(Version::V4, Filter::LegacyIp), (Version::V6, Filter::LegacyIp6)] {
            if let Some(chain) = xtables::forward(version)? {
                let id = ChainId {
                    filter,
                    table: "filter".into(),
                    name: "FORWARD".into(),
                };
                let rules = chain
                    .rules
                    .iter()
                    .map(|rule| self.understand(rule, filter))
                    .collect();
                let drops = chain.policy == Policy::Drop;
                ruleset.chains.insert(id, Chain { drops, rules });
            }
        }
        Ok(ruleset)
    }

    fn explain(&self, repair: &Repair, error: &Error) -> String {
        let (Repair::Withdraw(id) | Repair::Allow(id, _)) = repair;
        match error {
            // Whoever reads chains may change them, unless a running program owns the table.
            Error::Kernel(kernel) if kernel.is_not_permitted() => format!(
                "the program that made {} lets nobody else change it: have it accept what comes in and goes out by {bridge}, \
                 with firewalld for example by firewall-cmd --permanent --zone=trusted --add-interface={bridge}",
                id.describe(),
                bridge = self.bridge(),
            ),
            other => other.to_string(),
        }
    }

    fn repair(&self, repair: &Repair) -> Result<()> {
        match repair {
            Repair::Withdraw(id) => match place(id) {
                Place::Legacy(version) => drop(xtables::delete_marked(version, MARK)?),
                Place::Tables(chain) => {
                    let rules = nft::rules(&chain)?;
                    for rule in rules.iter().filter(|rule| rule.comment.as_deref() == Some(MARK)) {
                        nft::delete_rule(&chain, rule.handle)?;
                    }
                }
            },
            Repair::Allow(id, pass) => {
                let conditions = self.conditions(*pass);
                match place(id) {
                    Place::Legacy(version) => xtables::insert_accept(version, &conditions, MARK)?,
                    Place::Tables(chain) => nft::insert_accept(&chain, &conditions, MARK)?,
                }
            }
        }
        Ok(())
    }

    /// What a rule of ours asks of a packet.
    fn conditions(&self, pass: Pass) -> Vec<Condition> {
        let exactly = |name: &str| Pattern::Exactly(name.to_owned());
        match pass {
            Pass::Overlay => vec![
                Condition::In(exactly(self.bridge())),
                Condition::Out(exactly(self.bridge())),
            ],
            Pass::FromTap => vec![Condition::In(exactly(self.tap()))],
            Pass::FromVxlan => vec![Condition::In(Pattern::Prefix(self.vxlan_ports().to_owned()))],
            Pass::FromPods => vec![Condition::In(Pattern::Prefix(attach::HOST_PREFIX.to_owned()))],
        }
    }

    fn understand(&self, rule: &nft::Rule, filter: Filter) -> Rule {
        let verdict = match rule.verdict {
            nft::Verdict::Accept => Verdict::Accept,
            nft::Verdict::Drop => Verdict::Drop,
            nft::Verdict::Continue => Verdict::Continue,
            nft::Verdict::Elsewhere => Verdict::Elsewhere,
        };
        let owner = if rule.comment.as_deref() == Some(MARK) {
            let is_this =
                |pass: &&Pass| verdict == Verdict::Accept && rule.conditions == self.conditions(**pass);
            filter
                .passes()
                .iter()
                .find(is_this)
                .map_or(Owner::WeftStale, |pass| Owner::Weft(*pass))
        } else {
            Owner::Other
        };
        let meets = rule
            .conditions
            .iter()
            .map(|condition| self.meets(condition, filter))
            .fold(Meets::All, |all, one| match (all, one) {
                (Meets::None, _) | (_, Meets::None) => Meets::None,
                (Meets::All, Meets::All) => Meets::All,
                _ => Meets::Perhaps,
            });
        Rule {
            owner,
            meets,
            verdict,
        }
    }

    /// Packets in bridged frames come in by the bridge and go out by it. A filter for bridges sees ports instead: each
    /// frame between pods has two, so no condition on one holds for all.
    fn meets(&self, condition: &Condition, filter: Filter) -> Meets {
        let (Condition::In(pattern) | Condition::Out(pattern)) = condition else {
            return Meets::Perhaps;
        };
        let fits = |name: &str| match pattern {
            Pattern::Exactly(exact) => exact == name,
            Pattern::Prefix(prefix) => name.starts_with(prefix.as_str()),
        };
        if filter == Filter::Bridge {
            Meets::Perhaps
        } else if fits(self.bridge()) {
            Meets::All
        } else {
            Meets::None
        }
    }

    fn names(&self) -> Names<'_> {
        Names {
            bridge: self.bridge(),
            tap: self.tap(),
            vxlan: self.vxlan_ports(),
            pods: attach::HOST_PREFIX,
            mark: MARK,
        }
    }
}

/// Which call changes a chain.
enum Place {
    Tables(ForwardChain),
    Legacy(Version),
}

fn place(id: &ChainId) -> Place {
    let family = match id.filter {
        Filter::LegacyIp => return Place::Legacy(Version::V4),
        Filter::LegacyIp6 => return Place::Legacy(Version::V6),
        Filter::Ip => nft::Family::Ip,
        Filter::Ip6 => nft::Family::Ip6,
        Filter::Inet => nft::Family::Inet,
        Filter::Bridge => nft::Family::Bridge,
    };
    Place::Tables(ForwardChain {
        family,
        table: id.table.clone(),
        name: id.name.clone(),
        policy: Policy::Drop,
    })
}

fn id_of(chain: &ForwardChain) -> ChainId {
    ChainId {
        filter: match chain.family {
            nft::Family::Ip => Filter::Ip,
            nft::Family::Ip6 => Filter::Ip6,
            nft::Family::Inet => Filter::Inet,
            nft::Family::Bridge => Filter::Bridge,
        },
        table: chain.table.clone(),
        name: chain.name.clone(),
    }
}

/// Whether bridged frames are shown to the packet filters; they are not while br_netfilter is not loaded.
fn shown(tables: &str) -> Result<bool> {
    let parameter = format!("net/bridge/bridge-nf-call-{tables}");
    Ok(sysctl::exists(&parameter) && sysctl::get(&parameter)? != "0")
}

/// Wakes up when somebody, this program included, changes tables, chains or rules of nf_tables. The kernel tells
/// nothing about iptables-legacy: that is for a regular look.
pub struct FirewallWatch {
    /// None where the kernel has no nf_tables.
    socket: Option<TokioSocket>,
    buffer: Vec<u8>,
}

impl FirewallWatch {
    /// Starts to watch, in the network namespace of the calling thread, inside a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let socket = if nft::is_available() {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_mut().add_membership(nft::EVENTS_GROUP)?;
            Some(socket)
        } else {
            None
        };
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(EVENT_BUFFER),
        })
    }

    /// Waits for the next change since the last call returned; for ever where there can be none.
    ///
    /// # Errors
    /// When the socket fails, or events were lost for want of room; then open a new watch and look.
    pub async fn changed(&mut self) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
        loop {
            self.buffer.clear();
            socket.recv(&mut self.buffer).await?;
            if nft::changes_rules(&self.buffer) {
                return Ok(());
            }
        }
    }
}
