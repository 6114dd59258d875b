//! What `hypercachectl` prints: tables for people, JSON for scripts. Pure: answers in, text out.
//!
//! The fields of the JSON are a promise; new ones may be added. Every text ends in a line feed.

use crate::archive::Head;
use crate::ctl::Form;
use crate::ctl::doctor::Finding;
use crate::ctl::top::Rates;
use crate::proto::admin::change_groups_request::Wish;
use crate::proto::admin::{
    ChangeGroupsResponse, ChangeNodesResponse, Event, ExamineResponse, Group, MoveSlotsRequest, Node, PeerView,
    SlotsOf, SlotsResponse, SlotsUnderWay, StatusResponse, TransferLeaderResponse, TriggerSnapshotResponse,
    VerifyResponse,
};
use crate::recover::Held;
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use std::path::Path;

/// Slot ranges shown in a table before the rest is only counted.
const RANGES_SHOWN: usize = 4;

/// Slots in which a replica differs that a table shows.
const SLOTS_SHOWN: usize = 8;

/// One group's part of what `verify` found.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    pub group: u32,
    pub index: u64,
    /// Node number and hash, by node.
    pub hashes: Vec<(u64, String)>,
    pub agree: bool,
}

pub fn status(status: &StatusResponse, form: Form) -> String {
    if form == Form::Json {
        return json_text(&json!({
            "cluster_id": status.cluster_id,
            "node": status.node,
            "version": status.version,
            "epoch": status.epoch,
            "uptime_ms": status.uptime_ms,
            "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
            "groups": status.groups.iter().map(|group| group_json(group, false)).collect::<Vec<_>>(),
        }));
    }
    let mut nodes = table(&["NODE", "NAME", "ALIVE", "RESP", "CLUSTER", "HTTP", "GRPC", "PEER"]);
    for node in &status.nodes {
        let at = node.addresses.clone().unwrap_or_default();
        let alive = if node.alive { "yes" } else { "NO" };
        nodes.add_row([&node.id.to_string(), &node.name, alive, &at.resp, &at.cluster, &at.http, &at.grpc, &at.peer]);
    }
    let mut groups = table(&["GROUP", "LEADER", "VOTERS", "LEARNERS", "TERM", "COMMIT", "APPLIED", "SLOTS", "KEYS"]);
    for group in &status.groups {
        groups.add_row([
            group.id.to_string(),
            leader_text(group, &status.nodes),
            list(&group.voters),
            list(&group.learners),
            group.term.to_string(),
            group.commit.to_string(),
            group.applied.to_string(),
            group.slots.to_string(),
            group.keys.to_string(),
        ]);
    }
    let seen_by = name_of(status.node, &status.nodes);
    format!(
        "cluster {}, epoch {}, as {seen_by} sees it\n\n{}\n{}",
        status.cluster_id,
        status.epoch,
        table_text(&nodes),
        table_text(&groups)
    )
}

pub fn groups(groups: &[Group], nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let rows: Vec<Value> = groups.iter().map(|group| group_json(group, true)).collect();
        return json_text(&json!({ "groups": rows }));
    }
    let mut rows = table(&[
        "GROUP", "LEADER", "VOTERS", "LEARNERS", "TERM", "LOG", "COMMIT", "APPLIED", "SNAPSHOT", "PURGED", "KEYS",
        "USED", "SLOTS",
    ]);
    for group in groups {
        rows.add_row([
            group.id.to_string(),
            leader_text(group, nodes),
            list(&group.voters),
            list(&group.learners),
            group.term.to_string(),
            group.last_log.to_string(),
            group.commit.to_string(),
            group.applied.to_string(),
            group.snapshot.to_string(),
            group.purged.to_string(),
            group.keys.to_string(),
            group.used_bytes.to_string(),
            slots_text(group),
        ]);
    }
    table_text(&rows)
}

