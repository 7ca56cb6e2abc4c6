//! Planned failovers as clients see them: two nodes of one engine hand the part of the primary to and fro
//! while connections write to whoever takes it. What was acknowledged is looked for in the end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lexopt::prelude::*;

use crate::client::{self, Client, Value as Reply};
use crate::compare::{Scene, SceneOptions, is_over, know, print_context};
use crate::drive::{CONGESTION, Figures};
use crate::engines::{Durability, Engine, Running, Setting};
use crate::error::Error;
use crate::progress::tell;
use crate::record::{Congestion, Context, Failure, Note, Placement, Record, Row, Skipped};
use crate::summary;

/// What is done to each pair.
#[derive(Clone, serde::Serialize)]
struct Plan {
    /// Failovers, to and fro.
    rounds: usize,
    /// After so many the next pair has its turn, and each a fresh start: what slows the machine for a while
    /// slows all.
    turn: usize,
    /// Connections that write.
    conns: usize,
    /// Writes each has in flight.
    pipeline: usize,
    /// For how long each does nothing between two pipelines.
    pause_ms: u64,
    /// Time between failovers in which nothing is asked of the pair but writes.
    rest_ms: u64,
    /// After this long, a failover hangs.
    limit_ms: u64,
}

const NOTES: [(&str, &str, &str, &[&str]); 2] = [
    (
        GAPS,
        "Planned failover: the time without an acknowledged write",
        "Each row is one failover under load. The gap is the longest time in which no connection had a write \
            acknowledged, from the command until a fifth of a second after both nodes say that they have \
            changed parts. The same over the fifth of a second before it is the machine's and the load's \
            own: a busy machine widens both. Clients go to the other node as soon as one refuses, and wait a \
            millisecond when both do; real ones first have to find out who it is.",
        &["gap_us", "quiet_gap_us", "change_us"],
    ),
    (
        TOTALS,
        "Planned failover: what became of the writes",
        "One row for each engine and promise. Every write has a key of its own, so that nothing that is lost \
            can be covered by a later write; a write that was not acknowledged is sent again. Failed \
            failovers left the old primary in its part; those that hung had no end within the time allowed, \
            and end the turn of the pair.",
        &[
            "acknowledged",
            "missing",
            "done",
            "failed",
            "hung",
            "gap_p50_us",
            "gap_p99_us",
            "gap_max_us",
        ],
    ),
];

