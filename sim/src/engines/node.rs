//! One simulated machine: an engine while it is up, its log, its disk, its clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_engine::{
    Config, Engine, HardState, Index, Instant, Log, LogId, NodeId, StartError, Stream, StreamLimits,
};

use crate::engines::disk::Disk;
use crate::engines::event::Event;
use crate::engines::image::{Image, LogImage};
use crate::engines::snapshot::{Snapshot, State};
use crate::engines::transfers::Transfers;

/// A clock that runs at its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Local nanoseconds per thousand nanoseconds of the world.
    rate: u64,
    /// What it showed at `since`, a moment of the world.
    shown: u64,
    since: u64,
}

impl Clock {
    /// A clock that shows `offset` at the beginning of the world and goes at `rate` nanoseconds per
    /// thousand of the world's.
    ///
    /// # Panics
    /// If `rate` is 0: a clock that stands still never shows what a timer waits for.
    pub fn new(rate: u64, offset: u64) -> Self {
        assert!(rate > 0, "a clock goes forward");
        Self { rate, shown: offset, since: 0 }
    }

    /// What the clock shows at `world` nanoseconds, not before it was last changed.
    pub fn local(&self, world: u64) -> Instant {
        let gone = u128::from(world - self.since) * u128::from(self.rate) / 1000;
        Instant::from_nanos(self.shown + gone as u64)
    }

    /// The first moment of the world at which the clock shows `local` or more.
    pub fn world(&self, local: Instant) -> u64 {
        let nanos = u128::from(local.as_nanos().saturating_sub(self.shown));
        let gone = (nanos * 1000).div_ceil(u128::from(self.rate));
        self.since.saturating_add(gone.min(u128::from(u64::MAX)) as u64)
    }

    pub(crate) fn jump(&mut self, nanos: u64) {
        self.shown += nanos;
    }

    pub(crate) fn set_rate(&mut self, world: u64, rate: u64) {
        *self = Self { rate, shown: self.local(world).as_nanos(), since: world };
    }

    pub(crate) fn is_skewed(&self) -> bool {
        self.rate != 1000
    }
}

/// How a disk lost what it had synced; see [`Fault::forgets`](crate::Fault::forgets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgot {
    /// It was replaced by an empty one, with another identity.
    Everything,
    /// An old copy was put back.
    WhatCameAfterACopy,
}

/// One machine.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The identity of its data directory.
    pub incarnation: u64,
    /// How its disk lost what it had synced, if it did.
    pub forgot: Option<Forgot>,
    /// The log that its disk had before that; empty if it never forgot.
    pub forgotten: LogImage,
    /// The engine; `None` while it is down.
    pub engine: Option<Engine>,
    /// The log in memory, with every write already in it: what replication streams read.
    pub log: LogImage,
    /// The disk, which has some of it.
    pub(crate) disk: Disk,
    /// How often it was started.
    pub life: u32,
    /// Its clock, which goes on through crashes.
    pub clock: Clock,
    /// The last entry whose effect its state machine has.
    pub applied: Index,
    /// The state of its state machine.
    pub state: State,
    /// The engine stopped for good and said why.
    pub stopped: Option<String>,
    pub(crate) streams: BTreeMap<NodeId, Stream>,
    pub(crate) limits: StreamLimits,
    pub(crate) pumping: BTreeMap<NodeId, bool>,
    pub(crate) apply_target: Index,
    pub(crate) applying: bool,
    /// The state machine is to take over this snapshot before it applies anything else.
    pub(crate) to_restore: Option<Arc<Snapshot>>,
    pub(crate) transfers: Transfers,
    /// What arrived while the process was paused; `None` while it runs.
    pub(crate) paused: Option<VecDeque<Event>>,
    /// World time of the timer that is set, and its number: only the newest counts.
    pub(crate) wake: Option<(u64, u64)>,
    /// The disk completes nothing before this moment.
    pub(crate) hung_until: u64,
    /// Until `.0` the disk is so many times slower.
    pub(crate) slow: (u64, u64),
    /// The state machine applies nothing before this moment.
    pub(crate) machine_stalls_until: u64,
    /// The disk takes no write before this moment.
    pub(crate) full_until: u64,
    /// The next sync fails: of what it covers, so many of a thousand writes are done anyway, and the
    /// node is down for so many milliseconds.
    pub(crate) sync_fails: Option<(u64, u64)>,
    /// An old copy of the disk, to be put back.
    pub(crate) copy: Option<Image>,
}

