//! `kv admin recover`: a new cluster from what one survivor of a lost quorum has.
//!
//! It works on the directory of a node that does not run, and asks nobody. Without `--yes` it only
//! says what it would do: run it so on every survivor, and with `--yes` on the one with the best log.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use kv::error::Exit;
use quorate::{LogId, RecoverError, Recovery, StorageError, Survivor, TokioEnv};
use serde_json::{Value, json};

use super::commands::{print, print_json};

/// The group of a node of `kv`.
const GROUP: u64 = 1;

#[derive(Args)]
pub(crate) struct Recover {
    /// The directory of a node that does not run
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Who is left: this node, and other survivors if there are any
    #[arg(
        long,
        value_name = "ID,..",
        required = true,
        value_delimiter = ',',
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    voters: Vec<u64>,
    /// Do it; without, it is only said what would be done and what may be lost
    #[arg(long)]
    yes: bool,
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
}

/// What is found, and what is to be made of it.
struct Plan {
    node: u64,
    last: LogId,
    committed: u64,
    before: BTreeSet<u64>,
    voters: BTreeSet<u64>,
}

impl Recover {
    /// Blocks while it reads and writes the log.
    pub(crate) fn run(self) -> Result<(), Exit> {
        let voters: BTreeSet<u64> = self.voters.iter().copied().collect();
        let survivor = Survivor::open(&self.data, GROUP).map_err(|error| self.exit(&error))?;
        let (_, membership) = survivor.configuration();
        let plan = Plan {
            node: survivor.id(),
            last: survivor.last(),
            committed: survivor.committed(),
            before: membership.members().keys().copied().collect(),
            voters: voters.clone(),
        };
        if survivor.is_recovered_with(&voters) {
            let recovery = membership.recovery().cloned();
            return self.done(&plan, recovery.expect("it is recovered"), true);
        }
        survivor.check(&voters).map_err(|error| self.exit(&error))?;
        if !self.yes {
            if self.json {
                print_json(&plan.to_json())?;
                return Err(Exit::failed(""));
            }
            print(plan.text())?;
            let text = "nothing was changed; look at every survivor so, then say --yes on the best";
            return Err(Exit::failed(text));
        }
        let recovery =
            survivor.recover(&voters, &TokioEnv::new()).map_err(|error| self.exit(&error))?;
        self.done(&plan, recovery, false)
    }

    fn done(&self, plan: &Plan, recovery: Recovery, already: bool) -> Result<(), Exit> {
        if self.json {
            let mut told = plan.to_json();
            told["done"] = json!(true);
            told["already"] = json!(already);
            told["at"] = log_id(recovery.at);
            return print_json(&told);
        }
        let (voters, at) = (list(&plan.voters), recovery.at);
        if already {
            return print(format!(
                "recovered already: the voters are {voters} since entry {at}; nothing was changed\n"
            ));
        }
        let text = plan.text();
        print(format!(
            "{text}done: the voters are {voters} since entry {at}; start node {}, then the others of \
             them, then add nodes with empty directories\n",
            plan.node
        ))
    }

    fn exit(&self, error: &RecoverError) -> Exit {
        let data = self.data.display();
        match error {
            RecoverError::NotLost { .. } => Exit::failed(error),
            RecoverError::Voters(_) => Exit::unusable(format!("--voters: {error}")),
            RecoverError::Storage(StorageError::InUse(_)) => Exit::unusable(format!(
                "{data} belongs to a node that runs; stop it first, if its quorum really is lost"
            )),
            RecoverError::Storage(_) => Exit::failed(format!("{data}: {error}")),
            _ => Exit::unusable(format!("{error}; --data names the directory of a survivor")),
        }
    }
}

impl Plan {
    fn leaving(&self) -> BTreeSet<u64> {
        self.before.difference(&self.voters).copied().collect()
    }

    fn to_json(&self) -> Value {
        json!({
            "done": false,
            "already": false,
            "node": self.node,
            "last": log_id(self.last),
            "committed": self.committed,
            "voters": self.voters,
            "leaving": self.leaving(),
            "at": null,
        })
    }

    fn text(&self) -> String {
        let Plan { node, last, committed, .. } = self;
        let (voters, leaving) = (list(&self.voters), list(&self.leaving()));
        let open = last.index - committed;
        format!(
            "node {node}: its log ends with term {term}, index {index}\n\
             certainly committed: through index {committed}; the {open} entries behind it are kept, \
             committed or not\n\
             new voters: {voters}; leaving for ever: {leaving}\n\
             may be lost: what was acknowledged behind term {term}, index {index}, and only the others \
             have. Of several survivors the one with the highest term, and of these the highest \
             index, has everything that any of them has: only that one may be recovered. Nodes that \
             leave must never be started with their directories again\n",
            term = last.term,
            index = last.index,
        )
    }
}

fn log_id(id: LogId) -> Value {
    json!({ "term": id.term, "index": id.index })
}

fn list(ids: &BTreeSet<u64>) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    if ids.is_empty() { "nobody".into() } else { ids.join(",") }
}
