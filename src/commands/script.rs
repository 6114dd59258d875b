//! EVAL and its kin, and SCRIPT: what they look like. What a script does is `scripting`'s, where it runs `server::scripts`'.
//!
//! Such a command is none of a session, and neither a read nor a write: which of these it is shows only when it has run.

use super::syntax::want_integer;
use super::{Command, Keys, Run, Scope, Spec, container};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// Commands of scripts, for those who run them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptCommand {
    /// A script whose text is sent.
    Eval {
        read_only: bool,
    },
    /// A script by its name.
    EvalSha {
        read_only: bool,
    },
    Load,
    Exists,
    Flush,
    Kill,
    Help,
}

impl ScriptCommand {
    /// Whether it runs a script.
    pub fn runs(self) -> bool {
        matches!(self, ScriptCommand::Eval { .. } | ScriptCommand::EvalSha { .. })
    }
}

/// How many keys EVAL or EVALSHA names behind its script.
pub fn key_count(args: &Args) -> Result<usize, Reply> {
    let count = want_integer(&args[2])?;
    let Ok(count) = usize::try_from(count) else { return Err(Reply::error("ERR Number of keys can't be negative")) };
    if count > args.len() - 3 {
        return Err(Reply::error("ERR Number of keys can't be greater than number of args"));
    }
    Ok(count)
}

fn check_call(args: &Args) -> Result<(), Reply> {
    key_count(args).map(drop)
}

fn check_flush(args: &Args) -> Result<(), Reply> {
    let known = |word: &Bytes| word.eq_ignore_ascii_case(b"sync") || word.eq_ignore_ascii_case(b"async");
    match &args[2..] {
        [] => Ok(()),
        [mode] if known(mode) => Ok(()),
        _ => Err(Reply::error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
    }
}

const fn spec(
    name: &'static str,
    arity: i32,
    syntax: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Spec {
    Spec {
        name,
        arity,
        keys: Keys::None,
        scope: Scope::Local,
        family: "scripting",
        syntax,
        summary,
        complexity: "O(1)",
        since,
        denyoom: false,
    }
}

const fn script(spec: Spec, kind: ScriptCommand, check: fn(&Args) -> Result<(), Reply>) -> Command {
    Command { spec, run: Run::Script(kind), check, growth: |_| 0, copied: None, blocks: None, subcommands: &[] }
}

/// One that runs a script.
const fn runs(
    name: &'static str,
    kind: ScriptCommand,
    syntax: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Command {
    let base = spec(name, -3, syntax, summary, since);
    let keys = Keys::Counted { at: 2, step: 1 };
    script(Spec { keys, scope: Scope::OneSlot, complexity: "Depends on the script", ..base }, kind, check_call)
}

fn anything(_: &Args) -> Result<(), Reply> {
    Ok(())
}

/// The lines of SCRIPT HELP.
pub fn help() -> Reply {
    super::connection::help("SCRIPT", SCRIPT)
}

static SCRIPT: &[Command] = &[
    script(
        spec("exists", -3, "SCRIPT EXISTS sha1 [sha1 ...]", "Which scripts are known.", "2.6.0"),
        ScriptCommand::Exists,
        anything,
    ),
    script(
        spec("flush", -2, "SCRIPT FLUSH [ASYNC | SYNC]", "Forgets all scripts, on all nodes.", "2.6.0"),
        ScriptCommand::Flush,
        check_flush,
    ),
    script(spec("help", 2, "SCRIPT HELP", "The subcommands of SCRIPT.", "5.0.0"), ScriptCommand::Help, anything),
    script(
        spec("kill", 2, "SCRIPT KILL", "Stops scripts that run, on all leaders; what they did is undone.", "2.6.0"),
        ScriptCommand::Kill,
        anything,
    ),
    script(
        spec("load", 3, "SCRIPT LOAD script", "Makes a script known to all nodes; gives its name.", "2.6.0"),
        ScriptCommand::Load,
        anything,
    ),
];

pub(super) static SCRIPTING: &[Command] = &[
    runs(
        "eval",
        ScriptCommand::Eval { read_only: false },
        "EVAL script numkeys [key [key ...]] [arg [arg ...]]",
        "Runs a script.",
        "2.6.0",
    ),
    runs(
        "eval_ro",
        ScriptCommand::Eval { read_only: true },
        "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]",
        "Runs a script that writes nothing.",
        "7.0.0",
    ),
    runs(
        "evalsha",
        ScriptCommand::EvalSha { read_only: false },
        "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]",
        "Runs a script that is known, by its name.",
        "2.6.0",
    ),
    runs(
        "evalsha_ro",
        ScriptCommand::EvalSha { read_only: true },
        "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]",
        "Runs a script that is known and writes nothing, by its name.",
        "7.0.0",
    ),
    container(spec("script", -2, "SCRIPT", "Scripts that are known.", "2.6.0"), SCRIPT),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::split_words;

    #[test]
    fn keys_are_counted_and_refused_as_in_redis() {
        let parse = |line: &str| key_count(&split_words(line.as_bytes()).unwrap());
        assert_eq!(parse("eval s 2 a b c"), Ok(2));
        for (line, error) in [
            ("eval s x", "ERR value is not an integer or out of range"),
            ("eval s -1", "ERR Number of keys can't be negative"),
            ("eval s 1", "ERR Number of keys can't be greater than number of args"),
        ] {
            assert_eq!(parse(line), Err(Reply::error(error)), "{line}");
        }
    }
}
