//! What openraft sends to other replicas of a group, on the node's links. How its appends follow one another is in
//! [`appends`].

use super::appends::{self, WantedCommit};
use super::entry;
use super::peers::{self, Answer, Broken, CallError, Peers};
use super::snapshot::{SnapshotRef, SnapshotStore};
use super::wire::{self, GroupTime, Lane, Method, Opcode};
use super::{Snapshot, SnapshotMeta, Types, Vote};
use crate::env;
use crate::planted::{self, Bug};
use crate::types::{GroupId, Leadership, NodeId};
use bytes::{BufMut, BytesMut};
use futures_util::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// How long an append may take: a follower's disk may be slow under load, and asking twice makes it slower.
const APPEND: Duration = Duration::from_millis(2000);
/// A large append may take longer: what a slow network carries in a millisecond.
const APPEND_BYTES_PER_MS: usize = 10_000;
/// How long a vote may take.
const VOTE: Duration = Duration::from_millis(500);
/// How long a follower may take to install a snapshot after its last chunk.
const INSTALL: Duration = Duration::from_secs(300);
/// How long it may say nothing meanwhile.
const SILENT: Duration = Duration::from_secs(5);

/// What goes before the chunks of a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct Offer {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub chunks: u32,
}

/// Makes a [`Network`] for each follower of a group.
pub(super) struct NetworkFactory {
    pub group: GroupId,
    pub worker: u16,
    pub peers: Arc<Peers>,
    pub time: TimeAs,
    pub snapshots: SnapshotStore,
    pub lease_off_term: Arc<AtomicU64>,
    pub wanted: Arc<WantedCommit>,
    /// Raised to every commit index before a follower can hear of it.
    pub told: Arc<AtomicU64>,
    /// Raised while the state here is not to be trusted: no snapshot of it is sent.
    pub fenced: Arc<AtomicBool>,
}

impl RaftNetworkFactory<Types> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: NodeId, _node: &openraft::impls::EmptyNode) -> Network {
        Network {
            group: self.group,
            target,
            lane: Lane::Raft(self.worker),
            peers: self.peers.clone(),
            time: self.time.clone(),
            snapshots: self.snapshots.clone(),
            lease_off_term: self.lease_off_term.clone(),
            wanted: self.wanted.clone(),
            told: self.told.clone(),
            fenced: self.fenced.clone(),
        }
    }
}

/// The way to one follower of one group.
#[derive(Clone)]
pub(super) struct Network {
    group: GroupId,
    target: NodeId,
    lane: Lane,
    peers: Arc<Peers>,
    time: TimeAs,
    snapshots: SnapshotStore,
    lease_off_term: Arc<AtomicU64>,
    wanted: Arc<WantedCommit>,
    told: Arc<AtomicU64>,
    fenced: Arc<AtomicBool>,
}

/// What a leadership says of the group's time.
pub type TimeAs = Arc<dyn Fn(Leadership) -> Option<GroupTime> + Send + Sync>;

pub(super) type RpcResult<T> = Result<T, RPCError<Types>>;

impl Network {
    /// Queues a request. Its answer is awaited with [`answered`].
    fn call(&self, method: Method, body: impl FnOnce(&mut BytesMut)) -> Result<Answer, CallError> {
        self.peers.link(self.target, self.lane).call(method, self.group, body)
    }

    /// Queues an append now, so that appends leave in order; the answer comes to whoever polls.
    fn append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> BoxFuture<'static, RpcResult<AppendEntriesResponse<Types>>> {
        let leader = request.vote.leader_id;
        let told = (self.time)(Leadership { leader: leader.voted_for, term: leader.term });
        self.told.fetch_max(request.leader_commit.map_or(0, |id| id.index()), Ordering::SeqCst);
        let answer = self.call(Method::Append, |out| wire::put_append(out, &request, told));
        let bytes: usize = request.entries.iter().map(entry::record_len).sum();
        answered(answer, APPEND + Duration::from_millis((bytes / APPEND_BYTES_PER_MS) as u64)).boxed()
    }
}

