//! One-way and partial partitions: who leads while links are cut, and how soon (`docs/elections.md`).
//!
//! A node with two-way links to a majority, none of whose logs is newer than its own, leads within ten
//! of the longest election timeouts, or another does who can commit. Without such a node nobody can
//! be promised to lead; but nothing goes wrong, and everything is well after the heal.

mod common;

use common::Cluster;
use quorate_engine::NodeId;

/// Ten of the longest election timeouts, in milliseconds.
const BOUND: u64 = 10_000;

/// A cluster of `n` nodes with a leader, whose timeouts differ from variant to variant.
fn led(n: u64, variant: u64) -> Cluster {
    let mut c = Cluster::led_by_1(n);
    for _ in 0..variant {
        for id in 1..=n {
            c.crash(id);
            c.restart(id);
        }
    }
    c.run_until_led(20_000).expect("nothing is cut yet");
    c
}

/// Cuts these links, waits, and heals. Returns after how long the cut cluster was led for good, if
/// somebody could be expected to lead.
fn endure(c: &mut Cluster, cut: &[(NodeId, NodeId)]) -> Option<u64> {
    let n = c.nodes.len() as u64;
    cut.iter().for_each(|(from, to)| c.cut(*from, *to));
    let both = |a, b| a == b || !(cut.contains(&(a, b)) || cut.contains(&(b, a)));
    let hub = |a: NodeId| 2 * (1..=n).filter(|b| both(a, *b)).count() as u64 > n;
    let begun = c.now;
    let mut since = None;
    while c.now.since(begun).as_millis() < u128::from(BOUND) {
        c.run(100);
        match c.leader().filter(|id| hub(*id)) {
            Some(id) => since = since.filter(|(known, _)| *known == id).or(Some((id, c.now))),
            None => since = None,
        }
    }
    let expected = (1..=n).any(hub);
    if expected {
        let (leader, _) = since.unwrap_or_else(|| panic!("nobody leads with {cut:?} cut"));
        let before = c.committed(leader);
        c.propose(leader, 1);
        c.run(1_000);
        assert!(c.committed(leader) > before, "no progress with {cut:?} cut");
    }
    c.heal();
    let leader = c.run_until_led(BOUND).unwrap_or_else(|| panic!("no recovery from {cut:?}"));
    c.propose(leader, 1);
    c.run(2_000);
    assert!((1..=n).all(|id| c.committed(id) == c.last(leader).index), "{cut:?}");
    since.filter(|_| expected).map(|(_, at)| at.since(begun).as_millis() as u64)
}

fn links(n: u64) -> Vec<(NodeId, NodeId)> {
    let all = (1..=n).flat_map(|a| (1..=n).map(move |b| (a, b)));
    all.filter(|(a, b)| a != b).collect()
}

#[test]
fn every_matrix_of_one_way_cuts_of_three_nodes() {
    let links = links(3);
    let mut slowest = 0;
    for variant in 0..4 {
        for matrix in 0..64u32 {
            let cut = links.iter().enumerate().filter(|(i, _)| matrix >> i & 1 == 1);
            let cut: Vec<_> = cut.map(|(_, link)| *link).collect();
            slowest = slowest.max(endure(&mut led(3, variant), &cut).unwrap_or(0));
        }
    }
    assert!(slowest <= BOUND / 2, "{slowest} ms: the bound has no slack left");
}

#[test]
fn a_sample_of_the_one_way_cuts_of_five_nodes() {
    let mut number = 1u64;
    let mut expected = 0;
    for variant in 0..150 {
        let mut cut = links(5);
        cut.retain(|_| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            number >> 33 & 3 == 0
        });
        expected += usize::from(endure(&mut led(5, variant % 3), &cut).is_some());
    }
    assert!(expected > 50, "{expected} of them have somebody who could lead");
}

/// A log that is newer than those of all who could be elected: nobody leads without it.
#[test]
fn who_lacks_entries_is_not_elected_whatever_its_links() {
    let mut c = Cluster::led_by_1(3);
    c.partition(&[&[1, 2], &[3]]);
    c.propose(1, 2);
    c.run(300);
    c.heal();
    // Node 3 is the only one with two-way links, and lacks what 1 and 2 have committed.
    c.cut(1, 2);
    c.cut(2, 1);
    c.crash(1);
    c.crash(2);
    c.restart(1);
    c.restart(2);
    let committed = c.last(1).index;
    c.run(BOUND);
    let leader = c.leader().expect("1 or 2, elected by 3");
    assert!(leader != 3 && c.committed(leader) > committed);
}
