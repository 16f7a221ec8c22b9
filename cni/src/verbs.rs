//! `ADD` and `DEL`: the router says what the container gets, the kernel is wired here, in the caller's namespace.

use crate::call::{Call, Place};
use crate::config::{self, Config};
use crate::failure::{Code, Failure};
use crate::outcome::{self, Interface, Outcome};
use crate::router::{Router, Trouble};
use crate::version::SpecVersion;
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::net::IpAddr;
use std::path::Path;
use weft_kernel::attach::{self, AttachRequest, Attachment};
use weft_kernel::{Error, Namespace, link, route};
use weft_wire::Mac;
use weft_wire::api::PodPlan;

/// Does what was called for. `None` is the empty output of a `DEL`.
pub(crate) fn run(call: Call, object: Map<String, Value>) -> Result<Option<Value>, Failure> {
    // Any version may ask which ones there are.
    if call == Call::Version {
        return Ok(Some(outcome::versions(
            object.get("cniVersion").and_then(Value::as_str),
        )));
    }
    let version = config::version(&object)?;
    let config = Config::read(object)?;
    match call {
        Call::Add {
            place,
            netns,
            address,
        } => add(&config, version, &place, &netns, address).map(Some),
        Call::Delete { place } => delete(&config, &place).map(|()| None),
        Call::Version => Ok(None),
    }
}

fn add(
    config: &Config,
    version: SpecVersion,
    place: &Place,
    netns_path: &Path,
    asked: Option<(IpAddr, Option<IpNet>)>,
) -> Result<Value, Failure> {
    config.check_for_add()?;
    let netns = attach::open_pod(netns_path).map_err(|error| {
        Failure::new(
            Code::Environment,
            format!("CNI_NETNS {} is not usable: {error}", netns_path.display()),
            "it is the path of the container's network namespace, such as /run/netns/NAME",
        )
    })?;
    let id = place.id(config.name());
    let before = attach::find(&id).map_err(wiring)?;
    let router = Router::new(config.socket());
    let (address, subnet) = asked.map_or((None, None), |(address, subnet)| (Some(address), subnet));
    let plan = match router.allocate(&id, address, subnet.or(config.subnet)) {
        Ok(plan) => plan,
        Err(trouble) if trouble.leaves_doubt() => {
            return Err(undo(&router, &id, before.as_ref(), None, trouble.into_failure()));
        }
        Err(trouble) => return Err(trouble.into_failure()),
    };
    wire(config, place, &netns, &id, &plan)
        .and_then(|attachment| {
            let outcome = describe(config, place, netns_path, &netns, &plan, &attachment)?;
            Ok(outcome.to_json(version))
        })
        .map_err(|failure| undo(&router, &id, before.as_ref(), Some(plan.address.addr()), failure))
}

fn wire(
    config: &Config,
    place: &Place,
    netns: &Namespace,
    id: &str,
    plan: &PodPlan,
) -> Result<Attachment, Failure> {
    let not_understood = |reason: String| {
        Trouble::NotUnderstood {
            path: "/v1/pods",
            reason,
        }
        .into_failure()
    };
    let mac: Mac = plan
        .mac
        .parse()
        .map_err(|e| not_understood(format!("MAC address {:?}: {e}", plan.mac)))?;
    let carried = u32::from(plan.mtu);
    let mtu = config.mtu.unwrap_or(carried);
    if mtu > carried {
        return Err(Failure::new(
            Code::Config,
            format!("the mtu {mtu} is more than this network carries, which is {carried}"),
            "leave mtu out of the network configuration to get the largest",
        ));
    }
    attach::attach(&AttachRequest {
        pod_netns: netns,
        bridge: &plan.bridge,
        id,
        ifname: place.ifname(),
        mac: mac.0,
        address: plan.address,
        further: &[],
        mtu,
        gateway: None,
    })
    .map_err(wiring)
}

/// Reads back what is there now.
fn describe<'a>(
    config: &'a Config,
    place: &Place,
    sandbox: &'a Path,
    netns: &Namespace,
    plan: &PodPlan,
    attachment: &Attachment,
) -> Result<Outcome<'a>, Failure> {
    let interface = |name: &str| -> weft_kernel::Result<(Interface, u32)> {
        let link = link::get(name)?;
        let interface = Interface {
            name: link.name,
            mac: link.mac,
        };
        Ok((interface, link.index))
    };
    let read = || -> weft_kernel::Result<Outcome<'a>> {
        let inside = || Ok((interface(place.ifname())?, route::list()?));
        let ((container, index), routes) = netns.run(|| -> weft_kernel::Result<_> { inside() })??;
        let connected = attachment.address.trunc();
        Ok(Outcome {
            bridge: interface(&plan.bridge)?.0,
            host: interface(&attachment.host_ifname)?.0,
            container,
            sandbox,
            address: attachment.address,
            routes: routes
                .into_iter()
                .filter(|route| route.interface == Some(index))
                // The kernel makes these by itself.
                .filter(|route| route.destination != connected && !is_link_local(route.destination.addr()))
                .collect(),
            dns: config.dns.as_ref(),
        })
    };
    read().map_err(wiring)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// Takes back what a failed `ADD` has done. What was attached `before` stays as it was, with its address.
fn undo(
    router: &Router<'_>,
    id: &str,
    before: Option<&Attachment>,
    address: Option<IpAddr>,
    failure: Failure,
) -> Failure {
    let freed = match (before, address) {
        (None, _) => {
            if let Err(error) = attach::detach(id) {
                return failure.and(&format!("what was made could not be removed: {error}"));
            }
            router.free(id, None)
        }
        (Some(before), Some(address)) if before.address.addr() != address => router.free(id, Some(address)),
        (Some(_), _) => return failure,
    };
    match freed {
        Ok(_) => failure,
        Err(trouble) => failure.and(&format!(
            "an address may stay reserved until DEL, or `weft ipam free {id}`: {trouble}"
        )),
    }
}

/// Only what is off the wire is given back. Each step finds its work done when the call is repeated.
fn delete(config: &Config, place: &Place) -> Result<(), Failure> {
    let id = place.id(config.name());
    attach::detach(&id).map_err(wiring)?;
    Router::new(config.socket())
        .free(&id, None)
        .map(drop)
        .map_err(|trouble| {
            trouble
                .into_failure()
                .and("the interface is gone, and its address stays reserved until DEL is called again")
        })
}

fn wiring(error: Error) -> Failure {
    match &error {
        Error::Conflict { .. } | Error::AttachConflict { .. } | Error::AttachedElsewhere { .. } => {
            Failure::new(
                Code::InTheWay,
                error.to_string(),
                "DEL removes what weft made for a container; anything else is for whoever made it to remove",
            )
        }
        // The sentence names the cure where there is one.
        _ => Failure::new(Code::Kernel, error.to_string(), ""),
    }
}
