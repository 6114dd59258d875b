//! Requests: bytes -> argument vectors.
//!
//! Incremental and resumable. Between calls it remembers how far it came, so that an argument which arrives in a
//! thousand pieces is looked at once; and what it gives does not depend on where the pieces were cut. Memory grows
//! with the bytes received, never with what a header announces. After an error the connection is of no further use.
//!
//! All commands that have arrived are read in one go and then given out one by one; an error shows behind those before it.
//! Arguments are not copied: they share the read buffer and keep it alive, which is cheap while a request is on its
//! way. Whoever keeps an argument longer (the state, a slow log) makes a copy of its own.
//!
//! ```text
//! *2\r\n $3\r\n GET\r\n $1\r\n k\r\n          GET k\r\n
//! ^Start ^Length ^Body  ^Length ^Body         ^Start (an inline command)
//! ```

use super::Args;
use super::inline::split_words;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

/// Bounds on what one client may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest argument, in bytes.
    pub max_bulk: usize,
    /// Most arguments of one command.
    pub max_args: usize,
    /// Longest inline command or header line, in bytes.
    pub max_inline: usize,
    /// Most bytes of one command, its arguments taken together.
    pub max_buffered: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_bulk: 512 << 20, max_args: 1 << 20, max_inline: 64 << 10, max_buffered: 1 << 30 }
    }
}

/// Why a connection is closed. The text is what the client is told, after `ERR `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    #[error("Protocol error: expected '$', got '{0}'")]
    ExpectedBulk(char),
    #[error("Protocol error: too big mbulk count string")]
    MultibulkHeader,
    #[error("Protocol error: too big bulk count string")]
    BulkHeader,
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("Protocol error: request exceeds the query buffer limit")]
    RequestTooBig,
}

/// Most commands that are read ahead.
const AHEAD_MAX: usize = 64;
/// Places for arguments that are kept between commands.
const PLACES_KEPT: usize = 4 * AHEAD_MAX;

#[derive(Debug)]
enum State {
    /// Before the first byte of a command.
    Start,
    /// Before a `$` header.
    Length,
    /// Inside an argument of this many bytes.
    Body(usize),
}

/// How far a reading came.
enum Came {
    /// To the end of the bytes, or nearly.
    Short,
    /// Behind a command of arguments.
    Command,
    /// Behind a line of these words.
    Line(Args),
}

/// Commands that were read and not given out yet.
#[derive(Debug, Default)]
struct Ahead {
    /// What the first one's arguments begin with: they ended in earlier calls.
    begun: Vec<Bytes>,
    /// All other arguments lie in here,
    bytes: Bytes,
    /// at these places, of which so many were given out.
    places: Vec<Range<usize>>,
    given: usize,
    /// How many places there are up to the end of each command.
    ends: VecDeque<usize>,
    /// What comes behind them: a line, or the end of everything.
    then: Option<Result<Args, ProtocolError>>,
}

