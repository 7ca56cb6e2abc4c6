//! Finds out what stands at the address that `REPLICAOF` names, and where its streams are.
//!
//! A Redis is followed at its client port. With a kevy people mean its replication base port, or its client
//! port as well. Both are tried: a client port answers questions about itself, a replication port closes the
//! connection without a byte.
//!
//! How to drive a [`Discovery`]: call [`Discovery::poll`] until `None` and carry out each [`Action`]; report
//! what happens by the `on_` methods; call `poll` again then, and at [`Discovery::deadline`].

use super::{Login, wire::decimal};

/// What the shell has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open a connection to this port of the host.
    Dial(u16),
    /// Send these bytes on it.
    Send(Vec<u8>),
    /// Close it, or give up opening it.
    Close,
    /// The search is over.
    Done(Result<Found, DiscoverError>),
}

/// Who can be followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// kevy or ringkeep, by its streams.
    Kevy(Upstream),
    /// Redis or one of its kin, by PSYNC at the port that was named; its version, if it told.
    Redis(Option<String>),
}

/// Where an upstream's streams are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Port of stream 0; stream i is at this plus i.
    pub base: u16,
    /// Number of streams.
    pub streams: u16,
    /// Its client port, if that was found.
    pub client_port: Option<u16>,
    /// Its kevy version, if it told.
    pub version: Option<String>,
}

/// Why there is nothing to follow. All of them may pass: try again later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiscoverError {
    /// Nobody listens at the port that was named.
    Unreachable,
    /// The port speaks Redis' protocol, but does not say that it can be followed.
    NoPrimary,
    /// It wants a password, or another one.
    NoLogin,
    /// The port speaks something else.
    NotRedis,
    /// The port answers, but not within three seconds, or breaks off.
    NoAnswer,
    /// TLS is spoken on one side alone, or cannot be spoken with it, for this reason.
    Tls(&'static str),
}

impl std::fmt::Display for DiscoverError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Unreachable => "nobody listens there",
            Self::NoPrimary => "the server there is none that can be followed",
            Self::NoLogin => "the server there wants a password (masterauth)",
            Self::NotRedis => "the server there does not speak the Redis protocol",
            Self::NoAnswer => "the server there does not answer",
            Self::Tls(why) => why,
        })
    }
}

impl std::error::Error for DiscoverError {}

/// Are these the questions of a search? Who asks them at a port that serves no clients wants to know just
/// that.
pub fn is_question(bytes: &[u8]) -> bool {
    bytes.ends_with(QUESTIONS)
}

/// The search for one address.
#[derive(Debug)]
pub struct Discovery {
    /// The port that the user named.
    named: u16,
    login: Option<Login>,
    step: Step,
    state: State,
    received: Vec<u8>,
    /// What to do about the connection, before the next dial.
    pending: Option<Action>,
    must_close: bool,
}

/// Which question the current connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Is the named port a client port?
    Named,
    /// Is the client port where it would be if the named one is the replication base?
    Guessed,
    /// How many ports from the named one on are open?
    Counting {
        open: u16,
    },
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    Dialing { until: Option<u64> },
    Asking { until: Option<u64> },
    Done,
}

impl Discovery {
    /// A search that begins with the next poll. `port` is a client port or a replication base port.
    pub fn new(port: u16, login: Option<Login>) -> Self {
        Self {
            named: port,
            login,
            step: Step::Named,
            state: State::Ready,
            received: Vec::new(),
            pending: None,
            must_close: false,
        }
    }

    /// The same where the port is known to be a replication base port, and needs no question.
    pub fn at_base(port: u16, login: Option<Login>) -> Self {
        let step = match port > REPLICATION_DISTANCE {
            true => Step::Guessed,
            false => Step::Counting { open: 0 },
        };
        Self {
            step,
            ..Self::new(port, login)
        }
    }

