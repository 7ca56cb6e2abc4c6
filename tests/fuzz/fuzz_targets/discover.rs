//! Answers of whoever stands at the named port: no input panics, and every search ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::repl::discover::{Action, Discovery};

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (port, cut, bytes) = input;
    let mut discovery = Discovery::new(port, None);
    let mut now = 0;
    for _ in 0..10_000 {
        match discovery.poll(now) {
            Some(Action::Dial(_)) => discovery.on_connected(),
            Some(Action::Send(_)) => {
                bytes
                    .chunks(cut as usize + 1)
                    .for_each(|piece| discovery.on_bytes(piece));
                discovery.on_closed();
            }
            Some(Action::Close) => {}
            Some(Action::Done(_)) => return,
            None => now = discovery.deadline().expect("waits for something"),
        }
    }
    panic!("no end");
});
