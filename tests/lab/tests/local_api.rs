//! The local API and `--json`: what they say is what the published schema says, and only root changes anything.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Gid, Uid};
use weft_lab::{Api, Host, Lab, Router, Schema, Switch};
use weft_wire::api::{ClusterStatus, IpamStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// A request that waits for an address is refused after this.
const ALLOCATE_DEADLINE: Duration = Duration::from_secs(10);
/// An id that is nobody's, and one that is no group's: whoever runs the test is not them.
const NOBODY: u32 = 65_534;
const GROUP: u32 = 54_321;

fn founder(lab: &Lab, switch: &Switch) -> Router {
    let host = lab.host("a").on(switch).build().unwrap();
    let router = host.up(["--found"]).unwrap();
    let member = |status: &Status| matches!(status.cluster, ClusterStatus::Member { .. });
    router.wait_until("it is a member", SOON, member).unwrap();
    router
}

fn joiner(lab: &Lab, switch: &Switch, founder: &Router) -> Router {
    let host = lab.host("b").on(switch).build().unwrap();
    let peer = founder.host().address().unwrap().to_string();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    let router = host
        .up(["--peer", &peer, "--token-file", token.to_str().unwrap()])
        .unwrap();
    router.wait_for_peers(1, SOON).unwrap();
    router
}

/// What a command prints with `--json`.
fn json(host: &Host, arguments: &[&str]) -> String {
    let socket = host.socket().display().to_string();
    let all = arguments.iter().copied().chain(["--json", "--socket", &socket]);
    let output = host.weft(all).unwrap().success().unwrap();
    // Nothing moves where nobody looks.
    assert_eq!(output.stderr, "", "{}", output.command);
    output.stdout
}

#[test]
fn every_answer_is_as_the_schema_says() {
    let schema = Schema::published().unwrap();
    let lab = Lab::new("schema").unwrap();
    let switch = lab.switch().unwrap();
    let first = founder(&lab, &switch);
    let second = joiner(&lab, &switch, &first);
    let host = first.host();

    let pod = host.pod_any("web").unwrap();
    let path = pod.namespace().path().display().to_string();
    let address = pod.address().unwrap().to_string();
    let mut api = Api::connect(host).unwrap();
    let place = format!("/v1/addresses/{address}");
    for (call, body, answer) in [
        ("POST /v1/connect", r#"{"target":"192.0.2.99"}"#, "Target"),
        ("GET /v1/status", "", "Status"),
        ("POST /v1/forget", r#"{"target":"192.0.2.99"}"#, "Target"),
        ("POST /v1/pods", r#"{"id":"db"}"#, "PodPlan"),
        ("GET /v1/pods/db", "", "PodAddresses"),
        (&format!("GET {place}"), "", "AddressPlace"),
        ("GET /v1/ipam", "", "IpamStatus"),
        ("POST /v1/pods/free", r#"{"id":"db"}"#, "PodAddresses"),
    ] {
        let (method, path) = call.split_once(' ').unwrap();
        let (status, text) = api.raw(method, path, body).unwrap();
        assert_eq!(status, 200, "{call}: {text}");
        schema.check(answer, &text).unwrap();
    }
    for (call, body, expected) in [
        ("POST /v1/pods", "{", 400),
        ("POST /v1/pods", r#"{"address":"10.32.0.1"}"#, 400),
        ("POST /v1/pods", r#"{"id":"far","address":"192.0.2.1"}"#, 409),
        ("POST /v1/connect", r#"{"target":"http://a"}"#, 400),
        ("POST /v1/forget", r#"{"target":"http://a"}"#, 400),
        ("POST /v1/forget", r#"{"target":"192.0.2.98"}"#, 404),
        ("GET /v1/addresses/nowhere", "", 400),
        ("GET /v1/nothing", "", 404),
        ("POST /v1/status", "", 404),
    ] {
        let (method, path) = call.split_once(' ').unwrap();
        let (status, text) = api.raw(method, path, body).unwrap();
        assert_eq!(status, expected, "{call}: {text}");
        schema.check("ApiError", &text).unwrap();
    }

    for (command, answer) in [
        (&["status"][..], "Status"),
        (&["peers"], "Peers"),
        (&["ipam"], "IpamStatus"),
        (&["ipam", "allocate", "cache"], "PodPlan"),
        (&["ipam", "claim", "cache", "10.32.3.9"], "PodPlan"),
        (&["ipam", "lookup", "cache"], "PodAddresses"),
        (&["ipam", "lookup", &address], "AddressPlace"),
        (&["ipam", "free", "cache"], "PodAddresses"),
        (&["connect", "192.0.2.99"], "Target"),
        (&["forget", "192.0.2.99"], "Target"),
        (&["attach", &path, "--id", "web"], "Pod"),
        (&["detach", "web"], "Detached"),
    ] {
        schema.check(answer, &json(host, command)).unwrap();
    }
    let folder = host.state_dir().display().to_string();
    for command in [
        &["token", "--json", "--state-dir", &folder][..],
        &["token", "--json", "--generate"],
    ] {
        let output = host.weft(command).unwrap().success().unwrap();
        schema.check("Token", &output.stdout).unwrap();
    }
    // What the screen needs: the peer with its path, and the address space.
    let status = first.wait_for_peers(1, SOON).unwrap();
    assert!(status.peers[0].mtu.is_some_and(|mtu| mtu >= 1_280), "{status:?}");
    let ipam = status.ipam.unwrap();
    assert!(ipam.owned > 0 && ipam.free > 0, "{ipam:?}");
    let screen = host
        .weft(["status", "--socket", &host.socket().display().to_string()])
        .unwrap()
        .success()
        .unwrap()
        .stdout;
    assert!(
        screen.contains(&format!("addresses   {} owned", ipam.owned)),
        "{screen}"
    );

    let mut other = Api::connect(second.host()).unwrap();
    assert_eq!(other.raw("POST", "/v1/stop", "").unwrap(), (204, String::new()));
    second.wait(SOON).unwrap().unwrap();
    schema.check("TakenDown", &json(host, &["down"])).unwrap();
}

/// Calls as the page for people lists them: who may, and the call.
fn documented() -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../../docs/api.md");
    let calls = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let call = cells.next()?.trim().strip_suffix('`')?;
        let (method, path) = call.split_once(' ')?;
        let is_call = matches!(method, "GET" | "POST") && path.starts_with("/v1/");
        is_call.then_some((cells.next()?.trim(), call))
    });
    calls.collect()
}

#[test]
fn every_call_is_documented() {
    let server = include_str!("../../../router/src/api/server.rs");
    let mut served: Vec<&str> = server
        .split('"')
        .filter(|text| text.starts_with("/v1/"))
        .collect();
    let mut listed: Vec<&str> = documented()
        .iter()
        .filter_map(|(_, call)| call.split(' ').nth(1))
        .collect();
    served.sort_unstable();
    listed.sort_unstable();
    assert_eq!(served, listed);
}

/// Connects as this user and group, with no other group. The kernel notes who it was when it connects.
fn connect_as(host: &Host, uid: u32, gid: u32) -> weft_lab::Result<Api> {
    // Only this thread becomes somebody else.
    let other = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            Api::connect(host)
        });
        other.join()
    });
    other.unwrap()
}

#[test]
fn the_group_reads_and_only_root_changes() {
    let schema = Schema::published().unwrap();
    let lab = Lab::new("peercred").unwrap();
    let switch = lab.switch().unwrap();
    let router = founder(&lab, &switch);
    let host = router.host();
    let socket = host.socket();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o7777, 0o660);
    // The folders of a lab are root's alone; the socket's own group and mode are what is tested.
    for folder in [host.folder(), host.folder().parent().unwrap()] {
        std::fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
    }
    std::os::unix::fs::chown(&socket, None, Some(GROUP)).unwrap();

    let refused = connect_as(host, NOBODY, NOBODY).unwrap_err().to_string();
    assert!(refused.contains("denied"), "{refused}");

    let before = Api::connect(host).unwrap().ipam().unwrap();
    let mut api = connect_as(host, NOBODY, GROUP).unwrap();
    let mut changing = 0;
    for (who, call) in documented() {
        let (method, path) = call.split_once(' ').unwrap();
        let path = path.replace("{id}", "web").replace("{address}", "10.32.0.1");
        let body = match path.as_str() {
            "/v1/connect" | "/v1/forget" => r#"{"target":"192.0.2.99"}"#,
            _ => r#"{"id":"web"}"#,
        };
        let body = if method == "POST" { body } else { "" };
        let (status, text) = api.raw(method, &path, body).unwrap();
        match who {
            "group" => {
                assert_eq!((method, status), ("GET", 200), "{call}: {text}");
            }
            "root" => {
                changing += 1;
                assert_eq!((method, status), ("POST", 403), "{call}: {text}");
                let error = schema.check("ApiError", &text).unwrap();
                assert!(error["error"].as_str().unwrap().contains("root"), "{error}");
                assert_eq!(error["reason"], "forbidden");
            }
            other => panic!("docs/api.md: who is {other:?}?"),
        }
    }
    assert!(changing >= 5, "{changing} changing calls");
    // Nothing has changed, and it has not stopped.
    assert_eq!(Api::connect(host).unwrap().ipam().unwrap(), before);
    assert_eq!(router.status().unwrap().targets, []);
    // Root does change it, by the same calls.
    let mut api = Api::connect(host).unwrap();
    assert_eq!(
        api.raw("POST", "/v1/connect", r#"{"target":"192.0.2.99"}"#)
            .unwrap()
            .0,
        200
    );
    assert_eq!(router.status().unwrap().targets.len(), 1);
    api.allocate("web").unwrap();
}

#[test]
fn each_refusal_has_a_word_for_programs() {
    let schema = Schema::published().unwrap();
    let lab = Lab::new("words").unwrap();
    let switch = lab.switch().unwrap();
    let router = founder(&lab, &switch);
    let mut api = Api::connect(router.host()).unwrap();
    api.claim("first", "10.32.0.9".parse().unwrap()).unwrap();
    let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(300));
    for (call, body, status, word) in [
        ("POST /v1/pods", "{", 400, "malformed"),
        ("POST /v1/pods", &*long, 409, "bad-id"),
        (
            "POST /v1/pods",
            r#"{"id":"a","address":"192.0.2.1"}"#,
            409,
            "bad-address",
        ),
        (
            "POST /v1/pods",
            r#"{"id":"a","subnet":"192.0.2.0/24"}"#,
            409,
            "bad-subnet",
        ),
        (
            "POST /v1/pods",
            r#"{"id":"a","timeout_ms":60001}"#,
            409,
            "bad-timeout",
        ),
        (
            "POST /v1/pods",
            r#"{"id":"a","address":"10.32.0.9"}"#,
            409,
            "address-taken",
        ),
        ("GET /v1/addresses/ten", "", 400, "malformed"),
        ("GET /v1/nothing", "", 404, "unknown-call"),
        ("POST /v1/forget", r#"{"target":"192.0.2.9"}"#, 404, "not-found"),
        (
            "POST /v1/peers/remove",
            r#"{"hosts":["nobody"]}"#,
            409,
            "not-removable",
        ),
        ("POST /v1/ipam/adopt", r#"{"token":"short"}"#, 400, "malformed"),
        ("POST /v1/ipam/adopt", "{}", 409, "not-adopted"),
    ] {
        let (method, path) = call.split_once(' ').unwrap();
        let (found, text) = api.raw(method, path, body).unwrap();
        let error = schema.check("ApiError", &text).unwrap();
        assert_eq!(
            (found, error["reason"].as_str()),
            (status, Some(word)),
            "{call} {body}: {text}"
        );
    }
    // A host that leaves, and one that belongs to no cluster.
    api.raw("POST", "/v1/leave", "").unwrap();
    let (_, text) = api.raw("POST", "/v1/pods", r#"{"id":"late"}"#).unwrap();
    assert_eq!(schema.check("ApiError", &text).unwrap()["reason"], "leaving");
    let token = lab.secret_file("token", &router.token().unwrap()).unwrap();
    let lone = lab.host("lone").on(&switch).build().unwrap();
    let lone = lone
        .up(["--peer", "192.0.2.77", "--token-file", token.to_str().unwrap()])
        .unwrap();
    lone.wait_ready(SOON).unwrap();
    let mut api = Api::connect(lone.host()).unwrap();
    for call in ["GET /v1/ipam", "POST /v1/pods", "POST /v1/leave"] {
        let (method, path) = call.split_once(' ').unwrap();
        let body = if method == "POST" { r#"{"id":"a"}"# } else { "" };
        let (status, text) = api.raw(method, path, body).unwrap();
        let error = schema.check("ApiError", &text).unwrap();
        assert_eq!(
            (status, error["reason"].as_str()),
            (409, Some("no-cluster")),
            "{call}: {text}"
        );
    }
}

#[test]
fn who_hangs_up_gets_no_address() {
    let schema = Schema::published().unwrap();
    let lab = Lab::new("hangup").unwrap();
    let switch = lab.switch().unwrap();
    let first = founder(&lab, &switch);
    let second = joiner(&lab, &switch, &first);
    let host = second.host();
    let ipam = |host: &Host| -> IpamStatus { Api::connect(host).unwrap().ipam().unwrap() };
    let theirs = ipam(host)
        .ranges
        .into_iter()
        .find(|range| range.owner_name == "a")
        .unwrap();
    let IpAddr::V4(begin) = theirs.first else {
        panic!("an IPv4 range, not {theirs:?}")
    };
    // Not the first, which no pod can have when the range begins with it.
    let address = IpAddr::from((begin.to_bits() + 5).to_be_bytes());

    // Only its owner can lend the address, and that is dead.
    first.kill().unwrap();
    let begin = Instant::now();
    let mut api = Api::connect(host).unwrap();
    api.begin_claim("gone", address).unwrap();
    let waits = |status: &Status| status.ipam.as_ref().is_some_and(|ipam| ipam.waiting.len() == 1);
    let status = second.wait_until("a request waits", SOON, waits).unwrap();
    let waiting = &status.ipam.unwrap().waiting[0];
    assert_eq!(waiting.id, "gone");
    assert!(!waiting.reason.is_empty());
    let socket = host.socket().display().to_string();
    schema.check("Status", &json(host, &["status"])).unwrap();
    let screen = host.weft(["status", "--socket", &socket]).unwrap().stdout;
    assert!(screen.contains("waiting     gone: "), "{screen}");

    drop(api);
    let idle = |status: &Status| status.ipam.as_ref().is_some_and(|ipam| ipam.waiting.is_empty());
    second.wait_until("the request is withdrawn", SOON, idle).unwrap();
    let took = begin.elapsed();
    assert!(
        took < ALLOCATE_DEADLINE,
        "it was not withdrawn but refused: {took:?}"
    );

    // The owner comes back, and still nobody has the address.
    first.restart().unwrap();
    second.wait_for_peers(1, Duration::from_secs(30)).unwrap();
    let place = Api::connect(host).unwrap().claim("other", address).unwrap();
    assert_eq!(place, address);
    let used = ipam(host).used;
    assert!(used.iter().all(|used| used.id != "gone"), "{used:?}");
}
