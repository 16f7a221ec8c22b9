//! A running `weft up`.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_kernel::process;
use weft_wire::api::{LinkState, PeerStatus, Status};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::program;

/// The router's status is asked for this often, while something is waited for.
const POLL: Duration = Duration::from_millis(25);
/// How long a router may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a log that an error shows.
const LOG_LINES: usize = 25;

/// A running `weft up`. It is killed when the handle is dropped.
#[derive(Debug)]
pub struct Router {
    host: Host,
    /// Command line of a program under which `weft` runs; mostly none.
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    child: Mutex<Option<Child>>,
}

impl Router {
    pub(crate) fn start(host: &Host, wrapper: Vec<OsString>, arguments: Vec<OsString>) -> Result<Self> {
        let child = Mutex::new(Some(spawn(host, &wrapper, &arguments)?));
        Ok(Self {
            host: host.clone(),
            wrapper,
            arguments,
            child,
        })
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// What it says of itself: `weft status --json`.
    ///
    /// # Errors
    /// When the command fails, or prints something else than a status.
    pub fn status(&self) -> Result<Status> {
        let socket = self.host.socket();
        let arguments = ["status", "--json", "--socket"].map(OsString::from);
        let output = self
            .host
            .weft(
                arguments
                    .iter()
                    .map(OsString::as_os_str)
                    .chain([socket.as_os_str()]),
            )?
            .success()?;
        serde_json::from_str(&output.stdout).map_err(|e| Error::Unreadable {
            command: output.command,
            place: output.place,
            reason: e.to_string(),
            text: output.stdout,
        })
    }

    /// Asks for the status until it satisfies a test. `what` completes the sentence of the error.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the last status and the end of the log; [`Error::RouterEnded`] when the
    /// router ends meanwhile.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        test: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let end = Instant::now() + patience;
        loop {
            let seen = match self.status() {
                Ok(status) if test(&status) => return Ok(status),
                Ok(status) => format!("last status: {status:#?}"),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(fatal @ Error::NoProgram(_)) => return Err(fatal),
                Err(other) => format!("no status: {other}"),
            };
            let now = Instant::now();
            if now >= end {
                return Err(Error::TimedOut {
                    what: format!("{}: {what}", self.host.name()),
                    patience,
                    seen: format!("{seen}\nend of its log:\n{}", self.log_tail()),
                });
            }
            self.host.lab.check_interrupt()?;
            // Waits for the process to end, which it should not, so this is also the pause.
            if let Some(status) = self.wait(POLL.min(end - now))? {
                return Err(Error::RouterEnded {
                    place: self.host.name().to_owned(),
                    status: status.to_string(),
                    log: self.log_tail(),
                });
            }
        }
    }

    /// Waits until it answers on its socket.
    ///
    /// # Errors
    /// As [`Router::wait_until`].
    pub fn wait_ready(&self, patience: Duration) -> Result<Status> {
        self.wait_until("it answers", patience, |_| true)
    }

    /// Waits until it has a mesh link with this many peers.
    ///
    /// # Errors
    /// As [`Router::wait_until`].
    pub fn wait_for_mesh(&self, count: usize, patience: Duration) -> Result<Status> {
        self.wait_until(&format!("{count} peers are in the mesh"), patience, |status| {
            status
                .peers
                .iter()
                .filter(|peer| peer.mesh == LinkState::Up)
                .count()
                == count
        })
    }

    /// Waits until it has a mesh link and an encrypted session with this many peers.
    ///
    /// # Errors
    /// As [`Router::wait_until`].
    pub fn wait_for_peers(&self, count: usize, patience: Duration) -> Result<Status> {
        self.wait_until(&format!("{count} peers are up"), patience, |status| {
            status.peers.iter().filter(|peer| is_up(peer)).count() == count
        })
    }

