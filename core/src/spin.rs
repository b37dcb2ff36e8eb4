//! Whoever waits last stays awake.
//!
//! To put a thread to sleep and to wake it takes longer than nodes in memory take for a write, and a round of calls
//! wakes two: the node's, and the callers' own. So the caller behind whom nobody is left to call watches for an
//! answer, its own or another's: its thread is there when the answers come, and asks again before the node's
//! thread sleeps.
//!
//! It is bounded and it is learned. Nobody watches for longer than a moment, nor before the other tasks of its thread
//! had a turn; hardly anybody where answers take longer, as of disks and of other machines; and nobody in a crowd,
//! which keeps threads awake by itself.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::StartError;

/// More than that is no moment.
const LONGEST: Duration = Duration::from_millis(1);

/// More callers than that are a crowd: a round of theirs is work for several threads.
const CROWD: usize = 100;

/// Calls after which it is forgotten how many waited at a time.
const LATELY: u32 = 512;

/// What one answer that came too late costs of what was earned by those in time, one each. It took the processor
/// about four times as long as each of them saved.
const TOO_LATE: u32 = 4;

/// Most that can be earned, so that a change is noticed soon.
const MAX_CREDIT: u32 = 64;

/// Answers too late, one after another, after which it is given up for a while.
const TRIES: u32 = 4;

/// Calls that sleep at once before it is tried again: where it is always in vain, that is the loss of at most
/// [`TRIES`] times the limit in so many calls.
const REST: u32 = 1000;

/// Looks between two at the clock.
const LOOKS: u32 = 32;

/// How many callers wait, of those who called lately.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    most: usize,
    /// The same since `calls` were none.
    next: usize,
    calls: u32,
}

impl Crowd {
    /// There is another call, with which so many wait. Returns whether nobody is left to call, of few: as many
    /// wait as ever did lately.
    pub(crate) fn is_all(&mut self, waiting: usize) -> bool {
        self.next = self.next.max(waiting);
        self.most = self.most.max(waiting);
        self.calls += 1;
        if self.calls == LATELY {
            *self = Self { most: self.next, next: 0, calls: 0 };
        }
        waiting == self.most && waiting <= CROWD
    }
}

/// How the callers of one group wait.
pub(crate) struct Spin {
    /// A caller watches for this long at most; zero: not at all.
    limit: Duration,
    /// Goes up when callers are answered.
    answers: AtomicU64,
    learned: Mutex<Learned>,
}

/// Whether it is worth to watch. Those who watch take turns, nearly always, so the lock is free.
struct Learned {
    credit: u32,
    /// Calls that are to sleep at once.
    rest: u32,
}

impl Spin {
    /// Whether a limit is one.
    pub(crate) fn check(limit: Duration) -> Result<(), StartError> {
        if limit <= LONGEST {
            return Ok(());
        }
        let text = "caller_spin is over a millisecond; a thread does nothing else meanwhile";
        Err(StartError::Config(text.into()))
    }

    /// For the callers of a node on the runtime of whoever calls this. On one of a single thread the node could
    /// not answer meanwhile, and a run with a seed must not depend on the clock: there nobody watches.
    pub(crate) fn new(limit: Duration) -> Self {
        let one_thread = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
        Self::of(if one_thread { Duration::ZERO } else { limit })
    }

    /// Where nobody watches.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self::of(Duration::ZERO)
    }

    fn of(limit: Duration) -> Self {
        Self { limit, answers: AtomicU64::new(0), learned: Mutex::new(Learned::new()) }
    }

    /// How many answers there were: what whoever watches from now on wants to see go up.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Acquire)
    }

    /// Callers are answered.
    pub(crate) fn answering(&self) {
        self.answers.fetch_add(1, Ordering::Release);
    }

    /// Whether to watch, as a rule.
    pub(crate) fn is_worth_it(&self) -> bool {
        !self.limit.is_zero() && self.lock().is_worth_it()
    }

    /// Returns when there are more answers than `seen`, and when it is time to sleep.
    pub(crate) fn watch(&self, seen: u64) {
        if self.answers() == seen {
            let in_time = self.come_in_time(seen);
            self.lock().learn(in_time);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    #[cfg(test)]
    pub(crate) fn credit(&self) -> u32 {
        self.lock().credit
    }

    fn come_in_time(&self, seen: u64) -> bool {
        let began = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.answers() != seen {
                    return true;
                }
                spin_loop();
            }
            if began.elapsed() >= self.limit {
                return false;
            }
        }
    }
}

