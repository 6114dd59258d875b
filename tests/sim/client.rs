//! Clients: real connections to the RESP doors, one operation at a time each, everything noted.

use crate::history::{History, NOTHING, Op, Outcome, READ_BOTH, WATCH_SWAP, WRITE_BOTH, judge, wire};
use crate::node::{RESP_PORT, name};
use crate::plan::Plan;
use crate::story;
use bytes::{BufMut, BytesMut};
use hypercache::env::{self, simulated};
use hypercache::net::{self, TcpStream};
use hypercache::resp::{Limits, Reply, ReplyDecoder};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A client gives up on an answer after this.
const PATIENCE: Duration = Duration::from_secs(6);
/// And so soon, with a wide seed, on a connection that does not come about.
const CONNECTS: Duration = Duration::from_millis(500);
/// Keys of each kind at a time.
const KEYS: u64 = 3;

/// How close together clients are.
struct Pace {
    crowded: bool,
    /// A register is written for so long, then its successor: histories of a key stay short.
    key_ms: u64,
    /// Registers at a time.
    keys: u64,
    /// Longest pause after what succeeded.
    pause_ms: u64,
}

impl Pace {
    fn new(crowded: bool) -> Pace {
        match crowded {
            true => Pace { crowded, key_ms: 400, keys: 2, pause_ms: 4 },
            false => Pace { crowded, key_ms: 1500, keys: KEYS, pause_ms: 25 },
        }
    }
}

pub struct Client {
    id: usize,
    rng: fastrand::Rng,
    pace: Pace,
    /// Whether it fills memory.
    fills: bool,
    /// Whether its seed is a wide one.
    wide: bool,
    /// Whether slots move, and what has a deadline lies in those that do.
    moving: bool,
    nodes: usize,
    node: usize,
    connection: Option<(TcpStream, ReplyDecoder, BytesMut)>,
    written: u64,
    /// Key and value last seen, from which to swap.
    seen: Option<(String, String)>,
    /// What the key that is watched held when it was read.
    watched: Option<String>,
    /// Keys with a ttl that this client wrote, and when it forgets them.
    mortal: Vec<(String, u64)>,
    history: History,
}

/// Keys that clients write now and soon.
pub fn keys_about(at: Duration, crowded: bool) -> Vec<String> {
    let pace = Pace::new(crowded);
    let now = at.as_nanos() as u64 / 1_000_000 / pace.key_ms;
    let names = |kind: &'static str, keys: u64, per: u64, ahead: u64| {
        (now / per..=now / per + ahead).flat_map(move |at| (0..keys).map(move |n| format!("{kind}{n}.{at}")))
    };
    let registers = names("r", pace.keys, 1, 2).chain(names("b", KEYS, 1, 1));
    let others = names("l", KEYS, 2, 1).chain(names("q", 2, 2, 1)).chain(names("c", 2, 4, 0));
    registers.chain(others).collect()
}

