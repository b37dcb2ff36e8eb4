//! What a seed stands for: how large the cluster is, how bad its world, for how long.

use std::time::Duration;

use quorate::Config;

use crate::cluster::ClusterOptions;
use crate::engines::{Clock, Weather};
use crate::fault::{Fault, Planned, Rates};
use crate::reduction::{Outline, Reduction, Trouble};
use crate::rng::Rng;

/// Calls of all clients together, at most.
const CALLS: u64 = 1_500;

/// The circumstances of one simulated world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The machines.
    pub cluster: ClusterOptions,
    /// Of a thousand sends, how many have a bit flipped on the way.
    pub damage: u64,
    /// How many clients.
    pub clients: u64,
    /// How many of them write in sessions, and send again what they don't know the outcome of.
    pub in_sessions: u64,
    /// How many registers.
    pub keys: u8,
    /// How many calls a client makes at most: judging a history takes more than its length.
    pub calls: u64,
    /// The longest pause of a client between two calls.
    pub think: Duration,
    /// How long faults and load last.
    pub duration: Duration,
    /// What goes wrong, and when, in order.
    pub faults: Vec<Planned>,
    /// Entries of `faults` that are left out, by their place.
    pub left_out: Vec<usize>,
    /// When all is well again, all nodes but so many are lost for ever.
    pub left_of_disaster: Option<usize>,
}

