//! What a user plugs into a host's bridge by hand, without asking weft: devices with addresses of their own, and cables
//! to other bridges.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use weft_kernel::link::VethEnd;
use weft_kernel::{MacAddr, Namespace, addr, announce, link, sysctl};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::check_name;
use crate::station::Station;

/// The bridge of a host's overlay.
const BRIDGE: &str = "weft";
/// The device's own interface.
const INTERFACE: &str = "eth0";
/// A port opens within milliseconds of its carrier, on a busy machine within tens of them.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names of interfaces are 15 octets at most.
const PORT_NAME_MAX: usize = 15;

impl Host {
    /// Plugs a device into the overlay's bridge: a namespace with this Ethernet address and these addresses. It announces
    /// the first of them, as devices do that come up. It is unplugged when the station is dropped.
    ///
    /// # Errors
    /// When there is no bridge yet, or the kernel refuses.
    pub fn plug(&self, name: &str, mac: MacAddr, addresses: &[IpNet]) -> Result<Station> {
        check_name(name)?;
        let namespace = Namespace::new()?;
        let port = port_name("x", name);
        self.namespace().run(|| {
            link::create_veth(
                &VethEnd::here(&port),
                &VethEnd::inside(INTERFACE, &namespace).mac(mac),
            )?;
            link::set_ipv6(&port, false)
        })??;
        namespace.run(|| -> Result<()> {
            if addresses.iter().all(|address| address.addr().is_ipv4()) {
                sysctl::set_ipv6(INTERFACE, false)?;
            }
            link::set_up(INTERFACE)?;
            for address in addresses {
                addr::add(INTERFACE, *address)?;
            }
            Ok(())
        })??;
        self.enslave(&port)?;
        if let Some(first) = addresses.first() {
            namespace.run(|| announce::announce(INTERFACE, mac, first.addr()))??;
        }
        Ok(Station {
            lab: Arc::clone(&self.lab),
            name: name.to_owned(),
            namespace,
            interface: INTERFACE.to_owned(),
            addresses: addresses.iter().map(IpNet::addr).collect(),
        })
    }

    /// Unplugs a device. Its namespace would go with the station too, but only when the kernel gets to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug(&self, device: &Station) -> Result<()> {
        let port = port_name("x", device.name());
        self.namespace().run(|| link::delete(&port))??;
        Ok(())
    }

    /// Joins the overlay's bridge with another host's by a cable of its own.
    ///
    /// # Errors
    /// When one has no bridge yet, or the kernel refuses.
    pub fn join(&self, other: &Host) -> Result<Cable> {
        let (here, there) = (port_name("j", other.name()), port_name("j", self.name()));
        self.namespace().run(|| {
            link::create_veth(&VethEnd::here(&here), &VethEnd::inside(&there, other.namespace()))
        })??;
        for (host, port) in [(self, &here), (other, &there)] {
            host.namespace().run(|| link::set_ipv6(port, false))??;
            host.enslave(port)?;
        }
        Ok(Cable {
            host: self.clone(),
            port: here,
        })
    }

    fn enslave(&self, port: &str) -> Result<()> {
        let is_open = self.namespace().run(|| {
            link::set_master(port, Some(BRIDGE))?;
            link::set_up(port)?;
            // The far end of a cable may still be down: then there is nothing to wait for yet.
            if link::get(port)?.carrier {
                link::wait_forwarding(port, PATIENCE)
            } else {
                Ok(true)
            }
        })??;
        if is_open {
            Ok(())
        } else {
            Err(Error::invalid(
                format!("the port {port} on {}", self.name()),
                "it must pass frames within 5 s",
            ))
        }
    }
}

/// A cable between two bridges. Dropping it unplugs it.
#[derive(Debug)]
pub struct Cable {
    host: Host,
    port: String,
}

impl Drop for Cable {
    fn drop(&mut self) {
        // It goes with the namespaces at the latest.
        let _ = self.host.namespace().run(|| link::delete(&self.port));
    }
}

fn port_name(prefix: &str, name: &str) -> String {
    prefix.chars().chain(name.chars()).take(PORT_NAME_MAX).collect()
}
