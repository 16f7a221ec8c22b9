//! Socket options that the standard library lacks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

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
    /// Process id; 0 when the process belongs to a pid namespace that this one cannot see.
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
    // Not rustix: its type for a process id has no 0.
    let mut found = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `found`, which is a `struct ucred` of that
    // size and outlives the call, and the length to `length`. Any bytes are a valid `ucred`. The
    // descriptor is borrowed, so it is open.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(Error::io(
            "read the credentials of a peer",
            io::Error::last_os_error(),
        ));
    }
    Ok(PeerCredentials {
        pid: found.pid,
        uid: found.uid,
        gid: found.gid,
    })
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
