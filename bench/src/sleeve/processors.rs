//! Processor time of the whole machine: `/proc/stat` (proc_stat(5)).
//!
//! Busy is what is neither idle nor waiting for a disk nor taken by the hypervisor. The kernel measures idle time
//! exactly, while it only samples what a busy processor does, so nothing between two ticks is missed. Interrupts and
//! soft interrupts count, in whichever process they happen to run.

use anyhow::{Context, anyhow};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// What `/proc/stat` counts in: USER_HZ, which is part of Linux' ABI.
const TICKS_PER_SECOND: f64 = 100.0;
/// Columns of the line `cpu`, after its name: idle, iowait, steal.
const NOT_OURS: [usize; 3] = [3, 4, 7];

/// Processor time since some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    at: Instant,
    counted: Counted,
}

/// What `/proc/stat` says.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    processors: usize,
    /// Seconds, over all processors, in which nothing ran here.
    unused: f64,
}

/// How busy the machine was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// How long it was watched.
    pub(super) elapsed: Duration,
    /// Seconds of processor time.
    pub(super) busy: f64,
}

impl Usage {
    /// How many processors were busy, on average.
    pub(super) fn processors(&self) -> f64 {
        self.busy / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

impl Since {
    pub(super) fn now() -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            counted: read()?,
        })
    }

    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        let (now, elapsed) = (read()?, self.at.elapsed());
        Ok(Usage {
            elapsed,
            busy: busy(&self.counted, &now, elapsed),
        })
    }
}

/// Processor time of each thread of a process (`/proc/PID/task/TID/schedstat`): exact, and with what soft interrupts did
/// while it ran.
#[derive(Debug)]
pub(super) struct Running {
    process: u32,
    threads: BTreeMap<OsString, u64>,
}

impl Running {
    pub(super) fn of(process: u32) -> anyhow::Result<Self> {
        Ok(Self {
            process,
            threads: threads(process)?,
        })
    }

    /// Seconds since then. A thread that has ended meanwhile is left out.
    pub(super) fn until_now(&self) -> anyhow::Result<f64> {
        let since = |(thread, now): (&OsString, &u64)| {
            now.saturating_sub(self.threads.get(thread).copied().unwrap_or_default())
        };
        let nanoseconds: u64 = threads(self.process)?.iter().map(since).sum();
        Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
    }
}

/// Nanoseconds on a processor, by thread.
fn threads(process: u32) -> anyhow::Result<BTreeMap<OsString, u64>> {
    let folder = format!("/proc/{process}/task");
    let mut threads = BTreeMap::new();
    for thread in std::fs::read_dir(&folder).context(folder)? {
        let thread = thread?;
        // One that has just ended has no file any more.
        if let Ok(text) = std::fs::read_to_string(thread.path().join("schedstat")) {
            let first = text.split_whitespace().next().and_then(|word| word.parse().ok());
            threads.insert(
                thread.file_name(),
                first.context("schedstat of a thread holds no number")?,
            );
        }
    }
    Ok(threads)
}

fn busy(before: &Counted, after: &Counted, elapsed: Duration) -> f64 {
    let all = elapsed.as_secs_f64() * after.processors as f64;
    // The last digit of the counters makes this a little less than nothing on an idle machine.
    (all - (after.unused - before.unused)).max(0.0)
}

fn read() -> anyhow::Result<Counted> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    parse(&text)
        .ok_or_else(|| anyhow!("/proc/stat begins with something else than the time of all processors"))
}

fn parse(text: &str) -> Option<Counted> {
    let mut lines = text.lines().take_while(|line| line.starts_with("cpu"));
    let all: Vec<u64> = lines
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    let ticks = NOT_OURS
        .iter()
        .map(|column| all.get(*column))
        .sum::<Option<u64>>()?;
    Some(Counted {
        processors: lines.count(),
        unused: ticks as f64 / TICKS_PER_SECOND,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_that_was_not_idle_waiting_or_stolen() {
        let before = parse("cpu  0 0 0 100 10 0 0 5 0 0\ncpu0 0\ncpu1 0\nintr 1\n").unwrap();
        let after = parse("cpu  9 9 9 180 20 9 9 15 0 0\ncpu0 0\ncpu1 0\nintr 1\n").unwrap();
        assert_eq!((before.processors, before.unused), (2, 1.15));
        // Two processors for a second, less 80, 10 and 10 ticks.
        let busy = busy(&before, &after, Duration::from_secs(1));
        assert!((busy - 1.0).abs() < 1e-9, "{busy}");
        assert!(parse("intr 1\n").is_none());
    }

    #[test]
    fn the_time_of_a_process_is_that_of_its_threads() {
        let running = Running::of(std::process::id()).unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let seconds = running.until_now().unwrap();
        assert!(seconds > 0.001, "{seconds}");
        assert!(Running::of(0).is_err());
    }

    #[test]
    fn this_machine_can_be_read() {
        let since = Since::now().unwrap();
        let usage = since.usage().unwrap();
        assert!(usage.busy <= usage.elapsed.as_secs_f64() * since.counted.processors as f64);
        assert!(since.counted.processors > 0);
    }
}
