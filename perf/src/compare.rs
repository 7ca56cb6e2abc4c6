//! Engines against each other and against the limit: same cores, same load, turn by turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::*;

use crate::client::Client;
use crate::drive::{self, CONGESTION, Figures, Site};
use crate::engines::{self, Engine, Places, Running, Setting, version_of};
use crate::error::Error;
use crate::progress::tell;
use crate::record::{
    Congestion, Context, Failure, Known, Mask, Note, Placement, Record, Row, Skipped,
};
use crate::scenario::{self, Beside, Cell, Fill, Scenario};
use crate::spec::{LoadSpec, Span};
use crate::stats::Spread;
use crate::summary;
use crate::sys;

/// Where things are and who takes part; `compare` and `cluster` share it.
pub struct Scene {
    /// The chosen engines with their programs, in the order of their turns.
    pub engines: Vec<(Engine, PathBuf)>,
    /// Those of the list that are not installed.
    pub skipped: Vec<Skipped>,
    /// What replaces places of this machine in the record.
    pub mask: Mask,
    /// Directory of the records.
    pub out: PathBuf,
    /// The CPUs that may be used.
    pub cpus: Vec<usize>,
}

/// The options that tell it.
pub struct SceneOptions {
    chosen: Option<String>,
    files: Vec<PathBuf>,
    peers: PathBuf,
    out: PathBuf,
}

impl Default for SceneOptions {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map_or(PathBuf::new(), PathBuf::from);
        SceneOptions {
            chosen: None,
            files: Vec::new(),
            peers: home.join(".cache/ringkeep/peers"),
            out: "perf/record".into(),
        }
    }
}

