//! Socket options that the standard library lacks.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::error::{Error, Result};

/// Asks for a receive buffer of `bytes` and returns the size reached, which may be smaller:
/// past the limit `net.core.rmem_max` only a process with `CAP_NET_ADMIN` in the initial user
/// namespace gets there.
///
/// # Errors
/// When the descriptor is not a socket.
pub fn set_receive_buffer(socket: impl AsFd, bytes: usize) -> Result<usize> {
    let failed = |e: Errno| Error::io("set the receive buffer of a socket", e);
    match sockopt::set_socket_recv_buffer_size_force(&socket, bytes) {
        Ok(()) => {}
        Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(&socket, bytes).map_err(failed)?,
        Err(errno) => return Err(failed(errno)),
    }
    // The kernel doubles what is asked for, to account for its own bookkeeping (socket(7)).
    Ok(sockopt::socket_recv_buffer_size(&socket).map_err(failed)? / 2)
}

/// Who is at the other end of a unix stream socket, as of the time it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The credentials of the process at the other end (`SO_PEERCRED`, unix(7)).
///
/// # Errors
/// When the descriptor is not a connected unix socket.
pub fn peer_credentials(stream: impl AsFd) -> Result<PeerCredentials> {
    let found = sockopt::socket_peercred(stream).map_err(|e| Error::io("read the credentials of a peer", e))?;
    Ok(PeerCredentials { pid: found.pid.as_raw_nonzero().get(), uid: found.uid.as_raw(), gid: found.gid.as_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reached_size_is_reported() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let reached = set_receive_buffer(&socket, 65_536).unwrap();
        assert_eq!(reached, 65_536);
        assert_eq!(sockopt::socket_recv_buffer_size(&socket).unwrap(), 2 * 65_536);
    }

    #[test]
    fn a_unix_peer_is_this_process() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer_credentials(&one).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    }
}
