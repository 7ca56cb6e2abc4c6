//! From received bytes to executed commands: parsing, dispatch, loans between cores, blocking.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use arrayvec::ArrayVec;
use uring::{SocketId, sys};

use super::{
    conn::{Blocked, Conn, GiveUp, Hold, ReplyMode},
    core::micros_since,
    homes::{Homes, Listener, Place, Want},
    load::Load,
    message::{After, Asker, CoreId, Errand, Message, Waiting},
    pubsub::Subscriptions,
    scripts::{Changed, ScriptHost},
    shared::{DbSize, Shared, SlowEntry, Tunables, lock},
};
use crate::{
    base::{Ms, Rng},
    cmd::{self, Block, Ctx, Keys, Run, Shard, Spec, Table, flag},
    mesh::Mesh,
    resp::{Args, Error, Mark, Out, OwnedArgs, ParseLimits, Parser, Step, peek_argument},
    script::{self, EngineError, ScriptEngine},
    store::Hashed,
};

/// What a command does once its shards are here.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Runs this function on the stores.
    Store(fn(&mut Ctx<'_>, Args<'_>) -> Result<(), Error>),
    /// Runs a Lua script on them.
    Script,
}

impl Work {
    /// The work of a command on stores; `None` for commands of the session.
    fn of(spec: &Spec) -> Option<Work> {
        match spec.run {
            Run::Store(run) => Some(Work::Store(run)),
            Run::Script => Some(Work::Script),
            Run::Session(_) => None,
        }
    }
}

/// Requests that are parsed ahead of being run, so that their memory can be fetched ahead too.
pub(super) const GROUP_LEN: usize = 32;
/// From this many requests on it pays to fetch memory ahead.
const FETCH_AHEAD_MIN: usize = 8;
/// Where an entry is fetched ahead: a short key and a value of 64 bytes lie on up to three lines.
const FETCH_AT: [usize; 3] = [0, 64, 88];
/// Smaller keyspaces are near anyway.
const FETCH_KEYS_MIN: usize = 8192;
/// Keys that one turn may expire per database.
const EXPIRE_BUDGET: usize = 200;
/// Elements that one turn may free.
const FREE_BUDGET: usize = 256;
/// Growth of the buffer of an unfinished request per step, so that a header alone reserves little.
const INPUT_STEP: usize = 1 << 20;

pub(super) const READ_ONLY: Error =
    Error::fixed("READONLY You can't write against a read only replica.");
pub(super) const LOADING: Error = Error::fixed("LOADING ringkeep is loading the dataset in memory");
const OUT_OF_MEMORY: Error =
    Error::fixed("OOM command not allowed when used memory > 'maxmemory'.");
const EXEC_ABORT: Error =
    Error::fixed("EXECABORT Transaction discarded because of previous errors.");

/// Counters of this core, copied to [`Shared`] once per tick.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub(super) struct Stats {
    pub commands: u64,
    pub accepted: u64,
    pub refused: u64,
    pub blocked: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub turns: u64,
    pub expired: u64,
    pub protocol_errors: u64,
}

/// On whose behalf a command runs.
#[derive(Clone, Copy)]
struct Call {
    db: usize,
    may_block: bool,
    from_primary: bool,
}

impl Call {
    /// A frame of the primary that this node follows.
    const FRAME: Call = Call {
        db: 0,
        may_block: false,
        from_primary: true,
    };

    /// A client's request.
    fn of(db: usize, may_block: bool) -> Call {
        Call {
            db,
            may_block,
            from_primary: false,
        }
    }
}

/// What runs once all shards of a collection are here.
pub(super) enum Job {
    /// A request of a connection; the reply goes to the slot.
    Request {
        conn: SocketId,
        slot: u64,
        spec: &'static Spec,
        run: Work,
        args: OwnedArgs,
        db: usize,
    },
    /// EXEC of a connection.
    Exec { conn: SocketId, slot: u64 },
    /// Another try of a blocked command; whose round waits for it.
    Retry {
        conn: SocketId,
        slot: u64,
        round: Option<(CoreId, u64)>,
    },
    /// A frame of the primary that this node follows.
    Frame {
        asker: Asker,
        run: Work,
        spec: &'static Spec,
        args: OwnedArgs,
    },
    /// The data set is being replaced by a snapshot, over many turns.
    Load(Box<Load>),
    /// Nothing: the shards are held for a load that is under way.
    Idle,
}

/// Who is to hear of a change.
enum Hear {
    /// This one.
    One(Listener),
    /// Those of this round, one after the other.
    Round(u64),
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Applied {
    /// It was applied.
    Now,
    /// It is on its way to its shard; the next frame may follow.
    Later,
    /// It needs several shards; the next frame must wait for it.
    Alone,
}

/// Shards on their way to this core, for one job.
struct Collection {
    job: Job,
    need: Vec<usize>,
    #[expect(
        clippy::vec_box,
        reason = "shards arrive in their boxes and leave in them"
    )]
    got: Vec<Box<Shard>>,
}

/// Everything of a core but its ring.
pub(super) struct State {
    pub me: CoreId,
    pub mesh: Mesh<Message>,
    pub shared: Arc<Shared>,
    pub homes: Homes,
    pub now: Ms,
    pub rng: Rng,
    pub stats: Stats,
    pub subs: Subscriptions,
    scripts: ScriptEngine,
    /// Messages that scripts published in this turn.
    published: Vec<Message>,
    pub table: Table,
    pub tunables: Tunables,
    /// Sockets to close at the end of the turn.
    pub dropped: Vec<SocketId>,
    /// Frames that other cores applied.
    pub applied: Vec<Asker>,
    /// Loads that are done, with their stream and session.
    pub loaded: Vec<(usize, u64, bool)>,
    tunables_version: u64,
    limits: ParseLimits,
    conns: Vec<Option<Box<Conn>>>,
    conn_count: usize,
    /// Connections with something to send.
    listed: Vec<u32>,
    parser: Parser,
    /// Where replies go that nobody reads.
    scratch: Out,
    group: Vec<(usize, usize, usize)>,
    collections: HashMap<u64, Collection>,
    next_collection: u64,
    /// Collections that are complete. They run one after the other, never one inside another: a queue of
    /// them may be longer than the stack is deep.
    ready: VecDeque<Collection>,
    /// Connections whose next requests may run. They run at the end of the turn, for the same reason.
    woken: VecDeque<SocketId>,
    /// Connections that are held because other cores cannot follow.
    stalled: Vec<SocketId>,
    /// A load that owns all shards, worked on once per turn.
    load: Option<(Collection, Box<Load>)>,
    deadlines: BTreeSet<(Ms, u32)>,
    heard: VecDeque<Hear>,
    /// Blocked clients of several cores that want the same keys, by the number of their round.
    rounds: HashMap<u64, VecDeque<Listener>>,
    next_round: u64,
    pub gathers: HashMap<u64, super::session::Gather>,
    pub next_gather: u64,
    /// REPLICAOF said on this core (0): whom to follow from the end of this turn.
    pub follow_request: Option<Option<(String, u16)>>,
    freeing: bool,
    /// More keys are due than one turn may remove.
    more_due: bool,
    /// The node holds more than `maxmemory`.
    over_memory: bool,
    last_log: Ms,
}

