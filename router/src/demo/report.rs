//! The table of what was expected and what was seen.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// The longest error that a cell shows; the whole of it was shown when it happened.
const CELL: usize = 160;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// What was tried.
    pub(super) what: String,
    /// What should be seen.
    pub(super) expected: String,
    /// What was seen.
    pub(super) seen: String,
    /// Whether that is as it should be.
    pub(super) passed: bool,
    /// Why the step could not be taken to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Row {
    /// A step that could not be taken to its end.
    pub(super) fn failed(what: &str, expected: &str, error: &anyhow::Error) -> Self {
        let text = format!("{error:#}");
        let first = text.lines().next().unwrap_or_default();
        let seen = match first.char_indices().nth(CELL) {
            Some((end, _)) => format!("{}...", first.get(..end).unwrap_or_default()),
            None => first.to_owned(),
        };
        Self {
            what: what.to_owned(),
            expected: expected.to_owned(),
            seen,
            passed: false,
            error: Some(text),
        }
    }
}

/// All lines so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether there is a line, and every line passed.
    pub(super) fn passed(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.passed)
    }

    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let text = if json {
            serde_json::to_string_pretty(&serde_json::json!({ "passed": self.passed(), "rows": self.rows }))?
        } else {
            self.table().to_string()
        };
        writeln!(std::io::stdout(), "{text}")?;
        Ok(())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(["", "expected", "seen", "result"]);
        for row in &self.rows {
            let result = if row.passed { "pass" } else { "FAIL" };
            table.add_row([&row.what, &row.expected, &row.seen, result]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(passed: bool) -> Row {
        Row {
            what: "a".into(),
            expected: "b".into(),
            seen: "c".into(),
            passed,
            error: None,
        }
    }

    #[test]
    fn only_a_table_in_which_all_passed_has_passed() {
        let mut report = Report::default();
        assert!(!report.passed());
        report.add(row(true));
        assert!(report.passed());
        report.add(row(false));
        assert!(!report.passed());
        let table = report.table().to_string();
        assert!(table.contains("pass") && table.contains("FAIL"), "{table}");
    }

    #[test]
    fn an_error_fills_one_cell_and_no_more() {
        let error = anyhow::anyhow!("{}\nlong log", "ä".repeat(1000));
        let row = Row::failed("what", "expected", &error);
        assert!(!row.passed && row.seen.chars().count() < 200);
        assert!(row.error.is_some_and(|text| text.contains("long log")));
    }
}
