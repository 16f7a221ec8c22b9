//! What the workers read frames from and write them to.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use tun_tap::Iface;

/// A non-blocking descriptor that keeps frames apart: one frame a read, one a write, without anything in front.
pub trait FrameDevice: AsRawFd + Send + Sync + 'static {
    /// Reads one frame and says how long it is; what does not fit is lost.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none now; any other means that there will be none any more.
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes one frame.
    ///
    /// # Errors
    /// The device is down, full or gone.
    fn send(&self, frame: &[u8]) -> io::Result<usize>;
}

/// A TAP device without packet information.
impl FrameDevice for Iface {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::recv(self, buffer)
    }

    fn send(&self, frame: &[u8]) -> io::Result<usize> {
        Self::send(self, frame)
    }
}

/// One end of a pair, whose other end plays the kernel.
impl FrameDevice for UnixDatagram {
    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::recv(self, buffer)
    }

    fn send(&self, frame: &[u8]) -> io::Result<usize> {
        Self::send(self, frame)
    }
}
