//! The connections of clients when another process takes over: a core that is over with it gives them away,
//! a core of the next process takes them in. `handoff::passing` has the form; the line between the two
//! processes is served by a thread on either side, because a ring sends and receives no descriptors.
//!
//! A connection leaves only when this process cannot serve again, so no two processes ever read from it. What
//! it has asked and nobody has begun goes along as it came.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use uring::{Nanos, Reactor, SocketId, pass};

use super::{
    conn::{Conn, GiveUp, Hold, Multi, ReplyMode},
    handoff::Stage,
    log,
    message::{CoreId, Topics},
    shared::{Shared, lock},
    state::State,
};
use crate::{
    base::Ms,
    handoff::passing::{
        BODY_FULL, BODY_MAX, Blocked, CLIENTS_MAX, Changes, Client, Head, Kind, Queue, Replies,
        STATE_MAX, Words, put_state,
    },
    resp::{Out, OwnedArgs, Proto},
};

/// For so long a client may go on reading what it is owed before it is passed on.
const READ_NS: Nanos = 1_000_000_000;
/// What cannot be told the next process within this is not told.
const SEND_TIME: Duration = Duration::from_secs(5);
/// Between two tries while too many descriptors are on their way.
const CROWDED: Duration = Duration::from_millis(1);

/// What both sides share between the cores and the thread at the line.
#[derive(Debug, Default)]
pub struct Passage {
    /// Where clients go, once it is over here.
    mover: Mutex<Option<mpsc::Sender<Moved>>>,
    /// All of them are on their way.
    is_over: AtomicBool,
    /// Clients that have come, by the core that is to have them.
    arrivals: Mutex<BTreeMap<CoreId, Vec<Arrival>>>,
    /// How many those are.
    waiting: AtomicUsize,
    /// What is to be done before the first of them is served.
    left: AtomicUsize,
    /// Clients that were taken in.
    pub taken: AtomicU64,
}

/// What a core says to the thread that sends.
#[derive(Debug)]
enum Moved {
    /// A client, and its state.
    Client(OwnedFd, Vec<u8>),
    /// This core's clients are gone, but for those that still read.
    Ready,
    /// This core has none any more; so many could not be passed on.
    Done(usize),
}

/// A client that comes from another process.
#[derive(Debug)]
pub struct Arrival {
    /// Its connection.
    pub fd: OwnedFd,
    /// The other end; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// This end.
    pub local: Option<SocketAddr>,
    /// All else that is known of it.
    pub client: Client,
}

impl Passage {
    /// Something more has to happen before anybody is served.
    pub(super) fn begin(&self) {
        self.left.fetch_add(1, SeqCst);
    }

    /// A client for a core of this process, which is then to be woken.
    pub fn deliver(&self, core: CoreId, arrival: Arrival) {
        self.left.fetch_add(1, SeqCst);
        lock(&self.arrivals).entry(core).or_default().push(arrival);
        self.waiting.fetch_add(1, SeqCst);
    }

    /// So much of what is to be done before clients are served is done; true if that was the last of it.
    pub(super) fn settle(&self, count: usize) -> bool {
        self.left.fetch_sub(count, SeqCst) == count
    }

    /// The clients that have come for a core.
    pub(super) fn arrivals(&self, core: CoreId) -> Vec<Arrival> {
        if self.waiting.load(Relaxed) == 0 {
            return Vec::new();
        }
        let arrivals = lock(&self.arrivals).remove(&core).unwrap_or_default();
        self.waiting.fetch_sub(arrivals.len(), SeqCst);
        arrivals
    }

    /// Sends clients on along this line, as soon as cores give them away.
    pub(super) fn open(shared: &Arc<Shared>, line: UnixStream) {
        let (sender, moved) = mpsc::channel();
        *lock(&shared.handover.passage.mover) = Some(sender);
        let shared = shared.clone();
        thread::spawn(move || {
            if let Err(error) = send_all(&line, &moved, &shared) {
                log(&format!("handoff: clients could not be passed on: {error}"));
            }
            shared.handover.passage.is_over.store(true, SeqCst);
        });
    }

