//! pause: SIGSTOP and SIGCONT. A frozen leader keeps its sockets and its belief; when it wakes, its lease is over, because
//! the clock that leases are measured with went on.

use super::{Injected, Nemesis, between, victim};
use crate::cluster::Cluster;
use crate::sys::Signal;
use anyhow::{Result, ensure};

#[derive(Default)]
pub struct Pause {
    frozen: Option<usize>,
}

impl Nemesis for Pause {
    fn name(&self) -> &'static str {
        "pause"
    }

    fn about(&self) -> &'static str {
        "one node, mostly the leader of most groups, is frozen and thawed"
    }

    fn inject(&mut self, cluster: &mut Cluster, rng: &mut fastrand::Rng) -> Result<Option<Injected>> {
        let node = victim(cluster, rng)?;
        cluster.signal(node, Signal::Freeze)?;
        self.frozen = Some(node);
        Ok(Some(Injected {
            what: format!("SIGSTOP of node {node}"),
            affected: vec![node],
            hold: between(rng, 400, 5000),
        }))
    }

    fn prove(&mut self, cluster: &mut Cluster) -> Result<String> {
        if let Some(node) = self.frozen {
            ensure!(cluster.is_frozen(node)?, "node {node} is not stopped");
        }
        Ok(format!("/proc says that node {:?} is stopped", self.frozen.unwrap_or(0)))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.frozen.take().map_or(Ok(()), |node| cluster.signal(node, Signal::Thaw))
    }
}
