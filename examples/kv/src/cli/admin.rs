//! `kv admin`: who is a member, who leads, snapshots. Each command is one call of [`kv::client`];
//! those that wait for a node to catch up show how far it is.

use std::fs::File;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use kv::admin::{Change, Members, SnapshotTaken, check_address};
use kv::client::{CallError, Client, PATIENCE, Server};
use kv::error::Exit;
use serde::Serialize;

use super::commands::{call, print, print_json};
use super::recover::Recover;
use super::{Target, report};

/// How often a bar is moved.
const LOOK: Duration = Duration::from_millis(200);

/// How long a snapshot may take.
const MAX_PATIENCE: Duration = Duration::from_secs(600);

#[derive(Subcommand)]
pub(crate) enum Admin {
    /// Show the members, their roles and addresses
    Members {
        #[command(flatten)]
        target: Target,
    },
    /// Add a running, blank node: a learner first, a voter when it has caught up
    Add {
        #[command(flatten)]
        how: How,
        /// Let it stay a learner
        #[arg(long)]
        learner: bool,
        /// Make it a witness: it votes, and is given no values
        #[arg(long, conflicts_with = "learner")]
        witness: bool,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
        /// Where the others find it
        #[arg(value_name = "ADDR", value_parser = address)]
        address: String,
    },
    /// Remove a member, dead or alive
    Remove {
        #[command(flatten)]
        how: How,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
    },
    /// Make a learner a voter, when it has caught up
    Promote {
        #[command(flatten)]
        how: How,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
    },
    /// Make a voter a learner
    Demote {
        #[command(flatten)]
        how: How,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
    },
    /// Put the running, blank node WITH in the place of ID, dead or alive
    Replace {
        #[command(flatten)]
        how: How,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
        #[arg(value_name = "WITH", value_parser = id())]
        with: u64,
        /// Where the others find WITH
        #[arg(value_name = "ADDR", value_parser = address)]
        address: String,
    },
    /// Have another voter lead
    Transfer {
        #[command(flatten)]
        target: Target,
        #[arg(value_name = "ID", value_parser = id())]
        id: u64,
    },
    /// Have a server write a snapshot and compact its log: the first that can be reached
    Snapshot {
        #[command(flatten)]
        target: Target,
    },
    /// Take a backup of everything to a file, for kv serve --restore
    ///
    /// It takes its name when it is whole; a file of that name is replaced.
    Backup {
        #[command(flatten)]
        target: Target,
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make survivors the whole cluster, when a majority is lost for ever
    Recover(Recover),
}

/// What all changes of membership understand.
#[derive(Args)]
pub(crate) struct How {
    #[command(flatten)]
    target: Target,
    /// For how long it is tried
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout: u64,
}

fn id() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}

fn address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned())
}

pub(crate) async fn run(command: Admin) -> Result<(), Exit> {
    match command {
        Admin::Members { target } => {
            let members = call(&target, true, async |client: Client, server: &Server| {
                client.members(server).await
            });
            show_members(&target, &members.await?)
        }
        Admin::Add { how, learner, witness, id, address: addr } => {
            let change = match (learner, witness) {
                (true, _) => Change::AddLearner { id, addr },
                (_, true) => Change::AddWitness { id, addr },
                _ => Change::Add { id, addr },
            };
            change_members(&how, &change, (!learner).then_some(id)).await
        }
        Admin::Remove { how, id } => change_members(&how, &Change::Remove { id }, None).await,
        Admin::Promote { how, id } => change_members(&how, &Change::Promote { id }, Some(id)).await,
        Admin::Demote { how, id } => change_members(&how, &Change::Demote { id }, None).await,
        Admin::Replace { how, id, with, address: addr } => {
            change_members(&how, &Change::Replace { id, with, addr }, Some(with)).await
        }
        Admin::Transfer { target, id } => {
            let leader = call(&target, false, async |client: Client, server: &Server| {
                client.transfer(server, id).await
            });
            let leader = leader.await?;
            show(&target, &kv::admin::Transferred { leader }, || format!("node {leader} leads\n"))
        }
        Admin::Snapshot { target } => {
            // However much there is to write.
            let patient = Client::new(MAX_PATIENCE);
            let taken = call(&target, false, async |_: Client, server: &Server| {
                patient.snapshot(server).await
            });
            let taken = taken.await?;
            show(&target, &taken, || {
                format!("a snapshot up to index {}, {} bytes\n", taken.index, taken.bytes)
            })
        }
        Admin::Backup { target, file } => backup(&target, &file).await,
        Admin::Recover(recover) => recover.run(),
    }
}

