//! What a state machine with a disk of its own keeps for the node.

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{LogId, Membership};

use crate::codec::Codec;
use crate::log::StorageError;
use crate::state_machine::StateMachine;

/// Up to where a state machine has applied the log, and what else the node must find again with
/// that state: opaque to the machine, which stores [`ApplyMark::to_bytes`] in the transaction that
/// changes its data, and gives it back with [`ApplyMark::from_bytes`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyMark {
    last: LogId,
    configuration: Option<(LogId, Membership)>,
    /// As the node wrote them.
    sessions: Bytes,
    replies: Vec<KeptReply>,
    /// New writes of sessions: which, and the place of its command in the batch.
    fresh: Vec<FreshWrite>,
}

/// The response to a write of a session, as it is kept in a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReply {
    /// The session.
    pub session: u64,
    /// The write's number in it.
    pub sequence: u64,
    /// The version of the codec that wrote the response.
    pub codec: u16,
    /// The response, `None` if it has no encoding.
    pub bytes: Option<Bytes>,
}

/// A write of a session among the commands of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshWrite {
    /// The session.
    pub session: u64,
    /// The write's number in it.
    pub sequence: u64,
    /// The place of its command in the batch, from 0.
    pub position: usize,
}

impl ApplyMark {
    /// Of a state in which everything through `last` is applied, under this configuration.
    pub fn new(last: LogId, configuration: (LogId, Membership)) -> Self {
        Self { last, configuration: Some(configuration), ..Self::default() }
    }

    /// Called by the node: with its table of sessions, and the writes of the batch whose responses are
    /// to be added to it.
    #[must_use]
    pub fn with_sessions(mut self, sessions: Bytes, fresh: Vec<FreshWrite>) -> Self {
        (self.sessions, self.fresh) = (sessions, fresh);
        self
    }

    /// The last entry applied, [`LogId::ZERO`] for none.
    pub fn last(&self) -> LogId {
        self.last
    }

    /// The configuration in force there, with its own entry; `None` only if nothing is applied.
    pub fn configuration(&self) -> Option<&(LogId, Membership)> {
        self.configuration.as_ref()
    }

    /// Called by the node: the table of sessions, and the responses that belong into it.
    pub fn sessions(&self) -> (&Bytes, &[KeptReply]) {
        (&self.sessions, &self.replies)
    }

    /// The bytes to store with the state that the commands have led to. `responses` are the responses to
    /// the commands of the batch, in order, as `apply` will return them; none after a `restore`. Later
    /// versions read the bytes too.
    ///
    /// # Panics
    /// If there is no response to one of the commands.
    pub fn to_bytes<S: StateMachine>(&self, responses: &[S::Response]) -> Bytes {
        let configuration = self.configuration.as_ref();
        let reply = |fresh: &FreshWrite| {
            let (codec, bytes) = encode_reply::<S>(&responses[fresh.position]);
            let FreshWrite { session, sequence, .. } = *fresh;
            WireReply { session, sequence, codec: codec.into(), bytes }
        };
        Wire {
            last_term: self.last.term,
            last_index: self.last.index,
            configured_term: configuration.map_or(0, |(id, _)| id.term),
            configured_index: configuration.map_or(0, |(id, _)| id.index),
            configuration: configuration.map(|(_, membership)| membership.to_bytes()),
            sessions: self.sessions.clone(),
            replies: self.fresh.iter().map(reply).collect(),
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
        let reply = |reply: WireReply| {
            let WireReply { session, sequence, codec, bytes } = reply;
            let codec = u16::try_from(codec).map_err(|e| corrupt(e.to_string()))?;
            Ok(KeptReply { session, sequence, codec, bytes })
        };
        let replies = wire.replies.into_iter().map(reply).collect::<Result<_, StorageError>>()?;
        Ok(Self { last, configuration, sessions: wire.sessions, replies, fresh: Vec::new() })
    }
}

/// A response as it is kept for a session: the version of its codec, and its bytes if it has an
/// encoding.
pub fn encode_reply<S: StateMachine>(response: &S::Response) -> (u16, Option<Bytes>) {
    let bytes = <S::Codec as Codec<S::Response>>::encode(response).ok();
    // A copy of its own: what the codec gives may share a buffer that would live as long.
    let bytes = bytes.map(|bytes| Bytes::copy_from_slice(&bytes));
    (<S::Codec as Codec<S::Response>>::VERSION, bytes)
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
    #[prost(bytes = "bytes", tag = "6")]
    sessions: Bytes,
    #[prost(message, repeated, tag = "7")]
    replies: Vec<WireReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReply {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint32, tag = "3")]
    codec: u32,
    #[prost(bytes = "bytes", optional, tag = "4")]
    bytes: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::codec::Raw;
    use crate::snapshot::Snapshot;
    use crate::state_machine::{Committed, Failure};

    /// Only its types are of interest.
    struct Echo;

    #[async_trait]
    impl StateMachine for Echo {
        type Command = Bytes;
        type Response = Bytes;
        type Codec = Raw;

        async fn apply(&mut self, entries: Vec<Committed<Bytes>>) -> Result<Vec<Bytes>, Failure> {
            Ok(entries.into_iter().map(|entry| entry.command).collect())
        }

        async fn snapshot(&mut self) -> Result<Snapshot, Failure> {
            Ok(Snapshot::from_bytes(Bytes::new()))
        }

        async fn restore(&mut self, _: Snapshot) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn a_mark_is_found_again() {
        let membership = Membership::of_voters([(1, "a"), (2, "b")]).unwrap();
        let mark = ApplyMark::new(LogId::new(3, 90), (LogId::new(1, 7), membership));
        assert_eq!(ApplyMark::from_bytes(&mark.to_bytes::<Echo>(&[])).unwrap(), mark);
        let none = ApplyMark::default();
        assert_eq!(ApplyMark::from_bytes(&none.to_bytes::<Echo>(&[])).unwrap(), none);
        assert!(ApplyMark::from_bytes(&[0xff; 5]).is_err());
        let half = Wire { last_index: 3, ..Wire::default() }.encode_to_vec();
        assert!(ApplyMark::from_bytes(&half).is_err());
        let fresh = vec![FreshWrite { session: 7, sequence: 3, position: 1 }];
        let mark = mark.with_sessions(Bytes::from_static(b"table"), fresh);
        let responses = [Bytes::from_static(b"no"), Bytes::from_static(b"yes")];
        let found = ApplyMark::from_bytes(&mark.to_bytes::<Echo>(&responses)).unwrap();
        let bytes = Some(Bytes::from_static(b"yes"));
        let kept = [KeptReply { session: 7, sequence: 3, codec: 1, bytes }];
        assert_eq!(found.sessions(), (&Bytes::from_static(b"table"), &kept[..]));
    }
}
