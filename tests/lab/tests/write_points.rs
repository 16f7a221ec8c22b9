//! A router that dies at any of the points where something becomes durable, and its next start.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use weft_lab::{Api, Host, Lab, Router, Switch};
use weft_store::WritePoint;
use weft_store::point::{Append, Occasion, Step};
use weft_wire::api::{ClusterStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(20);
/// A router that does not answer yet is asked again after this.
const GLANCE: Duration = Duration::from_millis(10);
/// Connections that ask a router for addresses at once, so that the disk always has something to do.
const WORKERS: usize = 4;
/// The time of getting to a point at which a router under work dies, so that some of it was answered before.
const UNDER_WORK: &str = ":20";

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

/// The keys of a host as its state file holds them, behind the file's and the record's headers; none without a file.
fn identity(host: &Host) -> Option<Vec<u8>> {
    let bytes = fs::read(host.state_dir().join("state")).ok()?;
    Some(bytes.get(24..24 + 96)?.to_vec())
}

fn genesis(status: &Status) -> String {
    match &status.cluster {
        ClusterStatus::Member { genesis, .. } => genesis.clone(),
        other => panic!("{other:?}"),
    }
}

/// What was given out: each address with the pod that has it. Names of pods begin with their host's.
#[derive(Default)]
struct Given(BTreeMap<IpAddr, String>);

impl Given {
    fn add(&mut self, id: String, address: IpAddr) {
        if let Some(other) = self.0.insert(address, id.clone()) {
            panic!("{address} is given to {other} and to {id}");
        }
    }

    fn allocate(&mut self, host: &Host, label: &str) {
        let id = format!("{}-{label}", host.name());
        let address = Api::connect(host).unwrap().allocate(&id).unwrap();
        self.add(id, address);
    }

    /// These hosts hold every address that was answered to them, and no address has two pods, answered or not.
    fn assert_held(&self, hosts: &[&Host]) {
        let mut held = BTreeMap::new();
        for host in hosts {
            for used in Api::connect(host).unwrap().ipam().unwrap().used {
                assert!(used.id.starts_with(host.name()), "{used:?} on {}", host.name());
                assert_eq!(held.insert(used.address, used.id), None, "{}", used.address);
            }
        }
        let of_these = |id: &String| hosts.iter().any(|host| id.starts_with(host.name()));
        for (address, id) in self.0.iter().filter(|(_, id)| of_these(id)) {
            assert_eq!(held.get(address), Some(id), "{address} was answered");
        }
    }
}

/// A host that is killed again and again.
struct Victim {
    host: Host,
    arguments: Vec<String>,
    identity: Option<Vec<u8>>,
    running: Option<Router>,
}

impl Victim {
    fn new(lab: &Lab, switch: &Switch, name: &str, arguments: &[&str]) -> Self {
        Self {
            host: lab.host(name).on(switch).build().unwrap(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            identity: None,
            running: None,
        }
    }

    /// Starts it, does this work, and sees it die at this point.
    fn die_at<T>(&mut self, point: WritePoint, time: &str, work: impl FnOnce(&Router) -> T) -> T {
        drop(self.running.take());
        let crash = ["--crash-at".to_owned(), format!("{point}{time}")];
        let router = self.host.up(self.arguments.iter().chain(&crash)).unwrap();
        let done = work(&router);
        let ended = router.wait(SOON).unwrap();
        let ended = ended.unwrap_or_else(|| panic!("{point} was never reached\n{}", router.log_tail()));
        assert_eq!(ended.signal(), Some(9), "{point}: {ended}\n{}", router.log_tail());
        let last_words = format!("dies at write point {point},");
        assert!(router.log_tail().contains(&last_words), "{}", router.log_tail());
        done
    }

    /// Starts it again, as what it was before.
    fn come_back(&mut self) -> Status {
        let before = identity(&self.host);
        assert!(before.is_some() && (self.identity.is_none() || self.identity == before));
        let status = self.start();
        assert_eq!(self.identity, before);
        status
    }

    fn start(&mut self) -> Status {
        let router = self.host.up(&self.arguments).unwrap();
        let status = router.wait_until("it is a member", SOON, is_member).unwrap();
        self.identity = identity(&self.host);
        self.running = Some(router);
        status
    }
}

/// Connects to a router as soon as it answers; `None` when it is dead before.
fn connect(router: &Router) -> Option<Api> {
    loop {
        match Api::connect(router.host()) {
            Ok(api) => return Some(api),
            Err(_) if router.wait(GLANCE).unwrap().is_some() => return None,
            Err(_) => {}
        }
    }
}

/// Asks a router for addresses on several connections until it dies; what it answered.
fn flood(router: &Router, label: &str) -> Vec<(String, IpAddr)> {
    let host = router.host();
    let work = |worker| {
        let mut answered = Vec::new();
        let Some(mut api) = connect(router) else {
            return answered;
        };
        for number in 0.. {
            let id = format!("{}-{label}-{worker}-{number}", host.name());
            let Ok(address) = api.allocate(&id) else { break };
            answered.push((id, address));
        }
        answered
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || work(worker)))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}

/// Which laboratory a point is tried in: a start takes a second, until another host has confirmed it. None for a point that
/// a host which joins does not come to.
fn laboratory(point: WritePoint) -> Option<usize> {
    match point {
        WritePoint::DirectoryMade
        | WritePoint::File(Occasion::First | Occasion::Start, _)
        | WritePoint::Records(_) => Some(0),
        WritePoint::File(Occasion::Fold, _) => Some(1),
        WritePoint::File(Occasion::Token, _) => Some(2),
        // A member that stays one never gets there.
        WritePoint::File(Occasion::Former | Occasion::Again, _) | WritePoint::Agreement(_) => None,
    }
}
const LABORATORIES: usize = 3;

#[test]
fn a_member_dies_at_every_write_point() {
    let all = |number| {
        WritePoint::ALL
            .into_iter()
            .filter(move |point| laboratory(*point) == Some(number))
    };
    let answered: Vec<usize> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..LABORATORIES)
            .map(|number| scope.spawn(move || members_die(&format!("points{number}"), all(number))))
            .collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // Records and folding: had nothing been answered before, there would be nothing to lose.
    assert!(answered[0] > 0 && answered[1] > 0, "{answered:?}");
}

