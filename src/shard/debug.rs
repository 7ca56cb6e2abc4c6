//! DEBUG: what tests of clients need.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{conn::Conn, requests::Work, session::unknown_subcommand, state::State};
use crate::{
    base::parse_f64,
    cmd::{self, Run, Spec},
    resp::{Args, Error},
};

/// Longest that one DEBUG SLEEP stops its core.
const SLEEP_MAX: f64 = 3600.0;

impl State {
    /// DEBUG. `waits`: its reply may wait for another core.
    pub(super) fn debug(&mut self, conn: &mut Conn, spec: &Spec, args: Args<'_>, waits: bool) {
        let sub = args.at(1).to_ascii_uppercase();
        match (&sub[..], args.len()) {
            (b"SLEEP", 3) => {
                let seconds = parse_f64(args.at(2)).unwrap_or(0.0);
                super::log(&format!(
                    "client {}: DEBUG SLEEP {seconds}",
                    conn.peer_text()
                ));
                std::thread::sleep(Duration::from_secs_f64(seconds.clamp(0.0, SLEEP_MAX)));
                conn.out.ok();
            }
            (b"SET-ACTIVE-EXPIRE", 3) => {
                let on = args.at(2) != b"0";
                self.shared.expires_by_itself.store(on, Relaxed);
                conn.out.ok();
            }
            (b"CHANGE-REPL-ID", 2) => conn.out.ok(),
            (b"ERROR", 3) => {
                let text = String::from_utf8_lossy(args.at(2)).into_owned();
                conn.out.error(&Error::text(text));
            }
            (b"LOG", 3) => {
                super::log(&format!("DEBUG LOG: {}", args.at(2).escape_ascii()));
                conn.out.ok();
            }
            (b"OBJECT", 3 | 4) if waits => {
                if let Run::Store(run) = cmd::DEBUG_OBJECT.run {
                    self.store_request(conn, &cmd::DEBUG_OBJECT, Work::Store(run), &args);
                }
            }
            (b"OBJECT", 3 | 4) => conn.out.error(&Error::fixed(
                "ERR DEBUG OBJECT is not available inside a transaction",
            )),
            (b"HELP", 2) => cmd::help(&mut conn.out, spec),
            _ => unknown_subcommand(conn, "debug", args),
        }
    }
}
