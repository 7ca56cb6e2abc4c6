//! Following a primary: one link per stream of a kevy, one to a Redis, driven by core 0's ring.
//!
//! The state machines are in `repl`; here they meet sockets, and their frames the shards. A frame is
//! applied as soon as it is parsed, straight from the receive buffer, if its shard is on this core; it
//! is sent to the shard's core otherwise. Positions reported to the primary are those below which
//! every frame has been applied.

mod redis;
mod rollback;
mod synced;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc,
    },
};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

pub use self::rollback::Rollbacks;
use self::{redis::Redis, rollback::Keeping, synced::Synced};
use super::{
    frames::{Adopt, Applied, Copied, Part},
    load::{Load, Placement},
    loans::Job,
    log,
    message::Asker,
    shared::{FollowView, LinkView, Shared, lock},
    state::State,
    tls::{Fault as TlsFault, NO_TLS_HERE, is_record},
};
use crate::{
    base::{Ms, parse_u64},
    cmd::Upstream,
    proof::Purpose,
    repl::kevy_refuses,
    repl::{
        Position,
        discover::{self, Discovery, Found, Upstream as Primary},
        link::{self, Link, LinkConfig, LinkState, Units, Wire},
    },
    resp::Args,
};

/// Frames on their way to other cores at which a link stops being read.
const PENDING_MAX: usize = 8192;
/// Unparsed bytes of a waiting link at which nothing more is received.
const REST_MAX: usize = 1 << 20;
/// How long a socket that is given up is still read.
const FADE_MS: Ms = 1000;
/// Pause after a search that found no primary.
const SEARCH_AGAIN_MS: Ms = 1000;
/// A ping that comes so long after a snapshot was sent behind it.
const NEEDS_MS: Ms = 5000;
/// A load waits so long for streams of which nothing is heard, for the sake of what it takes the place of.
const OTHERS_MS: Ms = 5000;

/// Follows one primary, or nobody. Lives on core 0.
pub(super) struct Follower {
    shared: Arc<Shared>,
    target: Option<Target>,
    /// Counts sessions over all links, so that what an old one left under way is told from the new.
    sessions: u64,
    /// Sockets whose use is over.
    closing: Vec<SocketId>,
    /// Sockets on which the primary may still be sending, and until when they are read. Closing them
    /// with unread bytes would reset the connection, and some kevy primaries end on a reset.
    fading: Vec<(SocketId, Ms)>,
    /// What was told last to those who wait for the links.
    told: u64,
    /// There was a link to an elected primary, or this node was it.
    has_followed: bool,
    /// Also without a primary to follow this node is none.
    stands_by: bool,
}

struct Target {
    host: String,
    port: u16,
    ip: Option<IpAddr>,
    resolving: Option<mpsc::Receiver<Option<IpAddr>>>,
    search: Option<Search>,
    again_at: Ms,
    last_trouble: String,
    links: Vec<Run>,
    /// What the links go on from, until something takes the place of it.
    upstreams: Vec<(usize, Upstream)>,
    /// There is no stream at a port where one was looked for.
    is_astray: bool,
    /// Where the primary is a Redis.
    redis: Option<Redis>,
    placement: Placement,
    base: u16,
    /// The port is that of the first stream, and nobody needs to be asked whether it is.
    is_at_base: bool,
    was_in_step: bool,
    takes: Takes,
}

/// What is taken from a primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Takes {
    /// Whatever it has.
    All,
    /// Only what is of this history: an elected ringkeep that was started anew may have lost what its
    /// replicas have.
    SameHistory(u64),
    /// Only what comes next, and no snapshot.
    Next,
}

struct Search {
    discovery: Discovery,
    socket: Option<SocketId>,
    outgoing: Vec<u8>,
    sending: bool,
}

/// Shards and the offsets that they are at.
type Ahead = Vec<(usize, u64)>;

/// Where a link goes on after a start, by what the shards are copies of, and which shards are further.
/// `holders` shards have keys of the stream: one that is no copy any more was changed by somebody else.
fn known(
    upstreams: &[(usize, Upstream)],
    stream: usize,
    streams: usize,
    holders: usize,
) -> (Option<Position>, Ahead) {
    let here: Vec<_> = upstreams
        .iter()
        .filter(|(_, of)| (of.stream, of.streams) == (stream as u64, streams as u64))
        .collect();
    let Some((_, first)) = here.first() else {
        return (None, Vec::new());
    };
    let generation = first.generation;
    let differs = here.iter().any(|(_, of)| of.generation != generation);
    if differs || here.len() < holders {
        return (None, Vec::new());
    }
    let offset = here.iter().map(|(_, of)| of.offset).min().unwrap_or(0);
    let ahead = here.iter().filter(|(_, of)| of.offset > offset);
    (
        Some(Position { generation, offset }),
        ahead.map(|(shard, of)| (*shard, of.offset)).collect(),
    )
}

/// Was a frame applied before the node was started anew? Shards may be further than the place from which the
/// link went on.
fn has_already(ahead: &mut Ahead, offset: u64, args: Args<'_>, state: &State) -> bool {
    if ahead.is_empty() || args.at(0) == b"SELECT" {
        return false;
    }
    ahead.retain(|(_, reached)| *reached > offset);
    if is_on_all_keys(args) {
        // It was applied to all shards that it is about, or to none.
        return !ahead.is_empty();
    }
    let mut has = false;
    if let Some(spec) = state.table.find(args.at(0)) {
        spec.keys.for_each(args, |at| {
            let shard = state.homes.shards.shard_of(args.at(at));
            has |= ahead.iter().any(|(further, _)| *further == shard);
        });
    }
    has
}

/// Does each stream have the keys of one shard?
fn is_same(state: &State, streams: usize, placement: &Placement) -> bool {
    streams == state.homes.shards.count() && *placement == Placement::Hash && !state.has_slots()
}

/// Is a frame about all keys of its stream?
fn is_on_all_keys(args: Args<'_>) -> bool {
    matches!(args.at(0), b"FLUSHALL" | b"FLUSHDB" | b"SWAPDB")
}