/// Waits for an answer for at most `limit` and reads it.
async fn answered<T: DeserializeOwned>(answer: Result<Answer, CallError>, limit: Duration) -> RpcResult<T> {
    let answer = answer.map_err(|e| match e {
        CallError::NotConnected => RPCError::Unreachable(Unreachable::from_string("not connected")),
        CallError::Full => RPCError::Network(NetworkError::from_string("too much waits on the link")),
    })?;
    match env::timeout(limit, answer.wait()).await {
        Ok(Ok(bytes)) => wire::get(&bytes, "an answer").map_err(|e| RPCError::Network(NetworkError::new(&e))),
        Ok(Err(Broken::Peer(text))) => Err(RPCError::Network(NetworkError::from_string(text))),
        Ok(Err(e)) => Err(RPCError::Network(NetworkError::new(&e))),
        Err(_) => Err(RPCError::Network(NetworkError::from_string("no answer in time"))),
    }
}

/// A vote that was given once, for another voter too ([`Bug::CountVoteTwice`]).
fn counted_again(rpc: &VoteRequest<Types>) -> RpcResult<VoteResponse<Types>> {
    Ok(VoteResponse::new(rpc.vote, None, true))
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = SnapshotRef;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<Types>> {
        self.append(rpc).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let network = self.clone();
        // What all nodes agree on is rare, and each is to go by it as soon as whoever was asked says that it is so.
        let hold = if self.group == GroupId::META { Duration::ZERO } else { appends::HOLD };
        let answers = appends::pipeline(input, self.wanted.clone(), hold, move |r| network.append(r));
        async move { Ok(answers.boxed()) }.boxed()
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        let answer = answered(self.call(Method::Vote, |out| wire::put(out, &rpc)), VOTE).await;
        if planted::is(Bug::CountVoteTwice) { answer.or_else(|_| counted_again(&rpc)) } else { answer }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Types>, _option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        let answer = answered(self.call(Method::PreVote, |out| wire::put(out, &rpc)), VOTE).await;
        if planted::is(Bug::CountVoteTwice) { answer.or_else(|_| counted_again(&rpc)) } else { answer }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Types>> {
        // From here on the voters' promise of this term is void: no lease read may rest on it any more.
        self.lease_off_term.fetch_max(rpc.from_leader().leader_id.term, Ordering::AcqRel);
        answered(self.call(Method::Transfer, |out| wire::put(out, &rpc)), VOTE).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        // Who waits for an answer sends nothing, and would not notice that nobody is there any more.
        let turned = async {
            self.peers.turned(self.target).await;
            Err(io::Error::other("a connection to the peer broke or was made: it is sent anew"))
        };
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = self.send_snapshot(vote, snapshot) => answer,
            lost = turned => lost,
        };
        answer.map_err(|e| StreamingError::Network(NetworkError::new(&e)))
    }
}

