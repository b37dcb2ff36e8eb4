//! How a process of this package ends when it can't do what it was asked: a text that says what
//! happened and what to do, and an exit code that says whose turn it is.

use std::fmt;

/// Why the process ends. Printed as `error: TEXT` on stderr.
#[derive(Debug)]
pub struct Exit {
    /// 1: what was asked for failed. 2: it could not be tried, the command or its surroundings
    /// (an address, a directory, a file) have to change first.
    pub code: u8,
    /// What happened; what to do.
    pub text: String,
}

impl Exit {
    /// What was asked for failed.
    pub fn failed(text: impl fmt::Display) -> Self {
        Self { code: 1, text: text.to_string() }
    }

    /// The command or its surroundings have to change first.
    pub fn unusable(text: impl fmt::Display) -> Self {
        Self { code: 2, text: text.to_string() }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Exit {}
