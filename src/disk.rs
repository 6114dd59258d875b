//! The disk's watermarks and its ballast.
//!
//! Below the low watermark writes are refused, before the disk is full and while reads go on; above the resume
//! watermark they are taken again, without a restart. The ballast is a file that only takes room: it is let go when
//! the disk runs out in spite of all, so that votes and membership can still be written, and taken back afterwards.

use crate::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is watched.
pub struct Disk {
    dir: PathBuf,
    low: u64,
    resume: u64,
    ballast: u64,
}

/// What to do about writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Take,
    Refuse,
    /// Between the watermarks: as before.
    Keep,
}

impl Disk {
    /// Bytes each; `resume` is above `low`.
    pub fn new(dir: &Path, low: u64, resume: u64, ballast: u64) -> Disk {
        Disk { dir: dir.to_owned(), low, resume: resume.max(low), ballast }
    }

    /// Looks at the disk and sees to the ballast.
    pub fn check(&self) -> io::Result<Verdict> {
        let free = env::files::free_disk_bytes(&self.dir)?;
        let file = self.dir.join("ballast");
        if free < self.low / 4 && file.exists() {
            fs::remove_file(&file)?;
        } else if free > self.resume + self.ballast && self.ballast > 0 && !file.exists() {
            self.fill(&file)?;
        }
        Ok(verdict(free, self.low, self.resume))
    }

    fn fill(&self, file: &Path) -> io::Result<()> {
        // Written, not only sized: a hole would take no room.
        let chunk = vec![0xB5u8; 1 << 20];
        let mut out = fs::File::create(file)?;
        let mut left = self.ballast as usize;
        while left > 0 {
            let n = left.min(chunk.len());
            io::Write::write_all(&mut out, &chunk[..n])?;
            left -= n;
        }
        out.sync_all()
    }
}

fn verdict(free: u64, low: u64, resume: u64) -> Verdict {
    if free < low {
        Verdict::Refuse
    } else if free >= resume {
        Verdict::Take
    } else {
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_below_the_low_mark_and_go_on_above_the_other() {
        assert_eq!(verdict(99, 100, 150), Verdict::Refuse);
        assert_eq!(verdict(120, 100, 150), Verdict::Keep);
        assert_eq!(verdict(150, 100, 150), Verdict::Take);
    }

    #[test]
    fn the_ballast_is_there_while_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(dir.path(), 1, 2, 3 << 20);
        assert_eq!(disk.check().unwrap(), Verdict::Take);
        assert_eq!(fs::metadata(dir.path().join("ballast")).unwrap().len(), 3 << 20);
    }
}
