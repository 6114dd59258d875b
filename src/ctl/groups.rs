//! `hypercachectl group add | split | remove`: groups that come and go.
//!
//! As with nodes, a change is one call and the cluster goes on with it by itself; `--wait` makes the same call again and again
//! (`nodes.rs`). A group that is added without a number is given the next one first, so that a call that is repeated adds no
//! other.

use super::client::{Client, Reached};
use super::nodes::{AGAIN, insist, tell};
use super::trouble::Trouble;
use super::{Cli, GroupVerb, output};
use crate::env;
use crate::proto::admin::change_groups_request::Wish;
use crate::proto::admin::{AddGroup, ChangeGroupsRequest, ChangeGroupsResponse, RemoveGroup, SplitGroup};
use std::collections::BTreeSet;

pub async fn run(cli: &Cli, mut reached: Reached, verb: &GroupVerb) -> Result<String, Trouble> {
    let (mut wish, how) = match verb {
        GroupVerb::List | GroupVerb::Verify { .. } => unreachable!("they were carried out before"),
        GroupVerb::Add { group, how } => (Wish::Add(AddGroup { group: *group }), how),
        GroupVerb::Split { group, into, how } => (Wish::Split(SplitGroup { group: *group, into: *into }), how),
        GroupVerb::Remove { group, to, undo, how } => {
            (Wish::Remove(RemoveGroup { group: *group, to: to.clone(), undo: *undo }), how)
        }
    };
    if wish == Wish::Add(AddGroup { group: None }) && !how.dry_run {
        let next = ask(&reached, &wish, true).await?.group;
        wish = Wish::Add(AddGroup { group: Some(next) });
    }
    let (mut told, mut first) = (BTreeSet::new(), None);
    loop {
        let now = match how.wait {
            true => insist(cli, &mut reached, async |reached| ask(reached, &wish, false).await).await?,
            false => ask(&reached, &wish, how.dry_run).await?,
        };
        // What was so before the first question was so already; what came while it was waited for was not.
        let already = *first.get_or_insert(now.already);
        if !how.wait || now.done {
            let now = ChangeGroupsResponse { already, ..now };
            return Ok(output::group_changed(&now, &wish, how.dry_run, &reached.status.nodes, cli.output));
        }
        tell(&[format!("group {} is {}", now.group, now.stage)], &mut told);
        tell(&now.waiting, &mut told);
        env::sleep(AGAIN).await;
    }
}

async fn ask(reached: &Reached, wish: &Wish, dry_run: bool) -> Result<ChangeGroupsResponse, Trouble> {
    let request = ChangeGroupsRequest { wish: Some(wish.clone()), dry_run };
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.change_groups(request).await }
    };
    reached.at_leader(ask).await
}
