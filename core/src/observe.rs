//! What a node task notes of its own work: elections, and how far each batch of writes has come.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

use quorate_engine::{Index, Instant, LogId, NodeId, RoleKind, Term};
use tracing::Span;

use crate::metrics::Event;
use crate::node::Node;
use crate::stats::Counters;

/// Writes that were proposed in one turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposed {
    /// The last entry of theirs.
    pub(crate) last: Index,
    pub(crate) writes: u64,
    pub(crate) at: Instant,
}

/// What is under way, in the order in which it began.
#[derive(Debug, Default)]
pub(crate) struct Progressing {
    /// Proposed here, as leader, and not both durable here and committed.
    proposed: VecDeque<Proposed>,
    /// How many of them, from the front, are durable here, and how many are committed. Either may come
    /// first.
    durable: usize,
    committed: usize,
    /// Writes of the log that are not known to be durable: number, and when they were handed over.
    log_writes: VecDeque<(u64, Instant)>,
    /// Entries and bytes of the write that the turn puts together.
    entries: u64,
    bytes: u64,
    /// The last term in which this node stood.
    stood: Term,
    /// The last leadership it came to know.
    led: Option<(Term, NodeId)>,
    /// Members that this leader has not heard for long.
    silent: BTreeSet<NodeId>,
    /// Whether a change of voters was under way when last looked at.
    changing: bool,
    /// How many writes had been turned away when last looked at, and when that had grown, while
    /// that is not long ago.
    overloaded: u64,
    overloaded_at: Option<Instant>,
    /// What is logged is logged in it: node, group, and the term that it was made for.
    span: Option<(Term, Span)>,
}

impl Progressing {
    pub(crate) fn on_appended(&mut self, entries: u64, bytes: usize) {
        self.entries += entries;
        self.bytes += bytes as u64;
    }

    pub(crate) fn on_submitted(&mut self, now: Instant, seq: u64, counters: &Counters) {
        self.log_writes.push_back((seq, now));
        counters.log_write_entries.record(std::mem::take(&mut self.entries));
        counters.log_write_bytes.record(std::mem::take(&mut self.bytes));
    }

    pub(crate) fn on_persisted(&mut self, now: Instant, seq: u64, counters: &Counters) {
        while let Some((_, at)) = self.log_writes.front().filter(|(of, _)| *of <= seq) {
            counters.log_write.record_time(now.since(*at), 1);
            self.log_writes.pop_front();
        }
    }

    fn on_proposed(&mut self, batch: Proposed) {
        match self.proposed.back_mut() {
            Some(last) if last.at == batch.at => {
                last.last = batch.last;
                last.writes += batch.writes;
            }
            _ => self.proposed.push_back(batch),
        }
    }

    fn advance(&mut self, now: Instant, persisted: Index, committed: Index, counters: &Counters) {
        while let Some(batch) = self.proposed.get(self.durable).filter(|b| b.last <= persisted) {
            counters.durable.record_time(now.since(batch.at), batch.writes);
            self.durable += 1;
        }
        while let Some(batch) = self.proposed.get(self.committed).filter(|b| b.last <= committed) {
            counters.committed.record_time(now.since(batch.at), batch.writes);
            self.committed += 1;
        }
        let both = self.durable.min(self.committed);
        self.proposed.drain(..both);
        self.durable -= both;
        self.committed -= both;
    }
}

impl Node {
    /// The span of what this node logs: of the term at hand, another for each, since what a span has
    /// recorded stays with it.
    pub(crate) fn span(&mut self) -> Span {
        let (term, node, group) = (self.engine.term(), self.identity.node, self.wires.group);
        match &self.books.progressing.span {
            Some((of, span)) if *of == term => span.clone(),
            _ => {
                self.wires.term.store(term, Ordering::Relaxed);
                let span = tracing::info_span!(parent: None, "node", node, group, term);
                self.books.progressing.span = Some((term, span.clone()));
                span
            }
        }
    }

    /// Role, term or leader changed.
    pub(crate) fn note_change(&mut self, role: RoleKind, term: Term, leader: Option<NodeId>) {
        let (counters, progressing) = (&self.wires.counters, &mut self.books.progressing);
        if matches!(role, RoleKind::Candidate | RoleKind::Leader) && term > progressing.stood {
            progressing.stood = term;
            counters.elections_started.increment();
        }
        if role == RoleKind::Leader {
            counters.elections_won.increment();
        }
        let led = leader.map(|leader| (term, leader));
        if led.is_some() && led != progressing.led {
            progressing.led = led;
            counters.leader_changes.increment();
        }
        // What becomes of what this node has proposed is not its own doing any more.
        progressing.proposed.clear();
        // Another leader knows who is silent.
        progressing.silent.clear();
        (progressing.durable, progressing.committed) = (0, 0);
        self.board.forget_proposed();
    }

    /// The writes of a batch are in the log, through `last`.
    pub(crate) fn note_proposed(&mut self, at: Instant, last: Index, commands: u32) {
        let counters = &self.wires.counters;
        let writes = self.books.proposing.len() as u64;
        counters.proposed_writes.add(writes);
        counters.proposed_commands.add(commands.into());
        let batch = Proposed { last, writes, at };
        self.books.progressing.on_proposed(batch);
        self.board.proposed(batch);
    }

    /// So many readers know up to where they have to see.
    pub(crate) fn note_read_index(&self, now: Instant, asked_at: Instant, readers: usize) {
        self.wires.counters.read_index.record_time(now.since(asked_at), readers as u64);
    }

    /// How far what was proposed has come by the end of a turn, and what else is worth telling.
    pub(crate) fn note_progress(&mut self, now: Instant) {
        let log = self.engine.log();
        let (persisted, committed) = (log.persisted(), log.committed());
        let (counters, progressing) = (&self.wires.counters, &mut self.books.progressing);
        progressing.advance(now, persisted, committed, counters);

        let changing = self.engine.is_changing();
        if changing != progressing.changing {
            progressing.changing = changing;
            let at = self.engine.configuration().map_or(LogId::ZERO, |(at, _)| at);
            let begun = Event::ChangeBegun { at };
            self.board.event(&if changing { begun } else { Event::ChangeFinished { at } });
        }

        let long = self.config.election_timeout_max;
        for follower in self.engine.followers() {
            let (peer, silent) = (follower.id, now.since(follower.heard_at) > long);
            if silent && progressing.silent.insert(peer) {
                self.board.event(&Event::PeerSilent { peer });
            } else if !silent && progressing.silent.remove(&peer) {
                self.board.event(&Event::PeerReturned { peer });
            }
        }

        let overloaded = counters.overloaded();
        if overloaded > progressing.overloaded {
            progressing.overloaded = overloaded;
            if progressing.overloaded_at.replace(now).is_none() {
                self.board.event(&Event::Overloaded);
            }
        } else if progressing.overloaded_at.take_if(|at| now.since(*at) >= long).is_some() {
            self.board.event(&Event::OverloadEnded);
        }
    }
}
