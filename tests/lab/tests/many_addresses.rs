//! A hundred thousand addresses from five hosts, while routers are killed and the hosts fall apart and come together
//! again: no address is ever given to two pods.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use weft_lab::{Api, Error, Host, Lab, Router, Underlay as _};
use weft_wire::api::LinkState;

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(15);
/// For what needs a silent peer to be noticed, or to be dialled again, first.
const LATER: Duration = Duration::from_secs(30);
/// A request is repeated for so long, while its router is away or has nothing to give.
const PATIENCE: Duration = Duration::from_secs(60);

/// Workers at each host, each with a request under way: together they share the writes of a router.
const WORKERS: usize = 16;
/// Of so many pods that a worker starts, it stops one again.
const LEAVES: usize = 2;

/// Addresses that are given out at least: in all, to requests that begin and end within the partition, and within a second
/// of a kill.
const ALL: usize = 100_000;
const APART: usize = 20_000;
const AFTER_KILLS: usize = 5_000;
/// What was given when the first router is killed.
const CALM: usize = 10_000;
/// A router is killed so long after the one before it at the earliest.
const KILL_EVERY: Duration = Duration::from_secs(2);
/// So long after a kill an address counts as given "within a second" of it.
const SHORTLY: Duration = Duration::from_secs(1);

/// What a worker says, in the order in which it happens.
enum Said {
    /// A pod got an address.
    Given {
        id: String,
        address: IpAddr,
        asked: Instant,
        answered: Instant,
    },
    /// A pod is gone, before its router is told.
    Left { id: String, address: IpAddr },
}

/// What was seen of the addresses.
#[derive(Default)]
struct Seen {
    held: BTreeMap<IpAddr, String>,
    given: usize,
    apart: usize,
    after_kills: usize,
    kills: Vec<Instant>,
    /// When the partition began, and when its end did.
    partition: (Option<Instant>, Option<Instant>),
}

impl Seen {
    fn take(&mut self, said: Said) {
        match said {
            Said::Given {
                id,
                address,
                asked,
                answered,
            } => {
                if let Some(other) = self.held.insert(address, id.clone()) {
                    panic!("{address} is given to {other} and to {id}");
                }
                self.given += 1;
                let shortly = |kill: &Instant| answered >= *kill && answered - *kill <= SHORTLY;
                self.after_kills += usize::from(self.kills.iter().any(shortly));
                let (from, to) = self.partition;
                let is_apart = from.is_some_and(|from| asked >= from) && to.is_none_or(|to| answered < to);
                self.apart += usize::from(is_apart);
            }
            Said::Left { id, address } => assert_eq!(self.held.remove(&address), Some(id), "{address}"),
        }
    }
}

/// A worker's way to its router, through its restarts.
struct Worker<'a> {
    host: &'a Host,
    api: Option<Api>,
    again: &'a AtomicU64,
}

