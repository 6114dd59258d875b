//! A YAML file as a flat list of settings, each with its line and column.
//!
//! It works on the parser's events instead of through serde, because a deserializer stops at the first mistake and has
//! already turned `0123` into a number. It knows no setting: what is unknown is found by the caller. Anchors, tags and
//! merge keys are refused, so that what a file says can be read off one line.

use super::problem::{Code, Origin, Problem};
use super::values::Raw;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use std::path::Path;

/// One `section.key: value` of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// `section.key`, or only a section's name if something other than settings stands there.
    pub path: String,
    pub raw: Raw,
    /// Where the value stands.
    pub origin: Origin,
    /// Where the name stands.
    pub named_at: Origin,
}

/// The largest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// How deep a value may nest before reading gives up.
const NESTING_MAX: usize = 32;

/// Reads a file's text. What can be understood is returned even if something else is wrong.
pub fn read(file: &Path, text: &str) -> (Vec<Assignment>, Vec<Problem>) {
    let mut reader = Reader { events: Parser::new_from_str(text), file, found: Vec::new(), problems: Vec::new() };
    reader.document();
    (reader.found, reader.problems)
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    file: &'a Path,
    found: Vec<Assignment>,
    problems: Vec<Problem>,
}

/// A value as it stands in the file.
enum Node {
    Scalar(String),
    /// `key:` with nothing after it.
    Nothing,
    List(Vec<String>),
    /// A mapping, or a list with something other than plain values in it.
    Nested(&'static str),
}

/// Reading cannot go on; the problem has been noted.
struct Stop;

impl<'a> Reader<'a> {
    fn document(&mut self) {
        // `Stop` has left its problem; what was found before it stays.
        let _ = self.sections();
    }

