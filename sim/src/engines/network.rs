//! A network that loses, repeats, delays and reorders, and never alters.

use quorate_engine::NodeId;

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
pub struct Network {
    /// The present weather.
    pub weather: Weather,
    nodes: usize,
    cut: Vec<bool>,
    /// When the newest message of each link arrives.
    arrival: Vec<u64>,
}

impl Network {
    /// A network of nodes `1..=nodes`, all connected.
    pub fn new(nodes: usize, weather: Weather) -> Self {
        let links = (nodes + 1) * (nodes + 1);
        Self { weather, nodes, cut: vec![false; links], arrival: vec![0; links] }
    }

    fn link(&self, from: NodeId, to: NodeId) -> usize {
        from as usize * (self.nodes + 1) + to as usize
    }

    /// Cuts or restores one direction.
    pub fn set_cut(&mut self, from: NodeId, to: NodeId, cut: bool) {
        let link = self.link(from, to);
        self.cut[link] = cut;
    }

    /// Whether this direction is cut.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut[self.link(from, to)]
    }

    /// Restores every link.
    pub fn heal(&mut self) {
        self.cut.fill(false);
    }

    /// Moments in nanoseconds at which copies of a message sent at `now` arrive: none, one or two.
    pub fn carry(&mut self, now: u64, from: NodeId, to: NodeId, rng: &mut Rng) -> Vec<u64> {
        if self.is_cut(from, to) || rng.chance(self.weather.drop) {
            return Vec::new();
        }
        let weather = self.weather;
        let copies = 1 + u64::from(rng.chance(weather.duplicate));
        let link = self.link(from, to);
        (0..copies)
            .map(|_| {
                let ordinary = rng.between(weather.delay_min_us, weather.delay_max_us) * 1_000;
                let factor = if rng.chance(weather.straggle) { rng.between(2, 50) } else { 1 };
                let mut at = now + ordinary * factor;
                if !weather.reorder {
                    at = at.max(self.arrival[link] + 1);
                    self.arrival[link] = at;
                }
                at
            })
            .collect()
    }
}
