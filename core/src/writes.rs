//! Clients' writes on their way: into the log of a leader, to the leader, or aside until there is one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_engine::{
    Batch, Decline, EntryKind, Input, Instant, LogId, NodeId, ReadMode, RoleKind,
};
use quorate_network::{Forward, ForwardAnswer, ForwardOutcome, Forwarded, Message, SessionRequest};

use crate::callers::{Completed, Token};
use crate::control::Request;
use crate::error::WriteError;
use crate::forward::{Commands, Write, outcome_of, run_bytes};
use crate::node::Node;
use crate::pending::{Origin, Who};
use crate::sessions::entry_header;

/// Bytes of commands in one message to the leader.
const FORWARD_BYTES: usize = 256 << 10;

impl Node {
    pub(crate) fn on_requests(&mut self, now: Instant, requests: &mut VecDeque<Request>) {
        if requests.is_empty() {
            return;
        }
        let deadline = now + self.config.write_timeout;
        let asked_at = self.wires.counters.take_oldest_queued(now);
        let mut readers: BTreeMap<ReadMode, Vec<Token>> = BTreeMap::new();
        let (mut indexes, mut index_timeout) = (Vec::new(), Duration::ZERO);
        let mut writes = Vec::with_capacity(requests.len());
        for request in requests.drain(..) {
            match request {
                Request::Write { token, commands } => {
                    let who = Who::Local(token);
                    // Put together where it stays: see `Outputs::push_with`.
                    let write = || Write { who, commands, asked_at, deadline };
                    writes.extend(std::iter::once_with(write));
                }
                Request::Read { token, mode } => readers.entry(mode).or_default().push(token),
                Request::ClientWrite { token, commands, timeout } => {
                    let deadline = now + timeout.min(self.config.write_timeout);
                    let who = Who::Client(token);
                    writes.push(Write { who, commands, asked_at, deadline });
                }
                Request::ReadIndex { token, timeout } => {
                    indexes.push(token);
                    index_timeout = index_timeout.max(timeout);
                }
            }
        }
        self.place(now, writes);
        if !indexes.is_empty() {
            self.books.next_read += 1;
            let token = self.books.next_read;
            self.books.index_reads.insert(token, (now, indexes));
            let deadline = now + index_timeout.min(self.config.read_timeout);
            self.step(now, Input::Read { token, deadline, mode: ReadMode::Index });
        }
        // All readers of a turn that ask for the same are one read of the engine.
        for (mode, readers) in readers {
            self.books.next_read += 1;
            let token = self.books.next_read;
            self.books.reads.insert(token, (now, readers));
            let deadline = now + self.config.read_timeout;
            self.step(now, Input::Read { token, deadline, mode });
        }
        self.give_room();
    }

    /// Puts writes where they belong now: into the log, to the leader, or aside.
    pub(crate) fn place(&mut self, now: Instant, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let Err(decline) = self.engine.can_propose() else { return self.propose(now, writes) };
        let (others, stuck): (Vec<_>, Vec<_>) = writes
            .into_iter()
            .partition(|w| self.config.forward_writes && !matches!(w.who, Who::Client(_)));
        for write in stuck {
            self.reject(write, declined(decline));
        }
        match decline {
            Decline::NotLeader { leader: Some(leader) } => self.forward(leader, others),
            Decline::NotLeader { leader: None } | Decline::Transferring => {
                self.books.parked.extend(others);
            }
            decline => {
                for write in others {
                    self.reject(write, declined(decline));
                }
            }
        }
    }

    pub(crate) fn propose(&mut self, now: Instant, writes: Vec<Write>) {
        let of_session = |w: &Write| matches!(w.commands, Commands::Session(..));
        if writes.iter().any(of_session) {
            // A block holds entries of one kind.
            let (of_sessions, others) = writes.into_iter().partition(of_session);
            self.propose_kind(now, EntryKind::Command, others);
            self.propose_kind(now, EntryKind::Session, of_sessions);
        } else {
            self.propose_kind(now, EntryKind::Command, writes);
        }
    }

