//! Engines against each other and against the limit: same core, same load, turn by turn.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::engines::{Engine, Places, Running, version_of};
use crate::error::Error;
use crate::load::{self, FillReport, Measurement, Target};
use crate::record::{self, Congestion, Context};
use crate::spec::{LoadSpec, Mix, Span};
use crate::stats::{self, Spread};

/// What is compared, and how.
pub struct Plan {
    /// The chosen engines, in the order of their turns.
    pub engines: Vec<Engine>,
    /// Where their programs are.
    pub places: Places,
    /// The loads; not used by [`memory`].
    pub cells: Vec<Cell>,
    /// Turns of each engine in each cell.
    pub rounds: usize,
    /// What the loads have in common; the fill of [`memory`].
    pub load: LoadSpec,
    /// Whether that fill is out of order.
    pub shuffled: bool,
    /// Core of the engines.
    pub server_cpu: usize,
    /// Core of the load.
    pub load_cpu: usize,
    /// Directory of the records.
    pub out: PathBuf,
    /// The command line, for the record.
    pub flags: Vec<String>,
}

/// One kind of load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Which requests.
    pub mix: Mix,
    /// How many in flight per connection.
    pub pipeline: u32,
}

impl Cell {
    /// Reads `get/16` or `get:set=90:10/1`.
    pub fn parse(text: &str) -> Option<Cell> {
        let (mix, pipeline) = text.rsplit_once('/')?;
        let pipeline = pipeline.parse().ok().filter(|n| (1..=65_536).contains(n))?;
        Some(Cell {
            mix: mix.parse().ok()?,
            pipeline,
        })
    }

    fn name(&self) -> String {
        format!("{}/{}", self.mix, self.pipeline)
    }
}

/// An engine as the record knows it.
#[derive(Serialize)]
struct Known {
    name: String,
    version: String,
    command: String,
}

#[derive(Serialize)]
struct Row {
    cell: String,
    engine: String,
    round: usize,
    #[serde(flatten)]
    measured: Measurement,
}

#[derive(Serialize)]
struct FillRow {
    engine: String,
    round: usize,
    #[serde(flatten)]
    report: FillReport,
}

#[derive(Serialize)]
struct Record<'a, R> {
    context: &'a Context,
    engines: &'a [Known],
    rows: &'a [R],
}

/// Measures every cell on every engine in interleaved rounds, prints the table, keeps the rows.
///
/// # Errors
/// [`Error::NoEngines`], [`Error::Stopped`], or a record that cannot be written. An engine that fails
/// is reported and left out of the rest.
pub fn loads(plan: &Plan) -> Result<(), Error> {
    let congestion = Congestion::set(CONGESTION);
    let context = Context::gather(congestion.now.clone(), plan.flags.clone());
    print_context(&context);
    core_affinity::set_for_current(core_affinity::CoreId { id: plan.load_cpu });

    let mut known = Vec::new();
    let mut running = Vec::new();
    for (engine, program) in found(plan, |_| true)? {
        let version = version_of(&engine, &program);
        let started = Running::start(&engine, &program, plan.server_cpu, size_of(plan))
            .and_then(|server| load::preload(&target(plan, &server), &plan.load).map(|()| server));
        match started {
            Ok(server) => {
                let (name, command) = (server.name.clone(), server.command.clone());
                known.push(Known {
                    name,
                    version,
                    command,
                });
                running.push(server);
            }
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(e) => println!("{}: left out: {e}", engine.name),
        }
    }
    print_engines(&known);

    let mut rows = Vec::new();
    for cell in &plan.cells {
        let mut failed = Vec::new();
        for round in 1..=plan.rounds {
            for server in &running {
                if failed.contains(&server.name) {
                    continue;
                }
                match turn(plan, server, cell) {
                    Ok(measured) => rows.push(Row {
                        cell: cell.name(),
                        engine: server.name.clone(),
                        round,
                        measured,
                    }),
                    Err(Error::Stopped) => return Err(Error::Stopped),
                    Err(e) => {
                        println!("{}: left out from {} on: {e}", server.name, cell.name());
                        failed.push(server.name.clone());
                    }
                }
            }
        }
        rows.retain(|row: &Row| row.cell != cell.name() || !failed.contains(&row.engine));
        running.retain(|server| !failed.contains(&server.name));
        if running.is_empty() {
            return Err(Error::NoEngines);
        }
        print!("{}", cell_table(cell, &rows));
    }

    let place = record::place(&plan.out, &context, "loads")?;
    let csv = record::write(&place, "csv", &loads_csv(&rows))?;
    let record = Record {
        context: &context,
        engines: &known,
        rows: &rows,
    };
    let json = serde_json::to_string_pretty(&record).map_err(Error::Record)?;
    let json = record::write(&place, "json", &json)?;
    println!("\nrows: {} and {}", csv.display(), json.display());
    Ok(())
}

