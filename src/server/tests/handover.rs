//! Slots that are frozen and change their group under connections. The steps are taken by hand here, as the driver of
//! `cluster/` would.

use super::*;
use crate::commands::handover::{Step, progress};
use crate::resp::Args;
use crate::slot::slot_of;
use crate::state::{Place, Progress, SlotSet};
use crate::types::{GroupId, Slot};
use bytes::Bytes;

/// The steps of moving the slot of a key from its group to the other.
struct Moving {
    cluster: std::sync::Arc<crate::cluster::Cluster>,
    slots: SlotSet,
    from: GroupId,
    to: GroupId,
}

async fn take(moving: &Moving, group: GroupId, step: Step) -> Option<Progress> {
    let group = moving.cluster.host().group(group).unwrap();
    let deadline = crate::env::now() + std::time::Duration::from_secs(5);
    let outcome = group.propose_and_wait(vec![step.to_args()], deadline).await;
    let crate::raft::Outcome::Applied { replies, .. } = outcome else { panic!("{outcome:?}") };
    assert!(!replies[0].is_error(), "{replies:?}");
    progress(&replies[0])
}

impl Moving {
    async fn begin(rig: &Rig, key: &str, id: u64) -> Moving {
        let cluster = rig.server.shared().cluster.clone();
        let slot = slot_of(key.as_bytes());
        let table = cluster.table();
        let from = table.group_of(slot);
        let to = table.data_groups().find(|group| *group != from).unwrap();
        let moving = Moving { cluster, slots: [slot].into_iter().collect(), from, to };
        for group in [from, to] {
            let owned = (0..16_384).map(Slot).filter(|slot| table.group_of(*slot) == group).collect();
            take(&moving, group, Step::Own(owned)).await;
        }
        let expected = take(&moving, to, Step::Expect(id, moving.slots.clone())).await;
        assert_eq!(expected, Some(Progress::Expects(Place::FIRST)));
        assert_eq!(take(&moving, from, Step::Freeze(id, moving.slots.clone())).await, Some(Progress::Whole));
        moving
    }

    async fn finish(&self, id: u64) {
        self.ship(id).await;
        self.publish().await;
        assert_eq!(take(self, self.to, Step::Activate(id)).await, Some(Progress::Ended));
        assert_eq!(take(self, self.from, Step::Drop(id)).await, Some(Progress::Ended));
        take(self, self.from, Step::Clear(1000)).await;
    }

    /// Brings the target all that the source holds.
    async fn ship(&self, id: u64) {
        let source = self.cluster.host().group(self.from).unwrap();
        let excerpt = source.peek(|keyspace| keyspace.hand_over(id, Place::FIRST, 1 << 20, 0)).unwrap();
        let sent = excerpt.sent;
        let install = Step::Install(id, sent, excerpt.into_images());
        assert_eq!(take(self, self.to, install).await, Some(Progress::Whole));
    }

    /// Writes the table in which the slots are the target's.
    async fn publish(&self) {
        let meta = self.cluster.host().group(GroupId::META).unwrap();
        let json = meta.peek(|keyspace| keyspace.get(b"table").unwrap().value().as_text().unwrap().to_bytes(0));
        let mut table: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let known = self.cluster.table();
        let owner = |slot: u16| if self.slots.has(Slot(slot)) { self.to } else { known.group_of(Slot(slot)) };
        let ranges: Vec<(u16, u16, u32)> = (0..16_384).map(|slot| (slot, slot, owner(slot).0)).collect();
        table["ranges"] = serde_json::to_value(ranges).unwrap();
        table["epoch"] = (known.epoch + 1).into();
        let words = ["SET".to_owned(), "table".to_owned(), table.to_string()];
        let call: Args = words.into_iter().map(Bytes::from).collect();
        let deadline = crate::env::now() + std::time::Duration::from_secs(5);
        meta.propose_and_wait(vec![call], deadline).await;
        let slot = self.slots.iter().next().unwrap();
        testing::until(|| self.cluster.table().group_of(slot) == self.to).await;
    }
}

