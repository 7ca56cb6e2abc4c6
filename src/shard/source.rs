//! Being followed: the replication ports of the shards that live on this core, and the replicas there.
//!
//! A link is fed straight from the memory that the shard's frames were composed in: what is sent is
//! references, gathered by the kernel. Where there is a journal, a frame goes to replicas once it is written
//! there. One send per link is under way; a slow replica costs nothing but what is kept for all of them, and
//! starts over once what it needs is kept no longer.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::Ordering::{Relaxed, SeqCst},
        mpsc,
    },
};

use bytes::Bytes;
use uring::{Chunk, GATHER_MAX, Outgoing, Reactor, SocketId, Usage};

use super::{
    chunks::BLOCK_LEN,
    durable::Fsync,
    in_place::InPlace,
    kept::{AWAY_MS, Away, Kept},
    keyring::Keyring,
    log,
    message::Message,
    meter::Lags,
    shared::{ReplicaView, Shared, lock},
    ship::{Sailed, Ship},
    state::State,
    tls::{NO_TLS_ANSWER, NO_TLS_HERE, is_record},
};
use crate::{
    base::Ms,
    cmd::{Shard, Walker, libraries},
    journal::{Ancestry, Position, Stream, frame::NUDGE},
    proof::{self, Fault, Heard, Purpose},
    recover,
    repl::{
        History, Part, discover,
        history::{Cursor, Lost, Peer},
        source::{Ack, Listener, Request, Said},
    },
    resp::Parser,
};

/// Bytes that one send has at most, but for its last piece.
const SEND_LEN: usize = 1 << 20;
/// Bytes of a snapshot that wait for a replica before the walk does.
const SHIP_AHEAD: usize = 2 << 20;
/// Blocks of a core's memory for snapshots: what one has on its way to a replica, and what is composed.
const BLOCKS: u32 = 8;
/// Bytes of a snapshot that a replica has not said to have before the walk waits: as large as the kernel lets
/// the buffer of a connection grow, and less than the memory for snapshots.
const KEPT_MAX: usize = (BLOCKS as usize - 1) * BLOCK_LEN;
/// While a core has requests in each turn, frames of up to so many bytes wait for others, to the end of the
/// millisecond: a send for each turn would cost more than what is sent.
const HOLD_LEN: usize = 64 << 10;
/// So much is kept of a snapshot that others take on for who may come back.
const AWAY_LEN_MAX: usize = 16 << 20;
/// Between two pings.
const PING_MS: Ms = 1000;
/// Frames that a replica of which nothing is known yet gets for that.
const NUDGES_MAX: u8 = 2;
/// A replica that takes nothing, or says nothing although it is asked, is given up after this.
const SILENCE_MS: Ms = 60_000;
/// A link on which nobody asks for anything is closed.
const GREETING_MS: Ms = 10_000;
/// Threads that read the journal of a shard for links; more links wait.
const READERS_MAX: usize = 4;
/// A kevy that asks whether it can go on waits 5 s for the answer, a ringkeep 15 s. Where the journal is not
/// read by then the answer is no.
const ANSWER_MS: Ms = 2500;
const ANSWER_RINGKEEP_MS: Ms = 12_000;
/// Between two looks into it for what is on its way there.
const READ_AGAIN_MS: Ms = 10;
/// Bytes that one reading of the journal has.
const READ_LEN: usize = 16 << 20;
/// A link is given up when the journal has so often not had what comes next.
const READ_FAILURES_MAX: u32 = 100;
/// Why the replicas of a walk start over.
const REMOVED: &str = "all keys were removed during its snapshot";
/// Most links of one shard.
const LINKS_MAX: usize = 256;
/// Most of them that have not proven the key of the nodes: a further one takes the place of the oldest.
const UNPROVEN_MAX: usize = 32;
/// Why such a one ends.
const CROWDED: &str = "others want to prove the node key";
/// Why a link ends that is none of a peer of this node, and how often that is logged.
const LACK_TOLD_MS: Ms = 60_000;
const NO_KEY_HERE: &str = "it has a node key, and this node has none (--node-key-file)";
/// While a replica takes in its snapshot, so much more is kept for it.
const PATIENCE: usize = 4;
/// Why a link ends that comes to a frame for which its replica has no words.
const UNTOLD: &str = "something happened that it cannot be told";
/// At least so much is kept behind a snapshot for replicas that take it slowly.
const BEHIND_MIN: usize = 16 << 20;
/// No replica can be so far.
const MAX_ASKED: u64 = 1 << 62;

/// See the module page.
#[derive(Default)]
pub(super) struct Source {
    ports: Vec<(SocketId, usize)>,
    feeds: Vec<Feed>,
    links: Vec<Link>,
    /// Replicas whose connections were lost within their snapshots.
    away: Vec<Away>,
    /// The gathers of this turn are composed here.
    pieces: Vec<Bytes>,
    /// Frames wait for more of them.
    holds: bool,
    /// Commands of this core when it was last looked at.
    commands: u64,
    /// When it was last told that somebody has a key, or TLS, and this node none.
    lack_told_at: Ms,
    /// Once there was a snapshot: is the memory for them registered with the ring?
    registered: Option<bool>,
}

/// One shard of this core, for its replicas.
struct Feed {
    shard: usize,
    /// A replica came that is a kevy.
    has_kevys: bool,
    /// What was written and belongs to another history than what is kept.
    ahead: Vec<Part>,
    /// As the shard counts them.
    gaps: u64,
    /// The histories that the shard's goes on from.
    ancestry: Ancestry,
    /// Keys are placed by slots.
    has_slots: bool,
    /// Replacements of the data set that were seen while the shard was here.
    replaced: u64,
    /// Held by each thread that reads the journal.
    readers: Arc<()>,
    history: History,
    /// When frames last went into it.
    taken: Ms,
    ship: Option<Ship>,
    /// The name of the last one.
    ship_name: u64,
    /// Bytes of its image that are counted, as [`Ship::image_len`] has them.
    counted: (u64, u64),
    /// Peers have all of a snapshot but its end, which they get once this is written.
    landing: Option<Landing>,
    parser: Parser,
    /// When a link was last there.
    used: Ms,
}

/// The end of a snapshot that waits.
struct Landing {
    /// The offset of the frame that says how far back peers are sent.
    mark: u64,
    last: Vec<Bytes>,
    first: u64,
    end: u64,
}

enum Stage {
    /// The key of the nodes is not proven yet; since when.
    Proving(Box<proof::Listener>, Ms),
    /// And will not be. It is told why.
    Refused(Ms),
    /// The handshake is not there yet.
    Greeting,
    /// It waits for the shard to be here.
    Asked(Request),
    /// It waits for the next snapshot to begin.
    Waiting,
    Shipping,
    /// What comes next is read from the journal: from this offset on, in another thread.
    Reading(u64, Option<Reading>),
    Streaming(Cursor),
}

/// What a thread reads for a link; nothing if the journal does not have it.
type Reading = mpsc::Receiver<Option<Vec<Part>>>;

