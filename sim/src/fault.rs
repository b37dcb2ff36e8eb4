//! Faults as data, for both levels: a schedule that the seed determines. What operators do is in it
//! too: changes of membership, transfers, campaigns.
//!
//! Each kind of fault has a rate and a stream of random numbers of its own, and each entry carries
//! all that it needs, its end included. So an entry can be taken out and the others stay what they
//! are, which is what makes a failing schedule small ([`minimize`](crate::minimize())).

use std::fmt;
use std::ops::Range;

use quorate_engine::NodeId;

use crate::rng::Rng;

/// An entry of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// World time in milliseconds.
    pub at_ms: u64,
    /// What happens then.
    pub fault: Fault,
}

/// Something that goes wrong. Times are in milliseconds of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process dies with its machine: of its unsynced writes the first `keep` of a thousand stay.
    /// Under a real log, which writes sectors, any of them stay if some do; if all, it is SIGKILL.
    Crash {
        /// Which node.
        node: NodeId,
        /// How many of a thousand unsynced writes stay.
        keep: u64,
        /// How long it is down.
        down_ms: u64,
    },
    /// All machines lose power at once.
    PowerLoss {
        /// How many of a thousand unsynced writes stay, on each.
        keep: u64,
        /// How long they are down; the second node twice as long as the first, and so on.
        down_ms: u64,
    },
    /// Links are cut.
    Cut {
        /// Which.
        links: Links,
        /// For how long.
        ms: u64,
    },
    /// A process stands still and goes on.
    Pause {
        /// Which node.
        node: NodeId,
        /// For how long.
        ms: u64,
    },
    /// Syncs take many times as long.
    SlowDisk {
        /// Which node.
        node: NodeId,
        /// How many times.
        factor: u64,
        /// For how long.
        ms: u64,
    },
    /// No sync ends for a while.
    HungSync {
        /// Which node.
        node: NodeId,
        /// For how long.
        ms: u64,
    },
    /// The next sync fails, which stops the node: nothing can be said of what it covered.
    FailedSync {
        /// Which node.
        node: NodeId,
        /// How many of a thousand of those writes are on the disk anyway.
        keep: u64,
        /// How long until it is started again.
        down_ms: u64,
    },
    /// The disk is full: the next write is refused, which stops the node until there is room.
    FullDisk {
        /// Which node.
        node: NodeId,
        /// For how long.
        ms: u64,
    },
    /// A copy of the disk is taken, and put back later: the node forgets what it synced meanwhile.
    /// See [`Fault::forgets`].
    OldDisk {
        /// Which node.
        node: NodeId,
        /// The age of the copy when it is put back.
        age_ms: u64,
        /// How long the node is down then.
        down_ms: u64,
    },
    /// The disk is replaced by an empty one, with another identity. See [`Fault::forgets`].
    WipedDisk {
        /// Which node.
        node: NodeId,
        /// How long the node is down.
        down_ms: u64,
    },
    /// A clock jumps forward.
    ClockJump {
        /// Which node.
        node: NodeId,
        /// By how much.
        by_ms: u64,
    },
    /// A clock goes at another rate from now on.
    ClockRate {
        /// Which node.
        node: NodeId,
        /// Its nanoseconds per thousand of the world's.
        rate: u64,
    },
    /// An operator asks whoever takes itself for the leader for another membership.
    Change {
        /// What is to become of the membership that node has.
        change: Change,
        /// Of several that take themselves for the leader, the one of the lowest term is asked.
        deposed: bool,
        /// What the operator says it has seen.
        seen: Seen,
    },
    /// An operator asks the leader to hand over.
    Transfer {
        /// To whom; to anyone if it is no node of the world.
        to: NodeId,
        /// Within which time, by the leader's clock.
        ms: u64,
    },
    /// An operator tells a node to campaign.
    Campaign {
        /// Which node.
        node: NodeId,
    },
    /// An operator tells a node that its leader is gone.
    ForgetLeader {
        /// Which node.
        node: NodeId,
    },
    /// A state machine applies nothing for a while.
    SlowMachine {
        /// Which node.
        node: NodeId,
        /// For how long.
        ms: u64,
    },
    /// The memory of a state machine changes by itself: its state is not what the log made it. Among
    /// real nodes, at one node of a world at most, and where it can be seen: replicas compare digests
    /// of their states, and there are three of them at least.
    Rot {
        /// Which node.
        node: NodeId,
    },
}

