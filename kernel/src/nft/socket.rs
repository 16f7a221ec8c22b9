//! One blocking nfnetlink connection to nf_tables: a dump, or changes in a batch.
//!
//! Message layout: `linux/netfilter/nfnetlink.h`. After the netlink header stands `struct nfgenmsg`: family, version, and a
//! resource id in network order, which is the subsystem's number in the messages that open and close a batch.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::nla::Attributes;

/// The kernel sends dumps in pieces of at most 32 KiB; twice that leaves room for one odd message.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// A dump that a change underneath has spoilt is asked for again this often.
const DUMP_ATTEMPTS: usize = 8;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nfgenmsg`.
pub(super) const GENERIC: usize = 4;
/// nf_tables among the subsystems of nfnetlink; the upper octet of its message types.
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = BATCH_BEGIN + 1;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A connection to the packet filter of the network namespace in which it was opened.
pub(super) struct Nfnetlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One change of a batch.
pub(super) struct Change {
    pub(super) kind: u16,
    /// On top of REQUEST.
    pub(super) flags: u16,
    pub(super) family: u8,
    pub(super) attributes: Attributes,
}

/// What one pass over a dump gave.
enum Dumped {
    Whole(Vec<Vec<u8>>),
    Interrupted,
}

impl Nfnetlink {
    pub(super) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = open().map_err(|e| Error::io("open a netlink socket to the packet filter", e))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    /// The attributes of every object that a request for a dump finds, one value for each.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        family: u8,
        filter: &Attributes,
        action: &str,
    ) -> Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.next();
            let message = message(
                SUBSYSTEM << 8 | kind,
                NLM_F_REQUEST | NLM_F_DUMP,
                sequence,
                [family, 0, 0, 0],
                filter.octets(),
            );
            self.socket.send(&message, 0).map_err(|e| Error::io(action, e))?;
            if let Dumped::Whole(found) = self.dumped(sequence, action)? {
                return Ok(found);
            }
        }
        Err(Error::Malformed {
            action: action.into(),
            reason: "the rules change faster than they can be read".into(),
        })
    }

    /// Makes changes, all of them or none.
    pub(super) fn transact(&mut self, changes: &[Change], action: &str) -> Result<()> {
        let [_, subsystem] = SUBSYSTEM.to_be_bytes();
        let frame = [0, 0, 0, subsystem];
        let begin = self.next();
        let mut batch = message(BATCH_BEGIN, NLM_F_REQUEST, begin, frame, &[]);
        let mut last = begin;
        for (index, change) in changes.iter().enumerate() {
            last = self.next();
            // What is refused is answered in any case.
            let ack = if index + 1 == changes.len() { NLM_F_ACK } else { 0 };
            batch.extend(message(
                SUBSYSTEM << 8 | change.kind,
                NLM_F_REQUEST | ack | change.flags,
                last,
                [change.family, 0, 0, 0],
                change.attributes.octets(),
            ));
        }
        let end = self.next();
        batch.extend(message(BATCH_END, NLM_F_REQUEST, end, frame, &[]));
        self.socket.send(&batch, 0).map_err(|e| Error::io(action, e))?;
        let mut done = false;
        while !done {
            self.receive(action)?;
            for (header, body) in messages(&self.buffer) {
                // A refusal may name the message that opens the batch.
                if header.kind == NLMSG_ERROR && (begin..=end).contains(&header.sequence) {
                    acknowledged(body, action)?;
                    done |= header.sequence == last;
                }
            }
        }
        Ok(())
    }

    fn dumped(&mut self, sequence: u32, action: &str) -> Result<Dumped> {
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            self.receive(action)?;
            for (header, body) in messages(&self.buffer) {
                if header.sequence != sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_DONE if interrupted => return Ok(Dumped::Interrupted),
                    NLMSG_DONE => return Ok(Dumped::Whole(found)),
                    NLMSG_ERROR => acknowledged(body, action)?,
                    _ => found.push(body.get(GENERIC..).unwrap_or_default().to_vec()),
                }
            }
        }
    }

    fn receive(&mut self, action: &str) -> Result<()> {
        self.buffer.clear();
        let length = loop {
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(|e| Error::io(action, e))?,
            }
        };
        if length > self.buffer.len() {
            return Err(Error::Malformed {
                action: action.into(),
                reason: format!("a message of {length} octets is larger than the buffer"),
            });
        }
        Ok(())
    }

    fn next(&mut self) -> u32 {
        // 0 is what notifications carry.
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }
}

/// What of `struct nlmsghdr` matters here.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
}

/// The messages in what one call received; what is no whole message ends it.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
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

/// Whether a message type is one of nf_tables; then its number there.
pub(super) fn in_subsystem(kind: u16) -> Option<u16> {
    (kind >> 8 == SUBSYSTEM).then_some(kind & 0xff)
}

fn message(kind: u16, flags: u16, sequence: u32, generic: [u8; GENERIC], attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + GENERIC + attributes.len()) as u32;
    let mut bytes = Vec::with_capacity(HEADER + GENERIC + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // Port id 0: the kernel fills in the socket's.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(generic);
    bytes.extend(attributes);
    bytes
}

/// Reads `struct nlmsgerr`: the error number, the request's header, then the extended attributes.
fn acknowledged(body: &[u8], action: &str) -> Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    if code == 0 {
        return Ok(());
    }
    let detail = NlasIterator::new(body.get(4 + HEADER..).unwrap_or_default())
        .filter_map(std::result::Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| {
            String::from_utf8_lossy(attribute.value())
                .trim_end_matches('\0')
                .to_owned()
        })
        .unwrap_or_default();
    Err(Error::Refused {
        action: action.into(),
        errno: Errno::from_raw_os_error(code.wrapping_abs()),
        detail,
    })
}
