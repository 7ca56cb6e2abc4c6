//! The connections of elections: one out to each other member, which only we write to, and any number in,
//! which we only read. Where nodes have a key, both sides first prove it on each of them.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, mpsc},
};

use uring::{Endpoint, Outgoing, Reactor, SocketId};

use super::super::{
    log,
    shared::Shared,
    tls::{Fault as TlsFault, NO_TLS_ANSWER, NO_TLS_HERE, is_record},
};
use crate::{
    base::Ms,
    elect::{Decoder, Message, NodeId, Peer},
    proof::{self, Dialer, Fault, Heard, Listener, Purpose},
};

/// Between two tries to reach a member, and how long one lasts.
const REDIAL_MS: Ms = 100;
const DIAL_MS: Ms = 500;
/// A member that is cut off is dialed anew after this, instead of when the kernel tries the old connection
/// again.
const SILENCE_MS: u32 = 1000;
/// Bytes that wait for a member that takes nothing. Everything is said again as long as it matters.
const BACKLOG_MAX: usize = 16 << 10;
/// Connections from others at one time. Who has said nothing for longest makes room, and first of all who
/// has never said anything.
const INBOUND_MAX: usize = 64;
/// Who begins to say something has so long for it. Silence is no offence: most have nothing to say.
const MESSAGE_MS: Ms = 5000;
/// The same of those that have not proven the key.
const UNPROVEN_MAX: usize = 32;
/// A member whose key is another one is dialed anew after this, and what was wrong with it is forgotten
/// when a connection has stood for twice as long.
const KEY_REDIAL_MS: Ms = 1000;
/// A member that is only starting closes connections, too: behind so many in a row it is dialed as seldom,
/// and the log says that it may know no key. A kevy does nothing else while it is dialed more than five
/// times in a second.
const CLOSED_MAX: u32 = 5;
/// The same of one that has proven the key before, and that others wait for.
const CLOSED_KNOWN_MAX: u32 = 100;
const PURPOSE: Purpose = Purpose::Elections;
const NO_KEY_HERE: &str = "has a node key, and this node has none (--node-key-file)";
/// Names of machines are looked up anew after this.
const LOOK_UP_MS: Ms = 60_000;
/// Between two lines in the log of connections that come from elsewhere.
const REFUSALS_MS: Ms = 10_000;

pub(super) struct Lines {
    listeners: Vec<SocketId>,
    outbound: Vec<Outbound>,
    inbound: Vec<Inbound>,
    /// Connections of others are only taken from these addresses; from all if a member is listed by name.
    sources: Option<Vec<IpAddr>>,
    closing: Vec<SocketId>,
    refused_at: Ms,
    /// Connections from others that were closed from here.
    pub cut: u64,
    /// Messages that came in, with where they come from.
    pub heard: Vec<(Message, Option<IpAddr>)>,
    /// A member can be spoken to that could not before.
    pub has_reached: bool,
    shared: Arc<Shared>,
}

struct Outbound {
    id: NodeId,
    host: String,
    port: u16,
    ip: Option<IpAddr>,
    looking: Option<mpsc::Receiver<Option<IpAddr>>>,
    looked_up: Ms,
    line: Line,
    out: Vec<u8>,
    sending: bool,
    /// What is wrong with the keys, if anything.
    trouble: &'static str,
    /// How often it has closed in a row instead of proving its key.
    closed: u32,
    /// It has proven it before.
    is_known: bool,
}

/// A connection to a member.
enum Line {
    /// Until then none.
    Down(Ms),
    /// Begun at this time.
    Dialing(SocketId, Ms),
    /// The key is being proven since then.
    Proving(SocketId, Ms, Box<Dialer>),
    /// There since then.
    Up(SocketId, Ms),
}

struct Inbound {
    socket: SocketId,
    from: Option<IpAddr>,
    decoder: Decoder,
    /// When it last said something, or came.
    heard: Ms,
    /// It has said something.
    has_spoken: bool,
    /// Since when a message is there in part.
    begun: Option<Ms>,
    door: Door,
    /// What it is told about the key.
    out: Vec<u8>,
    sending: bool,
}

