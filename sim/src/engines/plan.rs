//! What a seed stands for: how large the cluster is, how bad its world, for how long.

use std::time::Duration;

use quorate_engine::StreamLimits;

use crate::engines::network::Weather;
use crate::engines::node::Clock;
use crate::fault::{Fault, Planned, Rates};
use crate::reduction::{Outline, Reduction, Trouble};
use crate::rng::Rng;

/// The circumstances of one simulated world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many nodes, 1 to 9.
    pub nodes: usize,
    /// How many of them, the first ones, the group begins with; the others may be added.
    pub members: usize,
    /// Whether the last of the first members is a witness.
    pub witness: bool,
    /// How much each node is preferred as the leader.
    pub priorities: Vec<u32>,
    /// Heartbeat interval.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// The network while faults last.
    pub weather: Weather,
    /// Each node's clock.
    pub clocks: Vec<Clock>,
    /// Limits of the replication streams: small ones meet full windows.
    pub limits: StreamLimits,
    /// Bytes that a leader may have uncommitted.
    pub max_uncommitted_bytes: u64,
    /// Bytes that a leader may have committed and not applied.
    pub max_unapplied_bytes: u64,
    /// After how many entries a node builds another snapshot; `None` is never.
    pub snapshot_entries: Option<u64>,
    /// How many entries before its newest snapshot a node keeps.
    pub keep_entries: u64,
    /// Whether nodes apply only what their own disk has, as for a state machine with a disk.
    pub apply_persisted: bool,
    /// In how many parts a snapshot is sent.
    pub snapshot_parts: u64,
    /// Shortest and longest sync, in microseconds.
    pub sync_us: (u64, u64),
    /// Whether data directories have an identity.
    pub incarnations: bool,
    /// What goes wrong, in order of time.
    pub faults: Vec<Planned>,
    /// Entries of `faults` that are left out, by their place.
    pub left_out: Vec<usize>,
    /// Mean time between client requests, in microseconds.
    pub request_every_us: u64,
    /// How long faults last, in the world's time.
    pub duration: Duration,
    /// Whether two nodes are told to begin the same group.
    pub two_beginnings: bool,
}

impl Plan {
    /// Syncs of a quick disk.
    pub const QUICK_SYNC_US: (u64, u64) = (20, 100);

    /// Appends and windows that hold whatever a world writes in a moment.
    const ROOMY_LIMITS: StreamLimits = StreamLimits { append_bytes: 4096, window_bytes: 1 << 20 };

    /// More than a world leaves uncommitted, or unapplied.
    const ROOMY_UNCOMMITTED: u64 = 64 << 20;

