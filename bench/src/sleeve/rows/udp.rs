//! A flood of small datagrams.

use super::{Row, ratio, samples};
use crate::goal::Goal;
use crate::sleeve::contenders::Kind::{self, Naive, Vpncloud, Vxlan, Weft, WireguardGo};

const ALL: &[Kind] = &[Weft, Vxlan, Naive, WireguardGo, Vpncloud];
/// Octets of payload.
const SMALL: u32 = 64;

pub(super) const FLOOD: Row = Row {
    name: "udp",
    about: "UDP, 64 octets each, as fast as the sender can: what arrives",
    contenders: ALL,
    round: |stand, round| {
        let seconds = stand.options.seconds;
        let rates = stand.each(ALL, round, |contender, _| contender.udp(SMALL, seconds))?;
        let what = "UDP flood of 64 octets, delivered";
        let mut figures = samples(&rates, what, "1000/s", |rate| rate / 1e3);
        figures.extend(ratio(
            &rates,
            what,
            Vxlan,
            Some(Goal::at_least(0.7, 1.0)),
            |rate| *rate,
        ));
        Ok(figures)
    },
};
