//! Messages: who wants to hear which channel, and what is said on it. Nothing here is kept, and nothing is in any log.
//!
//! Subscriptions belong to a connection and to its node; [`Messages`] is that node's book of them. What is asked of
//! every node (how many heard it, who listens) is an [`Ask`]: each node answers its own part from the same argument
//! vector, and whoever was asked joins the parts. Texts and replies are Redis 7.2's.

use super::help::{help, of_lines};
use super::node::Node;
use super::session::{Face, Session};
use super::syntax::subcommand_error;
use super::{Command, Keys, NodeCommand, Scope, Spec, container, glob, node};
use crate::resp::{Args, Reply};
use crate::slot::slot_of;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::marker::PhantomData;

/// What a subscription names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Channel,
    Pattern,
    /// A channel of SSUBSCRIBE and SPUBLISH.
    Shard,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];

    /// The first word of what confirms a subscription.
    fn subscribed(self) -> &'static str {
        ["subscribe", "psubscribe", "ssubscribe"][self as usize]
    }

    /// The first word of what confirms its end.
    fn unsubscribed(self) -> &'static str {
        ["unsubscribe", "punsubscribe", "sunsubscribe"][self as usize]
    }
}

/// How many subscriptions a connection has of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; 3]);

impl Counts {
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    pub fn any(&self) -> bool {
        self.0 != [0; 3]
    }

    /// What a confirmation tells: channels and patterns are counted together, shard channels apart.
    fn told(&self, kind: Kind) -> i64 {
        let [channels, patterns, shards] = self.0;
        (if kind == Kind::Shard { shards } else { channels + patterns }) as i64
    }
}

/// A node's book of subscriptions. Nothing waits.
pub trait Messages {
    /// Whether the connection had not subscribed to it before; None if it has as many subscriptions as it may have.
    fn subscribe(&self, client: u64, kind: Kind, name: &Bytes) -> Option<bool>;
    /// Whether the connection had subscribed to it.
    fn unsubscribe(&self, client: u64, kind: Kind, name: &[u8]) -> bool;
    /// What a connection has subscribed to, in order.
    fn subscriptions(&self, client: u64, kind: Kind) -> Vec<Bytes>;
    /// Gives a message to the subscribers of this node: how many there were.
    fn deliver(&self, kind: Kind, channel: &Bytes, message: &Bytes) -> u64;
    /// The same, and has every other node do it without asking how many it had.
    fn publish(&self, kind: Kind, channel: &Bytes, message: &Bytes) -> u64;
    /// Names of this kind that somebody of this node has subscribed to.
    fn names(&self, kind: Kind) -> Vec<Bytes>;
    /// Subscribers of this node, those of patterns left out.
    fn count(&self, kind: Kind, name: &[u8]) -> u64;
}

const BASE: Spec = Spec {
    name: "",
    arity: -2,
    keys: Keys::None,
    scope: Scope::Local,
    family: "pubsub",
    syntax: "",
    summary: "",
    complexity: "O(N), N the number of names",
    since: "2.0.0",
    denyoom: false,
};

// --- what is asked of every node --------------------------------------------------------------------------------

/// What every node has a part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Publish(Kind, Bytes, Bytes),
    Names(Kind, Option<Bytes>),
    Counts(Kind, Args),
    /// How many different patterns there are; a part names them, for several nodes may have the same.
    Patterns,
}

/// The channels that a command publishes on, if it does.
pub fn publishes(command: &Command) -> Option<Kind> {
    match (command.spec.family, command.spec.name) {
        ("pubsub", "publish") => Some(Kind::Channel),
        ("pubsub", "spublish") => Some(Kind::Shard),
        _ => None,
    }
}

impl Ask {
    /// What a request asks; none if it is none of these. The number of arguments is right already.
    pub fn of(command: &Command, args: &Args) -> Option<Result<Ask, Reply>> {
        if command.spec.family != BASE.family {
            return None;
        }
        let last = |at| args.get(at).cloned();
        let names = |kind| match args.len() {
            2 | 3 => Ok(Ask::Names(kind, last(2))),
            _ => Err(subcommand_error("PUBSUB", &args[1])),
        };
        if let Some(kind) = publishes(command) {
            return Some(Ok(Ask::Publish(kind, args[1].clone(), args[2].clone())));
        }
        Some(match command.spec.name {
            "channels" => names(Kind::Channel),
            "shardchannels" => names(Kind::Shard),
            "numsub" => Ok(Ask::Counts(Kind::Channel, args[2..].into())),
            "shardnumsub" => Ok(Ask::Counts(Kind::Shard, args[2..].into())),
            "numpat" => Ok(Ask::Patterns),
            _ => return None,
        })
    }