pub fn nodes(nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        return json_text(&json!({ "nodes": nodes.iter().map(node_json).collect::<Vec<_>>() }));
    }
    let mut rows = table(&["NODE", "NAME", "ZONE", "STANDING", "ALIVE", "VOTES", "LEADS", "RESP", "GRPC", "PEER"]);
    for node in nodes {
        let at = node.addresses.clone().unwrap_or_default();
        let alive = if node.alive { "yes" } else { "NO" };
        let (votes, leads) = (node.votes.to_string(), node.leads.to_string());
        let id = if node.id == 0 { "-".to_owned() } else { node.id.to_string() };
        let zone = if node.zone.is_empty() { "-" } else { &node.zone };
        rows.add_row([&id, &node.name, zone, standing(node), alive, &votes, &leads, &at.resp, &at.grpc, &at.peer]);
    }
    table_text(&rows)
}

/// One node, its part in each group, and how the node that was asked hears it.
pub fn node(node: &Node, groups: &[Group], heard: Option<&PeerView>, form: Form) -> String {
    let part = |group: &Group| match () {
        () if group.leader == Some(node.id) => "leads",
        () if group.voters.contains(&node.id) => "votes",
        () if group.learners.contains(&node.id) => "copies",
        () => "nothing",
    };
    if form == Form::Json {
        let mut row = node_json(node);
        let parts: Vec<Value> = groups.iter().map(|group| json!({"group": group.id, "part": part(group)})).collect();
        row["groups"] = json!(parts);
        row["heard"] = json!(heard.map(peer_json));
        return json_text(&row);
    }
    let at = node.addresses.clone().unwrap_or_default();
    let mut text = String::new();
    let alive = if node.alive { "yes" } else { "NO" };
    let id = node.id.to_string();
    let lines = [
        ("node", id.as_str()),
        ("name", &node.name),
        ("zone", if node.zone.is_empty() { "-" } else { &node.zone }),
        ("standing", standing(node)),
        ("alive", alive),
        ("peer", &at.peer),
        ("resp", &at.resp),
        ("cluster", &at.cluster),
        ("http", &at.http),
        ("grpc", &at.grpc),
    ];
    for (name, value) in lines {
        text.push_str(&format!("{name:<12} {value}\n"));
    }
    if let Some(peer) = heard {
        let silent = peer.silent_ms.map_or("was never heard".to_owned(), |ms| format!("answered {ms} ms ago"));
        text.push_str(&format!("{:<12} {silent}, phi {:.2}\n", "heard", peer.phi.unwrap_or_default()));
        if let Some(heard) = peer.gossip {
            text.push_str(&format!("{:<12} {}\n", "gossip", if heard { "hears it" } else { "does not hear it" }));
        }
        if let Some(ms) = peer.clock_offset_ms {
            text.push_str(&format!("{:<12} {ms} ms ahead\n", "wall clock"));
        }
        if !peer.trouble.is_empty() {
            text.push_str(&format!("{:<12} {}\n", "trouble", peer.trouble));
        }
    }
    let mut rows = table(&["GROUP", "PART"]);
    for group in groups {
        rows.add_row([&group.id.to_string(), part(group)]);
    }
    format!("{text}\n{}", table_text(&rows))
}

/// A node's standing; one whose cluster never changed is a member.
fn standing(node: &Node) -> &str {
    match node.standing.as_str() {
        "" => "member",
        "member" if node.away => "member, away",
        standing => standing,
    }
}

