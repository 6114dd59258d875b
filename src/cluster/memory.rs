//! What the cluster agrees on about memory: how much, which policy, and how much of it each group has.
//!
//! ```text
//!   config/maxmemory  config/maxmemory-policy  config/maxmemory-samples     text, written by CONFIG SET on any node
//!   shares                                                                  JSON, written by the meta group's leader
//!      '--> every node follows both --> whoever leads a group puts its limit into that group's log (`raft::room`)
//! ```
//!
//! maxmemory is what the groups on one node may hold together, on every node alike. One place decides the shares, the meta
//! group's leader, so that they add up; each is carried by its group's own log, so that apply reads its own state alone.
//! They follow what is used, and what is about to be: a slot that is to come ([`Coming`]).
//! Why so: `docs/decisions/0009`.

use crate::routing::RoutingTable;
use crate::state::View;
use crate::state::eviction::{Kind, Limit};
use crate::types::{GroupId, SLOTS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The document of the shares.
pub(super) const SHARES: &str = "shares";
/// An eighth of the memory is dealt by slots, whoever uses it: a group that was empty so far can begin.
const BY_SLOTS: u64 = 8;
/// A group without slots is dealt as if it had this part of what each would have if all had equally many.
const FEW: usize = 8;
/// Shares that differ by less than this part stay as they are, so that an idle cluster writes nothing.
const SLACK: u64 = 10;

/// The cluster's settings about memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// `bytes` is what the groups of a node may hold together.
    pub limit: Limit,
}

/// A parameter that is the same on all nodes.
struct Parameter {
    name: &'static str,
    get: fn(&Memory) -> String,
    set: fn(&mut Memory, &str) -> Result<(), &'static str>,
}

/// In order of names.
static PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "maxmemory",
        get: |m| m.limit.bytes.to_string(),
        set: |m, text| {
            m.limit.bytes = size(text).ok_or("argument must be a memory value")?;
            Ok(())
        },
    },
    Parameter {
        name: "maxmemory-policy",
        get: |m| m.limit.policy.name().to_owned(),
        set: |m, text| {
            m.limit.policy = Kind::parse(text).ok_or(
                "argument must be one of the following: noeviction, s3-fifo, allkeys-lru, allkeys-lfu, allkeys-random, \
                 volatile-lru, volatile-lfu, volatile-random, volatile-ttl, fifo, session",
            )?;
            Ok(())
        },
    },
    Parameter {
        name: "maxmemory-samples",
        get: |m| m.limit.samples.to_string(),
        set: |m, text| {
            let samples = text.parse().ok().filter(|samples| (1..=64).contains(samples));
            m.limit.samples = samples.ok_or("argument must be between 1 and 64 inclusive")?;
            Ok(())
        },
    },
];

/// Bytes as Redis' configuration writes them: `100mb` is 2^20 a unit, `100m` is 10^6.
pub fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl Memory {
    /// Names and values, in order of names.
    pub fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        PARAMETERS.iter().map(|parameter| (parameter.name, (parameter.get)(self)))
    }

    /// Whether this name is one of a parameter that is the same on all nodes.
    pub fn has_parameter(name: &str) -> bool {
        PARAMETERS.iter().any(|parameter| parameter.name == name)
    }

    /// Sets a parameter here; the error says what a value must be.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name).ok_or("no such parameter")?;
        (parameter.set)(self, value)
    }
}

/// The document under `shares`: bytes of each group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shares {
    pub version: u32,
    /// What they were dealt of.
    pub maxmemory: u64,
    pub groups: BTreeMap<GroupId, u64>,
}

/// A slot for which the group that it is to go to has no room, and the bytes that would be enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coming {
    pub to: GroupId,
    pub bytes: u64,
}

impl Shares {
    pub fn read(view: &View<'_>) -> Option<Shares> {
        let text = view.get(SHARES.as_bytes()).and_then(|entry| entry.value().as_text())?;
        serde_json::from_slice::<Shares>(&text).ok().filter(|shares| shares.version <= 1)
    }

