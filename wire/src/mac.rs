//! Ethernet addresses.

use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// An IEEE 802 MAC address, in the order in which its octets are sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for group addresses: broadcast and multicast (I/G bit, IEEE 802-2014 §8.2.2).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True when a frame may carry this as its source: neither a group address nor all zero.
    pub fn is_valid_source(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// Destination of an Ethernet frame, or `None` when the frame is shorter than an Ethernet header.
    pub fn destination(frame: &[u8]) -> Option<Mac> {
        (frame.len() >= crate::mtu::ETHERNET_HEADER).then(|| Mac(first_six(frame)))
    }

    /// Source of an Ethernet frame, or `None` when the frame is shorter than an Ethernet header.
    pub fn source(frame: &[u8]) -> Option<Mac> {
        (frame.len() >= crate::mtu::ETHERNET_HEADER).then(|| Mac(first_six(&frame[6..])))
    }
}

/// The first six octets; the callers have checked the length.
fn first_six(bytes: &[u8]) -> [u8; 6] {
    let mut out = [0; 6];
    out.copy_from_slice(&bytes[..6]);
    out
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six two-digit hexadecimal octets with colons between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: write it as six hexadecimal octets, 02:ab:00:00:00:01")]
pub struct MacParseError;

impl FromStr for Mac {
    type Err = MacParseError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for octet in &mut out {
            let part = parts.next().ok_or(MacParseError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacParseError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacParseError)?;
        }
        if parts.next().is_some() {
            Err(MacParseError)
        } else {
            Ok(Mac(out))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_bad_forms_are_refused() {
        let mac: Mac = "02:ab:00:00:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:00:00:00:01");
        for bad in [
            "",
            "02",
            "02:ab:00:00:00",
            "02:ab:00:00:00:01:02",
            "2:ab:00:00:00:01",
            "+2:ab:00:00:00:01",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(MacParseError), "{bad}");
        }
    }

    #[test]
    fn short_frames_have_no_addresses() {
        assert_eq!(Mac::destination(&[0xff; 13]), None);
        assert_eq!(Mac::source(&[0xff; 14]), Some(Mac::BROADCAST));
        assert!(!Mac::BROADCAST.is_valid_source());
        assert!(!Mac([0; 6]).is_valid_source());
    }
}
