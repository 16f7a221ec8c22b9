//! What the host's packet filters do to frames between pods, and the rules that let them pass.
//!
//! With br_netfilter on, the kernel shows IPv4 and IPv6 packets inside bridged frames to the chains of the hook
//! forward, and an `accept` in one chain does not undo the `drop` of another. So where a chain drops by
//! its policy, what belongs to the overlay is accepted in that chain, by marked rules. Rules of others are never undone.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Which part of the kernel a chain belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// nf_tables, IPv4; `iptables-nft` is one of those who make such chains.
    Ip,
    /// nf_tables, IPv6.
    Ip6,
    /// nf_tables, both.
    Inet,
    /// nf_tables, frames on bridges, whether br_netfilter is on or not.
    Bridge,
    /// iptables-legacy, IPv4.
    LegacyIp,
    /// iptables-legacy, IPv6.
    LegacyIp6,
}

/// A chain of the hook forward.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Where it is.
    pub filter: Filter,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// What a rule of ours lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// What comes in by the bridge and goes out by it.
    Overlay,
    /// Frames that come from the TAP. On bridges, a chain sees the names of ports.
    FromTap,
    /// Frames that come from VXLAN devices.
    FromVxlan,
    /// Frames that come from pods.
    FromPods,
}

/// Whose a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours, as it should be.
    Weft(Pass),
    /// It carries our mark and says something else than our rules do.
    WeftStale,
    /// Somebody else's.
    Other,
}

/// How many of the frames between pods fulfil a rule's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// All.
    All,
    /// None.
    None,
    /// Some, or it is not understood.
    Perhaps,
}

/// Where a rule leads what fulfils its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this chain.
    Accept,
    /// It is dropped, with an answer or without.
    Drop,
    /// To the next rule.
    Continue,
    /// Another chain decides, or something not understood.
    Elsewhere,
}

/// A rule of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose it is.
    pub owner: Owner,
    /// Whom it is about.
    pub meets: Meets,
    /// What it does.
    pub verdict: Verdict,
}

/// A chain with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// True when its policy is to drop what no rule decides about.
    pub drops: bool,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// The packet filters of a host, as far as they see what is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// br_netfilter shows IPv4 in bridged frames to the filters.
    pub sees_ipv4: bool,
    /// And IPv6.
    pub sees_ipv6: bool,
    /// Every base chain of the hook forward.
    pub chains: BTreeMap<ChainId, Chain>,
}

/// A change to a chain. [`Ruleset::apply`] says what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Remove every rule with our mark.
    Withdraw(ChainId),
    /// Put a marked rule at the head that accepts this.
    Allow(ChainId, Pass),
}

/// Something that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The chain drops by policy; our rules are in it.
    Repaired(ChainId),
    /// The chain drops by policy, and our rules are not in it.
    DroppedByPolicy(ChainId),
    /// The chain has a rule that drops every frame between pods.
    DroppedByRule(ChainId),
}

/// Names of devices, as sentences need them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// The bridge.
    pub bridge: &'a str,
    /// The TAP.
    pub tap: &'a str,
    /// How the VXLAN ports begin.
    pub vxlan: &'a str,
    /// How the pods' ports begin.
    pub pods: &'a str,
    /// The mark: comment of our rules.
    pub mark: &'a str,
}

/// What a chain does to frames between pods.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Pass,
    DropByPolicy,
    DropByRule,
    /// It depends on rules that are not understood.
    Open,
}

impl Filter {
    /// The rules that together cover every frame between pods.
    #[must_use]
    pub fn passes(self) -> &'static [Pass] {
        match self {
            Self::Bridge => &[Pass::FromTap, Pass::FromVxlan, Pass::FromPods],
            Self::Ip | Self::Ip6 | Self::Inet | Self::LegacyIp | Self::LegacyIp6 => &[Pass::Overlay],
        }
    }
}

impl Ruleset {
    fn sees_frames(&self, filter: Filter) -> bool {
        match filter {
            Filter::Ip | Filter::LegacyIp => self.sees_ipv4,
            Filter::Ip6 | Filter::LegacyIp6 => self.sees_ipv6,
            Filter::Inet => self.sees_ipv4 || self.sees_ipv6,
            Filter::Bridge => true,
        }
    }