#[tokio::test]
async fn a_client_of_the_proxy_face_notices_nothing_of_a_slot_that_moves() {
    let rig = rig(2).await;
    let (mut c, mut reader, mut script, mut waiter) =
        (rig.proxy().await, rig.proxy().await, rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask_all("SET {a}1 before\nSET {a}2 x\nSADD {a}3 m").await, ["OK", "OK", "1"]);
    waiter.pipeline("TEST.BTAKE {a}q 0").await;
    assert_eq!(c.ask_all("WATCH {a}1\nMULTI\nSET {a}4 w").await[2], "QUEUED");
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    let other = (0..).map(|n| format!("k{n}")).find(|key| {
        moving.cluster.table().group_of(slot_of(key.as_bytes())) == moving.from
            && !moving.slots.has(slot_of(key.as_bytes()))
    });
    let other = other.unwrap();
    // What comes while it is frozen waits, and other slots of the same group go on for other connections.
    c.pipeline("EXEC\nSET {a}1 first\nAPPEND {a}1 +second\nGET {a}1\nMGET {a}2 {a}1").await;
    reader.pipeline("GET {a}2\nSMEMBERS {a}3").await;
    script.pipeline("EVAL return(redis.call('incr',KEYS[1])) 1 {a}5").await;
    let mut free = rig.proxy().await;
    assert_eq!(free.ask_all(&format!("SET {other} 1\nGET {other}")).await, ["OK", "1"]);
    moving.finish(1).await;
    assert_eq!(c.read().await, "[OK]", "the watched key is as it was");
    for reply in ["OK", "12", "first+second", "[x first+second]"] {
        assert_eq!(c.read().await, reply);
    }
    assert_eq!([reader.read().await, reader.read().await], ["x", "[m]"]);
    assert_eq!(script.read().await, "1");
    assert_eq!(free.ask("SET {a}q served").await, "OK");
    assert_eq!(waiter.read().await, "[{a}q served]");
    let keys = |id| moving.cluster.host().group(id).unwrap().peek(|keyspace| keyspace.slot_len(slot_of(b"{a}1")));
    assert_eq!((keys(moving.from), keys(moving.to)), (0, 5));
}

/// Hands scripts to a group as a session would that has taken it for the right one.
async fn scripts_in(moving: &Moving, rig: &Rig, group: GroupId, scripts: &[(&str, &str)]) -> crate::raft::Outcome {
    let call = |(body, key): &(&str, &str)| ["EVAL", body, "1", key].map(|word| Bytes::from(word.to_owned()));
    let calls: Vec<Args> = scripts.iter().map(|script| call(script).into_iter().collect()).collect();
    let (done, outcome) = tokio::sync::oneshot::channel();
    let deadline = crate::env::now() + std::time::Duration::from_secs(5);
    let done = Box::new(move |outcome| _ = done.send(outcome));
    let group = moving.cluster.host().group(group).unwrap();
    rig.server.shared().scripts.submit(group, calls, Default::default(), deadline, done);
    outcome.await.unwrap()
}

/// Where scripts run the table may be older than what the group has done, or newer than what was asked by.
#[tokio::test]
async fn a_script_goes_by_what_its_group_answers_for_and_not_by_the_table() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SET {a}1 5").await, "OK");
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    let table = moving.cluster.table();
    let stays = |key: &String| {
        let slot = slot_of(key.as_bytes());
        table.group_of(slot) == moving.from && !moving.slots.has(slot)
    };
    let other = (0..).map(|n| format!("k{n}")).find(stays).unwrap();
    let (incr, nothing) = ("return redis.call('incr', KEYS[1])", "return 7");
    let came_back = |outcome| match outcome {
        crate::raft::Outcome::Elsewhere { calls, .. } => calls.iter().map(|call| call.place).collect::<Vec<_>>(),
        outcome => panic!("{outcome:?}"),
    };
    let told = scripts_in(&moving, &rig, moving.from, &[(incr, &other), (incr, "{a}1"), (incr, &other)]).await;
    assert_eq!(came_back(told), [1, 2], "nothing of a connection overtakes what it sent before");
    assert_eq!(c.ask(&format!("GET {other}")).await, "1");
    moving.ship(1).await;
    assert_eq!(take(&moving, moving.to, Step::Activate(1)).await, Some(Progress::Ended));
    let told = scripts_in(&moving, &rig, moving.to, &[(incr, "{a}1")]).await;
    assert!(matches!(&told, crate::raft::Outcome::Applied { replies, .. } if replies == &[Reply::Int(6)]), "{told:?}");
    moving.publish().await;
    assert_eq!(take(&moving, moving.from, Step::Drop(1)).await, Some(Progress::Ended));
    for body in [incr, nothing] {
        assert_eq!(came_back(scripts_in(&moving, &rig, moving.from, &[(body, "{a}1")]).await), [0]);
    }
    assert_eq!(c.ask("GET {a}1").await, "6");
}

#[tokio::test]
async fn what_waits_goes_on_where_it_was_if_the_move_comes_to_nothing() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    c.pipeline("SET {a}1 x\nGET {a}1\nDBSIZE").await;
    for group in [moving.from, moving.to] {
        assert_eq!(take(&moving, group, Step::Abort(1)).await, Some(Progress::Ended));
    }
    assert_eq!([c.read().await, c.read().await, c.read().await], ["OK", "x", "1"]);
}

