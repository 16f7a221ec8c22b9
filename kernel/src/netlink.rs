//! One blocking route-netlink connection (RFC 3549): a request, then its acknowledgement or dump.

use std::time::Instant;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The kernel sends dumps in pieces of at most 32 KiB; twice that leaves room for one odd message.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump that tables changing underneath have spoilt is asked for again this often.
const DUMP_ATTEMPTS: usize = 8;
/// Attribute of an extended acknowledgement that carries the kernel's sentence.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Bytes of the request's header that the kernel returns before the extended attributes.
const ECHOED_HEADER: usize = 16;

/// A connection to the network namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How one pass over the answers of a request ended.
enum Answer {
    Complete(Vec<RouteNetlinkMessage>),
    Interrupted,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // Without it the kernel ignores the filters of a dump.
            socket.set_netlink_get_strict_chk(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = open().map_err(|e| Error::io("open a netlink socket", e))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// Asks for a change and waits for the acknowledgement. `flags` come on top of REQUEST and ACK.
    pub(crate) fn execute(
        &mut self,
        message: impl Into<RouteNetlinkMessage>,
        flags: u16,
        action: impl Fn() -> String,
    ) -> Result<()> {
        self.send(message.into(), NLM_F_REQUEST | NLM_F_ACK | flags, &action)?;
        self.answers(&action).map(|_| ())
    }

    /// Asks for one object. `None` when the kernel does not know it.
    pub(crate) fn get(
        &mut self,
        message: impl Into<RouteNetlinkMessage>,
        action: impl Fn() -> String,
    ) -> Result<Option<RouteNetlinkMessage>> {
        self.send(message.into(), NLM_F_REQUEST | NLM_F_ACK, &action)?;
        match self.answers(&action) {
            Ok(Answer::Complete(found)) => Ok(found.into_iter().next()),
            Ok(Answer::Interrupted) => Ok(None),
            Err(Error::Refused {
                errno: Errno::NODEV | Errno::NOENT,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a whole table.
    pub(crate) fn dump(
        &mut self,
        message: impl Into<RouteNetlinkMessage>,
        action: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let message = message.into();
        for _ in 0..DUMP_ATTEMPTS {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &action)?;
            if let Answer::Complete(found) = self.answers(&action)? {
                return Ok(found);
            }
        }
        Err(Error::Malformed {
            action: action(),
            reason: "the table changes faster than it can be read".into(),
        })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16, action: &impl Fn() -> String) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|e| Error::io(action(), e))?;
        Ok(())
    }

    fn answers(&mut self, action: &impl Fn() -> String) -> Result<Answer> {
        let malformed = |reason: String| Error::Malformed {
            action: action(),
            reason,
        };
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            let length = loop {
                match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other.map_err(|e| Error::io(action(), e))?,
                }
            };
            if length > self.buffer.len() {
                return Err(malformed(format!(
                    "a message of {length} bytes is larger than the buffer"
                )));
            }
            let mut rest = self.buffer.as_slice();
            while rest.len() >= ECHOED_HEADER {
                let header = NetlinkHeaderFields::read(rest);
                let end = header.length.clamp(ECHOED_HEADER, rest.len());
                let (message, _) = rest.split_at(end);
                rest = rest.get(end.next_multiple_of(4)..).unwrap_or_default();
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                    Ok(answer) => match answer.payload {
                        NetlinkPayload::InnerMessage(inner) => found.push(inner),
                        NetlinkPayload::Done(_) if interrupted => return Ok(Answer::Interrupted),
                        NetlinkPayload::Done(_) => return Ok(Answer::Complete(found)),
                        NetlinkPayload::Error(answer) => {
                            let Some(code) = answer.code else {
                                return Ok(Answer::Complete(found));
                            };
                            return Err(Error::Refused {
                                action: action(),
                                errno: Errno::from_raw_os_error(code.get().wrapping_abs()),
                                detail: explanation(&answer.header),
                            });
                        }
                        _ => {}
                    },
                    // One exotic device must not hide the others.
                    Err(e) => tracing::warn!("{}: one answer of the kernel is skipped: {e}", action()),
                }
            }
        }
    }
}

/// The kernel's notifications about links.
pub(crate) struct LinkEvents(Socket);

impl LinkEvents {
    /// From here on, no event is missed.
    pub(crate) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, libc::RTMGRP_LINK as u32))?;
            socket.set_non_blocking(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        open()
            .map(Self)
            .map_err(|e| Error::io("listen to changes of interfaces", e))
    }

    /// Waits until something has changed, and forgets what. `false` when nothing did before `end`.
    pub(crate) fn wait(&self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        let changed = crate::process::readable(&self.0, left)
            .map_err(|e| Error::io("listen to changes of interfaces", e))?;
        // Until nothing is left; ENOBUFS, for events that were lost, is one more event.
        let mut scratch = [0; 1];
        while self.0.recv(&mut scratch.as_mut_slice(), 0).is_ok() {}
        Ok(changed)
    }
}

struct NetlinkHeaderFields {
    length: usize,
    flags: u16,
    sequence: u32,
}

impl NetlinkHeaderFields {
    /// `bytes` holds at least the 16 bytes of `struct nlmsghdr`.
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            length: word(0) as usize,
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: word(8),
        }
    }
}

/// The kernel's sentence inside an extended acknowledgement.
fn explanation(echo: &[u8]) -> String {
    let attributes = echo.get(ECHOED_HEADER..).unwrap_or_default();
    NlasIterator::new(attributes)
        .filter_map(std::result::Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        })
        .unwrap_or_default()
}
