//! Sizes such as 64M.

/// The smallest file: less would say nothing about what the underlay shows.
const MIN: usize = 64 << 10;
/// The largest file: it is held in memory three times, before, on the way and after.
const MAX: usize = 1 << 30;

/// Reads a number of bytes, with K, M or G for powers of 1024.
pub(super) fn parse(text: &str) -> Result<usize, String> {
    let number = text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
    let unit = match text
        .get(number.len()..)
        .unwrap_or_default()
        .to_ascii_uppercase()
        .as_str()
    {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        other => return Err(format!("{other:?} is no unit: write K, M or G")),
    };
    number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|bytes| (MIN..=MAX).contains(bytes))
        .ok_or_else(|| "a size is a whole number with K, M or G, from 64K to 1G".to_owned())
}

/// Writes a number of bytes for people.
pub(super) fn show(bytes: u64) -> String {
    const UNITS: [(&str, u64); 2] = [("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        // Sizes here are far below 2^53, so they are exact in an f64.
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("64M", 64 << 20),
            ("64mib", 64 << 20),
            ("100000", 100_000),
            ("1G", MAX),
            ("64k", MIN),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5M",
            "-1",
            "2G",
            "1K",
            "64T",
            "99999999999999999999",
            "64 M",
            "6ä",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(show(64 << 20), "64 MiB");
        assert_eq!(show((64 << 20) + (1 << 19)), "64.5 MiB");
        assert_eq!(show(2048), "2 KiB");
        assert_eq!(show(7), "7 B");
    }
}
