//! The program behind `cargo bench -p bench`.
#![forbid(unsafe_code)]

use anyhow::Context;
use bench::area::{self, AREAS};
use bench::machine::Machine;
use bench::report::{AreaReport, Report};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs that a figure has at least: fewer have no middle with two ends.
const RUNS_MIN: u64 = 3;
/// Runs that anybody needs.
const RUNS_MAX: u64 = 1_000;

/// Measures what parts of weft cost on this machine. It never judges: see bench/README.md for how to read it.
#[derive(Parser)]
#[command(name = "bench", bin_name = "cargo bench -p bench --", after_help = areas())]
struct Args {
    /// Areas to measure; all when none is named.
    #[arg(value_name = "AREA")]
    areas: Vec<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// How often each figure is measured; the median is shown, with the smallest and the largest.
    #[arg(long, default_value_t = RUNS_MIN, value_parser = clap::value_parser!(u64).range(RUNS_MIN..=RUNS_MAX))]
    runs: u64,
    /// Folder for files; on the disk that is to be measured [default: below target/].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn areas() -> String {
    let lines = AREAS
        .iter()
        .map(|area| format!("  {:<8} {}\n", area.name, area.about));
    format!("Areas:\n{}", lines.collect::<String>())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let selected = area::select(&args.areas)?;
    let folder = args.dir.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let machine = Machine::look(&folder)?;
    let runs = usize::try_from(args.runs).context("--runs")?;
    let mut areas = Vec::new();
    for area in selected {
        eprintln!("measuring {}: {} ({runs} runs)", area.name, area.about);
        let figures = area
            .measure(runs, &folder)
            .with_context(|| format!("area {}", area.name))?;
        areas.push(AreaReport {
            area: area.name,
            figures,
        });
    }
    let report = Report { machine, areas };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}
