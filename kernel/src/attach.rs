//! The one way a pod gets onto the bridge, shared by every front end.
//!
//! The kernel's own state is the record: the host end's name comes from a hash of the id, and its
//! alias, written last, says what was attached: `weft:<id>:<mac>:<address>/<prefix length>`, with commas
//! between several addresses. A host end without that alias is half done; the next attempt starts over.
//!
//! Attaching the same twice changes nothing, and repairs what somebody changed in between. Attempts
//! at the same time take turns: a lock on the host's network namespace itself keeps them apart,
//! whatever process they run in.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::announce::announce;
use crate::error::{Error, Result};
use crate::link::{self, Link, PortFlags, VethEnd};
use crate::netns::Namespace;
use crate::{DisplayMac, MacAddr, addr, route};

/// The longest id: with the rest of the record and one address it fits an alias.
pub const MAX_ID: usize = 128;
/// The longest alias: `IFALIASZ` of linux/if.h is 256 with the zero at its end, and some tools count two.
const MAX_ALIAS: usize = 254;
/// The kernel opens a port within milliseconds of its carrier, on a busy machine within tens of them.
const PORT_READY: Duration = Duration::from_secs(5);
/// Host ends begin with this.
pub const HOST_PREFIX: &str = "vw";
/// Aliases of finished host ends begin with this.
const RECORD: &str = "weft:";

/// What to attach, and where.
#[derive(Clone, Copy, Debug)]
pub struct AttachRequest<'a> {
    /// The pod's network namespace.
    pub pod_netns: &'a Namespace,
    /// The bridge, in the calling thread's namespace.
    pub bridge: &'a str,
    /// Names this attachment on this host: 1 to [`MAX_ID`] printable ASCII characters without colon.
    pub id: &'a str,
    /// The interface's name inside the pod.
    pub ifname: &'a str,
    /// The interface's Ethernet address inside the pod.
    pub mac: MacAddr,
    /// The pod's address, and the length of the prefix that is on the link.
    pub address: IpNet,
    /// Its further addresses, as many as the record has room for: four of IPv4 beside the longest id.
    pub further: &'a [IpNet],
    /// The largest payload in bytes, for both ends.
    pub mtu: u32,
    /// A router for the pod's default route; `None` leaves the pod's default route alone.
    pub gateway: Option<std::net::IpAddr>,
}

/// A pod on the bridge, as the kernel records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The id given when it was attached.
    pub id: String,
    /// The Ethernet address inside the pod.
    pub mac: MacAddr,
    /// The address inside the pod.
    pub address: IpNet,
    /// The further addresses inside the pod.
    pub further: Vec<IpNet>,
    /// Name of the host end.
    pub host_ifname: String,
    /// Index of the host end.
    pub host_index: u32,
}

impl Attachment {
    /// The addresses inside the pod, the first one first.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> + '_ {
        core::iter::once(self.address).chain(self.further.iter().copied())
    }

    pub(crate) fn read(link: &Link) -> Option<Self> {
        let (id, rest) = link.alias.as_deref()?.strip_prefix(RECORD)?.split_once(':')?;
        let (mac, addresses) = (rest.get(..17)?, rest.get(17..)?.strip_prefix(':')?);
        let addresses: Vec<IpNet> = addresses
            .split(',')
            .map(|text| text.parse().ok())
            .collect::<Option<_>>()?;
        let (address, further) = addresses.split_first()?;
        Some(Self {
            id: id.into(),
            mac: mac.parse::<DisplayMac>().ok()?.0,
            address: *address,
            further: further.to_vec(),
            host_ifname: link.name.clone(),
            host_index: link.index,
        })
    }
}

/// The name of the host end for an id: `vw` and 13 hexadecimal digits of its SHA-256.
#[must_use]
pub fn host_ifname(id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let digits: String = digest.iter().take(7).map(|byte| format!("{byte:02x}")).collect();
    format!("{HOST_PREFIX}{}", &digits[..link::MAX_NAME - HOST_PREFIX.len()])
}

/// Held while pods are wired in the calling thread's namespace; given back when it is dropped. Whoever
/// holds it is done within the bounded waits of one attempt.
struct Turn {
    _namespace: File,
}

impl Turn {
    fn take() -> Result<Self> {
        let failed = |source| Error::Io {
            action: "lock the network namespace of the host".into(),
            source,
        };
        let namespace = File::open("/proc/thread-self/ns/net").map_err(failed)?;
        flock(&namespace, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            _namespace: namespace,
        })
    }
}

