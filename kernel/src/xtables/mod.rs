//! The packet filter of iptables-legacy: its table `filter`, chain FORWARD, and one rule of one's own in it.
//!
//! This part of the kernel knows whole tables only (`linux/netfilter_ipv4/ip_tables.h`): one is read, changed and
//! put back, under the lock that iptables takes too. `blob` is the pure part; here are the system calls.
#![allow(unsafe_code)]

mod blob;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use crate::error::{Error, Result};
use crate::nft::{Condition, Policy, Rule};
use blob::{COUNTER, Info, Table};

/// Lock of all programs that change these tables.
const LOCK: &str = "/run/xtables.lock";
/// Whoever holds it changes one table; longer than this only a stuck program does.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// A change in between is noticed by the kernel; then the table is read again.
const ATTEMPTS: usize = 4;
/// Largest table that is read: a hundred thousand rules.
const TABLE_MAX: usize = 64 << 20;

/// `IPT_SO_GET_INFO`, also `IPT_SO_SET_REPLACE`; IPv6 has the same numbers.
const INFO_OR_REPLACE: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES`, also `IPT_SO_SET_ADD_COUNTERS`.
const ENTRIES_OR_COUNTERS: libc::c_int = 65;

/// Which of the two filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `iptables-legacy`.
    V4,
    /// `ip6tables-legacy`.
    V6,
}

/// The chain FORWARD of the table `filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its policy.
    pub policy: Policy,
    /// Its rules in their order; `handle` is the position, counted from 0.
    pub rules: Vec<Rule>,
}

/// The chain FORWARD. `None` where nobody has used the old table in this network namespace: looking into
/// it would make it.
///
/// # Errors
/// When it cannot be read.
pub fn forward(version: Version) -> Result<Option<Forward>> {
    if !in_use(version) {
        return Ok(None);
    }
    let table = Filter::open(version)?.read()?;
    Ok(Some(Forward {
        policy: table.policy(),
        rules: table.rules(),
    }))
}

/// Puts a rule at the head of the chain that accepts what fulfils all `conditions`, which are about names.
///
/// # Errors
/// When the kernel refuses, or another program holds the lock for long.
pub fn insert_accept(version: Version, conditions: &[Condition], comment: &str) -> Result<()> {
    let rule = blob::accept_rule(version, conditions, comment)?;
    change(version, |table| table.insert(&rule)).map(drop)
}

/// Removes every rule of the chain with this comment; says how many there were.
///
/// # Errors
/// When the kernel refuses, or another program holds the lock for long.
pub fn delete_marked(version: Version, comment: &str) -> Result<usize> {
    if !in_use(version) {
        return Ok(0);
    }
    change(version, |table| {
        let marked: Vec<u64> = table
            .rules()
            .into_iter()
            .filter(|rule| rule.comment.as_deref() == Some(comment))
            .map(|rule| rule.handle)
            .collect();
        // From the last one on, so that the positions of the others stay.
        marked.iter().rev().try_for_each(|at| table.remove(*at))?;
        Ok(marked.len())
    })
}

fn change<T>(version: Version, work: impl Fn(&mut Table) -> Result<T>) -> Result<T> {
    let _lock = lock()?;
    let filter = Filter::open(version)?;
    for _ in 1..ATTEMPTS {
        match filter.attempt(&work) {
            Err(error) if error.errno() == Some(Errno::AGAIN) => {}
            other => return other,
        }
    }
    filter.attempt(&work)
}

fn in_use(version: Version) -> bool {
    let file = match version {
        Version::V4 => "/proc/thread-self/net/ip_tables_names",
        Version::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // Where the kernel has no such tables, there is no such file. The layout is that of 64-bit programs.
    cfg!(target_pointer_width = "64")
        && fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// The lock of iptables; none where it cannot have one either.
fn lock() -> Result<Option<File>> {
    let failed = |e: Errno| Error::io(format!("lock {LOCK}"), e);
    let Ok(file) = File::options().read(true).append(true).create(true).open(LOCK) else {
        return Ok(None);
    };
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            // The lock tells nobody when it becomes free.
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_RETRY),
            Err(e) => return Err(failed(e)),
        }
    }
}

/// A socket by which the kernel is asked about the table `filter`.
struct Filter {
    socket: std::os::fd::OwnedFd,
    version: Version,
}

impl Filter {
    fn open(version: Version) -> Result<Self> {
        let family = match version {
            Version::V4 => AddressFamily::INET,
            Version::V6 => AddressFamily::INET6,
        };
        let raw = Protocol::from_raw(
            rustix::net::RawProtocol::new(libc::IPPROTO_RAW as u32)
                .ok_or_else(|| Error::io("open a raw socket", Errno::PROTONOSUPPORT))?,
        );
        let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(raw))
            .map_err(|e| Error::io("open a raw socket to the packet filter", e))?;
        Ok(Self { socket, version })
    }

    fn read(&self) -> Result<Table> {
        let mut info = Info::request();
        self.get(INFO_OR_REPLACE, &mut info)?;
        let info = Info::parse(&info);
        if info.size > TABLE_MAX {
            return Err(Error::Malformed {
                action: "read the rules of iptables-legacy".into(),
                reason: format!("the table of {} octets is larger than {TABLE_MAX}", info.size),
            });
        }
        let mut entries = info.entries_request();
        self.get(ENTRIES_OR_COUNTERS, &mut entries)?;
        Table::parse(self.version, info, &entries)
    }

    fn attempt<T>(&self, work: &impl Fn(&mut Table) -> Result<T>) -> Result<T> {
        let old = self.read()?;
        let mut new = old.clone();
        let result = work(&mut new)?;
        if new == old {
            return Ok(result);
        }
        // The kernel counts on in the new table from zero and hands the old counts over.
        let mut counters = vec![0_u8; old.len() * COUNTER];
        let replacement = new.replacement(old.len(), counters.as_mut_ptr().expose_provenance());
        self.set(INFO_OR_REPLACE, &replacement)?;
        self.set(ENTRIES_OR_COUNTERS, &new.counters(&counters))?;
        Ok(result)
    }

    fn level(&self) -> libc::c_int {
        match self.version {
            Version::V4 => libc::IPPROTO_IP,
            Version::V6 => libc::IPPROTO_IPV6,
        }
    }

    fn get(&self, option: libc::c_int, buffer: &mut [u8]) -> Result<()> {
        let mut length = buffer.len() as libc::socklen_t;
        // SAFETY: the kernel reads and writes at most `length` octets of `buffer`, which is exclusively borrowed for the
        // call, and the length to `length`. The descriptor is owned, so it is open.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                self.level(),
                option,
                buffer.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            Err(Error::io(
                "read the rules of iptables-legacy",
                io::Error::last_os_error(),
            ))
        } else {
            Ok(())
        }
    }

    fn set(&self, option: libc::c_int, buffer: &[u8]) -> Result<()> {
        // SAFETY: the kernel reads at most `buffer.len()` octets of `buffer`. With SET_REPLACE it also writes as many
        // counters as the buffer says to the address in it: `attempt` has put the address and the number of a buffer
        // there that it owns, that has its provenance exposed and that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                self.level(),
                option,
                buffer.as_ptr().cast(),
                buffer.len() as libc::socklen_t,
            )
        };
        if result < 0 {
            Err(Error::io(
                "change the rules of iptables-legacy",
                io::Error::last_os_error(),
            ))
        } else {
            Ok(())
        }
    }
}
