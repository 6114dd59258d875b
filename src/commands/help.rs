//! HELP of the containers: one entry of a container's table says all of it. Texts are our own where a table writes them, and
//! Redis' where its own tests look at them.

use super::session::Session;
use super::{Command, Keys, Run, Scope, Spec};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// HELP, for a container's table. `spec` says what is its own: family, syntax, summary and since when; `answer` is what
/// [`of_table`] or [`of_lines`] makes.
pub(super) const fn help(spec: Spec, answer: fn(&Args, &mut Session) -> Reply) -> Command {
    Command {
        spec: Spec { name: "help", arity: 2, keys: Keys::None, scope: Scope::Local, ..spec },
        run: Run::Session(answer),
        check: |_| Ok(()),
        growth: |_| 0,
        copied: None,
        blocks: None,
        subcommands: &[],
    }
}

/// The subcommands of a container, from its table.
pub(super) fn of_table(name: &str, table: &[Command]) -> Reply {
    let line = |t: String| Reply::Status(Bytes::from(t));
    let mut lines = vec![line(format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"))];
    for command in table {
        let syntax = command.spec.syntax;
        lines.push(line(syntax.split_once(' ').map_or(syntax, |(_, rest)| rest).to_owned()));
        lines.push(line(format!("    {}", command.spec.summary)));
    }
    Reply::Array(lines)
}

/// What Redis says.
pub(super) fn of_lines(lines: &[&'static str]) -> Reply {
    Reply::Array(lines.iter().map(|line| Reply::Status(Bytes::from_static(line.as_bytes()))).collect())
}
