//! EVAL and its kin, and SCRIPT: what they look like. What a script does is `scripting`'s, where it runs `server::scripts`'.
//!
//! Such a command is none of a session, and neither a read nor a write: which of these it is shows only when it has run.

use super::syntax::want_integer;
use super::{Command, Keys, QUOTED, Run, Scope, Spec, as_c, container, error_line};
use crate::resp::{Args, Reply, integer};
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
    /// A function of a library.
    Fcall {
        read_only: bool,
    },
    /// FUNCTION and its subcommand.
    Function(FunctionCommand),
}

/// Subcommands of FUNCTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionCommand {
    Delete,
    Dump,
    Flush,
    Help,
    Kill,
    List,
    Load,
    Restore,
    Stats,
}

impl ScriptCommand {
    /// Whether it runs a script.
    pub fn runs(self) -> bool {
        matches!(self, ScriptCommand::Eval { .. } | ScriptCommand::EvalSha { .. } | ScriptCommand::Fcall { .. })
    }

    /// Whether it changes what functions there are: what a connection says behind it is to see that.
    pub fn changes_functions(self) -> bool {
        use FunctionCommand::{Delete, Flush, Load, Restore};
        matches!(self, ScriptCommand::Function(Delete | Flush | Load | Restore))
    }

    /// Flags as in COMMAND INFO, DENYOOM aside.
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            kind if kind.changes_functions() => &["write", "noscript"],
            ScriptCommand::Function(FunctionCommand::Stats | FunctionCommand::Kill) | ScriptCommand::Kill => {
                &["noscript", "allow_busy"]
            }
            ScriptCommand::Function(FunctionCommand::Help) | ScriptCommand::Help => &["loading", "stale"],
            ScriptCommand::Function(_) | ScriptCommand::Load | ScriptCommand::Exists | ScriptCommand::Flush => {
                &["noscript"]
            }
            ScriptCommand::Fcall { read_only }
            | ScriptCommand::Eval { read_only }
            | ScriptCommand::EvalSha { read_only } => match read_only {
                true => &["readonly", "noscript", "stale", "skip_monitor", "no_mandatory_keys"],
                false => &["noscript", "stale", "skip_monitor", "no_mandatory_keys"],
            },
        }
    }
}

/// How many keys EVAL or EVALSHA names behind its script.
pub fn key_count(args: &Args) -> Result<usize, Reply> {
    counted(want_integer(&args[2])?, args)
}

/// How many keys FCALL names behind its function. Redis looks for the function first.
pub fn key_count_of_function(args: &Args) -> Result<usize, Reply> {
    let count = integer(&args[2]).ok_or_else(|| Reply::error("ERR Bad number of keys provided"))?;
    counted(count, args)
}

fn counted(count: i64, args: &Args) -> Result<usize, Reply> {
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
    match &args[2..] {
        [] => Ok(()),
        [mode] if is_mode(mode) => Ok(()),
        _ => Err(Reply::error("ERR SCRIPT FLUSH only support SYNC|ASYNC option")),
    }
}

fn is_mode(word: &Bytes) -> bool {
    word.eq_ignore_ascii_case(b"sync") || word.eq_ignore_ascii_case(b"async")
}

/// What FUNCTION answers where its own count of arguments does not fit.
fn unknown_or_wrong(args: &Args) -> Reply {
    let mut text = b"ERR unknown subcommand or wrong number of arguments for '".to_vec();
    text.extend_from_slice(as_c(&args[1], QUOTED));
    text.extend_from_slice(b"'. Try FUNCTION HELP.");
    error_line(text)
}

fn check_function_flush(args: &Args) -> Result<(), Reply> {
    match &args[2..] {
        [] => Ok(()),
        [mode] if is_mode(mode) => Ok(()),
        [_] => Err(Reply::error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")),
        _ => Err(unknown_or_wrong(args)),
    }
}

/// What FUNCTION RESTORE does with libraries that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Append,
    Flush,
    Replace,
}

/// The policy of FUNCTION RESTORE.
pub fn restore_policy(args: &Args) -> Result<Policy, Reply> {
    match &args[3..] {
        [] => Ok(Policy::Append),
        [word] if word.eq_ignore_ascii_case(b"append") => Ok(Policy::Append),
        [word] if word.eq_ignore_ascii_case(b"flush") => Ok(Policy::Flush),
        [word] if word.eq_ignore_ascii_case(b"replace") => Ok(Policy::Replace),
        [_] => Err(Reply::error("ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")),
        _ => Err(unknown_or_wrong(args)),
    }
}

/// The code that FUNCTION LOAD is given, and whether it may replace a library.
pub fn function_load(args: &Args) -> Result<(&Bytes, bool), Reply> {
    let (code, options) = args[2..].split_last().ok_or_else(|| Reply::error("ERR Function code is missing"))?;
    match options.iter().find(|option| !option.eq_ignore_ascii_case(b"replace")) {
        Some(unknown) => Err(error_line([b"ERR Unknown option given: ", as_c(unknown, unknown.len())].concat())),
        None => Ok((code, !options.is_empty())),
    }
}

