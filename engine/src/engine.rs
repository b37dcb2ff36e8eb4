//! The engine: its state, its one door, and what every message has to pass.
//!
//! The chapters of the protocol are in files of their own, each an `impl Engine`: `election`,
//! `replication` (both ends of it), `snapshot`, `reads`, `changes` of membership, `transfer` of the
//! leadership, `recovery` of a lost quorum. What they share is here: the term rule, the writes that are
//! under way, and the report of what changed.

use std::collections::{BTreeSet, VecDeque};

use crate::block::EntryBlock;
use crate::config::{Config, ConfigError, Rng};
use crate::election::{Role, Votes};
use crate::io::{Decline, Fatal, Input, Notice, Output, Outputs, Persist, RoleKind};
use crate::log::Log;
use crate::membership::Membership;
use crate::message::Message;
use crate::planted;
use crate::reads::Reads;
use crate::replication::{Follower, Following};
use crate::snapshot;
use crate::types::{HardState, Index, Instant, LogId, NodeId, Term};

/// Terms and indexes above this come from no working cluster: a message that has one is dropped,
/// so that arithmetic on the rest can't overflow.
pub(crate) const PLAUSIBLE: u64 = 1 << 62;

/// One node's part in one Raft group.
///
/// Owned by one task (or a simulator), which calls [`Engine::step`] for everything that happens and
/// carries out the outputs. Nothing else changes it; it has no clock, no randomness of its own and
/// does no I/O. Two engines that are given the same inputs produce the same outputs.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) hard: HardState,
    pub(crate) log: Log,
    pub(crate) role: Role,
    /// Whom this node takes for the leader of `hard.term`.
    pub(crate) leader: Option<NodeId>,
    /// When to campaign unless a leader is heard before.
    pub(crate) election_at: Instant,
    /// No vote is granted before this moment: a leader may rely on it.
    pub(crate) promised_until: Instant,
    pub(crate) following: Following,
    pub(crate) votes: Votes,
    pub(crate) reads: Reads,
    pub(crate) writes: Writes,
    /// The write that resets the log to begin behind a snapshot: once it is durable, the state
    /// machine restores that.
    pub(crate) restore_after: Option<u64>,
    /// The newest [`Output::Apply`].
    pub(crate) aimed_apply: Index,
    /// What was last reported by `Output::Changed` and `Output::Configured`.
    reported: (RoleKind, Term, Option<NodeId>),
    reported_configuration: LogId,
    /// At the node that began the group, until there is a leader: who took its first configuration
    /// from this node, itself among them. They were blank until then.
    pub(crate) introduced: BTreeSet<NodeId>,
    /// Who gave this node its first configuration, in this life: node and incarnation.
    introduced_by: Option<(NodeId, u64)>,
    /// The committed configuration that does not name this node, as far as it was told.
    pub(crate) removed: Option<LogId>,
    /// A leader has said that entries through here, which this node had acknowledged, are gone here: it
    /// votes as if it had them, until they are back. [`LogId::ZERO`] if none are.
    pub(crate) refill: LogId,
    /// When this node may next hand over to a voter of higher priority.
    pub(crate) prefers_others_at: Instant,
    stopped: bool,
}

/// Writes on their way to the disk, and the one that the current step is putting together.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    in_flight: VecDeque<InFlight>,
    last_seq: u64,
    pub(crate) durable_seq: u64,
    /// The write with the newest hard state.
    pub(crate) hard_seq: u64,
    staged_hard: bool,
    staged_overwrites: Option<Index>,
    staged_reset: Option<Box<(LogId, (LogId, Membership))>>,
    staged_blocks: Vec<EntryBlock>,
    staged_compaction: Option<LogId>,
}

#[derive(Debug)]
struct InFlight {
    seq: u64,
    /// The last entry of the log that is durable once this is; taken back when it is overwritten,
    /// so that a late completion says nothing about the entries that took its place.
    last: Index,
    at: Instant,
}

