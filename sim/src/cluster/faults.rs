//! What can be done to a cluster, as data: a schedule is drawn from a seed, shown, shortened.

use std::fmt;
use std::time::Duration;

use quorate::{NodeId, StateMachine};

use crate::cluster::Cluster;
use crate::rng::Rng;

/// Something that goes wrong, or right again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes; the node comes back after a while.
    Crash {
        /// Which node.
        node: NodeId,
        /// How long it is down.
        down: Duration,
    },
    /// The power goes in the middle of a write.
    CrashInWrite {
        /// Which node.
        node: NodeId,
        /// How long it is down.
        down: Duration,
    },
    /// The power goes everywhere at once; the nodes come back one after the other.
    PowerLoss {
        /// How long the first is down.
        down: Duration,
    },
    /// SIGKILL; the machine keeps what was written, synced or not.
    Kill {
        /// Which node.
        node: NodeId,
        /// How long it is down.
        down: Duration,
    },
    /// SIGSTOP, and SIGCONT later.
    Pause {
        /// Which node.
        node: NodeId,
        /// For how long.
        still: Duration,
    },
    /// A node is cut off.
    Isolate {
        /// Which node.
        node: NodeId,
        /// Whether nothing reaches it.
        inward: bool,
        /// Whether nothing leaves it.
        outward: bool,
    },
    /// One direction of one link is cut.
    CutLink {
        /// Who is not heard any more.
        from: NodeId,
        /// By whom.
        to: NodeId,
    },
    /// Two sides that don't hear each other.
    Partition {
        /// One bit per node.
        side: u64,
        /// A node that hears both.
        bridge: Option<NodeId>,
    },
    /// Each node hears its two neighbours only.
    Ring,
    /// Each direction is cut or not.
    Cuts {
        /// A seed: three of ten directions are cut.
        seed: u64,
    },
    /// Every link heals.
    Heal,
    /// No write completes for a while.
    HangDisk {
        /// Whose disk.
        node: NodeId,
        /// For how long.
        hung: Duration,
    },
    /// Writes take longer, from now on.
    SlowDisk {
        /// Whose disk.
        node: NodeId,
        /// So many times as long.
        factor: u32,
    },
    /// The next sync fails, and the node stops; it comes back after a while.
    SyncFails {
        /// Whose disk.
        node: NodeId,
        /// How long after it is started again.
        down: Duration,
    },
    /// The disk is full for a while; a node that stopped for it comes back.
    DiskFull {
        /// Whose disk.
        node: NodeId,
        /// What is left.
        free_bytes: u64,
        /// For how long.
        full: Duration,
    },
    /// The disk is copied now, and the copy put back later: the node forgets what it synced in
    /// between. Only where that can be survived.
    OldDisk {
        /// Whose disk.
        node: NodeId,
        /// How old the copy is when it is put back.
        age: Duration,
        /// How long the node is down for it.
        down: Duration,
    },
    /// An empty disk takes the place of the old one. Only where that can be survived, too.
    WipedDisk {
        /// Whose disk.
        node: NodeId,
        /// How long the node is down.
        down: Duration,
    },
    /// A clock goes at another rate from now on.
    ClockRate {
        /// Whose clock.
        node: NodeId,
        /// Thousandths of the true rate.
        rate: u64,
    },
    /// A clock leaps forward.
    JumpClock {
        /// Whose clock.
        node: NodeId,
        /// How far.
        by: Duration,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The derived form is one line and names every field.
        fmt::Debug::fmt(self, f)
    }
}

impl Fault {
    /// One fault of those whose kind is in `kinds`, a bit each.
    pub(crate) fn draw(rng: &mut Rng, nodes: u64, kinds: u32) -> Option<Self> {
        let node = 1 + rng.below(nodes);
        let millis = |rng: &mut Rng, choices: &[u64]| Duration::from_millis(rng.pick(choices));
        let down = millis(rng, &[1, 50, 400, 3_000]);
        let kind = rng.below(16);
        let seed = rng.number();
        if kinds >> kind & 1 == 0 {
            return None;
        }
        Some(match kind {
            0 => Self::Crash { node, down },
            1 => Self::CrashInWrite { node, down },
            2 => Self::Kill { node, down },
            3 => Self::Pause { node, still: millis(rng, &[20, 200, 700, 2_500]) },
            4 => {
                let (inward, outward) = rng.pick(&[(true, true), (true, false), (false, true)]);
                Self::Isolate { node, inward, outward }
            }
            5 => {
                let bridge = rng.chance(500).then_some(node);
                let partition = Self::Partition { side: seed, bridge };
                let cut = Self::CutLink { from: node, to: 1 + rng.below(nodes) };
                rng.pick(&[partition, partition, Self::Ring, Self::Cuts { seed }, cut])
            }
            6 => Self::Heal,
            7 => Self::HangDisk { node, hung: millis(rng, &[100, 800, 2_500]) },
            8 => Self::SlowDisk { node, factor: rng.pick(&[1, 1, 5, 40]) },
            9 => Self::SyncFails { node, down },
            10 => {
                let free_bytes = rng.pick(&[0, 100, 5_000]);
                Self::DiskFull { node, free_bytes, full: millis(rng, &[300, 2_000]) }
            }
            11 => Self::OldDisk { node, age: millis(rng, &[50, 500, 3_000]), down },
            12 => Self::WipedDisk { node, down },
            13 => Self::ClockRate { node, rate: rng.between(800, 1_250) },
            14 => Self::PowerLoss { down },
            _ => Self::JumpClock { node, by: millis(rng, &[10, 300, 5_000]) },
        })
    }

