//! What is left out of a seed's plan: the result of making a failure small, as data and as the flags
//! that replay it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::engines::Weather;

/// A plan made smaller. The default leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reduction {
    /// Only these entries of the schedule of faults.
    pub faults: Option<Vec<usize>>,
    /// What the world does to everyone, and does not any more.
    pub calm: Vec<Trouble>,
    /// Only the first so many nodes.
    pub nodes: Option<usize>,
    /// Faults and load end after so many milliseconds.
    pub millis: Option<u64>,
}

/// What there is to leave out of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Entries of the schedule of faults.
    pub faults: usize,
    /// What goes wrong all the time.
    pub troubles: Vec<Trouble>,
    /// How many nodes there are.
    pub nodes: usize,
    /// How long faults and load last.
    pub millis: u64,
}

/// Something a world does all the time, at a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Messages are lost.
    Drop,
    /// Messages arrive twice.
    Duplicate,
    /// Messages take long.
    Delay,
    /// Some messages take much longer than others.
    Straggle,
    /// Messages overtake each other.
    Reorder,
    /// Messages are damaged on their way.
    Damage,
    /// Clocks go at rates of their own.
    Skew,
    /// Syncs take long.
    Sync,
    /// Appends, windows and buffers are small.
    Window,
    /// Two nodes are told to begin the group.
    Beginnings,
    /// Snapshots are built and logs compacted.
    Snapshots,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 11] = [
        Trouble::Drop,
        Trouble::Duplicate,
        Trouble::Delay,
        Trouble::Straggle,
        Trouble::Reorder,
        Trouble::Damage,
        Trouble::Skew,
        Trouble::Sync,
        Trouble::Window,
        Trouble::Beginnings,
        Trouble::Snapshots,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Drop => "drop",
            Trouble::Duplicate => "duplicate",
            Trouble::Delay => "delay",
            Trouble::Straggle => "straggle",
            Trouble::Reorder => "reorder",
            Trouble::Damage => "damage",
            Trouble::Skew => "skew",
            Trouble::Sync => "sync",
            Trouble::Window => "window",
            Trouble::Beginnings => "beginnings",
            Trouble::Snapshots => "snapshots",
        }
    }

    /// Whether a network has it; `None` if it is not the network's.
    pub(crate) fn is_in(self, weather: &Weather) -> Option<bool> {
        Some(match self {
            Trouble::Drop => weather.drop > 0,
            Trouble::Duplicate => weather.duplicate > 0,
            Trouble::Delay => weather.delay_max_us > Weather::FAIR.delay_max_us,
            Trouble::Straggle => weather.straggle > 0,
            Trouble::Reorder => weather.reorder,
            Trouble::Damage
            | Trouble::Skew
            | Trouble::Sync
            | Trouble::Window
            | Trouble::Beginnings
            | Trouble::Snapshots => return None,
        })
    }

    /// Takes it out of a network, if it is the network's.
    pub(crate) fn calm(self, weather: &mut Weather) {
        match self {
            Trouble::Drop => weather.drop = 0,
            Trouble::Duplicate => weather.duplicate = 0,
            Trouble::Delay => {
                weather.delay_min_us = Weather::FAIR.delay_min_us;
                weather.delay_max_us = Weather::FAIR.delay_max_us;
            }
            Trouble::Straggle => weather.straggle = 0,
            Trouble::Reorder => weather.reorder = false,
            Trouble::Damage
            | Trouble::Skew
            | Trouble::Sync
            | Trouble::Window
            | Trouble::Beginnings
            | Trouble::Snapshots => {}
        }
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Trouble::ALL.map(Trouble::name).join(", ");
        let named = Trouble::ALL.into_iter().find(|trouble| trouble.name() == text);
        named.ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Reduction {
    /// Places in a schedule of so many faults that are left out.
    pub(crate) fn left_out(&self, faults: usize) -> Vec<usize> {
        let keep = |entry: &usize| self.faults.as_ref().is_none_or(|keep| keep.contains(entry));
        (0..faults).filter(|entry| !keep(entry)).collect()
    }

    /// How long faults and load last, of this time.
    pub(crate) fn shorten(&self, whole: Duration) -> Duration {
        self.millis.map_or(whole, |millis| whole.min(Duration::from_millis(millis)))
    }
}

/// As flags of `simulate run`.
impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut flags = Vec::new();
        let list = |items: Vec<String>| items.join(",");
        if let Some(faults) = &self.faults {
            let listed = list(faults.iter().map(usize::to_string).collect());
            flags.push(format!("--faults {}", if faults.is_empty() { "none" } else { &listed }));
        }
        if !self.calm.is_empty() {
            flags.push(format!(
                "--calm {}",
                list(self.calm.iter().map(Trouble::to_string).collect())
            ));
        }
        flags.extend(self.nodes.map(|nodes| format!("--nodes {nodes}")));
        flags.extend(self.millis.map(|millis| format!("--millis {millis}")));
        f.write_str(&flags.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduction_is_flags() {
        let reduction = Reduction {
            faults: Some(vec![1, 3]),
            calm: vec![Trouble::Drop, Trouble::Skew],
            nodes: Some(3),
            millis: Some(1200),
        };
        assert_eq!(reduction.to_string(), "--faults 1,3 --calm drop,skew --nodes 3 --millis 1200");
        assert_eq!(Reduction::default().to_string(), "");
        for trouble in Trouble::ALL {
            assert_eq!(trouble.name().parse(), Ok(trouble));
        }
        assert!("rain".parse::<Trouble>().unwrap_err().contains("drop, duplicate"));
    }
}
