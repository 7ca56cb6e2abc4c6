//! Several nodes together: how fast a replica gets what its primary has, and how far behind it is
//! while the primary is written to. Every engine that can follow is measured behind the same primary.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lexopt::prelude::*;

use crate::client::{self, Client, Value as Reply};
use crate::compare::{Scene, SceneOptions, is_over, know, print_context};
use crate::drive::{CONGESTION, Figures};
use crate::engines::{Durability, Engine, Running, Setting};
use crate::error::Error;
use crate::hist::Histogram;
use crate::probe::Process;
use crate::progress::tell;
use crate::record::{Congestion, Context, Failure, Note, Placement, Record, Row, Skipped};
use crate::{summary, sys};

/// How much is measured.
#[derive(Clone, serde::Serialize)]
struct Plan {
    /// Keys the primary holds when a replica comes.
    keys: u64,
    /// Writes a stopped replica misses.
    frames: u64,
    /// Writes per second while the lag is taken.
    rate: u64,
    /// For how long it is taken.
    seconds: f64,
    /// Turns of each replica.
    rounds: usize,
}

/// One measurement of a replica. They run in this order on one process: the first one makes it follow.
struct Measure {
    name: &'static str,
    title: &'static str,
    analysis: &'static str,
    metrics: &'static [&'static str],
    take: fn(&mut Pair<'_>) -> Result<Figures, Error>,
}

const MEASURES: [Measure; 3] = [
    Measure {
        name: "full-sync",
        title: "Full sync: from the start of following to the last key",
        analysis: "Watches the shipping and loading of a snapshot: the primary's side of it counts in the \
            time, so a slow primary hides differences; the replica's CPU per key does not. GB counts the \
            bytes of keys and values, not of the wire. Keys are all strings of 64 bytes: collections \
            would load otherwise.",
        metrics: &["sync_s_per_gb", "cpu_ns_per_key"],
        take: full_sync,
    },
    Measure {
        name: "catch-up",
        title: "Catching up: a stopped replica goes on",
        analysis: "Watches the applying of the live stream at full speed: the replica's process is stopped, \
            writes go on, then it continues; from there until the last of them is readable. What waits in \
            socket buffers and what the primary must still send are one here. A primary whose backlog is \
            too small would answer with a full sync; the engine list gives it a large one.",
        metrics: &["frames_per_s", "cpu_ns_per_frame"],
        take: catch_up,
    },
    Measure {
        name: "lag",
        title: "Lag under load: from a write's acknowledgement to its being readable at the replica",
        analysis: "Watches how long a write takes through the primary's stream, the wire and the replica \
            while other writes come at a fixed rate. The replica is asked again and again, so one round \
            trip to it, some tens of microseconds, is the floor. With two cores, writer and asker share \
            the cores of primary and replica: their turns are in the tail.",
        metrics: &["lag_p50_us", "lag_p99_us", "lag_max_us"],
        take: lag,
    },
];

/// A primary, and a replica about to follow it.
struct Pair<'a> {
    plan: &'a Plan,
    primary_port: u16,
    replicated_port: u16,
    primary: &'a mut Client,
    replica: Client,
    replica_pid: u32,
    round: usize,
}

