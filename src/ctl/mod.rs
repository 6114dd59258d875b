//! `hypercachectl`: what an operator asks of a cluster, through the gRPC door (`docs/hypercachectl.md`).
//!
//! Knows the protocol of `proto/admin.proto` and nothing of the server behind it, but for `snapshot restore`, which makes
//! what a server starts on and leaves that to `restore`. Every verb is idempotent and ends within `--timeout`, or, where
//! it carries data, when nothing has moved for that long; results go to standard output, troubles and progress to
//! standard error.

mod bundle;
pub mod client;
mod doctor;
mod events;
mod explain;
mod groups;
mod nodes;
pub mod output;
mod progress;
mod recover;
mod slots;
mod snapshot;
mod top;
pub mod trouble;
pub mod verify;

use crate::env;
use crate::proto::admin::{ListGroupsRequest, TransferLeaderRequest, TriggerSnapshotRequest, VerifyRequest};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use client::{Credentials, Reached};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trouble::Trouble;

/// Longest `--timeout`, a day: more is a slip of the finger.
const TIMEOUT_MAX_S: u64 = 86_400;

/// Looks after a HyperCache cluster.
#[derive(Parser, Debug)]
#[command(name = "hypercachectl", version, arg_required_else_help = true)]
pub struct Cli {
    /// gRPC address of a node; may be repeated (or a list with commas): the first that answers is used.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "HYPERCACHE_ENDPOINT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7070",
        value_parser = endpoint
    )]
    pub endpoint: Vec<String>,
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table)]
    pub output: Form,
    /// Seconds the whole command has. Commands that carry data have as long as they need, but end when nothing has moved
    /// for so many.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_MAX_S))]
    pub timeout: u64,
    /// The user to be; `default` without one.
    #[arg(long, global = true, value_name = "NAME", env = "HYPERCACHE_USER")]
    pub user: Option<String>,
    /// Its password. Other users of this machine can see a command line: the environment is safer.
    #[arg(long, global = true, value_name = "PASSWORD", env = "HYPERCACHE_PASSWORD", hide_env_values = true)]
    pub password: Option<Secret>,
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    fn credentials(&self) -> Credentials {
        Credentials::new(self.user.as_deref(), self.password.as_ref().map(|secret| secret.0.as_str()))
    }
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Secret, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
pub enum Form {
    Table,
    Json,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Nodes and groups as one node sees them.
    Status,
    /// Nodes: who belongs, who comes and who goes.
    Node {
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// Evens out votes and leaders over the nodes.
    Rebalance {
        /// Have so many copies of every group vote; as many as now without it.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
        copies: Option<u32>,
        #[command(flatten)]
        how: Course,
    },
    /// Raft groups.
    Group {
        #[command(subcommand)]
        verb: GroupVerb,
    },
    /// Slots: which group owns them, and moving them to another.
    Slots {
        #[command(subcommand)]
        verb: SlotsVerb,
    },
    /// Leadership of groups.
    Leader {
        #[command(subcommand)]
        verb: LeaderVerb,
    },
    /// Snapshots of groups' state.
    Snapshot {
        #[command(subcommand)]
        verb: SnapshotVerb,
    },
    /// What happened to the cluster, as the node asked saw it.
    Events {
        /// Stay, and print what comes.
        #[arg(long, short)]
        follow: bool,
        /// Only what came behind this number.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
    },
    /// Asks every node how it is, and says what is wrong and what to do about it.
    Doctor,
    /// Nodes and groups, looked at again and again.
    Top {
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        every: u64,
        /// End after so many looks; without it, when somebody ends it.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        looks: Option<u64>,
    },
    /// What somebody needs who looks for an error.
    Debug {
        #[command(subcommand)]
        verb: DebugVerb,
    },
    /// Goes on from one survivor when a cluster has lost its majority for good. Asks no node; the survivor must not run.
    ///
    /// Without --unsafe it tells what the survivor holds and changes nothing: do that with all of them, and take the one that
    /// holds most. What it never received is lost.
    Recover {
        /// The survivor's configuration file.
        #[arg(long, value_name = "NODE.yaml")]
        config: PathBuf,
        /// Make it a new cluster of this node alone.
        #[arg(long = "unsafe")]
        confirmed: bool,
        /// The id of the cluster that is given up, as shown without --unsafe.
        #[arg(long, value_name = "ID", requires = "confirmed")]
        cluster_id: Option<String>,
    },
    /// Prints what a shell needs to complete these commands: `hypercachectl completions bash`. Asks no node.
    Completions { shell: Shell },
    /// Writes the manual pages of all commands into a folder. Asks no node.
    Man { folder: PathBuf },
    /// What a code of an error means, and what to do. Asks no node.
    Explain {
        /// Such as HC-3115.
        code: String,
    },
    /// Compares the state hashes of all replicas, each group at an index that all of them reached.
    Verify {
        /// Only this group; may be repeated. All groups without it.
        #[arg(long, value_name = "N")]
        group: Vec<u32>,
    },
}

#[derive(Subcommand, Debug)]
pub enum DebugVerb {
    /// Writes a tar file: of every node that answers its configuration without secrets, how it is, metrics, events and the
    /// end of its log. A file of that name is replaced.
    Bundle { file: PathBuf },
}

#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// Every node with its standing, votes and doors.
    List,
    /// One node, and its part in each group.
    Describe {
        /// The node, by name or number.
        node: String,
    },
    /// Takes an empty node into the cluster that was started with --join: it gets copies of everything, and its share of
    /// votes.
    Add {
        /// Where it waits: HOST:PORT of its peer port, or its name, where gossip knows it (`node list`).
        address: String,
        #[command(flatten)]
        how: Course,
    },
    /// Moves all leaders off a node, and its votes where there is a spare node. It goes on serving clients.
    Drain {
        /// The node, by name or number.
        node: String,
        /// Take the drain back.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        how: Course,
    },
    /// Lets a node go: its leaders and votes move first, then it closes its doors and ends.
    Remove {
        /// The node, by name or number.
        node: String,
        /// Go on with fewer copies of everything, if too few nodes are left.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        how: Course,
    },
    /// Puts an empty node in the place of another, that may be dead: it gets copies of everything and the old one's votes.
    Replace {
        /// The node that goes, by name or number.
        old: String,
        /// Where the new one waits: HOST:PORT of its peer port, or its name, where gossip knows it.
        address: String,
        #[command(flatten)]
        how: Course,
    },
}

