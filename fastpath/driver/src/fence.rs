//! The table of our own in the packet filter: whose VXLAN is let in, and that pods send none.
//!
//! Each rule is there twice in effect: what one lets through by its absence, another or the gate of the device stops. The page
//! docs/design/fastpath.md has the list. Bridged packets, which br_netfilter shows to the same hooks, come in by the bridge and
//! go out by it; they belong to pods and pass.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_fastpath::state::{Fence, Rules};
use weft_kernel::nft::{self, Chain, Expression, FoundTable, Hook, Meta, Payload, Set, Table, interface};

/// Name of the table, of the family inet.
pub(crate) const TABLE: &str = "weft";
/// The bit of a packet's mark by which the gate of a VXLAN device knows what the table has let in. Kubernetes uses 0x4000 and
/// 0x8000, Cilium 0x0f00, Calico and others bits above 0xffff.
pub(crate) const MARK: u32 = 0x2000;

const ACCEPTED4: &str = "accepted4";
const ACCEPTED6: &str = "accepted6";
const SENT4: &str = "sent4";
const SENT6: &str = "sent6";
/// Priority "raw": before connection tracking, which VXLAN does not need.
const RAW: i32 = -300;
/// After whatever others do at the hook forward.
const LATE: i32 = 300;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Protocol numbers of IANA.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The table for these rules, with the bridge of this name.
pub(crate) fn table(bridge: &str, rules: &Rules) -> Table {
    let vxlan = || to_port(UDP, rules.port);
    let from_pods = || [Expression::Load(Meta::InName), Expression::Is(interface(bridge))];
    let not_from_pods = || {
        [
            Expression::Load(Meta::InName),
            Expression::IsNot(interface(bridge)),
        ]
    };
    let leaves = || {
        [
            Expression::Load(Meta::OutName),
            Expression::IsNot(interface(bridge)),
        ]
    };
    let is_version = |version: u8| vec![Expression::Load(Meta::Version), Expression::Is(vec![version])];
    let found_in =
        |payload: Payload, set: &str| vec![Expression::Payload(payload), Expression::In(set.into())];
    // A container of another network of this host may put any source into its packets.
    let comes_back = [Expression::LoadComesBack, Expression::Is(vec![1])];
    let marked = [
        Expression::Load(Meta::Mark),
        Expression::Bits {
            mask: (!MARK).to_ne_bytes().into(),
            flip: MARK.to_ne_bytes().into(),
        },
        Expression::SetMark,
        Expression::Untracked,
        Expression::Accept,
    ];
    let accept = |version, payload, set| {
        let conditions = [vxlan(), is_version(version), not_from_pods().into()].concat();
        // The set counts, so it is asked last.
        [
            conditions,
            comes_back.to_vec(),
            found_in(payload, set),
            marked.to_vec(),
        ]
        .concat()
    };
    let sent = |version, payload, set| {
        let conditions = [vxlan(), is_version(version), found_in(payload, set)].concat();
        [conditions, vec![Expression::Untracked]].concat()
    };
    let drop = || vec![Expression::Drop];
    let carries_mark = vec![
        Expression::Load(Meta::Mark),
        Expression::Bits {
            mask: MARK.to_ne_bytes().into(),
            flip: vec![0; 4],
        },
        Expression::IsNot(vec![0; 4]),
    ];
    let mut closed = vec![[from_pods().to_vec(), vxlan(), drop()].concat()];
    for port in &rules.closed {
        for protocol in [TCP, UDP] {
            closed.push([from_pods().to_vec(), to_port(protocol, *port), drop()].concat());
        }
    }
    let chain = |name: &str, hook, priority, rules| Chain {
        name: name.into(),
        hook,
        priority,
        rules,
    };
    let set = |name: &str, ipv6| Set {
        name: name.into(),
        ipv6,
    };
    Table {
        name: TABLE.into(),
        sets: vec![
            set(ACCEPTED4, false),
            set(ACCEPTED6, true),
            set(SENT4, false),
            set(SENT6, true),
        ],
        // By name, as they are read.
        chains: vec![
            chain(
                "arriving",
                Hook::Prerouting,
                RAW,
                vec![
                    accept(IPV4, Payload::Source4, ACCEPTED4),
                    accept(IPV6, Payload::Source6, ACCEPTED6),
                    [vxlan(), not_from_pods().into(), drop()].concat(),
                ],
            ),
            chain("for-this-host", Hook::Input, RAW, closed),
            chain(
                "leaving",
                Hook::Output,
                RAW,
                vec![
                    sent(IPV4, Payload::Destination4, SENT4),
                    sent(IPV6, Payload::Destination6, SENT6),
                ],
            ),
            chain(
                "passing",
                Hook::Forward,
                RAW,
                vec![
                    [vxlan(), leaves().into(), drop()].concat(),
                    [vxlan(), not_from_pods().into(), drop()].concat(),
                    [carries_mark, not_from_pods().into(), drop()].concat(),
                ],
            ),
            chain(
                "passing-still",
                Hook::Forward,
                LATE,
                vec![[vxlan(), leaves().into(), drop()].concat()],
            ),
        ],
    }
}

