//! One upstream stream through parser and link: no input panics, and where it is cut changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::repl::Position;
use ringkeep::repl::link::{Action, Event, Link, LinkConfig, Wire};

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (start, cut, bytes) = input;
    let (position, learned) = match start % 4 {
        0 => (Position::UNKNOWN, None),
        1 => (
            Position {
                generation: 7,
                offset: 5,
            },
            Some(Wire::W3),
        ),
        2 => (
            Position {
                generation: 1,
                offset: 5,
            },
            Some(Wire::W2),
        ),
        _ => (
            Position {
                generation: 0,
                offset: 5,
            },
            Some(Wire::W1),
        ),
    };
    let whole = follow(
        Link::new(LinkConfig::new(1, 0), position, learned),
        bytes,
        bytes.len().max(1),
    );
    let parts = follow(
        Link::new(LinkConfig::new(1, 0), position, learned),
        bytes,
        cut as usize + 1,
    );
    assert_eq!(whole, parts);
});

fn follow(mut link: Link, bytes: &[u8], step: usize) -> (Vec<String>, Position) {
    let mut log = Vec::new();
    assert_eq!(link.poll(0), Some(Action::Connect));
    link.on_connected(0);
    assert!(matches!(link.poll(0), Some(Action::Send(_))));
    let mut read = 0;
    let mut end = 0;
    while end < bytes.len() {
        end = (end + step).min(bytes.len());
        loop {
            let (used, event) = link.feed(0, &bytes[read..end]);
            read += used;
            let Some(event) = event else {
                break;
            };
            log.push(match event {
                Event::Frame { offset, args } => {
                    format!("{offset} {:?}", args.iter().collect::<Vec<_>>())
                }
                other => format!("{other:?}"),
            });
        }
        while let Some(action) = link.poll(0) {
            if let Action::Drop { .. } = action {
                log.push(format!("{action:?}"));
                return (log, link.position());
            }
        }
    }
    (log, link.position())
}
