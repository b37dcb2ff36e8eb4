//! What the snapshot worker of a node will do: builds snapshots, sends them, receives them.
//!
//! A snapshot is sent in parts, a few at a time, and the sender goes on with the one it has begun with
//! though there may be newer ones. What does not get there is sent again; where nothing moves for
//! long, the sending is given up, and the engine decides anew. Parts that have arrived are in memory
//! until the last one has; then the whole becomes durable after a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::message::{InstallSnapshot, SnapshotProgress};
use quorate_engine::{Engine, Input, LogId, Membership, Message, NodeId, Term};

use crate::engines::check::Fact;
use crate::engines::event::Event;
use crate::engines::snapshot::Snapshot;
use crate::engines::world::World;

/// How many parts are under way to one follower.
const WINDOW: u64 = 3;

/// How often nothing may have moved before a sending is given up.
const PATIENCE: u32 = 5;

/// Where a snapshot is from.
#[derive(Debug)]
pub(crate) enum Source {
    /// The node's own state machine.
    Built,
    /// A leader.
    Received {
        /// The leader.
        from: NodeId,
        /// The session of the last part.
        session: u64,
        /// The configuration that the leader named.
        configuration: (LogId, Membership),
    },
}

/// The snapshots that a node is busy with; gone with its process.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    building: bool,
    /// By follower.
    sending: BTreeMap<NodeId, Sending>,
    receiving: Option<Receiving>,
}

#[derive(Debug)]
struct Sending {
    term: Term,
    session: u64,
    witness: bool,
    /// The snapshot that it has begun with.
    snapshot: Arc<Snapshot>,
    data: Bytes,
    /// The engine knows which it is.
    is_told: bool,
    /// The follower has everything below.
    acknowledged: u64,
    /// Everything below was sent.
    sent: u64,
    /// The follower misses what is behind this.
    gap: Option<u64>,
    /// Whether anything has moved since it was last looked after, and for how long nothing has.
    has_moved: bool,
    idle: u32,
}

#[derive(Debug)]
struct Receiving {
    nonce: u64,
    last: LogId,
    data: Vec<u8>,
}

impl Transfers {
    /// The last entries of the snapshots that the engine knows to be on their way.
    pub(crate) fn sent(&self) -> impl Iterator<Item = LogId> {
        self.sending.values().filter(|s| s.is_told).map(|s| s.snapshot.last())
    }
}

impl World {
    /// Begins a snapshot of what is applied, if it is time for another.
    pub(crate) fn build_if_due(&mut self, id: NodeId) {
        let Some(every) = self.plan.snapshot_entries else { return };
        let node = self.nodes.get_mut(id);
        let newest = node.disk.durable().snapshot.last().index;
        if node.transfers.building || node.applied < newest + every {
            return;
        }
        // One without data is found by a start that has to know why.
        let known = |e: &Engine| !e.hard_state().witness || e.hard_state_is_durable();
        if !node.engine.as_ref().is_some_and(known) {
            return;
        }
        node.transfers.building = true;
        let nonce = self.snapshots.number();
        let snapshot = Snapshot::of(&node.log, node.applied, node.state, nonce);
        self.write_snapshot(id, snapshot, Source::Built);
    }

    /// A snapshot becomes durable, in its own time.
    fn write_snapshot(&mut self, id: NodeId, snapshot: Snapshot, source: Source) {
        let (low, high) = self.plan.sync_us;
        let takes = self.snapshots.between(low, 10 * high) * 1_000;
        let node = self.nodes.get(id);
        // A sync that is slow or hangs may be that of the log alone: the snapshot may be durable
        // before the write that says which term it is of.
        let own_pace = self.snapshots.chance(300);
        let at = if own_pace { self.time + takes } else { node.disk_done(self.time, takes) };
        let (life, snapshot) = (node.life, Arc::new(snapshot));
        let durable = Event::SnapshotDurable { node: id, life, snapshot, source };
        self.schedule(at - self.time, durable);
    }

    pub(crate) fn on_snapshot_durable(
        &mut self,
        id: NodeId,
        snapshot: Arc<Snapshot>,
        source: Source,
    ) {
        let node = self.nodes.get_mut(id);
        match source {
            Source::Built => node.transfers.building = false,
            Source::Received { .. } => {
                node.transfers.receiving.take_if(|r| r.nonce == snapshot.nonce());
            }
        }
        if self.time < node.full_until {
            // There is no room for it. It was not needed yet: another will be built or sent.
            return;
        }
        let last = snapshot.last();
        node.disk.keep_snapshot(snapshot);
        let input = match source {
            Source::Built => {
                self.statistics.snapshots_built += 1;
                Input::Snapshotted { last }
            }
            Source::Received { from, session, configuration } => {
                Input::SnapshotReceived { from, session, last, configuration }
            }
        };
        self.input(id, input);
        // Not before: what the log has and the snapshot contradicts, the engine knows of only now.
        self.tell(&Fact::Synced { node: id });
    }

    // ---- the leader's end ----

