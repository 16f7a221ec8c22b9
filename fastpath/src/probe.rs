//! The frames by which two hosts find out whether their kernels carry frames to each other, and which sizes.
//!
//! They travel as frames of pods do: through a VXLAN device, its UDP port, the route, the packet filters. Their devices are
//! in no bridge, so pods cannot reach them; that a probe is a peer's is proved by a MAC under a key of the sleeve session.

use alloc::vec::Vec;
use weft_wire::hash::{equal_in_constant_time, mac16};
use weft_wire::mtu::{ETHERNET_HEADER, VLAN_TAG};
use weft_wire::{Mac, PeerHash};

/// IEEE 802 local experimental ethertype 1 (IEEE 802-2014 §9.2.4).
pub const ETHERTYPE: u16 = 0x88b5;
/// Version of the layout: others are refused.
const VERSION: u8 = 1;
/// Octets of a frame without padding: the table in `docs/design/wire.md`.
pub const PROBE_LEN: usize = 96;
/// Where the padding begins, and the MAC stands before.
const MAC_AT: usize = PROBE_LEN - 16;
/// First octets of the address that a host has on the probe devices; locally administered.
const HOST: [u8; 2] = [0x02, 0x77];
/// First octets of the addresses that probes come from.
const FLOW: [u8; 2] = [0x02, 0x78];

const FLAG_ASKS: u8 = 1;
const FLAG_CARRIES: u8 = 2;
const FLAG_DECLINES: u8 = 4;

/// The address to which probes for this host are sent.
pub fn probe_mac(host: PeerHash) -> Mac {
    let [a, b, c, d, ..] = host.0;
    Mac([HOST[0], HOST[1], a, b, c, d])
}

/// Octets of the frame that is as long as the longest of a pod: its MTU, Ethernet header and one VLAN tag.
pub const fn full_size(pod_mtu: u16) -> u16 {
    pod_mtu.saturating_add((ETHERNET_HEADER + VLAN_TAG) as u16)
}

/// Keys of probes between this host and one peer, from one sleeve session.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeKeys {
    /// For what this host sends.
    pub send: [u8; 32],
    /// For what the peer sends.
    pub receive: [u8; 32],
}

impl core::fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ProbeKeys")
    }
}

/// What one host says to another through the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Probe {
    /// Who says it.
    pub from: PeerHash,
    /// To whom.
    pub to: PeerHash,
    /// An answer is wanted at once. One that answers asks for none.
    pub asks: bool,
    /// The sender's kernel sends frames of pods this way now.
    pub carries: bool,
    /// The sender takes no more frames this way: a goodbye.
    pub declines: bool,
    /// The sender will send again within so many milliseconds.
    pub next_ms: u16,
    /// Octets of the frame from its destination address on; the rest is padding.
    pub size: u16,
    /// Random number of the sender's process.
    pub boot: u64,
    /// Number of this probe in the sender's process, from 1.
    pub number: u64,
    /// Random number of the receiver's process, as last heard; 0 when nothing was heard.
    pub heard_boot: u64,
    /// The highest number heard of that process.
    pub heard: u64,
    /// The highest number among those of full size.
    pub heard_full: u64,
}

/// Why a frame is no probe of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeError {
    /// It is shorter than a probe, or of another kind.
    NotAProbe,
    /// Its layout is one of another version.
    Version,
    /// It was made for another host.
    NotForUs,
    /// It says another length than it has, or its padding is not zero.
    Malformed,
    /// No key of the peer made its MAC.
    BadMac,
}

impl Probe {
    /// The frame. `flow` varies its source address, by which VXLAN chooses a UDP source port, so that probes try the ways
    /// that a network with several has. `size` below [`PROBE_LEN`] is taken for that.
    pub fn build(&self, key: &[u8; 32], flow: u32) -> Vec<u8> {
        let size = usize::from(self.size).max(PROBE_LEN);
        let mut frame = Vec::with_capacity(size);
        frame.extend_from_slice(&probe_mac(self.to).0);
        frame.extend_from_slice(&FLOW);
        frame.extend_from_slice(&flow.to_be_bytes());
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        frame.push(VERSION);
        frame.push(
            flag(self.asks, FLAG_ASKS)
                | flag(self.carries, FLAG_CARRIES)
                | flag(self.declines, FLAG_DECLINES),
        );
        frame.extend_from_slice(&(size as u16).to_be_bytes());
        frame.extend_from_slice(&self.next_ms.to_be_bytes());
        frame.extend_from_slice(&self.from.0);
        frame.extend_from_slice(&self.to.0);
        for number in [
            self.boot,
            self.number,
            self.heard_boot,
            self.heard,
            self.heard_full,
        ] {
            frame.extend_from_slice(&number.to_be_bytes());
        }
        frame.resize(MAC_AT, 0);
        let mac = mac16(key, &[&frame[ETHERNET_HEADER..]]);
        frame.extend_from_slice(&mac);
        frame.resize(size, 0);
        frame
    }

    /// The sender that a frame names, unproved: whose keys it is to be opened with.
    pub fn sender(frame: &[u8]) -> Option<PeerHash> {
        let is_probe = frame.get(12..14) == Some(&ETHERTYPE.to_be_bytes());
        let hash = frame
            .get(20..28)
            .filter(|_| is_probe && frame.len() >= PROBE_LEN)?;
        Some(PeerHash(hash.try_into().ok()?))
    }

