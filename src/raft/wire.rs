//! The binary protocol between nodes: frames, the greeting, and the bytes of each request.
//!
//! ```text
//! frame      magic "HYC2" | opcode u8 | length u32 | payload
//! request    id u64 | method u8 | group u32 | body
//! response   id u64 | status u8 (0 done, 1 failed: text) | body
//! append     vote | prev log id | leader's commit | time | entries u32 { index u64, length u32, record }*
//! time       estimate u64 | the leadership that began its timeline: term u64, leader u64 (all 0: the leader has not stamped yet)
//! ```
//!
//! Little-endian. Everything but appends and proposals is small and rare and travels as postcard.

use super::entry::{self, Authored, Malformed, get_args, get_authored, put_args, put_authored, take};
use super::{Entry, LogId, Vote, log_id};
use crate::resp::Args;
use crate::types::{Leadership, Millis, NodeId, Slot};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::raft::AppendEntriesRequest;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The first bytes of every frame; the digit is the protocol's version.
pub const MAGIC: [u8; 4] = *b"HYC2";
/// Magic, opcode and length.
pub const HEAD_BYTES: usize = 9;
/// The largest frame between nodes that have greeted each other.
pub const MAX_FRAME: usize = 640 << 20;
/// The largest frame before that.
pub const MAX_GREETING: usize = 4096;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Hello = 1,
    Welcome = 2,
    Refused = 3,
    Request = 4,
    Response = 5,
    Chunk = 6,
    /// In the place of a greeting: who is there?
    WhoIsThere = 7,
    /// The answer to that, and to an invitation that is accepted.
    Introduction = 8,
    /// In the place of a greeting: a node that waits is told whom it belongs to.
    Invitation = 9,
    /// The answer to a greeting of a node that was removed from the cluster.
    Dismissal = 10,
    /// What was sent takes a while, and is under way. Says nothing else.
    Working = 11,
}

impl Opcode {
    fn from_u8(b: u8) -> Option<Opcode> {
        use Opcode::*;
        let all = [
            Hello,
            Welcome,
            Refused,
            Request,
            Response,
            Chunk,
            WhoIsThere,
            Introduction,
            Invitation,
            Dismissal,
            Working,
        ];
        all.into_iter().find(|op| *op as u8 == b)
    }
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    Transfer = 4,
    ReadIndex = 5,
    Propose = 6,
    Tick = 7,
    Ping = 8,
    InstallSnapshot = 9,
    /// Whether a voter may take leadership over: not while it keeps silent after a restart.
    MayLead = 10,
    Verify = 11,
    Fence = 12,
    FetchSnapshot = 13,
    RunVerification = 14,
    /// Bytes that a group uses by its account, as this replica has applied it.
    Used = 15,
    /// Waits in the leader's line for a turn at keys.
    AskTurn = 16,
    LeaveLine = 17,
    /// What the doors of one node tell those of another.
    Messages = 18,
    /// What the layers above ask of a leader ([`super::carry`]).
    Carry = 20,
    /// Whether the last vote was for this leader in this term ([`super::confirm`]).
    Confirm = 21,
    /// A group's configuration, or a step that changes it ([`super::members`]).
    Members = 22,
}

impl Method {
    pub fn from_u8(b: u8) -> Option<Method> {
        use Method::*;
        let all = [
            Append,
            Vote,
            PreVote,
            Transfer,
            ReadIndex,
            Propose,
            Tick,
            Ping,
            InstallSnapshot,
            MayLead,
            Verify,
            Fence,
            FetchSnapshot,
            RunVerification,
            Used,
            AskTurn,
            LeaveLine,
            Carry,
            Messages,
            Confirm,
            Members,
        ];
        all.into_iter().find(|m| *m as u8 == b)
    }
}

