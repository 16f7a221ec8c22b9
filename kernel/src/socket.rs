//! Socket options that the standard library lacks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The same for the send buffer, whose limit is `net.core.wmem_max`.
///
/// # Errors
/// When the descriptor is not a socket.
pub fn set_send_buffer(socket: impl AsFd, bytes: usize) -> Result<usize> {
    let failed = |e: Errno| Error::io("set the send buffer of a socket", e);
    match sockopt::set_socket_send_buffer_size_force(&socket, bytes) {
        Ok(()) => {}
        Err(Errno::PERM) => sockopt::set_socket_send_buffer_size(&socket, bytes).map_err(failed)?,
        Err(errno) => return Err(failed(errno)),
    }
    Ok(sockopt::socket_send_buffer_size(&socket).map_err(failed)? / 2)
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

/// Makes the kernel note when each datagram came in, for [`receive_with_age`].
///
/// # Errors
/// When the descriptor is not a socket.
pub fn note_arrivals(socket: impl AsFd) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: SO_TIMESTAMPNS reads one `int`, whose address and size are given and which outlives the call. The
    // descriptor is borrowed, so it is open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(Error::io(
            "have the arrivals at a socket noted",
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Receives one datagram: its length, and how long it had waited for that. Without [`note_arrivals`] that is nothing.
///
/// # Errors
/// As recvmsg(2): `EAGAIN` when the socket has a time limit and it has passed.
pub fn receive_with_age(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Duration)> {
    // As many as CMSG_SPACE of a `struct timespec`, with the alignment of its header.
    let mut control = [0_u64; 8];
    let mut slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: zeros are a valid `struct msghdr`: no name, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the kernel writes to `buffer` and `control`, at most as much as their lengths say; both and the structures
    // that lead to them outlive the call. The descriptor is borrowed, so it is open.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: `message` is as recvmsg has left it, and `control` still lives.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    let mut age = Duration::ZERO;
    // SAFETY: CMSG_FIRSTHDR gives null or a header inside `control`, which is aligned for it.
    if let Some(header) = unsafe { first.as_ref() }
        && (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS)
    {
        // SAFETY: the kernel puts a whole `struct timespec` behind such a header. It may stand at any address.
        let stamp = unsafe { libc::CMSG_DATA(first).cast::<libc::timespec>().read_unaligned() };
        let seconds = u64::try_from(stamp.tv_sec).unwrap_or(0);
        let arrival = Duration::new(seconds, u32::try_from(stamp.tv_nsec).unwrap_or(0));
        // Nothing when the clock was set back in between.
        age = SystemTime::now()
            .duration_since(UNIX_EPOCH + arrival)
            .unwrap_or_default();
    }
    Ok((length, age))
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
        assert_eq!(set_send_buffer(&socket, 65_536).unwrap(), 65_536);
    }

    #[test]
    fn a_datagram_tells_how_long_it_has_waited() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 16];
        let send = || socket.send_to(b"hello", socket.local_addr().unwrap()).unwrap();
        send();
        assert_eq!(
            receive_with_age(&socket, &mut buffer).unwrap(),
            (5, Duration::ZERO)
        );
        note_arrivals(&socket).unwrap();
        // The kernel begins to note arrivals a little after it was asked to, unless somebody else had asked before; one that
        // it did not note counts from when it is read.
        let is_noted = (0..1_000).any(|_| {
            let before = std::time::Instant::now();
            send();
            // As long as it takes to see that the clock goes on.
            while before.elapsed() < Duration::from_millis(2) {}
            let (length, age) = receive_with_age(&socket, &mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"hello");
            assert!(age <= before.elapsed(), "{age:?}");
            age >= Duration::from_millis(1)
        });
        assert!(is_noted);
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let nothing = receive_with_age(&socket, &mut buffer).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_unix_peer_is_this_process() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer_credentials(&one).unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    }
}
