//! Echo requests and their answers (RFC 792, RFC 4443), over raw sockets, so that no `ping` is needed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pnet_packet::MutablePacket as _;
use pnet_packet::icmp::{self, IcmpCode, IcmpPacket, IcmpTypes, echo_reply, echo_request};
use pnet_packet::icmpv6::{self, Icmpv6Code, Icmpv6Types};
use pnet_packet::ipv4::Ipv4Packet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weft_kernel::{link, socket};

use crate::error::{Error, Result};
use crate::lab::Shared;

/// Octets of an echo message before its payload, in both families.
const HEADER: usize = 8;
/// Waits are cut into pieces of this length, so that the interrupt flag is seen.
const GLANCE: Duration = Duration::from_millis(50);
/// The shortest wait for a packet.
const SHORTEST: Duration = Duration::from_micros(10);
/// [`ping_until`] asks this often.
const RETRY: Duration = Duration::from_millis(50);

/// Tells the pings of one process apart.
static IDENTIFIER: AtomicU16 = AtomicU16::new(1);

/// How echo requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingPlan {
    /// How many.
    pub count: u16,
    /// Time between two.
    pub interval: Duration,
    /// How long the answers are waited for after the last one.
    pub patience: Duration,
    /// Octets of payload.
    pub payload: usize,
}

impl Default for PingPlan {
    fn default() -> Self {
        Self {
            count: 1,
            interval: Duration::from_millis(10),
            patience: Duration::from_secs(2),
            payload: 56,
        }
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u16,
    /// Round-trip time of each answered request, by its sequence number.
    pub answers: BTreeMap<u16, Duration>,
    /// Answers beyond the first to a request.
    pub doubled: u32,
}

impl PingReport {
    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u16 {
        // Only what was sent is entered as answered, once each.
        self.sent
            .saturating_sub(u16::try_from(self.answers.len()).unwrap_or(u16::MAX))
    }

    /// Whether every request was answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost() == 0
    }

    /// The shortest round-trip time.
    #[must_use]
    pub fn shortest(&self) -> Option<Duration> {
        self.answers.values().min().copied()
    }
}

/// Sends by plan from the calling thread's namespace; a link-local address is meant on `interface`.
pub(crate) fn ping(lab: &Shared, interface: &str, to: IpAddr, plan: &PingPlan) -> Result<PingReport> {
    let mut pinger = Pinger::open(interface, to, plan.payload)?;
    let begin = Instant::now();
    let mut next = begin;
    let mut last = begin;
    while pinger.report.sent < plan.count {
        pinger
            .send()
            .map_err(|e| Error::io(format!("send an echo request to {to}"), e))?;
        last = Instant::now();
        next += plan.interval;
        // While requests are still to be sent, no answer ends the wait.
        pinger.receive_until(lab, next, |_| false)?;
    }
    pinger.receive_until(lab, last + plan.patience, PingReport::is_complete)?;
    Ok(pinger.report)
}

/// Sends until the first answer.
pub(crate) fn ping_until(
    lab: &Shared,
    (from, interface): (&str, &str),
    to: IpAddr,
    patience: Duration,
) -> Result<Duration> {
    let mut pinger = Pinger::open(interface, to, PingPlan::default().payload)?;
    let end = Instant::now() + patience;
    let mut refusal = String::from("every request went out, none was answered");
    loop {
        // No route, no neighbour: it may come.
        if let Err(e) = pinger.send() {
            refusal = format!("the last request was refused: {e}");
        }
        let now = Instant::now();
        pinger.receive_until(lab, end.min(now + RETRY), |report| !report.answers.is_empty())?;
        if let Some(time) = pinger.report.shortest() {
            return Ok(time);
        }
        if Instant::now() >= end {
            return Err(Error::TimedOut {
                what: format!("{from} reaches {to}"),
                patience,
                seen: refusal,
            });
        }
    }
}

struct Pinger {
    socket: Socket,
    to: IpAddr,
    destination: SockAddr,
    identifier: u16,
    payload: usize,
    sent_at: BTreeMap<u16, Instant>,
    report: PingReport,
}

