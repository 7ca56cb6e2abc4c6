//! What supervisors may say: no input panics either side, where it is cut changes nothing, what was read is
//! written so that it is read again; and the files of a handoff.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::handoff::{
    Decoder, Id, Incumbent, Message, Owner, Seal, Successor, WireError, incumbent, successor,
};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, usize::from(cut) + 1));
    let mut again = Vec::new();
    whole
        .0
        .iter()
        .for_each(|message| message.encode(&mut again));
    assert_eq!(read(&again, usize::from(cut) + 1), (whole.0, None));
    serve(bytes, cut);
    succeed(bytes);
    if let Ok(owner) = Owner::read(bytes) {
        assert_eq!(Owner::read(owner.compose().as_bytes()), Ok(owner));
    }
    if let Ok(seal) = Seal::read(bytes) {
        assert_eq!(seal.compose().0.as_bytes(), bytes);
    }
});

fn read(bytes: &[u8], step: usize) -> (Vec<Message>, Option<WireError>) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
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

/// An incumbent hears the bytes behind an answer to its hello; whatever it wants is done.
fn serve(bytes: &[u8], how: u8) {
    let mut machine = Incumbent::new(1, b"");
    let mut ack = Vec::new();
    let id = Id(*b"0123456789abcdef");
    Message::HelloAck { version: 1, id }.encode(&mut ack);
    let mut effects = Vec::new();
    machine.step(0, 0, incumbent::Event::Opened(1), &mut effects);
    machine.step(0, 0, incumbent::Event::Bytes(1, &ack), &mut effects);
    machine.step(0, 0, incumbent::Event::Bytes(1, bytes), &mut effects);
    let mut over = false;
    for now in 1..40u64 {
        for effect in std::mem::take(&mut effects) {
            let event = match effect {
                // Supervisors may be heard and let go also behind the end.
                incumbent::Effect::Send(..) | incumbent::Effect::Close(_) => continue,
                _ if over => panic!("{effect:?} behind the end"),
                incumbent::Effect::Drain if how & 1 == 0 => incumbent::Event::Drained(0),
                incumbent::Effect::Drain => incumbent::Event::CannotDrain,
                incumbent::Effect::Seal(_) if how & 2 == 0 => {
                    incumbent::Event::Sealed(vec![], [0; 32])
                }
                incumbent::Effect::Seal(_) => incumbent::Event::SealFailed(String::new()),
                incumbent::Effect::TakeBack if how & 4 == 0 => incumbent::Event::Back,
                incumbent::Effect::TakeBack => incumbent::Event::Replaced,
                incumbent::Effect::Exit => {
                    over = true;
                    continue;
                }
                incumbent::Effect::Resume(_) => continue,
            };
            machine.step(now, 0, event, &mut effects);
        }
        let at = machine.wakes_at().unwrap_or(now).max(now);
        machine.step(at, 0, incumbent::Event::Tick, &mut effects);
    }
}

fn succeed(bytes: &[u8]) {
    let (mut machine, _) = Successor::new(1, b"", 0);
    let mut effects = Vec::new();
    machine.step(0, 0, successor::Event::Bytes(bytes), &mut effects);
    machine.step(
        1,
        0,
        successor::Event::Serving(Vec::new(), Vec::new()),
        &mut effects,
    );
    machine.step(2, 0, successor::Event::Eof, &mut effects);
    let is_end = |effect: &&successor::Effect| {
        matches!(
            effect,
            successor::Effect::Exit(_) | successor::Effect::Serve
        )
    };
    assert_eq!(effects.iter().filter(is_end).count(), 1);
}
