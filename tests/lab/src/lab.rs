//! The laboratory itself: names, files, the interrupt.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::crossover::Crossover;
use crate::error::{Error, Result};
use crate::host::HostBuilder;
use crate::nat::{self, NatBox};
use crate::program;
use crate::switch::Switch;
use crate::underlay::Underlay;
use crate::wire::{Impairment, Wire};

/// Hosts, and underlays, that one lab takes: their numbers become octets of addresses.
pub(crate) const MAX_MEMBERS: u32 = 200;

/// A laboratory. Everything made in it shares one folder, which is removed with the last of them.
#[derive(Debug)]
pub struct Lab {
    shared: Arc<Shared>,
}

/// What every member of a lab holds on to.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: Mutex<Option<tempfile::TempDir>>,
    path: PathBuf,
    program: PathBuf,
    interrupt: Arc<AtomicBool>,
    underlays: AtomicU32,
    hosts: AtomicU32,
}

impl Lab {
    /// Makes a lab; `label` names its folder, which is below the system's folder for temporary files.
    ///
    /// # Errors
    /// When the folder cannot be made, or `label` is not a file name.
    pub fn new(label: &str) -> Result<Self> {
        Self::with_program(label, program::locate())
    }

    /// A lab whose hosts run this `weft` program.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with_program(label: &str, program: impl Into<PathBuf>) -> Result<Self> {
        check_name(label)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("weft-lab-{label}-"))
            .tempdir()
            .map_err(|e| Error::io("make the lab's folder", e))?;
        Ok(Self {
            shared: Arc::new(Shared {
                path: folder.path().to_owned(),
                folder: Mutex::new(Some(folder)),
                program: program.into(),
                interrupt: Arc::default(),
                underlays: AtomicU32::new(0),
                hosts: AtomicU32::new(0),
            }),
        })
    }

    /// The flag that ends every wait of this lab with [`Error::Interrupted`], for a signal handler to raise.
    #[must_use]
    pub fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.interrupt)
    }

    /// The lab's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.shared.path
    }

    /// Leaves the folder, with the logs in it, where it is. Processes and namespaces end all the same.
    pub fn keep(&self) -> &Path {
        let mut folder = self.shared.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folder.take() {
            let _ = folder.keep();
        }
        &self.shared.path
    }

    /// Writes a file that only its owner can read, such as a token, into the lab's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn secret_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        check_name(name)?;
        let path = self.shared.path.join(name);
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        match written {
            Ok(()) => Ok(path),
            Err(e) => Err(Error::io(format!("write {}", path.display()), e)),
        }
    }

    /// A switch made of a kernel bridge: fast, and perfect until it is partitioned.
    ///
    /// # Errors
    /// When the kernel refuses a namespace or a bridge.
    pub fn switch(&self) -> Result<Switch> {
        Switch::new(self.next_underlay()?)
    }

    /// A cable for two hosts: the underlay that costs least.
    ///
    /// # Errors
    /// When the kernel refuses a namespace.
    pub fn crossover(&self) -> Result<Crossover> {
        Crossover::new(self.next_underlay()?)
    }

    /// A switch in userspace that does harm to what it carries.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn wire(&self, impairment: Impairment) -> Result<Wire> {
        Wire::new(self.next_underlay()?, impairment)
    }

    /// Begins a host; names are unique within the lab.
    pub fn host(&self, name: &str) -> HostBuilder {
        HostBuilder::new(Arc::clone(&self.shared), name)
    }

    /// A router that hides what is on `inside` behind its own address on `outside`.
    ///
    /// # Errors
    /// When the kernel refuses, or the program `nft` is missing.
    pub fn nat_box(&self, name: &str, inside: &dyn Underlay, outside: &dyn Underlay) -> Result<NatBox> {
        nat::build(self, name, inside, outside)
    }

    fn next_underlay(&self) -> Result<u32> {
        next(&self.shared.underlays, "one more underlay")
    }
}

impl Shared {
    pub(crate) fn folder(&self) -> &Path {
        &self.path
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Ends a wait when the flag is up.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// The next host's number, from 1.
    pub(crate) fn next_host(&self) -> Result<u32> {
        Ok(next(&self.hosts, "one more host")? + 1)
    }
}

fn next(counter: &AtomicU32, what: &str) -> Result<u32> {
    let number = counter.fetch_add(1, Ordering::Relaxed);
    if number < MAX_MEMBERS {
        Ok(number)
    } else {
        Err(Error::invalid(
            what,
            "a lab has at most 200 hosts and 200 underlays",
        ))
    }
}

/// Refuses what cannot be a file name and a nickname alike.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let usable = (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if usable {
        Ok(())
    } else {
        Err(Error::invalid(
            format!("the name {name:?}"),
            "a name has 1 to 32 letters, digits, hyphens and underscores",
        ))
    }
}
