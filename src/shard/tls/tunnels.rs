//! A core's ring, on which connections between nodes are in TLS where that is wanted: all that are dialed
//! from here, and those that come to a guarded listener.
//!
//! Who uses such a connection knows nothing of it. It is told of a connection once both sides have shaken
//! hands, hears what was deciphered, and says what is ciphered on its way. Where TLS is not wanted there is
//! no table, and everything is the ring's.

use std::{collections::VecDeque, io, net::SocketAddr, os::fd::OwnedFd, path::Path, sync::Arc};

use bytes::Bytes;
use uring::{
    Chunk, End, Endpoint, Event, FileId, Lease, Nanos, OpenHow, Outgoing, Reactor, SocketId,
    TimerId, Wait,
};

use super::{
    super::shared::Shared,
    nodes::{Fault, NodeTls, Peer},
    tunnel::{Broken, Tunnel},
};

const SECOND: Nanos = 1_000_000_000;
/// Who came has so long to shake hands; who was dialed less, so that it is known before whoever dialed gives
/// up.
const HANDSHAKE: Nanos = 5 * SECOND;
const HANDSHAKE_DIALED: Nanos = 5 * SECOND / 2;
/// Some give up sooner. Who has not answered within this is slow then.
const SLOW: Nanos = 2 * SECOND / 5;
/// What a peer is told last may take so long.
const FADE: Nanos = SECOND;
/// Connections that came and have not shaken hands: a further one takes the place of the oldest.
const SHAKING_MAX: usize = 64;
/// Breaks off a connection of which the keys are used up.
const EPIPE: i32 = 32;

/// See the module page.
pub(in crate::shard) struct Tunnels<R> {
    ring: R,
    table: Option<Box<Table>>,
}

/// For whoever uses the connection.
#[derive(Debug)]
pub(in crate::shard) struct Told {
    pub socket: SocketId,
    pub what: What,
}

#[derive(Debug)]
pub(in crate::shard) enum What {
    /// As the ring tells it of another connection.
    Event(Event),
    /// The other side has said this.
    Text(Vec<u8>),
    /// It is none for a link. An event follows.
    Fault(Fault),
}

struct Table {
    shared: Arc<Shared>,
    guarded: Vec<SocketId>,
    /// By the index of their socket.
    lines: Vec<Option<Box<Line>>>,
    told: VecDeque<Told>,
}

/// One connection.
struct Line {
    socket: SocketId,
    peer: Peer,
    /// To whom it came.
    listener: Option<SocketId>,
    tunnel: Tunnel,
    stage: Stage,
    /// Whoever uses the connection was told that it is of no use.
    has_failed: bool,
    /// A block is on its way.
    is_sending: bool,
    /// Whoever uses the connection waits until all is sent.
    is_awaited: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Dialing,
    /// Since then.
    Shaking(Nanos),
    Open,
    /// It is of no use; nobody hears of it any more, and it is closed once it was told why, or then.
    Broken(Nanos),
}

impl Line {
    /// Is nothing more heard?
    fn is_of_no_use(&self) -> bool {
        self.has_failed || matches!(self.stage, Stage::Broken(_))
    }
}

impl Table {
    fn nodes(&self) -> Option<&NodeTls> {
        self.shared.node_tls.as_ref()
    }

    fn line(&mut self, socket: SocketId) -> Option<&mut Line> {
        let line = self.lines.get_mut(socket.index as usize)?.as_deref_mut();
        line.filter(|line| line.socket == socket)
    }

    fn place(&mut self, line: Line) {
        let index = line.socket.index as usize;
        if self.lines.len() <= index {
            self.lines.resize_with(index + 1, || None);
        }
        self.lines[index] = Some(Box::new(line));
    }

    fn remove(&mut self, socket: SocketId) {
        if self.line(socket).is_some() {
            self.lines[socket.index as usize] = None;
        }
    }

    fn tell(&mut self, socket: SocketId, what: What) {
        self.told.push_back(Told { socket, what });
    }

    /// What is to be told of a send that is over.
    fn tell_sent(&mut self, socket: SocketId, result: Result<(), i32>) {
        let event = Event::Sent {
            socket,
            outgoing: Outgoing::Block(Vec::new()),
            result,
        };
        self.tell(socket, What::Event(event));
    }