/// What FUNCTION LIST is to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub pattern: Option<Bytes>,
    pub with_code: bool,
}

/// The options of FUNCTION LIST.
pub fn function_list(args: &Args) -> Result<Listing, Reply> {
    let mut listing = Listing::default();
    let mut words = args[2..].iter();
    while let Some(word) = words.next() {
        if !listing.with_code && word.eq_ignore_ascii_case(b"withcode") {
            listing.with_code = true;
        } else if listing.pattern.is_none() && word.eq_ignore_ascii_case(b"libraryname") {
            let pattern = words.next().ok_or_else(|| Reply::error("ERR library name argument was not given"))?;
            listing.pattern = Some(pattern.clone());
        } else {
            return Err(error_line([b"ERR Unknown argument ", as_c(word, word.len())].concat()));
        }
    }
    Ok(listing)
}

const fn spec(
    name: &'static str,
    arity: i32,
    syntax: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Spec {
    Spec::local("scripting", name, arity, since, syntax, summary)
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
    let check = match kind {
        // Which function it is comes first, and only who runs it knows that.
        ScriptCommand::Fcall { .. } => anything,
        _ => check_call,
    };
    let base = spec(name, -3, syntax, summary, since);
    let keys = Keys::Counted { at: 2, step: 1 };
    script(Spec { keys, scope: Scope::OneSlot, complexity: "Depends on the script", ..base }, kind, check)
}

fn anything(_: &Args) -> Result<(), Reply> {
    Ok(())
}

/// The lines of SCRIPT HELP.
pub fn help() -> Reply {
    super::help::of_table("SCRIPT", SCRIPT)
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

const fn function(
    (name, arity): (&'static str, i32),
    kind: FunctionCommand,
    check: fn(&Args) -> Result<(), Reply>,
    syntax: &'static str,
    summary: &'static str,
) -> Command {
    let denyoom = matches!(kind, FunctionCommand::Load | FunctionCommand::Restore);
    let base = spec(name, arity, syntax, summary, "7.0.0");
    script(Spec { denyoom, ..base }, ScriptCommand::Function(kind), check)
}

static FUNCTION: &[Command] = &[
    function(
        ("delete", 3),
        FunctionCommand::Delete,
        anything,
        "FUNCTION DELETE library-name",
        "Deletes a library and its functions, on all nodes.",
    ),
    function(
        ("dump", 2),
        FunctionCommand::Dump,
        anything,
        "FUNCTION DUMP",
        "Gives all libraries in a form that FUNCTION RESTORE takes.",
    ),
    function(
        ("flush", -2),
        FunctionCommand::Flush,
        check_function_flush,
        "FUNCTION FLUSH [ASYNC | SYNC]",
        "Deletes all libraries, on all nodes.",
    ),
    function(("help", 2), FunctionCommand::Help, anything, "FUNCTION HELP", "The subcommands of FUNCTION."),
    function(
        ("kill", 2),
        FunctionCommand::Kill,
        anything,
        "FUNCTION KILL",
        "Stops functions that run, on all leaders; what they did is undone.",
    ),
    function(
        ("list", -2),
        FunctionCommand::List,
        |args| function_list(args).map(drop),
        "FUNCTION LIST [LIBRARYNAME library-name-pattern] [WITHCODE]",
        "The libraries and their functions.",
    ),
    function(
        ("load", -3),
        FunctionCommand::Load,
        |args| function_load(args).map(drop),
        "FUNCTION LOAD [REPLACE] function-code",
        "Makes a library known to all nodes; gives its name.",
    ),
    function(
        ("restore", -3),
        FunctionCommand::Restore,
        |args| restore_policy(args).map(drop),
        "FUNCTION RESTORE serialized-value [FLUSH | APPEND | REPLACE]",
        "Loads the libraries that FUNCTION DUMP gave.",
    ),
    function(
        ("stats", 2),
        FunctionCommand::Stats,
        anything,
        "FUNCTION STATS",
        "What runs now, and how many libraries and functions there are.",
    ),
];

/// The lines of FUNCTION HELP.
pub fn function_help() -> Reply {
    super::help::of_table("FUNCTION", FUNCTION)
}

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
    runs(
        "fcall",
        ScriptCommand::Fcall { read_only: false },
        "FCALL function numkeys [key [key ...]] [arg [arg ...]]",
        "Calls a function of a library.",
        "7.0.0",
    ),
    runs(
        "fcall_ro",
        ScriptCommand::Fcall { read_only: true },
        "FCALL_RO function numkeys [key [key ...]] [arg [arg ...]]",
        "Calls a function of a library that writes nothing.",
        "7.0.0",
    ),
    container(spec("function", -2, "FUNCTION", "Libraries of functions.", "7.0.0"), FUNCTION),
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
