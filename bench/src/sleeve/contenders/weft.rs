//! The real thing: `weft up` on both hosts, `weft attach` for both pods.

use super::Built;
use crate::sleeve::Options;
use crate::sleeve::contender::{self, Contender, keep};
use std::ops::Deref as _;
use std::time::Duration;
use weft_lab::{Host, Lab, Router};
use weft_wire::api::ClusterStatus;

/// Founding, joining and probing the path take less, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// MTU of the underlay: the path is known when it is seen to carry this.
const UNDERLAY_MTU: u16 = 1_500;

pub(super) fn build(lab: &Lab, options: &Options) -> anyhow::Result<Built> {
    let hosts = contender::hosts(lab, "weft", |host| host)?;
    let [a, b] = &hosts;
    let up = |host: &Host, arguments: &[&str]| -> anyhow::Result<Router> {
        let further = options.up.iter().map(String::as_str);
        Ok(host.up(arguments.iter().copied().chain(further))?)
    };
    let founder = up(a, &["--found"])?;
    founder.wait_until("it is a member", PATIENCE, |status| {
        matches!(status.cluster, ClusterStatus::Member { .. })
    })?;
    let token = lab.secret_file("token", &founder.token()?)?;
    let (peer, token) = (a.ipv4()?.to_string(), token.to_string_lossy().into_owned());
    let other = up(b, &["--peer", &peer, "--token-file", &token])?;
    let mut notes = Vec::new();
    for router in [&founder, &other] {
        router.wait_for_peers(1, PATIENCE)?;
        // Until then it cuts what it could send whole.
        let status = router.wait_until("the path is known", PATIENCE, |status| {
            status
                .peers
                .iter()
                .all(|peer| peer.path_mtu >= Some(UNDERLAY_MTU))
        })?;
        if notes.is_empty() {
            let cipher = status.peers.iter().find_map(|peer| peer.cipher.clone());
            notes.push(format!(
                "weft {}: engine {}, cipher {}, pods' MTU {}{}",
                status.version,
                status.engine,
                cipher.unwrap_or_default(),
                status.pod_mtu,
                status
                    .warnings
                    .iter()
                    .map(|warning| format!("; it warns: {warning}"))
                    .collect::<String>()
            ));
        }
    }
    let pods = [a.pod("weft-1", [10, 32, 0, 1])?, b.pod("weft-2", [10, 32, 0, 2])?];
    let stations = [pods[0].deref().clone(), pods[1].deref().clone()];
    let [first, second] = pods;
    let parts = vec![keep(founder), keep(other), keep(first), keep(second)];
    Ok((Contender::new(lab, hosts, stations, parts)?, notes))
}
