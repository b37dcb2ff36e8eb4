//! A node and the tasks that pass on what it says, as one task of the runtime.
//!
//! They wake each other for every message. Were each a task of its own, the runtime would wake threads
//! to share out work that takes less time than the waking: it does so for the second of two tasks that
//! one wakes, and for every third in a chain. In here only what comes from outside wakes a thread.
//!
//! Nothing that takes long belongs here: what applies entries, and what builds or sends snapshots, are
//! tasks of the runtime.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::{AbortHandle, BoxFuture, FutureExt as _, abortable};
use futures::task::AtomicWaker;
use tokio::sync::mpsc;
use tokio::task::{coop, yield_now};

/// A task of a crew.
type Mate = BoxFuture<'static, ()>;

/// Where mates join, and where the crew finds them.
pub(crate) fn entrance() -> (Joining, mpsc::UnboundedReceiver<Mate>) {
    let (joining, joined) = mpsc::unbounded_channel();
    (Joining(joining), joined)
}

/// The entrance of a crew.
pub(crate) struct Joining(mpsc::UnboundedSender<Mate>);

impl Joining {
    /// Runs `mate` until it ends or is aborted, or the lead has ended.
    pub(crate) fn join(&self, mate: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (mate, handle) = abortable(mate);
        // Where no lead is any more, nobody needs a mate.
        drop(self.0.send(Box::pin(mate.map(|_| ()))));
        handle
    }
}

/// Runs a lead until it ends, and its mates meanwhile.
///
/// When several mates are due, the first is polled; the others when everybody else on this thread had a
/// turn. So whoever the first spoke to may have answered, and a client may have its result, before the
/// second speaks: one follower of two is enough. And under load what is to be said meanwhile is one message.
pub(crate) struct Crew<L> {
    lead: Pin<Box<L>>,
    of_lead: Waker,
    /// With their wakers. A place is free when its mate has ended.
    mates: Vec<Option<(Mate, Waker)>>,
    joined: mpsc::UnboundedReceiver<Mate>,
    due: Arc<Due>,
    /// While everybody else has a turn before the mates.
    way: Option<GiveWay>,
}

/// Who is to be polled.
#[derive(Default)]
struct Due {
    queue: Mutex<Queue>,
    /// The task of the runtime.
    task: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    lead: bool,
    /// By place, in the order in which they were woken, each once.
    mates: VecDeque<usize>,
    /// The task will look here anyway before it rests.
    awake: bool,
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Wakes the mate in a place, or the lead.
struct Bell {
    due: Arc<Due>,
    place: Option<usize>,
}

impl Bell {
    fn waker(due: &Arc<Due>, place: Option<usize>) -> Waker {
        Waker::from(Arc::new(Self { due: due.clone(), place }))
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let awake = {
            let mut queue = self.due.lock();
            match self.place {
                None => queue.lead = true,
                Some(place) if queue.mates.contains(&place) => {}
                Some(place) => queue.mates.push_back(place),
            }
            std::mem::replace(&mut queue.awake, true)
        };
        if !awake {
            self.due.task.wake();
        }
    }
}

impl<L: Future<Output = ()>> Crew<L> {
    /// Of `lead`, and of whoever joins. Does nothing until it is polled.
    pub(crate) fn new(lead: L, joined: mpsc::UnboundedReceiver<Mate>) -> Self {
        let due = Arc::new(Due::default());
        let of_lead = Bell::waker(&due, None);
        of_lead.wake_by_ref();
        Self { lead: Box::pin(lead), of_lead, mates: Vec::new(), joined, due, way: None }
    }

    /// Takes in who has joined. Only the lead brings them, so this follows its polls.
    fn take_in(&mut self) {
        let mut cx = Context::from_waker(&self.of_lead);
        while let Poll::Ready(Some(mate)) = self.joined.poll_recv(&mut cx) {
            let free = self.mates.iter().position(Option::is_none);
            let place = free.unwrap_or_else(|| {
                self.mates.push(None);
                self.mates.len() - 1
            });
            let waker = Bell::waker(&self.due, Some(place));
            waker.wake_by_ref();
            self.mates[place] = Some((mate, waker));
        }
    }

    /// Whether the mates have given way, and it is over.
    fn gave_way(&mut self, cx: &mut Context<'_>) -> bool {
        self.way.as_mut().is_some_and(|way| Pin::new(way).poll(cx).is_ready())
    }

    fn poll_mate(&mut self, place: usize) {
        // A waker may outlive its mate.
        let Some((mate, waker)) = &mut self.mates[place] else { return };
        if mate.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            self.mates[place] = None;
        }
    }
}

