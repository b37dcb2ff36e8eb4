//! Sizes and times as people write them.

use std::time::Duration;

/// `64MiB`, `512KiB`, `1GiB`, or a number of bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0), ("", 0)];
    let (number, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .expect("every text ends with nothing");
    let number = number.parse::<u64>().ok().filter(|number| *number > 0);
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is no size; write it like 64MiB, 512KiB or 1000000"))
}

/// `60s`, `500ms`, `5m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let found = units.iter().find_map(|(unit, millis)| {
        let number = text.strip_suffix(unit)?.parse::<u64>().ok().filter(|number| *number > 0)?;
        number.checked_mul(*millis)
    });
    found
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{text:?} is no time; write it like 60s, 500ms or 5m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1KiB"), Ok(1024));
        assert_eq!(bytes("2GiB"), Ok(2 << 30));
        assert_eq!((bytes("5"), bytes("5B")), (Ok(5), Ok(5)));
        assert!(["", "0", "-1", "MiB", "1MB", "99999999999GiB"].iter().all(|t| bytes(t).is_err()));
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(["", "60", "0s", "-1s", "s", "1d"].iter().all(|t| duration(t).is_err()));
    }
}