/// Members of a cluster die at these points, one after the other, and come back; how many addresses a router had
/// answered when it died.
fn members_die(label: &str, points: impl Iterator<Item = WritePoint>) -> usize {
    let lab = Lab::new(label).unwrap();
    let switch = lab.switch().unwrap();
    let founder = lab.host("a").on(&switch).build().unwrap();
    let founder = founder.up(["--found"]).unwrap();
    founder.wait_until("it is a member", SOON, is_member).unwrap();
    let token = lab.secret_file("token", &founder.token().unwrap()).unwrap();
    let token = token.to_str().unwrap();
    let a = founder.host();
    let at_a = a.address().unwrap().to_string();
    let joining = ["--peer", &at_a, "--token-file", token];
    let mut victims = ["b", "c"].map(|name| Victim::new(&lab, &switch, name, &joining));
    let mut newcomers = Vec::new();
    let mut given = Given::default();
    let mut answered_before = 0;

    for point in points {
        let (label, begin) = (point.to_string(), Instant::now());
        let [b, c] = &mut victims;
        let victim = match point {
            WritePoint::DirectoryMade | WritePoint::File(Occasion::First, _) => {
                let is_last = point == WritePoint::File(Occasion::First, Step::Durable);
                let victim = if is_last { c } else { b };
                victim.die_at(point, "", |_| ());
                let is_there = matches!(
                    point,
                    WritePoint::File(Occasion::First, Step::Renamed | Step::Durable)
                );
                assert_eq!(identity(&victim.host).is_some(), is_there, "{point}");
                if !is_there {
                    // It never was: its next start is a new host's.
                    continue;
                }
                victim
            }
            WritePoint::File(Occasion::Start, _) => {
                b.die_at(point, "", |_| ());
                b
            }
            WritePoint::File(Occasion::Token, _) => {
                // Kept with the first write: that of its admission, or of an address that nobody ever hears of.
                b.die_at(point, "", |router| {
                    if let Some(mut api) = connect(router) {
                        let _ = api.allocate("b-first");
                    }
                });
                b
            }
            WritePoint::File(Occasion::Former | Occasion::Again, _) | WritePoint::Agreement(_) => {
                unreachable!("it joins")
            }
            WritePoint::File(Occasion::Fold, _) | WritePoint::Records(_) => {
                if b.running.is_none() {
                    b.start();
                }
                let at_b = b.host.address().unwrap().to_string();
                let answered = b.die_at(point, UNDER_WORK, |router| {
                    if matches!(point, WritePoint::Records(_)) {
                        let host = lab.host(&format!("n-{label}")).on(&switch).build().unwrap();
                        newcomers.push(host.up(["--peer", &at_b, "--token-file", token]).unwrap());
                    }
                    flood(router, &label)
                });
                answered_before += answered.len();
                for (id, address) in answered {
                    given.add(id, address);
                }
                b
            }
        };
        // The other host goes on without it.
        given.allocate(a, &label);
        let cluster = genesis(&victim.come_back());
        assert_eq!(cluster, genesis(&founder.status().unwrap()), "{point}");
        given.assert_held(&[a, &victim.host]);
        given.allocate(&victim.host, &format!("after-{label}"));
        println!("{point}: back after {:.1?}", begin.elapsed());
    }
    for newcomer in &newcomers {
        newcomer.wait_until("it is let in", SOON, is_member).unwrap();
    }
    given.assert_held(&[a, &victims[0].host]);
    answered_before
}

