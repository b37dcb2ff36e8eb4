//! Calls of clients: programs that are no members, and have a connection to this node.
//!
//! A call becomes what a caller on this node does, under the same limits, and is answered from where
//! such a caller is: no task stands behind it. One difference: a client's write is not passed on. The
//! client is told who leads and goes there, so its next write takes one hop less.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyerror::AnyError;
use bytes::Bytes;
use quorate_engine::ReadMode;
use quorate_network::{
    Answerer, Call, CallKind, CallOutcome, ForwardOutcome, NodeStatus, SessionRequest,
};
use quorate_storage::StateMachine;

use crate::callers::{Application, Caller, Callers, Reply};
use crate::control::Request;
use crate::error::{ReadError, WriteError};
use crate::forward::Commands;
use crate::metrics::Board;

/// Where the host hands the calls for one group. Called on the tasks of connections.
pub(crate) trait Reception: Send + Sync + 'static {
    fn call(&self, call: Call, answer: Answerer);
}

/// The calls of one group.
pub(crate) struct GroupCalls<S: StateMachine> {
    pub(crate) callers: Arc<Callers<S>>,
    pub(crate) queued_bytes: Arc<AtomicUsize>,
    pub(crate) board: Arc<Board>,
    pub(crate) queue_bytes: usize,
    pub(crate) max_command_bytes: usize,
}

impl<S: StateMachine> Reception for GroupCalls<S> {
    fn call(&self, call: Call, answer: Answerer) {
        let Call { timeout, kind, .. } = call;
        let writes = !matches!(kind, CallKind::ReadIndex | CallKind::Status);
        let caller = ClientCall { answer, writes, board: self.board.clone() };
        match kind {
            CallKind::Write { codec, commands } => {
                let checked = self.check(codec, &commands);
                self.write(caller, checked, Commands::Many(commands), timeout);
            }
            CallKind::WriteOnce { write, codec, command } => {
                let checked = self.check(codec, std::slice::from_ref(&command));
                let commands = Commands::session(SessionRequest::Write(write), command);
                self.write(caller, checked, commands, timeout);
            }
            CallKind::OpenSession => {
                let commands = Commands::session(SessionRequest::Open, Bytes::new());
                self.write(caller, Ok(()), commands, timeout);
            }
            CallKind::ReadIndex => {
                self.board.counters.read_asked(ReadMode::Index);
                self.read_index(caller, timeout);
            }
            CallKind::Status => caller.answer(CallOutcome::Status(self.status())),
            _ => {
                let text =
                    "this node does not know such calls; upgrade the nodes before the clients";
                caller.answer(CallOutcome::Refused(text.into()));
            }
        }
    }
}

