//! Founding, joining, restarting, finding each other.

use crate::net::{Net, token};
use std::time::Duration;
use weft_gossip::status::{DialFailure, LinkStage};
use weft_gossip::{Input, JoinToken, MeshEvent};
use weft_wire::record::{Body, LinksRecord};
use weft_wire::{RejectReason, Time, codec};

const SOON: Duration = Duration::from_secs(3);

fn pair(seed: u64) -> Net {
    let mut net = Net::new(seed);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.run_until(SOON, "two hosts join", |net| {
        net.linked(0, 1) && net.agree(&[0, 1])
    });
    net
}

#[test]
fn a_newcomer_joins_by_dialling_and_both_know_it() {
    let net = pair(1);
    assert!(net.has_event(
        1,
        |e| matches!(e, MeshEvent::Joined { genesis } if genesis.founders == [net.id(0)])
    ));
    assert!(net.has_event(
        0,
        |e| matches!(e, MeshEvent::Admitted { node, .. } if *node == net.id(1))
    ));
    for (host, other) in [(0, 1), (1, 0)] {
        assert!(net.has_event(
            host,
            |e| matches!(e, MeshEvent::PeerUp { node, .. } if *node == net.id(other))
        ));
        assert_eq!(net.mesh(host).members().len(), 2);
        assert!(net.mesh(host).peer_record(&net.id(other)).is_some());
    }
    assert_eq!(net.mesh(1).targets()[0].node, Some(net.id(0)));
    assert!(net.mesh(1).targets()[0].connected);
}

#[test]
fn a_newcomer_joins_when_the_member_dials() {
    let mut net = Net::new(2);
    net.add_founder(1, Some(token(1)), &[1]);
    net.add(Some(token(1)), &[]);
    net.start_all();
    // The cluster's own key is refused first, the token is tried next.
    net.run_until(SOON, "the member's dial", |net| {
        net.linked(0, 1) && net.agree(&[0, 1])
    });
    assert_eq!(net.mesh(1).refusals()[RejectReason::UnknownKey as usize], 1);
}

#[test]
fn restarted_hosts_find_each_other_without_targets_and_tokens() {
    let mut net = pair(3);
    net.run(SOON);
    for host in [0, 1] {
        net.kill(host);
        net.hosts[host].targets.clear();
        net.hosts[host].token = None;
    }
    net.run(SOON);
    net.start_all();
    net.run_until(SOON, "both find each other from their disks", |net| {
        net.linked(0, 1) && net.agree(&[0, 1])
    });
}

#[test]
fn a_restarted_process_takes_the_place_of_the_old_one() {
    let mut net = pair(4);
    net.run(SOON);
    // The process dies without its connections breaking: the machine was switched off and on again.
    net.hosts[1].silent = true;
    net.run(Duration::from_millis(10));
    net.hosts[1].silent = false;
    net.start(1);
    net.run_until(Duration::from_secs(2), "the new process is linked", |net| {
        net.linked(0, 1)
    });
    net.run(SOON);
    assert_eq!((net.ups(0, 1), net.ups(1, 0)), (1, 1));
    assert!(!net.has_event(0, |e| matches!(e, MeshEvent::CopiedIdentity { .. })));
}

#[test]
fn a_wrong_token_is_refused_with_its_reason_and_nothing_is_learned() {
    let mut net = Net::new(5);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(2)), &[0]);
    net.start_all();
    net.run(SOON);
    assert!(net.mesh(1).membership().is_none());
    assert_eq!(
        net.mesh(1).targets()[0].failure,
        Some(DialFailure::Refused(RejectReason::UnknownKey))
    );
    assert!(net.has_event(1, |e| matches!(
        e,
        MeshEvent::LinkRefused {
            reason: RejectReason::UnknownKey,
            target: Some(_),
            ..
        }
    )));
    assert_eq!(net.mesh(0).members().len(), 1);
}

#[test]
fn a_password_joins_like_a_generated_token() {
    let cost = weft_gossip::token::StretchCost {
        memory_kib: 64,
        passes: 1,
    };
    let psk = JoinToken::parse_with("a password of people", cost).unwrap().psk();
    let mut net = Net::new(6);
    net.add_founder(1, Some(psk.clone()), &[]);
    net.add(Some(psk), &[0]);
    net.start_all();
    net.run_until(SOON, "joined by password", |net| net.linked(0, 1));
}

