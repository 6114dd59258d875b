//! Two bare programs that show what the work of a request costs at all; `scripts/bench` measures the server beside them.
//!
//! - `limits echo PORT`: one thread answers each command with a constant.
//! - `limits floor PORT FILE --follower ADDRESS --follower ADDRESS`: appends each command to a file, has two followers do the same,
//!   and answers `+OK` when a majority of the three has synced; whatever came meanwhile is the next group. It keeps no keys.
//! - `limits follow PORT FILE`: a follower.
//!
//! Neither elects, recovers or checks anything: whoever promises what the server promises does more.

#![allow(clippy::disallowed_methods, reason = "measuring is about real time")]

use anyhow::{Context, ensure};
use bytes::{Buf, BytesMut};
use clap::{Parser, Subcommand};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc as channel, oneshot};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Answers each command with a constant of 64 bytes.
    Echo { port: u16 },
    /// Appends, replicates, syncs, answers.
    Floor {
        port: u16,
        file: PathBuf,
        #[arg(long = "follower")]
        followers: Vec<String>,
    },
    /// Appends and syncs what the floor sends.
    Follow { port: u16, file: PathBuf },
}

/// Bytes and number of the whole commands at the front.
fn whole(input: &[u8]) -> anyhow::Result<(usize, usize)> {
    let number = |at: usize, mark: u8| -> anyhow::Result<Option<(usize, usize)>> {
        let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
        ensure!(rest[0] == mark, "arrays of bulk strings are understood, nothing else");
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        Ok(Some((std::str::from_utf8(&rest[1..end - 1])?.parse()?, at + end + 1)))
    };
    let (mut bytes, mut commands) = (0, 0);
    'commands: while let Some((words, mut at)) = number(bytes, b'*')? {
        for _ in 0..words {
            match number(at, b'$')? {
                Some((length, body)) if body + length + 2 <= input.len() => at = body + length + 2,
                _ => break 'commands,
            }
        }
        (bytes, commands) = (at, commands + 1);
    }
    Ok((bytes, commands))
}

async fn clients<F: Future<Output = anyhow::Result<()>> + 'static>(
    port: u16,
    serve: impl Fn(TcpStream) -> F,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.context("listening")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(serve(stream));
    }
}

async fn echo(mut stream: TcpStream) -> anyhow::Result<()> {
    let reply = format!("$64\r\n{}\r\n", "x".repeat(64)).into_bytes();
    let mut input = BytesMut::with_capacity(1 << 16);
    while stream.read_buf(&mut input).await? > 0 {
        let (bytes, commands) = whole(&input)?;
        input.advance(bytes);
        stream.write_all(&reply.repeat(commands)).await?;
    }
    Ok(())
}

/// What waits to be synced together: its bytes, and who is told.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Queue {
    next: Mutex<Group>,
    some: Notify,
}

async fn ask(mut stream: TcpStream, queue: Arc<Queue>) -> anyhow::Result<()> {
    let mut input = BytesMut::with_capacity(1 << 16);
    while stream.read_buf(&mut input).await? > 0 {
        let (bytes, commands) = whole(&input)?;
        if commands == 0 {
            continue;
        }
        let (told, synced) = oneshot::channel();
        {
            let mut next = queue.next.lock().expect("nobody panics with it");
            next.bytes.extend_from_slice(&input[..bytes]);
            next.waiting.push(told);
        }
        queue.some.notify_one();
        input.advance(bytes);
        synced.await?;
        stream.write_all(&b"+OK\r\n".repeat(commands)).await?;
    }
    Ok(())
}

/// Writes one group after the other: here on a thread, at the followers over their links.
async fn commit(queue: Arc<Queue>, mut file: File, followers: Vec<String>) -> anyhow::Result<()> {
    let (acked, mut acks) = channel::unbounded_channel::<usize>();
    let (to_disk, groups) = mpsc::channel::<Arc<Vec<u8>>>();
    let here = acked.clone();
    std::thread::spawn(move || {
        for bytes in groups {
            file.write_all(&bytes).and_then(|()| file.sync_data()).expect("the disk takes it");
            let _ = here.send(0);
        }
    });
    let mut links = Vec::new();
    for (member, follower) in (1..).zip(followers) {
        let stream = TcpStream::connect(&follower).await.with_context(|| format!("connecting to {follower}"))?;
        stream.set_nodelay(true)?;
        let (mut answers, link) = stream.into_split();
        links.push(link);
        let there = acked.clone();
        tokio::task::spawn_local(async move {
            while answers.read_u8().await.is_ok() {
                let _ = there.send(member);
            }
        });
    }
    // How many groups each member has on its disk; they are numbered in their order.
    let (mut has, mut number) = (vec![0; links.len() + 1], 0);
    loop {
        queue.some.notified().await;
        let group = std::mem::take(&mut *queue.next.lock().expect("nobody panics with it"));
        if group.waiting.is_empty() {
            continue;
        }
        let bytes = Arc::new(group.bytes);
        to_disk.send(bytes.clone())?;
        for link in &mut links {
            link.write_u32(bytes.len() as u32).await?;
            link.write_all(&bytes).await?;
        }
        number += 1;
        while has.iter().filter(|has| **has >= number).count() <= has.len() / 2 {
            has[acks.recv().await.context("everybody is gone")?] += 1;
        }
        for told in group.waiting {
            // A client that has gone is not told.
            let _ = told.send(());
        }
        queue.some.notify_one();
    }
}

fn follow(port: u16, file: PathBuf) -> anyhow::Result<()> {
    let mut file = File::create(file)?;
    let (mut stream, _) = std::net::TcpListener::bind(("127.0.0.1", port))?.accept()?;
    stream.set_nodelay(true)?;
    let (mut length, mut bytes) = ([0; 4], Vec::new());
    while stream.read_exact(&mut length).is_ok() {
        bytes.resize(u32::from_be_bytes(length) as usize, 0);
        stream.read_exact(&mut bytes)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        stream.write_all(&[1])?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let what = Options::parse().what;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let here = tokio::task::LocalSet::new();
    match what {
        What::Follow { port, file } => follow(port, file),
        What::Echo { port } => here.block_on(&runtime, clients(port, echo)),
        What::Floor { port, file, followers } => here.block_on(&runtime, async {
            let queue = Arc::new(Queue::default());
            let committing = tokio::task::spawn_local(commit(queue.clone(), File::create(file)?, followers));
            tokio::select! {
                ended = clients(port, |stream| ask(stream, queue.clone())) => ended,
                ended = committing => ended?,
            }
        }),
    }
}