impl Plan {
    /// The circumstances of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "nodes");
        let nodes = rng.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5]);
        let mut cluster = ClusterOptions::new(nodes);
        cluster.config = if rng.chance(500) { Config::fast_network() } else { Config::default() };
        let config = &mut cluster.config;
        config.write_timeout = Duration::from_millis(rng.pick(&[300, 1_000, 3_000]));
        config.read_timeout = Duration::from_millis(rng.pick(&[300, 1_000, 3_000]));
        // Small limits meet full windows, logs that are read back, and answers of Overloaded.
        config.tail_bytes = rng.pick(&[1, 500, 1 << 20]);
        config.apply_bytes = rng.pick(&[1, 300, 1 << 20]);
        config.append_bytes = rng.pick(&[100, 1_000, 256 << 10]);
        config.window_bytes = rng.pick(&[100, 2_000, 8 << 20]);
        config.uncommitted_bytes = rng.pick(&[2_000, 64 << 20]);
        cluster.segment_bytes = rng.pick(&[8 << 10, 32 << 10, 256 << 10]);
        // A stream of their own: they came later, and worlds stay what they were without them.
        let mut snapshots = Rng::stream(seed, "snapshots");
        config.snapshot_entries = snapshots.pick(&[None, Some(3), Some(20), Some(100)]);
        config.snapshot_log_bytes = None;
        config.keep_entries = snapshots.pick(&[0, 0, 5, 50]);
        config.snapshot_part_bytes = snapshots.pick(&[20, 200, 256 << 10]);
        config.snapshot_stall_timeout = config.election_timeout_max * 3;
        let millis = Duration::from_millis;
        let mut sessions = Rng::stream(seed, "sessions");
        config.session_ttl = millis(sessions.pick(&[400, 3_000, 60_000]));
        config.max_sessions = sessions.pick(&[1, 3, 10_000]);
        let mut machines = Rng::stream(seed, "machines");
        config.unapplied_bytes = machines.pick(&[1_000, 20_000, 64 << 20]);
        config.state_hash_entries = machines.pick(&[None, Some(2), Some(7)]);
        let (shortest, longest) = rng.pick(&[(0, 1), (1, 5), (1, 40), (5, 150)]);
        cluster.sync = (millis(shortest), millis(longest));
        if rng.chance(400) {
            let skewed = |rng: &mut Rng| Clock::new(rng.between(800, 1250), 0);
            cluster.clocks = (1..=nodes).map(|id| (id, skewed(&mut rng))).collect();
        }
        if rng.chance(700) {
            cluster.weather = Weather {
                drop: rng.pick(&[0, 0, 10, 50, 200]),
                duplicate: rng.pick(&[0, 10, 100]),
                delay_min_us: rng.pick(&[0, 500]),
                delay_max_us: rng.pick(&[1_000, 5_000, 20_000, 60_000]),
                straggle: rng.pick(&[0, 10, 50]),
                reorder: rng.chance(500),
            };
        }
        // From 0.8 to 1.25 times as fast as the world.
        cluster.config.clock_drift_percent = 57;
        let damage = rng.pick(&[0, 0, 5, 30]);
        let duration = millis(rng.pick(&[4_000, 8_000, 12_000]));
        let election_ms = cluster.config.election_timeout_max.as_millis() as u64;
        let unit_ms = rng.pick(&[election_ms / 8, election_ms / 2, election_ms]);
        // A stream of their own, too.
        let mut operators = Rng::stream(seed, "operators");
        let rates = Rates::draw(unit_ms, &mut rng)
            .with_operators(election_ms, &mut operators)
            .with_slow_machines(unit_ms, &mut machines)
            .with_rot(unit_ms, &mut machines);
        // Many clusters come to be in peace: what nobody ever led can't break.
        let quiet = rng.pick(&[0, 2]) * election_ms;
        let until = duration.as_millis() as u64;
        let mut faults = rates.schedule(seed, nodes as usize, election_ms, quiet..until);
        let changes = faults.iter().any(|planned| planned.fault.changes());
        if changes {
            // Which losses can be survived is known only where everybody votes.
            faults.retain(|planned| !planned.fault.forgets());
        }
        // All that ever votes has the disk it was tied to, and is there in the end.
        let stay = !changes && !faults.iter().any(|planned| planned.fault.forgets());
        let rots = |planned: &Planned| matches!(planned.fault, Fault::Rot { .. });
        // Most replicas have to know what is right.
        if nodes < 3 || cluster.config.state_hash_entries.is_none() || !stay {
            faults.retain(|planned| !rots(planned));
        }
        let minority = (nodes as usize - 1) / 2;
        let mut disasters = Rng::stream(seed, "disaster");
        let left = 1 + disasters.below(minority.max(1) as u64) as usize;
        let left_of_disaster =
            (stay && !faults.iter().any(rots) && minority > 0 && disasters.chance(150))
                .then_some(left);
        let clients = rng.pick(&[1, 3, 6]);
        let calls = CALLS / clients;
        // Slow enough to last until the faults end: a call takes no time itself at best.
        let think = millis(rng.pick(&[2, 10, 50])).max(duration * 2 / calls as u32);
        Self {
            cluster,
            damage,
            clients,
            in_sessions: sessions.pick(&[0, 1, clients]).min(clients),
            calls,
            keys: rng.pick(&[1, 2, 4]),
            think,
            duration,
            faults,
            left_out: Vec::new(),
            left_of_disaster,
        }
    }

    /// Whether operators change the membership.
    pub(crate) fn changes(&self) -> bool {
        self.faults.iter().any(|planned| planned.fault.changes())
    }

    /// Whether clocks jump, which leases do not survive.
    pub(crate) fn clocks_jump(&self) -> bool {
        self.faults.iter().any(|planned| matches!(planned.fault, Fault::ClockJump { .. }))
    }

    /// What there is to leave out.
    pub fn outline(&self) -> Outline {
        Outline {
            faults: self.faults.len(),
            troubles: Trouble::ALL.into_iter().filter(|trouble| self.has(*trouble)).collect(),
            nodes: self.cluster.nodes as usize,
            millis: self.duration.as_millis() as u64,
        }
    }

    fn has(&self, trouble: Trouble) -> bool {
        let ClusterOptions { config, clocks, sync, .. } = &self.cluster;
        trouble.is_in(&self.cluster.weather).unwrap_or(match trouble {
            Trouble::Damage => self.damage > 0,
            Trouble::Skew => clocks.values().any(Clock::is_skewed),
            Trouble::Sync => *sync != ClusterOptions::QUICK_SYNC,
            Trouble::Window => {
                let usual = Config::default();
                config.tail_bytes < usual.tail_bytes
                    || config.apply_bytes < usual.apply_bytes
                    || config.append_bytes < usual.append_bytes
                    || config.window_bytes < usual.window_bytes
                    || config.uncommitted_bytes < usual.uncommitted_bytes
            }
            // Of these there is one.
            _ => false,
        })
    }

    /// Leaves out what `reduction` says. Entries of the schedule that stay keep their numbers: those
    /// that go are told to [`Plan::left_out`].
    pub fn reduce(&mut self, reduction: &Reduction) {
        self.left_out = reduction.left_out(self.faults.len());
        self.duration = reduction.shorten(self.duration);
        for trouble in &reduction.calm {
            trouble.calm(&mut self.cluster.weather);
            match trouble {
                Trouble::Damage => self.damage = 0,
                Trouble::Skew => self.cluster.clocks.clear(),
                Trouble::Sync => self.cluster.sync = ClusterOptions::QUICK_SYNC,
                Trouble::Window => {
                    let (usual, config) = (Config::default(), &mut self.cluster.config);
                    config.tail_bytes = usual.tail_bytes;
                    config.apply_bytes = usual.apply_bytes;
                    config.append_bytes = usual.append_bytes;
                    config.window_bytes = usual.window_bytes;
                    config.uncommitted_bytes = usual.uncommitted_bytes;
                }
                _ => {}
            }
        }
        if let Some(nodes) = reduction.nodes {
            self.cluster.nodes = (nodes as u64).clamp(1, self.cluster.nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around_engines(trouble: &Trouble) -> bool {
        matches!(trouble, Trouble::Beginnings | Trouble::Snapshots)
    }

    #[test]
    fn a_reduced_plan_has_what_is_left() {
        let troubles: Vec<Trouble> =
            Trouble::ALL.into_iter().filter(|trouble| !around_engines(trouble)).collect();
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
        assert_eq!(
            plan.outline(),
            Outline { troubles: vec![], nodes: 3, millis: 1200, ..plan.outline() }
        );
    }
}