struct Link {
    socket: SocketId,
    own: usize,
    peer: Option<SocketAddr>,
    listener: Listener,
    stage: Stage,
    id: String,
    /// Where it asked to go on.
    asked: u64,
    /// In which history.
    asked_in: u64,
    has_generation: bool,
    kind: Peer,
    /// It has not come to the end of what is kept since its snapshot.
    is_new: bool,
    /// It has said that it understands pings.
    takes_pings: bool,
    /// Frames that were only sent to hear of it.
    nudges: u8,
    ping_at: Ms,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    sending: bool,
    in_place: InPlace,
    /// What of its snapshot may not have arrived.
    kept: Option<Kept>,
    acked: u64,
    durable: Option<u64>,
    /// Of which epoch's primary it says that its acknowledgements are.
    epoch: Option<u64>,
    /// When it last took or said something.
    alive: Ms,
    acked_at: Ms,
    /// The end of what is kept, as of the last turn in which the link streamed.
    seen: Option<u64>,
    /// An offset that it has not acknowledged, and since when that is there: by the clock that nobody sets.
    awaited: Option<(u64, Ms)>,
    lags: Arc<Lags>,
    /// It goes on from where it was, or does not, as was just found out.
    decided: Option<bool>,
    /// How often the journal did not have what comes next, and when it is asked again.
    failures: u32,
    read_at: Ms,
    gone: Option<&'static str>,
    /// That is because the connection was lost.
    is_lost: bool,
}

impl Source {
    /// Of a core with these shards.
    pub fn new(own: impl Iterator<Item = usize>) -> Self {
        Self {
            feeds: own
                .map(|shard| Feed {
                    shard,
                    has_kevys: false,
                    ahead: Vec::new(),
                    gaps: 0,
                    ancestry: Ancestry::default(),
                    has_slots: false,
                    replaced: 0,
                    readers: Arc::default(),
                    history: History::new(0),
                    taken: 0,
                    ship: None,
                    ship_name: 0,
                    counted: (0, 0),
                    landing: None,
                    parser: Parser::default(),
                    used: 0,
                })
                .collect(),
            ..Self::default()
        }
    }

    /// A listener is the replication port of one of this core's shards.
    pub fn listens(&mut self, listener: SocketId, own: usize) {
        self.ports.push((listener, own));
    }

    /// Takes in a connection, if it came to a replication port.
    pub fn accept<R: Reactor>(
        &mut self,
        listener: SocketId,
        socket: SocketId,
        peer: Option<SocketAddr>,
        (ring, now): (Option<&Keyring>, Ms),
        reactor: &mut R,
    ) -> bool {
        let found = self.ports.iter().find(|(port, _)| *port == listener);
        let Some(own) = found.map(|(_, own)| *own) else {
            return false;
        };
        let is_there = |link: &&Link| link.own == own && link.gone.is_none() && !link.is_unproven();
        let count = self.links.iter().filter(is_there).count();
        let purpose = Purpose::Stream(self.feeds[own].shard as u32);
        let stage = match ring.map(|ring| ring.listener(purpose)) {
            None => Stage::Greeting,
            Some(Ok(listener)) => Stage::Proving(Box::new(listener), now),
            Some(Err(_)) => Stage::Refused(now),
        };
        let is_full = count >= LINKS_MAX && !self.make_room(own);
        if is_full || matches!(stage, Stage::Refused(_)) {
            reactor.close(socket);
            return true;
        }
        reactor.start_receiving(socket);
        if ring.is_none() {
            self.feeds[own].used = now;
        } else {
            self.make_room_at(own);
        }
        self.links.push(Link {
            socket,
            own,
            peer,
            listener: Listener::default(),
            stage,
            id: String::new(),
            asked: 0,
            asked_in: 0,
            has_generation: false,
            kind: Peer::Kevy,
            is_new: false,
            takes_pings: false,
            nudges: 0,
            ping_at: now,
            out: VecDeque::new(),
            out_bytes: 0,
            sending: false,
            in_place: InPlace::new(reactor.may_send_in_place(socket)),
            kept: None,
            acked: 0,
            durable: None,
            epoch: None,
            alive: now,
            acked_at: now,
            seen: None,
            awaited: None,
            lags: Arc::default(),
            decided: None,
            failures: 0,
            read_at: 0,
            gone: None,
            is_lost: false,
        });
        true
    }

    /// Ends the link of a shard on which nobody has asked for anything for longest; false if there is none.
    fn make_room(&mut self, own: usize) -> bool {
        let greets = |link: &&mut Link| {
            link.own == own && link.gone.is_none() && matches!(link.stage, Stage::Greeting)
        };
        let silent = self.links.iter_mut().filter(greets);
        let silent = silent.min_by_key(|link| link.alive);
        let found = silent.map(|link| link.gone = Some("it asks for nothing, and others wait"));
        found.is_some()
    }

    /// Who has been slowest to prove the key leaves, where many want to.
    fn make_room_at(&mut self, own: usize) {
        let waits = |link: &&mut Link| link.own == own && link.gone.is_none() && link.is_unproven();
        let mut unproven = self.links.iter_mut().filter(waits);
        let oldest = unproven.next();
        if let Some(oldest) = oldest
            && unproven.count() + 1 >= UNPROVEN_MAX
        {
            oldest.gone = Some(CROWDED);
        }
    }

    /// This node is no primary any more, or another one: no replica goes on here. Kevys are not looked after
    /// any longer either, so that a stream can go on as that of the next primary.
    pub fn leave_all(&mut self, state: &mut State) {
        for link in &mut self.links {
            link.gone.get_or_insert("this node's part has changed");
        }
        self.away.clear();
        for feed in &mut self.feeds {
            feed.has_kevys = false;
            if state.homes.shards.has(feed.shard)
                && let Some(stream) = &mut state.homes.shards.shard(feed.shard).stream
            {
                stream.set_plain(false);
            }
        }
    }

    /// Is the socket a replica's?
    pub fn has_link(&self, socket: SocketId) -> bool {
        self.links.iter().any(|link| link.socket == socket)
    }

