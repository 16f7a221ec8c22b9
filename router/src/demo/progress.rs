//! What the demo is doing just now: a moving line on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::Row;
use super::size;

/// The moving line moves this often.
const TICK: Duration = Duration::from_millis(100);

/// Tells people on standard error; standard output is for the table.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    what: String,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant that a test checks; without it the default line is shown.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            what: String::new(),
        }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, what: &str) {
        self.what = what.to_owned();
        match &self.bar {
            Some(bar) => {
                bar.reset_elapsed();
                bar.set_message(self.what.clone());
            }
            None => say(&format!("{what} ...")),
        }
    }

    /// What the step is about just now; too fine for plain lines.
    pub(super) fn detail(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.what));
        }
    }

    /// How far a file has come.
    pub(super) fn bytes(&self, done: u64, total: u64) {
        if self.bar.is_some() {
            self.detail(&format!(
                "{} of {}",
                size::show(done >> 20 << 20),
                size::show(total)
            ));
        }
    }

    /// A step has ended.
    pub(super) fn end(&self, row: &Row) {
        let result = if row.passed { "pass" } else { "FAIL" };
        let seen = row.error.as_ref().unwrap_or(&row.seen);
        let line = format!("{result}  {}: {seen}", row.what);
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(&line),
        }
    }

    /// Takes the moving line away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How the moving line looks.
const TEMPLATE: &str = "{spinner} {wide_msg} {elapsed}";

fn say(line: &str) {
    // Nobody may be listening any more; that is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_well_formed() {
        assert!(indicatif::ProgressStyle::with_template(super::TEMPLATE).is_ok());
    }
}
