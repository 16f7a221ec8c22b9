//! Waiting for children with a bound.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};

/// Waits until a child has ended, at most for `timeout`. `None` when it still runs.
///
/// # Errors
/// When the child cannot be waited for, for example because it was waited for already.
pub fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let failed = |e: std::io::Error| Error::io("wait for a child process", e);
    if let Some(status) = child.try_wait().map_err(failed)? {
        return Ok(Some(status));
    }
    let handle = pidfd_open(pid(child)?, PidfdFlags::empty()).map_err(|e| failed(e.into()))?;
    if readable(&handle, timeout).map_err(|e| failed(e.into()))? {
        child.try_wait().map_err(failed)
    } else {
        Ok(None)
    }
}

/// Ends a child: SIGTERM, then SIGKILL when it still runs after `patience`. Returns its status.
///
/// # Errors
/// When the child cannot be signalled or waited for.
pub fn terminate(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    if let Some(status) = wait(child, Duration::ZERO)? {
        return Ok(status);
    }
    // The child is not waited for yet, so its process id is still its own.
    let handle =
        pidfd_open(pid(child)?, PidfdFlags::empty()).map_err(|e| Error::io("find a child process", e))?;
    match pidfd_send_signal(&handle, Signal::TERM) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(e) => return Err(Error::io("end a child process", e)),
    }
    if let Some(status) = wait(child, patience)? {
        return Ok(status);
    }
    child.kill().map_err(|e| Error::io("kill a child process", e))?;
    child.wait().map_err(|e| Error::io("wait for a child process", e))
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::io("find a child process", Errno::SRCH))
}

/// Waits until a descriptor can be read, at most for `timeout`; the wait survives signals.
pub(crate) fn readable(fd: impl std::os::fd::AsFd, timeout: Duration) -> Result<bool, Errno> {
    let end = deadline(timeout);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The end of a wait. One too long to be counted is a year, which nobody will wait out.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
}