/// One link and its connection.
struct Run {
    is_ringkeep: bool,
    /// Shards that had more when the node started than what the link went on from.
    ahead: Ahead,
    /// The database that the next frame of a ringkeep is in.
    database: u64,
    link: Link,
    stream: usize,
    session: u64,
    socket: Option<SocketId>,
    connected: bool,
    /// Received bytes that were not used yet.
    rest: Vec<u8>,
    /// A frame over several cores, or a snapshot, must be done before the next frame.
    paused: bool,
    receiving: bool,
    /// Frames under way to other cores, in order: offset, and whether it was applied.
    pending: VecDeque<(u64, bool)>,
    /// A frame that must be applied before the next one is looked at.
    waits_for: Option<u64>,
    /// A snapshot is being loaded: its session, and the offset behind it.
    loading: Option<(u64, u64)>,
    /// Has had its first full sync since the node follows.
    settled: bool,
    outgoing: Vec<u8>,
    sending: bool,
    last_drop: String,
    synced: Synced,
    /// Frames that are applied together, while not all of them are here, or not all are fed.
    units: Option<Open>,
    /// The shard is to take over the history; after a snapshot or not.
    adopts: Option<bool>,
    /// It has.
    is_adopted: bool,
    takes: Takes,
    /// Something else was offered: nothing more is read.
    is_refused: bool,
    /// What is fed of them where they are not simply run one after the other.
    parts: Vec<Part>,
    /// They are whole, and other parts of the same unit are not here yet.
    is_held: bool,
    /// What is to be loaded once what it takes the place of is kept.
    next_load: Option<NextLoad>,
    /// What the last snapshot needs of other streams, and since when.
    needs: (Vec<(u64, u64)>, Ms),
    /// Of all shards, where the streams are not those of one shard each.
    are_all_kept: Arc<AtomicBool>,
}

struct NextLoad {
    load: Load,
    session: u64,
    offset: u64,
    /// What it takes the place of is being kept.
    keeping: Option<Keeping>,
    since: Ms,
}

impl NextLoad {
    /// Loads of which what they take the place of is kept begin once this is so of all links: the first one
    /// gives all journals a new beginning, so that what other shards did is found in them no more.
    fn is_kept_of(run: &Run, since: Ms, now: Ms) -> bool {
        if run.is_refused || run.loading.is_some() {
            return true;
        }
        if let Some(next) = &run.next_load {
            return next.keeping.is_none();
        }
        match run.link.status(now).state {
            LinkState::Streaming => true,
            LinkState::AwaitingSnapshot | LinkState::Snapshot => false,
            // A stream that cannot be had must not keep the others from their data.
            LinkState::Waiting | LinkState::Connecting | LinkState::Handshake => {
                now.saturating_sub(since) > OTHERS_MS
            }
        }
    }
}

/// How far a link is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Everything below that is applied.
    applied: u64,
    /// When the primary had nothing more than that.
    fresh_at: Ms,
}

impl Place {
    /// Is that as far as the snapshot of another stream, taken in at `since`, needs it? What the primary had
    /// when it was asked much later than that is all that it could mean: it may have lost what it told of.
    fn meets(self, need: u64, since: Ms) -> bool {
        self.applied >= need || self.fresh_at > since + NEEDS_MS
    }
}

/// Frames that are applied together.
struct Open {
    units: Units,
    /// The offset of the first of them, and the database that it finds itself in.
    first: (u64, u32),
    step: Step,
}

