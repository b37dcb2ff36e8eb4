//! The task of a client: owns its connections and its calls, finds the leader, and sends again what may
//! be sent again.
//!
//! All calls go to one node, pipelined on one connection: the leader, once a node that is not has said
//! where it is. A connection that is left stays open until what was sent on it is answered. So calls
//! are in one of four states, and in order of their tokens in each:
//!
//! ```text
//!            answered NotLeader, Overwritten, or never written
//!          +-------------------------------------------------+
//!          v                                                 |
//! asked -> Ready --- a connection is open ----------------> Sent --> answered
//!          ^                                                 | \
//!          +---- pause over ---- Later <---- Overloaded -----+  connection lost: Unknown, or Ready
//! ```
//! In each of them a call ends at its deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use quorate_engine::{GroupId, Instant};
use quorate_network::tcp::{ClientError, TcpOptions};
use quorate_network::{Backoff, Call, CallKind, CallOutcome, Called};
use tokio::sync::{mpsc, oneshot};

use super::link::{Heard, LinkTask};
use super::rules::{Addresses, Verdict, judge, leaves_doubt, may_be_sent_twice};
use crate::crew::GiveWay;
use crate::env::Env;

/// What one turn takes from each queue at most.
const TURN: usize = 4096;

/// While some node can be reached, pauses are at most this part of the longest: an election takes about as
/// long as that, and who waits for one is not to sleep through as long again.
const ELECTION_SHARE: u32 = 8;

/// The token of the status that is asked for on each new connection, to learn of the members.
const LEARNING: u64 = 0;

/// A call on its way from a handle to the task.
pub(super) struct Asked {
    pub(super) kind: CallKind,
    /// What it takes of the bytes in flight.
    pub(super) cost: usize,
    pub(super) deadline: Instant,
    /// The caller; told once, and never if the task ends.
    pub(super) reply: oneshot::Sender<CallOutcome>,
}

/// One client.
pub(super) struct ClientTask {
    env: Arc<dyn Env>,
    cluster: Arc<str>,
    group: GroupId,
    options: TcpOptions,
    /// From handles; closed when the last is dropped. Bounded in bytes by them.
    asked: mpsc::UnboundedReceiver<Asked>,
    in_flight_bytes: Arc<AtomicUsize>,
    heard: mpsc::UnboundedReceiver<(u64, Heard)>,
    /// For each new connection.
    tell: mpsc::UnboundedSender<(u64, Heard)>,
    /// Every call that is not answered, by token.
    calls: BTreeMap<u64, Waiting>,
    ready: BTreeSet<u64>,
    later: BTreeSet<(Instant, u64)>,
    deadlines: BTreeSet<(Instant, u64)>,
    links: BTreeMap<u64, Link>,
    route: Route,
    addresses: Addresses,
    /// Of its pauses when nobody can be reached.
    backoff: Backoff,
    /// And while somebody can, who knows no leader.
    election: Backoff,
    /// Addresses in a row where nobody was reached.
    unreached: usize,
    /// Whether a hint was followed without a pause since the last pause, or since a call was answered.
    redirected: bool,
    /// Nodes that have refused this client, one after the other.
    refusals: usize,
    last_token: u64,
    last_link: u64,
}

/// A call that is not answered.
struct Waiting {
    kind: CallKind,
    cost: usize,
    deadline: Instant,
    reply: oneshot::Sender<CallOutcome>,
    state: State,
    /// Of its pauses when nodes are overloaded; `None` before the first.
    backoff: Option<Box<Backoff>>,
    /// A node had no room for it last time it was asked.
    overloaded: bool,
    /// A node may have done it, in an attempt of which nobody knows what became.
    doubtful: bool,
}

impl Waiting {
    /// Whether it was sent on the connection `id`.
    fn is_sent_on(&self, id: u64) -> bool {
        matches!(self.state, State::Sent { link, .. } if link == id)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Later(Instant),
    Sent { link: u64, at: Instant },
}

/// A connection.
struct Link {
    address: String,
    calls: mpsc::UnboundedSender<Call>,
    open: bool,
    /// How many calls were sent on it and are not answered.
    sent: usize,
    /// When it was last answered on.
    answered_at: Instant,
}

/// Where calls go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Nowhere, and a connection is not tried before this.
    Closed(Instant),
    /// A connection is being opened.
    Opening(u64),
    /// To a node.
    Open(u64),
}

