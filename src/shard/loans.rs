//! Shards on their way: commands that need several of them, errands for other cores, and the messages
//! of both.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::Ordering::{Relaxed, SeqCst},
    time::{Duration, Instant},
};

use uring::SocketId;

use super::{
    access::Caller,
    blocking::wants,
    conn::{Conn, Hold},
    evict::OUT_OF_MEMORY,
    frames::{Adopt, Copied, Part},
    homes::{Hear, Listener},
    load::Load,
    message::{
        After, Answer, Asker, ClientAt, CoreId, Errand, Message, Question, SentScript, Topics,
        Waiting,
    },
    oddities::Acting,
    requests::{Call, Work},
    scratch::Received,
    state::State,
};
use crate::{
    cmd::{Run, Shard, Spec, flag},
    resp::{Args, Out, OwnedArgs},
};

/// Requests that one collection takes.
const JOBS_MAX: usize = 256;
/// A loan in which requests ran for this long goes back before the next of them runs.
const LOAN_TIME: Duration = Duration::from_micros(500);

/// A connection of another core whose commands take longer than this has fewer of them under way.
const SLOW_NANOS: u64 = 200_000;

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
        /// Of all shards in hand it sees this one.
        only: Option<usize>,
        acting: Option<Acting>,
        /// For whom a script runs.
        caller: Option<Box<Caller>>,
    },
    /// A script of a client of another core, which wants the reply.
    Script(CoreId, Box<SentScript>),
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
        call: Call,
        args: OwnedArgs,
    },
    /// A transaction of that primary.
    Unit { asker: Asker, parts: Vec<Part> },
    /// What one or several streams of a ringkeep have to be applied together.
    Copied {
        units: Vec<Copied>,
        /// Each stream is that of one shard.
        is_same: bool,
    },
    /// The data set is replaced by that of a Redis primary.
    Exchange {
        session: u64,
        received: Box<Received>,
    },
    /// A shard takes the history of the primary for its own.
    Adopt(Box<Adopt>),
    /// The data set is being replaced by a snapshot, over many turns.
    Load(Box<Load>),
    /// Snapshots that are to count together end with what there is now.
    Cut,
}

/// Shards on their way to this core.
pub(super) struct Collection {
    /// What runs with them, in this order.
    jobs: VecDeque<Job>,
    pub need: Vec<usize>,
    #[expect(
        clippy::vec_box,
        reason = "shards arrive in their boxes and leave in them"
    )]
    pub got: Vec<Box<Shard>>,
    /// Somebody is blocked on a key of a borrowed shard, and is served before a second job runs.
    is_wanted: bool,
}

impl Collection {
    /// Takes these shards in, where they are asked for already or can still be asked for in order.
    fn widen(&mut self, more: &[usize]) -> bool {
        let Some(asked) = self.need.get(self.got.len()).copied() else {
            return false;
        };
        let is_asked = |shard: &usize| self.need.binary_search(shard).is_ok();
        if !more.iter().all(|shard| *shard > asked || is_asked(shard)) {
            return false;
        }
        self.need.extend_from_slice(more);
        self.need.sort_unstable();
        self.need.dedup();
        true
    }
}

/// The collections of this core.
#[derive(Default)]
pub(super) struct Loans {
    /// Those that still wait for a shard, by number.
    open: HashMap<u64, Collection>,
    next: u64,
    /// The one that was opened last, if later requests may join it. Joining an older one, they would
    /// overtake what was asked for since.
    newest: Option<u64>,
    /// Collections that are complete. They run one after the other, never one inside another: a queue of
    /// them may be longer than the stack is deep.
    pub ready: VecDeque<(u64, Collection)>,
    /// A load that owns all shards, worked on once per turn.
    pub load: Option<(Collection, Box<Load>)>,
}

impl Loans {
    /// Is nothing on its way?
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty() && self.load.is_none()
    }
}

impl State {
    /// Gathers shards for a job; runs it as soon as all are here. The number of the collection.
    pub(super) fn collect(&mut self, need: Vec<usize>, job: Job) -> u64 {
        let id = self.loans.next;
        self.loans.next += 1;
        self.loans.newest = None;
        self.loans.open.insert(
            id,
            Collection {
                jobs: VecDeque::from([job]),
                need,
                got: Vec::new(),
                is_wanted: false,
            },
        );
        self.collect_more(id);
        id
    }

    /// The same for a job that others may join.
    pub(super) fn collect_open(&mut self, need: Vec<usize>, job: Job) -> u64 {
        let id = self.collect(need, job);
        self.loans.newest = Some(id);
        id
    }

    /// The collection that requests for these shards may join.
    fn joined(&mut self, need: &[usize]) -> Option<(u64, &mut Collection)> {
        let id = self.loans.newest?;
        let collection = self.loans.open.get_mut(&id)?;
        (collection.jobs.len() < JOBS_MAX && collection.widen(need)).then_some((id, collection))
    }

