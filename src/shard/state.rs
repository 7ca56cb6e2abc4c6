//! Everything of a core but its ring, and what its turns still have to do.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
    time::Instant,
};

use bytes::Bytes;
use uring::SocketId;

use super::{
    access::Caller,
    acl_file::Pending,
    blocking::Waits,
    census::Census,
    client::Gathers,
    clients::Clients,
    digest::Digests,
    durable::{Gate, Term, Verdict},
    evict::Memory,
    handoff::Stage,
    homes::Homes,
    loans::Loans,
    message::{Asker, CoreId, Message, Order},
    monitor::Monitors,
    oddities::{Acting, Pause, odd},
    pubsub::Subscriptions,
    requests::Stale,
    shared::{Election, Refuses, Shared, Tunables, lock},
    tracking::Tracked,
    wait::Waiter,
};
use crate::{
    acl::Users,
    base::{Ms, Rng},
    cmd::{Shards, Spec, Table, Upstream, flag},
    mesh::Mesh,
    repl::Part,
    resp::{Error, Out, ParseLimits, Parser},
    script::{self, EngineError, ScriptEngine},
};

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
    /// Changes by commands.
    pub changes: u64,
    pub evicted: u64,
    pub protocol_errors: u64,
    /// Clients closed because of what they were owed, what they asked, their silence, their standing still.
    pub cut_output: u64,
    pub cut_input: u64,
    pub cut_idle: u64,
    pub cut_stalled: u64,
    pub evicted_clients: u64,
    /// How often a client had to wait for the next turn.
    pub turns_ended: u64,
    /// Connections that could not be taken in.
    pub not_accepted: u64,
}

