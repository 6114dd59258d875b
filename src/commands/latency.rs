//! LATENCY: which moments took long, and how long calls usually take.
//!
//! Reads what the node keeps and words it; what is kept and from when on is `latency-monitor-threshold`'s to say.

use super::connection::text;
use super::help::{help, of_table};
use super::node::{CommandLatency, LatencyEvent, Node};
use super::server::{bulk, spec};
use super::session::Session;
use super::{Command, NodeCommand, Spec, node};
use crate::resp::{Args, Reply};
use bytes::Bytes;
use std::fmt::Write as _;

fn verbatim(text: String) -> Reply {
    Reply::Verbatim { format: *b"txt", text: Bytes::from(text) }
}

fn event(node: &dyn Node, name: &str) -> Option<LatencyEvent> {
    node.latency_events().into_iter().find(|event| event.name.eq_ignore_ascii_case(name))
}

struct Latest;

impl NodeCommand for Latest {
    const SPEC: Spec = spec(
        "latest",
        2,
        "2.8.13",
        "LATENCY LATEST",
        "Of each kind of event its last moment, how long that took, and the longest ever.",
    );

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Latest)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let row = |event: LatencyEvent| {
            let (unix_s, ms) = event.samples.last().copied().unwrap_or_default();
            let numbers = [unix_s, ms, event.max_ms].map(|n| Reply::Int(n as i64));
            Reply::Array(std::iter::once(bulk(event.name)).chain(numbers).collect())
        };
        Reply::Array(node.latency_events().into_iter().map(row).collect())
    }
}

struct History(String);

impl NodeCommand for History {
    const SPEC: Spec = spec("history", 3, "2.8.13", "LATENCY HISTORY event", "The moments kept of one kind of event.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(History(text(&args[2])))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let samples = event(node, &self.0).map(|event| event.samples).unwrap_or_default();
        let row = |(unix_s, ms): (u64, u64)| Reply::Array(vec![Reply::Int(unix_s as i64), Reply::Int(ms as i64)]);
        Reply::Array(samples.into_iter().map(row).collect())
    }
}

struct Reset(Vec<String>);

impl NodeCommand for Reset {
    const SPEC: Spec = spec(
        "reset",
        -2,
        "2.8.13",
        "LATENCY RESET [event [event ...]]",
        "Forgets the moments of these kinds of events, or of all; returns how many kinds that were.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Reset(args[2..].iter().map(text).collect()))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        Reply::count(node.latency_reset(&self.0))
    }
}

struct Graph(String);

/// Lines that a graph is high.
const GRAPH_ROWS: u64 = 4;

