//! Golden traces: each script in `scripts/` tells a story, and its trace stands in the same file.
//!
//! A script is made of comments (`#`), commands (`>`) and what happened after each command, indented.
//! `QUORATE_BLESS=1 cargo test -p quorate-engine --test traces` writes the traces anew; read the
//! difference before you commit it, it is a change of behaviour.
//!
//! | command | what it does |
//! |---|---|
//! | `nodes 3` | nodes 1 to 3 with empty disks |
//! | `log 2 term=5 vote=1: 0 1 1` | node 2 finds this log, a term for each entry, when it starts |
//! | `initialize 1` | an operator begins the group at node 1 |
//! | `wake 1` | time goes on to node 1's deadline, and only node 1 looks at its clock |
//! | `run 500` | 500 ms pass with everyone at work; not shown, there would be too much |
//! | `elapse 500` | 500 ms pass and nobody looks |
//! | `deliver` | everything is delivered, and what comes of it |
//! | `deliver once` | what is on the wire now is delivered, not what comes of it |
//! | `deliver 1->2` | what is on this link now is delivered |
//! | `reorder 1->2` | the same, the last sent first |
//! | `drop 1->2` | what is on this link now is lost |
//! | `small appends` | from now on an append carries one block |
//! | `propose 1 x3` | a client proposes three commands |
//! | `spare 4` | node 4 with an empty disk, no member |
//! | `priority 3 5` | node 3 starts anew with an empty disk and priority 5 |
//! | `quotas 1 500` | node 1 starts anew with an empty disk, and takes 500 uncommitted and 500 unapplied bytes |
//! | `stall 1`, `resume 1` | the state machine of node 1 hangs; goes on |
//! | `learner 1 4`, `witness 1 4`, `promote 1 4`, `remove 1 4` | an operator asks node 1 for this change of member 4 |
//! | `transfer 1 2`, `transfer 1` | an operator asks node 1 to hand over to 2, to anyone; within a second |
//! | `campaign 1`, `forget leader 1` | an operator tells node 1 |
//! | `read 1 7`, `read 1 7 lease` | a client reads, and calls the read 7 |
//! | `hold 1`, `sync 1`, `release 1` | the disk holds writes back; finishes one; finishes all |
//! | `snapshot 1` | a snapshot of what is applied is built at once, and is durable |
//! | `keep 5` | from their next start on nodes keep five entries before a snapshot |
//! | `crash 1`, `restart 1` | loses what the disk held back; comes up with the rest |
//! | `copy 3` | somebody keeps a copy of node 3's disk |
//! | `put back 3` | node 3, which is down, gets the copy for its disk |
//! | `recover 2 2,3` | an operator makes 2 and 3 the group, from the disk of node 2, which is down |
//! | `cut 1->2`, `partition 1 \| 2 3`, `heal` | links |
//! | `show` | every node's role, term, log and commit index |
//!
//! In a trace `1 --> 2` is a message that arrives, `1 -x> 2` one that is lost, and a line with one
//! number is what that node does.

mod common;

use std::path::Path;

use common::{Cluster, Image, voters};
use quorate_engine::{Config, HardState, Input, ReadMode};

/// Runs one script and returns it with the trace it has now.
fn play(name: &str, script: &str) -> String {
    let mut cluster = Cluster::new(1);
    let mut told = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        told.push_str(line);
        told.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            cluster.trace.clear();
            if obey(&mut cluster, command).is_none() {
                panic!("{name}: no such command: {command}");
            }
            for line in &cluster.trace {
                told.push_str(&format!("  {line}\n"));
            }
        }
    }
    told
}