/// What a connection is for. Connections of a lane run on the worker that the lane's groups are pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Lane {
    /// Votes, appends, heartbeats and read indexes of the groups of a worker.
    Raft(u16),
    /// Commands carried to the leaders of a worker's groups: apart, so that a large value never delays a heartbeat.
    Forward(u16),
    Snapshot,
    /// Messages of pub/sub: apart, so that many of them delay nothing else. On the first worker.
    Messages,
}

/// The first frame of whoever connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Empty while the sender belongs to no cluster yet.
    pub cluster: String,
    pub from: NodeId,
    /// Drawn when the sender's data directory was made; another one means another directory.
    pub incarnation: u64,
    /// Whom the sender believes to be talking to.
    pub to: NodeId,
    pub lane: Lane,
}

/// The answer to a [`Hello`] that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub cluster: String,
    pub node: NodeId,
    pub incarnation: u64,
}

/// Tells a node that it was removed. It names whom it is for, so that nobody else believes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissal {
    pub cluster: String,
    pub node: NodeId,
    pub incarnation: u64,
}

/// Who a node is, told to anybody who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    pub version: u8,
    /// Empty while it belongs to none.
    pub cluster: String,
    /// 0 while it has no number.
    pub node: NodeId,
    pub name: String,
    pub incarnation: u64,
    /// What fails together with it; empty where nothing is known.
    pub zone: String,
    /// Where it gossips, on the same host; 0: it does not.
    pub gossip_port: u16,
}

/// Reads an introduction, also of a program that knew no zones, or no gossip.
pub fn introduction(bytes: &[u8]) -> Result<Introduction, Malformed> {
    // An empty text is one byte of zero, and so is the port: they stand for what is missing, and else behind the message's end.
    get(&[bytes, &[0, 0]].concat(), "an introduction")
}

/// Tells a node that waits to be added whom it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub version: u8,
    pub cluster: String,
    /// Its number from now on.
    pub node: NodeId,
    /// Of the directory that is meant.
    pub incarnation: u64,
    /// Where voters of the meta group are: few enough for a greeting.
    pub peers: BTreeMap<NodeId, String>,
}

/// What a leader says with its appends: the stamp that it would write now, and the leadership with which its timeline began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupTime {
    pub estimate: Millis,
    pub timeline: Leadership,
}

/// A leader's answer to [`Method::ReadIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadIndex {
    /// A read may be answered once this is applied.
    pub index: u64,
    /// The stamp that the leader would write now.
    pub estimate: Millis,
    /// How long ago a quorum last confirmed the leader, when it answered.
    pub age_ms: u64,
}

/// A leader's question for the hash of the state at a marked entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAsk {
    pub version: u8,
    pub index: u64,
    /// Tell the hash of each slot, too.
    pub slots: bool,
    /// Milliseconds until the deadline.
    pub wait_ms: u64,
}

/// The answer to a [`VerifyAsk`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub version: u8,
    /// None: there is no hash at that index here, because something else was going on.
    pub hash: Option<u128>,
    pub slots: Vec<(Slot, u128)>,
}

/// A leader's order to a replica whose state differs from the majority's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOrder {
    pub version: u8,
    /// Where the states were compared.
    pub index: u64,
    /// The leader's.
    pub term: u64,
}

