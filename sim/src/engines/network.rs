//! A network that loses, repeats, delays and reorders, and never alters.

use quorate_engine::NodeId;

use crate::fault::Links;
use crate::rng::Rng;

/// How the network treats a message, drawn per world.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Messages lost, of a thousand.
    pub drop: u64,
    /// Messages delivered twice, of a thousand.
    pub duplicate: u64,
    /// Shortest time under way, in microseconds.
    pub delay_min_us: u64,
    /// Longest ordinary time under way.
    pub delay_max_us: u64,
    /// Messages that take up to fifty times as long, of a thousand.
    pub straggle: u64,
    /// Whether messages of one link overtake each other. A transport over TCP keeps their order.
    pub reorder: bool,
}

impl Weather {
    /// Nothing is lost, everything is quick.
    pub const FAIR: Weather = Weather {
        drop: 0,
        duplicate: 0,
        delay_min_us: 200,
        delay_max_us: 2_000,
        straggle: 0,
        reorder: false,
    };
}

/// Links between nodes, each direction by itself.
#[derive(Debug)]
pub(crate) struct Network {
    /// The present weather.
    pub(crate) weather: Weather,
    nodes: usize,
    /// How many cuts there are on each link, in each direction.
    cuts: Vec<u32>,
    rng: Rng,
    /// When the newest message of each link arrives.
    arrival: Vec<u64>,
}

impl Network {
    /// A network of nodes `1..=nodes`, all connected; `seed` decides what becomes of messages.
    pub(crate) fn new(nodes: usize, weather: Weather, seed: u64) -> Self {
        let links = (nodes + 1) * (nodes + 1);
        let rng = Rng::stream(seed, "network");
        Self { weather, nodes, cuts: vec![0; links], rng, arrival: vec![0; links] }
    }

    fn link(&self, from: NodeId, to: NodeId) -> usize {
        from as usize * (self.nodes + 1) + to as usize
    }

    /// Cuts a pattern of links, or takes that cut back. Cuts are counted: a link is whole when every
    /// cut on it was taken back.
    pub(crate) fn cut(&mut self, links: Links, cut: bool) {
        let nodes = self.nodes as u64;
        for from in 1..=nodes {
            for to in (1..=nodes).filter(|to| *to != from && links.cut(nodes, from, *to)) {
                let link = self.link(from, to);
                let cuts = &mut self.cuts[link];
                *cuts = if cut { *cuts + 1 } else { cuts.saturating_sub(1) };
            }
        }
    }

    /// Whether this direction is cut.
    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts[self.link(from, to)] > 0
    }

    /// Restores every link.
    pub(crate) fn heal(&mut self) {
        self.cuts.fill(0);
    }

    /// Moments in nanoseconds at which the copies of a message sent at `now` arrive: none, one or
    /// two.
    pub(crate) fn carry(&mut self, now: u64, from: NodeId, to: NodeId) -> [Option<u64>; 2] {
        let weather = self.weather;
        if self.is_cut(from, to) || self.rng.chance(weather.drop) {
            return [None; 2];
        }
        let link = self.link(from, to);
        let first = self.arrival(now, link);
        let again = self.rng.chance(weather.duplicate).then(|| self.arrival(now, link));
        [Some(first), again]
    }

    fn arrival(&mut self, now: u64, link: usize) -> u64 {
        let weather = self.weather;
        let ordinary = self.rng.between(weather.delay_min_us, weather.delay_max_us) * 1_000;
        let slow = self.rng.chance(weather.straggle);
        let factor = if slow { self.rng.between(2, 50) } else { 1 };
        let mut at = now + ordinary * factor;
        if !weather.reorder {
            at = at.max(self.arrival[link] + 1);
            self.arrival[link] = at;
        }
        at
    }
}