/// Everything of a core but its ring.
pub(super) struct State {
    pub me: CoreId,
    pub mesh: Mesh<Message>,
    pub shared: Arc<Shared>,
    pub homes: Homes,
    pub now: Ms,
    /// The clock that nobody sets, read once per beat: for how long clients are silent.
    pub beat: Ms,
    pub rng: Rng,
    pub stats: Stats,
    pub subs: Subscriptions,
    pub scripts: ScriptEngine,
    /// A script of another core runs for too long. Read once per turn.
    pub scripts_busy: bool,
    /// Messages that scripts published in this turn.
    pub published: Vec<Message>,
    pub table: Table,
    pub census: Arc<Census>,
    /// The node's users when they were last looked at, and how often they had been changed.
    pub users: Arc<Users>,
    pub users_version: u64,
    /// ACL LOAD and ACL SAVE that are under way.
    pub acl_work: Vec<Pending>,
    /// EXEC runs what was queued.
    pub runs_queue: bool,
    /// For whom a script runs, if that one may not do everything.
    pub caller: Option<Box<Caller>>,
    pub tunables: Tunables,
    /// Nobody who is owed less is owed too much.
    pub output_least: usize,
    /// Nanoseconds that clients and other cores have taken in this turn.
    pub turn_nanos: u64,
    /// Those of timed commands that no connection was charged for.
    pub timed_nanos: u64,
    /// Commands with one of these flags are not timed.
    pub untimed: u32,
    /// Fast commands that are still to be timed in this beat.
    pub samples: u32,
    /// Sockets to close at the end of the turn.
    pub dropped: Vec<SocketId>,
    /// Frames that other cores applied.
    pub applied: Vec<Asker>,
    /// Shards that are of no more use and are freed in slices.
    pub retired: Vec<Shards>,
    /// Loads that are done, with their stream and session.
    pub loaded: Vec<(usize, u64, bool)>,
    pub tunables_version: u64,
    pub limits: ParseLimits,
    pub clients: Clients,
    pub loans: Loans,
    pub waits: Waits,
    pub parser: Parser,
    /// The memory of the large request that is being run.
    pub arrived: Option<Bytes>,
    /// Where replies go that nobody reads.
    pub scratch: Out,
    /// The command found last, with its name as a number.
    pub last_name: u64,
    pub last_command: Option<(usize, &'static Spec)>,
    pub gathers: Gathers,
    /// Why requests take the long way: see [`odd`].
    pub odd: u8,
    pub pause: Option<Pause>,
    /// Other nodes may write to some keys, and this one may not; and how often that has changed.
    pub is_scoped: bool,
    pub scopes_seen: u64,
    /// A failover holds writes back.
    pub is_frozen: bool,
    pub tracked: Tracked,
    pub monitors: Monitors,
    /// Lines for clients that monitor.
    pub lines: Vec<String>,
    /// For whom a command runs, while that matters to anybody.
    pub acting: Option<Acting>,
    /// REPLICAOF said on this core (0): whom to follow from the end of this turn.
    pub follow_request: Option<Option<(String, u16)>>,
    pub freeing: bool,
    /// Replies that wait for the disk, or for a majority.
    pub gate: Gate,
    /// Shards of ours that cores had on loan, and the offset up to which their frontier matters to those.
    pub watch: Vec<(usize, CoreId, u64)>,
    /// The same of what a majority acknowledges.
    pub watch_agreed: Vec<(usize, CoreId, u64)>,
    /// What was written and is for replicas: which of the core's shards, and the frames.
    pub written: Vec<(usize, Part)>,
    /// Which of the core's shards keep what they do for replicas.
    pub feeding: Vec<bool>,
    pub digests: Digests,
    /// Clients that wait for replicas.
    pub waiters: Vec<Waiter>,
    /// At the last beat this node was a replica.
    pub followed: bool,
    /// Why writes are refused in this turn.
    pub refuses: Option<Refuses>,
    /// The time when the turn began, of the clock that elections and failovers go by.
    pub boot_clock: Ms,
    /// Orders that this core has to carry out, too, and their numbers.
    pub ordered: Vec<(Order, u64)>,
    /// Core 0: orders that were given, whoever gave them.
    pub rounds: u64,
    /// Why what is here of a primary is not read in this turn.
    pub stale: Option<Stale>,
    /// A replica has said how far it is.
    pub acked: bool,
    /// The newest question of the one who keeps what is given up that this core has answered.
    pub rollbacks_told: u64,
    /// Replicas are to say how far they are.
    pub asks_acks: bool,
    /// Frames of a ringkeep were applied up to there, and their unit is open.
    pub open_frames: Option<Upstream>,
    /// Who waits for the end of SAVE: connection, slot and round.
    pub saving: Vec<(SocketId, u64, u64)>,
    /// More keys are due than one turn may remove.
    pub more_due: bool,
    pub memory: Memory,
    pub last_log: Ms,
    /// How far this core knows the node to be on its way to another process.
    pub stage: Stage,
    /// Who asks whether this core has come to an end, in which round.
    pub asked: Option<(CoreId, u64)>,
    /// Core 0: the last beats with the sums of commands, bytes in and bytes out.
    pub beats: VecDeque<(Ms, u64, u64, u64)>,
}

impl State {
    pub(super) fn new(
        mesh: Mesh<Message>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let (me, cores) = (mesh.me(), mesh.cores());
        let settings = &shared.settings;
        let users_version = shared.users_version.load(Acquire);
        let users = lock(&shared.users).clone();
        let start = Instant::now();
        let limits = script::Limits {
            alone: cores == 1,
            memory: super::scripts::MEMORY,
        };
        let stopping = shared.clone();
        let clock = Box::new(move || {
            let is_running = !stopping.is_stopping();
            is_running.then(|| start.elapsed().as_millis() as Ms)
        });
        let scripts = ScriptEngine::new(shared.scripts.clone(), limits, clock)?;
        Ok(Self {
            me,
            homes: Homes::new(me, settings, seed),
            subs: Subscriptions::new(cores),
            scripts,
            scripts_busy: false,
            published: Vec::new(),
            mesh,
            now: 0,
            beat: 0,
            // Cores are given seeds next to each other.
            rng: Rng::seeded(seed.rotate_left(32) ^ me as u64),
            stats: Stats::default(),
            table: Table::build(),
            census: shared.census[me].clone(),
            users_version,
            users,
            acl_work: Vec::new(),
            runs_queue: false,
            caller: None,
            tunables: Tunables::default(),
            output_least: 0,
            turn_nanos: 0,
            timed_nanos: 0,
            untimed: flag::FAST | flag::QUICK,
            samples: 0,
            tunables_version: 0,
            limits: ParseLimits::default(),
            dropped: Vec::new(),
            applied: Vec::new(),
            retired: Vec::new(),
            loaded: Vec::new(),
            clients: Clients::default(),
            loans: Loans::default(),
            waits: Waits::default(),
            parser: Parser::default(),
            arrived: None,
            scratch: Out::default(),
            last_name: 0,
            last_command: None,
            gathers: Gathers::default(),
            odd: 0,
            pause: None,
            is_scoped: shared.scopes.is_some(),
            scopes_seen: 0,
            is_frozen: false,
            tracked: Tracked::default(),
            monitors: Monitors::default(),
            lines: Vec::new(),
            acting: None,
            follow_request: None,
            freeing: false,
            gate: Gate::default(),
            watch: Vec::new(),
            watch_agreed: Vec::new(),
            written: Vec::new(),
            feeding: Vec::new(),
            digests: Digests::default(),
            waiters: Vec::new(),
            followed: false,
            refuses: None,
            boot_clock: 0,
            ordered: Vec::new(),
            rounds: 0,
            stale: None,
            acked: false,
            rollbacks_told: 0,
            asks_acks: false,
            open_frames: None,
            saving: Vec::new(),
            more_due: false,
            memory: Memory::default(),
            last_log: 0,
            stage: Stage::Serving,
            asked: None,
            beats: VecDeque::new(),
            shared,
        })
    }

