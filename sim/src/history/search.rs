//! The search for a right order of the operations on one key.
//!
//! A configuration is the set of operations placed so far and the state they leave. From it, any
//! operation may be placed that was called before the first return of one that is not placed yet.
//! The calls and returns of what is not placed are a linked list, so those are the calls at its
//! head, up to the first return (Wing and Gong); a configuration seen before is not entered again
//! (Lowe). Operations of unknown outcome have no return and need not be placed.
//!
//! With many concurrent or unknown operations that alone takes exponential time in practice, also
//! on histories that are fine. So there are rules that leave out configurations; each holds because
//! the operations of a right order can be exchanged so that it obeys the rule:
//!
//! - A read that is possible is placed, without an alternative: whatever comes later can come just
//!   as well after it.
//! - If only overwriting operations can come next, and one of them can be placed along with
//!   everything that will ever see what it leaves, that is done without an alternative: the one that
//!   comes next in any right order does not notice.
//! - States that no operation can tell apart are one state, so values that nobody read are one
//!   value. Of operations that then do the same, the one that returns first comes first.
//! - A state is not left while a known operation needs it that nothing can bring it back for.
//! - Of the right orders, one with the fewest unknown operations is looked for. So an unknown one is
//!   placed only if it changes something that the next operation depends on; of equal ones, the
//!   earliest; and a configuration is not entered if one with a part of its unknown operations and
//!   all else equal was.
//!
//! Where an effect depends on the state, states can't be compared in advance, and only the rules on
//! reads and on unknown operations are left.
//!
//! What comes first among alternatives matters for the time alone: what lets the operation of the
//! first return be placed, then what returns earlier.

use std::collections::HashMap;
use std::rc::Rc;

use super::linearizability::{Effect, Model};
use super::{Operation, Outcome};

/// An operation that is possible in more states than this will find one.
const MANY_STATES: usize = 32;

/// The operations on one key up to a return.
pub(super) struct Prefix<'a, I, O> {
    operations: &'a [&'a Operation<I, O>],
    /// Numbers of the operations called, in order of their calls.
    called: Vec<usize>,
    /// Numbers of those that returned, in order of their returns.
    returned: Vec<usize>,
}

impl<'a, I, O> Prefix<'a, I, O> {
    pub(super) fn whole(operations: &'a [&'a Operation<I, O>]) -> Self {
        Self::of(operations, operations.len())
    }

    /// What is known after the first `returns` returns.
    pub(super) fn of(operations: &'a [&'a Operation<I, O>], returns: usize) -> Self {
        let is_known = |&i: &usize| matches!(operations[i].outcome, Outcome::Returned(_));
        let mut returned: Vec<usize> = (0..operations.len()).filter(is_known).collect();
        returned.sort_by_key(|&i| ended(operations[i]));
        returned.truncate(returns);
        let end = returned.last().map(|&i| ended(operations[i]));
        let is_called = |&i: &usize| Some(operations[i].invoked.position) <= end;
        let mut called: Vec<usize> = (0..operations.len()).filter(is_called).collect();
        called.sort_by_key(|&i| operations[i].invoked.position);
        Self { operations, called, returned }
    }

    pub(super) fn called(&self) -> &[usize] {
        &self.called
    }

    /// How many operations returned.
    pub(super) fn returns(&self) -> usize {
        self.returned.len()
    }

    /// How many operations returned before a position.
    pub(super) fn returns_before(&self, position: u64) -> usize {
        self.returned.partition_point(|&i| ended(self.operations[i]) < position)
    }

    pub(super) fn last_returned(&self) -> Option<usize> {
        self.returned.last().copied()
    }
}

/// The position of a return.
fn ended<I, O>(operation: &Operation<I, O>) -> u64 {
    let ended = operation.ended.map_or(u64::MAX, |moment| moment.position);
    assert!(operation.invoked.position <= ended, "an operation ended before it began");
    ended
}

/// An operation's place in `Search::ops`: the known ones first, both kinds in order of their calls.
type Id = u32;
/// A state's place in `Search::states`.
type StateId = u32;

struct Op<'a, M: Model> {
    /// Its number in the caller's list.
    number: usize,
    input: &'a M::Input,
    /// `None` if unknown.
    output: Option<&'a M::Output>,
    invoked: u64,
    /// `u64::MAX` if unknown.
    returned: u64,
    effect: Effect<StateId>,
    /// What is called after this cannot be the next to see what this leaves: another overwriting
    /// operation lies between them. Known operations only.
    horizon: u64,
    /// Operations of one kind do the same in every state.
    kind: u32,
    /// The last operation before this one of the same kind, if this is unknown.
    twin: Option<Id>,
}

