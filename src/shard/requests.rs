//! From received bytes to executed commands: parsing, dispatch, and the run of a command whose shards
//! are here.

use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;
use uring::{SocketId, sys};

use super::{
    conn::{Conn, Hold, ReplyMode},
    evict::OUT_OF_MEMORY,
    homes::{Hear, Place, Sweep},
    large::LARGE_MIN,
    limits::QUICK_NANOS,
    message::{After, Message, Topics, Waiting},
    oddities::odd,
    scripts::{Done, ScriptHost},
    state::State,
    transactions::exec_aborted,
};
use crate::{
    cmd::{self, Block, Ctx, Keys, Run, Spec, flag},
    resp::{Args, Error, Mark, Out, Parser, Span, Step, peek_argument},
    store::Hashed,
};

/// Requests that are parsed ahead of being run, so that their memory can be fetched ahead too.
pub(super) const GROUP_LEN: usize = 32;
/// From this many requests on it pays to fetch memory ahead.
const FETCH_AHEAD_MIN: usize = 8;
/// Where an entry is fetched ahead: a short key and a value of 64 bytes lie on up to three lines.
const FETCH_AT: [usize; 3] = [0, 64, 88];
/// Smaller keyspaces are near anyway.
const FETCH_KEYS_MIN: usize = 8192;

/// What clients may send while a script of another core runs for too long; SCRIPT and FUNCTION look at
/// their subcommands themselves.
const WHILE_BUSY: [&str; 12] = [
    "SCRIPT", "FUNCTION", "SHUTDOWN", "MULTI", "DISCARD", "WATCH", "UNWATCH", "HELLO", "AUTH",
    "RESET", "QUIT", "REPLCONF",
];

pub(super) const READ_ONLY: Error =
    Error::fixed("READONLY You can't write against a read only replica.");
/// kevy's.
const STALE: Error =
    Error::fixed("STALE replica is stale; read the primary or raise replica_max_staleness_ms");
const PRIMARY_DOWN: Error = Error::fixed(
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
);
pub(super) const LOADING: Error = Error::fixed("LOADING ringkeep is loading the dataset in memory");

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
    pub(super) fn of(spec: &Spec) -> Option<Work> {
        match spec.run {
            Run::Store(run) => Some(Work::Store(run)),
            Run::Script => Some(Work::Script),
            Run::Session(_) => None,
        }
    }
}

/// On whose behalf a command runs.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub db: usize,
    pub may_block: bool,
    pub from_primary: bool,
    /// The primary says when keys go, and its commands see those that are due.
    pub sees_due: bool,
}

impl Call {
    /// A frame of the kevy primary that this node follows.
    pub(super) const FRAME: Call = Call {
        db: 0,
        may_block: false,
        from_primary: true,
        sees_due: false,
    };

    /// A command of the Redis primary that this node follows.
    pub(super) fn of_redis(db: usize) -> Call {
        Call {
            db,
            sees_due: true,
            ..Call::FRAME
        }
    }

    /// A client's request.
    pub(super) fn of(db: usize, may_block: bool) -> Call {
        Call {
            db,
            may_block,
            from_primary: false,
            sees_due: false,
        }
    }
}

impl State {
    /// Runs the requests in received bytes; keeps what is unfinished or has to wait.
    pub(super) fn on_data(&mut self, conn: &mut Conn, bytes: &[u8]) {
        if conn.closing {
            return;
        }
        conn.used = self.beat;
        self.heed_users(Some(conn));
        if conn.closing {
            return;
        }
        if conn.leaving.is_some() {
            return conn.input.extend_from_slice(bytes);
        }
        if !conn.input.is_empty() && conn.is_free() && conn.need >= LARGE_MIN {
            return self.on_more(conn, bytes);
        }
        if self.is_turn_full() && conn.is_free() {
            self.end_its_turn(conn);
        }
        if !conn.input.is_empty() || !conn.is_free() {
            conn.input.extend_from_slice(bytes);
            self.cut_if_asks_too_much(conn);
            if conn.is_free() && conn.input.len() >= conn.need {
                self.run_kept(conn);
            }
        } else {
            let mut parser = std::mem::take(&mut self.parser);
            parser.clear();
            let end = self.run_buffer(conn, &mut parser, bytes);
            if end < bytes.len() && !conn.closing {
                conn.parser = parser.split_open(end);
                conn.keep(&bytes[end..]);
            }
            self.parser = parser;
        }
        self.list(conn);
    }

