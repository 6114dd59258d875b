//! The network of a run: one host a node, and what can be done to the links between them.
//!
//! As root each node gets a network namespace with one end of a veth pair; the other ends are on a bridge, and so is this
//! process, which therefore reaches every node whatever is done between them. Without root nodes listen on loopback
//! addresses of their own and no link can be cut.
//!
//! Everything is named after this process (`hcj<pid>`). It is removed by a guard: a shell that waits for the end of a pipe
//! whose other end this process holds. So it is removed after a crash and a kill as well.

use anyhow::{Context, Result, bail, ensure};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Runs a program to its end; a failure is an error that tells its output.
pub fn must(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command:?}: {}{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| std::path::Path::new(folder).join(program).is_file())
}

/// What cutting links takes.
pub const PROGRAMS: &[&str] = &["ip", "nft", "nsenter"];

/// What is dropped between two nodes, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub from: usize,
    pub to: usize,
    /// Of a hundred packets.
    pub percent: u8,
}

pub enum Net {
    Namespaces { name: String, subnet: u8, nodes: usize, guard: Guard },
    Loopback { second: u8, third: u8 },
}

impl Net {
    /// Namespaces where that is possible.
    pub fn make(nodes: usize, namespaces: bool) -> Result<Net> {
        let pid = std::process::id();
        if !namespaces {
            return Ok(Net::Loopback { second: 16 + (pid >> 8) as u8 % 200, third: pid as u8 });
        }
        let name = format!("hcj{pid}");
        let subnet = free_subnet()?;
        let guard = Guard::start(&name, nodes)?;
        let net = Net::Namespaces { name: name.clone(), subnet, nodes, guard };
        ip(&["link", "add", &name, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", net.address(254)), "dev", &name])?;
        ip(&["link", "set", &name, "up"])?;
        for n in 1..=nodes {
            let (space, outer, inner) = (net.space(n), format!("{name}o{n}"), format!("{name}i{n}"));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner])?;
            ip(&["link", "set", &inner, "netns", &space])?;
            ip(&["link", "set", &outer, "master", &name, "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{}/24", net.address(n)), "dev", &inner])?;
            ip(&["-n", &space, "link", "set", &inner, "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(net)
    }

    pub fn address(&self, n: usize) -> Ipv4Addr {
        match self {
            Net::Namespaces { subnet, .. } => Ipv4Addr::new(10, 214, *subnet, n as u8),
            Net::Loopback { second, third } => Ipv4Addr::new(127, *second, *third, n as u8),
        }
    }

    pub fn can_cut(&self) -> bool {
        matches!(self, Net::Namespaces { .. })
    }

    fn space(&self, n: usize) -> String {
        match self {
            Net::Namespaces { name, .. } => format!("{name}n{n}"),
            Net::Loopback { .. } => String::new(),
        }
    }

    /// The device of a node inside its namespace.
    pub fn device(&self, n: usize) -> String {
        match self {
            Net::Namespaces { name, .. } => format!("{name}i{n}"),
            Net::Loopback { .. } => "lo".to_owned(),
        }
    }

    /// A command on a node's host. nsenter and not `ip netns exec`, which would copy the mounts and so keep a file system
    /// alive whose power was cut.
    pub fn on_host(&self, n: usize, program: impl Into<PathBuf>) -> Command {
        match self {
            Net::Namespaces { .. } => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{}", self.space(n))).arg(program.into());
                command
            }
            Net::Loopback { .. } => Command::new(program.into()),
        }
    }

    /// Drops packets between nodes, until [`Net::heal`]. Cuts that were there before are replaced.
    pub fn cut(&self, cuts: &[Cut]) -> Result<()> {
        self.heal()?;
        for to in 1..=self.nodes() {
            let rules: Vec<String> = cuts
                .iter()
                .filter(|cut| cut.to == to)
                .map(|cut| match cut.percent {
                    100 => format!("ip saddr {} counter drop;", self.address(cut.from)),
                    p => format!("ip saddr {} numgen random mod 100 < {p} counter drop;", self.address(cut.from)),
                })
                .collect();
            if !rules.is_empty() {
                let table = format!(
                    "table ip {TABLE} {{\nchain arriving {{\ntype filter hook input priority 0;\n{}\n}}\n}}\n",
                    rules.join("\n")
                );
                must(self.on_host(to, "nft").arg(table))?;
            }
        }
        Ok(())
    }

    /// Packets that were dropped since the links were cut.
    pub fn dropped(&self) -> Result<u64> {
        let mut sum = 0;
        for n in self.tables()? {
            let text = must(self.on_host(n, "nft").args(["list", "table", "ip", TABLE]))?;
            sum += text
                .split("counter packets ")
                .skip(1)
                .filter_map(|t| t.split(' ').next()?.parse::<u64>().ok())
                .sum::<u64>();
        }
        Ok(sum)
    }

    /// Takes every cut back.
    pub fn heal(&self) -> Result<()> {
        for n in self.tables()? {
            must(self.on_host(n, "nft").args(["delete", "table", "ip", TABLE]))?;
        }
        Ok(())
    }

    /// The nodes that have cuts.
    fn tables(&self) -> Result<Vec<usize>> {
        let mut having = Vec::new();
        for n in 1..=self.nodes() {
            if must(self.on_host(n, "nft").args(["list", "tables"]))?.contains(TABLE) {
                having.push(n);
            }
        }
        Ok(having)
    }

    /// Hosts that can be cut off.
    fn nodes(&self) -> usize {
        match self {
            Net::Namespaces { nodes, .. } => *nodes,
            Net::Loopback { .. } => 0,
        }
    }

    /// Has the guard unmount this, too, if nobody else has by then.
    pub fn guard_mount(&mut self, at: &std::path::Path) -> Result<()> {
        match self {
            Net::Namespaces { guard, .. } => guard.tell(&format!("umount -l '{}'", at.display())),
            Net::Loopback { .. } => bail!("only root mounts disks"),
        }
    }
}

/// The name of our table in each namespace.
const TABLE: &str = "jepsen_cut";

fn ip(words: &[&str]) -> Result<String> {
    must(Command::new("ip").args(words))
}

/// A third byte of 10.214.x.0/24 that no interface of this machine uses.
fn free_subnet() -> Result<u8> {
    let taken = ip(&["-o", "addr"])?;
    let first = std::process::id() as u8;
    (0..=255u8)
        .map(|i| first.wrapping_add(i))
        .find(|s| !taken.contains(&format!(" 10.214.{s}.")))
        .context("no free subnet")
}

/// The shell that cleans up after this process.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// It reads lines until the pipe ends, runs them then as commands, last first, and removes the network.
    fn start(name: &str, nodes: usize) -> Result<Guard> {
        let script = format!(
            "trap '' INT TERM HUP\nlines=\nwhile read -r line; do lines=\"$line\n$lines\"; done\neval \"$lines\"\n\
             for n in $(seq {nodes}); do ip netns del {name}n$n; ip link del {name}o$n; done\nip link del {name}\n"
        );
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Guard { child: command.spawn().context("the guard that cleans up")? })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        use std::io::Write;
        let pipe = self.child.stdin.as_mut().context("the guard has ended")?;
        writeln!(pipe, "{line}").context("the guard does not listen")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
