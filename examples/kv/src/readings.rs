//! What `kv top` reads out of a node's `/metrics`: as much of the text as it needs, and no more.

use std::str::FromStr;

/// One node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The node.
    pub id: u64,
    /// The role it has, in the words of `/status`.
    pub role: String,
    /// Its term.
    pub term: u64,
    /// The last entry it knows to be committed.
    pub committed: u64,
    /// The last that its store has seen.
    pub applied: u64,
    /// Whether it follows a leader and is up to date.
    pub healthy: bool,
    /// Whether it had to stop.
    pub failed: bool,
    /// Entries that its store has seen since the node started.
    pub entries: u64,
    /// Writes at the leader, from the proposal to the answer.
    pub answered: Times,
    /// Writes of the log until they are durable.
    pub log_write: Times,
}

/// A histogram of times: upper bounds in seconds, and how many were not above.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times(Vec<(f64, u64)>);

impl Times {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Times) -> Times {
        // A node that was started again begins at 0: then all of it is new.
        let restarted = earlier.0.iter().zip(&self.0).any(|(before, now)| before.1 > now.1);
        let before = |at: usize| match earlier.0.get(at) {
            Some((_, count)) if !restarted => *count,
            _ => 0,
        };
        let each = self.0.iter().enumerate();
        Times(each.map(|(at, (bound, count))| (*bound, count - before(at))).collect())
    }

    /// The time in microseconds that a share of all did not exceed, taken to be spread evenly within a
    /// bucket; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all = self.0.last().map_or(0, |(_, count)| *count);
        let rank = share * all as f64;
        let (mut lower, mut below) = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count > 0 && *count as f64 >= rank {
                // Above the highest bound nothing more is known.
                let upper = if bound.is_finite() { *bound } else { lower };
                let part = (rank - below as f64) / (count - below).max(1) as f64;
                return Some(((lower + (upper - lower) * part) * 1e6).round() as u64);
            }
            (lower, below) = (*bound, *count);
        }
        None
    }
}

/// A line of the text: a name, its labels, a value.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

impl<'a> Sample<'a> {
    /// `None` for a line that is no sample of ours.
    fn of(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.split_once("} ")?;
        let label = |label: &'a str| {
            let (name, value) = label.split_once('=')?;
            Some((name, value.trim_matches('"')))
        };
        let labels = labels.split(',').map(label).collect::<Option<_>>()?;
        Some(Self { name, labels, value: value.parse().ok()? })
    }

    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.iter().find(|(of, _)| *of == name).map(|(_, value)| *value)
    }
}

impl FromStr for Reading {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let samples: Vec<Sample<'_>> = text.lines().filter_map(Sample::of).collect();
        let lacks = |name: &str| format!("/metrics lacks {name}; is it another version?");
        let number = |name: &str| {
            let found = samples.iter().find(|sample| sample.name == name);
            found.map(|sample| sample.value as u64).ok_or_else(|| lacks(name))
        };
        let role = samples
            .iter()
            .find(|sample| sample.name == "quorate_role" && sample.value == 1.0)
            .ok_or_else(|| lacks("quorate_role"))?;
        let id = role.label("node").and_then(|id| id.parse().ok());
        let times = |name: &str, stage: Option<&str>| {
            let mut bounds: Vec<(f64, u64)> = samples
                .iter()
                .filter(|sample| sample.name == name && sample.label("stage") == stage)
                .filter_map(|sample| {
                    // `+Inf` is a number too.
                    Some((sample.label("le")?.parse().ok()?, sample.value as u64))
                })
                .collect();
            bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
            if bounds.is_empty() { Err(lacks(name)) } else { Ok(Times(bounds)) }
        };
        Ok(Self {
            id: id.ok_or_else(|| lacks("node"))?,
            role: role.label("role").ok_or_else(|| lacks("role"))?.to_owned(),
            term: number("quorate_term")?,
            committed: number("quorate_committed_index")?,
            applied: number("quorate_applied_index")?,
            healthy: number("quorate_healthy")? == 1,
            failed: number("quorate_failed")? == 1,
            entries: number("quorate_apply_entries_sum")?,
            answered: times("quorate_write_seconds_bucket", Some("answered"))?,
            log_write: times("quorate_log_write_seconds_bucket", None)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(counts: [u64; 4]) -> Times {
        let bounds = [0.001, 0.002, 0.004, f64::INFINITY];
        Times(bounds.into_iter().zip(counts).collect())
    }

    #[test]
    fn quantiles_are_spread_within_their_bucket() {
        assert_eq!(times([0, 0, 0, 0]).quantile(0.5), None);
        assert_eq!(Times::default().quantile(0.5), None);
        assert_eq!(times([0, 100, 100, 100]).quantile(0.5), Some(1500));
        assert_eq!(times([50, 50, 100, 100]).quantile(0.5), Some(1000));
        assert_eq!(times([50, 50, 100, 100]).quantile(0.75), Some(3000));
        assert_eq!(times([0, 0, 0, 7]).quantile(0.99), Some(4000), "as much as is known");
    }

    #[test]
    fn what_is_new_is_the_difference_unless_the_node_began_anew() {
        let earlier = times([1, 2, 3, 3]);
        assert_eq!(times([1, 5, 9, 9]).since(&earlier), times([0, 3, 6, 6]));
        assert_eq!(times([0, 1, 1, 1]).since(&earlier), times([0, 1, 1, 1]));
        assert_eq!(times([1, 1, 1, 1]).since(&Times::default()), times([1, 1, 1, 1]));
    }

    #[test]
    fn what_is_no_text_of_a_node_is_refused() {
        for wrong in ["", "<html>", "quorate_term{node=\"1\",group=\"1\"} 3\n", "a{b} 1\n"] {
            assert!(wrong.parse::<Reading>().unwrap_err().contains("is it another version?"));
        }
    }
}
