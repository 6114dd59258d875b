//! A cluster made from a snapshot file, offline: one data directory a node, all of one new cluster.
//!
//! ```text
//! read the whole file once     every checksum holds, every group is there
//! mark the directories         RESTORE-UNFINISHED, before anything else is in them
//! read it again                chunks go into the stores as they are, the meta group's state is made anew
//! identities                   the new cluster's id, the others' incarnations
//! remove the marks             from here on the nodes start
//! ```
//!
//! Asked again, it finds what it has made, as long as no node was started on it, and changes nothing but marks that are left.
//!
//! Invariants: a node does not start on a directory that is marked; nothing is written into a directory that held
//! anything but the leavings of an earlier attempt; a node of the old cluster, or of another restore, carries another
//! cluster id and is refused by the new ones.
//!
//! The id's last eight digits are a checksum of the file, of who belongs to the new cluster and of the digits before them:
//! the same id may be given for machines apart, and one that was made for another file or for other nodes is refused,
//! since replicas must begin alike and agree on who they are.

use crate::archive::{ArchiveError, Head, Opening, Part, Reader};
use crate::cluster::{self, Founder, IdentityError, RelocateError, UNFINISHED};
use crate::config::{Config, Loaded, Problems, Sources};
use crate::node;
use crate::raft::StorageError;
use crate::raft::alone::Survivor;
use crate::raft::backup::{GroupBuilder, StoreBuilder, state_of};
use crate::routing::GroupInfo;
use crate::types::{GroupId, NodeId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Digits of a cluster's id, and those of them that are drawn.
const ID_DIGITS: usize = 40;
const ID_DRAWN: usize = 32;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{}: {problems}", path.display())]
    Config { path: PathBuf, problems: Box<Problems> },
    #[error("{}: {cause}", path.display())]
    Layout { path: PathBuf, cause: String },
    #[error("{one} and {other} are for {what}", one = one.display(), other = other.display())]
    Clash { one: PathBuf, other: PathBuf, what: String },
    #[error("{}, node.data_dir of {node}, is not empty: it holds {found}", path.display())]
    NotEmpty { path: PathBuf, node: String, found: String },
    #[error("{} holds {held}: a cluster is restored from all of its groups", path.display())]
    Part { path: PathBuf, held: String },
    #[error(
        "{0} is not the id of a cluster restored from this file for these cluster.seeds and this cluster.replication_factor"
    )]
    ClusterId(String),
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("the meta group in the file: {0}")]
    Meta(#[from] RelocateError),
    #[error(transparent)]
    Store(#[from] StorageError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What was made.
#[derive(Debug)]
pub struct Restored {
    /// The id of the new cluster, and of the one in the file.
    pub cluster: String,
    pub from: String,
    pub nodes: Vec<RestoredNode>,
    /// Members of the new cluster whose directories were not made here.
    pub elsewhere: Vec<NodeId>,
    pub groups: Vec<Head>,
    /// All of that was made before.
    pub already: bool,
}

/// A node that can be started now.
#[derive(Debug)]
pub struct RestoredNode {
    pub name: String,
    pub data_dir: PathBuf,
    pub groups: usize,
}

/// One node's part of the new cluster.
struct Target {
    file: PathBuf,
    config: Config,
    founder: Founder,
    members: Membership,
}

/// Who belongs to the new cluster: the same on every machine, or nodes would place the groups differently.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    nodes: Vec<NodeId>,
    addresses: BTreeMap<NodeId, String>,
    replication_factor: usize,
}

impl Membership {
    /// In the id of the cluster, so never to be written differently. No part can be taken for another: an address has no
    /// line's end in it.
    fn bytes(&self) -> Vec<u8> {
        let address = |node| self.addresses.get(node).map_or("", String::as_str);
        let nodes = self.nodes.iter().map(|node| format!("{node} {}\n", address(node)));
        let head = format!("{}\n", self.replication_factor);
        std::iter::once(head).chain(nodes).collect::<String>().into_bytes()
    }
}

impl Target {
    fn dir(&self) -> &Path {
        &self.config.node.data_dir
    }
}

/// Makes the data directories of the nodes with these configuration files. `cluster`: the id that a restore of the same
/// file on another machine gave out. `progress` is told bytes of the file read and in all; it is read twice. Blocks.
pub fn restore(
    file: &Path,
    configs: &[PathBuf],
    cluster: Option<&str>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Restored, RestoreError> {
    let targets = targets(configs)?;
    let Verified { checksum, opening, heads } = verify(file, &mut progress)?;
    let from = opening.cluster.clone();
    let members = &targets[0].members;
    let here: BTreeSet<NodeId> = targets.iter().map(|t| t.founder.node).collect();
    let elsewhere = members.nodes.iter().copied().filter(|n| !here.contains(n)).collect();
    if let Some((cluster, hosted)) = made_before(&targets, checksum, cluster)? {
        unmark(&targets)?;
        return Ok(Restored { cluster, from, nodes: made(&targets, &hosted), elsewhere, groups: heads, already: true });
    }
    let cluster = match cluster {
        Some(id) if id_of(id.get(..ID_DRAWN).unwrap_or_default(), checksum, members) == id => id.to_owned(),
        Some(id) => return Err(RestoreError::ClusterId(id.to_owned())),
        None => id_of(&cluster::new_cluster_id()[..ID_DRAWN], checksum, members),
    };
    for target in &targets {
        clear_leavings(target)?;
    }
    for target in &targets {
        mark(target, &cluster)?;
    }
    let (heads, hosted) = write_stores(file, &targets, &cluster, &mut progress)?;
    let founders: Vec<Founder> = targets.iter().map(|t| t.founder.clone()).collect();
    for target in &targets {
        target.founder.write(target.dir(), &cluster, &founders)?;
    }
    unmark(&targets)?;
    Ok(Restored { cluster, from, nodes: made(&targets, &hosted), elsewhere, groups: heads, already: false })
}

/// What was made, of which so many groups are in each directory.
fn made(targets: &[Target], hosted: &[usize]) -> Vec<RestoredNode> {
    let node = |(target, groups): (&Target, &usize)| RestoredNode {
        name: target.founder.name.clone(),
        data_dir: target.dir().to_owned(),
        groups: *groups,
    };
    targets.iter().zip(hosted).map(node).collect()
}

/// Takes the marks away: nodes may start.
fn unmark(targets: &[Target]) -> Result<(), RestoreError> {
    for target in targets {
        let mark = target.dir().join(UNFINISHED);
        let removed = match fs::remove_file(&mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => File::open(target.dir()).and_then(|dir| dir.sync_all()),
        };
        removed.map_err(|e| RestoreError::Io(mark, e))?;
    }
    Ok(())
}

/// The id of the cluster whose nodes were made in all of these directories by a restore of the file with this checksum, and the
/// number of groups in each of them. None: that is not what is there, or a node was started on it since.
///
/// Of marked directories it is so as soon as one of them has lost its mark: that is the last step, behind all others.
fn made_before(
    targets: &[Target],
    checksum: u128,
    given: Option<&str>,
) -> Result<Option<(String, Vec<usize>)>, RestoreError> {
    let Some(found) = targets.iter().map(|target| Founder::written(target.dir())).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let cluster = found[0].1.clone();
    let of_file = |id: &str| id_of(id.get(..ID_DRAWN).unwrap_or_default(), checksum, &targets[0].members) == id;
    let each = targets.iter().zip(&found).all(|(target, (founder, id, peers))| {
        let (node, name) = (target.founder.node, &target.founder.name);
        let known = |(other, ..): &(Founder, String, _)| {
            peers.get(&other.node).is_none_or(|incarnation| *incarnation == other.incarnation)
        };
        (founder.node, &founder.name, id) == (node, name, &cluster) && found.iter().all(known)
    });
    if !each || !of_file(&cluster) || given.is_some_and(|given| given != cluster) {
        return Ok(None);
    }
    let mut finished = false;
    for target in targets {
        let mark = target.dir().join(UNFINISHED);
        finished |= !mark.try_exists().map_err(|e| RestoreError::Io(mark, e))?;
    }
    if !finished {
        return Ok(None);
    }
    let mut hosted = Vec::new();
    for (target, (founder, ..)) in targets.iter().zip(&found) {
        let options = node::storage_options(&target.config);
        let store = Survivor::open(target.dir(), &options, founder.node, founder.incarnation)?;
        hosted.push(store.held()?.len());
    }
    Ok(Some((cluster, hosted)))
}

/// The id of a cluster of these nodes, restored from the file with this checksum.
fn id_of(drawn: &str, checksum: u128, members: &Membership) -> String {
    let mut bytes = drawn.as_bytes().to_vec();
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&members.bytes());
    format!("{drawn}{:0width$x}", xxh3_64(&bytes) as u32, width = ID_DIGITS - ID_DRAWN)
}

fn targets(configs: &[PathBuf]) -> Result<Vec<Target>, RestoreError> {
    let mut targets: Vec<Target> = Vec::new();
    for file in configs {
        let loaded: Result<Loaded, Problems> = crate::config::load(&Sources::of_process(Some(file)));
        let config =
            loaded.map_err(|problems| RestoreError::Config { path: file.clone(), problems: Box::new(problems) });
        let config = config?.config;
        let layout = node::layout(&config);
        let (me, layout, addresses) =
            layout.map_err(|e| RestoreError::Layout { path: file.clone(), cause: format!("{e:#}") })?;
        let target = Target {
            file: file.clone(),
            founder: Founder::new(me, &config.node.id.0),
            members: Membership { nodes: layout.nodes, addresses, replication_factor: layout.replication_factor },
            config,
        };
        for other in &targets {
            let what = if other.founder.node == me {
                "one and the same node".to_owned()
            } else if other.dir() == target.dir() {
                format!("one and the same node.data_dir, {}", target.dir().display())
            } else if other.members != target.members {
                "clusters of different nodes (cluster.seeds, cluster.replication_factor)".to_owned()
            } else {
                continue;
            };
            return Err(RestoreError::Clash { one: other.file.clone(), other: file.clone(), what });
        }
        targets.push(target);
    }
    Ok(targets)
}

/// A file that was read to its end.
struct Verified {
    checksum: u128,
    opening: Opening,
    heads: Vec<Head>,
}

/// Reads the file to its end: nothing is written before all of it is known to be good.
fn verify(file: &Path, progress: &mut impl FnMut(u64, u64)) -> Result<Verified, RestoreError> {
    let mut reader = Reader::open(file)?;
    let opening = reader.opening().clone();
    if !opening.whole {
        let list: Vec<String> = opening.groups.iter().map(u32::to_string).collect();
        let held = format!("group {} alone", list.join(", "));
        return Err(RestoreError::Part { path: file.to_owned(), held });
    }
    let mut heads = Vec::new();
    while let Some(part) = reader.next_part()? {
        if let Part::Head(head) = part {
            heads.push(head);
        }
        let (at, size) = reader.progress();
        progress(at, 2 * size);
    }
    Ok(Verified { checksum: reader.checksum().expect("it was read to its end"), opening, heads })
}

/// Removes what an attempt that was cut off left in the directory; refuses one that holds anything else.
fn clear_leavings(target: &Target) -> Result<(), RestoreError> {
    let dir = target.dir();
    let io = |e| RestoreError::Io(dir.to_owned(), e);
    fs::create_dir_all(dir).map_err(io)?;
    let marked = dir.join(UNFINISHED).try_exists().map_err(io)?;
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let path = dir.join(&name);
        if name == "lost+found" {
            continue;
        }
        let ours = ["store", "identity.json", "identity.new", UNFINISHED].iter().any(|known| name == *known);
        if !marked || !ours {
            let (node, found) = (target.founder.name.clone(), name.to_string_lossy().into_owned());
            return Err(RestoreError::NotEmpty { path: dir.to_owned(), node, found });
        }
        // The mark stays until all is done.
        let removed = match name == "store" {
            true => fs::remove_dir_all(&path),
            false if name == UNFINISHED => Ok(()),
            false => fs::remove_file(&path),
        };
        removed.map_err(|e| RestoreError::Io(path, e))?;
    }
    Ok(())
}