impl Node {
    pub(crate) fn new(id: NodeId, incarnation: u64, clock: Clock, limits: StreamLimits) -> Self {
        Self {
            id,
            incarnation,
            forgot: None,
            forgotten: LogImage::default(),
            engine: None,
            log: LogImage::default(),
            disk: Disk::new(id),
            life: 0,
            clock,
            applied: 0,
            state: State::default(),
            stopped: None,
            streams: BTreeMap::new(),
            limits,
            pumping: BTreeMap::new(),
            apply_target: 0,
            applying: false,
            to_restore: None,
            transfers: Transfers::default(),
            paused: None,
            wake: None,
            hung_until: 0,
            machine_stalls_until: 0,
            slow: (0, 1),
            full_until: 0,
            sync_fails: None,
            copy: None,
        }
    }

    /// Starts from what the disk has.
    ///
    /// # Errors
    /// When the engine refuses what it is given.
    pub(crate) fn start(&mut self, config: Config, now: Instant) -> Result<(), StartError> {
        let Image { hard, log: found, snapshot } = self.disk.recover().clone();
        let blank = found.last() == LogId::ZERO && hard == HardState::default();
        let log = if blank {
            Log::empty()
        } else {
            let (compacted, configurations) = (found.compacted(), found.configurations());
            let log = Log::recovered(compacted, found.last(), found.runs(), configurations);
            log.and_then(|log| log.restored(snapshot.last()))
                .expect("a simulated disk does not make logs up")
        };
        self.log = found;
        self.life += 1;
        self.applied = snapshot.last().index;
        self.state = snapshot.state();
        self.apply_target = self.applied;
        self.engine = Some(Engine::new(config, hard, log, now)?);
        Ok(())
    }

    /// The process is gone, with everything in memory.
    pub(crate) fn kill(&mut self) {
        self.engine = None;
        self.streams.clear();
        self.pumping.clear();
        self.applying = false;
        self.to_restore = None;
        self.transfers = Transfers::default();
        self.paused = None;
        self.wake = None;
    }

    /// Whether its log is that of a witness: its state machine is given nothing, and shows nothing.
    pub fn is_witness(&self) -> bool {
        self.engine.as_ref().map_or(self.disk.durable().hard, |e| e.hard_state()).witness
    }

    /// Whether its state machine lacks what its log has compacted.
    pub(crate) fn is_behind_its_log(&self) -> bool {
        self.applied < self.log.compacted().index
    }

    /// When its disk is done with what takes so long at its usual pace, begun at this moment of the
    /// world: slower as long as it is slow.
    pub(crate) fn disk_done(&self, world: u64, takes: u64) -> u64 {
        let (until, times) = self.slow;
        let at_first = (until.saturating_sub(world) / times).min(takes);
        let done = if at_first < takes {
            until.max(world) + takes - at_first
        } else {
            world + takes * times
        };
        done.max(self.hung_until)
    }

    /// Whether it takes part: up, not stopped, not paused.
    pub fn is_running(&self) -> bool {
        self.engine.is_some() && self.stopped.is_none() && self.paused.is_none()
    }

    /// Whether a log that its disk kept has something: the one there is, or the one that it forgot.
    pub fn once_kept(&self, has: impl Fn(&LogImage) -> bool) -> bool {
        has(self.disk.durable().recovered()) || has(&self.forgotten)
    }

    pub(crate) fn forget(&mut self, how: Forgot) {
        self.forgot = Some(how);
        self.forgotten = self.disk.durable().recovered().clone();
    }

    /// Whether it may be started: down, and not stopped for good.
    pub(crate) fn is_down(&self) -> bool {
        self.engine.is_none() && self.stopped.is_none()
    }

    /// Whether this node takes itself for the leader.
    pub fn leads(&self) -> bool {
        self.engine.as_ref().is_some_and(|e| e.role() == quorate_engine::RoleKind::Leader)
    }
}