    /// Waits until frames to this many peers go through the kernel.
    ///
    /// # Errors
    /// As [`Router::wait_until`].
    pub fn wait_for_fastpath(&self, count: usize, patience: Duration) -> Result<Status> {
        self.wait_until(
            &format!("{count} peers are reached through the kernel"),
            patience,
            |status| status.peers.iter().filter(|peer| peer.mode == "fastpath").count() == count,
        )
    }

    /// Waits until the process has ended, at most for `patience`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&self, patience: Duration) -> Result<Option<ExitStatus>> {
        match &mut *self.child() {
            Some(child) => Ok(process::wait(child, patience)?),
            None => Ok(None),
        }
    }

    /// Ends it with SIGTERM, as a service manager does.
    ///
    /// # Errors
    /// [`Error::RouterEnded`] when it does not end well: by itself, by SIGKILL after 10 s, or with a failure.
    pub fn stop(&self) -> Result<()> {
        let Some(mut child) = self.child().take() else {
            return Ok(());
        };
        let status = process::terminate(&mut child, STOP_PATIENCE)?;
        if status.success() {
            return Ok(());
        }
        let killed = status.signal() == Some(9);
        let status = if killed {
            format!("it did not end within {STOP_PATIENCE:?} of SIGTERM")
        } else {
            status.to_string()
        };
        Err(Error::RouterEnded {
            place: self.host.name().to_owned(),
            status,
            log: self.log_tail(),
        })
    }

    /// Ends it with SIGKILL, as a crash does.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(&self) -> Result<()> {
        match self.child().take() {
            Some(mut child) => kill(&mut child).map_err(|e| Error::io("kill a router", e)),
            None => Ok(()),
        }
    }

    /// Starts it again with the arguments it had, after stopping it if it still runs.
    ///
    /// # Errors
    /// As [`Router::stop`] and [`Host::up`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        let child = spawn(&self.host, &self.wrapper, &self.arguments)?;
        *self.child() = Some(child);
        Ok(())
    }

    /// The token that admits others to its cluster: `weft token`.
    ///
    /// # Errors
    /// When the host holds none.
    pub fn token(&self) -> Result<String> {
        let folder = self.host.state_dir();
        let arguments = ["token".as_ref(), "--state-dir".as_ref(), folder.as_os_str()];
        let output = self.host.weft(arguments)?.success()?;
        Ok(output.stdout.trim_end().to_owned())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(self.host.log_file()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            // It ended before, or it ends now.
            let _ = kill(&mut child);
        }
    }
}

/// Whether a session with a peer carries frames through the host of this name.
#[must_use]
pub fn is_relayed(peer: &PeerStatus, relay: &str) -> bool {
    peer.mode == "relay" && peer.relay.as_deref() == Some(relay) && peer.encrypted
}

/// Whether a peer's mesh link and its session are up.
#[must_use]
pub fn is_up(peer: &PeerStatus) -> bool {
    peer.mesh == LinkState::Up && peer.mode == "sleeve" && peer.encrypted
}

fn kill(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

fn spawn(host: &Host, wrapper: &[OsString], arguments: &[OsString]) -> Result<Child> {
    let failed = |e| Error::io(format!("write {}", host.log_file().display()), e);
    let mut log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(host.log_file())
        .map_err(failed)?;
    let mut command = host.weft_command()?;
    if let [program, words @ ..] = wrapper {
        let weft = command.get_program().to_owned();
        command = program::command(program);
        command.args(words).arg(weft);
    }
    command
        .arg("up")
        .arg("--name")
        .arg(host.name())
        .arg("--machine-id-file")
        .arg(host.machine_id_file())
        .arg("--state-dir")
        .arg(host.state_dir())
        .arg("--socket")
        .arg(host.socket())
        .args(arguments)
        .stdout(log.try_clone().map_err(failed)?);
    writeln!(log, "$ {}", program::describe(&command)).map_err(failed)?;
    command.stderr(log);
    Ok(host.namespace().spawn(command)?)
}
