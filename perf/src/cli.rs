//! The command line: reads it, runs one command, prints what it found.

use std::path::PathBuf;

use lexopt::prelude::*;
use serde_json::json;

use crate::error::Error;
use crate::load::{self, FillReport, Latency, Measurement, Target};
use crate::progress::{Bar, tell};
use crate::spec::{LoadSpec, Mix, Sizes, Verb};
use crate::{cluster, compare, failover, limit, report, sys};

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
            Some("cluster") => {
                let next = |mut rest: lexopt::RawArgs<'_>| rest.next_if(|word| word == "failover");
                if parser.try_raw_args().and_then(next).is_some() {
                    failover::main(parser, HELP)
                } else {
                    cluster::main(parser, HELP)
                }
            }
            _ => Err(lexopt::Error::UnexpectedArgument(command).into()),
        },
        Some(Long("help") | Short('h')) | None => help(),
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
    let listening = |port| tell!("limit: listening on port {port}");
    limit::serve(&config, listening, sys::is_stopped)
}

/// What `run` and `fill` take besides the load itself.
struct Place {
    target: Target,
    json: bool,
}

impl Place {
    fn new() -> Place {
        let target = Target {
            host: "127.0.0.1".into(),
            port: 6379,
            socket: None,
            cpus: Vec::new(),
            congestion: None,
            server_pid: None,
        };
        Place {
            target,
            json: false,
        }
    }

    /// Takes the value of an option of its own or of the load.
    fn take(
        &mut self,
        spec: &mut LoadSpec,
        option: &str,
        parser: &mut lexopt::Parser,
    ) -> Result<(), Error> {
        let target = &mut self.target;
        match option {
            "host" => target.host = parser.value()?.string()?,
            "port" => target.port = parser.value()?.parse()?,
            "socket" => target.socket = Some(PathBuf::from(parser.value()?)),
            "cc" => target.congestion = Some(parser.value()?.string()?),
            "server-pid" => target.server_pid = Some(parser.value()?.parse()?),
            "cpu" => target.cpus = parser.value()?.parse_with(cpus)?,
            "json" => self.json = true,
            _ if LoadSpec::FLAGS.contains(&option) => {
                spec.set(option, "")?;
            }
            _ if !spec.has(option) => {
                return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
            }
            _ => {
                spec.set(option, &parser.value()?.string()?)?;
            }
        }
        Ok(())
    }
}

fn run_load(mut parser: lexopt::Parser) -> Result<(), Error> {
    let (mut place, mut spec) = (Place::new(), LoadSpec::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") => return help(),
            Long(option) => {
                let option = option.to_owned();
                place.take(&mut spec, &option, &mut parser)?;
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let measured = {
        let mut bar = Bar::new(&spec);
        load::run(&place.target, &spec, &mut |progress| bar.show(progress))
    };
    let measured = match measured {
        Err(Error::Broken {
            source,
            requests,
            seconds,
        }) if place.json => {
            let failed = source.to_string();
            tell!(
                "{}",
                json!({ "failed": failed, "requests": requests, "seconds": seconds })
            );
            return Err(Error::Broken {
                source,
                requests,
                seconds,
            });
        }
        other => other?,
    };
    if place.json {
        tell!(
            "{}",
            serde_json::to_string(&measured).map_err(Error::Record)?
        );
    } else {
        print_measurement(&place.target, &spec, &measured);
    }
    measured.refused()
}

fn run_fill(mut parser: lexopt::Parser) -> Result<(), Error> {
    let mut place = Place::new();
    let mut spec = LoadSpec {
        mix: Mix::of(Verb::Set),
        keys: 10_000_000,
        size: Sizes::fixed(16),
        pipeline: 64,
        ..LoadSpec::default()
    };
    let mut shuffled = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("shuffle") => shuffled = true,
            Long("help") => return help(),
            Long(option) => {
                let option = option.to_owned();
                if !FILL_OPTIONS.contains(&option.as_str()) {
                    return Err(lexopt::Error::UnexpectedOption(format!("--{option}")).into());
                }
                place.take(&mut spec, &option, &mut parser)?;
            }
            _ => return Err(argument.unexpected().into()),
        }
    }
    let report = load::fill(&place.target, &spec, shuffled)?;
    if place.json {
        tell!("{}", serde_json::to_string(&report).map_err(Error::Record)?);
    } else {
        print_fill(&report);
    }
    report.refused()
}