impl Ahead {
    /// Takes the next command of arguments.
    fn next(&mut self) -> Option<Args> {
        let end = self.ends.pop_front()?;
        let places = &self.places[std::mem::replace(&mut self.given, end)..end];
        let argument = |place: usize| self.bytes.slice(places[place].clone());
        let args = if self.begun.is_empty() {
            Args::by_place(places.len(), argument)
        } else {
            let mut args = std::mem::take(&mut self.begun);
            args.extend((0..places.len()).map(argument));
            args.into()
        };
        if self.ends.is_empty() {
            self.bytes = Bytes::new();
            self.given = 0;
            self.places.clear();
            self.places.shrink_to(PLACES_KEPT);
        }
        Some(args)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    ahead: Ahead,
    state: State,
    /// Arguments of the command begun that ended in earlier calls.
    early: Vec<Bytes>,
    /// Arguments of the command begun that are still to come.
    missing: usize,
    /// Bytes of the arguments already taken.
    taken: usize,
    /// Leading bytes of the buffer known to hold no end of line.
    scanned: usize,
}

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        let ahead = Ahead::default();
        Decoder { limits, ahead, state: State::Start, early: Vec::new(), missing: 0, taken: 0, scanned: 0 }
    }

    /// Takes the next command off the front of `buf`; `None` asks for more bytes. Empty commands are skipped.
    /// `buf` must only ever be appended to between calls. Commands behind that one may leave it, too: see [`Decoder::unread`].
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Args>, ProtocolError> {
        if self.ahead.ends.is_empty() && self.ahead.then.is_none() {
            self.read_ahead(buf);
        }
        match self.ahead.next() {
            Some(args) => Ok(Some(args)),
            None => self.ahead.then.take().transpose(),
        }
    }

    /// Reads the commands that are whole. Nothing is ahead yet.
    fn read_ahead(&mut self, buf: &mut BytesMut) {
        let mut at = 0;
        let mut places = std::mem::take(&mut self.ahead.places);
        while self.ahead.ends.len() < AHEAD_MAX {
            match self.read(buf, &mut at, &mut places) {
                Ok(Came::Command) => self.ahead.ends.push_back(places.len()),
                Ok(Came::Short) => break,
                Ok(Came::Line(words)) => {
                    self.ahead.then = Some(Ok(words));
                    break;
                }
                Err(error) => {
                    self.ahead.then = Some(Err(error));
                    break;
                }
            }
        }
        // What was read leaves the buffer in one piece, however many arguments are in it: to part a buffer costs more than to
        // read most arguments.
        if places.is_empty() {
            buf.advance(at);
        } else {
            let read = buf.split_to(at).freeze();
            let whole = self.ahead.ends.back().copied().unwrap_or(0);
            if whole > 0 {
                self.ahead.begun = std::mem::take(&mut self.early);
            }
            self.early.extend(places.drain(whole..).map(|place| read.slice(place)));
            if whole > 0 {
                self.ahead.bytes = read;
            }
        }
        self.ahead.places = places;
    }

    /// Reads from `at` on, as far as the bytes go or to the end of a command. `ended` takes the places of arguments.
    fn read(&mut self, bytes: &[u8], at: &mut usize, ended: &mut Vec<Range<usize>>) -> Result<Came, ProtocolError> {
        loop {
            let rest = &bytes[*at..];
            match self.state {
                State::Start => match rest.first() {
                    None => return Ok(Came::Short),
                    Some(b'*') => {
                        let Some((count, length)) = self.multibulk_header(rest)? else { return Ok(Came::Short) };
                        *at += length;
                        if count > 0 {
                            self.missing = count;
                            self.taken = 0;
                            self.state = State::Length;
                        }
                    }
                    Some(_) => {
                        let Some((words, length)) = self.inline(rest)? else { return Ok(Came::Short) };
                        *at += length;
                        if !words.is_empty() {
                            return Ok(Came::Line(words));
                        }
                    }
                },
                State::Length => {
                    let Some((argument, length)) = self.bulk_header(rest)? else { return Ok(Came::Short) };
                    *at += length;
                    self.state = State::Body(argument);
                }
                State::Body(length) => {
                    if rest.len() < length + 2 {
                        return Ok(Came::Short);
                    }
                    ended.push(*at..*at + length);
                    *at += length + 2;
                    self.missing -= 1;
                    self.state = State::Length;
                    if self.missing == 0 {
                        self.state = State::Start;
                        return Ok(Came::Command);
                    }
                }
            }
        }
    }

    /// Whether a command was begun and is not finished.
    pub fn is_mid_command(&self) -> bool {
        !matches!(self.state, State::Start)
    }

    /// Bytes that were received and belong to no command given out; `buf` is what is left of them in the buffer.
    pub fn unread(&self, buf: &BytesMut) -> usize {
        let ahead = self.ahead.places.get(self.ahead.given).map_or(0, |next| self.ahead.bytes.len() - next.start);
        let line = match &self.ahead.then {
            Some(Ok(words)) => words.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        ahead + line + buf.len()
    }

    /// Bytes that must yet arrive before the argument at hand is whole; 0 if none is or that is not known.
    /// The reader may size its next read by it, within bounds of its own.
    pub fn wants(&self, buf: &BytesMut) -> usize {
        match self.state {
            State::Body(length) => (length + 2).saturating_sub(buf.len()),
            _ => 0,
        }
    }

    /// The number of the header that begins here, and the header's length; `None` while it is not whole.
    fn number(
        &mut self,
        rest: &[u8],
        too_big: ProtocolError,
        invalid: ProtocolError,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        if let Some(short) = short_header(rest) {
            self.scanned = 0;
            return Ok(Some(short));
        }
        let Some(end) = self.header(rest, too_big)? else { return Ok(None) };
        integer(&rest[1..end]).map(|number| Some((number, end + 2))).ok_or(invalid)
    }

    /// How many arguments the command that begins here has, and the length of its header; `None` while that is not whole.
    fn multibulk_header(&mut self, rest: &[u8]) -> Result<Option<(usize, usize)>, ProtocolError> {
        match self.number(rest, ProtocolError::MultibulkHeader, ProtocolError::MultibulkLength)? {
            Some((count, _)) if count > self.limits.max_args as i64 => Err(ProtocolError::MultibulkLength),
            // A negative count is an empty command, as in Redis.
            Some((count, header)) => Ok(Some((count.max(0) as usize, header))),
            None => Ok(None),
        }
    }

    /// The same for an argument and its length.
    fn bulk_header(&mut self, rest: &[u8]) -> Result<Option<(usize, usize)>, ProtocolError> {
        match rest.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(char::from(*other))),
        }
        let number = self.number(rest, ProtocolError::BulkHeader, ProtocolError::BulkLength)?;
        let Some((length, header)) = number else { return Ok(None) };
        if !(0..=self.limits.max_bulk as i64).contains(&length) {
            return Err(ProtocolError::BulkLength);
        }
        let length = length as usize;
        self.taken = self.taken.saturating_add(length);
        if self.taken > self.limits.max_buffered {
            return Err(ProtocolError::RequestTooBig);
        }
        Ok(Some((length, header)))
    }

    /// Where the header line that begins here ends; `None` while it is not whole.
    fn header(&mut self, rest: &[u8], too_big: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let from = self.scanned.max(1);
        let end = rest.get(from..).and_then(|rest| rest.iter().position(|&b| b == b'\r')).map(|at| at + from);
        let seen = end.unwrap_or(rest.len());
        if seen > self.limits.max_inline {
            return Err(too_big);
        }
        // The byte behind CR is taken for LF unseen, as in Redis.
        let whole = end.filter(|end| end + 1 < rest.len());
        self.scanned = if whole.is_some() { 0 } else { seen };
        Ok(whole)
    }

    /// The words of the line that begins here and its length; `None` while it is not whole.
    fn inline(&mut self, rest: &[u8]) -> Result<Option<(Args, usize)>, ProtocolError> {
        let end = rest[self.scanned..].iter().position(|&b| b == b'\n').map(|at| at + self.scanned);
        if end.unwrap_or(rest.len()) > self.limits.max_inline {
            return Err(ProtocolError::InlineTooBig);
        }
        let Some(end) = end else {
            self.scanned = rest.len();
            return Ok(None);
        };
        self.scanned = 0;
        let line = &rest[..end];
        let words = split_words(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(ProtocolError::UnbalancedQuotes)?;
        if words.len() > self.limits.max_args {
            return Err(ProtocolError::MultibulkLength);
        }
        Ok(Some((words, end + 1)))
    }
}

