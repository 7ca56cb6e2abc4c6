//! Listeners that other processes have, too, and who is at the other end of a Unix socket. Only the kernel
//! has such, so the in-memory twin has no part in this.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use uring::{Endpoint, Event, KernelReactor, Level, Reactor, RingConfig, SocketId, Wait, sys};

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

/// Turns until an event of this kind comes.
fn until<T>(reactor: &mut KernelReactor, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let deadline = reactor.now() + 20_000_000_000;
    let mut events = Vec::new();
    while reactor.now() < deadline {
        reactor.turn(Wait::Until(deadline), &mut events).unwrap();
        if let Some(found) = events.drain(..).find_map(|event| wanted(&event)) {
            return found;
        }
    }
    panic!("it does not come");
}

fn accepted(event: &Event) -> Option<SocketId> {
    match event {
        Event::Accepted { socket, .. } => Some(*socket),
        _ => None,
    }
}

#[test]
fn a_claimed_port_is_for_ones_own_listeners_only() {
    for mut reactor in reactors() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = free.local_addr().unwrap();
        let in_use = |claim: std::io::Result<OwnedFd>| {
            assert_eq!(claim.unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        };
        in_use(sys::claim(&at));
        drop(free);
        let claim = sys::claim(&at).unwrap();
        // Another process looks before the first one listens.
        in_use(sys::claim(&at));
        assert!(TcpListener::bind(at).is_err());
        assert!(TcpStream::connect(at).is_err());

        let listeners = [0, 1].map(|_| reactor.listen(&Endpoint::Tcp(at), 16).unwrap());
        in_use(sys::claim(&at));
        // The claim takes no connection away from them.
        for _ in 0..20 {
            let _stream = TcpStream::connect(at).unwrap();
            until(&mut reactor, accepted);
        }
        drop(claim);
        in_use(sys::claim(&at));
        let _beside = sys::listener(&Endpoint::Tcp(at), 16).unwrap();
        for listener in listeners {
            reactor.close(listener);
        }
    }
}

#[test]
fn closing_an_adopted_listener_leaves_it_to_others() {
    for mut reactor in reactors() {
        let any_port = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        let fd = sys::listener(&any_port, 16).unwrap();
        let other = TcpListener::from(fd.try_clone().unwrap());
        // As some supervisors leave it; then an accept of the ring would end at once, again and again.
        other.set_nonblocking(true).unwrap();
        let at = other.local_addr().unwrap();
        let listener = reactor.adopt(fd.try_clone().unwrap()).unwrap();
        assert_eq!(reactor.local_addr(listener), Some(at));
        let mut first = TcpStream::connect(at).unwrap();
        let socket = until(&mut reactor, accepted);

        reactor.close(listener);
        let is_closed =
            |event: &Event| matches!(event, Event::Closed { socket } if *socket == listener);
        until(&mut reactor, |event| is_closed(event).then_some(()));
        // Connections wait now, and whoever has the listener gets them.
        let second = TcpStream::connect(at).unwrap();
        let (_, peer) = other.accept().unwrap();
        assert_eq!(peer, second.local_addr().unwrap());
        let _third = TcpStream::connect(at).unwrap();
        reactor.adopt(fd).unwrap();
        until(&mut reactor, accepted);

        // Nor does the end of the reactor end it.
        first
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        reactor.close(socket);
        drop(reactor);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        let _fourth = TcpStream::connect(at).unwrap();
        other.accept().unwrap();
    }
}

#[test]
fn the_user_at_the_other_end_of_a_unix_socket_is_known() {
    for (at, mut reactor) in reactors().into_iter().enumerate() {
        let name = format!("ringkeep-peer-{}-{at}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _listener = reactor.listen(&Endpoint::Unix(path.clone()), 16).unwrap();
        let _peer = UnixStream::connect(&path).unwrap();
        let socket = until(&mut reactor, accepted);
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reactor.peer_user(socket), Some(user));
        let tcp = reactor.listen(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), 1);
        assert_eq!(reactor.peer_user(tcp.unwrap()), None);
    }
}

#[test]
fn nothing_is_inherited_that_is_no_listener() {
    // Whatever descriptor 3 is in a test, there are not so many listeners.
    assert!(sys::inherit(1000, None).is_err());
    assert!(sys::inherit(0, None).is_err(), "only once");
    let fd: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    sys::leave_open(&fd).unwrap();
}
