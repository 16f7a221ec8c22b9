//! Messages that go over the links of others.

use crate::net::{HostIndex, Net, token};
use std::time::Duration;
use weft_gossip::{Input, MeshEvent};
use weft_wire::limits::RELAY_HOPS_MAX;
use weft_wire::{DropReason, NodeId};

const SECOND: Duration = Duration::from_secs(1);

/// Hosts of which each is linked to the one before and the one behind it only.
fn line(seed: u64, hosts: usize) -> Net {
    let mut net = Net::new(seed);
    net.add_founder(1, Some(token(1)), &[]);
    for host in 1..hosts {
        net.add(Some(token(1)), &[host - 1]);
    }
    for host in &mut net.hosts {
        host.hidden = true;
    }
    net.start_all();
    let all: Vec<HostIndex> = (0..hosts).collect();
    // Everybody knows everybody's links.
    let ends = move |net: &Net| {
        let (first, last) = (net.mesh(0).in_reach(), net.mesh(hosts - 1).in_reach());
        first.len().min(last.len()) == (hosts - 1).min(usize::from(RELAY_HOPS_MAX) + 1)
    };
    net.run_until(60 * SECOND, "a line", |net| net.agree(&all) && ends(net));
    for host in 2..hosts {
        assert!(!net.linked(0, host));
    }
    net
}

fn say(net: &mut Net, from: HostIndex, to: HostIndex, word: &[u8]) {
    let (to, bytes) = (net.id(to), word.to_vec());
    net.give(from, Input::SendTo { to, bytes });
}

fn heard(net: &Net, host: HostIndex, who: HostIndex, word: &[u8]) -> usize {
    let is_it = |event: &MeshEvent| matches!(event, MeshEvent::Direct { from, bytes } if *from == net.id(who) && bytes == word);
    let events = net.hosts[host].events.iter();
    events.filter(|(_, event)| is_it(event)).count()
}

fn drops(net: &Net, host: HostIndex, reason: DropReason) -> u64 {
    net.mesh(host).pass_drops().get(&reason).copied().unwrap_or(0)
}

#[test]
fn a_member_without_a_link_hears_and_answers() {
    let mut net = line(1, 5);
    say(&mut net, 0, 4, b"question");
    say(&mut net, 0, 1, b"next door");
    net.run(SECOND);
    assert_eq!(heard(&net, 4, 0, b"question"), 1);
    assert_eq!(heard(&net, 1, 0, b"next door"), 1);
    say(&mut net, 4, 0, b"answer");
    net.run(SECOND);
    assert_eq!(heard(&net, 0, 4, b"answer"), 1);
    // Those between heard nothing, and nothing was dropped.
    for host in 1..4 {
        assert_eq!(
            heard(&net, host, 0, b"question") + heard(&net, host, 4, b"answer"),
            0
        );
        assert!(net.mesh(host).pass_drops().is_empty());
    }
}

#[test]
fn no_message_goes_further_than_it_may() {
    let hosts = usize::from(RELAY_HOPS_MAX) + 3;
    let mut net = line(2, hosts);
    say(&mut net, 0, hosts - 2, b"far");
    say(&mut net, 0, hosts - 1, b"too far");
    net.run(SECOND);
    assert_eq!(heard(&net, hosts - 2, 0, b"far"), 1);
    assert_eq!(heard(&net, hosts - 1, 0, b"too far"), 0);
}

#[test]
fn the_way_around_is_taken_when_a_link_is_gone() {
    let mut net = line(3, 4);
    // The ring is closed, then cut between the first two.
    let around = net.hosts[3].address.to_string();
    net.give(0, Input::AddTarget(around));
    net.run_until(5 * SECOND, "a ring", |net| net.linked(0, 3));
    net.run(5 * SECOND);
    say(&mut net, 0, 2, b"either way");
    let target = net.hosts[0].address.to_string();
    net.give(1, Input::RemoveTarget(target));
    net.cut(0, 1);
    net.run_until(5 * SECOND, "the cut is noticed", |net| !net.linked(0, 1));
    net.run(3 * SECOND);
    say(&mut net, 0, 1, b"around");
    net.run(SECOND);
    assert_eq!(heard(&net, 2, 0, b"either way"), 1);
    assert_eq!(heard(&net, 1, 0, b"around"), 1);
}

#[test]
fn what_is_passed_on_waits_in_a_bounded_queue_behind_what_a_host_says_itself() {
    let mut net = line(4, 3);
    net.hosts[1].withhold_written = true;
    for number in 0..200u8 {
        say(&mut net, 0, 2, &[number]);
        net.run(Duration::from_millis(5));
    }
    let frames = net.hosts[1].sent_frames;
    assert!(
        drops(&net, 1, DropReason::PassQueueFull) >= 200 - 64 - 1,
        "{frames}"
    );
    assert!((0..200u8).all(|number| heard(&net, 2, 0, &[number]) <= 1));
}

#[test]
fn removed_and_unknown_hosts_are_on_no_way() {
    let mut net = line(5, 4);
    let gone = net.id(1);
    for host in [0, 2, 3] {
        net.give(host, Input::Removed([gone].into()));
    }
    // The only way leads over the removed one.
    say(&mut net, 0, 3, b"through the removed");
    // Its own words go no further than its links.
    say(&mut net, 1, 3, b"of the removed");
    let to = NodeId([9; 32]);
    let bytes = b"to nobody".to_vec();
    net.give(0, Input::SendTo { to, bytes });
    net.run(2 * SECOND);
    assert_eq!(heard(&net, 3, 0, b"through the removed"), 0);
    assert_eq!(heard(&net, 3, 1, b"of the removed"), 0);
    assert_eq!(drops(&net, 2, DropReason::PassForged), 1);
    assert!(!net.mesh(0).in_reach().contains(&net.id(3)));
}

/// Beyond a full mesh most pairs have no link. All hosts start at the same moment and know of the founder only.
#[test]
fn forty_hosts_that_start_together_join_and_reach_each_other() {
    let mut net = Net::new(6);
    net.add_founder(1, Some(token(1)), &[]);
    for _ in 1..40 {
        net.add(Some(token(1)), &[0]);
    }
    net.start_all();
    let all: Vec<HostIndex> = (0..40).collect();
    net.run_until(20 * SECOND, "forty members", |net| net.agree(&all));
    let everybody = |net: &Net| all.iter().all(|host| net.mesh(*host).in_reach().len() == 39);
    net.run_until(10 * SECOND, "everybody in reach", everybody);
    let mut without = 0;
    for from in 0..40 {
        for to in (0..40).filter(|to| *to != from) {
            without += usize::from(!net.linked(from, to));
            say(&mut net, from, to, &[from as u8]);
            net.run(Duration::from_millis(1));
        }
    }
    net.run(SECOND);
    for from in 0..40 {
        for to in (0..40).filter(|to| *to != from) {
            assert_eq!(heard(&net, to, from, &[from as u8]), 1, "from {from} to {to}");
        }
    }
    assert!(without > 0, "the mesh is full, so nothing was passed on");
    println!("{without} of {} pairs had no link", 40 * 39);
}