    /// The part of one node.
    pub fn part(&self, messages: &dyn Messages) -> Reply {
        let array = |names: Vec<Bytes>| Reply::Array(names.into_iter().map(Reply::Bulk).collect());
        match self {
            Ask::Publish(kind, channel, message) => Reply::Int(messages.deliver(*kind, channel, message) as i64),
            Ask::Names(kind, pattern) => {
                let mut names = messages.names(*kind);
                names.retain(|name| pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, name)));
                array(names)
            }
            Ask::Counts(kind, names) => {
                Reply::Array(names.iter().map(|name| Reply::Int(messages.count(*kind, name) as i64)).collect())
            }
            Ask::Patterns => array(messages.names(Kind::Pattern)),
        }
    }

    /// The reply that the parts make.
    pub fn join(&self, parts: Vec<Reply>) -> Reply {
        let bulks = |parts: Vec<Reply>| -> BTreeSet<Bytes> {
            let items = parts.into_iter().flat_map(|part| match part {
                Reply::Array(items) => items,
                _ => Vec::new(),
            });
            items.filter_map(|item| if let Reply::Bulk(name) = item { Some(name) } else { None }).collect()
        };
        let int = |part: &Reply| if let Reply::Int(n) = part { *n } else { 0 };
        match self {
            Ask::Publish(..) => Reply::Int(parts.iter().map(int).sum()),
            Ask::Names(..) => Reply::Array(bulks(parts).into_iter().map(Reply::Bulk).collect()),
            Ask::Patterns => Reply::count(bulks(parts).len()),
            Ask::Counts(_, names) => {
                let at = |place: usize| {
                    let of = |part: &Reply| match part {
                        Reply::Array(items) => items.get(place).map_or(0, int),
                        _ => 0,
                    };
                    Reply::Int(parts.iter().map(of).sum())
                };
                let pairs = names.iter().enumerate().flat_map(|(place, name)| [Reply::Bulk(name.clone()), at(place)]);
                Reply::Array(pairs.collect())
            }
        }
    }

    fn run(self, node: &dyn Node) -> Reply {
        let part = match &self {
            Ask::Publish(kind, channel, message) => Reply::Int(node.messages().publish(*kind, channel, message) as i64),
            other => other.part(node.messages()),
        };
        self.join(vec![part])
    }
}

/// Which of the commands below it is.
trait Asked {
    const SPEC: Spec;
}

/// One of the commands that are an [`Ask`]. On a connection every node has its part (`server::pubsub`); run from
/// elsewhere it is this node's alone, and a message goes to all.
struct Asking<A>(Ask, PhantomData<A>);

impl<A: Asked> NodeCommand for Asking<A> {
    const SPEC: Spec = A::SPEC;

    fn parse(args: &Args) -> Result<Self, Reply> {
        let command = super::lookup(args)?;
        let ask = Ask::of(command, args).unwrap_or_else(|| Err(super::syntax::syntax_error()))?;
        Ok(Asking(ask, PhantomData))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        self.0.run(node)
    }
}

struct Publish;

impl Asked for Publish {
    const SPEC: Spec = Spec {
        name: "publish",
        arity: 3,
        syntax: "PUBLISH channel message",
        summary: "Gives a message to everybody who listens to a channel, on every node; returns how many heard it.",
        complexity: "O(N+M), N the listeners, M the patterns there are",
        ..BASE
    };
}

struct ShardPublish;

impl Asked for ShardPublish {
    const SPEC: Spec = Spec {
        name: "spublish",
        arity: 3,
        syntax: "SPUBLISH shardchannel message",
        summary: "Gives a message to everybody who listens to a shard channel; returns how many heard it.",
        complexity: "O(N), N the listeners",
        since: "7.0.0",
        ..BASE
    };
}

struct Channels;

