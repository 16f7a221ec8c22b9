//! Namespaces, the processes inside them, and the capture of frames.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use weft_kernel::capture::Capture;
use weft_kernel::link::VethEnd;
use weft_kernel::packet::PacketSocket;
use weft_kernel::userns::{self, UsernsError};
use weft_kernel::{Error, Namespace, link, process};

const LONG: Duration = Duration::from_secs(10);
/// Set in the copies of this program that the tests start.
const ROLE: &str = "WEFT_TEST_ROLE";

/// This program again, running one test with a role.
fn again(test: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", test, "--nocapture"]).env(ROLE, "child");
    command
}

fn is_copy() -> bool {
    std::env::var_os(ROLE).is_some()
}

#[test]
fn namespaces_are_apart_and_named_by_path() {
    let (a, b) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    assert_eq!(a, Namespace::open(a.path()).unwrap());
    assert_eq!(a, a.clone());
    assert_ne!(a, b);
    assert_ne!(a, Namespace::current().unwrap());
    assert_eq!(a.run(Namespace::current).unwrap().unwrap(), a);
    assert_eq!(
        a.spawn_thread("inside", || Namespace::current().unwrap())
            .unwrap()
            .join()
            .unwrap(),
        a
    );
    let links = a.run(link::list).unwrap().unwrap();
    assert!(links.iter().any(|link| link.name == "lo" && link.up));
    assert!(!links.iter().any(|link| link.kind.as_deref() == Some("veth")));
}

#[test]
fn a_wrong_path_is_named() {
    let error = Namespace::open("/no/such/file").unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
    for path in ["/proc/self/ns/uts", "/proc/version"] {
        let error = Namespace::open(path).unwrap_err();
        assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_panic_inside_is_an_error_outside() {
    let namespace = Namespace::new().unwrap();
    let error = namespace
        .run(|| -> () { panic!("the {}", "reason") })
        .unwrap_err();
    assert!(
        matches!(&error, Error::Panicked(text) if text == "the reason"),
        "{error}"
    );
    assert_eq!(namespace.run(|| 7).unwrap(), 7);
}

#[test]
fn a_child_runs_inside_and_outlives_the_thread_that_asked_for_it() {
    let namespace = Namespace::new().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "readlink /proc/self/ns/net; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = std::thread::scope(|s| s.spawn(|| namespace.spawn(command)).join())
        .unwrap()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), format!("net:[{}]", namespace.id().inode()));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"still here\n").unwrap();
    drop(input);
    line.clear();
    output.read_to_string(&mut line).unwrap();
    assert_eq!(line, "still here\n");
    assert!(process::wait(&mut child, LONG).unwrap().unwrap().success());
    let missing = namespace
        .spawn(Command::new("/no/such/program"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/no/such/program"), "{missing}");
}

#[test]
fn a_child_ends_with_its_namespace() {
    let namespace = Namespace::new().unwrap();
    let mut command = Command::new("sleep");
    command.arg("1000");
    let mut child = namespace.spawn(command).unwrap();
    assert_eq!(process::wait(&mut child, Duration::ZERO).unwrap(), None);
    drop(namespace);
    assert_eq!(
        process::wait(&mut child, LONG).unwrap().unwrap().signal(),
        Some(9)
    );
}

#[test]
fn a_child_ends_when_its_parent_is_killed() {
    if is_copy() {
        let namespace = Namespace::new().unwrap();
        let mut command = Command::new("sleep");
        command.arg("1000").stdout(Stdio::null());
        println!("pid={}", namespace.spawn(command).unwrap().id());
        // Until killed.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let mut parent = again("a_child_ends_when_its_parent_is_killed")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("pid=")?.1.parse().ok())
        .unwrap();
    let grandchild = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    let end = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    let poll = &mut [rustix::event::PollFd::new(
        &grandchild,
        rustix::event::PollFlags::IN,
    )];
    assert_eq!(
        rustix::event::poll(poll, Some(&end)).unwrap(),
        1,
        "process {pid} still runs"
    );
}

#[test]
fn terminate_asks_first_and_then_kills() {
    let namespace = Namespace::new().unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut polite = namespace.spawn(sleep).unwrap();
    assert_eq!(process::terminate(&mut polite, LONG).unwrap().signal(), Some(15));
    assert_eq!(process::terminate(&mut polite, LONG).unwrap().signal(), Some(15));

    let mut stubborn = Command::new("sh");
    // An ignored signal stays ignored in the program that takes the shell's place.
    stubborn
        .args(["-c", "trap '' TERM; echo ready; exec sleep 1000"])
        .stdout(Stdio::piped());
    let mut stubborn = namespace.spawn(stubborn).unwrap();
    BufReader::new(stubborn.stdout.as_mut().unwrap())
        .read_line(&mut String::new())
        .unwrap();
    assert_eq!(
        process::terminate(&mut stubborn, Duration::from_millis(50))
            .unwrap()
            .signal(),
        Some(9)
    );
}

#[test]
fn a_process_with_threads_is_told_so() {
    let error = std::thread::scope(|s| s.spawn(userns::enter_user_namespace).join())
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, UsernsError::Threads { threads: 2.. }), "{error}");
}

