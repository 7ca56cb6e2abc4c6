//! The command line: reads it, runs one command, prints what it found.

use std::time::Duration;

use lexopt::prelude::*;

use crate::error::Error;
use crate::keys::KeySpace;
use crate::load::{FillReport, Generator, Load, Measurement, Mix, Target};
use crate::{cluster, compare, limit, report, sys};

/// Reads the command line of the process and does what it says.
///
/// # Errors
/// Whatever ended the command; it has not been printed.
pub fn main() -> Result<(), Error> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(command)) => match command.to_str() {
            Some("limit") => run_limit(parser),
            Some("run") => run_load(parser),
            Some("fill") => run_fill(parser),
            Some("compare") => compare::main(parser, HELP),
            Some("report") => report::main(parser, HELP),
            Some("cluster") => cluster::main(parser, HELP),
            _ => Err(lexopt::Error::UnexpectedArgument(command).into()),
        },
        Some(Long("help") | Short('h')) | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(argument) => Err(argument.unexpected().into()),
    }
}

fn run_limit(mut parser: lexopt::Parser) -> Result<(), Error> {
    let mut config = limit::Config {
        bind: "127.0.0.1".into(),
        port: 7777,
        cpu: None,
        bulk: 64,
        congestion: "cubic".into(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => config.port = parser.value()?.parse()?,
            Long("bind") => config.bind = parser.value()?.string()?,
            Long("cpu") => config.cpu = Some(parser.value()?.parse()?),
            Long("size") => config.bulk = parser.value()?.parse()?,
            Long("cc") => config.congestion = parser.value()?.string()?,
            Long("help") => return help(),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let listening = |port| println!("limit: listening on port {port}");
    limit::serve(&config, listening, sys::is_stopped)
}

/// What `run` and `fill` share.
struct Common {
    target: Target,
    cpu: Option<usize>,
    keys: u64,
    key_size: usize,
    size: usize,
    pipeline: u32,
    json: bool,
}

impl Common {
    fn new(keys: u64, size: usize, pipeline: u32) -> Common {
        Common {
            target: Target {
                host: "127.0.0.1".into(),
                port: 6379,
                conns: 50,
                congestion: None,
                server_pid: None,
            },
            cpu: None,
            keys,
            key_size: 16,
            size,
            pipeline,
            json: false,
        }
    }

    /// Takes the value of an option known here; false for any other.
    fn take(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<bool, Error> {
        match option {
            "host" => self.target.host = parser.value()?.string()?,
            "port" => self.target.port = parser.value()?.parse()?,
            "conns" => self.target.conns = parser.value()?.parse()?,
            "cc" => self.target.congestion = Some(parser.value()?.string()?),
            "server-pid" => self.target.server_pid = Some(parser.value()?.parse()?),
            "cpu" => self.cpu = Some(parser.value()?.parse()?),
            "keys" => self.keys = parser.value()?.parse()?,
            "key-size" => self.key_size = parser.value()?.parse()?,
            "size" => self.size = parser.value()?.parse()?,
            "pipeline" => self.pipeline = parser.value()?.parse()?,
            "json" => self.json = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&self) -> Result<KeySpace, Error> {
        within(
            "--conns",
            self.target.conns as u64,
            1,
            60_000,
            "between 1 and 60000",
        )?;
        within(
            "--pipeline",
            self.pipeline.into(),
            1,
            65_536,
            "between 1 and 65536",
        )?;
        within("--size", self.size as u64, 0, 512 << 20, "at most 512 MB")?;
        KeySpace::new(self.keys, self.key_size)
    }

    fn connect(&self) -> Result<Generator, Error> {
        if let Some(id) = self.cpu {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        Generator::connect(&self.target)
    }
}

fn run_load(mut parser: lexopt::Parser) -> Result<(), Error> {
    let mut common = Common::new(100_000, 64, 1);
    let (mut mix, mut preload, mut rate) = (Mix::GET, false, None);
    let (mut duration, mut warmup) = (Duration::from_secs(2), Duration::from_millis(300));
    while let Some(argument) = parser.next()? {
        match argument {
            Long("mix") => {
                let expected = "get, set or get:set=90:10";
                let bad = Error::Value {
                    option: "--mix",
                    expected,
                };
                mix = Mix::parse(&parser.value()?.string()?).ok_or(bad)?;
            }
            Long("duration") => duration = span("--duration", &parser.value()?.string()?)?,
            Long("warmup") => warmup = span("--warmup", &parser.value()?.string()?)?,
            Long("rate") => rate = Some(parser.value()?.parse::<f64>()?),
            Long("preload") => preload = true,
            Long("help") => return help(),
            Long(option) => {
                let option = option.to_owned();
                if !common.take(&option, &mut parser)? {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    if rate.is_some_and(|rate| !(1.0..=1e9).contains(&rate)) {
        return Err(Error::Value {
            option: "--rate",
            expected: "between 1 and 10^9 requests per second",
        });
    }
    let space = common.check()?;
    let mut generator = common.connect()?;
    if preload {
        generator.preload(space, common.size)?;
    }
    let load = Load {
        mix,
        pipeline: common.pipeline,
        space,
        size: common.size,
        warmup,
        duration,
        rate,
    };
    let measured = generator.run(&load)?;
    if common.json {
        println!(
            "{}",
            serde_json::to_string(&measured).map_err(Error::Record)?
        );
    } else {
        print_measurement(&common, &load, &measured);
    }
    generator.refused()
}

fn run_fill(mut parser: lexopt::Parser) -> Result<(), Error> {
    let mut common = Common::new(10_000_000, 16, 64);
    let mut shuffled = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("shuffle") => shuffled = true,
            Long("help") => return help(),
            Long(option) => {
                let option = option.to_owned();
                if !common.take(&option, &mut parser)? {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let space = common.check()?;
    let mut generator = common.connect()?;
    let report = generator.fill(space, common.size, common.pipeline, shuffled)?;
    if common.json {
        println!("{}", serde_json::to_string(&report).map_err(Error::Record)?);
    } else {
        print_fill(&report);
    }
    generator.refused()
}

fn print_measurement(common: &Common, load: &Load, m: &Measurement) {
    let kind = match load.rate {
        Some(rate) => format!("open loop at {rate}/s"),
        None => "closed loop".into(),
    };
    println!(
        "{:.0} ops/s  ({} requests in {:.2} s; {}, {kind}, {} connections, pipeline {})",
        m.ops_per_s, m.requests, m.seconds, load.mix, common.target.conns, load.pipeline
    );
    let l = &m.latency;
    println!(
        "latency us: mean {:.1}  p50 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
        l.mean_us, l.p50_us, l.p99_us, l.p999_us, l.max_us
    );
    if let (Some(pid), None) = (common.target.server_pid, m.server_cpu_ns) {
        println!("server: there is no process {pid}");
    }
    if let (Some(ns), Some(busy)) = (m.server_cpu_ns, m.server_busy) {
        println!(
            "server: {ns:.0} ns CPU per request, {:.0} % of a core, {:.1} MB resident, \
             context switches per request {:.4} voluntary, {:.4} involuntary",
            busy * 100.0,
            m.server_resident_bytes.unwrap_or(0) as f64 / 1e6,
            m.voluntary_switches.unwrap_or(0.0),
            m.involuntary_switches.unwrap_or(0.0)
        );
    }
    println!(
        "generator {:.0} % of a core, others {:.0} %, stolen {:.0} %",
        m.generator_busy * 100.0,
        m.others_busy * 100.0,
        m.stolen * 100.0
    );
    if m.generator_busy > 0.95 && load.rate.is_none() {
        println!(
            "the generator was the bottleneck: only the server's CPU per request speaks about the server"
        );
    }
    let oddities = [
        (m.errors, "error replies"),
        (m.nils, "GETs without a value"),
        (m.wrong_length, "values of another length"),
        (m.unanswered, "unanswered"),
    ];
    for (count, what) in oddities.iter().filter(|(count, _)| *count > 0) {
        println!("{count} {what}");
    }
}

fn print_fill(r: &FillReport) {
    println!(
        "{} keys in {:.2} s, {:.0} per second",
        r.keys, r.seconds, r.ops_per_s
    );
    if let (Some(before), Some(after), Some(per_key)) =
        (r.resident_before, r.resident_after, r.bytes_per_key)
    {
        let (before, after) = (before as f64 / 1e6, after as f64 / 1e6);
        println!("resident {before:.1} MB before, {after:.1} MB after: {per_key:.1} bytes per key");
    }
    if let Some(ns) = r.server_cpu_ns {
        println!("server: {ns:.0} ns CPU per key");
    }
    let l = &r.latency;
    println!(
        "latency ms: p50 {:.3}  p99 {:.3}  p99.9 {:.3}  p99.99 {:.3}  slowest {:.3}",
        l.p50_us / 1e3,
        l.p99_us / 1e3,
        l.p999_us / 1e3,
        l.p9999_us / 1e3,
        l.max_us / 1e3
    );
    let slower: Vec<String> = r
        .slower_than_ms
        .iter()
        .map(|(ms, count)| format!("{count} over {ms} ms"))
        .collect();
    println!("slow requests: {}", slower.join(", "));
    match r.keys_stored {
        Some(stored) if stored != r.keys => {
            println!("the server holds {stored} keys, not {}", r.keys)
        }
        Some(stored) => println!("the server holds {stored} keys"),
        None => {}
    }
}

fn within(
    option: &'static str,
    value: u64,
    low: u64,
    high: u64,
    expected: &'static str,
) -> Result<(), Error> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(Error::Value { option, expected })
    }
}

/// Reads `2s`, `300ms`, `0.2` (seconds), up to a day.
fn span(option: &'static str, text: &str) -> Result<Duration, Error> {
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1e-3),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|n| n * unit);
    match seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err(Error::Value {
            option,
            expected: "a time such as 2s or 300ms",
        }),
    }
}

fn help() -> Result<(), Error> {
    print!("{HELP}");
    Ok(())
}

const HELP: &str = "\
ringkeep-perf limit    a RESP responder without a store: the limit of this machine
  --port 7777  --bind 127.0.0.1  --cpu C  --size 64 (bytes answering GET)  --cc cubic

ringkeep-perf run      load on a server
  --host 127.0.0.1  --port 6379  --cpu C  --server-pid PID  --conns 50  --pipeline 1
  --mix get|set|get:set=90:10  --keys 100000  --key-size 16  --size 64  --preload
  --duration 2s  --warmup 300ms  --cc NAME (congestion control of our end)  --json
  --rate N    open loop, requests per second in all; latency from the scheduled time

ringkeep-perf fill     inserts every key once; memory per key and the slowest request
  --host --port --cpu --server-pid --conns 50 --cc --json as above
  --keys 10000000  --key-size 16  --size 16  --pipeline 64  --shuffle

ringkeep-perf compare [SCENARIO...]   engines in turns: medians, spread, ratios; all scenarios
                                      when none is named
  --list    what there is             --scenarios perf/scenarios   directory of scenario files
  --engines limit,ringkeep,kevy,...   (those installed)   --file LIST   instead of engines.toml
  --peers ~/.cache/ringkeep/peers     --out perf/record
  --rounds N  --seconds T             instead of the scenarios' own
  --scale F   times as many keys, items and idle connections; --quick is a quarter
  --server-cpus 0  --load-cpus 1      instead of the first CPUs and the others
  --cells get/1,set/16   mix/pipeline: these loads instead of scenarios
              --conns 50  --keys 100000  --key-size 16  --size 64
  --memory    fills fresh engines instead: --keys 10000000  --size 16  --pipeline 64
              --shuffle  --rounds 1; bytes per key and the slowest request

ringkeep-perf cluster  replicas of one primary in turns: full sync, catching up, lag under load
  --primary kevy  --replicas ringkeep,kevy  --rounds 5  --keys 100000  --frames 300000 (missed writes)
  --rate 20000 (writes per second)  --seconds 2 (of lag)  --primary-cpu 0  --replica-cpu 1
  --file --peers --out as above

ringkeep-perf report [RECORD.json...]   a page with charts; of the newest records by default
  --records perf/record  --out target/report
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_with_their_unit() {
        assert_eq!(span("--duration", "2s").ok(), Some(Duration::from_secs(2)));
        assert_eq!(
            span("--duration", "300ms").ok(),
            Some(Duration::from_millis(300))
        );
        assert_eq!(
            span("--duration", "0.5").ok(),
            Some(Duration::from_millis(500))
        );
        for bad in ["", "s", "-1s", "1h", "NaN", "1e99"] {
            assert!(span("--duration", bad).is_err(), "{bad}");
        }
    }
}