/// What is to become of a membership. Where it makes no sense, nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node becomes a learner, if it is no member. If it had stopped because its disk was
    /// replaced, it is started again.
    Add(NodeId),
    /// The same, to become a witness.
    AddWitness(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A member goes.
    Remove(NodeId),
    /// A voter goes and a learner takes its place.
    Replace {
        /// Who goes.
        out: NodeId,
        /// Who comes.
        into: NodeId,
    },
    /// Of the members those become voters whose bit in `mask` is set, and the others learners.
    Set {
        /// Bit `n` is for node `n`.
        mask: u64,
    },
}

/// The configuration that an operator says a change is to be made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Any.
    Whatever,
    /// The one in force where it is asked for.
    TheNewest,
    /// The one before.
    AnOlder,
}

/// A pattern of cut links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// One direction of one link.
    OneWay {
        /// The side that is not heard.
        from: NodeId,
        /// The side that does not hear.
        to: NodeId,
    },
    /// All links of a node, in one direction or both.
    Of {
        /// Which node.
        node: NodeId,
        /// Whether it hears nobody.
        inward: bool,
        /// Whether nobody hears it.
        outward: bool,
    },
    /// All links between two sides: a full partition.
    Sides {
        /// Bit `n` tells the side of node `n`.
        mask: u64,
    },
    /// Two sides, and one node that both can speak with: a partial partition.
    Bridge {
        /// Bit `n` tells the side of node `n`.
        mask: u64,
        /// The node between them.
        node: NodeId,
    },
    /// Each node speaks with its two neighbours only.
    Ring,
    /// Each direction of each link by itself.
    Scattered {
        /// Decides which.
        seed: u64,
    },
}

/// The kinds of faults, each with a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Fault::Crash`]
    Crash,
    /// [`Fault::PowerLoss`]
    PowerLoss,
    /// [`Links::OneWay`]
    OneWayCut,
    /// [`Links::Of`]
    Isolation,
    /// [`Links::Sides`]
    FullPartition,
    /// [`Links::Bridge`]
    PartialPartition,
    /// [`Links::Ring`]
    Ring,
    /// [`Links::Scattered`]
    ScatteredCuts,
    /// [`Fault::Pause`]
    Pause,
    /// [`Fault::SlowDisk`]
    SlowDisk,
    /// [`Fault::HungSync`]
    HungSync,
    /// [`Fault::FailedSync`]
    FailedSync,
    /// [`Fault::FullDisk`]
    FullDisk,
    /// [`Fault::OldDisk`]
    OldDisk,
    /// [`Fault::WipedDisk`]
    WipedDisk,
    /// [`Fault::ClockJump`]
    ClockJump,
    /// [`Fault::ClockRate`]
    ClockRate,
    /// [`Fault::Change`]
    Change,
    /// [`Fault::Transfer`]
    Transfer,
    /// [`Fault::Campaign`]
    Campaign,
    /// [`Fault::ForgetLeader`]
    ForgetLeader,
    /// [`Fault::SlowMachine`]
    SlowMachine,
    /// [`Fault::Rot`]
    Rot,
}

impl Kind {
    /// All of them: what goes wrong first, then what operators do, then what is drawn by itself.
    pub const ALL: [Kind; 23] = [
        Kind::Crash,
        Kind::PowerLoss,
        Kind::OneWayCut,
        Kind::Isolation,
        Kind::FullPartition,
        Kind::PartialPartition,
        Kind::Ring,
        Kind::ScatteredCuts,
        Kind::Pause,
        Kind::SlowDisk,
        Kind::HungSync,
        Kind::FailedSync,
        Kind::FullDisk,
        Kind::OldDisk,
        Kind::WipedDisk,
        Kind::ClockJump,
        Kind::ClockRate,
        Kind::Change,
        Kind::Transfer,
        Kind::Campaign,
        Kind::ForgetLeader,
        Kind::SlowMachine,
        Kind::Rot,
    ];

