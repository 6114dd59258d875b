//! An open-loop load of GETs and SETs at a fixed rate, with the latency of each counted from the moment it was *due*: a
//! server that stops for a second is charged with every request that should have been answered in it.
//!
//! Prints one JSON line: how many were sent, errors and what the first said, and percentiles in microseconds for GET and SET apart.

#![allow(clippy::disallowed_methods, reason = "measuring is about real time")]

use anyhow::{Context, ensure};
use clap::Parser;
use hypercache::resp::{Limits, Reply, ReplyDecoder};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Parser, Clone)]
struct Options {
    #[arg(long, default_value = "127.0.0.1:6379")]
    address: String,
    /// Requests a second, over all connections.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 50)]
    connections: u64,
    /// Keys are `key:` and twelve digits below this; GETs choose among them at random.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
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

/// Latencies in microseconds.
#[derive(Default)]
struct Measured {
    gets: Vec<u32>,
    sets: Vec<u32>,
    errors: u64,
    /// What the first of them said.
    first_error: Option<String>,
}

/// What was sent and is not answered yet.
struct Sent {
    due: Instant,
    get: bool,
}

/// How often a connection looks what is due.
const TICK: Duration = Duration::from_millis(1);

async fn run(options: Options, number: u64, start: Instant) -> anyhow::Result<Measured> {
    let stream = TcpStream::connect(&options.address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let mut random = fastrand::Rng::with_seed(options.seed << 32 | number);
    let interval = Duration::from_secs_f64(options.connections as f64 / options.rate as f64);
    let first = start + interval.mul_f64(number as f64 / options.connections as f64);
    let end = start + Duration::from_secs_f64(options.seconds);
    let value: String = (0..options.value_bytes).map(|_| random.alphanumeric()).collect();
    let (mut due, mut waiting, mut measured) = (first, VecDeque::<Sent>::new(), Measured::default());
    let (mut out, mut input) = (Vec::new(), bytes::BytesMut::with_capacity(1 << 16));
    let mut replies = ReplyDecoder::new(Limits::default());
    let mut nth = 0;
    let mut tick = tokio::time::interval(TICK);
    while due < end || !waiting.is_empty() {
        tokio::select! {
            biased;
            read = reader.read_buf(&mut input) => {
                ensure!(read? > 0, "the server closed the connection");
                let now = Instant::now();
                while let Some(reply) = replies.decode(&mut input)? {
                    let sent = waiting.pop_front().context("a reply to nothing")?;
                    let micros = now.duration_since(sent.due).as_micros() as u32;
                    if let Reply::Error(text) = &reply {
                        measured.errors += 1;
                        measured.first_error.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
                    }
                    if sent.get { measured.gets.push(micros) } else { measured.sets.push(micros) }
                }
            }
            _ = tick.tick() => {
                let now = Instant::now();
                while due <= now && due < end {
                    let get = random.u64(0..100) < options.gets;
                    let key = match options.grow_from {
                        Some(from) if !get => from + nth * options.connections + number,
                        _ => random.u64(0..options.keys),
                    };
                    if get {
                        out.extend_from_slice(format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n").as_bytes());
                    } else {
                        nth += 1;
                        let length = value.len();
                        out.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${length}\r\n{value}\r\n").as_bytes());
                    }
                    waiting.push_back(Sent { due, get });
                    due += interval;
                }
                writer.write_all(&out).await?;
                out.clear();
            }
        }
    }
    Ok(measured)
}

/// The latency that a share of the requests stays below, in microseconds.
fn percentile(sorted: &[u32], share: f64) -> u32 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

fn summary(mut latencies: Vec<u32>) -> serde_json::Value {
    latencies.sort_unstable();
    let at = |share| percentile(&latencies, share);
    serde_json::json!({
        "count": latencies.len(), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // Every connection is there before the first request is due.
    let start = Instant::now() + Duration::from_millis(200);
    let running: Vec<_> = (0..options.connections).map(|n| tokio::spawn(run(options.clone(), n, start))).collect();
    let mut all = Measured::default();
    for connection in running {
        let one = connection.await??;
        all.gets.extend(one.gets);
        all.sets.extend(one.sets);
        all.errors += one.errors;
        all.first_error = all.first_error.or(one.first_error);
    }
    let line = serde_json::json!({ "errors": all.errors, "first_error": all.first_error, "get": summary(all.gets), "set": summary(all.sets) });
    println!("{line}");
    Ok(())
}
