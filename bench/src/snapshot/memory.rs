//! What a process has in memory, from `/proc`.
//!
//! *Resident* counts everything, the program's own text and other mapped files too. Those cost the
//! machine nothing that it could not take back at once, and nothing here maps data (the log, the
//! snapshots and redb read and write their files), so they are left out of what is compared.

use std::fs;

use serde::{Deserialize, Serialize};

/// Bytes in memory of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Now.
    pub(crate) resident: u64,
    /// The most since the peak was last reset.
    pub(super) peak: u64,
    /// Of what is resident now: mapped files.
    pub(crate) mapped: u64,
}

impl Memory {
    /// Of the process `pid`. `None` where the system does not tell.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            Some(kib << 10)
        };
        Some(Self { resident: field("VmRSS")?, peak: field("VmHWM")?, mapped: field("RssFile")? })
    }

    /// Has the peak of the process `pid` begin anew, at what is resident. Says whether it could.
    pub(super) fn reset_peak(pid: u32) -> bool {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
    }

    /// The peak without mapped files: what the process had for itself.
    pub(super) fn own_peak(&self) -> u64 {
        self.peak.saturating_sub(self.mapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_status_are_found() {
        let status = "Name:\tkv\nVmHWM:\t    300 kB\nVmRSS:\t    200 kB\nRssAnon:\t 150 kB\n\
                      RssFile:\t     50 kB\n";
        let memory = Memory::parse(status).unwrap();
        assert_eq!(memory, Memory { resident: 200 << 10, peak: 300 << 10, mapped: 50 << 10 });
        assert_eq!(memory.own_peak(), 250 << 10);
        assert_eq!(Memory::parse("Name:\tkv\n"), None);
    }
}
