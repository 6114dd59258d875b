//! The gRPC door over a loopback socket.

use super::*;
use crate::proto::admin::admin_client::AdminClient;
use crate::server::testing;
use futures_util::StreamExt;
use std::net::SocketAddr;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

/// Opens a door of one node; its stop is the sender.
pub async fn open() -> (SocketAddr, oneshot::Sender<()>, Arc<Overview>) {
    let overview = testing::one_node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closed) = oneshot::channel::<()>();
    let set_log_level: SetLogLevel = Arc::new(|directives| match directives {
        "loud" => Err("`loud` is not a level".to_owned()),
        other => Ok(other.to_owned()),
    });
    let options = Options::new(set_log_level);
    tokio::spawn(serve(listener, Arc::clone(&overview), options, async move { drop(closed.await) }));
    (address, close, overview)
}

async fn channel(address: SocketAddr) -> Channel {
    tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn status_has_nodes_and_groups() {
    let (address, _close, _) = open().await;
    let mut client = AdminClient::new(channel(address).await);
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node, status.nodes.len()), (1, 1));
    assert_eq!(status.cluster_id.len(), 40);
    let node = &status.nodes[0];
    assert!(node.alive);
    assert!(node.addresses.as_ref().unwrap().grpc.contains(':'));
    assert_eq!(status.groups.iter().map(|group| group.slots).sum::<u32>(), 16_384);
    for group in &status.groups {
        assert_eq!((group.leader, &group.voters[..], group.hosted, group.recovered), (Some(1), &[1][..], true, true));
        assert!(group.term > 0 && group.commit >= group.applied && group.applied > 0);
        assert!(group.slot_ranges.is_empty());
    }
    let members = client.list_members(admin::ListMembersRequest {}).await.unwrap().into_inner();
    assert_eq!(members.nodes, status.nodes);
    let groups = client.list_groups(admin::ListGroupsRequest {}).await.unwrap().into_inner().groups;
    assert!(groups.iter().any(|group| !group.slot_ranges.is_empty()));
}