    /// What is to be done next; call until `None`. After [`Action::Done`] there is nothing more.
    pub fn poll(&mut self, now: u64) -> Option<Action> {
        match &mut self.state {
            // The clock starts when the shell learns that there is something to wait for.
            State::Dialing { until } | State::Asking { until } => {
                if now >= *until.get_or_insert(now + ANSWER_MS) {
                    self.on_silence();
                }
            }
            State::Ready | State::Done => {}
        }
        if std::mem::take(&mut self.must_close) {
            return Some(Action::Close);
        }
        if let Some(action) = self.pending.take() {
            return Some(action);
        }
        if self.state != State::Ready {
            return None;
        }
        let port = match self.step {
            Step::Named => self.named,
            Step::Guessed => self.named - REPLICATION_DISTANCE,
            Step::Counting { open } => self.named + open,
            Step::Over => return None,
        };
        self.state = State::Dialing {
            until: Some(now + ANSWER_MS),
        };
        Some(Action::Dial(port))
    }

    /// When to call [`poll`](Self::poll) if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Dialing { until } | State::Asking { until } => until,
            State::Ready | State::Done => None,
        }
    }

    /// The connection is open.
    pub fn on_connected(&mut self) {
        if !matches!(self.state, State::Dialing { .. }) {
            return;
        }
        if let Step::Counting { open } = self.step {
            self.must_close = true;
            self.count_on(open + 1);
            return;
        }
        self.received.clear();
        self.state = State::Asking { until: None };
        let mut questions = Vec::new();
        if let Some(login) = &self.login {
            login.write(&mut questions);
        }
        questions.extend_from_slice(QUESTIONS);
        self.pending = Some(Action::Send(questions));
    }

    /// The connection could not be opened.
    pub fn on_refused(&mut self) {
        if !matches!(self.state, State::Dialing { .. }) {
            return;
        }
        match self.step {
            Step::Named => self.finish(Err(DiscoverError::Unreachable)),
            Step::Guessed => self.count_on(0),
            Step::Counting { open } => self.finish_count(open),
            Step::Over => {}
        }
    }

    /// There is no TLS with who was dialed.
    pub fn on_tls_fault(&mut self, why: &'static str) {
        if self.state == State::Done {
            return;
        }
        self.must_close = true;
        match self.step {
            // As many streams as there are answer.
            Step::Counting { open } if open > 0 => self.finish_count(open),
            _ => self.finish(Err(DiscoverError::Tls(why))),
        }
    }

    /// Bytes arrived.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        if !matches!(self.state, State::Asking { .. }) {
            return;
        }
        self.received.extend_from_slice(bytes);
        match read_answers(&self.received, self.login.is_some()) {
            Ok(Some(answers)) => {
                self.must_close = true;
                self.on_answers(answers);
            }
            Ok(None) if self.received.len() <= ANSWER_LEN_MAX => {}
            Ok(None) | Err(Unreadable) => {
                self.must_close = true;
                match self.step {
                    Step::Named => self.finish(Err(DiscoverError::NotRedis)),
                    _ => self.count_on(0),
                }
            }
        }
    }

    /// The other side closed the connection.
    pub fn on_closed(&mut self) {
        match self.state {
            State::Dialing { .. } => self.on_refused(),
            State::Asking { .. } => self.on_no_answer(),
            State::Ready | State::Done => {}
        }
    }

    /// Nothing came for too long. kevy 1.19's replication port can be like that.
    fn on_silence(&mut self) {
        self.must_close = true;
        match self.state {
            State::Dialing { .. } => self.on_refused(),
            _ => self.on_no_answer(),
        }
    }

    fn on_no_answer(&mut self) {
        match self.step {
            Step::Named if !self.received.is_empty() => self.finish(Err(DiscoverError::NoAnswer)),
            Step::Named if self.named > REPLICATION_DISTANCE => {
                self.step = Step::Guessed;
                self.state = State::Ready;
                self.pending = None;
            }
            _ => self.count_on(0),
        }
    }

    fn on_answers(&mut self, answers: Answers) {
        match self.step {
            Step::Named if !answers.is_kevy() => self.finish(match answers {
                Answers {
                    is_sentinel: true, ..
                } => Err(DiscoverError::NoPrimary),
                // Who may replicate and nothing else is told nothing else. Only a Redis has such users.
                Answers {
                    redis_version: version @ Some(_),
                    ..
                }
                | Answers {
                    redis_version: version,
                    is_guarded: true,
                    ..
                } => Ok(Found::Redis(version)),
                Answers {
                    wants_login: true, ..
                } => Err(DiscoverError::NoLogin),
                _ => Err(DiscoverError::NoPrimary),
            }),
            Step::Named => {
                let base = answers.base(self.named);
                match answers.streams {
                    Some(streams) => self.finish_found(base, streams, self.named, answers),
                    None => {
                        self.named = base;
                        self.count_on(0);
                    }
                }
            }
            _ => {
                let client_port = self.named - REPLICATION_DISTANCE;
                // A server there that serves its streams elsewhere is not the one that was named.
                let is_same = answers.is_kevy() && answers.base(client_port) == self.named;
                match answers.streams {
                    Some(streams) if is_same => {
                        self.finish_found(self.named, streams, client_port, answers);
                    }
                    _ => self.count_on(0),
                }
            }
        }
    }

    /// Dials the next stream's port, or ends where there is none.
    fn count_on(&mut self, open: u16) {
        self.pending = None;
        if open >= STREAMS_MAX || self.named.checked_add(open).is_none() {
            self.finish_count(open);
            return;
        }
        self.step = Step::Counting { open };
        self.state = State::Ready;
    }

    fn finish_count(&mut self, open: u16) {
        self.finish(if open == 0 {
            Err(DiscoverError::Unreachable)
        } else {
            Ok(Found::Kevy(Upstream {
                base: self.named,
                streams: open,
                client_port: None,
                version: None,
            }))
        });
    }

    fn finish_found(&mut self, base: u16, streams: u16, client_port: u16, answers: Answers) {
        self.finish(Ok(Found::Kevy(Upstream {
            base,
            streams,
            client_port: Some(client_port),
            version: answers.version,
        })));
    }

    fn finish(&mut self, result: Result<Found, DiscoverError>) {
        self.step = Step::Over;
        self.state = State::Done;
        self.received = Vec::new();
        self.pending = Some(Action::Done(result));
    }
}

