//! One thread of a load: its own ring, its share of the connections, closed or open loop.
//!
//! Closed loop: a connection's next batch leaves when its last one is answered; latency counts from
//! building the batch. Open loop: requests fall due on a fixed schedule, whatever the server does,
//! and latency counts from the due time, so a stall is charged to every request that fell into it.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::hist::Histogram;
use crate::keys::KeySpace;
use crate::load::Target;
use crate::request::{Filling, Kind, Source, subscribe, time_of_message};
use crate::resp::{Errors, Frames, Malformed, Reader, Replies, Reply, Value};
use crate::ring::{Event, Link, Payload, Ring, Sizes, Wait};
use crate::spec::{LoadSpec, Verb};
use crate::sys;
use crate::verify::{Expect, Ledger, Verifier};

/// What the threads of a load tell each other.
pub struct Shared {
    /// Zero of the clock all threads read.
    epoch: Instant,
    /// Requests answered so far, by thread.
    answered: Vec<Counter>,
    /// Messages the server said it would deliver, and those that arrived.
    promised: Counter,
    delivered: Counter,
    stop: AtomicBool,
    met: AtomicUsize,
    phase: AtomicU8,
    ledger: Option<Arc<Ledger>>,
}

/// On a cache line of its own, as every thread writes to one all the time.
#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicU64);

/// What a load is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Phase {
    /// Opening connections.
    Connecting,
    /// Writing the keys.
    Filling,
    /// Load, not measured yet.
    WarmingUp,
    /// Load, measured.
    Measuring,
    /// Waiting for the last replies, reading back.
    Finishing,
}

impl Shared {
    /// For one load.
    pub fn new(spec: &LoadSpec) -> Shared {
        Shared {
            epoch: Instant::now(),
            answered: (0..spec.threads).map(|_| Counter::default()).collect(),
            promised: Counter::default(),
            delivered: Counter::default(),
            stop: AtomicBool::new(false),
            met: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Connecting as u8),
            ledger: spec.verify.then(|| Arc::new(Ledger::new(spec))),
        }
    }

    /// Requests answered so far, fillings included.
    pub fn answered(&self) -> u64 {
        self.answered
            .iter()
            .map(|counter| counter.0.load(Ordering::Relaxed))
            .sum()
    }

    /// Messages promised by the server that have not arrived.
    pub fn undelivered(&self) -> u64 {
        let promised = self.promised.0.load(Ordering::Relaxed);
        promised.saturating_sub(self.delivered.0.load(Ordering::Relaxed))
    }

    /// Ends the load early.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || sys::is_stopped()
    }

    /// What thread 0 is doing.
    pub fn phase(&self) -> Phase {
        let phases = [
            Phase::Connecting,
            Phase::Filling,
            Phase::WarmingUp,
            Phase::Measuring,
        ];
        let number = usize::from(self.phase.load(Ordering::Relaxed));
        phases.get(number).copied().unwrap_or(Phase::Finishing)
    }
}

/// Connections to one server and everything counted on them.
pub struct Generator {
    ring: Ring,
    clients: Vec<Client>,
    source: Source,
    verifier: Option<Verifier>,
    tally: Tally,
    touched: Vec<Link>,
    shared: Arc<Shared>,
    thread: usize,
    /// Times this thread waited for the others.
    meetings: usize,
    /// Requests that may still be asked.
    left: u64,
    /// Nanoseconds in which an open loop spun with nothing to do.
    idle_ns: u64,
    spec: LoadSpec,
}

