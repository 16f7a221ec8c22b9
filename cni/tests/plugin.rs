//! The plugin with real routers: containers on two hosts, and nothing left behind, whatever happens.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

mod support;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use support::{
    Container, SOON, address, call, cluster, config, delete, failure, kernel_state, result, used, verb,
};
use weft_kernel::link::VethEnd;
use weft_kernel::{DisplayMac, link};
use weft_lab::Lab;
use weft_wire::api::ClusterStatus;

#[test]
fn containers_on_two_hosts_talk_and_leave_no_trace() {
    let lab = Lab::new("cni-talk").unwrap();
    let (_switch, routers) = cluster(&lab, &["a", "b"]);
    let hosts = [routers[0].host(), routers[1].host()];
    let before = hosts.map(kernel_state);
    let dns = json!({"dns": {"nameservers": ["10.32.0.1"], "search": ["pods"]}});
    let containers = hosts.map(|_| Container::new("0a1b2c"));

    let mut stations = Vec::new();
    for (host, container) in hosts.into_iter().zip(&containers) {
        let config = config(host, &dns);
        let added = result(&verb(host, "ADD", container, &config));
        // The result is what the kernel says.
        let inside = container.netns.run(|| link::get("eth0")).unwrap().unwrap();
        let name = added["interfaces"][1]["name"].as_str().unwrap();
        let outside = host.namespace().run(|| link::get(name)).unwrap().unwrap();
        let bridge = host.namespace().run(|| link::get("weft")).unwrap().unwrap();
        let mac = |link: &link::Link| DisplayMac(link.mac.unwrap()).to_string();
        assert_eq!(
            added,
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": "weft", "mac": mac(&bridge)},
                    {"name": name, "mac": mac(&outside)},
                    {"name": "eth0", "mac": mac(&inside), "sandbox": container.path()},
                ],
                "ips": [{"address": format!("{}/12", address(&added)), "interface": 2}],
                "routes": [{"dst": "224.0.0.0/4"}],
                "dns": dns["dns"],
            })
        );
        assert_eq!(outside.master, Some(bridge.index));
        let id = "cni/weft/0a1b2c/eth0".to_owned();
        assert_eq!(used(host), [(address(&added), id)]);
        // Once more changes nothing.
        let (links, once) = (kernel_state(host), added.clone());
        assert_eq!(result(&verb(host, "ADD", container, &config)), once);
        assert_eq!(kernel_state(host), links);
        stations.push(container.station(host, &added));
    }
    let to = stations[1].address().unwrap();
    stations[0].ping_until(to, SOON).unwrap();
    assert_eq!(stations[0].ping(to, 5).unwrap().lost(), 0);

    for (host, container) in hosts.into_iter().zip(&containers) {
        // A runtime calls it twice.
        delete(host, container);
        assert_eq!(used(host), []);
        assert_eq!(container.interfaces(), ["lo"]);
        delete(host, container);
    }
    assert_eq!(hosts.map(kernel_state), before);
}

