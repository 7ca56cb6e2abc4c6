//! What a durable write costs on a disk, in each way that a ring offers.
//!
//! One operation is one block written and made durable before the next begins, from one ring, at rising
//! offsets. Files are *extending* (each write makes them longer), *reserved* (space allocated before, never
//! written) or *written* (full of synced bytes, as a recycled segment is). Rounds of all cells alternate. CPU
//! is that of this process, the ring's worker threads included; what the file system does in threads of the
//! kernel is not in it.
//!
//! What would fool it: a disk that says durable and is not, a busy neighbour on the same disk, a host that
//! caches below a virtual disk, and one that gives a virtual machine its memory page by page: then the page
//! cache of a growing file is what is measured.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uring::durable::{DurableHow, DurableWriter};
use uring::sys;

pub fn run(folders: &[PathBuf]) {
    let Some(folder) = folders.first() else {
        println!("  left out: it wants a folder, as in `ringkeep-bench disk /var/tmp`");
        return;
    };
    let work = folder.join(format!("ringkeep-bench-{}", std::process::id()));
    let measured = fs::create_dir_all(&work).and_then(|()| measure(&work));
    // Left behind, it would fill the disk that was to be measured.
    if let Err(error) = fs::remove_dir_all(&work) {
        println!("  {} is still there: {error}", work.display());
    }
    let kept = measured.and_then(|rows| {
        print(&rows);
        folders
            .get(1)
            .map_or(Ok(()), |into| keep(&rows, folder, into))
    });
    if let Err(error) = kept {
        println!("  ended early: {error}");
    }
}

