//! Under which conditions numbers came about, and the files that keep both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::Error;

/// The machine and the source at the time of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Context {
    /// UTC, `2026-01-31T12-59-59`, fit for a file name.
    pub date: String,
    /// Host name.
    pub machine: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub cpu: String,
    /// Number of processors online.
    pub cpus: usize,
    /// Commit of the working directory, with `+` when files differ from it; empty outside of git.
    pub commit: String,
    /// Congestion control of the engines' ends.
    pub congestion: String,
    /// The command line.
    pub flags: Vec<String>,
}

impl Context {
    /// Gathers it.
    pub fn gather(congestion: String, flags: Vec<String>) -> Context {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        Context {
            date: utc(SystemTime::now()),
            machine: line_of("/proc/sys/kernel/hostname"),
            kernel: line_of("/proc/sys/kernel/osrelease"),
            cpu: model
                .unwrap_or("unknown")
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            commit: commit(),
            congestion,
            flags,
        }
    }
}

/// Where a record is written: `<out>/<machine>/<date>-<what>`, without extension.
///
/// # Errors
/// [`Error::File`] when the directory cannot be made.
pub fn place(out: &Path, context: &Context, what: &str) -> Result<PathBuf, Error> {
    let dir = out.join(&context.machine);
    fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    Ok(dir.join(format!("{}-{what}", context.date)))
}

/// Writes one file of a record; `extension` without dot.
///
/// # Errors
/// [`Error::File`].
pub fn write(place: &Path, extension: &str, text: &str) -> Result<PathBuf, Error> {
    let mut path = place.as_os_str().to_owned();
    path.push(".");
    path.push(extension);
    let path = PathBuf::from(path);
    fs::write(&path, text).map_err(Error::file(&path))?;
    Ok(path)
}

/// The system's congestion control set to one name for all engines, and put back when dropped.
pub struct Congestion {
    before: String,
    /// What new sockets use now.
    pub now: String,
}

impl Congestion {
    /// Tries to set it and says what came of it.
    pub fn set(name: &str) -> Congestion {
        let before = line_of(CONGESTION);
        if before == name {
            println!("congestion control: {name} already");
        } else if let Err(e) = fs::write(CONGESTION, name) {
            println!(
                "congestion control: stays {before} at the engines' ends, {name} at ours ({CONGESTION}: {e})"
            );
        } else {
            println!("congestion control: {name} for this run, {before} again afterwards");
        }
        Congestion {
            before,
            now: line_of(CONGESTION),
        }
    }
}

impl Drop for Congestion {
    fn drop(&mut self) {
        if self.now != self.before
            && let Err(e) = fs::write(CONGESTION, &self.before)
        {
            eprintln!(
                "congestion control could not be put back to {}: {e}",
                self.before
            );
        }
    }
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = output.status.success().then_some(output.stdout)?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return String::new();
    };
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if dirty { commit + "+" } else { commit }
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn utc(at: SystemTime) -> String {
    let seconds = at
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{:02}",
        second % 60
    )
}

/// Date of a day number since 1970 in the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let len = if is_leap(year) { 366 } else { 365 };
        if days < len {
            break;
        }
        days -= len;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for len in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    (year, month, days + 1)
}

const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00-00-00");
        assert_eq!(at(951_782_400), "2000-02-29T00-00-00");
        assert_eq!(at(1_709_251_199), "2024-02-29T23-59-59");
        assert_eq!(at(1_735_689_600), "2025-01-01T00-00-00");
    }
}
