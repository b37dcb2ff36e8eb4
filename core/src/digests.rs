//! Whether replicas have the same state: each computes a digest of it behind the same entries, and they
//! compare.
//!
//! A state machine that is not deterministic, or memory that rots, lets replicas diverge in silence:
//! the log is the same, what became of it is not. With
//! [`Config::state_hash_entries`](crate::Config::state_hash_entries) every full replica tells the others
//! its digest behind every so many entries: of the state machine, and of the sessions beside it. Digests
//! are compared only of the same entry, whenever both are there, so nobody has to be in time. Who is
//! wrong the replicas decide by majority; where there is none, by what the leader has: nobody can know
//! then, and one state has to go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_engine::{Index, LogId, NodeId, planted};
use quorate_network::{Digest, Message};
use quorate_storage::StateMachine;

use crate::apply::{ApplyWorker, guarded};
use crate::control::Control;
use crate::node::Node;

/// How many digests of each replica are kept: one that lags behind the others compares within these.
const KEPT: usize = 8;

/// What [`fnv`] begins with.
pub(crate) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits: goes on from `hash` with these bytes. The same wherever it is computed.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Of one replica, by entry, oldest first.
type Known = VecDeque<(LogId, u64)>;

/// The newest digests: the own ones, and those of the other members.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    own: Known,
    heard: BTreeMap<NodeId, Known>,
}

/// An entry behind which the state here is not that of the others.
#[derive(Debug, PartialEq, Eq)]
struct Diverged {
    at: LogId,
    mine: u64,
    theirs: u64,
    /// Whether most replicas have theirs; otherwise the leader has.
    majority: bool,
}

fn add(known: &mut Known, at: LogId, digest: u64) {
    if known.iter().any(|(seen, _)| *seen == at) {
        return;
    }
    known.push_back((at, digest));
    if known.len() > KEPT {
        known.pop_front();
    }
}

fn at(known: Option<&Known>, at: LogId) -> Option<u64> {
    known.into_iter().flatten().find(|(seen, _)| *seen == at).map(|(_, digest)| *digest)
}

impl Digests {
    /// Who among `replicas` has another state than this one, and behind which entry: of each the first.
    fn others(&self, replicas: &BTreeSet<NodeId>) -> Vec<(NodeId, LogId)> {
        let differs = |id: &NodeId| {
            let theirs = self.heard.get(id);
            let first =
                self.own.iter().find(|(seen, mine)| at(theirs, *seen).is_some_and(|d| d != *mine));
            first.map(|(seen, _)| (*id, *seen))
        };
        replicas.iter().filter_map(differs).collect()
    }

    /// Whether this replica has to stop. `replicas` are the others that have a state.
    ///
    /// By majority as soon as there is one. Without, by the leader's digest, once every replica has
    /// told its own, or so many entries later that it is not going to.
    fn diverged(&self, replicas: &BTreeSet<NodeId>, leader: Option<NodeId>) -> Option<Diverged> {
        let majority = quorate_engine::quorum::majority(replicas.len() + 1);
        for (i, (entry, mine)) in self.own.iter().enumerate() {
            let mut counts = BTreeMap::from([(*mine, 1)]);
            for digest in replicas.iter().filter_map(|id| at(self.heard.get(id), *entry)) {
                *counts.entry(digest).or_insert(0) += 1;
            }
            let told: usize = counts.values().sum();
            let most = counts.iter().find(|(_, count)| **count >= majority).map(|(d, _)| *d);
            let last_chance = told > replicas.len() || (i == 0 && self.own.len() == KEPT);
            let theirs = match (most, leader) {
                (Some(most), _) => Some(most),
                (None, Some(id)) if last_chance => at(self.heard.get(&id), *entry),
                _ => None,
            };
            if let Some(theirs) = theirs.filter(|theirs| theirs != mine) {
                return Some(Diverged {
                    at: *entry,
                    mine: *mine,
                    theirs,
                    majority: most.is_some(),
                });
            }
        }
        None
    }
}

impl Diverged {
    fn cause(&self) -> String {
        let Diverged { at, mine, theirs, majority } = self;
        let who = if *majority {
            "most replicas have"
        } else {
            "the leader has, and there is no majority to tell who is right,"
        };
        format!(
            "the state behind entry {at} is not what {who} (digest {mine:016x} here, {theirs:016x} \
             there): its state machine does not do the same everywhere, or a disk or memory is \
             damaged; remove this node, empty its directory and add it anew"
        )
    }
}

impl Node {
    /// The state machine has told the digest of its state behind `at`: the others are told too.
    pub(crate) fn on_own_digest(&mut self, at: LogId, digest: u64) {
        add(&mut self.digests.own, at, digest);
        for id in self.replicas() {
            if let Some(lanes) = self.lanes(id) {
                lanes.send_control(Message::Digest(Digest { at, digest }));
            }
        }
        self.compare_digests();
    }

    /// Another node has told its own. Only members with a state are listened to.
    pub(crate) fn on_digest(&mut self, from: NodeId, digest: &Digest) {
        if self.replicas().contains(&from) {
            add(self.digests.heard.entry(from).or_default(), digest.at, digest.digest);
            self.compare_digests();
        }
    }

