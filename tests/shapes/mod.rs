//! What replies are made of, by command and protocol, as `tests/commands/shapes` declares it. Errors are no part of it: any
//! command may be refused.
//!
//! ```text
//! int bulk status double bool verbatim nil nil-array    one of them; nil-array is what RESP2 says for a missing array
//! [a|b]     an array of these, in any number           ~[a]     a set           >[a]     what is pushed
//! {a:b}     a map                                       any      whatever it is
//! ```

// Each test uses what it needs of it.
#![allow(dead_code)]

use hypercache::commands;
use hypercache::resp::{Args, Protocol, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// Kinds of replies that may stand in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    words: BTreeSet<String>,
    array: Option<Box<Shape>>,
    set: Option<Box<Shape>>,
    push: Option<Box<Shape>>,
    map: Option<Box<(Shape, Shape)>>,
}

const ANY: &str = "any";

impl Shape {
    pub fn of(reply: &Reply) -> Shape {
        let mut shape = Shape::default();
        let all = |items: &[Reply]| {
            let mut all = Shape::default();
            items.iter().for_each(|item| all.add(Shape::of(item)));
            Some(Box::new(all))
        };
        let word = match reply {
            Reply::Status(_) => "status",
            Reply::Error(_) => "error",
            Reply::Int(_) => "int",
            Reply::Bulk(_) => "bulk",
            Reply::Nil => "nil",
            Reply::NilArray => "nil-array",
            Reply::Bool(_) => "bool",
            Reply::Double(_) => "double",
            Reply::BigNumber(_) => "big-number",
            Reply::Verbatim { .. } => "verbatim",
            Reply::Array(items) => {
                shape.array = all(items);
                return shape;
            }
            Reply::Set(items) => {
                shape.set = all(items);
                return shape;
            }
            Reply::Push(items) => {
                shape.push = all(items);
                return shape;
            }
            Reply::Map(pairs) => {
                let mut map = (Shape::default(), Shape::default());
                for (key, value) in pairs {
                    map.0.add(Shape::of(key));
                    map.1.add(Shape::of(value));
                }
                shape.map = Some(Box::new(map));
                return shape;
            }
            other => unreachable!("no wire tells of {other:?}"),
        };
        shape.words.insert(word.into());
        shape
    }

    pub fn add(&mut self, other: Shape) {
        self.words.extend(other.words);
        for (mine, other) in [(&mut self.array, other.array), (&mut self.set, other.set), (&mut self.push, other.push)]
        {
            if let Some(other) = other {
                mine.get_or_insert_default().add(*other);
            }
        }
        if let Some(other) = other.map {
            let mine = self.map.get_or_insert_default();
            mine.0.add(other.0);
            mine.1.add(other.1);
        }
    }

    /// Whether everything that may be this may be the other.
    pub fn is_within(&self, other: &Shape) -> bool {
        let within = |mine: &Option<Box<Shape>>, other: &Option<Box<Shape>>| match (mine, other) {
            (Some(mine), Some(other)) => mine.is_within(other),
            (mine, _) => mine.is_none(),
        };
        other.words.contains(ANY)
            || self.words.is_subset(&other.words)
                && within(&self.array, &other.array)
                && within(&self.set, &other.set)
                && within(&self.push, &other.push)
                && match (&self.map, &other.map) {
                    (Some(mine), Some(other)) => mine.0.is_within(&other.0) && mine.1.is_within(&other.1),
                    (mine, _) => mine.is_none(),
                }
    }