/// Opens the namespace of a pod by path.
///
/// # Errors
/// As [`Namespace::open`], and [`Error::OwnNamespace`] when it is the one of the calling thread: the host's.
pub fn open_pod(path: impl AsRef<Path>) -> Result<Namespace> {
    let path = path.as_ref();
    let pod = Namespace::open(path)?;
    if pod.id() == Namespace::current()?.id() {
        return Err(Error::OwnNamespace { path: path.into() });
    }
    Ok(pod)
}

/// Connects a pod to the bridge by a veth pair. Attached already with the same values: repairs
/// what differs, otherwise changes nothing. Further addresses that were attached with these stay.
///
/// # Errors
/// [`Error::AttachConflict`] when the id is attached with another MAC or other addresses,
/// [`Error::AttachedElsewhere`] when to another namespace, [`Error::Conflict`] when the pod has an
/// interface of that name, and whatever the kernel refuses. After an error, nothing that this call
/// made remains.
pub fn attach(request: &AttachRequest<'_>) -> Result<Attachment> {
    check(request)?;
    let _turn = Turn::take()?;
    let bridge = link::get(request.bridge)?;
    if bridge.bridge.is_none() {
        return Err(Error::Conflict {
            what: format!("the interface {}", request.bridge),
            found: format!(
                "a device of kind {}",
                bridge.kind.as_deref().unwrap_or("hardware")
            ),
            wanted: "a bridge".into(),
        });
    }
    let host = host_ifname(request.id);
    if let Some(found) = link::find(&host)? {
        if let Some(recorded) = find_finished(&found, request)? {
            let all = AttachRequest {
                further: &recorded.further,
                ..*request
            };
            settle(&host, &all)?;
            return finished(&host);
        }
        // Left by an attempt that was interrupted before it wrote its record.
        link::delete(&host)?;
    }
    if request.pod_netns.run(|| link::find(request.ifname))??.is_some() {
        return Err(Error::Conflict {
            what: format!("{} in the pod", request.ifname),
            found: "an interface that weft did not make for this id".into(),
            wanted: format!("the interface of {}", request.id),
        });
    }
    link::create_veth(
        &VethEnd::here(&host).mtu(request.mtu),
        &VethEnd::inside(request.ifname, request.pod_netns)
            .mac(request.mac)
            .mtu(request.mtu)
            .gso_segments(run_segments(request.mtu)),
    )?;
    settle(&host, request)
        .and_then(|()| finished(&host))
        .map_err(|cause| match link::delete(&host) {
            Ok(_) => cause,
            Err(undo) => Error::NotUndone {
                cause: cause.into(),
                undo: undo.into(),
            },
        })
}

/// Segments that a pod's TCP hands over at once: as many as the sleeve sends in one call, each in a datagram with 62 octets
/// around it (Ethernet header, header, meta, tag); 65,507 octets are the longest UDP payload of IPv4 (RFC 768, RFC 791),
/// and 64 datagrams what kernels before 6.9 cut at once. What is longer takes two calls, and arrives in two parts.
#[must_use]
pub const fn run_segments(mtu: u32) -> u32 {
    match 65_507 / mtu.saturating_add(62) {
        0 => 1,
        count if count > 64 => 64,
        count => count,
    }
}

/// Removes an attachment, finished or half done, with both ends of its veth pair. `false` when there
/// was none, which is what a second call finds.
///
/// # Errors
/// When the kernel refuses, or the interface of that name records another id.
pub fn detach(id: &str) -> Result<bool> {
    check_id(id)?;
    let _turn = Turn::take()?;
    let host = host_ifname(id);
    let Some(found) = link::find(&host)? else {
        return Ok(false);
    };
    own(&found, id)?;
    link::delete(&host)
}

/// The attachment of an id, if it is there and finished.
///
/// # Errors
/// When the kernel cannot be asked, or the interface of that name records another id.
pub fn find(id: &str) -> Result<Option<Attachment>> {
    check_id(id)?;
    match link::find(&host_ifname(id))? {
        Some(found) => own(&found, id),
        None => Ok(None),
    }
}