/// Is a connection listened to?
enum Door {
    /// It is; where nodes have a key, to what the member says that has proven it there.
    Open(Option<NodeId>),
    /// The key is being proven since then.
    Proving(Box<Listener>, Ms),
    /// It was not, and the other side is told so.
    Shut(Ms),
}

impl Lines {
    pub fn new(peers: &[Peer], own: NodeId, shared: Arc<Shared>) -> Self {
        let others = peers.iter().filter(|peer| peer.id != own);
        let outbound = others.map(|peer| Outbound {
            id: peer.id,
            host: peer.host.clone(),
            port: peer.elect_port,
            ip: peer.host.parse().ok(),
            looking: None,
            looked_up: 0,
            line: Line::Down(0),
            out: Vec::new(),
            sending: false,
            trouble: "",
            closed: 0,
            is_known: false,
        });
        let addresses = peers.iter().map(|peer| peer.host.parse::<IpAddr>().ok());
        Self {
            listeners: Vec::new(),
            outbound: outbound.collect(),
            inbound: Vec::new(),
            sources: addresses.collect(),
            closing: Vec::new(),
            refused_at: 0,
            cut: 0,
            heard: Vec::new(),
            has_reached: false,
            shared,
        }
    }

    pub fn listens(&mut self, listener: SocketId) {
        self.listeners.push(listener);
    }

    /// Closes everything.
    pub fn leave<R: Reactor>(&mut self, reactor: &mut R) {
        let inbound = self.inbound.drain(..).map(|from| from.socket);
        let outbound = self.outbound.iter_mut();
        let outbound =
            outbound.filter_map(
                |other| match std::mem::replace(&mut other.line, Line::Down(0)) {
                    Line::Down(_) => None,
                    Line::Dialing(on, _) | Line::Proving(on, ..) | Line::Up(on, _) => Some(on),
                },
            );
        let sockets = self.listeners.drain(..).chain(inbound).chain(outbound);
        sockets
            .chain(self.closing.drain(..))
            .for_each(|socket| reactor.close(socket));
    }

    /// Is there a connection to this member?
    pub fn is_up(&self, id: NodeId) -> bool {
        let mut lines = self.outbound.iter();
        lines.any(|other| other.id == id && matches!(other.line, Line::Up(..)))
    }

