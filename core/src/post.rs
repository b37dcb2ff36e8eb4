//! Answers for many callers go by post.
//!
//! To wake a task from a thread of another runtime moves its memory from there to here, and to ask it again moves it
//! back: with a thousand callers that is most of what a write costs, on processors that share little. So the
//! answers for many are one letter bag: whoever has them wakes one task on the callers' runtime, the postman, who
//! tells and wakes the callers where they are.
//!
//! Nobody depends on a runtime that is not its own: those who asked from another one than the postman's, or from no
//! task, are told directly, and so is everybody when the postman's runtime ends. On runtimes of one thread there is
//! no post: they may rest, with nobody to drive them, while what asked there is driven elsewhere.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::task::AtomicWaker;
use quorate_storage::StateMachine;
use tokio::runtime::{self, Handle, RuntimeFlavor};
use tokio::task::{self, JoinHandle};

use crate::callers::{Callers, Reply, Token};

/// Callers of whom the next are told by post, if they are told with many others.
pub(crate) const CROWD: usize = 128;

/// Fewer are told at once, without a task more between.
pub(crate) const MANY: usize = 64;

/// The answers that wait for the postman.
pub(crate) struct Post<S: StateMachine> {
    /// Held by the postman from when he takes letters until all are delivered. Before that of the bag.
    delivering: Mutex<()>,
    bag: Mutex<Bag<S>>,
    postman: AtomicWaker,
}

struct Bag<S: StateMachine> {
    letters: Vec<(Token, Reply<S>)>,
    /// Whether a postman will come.
    served: bool,
    /// The last postman.
    task: Option<JoinHandle<()>>,
}

