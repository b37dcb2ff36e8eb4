//! The client commands. Each is one call of [`kv::client`], at the first server that can do it.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use kv::client::{CallError, Client, PATIENCE, Server};
use kv::error::Exit;
use kv::load::{self, Event};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Target, pairs_of, report};

#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    target: Target,
    /// What this server has, without asking the leader
    #[arg(long)]
    stale: bool,
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,
}

#[derive(Args)]
pub(crate) struct Put {
    #[command(flatten)]
    target: Target,
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: String,
}

#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    target: Target,
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,
}

#[derive(Args)]
pub(crate) struct Cas {
    #[command(flatten)]
    target: Target,
    /// Store NEW if there is no such key; OLD is left out
    #[arg(long)]
    absent: bool,
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,
    #[arg(value_name = "OLD", allow_negative_numbers = true)]
    old: String,
    #[arg(value_name = "NEW", allow_negative_numbers = true)]
    new: Option<String>,
}

#[derive(Args)]
pub(crate) struct Load {
    #[command(flatten)]
    target: Target,
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    target: Target,
}

fn key(text: &str) -> Result<String, String> {
    kv::key::check(text.as_bytes()).map(|()| text.to_owned())
}

/// The answer is no: said by the exit code, and on stderr unless a program reads.
pub(super) fn no(json: bool, text: String) -> Exit {
    Exit::failed(if json { String::new() } else { text })
}

pub(super) fn print(bytes: impl AsRef<[u8]>) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes.as_ref())
        .and_then(|()| out.flush())
        .map_err(|error| Exit::failed(format!("can't print the answer: {error}")))
}

pub(super) fn print_json(value: &Value) -> Result<(), Exit> {
    print(format!("{value}\n"))
}

/// Calls one server after the other, until one answers for good. After an error that may have
/// happened there is no next one, unless the call only reads.
pub(super) async fn call<T>(
    target: &Target,
    reads: bool,
    mut call: impl AsyncFnMut(Client, &Server) -> Result<T, CallError>,
) -> Result<T, Exit> {
    let client = Client::new(PATIENCE);
    let mut failures = Vec::new();
    for server in &target.servers {
        match call(client.clone(), server).await {
            Ok(value) => return Ok(value),
            Err(error) => {
                let next = error.may_pass() && (reads || !error.may_have_happened());
                let lost = matches!(error, CallError::Lost(_)) && !reads;
                failures.push(if lost {
                    format!("{server}: {error}; it may have been done, read before you retry")
                } else {
                    format!("{server}: {error}")
                });
                if !next {
                    break;
                }
            }
        }
    }
    Err(Exit::failed(failures.join("\n")))
}

pub(crate) async fn get(args: Get) -> Result<(), Exit> {
    let (target, key) = (&args.target, &args.key);
    let get = async |client: Client, server: &Server| {
        if args.stale { client.get_stale(server, key).await } else { client.get(server, key).await }
    };
    let value = call(target, true, get).await?;
    if target.json {
        let text = value.as_ref().and_then(|value| std::str::from_utf8(value).ok());
        let bytes = value.as_ref().map(Bytes::len);
        let found = value.is_some();
        print_json(&json!({ "key": key, "found": found, "value": text, "bytes": bytes }))?;
    }
    match value {
        Some(value) if !target.json => print(value),
        Some(_) => Ok(()),
        None => Err(no(target.json, format!("there is no key {key:?}"))),
    }
}

pub(crate) async fn put(args: Put) -> Result<(), Exit> {
    let (target, key, value) = (&args.target, &args.key, Bytes::from(args.value));
    let put = async |client: Client, server: &Server| client.put(server, key, value.clone()).await;
    let index = call(target, false, put).await?;
    if target.json {
        print_json(&json!({ "index": index }))
    } else {
        print(format!("stored at index {index}\n"))
    }
}

pub(crate) async fn delete(args: Delete) -> Result<(), Exit> {
    let (target, key) = (&args.target, &args.key);
    let delete = async |client: Client, server: &Server| client.delete(server, key).await;
    let deleted = call(target, false, delete).await?;
    if target.json {
        print_json(&json!({ "deleted": deleted }))?;
    } else if deleted {
        print("deleted\n")?;
    }
    if deleted { Ok(()) } else { Err(no(target.json, format!("there is no key {key:?}"))) }
}

