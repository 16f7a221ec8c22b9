//! Tells everybody on the Ethernet where an address lives now: gratuitous ARP (RFC 826, RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, send};

use crate::error::{Error, Result};
use crate::{MacAddr, link, packet};

const BROADCAST: MacAddr = [0xff; 6];
/// All nodes on the link, `ff02::1` (RFC 2464 §7).
const ALL_NODES_MAC: MacAddr = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// An advertisement with the link-layer address option.
const ADVERTISEMENT_LEN: u16 = 32;
const ICMPV6: u8 = 58;

/// Sends one announcement of `address` by an interface of the calling thread's namespace.
///
/// # Errors
/// When the interface is missing or down, or the process lacks `CAP_NET_RAW` in its network namespace.
pub fn announce(interface: &str, mac: MacAddr, address: IpAddr) -> Result<()> {
    send_frame(interface, &frame(mac, address), || {
        format!("announce {address} by {interface}")
    })
}

/// Sends one frame by an interface.
pub(crate) fn send_frame(interface: &str, frame: &[u8], action: impl Fn() -> String) -> Result<()> {
    let index = link::get(interface)?.index;
    let failed = |source| Error::Io {
        action: action(),
        source,
    };
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None::<Protocol>,
    )
    .map_err(|errno| failed(errno.into()))?;
    packet::bind(&socket, index, libc::ETH_P_ALL as u16).map_err(failed)?;
    send(&socket, frame, SendFlags::empty()).map_err(|errno| failed(errno.into()))?;
    Ok(())
}

fn frame(mac: MacAddr, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, address),
        IpAddr::V6(address) => advertisement(mac, address),
    }
}

/// A request of an address for itself, padded to the shortest Ethernet frame.
fn arp(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let address = address.octets();
    let mut frame = [
        &BROADCAST[..],
        &mac,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac,
        &address,
        &[0; 6],
        &address,
    ]
    .concat();
    frame.resize(60, 0);
    frame
}

fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let (from, to) = (address.octets(), ALL_NODES.octets());
    let [high, low] = ADVERTISEMENT_LEN.to_be_bytes();
    // Type 136; override an entry that says otherwise; the option is the target's link-layer address.
    let mut message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &from, &[2, 1], &mac].concat();
    let pseudo_header = [&from[..], &to, &[0, 0, high, low, 0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[pseudo_header, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [
        &ALL_NODES_MAC[..],
        &mac,
        &[0x86, 0xdd, 0x60, 0, 0, 0, high, low, ICMPV6, 255],
        &from,
        &to,
        &message,
    ]
    .concat()
}

/// The internet checksum (RFC 1071) of an even number of octets.
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let words = octets
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop has left 16 bits.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = [2, 7, 0, 0, 0, 5];

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = frame(MAC, "10.32.0.5".parse().unwrap());
        assert_eq!(frame.len(), 60);
        assert_eq!(
            (&frame[..6], &frame[6..12], &frame[12..14]),
            (&BROADCAST[..], &MAC[..], &[8, 6][..])
        );
        assert_eq!(frame[28..32], [10, 32, 0, 5], "sender");
        assert_eq!(frame[38..42], [10, 32, 0, 5], "target");
    }

    #[test]
    fn an_advertisement_has_a_right_checksum() {
        let address: Ipv6Addr = "fd00::5".parse().unwrap();
        let frame = frame(MAC, address.into());
        assert_eq!(frame.len(), 86);
        assert_eq!(frame[21], 255, "hop limit");
        assert_eq!((frame[54], frame[58]), (136, 0x20));
        assert_eq!(frame[62..78], address.octets());
        assert_eq!((&frame[78..80], &frame[80..]), (&[2, 1][..], &MAC[..]));
        // Over pseudo-header and message with the checksum in place, the sum is all ones.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo[..], &frame[54..]].concat()), 0);
    }
}
