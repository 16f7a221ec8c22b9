//! A router that hides one network behind one address.

use std::ops::Deref;

use crate::error::Result;
use crate::firewall;
use crate::host::Host;
use crate::lab::Lab;
use crate::underlay::Underlay;

/// A host that forwards from its first interface (inside) to its second (outside) with its own outside
/// address and, where it can, the sender's port. Give the hosts inside [`NatBox::inside`] as gateway.
#[derive(Clone, Debug)]
pub struct NatBox {
    host: Host,
}

impl Deref for NatBox {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl NatBox {
    /// Its address on the inside.
    ///
    /// # Errors
    /// Never in practice: a NAT box has IPv4 on both sides.
    pub fn inside(&self) -> Result<std::net::IpAddr> {
        self.host.ipv4()
    }

    /// Gives every flow a random port outside, so that a peer's address seen by one host is of no
    /// use to another (a symmetric NAT, RFC 4787 §4.1). Flows that exist are forgotten.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn symmetric(&self) -> Result<()> {
        firewall::run(&self.host, &script("masquerade random,fully-random"))
    }
}

pub(crate) fn build(lab: &Lab, name: &str, inside: &dyn Underlay, outside: &dyn Underlay) -> Result<NatBox> {
    let host = lab
        .host(name)
        .on(inside)
        .without_ipv6()
        .on(outside)
        .without_ipv6()
        .forwarding()
        .build()?;
    firewall::run(&host, &script("masquerade"))?;
    Ok(NatBox { host })
}

/// Replaces the whole table. What comes from outside and belongs to no flow is dropped.
fn script(masquerade: &str) -> String {
    format!(
        "table ip weft_nat\n\
         delete table ip weft_nat\n\
         table ip weft_nat {{\n\
             chain out {{ type nat hook postrouting priority 100; oifname \"eth1\" {masquerade}; }}\n\
             chain pass {{ type filter hook forward priority 0; iifname \"eth1\" ct state new drop; }}\n\
         }}\n"
    )
}