/// Reads `1,2`.
fn cpus(text: &str) -> Result<Vec<usize>, std::num::ParseIntError> {
    text.split(',').map(str::parse).collect()
}

fn print_measurement(target: &Target, spec: &LoadSpec, m: &Measurement) {
    let kind = match spec.rate {
        Some(rate) => format!("open loop at {rate}/s"),
        None => "closed loop".into(),
    };
    tell!(
        "{:.0} ops/s  ({} requests in {:.2} s; {}, {kind}, {} connections, pipeline {})",
        m.ops_per_s,
        m.requests,
        m.seconds,
        spec.mix,
        spec.conns,
        spec.pipeline
    );
    print_latency("latency", &m.latency);
    if let Some(delivery) = &m.delivery {
        print_latency(&format!("delivery of {} messages", m.delivered), delivery);
    }
    if let (Some(pid), None) = (target.server_pid, m.server_cpu_ns) {
        tell!("server: process {pid} cannot be looked at");
    }
    if let (Some(ns), Some(busy)) = (m.server_cpu_ns, m.server_busy) {
        let calls = m
            .system_calls
            .map_or("unknown".into(), |calls| format!("{calls:.4}"));
        tell!(
            "server: {ns:.0} ns CPU per request, {:.0} % of a core, {:.1} MB resident",
            busy * 100.0,
            m.server_resident_bytes.unwrap_or(0) as f64 / 1e6,
        );
        tell!(
            "server per request: context switches {:.4} voluntary, {:.4} involuntary; system calls {calls}",
            m.voluntary_switches.unwrap_or(0.0),
            m.involuntary_switches.unwrap_or(0.0)
        );
    }
    tell!(
        "generator {:.0} % of a core{}, others {:.0} %, stolen {:.0} %",
        m.generator_busy * 100.0,
        if spec.threads > 1 {
            " (its busiest thread)"
        } else {
            ""
        },
        m.others_busy * 100.0,
        m.stolen * 100.0
    );
    if m.is_generator_bound() {
        tell!(
            "the generator was busy throughout and may be the bottleneck: only the server's CPU per \
             request speaks about the server"
        );
    }
    if let (Some(late), true) = (&m.generator_late, m.is_generator_late()) {
        print_latency(
            "the generator came late to its own requests, latency is partly its own:",
            late,
        );
    }
    m.errors_by_text
        .iter()
        .for_each(|(text, count)| tell!("{count} times: {text}"));
    m.mismatches_shown
        .iter()
        .for_each(|text| tell!("wrong: {text}"));
    let oddities = [
        (m.mismatches, "wrong replies"),
        (m.undelivered.unwrap_or(0), "messages lost"),
        (m.nils, "values not there"),
        (m.wrong_length, "values of another length"),
        (m.unanswered, "unanswered"),
    ];
    for (count, what) in oddities.iter().filter(|(count, _)| *count > 0) {
        tell!("{count} {what}");
    }
    if spec.verify && m.mismatches == 0 {
        tell!("every reply checked");
    }
}

fn print_latency(what: &str, l: &Latency) {
    tell!(
        "{what} us: mean {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1}",
        l.mean_us,
        l.p50_us,
        l.p90_us,
        l.p99_us,
        l.p999_us,
        l.p9999_us,
        l.max_us
    );
}

