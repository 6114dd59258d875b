//! `hypercachectl explain CODE`: what a code means and what to do. The list of codes is the document's own
//! (`docs/hypercachectl.md`), so the two never differ.

use super::Form;
use super::trouble::{Trouble, remedy_of};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../docs/hypercachectl.md");

/// A row of the document's table.
struct Explained {
    code: &'static str,
    meaning: &'static str,
    exit: &'static str,
}

fn codes() -> impl Iterator<Item = Explained> {
    DOCUMENT.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| HC-").map(|_| line.trim_matches('|').split('|').map(str::trim))?;
        Some(Explained { code: cells.next()?, meaning: cells.next()?, exit: cells.next()? })
    })
}

/// With or without `HC-`.
pub fn run(code: &str, form: Form) -> Result<String, Trouble> {
    let wanted = code.trim().to_ascii_uppercase();
    let is = |one: &Explained| one.code == wanted || one.code.strip_prefix("HC-") == Some(&wanted);
    let Explained { code, meaning, exit } = codes().find(is).ok_or_else(|| Trouble::no_such_code(code))?;
    let remedy = remedy_of(code);
    Ok(match form {
        Form::Json => format!("{}\n", json!({"code": code, "meaning": meaning, "exit": exit, "remedy": remedy})),
        Form::Table => {
            let remedy = remedy.map(|remedy| format!("  remedy: {remedy}\n")).unwrap_or_default();
            format!("{code}: {meaning} (exit code {exit})\n{remedy}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_document_is_explained_and_others_are_not() {
        let all: Vec<Explained> = codes().collect();
        assert!(all.len() > 30, "{}", all.len());
        for one in &all {
            let text = run(one.code, Form::Table).unwrap();
            assert!(text.starts_with(one.code) && one.exit.parse::<u8>().is_ok(), "{text}");
        }
        assert!(run("3115", Form::Table).unwrap().contains("remedy: add a node first"));
        assert_eq!(run("HC-9999", Form::Table).unwrap_err().code, "HC-3008");
    }

    /// What the program can say, the document has.
    #[test]
    fn no_code_of_the_program_is_missing_in_the_document() {
        let sources = [include_str!("trouble.rs"), include_str!("../proto.rs")];
        let known: Vec<&str> = codes().map(|one| one.code).collect();
        for code in sources.iter().flat_map(|text| text.match_indices("\"HC-").map(|(at, _)| &text[at + 1..at + 8])) {
            assert!(known.contains(&code), "{code} is not in docs/hypercachectl.md");
        }
    }
}