/// A set of small numbers.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn flip(&mut self, i: usize) {
        self.0[i / 64] ^= 1 << (i % 64);
    }

    /// How many words at the beginning are full.
    fn full(&self) -> usize {
        self.0.iter().take_while(|word| **word == u64::MAX).count()
    }

    /// The words from `from` on, without the empty ones at the end.
    fn words(&self, from: usize) -> Box<[u64]> {
        let end = self.0.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        self.0[from..end.max(from)].into()
    }
}

/// Whether `part` has no bit that `whole` lacks.
fn is_part(part: &[u64], whole: &[u64]) -> bool {
    part.len() <= whole.len() && part.iter().zip(whole).all(|(p, w)| p & !w == 0)
}

/// The calls and returns of known operations that are not placed, in order. Entry 0 is the head.
struct Entries {
    next: Vec<u32>,
    previous: Vec<u32>,
    /// The operation of an entry, and whether this is its return.
    what: Vec<(Id, bool)>,
    /// The entries of the call and of the return of an operation.
    of: Vec<[u32; 2]>,
}

impl Entries {
    fn new(spans: &[(u64, u64)]) -> Self {
        let ids = 0..spans.len() as Id;
        let calls = ids.clone().map(|id| (spans[id as usize].0, false, id));
        let returns = ids.map(|id| (spans[id as usize].1, true, id));
        let mut events: Vec<_> = calls.chain(returns).collect();
        events.sort_unstable();
        let count = events.len() as u32 + 1;
        let mut entries = Self {
            next: (1..=count).map(|entry| entry % count).collect(),
            previous: (0..count).map(|entry| (entry + count - 1) % count).collect(),
            what: vec![(0, true)],
            of: vec![[0; 2]; spans.len()],
        };
        for (entry, (_, is_return, id)) in (1..).zip(events) {
            entries.what.push((id, is_return));
            entries.of[id as usize][usize::from(is_return)] = entry;
        }
        entries
    }

    fn lift(&mut self, id: Id) {
        for entry in self.of[id as usize] {
            let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
            self.next[previous as usize] = next;
            self.previous[next as usize] = previous;
        }
    }

    /// Undoes the last `lift`.
    fn unlift(&mut self, id: Id) {
        for entry in self.of[id as usize].into_iter().rev() {
            let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
            self.next[previous as usize] = entry;
            self.previous[next as usize] = entry;
        }
    }

    /// The operation that returns first, `None` if all are placed.
    fn first_return(&self) -> Option<Id> {
        let mut entry = self.next[0];
        while entry != 0 {
            let (id, is_return) = self.what[entry as usize];
            if is_return {
                return Some(id);
            }
            entry = self.next[entry as usize];
        }
        None
    }
}

/// Operations that leave the same state.
#[derive(Default)]
struct Leavers {
    /// Those whose outcome is known in order of their calls, each with the latest return so far.
    known: Vec<(Id, u64)>,
    unknown: Vec<Id>,
}

/// A configuration on the way to the present one.
struct Frame {
    state: StateId,
    /// How many operations are placed in it.
    placed: usize,
    /// What may be placed next, and the state that leaves; the best is the last.
    alternatives: Vec<(Id, StateId)>,
}

/// Configurations entered: per known operations placed (how many words of them are full, and the
/// words from there on) and state, the unknown operations placed.
type Seen = HashMap<(usize, StateId, Box<[u64]>), Vec<Box<[u64]>>>;

/// The search, and where it is.
pub(super) struct Search<'a, M: Model> {
    model: &'a M,
    ops: Vec<Op<'a, M>>,
    /// How many operations are known: they are the first of `ops`.
    known: usize,
    states: Vec<Rc<M::State>>,
    state_ids: HashMap<Rc<M::State>, StateId>,
    /// Per state, what is possible in it and does not overwrite it; found when first asked for.
    observers: Vec<Option<Rc<[Id]>>>,
    leavers: HashMap<StateId, Leavers>,
    /// Per operation that does not overwrite, the states it is possible in. Empty if the effect of
    /// some operation depends on the state: then there are states that nobody has seen yet.
    possible: Vec<Vec<StateId>>,
    /// Per known operation, the latest return of it and those called before it.
    latest: Vec<u64>,
    overwrites: bool,

    entries: Entries,
    /// Known operations placed.
    placed: Bits,
    /// Unknown operations placed; the first unknown one has number 0.
    used: Bits,
    trail: Vec<Id>,
    state: StateId,
    seen: Seen,
    /// The latest position so far that the first return of what is not placed had.
    reached: u64,
}

