//! SLOWLOG, and COMMANDLOG as Valkey 8.1 has it: the last commands that took long, were large, or had a large reply.

use super::connection::integer;
use super::help::{help, of_table};
use super::node::{CommandLog, Node, SlowEntry};
use super::server::{bulk, spec};
use super::session::Session;
use super::syntax::is;
use super::{Command, NodeCommand, Spec, node};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// How many entries SLOWLOG GET answers without a number.
const GET_DEFAULT: usize = 10;

/// How many entries to answer with; -1: all.
fn count(arg: &Bytes) -> Result<usize, Reply> {
    match integer::<i64>(arg) {
        Ok(-1) => Ok(usize::MAX),
        Ok(n) if n >= 0 => Ok(n as usize),
        _ => Err(Reply::error("ERR count should be greater than or equal to -1")),
    }
}

/// The log that a word names.
fn log(word: &Bytes) -> Result<CommandLog, Reply> {
    match () {
        () if is(word, "slow") => Ok(CommandLog::Slow),
        () if is(word, "large-request") => Ok(CommandLog::LargeRequest),
        () if is(word, "large-reply") => Ok(CommandLog::LargeReply),
        () => Err(Reply::error("ERR type should be one of the following: slow, large-request, large-reply")),
    }
}

fn entries(node: &dyn Node, log: CommandLog, max: usize) -> Reply {
    let row = |entry: SlowEntry| {
        Reply::Array(vec![
            Reply::Int(entry.id as i64),
            Reply::Int(entry.unix_s as i64),
            Reply::Int(entry.measure as i64),
            Reply::Array(entry.args.into_iter().map(Reply::Bulk).collect()),
            bulk(entry.peer),
            bulk(entry.client_name),
        ])
    };
    Reply::Array(node.command_log(log, max).into_iter().map(row).collect())
}

// -- SLOWLOG

struct SlowGet(usize);

impl NodeCommand for SlowGet {
    const SPEC: Spec = spec("get", -2, "2.2.12", "SLOWLOG GET [count]", "The newest slow commands.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        match args.get(2) {
            Some(_) if args.len() > 3 => Err(super::wrong_arity("slowlog|get")),
            Some(arg) => count(arg).map(SlowGet),
            None => Ok(SlowGet(GET_DEFAULT)),
        }
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        entries(node, CommandLog::Slow, self.0)
    }
}

struct SlowLen;

impl NodeCommand for SlowLen {
    const SPEC: Spec = spec("len", 2, "2.2.12", "SLOWLOG LEN", "How many slow commands are kept.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(SlowLen)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::count(node.command_log_len(CommandLog::Slow))
    }
}

struct SlowReset;

impl NodeCommand for SlowReset {
    const SPEC: Spec = spec("reset", 2, "2.2.12", "SLOWLOG RESET", "Forgets the slow commands.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(SlowReset)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.command_log_reset(CommandLog::Slow);
        Reply::OK
    }
}

// -- COMMANDLOG

struct LogGet {
    max: usize,
    log: CommandLog,
}

impl NodeCommand for LogGet {
    const SPEC: Spec = spec(
        "get",
        4,
        "valkey-8.1.0",
        "COMMANDLOG GET count <SLOW | LARGE-REQUEST | LARGE-REPLY>",
        "The newest commands of a log: what took long, or was or was answered with many bytes.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(LogGet { max: count(&args[2])?, log: log(&args[3])? })
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        entries(node, self.log, self.max)
    }
}

struct LogLen(CommandLog);

impl NodeCommand for LogLen {
    const SPEC: Spec = spec(
        "len",
        3,
        "valkey-8.1.0",
        "COMMANDLOG LEN <SLOW | LARGE-REQUEST | LARGE-REPLY>",
        "How many commands a log keeps.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        log(&args[2]).map(LogLen)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::count(node.command_log_len(self.0))
    }
}

struct LogReset(CommandLog);

impl NodeCommand for LogReset {
    const SPEC: Spec = spec(
        "reset",
        3,
        "valkey-8.1.0",
        "COMMANDLOG RESET <SLOW | LARGE-REQUEST | LARGE-REPLY>",
        "Forgets the commands of a log.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        log(&args[2]).map(LogReset)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        node.command_log_reset(self.0);
        Reply::OK
    }
}

pub(super) static SLOWLOG: &[Command] = &[
    node::<SlowGet>(),
    help(spec("help", 2, "6.2.0", "SLOWLOG HELP", "The subcommands of SLOWLOG."), |_, _| of_table("SLOWLOG", SLOWLOG)),
    node::<SlowLen>(),
    node::<SlowReset>(),
];

pub(super) static COMMANDLOG: &[Command] = &[
    node::<LogGet>(),
    help(spec("help", 2, "valkey-8.1.0", "COMMANDLOG HELP", "The subcommands of COMMANDLOG."), |_, _| {
        of_table("COMMANDLOG", COMMANDLOG)
    }),
    node::<LogLen>(),
    node::<LogReset>(),
];
