//! The parameters that CONFIG GET knows under Redis' names, and the few that CONFIG SET changes on this node.
//!
//! One table; GET, SET and their errors are loops over it. What must be the same on all nodes (memory, policy) is
//! known to [`Agreed`]; it is shown here too, and [`through_cluster`] makes a command on the meta group of its change.

use super::clients::PushLimit;
use super::remembered::Remembered;
use super::{Settings, monitor, slow};
use crate::cluster::Agreed;
use crate::commands::acl::Change;
use crate::commands::node::ConfigError;
use crate::resp::{Args, Reply};
use crate::types::Level;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// What may change while the node runs.
pub struct Live {
    level: ArcSwap<Level>,
    request_timeout_ms: AtomicU64,
    idle_timeout_ms: AtomicU64,
    max_clients: AtomicUsize,
    acl_log_max: AtomicUsize,
    /// Milliseconds of a script after which others of its group are answered BUSY.
    busy_after_ms: Arc<AtomicU64>,
    /// Milliseconds from which LATENCY keeps an event; 0: it keeps none.
    latency_threshold_ms: AtomicU64,
    tracks_latency: AtomicBool,
    /// In per cent.
    percentiles: ArcSwap<Vec<f64>>,
    /// Most entries, and what they are logged from on, by [`slow::Kind`].
    log_max: [AtomicUsize; slow::KINDS],
    log_from: [AtomicI64; slow::KINDS],
    remembered: Remembered,
    push_limit: ArcSwap<PushLimit>,
    tracking_keys_max: AtomicUsize,
    /// Commands of a second of which MONITOR tells all.
    monitor_rate: AtomicU64,
}

impl Live {
    pub fn new(settings: &Settings) -> Live {
        Live {
            level: ArcSwap::from_pointee(settings.level),
            request_timeout_ms: AtomicU64::new(settings.request_timeout.as_millis() as u64),
            idle_timeout_ms: AtomicU64::new(settings.idle_timeout.as_millis() as u64),
            max_clients: AtomicUsize::new(settings.max_clients),
            acl_log_max: AtomicUsize::new(128),
            busy_after_ms: Arc::new(AtomicU64::new(settings.scripts.busy_after.as_millis() as u64)),
            latency_threshold_ms: AtomicU64::new(0),
            tracks_latency: AtomicBool::new(true),
            percentiles: ArcSwap::from_pointee(vec![50.0, 99.0, 99.9]),
            log_max: std::array::from_fn(|_| AtomicUsize::new(slow::ENTRIES_DEFAULT)),
            log_from: slow::Kind::ALL.map(|kind| AtomicI64::new(kind.default_from())),
            remembered: Remembered::default(),
            push_limit: ArcSwap::default(),
            tracking_keys_max: AtomicUsize::new(1_000_000),
            monitor_rate: AtomicU64::new(monitor::RATE_DEFAULT),
        }
    }

