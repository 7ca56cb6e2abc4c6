//! Signals meet the whole process, so this test has one of its own.

use std::sync::atomic::Ordering;

use uring::{Event, KernelReactor, Reactor, RingConfig, Wait, sys};

#[test]
fn a_termination_signal_is_counted_and_ends_the_wait() {
    sys::ignore_sigpipe();
    let mut reactor = KernelReactor::new(RingConfig::default()).unwrap();
    let count = sys::watch_termination(&reactor.waker()).unwrap();
    for (round, signal) in [libc::SIGTERM, libc::SIGINT].into_iter().enumerate() {
        assert_eq!(count.load(Ordering::Acquire), round as u32);
        // SAFETY: the handler for this signal is installed; it returns to here.
        let done = unsafe { libc::raise(signal) };
        assert_eq!(done, 0);
        assert_eq!(count.load(Ordering::Acquire), round as u32 + 1);
        let mut events = Vec::new();
        let deadline = reactor.now() + 20_000_000_000;
        while events.is_empty() && reactor.now() < deadline {
            reactor.turn(Wait::Until(deadline), &mut events).unwrap();
        }
        assert!(matches!(events[..], [Event::Woken]), "{events:?}");
    }
}