    pub(super) fn collect_for(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        run: Work,
        args: Args<'_>,
        need: Vec<usize>,
        only: Option<usize>,
    ) {
        // What the connection asked of other cores must not be overtaken. A script may run for long, so it
        // has a loan of its own.
        let is_store = matches!(run, Work::Store(_));
        let may_join = is_store && !conn.is_waiting();
        let slot = conn.open_slot();
        let job = Job::Request {
            conn: conn.socket,
            slot,
            spec,
            run,
            args: OwnedArgs::copy(args.iter()),
            db: conn.db,
            only,
            acting: self.acting,
            caller: self.script_caller(conn, run),
        };
        let id = match may_join.then(|| self.joined(&need)).flatten() {
            Some((id, collection)) => {
                collection.jobs.push_back(job);
                id
            }
            _ if is_store => self.collect_open(need, job),
            _ => self.collect(need, job),
        };
        let may_follow = is_store && spec.flags & flag::BLOCKING == 0;
        conn.hold = Hold::Loan {
            requests: 1,
            follow: may_follow.then_some(id),
        };
    }

    /// Has another core run a script, if this is core 0 of a member of elections: while a script runs nothing
    /// else does on its core, and who leads has to be heard. False if it may run here.
    pub(super) fn send_script(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: Args<'_>,
        only: Option<usize>,
    ) -> bool {
        if self.me != 0 || self.mesh.cores() == 1 || self.shared.election.is_none() {
            return false;
        }
        let script = SentScript {
            asker: Asker::Conn(conn.socket, conn.open_slot()),
            db: conn.db,
            proto: conn.out.proto,
            spec,
            args: OwnedArgs::copy(args.iter()),
            only,
            acting: self.acting,
            caller: self.script_caller(conn, Work::Script),
        };
        conn.hold = Hold::Away;
        self.mesh.send(1, Message::Script(Box::new(script)));
        true
    }

    /// Runs a script of a client of another core as soon as its shards are here.
    fn run_sent_script(&mut self, from: CoreId, script: Box<SentScript>) {
        // It may come from a client that has just set a parameter on its core.
        self.heed_tunables();
        let need = match script.only {
            Some(shard) => vec![shard],
            None => self.homes.shards_of([(script.spec, script.args.as_args())]),
        };
        self.collect(need, Job::Script(from, script));
    }

    /// Has a request of a connection that waits for a loan run in that loan, behind the earlier ones;
    /// false if it has to wait for their end.
    pub(super) fn follow(&mut self, conn: &mut Conn, args: Args<'_>) -> bool {
        let Hold::Loan {
            follow: Some(id), ..
        } = conn.hold
        else {
            return false;
        };
        let Some((place, spec)) = self.command(args.at(0)) else {
            return false;
        };
        let Run::Store(run) = spec.run else {
            return false;
        };
        if self.loans.newest != Some(id)
            || spec.flags & flag::BLOCKING != 0
            || !spec.fits(args.len())
            || !self.is_plain(conn)
            || (spec.is_write() && self.shared.following.load(Relaxed))
            || self.is_foreign(spec, args).is_some()
            || (spec.flags & flag::DENY_OOM != 0 && self.memory.limit > 0)
            || conn.port_shard.is_some()
            || !self.is_for_this_node(spec, args)
            || conn.is_full()
        {
            return false;
        }
        let need = self.homes.shards_of([(spec, args)]);
        if need.is_empty() {
            return false;
        }
        let (socket, db) = (conn.socket, conn.db);
        let Some((_, collection)) = self.joined(&need) else {
            return false;
        };
        collection.jobs.push_back(Job::Request {
            conn: socket,
            slot: conn.open_slot(),
            spec,
            run: Work::Store(run),
            args: OwnedArgs::copy(args.iter()),
            db,
            only: None,
            acting: None,
            caller: None,
        });
        if let Hold::Loan { requests, .. } = &mut conn.hold {
            *requests += 1;
        }
        self.stats.commands += 1;
        self.census.called(place);
        conn.last = spec.name;
        true
    }

    /// A request that waited for a loan is done: behind the last one the connection goes on.
    fn end_loan(&mut self, conn: &mut Conn) {
        match &mut conn.hold {
            Hold::Loan { requests, .. } if *requests > 1 => {
                *requests -= 1;
                self.list(conn);
            }
            _ => self.wake(conn),
        }
    }

    fn collect_more(&mut self, id: u64) {
        loop {
            let Some(collection) = self.loans.open.get_mut(&id) else {
                return;
            };
            let Some(shard) = collection.need.get(collection.got.len()).copied() else {
                break;
            };
            let owner = self.homes.owner(shard);
            if owner != self.me {
                return self.mesh.send(owner, Message::Borrow(shard, id));
            }
            // Whoever waits for a shard that has just come home is first: a replacement of all keys must
            // not overtake frames that came before it.
            let lent = match self.homes.is_awaited(shard) {
                true => None,
                false => self.homes.lend(shard),
            };
            match lent {
                Some(lent) => collection.got.push(lent),
                None => return self.homes.wait_for(shard, Waiting::Loan(self.me, id)),
            }
        }
        if let Some(collection) = self.loans.open.remove(&id) {
            self.loans.ready.push_back((id, collection));
        }
    }