/// Fills every engine that stores, each time in a fresh process, and compares memory per key and the
/// slowest request.
///
/// # Errors
/// As [`loads`].
pub fn memory(plan: &Plan) -> Result<(), Error> {
    let congestion = Congestion::set(CONGESTION);
    let context = Context::gather(congestion.now.clone(), plan.flags.clone());
    print_context(&context);
    core_affinity::set_for_current(core_affinity::CoreId { id: plan.load_cpu });

    let mut engines = found(plan, |engine| engine.stores)?;
    let mut known: Vec<Known> = Vec::new();
    let mut rows: Vec<FillRow> = Vec::new();
    for round in 1..=plan.rounds {
        let mut failed = Vec::new();
        for (engine, program) in &engines {
            let filled = Running::start(engine, program, plan.server_cpu, size_of(plan)).and_then(
                |server| {
                    let report = load::fill(&target(plan, &server), &plan.load, plan.shuffled)?;
                    report.refused()?;
                    Ok((report, server.command.clone()))
                },
            );
            match filled {
                Ok((report, command)) => {
                    let name = engine.name.clone();
                    if round == 1 {
                        let version = version_of(engine, program);
                        known.push(Known {
                            name: name.clone(),
                            version,
                            command,
                        });
                    }
                    if report
                        .keys_stored
                        .is_some_and(|stored| stored != report.keys)
                    {
                        println!(
                            "{name}: holds {:?} keys instead of {}",
                            report.keys_stored, report.keys
                        );
                    }
                    rows.push(FillRow {
                        engine: name,
                        round,
                        report,
                    });
                }
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(e) => {
                    println!("{}: left out from round {round} on: {e}", engine.name);
                    failed.push(engine.name.clone());
                }
            }
        }
        engines.retain(|(engine, _)| !failed.contains(&engine.name));
    }
    if rows.is_empty() {
        return Err(Error::NoEngines);
    }
    print_engines(&known);
    print!("{}", memory_table(plan, &rows));

    let place = record::place(&plan.out, &context, "memory")?;
    let csv = record::write(&place, "csv", &memory_csv(&rows))?;
    let record = Record {
        context: &context,
        engines: &known,
        rows: &rows,
    };
    let json = serde_json::to_string_pretty(&record).map_err(Error::Record)?;
    let json = record::write(&place, "json", &json)?;
    println!("\nrows: {} and {}", csv.display(), json.display());
    Ok(())
}

/// The chosen engines that are installed; says which are not.
fn found(plan: &Plan, wanted: impl Fn(&Engine) -> bool) -> Result<Vec<(Engine, PathBuf)>, Error> {
    let mut found = Vec::new();
    for engine in plan.engines.iter().filter(|engine| wanted(engine)) {
        match plan.places.find(engine) {
            Some(program) => found.push((engine.clone(), program)),
            None => println!(
                "{}: not found, skipped (tried {})",
                engine.name,
                plan.places.tried(engine)
            ),
        }
    }
    if found.is_empty() {
        Err(Error::NoEngines)
    } else {
        Ok(found)
    }
}