#[tokio::test]
async fn keys_that_were_asked_for_together_are_found_in_two_groups() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let cluster = rig.server.shared().cluster.clone();
    let group = |key: &str| cluster.table().group_of(slot_of(key.as_bytes()));
    let names: Vec<String> = (0..200).map(|n| format!("k{n}")).filter(|key| group(key) == GroupId(1)).take(3).collect();
    let [a, b, d] = &names[..] else { panic!("a group has keys") };
    assert_eq!(c.ask_all(&format!("SET {a} 1\nSET {b} 2\nSET {d} 3")).await, ["OK"; 3]);
    let moving = Moving::begin(&rig, b, 1).await;
    c.pipeline(&format!("MGET {a} {b} {d}\nDEL {a} {b} {d}\nEXISTS {b}")).await;
    moving.finish(1).await;
    assert_eq!([c.read().await, c.read().await, c.read().await], ["[1 2 3]", "3", "0"]);
}

#[tokio::test]
async fn what_stands_behind_a_call_of_several_slots_waits_with_it() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    let table = moving.cluster.table();
    let stays = |key: &String| {
        let slot = slot_of(key.as_bytes());
        table.group_of(slot) == moving.from && !moving.slots.has(slot)
    };
    let b = (0..).map(|n| format!("k{n}")).find(stays).unwrap();
    // Were the SET applied before the DEL that was sent before it, the DEL would take its key away.
    c.pipeline(&format!("DEL {{a}}1 {b}\nSET {b} x\nGET {b}")).await;
    moving.finish(1).await;
    assert_eq!([c.read().await, c.read().await, c.read().await], ["0", "OK", "x"]);
}

/// The part of FLUSHALL in the target runs before this node knows that the slot is there, and the SET that was sent before it
/// goes there behind it.
#[tokio::test]
async fn what_was_sent_before_flushall_does_not_outlive_it_although_its_slot_moves_meanwhile() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    let there = rig.key_in(moving.to.0);
    assert_eq!(c.ask(&format!("SET {there} 1")).await, "OK");
    c.pipeline("SET {a}1 x\nFLUSHALL\nGET {a}1\nDBSIZE").await;
    moving.ship(1).await;
    assert_eq!(take(&moving, moving.to, Step::Activate(1)).await, Some(Progress::Ended));
    testing::until(|| rig.group(moving.to.0).peek(|keys| keys.get(there.as_bytes()).is_none())).await;
    moving.publish().await;
    assert_eq!(take(&moving, moving.from, Step::Drop(1)).await, Some(Progress::Ended));
    for reply in ["OK", "OK", "nil", "0"] {
        assert_eq!(c.read().await, reply);
    }
}

#[tokio::test]
async fn a_scan_meets_every_key_although_slots_move_behind_it_and_before_it() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let sets: String = (0..400).map(|n| format!("SET k{n} v\n")).collect();
    c.ask_all(&sets).await;
    let slots = |from: u16, to: u16| (from..to).map(Slot).collect::<SlotSet>();
    let owner = |slot: u16| rig.cluster.table().group_of(Slot(slot));
    let other = |group: GroupId| if group == GroupId(1) { GroupId(2) } else { GroupId(1) };
    let (mut cursor, mut seen, mut calls) = ("0".to_owned(), std::collections::BTreeSet::new(), 0);
    loop {
        let (next, keys) = c.scan(&cursor).await;
        cursor = next;
        seen.extend(keys);
        calls += 1;
        match calls {
            // What was passed already, what lies before it, and both back again.
            3 | 9 => move_slots(&rig, &slots(0, 30), other(owner(0))).await,
            6 | 12 => move_slots(&rig, &slots(16_300, 16_330), other(owner(16_300))).await,
            _ => {}
        }
        if cursor == "0" {
            break;
        }
    }
    assert!(seen.len() == 400 && calls > 12, "{} in {calls}", seen.len());
}

/// Wishes that slots go to a group, and waits until they are there.
async fn move_slots(rig: &Rig, slots: &SlotSet, to: GroupId) {
    let wish = crate::cluster::MoveSlots { slots: slots.clone(), to: Some(to) };
    let deadline = crate::env::now() + PATIENCE;
    rig.cluster.move_slots(&wish, false, deadline).await.expect("it is granted");
    testing::until(|| rig.cluster.moving(&wish).unwrap().missing.is_empty()).await;
    testing::until(|| slots.iter().all(|slot| rig.cluster.table().group_of(slot) == to)).await;
}