    /// What is wrong with the key of a member.
    pub fn trouble(&self, id: NodeId) -> &'static str {
        let found = self.outbound.iter().find(|other| other.id == id);
        found.map_or("", |other| other.trouble)
    }

    /// The address of a member, as far as it is known.
    pub fn address(&self, id: NodeId) -> Option<IpAddr> {
        let found = self.outbound.iter().find(|other| other.id == id);
        found.and_then(|other| other.ip).map(|ip| ip.to_canonical())
    }

    /// Says something to a member, if it can be reached.
    pub fn send(&mut self, to: NodeId, message: &Message) {
        let mut lines = self.outbound.iter_mut();
        if let Some(line) = lines.find(|line| line.id == to)
            && matches!(line.line, Line::Up(..))
            && line.out.len() < BACKLOG_MAX
        {
            message.encode(&mut line.out);
        }
    }

    /// Takes in a connection, if it came to the port of elections.
    pub fn accept<R: Reactor>(
        &mut self,
        (listener, socket): (SocketId, SocketId),
        peer: Option<SocketAddr>,
        now: Ms,
        reactor: &mut R,
    ) -> bool {
        if !self.listeners.contains(&listener) {
            return false;
        }
        let from = peer.map(|peer| peer.ip().to_canonical());
        let is_listed = |sources: &Vec<IpAddr>| {
            let mut sources = sources.iter();
            from.is_none_or(|from| sources.any(|source| source.to_canonical() == from))
        };
        if !self.sources.as_ref().is_none_or(is_listed) {
            self.turn_away(socket, from, "is no address of a member", now);
            return true;
        }
        let door = match self
            .shared
            .node_key
            .as_ref()
            .map(|ring| ring.listener(PURPOSE))
        {
            None => Door::Open(None),
            Some(Ok(listener)) => Door::Proving(Box::new(listener), now),
            Some(Err(_)) => {
                self.closing.push(socket);
                return true;
            }
        };
        let is_open = matches!(door, Door::Open(_));
        reactor.start_receiving(socket);
        self.inbound.push(Inbound {
            socket,
            from,
            decoder: Decoder::default(),
            heard: now,
            has_spoken: false,
            begun: None,
            door,
            out: Vec::new(),
            sending: false,
        });
        self.make_room(is_open, socket);
        true
    }

    /// Closes a connection of somebody else's, and says so now and then.
    fn turn_away(&mut self, socket: SocketId, from: Option<IpAddr>, why: &str, now: Ms) {
        self.closing.push(socket);
        self.note_turned_away(from, why, now);
    }

    fn note_turned_away(&mut self, from: Option<IpAddr>, why: &str, now: Ms) {
        self.cut += 1;
        if now >= self.refused_at + REFUSALS_MS {
            self.refused_at = now;
            let from = from.map(|from| from.to_string()).unwrap_or_default();
            log(&format!("elections: {from} {why}"));
        }
    }

    /// The one that is silent for longest leaves, of those that are listened to or of the others, if they
    /// are more than there may be with this new one; first of all who has never said anything.
    fn make_room(&mut self, is_open: bool, new: SocketId) {
        let most = if is_open { INBOUND_MAX } else { UNPROVEN_MAX };
        let is_such = |from: &Inbound| matches!(from.door, Door::Open(_)) == is_open;
        let rank = |from: &Inbound| (from.has_spoken, from.heard);
        let such = || (0..self.inbound.len()).filter(|at| is_such(&self.inbound[*at]));
        if such().count() > most
            && let Some(at) = such()
                .filter(|at| self.inbound[*at].socket != new)
                .min_by_key(|at| rank(&self.inbound[*at]))
        {
            self.closing.push(self.inbound.swap_remove(at).socket);
            self.cut += 1;
        }
    }

    fn inbound_on(&self, socket: SocketId) -> Option<usize> {
        self.inbound.iter().position(|from| from.socket == socket)
    }

    /// Takes in what a member says to which we have dialed: something about keys, or nothing.
    fn hear_dialed(&mut self, socket: SocketId, bytes: &[u8], now: Ms) -> bool {
        let Some(other) = self.outbound_on(socket) else {
            return false;
        };
        if is_record(bytes) {
            self.give_up_for(socket, NO_TLS_HERE, false, now);
            return true;
        }
        let heard = match &mut other.line {
            Line::Proving(_, _, dialer) => dialer.hear(bytes),
            _ if proof::wants_key(bytes) => Err(Fault::Wanted),
            _ => Ok(Heard::Nothing),
        };
        match heard {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Say(line)) => other.out.extend_from_slice(line.as_bytes()),
            Ok(Heard::Proven(_)) => {
                other.line = Line::Up(socket, now);
                (other.closed, other.is_known) = (0, true);
                self.has_reached = true;
            }
            Err(fault) => self.give_up(socket, fault, now),
        }
        true
    }

    /// The keys do not fit.
    fn give_up(&mut self, socket: SocketId, fault: Fault, now: Ms) {
        self.give_up_for(socket, fault.text(), fault == Fault::Closed, now);
    }

    /// TLS cannot be spoken with a member that was dialed.
    pub fn on_tls_fault(&mut self, socket: SocketId, fault: TlsFault, now: Ms) -> bool {
        let is_ours = self.outbound_on(socket).is_some();
        self.give_up_for(socket, fault.text(), fault == TlsFault::Closed, now);
        is_ours
    }

    /// A member is none for a link; one that only `closed` may be starting.
    fn give_up_for(&mut self, socket: SocketId, why: &'static str, closed: bool, now: Ms) {
        let Some(other) = self.outbound_on(socket) else {
            return;
        };
        other.closed += u32::from(closed);
        let most = match other.is_known {
            true => CLOSED_KNOWN_MAX,
            false => CLOSED_MAX,
        };
        let is_told = !closed || other.closed >= most;
        if is_told && other.trouble != why {
            other.trouble = why;
            log(&format!("elections: {}: {}", other.id, other.trouble));
        }
        let pause = match is_told {
            true => KEY_REDIAL_MS,
            false => REDIAL_MS,
        };
        self.hang_up_for(socket, now, pause);
    }

    /// Takes in what somebody says who has not proven the key.
    fn hear_proof(&mut self, at: usize, bytes: &[u8], now: Ms) {
        let from = &mut self.inbound[at];
        let Door::Proving(listener, _) = &mut from.door else {
            return;
        };
        match listener.hear(bytes) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Say(line)) => from.out.extend_from_slice(line.as_bytes()),
            Ok(Heard::Proven(line)) => {
                let name = NodeId::new(listener.peer());
                let name = name.filter(|name| self.outbound.iter().any(|other| other.id == *name));
                if name.is_none() {
                    return self.refuse(at, Fault::Name, now);
                }
                from.out.extend_from_slice(line.as_bytes());
                (from.door, from.heard) = (Door::Open(name), now);
                let socket = from.socket;
                self.make_room(true, socket);
            }
            Err(fault) => self.refuse(at, fault, now),
        }
    }

    /// Listens no more to a connection, and says why if there is something to say.
    fn refuse(&mut self, at: usize, fault: Fault, now: Ms) {
        self.cut += 1;
        let from = &mut self.inbound[at];
        if let Some(ring) = &self.shared.node_key {
            ring.refuse(PURPOSE, from.from, fault, now);
        }
        match fault.answer() {
            Some(answer) => {
                from.out.extend_from_slice(answer.as_bytes());
                from.door = Door::Shut(now);
            }
            None => self.closing.push(self.inbound.swap_remove(at).socket),
        }
    }

    /// Takes in what came from a socket; false if it is none of ours.
    pub fn on_data(&mut self, socket: SocketId, bytes: &[u8], now: Ms) -> bool {
        if self.hear_dialed(socket, bytes, now) {
            return true;
        }
        let Some(at) = self.inbound_on(socket) else {
            return false;
        };
        let Door::Open(name) = self.inbound[at].door else {
            self.hear_proof(at, bytes, now);
            return true;
        };
        let from = &mut self.inbound[at];
        if !from.has_spoken && !from.decoder.is_within() && is_record(bytes) {
            from.out.extend_from_slice(NO_TLS_ANSWER.as_bytes());
            from.door = Door::Shut(now);
            let from = from.from;
            self.note_turned_away(from, NO_TLS_HERE, now);
            return true;
        }
        from.decoder.push(bytes);
        loop {
            match from.decoder.take() {
                Ok(Some(message)) if name.is_some_and(|name| name != message.from()) => {
                    self.refuse(at, Fault::Name, now);
                    return true;
                }
                Ok(Some(message)) => {
                    (from.heard, from.has_spoken, from.begun) = (now, true, None);
                    self.heard.push((message, from.from));
                }
                Ok(None) => {
                    if from.decoder.is_within() {
                        from.begun.get_or_insert(now);
                    }
                    return true;
                }
                Err(error) => {
                    let why = match proof::is_hello(bytes) {
                        true => NO_KEY_HERE.to_string(),
                        false => format!("says what no member says: {error}"),
                    };
                    let from = self.inbound.swap_remove(at);
                    self.turn_away(from.socket, from.from, &why, now);
                    return true;
                }
            }
        }
    }

    pub fn on_connected(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        let shared = self.shared.clone();
        let Some(other) = self.outbound_on(socket) else {
            return false;
        };
        match &shared.node_key {
            _ if !is_good => self.hang_up(socket, now),
            None => {
                other.line = Line::Up(socket, now);
                self.has_reached = true;
            }
            Some(ring) => match ring.dialer(PURPOSE, Some(other.id.as_str())) {
                Ok(dialer) => {
                    other.out.extend_from_slice(dialer.hello().as_bytes());
                    other.line = Line::Proving(socket, now, Box::new(dialer));
                }
                Err(fault) => self.give_up(socket, fault, now),
            },
        }
        true
    }

    pub fn on_sent(&mut self, socket: SocketId, is_good: bool, now: Ms) -> bool {
        if let Some(at) = self.inbound_on(socket) {
            self.inbound[at].sending = false;
            if !is_good {
                self.closing.push(self.inbound.swap_remove(at).socket);
            }
            return true;
        }
        let Some(line) = self.outbound_on(socket) else {
            return false;
        };
        line.sending = false;
        if !is_good {
            self.hang_up(socket, now);
        }
        true
    }

    pub fn on_end(&mut self, socket: SocketId, now: Ms) -> bool {
        if let Some(other) = self.outbound_on(socket) {
            match other.line {
                Line::Proving(..) => self.give_up(socket, Fault::Closed, now),
                _ => self.hang_up(socket, now),
            }
            return true;
        }
        let before = self.inbound.len();
        self.inbound.retain(|from| from.socket != socket);
        let was_ours = self.inbound.len() < before;
        if was_ours {
            self.closing.push(socket);
        }
        was_ours
    }

    fn outbound_on(&mut self, socket: SocketId) -> Option<&mut Outbound> {
        let is_on = |line: &Line| match line {
            Line::Down(_) => false,
            Line::Dialing(on, _) | Line::Proving(on, ..) | Line::Up(on, _) => *on == socket,
        };
        self.outbound.iter_mut().find(|other| is_on(&other.line))
    }

    fn hang_up(&mut self, socket: SocketId, now: Ms) {
        self.hang_up_for(socket, now, REDIAL_MS);
    }

    fn hang_up_for(&mut self, socket: SocketId, now: Ms, pause: Ms) {
        if let Some(line) = self.outbound_on(socket) {
            // Another process may have taken the member's place, and listens already.
            let dials_at = match line.line {
                Line::Up(_, since) => now.max(since + pause),
                Line::Down(_) | Line::Dialing(..) | Line::Proving(..) => now + pause,
            };
            line.line = Line::Down(dials_at);
            line.sending = false;
            line.out.clear();
            self.closing.push(socket);
        }
    }

    /// Dials, sends and closes; when it wants to be called again.
    pub fn step<R: Reactor>(&mut self, now: Ms, reactor: &mut R) -> Ms {
        let is_late = |other: &Outbound| match other.line {
            Line::Proving(socket, since, _) if now >= since + proof::PATIENCE_MS => Some(socket),
            _ => None,
        };
        while let Some(socket) = self.outbound.iter().find_map(is_late) {
            self.give_up(socket, Fault::Late, now);
        }
        let mut again = self.step_inbound(now, reactor);
        for line in &mut self.outbound {
            match line.line {
                Line::Down(at) if now >= at => {
                    let dialed = line.look_up(now).and_then(|ip| {
                        let at = SocketAddr::new(ip, line.port);
                        reactor.connect(&Endpoint::Tcp(at)).ok()
                    });
                    line.line = match dialed {
                        Some(socket) => {
                            reactor.limit_silence(socket, SILENCE_MS);
                            Line::Dialing(socket, now)
                        }
                        None => Line::Down(now + REDIAL_MS),
                    };
                }
                Line::Dialing(socket, since) if now >= since + DIAL_MS => {
                    self.closing.push(socket);
                    line.line = Line::Down(now);
                }
                Line::Proving(socket, ..) | Line::Up(socket, _)
                    if !line.sending && !line.out.is_empty() =>
                {
                    let outgoing = Outgoing::Block(std::mem::take(&mut line.out));
                    line.sending = reactor.send(socket, outgoing).is_ok();
                    if !line.sending {
                        self.closing.push(socket);
                        line.line = Line::Down(now + REDIAL_MS);
                    }
                }
                Line::Up(_, since) if now >= since + 2 * KEY_REDIAL_MS => {
                    (line.trouble, line.closed, line.is_known) = ("", 0, true);
                }
                Line::Down(_) | Line::Dialing(..) | Line::Proving(..) | Line::Up(..) => {}
            }
            again = again.min(match line.line {
                Line::Down(at) => at.max(now + 1),
                Line::Dialing(_, since) => since + DIAL_MS,
                Line::Proving(_, since, _) => since + proof::PATIENCE_MS,
                Line::Up(..) => Ms::MAX,
            });
        }
        again = again.min(self.end_unfinished(now));
        for socket in self.closing.drain(..) {
            reactor.close(socket);
        }
        again
    }

    /// Closes who takes too long for a message; when the next one will have.
    fn end_unfinished(&mut self, now: Ms) -> Ms {
        let due = |from: &Inbound| from.begun.map_or(Ms::MAX, |begun| begun + MESSAGE_MS);
        while let Some(at) = self.inbound.iter().position(|from| due(from) <= now) {
            let from = self.inbound.swap_remove(at);
            self.turn_away(from.socket, from.from, "does not finish what it says", now);
        }
        self.inbound.iter().map(due).min().unwrap_or(Ms::MAX)
    }

    /// Answers those who prove the key, and gives up who does not; when it wants to be called again.
    fn step_inbound<R: Reactor>(&mut self, now: Ms, reactor: &mut R) -> Ms {
        let mut again = Ms::MAX;
        let mut at = 0;
        while let Some(from) = self.inbound.get_mut(at) {
            if !from.sending && !from.out.is_empty() {
                let outgoing = Outgoing::Block(std::mem::take(&mut from.out));
                from.sending = reactor.send(from.socket, outgoing).is_ok();
            }
            let is_late = |since: &Ms| now >= since + proof::PATIENCE_MS;
            match &from.door {
                Door::Proving(_, since) if is_late(since) => {
                    self.refuse(at, Fault::Late, now);
                    continue;
                }
                Door::Shut(since) if !from.sending || is_late(since) => {
                    self.closing.push(self.inbound.swap_remove(at).socket);
                    continue;
                }
                Door::Proving(_, since) | Door::Shut(since) => {
                    again = again.min(since + proof::PATIENCE_MS);
                }
                Door::Open(_) => {}
            }
            at += 1;
        }
        again
    }

    /// Has everything been sent that can be?
    pub fn is_flushed(&self) -> bool {
        let waits = |line: &Outbound| {
            matches!(line.line, Line::Up(..)) && (line.sending || !line.out.is_empty())
        };
        !self.outbound.iter().any(waits)
    }

    pub fn has_work(&self) -> bool {
        !self.closing.is_empty() || !self.heard.is_empty()
    }
}

