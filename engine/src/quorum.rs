//! Majorities, of one voter set or of two (paper §6: a joint decision needs both).

use std::collections::BTreeSet;

use crate::membership::Membership;
use crate::planted;
use crate::types::NodeId;

/// Members that make a majority of `voters` voters.
pub fn majority(voters: usize) -> usize {
    voters / 2 + usize::from(voters % 2 == 1 || !planted::on("half-is-a-majority"))
}

/// The voter sets whose majorities decide: all of them.
fn deciding_sets(membership: &Membership) -> impl Iterator<Item = &BTreeSet<NodeId>> {
    let one = planted::on("joint-quorum-from-one-half");
    membership.voter_sets().take(if one { 1 } else { usize::MAX })
}

/// Whether those for whom `yes` holds are a quorum of `membership`.
pub fn is_quorum(membership: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    let learners = |set: &BTreeSet<NodeId>| {
        let counted = planted::on("learner-votes-count");
        membership.learners().iter().filter(|id| counted && !set.contains(id) && yes(**id)).count()
    };
    deciding_sets(membership)
        .all(|set| set.iter().filter(|id| yes(**id)).count() + learners(set) >= majority(set.len()))
}

/// Whether those for whom `yes` holds meet every quorum in two voters, so that any one of them may
/// have forgotten everything: a majority of an even set, one more than that of an odd one, and all
/// of a set of one to three.
pub fn meets_quorums_twice(membership: &Membership, yes: impl Fn(NodeId) -> bool) -> bool {
    membership.voter_sets().all(|set| {
        let n = set.len();
        set.iter().filter(|id| yes(**id)).count() >= n.min(n - majority(n) + 2)
    })
}

/// The largest value that a quorum has reached, each voter having reached `value(id)`.
///
/// Of log indexes it is the commit index, of rounds the confirmed round, of times the moment up to
/// which a quorum was heard.
pub fn reached_by_quorum<T: Ord + Copy>(membership: &Membership, value: impl Fn(NodeId) -> T) -> T {
    let newer = reached_by_majority(membership.voters(), &value);
    if !membership.is_joint() || planted::on("joint-quorum-from-one-half") {
        return newer;
    }
    newer.min(reached_by_majority(membership.outgoing(), &value))
}

/// The same of one voter set, which is not empty.
fn reached_by_majority<T: Ord + Copy>(set: &BTreeSet<NodeId>, value: impl Fn(NodeId) -> T) -> T {
    let behind = set.len() - majority(set.len());
    let mut reached = set.iter().map(|id| value(*id));
    // Clusters are small: an array on the stack, in order from the beginning, beats a vector that is sorted.
    let mut few = [reached.next().expect("a membership has voters"); 8];
    if set.len() > few.len() {
        let mut many: Vec<T> = set.iter().map(|id| value(*id)).collect();
        many.sort_unstable();
        return many[behind];
    }
    for (count, value) in (1..).zip(reached) {
        let mut at = count;
        while at > 0 && few[at - 1] > value {
            few[at] = few[at - 1];
            at -= 1;
        }
        few[at] = value;
    }
    few[behind]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;

    fn membership(voters: &[u64], outgoing: &[u64]) -> Membership {
        let members = voters.iter().chain(outgoing).map(|id| (*id, Member::default())).collect();
        Membership::new(
            voters.iter().copied().collect(),
            outgoing.iter().copied().collect(),
            BTreeSet::new(),
            members,
        )
        .unwrap()
    }

    /// Every subset of up to 7 voters: quorums are the majorities, and any two intersect.
    #[test]
    fn quorums_of_one_set_exhaustively() {
        for n in 1..=7u64 {
            let m = membership(&(1..=n).collect::<Vec<_>>(), &[]);
            let quorums: Vec<u64> = (0..1u64 << n)
                .filter(|bits| is_quorum(&m, |id| bits >> (id - 1) & 1 == 1))
                .collect();
            assert!(quorums.iter().all(|q| q.count_ones() as u64 * 2 > n));
            for a in &quorums {
                assert!(quorums.iter().all(|b| a & b != 0));
            }
        }
    }

    /// Of up to 7 voters: in two, if there are two, and no smaller number of voters would do.
    #[test]
    fn meeting_quorums_twice_exhaustively() {
        for n in 1..=7u64 {
            let m = membership(&(1..=n).collect::<Vec<_>>(), &[]);
            let voted = |bits: u64| move |id: u64| bits >> (id - 1) & 1 == 1;
            let quorums: Vec<u64> =
                (0..1u64 << n).filter(|bits| is_quorum(&m, voted(*bits))).collect();
            for set in 0..1u64 << n {
                let twice = |q: &u64| (set & q).count_ones() >= 2.min(n as u32);
                let meets = meets_quorums_twice(&m, voted(set));
                assert_eq!(meets, quorums.iter().all(twice), "{set:b} of {n}");
                assert!(!meets || is_quorum(&m, voted(set)));
            }
        }
    }

    /// Every pair of voter sets over 4 nodes, every subset: a joint quorum is a quorum of each.
    #[test]
    fn joint_quorums_exhaustively() {
        for new in 1u64..16 {
            for old in 1u64..16 {
                let ids =
                    |bits: u64| (1..=4).filter(|i| bits >> (i - 1) & 1 == 1).collect::<Vec<_>>();
                let m = membership(&ids(new), &ids(old));
                for yes in 0u64..16 {
                    let has = |set: u64| (yes & set).count_ones() * 2 > set.count_ones();
                    assert_eq!(
                        is_quorum(&m, |id| yes >> (id - 1) & 1 == 1),
                        has(new) && has(old),
                        "new {new:b} old {old:b} yes {yes:b}"
                    );
                }
            }
        }
    }

    /// The value reached is the largest for which those at or above it are a quorum.
    #[test]
    fn reached_agrees_with_is_quorum_exhaustively() {
        let sets: [(&[u64], &[u64]); 5] = [
            (&[1], &[]),
            (&[1, 2], &[]),
            (&[1, 2, 3], &[]),
            (&[1, 2, 3, 4], &[]),
            (&[1, 2], &[2, 3, 4]),
        ];
        for (new, old) in sets {
            let m = membership(new, old);
            for code in 0..4u64.pow(4) {
                let value = |id: u64| code / 4u64.pow(id as u32 - 1) % 4;
                let reached = reached_by_quorum(&m, value);
                assert!(is_quorum(&m, |id| value(id) >= reached));
                assert!(!is_quorum(&m, |id| value(id) > reached));
            }
        }
    }

    #[test]
    fn large_sets_take_the_slow_path() {
        let ids: Vec<u64> = (1..=21).collect();
        assert_eq!(reached_by_quorum(&membership(&ids, &[]), |id| id), 11);
        // Around the size from which on they do, and in no order.
        for (voters, reached) in [(7, 4), (8, 4), (9, 5), (10, 5)] {
            let ids: Vec<u64> = (1..=voters).collect();
            let values = [3, 1, 2, 7, 5, 4, 6, 8, 10, 9];
            let of = |id: u64| values[id as usize - 1].min(voters);
            assert_eq!(reached_by_quorum(&membership(&ids, &[]), of), reached, "{voters}");
        }
    }
}