#[test]
fn every_listed_version_gets_its_own_shape() {
    let lab = Lab::new("cni-versions").unwrap();
    let (_switch, routers) = cluster(&lab, &["a"]);
    let host = routers[0].host();
    let listed = result(&call(
        host,
        &[("CNI_COMMAND", "VERSION")],
        r#"{"cniVersion":"0.4.0"}"#,
    ));
    assert_eq!(listed["cniVersion"], "0.4.0");
    let supported = listed["supportedVersions"].as_array().unwrap();
    assert_eq!(supported.len(), 6);
    for (number, version) in supported.iter().enumerate() {
        let container = Container {
            ifname: "net1".into(),
            ..Container::new(&format!("container-{number}"))
        };
        let added = result(&verb(
            host,
            "ADD",
            &container,
            &config(host, &json!({"cniVersion": version})),
        ));
        assert_eq!(&added["cniVersion"], version);
        let place = if number < 2 {
            &added["ip4"]["ip"]
        } else {
            &added["ips"][0]["address"]
        };
        assert!(place.as_str().unwrap().ends_with("/12"), "{added}");
        assert_eq!(added["ips"][0].get("version").is_some(), (2..5).contains(&number));
        delete(host, &container);
    }
    // An empty input is enough, and so is a version that is not spoken: that is what is asked.
    for (input, version) in [("", "1.0.0"), (r#"{"cniVersion":"1.1.0"}"#, "1.1.0")] {
        let listed = result(&call(host, &[("CNI_COMMAND", "VERSION")], input));
        assert_eq!(listed["cniVersion"], version);
        assert_eq!(listed["supportedVersions"].as_array(), Some(supported));
    }
    let container = Container::new("newer");
    let newer = verb(
        host,
        "ADD",
        &container,
        &config(host, &json!({"cniVersion": "1.1.0"})),
    );
    assert_eq!(failure(&newer).0, 1);
    assert_eq!(used(host), []);
}

#[test]
fn a_router_that_is_away_is_a_reason_to_come_back() {
    let lab = Lab::new("cni-away").unwrap();
    let (_switch, routers) = cluster(&lab, &["a"]);
    let (router, host) = (&routers[0], routers[0].host());
    let container = Container::new("one");
    let plain = config(host, &json!({}));
    let added = result(&verb(host, "ADD", &container, &plain));
    router.kill().unwrap();
    let with_one = kernel_state(host);

    // Nothing is begun.
    let other = Container::new("two");
    let (code, message) = failure(&verb(host, "ADD", &other, &plain));
    assert_eq!(code, 11);
    assert!(message.contains(host.socket().to_str().unwrap()), "{message}");
    assert_eq!(kernel_state(host), with_one);
    assert_eq!(other.interfaces(), ["lo"]);

    // The interface goes; the address would leak, so the runtime is told to come back.
    for _ in 0..2 {
        assert_eq!(failure(&verb(host, "DEL", &container, &plain)).0, 11);
        assert_eq!(container.interfaces(), ["lo"]);
    }
    router.restart().unwrap();
    router.wait_ready(SOON).unwrap();
    assert_eq!(used(host), [(address(&added), "cni/weft/one/eth0".into())]);
    delete(host, &container);
    assert_eq!(used(host), []);
}

#[test]
fn a_host_without_addresses_is_a_reason_to_come_back() {
    let lab = Lab::new("cni-early").unwrap();
    let (switch, routers) = cluster(&lab, &["a"]);
    let token = lab.secret_file("token", &routers[0].token().unwrap()).unwrap();
    let host = lab.host("b").on(&switch).build().unwrap();
    // Nobody answers there, so it waits to be admitted.
    let early = host
        .up(["--peer", "192.0.2.99", "--token-file", token.to_str().unwrap()])
        .unwrap();
    early
        .wait_until("it waits", SOON, |status| {
            status.cluster == ClusterStatus::AwaitingAdmission
        })
        .unwrap();
    let container = Container::new("one");
    let before = kernel_state(&host);
    let (code, message) = failure(&verb(&host, "ADD", &container, &config(&host, &json!({}))));
    assert_eq!(code, 11);
    assert!(message.contains("no cluster yet"), "{message}");
    assert_eq!(kernel_state(&host), before);
    delete(&host, &container);
}

#[test]
fn what_fails_half_way_is_undone() {
    let lab = Lab::new("cni-undo").unwrap();
    let (_switch, routers) = cluster(&lab, &["a"]);
    let host = routers[0].host();
    let before = kernel_state(host);
    let plain = config(host, &json!({}));
    let refused = |container: &Container, config: &Value, code: u64, word: &str| {
        let (found, message) = failure(&verb(host, "ADD", container, config));
        assert!(found == code && message.contains(word), "{found} {message}");
        assert_eq!(used(host), []);
        assert_eq!(kernel_state(host), before);
    };

    // The kernel is asked after the router, so the address has to be given back.
    let taken = Container::new("taken");
    let make = || link::create_veth(&VethEnd::here("eth0"), &VethEnd::here("other"));
    taken.netns.run(make).unwrap().unwrap();
    refused(&taken, &plain, 101, "eth0");
    let pod = Container::new("pod");
    refused(&pod, &config(host, &json!({"mtu": 9000})), 7, "9000");
    refused(
        &pod,
        &config(host, &json!({"ipam": {"type": "host-local"}})),
        2,
        "host-local",
    );
    refused(
        &pod,
        &config(host, &json!({"prevResult": {"ips": []}})),
        2,
        "prevResult",
    );
    assert_eq!(pod.interfaces(), ["lo"]);
    let own = Container {
        netns: host.namespace().clone(),
        ..Container::new("own")
    };
    refused(&own, &plain, 4, "CNI_NETNS");
    for netns in ["/run/netns/there-is-none", "/proc/self/exe", "/"] {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "gone"),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", "eth0"),
        ];
        let (code, message) = failure(&call(host, &variables, &plain.to_string()));
        assert!(code == 4 && message.contains(netns), "{code} {message}");
    }

    // What was attached before stays, with its address.
    let first = result(&verb(host, "ADD", &pod, &plain));
    let attached = kernel_state(host);
    let elsewhere = Container::new("pod");
    assert_eq!(failure(&verb(host, "ADD", &elsewhere, &plain)).0, 101);
    let path = pod.path();
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "pod"),
        ("CNI_NETNS", path.as_str()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IP=10.32.9.9"),
    ];
    assert_eq!(failure(&call(host, &variables, &plain.to_string())).0, 101);
    assert_eq!(used(host), [(address(&first), "cni/weft/pod/eth0".into())]);
    assert_eq!(kernel_state(host), attached);
    assert_eq!(elsewhere.interfaces(), ["lo"]);

    // A namespace that is gone takes the interface with it, and leaves the address.
    drop(pod);
    let variables = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "pod"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", "eth0"),
    ];
    let output = call(host, &variables, &plain.to_string());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(used(host), []);
}