#[test]
fn a_founder_dies_at_every_write_point_before_it_has_founded() {
    let lab = Lab::new("founding").unwrap();
    let switch = lab.switch().unwrap();
    let mut founder = Victim::new(&lab, &switch, "a", &["--found"]);
    let (mut keys, mut token, mut died) = (None, None, 0);
    let once_there = |kept: &mut Option<Vec<u8>>, now: Option<Vec<u8>>, point| {
        assert!(
            kept.is_none() || *kept == now,
            "{point}: what was kept has changed"
        );
        *kept = now;
    };
    for point in WritePoint::ALL {
        let counts = match point {
            WritePoint::DirectoryMade | WritePoint::Records(Append::Torn | Append::Written) => true,
            // Its last step is only reached by one that has not got to the step before.
            WritePoint::File(Occasion::First, step) => step != Step::Durable,
            WritePoint::File(occasion, _) => occasion == Occasion::Token,
            WritePoint::Records(Append::Synced) | WritePoint::Agreement(_) => false,
        };
        if !counts {
            continue;
        }
        founder.die_at(point, "", |_| ());
        died += 1;
        once_there(&mut keys, identity(&founder.host), point);
        once_there(
            &mut token,
            fs::read(founder.host.state_dir().join("token")).ok(),
            point,
        );
    }
    assert_eq!(died, 12);
    assert!(keys.is_some() && token.is_some());
    founder.identity = keys;
    let first = genesis(&founder.come_back());
    assert_eq!(
        genesis(&founder.running.as_ref().unwrap().status().unwrap()),
        first
    );
    let mut given = Given::default();
    given.allocate(&founder.host, "x");
    drop(founder.running.take());
    assert_eq!(genesis(&founder.come_back()), first);
    given.assert_held(&[&founder.host]);
    let kept = fs::read_to_string(founder.host.state_dir().join("token")).unwrap();
    assert_eq!(founder.running.as_ref().unwrap().token().unwrap(), kept.trim());
}

