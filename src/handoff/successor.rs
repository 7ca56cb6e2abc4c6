//! The successor: reads ahead, says hello, waits for the data directory, serves.

use super::{Decoder, HEARTBEAT_MS, Id, Message, Role, VERSION, WireError};
use crate::base::Ms;

/// What happens to a successor.
#[derive(Debug)]
pub enum Event<'a> {
    /// Bytes from the supervisor.
    Bytes(&'a [u8]),
    /// The supervisor is gone.
    Eof,
    /// Time has passed.
    Tick,
    /// What can be read before the directory is its own has been read.
    Prepared,
    /// All is loaded and served: where, and how far each shard is.
    Serving(Vec<String>, Vec<u64>),
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Tell the supervisor.
    Send(Message),
    /// Take the data directory, which has to be sealed for this handoff, load, and serve.
    Begin(Id),
    /// End the process; nothing was changed, or everything is as the incumbent may take it back.
    Exit(Ending),
    /// The handoff is over for this process: it is the incumbent now.
    Serve,
}

/// Why a successor ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The supervisor wants it so.
    Aborted(String),
    /// The supervisor is gone, before there was anything to serve.
    Alone,
    /// The supervisor says what cannot be read.
    Wire(WireError),
    /// The supervisor says what it may not say now.
    Order,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Aborted(reason) => write!(out, "the supervisor has given up: {reason}"),
            Ending::Alone => out.write_str("the supervisor is gone"),
            Ending::Wire(error) => write!(out, "the supervisor sent {error}"),
            Ending::Order => out.write_str("the supervisor sent what does not belong there"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Reads ahead until then at the latest: whoever has heard its hello stops the incumbent at once.
    Preparing(Ms),
    /// Has said hello.
    Greeted,
    /// Knows the handoff.
    Waiting(Id),
    /// Has the data directory.
    Loading(Id),
    Done,
}

/// See the module page.
#[derive(Debug)]
pub struct Successor {
    stage: Stage,
    /// What it has to say first.
    hello: Option<Message>,
    decoder: Decoder,
    /// When the supervisor is to hear something at the latest.
    heartbeat: Ms,
    /// It cannot be told anything any more.
    is_alone: bool,
}

impl Successor {
    /// A process that was started as a successor. It says hello when it is prepared, or at this time.
    pub fn new(pid: u32, build: &[u8], hello_at: Ms) -> Self {
        Self {
            stage: Stage::Preparing(hello_at),
            hello: Some(Message::Hello {
                role: Role::Successor,
                pid,
                build: build.to_vec(),
                versions: (VERSION, VERSION),
                capabilities: 0,
            }),
            decoder: Decoder::default(),
            heartbeat: 0,
            is_alone: false,
        }
    }

    /// Has it said hello?
    pub fn is_known(&self) -> bool {
        !matches!(self.stage, Stage::Preparing(_))
    }

    /// Goes on. `now` is of a clock that nobody sets, `wall` is only told.
    pub fn step(&mut self, now: Ms, wall: Ms, event: Event<'_>, out: &mut Vec<Effect>) {
        match event {
            Event::Bytes(bytes) => {
                self.decoder.push(bytes);
                while self.stage != Stage::Done {
                    match self.decoder.take() {
                        Ok(Some(message)) => self.on_message(message, out),
                        Ok(None) => break,
                        Err(error) => self.end(Ending::Wire(error), out),
                    }
                }
            }
            // Whoever has the directory serves: there may be nobody else who could.
            Event::Eof if matches!(self.stage, Stage::Loading(_)) => self.is_alone = true,
            Event::Eof => self.end(Ending::Alone, out),
            Event::Prepared => self.greet(now, out),
            Event::Tick => {
                if matches!(self.stage, Stage::Preparing(at) if now >= at) {
                    self.greet(now, out);
                }
                if matches!(self.stage, Stage::Loading(_))
                    && now >= self.heartbeat
                    && !self.is_alone
                {
                    self.heartbeat = now + HEARTBEAT_MS;
                    out.push(Effect::Send(Message::Heartbeat { at_ms: wall }));
                }
            }
            Event::Serving(listening, revisions) => {
                if let Stage::Loading(id) = self.stage {
                    if !self.is_alone {
                        out.push(Effect::Send(Message::Ready {
                            id,
                            listening,
                            is_healthy: true,
                            revisions,
                        }));
                    }
                    self.stage = Stage::Done;
                    out.push(Effect::Serve);
                }
            }
        }
    }

    fn greet(&mut self, now: Ms, out: &mut Vec<Effect>) {
        if matches!(self.stage, Stage::Preparing(_)) {
            self.stage = Stage::Greeted;
            self.heartbeat = now + HEARTBEAT_MS;
            out.extend(self.hello.take().map(Effect::Send));
        }
    }

