//! An ordinary user becomes root of a user namespace and builds a network in it.
//!
//! Only a process with one thread can enter a user namespace, and the usual test harness starts a
//! thread for each test. So this file has a `main` of its own, which speaks as much of the harness's
//! command line as test runners use.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use weft_kernel::attach::{AttachRequest, attach, detach};
use weft_kernel::capture::Capture;
use weft_kernel::link::{self, BridgeAttributes, VethEnd};
use weft_kernel::{Namespace, addr, userns};

const NAME: &str = "an_ordinary_user_becomes_root_of_its_own_network";
/// Set in the copy of this program that runs as an ordinary user.
const ROLE: &str = "WEFT_TEST_ROLE";
/// `nobody`.
const USER: u32 = 65_534;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if std::env::var_os(ROLE).is_some() {
        ordinary_user();
    } else if has("--list") {
        if !has("--ignored") {
            println!("{NAME}: test");
        }
    } else if !has("--ignored")
        && arguments
            .iter()
            .all(|a| a.starts_with('-') || NAME.contains(a.as_str()))
    {
        start_as_ordinary_user();
        println!("test {NAME} ... ok");
    }
}

fn start_as_ordinary_user() {
    assert!(
        userns::is_root(),
        "this test starts a copy of itself as another user, and needs root for that"
    );
    // By this link the copy starts even where its user cannot search the path to it.
    let status = Command::new("/proc/self/exe")
        .env(ROLE, "child")
        .uid(USER)
        .gid(USER)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn ordinary_user() {
    assert!(!userns::is_root() && !userns::has_cap_net_admin());
    userns::enter_user_namespace().unwrap();
    assert!(userns::is_root() && userns::has_cap_net_admin());
    let error = link::create_veth(&VethEnd::here("weft-a"), &VethEnd::here("weft-b"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("weft-a") && error.contains("CAP_NET_ADMIN"),
        "the system's network is not ours: {error}"
    );

    let (host, pod) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let request = AttachRequest {
        pod_netns: &pod,
        bridge: "br",
        id: "web-1",
        ifname: "eth0",
        mac: [2, 0, 0, 0, 0, 1],
        address: "10.0.0.1/24".parse().unwrap(),
        further: &[],
        mtu: 1400,
        gateway: None,
    };
    host.run(|| {
        link::create_bridge("br", &BridgeAttributes::default()).unwrap();
        link::set_up("br").unwrap();
        addr::add("br", "10.0.0.2/24".parse().unwrap()).unwrap();
        attach(&request).unwrap();
    })
    .unwrap();
    let mut capture = host.run(|| Capture::open("br", 1 << 20)).unwrap().unwrap();
    let socket = pod.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    socket.send_to(b"seen by an ordinary user", "10.0.0.2:9").unwrap();
    while !capture
        .next_frame(Duration::from_secs(10))
        .unwrap()
        .unwrap()
        .data
        .ends_with(b"by an ordinary user")
    {}
    assert!(host.run(|| detach("web-1")).unwrap().unwrap());
}
