//! Accepts the connections of one face and deals them out to the workers.
//!
//! Bounds: [`BACKLOG`] connections wait in the kernel, `maxclients` are served; one more is told so and closed. Stops
//! accepting at once when the node is to stop; what was accepted is finished by its session.

use super::session::{self, Incoming};
use super::{Shared, StartError, guard};
use crate::commands::session::Face;
use crate::env;
use crate::net::{self, Moving, TcpListener, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// Connections that may wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed: usually out of descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a client beyond `maxclients` is told, as in Redis.
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

pub(super) struct Listener {
    face: Face,
    socket: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    /// Binds and listens. Must be called in a runtime.
    pub fn bind(face: Face, setting: &'static str, addr: SocketAddr) -> Result<Listener, StartError> {
        let open = || -> io::Result<Listener> {
            let socket = net::listen(addr, BACKLOG)?;
            Ok(Listener { face, addr: socket.local_addr()?, socket })
        };
        open().map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortTaken { setting, addr },
            _ => StartError::Listen { setting, addr, source },
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Accepts until `stop` becomes true. `alive` is held by every session.
    pub async fn run(
        self,
        shared: Arc<Shared>,
        workers: Vec<Handle>,
        mut stop: watch::Receiver<bool>,
        alive: mpsc::Sender<()>,
    ) {
        let mut turn = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(event = "accept_failed", face = ?self.face, %error);
                    env::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if shared.clients.len() >= shared.live.max_clients() {
                shared.clients.rejected.fetch_add(1, Relaxed);
                let _ = stream.try_write(TOO_MANY);
                continue;
            }
            if !guard::may_come(shared.cluster.registry(), shared.settings.protected, peer.ip()) {
                shared.clients.rejected.fetch_add(1, Relaxed);
                let _ = stream.try_write(guard::PROTECTED);
                continue;
            }
            shared.clients.accepted.fetch_add(1, Relaxed);
            turn = (turn + 1) % workers.len();
            net::tune_client(&stream, shared.settings.keepalive);
            let ends = (peer, stream.local_addr().unwrap_or(self.addr));
            let incoming = Incoming::new(self.face, ends, &shared, turn, stop.clone(), alive.clone());
            hand_over(stream, incoming, &workers[turn]);
        }
    }
}

/// Takes a connection out of this runtime's reactor and into the worker's.
fn hand_over(stream: TcpStream, incoming: Incoming, worker: &Handle) {
    let stream = match Moving::new(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(event = "accept_failed", %error),
    };
    worker.spawn(env::timed(async move {
        match stream.arrive() {
            Ok(stream) => session::serve(stream, incoming).await,
            Err(error) => tracing::warn!(event = "accept_failed", %error),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_names_its_setting() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = Listener::bind(Face::Proxy, "server.resp_addr", any).expect("a free port");
        let Err(error) = Listener::bind(Face::Proxy, "server.resp_addr", first.addr()) else {
            panic!("two listeners on one port")
        };
        assert!(matches!(error, StartError::PortTaken { .. }));
        assert!(error.to_string().starts_with("server.resp_addr: 127.0.0.1:"), "{error}");
    }
}
