//! What an operator should be told although everything works: the sentences that `weft status` shows as warnings.

use crate::command::{BRIDGE, TAP};
use ipnet::IpNet;
use std::collections::BTreeMap;
use weft_kernel::{link, route};
use weft_wire::api::{ClusterStatus, Status};

/// Everything that this status, and the kernel's routes, give reason to say. It asks the kernel, so it may block.
pub(crate) fn of(status: &Status) -> Vec<String> {
    let mut hints = same_names(status);
    if let ClusterStatus::Member { range, .. } = status.cluster {
        match overlapping(range) {
            Ok(routes) if routes.is_empty() => {}
            Ok(routes) => hints.push(format!(
                "the pods' range {range} overlaps {}: what this host sends there does not reach pods, and pods hide what is \
                 there. Move that network, or make the cluster with another --range",
                routes.join(" and ")
            )),
            Err(error) => hints.push(format!("the routes of this host cannot be read: {error}")),
        }
    }
    hints
}

/// Routes of this host into a range, in words; default routes and those by weft's own devices are none.
pub(crate) fn overlapping(range: IpNet) -> weft_kernel::Result<Vec<String>> {
    let links = link::list()?;
    let name = |index: Option<u32>| {
        let found = index.and_then(|index| links.iter().find(|link| link.index == index));
        found.map_or("several interfaces", |link| link.name.as_str())
    };
    let mut found = Vec::new();
    for route in route::list()? {
        let dev = name(route.interface);
        let meets = overlap(route.destination, range);
        if meets && !route.is_default() && dev != BRIDGE && dev != TAP {
            found.push(format!("the route {} dev {dev}", route.destination));
        }
    }
    Ok(found)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// A name is for people: two hosts with one name work, and are mistaken for each other.
fn same_names(status: &Status) -> Vec<String> {
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    nodes.entry(&status.name).or_default().push(&status.node);
    for peer in status.peers.iter().filter(|peer| !peer.name.is_empty()) {
        nodes.entry(&peer.name).or_default().push(&peer.node);
    }
    let shared = nodes.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    shared
        .map(|(name, nodes)| {
            let ids: Vec<&str> = nodes.iter().map(|node| node.get(..10).unwrap_or(node)).collect();
            format!(
                "{} hosts are called {name} ({}): give them different names with --name",
                ids.len(),
                ids.join(", ")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        for (one, other, meet) in [
            ("10.32.0.0/12", "10.33.0.0/16", true),
            ("10.33.0.0/16", "10.0.0.0/8", true),
            ("10.32.0.0/12", "10.48.0.0/16", false),
            ("fd00::/96", "10.32.0.0/12", false),
            ("fd00::/96", "fd00::/64", true),
        ] {
            assert_eq!(overlap(net(one), net(other)), meet, "{one} {other}");
            assert_eq!(overlap(net(other), net(one)), meet, "{one} {other}");
        }
    }
}
