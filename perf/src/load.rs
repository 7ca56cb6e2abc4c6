//! The load generator: one pinned thread, its own ring, closed or open loop.
//!
//! Closed loop: a connection's next batch leaves when its last one is answered; latency counts from
//! building the batch. Open loop: requests fall due on a fixed schedule, whatever the server does,
//! and latency counts from the due time, so a stall is charged to every request that fell into it.

use std::collections::VecDeque;
use std::fmt;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Error;
use crate::hist::Histogram;
use crate::keys::{KeySpace, Random, Shuffle, Template, Verb};
use crate::probe::{Machine, Process, resident_bytes};
use crate::resp::{Malformed, Replies, Reply};
use crate::ring::{Event, Link, Payload, Ring, Sizes, Wait};
use crate::sys;

/// Where to and how to connect.
#[derive(Clone, Debug)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Number of connections.
    pub conns: usize,
    /// Congestion control of our end; the system's when none.
    pub congestion: Option<String>,
    /// The server's process, if it is on this machine.
    pub server_pid: Option<u32>,
}

/// Shares of GET and SET.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    /// Weight of GET.
    pub get: u32,
    /// Weight of SET.
    pub set: u32,
}

impl Mix {
    /// GET alone.
    pub const GET: Mix = Mix { get: 1, set: 0 };
    /// SET alone.
    pub const SET: Mix = Mix { get: 0, set: 1 };

    /// Reads `get`, `set` or `get:set=90:10`; None for anything else.
    pub fn parse(text: &str) -> Option<Mix> {
        match text {
            "get" => Some(Mix::GET),
            "set" => Some(Mix::SET),
            _ => {
                let (names, weights) = text.split_once('=')?;
                let (a, b) = weights.split_once(':')?;
                let (a, b) = (a.parse().ok()?, b.parse().ok()?);
                let mix = match names {
                    "get:set" => Mix { get: a, set: b },
                    "set:get" => Mix { get: b, set: a },
                    _ => return None,
                };
                (mix.get <= WEIGHT_MAX && mix.set <= WEIGHT_MAX && mix.get + mix.set > 0)
                    .then_some(mix)
            }
        }
    }

    /// The only verb, if there is only one.
    fn pure(&self) -> Option<Verb> {
        match (self.get, self.set) {
            (_, 0) => Some(Verb::Get),
            (0, _) => Some(Verb::Set),
            _ => None,
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pure() {
            Some(Verb::Get) => f.write_str("get"),
            Some(Verb::Set) => f.write_str("set"),
            None => write!(f, "get:set={}:{}", self.get, self.set),
        }
    }
}

/// One load: what is asked, how deep, how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Which requests.
    pub mix: Mix,
    /// Requests in flight per connection.
    pub pipeline: u32,
    /// The keys, chosen uniformly.
    pub space: KeySpace,
    /// Bytes of a value.
    pub size: usize,
    /// Time before measuring begins.
    pub warmup: Duration,
    /// Time measured.
    pub duration: Duration,
    /// Requests per second of the open loop; closed when none.
    pub rate: Option<f64>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 99 in a hundred are no slower.
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
    /// This generator's share of a core; near 1 it may be the bottleneck (an open loop always is).
    pub generator_busy: f64,
    /// What neither server nor generator used: neighbours that disturb.
    pub others_busy: f64,
    /// What the host gave to other guests.
    pub stolen: f64,
    /// Error replies.
    pub errors: u64,
    /// Text of the first one.
    pub first_error: String,
    /// GETs that found nothing.
    pub nils: u64,
    /// GETs whose value had another length than was set.
    pub wrong_length: u64,
    /// Open loop: requests due in the time measured and unanswered two seconds after it.
    pub unanswered: u64,
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
    /// Text of the first one.
    pub first_error: String,
}

/// Connections to one server and everything counted on them.
pub struct Generator {
    ring: Ring,
    clients: Vec<Client>,
    epoch: Instant,
    random: Random,
    server_pid: Option<u32>,
    tally: Tally,
    touched: Vec<Link>,
}

/// Requests in order or by chance, and what they look like.
struct Source {
    get: Template,
    set: Template,
    mix: Mix,
    space: KeySpace,
    /// Keys still to insert, when every key is to be set once.
    sequence: Option<Sequence>,
}