impl Worker<'_> {
    /// Asks until there is an answer: asked again, a router says what it said before.
    fn ask<T>(&mut self, request: impl Fn(&mut Api) -> Result<T, Error>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let result = match &mut self.api {
                Some(api) => request(api),
                None => Api::connect(self.host).and_then(|api| request(self.api.insert(api))),
            };
            let error = match result {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            assert!(Instant::now() < end, "{}: {error}", self.host.name());
            self.again.fetch_add(1, Ordering::Relaxed);
            if !matches!(error, Error::Refused { .. }) {
                // The router is away; nothing tells when it listens again.
                self.api = None;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Starts pods, and stops some of them, until it is told to stop itself.
    fn work(&mut self, number: usize, say: &SyncSender<Said>, stop: &AtomicBool) {
        for pod in 0.. {
            let id = format!("{}-{number}-{pod}", self.host.name());
            let asked = Instant::now();
            let address = self.ask(|api| api.allocate(&id));
            let answered = Instant::now();
            let given = Said::Given {
                id: id.clone(),
                address,
                asked,
                answered,
            };
            say.send(given).unwrap();
            if pod % LEAVES == 0 {
                let left = Said::Left {
                    id: id.clone(),
                    address,
                };
                say.send(left).unwrap();
                self.ask(|api| api.free(&id));
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// Kills a router and starts it again, beside what goes on.
fn strike<'scope>(scope: &'scope Scope<'scope, '_>, router: &'scope Router, seen: &mut Seen) {
    router.kill().unwrap();
    seen.kills.push(Instant::now());
    scope.spawn(move || {
        router.restart().unwrap();
        router.wait_ready(SOON).unwrap();
    });
}

#[test]
fn a_hundred_thousand_addresses_and_none_twice() {
    let lab = Lab::new("most").unwrap();
    let (switch, routers) = lab.cluster(&["a", "b", "c", "d", "e"], &[], SOON).unwrap();
    for router in &routers {
        let owns = |status: &weft_wire::api::Status| {
            let space = Api::connect(router.host()).and_then(|mut api| api.ipam());
            space.is_ok_and(|space| space.ranges.iter().any(|range| range.owner == status.node))
        };
        router
            .wait_until("it owns a part of the range", LATER, owns)
            .unwrap();
    }
    let hosts: Vec<&Host> = routers.iter().map(Router::host).collect();
    let (stop, again) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut seen = Seen::default();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let (say, said) = mpsc::sync_channel(hosts.len() * WORKERS);
        for host in &hosts {
            for number in 0..WORKERS {
                let (say, stop, again) = (say.clone(), &stop, &again);
                scope.spawn(move || {
                    Worker {
                        host,
                        api: None,
                        again,
                    }
                    .work(number, &say, stop)
                });
            }
        }
        drop(say);
        for report in said {
            seen.take(report);
            let since_kill = seen.kills.last().map_or(KILL_EVERY, Instant::elapsed);
            let kills_on = seen.after_kills < AFTER_KILLS || seen.kills.len() < routers.len();
            if seen.given >= CALM && kills_on && since_kill >= KILL_EVERY {
                // All in turn, and before, during and after the partition.
                let next = &routers[seen.kills.len() % routers.len()];
                strike(scope, next, &mut seen);
            }
            match seen.partition {
                (None, _) if seen.kills.len() >= 2 => {
                    switch.partition(&hosts[..2], &hosts[2..]).unwrap();
                    seen.partition.0 = Some(Instant::now());
                }
                // The other side is noticed to be away within 5 s; what is given after that counts most.
                (Some(from), None) if seen.apart >= APART && from.elapsed() >= 2 * KILL_EVERY => {
                    seen.partition.1 = Some(Instant::now());
                    switch.heal().unwrap();
                }
                _ => {}
            }
            let done = seen.given >= ALL && !kills_on && seen.partition.1.is_some();
            stop.fetch_or(done, Ordering::Relaxed);
        }
    });
    println!(
        "{} addresses on 5 hosts in {:.1?}, none twice: {} while apart, {} within a second of one of {} kills; \
         {} requests made again",
        seen.given,
        begin.elapsed(),
        seen.apart,
        seen.after_kills,
        seen.kills.len(),
        again.into_inner()
    );
    assert!(seen.given >= ALL && seen.apart >= APART && seen.after_kills >= AFTER_KILLS);

    for router in &routers {
        let is_linked = |status: &weft_wire::api::Status| {
            let up = status.peers.iter().filter(|peer| peer.mesh == LinkState::Up);
            up.count() == routers.len() - 1
        };
        router
            .wait_until("all are together again", LATER, is_linked)
            .unwrap();
    }
    // Every router holds just what its pods have, and all see the same owners.
    let mut held = BTreeMap::new();
    for host in &hosts {
        for used in Api::connect(host).unwrap().ipam().unwrap().used {
            assert!(used.id.starts_with(host.name()), "{used:?} on {}", host.name());
            assert_eq!(held.insert(used.address, used.id), None, "{}", used.address);
        }
    }
    assert_eq!(held, seen.held);
    let ranges = |router: &Router| Api::connect(router.host()).unwrap().ipam().unwrap().ranges;
    for router in &routers[1..] {
        let is_same = |_: &_| ranges(router) == ranges(&routers[0]);
        router
            .wait_until("it sees the same owners", LATER, is_same)
            .unwrap();
    }
    assert!(ranges(&routers[0]).iter().all(|range| !range.frozen));
}
