//! `weft attach` and `weft detach`: the router says what the pod gets, the kernel is wired here, in the caller's
//! namespaces.

use super::BRIDGE;
use crate::api::client::Client;
use crate::cli::{AttachArgs, DetachArgs};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use weft_kernel::attach::{AttachRequest, Attachment};
use weft_kernel::link;
use weft_wire::Mac;
use weft_wire::api::{Detached, FreeRequest, Pod, PodAddresses, PodRequest};

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
    let request = PodRequest {
        id: id.clone(),
        address: args.ip,
    };
    let plan = super::allocate(&client, &request)?;
    let mac: Mac = plan
        .mac
        .parse()
        .context("the router's answer cannot be read: is it of another version?")?;
    let attachment = weft_kernel::attach::attach(&AttachRequest {
        pod_netns: &netns,
        bridge: &plan.bridge,
        id: &id,
        ifname: &args.ifname,
        mac: mac.0,
        address: plan.address,
        mtu: u32::from(plan.mtu),
        gateway: None,
    })?;
    let pod = pod(&attachment);
    let words = format!(
        "attached {} as {} ({}), {} in the pod",
        pod.id, pod.address, pod.mac, args.ifname
    );
    super::print(args.router.json, &pod, &words)
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
