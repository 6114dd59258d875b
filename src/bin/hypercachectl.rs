//! The operator's program. Reads the command line, has `ctl` do it, prints what came of it; all else is in `ctl`.

use clap::Parser;
use hypercache::ctl::{self, Cli};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!(
                "error[HC-3000]: the program could not start its runtime: {error}\n  remedy: the system is out \
                       of files or threads; see `ulimit -a`"
            );
            return ExitCode::from(ctl::trouble::EXIT_FAILED);
        }
    };
    match runtime.block_on(ctl::run(&cli)) {
        Ok(output) => {
            show(&output);
            ExitCode::SUCCESS
        }
        Err(trouble) => {
            show(trouble.output.as_deref().unwrap_or_default());
            eprintln!("{trouble}");
            ExitCode::from(trouble.exit)
        }
    }
}

/// A reader that has gone away (`| head`) is not an error.
fn show(output: &str) {
    let _ = std::io::stdout().write_all(output.as_bytes());
}
