//! Messages of elections: no input panics, where it is cut changes nothing, and what was read is written so
//! that it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::elect::{Ballot, Decoder, Message, WireError, parse_peers};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(cut) + 1));
    for message in &whole.0 {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(Message::decode(&again), Ok(Some((message.clone(), again.len()))));
    }
    if let Ok(ballot) = Ballot::read(bytes) {
        assert_eq!(Ballot::read(&ballot.compose()), Ok(ballot));
    }
    let _ = std::str::from_utf8(bytes).map(parse_peers);
});

fn read(bytes: &[u8], step: usize) -> (Vec<Message>, Option<WireError>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.take() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
