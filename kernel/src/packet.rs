//! Frames of one ethertype on one interface, both ways: packet(7).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::link;

/// A socket that takes frames of one ethertype from one interface, and sends frames by it. It never blocks.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    index: u32,
}

impl PacketSocket {
    /// Opens it on an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the interface does not exist or the process lacks `CAP_NET_RAW` in its network namespace.
    pub fn open(interface: &str, ethertype: u16) -> Result<Self> {
        let index = link::get(interface)?.index;
        let failed =
            |step: &str, source: io::Error| Error::io(format!("packets on {interface}: {step}"), source);
        // Without a protocol nothing arrives before the interface is chosen.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None::<Protocol>,
        )
        .map_err(|e| failed("open a packet socket", e.into()))?;
        bind(&socket, index, ethertype).map_err(|e| failed("bind to the interface", e))?;
        Ok(Self { socket, index })
    }

    /// Number of the interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sends one frame, from its destination address on.
    ///
    /// # Errors
    /// Of send(2): `EMSGSIZE` for one that is longer than the interface carries, `ENETDOWN` when that is down or gone.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.socket, frame, SendFlags::empty())?;
        Ok(())
    }

    /// Takes the next frame; its length, which is that of `buffer` at most.
    ///
    /// # Errors
    /// Of recv(2): `EAGAIN` when there is none, `ENETDOWN` once when the interface has gone down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (length, _) = rustix::net::recv(&self.socket, buffer, RecvFlags::empty())?;
        Ok(length)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<PacketSocket> for OwnedFd {
    fn from(socket: PacketSocket) -> Self {
        socket.socket
    }
}

/// Has a packet socket take frames of this ethertype from this interface.
pub(crate) fn bind(socket: &OwnedFd, index: u32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads one `sockaddr_ll`, which is what `address` is, fully initialised.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
