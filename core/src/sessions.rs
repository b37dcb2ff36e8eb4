//! Sessions: a write is applied once, however often it is sent (thesis §6.3).
//!
//! A client opens a session and numbers its writes. The table here is replicated state: every node
//! keeps the same one, next to the state machine and changed by the same entries. A write whose number
//! it has seen is not given to the state machine again; its first response is given out once more.
//!
//! Nothing in it depends on a clock of the node that applies. A session that nobody uses lapses by
//! *log time*: the leader stamps each entry of a session, and the largest stamp applied so far is the
//! time everywhere. A leader's stamps go on from the log time it found, at the pace of its own clock.
//!
//! An entry of a session is a header and, behind it, the command:
//!
//! ```text
//!  0  u8   1 opens a session, 2 is a write of one
//!  1       7 bytes, 0
//!  8  u64  log time in milliseconds
//! 16  u64  1: milliseconds without a write after which the session lapses   2: the session
//! 24  u64  1: sessions that there may be at a time                         2: the sequence
//! 32  u64  1: 0                                      2: the sequence acknowledged through
//! 40       2: the command
//! ```
//! All numbers are little-endian. The session's number is the index of the entry that opens it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use quorate_engine::{Index, Instant, planted};
use quorate_network::{SessionRequest, SessionWrite};
use quorate_storage::snapshot::KeptReply;
use quorate_storage::{ApplyMark, Failure, Snapshot, SnapshotMeta, SnapshotReader, StateMachine};

use crate::config::Config;
use crate::digests::{FNV_BASIS, fnv};
use crate::env::{Env, blocking};

/// Length of the header of a session's entry.
pub(crate) const ENTRY_HEADER_BYTES: usize = 40;

/// How far a session's writes may run ahead of what it has acknowledged: so many responses are kept
/// of each at most.
pub(crate) const WINDOW: u64 = 1024;

/// The header of an entry that does what `request` wants.
pub(crate) fn entry_header(
    request: &SessionRequest,
    time_ms: u64,
    config: &Config,
) -> [u8; ENTRY_HEADER_BYTES] {
    let (kind, fields) = match request {
        SessionRequest::Open => {
            let ttl_ms = u64::try_from(config.session_ttl.as_millis()).unwrap_or(u64::MAX);
            (1, [ttl_ms, config.max_sessions.max(1) as u64, 0])
        }
        SessionRequest::Write(w) => (2, [w.session, w.sequence, w.acknowledged]),
    };
    let mut header = [0; ENTRY_HEADER_BYTES];
    header[0] = kind;
    header[8..16].copy_from_slice(&time_ms.to_le_bytes());
    for (to, field) in header[16..].chunks_exact_mut(8).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    header
}

/// An entry as it is read.
enum Entry {
    Open { ttl_ms: u64, max_sessions: u64 },
    Write(SessionWrite),
}

fn decode(header: &[u8; ENTRY_HEADER_BYTES]) -> Result<(u64, Entry), String> {
    let at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let entry = match header[0] {
        1 => Entry::Open { ttl_ms: at(16), max_sessions: at(24) },
        2 => {
            let (session, sequence, acknowledged) = (at(16), at(24), at(32));
            Entry::Write(SessionWrite { session, sequence, acknowledged })
        }
        other => return Err(format!("a session's entry of kind {other}")),
    };
    Ok((at(8), entry))
}

/// What becomes of a session's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The session is open.
    Opened(u64),
    /// The command is new: it is applied.
    Apply(Bytes),
    /// It was applied, and this was the response.
    Repeated(Reply),
    /// It is the same as the command of this number among the new ones of the batch.
    RepeatedInBatch(usize),
    /// There is no such session, or no more. Not applied.
    Expired,
    /// The client has said that it needs no response to this one any more. Not applied.
    Acknowledged,
    /// Too far ahead of what is acknowledged. Not applied.
    TooFar,
}

/// A response that is kept: the version of the codec that wrote it, and its bytes, if it had an
/// encoding.
pub(crate) type Reply = (u16, Option<Bytes>);

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Log time in milliseconds.
    time_ms: u64,
    sessions: BTreeMap<u64, Session>,
    /// When each lapses, the next first.
    lapses: BTreeSet<(u64, u64)>,
    /// New commands of the batch at hand, in order: their responses are not known yet.
    fresh: Vec<(u64, u64)>,
    /// As bytes, if they were asked for since the last change.
    encoded: Option<Bytes>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    ttl_ms: u64,
    lapses_at: u64,
    acknowledged: u64,
    replies: BTreeMap<u64, Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    /// Of this number among the new commands of the batch.
    Fresh(usize),
    Done(Reply),
}