#[test]
fn an_address_can_be_asked_for() {
    let lab = Lab::new("cni-address").unwrap();
    let (_switch, routers) = cluster(&lab, &["a"]);
    let host = routers[0].host();
    let plain = config(host, &json!({"mtu": 1300})).to_string();
    let ask = |container: &Container, args: &str| {
        let path = container.path();
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", container.id.as_str()),
            ("CNI_NETNS", path.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
        ];
        call(host, &variables, &plain)
    };
    let (one, two) = (Container::new("one"), Container::new("two"));
    let added = result(&ask(&one, "IgnoreUnknown=1;IP=10.32.9.9"));
    assert_eq!(address(&added).to_string(), "10.32.9.9");
    let inside = one.netns.run(|| link::get("eth0")).unwrap().unwrap();
    assert_eq!(inside.mtu, 1300);
    // It is not to be had again, and trying again would not help.
    let (code, message) = failure(&ask(&two, "IP=10.32.9.9"));
    assert!(code == 102 && message.contains("10.32.9.9"), "{code} {message}");
    let (code, message) = failure(&ask(&two, "IP=192.0.2.1"));
    assert!(code == 7 && message.contains("192.0.2.1"), "{code} {message}");
    // A subnet that no pod of this cluster can be in is the configuration's fault, and no reason to try again.
    let (code, message) = failure(&ask(&two, "IP=192.0.2.1/24"));
    assert!(code == 7 && message.contains("192.0.2.0/24"), "{code} {message}");
    assert_eq!(used(host).len(), 1);
    delete(host, &one);
}

#[test]
fn bad_input_gets_an_error_object_and_nothing_else() {
    let lab = Lab::new("cni-input").unwrap();
    let switch = lab.switch().unwrap();
    let host = lab.host("a").on(&switch).build().unwrap();
    let before = kernel_state(&host);
    let container = Container::new("one");
    let path = container.path();
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "one"),
        ("CNI_NETNS", path.as_str()),
        ("CNI_IFNAME", "eth0"),
    ];
    let long = format!("{{\"name\":\"a\",\"x\":\"{}\"}}", "x".repeat(2 << 20));
    let deep = "[".repeat(500_000);
    for (input, code) in [
        ("", 7),
        ("{", 6),
        (deep.as_str(), 6),
        ("\u{0}\u{fffd}", 6),
        ("[]", 7),
        ("{}", 7),
        (r#"{"name":"../weft"}"#, 7),
        (r#"{"cniVersion":"9.9.9","name":"a"}"#, 1),
        (long.as_str(), 7),
    ] {
        let start: String = input.chars().take(40).collect();
        assert_eq!(failure(&call(&host, &variables, input)).0, code, "{start}");
    }
    for verb in ["CHECK", "GC", "STATUS", "add", ""] {
        let (code, message) = failure(&call(&host, &[("CNI_COMMAND", verb)], r#"{"name":"a"}"#));
        assert!(code == 4 && message.contains("CNI_COMMAND"), "{message}");
    }
    // A person gets help, not on the stream of results.
    let help = call(&host, &[], "");
    assert!(help.status.success() && help.stdout.is_empty(), "{help:?}");
    assert!(help.stderr.contains("\"type\": \"weft-cni\""));
    assert_eq!(kernel_state(&host), before);
    assert_eq!(container.interfaces(), ["lo"]);
}

#[test]
fn what_a_router_may_have_done_before_it_broke_off_is_undone() {
    let lab = Lab::new("cni-break").unwrap();
    let switch = lab.switch().unwrap();
    let host = lab.host("a").on(&switch).build().unwrap();
    // It takes a question and closes the connection, as a router does that is killed in between.
    let listener = UnixListener::bind(host.socket()).unwrap();
    let server = thread::spawn(move || {
        let mut asked = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = listener.accept().unwrap().0.read(&mut piece).unwrap();
            let text = String::from_utf8_lossy(&piece[..count]).into_owned();
            match text.split_once(" HTTP/1.1") {
                Some((question, _)) => asked.push(question.to_owned()),
                None => return asked,
            }
        }
    });
    let container = Container::new("one");
    let added = verb(&host, "ADD", &container, &config(&host, &json!({})));
    UnixStream::connect(host.socket())
        .unwrap()
        .write_all(b"end")
        .unwrap();
    assert_eq!(server.join().unwrap(), ["POST /v1/pods", "POST /v1/pods/free"]);
    assert_eq!(failure(&added).0, 11);
    assert!(
        added.stdout.contains("weft ipam free cni/weft/one/eth0"),
        "{added:?}"
    );
    assert_eq!(container.interfaces(), ["lo"]);
}
