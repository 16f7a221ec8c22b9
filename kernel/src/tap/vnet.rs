//! TAP devices that hand over frames before they are segmented, with a virtio-net header in front of each
//! (Virtio 1.2 §5.1.6; kernel documentation networking/tuntap.rst; linux/if_tun.h).

use std::fs::File;
use std::io::{self, IoSlice, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use super::{IfRequest, check, open_device};
use crate::error::{Error, Result};
use crate::link;

/// Octets of the header before each frame: `struct virtio_net_hdr`, without what newer versions append.
pub const VNET_HEADER_LEN: usize = 10;

/// `struct virtio_net_hdr` (Virtio 1.2 §5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Bits `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// One of `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// A hint: octets of all headers, or more.
    pub header_len: u16,
    /// Octets of payload in each segment.
    pub gso_size: u16,
    /// Where checksumming starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// The header as the kernel takes it: in the byte order of this machine, which is the default of TAP devices.
    #[must_use]
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LEN] {
        let mut out = [0; VNET_HEADER_LEN];
        out[0] = self.flags;
        out[1] = self.gso_type;
        let words = [self.header_len, self.gso_size, self.csum_start, self.csum_offset];
        for (at, word) in (2..).step_by(2).zip(words) {
            out[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    /// Splits what was read into header and frame; `None` when it is shorter than a header.
    #[must_use]
    pub fn split(read: &[u8]) -> Option<(Self, &[u8])> {
        let (head, frame) = read.split_first_chunk::<VNET_HEADER_LEN>()?;
        let word = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let header = Self {
            flags: head[0],
            gso_type: head[1],
            header_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        };
        Some((header, frame))
    }
}

/// What the kernel leaves to the reader of a device, in steps of which each has all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Checksums are still to be filled in.
    Checksum,
    /// TCP comes in frames of up to 64 KiB, over IPv4 and IPv6.
    Tcp,
    /// So does UDP from senders that ask for it (`UDP_SEGMENT`, udp(7)).
    TcpAndUdp,
}

impl Offload {
    const BEST_FIRST: [Self; 3] = [Self::TcpAndUdp, Self::Tcp, Self::Checksum];

    fn bits(self) -> libc::c_uint {
        let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        match self {
            Self::Checksum => libc::TUN_F_CSUM,
            Self::Tcp => tcp,
            Self::TcpAndUdp => tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6,
        }
    }
}

/// An open TAP device: one read or write is a [`VnetHeader`] and one frame, which may stand for many. Non-blocking.
#[derive(Debug)]
pub struct VnetTap {
    file: File,
    offload: Offload,
}

impl AsFd for VnetTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl VnetTap {
    /// Opens a TAP device of the calling thread's namespace that exists, with the best offload that the kernel has.
    ///
    /// # Errors
    /// [`Error::NoSuchLink`]; [`Error::NoTun`]; `EBUSY` when another process holds it; `EINVAL` when the kernel
    /// refuses the header or all offloads.
    pub fn open(name: &str) -> Result<Self> {
        // The kernel would make a missing one.
        if link::find(name)?.is_none() {
            return Err(Error::NoSuchLink { name: name.into() });
        }
        let file = open_device()?;
        let mut request = IfRequest::new(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        request.attach(&file, name)?;
        set_header_length(&file)?;
        let mut refused = None;
        for offload in Offload::BEST_FIRST {
            match set_offload(&file, offload.bits()) {
                Ok(()) => {
                    rustix::io::ioctl_fionbio(&file, true)
                        .map_err(|e| Error::io("make a TAP device non-blocking", e))?;
                    return Ok(Self { file, offload });
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused
            .unwrap_or_else(|| Error::io("find an offload of TAP devices", io::ErrorKind::Unsupported)))
    }

    /// What the kernel leaves to the reader.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Reads one header and frame, and says how long both are; what does not fit is lost.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none now; any other means that there will be none any more.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one header and frame, put together from the parts.
    ///
    /// # Errors
    /// The device is down or gone; the header does not fit the frame.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(rustix::io::writev(&self.file, parts).map(drop)?)
    }
}

/// Takes all offloads back from a TAP device that exists. They stay with a persistent device when it is closed, and
/// who reads it without [`VnetHeader`] would get frames that nobody can deliver.
///
/// # Errors
/// As [`VnetTap::open`].
pub fn clear_offload(name: &str) -> Result<()> {
    if link::find(name)?.is_none() {
        return Err(Error::NoSuchLink { name: name.into() });
    }
    let file = open_device()?;
    IfRequest::new(name, libc::IFF_TAP | libc::IFF_NO_PI).attach(&file, name)?;
    set_offload(&file, 0)
}

fn set_offload(file: &File, bits: libc::c_uint) -> Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value; the kernel reads no memory of ours. `file` is open.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD as _,
            libc::c_ulong::from(bits),
        )
    };
    check(result, || "set the offloads of a TAP device".into())
}

fn set_header_length(file: &File) -> Result<()> {
    // Ten, asserted below.
    let length = VNET_HEADER_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int; `length` is one and outlives the call. `file` is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const length) };
    check(result, || "set the header length of a TAP device".into())
}

const _: () = assert!(VNET_HEADER_LEN == 10, "struct virtio_net_hdr has ten octets");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 4,
            header_len: 74,
            gso_size: 1_440,
            csum_start: 54,
            csum_offset: 16,
        };
        let read = [&header.to_bytes()[..], b"frame"].concat();
        assert_eq!(VnetHeader::split(&read), Some((header, &b"frame"[..])));
        assert_eq!(VnetHeader::split(&read[..9]), None);
    }
}