    fn link(&mut self, socket: SocketId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.socket == socket)
    }

    /// Takes in what a replica said, if the socket is one's.
    pub fn on_data(&mut self, state: &mut State, socket: SocketId, bytes: &[u8]) -> bool {
        let (now, boot_clock) = (state.now, state.boot_clock);
        let Some(link) = self.link(socket) else {
            return false;
        };
        if link.is_unproven() {
            link.prove(bytes, &state.shared, now);
            return true;
        }
        let lacks = match &link.stage {
            Stage::Greeting if proof::is_hello(bytes) => Some(NO_KEY_HERE),
            Stage::Greeting if is_record(bytes) => Some(NO_TLS_HERE),
            _ => None,
        };
        if let Some(lacks) = lacks {
            link.stage = Stage::Refused(now);
            match lacks {
                NO_TLS_HERE => link.say(NO_TLS_ANSWER.into()),
                lacks => link.gone = Some(lacks),
            }
            let text = format!("replica {}: {lacks}", link.name());
            if now >= self.lack_told_at + LACK_TOLD_MS {
                self.lack_told_at = now;
                log(&text);
            }
            return true;
        }
        let (mut request, mut ack) = (None, None);
        let heard = link.listener.hear(bytes, |said| match said {
            Said::Request(said) => request = Some(said),
            Said::Ack(said) => ack = Some(said),
        });
        if heard.is_err() {
            link.gone = Some("it says what no replica says");
        }
        let mut came_back = None;
        if let Some(request) = request {
            if let Some((ship, _)) = request.image {
                came_back = Some((link.own, request.id.clone(), ship));
            }
            link.stage = Stage::Asked(request);
            link.alive = now;
        }
        if let (Some(kept), Some(ack)) = (&mut link.kept, &ack) {
            match (ack.image, kept.landed) {
                (Some(image), _) => kept.arrived(image),
                // It has all of it.
                (None, Some(_)) => link.kept = None,
                (None, None) => {}
            }
        }
        let streams = matches!(link.stage, Stage::Streaming(_));
        let is_elected = streams && ack.is_some_and(|ack| ack.epoch != link.epoch);
        if let (Some(ack), true) = (&ack, is_elected) {
            link.epoch = ack.epoch;
        }
        if let (
            Some(Ack {
                applied, durable, ..
            }),
            Stage::Streaming(cursor),
        ) = (ack, &link.stage)
        {
            // Who understands a ping or has frames answers; a replica before that never does.
            (link.takes_pings, link.alive, link.acked_at) = (true, now, now);
            // Nobody has what was not sent.
            let sent = cursor.offset();
            let is_further = applied > link.acked && applied <= sent;
            let is_safer = durable > link.durable && durable.is_some_and(|durable| durable <= sent);
            if is_further || is_safer || is_elected {
                link.acked = if is_further { applied } else { link.acked };
                link.measure(boot_clock);
                link.durable = if is_safer { durable } else { link.durable };
                let own = link.own;
                // Before others see how far it is, and go on with what comes of that.
                self.agree(own, state);
                self.publish(own, state);
                state.tell_acks();
            }
        }
        if let Some((own, id, ship)) = came_back {
            // The connection that it lost may look well from here still.
            let is_it = |link: &&mut Link| link.own == own && link.id == id;
            for link in self.links.iter_mut().filter(is_it) {
                if link.kept.as_ref().is_some_and(|kept| kept.ship == ship) {
                    link.lose("it came back");
                    self.away.extend(link.part(now));
                }
            }
        }
        true
    }

    /// A send is over, if the socket is a replica's.
    pub fn on_sent(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        let Some(link) = self.link(socket) else {
            return false;
        };
        (link.sending, link.alive) = (false, now);
        if !is_good {
            link.lose("the connection failed");
        }
        true
    }

    /// What was sent in place is not needed any more, and the kernel tells how that went.
    pub fn on_released(&mut self, socket: SocketId, usage: Usage, shared: &Shared) {
        let mut links = self.links.iter_mut();
        let Some(link) = links.find(|link| link.socket == socket) else {
            return;
        };
        let replicas = &shared.replicas[self.feeds[link.own].shard];
        match usage {
            Usage::InPlace => replicas.confirmed.fetch_add(1, Relaxed),
            Usage::Copied => replicas.copied.fetch_add(1, Relaxed),
            Usage::Refused => 0,
        };
        if link.in_place.told(usage) {
            replicas.fallbacks.fetch_add(1, Relaxed);
        }
    }

    /// Nothing more comes from a socket, if it is a replica's.
    pub fn on_end(&mut self, socket: SocketId) -> bool {
        let Some(link) = self.link(socket) else {
            return false;
        };
        link.lose("it left");
        true
    }

    /// Must the core not sleep?
    pub fn has_work(&self) -> bool {
        let walks = |own: usize| {
            let aboard = |link: &&Link| link.own == own && matches!(link.stage, Stage::Shipping);
            let mut links = self.links.iter().filter(aboard).peekable();
            links.peek().is_some() && links.all(|link| !link.is_behind())
        };
        let reads = |link: &Link| matches!(link.stage, Stage::Reading(_, Some(_)));
        let mut feeds = self.feeds.iter().enumerate();
        self.holds
            || feeds.any(|(own, feed)| feed.ship.is_some() && feed.landing.is_none() && walks(own))
            || self.links.iter().any(reads)
    }

    /// What the turn produced goes to the replicas; true if there was anything.
    pub fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        for (own, part) in std::mem::take(&mut state.written) {
            let feed = &mut self.feeds[own];
            match part.generation() == feed.history.generation() && feed.ahead.is_empty() {
                true => feed.history.push(part),
                // Until the shard is here, and tells what that means for those who follow.
                false => feed.ahead.push(part),
            }
        }
        self.holds = false;
        if self.links.is_empty() && !state.feeding.iter().any(|feeding| *feeding) {
            return false;
        }
        let replaced = state.shared.durable.replaced.load(SeqCst);
        let commands = state.stats.commands;
        let is_busy = std::mem::replace(&mut self.commands, commands) != commands;
        let mut worked = false;
        for link in self.links.iter_mut().filter(|link| link.is_lost) {
            self.away.extend(link.part(state.now));
        }
        for own in 0..self.feeds.len() {
            worked |= self.feed(own, (replaced, is_busy), state, reactor);
        }
        for at in 0..self.links.len() {
            worked |= self.pump(at, state, reactor);
            let link = &mut self.links[at];
            link.await_ack(&self.feeds[link.own].history, state.boot_clock);
        }
        self.drop_gone(state, reactor);
        worked
    }

    /// Keeps what a shard did, and goes on with its snapshot.
    fn feed<R: Reactor>(
        &mut self,
        own: usize,
        (replaced, is_busy): (u64, bool),
        state: &mut State,
        reactor: &mut R,
    ) -> bool {
        let feed = &mut self.feeds[own];
        feed.has_slots = state.has_slots();
        if !state.homes.shards.has(feed.shard) || state.shared.loading.load(Relaxed) {
            return false;
        }
        let (links, away) = (&mut self.links, &mut self.away);
        let is_ours = |link: &Link| link.own == own && link.gone.is_none() && !link.is_unproven();
        let journals = state.shared.settings.journals;
        let mut ours = links.iter().filter(|link| is_ours(link));
        let asks = ours.any(|link| matches!(link.stage, Stage::Asked(_)));
        if asks && !state.feeding[own] {
            state.start_stream(own, feed.shard);
        }
        if !state.feeding[own] {
            return false;
        }
        let home = state.homes.shards.shard(feed.shard);
        let is_replaced = std::mem::replace(&mut feed.replaced, replaced) != replaced;
        if is_replaced
            && !journals
            && let Some(stream) = &mut home.stream
            && !stream.is_adopted()
        {
            let at = Position {
                generation: stream.generation(),
                offset: stream.next(),
            };
            **stream = Stream::new(feed.shard as u32, at.renewed(state.now));
        }
        // Of members only the one that was elected serves kevys: one that was started anew may lack what its
        // old replicas have, and would take it from them before they hear that it leads no more. Ringkeeps
        // see to that themselves.
        let election = state.shared.election.as_ref();
        let serves = election.is_none_or(|election| election.epoch_led.load(SeqCst) != 0);
        if serves && links.iter().any(|link| is_ours(link) && link.is_new_kevy()) {
            // It knows few of the primary's commands, and other histories than its own by offsets alone.
            home.part_from_primary(feed.shard, state.shared.settings.shards, state.now);
        }
        if let Some(stream) = &mut home.stream {
            stream.set_plain(feed.has_kevys);
        }
        let at = home.position();
        let is_other = feed.history.generation() != at.generation;
        let has_gap = std::mem::replace(&mut feed.gaps, home.gaps()) != home.gaps();
        if is_other || has_gap {
            let ancestry = home.stream.as_ref().map(|stream| stream.ancestry().clone());
            let old = Position {
                generation: feed.history.generation(),
                offset: feed.history.end().unwrap_or(0),
            };
            // Who follows the old one may find itself in the new one.
            let goes_on = !has_gap && ancestry.is_some_and(|ancestry| ancestry.has(old));
            let why = match goes_on {
                true => {
                    feed.history.turn(at.generation);
                    "the history goes on as another one"
                }
                false => {
                    feed.history = History::new(at.generation);
                    "the data set was replaced"
                }
            };
            home.end_walk(Walker::Replicas);
            (feed.ship, feed.landing) = (None, None);
            away.retain(|away| away.own != own);
            for link in links.iter_mut().filter(|link| is_ours(link)) {
                if !matches!(link.stage, Stage::Asked(_) | Stage::Greeting) {
                    link.gone = Some(why);
                }
            }
            return true;
        }
        for part in std::mem::take(&mut feed.ahead) {
            let end = Position {
                generation: part.generation(),
                offset: part.end(),
            };
            let stream = home.stream.as_ref();
            let is_before = stream.is_some_and(|stream| stream.ancestry().has(end));
            if end.generation == at.generation || is_before {
                feed.history.push(part);
            }
        }
        if journals
            && state.shared.durable.shards[feed.shard]
                .is_stuck
                .load(SeqCst)
        {
            // What is recorded before the journal goes on is in its new beginning, and comes to no replica.
            let was_sailing = feed.ship.take().is_some();
            if was_sailing {
                home.end_walk(Walker::Replicas);
                feed.landing = None;
                away.retain(|away| away.own != own || away.kept.landed.is_some());
            }
            for link in links.iter_mut().filter(|link| is_ours(link)) {
                if matches!(link.stage, Stage::Shipping) {
                    link.gone = Some("the journal makes a new beginning");
                }
            }
            return was_sailing;
        }
        let mut ours = links.iter().filter(|link| is_ours(link));
        let is_steady = ours.all(Link::only_streams);
        if !journals && let Some(stream) = &mut home.stream {
            let may_wait = is_steady
                && is_busy
                && feed.taken == state.now
                && stream.pending_bytes() < HOLD_LEN
                && state.shared.waiters.load(Relaxed) == 0
                && !state.gate.asks_majority();
            if may_wait {
                self.holds |= stream.pending_bytes() > 0;
            } else {
                feed.taken = state.now;
                while let Some(block) = stream.take_block() {
                    feed.history.push(Part::of(block).0);
                }
            }
        }
        let mut worked = false;
        let mut links: Vec<&mut Link> = match is_steady {
            // Mostly nobody wants more than what comes next.
            true => Vec::new(),
            false => links.iter_mut().filter(|link| is_ours(link)).collect(),
        };
        for link in &mut links {
            let is_kevy = |request: &Request| !request.is_ringkeep;
            if !serves && matches!(&link.stage, Stage::Asked(request) if is_kevy(request)) {
                link.gone.get_or_insert("this node is not the primary");
                worked = true;
                continue;
            }
            if let Stage::Asked(request) = &link.stage {
                let request = request.clone();
                let stream = home.stream.as_ref();
                let is_further = request.at.generation == at.generation
                    && request.at.offset > at.offset
                    && stream.is_some_and(|stream| stream.is_adopted());
                if is_further && state.now.saturating_sub(link.alive) < ANSWER_MS {
                    // It has what is still to come here: from the primary, where a crash took it from us.
                    continue;
                }
                let is_before =
                    request.at.generation == at.generation && request.at.offset < at.offset;
                if !is_before && !stream.is_none_or(|stream| stream.knows_database()) {
                    // Nobody can be told in which database the next frame is before the primary says it.
                    continue;
                }
                let database = stream.map_or(0, |stream| stream.database());
                let ancestry = stream.map(|stream| stream.ancestry().clone());
                feed.ancestry = ancestry.unwrap_or_default();
                let is_it = |away: &Away| {
                    let ship = request.image.map(|(ship, _)| ship);
                    away.own == own && away.id == request.id && Some(away.kept.ship) == ship
                };
                if let Some(found) = away.iter().position(is_it)
                    && link.take_up(&request, away.swap_remove(found).kept, at, feed)
                {
                    let count = &state.shared.replicas[feed.shard].taken_up;
                    count.fetch_add(1, Relaxed);
                    worked = true;
                    continue;
                }
                link.answer(request, (at, database), feed, journals);
                if link.kind == Peer::Kevy
                    && let Some(stream) = &mut home.stream
                {
                    feed.has_kevys = true;
                    stream.set_plain(true);
                }
                worked = true;
            }
            if let Stage::Reading(from, reading) = &mut link.stage
                && link.out.is_empty()
            {
                let (from, reading) = (*from, reading.take());
                link.read_on(from, reading, feed, at, (&state.shared, state.now));
                worked = true;
            }
            if let Some(goes_on) = link.decided.take() {
                let (asked, generation) = (link.asked, link.asked_in);
                log(&match goes_on {
                    true => format!("replica {} goes on at {asked}", link.name()),
                    false => format!(
                        "replica {} at {asked} of {generation} gets a snapshot: here are {:?} to {} of {}",
                        link.name(),
                        feed.history.first(),
                        at.offset,
                        at.generation,
                    ),
                });
                let replicas = &state.shared.replicas[feed.shard];
                let count = match goes_on {
                    true => &replicas.resumed,
                    false => &replicas.shipped,
                };
                count.fetch_add(1, Relaxed);
            }
        }
        let waits = |link: &&&mut Link| matches!(link.stage, Stage::Waiting);
        let knows_database = |stream: &Option<Box<Stream>>| {
            stream.as_ref().is_none_or(|stream| stream.knows_database())
        };
        if feed.ship.is_none()
            && knows_database(&home.stream)
            && let Some(peer) = links.iter().find(waits).map(|link| link.kind)
        {
            let mut ship = Ship::begin(home, peer);
            feed.counted = (0, 0);
            if self.registered.is_none() {
                // Without it snapshots leave from other memory.
                let is_registered = reactor
                    .make_arena(BLOCKS, BLOCK_LEN as u32)
                    .unwrap_or(false);
                self.registered = Some(is_registered);
            }
            if feed.shard == libraries::HOME && peer == Peer::All {
                ship.tell_libraries(&state.shared.scripts.library_sources());
            }
            feed.ship = Some(ship);
            feed.ship_name = (feed.ship_name + 1).max(state.now);
            for link in links.iter_mut().filter(|link| link.kind == peer) {
                if let Some(removed) = link.begin_ship(feed.ship_name) {
                    feed.history.doubt(removed + 1, removed + 2);
                }
            }
        }
        if feed.ship.is_some() {
            let backlog_len = state.tunables.backlog_len;
            let is_aboard = |link: &&&mut Link| matches!(link.stage, Stage::Shipping);
            let aboard = links.iter().filter(is_aboard).count() as u64;
            let parties = (&mut links[..], &mut *away, own);
            let take = &mut || reactor.take_chunk();
            worked |= feed.sail(home, parties, (&state.shared, backlog_len), take);
            if let Some(ship) = &feed.ship {
                let (large, all) = ship.image_len();
                let counted = std::mem::replace(&mut feed.counted, (large, all));
                let replicas = &state.shared.replicas[feed.shard];
                let count = &replicas.ship_bytes;
                count.fetch_add(aboard * (all - counted.1), Relaxed);
                if self.registered == Some(true) {
                    let count = &replicas.ship_bytes_registered;
                    count.fetch_add(aboard * (large - counted.0), Relaxed);
                }
            }
        }
        let is_patient = links.iter().any(|link| link.is_new);
        let mut limit = state.tunables.backlog_len;
        if is_patient {
            let patience = limit.saturating_mul(PATIENCE).max(BEHIND_MIN);
            // As with Redis, never less than what is kept for everybody.
            limit = match state.tunables.output_limits.replica.hard {
                0 => patience,
                hard => patience.min(hard.max(limit)),
            };
        }
        while let Some(bytes) = feed.history.trim(limit) {
            if let Some(stream) = &mut home.stream {
                stream.reuse(bytes);
            }
        }
        worked
    }

    /// Sends what comes next.
    fn pump<R: Reactor>(&mut self, at: usize, state: &mut State, reactor: &mut R) -> bool {
        let link = &mut self.links[at];
        if link.sending || link.gone.is_some() {
            return false;
        }
        let feed = &mut self.feeds[link.own];
        let replicas = &state.shared.replicas[feed.shard];
        let pieces = &mut self.pieces;
        let mut len = 0;
        while pieces.len() < GATHER_MAX - 1
            && len < SEND_LEN
            && let Some(piece) = link.out.pop_front()
        {
            len += piece.len();
            pieces.push(piece);
        }
        link.out_bytes -= len;
        if let (Stage::Streaming(cursor), true) = (&mut link.stage, link.out.is_empty()) {
            let room = (GATHER_MAX - 1, SEND_LEN.saturating_sub(len));
            let before = pieces.len();
            match feed.history.gather(cursor, link.kind, room, pieces) {
                Ok(more) => {
                    len += more;
                    replicas.frame_bytes.fetch_add(more as u64, Relaxed);
                    link.is_new &= more > 0 || room.1 == 0;
                }
                Err(Lost::TooOld) => link.gone = Some("it is too slow"),
                Err(Lost::Untold) => link.gone = Some(UNTOLD),
            }
            let composed = feed.history.take_composed();
            replicas.frame_bytes_copied.fetch_add(composed, Relaxed);
            // Whoever gets frames is to say when it has them, if replies wait for that.
            let counts = link.kind == Peer::All && state.gate.asks_majority();
            let is_asked = counts && pieces.len() > before;
            if link.takes_pings && (is_asked || state.now >= link.ping_at) {
                link.ping_at = state.now + PING_MS;
                let next = state.homes.stream_end(feed.shard);
                let generation = feed.history.generation();
                pieces.push(format!("+PING {generation} {next}\r\n").into());
            }
            let is_unheard = !link.takes_pings && link.nudges < NUDGES_MAX;
            if is_unheard && state.now >= link.ping_at && state.homes.shards.has(feed.shard) {
                // Some acknowledge frames and pings; others fail at a ping and never acknowledge anything.
                (link.ping_at, link.nudges) = (state.now + PING_MS, link.nudges + 1);
                if let Some(stream) = &mut state.homes.shards.shard(feed.shard).stream {
                    stream.note(std::iter::once(NUDGE.as_bytes()));
                    stream.end_unit();
                }
            }
        }
        if pieces.is_empty() {
            return false;
        }
        let pieces = std::mem::take(pieces);
        replicas.sent.fetch_add(len as u64, Relaxed);
        replicas.sends.fetch_add(1, Relaxed);
        link.sending = if link.in_place.wants(&pieces, len) {
            replicas.sends_in_place.fetch_add(1, Relaxed);
            link.in_place.sent();
            reactor.send_in_place(link.socket, pieces).is_ok()
        } else {
            reactor.send(link.socket, Outgoing::Gather(pieces)).is_ok()
        };
        if !link.sending {
            link.lose("the connection failed");
        }
        true
    }

    fn drop_gone<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        let mut dropped = Vec::new();
        self.links.retain_mut(|link| {
            if matches!(link.stage, Stage::Refused(_)) && link.out.is_empty() && !link.sending {
                link.gone.get_or_insert("it was told why");
            }
            let Some(why) = link.gone else {
                return true;
            };
            self.away.extend(link.part(state.now));
            reactor.close(link.socket);
            if link.is_unproven() {
                // It was told where it was refused.
                return false;
            }
            dropped.push((link.own, format!("replica {}: {why}", link.name())));
            false
        });
        for (own, text) in dropped {
            self.publish(own, state);
            state.log_seldom(&text);
        }
    }

    /// All links are to say how far they are.
    pub fn ask_acks(&mut self) {
        for link in &mut self.links {
            link.ping_at = 0;
        }
    }

    /// The beat: time-outs, and who is there.
    pub fn tick(&mut self, state: &mut State) {
        let now = state.now;
        for link in &mut self.links {
            if let Stage::Proving(_, since) | Stage::Refused(since) = link.stage {
                if now.saturating_sub(since) > proof::PATIENCE_MS {
                    link.refuse(Fault::Late, &state.shared, now);
                }
                continue;
            }
            // The kernel takes what is sent to a process that was stopped, so that says nothing of one that
            // has acknowledged before.
            let heard = match link.acked > 0 && matches!(link.stage, Stage::Streaming(_)) {
                true => link.acked_at,
                false => link.alive,
            };
            let silent = now.saturating_sub(heard);
            let is_waited_for = link.sending || link.takes_pings;
            if matches!(link.stage, Stage::Greeting) && silent > GREETING_MS {
                link.gone = Some("it asks for nothing");
            } else if is_waited_for && silent > SILENCE_MS {
                link.lose("it is silent");
            }
            self.feeds[link.own].used = now;
        }
        self.away
            .retain(|away| now.saturating_sub(away.since) < AWAY_MS);
        for own in 0..self.feeds.len() {
            state.leave_primary(self.feeds[own].shard);
            if !state.feeding[own] {
                continue;
            }
            self.agree(own, state);
            self.publish(own, state);
            let feed = &mut self.feeds[own];
            let is_idle = now.saturating_sub(feed.used) > state.tunables.backlog_ttl_secs * 1000;
            if is_idle
                && state.tunables.backlog_ttl_secs > 0
                && state.homes.shards.has(feed.shard)
                && !state
                    .homes
                    .shards
                    .shard(feed.shard)
                    .is_walked(Walker::Digest)
            {
                state.feeding[own] = false;
                (feed.history, feed.has_kevys) = (History::new(0), false);
                self.publish(own, state);
                let feed = &self.feeds[own];
                if !state.shared.settings.journals {
                    let epoch = state.shared.epoch.load(SeqCst);
                    let home = state.homes.shards.shard(feed.shard);
                    home.drop_stream(epoch);
                    state.homes.refresh(feed.shard);
                } else if let Some(stream) = &mut state.homes.shards.shard(feed.shard).stream {
                    stream.set_plain(false);
                }
            }
        }
    }

    /// Sees how much of a shard a majority of the members has, and lets go what waits for that. What is to be
    /// durable here before it is told must be so there, too.
    fn agree(&self, own: usize, state: &mut State) {
        if !state.gate.waits_for_majority() {
            return;
        }
        let Some(election) = &state.shared.election else {
            return;
        };
        let (led, needed) = (
            election.epoch_led.load(SeqCst),
            election.others_needed.load(Relaxed),
        );
        let is_durable = state.tunables.fsync == Fsync::Always && state.shared.settings.journals;
        let of_members = self.links.iter().filter(|link| {
            let is_told = link.gone.is_none() && link.kind == Peer::All;
            is_told && link.own == own && led > 0 && link.epoch == Some(led)
        });
        let reached = of_members.map(|link| {
            let ReplicaView {
                ip,
                port,
                acked,
                durable,
                ..
            } = link.view();
            let reached = if is_durable {
                durable.unwrap_or(0)
            } else {
                acked
            };
            ((ip, port), reached)
        });
        let shard = self.feeds[own].shard;
        let agreed = agreed(reached.collect(), needed);
        let mark = &state.shared.durable.shards[shard].agreed;
        if mark.fetch_max(agreed, SeqCst) < agreed {
            state.on_agreed(shard);
        }
    }

    /// Tells who follows a shard.
    fn publish(&self, own: usize, state: &State) {
        let feed = &self.feeds[own];
        let links = self.links.iter().filter(|link| link.own == own);
        let views = links.filter(|link| link.gone.is_none() && !link.id.is_empty());
        *lock(&state.shared.replicas[feed.shard].links) = views.map(Link::view).collect();
        let replicas = &state.shared.replicas[feed.shard];
        replicas.bytes.store(feed.history.bytes() as u64, Relaxed);
        replicas
            .first
            .store(feed.history.first().unwrap_or_default(), Relaxed);
    }
}