    /// The connection is as good as any other now.
    fn open(&mut self, socket: SocketId) {
        let Some(line) = self.line(socket) else {
            return;
        };
        line.stage = Stage::Open;
        let event = match (line.listener, line.peer) {
            (Some(listener), Peer::Came(peer)) => Event::Accepted {
                listener,
                socket,
                peer,
            },
            _ => Event::Connected {
                socket,
                result: Ok(()),
            },
        };
        self.tell(socket, What::Event(event));
    }

    /// The oldest of those that came and have not shaken hands, if they are too many.
    fn crowded(&self) -> Option<SocketId> {
        let lines = self.lines.iter().flatten();
        let shaking = lines.filter_map(|line| match line.stage {
            Stage::Shaking(since) if line.listener.is_some() => Some((since, line.socket)),
            _ => None,
        });
        let shaking: Vec<_> = shaking.collect();
        let oldest = shaking.iter().min_by_key(|(since, _)| *since);
        oldest
            .filter(|_| shaking.len() >= SHAKING_MAX)
            .map(|(_, socket)| *socket)
    }
}

impl<R: Reactor> Tunnels<R> {
    /// Over this ring.
    pub fn new(ring: R, shared: &Arc<Shared>) -> Self {
        let table = shared.node_tls.as_ref().map(|_| {
            Box::new(Table {
                shared: shared.clone(),
                guarded: Vec::new(),
                lines: Vec::new(),
                told: VecDeque::new(),
            })
        });
        Self { ring, table }
    }

    /// Only nodes come to this listener.
    pub fn guard(&mut self, listener: SocketId) {
        if let Some(table) = &mut self.table {
            table.guarded.push(listener);
        }
    }

    /// May a connection be in TLS?
    #[inline]
    pub fn has_tunnels(&self) -> bool {
        self.table.is_some()
    }

    /// Takes in what the ring tells; it comes back if it is about no connection in TLS.
    pub fn take(&mut self, event: Event) -> Option<Event> {
        let is_ours = |tunnels: &mut Self, socket| {
            let table = tunnels.table.as_mut();
            table.is_some_and(|table| table.line(socket).is_some())
        };
        match event {
            Event::Accepted {
                listener,
                socket,
                peer,
            } if self.is_guarded(listener) => self.accept(listener, socket, peer),
            Event::Connected {
                socket,
                result: Ok(()),
            } if is_ours(self, socket) => self.on_connected(socket),
            Event::Received { socket, lease } if is_ours(self, socket) => {
                self.on_received(socket, lease);
            }
            Event::Sent {
                socket,
                outgoing,
                result,
            } if is_ours(self, socket) => self.on_sent(socket, outgoing, result),
            Event::ReceiveEnded { socket, end } if is_ours(self, socket) => {
                self.on_end(socket, end);
            }
            event => return Some(event),
        }
        None
    }

    /// The next thing that came of what the ring has told.
    pub fn next_told(&mut self) -> Option<Told> {
        let table = self.table.as_mut()?;
        while let Some(told) = table.told.pop_front() {
            // It may have been closed meanwhile.
            let line = table.line(told.socket);
            if line.is_some_and(|line| !matches!(line.stage, Stage::Broken(_))) {
                return Some(told);
            }
        }
        None
    }

    fn is_guarded(&self, listener: SocketId) -> bool {
        let table = self.table.as_ref();
        table.is_some_and(|table| table.guarded.contains(&listener))
    }

    fn line(&mut self, socket: SocketId) -> Option<&mut Line> {
        self.table.as_mut()?.line(socket)
    }

    /// A node comes, or somebody else.
    fn accept(&mut self, listener: SocketId, socket: SocketId, peer: Option<SocketAddr>) {
        let now = self.ring.now();
        let Some(table) = &mut self.table else {
            return;
        };
        let tunnel = table.nodes().map(Tunnel::accepted);
        let Some(Ok(tunnel)) = tunnel else {
            return self.ring.close(socket);
        };
        let crowded = table.crowded();
        table.place(Line {
            socket,
            peer: Peer::Came(peer),
            listener: Some(listener),
            tunnel,
            stage: Stage::Shaking(now),
            has_failed: false,
            is_sending: false,
            is_awaited: false,
        });
        self.ring.start_receiving(socket);
        if let Some(crowded) = crowded {
            self.note(crowded, Fault::Crowded, "");
            self.drop_line(crowded);
        }
    }