impl State {
    pub(super) fn new(
        mesh: Mesh<Message>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let (me, cores) = (mesh.me(), mesh.cores());
        let settings = &shared.settings;
        let start = Instant::now();
        let limits = script::Limits {
            run_ms: super::scripts::RUN_MS,
            memory: super::scripts::MEMORY,
        };
        let clock = Box::new(move || start.elapsed().as_millis() as Ms);
        let scripts = ScriptEngine::new(shared.scripts.clone(), limits, clock)?;
        Ok(Self {
            me,
            homes: Homes::new(me, cores, settings.shards, settings.databases, seed),
            subs: Subscriptions::new(cores),
            scripts,
            published: Vec::new(),
            mesh,
            now: 0,
            rng: Rng::seeded(seed ^ me as u64),
            stats: Stats::default(),
            table: Table::build(),
            tunables: Tunables::default(),
            tunables_version: 0,
            limits: ParseLimits::default(),
            dropped: Vec::new(),
            applied: Vec::new(),
            loaded: Vec::new(),
            conns: Vec::new(),
            conn_count: 0,
            listed: Vec::new(),
            parser: Parser::default(),
            scratch: Out::default(),
            group: Vec::with_capacity(GROUP_LEN),
            collections: HashMap::new(),
            next_collection: 0,
            ready: VecDeque::new(),
            woken: VecDeque::new(),
            stalled: Vec::new(),
            load: None,
            deadlines: BTreeSet::new(),
            heard: VecDeque::new(),
            rounds: HashMap::new(),
            next_round: 0,
            gathers: HashMap::new(),
            next_gather: 0,
            follow_request: None,
            freeing: false,
            more_due: false,
            over_memory: false,
            last_log: 0,
            shared,
        })
    }

    // ---- connections ----

    /// Takes in a new connection; false if there are too many. It is then told so and closed.
    pub(super) fn accept(&mut self, socket: SocketId, peer: Option<SocketAddr>) -> bool {
        let others = self
            .shared
            .clients()
            .saturating_sub(self.shared.stats[self.me].clients.load(Relaxed));
        let refused = others + self.conn_count >= self.tunables.conns_max;
        let index = socket.index as usize;
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        let id = self.shared.next_client();
        let mut conn = Box::new(Conn::new(socket, id, peer, self.now));
        self.conn_count += 1;
        if refused {
            self.stats.refused += 1;
            conn.receiving = false;
            conn.closing = true;
            conn.out
                .error(&Error::fixed("ERR max number of clients reached"));
            self.list(&mut conn);
        } else {
            self.stats.accepted += 1;
        }
        self.conns[index] = Some(conn);
        !refused
    }

    pub(super) fn take_conn(&mut self, socket: SocketId) -> Option<Box<Conn>> {
        let place = self.conns.get_mut(socket.index as usize)?;
        if place.as_ref()?.socket != socket {
            return None;
        }
        place.take()
    }

    pub(super) fn take_conn_at(&mut self, index: u32) -> Option<Box<Conn>> {
        self.conns.get_mut(index as usize)?.take()
    }

    /// Puts a connection back after work on it; it is freed if that ended it.
    pub(super) fn put_conn(&mut self, conn: Box<Conn>) {
        if conn.is_gone() {
            return;
        }
        let index = conn.socket.index as usize;
        self.conns[index] = Some(conn);
    }

    pub(super) fn conns(&self) -> impl Iterator<Item = &Conn> {
        self.conns.iter().flatten().map(|conn| &**conn)
    }

    /// Notes that a connection may have something to send.
    #[inline]
    pub(super) fn list(&mut self, conn: &mut Conn) {
        if !conn.listed {
            conn.listed = true;
            self.listed.push(conn.socket.index);
        }
    }

    pub(super) fn next_listed(&mut self) -> Option<u32> {
        self.listed.pop()
    }

    /// Ends a connection at once: nothing more is sent, what it waited for is forgotten.
    pub(super) fn drop_conn(&mut self, conn: &mut Conn) {
        if conn.is_gone() {
            return;
        }
        self.leave_block(conn);
        self.unwatch(conn);
        self.unsubscribe_all(conn);
        self.dropped.push(conn.socket);
        self.conn_count -= 1;
        conn.mark_gone();
    }

    /// The peer finished sending, or the connection failed.
    pub(super) fn on_end(&mut self, conn: &mut Conn, finished: bool) {
        conn.ended = true;
        if !finished {
            return self.drop_conn(conn);
        }
        // Whoever sends nothing more and waits may be gone altogether, and is never told; what it is owed
        // for earlier requests is still sent.
        if let Some(blocked) = self.leave_block(conn) {
            conn.fill_slot(blocked.slot, Out::new(conn.out.proto));
        }
        self.unsubscribe_all(conn);
        // Requests that came before the end are still answered.
        conn.closing = conn.is_free();
        self.list(conn);
    }

    // ---- bytes to requests ----

    /// Runs the requests in received bytes; keeps what is unfinished or has to wait.
    pub(super) fn on_data(&mut self, conn: &mut Conn, bytes: &[u8]) {
        if conn.closing {
            return;
        }
        conn.used = self.now;
        if !conn.input.is_empty() || !conn.is_free() {
            conn.input.extend_from_slice(bytes);
            if conn.is_free() && conn.input.len() >= conn.need {
                self.run_kept(conn);
            }
        } else {
            let mut parser = std::mem::take(&mut self.parser);
            parser.clear();
            let end = self.run_buffer(conn, &mut parser, bytes);
            if end < bytes.len() && !conn.closing {
                conn.parser = parser.split_open(end);
                conn.input
                    .reserve((conn.need).min(INPUT_STEP).max(bytes.len() - end));
                conn.input.extend_from_slice(&bytes[end..]);
            }
            self.parser = parser;
        }
        self.list(conn);
    }

    /// Runs the requests that a connection kept while it had to wait.
    pub(super) fn run_kept(&mut self, conn: &mut Conn) {
        if conn.closing {
            return;
        }
        let mut input = std::mem::take(&mut conn.input);
        let mut parser = std::mem::take(&mut conn.parser);
        let end = self.run_buffer(conn, &mut parser, &input);
        conn.parser = parser.split_open(end);
        if end == input.len() {
            // An idle connection keeps no buffer.
            input = Vec::new();
        } else {
            input.drain(..end);
        }
        conn.input = input;
        if conn.ended && conn.is_free() {
            conn.closing = true;
        }
        self.list(conn);
    }

    /// Runs requests from the start of `bytes` until they end, an unfinished one, or a reason to wait;
    /// how many bytes were used.
    fn run_buffer(&mut self, conn: &mut Conn, parser: &mut Parser, bytes: &[u8]) -> usize {
        let mut from = 0;
        conn.need = 0;
        let mut group = std::mem::take(&mut self.group);
        'buffer: loop {
            group.clear();
            let mut parsed = from;
            let mut last = None;
            while group.len() < GROUP_LEN {
                match parser.next(bytes, parsed, &self.limits) {
                    Ok(Step::Request { first, count, end }) => {
                        group.push((first, count, end));
                        parsed = end;
                    }
                    Ok(Step::Empty { end }) => parsed = end,
                    other => {
                        last = Some(other);
                        break;
                    }
                }
            }
            // Put together ahead of their use: what was just written cannot be read back at once.
            let requests: ArrayVec<(Args<'_>, usize), GROUP_LEN> = group
                .iter()
                .map(|(first, count, end)| {
                    (
                        Args::new(bytes, &parser.spans()[*first..first + count]),
                        *end,
                    )
                })
                .collect();
            if requests.len() >= FETCH_AHEAD_MIN {
                self.fetch_ahead(conn.db, &requests);
            }
            for (args, end) in &requests {
                self.request(conn, args);
                from = *end;
                if !conn.is_free() || conn.closing {
                    drop(requests);
                    parser.clear();
                    break 'buffer;
                }
            }
            drop(requests);
            from = parsed;
            match last {
                None => parser.clear(),
                Some(Ok(Step::Unquoted { args, end })) => {
                    self.request(conn, &args.as_args());
                    from = end;
                    if !conn.is_free() || conn.closing {
                        break;
                    }
                }
                Some(Ok(Step::More { len_min })) => {
                    conn.need = len_min - from;
                    break;
                }
                Some(Err(error)) => {
                    self.stats.protocol_errors += 1;
                    self.log_seldom(&format!(
                        "client {}: {}",
                        conn.peer_text(),
                        error.reply().as_str()
                    ));
                    let behind = conn.begin_reply();
                    conn.out.error(&error.reply());
                    conn.end_reply(behind);
                    conn.closing = true;
                    break;
                }
                Some(Ok(Step::Request { .. } | Step::Empty { .. })) => {}
            }
        }
        self.group = group;
        from
    }

