//! Clients that take and give nothing back: the memory they cost has a bound, and whoever behaves is served beside them.
//!
//! `HYPERCACHE_TEST_CONNECTIONS` (150) slow connections, `HYPERCACHE_TEST_OPERATIONS` (40,000) keys in one pipeline and in
//! one command. The long run has 10,000 and 1,000,000; the first needs `ulimit -n 30000`. What an honest client waits
//! beside each is printed, next to what it waits in peace: figures, of which the test judges nothing.

mod cluster;

use cluster::{Cluster, Plan, figures, size};
use hypercache::env;
use hypercache::resp::Reply;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MB: f64 = (1 << 20) as f64;
/// What a client may leave unread.
const OUTPUT: usize = 4 << 20;
/// What sockets hold of both sides, and the allocator beside what is used.
const SLACK_MB: f64 = 64.0;
/// A write that was not taken for so long will not be: the server has stopped reading.
const NOT_TAKEN: Duration = Duration::from_millis(500);
/// Pairs of a SET and a GET of the honest client at least.
const ENOUGH: usize = 200;

fn resident_mb(cluster: &Cluster) -> f64 {
    cluster.metric(1, "hypercache_process_resident_memory_bytes", &[]).expect("the node tells of itself") / MB
}

/// Serves an honest client while others are hostile; gives what `hostile` gave.
fn beside<R: Send>(cluster: &Cluster, what: &str, bound_mb: f64, hostile: impl FnOnce() -> R + Send) -> R {
    let before = resident_mb(cluster);
    let over = AtomicBool::new(false);
    let mut honest = cluster.client(1);
    let (mut waits, mut most) = (Vec::new(), before);
    let given = std::thread::scope(|scope| {
        let hostile = scope.spawn(|| {
            let given = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hostile));
            over.store(true, Ordering::Relaxed);
            given
        });
        while waits.len() < 2 * ENOUGH || !over.load(Ordering::Relaxed) {
            let number = waits.len().to_string();
            for words in [vec!["SET", "honest", &number], vec!["GET", "honest"]] {
                let sent = env::now();
                let reply = honest.must(&words);
                waits.push(sent.elapsed());
                let expected = if words[0] == "SET" { Reply::OK } else { cluster::bulk(&number) };
                assert_eq!(reply, expected, "beside {what}");
            }
            if waits.len().is_multiple_of(100) {
                most = most.max(resident_mb(cluster));
            }
        }
        hostile.join().expect("what it panicked with is caught")
    });
    most = most.max(resident_mb(cluster));
    println!("beside {what}: {}; {:.1} MB more", figures(waits), most - before);
    assert!(most - before <= bound_mb, "{what}: {:.0} MB more than before, bound {bound_mb:.0}", most - before);
    given.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn connect(cluster: &Cluster) -> TcpStream {
    let stream = TcpStream::connect(cluster.node(1).at(cluster::Door::Proxy)).expect("the node listens");
    stream.set_read_timeout(Some(cluster::client::SILENCE)).expect("a limit above zero can be set");
    stream.set_write_timeout(Some(NOT_TAKEN)).expect("a limit above zero can be set");
    stream
}

/// Writes the same bytes until the other side takes no more; gives how many it took. `most`: that it takes more is a
/// failure.
fn write_until_refused(stream: &mut TcpStream, bytes: &[u8], most: usize) -> usize {
    let mut taken = 0;
    loop {
        match stream.write(bytes) {
            Ok(n) => taken += n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return taken,
            Err(e) => panic!("{e}"),
        }
        assert!(taken <= most, "{taken} bytes of requests were taken from a client that reads nothing");
    }
}

fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("all replies come");
    assert!(got == expected, "{:?}", String::from_utf8_lossy(&got[..got.len().min(80)]));
}

fn one_node() -> Cluster {
    Plan::new(1, 1).set(&format!("limits.output_buffer={OUTPUT}B")).set("limits.max_clients=12000").start()
}

#[test]
fn connections_that_send_a_byte_at_a_time_cost_little_and_are_served() {
    let cluster = one_node();
    beside(&cluster, "nobody", SLACK_MB, || ());
    let count = size("HYPERCACHE_TEST_CONNECTIONS", 150) as usize;
    // 30 KB a connection: its task and the first sizes of its buffers.
    beside(&cluster, &format!("{count} slow connections"), SLACK_MB + 0.03 * count as f64, || {
        let mut slow: Vec<TcpStream> = (0..count).map(|_| connect(&cluster)).collect();
        for byte in b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$5\r\nvalue\r\n" {
            slow.iter_mut().for_each(|stream| stream.write_all(&[*byte]).expect("a byte is taken"));
        }
        slow.iter_mut().for_each(|stream| read_exactly(stream, b"+OK\r\n"));
    });
}