struct Sequence {
    next: u64,
    shuffle: Option<Shuffle>,
}

#[derive(Default)]
struct Client {
    replies: Replies,
    /// Requests not yet answered, oldest first: since when, and how many.
    waiting: VecDeque<(u64, u32)>,
    inflight: u32,
    /// Open loop: due, but the window is full or a send is on its way.
    due: VecDeque<u64>,
    /// The last batch sent, of whole requests of one kind when `batch_len` says so.
    buffer: Vec<u8>,
    batch_len: u32,
    is_touched: bool,
}

#[derive(Default)]
struct Tally {
    histogram: Histogram,
    requests: u64,
    counting: bool,
    /// Only requests since then enter the histogram.
    since: u64,
    until: u64,
    errors: u64,
    nils: u64,
    wrong_length: u64,
    size: u64,
    last_integer: Option<i64>,
    failure: Option<Error>,
}

impl Generator {
    /// Connects to the target from the calling thread, which should be pinned already.
    ///
    /// # Errors
    /// [`Error::Os`] when connecting fails, [`Error::Kernel`] on an unfit kernel.
    pub fn connect(target: &Target) -> Result<Generator, Error> {
        let mut ring = Ring::new(Sizes::default())?;
        let mut clients = Vec::with_capacity(target.conns);
        for number in 0..target.conns {
            let stream = TcpStream::connect((target.host.as_str(), target.port))
                .map_err(Error::os("connecting"))?;
            stream
                .set_nodelay(true)
                .map_err(Error::os("setting TCP_NODELAY"))?;
            if let Some(name) = &target.congestion {
                sys::set_congestion_control(&stream, name)
                    .map_err(Error::os("setting the congestion control"))?;
            }
            let link = ring.add(stream).map_err(Error::os("receiving"))?;
            assert_eq!(link, number, "a fresh ring numbers its links in order");
            clients.push(Client::default());
        }
        Ok(Generator {
            ring,
            clients,
            epoch: Instant::now(),
            random: Random::new(1),
            server_pid: target.server_pid,
            tally: Tally::default(),
            touched: Vec::new(),
        })
    }

    /// Sets every key once, in order, as a load needs it.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`] when the server would not store.
    pub fn preload(&mut self, space: KeySpace, size: usize) -> Result<(), Error> {
        self.insert(space, size, PRELOAD_PIPELINE, None)?;
        self.refused()
    }

