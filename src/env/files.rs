//! What the system does with files, beyond what the standard library asks of it.
//!
//! The log is synced many times a second, and each sync waits for the transaction of the file system's journal that is under
//! way. Whatever makes that one large, a file of hundreds of megabytes that is synced or removed at once, holds up everybody
//! whose write is in the log: such files are written through as they grow ([`WriteBehind`]) and shrink before they
//! go ([`remove_bit_by_bit`]). See docs/decisions/0023.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// Bytes that lie in the system's memory at most, twice over, before they are on their way to the disk.
const BEHIND_BYTES: usize = 1 << 20;
/// Bytes of a file that are given back at once, and how long the next ones wait.
const REMOVED_AT_ONCE: u64 = 4 << 20;
const REMOVAL_REST: Duration = Duration::from_millis(20);

/// Sees to it that a large file reaches the disk while it is written, so that little is left when it is synced.
pub struct WriteBehind {
    /// None: the file system takes no such hints.
    file: Option<File>,
    waiting: usize,
}

impl WriteBehind {
    /// For the file of this name, which somebody else writes.
    pub fn of(path: &Path) -> io::Result<WriteBehind> {
        Ok(WriteBehind { file: Some(File::open(path)?), waiting: 0 })
    }

    /// Told of each write. Waits for the disk where it is slower than the writer; nothing is durable by that. Where the system
    /// knows no such thing it does nothing: whoever writes syncs in the end anyway.
    ///
    /// # Errors
    /// When bytes that were written cannot be stored.
    pub fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.waiting += bytes;
        let Some(file) = self.file.as_ref().filter(|_| self.waiting >= BEHIND_BYTES) else { return Ok(()) };
        self.waiting = 0;
        let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
        if unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !error.raw_os_error().is_some_and(knows_no_hints) {
            return Err(error);
        }
        self.file = None;
        Ok(())
    }
}

/// Whether an error says that the system or this kind of file takes no hints, and nothing of the bytes.
fn knows_no_hints(error: i32) -> bool {
    [libc::ENOSYS, libc::EINVAL, libc::EOPNOTSUPP, libc::ESPIPE].contains(&error)
}

/// Removes a file that nobody reads any more, a few megabytes at a time. One that has other names keeps its bytes: `other` is the
/// one that it had, as not every file system counts names. Blocks.
pub fn remove_bit_by_bit(path: &Path, other: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let file = File::options().write(true).open(path)?;
    let about = file.metadata()?;
    if about.nlink() == 1 && !other.try_exists()? {
        let mut left = about.len();
        while left > REMOVED_AT_ONCE {
            left -= REMOVED_AT_ONCE;
            file.set_len(left)?;
            super::source::pause(REMOVAL_REST);
        }
    }
    std::fs::remove_file(path)
}

/// Bytes that are free for this process on the file system of `path`.
pub fn free_disk_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero bytes are a valid statvfs, which is plain integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a NUL and `stat` is valid for the call to fill.
    match unsafe { libc::statvfs(path.as_ptr(), &mut stat) } {
        0 => Ok(stat.f_bavail * stat.f_frsize),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises how many files this process may have open to what the system lets it have, and gives that.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to fill.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the call only reads `limit`.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(limit.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where the first bytes from here on lie for which the file system has nothing stored; the size of the file if there are
/// none, or if the file system does not tell.
pub fn next_hole(file: &File, from: u64) -> io::Result<u64> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    match unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, libc::SEEK_HOLE) } {
        ..0 => Err(io::Error::last_os_error()),
        at => Ok(at as u64),
    }
}

/// Gives these bytes of a file back to the file system; they read as zeros, and its size stays.
#[cfg(test)]
pub fn punch_hole(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, from as libc::off_t, bytes as libc::off_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let few = libc::rlimit { rlim_cur: 100, rlim_max: 200 };
        // SAFETY: the call only reads `few`. Tests are processes of their own.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) }, 0);
        assert_eq!(raise_open_files().unwrap(), 200);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["200", "200"]);
    }

    #[test]
    fn a_removed_file_is_gone_and_one_with_another_name_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let bytes = vec![7; 3 * REMOVED_AT_ONCE as usize + 5];
        std::fs::write(&one, &bytes).unwrap();
        let mut behind = WriteBehind::of(&one).unwrap();
        behind.wrote(bytes.len()).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let third = dir.path().join("third");
        remove_bit_by_bit(&one, &third).unwrap();
        assert!(!one.exists());
        assert!(std::fs::read(&other).unwrap() == bytes, "whoever has the other name has all of it");
        // A file system that says of every file that it has one name.
        std::fs::write(&one, &bytes).unwrap();
        let reads = File::open(&one).unwrap();
        remove_bit_by_bit(&one, &other).unwrap();
        assert!(!one.exists());
        assert_eq!(reads.metadata().unwrap().len(), bytes.len() as u64, "whoever had it open has all of it");
        let shrinks = File::open(&other).unwrap();
        remove_bit_by_bit(&other, &one).unwrap();
        assert!(!other.exists());
        assert_eq!(shrinks.metadata().unwrap().len(), 5, "bit by bit");
        assert_eq!(remove_bit_by_bit(&other, &one).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn where_nobody_takes_hints_writing_goes_on() {
        // No regular file: it refuses to be written through.
        let mut behind = WriteBehind::of(Path::new("/dev/null")).unwrap();
        behind.wrote(BEHIND_BYTES).unwrap();
        assert!(behind.file.is_none(), "it is not asked again");
        behind.wrote(BEHIND_BYTES).unwrap();
        assert!(knows_no_hints(libc::ENOSYS) && knows_no_hints(libc::EINVAL));
        assert!(!knows_no_hints(libc::EIO) && !knows_no_hints(libc::ENOSPC), "those are about the bytes");
    }
}
