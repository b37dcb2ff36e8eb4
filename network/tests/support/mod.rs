//! What several tests need.

#![allow(dead_code)] // each test uses a part of it

use std::fmt::Write as _;

use bytes::Bytes;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The bytes of [`hex`].
pub(crate) fn from_hex(text: &str) -> Bytes {
    assert!(text.len() % 2 == 0, "half a byte");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
