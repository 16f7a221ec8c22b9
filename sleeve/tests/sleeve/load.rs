//! Under a flood of initiations a member still gets through, by way of a cookie.

use crate::lab::*;
use std::net::SocketAddr;
use std::time::Duration;
use weft_sleeve::door::{Admission, Door, Sender};
use weft_sleeve::message::{COOKIE_LEN, INIT_LEN, MAC_LEN};
use weft_sleeve::timing::{ANSWERS_PER_SECOND, COOKIES_PER_SECOND, HANDSHAKES_PER_SECOND};
use weft_sleeve::{Input, Output};
use weft_wire::DropReason;
use weft_wire::datagram::{Header, Kind};

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

/// What a door says of a datagram.
fn admit(door: &mut Door, world: &World, sender: Sender, bytes: &[u8]) -> Result<Admission, DropReason> {
    door.admit(world.now, sender, &Header::parse(bytes).unwrap(), bytes)
}

fn door_of(world: &mut World, host: usize) -> Door {
    let now = world.now;
    Door::new(&[world.hosts[host].sleeve.door_keys(now)])
}

#[test]
fn a_door_lets_a_second_of_handshakes_in_and_then_those_with_a_cookie() {
    let mut world = World::joined();
    let mut door = door_of(&mut world, 1);
    let overheard = world.sent_by(0, Kind::Init)[0].bytes.clone();
    let stranger = Sender::Stranger("203.0.113.99:9".parse().unwrap());
    // What is forged takes nobody's place.
    for (at, reason) in [(20, DropReason::BadMac1), (9, DropReason::UnknownKeyId)] {
        let mut forged = overheard.clone();
        forged[at] ^= 1;
        for _ in 0..1_000 {
            assert_eq!(admit(&mut door, &world, stranger, &forged), Err(reason));
        }
    }
    let flood = |door: &mut Door, world: &World, count: u32| {
        let mut answers = (0..count).map(|_| admit(door, world, stranger, &overheard));
        answers.all(|answer| matches!(answer, Ok(Admission::Core)))
    };
    assert!(flood(&mut door, &world, HANDSHAKES_PER_SECOND));
    for _ in 0..COOKIES_PER_SECOND {
        let Ok(Admission::Cookie(cookie)) = admit(&mut door, &world, stranger, &overheard) else {
            panic!("no cookie");
        };
        assert_eq!(cookie.len(), COOKIE_LEN);
    }
    let beyond = admit(&mut door, &world, stranger, &overheard);
    assert_eq!(beyond, Err(DropReason::CookieRate));

    // A member that starts now, at its address: its cookie is the door's, and core and door know it.
    world.filter = Box::new(|_, flight| flight.kind() != Some(Kind::Init));
    world.restart(0);
    world.connect(0, 1);
    let home = world.hosts[0].address;
    let init = world.sent_by(0, Kind::Init).pop().unwrap().bytes;
    let Ok(Admission::Cookie(cookie)) = admit(&mut door, &world, Sender::Peer(home), &init) else {
        panic!("no cookie for a peer");
    };
    let there = world.hosts[1].address;
    world.deliver(0, there, &cookie);
    let with = world.sent_by(0, Kind::Init).pop().unwrap().bytes;
    assert_ne!(with[INIT_LEN - MAC_LEN..], [0; MAC_LEN]);
    let elsewhere = admit(&mut door, &world, stranger, &with);
    assert_eq!(
        elsewhere,
        Err(DropReason::CookieRate),
        "the cookie is for an address"
    );
    assert_eq!(
        admit(&mut door, &world, Sender::Peer(home), &with),
        Ok(Admission::Core)
    );
    while world.hosts[1].drops(DropReason::CookieRequired) == 0 {
        world.deliver(1, "203.0.113.99:9".parse().unwrap(), &overheard);
    }
    let from = home;
    let outputs = world.input(1, Input::Datagram { from, bytes: &with });
    let is_answer = |o: &Output| matches!(o, Output::Send { bytes, .. } if bytes[0] == Kind::Resp as u8);
    assert!(outputs.iter().any(is_answer), "{outputs:?}");
}

#[test]
fn a_door_bounds_answers_and_what_relays_bring() {
    let mut world = World::joined();
    let mut door = door_of(&mut world, 0);
    let answer = world.sent_by(1, Kind::Resp)[0].bytes.clone();
    let there = Sender::Peer(world.hosts[1].address);
    let mut forged = answer.clone();
    forged[30] ^= 1;
    assert_eq!(admit(&mut door, &world, there, &forged), Err(DropReason::BadMac1));
    let mut cookie = answer[..COOKIE_LEN].to_vec();
    cookie[0] = Kind::Cookie as u8;
    for n in 0..ANSWERS_PER_SECOND {
        let bytes = if n % 2 == 0 { &answer } else { &cookie };
        assert_eq!(admit(&mut door, &world, there, bytes), Ok(Admission::Core));
    }
    assert_eq!(
        admit(&mut door, &world, there, &answer),
        Err(DropReason::HandshakeRate)
    );
    for (length, reason) in [
        (COOKIE_LEN - 1, DropReason::DatagramTooShort),
        (COOKIE_LEN + 1, DropReason::BadHandshake),
    ] {
        cookie.resize(length, 0);
        assert_eq!(admit(&mut door, &world, there, &cookie), Err(reason));
    }
    let init = world.sent_by(0, Kind::Init)[0].bytes.clone();
    let mut door = door_of(&mut world, 1);
    for _ in 0..HANDSHAKES_PER_SECOND {
        assert_eq!(
            admit(&mut door, &world, Sender::Relay, &init),
            Ok(Admission::Core)
        );
    }
    let beyond = admit(&mut door, &world, Sender::Relay, &init);
    assert_eq!(beyond, Err(DropReason::HandshakeRate));
}