fn obey(c: &mut Cluster, command: &str) -> Option<()> {
    let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
    let id = || rest.split_whitespace().next()?.parse::<u64>().ok();
    let second = || rest.split_whitespace().nth(1);
    let link = || {
        let (from, to) = rest.split_once("->")?;
        Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
    };
    match (verb, rest) {
        ("nodes", _) => *c = Cluster::new(id()?),
        ("log", _) => {
            let (head, terms) = rest.split_once(':')?;
            let number = |key: &str| {
                let mut words = head.split_whitespace();
                words.find_map(|w| w.strip_prefix(key)?.parse::<u64>().ok())
            };
            let hard = HardState::new(number("term=")?, number("vote="));
            let terms: Vec<u64> =
                terms.split_whitespace().map(|t| t.parse().ok()).collect::<Option<_>>()?;
            let membership = voters(c.nodes.len() as u64);
            c.add(Config::new(id()?), Image::of_terms(hard, &membership, &terms));
        }
        ("initialize", _) => c.initialize(id()?),
        ("wake", _) => c.wake(id()?),
        ("run", _) => {
            let kept = c.trace.len();
            c.run(id()?);
            c.trace.truncate(kept);
        }
        ("small", "appends") => c.small_appends = true,
        ("elapse", _) => c.elapse(id()?),
        ("deliver", "") => c.deliver_all(),
        ("deliver", "once") => {
            let packets: Vec<_> = c.wire.drain(..).collect();
            packets.into_iter().for_each(|p| c.receive(p));
        }
        ("deliver", _) => link().map(|(from, to)| c.deliver(from, to))?,
        ("reorder", _) => link().map(|(from, to)| c.deliver_reversed(from, to))?,
        ("drop", _) => link().map(|(from, to)| c.drop(from, to))?,
        ("propose", _) => c.propose(id()?, second()?.strip_prefix('x')?.parse().ok()?),
        ("spare", _) => c.spare(&[id()?]),
        ("priority", _) => {
            let priority = second()?.parse().ok()?;
            c.add(Config { priority, ..Config::new(id()?) }, Image::default());
        }
        ("quotas", _) => {
            let bytes = second()?.parse().ok()?;
            let (max_uncommitted_bytes, max_unapplied_bytes) = (bytes, bytes);
            let config =
                Config { max_uncommitted_bytes, max_unapplied_bytes, ..Config::new(id()?) };
            c.add(config, Image::default());
        }
        ("stall", _) => c.stall_machine(id()?),
        ("resume", _) => c.resume_machine(id()?),
        ("learner" | "witness" | "promote" | "remove", _) => {
            let member = second()?.parse().ok()?;
            let now = c.configured(id()?).settled();
            let to = match verb {
                "learner" => now.with_learner(member, format!("n{member}")),
                "witness" => now
                    .with_learner(member, format!("n{member}"))
                    .and_then(|now| now.with_witness(member)),
                "promote" => now.promoted(member),
                _ => now.without(member),
            };
            c.change(id()?, to.ok()?);
        }
        ("transfer", _) => {
            let to = second().map(|to| to.parse().ok());
            c.transfer(id()?, to.unwrap_or_default());
        }
        ("campaign", _) => c.step(id()?, Input::Campaign),
        ("forget", _) => {
            c.step(second()?.parse().ok()?, Input::ForgetLeader);
        }
        ("read", _) => {
            let mode = match rest.split_whitespace().nth(2) {
                Some("lease") => ReadMode::Lease,
                _ => ReadMode::Index,
            };
            c.read_with(id()?, second()?.parse().ok()?, mode);
        }
        ("hold", _) => c.hold_disk(id()?),
        ("sync", _) => c.sync(id()?, 1),
        ("release", _) => c.release_disk(id()?),
        ("snapshot", _) => c.snapshot(id()?),
        ("keep", _) => {
            let keep_entries = id()?;
            c.nodes.values_mut().for_each(|node| node.config.keep_entries = keep_entries);
            let ids: Vec<u64> = c.nodes.keys().copied().collect();
            ids.into_iter().for_each(|id| c.restart(id));
        }
        ("crash", _) => c.crash(id()?),
        ("restart", _) => c.restart(id()?),
        ("copy", _) => {
            let copy = c.node(id()?).disk.clone();
            c.copies.insert(id()?, copy);
        }
        ("put", _) => {
            let id = second()?.parse().ok()?;
            c.node_mut(id).disk = c.copies.get(&id)?.clone();
        }
        ("recover", _) => {
            let voters = second()?.split(',').map(|id| id.parse().ok());
            c.recover(id()?, &voters.collect::<Option<Vec<_>>>()?);
        }
        ("cut", _) => link().map(|(from, to)| c.cut(from, to))?,
        ("partition", _) => {
            let side = |s: &str| s.split_whitespace().map(|id| id.parse().ok()).collect();
            let sides: Vec<Vec<u64>> = rest.split('|').map(side).collect::<Option<_>>()?;
            let sides: Vec<&[u64]> = sides.iter().map(Vec::as_slice).collect();
            c.partition(&sides);
        }
        ("heal", "") => c.heal(),
        ("show", "") => show(c),
        _ => return None,
    }
    Some(())
}

fn show(c: &mut Cluster) {
    for (id, node) in &c.nodes {
        let Some(engine) = &node.engine else {
            c.trace.push(format!("{id} is down"));
            continue;
        };
        let terms = node.memory.terms();
        let mut terms: Vec<_> = terms.iter().map(u64::to_string).collect();
        let compacted = node.memory.compacted.index as usize;
        terms.iter_mut().take(compacted).for_each(|term| *term = "-".into());
        c.trace.push(format!(
            "{id} {:<13} term {}  committed {:>2}  log {}",
            engine.role().as_str(),
            engine.term(),
            engine.log().committed(),
            terms.join(" ")
        ));
    }
}

#[test]
fn scripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let bless = std::env::var_os("QUORATE_BLESS").is_some();
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 21, "scripts are missing");
    let mut changed = Vec::new();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stored = std::fs::read_to_string(&path).unwrap();
        let now = play(&name, &stored);
        if now == stored {
            continue;
        }
        if bless {
            std::fs::write(&path, &now).unwrap();
            continue;
        }
        let differs = stored.lines().zip(now.lines()).position(|(a, b)| a != b);
        let at = differs.unwrap_or(stored.lines().count().min(now.lines().count()));
        changed.push(format!(
            "{name}, line {}:\n  stored: {}\n  now:    {}",
            at + 1,
            stored.lines().nth(at).unwrap_or("(end)"),
            now.lines().nth(at).unwrap_or("(end)")
        ));
    }
    assert!(
        changed.is_empty(),
        "traces changed; QUORATE_BLESS=1 writes them anew:\n{}",
        changed.join("\n")
    );
}