    /// How many of [`Kind::ALL`] go wrong by themselves.
    const WRONG: usize = 17;

    /// How many of them are that or what operators do.
    const OPERATORS: usize = 21;

    /// Its name, which is also that of its stream of random numbers.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Crash => "crash",
            Kind::PowerLoss => "power loss",
            Kind::OneWayCut => "one-way cut",
            Kind::Isolation => "isolation",
            Kind::FullPartition => "full partition",
            Kind::PartialPartition => "partial partition",
            Kind::Ring => "ring",
            Kind::ScatteredCuts => "scattered cuts",
            Kind::Pause => "pause",
            Kind::SlowDisk => "slow disk",
            Kind::HungSync => "hung sync",
            Kind::FailedSync => "failed sync",
            Kind::FullDisk => "full disk",
            Kind::OldDisk => "old disk",
            Kind::WipedDisk => "wiped disk",
            Kind::ClockJump => "clock jump",
            Kind::ClockRate => "clock rate",
            Kind::Change => "change",
            Kind::Transfer => "transfer",
            Kind::Campaign => "campaign",
            Kind::ForgetLeader => "forget leader",
            Kind::SlowMachine => "slow machine",
            Kind::Rot => "rot",
        }
    }

    /// A fault of this kind in a cluster of `nodes` whose longest election timeout is `election_ms`.
    fn draw(self, nodes: u64, election_ms: u64, rng: &mut Rng) -> Fault {
        let node = rng.between(1, nodes);
        let other = rng.between(1, nodes);
        let mask = rng.number();
        // All of it, none of it, some of it.
        let keep = rng.pick(&[0, 1000, rng.clone().below(1001)]);
        let down_ms = rng.pick(&[1, 50, 400, 3_000]);
        let ms = rng.pick(&[election_ms / 5, election_ms, election_ms * 2]);
        let cut = |links| Fault::Cut { links, ms };
        match self {
            Kind::Crash => Fault::Crash { node, keep, down_ms },
            Kind::PowerLoss => Fault::PowerLoss { keep, down_ms: down_ms.min(400) },
            Kind::OneWayCut => cut(Links::OneWay { from: node, to: other }),
            Kind::Isolation => {
                let (inward, outward) = rng.pick(&[(true, true), (true, false), (false, true)]);
                cut(Links::Of { node, inward, outward })
            }
            Kind::FullPartition => cut(Links::Sides { mask }),
            Kind::PartialPartition => cut(Links::Bridge { mask, node }),
            Kind::Ring => cut(Links::Ring),
            Kind::ScatteredCuts => cut(Links::Scattered { seed: mask }),
            Kind::Pause => Fault::Pause { node, ms: rng.pick(&[20, 200, 700, 2_500]) },
            Kind::SlowDisk => Fault::SlowDisk { node, factor: rng.pick(&[3, 10, 40]), ms },
            Kind::HungSync => Fault::HungSync { node, ms: rng.below(election_ms * 3) },
            Kind::FailedSync => Fault::FailedSync { node, keep, down_ms },
            Kind::FullDisk => Fault::FullDisk { node, ms },
            Kind::OldDisk => {
                let age_ms = rng.pick(&[20, election_ms, election_ms * 5]);
                Fault::OldDisk { node, age_ms, down_ms: down_ms.min(400) }
            }
            Kind::WipedDisk => Fault::WipedDisk { node, down_ms },
            Kind::ClockJump => {
                let by_ms = rng.pick(&[1, election_ms / 3, election_ms * 2, 3_600_000]);
                Fault::ClockJump { node, by_ms }
            }
            Kind::ClockRate => Fault::ClockRate { node, rate: rng.between(800, 1250) },
            Kind::Change => {
                let into = other;
                let change = match rng.below(10) {
                    0 | 1 => Change::Add(node),
                    2 => Change::AddWitness(node),
                    3 | 4 => Change::Promote(node),
                    5 => Change::Demote(node),
                    6 | 7 => Change::Remove(node),
                    8 => Change::Replace { out: node, into },
                    _ => Change::Set { mask },
                };
                let seen = rng.pick(&[Seen::Whatever, Seen::TheNewest, Seen::AnOlder]);
                Fault::Change { change, deposed: rng.chance(200), seen }
            }
            Kind::Transfer => Fault::Transfer { to: rng.between(0, nodes), ms },
            Kind::Campaign => Fault::Campaign { node },
            Kind::ForgetLeader => Fault::ForgetLeader { node },
            Kind::SlowMachine => Fault::SlowMachine { node, ms },
            Kind::Rot => Fault::Rot { node },
        }
    }
}