impl Outbound {
    /// Its address. Names are looked up on a thread of their own, and again now and then.
    fn look_up(&mut self, now: Ms) -> Option<IpAddr> {
        if self.host.parse::<IpAddr>().is_ok() {
            return self.ip;
        }
        if let Some(looking) = &self.looking {
            match looking.try_recv() {
                Ok(found) => {
                    self.ip = found.or(self.ip);
                    self.looking = None;
                }
                Err(mpsc::TryRecvError::Disconnected) => self.looking = None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
        } else if self.looked_up == 0 || now >= self.looked_up + LOOK_UP_MS {
            self.looked_up = now;
            let (sender, receiver) = mpsc::channel();
            let host = self.host.clone();
            std::thread::spawn(move || {
                let found = (host.as_str(), 0).to_socket_addrs().ok();
                let found = found.and_then(|mut found| found.next());
                // The node may have ended.
                let _ = sender.send(found.map(|found| found.ip()));
            });
            self.looking = Some(receiver);
        }
        self.ip
    }
}

#[cfg(test)]
mod tests {
    use uring::fake::{FakeReactor, FakeWorld, Machine};

    use super::*;
    use crate::{
        elect::{Epoch, wire::WireRole},
        shard::shared::Settings,
    };

    const LISTENER: SocketId = socket(1000);
    const FROM: Option<SocketAddr> = Some(SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        5000,
    ));