    fn sections(&mut self) -> Result<(), Stop> {
        let mut before = false;
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (Event::MappingStart(..), _) if !before => {
                    before = true;
                    self.top()?;
                }
                (Event::Scalar(text, ScalarStyle::Plain, ..), _) if text.is_empty() || text == "~" => {}
                (_, span) => {
                    let sections = "expected sections such as \"server:\" with settings below them, once".to_owned();
                    return self.stop(span, Code::NotYaml, sections);
                }
            }
        }
    }

    /// The mapping of sections.
    fn top(&mut self) -> Result<(), Stop> {
        let mut seen: Vec<String> = Vec::new();
        while let Some((section, at)) = self.key()? {
            if seen.contains(&section) {
                self.note(at, Code::GivenTwice, format!("section {section} is given twice"));
            }
            match self.next()? {
                (Event::MappingStart(..), _) => self.section(&section)?,
                (event, span) => match self.node(event, span, 0)? {
                    Node::Nothing => {}
                    _ => self.assign(section.clone(), Raw::Text(String::new()), at, at),
                },
            }
            seen.push(section);
        }
        Ok(())
    }

    /// The settings of one section.
    fn section(&mut self, section: &str) -> Result<(), Stop> {
        while let Some((key, at)) = self.key()? {
            let path = format!("{section}.{key}");
            if self.found.iter().any(|earlier| earlier.path == path) {
                self.note(at, Code::GivenTwice, format!("{path} is given twice"));
            }
            let (event, span) = self.next()?;
            match self.node(event, span, 0)? {
                Node::Scalar(text) => self.assign(path, Raw::Text(text), at, span),
                Node::List(items) => self.assign(path, Raw::List(items), at, span),
                Node::Nothing => {
                    self.note(at, Code::BadValue, format!("{path} has no value; leave the line out for the default"))
                }
                Node::Nested(what) => self.note(
                    span,
                    Code::BadValue,
                    format!("{path}: expected a value or a list of values, found {what}"),
                ),
            }
        }
        Ok(())
    }

    /// The next key of a mapping, or none at its end.
    fn key(&mut self) -> Result<Option<(String, Span)>, Stop> {
        match self.next()? {
            (Event::MappingEnd, _) => Ok(None),
            (Event::Scalar(key, ..), span) => Ok(Some((key.into_owned(), span))),
            (_, span) => self.stop(span, Code::NotYaml, "expected the name of a setting".to_owned()),
        }
    }

    /// Reads the value that begins with `event`.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        if depth > NESTING_MAX {
            return self.stop(span, Code::NotYaml, "nested too deeply".to_owned());
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    self.note(
                        span,
                        Code::NotYaml,
                        "anchors and tags are not understood; write the value out".to_owned(),
                    );
                }
                let nothing = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                Ok(if nothing { Node::Nothing } else { Node::Scalar(text.into_owned()) })
            }
            Event::SequenceStart(..) => self.list(depth),
            Event::MappingStart(..) => loop {
                match self.next()? {
                    (Event::MappingEnd, _) => return Ok(Node::Nested("a mapping")),
                    (inner, at) => self.node(inner, at, depth + 1)?,
                };
            },
            Event::Alias(_) => {
                self.stop(span, Code::NotYaml, "aliases are not understood; write the value out".to_owned())
            }
            _ => self.stop(span, Code::NotYaml, "expected a value".to_owned()),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Node, Stop> {
        let mut items = Vec::new();
        let mut flat = true;
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(if flat { Node::List(items) } else { Node::Nested("a list of something else") });
            }
            match self.node(event, span, depth + 1)? {
                Node::Scalar(text) => items.push(text),
                _ => flat = false,
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => {
                    let at = Span::empty(*error.marker());
                    return self.stop(at, Code::NotYaml, format!("not YAML: {}", error.info()));
                }
                None => return Err(Stop),
            }
        }
    }

    fn at(&self, span: Span) -> Origin {
        Origin::File { file: self.file.to_owned(), line: span.start.line(), column: span.start.col() + 1 }
    }

    fn assign(&mut self, path: String, raw: Raw, name: Span, value: Span) {
        let (origin, named_at) = (self.at(value), self.at(name));
        self.found.push(Assignment { path, raw, origin, named_at });
    }

    fn note(&mut self, span: Span, code: Code, message: String) {
        self.problems.push(Problem { origin: self.at(span), code, message, remedy: None });
    }

    fn stop<T>(&mut self, span: Span, code: Code, message: String) -> Result<T, Stop> {
        self.note(span, code, message);
        Err(Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<(String, Raw, String)>, Vec<String>) {
        let (found, problems) = read(Path::new("x.yaml"), text);
        let found = found.into_iter().map(|a| (a.path, a.raw, a.origin.to_string())).collect();
        (found, problems.into_iter().map(|p| format!("{} {}", p.origin, p.message)).collect())
    }

    #[test]
    fn values_keep_their_text_and_their_place() {
        let (found, problems) =
            parse("# head\nsecurity:\n  requirepass: 0123\ncluster: {seeds: [a:1, \"b:2\"]}\nnode:\n");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(
            found,
            [
                ("security.requirepass".to_owned(), Raw::Text("0123".to_owned()), "x.yaml:3:16".to_owned()),
                (
                    "cluster.seeds".to_owned(),
                    Raw::List(vec!["a:1".to_owned(), "b:2".to_owned()]),
                    "x.yaml:4:18".to_owned()
                ),
            ]
        );
    }

    #[test]
    fn what_stands_before_broken_yaml_is_still_read() {
        let (found, problems) = parse("node:\n  id: a\nserver:\n  workers: [1\n");
        assert_eq!(found.len(), 1);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("x.yaml:4:12 not YAML"), "{problems:?}");
    }

    #[test]
    fn odd_shapes_are_problems_and_not_panics() {
        for (text, expected) in [
            ("just text", "x.yaml:1:1 expected sections"),
            ("- a\n- b\n", "x.yaml:1:1 expected sections"),
            ("node:\n  id: a\n  id: b\n", "x.yaml:3:3 node.id is given twice"),
            ("node:\n  id:\n", "x.yaml:2:3 node.id has no value"),
            ("node:\n  id: {a: {b: c}}\n", "x.yaml:2:7 node.id: expected a value or a list of values, found a mapping"),
            ("node: &x\n  id: &y a\n", "x.yaml:2:10 anchors and tags"),
            ("node:\n  id: a\n---\nnode:\n  id: b\n", "x.yaml:4:1 expected sections"),
        ] {
            let (_, problems) = parse(text);
            assert!(problems.iter().any(|p| p.starts_with(expected)), "{text:?}: {problems:?}");
        }
        assert_eq!(parse(""), (Vec::new(), Vec::new()));
        let deep = format!("node:\n  id: {}", "[".repeat(100));
        assert_eq!(parse(&deep).1.len(), 1);
    }
}
