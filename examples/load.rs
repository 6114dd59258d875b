//! A load of GETs and SETs. By itself an open loop at a fixed rate, with the latency of each request counted from the moment it
//! was *due*: a server that stops for a second is charged with every request that should have been answered in it. With
//! `--closed` one that sends as much as is answered.
//!
//! Prints a JSON line: how many were sent in how long, errors and what they said, percentiles in microseconds for GET and SET
//! apart, and how late the load itself sent them, which is in the latencies too. With `--parts` one for each part, as whoever
//! started it divides the time by lines on standard input.

#![allow(clippy::disallowed_methods, reason = "measuring is about real time")]

use anyhow::{Context, ensure};
use clap::Parser;
use hypercache::resp::{Limits, Reply, ReplyDecoder};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[derive(Parser)]
struct Options {
    /// Several: connections are dealt to them.
    #[arg(long, default_value = "127.0.0.1:6379")]
    address: Vec<String>,
    /// Where a connection may go on when the server closes it, as a pool's would; several, tried at random. Without one that
    /// ends the load.
    #[arg(long)]
    roam: Vec<String>,
    /// Requests a second, over all connections.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Requests of a connection that are due, and sent, together.
    #[arg(long, default_value_t = 1)]
    pipeline: u64,
    /// In place of --rate: the next are due when all of a connection are answered.
    #[arg(long, conflicts_with = "rate")]
    closed: bool,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// In place of --seconds: each line on standard input ends a part, and its end the load.
    #[arg(long)]
    parts: bool,
    #[arg(long, default_value_t = 50)]
    connections: u64,
    /// Keys are `key:` and twelve digits below this; GETs choose among them at random.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Some keys are chosen more often: the one of rank n with a weight of n to the power of minus this, below 1.
    #[arg(long)]
    zipf: Option<f64>,
    /// SETs go through the keys in order from here instead of at random: the keyspace grows.
    #[arg(long)]
    grow_from: Option<u64>,
    #[arg(long, default_value_t = 32)]
    value_bytes: usize,
    /// Share of GETs, in percent.
    #[arg(long, default_value_t = 50)]
    gets: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What was measured in a part; latencies in microseconds.
#[derive(Default)]
struct Measured {
    gets: Vec<u32>,
    sets: Vec<u32>,
    /// How long after they were due they were sent.
    late: Vec<u32>,
    errors: u64,
    /// What the first of them said.
    first_error: Option<String>,
    /// The first words of all of them.
    codes: BTreeMap<String, u64>,
    at: BTreeMap<String, Trouble>,
}

/// What went wrong at one address.
#[derive(Default)]
struct Trouble {
    /// Error replies, of those that say that nobody knows, and of the others.
    errors: u64,
    uncertain: u64,
    /// Connections that the server closed, and requests that it had not answered then.
    closed: u64,
    unanswered: u64,
}

/// What all connections share.
struct Shared {
    options: Options,
    zipf: Option<Zipf>,
    start: Instant,
    /// Nothing is due from then on.
    end: OnceLock<Instant>,
    /// One of each connection: something is due, or it is over.
    due: Vec<Notify>,
    measured: Mutex<Measured>,
    /// When the part began.
    part: Mutex<Instant>,
}

impl Shared {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().expect("nobody panics with it")
    }

    /// Ends a part.
    fn tell(&self) {
        let Measured { gets, sets, late, errors, first_error, codes, at } = std::mem::take(&mut *self.measured());
        let at: BTreeMap<String, Value> = at.into_iter().map(|(address, trouble)| (address, trouble.told())).collect();
        let (get, set, late) = (summary(gets), summary(sets), summary(late));
        let (now, mut part) = (Instant::now(), self.part.lock().expect("nobody panics with it"));
        let seconds = now.duration_since(std::mem::replace(&mut *part, now)).as_secs_f64();
        println!(
            "{}",
            json!({
                "seconds": seconds, "errors": errors, "first_error": first_error, "codes": codes,
                "get": get, "set": set, "late": late, "at": at,
            })
        );
    }

    fn is_over(&self, due: Instant) -> bool {
        self.end.get().is_some_and(|end| due >= *end)
    }

    /// When the nth pipeline of all is due. Connections take turns.
    fn due(&self, nth: u64) -> Instant {
        self.start + Duration::from_secs_f64((nth * self.options.pipeline) as f64 / self.options.rate as f64)
    }

    /// Wakes each connection when its next pipeline is due, and all when it is over. A thread of its own, since the runtime's clock has no
    /// parts of a millisecond.
    fn pace(&self) {
        let mut nth = 0;
        while !self.is_over(self.due(nth)) {
            std::thread::sleep(TICK);
            let now = Instant::now();
            let first = nth;
            while self.due(nth) <= now {
                nth += 1;
            }
            for each in first..nth.min(first + self.options.connections) {
                self.due[(each % self.options.connections) as usize].notify_one();
            }
        }
        self.due.iter().for_each(Notify::notify_one);
    }