    fn on_connected(&mut self, socket: SocketId) {
        let now = self.ring.now();
        if let Some(line) = self.line(socket)
            && line.stage == Stage::Dialing
        {
            line.stage = Stage::Shaking(now);
            self.ring.start_receiving(socket);
            self.push(socket);
        }
    }

    fn on_received(&mut self, socket: SocketId, lease: Lease) {
        let mut text = Vec::new();
        let line = self.table.as_mut().and_then(|table| table.line(socket));
        let heard = line
            .filter(|line| !line.is_of_no_use())
            .map(|line| line.tunnel.hear(self.ring.received(&lease), &mut text));
        self.ring.give_back(lease);
        let (Some(heard), Some(table)) = (heard, &mut self.table) else {
            return;
        };
        match heard {
            Ok(heard) => {
                if heard.has_opened {
                    table.open(socket);
                }
                if !text.is_empty() {
                    table.tell(socket, What::Text(text));
                }
                if heard.has_closed {
                    let end = End::Eof;
                    table.tell(socket, What::Event(Event::ReceiveEnded { socket, end }));
                }
                self.push(socket);
            }
            Err(broken) => self.break_off(socket, &broken),
        }
    }

    fn on_sent(&mut self, socket: SocketId, outgoing: Outgoing, result: Result<(), i32>) {
        let Some(line) = self.line(socket) else {
            return;
        };
        line.is_sending = false;
        if let Outgoing::Block(block) = outgoing {
            line.tunnel.reuse(block);
        }
        let is_over = line.is_awaited && (result.is_err() || line.tunnel.is_said());
        line.is_awaited &= !is_over;
        let is_broken = matches!(line.stage, Stage::Broken(_));
        if is_over && let Some(table) = &mut self.table {
            table.tell_sent(socket, result);
        }
        match result {
            Err(_) if is_broken => self.drop_line(socket),
            Err(_) => {}
            Ok(()) => self.push(socket),
        }
    }

    /// Nothing more comes.
    fn on_end(&mut self, socket: SocketId, end: End) {
        let Some(line) = self.line(socket) else {
            return;
        };
        match line.stage {
            Stage::Broken(_) => self.drop_line(socket),
            Stage::Shaking(_) if line.has_failed => {}
            Stage::Shaking(_) => self.break_off(
                socket,
                &Broken {
                    fault: Fault::Closed,
                    detail: String::new(),
                },
            ),
            Stage::Dialing | Stage::Open => {
                if let Some(table) = &mut self.table {
                    table.tell(socket, What::Event(Event::ReceiveEnded { socket, end }));
                }
            }
        }
    }

    /// The other side is none for a link. It is told why, as far as TLS has a word for it.
    fn break_off(&mut self, socket: SocketId, broken: &Broken) {
        self.note(socket, broken.fault, &broken.detail);
        let until = self.ring.now() + FADE;
        let Some(table) = &mut self.table else {
            return;
        };
        let Some(line) = table.line(socket) else {
            return;
        };
        let was = line.stage;
        line.has_failed = true;
        if line.listener.is_some() && was != Stage::Open {
            // Nobody has heard of it.
            line.stage = Stage::Broken(until);
            return self.push(socket);
        }
        let event = match was {
            Stage::Open => Event::ReceiveEnded {
                socket,
                end: End::Failed(EPIPE),
            },
            _ => Event::Connected {
                socket,
                result: Err(EPIPE),
            },
        };
        table.tell(socket, What::Fault(broken.fault));
        table.tell(socket, What::Event(event));
        self.push(socket);
    }

    fn note(&mut self, socket: SocketId, fault: Fault, detail: &str) {
        let now = self.ring.boot_clock_ms();
        if let Some(table) = &mut self.table
            && let Some(peer) = table.line(socket).map(|line| line.peer)
            && let Some(nodes) = table.nodes()
        {
            nodes.note(peer, fault, detail, now);
        }
    }

    /// Sends the next block, if none is on its way.
    fn push(&mut self, socket: SocketId) {
        let Some(line) = self.table.as_mut().and_then(|table| table.line(socket)) else {
            return;
        };
        if line.is_sending || line.stage == Stage::Dialing {
            return;
        }
        let is_broken = matches!(line.stage, Stage::Broken(_));
        let sent = match line.tunnel.next_block() {
            Ok(Some(block)) => {
                let sent = self.ring.send(socket, Outgoing::Block(block));
                line.is_sending = sent.is_ok();
                sent.is_ok()
            }
            Ok(None) => {
                if is_broken || line.tunnel.has_left() {
                    self.ring.finish_sending(socket);
                }
                true
            }
            Err(_) => false,
        };
        if sent {
            return;
        }
        let is_over = std::mem::take(&mut line.is_awaited);
        match &mut self.table {
            _ if is_broken => self.drop_line(socket),
            Some(table) if is_over => table.tell_sent(socket, Err(EPIPE)),
            _ => {}
        }
    }