    /// Has the processor fetch the memory of each request's first key, so that it comes side by side
    /// instead of one piece after the other: first the table's lines, then the entries.
    fn fetch_ahead(&mut self, db: usize, requests: &[(Args<'_>, usize)]) {
        let mut found: ArrayVec<_, GROUP_LEN> = ArrayVec::new();
        for (args, _) in requests {
            found.extend(args.get(1).and_then(|key| self.fetch_line(db, key)));
        }
        for (shard, hashed) in found {
            self.fetch_entry(shard, db, hashed);
        }
    }

    /// The same for the first request of each of several connections.
    pub(super) fn fetch_ahead_of<'a>(
        &mut self,
        received: impl Iterator<Item = (SocketId, &'a [u8])>,
    ) {
        let mut found: ArrayVec<_, GROUP_LEN> = ArrayVec::new();
        for (socket, bytes) in received.take(GROUP_LEN) {
            let Some(Some(conn)) = self.conns.get(socket.index as usize) else {
                continue;
            };
            let (db, is_next) = (conn.db, conn.input.is_empty());
            if is_next && let Some(key) = peek_argument(bytes) {
                found.extend(
                    self.fetch_line(db, key)
                        .map(|(shard, hashed)| (shard, db, hashed)),
                );
            }
        }
        for (shard, db, hashed) in found {
            self.fetch_entry(shard, db, hashed);
        }
    }

    #[inline]
    fn fetch_line(&mut self, db: usize, key: &[u8]) -> Option<(usize, Hashed)> {
        let shard = self.homes.shards.shard_of(key);
        if !self.homes.shards.has(shard) {
            return None;
        }
        let keys = self.homes.shards.keyspace(shard, db);
        if keys.len() < FETCH_KEYS_MIN {
            return None;
        }
        let (hashed, line) = keys.first_line(key);
        sys::prefetch(line);
        Some((shard, hashed))
    }

    #[inline]
    fn fetch_entry(&mut self, shard: usize, db: usize, key: Hashed) {
        if let Some(entry) = self.homes.shards.keyspace(shard, db).entry_bytes(key) {
            for at in FETCH_AT {
                entry.get(at).into_iter().for_each(sys::prefetch);
            }
        }
    }

    // ---- requests ----

    /// Runs one request, or arranges for it to be run; its reply takes its place in order.
    fn request(&mut self, conn: &mut Conn, args: &Args<'_>) {
        self.stats.commands += 1;
        let behind = conn.begin_reply();
        let (mode, mark, slot) = (conn.reply_mode, conn.out.mark(), conn.next_slot());
        self.dispatch(conn, args);
        if mode != ReplyMode::On {
            Self::silence(conn, mode, mark, slot);
        }
        conn.end_reply(behind);
        if conn.is_full() && conn.is_free() {
            conn.hold = Hold::SlowReader;
        } else if self.mesh.is_congested() && conn.is_free() {
            conn.hold = Hold::Mail;
            self.stalled.push(conn.socket);
        }
        while let Some(hear) = self.heard.pop_front() {
            match hear {
                Hear::One(listener) if listener.core == self.me && listener.conn == conn.socket => {
                    // This connection is not in its place while it is worked on. It is not blocked either.
                    conn.hear_taint(listener.want);
                }
                Hear::One(listener) => self.hear(listener),
                Hear::Round(round) => self.go_round(round),
            }
        }
    }

    fn dispatch(&mut self, conn: &mut Conn, args: &Args<'_>) {
        let Some(spec) = self.table.find(args.at(0)) else {
            // A web page may make a browser send requests here; nothing of them may run.
            if ["post", "host:"]
                .iter()
                .any(|word| args.at(0).eq_ignore_ascii_case(word.as_bytes()))
            {
                let peer = conn.peer_text();
                self.log_seldom(&format!("client {peer}: speaks HTTP, closed"));
                conn.closing = true;
                return;
            }
            return self.refuse(conn, &cmd::unknown(*args));
        };
        if !spec.fits(args.len()) {
            let error = Error::arity(spec.name);
            if spec.name == "EXEC" {
                self.discard(conn);
                let why = error.as_str().trim_start_matches("ERR ");
                let text = format!("EXECABORT Transaction discarded because of: {why}");
                return conn.out.error(&Error::text(text));
            }
            return self.refuse(conn, &error);
        }
        conn.last = spec.name;
        if let Some(error) = self.gate(conn, spec) {
            return self.refuse(conn, &error);
        }
        if conn.multi.is_some() && !self.runs_in_multi(spec) {
            return self.queue(conn, spec, *args);
        }
        match spec.run {
            Run::Session(verb) => self.session(conn, spec, verb, *args),
            Run::Store(run) => self.store_request(conn, spec, Work::Store(run), args),
            Run::Script if matches!(spec.keys, Keys::None) => self.keep_script(conn, *args),
            Run::Script => self.store_request(conn, spec, Work::Script, args),
        }
    }

    fn refuse(&mut self, conn: &mut Conn, error: &Error) {
        if let Some(multi) = &mut conn.multi {
            multi.failed = true;
        }
        conn.out.error(error);
    }

    /// Why a command may not be run now.
    fn gate(&self, conn: &Conn, spec: &Spec) -> Option<Error> {
        if self.shared.following.load(Relaxed) && spec.is_write() {
            return Some(READ_ONLY);
        }
        if self.shared.loading.load(Relaxed) && spec.flags & flag::LOADING == 0 {
            return Some(LOADING);
        }
        if self.over_memory && spec.flags & flag::DENY_OOM != 0 {
            return Some(OUT_OF_MEMORY);
        }
        if conn.is_subscribed() && conn.out.proto == crate::resp::Proto::Two {
            let allowed = [
                "SUBSCRIBE",
                "PSUBSCRIBE",
                "UNSUBSCRIBE",
                "PUNSUBSCRIBE",
                "PING",
                "QUIT",
                "RESET",
            ];
            if !allowed.contains(&spec.name) {
                return Some(Error::text(format!(
                    "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET \
                     are allowed in this context",
                    spec.name.to_lowercase()
                )));
            }
        }
        None
    }

    /// Runs a store command where its keys are.
    fn store_request(&mut self, conn: &mut Conn, spec: &'static Spec, run: Work, args: &Args<'_>) {
        match self.homes.place(spec, *args) {
            Place::Here => {
                let slow = self.slow_clock(spec);
                let db = conn.db;
                let may_block = !conn.ended;
                let block = self.run_here(
                    spec,
                    run,
                    args,
                    Call::of(db, may_block),
                    &mut conn.out,
                    None,
                );
                if let Some(start) = slow {
                    self.note_slow(Some(conn), *args, start);
                }
                if let Some(block) = block {
                    self.start_block(conn, spec, *args, block, None);
                }
            }
            _ if spec.flags & flag::BLOCKING != 0 => {
                let need = self.homes.shards_of([(spec, *args)]);
                self.collect_for(conn, spec, run, *args, need);
            }
            Place::Later(shard) => {
                let errand = self.errand(conn, spec, *args, shard);
                self.homes.wait_for(shard, Waiting::Errand(errand));
            }
            Place::There(shard, owner) => {
                let errand = self.errand(conn, spec, *args, shard);
                self.mesh.send(owner, Message::Run(errand));
            }
            Place::Collect(need) => self.collect_for(conn, spec, run, *args, need),
        }
    }

    fn errand(
        &self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        shard: usize,
    ) -> Box<Errand> {
        Box::new(Errand {
            from: self.me,
            asker: Asker::Conn(conn.socket, conn.open_slot()),
            shard,
            db: conn.db,
            proto: conn.out.proto,
            spec,
            args: OwnedArgs::copy(args.iter()),
        })
    }

    fn collect_for(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        run: Work,
        args: Args<'_>,
        need: Vec<usize>,
    ) {
        let slot = conn.open_slot();
        conn.hold = Hold::Loan;
        let args = OwnedArgs::copy(args.iter());
        self.collect(
            need,
            Job::Request {
                conn: conn.socket,
                slot,
                spec,
                run,
                args,
                db: conn.db,
            },
        );
    }

    /// Runs a store command whose shards are all here, and tells who listens to the keys it changed.
    /// Listeners of borrowed shards are told by their owner: those go to `away`.
    #[inline]
    fn run_here(
        &mut self,
        spec: &'static Spec,
        work: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        away: Option<&mut Vec<(usize, After)>>,
    ) -> Option<Block> {
        let mut ctx = Ctx {
            shards: &mut self.homes.shards,
            db: call.db,
            out,
            now: self.now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: call.may_block,
            block: None,
            from_primary: call.from_primary,
        };
        match work {
            Work::Store(run) => {
                cmd::run(&mut ctx, run, *args);
                let (dirty, block) = (ctx.dirty, ctx.block.take());
                if dirty > 0 && spec.is_write() {
                    self.freeing = true;
                    self.tell(spec, *args, call.db, away);
                }
                block
            }
            Work::Script => {
                let read_only = self.shared.following.load(Relaxed) && !call.from_primary;
                let mut host = ScriptHost::new(&self.subs, read_only);
                let mark = ctx.out.mark();
                if let Err(error) = self.scripts.eval(&mut ctx, &mut host, *args) {
                    ctx.out.rewind(mark);
                    ctx.out.error(&error);
                }
                let (changed, published) = host.into_parts();
                self.after_script(changed, published, away);
                None
            }
        }
    }

    /// Tells of what a script changed and published.
    fn after_script(
        &mut self,
        changed: Vec<Changed>,
        published: Vec<Message>,
        away: Option<&mut Vec<(usize, After)>>,
    ) {
        let mut away = away;
        self.freeing |= !changed.is_empty();
        for change in changed {
            self.tell(
                change.spec,
                change.args.as_args(),
                change.db,
                away.as_deref_mut(),
            );
        }
        for message in published {
            if let Message::Published(channel, text) = &message {
                for core in self.subs.cores_of(channel) {
                    self.mesh
                        .send(core, Message::Published(channel.clone(), text.clone()));
                }
            }
            // Delivered here at the end of the turn, when every connection is in its place.
            self.published.push(message);
        }
    }

    /// SCRIPT.
    fn keep_script(&mut self, conn: &mut Conn, args: Args<'_>) {
        let mark = conn.out.mark();
        if let Err(error) = self.scripts.script(&mut conn.out, args) {
            conn.out.rewind(mark);
            conn.out.error(&error);
        }
    }

    /// Tells listeners that the keys of a command changed.
    fn tell(
        &mut self,
        spec: &'static Spec,
        args: Args<'_>,
        db: usize,
        away: Option<&mut Vec<(usize, After)>>,
    ) {
        if away.is_none() && !self.homes.has_listeners() {
            return;
        }
        let mut heard = Vec::new();
        let mut away = away;
        if let Keys::All = spec.keys {
            for shard in 0..self.homes.shards.count() {
                if self.homes.owner(shard) == self.me {
                    self.homes.all_changed(shard, &mut heard);
                } else if let Some(away) = &mut away {
                    away.push((shard, After::AllChanged));
                }
            }
        } else {
            spec.keys.for_each(args, |at| {
                let key = args.at(at);
                let shard = self.homes.shards.shard_of(key);
                if self.homes.owner(shard) == self.me {
                    self.homes.changed(shard, db, key, &mut heard);
                } else if let Some(away) = &mut away {
                    away.push((shard, After::Changed(db, key.to_vec())));
                }
            });
        }
        self.note_heard(heard);
    }

    /// Notes who is to hear of a change, in the order they came. Blocked clients are served in that
    /// order too: where one of another core is among them, those behind it wait until it has tried.
    fn note_heard(&mut self, heard: Vec<Listener>) {
        let is_round = heard.len() > 1
            && heard
                .iter()
                .any(|listener| listener.want == Want::Retry && listener.core != self.me);
        if !is_round {
            return self.heard.extend(heard.into_iter().map(Hear::One));
        }
        let mut round = VecDeque::new();
        for listener in heard {
            match listener.want {
                Want::Retry => round.push_back(listener),
                Want::Taint(_) => self.heard.push_back(Hear::One(listener)),
            }
        }
        self.rounds.insert(self.next_round, round);
        self.heard.push_back(Hear::Round(self.next_round));
        self.next_round += 1;
    }

    /// Lets the next clients of a round try, up to one of another core, which says when it has tried.
    fn go_round(&mut self, id: u64) {
        while let Some(listener) = self.rounds.get_mut(&id).and_then(VecDeque::pop_front) {
            if listener.core != self.me {
                return self
                    .mesh
                    .send(listener.core, Message::Heard(listener, Some(id)));
            }
            self.hear(listener);
        }
        self.rounds.remove(&id);
    }

    /// Somebody's key changed: tries the blocked command again, or voids the transaction.
    fn hear(&mut self, listener: Listener) {
        if listener.core != self.me {
            return self
                .mesh
                .send(listener.core, Message::Heard(listener, None));
        }
        self.hear_here(listener, None);
    }

    /// The same for a connection of this core. Whoever goes round is told once it has tried.
    fn hear_here(&mut self, listener: Listener, round: Option<(CoreId, u64)>) {
        let mut tried = true;
        if let Some(mut conn) = self.take_conn(listener.conn) {
            match listener.want {
                Want::Taint(_) => conn.hear_taint(listener.want),
                Want::Retry => tried = self.retry(&mut conn, round),
            }
            self.put_conn(conn);
        }
        if tried {
            self.end_try(round);
        }
    }

    fn end_try(&mut self, round: Option<(CoreId, u64)>) {
        if let Some((core, id)) = round {
            self.mesh.send(core, Message::Tried(id));
        }
    }

    // ---- blocking ----

    /// A command found nothing to do: the connection waits for one of its keys.
    fn start_block(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        block: Block,
        slot: Option<u64>,
    ) -> bool {
        let args = block.again.unwrap_or_else(|| OwnedArgs::copy(args.iter()));
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Retry,
        };
        let owned = args.as_args();
        spec.keys.for_each(owned, |at| {
            let shard = self.homes.shards.shard_of(owned.at(at));
            if self.homes.owner(shard) == self.me {
                self.homes.listen(shard, conn.db, owned.at(at), listener);
            }
        });
        let slot = slot.unwrap_or_else(|| conn.open_slot());
        self.hold_blocked(
            conn,
            Blocked {
                spec,
                args,
                db: conn.db,
                deadline: block.deadline,
                on_timeout: GiveUp::Null(block.on_timeout),
                slot,
                trying: false,
                again: false,
            },
        );
        true
    }

    pub(super) fn hold_blocked(&mut self, conn: &mut Conn, blocked: Blocked) {
        if let Some(deadline) = blocked.deadline {
            self.deadlines.insert((deadline, conn.socket.index));
        }
        self.stats.blocked += 1;
        conn.hold = Hold::Blocked(Box::new(blocked));
    }

    /// Forgets that a connection is blocked; what it was blocked on.
    fn leave_block(&mut self, conn: &mut Conn) -> Option<Box<Blocked>> {
        let Hold::Blocked(_) = conn.hold else {
            return None;
        };
        let Hold::Blocked(blocked) = std::mem::take(&mut conn.hold) else {
            return None;
        };
        if let Some(deadline) = blocked.deadline {
            self.deadlines.remove(&(deadline, conn.socket.index));
        }
        self.stats.blocked -= 1;
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Retry,
        };
        let args = blocked.args.as_args();
        blocked.spec.keys.for_each(args, |at| {
            let shard = self.homes.shards.shard_of(args.at(at));
            let owner = self.homes.owner(shard);
            if owner == self.me {
                self.homes
                    .unlisten(shard, blocked.db, args.at(at), listener);
            } else {
                self.mesh.send(
                    owner,
                    Message::Unlisten(shard, blocked.db, args.at(at).to_vec(), listener),
                );
            }
        });
        Some(blocked)
    }

