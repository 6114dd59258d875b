//! Configuration: defaults < file < environment < flags, checked as a whole before anything starts.
//!
//! ```text
//!   file.yaml --yaml--\
//!   HYPERCACHE__A__B ---> assignments (path, text, origin) --keys--> Config --check--> Loaded, or every problem at once
//!   --set a.b=value --/
//! ```
//!
//! Invariants: a [`Loaded`] configuration breaks no rule of `check`; every problem says where the value stands; no
//! secret is ever printed. It never starts anything, and it knows nothing of what its settings are used for.

mod check;
mod keys;
mod memory;
mod ports;
mod problem;
mod values;
mod yaml;

pub use keys::*;
pub use memory::available as available_memory;
pub use problem::{Code, Origin, Problem, Problems};
pub use values::*;
pub use yaml::FILE_BYTES_MAX;

use problem::nearest;
use std::collections::BTreeMap;
use std::path::Path;
use yaml::Assignment;

/// What an environment variable's name begins with.
pub const ENVIRONMENT_PREFIX: &str = "HYPERCACHE__";

/// Where a configuration may come from, beside the defaults.
#[derive(Default)]
pub struct Sources<'a> {
    pub file: Option<&'a Path>,
    /// The whole environment; what does not begin with [`ENVIRONMENT_PREFIX`] is ignored.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, as given with `--set`.
    pub flags: Vec<String>,
    /// Added to every port, those of the seeds included.
    pub port_offset: u16,
}

impl Sources<'_> {
    /// A file and this process' environment.
    pub fn of_process(file: Option<&Path>) -> Sources<'_> {
        // Variables that are not UTF-8 cannot be meant for us.
        let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Sources { file, environment: environment.collect(), ..Sources::default() }
    }
}

/// A checked configuration and where each of its values comes from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What is odd but no reason not to start, each with its setting's name.
    pub warnings: Vec<String>,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Where a setting's value comes from.
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// The whole configuration as YAML, with each value's source behind it if asked for.
    pub fn print(&self, with_sources: bool) -> String {
        let mut out = String::new();
        for section in SECTIONS {
            out.push_str(&format!("{}:\n", section.name));
            for key in KEYS.iter().filter(|key| key.section == section.name) {
                let line = format!("  {}: {}", key.name, (key.show)(&self.config));
                if with_sources {
                    out.push_str(&format!("{line:<50} # {}\n", self.origin(&key.path())));
                } else {
                    out.push_str(&format!("{line}\n"));
                }
            }
        }
        out
    }
}

/// Puts a configuration together, or says everything that is wrong with it. Reads one file.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut given = Vec::new();
    if let Some(file) = sources.file {
        match read_file(file) {
            Ok(text) => {
                let (found, wrong) = yaml::read(file, &text);
                given.extend(found);
                problems.extend(wrong);
            }
            Err(problem) => problems.push(*problem),
        }
    }
    given.extend(from_environment(&sources.environment));
    for flag in &sources.flags {
        match from_flag(flag) {
            Ok(assignment) => given.push(assignment),
            Err(problem) => problems.push(*problem),
        }
    }
    let (mut config, origins) = assemble(given, &mut problems);
    if let Err(problem) = shift_ports(&mut config, sources.port_offset) {
        problems.push(*problem);
    }
    for finding in check::contradictions(&config) {
        // The one of the two that somebody has set is the one to look at.
        let given = [Some(finding.setting), finding.against].into_iter().flatten().find_map(|key| origins.get(key));
        let origin = given.cloned().unwrap_or(Origin::Default);
        let message = if finding.message.starts_with(finding.setting) {
            finding.message
        } else {
            format!("{}: {}", finding.setting, finding.message)
        };
        problems.push(Problem { origin, code: finding.code, message, remedy: finding.remedy });
    }
    let warnings = check::warnings(&config, available_memory());
    Problems::or(problems, Loaded { config, warnings, origins })
}

