//! The appends of one replication session to one follower, between openraft and the link.
//!
//! Two things are mended here that openraft leaves to the network:
//!
//! - **An answer vouches for its own request only.** openraft matches an answer to its requests by log id alone and
//!   credits it with the send time of the newest that it covers. An append of entries and the empty one that carries
//!   their commit end at the same id, so the answer to the first would vouch for a moment after it was given: a deposed
//!   leader could confirm itself with it. An answer is passed on only if no later request with the same end was taken.
//! - **A commit rides with the next entries.** openraft sends an empty append for every commit that no entries carry:
//!   as many messages again as there are entries. Such a request waits for the next entries for up to [`HOLD`] and is
//!   dropped when they come, since they carry a newer commit. It goes at once if somebody waits for the commit.
//!
//! ```text
//! taken from openraft   e1   c1   e2   c2          e: entries, c: commit alone, same end as the e before
//! sent                  e1   --   e2   c2          c1 was overtaken by e2, c2 was held for HOLD
//! passed on             --        e2'  c2'         the answer to e1 ends where c1 ends, which was never asked
//! ```

use super::network::RpcResult;
use super::{LogId, Types};
use crate::env;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use openraft::base::BoxFuture;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

/// Appends under way a group and follower. More would split the same traffic into many small messages, fewer would wait
/// for each round trip.
const APPEND_WINDOW: usize = 3;
/// How long a commit waits for entries to ride with. Followers are so much later in applying when nothing follows.
pub(super) const HOLD: Duration = Duration::from_millis(2);

/// The commit that followers wait for: whoever gives out a read index says so.
#[derive(Default)]
pub(super) struct WantedCommit {
    index: AtomicU64,
    /// Sessions that hold a commit back.
    holding: Mutex<Vec<Weak<Woken>>>,
}

impl WantedCommit {
    /// A follower waits until it has applied the entry at `index`.
    pub fn want(&self, index: u64) {
        if self.index.fetch_max(index, Ordering::AcqRel) < index {
            let holding = std::mem::take(&mut *self.holding.lock());
            holding.iter().filter_map(Weak::upgrade).for_each(|session| session.reader.wake());
        }
    }

    /// Whether what is held tells a follower of an entry that it waits for, after all that was `sent` told it.
    fn wants(&self, held: u64, sent: u64) -> bool {
        held > sent && self.index.load(Ordering::Acquire) > sent
    }

    /// The same, and the session is woken when another commit is wanted.
    fn wants_or_wakes(&self, held: u64, sent: u64, session: &Arc<Woken>) -> bool {
        let mut holding = self.holding.lock();
        holding.retain(|known| known.strong_count() > 0);
        if !holding.iter().any(|known| known.as_ptr() == Arc::as_ptr(session)) {
            holding.push(Arc::downgrade(session));
        }
        drop(holding);
        // Looked at last: what is wanted from here on wakes.
        self.wants(held, sent)
    }
}

type Request = AppendEntriesRequest<Types>;
type Answer = RpcResult<AppendEntriesResponse<Types>>;

/// Where a request ended that was taken from openraft.
struct End {
    at: Option<LogId>,
    /// It was sent; false: it was dropped for a later one.
    sent: bool,
}

fn commit_of(request: &Request) -> u64 {
    request.leader_commit.map_or(0, |id| id.index())
}

fn end_of(request: &Request) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// Sends what `input` gives with `send` and gives the answers that may be credited, in order. A commit waits for entries
/// for up to `hold`; with none it leaves at once.
pub(super) fn pipeline<S, F, A>(
    input: S,
    wanted: Arc<WantedCommit>,
    hold: Duration,
    send: F,
) -> impl Stream<Item = RpcResult<StreamAppendResult<Types>>>
where
    S: Stream<Item = Request> + Unpin,
    F: FnMut(Request) -> A + Unpin,
    A: Future<Output = Answer> + Unpin,
{
    let input = WhenWoken { stream: Some(input), wake: Arc::default(), waker: None };
    let (ends, under_way) = (VecDeque::new(), VecDeque::with_capacity(APPEND_WINDOW));
    Pipeline { input, wanted, hold, send, began: false, held: None, timer: None, sent: 0, ends, under_way }
}

