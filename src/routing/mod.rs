//! Key -> slot -> group -> replicas. Pure: no sockets, no clock, no Raft.
//!
//! Slots are dealt to data groups by a consistent-hash ring with virtual nodes, once, when the cluster is made; the
//! result is an agreed, versioned object (the table's `epoch`), so every node routes by the same one.

pub use crate::slot::slot_of;

use crate::types::{GroupId, NodeId, SLOTS, Slot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Points of a group on the ring.
const POINTS_PER_GROUP: u32 = 256;
/// Arcs of neighbouring slots that a group gets, about.
const ARCS_PER_GROUP: usize = 16;
/// Arcs that a small cluster's slots are cut into.
const LEAST_ARCS: usize = 256;

/// A node and where its doors are. A port of 0: that door is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    pub name: String,
    pub host: String,
    pub peer_port: u16,
    pub resp_port: u16,
    pub cluster_port: u16,
    pub http_port: u16,
    pub grpc_port: u16,
    #[serde(default, skip_serializing_if = "is_off")]
    pub gossip_port: u16,
    /// What fails together with it; empty where nothing is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

fn is_off(port: &u16) -> bool {
    *port == 0
}

/// A group and its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    pub voters: Vec<NodeId>,
}

/// Who owns what, as the meta group says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingTable {
    /// Rises with every change of ownership; 0 before the cluster is formed.
    pub epoch: u64,
    /// The group of each slot; empty before the cluster is formed.
    pub slots: Box<[GroupId]>,
    pub groups: BTreeMap<GroupId, GroupInfo>,
    pub nodes: BTreeMap<NodeId, NodeInfo>,
    /// Every node holds every group, whether it votes there or not.
    pub everywhere: bool,
}

impl RoutingTable {
    /// The table of a node that does not know its cluster yet.
    pub fn unformed() -> RoutingTable {
        RoutingTable {
            epoch: 0,
            slots: vec![GroupId::META; SLOTS].into(),
            groups: BTreeMap::new(),
            nodes: BTreeMap::new(),
            everywhere: false,
        }
    }

    /// The group that owns a slot. Before the cluster is formed this is the meta group, which serves no keys.
    pub fn group_of(&self, slot: Slot) -> GroupId {
        self.slots[usize::from(slot.0)]
    }

    /// Whether a node is to hold a replica of a data group.
    pub fn holds(&self, group: GroupId, node: NodeId) -> bool {
        self.groups.get(&group).is_some_and(|info| self.everywhere || info.voters.contains(&node))
    }

    /// The groups that hold keys, by number.
    pub fn data_groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied().filter(|g| *g != GroupId::META)
    }

    /// How many slots each group owns that owns any, in one look at the table.
    pub fn slot_counts(&self) -> BTreeMap<GroupId, usize> {
        let mut counts = BTreeMap::new();
        for (first, last, group) in self.ranges() {
            *counts.entry(group).or_default() += usize::from(last.0 - first.0) + 1;
        }
        counts
    }

    /// Runs of slots with the same owner: first, last, group.
    pub fn ranges(&self) -> Vec<(Slot, Slot, GroupId)> {
        let mut ranges: Vec<(Slot, Slot, GroupId)> = Vec::new();
        for (slot, group) in self.slots.iter().enumerate() {
            let slot = Slot(slot as u16);
            match ranges.last_mut() {
                Some((_, last, owner)) if owner == group => *last = slot,
                _ => ranges.push((slot, slot, *group)),
            }
        }
        ranges
    }
}