/// How far so many of these members are, at least. One whose connection was lost may have another one.
fn agreed(reached: Vec<((IpAddr, u16), u64)>, needed: usize) -> u64 {
    let mut members: BTreeMap<(IpAddr, u16), u64> = BTreeMap::new();
    for (member, offset) in reached {
        let furthest = members.entry(member).or_default();
        *furthest = offset.max(*furthest);
    }
    let mut offsets: Vec<u64> = members.into_values().collect();
    offsets.sort_unstable_by(|one, other| other.cmp(one));
    let last = needed.checked_sub(1).and_then(|at| offsets.get(at));
    last.copied().unwrap_or(0)
}

impl Feed {
    /// Has nothing come out of the journal yet, and is something on its way into it?
    fn is_behind(&self, shared: &Shared, at: Position) -> bool {
        let passed = shared.durable.shards[self.shard].passed.load(SeqCst);
        self.history.first().is_none() && passed < at.offset
    }

    /// Goes on with the snapshot.
    fn sail(
        &mut self,
        home: &mut Shard,
        (links, away, own): (&mut [&mut Link], &mut Vec<Away>, usize),
        (shared, backlog_len): (&Shared, usize),
        take: &mut dyn FnMut() -> Option<Chunk>,
    ) -> bool {
        let is_waited_for = links
            .iter()
            .any(|link| matches!(link.stage, Stage::Waiting));
        let mut aboard: Vec<_> = links
            .iter_mut()
            .filter(|link| matches!(link.stage, Stage::Shipping))
            .collect();
        let Some(ship) = &mut self.ship else {
            return false;
        };
        let name = self.ship_name;
        let is_of_it = |away: &Away| {
            let Kept { ship, landed, .. } = &away.kept;
            away.own == own && *ship == name && landed.is_none()
        };
        if aboard.is_empty() && (is_waited_for || !away.iter().any(is_of_it)) {
            // Others do not wait for who may never come back.
            away.retain(|away| !is_of_it(away));
            home.end_walk(Walker::Replicas);
            (self.ship, self.landing) = (None, None);
            return false;
        }
        if let Some(landing) = &mut self.landing {
            // Who has a part of what follows the image must find it said, also after a crash.
            // What a primary has said, it has.
            let is_ours = home
                .stream
                .as_ref()
                .is_none_or(|stream| !stream.is_adopted());
            let is_written = self.history.end().is_some_and(|end| end > landing.mark);
            if shared.settings.journals && is_ours && !is_written {
                return false;
            }
            self.history.doubt(landing.first, landing.end);
            for away in away.iter_mut().filter(|away| is_of_it(away)) {
                away.kept.extend(&landing.last);
                away.kept.landed = Some(landing.end);
            }
            for link in aboard {
                link.ship(&landing.last);
                link.land(landing.end);
                if let Some(kept) = &mut link.kept {
                    kept.landed = Some(landing.end);
                }
            }
            (self.ship, self.landing) = (None, None);
            return true;
        }
        if aboard.is_empty() || aboard.iter().any(|link| link.is_behind()) {
            if !ship.follow(home) {
                for link in aboard {
                    link.gone = Some(REMOVED);
                }
                away.retain(|away| !is_of_it(away));
                self.ship = None;
            } else if ship.behind() > backlog_len.saturating_mul(PATIENCE).max(BEHIND_MIN) {
                for link in aboard.iter_mut().filter(|link| link.is_behind()) {
                    link.gone = Some("it is too slow for its snapshot");
                }
                away.retain(|away| !is_of_it(away));
            }
            return false;
        }
        let mut out = Vec::new();
        match ship.sail(home, take, shared, &mut out) {
            Sailed::On => {
                for away in away.iter_mut().filter(|away| is_of_it(away)) {
                    away.kept.extend(&out);
                }
                away.retain(|away| !is_of_it(away) || away.kept.len() <= AWAY_LEN_MAX);
                for link in aboard {
                    link.ship(&out);
                }
            }
            Sailed::Done { first, end } => {
                let mark = home.position().offset - 1;
                self.landing = Some(Landing {
                    mark,
                    last: out,
                    first,
                    end,
                });
            }
            Sailed::Void => {
                for link in aboard {
                    link.gone = Some(REMOVED);
                }
                away.retain(|away| !is_of_it(away));
                self.ship = None;
            }
        }
        true
    }
}

