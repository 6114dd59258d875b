//! Logs reach their file, as JSON if asked for, and their level changes while the process runs.

use hypercache::config::{self, Sources};
use hypercache::telemetry;

/// One test: logging is started once a process.
#[test]
fn the_level_changes_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.log");
    let flags = ["console=false", "format=json", "rotation=never", &format!("file={}", file.display())];
    let flags = flags.iter().map(|flag| format!("logging.{flag}")).collect();
    let loaded = config::load(&Sources { flags, ..Sources::default() }).unwrap();
    assert!(telemetry::set_level("debug").is_err(), "nothing has been started");

    let guard = telemetry::start(&loaded.config.logging).unwrap();
    tracing::debug!(event = "first", "not yet");
    telemetry::set_level("info,telemetry=debug").unwrap();
    assert!(telemetry::set_level("loud").is_err());
    assert_eq!(telemetry::level().as_deref(), Some("info,telemetry=debug"));
    tracing::debug!(event = "second", "now");
    assert!(telemetry::start(&loaded.config.logging).is_err());
    drop(guard);

    let written = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{written}");
    assert_eq!((lines[0]["event"].as_str(), lines[0]["level"].as_str()), (Some("second"), Some("DEBUG")));
}