    /// Sends a message to all other cores.
    pub(super) fn tell_all(&mut self, message: impl Fn() -> Message) {
        for core in (0..self.mesh.cores()).filter(|core| *core != self.me) {
            self.mesh.send(core, message());
        }
    }

    /// Must the core not sleep?
    pub(super) fn has_work(&self) -> bool {
        self.freeing
            || self.more_due
            || self.memory.has_work()
            || self.loans.load.is_some()
            || !self.retired.is_empty()
            || !self.clients.listed.is_empty()
            || !self.loans.ready.is_empty()
            || !self.clients.woken.is_empty()
            || !self.clients.rested.is_empty()
            || !self.clients.stalled.is_empty()
            || self.has_digest_work()
            || !self.acl_work.is_empty()
            || self.mesh.has_unsent()
    }

    /// Runs what became possible during the turn: complete collections, and requests of connections that
    /// had to wait. True if there was any.
    pub(super) fn go_on(&mut self) -> bool {
        if !self.mesh.is_congested() {
            for socket in std::mem::take(&mut self.clients.stalled) {
                if let Some(mut conn) = self.take_conn(socket) {
                    self.wake(&mut conn);
                    self.put_conn(conn);
                }
            }
        }
        let worked = !self.loans.ready.is_empty() || !self.clients.woken.is_empty();
        self.run_ready();
        // Those woken meanwhile have their turn in the next round of the loop.
        for _ in 0..self.clients.woken.len() {
            let Some(mut conn) = self
                .clients
                .woken
                .pop_front()
                .and_then(|socket| self.take_conn(socket))
            else {
                continue;
            };
            if conn.is_free() {
                match self.is_turn_full() {
                    true => self.end_its_turn(&mut conn),
                    false => self.resume(&mut conn),
                }
            }
            self.put_conn(conn);
        }
        self.run_ready();
        worked
    }

    /// Sees whether writes are to be refused because they cannot be written down, or not to enough places.
    pub(super) fn note_broken(&mut self) {
        let shared = &self.shared;
        // Who follows takes no writes of clients in any case.
        let is_open = |election: &Election| {
            shared.following.load(SeqCst) || self.boot_clock < election.writes_until.load(SeqCst)
        };
        self.refuses = if !shared.election.as_ref().is_none_or(is_open) {
            Some(Refuses::Fence)
        } else if shared.durable.broken.load(Relaxed) {
            Some(Refuses::Journal)
        } else if shared.lacks_replicas.load(Relaxed) {
            Some(Refuses::Replicas)
        } else {
            None
        };
        match self.refuses {
            Some(_) => self.odd |= odd::BROKEN,
            None => self.odd &= !odd::BROKEN,
        }
    }

    /// Sees whether what is here of a primary is too old to be read.
    pub(super) fn note_stale(&mut self) {
        let bound = self.tunables.staleness_max_ms;
        let shared = &self.shared;
        self.stale = if !shared.following.load(Relaxed) {
            None
        } else if !self.tunables.serves_stale && !shared.is_linked.load(Relaxed) {
            Some(Stale::Unlinked)
        } else if bound > 0 && self.now.saturating_sub(shared.fresh_at.load(Relaxed)) > bound {
            Some(Stale::Old)
        } else {
            None
        };
        match self.stale {
            Some(_) => self.odd |= odd::STALE,
            None => self.odd &= !odd::STALE,
        }
    }

    /// Why writes are refused in this turn.
    pub(super) fn refusal(&self) -> Error {
        let why = self.refuses.unwrap_or(Refuses::Journal);
        self.shared.refusal(why)
    }