/// What is known of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Not all of their bytes are here.
    Short,
    /// So many bytes are still to be fed, and each frame is applied by itself.
    Loose(usize),
    /// So many bytes are still to be fed; then all are applied.
    Joined(usize),
    /// The same with those of other streams.
    Shared(usize),
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            target: None,
            sessions: 0,
            closing: Vec::new(),
            fading: Vec::new(),
            told: 0,
            has_followed: false,
            stands_by: false,
        }
    }

    /// Follows another primary, or nobody, because a client says so. What was a copy when the node started
    /// may have been changed since.
    pub(super) fn follow(&mut self, state: &mut State, target: Option<(String, u16)>) {
        self.note_histories(state);
        if target.is_none() {
            self.shared.epoch.fetch_add(1, SeqCst);
        }
        self.stands_by = false;
        self.go_on_following(state, target);
    }

    /// Notes where the shards are in which histories: the next primary may have these, too.
    fn note_histories(&self, state: &State) {
        let shards = self.shared.durable.shards.len();
        let links = self.target.iter().flat_map(|target| &target.links);
        let mut places: Vec<_> = (0..shards)
            .map(|shard| state.told_position(shard))
            .collect();
        for run in links.filter(|run| run.is_adopted) {
            places[run.stream] = run.link.position();
        }
        let known = (0..).zip(places).filter(|(_, at)| at.generation > 0);
        let known = known.map(|(shard, at)| (shard, Upstream::own(shard, shards, at)));
        *lock(&self.shared.upstreams) = known.collect();
    }

    /// The same from the start of the node on.
    pub(super) fn go_on_following(&mut self, state: &mut State, target: Option<(String, u16)>) {
        lock(&self.shared.told_to_follow).clone_from(&target);
        let mut is_loading = false;
        if let Some(old) = self.target.take() {
            // What was begun comes to its end.
            is_loading = old.links.iter().any(|run| run.loading.is_some());
            self.closing
                .extend(old.redis.and_then(|redis| redis.end(state)));
            self.closing
                .extend(old.links.iter().filter_map(|run| run.socket));
            self.closing
                .extend(old.search.and_then(|search| search.socket));
        }
        // Where primaries are elected, it is told elsewhere when nobody is followed.
        let is_led = self.shared.election.is_some();
        self.shared
            .following
            .store(target.is_some() || is_led || self.stands_by, SeqCst);
        // It may be of somebody else.
        self.shared.fresh_at.store(0, Relaxed);
        self.shared.is_linked.store(false, Relaxed);
        // What was a copy when the node stopped may be one that its primary takes keys from.
        let was_copy = target.is_some() && !lock(&self.shared.upstreams).is_empty();
        self.shared.primary_expires.store(was_copy, Relaxed);
        *lock(&self.shared.follow) = target.clone().map(|(host, port)| FollowView {
            host,
            port,
            links: Vec::new(),
            trouble: String::new(),
            redis: None,
        });
        if target.is_none() && !is_loading {
            self.shared.loading.store(false, Relaxed);
        }
        self.target = target.map(|(host, port)| Target {
            ip: host.parse().ok(),
            host,
            port,
            resolving: None,
            search: None,
            again_at: 0,
            last_trouble: String::new(),
            links: Vec::new(),
            upstreams: Vec::new(),
            is_astray: false,
            redis: None,
            placement: Placement::default(),
            base: port,
            is_at_base: false,
            was_in_step: false,
            takes: Takes::All,
        });
    }

    /// Follows the elected primary, or none: also then nobody else writes here.
    pub(super) fn follow_elected(&mut self, state: &mut State, target: Option<(String, u16)>) {
        let has_links = self.target.iter().any(|target| !target.links.is_empty());
        // What was loaded at the start is known better than here, until this node has followed or led.
        self.has_followed |= has_links;
        if self.has_followed || lock(&self.shared.upstreams).is_empty() {
            self.note_histories(state);
        }
        self.go_on_following(state, target);
        if let Some(target) = &mut self.target {
            target.is_at_base = true;
        }
        self.shared.following.store(true, SeqCst);
        self.shared.primary_expires.store(true, Relaxed);
        lock(&self.shared.follow).get_or_insert_default();
    }

    /// This node was elected. Clients' writes are taken once the gate opens.
    pub(super) fn lead(&mut self, state: &mut State) {
        // From here on the shards are where this node writes them.
        self.has_followed = true;
        self.follow(state, None);
        self.shared.following.store(true, SeqCst);
    }

    /// Follows nobody and is no primary either, until it is said who is.
    pub(super) fn stand_by(&mut self, state: &mut State) {
        self.stands_by = true;
        self.follow_elected(state, None);
    }

    /// Acknowledgements are to a primary of this epoch.
    pub(super) fn acknowledge_for(&mut self, epoch: Option<u64>) {
        let links = self.target.iter_mut().flat_map(|target| &mut target.links);
        links.for_each(|run| run.link.acknowledge_for(epoch));
    }

    /// Where the data stands in every stream of the primary, once all of it is that primary's.
    pub(super) fn joined(&self) -> Option<Vec<Position>> {
        let links = &self.target.as_ref()?.links;
        let is_there = |run: &Run| {
            let has_all = run.needs.0.is_empty() && !run.link.is_behind();
            let is_whole = run.adopts.is_none() && has_all;
            let is_loading = run.loading.is_some() || run.next_load.is_some();
            run.settled && !is_loading && run.connected && is_whole
        };
        if links.is_empty() || !links.iter().all(is_there) {
            return None;
        }
        self.positions().into_iter().collect()
    }

    /// The same of each stream, as far as it is known.
    pub(super) fn positions(&self) -> Vec<Option<Position>> {
        let links = self.target.iter().flat_map(|target| &target.links);
        let applied = links.map(|run| run.link.applied_position());
        applied.map(|applied| Some(applied?.0)).collect()
    }

    /// The data is that of the primary, which is a ringkeep or not: from now on it stays of that history.
    pub(super) fn stay_in_history(&mut self) {
        let links = self.target.iter_mut().flat_map(|target| &mut target.links);
        for run in links.filter(|run| run.is_ringkeep) {
            run.takes = Takes::SameHistory(run.link.position().generation);
        }
    }

    /// Pulls from a replica of the same history what it has more, and takes no snapshot from it.
    pub(super) fn catch_up(&mut self, state: &mut State, from: (String, u16)) {
        self.follow_elected(state, Some(from));
        if let Some(target) = &mut self.target {
            target.takes = Takes::Next;
        }
    }

    /// Must the core not sleep?
    pub(super) fn has_work(&self) -> bool {
        !self.closing.is_empty()
    }

    pub(super) fn on_connected(&mut self, state: &mut State, socket: SocketId, connected: bool) {
        let Some(target) = &mut self.target else {
            return;
        };
        if let Some(search) = target.search_on(socket) {
            if connected {
                search.discovery.on_connected();
            } else {
                search.socket = None;
                search.discovery.on_refused();
                self.closing.push(socket);
            }
        } else if let Some(redis) = target.redis_on(socket) {
            if connected {
                redis.on_connected(state);
            } else {
                redis.on_closed(state);
                self.closing.push(socket);
            }
        } else if let Some(run) = target.run_on(socket) {
            if connected {
                run.receiving = true;
                run.on_connected(&self.shared, state.now);
            } else {
                run.forget_socket();
                run.link.on_closed(state.now);
                self.closing.push(socket);
            }
        }
    }

    /// TLS cannot be spoken with who was dialed, or not any longer. That the connection is over is told next.
    pub(super) fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault, now: Ms) {
        let Some(target) = &mut self.target else {
            return;
        };
        if let Some(search) = target.search_on(socket) {
            search.discovery.on_tls_fault(fault.text());
        } else if let Some(redis) = target.redis_on(socket) {
            redis.on_tls_fault(fault.text(), now);
        } else if let Some(run) = target.run_on(socket) {
            run.link.refuse_tls(now, fault.text());
        }
    }

    pub(super) fn on_sent(&mut self, socket: SocketId) {
        let Some(target) = &mut self.target else {
            return;
        };
        if let Some(search) = target.search_on(socket) {
            search.sending = false;
        } else if let Some(redis) = target.redis_on(socket) {
            redis.on_sent();
        } else if let Some(run) = target.run_on(socket) {
            run.sending = false;
        }
    }

    pub(super) fn on_closed(&mut self, state: &mut State, socket: SocketId) {
        if let Some(fading) = self.fading.iter_mut().find(|(fading, _)| *fading == socket) {
            fading.1 = 0;
        }
        let Some(target) = &mut self.target else {
            return;
        };
        if let Some(search) = target.search_on(socket) {
            search.socket = None;
            search.discovery.on_closed();
            self.closing.push(socket);
        } else if let Some(redis) = target.redis_on(socket) {
            redis.on_closed(state);
            self.closing.push(socket);
        } else if let Some(run) = target.run_on(socket) {
            // A paused link cannot use what came before the end; it asks for it again.
            run.forget_socket();
            run.link.on_closed(state.now);
            self.closing.push(socket);
        }
    }

    pub(super) fn on_data(&mut self, state: &mut State, socket: SocketId, bytes: &[u8]) {
        let Some(target) = &mut self.target else {
            return;
        };
        if let Some(search) = target.search_on(socket) {
            match is_record(bytes) {
                false => search.discovery.on_bytes(bytes),
                true => search.discovery.on_tls_fault(NO_TLS_HERE),
            }
        } else if let Some(redis) = target.redis_on(socket) {
            redis.on_data(state, bytes, &mut self.sessions);
        } else if let Some(at) = target
            .links
            .iter()
            .position(|run| run.socket == Some(socket))
        {
            let run = &mut target.links[at];
            match run.connected || !is_record(bytes) {
                true => target.feed(at, state, bytes),
                false => run.link.refuse_tls(state.now, NO_TLS_HERE),
            }
        }
    }

    /// Carries out what the state machines want; true if there was anything.
    pub(super) fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        if let Some(request) = state.follow_request.take() {
            self.follow(state, request);
        }
        let mut worked = false;
        for asker in std::mem::take(&mut state.applied) {
            worked = true;
            if let Some(target) = &mut self.target {
                target.on_applied(asker);
            }
        }
        for (stream, session, good) in std::mem::take(&mut state.loaded) {
            worked = true;
            match &mut self.target {
                Some(target) => target.on_loaded(stream, session, good, state.now),
                None => self.shared.loading.store(false, Relaxed),
            }
        }
        if let Some(target) = &mut self.target {
            worked |= target.step(state, reactor, &mut self.sessions, &mut self.closing);
            target.tell_freshness(&self.shared, state.now);
            if self.shared.loading.load(Relaxed) && target.is_whole(state.now) {
                self.shared.loading.store(false, Relaxed);
                if !std::mem::replace(&mut target.was_in_step, true) {
                    log(&format!("in step with {}:{}", target.host, target.port));
                }
            }
        }
        while let Some(socket) = self.closing.pop() {
            worked = true;
            reactor.finish_sending(socket);
            reactor.start_receiving(socket);
            self.fading.push((socket, state.now + FADE_MS));
        }
        let now = state.now;
        self.fading.retain(|(socket, until)| {
            let over = now >= *until;
            if over {
                reactor.close(*socket);
            }
            !over
        });
        worked
    }

    /// Tells who waits for it how far the links are.
    pub(super) fn tell_waiters(&mut self, state: &mut State) {
        if self.shared.waiters.load(Relaxed) == 0 {
            return;
        }
        let Some(target) = &self.target else { return };
        let views = target.links.iter().map(|run| run.view(state.now));
        let sum = views.map(|view| view.applied.wrapping_add(view.generation));
        let sum = sum.fold(0, u64::wrapping_add);
        if std::mem::replace(&mut self.told, sum) != sum {
            self.tick(state.now);
            state.tell_acks();
        }
    }

    /// Publishes the links for INFO, ROLE and REPL.TOKEN.
    pub(super) fn tick(&mut self, now: Ms) {
        let Some(target) = &self.target else { return };
        let mut links: Vec<_> = target.links.iter().map(|run| run.view(now)).collect();
        let redis = target.redis.as_ref().map(|redis| {
            let (link, redis) = redis.view();
            links.push(link);
            redis
        });
        *lock(&self.shared.follow) = Some(FollowView {
            host: target.host.clone(),
            port: target.base,
            links,
            trouble: target.trouble_of_links(),
            redis,
        });
    }
}

