//! A comparison described as data: what is loaded, on what, for how long, and which figures count.
//! `perf/README.md` says what the fields of a scenario file mean.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::client;
use crate::engines::Durability;
use crate::error::Error;
use crate::spec::{LoadSpec, Sizes, Span};
use crate::summary::Metric;

/// One scenario file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Name to choose it by; that of its file.
    pub name: String,
    /// What it is, for headings.
    pub title: String,
    /// What it watches and what would fool it.
    pub analysis: String,
    /// The figures that count, most telling first; see [`Metric`].
    pub metrics: Vec<String>,
    /// Turns of each engine.
    #[serde(default = "rounds")]
    pub rounds: usize,
    /// Time measured in a turn.
    #[serde(default = "seconds")]
    pub seconds: Span,
    /// Time before that.
    #[serde(default = "warmup")]
    pub warmup: Span,
    /// Numbers of cores to run it on, one after the other.
    #[serde(default = "one_core")]
    pub cores: Vec<usize>,
    /// What every engine has to promise about writes.
    #[serde(default = "durability")]
    pub durability: Durability,
    /// CPUs of the engines instead of the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpus: Option<Vec<usize>>,
    /// CPUs of the load instead of those the engines leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_cpus: Option<Vec<usize>>,
    /// Whether an engine needs a store to take part.
    #[serde(default = "yes")]
    pub store: bool,
    /// Commands each engine gets after its start. Error replies to them are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<Vec<String>>,
    /// Keys to insert, measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// Other data to insert, measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<Setup>,
    /// Loads, one after the other, every engine in turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cell: Vec<Cell>,
    /// An open loop at a share of the best peer's peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<Tail>,
    /// What other clients feel of an event; every turn in a fresh process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall: Option<Stall>,
    /// One load without and with something that goes on beside it, every engine in turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// How fast an engine is back with what was inserted; every turn in a fresh process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// Connections that do nothing; every turn in a fresh process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}

/// Strings inserted once each. Cells of the same scenario then use these keys.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fill {
    /// How many.
    pub keys: u64,
    /// Bytes of a key.
    #[serde(default = "sixteen")]
    pub key_size: usize,
    /// Bytes of a value.
    #[serde(default = "sixteen")]
    pub size: usize,
    /// Connections.
    #[serde(default = "fifty")]
    pub conns: usize,
    /// Requests in flight per connection.
    #[serde(default = "deep")]
    pub pipeline: u32,
    /// Not in the order of their numbers.
    #[serde(default)]
    pub shuffle: bool,
}

/// One command sent many times over one connection, with other arguments each time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Setup {
    /// Name of its row.
    pub name: String,
    /// How often.
    pub count: u64,
    /// The command: {i} its number, {value} `size` bytes, {ms} a time within `spread-ms`.
    pub command: Vec<String>,
    /// Arguments appended `width` times: {n} numbers them through, {k} within the command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub each: Vec<String>,
    /// How often.
    #[serde(default)]
    pub width: u64,
    /// Bytes of {value}.
    #[serde(default = "sixteen")]
    pub size: usize,
    /// Lowest and highest {ms}, spread evenly over the commands.
    #[serde(default)]
    pub spread_ms: [u64; 2],
}

/// One load at one or several depths.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cell {
    /// Name of its rows; the mix when none. With several pipelines, each adds its depth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Depths; the load's own when none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pipelines: Vec<u32>,
    /// The load.
    #[serde(default)]
    pub load: LoadSpec,
}

/// Latency at a rate that depends on what was measured before.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tail {
    /// Share of the best peer's peak.
    pub share: f64,
    /// Pipeline of the closed loop that finds the peak.
    pub peak_pipeline: u32,
    /// Time of each of its turns.
    pub peak_seconds: Span,
    /// The load; its rate comes from the peak.
    #[serde(default)]
    pub load: LoadSpec,
}

/// An event, and the load that goes on meanwhile.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stall {
    /// Name of its rows.
    pub name: String,
    /// A command sent once while the load runs; none when the event comes by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event: Vec<String>,
    /// The load, an open loop.
    pub load: LoadSpec,
}

