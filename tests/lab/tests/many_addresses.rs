//! A hundred thousand addresses from five hosts, while routers are killed, the hosts fall apart, each side removes hosts
//! of the other one, and all come together again: no address is ever given to two pods, but where somebody names one of
//! which a removed host alone knows that it is taken, and that is told.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::Scope;
use std::time::{Duration, Instant};

use weft_lab::{Api, Error, Host, Lab, Output, Router, Underlay as _};
use weft_wire::api::{IpamStatus, LinkState, Status};

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
/// Hosts on the side that is removed; the others are a majority.
const REMOVED: usize = 2;
/// Pods that a worker of a host that is removed keeps until the end: what such a host comes back with is lent to it by
/// one host, which lends 256 addresses.
const KEPT: usize = 5;
/// Addresses of the removed that the others give to pods which name them.
const NAMED: usize = 8;
/// Addresses that the removed hosts give out at least before they learn that they were removed.
const UNAWARE: usize = 2_000;

/// Addresses that are given out at least: in all, to requests that begin and end within the partition, and within a second
/// of a kill.
const ALL: usize = 100_000;
const APART: usize = 20_000;
const AFTER_KILLS: usize = 5_000;
/// Routers that are killed at least: each of them, and those that come back from their removal once more.
const KILLS: usize = HOSTS.len() + REMOVED;
/// What was given when the first router is killed.
const CALM: usize = 10_000;
/// A router is killed so long after the one before it at the earliest.
const KILL_EVERY: Duration = Duration::from_secs(2);
/// So long after a kill an address counts as given "within a second" of it.
const SHORTLY: Duration = Duration::from_secs(1);

/// What is said, in the order in which it happens.
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
    /// The majority has decided its removal, taken the slots, and goes on.
    Removed,
    /// A pod of the majority got an address by its name, of which the removed host alone knows that it is taken.
    Named { id: String, address: IpAddr },
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
    /// What removed hosts have given between their removal and the end of the partition.
    unaware: usize,
    is_removed: bool,
    /// Addresses that have two pods: the one that the majority gave it to, beside that of the removed host in `held`.
    named: BTreeMap<IpAddr, String>,
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
                self.unaware += usize::from(is_apart && self.is_removed && is_of_removed(&id));
            }
            Said::Left { id, address } => assert_eq!(self.held.remove(&address), Some(id), "{address}"),
            Said::Removed => self.is_removed = true,
            Said::Named { id, address } => {
                assert!(self.held.get(&address).is_some_and(|other| is_of_removed(other)));
                assert_eq!(self.named.insert(address, id), None);
            }
        }
    }
}