impl Asked for Channels {
    const SPEC: Spec = Spec {
        name: "channels",
        syntax: "PUBSUB CHANNELS [pattern]",
        summary: "The channels that somebody listens to by their names.",
        complexity: "O(N), N the number of channels",
        since: "2.8.0",
        ..BASE
    };
}

struct ShardChannels;

impl Asked for ShardChannels {
    const SPEC: Spec = Spec {
        name: "shardchannels",
        syntax: "PUBSUB SHARDCHANNELS [pattern]",
        summary: "The shard channels that somebody listens to.",
        since: "7.0.0",
        ..Channels::SPEC
    };
}

struct NumSub;

impl Asked for NumSub {
    const SPEC: Spec = Spec {
        name: "numsub",
        syntax: "PUBSUB NUMSUB [channel [channel ...]]",
        summary: "How many listen to each of the channels by its name.",
        since: "2.8.0",
        ..BASE
    };
}

struct ShardNumSub;

impl Asked for ShardNumSub {
    const SPEC: Spec = Spec {
        name: "shardnumsub",
        syntax: "PUBSUB SHARDNUMSUB [shardchannel [shardchannel ...]]",
        summary: "How many listen to each of the shard channels.",
        since: "7.0.0",
        ..BASE
    };
}

struct NumPat;

impl Asked for NumPat {
    const SPEC: Spec = Spec {
        name: "numpat",
        arity: 2,
        syntax: "PUBSUB NUMPAT",
        summary: "How many different patterns somebody listens to.",
        complexity: "O(N), N the number of patterns",
        since: "2.8.0",
        ..BASE
    };
}

// --- subscriptions ----------------------------------------------------------------------------------------------

/// What tells the three kinds of subscription apart.
trait Way {
    const KIND: Kind;
    const SUBSCRIBE: Spec;
    const UNSUBSCRIBE: Spec;
}

struct ToChannel;

impl Way for ToChannel {
    const KIND: Kind = Kind::Channel;
    const SUBSCRIBE: Spec =
        Spec { name: "subscribe", syntax: "SUBSCRIBE channel [channel ...]", summary: "Listens to channels.", ..BASE };
    const UNSUBSCRIBE: Spec = Spec {
        name: "unsubscribe",
        arity: -1,
        syntax: "UNSUBSCRIBE [channel [channel ...]]",
        summary: "Listens to these channels no more, or to none.",
        ..BASE
    };
}

struct ToPattern;

impl Way for ToPattern {
    const KIND: Kind = Kind::Pattern;
    const SUBSCRIBE: Spec = Spec {
        name: "psubscribe",
        syntax: "PSUBSCRIBE pattern [pattern ...]",
        summary: "Listens to all channels whose names match a pattern.",
        ..BASE
    };
    const UNSUBSCRIBE: Spec = Spec {
        name: "punsubscribe",
        arity: -1,
        syntax: "PUNSUBSCRIBE [pattern [pattern ...]]",
        summary: "Listens to these patterns no more, or to none.",
        ..BASE
    };
}

struct ToShard;

impl Way for ToShard {
    const KIND: Kind = Kind::Shard;
    const SUBSCRIBE: Spec = Spec {
        name: "ssubscribe",
        syntax: "SSUBSCRIBE shardchannel [shardchannel ...]",
        summary: "Listens to shard channels.",
        since: "7.0.0",
        ..BASE
    };
    const UNSUBSCRIBE: Spec = Spec {
        name: "sunsubscribe",
        arity: -1,
        syntax: "SUNSUBSCRIBE [shardchannel [shardchannel ...]]",
        summary: "Listens to these shard channels no more, or to none.",
        since: "7.0.0",
        ..BASE
    };
}

/// A confirmation; several of them are the reply to one command.
fn confirm(word: &'static str, name: Reply, count: i64) -> Reply {
    Reply::Push(vec![Reply::bulk(word), name, Reply::Int(count)])
}

struct Subscribe<W>(Args, PhantomData<W>);