    fn propose_kind(&mut self, now: Instant, kind: EntryKind, writes: Vec<Write>) {
        let codec = self.application.codec();
        let total = writes.iter().map(|w| w.commands.bytes() + 4).sum::<usize>();
        let capacity = total.min(self.config.append_bytes);
        let mut batch = Batch::with_capacity(kind, codec, capacity);
        let mut oldest = now;
        let time_ms = match kind {
            EntryKind::Session => self.books.log_clock.read(now, self.board.log_time_ms()),
            _ => 0,
        };
        for write in writes {
            let bytes = write.commands.bytes();
            if !batch.is_empty() && batch.bytes() + bytes > self.config.append_bytes {
                let next = Batch::with_capacity(kind, codec, 0);
                let full = std::mem::replace(&mut batch, next);
                self.propose_batch(now, full, std::mem::replace(&mut oldest, now));
            }
            if let (true, Err(decline)) = (batch.is_empty(), self.engine.can_propose()) {
                self.reject(write, declined(decline));
                continue;
            }
            oldest = oldest.min(write.asked_at);
            let next = self.engine.log().last().index + 1 + batch.len() as u64;
            let commands = write.commands.as_slice();
            let origin = || Origin {
                first: LogId::new(self.engine.term(), next),
                count: commands.len() as u32,
                many: matches!(write.commands, Commands::Many(_)),
                who: Some(write.who),
                deadline: write.deadline,
            };
            // Put together where it stays: see `Outputs::push_with`.
            self.books.proposing.extend(std::iter::once_with(origin));
            if let Commands::Session(of_session) = &write.commands {
                let (request, command) = &**of_session;
                batch.push_with(&entry_header(request, time_ms, &self.config), command);
            } else {
                // A run stays in one block, so that all of it is in a log or none.
                commands.iter().for_each(|command| batch.push(command));
            }
            self.release(write.cost());
        }
        if !batch.is_empty() {
            self.propose_batch(now, batch, oldest);
        }
    }

    fn propose_batch(&mut self, now: Instant, batch: Batch, oldest: Instant) {
        let counters = &self.wires.counters;
        counters.proposed_bytes.add(batch.bytes() as u64);
        counters.queued.record_time(now.since(oldest), self.books.proposing.len() as u64);
        self.step(now, Input::Propose { batch });
    }

    pub(crate) fn forward(&mut self, leader: NodeId, writes: Vec<Write>) {
        let (term, codec) = (self.engine.term(), self.application.codec());
        let timeout = self.config.write_timeout;
        let mut writes = writes.into_iter().peekable();
        while writes.peek().is_some() {
            let mut group = Vec::new();
            let mut bytes = 0;
            while let Some(write) =
                writes.next_if(|w| bytes == 0 || bytes + w.commands.bytes() <= FORWARD_BYTES)
            {
                bytes += write.commands.bytes() + 1;
                // Only callers of this node are passed on: one hop.
                match write.who {
                    Who::Local(_) => group.push(write),
                    Who::Remote { .. } | Who::Client(_) => {
                        self.reject(write, WriteError::NotLeader { leader: Some(leader) });
                    }
                }
            }
            if group.is_empty() {
                continue;
            }
            let message = self.books.forwarding.message(term, codec, timeout, &group);
            let message = Message::Forward(message);
            if self.lanes(leader).is_some_and(|lanes| lanes.send_clients(message)) {
                self.wires.counters.writes_forwarded.add(group.len() as u64);
                self.books.forwarding.sent(leader, group);
            } else {
                for write in group {
                    self.reject(write, WriteError::Overloaded);
                }
            }
        }
    }

    /// Gives a write back to its caller, and its room to others.
    pub(crate) fn reject(&mut self, write: Write, error: WriteError) {
        self.release(write.cost());
        self.tell(write.who, error);
    }

    pub(crate) fn tell(&mut self, who: Who, error: WriteError) {
        match who {
            Who::Local(token) | Who::Client(token) => self.books.failures.push((token, error)),
            Who::Remote { node, boot, token } => {
                let answer = ForwardAnswer { token, outcome: outcome_of(&error) };
                self.send_answers(node, boot, vec![answer]);
            }
        }
    }

    fn release(&mut self, cost: usize) {
        self.books.released += cost;
    }

    /// Gives the room of what was taken from the queue to others. Once for all of it: callers on other
    /// threads count in the same place.
    pub(crate) fn give_room(&mut self) {
        let released = std::mem::take(&mut self.books.released);
        if released > 0 {
            self.queued_bytes.fetch_sub(released, Ordering::Relaxed);
        }
    }

