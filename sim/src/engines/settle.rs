//! What has to come about when the faults stop.

use bytes::Bytes;
use quorate_engine::quorum::{is_quorum, meets_quorums_twice};
use quorate_engine::{LogId, Membership, NodeId, ReadMode};

use crate::engines::check::{Fact, newest_committed};
use crate::engines::network::Weather;
use crate::engines::node::Node;
use crate::engines::world::World;
use crate::failure::Failure;
use crate::sabotage::Sabotage;

const LIVENESS: &str = "the cluster recovers";
const REMOVED: &str = "who is no member does not campaign";

/// How long one entry may take to a follower that has nothing, through the smallest window.
const COPY_NANOS_PER_ENTRY: u64 = 4_000_000;

impl World {
    /// Stops every fault, and sees the cluster come back to work, in four phases:
    ///
    /// 1. There is a leader, a voter, that every member knows, within twenty of the longest election
    ///    timeouts by the slowest clock.
    /// 2. A read is served at every member, no change of membership is under way, and all members
    ///    are at the same index with all of it committed and applied, within as long again and 4 ms
    ///    for each entry of the longest log: small windows of the plan make it slow to copy.
    /// 3. The same once more, within as long as the second, after a write that is acknowledged.
    /// 4. Whoever is no member any more does not campaign, within as long as the first, if one of
    ///    those it asks for votes knows that it is none.
    ///
    /// Then every write that was ever acknowledged has to be in every log.
    ///
    /// What comes too late is excused if a disk was wiped and too few votes that count are left: see
    /// [`Statistics::excused`](crate::engines::Statistics::excused). Then every acknowledged write
    /// still has to be on the disks of a quorum, a forgetful one counted with what it had.
    ///
    /// # Errors
    /// The first broken promise, or what did not come about in time.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.faults = false;
        self.network.heal();
        self.network.weather = Weather::FAIR;
        self.plan.sync_us = (20, 500);
        if self.sabotage == Some(Sabotage::NeverHeals) {
            self.network.weather.drop = 1_000;
        }
        let all: Vec<NodeId> = (1..=self.plan.nodes as u64).collect();
        for id in &all {
            let node = self.nodes.get_mut(*id);
            node.slow = (0, 1);
            node.hung_until = 0;
            node.machine_stalls_until = 0;
            node.full_until = 0;
            node.sync_fails = None;
            if node.is_down() {
                self.start(*id);
            }
            self.resume(*id);
        }
        let begun = |w: &World| w.nodes.iter().any(|n| n.log.last().index > 0);
        if !begun(self) {
            self.initialize(1);
        }
        let patience = self.plan.election_max.as_nanos() as u64 * 20 * 5 / 4;
        let end = self.time + patience;
        if !self.run_until(end, |w| w.agreed_leader().is_some())? {
            return self.stuck("no leader that every member knows");
        }
        let longest = self.nodes.iter().map(|n| n.log.last().index).max().unwrap_or(0);
        let bound = patience + longest * COPY_NANOS_PER_ENTRY;
        // First without a write: what is left over from before has to be finished by the new leader
        // of itself.
        if self.work_again(bound, false)? && self.work_again(bound, true)? {
            let end = self.time + patience;
            if !self.run_until(end, |w| w.who_campaigns_in_vain().is_none())? {
                let who = self.who_campaigns_in_vain();
                self.fail(REMOVED, format!("node {who:?} campaigns and is no member"));
            }
            self.tell(&Fact::Settled);
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// A node that is no member and would campaign, though one of those it would ask knows better.
    fn who_campaigns_in_vain(&self) -> Option<NodeId> {
        let members = self.membership()?.members();
        let others = self.nodes.iter().filter(|n| n.is_running() && !members.contains_key(&n.id));
        others
            .filter(|n| {
                let Some(engine) = &n.engine else { return false };
                let Some((_, own)) = engine.configuration() else { return false };
                let knows = |other: &NodeId| {
                    let other = self.nodes.get(*other);
                    let newest = newest_committed(other);
                    other.is_running() && newest.is_some_and(|m| m.member(n.id).is_none())
                };
                // Whoever waits for nothing does not campaign.
                own.may_lead(n.id)
                    && engine.deadline().is_some()
                    && own.voter_sets().flatten().any(knows)
            })
            .map(|n| n.id)
            .next()
    }

    /// Reads at every node, after a write if there is to be one, until all of it is done and all
    /// nodes are at the same index. `false` if that does not come about and need not.
    fn work_again(&mut self, bound: u64, write: bool) -> Result<bool, Failure> {
        let mut command = None;
        let mut reads = Vec::new();
        let done = |w: &World, command: &Option<Bytes>, reads: &[u64]| {
            command.as_ref().is_none_or(|c| w.clients.acknowledged.contains(c))
                && reads.iter().all(|r| w.clients.served(*r) == Some(true))
                && w.is_converged()
        };
        let end = self.time + bound;
        while self.time < end {
            // Leadership may still change once; ask again until it is done.
            let leader = self.agreed_leader();
            if let Some(leader) = leader {
                command = write.then(|| self.propose(leader, 1));
                let members: Vec<_> = self.members().map(|n| n.id).collect();
                reads =
                    members.into_iter().map(|id| self.read(id, ReadMode::Index, 10_000)).collect();
            }
            let slice = (self.time + bound / 4).min(end);
            let asked = leader.is_some();
            if self.run_until(slice, |w| asked && done(w, &command, &reads))? {
                return Ok(true);
            }
        }
        let written = command.is_none_or(|c| self.clients.acknowledged.contains(&c));
        let served = reads.iter().filter(|r| self.clients.served(**r) == Some(true)).count();
        let state: Vec<String> = self
            .nodes
            .iter()
            .map(|n| {
                n.engine.as_ref().map_or("down".into(), |e| {
                    format!(
                        "{} {} term {} last {} committed {}",
                        n.id,
                        e.role(),
                        e.term(),
                        e.log().last(),
                        e.log().committed()
                    )
                })
            })
            .collect();
        let what = format!(
            "write asked for: {write}, all acknowledged: {written}, reads served: {served} of {}; {state:?}",
            reads.len()
        );
        self.stuck(&what).map(|()| false)
    }

    fn stuck(&mut self, what: &str) -> Result<(), Failure> {
        if self.lacks_votes() {
            self.statistics.excused += 1;
            self.tell(&Fact::Stranded);
        } else {
            self.fail(LIVENESS, what.into());
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// The membership that counts: of the leader, or of the newest log.
    fn membership(&self) -> Option<&Membership> {
        let newest = self.nodes.iter().filter(|n| n.stopped.is_none()).max_by_key(|n| n.log.last());
        let node = self.leader(false).map(|id| self.nodes.get(id)).or(newest)?;
        node.engine.as_ref()?.log().membership()
    }

    /// Those who have to come back to work: the members, but for a node whose disk was lost and that
    /// is refused.
    fn members(&self) -> impl Iterator<Item = &Node> {
        let membership = self.membership();
        self.nodes
            .iter()
            .filter(move |n| membership.is_some_and(|m| m.member(n.id).is_some()))
            .filter(|n| n.stopped.is_none())
    }

    /// Whether nobody can be elected, by the configuration of the newest log: the voters that run
    /// and are tied to their disks are no quorum, and with those that no leader has heard yet, any
    /// of which might be the one that was wiped, they do not meet every quorum twice.
    ///
    /// A blank node, which no leader has reached or whose disk is as it was before, has a vote only
    /// if it can be given the first configuration: by a log that still begins with it.
    fn lacks_votes(&self) -> bool {
        let newest = self.nodes.iter().filter(|n| n.stopped.is_none()).max_by_key(|n| n.log.last());
        let engine = newest.and_then(|n| n.engine.as_ref());
        let Some(membership) = engine.and_then(|e| e.log().membership()) else { return false };
        let tie = |id| membership.member(id).map_or(0, |m| m.incarnation);
        let introduces = newest.is_some_and(|n| n.log.compacted() == LogId::ZERO);
        // Whose disk is not the one that its id is tied to is refused.
        let votes = |id| {
            let node = self.nodes.get(id);
            let knows = node.engine.as_ref().is_some_and(|e| e.log().membership().is_some());
            node.is_running()
                && (tie(id) == 0 || tie(id) == node.incarnation)
                && (knows || introduces)
        };
        !is_quorum(membership, |id| votes(id) && tie(id) != 0)
            && !meets_quorums_twice(membership, votes)
    }

    /// The leader, if it is a voter and every member knows the same.
    fn agreed_leader(&self) -> Option<NodeId> {
        let voter = self.membership()?.is_voter(self.leader(false)?);
        let mut nodes = self.members().filter_map(|n| n.engine.as_ref());
        let first = nodes.next()?;
        let (leader, term) = (first.leader()?, first.term());
        let agreed = nodes.all(|e| e.leader() == Some(leader) && e.term() == term);
        (voter && agreed && self.nodes.get(leader).leads()).then_some(leader)
    }

    /// Whether every member has committed and applied the same, all of its log, and nothing is left
    /// to do of a change.
    fn is_converged(&self) -> bool {
        if self.members().any(|n| n.engine.as_ref().is_some_and(|e| e.is_changing())) {
            return false;
        }
        let Some(last) = self.members().next().map(|n| n.log.last()) else { return true };
        self.members().all(|n| {
            let committed = n.engine.as_ref().map_or(0, |e| e.log().committed());
            n.log.last() == last && committed == last.index && n.applied == last.index
        })
    }
}
