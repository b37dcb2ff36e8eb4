//! Who belongs to the group, as data (paper §6).
//!
//! A membership has one set of voters, or two while a change is under way (a joint configuration:
//! every decision then needs a majority of both), and any number of learners, which receive the log
//! and have no say. It is replicated as an entry of the log and used from the moment it is in the
//! log, committed or not.
//!
//! A voter may be a *witness*: it votes and counts, and never leads. In each voter set witnesses are
//! fewer than a majority, so that every quorum has a full replica.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use prost::Message as _;

use crate::planted;
use crate::recovery::Recovery;
use crate::types::{LogId, NodeId};

/// What is known of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where the network finds it: an opaque string that only the network reads.
    pub address: String,
    /// The identity of the data directory it joined with, or 0 while no leader has heard from it.
    /// The same id with another incarnation is another node, with another disk, and is refused.
    pub incarnation: u64,
    /// Whether it is a witness: it votes, but never campaigns and is never handed the leadership.
    pub witness: bool,
}

impl Member {
    /// A full replica at `address` that no leader has heard yet.
    pub fn at(address: impl Into<String>) -> Self {
        Self { address: address.into(), incarnation: 0, witness: false }
    }
}

/// One configuration of the group. A clone shares what the original holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Behind a pointer, so that what may have one in it is no larger for that: every message and every
    /// input and output of the engine is as large as the largest of its kind.
    parts: Arc<Parts>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// The voters. `outgoing` is empty unless a change is under way.
    voters: BTreeSet<NodeId>,
    /// The voters before the change that is under way; a decision then needs both majorities.
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, Member>,
    recovery: Option<Recovery>,
}

/// Why bytes are not a membership, or a membership is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The bytes are not a membership of a known version.
    #[error("a membership that cannot be decoded: {0}")]
    Undecodable(String),
    /// No voters: such a group could never decide anything.
    #[error("a membership needs at least one voter")]
    NoVoters,
    /// A voter or learner without an address, or an address without a role.
    #[error("node {0} has a role without an address, or an address without a role")]
    Inconsistent(NodeId),
    /// Id 0 means "nobody" on the wire.
    #[error("0 is not a node id")]
    ZeroId,
    /// A quorum could be made of witnesses alone.
    #[error(
        "witnesses must be fewer than a majority of the voters, or a quorum may have no replica"
    )]
    TooManyWitnesses,
    /// No member has this id.
    #[error("node {0} is not a member")]
    NotAMember(NodeId),
}

impl Membership {
    /// A plain (not joint) membership of `voters` with their addresses.
    ///
    /// # Errors
    /// [`MembershipError::NoVoters`] for an empty list, [`MembershipError::ZeroId`] for id 0.
    pub fn of_voters<A: Into<String>>(
        voters: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Result<Self, MembershipError> {
        let members: BTreeMap<NodeId, Member> =
            voters.into_iter().map(|(id, address)| (id, Member::at(address))).collect();
        Self::new(members.keys().copied().collect(), BTreeSet::new(), BTreeSet::new(), members)
    }

    /// A membership from its parts; `outgoing` is empty unless it is joint.
    ///
    /// # Errors
    /// When the parts contradict each other; see [`MembershipError`].
    pub fn new(
        voters: BTreeSet<NodeId>,
        outgoing: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        members: BTreeMap<NodeId, Member>,
    ) -> Result<Self, MembershipError> {
        if voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if members.contains_key(&0) {
            return Err(MembershipError::ZeroId);
        }
        let with_role: BTreeSet<NodeId> =
            voters.iter().chain(&outgoing).chain(&learners).copied().collect();
        let known: BTreeSet<NodeId> = members.keys().copied().collect();
        if let Some(id) = with_role.symmetric_difference(&known).next() {
            return Err(MembershipError::Inconsistent(*id));
        }
        if let Some(id) = learners.iter().find(|id| voters.contains(id)) {
            return Err(MembershipError::Inconsistent(*id));
        }
        for set in [&voters, &outgoing] {
            let witnesses = set.iter().filter(|id| members[*id].witness).count();
            if witnesses > set.len() / 2 {
                return Err(MembershipError::TooManyWitnesses);
            }
        }
        Ok(Parts { voters, outgoing, learners, members, recovery: None }.into())
    }

    /// The voters (of the newer set while joint).
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.parts.voters
    }

