//! One node's part in the Raft protocol, as a machine without clock, randomness or I/O.
//!
//! [`Engine::step`] takes an [`Input`] and appends [`Output`]s: what to make durable, to send, to
//! apply, to answer. Whoever owns the engine carries them out in order and reports completions as
//! further inputs; [`Engine::deadline`] says when to call if nothing happens. Time and the random
//! seed are arguments, so two engines given the same inputs put out the same, to the bit, and a
//! recorded run is a test (`tests/scripts/`).
//!
//! "Paper" is *In Search of an Understandable Consensus Algorithm* (extended version), "thesis" is
//! Ongaro's *Consensus: Bridging Theory and Practice*. Their words are used for their things.
//!
//! # The protocol
//!
//! **A group** is a set of nodes that agree on one growing log of entries. An entry is
//! *committed* once a majority has it durably and a leader of its own term has counted them; from
//! then on no leader lacks it, and every node may apply it. The rest of this page is about how that
//! comes to be, one chapter a file.
//!
//! **Terms and elections** (`election.rs`). Time is cut into terms, each with one leader at most,
//! since each node gives one vote a term and a leader needs a majority of them. A follower that hears
//! no leader for a random time first asks for promises (*pre-vote*): a node that could not win
//! disturbs nobody. With a majority of promises it enters the next term, makes that and its own vote
//! durable, and only then asks for votes. A voter refuses who has the older log, and refuses everybody
//! while it has heard a leader lately (*stickiness*): hearing one is a promise to it, and since the
//! promise does not survive a crash, a start counts as having just made one. A granted vote leaves
//! when it is durable. Any message of a higher term ends whatever role a node had in its own.
//!
//! **Leading** (`replication.rs`). A leader appends a no-op of its term at once, because entries of
//! earlier terms are never committed by counting (paper, Figure 8), only by what follows them. It
//! sends *heartbeats* in numbered rounds, and steps down when no quorum answers (*check-quorum*) or
//! when its own log makes no progress: a leader that can write nothing must not hold its followers.
//!
//! **Replication** is a *session* with each follower, numbered. It opens with one probe, whose
//! consistency check compares the entry before the first one sent. A follower that disagrees names its
//! last entry that may agree, chosen by term, and the leader steps back to where its own log may
//! agree, also by term, so each exchange disposes of a whole term. Once the probe is accepted, appends
//! follow one another in a window of bytes ([`Stream`]). Whatever goes wrong (a conflict, a loss, a
//! restart) ends the session: answers carry its number, and those of an earlier one count for nothing.
//! A follower overwrites only what conflicts and never what is committed; it acknowledges only what
//! it has durably; it commits no further than it has verified.
//!
//! **Durability.** Each step makes at most one write ([`Persist`]), and it comes first among the
//! outputs. The owner need not wait for it: entries are sent while they are being written. What may
//! not leave before [`Input::Persisted`] is what would be a lie after a crash: a vote, a candidacy, an
//! acknowledgement, the leader's own share in a majority. The engine holds those back itself.
//!
//! **Snapshots** (`snapshot.rs`). What a durable snapshot covers is compacted out of the log, together
//! with nothing that a follower is about to need. A follower whose next entry is gone is sent a
//! snapshot in parts; once it is durable there, the follower's log begins anew behind it, and then its
//! state machine restores it. The configuration in force travels with it.
//!
//! **Reads** (`reads.rs`). A leader answers a read with its commit index once a round of heartbeats
//! *begun after* the read came has been answered by a majority, and not before its no-op is committed
//! (thesis §6.4). A follower asks its leader for that index. Reads that wait share a round. A leader to
//! whom a majority has promised to elect nobody else for a while needs no round meanwhile: its lease,
//! which it gives up before it hands over.
//!
//! **Membership** (`membership.rs`, `changes.rs`, `log.rs`). Configurations are entries, in force as soon
//! as they are in the log and out again if they are overwritten; a joint one needs a majority of both
//! its voter sets. A change of voters is always joint, one at a time, and begins when the leader has
//! committed in its own term; whoever leads ends it. Voters to be are learners first, and catch up.
//! Who is left out is told, and stops campaigning. `quorum.rs` is the only place that counts.
//!
//! **Handing over** (`transfer.rs`). A leader takes no more proposals, waits until another voter has the
//! whole log, and tells it to stand for election at once; promises made to this leader do not stand in
//! its way. A leader does so when it is asked to, when it is no voter any more, and when a voter of
//! higher priority has caught up.
//!
//! **Identity.** A member is an id *and* the incarnation of its data directory. A node without any
//! configuration grants no vote, so whoever founds a group [introduces](message::Introduce) its first
//! configuration (term 0, index 1, the same bytes on every node) before it asks for votes; and a
//! candidate that is refused introduces it to whoever no leader has reached yet. A leader
//! ties each member to the directory it speaks with, by an ordinary configuration entry, as soon as it
//! hears it; afterwards the same id with another directory is a stranger and not heard. Until a voter
//! is tied, its vote might be that of a wiped disk: see `would_win` for how many such votes elect.
//!
//! # What is not here
//!
//! Commands: payloads pass through in [`EntryBlock`]s that the engine does not open. Queues: targets
//! ([`Output::Replicate`], [`Output::Apply`]) replace one another and can't pile up. Callers: clients
//! are tokens. The content of snapshots: chunks pass through as bytes.
//!
//! # Reading order
//!
//! `types`, [`message`], `io`, then `engine` with the chapters; [`quorum`], `log`, [`block`] and
//! `stream` are leaves.

pub mod block;
mod changes;
mod config;
mod election;
mod engine;
mod io;
mod log;
mod membership;
pub mod message;
pub mod planted;
pub mod quorum;
mod reads;
mod recovery;
mod replication;
mod snapshot;
mod stream;
mod transfer;
mod types;

pub use block::{Batch, BlockError, EntryBlock, EntryKind};
pub use config::{Config, ConfigError};
pub use engine::{Engine, StartError};
pub use io::{Decline, Fatal, Input, Notice, Output, Outputs, Persist, Replicate, RoleKind};
pub use log::{Log, LogShapeError};
pub use membership::{Member, Membership, MembershipError};
pub use message::Message;
pub use reads::ReadMode;
pub use recovery::Recovery;
pub use replication::Follower;
pub use stream::{Stream, StreamLimits, Want};
pub use types::{GroupId, HardState, Index, Instant, LogId, NodeId, Term, TermRun};
