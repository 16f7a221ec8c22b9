//! Slow readers and floods: what waits is bounded.

use crate::net::{Net, token};
use std::net::SocketAddr;
use std::time::Duration;
use weft_gossip::mesh::{CONNECTIONS_MAX, HANDSHAKES_PER_IP_MAX};
use weft_gossip::{ConnId, Input};
use weft_wire::RejectReason;
use weft_wire::envelope::KindNumber;

#[test]
fn a_slow_reader_costs_one_entry_a_register() {
    let mut net = Net::new(1);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.run(Duration::from_secs(4));
    assert!(net.linked(0, 1));
    net.hosts[0].withhold_written = true;
    let before = net.hosts[0].sent_frames;
    for change in 0..10_000u32 {
        let kind = KindNumber(1_000 + (change % 4) as u16);
        let body = change.to_be_bytes().to_vec();
        net.give(0, Input::SetRecord { kind, body });
    }
    assert!(
        net.hosts[0].sent_frames - before <= 1,
        "frames left without Written"
    );
    let pending = net.mesh(0).links()[0].pending;
    assert!(
        (3..=net.mesh(0).registers().len()).contains(&pending),
        "{pending} entries wait"
    );
}

#[test]
fn what_a_slow_reader_missed_arrives_merged() {
    let mut net = Net::new(2);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.run(Duration::from_secs(4));
    for change in 0..1_000u32 {
        let kind = KindNumber(1_000);
        net.give(
            0,
            Input::SetRecord {
                kind,
                body: change.to_be_bytes().to_vec(),
            },
        );
    }
    let before = net.hosts[0].sent_frames;
    net.run_until(Duration::from_secs(1), "the last version arrives", |net| {
        net.agree(&[0, 1])
    });
    assert!(net.hosts[0].sent_frames - before < 10);
}

#[test]
fn connections_are_bounded_in_all_and_for_each_address() {
    let mut net = Net::new(3);
    net.add_founder(1, Some(token(1)), &[]);
    net.start_all();
    for number in 0..1_000 {
        let from: SocketAddr = format!("198.51.100.7:{}", 1_000 + number).parse().unwrap();
        net.give(
            0,
            Input::Accepted {
                conn: ConnId::Accepted(10_000 + number),
                from,
            },
        );
    }
    assert_eq!(net.mesh(0).links().len(), HANDSHAKES_PER_IP_MAX);
    for number in 0..1_000u64 {
        let from = SocketAddr::from(([198, 51, (number >> 8) as u8, number as u8], 9));
        net.give(
            0,
            Input::Accepted {
                conn: ConnId::Accepted(20_000 + number),
                from,
            },
        );
    }
    assert_eq!(net.mesh(0).links().len(), CONNECTIONS_MAX);
    assert!(net.mesh(0).refusals()[RejectReason::TooManyConnections as usize] > 1_500);
    // Nobody says anything: all are gone after the handshake's time.
    net.run(Duration::from_secs(8));
    assert!(net.mesh(0).links().is_empty());
}