fn measure(work: &Path) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    // Apart, because a direct write throws out what the cache has of its file.
    let written = ["cached", "direct"].map(|kind| work.join(kind));
    written.iter().try_for_each(|path| fill(path))?;
    for round in 1..=ROUNDS {
        for len in LENS {
            for state in STATES {
                for way in WAYS {
                    let path = match state {
                        "written" => written[usize::from(way.starts_with("direct"))].clone(),
                        // Files stay until the end: removing one may have the disk trim it just then.
                        _ => work.join(format!("{}", rows.len())),
                    };
                    let cell = Cell { len, state, way };
                    match cell.run(&path) {
                        Ok(turn) => rows.push(Row { cell, round, turn }),
                        // This file system has no such way.
                        Err(error) if error.raw_os_error() == Some(EINVAL) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
    Ok(rows)
}

fn fill(path: &Path) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = vec![b'.'; 1 << 20];
    for _ in 0..FILE_LEN >> 20 {
        file.write_all(&block)?;
    }
    file.sync_all()
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    len: u32,
    state: &'static str,
    way: &'static str,
}

impl Cell {
    fn run(self, path: &Path) -> io::Result<Turn> {
        let how = DurableHow {
            is_direct: self.way.starts_with("direct"),
            is_linked: self.way.ends_with("linked"),
            is_registered: self.way.ends_with("fixed"),
        };
        let mut writer = DurableWriter::open(path, how, self.len)?;
        let writes_max = (FILE_LEN / u64::from(self.len)).min(WRITES_MAX);
        if self.state == "reserved" {
            writer.reserve(writes_max * u64::from(self.len))?;
        }
        // The first brings the file's metadata in, and the worker thread up.
        writer.write(0)?;
        let mut spans = Vec::new();
        let (begin, cpu) = (Instant::now(), sys::process_cpu_ns());
        for count in 1..writes_max {
            let start = Instant::now();
            writer.write(count * u64::from(self.len))?;
            spans.push(start.elapsed().as_nanos() as u64);
            if begin.elapsed() > SPAN && spans.len() as u64 >= WRITES_MIN {
                break;
            }
        }
        let cpu_ns = (sys::process_cpu_ns() - cpu) / spans.len() as u64;
        Ok(Turn { spans, cpu_ns })
    }
}

/// One turn of one cell.
#[derive(Clone)]
struct Turn {
    spans: Vec<u64>,
    /// Per write.
    cpu_ns: u64,
}

struct Row {
    cell: Cell,
    round: usize,
    turn: Turn,
}

fn print(rows: &[Row]) {
    let mut cells: BTreeMap<Cell, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    for row in rows {
        let (spans, cpu_ns) = cells.entry(row.cell).or_default();
        spans.extend(&row.turn.spans);
        cpu_ns.push(row.turn.cpu_ns);
    }
    println!("  us per durable write: median / p99, and CPU (median of {ROUNDS} rounds)");
    for len in LENS {
        println!(
            "  {len:>7} bytes       {:>24} {:>24} {:>24}",
            STATES[0], STATES[1], STATES[2]
        );
        for way in WAYS {
            let shown = STATES.map(|state| match cells.get_mut(&Cell { len, state, way }) {
                Some((spans, cpu_ns)) => format!(
                    "{:.0} / {:.0}, {:.1}",
                    us(part(spans, 0.5)),
                    us(part(spans, 0.99)),
                    us(part(cpu_ns, 0.5))
                ),
                None => "-".to_owned(),
            });
            println!(
                "  {way:<19} {:>24} {:>24} {:>24}",
                shown[0], shown[1], shown[2]
            );
        }
    }
}

/// Writes the rows and how they came about, as JSON and CSV.
fn keep(rows: &[Row], folder: &Path, into: &Path) -> io::Result<()> {
    let date = said("date", &["-u", "+%Y-%m-%dT%H-%M-%S"]);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let mut csv = "len,state,way,round,writes,p50_us,p99_us,max_us,cpu_us\n".to_owned();
    let mut kept = Vec::new();
    for Row { cell, round, turn } in rows {
        let mut spans = turn.spans.clone();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| us(part(&mut spans, share)));
        let Cell { len, state, way } = cell;
        let (writes, cpu) = (spans.len(), us(turn.cpu_ns));
        csv +=
            &format!("{len},{state},{way},{round},{writes},{p50:.1},{p99:.1},{max:.1},{cpu:.2}\n");
        kept.push(json!({
            "len": len, "state": state, "way": way, "round": round, "writes": writes,
            "p50_us": p50, "p99_us": p99, "max_us": max, "cpu_us": cpu,
        }));
    }
    let record: Value = json!({
        "what": "disk",
        "context": {
            "date": date,
            "machine": said("uname", &["-n"]),
            "kernel": said("uname", &["-r"]),
            "cpu": model.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']),
            "cpus": std::thread::available_parallelism().map_or(1, usize::from),
            "commit": said("git", &["describe", "--always", "--dirty=+", "--abbrev=40"]),
            "file_system": said("findmnt", &["-n", "-o", "FSTYPE", "-T", &folder.to_string_lossy()]),
        },
        "rows": kept,
    });
    fs::write(
        into.join(format!("{date}-disk.json")),
        format!("{record:#}\n"),
    )?;
    fs::write(into.join(format!("{date}-disk.csv")), csv)
}

/// What a command printed; empty if it could not.
fn said(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The value below which that share of them lies.
fn part(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * share).round() as usize]
}

fn us(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

const LENS: [u32; 4] = [512, 4 << 10, 64 << 10, 1 << 20];
const STATES: [&str; 3] = ["extending", "reserved", "written"];
const WAYS: [&str; 6] = [
    "cached linked",
    "cached dsync",
    "cached dsync fixed",
    "direct linked",
    "direct dsync",
    "direct dsync fixed",
];
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_millis(200);
const WRITES_MIN: u64 = 5;
const WRITES_MAX: u64 = 2000;
const FILE_LEN: u64 = 32 << 20;
const EINVAL: i32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_values_that_were_there() {
        let mut values: Vec<u64> = (1..=101).rev().collect();
        assert_eq!(
            [0.5, 0.99, 1.0].map(|share| part(&mut values, share)),
            [51, 100, 101]
        );
        assert_eq!(part(&mut [7], 0.99), 7);
    }
}