impl<S: StateMachine> Post<S> {
    pub(crate) fn new() -> Self {
        let bag = Bag { letters: Vec::new(), served: false, task: None };
        Self { delivering: Mutex::new(()), bag: Mutex::new(bag), postman: AtomicWaker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Bag<S>> {
        self.bag.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock_delivering(&self) -> MutexGuard<'_, ()> {
        self.delivering.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes answers to be delivered, or gives them back when nobody would.
    pub(crate) fn send(&self, mut letters: Vec<(Token, Reply<S>)>) -> Vec<(Token, Reply<S>)> {
        if letters.is_empty() {
            return letters;
        }
        {
            let mut bag = self.lock();
            if !bag.served {
                return letters;
            }
            if bag.letters.is_empty() {
                std::mem::swap(&mut bag.letters, &mut letters);
            } else {
                bag.letters.append(&mut letters);
            }
        }
        self.postman.wake();
        Vec::new()
    }

    /// From now on there is somebody who delivers.
    pub(crate) fn begin(&self) {
        self.lock().served = true;
    }

    /// From now on nobody delivers. Returns what is left; what the postman had taken has been delivered, so that
    /// nobody whom a letter is for is told anything else before.
    pub(crate) fn end(&self) -> Vec<(Token, Reply<S>)> {
        let left = {
            let _delivered = self.lock_delivering();
            let mut bag = self.lock();
            bag.served = false;
            std::mem::take(&mut bag.letters)
        };
        self.postman.wake();
        left
    }

    /// Returns when no task is left of a post that has ended. Dropped before, it may be called again.
    pub(crate) async fn ended(&self) {
        poll_fn(|cx| {
            let mut bag = self.lock();
            let Some(task) = &mut bag.task else { return Poll::Ready(()) };
            // It ends with its runtime, too.
            let ended = task.poll_unpin(cx).is_ready();
            if !ended {
                return Poll::Pending;
            }
            bag.task = None;
            Poll::Ready(())
        })
        .await;
    }
}

/// Calls of a thread after which it looks again what runtime its tasks are of. A thread that runs tasks has one all
/// its life, but for a `LocalSet` that is driven here and then there.
const LOOK_AGAIN: u32 = 64;

thread_local! {
    /// The runtime of this thread's tasks, and for how many calls it is not looked at again: the handle of a runtime
    /// is counted in memory that all its threads share.
    static HERE: Cell<(Option<runtime::Id>, u32)> = const { Cell::new((None, 0)) };
}

/// The runtime of the task that calls this, if it can have a postman.
pub(crate) fn here() -> Option<runtime::Id> {
    // Without a task a thread may be on any runtime, and on another one next time.
    task::try_id()?;
    HERE.with(|here| {
        let (id, calls) = here.get();
        if calls > 0 {
            here.set((id, calls - 1));
            return id;
        }
        let id = runtime().map(|runtime| runtime.id());
        here.set((id, LOOK_AGAIN));
        id
    })
}

/// The runtime that the caller of this is on, if it can have a postman.
pub(crate) fn runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() == RuntimeFlavor::MultiThread).then_some(runtime)
}

/// Has the post of `callers`, which has begun, delivered on `runtime`, until that ends or the post does.
pub(crate) fn employ<S: StateMachine>(callers: &Arc<Callers<S>>, runtime: &Handle) {
    let task = runtime.spawn(Postman { callers: callers.clone() });
    callers.post.lock().task = Some(task);
}

struct Postman<S: StateMachine> {
    callers: Arc<Callers<S>>,
}

impl<S: StateMachine> Future for Postman<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let post = &self.callers.post;
        post.postman.register(cx.waker());
        let _delivering = post.lock_delivering();
        let (letters, served) = {
            let mut bag = post.lock();
            (std::mem::take(&mut bag.letters), bag.served)
        };
        self.callers.tell_sleepers(letters);
        if served { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl<S: StateMachine> Drop for Postman<S> {
    fn drop(&mut self) {
        self.callers.end_post();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use quorate_engine::ReadMode;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::callers::{Application as _, Caller};
    use crate::control::Request;
    use crate::spin::Spin;
    use crate::testing::Counter;

    fn runtime_of_one_worker() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).build().expect("a runtime")
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn callers() -> Arc<Callers<Counter>> {
        Callers::new(Spin::never())
    }

    fn ask(callers: &Arc<Callers<Counter>>) -> Token {
        ask_as(Waker::noop().clone(), callers)
    }

    fn ask_as(waker: Waker, callers: &Arc<Callers<Counter>>) -> Token {
        let request = |token| Request::Read { token, mode: ReadMode::Index };
        let asleep = Caller::Asleep(waker);
        let Ok(token) = callers.ask(asleep, request) else { unreachable!("there is room") };
        token
    }

    /// Of whom the last are told by post, if such a runtime has one.
    fn crowd_on(runtime: &Runtime, callers: &Arc<Callers<Counter>>) -> Vec<Token> {
        let callers = callers.clone();
        let asking = async move { (0..CROWD + 4 * MANY).map(|_| ask(&callers)).collect() };
        runtime.block_on(runtime.spawn(asking)).expect("no panic")
    }

    fn answers(tokens: &[Token]) -> Vec<(Token, Reply<Counter>)> {
        tokens.iter().map(|token| (*token, Reply::One(*token))).collect()
    }

    fn is_told(callers: &Callers<Counter>, token: Token) -> bool {
        callers.told(token).now_or_never().is_some_and(|told| told.one().is_ok_and(|n| n == token))
    }

    /// Keeps the only worker of a runtime from everything else, until what it returns is dropped.
    fn stop(runtime: &Runtime) -> mpsc::Sender<()> {
        let (stopped, is_stopped) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        runtime.spawn(async move {
            stopped.send(()).expect("somebody waits");
            wait.recv().expect_err("nothing is sent");
        });
        is_stopped.recv().expect("it runs");
        go_on
    }

    #[test]
    fn many_are_told_by_post_each_its_own() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        let tokens = crowd_on(&runtime, &callers);
        let stopped = stop(&runtime);
        assert!(callers.tell(answers(&tokens)).is_empty());
        let letters = callers.post.lock().letters.len();
        assert!(letters >= 3 * MANY, "{letters}");
        drop(stopped);
        for token in tokens {
            assert_eq!(block_on(callers.told(token)).one().expect("told"), token);
        }
    }

    #[test]
    fn who_asked_elsewhere_does_not_wait_for_the_postman() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        let mine = crowd_on(&runtime, &callers);
        let mut others = crowd_on(&runtime_of_one_worker(), &callers);
        others.push(ask(&callers));
        // The thread is one that has asked elsewhere.
        others.extend([&runtime_of_one_worker(), &runtime].map(|runtime| {
            let _here = runtime.enter();
            ask(&callers)
        }));
        let stopped = stop(&runtime);
        let mut tokens = mine.clone();
        tokens.splice(7..7, others.iter().copied());
        assert!(callers.tell(answers(&tokens)).is_empty());
        assert!(!callers.post.lock().letters.is_empty());
        assert!(others.iter().all(|token| is_told(&callers, *token)));
        drop(stopped);
        for token in mine {
            assert_eq!(block_on(callers.told(token)).one().expect("told"), token);
        }
    }

