//! The laboratory itself: what it says about a network must be true.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_lab::{Content, Error, Impairment, Lab, PingPlan, Underlay, frames};

const SOON: Duration = Duration::from_secs(5);
/// How long to listen for what must not come.
const QUIET: Duration = Duration::from_millis(300);

/// Fifty echo requests in quick succession, not waited for longer than a quiet second.
const BURST: PingPlan = PingPlan {
    count: 50,
    interval: Duration::from_millis(2),
    patience: Duration::from_secs(1),
    payload: 56,
};

#[test]
fn a_switch_connects_two_hosts() {
    let lab = Lab::new("switch").unwrap();
    let switch = lab.switch().unwrap();
    let (a, b) = (
        lab.host("a").on(&switch).build().unwrap(),
        lab.host("b").on(&switch).build().unwrap(),
    );
    for address in b.addresses() {
        assert!(a.ping(*address, 3).unwrap().is_complete(), "{address}");
    }
    assert_eq!(b.addresses().len(), 2);

    let content = Content::random(3_000_001, 1);
    let transfer = a.tcp_send(&b, &content).unwrap();
    assert!(transfer.is_intact());
    assert_eq!(transfer.bytes, 3_000_001);
    assert_eq!(transfer.sent, content.sha256());
}

#[test]
fn a_wire_delays() {
    let lab = Lab::new("delay").unwrap();
    let wire = lab.wire(Impairment::delay(Duration::from_millis(30))).unwrap();
    let (a, b) = (
        lab.host("a").on(&wire).build().unwrap(),
        lab.host("b").on(&wire).build().unwrap(),
    );
    a.ping_until(b.ipv4().unwrap(), SOON).unwrap();
    let report = a.ping_with(b.ipv4().unwrap(), &BURST).unwrap();
    assert!(report.is_complete());
    let shortest = report.shortest().unwrap();
    assert!(
        (Duration::from_millis(60)..Duration::from_millis(160)).contains(&shortest),
        "{shortest:?}"
    );

    wire.impair(Impairment::seeded(0));
    let shortest = a
        .ping_with(b.ipv4().unwrap(), &BURST)
        .unwrap()
        .shortest()
        .unwrap();
    assert!(shortest < Duration::from_millis(30), "{shortest:?}");
}

#[test]
fn a_wire_loses_as_much_as_asked() {
    let lab = Lab::new("loss").unwrap();
    let wire = lab.wire(Impairment::seeded(11)).unwrap();
    let (a, b) = (
        lab.host("a").on(&wire).build().unwrap(),
        lab.host("b").on(&wire).build().unwrap(),
    );
    a.ping_until(b.ipv4().unwrap(), SOON).unwrap();
    wire.impair(Impairment::loss(0.2, 11));
    let plan = PingPlan {
        count: 500,
        interval: Duration::from_millis(1),
        ..BURST
    };
    let report = a.ping_with(b.ipv4().unwrap(), &plan).unwrap();
    // Both ways: 1 - 0.8² = 36 % of 500.
    assert!(
        (120..240).contains(&report.lost()),
        "{} lost, {:?}",
        report.lost(),
        wire.counters()
    );
    assert!(wire.counters().lost >= u64::from(report.lost()));
}

#[test]
fn a_wire_doubles_and_reorders() {
    let lab = Lab::new("disorder").unwrap();
    let wire = lab.wire(Impairment::seeded(3)).unwrap();
    let (a, b) = (
        lab.host("a").on(&wire).without_ipv6().build().unwrap(),
        lab.host("b").on(&wire).without_ipv6().build().unwrap(),
    );
    let number = |frame: &Vec<u8>| frame[14];
    let source = a.mac().unwrap();
    let send = |from: u8| {
        let frames: Vec<_> = (from..from + 100)
            .map(|number| frames::build(frames::BROADCAST, source, 0x88b5, &[number; 46]))
            .collect();
        a.send_frames(&frames).unwrap();
    };

    let mut ear = b.listen(|frame| frame.ethertype() == 0x88b5).unwrap();
    wire.impair(Impairment {
        duplicate: 0.3,
        ..Impairment::seeded(3)
    });
    send(0);
    let heard = ear.until_quiet(QUIET).unwrap().len();
    assert_eq!(heard as u64, 100 + wire.counters().duplicated);
    assert!((110..160).contains(&heard), "{heard}");

    let mut ear = b.listen(|frame| frame.ethertype() == 0x88b5).unwrap();
    wire.impair(Impairment {
        reorder: 0.2,
        ..Impairment::seeded(4)
    });
    send(100);
    let order: Vec<u8> = ear.expect(100, SOON).unwrap().iter().map(number).collect();
    assert!(!order.is_sorted(), "{order:?}");
    assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 100);
    assert!(wire.counters().reordered > 5, "{:?}", wire.counters());
}