fn now_ns() -> u64 {
    simulated::true_time().as_nanos() as u64
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Client {
    pub fn new(id: usize, plan: &Plan, history: History) -> Client {
        let mut rng = fastrand::Rng::with_seed(plan.seed.wrapping_mul(1000) + id as u64);
        let node = rng.usize(1..=plan.all());
        Client {
            id,
            rng,
            pace: Pace::new(plan.crowded),
            fills: plan.limit.is_some(),
            wide: plan.wide,
            moving: plan.moving,
            nodes: plan.all(),
            node,
            connection: None,
            written: 0,
            seen: None,
            watched: None,
            mortal: Vec::new(),
            history,
        }
    }

    /// Does one thing after the other until told to stop.
    pub async fn run(mut self, stop: Rc<Cell<bool>>) {
        while !stop.get() {
            let words = self.next();
            let outcome = self.call(words, false).await;
            let pause = match outcome {
                Outcome::Ok(_) => self.rng.u64(1..self.pace.pause_ms),
                _ => self.rng.u64(20..120),
            };
            env::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn new_value(&mut self) -> String {
        self.written += 1;
        (self.id as u64 * 1_000_000 + self.written).to_string()
    }

    fn next(&mut self) -> Vec<String> {
        let at = now_ns() / 1_000_000 / self.pace.key_ms;
        let key = format!("r{}.{at}", self.rng.u64(..self.pace.keys));
        // A client that also writes waits for its write where no quorum is; these go on asking such a node.
        if self.id.is_multiple_of(3) {
            return match self.pace.crowded && self.id.is_multiple_of(2) {
                true => words(&["GET", &key]),
                false => words(&["HC.READ", "lease", "GET", &key]),
            };
        }
        if self.id % 5 == 4 {
            return self.count_read(at / 4);
        }
        let seen = self.seen.as_ref().filter(|(known, _)| *known == key).map(|(_, value)| value.clone());
        match (self.rng.u8(..100), seen) {
            (0..18, _) => words(&["GET", &key]),
            (28..32, _) if self.wide => words(&[WATCH_SWAP, &key, &self.new_value()]),
            (18..32, _) => words(&["HC.READ", "lease", "GET", &key]),
            (32..40, Some(old)) => words(&["SET", &key, &self.new_value(), "IFEQ", &old]),
            (40..44, _) => words(&["SET", &key, &self.new_value(), "NX"]),
            (44..46, _) => words(&["DEL", &key]),
            (46..57, _) => {
                let list = format!("l{}.{}", self.rng.u64(..KEYS), at / 2);
                words(&["RPUSH", &list, &self.new_value()])
            }
            (57..61, _) => {
                let value = self.new_value();
                let ttl = self.rng.u64(200..4000);
                self.mortal(self.mortal_key('t', &key, &value), &value, ttl)
            }
            (61..70, _) if !self.mortal.is_empty() => self.look_at_mortal(),
            (70..76, _) => {
                let both = format!("b{}.{at}", self.rng.u64(..KEYS));
                match self.rng.bool() {
                    true => words(&[WRITE_BOTH, &both, &self.new_value()]),
                    false => words(&[READ_BOTH, &both]),
                }
            }
            (76..81, _) => {
                let queue = format!("q{}.{}", self.rng.u64(..2), at / 2);
                match self.rng.u8(..5) {
                    0 | 1 => words(&["BLPOP", &queue, if self.rng.bool() { "0.05" } else { "0.4" }]),
                    _ => words(&["RPUSH", &queue, &self.new_value()]),
                }
            }
            (81..89, _) => self.counter(at / 4),
            (89..94, _) if self.fills => {
                let value = self.new_value();
                let filling = format!("{value}{}", "x".repeat(self.rng.usize(1000..6000)));
                self.mortal(self.mortal_key('e', &key, &value), &filling, 600_000)
            }
            _ => words(&["SET", &key, &self.new_value()]),
        }
    }

    /// Where slots move, it lies in that of a register.
    fn mortal_key(&self, kind: char, register: &str, value: &str) -> String {
        if self.moving { format!("{kind}{{{register}}}{value}") } else { format!("{kind}{value}") }
    }

    fn mortal(&mut self, key: String, value: &str, ttl_ms: u64) -> Vec<String> {
        let forgotten = now_ns() + (ttl_ms.min(4000) + 1500) * 1_000_000;
        self.mortal.push((key.clone(), forgotten));
        words(&["SET", &key, value, "PX", &ttl_ms.to_string()])
    }

    fn look_at_mortal(&mut self) -> Vec<String> {
        let now = now_ns();
        self.mortal.retain(|(_, until)| *until > now);
        match self.rng.choice(&self.mortal) {
            Some((mortal, _)) if self.rng.bool() => words(&["GET", mortal]),
            Some((mortal, _)) => words(&["HC.READ", "lease", "GET", mortal]),
            None => words(&["GET", "t0"]),
        }
    }

    fn counter(&mut self, at: u64) -> Vec<String> {
        match self.rng.bool() {
            true => words(&["INCR", &self.counter_key(at)]),
            false => self.count_read(at),
        }
    }

    fn counter_key(&mut self, at: u64) -> String {
        format!("c{}.{at}", self.rng.u64(..2))
    }

    /// A counter at any level.
    fn count_read(&mut self, at: u64) -> Vec<String> {
        let key = self.counter_key(at);
        match self.rng.u8(..10) {
            0..6 => words(&["HC.READ", &format!("bounded:{}", self.rng.u64(20..500)), "GET", &key]),
            6..9 => words(&["HC.READ", "eventual", "GET", &key]),
            _ => words(&["GET", &key]),
        }
    }

    /// Sends one command and notes what came of it.
    pub async fn call(&mut self, mut words: Vec<String>, last: bool) -> Outcome {
        let from = now_ns();
        let answer = match env::timeout(PATIENCE, self.answer(&words)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let mut outcome = judge(&words, answer);
        if words[0] == WATCH_SWAP {
            match (self.watched.take(), &outcome) {
                (Some(read), _) => words.push(read),
                (None, Outcome::Broken(_)) => (),
                // It came to no transaction.
                (None, _) => outcome = Outcome::Failed("the key could not be watched and read".to_owned()),
            }
        }
        let op = Op { client: self.id, node: self.node, words, from, to: now_ns(), outcome: outcome.clone(), last };
        if op.name() == "GET"
            && let Some(Reply::Bulk(value)) = op.reply()
        {
            self.seen = Some((op.key().to_owned(), String::from_utf8_lossy(value).into_owned()));
        }
        story::tell(&format!("c{}", self.id), op.text());
        if !matches!(outcome, Outcome::Ok(_)) {
            self.go_elsewhere();
        }
        self.history.borrow_mut().push(op);
        outcome
    }

    fn go_elsewhere(&mut self) {
        self.connection = None;
        self.node = self.rng.usize(1..=self.nodes);
    }

    async fn answer(&mut self, words: &[String]) -> io::Result<Reply> {
        if self.connection.is_none() {
            let address = format!("{}:{RESP_PORT}", name(self.node));
            // Nothing was sent: as good as a refusal.
            let patience = if self.wide { CONNECTS } else { PATIENCE };
            let Ok(Ok(stream)) = env::timeout(patience, net::connect(&address)).await else {
                return Ok(Reply::error("CLUSTERDOWN no connection to the node"));
            };
            self.connection = Some((stream, ReplyDecoder::new(Limits::default()), BytesMut::new()));
        }
        if words[0] == WATCH_SWAP {
            let watch = ["WATCH", "GET"].map(|command| vec![command.to_owned(), words[1].clone()]);
            match &self.exchange(&watch).await?[..] {
                [Reply::Status(_), Reply::Nil] => self.watched = Some(NOTHING.to_owned()),
                [Reply::Status(_), Reply::Bulk(value)] => {
                    self.watched = Some(String::from_utf8_lossy(value).into_owned());
                }
                [watch, get] => return Ok(if matches!(watch, Reply::Error(_)) { watch.clone() } else { get.clone() }),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.exchange(&wire(words)).await?.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends commands at once, and waits for all of their replies.
    async fn exchange(&mut self, commands: &[Vec<String>]) -> io::Result<Vec<Reply>> {
        let (stream, decoder, input) = self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let bytes: BytesMut = commands.iter().flat_map(|command| encode(command)).collect();
        stream.write_all(&bytes).await?;
        let mut replies = Vec::new();
        loop {
            match decoder.decode(input) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) if stream.read_buf(input).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(None) => (),
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
            }
            if replies.len() == commands.len() {
                return Ok(replies);
            }
        }
    }
}

fn encode(words: &[String]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.put_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    out
}
