//! Makes a failure small: fewer faults, a calmer world, less time, fewer nodes, and still the same
//! broken promise.
//!
//! Faults are taken out by delta debugging (Zeller and Hildebrandt, *Simplifying and Isolating
//! Failure-Inducing Input*, 2002). Taking one out changes what happens afterwards, since timers and
//! messages fall otherwise; so what is left is not the core of the first failure but a smaller
//! failure of the same promise.

use crate::explore::{Options, explore};
use crate::failure::Failure;
use crate::reduction::Reduction;

/// The search for a smaller failure.
struct Search<'a> {
    /// How the smallest failure so far was found.
    options: Options,
    best: Failure,
    /// Told of every try; the search ends when it says no.
    go_on: &'a mut dyn FnMut(&Reduction) -> bool,
    over: bool,
}

/// A failure of the same promise with as little as can be found out around it, and how it was found.
/// `options` are those under which `failure` was.
///
/// `go_on` is called before each try with what is left so far, and ends the search by returning
/// `false`.
pub fn minimize(
    failure: &Failure,
    options: &Options,
    go_on: &mut dyn FnMut(&Reduction) -> bool,
) -> (Failure, Options) {
    let mut search = Search { options: options.clone(), best: failure.clone(), go_on, over: false };
    let outline = options.outline(failure.seed);
    search.end_with_the_failure(outline.millis);
    let there: Vec<usize> = match &search.options.reduction.faults {
        Some(faults) => faults.clone(),
        None => (0..outline.faults).collect(),
    };
    search.fewer_faults(there.clone());
    for trouble in outline.troubles {
        search.change(|r| {
            if !r.calm.contains(&trouble) {
                r.calm.push(trouble);
            }
        });
    }
    for nodes in 1..outline.nodes {
        if search.change(|r| r.nodes = Some(nodes)) {
            break;
        }
    }
    search.less_time(outline.millis);
    // Nothing could go the first time: in what is left now some of it may.
    let left = search.options.reduction.faults.clone().unwrap_or(there);
    search.fewer_faults(left);
    (search.best, search.options)
}

impl Search<'_> {
    /// Whether the promise is still broken with this left out; if so, that is the new best.
    fn change(&mut self, change: impl FnOnce(&mut Reduction)) -> bool {
        let mut options = self.options.clone();
        change(&mut options.reduction);
        self.over = self.over || !(self.go_on)(&self.options.reduction);
        if self.over || options.reduction == self.options.reduction {
            return false;
        }
        match explore(self.best.seed, &options) {
            Err(failure) if failure.promise == self.best.promise => {
                self.best = failure;
                self.options = options;
                true
            }
            _ => false,
        }
    }

    /// Nothing is done after the failure; one of the recovery keeps its time.
    fn end_with_the_failure(&mut self, whole: u64) {
        let millis = self.best.at.as_millis() as u64 + 1;
        if millis < self.options.reduction.millis.unwrap_or(whole) {
            self.change(|r| r.millis = Some(millis));
        }
    }

    fn less_time(&mut self, whole: u64) {
        let millis = |r: &Reduction| r.millis.unwrap_or(whole);
        for part in [2, 4, 8] {
            // What is not enough in halves may be enough in smaller steps.
            while self.change(|r| r.millis = Some(millis(r) - millis(r) / part)) {
                if millis(&self.options.reduction) < part {
                    break;
                }
            }
        }
    }

    /// Takes out as many of `faults` as possible: first halves, then ever smaller parts.
    fn fewer_faults(&mut self, mut faults: Vec<usize>) {
        if self.change(|r| r.faults = Some(Vec::new())) {
            return;
        }
        let mut parts = 2;
        while !faults.is_empty() && !self.over {
            let size = faults.len().div_ceil(parts);
            let without = (0..faults.len()).step_by(size).find_map(|from| {
                let mut rest = faults.clone();
                rest.drain(from..(from + size).min(faults.len()));
                self.change(|r| r.faults = Some(rest.clone())).then_some(rest)
            });
            match without {
                Some(rest) => {
                    faults = rest;
                    parts = (parts - 1).max(2);
                }
                None if size == 1 => break,
                None => parts = (parts * 2).min(faults.len()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::Level;
    use crate::sabotage::Sabotage;

    /// Of many faults few are left, at most a fifth, and the flags of what is left replay it.
    fn becomes_small(level: Level, sabotage: Sabotage, promise: &str) {
        let options = Options { sabotage: Some(sabotage), ..Options::of(level) };
        let many = |failure: &Failure| {
            failure.promise == promise && options.outline(failure.seed).faults >= 20
        };
        let mut failures = (0..200).filter_map(|seed| explore(seed, &options).err());
        let failure = failures.find(many).expect("a seed with many faults");
        let mut tries = 0;
        let (small, found) = minimize(&failure, &options, &mut |_| {
            tries += 1;
            true
        });
        let faults = found.reduction.faults.as_ref().expect("only some faults are needed").len();
        assert!(faults * 5 <= options.outline(failure.seed).faults, "{small}");
        assert_eq!(small.promise, failure.promise);
        assert!(tries < 500, "{tries}");
        let again = explore(failure.seed, &found).unwrap_err();
        assert_eq!(again.to_string(), small.to_string());

        let (stopped, _) = minimize(&failure, &options, &mut |_| false);
        assert_eq!(stopped, failure);
    }

    #[test]
    fn a_failure_becomes_small_and_stays_the_same() {
        becomes_small(Level::Engines, Sabotage::SyncIgnored, "positions never go back");
    }

    #[test]
    fn a_failure_of_nodes_becomes_small_and_stays_the_same() {
        let promise = "a node can start from what its disk kept";
        becomes_small(Level::Nodes, Sabotage::DiskLies, promise);
    }
}
