//! A switch made of kernel bridges.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_kernel::link::{self, BridgeAttributes, VethEnd};
use weft_kernel::{Namespace, sysctl};

use crate::error::Result;
use crate::underlay::{Port, Underlay};

/// A switch in a namespace of its own. It has one bridge for each side of a partition, and a port
/// changes sides by moving from bridge to bridge.
#[derive(Clone, Debug)]
pub struct Switch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u32,
    namespace: Namespace,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ports: Port,
    /// Bridges made so far; the first is the side on which every port begins.
    bridges: u32,
}

impl Switch {
    pub(crate) fn new(number: u32) -> Result<Self> {
        let namespace = Namespace::new()?;
        namespace.run(|| make_bridge(0))??;
        let state = State { ports: 0, bridges: 1 };
        Ok(Self(Arc::new(Inner {
            number,
            namespace,
            state: Mutex::new(state),
        })))
    }

    /// The namespace that holds the bridges; the ports in it are `p0`, `p1`...
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Underlay for Switch {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn plug(&self, namespace: &Namespace, ifname: &str, mtu: u32) -> Result<Port> {
        let mut state = self.state();
        let (port, name) = (state.ports, port_name(state.ports));
        self.0.namespace.run(|| -> weft_kernel::Result<()> {
            let here = VethEnd::here(&name).mtu(mtu);
            link::create_veth(&here, &VethEnd::inside(ifname, namespace).mtu(mtu))?;
            sysctl::set_ipv6(&name, false)?;
            link::set_master(&name, Some(&bridge_name(0)))?;
            link::set_up(&name)
        })??;
        state.ports += 1;
        Ok(port)
    }

    /// A bridge learns from a work queue that a port has a carrier; until then the port drops frames.
    fn listening_post(&self) -> Option<(&Namespace, &str)> {
        Some((&self.0.namespace, FIRST_BRIDGE))
    }

    fn set_side(&self, ports: &[Port]) -> Result<()> {
        let mut state = self.state();
        let bridge = state.bridges;
        self.0.namespace.run(|| -> weft_kernel::Result<()> {
            make_bridge(bridge)?;
            for port in ports {
                link::set_master(&port_name(*port), Some(&bridge_name(bridge)))?;
            }
            Ok(())
        })??;
        state.bridges += 1;
        Ok(())
    }

    fn heal(&self) -> Result<()> {
        let mut state = self.state();
        let (ports, bridges) = (state.ports, state.bridges);
        self.0.namespace.run(|| -> weft_kernel::Result<()> {
            for port in 0..ports {
                link::set_master(&port_name(port), Some(&bridge_name(0)))?;
            }
            for bridge in 1..bridges {
                link::delete(&bridge_name(bridge))?;
            }
            Ok(())
        })??;
        state.bridges = 1;
        Ok(())
    }

    fn handle(&self) -> Box<dyn Underlay> {
        Box::new(self.clone())
    }
}

fn port_name(port: Port) -> String {
    format!("p{port}")
}

/// The side on which every port begins.
const FIRST_BRIDGE: &str = "br0";

fn bridge_name(side: u32) -> String {
    format!("br{side}")
}

fn make_bridge(side: u32) -> weft_kernel::Result<()> {
    let name = bridge_name(side);
    link::create_bridge(&name, &BridgeAttributes::default())?;
    sysctl::set_ipv6(&name, false)?;
    link::set_up(&name)
}
