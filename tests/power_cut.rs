//! The power of all nodes is cut at once under load: after it comes back every acknowledged write is there.
//!
//! `HYPERCACHE_TEST_ROUNDS` (2), `HYPERCACHE_TEST_CONNECTIONS` (16). All data directories are on one ext4 file system in a
//! file (loop device), which is shut down in the middle of everything (EXT4_IOC_SHUTDOWN without flushing its log): what
//! was synced stays, everything else is gone. Needs root; skipped aloud otherwise.
//!
//! With real power the nodes' processors stop in the same instant. Here they run on for some milliseconds on a file system
//! that is shut down, and ext4 may tell a sync that is under way in that moment that it succeeded although it did not:
//! the blocks' conversion from unwritten fails without an error. (A loop of writes and syncs without HyperCache, 250 cuts:
//! of the syncs that returned before the cut none was lost, of 126 that returned after it 14 were.) So what must be there is what was acknowledged before
//! the cut began; what came in those milliseconds counts as unknown, and how much of it is gone is printed.

mod cluster;

use cluster::load::{Load, Roaming};
use cluster::{Plan, figures, installed, is_root, must, size, skipped, wait_until};
use hypercache::env;
use hypercache::resp::Reply;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ENOUGH: usize = 50;

/// `_IOR('X', 125, __u32)`: shuts an ext4 file system down at once.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Without flushing the journal first.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// A file system whose power can be cut.
struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
    mounted: bool,
}

impl Disk {
    fn make(folder: &Path) -> Disk {
        let disk = Disk { image: folder.join("disk"), mounted_at: folder.join("mnt"), mounted: false };
        let image = File::create(&disk.image).expect("a file can be made");
        image.set_len(1 << 30).expect("a sparse file needs no space");
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        std::fs::create_dir(&disk.mounted_at).expect("a directory can be made");
        disk
    }

    fn mount(&mut self) {
        must(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        // Processes that were just killed may hold it for a moment.
        wait_until("the disk can be unmounted", cluster::PATIENCE, || {
            Command::new("umount").arg(&self.mounted_at).status().is_ok_and(|s| s.success()).then_some(())
        });
        self.mounted = false;
        // Whoever copied the mounts meanwhile (a new mount namespace) keeps the dead file system alive, and mounting the
        // image again would bring it back.
        wait_until("the loop device is gone", cluster::PATIENCE, || {
            must(Command::new("losetup").arg("-j").arg(&self.image)).trim().is_empty().then_some(())
        });
    }

    fn cut_power(&self) {
        let folder = File::open(&self.mounted_at).expect("the mount point can be opened");
        let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
        // SAFETY: the descriptor is open, and the call reads one u32, which lives until after it.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN, &flags) };
        assert_eq!(done, 0, "the file system is shut down: {}", std::io::Error::last_os_error());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.mounted_at).status();
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_of_all_nodes_is_cut() {
    let missing = ["mkfs.ext4", "mount", "losetup"].into_iter().find(|program| !installed(program));
    if !is_root() || missing.is_some() {
        return skipped("power cuts", missing.unwrap_or("only root may mount"));
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let mut disk = Disk::make(folder.path());
    disk.mount();
    let rounds = size("HYPERCACHE_TEST_ROUNDS", 2);
    let connections = size("HYPERCACHE_TEST_CONNECTIONS", 16) as usize;
    // Snapshots and purges are under way when the power goes, too.
    let mut plan = Plan::new(3, 4).set("persistence.snapshot_log_bytes=256KB").set("persistence.log_lag_entries=50");
    plan = plan.set("persistence.snapshot_min_interval=0s").set("storage.ballast_size=1MB");
    plan.data = Some(disk.mounted_at.clone());
    let mut cluster = plan.set("storage.disk_low_watermark=16MB").set("storage.disk_resume_watermark=32MB").start();
    let mut times: Vec<Duration> = Vec::new();
    let mut before = Vec::new();
    for _ in 0..rounds {
        let load = Load::start(&cluster, connections, &cluster.proxies(&[1, 2, 3]), Roaming::Next);
        wait_until("every group takes writes", cluster::PATIENCE, || {
            (load.acked(&[1, 2, 3, 4]) >= ENOUGH).then_some(())
        });
        let cut = env::now();
        disk.cut_power();
        cluster.kill_all(&[1, 2, 3]);
        let mut written = load.stop();
        let after = written.distrust_after(cut);
        disk.unmount();
        disk.mount();
        let began = env::now();
        (1..=3).for_each(|n| cluster.start(n));
        cluster.wait_serving();
        times.push(began.elapsed());
        let mut client = cluster.client(1);
        let gone = after.iter().filter(|key| client.must(&["GET", key]) == Reply::Nil).count();
        println!("{} acknowledgements came after the cut, {gone} of these writes are gone", after.len());
        before.push(written);
        before.iter().for_each(|written| written.check(&cluster));
    }
    cluster.verify_replicas();
    println!("serving again after: {}", figures(times));
    // The nodes go before the disk that they stand on.
    drop(cluster);
    disk.unmount();
}