    pub fn level(&self) -> Level {
        **self.level.load()
    }

    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.load(Relaxed))
    }

    /// None: a silent connection stays.
    pub fn idle_timeout(&self) -> Option<Duration> {
        let ms = self.idle_timeout_ms.load(Relaxed);
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// Shared with those who run scripts.
    pub fn busy_after_ms(&self) -> Arc<AtomicU64> {
        self.busy_after_ms.clone()
    }

    pub fn max_clients(&self) -> usize {
        self.max_clients.load(Relaxed)
    }

    /// From which measure on a log keeps a command: microseconds, or bytes. None: the log is off.
    pub fn log_from(&self, kind: slow::Kind) -> Option<u64> {
        u64::try_from(self.log_from[kind as usize].load(Relaxed)).ok()
    }

    pub fn acl_log_max(&self) -> usize {
        self.acl_log_max.load(Relaxed)
    }

    pub fn log_max(&self, kind: slow::Kind) -> usize {
        self.log_max[kind as usize].load(Relaxed)
    }

    /// Milliseconds from which LATENCY keeps an event; None: it keeps none.
    pub fn latency_threshold_ms(&self) -> Option<u64> {
        Some(self.latency_threshold_ms.load(Relaxed)).filter(|ms| *ms > 0)
    }

    /// Whether calls' times are told by LATENCY HISTOGRAM and INFO latencystats.
    pub fn tracks_latency(&self) -> bool {
        self.tracks_latency.load(Relaxed)
    }

    /// The percentiles that INFO latencystats shows, in per cent.
    pub fn percentiles(&self) -> Vec<f64> {
        self.percentiles.load().to_vec()
    }

    /// How much may wait for a client that listens.
    pub(super) fn push_limit(&self) -> &ArcSwap<PushLimit> {
        &self.push_limit
    }

    /// Commands of a second of which MONITOR tells all.
    pub fn monitor_rate(&self) -> u64 {
        self.monitor_rate.load(Relaxed)
    }

    /// Keys that are noted for client-side caches; 0: as many as are read.
    pub fn tracking_keys_max(&self) -> usize {
        self.tracking_keys_max.load(Relaxed)
    }
}

/// The default user's password.
const REQUIREPASS: &str = "requirepass";

type Get = fn(&Settings, &Live) -> String;
type Set = fn(&Live, &str) -> Result<(), &'static str>;

struct Parameter {
    name: &'static str,
    get: Get,
    /// None: only read at start, or always the same.
    set: Option<Set>,
}

const fn fixed(name: &'static str, get: Get) -> Parameter {
    Parameter { name, get, set: None }
}

const fn live(name: &'static str, get: Get, set: Set) -> Parameter {
    Parameter { name, get, set: Some(set) }
}

const NOT_A_NUMBER: &str = "argument couldn't be parsed into an integer";

fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Result<i64, &'static str> {
    let n: i64 = text.parse().map_err(|_| NOT_A_NUMBER)?;
    if range.contains(&n) { Ok(n) } else { Err("argument is out of range") }
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn flag(text: &str) -> Result<bool, &'static str> {
    match text {
        text if text.eq_ignore_ascii_case("yes") => Ok(true),
        text if text.eq_ignore_ascii_case("no") => Ok(false),
        _ => Err("argument must be 'yes' or 'no'"),
    }
}

const SLOW: usize = slow::Kind::Slow as usize;
const REQUEST: usize = slow::Kind::LargeRequest as usize;
const REPLY: usize = slow::Kind::LargeReply as usize;

/// From what on a log of commands keeps one.
const fn log_from<const KIND: usize>(name: &'static str) -> Parameter {
    live(
        name,
        |_, l| l.log_from[KIND].load(Relaxed).to_string(),
        |l, v| {
            l.log_from[KIND].store(number(v, -1..=i64::MAX)?, Relaxed);
            Ok(())
        },
    )
}

/// How many commands a log keeps.
const fn log_max<const KIND: usize>(name: &'static str) -> Parameter {
    live(
        name,
        |_, l| l.log_max[KIND].load(Relaxed).to_string(),
        |l, v| {
            l.log_max[KIND].store(number(v, 0..=slow::ENTRIES_MAX as i64)? as usize, Relaxed);
            Ok(())
        },
    )
}

/// The classes of client-output-buffer-limit. Only that of pub/sub can be set: an ordinary client that does not read is
/// not read from, which bounds it without closing it, and there are no replicas of Redis' kind.
fn shown_limits(limit: &PushLimit) -> String {
    let PushLimit { hard, soft, lasting } = limit;
    format!("normal 0 0 0 slave 268435456 67108864 60 pubsub {hard} {soft} {}", lasting.as_secs())
}