/// What the three questions brought.
#[derive(Debug, Default)]
struct Answers {
    version: Option<String>,
    is_ringkeep: bool,
    base: Option<u16>,
    streams: Option<u16>,
    redis_version: Option<String>,
    is_sentinel: bool,
    /// Our user may not ask.
    is_guarded: bool,
    /// Nobody may ask without a password.
    wants_login: bool,
}

impl Answers {
    fn is_kevy(&self) -> bool {
        self.version.is_some() || self.is_ringkeep
    }

    fn base(&self, client_port: u16) -> u16 {
        self.base
            .unwrap_or(client_port.saturating_add(REPLICATION_DISTANCE))
    }

    fn read_info(&mut self, text: &[u8]) {
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = |version| Some(String::from_utf8_lossy(version).into_owned());
            if let Some(version) = line.strip_prefix(b"kevy_version:") {
                self.version = text(version);
            } else if let Some(version) = line.strip_prefix(b"redis_version:") {
                self.redis_version = self.redis_version.take().or(text(version));
            } else if let Some(version) = line.strip_prefix(b"valkey_version:") {
                self.redis_version = text(&[b"Valkey ", version].concat());
            } else if line == b"redis_mode:sentinel" {
                self.is_sentinel = true;
            } else if line.starts_with(b"ringkeep_version:") {
                self.is_ringkeep = true;
            } else if let Some(base) = line.strip_prefix(b"repl_port_base:") {
                self.base = decimal(base)
                    .and_then(|base| u16::try_from(base).ok())
                    .filter(|&base| base > 0);
            }
        }
    }
}

/// Not RESP, or not a reply to what was asked.
struct Unreadable;

