//! The system calls that the standard library does not offer. The only file with `unsafe`; nothing here knows what it is
//! used for.
#![allow(unsafe_code)]

use anyhow::{Result, ensure};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Signals, by what they do to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Kill,
    Terminate,
    Freeze,
    Thaw,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Kill => libc::SIGKILL,
            Signal::Terminate => libc::SIGTERM,
            Signal::Freeze => libc::SIGSTOP,
            Signal::Thaw => libc::SIGCONT,
        }
    }
}

/// Sends a signal to a whole process group, whose leader is a child of ours that has not been waited for: its number
/// cannot belong to anybody else.
pub fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
    // SAFETY: kill touches no memory of this process.
    match unsafe { libc::kill(-(leader as libc::pid_t), signal.number()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the child killed when the thread that spawned it ends, also when this process is killed. So whoever spawns must
/// live as long as the child: the main thread.
pub fn dies_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `_IOR('X', 125, __u32)`: shuts an ext4 file system down at once.
const EXT4_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Without flushing the journal first.
const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// Shuts an ext4 file system down as a power cut would: what was synced stays, everything else is gone.
pub fn shut_down_ext4(mounted_at: &Path) -> Result<()> {
    let folder = File::open(mounted_at)?;
    let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
    // SAFETY: the descriptor is open, and the call reads one u32, which lives until after it.
    let done = unsafe { libc::ioctl(folder.as_raw_fd(), EXT4_IOC_SHUTDOWN, &flags) };
    ensure!(done == 0, "cutting the power of {}: {}", mounted_at.display(), io::Error::last_os_error());
    Ok(())
}
