//! What a core counts of the commands it runs: how often, how long, and what failed.
//!
//! Each core has a [`Census`] that only it writes; all of them are read by whoever wants a sum. Writing is
//! a plain load and store, so a request pays for one counter. Clocks are read around commands that may
//! be slow anyway (for the slow log); of those that are fast, only the first few of each beat are timed,
//! unless somebody asked for more: see [`State::set_untimed`]. What is shown of a fast command's time is
//! what those few took, times its calls.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    conn::Conn,
    shared::{Shared, SlowEntry, lock},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{self, Run, Spec, Table, Verb, flag},
    resp::{Args, Error},
};

/// Fast commands that are timed per beat.
const SAMPLES: u32 = 32;
/// A slow log for shorter times than this, in microseconds, wants every command timed.
const FAST_US_MAX: i64 = 1000;
/// Kinds of errors that are told apart.
const ERROR_KINDS: usize = 128;
/// Samples that the latency monitor keeps per event.
const LATENCY_SAMPLES: usize = 160;
/// Arguments of a request that the slow log keeps, and bytes of each.
const SLOW_ARGS: usize = 32;
const SLOW_ARG_LEN: usize = 128;

/// Parts of a power of two that a histogram tells apart.
const PARTS: usize = 32;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Longest time that a histogram tells apart: about 17 s.
const TIME_BITS: u32 = 34;
const BUCKETS: usize = ((TIME_BITS - PART_BITS) as usize + 1) * PARTS;