    pub(crate) fn on_forward(&mut self, now: Instant, from: NodeId, m: Forward) {
        let who = |token| Who::Remote { node: from, boot: m.boot, token };
        let leads = self.engine.role() == RoleKind::Leader && self.engine.term() == m.term;
        let member = self.engine.log().membership().is_some_and(|m| m.member(from).is_some());
        if !member || !self.books.forwarding.is_new(m.term, from, m.boot, m.sequence) {
            return;
        }
        self.wires.counters.writes_received.add(m.writes.len() as u64);
        let deadline = now + m.timeout.min(self.config.write_timeout);
        let mut writes = Vec::with_capacity(m.writes.len());
        for write in m.writes {
            let who = who(write.token);
            if !leads {
                self.tell(who, WriteError::NotLeader { leader: self.engine.leader() });
                continue;
            }
            // What a peer sends is checked as what a client sends: an undecodable command never
            // enters the log.
            let bytes = run_bytes(&write.commands);
            let limit = self.config.max_command_bytes;
            let opens = write.session == Some(SessionRequest::Open);
            let refused = if write.commands.is_empty() && !opens {
                Some(WriteError::Refused(anyerror::AnyError::error("no commands")))
            } else if bytes > limit {
                Some(WriteError::TooLarge { bytes, limit })
            } else {
                let check = |c| self.application.check(m.codec, c).err().map(WriteError::Refused);
                write.commands.iter().find_map(check)
            };
            match refused {
                Some(error) => self.tell(who, error),
                None => {
                    let commands = match write.session {
                        None => Commands::Many(write.commands),
                        Some(request) => {
                            let command = write.commands.into_iter().next().unwrap_or_default();
                            Commands::session(request, command)
                        }
                    };
                    writes.push(Write { who, commands, asked_at: now, deadline });
                }
            }
        }
        if leads && m.codec != self.application.codec() {
            // Entries of a block share one codec version; an older node's commands are turned down
            // until it is upgraded or leads itself.
            for write in writes {
                let text = format!("codec version {} is not {}", m.codec, self.application.codec());
                self.reject(write, WriteError::Refused(anyerror::AnyError::error(text)));
            }
            return;
        }
        self.place(now, writes);
    }

    pub(crate) fn on_forwarded(&mut self, from: NodeId, m: Forwarded) {
        if m.boot != self.books.forwarding.boot {
            return;
        }
        for ForwardAnswer { token, outcome } in m.answers {
            let Some(write) = self.books.forwarding.answered(from, token) else { continue };
            let Who::Local(caller) = write.who else { unreachable!("only own callers go out") };
            let mut complete = |completed| {
                self.release(write.cost());
                self.give_room();
                self.application.complete_forwarded(caller, completed);
            };
            let error = match outcome {
                ForwardOutcome::Applied(responses)
                    if responses.len() == write.commands.as_slice().len() =>
                {
                    complete(Completed::Applied(responses));
                    continue;
                }
                ForwardOutcome::Applied(_) => {
                    let text = "the leader gave another number of responses than of commands";
                    WriteError::Response(anyerror::AnyError::error(text))
                }
                ForwardOutcome::Repeated(response) => {
                    complete(Completed::Repeated(response));
                    continue;
                }
                ForwardOutcome::Opened(session) => {
                    complete(Completed::Opened(session));
                    continue;
                }
                ForwardOutcome::SessionExpired => WriteError::SessionExpired,
                ForwardOutcome::Acknowledged => WriteError::Acknowledged,
                ForwardOutcome::NotLeader(_) => {
                    // Certainly not done: it waits for a leader again, until the next sweep.
                    self.books.parked.push(write);
                    continue;
                }
                ForwardOutcome::Overloaded => WriteError::Overloaded,
                ForwardOutcome::Overwritten => WriteError::Overwritten,
                ForwardOutcome::Refused(why) => WriteError::Refused(anyerror::AnyError::error(why)),
                _ => WriteError::Unknown,
            };
            self.reject(write, error);
        }
    }

    pub(crate) fn send_answers(&mut self, node: NodeId, boot: u64, answers: Vec<ForwardAnswer>) {
        // Lost answers are unknown outcomes there.
        if let Some(lanes) = self.lanes(node) {
            lanes.send_clients(Message::Forwarded(Forwarded { boot, answers }));
        }
    }
}

pub(crate) fn declined(decline: Decline) -> WriteError {
    match decline {
        Decline::NotLeader { leader } => WriteError::NotLeader { leader },
        Decline::Overloaded => WriteError::Overloaded,
        Decline::Transferring => WriteError::NotLeader { leader: None },
        Decline::AlreadyInitialized
        | Decline::ChangeInProgress
        | Decline::ConfigurationChanged
        | Decline::NotCaughtUp { .. }
        | Decline::Unusable(_) => unreachable!("no answer to a write"),
    }
}