/// How far a change of nodes has come.
pub fn changed(change: &ChangeNodesResponse, nodes: &[Node], dry_run: bool, form: Form) -> String {
    if form == Form::Json {
        let moves = change.moves.iter().map(|one| json!({"group": one.group, "from": one.from, "to": one.to}));
        return json_text(&json!({
            "node": (change.node > 0).then_some(change.node),
            "name": change.name,
            "standing": change.standing,
            "dry_run": dry_run,
            "done": change.done && !dry_run,
            "moves": moves.collect::<Vec<_>>(),
            "waiting": change.waiting,
            "note": change.note,
        }));
    }
    let mut text = String::new();
    if change.node > 0 {
        let (node, name, standing) = (change.node, &change.name, &change.standing);
        let would = if dry_run { "would be" } else { "is" };
        text.push_str(&format!("node {node} ({name}) {would} {standing}\n"));
    }
    if !change.note.is_empty() {
        text.push_str(&format!("{}\n", change.note));
    }
    if !change.moves.is_empty() {
        let mut rows = table(&["GROUP", "FROM", "TO"]);
        // A node that is not there yet has no name.
        let name = |node: Option<u64>| node.map_or("-".to_owned(), |node| name_of(node, nodes));
        for one in &change.moves {
            rows.add_row([one.group.to_string(), name(one.from), name(one.to)]);
        }
        text.push_str(&table_text(&rows));
    }
    match (dry_run, change.done) {
        (true, _) if change.moves.is_empty() => text.push_str("no vote would move\n"),
        (true, _) => {}
        (false, true) => text.push_str("done\n"),
        (false, false) => {
            text.push_str("under way; the same command with --wait ends when it is done\n");
            change.waiting.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    text
}

/// Which group owns which slots, and what is on its way.
pub fn slots(told: &SlotsResponse, form: Form) -> String {
    if form == Form::Json {
        return json_text(&slots_json(told));
    }
    let mut rows = table(&["GROUP", "SLOTS"]);
    told.owned.iter().for_each(|one| _ = rows.add_row([one.group.to_string(), one.slots.clone()]));
    let mut text = table_text(&rows);
    text.push_str(&on_their_way(told));
    text
}

/// How far a move has come that was asked for.
pub fn slots_moved(told: &SlotsResponse, asked: &MoveSlotsRequest, form: Form) -> String {
    let done = told.missing.is_empty() && !asked.dry_run;
    if form == Form::Json {
        let mut all = slots_json(told);
        all["dry_run"] = json!(asked.dry_run);
        all["done"] = json!(done);
        all["missing"] = json!(told.missing);
        return json_text(&all);
    }
    match (asked.dry_run, done) {
        (true, _) if told.missing.is_empty() => format!("group {} owns all of these slots already\n", asked.to),
        (true, _) => format!("slots {} would move to group {}\n", told.missing, asked.to),
        (false, true) => "done\n".to_owned(),
        (false, false) => {
            let under_way = "under way; the same command with --wait ends when it is done\n";
            format!("{under_way}  slots {} are still to move\n{}", told.missing, on_their_way(told))
        }
    }
}

/// How far a group has come that comes or goes.
pub fn group_changed(told: &ChangeGroupsResponse, asked: &Wish, dry_run: bool, nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let slots = told.slots.iter().map(|one| json!({"group": one.group, "slots": one.slots}));
        return json_text(&json!({
            "group": told.group,
            "stage": told.stage,
            "epoch": told.epoch,
            "voters": told.voters,
            "dry_run": dry_run,
            "already": told.already,
            "done": told.done,
            "slots": slots.collect::<Vec<_>>(),
            "waiting": told.waiting,
        }));
    }
    let group = told.group;
    let voters: Vec<String> = told.voters.iter().map(|voter| name_of(*voter, nodes)).collect();
    let voters = voters.join(", ");
    let to_go = told.slots.iter().map(|one| format!("  slots {} to group {}\n", one.slots, one.group));
    match (dry_run, told.done, asked) {
        (true, _, Wish::Remove(_)) => format!("group {group} would go, and\n{}", to_go.collect::<String>()),
        (true, _, _) => format!("group {group} would be voted in by {voters}\n{}", to_go.collect::<String>()),
        (false, true, _) if told.already => format!("already so: group {group} is {}\n", told.stage),
        (false, true, _) => format!("done: group {group} is {}\n", told.stage),
        (false, false, _) => {
            let under_way = "under way; the same command with --wait ends when it is done\n";
            let waits: String = group_waits(told).iter().map(|line| format!("  {line}\n")).collect();
            format!("group {group} is {}: {under_way}{waits}", told.stage)
        }
    }
}

/// What a group that comes or goes waits for.
pub fn group_waits(told: &ChangeGroupsResponse) -> Vec<String> {
    let slots = told.slots.iter().map(|one| format!("slots {} are to go to group {}", one.slots, one.group));
    told.waiting.iter().cloned().chain(slots).collect()
}

/// One batch, in words.
pub fn slots_under_way(batch: &SlotsUnderWay) -> String {
    let SlotsUnderWay { id, slots, from, to, phase } = batch;
    format!("slots {slots} are on their way from group {from} to group {to} (number {id}, {phase})")
}

fn on_their_way(told: &SlotsResponse) -> String {
    let batch = told.under_way.iter().map(slots_under_way);
    let wished = told.wished.iter().map(|one| format!("slots {} are to go to group {}", one.slots, one.group));
    batch.chain(wished).chain(told.waiting.iter().cloned()).map(|line| format!("  {line}\n")).collect()
}

fn slots_json(told: &SlotsResponse) -> Value {
    let of = |all: &[SlotsOf]| -> Vec<Value> {
        all.iter().map(|one| json!({"group": one.group, "slots": one.slots})).collect()
    };
    let batch = told
        .under_way
        .as_ref()
        .map(|one| json!({"id": one.id, "slots": one.slots, "from": one.from, "to": one.to, "phase": one.phase}));
    json!({
        "epoch": told.epoch,
        "last": told.last,
        "owned": of(&told.owned),
        "wished": of(&told.wished),
        "under_way": batch,
        "waiting": told.waiting,
    })
}

pub fn transferred(group: u32, done: &TransferLeaderResponse, nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        return json_text(&json!({"group": group, "leader": done.leader, "already": done.already}));
    }
    let leader = name_of(done.leader, nodes);
    if done.already {
        format!("group {group} is led by {leader} already\n")
    } else {
        format!("group {group} is led by {leader} now\n")
    }
}

