//! Which address somebody wants, as the command line writes it.

use ipnet::IpNet;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// An address, and the subnet of which it is when a prefix length stands behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Named {
    pub(crate) address: IpAddr,
    pub(crate) subnet: Option<IpNet>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = match text.contains('/') {
            true => text
                .parse::<IpNet>()
                .ok()
                .map(|net| (net.addr(), Some(net.trunc()))),
            false => text.parse().ok().map(|address| (address, None)),
        };
        let (address, subnet) = named
            .ok_or("write an address as 10.32.7.5, or with its subnet's prefix length as 10.32.7.5/24")?;
        Ok(Self { address, subnet })
    }
}

/// A time such as `500ms`, `5s` or `1m`. The router says which are too long.
pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    parse_in(text, &units).ok_or_else(|| "write a number and its unit: 500ms, 5s or 1m".into())
}

/// A time such as `90s`, `30m`, `24h` or `7d`.
pub(crate) fn parse_long(text: &str) -> Result<Duration, String> {
    let units = [("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    parse_in(text, &units).ok_or_else(|| "write a number and its unit: 90s, 30m, 24h or 7d".into())
}

/// A number with one of these units, each of so many milliseconds.
fn parse_in(text: &str, units: &[(&str, u64)]) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (_, ms) = units.iter().find(|(name, _)| *name == unit)?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*ms)
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_its_subnet() {
        let named = |text: &str| text.parse::<Named>();
        let plain = named("10.32.7.5").unwrap();
        assert_eq!(
            (plain.address.to_string().as_str(), plain.subnet),
            ("10.32.7.5", None)
        );
        let part = named("10.32.7.5/24").unwrap();
        assert_eq!(part.subnet, Some("10.32.7.0/24".parse().unwrap()));
        assert_eq!(
            named("fd00::5/120").unwrap().subnet,
            Some("fd00::/120".parse().unwrap())
        );
        for text in [
            "",
            "10.32.7",
            "10.32.7.5/33",
            "10.32.7.5/",
            "/24",
            "10.32.7.5/24/24",
        ] {
            assert!(named(text).unwrap_err().contains("10.32.7.5/24"), "{text}");
        }
    }

    #[test]
    fn a_long_time_may_be_in_hours_and_days() {
        for (text, s) in [("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse_long(text), Ok(Duration::from_secs(s)), "{text}");
        }
        for text in [
            "",
            "24",
            "h",
            "24 h",
            "500ms",
            "99999999999999999999d",
            "18446744073709551615h",
        ] {
            assert!(parse_long(text).unwrap_err().contains("24h"), "{text}");
        }
    }

    #[test]
    fn a_timeout_has_a_unit() {
        for (text, ms) in [("500ms", 500), ("5s", 5_000), ("1m", 60_000), ("0s", 0)] {
            assert_eq!(parse_timeout(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5h",
            "5 s",
            "1.5s",
            "99999999999999999999s",
            "18446744073709551615m",
        ] {
            assert!(parse_timeout(text).unwrap_err().contains("500ms"), "{text}");
        }
    }
}