#[tokio::test]
async fn slots_that_are_wished_elsewhere_go_there_and_back_with_their_keys() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    let of = |id: u32| {
        let table = rig.cluster.table();
        (0..16_384).map(Slot).filter(|slot| table.group_of(*slot) == GroupId(id)).collect::<SlotSet>()
    };
    let first = of(1);
    let some: SlotSet = first.iter().take(100).collect();
    let keys: Vec<String> =
        (0..).map(|n| format!("k{n}")).filter(|key| some.has(slot_of(key.as_bytes()))).take(300).collect();
    for key in &keys {
        assert_eq!(c.ask(&format!("SET {key} v:{key} EX 1000")).await, "OK");
    }
    let (epoch, last) = {
        let wish = crate::cluster::MoveSlots { slots: some.clone(), to: Some(GroupId(2)) };
        let before = rig.cluster.move_slots(&wish, true, crate::env::now() + PATIENCE).await.unwrap();
        assert!(before.missing == some && before.wished.is_empty(), "a dry run wishes nothing");
        (before.epoch, before.last)
    };
    move_slots(&rig, &some, GroupId(2)).await;
    let held = |id: u32| rig.group(id).peek(|keyspace| some.iter().map(|slot| keyspace.slot_len(slot)).sum::<u64>());
    assert_eq!((held(1), held(2)), (0, 300));
    for key in &keys {
        assert_eq!(c.ask(&format!("GET {key}")).await, format!("v:{key}"));
    }
    let left: u64 = c.ask(&format!("TTL {}", keys[0])).await.parse().unwrap();
    assert!((900..=1000).contains(&left), "{left}");
    move_slots(&rig, &some, GroupId(1)).await;
    assert_eq!((held(1), held(2)), (300, 0));
    assert_eq!(of(1), first);
    assert_eq!(c.ask("DBSIZE").await, "300");
    let after = rig.cluster.moving(&crate::cluster::MoveSlots { slots: some, to: None }).unwrap();
    assert!(after.epoch >= epoch + 8 && after.last >= last + 8 && after.under_way.is_none());
}

/// The table is the new one already, and the target has the keys, but does not answer for them yet.
#[tokio::test]
async fn what_is_about_all_keys_misses_none_between_the_decision_and_the_takeover() {
    let rig = rig(2).await;
    let (mut c, mut other) = (rig.proxy().await, rig.proxy().await);
    assert_eq!(c.ask("SET {a}1 x").await, "OK");
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    moving.ship(1).await;
    moving.publish().await;
    c.pipeline("DBSIZE\nKEYS *\nRANDOMKEY").await;
    // So long that the target would have answered for what it has.
    let there = rig.key_in(moving.to.0);
    assert_eq!(other.ask_all(&format!("GET {there}\n").repeat(20)).await, ["nil"; 20]);
    assert_eq!(take(&moving, moving.to, Step::Activate(1)).await, Some(Progress::Ended));
    assert_eq!(take(&moving, moving.from, Step::Drop(1)).await, Some(Progress::Ended));
    assert_eq!([c.read().await, c.read().await, c.read().await], ["1", "[{a}1]", "{a}1"]);
}

/// Reads go on where writes do not, so slots must not stay frozen there.
#[tokio::test]
async fn a_handover_ends_on_a_full_disk_and_none_begins() {
    let rig = rig(2).await;
    let mut c = rig.proxy().await;
    assert_eq!(c.ask("SET {a}1 x").await, "OK");
    let moving = Moving::begin(&rig, "{a}1", 1).await;
    let host = moving.cluster.host();
    host.set_disk_low(true);
    for group in [moving.from, moving.to] {
        assert_eq!(take(&moving, group, Step::Abort(1)).await, Some(Progress::Ended));
    }
    assert_eq!(c.ask("GET {a}1").await, "x");
    let deadline = crate::env::now() + std::time::Duration::from_secs(5);
    let expect = Step::Expect(2, moving.slots.clone()).to_args();
    let refused = host.group(moving.to).unwrap().propose_and_wait(vec![expect], deadline).await;
    let crate::raft::Outcome::NotApplied(why) = refused else { panic!("{refused:?}") };
    assert_eq!(why, crate::raft::Refusal::DiskFull);
    host.set_disk_low(false);

    let moving = Moving::begin(&rig, "{a}1", 2).await;
    moving.ship(2).await;
    moving.publish().await;
    host.set_disk_low(true);
    assert_eq!(take(&moving, moving.to, Step::Activate(2)).await, Some(Progress::Ended));
    assert_eq!(take(&moving, moving.from, Step::Drop(2)).await, Some(Progress::Ended));
    assert_eq!(c.ask("GET {a}1").await, "x");
}