/// Reads the options of `cluster failover`, runs every pair, keeps the rows.
///
/// # Errors
/// [`Error::Stopped`], mistakes in options. A pair that breaks is reported, and the next one has its turn.
pub fn main(mut parser: lexopt::Parser, help: &str) -> Result<(), Error> {
    let (mut options, mut rounds) = (SceneOptions::default(), 10);
    let (mut primary_cpu, mut replica_cpu) = (0, 1);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rounds") => rounds = parser.value()?.parse()?,
            Long("primary-cpu") => primary_cpu = parser.value()?.parse()?,
            Long("replica-cpu") => replica_cpu = parser.value()?.parse()?,
            Long("help") => {
                tell!("{}", help.trim_end());
                return Ok(());
            }
            Long(option) => {
                let option = option.to_owned();
                if !options.take(&option, &mut parser)? {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    if !(1..=10_000).contains(&rounds) {
        let expected = "between 1 and 10000";
        return Err(Error::Value {
            option: "--rounds",
            expected,
        });
    }
    let plan = Plan {
        rounds,
        turn: 10,
        conns: 50,
        pipeline: 8,
        pause_ms: 10,
        rest_ms: 400,
        limit_ms: LIMIT.as_millis() as u64,
    };
    let scene = options.scene()?;
    let congestion = Congestion::set(CONGESTION);
    let flags = std::env::args().skip(1).collect();
    let mut record = Record::new("failover", Context::gather(congestion.now.clone(), flags));
    print_context(&record.context);
    record.skipped.clone_from(&scene.skipped);
    let (able, unable): (Vec<_>, Vec<_>) = scene
        .engines
        .iter()
        .partition(|(engine, _)| !engine.failover.is_empty());
    record
        .skipped
        .extend(unable.into_iter().map(|(engine, _)| Skipped {
            engine: engine.name.clone(),
            scenario: String::new(),
            why: "the engine list has no failover for it".into(),
        }));
    if able.is_empty() {
        return Err(Error::NoEngines);
    }
    for (name, title, analysis, metrics) in NOTES {
        record.scenarios.push(Note {
            name: name.into(),
            title: title.into(),
            analysis: analysis.split_whitespace().collect::<Vec<_>>().join(" "),
            metrics: metrics.iter().map(ToString::to_string).collect(),
            placement: vec![Placement {
                cores: 1,
                server_cpus: vec![primary_cpu, replica_cpu],
                load_cpus: scene.cpus.clone(),
            }],
            definition: serde_json::to_value(&plan).map_err(Error::Record)?,
        });
    }
    let mut cases = Vec::new();
    for &(engine, program) in &able {
        let journal = (!engine.peer).then_some(Durability::Everysec);
        for durability in [Some(Durability::None), journal].into_iter().flatten() {
            cases.push(Case {
                engine,
                program,
                durability,
                totals: Totals::default(),
            });
        }
    }
    for first in (0..plan.rounds).step_by(plan.turn) {
        for case in &mut cases {
            let rounds = first..plan.rounds.min(first + plan.turn);
            let cpus = [[primary_cpu], [replica_cpu]];
            match case.turn(&plan, rounds, &cpus, &mut record) {
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(Error::Engine { why, log, .. }) => case.fail(&mut record, first + 1, why, log),
                Err(e) => case.fail(&mut record, first + 1, e.to_string(), vec![]),
                Ok(()) => {}
            }
            record.write(&scene.out, &scene.mask)?;
        }
    }
    for case in &cases {
        let totals = case.totals.figures();
        let row = case.row(TOTALS, 1, totals);
        record.rows.push(row);
        tell!("\n{}, {}:", case.engine.name, case.cell());
        for (count, first) in case.totals.errors.values() {
            tell!("  {count} times: {first}");
        }
    }
    record.complete = true;
    finish(&scene, &record)
}

fn finish(scene: &Scene, record: &Record) -> Result<(), Error> {
    for note in &record.scenarios {
        tell!("\n{}: {}", note.name, note.title);
        tell!("{}", summary::table(record, note).trim_end());
    }
    let [json, csv] = record.write(&scene.out, &scene.mask)?;
    tell!("\nrows: {} and {}", csv.display(), json.display());
    Ok(())
}

/// One engine with one promise about writes.
struct Case<'a> {
    engine: &'a Engine,
    program: &'a Path,
    durability: Durability,
    totals: Totals,
}

/// What all turns of a case came to.
#[derive(Default)]
struct Totals {
    gaps: Vec<u64>,
    done: u64,
    failed: u64,
    hung: u64,
    acknowledged: u64,
    missing: u64,
    errors: Errors,
}

impl Totals {
    fn figures(&self) -> Figures {
        let counts = [
            ("acknowledged", self.acknowledged),
            ("missing", self.missing),
            ("done", self.done),
            ("failed", self.failed),
            ("hung", self.hung),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count as f64));
        let mut figures = Figures::from(counts);
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(value) = quantile(&gaps, share) {
                figures.insert(format!("gap_{name}_us"), value as f64);
            }
        }
        for (kind, (count, _)) in &self.errors {
            figures.insert(format!("errors_{}", kind.to_lowercase()), *count as f64);
        }
        figures
    }
}

