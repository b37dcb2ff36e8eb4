//! Numbers of bytes as people write and read them.

/// The units, largest first; the bare number comes last.
const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
];

/// Reads `2GiB`, `256MiB`, `60KiB`, `100MB` or `4096`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it like 2GiB, 256MiB, 60KiB or 4096");
    let (number, unit) = text.split_at(text.len() - text.trim_start_matches(digit).len());
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(*factor) {
        Some(0) | None => Err(wrong()),
        Some(bytes) => Ok(bytes),
    }
}

fn digit(c: char) -> bool {
    c.is_ascii_digit()
}

/// `bytes` in the largest binary unit of which there is at least one: `2.0 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    match UNITS[..3].iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("256MiB", 256 << 20),
            ("60 KiB", 60 << 10),
            ("3GB", 3_000_000_000),
            ("7kB", 7_000),
            ("12B", 12),
            ("4096", 4096),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        let too_many = format!("{}GiB", u64::MAX);
        for text in ["", "GiB", "2Gib", "2 G", "-1", "1.5GiB", "0", "0MiB", &too_many, "2GiBs"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(human(2 << 30), "2.0 GiB");
        assert_eq!(human((1 << 20) + (1 << 19)), "1.5 MiB");
        assert_eq!(human((1 << 30) - 1), "1024.0 MiB");
        assert_eq!(human(1023), "1023 B");
    }
}
