//! A cache of so many keys over the server's own policy code, and the traces to run through it.
//!
//! The keys lie in a plain map here; what the policies see of it is the trait that the keyspace implements too.

use hypercache::state::eviction::{Candidates, Kind, Policy, Recency, Row, policy};
use hypercache::types::{Millis, SLOTS, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicU32;
use xxhash_rust::xxh3::xxh3_64;

/// Trace, width of its keys in bytes, size of the cache as a share of the distinct keys, and the reference's hit ratios in
/// per cent: sampled LRU and S3-FIFO.
pub const PAIRS: &[(&str, usize, f64, f64, f64)] = &[
    ("web12", 4, 0.05, 59.82, 64.84),
    ("orm-busy", 4, 0.05, 84.16, 85.26),
    ("scarab-recs", 8, 0.05, 51.55, 55.79),
    ("w106", 4, 0.05, 86.01, 87.78),
    ("web12", 4, 0.20, 75.55, 78.00),
    ("scarab-recs", 8, 0.01, 34.60, 42.75),
];

/// Time that a request takes, in milliseconds: LFU forgets by the minute.
const REQUEST_MS: Millis = 1;
/// Keys of a unit when the keys are walked.
const UNIT: usize = 512;
/// As Redis' default.
const SAMPLES: usize = 5;

/// The keys of a trace in order, as dense numbers; none if the trace is not there.
pub fn load(name: &str, width: usize) -> Option<Vec<u32>> {
    let path = traces().join(format!("{name}.trace.xz"));
    if !path.exists() {
        return None;
    }
    let xz = Command::new("xz").arg("-dc").arg(&path).output().expect("xz can be run");
    assert!(xz.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&xz.stderr));
    let mut numbers: BTreeMap<&[u8], u32> = BTreeMap::new();
    let dense = xz.stdout.chunks_exact(width).map(|key| {
        let next = numbers.len() as u32;
        *numbers.entry(key).or_insert(next)
    });
    Some(dense.collect())
}

fn traces() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project lies in a folder").join("shared/traces")
}

/// Per cent of the requests that a cache of `share` of the distinct keys answers; its metadata is wiped `wipes` times.
pub fn hit_ratio(trace: &[u32], share: f64, kind: Kind, wipes: usize) -> f64 {
    let distinct = trace.iter().max().map_or(0, |max| *max as usize + 1);
    let mut cache = Cache::new(kind, distinct, (distinct as f64 * share) as usize);
    let every = trace.len() / (wipes + 1) + 1;
    let mut hits = 0u64;
    for (at, &key) in trace.iter().enumerate() {
        if at % every == every - 1 {
            cache.wipe();
        }
        hits += u64::from(cache.request(key));
    }
    hits as f64 * 100.0 / trace.len() as f64
}

struct Cache {
    keys: Keys,
    policy: Box<dyn Policy>,
    capacity: usize,
}

struct Keys {
    recency: Recency,
    now: Millis,
    rows: Vec<Row>,
    numbers: BTreeMap<Row, u32>,
    marks: Vec<AtomicU32>,
    version: u64,
    versions: Vec<u64>,
    /// Keys that are in, and where each stands there.
    present: Vec<u32>,
    place: Vec<u32>,
    /// Those in, by row, for walking.
    order: BTreeSet<Row>,
    kind: Kind,
}

const ABSENT: u32 = u32::MAX;

impl Cache {
    fn new(kind: Kind, distinct: usize, capacity: usize) -> Cache {
        let row = |key: usize| {
            let hash = xxh3_64(&(key as u64).to_le_bytes());
            Row::new(Slot((hash % SLOTS as u64) as u16), hash)
        };
        let rows: Vec<Row> = (0..distinct).map(row).collect();
        let numbers: BTreeMap<Row, u32> = rows.iter().enumerate().map(|(number, row)| (*row, number as u32)).collect();
        assert_eq!(numbers.len(), distinct, "rows of a trace are distinct");
        let keys = Keys {
            recency: Recency::new(kind),
            now: 0,
            rows,
            numbers,
            marks: (0..distinct).map(|_| AtomicU32::new(0)).collect(),
            version: 0,
            versions: vec![0; distinct],
            present: Vec::new(),
            place: vec![ABSENT; distinct],
            order: BTreeSet::new(),
            kind,
        };
        Cache { keys, policy: policy(kind, SAMPLES, 1), capacity }
    }