#[derive(Default)]
struct Client {
    /// Its number among all connections of the load.
    conn: u64,
    is_subscriber: bool,
    replies: Replies,
    /// Subscribers and checked loads look into replies instead of counting them.
    frames: Frames,
    expects: VecDeque<Expect>,
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

/// What one thread counted.
#[derive(Default)]
pub struct Tally {
    /// Latencies of the requests asked in the time measured.
    pub histogram: Histogram,
    /// Latencies of the messages published in the time measured.
    pub delivery: Histogram,
    /// Open loop: how long after its due time the generator came to each request.
    pub lateness: Histogram,
    /// Requests answered in the time measured.
    pub requests: u64,
    /// Nils of any reply in the time measured.
    pub nils: u64,
    /// Bulk replies of another length than was set.
    pub wrong_length: u64,
    /// Messages that are none of ours.
    pub wrong_messages: u64,
    errors: Errors,
    answered: u64,
    counting: bool,
    is_verified: bool,
    is_publishing: bool,
    /// Only requests since then enter the histogram.
    since: u64,
    until: u64,
    /// Bounds of the values' lengths, where only values are bulk replies.
    lengths: Option<(u64, u64)>,
    last_integer: Option<i64>,
    promised: u64,
    delivered: u64,
    failure: Option<Error>,
}

impl Generator {
    /// Connects thread `thread`'s share of the connections from the calling thread, which should be
    /// pinned already.
    ///
    /// # Errors
    /// [`Error::Os`] when connecting fails, [`Error::Kernel`] on an unfit kernel, [`Error::Refused`]
    /// when the server does not speak the protocol asked for.
    pub fn connect(
        target: &Target,
        spec: &LoadSpec,
        shared: &Arc<Shared>,
        thread: usize,
    ) -> Result<Generator, Error> {
        let space = KeySpace::new(spec.keys, spec.key_size)?;
        let verifier = shared
            .ledger
            .as_ref()
            .map(|ledger| Verifier::new(spec, space, Arc::clone(ledger)));
        let mut generator = Generator {
            ring: Ring::new(Sizes::default())?,
            clients: Vec::new(),
            source: Source::new(spec, thread)?,
            verifier,
            tally: Tally::default(),
            touched: Vec::new(),
            shared: Arc::clone(shared),
            thread,
            meetings: 0,
            left: u64::MAX,
            idle_ns: 0,
            spec: spec.clone(),
        };
        let share = |count: usize| {
            let edge = |part: usize| count * part / spec.threads;
            edge(thread)..edge(thread + 1)
        };
        let is_publishing = spec.mix.has(&[Verb::Publish]);
        let subscribers = share(if is_publishing { spec.subscribers } else { 0 });
        for conn in share(spec.conns).chain(subscribers.clone()) {
            if generator.shared.is_stopped() {
                return Err(Error::Stopped);
            }
            let link = generator.connect_one(target)?;
            assert_eq!(
                link,
                generator.clients.len(),
                "a fresh ring numbers its links in order"
            );
            generator.clients.push(Client {
                conn: conn as u64,
                ..Client::default()
            });
        }
        if spec.proto == 3 {
            let hello = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
            generator.handshake(|client| (!client.is_subscriber).then(|| hello.to_vec()))?;
        }
        let (asking, count) = (generator.clients.len() - subscribers.len(), spec.channels);
        for client in &mut generator.clients[asking..] {
            client.is_subscriber = true;
            client.buffer = subscribe(count, client.conn)?;
        }
        generator.handshake(|client| {
            client
                .is_subscriber
                .then(|| std::mem::take(&mut client.buffer))
        })?;
        Ok(generator)
    }

    fn connect_one(&mut self, target: &Target) -> Result<Link, Error> {
        if let Some(path) = &target.socket {
            let stream = UnixStream::connect(path).map_err(Error::file(path))?;
            return self.ring.add(stream).map_err(Error::os("receiving"));
        }
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .map_err(Error::os("connecting"))?;
        stream
            .set_nodelay(true)
            .map_err(Error::os("setting TCP_NODELAY"))?;
        if let Some(name) = &target.congestion {
            sys::set_congestion_control(&stream, name)
                .map_err(Error::os("setting the congestion control"))?;
        }
        self.ring.add(stream).map_err(Error::os("receiving"))
    }