    /// Runs the requests that a connection kept while it had to wait.
    pub(super) fn run_kept(&mut self, conn: &mut Conn) {
        self.heed_users(Some(conn));
        if conn.closing || conn.leaving.is_some() {
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
        'buffer: loop {
            let mut group = Group::default();
            let mut parsed = from;
            let mut last = None;
            let limits = self.limits_of(conn);
            // What a client may send changes when it has shown its password.
            let most = if limits.is_unknown { 1 } else { GROUP_LEN };
            while group.ends.len() < most {
                let first = parser.spans().len();
                if !limits.is_unknown
                    && let Some(end) = parser.next_plain(bytes, parsed)
                {
                    group.push(first, parser.spans().len(), end);
                    parsed = end;
                    continue;
                }
                match parser.next(bytes, parsed, &limits) {
                    Ok(Step::Request { first, count, end }) => {
                        group.push(first, first + count, end);
                        parsed = end;
                    }
                    Ok(Step::Empty { end }) => parsed = end,
                    other => {
                        last = Some(other);
                        break;
                    }
                }
            }
            let spans = parser.spans();
            if group.ends.len() >= FETCH_AHEAD_MIN {
                self.fetch_ahead(conn.db, bytes, spans, &group.firsts);
            }
            let mut may_short_cut = self.may_short_cut(conn);
            for at in 0..group.ends.len() {
                let (first, last) = (group.firsts[at] as usize, group.lasts[at] as usize);
                let args = Args::new(bytes, &spans[first..last]);
                if !(may_short_cut && self.short_cut(conn, args)) {
                    self.request(conn, &Args::new(bytes, &spans[first..last]));
                    may_short_cut = self.may_short_cut(conn);
                }
                if !conn.is_free() || conn.closing {
                    if !conn.is_paused() {
                        let mut done = at;
                        for next in at + 1..group.ends.len() {
                            let (first, last) =
                                (group.firsts[next] as usize, group.lasts[next] as usize);
                            if !self.follow(conn, Args::new(bytes, &spans[first..last])) {
                                break;
                            }
                            done = next;
                        }
                        from = group.ends[done] as usize;
                    } else if at > 0 {
                        from = group.ends[at - 1] as usize;
                    }
                    parser.clear();
                    break 'buffer;
                }
            }
            from = parsed;
            self.charge(conn, group.ends.len() as u64 * QUICK_NANOS);
            match last {
                None => {
                    parser.clear();
                    if from < bytes.len() && self.has_had_its_turn(conn) {
                        self.end_its_turn(conn);
                        break;
                    }
                }
                Some(Ok(Step::Unquoted { args, end })) => {
                    self.request(conn, &args.as_args());
                    if conn.is_paused() {
                        break;
                    }
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
        from
    }

    /// Has the processor fetch the memory of each request's first key, so that it comes side by side
    /// instead of one piece after the other: first the table's lines, then the entries.
    fn fetch_ahead(&mut self, db: usize, bytes: &[u8], spans: &[Span], firsts: &[u32]) {
        let mut found: ArrayVec<_, GROUP_LEN> = ArrayVec::new();
        for first in firsts {
            // The span behind a lone name is the next request's; fetching for that one does no harm.
            if let Some(span) = spans.get(*first as usize + 1) {
                let key = Args::new(bytes, std::slice::from_ref(span)).at(0);
                found.extend(self.fetch_line(db, key));
            }
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
            let Some(Some(conn)) = self.clients.places.get(socket.index as usize) else {
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

    #[inline(always)]
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

    #[inline(always)]
    fn fetch_entry(&mut self, shard: usize, db: usize, key: Hashed) {
        if let Some(entry) = self.homes.shards.keyspace(shard, db).entry_bytes(key) {
            for at in FETCH_AT {
                entry.get(at).into_iter().for_each(sys::prefetch);
            }
        }
    }

    /// Is nothing about the connection or the node such that requests need [`request`](Self::request)?
    fn may_short_cut(&self, conn: &Conn) -> bool {
        self.is_plain(conn) && !conn.is_waiting()
    }

    /// The same where replies to earlier requests may be missing.
    pub(super) fn is_plain(&self, conn: &Conn) -> bool {
        self.odd == 0
            && conn.is_plain()
            && conn.unlimited
            && !self.scripts_busy
            && !self.shared.loading.load(Relaxed)
    }

    /// Runs the request if all that it takes is a command on keys that are here: the way of nearly all
    /// requests, without the questions whose answers [`may_short_cut`](Self::may_short_cut) knows.
    #[inline(always)]
    fn short_cut(&mut self, conn: &mut Conn, args: Args<'_>) -> bool {
        let Some((place, spec)) = self.command(args.at(0)) else {
            return false;
        };
        let Run::Store(run) = spec.run else {
            return false;
        };
        if spec.flags & flag::BLOCKING != 0
            || !spec.fits(args.len())
            || !self.homes.is_surely_here(spec, &args)
            || (spec.is_write() && self.shared.following.load(Relaxed))
            || self.is_foreign(spec, args).is_some()
            || (spec.flags & flag::DENY_OOM != 0 && self.memory.limit > 0)
            || conn
                .port_shard
                .is_some_and(|shard| !self.is_at_its_port(shard, spec, args))
            || !self.is_for_this_node(spec, args)
        {
            return false;
        }
        self.stats.commands += 1;
        conn.last = spec.name;
        self.census.called(place);
        let start = self.clock(spec);
        let call = Call::of(conn.db, false);
        self.run_work(spec, Work::Store(run), &args, call, &mut conn.out, None);
        self.homes.shards.end_unit();
        if let Some(start) = start {
            self.note_time(Some(conn), spec, args, start);
            self.charge_timed(conn);
        }
        if conn.is_full() {
            conn.hold = Hold::SlowReader;
        }
        if !self.waits.heard.is_empty() {
            self.hear_after(conn);
        }
        true
    }

    /// Finds a command. Clients mostly repeat the last one.
    #[inline]
    pub(super) fn command(&mut self, name: &[u8]) -> Option<(usize, &'static Spec)> {
        let short = short_name(name);
        if short != 0 && short == self.last_name {
            return self.last_command;
        }
        let found = self.table.find_at(name);
        if short != 0 {
            (self.last_name, self.last_command) = (short, found);
        }
        found
    }

    /// Runs one request, or arranges for it to be run; its reply takes its place in order.
    pub(super) fn request(&mut self, conn: &mut Conn, args: &Args<'_>) {
        self.stats.commands += 1;
        let behind = conn.begin_reply();
        let (mode, mark, slot) = (conn.reply_mode, conn.out.mark(), conn.next_slot());
        self.dispatch(conn, args);
        // One request is one unit, EXEC with all that it runs.
        self.homes.shards.end_unit();
        if mode != ReplyMode::On && !conn.is_paused() {
            Self::silence(conn, mode, mark, slot);
        }
        conn.end_reply(behind);
        if conn.is_full() && conn.is_free() {
            conn.hold = Hold::SlowReader;
        }
        self.hear_after(conn);
        if self.odd != 0 {
            self.deliver_news(Some(conn));
            self.deliver_lines(Some(conn));
        }
    }

    /// Tells those who wait for what a request of this connection changed.
    fn hear_after(&mut self, conn: &mut Conn) {
        if self.mesh.is_congested() && conn.is_free() {
            conn.hold = Hold::Mail;
            self.clients.stalled.push(conn.socket);
        }
        self.hear_beside(conn);
    }

    /// Tells everybody who is to hear of a change while this connection is worked on.
    pub(super) fn hear_beside(&mut self, conn: &mut Conn) {
        while let Some(hear) = self.waits.heard.pop_front() {
            match hear {
                Hear::One(listener) if listener.core == self.me && listener.conn == conn.socket => {
                    // This connection is not in its place while it is worked on. It is not blocked either.
                    conn.hear_taint(listener.want);
                }
                Hear::One(listener) => self.hear(listener),
                Hear::Round(shard, name) => self.go_round(shard, name),
            }
        }
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

    fn dispatch(&mut self, conn: &mut Conn, args: &Args<'_>) {
        let Some((place, spec)) = self.command(args.at(0)) else {
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
            return self.refuse(conn, None, &cmd::unknown(*args));
        };
        if !spec.fits(args.len()) {
            let error = Error::arity(spec.name);
            if spec.name == "EXEC" {
                return self.abort_exec(conn, spec, &error);
            }
            return self.refuse(conn, Some(spec), &error);
        }
        conn.last = spec.name;
        let barred = match conn.unlimited {
            true => None,
            false => self.forbidden(conn, spec, *args),
        };
        if barred.is_none()
            && let Some(error) = self.elsewhere(conn, spec, *args)
        {
            if spec.run_is(cmd::Verb::Exec) {
                self.discard(conn);
            }
            return self.refuse(conn, Some(spec), &error);
        }
        if let Some(error) = barred.or_else(|| self.gate(conn, spec)) {
            if spec.name == "EXEC" {
                return self.abort_exec(conn, spec, &error);
            }
            return self.refuse(conn, Some(spec), &error);
        }
        if let Some(shard) = conn.port_shard
            && let Some(error) = self.misplaced(shard, spec, *args)
        {
            return self.refuse(conn, Some(spec), &error);
        }
        // What is queued is looked at when it runs.
        if conn.multi.is_none()
            && let Some(error) = self.is_foreign(spec, *args)
        {
            return self.refuse(conn, Some(spec), &error);
        }
        if self.memory.limit > 0 && !self.has_room_for(conn, spec) {
            return self.refuse_for_memory(conn, spec);
        }
        if self.odd != 0 {
            return self.carry_out_oddly(conn, (place, spec), args);
        }
        self.carry_out(conn, (place, spec), args);
    }

    /// Queues or runs a request that nothing speaks against.
    #[inline]
    pub(super) fn carry_out(
        &mut self,
        conn: &mut Conn,
        (place, spec): (usize, &'static Spec),
        args: &Args<'_>,
    ) {
        if conn.multi.is_some() && !self.runs_in_multi(spec) {
            return self.queue(conn, spec, *args);
        }
        if conn.is_waiting() && is_about_earlier(spec) {
            conn.hold = Hold::Behind;
            return;
        }
        self.census.called(place);
        match spec.run {
            Run::Session(verb) => {
                let start = self.clock(spec);
                let before = conn.out.as_bytes().len();
                self.session(conn, spec, verb, *args);
                if let Some(start) = start {
                    self.note_time(Some(conn), spec, *args, start);
                    self.charge_timed(conn);
                }
                let reply = conn.out.as_bytes();
                let reply = &reply[before.min(reply.len())..];
                self.count_reply(spec, reply);
                let is_next = !conn.is_waiting() && conn.reply_mode == ReplyMode::On;
                if self.gate.asks_majority() && is_next && verb.is_blind() {
                    conn.blind_len += reply.len();
                }
            }
            Run::Store(run) => self.store_request(conn, spec, Work::Store(run), args),
            Run::Script if matches!(spec.keys, Keys::None) => self.keep_script(conn, spec, *args),
            Run::Script if matches!(spec.keys, Keys::Libraries) => {
                match self.gate_of_scripts(spec, *args) {
                    Some(error) => self.refuse(conn, Some(spec), &error),
                    None => self.store_request(conn, spec, Work::Script, args),
                }
            }
            Run::Script => self.store_request(conn, spec, Work::Script, args),
        }
    }

    /// EXEC cannot be run, so its transaction is over.
    fn abort_exec(&mut self, conn: &mut Conn, spec: &Spec, error: &Error) {
        self.discard(conn);
        self.refuse(conn, Some(spec), &exec_aborted(error));
    }

    pub(super) fn refuse(&mut self, conn: &mut Conn, spec: Option<&Spec>, error: &Error) {
        self.count_refused(spec, error);
        if let Some(multi) = &mut conn.multi {
            multi.failed = true;
        }
        conn.out.error(error);
    }

    /// Why a command may not be run now.
    pub(super) fn gate(&self, conn: &Conn, spec: &Spec) -> Option<Error> {
        if self.shared.following.load(Relaxed) && spec.is_write() {
            return Some(READ_ONLY);
        }
        if self.odd & odd::BROKEN != 0 && (spec.is_write() || queues_writes(conn, spec)) {
            return Some(self.refusal());
        }
        if self.shared.loading.load(Relaxed) && spec.flags & flag::LOADING == 0 {
            return Some(LOADING);
        }
        if let Some(error) = self.stale.and_then(|stale| stale.refuses(conn, spec)) {
            return Some(error);
        }
        if conn.is_subscribed() && conn.out.proto == crate::resp::Proto::Two {
            let allowed = [
                "SUBSCRIBE",
                "PSUBSCRIBE",
                "SSUBSCRIBE",
                "UNSUBSCRIBE",
                "PUNSUBSCRIBE",
                "SUNSUBSCRIBE",
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
        if self.scripts_busy && !WHILE_BUSY.contains(&spec.name) {
            return self.shared.scripts.running().busy();
        }
        None
    }

    /// Why a subcommand of SCRIPT or FUNCTION may not be run now; [`gate`](State::gate) lets both pass.
    pub(super) fn gate_of_scripts(&mut self, spec: &Spec, args: Args<'_>) -> Option<Error> {
        let sub = args.at(1).to_ascii_uppercase();
        let is_function = spec.name == "FUNCTION";
        let grows = is_function && matches!(&sub[..], b"LOAD" | b"RESTORE");
        let writes = grows || is_function && matches!(&sub[..], b"DELETE" | b"FLUSH");
        if writes && self.shared.following.load(Relaxed) {
            return Some(READ_ONLY);
        }
        if writes && self.odd & odd::BROKEN != 0 {
            return Some(self.refusal());
        }
        if grows && self.memory.limit > 0 && !self.make_room() {
            return Some(OUT_OF_MEMORY);
        }
        let allowed = sub == b"KILL" || is_function && sub == b"STATS";
        if self.scripts_busy && !allowed {
            return self.shared.scripts.running().busy();
        }
        None
    }

    /// Runs a store command where its keys are.
    pub(super) fn store_request(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        run: Work,
        args: &Args<'_>,
    ) {
        let only = self.narrowed(conn, spec);
        let may_take_long = matches!(run, Work::Script) && !matches!(spec.keys, Keys::Libraries);
        if may_take_long && self.send_script(conn, spec, *args, only) {
            return;
        }
        if let Some(shard) = only {
            return self.collect_for(conn, spec, run, *args, vec![shard], Some(shard));
        }
        match self.homes.place(spec, *args) {
            Place::Here => {
                let start = self.clock(spec);
                let db = conn.db;
                let may_block = !conn.ended;
                self.caller = self.script_caller(conn, run);
                let block = self.run_here(
                    spec,
                    run,
                    args,
                    Call::of(db, may_block),
                    &mut conn.out,
                    None,
                );
                self.caller = None;
                if let Some(start) = start {
                    self.note_time(Some(conn), spec, *args, start);
                    if block.is_none() {
                        self.charge_timed(conn);
                    }
                }
                if let Some(block) = block {
                    self.start_block(conn, spec, *args, block, None);
                }
            }
            _ if spec.flags & flag::BLOCKING != 0 => {
                let need = self.homes.shards_of([(spec, *args)]);
                self.collect_for(conn, spec, run, *args, need, None);
            }
            Place::Later(shard) => {
                let errand = self.errand(conn, spec, *args, shard);
                self.homes.wait_for(shard, Waiting::Errand(errand));
            }
            Place::There(shard, owner) => {
                let errand = self.errand(conn, spec, *args, shard);
                self.mesh.send(owner, Message::Run(errand));
            }
            Place::Collect(need) => {
                self.collect_for(conn, spec, run, *args, need, None);
            }
        }
    }

    /// Runs a store command whose shards are all here, and tells who listens to the keys it changed.
    /// Listeners of borrowed shards are told by their owner: those go to `away`.
    #[inline(always)]
    pub(super) fn run_here(
        &mut self,
        spec: &'static Spec,
        work: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        away: Option<&mut Vec<(usize, After)>>,
    ) -> Option<Block> {
        if matches!(work, Work::Script) && !matches!(spec.keys, Keys::Libraries) {
            self.make_room_for_script(call.from_primary, away.is_none());
        }
        if self.odd != 0 {
            return self.run_here_oddly(spec, work, args, call, out, away);
        }
        self.run_work(spec, work, args, call, out, away).0
    }

    /// The second value says whether something was changed.
    #[inline]
    pub(super) fn run_work(
        &mut self,
        spec: &'static Spec,
        work: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        away: Option<&mut Vec<(usize, After)>>,
    ) -> (Option<Block>, bool) {
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
            arrived: self.arrived.as_ref(),
        };
        match work {
            Work::Store(run) => {
                let failed = cmd::run(&mut ctx, spec, run, *args);
                let (dirty, block) = (ctx.dirty, ctx.block.take());
                self.stats.changes += dirty;
                if dirty > 0 && spec.is_write() {
                    self.freeing = true;
                    self.tell(spec, *args, call.db, away);
                }
                if let Err(error) = failed
                    && !call.from_primary
                {
                    self.count_failed(spec, error.as_str());
                }
                (block, dirty > 0)
            }
            Work::Script => {
                let is_full = self.memory.script_is_refused;
                let why_not = if self.shared.following.load(Relaxed) && !call.from_primary {
                    Some(READ_ONLY)
                } else {
                    self.refuses.map(|why| self.shared.refusal(why))
                };
                let remembers = self.acting.is_some_and(|acting| acting.remembers);
                let mut host = ScriptHost::new(&self.subs, why_not, is_full, remembers);
                host.scopes = match call.from_primary {
                    true => None,
                    false => self.shared.scopes.as_ref(),
                };
                host.user = self.caller.as_ref().map(|caller| caller.user.clone());
                host.shows_calls = self.odd & odd::MONITORED != 0;
                host.tells_events = self.odd & odd::EVENTS != 0;
                let (mark, before) = (ctx.out.mark(), ctx.out.as_bytes().len());
                let version = self.shared.scripts.libraries_version();
                let result = match spec.keys {
                    Keys::Libraries => self.scripts.function(ctx.out, &mut host, *args),
                    _ => self.scripts.run(&mut ctx, &mut host, *args),
                };
                if let Err(error) = result {
                    ctx.out.rewind(mark);
                    ctx.out.error(&error);
                }
                self.stats.changes += ctx.dirty;
                if self.shared.scripts.libraries_version() != version {
                    self.stats.changes += 1;
                    let sources = self.shared.scripts.library_sources();
                    self.homes.shards.note_libraries(&sources);
                }
                let done = host.into_done();
                if !call.from_primary {
                    self.count_reply(spec, &out.as_bytes()[before..]);
                }
                self.after_script(done, away);
                (None, false)
            }
        }
    }

    /// Tells of what a script changed and published.
    fn after_script(&mut self, done: Done, away: Option<&mut Vec<(usize, After)>>) {
        let mut away = away;
        self.freeing |= !done.changed.is_empty();
        self.note_script_refusals(done.denied);
        for call in done.called {
            self.feed(call.db, "lua", call.args.as_args());
        }
        self.tell_events(done.events);
        for call in done.read {
            self.remember(call.spec, call.args.as_args(), away.as_deref_mut());
        }
        for call in done.changed {
            let args = call.args.as_args();
            self.tell(call.spec, args, call.db, away.as_deref_mut());
        }
        for message in done.published {
            match &message {
                Message::Published(channel, text) => {
                    for core in self.subs.cores_of(Topics::Channels, channel) {
                        let copy = Message::Published(channel.clone(), text.clone());
                        self.mesh.send(core, copy);
                    }
                }
                Message::ShardPublished(channel, text) => {
                    for core in self.subs.cores_of(Topics::Shards, channel) {
                        let copy = Message::ShardPublished(channel.clone(), text.clone());
                        self.mesh.send(core, copy);
                    }
                }
                _ => {}
            }
            // Delivered here at the end of the turn, when every connection is in its place.
            self.published.push(message);
        }
    }

    /// SCRIPT.
    pub(super) fn keep_script(&mut self, conn: &mut Conn, spec: &'static Spec, args: Args<'_>) {
        if let Some(error) = self.gate_of_scripts(spec, args) {
            return self.refuse(conn, Some(spec), &error);
        }
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
        // Without borrowed shards only those can want to know who are noted here.
        if away.is_none() && !self.homes.has_listeners() && !matches!(spec.keys, Keys::All) {
            return;
        }
        let mut heard = Vec::new();
        let mut away = away;
        let by = self.acting.map(|acting| acting.client);
        if let Keys::All = spec.keys {
            let sweep = match spec.name {
                "FLUSHALL" => Sweep::Emptied(None),
                "FLUSHDB" => Sweep::Emptied(Some(db)),
                _ => Sweep::Any,
            };
            if sweep != Sweep::Any {
                self.flushed();
            }
            for shard in 0..self.homes.shards.count() {
                if self.homes.owner(shard) == self.me {
                    self.homes.all_changed(shard, sweep, &mut heard);
                } else if let Some(away) = &mut away {
                    away.push((shard, After::AllChanged(sweep)));
                }
            }
        } else {
            spec.written(args, |at| {
                let key = args.at(at);
                let shard = self.homes.shards.shard_of(key);
                if self.homes.owner(shard) == self.me {
                    self.homes.changed(shard, db, key, &mut heard);
                    self.invalidate(key, by);
                } else if let Some(away) = &mut away {
                    away.push((shard, After::Changed(db, key.to_vec(), by)));
                }
            });
        }
        self.note_heard(heard);
    }
}

/// Why what is here of a primary is not read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stale {
    /// It may be older than `replica-max-staleness-ms`.
    Old,
    /// There is no link, and `replica-serve-stale-data` is off.
    Unlinked,
}

impl Stale {
    fn refuses(self, conn: &Conn, spec: &Spec) -> Option<Error> {
        match self {
            // Whatever does not look at keys goes on, so that an operator can act; what is queued is looked
            // at when it runs.
            Stale::Old => {
                let is_read = Work::of(spec).is_some() && conn.multi.is_none();
                is_read.then_some(STALE)
            }
            Stale::Unlinked => {
                let is_answered = spec.flags & flag::STALE != 0
                    || spec.run_is(cmd::Verb::ReplToken)
                    || spec.run_is(cmd::Verb::ReplWait);
                (!is_answered).then_some(PRIMARY_DOWN)
            }
        }
    }
}

/// Is it an EXEC that would write?
fn queues_writes(conn: &Conn, spec: &Spec) -> bool {
    let queued = || conn.multi.iter().flat_map(|multi| &multi.queued);
    spec.run_is(cmd::Verb::Exec) && queued().any(|(spec, _)| spec.is_write())
}

/// Requests of one buffer, as places in it: those of their spans, and where each ends. Apart from each
/// other, because two small numbers that were just written cannot at once be read as one large one.
#[derive(Default)]
struct Group {
    firsts: ArrayVec<u32, GROUP_LEN>,
    lasts: ArrayVec<u32, GROUP_LEN>,
    ends: ArrayVec<u32, GROUP_LEN>,
}

impl Group {
    #[inline]
    fn push(&mut self, first: usize, last: usize, end: usize) {
        self.firsts.push(first as u32);
        self.lasts.push(last as u32);
        self.ends.push(end as u32);
    }
}

/// A name of three to seven bytes as one number; 0 for all others.
#[inline]
fn short_name(name: &[u8]) -> u64 {
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([
            name[at],
            name[at + 1],
            name[at + 2],
            name[at + 3],
        ]))
    };
    let len = name.len();
    let low = match len {
        3 => u64::from(name[0]) | u64::from(name[1]) << 8 | u64::from(name[2]) << 16,
        4..=7 => word(0) | (word(len - 4) >> (8 * (8 - len))) << 32,
        _ => return 0,
    };
    low | (len as u64) << 56
}

/// Is it about what the client wrote before, so that this must have happened?
fn is_about_earlier(spec: &Spec) -> bool {
    matches!(
        spec.run,
        Run::Session(
            cmd::Verb::Wait | cmd::Verb::WaitAof | cmd::Verb::ReplToken | cmd::Verb::ReplDigest
        )
    )
}