fn to_port(protocol: u8, port: u16) -> Vec<Expression> {
    vec![
        Expression::Load(Meta::Protocol),
        Expression::Is(vec![protocol]),
        Expression::Payload(Payload::DestinationPort),
        Expression::Is(port.to_be_bytes().into()),
    ]
}

/// What is there; `None` when there is no such table.
pub(crate) fn read(bridge: &str) -> weft_kernel::Result<Option<Fence>> {
    let Some(found) = nft::read_table(TABLE)? else {
        return Ok(None);
    };
    let mut sets = [ACCEPTED4, ACCEPTED6, SENT4, SENT6].map(|_| BTreeSet::new());
    for (set, name) in sets.iter_mut().zip([ACCEPTED4, ACCEPTED6, SENT4, SENT6]) {
        set.extend(nft::elements(TABLE, name)?.iter().map(|element| element.address));
    }
    let [accepted4, accepted6, sent4, sent6] = sets;
    let is_whole = accepted4 == sent4 && accepted6 == sent6;
    let rules = match found {
        FoundTable::Whole(found) if is_whole => {
            rules_of(&found).filter(|rules| table(bridge, rules) == found)
        }
        FoundTable::Whole(_) | FoundTable::Strange => None,
    };
    Ok(Some(Fence {
        rules,
        accepted: accepted4.into_iter().chain(accepted6).collect(),
    }))
}

/// What a table's rules seem to depend on; whether they do, comparing tells.
fn rules_of(table: &Table) -> Option<Rules> {
    let chain = |name| table.chains.iter().find(|chain| chain.name == name);
    let mut ports = chain("for-this-host")?.rules.iter().map(|rule| port_of(rule));
    let port = ports.next()??;
    Some(Rules {
        port,
        closed: ports.collect::<Option<_>>()?,
    })
}

fn port_of(rule: &[Expression]) -> Option<u16> {
    let mut steps = rule
        .iter()
        .skip_while(|step| **step != Expression::Payload(Payload::DestinationPort));
    match steps.nth(1)? {
        Expression::Is(port) => Some(u16::from_be_bytes(port.as_slice().try_into().ok()?)),
        _ => None,
    }
}

/// Makes the table anew, with these sources in its sets.
pub(crate) fn set(bridge: &str, rules: &Rules, accepted: &BTreeSet<IpAddr>) -> weft_kernel::Result<()> {
    let sources: Vec<IpAddr> = accepted.iter().copied().collect();
    nft::replace_table(&table(bridge, rules), &by_set(&sources))
}

pub(crate) fn accept(sources: &[IpAddr]) -> weft_kernel::Result<()> {
    nft::add_elements(TABLE, &by_set(sources))
}

pub(crate) fn refuse(sources: &[IpAddr]) -> weft_kernel::Result<()> {
    nft::delete_elements(TABLE, &by_set(sources))
}

fn by_set(sources: &[IpAddr]) -> Vec<(&'static str, Vec<IpAddr>)> {
    let of = |ipv4| {
        let sources = sources.iter().copied();
        sources
            .filter(|source| source.is_ipv4() == ipv4)
            .collect::<Vec<_>>()
    };
    vec![
        (ACCEPTED4, of(true)),
        (ACCEPTED6, of(false)),
        (SENT4, of(true)),
        (SENT6, of(false)),
    ]
}

/// Elements of the sets for one direction, with what they have counted since the table was made.
pub(crate) fn counted(sent: bool) -> weft_kernel::Result<Vec<nft::Element>> {
    let sets = if sent {
        [SENT4, SENT6]
    } else {
        [ACCEPTED4, ACCEPTED6]
    };
    let mut found = Vec::new();
    for set in sets {
        found.extend(nft::elements(TABLE, set)?);
    }
    Ok(found)
}
