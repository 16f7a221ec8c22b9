//! A pod: a namespace attached to a host's overlay.

use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;
use weft_kernel::{Namespace, addr, link};
use weft_wire::api::Pod as Attached;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::lab::check_name;
use crate::program::Output;
use crate::station::Station;

/// A pod of the lab. It is a [`Station`] on the overlay. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    station: Station,
    host: Host,
    /// Arguments of `weft attach` that say which addresses it shall have; the router chooses one when there are none.
    asked: Vec<String>,
}

impl Deref for Pod {
    type Target = Station;

    fn deref(&self) -> &Station {
        &self.station
    }
}

impl Pod {
    pub(crate) fn attach(host: &Host, name: &str, asked: Vec<String>) -> Result<Self> {
        check_name(name)?;
        let namespace = Namespace::new()?;
        let mut pod = Self {
            station: Station {
                lab: Arc::clone(&host.lab),
                name: name.to_owned(),
                namespace,
                interface: String::new(),
                addresses: Vec::new(),
            },
            host: host.clone(),
            asked,
        };
        let output = pod.attach_again()?.success()?;
        let attached: Attached = serde_json::from_str(&output.stdout).map_err(|e| Error::Unreadable {
            command: output.command,
            place: output.place,
            reason: e.to_string(),
            text: output.stdout,
        })?;
        let addresses = std::iter::once(attached.address).chain(attached.further);
        pod.station.addresses = addresses.map(|net| net.addr()).collect();
        let links = pod.namespace.run(link::list)??;
        let interface = links.into_iter().find(|link| link.name != "lo");
        pod.station.interface = interface
            .ok_or_else(|| {
                Error::invalid(
                    format!("the pod {name}"),
                    "`weft attach` must leave an interface in its namespace",
                )
            })?
            .name;
        Ok(pod)
    }

    /// The host it is attached to.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Runs `weft attach` for it once more, which changes nothing when all is well.
    ///
    /// # Errors
    /// When the program cannot be run. A refusal is in the [`Output`].
    pub fn attach_again(&self) -> Result<Output> {
        let (path, socket) = (self.namespace.path(), self.host.socket());
        let mut arguments = vec![
            OsStr::new("attach"),
            path.as_os_str(),
            "--id".as_ref(),
            self.name.as_ref(),
            "--socket".as_ref(),
            socket.as_os_str(),
            "--json".as_ref(),
        ];
        arguments.extend(self.asked.iter().map(OsStr::new));
        self.host.weft(arguments)
    }

    /// Gives it one more address, as somebody does who knows nothing of weft: the router is not told.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&mut self, address: IpNet) -> Result<()> {
        let station = &mut self.station;
        station
            .namespace
            .run(|| addr::add(&station.interface, address))??;
        station.addresses.push(address.addr());
        Ok(())
    }

    /// Runs `weft detach` for it, which gives its address back; the namespace stays.
    ///
    /// # Errors
    /// [`Error::Failed`] when it is refused.
    pub fn detach(&self) -> Result<()> {
        let socket = self.host.socket();
        let output = self.host.weft([
            "detach".as_ref(),
            OsStr::new(self.name()),
            "--socket".as_ref(),
            socket.as_os_str(),
        ])?;
        output.success().map(drop)
    }
}