/// See the head of this file.
///
/// By hand and not of combinators: for each entry there are many wake-ups, and what openraft gives is waited for in four
/// places, so looking there only when it called is most of what an append costs here.
struct Pipeline<S, F, A> {
    input: WhenWoken<S>,
    wanted: Arc<WantedCommit>,
    hold: Duration,
    send: F,
    /// The first request of a session may be a probe, which is as empty as a commit.
    began: bool,
    /// The newest that was taken, if it is not sent yet.
    held: Option<Request>,
    /// When what is held goes, whatever comes.
    timer: Option<BoxFuture<'static, ()>>,
    /// The newest commit that was sent.
    sent: u64,
    /// Of what was taken and is not answered yet, in order.
    ends: VecDeque<End>,
    /// What was sent, in order: where it begins and ends, and its answer.
    under_way: VecDeque<(Option<LogId>, Option<LogId>, A)>,
}

impl<S, F, A> Stream for Pipeline<S, F, A>
where
    S: Stream<Item = Request> + Unpin,
    F: FnMut(Request) -> A + Unpin,
    A: Future<Output = Answer> + Unpin,
{
    type Item = RpcResult<StreamAppendResult<Types>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let mut ended = false;
            while this.under_way.len() < APPEND_WINDOW {
                match this.poll_request(cx) {
                    Poll::Ready(Some(request)) => {
                        let (previous, last) = (request.prev_log_id, end_of(&request));
                        (this.sent, this.timer) = (this.sent.max(commit_of(&request)), None);
                        this.under_way.push_back((previous, last, (this.send)(request)));
                    }
                    Poll::Ready(None) => {
                        ended = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            let Some((previous, last, answer)) = this.under_way.front_mut() else {
                return if ended { Poll::Ready(None) } else { Poll::Pending };
            };
            let answer = ready!(Pin::new(answer).poll(cx));
            let (answer, last) = (answer.map(|answer| answer.into_stream_result(*previous, *last)), *last);
            this.under_way.pop_front();
            if this.is_creditable(last, &answer) {
                return Poll::Ready(Some(answer));
            }
        }
    }
}

impl<S, F, A> Pipeline<S, F, A>
where
    S: Stream<Item = Request> + Unpin,
{
    /// The next request to send: everything but the commits that entries overtake.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        if self.held.is_none() {
            let Some(request) = ready!(self.input.poll_next(cx)) else { return Poll::Ready(None) };
            self.take(request);
        }
        let holds = std::mem::replace(&mut self.began, true) && !self.hold.is_zero();
        while let Some(request) = self.held.as_ref().filter(|request| holds && request.entries.is_empty()) {
            if self.wanted.wants(commit_of(request), self.sent) {
                break;
            }
            match self.input.poll_next(cx) {
                Poll::Ready(Some(next)) => {
                    if next.leader_commit < request.leader_commit || next.vote != request.vote {
                        return Poll::Ready(self.take(next));
                    }
                    self.ends.back_mut().expect("the request that is held is the last that was taken").sent = false;
                    self.take(next);
                }
                Poll::Ready(None) => break,
                Poll::Pending if self.wanted.wants_or_wakes(commit_of(request), self.sent, &self.input.wake) => break,
                Poll::Pending => {
                    let hold = self.hold;
                    let timer = self.timer.get_or_insert_with(|| Box::pin(env::sleep(hold)));
                    ready!(timer.as_mut().poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(self.held.take())
    }

    /// Holds what was taken from openraft; gives what was held.
    fn take(&mut self, request: Request) -> Option<Request> {
        self.ends.push_back(End { at: end_of(&request), sent: true });
        self.held.replace(request)
    }

    /// Takes the answered request from `ends` and tells whether its answer vouches for it alone.
    fn is_creditable(&mut self, last: Option<LogId>, answer: &RpcResult<StreamAppendResult<Types>>) -> bool {
        while self.ends.pop_front().is_some_and(|end| !end.sent) {}
        let vouches_for_later = self.ends.front().is_some_and(|end| end.at == last);
        !(matches!(answer, Ok(Ok(_))) && vouches_for_later)
    }
}

/// A stream that is asked only when it called since it was asked last, by whatever its reader was woken.
struct WhenWoken<S> {
    /// None: it has ended.
    stream: Option<S>,
    wake: Arc<Woken>,
    /// What the stream is given to call with.
    waker: Option<Waker>,
}

struct Woken {
    called: AtomicBool,
    reader: AtomicWaker,
}

impl Default for Woken {
    fn default() -> Woken {
        Woken { called: AtomicBool::new(true), reader: AtomicWaker::new() }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        self.reader.wake();
    }
}

impl<S: Stream + Unpin> WhenWoken<S> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        // Before the look: what calls behind it finds whom to wake.
        self.wake.reader.register(cx.waker());
        if !self.wake.called.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = self.waker.get_or_insert_with(|| Waker::from(self.wake.clone()));
        let next = ready!(Pin::new(stream).poll_next(&mut Context::from_waker(waker)));
        // It did not say that it will call.
        self.wake.called.store(true, Ordering::Release);
        if next.is_none() {
            self.stream = None;
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, log_id};
    use super::*;
    use futures_util::{FutureExt, StreamExt};
    use openraft::EntryPayload;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    /// No test waits so long: what leaves under it left for another reason.
    const EVER: Duration = Duration::from_secs(3600);

    /// An append of the entries behind `previous` up to `last`; none where both are the same.
    fn append(previous: u64, last: u64, commit: u64) -> Request {
        let entry = |index| Entry { log_id: log_id(1, index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: openraft::Vote::new_committed(1, crate::types::NodeId(1)),
            prev_log_id: Some(log_id(1, previous)),
            leader_commit: Some(log_id(1, commit)),
            entries: (previous + 1..=last).map(entry).collect(),
        }
    }

    /// A session whose requests the test gives and whose answers it makes.
    struct Session {
        give: mpsc::UnboundedSender<Request>,
        sent: mpsc::UnboundedReceiver<(Request, tokio::sync::oneshot::Sender<()>)>,
        answers: mpsc::UnboundedReceiver<u64>,
        wanted: Arc<WantedCommit>,
    }

    impl Session {
        fn begin(hold: Duration) -> Session {
            let (give, input) = mpsc::unbounded_channel();
            let (tell, sent) = mpsc::unbounded_channel();
            let (credit, answers) = mpsc::unbounded_channel();
            let wanted = Arc::<WantedCommit>::default();
            let send = move |request: Request| {
                let (answered, answer) = tokio::sync::oneshot::channel();
                tell.send((request, answered)).unwrap();
                Box::pin(async move {
                    answer.await.unwrap();
                    Ok(AppendEntriesResponse::Success)
                })
            };
            let stream = pipeline(UnboundedReceiverStream::new(input), wanted.clone(), hold, send);
            tokio::spawn(async move {
                let mut stream = std::pin::pin!(stream);
                while let Some(answer) = stream.next().await {
                    let end = answer.unwrap().unwrap().map_or(0, |id| id.index());
                    if credit.send(end).is_err() {
                        return;
                    }
                }
            });
            Session { give, sent, answers, wanted }
        }

        fn give(&self, request: Request) {
            self.give.send(request).unwrap();
        }

        /// The next request that leaves: its end, its commit, and what answers it.
        async fn sent(&mut self) -> (u64, u64, tokio::sync::oneshot::Sender<()>) {
            let (request, answer) = self.sent.recv().await.unwrap();
            (end_of(&request).unwrap().index(), request.leader_commit.unwrap().index(), answer)
        }
    }

    #[tokio::test]
    async fn a_commit_is_overtaken_by_entries_that_carry_a_newer_one() {
        let mut session = Session::begin(EVER);
        session.give(append(0, 1, 0));
        let (end, _, first) = session.sent().await;
        assert_eq!(end, 1);
        session.give(append(1, 1, 1));
        session.give(append(1, 2, 1));
        let (end, commit, second) = session.sent().await;
        assert_eq!((end, commit), (2, 1), "the commit alone was dropped");
        first.send(()).unwrap();
        second.send(()).unwrap();
        // The answer to the first would vouch for the commit's request, which never left.
        assert_eq!(session.answers.recv().await, Some(2));
    }

    #[tokio::test]
    async fn a_commit_that_nothing_follows_leaves_after_a_while_and_vouches_alone() {
        let mut session = Session::begin(HOLD);
        session.give(append(0, 1, 0));
        let (_, _, first) = session.sent().await;
        session.give(append(1, 1, 1));
        let (end, commit, second) = session.sent().await;
        assert_eq!((end, commit), (1, 1));
        first.send(()).unwrap();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(session.answers.try_recv().is_err(), "an old answer does not confirm a later moment");
        second.send(()).unwrap();
        assert_eq!(session.answers.recv().await, Some(1));
        session.give(append(1, 2, 1));
        session.sent().await.2.send(()).unwrap();
        assert_eq!(session.answers.recv().await, Some(2), "nothing was lost on the way");
    }

    #[tokio::test]
    async fn a_commit_that_a_follower_waits_for_leaves_at_once() {
        let mut session = Session::begin(EVER);
        session.give(append(0, 3, 0));
        session.sent().await.2.send(()).unwrap();
        session.wanted.want(3);
        session.give(append(3, 3, 3));
        let (_, commit, answer) = session.sent().await;
        assert_eq!(commit, 3);
        answer.send(()).unwrap();
        session.give(append(3, 4, 3));
        session.sent().await.2.send(()).unwrap();
        // Now it is held already when it is asked for.
        session.give(append(4, 4, 4));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(session.sent.try_recv().is_err(), "nobody asked for it yet");
        session.wanted.want(4);
        assert_eq!(session.sent().await.1, 4);
    }

    #[tokio::test]
    async fn a_follower_need_not_wait_because_a_newer_commit_took_the_place_of_its_own() {
        let mut session = Session::begin(EVER);
        session.give(append(0, 3, 0));
        session.sent().await.2.send(()).unwrap();
        session.give(append(3, 3, 1));
        session.give(append(3, 3, 3));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(session.sent.try_recv().is_err(), "nobody asked for it yet");
        session.wanted.want(1);
        assert_eq!(session.sent().await.1, 3);
    }

    #[test]
    fn sessions_that_ended_are_forgotten() {
        let wanted = WantedCommit::default();
        let session = Arc::<Woken>::default();
        assert!(!wanted.wants_or_wakes(1, 0, &session) && !wanted.wants_or_wakes(2, 0, &session));
        assert_eq!(wanted.holding.lock().len(), 1);
        drop(session);
        assert!(!wanted.wants_or_wakes(1, 0, &Arc::default()));
        assert_eq!(wanted.holding.lock().len(), 1);
    }

    #[tokio::test]
    async fn where_nothing_is_held_each_commit_leaves_by_itself() {
        let mut session = Session::begin(Duration::ZERO);
        [append(0, 1, 0), append(1, 1, 1), append(1, 2, 1)].into_iter().for_each(|request| session.give(request));
        for sent in [(1, 0), (1, 1), (2, 1)] {
            let (end, commit, answer) = session.sent().await;
            assert_eq!((end, commit), sent, "the commit rides with no entries that come behind it");
            answer.send(()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_commit_that_is_held_when_the_session_ends_is_sent_and_the_end_is_met_once() {
        // Panics if it is polled after its end, as openraft's own does.
        let requests = vec![append(0, 1, 0), append(1, 1, 1)].into_iter();
        let input = futures_util::stream::unfold(requests, |mut rest| async move { Some((rest.next()?, rest)) });
        let send = |_| std::future::ready(Ok(AppendEntriesResponse::Success));
        let answers = pipeline(Box::pin(input), Arc::default(), EVER, send).collect::<Vec<_>>().await;
        assert_eq!(answers.len(), 1, "the answer to the entries is spoken for by the one to their commit");
    }

    #[tokio::test]
    async fn a_session_begins_with_its_probe_at_once() {
        let mut session = Session::begin(EVER);
        session.give(append(7, 7, 7));
        let (end, _, answer) = session.sent().await;
        assert_eq!(end, 7);
        answer.send(()).unwrap();
        assert_eq!(session.answers.recv().await, Some(7));
    }

    #[test]
    fn what_openraft_gives_is_looked_at_only_when_it_called() {
        let (give, taken) = mpsc::unbounded_channel();
        let looks = Arc::new(AtomicU64::new(0));
        let input = {
            let (looks, mut taken) = (looks.clone(), taken);
            futures_util::stream::poll_fn(move |cx| {
                looks.fetch_add(1, Ordering::Relaxed);
                taken.poll_recv(cx)
            })
        };
        let (tell, mut answers) = mpsc::unbounded_channel();
        let send = move |_| {
            let (answered, answer) = tokio::sync::oneshot::channel();
            tell.send(answered).unwrap();
            Box::pin(answer.map(Result::unwrap))
        };
        let mut stream = std::pin::pin!(pipeline(input, Arc::default(), EVER, send));
        let mut next = || stream.next().now_or_never().flatten();
        give.send(append(0, 1, 0)).unwrap();
        assert!(next().is_none());
        let seen = looks.load(Ordering::Relaxed);
        (0..10).for_each(|_| assert!(next().is_none()));
        assert_eq!(looks.load(Ordering::Relaxed), seen, "nothing came from there");
        give.send(append(1, 2, 0)).unwrap();
        assert!(next().is_none());
        assert!(looks.load(Ordering::Relaxed) > seen);
        while let Ok(answered) = answers.try_recv() {
            answered.send(Ok(AppendEntriesResponse::Success)).unwrap();
        }
        assert!(next().is_some() && next().is_some(), "both were sent and answered");
    }
}