/// Why an engine can't start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Settings that can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The hard state is older than the log: it was lost, or belongs to another log.
    #[error(
        "the log has entries of term {log} but the stored term is {stored}: the stored term and vote are lost or of another log"
    )]
    HardStateLost {
        /// The term of the last entry.
        log: Term,
        /// The term of the hard state.
        stored: Term,
    },
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl Engine {
    /// An engine that continues from what its store recovered; `HardState::default()` and
    /// [`Log::empty`] for a new node.
    ///
    /// A node that has a configuration starts as if it had just heard a leader: it may have
    /// promised one, before it went down, to grant no vote for a while.
    ///
    /// # Errors
    /// When the parts don't fit together; the node must not start.
    pub fn new(
        config: Config,
        hard: HardState,
        log: Log,
        now: Instant,
    ) -> Result<Self, StartError> {
        config.validate()?;
        if hard.term < log.last().term {
            return Err(StartError::HardStateLost { log: log.last().term, stored: hard.term });
        }
        let mut rng = Rng::new(config.seed);
        let reads = Reads::new(rng.next());
        let promise = config.election_timeout_min;
        let mut engine = Self {
            rng,
            hard,
            role: Role::Follower,
            leader: None,
            election_at: now,
            promised_until: now,
            following: Following::new(&log),
            votes: Votes::default(),
            reads,
            writes: Writes::default(),
            restore_after: None,
            aimed_apply: log.applied(),
            reported: (RoleKind::Follower, hard.term, None),
            reported_configuration: LogId::ZERO,
            introduced: BTreeSet::new(),
            introduced_by: None,
            removed: None,
            refill: LogId::ZERO,
            prefers_others_at: now,
            stopped: false,
            log,
            config,
        };
        if let Some((id, membership)) = engine.log.configurations().last() {
            engine.reported_configuration = *id;
            if !engine.is_this_node_in(membership) {
                return Err(Fatal::NotThisMember { id: engine.config.id }.into());
            }
            // Alone there is nobody it could have promised anything to.
            if !engine.is_sole_voter() && !planted::on("start-without-promise") {
                engine.promised_until = now + promise;
                engine.reset_election(now);
            }
        }
        engine.reported.0 = engine.role();
        Ok(engine)
    }

    /// Takes one input and appends what is to be done to `out`. The only way to change an engine.
    ///
    /// Called by its owner for every event, with its clock's time, which must not go back.
    ///
    /// # Panics
    /// When an invariant of Raft or of this code is broken. No message and no client can cause
    /// that: what a peer should not have sent is dropped with [`Output::Noticed`].
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Outputs) {
        if self.stopped {
            return;
        }
        let mark = out.list.len();
        match input {
            Input::Wake => self.on_wake(now, out),
            Input::Receive { from, incarnation, message } => {
                self.on_receive(now, from, incarnation, message, out);
            }
            Input::Propose { batch } => self.on_propose(batch, out),
            Input::ChangeMembership { to, expected } => self.on_change(now, to, expected, out),
            Input::Transfer { to, deadline } => self.on_transfer(now, to, deadline, out),
            Input::Campaign => self.on_campaign(now, out),
            Input::ForgetLeader => self.on_forget_leader(now, out),
            Input::Initialize { membership } => self.on_initialize(now, &membership, out),
            Input::Read { token, deadline, mode } => {
                self.on_read(now, token, deadline, mode, out);
            }
            Input::Persisted { seq } => self.on_persisted(now, seq, out),
            Input::Sent { to, session, through } => self.on_sent(now, to, session, through),
            Input::Lost { to, session } => self.on_lost(to, session),
            Input::Applied { through } => self.on_applied(through),
            Input::Snapshotted { last } => self.on_snapshotted(last),
            Input::SendingSnapshot { to, session, last } => {
                self.on_sending_snapshot(to, session, last);
            }
            Input::SnapshotStored { from, stored } => self.on_snapshot_stored(from, stored, out),
            Input::Recovered { from, configuration } => {
                self.on_recovered(now, from, &configuration, out);
            }
            Input::SnapshotReceived { from, session, last, configuration } => {
                self.on_snapshot_received(from, session, last, configuration, out);
            }
        }
        self.go_on_with_changes(now, out);
        self.go_on_with_transfer(out);
        self.finish(mark, now, out);
    }

    /// When to call [`Engine::step`] with [`Input::Wake`] if nothing happens before; `None` if
    /// nothing would.
    pub fn deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let role = match &self.role {
            Role::Leader(leader) => {
                let heartbeat = (!leader.progress.is_empty()).then_some(leader.heartbeat_at);
                let hung = self.writes.oldest().map(|at| at + self.config.election_timeout_max);
                let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
                earliest(earliest(heartbeat, hung), transfer)
            }
            _ => self.may_campaign().then_some(self.election_at),
        };
        earliest(role, self.reads_deadline())
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// Term and vote, as they stand in memory.
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// The leader this node knows of; itself if it leads.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// What this node is.
    pub fn role(&self) -> RoleKind {
        match self.role {
            Role::Follower if self.log.membership().is_some() && !self.is_voter() => {
                RoleKind::Learner
            }
            Role::Follower => RoleKind::Follower,
            Role::PreCandidate { .. } => RoleKind::PreCandidate,
            Role::Candidate { .. } => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Positions, terms and configurations of the log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What each follower is known to have durably; empty off the leader.
    pub fn matched(&self) -> impl Iterator<Item = (NodeId, Index)> {
        self.followers().map(|follower| (follower.id, follower.matched))
    }

    /// Every follower; none off the leader.
    pub fn followers(&self) -> impl Iterator<Item = Follower> {
        let progress = match &self.role {
            Role::Leader(leader) => Some(&leader.progress),
            _ => None,
        };
        progress.into_iter().flatten().map(|(id, p)| p.seen(*id))
    }

    /// Bytes of what was proposed and is not committed; 0 off the leader.
    pub fn uncommitted_bytes(&self) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader.uncommitted_bytes,
            _ => 0,
        }
    }

    /// Whether a proposal would be taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn can_propose(&self) -> Result<(), Decline> {
        match &self.role {
            Role::Leader(leader) if leader.transfer.is_some() => Err(Decline::Transferring),
            Role::Leader(leader)
                if leader.uncommitted_bytes >= self.config.max_uncommitted_bytes
                    || (leader.unapplied_bytes >= self.config.max_unapplied_bytes
                        && !planted::on("unapplied-not-counted")) =>
            {
                Err(Decline::Overloaded)
            }
            Role::Leader(_) => Ok(()),
            _ => Err(Decline::NotLeader { leader: self.leader }),
        }
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.log.membership().is_some_and(|m| m.is_voter(self.config.id))
    }

    pub(crate) fn is_sole_voter(&self) -> bool {
        self.log
            .membership()
            .is_some_and(|m| !m.is_joint() && m.voters().iter().eq([&self.config.id]))
    }

    /// Whether `membership` means this very data directory when it names this node's id.
    fn is_this_node_in(&self, membership: &Membership) -> bool {
        membership
            .member(self.config.id)
            .is_none_or(|m| m.incarnation == 0 || m.incarnation == self.config.incarnation)
    }

    fn on_wake(&mut self, now: Instant, out: &mut Outputs) {
        self.expire_reads(now, out);
        match &self.role {
            Role::Leader(_) => self.lead_on(now, out),
            _ => {
                if self.may_campaign() && now >= self.election_at {
                    self.campaign(now, out);
                }
                self.ask_again(now, out);
            }
        }
    }

    fn on_receive(
        &mut self,
        now: Instant,
        from: NodeId,
        incarnation: u64,
        message: Message,
        out: &mut Outputs,
    ) {
        if let Err(what) = self.plausible(from, &message) {
            out.push(Output::Noticed { peer: from, what: Notice::Violation(what) });
            return;
        }
        if let Message::Stranger(m) = &message {
            self.on_stranger(from, m.refused, out);
            return;
        }
        // A known id with another incarnation is another disk: one that may have lost what this id
        // once acknowledged or voted.
        let member = self.log.membership().and_then(|m| m.member(from));
        let other_disk = member.is_some_and(|m| m.incarnation != 0 && m.incarnation != incarnation);
        let is_member = member.is_some();
        let is_untied = member.is_some_and(|m| m.incarnation == 0);
        if other_disk && !planted::on("wiped-disk-votes") {
            out.push(Output::Noticed { peer: from, what: Notice::Stranger });
            out.send(from, Message::Stranger(crate::message::Stranger { refused: incarnation }));
            return;
        }
        if let Some(term) = message.term().filter(|_| !is_overheard(&message)) {
            if term > self.hard.term && !self.keeps_its_promise(now, &message) {
                // The term rule (paper §5.1), on every path.
                self.become_follower(now, term, None, out);
            }
        }
        if is_untied && self.is_of_today(from, &message) {
            self.tie([(from, incarnation)], out);
        }
        if !is_member {
            self.tell_if_removed(from, &message, out);
        }
        match message {
            Message::RequestVote(m) => self.on_request_vote(now, from, &m, out),
            Message::RequestVoteAnswer(m) => self.on_vote_answer(now, from, incarnation, &m, out),
            Message::Heartbeat(m) => self.on_heartbeat(now, from, &m, out),
            Message::HeartbeatAnswer(m) => self.on_heartbeat_answer(now, from, &m, out),
            Message::AppendEntries(m) => self.on_append(now, from, m, out),
            Message::AppendEntriesAnswer(m) => self.on_append_answer(now, from, &m, out),
            Message::InstallSnapshot(m) => self.on_install_snapshot(now, from, m, out),
            Message::InstallSnapshotAnswer(m) => self.on_install_snapshot_answer(from, &m, out),
            Message::ReadIndex(m) => self.on_read_index(now, from, &m, out),
            Message::ReadIndexAnswer(m) => self.on_read_index_answer(now, from, &m, out),
            Message::Introduce(m) => {
                self.on_introduce(now, from, incarnation, &m.configuration, out)
            }
            Message::Introduced(_) => self.on_introduced(now, from, out),
            Message::TimeoutNow(m) => self.on_timeout_now(now, from, &m, out),
            Message::Removed(m) => self.on_removed(now, m.at, out),
            Message::Stranger(_) => unreachable!("handled above"),
        }
    }

    /// What no correct peer sends, whatever happens to it.
    fn plausible(&self, from: NodeId, message: &Message) -> Result<(), &'static str> {
        if from == self.config.id || from == 0 {
            return Err("a message in the name of this node, or of nobody");
        }
        let numbers: [u64; 4] = match message {
            Message::RequestVote(m) => [m.term, m.last.term, m.last.index, 0],
            Message::RequestVoteAnswer(m) => [m.term, 0, 0, 0],
            Message::Heartbeat(m) => [m.term, m.commit, m.round.max(m.refill.term), m.refill.index],
            Message::HeartbeatAnswer(m) => [m.term, m.accepted, m.matched, m.round],
            Message::AppendEntries(m) => [m.term, m.prev.term, m.commit, m.last().index],
            Message::AppendEntriesAnswer(m) => [m.term, m.matched, 0, 0],
            Message::InstallSnapshot(m) => [m.term, m.last.term, m.last.index, m.bytes],
            Message::InstallSnapshotAnswer(m) => [m.term, 0, 0, 0],
            Message::ReadIndex(m) => [m.term, 0, 0, 0],
            Message::ReadIndexAnswer(m) => [m.term, m.index.unwrap_or(0), 0, 0],
            Message::TimeoutNow(m) => [m.term, 0, 0, 0],
            Message::Removed(m) => [m.at.term, m.at.index, 0, 0],
            Message::Introduce(_) | Message::Introduced(_) | Message::Stranger(_) => [0; 4],
        };
        if numbers.iter().any(|n| *n > PLAUSIBLE) {
            return Err("a term or index beyond any plausible one");
        }
        if let Message::InstallSnapshot(m) = message {
            snapshot::plausible(m)?;
        }
        if let Message::AppendEntries(m) = message {
            let mut prev = m.prev;
            for block in &m.blocks {
                if block.first() != prev.index.saturating_add(1) || block.term() < prev.term {
                    return Err("entries that do not follow one another");
                }
                prev = block.last();
                if block.is_withheld() && !m.witness {
                    return Err("entries without their commands for a full replica");
                }
            }
            if prev.term > m.term {
                return Err("entries of a later term than the leader's");
            }
        }
        Ok(())
    }

    fn on_stranger(&mut self, from: NodeId, refused: u64, out: &mut Outputs) {
        out.push(Output::Noticed { peer: from, what: Notice::RefusesUs });
        // A node with committed entries has a place in the cluster that a peer with an old
        // configuration may not know yet. One without has nothing to lose by stopping.
        if refused == self.config.incarnation && self.log.committed() == 0 {
            self.stop(Fatal::NotThisMember { id: self.config.id }, out);
        }
    }

    fn on_initialize(&mut self, now: Instant, membership: &Membership, out: &mut Outputs) {
        if self.log.last() != LogId::ZERO || self.log.membership().is_some() {
            out.push(Output::Declined(Decline::AlreadyInitialized));
            return;
        }
        if !membership.may_lead(self.config.id) || self.hard.witness {
            let why = Decline::Unusable("a group begins at a voter that is no witness");
            out.push(Output::Declined(why));
            return;
        }
        self.introduced = BTreeSet::from([self.config.id]);
        self.stage(EntryBlock::configuration(FIRST, membership));
        self.campaign(now, out);
    }

    /// A node that has no configuration takes the first one and says so, to whom it has it from: to
    /// anyone else that would say that it was blank, which it may long not have been.
    fn on_introduce(
        &mut self,
        now: Instant,
        from: NodeId,
        incarnation: u64,
        configuration: &EntryBlock,
        out: &mut Outputs,
    ) {
        if configuration.membership().is_some_and(|m| m.recovery().is_some()) {
            // For those who have yet to come over; this node is of the recovered group.
            return;
        }
        if configuration.membership().is_none() || configuration.last() != FIRST {
            let what = Notice::Violation("an introduction without a first configuration");
            out.push(Output::Noticed { peer: from, what });
            return;
        }
        if self.log.last() == LogId::ZERO && self.log.membership().is_none() {
            self.stage(configuration.clone());
            self.reset_election(now);
            self.introduced_by = Some((from, incarnation));
        }
        if self.introduced_by != Some((from, incarnation)) {
            return;
        }
        let seq = self.writes.newest_seq();
        self.votes.owe_introduction(from, seq);
        self.pay_debts(out);
    }

    /// Puts a block into the log and into the write of this step.
    pub(crate) fn stage(&mut self, block: EntryBlock) {
        if block.first() <= self.log.last().index {
            let from = block.first();
            let staged = &mut self.writes.staged_overwrites;
            *staged = Some(staged.map_or(from, |earlier| earlier.min(from)));
            let overwritten = !planted::on("overwritten-suffix-acknowledged");
            for write in self.writes.in_flight.iter_mut().filter(|_| overwritten) {
                write.last = write.last.min(from - 1);
            }
        }
        self.log.append(&block);
        if self.writes.staged_blocks.is_empty() {
            // Nearly always: made with it, the list needs not grow.
            self.writes.staged_blocks = vec![block];
        } else {
            self.writes.staged_blocks.push(block);
        }
    }

    /// The same with blocks that follow one another behind the end of the log.
    pub(crate) fn stage_all(&mut self, blocks: Vec<EntryBlock>) {
        blocks.iter().for_each(|block| self.log.append(block));
        if self.writes.staged_blocks.is_empty() {
            self.writes.staged_blocks = blocks;
        } else {
            self.writes.staged_blocks.extend(blocks);
        }
    }

    /// Puts the reset of the log into the write of this step.
    pub(crate) fn reset_log(&mut self, to: LogId, configuration: (LogId, Membership)) {
        assert!(self.writes.staged_blocks.is_empty(), "a log is reset before anything is appended");
        assert!(!matches!(self.role, Role::Leader(_)), "a leader has what is committed");
        self.log.reset(to, configuration.clone());
        // What they say is said of entries that are gone.
        self.writes.in_flight.iter_mut().for_each(|write| write.last = 0);
        self.writes.staged_reset = Some(Box::new((to, configuration)));
        self.restore_after = Some(self.writes.newest_seq());
        self.aimed_apply = to.index;
    }

    /// Puts what was compacted into the write of this step.
    pub(crate) fn stage_compaction(&mut self) {
        self.writes.staged_compaction = Some(self.log.compacted());
    }

    /// Changes term or vote; durable with the write of this step.
    pub(crate) fn set_hard_state(&mut self, hard: HardState) {
        assert!(hard.term >= self.hard.term, "terms never go back");
        assert!(
            hard.term > self.hard.term
                || self.hard.voted_for.is_none()
                || self.hard.voted_for == hard.voted_for,
            "one vote per term"
        );
        self.hard = hard;
        self.writes.staged_hard = true;
        self.writes.hard_seq = self.writes.last_seq + 1;
    }

    /// Whether a start would find [`Engine::hard_state`].
    pub fn hard_state_is_durable(&self) -> bool {
        self.writes.hard_seq <= self.writes.durable_seq || planted::on("candidacy-leaves-early")
    }

    /// Whether the log has not finished a write for longer than a leader may be silent.
    pub(crate) fn log_hangs(&self, now: Instant, limit: std::time::Duration) -> bool {
        self.writes.oldest().is_some_and(|at| now.since(at) >= limit)
    }

    fn on_persisted(&mut self, now: Instant, seq: u64, out: &mut Outputs) {
        assert!(seq <= self.writes.last_seq, "a completion of a write that was never made");
        let mut durable = 0;
        while let Some(write) = self.writes.in_flight.front() {
            if write.seq > seq {
                break;
            }
            durable = durable.max(write.last);
            self.writes.in_flight.pop_front();
        }
        self.writes.durable_seq = self.writes.durable_seq.max(seq);
        self.log.persist(durable);
        self.announce_candidacy(now, out);
        self.restore_when_durable(out);
        self.pay_debts(out);
        self.aim_witnesses(out);
        self.advance_commit(now, out);
        self.apply_committed(out);
    }

    /// Sends what had to wait until something was durable.
    fn pay_debts(&mut self, out: &mut Outputs) {
        self.votes.pay(self.writes.durable_seq, out);
        self.acknowledge(out);
    }

    /// Stops the group on this node for good.
    pub(crate) fn stop(&mut self, fatal: Fatal, out: &mut Outputs) {
        self.stopped = true;
        out.push(Output::Fatal(fatal));
    }

    /// Completes a step: the write goes first, so that whoever carries out the outputs has the
    /// entries before anyone is told to use them.
    fn finish(&mut self, mark: usize, now: Instant, out: &mut Outputs) {
        let mut hard = self.hard;
        hard.voted_for = hard.voted_for.filter(|_| !planted::on("vote-not-written"));
        let mut at = mark;
        if let Some(persist) = self.writes.take_staged(hard, self.log.last().index, now) {
            out.list.insert(at, Output::Persist(persist));
            at += 1;
        }
        let newest = self.log.configurations().last();
        let id = newest.map_or(LogId::ZERO, |(id, _)| *id);
        if id != self.reported_configuration {
            self.reported_configuration = id;
            let membership = newest.map(|(_, m)| m.clone());
            let ours = membership.as_ref().is_none_or(|m| self.is_this_node_in(m));
            out.list.insert(at, Output::Configured { id, membership });
            if !ours {
                self.stop(Fatal::NotThisMember { id: self.config.id }, out);
            }
        }
        let state = (self.role(), self.hard.term, self.leader);
        if state != self.reported {
            self.reported = state;
            let (role, term, leader) = state;
            out.push(Output::Changed { role, term, leader });
        }
    }
}

