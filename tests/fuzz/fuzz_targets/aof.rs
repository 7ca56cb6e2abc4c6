//! Logs of Redis: no input panics, and the pieces in which a log comes make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::aof::{Entry, Family, LogError, LogReader};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(step) + 1));
    if let (_, Err(error)) = whole {
        assert!(error.at <= bytes.len() as u64);
    }
});

/// The parts as text, and how it ended.
fn read(bytes: &[u8], step: usize) -> (Vec<String>, Result<(), LogError>) {
    let mut reader = LogReader::new(Family::Redis, 0);
    let mut entries = Vec::new();
    let mut pieces = bytes.chunks(step);
    let mut is_all = false;
    loop {
        match pieces.next() {
            Some(piece) => reader.feed(piece),
            None => is_all = true,
        }
        loop {
            match reader.next(is_all) {
                Ok(Some(Entry::Command(args))) => {
                    entries.push(format!("{:?}", args.iter().collect::<Vec<_>>()));
                }
                Ok(Some(entry)) => entries.push(format!("{entry:?}")),
                Ok(None) => break,
                Err(error) => return (entries, Err(error)),
            }
        }
        if is_all {
            return (entries, Ok(()));
        }
    }
}
