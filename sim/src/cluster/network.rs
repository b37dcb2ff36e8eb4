//! The network between simulated processes: the bytes of the TCP transport's frames, carried with
//! delay, loss, repetition, damage and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyerror::AnyError;
use async_trait::async_trait;
use quorate::{Envelope, Inbound, Lane, NetworkError, NodeId, Peer, RaftNetwork};
use quorate_network::Message;
use quorate_network::tcp::{from_frames, to_frames};
use tokio::time::Instant;

use crate::cluster::sim::{Sim, lock};
use crate::engines::Weather;
use crate::rng::Rng;
use crate::sequence;

/// The limit of the transport's frames.
const FRAME_BYTES: usize = 64 << 20;

/// How long a send into a dead link takes at most to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// All links. A clone is the same network.
#[derive(Clone)]
pub(crate) struct SimNetwork {
    sim: Sim,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    weather: Weather,
    /// Of a thousand sends, how many are damaged on the way.
    damage: u64,
    hosts: BTreeMap<NodeId, Host>,
    /// How many cuts there are on each link.
    cuts: BTreeMap<(NodeId, NodeId), u32>,
    /// When the newest send of each stream arrives.
    arrival: BTreeMap<(NodeId, NodeId, Lane), Instant>,
    /// Streams that both sides have agreed to, with the lives they belong to.
    streams: BTreeSet<Stream>,
}

/// A process on the network.
struct Host {
    life: u32,
    inbound: Weak<dyn Inbound>,
}

type Stream = (NodeId, u32, NodeId, u32, Lane);

impl SimNetwork {
    pub(crate) fn new(sim: Sim, weather: Weather) -> Self {
        let state = State {
            rng: Rng::stream(sim.seed(), "network"),
            weather,
            damage: 0,
            hosts: BTreeMap::new(),
            cuts: BTreeMap::new(),
            arrival: BTreeMap::new(),
            streams: BTreeSet::new(),
        };
        Self { sim, state: Arc::new(Mutex::new(state)) }
    }

    /// What a process sends through.
    pub(crate) fn link(&self, from: NodeId, life: u32) -> Arc<dyn RaftNetwork> {
        Arc::new(Link { network: self.clone(), from, life })
    }

    pub(crate) fn join(&self, id: NodeId, life: u32, inbound: &Arc<dyn Inbound>) {
        let host = Host { life, inbound: Arc::downgrade(inbound) };
        lock(&self.state).hosts.insert(id, host);
    }

    /// The process is gone, and every connection of it broken.
    pub(crate) fn leave(&self, id: NodeId) {
        let mut state = lock(&self.state);
        state.hosts.remove(&id);
        state.streams.retain(|(from, _, to, ..)| *from != id && *to != id);
    }

    pub(crate) fn set_weather(&self, weather: Weather, damage: u64) {
        let mut state = lock(&self.state);
        state.weather = weather;
        state.damage = damage;
    }

    /// Cuts one direction. Cuts are counted: it is whole when each was mended.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        *lock(&self.state).cuts.entry((from, to)).or_default() += 1;
    }

    pub(crate) fn mend(&self, from: NodeId, to: NodeId) {
        let mut state = lock(&self.state);
        let cuts = state.cuts.entry((from, to)).or_default();
        *cuts = cuts.saturating_sub(1);
    }

    pub(crate) fn heal(&self) {
        lock(&self.state).cuts.clear();
    }
}

/// What becomes of one send.
enum Fate {
    /// It arrives at these moments: one, or two.
    Arrives(Vec<Instant>),
    /// Nothing tells the sender.
    Lost,
    /// The sender is told after a while.
    Fails(Duration),
    Refused(String),
}

impl State {
    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|cuts| *cuts > 0)
    }

    fn fate(&mut self, stream: (NodeId, u32, NodeId, Lane)) -> Fate {
        let (from, life, to, lane) = stream;
        let weather = self.weather;
        let reachable = !self.is_cut(from, to) && self.hosts.contains_key(&to);
        if !reachable || self.rng.chance(weather.drop) {
            let patience = Duration::from_millis(self.rng.below(NOTICED_WITHIN.as_millis() as u64));
            return match self.rng.below(3) {
                0 => Fate::Lost,
                1 => Fate::Fails(Duration::ZERO),
                _ => Fate::Fails(patience),
            };
        }
        if let Some(refusal) = self.connect(from, life, to, lane) {
            return Fate::Refused(refusal);
        }
        let now = Instant::now();
        let copies = 1 + u64::from(self.rng.chance(weather.duplicate));
        let arrivals = (0..copies).map(|_| {
            let micros = self.rng.between(weather.delay_min_us, weather.delay_max_us);
            let factor =
                if self.rng.chance(weather.straggle) { self.rng.between(2, 50) } else { 1 };
            let mut at = now + Duration::from_micros(micros * factor);
            if !weather.reorder {
                let newest = self.arrival.entry((from, to, lane)).or_insert(at);
                at = at.max(*newest);
                *newest = at;
            }
            at
        });
        Fate::Arrives(arrivals.collect())
    }

    /// A handshake, where there is no connection yet. Returns the words of who refuses.
    fn connect(&mut self, from: NodeId, life: u32, to: NodeId, lane: Lane) -> Option<String> {
        let stream = (from, life, to, self.hosts[&to].life, lane);
        if self.streams.contains(&stream) {
            return None;
        }
        let host = |id| self.hosts.get(&id).and_then(|host: &Host| host.inbound.upgrade());
        let (Some(near), Some(far)) = (host(from), host(to)) else { return None };
        let refusal = far.admit(&near.hello(to)).err().or(near.admit(&far.hello(from)).err());
        if refusal.is_none() {
            self.streams.insert(stream);
        }
        refusal.map(|refusal| refusal.0)
    }
}