    /// Sets every key once and reports memory and the slowest request.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn fill(
        &mut self,
        space: KeySpace,
        size: usize,
        pipeline: u32,
        shuffled: bool,
    ) -> Result<FillReport, Error> {
        let resident_before = self.server_pid.and_then(resident_bytes);
        let cpu_before = self.server_pid.and_then(Process::read);
        let begin = Instant::now();
        let shuffle = shuffled.then(|| Shuffle::new(space.keys));
        self.insert(space, size, pipeline, shuffle)?;
        let seconds = begin.elapsed().as_secs_f64();
        let cpu_after = self.server_pid.and_then(Process::read);
        let resident_after = self.server_pid.and_then(resident_bytes);
        let growth = resident_before.zip(resident_after);
        let (errors, first_error) = (self.tally.errors, self.first_error());
        let (latency, slower_than_ms) = {
            let histogram = &self.tally.histogram;
            let slower = [1, 10, 100, 1000].map(|ms| (ms, histogram.at_least(ms * 1_000_000)));
            (Latency::of(histogram), slower)
        };
        Ok(FillReport {
            keys: space.keys,
            seconds,
            ops_per_s: space.keys as f64 / seconds,
            latency,
            slower_than_ms,
            server_cpu_ns: cpu_before
                .zip(cpu_after)
                .map(|(a, b)| (b.cpu_ns - a.cpu_ns) as f64 / space.keys as f64),
            resident_before,
            resident_after,
            bytes_per_key: growth.map(|(a, b)| (b as f64 - a as f64) / space.keys as f64),
            keys_stored: self.count_keys()?,
            errors,
            first_error,
        })
    }

    /// Runs one load to its end and drains it.
    ///
    /// # Errors
    /// Those of the connection. Error replies are counted, not returned: see [`Measurement::errors`].
    pub fn run(&mut self, load: &Load) -> Result<Measurement, Error> {
        let mut source = Source::new(load.mix, load.space, load.size);
        self.tally = Tally::for_values(load.size);
        let mut schedule = load.rate.map(|rate| Schedule {
            gap_ns: 1e9 / rate,
            next_ns: self.now() as f64,
            turn: 0,
        });
        let warm = self.now() + load.warmup.as_nanos() as u64;
        self.pass(&mut source, load.pipeline, schedule.as_mut(), warm)?;

        let before = Snapshot::take(self.server_pid);
        let begin = self.now();
        let end = begin + load.duration.as_nanos() as u64;
        (self.tally.since, self.tally.until, self.tally.counting) = (begin, end, true);
        self.pass(&mut source, load.pipeline, schedule.as_mut(), end)?;
        self.tally.counting = false;
        let after = Snapshot::take(self.server_pid);

        let patience = if schedule.is_some() {
            OPEN_DRAIN
        } else {
            STUCK_AFTER
        };
        let unanswered = self.drain(&mut source, load.pipeline, schedule.is_some(), patience)?;
        if unanswered > 0 && schedule.is_none() {
            return Err(Error::Stuck {
                outstanding: unanswered,
            });
        }
        Ok(self.measurement(before, after, unanswered))
    }

    /// Error replies of the last load as an error.
    ///
    /// # Errors
    /// [`Error::Refused`] if there were any.
    pub fn refused(&self) -> Result<(), Error> {
        match self.tally.errors {
            0 => Ok(()),
            count => Err(Error::Refused {
                count,
                first: self.first_error(),
            }),
        }
    }

    fn measurement(&self, before: Snapshot, after: Snapshot, unanswered: u64) -> Measurement {
        let tally = &self.tally;
        let seconds = (after.machine.at - before.machine.at).as_secs_f64();
        let per_request = |n: u64| n as f64 / tally.requests.max(1) as f64;
        let share = |ns: u64| ns as f64 / 1e9 / seconds;
        let server = before.server.zip(after.server);
        let server_ns = server.map_or(0, |(a, b)| b.cpu_ns - a.cpu_ns);
        let own_ns = after.own_cpu_ns - before.own_cpu_ns;
        let busy_ns = after.machine.busy_ns - before.machine.busy_ns;
        Measurement {
            requests: tally.requests,
            seconds,
            ops_per_s: tally.requests as f64 / seconds,
            latency: Latency::of(&tally.histogram),
            server_cpu_ns: server.map(|_| per_request(server_ns)),
            server_busy: server.map(|_| share(server_ns)),
            server_resident_bytes: self.server_pid.and_then(resident_bytes),
            voluntary_switches: server
                .map(|(a, b)| per_request(b.voluntary.saturating_sub(a.voluntary))),
            involuntary_switches: server
                .map(|(a, b)| per_request(b.involuntary.saturating_sub(a.involuntary))),
            generator_busy: share(own_ns),
            others_busy: share(busy_ns.saturating_sub(server_ns + own_ns)),
            stolen: share(after.machine.stolen_ns - before.machine.stolen_ns),
            errors: tally.errors,
            first_error: self.first_error(),
            nils: tally.nils,
            wrong_length: tally.wrong_length,
            unanswered,
        }
    }

    fn insert(
        &mut self,
        space: KeySpace,
        size: usize,
        pipeline: u32,
        shuffle: Option<Shuffle>,
    ) -> Result<(), Error> {
        let mut source = Source::new(Mix::SET, space, size);
        source.sequence = Some(Sequence { next: 0, shuffle });
        self.tally = Tally::for_values(size);
        (self.tally.until, self.tally.counting) = (u64::MAX, true);
        self.touch_all();
        let mut progress = (0, Instant::now());
        while self.tally.requests < space.keys {
            self.refill(&mut source, pipeline)?;
            self.turn(Wait::Up(LOOK))?;
            if progress.0 != self.tally.requests {
                progress = (self.tally.requests, Instant::now());
            } else if progress.1.elapsed() > STUCK_AFTER {
                let outstanding = self.outstanding();
                return Err(Error::Stuck { outstanding });
            }
        }
        Ok(())
    }

    /// Drives the load until the clock reads `end`.
    fn pass(
        &mut self,
        source: &mut Source,
        pipeline: u32,
        mut schedule: Option<&mut Schedule>,
        end: u64,
    ) -> Result<(), Error> {
        self.touch_all();
        let mut progress = self.now();
        let mut answered = self.tally.requests;
        loop {
            let now = self.now();
            if now >= end {
                return Ok(());
            }
            let mut wait = Wait::Up(LOOK.min(Duration::from_nanos(end - now)));
            match schedule.as_deref_mut() {
                None => self.refill(source, pipeline)?,
                Some(schedule) => {
                    let next = self.fall_due(schedule, now, end);
                    self.send_due(source, pipeline)?;
                    // Sleeping and waking costs more than a few turns without work.
                    wait = match next {
                        ns if ns > SLEEP_FROM => {
                            Wait::Up(Duration::from_nanos(ns - SLEEP_FROM / 2))
                        }
                        _ => Wait::No,
                    };
                }
            }
            self.turn(wait)?;
            if self.tally.requests != answered || !self.tally.counting {
                (answered, progress) = (self.tally.requests, now);
            } else if now - progress > STUCK_AFTER.as_nanos() as u64 {
                let outstanding = self.outstanding();
                return Err(Error::Stuck { outstanding });
            }
        }
    }

    /// Waits for what is outstanding; returns how many requests stayed unanswered.
    fn drain(
        &mut self,
        source: &mut Source,
        pipeline: u32,
        is_open: bool,
        patience: Duration,
    ) -> Result<u64, Error> {
        let deadline = Instant::now() + patience;
        self.touch_all();
        while self.outstanding() > 0 && Instant::now() < deadline {
            if is_open {
                self.send_due(source, pipeline)?;
            }
            self.touched.clear();
            self.clients
                .iter_mut()
                .for_each(|client| client.is_touched = false);
            self.turn(Wait::Up(Duration::from_millis(10)))?;
        }
        // Whoever was not answered has waited this long at least.
        let now = self.now();
        for client in &mut self.clients {
            for (since, count) in client.waiting.iter().copied() {
                self.tally.record(since, now, count);
            }
            for since in client.due.drain(..) {
                self.tally.record(since, now, 1);
            }
        }
        Ok(self.outstanding())
    }

    fn turn(&mut self, wait: Wait) -> Result<(), Error> {
        if sys::is_stopped() {
            return Err(Error::Stopped);
        }
        let Generator {
            ring,
            clients,
            tally,
            touched,
            epoch,
            ..
        } = self;
        let mut now = None;
        ring.turn(wait, |event| {
            let link = match event {
                Event::Accepted(_) => return,
                Event::Received(link, bytes) => {
                    let now = *now.get_or_insert_with(|| epoch.elapsed().as_nanos() as u64);
                    clients[link].on_replies(bytes, now, tally);
                    link
                }
                Event::Sent(link, payload) => {
                    if let Payload::Own(buffer) = payload {
                        clients[link].buffer = buffer;
                    }
                    link
                }
                Event::Gone(link, source) => {
                    tally.failure.get_or_insert(Error::Lost { link, source });
                    return;
                }
            };
            if !clients[link].is_touched {
                clients[link].is_touched = true;
                touched.push(link);
            }
        })
        .map_err(Error::os("io_uring_enter"))?;
        self.tally.failure.take().map_or(Ok(()), Err)
    }

    /// Closed loop: gives every touched connection that is fully answered its next batch.
    fn refill(&mut self, source: &mut Source, pipeline: u32) -> Result<(), Error> {
        let mut touched = std::mem::take(&mut self.touched);
        for link in touched.drain(..) {
            let client = &mut self.clients[link];
            client.is_touched = false;
            if client.inflight > 0 || !self.ring.can_send(link) {
                continue;
            }
            let count = source.build(client, pipeline, &mut self.random);
            if count == 0 {
                continue;
            }
            let now = self.epoch.elapsed().as_nanos() as u64;
            client.waiting.push_back((now, count));
            client.inflight = count;
            let batch = Payload::Own(std::mem::take(&mut client.buffer));
            self.ring.send(link, batch).map_err(Error::os("sending"))?;
        }
        self.touched = touched;
        Ok(())
    }

    /// Open loop: hands out what is due by `now`; returns nanoseconds until the next request.
    fn fall_due(&mut self, schedule: &mut Schedule, now: u64, end: u64) -> u64 {
        while schedule.next_ns <= now as f64 {
            let link = schedule.turn % self.clients.len();
            self.clients[link].due.push_back(schedule.next_ns as u64);
            if !self.clients[link].is_touched {
                self.clients[link].is_touched = true;
                self.touched.push(link);
            }
            schedule.turn += 1;
            schedule.next_ns += schedule.gap_ns;
        }
        (schedule.next_ns as u64).min(end).saturating_sub(now)
    }

    /// Open loop: sends what is due and fits the window.
    fn send_due(&mut self, source: &mut Source, window: u32) -> Result<(), Error> {
        let mut touched = std::mem::take(&mut self.touched);
        for link in touched.drain(..) {
            let client = &mut self.clients[link];
            client.is_touched = false;
            if client.due.is_empty() || client.inflight >= window || !self.ring.can_send(link) {
                continue;
            }
            let mut batch = std::mem::take(&mut client.buffer);
            batch.clear();
            while client.inflight < window
                && let Some(since) = client.due.pop_front()
            {
                source.append(&mut batch, &mut self.random);
                client.waiting.push_back((since, 1));
                client.inflight += 1;
            }
            client.batch_len = 0;
            self.ring
                .send(link, Payload::Own(batch))
                .map_err(Error::os("sending"))?;
        }
        self.touched = touched;
        Ok(())
    }

    fn count_keys(&mut self) -> Result<Option<u64>, Error> {
        self.tally.last_integer = None;
        if self.clients.is_empty() || !self.ring.can_send(0) {
            return Ok(None);
        }
        let client = &mut self.clients[0];
        client.waiting.push_back((0, 1));
        (client.inflight, client.batch_len) = (1, 0);
        let ask = b"*1\r\n$6\r\nDBSIZE\r\n".to_vec();
        self.ring
            .send(0, Payload::Own(ask))
            .map_err(Error::os("sending"))?;
        let deadline = Instant::now() + STUCK_AFTER;
        while self.clients[0].inflight > 0 && Instant::now() < deadline {
            self.turn(Wait::Up(LOOK))?;
        }
        Ok(self
            .tally
            .last_integer
            .and_then(|keys| u64::try_from(keys).ok()))
    }

    fn touch_all(&mut self) {
        for (link, client) in self.clients.iter_mut().enumerate() {
            if !client.is_touched {
                client.is_touched = true;
                self.touched.push(link);
            }
        }
    }

    fn outstanding(&self) -> u64 {
        let of = |client: &Client| u64::from(client.inflight) + client.due.len() as u64;
        self.clients.iter().map(of).sum()
    }

    fn first_error(&self) -> String {
        let mut texts = self
            .clients
            .iter()
            .map(|client| client.replies.first_error());
        texts.find(|text| !text.is_empty()).unwrap_or_default()
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

impl Source {
    fn new(mix: Mix, space: KeySpace, size: usize) -> Source {
        Source {
            get: Template::new(Verb::Get, space, size),
            set: Template::new(Verb::Set, space, size),
            mix,
            space,
            sequence: None,
        }
    }

    /// Makes `client.buffer` the next batch of up to `count` requests; returns how many. A batch of
    /// one kind is the last one with other keys.
    fn build(&mut self, client: &mut Client, count: u32, random: &mut Random) -> u32 {
        if let Some(sequence) = &mut self.sequence {
            client.buffer.clear();
            client.batch_len = 0;
            let last = self.space.keys.min(sequence.next + u64::from(count));
            let first = std::mem::replace(&mut sequence.next, last);
            for i in first..last {
                let key = sequence.shuffle.as_ref().map_or(i, |shuffle| shuffle.at(i));
                self.set.append(key, &mut client.buffer);
            }
            return (last - first) as u32;
        }
        let Some(verb) = self.mix.pure() else {
            client.buffer.clear();
            client.batch_len = 0;
            for _ in 0..count {
                self.append(&mut client.buffer, random);
            }
            return count;
        };
        let template = match verb {
            Verb::Get => &self.get,
            Verb::Set => &self.set,
        };
        if client.batch_len == count && client.buffer.len() == template.len() * count as usize {
            for request in client.buffer.chunks_exact_mut(template.len()) {
                template.rewrite(random.below(self.space.keys), request);
            }
        } else {
            client.buffer.clear();
            for _ in 0..count {
                template.append(random.below(self.space.keys), &mut client.buffer);
            }
            client.batch_len = count;
        }
        count
    }

    fn append(&self, out: &mut Vec<u8>, random: &mut Random) {
        let key = random.below(self.space.keys);
        let draw = random.below(u64::from(self.mix.get + self.mix.set)) as u32;
        let template = if draw < self.mix.get {
            &self.get
        } else {
            &self.set
        };
        template.append(key, out);
    }
}

impl Client {
    fn on_replies(&mut self, bytes: &[u8], now: u64, tally: &mut Tally) {
        let mut count = 0u32;
        let fed = self.replies.feed(bytes, |reply| {
            count += 1;
            match reply {
                Reply::Error => tally.errors += 1,
                Reply::Nil => tally.nils += 1,
                Reply::Bulk(len) if len != tally.size => tally.wrong_length += 1,
                Reply::Integer(value) => tally.last_integer = Some(value),
                Reply::Bulk(_) | Reply::Status => {}
            }
        });
        if let Err(Malformed(byte)) = fed {
            tally.failure.get_or_insert(Error::Reply { byte });
        }
        if count > self.inflight {
            tally.failure.get_or_insert(Error::Surplus);
            return;
        }
        self.inflight -= count;
        while count > 0
            && let Some((since, waiting)) = self.waiting.front_mut()
        {
            let part = count.min(*waiting);
            tally.answer(*since, now, part);
            count -= part;
            *waiting -= part;
            if *waiting == 0 {
                self.waiting.pop_front();
            }
        }
    }
}

impl Tally {
    fn for_values(size: usize) -> Tally {
        Tally {
            size: size as u64,
            ..Tally::default()
        }
    }

    #[inline]
    fn answer(&mut self, since: u64, now: u64, count: u32) {
        if self.counting {
            self.requests += u64::from(count);
        }
        self.record(since, now, count);
    }

    #[inline]
    fn record(&mut self, since: u64, now: u64, count: u32) {
        if since >= self.since && since < self.until {
            self.histogram
                .add(now.saturating_sub(since), u64::from(count));
        }
    }
}

/// The open loop's clockwork.
struct Schedule {
    gap_ns: f64,
    next_ns: f64,
    turn: usize,
}

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

const PRELOAD_PIPELINE: u32 = 64;
/// Longest wait before a signal or a stuck server is noticed.
const LOOK: Duration = Duration::from_millis(100);
const STUCK_AFTER: Duration = Duration::from_secs(10);
const OPEN_DRAIN: Duration = Duration::from_secs(2);
/// Open loop: from this distance to the next request on, sleeping is worth it.
const SLEEP_FROM: u64 = 100_000;
const WEIGHT_MAX: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_read_in_either_order_and_nonsense_is_refused() {
        assert_eq!(Mix::parse("get"), Some(Mix::GET));
        assert_eq!(Mix::parse("get:set=90:10"), Some(Mix { get: 90, set: 10 }));
        assert_eq!(Mix::parse("set:get=90:10"), Some(Mix { get: 10, set: 90 }));
        for bad in [
            "",
            "del",
            "get:set",
            "get:set=0:0",
            "get:set=x:1",
            "get:get=1:1",
            "get:set=4294967295:1",
        ] {
            assert_eq!(Mix::parse(bad), None, "{bad}");
        }
        assert_eq!(Mix { get: 90, set: 10 }.to_string(), "get:set=90:10");
    }

    #[test]
    fn replies_in_pieces_are_charged_to_the_oldest_request() {
        let (mut client, mut tally) = (Client::default(), Tally::for_values(2));
        (tally.counting, tally.until) = (true, u64::MAX);
        client.waiting.extend([(100, 2), (200, 1)]);
        client.inflight = 3;
        client.on_replies(b"+OK\r\n$2\r\nx", 1_100, &mut tally);
        assert_eq!((client.inflight, tally.requests), (2, 1));
        client.on_replies(b"x\r\n$3\r\nxxx\r\n", 2_100, &mut tally);
        assert_eq!(
            (client.inflight, tally.requests, tally.wrong_length),
            (0, 3, 1)
        );
        assert_eq!(tally.histogram.max(), 2_000);
        client.on_replies(b"+OK\r\n", 3_000, &mut tally);
        assert!(matches!(tally.failure, Some(Error::Surplus)));
    }
}
