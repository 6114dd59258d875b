//! Requests that no lane carries: what runs on the connection itself, and what asks other nodes while it goes on.

use super::super::dispatch::Request;
use super::super::guard::client_of;
use super::super::pubsub::peers;
use super::super::ring::{Asked, State, Ticket};
use super::super::{failover, verify};
use super::{Came, Connection, weight};
use crate::commands::acl::Change;
use crate::commands::pubsub::Ask;
use crate::commands::script::ScriptCommand;
use crate::commands::session::{Face, ReplyMode};
use crate::commands::{Command, Run};
use crate::resp::{Args, Reply};
use crate::types::GroupId;
use std::future::Future;

/// The subcommand of CLIENT that says whether commands are answered.
const REPLY: &str = "reply";

impl Connection {
    /// A command of connection or node, one about scripts, a step of a transaction.
    pub(super) fn run_here(&mut self, request: Request, mute: bool) {
        if request.command.spec.name == verify::NAME {
            let groups = verify::groups(&request.args, &self.shared);
            return self.run_aside(&request, mute, groups.map(verify::run));
        }
        if request.command.spec.family == "cluster" && request.command.spec.name == "failover" {
            let (me, deadline) = (self.shared.cluster.me_id(), self.deadline());
            let groups = failover::groups(&request.args, self.session.face, &self.shared);
            return self.run_aside(&request, mute, groups.map(|groups| failover::run(groups, me, deadline)));
        }
        if let Run::Script(kind) = request.command.run {
            return self.run_script_command(kind, &request, mute);
        }
        if let Run::Transaction(step) = request.command.run {
            return self.run_step(step, request, mute);
        }
        let was = self.session.reply;
        let reply = self.run_local(request.command, &request.args);
        // Who ends the silence is answered, with CLIENT REPLY ON or RESET; the former behind SKIP, too. HELLO speaks the
        // protocol it chose. Who subscribes is always told so.
        let told = matches!(reply, Reply::Push(_) | Reply::Several(_));
        let ended = was == ReplyMode::Off || request.command.spec.name == REPLY;
        let unmuted = told || ended && self.session.reply == ReplyMode::On;
        let asked = self.asked(Some(request.ordinal), &request.args, mute && !unmuted);
        self.answered(asked, reply);
    }

    /// Runs a command of connection or node.
    pub(super) fn run_local(&mut self, command: &Command, args: &Args) -> Reply {
        // CLIENT LIST shows the client that asks as running just that.
        self.note_with(wire_bytes(args));
        self.take_pushes();
        let reply = match command.run {
            Run::Session(run) => run(args, &mut self.session),
            Run::Node(run) => run(args, &*self.shared, &mut self.session),
            _ => Reply::error("ERR this command does not run on a connection"),
        };
        self.transaction.ran(command);
        self.access.sync(&self.session);
        self.client.publish(&self.session);
        // What came for a subscription that has just ended stands before its confirmation; for one that has begun, behind.
        if command.spec.name.ends_with("unsubscribe") {
            self.take_pushes();
        }
        reply
    }

    /// A change of users: the cluster makes it, and what the client sent behind it waits.
    pub(super) fn run_change(&mut self, request: &Request, mute: bool, change: Change) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (cluster, deadline) = (self.shared.cluster.clone(), self.deadline());
        let (what, whom) = change.describe();
        let (by, client) = (self.access.user().map(|user| user.name().to_owned()), client_of(&self.session));
        let told = async move {
            let reply = cluster.change_users(change, deadline).await;
            let by = by.unwrap_or_default();
            let done = !reply.is_error();
            tracing::info!(target: "audit", event = what, user = whom, by, done, client);
            reply
        };
        (self.changing, self.awaits) = (true, Some(self.answer_later(asked, 0, told)));
    }

    /// A parameter of the whole cluster: what the client asks behind it is answered by the new value.
    pub(super) fn run_agreed(&mut self, request: &Request, mute: bool, call: Args) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let (cluster, deadline) = (self.shared.cluster.clone(), self.deadline());
        self.awaits = Some(self.answer_later(asked, 0, async move { cluster.change_agreed(call, deadline).await }));
    }

    /// What asks other nodes, while the connection goes on; or the refusal of that.
    fn run_aside<F>(&mut self, request: &Request, mute: bool, work: Result<F, Reply>)
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        match work {
            Ok(work) => _ = self.answer_later(asked, 0, work),
            Err(reply) => self.answered(asked, reply),
        }
    }

    /// SCRIPT: asks the meta group and the leaders, and the connection goes on meanwhile.
    fn run_script_command(&mut self, kind: ScriptCommand, request: &Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let scripts = self.shared.scripts.clone();
        scripts.expect(kind, &request.args);
        let (args, deadline) = (request.args.clone(), self.deadline());
        let told = async move { scripts.administer(kind, args, deadline).await };
        let seq = self.answer_later(asked, weight(&request.args), told);
        if kind.changes_functions() {
            self.awaits = Some(seq);
        }
    }

    /// What concerns the listeners of all nodes. On the cluster face the reply tells of this node's alone, as in Redis
    /// Cluster: such a client asks every node and adds up.
    pub(super) fn run_on_nodes(&mut self, ask: Ask, request: &Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        if self.session.face == Face::Cluster {
            if let Ask::Publish(..) = ask {
                peers::tell(&self.shared, std::slice::from_ref(&request.args));
            }
            let own = ask.part(&*self.shared);
            return self.answered(asked, ask.join(vec![own]));
        }
        let under_way = peers::ask(&self.shared, ask, &request.args);
        if under_way.is_answered() {
            return self.answered(asked, under_way.own_reply());
        }
        self.answer_later(asked, 0, under_way.reply());
    }

    /// The reply to a request comes later. Gives the request's number.
    fn answer_later(&mut self, asked: Asked, weight: usize, work: impl Future<Output = Reply> + Send + 'static) -> u64 {
        let seq = self.ring.push(asked, State::Waiting, weight);
        let ticket = Ticket { seq, part: 0 };
        self.awaited.push(Box::pin(async move { (GroupId::META, Came::Reply(ticket, work.await)) }));
        seq
    }
}

/// Bytes of a request as it is usually sent.
fn wire_bytes(args: &Args) -> usize {
    let header = |n: usize| n.checked_ilog10().unwrap_or(0) as usize + "*0\r\n".len();
    header(args.len()) + args.iter().map(|arg| header(arg.len()) + arg.len() + "\r\n".len()).sum::<usize>()
}
