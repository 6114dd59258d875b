//! `hypercachectl recover`: a cluster that lost its majority goes on from one survivor. Asks no node.
//!
//! Without `--unsafe` it only tells what the survivor holds, so that survivors can be compared.

use super::trouble::Trouble;
use super::{Cli, Form, output};
use crate::recover::{Found, look};
use serde_json::json;
use std::path::Path;

pub fn run(cli: &Cli, config: &Path, confirmed: bool, cluster_id: Option<&str>) -> Result<String, Trouble> {
    let found = look(config).map_err(|e| Trouble::recover(&e))?;
    if !confirmed {
        return Ok(shown(&found, None, config, cli.output));
    }
    let Some(given_up) = cluster_id else { return Err(Trouble::not_confirmed(&found.cluster)) };
    eprintln!(
        "WARNING: cluster {given_up} is given up. What this survivor never received is lost, acknowledged or not; what no \
         majority had may come back. Never start another node of the old cluster again: empty its directory first."
    );
    let new = found.recover(given_up).map_err(|e| Trouble::recover(&e))?;
    Ok(shown(&found, Some((given_up, &new)), config, cli.output))
}

/// `done`: the ids of the cluster that was given up, and of the new one. The same however often it is done.
fn shown(found: &Found, done: Option<(&str, &str)>, config: &Path, form: Form) -> String {
    if form == Form::Json {
        let groups = found.groups.iter().map(|held| {
            let voters: Vec<u64> = held.voters.iter().map(|voter| voter.0).collect();
            json!({"group": held.group.0, "term": held.term, "index": held.index, "voters": voters})
        });
        let text = json!({
            "node": found.node.0,
            "name": found.name,
            "data_dir": found.data_dir.display().to_string(),
            "cluster_id": done.map_or(found.cluster.as_str(), |(_, new)| new),
            "given_up": done.map(|(given_up, _)| given_up),
            "recovered": done.is_some(),
            "groups": groups.collect::<Vec<_>>(),
        });
        return format!("{text:#}\n");
    }
    let cluster = done.map_or(found.cluster.as_str(), |(given_up, _)| given_up);
    let head = format!("node {} ({}) of cluster {cluster}, {}\n\n", found.node, found.name, found.data_dir.display());
    let next = match done {
        Some((_, new)) => format!(
            "\nit is cluster {new} now, of this node alone: start it, then add nodes with empty directories \
             (`hypercachectl node add`) and `hypercachectl rebalance --copies 3`\n"
        ),
        None if found.half_done => format!(
            "\na recovery was begun here and cut off: no node starts on this directory before it is finished:\n  \
             hypercachectl recover --unsafe --config {} --cluster-id {}\n",
            config.display(),
            found.cluster
        ),
        None => format!(
            "\nnothing was changed. Do this with every survivor, and take the one whose groups end with the highest term, \
             then index. To go on from this one, with the loss of what it does not hold:\n  \
             hypercachectl recover --unsafe --config {} --cluster-id {}\n",
            config.display(),
            found.cluster
        ),
    };
    head + &output::held(&found.groups) + &next
}
