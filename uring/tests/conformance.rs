//! One body of tests over the kernel's ring at every level that this host has, and over the
//! in-memory twin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uring::{
    DIRECT_UNIT, End, Endpoint, Event, FileId, Lease, Nanos, OpenHow, Outgoing, Reactor, SocketId,
    TimerId, Usage, Wait, Wake,
};

/// What a test wants of its reactor.
#[derive(Clone, Copy, Default)]
struct Shape {
    /// Receive buffers and their length; `None` for the usual ones.
    buffers: Option<(u16, u32)>,
    /// Submission and completion entries; `None` for the usual ones.
    entries: Option<(u32, u32)>,
}

/// A reactor, and what its events said so far.
struct Host<R: Reactor> {
    reactor: R,
    folder: PathBuf,
    read_file: fn(&R, &Path) -> Vec<u8>,
    /// Unset: leases are kept in `leases`.
    gives_back: bool,
    events: Vec<Event>,
    leases: Vec<(SocketId, Lease)>,
    accepted: Vec<SocketId>,
    peers: Vec<Option<SocketAddr>>,
    connected: BTreeMap<Key, Result<(), i32>>,
    data: BTreeMap<Key, Vec<u8>>,
    ends: BTreeMap<Key, End>,
    sent: Vec<(SocketId, Outgoing, Result<(), i32>)>,
    released: Vec<(SocketId, Usage)>,
    closing: BTreeSet<Key>,
    closed: BTreeSet<Key>,
    written: Vec<Written>,
    synced: Vec<(FileId, u64, Result<(), i32>)>,
    done: Vec<(u64, Result<(), i32>)>,
    fired: Vec<(TimerId, u64)>,
    woken: usize,
}

type Key = (u32, u32);
type Written = (u64, Bytes, Result<(), i32>);

impl<R: Reactor> Drop for Host<R> {
    fn drop(&mut self) {
        // The twin has no such folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn key(socket: SocketId) -> Key {
    (socket.index, socket.generation)
}

const PATIENCE: Nanos = 20_000_000_000;

impl<R: Reactor> Host<R> {
    fn new(reactor: R, folder: PathBuf, read_file: fn(&R, &Path) -> Vec<u8>) -> Host<R> {
        Host {
            reactor,
            folder,
            read_file,
            gives_back: true,
            events: Vec::new(),
            leases: Vec::new(),
            accepted: Vec::new(),
            peers: Vec::new(),
            connected: BTreeMap::new(),
            data: BTreeMap::new(),
            ends: BTreeMap::new(),
            sent: Vec::new(),
            released: Vec::new(),
            closing: BTreeSet::new(),
            closed: BTreeSet::new(),
            written: Vec::new(),
            synced: Vec::new(),
            done: Vec::new(),
            fired: Vec::new(),
            woken: 0,
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Host<R>) -> bool) {
        let deadline = self.reactor.now() + PATIENCE;
        while !done(self) {
            assert!(self.reactor.now() < deadline, "waited too long: {what}");
            self.turn(Wait::Until(deadline));
        }
    }

    /// Lets the reactor work for a while of its own time.
    fn linger(&mut self, span: Nanos) {
        let deadline = self.reactor.now() + span;
        while self.reactor.now() < deadline {
            self.turn(Wait::Until(deadline));
        }
    }

    fn turn(&mut self, wait: Wait) {
        let mut events = std::mem::take(&mut self.events);
        self.reactor
            .turn(wait, &mut events)
            .expect("the ring works");
        for event in events.drain(..) {
            self.note(event);
        }
        self.events = events;
    }

    fn alive(&self, socket: SocketId) {
        assert!(
            !self.closing.contains(&key(socket)),
            "a closed socket has no events"
        );
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Accepted {
                listener,
                socket,
                peer,
            } => {
                self.alive(listener);
                self.accepted.push(socket);
                self.peers.push(peer);
            }
            Event::AcceptFailed { listener, .. } => self.alive(listener),
            Event::Connected { socket, result } => {
                self.alive(socket);
                assert!(self.connected.insert(key(socket), result).is_none());
            }
            Event::Received { socket, lease } => {
                self.alive(socket);
                assert!(!lease.is_empty() && !self.ends.contains_key(&key(socket)));
                let bytes = self.reactor.received(&lease);
                assert_eq!(bytes.len(), lease.len());
                self.data
                    .entry(key(socket))
                    .or_default()
                    .extend_from_slice(bytes);
                if self.gives_back {
                    self.reactor.give_back(lease);
                } else {
                    self.leases.push((socket, lease));
                }
            }
            Event::ReceiveEnded { socket, end } => {
                self.alive(socket);
                assert!(
                    self.ends.insert(key(socket), end).is_none(),
                    "an end comes once"
                );
            }
            Event::Sent {
                socket,
                outgoing,
                result,
            } => {
                self.alive(socket);
                self.sent.push((socket, outgoing, result));
            }
            Event::HandedOut { .. } => panic!("nobody asked for it"),
            Event::Released { socket, usage } => {
                self.alive(socket);
                let before = self.released.iter().filter(|(of, _)| *of == socket);
                assert!(before.count() < self.sends_of(socket), "a send ends first");
                self.released.push((socket, usage));
            }
            Event::Closed { socket } => {
                assert!(
                    self.closing.contains(&key(socket)),
                    "only closed sockets are closed"
                );
                assert!(self.closed.insert(key(socket)), "closed comes once");
            }
            Event::Written {
                mark,
                block,
                result,
            } => {
                self.written.push((mark, block, result));
            }
            Event::Synced { file, mark, result } => self.synced.push((file, mark, result)),
            Event::Done { mark, result } => self.done.push((mark, result)),
            Event::Timer { timer, mark } => self.fired.push((timer, mark)),
            Event::Woken => self.woken += 1,
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.closing.insert(key(socket));
        self.reactor.close(socket);
    }

    fn close_and_wait(&mut self, sockets: &[SocketId]) {
        for socket in sockets {
            self.close(*socket);
        }
        let keys: Vec<Key> = sockets.iter().copied().map(key).collect();
        self.until("closed", |host| {
            keys.iter().all(|key| host.closed.contains(key))
        });
    }

    /// Opens a file that is not there yet.
    fn create(&mut self, path: &Path) -> FileId {
        let how = OpenHow {
            create: true,
            exclusive: true,
            ..OpenHow::default()
        };
        self.reactor.open(path, how).unwrap()
    }

    fn is_there(&mut self, path: &Path) -> bool {
        match self.reactor.open(path, OpenHow::default()) {
            Ok(file) => {
                self.reactor.close_file(file);
                true
            }
            Err(_) => false,
        }
    }

    /// The result of the request with this mark that ends in [`Event::Done`].
    fn outcome(&mut self, mark: u64) -> Result<(), i32> {
        self.until("the end", |host| {
            host.done.iter().any(|(of, _)| *of == mark)
        });
        let at = self.done.iter().position(|(of, _)| *of == mark).unwrap();
        self.done.remove(at).1
    }

