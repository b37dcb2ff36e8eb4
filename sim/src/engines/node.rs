//! One simulated machine: an engine while it is up, its log, its disk, its clock.

use std::collections::{BTreeMap, VecDeque};

use quorate_engine::{
    Config, Engine, HardState, Index, Instant, Log, LogId, NodeId, StartError, Stream, StreamLimits,
};

use crate::engines::disk::Disk;
use crate::engines::image::LogImage;
use crate::engines::world::Event;

/// A clock that runs at its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Local nanoseconds per thousand nanoseconds of the world.
    pub rate: u64,
    /// What it showed at the beginning of the world.
    pub offset: u64,
}

impl Clock {
    /// What the clock shows at `world` nanoseconds.
    pub fn local(&self, world: u64) -> Instant {
        Instant::from_nanos(self.offset + (u128::from(world) * u128::from(self.rate) / 1000) as u64)
    }

    /// The first moment of the world at which the clock shows `local` or more.
    pub fn world(&self, local: Instant) -> u64 {
        let nanos = u128::from(local.as_nanos().saturating_sub(self.offset));
        (nanos * 1000).div_ceil(u128::from(self.rate)).min(u128::from(u64::MAX)) as u64
    }
}

/// One machine.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// The identity of its data directory.
    pub incarnation: u64,
    /// Whether its first disk was replaced by an empty one.
    pub wiped: bool,
    /// The engine; `None` while it is down.
    pub engine: Option<Engine>,
    /// The log in memory, with every write already in it: what replication streams read.
    pub log: LogImage,
    /// The disk, which has some of it.
    pub disk: Disk,
    /// How often it was started.
    pub life: u32,
    /// Its clock, which goes on through crashes.
    pub clock: Clock,
    /// The last entry its state machine has seen in this life.
    pub applied: Index,
    /// The engine stopped for good and said why.
    pub stopped: Option<String>,
    pub(crate) streams: BTreeMap<NodeId, Stream>,
    pub(crate) limits: StreamLimits,
    pub(crate) pumping: BTreeMap<NodeId, bool>,
    pub(crate) apply_target: Index,
    pub(crate) applying: bool,
    /// What arrived while the process was paused; `None` while it runs.
    pub(crate) paused: Option<VecDeque<Event>>,
    /// World time of the timer that is set, and its number: only the newest counts.
    pub(crate) wake: Option<(u64, u64)>,
    /// The disk completes nothing before this moment.
    pub(crate) hung_until: u64,
    /// Slows the disk down.
    pub(crate) disk_factor: u64,
}

impl Node {
    pub(crate) fn new(id: NodeId, incarnation: u64, clock: Clock, limits: StreamLimits) -> Self {
        Self {
            id,
            incarnation,
            wiped: false,
            engine: None,
            log: LogImage::default(),
            disk: Disk::default(),
            life: 0,
            clock,
            applied: 0,
            stopped: None,
            streams: BTreeMap::new(),
            limits,
            pumping: BTreeMap::new(),
            apply_target: 0,
            applying: false,
            paused: None,
            wake: None,
            hung_until: 0,
            disk_factor: 1,
        }
    }

    /// Starts from what the disk has.
    ///
    /// # Errors
    /// When the engine refuses what it is given.
    pub(crate) fn start(&mut self, config: Config, now: Instant) -> Result<(), StartError> {
        let image = self.disk.durable().clone();
        let blank = image.log.last() == LogId::ZERO && image.hard == HardState::default();
        let log = if blank {
            Log::empty()
        } else {
            let configurations = image.log.configurations();
            Log::recovered(LogId::ZERO, image.log.last(), image.log.runs(), configurations)
                .expect("a simulated disk does not make logs up")
        };
        self.log = image.log;
        self.life += 1;
        self.applied = 0;
        self.apply_target = 0;
        self.engine = Some(Engine::new(config, image.hard, log, now)?);
        Ok(())
    }

    /// The process is gone, with everything in memory.
    pub(crate) fn kill(&mut self) {
        self.engine = None;
        self.streams.clear();
        self.pumping.clear();
        self.applying = false;
        self.paused = None;
        self.wake = None;
    }

    /// Whether it takes part: up, not stopped, not paused.
    pub fn is_running(&self) -> bool {
        self.engine.is_some() && self.stopped.is_none() && self.paused.is_none()
    }

    /// Whether this node takes itself for the leader.
    pub fn leads(&self) -> bool {
        self.engine.as_ref().is_some_and(|e| e.role() == quorate_engine::RoleKind::Leader)
    }
}
