//! What clients did and what they were told.

use hypercache::resp::Reply;
use std::cell::RefCell;
use std::rc::Rc;

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Ok(Reply),
    /// It certainly did not happen.
    Failed(String),
    /// It may have happened, or may still.
    Open(String),
    /// The server sent what it must never send here.
    Broken(String),
}

/// One operation. Times are nanoseconds of the simulation's true time, as the clients' machine sees it.
#[derive(Debug, Clone)]
pub struct Op {
    pub client: usize,
    pub node: usize,
    pub words: Vec<String>,
    pub from: u64,
    pub to: u64,
    pub outcome: Outcome,
    /// After everything was healed.
    pub last: bool,
}

/// Reply codes that mean *not applied* (docs/guarantees.md).
const NOT_APPLIED: &[&str] = &[
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "OOM",
    "THROTTLED",
    "LOADING",
    // One that waited has taken nothing; a transaction of which a command was refused ran none.
    "UNBLOCKED",
    "EXECABORT",
];
const READS: &[&str] = &["GET", "LRANGE", "PTTL", "HC.READ", READ_BOTH];

/// `WRITE-BOTH key value`: sets two keys of a slot in a transaction. Not a command: [`wire`] says what is sent.
pub const WRITE_BOTH: &str = "WRITE-BOTH";
/// `READ-BOTH key`: reads both in a transaction.
pub const READ_BOTH: &str = "READ-BOTH";

/// `WATCH-SWAP key value [old]`: watches the key, reads it, and sets it in a transaction. What was read is noted behind the words,
/// [`NOTHING`] if there was no such key.
pub const WATCH_SWAP: &str = "WATCH-SWAP";
pub const NOTHING: &str = "nothing";

/// What is sent for an operation. The reply to the last command is the one that counts.
pub fn wire(words: &[String]) -> Vec<Vec<String>> {
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let both = |key: &str| [format!("{{{key}}}a"), format!("{{{key}}}b")];
    let inside = match words[0].as_str() {
        WRITE_BOTH => both(&words[1]).map(|key| command(&["SET", &key, &words[2]])),
        READ_BOTH => both(&words[1]).map(|key| command(&["GET", &key])),
        WATCH_SWAP => return vec![command(&["MULTI"]), command(&["SET", &words[1], &words[2]]), command(&["EXEC"])],
        _ => return vec![words.to_vec()],
    };
    let [first, second] = inside;
    vec![command(&["MULTI"]), first, second, command(&["EXEC"])]
}

/// Longest word that is told in full: values that only fill memory are not.
const WORD_SHOWN: usize = 60;

impl Op {
    /// The command without the level that it was wrapped in.
    pub fn command(&self) -> &[String] {
        if self.words[0] == "HC.READ" { &self.words[2..] } else { &self.words }
    }

    pub fn name(&self) -> &str {
        &self.command()[0]
    }

    pub fn key(&self) -> &str {
        &self.command()[1]
    }

    /// When its effect is over: never, if that is not known.
    pub fn end(&self) -> Option<u64> {
        matches!(self.outcome, Outcome::Ok(_)).then_some(self.to)
    }

    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Ok(reply) => Some(reply),
            _ => None,
        }
    }

    pub fn text(&self) -> String {
        let ms = |ns: u64| ns as f64 / 1e6;
        let outcome = match &self.outcome {
            Outcome::Ok(reply) => shown(reply),
            Outcome::Failed(why) => format!("FAILED {why}"),
            Outcome::Open(why) => format!("UNKNOWN {why}"),
            Outcome::Broken(why) => format!("BROKEN {why}"),
        };
        format!(
            "{:.3}..{:.3} c{} n{} {} -> {outcome}",
            ms(self.from),
            ms(self.to),
            self.client,
            self.node,
            self.words.iter().map(|word| brief(word)).collect::<Vec<_>>().join(" ")
        )
    }
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(WORD_SHOWN) {
        Some((at, _)) => format!("{}...({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Error(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Bulk(bytes) | Reply::Status(bytes) => brief(&String::from_utf8_lossy(bytes)),
        Reply::Int(n) => n.to_string(),
        Reply::Nil | Reply::NilArray => "(nil)".to_owned(),
        Reply::Array(all) => format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}

/// Judges what came back for a command.
pub fn judge(words: &[String], answer: std::io::Result<Reply>) -> Outcome {
    let read = READS.contains(&words[0].as_str());
    let unknown = |why: String| if read { Outcome::Failed(why) } else { Outcome::Open(why) };
    match answer {
        Ok(Reply::Error(text)) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            match text.split(' ').next().unwrap_or_default() {
                code if NOT_APPLIED.contains(&code) => Outcome::Failed(text),
                "UNCERTAIN" => unknown(text),
                _ => Outcome::Broken(text),
            }
        }
        Ok(Reply::Array(all)) if all.iter().any(|reply| matches!(reply, Reply::Error(_))) => {
            Outcome::Broken(format!("a part of it failed: {}", shown(&Reply::Array(all))))
        }
        Ok(reply) => Outcome::Ok(reply),
        Err(e) => unknown(format!("connection: {}", e.kind())),
    }
}

/// All operations of a run, in the order of their ends.
pub type History = Rc<RefCell<Vec<Op>>>;
