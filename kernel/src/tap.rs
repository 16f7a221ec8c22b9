//! TAP devices: what the tun-tap crate leaves out. linux/if_tun.h, kernel
//! documentation networking/tuntap.rst.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use crate::error::{Error, Result};
use crate::link;

mod vnet;

pub use vnet::{Offload, VNET_HEADER_LEN, VnetHeader, VnetTap, clear_offload};

const DEVICE: &str = "/dev/net/tun";

/// How a TAP device is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOptions {
    /// It stays when the process that made it ends.
    pub persist: bool,
    /// A user who may open it without `CAP_NET_ADMIN`.
    pub owner: Option<u32>,
    /// A group whose members may open it without `CAP_NET_ADMIN`.
    pub group: Option<u32>,
    /// How many frames may wait for the reader; `None` is the kernel's 500 or 1000.
    pub queue_length: Option<u32>,
}

/// An open TAP device in plain frame mode: one read or write is one Ethernet frame.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Tap> for File {
    fn from(tap: Tap) -> Self {
        tap.file
    }
}

impl Tap {
    /// Opens the TAP device `name` of the calling thread's namespace, and makes it if it does not exist.
    ///
    /// # Errors
    /// [`Error::NoTun`] when TAP devices cannot be used here; `EBUSY` when another process holds it.
    pub fn open(name: &str, options: &TapOptions) -> Result<Self> {
        link::check_name(name)?;
        let file = open_device()?;
        IfRequest::new(name, libc::IFF_TAP | libc::IFF_NO_PI).attach(&file, name)?;
        let tap = Self { file };
        if let Some(user) = options.owner {
            set_number(
                &tap,
                libc::TUNSETOWNER as _,
                user.into(),
                "set the owner of a TAP device",
            )?;
        }
        if let Some(group) = options.group {
            set_number(
                &tap,
                libc::TUNSETGROUP as _,
                group.into(),
                "set the group of a TAP device",
            )?;
        }
        if let Some(frames) = options.queue_length {
            link::set_queue_length(name, frames)?;
        }
        if options.persist {
            set_persistent(&tap, true)?;
        }
        Ok(tap)
    }
}

/// `struct ifreq` as TUNSETIFF uses it.
#[repr(C)]
struct IfRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    padding: [u8; 22],
}

impl IfRequest {
    /// Asks for the device `name`, which [`link::check_name`] has passed or the kernel has told.
    fn new(name: &str, flags: libc::c_int) -> Self {
        let mut request = Self {
            name: [0; libc::IFNAMSIZ],
            // All flags of TAP devices fit.
            flags: flags as i16,
            padding: [0; 22],
        };
        // One octet is left, so that the name ends.
        let room = &mut request.name[..libc::IFNAMSIZ - 1];
        for (to, from) in room.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        request
    }

    /// Makes an open descriptor one of the device.
    fn attach(&mut self, file: &File, name: &str) -> Result<()> {
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`. `self` has its layout and its full
        // size of 40 bytes (asserted below), is initialised, and outlives the call; `file` is open.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut *self) };
        check(result, || format!("open the TAP device {name}"))
    }
}

const _: () = assert!(size_of::<IfRequest>() == size_of::<libc::ifreq>());

/// Makes sure that a persistent TAP device of that name exists, held by nobody on our behalf.
/// One that exists is left as it is, even while another process holds it open.
///
/// # Errors
/// [`Error::Conflict`] when the name belongs to another kind of device; else as [`Tap::open`].
pub fn create_persistent(name: &str) -> Result<()> {
    match link::find(name)? {
        Some(found) if found.persistent == Some(true) => return Ok(()),
        Some(found) if found.kind.as_deref() != Some("tun") => {
            return Err(Error::Conflict {
                what: format!("the interface {name}"),
                found: format!("a device of kind {}", found.kind.as_deref().unwrap_or("hardware")),
                wanted: "a TAP device".into(),
            });
        }
        _ => {}
    }
    Tap::open(
        name,
        &TapOptions {
            persist: true,
            ..TapOptions::default()
        },
    )
    .map(drop)
}

/// Sets whether the device of an open TAP descriptor stays when the descriptor is closed.
///
/// # Errors
/// When the descriptor is not an attached TAP or TUN device.
pub fn set_persistent(tap: impl AsFd, persistent: bool) -> Result<()> {
    set_number(
        tap,
        libc::TUNSETPERSIST as _,
        persistent.into(),
        "set whether a TAP device stays",
    )
}

/// Tells in a sentence why TAP devices cannot be used here, and what to do.
///
/// # Errors
/// [`Error::NoTun`] with that sentence.
pub fn check_tun_device() -> Result<()> {
    open_device().map(drop)
}

fn open_device() -> Result<File> {
    let error = match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(file) => return Ok(file),
        Err(error) => error,
    };
    let cure = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "make it with `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`, or pass the device to the container \
             (--device /dev/net/tun)"
        }
        Some(libc::ENODEV | libc::ENXIO) => "the kernel's tun driver is not loaded: run `modprobe tun`",
        Some(libc::EACCES | libc::EPERM) => {
            "run as root, or allow the device to this user: `chmod 0666 /dev/net/tun`"
        }
        _ => "TAP devices need the kernel's tun driver",
    };
    Err(Error::NoTun(format!("cannot open {DEVICE}: {error}; {cure}")))
}

/// An ioctl whose argument is the number itself.
fn set_number(tap: impl AsFd, request: libc::Ioctl, value: libc::c_ulong, action: &str) -> Result<()> {
    // SAFETY: TUNSETPERSIST, TUNSETOWNER and TUNSETGROUP (the only callers) take their argument by
    // value; the kernel reads no memory of ours. The descriptor is borrowed, so it is open.
    let result = unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), request, value) };
    check(result, || action.to_owned())
}

fn check(result: libc::c_int, action: impl Fn() -> String) -> Result<()> {
    if result < 0 {
        Err(Error::io(action(), io::Error::last_os_error()))
    } else {
        Ok(())
    }
}
