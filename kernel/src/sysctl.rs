//! Kernel parameters below `/proc/sys`. Those below `net/` belong to the network namespace of
//! the calling thread.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, Result};

const ROOT: &str = "/proc/sys";

/// Sets a parameter, for example `net/ipv4/ip_forward`.
///
/// # Errors
/// The parameter does not exist, is read-only, or refuses the value. The error names the file and the value.
pub fn set(path: &str, value: &str) -> Result<()> {
    let file = locate(path)?;
    fs::write(&file, value).map_err(|e| Error::io(format!("write {value} to {}", file.display()), e))
}

/// Reads a parameter, without the newline at its end.
///
/// # Errors
/// The parameter does not exist or cannot be read.
pub fn get(path: &str) -> Result<String> {
    let file = locate(path)?;
    let value = fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    Ok(value.trim_end().to_owned())
}

/// Whether the kernel has this parameter.
#[must_use]
pub fn exists(path: &str) -> bool {
    locate(path).is_ok_and(|file| file.exists())
}

fn locate(path: &str) -> Result<PathBuf> {
    let usable = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if usable {
        Ok(PathBuf::from(ROOT).join(path))
    } else {
        Err(Error::Invalid {
            what: "kernel parameter",
            value: path.into(),
            rule: "it is a path below /proc/sys, such as net/ipv4/ip_forward",
        })
    }
}

/// Whether IPv6 runs on an interface. `false` as well where the kernel has no IPv6.
///
/// # Errors
/// When the parameter cannot be read.
pub fn ipv6_enabled(interface: &str) -> Result<bool> {
    let path = format!("net/ipv6/conf/{interface}/disable_ipv6");
    Ok(exists(&path) && get(&path)? == "0")
}

/// Turns IPv6 on or off for an interface. Off is a no-op where the kernel has no IPv6.
///
/// A bridge and its ports need no IPv6 address of their own; with one they would send
/// router solicitations and multicast reports into the network they carry.
///
/// # Errors
/// When the parameter cannot be written.
pub fn set_ipv6(interface: &str, enabled: bool) -> Result<()> {
    if ipv6_enabled(interface)? == enabled {
        return Ok(());
    }
    set(
        &format!("net/ipv6/conf/{interface}/disable_ipv6"),
        if enabled { "0" } else { "1" },
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_parameter_stays_below_proc_sys() {
        for path in ["../self/mem", "/etc/passwd", "net//x", "", "net/./x"] {
            assert!(
                super::get(path).unwrap_err().to_string().contains("/proc/sys"),
                "{path}"
            );
        }
        assert_eq!(super::get("kernel/ostype").unwrap(), "Linux");
        let error = super::get("net/no/such").unwrap_err().to_string();
        assert!(error.contains("/proc/sys/net/no/such"), "{error}");
    }
}
