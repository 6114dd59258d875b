//! What the doors' tests stand on: a cluster of one node that leads the meta group and one data group.

use crate::cluster::Cluster;
use crate::server::overview::Overview;
use std::sync::Arc;

/// The node, recovered and leading.
pub async fn one_node() -> Arc<Overview> {
    Overview::new(Cluster::alone())
}