    fn listen(&mut self) -> (SocketId, Endpoint) {
        let any_port = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = self.reactor.listen(&any_port, 1024).unwrap();
        let address = self.reactor.local_addr(listener).unwrap();
        assert_ne!(address.port(), 0);
        (listener, Endpoint::Tcp(address))
    }

    /// A connection: client end, server end.
    fn pair(&mut self, at: &Endpoint) -> (SocketId, SocketId) {
        let client = self.reactor.connect(at).unwrap();
        let before = self.accepted.len();
        self.until("a connection", |host| {
            host.connected.contains_key(&key(client)) && host.accepted.len() > before
        });
        assert_eq!(self.connected[&key(client)], Ok(()));
        (client, *self.accepted.last().unwrap())
    }

    fn has(&self, socket: SocketId, len: usize) -> bool {
        self.data
            .get(&key(socket))
            .is_some_and(|data| data.len() >= len)
    }

    fn send(&mut self, socket: SocketId, bytes: &[u8]) {
        self.reactor
            .send(socket, Outgoing::Block(bytes.to_vec()))
            .expect("no send in flight");
    }

    fn sends_of(&self, socket: SocketId) -> usize {
        self.sent.iter().filter(|(of, ..)| *of == socket).count()
    }

    /// Sends, and waits until the other end has everything.
    fn carry(&mut self, from: SocketId, to: SocketId, bytes: &[u8]) {
        let had = self.data.get(&key(to)).map_or(0, Vec::len);
        let sends = self.sends_of(from);
        self.send(from, bytes);
        self.until("the bytes", |host| {
            host.has(to, had + bytes.len()) && host.sends_of(from) > sends
        });
        assert_eq!(&self.data[&key(to)][had..], bytes);
        assert!(self.sent.iter().all(|(.., result)| result.is_ok()));
    }
}

/// Bytes that differ at every place one is likely to slip by.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 24) as u8
        })
        .collect()
}

fn bytes_come_back_as_sent<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (listener, at) = host.listen();
    let (client, server) = host.pair(&at);
    assert!(host.peers[0].is_some());
    host.reactor.start_receiving(client);
    host.reactor.start_receiving(server);
    for round in 0..50 {
        let request = pattern(1 + round * 37, round as u64);
        host.carry(client, server, &request);
        host.carry(server, client, &request);
    }
    assert!(
        host.reactor
            .send(client, Outgoing::Block(Vec::new()))
            .is_err()
    );
    host.close_and_wait(&[client, server, listener]);
    assert!(host.reactor.send(client, Outgoing::Block(vec![1])).is_err());
    assert_eq!(host.reactor.local_addr(listener), None);
}

fn a_unix_socket_works_and_a_stale_file_is_replaced<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let at = Endpoint::Unix(host.folder.join("socket"));
    let first = host.reactor.listen(&at, 16).unwrap();
    assert!(
        host.reactor.listen(&at, 16).is_err(),
        "somebody listens there"
    );
    host.close_and_wait(&[first]);
    let listener = host.reactor.listen(&at, 16).unwrap();
    let (client, server) = host.pair(&at);
    assert_eq!(host.peers, [None]);
    host.reactor.start_receiving(server);
    host.carry(client, server, b"over a file");
    host.close_and_wait(&[client, server, listener]);
}

fn many_connections_are_served<R: Reactor>(make: fn(Shape) -> Host<R>) {
    const COUNT: usize = 400;
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let clients: Vec<SocketId> = (0..COUNT)
        .map(|_| host.reactor.connect(&at).unwrap())
        .collect();
    host.until("all", |host| {
        host.accepted.len() == COUNT && host.connected.len() == COUNT
    });
    for server in host.accepted.clone() {
        host.reactor.start_receiving(server);
    }
    for round in 1..=5 {
        for client in &clients {
            let text = format!("{:08}", client.index);
            host.send(*client, text.as_bytes());
        }
        host.until("every byte", |host| {
            host.data.values().map(Vec::len).sum::<usize>() == 8 * COUNT * round
                && host.sent.len() == COUNT * round
        });
    }
    for data in host.data.values() {
        assert_eq!(data.len(), 40);
        assert!(
            data.chunks(8).all(|text| text == &data[..8]),
            "a connection got its own bytes"
        );
    }
}

fn a_gather_arrives_in_order_and_whole<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    host.reactor.start_receiving(server);
    for count in [1, 3, 64, 150] {
        let pieces: Vec<Bytes> = (0..count)
            .map(|n| Bytes::from(pattern(n * 411 % 20_000, n as u64)))
            .collect();
        let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
        if whole.is_empty() {
            assert!(host.reactor.send(client, Outgoing::Gather(pieces)).is_err());
            continue;
        }
        host.data.clear();
        host.reactor
            .send(client, Outgoing::Gather(pieces.clone()))
            .unwrap();
        let sends = host.sent.len();
        host.until("the pieces", |host| {
            host.has(server, whole.len()) && host.sent.len() > sends
        });
        assert!(host.data[&key(server)] == whole);
        let Some((_, Outgoing::Gather(back), Ok(()))) = host.sent.pop() else {
            panic!("the pieces come back");
        };
        assert_eq!(back, pieces);
    }
}

fn eight_mebibytes_pass_a_slow_reader<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    let block = pattern(8 << 20, 8);
    host.send(client, &block);
    assert!(
        host.reactor.send(client, Outgoing::Block(vec![1])).is_err(),
        "one send at a time"
    );
    // Stopping at every mebibyte lets the sender run into a full socket again and again.
    let mut mark = 0;
    while mark < block.len() {
        mark += 1 << 20;
        host.reactor.start_receiving(server);
        host.until("the next part", |host| host.has(server, mark));
        host.reactor.stop_receiving(server);
        host.linger(2_000_000);
    }
    host.until("the send", |host| !host.sent.is_empty());
    assert!(host.data[&key(server)] == block);
    let Some((_, Outgoing::Block(back), Ok(()))) = host.sent.pop() else {
        panic!("the block comes back");
    };
    assert!(back == block);
    let pieces: Vec<Bytes> = block.chunks(300_000).map(Bytes::copy_from_slice).collect();
    host.data.clear();
    host.reactor.send(client, Outgoing::Gather(pieces)).unwrap();
    host.linger(5_000_000);
    host.reactor.start_receiving(server);
    host.until("the gather", |host| {
        host.has(server, block.len()) && !host.sent.is_empty()
    });
    assert!(host.data[&key(server)] == block);
}

fn receiving_stops_and_starts<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    host.send(client, b"unasked");
    host.linger(5_000_000);
    assert!(
        host.data.is_empty(),
        "nothing is received before it is asked for"
    );
    host.reactor.start_receiving(server);
    host.until("the data", |host| host.has(server, 7));
    host.reactor.stop_receiving(server);
    host.linger(5_000_000);
    host.send(client, b" more");
    host.linger(5_000_000);
    assert_eq!(host.data[&key(server)], b"unasked");
    // Back and forth within one turn, in all orders.
    host.reactor.start_receiving(server);
    host.reactor.stop_receiving(server);
    host.reactor.start_receiving(server);
    host.reactor.start_receiving(server);
    host.until("the rest", |host| host.has(server, 12));
    for round in 0..100_u8 {
        host.reactor.stop_receiving(server);
        if round % 3 == 0 {
            host.turn(Wait::Look);
        }
        host.reactor.start_receiving(server);
        host.carry(client, server, &[round; 100]);
    }
    assert!(host.ends.is_empty());
}

