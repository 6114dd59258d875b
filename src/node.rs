//! Stand-in for the wiring.

/// Stand-in.
pub fn run(config: crate::config::Config) -> anyhow::Result<()> {
    anyhow::bail!("{} has nothing to run yet", config.node.id)
}
