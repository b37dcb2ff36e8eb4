//! The sending side of one follower's replication: where it stands and how much may be on its way.
//!
//! Pure bookkeeping, driven by the follower's stream task (or a simulator): give it the engine's
//! newest [`Replicate`] target, ask what to read, hand over the blocks, get the message.

use std::collections::VecDeque;

use crate::block::EntryBlock;
use crate::io::Replicate;
use crate::message::AppendEntries;
use crate::planted;
use crate::types::{Index, LogId, Term};

/// How much may be under way to one follower.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Bytes of one append, more only if a single entry is larger.
    pub append_bytes: usize,
    /// Bytes sent and not acknowledged; one append is always allowed.
    pub window_bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { append_bytes: 256 << 10, window_bytes: 8 << 20 }
    }
}

/// The stream to one follower.
#[derive(Debug)]
pub struct Stream {
    limits: StreamLimits,
    target: Option<Replicate>,
    /// The last entry sent (or assumed to be there) in this session.
    cursor: LogId,
    /// Appends on their way: last index and bytes.
    in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
    /// Whether the session's first append, its probe, has been sent.
    probed: bool,
}

/// What to read and send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Entries directly after this one.
    pub after: LogId,
    /// Through this index; equal to `after.index` for an empty append.
    pub through: Index,
    /// About this many bytes, at least one entry.
    pub max_bytes: usize,
}

impl Stream {
    /// A stream that has no target yet.
    pub fn new(limits: StreamLimits) -> Self {
        Self {
            limits,
            target: None,
            cursor: LogId::ZERO,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            probed: false,
        }
    }