    /// Tries a blocked command again; false if that goes on until its shards have been collected.
    fn retry(&mut self, conn: &mut Conn, round: Option<(CoreId, u64)>) -> bool {
        let Hold::Blocked(blocked) = &mut conn.hold else {
            return true;
        };
        if blocked.trying {
            blocked.again = true;
            return true;
        }
        let (spec, db) = (blocked.spec, blocked.db);
        let Some(run) = Work::of(spec) else {
            return true;
        };
        let need = self.homes.shards_of([(spec, blocked.args.as_args())]);
        if let Place::Collect(need) = self.homes.place_of_all(need) {
            blocked.trying = true;
            let (conn, slot) = (conn.socket, blocked.slot);
            self.collect(need, Job::Retry { conn, slot, round });
            return false;
        }
        let args = blocked.args.clone();
        let mut out = Out::new(conn.out.proto);
        let call = Call::of(db, true);
        let block = self.run_here(spec, run, &args.as_args(), call, &mut out, None);
        if block.is_none() && !stays_blocked(spec, &out) {
            self.unblock(conn, out);
        }
        true
    }

    /// Answers a blocked command; the connection's next requests may run.
    fn unblock(&mut self, conn: &mut Conn, reply: Out) {
        let Some(blocked) = self.leave_block(conn) else {
            return;
        };
        conn.fill_slot(blocked.slot, reply);
        self.wake(conn);
    }

