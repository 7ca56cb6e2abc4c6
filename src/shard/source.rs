//! Being followed: the replication ports of the shards that live on this core, and the replicas there.
//!
//! A link is fed straight from the memory that the shard's frames were composed in: what is sent is
//! references, gathered by the kernel. Where there is a journal, a frame goes to replicas once it is written
//! there. One send per link is under way; a slow replica costs nothing but what is kept for all of them, and
//! starts over once what it needs is kept no longer.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

use bytes::Bytes;
use uring::{GATHER_MAX, Outgoing, Reactor, SocketId};

use super::{
    log,
    message::Message,
    shared::{ReplicaView, lock},
    ship::{Sailed, Ship},
    state::State,
};
use crate::{
    base::Ms,
    journal::{Position, Stream},
    repl::{
        History,
        history::{Cursor, Lost, Peer},
        source::{Listener, Request, Said},
    },
};

/// Bytes that one send has at most, but for its last piece.
const SEND_LEN: usize = 1 << 20;
/// Bytes of a snapshot that wait for a replica before the walk does.
const SHIP_AHEAD: usize = 4 << 20;
/// Between two pings.
const PING_MS: Ms = 1000;
/// A replica that takes nothing, or says nothing although it is asked, is given up after this.
const SILENCE_MS: Ms = 60_000;
/// A link on which nobody asks for anything is closed.
const GREETING_MS: Ms = 10_000;
/// Most links of one shard.
const LINKS_MAX: usize = 256;
/// While a replica takes in its snapshot, so much more is kept for it.
const PATIENCE: usize = 4;
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
    /// Replacements of the data set that were seen.
    replaced: u64,
    /// The gathers of this turn are composed here.
    pieces: Vec<Bytes>,
}

/// One shard of this core, for its replicas.
struct Feed {
    shard: usize,
    history: History,
    ship: Option<Ship>,
    /// When a link was last there.
    used: Ms,
}

enum Stage {
    /// The handshake is not there yet.
    Greeting,
    /// It waits for the shard to be here.
    Asked(Request),
    /// It waits for the next snapshot to begin.
    Waiting,
    Shipping,
    Streaming(Cursor),
}

struct Link {
    socket: SocketId,
    own: usize,
    peer: Option<SocketAddr>,
    listener: Listener,
    stage: Stage,
    id: String,
    /// Where it asked to go on.
    asked: u64,
    has_generation: bool,
    /// It has said that it understands pings.
    takes_pings: bool,
    ping_at: Ms,
    out: VecDeque<Bytes>,
    out_bytes: usize,
    sending: bool,
    acked: u64,
    /// When it last took or said something.
    alive: Ms,
    acked_at: Ms,
    gone: Option<&'static str>,
}

