//! The frames an interface sends and receives, through a ring shared with the kernel: packet(7)
//! and kernel documentation networking/packet_mmap.rst, TPACKET_V3.
//!
//! No frame is lost while the ring has room, and [`Capture::stats`] tells whether any was. That
//! makes it fit to prove what is *not* on a wire.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::{link, packet, process};

/// A frame of 64 KiB (a segmentation super-frame) with its headers fits a block.
const BLOCK: usize = 256 * 1024;
/// One block is read while the kernel fills another.
const MIN_BLOCKS: usize = 2;
/// 1 GiB: more is a mistake.
const MAX_BLOCKS: usize = 4096;
/// Only divides the ring for the kernel's arithmetic; version 3 packs frames of any length.
const FRAME_UNIT: usize = 2048;
/// A block with frames in it is handed over after this long even if it is not full.
const RETIRE_MILLIS: u32 = 10;

/// A frame as captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The frame from its Ethernet header on. A VLAN tag that the device took off is not in it.
    pub data: &'a [u8],
    /// Its length on the wire; more than `data` holds if it was cut.
    pub wire_length: usize,
    /// Whether this host sent it.
    pub outgoing: bool,
    /// When, as time since the Unix epoch.
    pub time: Duration,
}

/// Counters since the capture was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames seen, including those dropped.
    pub packets: u64,
    /// Frames lost because the ring was full.
    pub drops: u64,
}

/// An open capture of one interface of the namespace in which it was opened.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
    ring: NonNull<u8>,
    blocks: usize,
    /// The block that is read or awaited.
    block: usize,
    /// The next frame of that block, when it is ours.
    cursor: Option<Cursor>,
    total: Stats,
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    offset: usize,
    left: u32,
}

// SAFETY: the ring is a mapping of this process, not of a thread, and `Capture` alone holds its address.
unsafe impl Send for Capture {}