impl Sessions {
    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Log time.
    pub(crate) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Takes the entry at `index` into account.
    ///
    /// # Errors
    /// Bytes that are no entry of a session.
    pub(crate) fn apply(&mut self, index: Index, entry: &Bytes) -> Result<Verdict, String> {
        let header = entry.first_chunk().ok_or("a session's entry cut short")?;
        let (time_ms, what) = decode(header)?;
        self.encoded = None;
        self.time_ms = self.time_ms.max(time_ms);
        while let Some((at, _)) = self.lapses.first() {
            if *at >= self.time_ms {
                break;
            }
            self.end_first();
        }
        Ok(match what {
            Entry::Open { ttl_ms, max_sessions } => {
                while self.sessions.len() as u64 >= max_sessions.max(1) {
                    self.end_first();
                }
                let lapses_at = self.time_ms.saturating_add(ttl_ms);
                let session = Session { ttl_ms, lapses_at, ..Session::default() };
                self.lapses.insert((lapses_at, index));
                self.sessions.insert(index, session);
                Verdict::Opened(index)
            }
            Entry::Write(write) => {
                let command = || entry.slice(ENTRY_HEADER_BYTES..);
                self.write(write, command)
            }
        })
    }

    fn end_first(&mut self) {
        if let Some((_, id)) = self.lapses.pop_first() {
            self.sessions.remove(&id);
        }
    }

    fn write(&mut self, write: SessionWrite, command: impl FnOnce() -> Bytes) -> Verdict {
        let SessionWrite { session: id, sequence, acknowledged } = write;
        let Some(session) = self.sessions.get_mut(&id) else {
            if planted::on("lapsed-session-applies") {
                self.fresh.push((id, sequence));
                return Verdict::Apply(command());
            }
            return Verdict::Expired;
        };
        self.lapses.remove(&(session.lapses_at, id));
        session.lapses_at = self.time_ms.saturating_add(session.ttl_ms);
        self.lapses.insert((session.lapses_at, id));
        // What it acknowledges is at most everything before it.
        let through = acknowledged.min(sequence.saturating_sub(1));
        if through > session.acknowledged {
            session.acknowledged = through;
            session.replies = session.replies.split_off(&(through + 1));
        }
        if sequence <= session.acknowledged {
            return Verdict::Acknowledged;
        }
        if sequence - session.acknowledged > WINDOW {
            return Verdict::TooFar;
        }
        match session.replies.get(&sequence) {
            _ if planted::on("session-write-applied-twice") => {}
            Some(Slot::Done(reply)) => return Verdict::Repeated(reply.clone()),
            Some(Slot::Fresh(number)) => return Verdict::RepeatedInBatch(*number),
            None => {}
        }
        session.replies.insert(sequence, Slot::Fresh(self.fresh.len()));
        self.fresh.push((id, sequence));
        Verdict::Apply(command())
    }

    /// The new commands of the batch at hand, in order: session and sequence.
    pub(crate) fn fresh(&self) -> &[(u64, u64)] {
        &self.fresh
    }

    /// The batch is applied: the responses to its new commands, in order.
    ///
    /// # Panics
    /// If there is another number of them.
    pub(crate) fn answered(&mut self, replies: Vec<Reply>) {
        assert_eq!(replies.len(), self.fresh.len(), "a response to each new command");
        self.encoded = None;
        for ((session, sequence), reply) in std::mem::take(&mut self.fresh).into_iter().zip(replies)
        {
            let slot = self.sessions.get_mut(&session).and_then(|s| s.replies.get_mut(&sequence));
            // It may be acknowledged, or its session at an end, by a later entry of the batch.
            if let Some(slot) = slot {
                *slot = Slot::Done(reply);
            }
        }
    }

    /// The table as bytes; none if there never was a session. Responses of the batch at hand are not
    /// in it.
    pub(crate) fn bytes(&mut self) -> Bytes {
        if self.time_ms == 0 && self.sessions.is_empty() {
            return Bytes::new();
        }
        let bytes = self.encoded.take().unwrap_or_else(|| self.encode());
        self.encoded = Some(bytes.clone());
        bytes
    }

