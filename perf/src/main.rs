//! The performance harness: the limit a node can reach on this machine, the load to measure with,
//! and the comparison of engines under equal conditions.

/// Prints a line of the comparison. When nobody reads them any more, the comparison ends in order, as
/// after a signal, so that its servers are stopped.
macro_rules! say {
    ($($part:tt)*) => {
        if std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($part)*)))
            .is_err()
        {
            crate::sys::stop();
        }
    };
}

mod cli;
mod client;
mod cluster;
mod compare;
mod drive;
mod engines;
mod error;
mod hist;
mod keys;
mod limit;
mod load;
mod probe;
mod record;
mod report;
mod resp;
mod ring;
mod scenario;
#[allow(dead_code)] // `run` reads the rest of it from the next commits on
mod spec;
mod stats;
mod summary;
mod svg;
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