fn set_limits(live: &Live, text: &str) -> Result<(), &'static str> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.");
    }
    let mut limit = **live.push_limit.load();
    for class in words.chunks_exact(4) {
        let number = |word: &str| {
            crate::cluster::memory_size(word)
                .ok_or("Error in hard, soft or soft_seconds setting in buffer limit configuration.")
        };
        let read = PushLimit {
            hard: number(class[1])?,
            soft: number(class[2])?,
            lasting: Duration::from_secs(
                class[3]
                    .parse()
                    .map_err(|_| "Error in hard, soft or soft_seconds setting in buffer limit configuration.")?,
            ),
        };
        match class[0].to_ascii_lowercase().as_str() {
            "pubsub" => limit = read,
            "normal" | "slave" | "replica" => {}
            _ => return Err("Invalid client class specified in buffer limit configuration."),
        }
    }
    live.push_limit.store(Arc::new(limit));
    Ok(())
}

const SHOW_BUSY: Get = |_, l| l.busy_after_ms.load(Relaxed).to_string();
const SET_BUSY: Set = |l, v| {
    l.busy_after_ms.store(number(v, 0..=600_000)? as u64, Relaxed);
    Ok(())
};

/// In order of names.
static PARAMETERS: &[Parameter] = &[
    live(
        "acllog-max-len",
        |_, l| l.acl_log_max().to_string(),
        |l, v| {
            l.acl_log_max.store(number(v, 0..=slow::ENTRIES_MAX as i64)? as usize, Relaxed);
            Ok(())
        },
    ),
    fixed("activedefrag", |_, _| "no".to_owned()),
    fixed("appendfsync", |s, _| s.sync.clone()),
    live(
        "appendonly",
        |_, _| "yes".to_owned(),
        |_, v| if v == "yes" { Ok(()) } else { Err("the log cannot be switched off; see storage.sync") },
    ),
    fixed("bind", |s, _| s.listens().map(|(_, _, a)| a.ip().to_string()).next().unwrap_or_default()),
    live("busy-reply-threshold", SHOW_BUSY, SET_BUSY),
    live("client-output-buffer-limit", |_, l| shown_limits(&l.push_limit.load()), set_limits),
    log_from::<SLOW>("commandlog-execution-slower-than"),
    log_max::<REPLY>("commandlog-large-reply-max-len"),
    log_max::<REQUEST>("commandlog-large-request-max-len"),
    log_from::<REPLY>("commandlog-reply-larger-than"),
    log_from::<REQUEST>("commandlog-request-larger-than"),
    log_max::<SLOW>("commandlog-slow-execution-max-len"),
    live(
        "consistency-level",
        |_, l| l.level().to_string(),
        |l, v| {
            let level = Level::parse(v).ok_or("argument must be linearizable, lease, bounded:<ms> or eventual")?;
            l.level.store(Arc::new(level));
            Ok(())
        },
    ),
    fixed("daemonize", |_, _| "no".to_owned()),
    fixed("databases", |_, _| "1".to_owned()),
    fixed("io-threads", |s, _| s.workers.to_string()),
    live(
        "latency-monitor-threshold",
        |_, l| l.latency_threshold_ms.load(Relaxed).to_string(),
        |l, v| {
            l.latency_threshold_ms.store(number(v, 0..=i64::MAX)? as u64, Relaxed);
            Ok(())
        },
    ),
    live(
        "latency-tracking",
        |_, l| yes_no(l.tracks_latency()),
        |l, v| {
            l.tracks_latency.store(flag(v)?, Relaxed);
            Ok(())
        },
    ),
    live(
        "latency-tracking-info-percentiles",
        |_, l| l.percentiles().iter().map(f64::to_string).collect::<Vec<_>>().join(" "),
        |l, v| {
            let share = |word: &str| word.parse().ok().filter(|p| (0.0..=100.0).contains(p));
            let shares: Option<Vec<f64>> = v.split_whitespace().map(share).collect();
            l.percentiles.store(Arc::new(shares.ok_or("argument(s) must be numbers from 0.0 to 100.0")?));
            Ok(())
        },
    ),
    fixed("lazyfree-lazy-user-del", |_, _| "no".to_owned()),
    live("lua-time-limit", SHOW_BUSY, SET_BUSY),
    live(
        "maxclients",
        |_, l| l.max_clients().to_string(),
        |l, v| {
            l.max_clients.store(number(v, 1..=1_000_000)? as usize, Relaxed);
            Ok(())
        },
    ),
    live(
        "monitor-commands-per-second",
        |_, l| l.monitor_rate().to_string(),
        |l, v| {
            l.monitor_rate.store(number(v, 0..=i64::MAX)? as u64, Relaxed);
            Ok(())
        },
    ),
    fixed("port", |s, _| s.proxy.map_or(0, |a| a.port()).to_string()),
    fixed("proto-max-bulk-len", |s, _| s.limits.max_bulk.to_string()),
    live(
        "request-timeout-ms",
        |_, l| l.request_timeout_ms.load(Relaxed).to_string(),
        |l, v| {
            l.request_timeout_ms.store(number(v, 10..=600_000)? as u64, Relaxed);
            Ok(())
        },
    ),
    // Only its hash is known (ACL GETUSER default), and that is no password.
    fixed("requirepass", |_, _| String::new()),
    live(
        "save",
        |_, _| String::new(),
        |_, v| if v.is_empty() { Ok(()) } else { Err("snapshots are taken when the log has grown; see persistence") },
    ),
    log_from::<SLOW>("slowlog-log-slower-than"),
    log_max::<SLOW>("slowlog-max-len"),
    fixed("tcp-keepalive", |s, _| s.keepalive.as_secs().to_string()),
    live(
        "timeout",
        |_, l| (l.idle_timeout_ms.load(Relaxed) / 1000).to_string(),
        |l, v| {
            l.idle_timeout_ms.store(number(v, 0..=2_592_000)? as u64 * 1000, Relaxed);
            Ok(())
        },
    ),
    live(
        "tracking-table-max-keys",
        |_, l| l.tracking_keys_max().to_string(),
        |l, v| {
            l.tracking_keys_max.store(number(v, 0..=i64::MAX)? as usize, Relaxed);
            Ok(())
        },
    ),
];