/// What a task begins with.
pub(super) struct Origin {
    pub(super) env: Arc<dyn Env>,
    pub(super) cluster: String,
    pub(super) group: GroupId,
    pub(super) addresses: Vec<String>,
    pub(super) options: TcpOptions,
    pub(super) asked: mpsc::UnboundedReceiver<Asked>,
    pub(super) in_flight_bytes: Arc<AtomicUsize>,
}

impl ClientTask {
    pub(super) fn new(origin: Origin) -> Self {
        let Origin { env, cluster, group, addresses, options, asked, in_flight_bytes } = origin;
        let (tell, heard) = mpsc::unbounded_channel();
        let (seed, backoff) = (options.seed, options.backoff(options.seed));
        let longest = (options.backoff_max / ELECTION_SHARE).max(options.backoff_min);
        let election = Backoff::new(options.backoff_min, longest, seed);
        Self {
            env,
            cluster: cluster.into(),
            group,
            options,
            asked,
            in_flight_bytes,
            heard,
            tell,
            calls: BTreeMap::new(),
            ready: BTreeSet::new(),
            later: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            links: BTreeMap::new(),
            route: Route::Closed(Instant::ORIGIN),
            addresses: Addresses::new(addresses, seed),
            backoff,
            election,
            unreached: 0,
            redirected: false,
            refusals: 0,
            last_token: LEARNING,
            last_link: 0,
        }
    }

    /// Runs until the last handle is gone.
    pub(super) async fn run(mut self) {
        let env = self.env.clone();
        let (mut asked, mut heard) = (Vec::new(), Vec::new());
        let mut way = Fuse::terminated();
        let mut timer = env.sleep(Duration::MAX);
        let mut armed: Option<Instant> = None;
        loop {
            // Set again only for an earlier moment; it may fire for nothing now and then.
            if let Some(at) = self.next_moment().filter(|at| armed.is_none_or(|armed| *at < armed))
            {
                timer = env.sleep(at.since(env.now()));
                armed = Some(at);
            }
            tokio::select! { biased;
                () = &mut way => {}
                _ = self.heard.recv_many(&mut heard, TURN) => {}
                count = self.asked.recv_many(&mut asked, TURN), if way.is_terminated() => {
                    if count == 0 {
                        return;
                    }
                }
                () = &mut timer, if armed.is_some() => armed = None,
            }
            while way.is_terminated() && asked.len() < TURN {
                let Ok(one) = self.asked.try_recv() else { break };
                asked.push(one);
            }
            let now = env.now();
            let waited = self.calls.len();
            for (link, heard) in heard.drain(..) {
                self.on_heard(now, link, heard);
            }
            let answered = waited - self.calls.len();
            if way.is_terminated() && (answered > 1 || asked.len() > 1) {
                // Under load the callers go first: those who were answered ask again, and what they ask
                // for is one batch.
                way = GiveWay::default().fuse();
            }
            for asked in asked.drain(..) {
                self.on_asked(asked);
            }
            self.on_time(now);
            self.go_on(now);
        }
    }

