//! What a Redis primary answers and streams: no input panics, and where it is cut changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::repl::psync::{Action, Event, Psync};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, has_answered, bytes) = input;
    let mut all = Vec::new();
    if has_answered {
        all.extend_from_slice(b"+PONG\r\n+OK\r\n+OK\r\n+FULLRESYNC ");
        all.extend_from_slice(&[b'a'; 40]);
        all.extend_from_slice(b" 1\r\n$1\r\nR");
    }
    all.extend_from_slice(bytes);
    let whole = follow(&all, all.len().max(1));
    assert_eq!(whole, follow(&all, cut as usize + 1));
});

/// What came of the bytes, and where the link stood in the end.
fn follow(bytes: &[u8], step: usize) -> (Vec<String>, Option<u64>) {
    let mut link = Psync::new(1, None, 0);
    let (mut log, mut file) = (Vec::new(), Vec::new());
    assert_eq!(link.poll(0), Some(Action::Connect));
    link.on_connected(0);
    let (mut read, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + step).min(bytes.len());
        loop {
            let (used, event) = link.feed(0, &bytes[read..end]);
            read += used;
            match event {
                None => break,
                Some(Event::Rdb(piece)) => file.extend_from_slice(piece),
                Some(Event::RdbEnd) => {
                    log.push(format!("{:?}", std::mem::take(&mut file)));
                    link.loaded(0, None);
                }
                Some(Event::Frame { end, db, args }) => {
                    log.push(format!("{end} {db} {:?}", args.iter().collect::<Vec<_>>()));
                    link.applied_through(end);
                }
                Some(other) => log.push(format!("{other:?}")),
            }
        }
        while let Some(action) = link.poll(0) {
            if let Action::Drop { .. } = action {
                log.push(format!("{action:?}"));
                return (log, link.status().place.map(|place| place.offset));
            }
        }
    }
    (log, link.status().place.map(|place| place.offset))
}