impl<L: Future<Output = ()>> Future for Crew<L> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let crew = self.get_mut();
        crew.due.task.register(cx.waker());
        let mut gave_way = crew.gave_way(cx);
        loop {
            let (lead, mates) = {
                let mut queue = crew.due.lock();
                let mates = match crew.way {
                    None => queue.mates.len().min(1),
                    Some(_) if gave_way => queue.mates.len(),
                    Some(_) => 0,
                };
                queue.awake = queue.lead || mates > 0;
                if !queue.awake {
                    return Poll::Pending;
                }
                (std::mem::take(&mut queue.lead), mates)
            };
            if lead {
                if crew.lead.as_mut().poll(&mut Context::from_waker(&crew.of_lead)).is_ready() {
                    return Poll::Ready(());
                }
                crew.take_in();
            }
            for _ in 0..mates {
                let Some(place) = crew.due.lock().mates.pop_front() else { break };
                crew.poll_mate(place);
            }
            if mates > 0 {
                let others = !crew.due.lock().mates.is_empty();
                crew.way = others.then(GiveWay::default);
                gave_way = crew.gave_way(cx);
            }
            if !coop::has_budget_remaining() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

/// Polls of a [`GiveWay`] after which it completes in any case.
const PATIENCE: u32 = 4;

/// Completes when everybody else on this thread of the runtime had a turn, or when it was polled again and
/// again: the thread may be stuck, with others doing the work.
#[derive(Default)]
pub(crate) struct GiveWay {
    polls: u32,
    passed: Arc<Passed>,
}

#[derive(Default)]
struct Passed {
    passed: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Passed {
    fn wake(self: Arc<Self>) {
        self.passed.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Future for GiveWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.passed.task.register(cx.waker());
        self.polls += 1;
        if self.polls == 1 {
            // The runtime keeps the waker, not the future, until the others had their turn.
            let waker = Waker::from(self.passed.clone());
            if pin!(yield_now()).poll(&mut Context::from_waker(&waker)).is_ready() {
                return Poll::Ready(());
            }
        }
        let over = self.polls >= PATIENCE || self.passed.passed.load(Ordering::Acquire);
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    /// What happened, in order.
    #[derive(Clone, Default)]
    struct Story(Arc<Mutex<Vec<&'static str>>>);

    impl Story {
        fn tell(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }

        fn told(&self) -> Vec<&'static str> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    /// Tells its name whenever the bell rings.
    async fn rung(bell: Arc<Notify>, story: Story, name: &'static str) {
        loop {
            bell.notified().await;
            story.tell(name);
        }
    }

    /// Tells when it is dropped.
    struct Gone(Story);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.tell("gone");
        }
    }

    fn bells<const N: usize>() -> [Arc<Notify>; N] {
        std::array::from_fn(|_| Arc::default())
    }

    #[tokio::test]
    async fn the_first_mate_is_polled_at_once_and_the_others_after_everybody_else() {
        let (story, [a, b, c, stranger]) = (Story::default(), bells());
        tokio::spawn(rung(stranger.clone(), story.clone(), "stranger"));
        yield_now().await;
        let (joining, joined) = entrance();
        let told = story.clone();
        let lead = async move {
            for (bell, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
                joining.join(rung(bell.clone(), told.clone(), name));
            }
            GiveWay::default().await;
            GiveWay::default().await;
            told.tell("lead");
            [&b, &a, &c, &stranger].into_iter().for_each(|bell| bell.notify_one());
            // The lead itself goes before its mates.
            GiveWay::default().await;
            GiveWay::default().await;
        };
        Crew::new(lead, joined).await;
        assert_eq!(story.told(), ["lead", "b", "stranger", "a", "c"]);
    }

    #[tokio::test]
    async fn who_gives_way_is_woken_in_vain_for_a_while_but_not_for_ever() {
        let story = Story::default();
        let mut way = Box::pin(GiveWay::default());
        tokio::spawn({
            let story = story.clone();
            async move { story.tell("another") }
        });
        for _ in 1..PATIENCE {
            assert!((&mut way).now_or_never().is_none(), "nobody had a turn yet");
        }
        assert!((&mut way).now_or_never().is_some());
        assert!(story.told().is_empty());
        GiveWay::default().await;
        assert_eq!(story.told(), ["another"]);
    }

    #[tokio::test]
    async fn a_mate_ends_when_it_is_aborted_and_when_the_lead_ends() {
        let story = Story::default();
        let (joining, joined) = entrance();
        let told = story.clone();
        let lead = async move {
            let mate = |story: &Story| {
                let gone = Gone(story.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop(gone);
                }
            };
            let aborted = joining.join(mate(&told));
            joining.join(mate(&told));
            GiveWay::default().await;
            aborted.abort();
            GiveWay::default().await;
            GiveWay::default().await;
            assert_eq!(told.told(), ["gone"]);
            // It takes the place that has become free.
            joining.join(mate(&told));
            GiveWay::default().await;
            told.tell("lead");
        };
        Crew::new(lead, joined).await;
        assert_eq!(story.told(), ["lead", "gone", "gone"]);
    }

    #[tokio::test]
    async fn a_mate_is_woken_by_other_threads() {
        let (story, [bell]) = (Story::default(), bells());
        let (joining, joined) = entrance();
        let (told, woken) = (story.clone(), bell.clone());
        let lead = async move {
            let (done, ended) = tokio::sync::oneshot::channel();
            joining.join(async move {
                woken.notified().await;
                told.tell("mate");
                done.send(()).expect("the lead waits");
            });
            std::thread::spawn(move || bell.notify_one());
            ended.await.expect("the mate says so");
        };
        Crew::new(lead, joined).await;
        assert_eq!(story.told(), ["mate"]);
    }
}
