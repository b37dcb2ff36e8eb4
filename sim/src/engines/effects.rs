//! One step of one engine, and what its outputs do: to the disk, to the network, to the tasks that a
//! node has around its engine.

use bytes::Bytes;
use quorate_engine::{Index, Input, LogId, Message, NodeId, Notice, Output, Replicate, Stream};

use crate::engines::check::Fact;
use crate::engines::event::Event;
use crate::engines::node::Forgot;
use crate::engines::world::World;
use crate::sabotage::Sabotage;
use crate::sequence::Fate;

impl World {
    /// Gives one input to one engine and carries out what comes of it.
    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        self.say(id, format_args!("<- {input}"));
        let node = self.nodes.get_mut(id);
        if node.stopped.is_some() {
            return;
        }
        let led = node.leads();
        let now = node.clock.local(self.time);
        let Some(engine) = &mut node.engine else { return };
        let mut outputs = std::mem::take(&mut self.outputs);
        engine.step(now, input, &mut outputs);
        self.statistics.steps += 1;
        if !led && self.nodes.get(id).leads() {
            self.statistics.elections += 1;
        }
        for output in outputs.drain() {
            // A write that is refused ends the process; nothing of what follows is carried out.
            if self.nodes.get(id).engine.is_some() {
                self.carry_out(id, output);
            }
        }
        self.outputs = outputs;
        if self.nodes.get(id).engine.is_some() {
            self.tell(&Fact::Stepped { node: id });
            self.set_timer(id);
        }
    }

    pub(crate) fn set_timer(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        let Some(engine) = &node.engine else { return };
        let Some(deadline) = engine.deadline() else {
            node.wake = None;
            return;
        };
        let at = node.clock.world(deadline).max(self.time + 1);
        if node.wake.is_some_and(|(set, _)| set == at) {
            return;
        }
        self.wakes += 1;
        let number = self.wakes;
        node.wake = Some((at, number));
        self.schedule(at - self.time, Event::Wake { node: id, number });
    }

    fn carry_out(&mut self, id: NodeId, output: Output) {
        self.say(id, format_args!("-> {output}"));
        match output {
            Output::Persist(write) => {
                let node = self.nodes.get(id);
                if self.time < node.full_until {
                    let (until, life) = (node.full_until, node.life);
                    // What was written before stays: the process ends, not the machine.
                    self.crash(id, 1000, "a write is refused, the disk is full");
                    self.schedule(until - self.time, Event::Restart { node: id, life });
                    return;
                }
                self.tell(&Fact::Writing { node: id, write: &write });
                if self.sabotage == Some(Sabotage::DiskLies) {
                    let (life, seq) = (self.nodes.get(id).life, write.seq);
                    self.schedule(0, Event::FalselyPersisted { node: id, life, seq });
                }
                let node = self.nodes.get_mut(id);
                node.log.write(&write, &node.disk.durable().snapshot);
                node.disk.submit(write);
                self.sync(id);
            }
            Output::Send { to, message } => self.send(id, to, message),
            Output::Replicate(target) => self.aim(id, target),
            Output::SendSnapshot { to, term, session, witness } => {
                self.send_snapshot(id, to, (term, session), witness);
            }
            Output::SnapshotAnswered { from, have } => self.on_snapshot_answered(id, from, have),
            Output::StoreSnapshot { from, chunk } => self.store_part(id, from, *chunk),
            Output::Restore { .. } => {
                let node = self.nodes.get_mut(id);
                node.to_restore = Some(node.disk.durable().snapshot.clone());
                self.apply_later(id);
            }
            Output::Apply { through } => {
                let node = self.nodes.get_mut(id);
                node.apply_target = through;
                if node.is_behind_its_log() && node.to_restore.is_none() {
                    let what =
                        format!("node {id} is to apply through {through}, and to restore nothing");
                    self.fail("State Machine Safety", what);
                }
                self.apply_later(id);
            }
            Output::Proposed { first, count } => self.on_proposed(id, first, count),
            Output::Declined(_) => self.clients.declined(),
            Output::ReadReady { token, index } => {
                self.clients.read_answered(token, true);
                self.statistics.reads += 1;
                self.tell(&Fact::ReadServed { token, index });
            }
            Output::ReadFailed { token } => self.clients.read_answered(token, false),
            Output::Configured { id: entry, membership } => {
                if let Some(membership) = membership {
                    self.note(id, format_args!("configured {entry} {membership}"));
                }
            }
            Output::Changing { .. } => {
                self.statistics.changes += 1;
                if let Some((seen, newest)) = self.asked_for.filter(|(seen, now)| seen != now) {
                    let what = format!("{id} changes {newest}, the operator has seen {seen}");
                    self.fail("a change is made to what was seen", what);
                }
            }
            Output::TransferEnded { .. } => self.statistics.transfers_ended += 1,
            Output::Removed { .. } => self.statistics.removed += 1,
            Output::Refilled { .. } => {}
            Output::Recovered { .. } => unreachable!("nobody recovers a group here"),
            Output::Changed { role, term, .. } => {
                self.note(id, format_args!("is {role} in term {term}"));
            }
            Output::Noticed { peer, what } => {
                // Every peer here is correct, unless its disk forgot: to accuse one is a bug. Of
                // two that do not know each other either may have another disk than it had.
                let wiped = |id| self.nodes.get(id).forgot == Some(Forgot::Everything);
                let excused = match what {
                    Notice::Stranger | Notice::RefusesUs => wiped(id) || wiped(peer),
                    Notice::LostEntries => self.nodes.get(id).forgot.is_some(),
                    _ => self.nodes.get(peer).forgot.is_some(),
                };
                if !excused {
                    self.fail("no correct peer is accused", format!("{id} of {peer}: {what}"));
                }
            }
            Output::Fatal(fatal) => {
                self.nodes.get_mut(id).stopped = Some(fatal.to_string());
                self.statistics.refused += 1;
                if self.nodes.get(id).forgot != Some(Forgot::Everything) {
                    self.fail("no correct node stops", format!("{id}: {fatal}"));
                }
            }
        }
    }

    // ---- disks ----

    fn sync(&mut self, id: NodeId) {
        let (low, high) = self.plan.sync_us;
        let node = self.nodes.get_mut(id);
        if !node.disk.begin_sync() {
            return;
        }
        let at = node.disk_done(self.time, self.rng.between(low, high) * 1_000);
        let life = node.life;
        self.schedule(at - self.time, Event::SyncDone { node: id, life });
    }

    pub(crate) fn on_sync_done(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        if let Some((keep, down_ms)) = node.sync_fails.take() {
            // The first failed sync ends the node; it is never tried again.
            let life = node.life;
            self.crash(id, keep, "a sync fails");
            self.schedule(down_ms * 1_000_000, Event::Restart { node: id, life });
            return;
        }
        let Some(seq) = node.disk.end_sync() else { return };
        self.tell(&Fact::Synced { node: id });
        self.sync(id);
        if self.sabotage != Some(Sabotage::DiskLies) {
            self.input(id, Input::Persisted { seq });
        }
    }

    // ---- messages ----

    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, mut message: Message) {
        self.tell(&Fact::Sent { node: from, to, message: &message });
        if self.sabotage.is_some() {
            self.alter(&mut message);
        }
        let incarnation = self.nodes.get(from).incarnation;
        let sent = self.time;
        let deliver = |message| {
            let message = Box::new(message);
            Event::Deliver { to, from, incarnation, sent, message }
        };
        match self.network.carry(sent, from, to) {
            [Some(at), again] => {
                if let Some(again) = again {
                    self.schedule(again - sent, deliver(message.clone()));
                }
                self.schedule(at - sent, deliver(message));
            }
            [None, _] => {
                self.record(sent, from, to, Fate::Lost, &message);
                let Message::AppendEntries(m) = message else { return };
                if self.rng.chance(500) {
                    let (life, session) = (self.nodes.get(from).life, m.session);
                    let delay = self.rng.between(1_000, 50_000_000);
                    self.schedule(delay, Event::Lost { node: from, life, to, session });
                }
            }
        }
    }

    /// What [`Sabotage`] does to messages under way.
    fn alter(&mut self, message: &mut Message) {
        match (self.sabotage, message) {
            (Some(Sabotage::AcknowledgementsAltered), Message::AppendEntriesAnswer(m))
                if m.conflict.is_none() && m.matched > 0 && self.rng.chance(100) =>
            {
                m.matched += 1;
            }
            (Some(Sabotage::VotesAltered), Message::RequestVoteAnswer(m)) if !m.granted => {
                // A pre-vote that is granted names the term that was asked for.
                m.term += u64::from(m.pre);
                m.granted = true;
            }
            _ => {}
        }
    }

    // ---- replication streams and the apply worker: what the node's tasks will be ----

    fn aim(&mut self, id: NodeId, target: Replicate) {
        let node = self.nodes.get_mut(id);
        let limits = node.limits;
        node.streams.entry(target.to).or_insert_with(|| Stream::new(limits)).aim(target);
        self.pump_later(id, target.to);
    }

    fn pump_later(&mut self, id: NodeId, to: NodeId) {
        let node = self.nodes.get_mut(id);
        if !std::mem::replace(node.pumping.entry(to).or_insert(false), true) {
            let life = node.life;
            let delay = self.rng.between(500, 200_000);
            self.schedule(delay, Event::Pump { node: id, life, to });
        }
    }

    pub(crate) fn pump(&mut self, id: NodeId, to: NodeId) {
        let node = self.nodes.get_mut(id);
        node.pumping.insert(to, false);
        let Some(stream) = node.streams.get_mut(&to) else { return };
        let Some(want) = stream.want() else { return };
        if want.after.index < node.log.compacted().index {
            let session = stream.session();
            self.input(id, Input::Lost { to, session });
            return;
        }
        // Another leader may have replaced the entries meanwhile; a new target will come.
        let Some(blocks) = node.log.read(want.after, want.through, want.max_bytes) else { return };
        if blocks.is_empty() && want.through > want.after.index {
            return;
        }
        let append = stream.send(blocks);
        let sent = stream.sent();
        self.send(id, to, Message::AppendEntries(append));
        if let Some((session, through)) = sent {
            self.input(id, Input::Sent { to, session, through });
        }
        self.pump_later(id, to);
    }

    fn apply_later(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        if !std::mem::replace(&mut node.applying, true) {
            let life = node.life;
            let delay = self.rng.between(1_000, 3_000_000);
            self.schedule(delay, Event::Apply { node: id, life });
        }
    }

    pub(crate) fn apply(&mut self, id: NodeId) {
        let early = self.sabotage == Some(Sabotage::AppliedEarly);
        let node = self.nodes.get_mut(id);
        if node.machine_stalls_until > self.time {
            let (delay, life) = (node.machine_stalls_until - self.time, node.life);
            self.schedule(delay, Event::Apply { node: id, life });
            return;
        }
        node.applying = false;
        self.restore(id);
        let node = self.nodes.get(id);
        let until = match early {
            // The log was reset meanwhile: what it begins with comes next.
            _ if node.is_behind_its_log() => node.applied,
            true => node.log.last().index,
            false => node.apply_target,
        };
        for index in node.applied + 1..=until {
            self.apply_one(id, index);
        }
        let node = self.nodes.get(id);
        let through = if early { node.apply_target } else { node.applied };
        self.build_if_due(id);
        self.input(id, Input::Applied { through });
    }

    /// The state machine takes over the snapshot that the log begins with, if it has yet to.
    fn restore(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(id);
        let Some(snapshot) = node.to_restore.take() else { return };
        let last = snapshot.last();
        node.applied = last.index;
        node.state = snapshot.state();
        self.statistics.snapshots_installed += 1;
        self.clients.skip(id, last.index);
        if !self.nodes.get(id).is_witness() {
            self.tell(&Fact::Restored { node: id, last });
        }
    }

    fn apply_one(&mut self, id: NodeId, index: Index) {
        let node = self.nodes.get_mut(id);
        let Some(block) = node.log.block_at(index) else {
            self.fail("State Machine Safety", format!("node {id} has nothing at {index}"));
            return;
        };
        let (entry, kind) = (LogId::new(block.term(), index), block.kind());
        let place = (index - block.first()) as usize;
        let payload = Bytes::copy_from_slice(block.entries().nth(place).unwrap_or_default());
        node.applied = index;
        if node.is_witness() {
            return;
        }
        node.state = node.state.after(entry, &payload);
        self.tell(&Fact::Applied { node: id, id: entry, kind, payload: &payload });
        self.answer(id, entry);
    }
}
