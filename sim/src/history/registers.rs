//! The model of a map of registers: what a key-value store promises its clients.

use std::fmt::Debug;
use std::hash::Hash;
use std::marker::PhantomData;

use super::linearizability::{Effect, Model};

/// What a client asks of a register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input<K, V> {
    /// Its value.
    Read {
        /// Which register.
        key: K,
    },
    /// A new value, whatever was there.
    Write {
        /// Which register.
        key: K,
        /// What to write.
        value: V,
    },
    /// Compare and set: a new value if the old one is as expected.
    Cas {
        /// Which register.
        key: K,
        /// What has to be there; `None` means nothing.
        expect: Option<V>,
        /// What to write.
        value: V,
    },
    /// No value, whatever was there.
    Delete {
        /// Which register.
        key: K,
    },
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Output<V> {
    /// The value that a read found.
    Read(Option<V>),
    /// The value was written.
    Written,
    /// The answer to a compare and set.
    Cas {
        /// Whether the value was as expected, so that the new one was written.
        swapped: bool,
        /// What is there after it.
        current: Option<V>,
    },
    /// Nothing is there any more.
    Deleted {
        /// Whether something was.
        existed: bool,
    },
}

/// Independent registers, empty at first. The state of each is its value.
#[derive(Debug)]
pub struct Registers<K, V>(PhantomData<fn(K, V)>);

impl<K, V> Registers<K, V> {
    /// The model. It has no parameters.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<K, V> Default for Registers<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Model for Registers<K, V>
where
    K: Clone + Ord + Hash + Debug,
    V: Clone + Eq + Hash + Debug,
{
    type Key = K;
    type State = Option<V>;
    type Input = Input<K, V>;
    type Output = Output<V>;

    fn key(&self, input: &Input<K, V>) -> K {
        match input {
            Input::Read { key }
            | Input::Write { key, .. }
            | Input::Cas { key, .. }
            | Input::Delete { key } => key.clone(),
        }
    }

    fn initial(&self, _: &K) -> Option<V> {
        None
    }

    fn step(
        &self,
        state: &Option<V>,
        input: &Input<K, V>,
        output: Option<&Output<V>>,
    ) -> Option<Option<V>> {
        match (input, output) {
            (Input::Read { .. }, None) => Some(state.clone()),
            (Input::Read { .. }, Some(Output::Read(found))) => {
                (found == state).then(|| state.clone())
            }
            (Input::Write { value, .. }, None | Some(Output::Written)) => Some(Some(value.clone())),
            (Input::Cas { expect, value, .. }, None) => {
                (expect == state).then(|| Some(value.clone()))
            }
            (Input::Cas { expect, value, .. }, Some(Output::Cas { swapped: true, current })) => {
                let right = expect == state && current.as_ref() == Some(value);
                right.then(|| current.clone())
            }
            (Input::Cas { expect, .. }, Some(Output::Cas { swapped: false, current })) => {
                (expect != state && current == state).then(|| state.clone())
            }
            (Input::Delete { .. }, None) => Some(None),
            (Input::Delete { .. }, Some(Output::Deleted { existed })) => {
                (*existed == state.is_some()).then_some(None)
            }
            // An answer to another question.
            _ => None,
        }
    }

    fn effect(&self, input: &Input<K, V>, output: Option<&Output<V>>) -> Effect<Option<V>> {
        match (input, output) {
            (Input::Read { .. }, _)
            | (Input::Cas { .. }, Some(Output::Cas { swapped: false, .. }))
            | (Input::Delete { .. }, Some(Output::Deleted { existed: false })) => Effect::Reads,
            (Input::Write { value, .. }, None | Some(Output::Written)) => {
                Effect::Overwrites(Some(value.clone()))
            }
            (Input::Delete { .. }, None) => Effect::Overwrites(None),
            (Input::Write { value, .. } | Input::Cas { value, .. }, _) => {
                Effect::Leaves(Some(value.clone()))
            }
            (Input::Delete { .. }, Some(_)) => Effect::Leaves(None),
        }
    }
}
