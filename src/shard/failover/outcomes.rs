//! `failover.log`: how each failover ended, one line of JSON each.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{
    base::Ms,
    failover::{Outcome, Place},
    shard::log,
};

/// File of the data directory.
const NAME: &str = "failover.log";
/// Where the lines before these are, up to as many again.
const OLDER: &str = "failover.log.1";
/// From this length on another one is begun: some thousand failovers.
const LEN_MAX: u64 = 1 << 20;

/// Appends a line to the log of this directory, on a thread of its own: a disk that hangs holds up nobody.
pub fn note(dir: &Path, at: Ms, outcome: &Outcome) {
    let (dir, line) = (PathBuf::from(dir), line(at, outcome));
    let spawned = std::thread::Builder::new().spawn(move || {
        if let Err(error) = append(&dir, &line) {
            log(&format!("{}: {error}", dir.join(NAME).display()));
        }
    });
    if let Err(error) = spawned {
        log(&format!("{NAME}: {error}"));
    }
}

fn append(dir: &Path, line: &str) -> io::Result<()> {
    let path = dir.join(NAME);
    let mut file = File::options().create(true).append(true).open(&path)?;
    if file.metadata()?.len() + line.len() as u64 > LEN_MAX {
        fs::rename(&path, dir.join(OLDER))?;
        file = File::options().create(true).append(true).open(&path)?;
    }
    // At once, so that no line is in the middle of another one.
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

fn line(at: Ms, outcome: &Outcome) -> String {
    let Outcome {
        id,
        verdict,
        reason,
        to,
        old_epoch,
        new_epoch,
        frontier,
        reached,
        skipped,
        durable,
        waited_ms,
        frozen_ms,
    } = outcome;
    let to = to.as_ref().map_or(String::new(), Place::to_string);
    let frontier = frontier.iter();
    let frontier = frontier.map(|at| format!("[{},{}]", at.generation, at.offset));
    let frontier = frontier.collect::<Vec<_>>().join(",");
    let reached = reached.iter().map(u64::to_string);
    let reached = reached.collect::<Vec<_>>().join(",");
    format!(
        "{{\"at-ms\":{at},\"id\":\"{id}\",\"result\":\"{}\",\"reason\":\"{}\",\"to\":\"{}\",\
         \"old-epoch\":{old_epoch},\"new-epoch\":{new_epoch},\"frontier\":[{frontier}],\
         \"reached\":[{reached}],\"skipped\":{skipped},\"durable\":{durable},\
         \"waited-ms\":{waited_ms},\"frozen-ms\":{frozen_ms}}}\n",
        verdict.name(),
        escaped(reason),
        escaped(&to),
    )
}

/// As it may stand in a string of JSON: the target has chosen some of the words.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\0'..='\x1f' => out += &format!("\\u{:04x}", char as u32),
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Position,
        failover::{Id, Verdict},
    };

    fn outcome(reason: &str) -> Outcome {
        Outcome {
            id: Id(0xabc),
            verdict: Verdict::Forced,
            reason: reason.into(),
            to: Some(Place {
                host: "h".into(),
                port: 7,
            }),
            old_epoch: 1,
            new_epoch: 2,
            frontier: vec![
                Position {
                    generation: 3,
                    offset: 40,
                },
                Position {
                    generation: 4,
                    offset: 50,
                },
            ],
            reached: vec![39, 50],
            skipped: 1,
            durable: true,
            waited_ms: 5,
            frozen_ms: 6,
        }
    }

    #[test]
    fn a_line_is_json_whatever_a_target_says() {
        for reason in ["", "refused: \"no\" \\ \u{1}\n", "é"] {
            let line = line(9, &outcome(reason));
            assert_eq!(line.matches('\n').count(), 1);
            let said: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(said["reason"], reason);
            assert_eq!(said["result"], "forced");
            assert_eq!(said["to"], "h:7");
            assert_eq!(said["frontier"][1], serde_json::json!([4, 50]));
            assert_eq!((&said["skipped"], &said["at-ms"]), (&1.into(), &9.into()));
        }
    }

    #[test]
    fn a_long_log_begins_anew_and_the_lines_before_stay_for_a_while() {
        let dir = std::env::temp_dir().join(format!("ringkeep-outcomes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let line = line(1, &outcome(&"x".repeat(300 << 10)));
        for _ in 0..8 {
            append(&dir, &line).unwrap();
        }
        let len = |name: &str| fs::metadata(dir.join(name)).unwrap().len() as usize;
        let lens = (len(OLDER) / line.len(), len(NAME) / line.len());
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(lens, (3, 2));
    }
}
