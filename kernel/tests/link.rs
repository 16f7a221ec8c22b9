//! Links, addresses and the forwarding database, each test in namespaces of its own.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use weft_kernel::link::{self, BridgeAttributes, MulticastRouter, PortFlags, VethEnd};
use weft_kernel::{Error, Namespace, addr, fdb, route, sysctl, tap};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn tcp_crosses_a_veth_between_two_namespaces() {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    assert_ne!(a, b);
    link::create_veth(
        &VethEnd::inside("eth0", &a).mac(MAC).mtu(1400),
        &VethEnd::inside("eth0", &b),
    )
    .unwrap();
    for (namespace, address) in [(&a, "10.9.0.1/24"), (&b, "10.9.0.2/24")] {
        namespace
            .run(|| {
                addr::add("eth0", address.parse().unwrap())?;
                link::set_up("eth0")
            })
            .unwrap()
            .unwrap();
    }
    let end = a.run(|| link::get("eth0")).unwrap().unwrap();
    assert_eq!(
        (end.mac, end.mtu, end.up, end.kind.as_deref()),
        (Some(MAC), 1400, true, Some("veth"))
    );
    assert!(end.peer_namespace.is_some());
    let listener = b.run(|| TcpListener::bind("10.9.0.2:0")).unwrap().unwrap();
    let server = listener.local_addr().unwrap();
    let answer = b
        .spawn_thread("server", move || {
            let (mut stream, client) = listener.accept().unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            (text, client.ip().to_string())
        })
        .unwrap();
    a.run(|| {
        TcpStream::connect_timeout(&server, Duration::from_secs(5))
            .unwrap()
            .write_all(b"hello")
    })
    .unwrap()
    .unwrap();
    assert_eq!(
        answer.join().unwrap(),
        ("hello".to_owned(), "10.9.0.1".to_owned())
    );
}

#[test]
fn the_changes_of_a_link_are_read_back() {
    inside(|| {
        link::create_veth(&VethEnd::here("one"), &VethEnd::here("two"))?;
        link::create_bridge("br", &BridgeAttributes::default())?;
        link::create_bridge("br", &BridgeAttributes::default())?;
        link::set_master("one", Some("br"))?;
        link::set_mtu("one", 1300)?;
        link::set_alias("one", "up:link 1")?;
        link::set_up("one")?;
        link::set_mac("one", MAC)?;
        let one = link::get("one")?;
        assert_eq!(
            (one.mtu, one.alias.as_deref(), one.up, one.mac),
            (1300, Some("up:link 1"), true, Some(MAC))
        );
        assert_eq!(one.master, Some(link::get("br")?.index));
        assert!(!one.carrier, "its other end is down");
        link::set_up("two")?;
        assert!(link::get("one")?.carrier);
        link::set_down("one")?;
        link::rename("one", "uno")?;
        link::set_master("uno", None)?;
        link::set_alias("uno", "")?;
        let uno = link::get("uno")?;
        assert_eq!(
            (uno.up, uno.master, uno.alias, uno.index),
            (false, None, None, one.index)
        );
        assert!(link::delete("uno")?);
        assert!(!link::delete("two")?, "it went with its other end");
        assert!(
            link::list()?
                .iter()
                .all(|link| link.kind.as_deref() != Some("veth"))
        );
        Ok(())
    });
}

#[test]
fn bridge_and_port_attributes_are_read_back() {
    inside(|| {
        let attributes = BridgeAttributes {
            ageing: Duration::from_secs(60),
            ..BridgeAttributes::default()
        };
        link::create_bridge("br", &attributes)?;
        assert_eq!(link::get("br")?.bridge, Some(attributes));
        let error = link::create_bridge("br", &BridgeAttributes::default()).unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        link::create_veth(&VethEnd::here("port"), &VethEnd::here("far"))?;
        assert!(
            link::set_port_flags("port", &PortFlags::default()).is_err(),
            "not a port yet"
        );
        link::set_master("port", Some("br"))?;
        assert_eq!(link::get("port")?.port, Some(PortFlags::default()));
        let flags = PortFlags {
            learning: false,
            isolated: true,
            flood: false,
            bcast_flood: false,
            mcast_flood: false,
            mcast_router: MulticastRouter::Never,
            neigh_suppress: true,
            hairpin: true,
        };
        link::set_port_flags("port", &flags)?;
        assert_eq!(link::get("port")?.port, Some(flags));
        Ok(())
    });
}