pub fn snapshots(saved: &[(u32, TriggerSnapshotResponse)], nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let rows = saved.iter().map(|(group, done)| json!({"group": group, "node": done.node, "index": done.index}));
        return json_text(&json!({ "snapshots": rows.collect::<Vec<_>>() }));
    }
    let mut rows = table(&["GROUP", "NODE", "INDEX"]);
    for (group, done) in saved {
        rows.add_row([group.to_string(), name_of(done.node, nodes), done.index.to_string()]);
    }
    table_text(&rows)
}

/// What `group verify` found.
pub fn verdicts(groups: &[VerifyResponse], nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let rows = groups.iter().map(|one| {
            let replicas = one.replicas.iter().map(|replica| {
                json!({
                    "node": replica.node,
                    "answered": replica.answered,
                    "hash": replica.hash,
                    "differs": replica.differs,
                    "slots": replica.slots,
                })
            });
            json!({
                "group": one.group,
                "index": one.index,
                "agree": one.agree,
                "undecided": one.undecided,
                "replicas": replicas.collect::<Vec<_>>(),
            })
        });
        let ok = groups.iter().all(|one| one.agree);
        return json_text(&json!({"ok": ok, "groups": rows.collect::<Vec<_>>()}));
    }
    let mut rows = table(&["GROUP", "INDEX", "NODE", "HASH", "VERDICT", "SLOTS"]);
    for one in groups {
        for replica in &one.replicas {
            let verdict = match (replica.answered, replica.differs) {
                (false, _) => "no answer",
                (true, false) if one.undecided => "UNDECIDED",
                (true, false) => "equal",
                (true, true) => "DIFFERS",
            };
            let slots: Vec<String> = replica.slots.iter().take(SLOTS_SHOWN).map(u32::to_string).collect();
            let more = if replica.slots.len() > SLOTS_SHOWN { "..." } else { "" };
            rows.add_row([
                one.group.to_string(),
                one.index.to_string(),
                name_of(replica.node, nodes),
                replica.hash.clone(),
                verdict.to_owned(),
                slots.join(",") + more,
            ]);
        }
    }
    table_text(&rows)
}

