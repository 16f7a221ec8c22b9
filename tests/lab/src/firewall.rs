//! A packet filter on a host, by `nft`.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::error::{Error, Result};
use crate::program;
use crate::station::Station;

/// Where `nft` may be when the search path of an ordinary user does not lead to it.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// The packet filter of one host. Rules add up until [`Firewall::clear`].
#[derive(Clone, Debug)]
pub struct Firewall {
    station: Station,
}

impl Firewall {
    pub(crate) fn new(station: Station) -> Self {
        Self { station }
    }

    /// Drops UDP datagrams that come in to, or go out to, this port.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_udp_port(&self, port: u16) -> Result<()> {
        self.add(&format!("udp dport {port} drop"))
    }

    /// Drops UDP datagrams that come in to this port from this address.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_udp_port_from(&self, port: u16, address: IpAddr) -> Result<()> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        self.add_to(
            &["input"],
            &format!("{family} saddr {address} udp dport {port} drop"),
        )
    }

    /// Drops UDP datagrams that come in from, or go out to, this address.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_udp_with(&self, address: IpAddr) -> Result<()> {
        self.drop_with(address, "meta l4proto udp")
    }

    /// Drops everything that comes in from, or goes out to, this address.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_all_with(&self, address: IpAddr) -> Result<()> {
        self.drop_with(address, "")
    }

    fn drop_with(&self, address: IpAddr, what: &str) -> Result<()> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        self.add(&format!("{family} saddr {address} {what} drop"))?;
        self.add(&format!("{family} daddr {address} {what} drop"))
    }

    /// Drops TCP segments that come in to, or go out to, this port.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_tcp_port(&self, port: u16) -> Result<()> {
        self.add(&format!("tcp dport {port} drop"))
    }

    /// Loses UDP datagrams that come in: of so many one, each by chance.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn lose_udp(&self, one_in: NonZeroU32) -> Result<()> {
        self.add_to(
            &["input"],
            &format!("meta l4proto udp numgen random mod {one_in} 0 drop"),
        )
    }

    /// Drops everything that comes in from this address; what goes out to it passes.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_from(&self, address: IpAddr) -> Result<()> {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        self.add(&format!("{family} saddr {address} drop"))
    }

    /// Drops the messages that say that a packet was too large for a link (RFC 1191, RFC 8201), those that come in and
    /// those that go out.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn drop_too_big(&self) -> Result<()> {
        self.add("icmp type destination-unreachable icmp code frag-needed drop")?;
        self.add("icmpv6 type packet-too-big drop")
    }

    /// Removes every rule.
    ///
    /// # Errors
    /// When `nft` is missing or refuses.
    pub fn clear(&self) -> Result<()> {
        run(&self.station, "table inet weft_lab\ndelete table inet weft_lab\n")
    }

    fn add(&self, rule: &str) -> Result<()> {
        self.add_to(&["input", "output"], rule)
    }

    fn add_to(&self, chains: &[&str], rule: &str) -> Result<()> {
        let hook = |name: &str| {
            format!(
                "add chain inet weft_lab {name} {{ type filter hook {name} priority 0; policy accept; }}\n"
            )
        };
        let rules: String = chains
            .iter()
            .map(|chain| format!("add rule inet weft_lab {chain} {rule}\n"))
            .collect();
        let text = format!(
            "add table inet weft_lab\n{}{}{}",
            hook("input"),
            hook("output"),
            rules
        );
        run(&self.station, &text)
    }
}

/// Gives a script to `nft` in a station's namespace. It is applied whole or not at all.
pub(crate) fn run(station: &Station, script: &str) -> Result<()> {
    for name in PROGRAMS {
        let mut command = program::command(name);
        command.args(["-f", "-"]);
        let namespace = station.namespace();
        match program::run(&station.lab, namespace, station.name(), command, Some(script)) {
            Ok(output) => return output.success().map(drop),
            Err(Error::Kernel(weft_kernel::Error::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound => {}
            Err(other) => return Err(other),
        }
    }
    Err(Error::MissingProgram {
        program: "nft",
        package: "nftables",
    })
}
