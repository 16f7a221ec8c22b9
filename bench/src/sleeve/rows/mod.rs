//! The rows: each is a function that measures one round.

mod loss;
mod memory;
pub(super) mod relay;
mod seal;
mod tcp;
mod trips;
mod udp;

use super::Stand;
use super::contenders::Kind;
use crate::figure::Sample;
use crate::goal::Goal;
use std::collections::BTreeMap;

/// One row, or a few that come out of the same measurement.
pub(super) struct Row {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it measures.
    pub(super) about: &'static str,
    /// Who is measured, if there.
    pub(super) contenders: &'static [Kind],
    /// Measures once; the same samples in the same order in every round, which are counted from 0.
    pub(super) round: fn(&mut Stand, usize) -> anyhow::Result<Vec<Sample>>,
}

/// Every row, in the order in which they are measured.
pub(super) const ROWS: &[Row] = &[
    tcp::ONE_STREAM,
    tcp::CUT,
    tcp::FOUR_STREAMS,
    udp::FLOOD,
    trips::IDLE,
    trips::BESIDE_TCP,
    loss::ROW,
    seal::ROW,
    memory::ROW,
    relay::ROW,
];

/// A figure of each contender, in the order of [`Kind`].
fn samples<T>(
    results: &BTreeMap<Kind, T>,
    what: &str,
    unit: &'static str,
    value: impl Fn(&T) -> f64,
) -> Vec<Sample> {
    let sample =
        |(kind, result): (&Kind, &T)| Sample::new(format!("{what}: {}", kind.label()), unit, value(result));
    results.iter().map(sample).collect()
}

/// What weft does by what another contender does, if both are there.
fn ratio<T>(
    results: &BTreeMap<Kind, T>,
    what: &str,
    other: Kind,
    goal: Option<Goal>,
    value: impl Fn(&T) -> f64,
) -> Option<Sample> {
    let (weft, divisor) = (results.get(&Kind::Weft)?, results.get(&other)?);
    let sample = Sample::new(
        format!("{what}: weft / {}", other.label()),
        "ratio",
        value(weft) / value(divisor),
    );
    Some(match goal {
        Some(goal) => sample.goal(goal),
        None => sample,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_weft_by_the_other_and_is_left_out_without_one() {
        let results = BTreeMap::from([(Kind::Weft, 6.0), (Kind::Vxlan, 8.0)]);
        let goal = Goal::at_least(0.65, 0.85);
        let sample = ratio(&results, "TCP", Kind::Vxlan, Some(goal), |value| *value).unwrap();
        assert_eq!(
            (sample.what.as_str(), sample.value),
            ("TCP: weft / kernel VXLAN", 0.75)
        );
        assert_eq!(sample.goal, Some(goal));
        assert!(ratio(&results, "TCP", Kind::Naive, None, |value| *value).is_none());
    }

    #[test]
    fn every_row_has_a_name_of_its_own_and_says_what_it_measures() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..at].iter().all(|other| other.name != row.name),
                "{}",
                row.name
            );
            assert!(!row.about.is_empty());
        }
    }
}
