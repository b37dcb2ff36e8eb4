//! Customers that move money all the time, each in a session of its own, until they are told to stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use quorate::{Client, ClientSession, WriteError};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::bank::{Bank, Command, Response};
use crate::ledger::Ledger;

/// How long an answer may take, whatever is done to the nodes meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Customers at work.
pub struct Customers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Ledger>>,
}

impl Customers {
    /// One customer for each client. The commands are those of `seed`.
    pub fn start(clients: impl IntoIterator<Item = Client<Bank>>, seed: u64) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..).zip(clients).map(|(customer, client)| {
            let (stop, answered) = (stop.clone(), answered.clone());
            tokio::spawn(work(client, Ledger::new(customer, seed), stop, answered))
        });
        Self { tasks: tasks.collect(), stop, answered }
    }

    /// How many commands were answered until now.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more commands were answered, and tells `progress` how many there are.
    ///
    /// # Errors
    /// They were not for a minute.
    pub async fn go_on(&self, more: u64, mut progress: impl FnMut(u64)) -> Result<(), String> {
        let (goal, deadline) = (self.answered() + more, Instant::now() + PATIENCE);
        while self.answered() < goal {
            if Instant::now() > deadline {
                return Err(format!("less than {more} commands were answered in {PATIENCE:?}"));
            }
            progress(self.answered());
            sleep(Duration::from_millis(10)).await;
        }
        progress(self.answered());
        Ok(())
    }

    /// Lets each finish what it has under way; their books.
    ///
    /// # Panics
    /// If a customer has.
    pub async fn finish(self) -> Vec<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = futures::future::join_all(self.tasks).await;
        ended.into_iter().map(|ledger| ledger.expect("no customer panics")).collect()
    }
}

/// One customer. It never looks whether a command may be sent again: in a session every one may be.
async fn work(
    client: Client<Bank>,
    mut ledger: Ledger,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Ledger {
    let session = match open(&client).await {
        Ok(session) => session,
        Err(error) => {
            ledger.wrong.push(format!("no session could be opened: {error}"));
            return ledger;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        let command = ledger.next_command();
        match session.write_once(command.clone()).await {
            Ok(once) => {
                ledger.answered(&command, &once.response);
                ledger.repeated += u64::from(once.repeated);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                ledger.unanswered(&command, &error);
                break;
            }
        }
    }
    ledger
}

/// A session. One that was opened without an answer lapses by itself, so trying again is harmless.
async fn open(client: &Client<Bank>) -> Result<ClientSession<Bank>, WriteError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.session().await {
            Ok(session) => return Ok(session.with_timeout(PATIENCE)),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// All balances, at one moment after everything that was answered before.
///
/// # Errors
/// No answer for a minute.
pub async fn audit(client: &Client<Bank>) -> Result<BTreeMap<u32, u64>, WriteError> {
    match open(client).await?.write(Command::Audit).await? {
        Response::Balances(balances) => Ok(balances),
        other => unreachable!("an audit is answered with balances, not {other:?}"),
    }
}
