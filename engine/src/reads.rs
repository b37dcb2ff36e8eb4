//! Reads without a log entry: ReadIndex and leases, at the leader and at followers (thesis §6.4).
//!
//! A leader fixes the read index, sends a round of heartbeats, and waits until a quorum has
//! answered that round or a later one; all reads that arrive meanwhile share the next round. A
//! follower asks its leader, for all its waiting readers at once, and asks again when the answer is
//! overdue. Each question has a context of its own: an answer serves the readers that were waiting
//! when its question was asked, and says nothing about those that came later.
//!
//! A leader that holds a lease needs no round: a quorum has promised to elect nobody else for a while,
//! counted from when it was asked, less what clocks may differ by. It gives the lease up before it
//! hands over, for the rest of its term. A read of bounded age needs a round only if the last one is
//! older: what that confirmed is at most as old as the moment in which it was asked for, by the clock
//! of the node that asked.

use std::collections::VecDeque;
use std::time::Duration;

use crate::election::Role;
use crate::engine::{Engine, earliest};
use crate::io::{Output, Outputs};
use crate::message::{Message, ReadIndex, ReadIndexAnswer};
use crate::planted;
use crate::quorum::reached_by_quorum;
use crate::types::{Index, Instant, NodeId};

/// Questions of followers that a leader keeps; more are dropped, and asked again.
const MAX_REMOTE: usize = 4096;

/// How new what a read sees has to be, and what that may rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadMode {
    /// Linearizable, whatever clocks do: a quorum confirms the leader after the read was asked for.
    #[default]
    Index,
    /// Linearizable if clocks differ by no more than [`Config::clock_drift_percent`]: a leader that
    /// holds a lease answers at once, another as for [`ReadMode::Index`].
    ///
    /// [`Config::clock_drift_percent`]: crate::Config::clock_drift_percent
    Lease,
    /// Not older than this, whatever other nodes' clocks do: it misses nothing that was acknowledged
    /// longer ago.
    Bounded(Duration),
    /// Whatever this node has.
    Stale,
}

/// Reads of this node's own clients while it does not lead.
#[derive(Debug)]
pub(crate) struct Reads {
    local: Vec<Local>,
    /// The last question, while its answer is out.
    asked: Option<Question>,
    context: u64,
    /// An index that was confirmed, and when that was asked for: nothing that was acknowledged before
    /// is behind it. The newest, whoever led.
    confirmed: Option<(Instant, Index)>,
}

/// What is asked of the leader.
#[derive(Clone, Copy, Debug)]
struct Question {
    at: Instant,
    /// Whether a lease is enough for everyone it is asked for.
    lease: bool,
}

#[derive(Debug)]
struct Local {
    token: u64,
    deadline: Instant,
    lease: bool,
    /// The first question asked since this read came: its answer and every later one covers it.
    asked: Option<u64>,
}

/// Reads at the leader.
#[derive(Debug, Default)]
pub(crate) struct LeaderReads {
    /// For the next round.
    waiting: Vec<Reader>,
    /// Sent with a round that is not confirmed.
    confirming: VecDeque<Round>,
}

#[derive(Debug)]
struct Round {
    round: u64,
    begun_at: Instant,
    index: Index,
    readers: Vec<Reader>,
}

#[derive(Debug)]
enum Reader {
    Local { token: u64, deadline: Instant, lease: bool },
    Remote { to: NodeId, context: u64 },
}

impl Reads {
    /// Contexts count from `origin`, another number each start: an answer meant for an earlier
    /// life of this node must not fit a question of this one.
    pub(crate) fn new(origin: u64) -> Self {
        // Half of the numbers, so that counting on never comes around.
        Self { local: Vec::new(), asked: None, context: origin / 2, confirmed: None }
    }

    /// Takes back the local readers of a leader that steps down.
    pub(crate) fn take_over(&mut self, was: LeaderReads) {
        let confirming = was.confirming.into_iter().flat_map(|r| r.readers);
        for reader in confirming.chain(was.waiting) {
            // Remote readers ask the next leader themselves.
            if let Reader::Local { token, deadline, lease } = reader {
                self.local.push(Local { token, deadline, lease, asked: None });
            }
        }
    }

    fn confirm(&mut self, asked_at: Instant, index: Index) {
        self.confirmed = self.confirmed.max(Some((asked_at, index)));
    }

    /// An index that is not older than `age`, if one is known.
    fn within(&self, now: Instant, age: Duration) -> Option<Index> {
        let (asked_at, index) = self.confirmed?;
        (now.since(asked_at) <= age).then_some(index)
    }
}

