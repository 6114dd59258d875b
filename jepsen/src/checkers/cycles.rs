//! Serializability of histories of appends and reads of lists, by searching for cycles (after Elle: Kingsbury and Alvaro
//! 2020).
//!
//! Every element is appended once in a whole history, so what a read shows names all writers before it and their order.
//! From that come the dependencies between transactions:
//!
//! | edge | from | to |
//! |---|---|---|
//! | ww | the writer of an element | the writer of the next element of that key |
//! | wr | the writer of the last element that a read shows | that reader |
//! | rw | a reader | the writer of the first element that it does not show |
//! | rt | a transaction that ended | every one that began later |
//!
//! A cycle means that no serial order explains the history; one that needs an rt edge, that none does which respects real
//! time (strict serializability, which is what is promised). Anomalies are named as by Adya. A transaction is a list of
//! appends and reads, so a command is one with a single step or, for reads of several keys, a few.
//!
//! Not judged here: a cycle among transactions whose writes nobody ever read.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Append(String, String),
    Read(String, Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Committed,
    Failed,
    Unknown,
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub steps: Vec<Step>,
    pub from: u64,
    pub to: u64,
    pub end: End,
}

/// What is wrong, and the transactions that show it: places in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    pub kind: &'static str,
    pub what: String,
    pub shown_by: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Ww,
    Wr,
    Rw,
    Rt,
}

struct Lists<'a> {
    all: &'a [Transaction],
    /// The writer of each (key, element), and whether it is the writer's last append to that key.
    writers: BTreeMap<(&'a str, &'a str), (usize, bool)>,
    /// Of each key the longest list that was read, and by whom.
    longest: BTreeMap<&'a str, (&'a [String], usize)>,
    found: Vec<Anomaly>,
}

/// All anomalies that a history shows.
pub fn check(all: &[Transaction]) -> Vec<Anomaly> {
    let mut lists = Lists { all, writers: BTreeMap::new(), longest: BTreeMap::new(), found: Vec::new() };
    lists.learn_writers();
    lists.learn_orders();
    lists.check_reads();
    let edges = lists.edges();
    let mut found = lists.found;
    found.extend(cycles(&edges));
    found
}

/// The reads of the committed transactions.
fn reads(all: &[Transaction]) -> impl Iterator<Item = (usize, &str, &[String])> {
    let committed = all.iter().enumerate().filter(|(_, t)| t.end == End::Committed);
    committed.flat_map(|(number, t)| {
        t.steps.iter().filter_map(move |step| match step {
            Step::Read(key, list) => Some((number, key.as_str(), list.as_slice())),
            Step::Append(..) => None,
        })
    })
}

impl<'a> Lists<'a> {
    fn report(&mut self, kind: &'static str, what: String, shown_by: Vec<usize>) {
        self.found.push(Anomaly { kind, what, shown_by });
    }

    fn learn_writers(&mut self) {
        for (number, transaction) in self.all.iter().enumerate() {
            let mut last: BTreeMap<&str, &str> = BTreeMap::new();
            for step in &transaction.steps {
                if let Step::Append(key, element) = step {
                    self.writers.insert((key, element), (number, false));
                    last.insert(key, element);
                }
            }
            for (key, element) in last {
                self.writers.insert((key, element), (number, true));
            }
        }
    }

    /// The order of a key's elements: the longest list, of which all others must be beginnings.
    fn learn_orders(&mut self) {
        for (number, key, list) in reads(self.all) {
            let longest = self.longest.entry(key).or_insert((list, number));
            if list.len() > longest.0.len() {
                *longest = (list, number);
            }
        }
        for (number, key, list) in reads(self.all) {
            let (longest, by) = self.longest[key];
            if !longest.starts_with(list) {
                self.report(
                    "incompatible order",
                    format!("{key} was read as {list:?} and as {longest:?}"),
                    vec![number, by],
                );
            }
            let distinct: BTreeSet<&String> = list.iter().collect();
            if distinct.len() < list.len() {
                self.report("duplicate", format!("{key} holds an element twice: {list:?}"), vec![number]);
            }
        }
    }

