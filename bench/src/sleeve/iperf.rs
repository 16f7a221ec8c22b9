//! `iperf3`, and what it reports in JSON.

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use weft_lab::{Error, Station};

/// Where it may be.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"];
/// Its own port, in the form of `/proc/net/tcp`: 5201.
const LISTENING: &str = ":1451 ";
/// `TCP_LISTEN` there.
const STATE_LISTEN: &str = " 0A ";
/// By then a server listens.
const PATIENCE: Duration = Duration::from_secs(5);
/// It is looked for this often.
const GLANCE: Duration = Duration::from_millis(5);
/// The congestion control of every transfer, at both ends. The machine's own default may pace, which changes ratios.
/// It is asked for on the sockets: not every machine lets a namespace have another default than its own.
const CONGESTION: &str = "cubic";

/// Where the program is.
pub(super) fn find() -> Result<PathBuf, Error> {
    program("iperf3").ok_or(Error::MissingProgram {
        program: "iperf3",
        package: "iperf3",
    })
}

/// A program by its name, in the folders of the system and of PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    FOLDERS
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A process that ends with this handle.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Starts a program in a namespace; what it says goes nowhere but into `log`.
    pub(super) fn start(place: &Station, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let log = std::fs::File::create(log).with_context(|| log.display().to_string())?;
        // Out of the reach of Ctrl-C: it is ended when all that uses it has ended.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(Self(place.namespace().spawn(command)?))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<std::process::ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends well if it can, so that it removes its own files.
        let _ = weft_kernel::process::terminate(&mut self.0, Duration::from_secs(1));
    }
}

/// A server in a pod.
pub(super) fn serve(pod: &Station, log: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(find()?);
    command.arg("--server");
    let mut server = Process::start(pod, command, log)?;
    let end = Instant::now() + PATIENCE;
    let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", server.pid()));
    loop {
        let listens = |table: &String| {
            let text = std::fs::read_to_string(table).unwrap_or_default();
            text.lines()
                .any(|line| line.contains(LISTENING) && line.contains(STATE_LISTEN))
        };
        if tables.iter().any(listens) {
            return Ok(server);
        }
        if let Some(status) = server.ended()? {
            bail!("iperf3 --server ended at once ({status})");
        }
        if Instant::now() > end {
            bail!("iperf3 --server does not listen after {PATIENCE:?}");
        }
        std::thread::sleep(GLANCE);
    }
}

/// What a transfer came to, at the receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Received {
    /// Octets of payload.
    pub(super) octets: f64,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Received {
    pub(super) fn gbit_per_second(&self) -> f64 {
        self.octets * 8.0 / self.seconds / 1e9
    }
}

/// A transfer by TCP from one pod to the server in another.
pub(super) fn tcp(from: &Station, to: IpAddr, streams: u32, seconds: u32) -> anyhow::Result<Received> {
    let streams = streams.to_string();
    let arguments = ["--parallel", &streams, "--congestion", CONGESTION];
    let report = run(from, to, seconds, &arguments)?;
    for end in ["sender", "receiver"] {
        let used = report
            .pointer(&format!("/end/{end}_tcp_congestion"))
            .and_then(Value::as_str);
        if used != Some(CONGESTION) {
            bail!("the {end} used the congestion control {used:?} instead of {CONGESTION}");
        }
    }
    received(&report)
}

/// As many datagrams by UDP as leave the sender; the sizes are those of their payload.
pub(super) fn udp(from: &Station, to: IpAddr, payload: u32, seconds: u32) -> anyhow::Result<Received> {
    let payload = payload.to_string();
    let flood = ["--udp", "--bitrate", "0", "--length", &payload];
    received(&run(from, to, seconds, &flood)?)
}

fn run(from: &Station, to: IpAddr, seconds: u32, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(find()?);
    command
        .args([
            "--client",
            &to.to_string(),
            "--time",
            &seconds.to_string(),
            "--json",
        ])
        .args(arguments);
    let output = from.run(command, None)?;
    // A failure is in the JSON too, and says more there.
    let report: Value = serde_json::from_str(&output.stdout).map_err(|error| {
        anyhow!(
            "iperf3 reports no JSON: {error}; {} {}",
            output.stdout,
            output.stderr
        )
    })?;
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    output.success()?;
    Ok(report)
}

fn received(report: &Value) -> anyhow::Result<Received> {
    let number = |name: &str| {
        report
            .pointer(&format!("/end/sum_received/{name}"))
            .and_then(Value::as_f64)
            .with_context(|| format!("the report of iperf3 lacks end.sum_received.{name}"))
    };
    let received = Received {
        octets: number("bytes")?,
        seconds: number("seconds")?,
    };
    if received.octets > 0.0 && received.seconds > 0.0 {
        Ok(received)
    } else {
        bail!("nothing arrived")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_what_the_receiver_got() {
        let report = serde_json::json!({"end": {
            "sum_sent": {"bytes": 5e9, "seconds": 1.0},
            "sum_received": {"bytes": 2.5e9, "seconds": 2.0},
        }});
        assert_eq!(received(&report).unwrap().gbit_per_second(), 10.0);
        let nothing = serde_json::json!({"end": {"sum_received": {"bytes": 0, "seconds": 2.0}}});
        assert_eq!(received(&nothing).unwrap_err().to_string(), "nothing arrived");
        let other = received(&serde_json::json!({})).unwrap_err().to_string();
        assert!(other.contains("end.sum_received.bytes"), "{other}");
    }
}