/// Deals all slots to `groups`: the same for the same groups, wherever and whenever it is asked.
///
/// The slots are cut into arcs of neighbours, so that the table stays short for clients who ask for it. Each arc goes to
/// the next point on a consistent-hash ring whose group is not full yet: consistent hashing with bounded loads.
pub fn deal(groups: &[GroupId]) -> Box<[GroupId]> {
    assert!(!groups.is_empty(), "a cluster has at least one data group");
    let point = |kind: u8, a: u32, b: u32| {
        let mut bytes = [kind; 9];
        bytes[1..5].copy_from_slice(&a.to_le_bytes());
        bytes[5..].copy_from_slice(&b.to_le_bytes());
        xxhash_rust::xxh3::xxh3_64(&bytes)
    };
    let mut ring: Vec<(u64, usize)> =
        (0..groups.len()).flat_map(|g| (0..POINTS_PER_GROUP).map(move |i| (point(b'g', groups[g].0, i), g))).collect();
    ring.sort_unstable();
    let arcs = (groups.len() * ARCS_PER_GROUP).next_power_of_two().clamp(LEAST_ARCS, SLOTS);
    // Never below what all arcs need, at most a tenth above the mean wherever that is a whole arc more.
    let most = (arcs * 11 / 10 / groups.len()).max(arcs.div_ceil(groups.len()));
    let mut held = vec![0; groups.len()];
    let mut owners = Vec::with_capacity(arcs);
    for arc in 0..arcs as u32 {
        let at = point(b's', arc, 0);
        let next = ring.partition_point(|(p, _)| *p < at);
        let mut onwards = ring[next..].iter().chain(&ring[..next]).map(|(_, g)| *g);
        let owner = onwards.find(|g| held[*g] < most).expect("there is room for every arc");
        held[owner] += 1;
        owners.push(groups[owner]);
    }
    let width = SLOTS / arcs;
    (0..SLOTS).map(|slot| owners[slot / width]).collect()
}

/// Places the replicas of `groups` data groups on `nodes`: each node gets its share, and the first voter of each
/// group, which will lead it at first, goes round.
pub fn place(groups: u32, nodes: &[NodeId], replication_factor: usize) -> BTreeMap<GroupId, GroupInfo> {
    assert!(replication_factor >= 1 && replication_factor <= nodes.len(), "replicas need nodes of their own");
    let voters = |g: u32| (0..replication_factor).map(|i| nodes[(g as usize + i) % nodes.len()]).collect();
    (0..groups).map(|g| (GroupId(g + 1), GroupInfo { voters: voters(g) })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(n: u32) -> Vec<GroupId> {
        (1..=n).map(GroupId).collect()
    }

    #[test]
    fn no_group_has_more_than_a_tenth_above_its_share() {
        for n in 1..=16 {
            let slots = deal(&groups(n));
            let mean = SLOTS as f64 / f64::from(n);
            for group in groups(n) {
                let share = slots.iter().filter(|g| **g == group).count() as f64;
                assert!(share <= mean * 1.1, "group {group} of {n} has {share}");
            }
        }
    }

    #[test]
    fn one_more_group_moves_its_share_and_little_else() {
        for n in 2..=15 {
            let (before, after) = (deal(&groups(n)), deal(&groups(n + 1)));
            let moved = before.iter().zip(after.iter()).filter(|(a, b)| a != b).count() as f64 / SLOTS as f64;
            assert!(moved <= 1.0 / f64::from(n + 1) + 0.1, "{moved} of the slots from {n} groups on");
        }
    }

    #[test]
    fn the_table_is_short_enough_to_be_asked_for() {
        let table = RoutingTable { slots: deal(&groups(8)), ..RoutingTable::unformed() };
        assert!(table.ranges().len() <= 256, "{}", table.ranges().len());
    }

    #[test]
    fn the_deal_never_changes() {
        let bytes: Vec<u8> = deal(&groups(8)).iter().map(|g| g.0 as u8).collect();
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), GOLDEN_DEAL, "slots would move on an upgrade");
    }

    const GOLDEN_DEAL: u64 = 9_193_709_985_527_012_066;

    #[test]
    fn replicas_of_a_group_are_on_different_nodes_and_first_voters_go_round() {
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let placed = place(10, &nodes, 3);
        for info in placed.values() {
            let mut voters = info.voters.clone();
            voters.sort_unstable();
            voters.dedup();
            assert_eq!(voters.len(), 3);
        }
        for node in &nodes {
            assert_eq!(placed.values().filter(|i| i.voters[0] == *node).count(), 2);
            assert_eq!(placed.values().filter(|i| i.voters.contains(node)).count(), 6);
        }
    }

    #[test]
    fn ranges_cover_every_slot_once() {
        let table = RoutingTable { slots: deal(&groups(8)), ..RoutingTable::unformed() };
        let mut next = 0;
        for (first, last, group) in table.ranges() {
            assert_eq!(first.0, next);
            assert!(table.slots[first.0 as usize..=last.0 as usize].iter().all(|g| *g == group));
            next = last.0 + 1;
        }
        assert_eq!(next as usize, SLOTS);
    }
}