    /// Takes the newest target.
    #[inline]
    pub fn aim(&mut self, target: Replicate) {
        let same =
            self.target.is_some_and(|t| (t.term, t.session) == (target.term, target.session));
        if !same {
            self.cursor = target.after;
            self.in_flight.clear();
            self.in_flight_bytes = 0;
            self.probed = false;
        }
        while let Some((last, bytes)) = self.in_flight.front() {
            if *last > target.matched {
                break;
            }
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
        self.target = (target.session != 0).then_some(target);
    }

    /// What to send next; `None` until another target comes.
    #[inline]
    pub fn want(&self) -> Option<Want> {
        let target = self.target?;
        if self.probed {
            let room = self.in_flight_bytes < self.limits.window_bytes;
            if !target.pipeline || !room || self.cursor.index >= target.through {
                return None;
            }
        }
        Some(Want {
            after: self.cursor,
            through: target.through.max(self.cursor.index),
            max_bytes: self.limits.append_bytes,
        })
    }

    /// The message that carries `blocks`, which answer the last [`Stream::want`]; counts them as
    /// sent.
    ///
    /// # Panics
    /// Without a target, or if the blocks don't begin behind the cursor.
    #[inline]
    pub fn send(&mut self, blocks: Vec<EntryBlock>) -> AppendEntries {
        let target = self.target.expect("a stream sends only towards a target");
        let blocks = if target.witness && !planted::on("commands-to-witnesses") {
            blocks.iter().map(EntryBlock::withheld).collect()
        } else {
            blocks
        };
        let append = AppendEntries {
            term: target.term,
            session: target.session,
            prev: self.cursor,
            blocks,
            commit: target.commit,
            promise: target.promise,
            witness: target.witness,
        };
        self.probed = true;
        if let Some(first) = append.blocks.first() {
            assert_eq!(first.first(), self.cursor.index + 1, "a hole in the stream");
            let bytes = append.blocks.iter().map(|b| b.bytes().len()).sum();
            self.cursor = append.last();
            // What the follower is known to have already, from an earlier session, takes no room:
            // its acknowledgement came before, and no other is going to free the room again.
            if self.cursor.index > target.matched {
                self.in_flight.push_back((self.cursor.index, bytes));
                self.in_flight_bytes += bytes;
            }
        }
        append
    }

    /// Term and session of the target and the last entry sent, if everything that the target asks for
    /// is sent: nothing more is until another target asks for more, or for another session.
    pub fn finished(&self) -> Option<(Term, u64, Index)> {
        let target = self.target?;
        let all = self.probed && self.cursor.index >= target.through;
        all.then_some((target.term, target.session, self.cursor.index))
    }

    /// The session of the target, 0 if there is none.
    pub fn session(&self) -> u64 {
        self.target.map_or(0, |target| target.session)
    }

    /// Session and last entry sent: what [`Input::Sent`](crate::Input::Sent) reports.
    pub fn sent(&self) -> Option<(u64, Index)> {
        self.target.filter(|_| self.probed).map(|t| (t.session, self.cursor.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Batch;
    use std::time::Duration;

    fn target(session: u64, through: Index, matched: Index, pipeline: bool) -> Replicate {
        Replicate {
            to: 2,
            term: 3,
            session,
            after: LogId::new(1, 4),
            through,
            matched,
            commit: 4,
            pipeline,
            promise: Duration::ZERO,
            witness: false,
        }
    }

    fn block(first: Index, bytes: usize) -> EntryBlock {
        let mut batch = Batch::new(0);
        batch.push(&vec![0; bytes]);
        batch.seal(LogId::new(3, first))
    }

    #[test]
    fn probes_then_pipelines_within_the_window() {
        let mut s = Stream::new(StreamLimits { append_bytes: 100, window_bytes: 200 });
        assert_eq!(s.want(), None);
        s.aim(target(1, 8, 0, false));
        assert_eq!(s.want(), Some(Want { after: LogId::new(1, 4), through: 8, max_bytes: 100 }));
        let append = s.send(vec![block(5, 100)]);
        assert_eq!((append.prev, append.last()), (LogId::new(1, 4), LogId::new(3, 5)));
        assert_eq!(s.want(), None, "one probe at a time");
        s.aim(target(1, 8, 0, true));
        s.send(vec![block(6, 100)]);
        assert_eq!(s.want(), None, "the window is full");
        s.aim(target(1, 8, 5, true));
        assert_eq!(s.want().unwrap().after, LogId::new(3, 6));
        s.send(vec![block(7, 10)]);
        assert_eq!(s.sent(), Some((1, 7)));
        s.aim(target(2, 8, 5, false));
        assert_eq!(s.want().unwrap().after, LogId::new(1, 4), "a new session begins again");
        s.aim(target(0, 0, 0, false));
        assert_eq!(s.want(), None);
    }

    /// A session that repeats what an earlier one brought must not fill its window with it.
    #[test]
    fn what_is_acknowledged_already_takes_no_room() {
        let mut s = Stream::new(StreamLimits { append_bytes: 100, window_bytes: 100 });
        s.aim(target(1, 8, 7, true));
        for index in 5..=8 {
            assert_eq!(s.want().map(|w| w.after.index), Some(index - 1));
            s.send(vec![block(index, 100)]);
        }
        assert_eq!(s.want(), None);
    }

    #[test]
    fn a_witness_gets_no_commands() {
        let mut s = Stream::new(StreamLimits { append_bytes: 100, window_bytes: 100 });
        s.aim(Replicate { witness: true, ..target(1, 8, 0, true) });
        let append = s.send(vec![block(5, 90)]);
        assert!(append.witness && append.blocks[0].is_withheld());
        assert_eq!(append.last(), LogId::new(3, 5));
        assert!(s.want().is_some(), "what is withheld takes no room in the window");
    }

    #[test]
    fn a_probe_may_be_empty() {
        let mut s = Stream::new(StreamLimits::default());
        s.aim(target(1, 4, 0, false));
        assert_eq!(s.want().map(|w| (w.after.index, w.through)), Some((4, 4)));
        assert!(s.send(vec![]).blocks.is_empty());
        assert_eq!(s.want(), None);
    }
}
