//! Clients: real connections to the RESP doors, one operation at a time each, everything noted.

use crate::history::{History, Op, Outcome, judge};
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
/// A key is written for so long, then its successor: histories of a key stay short.
const KEY_MS: u64 = 1500;
/// Keys of each kind at a time.
const KEYS: u64 = 3;

pub struct Client {
    id: usize,
    rng: fastrand::Rng,
    nodes: usize,
    node: usize,
    connection: Option<(TcpStream, ReplyDecoder, BytesMut)>,
    written: u64,
    /// Key and value last seen, from which to swap.
    seen: Option<(String, String)>,
    /// Keys with a ttl that this client wrote, and when it forgets them.
    mortal: Vec<(String, u64)>,
    history: History,
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
        let node = rng.usize(1..=plan.nodes);
        Client {
            id,
            rng,
            nodes: plan.nodes,
            node,
            connection: None,
            written: 0,
            seen: None,
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
                Outcome::Ok(_) => self.rng.u64(1..25),
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
        let at = now_ns() / 1_000_000 / KEY_MS;
        let key = format!("r{}.{at}", self.rng.u64(..KEYS));
        let list = format!("l{}.{}", self.rng.u64(..KEYS), at / 2);
        let seen = self.seen.as_ref().filter(|(known, _)| *known == key).map(|(_, value)| value.clone());
        // A client that also writes waits for its write where no quorum is; this one goes on asking such a node.
        if self.id.is_multiple_of(3) {
            return words(&["HC.READ", "lease", "GET", &key]);
        }
        match (self.rng.u8(..100), seen) {
            (0..22, _) => words(&["GET", &key]),
            (22..40, _) => words(&["HC.READ", "lease", "GET", &key]),
            (40..50, Some(old)) => words(&["SET", &key, &self.new_value(), "IFEQ", &old]),
            (50..54, _) => words(&["SET", &key, &self.new_value(), "NX"]),
            (54..57, _) => words(&["DEL", &key]),
            (57..70, _) => words(&["RPUSH", &list, &self.new_value()]),
            (70..75, _) => {
                let value = self.new_value();
                let (mortal, ttl) = (format!("t{value}"), self.rng.u64(200..4000));
                self.mortal.push((mortal.clone(), now_ns() + (ttl + 1500) * 1_000_000));
                words(&["SET", &mortal, &value, "PX", &ttl.to_string()])
            }
            (75..88, _) if !self.mortal.is_empty() => {
                let now = now_ns();
                self.mortal.retain(|(_, until)| *until > now);
                match self.rng.choice(&self.mortal) {
                    Some((mortal, _)) if self.rng.bool() => words(&["GET", mortal]),
                    Some((mortal, _)) => words(&["HC.READ", "lease", "GET", mortal]),
                    None => words(&["GET", &key]),
                }
            }
            _ => words(&["SET", &key, &self.new_value()]),
        }
    }

    /// Sends one command and notes what came of it.
    pub async fn call(&mut self, words: Vec<String>, last: bool) -> Outcome {
        let from = now_ns();
        let answer = match env::timeout(PATIENCE, self.answer(&words)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let outcome = judge(&words, answer);
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
            let Ok(stream) = net::connect(&address).await else {
                return Ok(Reply::error("CLUSTERDOWN no connection to the node"));
            };
            self.connection = Some((stream, ReplyDecoder::new(Limits::default()), BytesMut::new()));
        }
        let (stream, decoder, input) = self.connection.as_mut().expect("it was made above");
        stream.write_all(&encode(words)).await?;
        loop {
            match decoder.decode(input) {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => (),
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
            }
            if stream.read_buf(input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
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