    /// Reads a frame that was made for `us` under one of these keys.
    ///
    /// # Errors
    /// One [`ProbeError`] for each way in which it is none.
    pub fn open<'a>(
        frame: &[u8],
        us: PeerHash,
        keys: impl IntoIterator<Item = &'a [u8; 32]>,
    ) -> Result<Self, ProbeError> {
        let from = Self::sender(frame).ok_or(ProbeError::NotAProbe)?;
        // `sender` has seen that all of these octets are there.
        let u16_at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let u64_at = |at: usize| {
            let mut octets = [0; 8];
            octets.copy_from_slice(&frame[at..at + 8]);
            u64::from_be_bytes(octets)
        };
        if frame[14] != VERSION {
            return Err(ProbeError::Version);
        }
        let to = PeerHash(u64_at(28).to_be_bytes());
        if to != us {
            return Err(ProbeError::NotForUs);
        }
        let size = u16_at(16);
        let (sealed, rest) = frame.split_at(PROBE_LEN);
        if usize::from(size) != frame.len() || rest.iter().any(|octet| *octet != 0) {
            return Err(ProbeError::Malformed);
        }
        let (said, mac) = sealed.split_at(MAC_AT);
        let mac: &[u8; 16] = mac.try_into().map_err(|_| ProbeError::NotAProbe)?;
        let is_right = |key: &[u8; 32]| equal_in_constant_time(&mac16(key, &[&said[ETHERNET_HEADER..]]), mac);
        if !keys.into_iter().any(is_right) {
            return Err(ProbeError::BadMac);
        }
        let flags = frame[15];
        Ok(Self {
            from,
            to,
            asks: flags & FLAG_ASKS != 0,
            carries: flags & FLAG_CARRIES != 0,
            declines: flags & FLAG_DECLINES != 0,
            next_ms: u16_at(18),
            size,
            boot: u64_at(36),
            number: u64_at(44),
            heard_boot: u64_at(52),
            heard: u64_at(60),
            heard_full: u64_at(68),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    fn sample() -> Probe {
        Probe {
            from: PeerHash([1; 8]),
            to: PeerHash([2; 8]),
            asks: true,
            carries: true,
            declines: false,
            next_ms: 250,
            size: 100,
            boot: 0x0102_0304_0506_0708,
            number: 9,
            heard_boot: 0x1112_1314_1516_1718,
            heard: 8,
            heard_full: 5,
        }
    }

    #[test]
    fn the_frame_is_the_one_of_the_page() {
        let text = include_str!("../../docs/design/fastpath-vectors.txt");
        let expected = text
            .lines()
            .find_map(|line| line.strip_prefix("probe = "))
            .expect("the page has a probe");
        let frame = sample().build(&KEY, 0xaabb_ccdd);
        let hex: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(Probe::open(&frame, PeerHash([2; 8]), [&KEY]), Ok(sample()));
    }

    #[test]
    fn each_way_to_be_none_has_its_name() {
        let frame = sample().build(&KEY, 1);
        let us = PeerHash([2; 8]);
        let open = |frame: &[u8]| Probe::open(frame, us, [&KEY]);
        assert_eq!(open(&frame[..PROBE_LEN - 1]), Err(ProbeError::NotAProbe));
        assert_eq!(open(&frame[..PROBE_LEN]), Err(ProbeError::Malformed), "cut");
        assert_eq!(
            Probe::open(&frame, PeerHash([1; 8]), [&KEY]),
            Err(ProbeError::NotForUs)
        );
        assert_eq!(Probe::open(&frame, us, [&[8; 32]]), Err(ProbeError::BadMac));
        assert_eq!(
            Probe::open(&frame, us, [&[8; 32], &KEY]),
            Ok(sample()),
            "the one before"
        );
        let mut other = frame.clone();
        other[14] = 2;
        assert_eq!(open(&other), Err(ProbeError::Version));
        other = frame.clone();
        *other.last_mut().unwrap() = 1;
        assert_eq!(open(&other), Err(ProbeError::Malformed), "padding");
        other = frame;
        other[13] = 0xb6;
        assert_eq!(open(&other), Err(ProbeError::NotAProbe));
    }

    #[test]
    fn hosts_and_flows_never_share_an_address() {
        assert_eq!(probe_mac(PeerHash([9; 8])), Mac([0x02, 0x77, 9, 9, 9, 9]));
        let frame = sample().build(&KEY, 1);
        assert_eq!(Mac::source(&frame), Some(Mac([0x02, 0x78, 0, 0, 0, 1])));
        assert_eq!(Mac::destination(&frame), Some(Mac([0x02, 0x77, 2, 2, 2, 2])));
    }

    prop_compose! {
        fn probes()(
            hashes in any::<([u8; 8], [u8; 8])>(),
            flags in any::<(bool, bool, bool)>(),
            next_ms in any::<u16>(),
            size in PROBE_LEN as u16..2_000,
            numbers in any::<[u64; 5]>(),
        ) -> Probe {
            Probe {
                from: PeerHash(hashes.0),
                to: PeerHash(hashes.1),
                asks: flags.0,
                carries: flags.1,
                declines: flags.2,
                next_ms,
                size,
                boot: numbers[0],
                number: numbers[1],
                heard_boot: numbers[2],
                heard: numbers[3],
                heard_full: numbers[4],
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_built_is_what_is_read(probe in probes(), key in any::<[u8; 32]>(), flow in any::<u32>()) {
            let frame = probe.build(&key, flow);
            prop_assert_eq!(frame.len(), usize::from(probe.size));
            prop_assert_eq!(Probe::open(&frame, probe.to, [&key]), Ok(probe));
        }

        #[test]
        fn one_changed_octet_is_noticed(probe in probes(), at in 12..PROBE_LEN, bits in 1..=u8::MAX) {
            let mut frame = probe.build(&KEY, 0);
            frame[at] ^= bits;
            prop_assert!(Probe::open(&frame, probe.to, [&KEY]).is_err());
        }

        #[test]
        fn arbitrary_octets_are_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Probe::open(&octets, PeerHash([0; 8]), [&KEY]).is_err());
        }
    }
}