/// Writes a frame whose payload `body` appends.
pub fn put_frame(out: &mut BytesMut, opcode: Opcode, body: impl FnOnce(&mut BytesMut)) {
    out.put_slice(&MAGIC);
    out.put_u8(opcode as u8);
    let at = out.len();
    out.put_u32_le(0);
    body(out);
    let len = u32::try_from(out.len() - at - 4).expect("frames are smaller than 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Writes the answer to a request: what `body` makes of it, or why there is none.
pub fn put_answer<T>(
    out: &mut BytesMut,
    id: u64,
    answer: Result<T, impl AsRef<str>>,
    body: impl FnOnce(&mut BytesMut, T),
) {
    put_frame(out, Opcode::Response, |out| {
        out.put_u64_le(id);
        match answer {
            Ok(answer) => {
                out.put_u8(0);
                body(out, answer);
            }
            Err(text) => {
                out.put_u8(1);
                out.put_slice(text.as_ref().as_bytes());
            }
        }
    });
}

/// What [`put_answer`] wrote: the request's number, and the answer, or why there is none. None for another frame.
pub fn answer_of(opcode: Opcode, mut payload: Bytes) -> Option<(u64, Result<Bytes, String>)> {
    if opcode != Opcode::Response || payload.len() < 9 {
        return None;
    }
    let (id, status) = (payload.get_u64_le(), payload.get_u8());
    let answer = if status == 0 { Ok(payload) } else { Err(String::from_utf8_lossy(&payload).into_owned()) };
    Some((id, answer))
}

/// Takes the next whole frame from the front; none while it is incomplete.
pub fn take_frame(b: &mut BytesMut, max: usize) -> Result<Option<(Opcode, Bytes)>, Malformed> {
    let known = b.len().min(4);
    if b[..known] != MAGIC[..known] {
        return Err(Malformed::Wrong("not the HyperCache protocol (bad magic)"));
    }
    if b.len() < HEAD_BYTES {
        return Ok(None);
    }
    let opcode = Opcode::from_u8(b[4]).ok_or(Malformed::Wrong("an opcode that is not known"))?;
    let len = u32::from_le_bytes([b[5], b[6], b[7], b[8]]) as usize;
    if len > max {
        return Err(Malformed::Wrong("a frame larger than allowed"));
    }
    if b.len() < HEAD_BYTES + len {
        // Grows with what arrives, not with what the header announces.
        b.reserve((HEAD_BYTES + len - b.len()).min(1 << 20));
        return Ok(None);
    }
    b.advance(HEAD_BYTES);
    Ok(Some((opcode, b.split_to(len).freeze())))
}

/// Appends plain data.
pub fn put<T: Serialize>(out: &mut BytesMut, value: &T) {
    out.put_slice(&postcard::to_stdvec(value).expect("messages are plain data"));
}

/// Reads what [`put`] appended.
pub fn get<T: DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, Malformed> {
    postcard::from_bytes(bytes).map_err(|_| Malformed::Wrong(what))
}

fn put_log_id(out: &mut BytesMut, id: &Option<LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.committed_leader_id().term);
            out.put_u64_le(id.index());
        }
    }
}

fn get_log_id(b: &mut Bytes) -> Result<Option<LogId>, Malformed> {
    match take(b, 1, "log id")?.get_u8() {
        0 => Ok(None),
        _ => {
            let mut b = take(b, 16, "log id")?;
            Ok(Some(log_id(b.get_u64_le(), b.get_u64_le())))
        }
    }
}

fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for.0);
    out.put_u8(u8::from(vote.committed));
}

fn get_vote(b: &mut Bytes) -> Result<Vote, Malformed> {
    let mut b = take(b, 17, "vote")?;
    let leader_id = RaftLeaderId::new(b.get_u64_le(), NodeId(b.get_u64_le()));
    Ok(Vote { leader_id, committed: b.get_u8() != 0 })
}

/// Appends an AppendEntries request with what the leader says of the group's time.
pub fn put_append(out: &mut BytesMut, request: &AppendEntriesRequest<super::Types>, time: Option<GroupTime>) {
    put_vote(out, &request.vote);
    put_log_id(out, &request.prev_log_id);
    put_log_id(out, &request.leader_commit);
    let (estimate, term, leader) = time.map_or((0, 0, 0), |t| (t.estimate, t.timeline.term, t.timeline.leader.0));
    [estimate, term, leader].into_iter().for_each(|number| out.put_u64_le(number));
    out.put_u32_le(request.entries.len() as u32);
    for entry in &request.entries {
        out.put_u64_le(entry.log_id.index());
        let at = out.len();
        out.put_u32_le(0);
        entry::put_record(out, entry);
        let len = (out.len() - at - 4) as u32;
        out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }
}

