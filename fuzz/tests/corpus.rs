//! What is committed as a corpus, as it is and changed at random, without a fuzzer. `MUTATIONS` says how often.

use fastrand::Rng;
use hypercache_fuzz::nasty::Nasty;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

#[test]
fn no_target_minds_its_corpus() {
    let mutations = std::env::var("MUTATIONS").map_or(2000, |text| text.parse().expect("a number"));
    let mut nasty = Nasty::new(Rng::with_seed(1));
    for (name, run) in hypercache_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        inputs.sort();
        assert!(inputs.len() > 2, "{name} has {} inputs", inputs.len());
        run(b"");
        for turn in 0..inputs.len() + mutations {
            let mut input = inputs[turn % inputs.len()].clone();
            if turn >= inputs.len() {
                nasty.mutate(&mut input);
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&input))) {
                eprintln!("{name} minds b\"{}\"", input.escape_ascii());
                resume_unwind(panic);
            }
        }
    }
}
