//! A gate at an interface: of what comes in by it, only what the packet filter has marked goes on.
//!
//! It is a filter of traffic control (tc-bpf(8)) and no rule of the packet filter, so that flushing all rules, as a restart of
//! that service does, leaves it closed. Its program is four instructions of classic BPF, sent with the request. Sockets that
//! take frames of every protocol see them before it; those for one protocol, and bridges, after it.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rustix::io::Errno;

use crate::batch::{Batch, Request};
use crate::error::Result;
use crate::link;
use crate::nla::{Attributes, attribute, text};

/// `TC_H_CLSACT`, with its own handle and the handle of its ingress side (linux/pkt_sched.h).
const CLSACT: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
/// Priority 1, the first there is, and every protocol (`ETH_P_ALL` in network order).
const FIRST_FOR_ALL: u32 = 1 << 16 | (libc::ETH_P_ALL as u16).to_be() as u32;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FLAGS: u16 = 8;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is what happens.
const DIRECT: u32 = 1;
const KIND: &str = "bpf";
/// What holds filters.
const QUEUE: &str = "clsact";

/// The program: load the mark (linux/filter.h, `SKF_AD_MARK`), pass (`TC_ACT_OK`) if the bit is set, else drop (`TC_ACT_SHOT`).
fn program(mark: u32) -> Vec<u8> {
    let instructions: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0xffff_f014),
        (0x45, 0, 1, mark),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 2),
    ];
    let mut bytes = Vec::new();
    for (code, yes, no, value) in instructions {
        bytes.extend(code.to_ne_bytes());
        bytes.extend([yes, no]);
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

/// `struct tcmsg`.
fn head(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [interface, handle, parent, info] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes
}

/// Closes the gate of an interface: what lacks this bit in its mark is dropped. Filters that others have put there go.
///
/// # Errors
/// When the interface does not exist, or the kernel lacks traffic control with BPF (`CONFIG_NET_CLS_BPF`).
pub fn close(interface: &str, mark: u32) -> Result<()> {
    let index = link::get(interface)?.index;
    let action = |_| format!("have {interface} let in only what the packet filter marked");
    open(interface)?;
    let instructions = program(mark);
    let options = Attributes::default()
        .put(TCA_BPF_OPS_LEN, &4_u16.to_ne_bytes())
        .put(TCA_BPF_OPS, &instructions)
        .put(TCA_BPF_FLAGS, &DIRECT.to_ne_bytes());
    let requests = [
        Request {
            kind: libc::RTM_NEWQDISC,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            head: head(index, HANDLE, CLSACT, 0),
            attributes: Attributes::default().name(TCA_KIND, QUEUE),
        },
        Request {
            kind: libc::RTM_NEWTFILTER,
            flags: NLM_F_CREATE | NLM_F_EXCL,
            head: head(index, 1, INGRESS, FIRST_FOR_ALL),
            attributes: Attributes::default()
                .name(TCA_KIND, KIND)
                .nest(TCA_OPTIONS, options),
        },
    ];
    Batch::open()?.execute(&requests, &[], action)
}

/// Opens the gate, and removes whatever filters there are beside it.
///
/// # Errors
/// When the interface does not exist, or the kernel refuses.
pub fn open(interface: &str) -> Result<()> {
    let remove = Request {
        kind: libc::RTM_DELQDISC,
        flags: 0,
        head: head(link::get(interface)?.index, HANDLE, CLSACT, 0),
        attributes: Attributes::default().name(TCA_KIND, QUEUE),
    };
    // What is not there is not found, or there is nothing to find it in.
    Batch::open()?.execute(&[remove], &[Errno::NOENT, Errno::INVAL], |_| {
        format!("remove the filters of {interface}")
    })
}

/// Whether the gate of an interface is closed by this bit, and by nothing else.
///
/// # Errors
/// When the interface does not exist, or the kernel cannot be asked.
pub fn is_closed(interface: &str, mark: u32) -> Result<bool> {
    let request = Request {
        kind: libc::RTM_GETTFILTER,
        flags: 0,
        head: head(link::get(interface)?.index, 0, INGRESS, 0),
        attributes: Attributes::default(),
    };
    let wanted = program(mark);
    let take = |found: &mut Vec<bool>, _: u16, body: &[u8]| {
        let attributes = body.get(head(0, 0, 0, 0).len()..).unwrap_or_default();
        // A message without options announces the filters of a priority.
        if let Some(options) = attribute(attributes, TCA_OPTIONS) {
            let flags = attribute(options, TCA_BPF_FLAGS);
            found.push(
                text(attributes, TCA_KIND).as_deref() == Some(KIND)
                    && attribute(options, TCA_BPF_OPS) == Some(&wanted)
                    && flags.and_then(|flags| flags.first()) == Some(&1),
            );
        }
    };
    let found = Batch::open()?.dump(&request, Vec::new, take, || {
        format!("read the filters of {interface}")
    });
    match found {
        Ok(found) => Ok(found == [true]),
        // There is nothing that could hold filters.
        Err(error) if matches!(error.errno(), Some(Errno::INVAL | Errno::NOENT)) => Ok(false),
        Err(error) => Err(error),
    }
}