/// Names and values, in order of names.
pub fn all(settings: &Settings, live: &Live, agreed: &Agreed) -> Vec<(String, String)> {
    let own = PARAMETERS.iter().map(|p| (p.name.to_owned(), (p.get)(settings, live)));
    let others = live.remembered.all().chain(agreed.parameters());
    let mut all: Vec<_> = own.chain(others.map(|(name, value)| (name.to_owned(), value))).collect();
    all.sort_unstable();
    all
}

/// The command on the meta group that sets `pairs`, if they are of parameters that are the same on all nodes; none if they
/// are this node's own. The two kinds cannot be set together: nothing could make that all or none.
pub fn through_cluster(mut agreed: Agreed, pairs: &[(String, String)]) -> Result<Option<Args>, Reply> {
    let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).filter(|n| Agreed::has_parameter(n)).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let failed = |name: &str, why: &str| {
        Reply::error(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
    };
    if let Some(name) = twice(pairs) {
        return Err(failed(name, DUPLICATE));
    }
    for (name, value) in pairs {
        if !names.contains(&name.as_str()) {
            return Err(failed(name, "it is this node's own and cannot be set together with one of the whole cluster"));
        }
        agreed.set(name, value).map_err(|why| failed(name, &why))?;
    }
    Ok(Some(agreed.write("MSET", &names)))
}

const DUPLICATE: &str = "duplicate parameter";

/// A name that stands in `pairs` more than once.
fn twice(pairs: &[(String, String)]) -> Option<&str> {
    let names = pairs.iter().map(|(name, _)| name.as_str()).enumerate();
    names.into_iter().find(|(at, name)| pairs[..*at].iter().any(|(earlier, _)| earlier == name)).map(|(_, name)| name)
}