    /// Sends one request on every connection that has one for it and waits for the answers.
    fn handshake(
        &mut self,
        mut request: impl FnMut(&mut Client) -> Option<Vec<u8>>,
    ) -> Result<(), Error> {
        for (link, client) in self.clients.iter_mut().enumerate() {
            if let Some(bytes) = request(client) {
                client.waiting.push_back((0, 1));
                (client.inflight, client.batch_len) = (1, 0);
                self.ring
                    .send(link, Payload::Own(bytes))
                    .map_err(Error::os("sending"))?;
            }
        }
        let deadline = Instant::now() + STUCK_AFTER;
        while self.outstanding() > 0 {
            if Instant::now() > deadline {
                return Err(Error::Stuck {
                    outstanding: self.outstanding(),
                });
            }
            self.turn(Wait::Up(LOOK))?;
        }
        self.refused()
    }

    /// Writes this thread's share of the keys.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`] when the server would not store.
    pub fn preload(&mut self) -> Result<(), Error> {
        self.enter(Phase::Filling);
        let mut filling = Filling::new(&self.spec, self.thread)?;
        self.fill(&mut filling, FILL_PIPELINE)?;
        self.refused()
    }

    /// Writes all that a filling has, `pipeline` requests per connection at a time.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn fill(&mut self, filling: &mut Filling, pipeline: u32) -> Result<(), Error> {
        self.tally = Tally {
            until: u64::MAX,
            counting: true,
            ..self.fresh_tally(false)
        };
        self.feed_all(|buffer, _, _| filling.append(buffer, pipeline))
    }

    /// Reads this thread's share of the kept keys back, once nobody writes any more.
    fn read_back(&mut self) -> Result<(), Error> {
        let Some(verifier) = self.verifier.take() else {
            return Ok(());
        };
        let edge = |part: usize| {
            (u128::from(self.spec.keys) * part as u128 / self.spec.threads as u128) as u64
        };
        let (first, end) = (edge(self.thread), edge(self.thread + 1));
        let kept: Vec<Kind> = [Kind::String, Kind::Counter]
            .into_iter()
            .filter(|kind| verifier.ledger().is_kept(*kind))
            .collect();
        let mut questions = kept
            .into_iter()
            .flat_map(|kind| (first..end).map(move |key| (kind, key)));
        // A second verifier asks while the first one checks.
        let space = KeySpace::new(self.spec.keys, self.spec.key_size)?;
        let ledger = self.shared.ledger.as_ref().map(Arc::clone);
        let asker = ledger.map(|ledger| Verifier::new(&self.spec, space, ledger));
        self.verifier = Some(verifier);
        self.feed_all(|buffer, expects, _| {
            let mut count = 0;
            while count < FILL_PIPELINE
                && let (Some(asker), Some((kind, key))) = (&asker, questions.next())
            {
                asker.ask_last(kind, key, buffer, expects);
                count += 1;
            }
            count
        })
    }

    /// Gives every answered connection what `next` writes, until that is nothing and all is answered.
    fn feed_all(
        &mut self,
        mut next: impl FnMut(&mut Vec<u8>, &mut VecDeque<Expect>, u64) -> u32,
    ) -> Result<(), Error> {
        self.touch_all();
        let mut progress = (0, Instant::now());
        loop {
            let mut touched = std::mem::take(&mut self.touched);
            for link in touched.drain(..) {
                let client = &mut self.clients[link];
                client.is_touched = false;
                if client.is_subscriber || client.inflight > 0 || !self.ring.can_send(link) {
                    continue;
                }
                let mut batch = std::mem::take(&mut client.buffer);
                batch.clear();
                client.batch_len = 0;
                let count = next(&mut batch, &mut client.expects, client.conn);
                if count == 0 {
                    client.buffer = batch;
                    continue;
                }
                let now = self.shared.epoch.elapsed().as_nanos() as u64;
                client.waiting.push_back((now, count));
                client.inflight = count;
                self.ring
                    .send(link, Payload::Own(batch))
                    .map_err(Error::os("sending"))?;
            }
            self.touched = touched;
            if self.outstanding() == 0 {
                return Ok(());
            }
            self.turn(Wait::Up(LOOK))?;
            if progress.0 != self.tally.answered {
                progress = (self.tally.answered, Instant::now());
            } else if progress.1.elapsed() > STUCK_AFTER {
                return Err(Error::Stuck {
                    outstanding: self.outstanding(),
                });
            }
        }
    }