    /// A digest of the state machine, with the table's mixed in; the same one if there never was a
    /// session.
    ///
    /// The responses count as there or not there. What they say is left out: while a cluster is being
    /// upgraded, each node encodes them as its version of the program does.
    pub(crate) fn digest(&self, of_machine: u64) -> u64 {
        if self.time_ms == 0 && self.sessions.is_empty() {
            return of_machine;
        }
        let session = |(id, s): (&u64, &Session)| {
            let kept: Vec<u64> = s.replies.keys().copied().collect();
            [*id, s.ttl_ms, s.lapses_at, s.acknowledged, kept.len() as u64].into_iter().chain(kept)
        };
        let table = self.sessions.iter().flat_map(session);
        let words = [of_machine, self.time_ms].into_iter().chain(table);
        words.fold(FNV_BASIS, |hash, word| fnv(hash, &word.to_le_bytes()))
    }

    fn encode(&self) -> Bytes {
        let reply = |(sequence, slot): (&u64, &Slot)| match slot {
            Slot::Fresh(_) => None,
            Slot::Done((codec, bytes)) => Some(WireReply {
                sequence: *sequence,
                codec: u32::from(*codec),
                bytes: bytes.clone(),
            }),
        };
        let session = |(id, s): (&u64, &Session)| WireSession {
            id: *id,
            ttl_ms: s.ttl_ms,
            lapses_at: s.lapses_at,
            acknowledged: s.acknowledged,
            replies: s.replies.iter().filter_map(reply).collect(),
        };
        let sessions = self.sessions.iter().map(session).collect();
        Wire { time_ms: self.time_ms, sessions }.encode_to_vec().into()
    }

    /// Reads what [`Sessions::bytes`] gave.
    ///
    /// # Errors
    /// Bytes that are no table of sessions.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Failure> {
        let wire = Wire::decode(bytes)
            .map_err(|error| Failure::msg(format!("no table of sessions: {error}")))?;
        let mut table = Self { time_ms: wire.time_ms, ..Self::default() };
        for s in wire.sessions {
            let replies = s
                .replies
                .into_iter()
                .map(|reply| (reply.sequence, Slot::Done((reply.codec as u16, reply.bytes))));
            let session = Session {
                ttl_ms: s.ttl_ms,
                lapses_at: s.lapses_at,
                acknowledged: s.acknowledged,
                replies: replies.collect(),
            };
            table.lapses.insert((s.lapses_at, s.id));
            table.sessions.insert(s.id, session);
        }
        Ok(table)
    }

    /// Reads what a state machine kept: the table as it was before the responses of its last batch,
    /// and those.
    ///
    /// # Errors
    /// As [`Sessions::from_bytes`].
    pub(crate) fn kept(bytes: &[u8], replies: &[KeptReply]) -> Result<Self, Failure> {
        let mut table = Self::from_bytes(bytes)?;
        for KeptReply { session, sequence, codec, bytes } in replies {
            // One that is acknowledged already is of no use.
            if let Some(s) = table.sessions.get_mut(session).filter(|s| *sequence > s.acknowledged)
            {
                s.replies.insert(*sequence, Slot::Done((*codec, bytes.clone())));
            }
        }
        Ok(table)
    }
}

/// The table in snapshots and marks. Tags are for ever; new fields get new tags.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint64, tag = "1")]
    time_ms: u64,
    #[prost(message, repeated, tag = "2")]
    sessions: Vec<WireSession>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSession {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    ttl_ms: u64,
    #[prost(uint64, tag = "3")]
    lapses_at: u64,
    #[prost(uint64, tag = "4")]
    acknowledged: u64,
    #[prost(message, repeated, tag = "5")]
    replies: Vec<WireReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReply {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint32, tag = "2")]
    codec: u32,
    #[prost(bytes = "bytes", optional, tag = "3")]
    bytes: Option<Bytes>,
}

// ---- in snapshots ----

/// "QFS1": begins the content of every snapshot that a node builds.
const CONTENT_MAGIC: [u8; 4] = *b"QFS1";

/// The magic, and a u64: how many bytes of the node's own follow, before those of the state machine.
const CONTENT_HEADER_BYTES: usize = 12;

/// The content of a snapshot: the table of sessions, then what the state machine gives.
pub(crate) fn content(sessions: &Bytes, machine: Snapshot) -> Snapshot {
    let sessions =
        if planted::on("sessions-not-in-snapshot") { Bytes::new() } else { sessions.clone() };
    let mut begin = CONTENT_MAGIC.to_vec();
    begin.extend_from_slice(&(sessions.len() as u64).to_le_bytes());
    Snapshot::new([Ok(begin.into()), Ok(sessions)].into_iter().chain(machine))
}

