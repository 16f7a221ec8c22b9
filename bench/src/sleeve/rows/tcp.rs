//! Transfers by TCP.

use super::{Row, ratio, samples};
use crate::figure::Sample;
use crate::goal::Goal;
use crate::sleeve::Stand;
use crate::sleeve::contender::Flow;
use crate::sleeve::contenders::Kind::{self, Naive, Vpncloud, Vxlan, Weft, WireguardGo};
use std::collections::BTreeMap;

const ALL: &[Kind] = &[Weft, Vxlan, Naive, WireguardGo, Vpncloud];
const KERNEL: &[Kind] = &[Weft, Vxlan];
const KERNEL_AND_WIREGUARD: &[Kind] = &[Weft, Vxlan, WireguardGo];

pub(super) const ONE_STREAM: Row = Row {
    name: "tcp",
    about: "TCP, one stream, and processor time per GB",
    contenders: ALL,
    round: |stand, round| {
        let flows = flows(stand, ALL, 1, round)?;
        let what = "TCP, one stream";
        let mut figures = speeds(&flows, what);
        figures.extend(ratio(
            &flows,
            what,
            Vxlan,
            Some(Goal::at_least(0.65, 0.85)),
            |flow| flow.gbit,
        ));
        figures.extend(ratio(
            &flows,
            what,
            Naive,
            Some(Goal::at_least(7.0, 9.0)),
            |flow| flow.gbit,
        ));
        figures.extend(ratio(&flows, what, WireguardGo, None, |flow| flow.gbit));
        figures.extend(ratio(&flows, what, Vpncloud, None, |flow| flow.gbit));
        figures.extend(costs(&flows, what, Some(Goal::at_most(2.1, 1.7))));
        Ok(figures)
    },
};

pub(super) const CUT: Row = Row {
    name: "tcp-cut",
    about: "TCP, one stream, where the underlay cuts nothing for the hosts",
    contenders: KERNEL,
    round: |stand, round| {
        let flows = stand.cut(KERNEL, |stand| flows(stand, KERNEL, 1, round))?;
        let what = "TCP, one stream, underlay offloads off";
        let mut figures = speeds(&flows, what);
        figures.extend(ratio(
            &flows,
            what,
            Vxlan,
            Some(Goal::at_least(0.75, 0.9)),
            |flow| flow.gbit,
        ));
        figures.extend(costs(&flows, what, None));
        Ok(figures)
    },
};

pub(super) const FOUR_STREAMS: Row = Row {
    name: "tcp4",
    about: "TCP, four streams",
    contenders: KERNEL_AND_WIREGUARD,
    round: |stand, round| {
        let flows = flows(stand, KERNEL_AND_WIREGUARD, 4, round)?;
        let what = "TCP, four streams";
        let mut figures = speeds(&flows, what);
        figures.extend(ratio(
            &flows,
            what,
            Vxlan,
            Some(Goal::at_least(0.38, 0.5)),
            |flow| flow.gbit,
        ));
        figures.extend(costs(&flows, what, None));
        Ok(figures)
    },
};

fn flows(
    stand: &mut Stand,
    kinds: &[Kind],
    streams: u32,
    round: usize,
) -> anyhow::Result<BTreeMap<Kind, Flow>> {
    let seconds = stand.options.seconds;
    stand.each(kinds, round, |contender, idle| {
        contender.tcp(streams, seconds, idle)
    })
}

fn speeds(flows: &BTreeMap<Kind, Flow>, what: &str) -> Vec<Sample> {
    samples(flows, what, "Gbit/s", |flow| flow.gbit)
}

fn costs(flows: &BTreeMap<Kind, Flow>, what: &str, goal: Option<Goal>) -> Vec<Sample> {
    let what = format!("{what}, processor time");
    let mut figures = samples(flows, &what, "s/GB", |flow| flow.seconds_per_gb);
    figures.extend(ratio(flows, &what, Vxlan, goal, |flow| flow.seconds_per_gb));
    figures
}