#[test]
fn a_partition_and_its_heal() {
    let lab = Lab::new("partition").unwrap();
    let (switch, wire) = (lab.switch().unwrap(), lab.wire(Impairment::seeded(1)).unwrap());
    for (number, underlay) in [&switch as &dyn Underlay, &wire].into_iter().enumerate() {
        let [a, b, c] =
            ["a", "b", "c"].map(|name| lab.host(&format!("{name}{number}")).on(underlay).build().unwrap());
        for host in [&b, &c] {
            a.ping_until(host.ipv4().unwrap(), SOON).unwrap();
        }

        underlay.partition(&[&a], &[&b, &c]).unwrap();
        assert_eq!(
            a.ping_with(b.ipv4().unwrap(), &BURST).unwrap().lost(),
            BURST.count
        );
        assert!(b.ping(c.ipv4().unwrap(), 3).unwrap().is_complete());

        underlay.heal().unwrap();
        a.ping_until(b.ipv4().unwrap(), SOON).unwrap();
        a.ping_until(c.ipv4().unwrap(), SOON).unwrap();
        let error = underlay.partition(&[&a], &[&a]).unwrap_err().to_string();
        assert!(error.contains("one side"), "{error}");
    }
}

#[test]
fn a_cut_stops_one_direction() {
    let lab = Lab::new("cut").unwrap();
    let wire = lab.wire(Impairment::seeded(1)).unwrap();
    let (a, b) = (
        lab.host("a").on(&wire).without_ipv6().build().unwrap(),
        lab.host("b").on(&wire).without_ipv6().build().unwrap(),
    );
    wire.cut(&a, &b).unwrap();
    let at = |host: &weft_lab::Host| host.listen(|frame| frame.ethertype() == 0x88b5).unwrap();
    let (mut at_a, mut at_b) = (at(&a), at(&b));
    a.send_frame(&frames::build(
        frames::BROADCAST,
        a.mac().unwrap(),
        0x88b5,
        &[1; 46],
    ))
    .unwrap();
    b.send_frame(&frames::build(
        frames::BROADCAST,
        b.mac().unwrap(),
        0x88b5,
        &[2; 46],
    ))
    .unwrap();
    // A station hears itself too.
    let from_b = |heard: &[Vec<u8>]| heard.iter().filter(|frame| frame[14] == 2).count();
    assert_eq!(from_b(at_a.expect(2, SOON).unwrap()), 1);
    assert_eq!(at_b.until_quiet(QUIET).unwrap().len(), 1);
    assert_eq!(wire.counters().blocked, 1);
}

#[test]
fn frames_arrive_bit_for_bit() {
    let lab = Lab::new("frames").unwrap();
    let switch = lab.switch().unwrap();
    let (a, b) = (
        lab.host("a").on(&switch).build().unwrap(),
        lab.host("b").on(&switch).build().unwrap(),
    );
    let source = a.mac().unwrap();
    let mut ear = b
        .listen(move |frame| frame.source() == source && frame.ethertype() != 0x86dd)
        .unwrap();
    let odd = frames::build(b.mac().unwrap(), source, 0x88b5, &[0xa5; 777]);
    let tagged = frames::build_tagged(frames::BROADCAST, source, 42, 0x88b5, &[1; 46]);
    a.send_frame(&odd).unwrap();
    a.send_frame(&tagged).unwrap();
    let heard = ear.expect(2, SOON).unwrap();
    assert_eq!(heard[0], odd);
    // The receiving kernel takes a tag off before a packet socket sees the frame.
    assert_eq!(
        heard[1],
        frames::build(frames::BROADCAST, source, 0x88b5, &[1; 46])
    );
}

#[test]
fn a_recording_finds_what_is_in_clear() {
    let lab = Lab::new("record").unwrap();
    let switch = lab.switch().unwrap();
    let (a, b) = (
        lab.host("a").on(&switch).build().unwrap(),
        lab.host("b").on(&switch).build().unwrap(),
    );
    let needle = b"in every thousand bytes";
    let (present, absent) = (
        a.record(needle, 2_000_000).unwrap(),
        b.record(b"in no byte whatever", 2_000_000).unwrap(),
    );
    let content = Content::with_needle(2_000_000, 2, needle, 1000);
    assert!(a.tcp_send(&b, &content).unwrap().is_intact());
    let (present, absent) = (present.stop().unwrap(), absent.stop().unwrap());
    // Some needles are cut by the end of a segment; what TCP sends again holds some a second time.
    let most = present.bytes / 1000 + present.frames;
    assert!((1500..=most).contains(&present.found), "{present:?}");
    assert_eq!(absent.found, 0, "{absent:?}");
    for recorded in [present, absent] {
        assert!(recorded.bytes > 2_000_000, "{recorded:?}");
        assert_eq!(recorded.missed, 0, "{recorded:?}");
    }
}

