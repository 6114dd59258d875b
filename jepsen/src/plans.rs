//! Which workloads meet which nemeses: all of them for a proof, a few for every test run.

/// Every nemesis meets a workload that would notice what it could break; every workload meets several nemeses.
pub const ALL: &[(&str, &str)] = &[
    ("register", "none"),
    ("register", "kill"),
    ("register", "pause"),
    ("register", "partition-leader"),
    ("register", "partition-halves"),
    ("register", "partition-bridge"),
    ("register", "partition-ring"),
    ("register", "partition-one-way"),
    ("register", "partition-flap"),
    ("register", "loss"),
    ("register", "connections"),
    ("register", "bandwidth"),
    ("register", "transfer"),
    ("register", "fsync-slow"),
    ("register", "storm"),
    ("register", "members"),
    ("register", "members-cut"),
    ("register", "slots-kill"),
    ("register", "groups"),
    ("append", "kill"),
    ("append", "partition-leader"),
    ("append", "partition-one-way"),
    ("append", "loss"),
    ("append", "transfer"),
    ("append", "restart"),
    ("append", "fsync-kill"),
    ("append", "storm"),
    ("append", "members-cut"),
    ("append", "slots"),
    ("append", "slots-kill"),
    ("append", "groups"),
    ("set", "kill-all"),
    ("set", "power"),
    ("set", "power-all"),
    ("set", "disk-full"),
    ("set", "fsync-error"),
    ("set", "fsync-lie"),
    ("set", "snapshot"),
    ("set", "members-cut"),
    ("set", "slots-kill"),
    ("set", "groups"),
    ("counter", "connections"),
    ("counter", "partition-flap"),
    ("counter", "transfer"),
    ("counter", "disk-full"),
    ("counter", "restart"),
    ("counter", "kill"),
    ("counter", "members-cut"),
    ("counter", "slots-kill"),
    ("mset", "kill"),
    ("mset", "partition-halves"),
    ("mset", "snapshot"),
    ("mset", "power"),
    ("ttl", "kill"),
    ("ttl", "kill-all"),
    ("ttl", "pause"),
    ("ttl", "clock-jump"),
    ("ttl", "clock-strobe"),
    ("ttl", "transfer"),
    ("ttl", "snapshot"),
    ("ttl", "slots-kill"),
    ("levels", "partition-leader"),
    ("levels", "partition-one-way"),
    ("levels", "partition-ring"),
    ("levels", "pause"),
    ("levels", "kill-all"),
    ("levels", "restart"),
    ("levels", "snapshot"),
    ("levels", "storm"),
    ("levels", "members"),
    ("levels", "slots-kill"),
    ("lock", "kill"),
    ("lock", "pause"),
    ("lock", "clock-jump"),
    ("lock", "partition-leader"),
    ("bank", "kill"),
    ("bank", "partition-leader"),
    ("bank", "power"),
    ("bank", "transfer"),
    ("bank", "members"),
    ("bank", "slots"),
    ("queue", "kill"),
    ("queue", "partition-leader"),
    ("queue", "connections"),
    ("queue", "transfer"),
    ("queue", "slots"),
    ("watch", "kill"),
    ("watch", "pause"),
    ("watch", "partition-leader"),
    ("watch", "transfer"),
    ("watch", "slots-kill"),
    ("eviction", "none"),
    ("eviction", "kill"),
    ("eviction", "kill-all"),
    ("eviction", "pause"),
    ("eviction", "partition-leader"),
    ("eviction", "transfer"),
    ("eviction", "restart"),
    ("eviction", "snapshot"),
    ("eviction", "members-cut"),
    ("eviction", "slots-kill"),
];

/// What a test run can afford: each workload once, against faults of different kinds.
pub const SLICE: &[(&str, &str)] = &[
    ("register", "partition-leader"),
    ("append", "kill"),
    ("set", "power-all"),
    ("ttl", "clock-jump"),
    ("levels", "pause"),
    ("counter", "connections"),
    ("bank", "partition-halves"),
    ("queue", "kill"),
    ("watch", "transfer"),
    ("mset", "slots"),
    ("lock", "members"),
    ("eviction", "snapshot"),
];

/// Seconds of each run of the slice.
pub const SLICE_TIME: u64 = 14;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nemeses, workloads};

    #[test]
    fn plans_name_what_there_is_and_leave_nothing_out() {
        let (workloads, nemeses) = (workloads::all(), nemeses::all());
        for (workload, nemesis) in ALL.iter().chain(SLICE) {
            assert!(workloads.iter().any(|w| w.name() == *workload), "{workload}");
            assert!(nemeses.iter().any(|n| n.name() == *nemesis), "{nemesis}");
        }
        assert!(workloads.iter().all(|w| ALL.iter().any(|(name, _)| *name == w.name())));
        assert!(nemeses.iter().all(|n| ALL.iter().any(|(_, name)| *name == n.name())));
    }
}