impl Network {
    /// openraft asks again, of whoever leads then.
    fn check_fence(&self) -> io::Result<()> {
        match self.fenced.load(Ordering::Acquire) {
            true => Err(io::Error::other("this replica is fenced: what it holds is sent to nobody")),
            false => Ok(()),
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> io::Result<SnapshotResponse<Types>> {
        self.check_fence()?;
        let (bytes, index) = (snapshot.snapshot.bytes, snapshot.meta.last_log_id.map(|id| id.index()));
        tracing::info!(peer = %self.target, group = %self.group, bytes, ?index, "snapshot-sent");
        let mut stream = self.peers.dial(self.target).await?;
        self.put_snapshot(vote, snapshot, &mut stream).await?;
        installed(&mut stream, SILENT).await
    }

    /// Writes the offer and all chunks.
    async fn put_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let SnapshotRef { number, chunks, .. } = snapshot.snapshot;
        let _kept = self.snapshots.pin(number);
        let mut out = BytesMut::new();
        wire::put_frame(&mut out, Opcode::Request, |out| {
            out.put_u64_le(0);
            out.put_u8(Method::InstallSnapshot as u8);
            out.put_u32_le(self.group.0);
            wire::put(out, &Offer { vote, meta: snapshot.meta, chunks });
        });
        for chunk in 0..chunks {
            let stored = self.snapshots.stored_chunk(number, chunk)?;
            wire::put_frame(&mut out, Opcode::Chunk, |out| out.put_slice(&stored));
            // A follower installs only what it has whole, so what has gone out is lost on it.
            self.check_fence()?;
            let written = env::timeout(peers::STALLED, stream.write_all(&out)).await;
            written.map_err(|_| io::Error::other("the peer takes nothing more"))??;
            out.clear();
        }
        Ok(())
    }
}

/// Waits for the answer of who installs a snapshot, as long as it says now and then that it is at it: a connection that died
/// unheard would keep it from everything that follows the snapshot.
async fn installed<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), silent: Duration) -> io::Result<T> {
    let (mut buffer, until) = (BytesMut::new(), env::now() + INSTALL);
    let (opcode, payload) = loop {
        let frame = env::timeout(silent, peers::read_frame(stream, &mut buffer, wire::MAX_FRAME)).await;
        match frame.map_err(|_| io::Error::other("who installs it says nothing any more"))?? {
            (Opcode::Working, _) if env::now() < until => {}
            (Opcode::Working, _) => return Err(io::Error::other("the snapshot was not installed in time")),
            answer => break answer,
        }
    };
    let answer = wire::answer_of(opcode, payload);
    let (_, answer) = answer.ok_or_else(|| io::Error::other("the answer to a snapshot is none"))?;
    wire::get(&answer.map_err(io::Error::other)?, "an answer").map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::storage::{Options_, Storage, Sync};
    use super::super::wire::{Hello, Welcome};
    use super::super::{Types, log_id};
    use super::*;
    use openraft::type_config::TypeConfigExt;
    use openraft::vote::RaftLeaderId;
    use tokio::runtime::Handle;

    /// Nobody is called in these tests.
    struct Alone;

    impl peers::Identity for Alone {
        fn hello(&self, _: NodeId, _: Lane) -> Hello {
            panic!("it greets nobody")
        }

        fn admit(&self, _: &Hello) -> Result<Welcome, String> {
            Err("it lets nobody in".to_owned())
        }

        fn recognize(&self, _: NodeId, _: &Welcome) -> Result<(), String> {
            Err("it knows nobody".to_owned())
        }

        fn dismissal(&self, _: &super::super::wire::Hello) -> Option<super::super::wire::Dismissal> {
            None
        }

        fn dismissed(&self, _: &super::super::wire::Dismissal) {}

        fn introduction(&self) -> super::super::wire::Introduction {
            panic!("nobody asks it")
        }

        fn incarnation(&self) -> (u64, bool) {
            (1, true)
        }

        fn may_be_given(&self, _: NodeId, _: bool) -> bool {
            false
        }

        fn address(&self, _: NodeId) -> Option<String> {
            None
        }
    }

    #[test]
    fn a_connection_that_breaks_is_told_to_who_waits_for_that_peer_alone() {
        Types::run(async {
            let peers = Peers::new(Arc::new(Alone), vec![Handle::current()]);
            peers.note_turn(NodeId(2));
            let mut turned = std::pin::pin!(peers.turned(NodeId(2)));
            assert!((&mut turned).now_or_never().is_none(), "that was before");
            peers.note_turn(NodeId(3));
            assert!((&mut turned).now_or_never().is_none(), "that was another");
            peers.note_turn(NodeId(2));
            turned.await;
        });
    }

    /// Simulated seed 3089: the answer was lost and no other connection broke, so that for minutes nothing was sent to that node.
    #[tokio::test]
    async fn who_installs_a_snapshot_is_waited_for_as_long_as_it_says_that_it_is_at_it() {
        let silent = Duration::from_millis(300);
        let (mut here, mut there) = tokio::io::duplex(1 << 10);
        let waiting = tokio::spawn(async move { installed::<u64>(&mut here, silent).await });
        let mut out = BytesMut::new();
        for _ in 0..6 {
            wire::put_frame(&mut out, Opcode::Working, |_| ());
            there.write_all(&out).await.unwrap();
            out.clear();
            env::sleep(silent / 3).await;
        }
        wire::put_answer(&mut out, 0, Ok::<_, &str>(7u64), |out, index| wire::put(out, &index));
        there.write_all(&out).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), 7);
        let (mut here, _silent) = tokio::io::duplex(1 << 10);
        let lost = installed::<u64>(&mut here, silent).await.unwrap_err();
        assert!(lost.to_string().contains("says nothing"), "{lost}");
    }

    /// Simulated seed 2236 of its day: a leader that had heard no stamp since its start took its peers' clocks for as far ahead as they
    /// had been before its own, which had been behind, was put right. Its group's time was ahead by as much, and keys went early.
    #[test]
    fn what_a_peers_wall_clock_shows_does_not_depend_on_this_nodes() {
        Types::run(async {
            let peers = Peers::new(Arc::new(Alone), vec![Handle::current()]);
            assert_eq!((peers.wall_ms(NodeId(2)), peers.hearing(NodeId(2)).wall_offset_ms), (None, None));
            let shown = env::wall_ms() as i64 + 481_000;
            peers.note_alive(NodeId(2), shown);
            env::sleep(Duration::from_millis(20)).await;
            let since = peers.wall_ms(NodeId(2)).expect("it was heard") - shown;
            assert!((20..10_000).contains(&since), "{since} ms");
            let offset = peers.hearing(NodeId(2)).wall_offset_ms.expect("it was heard");
            assert!((480_000..482_000).contains(&offset), "{offset} ms");
        });
    }

    #[test]
    fn a_fenced_replica_sends_no_snapshot_and_finishes_none() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path(), &Options_ { sync: Sync::No, ..Options_::default() }).unwrap();
        Types::run(async move {
            let snapshots = SnapshotStore::open(&storage, GroupId(3)).unwrap();
            let mut writer = snapshots.begin().unwrap();
            (0..8u8).for_each(|n| writer.push(&[n; 5000]).unwrap());
            let snapshot = writer.finish().unwrap();
            let meta = SnapshotMeta { last_log_id: Some(log_id(1, 9)), ..SnapshotMeta::default() };
            let network = Network {
                group: GroupId(3),
                target: NodeId(2),
                lane: Lane::Raft(0),
                peers: Peers::new(Arc::new(Alone), vec![Handle::current()]),
                time: Arc::new(|_| None),
                snapshots,
                lease_off_term: Arc::default(),
                wanted: Arc::default(),
                told: Arc::default(),
                fenced: Arc::default(),
            };
            let vote = Vote { leader_id: RaftLeaderId::new(1, NodeId(1)), committed: true };
            let offer = || Snapshot { meta: meta.clone(), snapshot };
            let chunks_sent = async |fence_after: usize| {
                network.fenced.store(false, Ordering::Release);
                // Less than a chunk fits, so that the writer is never far ahead.
                let (mut from, mut to) = tokio::io::duplex(16);
                let sending = network.clone();
                let offer = offer();
                let sent = async move { sending.put_snapshot(vote, offer, &mut from).await };
                let received = async {
                    let (mut buffer, mut chunks) = (BytesMut::new(), 0);
                    while let Ok((opcode, _)) = peers::read_frame(&mut to, &mut buffer, wire::MAX_FRAME).await {
                        chunks += usize::from(opcode == Opcode::Chunk);
                        network.fenced.store(chunks >= fence_after, Ordering::Release);
                    }
                    chunks
                };
                tokio::join!(sent, received)
            };
            let (sent, chunks) = chunks_sent(usize::MAX).await;
            assert!(sent.is_ok() && chunks == 8, "{sent:?}, {chunks} chunks");
            let (sent, chunks) = chunks_sent(3).await;
            assert!(sent.is_err_and(|e| e.to_string().contains("fenced")) && chunks < 8, "{chunks} chunks");
            network.fenced.store(true, Ordering::Release);
            let sent = network.send_snapshot(vote, offer()).await;
            assert!(sent.is_err_and(|e| e.to_string().contains("fenced")), "it does not even dial");
        });
    }
}
