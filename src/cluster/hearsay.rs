//! What nodes say about themselves by gossip, and what follows from it. Pure; `gossip.rs` carries it.
//!
//! Anybody can say anything: a word that could not be true is not taken over, and of the others no more than a cluster of
//! the size that there can be needs. Whoever asks here gets what is worth a try, and never a fact.

use crate::config::{Endpoint, Name, Raw, Setting, Zone};
use crate::types::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The longest word that is read, in bytes.
const WORD_BYTES_MAX: usize = 1024;
/// Words that are taken over at a time, the newest first.
const WORDS_MAX: usize = 256;
/// Places where one node is looked for because somebody said so.
const PLACES_MAX: usize = 4;
/// Other clusters that are told of.
const STRANGERS_MAX: usize = 8;

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Of its data directory.
    pub incarnation: u64,
    /// Empty while it belongs to none.
    pub cluster: String,
    /// 0 while it has no number.
    pub node: NodeId,
    pub name: String,
    pub zone: String,
    /// Its peer address, as others are to use it.
    pub address: String,
    /// It waits to be taken into a cluster.
    pub waits: bool,
    pub version: String,
}

impl Word {
    /// As it is carried.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a word is plain data")
    }

    /// Reads what somebody said; none if no node would say that. What comes through may be shown on a terminal.
    pub fn read(text: &str) -> Option<Word> {
        if text.len() > WORD_BYTES_MAX {
            return None;
        }
        let word: Word = serde_json::from_str(text).ok()?;
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let id =
            word.cluster.is_empty() || word.cluster.len() == 40 && word.cluster.bytes().all(|b| b.is_ascii_hexdigit());
        let named =
            Name::parse(&Raw::Text(word.name.clone())).is_ok() && Zone::parse(&Raw::Text(word.zone.clone())).is_ok();
        let placed = is_plain(&word.address) && Endpoint::read(&word.address).is_some_and(|at| !at.is_wildcard());
        let alone = !word.waits || word.cluster.is_empty() && word.node == NodeId(0);
        (id && named && placed && alone && is_plain(&word.version)).then_some(word)
    }
}

/// What is heard at a time, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hearsay(Vec<Word>);

impl Hearsay {
    /// Of words with the times at which those who say them began to, by their own clocks.
    pub fn of(words: impl IntoIterator<Item = (u64, Word)>) -> Hearsay {
        let mut words: Vec<(u64, Word)> = words.into_iter().collect();
        words.sort_by(|(at, one), (than, other)| {
            than.cmp(at).then_with(|| (one.incarnation, &one.address).cmp(&(other.incarnation, &other.address)))
        });
        Hearsay(words.into_iter().take(WORDS_MAX).map(|(_, word)| word).collect())
    }

