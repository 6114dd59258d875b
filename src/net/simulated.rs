//! Sockets of turmoil's simulated network, with the names that the operating system's have in `system.rs`.
//!
//! A node has one thread here, so a connection moves nowhere. Both halves of a connection share it under a lock that is
//! never waited for, for the same reason.

use futures_util::FutureExt;
use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A simulated connection.
pub struct TcpStream(Shared);

type Shared = Arc<Mutex<turmoil::net::TcpStream>>;

/// A listener of the simulated network.
pub struct TcpListener(turmoil::net::TcpListener);

/// Connects to `host:port`, where the host is a name or an address of the simulation.
pub async fn connect(address: &str) -> io::Result<TcpStream> {
    turmoil::net::TcpStream::connect(address).await.map(TcpStream::new)
}

/// Listens on this port of the simulated host. There is no backlog to bound: turmoil keeps what waits.
pub fn listen(addr: SocketAddr, _backlog: i32) -> io::Result<TcpListener> {
    let listening = turmoil::net::TcpListener::bind(addr).now_or_never();
    listening.expect("turmoil binds without waiting").map(TcpListener)
}

/// Nothing that a simulated socket could be told.
pub fn tune_link(_stream: &TcpStream, _patience: Duration) -> io::Result<()> {
    Ok(())
}

/// Nothing that a simulated socket could be told.
pub fn tune_client(_stream: &TcpStream, _keepalive: Duration) {}

/// A connection on its way to the runtime where it is already.
pub struct Moving(TcpStream);

impl Moving {
    pub fn new(stream: TcpStream) -> io::Result<Moving> {
        Ok(Moving(stream))
    }

    pub fn arrive(self) -> io::Result<TcpStream> {
        Ok(self.0)
    }
}

impl TcpListener {
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, from) = self.0.accept().await?;
        Ok((TcpStream::new(stream), from))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl TcpStream {
    fn new(stream: turmoil::net::TcpStream) -> TcpStream {
        TcpStream(Arc::new(Mutex::new(stream)))
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.lock().local_addr()
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().try_write(bytes)
    }

    pub fn split(&mut self) -> (Half<'_>, Half<'_>) {
        (Half(self.0.clone(), PhantomData), Half(self.0.clone(), PhantomData))
    }

    pub fn into_split(self) -> (Half<'static>, Half<'static>) {
        (Half(self.0.clone(), PhantomData), Half(self.0, PhantomData))
    }
}

/// One direction of a connection.
pub struct Half<'a>(Shared, PhantomData<&'a ()>);

/// The direction that is written to.
pub type WriteHalf<'a> = Half<'a>;

impl Half<'_> {
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().try_write(bytes)
    }

    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| pin!(self.0.lock().writable()).poll(cx)).await
    }
}

impl AsyncRead for Half<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Half<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}