    /// The circumstances that `seed` stands for.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "plan");
        let members: usize = rng.pick(&[1, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5, 6, 7, 8, 9]);
        // What operators do has a stream of its own.
        let mut operators = Rng::stream(seed, "operators");
        let spare = operators.pick(&[0, 0, 1, 2, 3]);
        let nodes = (members + spare).min(9).max(members);
        let witness = members >= 3 && operators.chance(200);
        let preferences = operators.chance(200);
        let priorities =
            (0..nodes).map(|_| if preferences { operators.below(3) as u32 } else { 0 }).collect();
        let fast = rng.chance(500);
        let (heartbeat, min, max) = if fast { (50, 150, 300) } else { (100, 500, 1000) };
        let duration = if fast { 6_000 } else { 15_000 };
        let skewed = rng.chance(400);
        let clocks = (0..nodes)
            .map(|_| {
                let rate = if skewed { rng.between(800, 1250) } else { 1000 };
                Clock::new(rate, rng.below(1_000_000_000_000))
            })
            .collect();
        let weather = if rng.chance(250) {
            Weather::FAIR
        } else {
            Weather {
                drop: rng.pick(&[0, 0, 10, 50, 200]),
                duplicate: rng.pick(&[0, 10, 100]),
                delay_min_us: rng.pick(&[50, 500]),
                delay_max_us: rng.pick(&[1_000, 5_000, 20_000, 60_000]),
                straggle: rng.pick(&[0, 10, 50]),
                reorder: rng.chance(500),
            }
        };
        let mut machines = Rng::stream(seed, "machines");
        let rates = Rates::draw(max, &mut rng)
            .with_operators(max, &mut operators)
            .with_slow_machines(max, &mut machines);
        let mut snapshots = Rng::stream(seed, "snapshots of the plan");
        // Most clusters come to be in peace: what nobody ever led can't break.
        let quiet = rng.pick(&[0, 2, 4, 4]) * max;
        Self {
            nodes,
            members,
            witness,
            priorities,
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
            weather,
            clocks,
            limits: StreamLimits {
                append_bytes: rng.pick(&[64, 300, 4096, 256 << 10]),
                window_bytes: rng.pick(&[64, 1000, 1 << 20]),
            },
            max_uncommitted_bytes: rng.pick(&[1_000, 20_000, Self::ROOMY_UNCOMMITTED]),
            max_unapplied_bytes: machines.pick(&[1_000, 20_000, Self::ROOMY_UNCOMMITTED]),
            snapshot_entries: snapshots.pick(&[None, Some(20), Some(100), Some(500)]),
            keep_entries: snapshots.pick(&[0, 0, 5, 1_000]),
            snapshot_parts: snapshots.pick(&[1, 5, 40]),
            apply_persisted: snapshots.chance(250),
            sync_us: rng.pick(&[
                Self::QUICK_SYNC_US,
                (500, 5_000),
                (1_000, 40_000),
                (5_000, 150_000),
            ]),
            incarnations: rng.chance(750),
            faults: rates.schedule(seed, nodes, max, quiet..duration),
            left_out: Vec::new(),
            request_every_us: rng.pick(&[2_000, 10_000, 40_000]),
            duration: Duration::from_millis(duration),
            two_beginnings: rng.chance(250),
        }
    }

    /// Whether the number of voters may change.
    pub(crate) fn may_change(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault.changes())
    }

    /// By how much clocks of this world may differ in rate, in percent of the slower: what leases are
    /// told to rely on, and no more.
    pub(crate) fn clock_drift_percent(&self) -> u32 {
        let changes = |planned: &Planned| matches!(planned.fault, Fault::ClockRate { .. });
        let skewed = self.clocks.iter().any(Clock::is_skewed) || self.faults.iter().any(changes);
        if skewed { 57 } else { 0 }
    }

    /// Whether clocks jump, which leases do not survive.
    pub(crate) fn clocks_jump(&self) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::ClockJump { .. }))
    }

    /// Whether a disk may forget what it had synced.
    pub(crate) fn may_forget(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault.forgets())
    }

    /// What there is to leave out.
    pub fn outline(&self) -> Outline {
        Outline {
            faults: self.faults.len(),
            troubles: Trouble::ALL.into_iter().filter(|trouble| self.has(*trouble)).collect(),
            nodes: self.nodes,
            millis: self.duration.as_millis() as u64,
        }
    }

    fn has(&self, trouble: Trouble) -> bool {
        trouble.is_in(&self.weather).unwrap_or(match trouble {
            Trouble::Skew => self.clocks.iter().any(Clock::is_skewed),
            Trouble::Sync => self.sync_us != Self::QUICK_SYNC_US,
            Trouble::Window => {
                self.limits.append_bytes < Self::ROOMY_LIMITS.append_bytes
                    || self.limits.window_bytes < Self::ROOMY_LIMITS.window_bytes
                    || self.max_uncommitted_bytes < Self::ROOMY_UNCOMMITTED
                    || self.max_unapplied_bytes < Self::ROOMY_UNCOMMITTED
            }
            Trouble::Beginnings => self.two_beginnings,
            Trouble::Snapshots => self.snapshot_entries.is_some(),
            // Messages are values here.
            _ => false,
        })
    }

    /// Leaves out what `reduction` says. Entries of the schedule that stay keep their numbers: those
    /// that go are told to [`Plan::left_out`].
    pub fn reduce(&mut self, reduction: &Reduction) {
        self.left_out = reduction.left_out(self.faults.len());
        self.duration = reduction.shorten(self.duration);
        for trouble in &reduction.calm {
            trouble.calm(&mut self.weather);
            match trouble {
                Trouble::Skew => self.clocks.iter_mut().for_each(|clock| clock.set_rate(0, 1000)),
                Trouble::Sync => self.sync_us = Self::QUICK_SYNC_US,
                Trouble::Window => {
                    let (limits, roomy) = (&mut self.limits, Self::ROOMY_LIMITS);
                    limits.append_bytes = limits.append_bytes.max(roomy.append_bytes);
                    limits.window_bytes = limits.window_bytes.max(roomy.window_bytes);
                    self.max_uncommitted_bytes =
                        self.max_uncommitted_bytes.max(Self::ROOMY_UNCOMMITTED);
                    self.max_unapplied_bytes =
                        self.max_unapplied_bytes.max(Self::ROOMY_UNCOMMITTED);
                }
                Trouble::Beginnings => self.two_beginnings = false,
                Trouble::Snapshots => self.snapshot_entries = None,
                _ => {}
            }
        }
        if let Some(nodes) = reduction.nodes {
            self.nodes = nodes.clamp(1, self.nodes);
            self.members = self.members.min(self.nodes);
            self.witness &= self.members >= 3;
            self.clocks.truncate(self.nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduced_plan_has_what_is_left() {
        let troubles: Vec<Trouble> =
            Trouble::ALL.into_iter().filter(|trouble| *trouble != Trouble::Damage).collect();
        let seed = (0..).find(|seed| {
            let outline = Plan::from_seed(*seed).outline();
            outline.nodes == 5 && outline.faults > 4 && outline.troubles == troubles
        });
        let whole = Plan::from_seed(seed.unwrap());
        let mut plan = whole.clone();
        plan.reduce(&Reduction {
            faults: Some(vec![1, 3]),
            calm: Trouble::ALL.to_vec(),
            nodes: Some(3),
            millis: Some(1200),
        });
        assert_eq!(plan.faults, whole.faults, "what stays keeps its number");
        assert_eq!(plan.left_out.len(), whole.faults.len() - 2);
        assert_eq!((plan.nodes, plan.clocks.len(), plan.duration.as_millis()), (3, 3, 1200));
        assert_eq!(plan.outline().troubles, []);
        let mut small_buffer = plan;
        small_buffer.max_uncommitted_bytes = 1_000;
        assert_eq!(small_buffer.outline().troubles, [Trouble::Window]);
    }
}