    fn next_moment(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, u64)>| set.first().map(|(at, _)| *at);
        let connect = match self.route {
            Route::Closed(at) if !self.ready.is_empty() => Some(at),
            _ => None,
        };
        [first(&self.deadlines), first(&self.later), connect].into_iter().flatten().min()
    }

    fn on_asked(&mut self, asked: Asked) {
        self.last_token += 1;
        let token = self.last_token;
        let Asked { kind, cost, deadline, reply } = asked;
        let (state, backoff) = (State::Ready, None);
        let (overloaded, doubtful) = (false, false);
        let waiting = Waiting { kind, cost, deadline, reply, state, backoff, overloaded, doubtful };
        self.calls.insert(token, waiting);
        self.ready.insert(token);
        self.deadlines.insert((deadline, token));
    }

    /// Deadlines, and pauses that are over.
    fn on_time(&mut self, now: Instant) {
        while let Some((_, token)) = self.deadlines.first().filter(|(at, _)| *at <= now).copied() {
            self.expire(now, token);
        }
        while let Some((_, token)) = self.later.first().filter(|(at, _)| *at <= now).copied() {
            self.put(token, State::Ready);
        }
    }

    fn expire(&mut self, now: Instant, token: u64) {
        let waiting = &self.calls[&token];
        let (state, matters) = (waiting.state, leaves_doubt(&waiting.kind));
        let outcome = match state {
            State::Sent { .. } if matters => CallOutcome::Unknown,
            _ if waiting.overloaded => CallOutcome::Overloaded,
            _ => CallOutcome::Timeout,
        };
        self.finish(token, outcome);
        if let State::Sent { link: id, at } = state {
            // Nothing at all was heard since it was sent: the node may be cut off from the others.
            if self.links.get(&id).is_some_and(|link| link.answered_at < at) {
                self.leave(now, id, None);
            }
            self.close_if_idle(id);
        }
    }

    /// The call is over.
    fn finish(&mut self, token: u64, outcome: CallOutcome) {
        let done = matches!(outcome, CallOutcome::Applied(_) | CallOutcome::Repeated(_));
        let waiting = self.calls.remove(&token).expect("only calls that wait end");
        // What the last attempt has come to says nothing about the one before.
        let doubtful = waiting.doubtful && !done;
        let outcome = if doubtful { CallOutcome::Unknown } else { outcome };
        self.take_out(token, waiting.state);
        self.deadlines.remove(&(waiting.deadline, token));
        self.in_flight_bytes.fetch_sub(waiting.cost, Ordering::Relaxed);
        // A caller that has gone away does not want to know.
        drop(waiting.reply.send(outcome));
    }

    /// Moves a call from where it is to where it is to be.
    fn put(&mut self, token: u64, state: State) {
        let waiting = self.calls.get_mut(&token).expect("only calls that wait are moved");
        let was = std::mem::replace(&mut waiting.state, state);
        self.take_out(token, was);
        match state {
            State::Ready => drop(self.ready.insert(token)),
            State::Later(at) => drop(self.later.insert((at, token))),
            State::Sent { link, .. } => {
                let link = self.links.get_mut(&link).expect("it was sent on a connection there is");
                link.sent += 1;
            }
        }
    }

    /// Takes a call out of where it was.
    fn take_out(&mut self, token: u64, was: State) {
        match was {
            State::Ready => drop(self.ready.remove(&token)),
            State::Later(at) => drop(self.later.remove(&(at, token))),
            State::Sent { link, .. } => {
                // None once the connection has ended.
                self.links.get_mut(&link).into_iter().for_each(|link| link.sent -= 1);
            }
        }
    }

    // ---- connections ----

    fn on_heard(&mut self, now: Instant, id: u64, heard: Heard) {
        match heard {
            Heard::Opened => {
                let Some(link) = self.links.get_mut(&id) else { return };
                link.open = true;
                let timeout = self.options.probe_interval;
                drop(link.calls.send(Call { token: LEARNING, timeout, kind: CallKind::Status }));
                (self.refusals, self.unreached) = (0, 0);
                self.route = Route::Open(id);
            }
            Heard::Failed(error) => self.on_failed(now, id, &error),
            Heard::Answers(answers) => {
                for called in answers {
                    self.on_answer(now, id, called);
                }
                self.close_if_idle(id);
            }
            Heard::Ended { unsent } => self.on_ended(now, id, &unsent),
        }
    }

    fn on_failed(&mut self, now: Instant, id: u64, error: &ClientError) {
        tracing::debug!(%error, "no connection to a node");
        self.links.remove(&id);
        self.unreached += 1;
        self.pause(now);
        let ClientError::Refused { .. } = error else {
            self.refusals = 0;
            return;
        };
        self.refusals += 1;
        if self.refusals >= self.addresses.count() {
            // Nobody wants this client: waiting does not help.
            self.refusals = 0;
            self.refuse(&error.to_string());
        }
    }

    /// Tells those who wait for a connection that there will be none.
    fn refuse(&mut self, why: &str) {
        for token in self.ready.clone() {
            self.finish(token, CallOutcome::Refused(why.to_owned()));
        }
    }

    fn on_ended(&mut self, now: Instant, id: u64, unsent: &[u64]) {
        if self.links.remove(&id).is_none() {
            return;
        }
        if self.route == Route::Open(id) {
            self.pause(now);
        }
        let sent = self.calls.iter().filter(|(_, waiting)| waiting.is_sent_on(id));
        let sent: Vec<u64> = sent.map(|(token, _)| *token).collect();
        for token in sent {
            let waiting = self.calls.get_mut(&token).expect("found a moment ago");
            if unsent.contains(&token) {
                self.put(token, State::Ready);
            } else if may_be_sent_twice(&waiting.kind) {
                waiting.doubtful = leaves_doubt(&waiting.kind);
                self.put(token, State::Ready);
            } else {
                // The node may have heard of it, and may have done it.
                self.finish(token, CallOutcome::Unknown);
            }
        }
    }

    fn on_answer(&mut self, now: Instant, id: u64, called: Called) {
        let Called { token, outcome } = called;
        if let CallOutcome::Status(status) = &outcome {
            self.addresses.learn(status);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.answered_at = now;
        // None if it was given up or sent elsewhere meanwhile, or learned from.
        let waiting = self.calls.get_mut(&token).filter(|waiting| waiting.is_sent_on(id));
        let Some(waiting) = waiting else { return };
        waiting.overloaded = outcome == CallOutcome::Overloaded;
        waiting.doubtful |= outcome == CallOutcome::Unknown && leaves_doubt(&waiting.kind);
        let verdict = judge(&waiting.kind, outcome);
        match verdict {
            Verdict::Done(outcome) => {
                self.backoff.reset();
                self.election.reset();
                self.redirected = false;
                self.finish(token, outcome);
            }
            Verdict::Later => {
                let begun = || Box::new(self.options.backoff(self.options.seed ^ token));
                let at = now + waiting.backoff.get_or_insert_with(begun).pause();
                self.put(token, State::Later(at));
            }
            Verdict::Again => self.put(token, State::Ready),
            Verdict::Elsewhere(hint) => {
                self.put(token, State::Ready);
                self.leave(now, id, hint);
            }
        }
    }

    /// Sends nothing more to the node of a connection, and goes to where the leader is said to be, or
    /// to the next node. Of hints in a row that lead nowhere every second is followed after a pause.
    fn leave(&mut self, now: Instant, id: u64, hint: Option<String>) {
        if self.route != Route::Open(id) {
            return;
        }
        let hint = hint.filter(|hint| *hint != self.links[&id].address);
        if hint.is_some() && !self.redirected {
            self.redirected = true;
            self.route = Route::Closed(now);
        } else {
            self.pause(now);
        }
        if let Some(hint) = hint {
            self.addresses.hint(hint);
        }
        self.close_if_idle(id);
    }

    fn pause(&mut self, now: Instant) {
        self.redirected = false;
        let everywhere = self.unreached >= self.addresses.count();
        let backoff = if everywhere { &mut self.backoff } else { &mut self.election };
        self.route = Route::Closed(now + backoff.pause());
    }

    /// Lets go of a connection on which nothing is sent and nothing expected.
    fn close_if_idle(&mut self, id: u64) {
        let idle = self.links.get(&id).is_some_and(|link| link.sent == 0);
        if idle && self.route != Route::Open(id) {
            self.links.remove(&id);
        }
    }

    /// Sends what is ready, or sees to it that it can be sent.
    fn go_on(&mut self, now: Instant) {
        match self.route {
            Route::Closed(at) if at <= now && !self.ready.is_empty() => {
                let Some(address) = self.addresses.next() else {
                    return self.refuse("no address was given to this client; give any member's");
                };
                let open = |(_, link): &(&u64, &Link)| link.open && link.address == address;
                match self.links.iter().find(open) {
                    Some((id, _)) => {
                        self.route = Route::Open(*id);
                        self.send(now, *id);
                    }
                    None => self.open(now, address),
                }
            }
            Route::Open(id) => self.send(now, id),
            Route::Closed(_) | Route::Opening(_) => {}
        }
    }

    fn open(&mut self, now: Instant, address: String) {
        self.last_link += 1;
        let id = self.last_link;
        let (to, calls) = mpsc::unbounded_channel();
        let task = LinkTask {
            id,
            address: address.clone(),
            cluster: self.cluster.clone(),
            group: self.group,
            options: self.options.clone(),
            env: self.env.clone(),
            calls,
            heard: self.tell.clone(),
        };
        drop(self.env.spawn(Box::pin(task.run())));
        let (open, sent) = (false, 0);
        self.links.insert(id, Link { address, calls: to, open, sent, answered_at: now });
        self.route = Route::Opening(id);
    }

    fn send(&mut self, now: Instant, id: u64) {
        for token in std::mem::take(&mut self.ready) {
            let waiting = &self.calls[&token];
            if waiting.reply.is_closed() {
                self.finish(token, CallOutcome::Timeout);
                continue;
            }
            let timeout = waiting.deadline.since(now);
            let call = Call { token, timeout, kind: waiting.kind.clone() };
            if self.links[&id].calls.send(call).is_ok() {
                self.put(token, State::Sent { link: id, at: now });
            } else {
                // The connection has just ended, and says so in a moment.
                self.ready.insert(token);
            }
        }
    }
}