    /// Rules of ours that a chain should hold: none where it lets the frames pass without them.
    fn wanted(&self, id: &ChainId, chain: &Chain) -> &'static [Pass] {
        let needed = self.sees_frames(id.filter)
            && chain.drops
            && fate(id.filter, chain, |rule| rule.owner == Owner::Other) != Fate::Pass;
        if needed { id.filter.passes() } else { &[] }
    }

    /// The packet filters after `repair`.
    pub fn apply(&mut self, repair: &Repair) {
        match repair {
            Repair::Withdraw(id) => {
                if let Some(chain) = self.chains.get_mut(id) {
                    chain.rules.retain(|rule| rule.owner == Owner::Other);
                }
            }
            Repair::Allow(id, pass) => {
                let rule = Rule {
                    owner: Owner::Weft(*pass),
                    meets: if id.filter.passes() == [*pass] {
                        Meets::All
                    } else {
                        Meets::Perhaps
                    },
                    verdict: Verdict::Accept,
                };
                if let Some(chain) = self.chains.get_mut(id) {
                    chain.rules.insert(0, rule);
                }
            }
        }
    }
}

/// What to do so that chains which drop by policy let frames between pods pass, and no other holds a rule of
/// ours. Empty when nothing is to be done.
#[must_use]
pub fn repairs(ruleset: &Ruleset) -> Vec<Repair> {
    let mut repairs = Vec::new();
    for (id, chain) in &ruleset.chains {
        let wanted = ruleset.wanted(id, chain);
        let mut held = BTreeSet::new();
        let mut is_spoilt = false;
        for rule in &chain.rules {
            match rule.owner {
                Owner::Weft(pass) => is_spoilt |= !wanted.contains(&pass) || !held.insert(pass),
                Owner::WeftStale => is_spoilt = true,
                Owner::Other => {}
            }
        }
        if is_spoilt {
            repairs.push(Repair::Withdraw(id.clone()));
            held.clear();
        }
        repairs.extend(
            wanted
                .iter()
                .filter(|pass| !held.contains(pass))
                .map(|pass| Repair::Allow(id.clone(), *pass)),
        );
    }
    repairs
}

/// What removes every rule of ours.
#[must_use]
pub fn withdrawal(ruleset: &Ruleset) -> Vec<Repair> {
    let marked = ruleset
        .chains
        .iter()
        .filter(|(_, chain)| chain.rules.iter().any(|rule| rule.owner != Owner::Other));
    marked.map(|(id, _)| Repair::Withdraw(id.clone())).collect()
}

/// What of this ruleset concerns the operator, chain by chain. What only might hit frames between pods is not in it.
#[must_use]
pub fn findings(ruleset: &Ruleset) -> Vec<Finding> {
    let seen = ruleset
        .chains
        .iter()
        .filter(|(id, _)| ruleset.sees_frames(id.filter));
    seen.filter_map(|(id, chain)| match fate(id.filter, chain, |_| true) {
        Fate::Pass if !ruleset.wanted(id, chain).is_empty() => Some(Finding::Repaired(id.clone())),
        Fate::DropByPolicy => Some(Finding::DroppedByPolicy(id.clone())),
        Fate::DropByRule => Some(Finding::DroppedByRule(id.clone())),
        Fate::Pass | Fate::Open => None,
    })
    .collect()
}

/// Follows the rules that count.
fn fate(filter: Filter, chain: &Chain, counts: impl Fn(&Rule) -> bool) -> Fate {
    let mut missing: BTreeSet<Pass> = filter.passes().iter().copied().collect();
    for rule in chain.rules.iter().filter(|rule| counts(rule)) {
        if let Owner::Weft(pass) = rule.owner {
            missing.remove(&pass);
            if missing.is_empty() {
                return Fate::Pass;
            }
            continue;
        }
        match (rule.meets, rule.verdict) {
            (Meets::None, _) | (_, Verdict::Continue) => {}
            (Meets::All, Verdict::Accept) => return Fate::Pass,
            (Meets::All, Verdict::Drop) => return Fate::DropByRule,
            // What it drops, no later rule gets; what it does not, one may.
            (Meets::Perhaps, Verdict::Drop) => {}
            (_, Verdict::Elsewhere) | (Meets::Perhaps, Verdict::Accept) => return Fate::Open,
        }
    }
    if chain.drops {
        Fate::DropByPolicy
    } else {
        Fate::Pass
    }
}

