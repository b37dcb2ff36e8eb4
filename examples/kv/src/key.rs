//! Keys in paths: one segment, percent-encoded, so that a key may hold anything, `/` included.

/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 512;

/// The path segment that stands for `key`: everything is encoded but the letters, digits and signs
/// that RFC 3986 calls unreserved.
pub fn encode(key: &str) -> String {
    let mut segment = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                segment.push(char::from(byte));
            }
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

/// The key that a path segment stands for.
///
/// # Errors
/// What is wrong with it: a `%` without two digits, no UTF-8, too long, or empty.
pub fn decode(segment: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.split_at_checked(2).and_then(|(digits, behind)| {
            rest = behind;
            Some(hex(digits[0])? << 4 | hex(digits[1])?)
        });
        bytes.push(digits.ok_or("the key has a % without two hexadecimal digits; write % as %25")?);
    }
    check(&bytes)?;
    String::from_utf8(bytes).map_err(|_| "the key is not UTF-8 once decoded".into())
}

/// Whether the bytes of a key are few enough, and any.
///
/// # Errors
/// What is wrong.
pub fn check(key: &[u8]) -> Result<(), String> {
    match key.len() {
        0 => Err("the key is empty; it has 1 to 512 bytes".into()),
        1..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(format!("the key has {bytes} bytes; it has 1 to {MAX_KEY_BYTES}")),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_survives() {
        for key in ["http/tcp", "..", "%", "a b?c#d", "größe", "\u{0}\n", &"x".repeat(512)] {
            assert_eq!(decode(&encode(key)).unwrap(), key);
        }
        assert_eq!(encode("http/tcp"), "http%2Ftcp");
        assert_eq!(decode("http%2ftcp").unwrap(), "http/tcp");
        assert_eq!(decode("a+b").unwrap(), "a+b");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for segment in ["", "%", "%2", "%zz", "%+1", "%ff", &"x".repeat(513)] {
            assert!(decode(segment).is_err(), "{segment}");
        }
    }
}