fn a_half_closed_connection_still_answers<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    host.reactor.start_receiving(server);
    host.reactor.start_receiving(client);
    let request = pattern(3 << 20, 3);
    host.send(client, &request);
    host.reactor.finish_sending(client);
    host.until("the end", |host| host.ends.contains_key(&key(server)));
    assert_eq!(host.ends[&key(server)], End::Eof);
    assert!(
        host.data[&key(server)] == request,
        "everything before the end arrives"
    );
    host.carry(server, client, b"the answer");
    assert!(!host.ends.contains_key(&key(client)));
    host.close_and_wait(&[server]);
    host.until("the other end", |host| host.ends.contains_key(&key(client)));
    host.close_and_wait(&[client]);
}

fn a_closed_peer_fails_sends<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    host.close_and_wait(&[server]);
    let mut sends = 0;
    while host.sent.iter().all(|(.., result)| result.is_ok()) {
        host.send(client, &[7; 1000]);
        sends += 1;
        host.until("a send", |host| host.sent.len() == sends);
        assert!(sends < 1000, "a send fails sooner or later");
    }
    let Some((_, Outgoing::Block(back), Err(errno))) = host.sent.pop() else {
        panic!("the memory comes back");
    };
    assert_eq!(back.len(), 1000);
    assert!([libc::EPIPE, libc::ECONNRESET].contains(&errno));
    host.close_and_wait(&[client]);
}

fn unread_data_at_a_close_resets_the_peer<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    host.reactor.start_receiving(client);
    host.send(client, b"never read");
    host.until("the send", |host| host.sent.len() == 1);
    host.linger(2_000_000);
    host.close_and_wait(&[server]);
    host.until("the end", |host| host.ends.contains_key(&key(client)));
    host.close_and_wait(&[client]);
}

fn closing_with_operations_in_flight_never_hits_the_next_owner<R: Reactor>(
    make: fn(Shape) -> Host<R>,
) {
    let mut host = make(Shape::default());
    let (_, at) = host.listen();
    let block = pattern(8 << 20, 1);
    let mut seen = BTreeSet::new();
    for round in 0..100_u32 {
        let (client, server) = host.pair(&at);
        assert!(
            seen.insert(key(client)) && seen.insert(key(server)),
            "an id never comes twice"
        );
        host.reactor.start_receiving(client);
        if round % 2 == 0 {
            host.reactor.start_receiving(server);
        }
        // A send that cannot end, and one that just may.
        host.send(client, &block);
        host.send(server, &[round as u8; 64]);
        for _ in 0..round % 5 {
            host.turn(Wait::Look);
        }
        // `note` fails the test on any event of a closed socket but the last.
        host.close(client);
        host.close(server);
        host.close(server);
        if round % 3 == 0 {
            continue;
        }
        let (a, b) = (key(client), key(server));
        host.until("closed", |host| {
            host.closed.contains(&a) && host.closed.contains(&b)
        });
    }
    let all = seen.clone();
    host.until("all closed", |host| host.closed == all);
    let (client, server) = host.pair(&at);
    host.reactor.start_receiving(server);
    host.carry(client, server, b"still well");
    let places = seen.iter().map(|(index, _)| index).max().unwrap();
    assert!(*places < 60, "places are used again");
}

fn a_refused_connect_says_so<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let (listener, at) = host.listen();
    host.close_and_wait(&[listener]);
    let client = host.reactor.connect(&at).unwrap();
    host.until("the refusal", |host| {
        host.connected.contains_key(&key(client))
    });
    assert_eq!(host.connected[&key(client)], Err(libc::ECONNREFUSED));
    host.close_and_wait(&[client]);
    let nowhere = Endpoint::Unix(host.folder.join("nobody"));
    let client = host.reactor.connect(&nowhere).unwrap();
    host.until("the refusal", |host| {
        host.connected.contains_key(&key(client))
    });
    assert!(host.connected[&key(client)].is_err());
    host.close_and_wait(&[client]);
    let (_, at) = host.listen();
    let client = host.reactor.connect(&at).unwrap();
    host.close_and_wait(&[client]);
    assert!(
        !host.connected.contains_key(&key(client)),
        "closed before it was connected"
    );
}

fn few_buffers_serve_many_connections<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape {
        buffers: Some((2, 1024)),
        ..Shape::default()
    });
    let (_, at) = host.listen();
    let pairs: Vec<_> = (0..20).map(|_| host.pair(&at)).collect();
    let block = pattern(50_000, 5);
    for (client, server) in &pairs {
        host.reactor.start_receiving(*server);
        host.send(*client, &block);
    }
    host.until("everything", |host| {
        pairs
            .iter()
            .all(|(_, server)| host.has(*server, block.len()))
    });
    for (_, server) in &pairs {
        assert!(host.data[&key(*server)] == block);
    }
    // Now hold every buffer: receiving stands still, and goes on when they come back.
    host.gives_back = false;
    host.until("the sends", |host| host.sent.len() == pairs.len());
    for (client, _) in &pairs {
        host.send(*client, &block);
    }
    host.linger(20_000_000);
    assert!(
        !host.leases.is_empty() && host.leases.len() <= 4,
        "{} leases",
        host.leases.len()
    );
    host.gives_back = true;
    for (_, lease) in std::mem::take(&mut host.leases) {
        host.reactor.give_back(lease);
    }
    host.until("everything again", |host| {
        pairs
            .iter()
            .all(|(_, server)| host.has(*server, 2 * block.len()))
    });
    for (_, server) in &pairs {
        assert!(host.data[&key(*server)][block.len()..] == block);
    }
}

fn a_tiny_ring_loses_nothing<R: Reactor>(make: fn(Shape) -> Host<R>) {
    const COUNT: usize = 200;
    let mut host = make(Shape {
        entries: Some((8, 16)),
        ..Shape::default()
    });
    let (_, at) = host.listen();
    let clients: Vec<SocketId> = (0..COUNT)
        .map(|_| host.reactor.connect(&at).unwrap())
        .collect();
    host.until("all", |host| {
        host.accepted.len() == COUNT && host.connected.len() == COUNT
    });
    for server in host.accepted.clone() {
        host.reactor.start_receiving(server);
    }
    let block = pattern(5_000, 9);
    for round in 1..=3 {
        for client in &clients {
            host.send(*client, &block);
        }
        host.until("every byte", |host| {
            host.sent.len() == COUNT * round
                && host.data.values().map(Vec::len).sum::<usize>() == COUNT * round * block.len()
        });
    }
    let servers = host.accepted.clone();
    host.close_and_wait(&servers);
    host.close_and_wait(&clients);
}

