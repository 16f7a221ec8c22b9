//! A cable between two hosts, with nothing in between.

use std::sync::{Arc, Mutex, PoisonError};

use weft_kernel::Namespace;
use weft_kernel::link::{self, VethEnd};

use crate::error::{Error, Result};
use crate::underlay::{Port, Underlay};

/// The end that no host has yet, and its name there.
const SPARE: &str = "spare";
/// Ends of a cable.
const ENDS: Port = 2;

/// A pair of virtual Ethernet devices, one in each of two hosts. Nothing costs less to cross, so it is the underlay of
/// measurements. It cannot be partitioned.
#[derive(Clone, Debug)]
pub struct Crossover(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u32,
    /// Holds the second end until a host comes for it.
    namespace: Namespace,
    plugged: Mutex<Port>,
}

impl Crossover {
    pub(crate) fn new(number: u32) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            number,
            namespace: Namespace::new()?,
            plugged: Mutex::new(0),
        })))
    }
}

impl Underlay for Crossover {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn plug(&self, namespace: &Namespace, ifname: &str, mtu: u32) -> Result<Port> {
        let mut plugged = self.0.plugged.lock().unwrap_or_else(PoisonError::into_inner);
        let port = *plugged;
        match port {
            0 => self.0.namespace.run(|| {
                let near = VethEnd::inside(ifname, namespace).mtu(mtu);
                link::create_veth(&VethEnd::here(SPARE).mtu(mtu), &near)
            })??,
            1 => {
                self.0.namespace.run(|| {
                    link::set_mtu(SPARE, mtu)?;
                    link::move_to(SPARE, namespace)
                })??;
                namespace.run(|| link::rename(SPARE, ifname))??;
            }
            ENDS.. => {
                return Err(Error::invalid(
                    "one more host on a crossover cable",
                    "it has two ends",
                ));
            }
        }
        *plugged += 1;
        Ok(port)
    }

    fn set_side(&self, _: &[Port]) -> Result<()> {
        Err(Error::invalid(
            "a partition of a crossover cable",
            "plug the hosts into a switch or a wire",
        ))
    }

    fn heal(&self) -> Result<()> {
        Ok(())
    }

    fn handle(&self) -> Box<dyn Underlay> {
        Box::new(self.clone())
    }
}
