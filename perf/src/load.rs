//! A load and what it showed: threads of generators against one server, and their counts put together.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;
use crate::generator::{Generator, Phase, Shared, Tally};
use crate::hist::Histogram;
use crate::probe::{Machine, Process, SystemCalls, resident_bytes};
use crate::request::Filling;
use crate::resp::Errors;
use crate::spec::LoadSpec;
use crate::sys;

/// Where to, from where, and how to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Unix socket, instead of host and port.
    pub socket: Option<PathBuf>,
    /// Cores of the generator's threads, in turn; not pinned when empty.
    pub cpus: Vec<usize>,
    /// Congestion control of our end; the system's when none.
    pub congestion: Option<String>,
    /// The server's process, if it is on this machine.
    pub server_pid: Option<u32>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 9 in ten are no slower.
    pub p90_us: f64,
    /// 99 in a hundred.
    pub p99_us: f64,
    /// 999 in a thousand.
    pub p999_us: f64,
    /// 9999 in ten thousand.
    pub p9999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Latency {
        let us = |q| histogram.quantile(q) as f64 / 1e3;
        Latency {
            mean_us: histogram.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            p9999_us: us(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// What a load showed. Shares are of one core.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Requests answered in the time measured.
    pub requests: u64,
    /// The time measured, in seconds.
    pub seconds: f64,
    /// Requests answered per second.
    pub ops_per_s: f64,
    /// Latency.
    pub latency: Latency,
    /// Messages that reached subscribers, of those published in the time measured.
    pub delivered: u64,
    /// From publishing to arrival.
    pub delivery: Option<Latency>,
    /// Messages the server counted as sent that did not arrive; none where that cannot be told.
    pub undelivered: Option<u64>,
    /// The server's CPU time per request, kernel work on its behalf included.
    pub server_cpu_ns: Option<f64>,
    /// The server's share of a core.
    pub server_busy: Option<f64>,
    /// The server's resident memory at the end.
    pub server_resident_bytes: Option<u64>,
    /// The server's context switches per request because it waited.
    pub voluntary_switches: Option<f64>,
    /// The same because something else was let in.
    pub involuntary_switches: Option<f64>,
    /// Bytes that the server wrote to files per request.
    pub disk_bytes_per_request: Option<f64>,
    /// The server's system calls per request, where the kernel lets us count them.
    pub system_calls: Option<f64>,
    /// The busiest generator thread's share of a core, waiting for the next due time not counted; near
    /// 1 the generator may be the bottleneck.
    pub generator_busy: f64,
    /// Open loop: how long after its due time the generator came to a request; part of the latency.
    pub generator_late: Option<Latency>,
    /// What neither server nor generator used: neighbours that disturb.
    pub others_busy: f64,
    /// What the host gave to other guests.
    pub stolen: f64,
    /// Error replies.
    pub errors: u64,
    /// The same by text.
    pub errors_by_text: Vec<(String, u64)>,
    /// Nils, of GET and HGET and within MGET.
    pub nils: u64,
    /// Values of another length than was set, and messages other than those published.
    pub wrong_length: u64,
    /// Replies that checks found wrong.
    pub mismatches: u64,
    /// The first few of them.
    pub mismatches_shown: Vec<String>,
    /// Open loop: requests due in the time measured and unanswered two seconds after it.
    pub unanswered: u64,
}

impl Measurement {
    /// Whether the generator had no time to spare, so that throughput may be its limit.
    pub fn is_generator_bound(&self) -> bool {
        self.generator_busy > GENERATOR_BUSY
    }

    /// Whether the generator itself was late for its requests, so that latency may be its own.
    pub fn is_generator_late(&self) -> bool {
        self.generator_late.is_some_and(|late| {
            late.p50_us > self.latency.p50_us / 4.0 || late.p99_us > self.latency.p99_us / 2.0
        })
    }

    /// What must not happen in a load, as an error.
    ///
    /// # Errors
    /// [`Error::Refused`] when there were error replies, [`Error::Wrong`] when checks failed or messages
    /// were lost.
    pub fn refused(&self) -> Result<(), Error> {
        let mut errors = Errors::default();
        self.errors_by_text
            .iter()
            .for_each(|(text, count)| errors.add(text, *count));
        Error::refused(&errors)?;
        let undelivered = self.undelivered.unwrap_or(0);
        if self.mismatches + undelivered > 0 {
            let first = self.mismatches_shown.first().cloned().unwrap_or_default();
            return Err(Error::Wrong {
                mismatches: self.mismatches,
                undelivered,
                first,
            });
        }
        Ok(())
    }
}

/// What inserting a key space showed.
#[derive(Clone, Debug, Serialize)]
pub struct FillReport {
    /// Keys inserted.
    pub keys: u64,
    /// Time taken.
    pub seconds: f64,
    /// Insertions per second.
    pub ops_per_s: f64,
    /// Latency; its maximum is the slowest request of all.
    pub latency: Latency,
    /// Requests slower than 1, 10, 100 and 1000 ms.
    pub slower_than_ms: [(u64, u64); 4],
    /// The server's CPU time per insertion.
    pub server_cpu_ns: Option<f64>,
    /// Resident memory before.
    pub resident_before: Option<u64>,
    /// Resident memory after.
    pub resident_after: Option<u64>,
    /// Growth divided by keys.
    pub bytes_per_key: Option<f64>,
    /// What DBSIZE answered, if it was a number.
    pub keys_stored: Option<u64>,
    /// Error replies.
    pub errors: u64,
    /// The same by text.
    pub errors_by_text: Vec<(String, u64)>,
}

/// How far a load is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Time since it began doing that.
    pub since: Duration,
    /// Requests answered since then.
    pub answered: u64,
    /// Requests answered per second of late.
    pub ops_per_s: f64,
}

/// Runs one load to its end and drains it. Fills first when the load says so. `on_progress` is called a
/// few times per second on the calling thread.
///
/// # Errors
/// What keeps the load from beginning; [`Error::Broken`] with what broke it off. Error replies and failed
/// checks are counted, not returned: see [`Measurement::refused`].
pub fn run(
    target: &Target,
    spec: &LoadSpec,
    on_progress: &mut dyn FnMut(&Progress),
) -> Result<Measurement, Error> {
    spec.check()?;
    if let (Some(pid), None) = (target.server_pid, target.server_pid.and_then(Process::read)) {
        return Err(Error::NoProcess { pid });
    }
    let shared = Arc::new(Shared::new(spec));
    let parts = on_threads(target, &shared, spec.threads, on_progress, |thread| {
        run_thread(target, spec, &shared, thread)
    })?;
    Ok(measurement(target, &shared, parts))
}

/// Fills all keys a load works on, and does nothing else.
///
/// # Errors
/// Those of [`run`], and error replies.
pub fn preload(target: &Target, spec: &LoadSpec) -> Result<(), Error> {
    spec.check()?;
    let shared = Arc::new(Shared::new(spec));
    on_threads(target, &shared, spec.threads, &mut |_| (), |thread| {
        Generator::connect(target, spec, &shared, thread)?.preload()
    })?;
    Ok(())
}

/// Sets every key once and reports memory and the slowest request.
///
/// # Errors
/// Those of the connection.
pub fn fill(target: &Target, spec: &LoadSpec, shuffled: bool) -> Result<FillReport, Error> {
    let spec = LoadSpec {
        threads: 1,
        ..spec.clone()
    };
    spec.check()?;
    let shared = Arc::new(Shared::new(&spec));
    let mut reports = on_threads(target, &shared, 1, &mut |_| (), |_| {
        fill_thread(target, &spec, &shared, shuffled)
    })?;
    reports.pop().ok_or(Error::Stopped)
}

/// Runs `work` on pinned threads. The first that fails ends the others.
fn on_threads<T: Send>(
    target: &Target,
    shared: &Shared,
    threads: usize,
    on_progress: &mut dyn FnMut(&Progress),
    work: impl Fn(usize) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    // The caller only looks in now and then, but not on the server's core: it stays on the first.
    for id in target.cpus.iter().rev().copied() {
        if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
            let expected = "cores of this machine that are ours to use, such as 1 or 1,2";
            return Err(Error::Value {
                option: "--cpu",
                expected,
            });
        }
    }
    let (caller, work) = (thread::current(), &work);
    let mut watch = Watch::new();
    let results: Vec<Result<T, Error>> = thread::scope(|scope| {
        let spawn = |number: usize| {
            let (caller, cpu) = (
                caller.clone(),
                target.cpus.get(number % target.cpus.len().max(1)),
            );
            scope.spawn(move || {
                if let Some(id) = cpu.copied() {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                let result = work(number);
                if result.is_err() {
                    shared.stop();
                }
                caller.unpark();
                result
            })
        };
        let handles: Vec<_> = (0..threads).map(spawn).collect();
        while handles.iter().any(|handle| !handle.is_finished()) {
            thread::park_timeout(LOOK);
            if let Some(progress) = watch.look(shared) {
                on_progress(&progress);
            }
        }
        let finished = handles.into_iter().map(|handle| handle.join());
        finished
            .map(|joined| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let answered = shared.answered();
    let (mut parts, mut failure) = (Vec::new(), None);
    for result in results {
        match (result, &failure) {
            (Ok(part), _) => parts.push(part),
            // The threads that were only stopped say nothing about why.
            (Err(e), None | Some(Error::Stopped)) => failure = Some(e),
            (Err(_), Some(_)) => {}
        }
    }
    match failure {
        None => Ok(parts),
        Some(source) if shared.phase() != Phase::Connecting => {
            let (requests, seconds) = (answered, watch.begun.elapsed().as_secs_f64());
            Err(Error::Broken {
                source: Box::new(source),
                requests,
                seconds,
            })
        }
        Some(source) => Err(source),
    }
}

/// Turns counts into progress.
struct Watch {
    begun: Instant,
    phase: Phase,
    phase_at: (Instant, u64),
    last: (Instant, u64),
}

impl Watch {
    fn new() -> Watch {
        let now = Instant::now();
        Watch {
            begun: now,
            phase: Phase::Connecting,
            phase_at: (now, 0),
            last: (now, 0),
        }
    }

    fn look(&mut self, shared: &Shared) -> Option<Progress> {
        let (now, answered, phase) = (Instant::now(), shared.answered(), shared.phase());
        let passed = now - self.last.0;
        if now - self.begun < LOOK {
            return None;
        }
        if phase != self.phase {
            (self.phase, self.phase_at) = (phase, (now, answered));
        } else if passed < LOOK {
            return None;
        }
        let ops_per_s = (answered - self.last.1) as f64 / passed.as_secs_f64().max(1e-9);
        self.last = (now, answered);
        Some(Progress {
            phase,
            since: now - self.phase_at.0,
            answered: answered - self.phase_at.1,
            ops_per_s,
        })
    }
}

/// What one thread brings home.
struct Part {
    tally: Tally,
    errors: Errors,
    mismatches: u64,
    shown: Vec<String>,
    seconds: f64,
    busy: f64,
    unanswered: u64,
    /// Taken by thread 0 before and after the time measured.
    snapshots: Option<(Snapshot, Snapshot)>,
    system_calls: Option<f64>,
}

fn run_thread(
    target: &Target,
    spec: &LoadSpec,
    shared: &Arc<Shared>,
    thread: usize,
) -> Result<Part, Error> {
    let mut generator = Generator::connect(target, spec, shared, thread)?;
    generator.meet()?;
    if spec.preload || spec.verify {
        generator.preload()?;
        generator.meet()?;
    }
    let mut schedule = generator.warm_up()?;

    let is_first = thread == 0;
    let before = is_first.then(|| Snapshot::take(target.server_pid));
    let own_before = sys::thread_cpu_ns();
    let seconds = generator.measure(schedule.as_mut())?;
    let own_ns = sys::thread_cpu_ns().saturating_sub(own_before);
    let idle_ns = generator.idle_ns();
    if spec.requests.is_some() {
        generator.meet()?;
    }
    let after = is_first.then(|| Snapshot::take(target.server_pid));

    // Counting calls slows them down, so it waits until the time measured is over.
    let mut system_calls = None;
    if let Some(pid) = target.server_pid {
        let counter = if is_first {
            SystemCalls::count_of(pid)
        } else {
            None
        };
        let begin = (
            shared.answered(),
            counter.as_ref().and_then(SystemCalls::read),
        );
        generator.go_on(schedule.as_mut(), COUNTED)?;
        let end = (
            shared.answered(),
            counter.as_ref().and_then(SystemCalls::read),
        );
        if let (Some(before), Some(after)) = (begin.1, end.1)
            && end.0 > begin.0
        {
            system_calls = Some((after - before) as f64 / (end.0 - begin.0) as f64);
        }
    }

    let unanswered = generator.finish()?;
    let busy = own_ns.saturating_sub(idle_ns) as f64 / 1e9 / seconds;
    let (tally, errors, mismatches, shown) = generator.into_tally();
    Ok(Part {
        tally,
        errors,
        mismatches,
        shown,
        seconds,
        busy,
        unanswered,
        snapshots: before.zip(after),
        system_calls,
    })
}

fn measurement(target: &Target, shared: &Shared, parts: Vec<Part>) -> Measurement {
    let mut sum = Tally::default();
    let mut errors = Errors::default();
    let (mut mismatches, mut unanswered, mut shown) = (0, 0, Vec::new());
    let (mut seconds, mut busy, mut is_publishing) = (0f64, 0f64, false);
    let (mut snapshots, mut system_calls) = (None, None);
    for part in parts {
        is_publishing = part.tally.is_publishing();
        sum.merge(&part.tally);
        errors.merge(&part.errors);
        mismatches += part.mismatches;
        unanswered += part.unanswered;
        shown.extend(part.shown);
        seconds = seconds.max(part.seconds);
        busy = busy.max(part.busy);
        snapshots = snapshots.or(part.snapshots);
        system_calls = system_calls.or(part.system_calls);
    }
    shown.truncate(MISMATCHES_SHOWN);
    let requests = sum.requests;
    let per_request = |n: u64| n as f64 / requests.max(1) as f64;
    let between =
        |of: fn(&Snapshot) -> u64| snapshots.map_or(0, |(a, b)| of(&b).saturating_sub(of(&a)));
    let elapsed = snapshots.map_or(seconds, |(a, b)| {
        (b.machine.at - a.machine.at).as_secs_f64()
    });
    let share = |ns: u64| ns as f64 / 1e9 / elapsed;
    let server = snapshots.and_then(|(a, b)| a.server.zip(b.server));
    let server_ns = server.map_or(0, |(a, b)| b.cpu_ns.saturating_sub(a.cpu_ns));
    let all_ns = server_ns + between(|s| s.own_cpu_ns);
    Measurement {
        requests,
        seconds,
        ops_per_s: requests as f64 / seconds,
        latency: Latency::of(&sum.histogram),
        delivered: sum.delivery.count(),
        delivery: (sum.delivery.count() > 0).then(|| Latency::of(&sum.delivery)),
        undelivered: is_publishing.then(|| shared.undelivered()),
        server_cpu_ns: server.map(|_| per_request(server_ns)),
        server_busy: server.map(|_| share(server_ns)),
        server_resident_bytes: target.server_pid.and_then(resident_bytes),
        voluntary_switches: server
            .map(|(a, b)| per_request(b.voluntary.saturating_sub(a.voluntary))),
        involuntary_switches: server
            .map(|(a, b)| per_request(b.involuntary.saturating_sub(a.involuntary))),
        disk_bytes_per_request: server
            .map(|(a, b)| per_request(b.written.saturating_sub(a.written))),
        system_calls,
        generator_busy: busy,
        generator_late: (sum.lateness.count() > 0).then(|| Latency::of(&sum.lateness)),
        others_busy: share(between(|s| s.machine.busy_ns).saturating_sub(all_ns)),
        stolen: share(between(|s| s.machine.stolen_ns)),
        errors: errors.list().iter().map(|(_, count)| count).sum(),
        errors_by_text: errors.list().to_vec(),
        nils: sum.nils,
        wrong_length: sum.wrong_length + sum.wrong_messages,
        mismatches,
        mismatches_shown: shown,
        unanswered,
    }
}

fn fill_thread(
    target: &Target,
    spec: &LoadSpec,
    shared: &Arc<Shared>,
    shuffled: bool,
) -> Result<FillReport, Error> {
    let mut generator = Generator::connect(target, spec, shared, 0)?;
    let resident_before = target.server_pid.and_then(resident_bytes);
    let cpu_before = target.server_pid.and_then(Process::read);
    let filling = Filling::new(spec, 0)?;
    let mut filling = if shuffled {
        filling.shuffled()
    } else {
        filling
    };
    generator.enter(Phase::Filling);
    let begin = Instant::now();
    generator.fill(&mut filling, spec.pipeline)?;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu_after = target.server_pid.and_then(Process::read);
    let resident_after = target.server_pid.and_then(resident_bytes);
    let growth = resident_before.zip(resident_after);
    let histogram = &generator.tally().histogram;
    let slower_than_ms = [1, 10, 100, 1000].map(|ms| (ms, histogram.at_least(ms * 1_000_000)));
    let latency = Latency::of(histogram);
    let errors = generator.errors();
    let count = errors.list().iter().map(|(_, count)| count).sum();
    let keys = spec.keys as f64;
    Ok(FillReport {
        keys: spec.keys,
        seconds,
        ops_per_s: keys / seconds,
        latency,
        slower_than_ms,
        server_cpu_ns: cpu_before
            .zip(cpu_after)
            .map(|(a, b)| (b.cpu_ns - a.cpu_ns) as f64 / keys),
        resident_before,
        resident_after,
        bytes_per_key: growth.map(|(a, b)| (b as f64 - a as f64) / keys),
        keys_stored: if count == 0 {
            generator.count_keys()?
        } else {
            None
        },
        errors: count,
        errors_by_text: errors.list().to_vec(),
    })
}

impl FillReport {
    /// Error replies as an error.
    ///
    /// # Errors
    /// [`Error::Refused`] when there were some.
    pub fn refused(&self) -> Result<(), Error> {
        let mut errors = Errors::default();
        self.errors_by_text
            .iter()
            .for_each(|(text, count)| errors.add(text, *count));
        Error::refused(&errors)
    }
}

#[derive(Clone, Copy)]
struct Snapshot {
    machine: Machine,
    server: Option<Process>,
    own_cpu_ns: u64,
}

impl Snapshot {
    fn take(server: Option<u32>) -> Snapshot {
        Snapshot {
            server: server.and_then(Process::read),
            own_cpu_ns: sys::process_cpu_ns(std::process::id()).unwrap_or(0),
            machine: Machine::read(),
        }
    }
}

/// From this share of a core on the generator may be the bottleneck.
const GENERATOR_BUSY: f64 = 0.95;
/// How long system calls are counted.
const COUNTED: Duration = Duration::from_millis(100);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
const MISMATCHES_SHOWN: usize = 5;
