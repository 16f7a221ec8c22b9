//! What the pods on this host really have, read from the kernel: the veth pairs that [`crate::attach`] made, and
//! both ends of each. The pod's end is asked for across namespaces, so nobody has to know where the pod's is.

use ipnet::IpNet;

use crate::attach::{Attachment, HOST_PREFIX};
use crate::error::Result;
use crate::link::{self, Link};
use crate::{MacAddr, addr};

/// The host end of a pod's veth pair, and what is at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the host end.
    pub ifname: String,
    /// What was attached; `None` when an attempt was interrupted before it wrote that down.
    pub record: Option<Attachment>,
    /// True when it is a port of the bridge.
    pub on_bridge: bool,
    /// The pod's end; `None` when it went away while it was looked at.
    pub pod: Option<PodEnd>,
}

/// The pod's end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEnd {
    /// Its name inside the pod.
    pub ifname: String,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, without those of the link alone (RFC 3927, RFC 4291 §2.5.6).
    pub addresses: Vec<IpNet>,
}

/// The host ends of all pods in the calling thread's namespace, ordered by name. `bridge` need not exist.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn ports(bridge: &str) -> Result<Vec<Port>> {
    let links = link::list()?;
    let master = links
        .iter()
        .find(|link| link.name == bridge)
        .map(|link| link.index);
    let is_pods = |link: &&Link| link.name.starts_with(HOST_PREFIX) && link.kind.as_deref() == Some("veth");
    let mut ports = Vec::new();
    for link in links.iter().filter(is_pods) {
        ports.push(Port {
            ifname: link.name.clone(),
            record: Attachment::read(link),
            on_bridge: master.is_some() && link.master == master,
            pod: pod_end(link)?,
        });
    }
    ports.sort_by(|one, other| one.ifname.cmp(&other.ifname));
    Ok(ports)
}

fn pod_end(host: &Link) -> Result<Option<PodEnd>> {
    let Some(index) = host.peer else { return Ok(None) };
    let Some(link) = link::find_in(host.peer_namespace, index)? else {
        return Ok(None);
    };
    let addresses = addr::list_in(host.peer_namespace, index)?;
    Ok(Some(PodEnd {
        ifname: link.name,
        mac: link.mac,
        up: link.up,
        addresses: addresses
            .into_iter()
            .map(|address| address.address)
            .filter(|address| !is_of_link(address))
            .collect(),
    }))
}

fn is_of_link(address: &IpNet) -> bool {
    match address {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    }
}
