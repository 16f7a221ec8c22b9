//! The yardstick: one frame, one datagram, snow, tun-tap.

use crate::sleeve::Options;
use crate::sleeve::contender::{self, Contender, keep};
use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use weft_kernel::{link, tap};
use weft_lab::{Host, Lab};

const TAP: &str = "tap0";
const PORT: u16 = 7_000;
/// What is left of 1500: outer IPv4, UDP, counter, tag and inner Ethernet take 20, 8, 8, 16 and 14.
const MTU: u32 = 1_434;
/// Octets of the key that both ends know, and of each end's seed.
const SECRET: usize = 32;

pub(super) fn build(lab: &Lab, options: &Options) -> anyhow::Result<Contender> {
    let hosts = contender::hosts(lab, "naive", |host| host)?;
    let [a, b] = &hosts;
    let key = random()?;
    let end = |host: &Host, other: &Host, begins: bool| -> anyhow::Result<_> {
        host.namespace().run(|| -> weft_kernel::Result<()> {
            tap::create_persistent(TAP)?;
            link::set_ipv6(TAP, false)?;
            link::set_mtu(TAP, MTU)
        })??;
        let at = |address: IpAddr| SocketAddr::new(address, PORT).to_string();
        let secret = host.folder().join("secret");
        std::fs::write(&secret, [key, random()?].concat()).context("the yardstick's secret")?;
        let mut command = Command::new(&options.naive);
        command.args([
            "--tap",
            TAP,
            "--listen",
            &at(host.ipv4()?),
            "--peer",
            &at(other.ipv4()?),
        ]);
        command.arg("--secret").arg(secret);
        if begins {
            command.arg("--begin");
        }
        let process =
            contender::process(host, lab, command).with_context(|| options.naive.display().to_string())?;
        Ok(keep(process))
    };
    let parts = vec![end(a, b, false)?, end(b, a, true)?];
    let pod = |host: &Host, number: u8| -> anyhow::Result<_> {
        let address = Ipv4Net::new(Ipv4Addr::new(10, 41, 0, number), 24)?;
        contender::bridged_pod(host, &[TAP], IpNet::V4(address), MTU)
    };
    let pods = [pod(a, 1)?, pod(b, 2)?];
    Contender::new(lab, hosts, pods, parts)
}

fn random() -> anyhow::Result<[u8; SECRET]> {
    let mut bytes = [0; SECRET];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("the kernel gives no random bytes: {e}"))?;
    Ok(bytes)
}