#[test]
fn foreign_clusters_name_each_other_and_merge_nothing() {
    let mut net = Net::new(7);
    net.add_founder(1, Some(token(1)), &[1]);
    net.add_founder(2, Some(token(1)), &[]);
    net.start_all();
    net.run(Duration::from_secs(20));
    for (host, other) in [(0, 1), (1, 0)] {
        let theirs = net.mesh(other).membership().unwrap().id();
        let named = |e: &MeshEvent| matches!(e, MeshEvent::Foreign { node, genesis, .. } if *node == net.id(other) && *genesis == theirs);
        assert!(
            net.has_event(host, named),
            "host {host} does not name the other cluster"
        );
        assert_eq!(net.ups(host, other), 0);
        assert_eq!(net.mesh(host).members().len(), 1);
        assert_eq!(net.mesh(host).registers().owner_count(), 1);
    }
    let foreign = net.hosts[0].events.iter();
    let met = foreign
        .filter(|(_, e)| matches!(e, MeshEvent::Foreign { .. }))
        .count();
    assert_eq!(
        met, 1,
        "a foreign cluster is dialled again after 30 s, not before"
    );
    assert_eq!(
        net.mesh(0).targets()[0].failure,
        Some(DialFailure::Refused(RejectReason::ForeignCluster))
    );
}

#[test]
fn hosts_find_each_other_through_a_third() {
    let mut net = Net::new(8);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.add(Some(token(1)), &[1]);
    net.start_all();
    net.run_until(Duration::from_secs(10), "a full mesh of three", |net| {
        net.linked(0, 1) && net.linked(1, 2) && net.linked(0, 2) && net.agree(&[0, 1, 2])
    });
}

#[test]
fn a_line_of_joins_longer_than_a_chain_may_be_ends_in_a_full_mesh() {
    let mut net = Net::new(9);
    net.add_founder(1, Some(token(1)), &[]);
    for host in 1..22 {
        net.add(Some(token(1)), &[host - 1]);
    }
    let all: Vec<usize> = (0..22).collect();
    net.start_all();
    let full = |net: &Net| {
        all.iter()
            .all(|a| all.iter().all(|b| a == b || net.linked(*a, *b)))
    };
    // Looking after each of many thousand steps would take longer than the steps.
    while !(net.agree(&all) && full(&net)) {
        assert!(
            net.now < Time::ZERO + Duration::from_secs(60),
            "22 hosts do not agree"
        );
        net.run(Duration::from_millis(200));
    }
    for host in &all {
        let membership = net.mesh(*host).membership().unwrap();
        assert_eq!(membership.member_count(), 22);
        for member in membership.members() {
            assert!(membership.chain_of(&member).unwrap().len() <= 16);
        }
    }
}

#[test]
fn two_newcomers_wait_for_a_founder() {
    let mut net = Net::new(10);
    net.add(Some(token(1)), &[1, 2]);
    net.add(Some(token(1)), &[0]);
    net.add_founder(1, Some(token(1)), &[]);
    net.start(0);
    net.start(1);
    net.run(Duration::from_secs(20));
    assert!(net.mesh(0).membership().is_none() && net.mesh(1).membership().is_none());
    assert!(net.mesh(0).refusals()[RejectReason::NoCluster as usize] > 0);
    net.start(2);
    net.run_until(Duration::from_secs(40), "the founder has come", |net| {
        net.agree(&[0, 1, 2])
    });
}

#[test]
fn an_admission_that_did_not_reach_the_disk_never_left() {
    let mut net = Net::new(11);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.hosts[0].withhold_persisted = true;
    net.run(SOON);
    assert_eq!(net.hosts[0].persists, 1);
    assert!(
        net.mesh(1).membership().is_none(),
        "the Welcome left before the admission was durable"
    );
    assert!(!net.mesh(0).membership().unwrap().is_member(&net.id(1)));
    net.kill(0);
    net.start(0);
    net.run_until(Duration::from_secs(10), "joined after the crash", |net| {
        net.linked(0, 1) && net.agree(&[0, 1])
    });
}

#[test]
fn a_newcomer_that_crashes_before_its_disk_answers_is_welcomed_again() {
    let mut net = Net::new(12);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.hosts[1].withhold_persisted = true;
    net.run(SOON);
    assert_eq!(net.hosts[1].persists, 1);
    assert!(net.mesh(1).membership().is_none());
    assert_eq!(
        net.ups(0, 1),
        0,
        "the member may not count a newcomer that has not said Joined"
    );
    net.kill(1);
    net.start(1);
    net.run_until(Duration::from_secs(10), "joined after the crash", |net| {
        net.linked(0, 1) && net.agree(&[0, 1])
    });
    let admitted = net.hosts[0].events.iter();
    let admitted = admitted
        .filter(|(_, e)| matches!(e, MeshEvent::Admitted { .. }))
        .count();
    assert_eq!(admitted, 1, "it was a member already");
}

