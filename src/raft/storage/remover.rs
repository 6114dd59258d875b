//! Table files that RocksDB drops, given back to the file system bit by bit.
//!
//! RocksDB unlinks a file when it is done with it, all of it at once ([`crate::env::files`] says what that costs). So a file
//! that is about to be dropped gets a second name here first, and what is left when RocksDB is done shrinks slowly. The bytes
//! of a file that RocksDB has still are never touched: its own name is there then, and this one is simply taken away.

use crate::env::{self, files};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

pub(super) struct Remover {
    dir: PathBuf,
    tx: mpsc::Sender<Caught>,
}

/// A file with a name of our own beside RocksDB's.
pub(super) struct Caught {
    ours: PathBuf,
    theirs: PathBuf,
}

impl Remover {
    /// Empties `dir`, which holds nothing but what an end of the process left behind, and starts the thread that removes. It
    /// ends when the remover is gone; what it has not done by then is done at the next start.
    pub fn start(dir: PathBuf) -> io::Result<Remover> {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir(&dir)?,
        }
        let (tx, rx) = mpsc::channel::<Caught>();
        env::spawn_thread("file-remover", move || {
            for Caught { ours, theirs } in rx {
                if let Err(e) = files::remove_bit_by_bit(&ours, &theirs) {
                    tracing::warn!(file = %ours.display(), error = %e, "a file that is not needed any more was not removed; the next start tries again");
                }
            }
        });
        Ok(Remover { dir, tx })
    }

    /// Gives a file a second name, unless the file system knows no such thing: then it goes at once, as ever.
    pub fn catch(&self, file: &Path) -> Option<Caught> {
        let caught = Caught { ours: self.dir.join(file.file_name()?), theirs: file.to_owned() };
        fs::hard_link(file, &caught.ours).ok().map(|()| caught)
    }

    /// What was caught has been dropped.
    pub fn remove(&self, caught: Caught) {
        // The thread ends after the last sender, which is here.
        let _ = self.tx.send(caught);
    }
}
