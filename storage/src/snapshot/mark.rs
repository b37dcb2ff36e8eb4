//! What a state machine with a disk of its own keeps for the node.

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{LogId, Membership};

use crate::log::StorageError;

/// Up to where a state machine has applied the log, and what else the node must find again with
/// that state: opaque to the machine, which stores [`ApplyMark::to_bytes`] in the transaction that
/// changes its data, and gives it back with [`ApplyMark::from_bytes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyMark {
    last: LogId,
    configuration: Option<(LogId, Membership)>,
}

impl ApplyMark {
    /// Of a state in which everything through `last` is applied, under this configuration.
    pub fn new(last: LogId, configuration: (LogId, Membership)) -> Self {
        Self { last, configuration: Some(configuration) }
    }

    /// The last entry applied, [`LogId::ZERO`] for none.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The configuration in force there, with its own entry; `None` only if nothing is applied.
    pub fn configuration(&self) -> Option<&(LogId, Membership)> {
        self.configuration.as_ref()
    }

    /// The bytes to store. Later versions read them too.
    pub fn to_bytes(&self) -> Bytes {
        let configuration = self.configuration.as_ref();
        Wire {
            last_term: self.last.term,
            last_index: self.last.index,
            configured_term: configuration.map_or(0, |(id, _)| id.term),
            configured_index: configuration.map_or(0, |(id, _)| id.index),
            configuration: configuration.map(|(_, membership)| membership.to_bytes()),
        }
        .encode_to_vec()
        .into()
    }

    /// Reads what [`ApplyMark::to_bytes`] gave.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for bytes that are no mark.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let corrupt =
            |what: String| StorageError::Corrupt(format!("the mark of the state machine: {what}"));
        let wire = Wire::decode(bytes).map_err(|e| corrupt(e.to_string()))?;
        let configuration = match wire.configuration {
            None => None,
            Some(bytes) => {
                let membership =
                    Membership::from_bytes(&bytes).map_err(|e| corrupt(e.to_string()))?;
                Some((LogId::new(wire.configured_term, wire.configured_index), membership))
            }
        };
        let last = LogId::new(wire.last_term, wire.last_index);
        if configuration.is_none() != (last == LogId::ZERO) {
            return Err(corrupt("it is of no configuration".into()));
        }
        Ok(Self { last, configuration })
    }
}

/// The stored form. Tags are for ever; new fields get new tags.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint64, tag = "1")]
    last_term: u64,
    #[prost(uint64, tag = "2")]
    last_index: u64,
    #[prost(uint64, tag = "3")]
    configured_term: u64,
    #[prost(uint64, tag = "4")]
    configured_index: u64,
    #[prost(bytes = "vec", optional, tag = "5")]
    configuration: Option<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_again() {
        let membership = Membership::of_voters([(1, "a"), (2, "b")]).unwrap();
        let mark = ApplyMark::new(LogId::new(3, 90), (LogId::new(1, 7), membership));
        assert_eq!(ApplyMark::from_bytes(&mark.to_bytes()).unwrap(), mark);
        let none = ApplyMark::default();
        assert_eq!(ApplyMark::from_bytes(&none.to_bytes()).unwrap(), none);
        assert!(ApplyMark::from_bytes(&[0xff; 5]).is_err());
        let half = Wire { last_index: 3, ..Wire::default() }.encode_to_vec();
        assert!(ApplyMark::from_bytes(&half).is_err());
    }
}
