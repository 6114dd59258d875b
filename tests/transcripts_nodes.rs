//! Runs `tests/commands/*.txt` on one node and on three, over their sockets: what stands between a client and the keyspace
//! must not change a reply. Left out are those that move the clock, which a cluster has of its own.

mod cluster;
mod notation;
// Each test uses what it needs of it.
#[allow(dead_code)]
mod transcript;

use cluster::{Client, Plan};
use hypercache::resp::{Args, Protocol, Reply};
use transcript::Action;

/// Transcripts that must have been run, at least: nearly all.
const RUN_MIN: usize = 40;

fn ask(client: &mut Client, args: &Args) -> Reply {
    let mut request = bytes::BytesMut::new();
    Reply::Array(args.iter().cloned().map(Reply::Bulk).collect()).encode(Protocol::Resp2, &mut request);
    client.send_raw(&request).expect("the node takes it");
    client.reply().expect("the node answers")
}

/// One data group, so that keys may lie anywhere, asked through the node named.
fn run_on(nodes: usize, through: usize) {
    let cluster = Plan::new(nodes, 1).start();
    let mut client = cluster.client(through);
    let (mut differences, mut run) = (String::new(), 0);
    for transcript in transcript::within("tests/commands") {
        if transcript.steps.iter().any(|step| matches!(step.action, Action::Pass(_))) {
            continue;
        }
        client.ok(&["FLUSHALL"]);
        differences += &transcript.run(|args| ask(&mut client, args), |_| unreachable!("those are left out"));
        run += 1;
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert!(run >= RUN_MIN, "only {run} transcripts were run");
    cluster.verify_replicas();
}

#[test]
fn one_node_answers_as_written() {
    run_on(1, 1);
}

#[test]
fn three_nodes_answer_as_written() {
    run_on(3, 2);
}
