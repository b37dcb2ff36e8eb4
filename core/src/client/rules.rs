//! What a client may do with a call that did not go well, and where it looks for nodes.

use quorate_engine::{LogId, planted};
use quorate_network::{CallKind, CallOutcome, NodeStatus};

/// What an answer means for its call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The caller is told this.
    Done(CallOutcome),
    /// It was certainly not done, and is to be sent to another node, the one at this address if it is
    /// known.
    Elsewhere(Option<String>),
    /// It may be sent again, after a pause.
    Later,
    /// It may be sent again at once.
    Again,
}

/// What the answer `outcome` means for a call.
pub(super) fn judge(kind: &CallKind, outcome: CallOutcome) -> Verdict {
    match outcome {
        CallOutcome::NotLeader { address, .. } => {
            Verdict::Elsewhere(Some(address).filter(|address| !address.is_empty()))
        }
        CallOutcome::Stopped | CallOutcome::Timeout => Verdict::Elsewhere(None),
        CallOutcome::Overloaded => Verdict::Later,
        CallOutcome::Overwritten => Verdict::Again,
        CallOutcome::Unknown if may_be_sent_twice(kind) => Verdict::Later,
        outcome => Verdict::Done(outcome),
    }
}

/// Whether a call that a node may have heard of may be sent again: only if doing it twice changes
/// nothing. A write of a session is applied once however often it comes, and a session that nobody
/// knows of lapses by itself.
pub(super) fn may_be_sent_twice(kind: &CallKind) -> bool {
    match kind {
        CallKind::ReadIndex | CallKind::Status => true,
        CallKind::WriteOnce { .. } | CallKind::OpenSession => true,
        _ => planted::on("client-retries-unknown"),
    }
}

/// Whether it matters if a call that a node may have heard of was done.
pub(super) fn leaves_doubt(kind: &CallKind) -> bool {
    matches!(kind, CallKind::Write { .. } | CallKind::WriteOnce { .. })
}

/// Where nodes are found: the addresses that the client was given, for ever, and those of the members,
/// as last heard.
#[derive(Debug)]
pub(super) struct Addresses {
    given: Vec<String>,
    members: Vec<String>,
    /// The configuration that `members` are of.
    configured_at: LogId,
    /// To be tried before all others.
    hint: Option<String>,
    /// The next of all, in their order.
    turn: usize,
}

impl Addresses {
    /// Begins with any of those given, by the seed, so that many clients don't begin with the same.
    pub(super) fn new(given: Vec<String>, seed: u64) -> Self {
        let turn = seed as usize % given.len().max(1);
        Self { given, members: Vec::new(), configured_at: LogId::ZERO, hint: None, turn }
    }

    /// Takes up what a node says of the members, unless something newer is known.
    pub(super) fn learn(&mut self, status: &NodeStatus) {
        let Some(membership) = &status.membership else { return };
        if status.configured_at < self.configured_at {
            return;
        }
        self.configured_at = status.configured_at;
        let addresses = membership.members().values().map(|member| &member.address);
        self.members = addresses.filter(|address| !address.is_empty()).cloned().collect();
    }

    /// The leader is said to be there.
    pub(super) fn hint(&mut self, address: String) {
        self.hint = Some(address);
    }

    /// Where to go next; `None` if there is nowhere to go.
    pub(super) fn next(&mut self) -> Option<String> {
        if let Some(hint) = self.hint.take() {
            return Some(hint);
        }
        let count = self.count();
        if count == 0 {
            return None;
        }
        self.turn = (self.turn + 1) % count;
        self.all().nth(self.turn).cloned()
    }

    pub(super) fn count(&self) -> usize {
        self.all().count()
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        let others = self.members.iter().filter(|address| !self.given.contains(address));
        self.given.iter().chain(others)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_engine::{Membership, RoleKind};
    use quorate_network::SessionWrite;

    use super::*;

    fn write() -> CallKind {
        CallKind::Write { codec: 1, commands: vec![Bytes::new()] }
    }

    /// The table of `docs/client.md`.
    #[test]
    fn what_is_sent_again_and_what_is_not() {
        let not_leader =
            |address: &str| CallOutcome::NotLeader { leader: Some(2), address: address.to_owned() };
        let once = SessionWrite { session: 1, sequence: 1, acknowledged: 0 };
        let once = CallKind::WriteOnce { write: once, codec: 1, command: Bytes::new() };
        let harmless = [CallKind::ReadIndex, CallKind::Status, CallKind::OpenSession, once];
        for kind in harmless.clone().into_iter().chain([write()]) {
            let judge = |outcome| judge(&kind, outcome);
            assert_eq!(judge(not_leader("two:2")), Verdict::Elsewhere(Some("two:2".into())));
            assert_eq!(judge(not_leader("")), Verdict::Elsewhere(None));
            assert_eq!(judge(CallOutcome::Stopped), Verdict::Elsewhere(None));
            assert_eq!(judge(CallOutcome::Timeout), Verdict::Elsewhere(None));
            assert_eq!(judge(CallOutcome::Overloaded), Verdict::Later);
            assert_eq!(judge(CallOutcome::Overwritten), Verdict::Again);
            let refused = CallOutcome::Refused("no".into());
            assert_eq!(judge(refused.clone()), Verdict::Done(refused));
            let large = CallOutcome::TooLarge { bytes: 9, limit: 8 };
            assert_eq!(judge(large.clone()), Verdict::Done(large));
        }
        // What may have been done is done again only if that is harmless.
        assert_eq!(judge(&write(), CallOutcome::Unknown), Verdict::Done(CallOutcome::Unknown));
        for kind in harmless {
            assert_eq!(judge(&kind, CallOutcome::Unknown), Verdict::Later);
        }
    }

    fn status(index: u64, members: &[(u64, &str)]) -> NodeStatus {
        NodeStatus {
            id: 1,
            role: RoleKind::Follower,
            term: 1,
            leader: None,
            last: 0,
            committed: 0,
            applied: 0,
            configured_at: LogId::new(1, index),
            membership: Some(Membership::of_voters(members.iter().copied()).unwrap()),
        }
    }

    #[test]
    fn members_are_learned_and_forgotten_and_what_was_given_stays() {
        let mut addresses = Addresses::new(vec!["a".into(), "b".into()], 0);
        let round = |addresses: &mut Addresses| {
            let mut all: Vec<String> =
                (0..addresses.count()).filter_map(|_| addresses.next()).collect();
            all.sort();
            all.join(" ")
        };
        assert_eq!(round(&mut addresses), "a b");
        addresses.learn(&status(5, &[(1, "a"), (2, "c"), (3, "d")]));
        assert_eq!(round(&mut addresses), "a b c d");
        addresses.learn(&status(4, &[(1, "a"), (2, "x")]));
        assert_eq!(round(&mut addresses), "a b c d", "an older configuration says nothing");
        addresses.learn(&status(6, &[(1, "a"), (3, "d")]));
        assert_eq!(round(&mut addresses), "a b d");
        addresses.hint("e".into());
        assert_eq!(addresses.next().unwrap(), "e");
        assert_eq!(round(&mut addresses), "a b d", "a hint is tried once");
        assert_eq!(Addresses::new(Vec::new(), 7).next(), None);
    }
}