fn read_file(file: &Path) -> Result<String, Box<Problem>> {
    let refuse = |message: String| {
        let origin = Origin::File { file: file.to_owned(), line: 0, column: 0 };
        Box::new(Problem { origin, code: Code::Unreadable, message, remedy: None })
    };
    let size = std::fs::metadata(file).map_err(|error| refuse(format!("cannot be read: {error}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(refuse(format!("{size} bytes are no configuration (at most {FILE_BYTES_MAX})")));
    }
    std::fs::read_to_string(file).map_err(|error| refuse(format!("cannot be read: {error}")))
}

fn from_environment(environment: &[(String, String)]) -> Vec<Assignment> {
    let mut found: Vec<Assignment> = environment
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_ascii_lowercase().replace("__", ".");
            let origin = Origin::Environment(name.clone());
            Some(Assignment { path, raw: Raw::Text(value.clone()), named_at: origin.clone(), origin })
        })
        .collect();
    // The environment has no order of its own; problems should come in the same one every time.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn from_flag(flag: &str) -> Result<Assignment, Box<Problem>> {
    let origin = Origin::Flag(format!("--set {}", flag.split('=').next().unwrap_or_default()));
    match flag.split_once('=') {
        Some((path, value)) => {
            let raw = Raw::Text(value.to_owned());
            Ok(Assignment { path: path.trim().to_owned(), raw, named_at: origin.clone(), origin })
        }
        None => Err(Box::new(Problem {
            origin,
            code: Code::BadValue,
            message: format!("expected section.key=value, found \"{flag}\""),
            remedy: None,
        })),
    }
}

/// Puts values into the defaults, later ones over earlier ones.
fn assemble(given: Vec<Assignment>, problems: &mut Vec<Problem>) -> (Config, BTreeMap<String, Origin>) {
    let mut config = Config::default();
    let mut origins = BTreeMap::new();
    for Assignment { path, raw, origin, named_at } in given {
        let Some(key) = KEYS.iter().find(|key| key.path() == path) else {
            problems.push(unknown(&path, named_at));
            continue;
        };
        match (key.set)(&mut config, &raw) {
            Ok(()) => {
                origins.insert(path, origin);
            }
            Err(message) => {
                let message = format!("{path}: {message}");
                problems.push(Problem { origin, code: Code::BadValue, message, remedy: None });
            }
        }
    }
    (config, origins)
}

/// Says what was probably meant by a name that is no setting.
fn unknown(path: &str, origin: Origin) -> Problem {
    let mut problem = Problem { origin, code: Code::UnknownKey, message: String::new(), remedy: None };
    let Some((section, name)) = path.split_once('.') else {
        let known = SECTIONS.iter().map(|section| section.name);
        let is_section = known.clone().any(|name| name == path);
        problem.message = if is_section {
            format!("{path} is a section: settings stand below it")
        } else {
            format!("there is no section {path}")
        };
        problem.remedy = nearest(path, known).filter(|_| !is_section).map(|near| format!("did you mean {near}?"));
        return problem;
    };
    problem.message = format!("there is no setting {path}");
    let names = |section: String| KEYS.iter().filter(move |key| key.section == section).map(|key| key.name);
    let home = nearest(section, SECTIONS.iter().map(|section| section.name)).unwrap_or(section);
    let elsewhere = || KEYS.iter().find(|key| key.name == name).map(Key::path);
    let near = nearest(name, names(home.to_owned())).map(|near| format!("{home}.{near}"));
    problem.remedy = near.or_else(elsewhere).map(|near| format!("did you mean {near}?"));
    if problem.remedy.is_none() {
        let known: Vec<&str> = names(home.to_owned()).collect();
        problem.remedy = (!known.is_empty()).then(|| format!("{home} has: {}", known.join(", ")));
    }
    problem
}

