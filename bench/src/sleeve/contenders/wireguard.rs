//! `wireguard-go`: WireGuard in userspace. It carries packets, not frames, so pods are routed over it.

use super::{Built, Failure};
use crate::sleeve::contender::{self, Contender, keep};
use crate::sleeve::iperf::program;
use anyhow::Context;
use ipnet::{IpNet, Ipv4Net};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use weft_kernel::{link, route};
use weft_lab::{Host, HostBuilder, Lab};

const PORT: u16 = 51_820;
/// The program's own default.
const MTU: u32 = 1_420;
/// By then its interface is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is looked for this often.
const GLANCE: Duration = Duration::from_millis(5);

/// The folder in which it makes the socket by which `wg` sets it up.
const SOCKETS: &str = "/var/run/wireguard";

/// Removes the socket when the process could not.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // Mostly gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One host's part: a key pair, and its half of the pods' networks.
struct End<'a> {
    host: &'a Host,
    interface: String,
    private: PathBuf,
    public: String,
    number: u8,
}

pub(super) fn build(lab: &Lab) -> Result<Built, Failure> {
    let (Some(daemon), Some(tool)) = (program("wireguard-go"), program("wg")) else {
        return Err(Failure::Missing(
            "wireguard-go is left out: install the Debian packages wireguard-go and wireguard-tools to see it".into(),
        ));
    };
    let hosts = contender::hosts(lab, "wireguard", HostBuilder::forwarding)?;
    let ends = [End::new(&hosts[0], &tool, 1)?, End::new(&hosts[1], &tool, 2)?];
    let mut parts = Vec::new();
    for end in &ends {
        // The socket's folder is everybody's, so the name must be nobody else's.
        let mut command = Command::new(&daemon);
        command
            .args(["--foreground", &end.interface])
            .env("LOG_LEVEL", "error");
        let mut process = contender::process(end.host, lab, command)?;
        let socket = PathBuf::from(SOCKETS).join(format!("{}.sock", end.interface));
        let until = Instant::now() + PATIENCE;
        while !socket.exists() {
            if let Some(status) = process.ended()? {
                return Err(anyhow::anyhow!("wireguard-go ended at once ({status})").into());
            }
            if Instant::now() > until {
                return Err(anyhow::anyhow!("{} is not there after {PATIENCE:?}", socket.display()).into());
            }
            std::thread::sleep(GLANCE);
        }
        parts.extend([keep(process), keep(Socket(socket))]);
    }
    ends[0].meet(&ends[1], &tool)?;
    ends[1].meet(&ends[0], &tool)?;
    let version = hosts[0].run(version_of(&daemon), None)?;
    let pods = [ends[0].pod()?, ends[1].pod()?];
    let note = format!(
        "wireguard-go is {}; it carries packets, so its pods are routed",
        version.stdout.lines().next().unwrap_or_default()
    );
    drop(ends);
    Ok((Contender::new(lab, hosts, pods, parts)?, vec![note]))
}

fn version_of(daemon: &PathBuf) -> Command {
    let mut command = Command::new(daemon);
    command.arg("--version");
    command
}

impl<'a> End<'a> {
    fn new(host: &'a Host, tool: &PathBuf, number: u8) -> anyhow::Result<Self> {
        let ask = |word: &str, input: Option<&str>| -> anyhow::Result<String> {
            let mut command = Command::new(tool);
            command.arg(word);
            Ok(host.run(command, input)?.success()?.stdout.trim().to_owned())
        };
        let key = ask("genkey", None)?;
        let private = host.folder().join("key");
        std::fs::write(&private, &key).context("a key")?;
        Ok(Self {
            host,
            interface: format!("wg{}x{number}", std::process::id()),
            private,
            public: ask("pubkey", Some(&key))?,
            number,
        })
    }

    /// The network of its pods.
    fn network(&self) -> anyhow::Result<IpNet> {
        Ok(Ipv4Net::new(Ipv4Addr::new(10, 42, self.number, 0), 24)?.into())
    }

    fn meet(&self, other: &Self, tool: &PathBuf) -> anyhow::Result<()> {
        let network = other.network()?;
        let mut command = Command::new(tool);
        command.args(["set", &self.interface, "listen-port", &PORT.to_string()]);
        command.arg("private-key").arg(&self.private);
        command.args(["peer", &other.public, "allowed-ips", &network.to_string()]);
        command.args(["endpoint", &format!("{}:{PORT}", other.host.ipv4()?)]);
        self.host.run(command, None)?.success()?;
        self.host.namespace().run(|| -> weft_kernel::Result<()> {
            link::set_mtu(&self.interface, MTU)?;
            link::set_up(&self.interface)?;
            route::add(&self.interface, network, None)
        })??;
        Ok(())
    }

    fn pod(&self) -> anyhow::Result<weft_lab::Station> {
        let at = |last| -> anyhow::Result<IpNet> {
            Ok(Ipv4Net::new(Ipv4Addr::new(10, 42, self.number, last), 24)?.into())
        };
        contender::routed_pod(self.host, at(1)?, at(2)?, MTU)
    }
}