impl Learned {
    fn new() -> Self {
        Self { credit: TRIES * TOO_LATE, rest: 0 }
    }

    fn is_worth_it(&mut self) -> bool {
        let worth_it = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        worth_it
    }

    fn learn(&mut self, in_time: bool) {
        if in_time {
            self.credit = (self.credit + 1).min(MAX_CREDIT);
            return;
        }
        self.credit = self.credit.saturating_sub(TOO_LATE);
        if self.credit == 0 {
            *self = Self { rest: REST, ..Self::new() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wait_when_as_many_do_as_ever_lately() {
        let mut crowd = Crowd::default();
        let mut calls = |waiting: &[usize]| {
            waiting.iter().map(|waiting| crowd.is_all(*waiting)).collect::<Vec<_>>()
        };
        assert_eq!(calls(&[1, 1, 2, 3]), [true; 4]);
        assert_eq!(calls(&[2, 1, 3, 2]), [false, false, true, false]);
        // Two of the three are gone.
        assert!(calls(&[1; LATELY as usize]).iter().any(|all| !all));
        assert_eq!(calls(&[1; LATELY as usize])[LATELY as usize - 1..], [true]);
        assert_eq!(calls(&[CROWD, CROWD + 1, CROWD, CROWD + 1]), [true, false, false, false]);
    }

    /// Calls that watch, of so many of which all are answered in time, or none.
    fn watching(learned: &mut Learned, calls: u32, in_time: bool) -> u32 {
        let mut watching = 0;
        for _ in 0..calls {
            if learned.is_worth_it() {
                learned.learn(in_time);
                watching += 1;
            }
        }
        watching
    }

    #[test]
    fn who_watches_in_vain_gives_it_up_and_tries_again() {
        let mut learned = Learned::new();
        assert_eq!(watching(&mut learned, TRIES + REST, false), TRIES);
        assert_eq!(watching(&mut learned, TRIES + REST, false), TRIES);
        assert_eq!(watching(&mut learned, 10 * REST, true), 10 * REST);
    }

    #[test]
    fn a_few_answers_that_are_late_change_nothing() {
        let mut learned = Learned::new();
        for _ in 0..REST {
            assert_eq!(watching(&mut learned, TOO_LATE, true), TOO_LATE);
            assert_eq!(watching(&mut learned, 1, false), 1);
        }
        // Half of them do, also after a long time in which all came.
        watching(&mut learned, REST, true);
        let half = (0..REST).map(|call| watching(&mut learned, 1, call % 2 == 0)).sum::<u32>();
        assert!(half < 64, "{half}");
    }

    /// A test that waits for it fails.
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn who_watches_sees_that_answers_come_and_gives_up() {
        let spin = Spin::of(LONG);
        for _ in 0..100 {
            let seen = spin.answers();
            std::thread::scope(|threads| {
                threads.spawn(|| spin.answering());
                assert!(spin.is_worth_it());
                spin.watch(seen);
            });
            assert_eq!(spin.answers(), seen + 1);
        }
        let seen = spin.answers();
        spin.answering();
        spin.watch(seen);
        let before = spin.credit();
        let spin = Spin { limit: Duration::from_micros(1), ..spin };
        spin.watch(spin.answers());
        assert_eq!(spin.credit(), before - TOO_LATE);
    }

    #[tokio::test]
    async fn nobody_watches_on_a_runtime_of_one_thread() {
        assert!(!Spin::new(LONGEST).is_worth_it());
        assert!(Spin::of(LONGEST).is_worth_it());
    }
}
