//! How long to wait before the next attempt.

use std::time::Duration;

/// The pauses after failures in a row: each twice as long as the one before, up to a longest, and
/// shortened by up to half, so that those who failed together don't come back together.
///
/// ```
/// use std::time::Duration;
/// use quorate_network::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1), 7);
/// assert!(backoff.pause() <= Duration::from_millis(10));
/// assert!(backoff.pause() >= Duration::from_millis(10));
/// backoff.reset();
/// assert!(backoff.pause() <= Duration::from_millis(10));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    /// No failure yet. Pauses of `min` to `max`, spread by `seed`.
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max, failures: 0, random: seed }
    }

    /// It worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// It failed: how long to wait.
    pub fn pause(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = self.min.saturating_mul(factor).min(self.max);
        let spread = (split_mix(&mut self.random) >> 40) as u32;
        pause / 2 + (pause / 2).mul_f64(f64::from(spread) / f64::from(1u32 << 24))
    }
}

/// SplitMix64: a full-period generator in three lines, as good as spreading pauses needs.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(50);
    const MAX: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_grow_to_the_cap_and_differ_by_seed_alone() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(MIN, MAX, seed);
            (0..100).map(|_| backoff.pause()).collect::<Vec<_>>()
        };
        let first = pauses(1);
        assert_eq!(first, pauses(1));
        assert_ne!(first, pauses(2));
        assert!(first[0] >= MIN / 2 && first[0] <= MIN);
        for pause in &first[5..] {
            assert!(*pause >= MAX / 2 && *pause <= MAX);
        }
    }

    #[test]
    fn success_makes_the_next_pause_short_again() {
        let mut backoff = Backoff::new(MIN, MAX, 1);
        for _ in 0..40 {
            backoff.pause();
        }
        backoff.reset();
        assert!(backoff.pause() <= MIN);
    }
}
