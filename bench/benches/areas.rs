//! The program behind `cargo bench -p bench`.
#![forbid(unsafe_code)]

use anyhow::{Context, bail};
use bench::area::{self, AREAS, Plan};
use bench::machine::Machine;
use bench::report::{AreaReport, Report};
use bench::{archive, sleeve};
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Runs that a figure has at least: fewer have no middle with two ends.
const RUNS_MIN: u64 = 3;
/// Runs that anybody needs.
const RUNS_MAX: u64 = 1_000;
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

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
    /// Folder in which runs are stored, and the last one is looked for [default: target/bench].
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Area sleeve")]
    sleeve: SleeveArgs,
    /// What cargo says to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Area sleeve")]
struct SleeveArgs {
    /// Rows to measure, with commas or one by one; all when none is named.
    #[arg(long = "row", value_name = "ROW", value_delimiter = ',')]
    rows: Vec<String>,
    /// The weft program to measure [default: built from this source, optimised].
    #[arg(long, value_name = "PROGRAM")]
    weft: Option<PathBuf>,
    /// A further argument of `weft up`, such as --up=--engine=plain.
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    up: Vec<String>,
    /// How long each transfer takes.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    seconds: u32,
    /// How long to wait for an idle machine before each measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Measure even when the machine is still busy then, and say so.
    #[arg(long)]
    anyway: bool,
}

fn areas() -> String {
    let line = |name: &str, about: &str| format!("  {name:<8} {about}\n");
    let areas: String = AREAS.iter().map(|area| line(area.name, area.about)).collect();
    let rows: String = sleeve::row_list()
        .into_iter()
        .map(|(name, about)| line(name, about))
        .collect();
    format!("Areas:\n{areas}\nRows of the area sleeve:\n{rows}")
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            if error.is::<sleeve::Interrupted>() {
                ExitCode::from(INTERRUPTED)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let areas = match args.areas {
        areas if areas.is_empty() && !args.sleeve.rows.is_empty() => vec!["sleeve".into()],
        areas => areas,
    };
    let selected = area::select(&areas)?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = args.dir.unwrap_or_else(|| target.into());
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let archive = match args.archive {
        Some(archive) => archive,
        None => target.parent().context("a target folder")?.join("bench"),
    };
    let machine = Machine::look(&folder)?;
    let weft = match args.sleeve.weft {
        Some(program) => Some(program),
        None if selected.iter().any(|area| area.name == "sleeve") => Some(build_weft()?),
        None => None,
    };
    let plan = Plan {
        runs: usize::try_from(args.runs).context("--runs")?,
        folder,
        sleeve: sleeve::Options {
            rows: args.sleeve.rows,
            weft,
            up: args.sleeve.up,
            naive: env!("CARGO_BIN_EXE_naive-sleeve").into(),
            engine_memory: env!("CARGO_BIN_EXE_engine-memory").into(),
            seconds: args.sleeve.seconds,
            patience: Duration::from_secs(args.sleeve.patience),
            anyway: args.sleeve.anyway,
        },
    };
    let mut areas = Vec::new();
    for area in selected {
        eprintln!("measuring {}: {} ({} runs)", area.name, area.about, plan.runs);
        let mut measured = area
            .measure(&plan)
            .with_context(|| format!("area {}", area.name))?;
        archive::compare(&archive, area.name, &mut measured.figures);
        areas.push(AreaReport {
            area: area.name,
            figures: measured.figures,
            notes: measured.notes,
        });
    }
    let report = Report { machine, areas };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    for path in archive::store(&archive, &report)? {
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

/// Builds the `weft` program as `cargo bench` builds everything, and returns where it is.
fn build_weft() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let target = own
        .ancestors()
        .nth(3)
        .context("this program is not in a target folder: name the weft program with --weft")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "weft",
            "--bin",
            "weft",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cannot run cargo to build weft")?;
    if !status.success() {
        bail!("weft does not build ({status}); name a program with --weft");
    }
    Ok(target.join("release").join("weft"))
}