async fn backup(target: &Target, file: &Path) -> Result<(), Exit> {
    let unusable = |error: std::io::Error| {
        Exit::unusable(format!("{}: {error}; name a file that can be written", file.display()))
    };
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = PathBuf::from(unfinished);
    let bar = report::bytes_bar();
    let patient = Client::new(MAX_PATIENCE);
    let taken = call(target, true, async |_: Client, server: &Server| {
        let mut out = File::create(&unfinished).map_err(|e| CallError::Lost(e.to_string()))?;
        bar.set_position(0);
        let index = patient
            .backup(server, |piece| {
                bar.inc(piece.len() as u64);
                out.write_all(&piece)
            })
            .await?;
        out.sync_all().map_err(|e| CallError::Lost(e.to_string()))?;
        Ok(SnapshotTaken { index, bytes: bar.position() })
    });
    let taken = taken.await;
    bar.finish_and_clear();
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            // Half a backup is none.
            std::fs::remove_file(&unfinished).ok();
            return Err(error);
        }
    };
    std::fs::rename(&unfinished, file).map_err(unusable)?;
    show(target, &taken, || {
        let (file, index, bytes) = (file.display(), taken.index, taken.bytes);
        format!("{file}: a backup up to index {index}, {bytes} bytes\n")
    })
}

/// Makes a change; shows meanwhile how `joins`, if there is one, catches up.
async fn change_members(how: &How, change: &Change, joins: Option<u64>) -> Result<(), Exit> {
    let timeout = Duration::from_secs(how.timeout);
    let patient = Client::new(timeout + PATIENCE);
    let changed = call(&how.target, false, async |_: Client, server: &Server| {
        patient.change(server, change, timeout).await
    });
    let members = match joins {
        Some(id) => watched(&how.target, id, changed).await?,
        None => changed.await?,
    };
    show_members(&how.target, &members)
}

/// Awaits `changed` and shows how far node `id` is.
async fn watched<T>(target: &Target, id: u64, changed: impl Future<Output = T>) -> T {
    let bar = report::bar(format!("node {id} catches up"), 0);
    let moved = async {
        // Nobody sees a hidden bar.
        if bar.is_hidden() {
            std::future::pending::<()>().await;
        }
        let client = Client::new(PATIENCE);
        loop {
            follow(target, &client, id, &bar).await;
            tokio::time::sleep(LOOK).await;
        }
    };
    let done = tokio::select! { biased;
        done = changed => done,
        () = moved => unreachable!("it moves on"),
    };
    bar.finish_and_clear();
    done
}

/// Moves the bar to what the leader knows of node `id`, or that node of itself, if it is among the
/// servers that were named.
async fn follow(target: &Target, client: &Client, id: u64, bar: &ProgressBar) {
    for server in &target.servers {
        let Ok(status) = client.status(server).await else { continue };
        if status.role == "leader" {
            bar.set_length(status.last);
            bar.set_position(status.matched.get(&id).copied().unwrap_or(0));
            return;
        }
        if status.id == id {
            bar.set_length(status.committed);
            bar.set_position(status.applied);
        }
    }
}

fn show_members(target: &Target, members: &Members) -> Result<(), Exit> {
    show(target, members, || {
        let row = |(id, address): (&u64, &String)| {
            let role = match id {
                id if members.witnesses.contains(id) => "witness",
                id if members.voters.contains(id) => "voter",
                id if members.learners.contains(id) => "learner",
                _ => "leaving",
            };
            vec![id.to_string(), role.to_owned(), address.clone()]
        };
        let rows: Vec<Vec<String>> = members.addresses.iter().map(row).collect();
        report::table(&["id", "role", "address"], &rows)
    })
}

/// Prints an answer: as it came for programs, as `text` for people.
fn show(
    target: &Target,
    answer: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Exit> {
    if target.json { print_json(&serde_json::json!(answer)) } else { print(text()) }
}
