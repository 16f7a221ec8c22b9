//! The tables, for the terminal and as Markdown.

use crate::figure::Figure;
use crate::machine::Machine;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;

/// All that was measured.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Report {
    /// The machine before the first run.
    pub machine: Machine,
    /// Figures by area, in the order in which they were measured.
    pub areas: Vec<AreaReport>,
}

/// All that was measured of one area.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AreaReport {
    /// The area's name.
    pub area: &'static str,
    /// Its figures.
    pub figures: Vec<Figure>,
    /// What belongs to them, in sentences.
    pub notes: Vec<String>,
}

/// Where a table is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Medium {
    Terminal,
    Markdown,
}

impl Report {
    /// A report for each area.
    pub fn parts(&self) -> impl Iterator<Item = Self> {
        self.areas.iter().map(|area| Self {
            machine: self.machine.clone(),
            areas: vec![area.clone()],
        })
    }

    /// For people at a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        self.text(Medium::Terminal)
    }

    /// The same for people who read it elsewhere.
    #[must_use]
    pub fn markdown(&self) -> String {
        self.text(Medium::Markdown)
    }

    fn text(&self, medium: Medium) -> String {
        let mut text = self.machine.describe();
        for area in &self.areas {
            let mut tables = vec![goals(area), figures(area)];
            tables.retain(|table| table.row_iter().next().is_some());
            if medium == Medium::Markdown {
                // Writing to a String cannot fail.
                let _ = write!(text, "\n# {}\n", area.area);
            }
            for mut table in tables {
                table.load_style(match medium {
                    Medium::Terminal => presets::NOTHING,
                    Medium::Markdown => presets::ASCII_MARKDOWN,
                });
                let _ = write!(text, "\n{table}\n");
            }
            let runs = area.figures.iter().map(|figure| figure.runs).min();
            let _ = write!(text, "\n{} runs\n", runs.unwrap_or(0));
            for note in &area.notes {
                let _ = writeln!(text, "- {note}");
            }
        }
        text
    }
}

/// The figures that have a goal, beside it.
fn goals(area: &AreaReport) -> Table {
    let mut table = Table::new();
    table.set_header([
        format!("{}: goals", area.area),
        "median".into(),
        "bar".into(),
        "moonshot".into(),
        "reached".into(),
        "last run".into(),
    ]);
    for figure in &area.figures {
        let Some((goal, reached)) = figure.goal.zip(figure.reached) else {
            continue;
        };
        let unit = if figure.unit == "ratio" { "" } else { figure.unit };
        table.add_row([
            figure.what.clone(),
            format!("{} {unit}", shown(figure.median)).trim_end().to_owned(),
            goal.bar.to_string(),
            goal.moonshot.map_or_else(String::new, |bound| bound.to_string()),
            reached.to_string(),
            last(figure),
        ]);
    }
    align(&mut table, 1..4);
    table
}

/// All figures.
fn figures(area: &AreaReport) -> Table {
    let mut table = Table::new();
    let compared = area.figures.iter().any(|figure| figure.last.is_some());
    let mut header = vec![area.area, "median", "min", "max", "unit"];
    header.extend(compared.then_some("last run"));
    table.set_header(header);
    for figure in &area.figures {
        let mut row = vec![
            figure.what.clone(),
            shown(figure.median),
            shown(figure.min),
            shown(figure.max),
            figure.unit.to_owned(),
        ];
        row.extend(compared.then(|| last(figure)));
        table.add_row(row);
    }
    align(&mut table, 1..4);
    table
}

fn align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in table.column_iter_mut().skip(columns.start).take(columns.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// What the last run says, and how far this one is from it.
fn last(figure: &Figure) -> String {
    let Some(last) = figure.last else {
        return String::new();
    };
    if last == 0.0 {
        return shown(last);
    }
    let percent = (figure.median / last - 1.0) * 100.0;
    format!("{} ({percent:+.0} %)", shown(last))
}

/// Three digits that say something.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Sample;
    use crate::goal::Goal;

    fn area() -> AreaReport {
        let run = vec![
            Sample::new("plain", "µs", 12.34),
            Sample::new("far", "ratio", 0.5).goal(Goal::at_least(0.65, 0.85)),
            Sample::new("there", "µs", 50.0).goal(Goal::at_most(90.0, 60.0)),
        ];
        AreaReport {
            area: "sleeve",
            figures: Figure::of_runs(&[run]),
            notes: vec!["a note".into()],
        }
    }

    /// The words of the line that begins so.
    fn line<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
        let found = text
            .lines()
            .find(|line| line.trim_start_matches(['|', ' ']).starts_with(begin));
        let found = found.unwrap_or_else(|| panic!("no line begins with {begin:?}:\n{text}"));
        found.split_whitespace().collect()
    }

    #[test]
    fn each_goal_stands_beside_what_was_measured() {
        let report = Report {
            areas: vec![area()],
            ..Report::default()
        };
        let text = report.table();
        assert_eq!(
            line(&text, "far"),
            ["far", "0.50", "≥", "0.65", "≥", "0.85", "no"]
        );
        assert_eq!(
            line(&text, "there"),
            ["there", "50.0", "µs", "≤", "90", "≤", "60", "moonshot"]
        );
        assert_eq!(line(&text, "plain"), ["plain", "12.3", "12.3", "12.3", "µs"]);
        assert!(text.contains("- a note"), "{text}");
        let text = report.markdown();
        assert!(text.contains("# sleeve") && text.contains("|---"), "{text}");
        assert_eq!(line(&text, "far").last(), Some(&"|"));
    }

    #[test]
    fn the_last_run_stands_beside_a_figure_with_the_difference() {
        let mut area = area();
        area.figures[0].last = Some(10.0);
        let report = Report {
            areas: vec![area],
            ..Report::default()
        };
        let text = report.table();
        assert_eq!(
            line(&text, "plain"),
            ["plain", "12.3", "12.3", "12.3", "µs", "10.0", "(+23", "%)"]
        );
    }

    #[test]
    fn an_area_without_goals_has_one_table() {
        let mut area = area();
        for figure in &mut area.figures {
            (figure.goal, figure.reached) = (None, None);
        }
        let report = Report {
            areas: vec![area],
            ..Report::default()
        };
        assert!(!report.table().contains("moonshot"));
    }
}
