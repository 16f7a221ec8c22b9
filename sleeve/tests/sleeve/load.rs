//! Under a flood of initiations a member still gets through, by way of a cookie.

use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;
use weft_sleeve::Output;
use weft_sleeve::message::{COOKIE_LEN, INIT_LEN, MAC_LEN};
use weft_sleeve::timing::HANDSHAKES_PER_SECOND;
use weft_wire::DropReason;
use weft_wire::datagram::Kind;

#[test]
fn a_flood_is_met_with_cookies_and_a_member_passes() {
    let mut world = World::joined();
    // Somebody replays, from a forged address, an initiation that it overheard: mac1 is right.
    let overheard = world.sent_by(0, Kind::Init)[0].bytes.clone();
    let forged: SocketAddr = "203.0.113.99:9".parse().unwrap();
    let flood = |world: &mut World, n: u32| {
        for _ in 0..n {
            world.deliver(1, forged, &overheard);
        }
    };
    flood(&mut world, HANDSHAKES_PER_SECOND * 2);
    let (stale, asked) = (
        world.hosts[1].drops(DropReason::StaleInitiation),
        world.hosts[1].drops(DropReason::CookieRequired),
    );
    assert_eq!(stale + asked, HANDSHAKES_PER_SECOND as usize * 2);
    assert!(asked >= HANDSHAKES_PER_SECOND as usize - 10, "{asked}");
    let cookies = world.sent_by(1, Kind::Cookie);
    assert_eq!(cookies.len(), asked);
    assert!(
        cookies
            .iter()
            .all(|f| f.to == forged && f.bytes.len() == COOKIE_LEN)
    );

    // A member that starts now, while the flood goes on and takes every token as soon as there is one.
    // Half a token later: what arrives does not find one that the flood has not seen.
    world.run(Duration::from_micros(2_550));
    world.restart(0);
    world.connect(0, 1);
    for _ in 0..400 {
        flood(&mut world, 3);
        world.run(Duration::from_micros(100));
    }
    assert!(world.is_joined(0, 1));
    let inits = world.sent_by(0, Kind::Init);
    let (without, with) = (&inits[inits.len() - 2], &inits[inits.len() - 1]);
    assert_eq!(without.bytes[INIT_LEN - MAC_LEN..], [0; MAC_LEN]);
    assert_ne!(with.bytes[INIT_LEN - MAC_LEN..], [0; MAC_LEN]);
    assert_eq!(
        world.hosts[1]
            .count(|o| matches!(o, Output::Send { to, bytes } if *to == forged && bytes.len() > COOKIE_LEN)),
        0,
        "the forged address gets cookies and nothing else"
    );
}

#[test]
fn a_responder_that_only_sends_cookies_is_asked_at_the_usual_pace() {
    let mut world = World::new(2);
    // Every RESP is lost, and host 1 stays under load.
    world.filter = Box::new(|_, flight| flight.kind() != Some(Kind::Resp));
    world.connect(0, 1);
    world.run(Duration::from_millis(100));
    let overheard = world.sent_by(0, Kind::Init)[0].bytes.clone();
    let forged: SocketAddr = "203.0.113.99:9".parse().unwrap();
    for _ in 0..1000 {
        for _ in 0..5 {
            world.deliver(1, forged, &overheard);
        }
        world.run(Duration::from_millis(10));
    }
    assert!(world.hosts[1].drops(DropReason::CookieRequired) > 0);
    let inits = world.sent_by(0, Kind::Init).len();
    assert!((5..=9).contains(&inits), "{inits} in 10 s");
}