    fn on_message(&mut self, message: Message, out: &mut Vec<Effect>) {
        match (self.stage, message) {
            (_, Message::Heartbeat { .. }) => {}
            (Stage::Greeted, Message::HelloAck { version, id }) if version == VERSION => {
                self.stage = Stage::Waiting(id);
            }
            (Stage::Waiting(id), Message::Begin(begun)) if begun == id => {
                self.stage = Stage::Loading(id);
                out.push(Effect::Begin(id));
            }
            (Stage::Waiting(id) | Stage::Loading(id), Message::Abort { id: of, reason })
                if of == id =>
            {
                self.end(Ending::Aborted(reason), out);
            }
            _ => self.end(Ending::Order, out),
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Vec<Effect>) {
        if self.stage != Stage::Done {
            self.stage = Stage::Done;
            out.push(Effect::Exit(ending));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id([7; 16]);

    fn frame(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn step(successor: &mut Successor, now: Ms, event: Event<'_>) -> Vec<Effect> {
        let mut out = Vec::new();
        successor.step(now, now + 1_000_000, event, &mut out);
        out
    }

    fn hear(successor: &mut Successor, message: &Message) -> Vec<Effect> {
        step(successor, 0, Event::Bytes(&frame(message)))
    }

    /// One that has heard this.
    fn after(heard: &[Message]) -> Successor {
        let mut successor = Successor::new(9, b"b", 0);
        step(&mut successor, 0, Event::Prepared);
        for message in heard {
            hear(&mut successor, message);
        }
        successor
    }

    fn ack() -> Message {
        Message::HelloAck { version: 1, id: ID }
    }

    #[test]
    fn the_directory_is_taken_only_when_told() {
        let mut successor = Successor::new(9, b"b", 3000);
        assert!(is_hello(&step(&mut successor, 0, Event::Prepared)));
        assert_eq!(step(&mut successor, 3000, Event::Tick), []);
        assert_eq!(hear(&mut successor, &ack()), []);
        assert_eq!(step(&mut successor, 9000, Event::Tick), []);
        assert_eq!(hear(&mut successor, &Message::Heartbeat { at_ms: 5 }), []);
        assert_eq!(
            hear(&mut successor, &Message::Begin(ID)),
            [Effect::Begin(ID)]
        );
        let beat = Effect::Send(Message::Heartbeat { at_ms: 1_009_000 });
        assert_eq!(step(&mut successor, 9000, Event::Tick), [beat]);
        assert_eq!(step(&mut successor, 9001, Event::Tick), []);
        let ready = Message::Ready {
            id: ID,
            listening: vec!["[::1]:1".into()],
            is_healthy: true,
            revisions: vec![4, 5],
        };
        let serving = Event::Serving(vec!["[::1]:1".into()], vec![4, 5]);
        let effects = step(&mut successor, 9002, serving);
        assert_eq!(effects, [Effect::Send(ready), Effect::Serve]);
        assert_eq!(step(&mut successor, 9003, Event::Eof), []);
    }

    fn is_hello(effects: &[Effect]) -> bool {
        matches!(
            effects,
            [Effect::Send(Message::Hello {
                role: Role::Successor,
                pid: 9,
                versions: (1, 1),
                ..
            })]
        )
    }

    #[test]
    fn it_reads_ahead_no_longer_than_it_may() {
        let new = || Successor::new(9, b"b", 3000);
        let mut successor = new();
        assert_eq!(step(&mut successor, 2999, Event::Tick), []);
        assert!(!successor.is_known());
        assert!(is_hello(&step(&mut successor, 3000, Event::Tick)));
        // It has read on.
        assert_eq!(step(&mut successor, 3001, Event::Prepared), []);
        assert_eq!(hear(&mut successor, &ack()), []);
        assert_eq!(step(&mut successor, 3002, Event::Prepared), []);
        let begin = hear(&mut successor, &Message::Begin(ID));
        assert_eq!(begin, [Effect::Begin(ID)]);
        let alone = [Effect::Exit(Ending::Alone)];
        assert_eq!(step(&mut new(), 0, Event::Eof), alone);
        // Nobody knows it yet.
        let order = [Effect::Exit(Ending::Order)];
        assert_eq!(hear(&mut new(), &ack()), order);
    }

    #[test]
    fn who_loses_the_supervisor_serves_if_it_has_the_directory() {
        let alone = [Effect::Exit(Ending::Alone)];
        assert_eq!(step(&mut after(&[]), 0, Event::Eof), alone);
        assert_eq!(step(&mut after(&[ack()]), 0, Event::Eof), alone);
        let mut successor = after(&[ack(), Message::Begin(ID)]);
        assert_eq!(step(&mut successor, 0, Event::Eof), []);
        assert_eq!(step(&mut successor, 9000, Event::Tick), []);
        let effects = step(&mut successor, 0, Event::Serving(Vec::new(), Vec::new()));
        assert_eq!(effects, [Effect::Serve]);
    }

    #[test]
    fn what_does_not_belong_there_ends_it() {
        let order = [Effect::Exit(Ending::Order)];
        let other = Id([8; 16]);
        assert_eq!(hear(&mut after(&[]), &Message::Begin(ID)), order);
        let version = Message::HelloAck { version: 2, id: ID };
        assert_eq!(hear(&mut after(&[]), &version), order);
        assert_eq!(hear(&mut after(&[ack()]), &Message::Begin(other)), order);
        assert_eq!(hear(&mut after(&[ack()]), &Message::Commit(ID)), order);
        let abort = Message::Abort {
            id: ID,
            reason: "late".into(),
        };
        let mut successor = after(&[ack(), Message::Begin(ID)]);
        let aborted = [Effect::Exit(Ending::Aborted("late".into()))];
        assert_eq!(hear(&mut successor, &abort), aborted);
        assert_eq!(hear(&mut successor, &abort), []);
        let bad = step(&mut after(&[]), 0, Event::Bytes(&[1, 0, 0, 0]));
        assert_eq!(bad, [Effect::Exit(Ending::Wire(WireError::Length(1)))]);
    }
}