    /// Those who say that they wait to be taken in, each once.
    pub fn waiting(&self) -> Vec<&Word> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(|word| word.waits && seen.insert(word.incarnation)).collect()
    }

    /// Where those of a name wait. More than one place, also of one node, is for a human to choose from.
    pub fn places_of(&self, name: &str) -> BTreeSet<String> {
        self.0.iter().filter(|word| word.waits && word.name == name).map(|word| word.address.clone()).collect()
    }

    /// Who of this cluster is heard, by incarnation.
    pub fn members(&self, cluster: &str) -> BTreeSet<u64> {
        let ours = |word: &&Word| !cluster.is_empty() && word.cluster == cluster;
        self.0.iter().filter(ours).map(|word| word.incarnation).collect()
    }

    /// Where members of this cluster are said to be.
    pub fn hints(&self, cluster: &str) -> Vec<(u64, Vec<String>)> {
        let places = |incarnation: u64| {
            let mut places: Vec<String> = Vec::new();
            // A founder has no cluster before it has met the others.
            let ours = |word: &&Word| word.cluster == cluster || word.cluster.is_empty() || cluster.is_empty();
            for word in self.0.iter().filter(|word| word.incarnation == incarnation).filter(ours) {
                if !word.waits && !places.contains(&word.address) && places.len() < PLACES_MAX {
                    places.push(word.address.clone());
                }
            }
            (incarnation, places)
        };
        let all: BTreeSet<u64> = self.0.iter().map(|word| word.incarnation).collect();
        all.into_iter().map(places).filter(|(_, places)| !places.is_empty()).collect()
    }

    /// Other clusters that are heard here.
    pub fn strangers(&self, cluster: &str) -> BTreeSet<String> {
        let others = self.0.iter().map(|word| &word.cluster).filter(|id| !id.is_empty() && *id != cluster);
        others.take(STRANGERS_MAX).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "0123456789abcdef0123456789abcdef01234567";
    const THEIRS: &str = "f123456789abcdef0123456789abcdef01234567";

    fn member(incarnation: u64, address: &str) -> Word {
        Word {
            incarnation,
            cluster: OURS.to_owned(),
            node: NodeId(incarnation),
            name: format!("node-{incarnation}"),
            zone: String::new(),
            address: address.to_owned(),
            waits: false,
            version: "0.1.0".to_owned(),
        }
    }

    fn waits(incarnation: u64, name: &str, address: &str) -> Word {
        let (cluster, node, name) = (String::new(), NodeId(0), name.to_owned());
        Word { cluster, node, name, waits: true, ..member(incarnation, address) }
    }

    fn places(all: &[&str]) -> Vec<String> {
        all.iter().map(|place| (*place).to_owned()).collect()
    }

    #[test]
    fn what_a_node_says_is_read_as_it_was_said() {
        for word in
            [member(u64::MAX, "10.0.0.1:7000"), waits(7, "node-7", "[::1]:7000"), member(1, "host.example:7000")]
        {
            assert_eq!(Word::read(&word.text()), Some(word));
        }
    }

    #[test]
    fn what_no_node_would_say_is_not_taken_over() {
        let refused = |change: fn(&mut Word)| {
            let mut word = member(1, "h:1");
            change(&mut word);
            assert_eq!(Word::read(&word.text()), None, "{word:?}");
        };
        refused(|word| word.name = "\u{1b}[2J".to_owned());
        refused(|word| word.name = String::new());
        refused(|word| word.zone = "a b".to_owned());
        refused(|word| word.cluster = "c".to_owned());
        refused(|word| word.address = "h".to_owned());
        refused(|word| word.address = "0.0.0.0:7000".to_owned());
        refused(|word| word.address = "\u{7}h:7000".to_owned());
        refused(|word| word.version = "1\n".to_owned());
        refused(|word| word.version = "1".repeat(WORD_BYTES_MAX));
        refused(|word| word.waits = true);
        assert_eq!(Word::read("{}"), None);
    }

    #[test]
    fn a_node_that_moved_is_looked_for_where_it_said_last_and_where_others_say() {
        let heard = Hearsay::of([
            (5, member(1, "old:1")),
            (9, member(1, "new:1")),
            (6, Word { cluster: THEIRS.to_owned(), ..member(1, "theirs:1") }),
            (7, member(2, "two:1")),
            (8, waits(3, "three", "three:1")),
        ]);
        assert_eq!(heard.hints(OURS), [(1, places(&["new:1", "old:1"])), (2, places(&["two:1"]))]);
        assert_eq!(heard.members(OURS), [1, 2].into());
        assert_eq!(heard.strangers(OURS), [THEIRS.to_owned()].into());
        assert!(heard.members("").is_empty(), "who belongs to none has no fellows");
        let liar = Hearsay::of((0..100).map(|at| (at, member(1, &format!("lie:{}", at + 1)))));
        assert_eq!(liar.hints(OURS)[0].1.len(), PLACES_MAX);
    }

    #[test]
    fn those_who_wait_are_listed_once_and_found_by_name_wherever_they_say_they_are() {
        let heard = Hearsay::of([
            (1, waits(4, "four", "old:1")),
            (2, waits(4, "four", "new:1")),
            (3, waits(5, "five", "five:1")),
            (4, member(6, "six:1")),
        ]);
        let listed: Vec<&str> = heard.waiting().iter().map(|word| word.address.as_str()).collect();
        assert_eq!(listed, ["five:1", "new:1"]);
        assert_eq!(heard.places_of("four").len(), 2);
        assert_eq!(heard.places_of("five"), ["five:1".to_owned()].into());
        assert!(heard.places_of("node-6").is_empty(), "it does not wait");
    }

    #[test]
    fn no_more_is_taken_over_than_a_cluster_needs() {
        let heard = Hearsay::of((0..10_000).map(|n| (n, waits(n, "liar", "lie:1"))));
        assert_eq!(heard.waiting().len(), WORDS_MAX);
        let foreign = |n: u64| Word { cluster: format!("{n:040x}"), ..member(n, "h:1") };
        assert_eq!(Hearsay::of((0..100).map(|n| (n, foreign(n + 1)))).strangers(OURS).len(), STRANGERS_MAX);
    }
}
