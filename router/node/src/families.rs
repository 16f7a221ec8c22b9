//! Why a peer may be out of reach for good: it and this host listen on different versions of IP.

use alloc::format;
use alloc::string::String;
use core::net::SocketAddr;

/// The one version of IP that all of these addresses have; none when there are both, or no address.
fn only(endpoints: &[SocketAddr]) -> Option<&'static str> {
    let (first, rest) = endpoints.split_first()?;
    let same = rest.iter().all(|other| other.is_ipv4() == first.is_ipv4());
    same.then_some(if first.is_ipv4() { "IPv4" } else { "IPv6" })
}

/// Says so when this host, which is reached at `here`, and a peer, which is reached at `there`, have no version of IP
/// in common. Packets may pass all the same, through a translator, so it explains a silence and forbids nothing.
pub(crate) fn none_in_common(here: &[SocketAddr], there: &[SocketAddr]) -> Option<String> {
    let (here, there) = (only(here)?, only(there)?);
    (here != there).then(|| {
        format!("it listens on {there} only and this host on {here} only: give one of them an address of the other kind")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn common(here: &[&str], there: &[&str]) -> Option<String> {
        let parse =
            |list: &[&str]| -> Vec<SocketAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
        none_in_common(&parse(here), &parse(there))
    }

    #[test]
    fn only_hosts_without_a_common_version_are_apart() {
        let (four, six) = ("192.0.2.1:6783", "[2001:db8::1]:6783");
        let sentence = common(&[four, four], &[six]).unwrap();
        assert!(sentence.starts_with("it listens on IPv6 only and this host on IPv4 only"));
        assert!(common(&[six], &[four]).is_some());
        for (here, there) in [
            (&[four][..], &[four][..]),
            (&[four], &[six, four]),
            (&[four, six], &[six]),
            (&[], &[six]),
            (&[four], &[]),
        ] {
            assert_eq!(common(here, there), None, "{here:?} {there:?}");
        }
    }
}
