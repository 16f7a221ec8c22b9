//! The table and the JSON.

use crate::figure::Figure;
use crate::machine::Machine;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;

/// All that was measured.
#[derive(Clone, PartialEq, Debug, Serialize)]
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
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{} processors, Linux {}, load average {:.2}: {}\n",
            machine.processors,
            machine.kernel,
            machine.load,
            if machine.idle {
                "the machine was idle"
            } else {
                "the machine was NOT idle, so these figures are worse than they would be"
            }
        );
        if machine.in_memory {
            text.push_str(
                "files are in memory (tmpfs): the durable figures say nothing about a disk; see --dir\n",
            );
        }
        for area in &self.areas {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            table.set_header([area.area, "median", "min", "max", "unit"]);
            for column in table.column_iter_mut().skip(1).take(3) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            for figure in &area.figures {
                let number = |value| shown(value);
                table.add_row([
                    figure.what.clone(),
                    number(figure.median),
                    number(figure.min),
                    number(figure.max),
                    figure.unit.to_owned(),
                ]);
            }
            let runs = area.figures.first().map_or(0, |figure| figure.runs);
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{table}\n{runs} runs\n");
        }
        text
    }
}

/// Three digits that say something.
fn shown(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
