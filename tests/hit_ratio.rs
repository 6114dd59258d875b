//! The server's own eviction policies on public request traces, held to the hit ratios of reference simulators.

#[path = "hit_ratio/mod.rs"]
mod simulator;

use hypercache::state::eviction::Kind;
use simulator::{PAIRS, hit_ratio, load};

/// Points of hit ratio by which a policy may differ from its reference.
const TOLERANCE: f64 = 0.5;
/// What s3-fifo may lose to ten changes of leader, each of which forgets everything. The worst is the largest cache on the
/// shortest trace: its leaders change before the ghosts of the one before are replaced.
const WIPES_COST: f64 = 1.6;

#[test]
fn s3_fifo_and_sampled_lru_hit_as_often_as_their_references() {
    for (name, width, share, lru, s3) in PAIRS {
        let Some(trace) = load(name, *width) else {
            println!("{name} is not beside the checkout: not measured");
            continue;
        };
        let ratio = |kind, wipes| hit_ratio(&trace, *share, kind, wipes);
        let near = |found: f64, wanted: f64| (found - wanted).abs() <= TOLERANCE;
        let (found_lru, found_s3) = (ratio(Kind::AllkeysLru, 0), ratio(Kind::S3Fifo, 0));
        let wiped = ratio(Kind::S3Fifo, 10);
        println!(
            "{name} {share}: lru {found_lru:.2} ({lru}), s3-fifo {found_s3:.2} ({s3}), wiped ten times {wiped:.2}"
        );
        assert!(near(found_lru, *lru), "{name} {share}: sampled LRU {found_lru:.2}, the reference has {lru}");
        assert!(near(found_s3, *s3), "{name} {share}: s3-fifo {found_s3:.2}, the reference has {s3}");
        assert!(wiped >= s3 - WIPES_COST, "{name} {share}: wiped ten times {wiped:.2}, the reference has {s3} without");
    }
}

/// No trace needed: few keys that come again and again among many that come once.
#[test]
fn every_policy_but_random_and_fifo_keeps_what_is_asked_for_often() {
    let mut draws = 1u64;
    let mut draw = move || {
        draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        draws >> 33
    };
    let trace: Vec<u32> =
        (0..200_000u32).map(|n| if draw() % 2 == 0 { (draw() % 500) as u32 } else { 500 + n % 50_000 }).collect();
    let share = 1_000.0 / 50_500.0;
    let baseline = hit_ratio(&trace, share, Kind::AllkeysRandom, 0);
    for (kind, gain) in [(Kind::S3Fifo, 10.0), (Kind::AllkeysLfu, 10.0), (Kind::AllkeysLru, 2.0), (Kind::Session, 2.0)]
    {
        let found = hit_ratio(&trace, share, kind, 0);
        assert!(found > baseline + gain, "{}: {found:.2}, random has {baseline:.2}", kind.name());
    }
}
