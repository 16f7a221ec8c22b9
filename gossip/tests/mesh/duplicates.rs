//! One connection a pair: never none, never two for long.

use crate::net::{Net, token};
use std::time::Duration;
use weft_wire::Time;

/// Both ends dial each other over and over, with delays that reorder everything between connections.
#[test]
fn a_thousand_simultaneous_dials_never_leave_a_pair_without_a_link() {
    for round in 0..1_000 {
        let mut net = Net::new(round);
        net.add_founder(1, Some(token(1)), &[1]);
        net.add(Some(token(1)), &[0]);
        // Members already: the admission is on both disks.
        net.start_all();
        if round < 10 {
            net.delay_us = (1, 40_000);
        } else {
            net.delay_us = (1, 1 + 37 * (round % 1_000));
        }
        let mut linked = [false; 2];
        let mut two_since: [Option<Time>; 2] = [None; 2];
        let until = net.now + Duration::from_millis(2_500);
        while net.step(until) {
            for (a, b) in [(0, 1), (1, 0)] {
                match net.ups(a, b) {
                    0 => assert!(
                        !linked[a],
                        "round {round}: host {a} lost its only link at {:?}",
                        net.now
                    ),
                    1 => {
                        linked[a] = true;
                        two_since[a] = None;
                    }
                    _ => {
                        linked[a] = true;
                        let since = *two_since[a].get_or_insert(net.now);
                        let long = net.now.since(since);
                        assert!(
                            long <= Duration::from_secs(1),
                            "round {round}: two links for {long:?}"
                        );
                    }
                }
            }
        }
        assert_eq!((net.ups(0, 1), net.ups(1, 0)), (1, 1), "round {round}");
        assert!(net.agree(&[0, 1]), "round {round}: the maps differ");
    }
}

/// Members that lost their links at the same moment dial each other at the same moment.
#[test]
fn crossing_dials_of_members_leave_one_link() {
    let mut crossings = 0;
    for round in 0..200 {
        let mut net = Net::new(5_000 + round);
        net.add_founder(1, Some(token(1)), &[1]);
        net.add(Some(token(1)), &[0]);
        net.start_all();
        net.run(Duration::from_secs(3));
        net.kill(0);
        net.kill(1);
        net.run(Duration::from_secs(1));
        net.delay_us = (1, 10 + 100 * round);
        net.start_all();
        let mut linked = [false; 2];
        let mut most = 0;
        let until = net.now + Duration::from_secs(2);
        while net.step(until) {
            for (a, b) in [(0, 1), (1, 0)] {
                let ups = net.ups(a, b);
                assert!(
                    ups > 0 || !linked[a],
                    "round {round}: host {a} lost its only link"
                );
                linked[a] |= ups > 0;
                most = most.max(ups);
            }
        }
        assert_eq!((net.ups(0, 1), net.ups(1, 0)), (1, 1), "round {round}");
        crossings += usize::from(most > 1);
    }
    assert!(
        crossings > 20,
        "only {crossings} rounds had two links: the test tests nothing"
    );
}
