//! What supervisors and processes may say: no input panics any side, where it is cut changes nothing, what
//! was read is written so that it is read again; the files of a handoff; and what goes with the connections
//! of clients.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::handoff::{
    Decoder, Id, Incumbent, Message, Notes, Owner, Role, Seal, Successor, Supervisor, WireError,
    incumbent,
    passing::{Changes, Client, Greeting, Head, states},
    successor, supervisor,
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
    for step in 0..5 {
        lead(bytes, cut, step);
    }
    if let Ok(notes) = Notes::read(bytes) {
        assert_eq!(notes.compose().as_bytes(), bytes);
    }
    if let Ok(owner) = Owner::read(bytes) {
        assert_eq!(Owner::read(owner.compose().as_bytes()), Ok(owner));
    }
    if let Ok(seal) = Seal::read(bytes) {
        assert_eq!(seal.compose().0.as_bytes(), bytes);
    }
    if let Some(client) = Client::decode(bytes) {
        let mut again = Vec::new();
        client.encode(&mut again);
        assert_eq!(Client::decode(&again), Some(client));
    }
    if let Some(changes) = Changes::decode(bytes) {
        let mut again = Vec::new();
        changes.encode(&mut again);
        assert_eq!(Changes::decode(&again), Some(changes));
    }
    if let Some(greeting) = Greeting::read(bytes) {
        assert_eq!(greeting.compose(), bytes);
    }
    if let Some((head, body)) = bytes.split_first_chunk()
        && let Some(head) = Head::read(*head)
    {
        let _ = states(body, head.clients);
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
                incumbent::Effect::Resume(_) | incumbent::Effect::Lend(_) => continue,
            };
            machine.step(now, 0, event, &mut effects);
        }
        let at = machine.wakes_at().unwrap_or(now).max(now);
        machine.step(at, 0, incumbent::Event::Tick, &mut effects);
    }
}

fn succeed(bytes: &[u8]) {
    let mut machine = Successor::new(1, b"", 0);
    let mut effects = Vec::new();
    machine.step(0, 0, successor::Event::Prepared, &mut effects);
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

/// A supervisor that is so far hears the bytes from one of the two, as `how` says; whatever it wants is done.
/// It ends, once, and tells the incumbent to end only if the successor serves.
fn lead(bytes: &[u8], how: u8, step: usize) {
    let id = Id(*b"0123456789abcdef");
    let (listening, revisions) = (Vec::new(), Vec::new());
    let hello = |role, pid| Message::Hello {
        role,
        pid,
        build: Vec::new(),
        versions: (1, 1),
        capabilities: 0,
    };
    let good = [
        (false, hello(Role::Incumbent, 1)),
        (true, hello(Role::Successor, 2)),
        (
            false,
            Message::Drained {
                open_conns: 0,
                accept_closed: true,
            },
        ),
        (
            false,
            Message::SealComplete {
                id,
                revisions: Vec::new(),
                fingerprint: [0; 32],
            },
        ),
        (
            true,
            Message::Ready {
                id,
                listening,
                is_healthy: true,
                revisions,
            },
        ),
    ];
    let plan = supervisor::Plan {
        id,
        incumbent: 1,
        deadline_ms: 5000,
        grace_ms: 2000,
    };
    let (mut machine, mut effects) = (Supervisor::new(plan, 0), Vec::new());
    let mut outcome = None;
    let mut is_committed = false;
    let mut settle = |machine: &mut Supervisor, effects: &mut Vec<supervisor::Effect>| {
        while !effects.is_empty() {
            for effect in std::mem::take(effects) {
                assert!(outcome.is_none(), "{effect:?} behind the end");
                let event = match effect {
                    supervisor::Effect::Start if how & 4 == 0 => supervisor::Event::Started(2),
                    supervisor::Effect::Start => supervisor::Event::CannotStart(String::new()),
                    supervisor::Effect::Check if how & 8 == 0 => supervisor::Event::Checked(Ok(())),
                    supervisor::Effect::Check => supervisor::Event::Checked(Err(String::new())),
                    supervisor::Effect::EndNew { .. } => supervisor::Event::NewEnded(String::new()),
                    supervisor::Effect::TellOld(Message::Commit(_)) => {
                        is_committed = true;
                        continue;
                    }
                    supervisor::Effect::Over(result) => {
                        assert!(result.is_ok() || !is_committed);
                        outcome = Some(result);
                        continue;
                    }
                    _ => continue,
                };
                machine.step(1, event, effects);
            }
        }
    };
    let mut hear = |machine: &mut Supervisor, new: bool, bytes: &[u8]| {
        let event = match new {
            true => supervisor::Event::New(bytes),
            false => supervisor::Event::Old(bytes),
        };
        machine.step(1, event, &mut effects);
        settle(machine, &mut effects);
    };
    for (new, message) in &good[..step] {
        let mut frame = Vec::new();
        message.encode(&mut frame);
        hear(&mut machine, *new, &frame);
    }
    hear(&mut machine, how & 1 == 0, bytes);
    for _ in 0..8 {
        if let Some(at) = machine.wakes_at() {
            let mut effects = Vec::new();
            machine.step(at, supervisor::Event::Tick, &mut effects);
            for effect in effects {
                if let supervisor::Effect::EndNew { .. } = effect {
                    machine.step(
                        at,
                        supervisor::Event::NewEnded(String::new()),
                        &mut Vec::new(),
                    );
                }
            }
        }
    }
    assert!(machine.is_over());
}
