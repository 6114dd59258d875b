//! HC.VERIFY on a connection: asks the leaders of the groups to compare their replicas, and tells what came of it.

use super::Shared;
use crate::commands::cluster::verified_groups;
use crate::env;
use crate::raft::{AdminError, Group, ReplicaVerdict, Verdict};
use crate::resp::{Args, Reply};
use std::sync::Arc;
use std::time::Duration;

/// The command's name.
pub(super) const NAME: &str = "hc.verify";
/// How long a verification may take: longer than a request, since every key is looked at.
const LIMIT: Duration = Duration::from_secs(60);

/// The groups that are asked for, as far as this node holds them.
pub(super) fn groups(args: &Args, shared: &Shared) -> Result<Vec<Arc<Group>>, Reply> {
    let (named, host) = (verified_groups(args)?, shared.cluster.host());
    if named.is_empty() {
        return Ok(host.groups());
    }
    let missing = |id| Reply::error(format!("ERR this node holds no replica of group {id}"));
    named.into_iter().map(|id| host.group(id).ok_or_else(|| missing(id))).collect()
}

pub(super) async fn run(groups: Vec<Arc<Group>>) -> Reply {
    let deadline = env::now() + LIMIT;
    let rows = groups.iter().map(|group| async move { row(group, &group.verify_at_leader(deadline).await) });
    Reply::Array(futures_util::future::join_all(rows).await)
}

fn row(group: &Group, verdict: &Result<Verdict, AdminError>) -> Reply {
    let word = |text: &str| Reply::bulk(text.to_owned());
    let (index, state, replicas) = match verdict {
        Ok(verdict) => {
            let state = match (verdict.agree(), verdict.undecided) {
                (true, _) => "equal".to_owned(),
                (false, true) => "undecided".to_owned(),
                (false, false) => "differ".to_owned(),
            };
            (verdict.index, state, verdict.replicas.iter().map(|one| replica(one, verdict.undecided)).collect())
        }
        Err(e) => (0, format!("failed: {e}"), Vec::new()),
    };
    Reply::Map(vec![
        (word("group"), Reply::Int(i64::from(group.id().0))),
        (word("index"), Reply::Int(index as i64)),
        (word("state"), word(&state)),
        (word("replicas"), Reply::Array(replicas)),
    ])
}