impl<'a, M: Model> Search<'a, M> {
    pub(super) fn new(
        model: &'a M,
        initial: M::State,
        prefix: &Prefix<'a, M::Input, M::Output>,
    ) -> Self {
        let mut search = Self {
            model,
            ops: Vec::new(),
            known: prefix.returned.len(),
            states: Vec::new(),
            state_ids: HashMap::new(),
            observers: Vec::new(),
            leavers: HashMap::new(),
            possible: Vec::new(),
            latest: Vec::new(),
            overwrites: false,
            entries: Entries::new(&[]),
            placed: Bits::new(prefix.returned.len()),
            used: Bits::new(0),
            trail: Vec::new(),
            state: 0,
            seen: HashMap::new(),
            reached: 0,
        };
        search.state = search.intern(initial);
        search.load(prefix);
        search.drop_useless();
        search.merge_states();
        search.find_twins();
        search.find_leavers();
        search
    }

    fn load(&mut self, prefix: &Prefix<'a, M::Input, M::Output>) {
        let mut is_known = vec![false; prefix.operations.len()];
        for &number in &prefix.returned {
            is_known[number] = true;
        }
        let (known, unknown): (Vec<usize>, Vec<usize>) =
            prefix.called.iter().partition(|&&number| is_known[number]);
        for number in known.into_iter().chain(unknown) {
            let operation = prefix.operations[number];
            let (output, returned) = match &operation.outcome {
                Outcome::Returned(output) if is_known[number] => (Some(output), ended(operation)),
                _ => (None, u64::MAX),
            };
            let effect = match self.model.effect(&operation.input, output) {
                Effect::Depends => Effect::Depends,
                Effect::Reads => Effect::Reads,
                Effect::Leaves(state) => Effect::Leaves(self.intern(state)),
                Effect::Overwrites(state) => Effect::Overwrites(self.intern(state)),
            };
            self.ops.push(Op {
                number,
                input: &operation.input,
                output,
                invoked: operation.invoked.position,
                returned,
                effect,
                horizon: u64::MAX,
                kind: number as u32,
                twin: None,
            });
        }
        let known = &mut self.ops[..self.known];
        let spans: Vec<_> = known.iter().map(|op| (op.invoked, op.returned)).collect();
        self.entries = Entries::new(&spans);
        let latest = spans.iter().scan(0, |latest, (_, returned)| {
            *latest = (*latest).max(*returned);
            Some(*latest)
        });
        self.latest = latest.collect();
        // The calls of overwriting operations, from the last, each with the first return of those.
        let mut walls: Vec<(u64, u64)> = Vec::new();
        for op in known.iter().rev().filter(|op| matches!(op.effect, Effect::Overwrites(_))) {
            let first = walls.last().map_or(u64::MAX, |(_, first)| *first);
            walls.push((op.invoked, first.min(op.returned)));
        }
        self.overwrites = !walls.is_empty();
        for op in known {
            let later = walls.partition_point(|(invoked, _)| *invoked > op.returned);
            op.horizon = later.checked_sub(1).map_or(u64::MAX, |last| walls[last].1);
        }
    }

    /// Leaves out unknown operations that can't matter.
    fn drop_useless(&mut self) {
        let mut keep = vec![true; self.ops.len()];
        for (id, keep) in keep.iter_mut().enumerate().skip(self.known) {
            *keep = match self.ops[id].effect {
                Effect::Reads => false,
                Effect::Leaves(state) | Effect::Overwrites(state) => {
                    !self.observers(state).is_empty()
                }
                Effect::Depends => true,
            };
        }
        let mut keep = keep.into_iter();
        self.ops.retain(|_| keep.next().expect("one flag each"));
        self.observers.fill(None);
        self.used = Bits::new(self.ops.len() - self.known);
    }