fn timers_fire_in_order_and_not_early<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let start = host.reactor.now();
    const MS: Nanos = 1_000_000;
    host.reactor.set_timer(start + 30 * MS, 3);
    host.reactor.set_timer(start + 10 * MS, 1);
    let gone = host.reactor.set_timer(start + 15 * MS, 9);
    host.reactor.set_timer(start + 20 * MS, 2);
    host.reactor.set_timer(start, 0);
    host.reactor.cancel_timer(gone);
    host.turn(Wait::Event);
    assert_eq!(host.fired.len(), 1);
    for count in 2..=4 {
        host.until("a timer", |host| host.fired.len() >= count);
        assert!(host.reactor.now() >= start + (count as u64 - 1) * 10 * MS);
    }
    let marks: Vec<u64> = host.fired.iter().map(|(_, mark)| *mark).collect();
    assert_eq!(marks, [0, 1, 2, 3]);
    // A wait ends at its own time too, even where a later end is armed already.
    let begin = host.reactor.now();
    host.reactor.set_timer(begin + 3_600_000 * MS, 4);
    host.reactor.waker().wake();
    host.turn(Wait::Event);
    assert_eq!(host.woken, 1);
    host.linger(10 * MS);
    assert!(host.reactor.now() < begin + 5_000 * MS);
    assert_eq!(host.fired.len(), 4);
}

fn files_hold_what_was_written<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let path = host.folder.join("journal");
    assert!(host.reactor.open(&path, OpenHow::default()).is_err());
    let how = OpenHow {
        create: true,
        ..OpenHow::default()
    };
    let file = host.reactor.open(&path, how).unwrap();
    assert!(
        host.reactor
            .open(
                &path,
                OpenHow {
                    exclusive: true,
                    ..how
                }
            )
            .is_err()
    );
    let whole = pattern(3 << 20, 4);
    for (mark, block) in whole.chunks(1 << 20).enumerate() {
        host.reactor.write(
            file,
            Bytes::copy_from_slice(block),
            (mark << 20) as u64,
            mark as u64,
        );
    }
    host.until("the writes", |host| host.written.len() == 3);
    for (mark, block, result) in std::mem::take(&mut host.written) {
        assert_eq!(result, Ok(()));
        assert!(
            block == whole[(mark as usize) << 20..][..1 << 20],
            "the memory comes back"
        );
    }
    host.reactor.sync(file, 77);
    host.until("the sync", |host| host.synced.len() == 1);
    assert_eq!(host.synced, [(file, 77, Ok(()))]);
    assert!((host.read_file)(&host.reactor, &path) == whole);
    host.reactor.write(file, Bytes::new(), 0, 5);
    host.reactor.write(file, Bytes::from_static(b"HEAD"), 0, 6);
    host.reactor.close_file(file);
    host.until("the last writes", |host| host.written.len() == 2);
    assert!(host.written.iter().all(|(.., result)| result.is_ok()));
    host.reactor.write(file, Bytes::from_static(b"late"), 0, 8);
    host.until("the refusal", |host| host.written.len() == 3);
    assert_eq!(
        host.written.pop(),
        Some((8, Bytes::from_static(b"late"), Err(libc::EBADF)))
    );
    let bytes = (host.read_file)(&host.reactor, &path);
    assert!(&bytes[..4] == b"HEAD" && bytes[4..] == whole[4..]);
    let again = host
        .reactor
        .open(
            &path,
            OpenHow {
                truncate: true,
                ..OpenHow::default()
            },
        )
        .unwrap();
    assert_ne!(again, file);
    assert!((host.read_file)(&host.reactor, &path).is_empty());
}

fn durable_writes_end_once_and_whole<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let path = host.folder.join("journal");
    let file = host.create(&path);
    let lens = [1, 511, 4096, 70_000, 3 << 20];
    let whole = pattern(lens.iter().sum(), 7);
    let mut offset = 0;
    for (mark, len) in lens.into_iter().enumerate() {
        let block = Bytes::copy_from_slice(&whole[offset..offset + len]);
        host.reactor
            .write_durable(file, block, offset as u64, mark as u64);
        offset += len;
        // One after the other and all at once.
        if mark % 2 == 0 {
            host.until("the write", |host| host.written.len() > mark);
        }
    }
    host.reactor.close_file(file);
    host.until("the writes", |host| host.written.len() == lens.len());
    host.linger(2_000_000);
    host.written.sort_by_key(|(mark, ..)| *mark);
    for ((_, block, result), len) in host.written.iter().zip(lens) {
        assert_eq!((block.len(), *result), (len, Ok(())));
    }
    assert_eq!((host.written.len(), host.synced.len()), (lens.len(), 0));
    assert!((host.read_file)(&host.reactor, &path) == whole);
    host.reactor
        .write_durable(file, Bytes::from_static(b"late"), 0, 9);
    host.until("the refusal", |host| host.written.len() > lens.len());
    let last = host.written.pop();
    assert_eq!(
        last,
        Some((9, Bytes::from_static(b"late"), Err(libc::EBADF)))
    );
}

fn reserved_space_reads_as_zeros<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let path = host.folder.join("segment");
    let file = host.create(&path);
    host.reactor.write(file, Bytes::from_static(b"head"), 0, 1);
    host.until("the write", |host| host.written.len() == 1);
    host.reactor.reserve(file, 1 << 20, 2);
    assert_eq!(host.outcome(2), Ok(()));
    let bytes = (host.read_file)(&host.reactor, &path);
    // 4 bytes on a file system that reserves nothing.
    assert!([4, 1 << 20].contains(&bytes.len()), "{}", bytes.len());
    assert_eq!(&bytes[..4], b"head");
    assert!(bytes[4..].iter().all(|byte| *byte == 0));
    host.reactor
        .write_durable(file, Bytes::from_static(b"tail"), (1 << 20) - 4, 3);
    // Less than is there changes nothing.
    host.reactor.reserve(file, 4096, 4);
    assert_eq!(host.outcome(4), Ok(()));
    host.until("the write", |host| host.written.len() == 2);
    let bytes = (host.read_file)(&host.reactor, &path);
    assert_eq!(
        (bytes.len(), &bytes[bytes.len() - 4..]),
        (1 << 20, &b"tail"[..])
    );
    host.reactor.close_file(file);
    host.reactor.reserve(file, 2 << 20, 5);
    assert_eq!(host.outcome(5), Err(libc::EBADF));
}

fn names_change_and_go<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let [a, b, c] = ["a", "b", "c"].map(|name| host.folder.join(name));
    let file = host.create(&a);
    host.reactor.write(file, Bytes::from_static(b"first"), 0, 1);
    host.until("the write", |host| host.written.len() == 1);
    host.reactor.rename(&a, &b, 2);
    assert_eq!(host.outcome(2), Ok(()));
    assert!(!host.is_there(&a));
    // An open file is the same under its new name.
    host.reactor.write(file, Bytes::from_static(b"FI"), 0, 3);
    host.until("the write", |host| host.written.len() == 2);
    assert_eq!((host.read_file)(&host.reactor, &b), b"FIrst");
    // A rename replaces; who had the old file open writes what nobody sees.
    let other = host.create(&c);
    host.reactor.rename(&c, &b, 4);
    assert_eq!(host.outcome(4), Ok(()));
    host.reactor
        .write(file, Bytes::from_static(b"unseen"), 0, 5);
    host.until("the write", |host| host.written.len() == 3);
    assert!((host.read_file)(&host.reactor, &b).is_empty());
    host.reactor
        .write(other, Bytes::from_static(b"second"), 0, 6);
    host.until("the write", |host| host.written.len() == 4);
    assert_eq!((host.read_file)(&host.reactor, &b), b"second");
    assert!(host.written.iter().all(|(.., result)| result.is_ok()));
    host.reactor.rename(&b, &b, 7);
    assert_eq!(host.outcome(7), Ok(()));
    for missing in [&a, &c] {
        host.reactor.rename(missing, &b, 8);
        assert_eq!(host.outcome(8), Err(libc::ENOENT));
        host.reactor.remove(missing, 9);
        assert_eq!(host.outcome(9), Err(libc::ENOENT));
    }
    assert!(host.is_there(&b));
    host.reactor.remove(&b, 10);
    assert_eq!(host.outcome(10), Ok(()));
    assert!(!host.is_there(&b));
    host.create(&b);
    assert!((host.read_file)(&host.reactor, &b).is_empty());
}

