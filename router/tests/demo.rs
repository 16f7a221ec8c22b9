//! The demo as people run it: as root, as an ordinary user, interrupted, killed. It must pass, and
//! leave nothing.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "what helps a test may fail as a test fails")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// For the whole demo on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// A user without any right.
const NOBODY: &str = "65534";
/// A file as small as the table still makes sense with.
const ARGUMENTS: [&str; 5] = ["demo", "--hosts", "2", "--bytes", "4M"];

/// A place of its own for one demo: a copy of the program, by which its processes are known, and a
/// folder for temporary files, which must be empty afterwards.
struct Place {
    folder: tempfile::TempDir,
    /// Interfaces of this host before; the demo makes none here.
    links: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("weft-demo-test-")
            .tempdir()
            .unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(folder.path(), 0o755);
        let place = Self {
            folder,
            links: links(),
        };
        fs::copy(env!("CARGO_BIN_EXE_weft"), place.program()).unwrap();
        fs::create_dir(place.temporary()).unwrap();
        open(&place.temporary(), 0o777);
        place
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("weft")
    }

    fn temporary(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("TMPDIR", self.temporary()).stdin(Stdio::null());
        command
    }

    fn demo(&self, more: &[&str]) -> Command {
        let mut command = self.command(self.program());
        command.args(ARGUMENTS).args(more);
        command
    }

    /// The demo as an ordinary user. /dev/net is replaced by one with a tun device that all may use, in a
    /// mount namespace that only this command sees.
    fn demo_as_nobody(&self, device: &str) -> Command {
        let script = format!(
            "set -e; mount -t tmpfs -o mode=0755 tmpfs /dev/net; {device}; \
             exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all \"$@\""
        );
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command.arg(self.program()).args(ARGUMENTS).arg("--json");
        command
    }

    /// Processes that run this place's copy of the program.
    fn processes(&self) -> Vec<String> {
        let Ok(program) = fs::canonicalize(self.program()) else {
            return Vec::new();
        };
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let running = fs::read_link(entry.path().join("exe")).ok()?;
                (running == program).then(|| entry.file_name().to_string_lossy().into_owned())
            })
            .collect()
    }

    /// Namespaces live in processes and in mounts only; so these three are all that could be left.
    fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), [""; 0]);
        let left: Vec<_> = fs::read_dir(self.temporary())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        self.assert_kernel_untouched();
    }

    fn assert_kernel_untouched(&self) {
        let ours = |name: &&String| name.starts_with("weft") || name.starts_with("vw");
        assert_eq!(
            links().iter().filter(ours).collect::<Vec<_>>(),
            self.links.iter().filter(ours).collect::<Vec<_>>()
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.path().to_string_lossy().into_owned();
        assert!(!mounts.lines().any(|line| line.contains(&folder)), "{mounts}");
    }
}

fn links() -> Vec<String> {
    let mut links: Vec<_> = fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    links.sort();
    links
}

/// Runs to the end, or fails after [`PATIENCE`].
fn run(mut command: Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let (out, err) = (
        tempfile::NamedTempFile::new().unwrap(),
        tempfile::NamedTempFile::new().unwrap(),
    );
    command
        .stdout(out.reopen().unwrap())
        .stderr(err.reopen().unwrap());
    let mut child = command.spawn().unwrap_or_else(|e| {
        panic!("cannot start {program} (unshare and setpriv are in the Debian package util-linux): {e}")
    });
    let status = weft_kernel::process::wait(&mut child, PATIENCE).unwrap();
    let text = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (stdout, stderr) = (text(out.path()), text(err.path()));
    let Some(status) = status else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!(
            "not over after {PATIENCE:?}\n{}",
            String::from_utf8_lossy(&stderr)
        );
    };
    Output {
        status,
        stdout,
        stderr,
    }
}

/// Asserts that a demo with `--json` succeeded, with every line passed.
fn assert_passed(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report:#}");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 10, "{report:#}");
    for row in rows {
        assert_eq!(row["passed"], true, "{row:#}\n{errors}");
    }
}

#[test]
fn as_root() {
    let place = Place::new();
    assert_passed(&run(place.demo(&["--json"])));
    place.assert_nothing_left();
}

#[test]
fn as_an_ordinary_user() {
    let place = Place::new();
    assert_passed(&run(place.demo_as_nobody("mknod -m 0666 /dev/net/tun c 10 200")));
    place.assert_nothing_left();
}

