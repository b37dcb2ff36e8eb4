//! Distributions in fixed buckets: cheap to record, and those of two nodes can be added up.
//!
//! Every histogram has the same buckets. Their upper bounds are the powers of two from 1 to 2^26, the
//! last bucket takes what is above: from a microsecond to 67 seconds for times, up to 64 MiB for sizes.
//! So a quantile is known within a factor of two, and what is between is taken to be spread evenly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets that have an upper bound; one more has none.
const BOUNDED: usize = 27;

/// A histogram that is being recorded. Any number of tasks may record and look, without waiting.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    buckets: [AtomicU64; BOUNDED + 1],
    sum: AtomicU64,
}

impl Recorder {
    pub(crate) fn record(&self, value: u64) {
        self.record_many(value, 1);
    }

    /// The same value so many times.
    pub(crate) fn record_many(&self, value: u64, times: u64) {
        // The smallest power of two that is not below it.
        let bucket = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(BOUNDED)].fetch_add(times, Ordering::Relaxed);
        self.sum.fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// A time that so many have taken, in microseconds.
    pub(crate) fn record_time(&self, took: Duration, times: u64) {
        self.record_many(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), times);
    }

    pub(crate) fn histogram(&self) -> Histogram {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Histogram { buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// How often values came since the node started, by size. Owned: it does not change any more.
///
/// Times are in microseconds, sizes in entries or bytes. The buckets are the same everywhere:
/// `core/src/histogram.rs` and `docs/observability.md` say which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BOUNDED + 1],
    sum: u64,
}

impl Histogram {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum. Read a moment after the buckets, so it may hold a little more than they do.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Each bucket's upper bound, which is inside it, and how many values are in it alone; the last has
    /// no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bound = |at: usize| (at < BOUNDED).then(|| 1 << at);
        self.buckets.into_iter().enumerate().map(move |(at, count)| (bound(at), count))
    }

    /// What came since `earlier`, a histogram of the same node and name.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let less = |at: usize| self.buckets[at].saturating_sub(earlier.buckets[at]);
        let sum = self.sum.saturating_sub(earlier.sum);
        Histogram { buckets: std::array::from_fn(less), sum }
    }

    /// The value that a share of all values do not exceed, about: `quantile(0.99)`. `None` if there are
    /// none; the highest bound if it lies above that.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (bound, within) in self.buckets() {
            if within > 0 && below + within >= rank {
                let upper = bound.unwrap_or(1 << (BOUNDED - 1));
                let lower = if upper == 1 || bound.is_none() { upper } else { upper / 2 };
                let part = (rank - below) as f64 / within as f64;
                return Some(lower + ((upper - lower) as f64 * part) as u64);
            }
            below += within;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        for (value, bound) in [
            (0, Some(1)),
            (1, Some(1)),
            (2, Some(2)),
            (3, Some(4)),
            (4, Some(4)),
            (1 << 26, Some(1 << 26)),
            ((1 << 26) + 1, None),
            (u64::MAX, None),
        ] {
            let recorder = Recorder::default();
            recorder.record(value);
            let histogram = recorder.histogram();
            let (found, _) = histogram.buckets().find(|(_, count)| *count == 1).unwrap();
            assert_eq!(found, bound, "{value}");
            assert_eq!((histogram.count(), histogram.sum()), (1, value));
        }
    }

    #[test]
    fn quantiles_are_within_their_bucket() {
        let recorder = Recorder::default();
        assert_eq!(recorder.histogram().quantile(0.5), None);
        recorder.record_many(100, 98);
        recorder.record_time(Duration::from_millis(50), 2);
        let histogram = recorder.histogram();
        let within = |share, from, to| {
            let found = histogram.quantile(share).unwrap();
            assert!((from..=to).contains(&found), "{share}: {found}");
        };
        within(0.0, 64, 128);
        within(0.5, 64, 128);
        within(0.98, 64, 128);
        within(0.99, 32_768, 65_536);
        within(1.0, 32_768, 65_536);
        assert_eq!(histogram.sum(), 98 * 100 + 2 * 50_000);
        recorder.record_many(7, 3);
        let later = recorder.histogram().since(&histogram);
        assert_eq!((later.count(), later.sum()), (3, 21));
    }
}