    fn on_lent(&mut self, id: u64, lent: Box<Shard>, is_wanted: bool) {
        if let Some(collection) = self.loans.open.get_mut(&id) {
            collection.got.push(lent);
            collection.is_wanted |= is_wanted;
            self.collect_more(id);
        }
    }

    /// All shards of a collection are in hand: runs its jobs and gives the shards back. Jobs for which the
    /// loan is too short collect them again, behind the others who want them.
    pub(super) fn run_collected(&mut self, id: u64, mut collection: Collection) {
        if let Some(Job::Load(_)) = collection.jobs.front() {
            if let Some(Job::Load(load)) = collection.jobs.pop_front() {
                self.loans.load = Some((collection, load));
            }
            return;
        }
        for (shard, lent) in collection.need.iter().zip(collection.got.drain(..)) {
            self.homes.shards.put(*shard, lent);
        }
        let mut away = Vec::new();
        let mut tried = None;
        let start = Instant::now();
        while let Some(job) = collection.jobs.pop_front() {
            let before = away.len();
            let round = self.run_job(job, &mut away);
            // While all its shards are here.
            self.homes.shards.end_unit();
            tried = tried.or(round);
            let is_heard =
                !self.waits.heard.is_empty() || (collection.is_wanted && !away.is_empty());
            let blocks = away[before..]
                .iter()
                .any(|(_, after)| matches!(after, After::Listen(..)));
            let is_late = self.shared.settings.takes_time && start.elapsed() > LOAN_TIME;
            if collection.jobs.is_empty() || is_heard || blocks || is_late {
                break;
            }
        }
        for shard in &collection.need {
            if let Some(stream) = &self.homes.shards.shard(*shard).stream {
                self.gate.borrowed(*shard, stream.next());
                let marks = &self.shared.durable.shards[*shard];
                marks.next.fetch_max(stream.next(), SeqCst);
            }
        }
        self.give_back(&collection.need, away);
        // Behind the shards in the mailbox: the next client of the round finds them at home.
        self.end_try(tried);
        if !collection.jobs.is_empty() {
            collection.is_wanted = false;
            self.loans.open.insert(id, collection);
            self.collect_more(id);
        }
    }

    /// Runs a job whose shards are in their places; the round that waits for it, if one does.
    fn run_job(&mut self, job: Job, away: &mut Vec<(usize, After)>) -> Option<(CoreId, u64)> {
        let mut tried = None;
        match job {
            Job::Request {
                conn: socket,
                slot,
                spec,
                run,
                args,
                db,
                only,
                acting,
                caller,
            } => {
                (self.acting, self.caller) = (acting, caller);
                let conn = self.take_conn(socket);
                let proto = conn.as_ref().map(|conn| conn.out.proto).unwrap_or_default();
                let may_block = conn.as_ref().is_some_and(|conn| !conn.ended);
                let mut out = Out::new(proto);
                let start = self.clock(spec);
                self.homes.shards.narrow(only);
                // A request whose client has gone is still run: it was received whole.
                let block = self.run_here(
                    spec,
                    run,
                    &args.as_args(),
                    Call::of(db, may_block),
                    &mut out,
                    Some(&mut *away),
                );
                self.homes.shards.narrow(None);
                if let Some(start) = start {
                    self.note_time(conn.as_deref(), spec, args.as_args(), start);
                }
                if let Some(mut conn) = conn {
                    match block {
                        Some(block) => {
                            conn.hold = Hold::Free;
                            self.start_block(&mut conn, spec, args.as_args(), block, Some(slot));
                            self.listen_away(&conn, away);
                        }
                        None => {
                            conn.fill_slot(slot, out);
                            self.end_loan(&mut conn);
                        }
                    }
                    // In its place before the shards go back: what waited for them may be what it waits
                    // for.
                    self.put_conn(conn);
                }
            }
            Job::Script(from, script) => {
                let SentScript {
                    asker,
                    db,
                    proto,
                    spec,
                    args,
                    only,
                    acting,
                    caller,
                } = *script;
                (self.acting, self.caller) = (acting, caller);
                let (mut out, args) = (Out::new(proto), args.as_args());
                let start = self.clock(spec);
                self.homes.shards.narrow(only);
                let call = Call::of(db, false);
                self.run_here(spec, Work::Script, &args, call, &mut out, Some(&mut *away));
                self.homes.shards.narrow(None);
                if let Some(start) = start {
                    self.note_time(None, spec, args, start);
                }
                self.answer(from, asker, out);
            }
            Job::Exec { conn: socket, slot } => {
                if let Some(mut conn) = self.take_conn(socket) {
                    self.acting = self.acting_of(&conn);
                    let mut out = Out::new(conn.out.proto);
                    self.exec_queued(&mut conn, &mut out, away);
                    self.show_queued(&conn, OwnedArgs::copy([b"EXEC".as_slice()]).as_args());
                    conn.fill_slot(slot, out);
                    self.end_loan(&mut conn);
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
                    self.acting = self.acting_of(&conn);
                    if let Some(reply) = self.retry_collected(&mut conn, slot, away) {
                        self.unblock(&mut conn, reply);
                    } else if let Hold::Blocked(blocked) = &mut conn.hold
                        && blocked.slot == slot
                        && std::mem::take(&mut blocked.again)
                    {
                        self.waits.heard.push_back(Hear::One(Listener {
                            core: self.me,
                            conn: socket,
                            want: wants(blocked.spec),
                        }));
                    }
                    self.put_conn(conn);
                }
            }
            Job::Frame {
                asker,
                run,
                spec,
                call,
                args,
            } => {
                let mut out = Out::default();
                let args = args.as_args();
                self.run_asked(asker, spec, run, &args, call, &mut out, Some(&mut *away));
                if let Some(upstream) = asker.upstream() {
                    self.homes.shards.note_upstream(upstream, None);
                }
                self.applied.push(asker);
            }
            Job::Unit { asker, parts } => {
                self.run_unit(parts, asker, Some(&mut *away));
                self.applied.push(asker);
            }
            Job::Copied { units, is_same } => {
                let askers: Vec<_> = units.iter().map(|units| units.asker).collect();
                self.run_copied(units, is_same, Some(&mut *away));
                self.applied.extend(askers);
            }
            Job::Exchange { session, received } => self.exchange(session, *received, away),
            Job::Adopt(adopt) => self.adopt(&adopt),
            // It never shares a loan, and runs in slices.
            Job::Load(_) => {}
            Job::Cut => self.cut_snapshots(),
        }
        (self.acting, self.caller) = (None, None);
        tried
    }

