//! `weft ipam check`: what the address space says against what the kernel and the disk have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use weft_ipam_crdt::AddressSpace;
use weft_kernel::attach::Attachment;
use weft_kernel::inspect::{PodEnd, Port};
use weft_node::check::Checked;
use weft_wire::Mac;
use weft_wire::api::IpamFinding;

/// Ids of the CNI plugin begin with this: what they name is always attached.
const CNI_IDS: &str = "cni/";

/// A difference between what the router knows of its pods and what the kernel has.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Difference {
    /// The address of an attached pod is not on its interface.
    Missing {
        pod: String,
        address: IpAddr,
        ifname: String,
    },
    /// Its interface has another MAC address.
    OtherMac {
        pod: String,
        ifname: String,
        found: String,
        meant: Mac,
    },
    /// Its interface has the MAC address with which it was attached, when this host was in another cluster.
    FormerMac { pod: String, ifname: String, found: Mac },
    /// Its interface has an address of the range that the pod was not given.
    Stray {
        pod: String,
        address: IpNet,
        ifname: String,
        place: String,
    },
    /// It is attached with an address that is not held for it.
    NotHeld {
        pod: String,
        address: IpAddr,
        place: String,
    },
    /// An address is held for something that is not attached, though only attached pods have such names.
    Leaked { pod: String, addresses: Vec<IpAddr> },
    /// An address is held for something that is not attached; it may have been given out by hand.
    Unattached { pod: String, addresses: Vec<IpAddr> },
    /// An address is held for an attached pod, in addition to that with which it was attached, and not on its interface.
    Unused {
        pod: String,
        address: IpAddr,
        ifname: String,
    },
    /// Two attached pods have one address.
    Twice { address: IpAddr, pods: Vec<String> },
    /// A port without a pod: an attempt to attach was interrupted.
    HalfDone { port: String },
    /// A pod's port is not on the bridge.
    OffBridge {
        pod: String,
        port: String,
        bridge: String,
    },
    /// A pod's interface is down.
    Down { pod: String, ifname: String },
}

