//! A state that cannot be used, and a disk that takes no writes: a sentence with the cure, and nothing lost.
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use weft_lab::{Api, Error, Host, Lab, Router};
use weft_wire::api::{ClusterStatus, Status};

/// For anything that needs no timeout to pass first.
const SOON: Duration = Duration::from_secs(20);
/// Words of the warning and of the refusal while the state cannot be written.
const REFUSED: &str = "no address is given out";

fn is_member(status: &Status) -> bool {
    matches!(status.cluster, ClusterStatus::Member { .. })
}

fn used(host: &Host) -> BTreeMap<IpAddr, String> {
    let used = Api::connect(host).unwrap().ipam().unwrap().used;
    used.into_iter().map(|used| (used.address, used.id)).collect()
}

/// A small file system in memory. It is mounted nowhere: it is reached through this process's descriptor, and ends
/// with it.
struct Disk {
    context: OwnedFd,
    root: OwnedFd,
}

impl Disk {
    fn new(size: &str) -> Self {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        fsconfig_set_string(&context, "size", size).unwrap();
        fsconfig_set_string(&context, "mode", "0700").unwrap();
        fsconfig_create(&context).unwrap();
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        Self { context, root }
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.root.as_raw_fd()).into()
    }

    /// Fills it; what fills it is the file that comes back.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }

    fn make_read_only(&self) {
        fsconfig_set_flag(&self.context, "ro").unwrap();
        fsconfig_reconfigure(&self.context).unwrap();
    }
}

/// Starts a router that must refuse to; what it says, in one line.
fn refusal(host: &Host, arguments: &[&str]) -> String {
    let logged = fs::metadata(host.log_file()).map_or(0, |found| found.len());
    let router = host.up(arguments).unwrap();
    let status = router.wait(SOON).unwrap();
    let mut log = File::open(host.log_file()).unwrap();
    log.seek(SeekFrom::Start(logged)).unwrap();
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let status = status.unwrap_or_else(|| panic!("it runs: {said}"));
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("weft: "), "{said}");
    last.to_owned()
}

