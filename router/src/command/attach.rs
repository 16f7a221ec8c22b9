//! `weft attach` and `weft detach`: the router says what the pod gets, the kernel is wired here, in the caller's
//! namespaces.

use super::{BRIDGE, Given};
use crate::api::client::Client;
use crate::cli::{AttachArgs, DetachArgs};
use anyhow::{Context, bail};
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use weft_kernel::attach::{AttachRequest, Attachment};
use weft_kernel::{Namespace, link};
use weft_wire::Mac;
use weft_wire::api::{Detached, FreeRequest, Pod, PodAddresses, PodPlan, PodRequest};

/// Where iproute2 keeps named namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";

pub(crate) fn attach(args: &AttachArgs) -> anyhow::Result<()> {
    let path = namespace_path(&args.netns);
    let id = match &args.id {
        Some(id) => id.clone(),
        None => default_id(&args.netns)?,
    };
    let netns = weft_kernel::attach::open_pod(&path)?;
    let client = Client::new(&args.router.socket);
    let given = Given::all(&client, &id, &wishes(&id, args))?;
    let attachment = match wire(args, &netns, &id, &given.plans) {
        Ok(attachment) => attachment,
        Err(error) => return Err(given.give_back(error)),
    };
    let addresses: Vec<String> = attachment.addresses().map(|net| net.to_string()).collect();
    let pod = pod(&attachment);
    let words = format!(
        "attached {} as {} ({}), {} in the pod",
        pod.id,
        addresses.join(", "),
        pod.mac,
        args.ifname
    );
    super::print(args.router.json, &pod, &words)
}

/// What the command line asks for: the addresses that it names, then those of subnets; any one when it names none.
fn wishes(id: &str, args: &AttachArgs) -> Vec<PodRequest> {
    let named = args.ip.iter().map(|named| (Some(named.address), named.subnet));
    let chosen = args.subnet.iter().map(|subnet| (None, Some(*subnet)));
    let mut wishes: Vec<_> = named.chain(chosen).collect();
    if wishes.is_empty() {
        wishes.push((None, None));
    }
    let request = |(address, subnet)| super::pod_request(id, address, subnet, &args.patience);
    wishes.into_iter().map(request).collect()
}

/// Wires the pod; its MAC address is that of the first plan.
fn wire(args: &AttachArgs, netns: &Namespace, id: &str, plans: &[PodPlan]) -> anyhow::Result<Attachment> {
    let (first, further) = plans.split_first().context("no address was given")?;
    let mac: Mac = first
        .mac
        .parse()
        .context("the router's answer cannot be read: is it of another version?")?;
    let further: Vec<IpNet> = further.iter().map(|plan| plan.address).collect();
    Ok(weft_kernel::attach::attach(&AttachRequest {
        pod_netns: netns,
        bridge: &first.bridge,
        id,
        ifname: &args.ifname,
        mac: mac.0,
        address: first.address,
        further: &further,
        mtu: u32::from(first.mtu),
        gateway: None,
    })?)
}

pub(crate) fn detach(args: &DetachArgs) -> anyhow::Result<()> {
    let id = default_id(&args.netns)?;
    let was_attached = weft_kernel::attach::detach(&id)?;
    // Only what is off the wire is given back.
    let client = Client::new(&args.router.socket);
    let request = FreeRequest {
        id: id.clone(),
        address: None,
    };
    let answer: anyhow::Result<PodAddresses> =
        super::block_on(super::ASKING, client.post("/v1/pods/free", &request));
    let (freed, reserved_because) = match answer {
        Ok(answer) => (answer.addresses, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    if was_attached || !freed.is_empty() {
        let words = match (&reserved_because, was_attached) {
            (None, true) => format!("detached {id}"),
            (Some(why), _) => {
                format!("detached {id}; its address stays reserved until `weft ipam free {id}`: {why}")
            }
            (None, false) => format!("{id} was not attached; its address is given back"),
        };
        let detached = Detached {
            id,
            was_attached,
            freed,
            reserved_because,
        };
        return super::print(args.router.json, &detached, &words);
    }
    let attached: Vec<String> = pods()?.into_iter().map(|pod| pod.id).collect();
    match attached.as_slice() {
        [] => bail!("{id} is not attached on this host: no pod is"),
        some => bail!(
            "{id} is not attached on this host; attached are: {}",
            some.join(", ")
        ),
    }
}

/// The pods on this host's bridge, as the kernel records them; none when there is no bridge.
pub(crate) fn pods() -> anyhow::Result<Vec<Pod>> {
    if link::find(BRIDGE)?.is_none() {
        return Ok(Vec::new());
    }
    Ok(weft_kernel::attach::attachments(BRIDGE)?
        .iter()
        .map(pod)
        .collect())
}

fn pod(attachment: &Attachment) -> Pod {
    Pod {
        id: attachment.id.clone(),
        address: attachment.address,
        mac: Mac(attachment.mac).to_string(),
        further: attachment.further.clone(),
    }
}

fn namespace_path(given: &Path) -> PathBuf {
    if given.components().count() == 1 && !given.exists() {
        Path::new(NAMED_NAMESPACES).join(given)
    } else {
        given.into()
    }
}

fn default_id(given: &Path) -> anyhow::Result<String> {
    given
        .to_str()
        .map(str::to_owned)
        .context("the namespace's path is not UTF-8: name the pod with --id")
}