impl Difference {
    fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "address-missing",
            Self::OtherMac { .. } => "other-mac",
            Self::FormerMac { .. } => "former-mac",
            Self::Stray { .. } => "stray-address",
            Self::NotHeld { .. } => "not-held",
            Self::Leaked { .. } => "leaked",
            Self::Unattached { .. } => "unattached",
            Self::Unused { .. } => "unused",
            Self::Twice { .. } => "address-twice",
            Self::HalfDone { .. } => "half-done",
            Self::OffBridge { .. } => "off-bridge",
            Self::Down { .. } => "interface-down",
        }
    }

    fn is_wrong(&self) -> bool {
        !matches!(
            self,
            Self::FormerMac { .. } | Self::Unattached { .. } | Self::Unused { .. } | Self::Down { .. }
        )
    }

    fn what(&self) -> String {
        match self {
            Self::Missing { pod, address, ifname } => {
                format!("pod {pod} was given {address}, and its interface {ifname} does not have it")
            }
            Self::OtherMac {
                pod,
                ifname,
                found,
                meant,
            } => format!("interface {ifname} of pod {pod} has the MAC address {found} instead of {meant}"),
            Self::FormerMac { pod, ifname, found } => format!(
                "interface {ifname} of pod {pod} has the MAC address {found}, with which it was attached in another cluster: frames \
                 find it as they find any device that weft did not make"
            ),
            Self::Stray {
                pod,
                address,
                ifname,
                place,
            } => format!(
                "interface {ifname} of pod {pod} has {}, which was not given to it; where that address lives: {place}",
                address.addr()
            ),
            Self::NotHeld { pod, address, place } => format!(
                "pod {pod} is attached with {address}, which is not held for it; where that address lives: {place}"
            ),
            Self::Leaked { pod, addresses } => {
                format!(
                    "{} is held for {pod}, which is not attached any more",
                    list(addresses)
                )
            }
            Self::Unattached { pod, addresses } => {
                format!(
                    "{} is held for {pod}, and no pod of that name is attached",
                    list(addresses)
                )
            }
            Self::Unused { pod, address, ifname } => {
                format!("{address} is held for pod {pod}, and its interface {ifname} does not have it")
            }
            Self::Twice { address, pods } => {
                format!("{address} is attached twice: for {}", pods.join(" and "))
            }
            Self::HalfDone { port } => {
                format!("port {port} belongs to no pod: attaching one was interrupted")
            }
            Self::OffBridge { pod, port, bridge } => {
                format!("port {port} of pod {pod} is not on bridge {bridge}")
            }
            Self::Down { pod, ifname } => format!("interface {ifname} of pod {pod} is down"),
        }
    }

    fn cure(&self) -> String {
        match self {
            Self::Missing { .. } | Self::OtherMac { .. } | Self::OffBridge { .. } | Self::Down { .. } => {
                "run the same `weft attach` again: it repairs what differs".into()
            }
            Self::FormerMac { pod, .. } => format!(
                "none is needed; `weft detach {pod}` and attaching it again gives it a MAC address of this cluster"
            ),
            Self::Stray {
                pod, address, ifname, ..
            } => format!(
                "in the pod: `ip address del {address} dev {ifname}`; or, if it shall keep it and nobody else has it, \
                 `weft ipam claim {pod} {}`",
                address.addr()
            ),
            Self::NotHeld { pod, address, .. } => format!(
                "`weft ipam claim {pod} {address}`; if that is refused, somebody else has it: `weft detach {pod}` and \
                 attach it again"
            ),
            Self::Leaked { pod, .. } => format!("`weft detach {pod}` gives it back"),
            Self::Unattached { pod, .. } => format!(
                "nothing, if it was given out by hand and is in use; else `weft detach {pod}` gives it back"
            ),
            Self::Unused { pod, address, .. } => {
                format!("if nothing uses it, `weft ipam free {pod} {address}`")
            }
            Self::Twice { pods, .. } => format!(
                "detach one of them and attach it again: `weft detach {}`",
                pods.last().map_or("", String::as_str)
            ),
            Self::HalfDone { port } => {
                format!("attach that pod again, or remove the port: `ip link del {port}`")
            }
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" and ")
}

/// Every address that the kernel has for a pod, so that the node can say where it lives.
pub(crate) fn addresses(ports: &[Port]) -> Vec<IpAddr> {
    let recorded = ports.iter().filter_map(|port| port.record.as_ref());
    let found = ports.iter().filter_map(|port| port.pod.as_ref());
    recorded
        .flat_map(|record| record.addresses().map(|net| net.addr()))
        .chain(found.flat_map(|pod| pod.addresses.iter().map(IpNet::addr)))
        .collect()
}

/// Compares the node's word with the kernel's. `bridge` is the name of the one that the ports should be on.
pub(crate) fn compare(checked: &Checked, ports: &[Port], bridge: &str) -> Vec<IpamFinding> {
    let known = Known {
        pods: &checked.pods,
        places: &checked.places,
        space: checked.space,
        mac: &|address| checked.mac(address),
        exists: &|path| Path::new(path).exists(),
    };
    differences(&known, ports, bridge)
        .iter()
        .map(|difference| IpamFinding {
            kind: difference.kind().to_owned(),
            wrong: difference.is_wrong(),
            what: difference.what(),
            cure: difference.cure(),
        })
        .collect()
}

/// What the router knows of its pods.
struct Known<'a> {
    pods: &'a BTreeMap<String, BTreeSet<IpAddr>>,
    places: &'a BTreeMap<IpAddr, String>,
    space: AddressSpace,
    mac: &'a dyn Fn(IpAddr) -> Option<Mac>,
    exists: &'a dyn Fn(&str) -> bool,
}

