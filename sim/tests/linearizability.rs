//! The checker of histories: by hand, against one that tries every order, and at size.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quorate_sim::Rng;
use quorate_sim::history::linearizability::{Effect, Model, Violation, check};
use quorate_sim::history::registers::{Input, Output, Registers};
use quorate_sim::history::{Call, History, Moment, Operation, Outcome};

type Key = &'static str;
type Op<K> = Operation<Input<K, u32>, Output<u32>>;

fn verdict(history: &History<Input<Key, u32>, Output<u32>>) -> Result<(), String> {
    check(&Registers::new(), &history.operations()).map_err(|violation| violation.to_string())
}

/// A history on one register, written as it happens.
struct Script(History<Input<Key, u32>, Output<u32>>);

type Open = Call<Input<Key, u32>, Output<u32>>;

impl Script {
    fn new() -> Self {
        Self(History::new())
    }

    fn begin_read(&self) -> Open {
        self.0.invoke(1, Input::Read { key: "x" })
    }

    fn read(&self, found: Option<u32>) {
        self.begin_read().returned(Output::Read(found));
    }

    fn begin_write(&self, value: u32) -> Open {
        self.0.invoke(2, Input::Write { key: "x", value })
    }

    fn write(&self, value: u32) {
        self.begin_write(value).returned(Output::Written);
    }

    fn begin_cas(&self, expect: Option<u32>, value: u32) -> Open {
        self.0.invoke(3, Input::Cas { key: "x", expect, value })
    }

    fn cas(&self, expect: Option<u32>, value: u32, swapped: bool, current: Option<u32>) {
        self.begin_cas(expect, value).returned(Output::Cas { swapped, current });
    }

    fn delete(&self, existed: bool) {
        self.begin_delete().returned(Output::Deleted { existed });
    }

    fn begin_delete(&self) -> Open {
        self.0.invoke(4, Input::Delete { key: "x" })
    }

    fn is_fine(&self) {
        verdict(&self.0).unwrap_or_else(|why| panic!("{why}"));
    }

    /// Not linearizable, because of the last operation that began.
    fn is_wrong_at_last(&self) {
        let violation = check(&Registers::new(), &self.0.operations()).unwrap_err();
        assert_eq!(Some(&violation.culprit), self.0.operations().last(), "{violation}");
    }
}

#[test]
fn one_client_reads_what_it_wrote() {
    let x = Script::new();
    x.read(None);
    x.write(1);
    x.read(Some(1));
    x.is_fine();
}

#[test]
fn a_stale_read() {
    let x = Script::new();
    x.write(1);
    x.write(2);
    x.is_fine();
    x.read(Some(1));
    x.is_wrong_at_last();
}

#[test]
fn a_read_during_a_write_finds_either_value() {
    let x = Script::new();
    x.write(1);
    let write = x.begin_write(2);
    x.read(Some(1));
    x.read(Some(2));
    x.is_fine();
    x.read(Some(1));
    x.is_wrong_at_last();
    write.returned(Output::Written);
    assert!(verdict(&x.0).is_err());
}

#[test]
fn a_lost_update() {
    let x = Script::new();
    x.write(0);
    let (first, second) = (x.begin_cas(Some(0), 1), x.begin_cas(Some(0), 2));
    first.returned(Output::Cas { swapped: true, current: Some(1) });
    x.is_fine();
    second.returned(Output::Cas { swapped: true, current: Some(2) });
    x.is_wrong_at_last();
}

#[test]
fn of_racing_cas_one_wins_and_the_others_see_it() {
    let x = Script::new();
    x.write(0);
    let racing = [1, 2, 3].map(|value| x.begin_cas(Some(0), value));
    for (value, cas) in (1..).zip(racing) {
        cas.returned(Output::Cas { swapped: value == 2, current: Some(2) });
    }
    x.read(Some(2));
    x.is_fine();
    x.cas(Some(2), 3, false, Some(2));
    x.is_wrong_at_last();
}

#[test]
fn a_chain_of_concurrent_cas_has_one_order() {
    let x = Script::new();
    let chain: Vec<_> = (0..30).rev().map(|n| (n, x.begin_cas(Some(n), n + 1))).collect();
    x.write(0);
    for (n, cas) in chain {
        cas.returned(Output::Cas { swapped: true, current: Some(n + 1) });
    }
    x.read(Some(30));
    x.is_fine();
    x.read(Some(29));
    x.is_wrong_at_last();
}