    /// Begins to send the newest snapshot; with session 0 stops sending.
    pub(crate) fn send_snapshot(
        &mut self,
        id: NodeId,
        to: NodeId,
        (term, session): (Term, u64),
        witness: bool,
    ) {
        let node = self.nodes.get_mut(id);
        node.transfers.sending.remove(&to);
        if session == 0 {
            return;
        }
        let mut snapshot = node.disk.durable().snapshot.clone();
        if witness {
            snapshot = Arc::new(snapshot.without_data());
        }
        let data = snapshot.to_bytes();
        let sending = Sending {
            term,
            session,
            witness,
            snapshot,
            data,
            is_told: false,
            acknowledged: 0,
            sent: 0,
            gap: None,
            has_moved: true,
            idle: 0,
        };
        node.transfers.sending.insert(to, sending);
        self.statistics.snapshots_sent += 1;
        let delay = self.snapshots.between(1_000, 5_000_000);
        self.look_after_later(id, to, session, delay);
    }

    fn look_after_later(&mut self, id: NodeId, to: NodeId, session: u64, delay: u64) {
        let life = self.nodes.get(id).life;
        self.schedule(delay, Event::SendSnapshot { node: id, life, to, session });
    }

    /// The sending task's turn: says which snapshot it is, sends again what got lost, or gives up.
    pub(crate) fn look_after(&mut self, id: NodeId, to: NodeId, session: u64) {
        let transfers = &mut self.nodes.get_mut(id).transfers;
        let Some(s) = transfers.sending.get_mut(&to).filter(|s| s.session == session) else {
            return;
        };
        let first = !std::mem::replace(&mut s.is_told, true);
        s.idle = if std::mem::take(&mut s.has_moved) { 0 } else { s.idle + 1 };
        if s.idle > PATIENCE {
            transfers.sending.remove(&to);
            self.input(id, Input::Lost { to, session });
            return;
        }
        if let Some(offset) = s.gap.take() {
            s.acknowledged = offset;
            s.sent = offset;
        } else if s.idle > 0 {
            s.sent = s.acknowledged;
        }
        let last = s.snapshot.last();
        if first {
            self.input(id, Input::SendingSnapshot { to, session, last });
        }
        self.send_parts(id, to);
        let delay = self.plan.election_min.as_nanos() as u64;
        self.look_after_later(id, to, session, delay);
    }

    /// Sends what the window allows.
    fn send_parts(&mut self, id: NodeId, to: NodeId) {
        let promise = self.plan.election_min;
        let parts = self.plan.snapshot_parts;
        let mut messages = Vec::new();
        if let Some(s) = self.nodes.get_mut(id).transfers.sending.get_mut(&to) {
            let bytes = s.data.len() as u64;
            let part = bytes.div_ceil(parts);
            let configuration = s.snapshot.configuration().expect("a group begins with one");
            while s.sent < bytes && s.sent < s.acknowledged + WINDOW * part {
                let end = bytes.min(s.sent + part);
                messages.push(InstallSnapshot {
                    term: s.term,
                    session: s.session,
                    last: s.snapshot.last(),
                    configuration: configuration.clone(),
                    nonce: s.snapshot.nonce(),
                    bytes,
                    offset: s.sent,
                    data: s.data.slice(s.sent as usize..end as usize),
                    // Nothing is altered on the way here.
                    checksum: 0,
                    promise,
                    witness: s.witness,
                });
                s.sent = end;
            }
        }
        for message in messages {
            self.send(id, to, Message::InstallSnapshot(Box::new(message)));
        }
    }

    /// A follower says what it has.
    pub(crate) fn on_snapshot_answered(
        &mut self,
        id: NodeId,
        from: NodeId,
        have: SnapshotProgress,
    ) {
        let Some(s) = self.nodes.get_mut(id).transfers.sending.get_mut(&from) else { return };
        if (s.session, s.snapshot.nonce()) != (have.session, have.nonce) {
            return;
        }
        if have.offset > s.acknowledged {
            s.acknowledged = have.offset;
            s.sent = s.sent.max(have.offset);
            s.has_moved = true;
            self.send_parts(id, from);
        } else if have.gap {
            // Looked after later: of many parts behind a gap each is answered so.
            s.gap = Some(have.offset);
        }
    }

    // ---- the follower's end ----

    pub(crate) fn store_part(&mut self, id: NodeId, from: NodeId, part: InstallSnapshot) {
        let node = self.nodes.get_mut(id);
        let receiving = &mut node.transfers.receiving;
        let is_of_it = |r: &Receiving| (r.nonce, r.last) == (part.nonce, part.last);
        if part.offset == 0 && !receiving.as_ref().is_some_and(is_of_it) {
            *receiving = Some(Receiving { nonce: part.nonce, last: part.last, data: Vec::new() });
        }
        let mut stored =
            SnapshotProgress { session: part.session, nonce: part.nonce, offset: 0, gap: true };
        let mut complete = None;
        if let Some(r) = receiving.as_mut().filter(|r| is_of_it(r)) {
            let here = r.data.len() as u64;
            if part.offset == here && here < part.bytes {
                r.data.extend_from_slice(&part.data);
                if r.data.len() as u64 == part.bytes {
                    let all = Bytes::copy_from_slice(&r.data);
                    complete = Some(Snapshot::from_bytes(&all, r.nonce));
                }
            }
            stored.offset = r.data.len() as u64;
            stored.gap = part.offset > here;
        }
        let life = node.life;
        let delay = self.snapshots.between(1_000, 1_000_000);
        self.schedule(delay, Event::PartStored { node: id, life, from, stored });
        if let Some(snapshot) = complete {
            let snapshot = snapshot.expect("what was sent in parts is whole again");
            let (session, configuration) = (part.session, part.configuration);
            let source = Source::Received { from, session, configuration };
            self.write_snapshot(id, snapshot, source);
        }
    }
}
