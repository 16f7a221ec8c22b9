//! Multicast as programs use it: sockets that join groups, sockets that send to them, and what passes a host's TAP.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use weft_kernel::capture::Capture;
use weft_kernel::link;
use weft_wire::api::MulticastStatus;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::router::Router;
use crate::station::{Station, unspecified};

/// Room for what comes while a test looks elsewhere: a second of 50 Mbit/s.
const SOCKET_BUFFER: usize = 8 << 20;
/// Room for frames between two looks at a TAP: each moment with a frame takes a quarter of a megabyte.
const RING: usize = 32 << 20;
/// Address detection takes a second or two (RFC 4862 §5.4).
const ADDRESS_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at `weft multicast`.
const POLL: Duration = Duration::from_millis(20);
/// Name of every host's TAP.
const TAP: &str = "weft-tap";

/// A socket that belongs to a group; it leaves when it is dropped.
#[derive(Debug)]
pub struct Listener {
    station: String,
    socket: UdpSocket,
}

impl Listener {
    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next datagram, if one comes within `patience`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn hear(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let failed = |e| Error::io(format!("listen to a group at {}", self.station), e);
        // Zero would wait for ever.
        let patience = patience.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(patience)).map_err(failed)?;
        let mut buffer = vec![0; 65_536];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// How many datagrams come until nothing has for `quiet`; at least `count` are waited for, each for `patience`.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when fewer come.
    pub fn count(&self, count: usize, patience: Duration, quiet: Duration) -> Result<usize> {
        let mut heard = 0;
        loop {
            let wait = if heard < count { patience } else { quiet };
            if self.hear(wait)?.is_some() {
                heard += 1;
            } else if heard < count {
                return Err(Error::TimedOut {
                    what: format!("{} hears {count} datagrams", self.station),
                    patience,
                    seen: format!("{heard} were heard"),
                });
            } else {
                return Ok(heard);
            }
        }
    }
}

impl Station {
    /// Joins a group with a new socket on this UDP port, by the first interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join(&self, group: SocketAddr) -> Result<Listener> {
        self.listener(group, |socket, interface| match group.ip() {
            IpAddr::V4(group) => {
                let index = socket2::InterfaceIndexOrAddress::Index(interface);
                socket.join_multicast_v4_n(&group, &index)
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, interface),
        })
    }

    /// Joins a group for what one source sends to it (RFC 4607).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join_source(&self, group: Ipv4Addr, port: u16, source: Ipv4Addr) -> Result<Listener> {
        let IpAddr::V4(own) = self.ipv4()? else {
            return Err(Error::invalid("a membership", "the station has an IPv4 address"));
        };
        self.listener(SocketAddr::new(group.into(), port), |socket, _| {
            socket.join_ssm_v4(&source, &group, &own)
        })
    }

    fn listener(
        &self,
        group: SocketAddr,
        join: impl FnOnce(&Socket, u32) -> std::io::Result<()> + Send,
    ) -> Result<Listener> {
        let failed = |e| Error::io(format!("join {} at {}", group.ip(), self.name), e);
        let open = || -> std::io::Result<UdpSocket> {
            let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            // What other sockets here have joined is not for this one.
            match group {
                SocketAddr::V4(_) => socket.set_multicast_all_v4(false)?,
                SocketAddr::V6(_) => socket.set_multicast_all_v6(false)?,
            }
            // The kernel gives what it has.
            let _ = weft_kernel::socket::set_receive_buffer(&socket, SOCKET_BUFFER);
            socket.bind(&SocketAddr::new(unspecified(group.ip()), group.port()).into())?;
            join(
                &socket,
                link::get(&self.interface).map_err(std::io::Error::other)?.index,
            )?;
            Ok(socket.into())
        };
        Ok(Listener {
            station: self.name.clone(),
            socket: self.namespace.run(open)?.map_err(failed)?,
        })
    }

    /// A socket whose datagrams go to a group by the first interface, with enough hops for any router between.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sender(&self, group: SocketAddr) -> Result<UdpSocket> {
        let failed = |e| Error::io(format!("send to {} from {}", group.ip(), self.name), e);
        let open = || -> std::io::Result<UdpSocket> {
            let interface = link::get(&self.interface).map_err(std::io::Error::other)?.index;
            let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
            match group {
                SocketAddr::V4(_) => {
                    let IpAddr::V4(own) = self.ipv4().map_err(std::io::Error::other)? else {
                        return Err(ErrorKind::AddrNotAvailable.into());
                    };
                    socket.set_multicast_if_v4(&own)?;
                    socket.set_multicast_ttl_v4(8)?;
                }
                SocketAddr::V6(_) => {
                    socket.set_multicast_if_v6(interface)?;
                    socket.set_multicast_hops_v6(8)?;
                }
            }
            socket.connect(&group.into())?;
            Ok(socket.into())
        };
        let end = Instant::now() + ADDRESS_PATIENCE;
        loop {
            match self.namespace.run(open)? {
                // A link-local address is of no use before address detection is over.
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable && Instant::now() < end => {
                    std::thread::sleep(POLL);
                }
                other => return other.map_err(failed),
            }
        }
    }
}

