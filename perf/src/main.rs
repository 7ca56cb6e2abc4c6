//! The performance harness: the limit a node can reach on this machine, the load to measure with,
//! and the comparison of engines under equal conditions.

mod cli;
mod compare;
mod engines;
mod error;
mod hist;
mod keys;
mod limit;
mod load;
mod probe;
mod record;
mod resp;
mod ring;
#[allow(dead_code)] // read by `run` and `compare` from the next commits on
mod spec;
mod stats;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    sys::catch_stop_signals();
    sys::raise_descriptor_limit();
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ringkeep-perf: {e}");
            ExitCode::FAILURE
        }
    }
}