    /// Deals the memory of each node to the groups on it, by what they use and a little by their slots. A group gets the
    /// least of what its nodes have for it. `used`: bytes by group, as far as they are known. The first of `coming` that
    /// others can give its room to has it; where they cannot on one of the nodes, nobody gives anything.
    pub fn deal(limit: Limit, table: &RoutingTable, used: &BTreeMap<GroupId, u64>, coming: &[Coming]) -> Shares {
        let with = |coming: Option<&Coming>| Shares::deal_with(limit, table, used, coming);
        let let_in = coming.iter().map(|one| (one, with(Some(one)))).find(|(one, shares)| shares.let_in(one, used));
        let_in.map_or_else(|| with(None), |(_, shares)| shares)
    }

    fn deal_with(limit: Limit, table: &RoutingTable, used: &BTreeMap<GroupId, u64>, coming: Option<&Coming>) -> Shares {
        let mut groups: BTreeMap<GroupId, u64> = BTreeMap::new();
        let slots = table.slot_counts();
        for node in table.nodes.keys() {
            let here: Vec<GroupId> = table.data_groups().filter(|group| table.holds(*group, *node)).collect();
            let mut dealt = deal_one(limit.bytes, &here, &slots, used);
            if let Some(coming) = coming {
                make_room(&mut dealt, limit.policy, used, coming);
            }
            for (group, share) in dealt {
                groups.entry(group).and_modify(|least| *least = (*least).min(share)).or_insert(share);
            }
        }
        Shares { version: 1, maxmemory: limit.bytes, groups }
    }

    /// Whether what is coming has room by these.
    pub fn let_in(&self, coming: &Coming, used: &BTreeMap<GroupId, u64>) -> bool {
        let used = used.get(&coming.to).copied().unwrap_or(0);
        self.groups.get(&coming.to).is_some_and(|share| *share >= used.saturating_add(coming.bytes))
    }

    /// What a group may hold of what is agreed on now; none while that has not been dealt: shares of no limit at all are no
    /// limit of nothing, by which everything would have to leave.
    pub fn limit_of(&self, group: GroupId, agreed: Limit) -> Option<Limit> {
        let share = *self.groups.get(&group)?;
        match (agreed.bytes, self.maxmemory) {
            (0, _) => Some(agreed),
            (_, 0) => None,
            // A share that was rounded to nothing is still a limit.
            _ => Some(Limit { bytes: share.max(1), ..agreed }),
        }
    }

    /// Whether these are so far from `other` that it is worth an entry in every group's log.
    pub fn far_from(&self, other: &Shares) -> bool {
        let far = |group: &GroupId, share: u64| {
            other.groups.get(group).is_none_or(|known| known.abs_diff(share) > share.max(*known) / SLACK)
        };
        self.maxmemory != other.maxmemory
            || self.groups.len() != other.groups.len()
            || self.groups.iter().any(|(group, share)| far(group, *share))
    }
}

fn deal_one(
    maxmemory: u64,
    groups: &[GroupId],
    slots: &BTreeMap<GroupId, usize>,
    used: &BTreeMap<GroupId, u64>,
) -> Vec<(GroupId, u64)> {
    // One whose slots have all gone to others counts as one of few: it must have room for the first that come back.
    let few = SLOTS / groups.len().max(1) / FEW;
    let slots = |group: &GroupId| slots.get(group).copied().unwrap_or(0).max(few) as u128;
    let used = |group: &GroupId| u128::from(used.get(group).copied().unwrap_or(0));
    let (all_slots, all_used) = (groups.iter().map(slots).sum::<u128>(), groups.iter().map(used).sum::<u128>());
    let max = u128::from(maxmemory);
    let by_slots = if all_used == 0 { max } else { max / u128::from(BY_SLOTS) };
    let share = |group: &GroupId| {
        let slots = by_slots * slots(group) / all_slots.clamp(1, 2 * SLOTS as u128);
        let used = (max - by_slots) * used(group) / all_used.max(1);
        (slots + used) as u64
    };
    groups.iter().map(|group| (*group, share(group))).collect()
}