    /// The voters of the older set while joint, otherwise empty.
    pub fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.parts.outgoing
    }

    /// Members that receive the log and do not vote.
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.parts.learners
    }

    /// Every member with its address, in order of id.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.parts.members
    }

    /// Whether the group had lost its quorum and was recovered by an operator, and how, the last time.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.parts.recovery.as_ref()
    }

    /// What an operator makes of this membership when its quorum is lost: these voters, no one else,
    /// each as it is known.
    ///
    /// # Errors
    /// When one of them is no member, or they make no membership.
    pub fn recovered(
        &self,
        voters: &BTreeSet<NodeId>,
        recovery: Recovery,
    ) -> Result<Self, MembershipError> {
        let known = |id: &NodeId| {
            let member = self.parts.members.get(id).ok_or(MembershipError::NotAMember(*id))?;
            Ok((*id, member.clone()))
        };
        let members = voters.iter().map(known).collect::<Result<_, _>>()?;
        let mut next = Self::new(voters.clone(), BTreeSet::new(), BTreeSet::new(), members)?;
        next.parts_mut().recovery = Some(recovery);
        Ok(next)
    }

    /// Whether two voter sets are in force (paper §6).
    pub fn is_joint(&self) -> bool {
        !self.parts.outgoing.is_empty()
    }

    /// Whether `id` votes, in either set.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.parts.voters.contains(&id) || self.parts.outgoing.contains(&id)
    }

    /// What is known of `id`, if it is a member.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.parts.members.get(&id)
    }

    /// The voter sets in force: one, or two while joint.
    pub fn voter_sets(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        std::iter::once(&self.parts.voters)
            .chain((!self.parts.outgoing.is_empty()).then_some(&self.parts.outgoing))
    }

    /// Whether `id` votes and may lead: a voter that is no witness.
    pub fn may_lead(&self, id: NodeId) -> bool {
        let witness = self.parts.members.get(&id).is_some_and(|member| member.witness);
        self.is_voter(id) && (!witness || planted::on("witness-campaigns"))
    }

    /// The members that are witnesses, voters already or not.
    pub fn witnesses(&self) -> impl Iterator<Item = NodeId> {
        self.parts.members.iter().filter(|(_, m)| m.witness).map(|(id, _)| *id)
    }

    /// What this membership becomes when the change that is under way ends: without the outgoing
    /// voters, but for those that stay as learners. The same if none is under way.
    pub fn settled(&self) -> Self {
        let mut next = self.clone();
        let parts = next.parts_mut();
        parts.outgoing.clear();
        let stays =
            |id: &NodeId| self.parts.voters.contains(id) || self.parts.learners.contains(id);
        parts.members.retain(|id, _| stays(id));
        next
    }

    /// The joint membership (paper §6) in which a change from this one to `to` begins: both voter
    /// sets decide. What both know of a member is taken from `to`.
    ///
    /// # Panics
    /// If one of them is joint.
    pub fn joint_with(&self, to: &Membership) -> Self {
        assert!(!self.is_joint() && !to.is_joint(), "one change at a time");
        let mut members = to.parts.members.clone();
        for id in &self.parts.voters {
            members.entry(*id).or_insert_with(|| self.parts.members[id].clone());
        }
        Parts {
            voters: to.parts.voters.clone(),
            outgoing: self.parts.voters.clone(),
            learners: to.parts.learners.clone(),
            members,
            recovery: self.parts.recovery.clone(),
        }
        .into()
    }

    /// With `id` as a learner at `address`; a node that is a member already keeps its role, and its
    /// address becomes this one.
    ///
    /// # Errors
    /// [`MembershipError::ZeroId`].
    pub fn with_learner(
        mut self,
        id: NodeId,
        address: impl Into<String>,
    ) -> Result<Self, MembershipError> {
        if !self.parts.members.contains_key(&id) {
            self.parts_mut().learners.insert(id);
        }
        self.parts_mut().members.entry(id).or_default().address = address.into();
        self.checked()
    }

    /// With `id` as a voter at `address`, whatever it was.
    ///
    /// # Errors
    /// [`MembershipError::ZeroId`].
    pub fn with_voter(
        self,
        id: NodeId,
        address: impl Into<String>,
    ) -> Result<Self, MembershipError> {
        self.with_learner(id, address)?.promoted(id)
    }

    /// With another address for the member `id`.
    ///
    /// # Errors
    /// [`MembershipError::NotAMember`].
    pub fn with_address(
        mut self,
        id: NodeId,
        address: impl Into<String>,
    ) -> Result<Self, MembershipError> {
        let member =
            self.parts_mut().members.get_mut(&id).ok_or(MembershipError::NotAMember(id))?;
        member.address = address.into();
        Ok(self)
    }

    /// With the member `id` as a witness, or as a learner that is going to be one.
    ///
    /// # Errors
    /// [`MembershipError::NotAMember`], [`MembershipError::TooManyWitnesses`].
    pub fn with_witness(mut self, id: NodeId) -> Result<Self, MembershipError> {
        self.parts_mut().members.get_mut(&id).ok_or(MembershipError::NotAMember(id))?.witness =
            true;
        self.checked()
    }

    /// With the learner `id` as a voter; a voter stays one.
    ///
    /// # Errors
    /// [`MembershipError::NotAMember`], [`MembershipError::TooManyWitnesses`].
    pub fn promoted(mut self, id: NodeId) -> Result<Self, MembershipError> {
        self.parts.members.get(&id).ok_or(MembershipError::NotAMember(id))?;
        self.parts_mut().learners.remove(&id);
        self.parts_mut().voters.insert(id);
        self.checked()
    }

    /// With the voter `id` as a learner; a learner stays one.
    ///
    /// # Errors
    /// [`MembershipError::NotAMember`]; [`MembershipError::NoVoters`] for the last voter;
    /// [`MembershipError::TooManyWitnesses`].
    pub fn demoted(mut self, id: NodeId) -> Result<Self, MembershipError> {
        self.parts.members.get(&id).ok_or(MembershipError::NotAMember(id))?;
        self.parts_mut().voters.remove(&id);
        self.parts_mut().learners.insert(id);
        self.checked()
    }

    /// Without the member `id`.
    ///
    /// # Errors
    /// [`MembershipError::NotAMember`]; [`MembershipError::NoVoters`] for the last voter;
    /// [`MembershipError::TooManyWitnesses`].
    pub fn without(mut self, id: NodeId) -> Result<Self, MembershipError> {
        let parts = self.parts_mut();
        parts.members.remove(&id).ok_or(MembershipError::NotAMember(id))?;
        for set in [&mut parts.voters, &mut parts.outgoing, &mut parts.learners] {
            set.remove(&id);
        }
        self.checked()
    }

    /// Its own parts, to be changed: those that it shares with others are copied first.
    fn parts_mut(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.parts)
    }

    fn checked(self) -> Result<Self, MembershipError> {
        let Parts { voters, outgoing, learners, members, recovery } =
            Arc::unwrap_or_clone(self.parts);
        let mut next = Self::new(voters, outgoing, learners, members)?;
        next.parts_mut().recovery = recovery;
        Ok(next)
    }

    /// What is known of the members of `before` holds for those of them that are members of this
    /// one: the directories they are tied to stay theirs. And what became of the group before.
    pub(crate) fn keep_ties(&mut self, before: &Membership) {
        let parts = self.parts_mut();
        parts.recovery.clone_from(&before.parts.recovery);
        for (id, member) in &mut parts.members {
            if let Some(known) = before.parts.members.get(id) {
                member.incarnation = known.incarnation;
            }
        }
    }

    /// The same membership with the incarnation of `id` recorded.
    ///
    /// Changes no quorum, so it needs no joint phase.
    pub fn with_incarnation(&self, id: NodeId, incarnation: u64) -> Self {
        let mut next = self.clone();
        if let Some(member) = next.parts_mut().members.get_mut(&id) {
            member.incarnation = incarnation;
        }
        next
    }

    /// The canonical bytes, as they stand in a configuration entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        Wire {
            voters: self.parts.voters.iter().copied().collect(),
            outgoing: self.parts.outgoing.iter().copied().collect(),
            learners: self.parts.learners.iter().copied().collect(),
            members: self
                .parts
                .members
                .iter()
                .map(|(id, m)| WireMember {
                    id: *id,
                    address: m.address.clone(),
                    incarnation: m.incarnation,
                    witness: m.witness,
                })
                .collect(),
            recovery: self.parts.recovery.as_ref().map(|r| WireRecovery {
                at_term: r.at.term,
                at_index: r.at.index,
                after_term: r.after.term,
                after_index: r.after.index,
                by: r.by,
                cluster: r.cluster,
                former: r.former.clone(),
            }),
        }
        .encode_to_vec()
    }

    /// Reads what [`Membership::to_bytes`] wrote, also of an older version.
    ///
    /// # Errors
    /// When the bytes are no membership, or one whose parts contradict each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MembershipError> {
        let wire = Wire::decode(bytes).map_err(|e| MembershipError::Undecodable(e.to_string()))?;
        let mut next = Self::new(
            wire.voters.into_iter().collect(),
            wire.outgoing.into_iter().collect(),
            wire.learners.into_iter().collect(),
            wire.members
                .into_iter()
                .map(|m| {
                    let (address, incarnation, witness) = (m.address, m.incarnation, m.witness);
                    (m.id, Member { address, incarnation, witness })
                })
                .collect(),
        )?;
        next.parts_mut().recovery = wire.recovery.map(|r| Recovery {
            at: LogId::new(r.at_term, r.at_index),
            after: LogId::new(r.after_term, r.after_index),
            by: r.by,
            cluster: r.cluster,
            former: r.former,
        });
        Ok(next)
    }
}

