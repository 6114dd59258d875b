//! How an operation ended, decided once and for every workload.
//!
//! A write that was refused with a reply that promises *not applied* failed; a read that brought no value failed,
//! whatever the reason, because it changed nothing. Every other end of a write is open: it may have happened, may happen
//! later, or never. `Open` is never narrowed by guessing.

use crate::resp::Reply;
use std::io::{self, ErrorKind};

/// The end of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The reply says what happened.
    Ok(Reply),
    /// It certainly did not happen. Jepsen's `fail`.
    Failed(String),
    /// Nobody knows. Jepsen's `info`.
    Open(String),
    /// The server sent what it must never send. Counts as open, and fails the run.
    Broken(String),
}

/// Reply codes that mean *not applied* (docs/guarantees.md).
const NOT_APPLIED: &[&str] =
    &["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "OOM", "THROTTLED", "LOADING", "EXECABORT", "UNBLOCKED"];
const UNKNOWN: &str = "UNCERTAIN";

/// The commands of the workloads that change nothing.
const READS: &[&str] = &["GET", "MGET", "STRLEN", "EXISTS", "PTTL", "LRANGE", "SMEMBERS", "WATCH", "HC.READ", "INFO"];

pub fn is_read<W: AsRef<str>>(words: &[W]) -> bool {
    words.first().is_some_and(|name| READS.contains(&name.as_ref()))
}

/// Judges what came back for a command that was sent.
pub fn judge<W: AsRef<str>>(words: &[W], answer: io::Result<Reply>) -> Outcome {
    let unknown = |why: String| if is_read(words) { Outcome::Failed(why) } else { Outcome::Open(why) };
    match answer {
        Ok(Reply::Error(text)) => match text.split(' ').next().unwrap_or_default() {
            code if NOT_APPLIED.contains(&code) => Outcome::Failed(text),
            UNKNOWN => unknown(text),
            // No workload sends what would be refused as wrong.
            _ => Outcome::Broken(text),
        },
        Ok(reply) => Outcome::Ok(reply),
        Err(e) if e.kind() == ErrorKind::InvalidData => Outcome::Broken(e.to_string()),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            unknown("no answer in time".into())
        }
        Err(e) => unknown(format!("connection: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_fails_only_where_the_server_promised_that_it_was_not_applied() {
        let set = ["SET", "k", "v"];
        let get = ["HC.READ", "lease", "GET", "k"];
        let error = |text: &str| Ok(Reply::Error(text.to_owned()));
        let cut = || Err(io::Error::from(ErrorKind::ConnectionReset));
        assert!(matches!(judge(&set, error("CLUSTERDOWN no leader in reach")), Outcome::Failed(_)));
        assert!(matches!(judge(&set, error("UNCERTAIN it may have been applied")), Outcome::Open(_)));
        assert!(matches!(judge(&set, cut()), Outcome::Open(_)));
        assert!(matches!(judge(&set, Err(io::Error::from(ErrorKind::WouldBlock))), Outcome::Open(_)));
        assert!(matches!(judge(&get, cut()), Outcome::Failed(_)));
        assert!(matches!(judge(&get, error("UNCERTAIN")), Outcome::Failed(_)));
        assert!(matches!(judge(&set, error("ERR syntax error")), Outcome::Broken(_)));
        assert_eq!(judge(&set, Ok(Reply::Text("OK".into()))), Outcome::Ok(Reply::Text("OK".into())));
    }
}