/// The number of a header that is whole and short, as nearly all are, and the header's length. Of others nothing is said.
#[inline]
fn short_header(rest: &[u8]) -> Option<(i64, usize)> {
    let digit = |byte: &u8| i64::from(byte - b'0');
    match rest {
        [_, a @ b'0'..=b'9', b'\r', _, ..] => Some((digit(a), 4)),
        [_, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..] => Some((10 * digit(a) + digit(b), 5)),
        [_, a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', _, ..] => {
            Some((100 * digit(a) + 10 * digit(b) + digit(c), 6))
        }
        _ => None,
    }
}

/// Redis' `string2ll`: an optional minus and digits, no superfluous zero, within 64 bits.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        // So many fit into 64 bits without a sign, whatever they are.
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut number = 0;
    for digit in digits {
        let value = digit.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        number = number * 10 + u64::from(value);
    }
    match negative {
        true => 0i64.checked_sub_unsigned(number),
        false => i64::try_from(number).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small() -> Limits {
        Limits { max_bulk: 100, max_args: 10, max_inline: 40, max_buffered: 150 }
    }

    /// What comes out of `bytes` when they arrive in the given pieces: the commands, and the error that ended them.
    fn run(limits: Limits, pieces: &[&[u8]]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let mut decoder = Decoder::new(limits);
        let mut buf = BytesMut::new();
        let mut commands = Vec::new();
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Some(args)) => commands.push(args.iter().map(|a| a.to_vec()).collect()),
                    Ok(None) => break,
                    Err(error) => return (commands, Some(error)),
                }
            }
        }
        (commands, None)
    }

    fn error_of(bytes: &[u8]) -> String {
        run(small(), &[bytes]).1.map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_pipeline_means_the_same_wherever_it_is_cut() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$5\r\na\r\nb*\r\nset \"a b\" c\n*1\r\n$4\r\nQUIT\r\n*1\r\n+oops";
        let whole = run(small(), &[bytes]);
        assert_eq!(whole.0.len(), 5);
        assert_eq!(whole.0[2], vec![b"SET".to_vec(), b"".to_vec(), b"a\r\nb*".to_vec()]);
        assert_eq!(whole.1, Some(ProtocolError::ExpectedBulk('+')));
        for at in 0..=bytes.len() {
            assert_eq!(run(small(), &[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
        }
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(small(), &singles), whole);
    }

    #[test]
    fn errors_have_the_texts_of_redis() {
        for (bytes, text) in [
            (&b"*x\r\n"[..], "Protocol error: invalid multibulk length"),
            (b"*11\r\n", "Protocol error: invalid multibulk length"),
            (b"*2147483648\r\n", "Protocol error: invalid multibulk length"),
            (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
            (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$101\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n$ 1\r\n", "Protocol error: invalid bulk length"),
            (b"*1\r\n:1\r\n", "Protocol error: expected '$', got ':'"),
            (b"*11111111111111111111111111111111111111111", "Protocol error: too big mbulk count string"),
            (b"*1\r\n$1111111111111111111111111111111111111111", "Protocol error: too big bulk count string"),
            (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Protocol error: too big inline request"),
            (b"set \"a\r\n", "Protocol error: unbalanced quotes in request"),
            (b"*9\r\n$3\r\nabc\r\n$90\r\n", ""),
        ] {
            assert_eq!(error_of(bytes), text, "{}", String::from_utf8_lossy(bytes));
        }
        let mut two = b"*3\r\n$90\r\n".to_vec();
        two.extend([b'x'; 92]);
        two.extend(b"$90\r\n");
        assert_eq!(error_of(&two), "Protocol error: request exceeds the query buffer limit");
    }

    #[test]
    fn what_was_read_ahead_is_told_until_it_is_given_out() {
        let mut decoder = Decoder::new(Limits::default());
        let mut buf =
            BytesMut::from(&b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nECHO hello\r\n*1\r\n$4\r\nPI"[..]);
        let mut unread = Vec::new();
        let mut before = usize::MAX;
        while let Some(args) = decoder.decode(&mut buf).expect("it is well-formed") {
            unread.push((args.len(), decoder.unread(&buf)));
            assert!(decoder.unread(&buf) < before);
            before = decoder.unread(&buf);
        }
        assert_eq!(unread.iter().map(|(args, _)| *args).collect::<Vec<_>>(), [1, 2, 2]);
        assert_eq!(unread[2].1, 10, "the command that was begun");
        assert_eq!((decoder.unread(&buf), decoder.wants(&buf)), (2, 4));
        assert!(decoder.ahead.bytes.is_empty(), "the buffer is not held");
    }

    #[test]
    fn more_commands_than_are_read_ahead_come_in_their_order() {
        let bytes: Vec<u8> = (0..3 * AHEAD_MAX).flat_map(|n| format!("*1\r\n$3\r\n{n:03}\r\n").into_bytes()).collect();
        let wanted: Vec<Vec<Vec<u8>>> = (0..3 * AHEAD_MAX).map(|n| vec![format!("{n:03}").into_bytes()]).collect();
        assert_eq!(run(Limits::default(), &[&bytes]), (wanted.clone(), None));
        assert_eq!(run(Limits::default(), &[&bytes[..1000], &bytes[1000..]]), (wanted, None));
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut decoder = Decoder::new(Limits::default());
        let mut buf = BytesMut::from(&b"*1048576\r\n$536870912\r\nabc"[..]);
        assert_eq!(decoder.decode(&mut buf), Ok(None));
        assert!(decoder.early.capacity() == 0 && buf.capacity() < 1024);
        assert_eq!(decoder.wants(&buf), 536870912 + 2 - 3);
        assert!(decoder.is_mid_command());
    }

    #[test]
    fn integers_are_as_strict_as_string2ll() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-0", None),
            ("00", None),
            ("+1", None),
            ("1 ", None),
            ("", None),
            ("-", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(integer(text.as_bytes()), value, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_commands_in_any_pieces_come_out_as_they_went_in(
            commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for command in &commands {
                bytes.extend(format!("*{}\r\n", command.len()).into_bytes());
                for argument in command {
                    bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
                    bytes.extend(argument);
                    bytes.extend(b"\r\n");
                }
            }
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(run(Limits::default(), &pieces), (commands, None));
        }

        #[test]
        fn garbage_means_the_same_wherever_it_is_cut(
            bytes in prop::collection::vec(prop::sample::select(b"*$+12 3-a\"'\\x\r\n\0".to_vec()), 0..80),
            cut in any::<prop::sample::Index>(),
        ) {
            let at = cut.index(bytes.len() + 1);
            prop_assert_eq!(run(small(), &[&bytes]), run(small(), &[&bytes[..at], &bytes[at..]]));
        }
    }
}