    /// The other members that keep a state.
    fn replicas(&self) -> BTreeSet<NodeId> {
        let me = self.identity.node;
        let members = self.engine.configuration().map(|(_, members)| members.members());
        let full = members.into_iter().flatten().filter(|(id, m)| **id != me && !m.witness);
        full.map(|(id, _)| *id).collect()
    }

    fn compare_digests(&mut self) {
        let replicas = self.replicas();
        self.digests.heard.retain(|id, _| replicas.contains(id));
        for (peer, at) in self.digests.others(&replicas) {
            self.notice(peer, &format!("has another state than this node behind entry {at}"));
        }
        let diverged = self.digests.diverged(&replicas, self.engine.leader());
        if let Some(diverged) = diverged.filter(|_| !planted::on("divergence-ignored")) {
            self.fail(diverged.cause());
        }
    }
}

impl<S: StateMachine> ApplyWorker<S> {
    /// `through`, or the entry before it behind which a digest is due.
    pub(crate) fn up_to_digest(&self, through: Index) -> Index {
        let Some(every) = self.digest_entries else { return through };
        let next = (self.applied.index / every + 1).saturating_mul(every);
        through.min(next)
    }

    /// Tells the node the digest of the state as it is, sessions included, if one is due here.
    pub(crate) async fn digest_when_due(&mut self) -> Result<(), String> {
        let Some(every) = self.digest_entries else { return Ok(()) };
        if self.applied.index % every != 0 || self.witness {
            return Ok(());
        }
        match guarded(self.machine.digest(), || "give a digest of its state".into()).await? {
            Some(of_machine) => {
                let digest = self.sessions.digest(of_machine);
                self.control.send(Control::Digest { at: self.applied, digest });
            }
            // It never will.
            None => self.digest_entries = None,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(own: &[(u64, u64)], heard: &[(NodeId, &[(u64, u64)])]) -> Digests {
        let mut digests = Digests::default();
        let id = |index| LogId::new(1, index);
        own.iter().for_each(|(index, digest)| add(&mut digests.own, id(*index), *digest));
        for (node, told) in heard {
            let known = digests.heard.entry(*node).or_default();
            told.iter().for_each(|(index, digest)| add(known, id(*index), *digest));
        }
        digests
    }

    fn stops(digests: &Digests, replicas: &[NodeId], leader: NodeId) -> Option<(u64, bool)> {
        let replicas = replicas.iter().copied().collect();
        digests.diverged(&replicas, Some(leader)).map(|d| (d.at.index, d.majority))
    }

    #[test]
    fn the_majority_is_right_whoever_leads() {
        let two_against_me = digests(&[(10, 1), (20, 7)], &[(2, &[(20, 2)]), (3, &[(20, 2)])]);
        for leader in [1, 2] {
            assert_eq!(stops(&two_against_me, &[2, 3], leader), Some((20, true)));
        }
        // The leader is the one that is wrong: its followers wait for each other's word, and go on.
        let leader_differs = digests(&[(20, 2)], &[(3, &[(20, 7)])]);
        assert_eq!(stops(&leader_differs, &[2, 3], 3), None);
        let all_told = digests(&[(20, 2)], &[(2, &[(20, 2)]), (3, &[(20, 7)])]);
        assert_eq!(stops(&all_told, &[2, 3], 3), None);
        assert_eq!(all_told.others(&[2, 3].into()), [(3, LogId::new(1, 20))]);
    }

    #[test]
    fn without_a_majority_the_leader_goes_on_alone() {
        let two = digests(&[(20, 1)], &[(2, &[(20, 2)])]);
        assert_eq!(stops(&two, &[2], 2), Some((20, false)));
        assert_eq!(stops(&two, &[2], 1), None);
        let all_differ = digests(&[(20, 1)], &[(2, &[(20, 2)]), (3, &[(20, 3)])]);
        assert_eq!(stops(&all_differ, &[2, 3], 2), Some((20, false)));
        assert_eq!(stops(&all_differ, &[2, 3], 1), None);
    }

    /// One that is down tells nothing: it is waited for until so many others have come.
    #[test]
    fn a_silent_replica_is_not_waited_for_for_ever() {
        let own: Vec<_> = (1..=KEPT as u64).map(|n| (n * 10, 1)).collect();
        let theirs: Vec<_> = (1..=KEPT as u64).map(|n| (n * 10, 2)).collect();
        let early = digests(&own[..KEPT - 1], &[(2, &theirs)]);
        assert_eq!(stops(&early, &[2, 3], 2), None);
        let late = digests(&own, &[(2, &theirs)]);
        assert_eq!(stops(&late, &[2, 3], 2), Some((10, false)));
    }

    #[test]
    fn only_the_same_entry_is_compared() {
        let mut other_term = digests(&[(20, 1)], &[(2, &[(10, 5), (30, 6)])]);
        add(other_term.heard.entry(2).or_default(), LogId::new(2, 20), 7);
        assert_eq!(stops(&other_term, &[2], 2), None);
        let nobody = digests(&[(20, 1)], &[]);
        assert_eq!(stops(&nobody, &[], 1), None);
        let mut many = Known::new();
        (0..100).for_each(|n| add(&mut many, LogId::new(1, n), n));
        assert_eq!(many.len(), KEPT);
    }
}