/// What is in a snapshot file, or came of it. `lines` stand above the table of groups.
pub fn snapshot_file(lines: &[(&str, Value)], groups: &[Head], form: Form) -> String {
    if form == Form::Json {
        let mut fields: serde_json::Map<String, Value> =
            lines.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        fields.insert("groups".to_owned(), json!(groups));
        return json_text(&Value::Object(fields));
    }
    let mut text = String::new();
    for (name, value) in lines {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("{:<12} {value}\n", name.replace('_', " ")));
    }
    let mut rows = table(&["GROUP", "INDEX", "TERM", "CLOCK", "KEYS", "CHUNKS", "BYTES"]);
    for head in groups {
        rows.add_row([
            head.group.to_string(),
            head.index.to_string(),
            head.term.to_string(),
            head.clock_ms.to_string(),
            head.keys.to_string(),
            head.chunks.to_string(),
            head.bytes.to_string(),
        ]);
    }
    format!("{text}\n{}", table_text(&rows))
}

/// What a survivor's store holds.
pub fn held(groups: &[Held]) -> String {
    let mut rows = table(&["GROUP", "TERM", "INDEX", "VOTERS"]);
    for held in groups {
        let voters: Vec<u64> = held.voters.iter().map(|voter| voter.0).collect();
        rows.add_row([held.group.to_string(), held.term.to_string(), held.index.to_string(), list(&voters)]);
    }
    table_text(&rows)
}

/// What the doctor found, worst first; `asked` nodes answered.
pub fn findings(found: &[Finding], asked: usize, nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let rows = found
            .iter()
            .map(|one| json!({"kind": one.kind, "severe": one.severe, "text": one.text, "remedy": one.remedy}));
        let rows: Vec<Value> = rows.collect();
        return json_text(&json!({"ok": found.is_empty(), "answered": asked, "nodes": nodes.len(), "findings": rows}));
    }
    let mut text = format!("{asked} of {} nodes answered\n", nodes.len());
    if found.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    for one in found {
        let mark = if one.severe { "PROBLEM" } else { "warning" };
        text.push_str(&format!("\n{mark} {}: {}\n  remedy: {}\n", one.kind, one.text, one.remedy));
    }
    text
}

/// How a node is and how it hears the others.
pub fn examined(answer: &ExamineResponse) -> String {
    json_text(&json!({
        "node": answer.node,
        "name": answer.name,
        "cluster_id": answer.cluster_id,
        "version": answer.version,
        "wall_ms": answer.wall_ms,
        "disk_free_bytes": answer.disk_free_bytes,
        "disk_low": answer.disk_low,
        "waiting": answer.waiting,
        "peers": answer.peers.iter().map(peer_json).collect::<Vec<_>>(),
    }))
}

fn peer_json(peer: &PeerView) -> Value {
    json!({
        "node": peer.node,
        "name": peer.name,
        "address": peer.address,
        "alive": peer.alive,
        "phi": peer.phi,
        "silent_ms": peer.silent_ms,
        "clock_offset_ms": peer.clock_offset_ms,
        "trouble": peer.trouble,
        "gossip": peer.gossip,
    })
}

