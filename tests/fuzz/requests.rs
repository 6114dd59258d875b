//! What is asked: commands of our tables that Redis has, too, with what is sent by mistake or malice.

use super::Ours;
use super::meant::{self, not_asked};
use super::nasty::{Choices, Nasty, is_large};
use crate::redis::Redis;
use bytes::Bytes;
use fastrand::Rng;
use hypercache::commands::{self, Command};
use hypercache::resp::{Args, Reply};
use hypercache::state::Keyspace;
use std::collections::BTreeSet;

/// Requests from a seed.
pub struct Requests {
    nasty: Nasty<Rng>,
    table: Vec<(String, &'static Command)>,
    tried: u64,
    /// Whether both servers go by one clock.
    one_clock: bool,
    /// Nothing is in it: it is asked what a call adds at most.
    empty: Keyspace,
}

fn args(words: &[&str]) -> Args {
    words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect()
}

/// Whether it might wait; it does not inside of a transaction.
pub fn waits(request: &Args) -> bool {
    commands::by_name(&request[0])
        .is_some_and(|command| command.blocks.is_some() || command.spec.name.starts_with("wait"))
}

impl Requests {
    /// `takes` says which kinds of commands there are on our side.
    pub fn new(seed: u64, redis: &mut Redis, ours: &impl Ours) -> Requests {
        let known = |name: &str, redis: &mut Redis| !matches!(redis.answer(&args(&["COMMAND", "INFO", name])), Reply::Array(found) if matches!(found[..], [Reply::Nil | Reply::NilArray]));
        let table = commands::all()
            .filter(|(name, command)| {
                ours.takes(name, command) && !meant::is_left_out(name, command) && known(name, redis)
            })
            .collect();
        let mut nasty = Nasty::new(Rng::with_seed(seed));
        nasty.far = true;
        Requests { nasty, table, tried: 0, one_clock: ours.goes_by_redis(), empty: Keyspace::new(7) }
    }

    /// Commands that are asked for.
    pub fn commands(&self) -> usize {
        self.table.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len()
    }

    /// Requests that were asked, those about transactions left out.
    pub fn tried(&self) -> u64 {
        self.tried
    }

    /// About `size` requests. Some commands are asked more often than others, each time different ones.
    pub fn batch(&mut self, size: usize) -> Vec<Args> {
        let choose = |rng: &mut Rng, table: &[_]| rng.usize(..table.len());
        let few: Vec<_> = (0..40).map(|_| self.table[choose(&mut self.nasty.choices, &self.table)].clone()).collect();
        let mut batch = Vec::new();
        // Requests until a transaction ends.
        let mut open: Option<usize> = None;
        while batch.len() < size {
            match &mut open {
                Some(0) => {
                    batch.push(args(&[if self.nasty.choices.one_in(8) { "discard" } else { "exec" }]));
                    open = None;
                }
                Some(left) => *left -= 1,
                None if self.nasty.choices.one_in(40) => {
                    if self.nasty.choices.one_in(3) {
                        batch.push(args(&["watch", "s", "h"]));
                    }
                    batch.push(args(&["multi"]));
                    open = Some(self.nasty.choices.below(5));
                }
                None => {}
            }
            let request = self.request(if batch.len() % 3 == 0 { None } else { Some(&few) }, open.is_some());
            self.tried += 1;
            if waits(&request) && open.is_none() {
                batch.extend([args(&["multi"]), request, args(&["exec"])]);
            } else {
                batch.push(request);
            }
        }
        if open.is_some() {
            batch.push(args(&["exec"]));
        }
        batch
    }

    fn request(&mut self, few: Option<&[(String, &'static Command)]>, inside: bool) -> Args {
        loop {
            let request = self.nasty.request(few.unwrap_or(&self.table));
            let large = is_large(&request, commands::growth(&request, &self.empty, &mut |_| 0));
            if !large && !not_asked(&request, inside || !self.one_clock) {
                return request;
            }
        }
    }
}