fn size_of(plan: &Plan) -> usize {
    plan.load.size.max() as usize
}

fn target(plan: &Plan, server: &Running) -> Target {
    Target {
        host: "127.0.0.1".into(),
        port: server.port,
        socket: None,
        cpus: vec![plan.load_cpu],
        congestion: Some(CONGESTION.into()),
        server_pid: Some(server.pid()),
    }
}

fn turn(plan: &Plan, server: &Running, cell: &Cell) -> Result<Measurement, Error> {
    let spec = LoadSpec {
        mix: cell.mix.clone(),
        pipeline: cell.pipeline,
        warmup: Span(WARMUP),
        ..plan.load.clone()
    };
    let measured = load::run(&target(plan, server), &spec, &mut |_| ())?;
    measured.refused()?;
    Ok(measured)
}

fn print_context(context: &Context) {
    println!(
        "{}, {} x {}, kernel {}, commit {}",
        context.date,
        context.cpus,
        context.cpu,
        context.kernel,
        if context.commit.is_empty() {
            "unknown"
        } else {
            &context.commit
        }
    );
}

fn print_engines(known: &[Known]) {
    for engine in known {
        let version = if engine.version.is_empty() { "" } else { " - " };
        println!(
            "{}{version}{}: {}",
            engine.name, engine.version, engine.command
        );
    }
}

/// The values of each engine by round, engines in the order of their turns.
struct Series<'a> {
    names: Vec<&'a str>,
    values: BTreeMap<&'a str, Vec<f64>>,
}

impl<'a> Series<'a> {
    fn of<R: 'a>(
        rows: impl Iterator<Item = &'a R>,
        name: impl Fn(&'a R) -> &'a str,
        value: impl Fn(&R) -> f64,
    ) -> Self {
        let mut series = Series {
            names: Vec::new(),
            values: BTreeMap::new(),
        };
        for row in rows {
            let name = name(row);
            if !series.names.contains(&name) {
                series.names.push(name);
            }
            series.values.entry(name).or_default().push(value(row));
        }
        series
    }

    fn of_engine(&self, name: &str) -> &[f64] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    fn spread(&self, name: &str) -> Spread {
        Spread::of(self.of_engine(name)).unwrap_or(NOTHING)
    }

    fn ratio(&self, name: &str, base: &str) -> Spread {
        Spread::of_ratios(self.of_engine(name), self.of_engine(base)).unwrap_or(NOTHING)
    }

    /// `a < b = c`: ascending medians, `=` where neighbours differ by less than the spread.
    fn ranking(&self) -> String {
        let mut names = self.names.clone();
        names.sort_by(|a, b| self.spread(a).median.total_cmp(&self.spread(b).median));
        let mut text = String::new();
        for (i, name) in names.iter().enumerate() {
            if i > 0 {
                let order = stats::compare(self.of_engine(names[i - 1]), self.of_engine(name));
                text.push_str(if order.is_lt() { " < " } else { " = " });
            }
            text.push_str(name);
        }
        text
    }
}

