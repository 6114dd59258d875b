//! Runs `tests/commands/*.txt` and `tests/commands/doors/*.txt` on one node and on three, over their sockets: what stands between a
//! client and the keyspace must not change a reply. Left out are those that move the clock, which a cluster has of its own.

mod cluster;
mod notation;
mod shapes;
mod transcript;

use cluster::Plan;
use hypercache::resp::{Protocol, Reply};
use shapes::Shapes;
use transcript::{Action, Face};

/// Transcripts that must have been run, at least: nearly all.
const RUN_MIN: usize = 56;

/// One data group, so that keys may lie anywhere, asked through the node named: each story twice, in RESP2 as it is written, and
/// in RESP3 for the shapes of its replies. Gives these.
fn run_on(nodes: usize, through: usize) -> Shapes {
    let cluster = Plan::new(nodes, 1).start();
    // At its other face a node answers for the keys that it leads.
    let leader = cluster.wait_leader_of("foo", through);
    let (mut differences, mut run, mut heard) = (String::new(), 0, Vec::new());
    for protocol in [Protocol::Resp2, Protocol::Resp3] {
        for transcript in transcript::all() {
            if transcript.steps.iter().any(|step| matches!(step.action, Action::Pass(_))) {
                continue;
            }
            let mut client = match transcript.face {
                Face::Proxy => cluster.client(through),
                Face::Cluster => cluster.cluster_client(leader),
            };
            if protocol == Protocol::Resp3 {
                client.must(&["HELLO", "3"]);
            }
            client.ok(&["FLUSHALL"]);
            // Who keeps what it reads is told of all that this node applies from then on. A read waits until the flush is.
            assert_eq!(client.must(&["DBSIZE"]), Reply::Int(0));
            let answer = |args: &_| {
                let reply = client.ask(args);
                heard.push((Clone::clone(args), reply.clone(), protocol));
                reply
            };
            let told = transcript.run(answer, |_| unreachable!("those are left out"));
            if protocol == Protocol::Resp2 {
                differences += &told;
                run += 1;
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    assert!(run >= RUN_MIN, "only {run} transcripts were run");
    cluster.verify_replicas();
    shapes::hold(heard)
}

#[test]
fn one_node_answers_as_written() {
    let found = run_on(1, 1);
    let unseen: Vec<_> = shapes::declared().into_keys().filter(|name| !found.contains_key(name)).collect();
    assert!(unseen.is_empty(), "no transcript has replies of {unseen:?}");
}

#[test]
fn three_nodes_answer_as_written() {
    run_on(3, 2);
}
