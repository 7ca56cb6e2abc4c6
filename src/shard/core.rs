//! The loop of one core: reap, step, submit.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
    },
};

use uring::{End, Endpoint, Event, Nanos, Reactor, SocketId, Wait};

use super::{
    clients::Door,
    conn::Conn,
    durable::{Durable, Start},
    elect::{Election, Membership},
    failover::{self, Failing},
    fleet::Asking,
    follow::Follower,
    handoff::{self, Control, Estate, Stage},
    log::log,
    message::{CoreId, Message, Order},
    metrics::Scrapes,
    passing::Parting,
    requests::GROUP_LEN,
    safe_file,
    shared::{FollowView, Shared, lock},
    source::Source,
    state::State,
    tls::{self, Fault as TlsFault, Told, Tunnels, What},
};
use crate::{
    base::{Ms, Position},
    cmd::Upstream,
    journal::Stream,
    mesh::Mesh,
    script::EngineError,
    store::DueKeys,
};

/// Distance of the beats at which timeouts, expiry and counters are looked after.
const TICK: Nanos = 100_000_000;

const NANOS_PER_MS: Nanos = 1_000_000;

/// From this many events on it pays to fetch memory for the requests in them ahead.
const FETCH_EVENTS_MIN: usize = 4;

/// Marks of this core's timers.
const TICK_MARK: u64 = 1;

/// Messages of other cores that one turn handles.
const MESSAGES_PER_TURN: usize = 8192;

/// A node that stops writes down what it has; it does not wait longer for a disk.
const STOP_TIME: Nanos = 20_000_000_000;

/// Ends a slow reader that took nothing for this long.
const STALL_MS: Ms = 60_000;

/// One core: its ring and everything that lives on it.
pub struct Core<R: Reactor> {
    reactor: Tunnels<R>,
    /// What the ring told in this turn.
    events: Vec<Event>,
    state: State,
    /// The links to the primary that this node follows; on core 0 only.
    follower: Option<Follower>,
    /// This node's part in elections, and what it is to begin with; on core 0 only.
    election: Option<Box<Election>>,
    member: Option<(Membership, Vec<SocketId>)>,
    /// Who leads the other ranges, where other nodes have some of the slots; on core 0 only.
    asking: Option<Asking>,
    /// Failovers to and from this node; on core 0 only.
    failing: Option<Box<Failing>>,
    /// What all cores do for elections and failovers, who asked for it, and its number.
    ordered: Vec<(Order, CoreId, u64)>,
    /// The replicas that follow this core's shards.
    source: Source,
    /// Journals and snapshots, where there are any.
    durable: Option<Durable>,
    /// The data directory, and what was loaded of it so far.
    awaited: Option<(PathBuf, Vec<Start>)>,
    follow_later: Option<(String, u16)>,
    listeners: Vec<Listener>,
    /// All of them take clients in that may.
    accepts: bool,
    /// Where another process can take over; on core 0 only.
    control: Option<Box<Control>>,
    /// The port of metrics; on core 0, where there is one.
    scrapes: Option<Box<Scrapes>>,
    /// Clients leave for another process.
    parting: Option<Parting>,
    /// Clients that came from another process in this turn.
    arrived: usize,
    /// What came from other nodes while this one could not do anything with it.
    late: Vec<Late>,
    /// Messages of other cores that were handled.
    heard: u64,
    stopping: bool,
    /// Everything of this core is written down.
    is_finished: bool,
    stop_by: Nanos,
    /// When the core last woke up.
    woken: Nanos,
}

/// A client port.
struct Listener {
    /// Nothing while nobody is accepted.
    socket: Option<SocketId>,
    door: Door,
    /// Kept where another process may have it, too.
    kept: Option<OwnedFd>,
}

/// See [`Core::late`].
enum Late {
    Data(SocketId, Vec<u8>),
    End(SocketId),
}

impl<R: Reactor> Core<R> {
    /// A core with its ring, not yet listening.
    ///
    /// # Errors
    /// The Lua state could not be made.
    pub fn new(
        reactor: R,
        mesh: Mesh<Message>,
        shared: Arc<Shared>,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let me = mesh.me();
        let mut state = State::new(mesh, shared.clone(), seed)?;
        state.feeding = state.homes.own().map(|_| false).collect();
        Ok(Self {
            source: Source::new(state.homes.own()),
            reactor: Tunnels::new(reactor, &shared),
            events: Vec::with_capacity(1024),
            asking: Asking::new(&shared).filter(|_| me == 0),
            follower: (me == 0).then(|| Follower::new(shared)),
            durable: None,
            election: None,
            member: None,
            failing: None,
            ordered: Vec::new(),
            state,
            awaited: None,
            follow_later: None,
            listeners: Vec::new(),
            accepts: true,
            control: None,
            scrapes: None,
            parting: None,
            arrived: 0,
            late: Vec::new(),
            heard: 0,
            stopping: false,
            is_finished: false,
            stop_by: 0,
            woken: 0,
        })
    }

