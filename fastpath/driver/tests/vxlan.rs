//! VXLAN devices, their entries, groups, neighbours, gates and the table in the packet filter, against the real kernel.
#![allow(clippy::unwrap_used, clippy::type_complexity, missing_docs)]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use common::{BRIDGE, MTU, PORT, SOON, TAP, ipv4, ipv6, mac, program, settle, vxlan};
use weft_fastpath::{Change, Device, Family, KernelState, Listeners, Port, Snooping, Via, View, Vni, Vxlan};
use weft_fastpath_driver::{Driver, Error, Removed, Watch};
use weft_kernel::link::{self, PortFlags, Tunnel};
use weft_kernel::{Namespace, fdb, gate, listeners, mdb, neighbour};
use weft_wire::{Group, Mac};

const VX: &str = "weft-vx";
const VX6: &str = "weft-vx6";

fn group() -> IpAddr {
    "239.1.2.3".parse().unwrap()
}

/// Everything that a view can ask for.
fn everything() -> View {
    let listeners = Listeners {
        router: true,
        kernel: [ipv4(2), ipv6(3)].into(),
    };
    View {
        remote: [
            (mac(1), Via::Router),
            (mac(2), Via::Kernel(ipv4(2))),
            (mac(3), Via::Kernel(ipv6(3))),
        ]
        .into(),
        neighbours: [(Ipv4Addr::new(10, 0, 0, 2), mac(2))].into(),
        groups: [(Group::new(group()).unwrap(), listeners)].into(),
        snooping: Snooping::On,
        vxlan: Some(Vxlan {
            probes: [(mac(0x42), ipv4(2)), (mac(0x43), ipv6(3))].into(),
            ..vxlan([ipv4(2), ipv6(3)])
        }),
        ..View::new(MTU)
    }
}

fn inside(test: impl FnOnce(&Namespace, &Driver) + Send) {
    let namespace = Namespace::new().unwrap();
    namespace
        .run(|| test(&namespace, &Driver::new(BRIDGE, TAP).unwrap()))
        .unwrap();
}

#[test]
fn from_nothing_to_everything_and_back() {
    inside(|namespace, driver| {
        let before = link::list().unwrap();
        settle(driver, &everything());
        let found = driver.found().unwrap();
        assert!(found.has_vxlan);
        assert_eq!(found.entries, [(mac(2), ipv4(2)), (mac(3), ipv6(3))]);
        // They are new, which counts as used.
        let used = driver.used_within(Duration::from_secs(600)).unwrap();
        assert_eq!(used, [mac(2), mac(3)]);
        // Another network, port and MTU; then other hosts; then no VXLAN at all.
        let other = |vxlan| View {
            vxlan,
            ..everything()
        };
        settle(
            driver,
            &View {
                mtu: 1300,
                ..other(Some(Vxlan {
                    data_vni: Vni::new(77).unwrap(),
                    port: 6999,
                    closed: [].into(),
                    ..vxlan([ipv4(9)])
                }))
            },
        );
        settle(
            driver,
            &other(Some(Vxlan {
                ipv6: false,
                ..vxlan([])
            })),
        );
        settle(driver, &other(None));
        assert_eq!(program(namespace, "nft list ruleset"), "");
        settle(driver, &everything());
        assert_eq!(
            driver.remove_blocking().unwrap(),
            Removed {
                bridge: true,
                tap: true,
                vxlan: 4,
                fence: true,
                chains: 0
            }
        );
        assert_eq!(driver.remove_blocking().unwrap(), Removed::default());
        assert_eq!(driver.read().unwrap(), KernelState::default());
        assert_eq!(link::list().unwrap(), before);
        assert_eq!(program(namespace, "nft list ruleset"), "");
    });
}