/// Something in the background, begun again as soon as it is over, and the load that it may disturb.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Beside {
    /// Name of its rows.
    pub name: String,
    /// The command that begins it; while it goes on, INFO persistence says so.
    pub event: Vec<String>,
    /// The load, an open loop on the filled keys.
    pub load: LoadSpec,
}

/// A stop in order and a start.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Restart {
    /// Name of its rows.
    pub name: String,
    /// A command before the stop; awaited as that of [`Beside`] is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event: Vec<String>,
}

/// Connections that have sent one PING and then nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Idle {
    /// How many.
    pub conns: usize,
}

impl Scenario {
    /// Reads one file.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Data`] with file, line and reason.
    pub fn read(path: &Path) -> Result<Scenario, Error> {
        let text = fs::read_to_string(path).map_err(Error::file(path))?;
        let scenario: Scenario = toml::from_str(&text).map_err(Error::data(path))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if stem != scenario.name {
            let reason = format!(
                "`name` is \"{}\", but the file is named {stem}",
                scenario.name
            );
            return Err(Error::data(path)(reason));
        }
        scenario.check().map_err(|e| Error::data(path)(e))?;
        Ok(scenario)
    }

    /// Refuses what cannot be run.
    fn check(&self) -> Result<(), String> {
        if let Some(name) = self
            .metrics
            .iter()
            .find(|name| Metric::named(name).is_none())
        {
            return Err(format!(
                "metrics: \"{name}\" is none of {}",
                Metric::names()
            ));
        }
        let parts = usize::from(self.stall.is_some())
            + usize::from(self.beside.is_some())
            + usize::from(self.restart.is_some())
            + usize::from(self.idle.is_some())
            + usize::from(!self.cell.is_empty() || self.tail.is_some());
        if parts > 1 {
            let said =
                "cells or a tail, a stall, a beside, a restart and an idle part exclude each other";
            return Err(said.into());
        }
        if parts == 0 && self.fill.is_none() && self.setup.is_empty() {
            return Err("nothing to measure: no fill, setup, cell, tail, stall or idle".into());
        }
        if !(1..=10_000).contains(&self.rounds) || self.seconds.0.is_zero() {
            return Err("rounds and seconds must be more than 0".into());
        }
        if self.cores.is_empty() || self.cores.contains(&0) {
            return Err("cores must be numbers from 1 on".into());
        }
        let is_closed = |load: &LoadSpec| load.rate.is_none();
        if self
            .stall
            .as_ref()
            .is_some_and(|stall| is_closed(&stall.load))
        {
            return Err("the load of a stall must have a rate".into());
        }
        if self
            .beside
            .as_ref()
            .is_some_and(|beside| is_closed(&beside.load))
        {
            return Err("the load beside something must have a rate".into());
        }
        if self.fill.is_none() && (self.beside.is_some() || self.restart.is_some()) {
            return Err("a beside and a restart need a fill".into());
        }
        if self
            .tail
            .as_ref()
            .is_some_and(|tail| tail.load.rate.is_some())
        {
            return Err("the rate of a tail comes from the peak".into());
        }
        if let Some(setup) = self.setup.iter().find(|setup| setup.command.is_empty()) {
            return Err(format!("setup \"{}\" has no command", setup.name));
        }
        let named = self.loads().into_iter();
        for (name, load) in named {
            let wrong = |e| format!("load of \"{name}\": {e}");
            load.check().map_err(wrong)?;
        }
        Ok(())
    }

    /// The cells' names and loads, every depth by itself.
    pub fn cells(&self) -> Vec<(String, LoadSpec)> {
        let each = self.cell.iter().flat_map(|cell| {
            let name = cell.name.clone().unwrap_or(cell.load.mix.to_string());
            let depths = match cell.pipelines[..] {
                [] => vec![(name, cell.load.pipeline)],
                ref depths => depths.iter().map(|n| (format!("{name}/{n}"), *n)).collect(),
            };
            depths.into_iter().map(|(name, pipeline)| {
                let load = self.on_filled(&cell.load);
                (name, LoadSpec { pipeline, ..load })
            })
        });
        each.collect()
    }

    /// A load for as long as a turn takes, on the filled keys if there are such.
    pub fn on_filled(&self, load: &LoadSpec) -> LoadSpec {
        let mut load = LoadSpec {
            duration: self.seconds,
            warmup: self.warmup,
            ..load.clone()
        };
        if let Some(fill) = &self.fill {
            (load.keys, load.key_size) = (fill.keys, fill.key_size);
            load.size = Sizes::fixed(fill.size as u64);
        }
        load
    }

