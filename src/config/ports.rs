//! Whether the ports that a configuration names can be had.
//!
//! The workers share their listening ports (SO_REUSEPORT), so a second server on the same port would not fail: it would
//! quietly take half of the connections. That is why the ports are tried once without sharing before the server starts.
//! Sockets are opened and closed at once; nothing is served here.

use super::Loaded;
use super::keys::Config;
use super::problem::{Code, Origin, Problem};
use super::values::Endpoint;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, UdpSocket};

/// The setting of the one door that takes datagrams.
const GOSSIP: &str = "node.gossip_addr";

impl Config {
    /// The addresses this node listens on, each with the name of its setting.
    pub fn listeners(&self) -> Vec<(&'static str, &Endpoint)> {
        let mut all = vec![("node.bind_addr", &self.node.bind_addr)];
        all.extend(self.client_listeners());
        all
    }

    /// The addresses that clients connect to, each with the name of its setting.
    pub fn client_listeners(&self) -> Vec<(&'static str, &Endpoint)> {
        let server = &self.server;
        [
            ("server.resp_addr", &server.resp_addr),
            ("server.cluster_addr", &server.cluster_addr),
            ("server.http_addr", &server.http_addr),
            ("server.grpc_addr", &server.grpc_addr),
        ]
        .into_iter()
        .filter_map(|(setting, listen)| listen.endpoint().map(|endpoint| (setting, endpoint)))
        .collect()
    }
}

impl Loaded {
    /// The listeners that could not be opened now, each with what to change. Blocks for a name look-up at most.
    pub fn taken_ports(&self) -> Vec<Problem> {
        let listeners = self.config.listeners().into_iter();
        let mut taken: Vec<Problem> = listeners
            .filter_map(|(setting, endpoint)| {
                let tried = TcpListener::bind((endpoint.host.as_str(), endpoint.port));
                Some(refused(setting, endpoint, tried.err()?, self.origin(setting)))
            })
            .collect();
        let gossip = self.config.node.gossip_addr.endpoint().and_then(|endpoint| {
            let tried = UdpSocket::bind((endpoint.host.as_str(), endpoint.port));
            Some(refused(GOSSIP, endpoint, tried.err()?, self.origin(GOSSIP)))
        });
        taken.extend(gossip);
        taken
    }
}

fn refused(setting: &str, endpoint: &Endpoint, error: io::Error, origin: Origin) -> Problem {
    let (message, remedy) = match error.kind() {
        ErrorKind::AddrInUse => (
            format!("{setting}: port {} is taken: another process listens on {endpoint}", endpoint.port),
            format!("stop that process, set {setting} to another port, or shift all ports with --port-offset"),
        ),
        ErrorKind::PermissionDenied => (
            format!("{setting}: not allowed to listen on {endpoint}"),
            format!("set {setting} to a port of 1024 or more"),
        ),
        _ => (
            format!("{setting}: cannot listen on {endpoint}: {error}"),
            format!("set {setting} to an address of this machine"),
        ),
    };
    Problem { origin, code: Code::PortTaken, message, remedy: Some(remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Listen};

    #[test]
    fn a_taken_port_is_named_with_its_setting_and_a_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let taken = Endpoint { host: "127.0.0.1".to_owned(), port };
        let tried = TcpListener::bind((taken.host.as_str(), port)).unwrap_err();
        let problem = refused("server.resp_addr", &taken, tried, Origin::Default);
        assert_eq!(problem.code, Code::PortTaken);
        assert!(problem.message.starts_with(&format!("server.resp_addr: port {port} is taken")), "{problem}");
        assert!(problem.remedy.unwrap().contains("--port-offset"));
    }

    #[test]
    fn a_taken_port_for_datagrams_is_named_too_and_one_that_is_off_is_not_tried() {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = format!("{GOSSIP}={}", holder.local_addr().unwrap());
        let doors = ["resp", "cluster", "http", "grpc"].map(|door| format!("server.{door}_addr=off"));
        let peer = format!("node.bind_addr={}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let with = |gossip: String| {
            let flags = doors.iter().cloned().chain([peer.clone(), gossip]).collect();
            let loaded = crate::config::load(&crate::config::Sources { flags, ..Default::default() }).unwrap();
            loaded.taken_ports().into_iter().map(|problem| problem.message).collect::<Vec<_>>()
        };
        let problems = with(taken);
        assert!(problems.len() == 1 && problems[0].starts_with("node.gossip_addr: port"), "{problems:?}");
        assert_eq!(with(format!("{GOSSIP}=off")), [""; 0]);
    }

    #[test]
    fn a_door_that_is_off_has_no_port() {
        let mut config = Config::default();
        assert_eq!(config.listeners().len(), 5);
        config.server.grpc_addr = Listen::Off;
        assert!(config.listeners().iter().all(|(setting, _)| *setting != "server.grpc_addr"));
    }
}