/// How often each kind of fault happens: mean time between two in milliseconds, 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates([u64; Kind::ALL.len()]);

impl Rates {
    /// No faults.
    pub const NONE: Rates = Rates([0; Kind::ALL.len()]);

    /// Only this kind, so often.
    pub fn only(kind: Kind, mean_ms: u64) -> Self {
        let mut rates = Self::NONE;
        rates.0[kind as usize] = mean_ms;
        rates
    }

    /// Rates of a world: one world in eight has a single kind of fault, in the others each kind is
    /// there or not, once in 2, 6 or 20 times `unit_ms`.
    pub(crate) fn draw(unit_ms: u64, rng: &mut Rng) -> Self {
        let mut rates = Self::NONE;
        let wrong = &Kind::ALL[..Kind::WRONG];
        let alone = rng.chance(125).then(|| rng.pick(wrong));
        for (kind, mean_ms) in wrong.iter().zip(&mut rates.0) {
            let there = alone.map_or(rng.chance(300), |only| only == *kind);
            let mean = rng.pick(&[2, 6, 20]) * unit_ms;
            *mean_ms = if there { mean } else { 0 };
        }
        rates
    }

    /// The same, with what operators do: each there in two worlds of five.
    pub(crate) fn with_operators(mut self, unit_ms: u64, rng: &mut Rng) -> Self {
        for mean_ms in &mut self.0[Kind::WRONG..Kind::OPERATORS] {
            let there = rng.chance(400);
            let mean = rng.pick(&[1, 3, 8]) * unit_ms;
            *mean_ms = if there { mean } else { 0 };
        }
        self
    }

    /// The same, with state machines that stall in one world of eight.
    pub(crate) fn with_slow_machines(mut self, unit_ms: u64, rng: &mut Rng) -> Self {
        let mean = rng.pick(&[1, 4]) * unit_ms;
        self.0[Kind::SlowMachine as usize] = if rng.chance(125) { mean } else { 0 };
        self
    }

    /// The same, with one that rots in one world of eight.
    pub(crate) fn with_rot(mut self, unit_ms: u64, rng: &mut Rng) -> Self {
        self.0[Kind::Rot as usize] = if rng.chance(125) { 4 * unit_ms } else { 0 };
        self
    }

    /// The schedule that `seed` stands for at these rates, within a range of `millis`.
    pub fn schedule(
        &self,
        seed: u64,
        nodes: usize,
        election_ms: u64,
        millis: Range<u64>,
    ) -> Vec<Planned> {
        let mut schedule = Vec::new();
        for (kind, mean_ms) in Kind::ALL.into_iter().zip(self.0) {
            if mean_ms == 0 {
                continue;
            }
            let mut rng = Rng::stream(seed, kind.name());
            let mut at_ms = millis.start;
            loop {
                at_ms += rng.between(1, 2 * mean_ms);
                if at_ms >= millis.end {
                    break;
                }
                let fault = kind.draw(nodes as u64, election_ms, &mut rng);
                schedule.push(Planned { at_ms, fault });
            }
        }
        schedule.sort_by_key(|planned| planned.at_ms);
        schedule
    }
}

