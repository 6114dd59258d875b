//! Prints the hit ratios of all policies on the public traces, the reference's beside them, and what it costs to forget
//! everything ten times. Run it in release, from a checkout that has the traces beside it; a minute or two.

#[path = "../tests/hit_ratio/mod.rs"]
mod hit_ratio;

use hit_ratio::{PAIRS, load};
use hypercache::state::eviction::Kind;

fn main() {
    let kinds: Vec<Kind> = Kind::all().filter(|kind| *kind != Kind::NoEviction && !kind.volatile()).collect();
    print!("| trace, size |");
    kinds.iter().for_each(|kind| print!(" {} |", kind.name()));
    println!(" s3-fifo, wiped 10 times | allkeys-lru, wiped 10 times | reference: sampled LRU | reference: S3-FIFO |");
    println!("|---|{}", "--:|".repeat(kinds.len() + 4));
    for (name, width, share, lru, s3) in PAIRS {
        let Some(trace) = load(name, *width) else {
            println!("| {name} is not there |");
            continue;
        };
        print!("| {name}, {} % |", share * 100.0);
        kinds.iter().for_each(|kind| print!(" {:.2} |", hit_ratio::hit_ratio(&trace, *share, *kind, 0)));
        for kind in [Kind::S3Fifo, Kind::AllkeysLru] {
            print!(" {:.2} |", hit_ratio::hit_ratio(&trace, *share, kind, 10));
        }
        println!(" {lru:.2} | {s3:.2} |");
    }
}