fn a_folder_can_be_synced_and_no_more<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let path = host.folder.join("file");
    host.create(&path);
    assert!(host.reactor.open_dir(&path).is_err(), "a file is no folder");
    let folder = host.reactor.open_dir(&host.folder.clone()).unwrap();
    host.reactor.sync(folder, 1);
    host.until("the sync", |host| host.synced.len() == 1);
    assert_eq!(host.synced, [(folder, 1, Ok(()))]);
    host.reactor.write(folder, Bytes::from_static(&[1]), 0, 2);
    host.reactor
        .write_durable(folder, Bytes::from_static(&[1]), 0, 3);
    host.until("the refusals", |host| host.written.len() == 2);
    for (_, block, result) in &host.written {
        assert_eq!((&block[..], *result), (&[1][..], Err(libc::EBADF)));
    }
    host.reactor.reserve(folder, 1, 4);
    assert_eq!(host.outcome(4), Err(libc::EBADF));
    host.reactor.close_file(folder);
    host.reactor.sync(folder, 5);
    host.until("the refusal", |host| host.synced.len() == 2);
    assert_eq!(host.synced[1], (folder, 5, Err(libc::EBADF)));
}

fn what_goes_past_the_page_cache_is_there_too<R: Reactor>(make: fn(Shape) -> Host<R>) {
    const UNIT: usize = DIRECT_UNIT;
    let mut host = make(Shape::default());
    let path = host.folder.join("direct");
    let how = OpenHow {
        create: true,
        direct: true,
        ..OpenHow::default()
    };
    let file = host.reactor.open(&path, how).unwrap();
    let mut whole = pattern(5 << 20, 9);
    host.reactor.write_durable(file, whole.clone().into(), 0, 0);
    host.until("the long write", |host| host.written.len() == 1);
    // Some fit the units of the disk, others do not.
    let pieces = [
        (UNIT, UNIT),
        (3 * UNIT, 100),
        (5 * UNIT + 1, UNIT),
        (8 * UNIT, 3 * UNIT),
        (7 * UNIT + 7, 7),
        (12 * UNIT, 0),
        (5 << 20, 2 * UNIT),
        ((5 << 20) + 2 * UNIT, 5),
    ];
    for (mark, (at, len)) in pieces.into_iter().enumerate() {
        let bytes = pattern(len, mark as u64);
        whole.resize(whole.len().max(at + len), 0);
        whole[at..at + len].copy_from_slice(&bytes);
        let bytes = Bytes::from(bytes);
        match mark % 2 {
            0 => host.reactor.write(file, bytes, at as u64, mark as u64),
            _ => host
                .reactor
                .write_durable(file, bytes, at as u64, mark as u64),
        }
    }
    host.until("the writes", |host| host.written.len() == 1 + pieces.len());
    assert!(host.written.iter().all(|(.., result)| result.is_ok()));
    for (mark, block, _) in &host.written[1..] {
        let (at, len) = pieces[*mark as usize];
        assert!(*block == whole[at..at + len], "the memory comes back");
    }
    host.reactor.sync(file, 1);
    host.until("the sync", |host| host.synced.len() == 1);
    assert!((host.read_file)(&host.reactor, &path) == whole);
}

/// Makes an arena, takes all of it and fills it.
fn filled_chunks<R: Reactor>(host: &mut Host<R>, count: u32, len: u32) -> Vec<Bytes> {
    assert!(host.reactor.take_chunk().is_none());
    // Whether the memory is registered is up to the host.
    let _ = host.reactor.make_arena(count, len).unwrap();
    assert!(host.reactor.make_arena(count, len).is_err());
    let chunks = (0..count)
        .map(|number| {
            let mut chunk = host.reactor.take_chunk().unwrap();
            let bytes = pattern(chunk.room(), u64::from(number));
            assert_eq!(chunk.put(&bytes), bytes.len());
            chunk.freeze()
        })
        .collect();
    assert!(host.reactor.take_chunk().is_none());
    chunks
}

/// Waits until all chunks are free again.
fn all_are_free<R: Reactor>(host: &mut Host<R>, count: u32) {
    let deadline = host.reactor.now() + PATIENCE;
    loop {
        let chunks: Vec<_> = std::iter::from_fn(|| host.reactor.take_chunk()).collect();
        if chunks.len() == count as usize {
            return;
        }
        drop(chunks);
        assert!(
            host.reactor.now() < deadline,
            "some memory is never let go of"
        );
        let soon = host.reactor.now() + 1_000_000;
        host.turn(Wait::Until(soon));
    }
}

fn what_is_sent_in_place_arrives_whole_and_is_let_go_of<R: Reactor>(make: fn(Shape) -> Host<R>) {
    let mut host = make(Shape::default());
    let chunks = filled_chunks(&mut host, 3, 100_000);
    let (listener, at) = host.listen();
    let pairs = [host.pair(&at), host.pair(&at)];
    let mut pieces: Vec<Bytes> = vec![Bytes::from_static(b"first"), chunks[0].clone()];
    pieces.extend((0..70).map(|n| Bytes::from(pattern(n * 100, n as u64))));
    pieces.extend([
        chunks[1].slice(5..99_000),
        chunks[2].slice(..1),
        chunks[0].clone(),
    ]);
    pieces.push(pattern(300_000, 9).into());
    let whole: Vec<u8> = pieces.concat();
    drop(chunks);
    for (client, server) in pairs {
        host.reactor.start_receiving(server);
        assert!(
            !host.reactor.may_send_in_place(client),
            "it is on this host"
        );
        host.reactor.send_in_place(client, pieces.clone()).unwrap();
        let again = host.reactor.send_in_place(client, pieces.clone());
        assert_eq!(again.unwrap_err(), pieces);
        let plain = Outgoing::Block(vec![1]);
        assert!(host.reactor.send(client, plain).is_err());
    }
    host.until("the bytes", |host| {
        let has_all = |(_, server): &(_, SocketId)| host.has(*server, whole.len());
        pairs.iter().all(has_all) && host.released.len() == 2
    });
    for (client, server) in pairs {
        assert!(host.data[&key(server)] == whole);
        let sent = host.sent.iter().find(|(of, ..)| *of == client);
        let Some((_, Outgoing::Gather(back), Ok(()))) = sent else {
            panic!("the send went well, and tells of what");
        };
        assert_eq!(*back, pieces);
        assert!(host.reactor.send_in_place(client, Vec::new()).is_err());
    }
    let is_moved = |(_, usage): &(_, Usage)| *usage != Usage::InPlace;
    assert!(
        host.released.iter().all(is_moved),
        "within a host all is copied"
    );
    assert!(
        host.reactor.take_chunk().is_none(),
        "somebody still has them"
    );
    drop(pieces);
    host.sent.clear();
    all_are_free(&mut host, 3);
    host.close_and_wait(&[pairs[0].0, pairs[0].1, pairs[1].0, pairs[1].1, listener]);
}