impl Link {
    /// Is it still, or for good, one of somebody who has not proven the key of the nodes?
    fn is_unproven(&self) -> bool {
        matches!(self.stage, Stage::Proving(..) | Stage::Refused(_))
    }

    /// Takes in what somebody says who has not proven the key.
    fn prove(&mut self, bytes: &[u8], shared: &Shared, now: Ms) {
        let Stage::Proving(listener, _) = &mut self.stage else {
            return;
        };
        match listener.hear(bytes) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Say(line)) => self.say(line),
            Ok(Heard::Proven(line)) => {
                self.say(line);
                (self.stage, self.alive) = (Stage::Greeting, now);
            }
            // A replica looks what this port is.
            Err(Fault::Plain) if discover::is_question(bytes) => {
                self.gone = Some("it asks who this is");
            }
            Err(fault) => self.refuse(fault, shared, now),
        }
    }

    fn refuse(&mut self, fault: Fault, shared: &Shared, now: Ms) {
        if let (Stage::Proving(listener, _), Some(ring)) = (&self.stage, &shared.node_key) {
            let from = self.peer.map(|peer| peer.ip());
            ring.refuse(listener.purpose(), from, fault, now);
            self.stage = Stage::Refused(now);
        }
        match fault.answer() {
            Some(answer) => self.say(answer.into()),
            None => self.gone = Some(fault.text()),
        }
    }

    /// Is so much on its way to it that a snapshot has to wait?
    fn is_behind(&self) -> bool {
        let kept = self.kept.as_ref().map_or(0, Kept::len);
        let is_much = self.out_bytes > SHIP_AHEAD || kept > KEPT_MAX;
        matches!(self.stage, Stage::Shipping) && is_much
    }

    /// Is it a kevy that has just said what it wants?
    fn is_new_kevy(&self) -> bool {
        matches!(&self.stage, Stage::Asked(request) if !request.is_ringkeep)
    }

    /// Does it get what comes next, and has been for a while?
    fn only_streams(&self) -> bool {
        matches!(self.stage, Stage::Streaming(_)) && !self.is_new && self.decided.is_none()
    }

    fn extend(&mut self, pieces: &[Bytes]) {
        for piece in pieces {
            self.out_bytes += piece.len();
            self.out.push_back(piece.clone());
        }
    }

    /// Sends what belongs to its snapshot.
    fn ship(&mut self, pieces: &[Bytes]) {
        if let Some(kept) = &mut self.kept {
            kept.extend(pieces);
        }
        self.extend(pieces);
    }

    /// All of its snapshot is sent; `end` is what follows.
    fn land(&mut self, end: u64) {
        self.stage = Stage::Streaming(Cursor::new(end));
        self.is_new = true;
        (self.acked, self.durable) = (0, None);
    }

    /// The connection is gone, and the replica may come back.
    fn lose(&mut self, why: &'static str) {
        self.gone.get_or_insert(why);
        self.is_lost = true;
    }

    /// What it needs to go on with its snapshot when it comes back, if it was in one.
    fn part(&mut self, now: Ms) -> Option<Away> {
        let kept = self.kept.take().filter(|_| self.is_lost)?;
        let is_in_it = matches!(self.stage, Stage::Shipping) || kept.landed.is_some();
        is_in_it.then(|| Away {
            own: self.own,
            id: self.id.clone(),
            kept,
            since: now,
        })
    }

    /// Goes on with a snapshot behind the bytes of its image that arrived over an earlier connection; false
    /// if that cannot be.
    fn take_up(&mut self, request: &Request, mut kept: Kept, at: Position, feed: &Feed) -> bool {
        let image = request.image.map_or(0, |(_, image)| image);
        let is_there =
            kept.landed.is_some() || (feed.ship.is_some() && feed.ship_name == kept.ship);
        let Some(rest) = kept.rest(image).filter(|_| is_there && image > 0) else {
            return false;
        };
        self.kind = Peer::All;
        (self.id, self.has_generation) = (request.id.clone(), true);
        (self.asked, self.asked_in) = (request.at.offset, request.at.generation);
        self.takes_pings = true;
        self.say_ack(at.generation, 0, feed);
        self.say(format!("+SNAPSHOT {} {image}\r\n", kept.ship));
        self.extend(&rest);
        kept.arrived(image);
        match kept.landed {
            Some(end) => self.land(end),
            None => self.stage = Stage::Shipping,
        }
        log(&format!(
            "replica {} goes on with its snapshot at byte {image}",
            self.name()
        ));
        self.kept = Some(kept);
        true
    }

    fn say(&mut self, text: String) {
        self.out_bytes += text.len();
        self.out.push_back(text.into());
    }

    /// Takes in the handshake. The stream is at `at`, its next frame in `database`.
    fn answer(
        &mut self,
        request: Request,
        (at, database): (Position, u32),
        feed: &mut Feed,
        journals: bool,
    ) {
        let history = &mut feed.history;
        self.kind = match request.is_ringkeep {
            true => Peer::All,
            false => Peer::Kevy,
        };
        (self.id, self.has_generation) = (request.id, request.has_generation);
        (self.asked, self.asked_in) = (request.at.offset, request.at.generation);
        // Who names no generation is told from others by offsets alone: no two histories share any.
        let is_ours = !self.has_generation
            || request.at.generation == at.generation
            || (self.kind == Peer::All && feed.ancestry.has(request.at));
        let goes_on = is_ours && history.has(self.asked, at.offset, self.kind);
        self.takes_pings = self.has_generation;
        let may_be_written = journals
            && is_ours
            && self.asked < at.offset
            && !history.is_doubtful(self.asked, self.kind)
            && history.first().is_none_or(|first| self.asked < first);
        (self.stage, self.decided) = if goes_on {
            let database = feed.history.database_at(self.asked, database);
            self.say_ack(at.generation, database, feed);
            (Stage::Streaming(Cursor::new(self.asked)), Some(true))
        } else if may_be_written {
            (Stage::Reading(self.asked, None), None)
        } else {
            self.say_ack(at.generation, 0, feed);
            (Stage::Waiting, Some(false))
        };
    }

    /// Answers the handshake; `database` is the one that the next frame finds itself in.
    fn say_ack(&mut self, generation: u64, database: u32, feed: &Feed) {
        let asked = self.asked;
        self.say(match (self.kind, self.has_generation) {
            (Peer::All, _) => {
                let slots = u8::from(feed.has_slots);
                let mut line = format!("+ACK {generation} {asked} {database} {slots}");
                for Position { generation, offset } in feed.ancestry.histories() {
                    line += &format!(" {generation} {offset}");
                }
                line + "\r\n"
            }
            (Peer::Kevy, true) => format!("+ACK {generation} {asked}\r\n"),
            (Peer::Kevy, false) => format!("+ACK {asked}\r\n"),
        });
    }

    /// Goes on with what is read from the journal from an offset on.
    fn read_on(
        &mut self,
        mut from: u64,
        reading: Option<Reading>,
        feed: &mut Feed,
        at: Position,
        (shared, now): (&Shared, Ms),
    ) {
        let is_first = from == self.asked;
        let is_kept = feed.history.end().is_some_and(|end| end > from);
        if is_first && is_kept && feed.history.has(from, at.offset, self.kind) {
            let database = feed.history.database_at(from, 0);
            self.say_ack(at.generation, database, feed);
            (self.stage, self.decided) = (Stage::Streaming(Cursor::new(from)), Some(true));
            return;
        }
        let patience = match self.kind {
            Peer::All => ANSWER_RINGKEEP_MS,
            Peer::Kevy => ANSWER_MS,
        };
        let is_late = is_first && now.saturating_sub(self.alive) > patience;
        match reading.as_ref().map(mpsc::Receiver::try_recv) {
            None if !is_late && now >= self.read_at => {}
            Some(Err(mpsc::TryRecvError::Empty)) if !is_late => {
                self.stage = Stage::Reading(from, reading);
                return;
            }
            Some(Ok(Some(parts))) => {
                for mut part in parts {
                    let mut composed = 0;
                    let tools = (&mut feed.parser, &mut composed);
                    let rest = part.rest(from, self.kind, tools);
                    let replicas = &shared.replicas[feed.shard];
                    replicas.frame_bytes_copied.fetch_add(composed, Relaxed);
                    let Some((head, bytes)) = rest else {
                        // It will ask again.
                        feed.history.doubt(self.asked, part.end());
                        self.gone = Some(UNTOLD);
                        return;
                    };
                    if self.decided.is_none() && is_first {
                        let database = part.database_at(from, &mut feed.parser);
                        self.say_ack(at.generation, database, feed);
                        self.decided = Some(true);
                    }
                    from = part.end();
                    self.extend(head.as_slice());
                    let len = bytes.len() as u64;
                    replicas.frame_bytes.fetch_add(len, Relaxed);
                    self.extend(&[bytes]);
                }
            }
            // What it asks for may be on its way to the journal, and comes to the history from there.
            Some(_) if is_first && !is_late && feed.is_behind(shared, at) => {
                self.read_at = now + READ_AGAIN_MS;
                self.stage = Stage::Reading(from, None);
                return;
            }
            None if !is_late => {
                self.stage = Stage::Reading(from, None);
                return;
            }
            _ if is_first => {
                self.say_ack(at.generation, 0, feed);
                (self.stage, self.decided) = (Stage::Waiting, Some(false));
                return;
            }
            // It was there a moment ago: a snapshot has made the journal shorter, or not all that was
            // written is there to be read yet.
            _ => self.failures += 1,
        }
        if self.failures > READ_FAILURES_MAX {
            self.gone = Some("the journal has what comes next no longer");
        } else if feed.history.reaches(from, at.offset) {
            self.stage = Stage::Streaming(Cursor::new(from));
        } else if Arc::strong_count(&feed.readers) > READERS_MAX {
            self.stage = Stage::Reading(from, None);
        } else {
            let (sender, receiver) = mpsc::channel();
            let reader = feed.readers.clone();
            let wanted = recover::Wanted {
                shard: feed.shard as u32,
                generation: at.generation,
                ancestry: feed.ancestry.clone(),
                from,
                comes_back: from == self.asked && self.kind == Peer::Kevy,
                len: READ_LEN,
            };
            let files = shared.durable.files.get().cloned();
            std::thread::spawn(move || {
                let found = files.and_then(|files| recover::frames(&*files, wanted).ok()?);
                // Who asked may be gone.
                let _ = sender.send(found);
                drop(reader);
            });
            self.stage = Stage::Reading(from, Some(receiver));
        }
    }

    /// A snapshot begins. Returns the offset of the frame that removes all keys before, if there is one.
    fn begin_ship(&mut self, name: u64) -> Option<u64> {
        if !matches!(self.stage, Stage::Waiting) {
            return None;
        }
        self.stage = Stage::Shipping;
        // The oldest ones load a snapshot over what they have.
        let removed = (!self.has_generation && self.asked < MAX_ASKED).then_some(self.asked);
        if let Some(at) = removed {
            self.say(format!("*2\r\n:{at}\r\n*1\r\n$8\r\nFLUSHALL\r\n"));
        }
        self.say(match self.kind {
            Peer::Kevy => "+SNAPSHOT\r\n".into(),
            Peer::All => format!("+SNAPSHOT {name}\r\n"),
        });
        self.kept = (self.kind == Peer::All).then(|| Kept::new(name));
        removed
    }

    fn name(&self) -> String {
        let at = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        format!("{:?} at {at}", self.id)
    }

    /// Begins to measure how long it takes until what has just come is acknowledged. What was there before
    /// the link was may be acknowledged at any time.
    fn await_ack(&mut self, history: &History, now: Ms) {
        if !matches!(self.stage, Stage::Streaming(_)) {
            return;
        }
        let end = history.end().unwrap_or(0);
        let seen = self.seen.replace(end);
        if self.awaited.is_none() && seen.is_some_and(|seen| end > seen) {
            self.awaited = Some((end, now));
        }
    }

    /// Notes how long that took, if it is.
    fn measure(&mut self, now: Ms) {
        if let Some((_, since)) = self.awaited.take_if(|(end, _)| *end <= self.acked) {
            self.lags.note(now.saturating_sub(since));
        }
    }

    fn view(&self) -> ReplicaView {
        // Newer ones are called by their client port: `kevy-replica-6004#0`.
        let name = self.id.split_once('#').map_or("", |(name, _)| name);
        let digits = name.rsplit('-').next().unwrap_or_default();
        ReplicaView {
            ip: self
                .peer
                .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip()),
            port: digits.parse().unwrap_or(0),
            is_online: matches!(self.stage, Stage::Streaming(_)) && self.out.is_empty(),
            acked: self.acked,
            durable: self.durable,
            epoch: self.epoch,
            is_kevy: self.kind == Peer::Kevy,
            acked_at: self.acked_at,
            lags: self.lags.clone(),
        }
    }
}