    /// The node whose disk it hurts: such a node may stop, and may fail to start.
    pub(crate) fn hurts_disk_of(&self) -> Option<NodeId> {
        match self {
            Self::SyncFails { node, .. }
            | Self::DiskFull { node, .. }
            | Self::OldDisk { node, .. }
            | Self::WipedDisk { node, .. } => Some(*node),
            _ => None,
        }
    }

    /// The node it is about, if it is about one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Crash { node, .. }
            | Self::CrashInWrite { node, .. }
            | Self::Kill { node, .. }
            | Self::Pause { node, .. }
            | Self::Isolate { node, .. }
            | Self::HangDisk { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::SyncFails { node, .. }
            | Self::DiskFull { node, .. }
            | Self::OldDisk { node, .. }
            | Self::WipedDisk { node, .. }
            | Self::ClockRate { node, .. }
            | Self::JumpClock { node, .. } => Some(*node),
            Self::PowerLoss { .. }
            | Self::CutLink { .. }
            | Self::Partition { .. }
            | Self::Ring
            | Self::Cuts { .. }
            | Self::Heal => None,
        }
    }

    /// Does it, and undoes it where it does not last. Returns when all is over.
    ///
    /// # Errors
    /// Which node does not start afterwards, and why.
    pub(crate) async fn inflict<S: StateMachine>(
        self,
        cluster: &Cluster<S>,
    ) -> Result<(), (NodeId, String)> {
        let ids = cluster.ids();
        let start = async |id| cluster.restart(id).await.map_err(|why| (id, why));
        let sleep = |duration| cluster.0.sim.sleep(duration);
        match self {
            Self::Crash { node, down } => {
                cluster.crash(node).await;
                sleep(down).await;
                return start(node).await;
            }
            Self::CrashInWrite { node, down } => {
                cluster.crash_in_a_write(node, Duration::from_millis(300)).await;
                sleep(down).await;
                return start(node).await;
            }
            Self::Kill { node, down } => {
                cluster.kill(node).await;
                sleep(down).await;
                return start(node).await;
            }
            Self::Pause { node, still } => {
                cluster.pause(node);
                sleep(still).await;
                cluster.resume(node);
            }
            Self::Isolate { node, inward, outward } => {
                for other in ids.into_iter().filter(|other| *other != node) {
                    if inward {
                        cluster.cut(other, node);
                    }
                    if outward {
                        cluster.cut(node, other);
                    }
                }
            }
            Self::PowerLoss { down } => {
                for id in &ids {
                    cluster.crash(*id).await;
                }
                let mut ended = Ok(());
                for id in &ids {
                    sleep(down).await;
                    ended = ended.and(start(*id).await);
                }
                return ended;
            }
            Self::CutLink { from, to } => cluster.cut(from, to),
            Self::Partition { side, bridge } => {
                cluster.heal();
                let (left, right): (Vec<_>, Vec<_>) = ids
                    .into_iter()
                    .filter(|id| bridge != Some(*id))
                    .partition(|id| side >> id & 1 == 1);
                cluster.partition(&left, &right);
            }
            Self::Ring => {
                cluster.heal();
                let n = ids.len() as u64;
                for a in &ids {
                    for b in &ids {
                        if !matches!((a + n - b) % n, 0 | 1) && (b + n - a) % n != 1 {
                            cluster.cut(*a, *b);
                        }
                    }
                }
            }
            Self::Cuts { seed } => {
                cluster.heal();
                let mut rng = Rng::new(seed);
                for a in &ids {
                    for b in &ids {
                        if rng.chance(300) && a != b {
                            cluster.cut(*a, *b);
                        }
                    }
                }
            }
            Self::Heal => cluster.heal(),
            Self::HangDisk { node, hung } => {
                cluster.hang_disk(node);
                sleep(hung).await;
                cluster.release_disk(node);
            }
            Self::SlowDisk { node, factor } => cluster.slow_disk(node, factor),
            Self::SyncFails { node, down } => {
                cluster.fail_next_sync(node);
                sleep(Duration::from_millis(200) + down).await;
                return start(node).await;
            }
            Self::DiskFull { node, free_bytes, full } => {
                cluster.set_free_space(node, Some(free_bytes));
                sleep(full).await;
                cluster.set_free_space(node, None);
                return start(node).await;
            }
            Self::OldDisk { node, age, down } => {
                let Some(copy) = cluster.copy_disk(node) else { return Ok(()) };
                sleep(age).await;
                if cluster.may_put_back(node, &copy) {
                    cluster.put_back_disk(node, copy).await;
                    sleep(down).await;
                    return start(node).await;
                }
            }
            Self::WipedDisk { node, down } => {
                if cluster.may_wipe(node) {
                    cluster.wipe_disk(node).await;
                    sleep(down).await;
                    return start(node).await;
                }
            }
            Self::ClockRate { node, rate } => cluster.set_clock_rate(node, rate),
            Self::JumpClock { node, by } => cluster.jump_clock(node, by),
        }
        Ok(())
    }
}