    #[test]
    fn the_end_of_the_postmans_runtime_is_not_the_end_of_answers() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        let tokens = crowd_on(&runtime, &callers);
        let (before, after) = tokens.split_at(CROWD + 2 * MANY);
        let stopped = stop(&runtime);
        assert!(callers.tell(answers(before)).is_empty());
        assert!(!callers.post.lock().letters.is_empty());
        runtime.shutdown_background();
        drop(stopped);
        for token in before {
            assert_eq!(block_on(callers.told(*token)).one().expect("told"), *token);
        }
        // Its postman goes with the runtime, in its own time.
        block_on(callers.post.ended());
        assert!(!callers.post.lock().served);
        assert!(callers.tell(answers(after)).is_empty());
        assert!(after.iter().all(|token| is_told(&callers, *token)));
        // And another runtime may have the next.
        let next = runtime_of_one_worker();
        let tokens = crowd_on(&next, &callers);
        assert!(callers.post.lock().served);
        assert!(callers.tell(answers(&tokens)).is_empty());
        for token in tokens {
            assert_eq!(block_on(callers.told(token)).one().expect("told"), token);
        }
    }

    #[test]
    fn few_and_those_on_a_runtime_of_one_thread_are_told_at_once() {
        let callers = callers();
        let alone = Builder::new_current_thread().build().expect("a runtime");
        let tokens = crowd_on(&alone, &callers);
        assert!(!callers.post.lock().served);
        assert!(callers.tell(answers(&tokens)).is_empty());
        assert!(tokens.iter().all(|token| is_told(&callers, *token)));
        let runtime = runtime_of_one_worker();
        let tokens = crowd_on(&runtime, &callers);
        let _stopped = stop(&runtime);
        for few in tokens.chunks(MANY - 1) {
            assert!(callers.tell(answers(few)).is_empty());
            assert!(few.iter().all(|token| is_told(&callers, *token)));
        }
    }

    #[test]
    fn the_postman_goes_home_when_the_node_ends_and_leaves_nobody_without_an_answer() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        let tokens = crowd_on(&runtime, &callers);
        let (told, closed) = tokens.split_at(CROWD + 2 * MANY);
        let stopped = stop(&runtime);
        assert!(callers.tell(answers(told)).is_empty());
        assert!(!callers.post.lock().letters.is_empty());
        callers.close();
        assert!(told.iter().all(|token| is_told(&callers, *token)));
        for token in closed {
            assert!(block_on(callers.told(*token)).one().is_err());
        }
        drop(stopped);
        block_on(callers.post.ended());
        assert_eq!(Arc::strong_count(&callers), 1);
    }

    /// Says that it was woken, and then holds up whoever does that until what it was made with is dropped.
    struct Slow(Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>);

    impl Wake for Slow {
        fn wake(self: Arc<Self>) {
            let ends = self.0.lock().expect("no panic");
            ends.0.send(()).expect("somebody waits");
            ends.1.recv().expect_err("nothing is sent");
        }
    }

    #[test]
    fn a_node_that_ends_overtakes_no_letter_that_is_on_its_way() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        let (woken, is_woken) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        let slow = Waker::from(Arc::new(Slow(Mutex::new((woken, wait)))));
        // From here on all are told by post.
        drop(crowd_on(&runtime, &callers));
        let asking = {
            let callers = callers.clone();
            async move { ask_as(slow, &callers) }
        };
        let mut tokens = vec![runtime.block_on(runtime.spawn(asking)).expect("no panic")];
        tokens.extend(crowd_on(&runtime, &callers));
        assert!(callers.tell(answers(&tokens)).is_empty());
        // The postman has begun, and is held up. So is the end.
        is_woken.recv().expect("the first is woken");
        let (ended, is_ended) = mpsc::channel();
        let ending = {
            let callers = callers.clone();
            std::thread::spawn(move || {
                callers.close();
                ended.send(()).expect("somebody waits");
            })
        };
        is_ended.recv_timeout(Duration::from_millis(100)).ok();
        drop(go_on);
        ending.join().expect("no panic");
        assert!(tokens.iter().all(|token| is_told(&callers, *token)));
    }

    #[test]
    fn who_waits_for_the_end_of_the_post_may_give_up_and_wait_again() {
        let (runtime, callers) = (runtime_of_one_worker(), callers());
        drop(crowd_on(&runtime, &callers));
        let stopped = stop(&runtime);
        callers.close();
        assert!(callers.post.ended().now_or_never().is_none());
        assert!(callers.post.ended().now_or_never().is_none());
        drop(stopped);
        block_on(callers.post.ended());
        assert_eq!(Arc::strong_count(&callers), 1);
    }
}
