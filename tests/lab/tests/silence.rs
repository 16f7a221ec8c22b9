//! `--remove-after`: a host that is off for longer than the operator allows is removed without anybody doing it.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::Duration;

use weft_lab::{Lab, Schema};
use weft_wire::api::{ClusterStatus, PeerStatus, Status};

const SOON: Duration = Duration::from_secs(15);

fn members(status: &Status) -> u32 {
    match &status.cluster {
        ClusterStatus::Member { members, .. } => *members,
        other => panic!("no member: {other:?}"),
    }
}

fn peer<'a>(status: &'a Status, node: &str) -> Option<&'a PeerStatus> {
    status.peers.iter().find(|peer| peer.node == node)
}

#[test]
fn a_host_that_stays_off_is_removed_and_comes_back_as_a_new_one() {
    let lab = Lab::new("silence").unwrap();
    let (_switch, routers) = lab
        .cluster(&["a", "b", "c"], &["--remove-after", "10s"], SOON)
        .unwrap();
    let [a, b, c] = &routers[..] else { unreachable!() };
    let before = c.status().unwrap().node;
    c.kill().unwrap();
    let silent = |status: &Status| peer(status, &before).is_some_and(|peer| peer.silence.is_some());
    let status = a.wait_until("it is seen as silent", SOON, silent).unwrap();
    let text = serde_json::to_string(&status).unwrap();
    Schema::published().unwrap().check("Status", &text).unwrap();
    let reason = &peer(&status, &before).unwrap().reason;
    assert!(reason.contains("its removal is asked for in"), "{reason}");
    for router in [a, b] {
        router
            .wait_until("it is removed", 2 * SOON, |status| members(status) == 2)
            .unwrap();
    }
    c.restart().unwrap();
    let is_new = |status: &Status| status.node != before && members(status) == 3;
    c.wait_until("it is another host", 2 * SOON, is_new).unwrap();
    a.wait_until("it is a member", SOON, |status| members(status) == 3)
        .unwrap();
}