/// How a change is gone about.
#[derive(Args, Debug, Clone, Copy)]
pub struct Course {
    /// Return when everything is done, with a line for each step on standard error.
    #[arg(long)]
    pub wait: bool,
    /// Change nothing: tell what would move.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
}

#[derive(Subcommand, Debug)]
pub enum GroupVerb {
    /// Every group with its replicas, positions and slots.
    List,
    /// Has all replicas of a group compare their states at one index; one that differs is rebuilt.
    Verify {
        /// The group; may be repeated. All groups without it.
        group: Vec<u32>,
    },
    /// Adds a group that owns no slots yet. Made again with its number, it tells how far that has come.
    Add {
        /// Its number: the next that was not given out yet. Without it, another group is added each time.
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        group: Option<u32>,
        #[command(flatten)]
        how: Course,
    },
    /// Moves half of a group's slots to another while clients go on. Made again, it tells how far that has come.
    Split {
        /// The group that is split.
        group: u32,
        /// The group that gets them; it is added if it is not there. Without it, the one that was split off last, or the next.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        into: Option<u32>,
        #[command(flatten)]
        how: Course,
    },
    /// Moves all slots of a group to others, while clients go on, and removes it then. Its number is never used again.
    Remove {
        /// The group that goes.
        group: u32,
        /// The groups that get its slots; all others without it.
        #[arg(long, value_name = "N,...", value_delimiter = ',')]
        to: Vec<u32>,
        /// Let it stay after all, with the slots that it has by then.
        #[arg(long, conflicts_with_all = ["to", "dry_run"])]
        undo: bool,
        #[command(flatten)]
        how: Course,
    },
}

#[derive(Subcommand, Debug)]
pub enum SlotsVerb {
    /// Every group with the slots that it owns, and what is on its way.
    List,
    /// Moves slots to a group while clients go on. Made again, it tells how far that has come.
    Move {
        /// Such as 0-99,205.
        slots: String,
        /// The group that is to own them.
        #[arg(long, value_name = "N", required_unless_present = "cancel")]
        to: Option<u32>,
        /// Wish nothing of these slots any more: they stay where they are by then.
        #[arg(long, conflicts_with_all = ["to", "dry_run"])]
        cancel: bool,
        #[command(flatten)]
        how: Course,
    },
}

