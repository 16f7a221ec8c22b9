//! Asks the pods of a bridge to which groups of IPv6 they listen: a general query of MLD version 2 (RFC 3810 §5.1).
//!
//! A bridge without an IPv6 address cannot ask by itself. It does read the answers; but a query that it reads would have it
//! deliver neighbour discovery only where a report was heard, and lose it where none was. So the query goes to the broadcast
//! address of Ethernet: every host takes it, and the bridge does not look into broadcasts.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::error::Result;
use crate::{MacAddr, announce};

/// Between two queries (RFC 3810 §9.2). The bridge forgets a listener after 260 s.
pub const QUERY_INTERVAL: Duration = Duration::from_secs(125);

const BROADCAST: MacAddr = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Listeners answer after a random part of this, in milliseconds (RFC 3810 §9.3).
const RESPONSE_MILLIS: u16 = 10_000;
/// `QUERY_INTERVAL` in seconds, as the query tells it (RFC 3810 §5.1.9).
const INTERVAL_CODE: u8 = 125;
/// Queries that may be lost in a row; with the bit that routers need not mind (RFC 3810 §5.1.7, §5.1.8).
const ROBUSTNESS: u8 = 2;

/// Sends one query by a bridge, to all of its ports.
///
/// # Errors
/// When the interface is missing or down, or the process lacks `CAP_NET_RAW` in its network namespace.
pub fn query(bridge: &str, mac: MacAddr) -> Result<()> {
    announce::send_frame(bridge, &frame(mac), || format!("ask for listeners on {bridge}"))
}

fn frame(mac: MacAddr) -> Vec<u8> {
    let [a, b, c, d, e, f] = mac;
    // RFC 4291 appendix A: queries come from a link-local address.
    let from = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let to = ALL_NODES.octets();
    // Type 130, and no group: about all of them.
    let mut query = vec![130, 0, 0, 0];
    query.extend(RESPONSE_MILLIS.to_be_bytes());
    query.extend([0; 2 + 16]);
    query.extend([ROBUSTNESS, INTERVAL_CODE, 0, 0]);
    let length = query.len() as u8;
    let pseudo_header = [&from[..], &to, &[0, 0, 0, length, 0, 0, 0, 58]].concat();
    let sum = announce::checksum(&[pseudo_header, query.clone()].concat());
    query[2..4].copy_from_slice(&sum.to_be_bytes());
    // Router alert (RFC 2711) and padding, in a hop-by-hop header.
    let alert = [58, 0, 5, 2, 0, 0, 1, 0];
    [
        &BROADCAST[..],
        &mac,
        &[0x86, 0xdd, 0x60, 0, 0, 0, 0, length + alert.len() as u8, 0, 1],
        &from,
        &to,
        &alert,
        &query,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_as_the_standard_says_but_for_its_ethernet_address() {
        let frame = frame([2, 7, 0, 0, 0, 5]);
        assert_eq!(frame.len(), 14 + 40 + 8 + 28);
        assert_eq!(frame[..6], BROADCAST);
        assert_eq!(frame[18..22], [0, 36, 0, 1], "length, next header, hop limit");
        let from: Ipv6Addr = "fe80::7:ff:fe00:5".parse().unwrap();
        assert_eq!(frame[22..38], from.octets());
        assert_eq!(frame[54..62], [58, 0, 5, 2, 0, 0, 1, 0]);
        assert_eq!((frame[62], &frame[66..68]), (130, &[0x27, 0x10][..]));
        // Over pseudo-header and message with the checksum in place, the sum is all ones.
        let pseudo = [&frame[22..54], &[0, 0, 0, 28, 0, 0, 0, 58]].concat();
        assert_eq!(announce::checksum(&[&pseudo[..], &frame[62..]].concat()), 0);
    }
}