pub(crate) async fn cas(args: Cas) -> Result<(), Exit> {
    let (expect, new) = match (args.absent, &args.old, &args.new) {
        (false, old, Some(new)) => (Some(old.as_str()), new),
        (true, new, None) => (None, new),
        (false, ..) => {
            return Err(Exit::unusable("say KEY OLD NEW, or --absent KEY NEW if there is no OLD"));
        }
        (true, ..) => return Err(Exit::unusable("with --absent there is no OLD; say KEY NEW")),
    };
    let (target, key) = (&args.target, &args.key);
    let cas = async |client: Client, server: &Server| client.cas(server, key, expect, new).await;
    let swap = call(target, false, cas).await?;
    if target.json {
        print_json(&json!({ "swapped": swap.swapped, "current": swap.current }))?;
    } else if swap.swapped {
        print("swapped\n")?;
    }
    match swap.current {
        _ if swap.swapped => Ok(()),
        Some(current) => Err(no(target.json, format!("not swapped: {key:?} holds {current:?}"))),
        None => Err(no(target.json, format!("not swapped: there is no key {key:?}"))),
    }
}

pub(crate) async fn load(args: Load) -> Result<(), Exit> {
    let target = &args.target;
    let pairs = Arc::new(pairs_of(Some(&args.file))?);
    let bar = report::bar("storing", pairs.len());
    let begun = Instant::now();
    let mut events = load::write(&Client::new(PATIENCE), &target.servers, &pairs);
    let (mut acknowledged, mut failed, mut first) = (0_u64, 0_u64, None);
    while let Some(event) = events.recv().await {
        match event {
            Event::Acknowledged { .. } => {
                acknowledged += 1;
                bar.inc(1);
            }
            Event::Failed { key, error } => {
                failed += 1;
                first.get_or_insert_with(|| format!("{key:?}: {error}"));
            }
        }
    }
    bar.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    if target.json {
        let writes_s = (acknowledged as f64 / seconds).round() as u64;
        let done = json!({ "acknowledged": acknowledged, "failed": failed, "writes_s": writes_s });
        print_json(&done)?;
    } else {
        print(format!("{acknowledged} keys stored in {seconds:.1} s\n"))?;
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Exit::failed(format!("{failed} keys were not stored; first {first}"))),
    }
}

pub(crate) async fn status(args: Status) -> Result<(), Exit> {
    let target = &args.target;
    let client = Client::new(PATIENCE);
    let ask = |server: &Server| {
        let (client, server) = (client.clone(), server.clone());
        async move {
            let status = client.status(&server).await;
            (server.clone(), status, client.healthy(&server).await.unwrap_or(false))
        }
    };
    let answers = futures::future::join_all(target.servers.iter().map(ask)).await;
    let silent = answers.iter().filter(|(_, status, _)| status.is_err()).count();
    if target.json {
        let each = answers.iter().map(|(server, status, healthy)| {
            json!({
                "server": server.to_string(),
                "healthy": healthy,
                "status": status.as_ref().ok(),
                "error": status.as_ref().err().map(CallError::to_string),
            })
        });
        print_json(&json!({ "servers": each.collect::<Vec<_>>() }))?;
    } else {
        let headings = [
            "server",
            "id",
            "role",
            "term",
            "leader",
            "last",
            "committed",
            "applied",
            "persisted",
            "health",
        ];
        let rows: Vec<Vec<String>> = answers.iter().map(row).collect();
        print(report::table(&headings, &rows))?;
    }
    match silent {
        0 => Ok(()),
        n => Err(no(target.json, format!("{n} of {} servers did not answer", answers.len()))),
    }
}

fn row(
    (server, status, healthy): &(Server, Result<kv::client::Status, CallError>, bool),
) -> Vec<String> {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let mut row = vec!["-".to_owned(); 10];
            (row[0], row[9]) = (server.to_string(), error.to_string());
            return row;
        }
    };
    let leader = status.leader.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let health = match &status.fatal {
        Some(fatal) => format!("stopped: {fatal}"),
        None if *healthy => "ok".into(),
        None => "behind".into(),
    };
    vec![
        server.to_string(),
        status.id.to_string(),
        status.role.clone(),
        status.term.to_string(),
        leader,
        status.last.to_string(),
        status.committed.to_string(),
        status.applied.to_string(),
        status.persisted.to_string(),
        health,
    ]
}