/// Adds the offset to every port, so that several clusters fit on one machine with the same files.
fn shift_ports(config: &mut Config, offset: u16) -> Result<(), Box<Problem>> {
    let server = &mut config.server;
    let doors = [
        &mut server.resp_addr,
        &mut server.cluster_addr,
        &mut server.http_addr,
        &mut server.grpc_addr,
        &mut config.node.gossip_addr,
    ];
    let doors = doors.into_iter().filter_map(|door| match door {
        Listen::At(endpoint) => Some(endpoint),
        Listen::Off => None,
    });
    for endpoint in doors.chain([&mut config.node.bind_addr]).chain(&mut config.cluster.seeds) {
        endpoint.port = endpoint.port.checked_add(offset).ok_or_else(|| {
            Box::new(Problem {
                origin: Origin::Flag("--port-offset".to_owned()),
                code: Code::BadValue,
                message: format!("{endpoint} shifted by {offset} is above the last port, 65535"),
                remedy: None,
            })
        })?;
    }
    Ok(())
}

impl Config {
    /// How many nodes a fresh cluster begins with.
    pub fn initial_nodes(&self) -> u64 {
        self.cluster.seeds.len().max(1) as u64
    }

    /// Copies of every group on a fresh cluster.
    pub fn replication_factor(&self) -> u64 {
        self.cluster.replication_factor.or(self.initial_nodes().min(3))
    }

    /// Data groups of a fresh cluster.
    pub fn groups(&self) -> u64 {
        self.cluster.groups.or(if self.initial_nodes() == 1 { 1 } else { 8 })
    }

    /// Threads that serve connections.
    pub fn workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        self.server.workers.or(cores as u64) as usize
    }

    /// The data limit of this node in bytes, on this machine.
    pub fn max_memory_bytes(&self) -> u64 {
        self.cache.max_memory.of(available_memory()).bytes()
    }

    /// The peer address that others use for this node. Where `bind_addr` stands for every address and no
    /// `advertise_host` is set, the seed that belongs to this machine is taken, which may block for a name look-up.
    pub fn advertised(&self) -> Endpoint {
        let node = &self.node;
        let port = node.bind_addr.port;
        let host = if !node.advertise_host.is_empty() {
            node.advertise_host.clone()
        } else if node.bind_addr.is_wildcard() {
            self.seed_of_this_machine().map_or_else(|| "127.0.0.1".to_owned(), |seed| seed.host.clone())
        } else {
            node.bind_addr.host.clone()
        };
        Endpoint { host, port }
    }

    /// This node's place among the seeds, if it is one of them. Blocks as [`Config::advertised`] does.
    pub fn seed_index(&self) -> Option<usize> {
        let own = self.advertised();
        self.cluster.seeds.iter().position(|seed| *seed == own)
    }

    /// Binding a datagram socket to port 0 sends nothing and succeeds for this machine's own addresses only.
    fn seed_of_this_machine(&self) -> Option<&Endpoint> {
        let port = self.node.bind_addr.port;
        let candidates = self.cluster.seeds.iter().filter(|seed| seed.port == port);
        candidates.into_iter().find(|seed| std::net::UdpSocket::bind((seed.host.as_str(), 0)).is_ok())
    }
}