impl Case<'_> {
    fn cell(&self) -> String {
        match self.durability {
            Durability::None => "memory only".into(),
            durability => format!("journal {durability}"),
        }
    }

    fn row(&self, scenario: &str, round: usize, metrics: Figures) -> Row {
        Row {
            scenario: scenario.into(),
            cell: self.cell(),
            engine: self.engine.name.clone(),
            round,
            cores: 1,
            metrics,
        }
    }

    /// Enters that a pair broke.
    fn fail(&self, record: &mut Record, round: usize, why: String, log: Vec<String>) {
        let (engine, cell) = (&self.engine.name, self.cell());
        tell!("{engine}, {cell}: broke in failover {round}: {why}");
        record.failures.push(Failure {
            scenario: GAPS.into(),
            cell,
            engine: engine.clone(),
            round,
            why,
            log,
        });
    }

    /// Failovers of a fresh pair under load; appends the rows, and the failure of a pair that breaks.
    fn turn(
        &mut self,
        plan: &Plan,
        rounds: Range<usize>,
        cpus: &[[usize; 1]; 2],
        record: &mut Record,
    ) -> Result<(), Error> {
        let mut pair = Pair::start(self.engine, self.program, self.durability, cpus, plan)?;
        know(record, self.engine, self.program, &pair.nodes[0]);
        let (handed, broke, written) = pair.run(rounds.len());
        let end = micros(pair.begin);
        if is_over() {
            return Err(Error::Stopped);
        }
        let mut times: Vec<u64> = written.iter().flat_map(|w| w.times.clone()).collect();
        times.sort_unstable();
        let mut round = rounds.start;
        for one in handed {
            round += 1;
            let longest = gap(&times, one.from, one.to + TAIL, end);
            self.totals.gaps.push(longest);
            let before = &times[..times.partition_point(|time| *time <= one.from)];
            let quiet = gap(before, one.from.saturating_sub(TAIL), one.from, one.from);
            let metrics = Figures::from([
                ("gap_us".into(), longest as f64),
                ("quiet_gap_us".into(), quiet as f64),
                ("change_us".into(), (one.to - one.from) as f64),
                ("done".into(), f64::from(one.outcome == Outcome::Done)),
            ]);
            record.rows.push(self.row(GAPS, round, metrics));
            match one.outcome {
                Outcome::Done => self.totals.done += 1,
                Outcome::Hung(_) => self.totals.hung += 1,
                Outcome::Failed(why) => {
                    self.totals.failed += 1;
                    tell!("{}, failover {round} failed: {why}", self.engine.name);
                }
            }
        }
        if let Some(why) = broke {
            let (why, log) = pair.blame(why);
            self.fail(record, round, why, log);
        }
        let acknowledged: u64 = written.iter().map(Written::acknowledged).sum();
        self.totals.acknowledged += acknowledged;
        add_errors(&mut self.totals.errors, &written);
        match pair.missing(&written) {
            Ok(missing) => {
                self.totals.missing += missing;
                let (name, cell) = (&self.engine.name, self.cell());
                tell!(
                    "{name}, {cell}, to failover {round}: {missing} of {acknowledged} writes missing"
                );
            }
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(e) => {
                let (why, log) = pair.blame(format!("what it holds could not be read: {e}"));
                self.fail(record, round, why, log);
            }
        }
        Ok(())
    }
}

/// Two nodes of one engine.
struct Pair<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    /// The primary first.
    nodes: [Running; 2],
    /// The zero of all times.
    begin: Instant,
}

