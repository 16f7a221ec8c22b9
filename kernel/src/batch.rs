//! Many route-netlink requests in few system calls, and dumps read octet by octet: for tables of a hundred thousand
//! entries, where a message type for each answer costs more than the kernel does.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::nla::{Attributes, attribute};

/// Requests in one datagram. Each that is refused is answered, and the answers of so many fit the socket's buffer.
const BATCH: usize = 200;
/// The kernel sends dumps in pieces of at most 32 KiB; twice that leaves room for one odd message.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump that a table changing underneath has spoilt is asked for again this often. Busy tables change all the time, and
/// what an interrupted dump lacks the next look finds, so the last attempt counts.
const DUMP_ATTEMPTS: usize = 3;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One request.
pub(crate) struct Request {
    /// `RTM_*`.
    pub(crate) kind: u16,
    /// On top of REQUEST.
    pub(crate) flags: u16,
    /// The fixed header of that kind.
    pub(crate) head: Vec<u8>,
    /// What follows it.
    pub(crate) attributes: Attributes,
}

/// A connection to the network namespace in which it was opened.
pub(crate) struct Batch {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Batch {
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

    /// Makes all changes. One that is refused does not stop those that follow it in the same datagram; the first refusal with
    /// another number than `passed_over` is the result. `action` names the request of an index, as a verb phrase.
    pub(crate) fn execute(
        &mut self,
        requests: &[Request],
        passed_over: &[Errno],
        action: impl Fn(usize) -> String,
    ) -> Result<()> {
        for (chunk, part) in requests.chunks(BATCH).enumerate() {
            let at = |offset: u32| action(chunk * BATCH + offset as usize);
            let first = self.sequence.wrapping_add(1);
            let mut datagram = Vec::new();
            for (index, request) in part.iter().enumerate() {
                self.sequence = self.sequence.wrapping_add(1);
                let ack = if index + 1 == part.len() { NLM_F_ACK } else { 0 };
                append(
                    &mut datagram,
                    request,
                    NLM_F_REQUEST | request.flags | ack,
                    self.sequence,
                );
            }
            let last = self.sequence.wrapping_sub(first);
            self.socket.send(&datagram, 0).map_err(|e| Error::io(at(0), e))?;
            let mut refused = None;
            let mut done = false;
            while !done {
                self.receive(&|| at(0))?;
                for (header, body) in messages(&self.buffer) {
                    let offset = header.sequence.wrapping_sub(first);
                    if header.kind != NLMSG_ERROR || offset > last {
                        continue;
                    }
                    done |= offset == last;
                    if let Some((errno, detail)) = refusal(body)
                        && refused.is_none()
                        && !passed_over.contains(&errno)
                    {
                        refused = Some(Error::Refused {
                            action: at(offset),
                            errno,
                            detail,
                        });
                    }
                }
            }
            refused.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Asks for a whole table. `take` gets the type and the body of each message; it starts anew when `begin` is called.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        begin: impl Fn() -> T,
        mut take: impl FnMut(&mut T, u16, &[u8]),
        action: impl Fn() -> String,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            self.sequence = self.sequence.wrapping_add(1);
            let mut datagram = Vec::new();
            let flags = NLM_F_REQUEST | NLM_F_DUMP | request.flags;
            append(&mut datagram, request, flags, self.sequence);
            self.socket
                .send(&datagram, 0)
                .map_err(|e| Error::io(action(), e))?;
            let (mut found, mut interrupted, mut done) = (begin(), false, false);
            while !done {
                self.receive(&action)?;
                for (header, body) in messages(&self.buffer) {
                    if header.sequence != self.sequence {
                        continue;
                    }
                    interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                    match header.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            if let Some((errno, detail)) = refusal(body) {
                                let action = action();
                                return Err(Error::Refused {
                                    action,
                                    errno,
                                    detail,
                                });
                            }
                            done = true;
                        }
                        kind => take(&mut found, kind, body),
                    }
                }
            }
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self, action: &impl Fn() -> String) -> Result<()> {
        self.buffer.clear();
        let length = loop {
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(|e| Error::io(action(), e))?,
            }
        };
        if length > self.buffer.len() {
            return Err(Error::Malformed {
                action: action(),
                reason: format!("a message of {length} octets is larger than the buffer"),
            });
        }
        Ok(())
    }
}

fn append(datagram: &mut Vec<u8>, request: &Request, flags: u16, sequence: u32) {
    let body = request.attributes.octets();
    // A request is some hundred octets.
    let length = (HEADER + request.head.len() + body.len()) as u32;
    datagram.extend(length.to_ne_bytes());
    datagram.extend(request.kind.to_ne_bytes());
    datagram.extend(flags.to_ne_bytes());
    datagram.extend(sequence.to_ne_bytes());
    // Port id 0: the kernel fills in the socket's.
    datagram.extend(0_u32.to_ne_bytes());
    datagram.extend(&request.head);
    datagram.extend(body);
    datagram.resize(datagram.len().next_multiple_of(4), 0);
}

/// Reads `struct nlmsgerr`; `None` is an acknowledgement.
fn refusal(body: &[u8]) -> Option<(Errno, String)> {
    let code = i32::from_ne_bytes(*body.first_chunk()?);
    let detail = attribute(body.get(4 + HEADER..).unwrap_or_default(), NLMSGERR_ATTR_MSG)
        .map(|text| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        .unwrap_or_default();
    (code != 0).then(|| (Errno::from_raw_os_error(code.wrapping_abs()), detail))
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The messages in what one call received; what is no whole message ends it.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *head;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        let header = Header {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        };
        Some((header, body))
    })
}
