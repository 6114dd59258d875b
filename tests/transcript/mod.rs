//! Transcripts: commands with the replies they must get, as data. See `tests/commands/README.md` for the format.
//!
//! What runs a transcript is a function from a request to a reply, so the same file serves the bare keyspace, a
//! node, a cluster and a real Redis.

use hypercache::resp::{Args, Reply, double, split_words};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One command and what it must answer.
pub struct Step {
    pub line: usize,
    pub action: Action,
    pub expected: Vec<String>,
}

pub enum Action {
    Command {
        args: Args,
        any_order: bool,
    },
    /// Milliseconds that pass; only a runner that owns the clock can do it.
    Pass(u64),
}

/// A file.
pub struct Transcript {
    pub path: PathBuf,
    /// The oldest Redis that answers like this; `None`: none does.
    pub redis: Option<(u32, u32)>,
    /// A module that this Redis must have loaded.
    pub module: Option<String>,
    pub steps: Vec<Step>,
}

/// All transcripts of commands, in the order of their names.
pub fn all() -> Vec<Transcript> {
    within("tests/commands")
}

/// The transcripts of a folder of the repository, in the order of their names.
pub fn within(folder: &str) -> Vec<Transcript> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder is part of the repository")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    paths.sort();
    paths.iter().map(|path| parse(path)).collect()
}

fn parse(path: &Path) -> Transcript {
    let text = std::fs::read_to_string(path).expect("a transcript is readable");
    let mut transcript = Transcript { path: path.into(), redis: Some((6, 0)), module: None, steps: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        take_line(&mut transcript, at + 1, line)
            .unwrap_or_else(|| panic!("{}:{}: cannot read {line:?}", path.display(), at + 1));
    }
    transcript
}

fn take_line(transcript: &mut Transcript, line: usize, text: &str) -> Option<()> {
    let command = |words: &str, any_order| {
        let args = split_words(words.as_bytes()).filter(|args| !args.is_empty())?;
        Some(Step { line, action: Action::Command { args, any_order }, expected: Vec::new() })
    };
    if let Some(head) = text.strip_prefix("#!") {
        let words: Vec<&str> = head.split_whitespace().collect();
        match words[..] {
            ["no", "redis"] => transcript.redis = None,
            ["redis", version] => {
                let (major, minor) = version.split_once('.')?;
                transcript.redis = Some((major.parse().ok()?, minor.parse().ok()?));
            }
            ["module", name] => transcript.module = Some(name.into()),
            _ => return None,
        }
    } else if text.trim().is_empty() || text.starts_with('#') {
        // For the reader.
    } else if let Some(words) = text.strip_prefix(">~ ") {
        transcript.steps.push(command(words, true)?);
    } else if let Some(words) = text.strip_prefix("> ") {
        transcript.steps.push(command(words, false)?);
    } else if let Some(ms) = text.strip_prefix("@pass ") {
        let action = Action::Pass(ms.trim().parse().ok()?);
        transcript.steps.push(Step { line, action, expected: Vec::new() });
    } else {
        transcript.steps.last_mut()?.expected.push(text.to_string());
    }
    Some(())
}

impl Transcript {
    /// Runs every step; gives the differences, empty if there are none.
    pub fn run(&self, mut answer: impl FnMut(&Args) -> Reply, mut pass: impl FnMut(u64)) -> String {
        let mut differences = String::new();
        for step in &self.steps {
            let (args, any_order) = match &step.action {
                Action::Pass(ms) => {
                    pass(*ms);
                    continue;
                }
                Action::Command { args, any_order } => (args, *any_order),
            };
            let mut reply = answer(args);
            if any_order && let Reply::Array(items) | Reply::Set(items) = &mut reply {
                items.sort_by_key(|item| show(item).join("\n"));
            }
            let got = show(&reply);
            if got != step.expected {
                let place = format!("{}:{}", self.path.display(), step.line);
                writeln!(differences, "{place}: {args:?}\n  expected {:?}\n  got      {got:?}", step.expected)
                    .expect("a string takes what is written");
            }
        }
        differences
    }
}

/// A reply in redis-cli's notation.
pub fn show(reply: &Reply) -> Vec<String> {
    let one = |text: String| vec![text];
    match reply {
        Reply::Status(text) => one(String::from_utf8_lossy(text).into_owned()),
        Reply::Error(text) => one(format!("(error) {}", String::from_utf8_lossy(text))),
        Reply::Int(value) => one(format!("(integer) {value}")),
        Reply::Bulk(bytes) | Reply::Verbatim { text: bytes, .. } => one(quoted(bytes)),
        Reply::Nil | Reply::NilArray => one("(nil)".into()),
        // As RESP2 says it, which is what transcripts are told in.
        Reply::Bool(value) => one(format!("(integer) {}", u8::from(*value))),
        Reply::Double(value) => one(quoted(double(*value).as_bytes())),
        Reply::BigNumber(digits) => one(String::from_utf8_lossy(digits).into_owned()),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => listed(items.iter().map(show).collect()),
        Reply::PairMap(pairs) => {
            listed(pairs.iter().map(|(key, value)| listed(vec![show(key), show(value)])).collect())
        }
        Reply::Map(pairs) | Reply::Pairs(pairs) => {
            listed(pairs.iter().flat_map(|(key, value)| [show(key), show(value)]).collect())
        }
        Reply::Nothing => Vec::new(),
        Reply::Several(replies) => replies.iter().flat_map(show).collect(),
    }
}

fn listed(items: Vec<Vec<String>>) -> Vec<String> {
    if items.is_empty() {
        return vec!["(empty array)".into()];
    }
    let numbered = |(at, lines): (usize, Vec<String>)| {
        let number = format!("{}) ", at + 1);
        let indent = " ".repeat(number.len());
        let prefixed = move |(at, line)| format!("{}{line}", if at == 0 { &number } else { &indent });
        lines.into_iter().enumerate().map(prefixed).collect::<Vec<_>>()
    };
    items.into_iter().enumerate().flat_map(numbered).collect()
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x20..0x7f => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}
