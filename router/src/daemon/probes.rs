//! The sockets by which probes go through the kernel's own path to other hosts.

use super::NodeEvent;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weft_fastpath::probe::ETHERTYPE;
use weft_kernel::link;
use weft_kernel::packet::PacketSocket;
use weft_wire::fastpath::POD_MTU_SET_MAX;

/// Devices of probes, for outer addresses of IPv4 and of IPv6.
const DEVICES: [&str; 2] = ["weft-hb", "weft-hb6"];
/// Octets of the longest probe, with Ethernet header and VLAN tag, and one more to see what is longer.
const BUFFER: usize = POD_MTU_SET_MAX as usize + 19;

struct Open {
    /// Number of its device.
    index: u32,
    /// A packet socket: to be waited for, and to be sent and received by, one is as good as another.
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Both sockets, as far as their devices are there.
pub(super) struct Probes {
    open: [Option<Open>; 2],
    events: mpsc::Sender<NodeEvent>,
}

impl Probes {
    pub(super) fn new(events: mpsc::Sender<NodeEvent>) -> Self {
        Self {
            open: [None, None],
            events,
        }
    }

    /// The kernel's devices may be others than before.
    pub(super) fn follow(&mut self) {
        for (open, device) in self.open.iter_mut().zip(DEVICES) {
            let index = link::get(device).ok().map(|link| link.index);
            let is_same = open.as_ref().map(|open| open.index) == index
                && open.as_ref().is_none_or(|open| !open.reader.is_finished());
            if !is_same {
                *open = index.and_then(|_| start(device, self.events.clone()));
            }
        }
    }

    /// Sends a probe. One that cannot be sent is a probe that was lost.
    pub(super) fn send(&mut self, to: IpAddr, frame: &[u8]) {
        let at = usize::from(to.is_ipv6());
        if let Some(open) = &self.open[at]
            && let Err(error) = open.socket.try_send(frame)
        {
            tracing::debug!("a probe of {} octets to {to} was not sent: {error}", frame.len());
        }
    }
}

fn start(device: &str, events: mpsc::Sender<NodeEvent>) -> Option<Open> {
    let opened = PacketSocket::open(device, ETHERTYPE)
        .map_err(|error| error.to_string())
        .and_then(|socket| {
            let index = socket.index();
            let socket =
                UdpSocket::from_std(OwnedFd::from(socket).into()).map_err(|error| error.to_string())?;
            Ok((index, Arc::new(socket)))
        });
    let (index, socket) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!("{device}: {error}");
            return None;
        }
    };
    let reader = tokio::spawn(read(Arc::clone(&socket), events));
    Some(Open {
        index,
        socket,
        reader,
    })
}

/// Hands over what comes, until the device is gone.
async fn read(socket: Arc<UdpSocket>, events: mpsc::Sender<NodeEvent>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                // A full queue loses a probe, as a network does.
                let _ = events.try_send(NodeEvent::KernelProbe(buffer[..length].into()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // The device has gone down or away; it is looked for again when the kernel was seen to change.
            Err(_) => return,
        }
    }
}
