//! The keyspace with nothing around it but a connection: what is proven of it needs neither a log nor a socket.

use hypercache::commands::transaction::{self, Exec, Step, Transaction};
use hypercache::commands::{self, Run, atomic, session::Session};
use hypercache::resp::{Args, Reply};
use hypercache::state::{Keyspace, View};
use hypercache::types::Stamp;

/// The clock at the beginning of every transcript.
const START_MS: u64 = 1_700_000_000_000;

/// One keyspace and one connection, with nothing around them.
pub struct Bare {
    pub keyspace: Keyspace,
    pub stamp: Stamp,
    pub session: Session,
    transaction: Transaction,
}

impl Bare {
    pub fn new() -> Bare {
        Bare {
            keyspace: Keyspace::new(7),
            stamp: Stamp { now_ms: START_MS, seed: 0 },
            session: Session::default(),
            transaction: Transaction::default(),
        }
    }

    pub fn answer(&mut self, args: &Args) -> Reply {
        let command = match commands::lookup(args) {
            Ok(command) => command,
            Err(refused) => {
                self.transaction.spoil();
                // An EXEC that is wrong ends the transaction it was meant for.
                let exec = args[0].eq_ignore_ascii_case(b"exec") && self.transaction.is_open();
                return if exec { self.transaction.abort(&refused) } else { refused };
            }
        };
        if self.transaction.takes(command) {
            return self.transaction.queue(command, args.clone());
        }
        if let Err(reply) = (command.check)(args) {
            return reply;
        }
        match command.run {
            Run::Read(run) => run(args, &self.view()),
            Run::Write(_) => self.apply(args),
            Run::Session(run) => run(args, &mut self.session),
            Run::Transaction(step) => self.step(step, args),
            Run::Node(_) | Run::Script(_) | Run::Container => Reply::error("ERR needs a node"),
        }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.keyspace, Some(self.stamp.now_ms))
    }

    fn apply(&mut self, args: &Args) -> Reply {
        self.keyspace.advance(&self.stamp);
        commands::apply(args, &mut self.keyspace, &self.stamp)
    }

    fn step(&mut self, step: Step, args: &Args) -> Reply {
        match step {
            Step::Multi => self.transaction.begin(),
            Step::Discard => self.transaction.discard(),
            Step::Unwatch => self.transaction.unwatch(),
            Step::Watch if self.transaction.is_open() => transaction::watch_inside(),
            Step::Watch => {
                let sights = transaction::sights(args, &self.view());
                self.transaction.watch(&args[1..], sights)
            }
            Step::Exec => {
                let Exec { call, writes, weave, .. } = match self.transaction.exec(false) {
                    Ok(exec) => exec,
                    Err(refused) => return refused,
                };
                let keyed = match &call {
                    None => Reply::Array(Vec::new()),
                    Some(call) if writes => self.apply(call),
                    Some(call) => atomic::read(call, &self.view()),
                };
                weave.finish(keyed, |_, args| self.answer(args), |_, _| ())
            }
        }
    }
}
