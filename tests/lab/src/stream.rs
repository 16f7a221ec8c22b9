//! A TCP connection that goes on while a story happens: random bytes at a gentle pace, compared where they arrive.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use socket2::{Domain, Socket, Type};

use crate::error::{Error, Result};
use crate::lab::Shared;
use crate::station::Station;
use crate::transfer::{GLANCE, PATIENCE, accept, listen, still};

/// Bytes sent at once, and the pause behind them: together 3 MB/s, which leaves the processors to the story.
const PIECE: usize = 16 * 1024;
const PACE: Duration = Duration::from_millis(5);
/// Both ends make the bytes from it.
const SEED: u64 = 11;

/// A connection on which bytes flow until [`Stream::finish`]. Either end fails when nothing moved for 20 s, or when the
/// kernel gives the connection up.
#[derive(Debug)]
pub struct Stream {
    names: [String; 2],
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<io::Result<u64>>,
    receiver: JoinHandle<io::Result<u64>>,
}

impl Stream {
    pub(crate) fn open(from: &Station, to: &Station) -> Result<Self> {
        let names = [from.name.clone(), to.name.clone()];
        let failed = |source: io::Error| broke_off(&names, 0, source);
        let address = to.find_same_family(from.address()?)?;
        let listener = to.namespace.run(|| listen(address))?.map_err(failed)?;
        let there = SocketAddr::new(address, listener.local_addr().map_err(failed)?.port());
        let connect = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(there), Type::STREAM, None)?;
            socket.connect_timeout(&there.into(), PATIENCE)?;
            socket.set_write_timeout(Some(GLANCE))?;
            Ok(socket)
        };
        let sending = from.namespace.run(connect)?.map_err(failed)?;
        let receiving = accept(&to.lab, &listener).map_err(failed)?;
        let prepare = || {
            receiving.set_nonblocking(false)?;
            receiving.set_read_timeout(Some(GLANCE))
        };
        prepare().map_err(failed)?;
        let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (lab, stopped) = (Arc::clone(&from.lab), Arc::clone(&stop));
        let sender = std::thread::spawn(move || send(&lab, &sending, &stopped));
        let (lab, counter) = (Arc::clone(&to.lab), Arc::clone(&arrived));
        let receiver = std::thread::spawn(move || receive(&lab, &receiving, &counter));
        Ok(Self {
            names,
            stop,
            arrived,
            sender,
            receiver,
        })
    }

    /// Bytes that have arrived as they were sent.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits until so many more bytes have arrived.
    ///
    /// # Errors
    /// When the connection broke, or when they do not come in time.
    pub fn wait_for(&self, more: u64, patience: Duration) -> Result<()> {
        let (begin, goal) = (Instant::now(), self.arrived() + more);
        while self.arrived() < goal {
            if self.sender.is_finished() || self.receiver.is_finished() || begin.elapsed() > patience {
                return Err(Error::TimedOut {
                    what: format!("{} sends {more} more bytes to {}", self.names[0], self.names[1]),
                    patience,
                    seen: format!("{} bytes, {} wanted", self.arrived(), goal),
                });
            }
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    /// Ends it in order, and returns how many bytes went from end to end.
    ///
    /// # Errors
    /// [`Error::Transfer`] when it broke before, or when what arrived is not what was sent.
    pub fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.arrived();
        let join = |end: JoinHandle<io::Result<u64>>| {
            let result = end
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("one end panicked")));
            result.map_err(|source| broke_off(&self.names, done, source))
        };
        let (sent, arrived) = (join(self.sender)?, join(self.receiver)?);
        if sent == arrived {
            return Ok(arrived);
        }
        let source = io::Error::other(format!("{sent} bytes were sent"));
        Err(broke_off(&self.names, arrived, source))
    }
}

fn broke_off(names: &[String; 2], done: u64, source: io::Error) -> Error {
    Error::Transfer {
        from: names[0].clone(),
        to: names[1].clone(),
        done,
        total: done,
        source,
    }
}

fn send(lab: &Shared, mut socket: &Socket, stop: &AtomicBool) -> io::Result<u64> {
    let mut bytes = ChaCha8Rng::seed_from_u64(SEED);
    let (mut piece, mut total) = (vec![0; PIECE], 0);
    while !stop.load(Ordering::Relaxed) {
        bytes.fill_bytes(&mut piece);
        let (mut rest, mut last) = (&piece[..], Instant::now());
        while !rest.is_empty() {
            match socket.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(done) => (rest, last) = (&rest[done..], Instant::now()),
                Err(e) => still(lab, e, last)?,
            }
        }
        total += PIECE as u64;
        std::thread::sleep(PACE);
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    Ok(total)
}

fn receive(lab: &Shared, mut socket: &Socket, arrived: &AtomicU64) -> io::Result<u64> {
    let mut bytes = ChaCha8Rng::seed_from_u64(SEED);
    let (mut piece, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    let mut last = Instant::now();
    loop {
        // One piece of the sender at a time, so that both make the same ones.
        bytes.fill_bytes(&mut expected);
        let mut done = 0;
        while done < PIECE {
            match socket.read(&mut piece[done..]) {
                Ok(0) if done == 0 => return Ok(arrived.load(Ordering::Relaxed)),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    done += count;
                    last = Instant::now();
                }
                Err(e) => still(lab, e, last)?,
            }
        }
        if piece != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what arrived is not what was sent",
            ));
        }
        arrived.fetch_add(PIECE as u64, Ordering::Relaxed);
    }
}
