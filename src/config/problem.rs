//! What is wrong with a configuration: where it stands, what was expected, what to do.
//!
//! Problems are gathered, never thrown at the first: whoever mends a file wants to see all of them at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File {
        file: PathBuf,
        /// Counted from 1; 0 means the file as a whole.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// The variable's name.
    Environment(String),
    /// The flag as it was given.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { file, line: 0, .. } => write!(f, "{}", file.display()),
            Origin::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// What kind of problem; the number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    Unreadable = 1001,
    NotYaml = 1002,
    UnknownKey = 1003,
    BadValue = 1004,
    GivenTwice = 1005,
    Contradiction = 1006,
    NotBuilt = 1007,
    PortTaken = 1008,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub origin: Origin,
    pub code: Code,
    /// What is wrong, with the setting's name.
    pub message: String,
    /// What would mend it, if that can be said.
    pub remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[HC-{}] {}: {}", self.code as u16, self.origin, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  help: {remedy}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, in the order of its places. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// `Ok` if nothing is wrong.
    pub fn or<T>(mut found: Vec<Problem>, value: T) -> Result<T, Problems> {
        if found.is_empty() {
            return Ok(value);
        }
        found.sort();
        Err(Problems(found))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} problem{plural}", self.0.len())
    }
}

impl std::error::Error for Problems {}

/// How many letters may differ for a word to be taken for a mistyped one.
fn tolerance(word: &str) -> usize {
    (word.len() / 3).max(1)
}

/// The known word that was probably meant.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    known
        .map(|candidate| (distance(&lower, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance(word))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, remove, change, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_finds_its_neighbour_and_a_strange_one_does_not() {
        let known = ["resp_addr", "http_addr", "workers", "sync"];
        assert_eq!(nearest("rsep_addr", known.into_iter()), Some("resp_addr"));
        assert_eq!(nearest("Workers", known.into_iter()), Some("workers"));
        assert_eq!(nearest("snyc", known.into_iter()), Some("sync"));
        assert_eq!(nearest("colour", known.into_iter()), None);
    }
}
