//! Signals, sent and received: how the demo is asked to stop, and how it asks its children.
//!
//! The unsafe calls of the demo are here and nowhere else.

use std::io;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C or SIGTERM.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// From here on the two signals no longer end this process by themselves.
    pub fn listen() -> io::Result<Stop> {
        Ok(Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Ready each time one of them arrives.
    pub async fn asked(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Asks a child of ours to stop in order.
pub fn terminate(pid: u32) {
    // SAFETY: no memory is involved. The process id belongs to a child that has not been waited for, so it cannot have
    // been given to another process meanwhile.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

/// Makes a child stop when its parent is gone, even by SIGKILL, and keeps the terminal's Ctrl-C away from it.
///
/// The system ties this to the *thread* that starts the child, which therefore has to live as long as the demo.
pub fn tie_to_parent(command: &mut Command) {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}
