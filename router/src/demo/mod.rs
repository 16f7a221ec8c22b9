//! `weft demo`: the whole of weft on this one machine. Hosts and pods are network namespaces, the
//! routers are this very program, the traffic is real.
//!
//! Every line of the final table is one function in [`steps`] that returns a [`Row`]. A new line is a
//! new file there and one more entry in [`steps::ALL`].

mod progress;
mod report;
mod size;
mod stage;
mod steps;

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use weft_lab::Lab;

use progress::Progress;
use report::{Report, Row};
use stage::Stage;

/// The signals that end the demo in good order.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Options of `weft demo`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// How many hosts, from 2 to 8.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    hosts: u8,
    /// Size of the file that is sent, such as 500K, 64M or 1G; from 64K to 1G.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size::parse)]
    bytes: usize,
    /// Leave everything running afterwards, and print how to step in; Ctrl-C ends and removes it.
    #[arg(long)]
    keep: bool,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the demo. Call it before any thread is started: an ordinary user enters a user namespace first.
///
/// # Errors
/// When the demo cannot begin. What fails later is in the table, and in the exit code.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    become_able()?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let lab = Lab::with_program("demo", program)?;
    let interrupt = lab.interrupt();
    for signal in SIGNALS {
        signal_hook::flag::register(signal, Arc::clone(&interrupt))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    // From here on, returning, failing and panicking all drop the lab and what was made in it.
    let mut progress = Progress::new();
    let mut report = Report::default();
    let stage = play(&lab, &args, &mut progress, &mut report);
    progress.finish();
    if interrupt.load(Ordering::Relaxed) {
        drop(stage);
        eprintln!("interrupted: everything that the demo made is removed");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    report.print(args.json)?;
    let passed = report.passed();
    if let Some(stage) = stage {
        if !passed {
            eprint!("{}", stage.logs());
        }
        if args.keep {
            keep(&stage, &interrupt)?;
        }
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Takes every step in turn. Without a stage the other steps make no sense; any other failure is a
/// line in the report.
fn play(lab: &Lab, args: &DemoArgs, progress: &mut Progress, report: &mut Report) -> Option<Stage> {
    progress.begin("hosts join");
    let stage = match Stage::build(lab, args, progress) {
        Ok((stage, row)) => {
            progress.end(&row);
            report.add(row);
            stage
        }
        Err(error) => {
            let row = Row::failed("hosts join", "every host in one cluster", &error);
            progress.end(&row);
            report.add(row);
            return None;
        }
    };
    for step in steps::ALL {
        if lab.interrupt().load(Ordering::Relaxed) {
            break;
        }
        progress.begin(step.what);
        let row = match (step.take)(&stage, progress) {
            Ok(outcome) => outcome.row(step.what),
            Err(error) => Row::failed(step.what, step.expected, &error),
        };
        progress.end(&row);
        report.add(row);
    }
    Some(stage)
}

/// Gets the rights to make namespaces and TAP devices, or says which is missing and what to do.
fn become_able() -> anyhow::Result<()> {
    if !(weft_kernel::userns::is_root() && weft_kernel::userns::has_cap_net_admin()) {
        weft_kernel::userns::enter_user_namespace().context(
            "the demo makes network namespaces, and for that an ordinary user needs a user namespace",
        )?;
    }
    weft_kernel::tap::check_tun_device().context("each host of the demo needs a TAP device")
}

/// Says how to step in, and waits for Ctrl-C.
fn keep(stage: &Stage, interrupt: &AtomicBool) -> anyhow::Result<()> {
    let (mut wait, wake) = UnixStream::pair().context("cannot wait for Ctrl-C")?;
    for signal in SIGNALS {
        signal_hook::low_level::pipe::register(signal, wake.try_clone()?)
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    println!("{}", stage.how_to_step_in());
    println!("Ctrl-C ends the demo and removes everything.");
    // A signal that came before the pipe was there has raised the flag.
    while !interrupt.load(Ordering::Relaxed) {
        match wait.read(&mut [0; 1]) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => {
                other.context("cannot wait for Ctrl-C")?;
                break;
            }
        }
    }
    Ok(())
}