    /// A connection that had to wait may go on with its requests, at the end of this turn.
    pub(super) fn wake(&mut self, conn: &mut Conn) {
        conn.hold = Hold::Free;
        self.woken.push_back(conn.socket);
        self.list(conn);
    }

    /// Wakes a connection that was held because too much was owed, if that is over.
    pub(super) fn relieve(&mut self, conn: &mut Conn) {
        if matches!(conn.hold, Hold::SlowReader) && conn.has_room() {
            self.wake(conn);
        }
    }

    /// Runs what became possible during the turn: complete collections, and requests of connections that
    /// had to wait. True if there was any.
    pub(super) fn go_on(&mut self) -> bool {
        if !self.mesh.is_congested() {
            for socket in std::mem::take(&mut self.stalled) {
                if let Some(mut conn) = self.take_conn(socket) {
                    self.wake(&mut conn);
                    self.put_conn(conn);
                }
            }
        }
        let worked = !self.ready.is_empty() || !self.woken.is_empty();
        self.run_ready();
        // Those woken meanwhile have their turn in the next round of the loop.
        for _ in 0..self.woken.len() {
            let Some(mut conn) = self
                .woken
                .pop_front()
                .and_then(|socket| self.take_conn(socket))
            else {
                continue;
            };
            if conn.is_free() {
                self.resume(&mut conn);
            }
            self.put_conn(conn);
        }
        self.run_ready();
        worked
    }

    fn run_ready(&mut self) {
        while let Some(collection) = self.ready.pop_front() {
            self.run_collected(collection);
        }
    }

    fn resume(&mut self, conn: &mut Conn) {
        if !conn.input.is_empty() {
            self.run_kept(conn);
        }
        if conn.ended && conn.is_free() {
            conn.closing = true;
        }
        self.list(conn);
    }

    fn give_up(&mut self, conn: &mut Conn) {
        let Hold::Blocked(blocked) = &conn.hold else {
            return;
        };
        let mut out = Out::new(conn.out.proto);
        match blocked.on_timeout {
            GiveUp::Null(cmd::OnTimeout::Null) => out.null(),
            GiveUp::Null(cmd::OnTimeout::NullArray) => out.null_array(),
            GiveUp::Count(count) => out.int(count),
        }
        self.unblock(conn, out);
    }

    // ---- loans ----

    /// Gathers shards for a job; runs it as soon as all are here.
    pub(super) fn collect(&mut self, need: Vec<usize>, job: Job) {
        let id = self.next_collection;
        self.next_collection += 1;
        self.collections.insert(
            id,
            Collection {
                job,
                need,
                got: Vec::new(),
            },
        );
        self.collect_more(id);
    }

    fn collect_more(&mut self, id: u64) {
        loop {
            let Some(collection) = self.collections.get_mut(&id) else {
                return;
            };
            let Some(shard) = collection.need.get(collection.got.len()).copied() else {
                break;
            };
            let owner = self.homes.owner(shard);
            if owner != self.me {
                return self.mesh.send(owner, Message::Borrow(shard, id));
            }
            match self.homes.lend(shard) {
                Some(lent) => collection.got.push(lent),
                None => return self.homes.wait_for(shard, Waiting::Loan(self.me, id)),
            }
        }
        if let Some(collection) = self.collections.remove(&id) {
            self.ready.push_back(collection);
        }
    }

    fn on_lent(&mut self, id: u64, lent: Box<Shard>) {
        if let Some(collection) = self.collections.get_mut(&id) {
            collection.got.push(lent);
            self.collect_more(id);
        }
    }

    /// All shards of a job are in hand: runs it and gives them back.
    fn run_collected(&mut self, collection: Collection) {
        let Collection { job, need, got } = collection;
        if let Job::Load(load) = job {
            self.load = Some((
                Collection {
                    job: Job::Idle,
                    need,
                    got,
                },
                load,
            ));
            return;
        }
        for (shard, lent) in need.iter().zip(got) {
            self.homes.shards.put(*shard, lent);
        }
        let mut away = Vec::new();
        let mut tried = None;
        match job {
            Job::Request {
                conn: socket,
                slot,
                spec,
                run,
                args,
                db,
            } => {
                let conn = self.take_conn(socket);
                let proto = conn.as_ref().map(|conn| conn.out.proto).unwrap_or_default();
                let may_block = conn.as_ref().is_some_and(|conn| !conn.ended);
                let mut out = Out::new(proto);
                let slow = self.slow_clock(spec);
                // A request whose client has gone is still run: it was received whole.
                let block = self.run_here(
                    spec,
                    run,
                    &args.as_args(),
                    Call::of(db, may_block),
                    &mut out,
                    Some(&mut away),
                );
                if let Some(start) = slow {
                    self.note_slow(conn.as_deref(), args.as_args(), start);
                }
                if let Some(mut conn) = conn {
                    match block {
                        Some(block) => {
                            conn.hold = Hold::Free;
                            self.start_block(&mut conn, spec, args.as_args(), block, Some(slot));
                            self.listen_away(&conn, &mut away);
                        }
                        None => {
                            conn.fill_slot(slot, out);
                            self.wake(&mut conn);
                        }
                    }
                    // In its place before the shards go back: what waited for them may be what it waits
                    // for.
                    self.put_conn(conn);
                }
            }
            Job::Exec { conn: socket, slot } => {
                if let Some(mut conn) = self.take_conn(socket) {
                    let mut out = Out::new(conn.out.proto);
                    self.exec_queued(&mut conn, &mut out, &mut away);
                    conn.fill_slot(slot, out);
                    self.wake(&mut conn);
                    self.put_conn(conn);
                }
            }
            Job::Retry {
                conn: socket,
                slot,
                round,
            } => {
                tried = round;
                if let Some(mut conn) = self.take_conn(socket) {
                    if let Some(reply) = self.retry_collected(&mut conn, slot, &mut away) {
                        self.unblock(&mut conn, reply);
                    } else if let Hold::Blocked(blocked) = &mut conn.hold
                        && blocked.slot == slot
                        && std::mem::take(&mut blocked.again)
                    {
                        self.heard.push_back(Hear::One(Listener {
                            core: self.me,
                            conn: socket,
                            want: Want::Retry,
                        }));
                    }
                    self.put_conn(conn);
                }
            }
            Job::Frame {
                asker,
                run,
                spec,
                args,
            } => {
                let mut out = Out::default();
                self.run_here(
                    spec,
                    run,
                    &args.as_args(),
                    Call::FRAME,
                    &mut out,
                    Some(&mut away),
                );
                self.applied.push(asker);
            }
            Job::Load(_) | Job::Idle => {}
        }
        self.give_back(&need, away);
        // Behind the shards in the mailbox: the next client of the round finds them at home.
        self.end_try(tried);
    }