    fn drop_line(&mut self, socket: SocketId) {
        if let Some(table) = &mut self.table {
            table.remove(socket);
        }
        self.ring.close(socket);
    }

    /// The beat: time-outs. What comes of them is to be heard then.
    pub fn tick(&mut self) {
        let now = self.ring.now();
        let Some(table) = &self.table else {
            return;
        };
        let lines = table.lines.iter().flatten();
        let due = lines.filter_map(|line| {
            let is_due = match line.stage {
                Stage::Shaking(_) if line.has_failed => false,
                Stage::Shaking(since) if line.listener.is_some() => now >= since + HANDSHAKE,
                Stage::Shaking(since) => now >= since + HANDSHAKE_DIALED,
                Stage::Broken(until) => now >= until,
                Stage::Dialing | Stage::Open => false,
            };
            is_due.then_some((line.socket, line.stage))
        });
        for (socket, stage) in due.collect::<Vec<_>>() {
            match stage {
                Stage::Broken(_) => self.drop_line(socket),
                _ => self.break_off(
                    socket,
                    &Broken {
                        fault: Fault::Late,
                        detail: String::new(),
                    },
                ),
            }
        }
    }

    /// Does somebody else than the ring have something to tell?
    pub fn has_told(&self) -> bool {
        let table = self.table.as_ref();
        table.is_some_and(|table| !table.told.is_empty())
    }
}

/// The ring, but for what is said and heard on connections in TLS.
impl<R: Reactor> Reactor for Tunnels<R> {
    type Waker = R::Waker;

    fn connect(&mut self, to: &Endpoint) -> io::Result<SocketId> {
        let socket = self.ring.connect(to)?;
        if let (Some(table), Endpoint::Tcp(to)) = (&mut self.table, to)
            && let Some(nodes) = table.nodes()
        {
            let Ok(tunnel) = Tunnel::dialed(nodes, *to) else {
                self.ring.close(socket);
                return Err(io::ErrorKind::InvalidInput.into());
            };
            table.place(Line {
                socket,
                peer: Peer::Dialed(*to),
                listener: None,
                tunnel,
                stage: Stage::Dialing,
                has_failed: false,
                is_sending: false,
                is_awaited: false,
            });
        }
        Ok(socket)
    }

    fn send(&mut self, socket: SocketId, outgoing: Outgoing) -> Result<(), Outgoing> {
        let Some(line) = self.line(socket) else {
            return self.ring.send(socket, outgoing);
        };
        if line.is_awaited || line.stage != Stage::Open {
            return Err(outgoing);
        }
        line.tunnel.say(outgoing);
        line.is_awaited = true;
        self.push(socket);
        Ok(())
    }

    fn send_in_place(&mut self, socket: SocketId, pieces: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        if self.line(socket).is_none() {
            return self.ring.send_in_place(socket, pieces);
        }
        // What is ciphered is somewhere else.
        Err(pieces)
    }

    fn may_send_in_place(&self, socket: SocketId) -> bool {
        let table = self.table.as_ref();
        let line = table.and_then(|table| table.lines.get(socket.index as usize)?.as_ref());
        let is_ours = line.is_some_and(|line| line.socket == socket);
        !is_ours && self.ring.may_send_in_place(socket)
    }

    fn finish_sending(&mut self, socket: SocketId) {
        match self.line(socket) {
            Some(line) if line.stage == Stage::Open => {
                line.tunnel.leave();
                self.push(socket);
            }
            _ => self.ring.finish_sending(socket),
        }
    }

    fn close(&mut self, socket: SocketId) {
        let line = self.table.as_mut().and_then(|table| table.line(socket));
        let Some(line) = line else {
            return self.ring.close(socket);
        };
        let now = self.ring.now();
        let is_slow = match line.stage {
            Stage::Shaking(since) => !line.has_failed && now >= since + SLOW,
            Stage::Dialing | Stage::Open | Stage::Broken(_) => false,
        };
        if line.has_failed && line.is_sending {
            // It is told why first.
            line.stage = Stage::Broken(now + FADE);
            return;
        }
        if is_slow {
            self.note(socket, Fault::Late, "");
        }
        self.drop_line(socket);
    }