    /// States that no operation can tell apart become one. All values that nobody read, say.
    fn merge_states(&mut self) {
        if self.ops.iter().any(|op| op.effect == Effect::Depends) {
            return;
        }
        let mut same: HashMap<Rc<[Id]>, StateId> = HashMap::new();
        self.possible = vec![Vec::new(); self.ops.len()];
        let merged: Vec<StateId> = (0..self.states.len() as StateId)
            .map(|state| {
                let observers = self.observers(state);
                let first = *same.entry(Rc::clone(&observers)).or_insert(state);
                if first == state {
                    observers.iter().for_each(|id| self.possible[*id as usize].push(state));
                }
                first
            })
            .collect();
        for op in &mut self.ops {
            if let Effect::Leaves(state) | Effect::Overwrites(state) = &mut op.effect {
                *state = merged[*state as usize];
            }
        }
        self.state = merged[self.state as usize];
    }

    fn find_twins(&mut self) {
        let mut kinds = HashMap::new();
        for (op, possible) in self.ops.iter_mut().zip(&self.possible) {
            let next = kinds.len() as u32;
            op.kind = *kinds.entry((op.effect, possible)).or_insert(next);
        }
        let mut by_kind: HashMap<u32, Id> = HashMap::new();
        let mut by_input: HashMap<&M::Input, Id> = HashMap::new();
        for (id, op) in self.ops.iter_mut().enumerate().skip(self.known) {
            op.twin = match self.possible.is_empty() {
                true => by_input.insert(op.input, id as Id),
                false => by_kind.insert(op.kind, id as Id),
            };
        }
    }

    fn find_leavers(&mut self) {
        for (id, op) in self.ops.iter().enumerate() {
            if let Effect::Leaves(state) | Effect::Overwrites(state) = op.effect {
                let leavers = self.leavers.entry(state).or_default();
                if id < self.known {
                    let latest = leavers.known.last().map_or(0, |(_, latest)| *latest);
                    leavers.known.push((id as Id, latest.max(op.returned)));
                } else {
                    leavers.unknown.push(id as Id);
                }
            }
        }
    }

    /// A right order, as numbers of the caller's list, and the state it leaves; or the position of
    /// the first return that no order got past.
    pub(super) fn run(mut self) -> Result<(Vec<usize>, M::State), u64> {
        let mut frames = Vec::new();
        frames.extend(self.enter(None));
        while self.entries.next[0] != 0 {
            let Some(frame): Option<&mut Frame> = frames.last_mut() else {
                return Err(self.reached);
            };
            self.undo(frame.placed);
            self.state = frame.state;
            let Some((id, state)) = frame.alternatives.pop() else {
                frames.pop();
                continue;
            };
            let before = self.state;
            self.place(id, state);
            let is_unknown = !self.is_known(id);
            frames.extend(self.enter(is_unknown.then_some(before)));
        }
        // Once more, for the state as it is, not one that nobody can tell from it.
        let mut state = (*self.states[0]).clone();
        for &id in &self.trail {
            let op = &self.ops[id as usize];
            let next = self.model.step(&state, op.input, op.output);
            state = next.expect("what was found is a right order");
        }
        let order = self.trail.iter().map(|&id| self.ops[id as usize].number).collect();
        Ok((order, state))
    }

    /// Goes on without alternatives as far as possible, and finds those that are then. `None` if
    /// there is no way on, or none is needed.
    ///
    /// `unknown` is the state before the last operation, if that is unknown: something has to
    /// depend on it.
    fn enter(&mut self, mut unknown: Option<StateId>) -> Option<Frame> {
        let first = loop {
            if self.place_reads() {
                unknown = None;
                continue;
            }
            let first = self.entries.first_return()?;
            let end = self.ops[first as usize].returned;
            self.reached = self.reached.max(end);
            if !self.overwrites || self.is_seen(self.state, end, end, |_| true) {
                break first;
            }
            if unknown.is_some() {
                return None;
            }
            let Some((id, state)) = self.free(end) else { break first };
            self.place(id, state);
        };
        if self.was_seen() {
            return None;
        }
        let alternatives = match self.locked(first) {
            Lock::Open => self.alternatives(first, unknown),
            Lock::Only(id) => {
                let mut alternatives = self.alternatives(first, unknown);
                alternatives.retain(|(other, _)| *other == id);
                alternatives
            }
            Lock::Stuck => return None,
        };
        Some(Frame { state: self.state, placed: self.trail.len(), alternatives })
    }

    fn place(&mut self, id: Id, state: StateId) {
        if self.is_known(id) {
            self.entries.lift(id);
        }
        self.flip(id);
        self.trail.push(id);
        self.state = state;
    }

    fn undo(&mut self, placed: usize) {
        while self.trail.len() > placed {
            let id = self.trail.pop().expect("longer than something");
            self.flip(id);
            if self.is_known(id) {
                self.entries.unlift(id);
            }
        }
    }

