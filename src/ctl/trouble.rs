//! Why a command of `hypercachectl` did not succeed: code, cause, remedy, and the exit code that scripts see.
//!
//! Exit codes are a promise: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 no quorum, 5 unsafe, 6 timeout. Codes are
//! explained in `docs/hypercachectl.md`; a number is never given a second meaning.

use crate::archive::ArchiveError;
use crate::proto::{CODE_METADATA, LEADER_METADATA, codes};
use crate::recover::RecoverError;
use crate::restore::RestoreError;
use std::fmt;
use std::io;
use std::path::Path;
use tonic::{Code, Status};

pub const EXIT_FAILED: u8 = 1;
pub const EXIT_USAGE: u8 = 2;
pub const EXIT_UNREACHABLE: u8 = 3;
pub const EXIT_NO_QUORUM: u8 = 4;
pub const EXIT_UNSAFE: u8 = 5;
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

    /// Whether it may pass by itself while nodes come and go.
    pub fn passes(&self) -> bool {
        self.asks_elsewhere() || ["HC-3001", codes::NOT_DONE].contains(&self.code)
    }

    /// Whether the node says that it is not the one to ask just now.
    pub fn asks_elsewhere(&self) -> bool {
        [codes::NOT_LEADER, codes::NO_LEADER, codes::USERS_UNKNOWN].contains(&self.code)
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

    /// The doctor found something.
    pub fn unwell(findings: usize, exit: u8, output: String) -> Trouble {
        let remedy = "each of them has its own remedy above";
        let message = format!("{findings} things are not as they should be");
        Trouble { output: Some(output), ..Trouble::new("HC-3007", exit, message, remedy) }
    }

    /// A snapshot of all groups while slots go from one to another.
    pub fn slots_moved_meanwhile() -> Trouble {
        let remedy =
            "wait until `hypercachectl slots list` shows nothing on its way and no group comes, and save again";
        let message = "slots are on their way between groups, or a group comes or goes: a snapshot of all groups would not fit \
                       together";
        Trouble::new("HC-3212", EXIT_FAILED, message, remedy)
    }

    pub fn no_such_code(code: &str) -> Trouble {
        let remedy = "give a code as errors show it, such as HC-3115";
        Trouble::new("HC-3008", EXIT_USAGE, format!("there is no code `{code}`"), remedy)
    }

    /// A recovery without the word that it is meant.
    pub fn not_confirmed(cluster: &str) -> Trouble {
        let remedy = format!(
            "if it is certain that no majority comes back, say so with --cluster-id {cluster}; a cluster that only lost some              nodes is mended with `hypercachectl node replace`"
        );
        Trouble::new("HC-3210", EXIT_UNSAFE, "a cluster is given up only by the name of its id", remedy)
    }

    pub fn recover(error: &RecoverError) -> Trouble {
        let message = error.to_string();
        match error {
            RecoverError::OtherCluster { known, .. } => Trouble { message, ..Trouble::not_confirmed(known) },
            RecoverError::Config { .. } => {
                Trouble::new("HC-3205", EXIT_USAGE, message, "mend the configuration: `hypercache config check FILE`")
            }
            RecoverError::Identity(_) | RecoverError::Store { .. } | RecoverError::Nothing(_) => {
                let remedy = "stop the node if it runs, check node.data_dir, and try another survivor if this one's disk is damaged";
                Trouble::new("HC-3211", EXIT_FAILED, message, remedy)
            }
        }
    }

    /// A file of ours that cannot be written.
    pub fn file(path: &Path, error: &io::Error) -> Trouble {
        Trouble::new("HC-3203", EXIT_FAILED, format!("{}: {error}", path.display()), of_io(error))
    }

    /// What `group verify` found is bad.
    pub fn replicas_differ(groups: &[u32], undecided: bool, output: String) -> Trouble {
        let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("replicas at the same index hold different states: group {groups}");
        let remedy = match undecided {
            false => {
                "those that differ from the majority are fenced off and rebuilt from the leader by themselves (look with \
                 `hypercachectl status`); keep the logs of their nodes and report it as a bug"
            }
            true => {
                "no majority says which is right, so nothing was changed: take a `hypercachectl snapshot save`, keep the \
                 data directories and the logs of the nodes named, and report it as a bug"
            }
        };
        Trouble { output: Some(output), ..Trouble::new("HC-3004", EXIT_FAILED, message, remedy) }
    }

    /// A snapshot file that cannot be read or written.
    pub fn archive(error: &ArchiveError) -> Trouble {
        let (code, remedy) = match error {
            ArchiveError::Foreign(_) => ("HC-3201", "name a file that `hypercachectl snapshot save` has written"),
            ArchiveError::Newer { .. } => {
                ("HC-3201", "use the hypercachectl of the version that wrote it, or a later one")
            }
            ArchiveError::Damaged { .. } => {
                ("HC-3202", "copy it again from where it was made, or take another one: it is not used in part")
            }
            ArchiveError::Io { source, .. } => ("HC-3203", of_io(source)),
        };
        Trouble::new(code, EXIT_FAILED, error.to_string(), remedy)
    }

    /// What a node sent is not a snapshot.
    pub fn odd_snapshot(node: &str, group: u32, what: &str) -> Trouble {
        let remedy = "the file was not written; repeat the command, and look into the node's log if it fails again";
        Trouble::new("HC-3204", EXIT_FAILED, format!("{node}: the snapshot of group {group} {what}"), remedy)
    }

    pub fn restore(error: &RestoreError) -> Trouble {
        let message = error.to_string();
        let failed = |code, remedy: &str| Trouble::new(code, EXIT_FAILED, message.clone(), remedy);
        match error {
            RestoreError::Archive(error) => Trouble::archive(error),
            RestoreError::Config { .. } => {
                Trouble::new("HC-3205", EXIT_USAGE, message, "mend the configuration: `hypercache config check FILE`")
            }
            RestoreError::Layout { .. } | RestoreError::Clash { .. } => {
                let remedy = "give each node's own configuration file once, all with the same cluster.seeds";
                Trouble::new("HC-3205", EXIT_USAGE, message, remedy)
            }
            RestoreError::NotEmpty { .. } => failed(
                "HC-3206",
                "nothing was written. Give the node an empty node.data_dir, or empty this one if its data may go (after \
                 a restore that was cut off: the directories of all the nodes that it made)",
            ),
            RestoreError::Part { .. } => {
                failed("HC-3207", "save the whole cluster: `hypercachectl snapshot save FILE` without --group")
            }
            RestoreError::ClusterId(_) => {
                let remedy = "give the id that the restore of this very file printed on the first machine";
                Trouble::new("HC-3208", EXIT_USAGE, message, remedy)
            }
            RestoreError::Io(_, source) => failed("HC-3203", of_io(source)),
            RestoreError::Meta(_) | RestoreError::Store(_) | RestoreError::Identity(_) => failed(
                "HC-3209",
                "the directories stay marked and no node starts on them: mend the cause and run the same command again",
            ),
        }
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
                let remedy = "see the nodes with `hypercachectl node list`, and the voters of a group with `hypercachectl group list`";
                Trouble::new(codes::NO_SUCH_NODE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::TIMEOUT), _) | (None, Code::DeadlineExceeded) => {
                let remedy = "it may still be done: look with `hypercachectl status`, then repeat the command";
                Trouble::new(codes::TIMEOUT, EXIT_TIMEOUT, message, remedy)
            }
            (Some(codes::NOT_AUTHENTICATED), _) => {
                let remedy = "give --user and --password, or set HYPERCACHE_USER and HYPERCACHE_PASSWORD";
                Trouble::new(codes::NOT_AUTHENTICATED, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NOT_PERMITTED), _) => {
                let remedy = "use a user that has +@admin";
                Trouble::new(codes::NOT_PERMITTED, EXIT_FAILED, message, remedy)
            }
            (Some(codes::USERS_UNKNOWN), _) => {
                let remedy = "a majority of the meta group's voters must be up: see which nodes are not with \
                              `hypercachectl status`";
                Trouble::new(codes::USERS_UNKNOWN, EXIT_NO_QUORUM, message, remedy)
            }
            (Some(codes::NODES_BUSY), _) => {
                let remedy = "wait until that node is done (`hypercachectl node list`), or take its joining back with \
                              `hypercachectl node remove`";
                Trouble::new(codes::NODES_BUSY, EXIT_FAILED, message, remedy)
            }
            (Some(codes::USED_NAME), _) => {
                let remedy =
                    "give the new node another node.id, or `hypercachectl node replace` the one that has the name";
                Trouble::new(codes::USED_NAME, EXIT_FAILED, message, remedy)
            }
            (Some(codes::FOREIGN_NODE), _) => {
                let remedy = "check the address; to take that machine into this cluster, stop the node, empty its \
                              node.data_dir if its data may go, and start it with cluster.join: true";
                Trouble::new(codes::FOREIGN_NODE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NOBODY_WAITS), _) => {
                let remedy = "start the node with an empty node.data_dir and cluster.join: true (or --join); the address is \
                              that of its peer port (node.bind_addr, 7000 by default)";
                Trouble::new(codes::NOBODY_WAITS, EXIT_FAILED, message, remedy)
            }
            (Some(codes::TOO_FEW_NODES), _) => {
                let remedy = "add a node first, replace this one instead (`hypercachectl node replace`), or go on with fewer \
                              copies of everything with --force";
                Trouble::new(codes::TOO_FEW_NODES, EXIT_UNSAFE, message, remedy)
            }
            (Some(codes::NODE_GONE), _) => {
                let remedy = "a number is never used again: to add the machine once more, empty its node.data_dir, start it \
                              with cluster.join: true and add it by its address";
                Trouble::new(codes::NODE_GONE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::CANNOT_PLACE), _) => {
                let remedy = "add nodes first, or ask for fewer copies";
                Trouble::new(codes::CANNOT_PLACE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::OTHER_DIRECTORY), _) => {
                let remedy = "its disk was emptied or exchanged, so it must not vote again as who it was: start it with an empty \
                              node.data_dir and cluster.join: true, and `hypercachectl node replace` the old one by it";
                Trouble::new(codes::OTHER_DIRECTORY, EXIT_FAILED, message, remedy)
            }
            (Some(codes::BELONGS), _) => {
                let remedy = "name the address of an empty node that waits to be added (see `hypercachectl node list`)";
                Trouble::new(codes::BELONGS, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NEVER_CAME), _) => {
                let remedy = "start that founder once and repeat the command; if its machine is lost, start an empty one in \
                              its place, with its node.id, its address and the same cluster.seeds";
                Trouble::new(codes::NEVER_CAME, EXIT_FAILED, message, remedy)
            }
            (Some(codes::NOT_HEARD), _) => {
                let remedy = "see who waits with `hypercachectl node list`, or name the address of its peer port, HOST:PORT; gossip \
                              needs node.gossip_addr on both sides, and one of its cluster.seeds to be in this cluster";
                Trouble::new(codes::NOT_HEARD, EXIT_FAILED, message, remedy)
            }
            (Some(codes::AMBIGUOUS), _) => {
                let remedy = "name the address of the one that is meant, HOST:PORT of its peer port";
                Trouble::new(codes::AMBIGUOUS, EXIT_FAILED, message, remedy)
            }
            (Some(codes::GROUP_GONE), _) => {
                let remedy = "a number is never used again: see the groups with `hypercachectl group list`";
                Trouble::new(codes::GROUP_GONE, EXIT_FAILED, message, remedy)
            }
            (Some(codes::GROUP_BUSY), _) => {
                let remedy = "wait until what is wished of its slots is done (`hypercachectl slots list`) or take it back with \
                              `hypercachectl slots move SLOTS --cancel`; a group that is being removed stays with \
                              `hypercachectl group remove N --undo`";
                Trouble::new(codes::GROUP_BUSY, EXIT_FAILED, message, remedy)
            }
            (Some(codes::LAST_GROUP), _) => {
                let remedy = "add another group first: `hypercachectl group add`";
                Trouble::new(codes::LAST_GROUP, EXIT_FAILED, message, remedy)
            }
            (Some(codes::CANNOT_SPLIT), _) => {
                let remedy =
                    "see which slots it has and which of them are to go elsewhere with `hypercachectl slots list`";
                Trouble::new(codes::CANNOT_SPLIT, EXIT_FAILED, message, remedy)
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

/// What to do about a code of the server's, whatever it is about.
pub fn remedy_of(code: &str) -> Option<String> {
    let mut status = Status::new(Code::Unknown, "");
    status.metadata_mut().insert(CODE_METADATA, code.parse().ok()?);
    let trouble = Trouble::of_status("", &status);
    (trouble.code == code).then_some(trouble.remedy)
}

/// What to do about a file that cannot be read or written.
fn of_io(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check who owns the file and its folder",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room, or name a place with more of it; nothing was left behind"
        }
        _ => "check the disk; nothing was left behind under the file's own name",
    }
}

/// Where a refusal says the leader's door is.
pub fn leader_of(status: &Status) -> Option<String> {
    status.metadata().get(LEADER_METADATA).and_then(|address| address.to_str().ok()).map(str::to_owned)
}
