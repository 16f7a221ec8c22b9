//! Single Ethernet frames: broadcast, unusual types, anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pnet_datalink::{Channel, ChannelType, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};
use weft_kernel::{MacAddr, link};

use crate::error::{Error, Result};
use crate::lab::Shared;

/// Waits are cut into pieces of this length, so that the interrupt flag is seen.
const GLANCE: Duration = Duration::from_millis(50);
/// The longest frame looked at whole.
const MAX_FRAME: usize = 65_536;
/// The destination of a broadcast.
pub const BROADCAST: MacAddr = [0xff; 6];

/// An ethertype for local experiments (IEEE 802).
pub const LOCAL_EXPERIMENT: u16 = 0x88b5;

/// An Ethernet frame, viewed. One shorter than its header has zeros there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a>(pub &'a [u8]);

impl Frame<'_> {
    /// Where it is sent to.
    #[must_use]
    pub fn destination(&self) -> MacAddr {
        std::array::from_fn(|i| self.octet(i))
    }

    /// Who sent it.
    #[must_use]
    pub fn source(&self) -> MacAddr {
        std::array::from_fn(|i| self.octet(6 + i))
    }

    /// The type field, which is 0x8100 in a frame with a VLAN tag.
    #[must_use]
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.octet(12), self.octet(13)])
    }

    fn octet(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// Builds a frame.
#[must_use]
pub fn build(destination: MacAddr, source: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes(), payload].concat()
}

/// Builds a frame with a VLAN tag (IEEE 802.1Q), priority 0.
#[must_use]
pub fn build_tagged(
    destination: MacAddr,
    source: MacAddr,
    vlan: u16,
    ethertype: u16,
    payload: &[u8],
) -> Vec<u8> {
    let inner = [&vlan.to_be_bytes(), &ethertype.to_be_bytes(), payload].concat();
    build(destination, source, 0x8100, &inner)
}

/// Which frames an [`Ear`] keeps.
pub(crate) type Filter = Box<dyn Fn(&Frame<'_>) -> bool + Send>;

/// Listens to frames since it was made; what came in meanwhile waits in the kernel, about 200 kB.
pub struct Ear {
    lab: Arc<Shared>,
    station: String,
    receiver: Box<dyn DataLinkReceiver>,
    filter: Filter,
    heard: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ear(at {}, {} frames)", self.station, self.heard.len())
    }
}

impl Ear {
    /// Waits until `count` frames have passed the filter, and returns all that have.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when fewer come within `patience`.
    pub fn expect(&mut self, count: usize, patience: Duration) -> Result<&[Vec<u8>]> {
        let end = Instant::now() + patience;
        while self.heard.len() < count {
            if !self.hear(end)? {
                return Err(Error::TimedOut {
                    what: format!("{} hears {count} frames", self.station),
                    patience,
                    seen: format!("{} were heard", self.heard.len()),
                });
            }
        }
        Ok(&self.heard)
    }

    /// Listens until nothing has passed the filter for `quiet`, at most for ten times as long, and
    /// returns all that has. This is how something is shown *not* to come.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn until_quiet(&mut self, quiet: Duration) -> Result<&[Vec<u8>]> {
        let latest = Instant::now() + quiet * 10;
        while self.hear(latest.min(Instant::now() + quiet))? {}
        Ok(&self.heard)
    }

    /// Waits for one more frame; `false` when none came in time.
    fn hear(&mut self, end: Instant) -> Result<bool> {
        loop {
            self.lab.check_interrupt()?;
            match self.receiver.next() {
                Ok(frame) => {
                    if (self.filter)(&Frame(frame)) {
                        self.heard.push(frame.to_vec());
                        return Ok(true);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("listen at {}", self.station), e)),
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }
}

/// Sends by an interface of the calling thread's namespace.
pub(crate) fn send(interface: &str, frames: &[impl AsRef<[u8]>]) -> Result<()> {
    let (mut sender, _) = open(interface)?;
    for frame in frames.iter().map(AsRef::as_ref) {
        sender
            .send_to(frame, None)
            .unwrap_or_else(|| Err(std::io::ErrorKind::InvalidInput.into()))
            .map_err(|e| Error::io(format!("send a frame of {} bytes by {interface}", frame.len()), e))?;
    }
    Ok(())
}

/// Listens at an interface of the calling thread's namespace.
pub(crate) fn listen(lab: Arc<Shared>, station: &str, interface: &str, filter: Filter) -> Result<Ear> {
    let (_, receiver) = open(interface)?;
    Ok(Ear {
        lab,
        station: station.to_owned(),
        receiver,
        filter,
        heard: Vec::new(),
    })
}

fn open(interface: &str) -> Result<(Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>)> {
    let found = link::get(interface)?;
    let interface = NetworkInterface {
        name: found.name,
        description: String::new(),
        index: found.index,
        mac: found.mac.map(Into::into),
        ips: Vec::new(),
        flags: 0,
    };
    let config = Config {
        write_buffer_size: MAX_FRAME,
        read_buffer_size: MAX_FRAME,
        read_timeout: Some(GLANCE),
        channel_type: ChannelType::Layer2,
        ..Config::default()
    };
    match pnet_datalink::channel(&interface, config) {
        Ok(Channel::Ethernet(sender, receiver)) => Ok((sender, receiver)),
        Ok(_) => Err(Error::invalid(
            format!("listening at {}", interface.name),
            "the packet socket must be one of Ethernet frames",
        )),
        Err(e) => Err(Error::io(
            format!("open a packet socket at {}", interface.name),
            e,
        )),
    }
}