    /// Returns collected shards to where they live, each with what its owner has to do. All
    /// connections are in their places.
    pub(super) fn give_back(&mut self, need: &[usize], mut away: Vec<(usize, After)>) {
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
    pub(super) fn drain(&mut self, shard: usize) {
        while let Some(waiting) = self.homes.next_waiting(shard) {
            match waiting {
                Waiting::Errand(errand) => self.run_errand(*errand),
                Waiting::Copied(shard, copied, from) => self.run_sent(shard, copied, from),
                Waiting::Loan(to, id) => self.lend(shard, to, id),
                Waiting::Listen(db, key, listener, confirm) => {
                    self.homes.listen(shard, db, &key, listener, self.now);
                    if let Some((to, question)) = confirm {
                        self.confirm(to, question);
                    }
                }
            }
        }
    }

    /// Lends a shard of ours, or notes that it is to be lent once it is back.
    fn lend(&mut self, shard: usize, to: CoreId, id: u64) {
        match self.homes.lend(shard) {
            None => self.homes.wait_for(shard, Waiting::Loan(to, id)),
            // Of our own shards we hear ourselves.
            Some(lent) if to == self.me => self.on_lent(id, lent, false),
            Some(lent) => {
                let is_wanted = self.homes.is_wanted(shard);
                self.mesh.send(to, Message::Lent(id, lent, is_wanted));
            }
        }
    }

    pub(super) fn errand(
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
            args: OwnedArgs::keep(args, self.arrived.as_ref()),
            remembers: self.acting.is_some_and(|acting| acting.remembers),
        })
    }

    /// Runs a command for another core (or for our own, which had to wait), and sends the reply.
    fn run_errand(&mut self, errand: Errand) {
        if !self.homes.shards.has(errand.shard) {
            let shard = errand.shard;
            return self
                .homes
                .wait_for(shard, Waiting::Errand(Box::new(errand)));
        }
        // It may come from a client that has just set a parameter on its core.
        self.heed_tunables();
        let mut out = Out::new(errand.proto);
        let Some(run) = Work::of(errand.spec) else {
            return;
        };
        let mut slow = None;
        match errand.asker {
            Asker::Conn(conn, _) => {
                let before = self.timed_nanos;
                let client = ClientAt {
                    core: errand.from,
                    conn,
                };
                self.act_for(client, errand.remembers);
                let start = self.clock(errand.spec);
                let args = errand.args.as_args();
                let call = Call::of(errand.db, false);
                let grows = errand.spec.flags & flag::DENY_OOM != 0;
                if self.memory.limit > 0 && grows && !self.make_room() {
                    self.count_refused(Some(errand.spec), &OUT_OF_MEMORY);
                    out.error(&OUT_OF_MEMORY);
                } else {
                    self.arrived = errand.args.shared().cloned();
                    self.run_here(errand.spec, run, &args, call, &mut out, None);
                    self.arrived = None;
                }
                if let Some(start) = start {
                    self.note_time(None, errand.spec, args, start);
                    slow = (self.timed_nanos - before > SLOW_NANOS).then_some(conn);
                }
                self.acting = None;
            }
            Asker::Link { .. } | Asker::Redis { .. } => {
                let call = match errand.asker {
                    Asker::Link { ringkeep: None, .. } => Call::FRAME,
                    _ => Call::of_redis(errand.db),
                };
                let (asker, args) = (errand.asker, errand.args.as_args());
                // One on all keys is on those of the shard.
                self.homes.shards.narrow(Some(errand.shard));
                self.run_asked(asker, errand.spec, run, &args, call, &mut out, None);
                self.homes.shards.narrow(None);
            }
        }
        self.end_asked(errand.asker);
        self.hear_all();
        if let Some(conn) = slow
            && errand.from != self.me
        {
            self.mesh.send(errand.from, Message::Slow(conn));
        }
        self.answer(errand.from, errand.asker, out);
    }

    pub(super) fn answer(&mut self, to: CoreId, asker: Asker, out: Out) {
        if to == self.me {
            self.on_ran(asker, out);
        } else if let Some(message) = self.gate.reply(to, Message::Ran(asker, Box::new(out))) {
            self.mesh.send(to, message);
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
            Asker::Link { .. } | Asker::Redis { .. } => self.applied.push(asker),
        }
    }

    /// Tells another core that what it asked for is done.
    pub(super) fn confirm(&mut self, to: CoreId, question: u64) {
        self.mesh
            .send(to, Message::Answer(question, Answer::default()));
    }

    /// Handles a message of another core.
    pub(super) fn on_message(&mut self, from: CoreId, message: Message) {
        match message {
            Message::Run(errand) => self.run_errand(*errand),
            Message::Slow(socket) => {
                if let Some(mut conn) = self.take_conn(socket) {
                    conn.ask_for_fewer();
                    self.put_conn(conn);
                }
            }
            Message::Script(script) => self.run_sent_script(from, script),
            Message::Copy(shard, copied) => self.run_sent(shard, copied, from),
            Message::Ran(asker, reply) => self.on_ran(asker, *reply),
            Message::Borrow(shard, id) => self.lend(shard, from, id),
            Message::Lent(id, lent, is_wanted) => self.on_lent(id, lent, is_wanted),
            Message::Returned(shard, lent, after) => {
                if let Some(stream) = &lent.stream {
                    let until = (shard, from, stream.next());
                    if self.gate.waits_for_disk() {
                        self.watch.push(until);
                    }
                    if self.gate.asks_majority() {
                        self.watch_agreed.push(until);
                        // It may have been acknowledged before the shard was here.
                        self.on_agreed(shard);
                    }
                }
                self.homes.come_home(shard, lent);
                let mut heard = Vec::new();
                for after in after {
                    match after {
                        After::Changed(db, key, by) => {
                            self.homes.changed(shard, db, &key, &mut heard);
                            self.invalidate(&key, by);
                        }
                        After::Remember(key, client) => self.remember_key(&key, client),
                        After::AllChanged(sweep) => {
                            self.homes.all_changed(shard, sweep, &mut heard)
                        }
                        After::Listen(db, key, listener) => {
                            self.homes.listen(shard, db, &key, listener, self.now);
                        }
                    }
                }
                self.note_heard(heard);
                self.freeing = true;
                // Before the shard goes on to who waits for it: see `give_back`.
                self.hear_all();
                self.drain(shard);
            }
            Message::Listen(shard, db, key, listener, question) => {
                if self.homes.shards.has(shard) {
                    self.homes.listen(shard, db, &key, listener, self.now);
                    self.confirm(from, question);
                } else {
                    let confirm = Some((from, question));
                    self.homes
                        .wait_for(shard, Waiting::Listen(db, key, listener, confirm));
                }
            }
            Message::Unlisten(shard, db, key, listener) => {
                if let Some((to, question)) = self.homes.unlisten(shard, db, &key, listener) {
                    self.confirm(to, question);
                }
            }
            Message::Heard(listener, round) => {
                self.hear_here(listener, round.map(|id| (from, id)));
                self.hear_all();
            }
            Message::Tried(round) => {
                self.go_on_round(round);
                self.hear_all();
            }
            Message::Subscribed {
                kind,
                channel,
                count,
            } => self.subs.note(from, kind, channel, count),
            Message::Published(channel, message) => {
                self.deliver(None, Topics::Channels, &channel, &message);
            }
            Message::ShardPublished(channel, message) => {
                self.deliver(None, Topics::Shards, &channel, &message);
            }
            Message::Monitored(on) => self.on_monitored(from, on),
            Message::Line(line) => self.lines.push(line),
            Message::Ask(gather, Question::Digest) => self.digest_later(from, gather),
            Message::Ask(gather, question) => {
                let answer = self.answer_question(&question, None);
                self.mesh.send(from, Message::Answer(gather, answer));
            }
            Message::Answer(gather, answer) => self.on_answer(gather, answer),
            Message::News(news) => self.on_news(*news),
            Message::Redirected(source, target, what) => {
                self.deliver_redirected(source, target, &what, &mut None);
            }
            Message::RedirectBroken(conn) => self.redirect_broken(conn, &mut None),
            Message::Flushed => self.on_flushed(),
            Message::Prefixes {
                conn,
                prefixes,
                no_loop,
                on,
            } => {
                let client = ClientAt { core: from, conn };
                self.on_prefixes(client, &prefixes, no_loop, on);
            }
            // What they are good for is done by the core, behind all messages.
            Message::Follow(_)
            | Message::Frontier
            | Message::Failover
            | Message::Order(..)
            | Message::Settled(_) => {}
            Message::Hush(_) | Message::Hushed(..) => {}
            Message::Unanswered(socket) => self.leave_unanswered(socket),
            Message::Acked => self.acked = true,
            Message::AskAcks => self.asks_acks = true,
        }
        self.run_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uring::Wake;

    use super::{
        super::{clients::Door, shared::*},
        *,
    };
    use crate::{base::Position, journal::Stream, mesh};

    struct Mute;

    impl Wake for Mute {
        fn wake(&self) {}
    }

    /// Cores with one shard each, on one thread; messages between them go when the test says so.
    struct Node {
        cores: Vec<State>,
        borrows: usize,
    }

    impl Node {
        fn new(cores: usize) -> Self {
            Self::with_shards(cores, cores)
        }

        fn with_shards(cores: usize, shards: usize) -> Self {
            let settings = Settings::of_a_test(cores, shards);
            let shared = Arc::new(Shared::new(settings, 0, String::new()));
            let wakers = (0..cores)
                .map(|_| Box::new(Mute) as Box<dyn Wake + Send + Sync>)
                .collect();
            let cores = mesh::build(wakers)
                .into_iter()
                .map(|mesh| State::new(mesh, shared.clone(), 7).expect("a Lua state"))
                .collect();
            Self { cores, borrows: 0 }
        }

        /// A key of a shard.
        fn key(&self, shard: usize) -> String {
            (0..)
                .map(|at| format!("k{at}"))
                .find(|key| self.cores[0].homes.shards.shard_of(key.as_bytes()) == shard)
                .expect("keys are spread")
        }

        fn client(&mut self, core: usize) -> SocketId {
            let index = self.cores[core].clients.places.len() as u32;
            let socket = SocketId {
                index,
                generation: 0,
            };
            assert!(self.cores[core].accept(socket, None, None, Door::Plain));
            socket
        }

        fn send(&mut self, core: usize, socket: SocketId, lines: &[String]) {
            let state = &mut self.cores[core];
            let mut conn = state.take_conn(socket).expect("a client");
            state.on_data(&mut conn, (lines.join("\r\n") + "\r\n").as_bytes());
            state.put_conn(conn);
        }

        /// Lets the cores work until none of them has anything to do.
        fn settle(&mut self) {
            let mut worked = true;
            while worked {
                worked = false;
                for state in &mut self.cores {
                    while let Some((from, message)) = state.mesh.receive() {
                        self.borrows += usize::from(matches!(message, Message::Borrow(..)));
                        state.on_message(from, message);
                        worked = true;
                    }
                    worked |= state.go_on() | state.mesh.has_unsent();
                    state.mesh.post();
                }
            }
        }

        fn replies(&mut self, core: usize, socket: SocketId) -> String {
            let mut conn = self.cores[core].take_conn(socket).expect("a client");
            let text = String::from_utf8_lossy(conn.out.as_bytes()).replace("\r\n", " ");
            conn.out.clear();
            self.cores[core].put_conn(conn);
            text
        }
    }

    #[test]
    fn requests_of_a_core_run_in_one_loan_in_order() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (one, two) = (node.client(0), node.client(0));
        let lines = [
            format!("MSET {a} 1 {b} 1"),
            format!("MGET {a} {b}"),
            format!("INCR {b}"),
            format!("MGET {b} {a}"),
        ];
        node.send(0, one, &lines);
        node.send(0, two, &[format!("MGET {a} {b}")]);
        node.settle();
        let want = "+OK *2 $1 1 $1 1 :2 *2 $1 2 $1 1 ";
        assert_eq!(node.replies(0, one), want);
        assert_eq!(node.replies(0, two), "*2 $1 1 $1 2 ");
        assert_eq!(node.borrows, 1);
    }

    #[test]
    fn what_was_sent_to_an_owner_is_not_overtaken() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (one, two) = (node.client(0), node.client(0));
        node.send(0, one, &[format!("MGET {a} {b}")]);
        node.send(0, two, &[format!("SET {b} 5"), format!("MGET {a} {b}")]);
        node.settle();
        assert_eq!(node.replies(0, two), "+OK *2 $-1 $1 5 ");
    }

    #[test]
    fn a_core_that_waits_is_not_starved() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let other = node.client(1);
        let writers: Vec<_> = (0..3 * JOBS_MAX).map(|_| node.client(0)).collect();
        for (at, writer) in writers.iter().enumerate() {
            node.send(0, *writer, &[format!("MSET {a} {at} {b} {at}")]);
            if at == 0 {
                node.send(1, other, &[format!("MGET {a} {b}")]);
                node.cores[1].mesh.post();
                let (from, asked) = node.cores[0].mesh.receive().expect("a message");
                assert!(matches!(asked, Message::Borrow(0, _)));
                node.cores[0].on_message(from, asked);
            }
        }
        node.settle();
        let reply = node.replies(1, other);
        let seen: usize = reply
            .split(' ')
            .nth(2)
            .and_then(|value| value.parse().ok())
            .expect("a value");
        assert!(seen < JOBS_MAX, "{reply}");
        for writer in writers {
            assert_eq!(node.replies(0, writer), "+OK ");
        }
    }

    #[test]
    fn who_is_blocked_is_served_before_the_next_job() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (waiter, writer, popper) = (node.client(1), node.client(0), node.client(0));
        node.send(1, waiter, &[format!("BLPOP {b} 0")]);
        node.settle();
        let lines = [
            "MULTI".into(),
            format!("RPUSH {a} x"),
            format!("RPUSH {b} y"),
        ];
        node.send(0, writer, &lines);
        node.send(0, writer, &["EXEC".into()]);
        node.send(0, popper, &[format!("LMPOP 2 {b} {a} LEFT")]);
        node.settle();
        assert_eq!(
            node.replies(1, waiter),
            format!("*2 ${} {b} $1 y ", b.len())
        );
        let reply = node.replies(0, popper);
        assert_eq!(reply, format!("*2 ${} {a} *1 $1 x ", a.len()));
    }

    #[test]
    fn a_change_in_a_joined_loan_voids_who_watched_before() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (one, two, watcher) = (node.client(0), node.client(0), node.client(0));
        node.send(0, watcher, &[format!("WATCH {b}")]);
        node.settle();
        node.send(0, one, &[format!("MGET {a} {b}")]);
        node.send(0, two, &[format!("MSET {a} 1 {b} 1")]);
        node.send(0, watcher, &["MULTI".into(), format!("GET {b}")]);
        node.send(0, watcher, &["EXEC".into()]);
        node.settle();
        assert_eq!(node.replies(0, watcher), "+OK +OK +QUEUED *-1 ");
        assert_eq!(node.borrows, 2);
    }

    #[test]
    fn who_watches_a_shard_on_loan_is_answered_behind_the_changes_of_the_loan() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (one, two, watcher) = (node.client(0), node.client(0), node.client(0));
        node.send(0, one, &[format!("MGET {a} {b}")]);
        let lines = [format!("WATCH {b}"), format!("GET {b}"), "MULTI".into()];
        node.send(0, watcher, &lines);
        node.send(0, two, &[format!("MSET {a} 1 {b} 1")]);
        node.send(0, watcher, &[format!("GET {b}"), "EXEC".into()]);
        node.settle();
        let want = "+OK $1 1 +OK +QUEUED *1 $1 1 ";
        assert_eq!(node.replies(0, watcher), want);
        assert_eq!(node.borrows, 2);
    }

    /// Takes the frames of a shard, block by block; parts of a unit over several shards are marked.
    fn blocks(node: &mut Node, shard: usize) -> Vec<String> {
        let shard = node.cores[shard].homes.shards.shard(shard);
        let stream = shard.stream.as_mut().expect("it was given one");
        let blocks = std::iter::from_fn(|| stream.take_block());
        blocks
            .map(|block| {
                let text = String::from_utf8_lossy(block.frames()).replace("\r\n", " ");
                let verbs: Vec<_> = text
                    .split(' ')
                    .filter(|word| word.starts_with(|char: char| char.is_ascii_uppercase()))
                    .collect();
                let mark = if block.is_shared() { "shared " } else { "" };
                format!("{mark}{}", verbs.join(" "))
            })
            .collect()
    }

    #[test]
    fn what_one_request_changes_is_one_unit() {
        let mut node = Node::new(2);
        for at in 0..2 {
            let shards = &mut node.cores[at].homes.shards;
            let mut shard = shards.take(at).expect("its own");
            let start = Position {
                generation: 1,
                offset: 0,
            };
            shard.stream = Some(Box::new(Stream::new(at as u32, start)));
            shards.put(at, shard);
        }
        let (a, b) = (node.key(0), node.key(1));
        let (one, waiter) = (node.client(0), node.client(1));
        let mut expect = |lines: &[String], want: [&[&str]; 2]| {
            node.send(0, one, lines);
            node.settle();
            for (shard, want) in want.iter().enumerate() {
                assert_eq!(
                    blocks(&mut node, shard),
                    *want,
                    "shard {shard} after {lines:?}"
                );
            }
        };
        // Here, and as an errand.
        expect(
            &[format!("SET {a} 1"), format!("INCR {a}")],
            [&["SET INCR"], &[]],
        );
        expect(&[format!("GET {a}"), format!("INCR {b}")], [&[], &["INCR"]]);
        // Over both.
        expect(
            &[format!("MSET {a} 1 {b} 1")],
            [&["shared SET"], &["shared SET"]],
        );
        expect(&[format!("DEL {a} {b}x")], [&["DEL"], &[]]);
        let multi = [
            "MULTI".into(),
            format!("INCR {a}"),
            format!("INCR {b}"),
            format!("INCR {a}"),
        ];
        expect(&multi, [&[], &[]]);
        expect(&["EXEC".into()], [&["shared INCR INCR"], &["shared INCR"]]);
        let multi = [
            "MULTI".into(),
            format!("INCR {a}"),
            format!("APPEND {a} x"),
            "EXEC".into(),
        ];
        // Not every peer appends to a number.
        expect(&multi, [&["INCR SET"], &[]]);
        let script = "\"redis.call('del', KEYS[1]); redis.call('set', KEYS[2], 1)\"";
        let script = format!("EVAL {script} 2 {a} {b}");
        expect(&[script], [&["shared DEL"], &["shared SET"]]);
        expect(
            &["FLUSHALL".into()],
            [&["shared FLUSHALL"], &["shared FLUSHALL"]],
        );
        // A client that is served is a unit of its own.
        node.send(1, waiter, &[format!("BLPOP {b} 0")]);
        node.settle();
        let mut lines = vec![
            "MULTI".into(),
            format!("RPUSH {a} x"),
            format!("RPUSH {b} y"),
        ];
        lines.push("EXEC".into());
        node.send(0, one, &lines);
        node.settle();
        assert_eq!(blocks(&mut node, 0), ["shared RPUSH"]);
        assert_eq!(blocks(&mut node, 1), ["shared RPUSH", "LPOP"]);
    }

    #[test]
    fn a_job_in_a_shared_loan_knows_the_client_it_runs_for() {
        let mut node = Node::new(2);
        let (a, b) = (node.key(0), node.key(1));
        let (reader, writer) = (node.client(0), node.client(0));
        node.send(0, reader, &["HELLO 3".into(), "CLIENT TRACKING ON".into()]);
        node.settle();
        node.replies(0, reader);
        node.send(0, reader, &[format!("MGET {a} {b}"), "PING".into()]);
        node.send(0, writer, &[format!("MSET {a} 1 {b} 1")]);
        node.settle();
        node.cores[0].deliver_news(None);
        let reply = node.replies(0, reader);
        assert!(reply.starts_with("*2 _ _ "), "{reply}");
        assert!(reply.contains("+PONG "), "{reply}");
        for key in [a, b] {
            let news = format!(">2 $10 invalidate *1 ${} {key} ", key.len());
            assert_eq!(reply.matches(&news).count(), 1, "{reply}");
        }
    }

    #[test]
    fn what_replaces_the_keys_of_a_stream_comes_behind_the_frames_before_it() {
        let mut node = Node::with_shards(1, 3);
        // Of the first stream of two, and not in the first shard.
        let placed = |key: &String, state: &State| {
            let stream = crate::route::hash_shard(crate::route::kevy_hash(key.as_bytes()), 2);
            (stream, state.homes.shards.shard_of(key.as_bytes()))
        };
        let key = (0..)
            .map(|at| format!("k{at}"))
            .find(|key| placed(key, &node.cores[0]) == (0, 2))
            .expect("keys are spread");
        let state = &mut node.cores[0];
        let load = |stream| Load::clearing(stream, 1, 2, Default::default());
        state.start_load(load(1));
        // The first one has the shards: the frame waits, and then the second one.
        let asker = Asker::Link {
            stream: 0,
            session: 1,
            offset: 5,
            ringkeep: Some((2, 9)),
        };
        let words = ["SET", &key, "1"].map(str::as_bytes);
        let frame = OwnedArgs::copy(words);
        let applied = state.apply_ringkeep(asker, 0, frame.as_args(), None);
        assert_eq!(applied, super::super::frames::Applied::Later);
        state.start_load(load(0));
        for _ in 0..100 {
            state.go_on();
            state.background();
        }
        assert_eq!(state.loaded, [(1, 1, true), (0, 1, true)]);
        let keys = state.homes.shards.keyspace(2, 0);
        assert!(!keys.contains(key.as_bytes(), 0));
    }
}