impl Capture {
    /// Starts to capture every frame that `interface` sends or receives, into a ring of about
    /// `ring_bytes` (at least 512 KiB, at most 1 GiB).
    ///
    /// # Errors
    /// When the interface does not exist or the process lacks `CAP_NET_RAW` in its network namespace.
    pub fn open(interface: &str, ring_bytes: usize) -> Result<Self> {
        let index = link::get(interface)?.index;
        let failed =
            |step: &str, source: io::Error| Error::io(format!("capture on {interface}: {step}"), source);
        let blocks = ring_bytes.div_ceil(BLOCK).clamp(MIN_BLOCKS, MAX_BLOCKS);
        // Without a protocol nothing arrives before the ring is there and the interface is chosen.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None::<Protocol>,
        )
        .map_err(|e| failed("open a packet socket", e.into()))?;
        // The enum's discriminant is the value the option takes.
        let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
        set_option(&socket, libc::PACKET_VERSION, &version).map_err(|e| failed("choose TPACKET_V3", e))?;
        // All constants are small, and `blocks` is at most MAX_BLOCKS: each product fits 32 bits.
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: FRAME_UNIT as u32,
            tp_frame_nr: (BLOCK / FRAME_UNIT * blocks) as u32,
            tp_retire_blk_tov: RETIRE_MILLIS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(&socket, libc::PACKET_RX_RING, &request).map_err(|e| failed("make the ring", e))?;
        // SAFETY: a null address lets the kernel choose where; the length is that of the ring just
        // made, so the mapping covers it and overlaps nothing.
        let address = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                BLOCK * blocks,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &socket,
                0,
            )
        }
        .map_err(|e| failed("map the ring", e.into()))?;
        let ring = NonNull::new(address.cast())
            .ok_or_else(|| failed("map the ring", io::ErrorKind::Other.into()))?;
        // From here on, dropping `capture` unmaps the ring.
        let capture = Self {
            socket,
            ring,
            blocks,
            block: 0,
            cursor: None,
            total: Stats::default(),
        };
        packet::bind(&capture.socket, index, libc::ETH_P_ALL as u16)
            .map_err(|e| failed("bind to the interface", e))?;
        Ok(capture)
    }

    /// The next frame, waiting for it at most `timeout`. `None` when none came in that time.
    ///
    /// # Errors
    /// When the ring cannot be waited for, or the kernel wrote what TPACKET_V3 does not allow.
    pub fn next_frame(&mut self, timeout: Duration) -> Result<Option<Frame<'_>>> {
        let end = process::deadline(timeout);
        loop {
            match self.cursor {
                Some(Cursor { left: 1.., .. }) => return self.take_frame().map(Some),
                Some(Cursor { left: 0, .. }) => self.release_block(),
                None => {
                    if self.acquire_block()? {
                        continue;
                    }
                    let left = end.saturating_duration_since(Instant::now());
                    let ready = process::readable(&self.socket, left)
                        .map_err(|e| Error::io("wait for a frame", e))?;
                    if !ready {
                        return Ok(None);
                    }
                    // Otherwise an interface that went down would keep this loop busy.
                    if let Ok(Err(errno)) = rustix::net::sockopt::socket_error(&self.socket) {
                        return Err(Error::io("wait for a frame", errno));
                    }
                }
            }
        }
    }

    /// The counters since the capture was opened.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn stats(&mut self) -> Result<Stats> {
        let mut recent = libc::tpacket_stats_v3 {
            tp_packets: 0,
            tp_drops: 0,
            tp_freeze_q_cnt: 0,
        };
        let mut length = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `recent`, a `struct tpacket_stats_v3` of
        // that size in which any bytes are valid, and the length to `length`. Both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut recent).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(Error::io(
                "read the counters of a capture",
                io::Error::last_os_error(),
            ));
        }
        // The kernel counts from the last reading on.
        self.total.packets += u64::from(recent.tp_packets);
        self.total.drops += u64::from(recent.tp_drops);
        Ok(self.total)
    }

    /// The word by which the kernel and this process pass the current block to each other.
    fn status(&self) -> &AtomicU32 {
        let at = self.block * BLOCK
            + std::mem::offset_of!(libc::tpacket_block_desc, hdr)
            + std::mem::offset_of!(libc::tpacket_hdr_v1, block_status);
        // SAFETY: `block < blocks`, so the word is inside the mapping, which lives as long as `self`.
        // Blocks are page-aligned and the offset is a multiple of 4. Both sides access it atomically.
        unsafe { AtomicU32::from_ptr(self.ring.as_ptr().add(at).cast()) }
    }

    /// The current block's bytes; only while it is ours.
    fn block_bytes(&self) -> &[u8] {
        // SAFETY: `block < blocks`, so these BLOCK bytes are inside the mapping, which lives as long as
        // `self`. Callers hold the block: its status said USER, read with Acquire, and the kernel does
        // not write to it before `release_block`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.ring.as_ptr().add(self.block * BLOCK), BLOCK) }
    }

    fn acquire_block(&mut self) -> Result<bool> {
        if self.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return Ok(false);
        }
        let header = std::mem::offset_of!(libc::tpacket_block_desc, hdr);
        let field = |offset| word(self.block_bytes(), header + offset);
        let left = field(std::mem::offset_of!(libc::tpacket_hdr_v1, num_pkts))?;
        let offset = field(std::mem::offset_of!(libc::tpacket_hdr_v1, offset_to_first_pkt))? as usize;
        self.cursor = Some(Cursor { offset, left });
        Ok(true)
    }

    fn release_block(&mut self) {
        self.cursor = None;
        self.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % self.blocks;
    }

    /// Call only with frames left in the cursor.
    fn take_frame(&mut self) -> Result<Frame<'_>> {
        use libc::tpacket3_hdr as Header;
        let Some(Cursor { offset, left }) = self.cursor else {
            return Err(malformed());
        };
        let field = |at: usize| word(self.block_bytes(), offset + at);
        let next = field(std::mem::offset_of!(Header, tp_next_offset))? as usize;
        let seconds = field(std::mem::offset_of!(Header, tp_sec))?;
        let nanos = field(std::mem::offset_of!(Header, tp_nsec))?;
        let length = field(std::mem::offset_of!(Header, tp_snaplen))? as usize;
        let wire_length = field(std::mem::offset_of!(Header, tp_len))? as usize;
        let mac: [u8; 2] = bytes(self.block_bytes(), offset + std::mem::offset_of!(Header, tp_mac))?;
        // A sockaddr_ll follows the aligned header.
        let address = offset + size_of::<Header>().next_multiple_of(libc::TPACKET_ALIGNMENT);
        let [kind] = bytes(
            self.block_bytes(),
            address + std::mem::offset_of!(libc::sockaddr_ll, sll_pkttype),
        )?;
        self.cursor = Some(Cursor {
            offset: offset + next,
            left: left - 1,
        });
        let start = offset + usize::from(u16::from_ne_bytes(mac));
        let data = self
            .block_bytes()
            .get(start..start + length)
            .ok_or_else(malformed)?;
        let time = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanos.into());
        Ok(Frame {
            data,
            wire_length,
            outgoing: kind == libc::PACKET_OUTGOING,
            time,
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `open`, unmapped once; no reference into it outlives
        // `self`. Failing is impossible for a valid mapping, and would only leave it in place.
        let _ = unsafe { rustix::mm::munmap(self.ring.as_ptr().cast(), self.blocks * BLOCK) };
    }
}

fn malformed() -> Error {
    Error::Malformed {
        action: "read a captured frame".into(),
        reason: "it lies outside its block".into(),
    }
}

fn bytes<const N: usize>(block: &[u8], at: usize) -> Result<[u8; N]> {
    block
        .get(at..at + N)
        .and_then(|found| found.try_into().ok())
        .ok_or_else(malformed)
}

fn word(block: &[u8], at: usize) -> Result<u32> {
    bytes(block, at).map(u32::from_ne_bytes)
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`. The callers pass the type that
    // packet(7) gives for the option: an int, and a `tpacket_req3` (seven ints, no padding).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
