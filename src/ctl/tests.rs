//! `hypercachectl` against nodes that are played: two servers of the protocol, of which the second leads.

use super::*;
use crate::proto::admin::admin_server::{Admin, AdminServer};
use crate::proto::admin::*;
use crate::proto::{CODE_METADATA, LEADER_METADATA, codes};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A node of a cluster of two with the meta group and one data group, both led by node 2.
struct Played {
    id: u64,
    addresses: Arc<[String]>,
    hash: &'static str,
    leaderless: bool,
    /// How often it still answers as one that has only started.
    starts: AtomicU32,
}

impl Played {
    fn refuse(&self) -> Option<Status> {
        if self.leaderless {
            let mut status = Status::unavailable("group 1 has no leader just now");
            status.metadata_mut().insert(CODE_METADATA, codes::NO_LEADER.parse().unwrap());
            return Some(status);
        }
        if self.id == 2 {
            let starting =
                self.starts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let mut status = Status::unavailable("this node has not heard from its cluster yet who its users are");
            status.metadata_mut().insert(CODE_METADATA, codes::USERS_UNKNOWN.parse().unwrap());
            return starting.then_some(status);
        }
        let mut status = Status::failed_precondition("group 1 is led by node-2");
        status.metadata_mut().insert(CODE_METADATA, codes::NOT_LEADER.parse().unwrap());
        status.metadata_mut().insert(LEADER_METADATA, self.addresses[1].parse().unwrap());
        Some(status)
    }

    fn groups(&self) -> Vec<Group> {
        let group = |id, slots| Group {
            id,
            leader: (!self.leaderless).then_some(2),
            voters: vec![1, 2],
            term: 3,
            commit: 9,
            applied: 9,
            slots,
            hosted: true,
            slot_ranges: vec!["0-16383".to_owned()],
            ..Group::default()
        };
        vec![group(0, 0), group(1, 16_384)]
    }

    fn nodes(&self) -> Vec<Node> {
        (1..=2)
            .map(|id| Node {
                id,
                name: format!("node-{id}"),
                addresses: Some(Addresses { grpc: self.addresses[id as usize - 1].clone(), ..Addresses::default() }),
                alive: true,
                ..Node::default()
            })
            .collect()
    }
}

