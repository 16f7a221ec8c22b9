//! One number, of several runs.

use crate::goal::{Goal, Reached};
use serde::Serialize;
use std::time::Duration;

/// One number of one run.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// What was measured.
    pub what: String,
    /// In what it is measured.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
    /// What it should be, where somebody has said so.
    pub goal: Option<Goal>,
}

impl Sample {
    /// A number.
    pub fn new(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            what: what.into(),
            unit,
            value,
            goal: None,
        }
    }

    /// With what it should be.
    #[must_use]
    pub fn goal(self, goal: Goal) -> Self {
        Self {
            goal: Some(goal),
            ..self
        }
    }
}

/// One number over all runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// In what it is measured.
    pub unit: &'static str,
    /// Median of the runs.
    pub median: f64,
    /// Smallest of the runs.
    pub min: f64,
    /// Largest of the runs.
    pub max: f64,
    /// How many runs there were.
    pub runs: usize,
    /// What the median should be, where somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    /// How much of that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<Reached>,
    /// The median of the last stored run that has this figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<f64>,
}

impl Figure {
    /// The figures of several runs, in the order of the first; each run has the same samples.
    pub fn of_runs(runs: &[Vec<Sample>]) -> Vec<Self> {
        let Some(first) = runs.first() else {
            return Vec::new();
        };
        let figure = |(at, sample): (usize, &Sample)| {
            let mut values: Vec<f64> = runs
                .iter()
                .filter_map(|run| run.get(at).map(|sample| sample.value))
                .collect();
            values.sort_by(f64::total_cmp);
            let median = rank(&values, 0.5);
            Self {
                what: sample.what.clone(),
                unit: sample.unit,
                median,
                min: rank(&values, 0.0),
                max: rank(&values, 1.0),
                runs: values.len(),
                goal: sample.goal,
                reached: sample.goal.map(|goal| goal.reached(median)),
                last: None,
            }
        };
        first.iter().enumerate().map(figure).collect()
    }
}

/// The value below which this share of the sorted values lies (nearest rank); 0 of none.
fn rank(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let at = (share * last as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Median and 99th percentile of times, in microseconds.
pub fn median_and_p99(times: &mut [Duration]) -> (f64, f64) {
    times.sort();
    let micros: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    (rank(&micros, 0.5), rank(&micros, 0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_middle_of_its_runs_with_both_ends() {
        let run = |value| vec![Sample::new("x", "µs", value)];
        let figures = Figure::of_runs(&[run(3.0), run(1.0), run(2.0)]);
        assert_eq!(figures.len(), 1);
        let figure = &figures[0];
        assert_eq!(
            (figure.median, figure.min, figure.max, figure.runs),
            (2.0, 1.0, 3.0, 3)
        );
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_times() {
        let mut times: Vec<Duration> = (0..=100).rev().map(Duration::from_micros).collect();
        let (median, p99) = median_and_p99(&mut times);
        assert_eq!((median.round(), p99.round()), (50.0, 99.0));
    }
}