/// Where a group's first configuration stands.
pub(crate) const FIRST: LogId = LogId::new(0, 1);

impl Writes {
    /// The write that makes everything durable that this engine has said so far.
    pub(crate) fn newest_seq(&self) -> u64 {
        self.last_seq + u64::from(self.is_staged())
    }

    fn is_staged(&self) -> bool {
        self.staged_hard
            || self.staged_reset.is_some()
            || !self.staged_blocks.is_empty()
            || self.staged_compaction.is_some()
    }

    fn oldest(&self) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|write| write.at);
        oldest.filter(|_| !planted::on("leads-with-a-hung-log"))
    }

    fn take_staged(&mut self, hard: HardState, last: Index, now: Instant) -> Option<Persist> {
        if !self.is_staged() {
            return None;
        }
        self.last_seq += 1;
        self.in_flight.push_back(InFlight { seq: self.last_seq, last, at: now });
        Some(Persist {
            seq: self.last_seq,
            hard_state: std::mem::take(&mut self.staged_hard).then_some(hard),
            reset: self.staged_reset.take(),
            overwrites: self.staged_overwrites.take(),
            blocks: std::mem::take(&mut self.staged_blocks),
            compact: self.staged_compaction.take(),
        })
    }
}

/// Whether a message's term is not looked at: never, but for a planted bug.
fn is_overheard(message: &Message) -> bool {
    matches!(message, Message::HeartbeatAnswer(_)) && planted::on("higher-term-ignored")
}

/// The earlier of two moments that may not exist.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