    fn is_known(&self, id: Id) -> bool {
        (id as usize) < self.known
    }

    fn is_placed(&self, id: Id) -> bool {
        match (id as usize).checked_sub(self.known) {
            None => self.placed.has(id as usize),
            Some(unknown) => self.used.has(unknown),
        }
    }

    fn flip(&mut self, id: Id) {
        match (id as usize).checked_sub(self.known) {
            None => self.placed.flip(id as usize),
            Some(unknown) => self.used.flip(unknown),
        }
    }

    /// Places the reads that are possible. Returns whether there were any.
    fn place_reads(&mut self) -> bool {
        let before = self.trail.len();
        let mut entry = self.entries.next[0];
        while entry != 0 {
            let (id, is_return) = self.entries.what[entry as usize];
            if is_return {
                break;
            }
            if self.ops[id as usize].effect == Effect::Reads && self.is_possible(self.state, id) {
                self.place(id, self.state);
            }
            // A lifted entry still knows what followed it. If that was its own return, the loop ends
            // here, and the next call goes on.
            entry = self.entries.next[entry as usize];
        }
        self.trail.len() > before
    }

    /// An overwriting operation that can be placed along with all that will ever see its state.
    fn free(&mut self, first_return: u64) -> Option<(Id, StateId)> {
        let mut entry = self.entries.next[0];
        while let (id, false) = self.entries.what[entry as usize] {
            if let Effect::Overwrites(state) = self.ops[id as usize].effect {
                let horizon = self.ops[id as usize].horizon;
                let is_later =
                    |op: &Op<'_, M>| op.effect != Effect::Reads || op.invoked > first_return;
                if !self.is_seen(state, first_return, horizon, is_later) {
                    return Some((id, state));
                }
            }
            entry = self.entries.next[entry as usize];
        }
        None
    }

