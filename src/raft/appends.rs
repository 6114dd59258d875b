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
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Appends under way a group and follower. More would split the same traffic into many small messages, fewer would wait
/// for each round trip.
const APPEND_WINDOW: usize = 3;
/// How long a commit waits for entries to ride with. Followers are so much later in applying when nothing follows.
pub(super) const HOLD: Duration = Duration::from_millis(2);

/// The commit that followers wait for: whoever gives out a read index says so.
#[derive(Default)]
pub(super) struct WantedCommit {
    index: AtomicU64,
    raised: Notify,
}

impl WantedCommit {
    /// A follower waits until it has applied the entry at `index`.
    pub fn want(&self, index: u64) {
        if self.index.fetch_max(index, Ordering::AcqRel) < index {
            self.raised.notify_waiters();
        }
    }

    fn wants(&self, request: &Request) -> bool {
        let commit = request.leader_commit.map_or(0, |id| id.index());
        commit > 0 && self.index.load(Ordering::Acquire) >= commit
    }
}

type Request = AppendEntriesRequest<Types>;
type Answer = RpcResult<AppendEntriesResponse<Types>>;

/// Where the requests ended that were taken from openraft and are not answered yet, in order.
type Ends = Arc<Mutex<VecDeque<End>>>;

struct End {
    at: Option<LogId>,
    /// It was sent; false: it was dropped for a later one.
    sent: bool,
}

/// Sends what `input` gives with `send` and gives the answers that may be credited, in order. A commit waits for entries
/// for up to `hold`; with none it leaves at once.
pub(super) fn pipeline<S, F>(
    input: S,
    wanted: Arc<WantedCommit>,
    hold: Duration,
    mut send: impl FnMut(Request) -> F,
) -> impl Stream<Item = RpcResult<StreamAppendResult<Types>>>
where
    S: Stream<Item = Request> + Unpin,
    F: Future<Output = Answer>,
{
    let ends = Ends::default();
    // Fused: a commit that is held when the session ends is sent, and then the end is asked for once more.
    requests(Outlet { input: input.fuse(), wanted, hold, ends: ends.clone(), began: false })
        .map(move |request| {
            let (previous, last) = (request.prev_log_id, end_of(&request));
            send(request).map(move |answer| (last, answer.map(|a| a.into_stream_result(previous, last))))
        })
        .buffered(APPEND_WINDOW)
        .filter_map(move |(last, answer)| std::future::ready(creditable(&ends, last, &answer).then_some(answer)))
}

fn end_of(request: &Request) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

/// Takes the answered request from `ends` and tells whether its answer vouches for it alone.
fn creditable(ends: &Ends, last: Option<LogId>, answer: &RpcResult<StreamAppendResult<Types>>) -> bool {
    let mut ends = ends.lock();
    while ends.pop_front().is_some_and(|end| !end.sent) {}
    let vouches_for_later = ends.front().is_some_and(|end| end.at == last);
    !(matches!(answer, Ok(Ok(_))) && vouches_for_later)
}

/// What is sent of the input: everything but the commits that entries overtake.
fn requests<S: Stream<Item = Request> + Unpin>(outlet: Outlet<S>) -> impl Stream<Item = Request> {
    futures_util::stream::unfold((outlet, None), |(mut outlet, taken)| async move {
        let request = match taken {
            Some(request) => request,
            None => outlet.take().await?,
        };
        let (request, taken) = outlet.settle(request).await;
        Some((request, (outlet, taken)))
    })
}

struct Outlet<S> {
    input: S,
    wanted: Arc<WantedCommit>,
    hold: Duration,
    ends: Ends,
    /// The first request of a session may be a probe, which is as empty as a commit.
    began: bool,
}

impl<S: Stream<Item = Request> + Unpin> Outlet<S> {
    async fn take(&mut self) -> Option<Request> {
        let request = self.input.next().await?;
        self.ends.lock().push_back(End { at: end_of(&request), sent: true });
        Some(request)
    }

    /// Gives what is sent instead of `request`, which is the newest that was taken, and the one taken behind it.
    async fn settle(&mut self, mut request: Request) -> (Request, Option<Request>) {
        let holds = std::mem::replace(&mut self.began, true);
        while holds && request.entries.is_empty() && !self.hold.is_zero() {
            let wanted = self.wanted.clone();
            let mut raised = std::pin::pin!(wanted.raised.notified());
            raised.as_mut().enable();
            if wanted.wants(&request) {
                break;
            }
            let next = tokio::select! {
                biased;
                next = self.input.next() => next,
                () = raised => continue,
                () = env::sleep(self.hold) => break,
            };
            let Some(next) = next else { break };
            let mut ends = self.ends.lock();
            if next.leader_commit < request.leader_commit || next.vote != request.vote {
                // It says less than what is held, so both are sent.
                ends.push_back(End { at: end_of(&next), sent: true });
                return (request, Some(next));
            }
            ends.back_mut().expect("the request that is held is the last that was taken").sent = false;
            ends.push_back(End { at: end_of(&next), sent: true });
            request = next;
        }
        (request, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, log_id};
    use super::*;
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
                async move {
                    answer.await.unwrap();
                    Ok(AppendEntriesResponse::Success)
                }
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
}
