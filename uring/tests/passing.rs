//! Connections on their way from one reactor to another. Only the kernel has descriptors, so the in-memory
//! twin has no part in this.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use uring::{Event, KernelReactor, Level, Outgoing, Reactor, RingConfig, SocketId, Wait};

fn reactors() -> Vec<KernelReactor> {
    let config = |level| RingConfig {
        level: Some(level),
        ..RingConfig::default()
    };
    let made = Level::ALL
        .into_iter()
        .map(|level| KernelReactor::new(config(level)));
    made.filter_map(Result::ok).collect()
}

/// A client, and the other end of its connection.
fn connection() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (client, listener.accept().unwrap().0.into())
}

/// What a reactor told of some connections: what they received, and those that it has given away.
#[derive(Default)]
struct Told {
    data: Vec<(SocketId, Vec<u8>)>,
    out: Vec<(SocketId, OwnedFd)>,
    sent: usize,
}

impl Told {
    fn until(&mut self, reactor: &mut KernelReactor, is_enough: impl Fn(&Told) -> bool) {
        let deadline = reactor.now() + 20_000_000_000;
        let mut events = Vec::new();
        while !is_enough(self) {
            assert!(reactor.now() < deadline, "it does not come");
            reactor.turn(Wait::Until(deadline), &mut events).unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Received { socket, lease } => {
                        let left = self.out.iter().all(|(out, _)| *out != socket);
                        assert!(left, "nothing comes behind the descriptor");
                        let bytes = reactor.received(&lease).to_vec();
                        self.data.push((socket, bytes));
                        reactor.give_back(lease);
                    }
                    Event::HandedOut { socket, fd } => self.out.push((socket, fd)),
                    Event::Sent { result, .. } => {
                        result.unwrap();
                        self.sent += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn of(&self, wanted: SocketId) -> Vec<u8> {
        let pieces = self.data.iter().filter(|(socket, _)| *socket == wanted);
        pieces.flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

#[test]
fn no_byte_is_lost_on_the_way_from_one_reactor_to_another() {
    for mut from in reactors() {
        for mut to in reactors() {
            let pairs: Vec<_> = (0..20).map(|_| connection()).collect();
            let (mut clients, mut sockets) = (Vec::new(), Vec::new());
            for (client, fd) in pairs {
                let socket = from.take_in(fd).unwrap();
                from.start_receiving(socket);
                sockets.push(socket);
                clients.push(client);
            }
            let mut told = Told::default();
            clients
                .iter_mut()
                .for_each(|client| client.write_all(b"one").unwrap());
            told.until(&mut from, |told| told.data.len() == 20);
            // In the middle of what they say.
            for (client, socket) in clients.iter_mut().zip(&sockets) {
                client.write_all(b"two").unwrap();
                from.hand_out(*socket);
                client.write_all(b"three").unwrap();
            }
            told.until(&mut from, |told| told.out.len() == 20);
            clients
                .iter_mut()
                .for_each(|client| client.write_all(b"four").unwrap());
            let mut later = Told::default();
            let mut moved = Vec::new();
            for (old, fd) in std::mem::take(&mut told.out) {
                let socket = to.take_in(fd).unwrap();
                to.start_receiving(socket);
                moved.push((old, socket));
            }
            let whole = |told: &Told, later: &Told, (old, new): (SocketId, SocketId)| {
                [told.of(old), later.of(new)].concat()
            };
            later.until(&mut to, |later| {
                let all = moved.iter().map(|pair| whole(&told, later, *pair));
                all.into_iter().all(|bytes| bytes.len() == 15)
            });
            for pair in &moved {
                assert_eq!(whole(&told, &later, *pair), b"onetwothreefour");
            }
            // They are open in both directions.
            for (_, socket) in &moved {
                to.send(*socket, Outgoing::Block(b"reply".to_vec()))
                    .unwrap();
            }
            later.until(&mut to, |later| later.sent == 20);
            from = in_place_of(from);
            for client in &mut clients {
                let mut reply = [0; 5];
                client.read_exact(&mut reply).unwrap();
                assert_eq!(&reply, b"reply");
            }
        }
    }
}

/// Another reactor of the same kind; the first one is gone.
fn in_place_of(gone: KernelReactor) -> KernelReactor {
    let level = Some(gone.choice().level);
    drop(gone);
    let config = RingConfig {
        level,
        ..RingConfig::default()
    };
    KernelReactor::new(config).unwrap()
}

#[test]
fn what_is_being_sent_is_sent_before_a_connection_is_handed_out() {
    for mut reactor in reactors() {
        let (mut client, fd) = connection();
        let socket = reactor.take_in(fd).unwrap();
        reactor.start_receiving(socket);
        // More than fits into the buffers between them.
        let len = 32 << 20;
        reactor.send(socket, Outgoing::Block(vec![7; len])).unwrap();
        reactor.hand_out(socket);
        let more = Outgoing::Block(b"no".to_vec());
        assert!(reactor.send(socket, more).is_err(), "it is on its way out");
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; len];
            client.read_exact(&mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7));
        });
        let mut told = Told::default();
        told.until(&mut reactor, |told| !told.out.is_empty());
        assert_eq!((told.sent, told.out.len()), (1, 1));
        reader.join().unwrap();
    }
}

#[test]
fn closing_wins_over_handing_out() {
    for mut reactor in reactors() {
        let (mut client, fd) = connection();
        let socket = reactor.take_in(fd).unwrap();
        reactor.start_receiving(socket);
        reactor.hand_out(socket);
        reactor.close(socket);
        reactor.hand_out(socket);
        let mut events = Vec::new();
        let deadline = reactor.now() + 20_000_000_000;
        while events.is_empty() && reactor.now() < deadline {
            reactor.turn(Wait::Until(deadline), &mut events).unwrap();
        }
        let is_closed =
            matches!(events[..], [Event::Closed { socket: closed }] if closed == socket);
        assert!(is_closed, "{events:?}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
