//! The bank in a simulated world: nodes lose their power, stop and go on, are cut off, and their clocks
//! differ; and in the end the question whether the bank has what its customers were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bank::bank::{Bank, Command, Response};
use bank::ledger::{Ledger, check};
use quorate::{ReadMode, SessionWrite, WriteError};
use quorate_sim::cluster::{Cluster, ClusterOptions, Sim};

/// How customers write.
#[derive(Clone, Copy)]
enum Care {
    /// In a session, with numbers.
    Session,
    /// Without, and once more when nobody can say what has happened.
    Hope,
}

#[test]
fn money_is_neither_lost_nor_made() {
    let repeated = Arc::new(AtomicU64::new(0));
    Sim::check(0..40, {
        let repeated = repeated.clone();
        async move |sim| {
            let (ledgers, bank) = business(&sim, Care::Session).await;
            repeated.fetch_add(ledgers.iter().map(|l| l.repeated).sum(), Ordering::Relaxed);
            assert!(ledgers.iter().map(|ledger| ledger.done).sum::<u64>() > 20);
            check(&ledgers, bank.balances()).unwrap();
        }
    });
    // Otherwise nothing was put to the test.
    assert!(repeated.load(Ordering::Relaxed) > 0, "no write was sent again after it was done");
}

/// The same without sessions: then the check has to fail, or it would prove nothing.
#[test]
fn retries_without_a_session_are_found_out() {
    let fails = |seed| {
        let business = Sim::run(seed, async |sim| business(&sim, Care::Hope).await);
        let (ledgers, bank) = business.unwrap();
        check(&ledgers, bank.balances()).is_err()
    };
    assert!((0..20).any(fails));
}

/// Customers and troubles; what the customers wrote down, and what a node has in the end.
async fn business(sim: &Sim, care: Care) -> (Vec<Ledger>, Bank) {
    let cluster = start(sim).await;
    let closing = Arc::<AtomicBool>::default();
    let customers: Vec<_> = (0..4)
        .map(|number| {
            let ledger = Ledger::new(number, sim.seed());
            sim.spawn(customer(sim.clone(), cluster.clone(), ledger, care, closing.clone()))
        })
        .collect();
    trouble(sim, &cluster).await;
    closing.store(true, Ordering::Relaxed);
    let mut ledgers = Vec::new();
    for customer in customers {
        ledgers.push(customer.await.unwrap());
    }
    cluster.settle().await;
    let banks = cluster.nodes();
    let bank = banks[0].read(Bank::clone).await.unwrap();
    for other in &banks[1..] {
        assert_eq!(other.read(Bank::clone).await.unwrap(), bank);
    }
    (ledgers, bank)
}

/// Three nodes that snapshot often, so that sessions come back out of snapshots, with clocks that differ
/// by as much as leases allow for.
async fn start(sim: &Sim) -> Cluster<Bank> {
    let mut options = ClusterOptions::new(3);
    options.config.snapshot_entries = Some(50);
    options.config.keep_entries = 20;
    let cluster = Cluster::with(sim, options, |_| Bank::default());
    let mut rng = sim.rng();
    for id in cluster.ids() {
        cluster.restart(id).await.unwrap();
        cluster.set_clock_rate(id, rng.between(960, 1040));
    }
    cluster.initialize().await;
    cluster.settle().await;
    cluster
}

/// Six troubles one after the other, each of them over before the next.
async fn trouble(sim: &Sim, cluster: &Cluster<Bank>) {
    let mut rng = sim.rng();
    for _ in 0..6 {
        let pause = Duration::from_millis(rng.between(200, 1500));
        let lasts = Duration::from_millis(rng.between(200, 3000));
        sim.sleep(pause).await;
        let node = match rng.chance(500) {
            true => cluster.leader().await,
            false => rng.pick(&cluster.ids()),
        };
        match rng.below(4) {
            0 => {
                cluster.crash(node).await;
                sim.sleep(lasts).await;
                cluster.restart(node).await.unwrap();
            }
            1 => {
                cluster.kill(node).await;
                sim.sleep(lasts).await;
                cluster.restart(node).await.unwrap();
            }
            2 => {
                cluster.isolate(node);
                sim.sleep(lasts).await;
                cluster.heal();
            }
            _ => {
                cluster.pause(node);
                sim.sleep(lasts).await;
                cluster.resume(node);
            }
        }
        let rate = rng.between(960, 1040);
        cluster.set_clock_rate(node, rate);
    }
}

