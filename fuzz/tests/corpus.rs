//! What is committed as a corpus, without a fuzzer.

use std::path::Path;

#[test]
fn no_target_minds_its_corpus() {
    for (name, run) in hypercache_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs = 0;
        for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            run(&std::fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 2, "{name} has {inputs} inputs");
        run(b"");
    }
}
