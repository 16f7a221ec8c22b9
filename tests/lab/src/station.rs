//! What hosts and pods have in common: a namespace, an interface, addresses, and traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use weft_kernel::{MacAddr, Namespace, link};

use crate::error::{Error, Result};
use crate::frames::{self, Ear, Frame};
use crate::lab::Shared;
use crate::ping::{self, PingPlan, PingReport};
use crate::program::{self, Output};
use crate::recording::Recording;
use crate::stream::Stream;
use crate::transfer::{self, Content, Transfer};

/// A place from which traffic can be sent. [`Host`](crate::Host) and [`Pod`](crate::Pod) are stations.
#[derive(Clone, Debug)]
pub struct Station {
    pub(crate) lab: Arc<Shared>,
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Station {
    /// Its name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of its first interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The Ethernet address of its first interface.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn mac(&self) -> Result<MacAddr> {
        let link = self.namespace.run(|| link::get(&self.interface))??;
        link.mac
            .ok_or_else(|| Error::invalid(format!("the MAC of {}", self.name), "its interface has none"))
    }

    /// Its addresses: those of a host in the order of its interfaces, IPv4 first; those of a pod in the order in
    /// which it got them.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its first address.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self) -> Result<IpAddr> {
        self.find_address(|_| true, "it has none")
    }

    /// Its first IPv4 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.find_address(IpAddr::is_ipv4, "it has no IPv4 address")
    }

    /// Its first IPv6 address.
    ///
    /// # Errors
    /// When it has none.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.find_address(IpAddr::is_ipv6, "it has no IPv6 address")
    }

    fn find_address(&self, test: impl Fn(&IpAddr) -> bool, rule: &'static str) -> Result<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| test(address))
            .ok_or_else(|| Error::invalid(format!("the address of {}", self.name), rule))
    }

    /// Runs a command here to its end, with `input` on its standard input.
    ///
    /// # Errors
    /// When it cannot be started, or does not end. A failure of it is in the [`Output`].
    pub fn run(&self, command: Command, input: Option<&str>) -> Result<Output> {
        program::run(&self.lab, &self.namespace, &self.name, command, input)
    }

    /// Sends `count` echo requests, and returns when all are answered or the default patience is over.
    ///
    /// # Errors
    /// When no socket can be had, or there is no route. Silence is not an error: see [`PingReport::lost`].
    pub fn ping(&self, to: IpAddr, count: u16) -> Result<PingReport> {
        self.ping_with(
            to,
            &PingPlan {
                count,
                ..PingPlan::default()
            },
        )
    }

    /// Sends echo requests by a plan.
    ///
    /// # Errors
    /// As [`Station::ping`].
    pub fn ping_with(&self, to: IpAddr, plan: &PingPlan) -> Result<PingReport> {
        self.namespace
            .run(|| ping::ping(&self.lab, &self.interface, to, plan))?
    }

    /// Sends echo requests until one is answered, and returns its round-trip time.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when none is answered within `patience`.
    pub fn ping_until(&self, to: IpAddr, patience: Duration) -> Result<Duration> {
        self.namespace
            .run(|| ping::ping_until(&self.lab, (&self.name, &self.interface), to, patience))?
    }

    /// Sends `content` over one TCP connection to another station's first address of the same family.
    ///
    /// # Errors
    /// [`Error::Transfer`] when the connection breaks, or nothing arrives for a while.
    pub fn tcp_send(&self, to: &Self, content: &Content) -> Result<Transfer> {
        transfer::run(self, to, content, &|_| {})
    }

    /// As [`Station::tcp_send`], and tells after each piece how many bytes have arrived.
    ///
    /// # Errors
    /// As [`Station::tcp_send`].
    pub fn tcp_send_watched(
        &self,
        to: &Self,
        content: &Content,
        arrived: &(dyn Fn(u64) + Sync),
    ) -> Result<Transfer> {
        transfer::run(self, to, content, arrived)
    }

    /// Opens a TCP connection to another station, on which bytes flow until it is finished.
    ///
    /// # Errors
    /// When it cannot be connected.
    pub fn tcp_stream(&self, to: &Self) -> Result<Stream> {
        Stream::open(self, to)
    }

    /// Sends one Ethernet frame, as it is, by the first interface.
    ///
    /// # Errors
    /// When the interface is down, or the frame is longer than it carries.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        self.send_frames(&[frame])
    }

    /// Sends Ethernet frames in quick succession.
    ///
    /// # Errors
    /// As [`Station::send_frame`]; the frames before the refused one are sent.
    pub fn send_frames(&self, frames: &[impl AsRef<[u8]> + Sync]) -> Result<()> {
        self.namespace.run(|| frames::send(&self.interface, frames))?
    }

    /// Listens, from now on, to frames on the first interface that pass the filter. Frames sent by
    /// the station itself are among them.
    ///
    /// # Errors
    /// When no packet socket can be had.
    pub fn listen(&self, filter: impl Fn(&Frame<'_>) -> bool + Send + 'static) -> Result<Ear> {
        self.namespace.run(|| {
            frames::listen(
                Arc::clone(&self.lab),
                &self.name,
                &self.interface,
                Box::new(filter),
            )
        })?
    }

    /// Records, from now on, every frame that the first interface sends or receives, and counts the
    /// places at which `needle` stands in one. About `expected` bytes, up to some 300 MB, are sure
    /// to be recorded however busy the machine is.
    ///
    /// # Errors
    /// When the kernel refuses a capture.
    pub fn record(&self, needle: &[u8], expected: usize) -> Result<Recording> {
        Recording::start(&self.namespace, &self.interface, needle, expected)
    }
}

/// The wildcard address of a family.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
