//! A file of random bytes over TCP, hashed at both ends.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Socket, Type};

use crate::error::{Error, Result};
use crate::lab::Shared;
use crate::station::{Station, unspecified};

/// Waits are cut into pieces of this length, so that the interrupt flag is seen.
pub(crate) const GLANCE: Duration = Duration::from_millis(100);
/// A connection on which nothing moves for this long is given up: several retransmissions of TCP,
/// whose first comes after 200 ms and each next one after twice as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes handed to the kernel, or taken from it, at once.
const PIECE: usize = 256 * 1024;

/// What is sent: random bytes, made from a seed.
#[derive(Clone)]
pub struct Content {
    bytes: Arc<[u8]>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Content({} bytes)", self.bytes.len())
    }
}

impl Content {
    /// `length` random bytes.
    #[must_use]
    pub fn random(length: usize, seed: u64) -> Self {
        Self::with_needle(length, seed, &[], 1)
    }

    /// `length` random bytes in which `needle` stands at the beginning of every `every` bytes, where
    /// it fits.
    #[must_use]
    pub fn with_needle(length: usize, seed: u64, needle: &[u8], every: usize) -> Self {
        let mut bytes = vec![0; length];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        for part in bytes.chunks_mut(every.max(needle.len()).max(1)) {
            if let Some(place) = part.get_mut(..needle.len()) {
                place.copy_from_slice(needle);
            }
        }
        Self { bytes: bytes.into() }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its SHA-256.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.bytes).into()
    }
}

/// What a transfer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that arrived.
    pub bytes: u64,
    /// SHA-256 of what was sent.
    pub sent: [u8; 32],
    /// SHA-256 of what arrived.
    pub arrived: [u8; 32],
    /// From the first SYN to the last byte.
    pub elapsed: Duration,
}

impl Transfer {
    /// Whether what arrived is what was sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.sent == self.arrived
    }

    /// Speed in Gbit/s of file content.
    #[must_use]
    pub fn gbit_per_second(&self) -> f64 {
        // Counts below 2^53 are exact in an f64; a file is smaller.
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9) / 1e9
    }
}

/// Sends, receives and hashes. Hashing is done before and after, not while the clock runs.
pub(crate) fn run(
    from: &Station,
    to: &Station,
    content: &Content,
    arrived: &(dyn Fn(u64) + Sync),
) -> Result<Transfer> {
    let total = content.len() as u64;
    let broke_off = |done: u64, source: io::Error| Error::Transfer {
        from: from.name.clone(),
        to: to.name.clone(),
        done,
        total,
        source,
    };
    let own = from.address()?;
    let address = to.find_same_family(own)?;
    let listener = to.namespace.run(|| listen(address))?;
    let listener = listener.map_err(|e| broke_off(0, e))?;
    let port = listener.local_addr().map_err(|e| broke_off(0, e))?.port();
    let sent = content.sha256();
    let begin = Instant::now();
    let (received, sender) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            from.namespace
                .run(|| send(&from.lab, SocketAddr::new(address, port), &content.bytes))
        });
        let received = receive(&to.lab, &listener, content.len(), arrived);
        // When the receiver has given up, a sender that still connects must hear of it.
        drop(listener);
        (received, sender.join())
    });
    // A sender's error says more than the receiver's, which is then silence.
    let sender = sender.map_err(|_| broke_off(0, io::Error::other("the sender panicked")))?;
    from.lab.check_interrupt()?;
    sender?.map_err(|e| broke_off(0, e))?;
    let (bytes, end) = received.map_err(|(done, e)| broke_off(done, e))?;
    Ok(Transfer {
        bytes: bytes.len() as u64,
        sent,
        arrived: Sha256::digest(&bytes).into(),
        elapsed: end - begin,
    })
}

impl Station {
    pub(crate) fn find_same_family(&self, like: IpAddr) -> Result<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4(),
            IpAddr::V6(_) => self.ipv6(),
        }
    }
}

pub(crate) fn listen(address: IpAddr) -> io::Result<TcpListener> {
    TcpListener::bind((address, 0)).or_else(|_| TcpListener::bind((unspecified(address), 0)))
}

fn send(lab: &Shared, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_write_timeout(Some(GLANCE))?;
    let mut rest = bytes;
    let mut last = Instant::now();
    while !rest.is_empty() {
        let piece = rest.get(..PIECE).unwrap_or(rest);
        match (&socket).write(piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => {
                rest = rest.get(done..).unwrap_or_default();
                last = Instant::now();
            }
            Err(e) => still(lab, e, last)?,
        }
    }
    socket.shutdown(std::net::Shutdown::Write)
}

/// Returns the bytes and the time of the last one, or how many had come before the error.
fn receive(
    lab: &Shared,
    listener: &TcpListener,
    expected: usize,
    arrived: &(dyn Fn(u64) + Sync),
) -> Result<(Vec<u8>, Instant), (u64, io::Error)> {
    let socket = accept(lab, listener).map_err(|e| (0, e))?;
    let prepare = || {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(GLANCE))
    };
    prepare().map_err(|e| (0, e))?;
    // One piece more than expected, so that a surplus byte shows.
    let mut bytes = vec![0; expected + PIECE];
    let mut done = 0;
    let mut last = Instant::now();
    loop {
        let room = (done + PIECE).min(bytes.len());
        match (&socket).read(&mut bytes[done..room]) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                last = Instant::now();
                arrived(done as u64);
            }
            Err(e) => still(lab, e, last).map_err(|e| (done as u64, e))?,
        }
        if done > expected {
            let surplus = io::Error::new(io::ErrorKind::InvalidData, "more arrived than was sent");
            return Err((done as u64, surplus));
        }
    }
    bytes.truncate(done);
    Ok((bytes, last))
}

pub(crate) fn accept(lab: &Shared, listener: &TcpListener) -> io::Result<Socket> {
    let socket: Socket = listener.try_clone()?.into();
    // `accept` heeds the receive timeout (socket(7)).
    socket.set_read_timeout(Some(GLANCE))?;
    let begin = Instant::now();
    loop {
        match socket.accept() {
            Ok((connection, _)) => return Ok(connection),
            Err(e) => still(lab, e, begin)?,
        }
    }
}

/// Passes over an error that only ends a glance, while there is patience left.
pub(crate) fn still(lab: &Shared, error: io::Error, last: Instant) -> io::Result<()> {
    let pause = matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    );
    if !pause {
        return Err(error);
    }
    if lab.check_interrupt().is_err() {
        return Err(io::Error::other("interrupted"));
    }
    if last.elapsed() < PATIENCE {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {PATIENCE:?}"),
        ))
    }
}
