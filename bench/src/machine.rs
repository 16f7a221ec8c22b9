//! What else the machine was doing, and where the files were.

use anyhow::{Context, anyhow};
use serde::Serialize;
use std::path::Path;

/// A processor that is busy for less than this share of the last minute is idle enough.
const IDLE_SHARE: f64 = 0.25;
/// `f_type` of tmpfs (statfs(2)), where a sync costs nothing.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The machine at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: usize,
    /// Load average of the last minute (proc_loadavg(5)).
    pub load: f64,
    /// True when little else can have disturbed the figures.
    pub idle: bool,
    /// Kernel release.
    pub kernel: String,
    /// True when files are in memory: then the durable figures say nothing about a disk.
    pub in_memory: bool,
}

impl Machine {
    /// Looks at the machine and at the file system of a folder.
    ///
    /// # Errors
    /// `/proc` is not mounted, or the folder is not there.
    pub fn look(folder: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
        let load: f64 = text
            .split(' ')
            .next()
            .and_then(|first| first.parse().ok())
            .ok_or_else(|| anyhow!("/proc/loadavg holds no load average: {text:?}"))?;
        let processors = std::thread::available_parallelism().context("processors")?.get();
        let files = rustix::fs::statfs(folder).with_context(|| folder.display().to_string())?;
        Ok(Self {
            processors,
            load,
            idle: load < IDLE_SHARE * processors as f64,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            in_memory: files.f_type == TMPFS_MAGIC,
        })
    }
    /// In lines.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{} processors, Linux {}, load average {:.2}: {}\n",
            self.processors,
            self.kernel,
            self.load,
            if self.idle {
                "the machine was idle"
            } else {
                "the machine was NOT idle, so figures of areas without an idle gate are worse than they would be"
            }
        );
        if self.in_memory {
            text.push_str(
                "files are in memory (tmpfs): the durable figures say nothing about a disk; see --dir\n",
            );
        }
        text
    }
}