impl<'a> Pair<'a> {
    /// Starts both, the second follows the first.
    fn start(
        engine: &'a Engine,
        program: &Path,
        durability: Durability,
        [primary_cpus, replica_cpus]: &[[usize; 1]; 2],
        plan: &'a Plan,
    ) -> Result<Pair<'a>, Error> {
        let primary_role = engine.primary.as_ref();
        let role = primary_role.map(|primary| primary.role());
        let setting = Setting {
            cpus: primary_cpus,
            threads: 1,
            durability,
            size: 1,
            role: role.as_ref(),
        };
        let primary = Running::start(engine, program, setting)?;
        let setting = Setting {
            cpus: replica_cpus,
            role: engine.replica.as_ref(),
            ..setting
        };
        let replica = Running::start(engine, program, setting)?;
        let offset = primary_role.map_or(0, |primary| primary.port_offset);
        let port = (primary.port + offset).to_string();
        Client::connect(replica.port)?.done(&["REPLICAOF", "127.0.0.1", &port])?;
        let pair = Pair {
            engine,
            plan,
            nodes: [primary, replica],
            begin: Instant::now(),
        };
        pair.wait_for_link()?;
        Ok(pair)
    }

    fn ports(&self) -> [u16; 2] {
        [self.nodes[0].port, self.nodes[1].port]
    }

    /// Waits until the primary says that its replica follows.
    fn wait_for_link(&self) -> Result<(), Error> {
        let port = self.nodes[0].port;
        client::wait_until(LIMIT, Duration::from_millis(5), || {
            Ok(State::of(port).is_some_and(|state| state.is_followed))
        })
    }

    /// So many failovers under load: each of them, why the pair broke, what was written.
    fn run(&mut self, count: usize) -> (Vec<Handed>, Option<String>, Vec<Written>) {
        let (plan, begin, ports) = (self.plan, self.begin, self.ports());
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_done = &is_done;
            let writers: Vec<_> = (0..plan.conns)
                .map(|name| scope.spawn(move || write(plan, name, ports, begin, is_done)))
                .collect();
            let (handed, broke) = self.hand_over_often(count);
            is_done.store(true, Ordering::Relaxed);
            let written = writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer does not panic"))
                .collect();
            (handed, broke, written)
        })
    }

    /// A process that ended by itself explains more than what was seen of it.
    fn blame(&mut self, why: String) -> (String, Vec<String>) {
        match self.nodes.iter_mut().find_map(Running::death) {
            Some(Error::Engine { why: end, log, .. }) => (format!("{why}; {end}"), log),
            _ => (why, Vec::new()),
        }
    }

    /// Every failover, or those until the pair broke, and how it did.
    fn hand_over_often(&mut self, count: usize) -> (Vec<Handed>, Option<String>) {
        let mut handed = Vec::new();
        for _ in 0..count {
            if let Err(e) = self.wait_for_link() {
                let why = format!(
                    "no replica was in step {} s after the last one: {e}",
                    LIMIT.as_secs()
                );
                return (handed, Some(why));
            }
            std::thread::sleep(Duration::from_millis(self.plan.rest_ms));
            if is_over() {
                break;
            }
            let from = micros(self.begin);
            let outcome = self.hand_over();
            let to = micros(self.begin);
            let hung = match &outcome {
                Outcome::Hung(why) => Some(why.clone()),
                _ => None,
            };
            if outcome == Outcome::Done {
                self.nodes.reverse();
            }
            handed.push(Handed { from, to, outcome });
            std::thread::sleep(Duration::from_micros(TAIL));
            if hung.is_some() {
                return (handed, hung);
            }
        }
        (handed, None)
    }

    /// One failover, until both nodes have changed parts or the old primary has its own again.
    fn hand_over(&self) -> Outcome {
        let deadline = Instant::now() + LIMIT;
        let [old, new] = self.ports();
        let words: Vec<String> = self
            .engine
            .failover
            .iter()
            .map(|word| word.replace("{port}", &new.to_string()))
            .collect();
        let asked = Client::connect_for(old, LIMIT).and_then(|mut client| client.call(&words));
        let refusal = match asked {
            Ok(Reply::Error(text)) => Some(text),
            Ok(_) => None,
            Err(e) => Some(e.to_string()),
        };
        loop {
            let states = [State::of(old), State::of(new)];
            if let [Some(old), Some(new)] = &states
                && let Some(outcome) = ended(old, new, refusal.as_deref())
            {
                return outcome;
            }
            if Instant::now() > deadline || is_over() {
                return Outcome::Hung(describe(&states, refusal.as_deref()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Acknowledged writes that the primary does not have; of two primaries, the one that was to be it.
    fn missing(&self, written: &[Written]) -> Result<u64, Error> {
        let is_primary =
            |node: &&Running| State::of(node.port).is_some_and(|state| state.is_primary);
        let node = self.nodes.iter().rev().find(is_primary);
        let mut client = Client::connect_for(node.unwrap_or(&self.nodes[0]).port, LIMIT)?;
        let mut missing = 0;
        for (name, written) in written.iter().enumerate() {
            let numbers: Vec<u64> = written.numbers().collect();
            for part in numbers.chunks(BATCH) {
                let mut words = vec!["MGET".to_owned()];
                words.extend(part.iter().map(|number| key(name, *number)));
                let Reply::List(values) = client.done(&words)? else {
                    return Err(Error::Silent);
                };
                let is_there = |(number, value): &(&u64, &Reply)| {
                    **value == Reply::Text(number.to_string().into_bytes())
                };
                let found = part.iter().zip(&values).filter(is_there).count();
                missing += (part.len() - found) as u64;
            }
            if is_over() {
                return Err(Error::Stopped);
            }
        }
        Ok(missing)
    }
}

/// One failover; times in microseconds.
struct Handed {
    from: u64,
    to: u64,
    outcome: Outcome,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    /// The old primary is still it, and goes on.
    Failed(String),
    Hung(String),
}

/// What a node says of its part.
#[derive(Debug, Default, PartialEq)]
struct State {
    is_primary: bool,
    /// A replica follows it.
    is_followed: bool,
    /// What it says of a failover; none where it says nothing.
    failover: Option<String>,
}

impl State {
    /// Asks the node; none when it does not answer.
    fn of(port: u16) -> Option<State> {
        let mut client = Client::connect_for(port, Duration::from_secs(1)).ok()?;
        match client.call(&["INFO", "replication"]) {
            Ok(Reply::Text(text)) => Some(State::read(&String::from_utf8_lossy(&text))),
            _ => None,
        }
    }

    fn read(text: &str) -> State {
        let mut state = State::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "role" => state.is_primary = value == "master",
                "slave0" => state.is_followed = value.contains("state=online"),
                "master_failover_state" => state.failover = Some(value.to_owned()),
                _ => {}
            }
        }
        state
    }
}

/// How a failover ended, if it has.
fn ended(old: &State, new: &State, refusal: Option<&str>) -> Option<Outcome> {
    match (old.is_primary, new.is_primary) {
        (false, true) => Some(Outcome::Done),
        (true, false) => match refusal {
            Some(text) => Some(Outcome::Failed(text.to_owned())),
            None if old.failover.as_deref() == Some("no-failover") => {
                Some(Outcome::Failed("the old primary called it off".into()))
            }
            None => None,
        },
        _ => None,
    }
}

/// What is wrong with a pair whose failover does not end.
fn describe(states: &[Option<State>; 2], refusal: Option<&str>) -> String {
    let found = match states {
        [Some(old), Some(new)] => match (old.is_primary, new.is_primary) {
            (true, true) => "two primaries".to_owned(),
            (false, false) => "no primary".to_owned(),
            (_, true) => "done after all".to_owned(),
            (_, false) => "the old primary still tries".to_owned(),
        },
        [None, _] => "the old primary does not answer".to_owned(),
        [_, None] => "the target does not answer".to_owned(),
    };
    let said = refusal.map_or(String::new(), |text| {
        format!(" (FAILOVER was answered: {text})")
    });
    format!("hung for {} s: {found}{said}", LIMIT.as_secs())
}

/// What came of the writes of one connection.
#[derive(Default)]
struct Written {
    /// Every write below was sent.
    next: u64,
    /// Those of them that were not acknowledged.
    open: Vec<u64>,
    /// When any were, in microseconds, each once.
    times: Vec<u64>,
    /// Errors by kind: how many, and the first.
    errors: Errors,
}

type Errors = BTreeMap<String, (u64, String)>;

impl Written {
    fn acknowledged(&self) -> u64 {
        self.next - self.open.len() as u64
    }

    /// The acknowledged ones.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        (0..self.next).filter(|number| !self.open.contains(number))
    }

    fn error(&mut self, kind: &str, text: &str) {
        let known = self.errors.entry(kind.to_owned());
        known.or_insert_with(|| (0, text.to_owned())).0 += 1;
    }

    /// Takes the reply to a write.
    fn take(&mut self, number: u64, reply: Reply, now: u64) {
        match reply {
            Reply::Error(text) => self.error(kind_of(&text), &text),
            Reply::Text(text) if text == b"OK" => {
                self.open.retain(|open| *open != number);
                if self.times.last() != Some(&now) {
                    self.times.push(now);
                }
            }
            other => self.error("reply", &format!("{other:?}")),
        }
    }
}

/// Writes pipelines to whoever takes them until told to stop.
fn write(
    plan: &Plan,
    name: usize,
    ports: [u16; 2],
    begin: Instant,
    is_done: &AtomicBool,
) -> Written {
    let mut written = Written::default();
    let mut clients: [Option<Client>; 2] = [None, None];
    let (mut at, mut refusals) = (0, 0);
    while !is_done.load(Ordering::Relaxed) {
        if written.open.is_empty() {
            std::thread::sleep(Duration::from_millis(plan.pause_ms));
            let first = written.next;
            written.next += plan.pipeline as u64;
            written.open.extend(first..written.next);
        }
        let sent = written.open.clone();
        let client = match clients[at].take() {
            Some(client) => Ok(client),
            None => Client::connect_for(ports[at], LIMIT),
        };
        let answered = client.and_then(|mut client| {
            let make = |i: usize, out: &mut Vec<u8>| {
                let number = sent[i].to_string();
                client::encode(&["SET", &key(name, sent[i]), &number], out);
            };
            client.pipeline(sent.len(), make, |i, reply| {
                written.take(sent[i], reply, micros(begin));
            })?;
            clients[at] = Some(client);
            Ok(())
        });
        if let Err(e) = answered {
            written.error(break_of(&e), &e.to_string());
        }
        if written.open.is_empty() {
            refusals = 0;
            continue;
        }
        at = 1 - at;
        refusals += 1;
        if refusals > 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    written
}

fn key(writer: usize, number: u64) -> String {
    format!("c{writer}:{number}")
}

fn kind_of(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("empty")
}

/// The kind of what ended a connection.
fn break_of(error: &Error) -> &'static str {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    match error {
        Error::Os { source, .. } if matches!(source.kind(), TimedOut | WouldBlock) => "timeout",
        Error::Os { .. } | Error::Lost { .. } => "closed",
        _ => "reply",
    }
}

