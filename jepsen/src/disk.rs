//! A disk of a node's own: ext4 in a file, on a loop device. It can lose its power, and it can be full. Needs root.

use crate::net::must;
use crate::sys;
use anyhow::{Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub const PROGRAMS: &[&str] = &["mkfs.ext4", "mount", "umount", "losetup"];
/// How long a file system may stay busy after the processes on it are gone.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub struct Disk {
    image: PathBuf,
    pub mounted_at: PathBuf,
    mounted: bool,
}

impl Disk {
    /// Makes a disk in a folder and mounts it.
    pub fn make(folder: &Path, bytes: u64) -> Result<Disk> {
        let mut disk = Disk { image: folder.join("disk"), mounted_at: folder.join("mnt"), mounted: false };
        File::create(&disk.image)?.set_len(bytes)?;
        must(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image))?;
        std::fs::create_dir_all(&disk.mounted_at)?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<()> {
        must(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at))?;
        self.mounted = true;
        Ok(())
    }

    /// From here on nothing reaches the disk any more. The processes on it must be killed at once.
    pub fn cut_power(&self) -> Result<()> {
        sys::shut_down_ext4(&self.mounted_at)
    }

    /// Unmounts and mounts again: what comes back is what was synced. Whoever copied the mounts meanwhile (a new mount
    /// namespace) would keep the dead file system alive, so the loop device must be seen to go.
    pub fn restore_power(&mut self) -> Result<()> {
        wait_for("the disk can be unmounted", || must(Command::new("umount").arg(&self.mounted_at)).is_ok())?;
        self.mounted = false;
        wait_for("the loop device is gone", || {
            must(Command::new("losetup").arg("-j").arg(&self.image)).is_ok_and(|text| text.trim().is_empty())
        })?;
        self.mount()
    }
}

fn wait_for(what: &str, mut look: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // A moment after its processes were killed it may still be busy: lazily, then.
            let _ = must(Command::new("umount").arg("-l").arg(&self.mounted_at));
        }
        let _ = std::fs::remove_file(&self.image);
    }
}