    #[inline]
    fn now(&self) -> Nanos {
        self.ring.now()
    }

    #[inline]
    fn wall_clock_ms(&self) -> u64 {
        self.ring.wall_clock_ms()
    }

    #[inline]
    fn boot_clock_ms(&self) -> u64 {
        self.ring.boot_clock_ms()
    }

    fn listen(&mut self, at: &Endpoint, backlog: u32) -> io::Result<SocketId> {
        self.ring.listen(at, backlog)
    }

    fn adopt(&mut self, listener: OwnedFd) -> io::Result<SocketId> {
        self.ring.adopt(listener)
    }

    fn take_in(&mut self, connection: OwnedFd) -> io::Result<SocketId> {
        self.ring.take_in(connection)
    }

    fn hand_out(&mut self, connection: SocketId) {
        self.ring.hand_out(connection);
    }

    fn peer_user(&self, socket: SocketId) -> Option<u32> {
        self.ring.peer_user(socket)
    }

    fn duplicate(&self, socket: SocketId) -> io::Result<OwnedFd> {
        self.ring.duplicate(socket)
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        self.ring.local_addr(socket)
    }

    fn limit_silence(&mut self, socket: SocketId, ms: u32) {
        self.ring.limit_silence(socket, ms);
    }

    #[inline]
    fn start_receiving(&mut self, socket: SocketId) {
        self.ring.start_receiving(socket);
    }

    #[inline]
    fn stop_receiving(&mut self, socket: SocketId) {
        self.ring.stop_receiving(socket);
    }

    #[inline]
    fn received(&self, lease: &Lease) -> &[u8] {
        self.ring.received(lease)
    }

    #[inline]
    fn give_back(&mut self, lease: Lease) {
        self.ring.give_back(lease);
    }

    fn open(&mut self, path: &Path, how: OpenHow) -> io::Result<FileId> {
        self.ring.open(path, how)
    }

    fn write(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        self.ring.write(file, block, offset, mark);
    }

    fn write_durable(&mut self, file: FileId, block: Bytes, offset: u64, mark: u64) {
        self.ring.write_durable(file, block, offset, mark);
    }

    fn sync(&mut self, file: FileId, mark: u64) {
        self.ring.sync(file, mark);
    }

    fn reserve(&mut self, file: FileId, len: u64, mark: u64) {
        self.ring.reserve(file, len, mark);
    }

    fn open_dir(&mut self, path: &Path) -> io::Result<FileId> {
        self.ring.open_dir(path)
    }

    fn rename(&mut self, from: &Path, to: &Path, mark: u64) {
        self.ring.rename(from, to, mark);
    }

    fn remove(&mut self, path: &Path, mark: u64) {
        self.ring.remove(path, mark);
    }

    fn close_file(&mut self, file: FileId) {
        self.ring.close_file(file);
    }

    fn make_arena(&mut self, count: u32, len: u32) -> io::Result<bool> {
        self.ring.make_arena(count, len)
    }

    fn take_chunk(&mut self) -> Option<Chunk> {
        self.ring.take_chunk()
    }

    fn set_timer(&mut self, at: Nanos, mark: u64) -> TimerId {
        self.ring.set_timer(at, mark)
    }

    fn cancel_timer(&mut self, timer: TimerId) {
        self.ring.cancel_timer(timer);
    }

    fn waker(&self) -> Self::Waker {
        self.ring.waker()
    }

    #[inline]
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.ring.turn(wait, events)
    }
}

#[cfg(test)]
mod tests {
    use uring::fake::{FakeReactor, FakeWorld, Machine};

    use super::{
        super::{machine::is_record, nodes::tests::Authority},
        *,
    };
    use crate::shard::shared::Settings;

    const PORT: u16 = 16_004;

    /// One node with a listener for others, and what it was told.
    struct Node {
        ring: Tunnels<FakeReactor>,
        accepted: Vec<SocketId>,
        connected: Vec<Result<(), i32>>,
        text: Vec<u8>,
        sent: Vec<Result<(), i32>>,
        ended: Vec<End>,
        faults: Vec<Fault>,
    }

