//! The bytes of pushes, written once for all who hear them.
//!
//! The two protocols differ in the first byte alone: a push is `>` in RESP3 and an array, `*`, in RESP2. It is encoded as
//! the array, and the session writes the byte that its client wants ([`put`]).

use crate::commands::pubsub::Kind;
use crate::resp::{Protocol, Reply};
use bytes::{BufMut, Bytes, BytesMut};

fn array(items: Vec<Reply>) -> Bytes {
    let mut out = BytesMut::new();
    Reply::Array(items).encode(Protocol::Resp2, &mut out);
    out.freeze()
}

/// A message to those who listen to the channel by its name.
pub fn message(kind: Kind, channel: &Bytes, message: &Bytes) -> Bytes {
    let word = if kind == Kind::Shard { "smessage" } else { "message" };
    array(vec![Reply::bulk(word), Reply::Bulk(channel.clone()), Reply::Bulk(message.clone())])
}

/// A message to those who listen to a pattern.
pub fn pattern_message(pattern: &Bytes, channel: &Bytes, message: &Bytes) -> Bytes {
    let [pattern, channel, message] = [pattern, channel, message].map(|b| Reply::Bulk(b.clone()));
    array(vec![Reply::bulk("pmessage"), pattern, channel, message])
}

/// Writes a push for a client. What begins as a status is a line of MONITOR, and the same in both.
pub fn put(push: &[u8], protocol: Protocol, out: &mut BytesMut) {
    let Some((first, rest)) = push.split_first() else { return };
    out.reserve(push.len());
    out.put_u8(match (first, protocol) {
        (b'+', _) => b'+',
        (_, Protocol::Resp3) => b'>',
        (_, Protocol::Resp2) => b'*',
    });
    out.put_slice(rest);
}

/// The keys that changed, or that all did: a message's last part, where Redis has the keys.
fn changed(keys: Option<&[Bytes]>) -> Reply {
    keys.map_or(Reply::Nil, |keys| Reply::Array(keys.iter().cloned().map(Reply::Bulk).collect()))
}

/// Keys that a client keeps have changed, or all of them; as RESP3 has it.
pub fn invalidation(keys: Option<&[Bytes]>) -> Bytes {
    let mut out = BytesMut::new();
    let items = Reply::Array(vec![Reply::bulk("invalidate"), changed(keys)]);
    items.encode(Protocol::Resp3, &mut out);
    out.freeze()
}

/// The same as a message to whoever is told in a client's place, in RESP2.
pub fn invalidation_message(keys: Option<&[Bytes]>) -> Bytes {
    array(vec![Reply::bulk("message"), Reply::bulk("__redis__:invalidate"), changed(keys)])
}

/// The connection that should be told in a client's place is gone.
pub fn redirect_broken(id: u64) -> Bytes {
    array(vec![Reply::bulk("tracking-redir-broken"), Reply::Int(id as i64)])
}
