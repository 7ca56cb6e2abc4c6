//! Descriptors run out for the whole process, so this test has one of its own.

use std::fs::File;
use std::net::TcpStream;

use uring::{Endpoint, Event, KernelReactor, Level, Reactor, RingConfig, Wait};

#[test]
fn accepting_goes_on_after_descriptors_ran_out() {
    let limit = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: the kernel reads one struct on this stack frame during the call.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(done, 0);
    for level in Level::ALL {
        let config = RingConfig {
            level: Some(level),
            ..RingConfig::default()
        };
        let Ok(mut reactor) = KernelReactor::new(config) else {
            continue;
        };
        let any_port = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        let listener = reactor.listen(&any_port, 16).unwrap();
        let address = reactor.local_addr(listener).unwrap();
        let mut events = Vec::new();
        reactor.turn(Wait::Look, &mut events).unwrap();
        let null = || File::open("/dev/null").ok();
        let mut fill: Vec<File> = std::iter::from_fn(null).collect();
        fill.pop();
        let _peer = TcpStream::connect(address).unwrap();
        let deadline = reactor.now() + 20_000_000_000;
        while events.is_empty() && reactor.now() < deadline {
            reactor.turn(Wait::Until(deadline), &mut events).unwrap();
        }
        assert!(events.len() == 1 && is_emfile(&events[0]), "{events:?}");
        // The queue is full of one connection, and nobody burns the core over it.
        let turns = reactor.counters().turns;
        let soon = reactor.now() + 350_000_000;
        while reactor.now() < soon {
            reactor.turn(Wait::Until(soon), &mut events).unwrap();
        }
        assert!(
            events.iter().all(is_emfile) && (2..=5).contains(&events.len()),
            "{events:?}"
        );
        assert!(reactor.counters().turns - turns < 20);
        drop(fill);
        events.clear();
        while events.is_empty() && reactor.now() < deadline {
            reactor.turn(Wait::Until(deadline), &mut events).unwrap();
        }
        assert!(matches!(events[..], [Event::Accepted { .. }]), "{events:?}");
    }
}

fn is_emfile(event: &Event) -> bool {
    matches!(event, Event::AcceptFailed { errno, .. } if *errno == libc::EMFILE)
}
