//! The area sleeve, for real but short: whether it measures what it says and leaves nothing behind. The figures
//! themselves say nothing here, because other tests run at the same time.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use bench::area::{self, Plan};
use bench::sleeve::Options;
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn pods_of_weft_and_of_others_are_measured_side_by_side_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        runs: 1,
        folder: folder.path().into(),
        sleeve: Options {
            rows: vec!["tcp".into(), "rtt".into()],
            weft: None,
            up: Vec::new(),
            naive: env!("CARGO_BIN_EXE_naive-sleeve").into(),
            seconds: 1,
            patience: Duration::ZERO,
            anyway: true,
        },
    };
    let area = area::select(&["sleeve".into()]).unwrap()[0];
    let measured = area.measure(&plan).unwrap_or_else(|error| panic!("{error:#}"));
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
