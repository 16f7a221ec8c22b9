//! Network namespaces.
//!
//! A namespace lives as long as a file descriptor, a process or a thread holds it. [`Namespace`]
//! holds a file descriptor; nothing is mounted, so nothing remains when the holder dies.
//!
//! [`Namespace::run`] and [`Namespace::spawn_thread`] use a new thread each: it enters the
//! namespace, and never returns to another one. Only [`Namespace::spawn`] needs a thread that
//! stays, because the signal a child gets at its parent's death is tied to the thread that
//! started it (`PR_SET_PDEATHSIG`, prctl(2)).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Error, Result};
use crate::link;

/// The namespace of the calling thread. `/proc/self` would be the main thread's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Names a network namespace for as long as it exists: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The inode number, as `ls -l /proc/<pid>/ns/net` and `lsns` show it.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

/// A network namespace, kept alive by this handle and its clones.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    id: NamespaceId,
    /// Made at the first [`Namespace::spawn`]; its thread ends when this sender is dropped.
    starter: Mutex<Option<mpsc::SyncSender<StartJob>>>,
}

/// A child to be started, and where the result goes.
type StartJob = (Command, mpsc::SyncSender<io::Result<Child>>);

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Namespace {}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Namespace {
    /// Makes a new network namespace, with `lo` up.
    ///
    /// # Errors
    /// When the process may not make one (`CAP_SYS_ADMIN` is needed).
    pub fn new() -> Result<Self> {
        let make = || {
            // SAFETY: CLONE_NEWNET alone changes nothing but this thread's view of the network; the
            // file descriptor table stays shared, which is what `unshare_unsafe` asks for.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| {
                Error::Refused {
                    action: "make a network namespace".into(),
                    errno,
                    detail: if errno == Errno::NOSPC {
                        "the limit in /proc/sys/user/max_net_namespaces is reached".into()
                    } else {
                        String::new()
                    },
                }
            })?;
            link::set_up("lo")?;
            Self::current()
        };
        on_new_thread("weft-netns", make)?
    }

    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        let file = File::open(OWN_NAMESPACE).map_err(|e| Error::io(format!("open {OWN_NAMESPACE}"), e))?;
        Self::from_file(file, OWN_NAMESPACE.as_ref())
    }

    /// Opens a namespace by path: `/proc/<pid>/ns/net`, `/run/netns/<name>`, [`Namespace::path`].
    ///
    /// # Errors
    /// The path cannot be opened, is not a network namespace, or may not be entered. The error names the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opening = || format!("open the network namespace {}", path.display());
        let file = File::open(path).map_err(|e| Error::io(opening(), e))?;
        let namespace = Self::from_file(file, path)?;
        // Entering is the only test that also covers bind mounts.
        on_new_thread("weft-netns", || enter(namespace.as_fd()))?.map_err(|errno| match errno {
            Errno::INVAL => Error::NotANamespace { path: path.into() },
            errno => Error::io(format!("enter the network namespace {}", path.display()), errno),
        })?;
        Ok(namespace)
    }

    fn from_file(file: File, path: &Path) -> Result<Self> {
        let metadata = file
            .metadata()
            .map_err(|e| Error::io(format!("examine {}", path.display()), e))?;
        let id = NamespaceId {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Self(Arc::new(Inner {
            fd: file.into(),
            id,
            starter: Mutex::new(None),
        })))
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it. Calls may overlap.
    ///
    /// # Errors
    /// [`Error::Panicked`] with the message when `work` panics; otherwise when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_new_thread("weft-netns", || {
            enter(self.as_fd()).map_err(|e| Error::io("enter the network namespace", e))?;
            Ok(work())
        })?
    }

    /// Starts a thread that works inside the namespace for as long as `work` runs.
    ///
    /// # Errors
    /// When the thread cannot be started. If it cannot enter the namespace, that too is reported here.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let (entered, wait) = mpsc::sync_channel(1);
        let namespace = self.clone();
        let handle = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let result = enter(namespace.as_fd());
                let inside = result.is_ok();
                // The starter waits for exactly this message; it cannot have gone.
                let _ = entered.send(result);
                if !inside {
                    // Ends the thread quietly: the caller has the error, and drops this handle.
                    std::panic::resume_unwind(Box::new("not inside the network namespace"));
                }
                work()
            })
            .map_err(|e| Error::io(format!("start the thread {name}"), e))?;
        match wait.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(errno)) => Err(Error::io("enter the network namespace", errno)),
            Err(_) => Err(Error::Panicked(format!("thread {name} ended before it began"))),
        }
    }

    /// Starts a child process inside the namespace. It is killed when the last clone of this
    /// handle is dropped, and when this process dies for whatever reason.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        let parent = rustix::process::getpid();
        let die_with_parent = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // If the parent died before the line above, no signal will come.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(Errno::SRCH.into())
            }
        };
        // SAFETY: the closure runs between fork and exec. It only makes two system calls, prctl and
        // getppid, through rustix's raw system call wrappers: no allocation, no lock.
        unsafe { command.pre_exec(die_with_parent) };
        let (reply, result) = mpsc::sync_channel(1);
        self.starter()?
            .send((command, reply))
            .map_err(|_| Error::Panicked("the thread that starts children is gone".into()))?;
        result
            .recv()
            .map_err(|_| Error::Panicked("the thread that starts children is gone".into()))?
            .map_err(|e| Error::io(format!("start {program}"), e))
    }

    /// The channel to the thread that starts children.
    fn starter(&self) -> Result<mpsc::SyncSender<StartJob>> {
        let mut starter = self.0.starter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(starter) = &*starter {
            return Ok(starter.clone());
        }
        let (sender, jobs) = mpsc::sync_channel::<StartJob>(1);
        let fd = self
            .0
            .fd
            .try_clone()
            .map_err(|e| Error::io("duplicate a file descriptor", e))?;
        Builder::new()
            .name("weft-netns-start".into())
            .spawn(move || {
                let entered = enter(fd.as_fd());
                for (mut command, reply) in jobs {
                    let result = entered.map_err(io::Error::from).and_then(|()| command.spawn());
                    let _ = reply.send(result);
                }
            })
            .map_err(|e| Error::io("start a thread", e))?;
        *starter = Some(sender.clone());
        Ok(sender)
    }

    /// The namespace's file descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    /// A path to the namespace, usable by any process allowed to look into this one, while this handle lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.fd.as_raw_fd()).into()
    }

    /// What tells this namespace from all others.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.0.id
    }
}

/// Moves the calling thread for good.
fn enter(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
}

/// Runs `work` on a thread that ends with it, so no thread is left in a foreign namespace.
fn on_new_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, work)
            .map_err(|e| Error::io("start a thread", e))?;
        thread
            .join()
            .map_err(|panic| Error::Panicked(panic_text(&*panic)))
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