/// Reads the options of `cluster`, measures every replica in turns, keeps the rows.
///
/// # Errors
/// [`Error::Stopped`], mistakes in options, a primary that fails. A replica that fails is reported and
/// left out.
pub fn main(mut parser: lexopt::Parser, help: &str) -> Result<(), Error> {
    let (mut options, mut primary) = (SceneOptions::default(), "kevy".to_owned());
    let mut replicas: Option<String> = None;
    let (mut primary_cpu, mut replica_cpu) = (0, 1);
    let mut plan = Plan {
        keys: 100_000,
        frames: 300_000,
        rate: 20_000,
        seconds: 2.0,
        rounds: 5,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("primary") => primary = parser.value()?.string()?,
            Long("replicas") => replicas = Some(parser.value()?.string()?),
            Long("keys") => plan.keys = parser.value()?.parse()?,
            Long("frames") => plan.frames = parser.value()?.parse()?,
            Long("rate") => plan.rate = parser.value()?.parse()?,
            Long("seconds") => plan.seconds = parser.value()?.parse()?,
            Long("rounds") => plan.rounds = parser.value()?.parse()?,
            Long("primary-cpu") => primary_cpu = parser.value()?.parse()?,
            Long("replica-cpu") => replica_cpu = parser.value()?.parse()?,
            Long("help") => {
                tell!("{}", help.trim_end());
                return Ok(());
            }
            Long(option) => {
                let option = option.to_owned();
                if option == "engines" || !options.take(&option, &mut parser)? {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let is_sane = plan.keys > 0 && plan.frames > 0 && plan.rate > 0 && plan.rounds > 0;
    if !is_sane || !(0.01..=3600.0).contains(&plan.seconds) {
        let expected = "at least 1, as --frames, --rate, --rounds; --seconds between 0.01 and 3600";
        return Err(Error::Value {
            option: "--keys",
            expected,
        });
    }
    let scene = options.scene()?;
    let congestion = Congestion::set(CONGESTION);
    let flags = std::env::args().skip(1).collect();
    let mut record = Record::new("cluster", Context::gather(congestion.now.clone(), flags));
    print_context(&record.context);
    let chosen: Option<Vec<&str>> = replicas.as_ref().map(|text| text.split(',').collect());
    let is_chosen = |name: &str| chosen.as_ref().is_none_or(|names| names.contains(&name));
    record.skipped = scene
        .skipped
        .iter()
        .filter(|s| is_chosen(&s.engine))
        .cloned()
        .collect();
    let mut following = Vec::new();
    for (engine, program) in scene
        .engines
        .iter()
        .filter(|(engine, _)| is_chosen(&engine.name))
    {
        if engine.replica.is_some() {
            following.push((engine, program));
        } else {
            let why = format!("cannot follow {primary}");
            record.skipped.push(Skipped {
                engine: engine.name.clone(),
                scenario: String::new(),
                why,
            });
        }
    }
    let leader = scene
        .engines
        .iter()
        .find(|(engine, _)| engine.name == primary);
    let leader = leader.filter(|(engine, _)| engine.primary.is_some());
    let Some(leader) = leader.filter(|_| !following.is_empty()) else {
        return Err(Error::NoEngines);
    };
    for measure in &MEASURES {
        record.scenarios.push(Note {
            name: measure.name.into(),
            title: measure.title.into(),
            analysis: measure
                .analysis
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
            metrics: measure.metrics.iter().map(ToString::to_string).collect(),
            placement: vec![Placement {
                cores: 1,
                server_cpus: vec![replica_cpu],
                load_cpus: scene.cpus.clone(),
            }],
            definition: serde_json::to_value(&plan).map_err(Error::Record)?,
        });
    }
    measure(
        &scene,
        &plan,
        leader,
        &following,
        [primary_cpu, replica_cpu],
        &mut record,
    )?;
    record.complete = true;
    for note in &record.scenarios {
        tell!("\n{}: {}", note.name, note.title);
        tell!("{}", summary::table(&record, note).trim_end());
    }
    let [json, csv] = record.write(&scene.out, &scene.mask)?;
    tell!("\nrows: {} and {}", csv.display(), json.display());
    Ok(())
}

fn measure(
    scene: &Scene,
    plan: &Plan,
    (leader, leader_program): &(Engine, PathBuf),
    following: &[(&Engine, &PathBuf)],
    [primary_cpu, replica_cpu]: [usize; 2],
    record: &mut Record,
) -> Result<(), Error> {
    let Some(primary_role) = &leader.primary else {
        return Err(Error::NoEngines);
    };
    let role = primary_role.role();
    let setting = Setting {
        cpus: &[primary_cpu],
        threads: 1,
        durability: Durability::None,
        size: VALUE.len(),
        role: Some(&role),
    };
    let mut server = Running::start(leader, leader_program, setting)?;
    know(record, leader, leader_program, &server);
    let mut primary = Client::connect(server.port)?;
    write_keys(&mut primary, "k", plan.keys).map_err(|e| server.blame(e))?;
    primary.done(&[&b"SET"[..], LAST, b"1"])?;

    let cell = format!("behind {}", leader.name);
    let mut failed: Vec<&str> = Vec::new();
    for round in 1..=plan.rounds {
        for &(engine, program) in following {
            if failed.contains(&engine.name.as_str()) {
                continue;
            }
            if is_over() {
                return Err(Error::Stopped);
            }
            let setting = Setting {
                cpus: &[replica_cpu],
                role: engine.replica.as_ref(),
                ..setting
            };
            let mut replica = Running::start(engine, program, setting)?;
            if engine.name != leader.name {
                know(record, engine, program, &replica);
            }
            let mut pair = Pair {
                plan,
                primary_port: server.port,
                replicated_port: server.port + primary_role.port_offset,
                primary: &mut primary,
                replica: Client::connect(replica.port)?,
                replica_pid: replica.pid(),
                round,
            };
            for measure in &MEASURES {
                match (measure.take)(&mut pair) {
                    Ok(metrics) => record.rows.push(Row {
                        scenario: measure.name.into(),
                        cell: cell.clone(),
                        engine: engine.name.clone(),
                        round,
                        cores: 1,
                        metrics,
                    }),
                    Err(Error::Stopped) => return Err(Error::Stopped),
                    Err(e) => {
                        if let Some(death) = server.death() {
                            return Err(death);
                        }
                        let (why, log) = match replica.blame(e) {
                            Error::Engine { why, log, .. } => (why, log),
                            error => (error.to_string(), Vec::new()),
                        };
                        tell!(
                            "{}: failed in {}, round {round}: {why}",
                            engine.name,
                            measure.name
                        );
                        record.rows.retain(|row| {
                            row.scenario != measure.name || row.engine != engine.name
                        });
                        record.failures.push(Failure {
                            scenario: measure.name.into(),
                            cell: cell.clone(),
                            engine: engine.name.clone(),
                            round,
                            why,
                            log,
                        });
                        failed.push(&engine.name);
                        break;
                    }
                }
            }
            record.write(&scene.out, &scene.mask)?;
        }
    }
    Ok(())
}

fn full_sync(pair: &mut Pair<'_>) -> Result<Figures, Error> {
    let port = pair.replicated_port.to_string();
    let took = pair.timed(|pair| {
        pair.replica.done(&["REPLICAOF", "127.0.0.1", &port])?;
        pair.wait_for(LAST)
    })?;
    let bytes = pair.plan.keys * (KEY_LEN + VALUE.len()) as u64;
    Ok(Figures::from([
        ("seconds".into(), took.seconds),
        ("sync_s_per_gb".into(), took.seconds / bytes as f64 * 1e9),
        ("cpu_ns_per_key".into(), took.cpu_ns / pair.plan.keys as f64),
    ]))
}

fn catch_up(pair: &mut Pair<'_>) -> Result<Figures, Error> {
    let mark = format!("caught-up-{}-{}", pair.replica_pid, pair.round);
    let held = Held::new(pair.replica_pid);
    let frames = pair.plan.frames;
    write_keys(pair.primary, "l", frames)?;
    pair.primary.done(&["SET", &mark, "1"])?;
    let took = pair.timed(|pair| {
        drop(held);
        pair.wait_for(mark.as_bytes())
    })?;
    Ok(Figures::from([
        ("seconds".into(), took.seconds),
        ("frames_per_s".into(), frames as f64 / took.seconds),
        ("cpu_ns_per_frame".into(), took.cpu_ns / frames as f64),
    ]))
}

fn lag(pair: &mut Pair<'_>) -> Result<Figures, Error> {
    let (rate, port) = (pair.plan.rate, pair.primary_port);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_at(port, rate, &is_over));
        let lags = pair.lags();
        is_over.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer does not panic")?;
        let lags = lags?;
        let us = |q| lags.quantile(q) as f64 / 1e3;
        Ok(Figures::from([
            ("lag_p50_us".into(), us(0.5)),
            ("lag_p99_us".into(), us(0.99)),
            ("lag_max_us".into(), lags.max() as f64 / 1e3),
            ("writes_per_s".into(), written),
        ]))
    })
}

