//! User namespaces: root in a world of one's own (user_namespaces(7)).
#![allow(unsafe_code)]

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};

/// The step that refused, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsernsError {
    /// `unshare(CLONE_NEWUSER)` was refused because the process has several threads.
    #[error(
        "a process with {threads} threads cannot enter a user namespace; enter it before the first thread starts"
    )]
    Threads {
        /// Threads of this process now.
        threads: usize,
    },
    /// `unshare(CLONE_NEWUSER)` was refused.
    #[error("cannot make a user namespace: {errno}; {cure}. Or run as root")]
    Unshare {
        /// The kernel's answer.
        errno: Errno,
        /// What to do.
        cure: String,
    },
    /// A file below `/proc/self` refused the mapping.
    #[error(
        "cannot become root of the user namespace: writing {value:?} to {file}: {source}. Run as root instead"
    )]
    Map {
        /// The file.
        file: &'static str,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Puts the calling process into a new user namespace, as root of it, with every capability there.
/// Its network namespaces are then its own to make. Call it before any other thread exists.
///
/// # Errors
/// The error says which step the kernel refused and which setting forbids it.
pub fn enter_user_namespace() -> Result<(), UsernsError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: CLONE_NEWUSER leaves the file descriptor table shared, which is what `unshare_unsafe`
    // asks for; the kernel itself refuses it to a process with several threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }.map_err(unshare_refusal)?;
    // Without "deny" the kernel accepts no gid_map from an ordinary user (CVE-2014-8989).
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
}

/// Whether the effective user is root, of this user namespace.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the calling thread may administer the network of its user namespace.
#[must_use]
pub fn has_cap_net_admin() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

fn write(file: &'static str, value: String) -> Result<(), UsernsError> {
    fs::write(file, &value).map_err(|source| UsernsError::Map { file, value, source })
}

fn unshare_refusal(errno: Errno) -> UsernsError {
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    // The only reason for EINVAL. A thread that has just been joined may still count, though unseen.
    if errno == Errno::INVAL {
        let threads = threads.max(2);
        return UsernsError::Threads { threads };
    }
    let is = |path: &str, value: &str| crate::sysctl::get(path).is_ok_and(|found| found == value);
    let cure = if is("user/max_user_namespaces", "0") {
        "user.max_user_namespaces is 0: `sysctl user.max_user_namespaces=15000` allows them".into()
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "kernel.unprivileged_userns_clone is 0: `sysctl kernel.unprivileged_userns_clone=1` allows them"
            .into()
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts them: `sysctl kernel.apparmor_restrict_unprivileged_userns=0` lifts that".into()
    } else if errno == Errno::NOSPC {
        "the limit in /proc/sys/user/max_user_namespaces is reached".into()
    } else {
        "a container's seccomp filter often forbids it".into()
    };
    UsernsError::Unshare { errno, cure }
}