impl SceneOptions {
    /// Takes the value of an option known here; false for any other.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn take(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<bool, Error> {
        match option {
            "engines" => self.chosen = Some(parser.value()?.string()?),
            "file" => self.files.push(parser.value()?.into()),
            "peers" => self.peers = parser.value()?.into(),
            "out" => self.out = parser.value()?.into(),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the lists and looks for the programs.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Data`] of the lists; [`Error::NoEngines`].
    pub fn scene(self) -> Result<Scene, Error> {
        let mut known = Vec::new();
        for file in &self.files {
            let text = std::fs::read_to_string(file).map_err(Error::file(file))?;
            known.extend(engines::parse(file, &text)?);
        }
        if self.files.is_empty() {
            known = engines::parse(Path::new("engines.toml"), engines::BUILT_IN)?;
        }
        if let Some(chosen) = &self.chosen {
            let names: Vec<&str> = chosen.split(',').collect();
            let is_known = |name: &&str| known.iter().any(|engine| engine.name == *name);
            if !names.iter().all(is_known) {
                let expected = "names of the engine list, separated by commas";
                return Err(Error::Value {
                    option: "--engines",
                    expected,
                });
            }
            known.retain(|engine| names.contains(&engine.name.as_str()));
        }
        let places = Places {
            this: std::env::current_exe().map_err(Error::os("finding this program"))?,
            peers: self.peers,
            path: std::env::var_os("PATH")
                .iter()
                .flat_map(std::env::split_paths)
                .collect(),
        };
        let (mut engines, mut skipped) = (Vec::new(), Vec::new());
        for engine in known {
            match places.find(&engine) {
                Some(program) => engines.push((engine, program)),
                None => {
                    let why = format!("not found (tried {})", places.tried(&engine));
                    tell!("{}: {why}", engine.name);
                    skipped.push(Skipped {
                        engine: engine.name,
                        scenario: String::new(),
                        why,
                    });
                }
            }
        }
        if engines.is_empty() {
            return Err(Error::NoEngines);
        }
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        Ok(Scene {
            engines,
            skipped,
            mask: Mask::new(&places),
            out: self.out,
            cpus: cpus.iter().map(|core| core.id).collect(),
        })
    }
}

/// Reads the options of `compare`, runs the scenarios, prints tables, keeps the rows.
///
/// # Errors
/// [`Error::Stopped`], mistakes in options and data files, or a record that cannot be written. An
/// engine that fails is reported and left out of the rest of its scenario.
pub fn main(mut parser: lexopt::Parser, help: &str) -> Result<(), Error> {
    let (mut scene, mut chosen) = (SceneOptions::default(), Vec::new());
    let mut dir = None;
    let (mut rounds, mut seconds, mut scale) = (None, None, 1.0);
    let mut is_patient = false;
    let (mut server_cpus, mut load_cpus) = (None, None);
    let (mut cells, mut is_memory, mut shuffle, mut is_list) = (None, false, false, false);
    let mut load = LoadSpec {
        preload: true,
        ..LoadSpec::default()
    };
    let mut given: Vec<String> = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => chosen.push(name.string()?),
            Long("scenarios") => dir = Some(PathBuf::from(parser.value()?)),
            Long("rounds") => rounds = Some(parser.value()?.parse::<usize>()?),
            Long("seconds") => seconds = Some(read_span(&parser.value()?.string()?)?),
            Long("scale") => scale = parser.value()?.parse::<f64>()?,
            Long("quick") => scale = QUICK,
            Long("patient") => is_patient = true,
            Long("server-cpus" | "server-cpu") => server_cpus = Some(read_cpus(&mut parser)?),
            Long("load-cpus" | "load-cpu") => load_cpus = Some(read_cpus(&mut parser)?),
            Long("cells") => cells = Some(parser.value()?.string()?),
            Long("memory") => is_memory = true,
            Long("shuffle") => shuffle = true,
            Long("list") => is_list = true,
            Long("help") => {
                tell!("{}", help.trim_end());
                return Ok(());
            }
            Long(option @ ("keys" | "key-size" | "size" | "conns" | "pipeline")) => {
                let option = option.to_owned();
                load.set(&option, &parser.value()?.string()?)?;
                given.push(option);
            }
            Long(option) => {
                let option = option.to_owned();
                if !scene.take(&option, &mut parser)? {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let is_within = rounds.is_none_or(|n| (1..=10_000).contains(&n)) && scale > 0.0;
    if !is_within {
        let expected = "between 1 and 10000, and --scale above 0";
        return Err(Error::Value {
            option: "--rounds",
            expected,
        });
    }
    load.check()?;
    let mut scenarios = match (&cells, is_memory) {
        (Some(cells), false) => vec![of_cells(cells, &load)?],
        (None, true) => vec![of_memory(&load, &given, shuffle)?],
        (None, false) => scenario::read_all(&dir.unwrap_or_else(scenario_dir), &chosen)?,
        (Some(_), true) => {
            let expected = "given without --memory";
            return Err(Error::Value {
                option: "--cells",
                expected,
            });
        }
    };
    if is_list {
        for scenario in &scenarios {
            tell!("{:<14} {}", scenario.name, scenario.title);
        }
        return Ok(());
    }
    for scenario in &mut scenarios {
        scenario.scale(scale);
        scenario.rounds = rounds.unwrap_or(scenario.rounds);
        scenario.seconds = seconds.unwrap_or(scenario.seconds);
        scenario.server_cpus = server_cpus.clone().or(scenario.server_cpus.take());
        scenario.load_cpus = load_cpus.clone().or(scenario.load_cpus.take());
    }
    let scene = scene.scene()?;
    let congestion = Congestion::set(CONGESTION);
    let flags = std::env::args().skip(1).collect();
    let mut record = Record::new("compare", Context::gather(congestion.now.clone(), flags));
    record.skipped.clone_from(&scene.skipped);
    print_context(&record.context);
    let mut comparison = Comparison {
        scene,
        record,
        is_patient,
    };
    for scenario in &scenarios {
        comparison.run(scenario)?;
        comparison.scene_note(scenario);
        comparison
            .record
            .write(&comparison.scene.out, &comparison.scene.mask)?;
    }
    comparison.record.complete = true;
    let [json, csv] = comparison
        .record
        .write(&comparison.scene.out, &comparison.scene.mask)?;
    tell!("\nrows: {} and {}", csv.display(), json.display());
    Ok(())
}

/// The scenario that `--cells get/1,set/16` asks for.
fn of_cells(text: &str, load: &LoadSpec) -> Result<Scenario, Error> {
    let bad = || Error::Value {
        option: "--cells",
        expected: "a list such as get/1,set/16,get:set=90:10/64",
    };
    let cell = |text: &str| {
        let (mix, pipeline) = text.rsplit_once('/').ok_or_else(bad)?;
        let load = LoadSpec {
            mix: mix.parse().map_err(|_| bad())?,
            pipeline: pipeline.parse().map_err(|_| bad())?,
            ..load.clone()
        };
        load.check()?;
        Ok(Cell {
            name: Some(text.into()),
            pipelines: Vec::new(),
            load,
        })
    };
    let cell = text.split(',').map(cell).collect::<Result<_, Error>>()?;
    let metrics = ["ops_per_s", "server_cpu_ns", "p99_us"];
    Ok(Scenario {
        cell,
        store: false,
        ..ad_hoc("loads", "Loads of the command line", &metrics)
    })
}

/// The scenario that `--memory` asks for.
fn of_memory(load: &LoadSpec, given: &[String], shuffle: bool) -> Result<Scenario, Error> {
    let is_given = |option: &str| given.iter().any(|name| name == option);
    let Some(size) = load.size.only() else {
        return Err(Error::Value {
            option: "--size",
            expected: "one size with --memory",
        });
    };
    let fill = Fill {
        keys: if is_given("keys") {
            load.keys
        } else {
            10_000_000
        },
        key_size: load.key_size,
        size: if is_given("size") { size as usize } else { 16 },
        conns: load.conns,
        pipeline: if is_given("pipeline") {
            load.pipeline
        } else {
            64
        },
        shuffle,
    };
    let metrics = ["bytes_per_key", "max_us", "p9999_us", "ops_per_s"];
    let scenario = ad_hoc(
        "memory",
        "Memory per key and the slowest insertion",
        &metrics,
    );
    Ok(Scenario {
        fill: Some(fill),
        rounds: 1,
        ..scenario
    })
}

fn ad_hoc(name: &str, title: &str, metrics: &[&str]) -> Scenario {
    Scenario {
        name: name.into(),
        title: title.into(),
        analysis: "Asked for on the command line; see the flags.".into(),
        metrics: metrics.iter().map(ToString::to_string).collect(),
        rounds: 5,
        seconds: Span(Duration::from_secs(1)),
        warmup: Span(Duration::from_millis(200)),
        cores: vec![1],
        durability: engines::Durability::None,
        server_cpus: None,
        load_cpus: None,
        store: true,
        prepare: Vec::new(),
        fill: None,
        setup: Vec::new(),
        cell: Vec::new(),
        tail: None,
        stall: None,
        beside: None,
        restart: None,
        idle: None,
    }
}

/// The scenarios of the working directory, or of the checkout this program was built in.
fn scenario_dir() -> PathBuf {
    let here = PathBuf::from("perf/scenarios");
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.ancestors().nth(3).map(|root| root.join(&here));
    if here.is_dir() {
        here
    } else {
        beside.unwrap_or(here)
    }
}

fn read_cpus(parser: &mut lexopt::Parser) -> Result<Vec<usize>, Error> {
    let text = parser.value()?.string()?;
    let cpus: Option<Vec<usize>> = text.split(',').map(|word| word.parse().ok()).collect();
    cpus.ok_or(Error::Value {
        option: "--server-cpus and --load-cpus",
        expected: "a list such as 0,1",
    })
}

fn read_span(text: &str) -> Result<Span, Error> {
    let expected = "a time such as 2s or 300ms";
    let span = text.parse::<Span>().ok().filter(|span| !span.0.is_zero());
    span.ok_or(Error::Value {
        option: "--seconds",
        expected,
    })
}

/// Says where and on what a record is being made.
pub fn print_context(context: &Context) {
    let commit = if context.commit.is_empty() {
        "unknown"
    } else {
        &context.commit
    };
    let Context {
        date,
        cpus,
        cpu,
        kernel,
        ..
    } = context;
    tell!("{date}, {cpus} x {cpu}, kernel {kernel}, commit {commit}");
}

/// A comparison in progress.
struct Comparison {
    scene: Scene,
    record: Record,
    /// Takes a turn again in which other processes were busy.
    is_patient: bool,
}

/// One scenario on one number of cores.
struct Run<'a> {
    scenario: &'a Scenario,
    placement: Placement,
    live: Vec<Running>,
}

impl Run<'_> {
    /// The load comes from its CPUs, or from wherever there is time when they are the server's too.
    fn site<'a>(&'a self, server: &'a Running) -> Site<'a> {
        let placement = &self.placement;
        let shares = placement
            .load_cpus
            .iter()
            .any(|cpu| placement.server_cpus.contains(cpu));
        let cpus = if shares {
            &[][..]
        } else {
            &placement.load_cpus
        };
        Site { server, cpus }
    }
}

impl Comparison {
    fn run(&mut self, scenario: &Scenario) -> Result<(), Error> {
        tell!("\n{}: {}", scenario.name, scenario.title);
        let mut note = Note {
            name: scenario.name.clone(),
            title: scenario.title.clone(),
            analysis: scenario.analysis.clone(),
            metrics: scenario.metrics.clone(),
            placement: Vec::new(),
            definition: serde_json::to_value(scenario).map_err(Error::Record)?,
        };
        let mut runs = Vec::new();
        for &cores in &scenario.cores {
            match place(scenario, cores, &self.scene.cpus) {
                Some(placement) => {
                    note.placement.push(placement.clone());
                    runs.push(placement);
                }
                None => tell!("  {cores} cores: this machine has fewer, left out"),
            }
        }
        self.record.scenarios.push(note);
        for placement in runs {
            sys::pin(&placement.load_cpus).map_err(Error::os("pinning the load"))?;
            let run = Run {
                scenario,
                placement,
                live: Vec::new(),
            };
            if scenario.is_fresh() {
                self.run_fresh(run)?;
            } else {
                self.run_resident(run)?;
            }
        }
        Ok(())
    }

    fn scene_note(&self, scenario: &Scenario) {
        let note = self
            .record
            .scenarios
            .iter()
            .find(|note| note.name == scenario.name);
        if let Some(note) = note {
            tell!("{}", summary::table(&self.record, note).trim_end());
        }
    }

    /// All engines at once, in turns.
    fn run_resident(&mut self, mut run: Run<'_>) -> Result<(), Error> {
        for (engine, program) in self.taking_part(&run) {
            if let Some(server) = self.start(&run, &engine, &program, 1)? {
                run.live.push(server);
            }
        }
        let scenario = run.scenario;
        for (name, load) in scenario.cells() {
            self.run_cell(&mut run, &name, &load, scenario.rounds)?;
        }
        if let Some(beside) = &scenario.beside {
            self.run_beside(&mut run, beside)?;
        }
        self.run_tail(&mut run)
    }

    /// The same load without and with something beside it, one after the other in every turn.
    fn run_beside(&mut self, run: &mut Run<'_>, beside: &Beside) -> Result<(), Error> {
        let load = run.scenario.on_filled(&beside.load);
        let without = format!("without {}", beside.name);
        let with = format!("with {}", beside.name);
        for round in 1..=run.scenario.rounds {
            let mut at = 0;
            while at < run.live.len() {
                if is_over() {
                    return Err(Error::Stopped);
                }
                let name = run.live[at].name.clone();
                let site = run.site(&run.live[at]);
                let measured = self.undisturbed(|| site.run(&load)).and_then(|quiet| {
                    let figures = self.undisturbed(|| site.beside(beside, &load))?;
                    Ok((quiet, figures))
                });
                match measured {
                    Ok((quiet, mut figures)) => {
                        for (ratio, of) in [("p99_ratio", "p99_us"), ("p999_ratio", "p999_us")] {
                            if let (Some(a), Some(b)) = (quiet.get(of), figures.get(of)) {
                                figures.insert(ratio.into(), b / a);
                            }
                        }
                        self.add(run, &without, &name, round, quiet);
                        self.add(run, &with, &name, round, figures);
                        at += 1;
                    }
                    Err(e) => {
                        let error = run.live[at].blame(e);
                        self.fail(run, &with, &name, round, error)?;
                        run.live.remove(at);
                    }
                }
            }
        }
        Ok(())
    }

    /// One engine at a time, each turn with a new process.
    fn run_fresh(&mut self, run: Run<'_>) -> Result<(), Error> {
        let scenario = run.scenario;
        let mut engines = self.taking_part(&run);
        for round in 1..=scenario.rounds {
            let mut failed = Vec::new();
            for (engine, program) in &engines {
                let Some(mut server) = self.start(&run, engine, program, round)? else {
                    failed.push(engine.name.clone());
                    continue;
                };
                let (cell, measured) = if let Some(stall) = &scenario.stall {
                    let measured = run.site(&server).stall(stall, scenario.seconds);
                    (stall.name.clone(), measured)
                } else if let Some(idle) = &scenario.idle {
                    let measured = run.site(&server).idle(idle, scenario.seconds);
                    (format!("{} idle", idle.conns), measured)
                } else if let (Some(restart), Some(fill)) = (&scenario.restart, &scenario.fill) {
                    let measured = drive::restart(&mut server, restart, fill.keys);
                    (restart.name.clone(), measured)
                } else {
                    continue;
                };
                match measured {
                    Ok(figures) => self.add(&run, &cell, &engine.name, round, figures),
                    Err(e) => {
                        self.fail(&run, &cell, &engine.name, round, server.blame(e))?;
                        failed.push(engine.name.clone());
                    }
                }
            }
            engines.retain(|(engine, _)| !failed.contains(&engine.name));
        }
        Ok(())
    }

    /// The engines a scenario is for; notes the others.
    fn taking_part(&mut self, run: &Run<'_>) -> Vec<(Engine, PathBuf)> {
        let (scenario, cores) = (run.scenario, run.placement.cores);
        let (mut taking_part, mut skipped) = (Vec::new(), Vec::new());
        for (engine, program) in &self.scene.engines {
            if scenario.store && !engine.stores {
                continue;
            }
            let why = if engine.cores_max.is_some_and(|max| cores > max) {
                Some(format!("cannot use {cores} cores"))
            } else if !engine.durability.contains_key(&scenario.durability) {
                Some(format!("offers no durability \"{}\"", scenario.durability))
            } else {
                taking_part.push((engine.clone(), program.clone()));
                None
            };
            skipped.extend(why.map(|why| Skipped {
                engine: engine.name.clone(),
                scenario: scenario.name.clone(),
                why,
            }));
        }
        self.record.skipped.extend(skipped);
        taking_part
    }

    /// Starts an engine and puts in what the scenario needs; none when it fails at that.
    fn start(
        &mut self,
        run: &Run<'_>,
        engine: &Engine,
        program: &Path,
        round: usize,
    ) -> Result<Option<Running>, Error> {
        if is_over() {
            return Err(Error::Stopped);
        }
        let scenario = run.scenario;
        let setting = Setting {
            cpus: &run.placement.server_cpus,
            threads: run.placement.cores,
            durability: scenario.durability,
            size: scenario.value_size(),
            role: None,
        };
        let mut server = match Running::start(engine, program, setting) {
            Ok(server) => server,
            Err(e) => {
                self.fail(run, "start", &engine.name, round, e)?;
                return Ok(None);
            }
        };
        know(&mut self.record, engine, program, &server);
        let mut cell = "prepare".to_owned();
        let mut prepared = Ok(());
        if !scenario.prepare.is_empty() {
            prepared = Client::connect(server.port).and_then(|mut client| {
                scenario
                    .prepare
                    .iter()
                    .try_for_each(|args| client.call(args).map(drop))
            });
        }
        if let (Ok(()), Some(fill)) = (&prepared, &scenario.fill) {
            cell = "fill".into();
            prepared = run
                .site(&server)
                .fill(fill)
                .map(|figures| self.add(run, &cell, &engine.name, round, figures));
        }
        for setup in &scenario.setup {
            if prepared.is_ok() {
                cell.clone_from(&setup.name);
                prepared = run
                    .site(&server)
                    .set_up(setup)
                    .map(|figures| self.add(run, &cell, &engine.name, round, figures));
            }
        }
        match prepared {
            Ok(()) => Ok(Some(server)),
            Err(e) => {
                self.fail(run, &cell, &engine.name, round, server.blame(e))?;
                Ok(None)
            }
        }
    }

    /// Gives every live engine its turns of one load.
    fn run_cell(
        &mut self,
        run: &mut Run<'_>,
        cell: &str,
        load: &LoadSpec,
        rounds: usize,
    ) -> Result<(), Error> {
        let mut failed: Vec<String> = Vec::new();
        let mut dead: Vec<String> = Vec::new();
        for round in 0..=rounds {
            for at in 0..run.live.len() {
                let name = run.live[at].name.clone();
                if failed.contains(&name) {
                    continue;
                }
                if is_over() {
                    return Err(Error::Stopped);
                }
                let turn = match round {
                    // Round 0 only puts in what the others read.
                    0 if load.preload => run.site(&run.live[at]).preload(load).map(|()| None),
                    0 => Ok(None),
                    _ => {
                        let site = run.site(&run.live[at]);
                        self.undisturbed(|| site.run(load)).map(Some)
                    }
                };
                match turn {
                    Ok(None) => {}
                    Ok(Some(figures)) => self.add(run, cell, &name, round, figures),
                    Err(e) => {
                        let error = run.live[at].blame(e);
                        if !matches!(error, Error::Refused { .. }) {
                            dead.push(name.clone());
                        }
                        self.fail(run, cell, &name, round, error)?;
                        failed.push(name);
                    }
                }
            }
        }
        run.live.retain(|server| !dead.contains(&server.name));
        Ok(())
    }

    /// A turn; of a patient comparison one in which other processes left the cores alone, if there is such.
    fn undisturbed(&self, turn: impl Fn() -> Result<Figures, Error>) -> Result<Figures, Error> {
        let mut tries = if self.is_patient { TRIES } else { 1 };
        loop {
            let figures = turn()?;
            let others = figures.get("others_busy").copied().unwrap_or(0.0);
            tries -= 1;
            if others < DISTURBED || tries == 0 || is_over() {
                return Ok(figures);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Finds the best peer's peak and asks every engine for a share of it.
    fn run_tail(&mut self, run: &mut Run<'_>) -> Result<(), Error> {
        let Some(tail) = &run.scenario.tail else {
            return Ok(());
        };
        let peak = LoadSpec {
            pipeline: tail.peak_pipeline,
            duration: tail.peak_seconds,
            warmup: run.scenario.warmup,
            ..tail.load.clone()
        };
        self.run_cell(run, PEAK, &peak, PEAK_ROUNDS)?;
        let is_peer = |name: &str| {
            let known = self
                .scene
                .engines
                .iter()
                .find(|(engine, _)| engine.name == name);
            known.is_some_and(|(engine, _)| engine.peer)
        };
        let has_peer = run.live.iter().any(|server| is_peer(&server.name));
        let best = run
            .live
            .iter()
            .filter(|server| !has_peer || is_peer(&server.name))
            .filter_map(|server| {
                let cell = (PEAK, run.placement.cores);
                let rows = summary::rows_of(&self.record.rows, &run.scenario.name, cell);
                let values: Vec<f64> = rows
                    .filter(|row| row.engine == server.name)
                    .filter_map(|row| row.metrics.get("ops_per_s").copied())
                    .collect();
                Some((Spread::of(&values)?.median, server.name.clone()))
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((ops_per_s, name)) = best else {
            return Ok(());
        };
        let load = LoadSpec {
            rate: Some((ops_per_s * tail.share).round().max(1.0)),
            duration: run.scenario.seconds,
            warmup: run.scenario.warmup,
            preload: false,
            ..tail.load.clone()
        };
        let cell = format!("at {:.0} % of {name}'s peak", tail.share * 100.0);
        self.run_cell(run, &cell, &load, run.scenario.rounds)
    }

    fn add(&mut self, run: &Run<'_>, cell: &str, engine: &str, round: usize, metrics: Figures) {
        self.record.rows.push(Row {
            scenario: run.scenario.name.clone(),
            cell: cell.into(),
            engine: engine.into(),
            round,
            cores: run.placement.cores,
            metrics,
        });
    }

    /// Keeps a failure and drops the rows of the cell it happened in: half of a cell is none.
    ///
    /// # Errors
    /// [`Error::Stopped`] when that is what happened.
    fn fail(
        &mut self,
        run: &Run<'_>,
        cell: &str,
        engine: &str,
        round: usize,
        error: Error,
    ) -> Result<(), Error> {
        if matches!(error, Error::Stopped) || sys::is_stopped() {
            return Err(Error::Stopped);
        }
        tell!("  {engine}: failed in {cell}, round {round}: {error}");
        let (why, log) = match error {
            Error::Engine { why, log, .. } => (why, log),
            error => (error.to_string(), Vec::new()),
        };
        let scenario = run.scenario.name.clone();
        let cores = run.placement.cores;
        self.record.rows.retain(|row| {
            row.scenario != scenario
                || row.cell != cell
                || row.engine != engine
                || row.cores != cores
        });
        self.record.failures.push(Failure {
            scenario,
            cell: cell.into(),
            engine: engine.into(),
            round,
            why,
            log,
        });
        Ok(())
    }
}

/// Whether a signal came, or nobody reads the results any more: then the comparison ends in order, so
/// that its servers are stopped.
pub fn is_over() -> bool {
    sys::is_stopped() || sys::is_output_gone()
}

/// Enters an engine into the record the first time it runs.
pub fn know(record: &mut Record, engine: &Engine, program: &Path, server: &Running) {
    if record.engines.iter().all(|known| known.name != engine.name) {
        record.engines.push(Known {
            name: engine.name.clone(),
            version: version_of(engine, program),
            command: server.command.clone(),
        });
    }
}

/// The first CPUs for the engines, the others for the load; all for both where none is left. None
/// when there are not enough.
fn place(scenario: &Scenario, cores: usize, all: &[usize]) -> Option<Placement> {
    let server_cpus = match &scenario.server_cpus {
        Some(cpus) => cpus.clone(),
        None => all.get(..cores)?.to_vec(),
    };
    let left: Vec<usize> = all
        .iter()
        .copied()
        .filter(|cpu| !server_cpus.contains(cpu))
        .collect();
    let load_cpus = match &scenario.load_cpus {
        Some(cpus) => cpus.clone(),
        None if left.is_empty() => all.to_vec(),
        None => left,
    };
    Some(Placement {
        cores,
        server_cpus,
        load_cpus,
    })
}

const QUICK: f64 = 0.25;
/// Of a core, from which on a patient comparison takes a turn again.
const DISTURBED: f64 = 0.1;
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(500);
const PEAK: &str = "peak";
const PEAK_ROUNDS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Sizes;

    #[test]
    fn cells_of_the_command_line_become_a_scenario() {
        let load = LoadSpec::default();
        let scenario = of_cells("get/1,get:set=90:10/16", &load).expect("cells");
        let names: Vec<String> = scenario.cells().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["get/1", "get:set=90:10/16"]);
        for bad in ["get", "get/0", "get/x", "move/1", "/1", ""] {
            assert!(of_cells(bad, &load).is_err(), "{bad}");
        }
    }

    #[test]
    fn engines_get_the_first_cpus_and_the_load_the_others() {
        let mut scenario = of_cells("get/1", &LoadSpec::default()).expect("cells");
        let cpus = |scenario: &Scenario, cores, all: &[usize]| {
            place(scenario, cores, all).map(|placed| (placed.server_cpus, placed.load_cpus))
        };
        assert_eq!(cpus(&scenario, 1, &[0, 1, 5]), Some((vec![0], vec![1, 5])));
        assert_eq!(cpus(&scenario, 2, &[0, 1]), Some((vec![0, 1], vec![0, 1])));
        assert_eq!(cpus(&scenario, 2, &[3]), None);
        (scenario.server_cpus, scenario.load_cpus) = (Some(vec![7]), Some(vec![0]));
        assert_eq!(cpus(&scenario, 1, &[0, 1, 7]), Some((vec![7], vec![0])));
    }

    #[test]
    fn memory_has_its_own_defaults() {
        let fill = |given: &[String]| {
            let load = LoadSpec {
                size: Sizes::fixed(9),
                ..LoadSpec::default()
            };
            of_memory(&load, given, false)
                .expect("a scenario")
                .fill
                .expect("a fill")
        };
        let plain = fill(&[]);
        assert_eq!(
            (plain.keys, plain.size, plain.pipeline),
            (10_000_000, 16, 64)
        );
        let given = fill(&["keys".into(), "size".into()]);
        assert_eq!((given.keys, given.size, given.pipeline), (100_000, 9, 64));
    }
}
