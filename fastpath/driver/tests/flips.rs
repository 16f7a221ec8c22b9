//! Planned flips between TAP and VXLAN while pods talk, frames counted. A thread that carries frames from one TAP to the other
//! stands in for the two routers.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Host, MTU, SOON, TAP, acquaint, hosts, ipv4, ipv6, mac, vxlan};
use weft_fastpath::{Via, View};
use weft_kernel::tap::{Tap, TapOptions};
use weft_kernel::{link, socket};

const FLIPS: usize = 100;
/// Frames that pass between one flip and the next, at least.
const BETWEEN: u64 = 4;
/// Twice this many frames a second, one of each kind: light load, so that none is lost for want of room.
const PACE: Duration = Duration::from_millis(1);
/// Room for all that comes while this machine has something else to do.
const BUFFER: usize = 4 << 20;

/// Carries frames from one TAP to another, until the first is removed.
fn carry(from: &File, to: &File) -> JoinHandle<()> {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut frame = [0; 2048];
        while let Ok(length) = from.read(&mut frame) {
            // A TAP that is gone takes nothing.
            let _ = to.write_all(&frame[..length]);
        }
    })
}

fn open(host: &Host) -> File {
    let tap = host.run(|_| Tap::open(TAP, &TapOptions::default())).unwrap();
    assert!(host.run(|_| link::wait_forwarding(TAP, SOON)).unwrap());
    tap.into()
}

/// Numbers that came, and how often.
fn receive(socket: UdpSocket, end: Arc<AtomicBool>) -> JoinHandle<BTreeMap<u64, u32>> {
    socket::set_receive_buffer(&socket, BUFFER).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    std::thread::spawn(move || {
        let mut came = BTreeMap::new();
        let mut buffer = [0; 64];
        loop {
            match socket.recv(&mut buffer) {
                Ok(8) => {
                    let number = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                    *came.entry(number).or_default() += 1;
                }
                Ok(_) => {}
                Err(_) if end.load(Ordering::Relaxed) => return came,
                Err(_) => {}
            }
        }
    })
}

/// What pod 11 of the first host and pod 21 of the second know of each other.
fn views(outer: fn(u8) -> IpAddr) -> [[View; 2]; 2] {
    [(2, 21), (1, 11)].map(|(host, pod)| {
        let by_router = View {
            remote: [(mac(pod), Via::Router)].into(),
            vxlan: Some(vxlan([outer(host)])),
            ..View::new(MTU)
        };
        let by_kernel = View {
            remote: [(mac(pod), Via::Kernel(outer(host)))].into(),
            neighbours: [(Ipv4Addr::new(10, 0, 0, pod), mac(pod))].into(),
            ..by_router.clone()
        };
        [by_router, by_kernel]
    })
}

fn flips_lose_and_double_nothing(outer: fn(u8) -> IpAddr) {
    let (_wire, hosts) = hosts::<2>();
    let views = views(outer);
    for (host, [by_router, _]) in hosts.iter().zip(&views) {
        host.settle(by_router);
    }
    acquaint(&hosts[0].namespace, &hosts[1].namespace, outer(2));
    let taps = [open(&hosts[0]), open(&hosts[1])];
    let carriers = [carry(&taps[0], &taps[1]), carry(&taps[1], &taps[0])];
    let (one, other) = (hosts[0].pod(11), hosts[1].pod(21));
    let end = Arc::new(AtomicBool::new(false));
    let came = [1001, 1002].map(|port| receive(other.socket(port), Arc::clone(&end)));

    let sent = Arc::new(AtomicU64::new(0));
    let (stop, counter, from) = (Arc::new(AtomicBool::new(false)), Arc::clone(&sent), one.socket(0));
    let stopped = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            let number = counter.load(Ordering::Relaxed).to_be_bytes();
            from.send_to(&number, "10.0.0.21:1001").unwrap();
            from.send_to(&number, "10.0.0.255:1002").unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PACE);
        }
    });
    let pass = || {
        let (start, patience) = (sent.load(Ordering::Relaxed), Instant::now() + SOON);
        while sent.load(Ordering::Relaxed) < start + BETWEEN {
            assert!(Instant::now() < patience, "nothing is sent");
            std::thread::yield_now();
        }
    };
    pass();
    for _ in 0..FLIPS {
        // Each direction by itself, so that paths are asymmetric in between.
        for (from, to) in [(0, 1), (1, 0)] {
            for (host, views) in hosts.iter().zip(&views) {
                let report = host
                    .run(|driver| driver.step_blocking(&views[from], &views[to]))
                    .unwrap();
                assert!(!report.changes.is_empty());
                pass();
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    // Nothing that was on its way takes longer than a receiver waits.
    end.store(true, Ordering::Relaxed);
    let sent = sent.load(Ordering::Relaxed);
    for (kind, came) in ["unicast", "broadcast"].iter().zip(came) {
        let came = came.join().unwrap();
        let lost = (0..sent).filter(|number| !came.contains_key(number)).count();
        let doubled = came.values().filter(|times| **times > 1).count();
        println!("{kind}: {sent} sent, {lost} lost, {doubled} doubled in {FLIPS} flips each way");
        assert_eq!((lost, doubled), (0, 0), "{kind}");
    }
    // The kernel did carry frames, in both states.
    let traffic = hosts[0].run(|driver| driver.traffic()).unwrap();
    assert!(traffic[&outer(2)].sent_packets >= FLIPS as u64, "{traffic:?}");
    for (host, [by_router, _]) in hosts.iter().zip(&views) {
        host.settle(by_router);
        host.run(|driver| driver.remove_blocking()).unwrap();
    }
    drop(taps);
    for carrier in carriers {
        carrier.join().unwrap();
    }
}

#[test]
fn a_hundred_flips_each_way_over_ipv4_lose_and_double_nothing() {
    flips_lose_and_double_nothing(ipv4);
}

#[test]
fn a_hundred_flips_each_way_over_ipv6_lose_and_double_nothing() {
    flips_lose_and_double_nothing(ipv6);
}