    /// Whether an operation that is left, was called up to `end` and does not overwrite is possible
    /// in a state, and is one that matters.
    fn is_seen(
        &mut self,
        state: StateId,
        first_return: u64,
        end: u64,
        matters: impl Fn(&Op<'_, M>) -> bool,
    ) -> bool {
        let observers = self.observers(state);
        let (known, unknown) =
            observers.split_at(observers.partition_point(|id| self.is_known(*id)));
        let in_time = |id: &Id| self.ops[*id as usize].invoked <= end;
        let known = &known[..known.partition_point(in_time)];
        let unknown = &unknown[..unknown.partition_point(in_time)];
        // Whatever returned before the first return is placed.
        let recent = known.iter().rev().take_while(|id| self.latest[**id as usize] >= first_return);
        recent.chain(unknown).any(|&id| !self.is_placed(id) && matters(&self.ops[id as usize]))
    }

    /// Whether what is placed and the state were seen before, or with fewer unknown operations.
    /// Remembers them if not.
    fn was_seen(&mut self) -> bool {
        let full = self.placed.full();
        let unknown = self.used.words(0);
        let all = self.seen.entry((full, self.state, self.placed.words(full))).or_default();
        if all.iter().any(|seen| is_part(seen, &unknown)) {
            return true;
        }
        all.push(unknown);
        false
    }

    /// Whether the present state may be left.
    fn locked(&mut self, first: Id) -> Lock {
        let mut lock = Lock::Open;
        if self.possible.is_empty() {
            return lock;
        }
        let first_return = self.ops[first as usize].returned;
        for &id in self.observers(self.state).iter() {
            if !self.is_known(id) {
                break;
            }
            if self.is_placed(id) || self.comes_back(id, first_return) {
                continue;
            }
            match (lock, self.ops[id as usize].effect) {
                (Lock::Open, Effect::Leaves(_)) => lock = Lock::Only(id),
                _ => return Lock::Stuck,
            }
        }
        lock
    }

    /// Whether some other operation can still leave a state that this one is possible in. What is
    /// possible in many states is taken to be: looking through all of them would cost more.
    fn comes_back(&self, id: Id, first_return: u64) -> bool {
        let op = &self.ops[id as usize];
        if self.possible[id as usize].len() > MANY_STATES {
            return true;
        }
        let is_left = |&other: &Id| other != id && !self.is_placed(other);
        self.possible[id as usize].iter().any(|state| {
            let Some(leavers) = self.leavers.get(state) else { return false };
            let in_time = |id: Id| self.ops[id as usize].invoked <= op.returned;
            let known = &leavers.known[..leavers.known.partition_point(|(id, _)| in_time(*id))];
            let unknown = &leavers.unknown[..leavers.unknown.partition_point(|id| in_time(*id))];
            // Whatever returned before the first return is placed.
            let recent = known.iter().rev().take_while(|(_, latest)| *latest >= first_return);
            recent.map(|(id, _)| id).chain(unknown).any(is_left)
        })
    }

    /// What may be placed next, the best last. Reads are not among it: they were not possible.
    fn alternatives(&mut self, first: Id, unknown: Option<StateId>) -> Vec<(Id, StateId)> {
        let mut candidates = Vec::new();
        let mut entry = self.entries.next[0];
        while let (id, false) = self.entries.what[entry as usize] {
            candidates.push(id);
            entry = self.entries.next[entry as usize];
        }
        if !self.possible.is_empty() {
            // Of two that do the same, what returns first comes first.
            candidates.sort_by_key(|id| {
                let op = &self.ops[*id as usize];
                (op.kind, op.returned, *id)
            });
            candidates.dedup_by_key(|id| self.ops[*id as usize].kind);
        }
        let end = self.ops[first as usize].returned;
        for id in self.known as Id..self.ops.len() as Id {
            if self.ops[id as usize].invoked > end {
                break;
            }
            if !self.is_placed(id) && self.is_of_use(id, end) {
                candidates.push(id);
            }
        }
        let mut ranked = Vec::new();
        for id in candidates {
            let Some(state) = self.after(self.state, id) else { continue };
            if unknown.is_some_and(|before| self.after(before, id) == Some(state)) {
                continue;
            }
            if !self.is_known(id) && state == self.state {
                continue;
            }
            let helps = id == first || self.is_possible(state, first);
            // Unknown operations return last.
            ranked.push(((id != first, !helps, self.ops[id as usize].returned, id), state));
        }
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        ranked.into_iter().map(|((.., id), state)| (id, state)).collect()
    }

    /// Whether an unknown operation can matter: no equal one is to be preferred, and what it leaves
    /// makes something possible that isn't now.
    fn is_of_use(&mut self, id: Id, first_return: u64) -> bool {
        let op = &self.ops[id as usize];
        if op.twin.is_some_and(|twin| !self.is_placed(twin)) {
            return false;
        }
        let (Effect::Leaves(state) | Effect::Overwrites(state)) = op.effect else { return true };
        let now = Rc::clone(&self.states[self.state as usize]);
        let model = self.model;
        self.is_seen(state, first_return, first_return, |op| {
            op.effect == Effect::Depends || model.step(&now, op.input, op.output).is_none()
        })
    }

    fn is_possible(&self, state: StateId, id: Id) -> bool {
        let op = &self.ops[id as usize];
        match op.effect {
            Effect::Overwrites(_) => true,
            _ => self.model.step(&self.states[state as usize], op.input, op.output).is_some(),
        }
    }

    /// The state after an operation.
    fn after(&mut self, state: StateId, id: Id) -> Option<StateId> {
        let op = &self.ops[id as usize];
        match op.effect {
            Effect::Overwrites(after) => Some(after),
            Effect::Leaves(after) => self.is_possible(state, id).then_some(after),
            Effect::Reads => self.is_possible(state, id).then_some(state),
            Effect::Depends => {
                let state = &self.states[state as usize];
                let after = self.model.step(state, op.input, op.output)?;
                Some(self.intern(after))
            }
        }
    }

    fn intern(&mut self, state: M::State) -> StateId {
        if let Some(id) = self.state_ids.get(&state) {
            return *id;
        }
        let id = self.states.len() as StateId;
        let state = Rc::new(state);
        self.states.push(Rc::clone(&state));
        self.observers.push(None);
        self.state_ids.insert(state, id);
        id
    }

    fn observers(&mut self, state: StateId) -> Rc<[Id]> {
        if let Some(observers) = &self.observers[state as usize] {
            return Rc::clone(observers);
        }
        let sees = |&id: &Id| {
            let overwrites = matches!(self.ops[id as usize].effect, Effect::Overwrites(_));
            !overwrites && self.is_possible(state, id)
        };
        let observers: Rc<[Id]> = (0..self.ops.len() as Id).filter(sees).collect();
        self.observers[state as usize] = Some(Rc::clone(&observers));
        observers
    }
}

/// Whether a state may be left.
#[derive(Clone, Copy)]
enum Lock {
    /// By anything.
    Open,
    /// Only by this operation, which needs it.
    Only(Id),
    /// By nothing.
    Stuck,
}
