//! `hypercachectl snapshot save | inspect | restore`: a cluster's state as a file, and a cluster from a file.

use crate::archive::{ArchiveError, Head, Opening, Part, Reader, Writer};
use crate::ctl::client::{Client, Reached, reach};
use crate::ctl::progress::Progress;
use crate::ctl::trouble::Trouble;
use crate::ctl::{Cli, output};
use crate::env;
use crate::proto::admin::{
    MoveSlotsRequest, SaveSnapshotRequest, SlotsResponse, SnapshotHead, SnapshotPart, snapshot_part,
};
use crate::restore;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Streaming;

/// Saves one group or all of them.
pub async fn save(file: &Path, group: Option<u32>, cli: &Cli) -> Result<String, Trouble> {
    let patience = Duration::from_secs(cli.timeout);
    let silent = |_| Trouble::timeout("the snapshot: nothing came for so long, and it", cli.timeout);
    let reached = env::timeout(patience, reach(&cli.endpoint, &cli.credentials())).await.map_err(silent)??;
    let known: Vec<u32> = reached.status.groups.iter().map(|group| group.id).collect();
    let groups = match group {
        Some(group) if !known.contains(&group) => return Err(Trouble::no_such_group(group)),
        Some(group) => vec![group],
        // The meta group first: whoever restores has to know where the others belong.
        None => known,
    };
    let opening = Opening {
        cluster: reached.status.cluster_id.clone(),
        created_ms: env::wall_ms(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        whole: group.is_none(),
        groups: groups.clone(),
    };
    let moves = if group.is_none() { Some(last_move(&reached).await?) } else { None };
    let archive = |e: ArchiveError| Trouble::archive(&e);
    let mut writer = Writer::create(file, &opening, env::seed()).map_err(archive)?;
    let mut progress = Progress::new("saving");
    let mut heads = Vec::new();
    for group in groups {
        let ask = |mut client: Client| async move { client.save_snapshot(SaveSnapshotRequest { group }).await };
        let parts = env::timeout(patience, reached.at_leader(ask)).await.map_err(silent)??;
        heads.push(receive(group, parts, &mut writer, &mut progress, patience, cli).await?);
    }
    if moves.is_some() && moves != Some(last_move(&reached).await?) {
        return Err(Trouble::slots_moved_meanwhile());
    }
    let size = writer.finish().map_err(archive)?;
    drop(progress);
    Ok(output::snapshot_file(&lines(file, &opening, size), &heads, cli.output))
}

/// The last move of slots that was begun, and how often a group came or went, if nothing of that is under way: what is saved
/// before and after it does not fit together.
async fn last_move(reached: &Reached) -> Result<(u64, u64), Trouble> {
    let ask = |mut client: Client| async move {
        let nothing = MoveSlotsRequest { slots: "0".to_owned(), cancel: true, dry_run: true, to: 0 };
        match client.move_slots(nothing).await {
            // A node of an older version, where no slot ever moves.
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                Ok(tonic::Response::new(SlotsResponse::default()))
            }
            told => told,
        }
    };
    match reached.at_leader(ask).await? {
        SlotsResponse { under_way: None, last, group_changes, groups_unsettled: false, .. } => {
            Ok((last, group_changes))
        }
        _ => Err(Trouble::slots_moved_meanwhile()),
    }
}

