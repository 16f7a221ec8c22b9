//! The threads of the fast engine, and what they wait for.

use std::io::ErrorKind;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::rx::Receiver;
use super::tx::{Left, Sender};
use crate::common::shared::Shared;
use crate::common::workers::Workers;
use crate::engine::EngineError;

/// Errors of the socket in a row after which it is given up. Single ones tell of a datagram sent earlier.
const ERRORS_MAX: u32 = 64;

/// Starts the threads: one for both directions on a machine with one processor, else one for each.
pub(super) fn start(
    workers: &mut Workers,
    shared: &Arc<Shared>,
    tap: &str,
    sender: Sender,
    receiver: Receiver,
) -> Result<(), EngineError> {
    let worker = |sender, receiver| Worker {
        shared: Arc::clone(shared),
        tap_name: tap.to_owned(),
        sender,
        receiver,
        errors: 0,
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors == 1 {
        let both = worker(Some(sender), Some(receiver));
        return workers.spawn("weft-sleeve", || both.run());
    }
    let (sending, receiving) = (worker(Some(sender), None), worker(None, Some(receiver)));
    workers.spawn("weft-sleeve-tx", || sending.run())?;
    workers.spawn("weft-sleeve-rx", || receiving.run())
}

struct Worker {
    shared: Arc<Shared>,
    tap_name: String,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    errors: u32,
}

impl Worker {
    fn run(mut self) {
        if let Err(what) = self.serve() {
            self.shared.fail(what);
        }
    }

    /// Carries frames until the engine stops.
    ///
    /// # Errors
    /// A sentence: why no more can be carried.
    fn serve(&mut self) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let mut view = arc_swap::Cache::new(&shared.view);
        while !shared.stopping() {
            let view = view.load();
            let mut left = Left::Nothing;
            if let Some(receiver) = &mut self.receiver {
                match receiver.turn(view) {
                    Ok(Left::Nothing) => self.errors = 0,
                    Ok(Left::Perhaps) => (self.errors, left) = (0, Left::Perhaps),
                    Err(error) if error.kind() == ErrorKind::Interrupted => left = Left::Perhaps,
                    Err(error) if self.errors < ERRORS_MAX => {
                        (self.errors, left) = (self.errors + 1, Left::Perhaps);
                        tracing::debug!(%error, "the sleeve's socket reports an error");
                    }
                    Err(error) => {
                        return Err(format!(
                            "the sleeve's UDP socket gives no more datagrams ({error}): restart the router"
                        ));
                    }
                }
            }
            if let Some(sender) = &mut self.sender {
                match sender.turn(view) {
                    Ok(Left::Nothing) => {}
                    Ok(Left::Perhaps) => left = Left::Perhaps,
                    Err(error) => {
                        return Err(format!(
                            "the TAP device {} gives no more frames ({error}): it was removed while the engine \
                             used it; restart the router to have it again",
                            self.tap_name
                        ));
                    }
                }
            }
            if left == Left::Nothing {
                self.wait().map_err(|error| {
                    format!("the engine cannot wait for frames: {error}; restart the router")
                })?;
            }
        }
        Ok(())
    }

    /// Returns when there is something to do.
    fn wait(&self) -> Result<(), Errno> {
        let bell = readable(self.shared.bell());
        let tap = self.sender.as_ref().map(Sender::source);
        let socket = self.receiver.as_ref().map(|_| self.shared.socket.as_fd());
        let patience = self.receiver.as_ref().and_then(Receiver::patience).map(timespec);
        let waited = match (tap.map(readable), socket.map(readable)) {
            (Some(tap), Some(socket)) => poll(&mut [bell, tap, socket], patience.as_ref()),
            (Some(one), None) | (None, Some(one)) => poll(&mut [bell, one], patience.as_ref()),
            (None, None) => poll(&mut [bell], None),
        };
        match waited {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }
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