impl Fault {
    /// The only node that it strikes, if it is one.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Fault::Crash { node, .. }
            | Fault::Pause { node, .. }
            | Fault::SlowDisk { node, .. }
            | Fault::HungSync { node, .. }
            | Fault::FailedSync { node, .. }
            | Fault::FullDisk { node, .. }
            | Fault::OldDisk { node, .. }
            | Fault::WipedDisk { node, .. }
            | Fault::ClockJump { node, .. }
            | Fault::ClockRate { node, .. }
            | Fault::Campaign { node }
            | Fault::ForgetLeader { node }
            | Fault::SlowMachine { node, .. }
            | Fault::Rot { node } => Some(*node),
            Fault::PowerLoss { .. }
            | Fault::Cut { .. }
            | Fault::Change { .. }
            | Fault::Transfer { .. } => None,
        }
    }

    /// Whether a disk loses what it had synced, which is more than Raft promises to survive. It
    /// happens to one disk of a world at most, and only where it can be survived:
    ///
    /// - An *empty disk* comes with another identity, which the others know or will not count: see
    ///   `would_win` in the engine. It takes identities and three nodes.
    /// - An *old copy* has the identity of the disk it replaces, so nobody can tell before the
    ///   leader finds its log shorter than it was. With an even number of voters any two majorities
    ///   share two nodes, so one of them remembers: no second leader in a term, no committed entry
    ///   missing. One thing must be remembered by the node itself, that it stood for election in a
    ///   term (the others would vote for it once more in that term); so the copy is put back only
    ///   if the node has not stood for election in a term later than the copy's. With an odd
    ///   number of voters nothing could be promised, and it does not happen, nor where the number
    ///   of voters may change.
    ///
    /// All checkers stay on. Those that look at disks count the forgetful one as still having what
    /// it had, and the others may say of it that its log went back.
    pub fn forgets(&self) -> bool {
        matches!(self, Fault::OldDisk { .. } | Fault::WipedDisk { .. })
    }

    /// Whether an operator asks for another membership.
    pub(crate) fn changes(&self) -> bool {
        matches!(self, Fault::Change { .. })
    }
}

