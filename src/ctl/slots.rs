//! `hypercachectl slots ...`: which group owns which slots, and moving them.
//!
//! As with nodes, a move is one call and the cluster goes on with it by itself; `--wait` makes the same call again and again
//! (`nodes.rs`).

use super::client::{Client, Reached};
use super::nodes::{AGAIN, insist, tell};
use super::trouble::Trouble;
use super::{Cli, SlotsVerb, output};
use crate::env;
use crate::proto::admin::{ListSlotsRequest, MoveSlotsRequest, SlotsResponse};
use std::collections::BTreeSet;

pub async fn run(cli: &Cli, mut reached: Reached, verb: &SlotsVerb) -> Result<String, Trouble> {
    let SlotsVerb::Move { slots, to, cancel, how } = verb else {
        let told = reached.client.clone().list_slots(ListSlotsRequest {}).await;
        let told = told.map_err(|status| Trouble::of_status(&reached.endpoint, &status))?.into_inner();
        return Ok(output::slots(&told, cli.output));
    };
    let (slots, to, cancel, dry_run) = (slots.clone(), to.unwrap_or_default(), *cancel, how.dry_run);
    let request = MoveSlotsRequest { slots, to, cancel, dry_run };
    let mut told = BTreeSet::new();
    loop {
        let now = match how.wait {
            true => insist(cli, &mut reached, async |reached| ask(reached, &request).await).await?,
            false => ask(&reached, &request).await?,
        };
        if !how.wait || now.missing.is_empty() {
            return Ok(output::slots_moved(&now, &request, cli.output));
        }
        tell(&now.waiting, &mut told);
        tell(&now.under_way.iter().map(output::slots_under_way).collect::<Vec<_>>(), &mut told);
        env::sleep(AGAIN).await;
    }
}

async fn ask(reached: &Reached, request: &MoveSlotsRequest) -> Result<SlotsResponse, Trouble> {
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.move_slots(request).await }
    };
    reached.at_leader(ask).await
}
