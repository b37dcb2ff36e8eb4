//! Linearizability (Herlihy and Wing, 1990): there is one order of all operations, each at some
//! moment between its call and its return, in which every output is right.
//!
//! The property is local, so keys are checked one by one. Within a key the search is that of Wing
//! and Gong (1993) with Lowe's memory of configurations seen (2017); see `search.rs` for what it
//! adds to get through many concurrent and many unknown operations. The problem is NP-complete, so
//! a model and a history can be found that it does not get through. What a model says of its
//! operations in [`Model::effect`] keeps those rare, and so do clients that never write a value
//! twice; such a history also shows more of what goes wrong.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::hash::Hash;

use super::search::{Prefix, Search};
use super::{Operation, Outcome};

/// What a service does, one operation at a time.
pub trait Model {
    /// A part of the state that no operation on another part sees or changes.
    type Key: Ord + Clone + Debug;
    /// The state of one key.
    type State: Clone + Eq + Hash + Debug;
    /// What clients ask.
    type Input: Clone + Eq + Hash + Debug;
    /// What they are told.
    type Output: Clone + Debug;

    /// Which key an operation is on.
    fn key(&self, input: &Self::Input) -> Self::Key;

    /// The state of a key before any operation.
    fn initial(&self, key: &Self::Key) -> Self::State;

    /// The state after an operation, or `None` if it can't have this output in this state.
    ///
    /// Without an output, which nobody knows, any would do; then `None` means that the operation
    /// would change nothing here.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// What can be said of an operation without knowing the state that it meets.
    ///
    /// It only makes checks quicker, by orders of magnitude when many clients work on one key. But
    /// what it says has to be true of [`Model::step`] in every state, or the verdict may be wrong.
    fn effect(&self, input: &Self::Input, output: Option<&Self::Output>) -> Effect<Self::State> {
        let (_, _) = (input, output);
        Effect::Depends
    }
}

/// What an operation does, whatever the state that it meets. See [`Model::effect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect<S> {
    /// It depends on the state.
    Depends,
    /// It never changes the state.
    Reads,
    /// Where it is possible at all, it leaves this state: a compare-and-set that did swap.
    Leaves(S),
    /// It is possible in every state, and leaves this one: a write.
    Overwrites(S),
}

/// Why a history is not linearizable. Its text is for people; `{:?}` is the same, so that a failed
/// `unwrap` can be read.
pub struct Violation<M: Model> {
    /// The key that shows it, the first in order if there are several.
    pub key: M::Key,
    /// The operation that can't be explained: up to its return the history is not linearizable, up
    /// to the return before it is.
    pub culprit: Operation<M::Input, M::Output>,
    /// A right order of what had returned before, and of what must have happened besides. An
    /// operation that was still open is in it as if its outcome were unknown.
    pub order: Vec<Operation<M::Input, M::Output>>,
    /// The state that this order leaves.
    pub state: M::State,
    /// What else was called before the culprit returned, and can't explain it either.
    pub open: Vec<Operation<M::Input, M::Output>>,
}

/// The last operations of [`Violation::order`] that its text shows. All before are only counted.
const SHOWN: usize = 12;

impl<M: Model> fmt::Display for Violation<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {:?} is not linearizable: nothing explains", self.key)?;
        writeln!(f, "  {}", self.culprit)?;
        writeln!(f, "A right order of what had returned before it:")?;
        let hidden = self.order.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(f, "  ({hidden} operations, then)")?;
        }
        for operation in &self.order[hidden..] {
            writeln!(f, "  {operation}")?;
        }
        write!(f, "It leaves {:?}", self.state)?;
        if self.open.is_empty() {
            return write!(f, ", and no other order helps.");
        }
        writeln!(f, ", and no other order helps, nor does what was open:")?;
        for (i, operation) in self.open.iter().enumerate() {
            let end = if i + 1 == self.open.len() { "" } else { "\n" };
            write!(f, "  {operation}{end}")?;
        }
        Ok(())
    }
}

impl<M: Model> Debug for Violation<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M: Model> std::error::Error for Violation<M> {}

type OperationOf<'a, M> = &'a Operation<<M as Model>::Input, <M as Model>::Output>;

/// Looks for an order of the operations that the model agrees with.
///
/// Only positions matter. Two operations of which one ended at the position where the other began
/// count as concurrent; a [`History`](super::History) has no such two.
///
/// # Errors
/// There is none. The same history gives the same violation.
///
/// # Panics
/// If an operation ended before it began.
pub fn check<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
) -> Result<(), Box<Violation<M>>> {
    let mut keys: BTreeMap<M::Key, Vec<OperationOf<'_, M>>> = BTreeMap::new();
    for operation in operations {
        if !matches!(operation.outcome, Outcome::Failed) {
            keys.entry(model.key(&operation.input)).or_default().push(operation);
        }
    }
    for (key, operations) in keys {
        let whole = Prefix::whole(&operations);
        if let Err(reached) = Search::new(model, model.initial(&key), &whole).run() {
            let good = whole.returns_before(reached);
            return Err(Box::new(explain(model, key, &operations, good, whole.returns())));
        }
    }
    Ok(())
}

/// Finds the first return up to which the history is not linearizable, between one number of
/// returns that is fine and one that is not.
///
/// A prefix of a linearizable history is linearizable, so the returns can be bisected. Long ones
/// take long, and what is wrong shows soon after what was reached; so the first steps are small.
fn explain<M: Model>(
    model: &M,
    key: M::Key,
    operations: &[&Operation<M::Input, M::Output>],
    mut good: usize,
    mut bad: usize,
) -> Violation<M> {
    let run = |returns| {
        let prefix = Prefix::of(operations, returns);
        Search::new(model, model.initial(&key), &prefix).run()
    };
    let (mut order, mut state) = run(good).unwrap_or_else(|_| {
        // Only with a model that does not take an operation without the output that it takes it
        // with. What is found is a place where its verdict changes, though maybe not the first.
        good = 0;
        (Vec::new(), model.initial(&key))
    });
    let mut step = 1;
    while bad - good > 1 {
        let middle = (good + step).min(good + (bad - good) / 2);
        match run(middle) {
            Ok(found) => {
                good = middle;
                (order, state) = found;
            }
            Err(_) => bad = middle,
        }
        step *= 2;
    }
    let prefix = Prefix::of(operations, bad);
    let culprit = prefix.last_returned().expect("a bad prefix has a return");
    let mut open = prefix.called().to_vec();
    open.retain(|&i| i != culprit && !order.contains(&i));
    let cloned = |numbers: Vec<usize>| numbers.into_iter().map(|i| operations[i].clone()).collect();
    Violation {
        key,
        culprit: operations[culprit].clone(),
        order: cloned(order),
        state,
        open: cloned(open),
    }
}