#[test]
fn whatever_somebody_alters_is_repaired_by_the_smallest_change() {
    inside(|_, driver| {
        let view = everything();
        settle(driver, &view);
        let flags = link::get(VX).unwrap().port.unwrap();
        let data = Device::Data(Family::V4);
        let port = Port::Vxlan(Family::V4);
        type Alteration<'a> = (
            &'a str,
            Box<dyn Fn() -> weft_kernel::Result<()> + 'a>,
            Vec<Change>,
        );
        let alterations: Vec<Alteration<'_>> = vec![
            (
                "an entry of the bridge deleted",
                Box::new(|| fdb::delete(VX, &[mac(2).0])),
                vec![Change::SetEntry(mac(2), port)],
            ),
            (
                "an entry of the bridge moved to the TAP",
                Box::new(|| fdb::replace(TAP, &[mac(2).0])),
                vec![Change::SetEntry(mac(2), port)],
            ),
            (
                "an entry of the bridge added",
                Box::new(|| fdb::replace(VX, &[mac(9).0])),
                vec![Change::RemoveEntry(mac(9), port)],
            ),
            (
                "a destination deleted",
                Box::new(|| fdb::delete_destinations(VX, &[mac(2).0])),
                vec![Change::SetDestination(data, mac(2), ipv4(2))],
            ),
            (
                "a destination altered",
                Box::new(|| fdb::set_destinations(VX, &[(mac(2).0, ipv4(200))])),
                vec![Change::SetDestination(data, mac(2), ipv4(2))],
            ),
            (
                "a destination added",
                Box::new(|| fdb::set_destinations(VX6, &[(mac(9).0, ipv6(200))])),
                vec![Change::RemoveDestination(Device::Data(Family::V6), mac(9))],
            ),
            (
                "a destination of probes deleted",
                Box::new(|| fdb::delete_destinations("weft-hb", &[mac(0x42).0])),
                vec![Change::SetDestination(
                    Device::Probe(Family::V4),
                    mac(0x42),
                    ipv4(2),
                )],
            ),
            (
                "a neighbour deleted",
                Box::new(|| neighbour::delete(BRIDGE, &[Ipv4Addr::new(10, 0, 0, 2)])),
                vec![Change::SetNeighbour(Ipv4Addr::new(10, 0, 0, 2), mac(2))],
            ),
            (
                "a neighbour altered",
                Box::new(|| neighbour::replace(BRIDGE, &[(Ipv4Addr::new(10, 0, 0, 2), mac(7).0)])),
                vec![Change::SetNeighbour(Ipv4Addr::new(10, 0, 0, 2), mac(2))],
            ),
            (
                "a neighbour added",
                Box::new(|| neighbour::replace(BRIDGE, &[(Ipv4Addr::new(10, 0, 0, 9), mac(7).0)])),
                vec![Change::RemoveNeighbour(Ipv4Addr::new(10, 0, 0, 9))],
            ),
            (
                "the gate removed",
                Box::new(|| gate::open(VX)),
                vec![Change::CloseGate(data)],
            ),
            (
                "the gate looking at another bit",
                Box::new(|| gate::close(VX, 1)),
                vec![Change::CloseGate(data)],
            ),
            (
                "flags of the port",
                Box::new(|| link::set_port_flags(VX, &PortFlags { flood: true, ..flags })),
                vec![Change::SetPortFlags(
                    port,
                    driver.read().unwrap().port(port).unwrap(),
                )],
            ),
            (
                "the device down",
                Box::new(|| link::set_down(VX)),
                vec![Change::SetVxlanUp(data, true)],
            ),
        ];
        for (what, alter, expected) in alterations {
            alter().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(settle(driver, &view), expected, "{what}");
        }
    });
}

#[test]
fn whatever_somebody_takes_away_comes_back_whole() {
    inside(|_, driver| {
        let view = everything();
        settle(driver, &view);
        let taken: [(&str, fn() -> weft_kernel::Result<()>); 11] = [
            ("a group of the bridge", || mdb::delete(BRIDGE, VX, group(), None)),
            ("a group of the TAP", || mdb::delete(BRIDGE, TAP, group(), None)),
            ("a listener", || listeners::delete(VX, group(), None, ipv4(2))),
            ("another listener", || listeners::add(VX, group(), ipv4(99))),
            ("the port", || link::set_master(VX, None)),
            ("the MTU", || link::set_mtu(VX, 1000)),
            ("the alias", || link::set_alias(VX6, "")),
            ("a device", || link::delete(VX).map(drop)),
            ("the device of probes", || link::delete("weft-hb6").map(drop)),
            ("the bridge", || link::delete(BRIDGE).map(drop)),
            ("another device in its place", || {
                link::delete(VX)?;
                let tunnel = Tunnel {
                    id: 99,
                    port: PORT,
                    keep_whole: false,
                };
                link::create_tunnel(VX, &tunnel, false, 1400)
            }),
        ];
        for (what, take) in taken {
            take().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_ne!(settle(driver, &view), [], "{what}");
        }
    });
}

#[test]
fn whatever_somebody_does_to_the_table_is_repaired() {
    inside(|namespace, driver| {
        let view = everything();
        settle(driver, &view);
        for line in [
            "nft flush ruleset",
            "nft delete table inet weft",
            "nft flush chain inet weft arriving",
            "nft flush set inet weft accepted4",
            "nft flush set inet weft sent6",
            "nft add element inet weft accepted4 { 203.0.113.1 }",
            "nft insert rule inet weft arriving accept",
            "nft add rule inet weft leaving drop",
            "nft add table inet weft { flags dormant ; }",
            "nft add chain inet weft arriving { policy drop ; }",
            "nft add chain inet weft other",
            "nft add set inet weft other { type ipv4_addr ; }",
        ] {
            program(namespace, line);
            assert!(
                matches!(
                    settle(driver, &view)[..],
                    [Change::SetFence(..)] | [Change::Accept(_)] | [Change::Refuse(_)]
                ),
                "{line}"
            );
        }
        // One source more or less is one step; what its neighbours have counted stays.
        let more = View {
            vxlan: Some(Vxlan {
                accepted: [ipv4(2), ipv4(7), ipv6(3)].into(),
                ..view.vxlan.clone().unwrap()
            }),
            ..view.clone()
        };
        assert_eq!(settle(driver, &more), [Change::Accept(ipv4(7))]);
        assert_eq!(settle(driver, &view), [Change::Refuse(ipv4(7))]);
    });
}