    fn check_reads(&mut self) {
        for (number, key, list) in reads(self.all) {
            for element in list {
                match self.writers.get(&(key, element.as_str())) {
                    None => self.report(
                        "from nowhere",
                        format!("{key} shows {element}, which nobody appended"),
                        vec![number],
                    ),
                    Some((writer, _)) if self.all[*writer].end == End::Failed => {
                        self.report(
                            "G1a",
                            format!("{key} shows {element}, whose append failed"),
                            vec![*writer, number],
                        );
                    }
                    Some((writer, _)) if self.all[*writer].from > self.all[number].to => {
                        self.report(
                            "from the future",
                            format!("{key} shows {element} before it was appended"),
                            vec![*writer, number],
                        );
                    }
                    Some(_) => (),
                }
            }
            if let Some((writer, false)) = list.last().and_then(|e| self.writers.get(&(key, e.as_str())))
                && *writer != number
            {
                self.report(
                    "G1b",
                    format!("{key} shows a state from within a transaction: {list:?}"),
                    vec![*writer, number],
                );
            }
        }
        // What was acknowledged before a read began must be in it.
        let mut lost = Vec::new();
        for (number, key, list) in reads(self.all) {
            let shown: BTreeSet<&str> = list.iter().map(String::as_str).collect();
            let of_key = self.writers.range((key, "")..).take_while(|((k, _), _)| *k == key);
            for ((_, element), (writer, _)) in of_key {
                let done = &self.all[*writer];
                if done.end == End::Committed && done.to < self.all[number].from && !shown.contains(element) {
                    let known = self.longest[key].0.iter().any(|e| e == element);
                    let kind = if known { "stale read" } else { "lost update" };
                    lost.push((
                        kind,
                        format!("{key} was read without {element}, acknowledged before"),
                        vec![*writer, number],
                    ));
                }
            }
        }
        lost.into_iter().for_each(|(kind, what, by)| self.report(kind, what, by));
    }

    /// Dependencies, none of a transaction on itself.
    fn edges(&self) -> Vec<BTreeMap<usize, Edge>> {
        let mut edges: Vec<BTreeMap<usize, Edge>> = vec![BTreeMap::new(); self.all.len()];
        // Where two lead the same way, the one that makes the worse anomaly counts: the smaller.
        let mut add = |from: usize, to: usize, edge: Edge| {
            if from != to {
                let known = edges[from].entry(to).or_insert(edge);
                *known = edge.min(*known);
            }
        };
        let writer = |key: &str, element: &String| self.writers.get(&(key, element.as_str())).map(|(w, _)| *w);
        for (key, (longest, _)) in &self.longest {
            for pair in longest.windows(2) {
                if let (Some(a), Some(b)) = (writer(key, &pair[0]), writer(key, &pair[1])) {
                    add(a, b, Edge::Ww);
                }
            }
        }
        for (number, key, list) in reads(self.all) {
            let longest = self.longest[key].0;
            if !longest.starts_with(list) {
                continue;
            }
            if let Some(last) = list.last().and_then(|e| writer(key, e)) {
                add(last, number, Edge::Wr);
            }
            match longest.get(list.len()) {
                Some(next) => writer(key, next).into_iter().for_each(|w| add(number, w, Edge::Rw)),
                // Acknowledged and never seen: it comes after everything that was.
                None => {
                    let of_key = self.writers.range((key, "")..).take_while(|((k, _), _)| *k == key);
                    of_key
                        .filter(|((_, e), (w, _))| {
                            self.all[*w].end == End::Committed && !longest.iter().any(|l| l == e)
                        })
                        .for_each(|(_, (w, _))| add(number, *w, Edge::Rw));
                }
            }
        }
        for (a, earlier) in self.all.iter().enumerate().filter(|(_, t)| t.end == End::Committed) {
            for (b, later) in self.all.iter().enumerate().filter(|(_, t)| t.end != End::Failed) {
                if earlier.to < later.from {
                    add(a, b, Edge::Rt);
                }
            }
        }
        edges
    }
}