#[derive(Subcommand, Debug)]
pub enum LeaderVerb {
    /// Hands a group's leadership to another of its voters. Succeeds if that one leads already.
    Transfer {
        #[arg(long, value_name = "N")]
        group: u32,
        /// The node, by name or number.
        #[arg(long, value_name = "NODE")]
        to: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum SnapshotVerb {
    /// Has the leader of a group make a snapshot now, for itself: its log is compacted behind it.
    Make(SnapshotOf),
    /// Writes fresh snapshots of all groups, or of one, into a file.
    ///
    /// Each group's state is that of one moment, but not the same moment for all: groups are saved one after the other
    /// while clients go on writing. The file gets its name when it is whole; one of that name is replaced then.
    Save {
        file: PathBuf,
        /// Only this group. Such a file can be inspected, but no cluster can be restored from it.
        #[arg(long, value_name = "N")]
        group: Option<u32>,
    },
    /// Verifies every checksum of a file and tells what is in it. Asks no node.
    Inspect { file: PathBuf },
    /// Makes the data directories of a new cluster from a file. Asks no node; the nodes must not run.
    ///
    /// The cluster gets a new id, so nodes of the old one cannot join it. Where its nodes are on machines apart, copy the
    /// file to each: restore on the first, and give the id that it prints to the others with --cluster-id.
    Restore {
        file: PathBuf,
        /// A node's configuration file: its node.data_dir, which must be empty, is made. May be repeated.
        #[arg(long, value_name = "NODE.yaml", required = true)]
        config: Vec<PathBuf>,
        /// The new cluster's id, as printed by the restore of the same file on another machine.
        #[arg(long, value_name = "ID")]
        cluster_id: Option<String>,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct SnapshotOf {
    /// The group.
    #[arg(long, value_name = "N")]
    pub group: Option<u32>,
    /// Every group, the meta group included.
    #[arg(long)]
    pub all: bool,
}

/// Takes `HOST:PORT`, also with `http://` before it.
fn endpoint(text: &str) -> Result<String, String> {
    let address = text.trim().trim_start_matches("http://").trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').ok_or("it must be HOST:PORT")?;
    if host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err("it must be HOST:PORT with a port from 1 to 65535".to_owned());
    }
    Ok(address.to_owned())
}

/// Does what the command line says; gives what is to be printed on standard output.
pub async fn run(cli: &Cli) -> Result<String, Trouble> {
    match &cli.verb {
        Verb::Snapshot { verb: SnapshotVerb::Inspect { file } } => return snapshot::inspect(file, cli),
        Verb::Snapshot { verb: SnapshotVerb::Restore { file, config, cluster_id } } => {
            return snapshot::restore(file, config, cluster_id.as_deref(), cli);
        }
        Verb::Snapshot { verb: SnapshotVerb::Save { file, group } } => return snapshot::save(file, *group, cli).await,
        Verb::Explain { code } => return explain::run(code, cli.output),
        Verb::Completions { shell } => return Ok(completions(*shell)),
        Verb::Man { folder } => return manual(folder),
        Verb::Recover { config, confirmed, cluster_id } => {
            return recover::run(cli, config, *confirmed, cluster_id.as_deref());
        }
        Verb::Events { follow: true, after } => return events::run(cli, *after, true).await,
        Verb::Top { every, looks } => return top::run(cli, Duration::from_secs(*every), *looks).await,
        _ => {}
    }
    // `verify` ends itself a little earlier, to tell which groups were not level.
    let deadline = env::now() + Duration::from_secs(cli.timeout);
    match env::timeout_at(deadline, carry_out(cli, deadline)).await {
        Ok(done) => done,
        Err(_) => Err(Trouble::timeout("the command", cli.timeout)),
    }
}

async fn carry_out(cli: &Cli, deadline: env::Instant) -> Result<String, Trouble> {
    if let Verb::Events { after, .. } = &cli.verb {
        return events::run(cli, *after, false).await;
    }
    let reached = client::reach(&cli.endpoint, &cli.credentials()).await?;
    match &cli.verb {
        Verb::Doctor => doctor::run(cli, &reached).await,
        Verb::Debug { verb: DebugVerb::Bundle { file } } => bundle::run(cli, &reached, file).await,
        Verb::Events { .. }
        | Verb::Explain { .. }
        | Verb::Top { .. }
        | Verb::Recover { .. }
        | Verb::Completions { .. }
        | Verb::Man { .. } => {
            unreachable!("they were carried out before")
        }
        Verb::Status => Ok(output::status(&reached.status, cli.output)),
        Verb::Node { .. } | Verb::Rebalance { .. } => nodes::run(cli, reached).await,
        Verb::Group { verb: GroupVerb::List } => {
            let groups = reached.client.clone().list_groups(ListGroupsRequest {}).await;
            let groups = groups.map_err(|status| Trouble::of_status(&reached.endpoint, &status))?.into_inner().groups;
            Ok(output::groups(&groups, &reached.status.nodes, cli.output))
        }
        Verb::Group { verb: GroupVerb::Verify { group } } => verify_groups(cli, &reached, group).await,
        Verb::Group { verb } => groups::run(cli, reached, verb).await,
        Verb::Slots { verb } => slots::run(cli, reached, verb).await,
        Verb::Leader { verb: LeaderVerb::Transfer { group, to } } => transfer(cli, &reached, *group, to).await,
        Verb::Snapshot { verb: SnapshotVerb::Make(of) } => make_snapshots(cli, &reached, of).await,
        Verb::Snapshot { .. } => unreachable!("they were carried out without the command's deadline"),
        Verb::Verify { group } => verify::run(&reached, group, cli, deadline).await,
    }
}

async fn transfer(cli: &Cli, reached: &Reached, group: u32, to: &str) -> Result<String, Trouble> {
    let to = node_number(reached, to)?;
    let ask =
        |mut client: client::Client| async move { client.transfer_leader(TransferLeaderRequest { group, to }).await };
    let done = reached.at_leader(ask).await?;
    Ok(output::transferred(group, &done, &reached.status.nodes, cli.output))
}

async fn make_snapshots(cli: &Cli, reached: &Reached, of: &SnapshotOf) -> Result<String, Trouble> {
    let groups = match of.group {
        Some(group) => vec![group],
        None => reached.status.groups.iter().map(|group| group.id).collect(),
    };
    let mut saved = Vec::new();
    for group in groups {
        let ask =
            |mut client: client::Client| async move { client.trigger_snapshot(TriggerSnapshotRequest { group }).await };
        match reached.at_leader(ask).await {
            Ok(answer) => saved.push((group, answer)),
            // What was saved before the failure was saved: it is shown beside the trouble.
            Err(trouble) if saved.is_empty() => return Err(trouble),
            Err(trouble) => {
                let output = output::snapshots(&saved, &reached.status.nodes, cli.output);
                return Err(Trouble { output: Some(output), ..trouble });
            }
        }
    }
    Ok(output::snapshots(&saved, &reached.status.nodes, cli.output))
}

async fn verify_groups(cli: &Cli, reached: &Reached, groups: &[u32]) -> Result<String, Trouble> {
    let all: Vec<u32> = reached.status.groups.iter().map(|group| group.id).collect();
    let groups = if groups.is_empty() { &all[..] } else { groups };
    let mut verdicts = Vec::new();
    for group in groups.iter().copied() {
        let ask = |mut client: client::Client| async move { client.verify(VerifyRequest { group }).await };
        match reached.at_leader(ask).await {
            Ok(verdict) => verdicts.push(verdict),
            Err(trouble) if verdicts.is_empty() => return Err(trouble),
            Err(trouble) => {
                let output = output::verdicts(&verdicts, &reached.status.nodes, cli.output);
                return Err(Trouble { output: Some(output), ..trouble });
            }
        }
    }
    let output = output::verdicts(&verdicts, &reached.status.nodes, cli.output);
    let differing: Vec<u32> = verdicts.iter().filter(|one| !one.agree).map(|one| one.group).collect();
    let undecided = verdicts.iter().any(|one| one.undecided);
    if differing.is_empty() { Ok(output) } else { Err(Trouble::replicas_differ(&differing, undecided, output)) }
}

fn completions(shell: Shell) -> String {
    let (mut command, mut out) = (Cli::command(), Vec::new());
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut out);
    String::from_utf8(out).expect("names and descriptions of commands are text")
}

fn manual(folder: &Path) -> Result<String, Trouble> {
    let failed = |error: io::Error| Trouble::file(folder, &error);
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(format!("{}: read one with `man -l {}/hypercachectl.1`\n", folder.display(), folder.display()))
}

/// A node's number from its name or its number.
fn node_number(reached: &Reached, text: &str) -> Result<u64, Trouble> {
    let nodes = &reached.status.nodes;
    let by_name = nodes.iter().find(|node| node.name == text);
    let found = by_name.or_else(|| nodes.iter().find(|node| text.parse() == Ok(node.id)));
    found.map(|node| node.id).ok_or_else(|| {
        let known: Vec<String> = nodes.iter().map(|node| format!("{} ({})", node.name, node.id)).collect();
        Trouble::no_such_node(text, &known)
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
