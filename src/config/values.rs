//! The types that settings have, each with its one way of being read and shown.
//!
//! Everything arrives as text: a password `0123` stays four characters long, whether it came from a file, from the
//! environment or from a flag. A value's error says what was expected and what was found; it never names the key,
//! which the caller knows better.

use crate::types::Level;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A setting's value as a source gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    Text(String),
    List(Vec<String>),
}

impl Raw {
    /// The text, or what is wrong with a list where one value is expected.
    fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Raw::Text(text) => Ok(text.trim()),
            Raw::List(_) => Err(format!("expected {expected}, found a list")),
        }
    }
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// Reads the value; the error says what was expected and found.
    fn parse(raw: &Raw) -> Result<Self, String>;

    /// The value as YAML, on one line. Parsing it gives the value again, but for a [`Secret`], which stays hidden.
    fn show(&self) -> String;

    /// The value as a number, where a range makes sense: bytes, milliseconds or a plain count.
    fn measure(&self) -> Option<u64> {
        None
    }

    /// A number of [`Setting::measure`] in this type's own words.
    fn in_words(number: u64) -> String {
        number.to_string()
    }
}

fn unexpected<T>(expected: &str, found: &str) -> Result<T, String> {
    Err(format!("expected {expected}, found \"{found}\""))
}

/// YAML's double-quoted form, which JSON's string is.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

/// An amount of memory or disk. `KB`, `MB`, `GB` and `TB` are powers of 1024, as in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

impl Size {
    pub fn bytes(self) -> u64 {
        self.0
    }

