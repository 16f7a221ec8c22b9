//! One address in the core: request in, write out, write durable, answer out. No disk, no thread.

use super::Cluster;
use crate::figure::{Sample, median_and_p99};
use anyhow::bail;
use std::time::Instant;
use weft_ipam_crdt::{Input, Ipam, Output, Request, RequestId};
use weft_wire::Time;

/// Addresses of one run: enough for a 99th percentile of two hundred.
const ADDRESSES: u64 = 20_000;

pub(super) fn run() -> anyhow::Result<Vec<Sample>> {
    let mut ipam = Cluster::new()?.machine()?;
    // What it has to say at the start is no part of an allocation.
    settle(&mut ipam)?;
    let mut times = Vec::with_capacity(ADDRESSES as usize);
    for number in 0..ADDRESSES {
        let id = format!("pod-{number}");
        let begin = Instant::now();
        let request = RequestId(number);
        ipam.handle(Time::ZERO, Input::Request(Request::Allocate { id, request }));
        if !settle(&mut ipam)? {
            bail!("request {number} was not answered at once");
        }
        times.push(begin.elapsed());
    }
    let (median, p99) = median_and_p99(&mut times);
    Ok(vec![
        Sample::new("local allocation in the core, median", "µs", median),
        Sample::new("local allocation in the core, p99", "µs", p99),
    ])
}

/// Takes all outputs, and answers each write at once; true when an address came out.
fn settle(ipam: &mut Ipam) -> anyhow::Result<bool> {
    let mut is_answered = false;
    while let Some(output) = ipam.poll_output() {
        match output {
            Output::Persist { token, .. } => ipam.handle(Time::ZERO, Input::Persisted(token)),
            Output::Answer { result, .. } => {
                result?;
                is_answered = true;
            }
            _ => {}
        }
    }
    Ok(is_answered)
}
