//! What handles, thread and driver of one log share: the queue in front of the writer, the outcomes
//! behind it, and its end.
//!
//! Three locks, never two at a time but in this order: writer, then queue or outcomes. Submitting
//! takes the queue's alone, so it never waits for the disk. Completions run without any lock, for
//! they may submit, recover, or drop the last handle.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyerror::AnyError;
use quorate_engine::GroupId;

use super::disk::{Disk, DiskLock};
use super::writer::{Group, Outcome, Submitted, WalStats, Writer, new_group};
use crate::log::{Recovered, StorageError, WriteBatch, WriteDone};

pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    /// Of the directory; the writer holds it while the log is open.
    lock: Weak<DiskLock>,
    groups: Mutex<BTreeMap<GroupId, Arc<Group>>>,
    queue: Mutex<Queue>,
    /// Signalled when the queue gets something to do, or is closed. The log's thread waits for it.
    work: Condvar,
    /// Called along with it, for a driver.
    wake: Box<dyn Fn() + Send + Sync>,
    writer: Mutex<Writing>,
    outcomes: Mutex<Outcomes>,
}

struct Queue {
    /// Unbounded: the node bounds what it has in flight, and submitting must not block.
    submitted: VecDeque<Submitted>,
    /// The last handle is gone.
    closed: bool,
    /// Nobody writes any more.
    abandoned: bool,
}

struct Writing {
    writer: Writer,
    /// Taken from the queue and not written yet: what did not fit into the last write.
    taken: VecDeque<Submitted>,
}

/// Completions wait here until it is their turn: order holds whoever writes.
struct Outcomes {
    ready: VecDeque<Outcome>,
    /// Somebody is completing them, and will not stop before they are all done.
    busy: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        writer: Writer,
        wake: Box<dyn Fn() + Send + Sync>,
    ) -> Arc<Self> {
        let groups = writer.groups().map(|group| (group.id, Arc::clone(group))).collect();
        Arc::new(Self {
            disk,
            lock: writer.lock(),
            groups: Mutex::new(groups),
            queue: Mutex::new(Queue {
                submitted: VecDeque::new(),
                closed: false,
                abandoned: false,
            }),
            work: Condvar::new(),
            wake,
            writer: Mutex::new(Writing { writer, taken: VecDeque::new() }),
            outcomes: Mutex::new(Outcomes { ready: VecDeque::new(), busy: false }),
        })
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn lock(&self) -> Weak<DiskLock> {
        Weak::clone(&self.lock)
    }

    pub(super) fn describe(&self) -> String {
        self.disk.describe()
    }

    pub(super) fn group(&self, id: GroupId) -> Arc<Group> {
        Arc::clone(locked(&self.groups).entry(id).or_insert_with(|| new_group(id)))
    }

    pub(super) fn stats(&self) -> WalStats {
        self.writing().writer.stats
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // An assertion of ours failed in the middle of a write: nothing may follow it.
            let mut writing = poisoned.into_inner();
            let what = AnyError::error("the writer of the log has panicked");
            writing.writer.fail(StorageError::Failed(what));
            writing
        })
    }

    pub(super) fn submit(&self, group: &Arc<Group>, batch: WriteBatch, done: WriteDone) {
        let mut queue = locked(&self.queue);
        if queue.abandoned {
            drop(queue);
            done.complete(Err(StorageError::Failed(AnyError::error("the log's thread is gone"))));
            return;
        }
        queue.submitted.push_back(Submitted { group: Arc::clone(group), batch, done });
        let first = queue.submitted.len() == 1;
        drop(queue);
        if first {
            self.work.notify_one();
            (self.wake)();
        }
    }

    /// What is durable of a group, with everything that was queued when it was called.
    pub(super) fn recover(&self, id: GroupId) -> Result<Recovered, StorageError> {
        while self.pump() {}
        self.writing().writer.recovered(id)
    }

    /// One write, if anything is queued.
    pub(super) fn pump(&self) -> bool {
        let mut writing = self.writing();
        let Writing { writer, taken } = &mut *writing;
        taken.append(&mut locked(&self.queue).submitted);
        if taken.is_empty() {
            return false;
        }
        let mut outcomes = VecDeque::with_capacity(taken.len());
        writer.drain(taken, &mut outcomes);
        // Before the writer's lock is gone: the next to write must find them in front of its own.
        locked(&self.outcomes).ready.append(&mut outcomes);
        drop(writing);
        self.complete();
        true
    }

    fn complete(&self) {
        /// A completion that panics leaves the others to whoever comes next.
        struct Busy<'a>(&'a Mutex<Outcomes>);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                locked(self.0).busy = false;
            }
        }
        let mut outcomes = locked(&self.outcomes);
        if outcomes.busy {
            return;
        }
        outcomes.busy = true;
        drop(outcomes);
        let busy = Busy(&self.outcomes);
        loop {
            let mut outcomes = locked(&self.outcomes);
            if outcomes.ready.is_empty() {
                // Not by dropping `busy`: between the two locks another could find it set, and
                // leave its outcomes to nobody.
                outcomes.busy = false;
                drop(outcomes);
                std::mem::forget(busy);
                return;
            }
            let ready = std::mem::take(&mut outcomes.ready);
            drop(outcomes);
            for (done, outcome) in ready {
                done.complete(outcome);
            }
        }
    }

    pub(super) fn seal(&self) {
        self.writing().writer.seal();
    }

    /// Writes what is queued, and closes.
    fn close(&self) {
        while self.pump() {}
        self.writing().writer.close();
    }

    /// The thread: writes until the last handle is gone.
    fn run(&self, seal_after: Duration) {
        /// However the thread ends, nothing is left waiting for it.
        struct Abandon<'a>(&'a Shared);
        impl Drop for Abandon<'_> {
            fn drop(&mut self) {
                locked(&self.0.queue).abandoned = true;
                // After a panic the writer fails whatever it is given; otherwise nothing is left.
                while self.0.pump() {}
            }
        }
        let _abandon = Abandon(self);
        // What recovery found without a seal gets one.
        let mut unsealed = true;
        loop {
            let mut queue = locked(&self.queue);
            let idle = |queue: &mut Queue| queue.submitted.is_empty() && !queue.closed;
            if unsealed {
                let waited = self.work.wait_timeout_while(queue, seal_after, idle);
                let (after, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = after;
                if timeout.timed_out() && idle(&mut queue) {
                    drop(queue);
                    self.seal();
                    unsealed = false;
                    continue;
                }
            } else {
                let waited = self.work.wait_while(queue, idle);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
            }
            let closed = queue.closed;
            drop(queue);
            if closed {
                self.close();
                return;
            }
            while self.pump() {}
            unsealed = true;
        }
    }
}

/// Held by every handle; dropping the last one closes the log.
pub(super) struct Handles {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Handles {
    pub(super) fn with_thread(
        shared: Arc<Shared>,
        seal_after: Duration,
    ) -> Result<Self, StorageError> {
        let runner = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("quorate-log".into())
            .spawn(move || runner.run(seal_after))
            .map_err(|e| StorageError::Failed(AnyError::new(&e)))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn without_thread(shared: Arc<Shared>) -> Self {
        Self { shared, thread: None }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        locked(&self.shared.queue).closed = true;
        self.shared.work.notify_one();
        match self.thread.take() {
            // A completion that drops the last handle runs on that very thread, which closes the
            // log when the completion returns. A panic over there was reported by its batches.
            Some(thread) if thread.thread().id() == thread::current().id() => {}
            Some(thread) => drop(thread.join()),
            None => self.shared.close(),
        }
    }
}