    impl Node {
        fn new(world: &FakeWorld, machine: u8, tls: Option<NodeTls>) -> Self {
            let mut shared = Shared::new(Settings::of_a_test(1, 1), 0, String::new());
            shared.node_tls = tls;
            let ring = world.reactor(Machine(machine));
            let mut ring = Tunnels::new(ring, &Arc::new(shared));
            let listener = ring
                .listen(&Self::place(machine), 8)
                .expect("the port is free");
            ring.guard(listener);
            Self {
                ring,
                accepted: Vec::new(),
                connected: Vec::new(),
                text: Vec::new(),
                sent: Vec::new(),
                ended: Vec::new(),
                faults: Vec::new(),
            }
        }

        fn place(machine: u8) -> Endpoint {
            Endpoint::Tcp(SocketAddr::new(Machine(machine).ip(), PORT))
        }

        fn dial(&mut self, machine: u8) -> SocketId {
            let dialed = self.ring.connect(&Self::place(machine));
            dialed.expect("there is room")
        }

        fn turn(&mut self) {
            let mut events = Vec::new();
            self.ring
                .turn(Wait::Look, &mut events)
                .expect("the ring works");
            for event in events {
                match self.ring.take(event) {
                    Some(event) => self.note(event),
                    None => self.hear(),
                }
            }
            self.ring.tick();
            self.hear();
        }

        fn hear(&mut self) {
            while let Some(Told { what, .. }) = self.ring.next_told() {
                match what {
                    What::Event(event) => self.note(event),
                    What::Text(text) => self.text.extend(text),
                    What::Fault(fault) => self.faults.push(fault),
                }
            }
        }

        fn note(&mut self, event: Event) {
            match event {
                Event::Accepted { socket, .. } => {
                    self.accepted.push(socket);
                    self.ring.start_receiving(socket);
                }
                Event::Connected { socket, result } => {
                    self.connected.push(result);
                    if result.is_ok() {
                        self.ring.start_receiving(socket);
                    }
                }
                Event::Received { lease, .. } => {
                    self.text.extend_from_slice(self.ring.received(&lease));
                    self.ring.give_back(lease);
                }
                Event::Sent { result, .. } => self.sent.push(result),
                Event::ReceiveEnded { end, .. } => self.ended.push(end),
                _ => {}
            }
        }

        fn counts(&self) -> (u64, u64) {
            let table = self.ring.table.as_ref().expect("it has TLS");
            let (refused, failed, _) = table.nodes().expect("it has TLS").counts();
            (refused, failed)
        }

        fn lines(&self) -> usize {
            let table = self.ring.table.as_ref().expect("it has TLS");
            table.lines.iter().flatten().count()
        }
    }

    /// Runs both until something is so.
    fn until(world: &FakeWorld, nodes: [&mut Node; 2], is_so: impl Fn(&Node, &Node) -> bool) {
        let [one, other] = nodes;
        for _ in 0..100_000 {
            if is_so(one, other) {
                return;
            }
            one.turn();
            other.turn();
            world.advance(1_000_000);
        }
        panic!("it never comes to that");
    }

    #[test]
    fn who_uses_a_link_is_told_of_it_once_it_is_open() {
        let world = FakeWorld::seeded(7);
        let authority = Authority::new();
        let mut one = Node::new(&world, 1, Some(authority.node()));
        let mut two = Node::new(&world, 2, Some(authority.node()));
        let dialed = two.dial(1);
        assert!(two.ring.send(dialed, Outgoing::Block(vec![1])).is_err());
        until(&world, [&mut one, &mut two], |one, two| {
            !one.accepted.is_empty() && !two.connected.is_empty()
        });
        assert_eq!((one.accepted.len(), &two.connected[..]), (1, &[Ok(())][..]));
        assert!(!two.ring.may_send_in_place(dialed));
        let text: Vec<u8> = (0..2_000_000).map(|at| (at % 251) as u8).collect();
        let pieces = text.chunks(300_000).map(Bytes::copy_from_slice).collect();
        let sent = two.ring.send(dialed, Outgoing::Gather(pieces));
        assert!(sent.is_ok());
        let second = two.ring.send(dialed, Outgoing::Block(vec![1]));
        assert!(second.is_err(), "one at a time");
        until(&world, [&mut one, &mut two], |one, _| {
            one.text.len() >= text.len()
        });
        assert!(one.text == text);
        until(&world, [&mut one, &mut two], |_, two| !two.sent.is_empty());
        assert_eq!(two.sent, [Ok(())], "it is told once");
        two.ring.finish_sending(dialed);
        until(&world, [&mut one, &mut two], |one, _| !one.ended.is_empty());
        assert_eq!(one.ended[0], End::Eof);
        let accepted = one.accepted[0];
        let back = one.ring.send(accepted, Outgoing::Block(b"bye".to_vec()));
        assert!(back.is_ok(), "the other side still hears");
        until(&world, [&mut one, &mut two], |_, two| two.text == b"bye");
        one.ring.close(accepted);
        until(&world, [&mut one, &mut two], |_, two| !two.ended.is_empty());
        two.ring.close(dialed);
        assert_eq!((one.lines(), two.lines()), (0, 0));
        assert_eq!((one.counts(), two.counts()), ((0, 0), (0, 0)));
    }