    fn read(text: &str) -> Option<Size> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let unit = unit.trim().to_ascii_uppercase().replace("IB", "B");
        let factor = match unit.as_str() {
            "" => 1,
            short if short.len() == 1 && short != "B" => SIZE_UNITS.iter().find(|(name, _)| name.starts_with(short))?.1,
            name => SIZE_UNITS.iter().find(|(known, _)| *known == name)?.1,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor).map(Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS
            .into_iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Setting for Size {
    fn parse(raw: &Raw) -> Result<Size, String> {
        let expected = "a size such as 64MB";
        let text = raw.text(expected)?;
        Size::read(text).map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
    fn measure(&self) -> Option<u64> {
        Some(self.0)
    }
    fn in_words(number: u64) -> String {
        Size(number).to_string()
    }
}

/// An amount of memory, or a share of what the machine (or this process' control group) has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    Bytes(Size),
    Percent(u8),
}

impl Setting for Memory {
    fn parse(raw: &Raw) -> Result<Memory, String> {
        let expected = "a size such as 8GB, or a share of the machine's memory such as 75%";
        let text = raw.text(expected)?;
        let memory = match text.strip_suffix('%') {
            Some(share) => share.trim().parse().ok().filter(|share| (1..=100).contains(share)).map(Memory::Percent),
            None => Size::read(text).filter(|size| size.0 > 0).map(Memory::Bytes),
        };
        memory.map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        match self {
            Memory::Bytes(size) => size.show(),
            Memory::Percent(share) => quoted(&format!("{share}%")),
        }
    }
}

const DURATION_UNITS: [(&str, u64); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

fn read_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let (_, factor) = DURATION_UNITS.iter().find(|(known, _)| *known == unit.trim())?;
    digits.parse::<u64>().ok()?.checked_mul(*factor).map(Duration::from_micros)
}

fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros() as u64;
    if micros == 0 {
        return "0s".to_owned();
    }
    let (unit, factor) = DURATION_UNITS
        .into_iter()
        .find(|(_, factor)| micros.is_multiple_of(*factor))
        .expect("one microsecond divides everything");
    format!("{}{unit}", micros / factor)
}

impl Setting for Duration {
    fn parse(raw: &Raw) -> Result<Duration, String> {
        let expected = "a duration such as 10ms, 5s or 1h";
        let text = raw.text(expected)?;
        read_duration(text).map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        quoted(&show_duration(*self))
    }
    fn measure(&self) -> Option<u64> {
        Some(self.as_millis() as u64)
    }
    fn in_words(number: u64) -> String {
        show_duration(Duration::from_millis(number))
    }
}

impl Setting for u64 {
    fn parse(raw: &Raw) -> Result<u64, String> {
        let expected = "a whole number";
        let text = raw.text(expected)?;
        text.replace('_', "").parse().map_or_else(|_| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        self.to_string()
    }
    fn measure(&self) -> Option<u64> {
        Some(*self)
    }
}

/// A number, or `auto`: what fits the machine or the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auto {
    Auto,
    Number(u64),
}

impl Auto {
    /// The number, or what `auto` means here.
    pub fn or(self, automatic: u64) -> u64 {
        match self {
            Auto::Auto => automatic,
            Auto::Number(number) => number,
        }
    }
}

impl Setting for Auto {
    fn parse(raw: &Raw) -> Result<Auto, String> {
        let expected = "a whole number or auto";
        let text = raw.text(expected)?;
        if text.eq_ignore_ascii_case("auto") {
            return Ok(Auto::Auto);
        }
        text.parse().map_or_else(|_| unexpected(expected, text), |number| Ok(Auto::Number(number)))
    }
    fn show(&self) -> String {
        match self {
            Auto::Auto => "auto".to_owned(),
            Auto::Number(number) => number.to_string(),
        }
    }
    fn measure(&self) -> Option<u64> {
        match self {
            Auto::Auto => None,
            Auto::Number(number) => Some(*number),
        }
    }
}

/// A share of one, such as a false-positive rate.
impl Setting for f64 {
    fn parse(raw: &Raw) -> Result<f64, String> {
        let expected = "a number such as 0.01";
        let text = raw.text(expected)?;
        text.parse::<f64>().ok().filter(|number| number.is_finite()).map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for bool {
    fn parse(raw: &Raw) -> Result<bool, String> {
        let expected = "true or false";
        match raw.text(expected)? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => unexpected(expected, other),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn parse(raw: &Raw) -> Result<String, String> {
        raw.text("a text").map(str::to_owned)
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    fn parse(raw: &Raw) -> Result<PathBuf, String> {
        raw.text("a path").map(PathBuf::from)
    }
    fn show(&self) -> String {
        quoted(&self.display().to_string())
    }
}

/// A node's name: what logs, `INFO` and the operator call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

/// The longest name of a node, in bytes.
const NAME_LEN_MAX: usize = 64;

impl Setting for Name {
    fn parse(raw: &Raw) -> Result<Name, String> {
        let expected = "a name of 1 to 64 letters, digits, '-', '_' or '.'";
        let text = raw.text(expected)?;
        let fits = (1..=NAME_LEN_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fits { Ok(Name(text.to_owned())) } else { unexpected(expected, text) }
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What fails together: a rack, a hall, a site. Empty: nothing is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone(pub String);

impl Setting for Zone {
    fn parse(raw: &Raw) -> Result<Zone, String> {
        let expected = "a zone of at most 64 letters, digits, '-', '_' or '.'";
        match raw.text(expected)? {
            "" => Ok(Zone::default()),
            text => Name::parse(raw).map(|name| Zone(name.0)).or_else(|_| unexpected(expected, text)),
        }
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(pub String);

impl Secret {
    /// The text itself, or nothing if none is set.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "hidden" })
    }
}

impl Setting for Secret {
    fn parse(raw: &Raw) -> Result<Secret, String> {
        match raw {
            // Not trimmed: a password may begin with a space.
            Raw::Text(text) => Ok(Secret(text.clone())),
            Raw::List(_) => Err("expected a text, found a list".to_owned()),
        }
    }
    fn show(&self) -> String {
        if self.0.is_empty() { quoted("") } else { quoted("***") }
    }
}

/// Lines that make users: their passwords are never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Users(pub Vec<String>);

impl Users {
    /// The lines, with stars for passwords.
    fn hidden(&self) -> Vec<String> {
        let word =
            |word: &str| if word.starts_with(['>', '<', '#', '!']) { ">***".to_owned() } else { word.to_owned() };
        self.0.iter().map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    /// Whether any line is about this user.
    pub fn name(&self, user: &str) -> bool {
        self.0.iter().any(|line| line.split_whitespace().nth(1) == Some(user))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hidden()).finish()
    }
}

/// A list, or one text with semicolons or line ends between.
impl Setting for Users {
    fn parse(raw: &Raw) -> Result<Users, String> {
        let lines: Vec<String> = match raw {
            Raw::List(lines) => lines.clone(),
            Raw::Text(text) => text.split([';', '\n']).map(str::to_owned).collect(),
        };
        let lines: Vec<String> = lines.iter().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty()).collect();
        match lines.iter().find(|line| line.split_whitespace().next() != Some("user")) {
            None => Ok(Users(lines)),
            // Whatever it is, it may be a password.
            Some(_) => Err("expected lines such as \"user alice on >password ~app:* +@all\"".to_owned()),
        }
    }
    fn show(&self) -> String {
        let lines: Vec<String> = self.hidden().iter().map(|line| quoted(line)).collect();
        format!("[{}]", lines.join(", "))
    }
}

/// What is logged: a level for everything, for modules, or both (`info,hypercache::raft=debug`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(pub String);

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Setting for LogLevel {
    fn parse(raw: &Raw) -> Result<LogLevel, String> {
        let expected = "error, warn, info, debug, trace, off, or module=level with commas between";
        let text = raw.text(expected)?;
        // Checked here because the logging library takes any word for a module: `loud` would mean "all of loud".
        let known = |part: &str| {
            let (module, word) = part.rsplit_once('=').unwrap_or(("", part));
            let module_fits = module.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':');
            module_fits && LOG_LEVELS.contains(&word.to_ascii_lowercase().as_str())
        };
        if text.split(',').all(known) { Ok(LogLevel(text.to_owned())) } else { unexpected(expected, text) }
    }
    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// Host and port. The host is an address or a name; an IPv6 address stands in brackets in text only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn read(text: &str) -> Option<Endpoint> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
            None => host,
        };
        let clean = !host.is_empty() && !host.contains(['/', ' ', '[', ']', '@']);
        let bare_v6 = host.contains(':') && !text.starts_with('[');
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (clean && !bare_v6).then(|| Endpoint { host: host.to_owned(), port })
    }

    /// True if only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// True if it stands for every address of this machine.
    pub fn is_wildcard(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_unspecified())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Setting for Endpoint {
    fn parse(raw: &Raw) -> Result<Endpoint, String> {
        let expected = "host:port with a port of 1 to 65535, such as 127.0.0.1:7000";
        let text = raw.text(expected)?;
        Endpoint::read(text).map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Several endpoints: a list, or in one text with commas between.
impl Setting for Vec<Endpoint> {
    fn parse(raw: &Raw) -> Result<Vec<Endpoint>, String> {
        let items: Vec<String> = match raw {
            Raw::List(items) => items.clone(),
            Raw::Text(text) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
            }
        };
        items.into_iter().map(|item| Endpoint::parse(&Raw::Text(item))).collect()
    }
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(Endpoint::show).collect();
        format!("[{}]", items.join(", "))
    }
}

/// Where a door listens, or `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Off,
    At(Endpoint),
}

impl Listen {
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Listen::Off => None,
            Listen::At(endpoint) => Some(endpoint),
        }
    }

    /// The port, 0 if the door is shut.
    pub fn port(&self) -> u16 {
        self.endpoint().map_or(0, |endpoint| endpoint.port)
    }
}

impl Setting for Listen {
    fn parse(raw: &Raw) -> Result<Listen, String> {
        let expected = "host:port with a port of 1 to 65535, such as 127.0.0.1:6379, or off";
        let text = raw.text(expected)?;
        if text.eq_ignore_ascii_case("off") {
            return Ok(Listen::Off);
        }
        Endpoint::read(text).map_or_else(|| unexpected(expected, text), |endpoint| Ok(Listen::At(endpoint)))
    }
    fn show(&self) -> String {
        match self {
            Listen::Off => quoted("off"),
            Listen::At(endpoint) => endpoint.show(),
        }
    }
}

impl Setting for Level {
    fn parse(raw: &Raw) -> Result<Level, String> {
        let expected = "linearizable, lease, bounded:<milliseconds> or eventual";
        let text = raw.text(expected)?;
        Level::parse(text).map_or_else(|| unexpected(expected, text), Ok)
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// Declares a closed list of words: the enum, its words and its [`Setting`].
macro_rules! words {
    ($(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $variant_doc:literal])* $variant:ident: $word:literal $(| $other:literal)*, )+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])* $variant, )+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $( $name::$variant => $word, )+ })
            }
        }

        impl Setting for $name {
            fn parse(raw: &Raw) -> Result<$name, String> {
                let expected = concat!("one of" $(, " ", $word)+);
                let text = raw.text(expected)?;
                match text.to_ascii_lowercase().as_str() {
                    $( $word $(| $other)* => Ok($name::$variant), )+
                    _ => unexpected(expected, text),
                }
            }
            fn show(&self) -> String {
                quoted(&self.to_string())
            }
        }
    };
}

