//! A node that joins a cluster that runs: it asks a member to be added, and waits for its place.
//!
//! What is asked for is what is to be, so it may be asked for again and again: while there is no
//! leader, while another change is under way, and while the log is still being copied. Only a blank
//! node asks to be added. One that was removed stays removed, however often it is started.

use std::time::Duration;

use quorate::{Metrics, Raft};

use crate::admin::{CHANGE_TIMEOUT, Change};
use crate::client::{CallError, Client, Server};
use crate::error::Exit;
use crate::store::Store;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// How long the leader may take to reach a node that it has as a member, before that is told.
const REACH: Duration = Duration::from_secs(10);

/// Where and as what a node joins.
#[derive(Clone, Debug)]
pub struct Join {
    /// A member.
    pub server: Server,
    /// Where the others find this node.
    pub address: String,
    /// As what.
    pub role: Role,
}

/// As what a node joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To vote.
    Voter,
    /// To receive, and not to vote.
    Learner,
    /// To vote, and not to receive.
    Witness,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Witness => "witness",
        }
    }
}

/// What a node is, as far as it knows.
enum Place {
    /// It has no log.
    Blank,
    Voter,
    Learner,
    /// It was a member once.
    None,
}

fn place(metrics: &Metrics) -> Place {
    match &metrics.membership {
        None => Place::Blank,
        Some(_) if metrics.removed.is_some() => Place::None,
        Some(members) if members.is_voter(metrics.id) => Place::Voter,
        Some(members) if members.learners().contains(&metrics.id) => Place::Learner,
        Some(_) => Place::None,
    }
}

impl Join {
    /// Returns when the node has its place. Harmless on one that has it already.
    ///
    /// # Errors
    /// If the cluster does not take it; asking again would not help.
    pub async fn run(&self, raft: &Raft<Store>) -> Result<(), Exit> {
        let (id, server) = (raft.id(), &self.server);
        match place(&raft.metrics()) {
            Place::Voter => return Ok(()),
            Place::Learner if self.role == Role::Learner => return Ok(()),
            Place::Blank | Place::Learner => {}
            Place::None => {
                tracing::warn!(
                    "node {id} was removed and does not join by itself; empty its --data to have \
                     it join as a new node"
                );
                return Ok(());
            }
        }
        tracing::info!("node {id} asks {server} to join, at {}", self.address);
        let joined = async {
            self.ask(id).await?;
            self.reached(raft).await;
            Ok(())
        };
        tokio::select! { biased;
            error = self.turned_away(raft) => Err(error),
            joined = joined => joined,
        }
    }

    async fn ask(&self, id: u64) -> Result<(), Exit> {
        let addr = self.address.clone();
        let change = match self.role {
            Role::Voter => Change::Add { id, addr },
            Role::Learner => Change::AddLearner { id, addr },
            Role::Witness => Change::AddWitness { id, addr },
        };
        let server = &self.server;
        let client = Client::new(CHANGE_TIMEOUT + REACH);
        let mut told = String::new();
        loop {
            let error = match client.change(server, &change, CHANGE_TIMEOUT).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !may_do_better(&error) {
                return Err(Exit::failed(format!(
                    "node {id} can't join at {server}: {error}; if it was a member before, remove \
                     it first (kv admin remove {id} --server {server}), then join"
                )));
            }
            let text = error.to_string();
            if text != told {
                tracing::warn!("node {id} can't join at {server} yet: {text}; it tries on");
                told = text;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the node has its place in its own log: the leader has reached it.
    async fn reached(&self, raft: &Raft<Store>) {
        let (id, role) = (raft.id(), self.role);
        let in_place = move |m: &Metrics| match place(m) {
            Place::Voter => true,
            Place::Learner => role == Role::Learner,
            Place::Blank | Place::None => false,
        };
        while raft.wait(REACH).until("its place", in_place).await.is_err() {
            tracing::warn!("no leader has reached node {id} at {} yet; can it?", self.address);
        }
        tracing::info!("node {id} has joined as a {}", role.as_str());
    }

    /// Completes when the node had to stop before it had anything: the cluster knows its id with
    /// another disk.
    async fn turned_away(&self, raft: &Raft<Store>) -> Exit {
        let (id, server) = (raft.id(), &self.server);
        let stopped = |m: &Metrics| m.fatal.is_some() && m.membership.is_none();
        loop {
            let metrics = raft.wait(CHANGE_TIMEOUT).until("a reason to stop", stopped).await;
            let Ok(Metrics { fatal: Some(fatal), .. }) = metrics else {
                // A node that stops in order answers at once.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            return Exit::failed(format!(
                "node {id} can't join: {fatal}; or, if its disk is lost, remove it first (kv admin \
                 remove {id} --server {server}), then join with an empty --data"
            ));
        }
    }
}

/// Whether the same, asked a little later, may be done.
fn may_do_better(error: &CallError) -> bool {
    error.may_pass() || matches!(error.word(), "change_in_progress" | "not_caught_up")
}
