//! Transcripts: commands with the replies they must get, as data. See `tests/commands/README.md` for the format.
//!
//! What runs a transcript is a function from a request to a reply, so the same file serves the bare keyspace, a
//! node, a cluster and a real Redis.

// Each test uses what it needs of it.
#![allow(dead_code)]

use super::notation::show;
use hypercache::resp::{Args, Reply, split_words};
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
        compared: Compared,
    },
    /// Milliseconds that pass; only a runner that owns the clock can do it.
    Pass(u64),
}

/// How the reply is compared with the lines below the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    Exactly,
    /// Its elements, in any order.
    AnyOrder,
    /// Not at all, since it tells of times, ports and names that are others each time: it must be no error, and of the shape
    /// that is declared.
    ShapeOnly,
}

/// The door of a node that a story is told at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// What a Redis by itself answers like.
    Proxy,
    /// What a Redis in cluster mode answers like.
    Cluster,
}

/// A file.
pub struct Transcript {
    pub path: PathBuf,
    /// The oldest Redis that answers like this; `None`: none does.
    pub redis: Option<(u32, u32)>,
    /// A module that this Redis must have loaded.
    pub module: Option<String>,
    pub face: Face,
    pub steps: Vec<Step>,
}

/// What the bare keyspace can be told.
pub const OF_KEYS: &str = "tests/commands";

/// What needs a node: connections, users, scripts, channels, the node itself.
pub const OF_DOORS: &str = "tests/commands/doors";

/// The transcripts of all commands.
pub fn all() -> impl Iterator<Item = Transcript> {
    [OF_KEYS, OF_DOORS].into_iter().flat_map(within)
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
    let mut transcript =
        Transcript { path: path.into(), redis: Some((6, 0)), module: None, face: Face::Proxy, steps: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        take_line(&mut transcript, at + 1, line)
            .unwrap_or_else(|| panic!("{}:{}: cannot read {line:?}", path.display(), at + 1));
    }
    transcript
}

fn take_line(transcript: &mut Transcript, line: usize, text: &str) -> Option<()> {
    let command = |words: &str, compared| {
        let args = split_words(words.as_bytes()).filter(|args| !args.is_empty())?;
        Some(Step { line, action: Action::Command { args, compared }, expected: Vec::new() })
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
            ["face", "cluster"] => transcript.face = Face::Cluster,
            _ => return None,
        }
    } else if text.trim().is_empty() || text.starts_with('#') {
        // For the reader.
    } else if let Some(words) = text.strip_prefix(">~ ") {
        transcript.steps.push(command(words, Compared::AnyOrder)?);
    } else if let Some(words) = text.strip_prefix(">? ") {
        transcript.steps.push(command(words, Compared::ShapeOnly)?);
    } else if let Some(words) = text.strip_prefix("> ") {
        transcript.steps.push(command(words, Compared::Exactly)?);
    } else if let Some(ms) = text.strip_prefix("@pass ") {
        let action = Action::Pass(ms.trim().parse().ok()?);
        transcript.steps.push(Step { line, action, expected: Vec::new() });
    } else {
        let step = transcript.steps.last_mut()?;
        matches!(&step.action, Action::Command { compared, .. } if *compared != Compared::ShapeOnly).then_some(())?;
        step.expected.push(text.to_string());
    }
    Some(())
}

impl Transcript {
    /// Runs every step; gives the differences, empty if there are none.
    pub fn run(&self, mut answer: impl FnMut(&Args) -> Reply, mut pass: impl FnMut(u64)) -> String {
        let mut differences = String::new();
        for step in &self.steps {
            match &step.action {
                Action::Pass(ms) => pass(*ms),
                Action::Command { args, compared } => {
                    let reply = answer(args);
                    if let Some((expected, got)) = difference(reply, *compared, &step.expected) {
                        let place = format!("{}:{}", self.path.display(), step.line);
                        writeln!(differences, "{place}: {args:?}\n  expected {expected:?}\n  got      {got:?}")
                            .expect("a string takes what is written");
                    }
                }
            }
        }
        differences
    }
}

/// What should have been answered and what was, if that is not the same.
fn difference(mut reply: Reply, compared: Compared, expected: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    match compared {
        Compared::ShapeOnly if reply.is_error() => return Some((vec!["no error".into()], show(&reply))),
        Compared::ShapeOnly => return None,
        Compared::AnyOrder => {
            if let Reply::Array(items) | Reply::Set(items) = &mut reply {
                items.sort_by_key(|item| show(item).join("\n"));
            }
        }
        Compared::Exactly => {}
    }
    let got = show(&reply);
    (got != expected).then(|| (expected.to_vec(), got))
}