fn differences(known: &Known<'_>, ports: &[Port], bridge: &str) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut attached: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for port in ports {
        let Some(record) = &port.record else {
            found.push(Difference::HalfDone {
                port: port.ifname.clone(),
            });
            continue;
        };
        let pod = record.id.clone();
        names.insert(&record.id);
        let held = known.pods.get(&pod);
        let recorded: Vec<IpAddr> = record.addresses().map(|net| net.addr()).collect();
        for address in &recorded {
            attached.entry(*address).or_default().push(pod.clone());
            if !held.is_some_and(|held| held.contains(address)) {
                found.push(Difference::NotHeld {
                    pod: pod.clone(),
                    address: *address,
                    place: place(known, *address),
                });
            }
        }
        if !port.on_bridge {
            found.push(Difference::OffBridge {
                pod: pod.clone(),
                port: port.ifname.clone(),
                bridge: bridge.to_owned(),
            });
        }
        if let Some(end) = &port.pod {
            look_inside(known, record, held, end, &mut found);
        }
    }
    for (address, pods) in attached.into_iter().filter(|(_, pods)| pods.len() > 1) {
        found.push(Difference::Twice { address, pods });
    }
    for (pod, addresses) in known.pods {
        if names.contains(pod.as_str()) {
            continue;
        }
        let (pod, addresses) = (pod.clone(), addresses.iter().copied().collect());
        let is_gone = pod.starts_with(CNI_IDS) || (pod.starts_with('/') && !(known.exists)(&pod));
        found.push(match is_gone {
            true => Difference::Leaked { pod, addresses },
            false => Difference::Unattached { pod, addresses },
        });
    }
    found
}

fn look_inside(
    known: &Known<'_>,
    record: &Attachment,
    held: Option<&BTreeSet<IpAddr>>,
    end: &PodEnd,
    found: &mut Vec<Difference>,
) {
    let (pod, ifname) = (record.id.clone(), end.ifname.clone());
    let recorded: Vec<IpAddr> = record.addresses().map(|net| net.addr()).collect();
    if !end.up {
        found.push(Difference::Down {
            pod: pod.clone(),
            ifname: ifname.clone(),
        });
    }
    // The MAC address follows from the first one.
    let meant = recorded.first().and_then(|first| (known.mac)(*first));
    let differs = meant.filter(|meant| end.mac != Some(meant.0));
    if differs.is_some() && end.mac == Some(record.mac) {
        found.push(Difference::FormerMac {
            pod: pod.clone(),
            ifname: ifname.clone(),
            found: Mac(record.mac),
        });
    } else if let Some(meant) = differs {
        found.push(Difference::OtherMac {
            pod: pod.clone(),
            ifname: ifname.clone(),
            found: end
                .mac
                .map_or_else(|| "none".to_owned(), |mac| Mac(mac).to_string()),
            meant,
        });
    }
    let has = |address: &IpAddr| end.addresses.iter().any(|found| found.addr() == *address);
    for address in recorded.iter().filter(|address| !has(address)) {
        found.push(Difference::Missing {
            pod: pod.clone(),
            address: *address,
            ifname: ifname.clone(),
        });
    }
    for address in held
        .into_iter()
        .flatten()
        .filter(|address| !recorded.contains(address) && !has(address))
    {
        found.push(Difference::Unused {
            pod: pod.clone(),
            address: *address,
            ifname: ifname.clone(),
        });
    }
    for address in &end.addresses {
        let ip = address.addr();
        let is_given = recorded.contains(&ip) || held.is_some_and(|held| held.contains(&ip));
        if !is_given && known.space.offset(ip).is_some() {
            found.push(Difference::Stray {
                pod: pod.clone(),
                address: *address,
                ifname: ifname.clone(),
                place: place(known, ip),
            });
        }
    }
}

