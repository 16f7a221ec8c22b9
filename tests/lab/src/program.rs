//! Where the `weft` program is, and running a program in a namespace with a bound.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use weft_kernel::{Namespace, process};

use crate::error::{Error, Result};
use crate::lab::Shared;

/// No command line call of `weft` or `nft` takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Waits are cut into pieces of this length, so that the interrupt flag is seen.
const GLANCE: Duration = Duration::from_millis(50);
/// Names the program, where it is not where cargo puts it.
const VARIABLE: &str = "WEFT_BIN";

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The host on which it ran.
    pub place: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Output {
    /// Itself, if the program succeeded.
    ///
    /// # Errors
    /// [`Error::Failed`] with what it complained.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        Err(Error::Failed {
            command: self.command,
            place: self.place,
            status: self.status.to_string(),
            stderr: self.stderr.trim_end().to_owned(),
        })
    }
}

/// Where `weft` is: named in `WEFT_BIN`, or beside the folder of the running test.
pub(crate) fn locate() -> PathBuf {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return path.into();
    }
    // Tests are in target/<profile>/deps, doctests and examples one folder deep as well.
    let folder = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    folder
        .unwrap_or_else(|| PathBuf::from("target/debug"))
        .join("weft")
}

/// A command without what the caller's environment says about weft, out of the reach of its Ctrl-C.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEFT_") {
            command.env_remove(name);
        }
    }
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Runs a command in a namespace to its end.
pub(crate) fn run(
    lab: &Shared,
    namespace: &Namespace,
    place: &str,
    mut command: Command,
    input: Option<&str>,
) -> Result<Output> {
    let line = describe(&command);
    let failed = |e| Error::io(format!("run `{line}`"), e);
    // Files never fill up as pipes do, so nothing has to be read while the program runs.
    let file = || tempfile::tempfile().map_err(failed);
    let (mut out, mut err) = (file()?, file()?);
    if let Some(text) = input {
        let mut given = file()?;
        given
            .write_all(text.as_bytes())
            .and_then(|()| given.rewind())
            .map_err(failed)?;
        command.stdin(given);
    }
    command
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(err.try_clone().map_err(failed)?);
    let mut child = namespace.spawn(command)?;
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = process::wait(&mut child, GLANCE)? {
            break status;
        }
        let interrupted = lab.check_interrupt();
        if interrupted.is_err() || Instant::now() >= end {
            process::terminate(&mut child, Duration::ZERO)?;
            interrupted?;
            return Err(Error::TimedOut {
                what: format!("`{line}` on {place} ends"),
                patience: PATIENCE,
                seen: text(&mut err).map_err(failed)?,
            });
        }
    };
    let (stdout, stderr) = (text(&mut out).map_err(failed)?, text(&mut err).map_err(failed)?);
    Ok(Output {
        command: line,
        place: place.to_owned(),
        status,
        stdout,
        stderr,
    })
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program's file name and its arguments.
pub(crate) fn describe(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let program = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    command.get_args().fold(program, |mut line, argument| {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
        line
    })
}