words! {
    /// Where the data lives.
    Engine {
        /// All of it in RAM; log and snapshots on disk.
        Memory: "memory",
        /// All of it on disk, the hot part in RAM.
        Hybrid: "hybrid",
        /// On disk first, with little RAM.
        Persistent: "persistent",
    }
}

words! {
    /// When a write counts as being on stable storage.
    Sync {
        /// Before it is acknowledged.
        Always: "always",
        /// Within a second after it.
        EverySecond: "everysec",
        /// When the operating system likes.
        No: "no",
    }
}

words! {
    /// How the chunks of snapshots are packed.
    SnapshotCodec {
        Lz4: "lz4",
        None: "none",
    }
}

words! {
    /// What goes when memory is full, under Redis' names.
    EvictionPolicy {
        NoEviction: "noeviction",
        AllKeysLru: "allkeys-lru" | "lru",
        AllKeysLfu: "allkeys-lfu",
        AllKeysRandom: "allkeys-random",
        VolatileLru: "volatile-lru",
        VolatileLfu: "volatile-lfu",
        VolatileRandom: "volatile-random",
        VolatileTtl: "volatile-ttl",
        S3Fifo: "s3-fifo",
        Fifo: "fifo",
        Session: "session",
    }
}

words! {
    /// How a log line is written.
    LogFormat {
        Text: "text",
        Json: "json",
    }
}

