//! Groups that a node gives up.

use super::super::testing::one_node_with;
use super::PATIENCE;
use crate::cluster::Cluster;
use crate::env;
use crate::raft::{Group, Outcome, StorageError};
use crate::resp::Args;
use crate::types::{GroupId, Level, Stamp};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The second of two groups, which is led here.
async fn second_of_two() -> (Arc<Cluster>, Arc<Group>) {
    let cluster = one_node_with(2).await;
    let group = cluster.host().group(GroupId(2)).unwrap();
    group.barrier(Level::Linearizable, env::now() + PATIENCE).await.unwrap();
    (cluster, group)
}

/// An empty replica in the place of one that has voted would vote again.
#[tokio::test]
async fn a_group_that_was_dropped_is_never_opened_again() {
    let (cluster, group) = second_of_two().await;
    let (host, two) = (cluster.host(), group.id());
    host.drop_group(two).await.unwrap();
    assert!(host.group(two).is_none() && host.is_dropped(two));
    let opened = host.open_group(two, 7, None).await;
    assert!(matches!(opened, Err(StorageError::Dropped(group)) if group == two));
    host.drop_group(two).await.unwrap();
    // One that was never here neither.
    host.drop_group(GroupId(9)).await.unwrap();
    assert!(host.open_group(GroupId(9), 7, None).await.is_err());
    assert!(group.barrier(Level::Linearizable, env::now() + Duration::from_millis(200)).await.is_err());
    assert!(host.group(GroupId(1)).unwrap().barrier(Level::Linearizable, env::now() + PATIENCE).await.is_ok());
}

#[tokio::test]
async fn what_waits_for_a_group_that_goes_comes_back_to_be_sent_elsewhere() {
    let (cluster, group) = second_of_two().await;
    let (host, two) = (cluster.host(), group.id());
    group.hold_writes(true);
    let call = |words: [&'static str; 3]| words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
    let calls = vec![call(["SET", "a", "1"]), call(["SET", "b", "2"])];
    let waits = group.propose_and_wait(calls.clone(), env::now() + PATIENCE);
    let (outcome, dropped) = tokio::join!(waits, host.drop_group(two));
    dropped.unwrap();
    let Outcome::Elsewhere { replies, calls: back, .. } = outcome else { panic!("{outcome:?}") };
    // Simulated seed 3342: a node that had forwarded them took them for another entry's without.
    assert_eq!(replies.len(), calls.len(), "each has its place");
    let back: Vec<(u32, Args)> = back.into_iter().map(|one| (one.place, one.call)).collect();
    assert_eq!(back, [(0, calls[0].clone()), (1, calls[1].clone())]);
}

/// A hand-over, or a core that begins anew, leaves a group without a leader for a moment.
#[tokio::test]
async fn a_leader_that_is_about_to_be_there_is_waited_for() {
    let (_cluster, group) = second_of_two().await;
    let me = group.me_for_tests();
    assert_eq!(group.leader_within(Duration::ZERO).await, Some(me));
    group.kill_core().await;
    while group.leader().is_some() {
        env::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(group.leader_within(Duration::ZERO).await, None);
    assert_eq!(group.leader_within(PATIENCE).await, Some(me));
}

/// Its time may be of another timeline: keys would go early by the difference.
#[tokio::test]
async fn a_leader_of_the_past_tells_no_time() {
    let (_cluster, group) = second_of_two().await;
    let hour = Duration::from_secs(3600);
    let latest = group.present() + hour.as_millis() as u64 / 2;
    group.hear_an_old_leader(hour).await;
    let estimate = group.estimate();
    assert!(estimate.is_none_or(|estimate| estimate < latest), "{estimate:?}, and at most {latest}");
}

/// After a restart the first stamp is made before the log is applied: what was due would wait for the next write.
#[tokio::test]
async fn a_leaders_time_catches_up_with_its_state() {
    let (_cluster, group) = second_of_two().await;
    let ahead = group.present() + 60_000;
    group.corrupt(|keyspace| keyspace.advance(&Stamp { now_ms: ahead, seed: 0 }));
    let caught_up = async {
        while group.estimate().is_none_or(|estimate| estimate < ahead) {
            env::sleep(Duration::from_millis(5)).await;
        }
    };
    env::timeout(PATIENCE, caught_up).await.expect("in time");
}

/// Its readers may have seen it. Simulated seeds 3159 and 3357 of their day.
#[tokio::test]
async fn what_a_follower_was_told_is_committed_is_waited_for_by_reads_at_the_leader() {
    let (_cluster, group) = second_of_two().await;
    let soon = Duration::from_millis(100);
    for level in [Level::Lease, Level::Linearizable] {
        assert!(group.try_read(level).is_some());
        group.tell_ahead();
        assert!(group.try_read(level).is_none(), "{level:?}");
        assert!(group.barrier(level, env::now() + soon).await.is_err(), "{level:?}");
        let call = ["SET", "a", "1"].iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
        let (read, written) = tokio::join!(
            group.barrier(level, env::now() + PATIENCE),
            group.propose_and_wait(vec![call], env::now() + PATIENCE)
        );
        assert!(matches!(written, Outcome::Applied { .. }), "{written:?}");
        assert_eq!(read.expect("it is applied").index(), group.try_read(level).expect("at once").index());
    }
}