/// Every setting with its meaning and its default, as a file that could be used as it is (`configs/every-key.yaml`).
pub fn every_key() -> String {
    let mut out = String::from(
        "# Every setting with its default. Written by `hypercache config defaults`; a test keeps it fresh.\n\
         # Sizes: B, KB, MB, GB, TB (powers of 1024). Durations: us, ms, s, m, h, d.\n\
         # HYPERCACHE__SECTION__KEY in the environment wins over a file, --set section.key=value over both.\n",
    );
    let defaults = Config::default();
    for section in SECTIONS {
        out.push('\n');
        section.doc.iter().for_each(|line| out.push_str(&format!("#{line}\n")));
        out.push_str(&format!("{}:\n", section.name));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            key.doc.iter().for_each(|line| out.push_str(&format!("  #{line}\n")));
            out.push_str(&format!("  {}: {}\n", key.name, (key.show)(&defaults)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_flag_wins_over_the_environment_which_wins_over_the_default() {
        let sources = Sources {
            environment: environment(&[
                ("HYPERCACHE__NODE__ID", "env"),
                ("HYPERCACHE__LOGGING__LEVEL", "debug"),
                ("HOME", "/"),
            ]),
            flags: vec!["node.id=flag".to_owned()],
            ..Sources::default()
        };
        let loaded = load(&sources).unwrap();
        assert_eq!(loaded.config.node.id.to_string(), "flag");
        assert_eq!(loaded.config.logging.level.0, "debug");
        assert_eq!(loaded.origin("node.id").to_string(), "flag --set node.id");
        assert_eq!(loaded.origin("logging.level").to_string(), "environment HYPERCACHE__LOGGING__LEVEL");
        assert_eq!(loaded.origin("raft.heartbeat_interval_ms"), Origin::Default);
        assert!(loaded.print(true).contains("# environment HYPERCACHE__LOGGING__LEVEL"));
    }

    #[test]
    fn the_environment_is_held_to_the_same_rules() {
        let sources = Sources {
            environment: environment(&[("HYPERCACHE__STORAGE__SNYC", "no"), ("HYPERCACHE__SERVER", "x")]),
            flags: vec!["node.data_dir".to_owned()],
            ..Sources::default()
        };
        let text = load(&sources).unwrap_err().to_string();
        assert!(text.contains("environment HYPERCACHE__STORAGE__SNYC: there is no setting storage.snyc"), "{text}");
        assert!(text.contains("did you mean storage.sync?"), "{text}");
        assert!(text.contains("server is a section"), "{text}");
        assert!(text.contains("expected section.key=value"), "{text}");
        assert!(text.ends_with("3 problems"), "{text}");
    }

    #[test]
    fn a_password_is_taken_as_it_is_and_never_printed() {
        let flags = vec!["security.requirepass= 0123=x".to_owned()];
        let loaded = load(&Sources { flags, ..Sources::default() }).unwrap();
        assert_eq!(loaded.config.security.requirepass.reveal(), Some(" 0123=x"));
        let told = format!("{}{:?}", loaded.print(true), loaded);
        assert!(!told.contains("0123"), "{told}");
    }

    #[test]
    fn an_offset_shifts_every_port_and_the_seeds() {
        let flags = vec!["cluster.seeds=127.0.0.1:7000,127.0.0.1:7001".to_owned(), "server.grpc_addr=off".to_owned()];
        let loaded = load(&Sources { flags: flags.clone(), port_offset: 100, ..Sources::default() }).unwrap();
        let ports: Vec<u16> = loaded.config.listeners().iter().map(|(_, endpoint)| endpoint.port).collect();
        assert_eq!(ports, [7100, 6479, 6579, 8180]);
        assert_eq!(loaded.config.seed_index(), Some(0));
        let far = load(&Sources { flags, port_offset: 60_000, ..Sources::default() }).unwrap_err();
        assert!(far.to_string().contains("above the last port"), "{far}");
    }

    #[test]
    fn what_is_automatic_follows_the_seeds() {
        let alone = Config::default();
        assert_eq!((alone.replication_factor(), alone.groups(), alone.seed_index()), (1, 1, None));
        let flags = vec!["cluster.seeds=a:1,b:1,c:1,d:1,e:1".to_owned()];
        let five = load(&Sources { flags, ..Sources::default() }).unwrap().config;
        assert_eq!((five.replication_factor(), five.groups(), five.initial_nodes()), (3, 8, 5));
    }

    #[test]
    fn a_node_that_listens_everywhere_finds_itself_among_the_seeds() {
        let mut config = Config::default();
        config.node.bind_addr.host = "0.0.0.0".to_owned();
        assert_eq!(config.advertised().to_string(), "127.0.0.1:7000");
        let seed = |host: &str| Endpoint { host: host.to_owned(), port: 7000 };
        // 192.0.2.0/24 is set aside for documentation and belongs to nobody.
        config.cluster.seeds = vec![seed("192.0.2.1"), seed("127.0.0.1")];
        assert_eq!(config.seed_index(), Some(1));
        config.node.advertise_host = "192.0.2.1".to_owned();
        assert_eq!(config.seed_index(), Some(0));
    }
}