    fn key(&self, random: &mut fastrand::Rng) -> u64 {
        match &self.zipf {
            Some(zipf) => zipf.draw(random),
            None => random.u64(0..self.options.keys),
        }
    }
}

/// Numbers below `keys`, some more often. An inverse of the distribution's sum that is exact for the first two ranks and close for the
/// others (Gray and others, "Quickly generating billion-record synthetic databases", 1994).
struct Zipf {
    keys: u64,
    skew: f64,
    sum: f64,
    eta: f64,
}

impl Zipf {
    fn new(keys: u64, skew: f64) -> Zipf {
        let sum = |ranks: u64| (1..=ranks).map(|rank| (rank as f64).powf(-skew)).sum::<f64>();
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - skew)) / (1.0 - sum(2) / sum(keys));
        Zipf { keys, skew, sum: sum(keys), eta }
    }

    fn draw(&self, random: &mut fastrand::Rng) -> u64 {
        let share = random.f64();
        let rank = match share * self.sum {
            sum if sum < 1.0 => 0,
            sum if sum < 1.0 + 0.5_f64.powf(self.skew) => 1,
            _ => (self.keys as f64 * (self.eta * share - self.eta + 1.0).powf(1.0 / (1.0 - self.skew))) as u64,
        };
        // Those that are asked for most do not lie side by side.
        rank.wrapping_mul(2_654_435_761) % self.keys
    }
}

impl Trouble {
    fn told(&self) -> Value {
        let Trouble { errors, uncertain, closed, unanswered } = self;
        json!({ "errors": errors, "uncertain": uncertain, "closed": closed, "unanswered": unanswered })
    }
}

/// What was sent and is not answered yet.
struct Sent {
    due: Instant,
    get: bool,
}

/// One connection, and those that follow it where it roams.
struct Client {
    shared: Arc<Shared>,
    number: u64,
    random: fastrand::Rng,
    address: String,
    /// Of all pipelines, the number of its next one.
    next: u64,
    /// SETs so far.
    nth: u64,
    value: String,
    waiting: VecDeque<Sent>,
}

/// How often it is looked what is due.
const TICK: Duration = Duration::from_micros(50);
/// How long a connection that roams looks for a server, and how long it waits between two.
const ROAMS: Duration = Duration::from_secs(30);
const NEXT: Duration = Duration::from_millis(5);

impl Client {
    fn new(shared: &Arc<Shared>, number: u64) -> Client {
        let options = &shared.options;
        let mut random = fastrand::Rng::with_seed(options.seed << 32 | number);
        Client {
            number,
            address: options.address[number as usize % options.address.len()].clone(),
            next: number,
            nth: 0,
            value: (0..options.value_bytes).map(|_| random.alphanumeric()).collect(),
            waiting: VecDeque::new(),
            random,
            shared: shared.clone(),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.address).await.context("connecting")?;
        tokio::time::sleep_until(self.shared.start.into()).await;
        while !self.talk(stream).await? {
            ensure!(!self.shared.options.roam.is_empty(), "the server closed the connection");
            self.note_closed();
            stream = self.roam().await?;
        }
        Ok(())
    }

    fn note_closed(&mut self) {
        let mut measured = self.shared.measured();
        let trouble = measured.at.entry(self.address.clone()).or_default();
        trouble.closed += 1;
        trouble.unanswered += self.waiting.drain(..).len() as u64;
    }

    /// A connection to somebody else.
    async fn roam(&mut self) -> anyhow::Result<TcpStream> {
        let left = std::mem::take(&mut self.address);
        let since = Instant::now();
        loop {
            ensure!(since.elapsed() < ROAMS, "nobody takes the connection that {left} closed");
            let there: Vec<&String> = self.shared.options.roam.iter().filter(|address| **address != left).collect();
            if let Some(address) = self.random.choice(there)
                && let Ok(stream) = TcpStream::connect(address).await
            {
                self.address = address.clone();
                return Ok(stream);
            }
            tokio::time::sleep(NEXT).await;
        }
    }

    fn is_over(&self) -> bool {
        let next = if self.shared.options.closed { Instant::now() } else { self.shared.due(self.next) };
        self.shared.is_over(next)
    }

