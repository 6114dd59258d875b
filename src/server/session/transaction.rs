//! What a session does with MULTI, EXEC and WATCH: queues behind the gates, sends one call, puts the replies together.
//!
//! EXEC with anything about keys is one operation in the lane of one group: a write of one atomic call, or a read if none
//! of its commands writes, at the connection's level (linearizable if keys are watched). The commands of connection and node
//! run when its reply is there, so that a transaction that does nothing does nothing here either; until then nothing
//! behind it is decoded. Nor behind WATCH, because what follows depends on the versions it read.

use super::super::dispatch::{self, Asker, Request};
use super::super::lane::{Kind, Op};
use super::super::ring::{State, Ticket};
use super::{Came, Connection, weight};
use crate::commands::script::ScriptCommand;
use crate::commands::transaction::{self, Exec, Step, Weave};
use crate::commands::{Command, Run, atomic};
use crate::resp::{Args, Reply};
use crate::security::{self, Context};
use crate::types::{GroupId, Level};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

impl Connection {
    /// A command was refused. In a transaction that spoils it, and an EXEC that is refused ends it.
    pub(super) fn refused_in_transaction(&mut self, command: Option<&Command>, reply: Reply) -> Reply {
        if !self.transaction.is_open() {
            return reply;
        }
        match command.map(|command| command.run) {
            Some(Run::Transaction(Step::Exec)) => self.transaction.abort(&reply),
            _ => {
                self.transaction.spoil();
                reply
            }
        }
    }

    /// A command after MULTI.
    pub(super) fn queue(&mut self, request: Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let asker = Asker { session: &self.session, access: &self.access, context: Context::Multi };
        let wrong = dispatch::wrong_value(&request, &self.shared);
        let refused = dispatch::refused_in_queue(&request, &asker, &self.shared).or_else(|| {
            if wrong.is_some() {
                return None;
            }
            let first = self.transaction.first_key();
            dispatch::may_queue(&request, first, &self.session, &self.shared, &self.routes).err()
        });
        let reply = match (refused, wrong) {
            (None, Some(wrong)) => self.transaction.queue_wrong(request.command, wrong),
            (None, None) => {
                if self.shared.changes(request.command, &request.args, &self.transaction) {
                    self.transaction.note_change();
                }
                self.shared.tell_monitors(&self.session, request.command, &request.args);
                self.transaction.queue(request.command, request.args)
            }
            (Some(reply), _) => {
                self.counters.rejected(request.ordinal);
                self.refused_in_transaction(Some(request.command), reply)
            }
        };
        self.answer(asked, reply);
    }

    /// What is answered without asking a group, and EXEC.
    pub(super) fn run_step(&mut self, step: Step, request: Request, mute: bool) {
        let reply = match step {
            Step::Multi => self.transaction.begin(),
            Step::Discard => self.transaction.discard(),
            Step::Unwatch => self.transaction.unwatch(),
            Step::Exec => return self.run_exec(request, mute),
            // It has keys, so it is routed to a group.
            Step::Watch => Reply::error("ERR WATCH needs a group to ask"),
        };
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        self.answered(asked, reply);
    }

    /// WATCH asks what is seen of its keys.
    pub(super) fn run_watch(&mut self, group: GroupId, request: Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        if self.transaction.is_open() {
            return self.answered(asked, transaction::watch_inside());
        }
        let first = self.transaction.first_key();
        if let Err(refused) = dispatch::may_queue(&request, first, &self.session, &self.shared, &self.routes) {
            return self.answer(asked, refused);
        }
        let kind = Kind::Read { run: transaction::sights, level: Level::Linearizable, quiet: false };
        let seq = self.ring.next_seq();
        self.awaits = Some(seq);
        let keys: Args = request.args[1..].iter().cloned().collect();
        self.enter(group, asked, State::Watching(keys), request.args, kind);
    }