#[test]
fn addresses_and_routes_are_added_once() {
    inside(|| {
        link::create_veth(&VethEnd::here("one"), &VethEnd::here("two"))?;
        link::set_up("one")?;
        link::set_up("two")?;
        for address in ["10.1.0.1/24", "fd00::1/64"] {
            addr::add("one", address.parse().unwrap())?;
            addr::add("one", address.parse().unwrap())?;
            let found = addr::list("one")?
                .into_iter()
                .find(|a| a.address.to_string() == address)
                .unwrap();
            assert!(!found.tentative, "{address} is usable at once");
        }
        let error = addr::add("one", "fd00::1/80".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("fd00::1/64") && error.contains("fd00::1/80"),
            "{error}"
        );
        for gateway in ["10.1.0.254", "fd00::fe"] {
            route::add_default("one", gateway.parse().unwrap())?;
            route::add_default("one", gateway.parse().unwrap())?;
        }
        let error = route::add_default("one", "10.1.0.253".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("10.1.0.254") && error.contains("10.1.0.253"),
            "{error}"
        );
        route::add("two", "192.0.2.0/24".parse().unwrap(), None)?;
        route::add("two", "192.0.2.0/24".parse().unwrap(), None)?;
        let routes = route::list()?;
        assert_eq!(routes.iter().filter(|r| r.is_default()).count(), 2);
        assert_eq!(
            routes
                .iter()
                .filter(|r| r.destination.to_string() == "192.0.2.0/24")
                .count(),
            1
        );
        assert!(addr::remove("one", "10.1.0.1/24".parse().unwrap())?);
        assert!(!addr::remove("one", "10.1.0.1/24".parse().unwrap())?);
        Ok(())
    });
}

#[test]
fn forwarding_entries_are_static_sticky_and_single() {
    inside(|| {
        link::create_bridge("br", &BridgeAttributes::default())?;
        for (port, far) in [("p1", "f1"), ("p2", "f2")] {
            link::create_veth(&VethEnd::here(port), &VethEnd::here(far))?;
            link::set_master(port, Some("br"))?;
        }
        let entry = || -> Result<Vec<fdb::Entry>, Error> {
            Ok(fdb::dump("br")?
                .into_iter()
                .filter(|entry| entry.mac == MAC)
                .collect())
        };
        for port in ["p1", "p1", "p2"] {
            fdb::replace(port, &[MAC])?;
            let expected = fdb::Entry {
                mac: MAC,
                port: link::get(port)?.index,
                kind: fdb::EntryKind::Sticky,
                vlan: None,
            };
            assert_eq!(entry()?, [expected]);
        }
        fdb::delete("p1", &[MAC])?;
        assert_eq!(entry()?.len(), 1, "p2 leads there, not p1");
        fdb::delete("p2", &[MAC])?;
        fdb::delete("p2", &[MAC])?;
        assert_eq!(entry()?, []);
        let own = link::get("p1")?.mac.unwrap();
        assert!(
            fdb::dump("br")?
                .iter()
                .any(|e| e.mac == own && e.kind == fdb::EntryKind::Local)
        );
        let error = fdb::replace("f1", &[MAC]).unwrap_err().to_string();
        assert!(error.contains("make f1 the way to 02:00:00:00:00:09"), "{error}");
        Ok(())
    });
}

#[test]
fn a_persistent_tap_stays_until_told_otherwise() {
    inside(|| {
        tap::check_tun_device()?;
        tap::create_persistent("tap-x")?;
        tap::create_persistent("tap-x")?;
        let found = link::get("tap-x")?;
        assert_eq!((found.persistent, found.carrier), (Some(true), false));
        let open = tap::Tap::open(
            "tap-x",
            &tap::TapOptions {
                queue_length: Some(77),
                ..Default::default()
            },
        )?;
        link::set_up("tap-x")?;
        assert!(link::get("tap-x")?.carrier);
        tap::create_persistent("tap-x")?;
        let busy = tap::Tap::open("tap-x", &tap::TapOptions::default()).unwrap_err();
        assert!(busy.to_string().contains("tap-x"), "{busy}");
        tap::set_persistent(&open, false)?;
        assert_eq!(link::get("tap-x")?.persistent, Some(false));
        drop(open);
        assert_eq!(link::find("tap-x")?, None);
        let error = tap::create_persistent("lo").unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        Ok(())
    });
}

#[test]
fn errors_name_what_and_where() {
    inside(|| {
        assert!(matches!(link::set_up("nope"), Err(Error::NoSuchLink { name }) if name == "nope"));
        assert!(matches!(
            link::get("a-name-too-long-for-it"),
            Err(Error::Invalid { .. })
        ));
        assert!(matches!(
            link::set_alias("lo", &"x".repeat(255)),
            Err(Error::Invalid { .. })
        ));
        let error = link::set_mtu("lo", u32::MAX).unwrap_err().to_string();
        assert!(error.contains("lo") && error.contains("4294967295"), "{error}");
        Ok(())
    });
}

#[test]
fn ipv6_and_sysctl_belong_to_the_namespace() {
    inside(|| {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        assert_eq!(sysctl::get("net/ipv4/ip_forward")?, "1");
        link::set_ipv6("lo", false)?;
        assert!(!sysctl::ipv6_enabled("lo")?);
        link::set_ipv6("lo", true)?;
        assert!(sysctl::ipv6_enabled("lo")?);
        Ok(())
    });
    inside(|| {
        assert_eq!(sysctl::get("net/ipv4/ip_forward")?, "0");
        Ok(())
    });
}

fn inside(test: impl FnOnce() -> Result<(), Error> + Send) {
    Namespace::new().unwrap().run(test).unwrap().unwrap();
}