#[test]
fn a_firewall_drops_and_is_cleared() {
    let lab = Lab::new("firewall").unwrap();
    let switch = lab.switch().unwrap();
    let (a, b) = (
        lab.host("a").on(&switch).build().unwrap(),
        lab.host("b").on(&switch).build().unwrap(),
    );
    a.ping_until(b.ipv4().unwrap(), SOON).unwrap();
    b.firewall().drop_from(a.ipv4().unwrap()).unwrap();
    b.firewall().drop_tcp_port(9).unwrap();
    b.firewall().drop_udp_port(6783).unwrap();
    assert_eq!(
        a.ping_with(b.ipv4().unwrap(), &BURST).unwrap().lost(),
        BURST.count
    );
    assert!(a.ping(b.ipv6().unwrap(), 3).unwrap().is_complete());
    b.firewall().clear().unwrap();
    assert!(a.ping(b.ipv4().unwrap(), 3).unwrap().is_complete());
}

#[test]
fn a_nat_box_hides_what_is_inside() {
    let lab = Lab::new("nat").unwrap();
    let (inside, outside) = (lab.switch().unwrap(), lab.switch().unwrap());
    let nat = lab.nat_box("nat", &inside, &outside).unwrap();
    let a = lab
        .host("a")
        .on(&inside)
        .without_ipv6()
        .gateway(nat.inside().unwrap())
        .build()
        .unwrap();
    let b = lab.host("b").on(&outside).without_ipv6().build().unwrap();
    a.ping_until(b.ipv4().unwrap(), SOON).unwrap();
    nat.symmetric().unwrap();
    assert!(a.tcp_send(&b, &Content::random(100_000, 5)).unwrap().is_intact());
    let error = b.ping_until(a.ipv4().unwrap(), QUIET).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[test]
fn nothing_is_left_behind() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let descriptors = || {
        let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
            let link = std::fs::read_link(entry.ok()?.path()).ok()?;
            Some(link.to_string_lossy().into_owned())
        });
        links
            .filter(|link| link.starts_with("net:") || link.contains("tun"))
            .count()
    };
    // The test harness has threads and descriptors of its own.
    let before = (threads(), descriptors());
    let lab = Lab::new("leftovers").unwrap();
    let (switch, wire) = (lab.switch().unwrap(), lab.wire(Impairment::seeded(1)).unwrap());
    let hosts: Vec<_> = (0..3)
        .map(|n| lab.host(&format!("h{n}")).on(&switch).on(&wire).build().unwrap())
        .collect();
    hosts[0].ping_until(hosts[1].ipv4().unwrap(), SOON).unwrap();
    let mut command = std::process::Command::new("/bin/sleep");
    command.arg("1000");
    let mut child = hosts[2].namespace().spawn(command).unwrap();
    let folder = lab.folder().to_owned();
    assert!(folder.join("h0/machine-id").is_file());
    assert!(descriptors() > before.1);

    drop((hosts, switch, wire, lab));
    assert!(!folder.exists(), "{}", folder.display());
    // The child dies with its namespace's last handle.
    let ended = weft_kernel::process::wait(&mut child, SOON).unwrap();
    assert!(ended.is_some_and(|status| !status.success()));
    assert_eq!((threads(), descriptors()), before);
}

#[test]
fn a_kept_lab_leaves_its_folder() {
    let lab = Lab::new("kept").unwrap();
    let file = lab.secret_file("token", "secret").unwrap();
    let folder = lab.keep().to_owned();
    drop(lab);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "secret");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn misuse_is_named() {
    let lab = Lab::new("misuse").unwrap();
    let switch = lab.switch().unwrap();
    let first = lab.host("a").on(&switch).build().unwrap();
    for (builder, word) in [
        (lab.host("a/b").on(&switch), "letters"),
        (lab.host("a").on(&switch), "folder of the host a"),
        (lab.host("c").mtu(1400), ".on(&underlay)"),
        (
            lab.host("d").on(&switch).gateway([10, 9, 8, 7]),
            "network of an interface",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(Lab::new("../up").is_err());
    drop(lab);
    // A host that is still there keeps the folder.
    assert!(first.folder().is_dir());

    let lab = Lab::with_program("absent", "/nonexistent/weft").unwrap();
    let host = lab.host("a").on(&switch).build().unwrap();
    let error = host.up(["--found"]).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/weft") && error.contains("cargo build"),
        "{error}"
    );
}

#[test]
fn an_interrupt_ends_every_wait() {
    let lab = Lab::new("interrupt").unwrap();
    let switch = lab.switch().unwrap();
    let a = lab.host("a").on(&switch).build().unwrap();
    lab.interrupt().store(true, std::sync::atomic::Ordering::Relaxed);
    let nobody = [192, 0, 2, 99].into();
    assert!(matches!(a.ping(nobody, 1), Err(Error::Interrupted)));
    assert!(matches!(a.ping_until(nobody, SOON), Err(Error::Interrupted)));
    let mut ear = a.listen(|_| false).unwrap();
    assert!(matches!(ear.expect(1, SOON), Err(Error::Interrupted)));
}
