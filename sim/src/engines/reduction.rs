//! What is left out of a seed's plan: the result of making a failure small, as data and as the flags
//! that replay it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::engines::network::Weather;
use crate::engines::node::Clock;
use crate::engines::plan::Plan;

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
    /// Clocks go at rates of their own.
    Skew,
    /// Syncs take long.
    Sync,
    /// Appends and windows are small.
    Window,
    /// Two nodes are told to begin the group.
    Beginnings,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 9] = [
        Trouble::Drop,
        Trouble::Duplicate,
        Trouble::Delay,
        Trouble::Straggle,
        Trouble::Reorder,
        Trouble::Skew,
        Trouble::Sync,
        Trouble::Window,
        Trouble::Beginnings,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Drop => "drop",
            Trouble::Duplicate => "duplicate",
            Trouble::Delay => "delay",
            Trouble::Straggle => "straggle",
            Trouble::Reorder => "reorder",
            Trouble::Skew => "skew",
            Trouble::Sync => "sync",
            Trouble::Window => "window",
            Trouble::Beginnings => "beginnings",
        }
    }

    /// Whether a plan has it.
    pub fn is_in(self, plan: &Plan) -> bool {
        let (weather, fair) = (&plan.weather, Weather::FAIR);
        match self {
            Trouble::Drop => weather.drop > 0,
            Trouble::Duplicate => weather.duplicate > 0,
            Trouble::Delay => weather.delay_max_us > fair.delay_max_us,
            Trouble::Straggle => weather.straggle > 0,
            Trouble::Reorder => weather.reorder,
            Trouble::Skew => plan.clocks.iter().any(Clock::is_skewed),
            Trouble::Sync => plan.sync_us != Plan::QUICK_SYNC_US,
            Trouble::Window => plan.limits.append_bytes < 4096 || plan.limits.window_bytes < 4096,
            Trouble::Beginnings => plan.two_beginnings,
        }
    }

    fn calm(self, plan: &mut Plan) {
        let fair = Weather::FAIR;
        match self {
            Trouble::Drop => plan.weather.drop = 0,
            Trouble::Duplicate => plan.weather.duplicate = 0,
            Trouble::Delay => {
                plan.weather.delay_min_us = fair.delay_min_us;
                plan.weather.delay_max_us = fair.delay_max_us;
            }
            Trouble::Straggle => plan.weather.straggle = 0,
            Trouble::Reorder => plan.weather.reorder = false,
            Trouble::Skew => plan.clocks.iter_mut().for_each(|clock| clock.set_rate(0, 1000)),
            Trouble::Sync => plan.sync_us = Plan::QUICK_SYNC_US,
            Trouble::Window => {
                plan.limits.append_bytes = plan.limits.append_bytes.max(4096);
                plan.limits.window_bytes = plan.limits.window_bytes.max(1 << 20);
            }
            Trouble::Beginnings => plan.two_beginnings = false,
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
    /// Makes `plan` smaller. Entries of its schedule that stay keep their numbers: those that go
    /// are told to [`Plan::left_out`].
    pub fn apply(&self, plan: &mut Plan) {
        if let Some(keep) = &self.faults {
            plan.left_out = (0..plan.faults.len()).filter(|entry| !keep.contains(entry)).collect();
        }
        for trouble in &self.calm {
            trouble.calm(plan);
        }
        if let Some(nodes) = self.nodes {
            plan.nodes = nodes.clamp(1, plan.nodes);
            plan.clocks.truncate(plan.nodes);
        }
        if let Some(millis) = self.millis {
            plan.duration = plan.duration.min(Duration::from_millis(millis));
        }
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
    fn a_reduced_plan_has_what_is_left_and_flags_that_say_so() {
        let seed = (0..).find(|seed| {
            let plan = Plan::from_seed(*seed);
            plan.nodes == 5 && plan.faults.len() > 4 && Trouble::ALL.iter().all(|t| t.is_in(&plan))
        });
        let whole = Plan::from_seed(seed.unwrap());
        let mut plan = whole.clone();
        let reduction = Reduction {
            faults: Some(vec![1, 3]),
            calm: Trouble::ALL.to_vec(),
            nodes: Some(3),
            millis: Some(1200),
        };
        reduction.apply(&mut plan);
        assert_eq!(plan.faults, whole.faults, "what stays keeps its number");
        assert_eq!(plan.left_out.len(), whole.faults.len() - 2);
        assert_eq!((plan.nodes, plan.clocks.len(), plan.duration.as_millis()), (3, 3, 1200));
        assert!(Trouble::ALL.iter().all(|trouble| !trouble.is_in(&plan)));
        assert_eq!(
            reduction.to_string(),
            "--faults 1,3 --calm drop,duplicate,delay,straggle,reorder,skew,sync,window,beginnings \
             --nodes 3 --millis 1200"
        );
        assert_eq!(Reduction::default().to_string(), "");
        for trouble in Trouble::ALL {
            assert_eq!(trouble.name().parse(), Ok(trouble));
        }
        assert!("rain".parse::<Trouble>().unwrap_err().contains("drop, duplicate"));
    }
}