impl State {
    /// Have replicas been here lately, or may there have been some before the node started? What they lack
    /// is kept for them.
    pub(super) fn may_be_followed(&self, own: usize) -> bool {
        let since_start = self.now.saturating_sub(self.shared.started);
        let ttl = self.tunables.backlog_ttl_secs;
        self.feeding[own] || ttl == 0 || since_start < ttl * 1000
    }

    /// What happens to a shard of this core, which is here, is recorded from now on.
    pub(super) fn start_stream(&mut self, own: usize, shard: usize) {
        self.feeding[own] = true;
        if self.homes.shards.shard(shard).stream.is_none() {
            self.make_stream(shard, Position::UNKNOWN.renewed(self.now));
        }
    }

    /// Makes a stream for a shard of this core, which is here: where the shard is in the history of the
    /// primary, or else from here on.
    pub(super) fn make_stream(&mut self, shard: usize, at: Position) {
        let epoch = self.shared.epoch.load(SeqCst);
        let home = self.homes.shards.shard(shard);
        let stream = match home.take_place(epoch) {
            Some(place) => place.stream(shard),
            None => Stream::new(shard as u32, at),
        };
        home.stream = Some(Box::new(stream));
        self.homes.refresh(shard);
    }

    /// This node is to be the primary: what comes next of each of this core's shards is a history of its
    /// own.
    /// Those who follow may go on in it from where they are in the old one. False if a shard is not here.
    pub(super) fn begin_histories(&mut self) -> bool {
        let own: Vec<_> = self.homes.own().collect();
        if !own.iter().all(|shard| self.homes.shards.has(*shard)) {
            return false;
        }
        let reached = lock(&self.shared.upstreams).clone();
        for (at, shard) in own.into_iter().enumerate() {
            // Of this history nobody has acknowledged anything.
            self.shared.durable.shards[shard].agreed.store(0, SeqCst);
            self.start_stream(at, shard);
            let mut reached = reached.iter().filter(|(of, _)| *of == shard);
            if let Some(stream) = &mut self.homes.shards.shard(shard).stream {
                // The last frames of the old primary may have been for nobody here: it has them, too, and
                // goes on behind them.
                if let Some((_, of)) = reached.find(|(_, of)| of.generation == stream.generation())
                    && stream.skip_to(of.offset, stream.database())
                {
                    stream.end_unit();
                }
                stream.leave();
            }
        }
        self.publish_ends();
        true
    }

