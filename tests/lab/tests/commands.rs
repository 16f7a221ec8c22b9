//! The commands that ask a running router.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::time::Duration;

use weft_lab::{Host, Lab, Output};
use weft_wire::api::{ClusterStatus, PeerStatus};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);

fn said(output: &Output) -> (bool, String) {
    (
        output.status.success(),
        format!("{}{}", output.stdout, output.stderr),
    )
}

fn ask(host: &Host, command: &str, argument: &str) -> (bool, String) {
    let socket = host.socket().display().to_string();
    said(&host.weft([command, argument, "--socket", &socket]).unwrap())
}

#[test]
fn an_operator_names_addresses_while_the_router_runs() {
    let lab = Lab::new("commands").unwrap();
    let net = lab.switch().unwrap();
    let (a, b) = (
        lab.host("a").on(&net).build().unwrap(),
        lab.host("b").on(&net).build().unwrap(),
    );
    let founder = a.up(["--found"]).unwrap();
    founder
        .wait_until("it is a member", SOON, |s| {
            matches!(s.cluster, ClusterStatus::Member { .. })
        })
        .unwrap();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    // Nobody answers there: b waits, rather than founding a cluster of its own.
    let joiner = b
        .up(["--peer", "192.0.2.99", "--token-file", token.to_str().unwrap()])
        .unwrap();
    joiner
        .wait_until("it waits", SOON, |s| {
            s.cluster == ClusterStatus::AwaitingAdmission
        })
        .unwrap();

    let (ok, text) = ask(&b, "connect", &a.address().unwrap().to_string());
    assert!(ok, "{text}");
    joiner.wait_for_peers(1, SOON).unwrap();
    let socket = b.socket().display().to_string();
    let (ok, json) = said(&b.weft(["peers", "--json", "--socket", &socket]).unwrap());
    assert!(ok, "{json}");
    let peers: Vec<PeerStatus> = serde_json::from_str(&json).unwrap();
    assert_eq!(
        peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(),
        ["a"]
    );

    let (ok, text) = ask(&b, "forget", "192.0.2.99");
    assert!(ok, "{text}");
    joiner
        .wait_until("the address is given up", SOON, |s| s.targets.is_empty())
        .unwrap();
    let (ok, text) = ask(&b, "forget", "192.0.2.99");
    assert!(
        !ok && text.contains(&a.address().unwrap().to_string()),
        "it names what is tried: {text}"
    );
    let (ok, text) = ask(&b, "connect", "http://a");
    assert!(!ok && text.contains("HOST:PORT"), "{text}");
}

#[test]
fn pods_are_listed_and_hold_the_bridge() {
    let lab = Lab::new("pods").unwrap();
    let net = lab.switch().unwrap();
    let a = lab.host("a").on(&net).build().unwrap();
    let router = a.up(["--found"]).unwrap();
    router
        .wait_until("it is a member", SOON, |s| {
            matches!(s.cluster, ClusterStatus::Member { .. })
        })
        .unwrap();
    let pod = a.pod("web", [10, 32, 0, 7]).unwrap();
    let status = router.status().unwrap();
    assert_eq!(
        status
            .pods
            .iter()
            .map(|pod| pod.address.to_string())
            .collect::<Vec<_>>(),
        ["10.32.0.7/12"]
    );

    let socket = a.socket().display().to_string();
    let (ok, text) = said(&a.weft(["down", "--socket", &socket]).unwrap());
    assert!(!ok && text.contains("1 pod is still attached"), "{text}");
    pod.detach().unwrap();
    let (ok, text) = said(&a.weft(["down", "--socket", &socket]).unwrap());
    assert!(ok, "{text}");
    let left = a.namespace().run(weft_kernel::link::list).unwrap().unwrap();
    assert!(left.iter().all(|link| !link.name.starts_with("weft")), "{left:?}");
    let (ok, text) = said(&a.weft(["status", "--socket", &socket]).unwrap());
    assert!(!ok && text.contains("weft up"), "{text}");
}

#[test]
fn every_shell_gets_completions() {
    let lab = Lab::new("completions").unwrap();
    let net = lab.switch().unwrap();
    let a = lab.host("a").on(&net).build().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let (ok, text) = said(&a.weft(["completions", shell]).unwrap());
        assert!(ok && text.contains("attach"), "{shell}: {text}");
    }
}
