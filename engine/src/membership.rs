//! Who belongs to the group, as data (paper §6).
//!
//! A membership has one set of voters, or two while a change is under way (a joint configuration:
//! every decision then needs a majority of both), and any number of learners, which receive the log
//! and have no say. It is replicated as an entry of the log and used from the moment it is in the
//! log, committed or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prost::Message as _;

use crate::types::NodeId;

/// What is known of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Where the network finds it: an opaque string that only the network reads.
    pub address: String,
    /// The identity of the data directory it joined with, or 0 while no leader has heard from it.
    /// The same id with another incarnation is another node, with another disk, and is refused.
    pub incarnation: u64,
}

/// One configuration of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters. `outgoing` is empty unless a change is under way.
    voters: BTreeSet<NodeId>,
    /// The voters before the change that is under way; a decision then needs both majorities.
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, Member>,
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
}

impl Membership {
    /// A plain (not joint) membership of `voters` with their addresses.
    ///
    /// # Errors
    /// [`MembershipError::NoVoters`] for an empty list, [`MembershipError::ZeroId`] for id 0.
    pub fn of_voters<A: Into<String>>(
        voters: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Result<Self, MembershipError> {
        let members: BTreeMap<NodeId, Member> = voters
            .into_iter()
            .map(|(id, address)| (id, Member { address: address.into(), incarnation: 0 }))
            .collect();
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
        Ok(Self { voters, outgoing, learners, members })
    }

    /// The voters (of the newer set while joint).
    pub fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// The voters of the older set while joint, otherwise empty.
    pub fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.outgoing
    }

    /// Members that receive the log and do not vote.
    pub fn learners(&self) -> &BTreeSet<NodeId> {
        &self.learners
    }

    /// Every member with its address, in order of id.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// Whether two voter sets are in force (paper §6).
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes, in either set.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// What is known of `id`, if it is a member.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The voter sets in force: one, or two while joint.
    pub fn voter_sets(&self) -> impl Iterator<Item = &BTreeSet<NodeId>> {
        std::iter::once(&self.voters).chain((!self.outgoing.is_empty()).then_some(&self.outgoing))
    }

    /// The same membership with the incarnation of `id` recorded.
    ///
    /// Changes no quorum, so it needs no joint phase.
    pub fn with_incarnation(&self, id: NodeId, incarnation: u64) -> Self {
        let mut next = self.clone();
        if let Some(member) = next.members.get_mut(&id) {
            member.incarnation = incarnation;
        }
        next
    }

    /// The canonical bytes, as they stand in a configuration entry.
    pub fn to_bytes(&self) -> Vec<u8> {
        Wire {
            voters: self.voters.iter().copied().collect(),
            outgoing: self.outgoing.iter().copied().collect(),
            learners: self.learners.iter().copied().collect(),
            members: self
                .members
                .iter()
                .map(|(id, m)| WireMember {
                    id: *id,
                    address: m.address.clone(),
                    incarnation: m.incarnation,
                })
                .collect(),
        }
        .encode_to_vec()
    }

    /// Reads what [`Membership::to_bytes`] wrote, also of an older version.
    ///
    /// # Errors
    /// When the bytes are no membership, or one whose parts contradict each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MembershipError> {
        let wire = Wire::decode(bytes).map_err(|e| MembershipError::Undecodable(e.to_string()))?;
        Self::new(
            wire.voters.into_iter().collect(),
            wire.outgoing.into_iter().collect(),
            wire.learners.into_iter().collect(),
            wire.members
                .into_iter()
                .map(|m| (m.id, Member { address: m.address, incarnation: m.incarnation }))
                .collect(),
        )
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |set: &BTreeSet<NodeId>| set.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        write!(f, "voters={}", list(&self.voters))?;
        if self.is_joint() {
            write!(f, " outgoing={}", list(&self.outgoing))?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners={}", list(&self.learners))?;
        }
        let bound: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| m.incarnation != 0)
            .map(|(id, _)| id.to_string())
            .collect();
        if !bound.is_empty() {
            write!(f, " bound={}", bound.join(","))?;
        }
        Ok(())
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
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(fixed64, tag = "3")]
    incarnation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joint() -> Membership {
        let members = (1..=5)
            .map(|id| (id, Member { address: format!("n{id}"), incarnation: id * 7 }))
            .collect();
        Membership::new([1, 2, 3].into(), [3, 4].into(), [5].into(), members).unwrap()
    }

    #[test]
    fn bytes_round_trip() {
        assert_eq!(Membership::from_bytes(&joint().to_bytes()).unwrap(), joint());
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

    #[test]
    fn voters_of_both_sets_vote() {
        let m = joint();
        assert!(m.is_joint() && m.is_voter(4) && m.is_voter(1) && !m.is_voter(5));
        assert_eq!(m.voter_sets().count(), 2);
    }
}