/// A column a moment, the newest on the right, as high as it was long; below each how long ago it was.
fn graph(event: &LatencyEvent, now_s: u64) -> String {
    let (high, low) = (event.samples.iter().map(|s| s.1).max(), event.samples.iter().map(|s| s.1).min());
    let (high, low) = (high.unwrap_or(0), low.unwrap_or(0));
    let mut out = format!(
        "{} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        event.name,
        event.max_ms,
        "-".repeat(80)
    );
    let height = |ms: u64| if high == low { 1 } else { 1 + (ms - low) * (GRAPH_ROWS - 1) / (high - low) };
    for row in (1..=GRAPH_ROWS).rev() {
        let line: String = event.samples.iter().map(|(_, ms)| if height(*ms) >= row { '#' } else { ' ' }).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let ages: Vec<String> = event.samples.iter().map(|(unix_s, _)| age(now_s.saturating_sub(*unix_s))).collect();
    out.push('\n');
    for at in 0..ages.iter().map(String::len).max().unwrap_or(0) {
        let line: String = ages.iter().map(|age| age.chars().nth(at).unwrap_or(' ')).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

impl NodeCommand for Graph {
    const SPEC: Spec =
        spec("graph", 3, "2.8.13", "LATENCY GRAPH event", "Draws the moments kept of one kind of event.");

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Graph(text(&args[2])))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        match event(node, &self.0) {
            Some(event) => verbatim(graph(&event, node.unix_us() / 1_000_000)),
            None => Reply::error(format!("ERR No samples available for event '{}'", self.0)),
        }
    }
}

struct Doctor;

impl NodeCommand for Doctor {
    const SPEC: Spec = spec("doctor", 2, "2.8.13", "LATENCY DOCTOR", "Says in words what the kept moments tell.");

    fn parse(_: &Args) -> Result<Self, Reply> {
        Ok(Doctor)
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let events = node.latency_events();
        let Some(threshold) = node.latency_threshold_ms() else {
            return verbatim(
                "Nothing is watched on this node. CONFIG SET latency-monitor-threshold <milliseconds> keeps every \
                 moment that takes as long.\n"
                    .to_owned(),
            );
        };
        if events.is_empty() {
            return verbatim(format!("Nothing took {threshold} ms or longer on this node.\n"));
        }
        let mut out = String::new();
        for event in &events {
            let count = event.samples.len() as u64;
            let mean = event.samples.iter().map(|(_, ms)| ms).sum::<u64>() / count.max(1);
            let _ = writeln!(
                out,
                "{}: {count} seconds with {threshold} ms or more, {mean} ms on average, {} ms at worst.",
                event.name, event.max_ms
            );
        }
        out.push_str(
            "A command's time runs from being read to being answered: SLOWLOG GET tells which commands those were. \
             A write waits for a quorum and its disks, a linearizable read for a quorum: compare the disks' sync times \
             and the round trips between nodes in the metrics.\n",
        );
        verbatim(out)
    }
}

/// Names as they were given; none: all commands.
struct Histogram(Vec<String>);

/// Powers of two in microseconds, each with the calls that took no longer, where another one brings more.
fn doubling(latency: &CommandLatency) -> Vec<(Reply, Reply)> {
    let mut rows: Vec<(u64, u64)> = Vec::new();
    for (bound, calls) in &latency.within {
        let power = bound.next_power_of_two();
        match rows.last_mut() {
            Some((last, sum)) if *last == power => *sum = *calls,
            _ => rows.push((power, *calls)),
        }
    }
    rows.into_iter().map(|(bound, calls)| (Reply::Int(bound as i64), Reply::Int(calls as i64))).collect()
}

impl NodeCommand for Histogram {
    const SPEC: Spec = spec(
        "histogram",
        -2,
        "7.0.0",
        "LATENCY HISTOGRAM [command [command ...]]",
        "How many calls of commands took no longer than so many microseconds, their quorum included.",
    );

    fn parse(args: &Args) -> Result<Self, Reply> {
        Ok(Histogram(args[2..].iter().map(|arg| text(arg).to_ascii_lowercase()).collect()))
    }

    fn run(self, node: &dyn Node, _: &mut Session) -> Reply {
        let told = !node.latency_percentiles().is_empty();
        let rows = node.command_latencies().into_iter().filter(|_| told);
        // A container's name stands for its subcommands.
        let wanted = |name: &str| {
            let container = name.split('|').next().unwrap_or(name);
            self.0.is_empty() || self.0.iter().any(|wanted| wanted == name || wanted == container)
        };
        let row = |latency: CommandLatency| {
            let within = Reply::Map(doubling(&latency));
            let calls = Reply::Int(latency.calls as i64);
            (bulk(latency.name), Reply::Map(vec![(bulk("calls"), calls), (bulk("histogram_usec"), within)]))
        };
        Reply::Map(rows.filter(|latency| wanted(&latency.name)).map(row).collect())
    }
}

pub(super) static LATENCY: &[Command] = &[
    node::<Doctor>(),
    node::<Graph>(),
    help(spec("help", 2, "2.8.13", "LATENCY HELP", "The subcommands of LATENCY."), |_, _| of_table("LATENCY", LATENCY)),
    node::<Histogram>(),
    node::<History>(),
    node::<Latest>(),
    node::<Reset>(),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_as_high_as_moments_were_long() {
        let event = LatencyEvent { name: "command", max_ms: 90, samples: vec![(100, 10), (4000, 40), (4055, 20)] };
        let rule = "-".repeat(80);
        let drawn =
            format!("command - high 40 ms, low 10 ms (all time high 90 ms)\n{rule}\n #\n #\n ##\n###\n\n115\nhms\n");
        assert_eq!(graph(&event, 4060), drawn);
    }

    #[test]
    fn bounds_double_and_say_how_many_calls_lay_within() {
        let latency = CommandLatency { name: "set".to_owned(), calls: 9, within: vec![(3, 2), (4, 5), (9, 9)] };
        let int = |n| Reply::Int(n);
        assert_eq!(doubling(&latency), [(int(4), int(5)), (int(16), int(9))]);
        assert_eq!([latency.percentile(50.0), latency.percentile(99.9), latency.percentile(0.0)], [4, 9, 3]);
    }
}
