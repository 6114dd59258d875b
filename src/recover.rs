//! A cluster that has lost its majority for good goes on from one survivor, offline: a new cluster of that one node.
//!
//! ```text
//! look      what each group on the survivor's disk ends with
//! confirm   the operator names the id of the cluster that is given up
//! begin     the new cluster's id is noted in the identity    from here on no node starts on the directory
//! store     every group consists of this node alone          one synced write (raft::alone)
//! identity  the new cluster's id                             from here on the node starts, and the old ones are refused
//! start     the node leads, and has the meta group say so    (cluster::recovery)
//! ```
//!
//! Cut off in between it is done again, with the id that was noted: what is done twice does no harm. Done, it is not done again. Nothing is decided
//! here about which survivor is the best: that is seen by comparing what each of them holds.

use crate::cluster::{IdentityError, Lone};
use crate::config::{Problems, Sources};
use crate::node;
use crate::raft::StorageError;
pub use crate::raft::alone::Held;
use crate::raft::alone::Survivor;
use crate::types::NodeId;
use std::path::{Path, PathBuf};

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("{}: {problems}", path.display())]
    Config { path: PathBuf, problems: Box<Problems> },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{}: {source}", path.display())]
    Store { path: PathBuf, source: StorageError },
    #[error("{} never belonged to a cluster, or holds no group: there is nothing to recover", .0.display())]
    Nothing(PathBuf),
    #[error("the cluster given up is {known}, and not {given}")]
    OtherCluster { known: String, given: String },
}

/// A survivor that does not run.
pub struct Found {
    pub node: NodeId,
    pub name: String,
    pub cluster: String,
    pub data_dir: PathBuf,
    pub groups: Vec<Held>,
    /// A recovery was begun here and cut off.
    pub half_done: bool,
    lone: Lone,
    survivor: Survivor,
}

/// Looks at the data directory of the node with this configuration file. Changes nothing. Blocks.
pub fn look(config: &Path) -> Result<Found, RecoverError> {
    let loaded = crate::config::load(&Sources::of_process(Some(config)));
    let config = loaded
        .map_err(|problems| RecoverError::Config { path: config.to_owned(), problems: Box::new(problems) })?
        .config;
    let data_dir = config.node.data_dir.clone();
    let lone = Lone::open(&data_dir)?;
    if lone.cluster().is_empty() {
        return Err(RecoverError::Nothing(data_dir));
    }
    let store = |source| RecoverError::Store { path: data_dir.clone(), source };
    let options = node::storage_options(&config);
    let survivor = Survivor::open(&data_dir, &options, lone.node(), lone.incarnation()).map_err(store)?;
    let groups = survivor.held().map_err(store)?;
    if groups.is_empty() {
        return Err(RecoverError::Nothing(data_dir));
    }
    let (node, name, cluster) = (lone.node(), lone.name().to_owned(), lone.cluster().to_owned());
    let half_done = lone.is_half_forced();
    Ok(Found { node, name, cluster, data_dir, groups, half_done, lone, survivor })
}

impl Found {
    /// Makes it a cluster of its own and gives the new id, or does nothing where that was done. `given_up` is the id of the
    /// cluster that is lost. Blocks.
    pub fn recover(&self, given_up: &str) -> Result<String, RecoverError> {
        if given_up == self.lone.given_up() && !given_up.is_empty() {
            // It was done before.
            return Ok(self.cluster.clone());
        }
        if given_up != self.cluster {
            let (known, given) = (self.cluster.clone(), given_up.to_owned());
            return Err(RecoverError::OtherCluster { known, given });
        }
        let path = self.data_dir.clone();
        let new = self.lone.begin_to_force()?;
        self.survivor.stand_alone().map_err(|source| RecoverError::Store { path, source })?;
        self.lone.force(&new)?;
        Ok(new)
    }
}
