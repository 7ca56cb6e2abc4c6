//! The log: lines on standard error.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes a line to the log, which is standard error, with the time.
pub fn log(line: &str) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let (secs, millis) = (now.as_secs(), now.subsec_millis());
    let (hours, minutes, seconds) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    eprintln!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z {line}");
}
