//! `hypercachectl node ...` and `rebalance`: who belongs, and how far changes have come.
//!
//! A change is one call; the cluster goes on with it by itself. `--wait` makes the same call again and again, because it
//! changes nothing the second time and tells what is still to be done. So a wait that is cut off is begun again with the same
//! command.

use super::client::{Client, Reached, reach};
use super::trouble::Trouble;
use super::{Cli, Course, NodeVerb, Verb, node_number, output};
use crate::env;
use crate::proto::admin::change_nodes_request::Wish;
use crate::proto::admin::{
    AddNode, ChangeNodesRequest, ChangeNodesResponse, DrainNode, ExamineRequest, ListGroupsRequest, ListMembersRequest,
    Rebalance, RemoveNode, ReplaceNode,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two questions how far it has come.
pub(super) const AGAIN: Duration = Duration::from_millis(300);

pub async fn run(cli: &Cli, reached: Reached) -> Result<String, Trouble> {
    let (wish, how) = match &cli.verb {
        Verb::Node { verb } => match verb {
            NodeVerb::List => return list(cli, &reached).await,
            NodeVerb::Describe { node } => return describe(cli, &reached, node).await,
            NodeVerb::Add { address, how } => (Wish::Add(AddNode { address: address.clone() }), how),
            NodeVerb::Drain { node, undo, how } => (Wish::Drain(DrainNode { node: node.clone(), undo: *undo }), how),
            NodeVerb::Remove { node, force, how } => {
                (Wish::Remove(RemoveNode { node: node.clone(), force: *force }), how)
            }
            NodeVerb::Replace { old, address, how } => {
                (Wish::Replace(ReplaceNode { old: old.clone(), address: address.clone() }), how)
            }
        },
        Verb::Rebalance { copies, how } => (Wish::Rebalance(Rebalance { copies: *copies }), how),
        _ => unreachable!("only verbs about nodes come here"),
    };
    change(cli, reached, wish, *how).await
}

async fn list(cli: &Cli, reached: &Reached) -> Result<String, Trouble> {
    let nodes = reached.client.clone().list_members(ListMembersRequest {}).await;
    let nodes = nodes.map_err(|status| Trouble::of_status(&reached.endpoint, &status))?.into_inner().nodes;
    Ok(output::nodes(&nodes, cli.output))
}

async fn describe(cli: &Cli, reached: &Reached, node: &str) -> Result<String, Trouble> {
    let number = node_number(reached, node)?;
    let groups = reached.client.clone().list_groups(ListGroupsRequest {}).await;
    let groups = groups.map_err(|status| Trouble::of_status(&reached.endpoint, &status))?.into_inner().groups;
    let found = reached.status.nodes.iter().find(|one| one.id == number);
    let node = found.expect("its number was looked up among them");
    let examined = reached.client.clone().examine(ExamineRequest {}).await;
    let examined = examined.map_err(|status| Trouble::of_status(&reached.endpoint, &status))?.into_inner();
    let heard = examined.peers.iter().find(|peer| peer.node == number);
    Ok(output::node(node, &groups, heard, cli.output))
}

async fn change(cli: &Cli, mut reached: Reached, wish: Wish, how: Course) -> Result<String, Trouble> {
    if !how.wait {
        let told = ask(&reached, &wish, how.dry_run).await?;
        return Ok(output::changed(&told, &reached.status.nodes, how.dry_run, cli.output));
    }
    let mut told = BTreeSet::new();
    let mut first: Option<ChangeNodesResponse> = None;
    loop {
        let now = insist(cli, &mut reached, async |reached| ask(reached, &wish, false).await).await?;
        tell(&now.waiting, &mut told);
        // What it has begun to move is told once.
        let begun = first.get_or_insert_with(|| now.clone());
        if now.done {
            let done = ChangeNodesResponse { moves: begun.moves.clone(), ..now };
            return Ok(output::changed(&done, &reached.status.nodes, false, cli.output));
        }
        env::sleep(AGAIN).await;
    }
}

/// Lines that were not told yet, on standard error.
pub(super) fn tell(waiting: &[String], told: &mut BTreeSet<String>) {
    for line in waiting.iter().filter(|line| told.insert((*line).clone())) {
        eprintln!("{line}");
    }
}

/// Asks until there is an answer: leadership moves, and nodes go, while the cluster is changed. The node that is asked may be
/// the one that goes. The command's own time ends this.
pub(super) async fn insist<T>(
    cli: &Cli,
    reached: &mut Reached,
    ask: impl AsyncFn(&Reached) -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    loop {
        match ask(reached).await {
            Err(trouble) if trouble.passes() => {
                let doors = reached.status.nodes.iter().filter_map(|node| node.addresses.as_ref());
                let doors = doors.map(|at| at.grpc.clone()).filter(|door| !door.is_empty());
                let endpoints: Vec<String> = cli.endpoint.iter().cloned().chain(doors).collect();
                if let Ok(again) = reach(&endpoints, &cli.credentials()).await {
                    *reached = again;
                }
                env::sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

async fn ask(reached: &Reached, wish: &Wish, dry_run: bool) -> Result<ChangeNodesResponse, Trouble> {
    let request = ChangeNodesRequest { wish: Some(wish.clone()), dry_run };
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.change_nodes(request).await }
    };
    reached.at_leader(ask).await
}