fn the_next_send_waits_for_no_release<R: Reactor>(make: fn(Shape) -> Host<R>) {
    const ROUNDS: usize = 30;
    let mut host = make(Shape::default());
    let chunk = filled_chunks(&mut host, 1, 65_536).remove(0);
    let (_, at) = host.listen();
    let (client, server) = host.pair(&at);
    let mut whole = Vec::new();
    // Nobody takes anything, and still the first is over.
    for round in 0..ROUNDS {
        if round == 1 {
            host.reactor.start_receiving(server);
        }
        let (few, other) = (
            pattern(round, 1),
            Bytes::from(pattern(50_000, round as u64)),
        );
        whole.extend_from_slice(&few);
        if round % 3 == 1 {
            whole.extend_from_slice(&other);
            let pieces = vec![few.into(), other];
            host.reactor.send(client, Outgoing::Gather(pieces)).unwrap();
        } else {
            for piece in [&chunk, &other, &chunk] {
                whole.extend_from_slice(piece);
            }
            let pieces = vec![few.into(), chunk.clone(), other, chunk.clone()];
            host.reactor.send_in_place(client, pieces).unwrap();
        }
        host.until("the send", |host| host.sends_of(client) > round);
    }
    host.reactor.finish_sending(client);
    host.until("the end", |host| host.ends.contains_key(&key(server)));
    assert!(host.data[&key(server)] == whole);
    host.until("the releases", |host| {
        host.released.len() == ROUNDS - ROUNDS / 3
    });
    assert!(host.sent.iter().all(|(.., result)| result.is_ok()));
    drop(chunk);
    host.sent.clear();
    all_are_free(&mut host, 1);
}

fn what_was_lent_outlives_its_socket<R: Reactor>(make: fn(Shape) -> Host<R>) {
    for turns in 0..4 {
        let mut host = make(Shape::default());
        let chunks = filled_chunks(&mut host, 4, 1 << 20);
        let (_, at) = host.listen();
        let (client, server) = host.pair(&at);
        let mut pieces = chunks;
        pieces.insert(2, pattern(8 << 20, 1).into());
        // More than any kernel takes while nobody reads.
        host.reactor.send_in_place(client, pieces).unwrap();
        for _ in 0..turns {
            host.turn(Wait::Look);
        }
        host.close_and_wait(&[client]);
        let (next, other) = host.pair(&at);
        host.reactor.start_receiving(other);
        host.carry(next, other, b"of the next owner");
        host.close_and_wait(&[server]);
        all_are_free(&mut host, 4);
        assert_eq!(host.released, [], "of a closed socket nothing is told");
        host.close_and_wait(&[next, other]);
    }
}

fn a_reactor_may_be_dropped_at_any_time<R: Reactor>(make: fn(Shape) -> Host<R>) {
    for turns in 0..4 {
        let mut host = make(Shape::default());
        let (_, at) = host.listen();
        let (client, server) = host.pair(&at);
        host.reactor.start_receiving(client);
        let chunks = filled_chunks(&mut host, 2, 1 << 20);
        let file = host
            .reactor
            .open(
                &host.folder.join("dropped"),
                OpenHow {
                    create: true,
                    ..OpenHow::default()
                },
            )
            .unwrap();
        host.reactor.write(file, pattern(1 << 20, 1).into(), 0, 0);
        host.reactor.write(file, chunks[0].clone(), 0, 1);
        host.reactor.sync(file, 2);
        host.reactor
            .write_durable(file, pattern(1 << 20, 3).into(), 0, 3);
        host.reactor.reserve(file, 2 << 20, 4);
        let (from, to) = (host.folder.join("dropped"), host.folder.join("moved"));
        host.reactor.rename(&from, &to, 5);
        host.reactor.remove(&to, 6);
        host.send(client, &pattern(8 << 20, 2));
        let pieces = (0..50).map(|n| Bytes::from(pattern(100_000, n))).collect();
        host.reactor.send(server, Outgoing::Gather(pieces)).unwrap();
        let (third, _) = host.pair(&at);
        host.reactor.send_in_place(third, chunks).unwrap();
        host.reactor.connect(&at).unwrap();
        let in_a_minute = host.reactor.now() + 60_000_000_000;
        host.reactor.set_timer(in_a_minute, 0);
        for _ in 0..turns {
            host.turn(Wait::Look);
        }
    }
}

/// Tests that every reactor passes.
macro_rules! bodies {
    ($make:path) => {
        bodies! { $make:
            bytes_come_back_as_sent
            a_unix_socket_works_and_a_stale_file_is_replaced
            many_connections_are_served
            a_gather_arrives_in_order_and_whole
            eight_mebibytes_pass_a_slow_reader
            receiving_stops_and_starts
            a_half_closed_connection_still_answers
            a_closed_peer_fails_sends
            unread_data_at_a_close_resets_the_peer
            closing_with_operations_in_flight_never_hits_the_next_owner
            a_refused_connect_says_so
            few_buffers_serve_many_connections
            a_tiny_ring_loses_nothing
            timers_fire_in_order_and_not_early
            files_hold_what_was_written
            durable_writes_end_once_and_whole
            reserved_space_reads_as_zeros
            names_change_and_go
            a_folder_can_be_synced_and_no_more
            what_goes_past_the_page_cache_is_there_too
            what_is_sent_in_place_arrives_whole_and_is_let_go_of
            the_next_send_waits_for_no_release
            what_was_lent_outlives_its_socket
            a_reactor_may_be_dropped_at_any_time
        }
    };
    ($make:path: $($body:ident)*) => {
        $(#[test]
        fn $body() {
            crate::$body($make);
        })*
    };
}

/// The kernel's ring. A level that this host lacks is passed over, with a line saying so.
mod kernel {
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::{Host, Shape, key, pattern};
    use uring::{Endpoint, Event, KernelReactor, Level, Reactor, RingConfig, Usage, Wait, Wake};

    pub fn host(level: Level, use_5_11: bool, shape: Shape) -> Host<KernelReactor> {
        let mut config = RingConfig {
            level: Some(level),
            use_5_11,
            ..RingConfig::default()
        };
        if let Some((count, len)) = shape.buffers {
            (
                config.recv_buffers,
                config.recv_reserve,
                config.recv_buffer_len,
            ) = (count, count, len);
        }
        if let Some(entries) = shape.entries {
            (config.sq_entries, config.cq_entries) = entries;
        }
        let reactor = match KernelReactor::new(config.clone()) {
            Ok(reactor) => reactor,
            Err(error) => {
                // Still a test of the best level that there is.
                println!("level {level} is not tested: {error}");
                config.level = None;
                KernelReactor::new(config).expect("some level works")
            }
        };
        Host::new(reactor, folder(), |_, path| {
            std::fs::read(path).unwrap_or_default()
        })
    }

