//! The operating system's sockets, with the options that HyperCache sets.

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use tokio::net::tcp::WriteHalf;
pub use tokio::net::{TcpListener, TcpStream};

/// Connects to `host:port`.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// Binds and listens; so many connections may wait in the kernel. Must be called in a runtime.
pub fn listen(addr: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to fade; two servers on one port stay impossible.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(backlog)?;
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

/// Options of a socket between nodes: data that is not acknowledged for `patience` ends the connection.
pub fn tune_link(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(patience))?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive)
}

/// Options of a client's socket: small replies leave at once, and a peer that vanished is noticed. A socket that refuses
/// either still works.
pub fn tune_client(stream: &TcpStream, keepalive: Duration) {
    let _ = stream.set_nodelay(true);
    if !keepalive.is_zero() {
        let _ = SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(keepalive));
    }
}

/// A connection on its way out of one runtime's reactor and into another's.
pub struct Moving(std::net::TcpStream);

impl Moving {
    pub fn new(stream: TcpStream) -> io::Result<Moving> {
        stream.into_std().map(Moving)
    }

    /// Must be called in the runtime that it moves to.
    pub fn arrive(self) -> io::Result<TcpStream> {
        TcpStream::from_std(self.0)
    }
}
