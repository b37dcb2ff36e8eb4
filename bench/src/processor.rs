//! What a process takes of the processors, from `/proc`.

use std::fs;
use std::time::Duration;

/// Of what the kernel counts in, as it tells it: the same on every Linux.
const TICKS_PER_SECOND: u32 = 100;

/// Processor time of this process so far, all threads, in user and kernel mode. `None` where the system
/// does not tell.
pub(crate) fn used() -> Option<Duration> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse(stat: &str) -> Option<Duration> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    let (user, kernel) = (times.next()??, times.next()??);
    Some(Duration::from_secs(1) * (user + kernel) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 2 0 0 0 150 50 9 9 20 0 1 0 100 0";
        assert_eq!(parse(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse("7 (a) S 1"), None);
    }
}