fn cell_table(cell: &Cell, rows: &[Row]) -> String {
    let wanted = cell.name();
    let of = |value: fn(&Measurement) -> f64| {
        let rows = rows.iter().filter(|row| row.cell == wanted);
        Series::of(rows, |row| row.engine.as_str(), |row| value(&row.measured))
    };
    let ops = of(|m| m.ops_per_s);
    let cpu = of(|m| m.server_cpu_ns.unwrap_or(f64::NAN));
    let p99 = of(|m| m.latency.p99_us);
    let generator = of(|m| m.generator_busy);
    let others = of(|m| m.others_busy + m.stolen);
    let Some(base) = ops.names.first().copied() else {
        return String::new();
    };
    let rounds = ops.of_engine(base).len();

    let mut text = format!(
        "\n{}, pipeline {}, {rounds} rounds: median [spread]\n",
        cell.mix, cell.pipeline
    );
    let _ = writeln!(
        text,
        "  {:<14} {:>28} {:>26} {:>22} {:>20} {:>10}",
        "engine",
        "ops/s",
        "server CPU ns/request",
        format!("CPU / {base}"),
        format!("ops / {base}"),
        "p99 us"
    );
    for name in &ops.names {
        let _ = writeln!(
            text,
            "  {name:<14} {:>28} {:>26} {:>22} {:>20} {:>10.0}",
            show(ops.spread(name), 0),
            show(
                cpu.spread(name),
                if cpu.spread(name).median < 1000.0 {
                    1
                } else {
                    0
                }
            ),
            show(cpu.ratio(name, base), 2),
            show(ops.ratio(name, base), 2),
            p99.spread(name).median
        );
    }
    if rounds < stats::ROUNDS_MIN {
        let _ = writeln!(
            text,
            "  fewer than {} rounds: no ranking",
            stats::ROUNDS_MIN
        );
    } else {
        let _ = writeln!(text, "  CPU per request (= is a tie): {}", cpu.ranking());
    }
    let bound: Vec<&str> = ops
        .names
        .iter()
        .copied()
        .filter(|name| generator.spread(name).median > 0.95)
        .collect();
    if !bound.is_empty() {
        let _ = writeln!(
            text,
            "  the generator was busy throughout, ops/s may be its limit: {}",
            bound.join(", ")
        );
    }
    let disturbed: Vec<&str> = ops
        .names
        .iter()
        .copied()
        .filter(|name| others.spread(name).median > 0.05)
        .collect();
    if !disturbed.is_empty() {
        let _ = writeln!(
            text,
            "  other processes or the host took over 5 % of a core, measure again: {}",
            disturbed.join(", ")
        );
    }
    let odd = of(|m| (m.nils + m.wrong_length) as f64);
    let odd: Vec<&str> = ops
        .names
        .iter()
        .copied()
        .filter(|name| odd.of_engine(name).iter().any(|n| *n > 0.0))
        .collect();
    if !odd.is_empty() {
        let _ = writeln!(
            text,
            "  some GETs found no value or one of another length: {}",
            odd.join(", ")
        );
    }
    text
}

fn memory_table(plan: &Plan, rows: &[FillRow]) -> String {
    let of = |value: fn(&FillReport) -> f64| {
        Series::of(
            rows.iter(),
            |row| row.engine.as_str(),
            |row| value(&row.report),
        )
    };
    let per_key = of(|r| r.bytes_per_key.unwrap_or(f64::NAN));
    let slowest = of(|r| r.latency.max_us / 1e3);
    let tail = of(|r| r.latency.p9999_us / 1e3);
    let rate = of(|r| r.ops_per_s);
    let resident = of(|r| r.resident_after.unwrap_or(0) as f64 / 1e6);
    let order = if plan.shuffled {
        "shuffled"
    } else {
        "in order"
    };
    let mut text = format!(
        "\n{} keys of {} B with values of {} B, {order}, pipeline {}, {} round(s): median [spread]\n",
        plan.load.keys, plan.load.key_size, plan.load.size, plan.load.pipeline, plan.rounds
    );
    let _ = writeln!(
        text,
        "  {:<14} {:>24} {:>12} {:>28} {:>12} {:>28}",
        "engine", "bytes per key", "resident MB", "slowest request ms", "p99.99 ms", "inserts/s"
    );
    for name in &per_key.names {
        let _ = writeln!(
            text,
            "  {name:<14} {:>24} {:>12.1} {:>28} {:>12.2} {:>28}",
            show(per_key.spread(name), 1),
            resident.spread(name).median,
            show(slowest.spread(name), 2),
            tail.spread(name).median,
            show(rate.spread(name), 0)
        );
    }
    text
}