    /// Is every client on its way that can be?
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(SeqCst) || lock(&self.mover).is_none()
    }
}

/// Sends what the cores say.
fn send_all(line: &UnixStream, moved: &mpsc::Receiver<Moved>, shared: &Shared) -> io::Result<()> {
    line.set_write_timeout(Some(SEND_TIME))?;
    let cores = shared.settings.cores;
    let (mut ready, mut done, mut passed, mut closed) = (0, 0, 0, 0);
    let mut batch = Batch::default();
    send_changes(line, &shared.changed_at_run_time())?;
    while done < cores {
        let told = match moved.try_recv() {
            Ok(told) => told,
            Err(_) => {
                batch.send(line)?;
                match moved.recv() {
                    Ok(told) => told,
                    Err(_) => break,
                }
            }
        };
        match told {
            Moved::Client(fd, state) => {
                passed += 1;
                batch.push(fd, &state);
                if batch.is_full() {
                    batch.send(line)?;
                }
            }
            Moved::Ready => {
                ready += 1;
                if ready == cores {
                    batch.send(line)?;
                    send_plain(line, Kind::Go, shared.next_client())?;
                }
            }
            Moved::Done(count) => {
                done += 1;
                closed += count;
            }
        }
    }
    batch.send(line)?;
    log(&format!(
        "handoff: {passed} connections of clients passed, {closed} closed"
    ));
    send_plain(line, Kind::End, passed | (closed as u64) << 32)
}

fn send_changes(mut line: &UnixStream, changes: &Changes) -> io::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut body = Vec::new();
    changes.encode(&mut body);
    if body.len() > BODY_MAX {
        // The clients are worth more.
        let len = body.len();
        log(&format!(
            "handoff: {len} bytes of users and settings are too many to go on; clients do"
        ));
        return Ok(());
    }
    let head = Head {
        kind: Kind::Changes,
        clients: 0,
        len: body.len(),
    };
    line.write_all(&[&head.compose()[..], &body].concat())
}

fn send_plain(mut line: &UnixStream, kind: Kind, number: u64) -> io::Result<()> {
    let head = Head {
        kind,
        clients: 0,
        len: 8,
    };
    line.write_all(&[head.compose(), number.to_le_bytes()].concat())
}

/// Clients of one frame.
#[derive(Default)]
struct Batch {
    fds: Vec<OwnedFd>,
    body: Vec<u8>,
}

impl Batch {
    fn push(&mut self, fd: OwnedFd, state: &[u8]) {
        self.fds.push(fd);
        put_state(state, &mut self.body);
    }

    fn is_full(&self) -> bool {
        self.fds.len() == CLIENTS_MAX || self.body.len() >= BODY_FULL
    }

    fn send(&mut self, mut line: &UnixStream) -> io::Result<()> {
        if self.fds.is_empty() {
            return Ok(());
        }
        let head = Head {
            kind: Kind::Clients,
            clients: self.fds.len(),
            len: self.body.len(),
        };
        let frame = [&head.compose()[..], &self.body].concat();
        let until = Instant::now() + SEND_TIME;
        let sent = loop {
            match pass::send_descriptors(line, &frame, &self.fds) {
                Err(error) if is_crowded(&error) && Instant::now() < until => {
                    thread::sleep(CROWDED);
                }
                sent => break sent?,
            }
        };
        line.write_all(&frame[sent..])?;
        self.fds.clear();
        self.body.clear();
        Ok(())
    }
}

/// Too many descriptors of this user are on their way between processes.
fn is_crowded(error: &io::Error) -> bool {
    const ETOOMANYREFS: i32 = 109;
    error.raw_os_error() == Some(ETOOMANYREFS)
}

/// How a connection is given away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// It has been told everything.
    AtOnce,
    /// It is still being told something.
    Reading,
}