impl ChainId {
    /// The chain in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let (table, name) = (&self.table, &self.name);
        match self.filter {
            Filter::Ip => format!("chain {name} of table ip {table}"),
            Filter::Ip6 => format!("chain {name} of table ip6 {table}"),
            Filter::Inet => format!("chain {name} of table inet {table}"),
            Filter::Bridge => format!("chain {name} of table bridge {table}"),
            Filter::LegacyIp => format!("chain {name} of iptables-legacy"),
            Filter::LegacyIp6 => format!("chain {name} of ip6tables-legacy"),
        }
    }

    /// The command that lets frames between pods pass this chain.
    #[must_use]
    pub fn cure(&self, names: &Names<'_>) -> String {
        let Names {
            bridge,
            tap,
            vxlan,
            pods,
            ..
        } = names;
        let (table, name) = (&self.table, &self.name);
        let is_of_iptables = (table.as_str(), name.as_str()) == ("filter", "FORWARD");
        let program = match self.filter {
            Filter::LegacyIp => "iptables-legacy",
            Filter::LegacyIp6 => "ip6tables-legacy",
            Filter::Ip if is_of_iptables => "iptables",
            Filter::Ip6 if is_of_iptables => "ip6tables",
            Filter::Bridge => {
                return format!(
                    "nft insert rule bridge {table} {name} iifname '{{ {tap}, {vxlan}*, {pods}* }}' accept"
                );
            }
            Filter::Ip | Filter::Ip6 | Filter::Inet => {
                let family = match self.filter {
                    Filter::Ip => "ip",
                    Filter::Ip6 => "ip6",
                    _ => "inet",
                };
                return format!(
                    "nft insert rule {family} {table} {name} iifname {bridge} oifname {bridge} accept"
                );
            }
        };
        format!("{program} -I {name} -i {bridge} -o {bridge} -j ACCEPT")
    }
}

