//! Until when values stay packed: said to one node, true on all.

use super::*;
use crate::state::View;

/// The encoding of a fresh hash of five fields, made through this node.
async fn encoding(rig: &Rig, key: &str) -> String {
    let mut c = rig.proxy().await;
    c.ask(&format!("DEL {key}")).await;
    c.ask(&format!("HSET {key} a 1 b 2 c 3 d 4 e 5")).await;
    c.ask(&format!("OBJECT ENCODING {key}")).await
}

/// Whether all groups of a node know of this many fields.
fn knows(rig: &Rig, entries: usize) -> bool {
    let mut groups = rig.cluster.host().groups().into_iter().filter(|group| group.id() != GroupId::META);
    groups.all(|group| group.peek(|keyspace| View::new(keyspace, None).packing().hash.entries == entries))
}

#[tokio::test]
async fn limits_of_encodings_hold_on_every_node() {
    let rigs = pubsub::three(2).await;
    assert_eq!(encoding(&rigs[0], "h").await, "listpack");
    let mut c = rigs[1].proxy().await;
    assert_eq!(c.ask("CONFIG SET hash-max-ziplist-entries 4").await, "OK");
    testing::until(|| rigs.iter().all(|rig| knows(rig, 4))).await;
    for (rig, key) in rigs.iter().zip(["h", "i", "j"]) {
        assert_eq!(encoding(rig, key).await, "hashtable", "{key}");
        let shown = rig.proxy().await.ask("CONFIG GET hash-max-*-entries").await;
        assert_eq!(shown, "[hash-max-listpack-entries 4 hash-max-ziplist-entries 4]");
    }
    let refused = c.ask("CONFIG SET hash-max-listpack-entries -1").await;
    assert!(refused.contains("argument must be between 0 and"), "{refused}");
    assert_eq!(c.ask("CONFIG SET hash-max-listpack-entries 5").await, "OK");
    testing::until(|| rigs.iter().all(|rig| knows(rig, 5))).await;
    assert_eq!(encoding(&rigs[2], "h").await, "listpack");
}
