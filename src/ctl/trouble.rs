//! Why a command of `hypercachectl` did not succeed: code, cause, remedy, and the exit code that scripts see.
//!
//! Exit codes are a promise: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 no quorum, 5 unsafe, 6 timeout. Codes are
//! explained in `docs/hypercachectl.md`; a number is never given a second meaning.

use crate::proto::{CODE_METADATA, LEADER_METADATA, codes};
use std::fmt;
use tonic::{Code, Status};

pub const EXIT_FAILED: u8 = 1;
pub const EXIT_USAGE: u8 = 2;
pub const EXIT_UNREACHABLE: u8 = 3;
pub const EXIT_NO_QUORUM: u8 = 4;
pub const EXIT_TIMEOUT: u8 = 6;

/// A failure as it is shown: `error[CODE]: message`, then the remedy.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub code: &'static str,
    pub exit: u8,
    pub message: String,
    pub remedy: String,
    /// What the command still has to show on standard output.
    pub output: Option<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}\n  remedy: {}", self.code, self.message, self.remedy)
    }
}

impl Trouble {
    fn new(code: &'static str, exit: u8, message: impl Into<String>, remedy: impl Into<String>) -> Trouble {
        Trouble { code, exit, message: message.into(), remedy: remedy.into(), output: None }
    }

    /// None of the endpoints answered; `causes` has one line an endpoint.
    pub fn unreachable(causes: &[String]) -> Trouble {
        let remedy = "start the node, or name one that runs with --endpoint HOST:PORT (its gRPC port, 7070 by default)";
        Trouble::new("HC-3001", EXIT_UNREACHABLE, format!("no node answers: {}", causes.join("; ")), remedy)
    }

    pub fn timeout(what: &str, seconds: u64) -> Trouble {
        let remedy = "it may still be done: look with `hypercachectl status`, repeat the command (it does no harm), or \
                      give it longer with --timeout SECONDS";
        Trouble::new("HC-3002", EXIT_TIMEOUT, format!("{what} did not end within {seconds} s"), remedy)
    }

    pub fn no_such_node(name: &str, known: &[String]) -> Trouble {
        let remedy = format!("use a name or a number of these: {}", known.join(", "));
        Trouble::new("HC-3003", EXIT_FAILED, format!("the cluster has no node `{name}`"), remedy)
    }

    pub fn no_such_group(group: u32) -> Trouble {
        let remedy = "see the groups with `hypercachectl group list`";
        Trouble::new(codes::NO_SUCH_GROUP, EXIT_FAILED, format!("the cluster has no group {group}"), remedy)
    }

    pub fn states_differ(groups: &[u32], output: String) -> Trouble {
        let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("replicas at the same index hold different states: group {groups}");
        let remedy = "do not restart anything yet; keep the data directories and the logs of the nodes named, and \
                      report it as a bug";
        Trouble { output: Some(output), ..Trouble::new("HC-3004", EXIT_FAILED, message, remedy) }
    }

    pub fn never_level(groups: &[u32], seconds: u64) -> Trouble {
        let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("the replicas of group {groups} were not seen at an equal index within {seconds} s");
        let remedy = "a busy group is seldom caught at one index: try again under less load, or with a longer \
                      --timeout; if it stays so while idle, a replica does not follow (see `hypercachectl status`)";
        Trouble::new("HC-3005", EXIT_TIMEOUT, message, remedy)
    }

    /// An answer of `node` that is an error.
    pub fn of_status(node: &str, status: &Status) -> Trouble {
        let ours = status.metadata().get(CODE_METADATA).and_then(|code| code.to_str().ok());
        let message = format!("{node}: {}", status.message());
        match (ours, status.code()) {
            (Some(codes::NOT_LEADER), _) => {
                let remedy = "leadership is moving just now: repeat the command";
                Trouble::new(codes::NOT_LEADER, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NO_LEADER), _) => {
                let remedy = "a majority of the group's voters must be up: see which nodes are not with `hypercachectl \
                              status`; if all are, an election is under way and the command can be repeated";
                Trouble::new(codes::NO_LEADER, EXIT_NO_QUORUM, message, remedy)
            }
            (Some(codes::NO_SUCH_GROUP), _) => {
                let remedy = "see the groups and where they are with `hypercachectl group list`";
                Trouble::new(codes::NO_SUCH_GROUP, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NO_SUCH_NODE), _) => {
                let remedy = "see the voters of the group with `hypercachectl group list`";
                Trouble::new(codes::NO_SUCH_NODE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::TIMEOUT), _) | (None, Code::DeadlineExceeded) => {
                let remedy = "it may still be done: look with `hypercachectl status`, then repeat the command";
                Trouble::new(codes::TIMEOUT, EXIT_TIMEOUT, message, remedy)
            }
            (Some(codes::ARGUMENT), _) => {
                Trouble::new(codes::ARGUMENT, EXIT_USAGE, message, "see `hypercachectl help`")
            }
            (Some(_), _) => {
                let remedy = "the node's log says more; the command can be repeated";
                Trouble::new(codes::NOT_DONE, EXIT_FAILED, message, remedy)
            }
            (None, Code::Unimplemented) => {
                let remedy = "the node runs an older version, or another program listens there: check the endpoint";
                Trouble::new("HC-3006", EXIT_FAILED, message, remedy)
            }
            (None, _) => Trouble::unreachable(&[message]),
        }
    }
}

/// Where a refusal says the leader's door is.
pub fn leader_of(status: &Status) -> Option<String> {
    status.metadata().get(LEADER_METADATA).and_then(|address| address.to_str().ok()).map(str::to_owned)
}