impl Finding {
    /// The finding in words, with the cure where there is something to cure.
    #[must_use]
    pub fn describe(&self, names: &Names<'_>) -> String {
        match self {
            Self::Repaired(chain) => format!(
                "{} drops what is forwarded; {} marked \"{}\" there {} frames between pods pass",
                chain.describe(),
                if chain.filter.passes().len() == 1 {
                    "a rule"
                } else {
                    "rules"
                },
                names.mark,
                if chain.filter.passes().len() == 1 {
                    "lets"
                } else {
                    "let"
                },
            ),
            Self::DroppedByPolicy(chain) => format!(
                "{} drops frames between pods by its policy, and weft could not put its rule there; do it yourself: {}",
                chain.describe(),
                chain.cure(names)
            ),
            Self::DroppedByRule(chain) => format!(
                "a rule in {} drops every frame between pods that the filter sees; weft undoes no rules of others. To let them \
                 pass: {}",
                chain.describe(),
                chain.cure(names)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: Names<'_> = Names {
        bridge: "weft",
        tap: "weft-tap",
        vxlan: "weft-vx",
        pods: "vw",
        mark: "weft: mark",
    };

    fn id(filter: Filter, table: &str) -> ChainId {
        ChainId {
            filter,
            table: table.into(),
            name: "FORWARD".into(),
        }
    }

    fn filters() -> impl Strategy<Value = Filter> {
        prop_oneof![
            Just(Filter::Ip),
            Just(Filter::Ip6),
            Just(Filter::Inet),
            Just(Filter::Bridge),
            Just(Filter::LegacyIp),
            Just(Filter::LegacyIp6),
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let foreign = (
            prop_oneof![Just(Meets::All), Just(Meets::None), Just(Meets::Perhaps)],
            prop_oneof![
                Just(Verdict::Accept),
                Just(Verdict::Drop),
                Just(Verdict::Continue),
                Just(Verdict::Elsewhere)
            ],
        )
            .prop_map(|(meets, verdict)| Rule {
                owner: Owner::Other,
                meets,
                verdict,
            });
        let ours = prop_oneof![
            Just(Owner::Weft(Pass::Overlay)),
            Just(Owner::Weft(Pass::FromTap)),
            Just(Owner::Weft(Pass::FromVxlan)),
            Just(Owner::Weft(Pass::FromPods)),
            Just(Owner::WeftStale)
        ]
        .prop_map(|owner| Rule {
            owner,
            meets: Meets::Perhaps,
            verdict: Verdict::Accept,
        });
        prop_oneof![3 => foreign, 1 => ours]
    }

    prop_compose! {
        fn ruleset()(
            sees_ipv4 in any::<bool>(),
            sees_ipv6 in any::<bool>(),
            chains in proptest::collection::btree_map(
                (filters(), "[ab]").prop_map(|(filter, table)| id(filter, &table)),
                (any::<bool>(), proptest::collection::vec(rule(), 0..5))
                    .prop_map(|(drops, rules)| Chain { drops, rules }),
                0..6,
            ),
        ) -> Ruleset {
            Ruleset { sees_ipv4, sees_ipv6, chains }
        }
    }

    fn applied(mut ruleset: Ruleset, repairs: &[Repair]) -> Ruleset {
        repairs.iter().for_each(|repair| ruleset.apply(repair));
        ruleset
    }

    fn foreign(ruleset: &Ruleset) -> Vec<Vec<Rule>> {
        let others = |chain: &Chain| {
            let rules = chain.rules.iter().copied();
            rules.filter(|rule| rule.owner == Owner::Other).collect()
        };
        ruleset.chains.values().map(others).collect()
    }

    proptest! {
        #[test]
        fn after_the_repairs_nothing_is_left_to_do(ruleset in ruleset()) {
            let after = applied(ruleset.clone(), &repairs(&ruleset));
            prop_assert_eq!(repairs(&after), []);
            prop_assert_eq!(foreign(&after), foreign(&ruleset));
            for finding in findings(&after) {
                prop_assert!(!matches!(finding, Finding::DroppedByPolicy(_)), "{:?}", finding);
            }
        }

        #[test]
        fn only_a_chain_that_drops_by_policy_holds_rules_of_ours(ruleset in ruleset()) {
            let after = applied(ruleset.clone(), &repairs(&ruleset));
            for (id, chain) in &after.chains {
                let ours = chain.rules.iter().filter(|rule| rule.owner != Owner::Other).count();
                let may = chain.drops && after.sees_frames(id.filter);
                prop_assert!(ours == 0 || (may && ours == id.filter.passes().len()));
            }
        }

        #[test]
        fn interrupted_repairs_are_finished_by_the_next(ruleset in ruleset(), part in 0..8_usize) {
            let all = repairs(&ruleset);
            let between = applied(ruleset.clone(), &all[..part.min(all.len())]);
            let after = applied(between.clone(), &repairs(&between));
            prop_assert_eq!(repairs(&after), []);
        }

        #[test]
        fn a_withdrawal_leaves_the_rules_of_others(ruleset in ruleset()) {
            let after = applied(ruleset.clone(), &withdrawal(&ruleset));
            prop_assert_eq!(foreign(&after), foreign(&ruleset));
            prop_assert_eq!(withdrawal(&after), []);
        }
    }

    fn one(filter: Filter, drops: bool, rules: &[(Meets, Verdict)]) -> Ruleset {
        let rules = rules.iter().map(|(meets, verdict)| Rule {
            owner: Owner::Other,
            meets: *meets,
            verdict: *verdict,
        });
        let chain = Chain {
            drops,
            rules: rules.collect(),
        };
        Ruleset {
            sees_ipv4: true,
            sees_ipv6: true,
            chains: [(id(filter, "filter"), chain)].into(),
        }
    }

    #[test]
    fn a_policy_is_undone_and_a_rule_is_not() {
        let docker = one(Filter::Ip, true, &[(Meets::Perhaps, Verdict::Elsewhere)]);
        assert_eq!(
            repairs(&docker),
            [Repair::Allow(id(Filter::Ip, "filter"), Pass::Overlay)]
        );
        // Without br_netfilter it does no harm.
        let off = Ruleset {
            sees_ipv4: false,
            ..docker
        };
        assert_eq!((repairs(&off), findings(&off)), (Vec::new(), Vec::new()));
        // Somebody has let the frames pass already.
        let fine = one(Filter::Inet, true, &[(Meets::All, Verdict::Accept)]);
        assert_eq!((repairs(&fine), findings(&fine)), (Vec::new(), Vec::new()));

        let ruled = one(
            Filter::Inet,
            false,
            &[(Meets::None, Verdict::Accept), (Meets::All, Verdict::Drop)],
        );
        assert_eq!(repairs(&ruled), []);
        let [finding] = &findings(&ruled)[..] else {
            panic!("one finding")
        };
        assert_eq!(*finding, Finding::DroppedByRule(id(Filter::Inet, "filter")));
        let text = finding.describe(&NAMES);
        assert!(
            text.contains("nft insert rule inet filter FORWARD iifname weft oifname weft accept"),
            "{text}"
        );
        // What an earlier rule may have accepted is not named.
        let open = one(
            Filter::Inet,
            false,
            &[(Meets::Perhaps, Verdict::Accept), (Meets::All, Verdict::Drop)],
        );
        assert_eq!(findings(&open), []);
    }

    #[test]
    fn each_filter_has_its_command() {
        for (filter, command) in [
            (Filter::Ip, "iptables -I FORWARD -i weft -o weft -j ACCEPT"),
            (Filter::Ip6, "ip6tables -I FORWARD -i weft -o weft -j ACCEPT"),
            (Filter::LegacyIp, "iptables-legacy -I FORWARD -i weft"),
            (Filter::LegacyIp6, "ip6tables-legacy -I FORWARD -i weft"),
            (
                Filter::Bridge,
                "nft insert rule bridge filter FORWARD iifname '{ weft-tap, weft-vx*, vw* }' accept",
            ),
        ] {
            assert!(
                id(filter, "filter").cure(&NAMES).starts_with(command),
                "{filter:?}"
            );
        }
    }
}