impl Target {
    fn search_on(&mut self, socket: SocketId) -> Option<&mut Search> {
        self.search
            .as_mut()
            .filter(|search| search.socket == Some(socket))
    }

    fn redis_on(&mut self, socket: SocketId) -> Option<&mut Redis> {
        self.redis
            .as_mut()
            .filter(|redis| redis.socket == Some(socket))
    }

    fn run_on(&mut self, socket: SocketId) -> Option<&mut Run> {
        self.links.iter_mut().find(|run| run.socket == Some(socket))
    }

    fn on_applied(&mut self, asker: Asker) {
        let (stream, offset) = match asker {
            Asker::Link { stream, offset, .. } => (stream, offset),
            Asker::Redis { session, end } => {
                if let Some(redis) = &mut self.redis {
                    redis.on_applied(session, end);
                }
                return;
            }
            Asker::Conn(..) => return,
        };
        let Some(run) = self.links.get_mut(stream) else {
            return;
        };
        // It may have been asked for on an earlier connection: offsets of a history are used once.
        if let Ok(at) = run
            .pending
            .binary_search_by_key(&offset, |(offset, _)| *offset)
        {
            run.pending[at].1 = true;
        }
        while let Some((offset, true)) = run.pending.front() {
            run.link.applied_through(offset + 1);
            run.pending.pop_front();
        }
        if run.pending.len() < PENDING_MAX / 2
            && run
                .waits_for
                .is_none_or(|waits| run.pending.is_empty() || offset == waits)
        {
            run.waits_for = None;
            run.paused = run.loading.is_some();
        }
    }

    fn on_loaded(&mut self, stream: usize, session: u64, good: bool, now: Ms) {
        if let Some(redis) = &mut self.redis {
            return redis.on_loaded(session, now);
        }
        let Some(run) = self.links.get_mut(stream) else {
            return;
        };
        if run.loading.is_none_or(|(loading, _)| loading != session) {
            return;
        }
        let Some((_, offset)) = run.loading.take() else {
            return;
        };
        run.paused = false;
        if good {
            run.settled = true;
            run.link.applied_through(offset);
        } else {
            run.is_adopted = false;
            run.link.resync(now);
        }
    }

    /// Takes in bytes of a link: those that wait first.
    fn feed(&mut self, at: usize, state: &mut State, bytes: &[u8]) {
        let streams = self.links.len();
        let run = &mut self.links[at];
        if run.units.is_some() {
            // It may be long until all of that is here.
            run.link.heard(state.now);
        }
        if run.rest.is_empty() && !run.is_stopped() {
            let used = run.take(state, bytes, streams, &mut self.placement);
            run.rest.extend_from_slice(&bytes[used..]);
        } else {
            run.rest.extend_from_slice(bytes);
            self.feed_rest(at, state);
        }
    }

    fn feed_rest(&mut self, at: usize, state: &mut State) -> bool {
        let streams = self.links.len();
        let run = &mut self.links[at];
        if run.is_stopped() || run.rest.is_empty() {
            return false;
        }
        // The link remembers where it is in an unfinished frame: looking again costs little.
        let rest = std::mem::take(&mut run.rest);
        let used = run.take(state, &rest, streams, &mut self.placement);
        run.rest = rest;
        run.rest.drain(..used);
        used > 0
    }

    fn step<R: Reactor>(
        &mut self,
        state: &mut State,
        reactor: &mut R,
        sessions: &mut u64,
        closing: &mut Vec<SocketId>,
    ) -> bool {
        let now = state.now;
        let Some(ip) = self.resolve(now) else {
            return false;
        };
        if let Some(redis) = &mut self.redis {
            let at = SocketAddr::new(ip, self.port);
            return redis.step(state, reactor, at, sessions, closing);
        }
        if std::mem::take(&mut self.is_astray) {
            self.look_again(state, closing);
        }
        if self.links.is_empty() {
            return self.search(state, reactor, ip, sessions, closing);
        }
        let mut worked = self.join_held(state);
        let is_kept = state.shared.settings.journals && state.shared.durable.is_kept();
        if is_kept {
            // What was applied in this turn is not durable because what came before it is.
            state.publish_ends();
        }
        for at in 0..self.links.len() {
            worked |= self.feed_rest(at, state);
            let may_load = self.may_load(at, now);
            let run = &mut self.links[at];
            if run.is_refused {
                closing.extend(run.socket.take());
                run.connected = false;
                continue;
            }
            if run.go_on_to_load(state, may_load) {
                worked = true;
                self.upstreams.clear();
            }
            worked |= run.adopt(state);
            run.note_synced(is_kept, &state.shared, now);
            if run.next_load.is_some() || (run.is_held && !run.receiving) {
                // It is not read, so it cannot be silent.
                run.link.heard(now);
            }
            while let Some(action) = run.link.poll(now) {
                worked = true;
                match action {
                    link::Action::Connect => {
                        *sessions += 1;
                        run.start_session(*sessions);
                        let port = self.base.saturating_add(run.stream as u16);
                        match reactor.connect(&Endpoint::Tcp(SocketAddr::new(ip, port))) {
                            Ok(socket) => run.socket = Some(socket),
                            Err(_) => run.link.on_closed(now),
                        }
                    }
                    link::Action::Send(bytes) => run.outgoing.extend_from_slice(&bytes),
                    link::Action::Drop { reason, .. } => {
                        closing.extend(run.socket);
                        run.forget_socket();
                        self.is_astray |= !run.settled && reason.is_no_stream();
                        let text = reason.to_string();
                        if text != run.last_drop {
                            log(&format!(
                                "link to {}:{} stream {}: {text}",
                                self.host, self.base, run.stream
                            ));
                            run.last_drop = text;
                        }
                    }
                }
            }
            if let Some(socket) = run.socket {
                if !run.sending && !run.outgoing.is_empty() {
                    let outgoing = Outgoing::Block(std::mem::take(&mut run.outgoing));
                    run.sending = reactor.send(socket, outgoing).is_ok();
                }
                // A link that is not paused needs more for its frame to be whole.
                let wants = !run.is_stopped() || run.rest.len() < REST_MAX;
                if run.receiving && !wants {
                    run.receiving = false;
                    reactor.stop_receiving(socket);
                } else if run.connected && !run.receiving && wants {
                    run.receiving = true;
                    reactor.start_receiving(socket);
                }
            }
        }
        worked
    }

