//! Libraries of functions: what one says of itself, all that are loaded, and the form in which they are dumped.
//!
//! ```text
//! "#!lua name=lib\n ..."  --head-->  name   --an interpreter runs it-->  functions  --together-->  Library
//! dump    "HCFUNCTIONS" | version, 2 bytes | { length, 4 bytes | code } ... | xxh3 of all before, 8 bytes     (little-endian)
//! ```
//!
//! Names of libraries are told apart by case, those of functions are not. Invariant of [`Libraries`]: no two libraries have
//! a function of the same name, whatever its case.

use super::flags::Flags;
use crate::commands::glob;
use crate::commands::script::Listing;
use crate::resp::{Reply, split_words};
use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The only engine, as FUNCTION LIST calls it.
pub const ENGINE: &str = "LUA";
/// What the names of libraries and functions may not be.
pub(super) const BAD_NAME: &str =
    "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";

const MAGIC: &[u8] = b"HCFUNCTIONS";
const VERSION: u16 = 1;

/// A function as its library registered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    pub name: String,
    pub description: Option<Bytes>,
    pub flags: Flags,
}

/// A library that was loaded once without an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Library {
    pub name: String,
    /// SHA-1 of the code, in hexadecimal digits.
    pub sha: String,
    /// Its first line included.
    pub code: Bytes,
    /// In the order in which they were registered.
    pub functions: Vec<Function>,
}

/// Whether a library or a function may be called that.
pub(super) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn error(text: impl Into<String>) -> Reply {
    let text = text.into();
    Reply::error(text.replace(['\r', '\n'], " "))
}

/// The name of a library and the text behind its first line. The line's end stays, so that lines keep their numbers.
///
/// # Errors
/// What is wrong with its first line, in Redis' words.
pub fn head(code: &[u8]) -> Result<(String, &[u8]), Reply> {
    if !code.starts_with(b"#!") {
        return Err(error("ERR Missing library metadata"));
    }
    let invalid = || error("ERR Invalid library metadata");
    let end = code.iter().position(|byte| *byte == b'\n').ok_or_else(invalid)?;
    let (line, text) = code.split_at(end);
    let words = split_words(line).ok_or_else(invalid)?;
    let engine = words.first().and_then(|word| word.strip_prefix(b"#!")).unwrap_or_default();
    let mut name = None;
    for word in words.iter().skip(1) {
        match word.get(..5) {
            Some(field) if field.eq_ignore_ascii_case(b"name=") => {
                if name.replace(&word[5..]).is_some() {
                    return Err(error("ERR Invalid metadata value, name argument was given multiple times"));
                }
            }
            _ => {
                let word = String::from_utf8_lossy(word);
                return Err(error(format!("ERR Invalid metadata value given: {word}")));
            }
        }
    }
    let name = name.ok_or_else(|| error("ERR Library name was not given"))?;
    let name = std::str::from_utf8(name).ok().filter(|name| is_name(name.as_bytes()));
    let name = name.ok_or_else(|| Reply::error(BAD_NAME))?;
    if !engine.eq_ignore_ascii_case(ENGINE.as_bytes()) {
        return Err(error(format!("ERR Engine '{}' not found", String::from_utf8_lossy(engine))));
    }
    Ok((name.to_owned(), text))
}

/// All libraries at one moment.
#[derive(Debug, Clone, Default)]
pub struct Libraries {
    by_name: BTreeMap<String, Arc<Library>>,
    /// By lower-case name of the function: its library, and its place there.
    functions: BTreeMap<String, (Arc<Library>, usize)>,
}

impl Libraries {
    /// Of what was loaded before. Should two have a function of one name, which cannot be, the first has it.
    pub fn of(libraries: impl IntoIterator<Item = Library>) -> Libraries {
        let mut all = Libraries::default();
        libraries.into_iter().for_each(|library| all.put(Arc::new(library)));
        all
    }

