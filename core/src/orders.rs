//! What operators want of the leader: changes of membership, and another leader.
//!
//! An order may be given at any node; one that does not lead passes it on. The leader keeps it until
//! it is done, which takes as long as a learner takes to catch up, and tells meanwhile how far that
//! is. An order says what is to be, so the same once more changes nothing: whoever hears nothing, or
//! has lost the leader, gives it again.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_engine::{Decline, Input, Instant, Membership, MembershipError, NodeId, RoleKind};
use quorate_network::{Message, Order, OrderKind, OrderOutcome, Ordered};
use tokio::sync::mpsc;

use crate::node::Node;

/// How often whoever waits is told how far it is.
const TELL: Duration = Duration::from_millis(200);

/// Orders that wait at a leader; more are turned down.
const MAX_ORDERS: usize = 1024;

/// Gets what becomes of an order given at this node.
pub(crate) type OrderReply = mpsc::UnboundedSender<OrderOutcome>;

enum Asker {
    Local(OrderReply),
    Remote { node: NodeId, boot: u64, token: u64 },
}

/// An order at the leader.
struct Pending {
    asker: Asker,
    order: Order,
    deadline: Instant,
    state: State,
    told_at: Instant,
}

enum State {
    /// Not begun: a learner has to catch up, or the leader's term has yet to begin.
    Waiting,
    /// Begun: over when it has nothing more to change, and that is committed.
    Changing,
    Transferring,
}

/// The orders of a node.
#[derive(Default)]
pub(crate) struct Orders {
    pending: Vec<Pending>,
    /// Passed on to a leader, by token.
    out: BTreeMap<u64, (NodeId, OrderReply)>,
    tokens: u64,
    /// A transfer of this leader was given up.
    transfer_ended: bool,
}

impl Orders {
    /// Whether anything here has to be looked at as time goes on.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn on_transfer_ended(&mut self) {
        self.transfer_ended = true;
    }

    /// What was sent to `peer` may not have arrived.
    pub(crate) fn lost(&mut self, peer: NodeId) {
        self.out.retain(|_, (leader, reply)| {
            let lost = *leader == peer;
            if lost {
                drop(reply.send(OrderOutcome::NotLeader(None)));
            }
            !lost
        });
    }
}

impl Node {
    /// An order given at this node.
    pub(crate) fn on_own_order(&mut self, now: Instant, order: Order, reply: OrderReply) {
        if self.engine.role() == RoleKind::Leader {
            self.take_order(now, Asker::Local(reply), order);
            return;
        }
        let leader = self.engine.leader();
        self.orders.tokens += 1;
        let token = self.orders.tokens;
        let message = Message::Order(Order { boot: self.boot(), token, ..order });
        let sent = leader.is_some_and(|leader| {
            self.lanes(leader).is_some_and(|lanes| lanes.send_clients(message))
        });
        // Whoever heard nothing has given its order again by now.
        self.orders.out.retain(|_, (_, reply)| !reply.is_closed());
        match leader.filter(|_| sent) {
            Some(leader) => drop(self.orders.out.insert(token, (leader, reply))),
            None => drop(reply.send(OrderOutcome::NotLeader(None))),
        }
    }

    /// An order that another node passes on.
    pub(crate) fn on_order(&mut self, now: Instant, from: NodeId, order: Order) {
        let asker = Asker::Remote { node: from, boot: order.boot, token: order.token };
        let member = self.engine.log().membership().is_some_and(|m| m.member(from).is_some());
        if self.engine.role() == RoleKind::Leader && member {
            self.take_order(now, asker, order);
        } else {
            let leader = self.engine.leader();
            self.answer(&asker, OrderOutcome::NotLeader(leader));
        }
    }

    /// What became of an order that was passed on.
    pub(crate) fn on_ordered(&mut self, from: NodeId, m: Ordered) {
        let known = self.orders.out.get(&m.token);
        let Some((_, reply)) = known.filter(|(leader, _)| *leader == from) else { return };
        if m.boot != self.boot() {
            return;
        }
        let over = !matches!(m.outcome, OrderOutcome::Waiting { .. });
        let gone = reply.send(m.outcome).is_err();
        if over || gone {
            self.orders.out.remove(&m.token);
        }
    }