/// How long the timed runs of one command took.
pub struct Histogram([AtomicU32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.min((1 << TIME_BITS) - 1);
    let shift = (64 - nanos.leading_zeros()).saturating_sub(PART_BITS + 1);
    (shift as usize) * PARTS + (nanos >> shift) as usize
}

/// The longest time that falls into a bucket.
fn bucket_end(bucket: usize) -> u64 {
    match bucket / PARTS {
        0 => bucket as u64,
        row => {
            let (shift, part) = (row - 1, bucket % PARTS + PARTS);
            ((part as u64 + 1) << shift) - 1
        }
    }
}

/// What one core counts of one command.
#[derive(Default)]
#[allow(missing_docs)]
struct Tally {
    rejected: AtomicU64,
    failed: AtomicU64,
    timed: AtomicU64,
    nanos: AtomicU64,
    times: OnceLock<Box<Histogram>>,
}

/// See the module page.
pub struct Census {
    calls: [AtomicU64; cmd::PLACES],
    tallies: Vec<Tally>,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Default for Census {
    fn default() -> Self {
        Self {
            calls: [const { AtomicU64::new(0) }; cmd::PLACES],
            tallies: (0..cmd::PLACES).map(|_| Tally::default()).collect(),
            errors: Mutex::default(),
        }
    }
}

/// Adds to a counter that nobody else writes.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}

impl Census {
    /// Counts a call of the command at this place of the table.
    #[inline]
    pub fn called(&self, place: usize) {
        add(&self.calls[place % cmd::PLACES], 1);
    }

    fn timed(&self, place: usize, nanos: u64) {
        let tally = &self.tallies[place];
        add(&tally.timed, 1);
        add(&tally.nanos, nanos);
        let times = &tally.times.get_or_init(Box::default).0[bucket(nanos)];
        times.store(times.load(Relaxed).wrapping_add(1), Relaxed);
    }

    fn error(&self, error: &str) {
        let kind = error.split(' ').next().unwrap_or_default();
        let mut errors = lock(&self.errors);
        if let Some(count) = errors.get_mut(kind) {
            *count += 1;
        } else if errors.len() < ERROR_KINDS {
            errors.insert(kind.to_string(), 1);
        }
    }
}

/// Sums over all cores.
#[derive(Clone, Default)]
#[allow(missing_docs)]
pub struct CommandSum {
    pub calls: u64,
    pub rejected: u64,
    pub failed: u64,
    /// Runs that were timed, and what they took together.
    pub timed: u64,
    pub nanos: u64,
    times: Vec<u32>,
}

impl CommandSum {
    /// Microseconds of all calls, as far as those that were timed tell.
    pub fn micros(&self) -> u64 {
        (self.micros_per_call() * self.calls as f64) as u64
    }

    /// Microseconds of one call.
    pub fn micros_per_call(&self) -> f64 {
        self.nanos as f64 / 1000.0 / self.timed.max(1) as f64
    }

    /// Microseconds within which this part of a hundred of the timed runs ended.
    pub fn percentile(&self, percent: f64) -> f64 {
        let wanted = (self.timed as f64 * percent / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.times.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return bucket_end(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// Bounds in microseconds, each about twice the one before, with the number of calls that took no
    /// longer; bounds that add no calls are left out.
    pub fn curve(&self) -> Vec<(u64, u64)> {
        let mut curve = Vec::new();
        let (mut seen, mut shown, mut bound) = (0, 0, 1024);
        for (bucket, count) in self.times.iter().enumerate() {
            while bucket_end(bucket) >= bound {
                if seen > shown {
                    curve.push((bound / 1000, seen));
                }
                (shown, bound) = (seen, bound * 2);
            }
            seen += u64::from(*count);
        }
        if seen > shown {
            curve.push((bound / 1000, seen));
        }
        let scale = self.calls as f64 / self.timed.max(1) as f64;
        for (_, count) in &mut curve {
            *count = (*count as f64 * scale).round() as u64;
        }
        curve
    }

    fn minus(&mut self, base: &CommandSum) {
        self.calls -= base.calls.min(self.calls);
        self.rejected -= base.rejected.min(self.rejected);
        self.failed -= base.failed.min(self.failed);
        self.timed -= base.timed.min(self.timed);
        self.nanos -= base.nanos.min(self.nanos);
        for (count, before) in self.times.iter_mut().zip(&base.times) {
            *count = count.wrapping_sub(*before);
        }
    }
}

/// Everything that CONFIG RESETSTAT sets back.
#[derive(Clone, Default)]
pub struct Totals {
    /// By place in the table of commands.
    commands: BTreeMap<usize, CommandSum>,
    errors: BTreeMap<String, u64>,
    counters: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// All there is since the start of the node.
    pub(super) fn of(shared: &Shared) -> Totals {
        let mut totals = Totals::default();
        for census in &shared.census {
            for (place, (calls, tally)) in census.calls.iter().zip(&census.tallies).enumerate() {
                // A command may be called on one core and run on another.
                let calls = calls.load(Relaxed);
                let rejected = tally.rejected.load(Relaxed);
                let timed = tally.timed.load(Relaxed);
                let failed = tally.failed.load(Relaxed);
                if calls | rejected | timed | failed == 0 {
                    continue;
                }
                let sum = totals.commands.entry(place).or_default();
                sum.calls += calls;
                sum.rejected += rejected;
                sum.failed += failed;
                sum.timed += timed;
                sum.nanos += tally.nanos.load(Relaxed);
                if let Some(times) = tally.times.get() {
                    sum.times.resize(BUCKETS, 0);
                    for (count, more) in sum.times.iter_mut().zip(&times.0) {
                        *count = count.wrapping_add(more.load(Relaxed));
                    }
                }
            }
            for (kind, count) in &*lock(&census.errors) {
                *totals.errors.entry(kind.clone()).or_default() += count;
            }
        }
        for (name, counter) in super::shared::COUNTERS {
            totals.counters.insert(name, shared.sum(counter));
        }
        totals
    }

    /// What came since the last reset.
    pub fn since_reset(shared: &Shared) -> Totals {
        let mut totals = Totals::of(shared);
        let base = lock(&shared.reset);
        for (place, before) in &base.commands {
            if let Some(sum) = totals.commands.get_mut(place) {
                sum.minus(before);
            }
        }
        totals
            .commands
            .retain(|_, sum| sum.calls > 0 || sum.rejected > 0);
        for (kind, before) in &base.errors {
            if let Some(count) = totals.errors.get_mut(kind) {
                *count -= before;
            }
        }
        totals.errors.retain(|_, count| *count > 0);
        for (name, before) in &base.counters {
            if let Some(count) = totals.counters.get_mut(name) {
                *count -= (*before).min(*count);
            }
        }
        totals
    }

    /// CONFIG RESETSTAT: from here on counts start at zero.
    pub fn reset(shared: &Shared) {
        let totals = Totals::of(shared);
        *lock(&shared.reset) = totals;
    }

    /// The commands that were called or rejected, with their names in small letters.
    pub fn commands(&self, table: &Table) -> impl Iterator<Item = (String, &CommandSum)> {
        let mut named: Vec<_> = self
            .commands
            .iter()
            .filter_map(|(place, sum)| Some((table.at(*place)?.name.to_lowercase(), sum)))
            .collect();
        named.sort_by(|one, other| one.0.cmp(&other.0));
        named.into_iter()
    }

    /// Errors by their first word.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    /// One of the plain counters.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }
}

/// What the latency monitor saw of one kind of event.
#[derive(Clone, Debug, Default)]
pub struct LatencyEvent {
    /// Unix time and milliseconds, oldest first; one per second, its worst.
    pub samples: VecDeque<(u64, u64)>,
    /// The worst ever.
    pub worst: u64,
}

/// What the latency monitor saw.
#[derive(Default)]
pub struct LatencyLog(pub BTreeMap<&'static str, LatencyEvent>);

impl LatencyLog {
    /// Notes an event.
    pub fn note(&mut self, event: &'static str, at_secs: u64, millis: u64) {
        let event = self.0.entry(event).or_default();
        event.worst = event.worst.max(millis);
        match event.samples.back_mut() {
            Some((at, worst)) if *at == at_secs => *worst = (*worst).max(millis),
            _ => event.samples.push_back((at_secs, millis)),
        }
        if event.samples.len() > LATENCY_SAMPLES {
            event.samples.pop_front();
        }
    }
}

impl State {
    /// Which commands are not timed, by their flags; called at each beat.
    pub(super) fn set_untimed(&mut self) {
        self.samples = SAMPLES;
        self.untimed = 0;
    }

    /// Does somebody want the time of every command?
    fn times_all(&self) -> bool {
        self.tunables.latency_ms > 0 || (0..FAST_US_MAX).contains(&self.tunables.slow_us)
    }

    /// The start of a command that is to be timed.
    #[inline]
    pub(super) fn clock(&self, spec: &Spec) -> Option<Instant> {
        (spec.flags & self.untimed == 0).then(Instant::now)
    }

    /// Notes how long a command took. Which client sent it is not known where it is run for another core.
    pub(super) fn note_time(
        &mut self,
        conn: Option<&Conn>,
        spec: &Spec,
        args: Args<'_>,
        start: Instant,
    ) {
        if !self.shared.settings.takes_time {
            return;
        }
        let taken = start.elapsed();
        self.timed_nanos += taken.as_nanos() as u64;
        if let Some(place) = self.table.place(spec) {
            self.census.timed(place, taken.as_nanos() as u64);
        }
        let fast = spec.flags & (flag::FAST | flag::QUICK) != 0;
        if fast && !self.times_all() {
            self.samples = self.samples.saturating_sub(1);
            if self.samples == 0 {
                self.untimed = flag::FAST | flag::QUICK;
            }
        }
        let millis = taken.as_millis() as u64;
        if self.tunables.latency_ms > 0 && millis >= self.tunables.latency_ms {
            let event = match spec.flags & flag::FAST {
                0 => "command",
                _ => "fast-command",
            };
            self.note_latency(event, millis);
        }
        let micros = taken.as_micros() as u64;
        if self.tunables.slow_us >= 0
            && micros >= self.tunables.slow_us as u64
            && !matches!(spec.run, Run::Session(Verb::Exec))
        {
            self.note_slow(conn, spec, args, micros);
        }
    }

    pub(super) fn note_latency(&self, event: &'static str, millis: u64) {
        lock(&self.shared.latency).note(event, self.now / 1000, millis);
    }

    #[cold]
    fn note_slow(&mut self, conn: Option<&Conn>, spec: &Spec, args: Args<'_>, micros: u64) {
        let mut guard = lock(&self.shared.slow);
        let (next, entries) = &mut *guard;
        entries.push_front(SlowEntry {
            id: *next,
            at_secs: self.now / 1000,
            us: micros,
            args: shown(spec, args),
            peer: conn.map(Conn::peer_text).unwrap_or_default(),
            name: conn.map(|conn| conn.name.clone()).unwrap_or_default(),
        });
        *next += 1;
        entries.truncate(self.tunables.slow_len);
    }

    /// Counts a command that runs inside EXEC.
    pub(super) fn count_call(&self, spec: &Spec) {
        if let Some(place) = self.table.place(spec) {
            self.census.called(place);
        }
    }

    /// Counts a command that was refused before it ran; without one, a request that is no command.
    #[cold]
    pub(super) fn count_refused(&self, spec: Option<&Spec>, error: &Error) {
        self.census.error(error.as_str());
        if let Some(place) = spec.and_then(|spec| self.table.place(spec)) {
            add(&self.census.tallies[place].rejected, 1);
        }
    }

    /// Counts a command that answered an error.
    #[cold]
    pub(super) fn count_failed(&self, spec: &Spec, error: &str) {
        self.census.error(error);
        if let Some(place) = self.table.place(spec) {
            add(&self.census.tallies[place].failed, 1);
        }
    }

    /// The same where only the reply tells whether the command failed.
    pub(super) fn count_reply(&self, spec: &Spec, reply: &[u8]) {
        if let Some(b'-') = reply.first() {
            let line = reply[1..].split(|byte| *byte == b'\r').next();
            self.count_failed(spec, &String::from_utf8_lossy(line.unwrap_or_default()));
        }
    }

    /// Runs something of the node's own and tells the latency monitor if it took long.
    pub(super) fn watched(&mut self, event: &'static str, work: impl FnOnce(&mut State)) {
        if self.tunables.latency_ms == 0 {
            return work(self);
        }
        let start = Instant::now();
        work(self);
        let millis = start.elapsed().as_millis() as Ms;
        if millis >= self.tunables.latency_ms {
            self.note_latency(event, millis);
        }
    }
}

/// A request as the slow log shows it: shortened, and without passwords.
fn shown(spec: &Spec, args: Args<'_>) -> Vec<Vec<u8>> {
    let word = |at: usize, word: &str| {
        args.get(at)
            .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    let secret_from = match spec.run {
        Run::Session(Verb::Auth) => 1,
        Run::Session(Verb::Hello) => (2..args.len())
            .find(|at| word(*at, "auth"))
            .map_or(usize::MAX, |at| at + 1),
        Run::Session(Verb::Config)
            if word(1, "set")
                && (2..args.len()).any(|at| word(at, "requirepass") || word(at, "masterauth")) =>
        {
            2
        }
        Run::Session(Verb::Acl) if word(1, "setuser") => 2,
        _ => usize::MAX,
    };
    let kept = if args.len() > SLOW_ARGS {
        SLOW_ARGS - 1
    } else {
        args.len()
    };
    let mut shown: Vec<Vec<u8>> = (0..kept)
        .map(|at| match args.at(at) {
            _ if at >= secret_from => b"(redacted)".to_vec(),
            arg if arg.len() > SLOW_ARG_LEN => {
                let mut text = arg[..SLOW_ARG_LEN].to_vec();
                let more = arg.len() - SLOW_ARG_LEN;
                text.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
                text
            }
            arg => arg.to_vec(),
        })
        .collect();
    if kept < args.len() {
        let more = args.len() - kept;
        shown.push(format!("... ({more} more arguments)").into_bytes());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_are_ascending_and_narrow(nanos in 0u64..1 << TIME_BITS) {
            let at = bucket(nanos);
            prop_assert!(nanos <= bucket_end(at));
            prop_assert!(at == 0 || nanos > bucket_end(at - 1));
            prop_assert!(bucket_end(at) - nanos <= nanos / PARTS as u64);
        }
    }

    #[test]
    fn the_longest_times_share_the_last_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_end(BUCKETS - 1), (1 << TIME_BITS) - 1);
    }

    fn sum_of(times: &[(u64, u32)], calls: u64) -> CommandSum {
        let mut sum = CommandSum {
            calls,
            times: vec![0; BUCKETS],
            ..CommandSum::default()
        };
        for (nanos, count) in times {
            sum.times[bucket(*nanos)] += count;
            sum.timed += u64::from(*count);
            sum.nanos += nanos * u64::from(*count);
        }
        sum
    }

    #[test]
    fn few_timed_runs_stand_for_all_calls() {
        let sum = sum_of(&[(500, 8), (3000, 2)], 1000);
        assert_eq!(sum.micros(), 1000);
        assert_eq!(sum.curve(), [(1, 800), (4, 1000)]);
        assert!(sum.percentile(50.0) < 0.52 && sum.percentile(50.0) >= 0.5);
        assert!(sum.percentile(99.0) >= 3.0 && sum.percentile(99.0) < 3.1);
    }

    #[test]
    fn one_second_has_one_sample_the_worst() {
        let mut log = LatencyLog::default();
        for (at, millis) in [(1, 5), (1, 9), (1, 7), (2, 1)] {
            log.note("command", at, millis);
        }
        let event = &log.0["command"];
        assert_eq!(event.samples, [(1, 9), (2, 1)]);
        assert_eq!(event.worst, 9);
        (3..400).for_each(|at| log.note("command", at, 1));
        assert_eq!(log.0["command"].samples.len(), LATENCY_SAMPLES);
    }
}
