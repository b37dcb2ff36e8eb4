//! Bugs of the protocol, in worlds of engines: see `quorate_sim::engines`.

use quorate_sim::engines::{Clock, Plan, World};
use quorate_sim::{Kind, Rates};

use crate::Caught;

/// The plan of `seed`, made one of three nodes that are cut off from each other while they are
/// young, and one of which loses its disk: what a disk has forgotten is rarely missed later.
pub(crate) fn lost_disk(seed: u64) -> Plan {
    one_disk(seed, 3, Kind::WipedDisk)
}

/// The same with an old copy of a disk; of four, because with an even number that can be survived.
pub(crate) fn old_disk(seed: u64) -> Plan {
    one_disk(seed, 4, Kind::OldDisk)
}

fn one_disk(seed: u64, nodes: usize, what: Kind) -> Plan {
    let mut plan = Plan::from_seed(seed);
    size(&mut plan, nodes, nodes);
    plan.incarnations = true;
    plan.duration = plan.election_max * 10;
    let (mean_ms, end_ms) =
        (plan.election_max.as_millis() as u64, plan.duration.as_millis() as u64);
    plan.faults = [what, Kind::Isolation, Kind::FullPartition, Kind::Crash]
        .into_iter()
        .flat_map(|kind| Rates::only(kind, mean_ms).schedule(seed, nodes, mean_ms, 0..end_ms))
        .collect();
    plan.faults.sort_by_key(|planned| planned.at_ms);
    plan
}

/// The plan of `seed`, made one of three or four voters and two more nodes, whose membership changes
/// all the time while nodes crash, are cut off and hand over.
pub(crate) fn changing(seed: u64) -> Plan {
    let mut plan = Plan::from_seed(seed);
    let members = 3 + seed as usize % 2;
    size(&mut plan, members, members + 2);
    let mean_ms = plan.election_max.as_millis() as u64;
    let millis = mean_ms * 2..plan.duration.as_millis() as u64;
    plan.faults = [
        (Kind::Change, 1),
        (Kind::Transfer, 3),
        (Kind::Isolation, 3),
        (Kind::FullPartition, 3),
        (Kind::Crash, 3),
        (Kind::Campaign, 4),
    ]
    .into_iter()
    .flat_map(|(kind, times)| {
        let rates = Rates::only(kind, mean_ms * times / 2);
        rates.schedule(seed, plan.nodes, mean_ms, millis.clone())
    })
    .collect();
    plan.faults.sort_by_key(|planned| planned.at_ms);
    plan
}

/// The plan of `seed`, made one of three nodes that are cut off and read all the time, with clocks
/// that differ as much as they may.
pub(crate) fn leases(seed: u64) -> Plan {
    let mut plan = Plan::from_seed(seed);
    size(&mut plan, 3, 3);
    plan.clocks = [800, 1250, 1000].map(|rate| Clock::new(rate, 0)).to_vec();
    plan.clocks.rotate_left(seed as usize % 3);
    plan.request_every_us = 2_000;
    let mean_ms = plan.election_max.as_millis() as u64;
    let millis = mean_ms * 2..plan.duration.as_millis() as u64;
    plan.faults = [(Kind::Isolation, 1), (Kind::Pause, 1), (Kind::Transfer, 3)]
        .into_iter()
        .flat_map(|(kind, times)| {
            Rates::only(kind, mean_ms * times).schedule(seed, 3, mean_ms, millis.clone())
        })
        .collect();
    plan.faults.sort_by_key(|planned| planned.at_ms);
    plan
}

fn size(plan: &mut Plan, members: usize, nodes: usize) {
    plan.nodes = nodes;
    plan.members = members;
    plan.witness = false;
    plan.priorities = vec![0; nodes];
    plan.clocks.resize(nodes, Clock::new(1000, 0));
}

/// One world from its beginning to its recovery.
pub(crate) fn run(seed: u64, plan: Plan) -> Result<(), Caught> {
    let ended = World::new(seed, plan).run_to_the_end();
    ended.map_err(|failure| Caught { by: failure.promise, what: failure.what })
}
