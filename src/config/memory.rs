//! How much memory this process may have: the machine's, or its control group's if that is less.
//!
//! Read once at start from `/proc` and `/sys/fs/cgroup` (both versions of control groups). What cannot be read does not
//! limit.

use super::values::{Memory, Size};
use std::path::Path;

/// Assumed where the system does not tell, in bytes.
const UNKNOWN_MACHINE: u64 = 1 << 30;

/// What this process may have, in bytes.
pub fn available() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| limit(&std::fs::read_to_string(file).ok()?));
    limits.chain(machine).min().unwrap_or(UNKNOWN_MACHINE)
}

impl Memory {
    /// The size on a machine that has `available` bytes.
    pub fn of(self, available: u64) -> Size {
        match self {
            Memory::Bytes(size) => size,
            Memory::Percent(share) => Size(available / 100 * u64::from(share)),
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A limit file's number; `max` is no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files that may limit a process whose `/proc/self/cgroup` reads so: its own group and the root that a container
/// sees.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files =
        vec!["/sys/fs/cgroup/memory.max".to_owned(), "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned()];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let group = group.trim_start_matches('/');
        if Path::new(group).components().any(|part| part.as_os_str() == "..") {
            continue;
        }
        if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup/{group}/memory.max"));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            files.push(format!("/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes"));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_and_limits_are_read() {
        assert_eq!(total("MemTotal:       16 kB\nMemFree: 3 kB\n"), Some(16384));
        assert_eq!((limit("max\n"), limit("1024\n")), (None, Some(1024)));
        let files = limit_files("0::/user.slice\n5:cpu,memory:/box\n3:cpu:/x\n");
        assert!(files.contains(&"/sys/fs/cgroup/user.slice/memory.max".to_owned()), "{files:?}");
        assert!(files.contains(&"/sys/fs/cgroup/memory/box/memory.limit_in_bytes".to_owned()), "{files:?}");
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn a_share_is_of_what_is_there() {
        assert_eq!(Memory::Percent(75).of(1000), Size(750));
        assert_eq!(Memory::Bytes(Size(9)).of(1000), Size(9));
    }
}