#[tonic::async_trait]
impl Admin for Played {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let (nodes, groups) = (self.nodes(), self.groups());
        Ok(Response::new(StatusResponse { node: self.id, nodes, groups, ..StatusResponse::default() }))
    }

    async fn list_members(&self, _: Request<ListMembersRequest>) -> Result<Response<ListMembersResponse>, Status> {
        Ok(Response::new(ListMembersResponse { nodes: self.nodes() }))
    }

    async fn list_groups(&self, _: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        Ok(Response::new(ListGroupsResponse { groups: self.groups() }))
    }

    async fn change_nodes(
        &self,
        request: Request<ChangeNodesRequest>,
    ) -> Result<Response<ChangeNodesResponse>, Status> {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let wish = request.into_inner().wish;
        if let Some(change_nodes_request::Wish::Remove(RemoveNode { force: false, .. })) = wish {
            let mut status = Status::failed_precondition("1 nodes would be left for 2 copies of every group");
            status.metadata_mut().insert(CODE_METADATA, codes::TOO_FEW_NODES.parse().unwrap());
            return Err(status);
        }
        let waiting = vec!["group 1 waits for node 3, which is 9 entries behind".to_owned()];
        let moves = vec![VoteMove { group: 1, from: Some(2), to: Some(3) }];
        let standing = "joining".to_owned();
        let told =
            ChangeNodesResponse { node: 3, name: "node-3".into(), standing, moves, waiting, ..Default::default() };
        Ok(Response::new(told))
    }

    /// Slots 0-9 are on their way; everything else is group 1's.
    async fn move_slots(&self, request: Request<MoveSlotsRequest>) -> Result<Response<SlotsResponse>, Status> {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let MoveSlotsRequest { slots, to, cancel, .. } = request.into_inner();
        let mut told = self.list_slots(Request::new(ListSlotsRequest {})).await?;
        if cancel {
            *told.get_mut() = SlotsResponse::default();
        } else if to != 1 {
            told.get_mut().missing = slots;
        }
        Ok(told)
    }

    async fn list_slots(&self, _: Request<ListSlotsRequest>) -> Result<Response<SlotsResponse>, Status> {
        let phase = "shipping".to_owned();
        let under_way = Some(SlotsUnderWay { id: 7, slots: "0-9".to_owned(), from: 1, to: 2, phase });
        let owned = vec![SlotsOf { group: 1, slots: "0-16383".to_owned() }];
        let wished = vec![SlotsOf { group: 2, slots: "0-99".to_owned() }];
        let waiting = vec!["group 2 has no room for 9 bytes more".to_owned()];
        Ok(Response::new(SlotsResponse { epoch: 5, owned, wished, under_way, waiting, last: 7, ..Default::default() }))
    }

    /// Group 3 is the next; what names its number is so already, and group 1 is the last.
    async fn change_groups(
        &self,
        request: Request<ChangeGroupsRequest>,
    ) -> Result<Response<ChangeGroupsResponse>, Status> {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let ChangeGroupsRequest { wish, dry_run } = request.into_inner();
        let (group, named) = match wish {
            Some(change_groups_request::Wish::Add(AddGroup { group })) => (3, group.is_some()),
            Some(change_groups_request::Wish::Split(_)) => (3, false),
            _ => {
                let mut status = Status::failed_precondition("group 1 is the last one that holds keys and stays");
                status.metadata_mut().insert(CODE_METADATA, codes::LAST_GROUP.parse().unwrap());
                return Err(status);
            }
        };
        let stage = if named { "member" } else { "coming" }.to_owned();
        let slots = if named { Vec::new() } else { vec![SlotsOf { group: 3, slots: "0-9".to_owned() }] };
        let (voters, waiting) = (vec![2], Vec::new());
        let (already, done, epoch) = (named, named && !dry_run, 5);
        let told = ChangeGroupsResponse { epoch, group, stage, already, done, voters, slots, waiting };
        Ok(Response::new(told))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let to = request.into_inner().to;
        self.refuse().map_or(Ok(Response::new(TransferLeaderResponse { leader: to, already: to == 2 })), Err)
    }

    async fn trigger_snapshot(
        &self,
        _: Request<TriggerSnapshotRequest>,
    ) -> Result<Response<TriggerSnapshotResponse>, Status> {
        self.refuse().map_or(Ok(Response::new(TriggerSnapshotResponse { node: self.id, index: 9 })), Err)
    }

    type SaveSnapshotStream = tokio_stream::wrappers::ReceiverStream<Result<SnapshotPart, Status>>;

    /// A head and two chunks, or, of group 0, one chunk fewer than the head says.
    async fn save_snapshot(
        &self,
        request: Request<SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let group = request.into_inner().group;
        let head = SnapshotHead { group, index: 9, term: 3, keys: 5, chunks: 2, bytes: 8, ..SnapshotHead::default() };
        let chunk = || snapshot_part::Part::Chunk(vec![7; 4].into());
        let mut parts = vec![snapshot_part::Part::Working(Working {}), snapshot_part::Part::Head(head), chunk()];
        parts.extend((group != 0).then(chunk));
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        for part in parts {
            tx.try_send(Ok(SnapshotPart { part: Some(part) })).unwrap();
        }
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(rx)))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        if let Some(refused) = self.refuse() {
            return Err(refused);
        }
        let group = request.into_inner().group;
        let replica = |node, differs| VerifiedReplica { node, answered: true, differs, ..VerifiedReplica::default() };
        let agree = self.hash == "a";
        let replicas = vec![replica(1, !agree), replica(2, false)];
        Ok(Response::new(VerifyResponse { group, index: 9, replicas, agree, undecided: false }))
    }

    async fn state_hash(&self, request: Request<StateHashRequest>) -> Result<Response<StateHashResponse>, Status> {
        let groups = request.into_inner().groups.into_iter();
        let hashes = groups.map(|group| GroupHash { group, index: 9, hash: self.hash.to_owned() }).collect();
        Ok(Response::new(StateHashResponse { node: self.id, hashes }))
    }

    type EventsStream = tokio_stream::wrappers::ReceiverStream<Result<EventsPart, Status>>;

    /// Two events, of which the first is not kept any more.
    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let after = request.into_inner().after;
        let event =
            |number| Event { number, name: "leader-changed".into(), node: Some(2), group: Some(1), ..Event::default() };
        let mut parts = vec![events_part::Part::Begun(FeedBegun { node: self.id, run: 7 })];
        if after < 1 {
            parts.push(events_part::Part::Missed(EventsMissed { count: 1 }));
        }
        parts.extend((after < 2).then(|| events_part::Part::Event(event(2))));
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        for part in parts {
            tx.try_send(Ok(EventsPart { part: Some(part) })).unwrap();
        }
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(rx)))
    }

    async fn examine(&self, _: Request<ExamineRequest>) -> Result<Response<ExamineResponse>, Status> {
        let other =
            PeerView { node: 3 - self.id, alive: true, phi: Some(0.5), silent_ms: Some(120), ..PeerView::default() };
        let groups = self.groups().into_iter().map(|group| Group { recovered: true, ..group }).collect();
        Ok(Response::new(ExamineResponse { node: self.id, peers: vec![other], groups, ..ExamineResponse::default() }))
    }

    async fn debug(&self, _: Request<DebugRequest>) -> Result<Response<DebugResponse>, Status> {
        let files = vec![DebugFile { name: "metrics.txt".into(), content: b"up 1".to_vec() }];
        Ok(Response::new(DebugResponse { node: self.id, files }))
    }

    async fn set_log_level(&self, _: Request<SetLogLevelRequest>) -> Result<Response<SetLogLevelResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }
}

