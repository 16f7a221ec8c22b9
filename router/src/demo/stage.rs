//! What the steps play on: a switch, hosts with real routers, two pods on each.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use weft_gossip::JoinToken;
use weft_lab::{Content, Host, Lab, Pod, Router, Switch};
use weft_wire::api::ClusterStatus;

use super::DemoArgs;
use super::progress::Progress;
use super::report::Row;

/// How long founding, joining and meshing may take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods on each host.
const PODS: u8 = 2;
/// The text that stands in every kilobyte of the file.
pub(super) const NEEDLE: &[u8] = b"weft demo: if you can read this on the underlay, it is not encrypted";
/// Distance of two such texts in bytes: below what one packet carries, so that most packets hold one whole.
const NEEDLE_EVERY: usize = 1000;

/// Everything that runs. Dropping it ends and removes it.
pub(super) struct Stage {
    // Dropped in this order: routers before the hosts and the switch that they run on.
    pub(super) routers: Vec<Router>,
    pub(super) pods: Vec<Pod>,
    pub(super) content: Content,
    /// A host without a router.
    pub(super) stranger: Host,
    /// File with a token of another cluster.
    pub(super) wrong_token: PathBuf,
    _switch: Switch,
}

impl Stage {
    /// Makes the hosts, starts a router on each, waits until all are in one mesh, and attaches the pods.
    pub(super) fn build(lab: &Lab, args: &DemoArgs, progress: &Progress) -> anyhow::Result<(Self, Row)> {
        let switch = lab.switch()?;
        let hosts: Vec<Host> = (0..args.hosts)
            .map(|number| lab.host(&name(number)).on(&switch).build())
            .collect::<Result<_, _>>()?;
        let stranger = lab.host("stranger").on(&switch).build()?;
        let wrong_token = lab.secret_file("wrong-token", &token()?)?;
        let token = lab.secret_file("token", &token()?)?;
        let token = token
            .to_str()
            .context("the lab's folder has a name that is not UTF-8")?;

        let begin = Instant::now();
        let mut routers: Vec<Router> = Vec::new();
        for host in &hosts {
            progress.detail(&format!("weft up on {}", host.name()));
            let router = match routers.first() {
                None => {
                    let founder = host.up(["--found", "--token-file", token])?;
                    founder.wait_until("it has made a cluster", PATIENCE, |status| {
                        matches!(status.cluster, ClusterStatus::Member { .. })
                    })?;
                    founder
                }
                Some(founder) => {
                    let peer = founder.host().ipv4()?.to_string();
                    host.up(["--peer", &peer, "--token-file", token])?
                }
            };
            routers.push(router);
        }
        let mut clusters = Vec::new();
        for router in &routers {
            progress.detail(&format!("{} meets the others", router.host().name()));
            let status = router.wait_for_mesh(hosts.len() - 1, PATIENCE)?;
            clusters.extend(match status.cluster {
                ClusterStatus::Member { genesis, .. } => Some(genesis),
                ClusterStatus::AwaitingAdmission | ClusterStatus::Agreeing { .. } => None,
            });
        }
        let elapsed = begin.elapsed();

        let mut pods = Vec::new();
        for (number, host) in (0..).zip(&hosts) {
            for pod in 1..=PODS {
                let id = format!("{}{pod}", host.name());
                progress.detail(&format!("pod {id}"));
                pods.push(host.pod(&id, [10, 32, number + 1, pod])?);
            }
        }
        let members = clusters.len();
        clusters.sort();
        clusters.dedup();
        let row = Row {
            what: "hosts join".into(),
            expected: format!("{} hosts in 1 cluster", hosts.len()),
            seen: format!(
                "{members} hosts in {} cluster, in {:.1} s",
                clusters.len(),
                elapsed.as_secs_f64()
            ),
            passed: members == hosts.len() && clusters.len() == 1,
            error: None,
        };
        let stage = Self {
            routers,
            pods,
            content: Content::with_needle(args.bytes, u64::from_ne_bytes(random()?), NEEDLE, NEEDLE_EVERY),
            stranger,
            wrong_token,
            _switch: switch,
        };
        Ok((stage, row))
    }

    /// A pod on the first host and one on the last.
    pub(super) fn far_pods(&self) -> anyhow::Result<(&Pod, &Pod)> {
        self.pods
            .first()
            .zip(self.pods.last())
            .context("there are no pods")
    }

    /// The ends of all routers' logs.
    pub(super) fn logs(&self) -> String {
        self.routers.iter().fold(String::new(), |mut text, router| {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "--- end of the log of {}\n{}",
                router.host().name(),
                router.log_tail()
            );
            text
        })
    }

    /// A line for each host and pod: how to get a shell there.
    pub(super) fn how_to_step_in(&self) -> String {
        let pid = std::process::id();
        let user = if own_user_namespace() {
            format!(" --target {pid} --user --preserve-credentials")
        } else {
            String::new()
        };
        let mut text = String::from("Step in with\n");
        for router in &self.routers {
            let host = router.host();
            let path = host.namespace().path();
            let _ = writeln!(
                text,
                "  host {}  nsenter{user} --net={} $SHELL",
                host.name(),
                path.display()
            );
        }
        for pod in &self.pods {
            let path = pod.namespace().path();
            let _ = writeln!(
                text,
                "  pod {}  nsenter{user} --net={} $SHELL",
                pod.name(),
                path.display()
            );
        }
        text.push_str("and, from anywhere, see what a router says with\n");
        for router in &self.routers {
            let _ = writeln!(
                text,
                "  weft status --socket {}",
                router.host().socket().display()
            );
        }
        text
    }
}

/// `a`, `b` and so on.
fn name(number: u8) -> String {
    char::from(b'a' + number).to_string()
}

/// A fresh token, as an operator would make it.
fn token() -> anyhow::Result<String> {
    use rand_chacha::rand_core::SeedableRng as _;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed(random()?);
    Ok(JoinToken::generate(&mut rng).to_string())
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the kernel gives no random bytes: {e}"))?;
    Ok(bytes)
}

/// Whether this process maps only itself, as an ordinary user's demo does.
fn own_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().last() == Some("1"))
}