    fn take_order(&mut self, now: Instant, asker: Asker, order: Order) {
        if self.orders.pending.len() >= MAX_ORDERS {
            self.answer(&asker, OrderOutcome::InProgress);
            return;
        }
        // The same order once more takes the place of the first.
        if let Asker::Remote { node, boot, token } = asker {
            self.orders.pending.retain(|p| match p.asker {
                Asker::Remote { node: n, boot: b, token: t } => (n, b, t) != (node, boot, token),
                Asker::Local(_) => true,
            });
        }
        let deadline = now + order.timeout;
        let state = State::Waiting;
        self.orders.pending.push(Pending { asker, order, deadline, state, told_at: now });
    }

    fn answer(&mut self, asker: &Asker, outcome: OrderOutcome) {
        match asker {
            // Who is gone does not want to know.
            Asker::Local(reply) => drop(reply.send(outcome)),
            Asker::Remote { node, boot, token } => {
                let (boot, token) = (*boot, *token);
                if let Some(lanes) = self.lanes(*node) {
                    lanes.send_clients(Message::Ordered(Ordered { boot, token, outcome }));
                }
            }
        }
    }

    /// Does what can be done of the orders that wait. Called once a turn.
    pub(crate) fn go_on_with_orders(&mut self, now: Instant) {
        for mut pending in std::mem::take(&mut self.orders.pending) {
            let outcome = match &pending.state {
                State::Waiting => self.begin_order(now, &mut pending),
                State::Changing => self.is_changed(&pending.order.kind),
                State::Transferring => self.is_transferred(),
            };
            let outcome = outcome.or((now >= pending.deadline).then_some(OrderOutcome::TimedOut));
            if let Some(outcome) = outcome {
                self.answer(&pending.asker, outcome);
                continue;
            }
            if now.since(pending.told_at) >= TELL {
                pending.told_at = now;
                self.tell_progress(&pending);
            }
            self.orders.pending.push(pending);
        }
        self.orders.transfer_ended = false;
    }

    fn tell_progress(&mut self, pending: &Pending) {
        let learner = match &pending.order.kind {
            OrderKind::Promote { id } | OrderKind::Swap { with: id, .. } => *id,
            _ => 0,
        };
        let matched = self.engine.matched().find(|(id, _)| *id == learner).map_or(0, |(_, m)| m);
        let outcome = OrderOutcome::Waiting { matched, last: self.engine.log().last().index };
        self.answer(&pending.asker, outcome);
    }

    /// Begins an order, if it can begin. Returns what became of it if it is over.
    fn begin_order(&mut self, now: Instant, pending: &mut Pending) -> Option<OrderOutcome> {
        if self.engine.role() != RoleKind::Leader {
            return Some(OrderOutcome::NotLeader(self.engine.leader()));
        }
        let order = &pending.order;
        if let OrderKind::Transfer { to } = order.kind {
            if to == Some(self.identity.node) {
                return Some(OrderOutcome::Leads(self.identity.node));
            }
            let (to, deadline) = (to, pending.deadline);
            return match self.ask(now, Input::Transfer { to, deadline }) {
                Ok(()) => {
                    pending.state = State::Transferring;
                    None
                }
                Err(decline) => self.declined_order(decline),
            };
        }
        let (at, current) = self.engine.configuration().expect("a leader has a configuration");
        if order.expected.is_some_and(|seen| seen != at) {
            return Some(OrderOutcome::Changed);
        }
        let to = match target(current, &order.kind, order.again) {
            Ok(to) => to,
            Err(outcome) => return Some(*outcome),
        };
        if to == *current {
            pending.state = State::Changing;
            return self.is_changed(&order.kind);
        }
        let change = Input::ChangeMembership { to, expected: order.expected };
        match self.ask(now, change) {
            Ok(()) => {
                pending.state = State::Changing;
                None
            }
            Err(decline) => self.declined_order(decline),
        }
    }

