//! CLUSTER FAILOVER: leaders hand over to the node that is asked.

use super::pubsub::three;
use super::*;

#[tokio::test]
async fn a_node_takes_over_what_it_follows_and_nothing_written_is_lost() {
    let rigs = three(3).await;
    let mut writer = rigs[0].proxy().await;
    for n in 0..50 {
        assert_eq!(writer.ask(&format!("SET k{n} {n}")).await, "OK");
    }
    for rig in &rigs[1..] {
        let mut c = rig.client(Face::Cluster).await;
        assert_eq!(c.ask("CLUSTER FAILOVER").await, "OK");
        for group in [1, 2, 3] {
            assert!(rig.group(group).is_leader());
        }
        assert_eq!(c.ask("CLUSTER FAILOVER").await, "-ERR You should send CLUSTER FAILOVER to a replica");
        for n in 0..50 {
            assert_eq!(writer.ask(&format!("INCR k{n}")).await, (n + 1).to_string());
            assert_eq!(writer.ask(&format!("DECR k{n}")).await, n.to_string());
        }
    }
}

#[tokio::test]
async fn a_failover_is_not_forced() {
    let rigs = three(1).await;
    let mut c = rigs[1].client(Face::Cluster).await;
    for how in ["FORCE", "takeover"] {
        let reply = c.ask(&format!("CLUSTER FAILOVER {how}")).await;
        assert!(reply.starts_with("-ERR CLUSTER FAILOVER is not forced here: "), "{reply}");
    }
    for wrong in ["SOON", "FORCE TAKEOVER"] {
        assert_eq!(c.ask(&format!("CLUSTER FAILOVER {wrong}")).await, "-ERR syntax error");
    }
    assert_eq!(c.ask_all("MULTI\nCLUSTER FAILOVER\nEXEC").await[2], "[-ERR CLUSTER FAILOVER cannot be used here]");
    let disabled = "-ERR This instance has cluster support disabled";
    assert_eq!(rigs[1].proxy().await.ask("CLUSTER FAILOVER").await, disabled);
    // Nor asked of who leads already.
    let leader = rigs.iter().find(|rig| rig.group(1).is_leader()).expect("somebody leads");
    let mut own = leader.client(Face::Cluster).await;
    assert_eq!(own.ask("CLUSTER FAILOVER").await, "-ERR You should send CLUSTER FAILOVER to a replica");
    assert_eq!(own.ask("CLUSTER FAILOVER FORCE").await, c.ask("CLUSTER FAILOVER FORCE").await);
}
