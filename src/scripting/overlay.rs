//! What a script sees and changes: copies of the keys it touches, in a scratch keyspace that is thrown away.
//!
//! A key is copied from the group's state when a command first names it, with its version; from then on the script's own
//! writes are what it reads. Nothing here changes the group: the write commands that ran are kept as the *effects*, and
//! become one call of a log entry that is applied only if every version is still what it was (`commands::effects`).
//!
//! Invariants: every key that an effect names was copied before the effect ran, so its version is watched; the scratch
//! keyspace stands at one clock throughout; calls draw with the seeds they will have when they are applied.
//!
//! Commands about all keys look at the group itself, less what the script removed and with what it added; the whole
//! group's version counter is then watched, too.

use crate::commands::effects::{self, Effects};
use crate::commands::{self, Command, Keys, Run, Scope};
use crate::resp::{Args, Reply};
use crate::state::{Entry, Keyspace, Packing, Seen, View};
use crate::types::Millis;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where copies come from: the state of the group. Each call looks at the state of its own moment.
pub trait Source {
    /// Living entries of the keys at this clock, all of one moment, in their order.
    fn entries(&self, keys: &[Bytes], clock: Millis) -> Vec<Option<Entry>>;
    /// Runs `look` on the state.
    fn with(&self, look: &mut dyn FnMut(&Keyspace));
}

/// See the head of this file.
pub struct Overlay {
    source: Box<dyn Source>,
    scratch: Keyspace,
    clock: Millis,
    seed: u64,
    /// Scripts that have begun.
    runs: u64,
    /// Keys that were copied, with what was seen of them then.
    seen: BTreeMap<Bytes, Seen>,
    whole: Option<u64>,
    /// The script removed every key: nothing is copied any more.
    cleared: bool,
    calls: Vec<Args>,
    /// Bytes of `calls`, and what was charged.
    kept: u64,
    replies: Vec<Reply>,
    /// The state changed under the script in a way that shows already: it will have to run again.
    torn: bool,
}

/// Bytes of copies and of effects after which no more commands run: one more than that is always taken.
const BYTES_MAX: u64 = 256 << 20;

/// Draws of RANDOMKEY before the script's own keys are drawn from.
const RANDOM_TRIES: usize = 32;

impl Overlay {
    /// Nothing is copied yet. `clock` is what the script will take for the present, `seed` what its commands draw with.
    pub fn new(source: Box<dyn Source>, clock: Millis, seed: u64) -> Overlay {
        let (mut hash_seed, mut packing) = (0, Packing::default());
        source.with(&mut |keyspace| (hash_seed, packing) = (keyspace.hash_seed(), keyspace.packing()));
        let mut scratch = Keyspace::new(hash_seed);
        scratch.set_packing(packing);
        scratch.advance(&effects::stamp_of(clock, seed, 0));
        Overlay {
            source,
            scratch,
            clock,
            seed,
            runs: 0,
            seen: BTreeMap::new(),
            whole: None,
            cleared: false,
            calls: Vec::new(),
            kept: 0,
            replies: Vec::new(),
            torn: false,
        }
    }

    /// What the script takes for the present, by the group's clock.
    pub fn clock(&self) -> Millis {
        self.clock
    }

    /// A seed for what a script draws by itself: another one for each script of the overlay.
    pub fn seed(&self) -> u32 {
        let mixed = (self.seed ^ self.runs.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed >> 32) as u32
    }

    /// Another script begins.
    pub fn next_run(&mut self) {
        self.runs += 1;
    }

    /// How many writes have run.
    pub fn writes(&self) -> usize {
        self.calls.len()
    }

    /// Counts bytes that are kept elsewhere for what runs here.
    pub fn charge(&mut self, bytes: u64) {
        self.kept += bytes;
    }

    /// Bytes of copies and of effects.
    fn bytes(&self) -> u64 {
        self.scratch.used_bytes() + self.kept
    }

    /// Whether another script should rather begin on an overlay of its own.
    pub fn is_large(&self) -> bool {
        self.bytes() > BYTES_MAX / 16
    }

    /// What was seen and done, and the replies that the writes had.
    pub fn into_effects(self) -> (Effects, Vec<Reply>) {
        let watches = self.seen.into_iter().collect();
        let form = self.scratch.packing().digest();
        let (clock, seed, whole, calls) = (self.clock, self.seed, self.whole, self.calls);
        let effects = Effects { clock, seed, form, whole, watches, calls };
        (effects, self.replies)
    }

