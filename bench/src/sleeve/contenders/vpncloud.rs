//! `vpncloud`: an encrypted Ethernet in userspace, in Rust.

use super::{Built, Failure};
use crate::sleeve::contender::{self, Contender, UNDERLAY, keep};
use crate::sleeve::iperf::program;
use anyhow::bail;
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use weft_kernel::{link, route};
use weft_lab::{Host, Lab};

/// The name of its device, and its port.
const DEVICE: &str = "vpncloud0";
const PORT: u16 = 3_210;
/// What it gives its own device on an underlay of 1500.
const MTU: u32 = 1_400;
/// By then its device is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is looked for this often.
const GLANCE: Duration = Duration::from_millis(5);

pub(super) fn build(lab: &Lab) -> Result<Built, Failure> {
    let Some(daemon) = program("vpncloud") else {
        return Err(Failure::Missing(
            "vpncloud is left out: put it into PATH with `cargo install vpncloud` to see it".into(),
        ));
    };
    let hosts = contender::hosts(lab, "vpncloud", |host| host)?;
    let [a, b] = &hosts;
    let parts = vec![keep(start(lab, &daemon, a, b)?), keep(start(lab, &daemon, b, a)?)];
    let pod = |host: &Host, number: u8| -> anyhow::Result<_> {
        let address = Ipv4Net::new(Ipv4Addr::new(10, 44, 0, number), 24)?;
        contender::bridged_pod(host, &[DEVICE], IpNet::V4(address), MTU)
    };
    let pods = [pod(a, 1)?, pod(b, 2)?];
    let version = a.run(version_of(&daemon), None)?;
    let note = version.stdout.lines().next().unwrap_or_default().to_owned();
    Ok((Contender::new(lab, hosts, pods, parts)?, vec![note]))
}

fn version_of(daemon: &Path) -> Command {
    let mut command = Command::new(daemon);
    command.arg("--version");
    command
}

fn start(
    lab: &Lab,
    daemon: &Path,
    host: &Host,
    other: &Host,
) -> anyhow::Result<crate::sleeve::iperf::Process> {
    // Without a route to everywhere it ends at once: it looks for its own address by one.
    let gateway = other.ipv4()?;
    host.namespace().run(|| route::add_default(UNDERLAY, gateway))??;
    let mut command = Command::new(daemon);
    command.args(["--type", "tap", "--mode", "switch", "--device", DEVICE]);
    command.args([
        "--listen",
        &PORT.to_string(),
        "--peer",
        &format!("{}:{PORT}", other.ipv4()?),
    ]);
    // Both ends know it, and nobody else is there.
    command.args(["--password", "bench", "--no-port-forwarding"]);
    let mut process = contender::process(host, lab, command)?;
    let end = Instant::now() + PATIENCE;
    while host.namespace().run(|| link::find(DEVICE))??.is_none() {
        if let Some(status) = process.ended()? {
            bail!("vpncloud ended at once ({status})");
        }
        if Instant::now() > end {
            bail!("{DEVICE} is not there after {PATIENCE:?}");
        }
        std::thread::sleep(GLANCE);
    }
    host.namespace().run(|| -> weft_kernel::Result<()> {
        link::set_ipv6(DEVICE, false)?;
        link::set_mtu(DEVICE, MTU)
    })??;
    Ok(process)
}