#[tokio::test]
async fn verbs_are_idempotent_and_refusals_are_typed() {
    let (address, _close, _) = open().await;
    let mut client = AdminClient::new(channel(address).await);
    let done = client.transfer_leader(admin::TransferLeaderRequest { group: 1, to: 1 }).await.unwrap().into_inner();
    assert_eq!((done.leader, done.already), (1, true));
    let refused = client.transfer_leader(admin::TransferLeaderRequest { group: 1, to: 9 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.metadata().get(CODE_METADATA).unwrap(), codes::NO_SUCH_NODE);
    let refused = client.transfer_leader(admin::TransferLeaderRequest { group: 77, to: 1 }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(refused.metadata().get(CODE_METADATA).unwrap(), codes::NO_SUCH_GROUP);
    let saved = client.trigger_snapshot(admin::TriggerSnapshotRequest { group: 1 }).await.unwrap().into_inner();
    assert_eq!(saved.node, 1);
    assert!(saved.index > 0);
}

#[tokio::test]
async fn state_hashes_are_of_the_groups_asked_for() {
    let (address, _close, _) = open().await;
    let mut client = AdminClient::new(channel(address).await);
    let all = client.state_hash(admin::StateHashRequest { groups: vec![] }).await.unwrap().into_inner();
    assert_eq!((all.node, all.hashes.len()), (1, 2));
    let one = client.state_hash(admin::StateHashRequest { groups: vec![1] }).await.unwrap().into_inner();
    assert_eq!(one.hashes.len(), 1);
    assert_eq!((one.hashes[0].group, one.hashes[0].hash.len()), (1, 32));
    assert!(one.hashes[0].hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[tokio::test]
async fn the_log_level_is_set_through_the_closure() {
    let (address, _close, _) = open().await;
    let mut client = AdminClient::new(channel(address).await);
    let set = |directives: &str| admin::SetLogLevelRequest { directives: directives.to_owned() };
    assert_eq!(client.set_log_level(set("debug")).await.unwrap().into_inner().directives, "debug");
    let refused = client.set_log_level(set("loud")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, "`loud` is not a level"));
}

#[tokio::test]
async fn health_follows_readiness() {
    let (address, _close, _) = open().await;
    let mut client = HealthClient::new(channel(address).await);
    for service in ["", "hypercache.admin.v1.Admin"] {
        let mut watched = client.watch(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        // The first word may come before readiness was looked at.
        let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
        while watched.next().await.unwrap().unwrap().status != serving {}
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let (address, _close, _) = open().await;
    let mut client = ServerReflectionClient::new(channel(address).await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let file = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("hypercache.admin.v1.Admin".to_owned())),
    };
    let answers = client.server_reflection_info(tokio_stream::iter([list, file])).await.unwrap().into_inner();
    let answers: Vec<ServerReflectionResponse> = answers.map(|answer| answer.unwrap()).collect().await;
    let Some(MessageResponse::ListServicesResponse(list)) = &answers[0].message_response else {
        panic!("{:?}", answers[0]);
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for wanted in ["hypercache.admin.v1.Admin", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&wanted), "{wanted} in {names:?}");
    }
    let Some(MessageResponse::FileDescriptorResponse(files)) = &answers[1].message_response else {
        panic!("{:?}", answers[1]);
    };
    assert_eq!(files.file_descriptor_proto.len(), 1);
}

#[tokio::test]
async fn it_stops_when_told() {
    let overview = testing::one_node().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options::new(Arc::new(|text| Ok(text.to_owned())));
    serve(listener, overview, options, std::future::ready(())).await.unwrap();
}

#[tokio::test]
async fn only_administrators_are_let_in() {
    use crate::commands::acl::Change;
    use base64::Engine;
    let (address, _close, overview) = open().await;
    let change = async |change| {
        let deadline = env::now() + Duration::from_secs(20);
        assert_eq!(overview.cluster().change_users(change, deadline).await, crate::resp::Reply::OK);
    };
    let rules = |words: &[&'static str]| words.iter().map(|word| bytes::Bytes::from_static(word.as_bytes())).collect();
    change(Change::DefaultPassword(Some(bytes::Bytes::from_static(b"secret")))).await;
    change(Change::Set { name: "alice".to_owned(), rules: rules(&["on", ">pw", "~*", "+@all", "-@admin"]) }).await;
    change(Change::Set { name: "root".to_owned(), rules: rules(&["on", ">pw", "+@admin"]) }).await;
    for (user, password, refused) in [
        (None, None, Some((Code::Unauthenticated, codes::NOT_AUTHENTICATED))),
        (None, Some("wrong"), Some((Code::Unauthenticated, codes::NOT_AUTHENTICATED))),
        (Some("alice"), Some("pw"), Some((Code::PermissionDenied, codes::NOT_PERMITTED))),
        (Some("root"), Some("pw"), None),
        (None, Some("secret"), None),
    ] {
        let said = password.map(|password: &str| {
            let pair = format!("{}:{password}", user.unwrap_or("default"));
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let mut client = AdminClient::with_interceptor(channel(address).await, move |mut request: Request<()>| {
            if let Some(said) = &said {
                request.metadata_mut().insert("authorization", said.parse().unwrap());
            }
            Ok(request)
        });
        let trigger = admin::TriggerSnapshotRequest { group: 1 };
        let outcomes = [
            client.status(StatusRequest {}).await.err(),
            client.list_members(admin::ListMembersRequest {}).await.err(),
            client.list_groups(admin::ListGroupsRequest {}).await.err(),
            client.transfer_leader(admin::TransferLeaderRequest { group: 1, to: 1 }).await.err(),
            client.trigger_snapshot(trigger).await.err(),
            client.save_snapshot(admin::SaveSnapshotRequest { group: 1 }).await.err(),
            client.verify(admin::VerifyRequest { group: 1 }).await.err(),
            client.state_hash(admin::StateHashRequest { groups: Vec::new() }).await.err(),
            client.set_log_level(admin::SetLogLevelRequest { directives: "info".to_owned() }).await.err(),
        ];
        for (call, error) in outcomes.iter().enumerate() {
            let found = error
                .as_ref()
                .map(|status| (status.code(), status.metadata().get(CODE_METADATA).unwrap().to_str().unwrap()));
            assert_eq!(found, refused, "call {call} of {user:?} with {password:?}");
        }
    }
}