    const fn socket(index: u32) -> SocketId {
        SocketId {
            index,
            generation: 0,
        }
    }

    fn lines() -> (Lines, FakeReactor) {
        let id = |text: &str| NodeId::new(text).expect("it is one");
        let peer = |text: &str| Peer {
            id: id(text),
            host: "127.0.0.1".into(),
            elect_port: 1,
            client_port: None,
            stream_port: None,
        };
        let shared = Shared::new(Settings::of_a_test(1, 1), 0, String::new());
        let mut lines = Lines::new(&[peer("a")], id("a"), Arc::new(shared));
        lines.listens(LISTENER);
        (lines, FakeWorld::seeded(1).reactor(Machine(1)))
    }

    fn message() -> Vec<u8> {
        let mut bytes = Vec::new();
        let from = NodeId::new("b").expect("it is one");
        let heartbeat = Message::Heartbeat {
            epoch: Epoch(1),
            from,
            role: WireRole::Replica,
            offset: 0,
            is_ringkeep: true,
        };
        heartbeat.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_crowd_drives_out_only_those_who_have_said_nothing() {
        let (mut lines, mut reactor) = lines();
        let mut come = |lines: &mut Lines, index, now| {
            assert!(lines.accept((LISTENER, socket(index)), FROM, now, &mut reactor));
        };
        come(&mut lines, 0, 1);
        assert!(lines.on_data(socket(0), &message(), 2));
        for index in 1..=1000 {
            come(&mut lines, index, 100 + Ms::from(index));
        }
        let there = |index| {
            lines
                .inbound
                .iter()
                .any(|from| from.socket == socket(index))
        };
        assert!(there(0), "a member stays, however long it is silent");
        assert!(!there(1) && there(1000), "of the others the newest stay");
        assert_eq!(lines.inbound.len(), INBOUND_MAX);
        assert_eq!(lines.cut, 1001 - INBOUND_MAX as u64);
    }

    #[test]
    fn who_speaks_tls_where_there_is_none_is_told_so() {
        let (mut lines, mut reactor) = lines();
        assert!(lines.accept((LISTENER, socket(0)), FROM, 0, &mut reactor));
        assert!(lines.on_data(socket(0), &[22, 3, 1, 2], 0));
        assert_eq!(lines.inbound[0].out, NO_TLS_ANSWER.as_bytes());
        assert!(matches!(lines.inbound[0].door, Door::Shut(0)));
        assert_eq!(lines.cut, 1);
        // Within a message a byte is a byte.
        assert!(lines.accept((LISTENER, socket(1)), FROM, 0, &mut reactor));
        let message = message();
        assert!(lines.on_data(socket(1), &message[..1], 0));
        assert!(lines.on_data(socket(1), &[22], 0));
        assert!(lines.inbound.iter().all(|from| from.socket != socket(1)));
    }

    #[test]
    fn who_does_not_finish_a_message_is_closed_and_who_is_silent_is_not() {
        let (mut lines, mut reactor) = lines();
        for index in 0..3 {
            assert!(lines.accept((LISTENER, socket(index)), FROM, 0, &mut reactor));
        }
        let message = message();
        assert!(lines.on_data(socket(0), &message[..5], 0));
        assert!(lines.on_data(socket(1), &message, 0));
        // A byte now and then gains nothing.
        assert!(lines.on_data(socket(0), &message[5..6], MESSAGE_MS - 1));
        assert_eq!(lines.step(MESSAGE_MS - 1, &mut reactor), MESSAGE_MS);
        assert_eq!(lines.inbound.len(), 3);
        assert_eq!(lines.step(MESSAGE_MS, &mut reactor), Ms::MAX);
        let left: Vec<_> = lines.inbound.iter().map(|from| from.socket.index).collect();
        assert_eq!((left.len(), left.contains(&0), lines.cut), (2, false, 1));
    }
}