impl From<Parts> for Membership {
    fn from(parts: Parts) -> Self {
        Self { parts: Arc::new(parts) }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |set: &BTreeSet<NodeId>| set.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        write!(f, "voters={}", list(&self.parts.voters))?;
        if self.is_joint() {
            write!(f, " outgoing={}", list(&self.parts.outgoing))?;
        }
        if !self.parts.learners.is_empty() {
            write!(f, " learners={}", list(&self.parts.learners))?;
        }
        let those = |which: fn(&Member) -> bool| {
            let members = self.parts.members.iter().filter(|(_, m)| which(m));
            members.map(|(id, _)| *id).collect::<BTreeSet<_>>()
        };
        for (what, ids) in
            [("witnesses", those(|m| m.witness)), ("bound", those(|m| m.incarnation != 0))]
        {
            if !ids.is_empty() {
                write!(f, " {what}={}", list(&ids))?;
            }
        }
        match &self.parts.recovery {
            Some(recovery) => write!(f, " recovered={}", recovery.at),
            None => Ok(()),
        }
    }
}

/// The wire form. Tags are for ever; new fields get new tags.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
    #[prost(uint64, repeated, tag = "2")]
    outgoing: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    learners: Vec<u64>,
    #[prost(message, repeated, tag = "4")]
    members: Vec<WireMember>,
    #[prost(message, optional, tag = "5")]
    recovery: Option<WireRecovery>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireRecovery {
    #[prost(uint64, tag = "1")]
    at_term: u64,
    #[prost(uint64, tag = "2")]
    at_index: u64,
    #[prost(uint64, tag = "3")]
    after_term: u64,
    #[prost(uint64, tag = "4")]
    after_index: u64,
    #[prost(uint64, tag = "5")]
    by: u64,
    #[prost(fixed64, tag = "6")]
    cluster: u64,
    #[prost(fixed64, repeated, tag = "7")]
    former: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
    #[prost(bool, tag = "4")]
    witness: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        let members = (1..=5)
            .map(|id| (id, Member { incarnation: id * 7, witness: id == 3, ..of(id) }))
            .collect();
        Membership::new([1, 2, 3].into(), [3, 4].into(), [5].into(), members).unwrap()
    }

    fn of(id: NodeId) -> Member {
        Member::at(format!("n{id}"))
    }

    #[test]
    fn bytes_round_trip() {
        assert_eq!(Membership::from_bytes(&joint().to_bytes()).unwrap(), joint());
    }

    /// What was forced once is known for ever, whatever the membership becomes.
    #[test]
    fn a_recovery_stays_in_every_membership_after_it() {
        let old = Membership::of_voters((1..=5).map(|id| (id, format!("n{id}")))).unwrap();
        let old = old.with_incarnation(2, 14);
        let (at, after) = (LogId::new(9, 8), LogId::new(7, 7));
        let recovery = Recovery { at, after, by: 2, cluster: 77, former: vec![5, 6] };
        let two = old.recovered(&[2, 3].into(), recovery.clone()).unwrap();
        assert_eq!((two.voters(), two.members().len()), (&[2, 3].into(), 2));
        assert_eq!(two.member(2).unwrap(), &Member { incarnation: 14, ..of(2) });
        let grown = two.clone().with_voter(6, "n6").unwrap();
        let mut asked = Membership::of_voters([(2, "n2"), (3, "n3")]).unwrap();
        asked.keep_ties(&two);
        for m in [&two, &grown, &two.joint_with(&grown), &two.joint_with(&grown).settled(), &asked]
        {
            let read = Membership::from_bytes(&m.to_bytes()).unwrap();
            assert_eq!(read.recovery(), Some(&recovery), "{m}");
        }
        assert_eq!(asked, two);
        let stranger = old.recovered(&[2, 7].into(), recovery.clone());
        assert_eq!(stranger, Err(MembershipError::NotAMember(7)));
        assert_eq!(old.recovered(&[].into(), recovery), Err(MembershipError::NoVoters));
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(
            Membership::of_voters(Vec::<(u64, &str)>::new()),
            Err(MembershipError::NoVoters)
        );
        assert_eq!(Membership::of_voters([(0, "a")]), Err(MembershipError::ZeroId));
        let members = [(1, Member::default())];
        assert_eq!(
            Membership::new([1, 2].into(), [].into(), [].into(), members.clone().into()),
            Err(MembershipError::Inconsistent(2))
        );
        assert_eq!(
            Membership::new([1].into(), [].into(), [1].into(), members.into()),
            Err(MembershipError::Inconsistent(1))
        );
        assert!(Membership::from_bytes(&[0xff; 9]).is_err());
    }

    /// A quorum without a full replica could elect nobody who has what it decided.
    #[test]
    fn every_quorum_has_a_full_replica() {
        for n in 1..=7u64 {
            for witnesses in 0..=n {
                let members = (1..=n).map(|id| (id, Member { witness: id <= witnesses, ..of(id) }));
                let m = Membership::new((1..=n).collect(), [].into(), [].into(), members.collect());
                let alone = witnesses as usize >= crate::quorum::majority(n as usize);
                assert_eq!(m.is_err(), alone, "{witnesses} of {n}");
            }
        }
        let m = Membership::of_voters([(1, "a"), (2, "b"), (3, "c")]).unwrap();
        let one = m.with_witness(3).unwrap();
        assert_eq!((one.may_lead(3), one.is_voter(3), one.may_lead(2)), (false, true, true));
        assert_eq!(one.clone().with_witness(2), Err(MembershipError::TooManyWitnesses));
        assert_eq!(one.without(1).unwrap().without(2), Err(MembershipError::TooManyWitnesses));
    }

    #[test]
    fn a_change_is_put_together_step_by_step() {
        let old = Membership::of_voters([(1, "a"), (2, "b"), (3, "c")]).unwrap();
        let new = old.clone().with_voter(4, "d").unwrap().demoted(1).unwrap().without(2).unwrap();
        let new = new.with_learner(5, "e").unwrap().with_address(3, "f").unwrap();
        assert_eq!((new.voters(), new.learners()), (&[3, 4].into(), &[1, 5].into()));
        assert_eq!(new.clone().with_learner(3, "f").unwrap(), new, "a voter keeps its role");
        let joint = old.joint_with(&new);
        assert_eq!((joint.voters(), joint.outgoing()), (new.voters(), old.voters()));
        assert_eq!(joint.member(2), Some(&Member::at("b")), "it votes until the change ends");
        assert_eq!(Membership::from_bytes(&joint.to_bytes()).unwrap(), joint);
        assert_eq!(joint.settled(), new);
        assert_eq!(new.settled(), new);
        assert_eq!(new.clone().without(9), Err(MembershipError::NotAMember(9)));
        assert_eq!(new.without(3).unwrap().demoted(4), Err(MembershipError::NoVoters));
    }

    #[test]
    fn voters_of_both_sets_vote() {
        let m = joint();
        assert!(m.is_joint() && m.is_voter(4) && m.is_voter(1) && !m.is_voter(5));
        assert_eq!(m.voter_sets().count(), 2);
    }
}