/// Writes what a leader sends of one group.
async fn receive(
    group: u32,
    mut parts: Streaming<SnapshotPart>,
    writer: &mut Writer,
    progress: &mut Progress,
    patience: Duration,
    cli: &Cli,
) -> Result<Head, Trouble> {
    let node = format!("the leader of group {group}");
    let odd = |what: &str| Trouble::odd_snapshot(&node, group, what);
    let mut head: Option<Head> = None;
    let (mut chunks, mut stored) = (0, 0);
    progress.now(&format!("group {group} makes its snapshot"));
    loop {
        let next = env::timeout(patience, parts.message()).await;
        let next = next.map_err(|_| Trouble::timeout("the snapshot: nothing came for so long, and it", cli.timeout))?;
        let Some(part) = next.map_err(|status| Trouble::of_status(&node, &status))? else { break };
        match (part.part, &head) {
            (Some(snapshot_part::Part::Working(_)), None) => progress.tell(0, 0),
            (Some(snapshot_part::Part::Head(sent)), None) => {
                let sent = head_of(sent);
                writer.head(&sent).map_err(|e| Trouble::archive(&e))?;
                progress.now(&format!("group {group}"));
                head = Some(sent);
            }
            (Some(snapshot_part::Part::Chunk(chunk)), Some(head)) if chunks < head.chunks => {
                writer.chunk(&chunk).map_err(|e| Trouble::archive(&e))?;
                chunks += 1;
                stored += chunk.len() as u64;
                // Stored bytes are fewer than the content's; chunks hold equal parts of that.
                progress.tell(head.bytes / u64::from(head.chunks.max(1)) * u64::from(chunks), head.bytes);
            }
            _ => return Err(odd("came in an order that makes no sense")),
        }
    }
    let head = head.ok_or_else(|| odd("did not come"))?;
    tracing::debug!(group, stored, "snapshot received");
    if chunks == head.chunks { Ok(head) } else { Err(odd("ended before its last chunk")) }
}

fn head_of(sent: SnapshotHead) -> Head {
    let SnapshotHead { group, index, term, clock_ms, keys, chunks, bytes, .. } = sent;
    Head { group, index, term, clock_ms, keys, chunks, bytes }
}

fn lines(file: &Path, opening: &Opening, size: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("file", json!(file.display().to_string())),
        ("size_bytes", json!(size)),
        ("cluster_id", json!(opening.cluster)),
        ("created_ms", json!(opening.created_ms)),
        ("program", json!(opening.program)),
        ("whole", json!(opening.whole)),
    ]
}

/// Reads a file to its end.
pub fn inspect(file: &Path, cli: &Cli) -> Result<String, Trouble> {
    let archive = |e: ArchiveError| Trouble::archive(&e);
    let mut reader = Reader::open(file).map_err(archive)?;
    let mut progress = Progress::new("reading");
    let mut heads = Vec::new();
    while let Some(part) = reader.next_part().map_err(archive)? {
        if let Part::Head(head) = part {
            heads.push(head);
        }
        let (at, size) = reader.progress();
        progress.tell(at, size);
    }
    drop(progress);
    let mut lines = lines(file, reader.opening(), reader.progress().1);
    lines.push(("checksum", json!(format!("{:032x}", reader.checksum().unwrap_or_default()))));
    Ok(output::snapshot_file(&lines, &heads, cli.output))
}

/// Makes data directories.
pub fn restore(file: &Path, configs: &[PathBuf], cluster_id: Option<&str>, cli: &Cli) -> Result<String, Trouble> {
    let mut progress = Progress::new("restoring");
    let restored = restore::restore(file, configs, cluster_id, |done, all| progress.tell(done, all));
    drop(progress);
    let done = restored.map_err(|e| Trouble::restore(&e))?;
    let nodes = done
        .nodes
        .iter()
        .map(|node| json!({"name": node.name, "data_dir": node.data_dir.display().to_string(), "groups": node.groups}));
    let nodes: Vec<Value> = nodes.collect();
    if cli.output == super::Form::Json {
        let elsewhere: Vec<u64> = done.elsewhere.iter().map(|node| node.0).collect();
        let lines = [
            ("cluster_id", json!(done.cluster)),
            ("from_cluster_id", json!(done.from)),
            ("nodes", json!(nodes)),
            ("elsewhere", json!(elsewhere)),
            ("already", json!(done.already)),
        ];
        return Ok(output::snapshot_file(&lines, &done.groups, cli.output));
    }
    let mut lines = vec![("cluster_id", json!(done.cluster)), ("restored_of", json!(done.from))];
    for node in &done.nodes {
        lines.push((
            if done.already { "made before" } else { "made" },
            json!(format!("{} for node {}", node.data_dir.display(), node.name)),
        ));
    }
    let mut text = output::snapshot_file(&lines, &done.groups, cli.output);
    if !done.elsewhere.is_empty() {
        text.push_str(&format!(
            "\n{} more nodes belong to this cluster: restore the same file there with --cluster-id {}\n",
            done.elsewhere.len(),
            done.cluster
        ));
    }
    Ok(text)
}
