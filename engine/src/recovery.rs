//! A lost quorum: a configuration that was forced on what one survivor has, and how the others that it
//! names come to it.
//!
//! When more voters are lost for ever than a majority can do without, nobody can be elected any more,
//! and no rule of Raft brings the group back: somebody has to decide what is left of it. That is an
//! operator's decision. It is carried out on the log of one node that does not run: one configuration
//! entry in a term of its own, by no leader, with fewer voters. From then on the group has another
//! identity, which messages carry, so that nobody of before takes part in it or is heard by it,
//! however many there are. The entry says all this, for ever: see [`Recovery`].
//!
//! Survivors that it names still belong to the group of before. They are told of the configuration
//! until they answer (the message is [`Introduce`], as for a member that has none), and follow if
//! their log can't have anything that the recovered one lacks. What else they are told is not heard.
//! Whoever drives the engine knows identities of groups, the engine does not: so it is told with an
//! input of its own that a configuration of the recovered group is there
//! ([`Input::Recovered`](crate::Input::Recovered)).
//!
//! Why that is safe: `docs/repair.md`.

use crate::block::EntryBlock;
use crate::election::Role;
use crate::engine::{Engine, PLAUSIBLE};
use crate::io::{Notice, Output, Outputs};
use crate::membership::Membership;
use crate::message::{Introduce, Message};
use crate::types::{Instant, LogId, NodeId};

/// That a configuration, or one before it, was not agreed on but forced by an operator; the newest if
/// there were several. Every configuration after it says so too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The entry of the forced configuration.
    pub at: LogId,
    /// The last entry before it: what the recovered log had.
    pub after: LogId,
    /// Whose log it was.
    pub by: NodeId,
    /// The identity of the group since then.
    pub cluster: u64,
    /// Its identities before, oldest first.
    pub former: Vec<u64>,
}

impl Engine {
    /// Offers the configuration of a recovered group to a member that may not have heard of the
    /// recovery. To one that has it says nothing new.
    pub(crate) fn introduce_recovery(&self, to: NodeId, out: &mut Outputs) {
        let Some((at, membership)) = self.configuration() else { return };
        if membership.recovery().is_some() {
            let configuration = EntryBlock::configuration(at, membership);
            out.send(to, Message::Introduce(Introduce { configuration }));
        }
    }

    /// The same for every follower that has not answered in this term.
    pub(crate) fn introduce_recovery_to_silent(&self, out: &mut Outputs) {
        let Role::Leader(leader) = &self.role else { return };
        for (to, p) in &leader.progress {
            if p.acked_round == 0 {
                self.introduce_recovery(*to, out);
            }
        }
    }

    /// What is left of this node's group is another group now, that has this node as a member.
    ///
    /// It follows unless it hears a leader, so that the quorum is not lost, or has entries that are
    /// newer than all that was recovered: what is committed might be among them. Whom it voted for in
    /// the old group, and what it promised there, means nothing in the new one, and the term it goes
    /// on in is later than both.
    pub(crate) fn on_recovered(
        &mut self,
        now: Instant,
        from: NodeId,
        configuration: &EntryBlock,
        out: &mut Outputs,
    ) {
        let membership = configuration.membership();
        let Some(recovery) = membership.as_ref().and_then(Membership::recovery) else {
            let what = Notice::Violation("a recovery without a forced configuration");
            out.push(Output::Noticed { peer: from, what });
            return;
        };
        let Recovery { at, after, .. } = *recovery;
        if [at.term, at.index, after.term, after.index].iter().any(|n| *n >= PLAUSIBLE)
            || self.hard.term >= PLAUSIBLE
        {
            let what = Notice::Violation("a term or index beyond any plausible one");
            out.push(Output::Noticed { peer: from, what });
            return;
        }
        let me = membership.as_ref().and_then(|m| m.member(self.config.id));
        if me.is_none_or(|me| me.incarnation != self.config.incarnation) || self.is_sticky(now) {
            return;
        }
        if self.log.last() > after {
            out.push(Output::Noticed { peer: from, what: Notice::LacksOurs });
            return;
        }
        let term = self.hard.term.max(at.term) + 1;
        self.become_follower(now, term, None, out);
        self.reset_election(now);
        self.introduced.clear();
        self.removed = None;
        out.push(Output::Recovered { at });
    }
}