    /// A fresh folder per reactor, below the build's own.
    fn folder() -> PathBuf {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("uring-{}-{count}", std::process::id());
        // The build's own folder, or wherever a test that was carried to another host may write.
        let places = [
            Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
            std::env::temp_dir(),
        ];
        for place in places {
            let folder = place.join(&name);
            let _ = std::fs::remove_dir_all(&folder);
            if std::fs::create_dir_all(&folder).is_ok() {
                return folder;
            }
        }
        panic!("no folder to write to");
    }

    mod full {
        fn make(shape: super::Shape) -> super::Host<uring::KernelReactor> {
            super::host(uring::Level::Full, true, shape)
        }
        bodies!(make);
    }

    mod multishot {
        fn make(shape: super::Shape) -> super::Host<uring::KernelReactor> {
            super::host(uring::Level::Multishot, true, shape)
        }
        bodies!(make);
    }

    mod basic {
        fn make(shape: super::Shape) -> super::Host<uring::KernelReactor> {
            super::host(uring::Level::Basic, true, shape)
        }
        bodies!(make);
    }

    /// As on the first 5.10: the wait's end is an operation in the ring, names change outside it.
    mod basic_of_5_10 {
        fn make(shape: super::Shape) -> super::Host<uring::KernelReactor> {
            super::host(uring::Level::Basic, false, shape)
        }
        bodies!(make);
    }

    fn every_level(test: impl Fn(Host<KernelReactor>)) {
        for level in Level::ALL {
            test(host(level, true, Shape::default()));
        }
        test(host(Level::Basic, false, Shape::default()));
    }

    #[test]
    fn another_thread_wakes_a_sleeping_turn() {
        every_level(|mut host| {
            for round in 1..=20 {
                let waker = host.reactor.waker();
                let thread = std::thread::spawn(move || waker.wake());
                host.until("the wake", |host| host.woken >= round);
                thread.join().unwrap();
            }
            let waker = host.reactor.waker();
            assert!(waker.as_raw_fd() >= 0);
            drop(host);
            waker.wake();
        });
    }

    #[test]
    fn a_file_system_that_reserves_nothing_is_no_failure() {
        every_level(|mut host| {
            let how = uring::OpenHow::default();
            let file = host
                .reactor
                .open(Path::new("/proc/self/comm"), how)
                .unwrap();
            host.reactor.reserve(file, 4096, 1);
            assert_eq!(host.outcome(1), Ok(()));
        });
    }

    #[test]
    fn a_path_that_no_file_can_have_is_refused() {
        every_level(|mut host| {
            let (odd, even) = (Path::new("a\0b"), host.folder.join("c"));
            host.reactor.rename(odd, &even, 1);
            host.reactor.rename(&even, odd, 2);
            host.reactor.remove(odd, 3);
            for mark in 1..=3 {
                assert_eq!(host.outcome(mark), Err(libc::EINVAL));
            }
        });
    }

    #[test]
    fn an_idle_turn_sleeps() {
        every_level(|mut host| {
            let (_, at) = host.listen();
            let (client, server) = host.pair(&at);
            host.reactor.start_receiving(client);
            host.reactor.start_receiving(server);
            host.linger(5_000_000);
            let turns = host.reactor.counters().turns;
            host.linger(200_000_000);
            assert!(host.reactor.counters().turns - turns < 10);
        });
    }

