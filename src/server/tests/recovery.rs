//! A node that was made a cluster of its own, and whose meta group does not say so yet.

use super::*;
use crate::cluster::{Wish, WishError};

#[tokio::test]
async fn nothing_is_wished_of_the_roster_of_a_cluster_that_was_given_up() {
    let cluster = testing::one_node_with(1).await;
    let rebalance = Wish::Rebalance { copies: None };
    let deadline = || env::now() + Duration::from_secs(20);
    cluster.wish(&rebalance, true, deadline()).await.expect("it leads, and knows itself");
    cluster.force_for_tests();
    for dry_run in [true, false] {
        let refused = cluster.wish(&rebalance, dry_run, deadline()).await;
        assert!(matches!(&refused, Err(WishError::Unreadable(why)) if why.contains("of its own")), "{refused:?}");
    }
}
