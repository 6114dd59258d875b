//! Which fault met the cluster in which phase: what a run of many seeds must fill.

use crate::plan::Kind;
use std::collections::BTreeMap;

/// What the cluster is doing when a fault begins. Several may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// None of the others.
    Quiet,
    /// A group has no leader of its newest term.
    Electing,
    /// A node has been started again and does not serve, or is in its quarantine.
    Starting,
    /// A replica has applied much less than its group has committed.
    CatchingUp,
    /// A snapshot was made or installed just now.
    Snapshot,
    /// A leader was asked to hand over just now.
    Transfer,
    /// A node is coming or going, or votes are moving.
    Changing,
    /// Slots are on their way between groups.
    Moving,
    /// A group is coming or going.
    Grouping,
    /// Another fault stands.
    OtherFault,
}

impl Phase {
    pub const ALL: [Phase; 10] = [
        Phase::Quiet,
        Phase::Electing,
        Phase::Starting,
        Phase::CatchingUp,
        Phase::Snapshot,
        Phase::Transfer,
        Phase::Changing,
        Phase::Moving,
        Phase::Grouping,
        Phase::OtherFault,
    ];
}

/// How often each fault began in each phase.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coverage {
    began: BTreeMap<Kind, u64>,
    met: BTreeMap<(Kind, Phase), u64>,
}

impl Coverage {
    pub fn note(&mut self, kind: Kind, phases: Vec<Phase>) {
        *self.began.entry(kind).or_default() += 1;
        for phase in phases {
            *self.met.entry((kind, phase)).or_default() += 1;
        }
    }

    pub fn faults(&self) -> u64 {
        self.began.values().sum()
    }

    /// As one word for each number, for the process that started this one.
    pub fn words(&self) -> String {
        let began = self.began.iter().map(|(kind, n)| format!("{kind:?}={n}"));
        let met = self.met.iter().map(|((kind, phase), n)| format!("{kind:?}/{phase:?}={n}"));
        began.chain(met).collect::<Vec<_>>().join(" ")
    }

    /// Adds what [`Coverage::words`] said; words that it did not say are none of its own.
    pub fn add(&mut self, words: &str) {
        for (name, n) in words.split(' ').filter_map(|word| word.split_once('=')) {
            let Ok(n) = n.parse::<u64>() else { continue };
            let (kind, phase) = name.split_once('/').map_or((name, None), |(kind, phase)| (kind, Some(phase)));
            let Some(kind) = Kind::ALL.into_iter().find(|known| format!("{known:?}") == kind) else { continue };
            match phase.map(|phase| Phase::ALL.into_iter().find(|known| format!("{known:?}") == phase)) {
                None => *self.began.entry(kind).or_default() += n,
                Some(Some(phase)) => *self.met.entry((kind, phase)).or_default() += n,
                Some(None) => (),
            }
        }
    }

    /// Fault by phase; a fault that met no such phase shows a dash.
    pub fn table(&self) -> String {
        let mut text = format!("{:<12}{:>8}", "fault", "began");
        Phase::ALL.iter().for_each(|phase| text.push_str(&format!("{:>12}", format!("{phase:?}"))));
        for kind in Kind::ALL {
            let began = self.began.get(&kind).copied().unwrap_or(0);
            text.push_str(&format!("\n{:<12}{began:>8}", format!("{kind:?}")));
            for phase in Phase::ALL {
                let met = self.met.get(&(kind, phase)).map_or("-".to_owned(), u64::to_string);
                text.push_str(&format!("{met:>12}"));
            }
        }
        text
    }

    /// Pairs that never met.
    pub fn holes(&self) -> usize {
        Kind::ALL.len() * Phase::ALL.len() - self.met.len()
    }
}