    fn loads(&self) -> Vec<(String, LoadSpec)> {
        let mut loads = self.cells();
        loads.extend(
            self.tail
                .iter()
                .map(|tail| ("tail".to_owned(), tail.load.clone())),
        );
        loads.extend(
            self.stall
                .iter()
                .map(|stall| (stall.name.clone(), stall.load.clone())),
        );
        loads.extend(
            self.beside
                .iter()
                .map(|beside| (beside.name.clone(), self.on_filled(&beside.load))),
        );
        loads
    }

    /// Whether every turn starts a process of its own, because a turn uses up what was set up.
    pub fn is_fresh(&self) -> bool {
        self.cell.is_empty() && self.tail.is_none() && self.beside.is_none()
    }

    /// Changes all numbers of keys, items and connections by a factor.
    pub fn scale(&mut self, factor: f64) {
        let scaled = |count: u64| ((count as f64 * factor) as u64).max(100).min(count);
        if let Some(fill) = &mut self.fill {
            fill.keys = scaled(fill.keys);
        }
        self.setup
            .iter_mut()
            .for_each(|setup| setup.count = scaled(setup.count));
        if let Some(idle) = &mut self.idle {
            idle.conns = scaled(idle.conns as u64) as usize;
        }
    }

    /// Bytes a responder without a store should answer a GET with.
    pub fn value_size(&self) -> usize {
        let first = self.loads().first().and_then(|(_, load)| load.size.only());
        first.unwrap_or(64) as usize
    }
}

impl Setup {
    /// A maker of the commands, to be called with 0, 1, 2...
    pub fn maker(&self) -> impl FnMut(u64, &mut Vec<u8>) {
        let (setup, value) = (self.clone(), "x".repeat(self.size));
        let [low, high] = self.spread_ms;
        let mut args: Vec<String> = Vec::new();
        move |i, out| {
            let ms = low + high.saturating_sub(low) * i / setup.count.max(1);
            args.clear();
            let common = |text: &String| {
                if !text.contains('{') {
                    return text.clone();
                }
                text.replace("{i}", &format!("{i:012}"))
                    .replace("{ms}", &ms.to_string())
                    .replace("{value}", &value)
            };
            args.extend(setup.command.iter().map(common));
            for k in 0..setup.width {
                let n = i * setup.width + k;
                args.extend(setup.each.iter().map(|text| {
                    let text = common(text).replace("{k}", &k.to_string());
                    text.replace("{n}", &format!("{n:012}"))
                }));
            }
            client::encode(&args, out);
        }
    }
}

/// The scenarios of a directory in the order of their file names, or only the `chosen` ones in the
/// order chosen; what looks like a path is read as one.
///
/// # Errors
/// [`Error::File`] and [`Error::Data`].
pub fn read_all(dir: &Path, chosen: &[String]) -> Result<Vec<Scenario>, Error> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in chosen {
        paths.push(if name.ends_with(".toml") {
            name.into()
        } else {
            dir.join(format!("{name}.toml"))
        });
    }
    if chosen.is_empty() {
        let entries = fs::read_dir(dir).map_err(Error::file(dir))?;
        paths.extend(entries.flatten().map(|entry| entry.path()));
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        paths.sort();
    }
    paths.iter().map(|path| Scenario::read(path)).collect()
}

fn rounds() -> usize {
    5
}

fn seconds() -> Span {
    Span(std::time::Duration::from_millis(300))
}

fn warmup() -> Span {
    Span(std::time::Duration::from_millis(100))
}

fn one_core() -> Vec<usize> {
    vec![1]
}

fn durability() -> Durability {
    Durability::None
}

fn sixteen() -> usize {
    16
}

fn fifty() -> usize {
    50
}

