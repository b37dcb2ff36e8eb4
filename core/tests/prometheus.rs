//! The export to a registry: what `docs/observability.md` says it is.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::*;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use quorate::{Host, Raft};

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text
}

/// What is known of a metric: kind, unit, labels besides `node` and `group`.
type Described = BTreeMap<String, (String, String, BTreeSet<String>)>;

/// What a text exports, as the table in the documentation would say it.
fn exported(text: &str) -> Described {
    let mut found = Described::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                let new = (kind.to_owned(), String::new(), BTreeSet::new());
                let twice = found.insert(format!("{name}{suffix}"), new);
                assert!(twice.is_none(), "{name} is described twice");
            }
            ["#", "UNIT", name, unit] => {
                let total = format!("{name}_total");
                let key = if found.contains_key(name) { name } else { &total };
                found.get_mut(key).unwrap().1 = unit.to_owned();
            }
            ["#", ..] => {}
            _ => {
                let (name, rest) = line.split_once('{').expect("every sample has labels");
                let bare = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
                let key = if found.contains_key(name) { name } else { bare.unwrap() };
                let (labels, value) = rest.split_once("} ").unwrap();
                value.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
                let names: BTreeSet<&str> =
                    labels.split(',').map(|label| label.split_once('=').unwrap().0).collect();
                assert!(names.contains("node") && names.contains("group"), "{line}");
                let own = names.into_iter().filter(|n| !["node", "group", "le"].contains(n));
                found.get_mut(key).unwrap().2.extend(own.map(str::to_owned));
            }
        }
    }
    found
}

fn documented() -> Described {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/observability.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `quorate_"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .filter(|cells| cells.len() == 5)
        .map(|cells| {
            let bare = |cell: &str| cell.trim_matches('`').to_owned();
            let labels = cells[3].split(", ").filter(|l| !l.is_empty()).map(bare).collect();
            (bare(cells[0]), (cells[1].to_owned(), cells[2].to_owned(), labels))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_table_has_what_a_node_exports_and_nothing_else() {
    let cluster = Cluster::new(3, config(|_| {})).await;
    let leader = cluster.settle().await;
    cluster.nodes[&leader].write(1).await.unwrap();
    let mut registry = Registry::default();
    cluster.nodes[&leader].host().register(&mut registry);
    let (exported, documented) = (exported(&text(&registry)), documented());
    assert!(documented.len() > 40, "only {} rows", documented.len());
    for (name, what) in &exported {
        assert_eq!(documented.get(name), Some(what), "docs/observability.md on {name}");
    }
    for name in documented.keys() {
        assert!(
            exported.contains_key(name),
            "docs/observability.md has {name}, no node exports it"
        );
    }
    cluster.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn one_registry_shows_all_groups_of_a_host_also_later_ones_and_those_that_stopped() {
    let host = Host::builder(4).in_memory().start().await.unwrap();
    let mut registry = Registry::default();
    host.register(&mut registry);
    assert_eq!(exported(&text(&registry)).len(), documented().len(), "no group, no samples");
    let mut groups = Vec::new();
    for id in [1, 7] {
        let raft: Raft<Ledger> = host.group(id, Ledger::new().0).start().await.unwrap();
        raft.initialize([(4, "")]).await.unwrap();
        raft.write(id).await.unwrap();
        groups.push(raft);
    }
    groups[0].write(2).await.unwrap();
    groups[1].shutdown().await;
    let text = text(&registry);
    exported(&text);
    for line in [
        "quorate_proposed_commands_total{node=\"4\",group=\"1\"} 2",
        "quorate_proposed_commands_total{node=\"4\",group=\"7\"} 1",
        "quorate_role{node=\"4\",group=\"1\",role=\"leader\"} 1",
        "quorate_role{node=\"4\",group=\"7\",role=\"leader\"} 0",
        "quorate_write_seconds_count{node=\"4\",group=\"1\",stage=\"answered\"} 2",
        "quorate_write_seconds_bucket{le=\"+Inf\",node=\"4\",group=\"1\",stage=\"answered\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    groups[0].shutdown().await;
    host.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_registry_keeps_nothing_running() {
    let host = Host::builder(1).in_memory().start().await.unwrap();
    let raft: Raft<Ledger> = host.group(1, Ledger::new().0).start().await.unwrap();
    let mut events = raft.events();
    let mut registry = Registry::default();
    host.register(&mut registry);
    drop((raft, host));
    while events.next().await.is_some() {}
    assert!(text(&registry).contains("quorate_term{node=\"1\",group=\"1\"} 0\n"));
}