impl Pinger {
    fn open(interface: &str, to: IpAddr, payload: usize) -> Result<Self> {
        let (domain, protocol) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))
            .map_err(|e| Error::io("open a raw socket for echo requests", e))?;
        socket::note_arrivals(&socket)?;
        let destination = match to {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, 0, 0, link::get(interface)?.index).into()
            }
            to => SocketAddr::new(to, 0),
        };
        let report = PingReport {
            sent: 0,
            answers: BTreeMap::new(),
            doubled: 0,
        };
        Ok(Self {
            socket,
            to,
            destination: destination.into(),
            identifier: IDENTIFIER.fetch_add(1, Ordering::Relaxed),
            payload,
            sent_at: BTreeMap::new(),
            report,
        })
    }

    fn send(&mut self) -> io::Result<()> {
        let sequence = self.report.sent;
        let mut message = vec![0; HEADER + self.payload];
        let too_short = || io::Error::from(io::ErrorKind::InvalidInput);
        match self.to {
            IpAddr::V4(_) => {
                let mut echo =
                    echo_request::MutableEchoRequestPacket::new(&mut message).ok_or_else(too_short)?;
                echo.set_icmp_type(IcmpTypes::EchoRequest);
                echo.set_icmp_code(IcmpCode::new(0));
                echo.set_identifier(self.identifier);
                echo.set_sequence_number(sequence);
                let whole = IcmpPacket::new(echo.packet_mut()).ok_or_else(too_short)?;
                let checksum = icmp::checksum(&whole);
                echo.set_checksum(checksum);
            }
            IpAddr::V6(_) => {
                // The kernel fills in the checksum (RFC 3542 §3.1).
                let mut echo = icmpv6::echo_request::MutableEchoRequestPacket::new(&mut message)
                    .ok_or_else(too_short)?;
                echo.set_icmpv6_type(Icmpv6Types::EchoRequest);
                echo.set_icmpv6_code(Icmpv6Code::new(0));
                echo.set_identifier(self.identifier);
                echo.set_sequence_number(sequence);
            }
        }
        let now = Instant::now();
        self.socket.send_to(&message, &self.destination)?;
        self.sent_at.insert(sequence, now);
        self.report.sent += 1;
        Ok(())
    }

    /// Takes in answers until a time, or until the report satisfies `enough`.
    fn receive_until(
        &mut self,
        lab: &Shared,
        end: Instant,
        enough: impl Fn(&PingReport) -> bool,
    ) -> Result<()> {
        let failed = |e| Error::io("receive echo replies", e);
        // As large as an IP packet can be.
        let mut buffer = vec![0; 65_536];
        while !enough(&self.report) {
            lab.check_interrupt()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            // A time below a microsecond would be taken for none, and a wait without end.
            let wait = left.clamp(SHORTEST, GLANCE);
            self.socket.set_read_timeout(Some(wait)).map_err(failed)?;
            let (length, age) = match socket::receive_with_age(&self.socket, &mut buffer) {
                Ok(received) => received,
                Err(e) if is_harmless(&e) => continue,
                Err(e) => return Err(failed(e)),
            };
            let now = Instant::now();
            let Some((identifier, sequence)) = parse(self.to, &buffer[..length]) else {
                continue;
            };
            if identifier != self.identifier {
                continue;
            }
            let Some(sent_at) = self.sent_at.get(&sequence) else {
                continue;
            };
            match self.report.answers.entry(sequence) {
                Entry::Occupied(_) => self.report.doubled += 1,
                Entry::Vacant(place) => {
                    // Until it came in; when this thread got to run says nothing about the way.
                    place.insert((now - *sent_at).saturating_sub(age));
                }
            }
        }
        Ok(())
    }
}

/// Errors of a read that say nothing about the answers still to come.
fn is_harmless(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Identifier and sequence number of an echo reply from `from`.
fn parse(from: IpAddr, bytes: &[u8]) -> Option<(u16, u16)> {
    match from {
        IpAddr::V4(from) => {
            // A raw IPv4 socket hands over the IP header too (raw(7)).
            let packet = Ipv4Packet::new(bytes)?;
            if packet.get_source() != from {
                return None;
            }
            let header = usize::from(packet.get_header_length()) * 4;
            let reply = echo_reply::EchoReplyPacket::new(bytes.get(header..)?)?;
            let is_reply = reply.get_icmp_type() == IcmpTypes::EchoReply;
            is_reply.then(|| (reply.get_identifier(), reply.get_sequence_number()))
        }
        IpAddr::V6(_) => {
            let reply = icmpv6::echo_reply::EchoReplyPacket::new(bytes)?;
            let is_reply = reply.get_icmpv6_type() == Icmpv6Types::EchoReply;
            is_reply.then(|| (reply.get_identifier(), reply.get_sequence_number()))
        }
    }
}