#[test]
fn a_failed_write_is_not_seen() {
    let x = Script::new();
    x.begin_write(1).failed();
    x.read(None);
    x.is_fine();
    x.read(Some(1));
    x.is_wrong_at_last();
}

#[test]
fn an_unknown_write_may_be_seen_later_and_must_stay_then() {
    let x = Script::new();
    x.begin_write(1).unknown();
    x.read(None);
    x.write(2);
    x.read(Some(2));
    x.is_fine();
    x.read(Some(1));
    x.is_fine();
    x.read(Some(2));
    x.is_wrong_at_last();
}

#[test]
fn an_unknown_write_happens_once() {
    let x = Script::new();
    x.begin_write(1).unknown();
    x.read(Some(1));
    x.write(2);
    x.read(Some(2));
    x.is_fine();
    x.read(Some(1));
    x.is_wrong_at_last();
}

#[test]
fn an_unknown_write_does_not_happen_before_its_call() {
    let x = Script::new();
    let read = x.begin_read();
    read.returned(Output::Read(Some(1)));
    x.begin_write(1).unknown();
    assert!(verdict(&x.0).is_err());
}

#[test]
fn a_call_that_is_dropped_is_unknown() {
    let x = Script::new();
    drop(x.begin_write(1));
    x.read(None);
    x.read(Some(1));
    x.is_fine();
}

#[test]
fn unknown_cas_may_follow_each_other() {
    let x = Script::new();
    x.write(0);
    x.begin_cas(Some(1), 2).unknown();
    x.begin_cas(Some(0), 1).unknown();
    x.read(Some(2));
    x.is_fine();
    x.read(Some(1));
    x.is_wrong_at_last();
}

#[test]
fn deletes() {
    let x = Script::new();
    x.delete(false);
    x.write(1);
    x.delete(true);
    x.read(None);
    x.cas(None, 2, true, Some(2));
    x.begin_delete().unknown();
    x.read(Some(2));
    x.read(None);
    x.is_fine();
    x.delete(true);
    x.is_wrong_at_last();
}

#[test]
fn keys_are_independent_and_the_first_wrong_one_is_named() {
    let history = History::new();
    for key in ["c", "b", "a"] {
        history.invoke(1, Input::Write { key, value: 1 }).returned(Output::Written);
        let found = if key == "a" { Some(1) } else { None };
        history.invoke(1, Input::Read { key }).returned(Output::Read(found));
    }
    let violation = check(&Registers::new(), &history.operations()).unwrap_err();
    assert_eq!(violation.key, "b");
}

#[test]
fn an_answer_to_another_question_is_wrong() {
    let x = Script::new();
    x.begin_read().returned(Output::Written);
    x.is_wrong_at_last();
}