/// The replies to [`QUESTIONS`], or `None` while they are incomplete. An error reply counts as no answer to
/// that question.
fn read_answers(bytes: &[u8], has_login: bool) -> Result<Option<Answers>, Unreadable> {
    let mut answers = Answers::default();
    let mut at = 0;
    if has_login {
        // Where it is not accepted, the other answers tell.
        match read_reply(bytes, 0, &mut Vec::new())? {
            Some(end) => at = end,
            None => return Ok(None),
        }
    }
    for question in 0..3 {
        let mut reply = Vec::new();
        let start = at;
        match read_reply(bytes, at, &mut reply)? {
            Some(end) => at = end,
            None => return Ok(None),
        }
        answers.is_guarded |= bytes[start..].starts_with(b"-NOPERM");
        answers.wants_login |= bytes[start..].starts_with(b"-NOAUTH");
        match (question, &reply[..]) {
            (0 | 1, [text]) => answers.read_info(text),
            (2, [_, value]) => {
                let streams = decimal(value).and_then(|streams| u16::try_from(streams).ok());
                answers.streams = streams.filter(|streams| (1..=STREAMS_MAX).contains(streams));
            }
            _ => {}
        }
    }
    Ok(Some(answers))
}

/// One reply from `at` on: its strings, and where it ends. An error has none.
fn read_reply<'a>(
    bytes: &'a [u8],
    at: usize,
    strings: &mut Vec<&'a [u8]>,
) -> Result<Option<usize>, Unreadable> {
    let Some((kind, head, next)) = read_head(bytes, at)? else {
        return Ok(None);
    };
    match kind {
        b'-' | b'+' | b':' => Ok(Some(next)),
        b'$' if head == b"-1" => Ok(Some(next)),
        b'$' => {
            let len = decimal(head)
                .filter(|&len| len <= ANSWER_LEN_MAX as u64)
                .ok_or(Unreadable)? as usize;
            let Some(text) = bytes.get(next..next + len) else {
                return Ok(None);
            };
            match bytes.get(next + len..next + len + 2) {
                Some(b"\r\n") => {
                    strings.push(text);
                    Ok(Some(next + len + 2))
                }
                Some(_) => Err(Unreadable),
                None => Ok(None),
            }
        }
        // Flat arrays only: what CONFIG GET answers.
        b'*' => {
            let count = decimal(head)
                .filter(|&count| count <= 64)
                .ok_or(Unreadable)?;
            let mut at = next;
            for _ in 0..count {
                if bytes.get(at).is_some_and(|&kind| kind == b'*') {
                    return Err(Unreadable);
                }
                match read_reply(bytes, at, strings)? {
                    Some(end) => at = end,
                    None => return Ok(None),
                }
            }
            Ok(Some(at))
        }
        _ => Err(Unreadable),
    }
}

/// The first line of a reply: its first byte, the rest, and where the next thing begins.
type ReplyHead<'a> = (u8, &'a [u8], usize);

/// The line at `at`, if it is there in full.
fn read_head(bytes: &[u8], at: usize) -> Result<Option<ReplyHead<'_>>, Unreadable> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(&kind) = rest.first() else {
        return Ok(None);
    };
    if !matches!(kind, b'-' | b'+' | b':' | b'$' | b'*') {
        return Err(Unreadable);
    }
    match rest.windows(2).position(|pair| pair == b"\r\n") {
        Some(len) => Ok(Some((kind, &rest[1..len], at + len + 2))),
        None if rest.len() > LINE_LEN_MAX => Err(Unreadable),
        None => Ok(None),
    }
}

const QUESTIONS: &[u8] = b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n\
    *2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n\
    *3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$10\r\nio-threads\r\n";