#[test]
fn three_hosts_and_a_table() {
    let place = Place::new();
    let mut command = place.command(place.program());
    command.args(["demo", "--hosts", "3", "--bytes", "1M"]);
    let output = run(command);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "3 hosts in 1 cluster",
        "30 of 30",
        "SHA-256",
        "Gbit/s",
        "expected",
        "seen",
    ] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    assert!(!table.contains("FAIL"), "{table}");
    place.assert_nothing_left();
}

#[test]
fn without_a_tun_device_it_says_so() {
    for (device, words) in [
        ("true", "mknod /dev/net/tun"),
        ("mknod -m 0600 /dev/net/tun c 10 200", "chmod 0666"),
    ] {
        let place = Place::new();
        let output = run(place.demo_as_nobody(device));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(errors.contains(words) && !errors.contains("panicked"), "{errors}");
        place.assert_nothing_left();
    }
}

#[test]
fn bad_arguments_are_named() {
    let place = Place::new();
    for (arguments, words) in [
        (["demo", "--hosts", "1"], "2..=8"),
        (["demo", "--hosts", "9"], "2..=8"),
        (["demo", "--bytes", "64T"], "K, M or G"),
        (["demo", "--bytes", "1"], "from 64K to 1G"),
    ] {
        let mut command = place.command(place.program());
        command.args(arguments);
        let output = run(command);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(words), "{errors}");
    }
    place.assert_nothing_left();
}

/// A demo that runs beside the test, and not longer.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, which is what most tests want.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a demo that stays, and waits until it has said how to step in.
fn kept(place: &Place) -> (Running, Vec<String>) {
    let mut command = place.demo(&["--keep"]);
    command
        .stdout(Stdio::piped())
        .stderr(File::create(place.folder.path().join("errors")).unwrap());
    let mut running = Running(command.spawn().unwrap());
    let mut lines = Vec::new();
    // The demo's own waits are bounded, so this ends.
    for line in BufReader::new(running.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let last = line.starts_with("Ctrl-C ends");
        lines.push(line);
        if last {
            return (running, lines);
        }
    }
    let errors = fs::read_to_string(place.folder.path().join("errors")).unwrap();
    panic!("it did not stay:\n{}\n{errors}", lines.join("\n"));
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn kept_until_ctrl_c() {
    let place = Place::new();
    let (mut demo, lines) = kept(&place);
    // The line for a host leads into its namespace, where its router is.
    let line = lines.iter().find(|line| line.contains("host b")).unwrap();
    let step_in = line
        .split_once("nsenter")
        .unwrap()
        .1
        .replace("$SHELL", "ls /sys/class/net");
    let inside = Command::new("sh")
        .args(["-c", &format!("nsenter{step_in}")])
        .output()
        .unwrap();
    assert!(
        inside.status.success(),
        "{}",
        String::from_utf8_lossy(&inside.stderr)
    );
    let status = lines
        .iter()
        .find(|line| line.contains("weft status --socket"))
        .unwrap();
    let arguments = status.trim().strip_prefix("weft ").unwrap().split(' ');
    assert!(
        run({
            let mut command = place.command(place.program());
            command.args(arguments);
            command
        })
        .status
        .success()
    );

    signal("INT", demo.0.id());
    let status = weft_kernel::process::wait(&mut demo.0, PATIENCE)
        .unwrap()
        .unwrap();
    assert!(status.success(), "{status}");
    place.assert_nothing_left();
}

#[test]
fn interrupted_in_the_middle() {
    let place = Place::new();
    let mut command = place.demo(&["--json"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut demo = Running(command.spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("ping")));
    signal("TERM", demo.0.id());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let status = weft_kernel::process::wait(&mut demo.0, PATIENCE)
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(130), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    place.assert_nothing_left();
}

#[test]
fn killed_it_leaves_no_process() {
    let place = Place::new();
    let (mut demo, _) = kept(&place);
    assert!(place.processes().len() >= 3, "{:?}", place.processes());
    demo.0.kill().unwrap();
    demo.0.wait().unwrap();
    // Its children are killed by the kernel; there is nothing of theirs to wait for but their absence.
    let end = Instant::now() + Duration::from_secs(10);
    while !place.processes().is_empty() && Instant::now() < end {
        std::thread::yield_now();
    }
    assert_eq!(place.processes(), [""; 0]);
    place.assert_kernel_untouched();
}
