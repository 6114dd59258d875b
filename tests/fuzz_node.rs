//! Random requests, asked of a real Redis and of one node over its socket: what stands between a client and the keyspace must
//! not change a reply. Many more are asked of the bare keyspace (`transcripts.rs`).

mod cluster;
mod fuzz;
mod redis;

use cluster::{Client, Cluster, Plan};
use hypercache::commands::{self, Command, Run};
use hypercache::resp::{self, Args, Protocol, Reply};

struct Node {
    client: Client,
    _cluster: Cluster,
}

impl fuzz::Ours for Node {
    fn begin(&mut self, protocol: Protocol) {
        let hello = if protocol == Protocol::Resp3 { "HELLO 3" } else { "HELLO 2" };
        for line in ["RESET", hello, "FLUSHALL"] {
            let reply = self.client.ask(&redis::words(line));
            assert!(!reply.is_error(), "{line}: {reply:?}");
        }
    }

    fn answer(&mut self, args: &Args, _: u64) -> Reply {
        self.client.ask(args)
    }

    fn takes(&self, _: &str, command: &Command) -> bool {
        matches!(command.run, Run::Read(_) | Run::Write(_) | Run::Session(_))
    }

    fn goes_by_redis(&self) -> bool {
        false
    }
}

#[test]
fn a_node_answers_random_requests_as_a_real_redis_does() {
    let Some(mut redis) = redis::Redis::start() else {
        return cluster::skipped("random requests to a node", "no redis-server is installed");
    };
    let nodes = Plan::new(1, 1).start();
    let mut node = Node { client: nodes.client(1), _cluster: nodes };
    let requests = fuzz::setting("COMMAND_FUZZ_NODE_REQUESTS", 3_000);
    fuzz::run(&mut redis, &mut node, requests, fuzz::setting("COMMAND_FUZZ_SEED", 3));
}
