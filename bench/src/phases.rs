//! Warm-up, measurement, end: the phases that the clients of a measurement go through together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::failure::Failure;
use crate::processor;

/// Longer than any answer takes, unless it is lost.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// Which phase it is; all clients read it after each call.
pub(crate) type Phase = Arc<AtomicU8>;

/// Do not count.
pub(crate) const WARM_UP: u8 = 0;
/// Count.
pub(crate) const MEASURE: u8 = 1;
/// End; so is any other.
const STOP: u8 = 2;

/// The first phase, for clients to be started with.
pub(crate) fn begin() -> Phase {
    Arc::new(AtomicU8::new(WARM_UP))
}

/// What came of a measurement.
pub(crate) struct Passed<T> {
    /// By each client.
    pub(crate) counted: Vec<T>,
    /// How long it was.
    pub(crate) elapsed: Duration,
    /// What this process took of the processors meanwhile, if the system tells.
    pub(crate) processor: Option<Duration>,
}

/// Takes the clients through all phases.
pub(crate) async fn pass<T: 'static>(
    mut clients: JoinSet<Result<T, Failure>>,
    phase: &Phase,
    warm_up: Duration,
    length: Duration,
) -> Result<Passed<T>, Failure> {
    undisturbed(&mut clients, warm_up).await?;
    phase.store(MEASURE, Ordering::Relaxed);
    let (began, before) = (Instant::now(), processor::used());
    undisturbed(&mut clients, length).await?;
    phase.store(STOP, Ordering::Relaxed);
    let elapsed = began.elapsed();
    let processor = before.and_then(|before| processor::used()?.checked_sub(before));
    let all = async {
        let mut counted = Vec::new();
        while let Some(ended) = clients.join_next().await {
            counted.push(tally(ended)?);
        }
        Ok(counted)
    };
    let late = |_| Failure::new("a call was never answered", "run it again, one subject alone");
    let counted = timeout(LAST_ANSWERS, all).await.map_err(late)??;
    Ok(Passed { counted, elapsed, processor })
}

/// Waits for `length`, unless a client ends before: they have no reason to but a failure.
async fn undisturbed<T: 'static>(
    clients: &mut JoinSet<Result<T, Failure>>,
    length: Duration,
) -> Result<(), Failure> {
    tokio::select! { biased;
        Some(ended) = clients.join_next() => {
            tally(ended)?;
            Err(Failure::new("a client ended early", "report this as a bug"))
        }
        () = sleep(length) => Ok(()),
    }
}

fn tally<T>(ended: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    ended.map_err(|e| Failure::new(format!("a client failed: {e}"), "report this as a bug"))?
}

/// The median of what calls took; of none, none.
pub(crate) fn middle(mut took: Vec<Duration>) -> Option<Duration> {
    let middle = took.len() / 2;
    (!took.is_empty()).then(|| *took.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_nothing_is_none() {
        assert_eq!(middle(Vec::new()), None);
        assert_eq!(
            middle([3, 1, 2].map(Duration::from_secs).to_vec()),
            Some(Duration::from_secs(2))
        );
    }
}
