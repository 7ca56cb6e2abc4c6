//! Under which conditions numbers came about, and the files that keep both. A record names no place
//! of the machine it was taken on: [`Mask`] puts placeholders there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::engines::Places;
use crate::error::Error;
use crate::progress::tell;

/// All that is kept of one comparison.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this layout; [`FORMAT`].
    pub format: u32,
    /// The command that made it: `compare`, `cluster` or `failover`.
    pub what: String,
    /// Whether it ran to its end.
    pub complete: bool,
    /// Where and when.
    pub context: Context,
    /// Who took part.
    pub engines: Vec<Known>,
    /// Who did not, and why.
    pub skipped: Vec<Skipped>,
    /// What was measured.
    pub scenarios: Vec<Note>,
    /// What broke; there are no rows of these, but those of failovers until then.
    pub failures: Vec<Failure>,
    /// What came out.
    pub rows: Vec<Row>,
}

/// An engine as a record knows it.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// What it says when asked for its version.
    pub version: String,
    /// How it was started the first time.
    pub command: String,
}

/// An engine that did not take part.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// Its name.
    pub engine: String,
    /// In which scenario; empty for all.
    pub scenario: String,
    /// Why.
    pub why: String,
}

/// A measurement that came to nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The scenario.
    pub scenario: String,
    /// The cell.
    pub cell: String,
    /// The engine.
    pub engine: String,
    /// The round, from 1.
    pub round: usize,
    /// What happened.
    pub why: String,
    /// Last lines of the server's output, when it ended by itself.
    pub log: Vec<String>,
}

/// A scenario as a record knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Its name.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// What it watches and what would fool it.
    pub analysis: String,
    /// The figures that count.
    pub metrics: Vec<String>,
    /// Which CPUs were whose.
    pub placement: Vec<Placement>,
    /// The whole scenario as it was run.
    pub definition: serde_json::Value,
}

/// Which CPUs were whose.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// Cores of the engines.
    pub cores: usize,
    /// Their CPUs.
    pub server_cpus: Vec<usize>,
    /// The load's.
    pub load_cpus: Vec<usize>,
}

/// One turn of one engine.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The scenario.
    pub scenario: String,
    /// The cell.
    pub cell: String,
    /// The engine.
    pub engine: String,
    /// The round, from 1.
    pub round: usize,
    /// Cores of the engine.
    pub cores: usize,
    /// The figures; names end in their units.
    pub metrics: BTreeMap<String, f64>,
}

