//! The store in a simulated world: partitions and power cuts, and in the end the question whether
//! what the clients saw is what one store, asked by one client after the other, would have shown.

use std::time::Duration;

use bytes::Bytes;
use kv::store::{Command, Response, Store};
use quorate::{Raft, ReadMode};
use quorate_sim::Rng;
use quorate_sim::cluster::{Cluster, Sim};
use quorate_sim::history::linearizability::check;
use quorate_sim::history::registers::{Input, Output, Registers};
use quorate_sim::history::{History, Outcome};

type Calls = History<Input<String, String>, Output<String>>;

#[test]
fn clients_see_one_store() {
    Sim::check(0..20, async |sim| {
        let calls = trouble(&sim, false).await;
        check(&Registers::new(), &calls.operations()).unwrap();
    });
}

/// The same with reads that ask nobody: then the check has to fail, or it would prove nothing.
#[test]
fn stale_reads_are_found_out() {
    let fails = |seed| {
        let calls = Sim::run(seed, async |sim| trouble(&sim, true).await).unwrap();
        check(&Registers::new(), &calls.operations()).is_err()
    };
    assert!((0..20).any(fails));
}

/// The leader is cut off, another node loses its power, everything heals; four clients all along.
async fn trouble(sim: &Sim, stale: bool) -> Calls {
    let cluster = Cluster::start(sim, 3, |_| Store::default()).await;
    let calls = Calls::new();
    let client = |id| client(id, sim.clone(), cluster.clone(), calls.clone(), stale);
    let clients: Vec<_> = (1..=4).map(|id| sim.spawn(client(id))).collect();

    let leader = cluster.leader().await;
    cluster.isolate(leader);
    sim.sleep(Duration::from_secs(2)).await;
    let next = leader % 3 + 1;
    cluster.crash(next).await;
    sim.sleep(Duration::from_secs(1)).await;
    cluster.heal();
    cluster.restart(next).await.unwrap();

    for client in clients {
        client.await.unwrap();
    }
    cluster.settle().await;
    calls
}

async fn client(id: u64, sim: Sim, cluster: Cluster<Store>, calls: Calls, stale: bool) {
    let mut rng = sim.rng();
    for n in 0..60 {
        sim.sleep(Duration::from_millis(rng.below(100))).await;
        // Any node, also one that is cut off; a client whose server is down tries another.
        let Some(node) = cluster.try_node(rng.pick(&cluster.ids())) else { continue };
        let input = any_call(&mut rng, format!("{id}.{n}"));
        calls.record(id, input.clone(), ask(&node, input, stale)).await;
    }
}

fn any_call(rng: &mut Rng, value: String) -> Input<String, String> {
    let key = rng.pick(&["a", "b"]).to_owned();
    match rng.below(8) {
        0..=3 => Input::Read { key },
        4 | 5 => Input::Write { key, value },
        6 => Input::Cas { key, expect: None, value },
        _ => Input::Delete { key },
    }
}

async fn ask(
    node: &Raft<Store>,
    input: Input<String, String>,
    stale: bool,
) -> Outcome<Output<String>> {
    let text = |value: Bytes| String::from_utf8(value.to_vec()).expect("values are texts here");
    let command = match input {
        Input::Read { key } => {
            let read = move |store: &Store| store.get(&key);
            let value = if stale {
                node.read_with(ReadMode::Stale, read).await
            } else {
                node.read(read).await
            };
            // A read that was not served has no effect.
            let found = |value: Option<Bytes>| Outcome::Returned(Output::Read(value.map(text)));
            let value = value.map(|value| value.expect("memory can be read"));
            return value.map_or(Outcome::Failed, found);
        }
        Input::Write { key, value } => Command::Put { key, value: value.into() },
        Input::Cas { key, expect, value } => Command::Cas { key, expect, value },
        Input::Delete { key } => Command::Delete { key },
    };
    match node.write(command).await {
        Ok(Response::Put { .. }) => Outcome::Returned(Output::Written),
        Ok(Response::Cas { swapped, current }) => {
            Outcome::Returned(Output::Cas { swapped, current })
        }
        Ok(Response::Delete { deleted }) => Outcome::Returned(Output::Deleted { existed: deleted }),
        Ok(other) => unreachable!("values are texts, and reads are none of these: {other:?}"),
        Err(error) if error.may_have_happened() => Outcome::Unknown,
        Err(_) => Outcome::Failed,
    }
}