    /// Whether the script saw states that cannot have been at one moment: its result must not count.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Copies keys that were not touched yet, all at one moment.
    pub fn touch<'a>(&mut self, keys: impl Iterator<Item = &'a Bytes>) {
        if self.cleared {
            return;
        }
        let mut fresh: Vec<Bytes> = keys.filter(|key| !self.seen.contains_key(*key)).cloned().collect();
        fresh.sort_unstable();
        fresh.dedup();
        if fresh.is_empty() {
            return;
        }
        let entries = self.source.entries(&fresh, self.clock);
        for (key, entry) in fresh.into_iter().zip(entries) {
            let seen = entry.as_ref().map_or(Seen::Absent, |entry| Seen::Version(entry.as_ref().version()));
            self.seen.insert(key, seen);
            if let Some(entry) = entry {
                self.scratch.adopt(entry);
            }
        }
    }

    /// Copies watched keys; whether they are as they were seen when they began to be watched. If so, the effects depend
    /// on it: what is compared here is compared again where they are applied.
    pub fn watch(&mut self, watches: &[(Bytes, Seen)]) -> bool {
        self.touch(watches.iter().map(|(key, _)| key));
        let mut unchanged = false;
        self.source.with(&mut |keyspace| unchanged = watches.iter().all(|(key, seen)| keyspace.is_as_seen(key, *seen)));
        for (key, watched) in watches {
            let Some(seen) = self.seen.get_mut(key) else { return false };
            match (*seen, *watched) {
                (Seen::Absent, Seen::AbsentSince(_)) => *seen = *watched,
                _ => unchanged &= seen == watched,
            }
        }
        unchanged
    }

    /// Runs a command that reads or writes keys; its syntax is checked here. `command` is what `args` names.
    pub fn run(&mut self, command: &'static Command, args: &Args) -> Reply {
        if self.bytes() > BYTES_MAX {
            return Reply::error("ERR the script touches more than scripts may (256 MiB)");
        }
        match command.run {
            Run::Read(run) => match is_whole(command) {
                true => self.look_at_all(command, args),
                false => {
                    self.touch_all(command, args);
                    run(args, &View::new(&self.scratch, None))
                }
            },
            Run::Write(run) => {
                if let Err(refused) = (command.check)(args) {
                    return refused;
                }
                match is_whole(command) {
                    true => self.clear_all(),
                    false => self.touch_all(command, args),
                }
                let (before, at) = (self.scratch.version(), self.calls.len());
                let stamp = effects::stamp_of(self.clock, self.seed, at);
                let reply = run(args, &mut self.scratch, &stamp);
                // What changed nothing here will change nothing there.
                if self.scratch.version() != before || is_whole(command) {
                    self.kept += args.iter().map(|arg| arg.len() as u64).sum::<u64>();
                    self.calls.push(args.clone());
                    self.replies.push(reply.clone());
                }
                reply
            }
            _ => Reply::error("ERR only reads and writes of keys run on a state"),
        }
    }

    /// Copies the keys of a command, those that patterns of SORT name among them.
    fn touch_all(&mut self, command: &Command, args: &Args) {
        self.touch(commands::keys(command, args));
        if !commands::sort::reaches_elsewhere(command, args) {
            return;
        }
        loop {
            let looked_at = commands::sort::looks_at(args, &self.scratch);
            let before = self.seen.len();
            self.touch(looked_at.iter());
            if self.seen.len() == before {
                return;
            }
        }
    }

    /// FLUSHALL: what the group holds does not matter any more.
    fn clear_all(&mut self) {
        self.cleared = true;
    }

    fn watch_all(&mut self, version: u64) {
        self.torn |= self.whole.is_some_and(|known| known != version);
        self.whole = Some(version);
    }

    /// A command about all keys: on the group's own state, with what the script did put in.
    fn look_at_all(&mut self, command: &'static Command, args: &Args) -> Reply {
        let Run::Read(run) = command.run else { return Reply::error("ERR only reads can be run on a view") };
        let own = |overlay: &Overlay| run(args, &View::new(&overlay.scratch, None));
        if self.cleared {
            return own(self);
        }
        let (mut theirs, mut version, mut replaced) = (Reply::Nil, 0, 0);
        let seen = &self.seen;
        let random = command.spec.name == "randomkey";
        self.source.with(&mut |keyspace| {
            version = keyspace.version();
            let view = View::new(keyspace, None);
            for _ in 0..RANDOM_TRIES {
                theirs = run(args, &view);
                let drawn = matches!(&theirs, Reply::Bulk(key) if seen.contains_key(key));
                if !(random && drawn) {
                    break;
                }
            }
            // Dead keys that were not swept count in DBSIZE, copied or not.
            replaced = seen.keys().filter(|key| keyspace.locate(key).is_some()).count() as i64;
        });
        self.watch_all(version);
        match (command.spec.name, theirs) {
            ("dbsize", Reply::Int(count)) => Reply::Int(count - replaced + self.scratch.len() as i64),
            ("randomkey", Reply::Bulk(key)) if !self.seen.contains_key(&key) => Reply::Bulk(key),
            ("randomkey", _) => own(self),
            ("keys", Reply::Array(found)) => {
                let mut found = self.without_seen(found);
                if let Reply::Array(more) = own(self) {
                    found.extend(more);
                }
                Reply::Array(found)
            }
            ("scan", Reply::Array(mut page)) => {
                // Who came during a scan need not be in it; who went must not.
                if let Some(Reply::Array(found)) = page.get_mut(1) {
                    found.retain(|key| match key {
                        Reply::Bulk(key) => !self.seen.contains_key(key) || self.scratch.contains(key),
                        _ => true,
                    });
                }
                Reply::Array(page)
            }
            (_, theirs) => theirs,
        }
    }

    fn without_seen(&self, found: Vec<Reply>) -> Vec<Reply> {
        let unseen = |reply: &Reply| !matches!(reply, Reply::Bulk(key) if self.seen.contains_key(key));
        found.into_iter().filter(unseen).collect()
    }
}

/// Whether a command is about the group as a whole, not about keys that it names.
fn is_whole(command: &Command) -> bool {
    matches!(command.spec.keys, Keys::None) && matches!(command.spec.scope, Scope::AllGroups(_) | Scope::Cursor)
}
