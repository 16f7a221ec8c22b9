//! The threads of the fast engine, and what they wait for.
//!
//! One thread carries both directions while there is little to do: a datagram and what answers it then wake one thread
//! on the way and not two, which is what makes an idle path quick. Once it has been busy for a while without a pause, a
//! second one takes the receiving half over, until nothing has arrived for a moment.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::rx::Receiver;
use super::tx::{Left, Sender};
use crate::common::shared::Shared;
use crate::common::workers::Workers;
use crate::engine::EngineError;
use crate::view::Views;

/// Errors of the socket in a row after which it is given up. Single ones tell of a datagram sent earlier.
const ERRORS_MAX: u32 = 64;
/// The first thread calls for help when it has not paused for so long: longer than any burst of an idle path takes.
const BUSY: Duration = Duration::from_micros(500);
/// The second thread goes when nothing has arrived for so long: TCP at its slowest pace pauses for less.
const IDLE: Duration = Duration::from_millis(10);

/// Starts the threads: one on a machine with one processor, else two.
pub(super) fn start(
    workers: &mut Workers,
    shared: &Arc<Shared>,
    tap: &str,
    sender: Sender,
    receiver: Receiver,
) -> Result<(), EngineError> {
    let halves = Arc::new(Halves {
        shared: Arc::clone(shared),
        tap_name: tap.to_owned(),
        sender: Mutex::new(sender),
        receiver: Mutex::new(receiver),
        is_helped: AtomicBool::new(false),
        call: Signal::new().map_err(EngineError::Worker)?,
        recall: Signal::new().map_err(EngineError::Worker)?,
    });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let has_helper = processors > 1;
    let (first, second) = (Arc::clone(&halves), halves);
    workers.spawn("weft-sleeve", move || first.run(|halves| halves.lead(has_helper)))?;
    if has_helper {
        workers.spawn("weft-sleeve-rx", move || second.run(Halves::help))?;
    }
    Ok(())
}

/// Both directions. Each lock is taken once for many packets, and mostly by the same thread.
struct Halves {
    shared: Arc<Shared>,
    tap_name: String,
    sender: Mutex<Sender>,
    receiver: Mutex<Receiver>,
    /// The second thread has the receiver, or is about to take it.
    is_helped: AtomicBool,
    /// Wakes the second thread.
    call: Signal,
    /// Tells the first thread that the receiver is its own again.
    recall: Signal,
}

/// Why a thread ends before the engine does: a sentence.
type Failure = String;

impl Halves {
    fn run(&self, work: impl FnOnce(&Self) -> Result<(), Failure>) {
        if let Err(what) = work(self) {
            self.shared.fail(what);
        }
    }

    /// The first thread: sends, and receives unless it is helped. After a wait it asks only what has something: on an idle
    /// path each call that finds nothing would delay a packet.
    fn lead(&self, has_helper: bool) -> Result<(), Failure> {
        let mut views = Views::new(&self.shared.view);
        let mut sender = lock(&self.sender);
        let mut errors = 0;
        let mut busy_since = None;
        let (mut tap, mut socket) = (true, true);
        while !self.shared.stopping() {
            let mut left = Left::Nothing;
            let mut patience = None;
            let is_helped = self.is_helped.load(SeqCst);
            if !is_helped {
                let mut receiver = lock(&self.receiver);
                if socket {
                    left = receive(&mut receiver, &mut views, &mut errors)?;
                    socket = left == Left::Perhaps;
                    // A pod's kernel answers, or goes on sending, while what came for it is written.
                    tap |= socket;
                }
                patience = receiver.patience();
            }
            if tap {
                let sent = self.send(&mut sender, &mut views)?;
                tap = sent == Left::Perhaps;
                if tap {
                    left = sent;
                }
            }
            if left == Left::Perhaps {
                let now = Instant::now();
                let since = *busy_since.get_or_insert(now);
                if has_helper && now.saturating_duration_since(since) > BUSY && !is_helped {
                    self.is_helped.store(true, SeqCst);
                    self.call.ring();
                }
                continue;
            }
            busy_since = None;
            let receives = (!is_helped).then(|| self.shared.socket.as_fd());
            let watched = [Some(sender.source()), receives, Some(self.recall.as_fd())];
            let recalled;
            [tap, socket, recalled] = self.wait(watched, patience)?;
            if recalled {
                self.recall.clear();
                socket = true;
            }
        }
        Ok(())
    }

    /// The second thread: receives while the first one is busy.
    fn help(&self) -> Result<(), Failure> {
        let mut views = Views::new(&self.shared.view);
        let mut errors = 0;
        while !self.shared.stopping() {
            self.wait([Some(self.call.as_fd()), None, None], None)?;
            self.call.clear();
            if !self.is_helped.load(SeqCst) {
                continue;
            }
            let mut receiver = lock(&self.receiver);
            let mut last = Instant::now();
            while !self.shared.stopping() {
                if receive(&mut receiver, &mut views, &mut errors)? == Left::Perhaps {
                    last = Instant::now();
                    continue;
                }
                let left = IDLE.saturating_sub(last.elapsed());
                if left.is_zero() {
                    break;
                }
                let patience = receiver.patience().map_or(left, |patience| patience.min(left));
                self.wait([Some(self.shared.socket.as_fd()), None, None], Some(patience))?;
            }
            drop(receiver);
            self.is_helped.store(false, SeqCst);
            self.recall.ring();
        }
        Ok(())
    }

    fn send(&self, sender: &mut Sender, views: &mut Views<'_>) -> Result<Left, Failure> {
        sender.turn(views).map_err(|error| {
            format!(
                "the TAP device {} gives no more frames ({error}): it was removed while the engine used it; restart \
                 the router to have it again",
                self.tap_name
            )
        })
    }

    /// Returns when one of the descriptors has something, or the time is up, or the engine stops. Says which may have
    /// something: all of them, when nobody knows.
    fn wait(
        &self,
        on: [Option<BorrowedFd<'_>>; 3],
        patience: Option<Duration>,
    ) -> Result<[bool; 3], Failure> {
        let bell = self.shared.bell();
        // The bell stands in for one that is not watched: it rings at the end only.
        let [a, b, c] = on.map(|fd| readable(fd.unwrap_or(bell)));
        let mut watched = [readable(bell), a, b, c];
        let patience = patience.map(timespec);
        match poll(&mut watched, patience.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok([true; 3]),
            Ok(_) => {
                let [_, a, b, c] = watched;
                Ok([a, b, c].map(|fd| !fd.revents().is_empty()))
            }
            Err(error) => Err(format!(
                "the engine cannot wait for frames: {error}; restart the router"
            )),
        }
    }
}

fn receive(receiver: &mut Receiver, views: &mut Views<'_>, errors: &mut u32) -> Result<Left, Failure> {
    match receiver.turn(views) {
        Ok(left) => {
            *errors = 0;
            Ok(left)
        }
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Left::Perhaps),
        Err(error) if *errors < ERRORS_MAX => {
            *errors += 1;
            tracing::debug!(%error, "the sleeve's socket reports an error");
            Ok(Left::Perhaps)
        }
        Err(error) => Err(format!(
            "the sleeve's UDP socket gives no more datagrams ({error}): restart the router"
        )),
    }
}

/// A descriptor that is readable from [`Signal::ring`] to [`Signal::clear`].
struct Signal(OwnedFd);

impl Signal {
    fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ring(&self) {
        // It fails only when the counter is full, and then it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        // It fails only when nobody has rung.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

fn lock<T>(half: &Mutex<T>) -> MutexGuard<'_, T> {
    half.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timespec(patience: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}