fn mark(target: &Target, cluster: &str) -> Result<(), RestoreError> {
    let path = target.dir().join(UNFINISHED);
    let text = format!("A restore as cluster {cluster} was begun here. Run it again, or empty this directory.\n");
    let written = fs::write(&path, text).and_then(|()| File::open(&path)?.sync_all());
    written.and_then(|()| File::open(target.dir())?.sync_all()).map_err(|e| RestoreError::Io(path, e))
}

/// A group under way into the stores of its nodes.
struct Open {
    head: Head,
    voters: BTreeSet<NodeId>,
    builders: Vec<GroupBuilder>,
}

/// Carries every group into the stores of the nodes that hold it. Gives the groups, and how many each target holds.
fn write_stores(
    file: &Path,
    targets: &[Target],
    cluster: &str,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(Vec<Head>, Vec<usize>), RestoreError> {
    let mut stores = Vec::new();
    for target in targets {
        let options = node::storage_options(&target.config);
        stores.push(StoreBuilder::create(target.dir(), &options, target.founder.node, target.founder.incarnation)?);
    }
    let mut hosted = vec![0; targets.len()];
    let mut heads = Vec::new();
    let mut reader = Reader::reopen(file)?;
    let placed = place(&mut reader, targets, &stores, cluster, &mut heads)?;
    hosted.iter_mut().for_each(|n| *n += 1);
    let mut open: Option<Open> = None;
    while let Some(part) = reader.next_part()? {
        match part {
            Part::Head(head) => {
                close(open.take())?;
                let id = GroupId(head.group);
                let voters: BTreeSet<NodeId> =
                    placed.get(&id).map(|info| info.voters.iter().copied().collect()).unwrap_or_default();
                let mut builders = Vec::new();
                for ((target, store), hosted) in targets.iter().zip(&stores).zip(&mut hosted) {
                    if voters.contains(&target.founder.node) {
                        builders.push(store.group(id)?);
                        *hosted += 1;
                    }
                }
                heads.push(head.clone());
                open = Some(Open { head, voters, builders });
            }
            Part::Chunk { bytes, .. } => {
                let stored = Bytes::from(bytes);
                for builder in open.iter_mut().flat_map(|open| &mut open.builders) {
                    builder.push(stored.clone())?;
                }
            }
        }
        let (at, size) = reader.progress();
        progress(size + at, 2 * size);
    }
    close(open)?;
    Ok((heads, hosted))
}

fn close(open: Option<Open>) -> Result<(), RestoreError> {
    let Some(Open { head, voters, builders }) = open else { return Ok(()) };
    for builder in builders {
        builder.finish((head.index, head.term), &voters)?;
    }
    Ok(())
}

/// Reads the meta group, which comes first, and writes it for the new cluster. Gives the voters of all groups.
fn place(
    reader: &mut Reader,
    targets: &[Target],
    stores: &[StoreBuilder],
    cluster: &str,
    heads: &mut Vec<Head>,
) -> Result<BTreeMap<GroupId, GroupInfo>, RestoreError> {
    let head = match reader.next_part()? {
        Some(Part::Head(head)) if head.group == GroupId::META.0 => head,
        _ => return Err(RestoreError::Meta(RelocateError::NoTable)),
    };
    let mut chunks = Vec::new();
    for _ in 0..head.chunks {
        if let Some(Part::Chunk { bytes, .. }) = reader.next_part()? {
            chunks.push(Bytes::from(bytes));
        }
    }
    let Membership { nodes, replication_factor: factor, .. } = &targets[0].members;
    let mut placed = BTreeMap::new();
    for (target, store) in targets.iter().zip(stores) {
        let mut state = state_of(&chunks)?;
        placed = cluster::relocate(&mut state, cluster, nodes, *factor)?;
        let mut group = store.group(GroupId::META)?;
        group.push_state(state)?;
        group.finish((head.index, head.term), &nodes.iter().copied().collect())?;
        debug_assert!(nodes.contains(&target.founder.node), "a node is among its own cluster's");
    }
    heads.push(head);
    let known: BTreeSet<u32> = placed.keys().chain([&GroupId::META]).map(|id| id.0).collect();
    let in_file: BTreeSet<u32> = reader.opening().groups.iter().copied().collect();
    if known != in_file {
        let text = format!("its table has groups {known:?}, the file {in_file:?}");
        return Err(RestoreError::Meta(RelocateError::Unreadable(text)));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_belongs_to_the_file_and_the_nodes_it_was_made_for() {
        let address = |n: &NodeId| (*n, format!("host-{n}:7000"));
        let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let members =
            Membership { addresses: nodes.iter().map(address).collect(), nodes: nodes.clone(), replication_factor: 3 };
        let id = id_of(&"0123456789abcdef".repeat(2), 5, &members);
        assert_eq!(id.len(), ID_DIGITS);
        assert_eq!(id_of(&id[..ID_DRAWN], 5, &members), id);
        assert_ne!(id_of(&id[..ID_DRAWN], 6, &members), id);
        let mut elsewhere = members.clone();
        elsewhere.addresses.insert(NodeId(2), "host-4:7000".to_owned());
        let fewer = Membership { nodes: nodes[..2].to_vec(), ..members.clone() };
        for others in [Membership { replication_factor: 2, ..members.clone() }, elsewhere, fewer] {
            assert_ne!(id_of(&id[..ID_DRAWN], 5, &others), id, "{others:?}");
        }
    }
}
