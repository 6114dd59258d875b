//! Whether the ports that a configuration names can be had.
//!
//! The workers share their listening ports (SO_REUSEPORT), so a second server on the same port would not fail: it would
//! quietly take half of the connections. That is why the ports are tried once without sharing before the server starts.
//! Sockets are opened and closed at once; nothing is served here.

use super::Loaded;
use super::keys::Config;
use super::problem::{Code, Origin, Problem};
use super::values::Endpoint;
use std::io::ErrorKind;
use std::net::TcpListener;

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
        listeners.filter_map(|(setting, endpoint)| attempt(setting, endpoint, self.origin(setting))).collect()
    }
}

fn attempt(setting: &str, endpoint: &Endpoint, origin: Origin) -> Option<Problem> {
    let error = TcpListener::bind((endpoint.host.as_str(), endpoint.port)).err()?;
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
    Some(Problem { origin, code: Code::PortTaken, message, remedy: Some(remedy) })
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
        let problem = attempt("server.resp_addr", &taken, Origin::Default).unwrap();
        assert_eq!(problem.code, Code::PortTaken);
        assert!(problem.message.starts_with(&format!("server.resp_addr: port {port} is taken")), "{problem}");
        assert!(problem.remedy.unwrap().contains("--port-offset"));
        drop(holder);
        assert_eq!(attempt("server.resp_addr", &taken, Origin::Default), None);
    }

    #[test]
    fn a_door_that_is_off_has_no_port() {
        let mut config = Config::default();
        assert_eq!(config.listeners().len(), 5);
        config.server.grpc_addr = Listen::Off;
        assert!(config.listeners().iter().all(|(setting, _)| *setting != "server.grpc_addr"));
    }
}