/// Takes the content of a snapshot apart again. Blocks where reading it does.
///
/// # Errors
/// A snapshot that can't be read, or was not built by a node.
fn parts(mut content: Snapshot) -> Result<(Sessions, Snapshot), Failure> {
    let mut read = Vec::new();
    let mut fill = |read: &mut Vec<u8>, bytes: u64| {
        while (read.len() as u64) < bytes {
            let piece = content.next();
            let piece = piece.unwrap_or_else(|| Err(Failure::msg("a snapshot cut short")))?;
            read.extend_from_slice(&piece);
        }
        Ok::<(), Failure>(())
    };
    fill(&mut read, CONTENT_HEADER_BYTES as u64)?;
    if read[..4] != CONTENT_MAGIC {
        return Err(Failure::msg("its content does not begin like that of a node's snapshot"));
    }
    let bytes = u64::from_le_bytes(read[4..CONTENT_HEADER_BYTES].try_into().expect("eight bytes"));
    let end = bytes.saturating_add(CONTENT_HEADER_BYTES as u64);
    fill(&mut read, end)?;
    let read = Bytes::from(read);
    let sessions = Sessions::from_bytes(&read[CONTENT_HEADER_BYTES..end as usize])?;
    let rest = Some(read.slice(end as usize..)).filter(|rest| !rest.is_empty());
    Ok((sessions, Snapshot::new(rest.map(Ok).into_iter().chain(content))))
}

/// Gives `machine` the state of a snapshot, with a mark if it has a disk of its own (`marked`); returns
/// the sessions that go with that state.
///
/// # Errors
/// As [`parts`], or what the machine says.
pub(crate) async fn restore<S: StateMachine>(
    machine: &mut S,
    env: &dyn Env,
    reader: Arc<dyn SnapshotReader>,
    marked: bool,
) -> Result<Sessions, Failure> {
    let SnapshotMeta { last, configuration, .. } = reader.info().meta.clone();
    let taken_apart = blocking(env, move || parts(reader.into())).await;
    let (mut sessions, state) =
        taken_apart.unwrap_or_else(|| Err(Failure::msg("reading it panicked")))?;
    if marked {
        let mark = ApplyMark::new(last, configuration);
        machine.keep(mark.with_sessions(sessions.bytes(), Vec::new()));
    }
    machine.restore(state).await?;
    Ok(sessions)
}

// ---- log time at a leader ----

/// What a leader stamps entries with: the log time it found, and the time of its own clock since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogClock {
    base_ms: u64,
    since: Instant,
}

impl LogClock {
    /// Log time now, given the time of the entries applied so far. While nobody leads it stands still,
    /// so that no session lapses for want of a leader.
    pub(crate) fn read(&mut self, now: Instant, applied_ms: u64) -> u64 {
        let ran = u64::try_from(now.since(self.since).as_millis()).unwrap_or(u64::MAX);
        let time_ms = self.base_ms.saturating_add(ran);
        if applied_ms > time_ms {
            self.begin(now, applied_ms);
        }
        time_ms.max(applied_ms)
    }