    /// As when leadership moves: another node knows the keys and nothing else.
    fn wipe(&mut self) {
        self.keys.marks.iter_mut().for_each(|mark| *mark.get_mut() = 0);
        self.keys.recency = Recency::new(self.keys.kind);
        self.policy = policy(self.keys.kind, SAMPLES, 2);
    }

    /// Whether the key was in; it is now, if anybody could be made to leave for it.
    fn request(&mut self, key: u32) -> bool {
        let keys = &mut self.keys;
        keys.now += REQUEST_MS;
        if keys.place[key as usize] != ABSENT {
            keys.recency.touch(&keys.marks[key as usize], keys.now);
            return true;
        }
        if keys.present.len() >= self.capacity {
            let Some(victim) = self.policy.victim(keys) else { return false };
            keys.remove(keys.numbers[&victim]);
        }
        keys.insert(key);
        let row = keys.rows[key as usize];
        self.policy.inserted(row, keys);
        self.policy.tend(1, keys);
        false
    }
}

impl Keys {
    fn insert(&mut self, key: u32) {
        *self.marks[key as usize].get_mut() = self.recency.fresh(self.now);
        self.version += 1;
        self.versions[key as usize] = self.version;
        self.place[key as usize] = self.present.len() as u32;
        self.present.push(key);
        self.order.insert(self.rows[key as usize]);
    }

    fn remove(&mut self, key: u32) {
        // A removal is a change, as it is in the keyspace.
        self.version += 1;
        let at = std::mem::replace(&mut self.place[key as usize], ABSENT) as usize;
        assert_eq!(self.present.swap_remove(at), key, "a victim is one of the keys");
        if let Some(moved) = self.present.get(at) {
            self.place[*moved as usize] = at as u32;
        }
        self.order.remove(&self.rows[key as usize]);
    }

    fn find(&self, row: Row) -> Option<usize> {
        let number = *self.numbers.get(&row)? as usize;
        (self.place[number] != ABSENT).then_some(number)
    }
}

impl Candidates for Keys {
    fn len(&self) -> u64 {
        self.present.len() as u64
    }

    fn volatile_len(&self) -> u64 {
        self.len()
    }

    fn now(&self) -> Millis {
        self.now
    }

    fn turn(&self) -> u32 {
        self.recency.newest()
    }

    fn mark(&self, row: Row) -> Option<&AtomicU32> {
        self.find(row).map(|number| &self.marks[number])
    }

    /// Every key has one, in no order that means anything.
    fn deadline(&self, row: Row) -> Option<Millis> {
        self.find(row).map(|number| number as u64)
    }

    fn age(&self, row: Row) -> u64 {
        self.find(row).map_or(u64::MAX, |number| self.version - self.versions[number])
    }

    fn rests(&self, _: Row) -> bool {
        false
    }

    fn may_leave(&self, row: Row) -> bool {
        self.find(row).is_some()
    }

    fn sample(&self, draw: u64, _: bool) -> Option<Row> {
        let at = ((draw as u128 * self.present.len() as u128) >> 64) as usize;
        self.present.get(at).map(|key| self.rows[*key as usize])
    }

    fn unit(&self, cursor: u64, visit: &mut dyn FnMut(Row, &AtomicU32)) -> u64 {
        let from = Row::from_cursor(cursor);
        let mut shown = self.order.range(from..);
        for row in shown.by_ref().take(UNIT) {
            visit(*row, self.mark(*row).expect("what is in has a mark"));
        }
        shown.next().map_or(0, |row| row.cursor())
    }

    /// No key has a tag.
    fn tag_mates(&self, row: Row, visit: &mut dyn FnMut(Row, &AtomicU32)) {
        if let Some(mark) = self.mark(row) {
            visit(row, mark);
        }
    }
}
