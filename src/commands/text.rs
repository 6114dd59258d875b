//! What the families whose values are strings share: looking at one, answering one, changing one in place.

use super::syntax::wrong_type;
use crate::resp::Reply;
use crate::state::{EntryRef, Form, TextRef, Value};
use bytes::BytesMut;

/// Longest string, as Redis' proto-max-bulk-len.
pub(super) const MAX_STRING: usize = 512 << 20;

/// The string of an entry, if there is one; WRONGTYPE if it is another type.
#[inline]
pub(super) fn text_of(entry: Option<EntryRef<'_>>) -> Result<Option<TextRef<'_>>, Reply> {
    entry.map(|entry| entry.value().as_text().ok_or_else(wrong_type)).transpose()
}

/// Values up to this size are copied into a reply, longer ones shared: sharing costs an allocation that stays.
const COPY_UP_TO: usize = 512;

#[inline]
pub(super) fn bulk(text: TextRef<'_>) -> Reply {
    Reply::Bulk(text.to_bytes(COPY_UP_TO))
}

pub(super) fn bulk_or_nil(entry: Option<EntryRef<'_>>) -> Reply {
    match text_of(entry) {
        Ok(text) => text.map_or(Reply::Nil, bulk),
        Err(reply) => reply,
    }
}

/// Refuses what would be longer than a string may be.
pub(super) fn check_length(length: usize) -> Result<(), Reply> {
    if length > MAX_STRING {
        return Err(Reply::error("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    Ok(())
}

/// Lets `change` work on the bytes of a string, in place if nobody else holds them. Its caller has seen that it is one.
pub(super) fn edit_bytes(value: &mut Value, change: impl FnOnce(&mut BytesMut)) {
    let Value::Text(text) = value else { return };
    let mut bytes = std::mem::take(&mut text.bytes).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    change(&mut bytes);
    text.bytes = bytes.freeze();
    text.form = Form::Edited;
}