#[test]
fn this_host_itself_is_recognised_and_not_dialled_again() {
    let mut net = Net::new(13);
    net.add_founder(1, Some(token(1)), &[0]);
    net.start_all();
    net.run(Duration::from_secs(60));
    let target = &net.mesh(0).targets()[0];
    assert_eq!(
        (target.failure.clone(), target.retried),
        (Some(DialFailure::Refused(RejectReason::SelfConnection)), false)
    );
    assert!(net.mesh(0).links().is_empty());
    // Once on each end of the one connection.
    assert_eq!(net.mesh(0).refusals()[RejectReason::SelfConnection as usize], 2);
}

#[test]
fn a_silent_peer_is_noticed_within_five_seconds_and_redialled() {
    let mut net = pair(14);
    net.run(SOON);
    net.hosts[1].silent = true;
    let start = net.now;
    net.run_until(Duration::from_secs(5), "the silence is noticed", |net| {
        net.has_event(0, |e| {
            matches!(e, MeshEvent::PeerDown { node, reason: RejectReason::LinkTimeout } if *node == net.id(1))
        })
    });
    assert!(net.now.since(start) >= Duration::from_secs(3));
    net.hosts[1].silent = false;
    net.run_until(Duration::from_secs(15), "the link is back", |net| {
        net.linked(0, 1)
    });
}

#[test]
fn a_shutdown_says_goodbye() {
    let mut net = pair(15);
    net.run(SOON);
    net.give(1, Input::Shutdown);
    net.run_until(Duration::from_millis(100), "the goodbye is heard", |net| {
        net.has_event(0, |e| {
            matches!(
                e,
                MeshEvent::PeerDown {
                    reason: RejectReason::Shutdown,
                    ..
                }
            )
        })
    });
    net.run(Duration::from_secs(10));
    assert!(net.mesh(1).links().is_empty());
}

#[test]
fn links_are_published_and_a_steady_mesh_is_quiet() {
    let mut net = Net::new(16);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.add(Some(token(1)), &[0]);
    net.start_all();
    net.run(Duration::from_secs(10));
    for host in 0..3 {
        let links: LinksRecord = net.mesh(host).registers().body(&net.id((host + 1) % 3)).unwrap();
        assert_eq!(links.links.len(), 2);
        for link in net.mesh(host).links() {
            assert_eq!(link.stage, LinkStage::Up);
            assert!(link.rtt.unwrap() < Duration::from_millis(20));
        }
    }
    let before: u64 = net.hosts.iter().map(|h| h.sent_frames).sum();
    net.run(Duration::from_secs(100));
    let frames = net.hosts.iter().map(|h| h.sent_frames).sum::<u64>() - before;
    // Six ends with a heartbeat a second; round-trip times may move a bucket once a minute.
    assert!((590..640).contains(&frames), "{frames} frames in 100 s");
}

/// A host that lost its disk comes back as a new member at the old one's address. The old one's record leads there for
/// ever; dialling it must not take the place of the link that stands, again and again.
#[test]
fn the_address_of_a_member_that_is_gone_is_not_dialled_without_end() {
    for seed in 0..8 {
        let mut net = Net::new(seed);
        net.add_founder(1, Some(token(1)), &[]);
        for _ in 0..3 {
            net.add(Some(token(1)), &[0]);
        }
        net.start_all();
        net.run(Duration::from_secs(10));
        net.kill(1);
        net.hosts[1].key = weft_wire::NodeKey::from_seed([77; 32]);
        net.hosts[1].disk = None;
        net.start(1);
        net.run(Duration::from_secs(60));
        for host in 0..4 {
            assert_eq!(
                net.mesh(host).members().len(),
                5,
                "the old identity stays a member"
            );
            let ups = net
                .mesh(host)
                .links()
                .into_iter()
                .filter(|l| l.stage == LinkStage::Up);
            assert_eq!(ups.count(), 3);
        }
        let before: u64 = net.hosts.iter().map(|h| h.sent_frames).sum();
        net.run(Duration::from_secs(60));
        let frames = net.hosts.iter().map(|h| h.sent_frames).sum::<u64>() - before;
        // Twelve ends with a heartbeat a second, and now and then an attempt at the address.
        assert!(frames < 1_000, "{frames} frames in 60 s with seed {seed}");
    }
}