    #[test]
    fn nobody_hears_of_who_speaks_without_tls_and_that_one_hears_why() {
        let world = FakeWorld::seeded(8);
        let mut one = Node::new(&world, 1, Some(Authority::new().node()));
        let mut plain = Node::new(&world, 2, None);
        let dialed = plain.dial(1);
        until(&world, [&mut one, &mut plain], |_, plain| {
            !plain.connected.is_empty()
        });
        let sent = plain
            .ring
            .send(dialed, Outgoing::Block(b"+PING\r\n".to_vec()));
        assert!(sent.is_ok());
        until(&world, [&mut one, &mut plain], |_, plain| {
            !plain.ended.is_empty()
        });
        assert!(is_record(&plain.text), "{:?}", plain.text);
        plain.ring.close(dialed);
        until(&world, [&mut one, &mut plain], |one, _| one.lines() == 0);
        assert_eq!((one.counts(), one.accepted.len()), ((1, 0), 0));
        // And the other way round.
        one.dial(2);
        until(&world, [&mut one, &mut plain], |_, plain| {
            !plain.accepted.is_empty()
        });
        let accepted = plain.accepted[0];
        let sent = plain
            .ring
            .send(accepted, Outgoing::Block(b"-NO\r\n".to_vec()));
        assert!(sent.is_ok());
        until(&world, [&mut one, &mut plain], |one, _| {
            !one.connected.is_empty()
        });
        assert_eq!(
            (one.counts(), &one.faults[..]),
            ((1, 1), &[Fault::Plain][..])
        );
        assert!(one.connected[0].is_err());
    }

    #[test]
    fn both_sides_hear_of_a_certificate_that_is_not_accepted() {
        let world = FakeWorld::seeded(9);
        let (ours, other) = (Authority::new(), Authority::new());
        let mut one = Node::new(&world, 1, Some(ours.node()));
        let mut two = Node::new(&world, 2, Some(other.node()));
        let dialed = two.dial(1);
        until(&world, [&mut one, &mut two], |_, two| {
            !two.faults.is_empty()
        });
        assert_eq!(two.faults, [Fault::Certificate]);
        assert!(two.connected.iter().all(Result::is_err));
        // Whoever dialed takes its time.
        world.advance(SECOND);
        two.ring.close(dialed);
        until(&world, [&mut one, &mut two], |one, two| {
            one.lines() == 0 && two.lines() == 0
        });
        assert_eq!((one.counts(), two.counts()), ((1, 0), (0, 1)));
        assert!(one.accepted.is_empty());
    }

    #[test]
    fn who_says_nothing_is_closed_in_time_and_makes_room() {
        let world = FakeWorld::seeded(10);
        let mut one = Node::new(&world, 1, Some(Authority::new().node()));
        let mut plain = Node::new(&world, 2, None);
        for _ in 0..=SHAKING_MAX {
            plain.dial(1);
        }
        until(&world, [&mut one, &mut plain], |one, _| one.counts().0 > 0);
        assert!(one.lines() <= SHAKING_MAX);
        let began = world.now();
        until(&world, [&mut one, &mut plain], |one, _| one.lines() == 0);
        assert!(world.now() >= began + HANDSHAKE - SECOND);
        assert_eq!(one.counts().0 as usize, SHAKING_MAX + 1);
        // So is one that was dialed.
        one.dial(2);
        until(&world, [&mut one, &mut plain], |one, _| {
            !one.faults.is_empty()
        });
        assert_eq!((&one.faults[..], one.counts().1), (&[Fault::Late][..], 1));
    }
}