/// One event: a line, whatever the form.
pub fn event(event: &Event, nodes: &[Node], form: Form) -> String {
    let node = event.node.map(|node| name_of(node, nodes));
    if form == Form::Json {
        let (number, at_ms) = (event.number, event.at_ms);
        let line = json!({
            "number": number, "at_ms": at_ms, "event": event.name, "node": event.node, "group": event.group,
            "text": event.text,
        });
        return format!("{line}\n");
    }
    let mut line = format!("{:>6}  {}.{:03}  {}", event.number, event.at_ms / 1000, event.at_ms % 1000, event.name);
    if let Some(group) = event.group {
        line.push_str(&format!("  group {group}"));
    }
    if let Some(node) = node {
        line.push_str(&format!("  {node}"));
    }
    if !event.text.is_empty() {
        line.push_str(&format!("  {}", event.text));
    }
    line + "\n"
}

pub fn events_missed(count: u64, form: Form) -> String {
    match form {
        Form::Json => format!("{}\n", json!({ "missed": count })),
        Form::Table => format!("        {count} earlier events are kept no longer\n"),
    }
}

pub fn events_began_anew(node: u64, form: Form) -> String {
    match form {
        Form::Json => format!("{}\n", json!({ "began_anew": node })),
        Form::Table => format!("        node {node} was restarted: its numbers begin anew\n"),
    }
}

pub fn bundled(file: &Path, files: &[(String, usize)], form: Form) -> String {
    if form == Form::Json {
        let rows = files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes}));
        return json_text(&json!({"file": file.display().to_string(), "files": rows.collect::<Vec<_>>()}));
    }
    let mut rows = table(&["FILE", "BYTES"]);
    for (name, bytes) in files {
        rows.add_row([name, &bytes.to_string()]);
    }
    format!("{}\n\n{}", file.display(), table_text(&rows))
}

/// One look of `top`.
pub fn top(status: &StatusResponse, examined: &ExamineResponse, rates: &Rates, form: Form) -> String {
    let rate = |group: u32| rates.get(&group).copied();
    if form == Form::Json {
        let groups = status.groups.iter().map(|group| {
            let mut row = group_json(group, false);
            row["entries_per_second"] = json!(rate(group.id));
            row
        });
        let line = json!({
            "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
            "peers": examined.peers.iter().map(peer_json).collect::<Vec<_>>(),
            "groups": groups.collect::<Vec<_>>(),
        });
        return format!("{line}\n");
    }
    let mut nodes = table(&["NODE", "STANDING", "ALIVE", "PHI", "SILENT ms", "CLOCK ms", "VOTES", "LEADS"]);
    for node in &status.nodes {
        let peer = examined.peers.iter().find(|peer| peer.node == node.id);
        let number = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        nodes.add_row([
            node.name.clone(),
            standing(node).to_owned(),
            if node.alive { "yes" } else { "NO" }.to_owned(),
            number(peer.and_then(|peer| peer.phi).map(|phi| format!("{phi:.1}"))),
            number(peer.and_then(|peer| peer.silent_ms).map(|ms| ms.to_string())),
            number(peer.and_then(|peer| peer.clock_offset_ms).map(|ms| ms.to_string())),
            node.votes.to_string(),
            node.leads.to_string(),
        ]);
    }
    let mut groups = table(&["GROUP", "LEADER", "TERM", "ENTRIES/s", "COMMIT", "APPLIED", "KEYS", "USED"]);
    for group in &status.groups {
        groups.add_row([
            group.id.to_string(),
            leader_text(group, &status.nodes),
            group.term.to_string(),
            rate(group.id).map_or("-".to_owned(), |rate| format!("{rate:.0}")),
            group.commit.to_string(),
            group.applied.to_string(),
            group.keys.to_string(),
            group.used_bytes.to_string(),
        ]);
    }
    let seen_by = name_of(status.node, &status.nodes);
    let head = format!("cluster {}, epoch {}, as {seen_by} sees it", status.cluster_id, status.epoch);
    format!("{head}\n\n{}\n{}", table_text(&nodes), table_text(&groups))
}