#[test]
fn commands_without_an_end_cost_what_was_sent_of_them() {
    const CONNECTIONS: usize = 20;
    const ARGUMENTS: usize = 100_000;
    let cluster = one_node();
    let arguments = b"$1\r\na\r\n".repeat(ARGUMENTS);
    let sent_mb = (CONNECTIONS * arguments.len()) as f64 / MB;
    // An argument is a place in the buffer and a handle of it, beside seven bytes of its own.
    beside(&cluster, "arrays of a million that never end", SLACK_MB + 8.0 * sent_mb, || {
        let mut open: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&cluster)).collect();
        for stream in &mut open {
            stream.write_all(b"*1048576\r\n$3\r\nDEL\r\n").and_then(|()| stream.write_all(&arguments)).expect("taken");
        }
    });
    println!("{sent_mb:.0} MB were sent");
}

#[test]
fn a_long_pipeline_and_a_command_of_as_many_keys_are_answered_whole() {
    let count = size("HYPERCACHE_TEST_OPERATIONS", 40_000);
    let cluster = one_node();
    let commands: Vec<u8> = (0..count)
        .flat_map(|i| {
            let key = format!("pipelined:{i}");
            format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$1\r\nv\r\n", key.len()).into_bytes()
        })
        .collect();
    // The keys themselves, the log's buffers, and what waits on the way.
    let keys_mb = 300.0 * count as f64 / MB;
    beside(&cluster, &format!("a pipeline of {count} keys"), 2.0 * SLACK_MB + keys_mb, || {
        let mut reader = connect(&cluster);
        let mut writer = reader.try_clone().expect("a socket can be shared");
        writer.set_write_timeout(Some(cluster::client::SILENCE)).expect("a limit above zero can be set");
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&commands).expect("all are taken"));
            read_exactly(&mut reader, &b"+OK\r\n".repeat(count as usize));
        });
    });

    beside(&cluster, &format!("an UNLINK of {count} keys"), 2.0 * SLACK_MB + keys_mb, || {
        let mut stream = connect(&cluster);
        stream.set_write_timeout(Some(cluster::client::SILENCE)).expect("a limit above zero can be set");
        let mut command = format!("*{}\r\n$6\r\nUNLINK\r\n", count + 1).into_bytes();
        for i in 0..count {
            let key = format!("pipelined:{i}");
            command.extend_from_slice(format!("${}\r\n{key}\r\n", key.len()).as_bytes());
        }
        stream.write_all(&command).expect("it is taken");
        read_exactly(&mut stream, format!(":{count}\r\n").as_bytes());
    });
}

#[test]
fn who_never_reads_costs_a_bounded_buffer() {
    const CONNECTIONS: usize = 8;
    const VALUE: usize = 1 << 20;
    let cluster = one_node();
    let mut setter = cluster.client(1);
    setter.ok(&["SET", "large", &"x".repeat(VALUE)]);
    let bound_mb = SLACK_MB + CONNECTIONS as f64 * (2.0 * OUTPUT as f64 + 4.0 * VALUE as f64) / MB;
    beside(&cluster, "clients that ask and never read", bound_mb, || {
        let get = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(100);
        let mut deaf: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&cluster)).collect();
        let taken: Vec<usize> = deaf.iter_mut().map(|stream| write_until_refused(stream, &get, 64 << 20)).collect();
        println!("bytes of requests that were taken: {taken:?}");
        // One of them listens after all: nothing was lost.
        let mut late = deaf.pop().expect("there are some");
        let mut expected = format!("${VALUE}\r\n{}", "x".repeat(VALUE)).into_bytes();
        expected.extend_from_slice(b"\r\n");
        (0..20).for_each(|_| read_exactly(&mut late, &expected));
    });

    let listeners: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(&cluster)).collect();
    for mut stream in &listeners {
        stream.write_all(b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n").expect("taken");
        read_exactly(
            &mut stream.try_clone().expect("a socket can be shared"),
            b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
        );
    }
    // Each is let go when it lags too far, so what waits for it is never more than the limit of its class: 32 MB, for
    // all the same bytes.
    let message = "m".repeat(256 << 10);
    beside(&cluster, "listeners that never read", 2.0 * SLACK_MB + bound_mb, || {
        let mut publisher = cluster.client(1);
        (0..400).for_each(|_| drop(publisher.must(&["PUBLISH", "news", &message])));
        cluster::wait_until("listeners that do not read are let go", cluster::PATIENCE, || {
            (publisher.must(&["PUBLISH", "news", "m"]) == Reply::Int(0)).then_some(())
        });
    });
}