/// Writes `rate` keys per second, a millisecond's share at a time, until told to stop; returns how many
/// per second it came to.
fn write_at(port: u16, rate: u64, is_over: &AtomicBool) -> Result<f64, Error> {
    let mut client = Client::connect(port)?;
    let (begin, mut sent) = (Instant::now(), 0);
    while !is_over.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
        client.send_all(due - sent, |i, out| {
            write_key("r", (sent + i) % WRITTEN_KEYS, out)
        })?;
        sent = due;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent as f64 / begin.elapsed().as_secs_f64())
}

/// What an action took.
struct Took {
    seconds: f64,
    cpu_ns: f64,
}

impl Pair<'_> {
    fn timed(&mut self, act: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<Took, Error> {
        let (before, begin) = (Process::read(self.replica_pid), Instant::now());
        act(self)?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu = before.zip(Process::read(self.replica_pid));
        let cpu_ns = cpu.map_or(f64::NAN, |(a, b)| (b.cpu_ns - a.cpu_ns) as f64);
        Ok(Took { seconds, cpu_ns })
    }

    /// Waits until the replica has a key; while it loads it may answer with errors.
    fn wait_for(&mut self, key: &[u8]) -> Result<(), Error> {
        client::wait_until(PATIENCE, Duration::from_millis(2), || {
            let reply = self.replica.call(&[b"GET", key])?;
            Ok(!matches!(reply, Reply::Nil | Reply::Error(_)))
        })
    }

    /// The lag of one write after the other, some hundred a second.
    fn lags(&mut self) -> Result<Histogram, Error> {
        let mut lags = Histogram::default();
        let end = Instant::now() + Duration::from_secs_f64(self.plan.seconds);
        let mut number = 0u64;
        while Instant::now() < end {
            number += 1;
            let value = format!("{}-{}-{number}", self.replica_pid, self.round);
            self.primary.done(&["SET", LAG_KEY, &value])?;
            let written = Instant::now();
            client::wait_until(PATIENCE, Duration::ZERO, || {
                let reply = self.replica.call(&["GET", LAG_KEY])?;
                Ok(reply == Reply::Text(value.clone().into_bytes()))
            })?;
            lags.add(written.elapsed().as_nanos() as u64, 1);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(lags)
    }
}

/// A stopped process; goes on when dropped.
struct Held(u32);

impl Held {
    fn new(pid: u32) -> Held {
        sys::hold(pid, true);
        Held(pid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        sys::hold(self.0, false);
    }
}

fn write_keys(client: &mut Client, prefix: &str, count: u64) -> Result<(), Error> {
    client.send_all(count, |i, out| write_key(prefix, i, out))
}

fn write_key(prefix: &str, number: u64, out: &mut Vec<u8>) {
    let key = format!("{prefix}{number:010}");
    client::encode(&[b"SET", key.as_bytes(), VALUE], out);
}

const VALUE: &[u8] = &[b'v'; 64];
const KEY_LEN: usize = 11;
const LAST: &[u8] = b"last";
const LAG_KEY: &str = "lag";
/// Keys the writer of the lag writes over and over.
const WRITTEN_KEYS: u64 = 100_000;
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Metric;

    #[test]
    fn every_measure_names_figures_that_a_report_knows() {
        for measure in &MEASURES {
            assert!(
                measure
                    .metrics
                    .iter()
                    .all(|name| Metric::named(name).is_some()),
                "{}",
                measure.name
            );
        }
    }

    #[test]
    fn a_written_key_has_the_length_that_is_counted() {
        let mut out = Vec::new();
        write_key("k", 42, &mut out);
        assert!(out.starts_with(b"*3\r\n$3\r\nSET\r\n$11\r\nk0000000042\r\n$64\r\n"));
        assert_eq!(KEY_LEN, 11);
    }
}