/// A core whose clients leave.
#[derive(Debug)]
pub(super) struct Parting {
    mover: mpsc::Sender<Moved>,
    at_once: usize,
    reading: usize,
    closed: usize,
    is_ready: bool,
    is_done: bool,
    until: Nanos,
}

impl Parting {
    /// Gives all clients away, if there is somebody who takes them. The others are told the end, behind what
    /// they are owed: the end of the process would take from them what they have not read yet.
    pub fn begin<R: Reactor>(state: &mut State, reactor: &mut R) -> Option<Self> {
        state.let_go();
        let mover = lock(&state.shared.handover.passage.mover).clone();
        let mut parting = mover.map(|mover| Self {
            mover,
            at_once: 0,
            reading: 0,
            closed: 0,
            is_ready: false,
            is_done: false,
            until: reactor.now() + READ_NS,
        });
        let conns: Vec<_> = state.conns().map(|conn| conn.socket).collect();
        for socket in conns {
            let Some(mut conn) = state.take_conn(socket) else {
                continue;
            };
            match &mut parting {
                Some(parting) if can_leave(&conn) => {
                    parting.start(&mut conn, reactor);
                    state.list(&mut conn);
                }
                parting => {
                    parting.iter_mut().for_each(|parting| parting.closed += 1);
                    match conn.is_in_tls() {
                        false => reactor.finish_sending(socket),
                        // TLS has its own word for it, which the ring does not know.
                        true => end_tls(state, &mut conn),
                    }
                }
            }
            state.put_conn(conn);
        }
        parting
    }

    fn start<R: Reactor>(&mut self, conn: &mut Conn, reactor: &mut R) {
        let is_told = conn.owed() == 0 && !conn.sending;
        if is_told {
            self.at_once += 1;
            conn.leaving = Some(Leaving::AtOnce);
            reactor.hand_out(conn.socket);
        } else {
            self.reading += 1;
            conn.leaving = Some(Leaving::Reading);
        }
    }

    /// A connection is here as a descriptor.
    pub fn on_handed_out(&mut self, state: &mut State, socket: SocketId, fd: OwnedFd) {
        let Some(mut conn) = state.take_conn(socket) else {
            return;
        };
        self.forget(&conn);
        let mut bytes = Vec::new();
        pack(state, &mut conn).encode(&mut bytes);
        state.clients.count -= 1;
        match bytes.len() <= STATE_MAX {
            // The thread is gone if the other process is.
            true => drop(self.mover.send(Moved::Client(fd, bytes))),
            false => self.closed += 1,
        }
    }

    /// One that was to leave is gone.
    pub fn lose(&mut self, conn: &Conn) {
        self.forget(conn);
        self.closed += 1;
    }

    fn forget(&mut self, conn: &Conn) {
        match conn.leaving {
            Some(Leaving::AtOnce) => self.at_once -= 1,
            Some(Leaving::Reading) => self.reading -= 1,
            None => {}
        }
    }

    /// Says how far this core is.
    pub fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        if self.at_once == 0 && !self.is_ready {
            self.is_ready = true;
            let _ = self.mover.send(Moved::Ready);
        }
        if self.is_done || !self.is_ready {
            return;
        }
        if self.reading > 0 && reactor.now() >= self.until {
            // Who has been told everything is on its way.
            let is_told = |conn: &Conn| conn.owed() == 0 && !conn.sending;
            let slow = state.conns().filter(|conn| conn.leaving.is_some());
            let slow = slow.filter(|conn| !is_told(conn));
            let slow: Vec<_> = slow.map(|conn| conn.socket).collect();
            for socket in slow {
                if let Some(mut conn) = state.take_conn(socket) {
                    self.lose(&conn);
                    state.drop_conn(&mut conn);
                    state.put_conn(conn);
                }
            }
        }
        if self.reading == 0 {
            self.is_done = true;
            let _ = self.mover.send(Moved::Done(self.closed));
        }
    }
}