impl<S: StateMachine> GroupCalls<S> {
    fn write(
        &self,
        caller: ClientCall,
        checked: Result<(), WriteError>,
        commands: Commands,
        timeout: Duration,
    ) {
        let admit =
            |()| commands.admit(self.max_command_bytes, &self.queued_bytes, self.queue_bytes);
        let cost = match checked.and_then(admit) {
            Ok(cost) => cost,
            Err(error) => return caller.fail_write(error),
        };
        let queued = self.queue(caller, |token| {
            self.board.write_queued();
            Request::ClientWrite { token, commands, timeout }
        });
        if !queued {
            self.queued_bytes.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    /// What a client sends is decoded before it is proposed: an undecodable command never enters the
    /// log. Entries of a block share one codec version, so another one's are turned down.
    fn check(&self, codec: u16, commands: &[Bytes]) -> Result<(), WriteError> {
        let refused = |text: String| Err(WriteError::Refused(AnyError::error(text)));
        let ours = self.callers.codec();
        if codec != ours {
            return refused(format!(
                "codec version {codec} of the client is not {ours} of the node"
            ));
        }
        if commands.is_empty() {
            return refused("no commands".into());
        }
        let check = |command| self.callers.check(codec, command);
        commands.iter().try_for_each(check).map_err(WriteError::Refused)
    }

    fn read_index(&self, caller: ClientCall, timeout: Duration) {
        // Without a leader it would only wait, and another node may know one.
        if self.board.leader().0.is_none() {
            return caller.fail_write(WriteError::NotLeader { leader: None });
        }
        self.queue(caller, |token| Request::ReadIndex { token, timeout });
    }

    /// Hands a request to the node, or tells the caller why not.
    fn queue(&self, caller: ClientCall, request: impl FnOnce(u64) -> Request) -> bool {
        match self.callers.ask(Caller::Client(caller), request) {
            Ok(_) => true,
            Err((why, caller)) => {
                caller.fail(Reply::failed(why.into()));
                false
            }
        }
    }

    fn status(&self) -> NodeStatus {
        let metrics = self.board.metrics();
        NodeStatus {
            id: metrics.id,
            role: metrics.role,
            term: metrics.term,
            leader: metrics.leader,
            last: metrics.last,
            committed: metrics.committed,
            applied: metrics.applied,
            configured_at: metrics.configured_at,
            membership: metrics.membership.as_deref().cloned(),
        }
    }
}

/// A client that waits. Dropped without an answer, it is told that the outcome is unknown.
pub(crate) struct ClientCall {
    answer: Answerer,
    /// Whether it has a write done.
    writes: bool,
    /// Where the leader's address stands.
    board: Arc<Board>,
}

impl ClientCall {
    pub(crate) fn answer(self, outcome: CallOutcome) {
        self.board.counters.call_ended(self.writes, &outcome);
        self.answer.answer(outcome);
    }

    /// Its write was applied, or came to an end in the log.
    pub(crate) fn complete(self, outcome: ForwardOutcome) {
        self.answer(match outcome {
            ForwardOutcome::Applied(responses) => CallOutcome::Applied(responses),
            ForwardOutcome::Overwritten => CallOutcome::Overwritten,
            ForwardOutcome::Refused(why) => CallOutcome::Refused(why),
            ForwardOutcome::Repeated(response) => CallOutcome::Repeated(response),
            ForwardOutcome::Opened(session) => CallOutcome::Opened(session),
            ForwardOutcome::SessionExpired => CallOutcome::SessionExpired,
            ForwardOutcome::Acknowledged => CallOutcome::Acknowledged,
            _ => CallOutcome::Unknown,
        });
    }

    pub(crate) fn fail_write(self, error: WriteError) {
        let outcome = match error {
            WriteError::NotLeader { leader } => {
                let (known, address) = self.board.leader();
                let address = if known == leader { address } else { String::new() };
                CallOutcome::NotLeader { leader, address }
            }
            WriteError::Overloaded => CallOutcome::Overloaded,
            WriteError::Timeout => CallOutcome::Timeout,
            WriteError::Overwritten => CallOutcome::Overwritten,
            WriteError::TooLarge { bytes, limit } => {
                CallOutcome::TooLarge { bytes: bytes as u64, limit: limit as u64 }
            }
            WriteError::Refused(why) => CallOutcome::Refused(why.to_string()),
            WriteError::Stopped => CallOutcome::Stopped,
            WriteError::SessionExpired => CallOutcome::SessionExpired,
            WriteError::Acknowledged => CallOutcome::Acknowledged,
            WriteError::Unknown | WriteError::Response(_) => CallOutcome::Unknown,
        };
        self.answer(outcome);
    }

    pub(crate) fn fail_read(self, error: ReadError) {
        let outcome = match error {
            ReadError::Timeout => CallOutcome::Timeout,
            ReadError::Overloaded => CallOutcome::Overloaded,
            ReadError::Stopped => CallOutcome::Stopped,
            ReadError::Witness | ReadError::Refused(_) => CallOutcome::Refused(error.to_string()),
        };
        self.answer(outcome);
    }
}