fn add_errors(errors: &mut Errors, written: &[Written]) {
    for (kind, (count, first)) in written.iter().flat_map(|w| &w.errors) {
        let known = errors.entry(kind.clone());
        known.or_insert_with(|| (0, first.clone())).0 += count;
    }
}

/// The longest time without one of `times`, of those that reach into `from..to`. The last goes on to
/// `end`.
fn gap(times: &[u64], from: u64, to: u64, end: u64) -> u64 {
    let first = times.partition_point(|time| *time <= from);
    let mut last = first.checked_sub(1).map_or(from, |at| times[at]);
    let mut longest = 0;
    for time in times[first..].iter().copied().chain([end]) {
        if last >= to {
            break;
        }
        longest = longest.max(time.saturating_sub(last));
        last = time;
    }
    longest
}

/// The value that this share of the sorted values does not exceed.
fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

fn micros(begin: Instant) -> u64 {
    begin.elapsed().as_micros() as u64
}

const GAPS: &str = "failover";
const TOTALS: &str = "failover-writes";
/// How long anything may take that a failover needs.
const LIMIT: Duration = Duration::from_secs(15);
/// Microseconds before and behind a failover that are looked at.
const TAIL: u64 = 200_000;
/// Keys asked for at once.
const BATCH: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Metric;

    #[test]
    fn every_note_names_figures_that_a_report_knows() {
        for (name, _, _, metrics) in NOTES {
            let is_known = |metric: &&str| Metric::named(metric).is_some();
            assert!(metrics.iter().all(is_known), "{name}");
        }
    }

    #[test]
    fn a_gap_is_the_longest_one_that_reaches_into_the_window() {
        let times = [10, 20, 70, 80, 95, 300];
        for (from, to, want) in [
            (15, 30, 50),    // begins within
            (30, 40, 50),    // around it
            (75, 90, 15),    // the long ones on either side do not reach in
            (70, 80, 10),    // bounds
            (90, 100, 205),  // ends behind it
            (0, 15, 10),     // nothing before it
            (310, 320, 700), // the end of the run ends the last one
        ] {
            assert_eq!(gap(&times, from, to, 1000), want, "{from}..{to}");
        }
        assert_eq!(gap(&[], 5, 10, 100), 95);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=50).collect();
        let of = |share| quantile(&values, share);
        assert_eq!([of(0.5), of(0.99), of(1.0)], [Some(25), Some(50), Some(50)]);
        assert_eq!(quantile(&[7], 0.5), Some(7));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn writes_count_once_they_are_acknowledged() {
        let mut written = Written {
            next: 4,
            open: vec![0, 1, 2, 3],
            ..Written::default()
        };
        written.take(0, Reply::Text("OK".into()), 5);
        written.take(1, Reply::Error("READONLY You can't".into()), 5);
        written.take(2, Reply::Text("OK".into()), 5);
        written.take(3, Reply::Error("READONLY again".into()), 6);
        assert_eq!((written.acknowledged(), &written.times), (2, &vec![5]));
        assert_eq!(written.numbers().collect::<Vec<_>>(), [0, 2]);
        let mut totals = Totals {
            gaps: vec![30, 10, 20],
            ..Totals::default()
        };
        add_errors(&mut totals.errors, &[written, Written::default()]);
        let figures = totals.figures();
        let of = |name: &str| figures[name];
        assert_eq!((of("gap_p50_us"), of("gap_max_us")), (20.0, 30.0));
        assert_eq!(of("errors_readonly"), 2.0);
        let want = ("READONLY".into(), (2, "READONLY You can't".into()));
        assert_eq!(totals.errors.into_iter().collect::<Vec<_>>(), [want]);
    }

    #[test]
    fn a_failover_ends_when_both_nodes_agree() {
        let state = |text: &str| State::read(text);
        let (primary, replica) = (state("# X\r\nrole:master\r\n"), state("role:slave\r\n"));
        let idle = state("role:master\r\nmaster_failover_state:no-failover\r\n");
        let busy = state("role:master\r\nmaster_failover_state:waiting-for-sync\r\n");
        let failed = |text: &str| Some(Outcome::Failed(text.into()));
        assert_eq!(ended(&replica, &primary, None), Some(Outcome::Done));
        assert_eq!(ended(&busy, &replica, None), None);
        assert_eq!(
            ended(&idle, &replica, None),
            failed("the old primary called it off")
        );
        assert_eq!(ended(&primary, &replica, Some("ERR no")), failed("ERR no"));
        for (old, new) in [
            (&primary, &replica),
            (&idle, &primary),
            (&replica, &replica),
        ] {
            assert_eq!(ended(old, new, None), None);
        }
        let followed = state("role:master\r\nslave0:ip=1,port=2,state=online,offset=1\r\n");
        assert!(followed.is_followed && !busy.is_followed);
        let both = [Some(idle), Some(primary)];
        assert_eq!(describe(&both, None), "hung for 15 s: two primaries");
    }
}
