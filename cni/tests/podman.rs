//! The plugin under podman 4, whose libcni is the reference client of the CNI project.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

mod support;

use std::io::Read as _;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{Container, PLUGIN, address, cluster, config, delete, kernel_state, result, used, verb};
use weft_lab::Lab;

/// Says what is missing, by name: what this test needs does not come with cargo.
fn demand(program: &str, argument: &str, wanted: &str) {
    let cure = "install the Debian 12 packages podman and runc, as ./test tools does";
    match Command::new(program).arg(argument).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                said.contains(wanted),
                "{program} is not of version {wanted}, so no real CNI client can be tried: {cure}; it says {said:?}"
            );
        }
        Err(error) => panic!("the program {program} cannot be run ({error}): {cure}"),
    }
}

#[test]
fn podman_puts_a_container_on_the_network_and_takes_it_off() {
    // Later ones call no CNI plugins.
    demand("podman", "--version", " 4.");
    demand("runc", "--version", "runc ");
    let lab = Lab::new("cni-podman").unwrap();
    let (_switch, routers) = cluster(&lab, &["a", "b"]);
    let (a, b) = (routers[0].host(), routers[1].host());

    let other = Container::new("other");
    let added = result(&verb(b, "ADD", &other, &config(b, &json!({}))));
    let listen = || TcpListener::bind((address(&added), 0));
    let listener = other.netns.run(listen).unwrap().unwrap();
    let port = listener.local_addr().unwrap().port().to_string();

    let before = kernel_state(a);
    let folder = lab.folder().join("podman");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/podman.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(script).arg(&folder);
    command.arg(Path::new(PLUGIN).parent().unwrap()).arg(a.socket());
    command.arg(address(&added).to_string()).arg(port);
    let output = a.run(command, None).unwrap();
    assert!(output.status.success(), "{}\n{}", output.stdout, output.stderr);

    // What podman read from the result is what the other host saw.
    let lines: Vec<&str> = output.stdout.lines().collect();
    let [attached, status, asked] = lines[..] else {
        panic!("{output:?}");
    };
    listener.set_nonblocking(true).unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello from podman\n");
    let (found, mac) = attached.split_once(' ').unwrap();
    assert_eq!(found, format!("{}/12", from.ip()));
    assert!(mac.starts_with("02:"), "{attached}");
    assert_eq!((status, asked), ("0", "10.32.9.9"));
    // The sentence of the plugin reaches the person.
    assert!(
        output.stderr.contains("no weft router answers at "),
        "{}",
        output.stderr
    );

    let none: [(IpAddr, String); 0] = [];
    assert_eq!(used(a), none);
    assert_eq!(kernel_state(a), before);
    delete(b, &other);
}