/// The shortest cycle of each kind, from the worst kind to the mildest; later kinds are looked for only if the earlier ones
/// are not there, because they contain them.
fn cycles(edges: &[BTreeMap<usize, Edge>]) -> Vec<Anomaly> {
    let kinds: [(&'static str, &[Edge]); 6] = [
        ("G0", &[Edge::Ww]),
        ("G1c", &[Edge::Ww, Edge::Wr]),
        ("G2", &[Edge::Ww, Edge::Wr, Edge::Rw]),
        ("G0-realtime", &[Edge::Ww, Edge::Rt]),
        ("G1c-realtime", &[Edge::Ww, Edge::Wr, Edge::Rt]),
        ("G2-realtime", &[Edge::Ww, Edge::Wr, Edge::Rw, Edge::Rt]),
    ];
    for (kind, allowed) in kinds {
        if let Some(cycle) = shortest_cycle(edges, allowed) {
            let way = |i: usize| {
                edges[cycle[i]].get(&cycle[(i + 1) % cycle.len()]).map_or(String::new(), |e| format!("{e:?}"))
            };
            let names: Vec<String> =
                (0..cycle.len()).map(|i| format!("#{} -{}->", cycle[i], way(i).to_lowercase())).collect();
            let what = format!("{} #{}", names.join(" "), cycle[0]);
            return vec![Anomaly { kind, what, shown_by: cycle }];
        }
    }
    Vec::new()
}

/// A shortest cycle over the allowed edges. Transactions that cannot be on one are removed first, so that a history
/// without cycles, which is nearly every one, costs little.
fn shortest_cycle(edges: &[BTreeMap<usize, Edge>], allowed: &[Edge]) -> Option<Vec<usize>> {
    let next = |a: usize| edges[a].iter().filter(|(_, e)| allowed.contains(e)).map(|(b, _)| *b);
    let mut incoming = vec![0usize; edges.len()];
    (0..edges.len()).flat_map(next).for_each(|b| incoming[b] += 1);
    let mut free: Vec<usize> = (0..edges.len()).filter(|a| incoming[*a] == 0).collect();
    let mut removed = vec![false; edges.len()];
    while let Some(a) = free.pop() {
        removed[a] = true;
        for b in next(a) {
            incoming[b] -= 1;
            if incoming[b] == 0 {
                free.push(b);
            }
        }
    }
    let mut best: Option<Vec<usize>> = None;
    for start in (0..edges.len()).filter(|a| !removed[*a]) {
        let mut from: BTreeMap<usize, usize> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(a) = queue.pop_front() {
            for b in next(a).filter(|b| !removed[*b]) {
                if b == start {
                    let mut cycle = vec![a];
                    let mut at = a;
                    while at != start {
                        at = from[&at];
                        cycle.push(at);
                    }
                    cycle.reverse();
                    if best.as_ref().is_none_or(|b| cycle.len() < b.len()) {
                        best = Some(cycle);
                    }
                    break 'search;
                }
                if b != start && !from.contains_key(&b) {
                    from.insert(b, a);
                    queue.push_back(b);
                }
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(key: &str, element: &str) -> Step {
        Step::Append(key.to_owned(), element.to_owned())
    }

    fn read(key: &str, list: &[&str]) -> Step {
        Step::Read(key.to_owned(), list.iter().map(|e| (*e).to_owned()).collect())
    }

    fn done(from: u64, to: u64, steps: Vec<Step>) -> Transaction {
        Transaction { steps, from, to, end: End::Committed }
    }

    fn kinds(all: &[Transaction]) -> Vec<&'static str> {
        check(all).into_iter().map(|a| a.kind).collect()
    }

    #[test]
    fn a_serial_history_shows_nothing() {
        let all = [
            done(0, 1, vec![append("x", "1"), append("y", "2")]),
            done(2, 3, vec![read("x", &["1"]), append("x", "3")]),
            done(2, 4, vec![read("x", &["1", "3"]), read("y", &["2"])]),
            Transaction { steps: vec![append("x", "4")], from: 5, to: 6, end: End::Unknown },
            done(7, 8, vec![read("x", &["1", "3", "4"])]),
            Transaction { steps: vec![append("x", "5")], from: 9, to: 9, end: End::Failed },
            done(10, 11, vec![read("x", &["1", "3", "4"])]),
        ];
        assert_eq!(check(&all), []);
    }

    #[test]
    fn writes_that_overtake_one_another_are_g0() {
        let all = [
            done(0, 9, vec![append("x", "1"), append("y", "1")]),
            done(0, 9, vec![append("x", "2"), append("y", "2")]),
            done(10, 11, vec![read("x", &["1", "2"]), read("y", &["2", "1"])]),
        ];
        assert_eq!(kinds(&all), ["G0"]);
    }

    #[test]
    fn failed_and_unfinished_writes_must_not_be_seen() {
        let failed = Transaction { steps: vec![append("x", "1")], from: 0, to: 1, end: End::Failed };
        assert!(kinds(&[failed, done(2, 3, vec![read("x", &["1"])])]).contains(&"G1a"));
        let twice = done(0, 9, vec![append("x", "1"), append("x", "2")]);
        assert!(kinds(&[twice, done(0, 9, vec![read("x", &["1"])])]).contains(&"G1b"));
        let circle = [
            done(0, 9, vec![append("x", "1"), read("y", &["1"])]),
            done(0, 9, vec![append("y", "1"), read("x", &["1"])]),
        ];
        assert_eq!(kinds(&circle), ["G1c"]);
    }

    #[test]
    fn a_long_fork_is_g2() {
        // Two readers see two independent writes in opposite orders.
        let all = [
            done(0, 9, vec![append("x", "1")]),
            done(0, 9, vec![append("y", "1")]),
            done(0, 9, vec![read("x", &["1"]), read("y", &[])]),
            done(0, 9, vec![read("x", &[]), read("y", &["1"])]),
            done(10, 11, vec![read("x", &["1"]), read("y", &["1"])]),
        ];
        assert_eq!(kinds(&all), ["G2"]);
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_a_lost_update() {
        let all = [
            done(0, 1, vec![append("x", "1")]),
            done(2, 3, vec![append("x", "2")]),
            done(4, 5, vec![read("x", &["2"])]),
        ];
        assert!(kinds(&all).contains(&"lost update"));
    }

    #[test]
    fn a_stale_read_breaks_real_time() {
        let all = [
            done(0, 1, vec![append("x", "1")]),
            done(2, 3, vec![append("x", "2")]),
            done(4, 5, vec![read("x", &["1"])]),
            done(6, 7, vec![read("x", &["1", "2"])]),
        ];
        assert_eq!(kinds(&all), ["stale read", "G2-realtime"]);
    }

    #[test]
    fn an_append_that_was_applied_twice_is_a_duplicate() {
        let unknown = Transaction { steps: vec![append("x", "1")], from: 0, to: 1, end: End::Unknown };
        assert!(kinds(&[unknown, done(2, 3, vec![read("x", &["1", "1"])])]).contains(&"duplicate"));
    }

    #[test]
    fn two_histories_of_one_key_are_a_split_brain() {
        let all = [
            done(0, 1, vec![append("x", "1")]),
            done(2, 9, vec![append("x", "2")]),
            done(2, 9, vec![append("x", "3")]),
            done(3, 9, vec![read("x", &["1", "2"])]),
            done(3, 9, vec![read("x", &["1", "3"])]),
        ];
        assert!(kinds(&all).contains(&"incompatible order"));
    }
}