impl Engine {
    pub(crate) fn on_read(
        &mut self,
        now: Instant,
        token: u64,
        deadline: Instant,
        mode: ReadMode,
        out: &mut Outputs,
    ) {
        let known = match mode {
            ReadMode::Index => None,
            ReadMode::Lease => self.holds_lease(now).then_some(self.log.committed()),
            ReadMode::Bounded(age) => self.reads.within(now, age),
            ReadMode::Stale => Some(self.log.applied()),
        };
        let lease = mode == ReadMode::Lease;
        if let Some(index) = known {
            out.push(Output::ReadReady { token, index });
        } else if let Role::Leader(leader) = &mut self.role {
            leader.reads.waiting.push(Reader::Local { token, deadline, lease });
            self.start_reads(now, out);
        } else {
            self.reads.local.push(Local { token, deadline, lease, asked: None });
            if self.reads.asked.is_none() {
                self.ask(now, out);
            }
        }
    }

    // ---- at the leader ----

    /// Whether nobody else can have been elected by `now`, so that what this leader knows to be
    /// committed is all there is.
    pub fn holds_lease(&self, now: Instant) -> bool {
        self.leased_until().is_some_and(|until| now < until)
    }

    /// Until when nobody else can be elected, as far as this leader knows; `None` if it knows of no such
    /// time. Any step may change it, also to an earlier time.
    ///
    /// Not before something is committed in its own term; and not once it has told anybody to stand
    /// in its place, for whom promises do not hold.
    pub fn leased_until(&self) -> Option<Instant> {
        let Role::Leader(leader) = &self.role else { return None };
        let over = leader.gave_lease_up && !planted::on("lease-outlives-transfer");
        if over || self.log.committed() < leader.term_start {
            return None;
        }
        let membership = self.log.membership().expect("a leader has a configuration");
        Some(reached_by_quorum(membership, |id| {
            if id == self.config.id {
                Instant::MAX
            } else {
                leader.progress.get(&id).map_or(Instant::ORIGIN, |p| p.leased_until)
            }
        }))
    }

    pub(crate) fn lead_local_reads(&mut self, now: Instant, out: &mut Outputs) {
        self.reads.asked = None;
        let local = std::mem::take(&mut self.reads.local);
        let Role::Leader(leader) = &mut self.role else { unreachable!("called by the leader") };
        leader.reads.waiting.extend(local.into_iter().map(|read| {
            let Local { token, deadline, lease, .. } = read;
            Reader::Local { token, deadline, lease }
        }));
        self.start_reads(now, out);
    }

    /// Starts a round for the waiting readers, unless one is out (they take the next) or nothing is
    /// committed in this term yet (paper §8: only then does the leader know what is committed).
    pub(crate) fn start_reads(&mut self, now: Instant, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.reads.waiting.is_empty()
            || !leader.reads.confirming.is_empty()
            || self.log.committed() < leader.term_start
        {
            return;
        }
        self.broadcast(now, out);
        // Alone there is nobody to wait for.
        self.confirm_reads(now, out);
    }

    /// A round begins: the waiting readers are confirmed by it, at the commit index of now.
    pub(crate) fn attach_reads(&mut self, now: Instant, round: u64) {
        let index = self.log.committed();
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.waiting.is_empty() || index < leader.term_start {
            return;
        }
        let readers = std::mem::take(&mut leader.reads.waiting);
        leader.reads.confirming.push_back(Round { round, begun_at: now, index, readers });
    }

    /// Serves the readers whose round a quorum has answered.
    pub(crate) fn confirm_reads(&mut self, now: Instant, out: &mut Outputs) {
        let term = self.hard.term;
        let me = self.config.id;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.confirming.is_empty() {
            return;
        }
        let membership = self.log.membership().expect("a leader has a configuration");
        let confirmed = reached_by_quorum(membership, |id| {
            if id == me { u64::MAX } else { leader.progress.get(&id).map_or(0, |p| p.acked_round) }
        });
        let any = confirmed > 0 && planted::on("earlier-round-confirms");
        let reads = &mut leader.reads;
        while reads.confirming.front().is_some_and(|r| any || r.round <= confirmed) {
            let round = reads.confirming.pop_front().expect("there is a front");
            self.reads.confirm(round.begun_at, round.index);
            for reader in round.readers {
                match reader {
                    Reader::Local { token, .. } => {
                        out.push(Output::ReadReady { token, index: round.index });
                    }
                    Reader::Remote { to, context } => {
                        let index = Some(round.index);
                        let answer = ReadIndexAnswer { term, context, index };
                        out.send(to, Message::ReadIndexAnswer(answer));
                    }
                }
            }
        }
        self.start_reads(now, out);
    }