fn replica(one: &ReplicaVerdict, undecided: bool) -> Reply {
    let state = match (one.hash.is_some(), one.differs) {
        (false, _) => "no answer",
        (true, true) => "differs",
        (true, false) if undecided => "undecided",
        (true, false) => "equal",
    };
    let hash = one.hash.map(|hash| format!("{hash:032x}")).unwrap_or_default();
    let slots = one.slots.len() as i64;
    Reply::Array(vec![
        Reply::Int(one.node.0 as i64),
        Reply::bulk(state.to_owned()),
        Reply::bulk(hash),
        Reply::Int(slots),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::raft::Outcome;
    use crate::server::testing::{all_of_three_with, one_node_with, until};
    use crate::slot::slot_of;
    use crate::state::Keyspace;
    use crate::types::{GroupId, Level, Stamp};
    use bytes::Bytes;
    use std::sync::atomic::{AtomicBool, Ordering};

    const GROUP: GroupId = GroupId(1);
    const PATIENCE: Duration = Duration::from_secs(60);

    fn call(words: &[&str]) -> Args {
        words.iter().map(|w| Bytes::copy_from_slice(w.as_bytes())).collect()
    }

    async fn write(group: &Arc<Group>, words: &[&str]) {
        let outcome = group.propose_and_wait(vec![call(words)], env::now() + PATIENCE).await;
        assert!(matches!(outcome, Outcome::Applied { .. }), "{outcome:?}");
    }

    /// Changes one replica's state behind its log's back.
    fn corrupt(group: &Group, words: &[&str]) {
        let stamp = Stamp { now_ms: 0, seed: 0 };
        group.corrupt(|keyspace: &mut Keyspace| drop(crate::commands::apply(&call(words), keyspace, &stamp)));
    }

    fn replicas(clusters: &[Arc<Cluster>]) -> Vec<Arc<Group>> {
        clusters.iter().map(|cluster| cluster.host().group(GROUP).unwrap()).collect()
    }

    async fn leader(groups: &[Arc<Group>]) -> Arc<Group> {
        until(|| groups.iter().any(|g| g.is_leader() && g.try_read(Level::Eventual).is_some())).await;
        groups.iter().find(|g| g.is_leader()).unwrap().clone()
    }

    async fn verdict(groups: &[Arc<Group>]) -> Verdict {
        loop {
            match leader(groups).await.verify(env::now() + PATIENCE).await {
                Ok(verdict) => return verdict,
                Err(AdminError::NotLeader { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    async fn three_equal() -> Vec<Arc<Group>> {
        let groups = replicas(&all_of_three_with(1).await);
        for i in 0..50 {
            write(&leader(&groups).await, &["SET", &format!("key:{i}"), "right"]).await;
        }
        let first = verdict(&groups).await;
        assert!(first.agree() && first.replicas.iter().all(|r| r.hash.is_some()), "{first:?}");
        groups
    }

    /// Every replica is trusted again and all are equal; the wrong one shows the right value.
    async fn healed(groups: &[Arc<Group>], wrong: &Arc<Group>) {
        until(|| !wrong.status().fenced && wrong.status().rebuilt == 1).await;
        let again = verdict(groups).await;
        assert!(again.agree() && again.replicas.iter().all(|r| r.hash.is_some()), "{again:?}");
        until(|| wrong.try_read(Level::Eventual).is_some()).await;
        let permit = wrong.barrier(Level::Linearizable, env::now() + PATIENCE).await.unwrap();
        let value = wrong.read(&permit, |view| view.get(b"key:7").is_some()).unwrap();
        assert!(value, "the key that was lost here is back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_follower_whose_state_differs_is_found_fenced_and_rebuilt() {
        let groups = three_equal().await;
        let wrong = groups.iter().find(|g| !g.is_leader()).unwrap().clone();
        corrupt(&wrong, &["DEL", "key:7"]);
        let found = verdict(&groups).await;
        let differing: Vec<_> = found.replicas.iter().filter(|r| r.differs).collect();
        assert_eq!(differing.len(), 1, "{found:?}");
        assert_eq!(differing[0].node, wrong.me_for_tests());
        assert_eq!(differing[0].slots, [slot_of(b"key:7")]);
        assert_eq!(leader(&groups).await.status().differences, 1);
        healed(&groups, &wrong).await;
        // It did not only look the same: it goes on from there.
        write(&leader(&groups).await, &["SET", "key:8", "later"]).await;
        assert!(verdict(&groups).await.agree());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_leader_whose_state_differs_hands_over_and_is_rebuilt_from_its_successor() {
        let groups = three_equal().await;
        let wrong = leader(&groups).await;
        corrupt(&wrong, &["DEL", "key:7"]);
        let found = wrong.verify(env::now() + PATIENCE).await.unwrap();
        assert!(found.replicas.iter().all(|r| r.differs == (r.node == wrong.me_for_tests())), "{found:?}");
        assert!(wrong.try_read(Level::Lease).is_none() && wrong.try_read(Level::Eventual).is_none());
        healed(&groups, &wrong).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_majority_it_is_an_alarm_and_nobody_is_fenced() {
        let groups = three_equal().await;
        corrupt(&groups[0], &["SET", "key:7", "one"]);
        corrupt(&groups[1], &["SET", "key:7", "other"]);
        let found = verdict(&groups).await;
        assert!(found.undecided && !found.agree(), "{found:?}");
        assert!(groups.iter().all(|g| !g.status().fenced));
        assert_eq!(leader(&groups).await.status().differences, 1);
    }

    /// Rounds of verification (`HYPERCACHE_TEST_ROUNDS`, 100) while clients write and snapshots are made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn verifications_under_writes_and_snapshots_find_no_difference() {
        let rounds = std::env::var("HYPERCACHE_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
        let groups = three_equal().await;
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let (groups, over) = (groups.clone(), over.clone());
            tasks.push(tokio::spawn(async move {
                let mut n = 0u64;
                while !over.load(Ordering::Relaxed) {
                    n += 1;
                    let key = format!("key:{}", (n * 7 + writer) % 500);
                    let words: &[&str] = match n % 4 {
                        0 => &["DEL", &key],
                        1 => &["SET", &key, "short", "PX", "30"],
                        2 => &["INCR", "counter"],
                        _ => &["SET", &key, "longer than the others"],
                    };
                    let _ =
                        groups[writer as usize % 3].propose_and_wait(vec![call(words)], env::now() + PATIENCE).await;
                }
                n
            }));
        }
        {
            let (groups, over) = (groups.clone(), over.clone());
            tasks.push(tokio::spawn(async move {
                let mut n = 0;
                while !over.load(Ordering::Relaxed) {
                    groups[n as usize % 3].snapshot().await.unwrap();
                    n += 1;
                    env::sleep(Duration::from_millis(20)).await;
                }
                n
            }));
        }
        for round in 0..rounds {
            let found = verdict(&groups).await;
            assert!(found.agree(), "round {round}: {found:?}");
            assert!(found.replicas.iter().filter(|r| r.hash.is_some()).count() >= 2, "round {round}: {found:?}");
        }
        over.store(true, Ordering::Relaxed);
        for task in tasks {
            assert!(task.await.unwrap() > 10, "writes and snapshots went on meanwhile");
        }
        assert!(groups.iter().all(|g| !g.status().fenced && g.status().differences == 0));
    }

    #[tokio::test]
    async fn a_group_of_one_replica_equals_itself() {
        let cluster = one_node_with(1).await;
        let reply = run(vec![cluster.host().group(GROUP).unwrap()]).await;
        let Reply::Array(rows) = reply else { panic!("a row a group") };
        let Reply::Map(row) = &rows[0] else { panic!("a row is a map") };
        assert_eq!((&row[0].1, &row[2].1), (&Reply::Int(1), &Reply::bulk("equal".to_owned())));
    }
}