/// Plays both nodes; gives their addresses.
async fn cluster(hashes: [&'static str; 2], leaderless: bool) -> Arc<[String]> {
    cluster_whose_leader_starts(hashes, leaderless, 0).await
}

async fn cluster_whose_leader_starts(hashes: [&'static str; 2], leaderless: bool, starts: u32) -> Arc<[String]> {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let addresses: Arc<[String]> = listeners.iter().map(|one| one.local_addr().unwrap().to_string()).collect();
    for ((id, listener), hash) in (1..).zip(listeners).zip(hashes) {
        let played = Played { id, addresses: Arc::clone(&addresses), hash, leaderless, starts: starts.into() };
        let router = tonic::transport::Server::builder().add_service(AdminServer::new(played));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    }
    addresses
}

fn cli(endpoint: &str, rest: &[&str]) -> Cli {
    Cli::try_parse_from(["hypercachectl", "--endpoint", endpoint].iter().chain(rest)).unwrap()
}

async fn json_of(endpoint: &str, rest: &[&str]) -> Value {
    let output = run(&cli(endpoint, &[rest, &["-o", "json"]].concat())).await.unwrap();
    serde_json::from_str(&output).unwrap()
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn status_as_json_has_the_promised_fields() {
    let nodes = cluster(["a", "a"], false).await;
    let status = json_of(&nodes[0], &["status"]).await;
    for field in ["id", "name", "addresses", "alive"] {
        assert!(!status["nodes"][0][field].is_null(), "{field}");
    }
    let group = &status["groups"][1];
    for field in ["id", "leader", "voters", "learners", "term", "commit", "applied", "slots", "keys", "used_bytes"] {
        assert!(!group[field].is_null(), "{field}");
    }
    assert_eq!((&group["leader"], &group["slots"]), (&Value::from(2), &Value::from(16_384)));
    let groups = json_of(&nodes[0], &["group", "list"]).await;
    assert_eq!(groups["groups"][1]["slot_ranges"][0], "0-16383");
}

#[tokio::test]
async fn tables_have_a_line_a_row() {
    let nodes = cluster(["a", "a"], false).await;
    let table = run(&cli(&nodes[0], &["status"])).await.unwrap();
    assert!(table.lines().any(|line| line.starts_with("NODE")), "{table}");
    assert!(table.lines().any(|line| line.starts_with("1 ") && line.contains("node-2")), "{table}");
    assert!(table.lines().all(|line| line.trim_end() == line), "{table}");
    let groups = run(&cli(&nodes[0], &["group", "list"])).await.unwrap();
    assert_eq!(groups.lines().count(), 3, "{groups}");
}

#[tokio::test]
async fn a_verb_follows_the_leader_once_and_may_be_repeated() {
    let nodes = cluster(["a", "a"], false).await;
    let transfer = |to| ["leader", "transfer", "--group", "1", "--to", to];
    let done = json_of(&nodes[0], &transfer("node-1")).await;
    assert_eq!(done, serde_json::json!({"group": 1, "leader": 1, "already": false}));
    let already = json_of(&nodes[0], &transfer("2")).await;
    assert_eq!(already["already"], true);
    let saved = json_of(&nodes[0], &["snapshot", "make", "--all"]).await;
    assert_eq!(saved["snapshots"].as_array().unwrap().len(), 2);
    assert_eq!(saved["snapshots"][1], serde_json::json!({"group": 1, "node": 2, "index": 9}));
}

#[tokio::test]
async fn a_change_of_nodes_tells_how_far_it_has_come_and_a_wait_for_it_ends() {
    let nodes = cluster(["a", "a"], false).await;
    let begun = json_of(&nodes[0], &["node", "add", "h:7000"]).await;
    assert_eq!((&begun["node"], &begun["done"], &begun["dry_run"]), (&3.into(), &false.into(), &false.into()));
    assert_eq!(begun["moves"][0], serde_json::json!({"group": 1, "from": 2, "to": 3}));
    let table = run(&cli(&nodes[0], &["node", "add", "h:7000"])).await.unwrap();
    assert!(table.contains("--wait") && table.contains("9 entries behind"), "{table}");
    let plan = run(&cli(&nodes[0], &["rebalance", "--dry-run"])).await.unwrap();
    assert!(plan.lines().any(|line| line.starts_with('1') && line.contains("node-2")), "{plan}");
    let waited = run(&cli(&nodes[0], &["node", "add", "h:7000", "--wait", "--timeout", "1"])).await.unwrap_err();
    assert_eq!((waited.exit, waited.code), (6, "HC-3002"));
    let refused = run(&cli(&nodes[0], &["node", "remove", "node-2"])).await.unwrap_err();
    assert_eq!((refused.exit, refused.code), (5, "HC-3115"));
    let listed = json_of(&nodes[0], &["node", "list"]).await;
    assert_eq!(listed["nodes"][1]["standing"], "member");
    let described = json_of(&nodes[0], &["node", "describe", "2"]).await;
    assert_eq!(described["groups"][1], serde_json::json!({"group": 1, "part": "leads"}));
    let nobody = run(&cli(&nodes[0], &["node", "describe", "node-9"])).await.unwrap_err();
    assert_eq!(nobody.code, "HC-3003");
}

#[tokio::test]
async fn slots_are_listed_and_a_move_tells_how_far_it_has_come() {
    let nodes = cluster(["a", "a"], false).await;
    let listed = json_of(&nodes[0], &["slots", "list"]).await;
    assert_eq!(listed["owned"][0], serde_json::json!({"group": 1, "slots": "0-16383"}));
    assert_eq!((&listed["under_way"]["phase"], &listed["wished"][0]["slots"]), (&"shipping".into(), &"0-99".into()));
    let table = run(&cli(&nodes[0], &["slots", "list"])).await.unwrap();
    assert!(table.contains("0-16383") && table.contains("on their way from group 1 to group 2"), "{table}");
    let moved = |rest: &[&str]| {
        let words: Vec<&str> = ["slots", "move", "0-99"].iter().chain(rest).copied().collect();
        cli(&nodes[0], &words)
    };
    let begun = run(&moved(&["--to", "2"])).await.unwrap();
    assert!(begun.contains("--wait") && begun.contains("no room"), "{begun}");
    let plan = run(&moved(&["--to", "2", "--dry-run"])).await.unwrap();
    assert!(plan.contains("slots 0-99 would move to group 2"), "{plan}");
    let waited = run(&moved(&["--to", "2", "--wait", "--timeout", "1"])).await.unwrap_err();
    assert_eq!((waited.exit, waited.code), (6, "HC-3002"));
    assert_eq!(run(&moved(&["--to", "1", "--wait"])).await.unwrap(), "done\n");
    assert_eq!(run(&moved(&["--cancel"])).await.unwrap(), "done\n");
    let neither = Cli::try_parse_from(["hypercachectl", "slots", "move", "0-99"]);
    assert!(neither.is_err(), "a move goes to a group or is cancelled");
}

#[tokio::test]
async fn a_group_that_is_added_is_given_a_number_first_and_what_it_waits_for_is_told() {
    let nodes = cluster(["a", "a"], false).await;
    let plan = run(&cli(&nodes[0], &["group", "add", "--dry-run"])).await.unwrap();
    assert!(plan.starts_with("group 3 would be voted in by node-2\n"), "{plan}");
    let added = json_of(&nodes[0], &["group", "add", "--wait"]).await;
    assert_eq!((&added["group"], &added["already"], &added["done"]), (&3.into(), &true.into(), &true.into()));
    let again = run(&cli(&nodes[0], &["group", "add", "3"])).await.unwrap();
    assert_eq!(again, "already so: group 3 is member\n");
    let split = run(&cli(&nodes[0], &["group", "split", "1"])).await.unwrap();
    assert!(split.contains("coming") && split.contains("--wait") && split.contains("slots 0-9 are to go"), "{split}");
    let waited = run(&cli(&nodes[0], &["group", "split", "1", "--wait", "--timeout", "1"])).await.unwrap_err();
    assert_eq!((waited.exit, waited.code), (6, "HC-3002"));
    let last = run(&cli(&nodes[0], &["group", "remove", "1", "--to", "2,3"])).await.unwrap_err();
    assert_eq!((last.exit, last.code), (1, codes::LAST_GROUP));
    let wrong = Cli::try_parse_from(["hypercachectl", "group", "remove", "1", "--to", "2", "--undo"]);
    assert!(wrong.is_err(), "what stays goes nowhere");
}

#[tokio::test]
async fn the_doctor_finds_nothing_in_a_cluster_that_is_well_and_says_what_is_wrong_in_another() {
    let nodes = cluster(["a", "a"], false).await;
    let well = json_of(&nodes[0], &["doctor"]).await;
    assert_eq!((&well["ok"], &well["answered"]), (&Value::Bool(true), &Value::from(2)));
    let ill = cluster(["a", "a"], true).await;
    let trouble = run(&cli(&ill[1], &["doctor"])).await.unwrap_err();
    assert_eq!((trouble.exit, trouble.code), (4, "HC-3007"));
    let shown = trouble.output.unwrap();
    assert!(shown.contains("PROBLEM no-leader: group 1") && shown.contains("remedy:"), "{shown}");
    let heard = json_of(&nodes[0], &["node", "describe", "2"]).await;
    assert_eq!((&heard["heard"]["phi"], &heard["heard"]["silent_ms"]), (&Value::from(0.5), &Value::from(120)));
}

#[tokio::test]
async fn a_bundle_has_a_part_of_every_node_and_may_be_made_again() {
    let nodes = cluster(["a", "a"], false).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bundle.tar");
    for _ in 0..2 {
        let made = json_of(&nodes[0], &["debug", "bundle", file.to_str().unwrap()]).await;
        let names: Vec<&str> =
            made["files"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        for wanted in ["status.json", "node-1/peers.json", "node-2/events.jsonl", "node-2/metrics.txt"] {
            assert!(names.contains(&wanted), "{names:?}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
}

#[tokio::test]
async fn shells_and_manuals_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let text = run(&cli("h:1", &["completions", shell])).await.unwrap();
        assert!(text.contains("doctor") && text.contains("rebalance"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    for _ in 0..2 {
        run(&cli("h:1", &["man", folder.to_str().unwrap()])).await.unwrap();
    }
    let page = std::fs::read_to_string(folder.join("hypercachectl-node-add.1")).unwrap();
    assert!(page.contains("Takes an empty node into the cluster"), "{page}");
}

#[tokio::test]
async fn verify_tells_equal_from_different() {
    let nodes = cluster(["a", "a"], false).await;
    let equal = json_of(&nodes[0], &["verify"]).await;
    assert_eq!((&equal["ok"], equal["groups"].as_array().unwrap().len()), (&Value::Bool(true), 2));
    let nodes = cluster(["a", "b"], false).await;
    let trouble = run(&cli(&nodes[0], &["verify", "--group", "1", "-o", "json"])).await.unwrap_err();
    assert_eq!((trouble.exit, trouble.code), (1, "HC-3004"));
    let shown: Value = serde_json::from_str(trouble.output.as_ref().unwrap()).unwrap();
    assert_eq!((&shown["ok"], &shown["groups"][0]["agree"]), (&Value::Bool(false), &Value::Bool(false)));
}

#[tokio::test]
async fn troubles_have_their_exit_codes_and_a_remedy() {
    let down = nobody().await;
    let trouble = run(&cli(&down, &["status"])).await.unwrap_err();
    assert_eq!(trouble.exit, 3);
    let text = trouble.to_string();
    assert!(text.starts_with("error[HC-3001]: ") && text.contains("\n  remedy: ") && text.contains(&down), "{text}");

    let nodes = cluster(["a", "a"], true).await;
    let trouble = run(&cli(&nodes[0], &["snapshot", "make", "--group", "1"])).await.unwrap_err();
    assert_eq!((trouble.exit, trouble.code), (4, codes::NO_LEADER));
    let trouble = run(&cli(&nodes[0], &["leader", "transfer", "--group", "1", "--to", "node-7"])).await.unwrap_err();
    assert_eq!(trouble.exit, 1);
    assert!(trouble.remedy.contains("node-1 (1)"), "{trouble}");
    let trouble = run(&cli(&nodes[0], &["verify", "--group", "5"])).await.unwrap_err();
    assert_eq!((trouble.exit, trouble.code), (1, codes::NO_SUCH_GROUP));
}

#[tokio::test]
async fn a_silent_node_is_unreachable_and_a_short_timeout_is_a_timeout() {
    // The kernel takes the connection, nobody speaks.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let trouble = run(&cli(&address, &["--timeout", "1", "status"])).await.unwrap_err();
    assert_eq!(trouble.exit, 6);
}

#[tokio::test]
async fn the_first_endpoint_that_answers_is_used() {
    let nodes = cluster(["a", "a"], false).await;
    let both = format!("{},{}", nobody().await, nodes[1]);
    assert_eq!(json_of(&both, &["status"]).await["node"], 2);
}

/// A leader that was killed and started again is still taken for the leader for a moment.
#[tokio::test]
async fn a_leader_that_has_only_started_is_asked_again() {
    let call = ["slots", "move", "7", "--to", "1"];
    for (starts, done) in [(3, true), (1_000, false)] {
        let nodes = cluster_whose_leader_starts(["a", "a"], false, starts).await;
        let outcome = run(&cli(&nodes[0], &call)).await;
        assert_eq!(outcome.is_ok(), done, "{outcome:?}");
        assert!(done || outcome.unwrap_err().code == codes::USERS_UNKNOWN);
    }
}

#[test]
fn the_command_line_is_checked() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    for wrong in [
        &["snapshot", "make"][..],
        &["snapshot", "make", "--all", "--group", "1"],
        &["leader", "transfer", "--group", "x", "--to", "a"],
        &["status", "--endpoint", "no-port"],
        &["status", "--endpoint", "host:0"],
        &["status", "-o", "yaml"],
        &["frobnicate"],
    ] {
        let error = Cli::try_parse_from(["hypercachectl"].iter().chain(wrong)).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(trouble::EXIT_USAGE), "{wrong:?}");
    }
    assert_eq!(endpoint("http://h:70/"), Ok("h:70".to_owned()));
}

#[tokio::test]
async fn a_group_is_saved_by_its_leader_and_a_snapshot_that_is_not_whole_leaves_no_file() {
    let nodes = cluster(["a", "a"], false).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let path = file.to_str().unwrap();
    let saved = json_of(&nodes[0], &["snapshot", "save", path, "--group", "1"]).await;
    assert_eq!((&saved["groups"][0]["index"], &saved["whole"]), (&Value::from(9), &Value::from(false)));
    let seen = json_of(&nobody().await, &["snapshot", "inspect", path]).await;
    assert_eq!(seen["groups"], saved["groups"]);
    std::fs::remove_file(&file).unwrap();
    // Group 0 of the played cluster ends a chunk early.
    let trouble = run(&cli(&nodes[0], &["snapshot", "save", path])).await.unwrap_err();
    assert_eq!((trouble.code, trouble.exit), ("HC-3204", trouble::EXIT_FAILED));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no file, and nothing aside");
    let trouble = run(&cli(&nodes[0], &["snapshot", "save", path, "--group", "77"])).await.unwrap_err();
    assert_eq!(trouble.code, codes::NO_SUCH_GROUP);
    let trouble = run(&cli(&nodes[0], &["snapshot", "save", "/no/such/folder/file"])).await.unwrap_err();
    assert_eq!(trouble.code, "HC-3203");
}

#[tokio::test]
async fn a_verification_is_asked_of_the_leader_and_a_difference_is_a_failure() {
    let nodes = cluster(["a", "a"], false).await;
    let verdict = json_of(&nodes[0], &["group", "verify", "1"]).await;
    assert_eq!((&verdict["ok"], &verdict["groups"][0]["index"]), (&Value::from(true), &Value::from(9)));
    let nodes = cluster(["b", "b"], false).await;
    let trouble = run(&cli(&nodes[0], &["group", "verify", "1"])).await.unwrap_err();
    assert_eq!((trouble.code, trouble.exit), ("HC-3004", trouble::EXIT_FAILED));
    assert!(trouble.output.unwrap().contains("DIFFERS"));
}
