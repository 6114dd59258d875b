//! A Redis of the test's own, if one is installed: what it says is what we must say.

// Each test uses what it needs of it.
#![allow(dead_code)]

use bytes::{Bytes, BytesMut};
use hypercache::resp::{Args, Limits, Protocol, Reply, ReplyDecoder};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longer than any reply takes: one that takes longer never comes.
const SILENCE: Duration = Duration::from_secs(60);

/// In its folder.
const SOCKET: &str = "redis.sock";

/// A private Redis, ended with the test.
pub struct Redis {
    process: Child,
    connection: Connection,
    folder: tempfile::TempDir,
}

/// One connection to it.
pub struct Connection {
    stream: UnixStream,
    decoder: ReplyDecoder,
    buffer: BytesMut,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Nothing is lost by ending it at once, and nothing can be done if it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    /// `None` if none is installed.
    pub fn start() -> Option<Redis> {
        Redis::launch(&[])
    }

    /// The same in cluster mode, with all slots its own.
    pub fn start_in_cluster_mode() -> Option<Redis> {
        // Nobody speaks to its bus, but it needs a port for it.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let mut redis =
            Redis::launch(&["--cluster-enabled", "yes", "--bind", "127.0.0.1", "--cluster-port", port.as_str()])?;
        redis.answer(&words("CLUSTER ADDSLOTSRANGE 0 16383"));
        // It says so itself, some seconds after its start. Each question waits a little for a replica that does not exist.
        while !format!("{:?}", redis.answer(&words("CLUSTER INFO"))).contains("cluster_state:ok") {
            redis.answer(&words("WAIT 1 20"));
        }
        Some(redis)
    }

    fn launch(options: &[&str]) -> Option<Redis> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(SOCKET);
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("ready to accept connections"));
        assert!(ready, "redis-server ended before it was ready");
        let connection = Connection::to(&folder);
        Some(Redis { process, connection, folder })
    }

    /// Another connection.
    pub fn connect(&self) -> Connection {
        Connection::to(&self.folder)
    }

    pub fn answer(&mut self, args: &Args) -> Reply {
        self.connection.answer(args)
    }

    /// Asks all of them at once.
    pub fn pipeline(&mut self, requests: &[Args]) -> Vec<Reply> {
        self.connection.pipeline(requests)
    }

    pub fn has_module(&mut self, name: &str) -> bool {
        format!("{:?}", self.answer(&words("MODULE LIST"))).contains(&format!("{name:?}"))
    }

    pub fn version(&mut self) -> (u32, u32) {
        let Reply::Bulk(info) = self.answer(&words("INFO server")) else { panic!("INFO answers a bulk") };
        let info = String::from_utf8_lossy(&info).into_owned();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
        let mut parts = version.split('.').map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    }
}

impl Connection {
    fn to(folder: &tempfile::TempDir) -> Connection {
        let stream = UnixStream::connect(folder.path().join(SOCKET)).unwrap();
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        Connection { stream, decoder: ReplyDecoder::new(Limits::default()), buffer: BytesMut::new() }
    }

    pub fn answer(&mut self, args: &Args) -> Reply {
        self.pipeline(std::slice::from_ref(args)).remove(0)
    }

    /// Asks all of them at once.
    pub fn pipeline(&mut self, requests: &[Args]) -> Vec<Reply> {
        let mut bytes = BytesMut::new();
        for args in requests {
            Reply::Array(args.iter().cloned().map(Reply::Bulk).collect()).encode(Protocol::Resp2, &mut bytes);
        }
        self.stream.write_all(&bytes).unwrap();
        requests.iter().map(|_| self.next()).collect()
    }

    /// What comes next.
    pub fn next(&mut self) -> Reply {
        let mut piece = [0; 64 << 10];
        loop {
            if let Some(reply) = self.decoder.decode(&mut self.buffer).unwrap() {
                return reply;
            }
            let length = self.stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "redis-server closed the connection");
            self.buffer.extend_from_slice(&piece[..length]);
        }
    }
}

/// A request, words between spaces.
pub fn words(line: &str) -> Args {
    line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}
