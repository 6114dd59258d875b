//! Nothing that was acknowledged is lost, and nothing that was refused is there: by the lists that clients append to, as they
//! are read after healing.

use crate::history::{Op, Outcome};
use hypercache::resp::Reply;
use std::collections::BTreeMap;

/// What the last read of each list of this kind found.
pub fn final_lists(ops: &[Op], kind: char) -> BTreeMap<&str, Vec<String>> {
    let reads = ops.iter().filter(|op| op.last && op.name() == "LRANGE" && op.key().starts_with(kind));
    reads
        .filter_map(|op| match op.reply()? {
            Reply::Array(values) => Some((op.key(), values.iter().filter_map(text).collect())),
            _ => None,
        })
        .collect()
}

pub fn text(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}

pub fn judge(ops: &[Op]) -> Result<(), String> {
    let lists = final_lists(ops, 'l');
    for op in ops.iter().filter(|op| op.name() == "RPUSH") {
        let Some(found) = lists.get(op.key()) else { continue };
        let there = found.contains(&op.command()[2]);
        match op.outcome {
            Outcome::Ok(_) if !there => return Err(format!("acknowledged: lost after all was healed: {}", op.text())),
            Outcome::Failed(_) if there => return Err(format!("acknowledged: refused, and yet there: {}", op.text())),
            _ => (),
        }
    }
    Ok(())
}
