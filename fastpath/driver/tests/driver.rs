//! The driver against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::UdpSocket;
use std::time::Duration;

use weft_fastpath::{Change, KernelState, Port, Via, View, desired};
use weft_fastpath_driver::{Driver, Error, Removed, Watch};
use weft_kernel::capture::Capture;
use weft_kernel::link::{self, PortFlags, VethEnd};
use weft_kernel::tap::{Tap, TapOptions};
use weft_kernel::{Namespace, fdb};
use weft_wire::Mac;

const BRIDGE: &str = "weft-br";
const TAP: &str = "weft-tap";
/// What is awaited comes within milliseconds.
const SOON: Duration = Duration::from_secs(10);

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn view(macs: impl IntoIterator<Item = u8>) -> View {
    View {
        remote: macs.into_iter().map(|last| (mac(last), Via::Router)).collect(),
        ..View::new(1390)
    }
}

fn inside(test: impl FnOnce(&Driver) + Send) {
    Namespace::new()
        .unwrap()
        .run(|| test(&Driver::new(BRIDGE, TAP).unwrap()))
        .unwrap();
}

/// Reconciles, and makes sure that the kernel then is as desired and stays so.
fn settle(driver: &Driver, view: &View) -> Vec<Change> {
    let report = driver.reconcile_blocking(view).unwrap();
    assert_eq!(driver.read().unwrap(), desired(view));
    assert_eq!(driver.reconcile_blocking(view).unwrap().changes, []);
    report.changes
}

#[test]
fn from_nothing_to_the_desired_state_and_back() {
    inside(|driver| {
        let before = link::list().unwrap();
        assert_eq!(driver.read().unwrap(), KernelState::default());
        settle(driver, &view([1, 2, 3]));
        assert_eq!(
            settle(driver, &view([2, 3, 4])),
            [
                Change::SetEntry(mac(4), Port::Tap),
                Change::RemoveEntry(mac(1), Port::Tap)
            ]
        );
        settle(
            driver,
            &View {
                mtu: 1500,
                ..view([2])
            },
        );
        settle(
            driver,
            &View {
                mtu: 1300,
                ..view([])
            },
        );
        assert_eq!(
            driver.remove_blocking().unwrap(),
            Removed {
                bridge: true,
                tap: true,
                ..Removed::default()
            }
        );
        assert_eq!(driver.remove_blocking().unwrap(), Removed::default());
        assert_eq!(link::list().unwrap(), before);
    });
}

#[test]
fn whatever_somebody_changes_is_repaired() {
    inside(|driver| {
        let view = view([1, 2]);
        settle(driver, &view);
        let wanted = link::get(TAP).unwrap().port.unwrap();

        fdb::delete(TAP, &[mac(1).0]).unwrap();
        assert_eq!(settle(driver, &view), [Change::SetEntry(mac(1), Port::Tap)]);

        fdb::replace(TAP, &[mac(9).0]).unwrap();
        assert_eq!(settle(driver, &view), [Change::RemoveEntry(mac(9), Port::Tap)]);

        link::set_port_flags(
            TAP,
            &PortFlags {
                isolated: false,
                ..wanted
            },
        )
        .unwrap();
        assert!(
            matches!(settle(driver, &view)[..], [Change::SetPortFlags(Port::Tap, flags)] if flags.isolated)
        );

        link::set_down(TAP).unwrap();
        assert_eq!(settle(driver, &view), [Change::SetTapUp(true)]);

        link::set_mtu(BRIDGE, 1300).unwrap();
        link::set_ipv6(BRIDGE, true).unwrap();
        assert!(matches!(settle(driver, &view)[..], [Change::SetBridge(_)]));

        // Leaving takes flags and entries along.
        link::set_master(TAP, None).unwrap();
        let changes = settle(driver, &view);
        assert_eq!(changes.first(), Some(&Change::Join(Port::Tap)));
        assert!(
            changes.contains(&Change::SetEntry(mac(1), Port::Tap))
                && changes.contains(&Change::SetEntry(mac(2), Port::Tap))
        );

        link::delete(BRIDGE).unwrap();
        settle(driver, &view);
        link::delete(TAP).unwrap();
        settle(driver, &view);
    });
}