/// Names of hosts, of which the first are removed; names of pods begin with their host's.
const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn is_of_removed(pod: &str) -> bool {
    HOSTS[..REMOVED].iter().any(|host| pod.starts_with(host))
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
            if pod % LEAVES == 0 || (pod > LEAVES * KEPT && is_of_removed(&id)) {
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

fn weft(host: &Host, arguments: &[&str]) -> Result<Output, Error> {
    let socket = host.socket().display().to_string();
    host.weft(arguments.iter().copied().chain(["--socket", &socket]))?
        .success()
}

fn ipam(host: &Host) -> Result<IpamStatus, Error> {
    Api::connect(host).and_then(|mut api| api.ipam())
}

/// Repeats what fails while a router is away, or until it is as it shall be.
fn insist<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(Instant::now() < end, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the address space is as it shall be.
fn await_ipam(host: &Host, what: &str, is_so: impl Fn(&IpamStatus) -> bool) {
    insist(&format!("{}: {what}", host.name()), || match ipam(host) {
        Ok(status) if is_so(&status) => Ok(()),
        Ok(IpamStatus {
            removals, unclaimed, ..
        }) => Err(format!("{removals:?} {unclaimed:?}")),
        Err(error) => Err(error.to_string()),
    });
}

/// Somebody at `host` removes these others, and does not wait.
fn remove(host: &Host, others: &[&str]) {
    let arguments = [&["peer", "remove", "--no-wait"], others].concat();
    // It is refused until the others are seen to be gone.
    insist("it takes the removal", || {
        weft(host, &arguments).map_err(|e| e.to_string())
    });
}

/// Both sides remove hosts of the other one at once. The majority gets what it wants; then pods there name addresses
/// that pods of the removed have.
fn remove_each_other(hosts: &[&Host], taken: &[IpAddr], say: &SyncSender<Said>) {
    let (removed, rest) = hosts.split_at(REMOVED);
    std::thread::scope(|scope| {
        for host in removed {
            scope.spawn(|| remove(host, &HOSTS[REMOVED..=REMOVED]));
        }
        for host in &rest[..2] {
            scope.spawn(|| remove(host, &HOSTS[..REMOVED]));
        }
    });
    for host in rest {
        let is_over = |status: &IpamStatus| status.removed.len() == REMOVED && status.removals.is_empty();
        await_ipam(host, "the majority decides", is_over);
    }
    // Which decides nothing.
    for host in removed {
        let status = insist("it answers", || ipam(host).map_err(|e| e.to_string()));
        assert!(
            status.removed.is_empty() && status.removals.len() == 1,
            "{status:?}"
        );
        assert!(status.removals[0].epoch.is_none(), "{status:?}");
    }
    say.send(Said::Removed).unwrap();
    for (at, address) in taken.iter().enumerate() {
        let host = rest[at % rest.len()];
        let id = format!("{}-named-{at}", host.name());
        let given = insist("it gives the address that is named", || {
            Api::connect(host)
                .and_then(|mut api| api.claim(&id, *address))
                .map_err(|e| e.to_string())
        });
        assert_eq!(given, *address);
        say.send(Said::Named { id, address: given }).unwrap();
    }
}

/// Ends the work of all when what one of them checks does not hold.
struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(std::thread::panicking(), Ordering::Relaxed);
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
    let (switch, routers) = lab.cluster(&HOSTS, &[], SOON).unwrap();
    let owns = |router: &Router| {
        let owns = |status: &Status| {
            let space = ipam(router.host());
            space.is_ok_and(|space| {
                let mut ranges = space.ranges.iter();
                space.epoch_members == HOSTS.len() as u64 && ranges.any(|range| range.owner == status.node)
            })
        };
        router.wait_until("it owns a part of the range", LATER, owns)
    };
    let before: Vec<Status> = routers.iter().map(|router| owns(router).unwrap()).collect();
    let hosts: Vec<&Host> = routers.iter().map(Router::host).collect();
    let (stop, again) = (AtomicBool::new(false), AtomicU64::new(0));
    let returned = AtomicUsize::new(0);
    let mut seen = Seen::default();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let (say, said) = mpsc::sync_channel(hosts.len() * WORKERS);
        for host in &hosts {
            for number in 0..WORKERS {
                let (say, stop, again) = (say.clone(), &stop, &again);
                scope.spawn(move || {
                    let _guard = Guard(stop);
                    Worker {
                        host,
                        api: None,
                        again,
                    }
                    .work(number, &say, stop)
                });
            }
        }
        let mut say = Some(say);
        for report in said {
            seen.take(report);
            let since_kill = seen.kills.last().map_or(KILL_EVERY, Instant::elapsed);
            let kills_on = seen.after_kills < AFTER_KILLS || seen.kills.len() < KILLS;
            if seen.given >= CALM && kills_on && since_kill >= KILL_EVERY {
                // All in turn, and before, during and after the partition.
                let next = &routers[seen.kills.len() % routers.len()];
                strike(scope, next, &mut seen);
            }
            match seen.partition {
                (None, _) if seen.kills.len() >= 2 => {
                    switch.partition(&hosts[..REMOVED], &hosts[REMOVED..]).unwrap();
                    seen.partition.0 = Some(Instant::now());
                    // Of pods that stay: the first ones of their workers.
                    let stays = |(address, id): (&IpAddr, &String)| {
                        let stays = is_of_removed(id) && id.ends_with("-1");
                        stays.then_some(*address)
                    };
                    let taken: Vec<IpAddr> = seen.held.iter().filter_map(stays).take(NAMED).collect();
                    assert_eq!(taken.len(), NAMED);
                    let (hosts, say) = (&hosts, say.take().unwrap());
                    let stop = &stop;
                    scope.spawn(move || {
                        let _guard = Guard(stop);
                        remove_each_other(hosts, &taken, &say);
                    });
                }
                (Some(_), None)
                    if seen.apart >= APART && seen.unaware >= UNAWARE && seen.named.len() == NAMED =>
                {
                    seen.partition.1 = Some(Instant::now());
                    switch.heal().unwrap();
                    for (router, before) in routers.iter().zip(&before).take(REMOVED) {
                        let (owns, returned, stop) = (&owns, &returned, &stop);
                        scope.spawn(move || {
                            let _guard = Guard(stop);
                            insist("it comes back as a new host", || match owns(router) {
                                Ok(status) if status.node != before.node => Ok(()),
                                Ok(_) => Err("it is what it was".to_owned()),
                                Err(error) => Err(error.to_string()),
                            });
                            returned.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                }
                _ => {}
            }
            let done = seen.given >= ALL && !kills_on && returned.load(Ordering::Relaxed) == REMOVED;
            stop.fetch_or(done, Ordering::Relaxed);
        }
    });
    println!(
        "{} addresses on 5 hosts in {:.1?}, none twice: {} while apart, {} of them by hosts that did not know of their \
         removal, {} within a second of one of {} kills; {} requests made again",
        seen.given,
        begin.elapsed(),
        seen.apart,
        seen.unaware,
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
    // Every router holds just what its pods have, and all see the same owners. A host that was removed has the addresses
    // of its pods, but for those that somebody else has by now, and names each of these.
    for host in &hosts[..REMOVED] {
        let of_others = seen
            .named
            .keys()
            .filter(|address| seen.held[*address].starts_with(host.name()));
        let of_others = of_others.count();
        let is_told = |status: &IpamStatus| {
            let refused = status.unclaimed.iter().filter(|claim| claim.refusal.is_some());
            status.unclaimed.len() == of_others && refused.count() == of_others
        };
        await_ipam(host, "each address is kept, or somebody else has it", is_told);
    }
    let (mut held, mut twice) = (BTreeMap::new(), BTreeMap::new());
    for host in &hosts {
        let status = ipam(host).unwrap();
        for used in status.used {
            assert!(used.id.starts_with(host.name()), "{used:?} on {}", host.name());
            assert_eq!(held.insert(used.address, used.id), None, "{}", used.address);
        }
        for claim in status.unclaimed {
            assert!(
                claim.id.starts_with(host.name()) && is_of_removed(&claim.id),
                "{claim:?}"
            );
            let holder = claim.holder.clone().unwrap().name;
            assert!(
                claim
                    .refusal
                    .as_ref()
                    .unwrap()
                    .contains(&format!("host {holder}")),
                "{claim:?}"
            );
            twice.insert(claim.address, (claim.id, holder));
        }
    }
    println!(
        "{} addresses kept, {} refused",
        held.values().filter(|id| is_of_removed(id)).count(),
        twice.len()
    );
    for (address, id) in &seen.named {
        let (pod, holder) = twice.remove(address).unwrap();
        assert!(id.starts_with(&holder) && seen.held.insert(*address, id.clone()) == Some(pod));
    }
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(held, seen.held);
    let ranges = |router: &Router| ipam(router.host()).unwrap().ranges;
    for router in &routers[1..] {
        let is_same = |_: &_| ranges(router) == ranges(&routers[0]);
        router
            .wait_until("it sees the same owners", LATER, is_same)
            .unwrap();
    }
    assert!(ranges(&routers[0]).iter().all(|range| !range.frozen));
}