impl Host {
    /// Watches, from now on, the frames that the router gives to this host's bridge.
    ///
    /// # Errors
    /// When the kernel refuses a capture, or no router has run here.
    pub fn watch_tap(&self) -> Result<TapWatch> {
        let capture = self.namespace().run(|| Capture::open(TAP, RING))??;
        Ok(TapWatch(capture))
    }
}

/// What the router gives to a host's bridge.
#[derive(Debug)]
pub struct TapWatch(Capture);

impl TapWatch {
    /// The time of the next frame from the router that contains these octets, if one comes within `patience`; as time since
    /// the Unix epoch.
    ///
    /// # Errors
    /// When frames were lost, or the capture fails.
    pub fn next(&mut self, octets: &[u8], patience: Duration) -> Result<Option<Duration>> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(frame) = self.0.next_frame(left)? else {
                break;
            };
            if !frame.outgoing && frame.data.windows(octets.len()).any(|part| part == octets) {
                return Ok(Some(frame.time));
            }
        }
        match self.0.stats()?.drops {
            0 => Ok(None),
            _ => Err(Error::invalid("a count of frames", "the capture must lose none")),
        }
    }

    /// How many frames from the router contain these octets until none has for `quiet`, and the time of the last.
    ///
    /// # Errors
    /// As [`TapWatch::next`].
    pub fn count(&mut self, octets: &[u8], quiet: Duration) -> Result<(usize, Option<Duration>)> {
        let (mut count, mut last) = (0, None);
        while let Some(time) = self.next(octets, quiet)? {
            (count, last) = (count + 1, Some(time));
        }
        Ok((count, last))
    }
}

impl Router {
    /// Who listens to what: `weft multicast --json`.
    ///
    /// # Errors
    /// When the command fails, or prints something else.
    pub fn multicast(&self) -> Result<MulticastStatus> {
        let socket = self.host().socket();
        let output = self.host().weft([
            "multicast".as_ref(),
            "--json".as_ref(),
            "--socket".as_ref(),
            socket.as_os_str(),
        ])?;
        let output = output.success()?;
        serde_json::from_str(&output.stdout).map_err(|e| Error::Unreadable {
            command: output.command,
            place: output.place,
            reason: e.to_string(),
            text: output.stdout,
        })
    }

    /// Asks who listens to what until that satisfies a test. `what` completes the sentence of the error.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the last answer.
    pub fn wait_for_listeners(
        &self,
        what: &str,
        patience: Duration,
        test: impl Fn(&MulticastStatus) -> bool,
    ) -> Result<MulticastStatus> {
        let end = Instant::now() + patience;
        loop {
            let seen = self.multicast()?;
            if test(&seen) {
                return Ok(seen);
            }
            if Instant::now() >= end {
                return Err(Error::TimedOut {
                    what: format!("{}: {what}", self.host().name()),
                    patience,
                    seen: format!("{seen:?}\nend of its log:\n{}", self.log_tail()),
                });
            }
            self.host().lab.check_interrupt()?;
            std::thread::sleep(POLL);
        }
    }

    /// Waits until pods on exactly these other hosts listen to a group, and on no other host that gets everything.
    ///
    /// # Errors
    /// As [`Router::wait_for_listeners`].
    pub fn wait_for_group(&self, group: IpAddr, hosts: &[&str], patience: Duration) -> Result<()> {
        self.wait_for_listeners(
            &format!("{group} is listened to on {hosts:?}"),
            patience,
            |status| {
                let found = status.groups.iter().find(|one| one.group == group);
                let found = found.map(|one| one.hosts.as_slice()).unwrap_or_default();
                found == hosts && status.everything.is_empty()
            },
        )
        .map(drop)
    }
}