    /// Is what is here a state of the primary? Parts of units may be here before the others.
    fn is_whole(&mut self, now: Ms) -> bool {
        let places = self.links.iter().map(|run| run.place(now));
        let Some(places) = places.collect::<Option<Vec<_>>>() else {
            return false;
        };
        for run in &mut self.links {
            let since = run.needs.1;
            let is_open = |(stream, need): &(u64, u64)| {
                let place = places.get(*stream as usize);
                place.is_some_and(|place| !place.meets(*need, since))
            };
            run.needs.0.retain(is_open);
        }
        self.links.iter().all(|run| run.needs.0.is_empty())
    }

    /// Looks for the streams anew, where none has ever answered: a primary that ends while it is asked looks
    /// like one that has its streams elsewhere.
    fn look_again(&mut self, state: &State, closing: &mut Vec<SocketId>) {
        if self.links.iter().any(Run::has_answered) {
            return;
        }
        closing.extend(self.links.drain(..).filter_map(|run| run.socket));
        *lock(&state.shared.upstreams) = std::mem::take(&mut self.upstreams);
        self.base = self.port;
        self.again_at = state.now + SEARCH_AGAIN_MS;
    }

    /// May a link's load begin, as far as the other links are concerned?
    fn may_load(&self, at: usize, now: Ms) -> bool {
        let Some(next) = &self.links[at].next_load else {
            return false;
        };
        let mut others = self.links.iter().enumerate();
        others.all(|(other, run)| other == at || NextLoad::is_kept_of(run, next.since, now))
    }

    /// Applies units over several streams of which all parts are here.
    fn join_held(&mut self, state: &mut State) -> bool {
        let mut worked = false;
        for at in 0..self.links.len() {
            let Some(members) = self.members_of(at) else {
                continue;
            };
            worked = true;
            let streams = self.links.len();
            let is_same = is_same(state, streams, &self.placement);
            let mut units = Vec::new();
            for at in members {
                let run = &mut self.links[at];
                run.is_held = false;
                let rest = std::mem::take(&mut run.rest);
                let used = run.take(state, &rest, streams, &mut self.placement);
                run.rest = rest;
                run.rest.drain(..used);
                if let Some(copied) = run.take_shared(streams) {
                    units.push(copied);
                }
            }
            let askers: Vec<_> = units.iter().map(|units| units.asker).collect();
            let applied = state.apply_copied(units, is_same);
            for asker in askers {
                if let Asker::Link { stream, offset, .. } = asker {
                    let run = &mut self.links[stream];
                    if let Some(reached) = run.note_asked(applied, offset) {
                        run.reached(reached, streams, state);
                    }
                }
            }
        }
        worked
    }

    /// The held links that have the other parts of the unit at which this one is held, and itself; `None` if
    /// one is missing. A stream that is further has had its part, by a snapshot.
    fn members_of(&self, at: usize) -> Option<Vec<usize>> {
        let run = &self.links[at];
        let open = run.units.as_ref().filter(|_| run.is_held)?;
        let mut members = vec![at];
        for (stream, first) in &open.units.participants {
            let stream = *stream as usize;
            let Some(other) = self.links.get(stream).filter(|_| stream != at) else {
                continue;
            };
            let place = other.link.position().offset;
            if other.is_held && place == *first {
                members.push(stream);
            } else if place <= *first {
                return None;
            }
        }
        members.sort_unstable();
        Some(members)
    }

    /// How old the data is at most: before it is read next.
    fn tell_freshness(&self, shared: &Shared, now: Ms) {
        let views = self.links.iter().map(|run| run.view(now));
        let redis = self.redis.iter().map(|redis| redis.view().0);
        let (mut fresh_at, mut is_linked) = (None, true);
        for view in views.chain(redis) {
            fresh_at = Some(fresh_at.map_or(view.fresh_at, |old: Ms| old.min(view.fresh_at)));
            is_linked &= view.up;
        }
        if let Some(fresh_at) = fresh_at {
            shared.fresh_at.store(fresh_at, Relaxed);
        }
        shared
            .is_linked
            .store(is_linked && fresh_at.is_some(), Relaxed);
    }

    /// The primary's address. Names are looked up on a thread of their own: the look-up may take long.
    fn resolve(&mut self, now: Ms) -> Option<IpAddr> {
        if self.ip.is_some() {
            return self.ip;
        }
        match &self.resolving {
            None if now >= self.again_at => {
                let (sender, receiver) = mpsc::channel();
                let host = self.host.clone();
                std::thread::spawn(move || {
                    let found = (host.as_str(), 0)
                        .to_socket_addrs()
                        .ok()
                        .and_then(|mut found| found.next());
                    // The receiver may be gone: the node then follows somebody else.
                    let _ = sender.send(found.map(|found| found.ip()));
                });
                self.resolving = Some(receiver);
            }
            None => {}
            Some(receiver) => {
                if let Ok(found) = receiver.try_recv() {
                    self.ip = found;
                    self.resolving = None;
                    if found.is_none() {
                        self.trouble(format!("cannot find the address of {}", self.host));
                        self.again_at = now + SEARCH_AGAIN_MS;
                    }
                }
            }
        }
        self.ip
    }

    /// Why there is no link.
    fn trouble_of_links(&self) -> String {
        let mut of_links = self.links.iter().map(|run| &run.last_drop);
        let found = of_links.find(|trouble| !trouble.is_empty());
        found.unwrap_or(&self.last_trouble).clone()
    }

    /// Logs why there is no link, once per reason.
    fn trouble(&mut self, text: String) {
        if text != self.last_trouble {
            log(&text);
            self.last_trouble = text;
        }
    }

