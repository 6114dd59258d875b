//! Strings.
use super::Command;
pub static STRING: &[Command] = &[];