#[test]
fn a_watch_wakes_for_devices_entries_and_the_table() {
    inside(|namespace, driver| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let view = everything();
            driver.reconcile(&view).await.unwrap();
            let alterations: [&(dyn Fn() + Sync); 6] = [
                &|| fdb::delete(VX, &[mac(2).0]).unwrap(),
                &|| fdb::delete_destinations(VX6, &[mac(3).0]).unwrap(),
                &|| neighbour::delete(BRIDGE, &[Ipv4Addr::new(10, 0, 0, 2)]).unwrap(),
                &|| assert!(link::delete("weft-hb").unwrap()),
                &|| drop(program(namespace, "nft flush ruleset")),
                &|| drop(program(namespace, "nft flush set inet weft accepted6")),
            ];
            for alter in alterations {
                // A fresh watch, so that nothing from the set-up is left in it.
                let mut watch = Watch::open(driver).unwrap();
                alter();
                tokio::time::timeout(SOON, watch.changed())
                    .await
                    .unwrap()
                    .unwrap();
                assert_ne!(driver.reconcile(&view).await.unwrap().changes, []);
            }
        });
    });
}

#[test]
fn a_taken_port_is_said_in_words() {
    inside(|_, driver| {
        let taken = std::net::UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        let error = driver.reconcile_blocking(&everything()).unwrap_err();
        assert!(matches!(error, Error::PortTaken { port: PORT }), "{error}");
        drop(taken);
        settle(driver, &everything());
    });
}

#[test]
fn a_device_of_another_kind_is_named_and_left_alone() {
    inside(|_, driver| {
        link::create_bridge(VX, &link::BridgeAttributes::default()).unwrap();
        let error = driver.reconcile_blocking(&everything()).unwrap_err();
        assert!(
            matches!(&error, Error::WrongKind { name, .. } if name == VX),
            "{error}"
        );
        assert!(driver.remove_blocking().is_err());
        assert!(link::find(VX).unwrap().is_some());
    });
}

#[test]
fn a_destination_for_all_that_is_unknown_is_removed() {
    inside(|namespace, driver| {
        settle(driver, &everything());
        // With it, the device would send copies of what is for nobody in particular.
        program(
            namespace,
            "bridge fdb append 00:00:00:00:00:00 dev weft-vx dst 192.0.2.7 self permanent",
        );
        program(
            namespace,
            "bridge fdb append 00:00:00:00:00:00 dev weft-vx dst 192.0.2.8 self permanent",
        );
        assert_eq!(
            settle(driver, &everything()),
            [Change::RemoveDestination(Device::Data(Family::V4), Mac([0; 6]))]
        );
    });
}

/// What it took is printed, and nothing depends on it: `cargo nextest run --no-capture`.
#[test]
fn a_hundred_thousand_addresses_are_set_and_a_hundred_flip() {
    inside(|_, driver| {
        let address = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        };
        let empty = View {
            vxlan: Some(vxlan([ipv4(2)])),
            ..View::new(MTU)
        };
        settle(driver, &empty);
        let of = |count| View {
            remote: (0..count).map(|n| (address(n), Via::Kernel(ipv4(2)))).collect(),
            ..empty.clone()
        };
        let all = of(100_000);
        let mut flipped = all.clone();
        for n in 0..100 {
            flipped.remote.insert(address(n * 1000), Via::Router);
        }
        let timed = |what: &str, one: &View, other: &View| {
            let start = Instant::now();
            let changes = driver.step_blocking(one, other).unwrap().changes.len();
            println!("{what}: {changes} changes in {:?}", start.elapsed());
            changes
        };
        assert_eq!(timed("all of them set", &empty, &all), 200_000);
        assert_eq!(timed("a hundred to the TAP", &all, &flipped), 200);
        assert_eq!(timed("a hundred back", &flipped, &all), 200);
        // Reading takes the kernel time that grows with the square.
        let some = of(5_000);
        assert_eq!(timed("most of them removed", &all, &some), 190_000);
        let start = Instant::now();
        assert_eq!(driver.reconcile_blocking(&some).unwrap().changes, []);
        println!("a look at 5,000: {:?}", start.elapsed());
    });
}