    /// Sends what is due until it is over; false if the server closed the connection before.
    async fn talk(&mut self, stream: TcpStream) -> anyhow::Result<bool> {
        stream.set_nodelay(true)?;
        let (mut reader, mut writer) = stream.into_split();
        let (mut out, mut input) = (Vec::new(), bytes::BytesMut::with_capacity(1 << 16));
        let mut replies = ReplyDecoder::new(Limits::default());
        let shared = self.shared.clone();
        while !self.is_over() || !self.waiting.is_empty() {
            self.put_due(&mut out);
            if !out.is_empty() {
                if is_closed(writer.write_all(&out).await.map(|()| 1))? {
                    return Ok(false);
                }
                out.clear();
            }
            if shared.options.closed && self.waiting.is_empty() {
                // It was over when it was looked for what is due, and not a moment before: nobody would wake it.
                continue;
            }
            tokio::select! {
                biased;
                read = reader.read_buf(&mut input) => {
                    if is_closed(read)? {
                        return Ok(false);
                    }
                    let now = Instant::now();
                    while let Some(reply) = replies.decode(&mut input)? {
                        self.note(now, &reply)?;
                    }
                }
                () = shared.due[self.number as usize].notified() => {}
            }
        }
        Ok(true)
    }

    fn put_due(&mut self, out: &mut Vec<u8>) {
        let (now, shared) = (Instant::now(), self.shared.clone());
        let pipeline = shared.options.pipeline;
        if shared.options.closed {
            let count = if self.waiting.is_empty() && !self.is_over() { pipeline } else { 0 };
            (0..count).for_each(|_| self.put(now, out));
            return;
        }
        while shared.due(self.next) <= now && !self.is_over() {
            let due = shared.due(self.next);
            shared.measured().late.push(now.duration_since(due).as_micros() as u32);
            (0..pipeline).for_each(|_| self.put(due, out));
            self.next += shared.options.connections;
        }
    }

    fn put(&mut self, due: Instant, out: &mut Vec<u8>) {
        let options = &self.shared.options;
        let get = self.random.u64(0..100) < options.gets;
        let key = match options.grow_from {
            Some(from) if !get => from + self.nth * options.connections + self.number,
            _ => self.shared.key(&mut self.random),
        };
        if get {
            out.extend_from_slice(format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n").as_bytes());
        } else {
            self.nth += 1;
            let (length, value) = (self.value.len(), &self.value);
            out.extend_from_slice(
                format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${length}\r\n{value}\r\n").as_bytes(),
            );
        }
        self.waiting.push_back(Sent { due, get });
    }

    fn note(&mut self, now: Instant, reply: &Reply) -> anyhow::Result<()> {
        let sent = self.waiting.pop_front().context("a reply to nothing")?;
        let mut measured = self.shared.measured();
        if let Reply::Error(text) = reply {
            let text = String::from_utf8_lossy(text).into_owned();
            let trouble = measured.at.entry(self.address.clone()).or_default();
            let kind = if text.starts_with("UNCERTAIN") { &mut trouble.uncertain } else { &mut trouble.errors };
            *kind += 1;
            measured.errors += 1;
            let code = text.split(' ').next().unwrap_or_default().to_owned();
            *measured.codes.entry(code).or_default() += 1;
            measured.first_error.get_or_insert(text);
        }
        let micros = now.duration_since(sent.due).as_micros() as u32;
        if sent.get {
            measured.gets.push(micros)
        } else {
            measured.sets.push(micros)
        }
        Ok(())
    }
}

/// Whether a connection was closed, by what was read from it or written to it.
fn is_closed(moved: io::Result<usize>) -> io::Result<bool> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match moved {
        Ok(count) => Ok(count == 0),
        Err(e) if matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) => Ok(true),
        Err(e) => Err(e),
    }
}

/// The latency that a share of the requests stays below, in microseconds.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

fn summary(mut latencies: Vec<u32>) -> Value {
    latencies.sort_unstable();
    let at = |share| percentile(&latencies, share);
    json!({
        "count": latencies.len(), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
    })
}

/// Divides the time by what comes on standard input.
fn parts(shared: &Shared) {
    io::stdin().lines().map_while(Result::ok).for_each(|_| shared.tell());
    let _ = shared.end.set(Instant::now());
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // Every connection is there before the first request is due.
    let start = Instant::now() + Duration::from_millis(200);
    ensure!(options.zipf.is_none_or(|skew| (0.0..1.0).contains(&skew)), "--zipf takes 0 and more, below 1");
    let shared = Arc::new(Shared {
        zipf: options.zipf.map(|skew| Zipf::new(options.keys, skew)),
        due: (0..options.connections).map(|_| Notify::new()).collect(),
        options,
        start,
        end: OnceLock::new(),
        measured: Mutex::default(),
        part: Mutex::new(start),
    });
    if shared.options.parts {
        let shared = shared.clone();
        std::thread::spawn(move || parts(&shared));
    } else {
        let _ = shared.end.set(start + Duration::from_secs_f64(shared.options.seconds));
    }
    if !shared.options.closed {
        let shared = shared.clone();
        std::thread::spawn(move || shared.pace());
    }
    let connections = 0..shared.options.connections;
    let running: Vec<_> = connections.map(|number| tokio::spawn(Client::new(&shared, number).run())).collect();
    for connection in running {
        connection.await??;
    }
    shared.tell();
    Ok(())
}
