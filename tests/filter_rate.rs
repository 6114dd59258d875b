//! A small slice of `examples/filter_rate.rs`, which measures the keyspace's cuckoo filter at full size.

#[path = "../examples/filter_rate.rs"]
#[allow(dead_code, reason = "the measuring program's own door and clock are not used here")]
mod filter_rate;

use filter_rate::Space;
use hypercache::state::Precision;

/// With so many slots a million keys lie as dense as ten million in a keyspace.
const SLOTS: usize = 1639;

#[test]
fn a_filter_keeps_its_rate_and_forgets_no_key() {
    for rate in [0.001, 0.01, 0.05] {
        let mut space = Space::new(Precision::for_rate(rate).unwrap(), SLOTS);
        space.fill(1_000_000);
        let fresh = space.findings(2_000_000);
        space.churn(2_000_000, 3_000_000);
        space.copies(100);
        for findings in [fresh, space.findings(2_000_000)] {
            assert_eq!(findings.false_negatives, 0, "{findings}");
            assert!(findings.rate <= rate, "{findings}");
            assert!(findings.rate > rate / 4.0, "the filters are fuller than they say: {findings}");
            assert!(findings.present > 900_000, "{findings}");
            assert!(rate != 0.01 || findings.bits_per_key <= 11.0, "{findings}");
        }
    }
}
