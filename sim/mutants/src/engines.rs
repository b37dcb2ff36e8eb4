//! Bugs of the protocol, in worlds of engines: see `quorate_sim::engines`.

use quorate_sim::engines::{Clock, Plan, World};
use quorate_sim::{Kind, Rates};

use crate::Caught;

/// The plan of `seed`, made one of three nodes that are cut off from each other while they are
/// young, and one of which loses its disk: what a disk has forgotten is rarely missed later.
pub(crate) fn lost_disk(seed: u64) -> Plan {
    let mut plan = Plan::from_seed(seed);
    plan.nodes = 3;
    plan.clocks.resize(3, Clock::new(1000, 0));
    plan.incarnations = true;
    plan.duration = plan.election_max * 10;
    let (mean_ms, end_ms) =
        (plan.election_max.as_millis() as u64, plan.duration.as_millis() as u64);
    plan.faults = [Kind::WipedDisk, Kind::Isolation, Kind::FullPartition, Kind::Crash]
        .into_iter()
        .flat_map(|kind| Rates::only(kind, mean_ms).schedule(seed, 3, mean_ms, 0..end_ms))
        .collect();
    plan.faults.sort_by_key(|planned| planned.at_ms);
    plan
}

/// One world from its beginning to its recovery.
pub(crate) fn run(seed: u64, plan: Plan) -> Result<(), Caught> {
    let ended = World::new(seed, plan).run_to_the_end();
    ended.map_err(|failure| Caught { by: failure.promise, what: failure.what })
}
