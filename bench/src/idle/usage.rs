//! What a process has taken from the machine, thread by thread, from `/proc`.
//!
//! By thread, since the sums of a process count neither: its times are in hundredths of a second, and
//! its switches those of its first thread.

use std::collections::BTreeMap;
use std::time::Duration;
use std::{fs, io};

/// Of a moment. By thread.
pub(super) struct Usage(BTreeMap<u32, Taken>);

/// Since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Processor time.
    pub(super) time: Duration,
    /// How often it gave the processor back by itself: as often it was woken.
    pub(super) wakeups: u64,
}

impl Usage {
    /// What the process `pid` has taken so far.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let mut threads = BTreeMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = thread?.path();
            let read = |name: &str| fs::read_to_string(path.join(name));
            let (schedule, status) = match (read("schedstat"), read("status")) {
                (Ok(schedule), Ok(status)) => (schedule, status),
                // It ended a moment ago.
                _ if !path.exists() => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let unknown = || io::Error::other(format!("{} is not understood", path.display()));
            let taken = id.zip(parse(&schedule, &status)).ok_or_else(unknown)?;
            threads.extend([taken]);
        }
        Ok(Self(threads))
    }

    /// What was taken since `before`. What a thread took that ended meanwhile is not known.
    pub(super) fn since(&self, before: &Self) -> Taken {
        let mut sum = Taken::default();
        for (id, now) in &self.0 {
            let then = before.0.get(id).copied().unwrap_or_default();
            sum.time += now.time.saturating_sub(then.time);
            sum.wakeups += now.wakeups.saturating_sub(then.wakeups);
        }
        sum
    }
}

fn parse(schedule: &str, status: &str) -> Option<Taken> {
    let nanos = schedule.split_whitespace().next()?.parse().ok()?;
    let mut lines = status.lines();
    let wakeups = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    Some(Taken { time: Duration::from_nanos(nanos), wakeups: wakeups.trim().parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(nanos: u64, wakeups: u64) -> Taken {
        Taken { time: Duration::from_nanos(nanos), wakeups }
    }

    #[test]
    fn what_the_system_says_is_read() {
        let status = "Name:\tbench\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(parse("1234 56 7\n", status), Some(taken(1234, 17)));
        assert_eq!(parse("1234 56 7\n", "Name:\tbench\n"), None);
    }

    #[test]
    fn threads_come_and_go() {
        let usage = |threads: &[(u32, Taken)]| Usage(threads.iter().copied().collect());
        let before = usage(&[(1, taken(10, 1)), (2, taken(20, 2))]);
        let after = usage(&[(1, taken(15, 4)), (3, taken(7, 1))]);
        assert_eq!(after.since(&before), taken(12, 4));
    }
}