/// Reads what [`put_append`] appended; entries share the frame's bytes.
pub fn get_append(mut b: Bytes) -> Result<(AppendEntriesRequest<super::Types>, Option<GroupTime>), Malformed> {
    let vote = get_vote(&mut b)?;
    let prev_log_id = get_log_id(&mut b)?;
    let leader_commit = get_log_id(&mut b)?;
    let mut head = take(&mut b, 28, "append")?;
    let (estimate, term, leader) = (head.get_u64_le(), head.get_u64_le(), NodeId(head.get_u64_le()));
    let time = (estimate > 0).then_some(GroupTime { estimate, timeline: Leadership { leader, term } });
    let n = head.get_u32_le() as usize;
    let mut entries: Vec<Entry> = Vec::with_capacity(n.min(4096));
    for _ in 0..n {
        let mut head = take(&mut b, 12, "append")?;
        let index = head.get_u64_le();
        let record = take(&mut b, head.get_u32_le() as usize, "append")?;
        entries.push(entry::get_record(record, index)?);
    }
    Ok((AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, time))
}

/// Appends commands to be proposed by the leader of `term`, and by no other. `request` names them in both nodes' logs.
pub fn put_propose<'a>(
    out: &mut BytesMut,
    request: u64,
    term: u64,
    wait_ms: u64,
    calls: impl Iterator<Item = &'a Args>,
    authored: &[Authored],
) {
    out.put_u64_le(request);
    out.put_u64_le(term);
    out.put_u64_le(wait_ms);
    let at = out.len();
    out.put_u32_le(0);
    let mut n = 0u32;
    for args in calls {
        put_args(out, args);
        n += 1;
    }
    out[at..at + 4].copy_from_slice(&n.to_le_bytes());
    put_authored(out, authored);
}

/// What [`put_propose`] appended.
#[derive(Debug, PartialEq, Eq)]
pub struct Proposal {
    pub request: u64,
    pub term: u64,
    /// Milliseconds until the deadline.
    pub wait_ms: u64,
    pub calls: Vec<Args>,
    /// Who sent which of them.
    pub authored: Vec<Authored>,
}

/// Reads what [`put_propose`] appended.
pub fn get_propose(mut b: Bytes) -> Result<Proposal, Malformed> {
    let mut head = take(&mut b, 28, "proposal")?;
    let (request, term, wait_ms) = (head.get_u64_le(), head.get_u64_le(), head.get_u64_le());
    let n = head.get_u32_le() as usize;
    let mut calls = Vec::with_capacity(n.min(4096));
    for _ in 0..n {
        calls.push(get_args(&mut b)?);
    }
    let authored = get_authored(&mut b, "proposal")?;
    Ok(Proposal { request, term, wait_ms, calls, authored })
}

/// Appends a question for a turn of `call`, whose place has the number `id`, to the leader of `term` and no other.
pub fn put_ask_turn(out: &mut BytesMut, term: u64, id: u64, call: &Args) {
    out.put_u64_le(term);
    out.put_u64_le(id);
    put_args(out, call);
}