    fn hear_all(&mut self) {
        while let Some(hear) = self.heard.pop_front() {
            match hear {
                Hear::One(listener) => self.hear(listener),
                Hear::Round(round) => self.go_round(round),
            }
        }
    }

    fn retry_collected(
        &mut self,
        conn: &mut Conn,
        slot: u64,
        away: &mut Vec<(usize, After)>,
    ) -> Option<Out> {
        // Its time may have run out meanwhile, and what it is blocked on now needs other shards.
        let Hold::Blocked(blocked) = &mut conn.hold else {
            return None;
        };
        if blocked.slot != slot {
            return None;
        }
        blocked.trying = false;
        let (spec, db, args) = (blocked.spec, blocked.db, blocked.args.clone());
        let run = Work::of(spec)?;
        let mut out = Out::new(conn.out.proto);
        let block = self.run_here(
            spec,
            run,
            &args.as_args(),
            Call::of(db, true),
            &mut out,
            Some(away),
        );
        (block.is_none() && !stays_blocked(spec, &out)).then_some(out)
    }

    /// Has the owners of a blocked command's borrowed shards register it.
    fn listen_away(&mut self, conn: &Conn, away: &mut Vec<(usize, After)>) {
        let Hold::Blocked(blocked) = &conn.hold else {
            return;
        };
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Retry,
        };
        let args = blocked.args.as_args();
        blocked.spec.keys.for_each(args, |at| {
            let shard = self.homes.shards.shard_of(args.at(at));
            if self.homes.owner(shard) != self.me {
                away.push((
                    shard,
                    After::Listen(blocked.db, args.at(at).to_vec(), listener),
                ));
            }
        });
    }

    /// Returns collected shards to where they live, each with what its owner has to do. All
    /// connections are in their places.
    fn give_back(&mut self, need: &[usize], mut away: Vec<(usize, After)>) {
        for shard in need {
            let Some(lent) = self.homes.shards.take(*shard) else {
                continue;
            };
            let owner = self.homes.owner(*shard);
            if owner == self.me {
                self.homes.come_home(*shard, lent);
            } else {
                let mine;
                (mine, away) = away.into_iter().partition(|(at, _)| at == shard);
                let after = mine.into_iter().map(|(_, after)| after).collect();
                self.mesh
                    .send(owner, Message::Returned(*shard, lent, after));
            }
        }
        // Before anything else can use the shards: a transaction that waits for them must know first
        // that a key it watches has changed, and who blocks is served before who comes later.
        self.hear_all();
        for shard in need {
            if self.homes.owner(*shard) == self.me {
                self.drain(*shard);
            }
        }
    }

    /// Runs what waited for a shard of ours, until it is lent again.
    fn drain(&mut self, shard: usize) {
        while let Some(waiting) = self.homes.next_waiting(shard) {
            match waiting {
                Waiting::Errand(errand) => self.run_errand(*errand),
                Waiting::Loan(to, id) => self.lend(shard, to, id),
                Waiting::Listen(db, key, listener, confirm) => {
                    self.homes.listen(shard, db, &key, listener);
                    if let Some((from, asker)) = confirm {
                        self.confirm(from, asker);
                    }
                }
            }
        }
    }

    /// Lends a shard of ours, or notes that it is to be lent once it is back.
    fn lend(&mut self, shard: usize, to: CoreId, id: u64) {
        match self.homes.lend(shard) {
            None => self.homes.wait_for(shard, Waiting::Loan(to, id)),
            Some(lent) if to == self.me => self.on_lent(id, lent),
            Some(lent) => self.mesh.send(to, Message::Lent(shard, id, lent)),
        }
    }

    /// Runs a command for another core (or for our own, which had to wait), and sends the reply.
    fn run_errand(&mut self, errand: Errand) {
        if !self.homes.shards.has(errand.shard) {
            let shard = errand.shard;
            return self
                .homes
                .wait_for(shard, Waiting::Errand(Box::new(errand)));
        }
        let mut out = Out::new(errand.proto);
        let Some(run) = Work::of(errand.spec) else {
            return;
        };
        match errand.asker {
            Asker::Conn(..) => {
                let slow = self.slow_clock(errand.spec);
                let args = errand.args.as_args();
                let call = Call::of(errand.db, false);
                self.run_here(errand.spec, run, &args, call, &mut out, None);
                if let Some(start) = slow {
                    self.note_slow(None, args, start);
                }
            }
            Asker::Link { .. } => {
                self.run_here(
                    errand.spec,
                    run,
                    &errand.args.as_args(),
                    Call::FRAME,
                    &mut out,
                    None,
                );
            }
        }
        self.hear_all();
        self.answer(errand.from, errand.asker, out);
    }

    fn answer(&mut self, to: CoreId, asker: Asker, out: Out) {
        if to == self.me {
            self.on_ran(asker, out);
        } else {
            self.mesh.send(to, Message::Ran(asker, Box::new(out)));
        }
    }

    fn on_ran(&mut self, asker: Asker, reply: Out) {
        match asker {
            Asker::Conn(socket, slot) => {
                if let Some(mut conn) = self.take_conn(socket) {
                    conn.fill_slot(slot, reply);
                    self.relieve(&mut conn);
                    self.list(&mut conn);
                    self.put_conn(conn);
                }
            }
            Asker::Link { .. } => self.applied.push(asker),
        }
    }

    fn confirm(&mut self, to: CoreId, asker: Asker) {
        let mut out = Out::default();
        out.ok();
        self.answer(to, asker, out);
    }

    /// Handles a message of another core.
    pub(super) fn on_message(&mut self, from: CoreId, message: Message) {
        match message {
            Message::Run(errand) => self.run_errand(*errand),
            Message::Ran(asker, reply) => self.on_ran(asker, *reply),
            Message::Borrow(shard, id) => self.lend(shard, from, id),
            Message::Lent(_, id, lent) => self.on_lent(id, lent),
            Message::Returned(shard, lent, after) => {
                self.homes.come_home(shard, lent);
                let mut heard = Vec::new();
                for after in after {
                    match after {
                        After::Changed(db, key) => self.homes.changed(shard, db, &key, &mut heard),
                        After::AllChanged => self.homes.all_changed(shard, &mut heard),
                        After::Listen(db, key, listener) => {
                            self.homes.listen(shard, db, &key, listener)
                        }
                    }
                }
                self.note_heard(heard);
                self.freeing = true;
                // Before the shard goes on to who waits for it: see `give_back`.
                self.hear_all();
                self.drain(shard);
            }
            Message::Listen(shard, db, key, listener, asker) => {
                if self.homes.shards.has(shard) {
                    self.homes.listen(shard, db, &key, listener);
                    if let Some(asker) = asker {
                        self.confirm(from, asker);
                    }
                } else {
                    let confirm = asker.map(|asker| (from, asker));
                    self.homes
                        .wait_for(shard, Waiting::Listen(db, key, listener, confirm));
                }
            }
            Message::Unlisten(shard, db, key, listener) => {
                self.homes.unlisten(shard, db, &key, listener)
            }
            Message::Heard(listener, round) => {
                self.hear_here(listener, round.map(|id| (from, id)));
                self.hear_all();
            }
            Message::Tried(round) => {
                self.go_round(round);
                self.hear_all();
            }
            Message::Subscribed {
                pattern,
                channel,
                count,
            } => self.subs.note(from, pattern, channel, count),
            Message::Published(channel, message) => {
                self.deliver(None, &channel, &message);
            }
            Message::Ask(gather, question) => {
                let (count, text) = self.answer_question(&question, None);
                self.mesh.send(from, Message::Answer(gather, count, text));
            }
            Message::Answer(gather, count, text) => self.on_answer(gather, count, &text),
            Message::Follow(_) => {}
        }
        self.run_ready();
    }

    // ---- MULTI ----

    fn runs_in_multi(&self, spec: &Spec) -> bool {
        matches!(
            spec.name,
            "EXEC" | "DISCARD" | "MULTI" | "WATCH" | "RESET" | "QUIT"
        )
    }

    fn queue(&mut self, conn: &mut Conn, spec: &'static Spec, args: Args<'_>) {
        // The answers of other cores come too late for EXEC.
        let asks_all = matches!(spec.run, Run::Session(cmd::Verb::Client))
            && args.get(1).is_some_and(|sub| {
                sub.eq_ignore_ascii_case(b"list") || sub.eq_ignore_ascii_case(b"kill")
            });
        if spec.flags & flag::NO_MULTI != 0 || asks_all {
            return self.refuse(
                conn,
                &Error::fixed("ERR Command not allowed inside a transaction"),
            );
        }
        if let Some(multi) = &mut conn.multi {
            multi.queued.push((spec, OwnedArgs::copy(args.iter())));
        }
        conn.out.simple("QUEUED");
    }

    /// EXEC.
    pub(super) fn exec(&mut self, conn: &mut Conn) {
        let Some(multi) = &conn.multi else {
            return conn.out.error(&Error::fixed("ERR EXEC without MULTI"));
        };
        if multi.failed {
            self.discard(conn);
            return conn.out.error(&EXEC_ABORT);
        }
        if conn.tainted {
            self.discard(conn);
            return conn.out.null_array();
        }
        let commands = multi
            .queued
            .iter()
            .map(|(spec, args)| (*spec, args.as_args()));
        let need = self.homes.shards_of(commands);
        // A watched key may be on another core, whose word that it changed may be on its way: holding
        // its shard makes sure that the word has come.
        let mut need = need;
        need.extend(
            conn.watching
                .iter()
                .map(|(_, key)| self.homes.shards.shard_of(key)),
        );
        need.sort_unstable();
        need.dedup();
        match self.homes.place_of_all(need) {
            Place::Collect(need) => {
                let slot = conn.open_slot();
                conn.hold = Hold::Loan;
                self.collect(
                    need,
                    Job::Exec {
                        conn: conn.socket,
                        slot,
                    },
                );
            }
            _ => {
                let fresh = Out::new(conn.out.proto);
                let mut out = std::mem::replace(&mut conn.out, fresh);
                self.exec_queued(conn, &mut out, &mut Vec::new());
                conn.out = out;
            }
        }
    }

    /// Runs the queued commands; all their shards are here.
    fn exec_queued(&mut self, conn: &mut Conn, out: &mut Out, away: &mut Vec<(usize, After)>) {
        let tainted = conn.tainted || self.has_expired(&conn.watching);
        let multi = conn.multi.take().unwrap_or_default();
        self.unwatch(conn);
        if tainted {
            return out.null_array();
        }
        out.array(multi.queued.len());
        for (spec, args) in multi.queued {
            let args = args.as_args();
            if let Some(error) = self.gate(conn, spec) {
                out.error(&error);
                continue;
            }
            match (spec.run, Work::of(spec)) {
                (_, Some(run))
                    if !matches!(spec.keys, Keys::None) || matches!(run, Work::Store(_)) =>
                {
                    self.run_here(spec, run, &args, Call::of(conn.db, false), out, Some(away));
                }
                (Run::Session(verb), _) => {
                    // The reply goes where EXEC's replies go.
                    let mut outer = std::mem::replace(&mut conn.out, Out::new(out.proto));
                    self.session_in_exec(conn, spec, verb, args);
                    std::mem::swap(&mut outer, &mut conn.out);
                    // HELLO may have changed it.
                    out.proto = outer.proto;
                    out.append(&mut outer);
                }
                _ => {
                    let outer = std::mem::replace(&mut conn.out, Out::new(out.proto));
                    self.keep_script(conn, args);
                    out.append(&mut std::mem::replace(&mut conn.out, outer));
                }
            }
        }
        conn.set_proto(out.proto);
    }

    /// Has one of some keys, whose shards are here, come due without anybody having looked?
    fn has_expired(&mut self, watched: &[(usize, Vec<u8>)]) -> bool {
        let now = self.now;
        watched.iter().any(|(db, key)| {
            let keys = self.homes.shards.of(*db, key);
            keys.note_expired(true);
            keys.meta(key, now);
            let expired = !keys.take_expired().is_empty();
            keys.note_expired(false);
            expired
        })
    }

    pub(super) fn discard(&mut self, conn: &mut Conn) {
        conn.multi = None;
        self.unwatch(conn);
    }

    /// WATCH.
    pub(super) fn watch(&mut self, conn: &mut Conn, args: Args<'_>) {
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Taint(conn.watch_round),
        };
        for key in args.rest(1).iter() {
            conn.watching.push((conn.db, key.to_vec()));
            let shard = self.homes.shards.shard_of(key);
            let owner = self.homes.owner(shard);
            if owner == self.me {
                self.homes.listen(shard, conn.db, key, listener);
            } else {
                self.mesh.send(
                    owner,
                    Message::Listen(shard, conn.db, key.to_vec(), listener, None),
                );
            }
        }
        // No answer of the other cores is needed before the next request: mailboxes keep their order,
        // and EXEC holds the shards of watched keys, so it hears of every change before it runs.
        conn.out.ok();
    }

    pub(super) fn unwatch(&mut self, conn: &mut Conn) {
        conn.tainted = false;
        let listener = Listener {
            core: self.me,
            conn: conn.socket,
            want: Want::Taint(conn.watch_round),
        };
        conn.watch_round += 1;
        for (db, key) in std::mem::take(&mut conn.watching) {
            let shard = self.homes.shards.shard_of(&key);
            let owner = self.homes.owner(shard);
            if owner == self.me {
                self.homes.unlisten(shard, db, &key, listener);
            } else {
                self.mesh
                    .send(owner, Message::Unlisten(shard, db, key, listener));
            }
        }
    }

    // ---- frames of a primary ----

    /// Applies a frame of the primary that this node follows, or has it applied: the asker then appears
    /// in `applied` later. What is unknown here, or is no write, is left out.
    pub(super) fn apply(&mut self, asker: Asker, args: Args<'_>) -> Applied {
        let Some(spec) = args.get(0).and_then(|name| self.table.find(name)) else {
            return Applied::Now;
        };
        let Some(run) = Work::of(spec) else {
            return Applied::Now;
        };
        let writes = spec.is_write() || matches!(spec.keys, Keys::All);
        if !spec.fits(args.len()) || !writes {
            return Applied::Now;
        }
        match self.homes.place(spec, args) {
            Place::Here => {
                let mut out = std::mem::take(&mut self.scratch);
                self.run_here(spec, run, &args, Call::FRAME, &mut out, None);
                out.clear();
                self.scratch = out;
                self.hear_all();
                Applied::Now
            }
            Place::Later(shard) => {
                let errand = self.frame_errand(asker, spec, args, shard);
                self.homes.wait_for(shard, Waiting::Errand(errand));
                Applied::Later
            }
            Place::There(shard, owner) => {
                let errand = self.frame_errand(asker, spec, args, shard);
                self.mesh.send(owner, Message::Run(errand));
                Applied::Later
            }
            Place::Collect(need) => {
                self.collect(
                    need,
                    Job::Frame {
                        asker,
                        run,
                        spec,
                        args: OwnedArgs::copy(args.iter()),
                    },
                );
                Applied::Alone
            }
        }
    }

    fn frame_errand(
        &self,
        asker: Asker,
        spec: &'static Spec,
        args: Args<'_>,
        shard: usize,
    ) -> Box<Errand> {
        let args = OwnedArgs::copy(args.iter());
        Box::new(Errand {
            from: self.me,
            asker,
            shard,
            db: 0,
            proto: Default::default(),
            spec,
            args,
        })
    }

    /// Replaces keys by a snapshot, once every shard is here.
    pub(super) fn start_load(&mut self, load: Load) {
        self.shared.loading.store(true, Relaxed);
        let all = (0..self.homes.shards.count()).collect();
        self.collect(all, Job::Load(Box::new(load)));
    }

    // ---- background ----

    /// Must the core not sleep?
    pub(super) fn has_work(&self) -> bool {
        self.freeing
            || self.more_due
            || self.load.is_some()
            || !self.listed.is_empty()
            || !self.ready.is_empty()
            || !self.woken.is_empty()
            || !self.stalled.is_empty()
            || self.mesh.has_unsent()
    }

    /// A bounded piece of what has no client waiting; true if something was done.
    pub(super) fn background(&mut self) -> bool {
        let mut worked = false;
        for message in std::mem::take(&mut self.published) {
            if let Message::Published(channel, text) = message {
                self.deliver(None, &channel, &text);
            }
        }
        if self.more_due {
            self.expire(self.now);
        }
        if let Some((mut held, mut load)) = self.load.take() {
            worked = true;
            // The shards are in their places only while the load works on them, so that whatever else
            // wants them waits for its end.
            for (shard, lent) in held.need.iter().zip(held.got.drain(..)) {
                self.homes.shards.put(*shard, lent);
            }
            if load.step(&mut self.homes.shards, self.now) {
                self.end_load(&held.need, *load);
            } else {
                held.got.extend(
                    held.need
                        .iter()
                        .filter_map(|shard| self.homes.shards.take(*shard)),
                );
                self.load = Some((held, load));
            }
        } else if self.freeing {
            self.freeing = false;
            for shard in self.homes.own() {
                if self.homes.shards.has(shard) {
                    for (_, keys) in self.homes.shards.shard(shard).databases() {
                        self.freeing |= keys.free_some(FREE_BUDGET);
                    }
                }
            }
        }
        worked
    }

    fn end_load(&mut self, need: &[usize], load: Load) {
        self.loaded.push(load.outcome());
        let mut away = Vec::new();
        let mut heard = Vec::new();
        for shard in need {
            if self.homes.owner(*shard) == self.me {
                self.homes.all_changed(*shard, &mut heard);
            } else {
                away.push((*shard, After::AllChanged));
            }
        }
        self.note_heard(heard);
        self.freeing = true;
        self.give_back(need, away);
    }

    /// The beat: time-outs, expiry, counters.
    pub(super) fn tick(&mut self, stall_ms: Ms) {
        let now = self.now;
        while let Some((deadline, index)) = self.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(mut conn) = self.take_conn_at(index) {
                self.give_up(&mut conn);
                self.put_conn(conn);
            }
        }
        self.expire(now);
        let idle_ms = self.tunables.timeout_secs.saturating_mul(1000);
        for index in 0..self.conns.len() {
            let Some(conn) = &mut self.conns[index] else {
                continue;
            };
            if conn.owed() == 0 && !conn.sending {
                conn.progress = now;
            }
            let stalled = now.saturating_sub(conn.progress) > stall_ms;
            let idle = idle_ms > 0
                && now.saturating_sub(conn.used) > idle_ms
                && conn.is_free()
                && !conn.is_subscribed();
            if (stalled || idle)
                && let Some(mut conn) = self.take_conn_at(index as u32)
            {
                if stalled {
                    self.log_seldom(&format!(
                        "client {}: reads too slowly, closed",
                        conn.peer_text()
                    ));
                }
                self.drop_conn(&mut conn);
                self.put_conn(conn);
            }
        }
        let version = self.shared.tunables_version.load(Relaxed);
        if version != self.tunables_version {
            self.tunables_version = version;
            self.tunables = self
                .shared
                .tunables
                .read()
                .map(|tunables| tunables.clone())
                .unwrap_or_default();
            self.limits.bulk_len_max = self.tunables.bulk_len_max;
        }
        self.publish();
    }

    /// Removes some keys that are due; the next turn goes on if more are.
    fn expire(&mut self, now: Ms) {
        self.more_due = false;
        // A replica of a primary that sends no DEL for expired keys must do this by its own clock too.
        for shard in self.homes.own() {
            if !self.homes.shards.has(shard) {
                continue;
            }
            let mut expired = Vec::new();
            let listened = self.homes.has_listeners();
            for (db, keys) in self.homes.shards.shard(shard).databases() {
                let mut count = 0;
                self.more_due |= keys.expire_due(now, EXPIRE_BUDGET, |key| {
                    count += 1;
                    if listened {
                        expired.push((db, key.to_vec()));
                    }
                });
                self.stats.expired += count;
                self.freeing |= count > 0;
            }
            let mut heard = Vec::new();
            for (db, key) in expired {
                self.homes.changed(shard, db, &key, &mut heard);
            }
            self.note_heard(heard);
        }
        self.hear_all();
    }

    fn publish(&mut self) {
        let stats = &self.shared.stats[self.me];
        stats.commands.store(self.stats.commands, Relaxed);
        stats.accepted.store(self.stats.accepted, Relaxed);
        stats.refused.store(self.stats.refused, Relaxed);
        stats.clients.store(self.conn_count, Relaxed);
        stats.blocked.store(self.stats.blocked, Relaxed);
        stats.subscribed.store(self.subs.local_len(), Relaxed);
        stats.bytes_in.store(self.stats.bytes_in, Relaxed);
        stats.bytes_out.store(self.stats.bytes_out, Relaxed);
        stats.turns.store(self.stats.turns, Relaxed);
        stats.expired.store(self.stats.expired, Relaxed);
        stats
            .protocol_errors
            .store(self.stats.protocol_errors, Relaxed);
        let mut used = 0;
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                let mut sizes = vec![DbSize::default(); self.shared.settings.databases];
                for (db, keys) in self.homes.shards.shard(shard).databases() {
                    used += keys.used_bytes();
                    sizes[db] = DbSize {
                        keys: keys.len(),
                        expiring: keys.expiring(),
                    };
                }
                *lock(&self.shared.sizes[shard]) = sizes;
            }
        }
        // While a shard is lent its size is unknown; the last sum then stands.
        if self.homes.own().all(|shard| self.homes.shards.has(shard)) {
            self.shared.stats[self.me].used.store(used, Relaxed);
        }
        let limit = self.tunables.memory_max;
        self.over_memory = limit > 0 && self.shared.used_bytes() > limit;
    }

    /// The start of a command that may be slow.
    fn slow_clock(&self, spec: &Spec) -> Option<Instant> {
        (self.tunables.slow_us >= 0 && spec.flags & (flag::FAST | flag::QUICK) == 0)
            .then(Instant::now)
    }

    /// Notes a slow command. Which client sent it is not known where it is run for another core.
    fn note_slow(&mut self, conn: Option<&Conn>, args: Args<'_>, start: Instant) {
        let us = micros_since(start);
        if us < self.tunables.slow_us as u64 {
            return;
        }
        let mut guard = lock(&self.shared.slow);
        let (next, entries) = &mut *guard;
        let args = args
            .iter()
            .take(32)
            .map(|arg| arg[..arg.len().min(128)].to_vec())
            .collect();
        entries.push_front(SlowEntry {
            id: *next,
            at_secs: self.now / 1000,
            us,
            args,
            peer: conn.map(Conn::peer_text).unwrap_or_default(),
            name: conn.map(|conn| conn.name.clone()).unwrap_or_default(),
        });
        *next += 1;
        entries.truncate(self.tunables.slow_len);
    }

    /// CLIENT REPLY OFF or SKIP: takes the reply of the last request back.
    fn silence(conn: &mut Conn, mode: ReplyMode, mark: Mark, slot: u64) {
        if conn.reply_mode != ReplyMode::On {
            conn.out.rewind(mark);
            conn.mute_from(slot);
        }
        if mode == ReplyMode::SkipNext && conn.reply_mode == ReplyMode::SkipNext {
            conn.reply_mode = ReplyMode::On;
        }
    }

    /// Logs a line, at most one per second of such lines.
    pub(super) fn log_seldom(&mut self, line: &str) {
        if self.now.saturating_sub(self.last_log) >= 1000 {
            self.last_log = self.now;
            super::log(line);
        }
    }
}

/// A client that waits for elements of a list or sorted set goes on waiting when the key comes to
/// hold something else; one that reads for a group is told.
fn stays_blocked(spec: &Spec, reply: &Out) -> bool {
    reply.as_bytes().starts_with(b"-WRONGTYPE") && spec.name != "XREADGROUP"
}