#[test]
fn a_host_dies_at_every_write_point_while_it_adopts_another_cluster() {
    let lab = Lab::new("adopting").unwrap();
    let switch = lab.switch().unwrap();
    let token = lab.secret_file("token", "correct horse battery staple").unwrap();
    let founding = ["--found", "--token-file", token.to_str().unwrap()];
    let a = lab.host("a").on(&switch).build().unwrap().up(founding).unwrap();
    let target = genesis(&a.wait_until("it is a member", SOON, is_member).unwrap());
    let peer = a.host().address().unwrap().to_string();
    let mut given = Given::default();
    given.allocate(a.host(), "x");
    let points = WritePoint::ALL
        .into_iter()
        .filter(|point| matches!(point, WritePoint::File(Occasion::Former | Occasion::Again, _)));
    let mut victims: Vec<(Victim, IpAddr, String)> = Vec::new();
    let mut is_new = true;
    let mut outcomes = BTreeMap::new();
    for (number, point) in points.enumerate() {
        if is_new {
            let name = format!("b{number}");
            let mut victim = Victim::new(&lab, &switch, &name, &founding);
            let own = genesis(&victim.start());
            let address: IpAddr = format!("10.32.1.{}", number + 1).parse().unwrap();
            let mut api = Api::connect(&victim.host).unwrap();
            api.claim(&format!("{name}-pod"), address).unwrap();
            victims.push((victim, address, own));
        }
        let (victim, address, own) = victims.last_mut().unwrap();
        let before = identity(&victim.host);
        victim.die_at(point, "", |router| {
            drop(connect(router));
            let socket = router.host().socket();
            let arguments = [
                "ipam",
                "adopt",
                "--peer",
                &peer,
                "--socket",
                socket.to_str().unwrap(),
            ];
            assert!(!router.host().weft(arguments).unwrap().status.success());
        });
        victim.identity = identity(&victim.host);
        let status = victim.start();
        is_new = victim.identity != before;
        // One or the other: the identity goes with its cluster, and the address is in both.
        assert_eq!(
            genesis(&status),
            if is_new { target.clone() } else { own.clone() },
            "{point}"
        );
        let router = victim.running.as_ref().unwrap();
        let holds = |_: &Status| {
            let used = Api::connect(&victim.host).unwrap().ipam().unwrap().used;
            used.len() == 1 && used[0].address == *address && used[0].id.ends_with("-pod")
        };
        router.wait_until("it has its address", SOON, holds).unwrap();
        outcomes.insert(point.to_string(), is_new);
        if is_new {
            given.add(format!("{}-pod", victim.host.name()), *address);
            given.assert_held(&[a.host(), &victim.host]);
        }
    }
    let gone: Vec<&str> = outcomes
        .iter()
        .filter(|(_, is_new)| **is_new)
        .map(|(point, _)| point.as_str())
        .collect();
    assert_eq!(gone, ["again-file-durable", "again-file-renamed"]);
    assert_eq!(outcomes.len(), 10);
}

#[test]
fn hosts_that_make_a_cluster_together_die_at_every_write_point() {
    let points = [Append::Torn, Append::Written, Append::Synced];
    std::thread::scope(|scope| {
        for point in points {
            scope.spawn(move || founders_die(point));
        }
    });
}

/// One of two hosts that make a cluster together dies when it is bound, when it accepts, and when it founds.
fn founders_die(append: Append) {
    let lab = Lab::new(&format!("together{append:?}").to_lowercase()).unwrap();
    let switch = lab.switch().unwrap();
    let mut pair = ["a", "b"].map(|name| Victim::new(&lab, &switch, name, &[]));
    let made = pair[0]
        .host
        .weft(["token", "--generate"])
        .unwrap()
        .success()
        .unwrap();
    let token = lab.secret_file("token", made.stdout.trim()).unwrap();
    let peers = [0, 1]
        .map(|at| pair[at].host.address().unwrap().to_string())
        .join(",");
    let together = [
        "--expect",
        "2",
        "--peer",
        &peers,
        "--token-file",
        token.to_str().unwrap(),
    ];
    for victim in &mut pair {
        victim.arguments = together.map(str::to_owned).to_vec();
    }
    let [a, b] = &mut pair;
    let other = a.host.up(&a.arguments).unwrap();
    // Its acceptance can be its second or its third write, after another try.
    for point in [
        WritePoint::Agreement(append),
        WritePoint::Agreement(append),
        WritePoint::Records(append),
    ] {
        b.die_at(point, "", |_| ());
        let now = identity(&b.host);
        assert!(
            now.is_some() && (b.identity.is_none() || b.identity == now),
            "{point}"
        );
        b.identity = now;
    }
    let (cluster, status) = {
        let status = b.come_back();
        (genesis(&status), status)
    };
    let there = other.wait_until("it is a member", SOON, is_member).unwrap();
    assert_eq!(genesis(&there), cluster, "{append:?}");
    for status in [&status, &there] {
        let owned = status.ipam.as_ref().unwrap().owned;
        assert!((524_280..=524_288).contains(&owned), "{append:?}: {owned}");
    }
    let mut given = Given::default();
    given.allocate(&a.host, "x");
    given.allocate(&b.host, "y");
    given.assert_held(&[&a.host, &b.host]);
}
