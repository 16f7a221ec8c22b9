//! Round-trip times.

use super::{Row, ratio, samples};
use crate::figure::Sample;
use crate::goal::Goal;
use crate::sleeve::contender::RoundTrip;
use crate::sleeve::contenders::Kind::{self, Naive, Vpncloud, Vxlan, Weft, WireguardGo};
use std::collections::BTreeMap;

const ALL: &[Kind] = &[Weft, Vxlan, Naive, WireguardGo, Vpncloud];
const KERNEL_AND_WIREGUARD: &[Kind] = &[Weft, Vxlan, WireguardGo];

pub(super) const IDLE: Row = Row {
    name: "rtt",
    about: "round-trip time on an idle machine",
    contenders: ALL,
    round: |stand, round| {
        let trips = stand.each(ALL, round, |contender, _| contender.echo())?;
        let what = "round trip, idle";
        let mut figures = times(&trips, what, Goal::at_most(90.0, 60.0));
        figures.extend(ratio(&trips, what, WireguardGo, None, |trip| trip.p50));
        Ok(figures)
    },
};

pub(super) const BESIDE_TCP: Row = Row {
    name: "rtt-tcp",
    about: "round-trip time beside TCP of one stream, and what TCP loses by it",
    contenders: KERNEL_AND_WIREGUARD,
    round: |stand, round| {
        let seconds = stand.options.seconds;
        let alone = stand.each(&[Weft], round, |contender, idle| contender.tcp(1, seconds, idle))?;
        let both = stand.each(KERNEL_AND_WIREGUARD, round, |contender, idle| {
            contender.echo_beside_tcp(seconds, idle)
        })?;
        let trips = both.iter().map(|(kind, (trip, _))| (*kind, *trip)).collect();
        let mut figures = times(&trips, "round trip beside TCP", Goal::at_most(1_000.0, 400.0));
        let flows: BTreeMap<_, _> = both.iter().map(|(kind, (_, flow))| (*kind, *flow)).collect();
        figures.extend(samples(&flows, "TCP beside echo requests", "Gbit/s", |flow| {
            flow.gbit
        }));
        if let (Some(beside), Some(alone)) = (flows.get(&Weft), alone.get(&Weft)) {
            let what = "TCP beside echo requests: weft / weft alone";
            figures.push(Sample::new(what, "ratio", beside.gbit / alone.gbit));
        }
        Ok(figures)
    },
};

/// Medians, with a goal for weft's, and 99th percentiles.
fn times(trips: &BTreeMap<Kind, RoundTrip>, what: &str, goal: Goal) -> Vec<Sample> {
    let mut figures = samples(trips, &format!("{what}, median"), "µs", |trip| trip.p50);
    // Weft is the first, when it is there.
    if trips.contains_key(&Weft)
        && let Some(first) = figures.first_mut()
    {
        first.goal = Some(goal);
    }
    figures.extend(samples(
        trips,
        &format!("{what}, 99th percentile"),
        "µs",
        |trip| trip.p99,
    ));
    figures
}