    /// Opens a client listener. The shard of a door lives here.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn listen(&mut self, at: &Endpoint, door: Door) -> std::io::Result<()> {
        self.listeners.push(Listener {
            socket: Some(self.reactor.listen(at, 1024)?),
            door,
            kept: None,
        });
        Ok(())
    }

    /// Serves clients at a listener that another process has, too, or may get. Who connects while the data is
    /// loaded waits.
    pub fn adopt(&mut self, listener: OwnedFd, door: Door) {
        self.listeners.push(Listener {
            socket: None,
            door,
            kept: Some(listener),
        });
        self.accepts = false;
    }

    /// Lets another process take over, through this path, as soon as everything is loaded (core 0 only).
    ///
    /// # Errors
    /// There can be no socket of that name.
    pub fn hand_over(&mut self, path: PathBuf, estate: Box<dyn Estate>) -> std::io::Result<()> {
        self.control = Some(Box::new(Control::new(path, estate)?));
        Ok(())
    }

    /// Opens the replication port of one of this core's shards, by its number among them.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn serve_replicas(&mut self, at: &Endpoint, own: usize) -> std::io::Result<()> {
        let listener = self.reactor.listen(at, 64)?;
        self.reactor.guard(listener);
        self.source.listens(listener, own);
        Ok(())
    }

    /// Opens a port for metrics (core 0 only).
    ///
    /// # Errors
    /// What the operating system said.
    pub fn tell_metrics(&mut self, at: &Endpoint) -> std::io::Result<()> {
        let listener = self.reactor.listen(at, 64)?;
        self.scrapes.get_or_insert_default().listens(listener);
        Ok(())
    }

    /// Takes part in elections as soon as everything is loaded (core 0 only). Until then, and until it is
    /// elected, the node follows.
    ///
    /// # Errors
    /// A port could not be opened.
    pub fn take_part(&mut self, membership: Membership, at: &[Endpoint]) -> std::io::Result<()> {
        let listeners = at.iter().map(|at| {
            let listener = self.reactor.listen(at, 64)?;
            self.reactor.guard(listener);
            Ok(listener)
        });
        let listeners = listeners.collect::<std::io::Result<_>>()?;
        if let Some(election) = &self.state.shared.election {
            let others = membership.settings.peers.len() / 2;
            election.others_needed.store(others, Relaxed);
            // What is read of parameters depends on that.
            let version = &self.state.shared.tunables_version;
            version.fetch_add(1, Relaxed);
        }
        self.member = Some((membership, listeners));
        self.state.shared.following.store(true, Relaxed);
        self.state.shared.primary_expires.store(true, Relaxed);
        *lock(&self.state.shared.follow) = Some(FollowView::default());
        Ok(())
    }

    /// Begins to take part.
    fn join(&mut self) -> std::io::Result<()> {
        let Some((membership, listeners)) = self.member.take() else {
            return Ok(());
        };
        let shared = self.state.shared.clone();
        let ends = lock(&shared.found).clone();
        // The newest history of each shard is the last.
        let newest = |shard: usize| ends.iter().rev().find(|(of, _)| *of == shard);
        let own = (0..shared.settings.shards).filter_map(|shard| Some(newest(shard)?.1));
        let own = own.collect();
        let copies = lock(&shared.upstreams).clone().into_iter();
        let copies = copies.map(|(_, of)| {
            let (generation, offset) = (of.generation, of.offset);
            let at = Position { generation, offset };
            (of.stream as usize, at)
        });
        let found: Vec<_> = ends.iter().copied().chain(copies).collect();
        let election = Election::new(&membership, &found, own, shared, &mut self.reactor)?;
        let mut election = election.map_err(std::io::Error::other)?;
        for listener in listeners {
            election.listens(listener);
        }
        self.election = Some(Box::new(election));
        Ok(())
    }

    /// Hands its part over when it is told to, and takes one over (core 0 only). What a failover has said
    /// before holds.
    ///
    /// # Errors
    /// The data directory could not be opened.
    pub fn serve_failovers(&mut self, dir: Option<&Path>) -> std::io::Result<()> {
        self.failing = Some(Box::new(Failing::new(dir, &mut self.reactor)?));
        let stands = lock(&self.state.shared.failovers.desk).stands();
        if let (None, Some(follower)) = (stands, &mut self.follower) {
            follower.stand_by(&mut self.state);
        }
        Ok(())
    }

    /// Follows a primary from the first turn on, or once everything is loaded (core 0 only).
    pub fn follow(&mut self, host: String, port: u16) {
        if self.awaited.is_some() {
            // What is loaded may be the primary's: nobody writes to it, and no key goes by our clock, before
            // the primary has been asked.
            self.state.shared.following.store(true, Relaxed);
            self.state.shared.primary_expires.store(true, Relaxed);
            *lock(&self.state.shared.follow) = Some(FollowView {
                host: host.clone(),
                port,
                ..FollowView::default()
            });
            self.follow_later = Some((host, port));
        } else if let Some(follower) = &mut self.follower {
            follower.go_on_following(&mut self.state, Some((host, port)));
        }
    }

    /// Keeps what is written in this directory. What it holds is loaded elsewhere and awaited here; until
    /// then the node is loading.
    pub fn keep(&mut self, dir: PathBuf) {
        self.awaited = Some((dir, Vec::new()));
    }

    /// Takes over shards that were loaded; with the last one of this core its journals begin.
    fn take_loaded(&mut self) {
        let Some((_, starts)) = &mut self.awaited else {
            return;
        };
        let shared = self.state.shared.clone();
        let shards = self.state.homes.shards.count();
        for shard in self.state.homes.own() {
            let Some(mut loaded) = shared.durable.loading.take(shard) else {
                continue;
            };
            if shared.settings.journals {
                let (at, parent) = (loaded.start.at, loaded.start.parent);
                let is_adopted = loaded.start.is_adopted;
                let mut stream = match is_adopted || at.generation == parent.generation {
                    true => Stream::resume(shard as u32, at),
                    false => Stream::new(shard as u32, at),
                };
                if is_adopted {
                    let own = at.renewed(self.state.now).generation;
                    stream.adopt(at.generation, own, None);
                }
                stream.descend_from(loaded.start.ancestry.clone());
                let is_old = is_adopted || (at.generation == parent.generation && at.offset > 0);
                if is_old && loaded.shard.upstreams().is_empty() {
                    // The primary may have this history, too.
                    lock(&shared.upstreams).push((shard, Upstream::own(shard, shards, at)));
                }
                loaded.shard.stream = Some(Box::new(stream));
            }
            if shared.primary_expires.load(Relaxed) {
                loaded.shard.set_due_keys(DueKeys::Hidden);
            }
            let sources = loaded.shard.take_libraries();
            if !sources.is_empty() {
                self.state.replace_libraries(&sources);
            }
            let histories = loaded.start.histories.iter().map(|end| (shard, *end));
            lock(&shared.found).extend(histories);
            let upstreams = loaded.shard.upstreams().iter();
            lock(&shared.upstreams).extend(upstreams.map(|upstream| (shard, *upstream)));
            self.state.homes.replace(shard, loaded.shard);
            starts.push(loaded.start);
        }
        if starts.len() < self.state.homes.own().count() {
            return;
        }
        let Some((dir, starts)) = self.awaited.take() else {
            return;
        };
        let own = starts.len();
        match Durable::new(&dir, starts, &mut self.state, &mut self.reactor) {
            Ok(durable) => self.durable = Some(durable),
            Err(error) => {
                log(&format!("cannot open the data directory: {error}"));
                std::process::exit(1);
            }
        }
        if shared.durable.loading.shards.fetch_sub(own, SeqCst) == own {
            shared.loading.store(false, SeqCst);
            // They may have waited for that.
            handoff::tell_cores(&mut self.state);
        }
    }

    /// Serves until the node stops.
    ///
    /// # Errors
    /// The ring became unusable.
    pub fn run(mut self) -> std::io::Result<()> {
        self.begin();
        let spin = self.state.shared.settings.spin_us * 1000;
        let mut now = self.reactor.now();
        let (mut useful, mut idle) = (now, false);
        while !self.is_done() {
            let wait = if self.has_work() {
                Wait::Look
            } else if idle && now.saturating_sub(useful) >= spin && self.state.mesh.park() {
                Wait::Event
            } else {
                Wait::Look
            };
            let (looked, commands) = (now, self.state.stats.commands);
            let worked = self.turn(wait)?;
            now = self.reactor.now();
            if worked {
                useful = now;
                let began = if wait == Wait::Event {
                    self.woken
                } else {
                    looked
                };
                self.measure(now.saturating_sub(began), commands);
            }
            idle = !worked;
        }
        Ok(())
    }

    /// Notes a turn that had work: its time, and its requests by how many there were before.
    fn measure(&self, span: Nanos, commands: u64) {
        let meters = &self.state.shared.meters[self.state.me];
        meters.turns.note(span);
        let requests = self.state.stats.commands - commands;
        if requests > 0 {
            meters.requests.note(requests);
        }
    }

    /// Sets the first beat. Once, before the first turn.
    pub fn begin(&mut self) {
        let now = self.reactor.now();
        self.state.beat = now / NANOS_PER_MS;
        self.reactor.set_timer(now + TICK, TICK_MARK);
    }

    /// Is there work that no event will tell of?
    fn has_work(&self) -> bool {
        self.stopping
            || self.state.has_work()
            || self.state.asked.is_some()
            || self.follower.as_ref().is_some_and(Follower::has_work)
            || !self.ordered.is_empty()
            || self
                .failing
                .as_ref()
                .is_some_and(|failing| failing.has_work(&self.state.shared))
            || self
                .election
                .as_ref()
                .is_some_and(|election| election.has_work())
            || self.durable.as_ref().is_some_and(Durable::has_work)
            || self.source.has_work()
            || self.reactor.has_told()
    }

    /// One turn: waits for events as told (before [`Wait::Event`] the mailboxes must have been parked),
    /// handles
    /// them, and hands to the ring what comes of it. True if there was work.
    ///
    /// # Errors
    /// The ring became unusable.
    pub fn turn(&mut self, wait: Wait) -> std::io::Result<bool> {
        let turned = self.reactor.turn(wait, &mut self.events);
        if wait == Wait::Event {
            self.state.mesh.unpark();
            self.woken = self.reactor.now();
        }
        turned?;
        if !self.events.is_empty() {
            let meters = &self.state.shared.meters[self.state.me];
            meters.completions.note(self.events.len() as u64);
        }
        let mut worked = self.begin_turn();
        worked |= self.state.go_on_rested();
        let mut events = std::mem::take(&mut self.events);
        let mut reaped = events.drain(..);
        while !reaped.as_slice().is_empty() {
            self.fetch_ahead(reaped.as_slice());
            for event in reaped.by_ref().take(GROUP_LEN) {
                worked |= self.on_event(event);
            }
        }
        drop(reaped);
        self.events = events;
        worked |= self.hear_tunnels();
        worked |= self.end_turn();
        Ok(worked)
    }

    /// Is there nothing left to do for this core? A node that stops writes down what it has, and other cores
    /// may need our shards for that.
    pub fn is_done(&mut self) -> bool {
        if !self.stopping {
            return false;
        }
        let shared = self.state.shared.clone();
        let mine = self.durable.as_mut().is_none_or(|durable| {
            !durable.owes_beginning(&shared)
                && durable.is_finished(&mut self.state, &mut self.reactor)
        });
        let mine = mine
            && self
                .election
                .as_ref()
                .is_none_or(|election| election.is_ended());
        // Other cores that do not stop yet may still send us something to do.
        if mine != self.is_finished {
            self.is_finished = mine;
            match mine {
                true => shared.finished.fetch_add(1, SeqCst),
                false => shared.finished.fetch_sub(1, SeqCst),
            };
        }
        let all = shared.finished.load(SeqCst) == shared.settings.cores;
        all || self.reactor.now() > self.stop_by
    }

    /// Reads the clock and the mailboxes; true if a message was there.
    fn begin_turn(&mut self) -> bool {
        self.state.now = self.reactor.wall_clock_ms();
        self.state.stats.turns += 1;
        self.state.turn_nanos = 0;
        self.state.begin_memory();
        self.state.heed_users(None);
        self.state.answer_acl_work();
        self.state.scripts_busy = self.state.shared.scripts.running().is_busy();
        self.state.boot_clock = self.reactor.boot_clock_ms();
        self.state.note_broken();
        self.state.note_stale();
        let (mut worked, mut is_further) = (false, false);
        let stage_before = self.state.shared.handover.stage();
        // What comes in while this runs may be more than is ever done: clients get their turn too.
        let there = self.state.mesh.waiting();
        for count in 0..MESSAGES_PER_TURN {
            if count >= there && self.state.have_others_had_theirs() {
                worked = true;
                break;
            }
            let Some((from, message)) = self.state.mesh.receive() else {
                break;
            };
            worked = true;
            match message {
                Message::Follow(target) => {
                    if let Some(follower) = &mut self.follower {
                        follower.follow(&mut self.state, target);
                    }
                }
                Message::Order(order, round) => {
                    self.heed(order);
                    self.ordered.push((order, from, round));
                }
                // What is to be done is looked at in every turn in which something happened.
                Message::Failover => {}
                Message::Settled(round) => {
                    if let Some(failing) = &mut self.failing {
                        failing.on_settled(round, &self.state.shared);
                    }
                    if let Some(election) = &mut self.election {
                        election.on_settled(round);
                    }
                }
                Message::Frontier => is_further = true,
                Message::Hush(round) => self.state.asked = Some((from, round)),
                Message::Hushed(round, calm, work) => {
                    if let Some(control) = &mut self.control {
                        control.on_calm(from, round, calm, work);
                    }
                }
                message => {
                    self.heard += 1;
                    self.state.on_message(from, message);
                }
            }
        }
        self.state.charge_others();
        worked |= self.heed_stage(stage_before);
        self.arrived += self.state.take_arrivals(&mut self.reactor);
        if is_further && let Some(durable) = &mut self.durable {
            durable.advance(&mut self.state);
        }
        worked
    }

    /// Goes along with a handoff: stops taking anything in, or takes up what waited. `before` is how far it
    /// was when this turn began; true if there is more to do in the next turn.
    fn heed_stage(&mut self, before: Stage) -> bool {
        let mut stage = self.state.shared.handover.stage();
        let is_going = self.state.stage == Stage::Arriving && stage == Stage::Serving;
        if is_going && before != stage {
            // What other cores say of the clients that have come to them is heard before anybody is served.
            stage = Stage::Arriving;
        }
        let was = std::mem::replace(&mut self.state.stage, stage);
        match (was, stage) {
            (was, stage) if was == stage => {}
            (Stage::Serving, _) => {
                self.state.hush();
                for listener in &self.listeners {
                    if let (Some(_), Some(socket)) = (&listener.kept, listener.socket) {
                        self.reactor.close(socket);
                    }
                }
                if let Some(durable) = &mut self.durable {
                    durable.hush(&mut self.state, &mut self.reactor);
                }
            }
            (_, Stage::Serving) => self.serve_on(),
            (_, Stage::Over) => {
                if let Some(election) = self.election.take() {
                    election.leave(&mut self.reactor);
                }
                if let Some(scrapes) = &mut self.scrapes {
                    scrapes.leave(&mut self.reactor);
                }
                self.parting = Parting::begin(&mut self.state, &mut self.reactor);
            }
            _ => {}
        }
        is_going && stage == Stage::Arriving
    }

    /// Takes clients in.
    fn accept_all(&mut self) {
        self.accepts = true;
        for listener in &mut self.listeners {
            let Some(kept) = &listener.kept else { continue };
            let adopted = kept.try_clone().and_then(|kept| self.reactor.adopt(kept));
            match adopted {
                Ok(socket) => listener.socket = Some(socket),
                Err(error) => {
                    // A node that nobody reaches is worse than none.
                    log(&format!("cannot accept connections: {error}"));
                    std::process::exit(70);
                }
            }
        }
    }

    /// Serves again after a handoff that came to nothing.
    fn serve_on(&mut self) {
        // Who connects while the data is loaded waits.
        if !self.state.shared.loading.load(Relaxed) {
            self.accept_all();
        }
        for late in std::mem::take(&mut self.late) {
            match late {
                Late::Data(socket, bytes) => {
                    self.on_text(socket, &bytes);
                    self.reactor.start_receiving(socket);
                }
                Late::End(socket) => self.on_node_end(socket),
            }
        }
        self.state.go_on_paused();
    }

    /// Has this core come to an end, as far as the node wants that?
    fn is_calm(&mut self) -> bool {
        // A failover comes to its end first.
        let is_failing = lock(&self.state.shared.failovers.desk).is_under_way();
        if self.state.stage < Stage::Sealing {
            return !is_failing && self.state.has_drained();
        }
        let is_noting = self
            .failing
            .as_ref()
            .is_some_and(|failing| failing.is_writing());
        if is_failing || is_noting {
            return false;
        }
        if !self
            .election
            .as_ref()
            .is_none_or(|election| election.rests())
        {
            return false;
        }
        if let Some(election) = &self.election {
            let leads = &self.state.shared.handover.leads;
            leads.store(election.leads_on(), SeqCst);
        }
        let Some(durable) = &mut self.durable else {
            return false;
        };
        let is_finished = durable.is_finished(&mut self.state, &mut self.reactor);
        if is_finished {
            durable.trim();
            let ends = durable.ends(&mut self.state);
            lock(&self.state.shared.handover.ends).extend(ends);
        }
        is_finished
    }

    /// Answers whether this core has come to an end, and goes on with the handoff.
    fn go_on_handing_over(&mut self) -> bool {
        if let Some((from, round)) = self.state.asked.take() {
            let (calm, work) = (self.is_calm(), self.heard);
            match &mut self.control {
                Some(control) if from == self.state.me => control.on_calm(from, round, calm, work),
                _ => self
                    .state
                    .mesh
                    .send(from, Message::Hushed(round, calm, work)),
            }
        }
        let is_arriving = self.state.stage == Stage::Arriving;
        if !self.accepts && !is_arriving && !self.state.shared.loading.load(Relaxed) {
            self.accept_all();
        }
        let Some(control) = &mut self.control else {
            return false;
        };
        if self.awaited.is_none()
            && !self.state.shared.loading.load(Relaxed)
            && let Err(error) = control.open(&mut self.reactor)
        {
            log(&format!("cannot listen for handoffs: {error}"));
            std::process::exit(1);
        }
        control.step(&mut self.state, &mut self.reactor)
    }

    /// Begins what every core has to do before an election goes on.
    fn heed(&mut self, order: Order) {
        // The gate may have been shut after this turn began.
        self.state.note_broken();
        match order {
            Order::Resign => self.source.leave_all(&mut self.state),
            Order::Freeze => self.state.freeze(),
            Order::Thaw => self.state.thaw(),
            Order::Settle | Order::Lead => {}
        }
    }

    /// Ends it, and says so; not before all shards are here that it is about.
    fn end_order(&mut self) {
        for (order, from, round) in std::mem::take(&mut self.ordered) {
            let is_done = match order {
                Order::Lead => self.state.begin_histories(),
                Order::Freeze => self.state.is_frozen_hard(),
                Order::Thaw | Order::Settle | Order::Resign => true,
            };
            if !is_done {
                self.ordered.push((order, from, round));
            } else if from != self.state.me {
                self.state.mesh.send(from, Message::Settled(round));
            } else {
                if let Some(election) = &mut self.election {
                    election.on_settled(round);
                }
                if let Some(failing) = &mut self.failing {
                    failing.on_settled(round, &self.state.shared);
                }
            }
        }
    }

    /// Has the processor fetch what the requests in the next events will need.
    fn fetch_ahead(&mut self, events: &[Event]) {
        let next = &events[..events.len().min(GROUP_LEN)];
        if next.len() >= FETCH_EVENTS_MIN {
            let received = next.iter().filter_map(|event| match event {
                Event::Received { socket, lease } => Some((*socket, self.reactor.received(lease))),
                _ => None,
            });
            self.state.fetch_ahead_of(received);
        }
    }

    /// Handles one event; true if it was work (timers and wake-ups are not).
    fn on_event(&mut self, event: Event) -> bool {
        if !self.reactor.has_tunnels() {
            return self.handle(event);
        }
        match self.reactor.take(event) {
            Some(event) => self.handle(event),
            None => self.hear_tunnels(),
        }
    }

    /// Handles what comes of connections with other nodes in TLS; true if there was anything.
    fn hear_tunnels(&mut self) -> bool {
        let mut worked = false;
        while let Some(Told { socket, what }) = self.reactor.next_told() {
            worked = true;
            match what {
                What::Event(event) => {
                    self.handle(event);
                }
                What::Text(_) if self.stopping => {}
                What::Text(text) => {
                    self.state.stats.bytes_in += text.len() as u64;
                    self.on_text(socket, &text);
                }
                What::Fault(fault) => self.on_tls_fault(socket, fault),
            }
        }
        worked
    }

    /// A node that was dialed is none that TLS can be spoken with.
    fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault) {
        if let Some(election) = &mut self.election
            && election.on_tls_fault(socket, fault, self.state.boot_clock)
        {
        } else if let Some(failing) = &mut self.failing
            && failing.on_tls_fault(socket, fault, &self.state.shared)
        {
        } else if let Some(follower) = &mut self.follower {
            follower.on_tls_fault(socket, fault, self.state.now);
        }
    }

    /// Who hears other nodes, with what, and from where.
    fn parts(&mut self) -> (Ears<'_>, &mut State, &mut Tunnels<R>) {
        let ears = Ears {
            asking: &mut self.asking,
            source: &mut self.source,
            election: &mut self.election,
            failing: &mut self.failing,
            follower: &mut self.follower,
            late: &self.late,
        };
        (ears, &mut self.state, &mut self.reactor)
    }

    /// What another node has said.
    fn on_text(&mut self, socket: SocketId, text: &[u8]) {
        let (ears, state, _) = self.parts();
        if !ears.hear(state, socket, text) {
            self.late.push(Late::Data(socket, text.to_vec()));
            self.reactor.stop_receiving(socket);
        }
    }

    /// The same of one that is about no connection in TLS with another node.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Received { lease, .. } if self.stopping => self.reactor.give_back(lease),
            Event::Received { socket, lease } => {
                self.state.stats.bytes_in += lease.len() as u64;
                let bytes = self.reactor.received(&lease);
                if let Some(mut conn) = self.state.take_conn(socket) {
                    match &conn.tls {
                        None => self.state.on_data(&mut conn, bytes),
                        Some(_) => self.state.on_ciphertext(&mut conn, bytes),
                    }
                    self.state.put_conn(conn);
                } else if let Some(control) = &mut self.control
                    && control.on_data(socket, bytes)
                {
                } else if let Some(scrapes) = &mut self.scrapes
                    && scrapes.on_data(socket, bytes)
                {
                } else {
                    let (ears, state, reactor) = self.parts();
                    let bytes = reactor.received(&lease);
                    if !ears.hear(state, socket, bytes) {
                        let bytes = bytes.to_vec();
                        self.late.push(Late::Data(socket, bytes));
                        self.reactor.stop_receiving(socket);
                    }
                }
                self.reactor.give_back(lease);
            }
            Event::Sent {
                socket,
                outgoing,
                result,
            } => {
                if let Some(mut conn) = self.state.take_conn(socket) {
                    conn.sending = false;
                    conn.sending_len = 0;
                    conn.progress = self.state.beat;
                    conn.reuse(outgoing);
                    match result {
                        Ok(()) => {
                            if conn.leaving.is_none() {
                                self.state.relieve(&mut conn);
                            }
                            self.state.list(&mut conn);
                        }
                        Err(_) => self.lose(&mut conn),
                    }
                    self.state.put_conn(conn);
                } else if let Some(control) = &mut self.control
                    && control.on_sent(socket)
                {
                } else if let Some(scrapes) = &mut self.scrapes
                    && let sent = (result.is_ok(), self.state.beat)
                    && scrapes.on_sent(socket, sent, &mut self.reactor)
                {
                } else if let Some(asking) = &mut self.asking
                    && asking.on_sent(socket, result.is_ok(), self.state.boot_clock)
                {
                } else if self.source.on_sent(socket, result.is_ok(), self.state.now) {
                } else if let Some(election) = &mut self.election
                    && election.on_sent(socket, result.is_ok(), self.state.boot_clock)
                {
                } else if let Some(failing) = &mut self.failing
                    && failing.on_sent(socket, result.is_ok(), &self.state.shared)
                {
                } else if let Some(follower) = &mut self.follower {
                    follower.on_sent(socket);
                }
            }
            Event::HandedOut { socket, fd } => {
                if let Some(parting) = &mut self.parting {
                    parting.on_handed_out(&mut self.state, socket, fd);
                } else if let Some(control) = &mut self.control {
                    control.on_handed_out(fd, &mut self.state);
                }
            }
            Event::Released { socket, usage } => {
                self.source.on_released(socket, usage, &self.state.shared);
            }
            Event::Accepted {
                listener,
                socket,
                peer,
            } => {
                if let Some(election) = &mut self.election
                    && election.accept((listener, socket), peer, &mut self.reactor)
                {
                    return true;
                }
                if let Some((_, early)) = &self.member
                    && early.contains(&listener)
                {
                    self.reactor.close(socket);
                    return true;
                }
                let now = self.state.now;
                let source = &mut self.source;
                let ring = self.state.shared.node_key.as_ref();
                if source.accept(listener, socket, peer, (ring, now), &mut self.reactor) {
                    return true;
                }
                if let Some(control) = &mut self.control
                    && control.accept(listener, socket, &mut self.reactor)
                {
                    return true;
                }
                if let Some(scrapes) = &mut self.scrapes
                    && scrapes.accept((listener, socket), self.state.beat, &mut self.reactor)
                {
                    return true;
                }
                let mut listeners = self.listeners.iter();
                let door = listeners
                    .find(|other| other.socket == Some(listener))
                    .map_or(Door::Plain, |other| other.door);
                let local = self.reactor.local_addr(socket);
                if self.state.accept(socket, peer, local, door) {
                    self.reactor.start_receiving(socket);
                }
            }
            Event::AcceptFailed { errno, .. } => self.state.on_accept_failed(errno),
            Event::ReceiveEnded { socket, end } => {
                if let Some(mut conn) = self.state.take_conn(socket) {
                    conn.receiving = false;
                    self.state.on_end(&mut conn, end == End::Eof);
                    self.state.put_conn(conn);
                } else if let Some(control) = &mut self.control
                    && control.on_end(socket, &mut self.reactor)
                {
                } else if let Some(scrapes) = &mut self.scrapes
                    && scrapes.on_end(socket)
                {
                } else if let Some(asking) = &mut self.asking
                    && asking.on_end(socket, self.state.boot_clock)
                {
                } else if self.state.stage < Stage::Sealing
                    && let Some(election) = &mut self.election
                    && election.on_end(socket, self.state.boot_clock)
                {
                } else if self.state.is_hushed() {
                    self.late.push(Late::End(socket));
                } else {
                    self.on_node_end(socket);
                }
            }
            Event::Connected { socket, result } => {
                if let Some(asking) = &mut self.asking
                    && asking.on_connected(socket, result.is_ok(), self.state.boot_clock)
                {
                    if result.is_ok() {
                        self.reactor.start_receiving(socket);
                    }
                } else if let Some(election) = &mut self.election
                    && election.on_connected(socket, result.is_ok(), self.state.boot_clock)
                {
                    if result.is_ok() {
                        self.reactor.start_receiving(socket);
                    }
                } else if let Some(failing) = &mut self.failing
                    && failing.on_connected(socket, result.is_ok(), &self.state.shared)
                {
                    if result.is_ok() {
                        self.reactor.start_receiving(socket);
                    }
                } else if let Some(follower) = &mut self.follower {
                    follower.on_connected(&mut self.state, socket, result.is_ok());
                    if result.is_ok() {
                        self.reactor.start_receiving(socket);
                    }
                }
            }
            Event::Timer { mark, .. } if mark == failover::MARK => {
                if let Some(failing) = &mut self.failing {
                    failing.on_timer(&self.state.shared);
                }
                return false;
            }
            Event::Timer { mark, .. } if mark == safe_file::MARK => {
                if let Some(election) = &mut self.election {
                    election.on_timer();
                }
                return false;
            }
            Event::Timer { mark, .. } if mark == handoff::MARK => {
                if let Some(control) = &mut self.control {
                    control.on_timer(&self.state, self.reactor.now());
                }
                return false;
            }
            Event::Timer { .. } => {
                self.reactor.set_timer(self.reactor.now() + TICK, TICK_MARK);
                self.tick();
                return false;
            }
            Event::Written {
                mark,
                block,
                result,
                ..
            } => {
                if mark & safe_file::MARK != 0 {
                    self.on_noted(mark, result.is_ok());
                } else if let Some(durable) = &mut self.durable {
                    durable.on_written(&mut self.state, (mark, block), result, &mut self.reactor);
                }
            }
            Event::Synced { mark, result, .. } | Event::Done { mark, result } => {
                if mark & safe_file::MARK != 0 {
                    self.on_noted(mark, result.is_ok());
                } else if let Some(durable) = &mut self.durable {
                    durable.on_done(&mut self.state, mark, result, &mut self.reactor);
                }
            }
            Event::Woken | Event::Closed { .. } => return false,
        }
        true
    }

    /// The end of a connection with another node.
    fn on_node_end(&mut self, socket: SocketId) {
        if self.source.on_end(socket) {
        } else if let Some(election) = &mut self.election
            && election.on_end(socket, self.state.boot_clock)
        {
        } else if let Some(failing) = &mut self.failing
            && failing.on_end(socket, &self.state.shared)
        {
        } else if let Some(follower) = &mut self.follower {
            follower.on_closed(&mut self.state, socket);
        }
    }

    /// A request to the ring for one of the small files is over.
    fn on_noted(&mut self, mark: u64, is_good: bool) {
        if mark & failover::MARK == failover::MARK {
            if let Some(failing) = &mut self.failing {
                failing.on_done(mark, is_good, &self.state.shared, &mut self.reactor);
            }
        } else if let Some(election) = &mut self.election {
            election.on_done(mark, is_good, &mut self.reactor);
        }
    }

    /// Hands everything that the turn produced to the ring; true if there was anything.
    fn end_turn(&mut self) -> bool {
        self.end_order();
        let mut worked = self.govern();
        if let Some(follower) = &mut self.follower
            && !self.state.is_hushed()
        {
            worked |= follower.step(&mut self.state, &mut self.reactor);
            follower.tell_waiters(&mut self.state);
        }
        worked |= self.state.go_on();
        worked |= self.state.background();
        if self.state.feeding.contains(&true) || self.state.shared.following.load(Relaxed) {
            // Before anybody hears of it: who then asks with WAIT, or says what is durable, means this, too.
            self.state.publish_ends();
        }
        worked |= self.state.answer_rollbacks();
        // Replies to other cores leave before the client sends: whoever sees a reply may rely on what
        // it announced having been posted.
        self.state.mesh.post();
        if self.awaited.is_some() {
            self.take_loaded();
        }
        if self.member.is_some()
            && self.awaited.is_none()
            && !self.state.shared.loading.load(Relaxed)
            && let Err(error) = self.join()
        {
            log(&format!("cannot take part in elections: {error}"));
            std::process::exit(1);
        }
        if let Some(durable) = &mut self.durable
            && self.state.stage < Stage::Sealed
        {
            worked |= durable.step(&mut self.state, &mut self.reactor);
        }
        worked |= self.go_on_handing_over();
        if std::mem::take(&mut self.state.asks_acks) {
            self.source.ask_acks();
        }
        if self.state.stage < Stage::Sealing {
            worked |= self.source.step(&mut self.state, &mut self.reactor);
        }
        if std::mem::take(&mut self.state.acked) {
            self.state.look_after_waiters();
        }
        self.state.close_gate();
        while let Some(index) = self.state.next_listed() {
            let Some(mut conn) = self.state.take_conn_at(index) else {
                continue;
            };
            worked = true;
            conn.listed = false;
            if !self.state.gate.is_idle()
                && !conn.is_blind()
                && let Some(number) = self.state.gate.hold(conn.socket, conn.has_held())
            {
                conn.hold_back(number);
            }
            self.push_out(&mut conn);
            self.state.put_conn(conn);
        }
        if self.state.gate.has_asked_majority() {
            // This node may be the primary no more, since this turn.
            self.state.let_go();
        }
        while let Some(socket) = self.state.dropped.pop() {
            self.reactor.close(socket);
        }
        if let Some(scrapes) = &mut self.scrapes {
            scrapes.step(&self.state, &mut self.reactor);
        }
        if let Some(parting) = &mut self.parting {
            parting.step(&mut self.state, &mut self.reactor);
        }
        self.state.mesh.post();
        if self.arrived > 0 && !self.state.mesh.has_unsent() {
            // All cores have been told what these clients listen to.
            let count = std::mem::take(&mut self.arrived);
            if self.state.shared.handover.settle(count) {
                handoff::tell_cores(&mut self.state);
                self.state.mesh.post();
            }
            worked = true;
        }
        worked
    }

    /// Goes on with elections and failovers as far as that is possible now.
    fn govern(&mut self) -> bool {
        let mut worked = false;
        if self.state.stage >= Stage::Sealing {
            return false;
        }
        while let Some(follower) = &mut self.follower {
            if let Some(election) = &mut self.election {
                worked |= election.step(&mut self.state, follower, &mut self.reactor);
            }
            if let Some(failing) = &mut self.failing {
                let election = self.election.as_deref_mut();
                worked |= failing.step(&mut self.state, follower, election, &mut self.reactor);
            }
            let orders = std::mem::take(&mut self.state.ordered);
            if orders.is_empty() {
                break;
            }
            for (order, round) in orders {
                self.heed(order);
                self.ordered.push((order, self.state.me, round));
            }
            self.end_order();
        }
        worked
    }

    /// Sends what a connection is owed, and adjusts what is received from it.
    fn push_out(&mut self, conn: &mut Conn) {
        if !conn.sending {
            let next = match &conn.tls {
                None => Ok(conn.next_outgoing()),
                Some(_) => tls::next_outgoing(conn),
            };
            let Ok(next) = next else {
                return self.lose(conn);
            };
            match next {
                Some(outgoing) => {
                    if conn.owed() == 0 {
                        conn.progress = self.state.beat;
                    }
                    conn.sending_len = outgoing_len(&outgoing);
                    self.state.stats.bytes_out += conn.sending_len as u64;
                    conn.sending = self.reactor.send(conn.socket, outgoing).is_ok();
                    if !conn.sending {
                        self.lose(conn);
                    }
                }
                None if conn.leaving.is_some() => self.reactor.hand_out(conn.socket),
                None if conn.is_over() => self.state.drop_conn(conn),
                None => {}
            }
        }
        if conn.leaving.is_some() || self.state.cut_if_owed_too_much(conn) {
            return;
        }
        let wants = conn.wants_input();
        if wants != conn.receiving && !conn.ended {
            conn.receiving = wants;
            if wants {
                self.reactor.start_receiving(conn.socket);
            } else {
                self.reactor.stop_receiving(conn.socket);
            }
        }
    }

    /// Ends a connection that takes nothing any more.
    fn lose(&mut self, conn: &mut Conn) {
        if let (Some(parting), Some(_)) = (&mut self.parting, conn.leaving) {
            parting.lose(conn);
        }
        self.state.drop_conn(conn);
    }

    /// Looks after time: blocked clients, idle clients, slow readers, expiry, counters, the stop.
    fn tick(&mut self) {
        let now = self.state.now;
        if !self.state.shared.loading.load(Relaxed)
            && let Some((host, port)) = self.follow_later.take()
        {
            self.follow(host, port);
        }
        self.state.beat = self.reactor.now() / NANOS_PER_MS;
        if let Some(scrapes) = &mut self.scrapes {
            scrapes.tick(self.state.beat);
        }
        if self.state.stage >= Stage::Sealed {
            // What is written from now on may be another process's to write.
            return self.end_if_told();
        }
        if let Some(durable) = &mut self.durable {
            durable.tick(&mut self.state, &mut self.reactor);
        }
        if let Some(asking) = &mut self.asking {
            let (now, tunables) = (self.state.boot_clock, &self.state.tunables);
            asking.tick(now, tunables, &mut self.reactor);
        }
        self.reactor.tick();
        self.source.tick(&mut self.state);
        self.state.tick(STALL_MS);
        self.state.look_after_waiters();
        if let Some(follower) = &mut self.follower
            && !self.state.is_hushed()
        {
            follower.tick(now);
        }
        self.end_if_told();
    }

    /// Begins to stop, if the node is to.
    fn end_if_told(&mut self) {
        if self.state.shared.is_stopping() {
            if !self.stopping {
                self.stop_by = self.reactor.now() + STOP_TIME;
            }
            self.stopping = true;
            if let Some(scrapes) = &mut self.scrapes {
                scrapes.leave(&mut self.reactor);
            }
            while let Some(listener) = self.listeners.pop() {
                if let Some(socket) = listener.socket {
                    self.reactor.close(socket);
                }
            }
        }
    }
}