    /// This node begins to lead.
    pub(crate) fn begin(&mut self, now: Instant, applied_ms: u64) {
        *self = Self { base_ms: applied_ms, since: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(time_ms: u64, ttl_ms: u64, max_sessions: usize) -> Bytes {
        let config = Config {
            session_ttl: std::time::Duration::from_millis(ttl_ms),
            max_sessions,
            ..Config::default()
        };
        entry_header(&SessionRequest::Open, time_ms, &config).to_vec().into()
    }

    fn write(time_ms: u64, session: u64, sequence: u64, acknowledged: u64) -> Bytes {
        let write = SessionRequest::Write(SessionWrite { session, sequence, acknowledged });
        let header = entry_header(&write, time_ms, &Config::default());
        [&header[..], b"add"].concat().into()
    }

    /// Applies a batch of one and gives it `reply`.
    fn run(table: &mut Sessions, index: Index, entry: &Bytes, reply: &'static str) -> Verdict {
        let verdict = table.apply(index, entry).unwrap();
        table.answered(match &verdict {
            Verdict::Apply(_) => vec![(1, Some(Bytes::from_static(reply.as_bytes())))],
            _ => vec![],
        });
        verdict
    }

    fn reply(text: &'static str) -> Verdict {
        Verdict::Repeated((1, Some(Bytes::from_static(text.as_bytes()))))
    }

    const APPLY: Verdict = Verdict::Apply(Bytes::from_static(b"add"));

    #[test]
    fn a_write_counts_once_until_it_is_acknowledged() {
        let mut table = Sessions::default();
        assert_eq!(run(&mut table, 7, &open(0, 1000, 9), ""), Verdict::Opened(7));
        assert_eq!(run(&mut table, 8, &write(1, 7, 1, 0), "one"), APPLY);
        assert_eq!(run(&mut table, 9, &write(1, 7, 1, 0), "other"), reply("one"));
        assert_eq!(run(&mut table, 10, &write(1, 7, 3, 0), "three"), APPLY, "in any order");
        assert_eq!(run(&mut table, 11, &write(1, 7, 2, 0), "two"), APPLY);
        assert_eq!(run(&mut table, 12, &write(1, 7, 4, 2), "four"), APPLY);
        assert_eq!(run(&mut table, 13, &write(1, 7, 2, 0), ""), Verdict::Acknowledged);
        assert_eq!(run(&mut table, 14, &write(1, 7, 3, u64::MAX), ""), reply("three"));
        assert_eq!(run(&mut table, 15, &write(1, 7, 0, 0), ""), Verdict::Acknowledged);
        assert_eq!(run(&mut table, 16, &write(1, 7, 3 + WINDOW, 2), ""), Verdict::TooFar);
        assert_eq!(run(&mut table, 17, &write(1, 7, u64::MAX, u64::MAX), "last"), APPLY);
        assert_eq!(run(&mut table, 18, &write(1, 7, 4, 0), ""), Verdict::Acknowledged);
        assert_eq!(run(&mut table, 19, &write(1, 6, 1, 0), ""), Verdict::Expired);
    }

    #[test]
    fn a_copy_in_the_same_batch_has_the_same_response() {
        let mut table = Sessions::default();
        table.apply(1, &open(0, 1000, 9)).unwrap();
        assert_eq!(table.apply(2, &write(0, 1, 1, 0)).unwrap(), APPLY);
        assert_eq!(table.apply(3, &write(0, 1, 2, 0)).unwrap(), APPLY);
        assert_eq!(table.apply(4, &write(0, 1, 2, 0)).unwrap(), Verdict::RepeatedInBatch(1));
        assert_eq!(table.apply(5, &write(0, 1, 3, 2)).unwrap(), APPLY);
        assert_eq!(table.fresh(), [(1, 1), (1, 2), (1, 3)]);
        let replies = ["a", "b", "c"].map(|r| (1, Some(Bytes::from_static(r.as_bytes()))));
        table.answered(replies.to_vec());
        assert_eq!(table.apply(6, &write(0, 1, 2, 0)).unwrap(), Verdict::Acknowledged);
        assert_eq!(table.apply(7, &write(0, 1, 3, 0)).unwrap(), reply("c"));
    }

    #[test]
    fn sessions_lapse_by_log_time_and_make_room() {
        let mut table = Sessions::default();
        run(&mut table, 1, &open(100, 50, 3), "");
        run(&mut table, 2, &open(100, 500, 3), "");
        assert_eq!(run(&mut table, 3, &write(140, 1, 1, 0), "one"), APPLY);
        assert_eq!(run(&mut table, 4, &write(90, 1, 1, 0), ""), reply("one"), "time stands still");
        assert_eq!(table.time_ms(), 140);
        assert_eq!(run(&mut table, 5, &write(190, 1, 1, 0), ""), reply("one"), "written in at 140");
        assert_eq!(run(&mut table, 6, &write(241, 1, 2, 0), ""), Verdict::Expired);
        // The one that would lapse next goes.
        run(&mut table, 7, &open(241, 100, 3), "");
        run(&mut table, 8, &open(241, 900, 3), "");
        run(&mut table, 9, &open(241, 900, 3), "");
        assert_eq!(table.len(), 3);
        assert_eq!(run(&mut table, 10, &write(241, 7, 1, 0), ""), Verdict::Expired);
        assert_eq!(run(&mut table, 11, &write(241, 2, 1, 0), "two"), APPLY);
    }

    #[test]
    fn a_table_is_found_again() {
        let mut table = Sessions::default();
        assert!(table.bytes().is_empty(), "costs nothing when there are none");
        run(&mut table, 1, &open(100, 50, 3), "");
        run(&mut table, 2, &write(101, 1, 1, 0), "one");
        let mut copy = Sessions::from_bytes(&table.bytes()).unwrap();
        assert_eq!(copy.bytes(), table.bytes());
        assert_eq!(run(&mut copy, 3, &write(102, 1, 1, 0), ""), reply("one"));
        assert_eq!(
            run(&mut copy, 4, &write(153, 1, 1, 0), ""),
            Verdict::Expired,
            "it still lapses"
        );

        // In a mark, the responses of the batch at hand come separately.
        table.apply(3, &write(102, 1, 2, 0)).unwrap();
        let bytes = Some(Bytes::from_static(b"two"));
        let kept = KeptReply { session: 1, sequence: 2, codec: 1, bytes };
        let mut marked = Sessions::kept(&table.bytes(), &[kept]).unwrap();
        assert_eq!(run(&mut marked, 4, &write(102, 1, 2, 0), ""), reply("two"));
        assert!(Sessions::from_bytes(&[0xff; 3]).is_err());
    }

    #[test]
    fn a_digest_is_of_all_that_decides() {
        let mut none = Sessions::default();
        assert_eq!(none.digest(5), 5, "costs nothing when there are none");
        run(&mut none, 1, &write(0, 1, 1, 0), "");
        assert_eq!(none.digest(5), 5, "a write of a session that there never was");
        let table = |entries: &[Bytes], reply| {
            let mut table = Sessions::default();
            for (index, entry) in (1..).zip(entries) {
                run(&mut table, index, entry, reply);
            }
            table
        };
        let entries = [open(100, 50, 3), write(101, 1, 1, 0), write(101, 1, 2, 0)];
        let mut first = table(&entries, "one");
        let digest = first.digest(5);
        assert_eq!(Sessions::from_bytes(&first.bytes()).unwrap().digest(5), digest);
        assert_eq!(table(&entries, "an encoding of the next version").digest(5), digest);
        assert_ne!(first.digest(6), digest, "the machine's");
        for (what, others) in [
            ("log time", [open(100, 50, 3), write(101, 1, 1, 0), write(102, 1, 2, 0)]),
            ("time to live", [open(100, 60, 3), write(101, 1, 1, 0), write(101, 1, 2, 0)]),
            ("acknowledged", [open(100, 50, 3), write(101, 1, 1, 0), write(101, 1, 2, 1)]),
            ("a response", [open(100, 50, 3), write(101, 1, 1, 0), write(101, 1, 1, 0)]),
            ("which response", [open(100, 50, 3), write(101, 1, 1, 0), write(101, 1, 3, 0)]),
            ("a session", [open(100, 50, 3), write(101, 1, 1, 0), open(101, 50, 3)]),
        ] {
            assert_ne!(table(&others, "one").digest(5), digest, "{what}");
        }
    }

    #[test]
    fn a_snapshot_is_taken_apart_wherever_it_is_cut() {
        let mut table = Sessions::default();
        run(&mut table, 1, &open(100, 50, 3), "");
        let bytes = table.bytes();
        let whole = content(&bytes, Snapshot::from_bytes("state")).into_bytes().unwrap();
        for size in 1..=whole.len() {
            let pieces: Vec<_> = whole.chunks(size).map(Bytes::copy_from_slice).map(Ok).collect();
            let (mut found, state) = parts(Snapshot::new(pieces.into_iter())).unwrap();
            assert_eq!(found.bytes(), bytes);
            assert_eq!(state.into_bytes().unwrap(), "state");
        }
        for cut in 0..whole.len() - "state".len() {
            assert!(parts(Snapshot::from_bytes(whole.slice(..cut))).is_err(), "{cut}");
        }
        assert!(parts(Snapshot::from_bytes("something else entirely")).is_err());
    }

    #[test]
    fn hostile_bytes_are_no_entry() {
        let mut table = Sessions::default();
        assert!(table.apply(1, &Bytes::new()).is_err());
        assert!(table.apply(1, &Bytes::from(vec![9; 60])).is_err());
        assert!(table.apply(1, &write(0, 1, 1, 0).slice(..39)).is_err());
    }

    #[test]
    fn log_time_goes_on_from_where_it_was() {
        let at = Instant::from_millis;
        let mut clock = LogClock::default();
        clock.begin(at(5_000), 70);
        assert_eq!(clock.read(at(5_000), 70), 70);
        assert_eq!(clock.read(at(5_030), 70), 100, "at the pace of this clock");
        assert_eq!(
            clock.read(at(5_040), 500),
            500,
            "others were ahead: entries of an earlier term"
        );
        assert_eq!(clock.read(at(5_050), 500), 510);
    }
}