#[test]
fn a_capture_counts_what_it_cannot_hold() {
    let namespace = Namespace::new().unwrap();
    let mut capture = namespace.run(|| Capture::open("lo", 1)).unwrap().unwrap();
    let socket = namespace
        .run(|| std::net::UdpSocket::bind("127.0.0.1:0"))
        .unwrap()
        .unwrap();
    let datagram = [7; 60_000];
    // Each passes `lo` twice: out and in. The smallest ring has room for 512 KiB.
    for _ in 0..40 {
        socket.send_to(&datagram, "127.0.0.1:9").unwrap();
    }
    let mut seen = 0;
    while let Some(frame) = capture.next_frame(Duration::from_millis(200)).unwrap() {
        seen += u64::from(frame.data.ends_with(&datagram));
    }
    let stats = capture.stats().unwrap();
    assert!(seen >= 4 && stats.drops > 0, "{seen} seen, {stats:?}");
    assert!(stats.packets - stats.drops >= seen, "{seen} seen, {stats:?}");
    assert_eq!(stats, capture.stats().unwrap());
    // There is room again.
    socket.send_to(b"one more", "127.0.0.1:9").unwrap();
    while !capture
        .next_frame(LONG)
        .unwrap()
        .unwrap()
        .data
        .ends_with(b"one more")
    {}
}

#[test]
fn a_packet_socket_takes_its_ethertype_from_its_interface_only() {
    let namespace = Namespace::new().unwrap();
    namespace
        .run(|| {
            for [one, other] in [["one", "two"], ["three", "four"]] {
                link::create_veth(&VethEnd::here(one), &VethEnd::here(other)).unwrap();
            }
            for name in ["one", "two", "three", "four"] {
                link::set_up(name).unwrap();
            }
            let frame =
                |ethertype: u16| [&[0xff; 6][..], &[2; 6], &ethertype.to_be_bytes(), &[7; 46]].concat();
            let taker = PacketSocket::open("two", 0x88b5).unwrap();
            let sender = PacketSocket::open("one", 0x88b5).unwrap();
            let other = PacketSocket::open("three", 0x88b5).unwrap();
            other.send(&frame(0x88b5)).unwrap();
            sender.send(&frame(0x88b6)).unwrap();
            sender.send(&frame(0x88b5)).unwrap();
            // A veth hands frames over before `send` returns, or soon after.
            let mut buffer = [0; 100];
            let end = std::time::Instant::now() + LONG;
            let length = loop {
                match taker.receive(&mut buffer) {
                    Ok(length) => break length,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        assert!(std::time::Instant::now() < end, "nothing came");
                        std::thread::yield_now();
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(buffer[..length], frame(0x88b5));
            let none = taker.receive(&mut buffer).unwrap_err();
            assert_eq!(none.kind(), std::io::ErrorKind::WouldBlock, "and nothing else");
            let own = sender.receive(&mut buffer).unwrap_err();
            assert_eq!(
                own.kind(),
                std::io::ErrorKind::WouldBlock,
                "its own frames are not its business"
            );
            let long = sender.send(&[0; 2_000]).unwrap_err();
            assert_eq!(long.raw_os_error(), Some(90), "EMSGSIZE: {long}");
            assert!(PacketSocket::open("five", 0x88b5).is_err());
        })
        .unwrap();
}
