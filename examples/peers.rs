//! Closed loops at caches and stores that do not speak Redis' protocol, for `scripts/bench`: puts and gets at etcd over gRPC, sets and
//! gets at memcached over its text protocol. Prints a JSON line: how many in how long, and percentiles in microseconds.

#![allow(clippy::disallowed_methods, reason = "measuring is about real time")]

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Etcd,
    Memcached,
}

#[derive(Clone, Parser)]
struct Options {
    peer: Peer,
    /// Several: connections are dealt to them.
    #[arg(long, required = true)]
    address: Vec<String>,
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Requests that each connection has under way.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    #[arg(long, default_value_t = 64)]
    value_bytes: usize,
    /// Reads instead of writes.
    #[arg(long)]
    gets: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(string, tag = "1")]
    key: String,
}

/// An answer of which nothing is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {}

/// One of those that ask at the same time.
struct Client {
    options: Options,
    random: fastrand::Rng,
    /// Until all are connected.
    all: Arc<Barrier>,
    /// What it waited each time.
    micros: Vec<u32>,
}

impl Client {
    fn new(options: &Options, all: &Arc<Barrier>, number: usize) -> Client {
        let random = fastrand::Rng::with_seed(number as u64);
        Client { options: options.clone(), random, all: all.clone(), micros: Vec::new() }
    }

    async fn end(&self) -> Instant {
        self.all.wait().await;
        Instant::now() + Duration::from_secs_f64(self.options.seconds)
    }

    fn key(&mut self) -> String {
        format!("key:{:012}", self.random.u64(0..self.options.keys))
    }

    fn value(&self) -> Vec<u8> {
        vec![b'x'; self.options.value_bytes]
    }

    /// What is answered after the end counts no more.
    fn note(&mut self, began: Instant, end: Instant, times: usize) -> bool {
        let now = Instant::now();
        if now < end {
            self.micros.extend(std::iter::repeat_n(now.duration_since(began).as_micros() as u32, times));
        }
        now < end
    }

    async fn etcd(mut self, channel: Channel) -> anyhow::Result<Vec<u32>> {
        let mut grpc = tonic::client::Grpc::new(channel);
        let end = self.end().await;
        loop {
            let (key, value, began) = (self.key(), self.value(), Instant::now());
            grpc.ready().await?;
            if self.options.gets {
                let codec = ProstCodec::<Range, Answer>::default();
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Range");
                grpc.unary(tonic::Request::new(Range { key }), path, codec).await?;
            } else {
                let codec = ProstCodec::<Put, Answer>::default();
                let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
                grpc.unary(tonic::Request::new(Put { key, value }), path, codec).await?;
            }
            if !self.note(began, end, 1) {
                return Ok(self.micros);
            }
        }
    }

    async fn memcached(mut self, mut stream: TcpStream) -> anyhow::Result<Vec<u32>> {
        let end = self.end().await;
        loop {
            let out: Vec<u8> = (0..self.options.pipeline).flat_map(|_| self.line()).collect();
            let began = Instant::now();
            stream.write_all(&out).await?;
            self.answers(&mut stream).await?;
            if !self.note(began, end, self.options.pipeline) {
                return Ok(self.micros);
            }
        }
    }

    fn line(&mut self) -> Vec<u8> {
        let key = self.key();
        if self.options.gets {
            return format!("get {key}\r\n").into_bytes();
        }
        let value = self.value();
        [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat()
    }

    async fn answers(&self, stream: &mut TcpStream) -> anyhow::Result<()> {
        let last: &[u8] = if self.options.gets { b"END" } else { b"STORED" };
        let (mut input, mut missing) = (Vec::with_capacity(1 << 16), self.options.pipeline);
        while missing > 0 {
            ensure!(stream.read_buf(&mut input).await? > 0, "memcached closed the connection");
            let whole = input.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in input[..whole].split(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                ensure!(!line.ends_with(b"ERROR"), "memcached: {}", String::from_utf8_lossy(line));
                missing -= usize::from(line == last);
            }
            input.drain(..whole);
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // What etcd is asked at once are so many requests on one connection, each of a client of its own.
    let (askers, each) = match options.peer {
        Peer::Etcd => (options.connections * options.pipeline, options.pipeline),
        Peer::Memcached => (options.connections, 1),
    };
    let all = Arc::new(Barrier::new(askers));
    let mut running = Vec::new();
    for address in options.address.iter().cycle().take(options.connections) {
        let first = running.len();
        let clients = (first..first + each).map(|number| Client::new(&options, &all, number));
        match options.peer {
            Peer::Etcd => {
                let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
                running.extend(clients.map(|client| tokio::spawn(client.etcd(channel.clone()))));
            }
            Peer::Memcached => {
                let stream = TcpStream::connect(address).await.context("connecting")?;
                stream.set_nodelay(true)?;
                let [client] = clients.collect::<Vec<_>>().try_into().ok().context("one client a connection")?;
                running.push(tokio::spawn(client.memcached(stream)));
            }
        }
    }
    let mut micros = Vec::new();
    for each in running {
        micros.extend(each.await??);
    }
    micros.sort_unstable();
    let at = |share: f64| micros.get((micros.len() as f64 * share) as usize).copied();
    println!(
        "{}",
        json!({
            "count": micros.len(), "seconds": options.seconds, "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999),
        })
    );
    Ok(())
}