    fn declined_order(&self, decline: Decline) -> Option<OrderOutcome> {
        match decline {
            Decline::NotLeader { leader } => Some(OrderOutcome::NotLeader(leader)),
            Decline::Transferring => Some(OrderOutcome::InProgress),
            Decline::ChangeInProgress => {
                let busy = self.engine.is_changing() || self.engine.transferring().is_some();
                // Otherwise it is the leader's term that has yet to begin.
                busy.then_some(OrderOutcome::InProgress)
            }
            Decline::ConfigurationChanged => Some(OrderOutcome::Changed),
            Decline::NotCaughtUp { .. } => None,
            other => Some(OrderOutcome::Refused(other.to_string())),
        }
    }

    /// Whether the configuration in force is committed and has what was asked for; it may have more,
    /// of another order. Who does not lead any more can tell as well, if it was committed before it
    /// went.
    fn is_changed(&self, kind: &OrderKind) -> Option<OrderOutcome> {
        let (at, now) = self.engine.configuration()?;
        let done = target(now, kind, true).is_ok_and(|to| to == *now);
        if !now.is_joint() && done && at.index <= self.engine.log().committed() {
            return Some(OrderOutcome::Done { membership: now.clone(), at });
        }
        let leads = self.engine.role() == RoleKind::Leader;
        (!leads).then(|| OrderOutcome::NotLeader(self.engine.leader()))
    }

    fn is_transferred(&self) -> Option<OrderOutcome> {
        let leads = self.engine.role() == RoleKind::Leader;
        match self.engine.leader() {
            Some(leader) if !leads => Some(OrderOutcome::Leads(leader)),
            _ if self.orders.transfer_ended => Some(OrderOutcome::TimedOut),
            _ => None,
        }
    }
}

/// The membership that `kind` makes of `current`.
fn target(
    current: &Membership,
    kind: &OrderKind,
    again: bool,
) -> Result<Membership, Box<OrderOutcome>> {
    let refused = |error: MembershipError| {
        Box::new(match error {
            MembershipError::NotAMember(id) => OrderOutcome::UnknownMember(id),
            other => OrderOutcome::Refused(other.to_string()),
        })
    };
    // What was asked for before, and is done.
    let gone = |id: &NodeId| again && current.member(*id).is_none();
    // Of a change that is under way only where it leads to: it is declined in any case.
    let next = current.settled();
    match kind {
        OrderKind::AddLearner { id, address, witness } => {
            if let Some(member) = current.member(*id) {
                if member.address != *address || member.witness != *witness {
                    let known = format!("node {id} is a member already, at {}", member.address);
                    return Err(Box::new(OrderOutcome::Refused(known)));
                }
                return Ok(current.clone());
            }
            let next = next.with_learner(*id, address.clone()).map_err(refused)?;
            if *witness { next.with_witness(*id).map_err(refused) } else { Ok(next) }
        }
        OrderKind::Promote { id } => next.promoted(*id).map_err(refused),
        OrderKind::Demote { id } => next.demoted(*id).map_err(refused),
        OrderKind::Remove { id } if gone(id) => Ok(current.clone()),
        OrderKind::Remove { id } => next.without(*id).map_err(refused),
        OrderKind::Swap { id, with } => {
            let next = next.promoted(*with).map_err(refused)?;
            if gone(id) { Ok(next) } else { next.without(*id).map_err(refused) }
        }
        OrderKind::SetVoters { voters } => {
            let mut next = next;
            for id in voters {
                next = next.promoted(*id).map_err(refused)?;
            }
            for id in current.voters().iter().filter(|id| !voters.contains(id)) {
                next = next.demoted(*id).map_err(refused)?;
            }
            Ok(next)
        }
        OrderKind::SetAddress { id, address } => {
            next.with_address(*id, address.clone()).map_err(refused)
        }
        _ => {
            let unknown = "an order that this version does not know";
            Err(Box::new(OrderOutcome::Refused(unknown.into())))
        }
    }
}
