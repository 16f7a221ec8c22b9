//! What a story asks the router of a host, by its command line and of its address space.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use weft_wire::api::IpamStatus;

use crate::api::Api;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::program::Output;

/// The address space is asked for this often, while something is waited for.
const POLL: Duration = Duration::from_millis(50);

impl Host {
    /// Runs `weft` with these arguments, and the socket of this host's router, to its end.
    ///
    /// # Errors
    /// As [`Host::weft`].
    pub fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.socket();
        let arguments = arguments.iter().map(OsStr::new);
        self.weft(arguments.chain([OsStr::new("--socket"), socket.as_os_str()]))
    }

    /// The address space as its router sees it.
    ///
    /// # Errors
    /// When no router answers, or it belongs to no cluster.
    pub fn ipam(&self) -> Result<IpamStatus> {
        Api::connect(self)?.ipam()
    }

    /// Asks for the address space until it satisfies a test. `what` completes the sentence of the error.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with what was seen last, also when that was no answer.
    pub fn await_ipam(
        &self,
        what: &str,
        patience: Duration,
        test: impl Fn(&IpamStatus) -> bool,
    ) -> Result<IpamStatus> {
        let end = Instant::now() + patience;
        loop {
            let seen = match self.ipam() {
                Ok(status) if test(&status) => return Ok(status),
                Ok(status) => format!("{status:#?}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= end {
                return Err(Error::TimedOut {
                    what: format!("{}: {what}", self.name()),
                    patience,
                    seen,
                });
            }
            self.lab.check_interrupt()?;
            std::thread::sleep(POLL);
        }
    }
}