    #[test]
    fn a_loop_that_only_looks_sees_everything() {
        every_level(|mut host| {
            let (_, at) = host.listen();
            let uring::Endpoint::Tcp(address) = at else {
                unreachable!()
            };
            let thread = std::thread::spawn(move || {
                let mut peer = std::net::TcpStream::connect(address).unwrap();
                for round in 0..100_u8 {
                    std::io::Write::write_all(&mut peer, &[round; 10]).unwrap();
                    let mut back = [0; 10];
                    std::io::Read::read_exact(&mut peer, &mut back).unwrap();
                    assert_eq!(back, [round; 10]);
                }
            });
            let deadline = host.reactor.now() + super::PATIENCE;
            while host.ends.is_empty() {
                assert!(host.reactor.now() < deadline);
                host.turn(Wait::Look);
                for socket in std::mem::take(&mut host.accepted) {
                    host.reactor.start_receiving(socket);
                }
                for ((index, generation), data) in std::mem::take(&mut host.data) {
                    let back = uring::Outgoing::Block(data);
                    host.reactor
                        .send(uring::SocketId { index, generation }, back)
                        .unwrap();
                }
            }
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_reset_is_a_failure() {
        every_level(|mut host| {
            let (_, at) = host.listen();
            let uring::Endpoint::Tcp(address) = at else {
                unreachable!()
            };
            let mut peer = std::net::TcpStream::connect(address).unwrap();
            host.until("the connection", |host| host.accepted.len() == 1);
            let server = host.accepted[0];
            host.reactor.start_receiving(server);
            // Closing with unread data resets.
            host.send(server, b"unread");
            host.until("the send", |host| host.sent.len() == 1);
            std::io::Read::read_exact(&mut peer, &mut [0; 1]).unwrap();
            drop(peer);
            host.until("the end", |host| {
                host.ends.contains_key(&super::key(server))
            });
            assert_eq!(
                host.ends[&super::key(server)],
                uring::End::Failed(libc::ECONNRESET)
            );
            host.close_and_wait(&[server]);
        });
    }

    #[test]
    fn what_never_left_was_not_copied() {
        every_level(|mut host| {
            if !host.reactor.choice().features.send_zc {
                println!("nothing is sent in place here");
                return;
            }
            let (_, at) = host.listen();
            let (client, server) = host.pair(&at);
            let piece = Bytes::from(pattern(200_000, 1));
            // Until there is room neither there, where nobody reads, nor here.
            let mut sends = 0;
            while host.sends_of(client) == sends {
                host.reactor
                    .send_in_place(client, vec![piece.clone()])
                    .unwrap();
                sends += 1;
                let deadline = host.reactor.now() + 100_000_000;
                while host.sends_of(client) < sends && host.reactor.now() < deadline {
                    host.turn(Wait::Until(deadline));
                }
            }
            assert!(host.released.len() < sends);
            // What was not read resets the connection, and what was not sent is dropped.
            host.close_and_wait(&[server]);
            host.until("the releases", |host| host.released.len() == sends);
            let in_place = |(_, usage): &(_, Usage)| *usage == Usage::InPlace;
            assert!(host.released.iter().any(in_place));
        });
    }

    #[test]
    fn where_nothing_goes_in_place_it_is_a_plain_send() {
        every_level(|mut host| {
            let at = Endpoint::Unix(host.folder.join("socket"));
            let listener = host.reactor.listen(&at, 16).unwrap();
            let (client, server) = host.pair(&at);
            assert!(!host.reactor.may_send_in_place(client));
            host.reactor.start_receiving(server);
            let pieces: Vec<Bytes> = (0..3).map(|n| pattern(100_000, n).into()).collect();
            let whole = pieces.concat();
            host.reactor.send_in_place(client, pieces).unwrap();
            host.until("the bytes", |host| {
                host.has(server, whole.len()) && host.released.len() == 1
            });
            assert!(host.data[&key(server)] == whole);
            assert_eq!(host.released, [(client, Usage::Refused)]);
            host.close_and_wait(&[client, server, listener]);
        });
    }

    #[test]
    fn the_best_level_is_taken_and_better_ones_explained() {
        let reactor = KernelReactor::new(RingConfig::default()).unwrap();
        let choice = reactor.choice();
        let better = Level::ALL
            .iter()
            .filter(|level| **level > choice.level)
            .count();
        assert_eq!(choice.refused.len(), better);
        println!("{choice:?}");
    }

    #[test]
    fn a_turn_appends_at_most_about_a_thousand_events() {
        every_level(|mut host| {
            for _ in 0..3_000 {
                host.reactor.set_timer(0, 1);
            }
            let mut events: Vec<Event> = Vec::new();
            let mut turns = 0;
            while events.len() < 3_000 {
                host.reactor.turn(Wait::Event, &mut events).unwrap();
                turns += 1;
            }
            assert_eq!((events.len(), turns), (3_000, 3));
        });
    }
}

/// The in-memory twin, in several histories.
mod fake {
    use std::path::PathBuf;

    use super::{Host, Shape};
    use uring::fake::{FakeBuffers, FakeReactor, FakeWorld, Faults, Machine};
    use uring::{Endpoint, Event, Reactor, Wait};

    const HERE: Machine = Machine(1);

    fn host(seed: u64, shape: Shape) -> Host<FakeReactor> {
        let (count, len) = shape.buffers.unwrap_or((256, 16 * 1024));
        let buffers = FakeBuffers {
            count: u32::from(count),
            len,
        };
        let reactor = FakeWorld::seeded(seed).reactor_with(HERE, buffers);
        Host::new(
            reactor,
            PathBuf::from("/no-such-folder"),
            |reactor, path| reactor.world().read_file(HERE, path).unwrap_or_default(),
        )
    }

    mod seed_1 {
        fn make(shape: super::Shape) -> super::Host<uring::fake::FakeReactor> {
            super::host(1, shape)
        }
        bodies!(make);
    }

    mod seed_2 {
        fn make(shape: super::Shape) -> super::Host<uring::fake::FakeReactor> {
            super::host(2, shape)
        }
        bodies!(make);
    }

    /// Every read and write is short, buffers are short, accepts fail at first.
    mod adverse {
        fn make(shape: super::Shape) -> super::Host<uring::fake::FakeReactor> {
            let host = super::host(3, shape);
            host.reactor.world().set_faults(super::Faults {
                short_percent: 90,
                starved_percent: 30,
                accept_fails_percent: 30,
                network_span: (0, 3_000_000),
                ..super::Faults::default()
            });
            host
        }
        bodies!(make);
    }

    /// Two machines talk until everything was said; the result is the whole history.
    fn conversation(seed: u64) -> Vec<(u64, usize)> {
        let world = FakeWorld::seeded(seed);
        let mut a = world.reactor(Machine(1));
        let mut b = world.reactor(Machine(2));
        let any = Endpoint::Tcp("0.0.0.0:7000".parse().unwrap());
        b.listen(&any, 1).unwrap();
        let at = Endpoint::Tcp((Machine(2).ip(), 7000).into());
        let client = a.connect(&at).unwrap();
        let mut log = Vec::new();
        let mut events = Vec::new();
        let mut received = 0;
        while received < 100_000 {
            for reactor in [&mut a, &mut b] {
                reactor.turn(Wait::Event, &mut events).unwrap();
                for event in events.drain(..) {
                    log.push((reactor.now(), format!("{event:?}").len()));
                    match event {
                        Event::Connected { .. } => {
                            let block = uring::Outgoing::Block(vec![7; 100_000]);
                            reactor.send(client, block).unwrap();
                        }
                        Event::Accepted { socket, .. } => reactor.start_receiving(socket),
                        Event::Received { lease, .. } => {
                            received += lease.len();
                            reactor.give_back(lease);
                        }
                        _ => {}
                    }
                }
            }
        }
        log
    }

    #[test]
    fn one_seed_is_one_history() {
        assert_eq!(conversation(5), conversation(5));
        assert_ne!(conversation(5), conversation(6));
    }

    #[test]
    fn a_cut_holds_one_way_only_until_it_heals() {
        let world = FakeWorld::seeded(1);
        let mut a = world.reactor(Machine(1));
        let mut b = world.reactor(Machine(2));
        let listener = b
            .listen(&Endpoint::Tcp("0.0.0.0:7000".parse().unwrap()), 1)
            .unwrap();
        let client = a
            .connect(&Endpoint::Tcp((Machine(2).ip(), 7000).into()))
            .unwrap();
        let mut accepted = None;
        let mut heard = (0, 0);
        let mut run = |a: &mut FakeReactor, b: &mut FakeReactor, span| {
            let until = a.now() + span;
            let mut events = Vec::new();
            while a.now() < until {
                a.turn(Wait::Until(until), &mut events).unwrap();
                for event in events.drain(..) {
                    if let Event::Received { lease, .. } = event {
                        heard.0 += lease.len();
                        a.give_back(lease);
                    }
                }
                b.turn(Wait::Until(until), &mut events).unwrap();
                for event in events.drain(..) {
                    match event {
                        Event::Accepted { socket, .. } => accepted = Some(socket),
                        Event::Received { lease, .. } => {
                            heard.1 += lease.len();
                            b.give_back(lease);
                        }
                        _ => {}
                    }
                }
            }
            (accepted, heard)
        };
        let server = run(&mut a, &mut b, 10_000_000).0.unwrap();
        a.start_receiving(client);
        b.start_receiving(server);
        world.cut_one_way(Machine(1), Machine(2));
        let block = || uring::Outgoing::Block(vec![1; 10]);
        a.send(client, block()).unwrap();
        b.send(server, block()).unwrap();
        assert_eq!(run(&mut a, &mut b, 50_000_000).1, (10, 0));
        world.heal();
        assert_eq!(run(&mut a, &mut b, 50_000_000).1, (10, 10));
        // A machine without power says nothing; whoever talks to it again is told.
        world.crash(Machine(2));
        drop(b);
        let mut b = world.reactor(Machine(2));
        a.send(client, block()).unwrap();
        let mut events = Vec::new();
        let until = a.now() + 50_000_000;
        while a.now() < until {
            a.turn(Wait::Until(until), &mut events).unwrap();
            b.turn(Wait::Look, &mut Vec::new()).unwrap();
        }
        let failed = uring::End::Failed(libc::ECONNRESET);
        let is_told =
            |event: &Event| matches!(event, Event::ReceiveEnded { end, .. } if *end == failed);
        assert!(events.iter().any(is_told), "{events:?}");
        assert!(b.local_addr(listener).is_none());
    }
}
