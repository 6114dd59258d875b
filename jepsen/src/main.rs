//! Black-box fault runs. A package of its own, so that it cannot link the server. Not built yet: until then the fault
//! tests are in `tests/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("jepsen: the fault runs are not built yet; `cargo test --release` runs the fault tests in tests/");
    ExitCode::FAILURE
}