    fn run_exec(&mut self, request: Request, mute: bool) {
        let asked = self.asked(Some(request.ordinal), &request.args, mute);
        let first = self.transaction.first_key().cloned();
        self.permit_again();
        let Exec { call, writes, scripts, watched, weave } =
            match self.transaction.exec(self.shared.memory_full.load(Relaxed)) {
                Ok(exec) => exec,
                Err(refused) => return self.answered(asked, refused),
            };
        let about_scripts = weave.about_scripts(&Reply::Array(Vec::new()));
        for (kind, args) in about_scripts.iter().filter(|(kind, _)| *kind == ScriptCommand::Load) {
            // A script may be run by its name in the transaction that loads it.
            self.shared.scripts.expect(*kind, args);
        }
        let Some(call) = call else {
            if !about_scripts.is_empty() {
                let seq = self.ring.push(asked, State::Executing(Box::new(weave)), 0);
                self.awaits = Some(seq);
                return self.finish_transaction(seq, Reply::Array(Vec::new()));
            }
            let reply = self.weave(weave, Reply::Array(Vec::new()), Reply::Nil);
            return self.answered(asked, reply);
        };
        let (session, shared, routes) = (&self.session, &self.shared, &self.routes);
        let weak = !writes && !scripts && !watched;
        let group = match dispatch::group_of_transaction(first.as_ref(), weak, &request, session, shared, routes) {
            Ok(group) => group,
            Err(refused) => return self.answered(asked, refused),
        };
        let kind = match (writes, watched) {
            _ if scripts => Kind::Script,
            (true, _) => Kind::Write,
            // What was watched is only known to be unchanged by a state that is as new as can be.
            (false, true) => Kind::Read { run: atomic::read, level: Level::Linearizable, quiet: false },
            (false, false) => {
                let level = dispatch::level(&request, &self.session, &self.shared);
                Kind::Read { run: atomic::read, level, quiet: self.session.no_touch }
            }
        };
        if weave.has_local() {
            self.awaits = Some(self.ring.next_seq());
        }
        self.enter(group, asked, State::Executing(Box::new(weave)), call, kind);
    }

    /// What was allowed when it was queued may not be any more: that command is answered so, and the others run, as in Redis.
    fn permit_again(&mut self) {
        if self.access.is_unlimited() {
            return;
        }
        let (access, session, registry) = (&self.access, &self.session, self.shared.cluster.registry());
        self.transaction.recheck(|command, args| {
            let checked = access.permits(registry, session, Context::Multi, command, args);
            let beyond = || access.user().and_then(|user| security::refused_beyond(user, command, args));
            checked.err().map(|denied| denied.exec_reply()).or_else(beyond)
        });
    }

    /// Puts an operation into the lane of its group.
    pub(super) fn enter(&mut self, group: GroupId, asked: super::Asked, state: State, args: Args, kind: Kind) {
        let deadline = self.deadline();
        let ticket = Ticket { seq: self.ring.push(asked, state, weight(&args)), part: 0 };
        self.put_in_lane(group, Op { ticket, args, kind, deadline, reading: None });
    }

    /// The reply of the group that WATCH or EXEC asked has come.
    pub(super) fn finish_transaction(&mut self, seq: u64, reply: Reply) {
        let Some(slot) = self.ring.get(seq) else { return };
        let reply = match std::mem::replace(&mut slot.state, State::Waiting) {
            State::Watching(keys) => self.transaction.watch(&keys, reply),
            State::Executing(weave) => {
                let about_scripts = weave.about_scripts(&reply);
                if !about_scripts.is_empty() {
                    slot.state = State::Administering(Box::new((*weave, reply)));
                    return self.administer(seq, about_scripts);
                }
                self.weave(*weave, reply, Reply::Nil)
            }
            State::Administering(parts) => self.weave(parts.0, parts.1, reply),
            _ => reply,
        };
        self.awaits = self.awaits.filter(|awaited| *awaited != seq);
        self.conclude(seq, reply);
    }

    /// What a transaction says about the scripts of the cluster, one after the other.
    fn administer(&mut self, seq: u64, about_scripts: Vec<(ScriptCommand, Args)>) {
        let (scripts, deadline) = (self.shared.scripts.clone(), self.deadline());
        let ticket = Ticket { seq, part: 0 };
        self.awaits = Some(seq);
        self.awaited.push(Box::pin(async move {
            let mut replies = Vec::new();
            for (kind, args) in about_scripts {
                replies.push(scripts.clone().administer(kind, args, deadline).await);
            }
            (GroupId::META, Came::Reply(ticket, Reply::Array(replies)))
        }));
    }

    /// Runs what runs here, and puts all replies in their places; `told` has those of what is about scripts.
    fn weave(&mut self, weave: Weave, keyed: Reply, told: Reply) -> Reply {
        let counters = self.counters.clone();
        let mut told = if let Reply::Array(replies) = told { replies } else { Vec::new() }.into_iter();
        weave.finish(
            keyed,
            |command, args| match command.is_script() {
                true => told.next().unwrap_or(Reply::Nil),
                false => self.run_local(command, args),
            },
            |command, reply| {
                // The time of the whole is EXEC's.
                counters.called(super::super::counters::ordinal(command), Duration::ZERO, reply.is_error());
                if let Reply::Error(text) = reply {
                    counters.error(text);
                }
            },
        )
    }
}