/// The attachments of a bridge, ordered by id.
///
/// # Errors
/// When the bridge does not exist.
pub fn attachments(bridge: &str) -> Result<Vec<Attachment>> {
    let index = link::get(bridge)?.index;
    let mut found: Vec<Attachment> = link::list()?
        .iter()
        .filter(|link| link.master == Some(index) && link.name.starts_with(HOST_PREFIX))
        .filter_map(Attachment::read)
        .collect();
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

fn check(request: &AttachRequest<'_>) -> Result<()> {
    check_id(request.id)?;
    link::check_name(request.ifname)?;
    if request.mac[0] & 1 != 0 || request.mac == [0; 6] {
        return Err(Error::Invalid {
            what: "MAC address",
            value: DisplayMac(request.mac).to_string(),
            rule: "it is the address of one host: not zero, and the lowest bit of its first byte is 0",
        });
    }
    if record(request).len() > MAX_ALIAS {
        return Err(Error::Invalid {
            what: "list of addresses",
            value: list(request.address, request.further),
            rule: "with the id, the kernel's record of an attachment has 254 characters: name fewer addresses, or a \
                   shorter id",
        });
    }
    Ok(())
}

fn check_id(id: &str) -> Result<()> {
    if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        return Ok(());
    }
    Err(Error::Invalid {
        what: "attachment id",
        value: id.into(),
        rule: "it has 1 to 128 printable ASCII characters, without space or colon",
    })
}

/// Makes sure that a link of this id's name is this id's. One without a record is half done and counts.
fn own(found: &Link, id: &str) -> Result<Option<Attachment>> {
    let conflict = |holder: String| Error::Conflict {
        what: format!("the interface {}", found.name),
        found: holder,
        wanted: format!("the host end of {id}"),
    };
    if found.kind.as_deref() != Some("veth") {
        return Err(conflict(format!(
            "a device of kind {}",
            found.kind.as_deref().unwrap_or("hardware")
        )));
    }
    match Attachment::read(found) {
        Some(record) if record.id != id => Err(conflict(format!("the host end of {}", record.id))),
        record => Ok(record),
    }
}

/// What is recorded when `found` is this request's finished attachment; an error when it is another one.
fn find_finished(found: &Link, request: &AttachRequest<'_>) -> Result<Option<Attachment>> {
    let Some(record) = own(found, request.id)? else {
        return Ok(None);
    };
    let is_same = (record.mac, record.address) == (request.mac, request.address)
        && record.further.starts_with(request.further);
    if !is_same {
        let show = |mac: MacAddr, address: IpNet, further: &[IpNet]| {
            format!("{} at {}", list(address, further), DisplayMac(mac))
        };
        return Err(Error::AttachConflict {
            id: request.id.into(),
            found: show(record.mac, record.address, &record.further),
            wanted: show(request.mac, request.address, request.further),
        });
    }
    let pod = request.pod_netns.run(|| link::find(request.ifname))??;
    let known_as = link::namespace_id(request.pod_netns)?;
    // Index and namespace together name an interface; either alone does not.
    let is_peer = pod.is_some_and(|pod| found.peer == Some(pod.index)) && found.peer_namespace == known_as;
    if is_peer {
        Ok(Some(record))
    } else {
        Err(Error::AttachedElsewhere {
            id: request.id.into(),
        })
    }
}

/// Brings both ends of the pair to the state asked for. Each step is a no-op when it is there.
fn settle(host: &str, request: &AttachRequest<'_>) -> Result<()> {
    request.pod_netns.run(|| settle_pod(request))??;
    settle_host(host, request)
}

fn settle_pod(request: &AttachRequest<'_>) -> Result<()> {
    let name = request.ifname;
    let link = link::get(name)?;
    if link.mac != Some(request.mac) {
        link::set_mac(name, request.mac)?;
    }
    if link.mtu != request.mtu {
        link::set_mtu(name, request.mtu)?;
    }
    let addresses = || core::iter::once(request.address).chain(request.further.iter().copied());
    if addresses().any(|address| matches!(address, IpNet::V6(_))) {
        crate::sysctl::set_ipv6(name, true)?;
    }
    if !link.up {
        link::set_up(name)?;
    }
    for address in addresses() {
        addr::add(name, address)?;
    }
    if let Some(gateway) = request.gateway {
        route::add_default(name, gateway)?;
    } else if matches!(request.address, IpNet::V4(_)) && !has_default_route()? {
        // Without any route, sending to a group fails with ENETUNREACH.
        route::add(name, multicast_v4(), None)?;
    }
    Ok(())
}