/// Those of a core who speak with other nodes.
struct Ears<'a> {
    asking: &'a mut Option<Asking>,
    source: &'a mut Source,
    election: &'a mut Option<Box<Election>>,
    failing: &'a mut Option<Box<Failing>>,
    follower: &'a mut Option<Follower>,
    late: &'a [Late],
}

impl Ears<'_> {
    /// Bytes from another node, for whoever here speaks with it; false if they have to wait.
    fn hear(self, state: &mut State, socket: SocketId, bytes: &[u8]) -> bool {
        if let Some(asking) = self.asking
            && asking.on_data(socket, bytes, state.boot_clock)
        {
            return true;
        }
        // Elections go on until everything is written down: who leads is answered meanwhile.
        if state.stage < Stage::Sealing
            && let Some(election) = self.election
            && election.on_data(socket, bytes, state.boot_clock)
        {
            return true;
        }
        if state.is_hushed() {
            return self.hears_acks(state, socket) && self.source.on_data(state, socket, bytes);
        }
        if self.source.on_data(state, socket, bytes) {
        } else if let Some(failing) = self.failing
            && failing.on_data(socket, bytes, &state.shared)
        {
        } else if let Some(follower) = self.follower {
            follower.on_data(state, socket, bytes);
        }
        true
    }

    /// Is what this replica says heard although the node is hushed? Requests that have begun may wait for it.
    fn hears_acks(&self, state: &State, socket: SocketId) -> bool {
        let is_late = |late: &Late| match late {
            Late::Data(of, _) | Late::End(of) => *of == socket,
        };
        state.gate.asks_majority()
            && state.stage < Stage::Sealing
            && self.source.has_link(socket)
            && !self.late.iter().any(is_late)
    }
}

fn outgoing_len(outgoing: &uring::Outgoing) -> usize {
    match outgoing {
        uring::Outgoing::Block(block) => block.len(),
        uring::Outgoing::Gather(pieces) => pieces.iter().map(bytes::Bytes::len).sum(),
    }
}
