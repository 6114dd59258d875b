//! A group whose core has died.

use crate::server::testing::{one_node_with, until};
use crate::types::GroupId;

#[tokio::test]
async fn a_core_that_died_is_not_shown_as_leading_until_its_successor_leads() {
    let cluster = one_node_with(1).await;
    let group = cluster.host().group(GroupId(1)).unwrap();
    until(|| group.is_leader()).await;
    let (me, starts) = (group.me_for_tests(), group.starts());
    assert_eq!(group.status().leader, Some(me));
    group.kill_core().await;
    until(|| !group.is_leader()).await;
    // The last word of the one that died was that it leads.
    assert!(group.status().leader.is_none() || group.starts() > starts, "{:?}", group.status());
    until(|| group.is_leader() && group.status().leader == Some(me)).await;
    assert!(group.starts() > starts, "it is another one");
}