impl Source {
    /// Of a core with these shards.
    pub fn new(own: impl Iterator<Item = usize>) -> Self {
        Self {
            feeds: own
                .map(|shard| Feed {
                    shard,
                    history: History::new(0),
                    ship: None,
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
        now: Ms,
        reactor: &mut R,
    ) -> bool {
        let Some((_, own)) = self.ports.iter().find(|(port, _)| *port == listener) else {
            return false;
        };
        let count = self.links.iter().filter(|link| link.own == *own).count();
        if count >= LINKS_MAX {
            reactor.close(socket);
            return true;
        }
        reactor.start_receiving(socket);
        self.links.push(Link {
            socket,
            own: *own,
            peer,
            listener: Listener::default(),
            stage: Stage::Greeting,
            id: String::new(),
            asked: 0,
            has_generation: false,
            takes_pings: false,
            ping_at: now,
            out: VecDeque::new(),
            out_bytes: 0,
            sending: false,
            acked: 0,
            alive: now,
            acked_at: now,
            gone: None,
        });
        true
    }

    fn link(&mut self, socket: SocketId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.socket == socket)
    }

    /// Takes in what a replica said, if the socket is one's.
    pub fn on_data(&mut self, state: &mut State, socket: SocketId, bytes: &[u8]) -> bool {
        let now = state.now;
        let Some(link) = self.link(socket) else {
            return false;
        };
        let (mut request, mut ack) = (None, None);
        let heard = link.listener.hear(bytes, |said| match said {
            Said::Request(said) => request = Some(said),
            Said::Ack(offset) => ack = Some(offset),
        });
        if heard.is_err() {
            link.gone = Some("it says what no replica says");
        }
        if let Some(request) = request {
            link.stage = Stage::Asked(request);
            link.alive = now;
        }
        if let (Some(offset), Stage::Streaming(cursor)) = (ack, &link.stage) {
            // Who understands a ping or has frames answers; a replica before that never does.
            (link.takes_pings, link.alive, link.acked_at) = (true, now, now);
            // Nobody has what was not sent.
            if offset > link.acked && offset <= cursor.offset() {
                link.acked = offset;
                let own = link.own;
                self.publish(own, state);
                state.tell_acks();
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
            link.gone = Some("the connection failed");
        }
        true
    }

    /// Nothing more comes from a socket, if it is a replica's.
    pub fn on_end(&mut self, socket: SocketId) -> bool {
        let Some(link) = self.link(socket) else {
            return false;
        };
        link.gone.get_or_insert("it left");
        true
    }

    /// Must the core not sleep?
    pub fn has_work(&self) -> bool {
        let walks = |own: usize| {
            let mut links = self.links.iter().filter(|link| link.own == own);
            links.all(|link| !link.is_behind())
        };
        self.feeds
            .iter()
            .enumerate()
            .any(|(own, feed)| feed.ship.is_some() && walks(own))
    }

    /// What the turn produced goes to the replicas; true if there was anything.
    pub fn step<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) -> bool {
        for (own, part) in std::mem::take(&mut state.written) {
            self.feeds[own].history.push(part);
        }
        if self.links.is_empty() && !state.feeding.iter().any(|feeding| *feeding) {
            return false;
        }
        let replaced = state.shared.durable.replaced.load(SeqCst);
        let is_replaced = std::mem::replace(&mut self.replaced, replaced) != replaced;
        let mut worked = false;
        for own in 0..self.feeds.len() {
            worked |= self.feed(own, is_replaced, state);
        }
        for at in 0..self.links.len() {
            worked |= self.pump(at, state, reactor);
        }
        self.drop_gone(state, reactor);
        worked
    }

    /// Keeps what a shard did, and goes on with its snapshot.
    fn feed(&mut self, own: usize, is_replaced: bool, state: &mut State) -> bool {
        let feed = &mut self.feeds[own];
        if !state.homes.shards.has(feed.shard) || state.shared.loading.load(Relaxed) {
            return false;
        }
        let links = self.links.iter_mut().filter(|link| link.own == own);
        let mut links: Vec<&mut Link> = links.filter(|link| link.gone.is_none()).collect();
        let journals = state.shared.settings.journals;
        let asks = links
            .iter()
            .any(|link| matches!(link.stage, Stage::Asked(_)));
        if asks && !state.feeding[own] {
            state.feeding[own] = true;
            let now = state.now;
            let home = state.homes.shards.shard(feed.shard);
            if home.stream.is_none() {
                let at = Position::UNKNOWN.renewed(now);
                home.stream = Some(Box::new(Stream::new(feed.shard as u32, at)));
                state.homes.refresh(feed.shard);
            }
        }
        if !state.feeding[own] {
            return false;
        }
        let home = state.homes.shards.shard(feed.shard);
        if is_replaced
            && !journals
            && let Some(stream) = &mut home.stream
        {
            let at = Position {
                generation: stream.generation(),
                offset: stream.next(),
            };
            **stream = Stream::new(feed.shard as u32, at.renewed(state.now));
        }
        if let Some(stream) = &mut home.stream {
            stream.set_plain(true);
        }
        let at = home.position();
        if feed.history.generation() != at.generation {
            // Another history: who follows the old one starts over.
            feed.history = History::new(at.generation);
            if feed.ship.take().is_some() {
                home.end_walk(crate::cmd::Walker::Replicas);
            }
            for link in &mut links {
                if !matches!(link.stage, Stage::Asked(_) | Stage::Greeting) {
                    link.gone = Some("the data set was replaced");
                }
            }
            return true;
        }
        if !journals && let Some(stream) = &mut home.stream {
            while let Some(block) = stream.take_block() {
                feed.history.push(crate::repl::Part::of(block).0);
            }
        }
        let mut worked = false;
        for link in &mut links {
            if let Stage::Asked(request) = &link.stage {
                let request = request.clone();
                let goes_on = link.answer(request, at, &mut feed.history);
                let replicas = &state.shared.replicas[feed.shard];
                let count = match goes_on {
                    true => &replicas.resumed,
                    false => &replicas.shipped,
                };
                count.fetch_add(1, Relaxed);
                worked = true;
            }
        }
        if feed.ship.is_none()
            && links
                .iter()
                .any(|link| matches!(link.stage, Stage::Waiting))
        {
            feed.ship = Some(Ship::begin(home));
            for link in &mut links {
                if let Some(removed) = link.begin_ship() {
                    feed.history.doubt(removed + 1, removed + 2);
                }
            }
        }
        if feed.ship.is_some() {
            worked |= feed.sail(home, &mut links, state.tunables.backlog_len);
        }
        let is_patient = links
            .iter()
            .any(|link| matches!(link.stage, Stage::Streaming(_)) && !link.out.is_empty());
        let mut limit = state.tunables.backlog_len;
        if is_patient {
            limit = limit.saturating_mul(PATIENCE);
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
            match feed.history.gather(cursor, Peer::Kevy, room, pieces) {
                Ok(more) => len += more,
                Err(Lost::TooOld) => link.gone = Some("it is too slow"),
                Err(Lost::Untold) => link.gone = Some("databases were swapped"),
            }
            if link.takes_pings && state.now >= link.ping_at {
                link.ping_at = state.now + PING_MS;
                let marks = &state.shared.durable.shards[feed.shard];
                let (generation, next) = (feed.history.generation(), marks.next.load(Relaxed));
                pieces.push(format!("+PING {generation} {next}\r\n").into());
            }
        }
        if pieces.is_empty() {
            return false;
        }
        let outgoing = Outgoing::Gather(std::mem::take(pieces));
        let replicas = &state.shared.replicas[feed.shard];
        replicas.sent.fetch_add(len as u64, Relaxed);
        link.sending = reactor.send(link.socket, outgoing).is_ok();
        if !link.sending {
            link.gone = Some("the connection failed");
        }
        true
    }

    fn drop_gone<R: Reactor>(&mut self, state: &mut State, reactor: &mut R) {
        let mut dropped = Vec::new();
        self.links.retain(|link| {
            let Some(why) = link.gone else {
                return true;
            };
            reactor.close(link.socket);
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
            let silent = now.saturating_sub(link.alive);
            let is_waited_for = link.sending || link.takes_pings;
            if matches!(link.stage, Stage::Greeting) && silent > GREETING_MS {
                link.gone = Some("it asks for nothing");
            } else if is_waited_for && silent > SILENCE_MS {
                link.gone = Some("it is silent");
            }
            self.feeds[link.own].used = now;
        }
        for own in 0..self.feeds.len() {
            if !state.feeding[own] {
                continue;
            }
            self.publish(own, state);
            let feed = &mut self.feeds[own];
            let is_idle = now.saturating_sub(feed.used) > state.tunables.backlog_ttl_secs * 1000;
            if is_idle && state.tunables.backlog_ttl_secs > 0 && state.homes.shards.has(feed.shard)
            {
                state.feeding[own] = false;
                feed.history = History::new(0);
                self.publish(own, state);
                let feed = &self.feeds[own];
                if !state.shared.settings.journals {
                    state.homes.shards.shard(feed.shard).stream = None;
                    state.homes.refresh(feed.shard);
                } else if let Some(stream) = &mut state.homes.shards.shard(feed.shard).stream {
                    stream.set_plain(false);
                }
            }
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

impl Feed {
    /// Goes on with the snapshot.
    fn sail(
        &mut self,
        home: &mut crate::cmd::Shard,
        links: &mut [&mut Link],
        backlog_len: usize,
    ) -> bool {
        let mut aboard: Vec<_> = links
            .iter_mut()
            .filter(|link| matches!(link.stage, Stage::Shipping))
            .collect();
        let Some(ship) = &mut self.ship else {
            return false;
        };
        if aboard.is_empty() {
            home.end_walk(crate::cmd::Walker::Replicas);
            self.ship = None;
            return false;
        }
        let mut out = Vec::new();
        let sailed = if !aboard.iter().any(|link| link.is_behind()) {
            ship.sail(home, &mut out)
        } else if !ship.follow(home) {
            Sailed::Void
        } else {
            if ship.behind() > backlog_len.saturating_mul(PATIENCE).max(BEHIND_MIN) {
                for link in aboard.iter_mut().filter(|link| link.is_behind()) {
                    link.gone = Some("it is too slow for its snapshot");
                }
            }
            return false;
        };
        for link in &mut aboard {
            for piece in &out {
                link.out_bytes += piece.len();
                link.out.push_back(piece.clone());
            }
        }
        match sailed {
            Sailed::On => return true,
            Sailed::Done { first, end } => {
                self.history.doubt(first, end);
                for link in aboard {
                    link.stage = Stage::Streaming(Cursor::new(end));
                    link.acked = 0;
                }
            }
            Sailed::Void => {
                for link in aboard {
                    link.gone = Some("all keys were removed during its snapshot");
                }
            }
        }
        self.ship = None;
        true
    }
}

impl Link {
    /// Is so much on its way to it that a snapshot has to wait?
    fn is_behind(&self) -> bool {
        matches!(self.stage, Stage::Shipping) && self.out_bytes > SHIP_AHEAD
    }

    fn say(&mut self, text: String) {
        self.out_bytes += text.len();
        self.out.push_back(text.into());
    }

    /// Answers the handshake. The stream is at `at`. True if the replica goes on from where it was.
    fn answer(&mut self, request: Request, at: Position, history: &mut History) -> bool {
        (self.id, self.has_generation) = (request.id, request.has_generation);
        self.asked = request.at.offset;
        // Who names no generation is told from others by offsets alone: no two histories share any.
        let is_ours = !self.has_generation || request.at.generation == at.generation;
        let goes_on = is_ours && history.has(self.asked, at.offset, Peer::Kevy);
        self.takes_pings = self.has_generation;
        self.say(match self.has_generation {
            true => format!("+ACK {} {}\r\n", at.generation, self.asked),
            false => format!("+ACK {}\r\n", self.asked),
        });
        self.stage = match goes_on {
            true => Stage::Streaming(Cursor::new(self.asked)),
            false => Stage::Waiting,
        };
        log(&format!(
            "replica {} {} at {}",
            self.name(),
            if goes_on {
                "goes on"
            } else {
                "gets a snapshot"
            },
            self.asked
        ));
        goes_on
    }

    /// A snapshot begins. Returns the offset of the frame that removes all keys before, if there is one.
    fn begin_ship(&mut self) -> Option<u64> {
        if !matches!(self.stage, Stage::Waiting) {
            return None;
        }
        self.stage = Stage::Shipping;
        // The oldest ones load a snapshot over what they have.
        let removed = (!self.has_generation && self.asked < MAX_ASKED).then_some(self.asked);
        if let Some(at) = removed {
            self.say(format!("*2\r\n:{at}\r\n*1\r\n$8\r\nFLUSHALL\r\n"));
        }
        self.say("+SNAPSHOT\r\n".into());
        removed
    }

    fn name(&self) -> String {
        let at = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        format!("{:?} at {at}", self.id)
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
            acked_at: self.acked_at,
        }
    }
}

impl State {
    /// A replica said how far it is: who waits for that looks again.
    fn tell_acks(&mut self) {
        if self.shared.waiters.load(SeqCst) > 0 {
            for core in 0..self.mesh.cores() {
                if core != self.me {
                    self.mesh.send(core, Message::Acked);
                }
            }
            self.acked = true;
        }
    }
}