    fn put(&mut self, library: Arc<Library>) {
        for (at, function) in library.functions.iter().enumerate() {
            let name = function.name.to_ascii_lowercase();
            self.functions.entry(name).or_insert_with(|| (library.clone(), at));
        }
        self.by_name.insert(library.name.clone(), library);
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Library>> {
        self.by_name.values()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Library>> {
        self.by_name.get(name)
    }

    /// How many functions there are.
    pub fn functions(&self) -> usize {
        self.functions.len()
    }

    /// A function by its name, whatever its case, and its library.
    pub fn function(&self, name: &[u8]) -> Option<(&Arc<Library>, &Function)> {
        let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
        let (library, at) = self.functions.get(&name)?;
        Some((library, library.functions.get(*at)?))
    }

    /// Whether these may come beside what is there, or in the place of those with their names if `replace`.
    ///
    /// # Errors
    /// Which of them, or of their functions, is there already. `quoted`: how FUNCTION LOAD says it.
    pub fn may_join(&self, fresh: &[Library], replace: bool, quoted: bool) -> Result<(), Reply> {
        let quote = if quoted { "'" } else { "" };
        if let Some(known) = fresh.iter().find(|library| !replace && self.by_name.contains_key(&library.name)) {
            return Err(error(format!("ERR Library {quote}{}{quote} already exists", known.name)));
        }
        let replaced = |library: &Arc<Library>| fresh.iter().any(|fresh| fresh.name == library.name);
        for function in fresh.iter().flat_map(|library| &library.functions) {
            if self.function(function.name.as_bytes()).is_some_and(|(library, _)| !replaced(library)) {
                return Err(error(format!("ERR Function {} already exists", function.name)));
            }
        }
        Ok(())
    }

    /// The reply to FUNCTION LIST.
    pub fn listed(&self, listing: &Listing) -> Reply {
        let pattern = listing.pattern.as_ref().map(|pattern| pattern.to_ascii_lowercase());
        let wanted = |library: &&Arc<Library>| {
            let name = library.name.to_ascii_lowercase();
            pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, name.as_bytes()))
        };
        Reply::Array(self.iter().filter(wanted).map(|library| library.listed(listing.with_code)).collect())
    }
}

impl Library {
    fn listed(&self, with_code: bool) -> Reply {
        let text = |text: &str| Reply::bulk(text.to_owned());
        let function = |function: &Function| {
            let flags = function.flags.names().map(Reply::status).collect();
            Reply::Map(vec![
                (text("name"), text(&function.name)),
                (text("description"), function.description.clone().map_or(Reply::Nil, Reply::Bulk)),
                (text("flags"), Reply::Set(flags)),
            ])
        };
        let mut fields = vec![
            (text("library_name"), text(&self.name)),
            (text("engine"), text(ENGINE)),
            (text("functions"), Reply::Array(self.functions.iter().map(function).collect())),
        ];
        if with_code {
            fields.push((text("library_code"), Reply::Bulk(self.code.clone())));
        }
        Reply::Map(fields)
    }
}

/// The code of libraries as FUNCTION DUMP gives it.
pub fn seal<'a>(libraries: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let mut out = MAGIC.to_vec();
    out.put_u16_le(VERSION);
    for code in libraries {
        out.put_u32_le(u32::try_from(code.len()).expect("a library came in one argument, which is shorter than that"));
        out.put_slice(code);
    }
    let sum = xxh3_64(&out);
    out.put_u64_le(sum);
    out.into()
}