    /// Where the node follows nobody any more, what comes next of a shard is a history of its own.
    fn leave_primary(&mut self, shard: usize) {
        if !self.shared.following.load(SeqCst)
            && self.homes.shards.has(shard)
            && let Some(stream) = &mut self.homes.shards.shard(shard).stream
        {
            stream.leave();
        }
    }

    /// A replica said how far it is: who waits for that looks again.
    pub(super) fn tell_acks(&mut self) {
        if self.me != 0 && self.shared.failovers.awaits_acks() {
            self.mesh.send(0, Message::Failover);
        }
        if self.shared.waiters.load(SeqCst) > 0 {
            self.tell_all(|| Message::Acked);
            self.acked = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_of_members_and_not_of_connections() {
        let member =
            |host: u8, port: u16, offset: u64| ((IpAddr::from([10, 0, 0, host]), port), offset);
        assert_eq!(agreed(vec![], 1), 0);
        assert_eq!(agreed(vec![member(1, 1, 7), member(2, 1, 5)], 1), 7);
        let twice = vec![member(1, 1, 7), member(1, 1, 9), member(2, 1, 5)];
        assert_eq!(agreed(twice, 2), 5, "one of them lost a connection");
        assert_eq!(agreed(vec![member(1, 1, 7), member(1, 2, 5)], 2), 5);
        assert_eq!(agreed(vec![member(1, 1, 7)], 2), 0);
    }
}