#[test]
fn records_are_rewritten_only_when_they_change() {
    let mut net = pair(17);
    net.run(SOON);
    let before = net.mesh(0).registers().fingerprint();
    let body = codec::encode(&net.peer_record(0));
    let kind = weft_wire::record::PeerRecord::KIND;
    net.give(0, Input::SetRecord { kind, body });
    assert_eq!(net.mesh(0).registers().fingerprint(), before);
    let mut record = net.peer_record(0);
    record.zone = "elsewhere".into();
    let body = codec::encode(&record);
    net.give(0, Input::SetRecord { kind, body });
    net.run_until(Duration::from_millis(100), "the change arrives", |net| {
        net.mesh(1)
            .peer_record(&net.id(0))
            .is_some_and(|r| r.zone == "elsewhere")
    });
}

/// A vote record: the one that tells what its owner knows of decisions.
fn vote(number: u32) -> Input {
    let record = weft_wire::ipam::VoteRecord {
        number,
        parent: [0; 32],
        wants: true,
        wishes: Vec::new(),
        promised: None,
        accepted: None,
        proposal: None,
    };
    Input::SetRecord {
        kind: weft_wire::ipam::VoteRecord::KIND,
        body: codec::encode(&record),
    }
}

#[test]
fn a_removed_host_is_talked_to_and_nothing_of_it_is_merged() {
    let mut net = Net::new(31);
    net.add_founder(1, Some(token(1)), &[]);
    for _ in 0..2 {
        net.add(Some(token(1)), &[0]);
    }
    net.start_all();
    let hosts = [0, 1, 2];
    net.run_until(SOON, "three hosts agree", |net| {
        net.agree(&hosts) && net.linked(1, 2)
    });
    let gone = net.id(2);
    for host in [0, 1] {
        net.give(host, Input::Removed([gone].into()));
    }
    let records_of = |net: &Net, host: usize| {
        let records = net.mesh(host).registers().iter();
        records
            .filter(|(key, _)| key.owner == gone)
            .map(|(key, _)| key.kind)
            .collect::<Vec<_>>()
    };
    assert_eq!(records_of(&net, 0), [weft_wire::record::Admission::KIND]);
    assert_eq!(net.mesh(0).members().len(), 2);
    assert_eq!(net.mesh(0).removed_name(&gone).as_deref(), Some("host"));

    // Its link stands: it may not know yet, and can see that there is something to ask for.
    net.give(0, vote(7));
    net.give(2, vote(3));
    net.run_until(SOON, "each sees the other's vote", |net| {
        let seen = |e: &MeshEvent| matches!(e, MeshEvent::RecordOfRemoved(e) if e.key().owner == gone);
        let theirs: Option<weft_wire::ipam::VoteRecord> = net.mesh(2).registers().body(&net.id(0));
        net.has_event(0, seen) && theirs.is_some_and(|vote| vote.number == 7)
    });
    let question = Input::SendTo {
        to: net.id(0),
        bytes: vec![1, 2, 3],
    };
    net.give(2, question);
    net.run_until(SOON, "its question", |net| {
        net.has_event(
            0,
            |e| matches!(e, MeshEvent::Direct { from, .. } if *from == gone),
        )
    });
    net.run(Duration::from_secs(70));
    for host in [0, 1] {
        assert_eq!(records_of(&net, host), [weft_wire::record::Admission::KIND]);
    }
    assert!(net.agree(&[0, 1]), "those who stay have the same records");
    assert!(!net.has_event(2, |e| matches!(e, MeshEvent::PeerDown { .. })));

    // Nobody dials it, and a newcomer that it let in stays a member.
    net.kill(2);
    net.run(Duration::from_secs(60));
    assert!(net.mesh(0).links().iter().all(|link| link.node != Some(gone)));
    assert_eq!(net.mesh(0).connections(), 1);
}

#[test]
fn a_host_that_lets_nobody_in_says_why() {
    let mut net = Net::new(32);
    net.add_founder(1, Some(token(1)), &[]);
    net.add(Some(token(1)), &[0]);
    net.start(0);
    net.give(0, Input::SetAdmitting(false));
    net.start(1);
    net.run(SOON);
    let failure = net.mesh(1).targets()[0].failure.clone();
    assert_eq!(failure, Some(DialFailure::Refused(RejectReason::Adopting)));
    net.give(0, Input::SetAdmitting(true));
    net.run_until(Duration::from_secs(40), "it is let in", |net| net.linked(0, 1));
}