/// Makes a row.
#[cfg(test)]
pub fn row<'a>(
    scenario: &str,
    cell: &str,
    engine: &str,
    round: usize,
    cores: usize,
    metrics: impl IntoIterator<Item = (&'a str, f64)>,
) -> Row {
    Row {
        scenario: scenario.into(),
        cell: cell.into(),
        engine: engine.into(),
        round,
        cores,
        metrics: metrics
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// All numbers of a report. Those within a part get its name before theirs, but for `latency`.
///
/// # Errors
/// [`Error::Record`].
pub fn numbers(report: &impl Serialize) -> Result<BTreeMap<String, f64>, Error> {
    fn collect(value: &serde_json::Value, prefix: &str, into: &mut BTreeMap<String, f64>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            match value.as_f64() {
                Some(number) => drop(into.insert(format!("{prefix}{name}"), number)),
                None if name == "latency" => collect(value, prefix, into),
                None => collect(value, &format!("{prefix}{name}_"), into),
            }
        }
    }
    let mut numbers = BTreeMap::new();
    let report = serde_json::to_value(report).map_err(Error::Record)?;
    collect(&report, "", &mut numbers);
    Ok(numbers)
}

impl Record {
    /// An empty one.
    pub fn new(what: &str, context: Context) -> Record {
        Record {
            format: FORMAT,
            what: what.into(),
            complete: false,
            context,
            engines: Vec::new(),
            skipped: Vec::new(),
            scenarios: Vec::new(),
            failures: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Reads one back.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Data`] for a damaged one or one of another layout.
    pub fn read(path: &Path) -> Result<Record, Error> {
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        let record: Record = serde_json::from_str(&text).map_err(Error::data(path))?;
        if record.format != FORMAT {
            let reason = format!("layout {} where {FORMAT} is understood", record.format);
            return Err(Error::data(path)(reason));
        }
        Ok(record)
    }

    /// Writes `<out>/<machine>/<date>-<what>.json` and `.csv`, over those written before; returns
    /// their paths.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, out: &Path, mask: &Mask) -> Result<[PathBuf; 2], Error> {
        let dir = out.join(&self.context.machine);
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
        let mut value = serde_json::to_value(self).map_err(Error::Record)?;
        mask.value(&mut value);
        let json = json(&value).map_err(Error::Record)?;
        let texts = [("json", json), ("csv", self.csv())];
        let mut paths = [PathBuf::new(), PathBuf::new()];
        for ((extension, text), place) in texts.into_iter().zip(&mut paths) {
            let path = dir.join(format!("{}-{}.{extension}", self.context.date, self.what));
            // Whole or not at all: a kill in between leaves the last state.
            let part = path.with_extension("part");
            fs::write(&part, text).map_err(Error::file(&part))?;
            fs::rename(&part, &path).map_err(Error::file(&path))?;
            *place = path;
        }
        Ok(paths)
    }

    /// The rows, one line each, with a column for every figure that any of them holds.
    fn csv(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in self.rows.iter().flat_map(|row| row.metrics.keys()) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let mut text = format!("scenario,cell,cores,engine,round,{}\n", names.join(","));
        for row in &self.rows {
            let _ = write!(text, "{},\"{}\",{}", row.scenario, row.cell, row.cores);
            let _ = write!(text, ",{},{}", row.engine, row.round);
            for name in &names {
                match row.metrics.get(*name) {
                    Some(value) => drop(write!(text, ",{}", rounded(*value))),
                    None => text.push(','),
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Indented, but one line for each row.
fn json(record: &serde_json::Value) -> Result<String, serde_json::Error> {
    let mut head = record.clone();
    let rows = head["rows"].take();
    let lines = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(serde_json::to_string);
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    let head = serde_json::to_string_pretty(&head)?;
    Ok(head.replace(
        "\"rows\": null",
        &format!("\"rows\": [\n{}\n  ]", lines.join(",\n")),
    ) + "\n")
}

fn rounded(value: f64) -> f64 {
    let digits = 10f64.powi(5 - value.abs().max(1.0).log10() as i32);
    if digits < 1.0 {
        value.round()
    } else {
        (value * digits).round() / digits
    }
}

/// Replaces places of this machine by placeholders.
pub struct Mask {
    known: Vec<(String, &'static str)>,
}

impl Mask {
    /// Knows the places of the engines, and the working directory.
    pub fn new(places: &Places) -> Mask {
        let mut known = Vec::new();
        let mut add = |path: &Path, name| {
            let text = path.to_string_lossy();
            if path.is_absolute() && text.len() > 1 {
                known.push((text.trim_end_matches('/').to_owned(), name));
            }
        };
        add(&places.peers, "{peers}");
        if let Some(here) = places.this.parent() {
            add(here, "{here}");
        }
        for dir in &places.path {
            add(dir, "{bin}");
        }
        if let Ok(work) = std::env::current_dir() {
            add(&work, "{work}");
        }
        known.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
        Mask { known }
    }

    /// The text without absolute paths: known ones get their placeholder, others `{path}` and their
    /// last name.
    pub fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('/') {
            let (before, path) = rest.split_at(at);
            out.push_str(before);
            let starts = !out.ends_with(goes_on);
            let len = path.find(|c| !goes_on(c)).unwrap_or(path.len());
            let path = &path[..len];
            rest = &rest[at + len..];
            let is_path = starts && path.len() > 1 && !path.starts_with("//");
            if is_path {
                out.push_str(&self.path(path));
            } else {
                out.push_str(path);
            }
        }
        out + rest
    }

    fn path(&self, path: &str) -> String {
        for (place, name) in &self.known {
            if let Some(rest) = path.strip_prefix(place.as_str())
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return format!("{name}{rest}");
            }
        }
        let last = path
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or_default();
        format!("{{path}}/{last}")
    }

    /// The same for every text of a JSON value.
    fn value(&self, value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = self.text(text),
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            serde_json::Value::Object(fields) => {
                fields.values_mut().for_each(|field| self.value(field));
            }
            _ => {}
        }
    }
}

/// A character within a path. A colon, a comma and brackets end one.
fn goes_on(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '~' | '+' | '@' | '*' | '}')
}

/// The machine and the source at the time of a comparison.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
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
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Mitigations of processor flaws, as the kernel lists them.
    pub mitigations: Vec<String>,
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
            memory_bytes: memory_bytes(),
            mitigations: mitigations(),
            commit: commit(),
            congestion,
            flags,
        }
    }
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn mitigations() -> Vec<String> {
    let entries = fs::read_dir("/sys/devices/system/cpu/vulnerabilities");
    let mut lines: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let text = text.trim();
            let name = entry.file_name().to_string_lossy().into_owned();
            (text != "Not affected").then(|| format!("{name}: {text}"))
        })
        .collect();
    lines.sort();
    lines
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
            tell!("congestion control: {name} already");
        } else if let Err(e) = fs::write(CONGESTION, name) {
            tell!(
                "congestion control: stays {before} at the engines' ends, {name} at ours ({CONGESTION}: {e})"
            );
        } else {
            tell!("congestion control: {name} for this run, {before} again afterwards");
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

/// Version of the layout of [`Record`].
const FORMAT: u32 = 1;
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn mask() -> Mask {
        Mask::new(&Places {
            this: "/src/target/release/ringkeep-perf".into(),
            peers: "/far/off/peers".into(),
            path: vec!["/usr/bin".into()],
        })
    }

    #[test]
    fn a_record_names_no_place_of_the_machine() {
        for (text, want) in [
            (
                "taskset -c 0 /usr/bin/redis-server --dir {dir}",
                "taskset -c 0 {bin}/redis-server --dir {dir}",
            ),
            ("/far/off/peers/kevy-7/bin/kevy", "{peers}/kevy-7/bin/kevy"),
            ("/far/off/peers2/k", "{path}/k"),
            (
                "no (tried /src/target/release/ringkeep, a/b)",
                "no (tried {here}/ringkeep, a/b)",
            ),
            (
                "--out=/var/tmp/new/ and 'get:set=9:1/16'",
                "--out={path}/new and 'get:set=9:1/16'",
            ),
            (
                "http://host/page, ns / request, 1/2",
                "http://host/page, ns / request, 1/2",
            ),
            ("{dir}/log /", "{dir}/log /"),
            ("/far/off/peers/k-*/bin/k", "{peers}/k-*/bin/k"),
        ] {
            assert_eq!(mask().text(text), want);
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let out = std::env::temp_dir().join(format!("ringkeep-perf-record-{}", std::process::id()));
        let mut record = Record::new(
            "compare",
            Context::gather("cubic".into(), vec!["/tmp/a".into()]),
        );
        record.rows = vec![
            row("s", "c/1", "e", 1, 1, [("ops_per_s", 123_456.789)]),
            row("s", "c/1", "f", 1, 1, [("p50_us", 0.125)]),
        ];
        let [json, csv] = record.write(&out, &mask()).expect("written");
        let read = Record::read(&json).expect("read");
        let text = fs::read_to_string(&csv).expect("read");
        let _ = fs::remove_dir_all(&out);
        assert_eq!(read.context.flags, ["{path}/a"]);
        assert_eq!(read.rows[0].metrics["ops_per_s"], 123_456.789);
        let want = "scenario,cell,cores,engine,round,ops_per_s,p50_us\n\
            s,\"c/1\",1,e,1,123457,\ns,\"c/1\",1,f,1,,0.125\n";
        assert_eq!(text, want);
    }

    #[test]
    fn numbers_are_found_in_parts_too() {
        let report = serde_json::json!({
            "a": 1, "delivery": { "p50_us": 2.5, "d": "text" }, "e": null, "latency": { "p50_us": 3 }
        });
        let found: Vec<(String, f64)> = numbers(&report).expect("numbers").into_iter().collect();
        let found: Vec<(&str, f64)> = found
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            found,
            [("a", 1.0), ("delivery_p50_us", 2.5), ("p50_us", 3.0)]
        );
    }

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00-00-00");
        assert_eq!(at(951_782_400), "2000-02-29T00-00-00");
        assert_eq!(at(1_709_251_199), "2024-02-29T23-59-59");
        assert_eq!(at(1_735_689_600), "2025-01-01T00-00-00");
    }
}