/// Reads what [`put_ask_turn`] appended.
pub fn get_ask_turn(mut b: Bytes) -> Result<(u64, u64, Args), Malformed> {
    let mut head = take(&mut b, 16, "question for a turn")?;
    Ok((head.get_u64_le(), head.get_u64_le(), get_args(&mut b)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::HashRange;
    use crate::types::{Author, Stamp};
    use openraft::EntryPayload;

    #[test]
    fn an_introduction_is_read_also_of_programs_that_knew_no_zones_or_no_gossip() {
        let whole = Introduction {
            version: 1,
            cluster: "c".to_owned(),
            node: NodeId(4),
            name: "n".to_owned(),
            incarnation: 7,
            zone: "z".to_owned(),
            gossip_port: 7946,
        };
        let mut bytes = BytesMut::new();
        put(&mut bytes, &whole);
        assert_eq!(introduction(&bytes), Ok(whole.clone()));
        // A port of 7946 is two bytes, a zone of one letter two more.
        let without_gossip = Introduction { gossip_port: 0, ..whole };
        assert_eq!(introduction(&bytes[..bytes.len() - 2]), Ok(without_gossip.clone()));
        let without_zone = Introduction { zone: String::new(), ..without_gossip };
        assert_eq!(introduction(&bytes[..bytes.len() - 4]), Ok(without_zone));
    }

    #[test]
    fn a_frame_is_found_in_any_pieces() {
        let mut whole = BytesMut::new();
        put_frame(&mut whole, Opcode::Request, |out| out.put_slice(b"abc"));
        put_frame(&mut whole, Opcode::Response, |_| ());
        for cut in 0..whole.len() {
            let mut b = BytesMut::from(&whole[..cut]);
            let mut got = Vec::new();
            while let Some(frame) = take_frame(&mut b, 100).unwrap() {
                got.push(frame);
            }
            b.extend_from_slice(&whole[cut..]);
            while let Some(frame) = take_frame(&mut b, 100).unwrap() {
                got.push(frame);
            }
            assert_eq!(got, [(Opcode::Request, Bytes::from_static(b"abc")), (Opcode::Response, Bytes::new())]);
        }
    }

    #[test]
    fn bad_magic_opcode_and_length_are_refused_at_once() {
        assert!(take_frame(&mut BytesMut::from("GET"), 100).is_err());
        assert!(take_frame(&mut BytesMut::from(&b"HYC2\x63\0\0\0\0"[..]), 100).is_err());
        assert!(take_frame(&mut BytesMut::from(&b"HYC2\x04\xff\xff\xff\xff"[..]), 100).is_err());
    }

    #[test]
    fn an_append_reads_back_what_was_written() {
        let call: Args = [Bytes::from_static(b"SET"), Bytes::from_static(b"k")].into_iter().collect();
        let batch = entry::Batch::encode(
            Stamp { now_ms: 1, seed: 2 },
            &[HashRange::whole(Slot(1))],
            &Default::default(),
            [call.clone()].iter(),
        );
        let request = AppendEntriesRequest {
            vote: Vote { leader_id: RaftLeaderId::new(3, NodeId(2)), committed: true },
            prev_log_id: Some(log_id(2, 9)),
            entries: vec![
                Entry { log_id: log_id(3, 10), payload: EntryPayload::Blank },
                Entry { log_id: log_id(3, 11), payload: EntryPayload::Normal(batch) },
            ],
            leader_commit: None,
        };
        let mut out = BytesMut::new();
        let time = Some(GroupTime { estimate: 77, timeline: Leadership { leader: NodeId(2), term: 3 } });
        put_append(&mut out, &request, time);
        let (got, again) = get_append(out.clone().freeze()).unwrap();
        assert_eq!(again, time);
        assert_eq!(format!("{got:?}"), format!("{request:?}"));
        for len in 0..out.len() {
            assert!(get_append(out.clone().freeze().slice(..len)).is_err(), "{len}");
        }
        let mut out = BytesMut::new();
        let authored = vec![Authored { first: 0, calls: 1, by: Author { process: 7, client: 8 } }];
        put_propose(&mut out, 3, 4, 5000, [call.clone()].iter(), &authored);
        let proposal = Proposal { request: 3, term: 4, wait_ms: 5000, calls: vec![call], authored };
        assert_eq!(get_propose(out.freeze()).unwrap(), proposal);
        let mut out = BytesMut::new();
        put_ask_turn(&mut out, 3, 4, &proposal.calls[0]);
        assert_eq!(get_ask_turn(out.freeze()).unwrap(), (3, 4, proposal.calls[0].clone()));
    }
}