fn settle_host(host: &str, request: &AttachRequest<'_>) -> Result<()> {
    let bridge = link::get(request.bridge)?;
    let found = link::get(host)?;
    if found.mtu != request.mtu {
        link::set_mtu(host, request.mtu)?;
    }
    // The host end has nothing to say to the pod.
    link::set_ipv6(host, false)?;
    if found.master != Some(bridge.index) {
        link::set_master(host, Some(request.bridge))?;
    }
    let wanted = PortFlags::default();
    if link::get(host)?.port != Some(wanted) {
        link::set_port_flags(host, &wanted)?;
    }
    if !found.up {
        link::set_up(host)?;
    }
    // Otherwise the pod's first frames would be lost.
    if bridge.up && !link::wait_forwarding(host, PORT_READY)? {
        return Err(Error::NotForwarding {
            port: host.into(),
            bridge: request.bridge.into(),
        });
    }
    let record = record(request);
    if found.alias.as_deref() != Some(&record) {
        link::set_alias(host, &record)?;
    }
    // Whoever knew the address at another place learns the new one. It is reached without this too, so a namespace that
    // allows no packet sockets is no reason to fail.
    for address in core::iter::once(&request.address).chain(request.further) {
        let announced = request
            .pod_netns
            .run(|| announce(request.ifname, request.mac, address.addr()));
        drop(announced);
    }
    Ok(())
}

/// What the alias of a finished host end says.
fn record(request: &AttachRequest<'_>) -> String {
    format!(
        "{RECORD}{}:{}:{}",
        request.id,
        DisplayMac(request.mac),
        list(request.address, request.further)
    )
}

fn list(address: IpNet, further: &[IpNet]) -> String {
    let mut list = address.to_string();
    for address in further {
        list.push(',');
        list.push_str(&address.to_string());
    }
    list
}

fn finished(host: &str) -> Result<Attachment> {
    let link = link::get(host)?;
    Attachment::read(&link).ok_or_else(|| Error::Malformed {
        action: format!("read back the attachment {host}"),
        reason: format!("its alias is {:?}", link.alias),
    })
}

fn has_default_route() -> Result<bool> {
    Ok(route::list()?
        .iter()
        .any(|route| route.is_default() && matches!(route.destination, IpNet::V4(_))))
}

/// 224.0.0.0/4 (RFC 5771).
fn multicast_v4() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(alias: &str) -> Link {
        let mut links = crate::link::list().unwrap();
        Link {
            alias: Some(alias.into()),
            name: "vw0".into(),
            ..links.remove(0)
        }
    }

    #[test]
    fn a_record_is_read_back_for_both_families() {
        for (address, id) in [
            ("10.32.0.5/12", "web-1"),
            ("fd00::5/64", "ns/pod.2"),
            ("10.0.0.1/32", "a"),
        ] {
            let found = Attachment::read(&link(&format!("weft:{id}:02:01:00:00:00:05:{address}"))).unwrap();
            assert_eq!((found.id.as_str(), found.mac), (id, [2, 1, 0, 0, 0, 5]));
            assert_eq!(found.address.to_string(), address);
        }
        let found = Attachment::read(&link(
            "weft:a:02:01:00:00:00:05:10.32.0.5/12,10.32.7.1/24,10.32.8.9/24",
        ));
        let further: Vec<IpNet> = ["10.32.7.1/24", "10.32.8.9/24"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(found.unwrap().further, further);
    }

    #[test]
    fn other_aliases_are_no_record() {
        for alias in [
            "",
            "weft:",
            "weft:a",
            "weft:a:02:01:00:00:00:05",
            "weft:a:02:01:00:00:00:0g:10.0.0.1/8",
            "weft:a:02:01:00:00:00:05:10.0.0.1/8,",
            "uplink",
        ] {
            assert_eq!(Attachment::read(&link(alias)), None, "{alias}");
        }
    }

    #[test]
    fn the_host_name_fits_and_is_stable() {
        let name = host_ifname("web-1");
        assert_eq!(name.len(), link::MAX_NAME);
        assert_eq!(name, host_ifname("web-1"));
        assert_ne!(name, host_ifname("web-2"));
        // printf a | sha256sum
        assert_eq!(host_ifname("a"), "vwca978112ca1bb");
    }
}
