//! What real supervisors and daemons of the `handoff` library said to each other, and odd inputs, replayed to
//! our machines. `tests/golden/handoff/README.md` tells how it was recorded.

use std::{fs, path::Path};

use ringkeep::handoff::{
    Decoder, Id, Incumbent, Message, Role, Successor, Supervisor,
    incumbent::{self, Reason},
    successor::{self, Ending},
    supervisor::{self, Plan},
};
use serde_json::Value;

fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/handoff");
    let text = fs::read_to_string(path.join(name)).expect("the capture is there");
    let rows: Value = serde_json::from_str(&text).expect("it is JSON");
    rows.as_array().expect("a list").clone()
}

fn text(row: &Value, field: &str) -> String {
    row[field].as_str().expect(field).to_string()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).expect("is ASCII"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("is hex"))
        .collect()
}

fn frame(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn decode(bytes: &[u8]) -> Message {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let message = decoder.take().expect("is good").expect("is whole");
    assert_eq!(decoder.take(), Ok(None));
    message
}

/// The messages that `frames.json` was made of, in its order.
fn messages() -> Vec<Message> {
    let id = Id::parse("101112131415461798191a1b1c1d1e1f").expect("is one");
    let hello = |role, pid, build: &[u8], most, capabilities| Message::Hello {
        role,
        pid,
        build: build.to_vec(),
        versions: (1, most),
        capabilities,
    };
    vec![
        hello(Role::Incumbent, 4242, &[0xde, 0xad, 0xbe, 0xef], 1, 0),
        hello(Role::Successor, 127, &[], 300, u64::MAX),
        Message::HelloAck { version: 1, id },
        Message::Prepare {
            id,
            successor: 65536,
            deadline_ms: 300_000,
            grace_ms: 60_000,
        },
        Message::Drained {
            open_conns: 3,
            accept_closed: true,
        },
        Message::SealRequest(id),
        Message::SealProgress {
            sealed: 1,
            total: 128,
            revision: 16384,
        },
        Message::SealComplete {
            id,
            revisions: vec![0, 127, 128, u64::MAX],
            fingerprint: std::array::from_fn(|at| at as u8),
        },
        Message::SealFailed {
            id,
            error: "disk full".into(),
            partial: String::new(),
        },
        Message::Begin(id),
        Message::Ready {
            id,
            listening: vec!["0.0.0.0:6379".into(), "unix".into()],
            is_healthy: true,
            revisions: vec![7, 9],
        },
        Message::Commit(id),
        Message::Abort {
            id,
            reason: "seal failed: x".into(),
        },
        Message::Resume(id),
        Message::Heartbeat {
            at_ms: 1_700_000_000_000,
        },
    ]
}

#[test]
fn frames_are_those_of_the_library() {
    let rows = golden("frames.json").into_iter();
    // The file of the supervisor's own journal is none of ours.
    let rows: Vec<_> = rows.filter(|row| row["kind"] == "frame").collect();
    let messages = messages();
    assert_eq!(rows.len(), messages.len());
    for (row, message) in rows.iter().zip(messages) {
        let bytes = unhex(&text(row, "hex"));
        assert_eq!(decode(&bytes), message, "{}", row["name"]);
        assert_eq!(frame(&message), bytes, "{}", row["name"]);
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            decoder.push(&bytes[..cut]);
            assert_eq!(decoder.take(), Ok(None), "{} cut at {cut}", row["name"]);
        }
    }
}

/// An incumbent whose node does at once what it is told.
struct Node {
    machine: Incumbent,
    now: u64,
    /// What became of it, in words.
    done: Vec<&'static str>,
    sent: Vec<Message>,
}