/// `median [low..high]`, the range only where there is one.
fn show(spread: Spread, decimals: usize) -> String {
    let Spread { median, low, high } = spread;
    if low == high {
        return format!("{median:.decimals$}");
    }
    format!("{median:.decimals$} [{low:.decimals$}..{high:.decimals$}]")
}

fn loads_csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "cell,engine,round,requests,seconds,ops_per_s,server_cpu_ns,server_busy,p50_us,p99_us,p999_us,max_us,\
         server_resident_bytes,voluntary_switches,involuntary_switches,generator_busy,others_busy,stolen\n",
    );
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.5}"));
    for Row {
        cell,
        engine,
        round,
        measured: m,
    } in rows
    {
        let _ = writeln!(
            text,
            "{cell},{engine},{round},{},{:.4},{:.1},{},{},{:.1},{:.1},{:.1},{:.1},{},{},{},{:.3},{:.3},{:.3}",
            m.requests,
            m.seconds,
            m.ops_per_s,
            number(m.server_cpu_ns),
            number(m.server_busy),
            m.latency.p50_us,
            m.latency.p99_us,
            m.latency.p999_us,
            m.latency.max_us,
            m.server_resident_bytes.unwrap_or(0),
            number(m.voluntary_switches),
            number(m.involuntary_switches),
            m.generator_busy,
            m.others_busy,
            m.stolen
        );
    }
    text
}

fn memory_csv(rows: &[FillRow]) -> String {
    let mut text = String::from(
        "engine,round,keys,seconds,ops_per_s,bytes_per_key,resident_before,resident_after,p50_us,p99_us,\
         p999_us,p9999_us,max_us,over_1ms,over_10ms,over_100ms,over_1000ms\n",
    );
    for FillRow {
        engine,
        round,
        report: r,
    } in rows
    {
        let slower: Vec<String> = r
            .slower_than_ms
            .iter()
            .map(|(_, count)| count.to_string())
            .collect();
        let _ = writeln!(
            text,
            "{engine},{round},{},{:.3},{:.1},{:.3},{},{},{:.1},{:.1},{:.1},{:.1},{:.1},{}",
            r.keys,
            r.seconds,
            r.ops_per_s,
            r.bytes_per_key.unwrap_or(f64::NAN),
            r.resident_before.unwrap_or(0),
            r.resident_after.unwrap_or(0),
            r.latency.p50_us,
            r.latency.p99_us,
            r.latency.p999_us,
            r.latency.p9999_us,
            r.latency.max_us,
            slower.join(",")
        );
    }
    text
}

const NOTHING: Spread = Spread {
    median: f64::NAN,
    low: f64::NAN,
    high: f64::NAN,
};
const CONGESTION: &str = "cubic";
const WARMUP: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_read_and_named_alike() {
        for text in ["get/1", "set/64", "get:set=90:10/16"] {
            assert_eq!(
                Cell::parse(text).map(|cell| cell.name()).as_deref(),
                Some(text)
            );
        }
        for bad in ["get", "get/0", "get/x", "flushall/1", "/1"] {
            assert_eq!(Cell::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_ranking_marks_ties() {
        let rows: Vec<(&str, f64)> = (0..5)
            .flat_map(|i| {
                let wobble = f64::from(i % 2) * 10.0;
                [
                    ("slow", 300.0 + wobble),
                    ("a", 105.0 - wobble),
                    ("b", 100.0 + wobble),
                ]
            })
            .collect();
        let series = Series::of(rows.iter(), |row| row.0, |row| row.1);
        assert_eq!(series.names, ["slow", "a", "b"]);
        assert_eq!(series.ranking(), "b = a < slow");
    }

    #[test]
    fn a_single_value_shows_no_range() {
        assert_eq!(
            show(
                Spread {
                    median: 1.25,
                    low: 1.25,
                    high: 1.25
                },
                1
            ),
            "1.2"
        );
        assert_eq!(
            show(
                Spread {
                    median: 2.0,
                    low: 1.0,
                    high: 3.0
                },
                0
            ),
            "2 [1..3]"
        );
    }
}