pub fn verified(groups: &[Verified], nodes: &[Node], form: Form) -> String {
    if form == Form::Json {
        let rows = groups.iter().map(|one| {
            let replicas = one.hashes.iter().map(|(node, hash)| json!({"node": node, "hash": hash}));
            json!({
                "group": one.group,
                "index": one.index,
                "agree": one.agree,
                "replicas": replicas.collect::<Vec<_>>(),
            })
        });
        let ok = groups.iter().all(|one| one.agree);
        return json_text(&json!({"ok": ok, "groups": rows.collect::<Vec<_>>()}));
    }
    let mut rows = table(&["GROUP", "INDEX", "NODE", "HASH", "VERDICT"]);
    for one in groups {
        for (node, hash) in &one.hashes {
            let verdict = if one.agree { "equal" } else { "DIFFERS" };
            let cells = [&one.group.to_string(), &one.index.to_string(), &name_of(*node, nodes), hash, verdict];
            rows.add_row(cells);
        }
    }
    table_text(&rows)
}

fn node_json(node: &Node) -> Value {
    let at = node.addresses.clone().unwrap_or_default();
    json!({
        // One that waits to be taken in has no number.
        "id": Some(node.id).filter(|id| *id != 0),
        "name": node.name,
        "addresses": {"peer": at.peer, "resp": at.resp, "cluster": at.cluster, "http": at.http, "grpc": at.grpc},
        "alive": node.alive,
        "zone": node.zone,
        "standing": if node.standing.is_empty() { "member" } else { &node.standing },
        "away": node.away,
        "votes": node.votes,
        "leads": node.leads,
    })
}

fn group_json(group: &Group, full: bool) -> Value {
    let mut row = json!({
        "id": group.id,
        "leader": group.leader,
        "voters": group.voters,
        "learners": group.learners,
        "term": group.term,
        "commit": group.commit,
        "applied": group.applied,
        "slots": group.slots,
        "keys": group.keys,
        "used_bytes": group.used_bytes,
        "hosted": group.hosted,
        "recovered": group.recovered,
        "fenced": group.fenced,
    });
    if full && let Some(fields) = row.as_object_mut() {
        fields.insert("slot_ranges".into(), json!(group.slot_ranges));
        fields.insert("last_log".into(), group.last_log.into());
        fields.insert("snapshot".into(), group.snapshot.into());
        fields.insert("purged".into(), group.purged.into());
        fields.insert("expires".into(), group.expires.into());
        fields.insert("clock_ms".into(), group.clock_ms.into());
        fields.insert("verified".into(), group.verified.into());
        fields.insert("verified_ms".into(), group.verified_ms.into());
    }
    row
}

fn leader_text(group: &Group, nodes: &[Node]) -> String {
    match group.leader {
        Some(leader) => name_of(leader, nodes),
        None if group.hosted => "NONE".to_owned(),
        None => "unknown here".to_owned(),
    }
}

fn slots_text(group: &Group) -> String {
    let shown = group.slot_ranges.iter().take(RANGES_SHOWN).cloned().collect::<Vec<_>>().join(" ");
    let more = group.slot_ranges.len().saturating_sub(RANGES_SHOWN);
    match (group.slots, more) {
        (0, _) => "-".to_owned(),
        (count, 0) => format!("{count}: {shown}"),
        (count, more) => format!("{count}: {shown} and {more} more"),
    }
}

fn name_of(node: u64, nodes: &[Node]) -> String {
    nodes.iter().find(|one| one.id == node).map_or_else(|| node.to_string(), |one| one.name.clone())
}

fn list(nodes: &[u64]) -> String {
    if nodes.is_empty() {
        return "-".to_owned();
    }
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// No lines, and never broken to a terminal's width: a row stays a line for grep and awk.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}

fn table_text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        text.push('\n');
    }
    text
}

fn json_text(value: &Value) -> String {
    format!("{value:#}\n")
}