fn place(known: &Known<'_>, address: IpAddr) -> String {
    known.places.get(&address).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 7, 0, 0, 0, 5];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn web() -> Port {
        Port {
            ifname: "vw01".into(),
            record: Some(Attachment {
                id: "web".into(),
                mac: MAC,
                address: "10.32.0.5/12".parse().unwrap(),
                further: vec![],
                host_ifname: "vw01".into(),
                host_index: 3,
            }),
            on_bridge: true,
            pod: Some(PodEnd {
                ifname: "eth0".into(),
                mac: Some(MAC),
                up: true,
                addresses: vec!["10.32.0.5/12".parse().unwrap(), "192.0.2.1/24".parse().unwrap()],
            }),
        }
    }

    fn kinds(pods: &[(&str, &[&str])], ports: &[Port]) -> Vec<&'static str> {
        let pods = pods
            .iter()
            .map(|(pod, held)| {
                (
                    (*pod).to_owned(),
                    held.iter().map(|address| ip(address)).collect(),
                )
            })
            .collect();
        let known = Known {
            pods: &pods,
            places: &BTreeMap::new(),
            space: AddressSpace::of_range("10.32.0.0/12".parse().unwrap()).unwrap(),
            mac: &|_| Some(Mac(MAC)),
            exists: &|path| path == "/there",
        };
        let found = differences(&known, ports, "weft");
        assert!(
            found
                .iter()
                .all(|difference| !difference.what().is_empty() && !difference.cure().is_empty())
        );
        found.iter().map(Difference::kind).collect()
    }

    #[test]
    fn what_agrees_is_no_finding() {
        assert_eq!(kinds(&[("web", &["10.32.0.5"])], &[web()]), Vec::<&str>::new());
    }

    #[test]
    fn each_difference_is_found_and_alone() {
        let held: &[(&str, &[&str])] = &[("web", &["10.32.0.5"])];
        let changed = |change: &dyn Fn(&mut Port)| {
            let mut port = web();
            change(&mut port);
            vec![port]
        };
        let end = |change: &dyn Fn(&mut PodEnd)| changed(&|port| change(port.pod.as_mut().unwrap()));
        let gone = end(&|pod| pod.addresses.clear());
        assert_eq!(kinds(held, &gone), ["address-missing"]);
        let more = end(&|pod| pod.addresses.push("10.32.0.9/12".parse().unwrap()));
        let mut two = more.clone();
        let record = two.iter_mut().find_map(|port| port.record.as_mut()).unwrap();
        record.further.push("10.32.0.9/12".parse().unwrap());
        assert_eq!(kinds(held, &two), ["not-held"]);
        let both: &[(&str, &[&str])] = &[("web", &["10.32.0.5", "10.32.0.9"])];
        assert!(kinds(both, &two).is_empty());
        assert_eq!(kinds(held, &more), ["stray-address"]);
        assert_eq!(kinds(held, &end(&|pod| pod.mac = None)), ["other-mac"]);
        // What another cluster gave it stays; what nobody gave it does not.
        let former = changed(&|port| {
            port.record.as_mut().unwrap().mac[1] = 9;
            port.pod.as_mut().unwrap().mac = Some([2, 9, 0, 0, 0, 5]);
        });
        assert_eq!(kinds(held, &former), ["former-mac"]);
        let stray = end(&|pod| pod.mac = Some([2, 9, 0, 0, 0, 5]));
        assert_eq!(kinds(held, &stray), ["other-mac"]);
        assert_eq!(kinds(held, &end(&|pod| pod.up = false)), ["interface-down"]);
        assert_eq!(
            kinds(held, &changed(&|port| port.on_bridge = false)),
            ["off-bridge"]
        );
        assert_eq!(kinds(&[], &changed(&|port| port.record = None)), ["half-done"]);
        assert_eq!(kinds(&[], &[web()]), ["not-held"]);
        assert_eq!(
            kinds(&[("web", &["10.32.0.6"])], &[web()]),
            ["not-held", "unused"]
        );
        assert_eq!(
            kinds(&[("web", &["10.32.0.5", "10.32.0.6"])], &[web()]),
            ["unused"]
        );
        for (id, kind) in [
            ("db", "unattached"),
            ("/there", "unattached"),
            ("/gone", "leaked"),
            ("cni/net/c1/eth0", "leaked"),
        ] {
            assert_eq!(kinds(&[(id, &["10.32.0.7"])], &[]), [kind]);
        }
        let mut other = web();
        other.record.as_mut().unwrap().id = "db".into();
        let both: &[(&str, &[&str])] = &[("web", &["10.32.0.5"]), ("db", &["10.32.0.5"])];
        assert_eq!(kinds(both, &[web(), other]), ["address-twice"]);
    }
}