    pub(crate) fn on_read_index(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &ReadIndex,
        out: &mut Outputs,
    ) {
        let context = m.context;
        if m.lease && self.holds_lease(now) {
            let index = Some(self.log.committed());
            let answer = ReadIndexAnswer { term: self.hard.term, context, index };
            out.send(from, Message::ReadIndexAnswer(answer));
            return;
        }
        match &mut self.role {
            Role::Leader(leader) => {
                if leader.reads.waiting.len() < MAX_REMOTE {
                    leader.reads.waiting.push(Reader::Remote { to: from, context });
                    self.start_reads(now, out);
                }
            }
            _ => {
                let answer = ReadIndexAnswer { term: self.hard.term, context, index: None };
                out.send(from, Message::ReadIndexAnswer(answer));
            }
        }
    }

    // ---- at a follower ----

    /// Asks the leader on behalf of every reader here, with a fresh context.
    fn ask(&mut self, now: Instant, out: &mut Outputs) {
        let Some(leader) = self.leader.filter(|id| *id != self.config.id) else { return };
        if self.reads.local.is_empty() {
            return;
        }
        self.reads.context += u64::from(!planted::on("read-context-repeats"));
        let context = self.reads.context;
        for read in &mut self.reads.local {
            read.asked.get_or_insert(context);
        }
        let lease = self.reads.local.iter().all(|read| read.lease);
        self.reads.asked = Some(Question { at: now, lease });
        let term = self.hard.term;
        out.send(leader, Message::ReadIndex(ReadIndex { term, context, lease }));
    }

    /// There is a (new) leader to ask.
    pub(crate) fn ask_new_leader(&mut self, now: Instant, out: &mut Outputs) {
        self.reads.asked = None;
        self.ask(now, out);
    }

    /// The answer is overdue: ask again.
    pub(crate) fn ask_again(&mut self, now: Instant, out: &mut Outputs) {
        let interval = self.config.heartbeat_interval;
        if self.reads.asked.is_some_and(|asked| now.since(asked.at) >= interval) {
            self.reads.asked = None;
            self.ask(now, out);
        }
    }

    pub(crate) fn on_read_index_answer(
        &mut self,
        now: Instant,
        from: NodeId,
        m: &ReadIndexAnswer,
        out: &mut Outputs,
    ) {
        // An answer that says nothing waits for the next time to ask. One to a question never asked
        // is of an earlier life of this node.
        let Some(index) = m.index else { return };
        if m.context > self.reads.context {
            return;
        }
        if self.leader == Some(from) && m.term == self.hard.term {
            // The index is committed, so this node may apply what it has verified of it.
            self.commit_as_follower(index, out);
        }
        self.reads.local.retain(|read| {
            let served = read.asked.is_some_and(|first| first <= m.context);
            if served {
                out.push(Output::ReadReady { token: read.token, index });
            }
            !served
        });
        if m.context == self.reads.context {
            if let Some(Question { at, lease: false }) = self.reads.asked {
                let late = planted::on("age-counted-from-the-answer");
                self.reads.confirm(if late { now } else { at }, index);
            }
            // Nothing is out any more: ask for those who came meanwhile.
            self.reads.asked = None;
            self.ask(now, out);
        }
    }

    // ---- deadlines ----

    pub(crate) fn reads_deadline(&self) -> Option<Instant> {
        let local = self.reads.local.iter().map(|read| read.deadline).min();
        let again = self.reads.asked.map(|asked| asked.at + self.config.heartbeat_interval);
        let leading = match &self.role {
            Role::Leader(leader) => leader
                .reads
                .readers()
                .filter_map(|reader| match reader {
                    Reader::Local { deadline, .. } => Some(*deadline),
                    Reader::Remote { .. } => None,
                })
                .min(),
            _ => None,
        };
        earliest(earliest(local, again), leading)
    }

    pub(crate) fn expire_reads(&mut self, now: Instant, out: &mut Outputs) {
        self.reads.local.retain(|read| {
            let alive = read.deadline > now;
            if !alive {
                out.push(Output::ReadFailed { token: read.token });
            }
            alive
        });
        if self.reads.local.is_empty() {
            self.reads.asked = None;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let reads = &mut leader.reads;
        let rounds = reads.confirming.iter_mut().map(|round| &mut round.readers);
        for readers in rounds.chain(std::iter::once(&mut reads.waiting)) {
            readers.retain(|reader| match reader {
                Reader::Local { token, deadline, .. } if *deadline <= now => {
                    out.push(Output::ReadFailed { token: *token });
                    false
                }
                _ => true,
            });
        }
    }
}

impl LeaderReads {
    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.confirming.iter().flat_map(|r| &r.readers).chain(&self.waiting)
    }
}
