//! `weft-cni`: puts containers on weft's network for any runtime that calls CNI plugins.
//!
//! One call is one process: environment and standard input in, one JSON object on standard output. Nothing is kept
//! but what router and kernel record.
//!
//! | module | what it holds |
//! |---|---|
//! | [`call`] | the verb and its variables, and the id that names an attachment |
//! | [`config`] | the network configuration |
//! | [`version`] | the versions of the specification |
//! | [`verbs`] | what `ADD` and `DEL` do, and how a failed `ADD` is undone |
//! | [`router`] | the router's local API, from the asking side |
//! | [`outcome`] | the result, in the shape of each version |
//! | [`failure`] | the error object and its codes |
//! | [`help`] | for people |
#![forbid(unsafe_code)]

mod call;
mod config;
mod failure;
mod help;
mod outcome;
mod router;
mod verbs;
mod version;

use call::Call;
use failure::{Code, Failure};
use serde_json::Value;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use version::SpecVersion;

/// A runtime writes the configuration and closes the pipe at once, before it waits for anything.
const INPUT_PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if std::env::var_os(call::COMMAND).is_none() {
        return by_hand();
    }
    let (output, code) = match answer() {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err((failure, version)) => (failure.to_json(version), ExitCode::FAILURE),
    };
    match writeln!(io::stdout(), "{output}") {
        Ok(()) => code,
        Err(error) => {
            complain(&format!("the result could not be written: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Standard error is the only way left; when that is closed too, nobody listens.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "weft-cni: {text}");
}

/// Nobody called a plugin: a person wants to know what this is.
fn by_hand() -> ExitCode {
    let version = concat!("weft-cni ", env!("CARGO_PKG_VERSION"), "\n").to_owned();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (text, code) = match arguments.as_slice() {
        [] => (help::text(), ExitCode::SUCCESS),
        [one] if one == "--help" || one == "-h" => (help::text(), ExitCode::SUCCESS),
        [one] if one == "--version" || one == "-V" => (version, ExitCode::SUCCESS),
        _ => {
            complain("it takes no arguments but --help and --version; CNI_COMMAND names the verb");
            return ExitCode::from(2);
        }
    };
    // Without an argument it may be a runtime that forgot the variable: standard output is for JSON.
    let written = if arguments.is_empty() {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    };
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

/// A failure goes out in the version of the call, where that could be read.
fn answer() -> Result<Option<Value>, (Failure, SpecVersion)> {
    let newest = |failure| (failure, SpecVersion::NEWEST);
    let input = standard_input().map_err(newest)?;
    let object = config::object(&input).map_err(newest)?;
    let version = config::version(&object).unwrap_or(SpecVersion::NEWEST);
    Call::read(&|name| std::env::var_os(name))
        .and_then(|call| verbs::run(call, object))
        .map_err(|failure| (failure, version))
}

/// Everything on standard input, up to a limit of size and time.
fn standard_input() -> Result<Vec<u8>, Failure> {
    if io::stdin().is_terminal() {
        return Ok(Vec::new());
    }
    let failed = |reason: String| {
        Failure::new(
            Code::Io,
            format!("the network configuration cannot be read from standard input: {reason}"),
            "the runtime writes it there and closes the pipe",
        )
    };
    let (done, input) = mpsc::sync_channel(1);
    // Ends with the process, if it still waits then.
    thread::Builder::new()
        .name("weft-cni-stdin".into())
        .spawn(move || {
            let mut bytes = Vec::new();
            let limit = config::MAX as u64 + 1;
            let read = io::stdin().lock().take(limit).read_to_end(&mut bytes);
            // Nobody waits for it any more when the time is over.
            let _ = done.send(read.map(|_| bytes));
        })
        .map_err(|e| failed(e.to_string()))?;
    match input.recv_timeout(INPUT_PATIENCE) {
        Ok(Ok(bytes)) if bytes.len() <= config::MAX => Ok(bytes),
        Ok(Ok(_)) => Err(Failure::new(
            Code::Config,
            format!("the network configuration is longer than {} octets", config::MAX),
            "shorten it, or what the runtime adds to it",
        )),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("it did not end within {INPUT_PATIENCE:?}"))),
    }
}
