//! How the HTTP and gRPC doors take connections in: never more than a bound at a time, and never a silent one for ever.
//!
//! Knows bytes and sockets only. When the bound is reached, further connections wait in the kernel's backlog until one
//! closes; a connection from which nothing came for the idle limit is closed, whatever it was doing, so half a request
//! followed by silence costs its place for that long and no longer.

use crate::env;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Pause after a failed accept: out of descriptors is the usual cause, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a connection from that address is taken at all.
pub type MayCome = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// A listener with a bound on its open connections.
pub struct Accept {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle: Duration,
    may_come: MayCome,
}

/// A connection that gives its place back when it is dropped.
pub struct Connection {
    stream: TcpStream,
    idle: Duration,
    /// Runs while the connection waits; begun anew whenever bytes went either way.
    silence: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _place: OwnedSemaphorePermit,
}

impl Accept {
    pub fn new(listener: TcpListener, max_connections: usize, idle: Duration, may_come: MayCome) -> Accept {
        Accept { listener, places: Arc::new(Semaphore::new(max_connections)), idle, may_come }
    }

    /// The next connection, once there is a place for it.
    pub async fn next(&mut self) -> (Connection, SocketAddr) {
        loop {
            let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                // Closed without a word: what it speaks is not known here.
                Ok((_, peer)) if !(self.may_come)(peer.ip()) => tracing::debug!(event = "connection_refused", %peer),
                Ok((stream, peer)) => {
                    // Without it small replies wait for the peer's delayed acknowledgement; a socket that refuses the
                    // option still works.
                    let _ = stream.set_nodelay(true);
                    return (Connection { stream, idle: self.idle, silence: None, _place: place }, peer);
                }
                Err(error) => {
                    tracing::warn!(event = "accept_failed", %error);
                    env::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The same as an endless stream, the form tonic takes.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = io::Result<Connection>> {
        futures_util::stream::unfold(self, |mut accept| async move {
            let (connection, _) = accept.next().await;
            Some((Ok(connection), accept))
        })
    }
}

impl axum::serve::Listener for Accept {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl Connection {
    /// Passes on what the socket said; a socket that has said nothing for too long has timed out.
    fn unless_silent<T>(&mut self, cx: &mut Context<'_>, said: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if said.is_ready() {
            self.silence = None;
            return said;
        }
        let idle = self.idle;
        let silence = self.silence.get_or_insert_with(|| Box::pin(env::sleep(idle)));
        silence.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let said = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.unless_silent(cx, said)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let said = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.unless_silent(cx, said)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let said = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.unless_silent(cx, said)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn door(places: usize, idle: Duration) -> (Accept, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Accept::new(listener, places, idle, Box::new(|_| true)), address)
    }

    #[tokio::test]
    async fn a_connection_waits_until_there_is_a_place() {
        let (mut accept, address) = door(1, Duration::from_secs(60)).await;
        let _one = TcpStream::connect(address).await.unwrap();
        let _two = TcpStream::connect(address).await.unwrap();
        let (first, _) = accept.next().await;
        let mut second = Box::pin(accept.next());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        second.await;
    }

    #[tokio::test]
    async fn who_may_not_come_is_closed_and_takes_no_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let turn = std::sync::atomic::AtomicUsize::new(0);
        let second_only = move |_| turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
        let mut accept = Accept::new(listener, 1, Duration::from_secs(60), Box::new(second_only));
        let mut refused = TcpStream::connect(address).await.unwrap();
        let _taken = TcpStream::connect(address).await.unwrap();
        accept.next().await;
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn silence_ends_a_connection_and_bytes_do_not() {
        let (mut accept, address) = door(1, Duration::from_millis(1)).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"half").await.unwrap();
        let (mut connection, _) = accept.next().await;
        let mut half = [0; 4];
        connection.read_exact(&mut half).await.unwrap();
        let error = connection.read_exact(&mut half).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
