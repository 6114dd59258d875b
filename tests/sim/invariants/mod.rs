//! What must hold, one file a rule. Some are watched at every step, the others judged by what clients saw.

pub mod acknowledged;
pub mod expiry;
pub mod groups;
pub mod leaders;
pub mod levels;
pub mod logs;
pub mod members;
pub mod once;
pub mod progress;
pub mod quarantine;
pub mod queues;
pub mod registers;
pub mod slots;
pub mod states;

use crate::history::Op;
use crate::observe::Watcher;

/// The rules that are watched while it runs.
pub fn watchers() -> Vec<Box<dyn Watcher>> {
    vec![
        Box::<leaders::OneATerm>::default(),
        Box::<logs::Forward>::default(),
        Box::<states::Equal>::default(),
        Box::<quarantine::Silent>::default(),
        Box::<members::OneForOne>::default(),
        Box::<groups::OnceOnly>::default(),
    ]
}

/// A rule over everything that clients did.
type Judge = fn(&[Op]) -> Result<(), String>;

/// The rules that are judged at the end, by name.
pub const JUDGES: &[(&str, Judge)] = &[
    ("answers", answers),
    ("acknowledged", acknowledged::judge),
    ("once", once::judge),
    ("expiry", expiry::judge),
    ("queues", queues::judge),
    ("levels", levels::judge),
    ("registers", registers::judge),
];

/// The server sends nothing that it must not.
fn answers(ops: &[Op]) -> Result<(), String> {
    match ops.iter().find(|op| matches!(op.outcome, crate::history::Outcome::Broken(_))) {
        None => Ok(()),
        Some(op) => Err(format!("an answer that must not be: {}", op.text())),
    }
}
