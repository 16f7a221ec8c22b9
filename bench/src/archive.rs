//! Runs as files, below one folder: `AREA/TIME.json`, `.md` and, where figures have goals, `.png`.
//!
//! TIME is in UTC, so that the names sort by age. Nothing is ever removed.

use crate::chart;
use crate::figure::Figure;
use crate::report::Report;
use anyhow::Context;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many runs are looked through for a figure: a run may have measured some rows only.
const LOOK_BACK: usize = 30;
/// A run's file is some ten kilobytes; what is larger is none.
const FILE_MAX: u64 = 1 << 20;
const DAY: u64 = 86_400;

/// What is read of a stored run. Other fields may come and go.
#[derive(Deserialize)]
struct Stored {
    areas: Vec<StoredArea>,
}

#[derive(Deserialize)]
struct StoredArea {
    area: String,
    figures: Vec<StoredFigure>,
}

#[derive(Deserialize)]
struct StoredFigure {
    what: String,
    unit: String,
    median: f64,
}

/// Tells each figure what the last stored run says that has it. What cannot be read is no run.
pub fn compare(folder: &Path, area: &str, figures: &mut [Figure]) {
    let mut names: Vec<PathBuf> = fs::read_dir(folder.join(area))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    names.sort();
    for path in names.iter().rev().take(LOOK_BACK) {
        if figures.iter().all(|figure| figure.last.is_some()) {
            return;
        }
        let Some(stored) = read(path) else { continue };
        let stored = stored.areas.into_iter().filter(|stored| stored.area == area);
        for old in stored.flat_map(|area| area.figures) {
            let same = |figure: &&mut Figure| figure.what == old.what && figure.unit == old.unit;
            if let Some(figure) = figures.iter_mut().find(same) {
                figure.last.get_or_insert(old.median);
            }
        }
    }
}

fn read(path: &Path) -> Option<Stored> {
    if fs::metadata(path).ok()?.len() > FILE_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes each area's part of a report, and returns the paths.
///
/// # Errors
/// When a file cannot be written.
pub fn store(folder: &Path, report: &Report) -> anyhow::Result<Vec<PathBuf>> {
    let stamp = stamp(SystemTime::now());
    let mut paths = Vec::new();
    for part in report.parts() {
        let Some(area) = part.areas.first() else { continue };
        let folder = folder.join(area.area);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let json = serde_json::to_vec_pretty(&part)?;
        let mut files = vec![("json", json), ("md", part.markdown().into_bytes())];
        files.extend(chart::draw(area)?.map(|picture| ("png", picture)));
        for (extension, content) in files {
            let path = folder.join(format!("{stamp}.{extension}"));
            fs::write(&path, content).with_context(|| path.display().to_string())?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Year, month, day and time of day in UTC, to the second, as in 20260131T235959Z (ISO 8601).
fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut day, second) = (seconds / DAY, seconds % DAY);
    let length = |year: u64| {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let february = if leap { 29 } else { 28 };
        [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    };
    let (mut year, mut month) = (1970, 0);
    while let Some(rest) = day.checked_sub(length(year)[month]) {
        day = rest;
        month += 1;
        if month == length(year).len() {
            (year, month) = (year + 1, 0);
        }
    }
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}{:02}{:02}T{hour:02}{minute:02}{:02}Z",
        month + 1,
        day + 1,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Sample;
    use crate::report::AreaReport;
    use std::time::Duration;

    #[test]
    fn a_time_has_the_name_that_date_would_give_it() {
        // date -u -d @SECONDS +%Y%m%dT%H%M%SZ
        for (seconds, name) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_251_199, "20240229T235959Z"),
            (1_795_252_263, "20261121T091103Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), name);
        }
    }

    #[test]
    fn a_figure_is_compared_with_the_newest_run_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let figures = |values: &[(&str, f64)]| {
            let run = values
                .iter()
                .map(|(what, value)| Sample::new(*what, "µs", *value))
                .collect();
            Figure::of_runs(&[run])
        };
        let area = folder.path().join("sleeve");
        let runs = [
            ("20260101T000000Z", figures(&[("x", 1.0), ("y", 2.0)])),
            ("20260102T000000Z", figures(&[("x", 3.0)])),
        ];
        fs::create_dir(&area).unwrap();
        for (name, figures) in runs {
            let report = Report {
                areas: vec![AreaReport {
                    area: "sleeve",
                    figures,
                    notes: Vec::new(),
                }],
                ..Report::default()
            };
            let text = serde_json::to_vec(&report).unwrap();
            fs::write(area.join(format!("{name}.json")), text).unwrap();
        }
        fs::write(area.join("20260103T000000Z.json"), "{ broken").unwrap();
        let mut now = figures(&[("x", 6.0), ("y", 6.0), ("z", 6.0)]);
        compare(folder.path(), "sleeve", &mut now);
        let last: Vec<_> = now.iter().map(|figure| figure.last).collect();
        assert_eq!(last, [Some(3.0), Some(2.0), None]);
        compare(folder.path(), "ipam", &mut figures(&[("x", 6.0)]));
    }

    #[test]
    fn what_is_stored_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let run = vec![Sample::new("x", "µs", 7.0)];
        let report = Report {
            areas: vec![AreaReport {
                area: "ipam",
                figures: Figure::of_runs(&[run]),
                notes: vec!["a note".into()],
            }],
            ..Report::default()
        };
        let paths = store(folder.path(), &report).unwrap();
        assert!(paths.iter().all(|path| path.is_file()) && !paths.is_empty());
        let mut now = report.areas[0].figures.clone();
        compare(folder.path(), "ipam", &mut now);
        assert_eq!(now[0].last, Some(7.0));
    }
}