fn print_fill(r: &FillReport) {
    tell!(
        "{} keys in {:.2} s, {:.0} per second",
        r.keys,
        r.seconds,
        r.ops_per_s
    );
    if let (Some(before), Some(after), Some(per_key)) =
        (r.resident_before, r.resident_after, r.bytes_per_key)
    {
        let (before, after) = (before as f64 / 1e6, after as f64 / 1e6);
        tell!("resident {before:.1} MB before, {after:.1} MB after: {per_key:.1} bytes per key");
    }
    if let Some(ns) = r.server_cpu_ns {
        tell!("server: {ns:.0} ns CPU per key");
    }
    let l = &r.latency;
    tell!(
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
    tell!("slow requests: {}", slower.join(", "));
    match r.keys_stored {
        Some(stored) if stored != r.keys => {
            tell!("the server holds {stored} keys, not {}", r.keys)
        }
        Some(stored) => tell!("the server holds {stored} keys"),
        None => {}
    }
}

fn help() -> Result<(), Error> {
    tell!("{}", HELP.trim_end());
    Ok(())
}

const HELP: &str = "\
ringkeep-perf limit    a RESP responder without a store: the limit of this machine
  --port 7777  --bind 127.0.0.1  --cpu C  --size 64 (bytes answering GET)  --cc cubic

ringkeep-perf run      load on a server
  --host 127.0.0.1  --port 6379  --socket PATH (Unix socket instead)  --proto 2|3
  --conns 50  --pipeline 1 (requests in flight per connection)
  --threads 1  --cpu 1,2  generator threads and the cores they are pinned to in turn
  --mix get:set=90:10     with weights, of get set incr lpush lrange hset hget hgetall zadd zrange
                          sadd smembers xadd mset mget del publish; lists and streams grow
  --size 64|16-4096|64:90,4096:10   bytes of a value: one size, a range, or weighted
  --elements 10 (of a filled list, hash, set)  --width 10 (keys of MSET, MGET)
  --range 10 (elements of LRANGE, ZRANGE)  --ttl-share 10%  --ttl 1-60s (SETs that expire)
  --keys 100000  --key-size 16  --zipf 0.99 | --sequential (uniform otherwise)
  --subscribers 10  --channels 1    connections that listen when the mix publishes
  --preload               fill all keys first
  --verify                values tell key and version; every reply is checked (fills first)
  --duration 2s | --requests N      --warmup 300ms
  --rate N                open loop, requests per second in all; latency from the scheduled time
  --server-pid PID        tells CPU, memory, context switches and system calls of the server
  --cc NAME (congestion control of our end)  --json

ringkeep-perf fill     inserts every key once; memory per key and the slowest request
  --host --port --socket --cpu --server-pid --conns 50 --cc --json as above
  --keys 10000000  --key-size 16  --size 16  --pipeline 64  --shuffle

ringkeep-perf compare [SCENARIO...]   engines in turns: medians, spread, ratios; all scenarios
                                      when none is named
  --list    what there is             --scenarios perf/scenarios   directory of scenario files
  --engines limit,ringkeep,kevy,...   (those installed)   --file LIST   instead of engines.toml
  --peers ~/.cache/ringkeep/peers     --out perf/record
  --rounds N  --seconds T             instead of the scenarios' own
  --scale F   times as many keys, items and idle connections; --quick is a quarter
  --patient   take turns again that other processes disturbed
  --server-cpus 0  --load-cpus 1      instead of the first CPUs and the others
  --cells get/1,set/16   mix/pipeline: these loads instead of scenarios
              --conns 50  --keys 100000  --key-size 16  --size 64
  --memory    fills fresh engines instead: --keys 10000000  --size 16  --pipeline 64
              --shuffle  --rounds 1; bytes per key and the slowest request

ringkeep-perf cluster  replicas of one primary in turns: full sync, catching up, lag under load
  --primary kevy  --replicas ringkeep,kevy  --rounds 5  --keys 100000  --frames 300000 (missed writes)
  --rate 20000 (writes per second)  --seconds 2 (of lag)  --primary-cpu 0  --replica-cpu 1
  --file --peers --out as above

ringkeep-perf cluster failover  pairs of the same engine hand the primary's part to and fro under writes
  --engines ringkeep,kevy,redis-server  --rounds 10 (failovers)  --primary-cpu 0  --replica-cpu 1
  --file --peers --out as above

ringkeep-perf report [RECORD.json...]   a page with charts; of the newest records by default
  --records perf/record  --out target/report
";

/// What `fill` takes of the options of `run`.
const FILL_OPTIONS: [&str; 12] = [
    "host",
    "port",
    "socket",
    "cc",
    "server-pid",
    "cpu",
    "json",
    "conns",
    "keys",
    "key-size",
    "size",
    "pipeline",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_a_load_is_in_the_help() {
        let value = serde_json::to_value(LoadSpec::default()).expect("JSON");
        for name in value.as_object().expect("an object").keys() {
            assert!(HELP.contains(&format!("--{name}")), "{name}");
        }
        assert!(Verb::ALL.iter().all(|verb| HELP.contains(verb.name())));
    }
}