fn deep() -> u32 {
    64
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = 'x'\ntitle = 't'\nanalysis = 'a'\nmetrics = ['ops_per_s']\n";

    fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario =
            toml::from_str(&format!("{HEAD}{text}")).map_err(|e| e.to_string())?;
        scenario.check().map(|()| scenario)
    }

    #[test]
    fn every_scenario_that_comes_with_the_program_is_understood() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let all = read_all(&dir, &[]).expect("understood");
        assert!(all.len() >= 12, "{}", all.len());
        assert!(all.iter().all(|scenario| scenario.analysis.len() > 100));
        let two = read_all(&dir, &["two-cores".into(), "get-set".into()]).expect("understood");
        assert_eq!(
            two.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["two-cores", "get-set"]
        );
    }

    #[test]
    fn a_mistake_is_reported_with_file_and_line() {
        let dir =
            std::env::temp_dir().join(format!("ringkeep-perf-scenario-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("writable");
        let said = |name: &str, text: &str| {
            let path = dir.join(format!("{name}.toml"));
            fs::write(&path, format!("{HEAD}{text}")).expect("writable");
            let said = Scenario::read(&path).expect_err("refused").to_string();
            assert!(said.contains(&format!("{name}.toml: ")), "{said}");
            said
        };
        let unknown = said("x", "[[cell]]\n[cell.load]\nmixx = 'get'\n");
        let missing = said("y", "[[cell]]\n");
        let _ = fs::remove_dir_all(&dir);
        assert!(
            unknown.contains("line 7") && unknown.contains("mixx"),
            "{unknown}"
        );
        assert!(missing.contains("the file is named y"), "{missing}");
    }

    #[test]
    fn cells_multiply_by_pipelines_and_use_the_filled_keys() {
        let text = "seconds = 3\n[fill]\nkeys = 5000\n[[cell]]\npipelines = [1, 16]\n\
            [[cell]]\nname = 'w'\nload = { mix = 'set', pipeline = 9 }\n";
        let cells = parse(text).expect("understood").cells();
        let names: Vec<(&str, u32)> = cells
            .iter()
            .map(|(n, load)| (n.as_str(), load.pipeline))
            .collect();
        assert_eq!(names, [("get/1", 1), ("get/16", 16), ("w", 9)]);
        assert!(
            cells
                .iter()
                .all(|(_, load)| load.keys == 5000 && load.size == Sizes::fixed(16))
        );
        assert_eq!(cells[2].1.duration.0.as_secs(), 3);
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (text, complaint) in [
            ("", "nothing to measure"),
            ("[[cell]]\nload = { conns = 0 }\n", "load of \"get\""),
            ("[[cell]]\n[idle]\nconns = 5\n", "exclude each other"),
            ("rounds = 0\n[[cell]]\n", "more than 0"),
            ("cores = []\n[[cell]]\n", "cores"),
            ("[stall]\nname = 's'\nload = {}\n", "must have a rate"),
            ("[restart]\nname = 's'\n", "need a fill"),
            ("durability = 'most'\n[[cell]]\n", "unknown variant `most`"),
        ] {
            let said = parse(text).expect_err(text);
            assert!(said.contains(complaint), "{said}");
        }
        let odd = "name='x'\ntitle='t'\nanalysis='a'\nmetrics=['speed']\n[[cell]]\n";
        let odd: Scenario = toml::from_str(odd).expect("a scenario");
        assert!(
            odd.check()
                .expect_err("no such metric")
                .contains("ops_per_s")
        );
    }

    #[test]
    fn setup_commands_are_numbered_and_spread() {
        let text = "[[setup]]\nname = 'h'\ncount = 2\nwidth = 2\nsize = 3\nspread-ms = [10, 20]\n\
            command = ['HSET', '{ms}']\neach = ['f{k}', '{n}{value}']\n";
        let scenario = parse(text).expect("understood");
        assert!(scenario.is_fresh());
        let (mut make, mut out) = (scenario.setup[0].maker(), Vec::new());
        make(1, &mut out);
        let want = "*6\r\n$4\r\nHSET\r\n$2\r\n15\r\n$2\r\nf0\r\n$15\r\n000000000002xxx\r\n\
            $2\r\nf1\r\n$15\r\n000000000003xxx\r\n";
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn scaling_shrinks_counts_and_never_grows_them() {
        let mut scenario =
            parse("[fill]\nkeys = 10000000\n[idle]\nconns = 50\n").expect("understood");
        scenario.scale(0.25);
        let keys = scenario.fill.expect("kept").keys;
        assert_eq!((keys, scenario.idle.expect("kept").conns), (2_500_000, 50));
    }
}
