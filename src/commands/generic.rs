//! Keys of any type: deadlines, names, scans.
use super::Command;
pub static GENERIC: &[Command] = &[];