    /// Finds out where the primary's streams are.
    fn search<R: Reactor>(
        &mut self,
        state: &mut State,
        reactor: &mut R,
        ip: IpAddr,
        sessions: &mut u64,
        closing: &mut Vec<SocketId>,
    ) -> bool {
        let now = state.now;
        if self.search.is_none() {
            if now < self.again_at {
                return false;
            }
            let login = redis::login(&state.tunables);
            let discovery = match self.is_at_base {
                true => Discovery::at_base(self.port, login),
                false => Discovery::new(self.port, login),
            };
            self.search = Some(Search {
                discovery,
                socket: None,
                outgoing: Vec::new(),
                sending: false,
            });
        }
        let mut worked = false;
        let mut outcome = None;
        if let Some(search) = &mut self.search {
            while let Some(action) = search.discovery.poll(now) {
                worked = true;
                match action {
                    discover::Action::Dial(port) => {
                        match reactor.connect(&Endpoint::Tcp(SocketAddr::new(ip, port))) {
                            Ok(socket) => search.socket = Some(socket),
                            Err(_) => search.discovery.on_refused(),
                        }
                    }
                    discover::Action::Send(bytes) => search.outgoing.extend_from_slice(&bytes),
                    discover::Action::Close => {
                        closing.extend(search.socket.take());
                        search.outgoing.clear();
                        search.sending = false;
                    }
                    discover::Action::Done(found) => outcome = Some(found),
                }
            }
            if let Some(socket) = search.socket
                && !search.sending
                && !search.outgoing.is_empty()
            {
                let outgoing = Outgoing::Block(std::mem::take(&mut search.outgoing));
                search.sending = reactor.send(socket, outgoing).is_ok();
            }
        }
        match outcome {
            None => {}
            Some(Ok(Found::Kevy(upstream))) => self.start_links(&upstream, state),
            Some(Ok(Found::Redis(version))) => {
                let version = version.unwrap_or_else(|| "of an unknown version".into());
                log(&format!(
                    "following {}:{}: Redis {version}",
                    self.host, self.port
                ));
                state.shared.primary_expires.store(true, Relaxed);
                self.search = None;
                *sessions += 1;
                self.redis = Some(Redis::new(state, *sessions));
            }
            Some(Err(error)) => {
                self.trouble(format!(
                    "cannot follow {}:{}: {error}",
                    self.host, self.port
                ));
                self.again_at = now + SEARCH_AGAIN_MS;
                self.search = None;
            }
        }
        worked
    }

    fn start_links(&mut self, upstream: &Primary, state: &State) {
        log(&format!(
            "following {}: {} stream(s) from port {}, version {}",
            self.host,
            upstream.streams,
            upstream.base,
            upstream.version.as_deref().unwrap_or("unknown")
        ));
        self.base = upstream.base;
        self.placement = Placement::of_version(upstream.version.as_deref());
        self.search = None;
        let streams = usize::from(upstream.streams.max(1));
        let shards = state.homes.shards.count();
        let is_same = streams == shards && !state.has_slots();
        let holders = if is_same { 1 } else { shards };
        let upstreams = std::mem::take(&mut *lock(&state.shared.upstreams));
        self.upstreams.clone_from(&upstreams);
        let known: Vec<_> = (0..streams)
            .map(|at| known(&upstreams, at, streams, holders))
            .collect();
        let are_all_kept: Arc<AtomicBool> = Arc::default();
        self.links = (0..usize::from(upstream.streams.max(1)))
            .map(|stream| Run {
                link: Link::new(
                    LinkConfig::new(state.shared.settings.port, stream),
                    known[stream].0.unwrap_or(Position::UNKNOWN),
                    known[stream].0.map(|_| Wire::W3),
                ),
                is_ringkeep: false,
                ahead: known[stream].1.clone(),
                database: 0,
                stream,
                session: 0,
                socket: None,
                connected: false,
                rest: Vec::new(),
                paused: false,
                waits_for: None,
                receiving: false,
                pending: VecDeque::new(),
                loading: None,
                settled: false,
                outgoing: Vec::new(),
                sending: false,
                last_drop: String::new(),
                synced: Synced::default(),
                units: None,
                adopts: None,
                is_adopted: false,
                takes: self.takes,
                is_refused: false,
                parts: Vec::new(),
                is_held: false,
                next_load: None,
                needs: Default::default(),
                are_all_kept: are_all_kept.clone(),
            })
            .collect();
    }
}

impl Run {
    fn start_session(&mut self, session: u64) {
        self.session = session;
        self.forget_socket();
    }

    /// The key of the nodes comes before everything else.
    fn on_connected(&mut self, shared: &Shared, now: Ms) {
        let Some(ring) = &shared.node_key else {
            return self.link.on_connected(now);
        };
        match ring.dialer(Purpose::Stream(self.stream as u32), None) {
            Ok(dialer) => self.link.prove(now, dialer),
            Err(fault) => self.link.refuse(now, fault),
        }
    }

    fn forget_socket(&mut self) {
        self.socket = None;
        self.connected = false;
        (self.units, self.is_held, self.adopts) = (None, false, None);
        self.parts.clear();
        self.receiving = false;
        self.sending = false;
        self.rest.clear();
        self.outgoing.clear();
    }

