//! Changes of membership and of leadership, as an application asks for them.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::{Index, Instant, LogId, Membership, NodeId};
use quorate_network::{Order, OrderKind, OrderOutcome};
use tokio::sync::mpsc;

use crate::control::{Control, ControlSender};
use crate::env::Env;
use crate::error::{ChangeError, TransferError};

/// How long a change may take unless it is told otherwise: time for a learner to copy a log.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before an order is given again.
const AGAIN: Duration = Duration::from_millis(50);

/// How far a node that joins is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// The last entry that it has durably; 0 while a snapshot is on its way to it.
    pub matched: Index,
    /// The last entry of the leader.
    pub last: Index,
}

/// What an order needs of its node.
#[derive(Clone)]
pub(crate) struct Orderer {
    pub(crate) control: ControlSender,
    pub(crate) env: Arc<dyn Env>,
    /// Longer without a word, and the leader is taken for lost.
    pub(crate) silence: Duration,
}

type Progress<'a> = Box<dyn FnMut(CatchUp) + Send + 'a>;

/// A change of membership that is about to be made: set what it needs, and await it. Returns the
/// membership when it is in force and committed.
///
/// ```
/// # use quorate::{InProcess, Raft, testing::Counter};
/// # use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let network = InProcess::new();
/// # let start = async |id| {
/// #     let raft = Raft::builder(id, Counter::default()).in_memory().network(Arc::new(network.clone()));
/// #     let raft = raft.start().await.unwrap();
/// #     network.join(id, raft.host().inbound());
/// #     raft
/// # };
/// let first = start(1).await;
/// first.initialize([(1, "node-1")]).await?;
/// let _second = start(2).await; // runs, and waits to be contacted
/// let members = first
///     .add_voter(2, "node-2")
///     .progress(|at| println!("{} of {} entries", at.matched, at.last))
///     .await?;
/// assert_eq!(members.voters().iter().collect::<Vec<_>>(), [&1, &2]);
/// # Ok(()) }
/// ```
///
/// May be asked for at any node: one that does not lead passes it on. If the leader is lost, it is
/// given to the next one; what is there already is not changed again. Dropping the future does not
/// take back what has begun.
#[must_use = "nothing happens before it is awaited"]
pub struct MembershipChange<'a> {
    orderer: Orderer,
    steps: Vec<OrderKind>,
    expected: Option<LogId>,
    timeout: Duration,
    progress: Option<Progress<'a>>,
}

impl<'a> MembershipChange<'a> {
    pub(crate) fn new(orderer: Orderer, steps: Vec<OrderKind>) -> Self {
        Self { orderer, steps, expected: None, timeout: CHANGE_TIMEOUT, progress: None }
    }

    /// Only if the configuration in force stands at this entry, which
    /// [`Metrics::configured_at`](crate::Metrics::configured_at) tells; otherwise
    /// [`ChangeError::Changed`].
    pub fn expecting(mut self, at: LogId) -> Self {
        self.expected = Some(at);
        self
    }

    /// Gives up after this time. Default 60 s. A node that was to join stays a learner then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Calls `f` about five times a second while a node catches up.
    pub fn progress(mut self, f: impl FnMut(CatchUp) + Send + 'a) -> Self {
        self.progress = Some(Box::new(f));
        self
    }

    async fn run(mut self) -> Result<Arc<Membership>, ChangeError> {
        let deadline = self.orderer.env.now() + self.timeout;
        let mut membership = None;
        for step in std::mem::take(&mut self.steps) {
            let progress = &mut self.progress;
            let told = |at| progress.iter_mut().for_each(|f| f(at));
            match self.orderer.give(step, self.expected, deadline, told).await? {
                OrderOutcome::Done { membership: now, at: _ } => membership = Some(now),
                other => unreachable!("{other:?} is no end of a change"),
            }
            // The first step has made another one of it.
            self.expected = None;
        }
        Ok(Arc::new(membership.expect("a change has a step")))
    }
}

impl<'a> IntoFuture for MembershipChange<'a> {
    type Output = Result<Arc<Membership>, ChangeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Orderer {
    /// Has another node lead.
    pub(crate) async fn transfer(
        &self,
        to: Option<NodeId>,
        timeout: Duration,
    ) -> Result<NodeId, TransferError> {
        let deadline = self.env.now() + timeout;
        match self.give(OrderKind::Transfer { to }, None, deadline, |_| ()).await {
            Ok(OrderOutcome::Leads(leader)) if to.is_none_or(|to| to == leader) => Ok(leader),
            Ok(OrderOutcome::Leads(leader)) => Err(TransferError::Other { leader }),
            Ok(other) => unreachable!("{other:?} is no end of a transfer"),
            Err(ChangeError::Refused(why)) => Err(TransferError::Refused(why)),
            Err(ChangeError::InProgress) => Err(TransferError::InProgress),
            Err(ChangeError::Stopped) => Err(TransferError::Stopped),
            Err(_) => Err(TransferError::Timeout),
        }
    }

    /// Gives an order to whoever leads until it is over: [`OrderOutcome::Done`] or
    /// [`OrderOutcome::Leads`].
    async fn give(
        &self,
        kind: OrderKind,
        expected: Option<LogId>,
        deadline: Instant,
        mut told: impl FnMut(CatchUp),
    ) -> Result<OrderOutcome, ChangeError> {
        let joins = matches!(
            kind,
            OrderKind::Promote { .. } | OrderKind::Swap { .. } | OrderKind::SetVoters { .. }
        );
        let mut waited = false;
        let mut again = false;
        loop {
            let late =
                |waited| if waited { ChangeError::NotCaughtUp } else { ChangeError::NoLeader };
            let now = self.env.now();
            if now >= deadline {
                return Err(late(waited));
            }
            let order = Order {
                boot: 0,
                token: 0,
                timeout: deadline.since(now),
                again,
                expected: expected.filter(|_| !again),
                kind: kind.clone(),
            };
            let (reply, mut outcomes) = mpsc::unbounded_channel();
            self.control.send(Control::Order { order, reply });
            let outcome = loop {
                let left = deadline.since(self.env.now());
                let outcome = tokio::select! { biased;
                    outcome = outcomes.recv() => outcome,
                    () = self.env.sleep(self.silence.min(left)) => {
                        // Nothing is heard of it: the message or its answer was lost.
                        Some(OrderOutcome::NotLeader(None))
                    }
                };
                match outcome {
                    Some(OrderOutcome::Waiting { matched, last }) => {
                        waited = joins;
                        told(CatchUp { matched, last });
                    }
                    other => break other,
                }
            };
            match outcome {
                None => return Err(ChangeError::Stopped),
                Some(done @ (OrderOutcome::Done { .. } | OrderOutcome::Leads(_))) => {
                    return Ok(done);
                }
                Some(OrderOutcome::InProgress) if !again => return Err(ChangeError::InProgress),
                Some(OrderOutcome::InProgress | OrderOutcome::NotLeader(_)) => {}
                Some(OrderOutcome::Changed) => return Err(ChangeError::Changed),
                Some(OrderOutcome::UnknownMember(id)) => {
                    return Err(ChangeError::UnknownMember(id));
                }
                Some(OrderOutcome::TimedOut) => return Err(late(waited)),
                Some(OrderOutcome::Refused(why)) => return Err(ChangeError::Refused(why)),
                Some(other) => unreachable!("{other:?} is taken above, or of a newer release"),
            }
            again = true;
            self.env.sleep(AGAIN).await;
        }
    }
}