impl Node {
    fn new() -> Self {
        Self {
            machine: Incumbent::new(1, b"build"),
            now: 0,
            done: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn step(&mut self, event: incumbent::Event<'_>) {
        let mut effects = Vec::new();
        self.machine.step(self.now, 77, event, &mut effects);
        for effect in effects {
            self.done.push(match effect {
                incumbent::Effect::Send(_, message) => {
                    self.sent.push(message);
                    continue;
                }
                incumbent::Effect::Close(_) => "close",
                incumbent::Effect::Drain => "drain",
                incumbent::Effect::Seal(_) => "seal",
                incumbent::Effect::TakeBack => "take back",
                incumbent::Effect::Lend(_) => "lend",
                incumbent::Effect::Resume(_) => "resume",
                incumbent::Effect::Exit => "exit",
            });
            match self.done.last() {
                Some(&"drain") => self.step(incumbent::Event::Drained(0)),
                Some(&"seal") => self.step(incumbent::Event::Sealed(vec![3], [9; 32])),
                Some(&"take back") => self.step(incumbent::Event::Back),
                _ => {}
            }
        }
    }
}

#[test]
fn odd_inputs_have_the_listed_ends() {
    let sealed: &[_] = &["drain", "seal"];
    let ends: [(&str, &[&str], &[u8]); 15] = [
        ("prepare id differs from HelloAck id", &["close"], &[]),
        (
            "frame version 999 and two trailing payload bytes",
            &["close"],
            &[],
        ),
        // Two equal answers to one seal.
        ("second SealRequest after SealComplete", sealed, &[3, 6, 6]),
        ("HelloAck chooses version 2", &["close"], &[]),
        ("unknown discriminant 14", &["close"], &[]),
        ("empty payload (frame_len 2)", &["close"], &[]),
        ("frame_len 1", &["close"], &[]),
        ("frame_len 1 MiB + 1", &["close"], &[]),
        ("SealRequest before PrepareHandoff", &["close"], &[]),
        ("Abort before PrepareHandoff", &["close"], &[]),
        (
            "Abort after drain, then a new PrepareHandoff in the same session",
            &["drain", "resume", "close"],
            &[3],
        ),
        ("Heartbeat in any state", &[], &[13]),
        ("handoff_id with 8 bytes", &["close"], &[]),
        (
            "Commit before SealComplete",
            &["drain", "close", "resume"],
            &[3],
        ),
        (
            "Commit after SealComplete",
            &["drain", "seal", "exit"],
            &[3, 6],
        ),
    ];
    let rows = golden("edge.json");
    assert_eq!(rows.len(), ends.len());
    for (row, (case, done, sent)) in rows.iter().zip(ends) {
        assert_eq!(row["case"], case);
        let mut node = Node::new();
        node.step(incumbent::Event::Opened(1));
        let inputs = match row["send_after_ack"].as_array() {
            Some(inputs) => {
                let id = Id::parse("101112131415161718191a1b1c1d1e1f").expect("is one");
                node.step(incumbent::Event::Bytes(
                    1,
                    &frame(&Message::HelloAck { version: 1, id }),
                ));
                inputs
            }
            None => row["send"].as_array().expect("one of both is there"),
        };
        for input in inputs {
            let bytes = unhex(input.as_str().expect("is text"));
            // In pieces: where they are cut must not matter.
            bytes
                .chunks(3)
                .for_each(|piece| node.step(incumbent::Event::Bytes(1, piece)));
        }
        assert_eq!(node.done, done, "{case}");
        // Behind the hello; the payload of each answer begins with its number.
        let numbers: Vec<u8> = node.sent[1..]
            .iter()
            .map(|message| frame(message)[6])
            .collect();
        assert_eq!(numbers, sent, "{case}");
        assert!(numbers.len() < 3 || node.sent[2] == node.sent[3], "{case}");
    }
}

#[test]
fn bytes_behind_a_message_are_left_to_later_versions() {
    let mut bytes = unhex("19000000e7030210101112131415161718191a1b1c1d1e1f010909aabb");
    bytes[4..6].copy_from_slice(&1u16.to_le_bytes());
    assert!(matches!(
        decode(&bytes),
        Message::Prepare {
            successor: 1,
            deadline_ms: 9,
            ..
        }
    ));
}

#[test]
fn recorded_sessions_are_answered_as_the_real_ones_were() {
    let rows = golden("sessions.json");
    assert_eq!(rows.len(), 7);
    for row in &rows {
        let name = text(row, "name");
        let mut replay = Replay::new();
        for event in row["events"].as_array().expect("a list") {
            let (dir, msg) = (text(event, "dir"), text(event, "msg"));
            let message = event["hex"].as_str().map(|hex| decode(&unhex(hex)));
            replay
                .event(&dir, &msg, message)
                .unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        let committed = text(row, "outcome").contains("committed=true");
        let end = match committed {
            true => incumbent::Effect::Exit,
            false if name.starts_with("sealfailed") => incumbent::Effect::Resume(Reason::Seal),
            false => incumbent::Effect::Resume(Reason::Aborted),
        };
        assert_eq!(replay.incumbent_end, Some(end), "{name}");
        let end = match name.as_str() {
            _ if committed => Some(successor::Effect::Serve),
            "sealfailed-014" | "ready-timeout-014" => {
                Some(successor::Effect::Exit(Ending::Aborted(
                    text(row, "outcome")
                        .split('"')
                        .nth(1)
                        .expect("a reason")
                        .to_string(),
                )))
            }
            // Such a one was gone before it was told.
            _ => None,
        };
        assert_eq!(replay.successor_end, end, "{name}");
    }
}

#[test]
fn our_supervisor_says_what_the_recorded_ones_said() {
    for row in golden("sessions.json") {
        let name = text(&row, "name");
        let events = row["events"].as_array().expect("a list");
        let mut lead = Lead::of(events);
        for event in events {
            let (dir, msg) = (text(event, "dir"), text(event, "msg"));
            let message = event["hex"].as_str().map(|hex| decode(&unhex(hex)));
            lead.event(&dir, &msg, message)
                .unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        let committed = text(&row, "outcome").contains("committed=true");
        let outcome = lead.outcome.expect("it ends");
        assert_eq!(outcome.is_ok(), committed, "{name}: {outcome:?}");
        assert_eq!(lead.said, [Vec::new(), Vec::new()], "{name}");
    }
}

/// Our supervisor, fed with what the processes of a recording sent.
struct Lead {
    machine: Supervisor,
    now: u64,
    successor: u32,
    is_gone: bool,
    /// What the machine wants to tell either process and the recording has not shown yet.
    said: [Vec<Message>; 2],
    outcome: Option<Result<(), supervisor::Failure>>,
}

impl Lead {
    fn of(events: &[Value]) -> Self {
        let message = |event: &Value| event["hex"].as_str().map(|hex| decode(&unhex(hex)));
        let messages: Vec<Message> = events.iter().filter_map(message).collect();
        let hello = |wanted| {
            let pid = messages.iter().find_map(|message| match message {
                Message::Hello { role, pid, .. } if *role == wanted => Some(*pid),
                _ => None,
            });
            pid.expect("it says hello")
        };
        let of = messages.iter().find_map(|message| match message {
            Message::HelloAck { id, .. } => Some(*id),
            _ => None,
        });
        let times = messages.iter().find_map(|message| match message {
            Message::Prepare {
                deadline_ms,
                grace_ms,
                ..
            } => Some((*deadline_ms, *grace_ms)),
            _ => None,
        });
        let (deadline_ms, grace_ms) = times.expect("it is prepared");
        let plan = Plan {
            id: of.expect("it is acknowledged"),
            incumbent: hello(Role::Incumbent),
            deadline_ms,
            grace_ms,
        };
        Self {
            machine: Supervisor::new(plan, 0),
            now: 0,
            successor: hello(Role::Successor),
            is_gone: false,
            said: [Vec::new(), Vec::new()],
            outcome: None,
        }
    }

    fn event(&mut self, dir: &str, msg: &str, message: Option<Message>) -> Result<(), String> {
        match (dir, message) {
            ("O" | "N", None) if msg == "!open" => {}
            // What it wanted to say to a process that was gone is not in the recording.
            ("N", None) if msg == "!EPIPE" => {
                self.said[1].clear();
                if !std::mem::replace(&mut self.is_gone, true) {
                    self.step(supervisor::Event::NewGone);
                }
            }
            ("O" | "N", None) => {}
            ("O>S", Some(message)) => self.step(supervisor::Event::Old(&frame(&message))),
            ("N>S", Some(message)) => self.step(supervisor::Event::New(&frame(&message))),
            ("S>O" | "S>N", Some(recorded)) => {
                let side = usize::from(dir == "S>N");
                if self.said[side].is_empty() {
                    self.now = self.machine.wakes_at().ok_or("nothing is waited for")?;
                    self.step(supervisor::Event::Tick);
                }
                if self.said[side].is_empty() {
                    return Err(format!("nothing was said instead of {recorded:?}"));
                }
                let worded = |message| match message {
                    // The words for people are our own.
                    Message::Abort { id, .. } => Message::Abort {
                        id,
                        reason: String::new(),
                    },
                    message => message,
                };
                let ours = worded(self.said[side].remove(0));
                if ours != worded(recorded.clone()) {
                    return Err(format!("{ours:?} instead of {recorded:?}"));
                }
            }
            (dir, message) => return Err(format!("{dir} {msg} {message:?}")),
        }
        Ok(())
    }

    fn step(&mut self, event: supervisor::Event<'_>) {
        let mut effects = Vec::new();
        self.machine.step(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                supervisor::Effect::TellOld(message) => self.said[0].push(message),
                supervisor::Effect::TellNew(message) => self.said[1].push(message),
                supervisor::Effect::Start => {
                    self.step(supervisor::Event::Started(self.successor));
                }
                supervisor::Effect::Check => self.step(supervisor::Event::Checked(Ok(()))),
                supervisor::Effect::EndNew { .. } => {
                    self.step(supervisor::Event::NewEnded("was killed".into()));
                }
                supervisor::Effect::Note(_) => {}
                supervisor::Effect::Over(outcome) => self.outcome = Some(outcome),
            }
        }
    }
}

/// Both machines, fed with what the supervisor of a recording sent.
struct Replay {
    incumbent: Incumbent,
    successor: Option<Successor>,
    now: u64,
    /// What the machines want to tell and the recording has not shown yet.
    said: [Vec<Message>; 2],
    incumbent_end: Option<incumbent::Effect>,
    successor_end: Option<successor::Effect>,
}

impl Replay {
    fn new() -> Self {
        Self {
            incumbent: Incumbent::new(1, b"build"),
            successor: None,
            now: 0,
            said: [Vec::new(), Vec::new()],
            incumbent_end: None,
            successor_end: None,
        }
    }

    fn event(&mut self, dir: &str, msg: &str, message: Option<Message>) -> Result<(), String> {
        match (dir, message) {
            ("O", None) if msg == "!open" => self.incumbent(incumbent::Event::Opened(1)),
            ("O", None) => self.incumbent(incumbent::Event::Gone(1)),
            ("N", None) if msg == "!open" => {
                self.successor = Some(Successor::new(2, b"build", self.now));
                self.successor(successor::Event::Prepared);
            }
            // An end of a process that is gone is not heard there.
            ("N", None) => self.successor = None,
            ("S>O", Some(message)) => self.incumbent(incumbent::Event::Bytes(1, &frame(&message))),
            ("S>N", Some(message)) => self.successor(successor::Event::Bytes(&frame(&message))),
            ("O>S", Some(message)) => {
                match &message {
                    Message::Drained { open_conns, .. } => {
                        self.incumbent(incumbent::Event::Drained(*open_conns));
                    }
                    Message::SealComplete {
                        revisions,
                        fingerprint,
                        ..
                    } => self.incumbent(incumbent::Event::Sealed(revisions.clone(), *fingerprint)),
                    Message::SealFailed { error, .. } => {
                        self.incumbent(incumbent::Event::SealFailed(error.clone()));
                    }
                    Message::Heartbeat { .. } => {
                        self.now = self.incumbent.wakes_at().ok_or("nothing is waited for")?;
                        self.incumbent(incumbent::Event::Tick);
                    }
                    _ => {}
                }
                return self.compare(0, message);
            }
            ("N>S", Some(message)) => {
                match &message {
                    Message::Ready {
                        listening,
                        revisions,
                        ..
                    } => self.successor(successor::Event::Serving(
                        listening.clone(),
                        revisions.clone(),
                    )),
                    Message::Heartbeat { .. } => {
                        self.now += ringkeep::handoff::HEARTBEAT_MS;
                        self.successor(successor::Event::Tick);
                    }
                    _ => {}
                }
                return self.compare(1, message);
            }
            (dir, message) => return Err(format!("{dir} {msg} {message:?}")),
        }
        Ok(())
    }

    /// What was recorded is what ours wants to say next, but for numbers of processes, builds and clocks.
    fn compare(&mut self, side: usize, recorded: Message) -> Result<(), String> {
        if self.said[side].is_empty() {
            return Err(format!("nothing was said instead of {recorded:?}"));
        }
        let (ours, recorded) = (masked(self.said[side].remove(0)), masked(recorded));
        match ours == recorded {
            true => Ok(()),
            false => Err(format!("{ours:?} instead of {recorded:?}")),
        }
    }

    fn incumbent(&mut self, event: incumbent::Event<'_>) {
        let mut effects = Vec::new();
        self.incumbent.step(self.now, 77, event, &mut effects);
        for effect in effects {
            match effect {
                incumbent::Effect::Send(_, message) => self.said[0].push(message),
                incumbent::Effect::TakeBack => self.incumbent(incumbent::Event::Back),
                incumbent::Effect::Resume(_) | incumbent::Effect::Exit => {
                    self.incumbent_end = Some(effect);
                }
                // What comes of these stands in the recording.
                incumbent::Effect::Drain
                | incumbent::Effect::Lend(_)
                | incumbent::Effect::Seal(_)
                | incumbent::Effect::Close(_) => {}
            }
        }
    }

    fn successor(&mut self, event: successor::Event<'_>) {
        let mut effects = Vec::new();
        if let Some(successor) = &mut self.successor {
            successor.step(self.now, 77, event, &mut effects);
        }
        effects
            .into_iter()
            .for_each(|effect| self.note_successor(effect));
    }

    fn note_successor(&mut self, effect: successor::Effect) {
        match effect {
            successor::Effect::Send(message) => self.said[1].push(message),
            successor::Effect::Begin(_) => {}
            successor::Effect::Exit(_) | successor::Effect::Serve => {
                self.successor_end = Some(effect)
            }
        }
    }
}

fn masked(message: Message) -> Message {
    match message {
        Message::Hello { role, versions, .. } => Message::Hello {
            role,
            pid: 0,
            build: Vec::new(),
            versions,
            capabilities: 0,
        },
        Message::Heartbeat { .. } => Message::Heartbeat { at_ms: 0 },
        message => message,
    }
}