/// The change of the default user's password that `pairs` ask for, if that is it. It cannot be set together with others:
/// nothing could make that all or none.
pub fn default_password(pairs: &[(String, String)]) -> Result<Option<Change>, Reply> {
    match pairs {
        [(name, value)] if name == REQUIREPASS => {
            let password = (!value.is_empty()).then(|| Bytes::copy_from_slice(value.as_bytes()));
            Ok(Some(Change::DefaultPassword(password)))
        }
        pairs if pairs.iter().any(|(name, _)| name == REQUIREPASS) => Err(Reply::error(format!(
            "ERR CONFIG SET failed (possibly related to argument '{REQUIREPASS}') - it is the whole cluster's and is set alone"
        ))),
        _ => Ok(None),
    }
}

/// Sets all of `pairs`, or none of them if any cannot be set.
pub fn set(settings: &Settings, live: &Live, pairs: &[(String, String)]) -> Result<(), ConfigError> {
    if let Some(name) = twice(pairs) {
        return Err(ConfigError::Invalid(name.to_owned(), DUPLICATE.to_owned()));
    }
    // A first pass over a copy finds every mistake before anything changes.
    let trial = Live::new(settings);
    for target in [&trial, live] {
        for (name, value) in pairs {
            if let Some(done) = target.remembered.set(name, value) {
                done.map_err(|why| ConfigError::Invalid(name.clone(), why))?;
                continue;
            }
            let Some(parameter) = PARAMETERS.iter().find(|p| p.name == name) else {
                return Err(ConfigError::Unknown(name.clone()));
            };
            let Some(set) = parameter.set else {
                // What holds already may be asked for.
                match (parameter.get)(settings, live) == *value {
                    true => continue,
                    false => return Err(ConfigError::Immutable(name.clone())),
                }
            };
            set(target, value).map_err(|why| ConfigError::Invalid(name.clone(), why.to_owned()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn names_are_in_order_and_unique() {
        assert!(PARAMETERS.windows(2).all(|w| w[0].name < w[1].name));
    }

    #[test]
    fn a_mistake_in_one_pair_changes_nothing() {
        let settings = Settings::default();
        let live = Live::new(&settings);
        let before = all(&settings, &live, &Agreed::default());
        for bad in [pair("timeout", "x"), pair("port", "1"), pair("nonsense", "1"), pair("maxclients", "0")] {
            assert!(set(&settings, &live, &[pair("slowlog-max-len", "7"), bad]).is_err());
        }
        assert_eq!(all(&settings, &live, &Agreed::default()), before);
    }

    #[test]
    fn what_cannot_change_may_be_set_to_what_it_is() {
        let settings = Settings::default();
        let live = Live::new(&settings);
        for p in PARAMETERS.iter().filter(|p| p.set.is_none()) {
            set(&settings, &live, &[pair(p.name, &(p.get)(&settings, &live))]).expect(p.name);
            let refused = set(&settings, &live, &[pair(p.name, "something else")]);
            assert_eq!(refused, Err(ConfigError::Immutable(p.name.to_owned())));
        }
    }

    #[test]
    fn a_name_may_stand_once() {
        let settings = Settings::default();
        let live = Live::new(&settings);
        let duplicate = Err(ConfigError::Invalid("timeout".to_owned(), DUPLICATE.to_owned()));
        assert_eq!(set(&settings, &live, &[pair("timeout", "1"), pair("timeout", "1")]), duplicate);
    }

    #[test]
    fn every_shown_value_of_a_settable_parameter_can_be_set_again() {
        let settings = Settings::default();
        let live = Live::new(&settings);
        for p in PARAMETERS.iter().filter(|p| p.set.is_some()) {
            set(&settings, &live, &[pair(p.name, &(p.get)(&settings, &live))]).expect(p.name);
        }
    }
}