/// Moves money until the bank closes, and asks again, anywhere, until there is an answer.
async fn customer(
    sim: Sim,
    cluster: Cluster<Bank>,
    mut ledger: Ledger,
    care: Care,
    closing: Arc<AtomicBool>,
) -> Ledger {
    let mut rng = sim.rng();
    let session = match care {
        Care::Hope => 0,
        Care::Session => loop {
            if let Some(node) = cluster.try_node(rng.pick(&cluster.ids())) {
                if let Ok(session) = node.open_session().await {
                    break session;
                }
            }
            sim.sleep(Duration::from_millis(50)).await;
        },
    };
    for sequence in 1.. {
        if closing.load(Ordering::Relaxed) {
            break;
        }
        sim.sleep(Duration::from_millis(rng.below(100))).await;
        let command = ledger.next_command();
        let write = SessionWrite { session, sequence, acknowledged: sequence - 1 };
        let response = loop {
            let Some(node) = cluster.try_node(rng.pick(&cluster.ids())) else {
                sim.sleep(Duration::from_millis(50)).await;
                continue;
            };
            let attempt = match care {
                Care::Hope => node.write(command.clone()).await,
                Care::Session => node.write_once(write, command.clone()).await.map(|once| {
                    ledger.repeated += u64::from(once.repeated);
                    once.response
                }),
            };
            match attempt {
                Ok(response) => break response,
                Err(error @ (WriteError::SessionExpired | WriteError::Acknowledged)) => {
                    ledger.unanswered(&command, &error);
                    return ledger;
                }
                Err(_) => sim.sleep(Duration::from_millis(20)).await,
            }
        };
        ledger.answered(&command, &response);
    }
    ledger
}

/// One coin after the other goes from account 0 to account 1. Whoever looks, at any node, sees all of
/// them, none twice, and those that had arrived before it looked on the other side.
#[test]
fn lease_reads_see_every_transfer_that_was_answered() {
    Sim::check(0..30, async |sim| {
        let (wrong, seen) = look_at_transfers(&sim, ReadMode::Lease).await;
        assert_eq!(wrong, 0);
        assert!(seen > 50, "only {seen} reads were answered");
    });
}

/// The same with reads that ask nobody, which have to be found out.
#[test]
fn stale_reads_are_found_out() {
    let fails = |seed| {
        let looked = Sim::run(seed, async |sim| look_at_transfers(&sim, ReadMode::Stale).await);
        looked.unwrap().0 > 0
    };
    assert!((0..20).any(fails));
}

/// How many reads showed something impossible, and how many were answered.
async fn look_at_transfers(sim: &Sim, mode: ReadMode) -> (u64, u64) {
    const COINS: u64 = 10_000;
    let cluster = start(sim).await;
    let deposit = Command::Deposit { account: 0, amount: COINS };
    let done = cluster.node(1).write(deposit).await.unwrap();
    assert_eq!(done, Response::Done { balance: COINS });

    let (closing, arrived) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
    let payer = sim.spawn({
        let (sim, cluster) = (sim.clone(), cluster.clone());
        let (closing, arrived) = (closing.clone(), arrived.clone());
        async move {
            let mut rng = sim.rng();
            while !closing.load(Ordering::Relaxed) {
                sim.sleep(Duration::from_millis(rng.below(30))).await;
                let Some(node) = cluster.try_node(rng.pick(&cluster.ids())) else { continue };
                let transfer = Command::Transfer { from: 0, to: 1, amount: 1 };
                if let Ok(Response::Done { balance }) = node.write(transfer).await {
                    arrived.fetch_max(COINS - balance, Ordering::Relaxed);
                }
            }
        }
    });
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (sim, cluster) = (sim.clone(), cluster.clone());
            let (closing, arrived) = (closing.clone(), arrived.clone());
            sim.clone().spawn(async move {
                let (mut rng, mut wrong, mut seen) = (sim.rng(), 0, 0);
                while !closing.load(Ordering::Relaxed) {
                    sim.sleep(Duration::from_millis(rng.below(30))).await;
                    let Some(node) = cluster.try_node(rng.pick(&cluster.ids())) else { continue };
                    let before = arrived.load(Ordering::Relaxed);
                    let look = |bank: &Bank| (bank.balance(0), bank.balance(1));
                    if let Ok((from, to)) = node.read_with(mode, look).await {
                        seen += 1;
                        wrong += u64::from(from + to != COINS || to < before);
                    }
                }
                (wrong, seen)
            })
        })
        .collect();
    trouble(sim, &cluster).await;
    closing.store(true, Ordering::Relaxed);
    payer.await.unwrap();
    let (mut wrong, mut seen) = (0, 0);
    for reader in readers {
        let (w, s) = reader.await.unwrap();
        wrong += w;
        seen += s;
    }
    (wrong, seen)
}