impl Links {
    /// Whether messages of `from` no longer reach `to`, in a cluster of `nodes`.
    pub fn cut(&self, nodes: u64, from: NodeId, to: NodeId) -> bool {
        let side = |mask: u64, node: NodeId| mask >> node & 1;
        match *self {
            Links::OneWay { from: a, to: b } => (from, to) == (a, b),
            Links::Of { node, inward, outward } => {
                (to == node && inward) || (from == node && outward)
            }
            Links::Sides { mask } => side(mask, from) != side(mask, to),
            Links::Bridge { mask, node } => {
                side(mask, from) != side(mask, to) && from != node && to != node
            }
            Links::Ring => {
                let apart = from.abs_diff(to);
                apart != 1 && apart + 1 != nodes
            }
            Links::Scattered { seed } => Rng::new(seed ^ (from << 32 | to)).chance(300),
        }
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = |mask: u64| {
            let of = |side: u64| {
                let ids = (1..10).filter(move |n| mask >> n & 1 == side);
                ids.map(|n: u64| n.to_string()).collect::<Vec<_>>().join(" ")
            };
            format!("{{{}}} and {{{}}}", of(0), of(1))
        };
        match self {
            Links::OneWay { from, to } => write!(f, "link {from} -> {to}"),
            Links::Of { node, inward: true, outward: true } => write!(f, "all links of {node}"),
            Links::Of { node, inward: true, .. } => write!(f, "all links to {node}"),
            Links::Of { node, .. } => write!(f, "all links from {node}"),
            Links::Sides { mask } => write!(f, "all links between {}", sides(*mask)),
            Links::Bridge { mask, node } => {
                write!(f, "all links between {} but those of {node}", sides(*mask))
            }
            Links::Ring => f.write_str("all links but those of a ring"),
            Links::Scattered { .. } => f.write_str("links here and there"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash { node, keep, down_ms } => {
                write!(f, "node {node} crashes, keeps {keep}/1000 unsynced, down {down_ms} ms")
            }
            Fault::PowerLoss { keep, down_ms } => {
                write!(f, "all nodes crash, keep {keep}/1000 unsynced, down {down_ms} ms and more")
            }
            Fault::Cut { links, ms } => write!(f, "{links}: cut for {ms} ms"),
            Fault::Pause { node, ms } => write!(f, "node {node} stands still for {ms} ms"),
            Fault::SlowDisk { node, factor, ms } => {
                write!(f, "disk of {node} {factor} times slower for {ms} ms")
            }
            Fault::HungSync { node, ms } => write!(f, "disk of {node} hangs for {ms} ms"),
            Fault::FailedSync { node, keep, down_ms } => write!(
                f,
                "next sync of {node} fails, {keep}/1000 of it done anyway, down {down_ms} ms"
            ),
            Fault::FullDisk { node, ms } => write!(f, "disk of {node} is full for {ms} ms"),
            Fault::OldDisk { node, age_ms, down_ms } => write!(
                f,
                "disk of {node} is copied, and the copy put back after {age_ms} ms, down {down_ms} ms"
            ),
            Fault::WipedDisk { node, down_ms } => {
                write!(f, "disk of {node} is replaced by an empty one, down {down_ms} ms")
            }
            Fault::ClockJump { node, by_ms } => {
                write!(f, "clock of {node} jumps forward by {by_ms} ms")
            }
            Fault::ClockRate { node, rate } => write!(f, "clock of {node} goes at {rate}/1000"),
            Fault::Change { change, deposed, seen } => {
                let leader = if *deposed { "an old leader" } else { "the leader" };
                let seen = match seen {
                    Seen::Whatever => "",
                    Seen::TheNewest => ", if nothing has changed",
                    Seen::AnOlder => ", if nothing has changed, but it has",
                };
                write!(f, "{leader} is asked to {change}{seen}")
            }
            Fault::Transfer { to, ms } => {
                write!(f, "the leader is asked to hand over to {to} within {ms} ms")
            }
            Fault::Campaign { node } => write!(f, "node {node} is told to campaign"),
            Fault::ForgetLeader { node } => {
                write!(f, "node {node} is told that its leader is gone")
            }
            Fault::SlowMachine { node, ms } => {
                write!(f, "the state machine of {node} applies nothing for {ms} ms")
            }
            Fault::Rot { node } => write!(f, "the state of {node} changes by itself"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add(id) => write!(f, "add {id}"),
            Change::AddWitness(id) => write!(f, "add {id} as a witness"),
            Change::Promote(id) => write!(f, "promote {id}"),
            Change::Demote(id) => write!(f, "demote {id}"),
            Change::Remove(id) => write!(f, "remove {id}"),
            Change::Replace { out, into } => write!(f, "replace {out} by {into}"),
            Change::Set { mask } => write!(f, "make voters of {:#b}", mask & 0x3fe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_cuts() {
        let cut = |links: Links, nodes: u64| {
            let all = (1..=nodes).flat_map(|a| (1..=nodes).map(move |b| (a, b)));
            all.filter(|(a, b)| a != b && links.cut(nodes, *a, *b)).collect::<Vec<_>>()
        };
        assert_eq!(cut(Links::OneWay { from: 2, to: 1 }, 3), [(2, 1)]);
        assert_eq!(cut(Links::Of { node: 2, inward: true, outward: false }, 3), [(1, 2), (3, 2)]);
        assert_eq!(cut(Links::Sides { mask: 0b0010 }, 3), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        assert_eq!(cut(Links::Bridge { mask: 0b0010, node: 2 }, 3), [(1, 3), (3, 1)]);
        assert_eq!(cut(Links::Ring, 3), []);
        assert_eq!(cut(Links::Ring, 4), [(1, 3), (2, 4), (3, 1), (4, 2)]);
        let scattered = cut(Links::Scattered { seed: 5 }, 9).len();
        assert!((10..40).contains(&scattered), "{scattered}");
    }

    /// What one kind of fault draws does not depend on which others there are.
    #[test]
    fn kinds_do_not_disturb_each_other() {
        let mut both = Rates::only(Kind::Crash, 100);
        both.0[Kind::Ring as usize] = 200;
        let schedule = |rates: Rates| rates.schedule(4, 5, 300, 0..6_000);
        let crashes = schedule(Rates::only(Kind::Crash, 100));
        let of_both: Vec<_> = schedule(both)
            .into_iter()
            .filter(|planned| matches!(planned.fault, Fault::Crash { .. }))
            .collect();
        assert!(crashes.len() > 30);
        assert_eq!(crashes, of_both);
    }
}
