//! The area sleeve, for real but short: whether it measures what it says and leaves nothing behind. The figures
//! themselves say nothing here, because other tests run at the same time.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use bench::area::{self, Plan};
use bench::sleeve::{Interrupted, Options};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn plan(folder: &Path, rows: &[&str]) -> Plan {
    Plan {
        runs: 1,
        folder: folder.into(),
        sleeve: Options {
            rows: rows.iter().map(ToString::to_string).collect(),
            weft: None,
            up: Vec::new(),
            naive: env!("CARGO_BIN_EXE_naive-sleeve").into(),
            engine_memory: env!("CARGO_BIN_EXE_engine-memory").into(),
            seconds: 1,
            patience: Duration::ZERO,
            anyway: true,
        },
    }
}

/// One test, because a signal is for the whole process.
#[test]
fn weft_and_others_are_measured_side_by_side_and_a_signal_leaves_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let area = area::select(&["sleeve".into()]).unwrap()[0];
    let plan_of = |rows| plan(folder.path(), rows);
    let measured = area
        .measure(&plan_of(&["tcp", "rtt", "memory", "relay"]))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let median = |what: &str| {
        let figure = measured.figures.iter().find(|figure| figure.what == what);
        let names: Vec<_> = measured.figures.iter().map(|figure| &figure.what).collect();
        figure
            .unwrap_or_else(|| panic!("no {what:?} among {names:?}"))
            .median
    };
    for contender in ["weft", "kernel VXLAN", "naive sleeve"] {
        let speed = median(&format!("TCP, one stream: {contender}"));
        assert!(speed > 0.0 && speed < 1_000.0, "{contender}: {speed} Gbit/s");
        let trip = median(&format!("round trip, idle, median: {contender}"));
        assert!(trip > 0.0 && trip < 1e6, "{contender}: {trip} µs");
    }
    let ratio = median("TCP, one stream: weft / kernel VXLAN");
    let divided = median("TCP, one stream: weft") / median("TCP, one stream: kernel VXLAN");
    assert!((ratio - divided).abs() < 1e-9, "{ratio} {divided}");
    assert!(
        measured.notes.iter().any(|note| note.contains("engine")),
        "{:?}",
        measured.notes
    );

    let memory = median("memory of an engine with 500 peers");
    assert!(memory > 1.0 && memory < 500.0, "{memory} MB");
    let [relay, end] =
        ["relay", "end"].map(|who| median(&format!("TCP through a relay, router's processor time: {who}")));
    assert!(relay > 0.0 && end > 0.0, "{relay} and {end} s/GB");
    nothing_is_left();

    let interrupted = std::thread::scope(|scope| {
        let measuring = scope.spawn(|| area.measure(&plan_of(&["udp"])));
        let end = Instant::now() + Duration::from_secs(20);
        while children().is_empty() {
            assert!(
                Instant::now() < end && !measuring.is_finished(),
                "nothing was started"
            );
            std::thread::yield_now();
        }
        signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap();
        measuring.join().unwrap().unwrap_err()
    });
    assert!(interrupted.is::<Interrupted>(), "{interrupted:#}");
    nothing_is_left();
}

/// No process and no file.
fn nothing_is_left() {
    assert_eq!(children(), Vec::<String>::new(), "processes are left");
    let left: Vec<PathBuf> = std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("weft-lab-bench-")
        })
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "files are left");
}

/// Processes of this one that have not ended, by the name of their program.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(stat)
        .filter(|stat| {
            // Name in parentheses, state, parent (proc_pid_stat(5)).
            let rest = stat.rsplit(')').next().unwrap_or_default();
            rest.split_whitespace().nth(1) == Some(&own)
        })
        .collect()
}
