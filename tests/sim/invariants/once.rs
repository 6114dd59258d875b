//! No write is applied twice: every value that is appended to a list is appended once.

use super::acknowledged::final_lists;
use crate::history::Op;
use std::collections::BTreeSet;

pub fn judge(ops: &[Op]) -> Result<(), String> {
    for (list, values) in final_lists(ops, 'l') {
        let mut seen = BTreeSet::new();
        if let Some(twice) = values.iter().find(|value| !seen.insert(*value)) {
            let op = ops.iter().find(|op| op.name() == "RPUSH" && op.command()[2] == *twice);
            return Err(format!("once: {twice} is twice in {list}: {}", op.map_or_else(String::new, Op::text)));
        }
    }
    Ok(())
}
