//! Bugs planted into the world around what is simulated, to prove that the checkers can fail.

use std::str::FromStr;

use crate::explore::Level;

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A disk says that it has what it has not: engines hear of it at once, before any sync; files
    /// are not synced at all.
    DiskLies,
    /// A crash loses term and vote, and keeps the log.
    VoteForgotten,
    /// Clients are told of success as soon as the leader has the write in its log.
    AcknowledgedEarly,
    /// A network that sometimes raises what an acknowledgement says.
    AcknowledgementsAltered,
    /// A network that sometimes turns a refused vote into a granted one.
    VotesAltered,
    /// Reads are served at the commit index of whoever is asked, without asking anyone.
    ReadsUnconfirmed,
    /// A crash loses the first unsynced write and keeps later ones: syncs out of order.
    WritesReordered,
    /// A completed sync is undone by a crash: its last write is gone.
    SyncIgnored,
    /// The state machine is given everything in the log, committed or not.
    AppliedEarly,
    /// Links drop everything after the faults have stopped: nothing is unsafe, nothing goes on.
    NeverHeals,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Sabotage; 10] = [
        Sabotage::DiskLies,
        Sabotage::VoteForgotten,
        Sabotage::AcknowledgedEarly,
        Sabotage::AcknowledgementsAltered,
        Sabotage::VotesAltered,
        Sabotage::ReadsUnconfirmed,
        Sabotage::WritesReordered,
        Sabotage::SyncIgnored,
        Sabotage::AppliedEarly,
        Sabotage::NeverHeals,
    ];

    /// Whether this level has it.
    pub fn acts_on(self, level: Level) -> bool {
        level == Level::Engines || matches!(self, Sabotage::DiskLies | Sabotage::NeverHeals)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Sabotage::DiskLies => "disk-lies",
            Sabotage::VoteForgotten => "vote-forgotten",
            Sabotage::AcknowledgedEarly => "acknowledged-early",
            Sabotage::AcknowledgementsAltered => "acknowledgements-altered",
            Sabotage::VotesAltered => "votes-altered",
            Sabotage::ReadsUnconfirmed => "reads-unconfirmed",
            Sabotage::WritesReordered => "writes-reordered",
            Sabotage::SyncIgnored => "sync-ignored",
            Sabotage::AppliedEarly => "applied-early",
            Sabotage::NeverHeals => "never-heals",
        }
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Sabotage::ALL.map(Sabotage::name).join(", ");
        let named = Sabotage::ALL.into_iter().find(|bug| bug.name() == text);
        named.ok_or_else(|| format!("`{text}` is none of {}", names()))
    }
}
