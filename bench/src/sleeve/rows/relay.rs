//! TCP through a third host: what passing on costs there, by what an end costs.

use super::Row;
use crate::figure::Sample;
use crate::goal::Goal;
use crate::sleeve::contender::ECHO_PATIENCE;
use crate::sleeve::iperf::{self, Process};
use crate::sleeve::processors::Running;
use crate::sleeve::{Options, Stand};
use anyhow::Context;
use std::time::Duration;
use weft_lab::router::is_relayed;
use weft_lab::{Lab, Pod, Router};

/// Founding, joining, and finding the way take less, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Hosts: the ends, and the one between them.
const ENDS: [&str; 2] = ["relay-a", "relay-c"];
const BETWEEN: &str = "relay-b";

pub(super) const ROW: Row = Row {
    name: "relay",
    about: "TCP, one stream, through a third host: processor time of the relay's router and of the ends'",
    contenders: &[],
    round: |stand, round| {
        if iperf::program("nft").is_none() {
            let note = "the row relay is left out: install the Debian package nftables to see it";
            if round == 0 {
                stand.notes.push(note.into());
            }
            return Ok(Vec::new());
        }
        let chain = match stand.chain.take() {
            Some(chain) => chain,
            None => Chain::build(&stand.lab, &stand.options)?,
        };
        let measured = chain.measure(stand);
        stand.chain = Some(chain);
        measured
    },
};

/// Two hosts that hear each other through a third only, with a pod on each of the two.
pub(in crate::sleeve) struct Chain {
    /// An iperf3 server in the second pod.
    _server: Process,
    pods: [Pod; 2],
    ends: [Router; 2],
    between: Router,
}

impl Chain {
    fn build(lab: &Lab, options: &Options) -> anyhow::Result<Self> {
        let further: Vec<&str> = options.up.iter().map(String::as_str).collect();
        let (switch, routers) = lab.cluster(&[ENDS[0], BETWEEN], &further, PATIENCE)?;
        let [first, between] = <[Router; 2]>::try_from(routers)
            .map_err(|_| anyhow::anyhow!("the lab made another number of routers than it was asked for"))?;
        let host = lab.host(ENDS[1]).on(&switch).build()?;
        let firewall = first.host().firewall();
        for address in [host.ipv4()?, host.ipv6()?] {
            firewall.drop_udp_with(address)?;
        }
        let token = lab.secret_file("relay-token", &first.token()?)?;
        let (peer, token) = (
            between.host().address()?.to_string(),
            token.to_string_lossy().into_owned(),
        );
        let last = host.up(["--peer", &peer, "--token-file", &token]
            .into_iter()
            .chain(further))?;
        for (from, to) in [(&first, ENDS[1]), (&last, ENDS[0])] {
            from.wait_until("the relay is found", PATIENCE, |status| {
                let peers = &mut status.peers.iter();
                peers.any(|peer| peer.name == to && is_relayed(peer, BETWEEN))
            })?;
        }
        let pods = [
            first.host().pod("relay-1", [10, 32, 0, 11])?,
            last.host().pod("relay-2", [10, 32, 0, 12])?,
        ];
        let server = iperf::serve(&pods[1], &lab.folder().join("iperf3-relay.log"))?;
        pods[0].ping_until(pods[1].ipv4()?, ECHO_PATIENCE)?;
        Ok(Self {
            _server: server,
            pods,
            ends: [first, last],
            between,
        })
    }

    fn measure(&self, stand: &mut Stand) -> anyhow::Result<Vec<Sample>> {
        stand.gate.pass()?;
        let running = |router: &Router| -> anyhow::Result<Running> {
            Running::of(router.pid().context("a router of the row relay has ended")?)
        };
        let passed = self.between.status()?.relayed.octets;
        let before = [
            running(&self.between)?,
            running(&self.ends[0])?,
            running(&self.ends[1])?,
        ];
        let received = iperf::tcp(&self.pods[0], self.pods[1].ipv4()?, 1, stand.options.seconds)?;
        let [between, one, other] = before.each_ref().map(Running::until_now);
        let passed = self.between.status()?.relayed.octets - passed;
        if (passed as f64) < received.octets {
            anyhow::bail!("the relay passed on {passed} of {:.0} octets", received.octets);
        }
        let a_gb = |seconds: f64| seconds * 1e9 / received.octets;
        let (between, end) = (a_gb(between?), a_gb((one? + other?) / 2.0));
        let what = "TCP through a relay";
        Ok(vec![
            Sample::new(what, "Gbit/s", received.gbit_per_second()),
            Sample::new(format!("{what}, router's processor time: relay"), "s/GB", between),
            Sample::new(format!("{what}, router's processor time: end"), "s/GB", end),
            Sample::new(
                format!("{what}, processor time: relay / end"),
                "ratio",
                between / end,
            )
            .goal(Goal::at_most(0.5, 0.3)),
        ])
    }
}