    fn parse(text: &mut Peekable<Chars<'_>>) -> Option<Shape> {
        let mut shape = Shape::default();
        let inside = |text: &mut Peekable<Chars<'_>>, close: char| {
            let inside = if text.peek() == Some(&close) { Shape::default() } else { Shape::parse(text)? };
            (text.next()? == close).then_some(inside)
        };
        loop {
            match text.peek()? {
                '[' => {
                    text.next();
                    shape.array = Some(Box::new(inside(text, ']')?));
                }
                '~' | '>' => {
                    let kind = text.next();
                    (text.next()? == '[').then_some(())?;
                    let items = Some(Box::new(inside(text, ']')?));
                    *(if kind == Some('~') { &mut shape.set } else { &mut shape.push }) = items;
                }
                '{' => {
                    text.next();
                    shape.map = Some(Box::new((inside(text, ':')?, inside(text, '}')?)));
                }
                _ => {
                    let mut word = String::new();
                    while let Some(letter) = text.next_if(|letter| letter.is_ascii_lowercase() || *letter == '-') {
                        word.push(letter);
                    }
                    (!word.is_empty()).then_some(())?;
                    shape.words.insert(word);
                }
            }
            if text.next_if_eq(&'|').is_none() {
                return Some(shape);
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words.iter().cloned();
        let array = self.array.iter().map(|items| format!("[{items}]"));
        let set = self.set.iter().map(|items| format!("~[{items}]"));
        let push = self.push.iter().map(|items| format!(">[{items}]"));
        let map = self.map.iter().map(|map| format!("{{{}:{}}}", map.0, map.1));
        f.write_str(&words.chain(array).chain(set).chain(push).chain(map).collect::<Vec<_>>().join("|"))
    }
}

/// In RESP2 and in RESP3.
pub type Shapes = BTreeMap<String, [Shape; 2]>;

/// What `tests/commands/shapes` declares: a command, its shape in RESP2, and its shape in RESP3 if that is another.
pub fn declared() -> Shapes {
    let mut shapes = Shapes::new();
    for line in include_str!("../commands/shapes").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let shape = |word: &str| {
            let mut text = word.chars().peekable();
            Shape::parse(&mut text).filter(|_| text.peek().is_none()).unwrap_or_else(|| panic!("{line}: {word}?"))
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, both) = match words[..] {
            [name, both] => (name, [shape(both), shape(both)]),
            [name, resp2, resp3] => (name, [shape(resp2), shape(resp3)]),
            _ => panic!("no shape: {line}"),
        };
        assert!(shapes.insert(name.into(), both).is_none(), "{name} is declared twice");
    }
    shapes
}

/// A line of the declaration.
pub fn line(name: &str, [resp2, resp3]: &[Shape; 2]) -> String {
    if resp2 == resp3 { format!("{name} {resp2}") } else { format!("{name} {resp2} {resp3}") }
}

/// A request, its reply as a client reads it, and the protocol that this came in.
pub type Heard = (Args, Reply, Protocol);

/// The shapes of all replies that are no errors, by command.
pub fn of_all(heard: impl IntoIterator<Item = Heard>) -> Shapes {
    let names: BTreeMap<_, _> = commands::all().map(|(name, command)| (std::ptr::from_ref(command), name)).collect();
    let mut shapes = Shapes::new();
    for (args, reply, protocol) in heard {
        if let Ok(command) = commands::lookup(&args)
            && !reply.is_error()
            && reply != Reply::status("QUEUED")
        {
            let both = shapes.entry(names[&std::ptr::from_ref(command)].clone()).or_default();
            both[usize::from(protocol == Protocol::Resp3)].add(Shape::of(&reply));
        }
    }
    shapes
}

/// Fails if a reply is not as declared, in the words of the declaration. Gives the shapes that were found.
pub fn hold(heard: impl IntoIterator<Item = Heard>) -> Shapes {
    let (found, declared) = (of_all(heard), declared());
    let is_not = |(name, both): &(&String, &[Shape; 2])| {
        declared.get(*name).is_none_or(|declared| !both.iter().zip(declared).all(|(one, other)| one.is_within(other)))
    };
    let wrong: String = found.iter().filter(is_not).map(|(name, both)| line(name, both) + "\n").collect();
    assert!(wrong.is_empty(), "these replies are not as tests/commands/shapes declares:\n{wrong}");
    found
}