impl<W: Way> NodeCommand for Subscribe<W> {
    const SPEC: Spec = W::SUBSCRIBE;

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Subscribe(args[1..].into(), PhantomData))
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let apart = || self.0.windows(2).any(|pair| slot_of(&pair[0]) != slot_of(&pair[1]));
        if W::KIND == Kind::Shard && session.face == Face::Cluster && apart() {
            return Reply::error("CROSSSLOT Keys in request don't hash to the same slot");
        }
        let mut replies = Vec::with_capacity(self.0.len());
        for name in &self.0 {
            let Some(new) = node.messages().subscribe(session.id, W::KIND, name) else {
                replies.push(Reply::error("ERR this connection has too many subscriptions"));
                break;
            };
            session.subscriptions.0[W::KIND as usize] += u64::from(new);
            let count = session.subscriptions.told(W::KIND);
            replies.push(confirm(W::KIND.subscribed(), Reply::Bulk(name.clone()), count));
        }
        Reply::Several(replies)
    }
}

struct Unsubscribe<W>(Args, PhantomData<W>);

impl<W: Way> NodeCommand for Unsubscribe<W> {
    const SPEC: Spec = W::UNSUBSCRIBE;

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Unsubscribe(args[1..].into(), PhantomData))
    }

    fn run(self, node: &dyn Node, session: &mut Session) -> Reply {
        let names: Vec<Bytes> = match self.0.is_empty() {
            true => node.messages().subscriptions(session.id, W::KIND),
            false => self.0.to_vec(),
        };
        let word = W::KIND.unsubscribed();
        if names.is_empty() {
            return confirm(word, Reply::Nil, session.subscriptions.told(W::KIND));
        }
        let mut replies = Vec::with_capacity(names.len());
        for name in names {
            let had = node.messages().unsubscribe(session.id, W::KIND, &name);
            let count = &mut session.subscriptions.0[W::KIND as usize];
            *count = count.saturating_sub(u64::from(had));
            replies.push(confirm(word, Reply::Bulk(name), session.subscriptions.told(W::KIND)));
        }
        Reply::Several(replies)
    }
}

/// Ends all of a connection's subscriptions and says nothing of it, as RESET does.
pub fn forget(node: &dyn Node, session: &mut Session) {
    for kind in Kind::ALL {
        for name in node.messages().subscriptions(session.id, kind) {
            node.messages().unsubscribe(session.id, kind, &name);
        }
    }
    session.subscriptions = Counts::default();
}

const PUBSUB_HELP: Spec =
    Spec { syntax: "PUBSUB HELP", summary: "Says what PUBSUB can do.", complexity: "O(1)", since: "6.2.0", ..BASE };

const PUBSUB_LINES: &[&str] = &[
    "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CHANNELS [<pattern>]",
    "    Return the currently active channels matching a <pattern> (default: '*').",
    "NUMPAT",
    "    Return number of subscriptions to patterns.",
    "NUMSUB [<channel> ...]",
    "    Return the number of subscribers for the specified channels, excluding",
    "    pattern subscriptions(default: no channels).",
    "SHARDCHANNELS [<pattern>]",
    "    Return the currently active shard level channels matching a <pattern> (default: '*').",
    "SHARDNUMSUB [<shardchannel> ...]",
    "    Return the number of subscribers for the specified shard level channel(s)",
    "HELP",
    "    Prints this help.",
];

static SUBCOMMANDS: &[Command] = &[
    node::<Asking<Channels>>(),
    help(PUBSUB_HELP, |_, _| of_lines(PUBSUB_LINES)),
    node::<Asking<NumPat>>(),
    node::<Asking<NumSub>>(),
    node::<Asking<ShardChannels>>(),
    node::<Asking<ShardNumSub>>(),
];

const CONTAINER: Spec = Spec {
    name: "pubsub",
    syntax: "PUBSUB CHANNELS | HELP | NUMPAT | NUMSUB | SHARDCHANNELS | SHARDNUMSUB",
    summary: "Tells who listens to what.",
    complexity: "Depends on the subcommand",
    since: "2.8.0",
    ..BASE
};

/// The family.
pub static PUBSUB: &[Command] = &[
    node::<Subscribe<ToPattern>>(),
    node::<Asking<Publish>>(),
    container(CONTAINER, SUBCOMMANDS),
    node::<Unsubscribe<ToPattern>>(),
    node::<Asking<ShardPublish>>(),
    node::<Subscribe<ToShard>>(),
    node::<Subscribe<ToChannel>>(),
    node::<Unsubscribe<ToShard>>(),
    node::<Unsubscribe<ToChannel>>(),
];