/// Tells a client in TLS the end, behind what it is owed.
fn end_tls(state: &mut State, conn: &mut Conn) {
    state.on_end(conn, true);
    conn.closing = true;
}

/// Can another process go on with this connection? What TLS has agreed on with a client stays here.
fn can_leave(conn: &Conn) -> bool {
    let is_waiting = match &conn.hold {
        // Another node asks, of this process.
        Hold::Blocked(blocked) => matches!(blocked.on_timeout, GiveUp::Unanswered),
        _ => conn.is_waiting(),
    };
    let is_simple = !conn.is_in_tls()
        && conn.tracking.is_none()
        && !conn.monitors
        && !conn.reads_replica
        && !conn.has_held();
    is_simple && !is_waiting && !conn.closing && !conn.ended && conn.input.len() <= STATE_MAX / 2
}

/// Takes all that is known of a connection.
fn pack(state: &State, conn: &mut Conn) -> Client {
    let words = |args: &OwnedArgs| -> Words { args.as_args().iter().map(<[u8]>::to_vec).collect() };
    let mut replies = match conn.reply_mode {
        ReplyMode::On => Replies::On,
        ReplyMode::Off => Replies::Off,
        ReplyMode::SkipNext => Replies::SkipNext,
    };
    let carried = conn.carried.take();
    let blocked = match &conn.hold {
        Hold::Blocked(blocked) => {
            // The one whose reply is not sent is asked again.
            if conn.is_muted(blocked.slot) && replies == Replies::On {
                replies = Replies::SkipNext;
            }
            Some(Blocked {
                words: words(&blocked.args),
                deadline: blocked.deadline,
            })
        }
        _ => carried.map(|carried| *carried),
    };
    let names = |names: &std::collections::BTreeSet<Vec<u8>>| names.iter().cloned().collect();
    Client {
        id: conn.id,
        is_resp3: conn.out.proto == Proto::Three,
        db: conn.db as u64,
        name: std::mem::take(&mut conn.name),
        lib_name: std::mem::take(&mut conn.lib_name),
        lib_version: std::mem::take(&mut conn.lib_version),
        replies,
        no_touch: conn.no_touch,
        no_evict: conn.no_evict,
        is_trusted: conn.trusted,
        user: conn.user.name().to_vec(),
        port_shard: conn.port_shard.map(|shard| shard as u64),
        age_ms: state.beat.saturating_sub(conn.since),
        idle_ms: state.beat.saturating_sub(conn.used),
        queue: conn.multi.as_ref().map(|multi| Queue {
            commands: multi.queued.iter().map(|(_, args)| words(args)).collect(),
            has_failed: multi.failed,
        }),
        is_tainted: conn.tainted || !conn.watching.is_empty(),
        channels: names(&conn.channels),
        patterns: names(&conn.patterns),
        shard_channels: names(&conn.shard_channels),
        blocked,
        unread: std::mem::take(&mut conn.input),
    }
}

impl State {
    /// Takes in the clients that have come from another process for this core; how many came. None of them is
    /// served before all cores have theirs, so that nobody misses what another one of them publishes.
    pub(super) fn take_arrivals<R: Reactor>(&mut self, reactor: &mut R) -> usize {
        let arrivals = self.shared.clone().handover.passage.arrivals(self.me);
        let count = arrivals.len();
        for arrival in arrivals {
            self.take_in(arrival, reactor);
        }
        if count > 0 {
            self.go_on_paused();
        }
        count
    }