    /// Waits until every thread has come here as often as this one.
    ///
    /// # Errors
    /// [`Error::Stopped`] when one of them failed.
    pub fn meet(&mut self) -> Result<(), Error> {
        self.meetings += 1;
        self.shared.met.fetch_add(1, Ordering::AcqRel);
        while self.shared.met.load(Ordering::Acquire) < self.meetings * self.spec.threads {
            // Messages go on arriving; a server cuts off subscribers that do not read.
            self.turn(Wait::Up(Duration::from_micros(200)))?;
        }
        Ok(())
    }

    /// Tells what begins; thread 0 speaks for all.
    pub fn enter(&self, phase: Phase) {
        if self.thread == 0 {
            self.shared.phase.store(phase as u8, Ordering::Relaxed);
        }
    }

    /// Begins the load and lets it run for the warm-up.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn warm_up(&mut self) -> Result<Option<Schedule>, Error> {
        self.enter(Phase::WarmingUp);
        self.tally = self.fresh_tally(self.spec.verify);
        let mut schedule = self.spec.rate.map(|rate| {
            let gap_ns = 1e9 / rate * self.spec.threads as f64;
            let offset_ns = gap_ns / self.spec.threads as f64 * self.thread as f64;
            Schedule {
                gap_ns,
                next_ns: self.now() as f64 + offset_ns,
                turn: 0,
            }
        });
        let end = self.now() + self.spec.warmup.0.as_nanos() as u64;
        self.pass(schedule.as_mut(), end)?;
        if let Some(requests) = self.spec.requests {
            // What is counted has to begin with nothing on its way.
            self.left = 0;
            self.pass(schedule.as_mut(), u64::MAX)?;
            let edge = |part: u128| u128::from(requests) * part / self.spec.threads as u128;
            let thread = self.thread as u128;
            self.left = (edge(thread + 1) - edge(thread)) as u64;
            if let Some(schedule) = &mut schedule {
                schedule.next_ns = self.now() as f64;
            }
        }
        Ok(schedule)
    }

    /// The part of the load that is measured; returns how many seconds it took.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn measure(&mut self, schedule: Option<&mut Schedule>) -> Result<f64, Error> {
        self.enter(Phase::Measuring);
        let begin = self.now();
        let end = match self.spec.requests {
            Some(_) => u64::MAX,
            None => begin + self.spec.duration.0.as_nanos() as u64,
        };
        (self.tally.since, self.tally.until, self.tally.counting) = (begin, end, true);
        self.idle_ns = 0;
        self.pass(schedule, end)?;
        self.tally.counting = false;
        self.tally.until = self.tally.until.min(self.now());
        Ok((self.now() - begin) as f64 / 1e9)
    }

    /// More of the same load, not measured.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn go_on(&mut self, schedule: Option<&mut Schedule>, span: Duration) -> Result<(), Error> {
        self.left = u64::MAX;
        let end = self.now() + span.as_nanos() as u64;
        self.pass(schedule, end)
    }

    /// Waits for what is outstanding and reads back what is to be checked; returns how many requests
    /// stayed unanswered, which only an open loop may leave.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn finish(&mut self) -> Result<u64, Error> {
        self.enter(Phase::Finishing);
        let is_open = self.spec.rate.is_some();
        let unanswered = self.drain(is_open, if is_open { OPEN_DRAIN } else { STUCK_AFTER })?;
        if unanswered > 0 && !is_open {
            return Err(Error::Stuck {
                outstanding: unanswered,
            });
        }
        self.meet()?;
        if unanswered == 0 {
            self.read_back()?;
        }
        let deadline = Instant::now() + OPEN_DRAIN;
        while self.tally.is_publishing && self.shared.undelivered() > 0 && Instant::now() < deadline
        {
            self.turn(Wait::Up(Duration::from_millis(10)))?;
        }
        Ok(unanswered)
    }

    /// Nanoseconds of the time measured in which an open loop only waited for the next due time.
    pub fn idle_ns(&self) -> u64 {
        self.idle_ns
    }

    /// What was counted since the warm-up began, and the checks' findings.
    pub fn into_tally(mut self) -> (Tally, Errors, u64, Vec<String>) {
        let errors = self.errors();
        let (mismatches, shown) = self
            .verifier
            .take()
            .map_or((0, Vec::new()), |v| (v.mismatches, v.shown));
        (std::mem::take(&mut self.tally), errors, mismatches, shown)
    }

    /// What was counted since the last filling or warm-up began.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// All error replies.
    pub fn errors(&self) -> Errors {
        let mut errors = self.tally.errors.clone();
        self.clients
            .iter()
            .for_each(|client| errors.merge(client.replies.errors()));
        errors
    }

    fn refused(&self) -> Result<(), Error> {
        Error::refused(&self.errors())
    }

    fn fresh_tally(&self, is_verified: bool) -> Tally {
        let mix = &self.spec.mix;
        let has_other_bulks = mix.has(&[Verb::Xadd]);
        let has_other_integers = mix
            .parts()
            .iter()
            .any(|(verb, _)| INTEGER_VERBS.contains(verb));
        let (low, high) = (self.spec.size.min(), self.spec.size.max());
        Tally {
            is_verified,
            is_publishing: mix.has(&[Verb::Publish]) && !has_other_integers,
            lengths: (!has_other_bulks).then_some((low, high)),
            answered: self.tally.answered,
            ..Tally::default()
        }
    }

    /// Drives the load until the clock reads `end`, or until no request is left and all are answered.
    fn pass(&mut self, mut schedule: Option<&mut Schedule>, end: u64) -> Result<(), Error> {
        self.touch_all();
        let (mut progress, mut answered) = (self.now(), self.tally.answered);
        let mut idle_since = None;
        loop {
            let now = self.now();
            self.idle_ns += (now - idle_since.take().unwrap_or(now)).min(IDLE_TURN_MAX);
            if now >= end || (self.left == 0 && self.outstanding() == 0) {
                return Ok(());
            }
            let mut wait = Wait::Up(LOOK.min(Duration::from_nanos(end - now)));
            let mut has_sent = true;
            match schedule.as_deref_mut() {
                None => self.refill()?,
                Some(schedule) => {
                    let next = self.fall_due(schedule, now, end);
                    has_sent = !self.touched.is_empty();
                    self.send_due()?;
                    // Sleeping and waking costs more than a few turns without work.
                    wait = match next {
                        ns if ns > SLEEP_FROM => {
                            Wait::Up(LOOK.min(Duration::from_nanos(ns - SLEEP_FROM / 2)))
                        }
                        _ => Wait::No,
                    };
                }
            }
            let has_events = self.turn(wait)?;
            if wait == Wait::No && !has_sent && !has_events {
                idle_since = Some(now);
            }
            if self.tally.answered != answered {
                (answered, progress) = (self.tally.answered, now);
            } else if now - progress > STUCK_AFTER.as_nanos() as u64 {
                let outstanding = self.outstanding();
                if outstanding > 0 {
                    return Err(Error::Stuck { outstanding });
                }
                progress = now;
            }
        }
    }

    /// Waits for what is outstanding; returns how many requests stayed unanswered.
    fn drain(&mut self, is_open: bool, patience: Duration) -> Result<u64, Error> {
        let deadline = Instant::now() + patience;
        self.touch_all();
        while self.outstanding() > 0 && Instant::now() < deadline {
            if is_open {
                self.send_due()?;
            }
            self.touched.clear();
            self.clients
                .iter_mut()
                .for_each(|client| client.is_touched = false);
            self.turn(Wait::Up(Duration::from_millis(10)))?;
            if is_open {
                self.touch_all();
            }
        }
        // Whoever was not answered has waited this long at least.
        let now = self.now();
        for client in &mut self.clients {
            for (since, count) in client.waiting.iter().copied() {
                self.tally.record(since, now, count);
            }
            for since in client.due.iter().copied() {
                self.tally.record(since, now, 1);
            }
        }
        let unanswered = self.outstanding();
        self.clients
            .iter_mut()
            .for_each(|client| client.due.clear());
        Ok(unanswered)
    }

    /// One turn of the ring; whether it brought anything.
    fn turn(&mut self, wait: Wait) -> Result<bool, Error> {
        if self.shared.is_stopped() {
            return Err(Error::Stopped);
        }
        let Generator {
            ring,
            clients,
            tally,
            touched,
            shared,
            verifier,
            ..
        } = self;
        let (mut now, mut events) = (None, 0u32);
        ring.turn(wait, |event| {
            events += 1;
            let link = match event {
                Event::Accepted(_) => return,
                Event::Received(link, bytes) => {
                    let now = *now.get_or_insert_with(|| shared.epoch.elapsed().as_nanos() as u64);
                    clients[link].on_bytes(bytes, now, tally, verifier.as_mut());
                    link
                }
                Event::Sent(link, payload) => {
                    if let Payload::Own(buffer) = payload {
                        clients[link].buffer = buffer;
                    }
                    link
                }
                Event::Gone(link, source) => {
                    let link = clients[link].conn as usize;
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
        if events > 0 {
            shared.answered[self.thread]
                .0
                .store(tally.answered, Ordering::Relaxed);
            if tally.is_publishing && tally.promised + tally.delivered > 0 {
                shared
                    .promised
                    .0
                    .fetch_add(std::mem::take(&mut tally.promised), Ordering::Relaxed);
                let delivered = std::mem::take(&mut tally.delivered);
                shared.delivered.0.fetch_add(delivered, Ordering::Relaxed);
            }
        }
        self.tally.failure.take().map_or(Ok(events > 0), Err)
    }

    /// Closed loop: gives every touched connection that is fully answered its next batch.
    fn refill(&mut self) -> Result<(), Error> {
        let mut touched = std::mem::take(&mut self.touched);
        for link in touched.drain(..) {
            let client = &mut self.clients[link];
            client.is_touched = false;
            if client.inflight > 0 || client.is_subscriber || !self.ring.can_send(link) {
                continue;
            }
            let count = u64::from(self.spec.pipeline).min(self.left) as u32;
            if count == 0 {
                continue;
            }
            if self.left != u64::MAX {
                self.left -= u64::from(count);
            }
            let now = self.shared.epoch.elapsed().as_nanos() as u64;
            match &mut self.verifier {
                None => {
                    self.source
                        .batch(&mut client.buffer, &mut client.batch_len, count, now);
                }
                Some(verifier) => {
                    client.buffer.clear();
                    let (conn, out, expects) =
                        (client.conn, &mut client.buffer, &mut client.expects);
                    for _ in 0..count {
                        verifier.ask(&mut self.source, conn, now, out, expects);
                    }
                }
            }
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
        while schedule.next_ns <= now as f64 && self.left > 0 {
            let link = schedule.turn;
            schedule.turn += 1;
            if schedule.turn == self.clients.len() {
                schedule.turn = 0;
            }
            if self.clients[link].is_subscriber {
                continue;
            }
            let due = schedule.next_ns as u64;
            if self.tally.counting {
                self.tally.lateness.add(now - due, 1);
            }
            self.clients[link].due.push_back(due);
            if !self.clients[link].is_touched {
                self.clients[link].is_touched = true;
                self.touched.push(link);
            }
            schedule.next_ns += schedule.gap_ns;
            if self.left != u64::MAX {
                self.left -= 1;
            }
        }
        if self.left == 0 {
            return SLEEP_FROM + 1;
        }
        (schedule.next_ns as u64).min(end).saturating_sub(now)
    }

    /// Open loop: sends what is due and fits the window.
    fn send_due(&mut self) -> Result<(), Error> {
        let window = self.spec.pipeline;
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
                match &mut self.verifier {
                    None => self.source.append(&mut batch, since),
                    Some(verifier) => {
                        let expects = &mut client.expects;
                        verifier.ask(&mut self.source, client.conn, since, &mut batch, expects);
                    }
                }
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

    /// What DBSIZE answers, if it is a number.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn count_keys(&mut self) -> Result<Option<u64>, Error> {
        self.tally.last_integer = None;
        let mut ask = Some(b"*1\r\n$6\r\nDBSIZE\r\n".to_vec());
        self.handshake(|_| ask.take())?;
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

    fn now(&self) -> u64 {
        self.shared.epoch.elapsed().as_nanos() as u64
    }
}

impl Client {
    #[inline]
    fn on_bytes(
        &mut self,
        bytes: &[u8],
        now: u64,
        tally: &mut Tally,
        verifier: Option<&mut Verifier>,
    ) {
        let fed = match verifier {
            _ if self.is_subscriber => self.on_messages(bytes, now, tally),
            Some(verifier) if tally.is_verified => self.on_checked(bytes, tally, verifier),
            _ => self.on_replies(bytes, tally),
        };
        let mut count = match fed {
            Ok(count) => count,
            Err(Malformed(byte)) => {
                tally.failure.get_or_insert(Error::Reply { byte });
                return;
            }
        };
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

    /// Counts replies.
    fn on_replies(&mut self, bytes: &[u8], tally: &mut Tally) -> Result<u32, Malformed> {
        let mut count = 0;
        let (low, high) = tally.lengths.unwrap_or((0, u64::MAX));
        self.replies.feed(bytes, |reply| {
            count += 1;
            match reply {
                Reply::Nil => tally.nils += u64::from(tally.counting),
                Reply::Many { nils } if tally.counting => tally.nils += nils,
                Reply::Bulk(len) if len < low || len > high => tally.wrong_length += 1,
                Reply::Integer(value) => {
                    tally.last_integer = Some(value);
                    tally.promised += u64::try_from(value).unwrap_or(0);
                }
                Reply::Push => count -= 1,
                Reply::Bulk(_) | Reply::Many { .. } | Reply::Status | Reply::Error => {}
            }
        })?;
        Ok(count)
    }

    /// Checks replies.
    fn on_checked(
        &mut self,
        bytes: &[u8],
        tally: &mut Tally,
        verifier: &mut Verifier,
    ) -> Result<u32, Malformed> {
        let (mut count, mut failure) = (0, None);
        let Client {
            frames, expects, ..
        } = self;
        frames.feed(bytes, |frame| {
            if frame.first() == Some(&b'>') || failure.is_some() {
                return;
            }
            if let Ok(Some(Value::Integer(value))) = Reader::new(frame).next() {
                tally.promised += u64::try_from(value).unwrap_or(0);
            }
            match verifier.check(frame, expects, &mut tally.errors) {
                Ok(true) => count += 1,
                Ok(false) => {
                    tally.failure.get_or_insert(Error::Surplus);
                }
                Err(e) => failure = Some(e),
            }
        })?;
        failure.map_or(Ok(count), Err)
    }

    /// Counts messages; the only replies are confirmations.
    fn on_messages(&mut self, bytes: &[u8], now: u64, tally: &mut Tally) -> Result<u32, Malformed> {
        let (mut count, mut failure) = (0, None);
        self.frames.feed(bytes, |frame| {
            let mut reader = Reader::new(frame);
            let mut values = [Value::Nil; 4];
            for value in &mut values {
                match reader.next() {
                    Ok(Some(read)) => *value = read,
                    Ok(None) => break,
                    Err(e) => failure = Some(e),
                }
            }
            match values {
                [
                    Value::Many { count: 3, .. },
                    Value::Bulk(b"message"),
                    _,
                    Value::Bulk(text),
                ] => {
                    tally.delivered += 1;
                    match time_of_message(text) {
                        Some(since) if since >= tally.since && since < tally.until => {
                            tally.delivery.add(now.saturating_sub(since), 1);
                        }
                        Some(_) => {}
                        None => tally.wrong_messages += 1,
                    }
                }
                [Value::Many { count: 3, .. }, Value::Bulk(b"subscribe"), ..] => count += 1,
                [Value::Error(text), ..] => {
                    tally.errors.add(&String::from_utf8_lossy(text), 1);
                    count += 1;
                }
                _ => failure = Some(Malformed(frame.first().copied().unwrap_or(0))),
            }
        })?;
        failure.map_or(Ok(count), Err)
    }
}

impl Tally {
    /// Counts all that another thread counted.
    pub fn merge(&mut self, other: &Tally) {
        self.histogram.merge(&other.histogram);
        self.delivery.merge(&other.delivery);
        self.lateness.merge(&other.lateness);
        self.requests += other.requests;
        self.nils += other.nils;
        self.wrong_length += other.wrong_length;
        self.wrong_messages += other.wrong_messages;
    }

    /// Whether the server's promises of delivery can be told from other numbers.
    pub fn is_publishing(&self) -> bool {
        self.is_publishing
    }

    #[inline]
    fn answer(&mut self, since: u64, now: u64, count: u32) {
        self.answered += u64::from(count);
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
pub struct Schedule {
    gap_ns: f64,
    next_ns: f64,
    /// The connection whose turn it is.
    turn: usize,
}

/// Verbs other than PUBLISH that a number answers.
const INTEGER_VERBS: [Verb; 6] = [
    Verb::Incr,
    Verb::Lpush,
    Verb::Hset,
    Verb::Zadd,
    Verb::Sadd,
    Verb::Del,
];
const FILL_PIPELINE: u32 = 64;
/// Longest wait before a signal or a stuck server is noticed.
const LOOK: Duration = Duration::from_millis(100);
const STUCK_AFTER: Duration = Duration::from_secs(10);
const OPEN_DRAIN: Duration = Duration::from_secs(2);
/// A turn without work is over sooner; what is longer was a neighbour's time.
const IDLE_TURN_MAX: u64 = 5_000;
/// Open loop: from this distance to the next request on, sleeping is worth it.
const SLEEP_FROM: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_in_pieces_are_charged_to_the_oldest_request() {
        let mut client = Client::default();
        let mut tally = Tally {
            counting: true,
            until: u64::MAX,
            lengths: Some((2, 2)),
            ..Tally::default()
        };
        client.waiting.extend([(100, 2), (200, 1)]);
        client.inflight = 3;
        client.on_bytes(b"+OK\r\n$2\r\nx", 1_100, &mut tally, None);
        assert_eq!((client.inflight, tally.requests), (2, 1));
        client.on_bytes(b"x\r\n$3\r\nxxx\r\n", 2_100, &mut tally, None);
        assert_eq!(
            (client.inflight, tally.requests, tally.wrong_length),
            (0, 3, 1)
        );
        assert_eq!(tally.histogram.max(), 2_000);
        client.on_bytes(b"+OK\r\n", 3_000, &mut tally, None);
        assert!(matches!(tally.failure, Some(Error::Surplus)));
    }

    #[test]
    fn messages_are_timed_and_confirmations_are_answers() {
        let mut client = Client {
            is_subscriber: true,
            inflight: 1,
            ..Client::default()
        };
        client.waiting.push_back((0, 1));
        let mut tally = Tally {
            since: 1_000,
            until: 2_000,
            ..Tally::default()
        };
        let confirmed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
        client.on_bytes(confirmed, 10, &mut tally, None);
        assert_eq!((client.inflight, tally.delivered), (0, 0));
        for (published, mark) in [(900, '*'), (1_500, '>'), (1_600, '*')] {
            let text = format!("{mark}3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$20\r\n{published:020}\r\n");
            client.on_bytes(text.as_bytes(), 1_700, &mut tally, None);
        }
        assert_eq!(
            (
                tally.delivered,
                tally.delivery.count(),
                tally.delivery.max()
            ),
            (3, 2, 200)
        );
    }
}
