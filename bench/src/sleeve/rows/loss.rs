//! TCP over an underlay that loses datagrams.

use super::{Row, samples};
use crate::figure::Sample;
use crate::goal::Goal;
use crate::sleeve::Stand;
use crate::sleeve::contender::Flow;
use crate::sleeve::contenders::Kind::{self, Vxlan, Weft};
use crate::sleeve::iperf;
use std::collections::BTreeMap;
use std::num::NonZeroU32;

const KERNEL: &[Kind] = &[Weft, Vxlan];
/// One datagram in so many is lost.
const ONE_IN: NonZeroU32 = NonZeroU32::new(100).expect("a hundred is not zero");

pub(super) const ROW: Row = Row {
    name: "loss",
    about: "TCP, one stream, at 1 % loss of the underlay's datagrams, underlay offloads off",
    contenders: KERNEL,
    round: |stand, round| {
        if iperf::program("nft").is_none() {
            let note = "the row loss is left out: install the Debian package nftables to see it";
            if round == 0 {
                stand.notes.push(note.into());
            }
            return Ok(Vec::new());
        }
        // A datagram that is lost must not be one of many that travel as one.
        stand.cut(KERNEL, |stand| measure(stand, round))
    },
};

fn measure(stand: &mut Stand, round: usize) -> anyhow::Result<Vec<Sample>> {
    let seconds = stand.options.seconds;
    let flows = stand.each(KERNEL, round, |contender, idle| {
        let whole = contender.tcp(1, seconds, idle)?;
        contender.lose(ONE_IN)?;
        let lossy = contender.tcp(1, seconds, idle)?;
        contender.lose_nothing()?;
        Ok((whole, lossy))
    })?;
    let of = |pick: fn(&(Flow, Flow)) -> Flow| -> BTreeMap<Kind, Flow> {
        flows.iter().map(|(kind, both)| (*kind, pick(both))).collect()
    };
    let mut figures = samples(&of(|both| both.0), "TCP without loss", "Gbit/s", |flow| flow.gbit);
    figures.extend(samples(&of(|both| both.1), "TCP at 1 % loss", "Gbit/s", |flow| {
        flow.gbit
    }));
    for (kind, (whole, lossy)) in &flows {
        let what = format!("TCP at 1 % loss / without: {}", kind.label());
        let sample = Sample::new(what, "ratio", lossy.gbit / whole.gbit);
        figures.push(match kind {
            Weft => sample.goal(Goal::at_least(0.5, 0.6)),
            _ => sample,
        });
    }
    Ok(figures)
}