    fn take_in<R: Reactor>(&mut self, arrival: Arrival, reactor: &mut R) {
        let Arrival {
            fd,
            peer,
            local,
            client,
        } = arrival;
        let db = usize::try_from(client.db).ok();
        let Some(db) = db.filter(|db| *db < self.shared.settings.databases) else {
            return self.log_seldom("handoff: a client uses a database that is not there: closed");
        };
        let Some(user) = self.users.get(&client.user).cloned() else {
            return self.log_seldom("handoff: a client is of a user that is not there: closed");
        };
        let socket = match reactor.take_in(fd) {
            Ok(socket) => socket,
            Err(error) => return self.log_seldom(&format!("handoff: a client is lost: {error}")),
        };
        // Once others are served here, the number may be one of theirs.
        let id = match self.shared.handover.stage() {
            Stage::Arriving => client.id,
            _ => self.shared.next_client(),
        };
        let mut conn = Box::new(Conn::new(socket, id, peer, user, self.beat));
        conn.local = local;
        conn.since = self.beat.saturating_sub(client.age_ms);
        conn.used = self.beat.saturating_sub(client.idle_ms);
        conn.db = db;
        conn.name = client.name;
        conn.lib_name = client.lib_name;
        conn.lib_version = client.lib_version;
        conn.no_touch = client.no_touch;
        conn.no_evict = client.no_evict;
        self.trust(&mut conn, client.is_trusted);
        let shard = client.port_shard.map(|shard| shard as usize);
        conn.port_shard =
            shard.filter(|shard| self.has_slots() && *shard < self.shared.settings.shards);
        conn.set_proto(match client.is_resp3 {
            true => Proto::Three,
            false => Proto::Two,
        });
        if let Some(queue) = client.queue {
            self.queue_again(&mut conn, queue);
        }
        conn.reply_mode = match client.replies {
            Replies::On => ReplyMode::On,
            Replies::Off => ReplyMode::Off,
            Replies::SkipNext => ReplyMode::SkipNext,
        };
        conn.tainted = client.is_tainted;
        for (kind, names) in [
            (Topics::Channels, client.channels),
            (Topics::Patterns, client.patterns),
            (Topics::Shards, client.shard_channels),
        ] {
            for name in names {
                self.set_subscription(&mut conn, kind, &name, true);
            }
        }
        conn.carried = client
            .blocked
            .filter(|blocked| !blocked.words.is_empty())
            .map(Box::new);
        conn.input = client.unread;
        conn.hold = Hold::Paused;
        self.clients.paused.push(socket);
        self.clients.count += 1;
        self.shared.handover.passage.taken.fetch_add(1, Relaxed);
        reactor.start_receiving(socket);
        self.place_conn(conn);
    }

    /// MULTI, and what it has queued elsewhere.
    fn queue_again(&mut self, conn: &mut Conn, queue: Queue) {
        conn.multi = Some(Multi::default());
        for words in queue.commands {
            let args = OwnedArgs::copy(words.iter().map(Vec::as_slice));
            let found = words.first().and_then(|name| self.table.find(name));
            match found {
                Some(spec) if spec.fits(words.len()) => self.queue(conn, spec, args.as_args()),
                _ => conn.multi.iter_mut().for_each(|multi| multi.failed = true),
            }
        }
        if let Some(multi) = &mut conn.multi {
            multi.failed |= queue.has_failed;
        }
        // They were answered there.
        conn.out = Out::new(conn.out.proto);
    }

    /// Asks again what a client was blocked with in another process. It gives up when it would have there.
    pub(super) fn ask_again(&mut self, conn: &mut Conn, carried: Box<Blocked>) {
        let args = OwnedArgs::copy(carried.words.iter().map(Vec::as_slice));
        conn.hold = Hold::Free;
        conn.give_up_at = Some((conn.next_slot(), carried.deadline));
        self.request(conn, &args.as_args());
        if conn.is_paused() {
            conn.carried = Some(carried);
            return;
        }
        if !matches!(conn.hold, Hold::Blocked(_) | Hold::Loan { .. }) {
            conn.give_up_at = None;
        }
        if conn.is_free() {
            self.wake(conn);
        }
        self.list(conn);
    }
}

/// When a command that is asked again gives up, and the place of its reply.
pub(super) type GiveUpAt = Option<(u64, Option<Ms>)>;
