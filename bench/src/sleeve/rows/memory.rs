//! Memory of an engine with one peer, and with many: two processes that are nothing but an engine, in two hosts, each
//! with so many sessions, after each has carried frames both ways.

use super::Row;
use crate::figure::Sample;
use crate::goal::Goal;
use crate::sleeve::contender::{self, BRIDGE};
use crate::sleeve::iperf::Process;
use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use weft_kernel::{link, tap};
use weft_lab::{Error, Host, Lab, Station};

/// Names are those that the engine's process expects.
const TAP: &str = "weft-tap";
const PORT: u16 = 6_783;
/// What a router gives its pods on an underlay of 1500.
const MTU: u32 = 1_366;
/// By then every session has carried frames both ways.
const PATIENCE: Duration = Duration::from_secs(20);
/// Peers, and what the memory with them should be.
const PEERS: [(u16, f64); 2] = [(1, 20.0), (500, 60.0)];
/// Octets of a frame, and of its addresses and type.
const FRAME: usize = 1_200;
/// An ethertype for experiments (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Frames sent at once: fewer than a TAP device queues.
const AT_ONCE: usize = 250;
/// Between two looks at what the engines say.
const GLANCE: Duration = Duration::from_millis(10);
/// How an engine's process begins its answer.
const ANSWER: &str = "resident octets: ";

pub(super) const ROW: Row = Row {
    name: "memory",
    about: "resident memory of an engine with 1 and with 500 peers",
    contenders: &[],
    round: |stand, _| {
        let mut figures = Vec::new();
        for (peers, limit) in PEERS {
            let octets = measure(peers, &stand.options.engine_memory, &stand.lab)?;
            let what = match peers {
                1 => "memory of an engine with 1 peer".to_owned(),
                peers => format!("memory of an engine with {peers} peers"),
            };
            figures.push(Sample::new(what, "MB", octets / 1e6).goal(Goal::limit(limit)));
        }
        Ok(figures)
    },
};

/// Octets of the larger of two engines.
fn measure(peers: u16, program: &Path, stand: &Lab) -> anyhow::Result<f64> {
    // One of its own, so that hosts have the same names in every round.
    let lab = Lab::new("bench-memory")?;
    let hosts = contender::hosts(&lab, "memory", |host| host)?;
    let [a, b] = &hosts;
    let mut engines = [
        engine(&lab, program, (a, b), (peers, 0))?,
        engine(&lab, program, (b, a), (peers, 1))?,
    ];
    let pods = [pod(a, 1)?, pod(b, 2)?];
    let frames = [frames(&pods[0], peers)?, frames(&pods[1], peers)?];
    let end = Instant::now() + PATIENCE;
    let interrupt = stand.interrupt();
    loop {
        for (pod, frames) in pods.iter().zip(&frames) {
            for some in frames.chunks(AT_ONCE) {
                pod.send_frames(some)?;
                std::thread::sleep(GLANCE);
            }
        }
        let answers = engines.each_ref().map(|engine| engine.answer());
        if let [Some(one), Some(other)] = answers {
            return Ok(one.max(other));
        }
        if interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted.into());
        }
        for engine in &mut engines {
            if let Some(status) = engine.process.ended()? {
                bail!("an engine ended ({status}): {}", engine.said());
            }
        }
        if Instant::now() > end {
            bail!(
                "not every session has carried frames after {PATIENCE:?}: {}",
                engines[0].said()
            );
        }
    }
}

struct Engine {
    process: Process,
    log: PathBuf,
}

impl Engine {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn answer(&self) -> Option<f64> {
        self.said()
            .lines()
            .find_map(|line| line.strip_prefix(ANSWER)?.parse().ok())
    }
}

fn engine(
    lab: &Lab,
    program: &Path,
    (host, other): (&Host, &Host),
    (peers, side): (u16, u8),
) -> anyhow::Result<Engine> {
    host.namespace().run(|| -> weft_kernel::Result<()> {
        tap::create_persistent(TAP)?;
        link::set_ipv6(TAP, false)?;
        link::set_mtu(TAP, MTU)?;
        link::set_up(TAP)
    })??;
    let at = |host: &Host| -> anyhow::Result<String> { Ok(SocketAddr::new(host.ipv4()?, PORT).to_string()) };
    let mut command = Command::new(program);
    command.args(["--tap", TAP, "--listen", &at(host)?, "--peer", &at(other)?]);
    command.args(["--peers", &peers.to_string(), "--side", &side.to_string()]);
    let log = lab.folder().join(format!("{}.log", host.name()));
    let process = Process::start(host, command, &log).with_context(|| program.display().to_string())?;
    Ok(Engine { process, log })
}

fn pod(host: &Host, number: u8) -> anyhow::Result<Station> {
    let address = Ipv4Net::new(Ipv4Addr::new(10, 43, 0, number), 24)?;
    let pod = contender::bridged_pod(host, &[TAP], IpNet::V4(address), MTU)?;
    let forwards = host.namespace().run(|| link::wait_forwarding(TAP, PATIENCE))??;
    if !forwards {
        bail!("the port {TAP} of {BRIDGE} does not pass frames");
    }
    Ok(pod)
}

/// One frame for each peer.
fn frames(pod: &Station, peers: u16) -> anyhow::Result<Vec<Vec<u8>>> {
    let source = pod.mac()?;
    let frame = |peer: u16| {
        let mut frame = [&crate::sleeve::peer_mac(peer)[..], &source, &ETHERTYPE].concat();
        frame.resize(FRAME, 0x5a);
        frame
    };
    Ok((0..peers).map(frame).collect())
}
