//! The performance harness: the limit a node can reach on this machine, the load to measure with,
//! and the comparison of engines under equal conditions.

mod cli;
mod client;
mod cluster;
mod compare;
mod drive;
mod engines;
mod error;
mod failover;
mod generator;
mod hist;
mod keys;
mod limit;
mod load;
mod probe;
mod progress;
mod record;
mod report;
mod request;
mod resp;
mod ring;
mod scenario;
mod spec;
mod stats;
mod summary;
mod svg;
mod sys;
mod verify;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    sys::catch_stop_signals();
    sys::raise_descriptor_limit();
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Standard error may be closed; the exit status still tells.
            let _ = writeln!(std::io::stderr(), "ringkeep-perf: {e}");
            ExitCode::FAILURE
        }
    }
}