/// One process's end of the network.
struct Link {
    network: SimNetwork,
    from: NodeId,
    life: u32,
}

#[async_trait]
impl RaftNetwork for Link {
    async fn send(
        &self,
        to: &Peer,
        lane: Lane,
        messages: Vec<Envelope>,
    ) -> Result<(), NetworkError> {
        let (sim, from, to) = (&self.network.sim, self.from, to.id);
        let mut bytes = to_frames(&messages, FRAME_BYTES)?;
        let (fate, life) = {
            let mut state = lock(&self.network.state);
            let fate = state.fate((from, self.life, to, lane));
            let damage = state.damage;
            if state.rng.chance(damage) && !bytes.is_empty() {
                let at = state.rng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << state.rng.below(8);
            }
            (fate, state.hosts.get(&to).map(|host| host.life))
        };
        let unreachable =
            |text: &str| Err(NetworkError::Unreachable { peer: to, cause: AnyError::error(text) });
        let told = match &fate {
            Fate::Arrives(_) => "",
            Fate::Lost => " (lost)",
            Fate::Fails(_) => " (fails)",
            Fate::Refused(_) => " (refused)",
        };
        let picture = match &fate {
            Fate::Arrives(_) => sequence::Fate::UnderWay,
            _ => sequence::Fate::Lost,
        };
        let mut numbers = Vec::with_capacity(messages.len());
        for message in &messages {
            let brief = Brief(&message.message);
            sim.say(from, format_args!("-> {to}: {brief}{told}"));
            numbers.push(sim.sends(from, to, picture, brief));
        }
        match fate {
            Fate::Arrives(arrivals) => {
                let Some(life) = life else { return Ok(()) };
                let (bytes, numbers) = (Arc::new(bytes), Arc::new(numbers));
                for at in arrivals {
                    let network = self.network.clone();
                    let (bytes, numbers) = (bytes.clone(), numbers.clone());
                    sim.spawn(async move {
                        tokio::time::sleep_until(at).await;
                        let lost = !network.deliver(from, to, life, &bytes);
                        numbers.iter().for_each(|number| network.sim.arrives(*number, lost));
                    });
                }
                Ok(())
            }
            Fate::Lost => Ok(()),
            Fate::Fails(after) => {
                tokio::time::sleep(after).await;
                unreachable("the connection broke")
            }
            Fate::Refused(reason) => Err(NetworkError::Refused { peer: to, reason }),
        }
    }
}

impl SimNetwork {
    /// Whether it got there.
    fn deliver(&self, from: NodeId, to: NodeId, life: u32, bytes: &[u8]) -> bool {
        let inbound = {
            let state = lock(&self.state);
            // A connection ends with either process, and with it what is under way.
            let host = state.hosts.get(&to).filter(|host| host.life == life);
            let cut = state.is_cut(from, to);
            host.filter(|_| !cut).and_then(|host| host.inbound.upgrade())
        };
        let Some(inbound) = inbound else { return false };
        match from_frames(bytes, FRAME_BYTES) {
            Ok(envelopes) => {
                for envelope in &envelopes {
                    self.sim.say(to, format_args!("<- {from}: {}", Brief(&envelope.message)));
                }
                inbound.receive(envelopes);
                true
            }
            Err(error) => {
                self.sim.say(to, format_args!("<- {from}: damaged: {error}"));
                let mut state = lock(&self.state);
                state.streams.retain(|(a, _, b, ..)| (*a, *b) != (from, to));
                false
            }
        }
    }
}

/// A message in one line.
struct Brief<'a>(&'a Message);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Message::Raft(message) => message.fmt(f),
            Message::Forward(m) => {
                write!(f, "Forward #{} of {} writes", m.sequence, m.writes.len())
            }
            Message::Forwarded(m) => write!(f, "Forwarded {} answers", m.answers.len()),
            other => write!(f, "{other:?}"),
        }
    }
}
