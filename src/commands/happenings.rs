//! HC.EVENTS: what happened to the cluster lately, as the node that is asked saw it.

use super::connection::integer;
use super::node::Node;
use super::server::bulk;
use super::session::Session;
use super::syntax::{is, syntax_error};
use super::{Command, Keys, NodeCommand, Scope, Spec, node};
use crate::resp::{Args, Reply};
use bytes::Bytes;

/// Events that are answered with where no number is given.
const COUNT_DEFAULT: usize = 100;

/// HC.EVENTS [AFTER number] [COUNT count].
struct Events {
    after: u64,
    count: usize,
}

impl NodeCommand for Events {
    const SPEC: Spec = Spec {
        name: "hc.events",
        arity: -1,
        keys: Keys::None,
        scope: Scope::Local,
        family: "cluster",
        syntax: "HC.EVENTS [AFTER number] [COUNT count]",
        summary: "What happened to the cluster, as this node saw it, and how much of it is kept no longer.",
        complexity: "O(N)",
        since: "hc-0.1",
        denyoom: false,
    };

    fn parse(args: &Args) -> Result<Self, Reply> {
        let mut events = Events { after: 0, count: COUNT_DEFAULT };
        let positive = |arg: &Bytes| {
            let number = integer::<i64>(arg)?;
            u64::try_from(number).map_err(|_| Reply::error("ERR value is out of range, must be positive"))
        };
        for pair in args[1..].chunks(2) {
            match pair {
                [word, number] if is(word, "after") => events.after = positive(number)?,
                [word, number] if is(word, "count") => events.count = positive(number)? as usize,
                _ => return Err(syntax_error()),
            }
        }
        Ok(events)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let told = node.events(self.after, self.count);
        let number = |id: Option<u64>| id.map_or(Reply::Nil, |id| Reply::Int(id as i64));
        let rows = told.events.into_iter().map(|event| {
            Reply::Map(vec![
                (bulk("number"), Reply::Int(event.seq as i64)),
                (bulk("at-ms"), Reply::Int(event.at_ms as i64)),
                (bulk("event"), bulk(event.name)),
                (bulk("node"), number(event.node)),
                (bulk("group"), number(event.group)),
                (bulk("text"), bulk(event.text)),
            ])
        });
        Reply::Map(vec![
            (bulk("run"), bulk(format!("{:016x}", told.run))),
            (bulk("missed"), Reply::Int(told.missed as i64)),
            (bulk("events"), Reply::Array(rows.collect())),
        ])
    }
}

pub static HAPPENINGS: &[Command] = &[node::<Events>()];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Events, Reply> {
        Events::parse(&line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect())
    }

    #[test]
    fn a_place_and_a_number_may_be_given() {
        let taken = |line: &str| parse(line).map(|events| (events.after, events.count)).ok();
        assert_eq!(taken("HC.EVENTS"), Some((0, COUNT_DEFAULT)));
        assert_eq!(taken("HC.EVENTS count 3 AFTER 7"), Some((7, 3)));
        for wrong in ["HC.EVENTS AFTER", "HC.EVENTS AFTER -1", "HC.EVENTS SINCE 3", "HC.EVENTS COUNT x"] {
            assert_eq!(taken(wrong), None, "{wrong}");
        }
    }
}