    /// Feeds bytes to the link and acts on what they say, until they end or something must be done
    /// first; how many were used.
    fn take(
        &mut self,
        state: &mut State,
        bytes: &[u8],
        streams: usize,
        placement: &mut Placement,
    ) -> usize {
        let now = state.now;
        self.connected |= !self.link.is_proving();
        let mut at = 0;
        let mut through = None;
        loop {
            if self.is_stopped() {
                break;
            }
            if let Some(open) = &mut self.units {
                match open.step {
                    Step::Short if bytes.len() - at < open.units.len => break,
                    Step::Short => {
                        let whole = &bytes[at..at + open.units.len];
                        if crc32fast::hash(whole) != open.units.sum {
                            self.link.damaged(now);
                            at = bytes.len();
                            break;
                        }
                        let is_shared = open.units.participants.len() > 1;
                        open.step = if is_shared {
                            Step::Shared(open.units.len)
                        } else if open.units.is_joined && !state.homes.has_all() {
                            Step::Joined(open.units.len)
                        } else {
                            Step::Loose(open.units.len)
                        };
                        if is_shared {
                            self.is_held = true;
                            break;
                        }
                    }
                    Step::Loose(0) => self.units = None,
                    Step::Joined(0) => {
                        let (first, end) = (open.first, open.units.end);
                        self.units = None;
                        let asker = self.asker(streams, end - 1);
                        let parts = std::mem::take(&mut self.parts);
                        let copied = Copied {
                            asker,
                            first,
                            parts,
                        };
                        let applied = state.apply_copied(vec![copied], false);
                        if let Some(reached) = self.note_asked(applied, end - 1) {
                            through = Some(reached);
                        }
                        continue;
                    }
                    // The other streams' parts go with it.
                    Step::Shared(0) => break,
                    Step::Loose(_) | Step::Joined(_) | Step::Shared(_) => {}
                }
            }
            if at >= bytes.len() {
                break;
            }
            let generation = self.generation();
            let (used, event) = self.link.feed(now, &bytes[at..]);
            at += used;
            let is_together = match self.units.as_mut().map(|open| &mut open.step) {
                Some(Step::Loose(left)) => {
                    *left = left.saturating_sub(used);
                    false
                }
                Some(Step::Joined(left) | Step::Shared(left)) => {
                    *left = left.saturating_sub(used);
                    true
                }
                Some(Step::Short) | None => false,
            };
            match event {
                None => break,
                Some(link::Event::Up {
                    awaits_snapshot,
                    database,
                    ..
                }) => {
                    let is_other = match self.takes {
                        Takes::All => false,
                        Takes::SameHistory(generation) => self.link.offered() != generation,
                        Takes::Next => awaits_snapshot,
                    };
                    if is_other {
                        self.is_refused = true;
                        break;
                    }
                    self.is_ringkeep = database.is_some();
                    self.database = database.unwrap_or(0);
                    // It tells of keys that are due; no kevy does.
                    let expires = &state.shared.primary_expires;
                    expires.store(self.is_ringkeep, Relaxed);
                    self.last_drop.clear();
                    self.settled |= !awaits_snapshot;
                    self.is_adopted = false;
                    let may_adopt = self.may_adopt(state, streams, placement);
                    self.adopts = (may_adopt && !awaits_snapshot).then_some(false);
                }
                Some(link::Event::SnapshotBegin) if self.takes != Takes::Next => {}
                Some(link::Event::SnapshotBegin) => {
                    self.is_refused = true;
                    break;
                }
                Some(link::Event::HistoryStart) if self.takes != Takes::All => {
                    self.is_refused = true;
                    break;
                }
                Some(link::Event::HistoryStart) => {
                    self.ahead.clear();
                    let load = Load::clearing(self.stream, self.session, streams, *placement);
                    self.load_instead(state, load, 0, false);
                }
                Some(link::Event::Snapshot(image)) => {
                    let offset = image.position.offset;
                    self.needs = (image.needs, now);
                    self.database = 0;
                    self.ahead.clear();
                    let generation = self.generation();
                    (self.is_adopted, self.adopts) = (false, None);
                    // A ringkeep says itself when a key goes.
                    let now = if self.is_ringkeep { 0 } else { now };
                    let mut load = Load::of_image(
                        self.stream,
                        self.session,
                        streams,
                        placement,
                        image.bytes,
                        now,
                    );
                    load.upstream = self.is_ringkeep.then_some(Upstream {
                        stream: self.stream as u64,
                        streams: streams as u64,
                        generation,
                        offset,
                    });
                    let may_adopt = self.may_adopt(state, streams, placement);
                    self.adopts = may_adopt.then_some(true);
                    self.load_instead(state, load, offset, may_adopt);
                }
                Some(link::Event::Units(units)) => {
                    self.units = Some(Open {
                        units,
                        first: (self.link.position().offset, self.database as u32),
                        step: Step::Short,
                    });
                }
                Some(link::Event::Frame { offset, args }) => {
                    let asker = Asker::Link {
                        stream: self.stream,
                        session: self.session,
                        offset,
                        ringkeep: self.is_ringkeep.then_some((streams as u16, generation)),
                    };
                    if has_already(&mut self.ahead, offset, args, state) {
                        if is_together {
                        } else if self.pending.is_empty() {
                            through = Some(offset + 1);
                        } else {
                            self.pending.push_back((offset, true));
                        }
                        continue;
                    }
                    let is_same = is_same(state, streams, placement);
                    if self.is_ringkeep && is_on_all_keys(args) && streams > 1 && !is_same {
                        // Only keys of this stream are meant, wherever they are.
                        if let Some(open) = &mut self.units
                            && let Step::Shared(left) = open.step
                        {
                            // A load is no part of a unit.
                            open.step = Step::Joined(left);
                        }
                        if !self.parts.is_empty() {
                            let parts = std::mem::take(&mut self.parts);
                            let copied = Copied {
                                asker,
                                first: (offset, self.database as u32),
                                parts,
                            };
                            state.apply_copied(vec![copied], false);
                        }
                        let load = Load::clearing(self.stream, self.session, streams, *placement);
                        let mut load = match args.at(0) {
                            b"FLUSHALL" => load,
                            b"FLUSHDB" => load.only_in(self.database as usize),
                            _ => {
                                self.link.resync(now);
                                break;
                            }
                        };
                        load.upstream = asker.upstream();
                        state.end_frames();
                        self.start_load(state, load, offset + 1);
                        break;
                    }
                    let only = (is_on_all_keys(args) && streams > 1).then_some(self.stream);
                    if is_together && args.at(0) != b"SELECT" {
                        let at = (offset, self.database);
                        self.parts.extend(state.part_of(at, args, only));
                        continue;
                    }
                    let applied = match self.is_ringkeep {
                        true if args.at(0) == b"SELECT" => {
                            self.database = args.get(1).and_then(parse_u64).unwrap_or(0);
                            Applied::Now
                        }
                        true => state.apply_ringkeep(asker, self.database, args, only),
                        false if kevy_refuses(args) => Applied::Now,
                        false => state.apply(asker, args),
                    };
                    if !is_together && let Some(reached) = self.note_asked(applied, offset) {
                        through = Some(reached);
                    }
                }
            }
        }
        state.end_frames();
        if let Some(offset) = through {
            self.reached(offset, streams, state);
        }
        at
    }

    /// Everything below this offset is applied, and nothing is under way.
    fn reached(&mut self, offset: u64, streams: usize, state: &mut State) {
        self.link.applied_through(offset);
        if self.is_ringkeep {
            state.refresh_upstreams(Upstream {
                stream: self.stream as u64,
                streams: streams as u64,
                generation: self.generation(),
                offset,
            });
        }
    }

    /// Is nothing more to be parsed for now?
    fn is_stopped(&self) -> bool {
        self.paused
            || self.is_held
            || self.is_refused
            || self.next_load.is_some()
            || (self.adopts.is_some() && !self.link.is_behind())
    }

    /// Has there been a primary on the link, as far as anything came of it?
    fn has_answered(&self) -> bool {
        let is_loading = self.loading.is_some() || self.next_load.is_some();
        self.settled || is_loading || self.link.is_in_session()
    }

    /// How far it is; `None` where what it has is no state that ever was.
    fn place(&self, now: Ms) -> Option<Place> {
        let is_loading = self.loading.is_some() || self.next_load.is_some();
        let status = self.link.status(now);
        let applied = status.applied.unwrap_or(0);
        let is_open = !self.settled || is_loading || self.link.is_behind_at(applied);
        let fresh_at = status.fresh_at.unwrap_or(0);
        (!is_open).then_some(Place { applied, fresh_at })
    }

    /// The history, as far as somebody who has what was received is in it.
    fn generation(&self) -> u64 {
        match self.link.is_behind() {
            true => Position::UNKNOWN.generation,
            false => self.link.position().generation,
        }
    }

    /// Can the shard be in the primary's history?
    fn may_adopt(&self, state: &State, streams: usize, placement: &Placement) -> bool {
        self.is_ringkeep && !self.link.has_slots() && is_same(state, streams, placement)
    }