/// What is wrong with a file, what makes it so, and words of the refusal.
type Spoil = (&'static str, fn(&mut Vec<u8>), [&'static str; 2]);

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_state_that_cannot_be_used_is_refused_in_words_and_left_as_it_is() {
    let lab = Lab::new("broken").unwrap();
    let switch = lab.switch().unwrap();
    let host = lab.host("a").on(&switch).build().unwrap();
    let start = || -> Router {
        let router = host.up(["--found"]).unwrap();
        router.wait_until("it is a member", SOON, is_member).unwrap();
        router
    };
    let router = start();
    let mut api = Api::connect(&host).unwrap();
    for number in 0..10 {
        api.allocate(&format!("pod-{number}")).unwrap();
    }
    let (given, node) = (used(&host), router.status().unwrap().node);
    assert_eq!(given.len(), 10);
    router.kill().unwrap();

    let path = host.state_dir().join("state");
    let good = fs::read(&path).unwrap();
    let spoil: [Spoil; 5] = [
        (
            "cut off",
            |bytes| bytes.truncate(100),
            ["in the middle of a record", "Restore the file"],
        ),
        (
            "a bit in the middle",
            |bytes| bytes[200] ^= 4,
            ["is damaged", "Restore the file"],
        ),
        // Inside the snapshot's identity, and in the middle of what was appended.
        (
            "a bit of the keys",
            |bytes| bytes[60] ^= 4,
            ["is damaged", "Restore the file"],
        ),
        (
            "a newer version",
            |bytes| bytes[9] += 1,
            ["newer weft", "start that version"],
        ),
        (
            "no state at all",
            |bytes| *bytes = b"hello".to_vec(),
            ["not a weft state file", "move it away"],
        ),
    ];
    for (what, damage, words) in spoil {
        change(&path, damage);
        let spoiled = fs::read(&path).unwrap();
        let said = refusal(&host, &["--found"]);
        for word in words.into_iter().chain([path.to_str().unwrap()]) {
            assert!(said.contains(word), "{what}: {said}");
        }
        assert_eq!(fs::read(&path).unwrap(), spoiled, "{what}");
        fs::write(&path, &good).unwrap();
    }

    let machine = fs::read_to_string(host.machine_id_file()).unwrap();
    fs::write(host.machine_id_file(), "ffffffffffffffffffffffffffffffff\n").unwrap();
    let said = refusal(&host, &["--found"]);
    assert!(
        said.contains("another machine") && said.contains("move"),
        "{said}"
    );
    fs::write(host.machine_id_file(), machine).unwrap();

    let mode = |mode| fs::set_permissions(host.state_dir(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    let said = refusal(&host, &["--found"]);
    assert!(said.contains("mode 777") && said.contains("chmod 700"), "{said}");
    mode(0o700);
    chown(host.state_dir(), Some(4_242), None).unwrap();
    let said = refusal(&host, &["--found"]);
    assert!(said.contains("user 4242") && said.contains("chown 0"), "{said}");
    chown(host.state_dir(), Some(0), None).unwrap();

    // A tail that a crash tore: the last record was never answered, all before it are there.
    assert_eq!(fs::read(&path).unwrap(), good);
    change(&path, |bytes| bytes.extend_from_slice(&good[16..21]));
    let router = start();
    assert_eq!((router.status().unwrap().node, used(&host)), (node, given));
    assert!(
        router.log_tail().contains("torn by a crash"),
        "{}",
        router.log_tail()
    );
}

#[test]
fn a_full_disk_stops_allocation_and_nothing_else() {
    let lab = Lab::new("full").unwrap();
    let switch = lab.switch().unwrap();
    let hosts = ["a", "b"].map(|name| lab.host(name).on(&switch).build().unwrap());
    let [a, b] = &hosts;
    let disk = Disk::new("256k");
    symlink(disk.path(), b.state_dir()).unwrap();
    let first = a.up(["--found"]).unwrap();
    first.wait_until("it is a member", SOON, is_member).unwrap();
    let token = lab.secret_file("token", &first.token().unwrap()).unwrap();
    let second = b
        .up([
            "--peer",
            &a.address().unwrap().to_string(),
            "--token-file",
            token.to_str().unwrap(),
        ])
        .unwrap();
    second.wait_for_peers(1, SOON).unwrap();
    let pods = hosts
        .each_ref()
        .map(|host| host.pod_any(&format!("{}1", host.name())).unwrap());
    let [from, to] = &pods;
    from.ping_until(to.address().unwrap(), SOON).unwrap();
    let node = second.status().unwrap().node;
    let mut given = used(b);

    let filler = disk.fill();
    // The last block of the log takes some more.
    let mut api = Api::connect(b).unwrap();
    let mut number = 0;
    let sentence = loop {
        let id = format!("b-{number}");
        match api.allocate(&id) {
            Ok(address) => assert_eq!(given.insert(address, id), None),
            Err(Error::Refused { sentence, .. }) => break sentence,
            Err(other) => panic!("{other}"),
        }
        number += 1;
        assert!(number < 1_000, "a full disk takes everything");
    };
    for word in [REFUSED, "its disk is full", "Make room"] {
        assert!(sentence.contains(word), "{sentence}");
    }
    let warns = |status: &Status| status.warnings.iter().any(|warning| warning.contains(REFUSED));
    second.wait_until("it warns", SOON, warns).unwrap();
    assert!(
        matches!(api.free("b1"), Err(Error::Refused { .. })),
        "nothing is freed either"
    );
    // Both ways, none lost.
    for (from, to) in [(from, to), (to, from)] {
        let report = from.ping(to.address().unwrap(), 20).unwrap();
        assert!(report.is_complete(), "{report:?}");
    }
    // The other host gives out addresses as before.
    Api::connect(a).unwrap().allocate("a-meanwhile").unwrap();

    fs::remove_file(filler).unwrap();
    second
        .wait_until("it has recovered", SOON, |status| !warns(status))
        .unwrap();
    for number in 0..5 {
        let id = format!("b-later-{number}");
        let address = api.allocate(&id).unwrap();
        assert_eq!(given.insert(address, id), None);
    }
    second.kill().unwrap();
    second.restart().unwrap();
    let status = second.wait_for_peers(1, SOON).unwrap();
    assert_eq!(status.node, node);
    let held = used(b);
    for (address, id) in &given {
        assert_eq!(held.get(address), Some(id), "{address} was answered");
    }

    // A disk that is read-only, or full, when the router starts.
    second.kill().unwrap();
    let before = fs::read(b.state_dir().join("state")).unwrap();
    let filler = disk.fill();
    let said = refusal(b, &[]);
    assert!(said.contains("its disk is full"), "{said}");
    fs::remove_file(filler).unwrap();
    disk.make_read_only();
    let said = refusal(b, &[]);
    assert!(
        said.contains("read-only") && said.contains("--state-dir"),
        "{said}"
    );
    assert_eq!(fs::read(b.state_dir().join("state")).unwrap(), before);
}