/// Has the other groups of a node give the one that something is to come to what it lacks for it: of what they do not use, or,
/// where something may leave, up to half of what each has.
fn make_room(dealt: &mut [(GroupId, u64)], policy: Kind, used: &BTreeMap<GroupId, u64>, coming: &Coming) {
    let used = |group: &GroupId| used.get(group).copied().unwrap_or(0);
    let Some((_, has)) = dealt.iter().find(|(group, _)| *group == coming.to) else { return };
    let lacks = used(&coming.to).saturating_add(coming.bytes).saturating_sub(*has);
    let spare = |keep: fn(u64, u64) -> u64| -> Vec<u64> {
        let of = |(group, share): &(GroupId, u64)| share.saturating_sub(keep(*share, used(group)));
        dealt.iter().map(|one| if one.0 == coming.to { 0 } else { of(one) }).collect()
    };
    let mut may_give = spare(|_, used| used);
    if may_give.iter().sum::<u64>() < lacks && policy != Kind::NoEviction {
        may_give = spare(|share, used| used.min(share / 2));
    }
    let all = may_give.iter().sum::<u64>();
    if all < lacks || lacks == 0 {
        return;
    }
    for ((group, share), spare) in dealt.iter_mut().zip(may_give) {
        match *group == coming.to {
            true => *share += lacks,
            false => *share -= (u128::from(lacks) * u128::from(spare)).div_ceil(u128::from(all)) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{self, NodeInfo};
    use crate::types::NodeId;

    fn table(nodes: u64, groups: u32, copies: usize) -> RoutingTable {
        let ids: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let placed = routing::place(groups, &ids, copies);
        let data: Vec<GroupId> = placed.keys().copied().filter(|group| *group != GroupId::META).collect();
        let info = |id: NodeId| NodeInfo {
            id,
            name: String::new(),
            host: String::new(),
            peer_port: 0,
            resp_port: 0,
            cluster_port: 0,
            http_port: 0,
            grpc_port: 0,
            gossip_port: 0,
            zone: String::new(),
        };
        let mut table = RoutingTable { slots: routing::deal(&data), groups: placed, ..RoutingTable::unformed() };
        table.nodes = ids.into_iter().map(|id| (id, info(id))).collect();
        table
    }

    fn limit(bytes: u64) -> Limit {
        Limit { bytes, ..Limit::default() }
    }

    /// Whatever is used where: no node is promised more than it has, and nearly all of it is dealt where all nodes are alike.
    #[test]
    fn shares_fit_every_node() {
        for (nodes, groups, copies) in [(1, 1, 1), (3, 8, 3), (5, 16, 3), (6, 8, 2)] {
            let table = table(nodes, groups, copies);
            for skew in [0, 1, 1_000_000] {
                let used = table.data_groups().map(|g| (g, u64::from(g.0) * skew)).collect();
                let shares = Shares::deal(limit(1 << 30), &table, &used, &[]);
                assert_eq!(shares.groups.len(), groups as usize);
                for node in table.nodes.keys() {
                    let here = |group: &&GroupId| table.holds(**group, *node);
                    let sum: u64 = shares.groups.keys().filter(here).map(|group| shares.groups[group]).sum();
                    assert!(sum <= 1 << 30, "node {node}: {sum}");
                    assert!(copies as u64 != nodes || sum > (1 << 30) - 100, "node {node}: only {sum}");
                }
            }
        }
    }

    #[test]
    fn who_uses_more_gets_more_and_nobody_gets_nothing() {
        let table = table(3, 4, 3);
        let used = [(GroupId(1), 900), (GroupId(2), 100)].into();
        let shares = Shares::deal(limit(1_000_000), &table, &used, &[]).groups;
        assert!(shares[&GroupId(1)] > 750_000 && shares[&GroupId(3)] > 10_000, "{shares:?}");
    }

    #[test]
    fn a_group_that_all_slots_have_left_has_room_for_the_first_that_come_back() {
        let mut table = table(3, 4, 3);
        table.slots.iter_mut().for_each(|group| *group = GroupId(1));
        for used in [0, 1_000_000] {
            let shares = Shares::deal(limit(1 << 30), &table, &[(GroupId(1), used)].into(), &[]).groups;
            assert!(shares[&GroupId(2)] > 1 << 20 && shares.values().sum::<u64>() <= 1 << 30, "{shares:?}");
        }
    }

    /// Shares follow what is used, and a group uses nothing of what it has no room for.
    #[test]
    fn a_slot_that_waits_for_room_has_it_where_others_can_give_it() {
        let table = table(3, 3, 3);
        let (to, full) = (GroupId(2), BTreeMap::from([(GroupId(1), 700_000), (GroupId(2), 50_000)]));
        let half_empty = BTreeMap::from([(GroupId(1), 400_000), (GroupId(2), 50_000)]);
        let deal = |policy, used: &BTreeMap<GroupId, u64>, bytes| {
            let limit = Limit { policy, ..limit(1_000_000) };
            // One to whose group nobody can give anything holds up no other.
            let coming = [Coming { to: GroupId(3), bytes: 1_000_000 }, Coming { to, bytes }];
            let (without, with) = (Shares::deal(limit, &table, used, &[]), Shares::deal(limit, &table, used, &coming));
            assert!(with.groups.values().sum::<u64>() <= 1_000_000, "{with:?}");
            let gives = |group: &GroupId| with.groups[group] < without.groups[group];
            (without.let_in(&coming[1], used), with.let_in(&coming[1], used), gives(&GroupId(1)), with)
        };
        let (before, then, _, shares) = deal(Kind::NoEviction, &half_empty, 300_000);
        assert!(!before && then && shares.groups[&GroupId(1)] >= 400_000, "what is free is enough: {shares:?}");
        let (before, then, gives, _) = deal(Kind::NoEviction, &full, 300_000);
        assert!(!before && !then && !gives, "others would have to refuse writes");
        let (before, then, gives, _) = deal(Kind::VolatileLru, &full, 300_000);
        assert!(!before && then && gives, "what may leave does");
        let (before, then, gives, _) = deal(Kind::VolatileLru, &full, 900_000);
        assert!(!before && !then && !gives, "in vain nothing leaves");
        let (before, then, gives, _) = deal(Kind::VolatileLru, &full, 10_000);
        assert!(before && then && !gives, "it has room");
    }

    /// Between CONFIG SET and the next deal the shares are those of no limit.
    #[test]
    fn a_limit_that_was_not_dealt_yet_is_none() {
        let (table, agreed) = (table(3, 2, 3), Limit { bytes: 1_000_000, ..Limit::default() });
        let shares = |maxmemory| Shares::deal(limit(maxmemory), &table, &BTreeMap::new(), &[]);
        let none = Limit { bytes: 0, ..agreed };
        assert_eq!(shares(0).limit_of(GroupId(1), agreed), None);
        assert_eq!(shares(0).limit_of(GroupId(1), none), Some(none));
        assert_eq!(shares(1_000_000).limit_of(GroupId(1), none), Some(none));
        let dealt = shares(500_000);
        assert_eq!(dealt.limit_of(GroupId(1), agreed).map(|limit| limit.bytes), Some(dealt.groups[&GroupId(1)]));
        assert_eq!(shares(1).limit_of(GroupId(1), agreed).map(|limit| limit.bytes), Some(1));
        assert_eq!(dealt.limit_of(GroupId(9), agreed), None);
    }

    #[test]
    fn small_changes_are_not_worth_an_entry() {
        let table = table(3, 4, 3);
        let at = |used: [u64; 4]| {
            let used = used.iter().enumerate().map(|(n, used)| (GroupId(n as u32 + 1), *used)).collect();
            Shares::deal(limit(1_000_000), &table, &used, &[])
        };
        assert!(!at([100, 100, 100, 104]).far_from(&at([100, 100, 100, 100])));
        assert!(at([100, 100, 100, 200]).far_from(&at([100, 100, 100, 100])));
        let dealt = |maxmemory| Shares::deal(limit(maxmemory), &table, &BTreeMap::new(), &[]);
        assert!(dealt(9).far_from(&dealt(10)));
    }

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        assert_eq!(
            [size("100"), size("100mb"), size("1G"), size("2kb")],
            [100, 100 << 20, 1_000_000_000, 2048].map(Some)
        );
        assert_eq!([size(""), size("-1"), size("1x"), size("mb"), size("99999999999gb")], [None; 5]);
    }
}