    /// Has the shard take over the history of the primary, once it has everything that was received.
    fn adopt(&mut self, state: &mut State) -> bool {
        let is_loading = self.loading.is_some() || self.next_load.is_some();
        let is_open = is_loading || !self.pending.is_empty() || !self.parts.is_empty();
        if is_open || self.link.is_behind() {
            return false;
        }
        let Some(is_loaded) = self.adopts.take() else {
            return false;
        };
        let received = self.link.position();
        self.loading = Some((self.session, received.offset));
        self.is_adopted = true;
        self.paused = true;
        let adopt = Adopt {
            stream: self.stream,
            session: self.session,
            at: received,
            ancestry: self.link.ancestry().clone(),
            database: self.database as u32,
            is_loaded,
        };
        state.collect(vec![self.stream], Job::Adopt(Box::new(adopt)));
        true
    }

    /// A ringkeep's frame at this offset.
    fn asker(&self, streams: usize, offset: u64) -> Asker {
        Asker::Link {
            stream: self.stream,
            session: self.session,
            offset,
            ringkeep: Some((streams as u16, self.generation())),
        }
    }

    /// The frames of a unit over several streams, if all of this one's are fed.
    fn take_shared(&mut self, streams: usize) -> Option<Copied> {
        let open = self
            .units
            .take_if(|open| matches!(open.step, Step::Shared(0)))?;
        let asker = self.asker(streams, open.units.end - 1);
        let parts = std::mem::take(&mut self.parts);
        Some(Copied {
            asker,
            first: open.first,
            parts,
        })
    }

    /// Frames were asked for up to this offset. How far the link is, if that is known at once.
    fn note_asked(&mut self, applied: Applied, offset: u64) -> Option<u64> {
        match applied {
            Applied::Now if self.pending.is_empty() => return Some(offset + 1),
            Applied::Now => self.pending.push_back((offset, true)),
            Applied::Later => {
                self.pending.push_back((offset, false));
                self.paused = self.pending.len() >= PENDING_MAX;
            }
            Applied::Alone => {
                self.pending.push_back((offset, false));
                self.waits_for = Some(offset);
                self.paused = true;
            }
        }
        None
    }

    /// Sees how much of what was applied is durable by now.
    fn note_synced(&mut self, is_kept: bool, shared: &Shared, now: Ms) {
        if !is_kept || self.loading.is_some() || !self.is_ringkeep {
            return self.synced.forget();
        }
        let durable = &shared.durable;
        if let Some((position, _)) = self.link.applied_position() {
            self.synced.note(now, position.offset, || durable.ends());
        }
        if let Some(offset) = self.synced.reached(|ends| durable.has_passed(ends)) {
            self.link.durable_through(offset);
        }
    }

    /// Loads what comes from the primary's history in the place of what is here, once what that history lacks
    /// is kept. `is_same`: the stream is the history of the shard.
    fn load_instead(&mut self, state: &mut State, load: Load, offset: u64, is_same: bool) {
        let rollbacks = &state.shared.rollbacks;
        let shards = match is_same {
            true => self.stream..self.stream + 1,
            false if self.are_all_kept.swap(true, Relaxed) => 0..0,
            false => 0..state.homes.shards.count(),
        };
        let known = shards.filter_map(|shard| {
            let mut known = Vec::from_iter(rollbacks.of_failover(shard));
            if is_same {
                known.push(self.link.position());
                known.extend(self.link.ancestry().histories());
            }
            (!known.is_empty()).then_some((shard, known))
        });
        let known: Vec<_> = known.collect();
        let primary = lock(&state.shared.follow)
            .as_ref()
            .map(|view| format!("{}:{}", view.host, view.port));
        let keeping = match known.is_empty() {
            true => None,
            false => Some(Keeping::begin(known, &primary.unwrap_or_default(), state)),
        };
        self.next_load = Some(NextLoad {
            load,
            session: self.session,
            offset,
            keeping,
            since: state.now,
        });
    }

    /// Goes on with what is to be done before the load that waits, and begins it if it `may` begin.
    fn go_on_to_load(&mut self, state: &mut State, may: bool) -> bool {
        let Some(next) = &mut self.next_load else {
            return false;
        };
        let is_kept = next
            .keeping
            .as_mut()
            .is_none_or(|keeping| keeping.step(state));
        if !is_kept {
            return false;
        }
        let was_keeping = next.keeping.take().is_some();
        let Some(next) = self.next_load.take_if(|_| may) else {
            return was_keeping;
        };
        self.start_load(state, next.load, next.offset);
        // The connection may be another one by now.
        self.loading = Some((next.session, next.offset));
        true
    }

    fn start_load(&mut self, state: &mut State, load: Load, offset: u64) {
        self.loading = Some((self.session, offset));
        self.paused = true;
        // Frames of the old history that are still under way were sent to their shards before the
        // load asks for them, and are applied before it.
        self.pending.clear();
        self.waits_for = None;
        state.start_load(load);
    }

    fn view(&self, now: Ms) -> LinkView {
        let status = self.link.status(now);
        LinkView {
            up: status.is_up && self.loading.is_none() && self.next_load.is_none(),
            syncing: self.loading.is_some()
                || self.next_load.is_some()
                || matches!(
                    status.state,
                    LinkState::Snapshot | LinkState::AwaitingSnapshot
                ),
            heard: status.last_io_age.map_or(0, |age| now.saturating_sub(age)),
            fresh_at: status.fresh_at.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            primary_next: status.upstream_next.unwrap_or(0),
            generation: status.received.generation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(shard: usize, stream: u64, generation: u64, offset: u64) -> (usize, Upstream) {
        let streams = 2;
        let upstream = Upstream {
            stream,
            streams,
            generation,
            offset,
        };
        (shard, upstream)
    }

    #[test]
    fn a_stream_meets_a_need_where_it_is_there_or_no_more_is_to_be_had() {
        let place = |applied, fresh_at| Place { applied, fresh_at };
        assert!(place(90, 0).meets(90, 1000) && !place(89, 1000).meets(90, 1000));
        // That ping may have been on its way before the snapshot.
        assert!(!place(89, 1000 + NEEDS_MS).meets(90, 1000));
        assert!(place(89, 1001 + NEEDS_MS).meets(90, 1000));
    }

    #[test]
    fn a_link_goes_on_only_if_every_shard_with_keys_of_it_is_a_copy() {
        let at = |generation, offset| Some(Position { generation, offset });
        let all = [
            of(0, 1, 7, 50),
            of(1, 1, 7, 40),
            of(2, 1, 7, 60),
            of(1, 0, 9, 5),
        ];
        assert_eq!(known(&all, 1, 2, 3), (at(7, 40), vec![(0, 50), (2, 60)]));
        // One of them was changed by a client.
        assert_eq!(known(&all[..2], 1, 2, 3), (None, vec![]));
        assert_eq!(known(&all, 0, 2, 3), (None, vec![]));
        // Of one stream per shard each is by itself.
        assert_eq!(known(&all, 0, 2, 1), (at(9, 5), vec![]));
        let mixed = [of(0, 1, 7, 50), of(1, 1, 8, 40)];
        assert_eq!(known(&mixed, 1, 2, 2), (None, vec![]));
        assert_eq!(known(&all, 1, 3, 3), (None, vec![]));
    }
}