#[test]
fn a_remote_address_cannot_be_taken_over_by_a_pod() {
    inside(|driver| {
        let view = view([1]);
        settle(driver, &view);
        let pod = Namespace::new().unwrap();
        link::create_veth(
            &VethEnd::here("pod"),
            &VethEnd::inside("eth0", &pod).mac(mac(1).0),
        )
        .unwrap();
        link::set_master("pod", Some(BRIDGE)).unwrap();
        link::set_up("pod").unwrap();
        // What the bridge floods reaches the TAP after the bridge has looked at its source.
        let _router = Tap::open(TAP, &TapOptions::default()).unwrap();
        assert!(link::wait_forwarding(TAP, SOON).unwrap());
        let mut seen = Capture::open(TAP, 1).unwrap();
        pod.run(|| {
            weft_kernel::addr::add("eth0", "10.0.0.1/24".parse().unwrap()).unwrap();
            link::set_up("eth0").unwrap();
        })
        .unwrap();
        assert!(link::wait_forwarding("pod", SOON).unwrap());
        pod.run(|| {
            let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"forged", "10.0.0.255:9").unwrap();
        })
        .unwrap();
        while !seen.next_frame(SOON).unwrap().unwrap().data.ends_with(b"forged") {}
        assert_eq!(driver.read().unwrap(), desired(&view));

        // An address that a pod used first is taken back.
        link::set_port_flags(
            TAP,
            &PortFlags {
                isolated: true,
                ..PortFlags::default()
            },
        )
        .unwrap();
        fdb::replace("pod", &[mac(2).0]).unwrap();
        let both = View {
            remote: [(mac(1), Via::Router), (mac(2), Via::Router)].into(),
            ..view
        };
        assert!(settle(driver, &both).contains(&Change::SetEntry(mac(2), Port::Tap)));
    });
}

#[test]
fn port_and_entries_survive_the_process_that_holds_the_tap() {
    inside(|driver| {
        let view = view([1]);
        settle(driver, &view);
        let held = Tap::open(TAP, &TapOptions::default()).unwrap();
        assert_eq!(driver.reconcile_blocking(&view).unwrap().changes, []);
        settle(
            driver,
            &View {
                mtu: 1200,
                ..view.clone()
            },
        );
        settle(driver, &view);
        drop(held);
        assert_eq!(driver.reconcile_blocking(&view).unwrap().changes, []);
    });
}

#[test]
fn a_foreign_device_is_named_and_left_alone() {
    inside(|driver| {
        link::create_veth(&VethEnd::here(BRIDGE), &VethEnd::here("other")).unwrap();
        let error = driver.reconcile_blocking(&view([])).unwrap_err();
        assert!(
            matches!(&error, Error::WrongKind { name, .. } if name == BRIDGE),
            "{error}"
        );
        assert!(driver.remove_blocking().is_err());
        assert!(link::find(BRIDGE).unwrap().is_some());
        link::delete(BRIDGE).unwrap();
        link::create_veth(&VethEnd::here(TAP), &VethEnd::here("other")).unwrap();
        let error = driver.reconcile_blocking(&view([])).unwrap_err();
        assert!(
            matches!(&error, Error::WrongKind { name, .. } if name == TAP),
            "{error}"
        );
        assert!(Driver::new("a name with spaces", TAP).is_err());
    });
}

#[test]
fn ten_thousand_addresses_are_set_and_removed() {
    inside(|driver| {
        let macs = (0..10_000_u32).map(|n| {
            let [a, b, c, d] = n.to_be_bytes();
            (Mac([2, 0, a, b, c, d]), Via::Router)
        });
        let many = View {
            remote: macs.collect(),
            ..view([])
        };
        settle(driver, &many);
        settle(driver, &view([]));
    });
}

#[test]
fn a_watch_wakes_for_what_is_ours() {
    inside(|driver| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut watch = Watch::open(driver).unwrap();
            driver.reconcile(&view([1])).await.unwrap();
            tokio::time::timeout(SOON, watch.changed())
                .await
                .unwrap()
                .unwrap();

            // A fresh watch, so that nothing from the set-up is left in it.
            for change in [
                (|| fdb::delete(TAP, &[mac(1).0])) as fn() -> weft_kernel::Result<()>,
                || link::set_port_flags(TAP, &PortFlags::default()),
                || link::set_mtu(BRIDGE, 1000),
                || link::delete(BRIDGE).map(drop),
            ] {
                let mut watch = Watch::open(driver).unwrap();
                change().unwrap();
                tokio::time::timeout(SOON, watch.changed())
                    .await
                    .unwrap()
                    .unwrap();
                assert_ne!(driver.reconcile(&view([1])).await.unwrap().changes, []);
            }
        });
    });
}