    /// Lets go the replies that waited for the disk or a majority and need not any more.
    pub(super) fn let_go(&mut self) {
        if self.gate.is_idle() {
            return;
        }
        let (shared, homes) = (&self.shared, &self.homes);
        let is_replaced = shared.durable.replaced.load(SeqCst);
        let (waits, term) = (self.gate.waits_for_majority(), self.term());
        let released = self.gate.release(|shard, next, awaits| {
            let marks = &shared.durable.shards[shard];
            if let Some(of) = awaits.term.filter(|_| waits)
                && marks.agreed.load(SeqCst) < next
            {
                return match of == term {
                    true => Verdict::Missing,
                    false => Verdict::Lost,
                };
            }
            // A shard that took over the history of a primary may have lower numbers than before. What was
            // waited for is gone then, with the data that it was about.
            let is_lower = || match homes.shards.stream_next(shard) {
                Some(end) if homes.owner(shard) == self.me => end < next,
                _ => is_replaced > awaits.replaced && marks.next.load(SeqCst) < next,
            };
            match !awaits.disk || marks.passed.load(SeqCst) >= next || is_lower() {
                true => Verdict::There,
                false => Verdict::Missing,
            }
        });
        for socket in released.lost {
            self.leave_unanswered(socket);
        }
        for (to, message) in released.lost_messages {
            self.mesh.send(
                to,
                match message {
                    Message::Ran(Asker::Conn(socket, _), _) => Message::Unanswered(socket),
                    message => message,
                },
            );
        }
        for socket in released.conns {
            if let Some(mut conn) = self.take_conn(socket) {
                conn.let_go(released.number);
                self.list(&mut conn);
                self.put_conn(conn);
            }
        }
        for (to, message) in released.messages {
            self.mesh.send(to, message);
        }
    }

    /// Ends a connection whose replies would tell of what may not be on a later primary: its client has to
    /// see for itself.
    pub(super) fn leave_unanswered(&mut self, socket: SocketId) {
        if let Some(mut conn) = self.take_conn(socket) {
            if let Some(election) = &self.shared.election {
                election.unanswered.fetch_add(1, Relaxed);
            }
            self.drop_conn(&mut conn);
            self.put_conn(conn);
        }
    }

    /// This node as the primary of its members.
    fn term(&self) -> Term {
        let election = self.shared.election.as_ref();
        Term(election.map_or(0, |election| election.term.load(SeqCst)))
    }

    /// The end of a turn, before its replies leave: they wait for what is missing on the disk with
    /// `appendfsync always`, and on a majority of the members with `quorum-writes yes`.
    pub(super) fn close_gate(&mut self) {
        if self.gate.is_idle() {
            return;
        }
        let (term, shared, homes) = (self.term(), &self.shared, &mut self.homes);
        let own = homes.own().map(|shard| (shard, homes.stream_end(shard)));
        let replaced = shared.durable.replaced.load(SeqCst);
        let is_copy = shared.following.load(SeqCst) && !shared.durable.is_kept();
        let awaits = self.gate.awaits(term, is_copy, replaced);
        let frontier = |shard: usize| {
            let marks = &shared.durable.shards[shard];
            let reached = |waits: bool, mark: &AtomicU64| match waits {
                true => mark.load(SeqCst),
                false => u64::MAX,
            };
            let agreed = reached(awaits.term.is_some(), &marks.agreed);
            agreed.min(reached(awaits.disk, &marks.passed))
        };
        let free = self.gate.end_turn(own, frontier, awaits);
        for (to, message) in free {
            self.mesh.send(to, message);
        }
        if !self.gate.asks_majority() {
            self.watch_agreed.clear();
        }
    }

    /// A majority of the members has acknowledged more of a shard of this core.
    pub(super) fn on_agreed(&mut self, shard: usize) {
        let agreed = self.shared.durable.shards[shard].agreed.load(SeqCst);
        let (me, mesh) = (self.me, &mut self.mesh);
        self.watch_agreed.retain(|(of, core, offset)| {
            let is_there = *of == shard && *offset <= agreed;
            if is_there && *core != me {
                mesh.send(*core, Message::Frontier);
            }
            !is_there
        });
        self.let_go();
    }

    pub(super) fn run_ready(&mut self) {
        while let Some((id, collection)) = self.loans.ready.pop_front() {
            self.run_collected(id, collection);
        }
        self.charge_others();
    }
}