/// From a client port to stream 0, unless configured otherwise.
const REPLICATION_DISTANCE: u16 = 10000;
const STREAMS_MAX: u16 = 1024;
const ANSWER_MS: u64 = 3000;
const ANSWER_LEN_MAX: usize = 64 << 10;
const LINE_LEN_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands at a port of the host.
    #[derive(Clone)]
    enum Port {
        Answers(Vec<u8>),
        Closes,
        Hangs,
    }

    fn answers(info: &str, replication: &str, config: &str) -> Port {
        let mut bytes = Vec::new();
        for text in [info, replication] {
            bytes.extend(format!("${}\r\n{text}\r\n", text.len()).bytes());
        }
        bytes.extend(config.bytes());
        Port::Answers(bytes)
    }

    fn threads(count: &str) -> String {
        format!("*2\r\n$10\r\nio-threads\r\n${}\r\n{count}\r\n", count.len())
    }

    const KEVY: &str = "# Server\r\nredis_version:7.4.0\r\nkevy_version:7.0.0\r\n";

    /// Plays a host with these ports; answers come in pieces of `piece` bytes.
    fn search(
        named: u16,
        ports: &[(u16, Port)],
        piece: usize,
    ) -> (Result<Found, DiscoverError>, Vec<u16>) {
        play(Discovery::new(named, None), ports, piece)
    }

    fn play(
        mut discovery: Discovery,
        ports: &[(u16, Port)],
        piece: usize,
    ) -> (Result<Found, DiscoverError>, Vec<u16>) {
        let mut dialed = Vec::new();
        let mut now = 0;
        let mut current = None;
        for _ in 0..10_000 {
            match discovery.poll(now) {
                Some(Action::Dial(port)) => {
                    assert!(current.is_none(), "one connection at a time");
                    dialed.push(port);
                    match ports.iter().find(|(at, _)| *at == port) {
                        Some((_, found)) => {
                            current = Some(found.clone());
                            discovery.on_connected();
                        }
                        None => discovery.on_refused(),
                    }
                }
                Some(Action::Send(bytes)) => {
                    assert_eq!(bytes, QUESTIONS);
                    match current.clone().expect("connected") {
                        Port::Answers(bytes) => {
                            bytes
                                .chunks(piece)
                                .for_each(|piece| discovery.on_bytes(piece));
                        }
                        Port::Closes => {
                            current = None;
                            discovery.on_closed();
                        }
                        Port::Hangs => {}
                    }
                }
                Some(Action::Close) => current = None,
                Some(Action::Done(result)) => {
                    assert!(current.is_none(), "closed before the end");
                    assert_eq!(discovery.poll(now), None);
                    return (result, dialed);
                }
                None => now = discovery.deadline().expect("waits for something"),
            }
        }
        panic!("no end");
    }

    fn found(base: u16, streams: u16, client_port: u16) -> Result<Found, DiscoverError> {
        let version = Some("7.0.0".to_owned());
        Ok(Found::Kevy(Upstream {
            base,
            streams,
            client_port: Some(client_port),
            version,
        }))
    }

    #[test]
    fn who_speaks_no_tls_is_told_of_and_asked_no_further() {
        let mut discovery = Discovery::new(6004, None);
        assert_eq!(discovery.poll(0), Some(Action::Dial(6004)));
        discovery.on_tls_fault("why");
        // That the connection could not be made is told, too.
        discovery.on_refused();
        assert_eq!(discovery.poll(0), Some(Action::Close));
        let told = Action::Done(Err(DiscoverError::Tls("why")));
        assert_eq!(discovery.poll(0), Some(told));
        discovery.on_tls_fault("again");
        assert_eq!(discovery.poll(0), None);
        // Of ports that are counted those before it are streams.
        let mut discovery = Discovery::at_base(9000, None);
        for port in [9000, 9001] {
            assert_eq!(discovery.poll(0), Some(Action::Dial(port)));
            discovery.on_connected();
            assert_eq!(discovery.poll(0), Some(Action::Close));
        }
        assert_eq!(discovery.poll(0), Some(Action::Dial(9002)));
        discovery.on_tls_fault("why");
        assert_eq!(discovery.poll(0), Some(Action::Close));
        let Some(Action::Done(Ok(Found::Kevy(found)))) = discovery.poll(0) else {
            panic!("it has streams");
        };
        assert_eq!((found.base, found.streams), (9000, 2));
    }

    #[test]
    fn a_client_port_tells_all() {
        for piece in [1, 7, 1000] {
            let ports = [(6004, answers(KEVY, "role:master\r\n", &threads("4")))];
            assert_eq!(
                search(6004, &ports, piece),
                (found(16004, 4, 6004), vec![6004])
            );
            let ports = [(
                6004,
                answers(KEVY, "repl_port_base:7777\r\n", &threads("2")),
            )];
            assert_eq!(search(6004, &ports, piece).0, found(7777, 2, 6004));
        }
        let ports = [(60000, answers(KEVY, "", &threads("1")))];
        assert_eq!(search(60000, &ports, 9).0, found(65535, 1, 60000));
    }

    #[test]
    fn a_replication_base_leads_to_its_client_port() {
        let ports = [
            (16004, Port::Closes),
            (6004, answers(KEVY, "", &threads("4"))),
        ];
        assert_eq!(
            search(16004, &ports, 100),
            (found(16004, 4, 6004), vec![16004, 6004])
        );
        let ports = [
            (16004, Port::Hangs),
            (6004, answers(KEVY, "", &threads("4"))),
        ];
        assert_eq!(search(16004, &ports, 100).0, found(16004, 4, 6004));
    }

    #[test]
    fn a_port_that_is_known_as_a_base_is_asked_nothing() {
        let at_base = |port, ports: &[(u16, Port)]| play(Discovery::at_base(port, None), ports, 1);
        let ports = [
            (16004, Port::Closes),
            (6004, answers(KEVY, "", &threads("4"))),
        ];
        assert_eq!(at_base(16004, &ports), (found(16004, 4, 6004), vec![6004]));
        // Where the client port is elsewhere, the ports of the streams are counted.
        let counted = |base| {
            Ok(Found::Kevy(Upstream {
                base,
                streams: 1,
                client_port: None,
                version: None,
            }))
        };
        let ports = [(16004, Port::Closes)];
        assert_eq!(
            at_base(16004, &ports),
            (counted(16004), vec![6004, 16004, 16005])
        );
        let ports = [(900, Port::Closes)];
        assert_eq!(at_base(900, &ports), (counted(900), vec![900, 901]));
        assert_eq!(at_base(16004, &[]).0, Err(DiscoverError::Unreachable));
    }

    #[test]
    fn streams_are_counted_where_nobody_tells() {
        let counted = |streams| {
            Ok(Found::Kevy(Upstream {
                base: 16004,
                streams,
                client_port: None,
                version: None,
            }))
        };
        let streams = [
            (16004, Port::Closes),
            (16005, Port::Closes),
            (16006, Port::Closes),
        ];
        assert_eq!(
            search(16004, &streams, 1),
            (counted(3), vec![16004, 6004, 16004, 16005, 16006, 16007])
        );
        // Another server on the guessed port is not believed.
        let other = answers("redis_version:7.4.0\r\n", "", &threads("8"));
        let ports = [&streams[..], &[(6004, other)]].concat();
        assert_eq!(search(16004, &ports, 1).0, counted(3));
        let elsewhere = answers(KEVY, "repl_port_base:5000\r\n", &threads("8"));
        let ports = [&streams[..], &[(6004, elsewhere)]].concat();
        assert_eq!(search(16004, &ports, 1).0, counted(3));
        // A base so low that there is no client port below it.
        let ports = [(900, Port::Closes)];
        let low = Ok(Found::Kevy(Upstream {
            base: 900,
            streams: 1,
            client_port: None,
            version: None,
        }));
        assert_eq!(search(900, &ports, 1), (low, vec![900, 900, 901]));
    }

    #[test]
    fn counting_ends_at_the_last_port() {
        let ports = [(65534, Port::Closes), (65535, Port::Closes)];
        let (result, _) = search(65534, &ports, 1);
        let Ok(Found::Kevy(upstream)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(upstream.streams, 2);
    }

    #[test]
    fn who_is_no_primary_is_named_so() {
        assert_eq!(search(6004, &[], 1).0, Err(DiscoverError::Unreachable));
        let locked = Port::Answers(b"-NOAUTH no\r\n-NOAUTH no\r\n-NOAUTH no\r\n".to_vec());
        assert_eq!(
            search(6379, &[(6379, locked)], 3).0,
            Err(DiscoverError::NoLogin)
        );
        for info in [
            "",
            "redis_version:7.0.15\r\nredis_mode:sentinel\r\n",
            "server:other\r\n",
        ] {
            let other = answers(info, "", &threads("1"));
            let (result, _) = search(6379, &[(6379, other)], 3);
            assert_eq!(result, Err(DiscoverError::NoPrimary), "{info}");
        }
        let web = Port::Answers(b"HTTP/1.1 400 Bad Request\r\n".to_vec());
        assert_eq!(search(80, &[(80, web)], 3).0, Err(DiscoverError::NotRedis));
        let flood = Port::Answers([&b"$99999\r\n"[..], &[b'x'; 200_000]].concat());
        assert_eq!(
            search(80, &[(80, flood)], 4096).0,
            Err(DiscoverError::NotRedis)
        );
        let partial = Port::Answers(b"$10\r\nabc".to_vec());
        assert_eq!(
            search(80, &[(80, partial)], 3).0,
            Err(DiscoverError::NoAnswer)
        );
    }

    #[test]
    fn ringkeep_answers_like_kevy() {
        let ports = [(
            6004,
            answers(
                "ringkeep_version:0.1.0\r\n",
                "repl_port_base:16004\r\n",
                &threads("3"),
            ),
        )];
        let Ok(Found::Kevy(upstream)) = search(6004, &ports, 5).0 else {
            panic!("not found")
        };
        assert_eq!(
            (upstream.base, upstream.streams, upstream.version),
            (16004, 3, None)
        );
    }

    #[test]
    fn a_redis_is_followed_where_it_was_named() {
        let redis = |version: &str| Ok(Found::Redis(Some(version.to_owned())));
        for (info, want) in [
            (
                "redis_version:7.0.15\r\nredis_mode:standalone\r\n",
                redis("7.0.15"),
            ),
            (
                "redis_version:7.2.4\r\nvalkey_version:8.1.1\r\n",
                redis("Valkey 8.1.1"),
            ),
        ] {
            let ports = [(
                6379,
                answers(info, "role:master\r\n", "-ERR no CONFIG here\r\n"),
            )];
            for piece in [1, 1000] {
                assert_eq!(search(6379, &ports, piece), (want.clone(), vec![6379]));
            }
        }
        // A user that may replicate and nothing else.
        let guarded = Port::Answers(b"-NOPERM x\r\n-NOPERM x\r\n-NOPERM x\r\n".to_vec());
        assert_eq!(
            search(6379, &[(6379, guarded)], 5).0,
            Ok(Found::Redis(None))
        );
    }

    #[test]
    fn a_password_is_shown_first() {
        let login = |user: &str| {
            let (user, password) = (user.into(), "secret".into());
            Some(Login { user, password })
        };
        for (login, first, answer, found) in [
            (
                login(""),
                "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n",
                "+OK",
                true,
            ),
            (
                login("me"),
                "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$6\r\nsecret\r\n",
                "+OK",
                true,
            ),
            (
                login(""),
                "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n",
                "-WRONGPASS",
                false,
            ),
        ] {
            let mut discovery = Discovery::new(6379, login);
            assert_eq!(discovery.poll(0), Some(Action::Dial(6379)));
            discovery.on_connected();
            let Some(Action::Send(bytes)) = discovery.poll(0) else {
                panic!("nothing is sent")
            };
            assert_eq!(bytes, [first.as_bytes(), QUESTIONS].concat());
            discovery.on_bytes(format!("{answer}\r\n").as_bytes());
            let info = match found {
                true => "$20\r\nredis_version:7.0.15\r\n$0\r\n\r\n*0\r\n",
                false => "-NOAUTH x\r\n-NOAUTH x\r\n-NOAUTH x\r\n",
            };
            discovery.on_bytes(info.as_bytes());
            assert_eq!(discovery.poll(0), Some(Action::Close));
            let want = match found {
                true => Ok(Found::Redis(Some("7.0.15".into()))),
                false => Err(DiscoverError::NoLogin),
            };
            assert_eq!(discovery.poll(0), Some(Action::Done(want)));
        }
    }
}