#[test]
fn a_violation_reads_like_this() {
    let x = Script::new();
    x.write(1);
    let open = x.begin_write(3);
    x.write(2);
    x.read(Some(1));
    open.unknown();
    let expected = "\
key \"x\" is not linearizable: nothing explains
  [5, 6] client 1: Read { key: \"x\" } -> Read(Some(1))
A right order of what had returned before it:
  [0, 1] client 2: Write { key: \"x\", value: 1 } -> Written
  [3, 4] client 2: Write { key: \"x\", value: 2 } -> Written
It leaves Some(2), and no other order helps, nor does what was open:
  [2, 7] client 2: Write { key: \"x\", value: 3 } -> unknown";
    assert_eq!(verdict(&x.0).unwrap_err(), expected);
}

#[test]
fn the_dump_shows_every_outcome_and_the_time() {
    let history = History::with_clock(|| Duration::from_millis(1500));
    let write = |value| Input::Write { key: "x", value };
    history.invoke(1, write(1)).returned(Output::Written);
    history.invoke(2, write(2)).failed();
    history.invoke(3, write(3)).unknown();
    drop(history.invoke(4, Input::Delete { key: "x" }));
    for _ in 0..2 {
        history.invoke(5, Input::Read { key: "x" }).returned(Output::Read(Some(1_u32)));
    }
    let expected = "\
[ 0,  1] 1.500000s..1.500000s client 1: Write { key: \"x\", value: 1 } -> Written
[ 2,  3] 1.500000s..1.500000s client 2: Write { key: \"x\", value: 2 } -> failed
[ 4,  5] 1.500000s..1.500000s client 3: Write { key: \"x\", value: 3 } -> unknown
[ 6,  -] 1.500000s.. client 4: Delete { key: \"x\" } -> unknown
[ 7,  8] 1.500000s..1.500000s client 5: Read { key: \"x\" } -> Read(Some(1))
[ 9, 10] 1.500000s..1.500000s client 5: Read { key: \"x\" } -> Read(Some(1))
";
    assert_eq!(history.to_string(), expected);
}

/// A real register, to make histories with and to judge them by brute force: not the model.
fn apply<K>(register: &mut Option<u32>, input: &Input<K, u32>) -> Output<u32> {
    match input {
        Input::Read { .. } => Output::Read(*register),
        Input::Write { value, .. } => {
            *register = Some(*value);
            Output::Written
        }
        Input::Cas { expect, value, .. } => {
            let swapped = register == expect;
            if swapped {
                *register = Some(*value);
            }
            Output::Cas { swapped, current: *register }
        }
        Input::Delete { .. } => Output::Deleted { existed: register.take().is_some() },
    }
}

/// Tries every order.
fn brute_force(left: &[&Op<u8>], register: Option<u32>) -> bool {
    let is_known = |op: &&&Op<u8>| matches!(op.outcome, Outcome::Returned(_));
    let ended = |op: &Op<u8>| op.ended.unwrap().position;
    let Some(first_return) = left.iter().filter(is_known).map(|op| ended(op)).min() else {
        return true;
    };
    (0..left.len()).any(|i| {
        let mut register = register;
        let output = apply(&mut register, &left[i].input);
        let possible = match &left[i].outcome {
            Outcome::Returned(told) => *told == output,
            _ => true,
        };
        let others = [&left[..i], &left[i + 1..]].concat();
        left[i].invoked.position < first_return && possible && brute_force(&others, register)
    })
}

/// What had happened after `events` events.
fn cut(operations: &[Op<u8>], events: u64) -> Vec<Op<u8>> {
    let mut cut: Vec<_> =
        operations.iter().filter(|op| op.invoked.position < events).cloned().collect();
    for op in &mut cut {
        if op.ended.is_some_and(|ended| ended.position >= events) {
            op.outcome = Outcome::Unknown;
        }
    }
    cut
}

/// The registers, but nothing is said about the effects of operations; or only about writes.
struct Terse {
    of_writes: bool,
}

impl Model for Terse {
    type Key = u8;
    type State = Option<u32>;
    type Input = Input<u8, u32>;
    type Output = Output<u32>;

    fn key(&self, input: &Self::Input) -> u8 {
        Registers::new().key(input)
    }

    fn initial(&self, key: &u8) -> Option<u32> {
        Registers::<u8, u32>::new().initial(key)
    }

    fn step(
        &self,
        state: &Option<u32>,
        input: &Self::Input,
        output: Option<&Output<u32>>,
    ) -> Option<Option<u32>> {
        Registers::new().step(state, input, output)
    }

    fn effect(&self, input: &Self::Input, output: Option<&Output<u32>>) -> Effect<Option<u32>> {
        match input {
            Input::Write { .. } if self.of_writes => Registers::new().effect(input, output),
            _ => Effect::Depends,
        }
    }
}

fn input() -> impl Strategy<Value = Input<u8, u32>> {
    let value = 0_u32..3;
    let expect = proptest::option::of(0_u32..3);
    prop_oneof![
        4 => Just(Input::Read { key: 0 }),
        4 => value.clone().prop_map(|value| Input::Write { key: 0, value }),
        3 => (expect, value).prop_map(|(expect, value)| Input::Cas { key: 0, expect, value }),
        1 => Just(Input::Delete { key: 0 }),
    ]
}

/// What a history says of one operation.
#[derive(Clone, Debug)]
struct Draw {
    input: Input<u8, u32>,
    /// When it began, took effect and ended, in order; ranks become positions.
    moments: [u32; 3],
    /// 0 and 1: the outcome is unknown. 0: and it took no effect.
    luck: u8,
    /// What its client was told, if not the truth.
    lie: Option<Option<u32>>,
}

fn draw() -> impl Strategy<Value = Draw> {
    let lie = proptest::option::weighted(0.35, proptest::option::of(0_u32..3));
    (input(), any::<[u32; 3]>(), 0_u8..8, lie).prop_map(|(input, mut moments, luck, lie)| {
        moments.sort_unstable();
        Draw { input, moments, luck, lie }
    })
}

fn happen(draws: Vec<Draw>) -> Vec<Op<u8>> {
    let mut register = None;
    let mut in_effect: Vec<&Draw> = draws.iter().collect();
    in_effect.sort_by_key(|draw| draw.moments[1]);
    let told = in_effect.into_iter().map(|draw| {
        let output = if draw.luck == 0 { None } else { Some(apply(&mut register, &draw.input)) };
        let outcome = match (output, draw.lie) {
            (Some(Output::Read(_)), Some(lie)) => Outcome::Returned(Output::Read(lie)),
            (Some(Output::Cas { swapped, .. }), Some(current)) => {
                let swapped = swapped != current.is_none();
                Outcome::Returned(Output::Cas { swapped, current })
            }
            (Some(Output::Deleted { existed }), Some(_)) => {
                Outcome::Returned(Output::Deleted { existed: !existed })
            }
            (Some(output), _) if draw.luck > 1 => Outcome::Returned(output),
            _ => Outcome::Unknown,
        };
        (draw, outcome)
    });
    let told: Vec<(&Draw, Outcome<Output<u32>>)> = told.collect();
    let mut ends: Vec<(u32, usize, u8)> = Vec::new();
    for (i, (draw, _)) in told.iter().enumerate() {
        ends.extend([(draw.moments[0], i, 0), (draw.moments[2], i, 1)]);
    }
    ends.sort_unstable();
    let moment = |i, end| {
        let position = ends.iter().position(|e| (e.1, e.2) == (i, end)).unwrap() as u64;
        Moment { position, time: None }
    };
    let operation = |(i, (draw, outcome)): (usize, (&Draw, _))| Operation {
        client: i as u64,
        input: draw.input.clone(),
        invoked: moment(i, 0),
        ended: Some(moment(i, 1)),
        outcome,
    };
    told.into_iter().enumerate().map(operation).collect()
}

fn try_all(operations: &[Op<u8>]) -> bool {
    brute_force(&operations.iter().collect::<Vec<_>>(), None)
}

#[test]
fn agrees_with_trying_every_order() {
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (fine, wrong) = (Cell::new(0), Cell::new(0));
    let histories = proptest::collection::vec(draw(), 1..8).prop_map(happen);
    let result = runner.run(&histories, |operations| {
        let expected = try_all(&operations);
        let found = check(&Registers::new(), &operations);
        prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
        for of_writes in [false, true] {
            let found = check(&Terse { of_writes }, &operations);
            prop_assert_eq!(found.is_ok(), expected, "terse: {:?}", found);
        }
        if let Err(violation) = found {
            let end = violation.culprit.ended.unwrap().position;
            prop_assert!(try_all(&cut(&operations, end)), "wrong before: {}", violation);
            prop_assert!(!try_all(&cut(&operations, end + 1)), "not yet: {}", violation);
            wrong.set(wrong.get() + 1);
        } else {
            fine.set(fine.get() + 1);
        }
        Ok(())
    });
    result.unwrap_or_else(|why| panic!("{why}"));
    assert!(fine.get() > 3000 && wrong.get() > 3000, "{fine:?} {wrong:?}");
}

/// Clients of a service that is right, as busy as they can be.
struct Load {
    clients: usize,
    keys: u8,
    operations: usize,
    /// Values written are below this; 0 makes each unique.
    values: u32,
    /// Of a thousand operations, how many end in a timeout.
    unknown: u64,
}

/// Where a client is in its call.
enum Step {
    Idle,
    Asked(Call<Input<u8, u32>, Output<u32>>, Input<u8, u32>),
    Done(Call<Input<u8, u32>, Output<u32>>, Output<u32>),
}

impl Load {
    fn input(&self, rng: &mut Rng, number: usize, registers: &[Option<u32>]) -> Input<u8, u32> {
        let key = rng.below(u64::from(self.keys)) as u8;
        let value = match self.values {
            0 => number as u32,
            values => rng.below(u64::from(values)) as u32,
        };
        match rng.below(100) {
            0..45 => Input::Read { key },
            45..80 => Input::Write { key, value },
            // Something recent, so that some of them swap.
            80..95 => Input::Cas { key, expect: registers[key as usize], value },
            _ => Input::Delete { key },
        }
    }

    fn run(&self, seed: u64) -> Vec<Op<u8>> {
        let mut rng = Rng::new(seed);
        let history = History::new();
        let mut registers = vec![None; self.keys as usize];
        let mut clients: Vec<Step> = (0..self.clients).map(|_| Step::Idle).collect();
        // What clients gave up on and what may still happen.
        let mut lost: Vec<Input<u8, u32>> = Vec::new();
        let mut begun = 0;
        while begun < self.operations {
            if !lost.is_empty() && rng.chance(5) {
                let input = lost.swap_remove(rng.below(lost.len() as u64) as usize);
                apply(register(&mut registers, &input), &input);
            }
            let number = rng.below(self.clients as u64) as usize;
            let client = &mut clients[number];
            *client = match std::mem::replace(client, Step::Idle) {
                Step::Idle => {
                    begun += 1;
                    let input = self.input(&mut rng, begun, &registers);
                    Step::Asked(history.invoke(number as u64, input.clone()), input)
                }
                Step::Asked(call, input) if rng.chance(self.unknown) => {
                    call.unknown();
                    lost.push(input);
                    Step::Idle
                }
                Step::Asked(call, input) => {
                    Step::Done(call, apply(register(&mut registers, &input), &input))
                }
                Step::Done(call, output) => {
                    call.returned(output);
                    Step::Idle
                }
            };
        }
        history.operations()
    }
}

fn register<'a>(registers: &'a mut [Option<u32>], input: &Input<u8, u32>) -> &'a mut Option<u32> {
    &mut registers[Registers::<u8, u32>::new().key(input) as usize]
}

fn judge(operations: &[Op<u8>]) -> Result<(), Box<Violation<Registers<u8, u32>>>> {
    check(&Registers::new(), operations)
}

/// Follows every right order at once, event by event: what may have taken effect of all that is open,
/// and what it leaves. Nothing is taken back, nothing left out; a return keeps those orders in which
/// its operation has taken effect. Not the search, nor any of its rules.
fn follow_all(operations: &[Op<u8>]) -> bool {
    let answer = |op: &Op<u8>| match &op.outcome {
        Outcome::Returned(output) => Some(output.clone()),
        _ => None,
    };
    let mut events: Vec<(u64, usize)> = Vec::new();
    for (i, op) in operations.iter().enumerate() {
        events.push((op.invoked.position, i));
        events.extend(answer(op).and(op.ended).map(|ended| (ended.position, i)));
    }
    events.sort_unstable();
    // Sets of operations are bits: at most 128 of them.
    let mut open = 0_u128;
    // What of `open` has taken effect, and the register.
    let mut orders = BTreeSet::from([(0_u128, None)]);
    for (_, event) in events {
        if open >> event & 1 == 0 {
            open |= 1 << event;
            continue;
        }
        let mut new: Vec<(u128, Option<u32>)> = orders.iter().copied().collect();
        while let Some((placed, register)) = new.pop() {
            for i in (0..operations.len()).filter(|i| (open & !placed) >> i & 1 == 1) {
                let mut register = register;
                let output = apply(&mut register, &operations[i].input);
                let possible = answer(&operations[i]).is_none_or(|told| told == output);
                let order = (placed | 1 << i, register);
                if possible && orders.insert(order) {
                    new.push(order);
                }
            }
        }
        open ^= 1 << event;
        orders.retain(|(placed, _)| placed >> event & 1 == 1);
        orders = orders.iter().map(|(placed, register)| (placed ^ 1 << event, *register)).collect();
    }
    !orders.is_empty()
}

/// Tells one client something else than it was told: what another was told of the same question, or
/// what nobody can have been told.
fn tell_a_lie(operations: &mut [Op<u8>], rng: &mut Rng) {
    let told = |op: &Op<u8>| match &op.outcome {
        Outcome::Returned(output) if *output != Output::Written => Some(output.clone()),
        _ => None,
    };
    let answered: Vec<usize> =
        (0..operations.len()).filter(|i| told(&operations[*i]).is_some()).collect();
    if answered.is_empty() {
        return;
    }
    let liar = rng.pick(&answered);
    let question = std::mem::discriminant(&operations[liar].input);
    let others = operations.iter().filter(|op| std::mem::discriminant(&op.input) == question);
    let mut lies: Vec<Output<u32>> = others.filter_map(told).collect();
    match &operations[liar].outcome {
        Outcome::Returned(Output::Read(_)) => lies.push(Output::Read(Some(u32::MAX))),
        Outcome::Returned(Output::Cas { .. }) => {
            lies.push(Output::Cas { swapped: false, current: Some(u32::MAX) });
        }
        _ => {}
    }
    lies.retain(|lie| operations[liar].outcome != Outcome::Returned(lie.clone()));
    if !lies.is_empty() {
        let lie = lies.swap_remove(rng.below(lies.len() as u64) as usize);
        operations[liar].outcome = Outcome::Returned(lie);
    }
}

/// Histories that are longer than any can be tried in every order: of a service that is right, and
/// with one lie.
#[test]
fn agrees_with_following_every_order_of_longer_histories() {
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (fine, wrong) = (Cell::new(0), Cell::new(0));
    let operations = prop_oneof![3 => 20..=60_usize, 1 => 61..=120_usize];
    let load = (1..=5_usize, operations, prop_oneof![Just(0_u32), 2..6_u32], 0..50_u64);
    let result = runner.run(&(load, any::<u64>()), |(load, seed)| {
        let (clients, operations, values, unknown) = load;
        let truth = Load { clients, keys: 1, operations, values, unknown }.run(seed);
        prop_assert!(follow_all(&truth), "made wrongly");
        let mut lie = truth.clone();
        tell_a_lie(&mut lie, &mut Rng::new(seed));
        let believable = follow_all(&lie);
        for (operations, expected) in [(&truth, true), (&lie, believable)] {
            let found = judge(operations);
            prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
            for of_writes in [false, true] {
                let found = check(&Terse { of_writes }, operations);
                prop_assert_eq!(found.is_ok(), expected, "terse: {:?}", found);
            }
            if let Err(violation) = found {
                let end = violation.culprit.ended.unwrap().position;
                prop_assert!(follow_all(&cut(operations, end)), "wrong before: {}", violation);
                prop_assert!(!follow_all(&cut(operations, end + 1)), "not yet: {}", violation);
            }
        }
        if lie != truth {
            let counted = if believable { &fine } else { &wrong };
            counted.set(counted.get() + 1);
        }
        Ok(())
    });
    result.unwrap_or_else(|why| panic!("{why}"));
    // Some lies could have been the truth.
    assert!(fine.get() > 10 && wrong.get() > 200, "{fine:?} {wrong:?}");
}

#[test]
fn histories_of_a_right_service_pass() {
    for seed in 0..60 {
        for (values, unknown) in [(0, 0), (4, 0), (0, 60), (4, 60)] {
            let clients = [3, 10, 30, 60][seed as usize % 4];
            let load = Load { clients, keys: 2, operations: 400, values, unknown };
            if let Err(violation) = judge(&load.run(seed)) {
                panic!("seed {seed}, {values} values, {unknown} unknown: {violation}");
            }
        }
    }
}

#[test]
fn most_reads_of_the_wrong_value_are_caught() {
    let mut caught = 0;
    for seed in 0..200 {
        let load = Load { clients: 8, keys: 2, operations: 200, values: 0, unknown: 20 };
        let mut operations = load.run(seed);
        // Two reads of one key have each other's values.
        let mut reads: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (i, op) in operations.iter().enumerate() {
            if let (Input::Read { key }, Outcome::Returned(_)) = (&op.input, &op.outcome) {
                reads.entry(*key).or_default().push(i);
            }
        }
        let of_key = &reads[&0];
        let mut rng = Rng::new(seed);
        let (a, b) = loop {
            let (a, b) = (rng.pick(of_key), rng.pick(of_key));
            if operations[a].outcome != operations[b].outcome {
                break (a, b);
            }
        };
        let outcome = operations[a].outcome.clone();
        operations[a].outcome = std::mem::replace(&mut operations[b].outcome, outcome);
        caught += u32::from(judge(&operations).is_err());
    }
    assert!(caught > 180, "{caught} of 200");
}

#[test]
fn thousands_of_operations_take_seconds_at_most() {
    let began = Instant::now();
    let load = Load { clients: 20, keys: 5, operations: 5_000, values: 0, unknown: 20 };
    judge(&load.run(1)).unwrap();
    let mut operations = load.run(2);
    let last = operations
        .iter_mut()
        .rev()
        .find(|op| matches!((&op.input, &op.outcome), (Input::Read { .. }, Outcome::Returned(_))));
    last.unwrap().outcome = Outcome::Returned(Output::Read(Some(u32::MAX)));
    judge(&operations).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
