//! What a network device does in the kernel's stead, by name as `ethtool -k` shows it: segmentation, checksums, merging
//! (linux/ethtool.h).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};

use crate::error::{Error, Result};
use crate::link;

/// `ETHTOOL_GSSET_INFO`: how many names a set has.
const COUNT_NAMES: u32 = 0x37;
/// `ETHTOOL_GSTRINGS`: the names of a set.
const GET_NAMES: u32 = 0x1b;
/// `ETHTOOL_GFEATURES`.
const GET_FEATURES: u32 = 0x3a;
/// `ETHTOOL_SFEATURES`.
const SET_FEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`: the set of the features' names.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`: octets of each name, filled up with zeros.
const NAME_LEN: usize = 32;
/// The kernel counts features in the bits of one 64-bit number.
const FEATURES_MAX: usize = 64;
/// Features in one word of a mask.
const WORD: usize = u32::BITS as usize;

/// One thing that a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, such as `tx-udp-segmentation`.
    pub name: String,
    /// Whether it is done now.
    pub active: bool,
    /// Whether that can be changed.
    pub changeable: bool,
}

/// What the device can do, and whether it does.
///
/// # Errors
/// When there is no such interface.
pub fn list(interface: &str) -> Result<Vec<Feature>> {
    let device = Device::open(interface)?;
    let names = device.names()?;
    let blocks = device.blocks(names.len())?;
    let bit = |at: usize, word: fn(&Block) -> u32| {
        blocks
            .get(at / WORD)
            .is_some_and(|block| word(block) >> (at % WORD) & 1 == 1)
    };
    let feature = |(at, name)| Feature {
        name,
        active: bit(at, |block| block.active),
        changeable: bit(at, |block| block.available) && !bit(at, |block| block.never_changed),
    };
    let all = names.into_iter().enumerate().map(feature);
    Ok(all.filter(|feature| !feature.name.is_empty()).collect())
}

/// Turns these features on or off, all in one step.
///
/// # Errors
/// [`Error::Invalid`] when the kernel knows no feature of a name; when there is no such interface, or the caller lacks
/// `CAP_NET_ADMIN`. A device may refuse silently: see [`list`].
pub fn set(interface: &str, features: &[&str], on: bool) -> Result<()> {
    let device = Device::open(interface)?;
    let names = device.names()?;
    let words = names.len().div_ceil(WORD);
    // `struct ethtool_sfeatures`: command, words, and for each the bits that are meant and what they shall be.
    let mut buffer = vec![0; 2 + 2 * words];
    buffer[0] = SET_FEATURES;
    buffer[1] = words as u32;
    for feature in features {
        let at = names
            .iter()
            .position(|name| name == feature)
            .ok_or_else(|| Error::Invalid {
                what: "device feature",
                value: (*feature).to_owned(),
                rule: "`ethtool -k` shows the names that there are",
            })?;
        let mask = 1 << (at % WORD);
        buffer[2 + 2 * (at / WORD)] |= mask;
        if on {
            buffer[3 + 2 * (at / WORD)] |= mask;
        }
    }
    // SAFETY: the buffer is a whole `struct ethtool_sfeatures` of as many words as it says, which the kernel only reads.
    unsafe { device.call(&mut buffer, "set") }
}

/// `struct ethtool_get_features_block`.
struct Block {
    available: u32,
    active: u32,
    never_changed: u32,
}

/// An interface of the calling thread's namespace, and any socket to speak of it.
struct Device<'a> {
    socket: OwnedFd,
    name: &'a str,
}

/// `struct ifreq` as `SIOCETHTOOL` uses it.
#[repr(C)]
struct IfRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    padding: [u8; 16],
}

const _: () = assert!(size_of::<IfRequest>() == size_of::<libc::ifreq>());

impl<'a> Device<'a> {
    fn open(name: &'a str) -> Result<Self> {
        link::check_name(name)?;
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
            .map_err(|e| Error::io("open a socket", e))?;
        Ok(Self { socket, name })
    }

    /// The names of all features, in the order of their bits; some bits have none.
    fn names(&self) -> Result<Vec<String>> {
        // `struct ethtool_sset_info`: command, reserved, mask of 64 bits of the sets, one number for each set in it.
        let mask = (1_u64 << FEATURE_NAMES).to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = mask;
        let (first, second) = ([a, b, c, d], [e, f, g, h]);
        let mut info = [
            COUNT_NAMES,
            0,
            u32::from_ne_bytes(first),
            u32::from_ne_bytes(second),
            0,
        ];
        // SAFETY: a whole `struct ethtool_sset_info` with room for the number of the one set that is asked for.
        unsafe { self.call(&mut info, "count") }?;
        let count = usize::try_from(info[4]).unwrap_or(0).min(FEATURES_MAX);
        // `struct ethtool_gstrings`: command, set, number of names, names. The kernel has a fixed number of features.
        // There is room for as many as it can have, whatever it said before.
        let mut buffer = vec![0; 3 + FEATURES_MAX * NAME_LEN / size_of::<u32>()];
        buffer[..3].copy_from_slice(&[GET_NAMES, FEATURE_NAMES, info[4]]);
        // SAFETY: there is room for the names of FEATURES_MAX features, and features are bits of a number of 64 bits.
        unsafe { self.call(&mut buffer, "name") }?;
        let octets: Vec<u8> = buffer[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = |octets: &[u8]| {
            let end = octets
                .iter()
                .position(|octet| *octet == 0)
                .unwrap_or(octets.len());
            String::from_utf8_lossy(&octets[..end]).into_owned()
        };
        Ok(octets.chunks_exact(NAME_LEN).take(count).map(name).collect())
    }

    /// The masks of as many features.
    fn blocks(&self, features: usize) -> Result<Vec<Block>> {
        let words = features.div_ceil(WORD);
        // `struct ethtool_gfeatures`: command, words, and four masks for each.
        let mut buffer = vec![0; 2 + 4 * words];
        buffer[0] = GET_FEATURES;
        buffer[1] = words as u32;
        // SAFETY: a whole `struct ethtool_gfeatures` with room for as many words as it says; the kernel writes no more.
        unsafe { self.call(&mut buffer, "read") }?;
        let block = |masks: &[u32; 4]| Block {
            available: masks[0],
            active: masks[2],
            never_changed: masks[3],
        };
        Ok(buffer[2..].as_chunks().0.iter().map(block).collect())
    }

    /// # Safety
    /// `buffer` is the structure that its first number calls for, with room for all that the kernel writes.
    unsafe fn call(&self, buffer: &mut [u32], verb: &str) -> Result<()> {
        let mut request = IfRequest {
            name: [0; libc::IFNAMSIZ],
            data: buffer.as_mut_ptr(),
            padding: [0; 16],
        };
        // The name was checked to be shorter.
        request.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        // SAFETY: SIOCETHTOOL takes one `struct ifreq`, whose layout and size `request` has (asserted above), with a
        // pointer to a structure of which the caller vouches. Both outlive the call, and the socket is open.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        if result >= 0 {
            return Ok(());
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO) {
            Errno::NODEV => Err(Error::NoSuchLink {
                name: self.name.into(),
            }),
            errno => Err(Error::io(
                format!("{verb} the features of the interface {}", self.name),
                errno,
            )),
        }
    }
}
