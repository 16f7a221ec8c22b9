//! `weft down`: stop the router, then remove what it made in the kernel.

use super::attach::pods;
use super::{BRIDGE, TAP};
use crate::api::client::Client;
use crate::cli::DownArgs;
use anyhow::bail;
use weft_fastpath_driver::Driver;
use weft_wire::api::TakenDown;

pub(crate) fn down(args: &DownArgs) -> anyhow::Result<()> {
    let pods = pods()?;
    if !pods.is_empty() && !args.force {
        let ids: Vec<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
        bail!(
            "{} still attached: {}. Detach first, or take the network away from under them with --force",
            if pods.len() == 1 {
                "1 pod is".to_owned()
            } else {
                format!("{} pods are", pods.len())
            },
            ids.join(", ")
        );
    }
    let client = Client::new(&args.router.socket);
    let left = match args.leave {
        true => Some(super::leave::leave(args, &client, &pods)?),
        false => None,
    };
    let was_running = match &left {
        // It has ended with that.
        Some(_) => true,
        None => super::block_on("waiting for the router to stop", client.stop())?,
    };
    for pod in &pods {
        weft_kernel::attach::detach(&pod.id)?;
    }
    let remove = async { Ok(Driver::new(BRIDGE, TAP)?.remove().await?) };
    super::block_on("removing bridge and ports", remove)?;
    let handed = left
        .as_ref()
        .map(|(status, identity)| super::leave::words(status, identity));
    let (left, identity_kept_at) = left.unzip();
    let down = TakenDown {
        was_running,
        bridge: BRIDGE.to_owned(),
        detached: pods.into_iter().map(|pod| pod.id).collect(),
        left,
        identity_kept_at,
    };
    let router = match was_running {
        true => "stopped the router",
        false => "no router was running",
    };
    let words = format!(
        "{router}; bridge {BRIDGE} and its ports are removed{}",
        handed.unwrap_or_default()
    );
    super::print(args.router.json, &down, &words)
}