words! {
    /// When a new log file is begun.
    Rotation {
        Hourly: "hourly",
        Daily: "daily",
        Never: "never",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T: Setting>(text: &str) -> Result<T, String> {
        T::parse(&Raw::Text(text.to_owned()))
    }

    #[test]
    fn sizes_are_powers_of_1024_and_show_themselves_whole() {
        for (given, bytes, shown) in [
            ("8GB", 8 << 30, "8GB"),
            ("64mb", 64 << 20, "64MB"),
            ("1k", 1024, "1KB"),
            ("1KiB", 1024, "1KB"),
            ("1500", 1500, "1500B"),
            ("0", 0, "0B"),
            ("1536 KB", 1536 << 10, "1536KB"),
        ] {
            let size: Size = text(given).unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{given}");
        }
        for wrong in ["", "GB", "-1MB", "8XB", "1.5GB", "99999999999TB"] {
            assert!(text::<Size>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        assert_eq!(text::<Duration>("10ms"), Ok(Duration::from_millis(10)));
        assert_eq!(text::<Duration>("0"), Ok(Duration::ZERO));
        assert_eq!(text::<Duration>("2 h"), Ok(Duration::from_secs(7200)));
        assert_eq!(text::<Duration>("10"), Err("expected a duration such as 10ms, 5s or 1h, found \"10\"".to_owned()));
        assert_eq!(Duration::from_millis(1500).show(), "\"1500ms\"");
        assert_eq!(Duration::from_secs(60).show(), "\"1m\"");
    }

    #[test]
    fn endpoints_take_names_and_both_kinds_of_address() {
        let v6: Endpoint = text("[::1]:7000").unwrap();
        assert_eq!((v6.host.as_str(), v6.port, v6.to_string().as_str()), ("::1", 7000, "[::1]:7000"));
        assert!(v6.is_loopback());
        assert!(text::<Endpoint>("0.0.0.0:7000").unwrap().is_wildcard());
        assert!(!text::<Endpoint>("cache-1.example:7000").unwrap().is_loopback());
        for wrong in ["7000", "host", "host:", ":7000", "host:0", "host:70000", "::1:7000", "[host]:1", "http://host:1"]
        {
            assert!(text::<Endpoint>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(text::<Listen>("OFF"), Ok(Listen::Off));
    }

    #[test]
    fn a_list_may_come_as_one_text() {
        let seeds: Vec<Endpoint> = text("a:1, b:2").unwrap();
        assert_eq!(seeds.show(), "[\"a:1\", \"b:2\"]");
        assert_eq!(text::<Vec<Endpoint>>(""), Ok(Vec::new()));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret: Secret = text("0123").unwrap();
        assert_eq!(secret.reveal(), Some("0123"));
        assert_eq!((secret.show().as_str(), format!("{secret:?}").as_str()), ("\"***\"", "hidden"));
    }

    #[test]
    fn log_levels_are_words_of_ours_and_not_any_module() {
        for right in ["info", "WARN", "info,hypercache::raft=debug", "off"] {
            assert!(text::<LogLevel>(right).is_ok(), "{right}");
        }
        for wrong in ["", "loud", "info,x=loud", "hypercache::raft", "a b=info", "info,"] {
            assert!(text::<LogLevel>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_word_that_is_shown_is_understood() {
        for policy in ["noeviction", "allkeys-lru", "volatile-ttl", "s3-fifo", "session"] {
            assert_eq!(text::<EvictionPolicy>(policy).unwrap().to_string(), policy);
        }
        assert_eq!(text::<EvictionPolicy>("lru"), Ok(EvictionPolicy::AllKeysLru));
        assert_eq!(
            text::<Sync>("sometimes"),
            Err("expected one of always everysec no, found \"sometimes\"".to_owned())
        );
    }
}
