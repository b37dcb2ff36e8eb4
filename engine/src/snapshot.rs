//! Snapshots: what a log is compacted by, and how a follower gets one (paper §7).
//!
//! The engine decides and counts; the node builds, stores and sends. A log is compacted only through
//! what a durable snapshot covers, less a number of entries that are kept for followers that are a
//! little behind, and not beyond a snapshot that is being sent: the entries behind it come next.
//!
//! A follower whose next entry is compacted finds that out by the answer to a probe. Its session
//! then is one of sending a snapshot, until what it has reaches the leader's log. The follower
//! installs in three steps, and a crash between any two of them is one that it can start from: the
//! snapshot is durable, then the log is reset to begin behind it, then the state machine restores it.

use crate::election::Role;
use crate::engine::Engine;
use crate::io::{Output, Outputs};
use crate::membership::Membership;
use crate::message::{InstallSnapshot, InstallSnapshotAnswer, Message, SnapshotProgress};
use crate::planted;
use crate::replication::Stage;
use crate::types::{Index, Instant, LogId, NodeId};

// ---- the own log ----

impl Engine {
    /// A state through `last` is durable without the log: compacts what is not needed any more.
    pub(crate) fn on_snapshotted(&mut self, last: LogId) {
        // One that was begun before the leader's was installed, which is newer.
        if last.index <= self.log.snapshot().index {
            return;
        }
        let early = planted::on("compacted-before-snapshot-durable");
        let last = if early { self.log.id_at(self.log.applied()) } else { last };
        self.log.cover(last);
        let kept = last.index.saturating_sub(self.config.keep_entries);
        let ignored = planted::on("compaction-ignores-transfers");
        let through = if ignored { kept } else { kept.min(self.sent_snapshots()) };
        if through > self.log.compacted().index {
            self.log.compact(through);
            self.stage_compaction();
        }
    }

    /// The last entry of the oldest snapshot that is being sent: what comes after it will be needed.
    fn sent_snapshots(&self) -> Index {
        let Role::Leader(leader) = &self.role else { return Index::MAX };
        let sent = leader.progress.values().filter_map(|p| match p.stage {
            Stage::Snapshot { last } => Some(last.unwrap_or(self.log.compacted()).index),
            _ => None,
        });
        sent.min().unwrap_or(Index::MAX)
    }
}

// ---- the leader's end ----

impl Engine {
    /// The node has chosen or built the snapshot that a follower is sent.
    pub(crate) fn on_sending_snapshot(&mut self, to: NodeId, session: u64, chosen: LogId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(p) = leader.progress.get_mut(&to).filter(|p| p.session == session) else { return };
        if let Stage::Snapshot { last } = &mut p.stage {
            *last = Some(chosen);
        }
    }

    pub(crate) fn on_install_snapshot_answer(
        &mut self,
        from: NodeId,
        m: &InstallSnapshotAnswer,
        out: &mut Outputs,
    ) {
        let Some(p) = self.progress_of(from, m.term, m.have.session) else { return };
        if let Stage::Snapshot { .. } = p.stage {
            out.push(Output::SnapshotAnswered { from, have: m.have });
        }
    }
}

// ---- the follower's end ----

impl Engine {
    pub(crate) fn on_install_snapshot(
        &mut self,
        now: Instant,
        from: NodeId,
        m: Box<InstallSnapshot>,
        out: &mut Outputs,
    ) {
        if m.term < self.hard.term {
            let have =
                SnapshotProgress { session: m.session, nonce: m.nonce, offset: 0, gap: false };
            let answer = InstallSnapshotAnswer { term: self.hard.term, have };
            out.send(from, Message::InstallSnapshotAnswer(answer));
            return;
        }
        if !self.may_follow(from, m.witness, out) {
            return;
        }
        self.follow(now, from, m.promise, out);
        if m.last.index <= self.log.committed() && !planted::on("older-snapshot-installed") {
            // It has what the snapshot holds, and more: it says so instead.
            self.owe_acknowledgement(from, m.session);
            self.acknowledge(out);
        } else if m.witness && !self.hard_state_is_durable() {
            // A start that finds a snapshot has to know whether it is one without data. It is sent
            // again.
        } else {
            out.push(Output::StoreSnapshot { from, chunk: m });
        }
    }

    /// What became of a chunk is what the leader is told, if it still is the leader.
    pub(crate) fn on_snapshot_stored(
        &mut self,
        from: NodeId,
        have: SnapshotProgress,
        out: &mut Outputs,
    ) {
        if self.leader == Some(from) {
            let answer = InstallSnapshotAnswer { term: self.hard.term, have };
            out.send(from, Message::InstallSnapshotAnswer(answer));
        }
    }

    /// The leader's snapshot is durable here. It is of what is committed, whoever leads by now.
    pub(crate) fn on_snapshot_received(
        &mut self,
        from: NodeId,
        session: u64,
        last: LogId,
        configuration: (LogId, Membership),
        out: &mut Outputs,
    ) {
        let behind = last.index > self.log.committed();
        if behind && self.log.contains(last) && !planted::on("reset-without-need") {
            // The entries came meanwhile, by another leader's session: what it has is as good.
            self.log.commit(last.index);
            self.apply_committed(out);
        } else if behind || planted::on("older-snapshot-installed") {
            let own = self.log.configurations().last().cloned();
            let own = own.filter(|_| planted::on("snapshot-without-membership"));
            self.reset_log(last, own.unwrap_or(configuration));
        }
        if self.leader == Some(from) {
            self.owe_acknowledgement(from, session);
            self.acknowledge(out);
        }
    }

    /// The reset of the log is durable: the state machine follows.
    pub(crate) fn restore_when_durable(&mut self, out: &mut Outputs) {
        let durable = self.writes.durable_seq;
        if self.restore_after.take_if(|seq| *seq <= durable).is_some() {
            out.push(Output::Restore { last: self.log.compacted() });
            self.apply_committed(out);
        }
    }

    /// Has what is committed applied, but never before what the log begins with is restored.
    pub(crate) fn apply_committed(&mut self, out: &mut Outputs) {
        let mut through = self.log.committed();
        if self.config.apply_persisted {
            through = through.min(self.log.persisted());
        }
        let restored = self.restore_after.is_none() || planted::on("applied-before-restored");
        if restored && through > self.aimed_apply {
            self.aimed_apply = through;
            out.push_with(|| Output::Apply { through });
        }
    }
}

/// What no correct leader sends.
pub(crate) fn plausible(m: &InstallSnapshot) -> Result<(), &'static str> {
    let fits = m.offset.checked_add(m.data.len() as u64).is_some_and(|end| end <= m.bytes);
    if !fits || (m.data.is_empty() && m.bytes > 0) {
        return Err("a part that does not fit into its snapshot");
    }
    if m.last.term > m.term || m.configuration.0 > m.last || m.last.index == 0 {
        return Err("a snapshot of a later term than the leader's, or of nothing");
    }
    Ok(())
}