/// What [`seal`] wrote; none if it is something else.
pub fn unseal(dump: &Bytes) -> Option<Vec<Bytes>> {
    let (body, sum) = dump.split_last_chunk::<8>()?;
    let rest = body.strip_prefix(MAGIC)?;
    let (version, _) = rest.split_first_chunk::<2>()?;
    if xxh3_64(body) != u64::from_le_bytes(*sum) || u16::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (mut at, end) = (MAGIC.len() + version.len(), body.len());
    let mut libraries = Vec::new();
    while at < end {
        let (length, _) = body[at..].split_first_chunk::<4>()?;
        let from = at + length.len();
        at = from.checked_add(u32::from_le_bytes(*length) as usize).filter(|to| *to <= end)?;
        // A copy: the argument shares a buffer with everything that came beside it.
        libraries.push(Bytes::copy_from_slice(&dump[from..at]));
    }
    Some(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_are_read_as_redis_does() {
        for code in ["#!lua name=lib\nx", "#!LUA  NAME='lib' \nx", "#!lua name=\"lib\"\nx", "#!lua name=lib\r\nx"] {
            assert_eq!(head(code.as_bytes()).map(|(name, _)| name), Ok("lib".to_owned()), "{code}");
        }
        for (code, error) in [
            ("return 1", "ERR Missing library metadata"),
            ("#!lua name=lib", "ERR Invalid library metadata"),
            ("#!lua name=\"lib\n", "ERR Invalid library metadata"),
            ("#!lua\n", "ERR Library name was not given"),
            ("#!\n", "ERR Library name was not given"),
            ("#! name=lib\n", "ERR Engine '' not found"),
            ("#!js name=lib\n", "ERR Engine 'js' not found"),
            ("#!lua name=a name=b\n", "ERR Invalid metadata value, name argument was given multiple times"),
            ("#!lua name=a foo=bar\n", "ERR Invalid metadata value given: foo=bar"),
            ("#!lua name=\n", BAD_NAME),
            ("#!js name=a-b\n", BAD_NAME),
        ] {
            assert_eq!(head(code.as_bytes()).map(|(name, _)| name), Err(Reply::error(error)), "{code}");
        }
    }

    fn library(name: &str, functions: &[&str]) -> Library {
        let function = |name: &&str| Function { name: (*name).to_owned(), description: None, flags: Flags::default() };
        let functions = functions.iter().map(function).collect();
        Library { name: name.to_owned(), sha: String::new(), code: Bytes::new(), functions }
    }

    #[test]
    fn no_two_libraries_have_a_function_of_one_name() {
        let all = Libraries::of([library("a", &["f", "g"]), library("b", &["H"])]);
        assert_eq!((all.functions(), all.iter().len()), (3, 2));
        assert_eq!(all.function(b"F").map(|(library, function)| (&*library.name, &*function.name)), Some(("a", "f")));
        assert_eq!(all.function(b"h").map(|(_, function)| &*function.name), Some("H"));
        assert!(all.function(b"x").is_none());
        let may = |fresh: &[Library], replace| all.may_join(fresh, replace, true);
        assert_eq!(may(&[library("c", &["x"])], false), Ok(()));
        assert_eq!(may(&[library("a", &["x"])], false), Err(Reply::error("ERR Library 'a' already exists")));
        assert_eq!(may(&[library("a", &["f", "x"])], true), Ok(()));
        assert_eq!(may(&[library("a", &["h"])], true), Err(Reply::error("ERR Function h already exists")));
        // One that is replaced, too, gives its functions up.
        assert_eq!(may(&[library("a", &["h"]), library("b", &["f"])], true), Ok(()));
    }

    #[test]
    fn a_dump_is_whole_or_nothing() {
        let codes = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        let dump = seal(codes.iter());
        assert_eq!(unseal(&dump).unwrap(), codes);
        assert_eq!(unseal(&seal([].into_iter())), Some(Vec::new()));
        for at in 0..dump.len() {
            assert_eq!(unseal(&dump.slice(..at)), None);
            let mut wrong = dump.to_vec();
            wrong[at] ^= 1;
            assert_eq!(unseal(&wrong.into()), None);
        }
        // The right sum over lengths that reach too far.
        let mut wrong = dump[..dump.len() - 8].to_vec();
        wrong[MAGIC.len() + 2] = 200;
        let sum = xxh3_64(&wrong);
        wrong.put_u64_le(sum);
        assert_eq!(unseal(&wrong.into()), None);
        let golden: String = super::super::hex(&seal([Bytes::from_static(b"x")].iter()));
        assert_eq!(golden, GOLDEN, "dumps that were made must stay readable");
    }

    const GOLDEN: &str = "484346554e4354494f4e5301000100000078b15ee7fd38c7db0a";
}
