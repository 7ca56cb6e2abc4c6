//! Follows a Redis or Valkey primary: PSYNC, its RDB, and its stream of commands.
//!
//! How to drive a [`Psync`]:
//!
//! 1. Whenever something happened, and ten times a second, call [`Psync::poll`] until it returns `None` and
//!    carry out each [`Action`].
//! 2. Report what became of [`Action::Connect`] by [`Psync::on_connected`] or [`Psync::on_closed`].
//! 3. Hand what arrives to [`Psync::feed`], in place, until it returns no event, also when all bytes are
//!    used; keep the bytes it did not use and show them again with more behind them. Then poll.
//! 4. Report progress of the store by [`Psync::applied_through`]. Acknowledgements say what was applied.
//! 5. Behind [`Event::RdbEnd`] nothing is taken in until [`Psync::loaded`] or [`Psync::spoiled`] says what
//!    became of the data.
//!
//! A position counts the bytes of the stream. It moves at the end of a command, of a transaction at the end
//! of its EXEC, so a link that is cut goes on with a whole command.

use super::{Login, wire::decimal, write_command};
use crate::resp::{Args, OwnedArgs, ParseLimits, Parser, ProtocolError, Step};

/// The name of a history: forty characters.
pub type ReplId = [u8; 40];

/// What the shell has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open a connection to the primary's client port.
    Connect,
    /// Send these bytes on it.
    Send(Vec<u8>),
    /// Close the connection, or give up opening it, and forget bytes that were not used and data that has not
    /// arrived whole.
    Drop {
        /// Why; for the log.
        reason: DropReason,
        /// When the next attempt is made.
        retry_at: u64,
    },
}

/// What arrived.
#[derive(Debug)]
pub enum Event<'a> {
    /// The stream goes on where it was cut.
    Resumed,
    /// The data set will come. What the node holds stays valid until [`Event::RdbEnd`].
    SyncBegin,
    /// A piece of the RDB file.
    Rdb(&'a [u8]),
    /// The RDB file has arrived whole: replace everything by it, then call [`Psync::loaded`].
    RdbEnd,
    /// Apply this command.
    Frame {
        /// Where the stream goes on; what [`Psync::applied_through`] takes once the command is applied.
        end: u64,
        /// Its database.
        db: u64,
        /// The command.
        args: Args<'a>,
    },
    /// Apply these commands as one.
    Unit {
        /// As for [`Event::Frame`].
        end: u64,
        /// The commands, each with its database.
        frames: Vec<(u64, OwnedArgs)>,
    },
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// It could not be opened, or not within five seconds.
    Unreachable,
    /// The primary closed it.
    Closed,
    /// The primary was silent for a minute.
    Silent,
    /// The primary does not take our password.
    Login(String),
    /// The primary does not let us follow, now or at all.
    Refused(String),
    /// The primary answered something that is no answer.
    Answer(String),
    /// What should be a line or a command is none. All is asked for again.
    Stream(ProtocolError),
    /// SELECT named no database. All is asked for again.
    Select,
    /// What stands before the data set is neither a length nor a mark.
    Header,
    /// [`Psync::spoiled`] was called with this.
    Data(String),
    /// TLS cannot be spoken with the primary, for this reason.
    Tls(&'static str),
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable => out.write_str("unreachable"),
            Self::Closed => out.write_str("closed by the primary"),
            Self::Silent => out.write_str("silent"),
            Self::Login(text) => write!(out, "password not accepted: {text}"),
            Self::Refused(text) => write!(out, "refused: {text}"),
            Self::Answer(text) => write!(out, "not understood: {text}"),
            Self::Stream(error) => write!(out, "stream broken: {}", error.reply().as_str()),
            Self::Select => out.write_str("stream broken: SELECT of no database"),
            Self::Header => out.write_str("data set without length or mark"),
            Self::Data(text) => write!(out, "bad data set: {text}"),
            Self::Tls(why) => out.write_str(why),
        }
    }
}

/// A place in the primary's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which history.
    pub id: ReplId,
    /// Bytes of it.
    pub offset: u64,
    /// The database that is selected there.
    pub db: u64,
}

/// Where a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Waits before the next attempt.
    Waiting,
    /// Opens a connection.
    Connecting,
    /// Introduces itself.
    Handshake,
    /// Waits for the data set, receives or loads it.
    Sync,
    /// Receives commands.
    Streaming,
}

/// What `INFO` shows of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Where it stands.
    pub state: LinkState,
    /// Where the stream goes on after what was received whole; `None` before the first data set.
    pub place: Option<Place>,
    /// The history before that one, and where it ended.
    pub previous: Option<(ReplId, u64)>,
    /// What has been applied.
    pub applied: u64,
    /// Bytes of the data set that have arrived, and its length if that is known.
    pub synced: (u64, Option<u64>),
    /// When anything arrived.
    pub heard: Option<u64>,
    /// Since when it does not stream.
    pub down_since: Option<u64>,
    /// Why the last connection ended.
    pub last_drop: Option<DropReason>,
}

/// The link to a Redis primary. See the module's page for how to drive it.
#[derive(Debug)]
pub struct Psync {
    client_port: u16,
    login: Option<Login>,
    phase: Phase,
    parser: Parser,
    /// The parser holds a command that was taken in.
    is_parsed: bool,
    /// Where the stream goes on. Moves only behind whole commands and when a data set was loaded.
    place: Option<Place>,
    previous: Option<(ReplId, u64)>,
    /// The end of the last command that was handed out, and of the last one that was applied.
    handed: u64,
    applied: u64,
    outgoing: Vec<u8>,
    dropped: Option<Action>,
    /// An acknowledgement is wanted once this much is applied.
    ack_at: Option<u64>,
    acked_at: u64,
    heard: Option<u64>,
    down_since: Option<u64>,
    failures: u32,
    last_drop: Option<DropReason>,
}

#[derive(Debug)]
enum Phase {
    Waiting {
        until: u64,
    },
    Connecting {
        since: u64,
    },
    /// Questions that were asked and not answered, in order.
    Handshake {
        questions: &'static [Question],
    },
    /// The data set is due, for this place.
    Header {
        place: Place,
    },
    Body {
        place: Place,
        end: BodyEnd,
        read: u64,
        total: Option<u64>,
    },
    /// It has arrived and is being loaded. That goes on when the connection is closed meanwhile.
    Loading {
        place: Place,
        read: u64,
        is_closed: bool,
    },
    Streaming(Streaming),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Question {
    Ping,
    Auth,
    /// What older primaries do not know.
    Option,
    Psync,
}

#[derive(Debug)]
enum BodyEnd {
    /// So many bytes are missing.
    After(u64),
    At(Box<[u8; MARK_LEN]>),
}

#[derive(Debug)]
struct Streaming {
    /// Bytes of the history that were read, and the database there.
    read: u64,
    db: u64,
    /// A transaction whose EXEC has not come.
    unit: Option<Vec<(u64, OwnedArgs)>>,
    since: u64,
}

/// What a command of the stream leads to.
enum Outcome {
    Nothing,
    Frame,
    Unit(Vec<(u64, OwnedArgs)>),
    Broken(DropReason),
}

impl Psync {
    /// A link that connects at once and asks for everything. `client_port` is our own, which the primary
    /// shows.
    pub fn new(client_port: u16, login: Option<Login>, now: u64) -> Self {
        Self {
            client_port,
            login,
            phase: Phase::Waiting { until: 0 },
            parser: Parser::default(),
            is_parsed: false,
            place: None,
            previous: None,
            handed: 0,
            applied: 0,
            outgoing: Vec::new(),
            dropped: None,
            ack_at: None,
            acked_at: 0,
            heard: None,
            down_since: Some(now),
            failures: 0,
            last_drop: None,
        }
    }

    /// The password for the next connection.
    pub fn set_login(&mut self, login: Option<Login>) {
        self.login = login;
    }

    /// What is to be done next; call until `None`.
    pub fn poll(&mut self, now: u64) -> Option<Action> {
        self.check_timers(now);
        if let Some(action) = self.dropped.take() {
            return Some(action);
        }
        if let Phase::Waiting { until } = self.phase
            && now >= until
        {
            self.phase = Phase::Connecting { since: now };
            return Some(Action::Connect);
        }
        self.acknowledge(now);
        let bytes = std::mem::take(&mut self.outgoing);
        (!bytes.is_empty()).then_some(Action::Send(bytes))
    }

    /// The connection is open. Ignored unless one was asked for.
    pub fn on_connected(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Connecting { .. }) {
            return;
        }
        self.parser.clear();
        self.heard = Some(now);
        let out = &mut self.outgoing;
        write_command(out, &[b"PING"]);
        let questions: &[Question] = match &self.login {
            None => &[Question::Ping, Question::Option, Question::Option],
            Some(login) => {
                login.write(out);
                &[
                    Question::Ping,
                    Question::Auth,
                    Question::Option,
                    Question::Option,
                ]
            }
        };
        let port = self.client_port.to_string();
        write_command(out, &[b"REPLCONF", b"listening-port", port.as_bytes()]);
        write_command(out, &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"]);
        self.phase = Phase::Handshake { questions };
    }

    /// The connection could not be opened, or was closed by the other side.
    pub fn on_closed(&mut self, now: u64) {
        match &mut self.phase {
            Phase::Waiting { .. } => {}
            Phase::Loading { is_closed, .. } => *is_closed = true,
            Phase::Connecting { .. } => self.drop_link(now, DropReason::Unreachable),
            _ => self.drop_link(now, DropReason::Closed),
        }
    }

    /// Takes what arrived, up to the first event. Returns how many bytes were used and the event; without
    /// one, more bytes are needed, or [`poll`](Self::poll) says that the link is dropped.
    pub fn feed<'a>(&'a mut self, now: u64, bytes: &'a [u8]) -> (usize, Option<Event<'a>>) {
        if !bytes.is_empty() {
            self.heard = Some(now);
        }
        match &self.phase {
            Phase::Waiting { .. } | Phase::Connecting { .. } => (bytes.len(), None),
            Phase::Handshake { .. } | Phase::Header { .. } => self.feed_lines(now, bytes),
            Phase::Body { .. } => self.feed_body(bytes),
            Phase::Loading { .. } => (0, None),
            Phase::Streaming(_) => self.feed_stream(now, bytes),
        }
    }

    /// All commands that end at `end` or before are applied.
    pub fn applied_through(&mut self, end: u64) {
        self.applied = self.applied.max(end.min(self.handed));
    }

    /// The data set is in place. `db` is the database that the stream goes on with, if the file named one.
    pub fn loaded(&mut self, now: u64, db: Option<u64>) {
        let Phase::Loading {
            mut place,
            is_closed,
            ..
        } = self.phase
        else {
            return;
        };
        place.db = db.unwrap_or(0);
        if self.place.is_some_and(|old| old.id != place.id) {
            self.previous = None;
        }
        (self.handed, self.applied) = (place.offset, place.offset);
        self.place = Some(place);
        self.stream_from(now, place);
        if is_closed {
            self.drop_link(now, DropReason::Closed);
        }
    }

    /// The data set is damaged, or cannot be held. It is asked for again, ever more seldom.
    pub fn spoiled(&mut self, now: u64, why: String) {
        if matches!(self.phase, Phase::Body { .. } | Phase::Loading { .. }) {
            self.drop_link(now, DropReason::Data(why));
        }
    }

    /// There is no TLS with the primary.
    pub fn refuse_tls(&mut self, now: u64, why: &'static str) {
        if !matches!(self.phase, Phase::Waiting { .. } | Phase::Loading { .. }) {
            self.drop_link(now, DropReason::Tls(why));
        }
    }

    /// What `INFO` shows.
    pub fn status(&self) -> Status {
        let (state, synced) = match &self.phase {
            Phase::Waiting { .. } => (LinkState::Waiting, (0, None)),
            Phase::Connecting { .. } => (LinkState::Connecting, (0, None)),
            Phase::Handshake { .. } => (LinkState::Handshake, (0, None)),
            Phase::Header { .. } => (LinkState::Sync, (0, None)),
            Phase::Body { read, total, .. } => (LinkState::Sync, (*read, *total)),
            Phase::Loading { read, .. } => (LinkState::Sync, (*read, Some(*read))),
            Phase::Streaming(_) => (LinkState::Streaming, (0, None)),
        };
        Status {
            state,
            place: self.place,
            previous: self.previous,
            applied: self.applied(),
            synced,
            heard: self.heard,
            down_since: self.down_since,
            last_drop: self.last_drop.clone(),
        }
    }

    /// Bytes of the history whose effects are there. What needs no applying counts once all before it is
    /// applied.
    fn applied(&self) -> u64 {
        match self.place {
            Some(place) if self.applied >= self.handed => place.offset,
            _ => self.applied,
        }
    }

    fn feed_lines<'a>(&mut self, now: u64, bytes: &'a [u8]) -> (usize, Option<Event<'a>>) {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let Some(len) = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
                if rest.len() >= LINE_MAX {
                    let shown = rest[..SHOWN].escape_ascii().to_string();
                    self.drop_link(now, DropReason::Answer(shown));
                    return (bytes.len(), None);
                }
                return (used, None);
            };
            used += len + 1;
            let line = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
            // A primary that is busy sends empty lines so that nobody takes it for dead.
            if line.is_empty() {
                continue;
            }
            let event = match &mut self.phase {
                Phase::Handshake { questions } => match questions.split_first() {
                    Some((question, others)) => {
                        let question = *question;
                        *questions = others;
                        self.on_answer(now, question, line)
                    }
                    None => return (bytes.len(), None),
                },
                Phase::Header { place } => {
                    let place = *place;
                    self.on_header(now, place, line)
                }
                _ => None,
            };
            match self.phase {
                Phase::Handshake { .. } => {}
                Phase::Header { .. } if event.is_none() => {}
                Phase::Body { .. } => {
                    let (len, event) = self.feed_body(&bytes[used..]);
                    return (used + len, event);
                }
                _ => return (used, event),
            }
        }
    }

    fn on_answer(&mut self, now: u64, question: Question, line: &[u8]) -> Option<Event<'static>> {
        let text = || line[..line.len().min(SHOWN)].escape_ascii().to_string();
        let reason = match (question, line.first()) {
            // Without a password, and with rights to replicate only, PING is refused.
            (Question::Ping, Some(b'+')) => None,
            (Question::Ping, Some(b'-')) => {
                let may_go_on = [&b"-NOAUTH"[..], b"-NOPERM", b"-ERR operation not permitted"];
                let goes_on = may_go_on.iter().any(|text| line.starts_with(text));
                (!goes_on).then(|| DropReason::Refused(text()))
            }
            (Question::Auth, Some(b'+')) => None,
            (Question::Auth, Some(b'-')) => Some(DropReason::Login(text())),
            (Question::Option, Some(b'+' | b'-')) => None,
            (Question::Psync, Some(b'+')) => return self.on_psync(now, line),
            (Question::Psync, Some(b'-')) => Some(DropReason::Refused(text())),
            _ => Some(DropReason::Answer(text())),
        };
        if let Some(reason) = reason {
            self.drop_link(now, reason);
            return None;
        }
        if let Phase::Handshake { questions: [] } = self.phase {
            let (id, offset) = match &self.place {
                Some(place) => (&place.id[..], (place.offset + 1).to_string()),
                None => (&b"?"[..], "-1".into()),
            };
            write_command(&mut self.outgoing, &[b"PSYNC", id, offset.as_bytes()]);
            self.phase = Phase::Handshake {
                questions: &[Question::Psync],
            };
        }
        None
    }

    fn on_psync(&mut self, now: u64, line: &[u8]) -> Option<Event<'static>> {
        let mut words = line
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty());
        let (kind, id, offset) = (words.next(), words.next(), words.next());
        let id = match id.map(ReplId::try_from) {
            None => None,
            Some(Ok(id)) if id.iter().all(u8::is_ascii_graphic) => Some(id),
            Some(_) => {
                self.not_understood(now, line);
                return None;
            }
        };
        match (kind, self.place) {
            (Some(b"+FULLRESYNC"), _) => {
                let offset = offset.and_then(decimal).filter(|at| *at <= OFFSET_MAX);
                if let (Some(id), Some(offset)) = (id, offset) {
                    let place = Place { id, offset, db: 0 };
                    self.phase = Phase::Header { place };
                    return Some(Event::SyncBegin);
                }
            }
            (Some(b"+CONTINUE"), Some(mut place)) => {
                if let Some(id) = id.filter(|id| *id != place.id) {
                    self.previous = Some((place.id, place.offset + 1));
                    place.id = id;
                    self.place = Some(place);
                }
                self.stream_from(now, place);
                return Some(Event::Resumed);
            }
            _ => {}
        }
        self.not_understood(now, line);
        None
    }

    fn not_understood(&mut self, now: u64, line: &[u8]) {
        let text = line[..line.len().min(SHOWN)].escape_ascii().to_string();
        self.drop_link(now, DropReason::Answer(text));
    }

    fn on_header(&mut self, now: u64, place: Place, line: &[u8]) -> Option<Event<'static>> {
        let body = match line {
            [b'-', ..] => {
                let text = line[..line.len().min(SHOWN)].escape_ascii().to_string();
                self.drop_link(now, DropReason::Refused(text));
                return None;
            }
            [b'$', b'E', b'O', b'F', b':', mark @ ..] => {
                let mark = <[u8; MARK_LEN]>::try_from(mark).ok();
                mark.map(|mark| (BodyEnd::At(Box::new(mark)), None))
            }
            [b'$', digits @ ..] => decimal(digits).map(|len| (BodyEnd::After(len), Some(len))),
            _ => None,
        };
        match body {
            Some((end, total)) => {
                self.phase = Phase::Body {
                    place,
                    end,
                    read: 0,
                    total,
                };
            }
            None => self.drop_link(now, DropReason::Header),
        }
        None
    }

    fn feed_body<'a>(&mut self, bytes: &'a [u8]) -> (usize, Option<Event<'a>>) {
        let Phase::Body {
            place, end, read, ..
        } = &mut self.phase
        else {
            return (0, None);
        };
        let (piece, behind, is_last) = match end {
            BodyEnd::After(0) => (0, 0, true),
            BodyEnd::After(left) => {
                let len = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= len as u64;
                (len, 0, false)
            }
            BodyEnd::At(mark) => match find(bytes, &mark[..]) {
                // The mark is taken when what stands before it is.
                Some(0) => (0, MARK_LEN, true),
                Some(at) => (at, 0, false),
                None => (bytes.len().saturating_sub(MARK_LEN - 1), 0, false),
            },
        };
        *read += piece as u64;
        if is_last {
            let (place, read) = (*place, *read);
            self.phase = Phase::Loading {
                place,
                read,
                is_closed: false,
            };
            return (behind, Some(Event::RdbEnd));
        }
        (piece, (piece > 0).then(|| Event::Rdb(&bytes[..piece])))
    }

    fn stream_from(&mut self, now: u64, place: Place) {
        self.phase = Phase::Streaming(Streaming {
            read: place.offset,
            db: place.db,
            unit: None,
            since: now,
        });
        self.down_since = None;
        // A primary that sent the data set without a file begins with the stream when it hears from us.
        self.ack_at = Some(0);
        self.acked_at = now;
    }

    fn feed_stream<'a>(&'a mut self, now: u64, bytes: &'a [u8]) -> (usize, Option<Event<'a>>) {
        let mut used = 0;
        let start = loop {
            if std::mem::take(&mut self.is_parsed) {
                self.parser.clear();
            }
            let rest = &bytes[used..];
            let end = match self.parser.next_plain(rest, 0) {
                Some(end) => end,
                None => match self.parser.next(rest, 0, &LIMITS) {
                    Ok(Step::Request { end, .. } | Step::Empty { end }) => end,
                    // Places in a request are counted in 32 bits.
                    Ok(Step::More { len_min }) if len_min <= u32::MAX as usize => {
                        return (used, None);
                    }
                    Ok(Step::More { .. }) => {
                        self.lose(now, DropReason::Stream(ProtocolError::BulkLength));
                        return (bytes.len(), None);
                    }
                    // Nothing that a primary says needs quotes.
                    Ok(Step::Unquoted { .. }) => {
                        self.lose(now, DropReason::Stream(ProtocolError::Quotes));
                        return (bytes.len(), None);
                    }
                    Err(error) => {
                        self.lose(now, DropReason::Stream(error));
                        return (bytes.len(), None);
                    }
                },
            };
            self.is_parsed = true;
            let parser = std::mem::take(&mut self.parser);
            let outcome = self.on_command(end, Args::new(rest, parser.spans()));
            self.parser = parser;
            let start = used;
            used += end;
            match outcome {
                Outcome::Frame => break start,
                Outcome::Nothing => {}
                Outcome::Unit(frames) => {
                    let end = self.handed;
                    return (used, Some(Event::Unit { end, frames }));
                }
                Outcome::Broken(reason) => {
                    self.lose(now, reason);
                    return (bytes.len(), None);
                }
            }
        };
        let (end, db) = (self.handed, self.db());
        let args = Args::new(&bytes[start..], self.parser.spans());
        (used, Some(Event::Frame { end, db, args }))
    }

    fn db(&self) -> u64 {
        match &self.phase {
            Phase::Streaming(streaming) => streaming.db,
            _ => 0,
        }
    }

    /// Takes in one command of `len` bytes; none is left where only a line end came.
    #[inline]
    fn on_command(&mut self, len: usize, args: Args<'_>) -> Outcome {
        let Phase::Streaming(streaming) = &mut self.phase else {
            return Outcome::Nothing;
        };
        let before = streaming.read;
        streaming.read += len as u64;
        let outcome = match word(args) {
            Word::Nothing => Outcome::Nothing,
            Word::GetAck => {
                self.ack_at = Some(before);
                Outcome::Nothing
            }
            Word::Select => match args.get(1).and_then(decimal) {
                Some(db) => {
                    streaming.db = db;
                    Outcome::Nothing
                }
                None => Outcome::Broken(DropReason::Select),
            },
            // Primaries before 7.0 put a MULTI into a MULTI, and an EXEC behind the last one. Their replicas
            // answer both with an error that nobody reads.
            Word::Multi => {
                streaming.unit.get_or_insert_default();
                Outcome::Nothing
            }
            Word::Exec => match streaming.unit.take() {
                Some(frames) if !frames.is_empty() => Outcome::Unit(frames),
                _ => Outcome::Nothing,
            },
            Word::Other => match &mut streaming.unit {
                Some(frames) => {
                    frames.push((streaming.db, OwnedArgs::copy(args.iter())));
                    Outcome::Nothing
                }
                None => Outcome::Frame,
            },
        };
        if streaming.unit.is_none()
            && let Some(place) = &mut self.place
        {
            if matches!(outcome, Outcome::Frame | Outcome::Unit(_)) {
                if self.applied >= self.handed {
                    // What lies between needs no applying.
                    self.applied = place.offset;
                }
                self.handed = streaming.read;
            }
            (place.offset, place.db) = (streaming.read, streaming.db);
        }
        outcome
    }

    fn acknowledge(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Streaming(_)) {
            return;
        }
        let applied = self.applied();
        let is_asked = self.ack_at.is_some_and(|at| applied >= at);
        if is_asked || now >= self.acked_at + ACK_EVERY_MS {
            if is_asked {
                self.ack_at = None;
            }
            self.acked_at = now;
            let applied = applied.to_string();
            write_command(
                &mut self.outgoing,
                &[b"REPLCONF", b"ACK", applied.as_bytes()],
            );
        }
    }

    fn check_timers(&mut self, now: u64) {
        let reason = match &self.phase {
            Phase::Waiting { .. } => return,
            Phase::Connecting { since } if now >= since + CONNECT_MS => DropReason::Unreachable,
            // Then it is us who are slow.
            Phase::Connecting { .. } | Phase::Loading { .. } => return,
            _ if self.heard.is_some_and(|heard| now >= heard + SILENCE_MS) => DropReason::Silent,
            _ => return,
        };
        self.drop_link(now, reason);
    }

    /// The stream cannot be read: what comes at this place of it is not to be asked for again.
    fn lose(&mut self, now: u64, reason: DropReason) {
        if let Phase::Streaming(streaming) = &self.phase
            && now > streaming.since + SILENCE_MS
        {
            self.failures = 0;
        }
        self.place = None;
        self.previous = None;
        self.drop_link(now, reason);
    }

    fn drop_link(&mut self, now: u64, reason: DropReason) {
        let delay = match (&self.phase, &reason) {
            (Phase::Streaming(_), DropReason::Closed | DropReason::Silent) => {
                self.failures = 0;
                RETRY_MS
            }
            (_, DropReason::Data(_)) => DATA_RETRY_MS << self.failures.min(BACKOFF_MAX),
            // It will be back.
            (_, DropReason::Unreachable | DropReason::Refused(_)) => {
                RETRY_MS << self.failures.min(BACKOFF_SHORT)
            }
            _ => RETRY_MS << self.failures.min(BACKOFF_MAX),
        };
        self.failures += 1;
        let retry_at = now + delay;
        self.phase = Phase::Waiting { until: retry_at };
        self.parser.clear();
        self.outgoing.clear();
        self.ack_at = None;
        self.down_since = self.down_since.or(Some(now));
        self.last_drop = Some(reason.clone());
        self.dropped = Some(Action::Drop { reason, retry_at });
    }
}

/// Commands of the stream that the link itself heeds.
enum Word {
    Nothing,
    GetAck,
    Select,
    Multi,
    Exec,
    Other,
}

#[inline]
fn word(args: Args<'_>) -> Word {
    let Some(name) = args.get(0) else {
        return Word::Nothing;
    };
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    match name.len() {
        4 if is("PING") => Word::Nothing,
        4 if is("EXEC") => Word::Exec,
        5 if is("MULTI") => Word::Multi,
        6 if is("SELECT") => Word::Select,
        8 if is("REPLCONF") => match args.get(1) {
            Some(word) if word.eq_ignore_ascii_case(b"GETACK") => Word::GetAck,
            _ => Word::Nothing,
        },
        _ => Word::Other,
    }
}

/// Where `mark` begins in `bytes`.
fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let (first, mut from) = (*mark.first()?, 0);
    loop {
        let end = (bytes.len() + 1)
            .checked_sub(mark.len())
            .filter(|end| *end > from)?;
        let at = from + bytes[from..end].iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(mark) {
            return Some(at);
        }
        from = at + 1;
    }
}

const LIMITS: ParseLimits = ParseLimits {
    is_unknown: false,
    bulk_len_max: i32::MAX as usize,
    args_max: i32::MAX as usize,
};
const MARK_LEN: usize = 40;
/// Longest line of an answer.
const LINE_MAX: usize = 16 << 10;
/// Bytes of a strange answer that are shown.
const SHOWN: usize = 200;
/// Redis counts in signed numbers.
const OFFSET_MAX: u64 = i64::MAX as u64 / 2;
const CONNECT_MS: u64 = 5000;
/// Six of its pings missed.
const SILENCE_MS: u64 = 60_000;
const ACK_EVERY_MS: u64 = 1000;
const RETRY_MS: u64 = 250;
const DATA_RETRY_MS: u64 = 1000;
/// A delay is doubled so often: up to 8 s, 32 s for data.
const BACKOFF_MAX: u32 = 5;
/// Up to a second.
const BACKOFF_SHORT: u32 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";
    const OTHER: &str = "abcdefghijabcdefghijabcdefghijabcdefghij";

    /// A link, its clock, and what it said since the last look.
    struct Bench {
        link: Psync,
        now: u64,
        log: Vec<String>,
        /// Bytes that were fed and not used.
        rest: Vec<u8>,
        /// Data sets are loaded as soon as they have arrived.
        loads: bool,
    }

    impl Bench {
        fn new(login: Option<Login>) -> Self {
            Self {
                link: Psync::new(6004, login, 1000),
                now: 1000,
                log: Vec::new(),
                rest: Vec::new(),
                loads: true,
            }
        }

        /// A link that has introduced itself and asked to follow.
        fn asking() -> Self {
            let mut bench = Self::new(None);
            bench.ask();
            bench.take();
            bench
        }

        /// One that streams from offset 100 on.
        fn streaming() -> Self {
            let mut bench = Self::asking();
            bench.feed(format!("+FULLRESYNC {ID} 100\r\n$3\r\nRDB").as_bytes());
            bench.take();
            bench
        }

        fn ask(&mut self) {
            self.poll();
            self.link.on_connected(self.now);
            self.poll();
            self.feed(b"+PONG\r\n+OK\r\n+OK\r\n");
        }

        fn feed(&mut self, bytes: &[u8]) {
            self.rest.extend_from_slice(bytes);
            loop {
                let (used, event) = self.link.feed(self.now, &self.rest);
                let mut is_loaded = false;
                let (line, through) = match event {
                    None => (None, None),
                    Some(Event::Resumed) => (Some("resumed".into()), None),
                    Some(Event::SyncBegin) => (Some("sync".into()), None),
                    Some(Event::Rdb(piece)) => {
                        let text = String::from_utf8_lossy(piece).into_owned();
                        (Some(format!("rdb {text}")), None)
                    }
                    Some(Event::RdbEnd) => {
                        is_loaded = self.loads;
                        (Some("rdb end".into()), None)
                    }
                    Some(Event::Frame { end, db, args }) => {
                        (Some(format!("{end} {}", frame(db, args))), Some(end))
                    }
                    Some(Event::Unit { end, frames }) => {
                        let frames = frames.iter().map(|(db, args)| frame(*db, args.as_args()));
                        let text = frames.collect::<Vec<_>>().join(", ");
                        (Some(format!("{end} [{text}]")), Some(end))
                    }
                };
                let is_over = line.is_none();
                // Pieces of a file are one, however they came.
                match (self.log.last_mut(), line) {
                    (Some(last), Some(line))
                        if last.starts_with("rdb ")
                            && line.starts_with("rdb ")
                            && line != "rdb end" =>
                    {
                        last.push_str(&line[4..]);
                    }
                    (_, line) => self.log.extend(line),
                }
                self.rest.drain(..used);
                if let Some(end) = through {
                    self.link.applied_through(end);
                }
                if is_loaded {
                    self.link.loaded(self.now, None);
                }
                if is_over {
                    break;
                }
            }
            self.poll();
        }

        fn poll(&mut self) {
            while let Some(action) = self.link.poll(self.now) {
                self.log.push(match action {
                    Action::Connect => "connect".into(),
                    Action::Send(bytes) => {
                        let text = String::from_utf8(bytes).expect("text");
                        let words = text
                            .split("\r\n")
                            .filter(|word| !word.starts_with(['*', '$']));
                        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
                        format!("send {}", words.join(" "))
                    }
                    Action::Drop { reason, retry_at } => {
                        self.rest.clear();
                        format!("drop {reason} +{}", retry_at - self.now)
                    }
                });
            }
        }

        fn pass(&mut self, ms: u64) {
            self.now += ms;
            self.poll();
        }

        fn close(&mut self) {
            self.link.on_closed(self.now);
            self.poll();
        }

        fn take(&mut self) -> Vec<String> {
            std::mem::take(&mut self.log)
        }

        fn place(&self) -> Option<(String, u64, u64)> {
            let place = self.link.status().place?;
            let id = String::from_utf8_lossy(&place.id).into_owned();
            Some((id, place.offset, place.db))
        }
    }

    fn frame(db: u64, args: Args<'_>) -> String {
        let words: Vec<_> = args.iter().map(String::from_utf8_lossy).collect();
        format!("{db}:{}", words.join(" "))
    }

    fn command(line: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        write_command(&mut out, &words);
        out
    }

    const HELLO: &str = "send PING REPLCONF listening-port 6004 REPLCONF capa eof capa psync2";

    #[test]
    fn a_link_without_tls_is_dropped_with_its_reason() {
        let mut bench = Bench::new(None);
        bench.poll();
        bench.take();
        bench.link.refuse_tls(bench.now, "it does not speak TLS");
        bench.link.on_closed(bench.now);
        bench.link.refuse_tls(bench.now, "again");
        let last = bench.link.status().last_drop;
        assert_eq!(last, Some(DropReason::Tls("it does not speak TLS")));
        assert_eq!(bench.link.status().state, LinkState::Waiting);
    }

    #[test]
    fn a_link_introduces_itself_and_asks_for_everything() {
        let mut bench = Bench::new(None);
        bench.poll();
        bench.link.on_connected(bench.now);
        bench.feed(b"\n\r\n+PO");
        bench.feed(b"NG\r\n-ERR no such option\r\n");
        assert_eq!(bench.take(), ["connect", HELLO]);
        bench.feed(b"+OK\r\n");
        assert_eq!(bench.take(), ["send PSYNC ? -1"]);
        assert_eq!(bench.link.status().state, LinkState::Handshake);
    }

    #[test]
    fn the_password_is_shown_behind_ping() {
        let login = Login {
            user: "me".into(),
            password: "secret".into(),
        };
        assert_eq!(format!("{login:?}"), "Login(\"me\")");
        let mut bench = Bench::new(Some(login));
        bench.poll();
        bench.link.on_connected(bench.now);
        bench.poll();
        bench.feed(b"-NOAUTH first\r\n+OK\r\n+OK\r\n+OK\r\n");
        let hello = HELLO.replace("PING", "PING AUTH me secret");
        assert_eq!(bench.take(), ["connect", &hello, "send PSYNC ? -1"]);
        let mut bench = Bench::new(Some(Login {
            user: String::new(),
            password: "wrong".into(),
        }));
        bench.poll();
        bench.link.on_connected(bench.now);
        bench.feed(b"+PONG\r\n-WRONGPASS no\r\n+OK\r\n+OK\r\n");
        let last = bench.take().pop();
        assert_eq!(
            last.as_deref(),
            Some("drop password not accepted: -WRONGPASS no +250")
        );
    }

    #[test]
    fn a_data_set_comes_by_length_or_up_to_a_mark() {
        let mark = "m".repeat(39) + "!";
        let by_mark = format!("\n\n$EOF:{mark}\r\nmm{}RDB{mark}", "m".repeat(38));
        let want_by_mark = format!("rdb mm{}RDB", "m".repeat(38));
        for (body, want) in [
            ("\n$5\r\n\nRDB\n".to_string(), "rdb \nRDB\n".to_string()),
            (by_mark, want_by_mark),
        ] {
            for piece in [1, 7, 1000] {
                let mut bench = Bench::asking();
                let bytes = format!("\n+FULLRESYNC {ID} 100\r\n{body}");
                let bytes = [bytes.as_bytes(), &command("SET k v")].concat();
                bytes.chunks(piece).for_each(|piece| bench.feed(piece));
                let ack = "send REPLCONF ACK 100";
                let mut log = bench.take();
                log.retain(|line| !line.starts_with("send"));
                assert_eq!(
                    log,
                    ["sync", &want, "rdb end", "127 0:SET k v"],
                    "{piece} {ack}"
                );
                assert_eq!(bench.place(), Some((ID.into(), 127, 0)));
            }
        }
    }

    #[test]
    fn commands_move_the_position_at_their_ends() {
        let mut bench = Bench::streaming();
        bench.feed(&command("SELECT 3"));
        bench.feed(&command("PING"));
        assert_eq!(bench.place(), Some((ID.into(), 137, 3)));
        let set = command("SET k v");
        bench.feed(&set[..set.len() - 1]);
        assert_eq!(bench.place(), Some((ID.into(), 137, 3)));
        bench.feed(&set[set.len() - 1..]);
        assert_eq!(bench.place(), Some((ID.into(), 164, 3)));
        // Half a transaction does not count, and neither does a database selected in it.
        bench.feed(&[command("MULTI"), command("select 5"), command("DEL a")].concat());
        assert_eq!(bench.place(), Some((ID.into(), 164, 3)));
        assert_eq!(bench.take(), ["164 3:SET k v"]);
        bench.close();
        bench.pass(250);
        bench.ask();
        let asked = format!("send PSYNC {ID} 165");
        let log = bench.take();
        assert_eq!(
            log,
            ["drop closed by the primary +250", "connect", HELLO, &asked]
        );
        bench.feed(b"+CONTINUE\r\n");
        bench.feed(&[command("MULTI"), command("DEL a"), command("select 5")].concat());
        bench.feed(&[command("DEL b"), command("exec"), command("SET c d")].concat());
        let log = bench.take();
        assert_eq!(
            log,
            [
                "resumed",
                "send REPLCONF ACK 164",
                "256 [3:DEL a, 5:DEL b]",
                "283 5:SET c d"
            ]
        );
        assert_eq!(bench.place(), Some((ID.into(), 283, 5)));
    }

    #[test]
    fn a_transaction_in_a_transaction_is_part_of_it() {
        let mut bench = Bench::streaming();
        let lines = [
            "EXEC", "MULTI", "DEL a", "MULTI", "DEL b", "EXEC", "DEL c", "EXEC",
        ];
        bench.feed(
            &lines
                .iter()
                .flat_map(|line| command(line))
                .collect::<Vec<_>>(),
        );
        let log = bench.take();
        assert_eq!(log, ["198 [0:DEL a, 0:DEL b]", "218 0:DEL c"]);
        assert_eq!(bench.place(), Some((ID.into(), 232, 0)));
    }

    #[test]
    fn a_primary_may_go_on_under_another_name() {
        let mut bench = Bench::streaming();
        bench.close();
        bench.pass(250);
        bench.ask();
        bench.feed(format!("+CONTINUE {OTHER}\r\n").as_bytes());
        assert_eq!(bench.place(), Some((OTHER.into(), 100, 0)));
        let previous = bench.link.status().previous;
        assert_eq!(previous, ID.as_bytes().try_into().ok().map(|id| (id, 101)));
        bench.close();
        bench.take();
        bench.pass(250);
        bench.ask();
        assert_eq!(bench.take()[2], format!("send PSYNC {OTHER} 101"));
    }

    #[test]
    fn acknowledgements_say_what_was_applied() {
        let mut bench = Bench::asking();
        bench.feed(format!("+FULLRESYNC {ID} 100\r\n$0\r\n").as_bytes());
        assert_eq!(bench.take(), ["sync", "rdb end", "send REPLCONF ACK 100"]);
        // One frame is on its way: handed out, not applied.
        let bytes = [
            command("SET k v"),
            command("PING"),
            command("REPLCONF GETACK *"),
        ]
        .concat();
        let (used, event) = bench.link.feed(bench.now, &bytes);
        assert!(matches!(event, Some(Event::Frame { end: 127, .. })));
        let (_, event) = bench.link.feed(bench.now, &bytes[used..]);
        assert!(event.is_none());
        bench.poll();
        assert_eq!(bench.take(), [""; 0]);
        bench.pass(1000);
        assert_eq!(bench.take(), ["send REPLCONF ACK 100"]);
        bench.link.applied_through(127);
        bench.poll();
        assert_eq!(bench.take(), ["send REPLCONF ACK 178"]);
        // What was never handed out is not believed.
        bench.link.applied_through(9999);
        bench.pass(999);
        assert_eq!(bench.take(), [""; 0]);
        bench.pass(1);
        assert_eq!(bench.take(), ["send REPLCONF ACK 178"]);
    }

    #[test]
    fn a_position_outlives_a_data_set_that_breaks_off() {
        let mut bench = Bench::streaming();
        bench.loads = false;
        bench.close();
        bench.pass(250);
        bench.ask();
        bench.feed(format!("+FULLRESYNC {OTHER} 500\r\n$5\r\nRD").as_bytes());
        assert_eq!(bench.link.status().synced, (2, Some(5)));
        bench.close();
        assert_eq!(bench.place(), Some((ID.into(), 100, 0)));
        bench.take();
        // Closed while it is put in place: it is in place all the same.
        bench.pass(1000);
        bench.ask();
        bench.feed(format!("+FULLRESYNC {OTHER} 500\r\n$2\r\nRD").as_bytes());
        bench.close();
        bench.feed(b"unused");
        bench.take();
        bench.link.loaded(bench.now, Some(4));
        bench.poll();
        assert_eq!(bench.take(), ["drop closed by the primary +250"]);
        assert_eq!(bench.place(), Some((OTHER.into(), 500, 4)));
    }

    #[test]
    fn a_bad_data_set_is_asked_for_ever_more_seldom() {
        let mut bench = Bench::asking();
        bench.loads = false;
        for delay in [1, 2, 4, 8, 16, 32, 32] {
            bench.feed(format!("+FULLRESYNC {ID} 100\r\n$2\r\nRD").as_bytes());
            bench.take();
            bench.link.spoiled(bench.now, "no RDB".into());
            bench.poll();
            let want = format!("drop bad data set: no RDB +{delay}000");
            assert_eq!(bench.take(), [want]);
            assert_eq!(bench.place(), None);
            bench.pass(delay * 1000);
            bench.ask();
        }
    }

    #[test]
    fn a_stream_that_cannot_be_read_is_given_up() {
        let long = vec![b'x'; 70_000];
        for (bytes, want) in [
            (&b"*1\r\n$x\r\n"[..], "invalid bulk length"),
            (b"*99999999999\r\n", "invalid multibulk length"),
            (b"*1\r\n$9999999999\r\n", "invalid bulk length"),
            (b"*3\r\n+OK\r\n", "expected '$', got '+'"),
            (b"\"quoted\"\r\n", "unbalanced quotes in request"),
            (&long, "too big inline request"),
        ] {
            let mut bench = Bench::streaming();
            bench.feed(bytes);
            let want = format!("drop stream broken: ERR Protocol error: {want} +250");
            assert_eq!(bench.take(), [want]);
            assert_eq!(bench.place(), None);
        }
        for lines in [&["SELECT x"][..], &["MULTI", "SELECT -1"]] {
            let mut bench = Bench::streaming();
            bench.feed(
                &lines
                    .iter()
                    .flat_map(|line| command(line))
                    .collect::<Vec<_>>(),
            );
            let want = "drop stream broken: SELECT of no database +250";
            assert_eq!(bench.take(), [want]);
            // Everything is asked for again.
            bench.pass(250);
            bench.ask();
            assert_eq!(bench.take()[2], "send PSYNC ? -1");
        }
    }

    #[test]
    fn strange_answers_end_the_connection() {
        let endless = vec![b'+'; 20_000];
        for (bytes, want) in [
            (&b"-NOMASTERLINK no\r\n"[..], "refused: -NOMASTERLINK no"),
            (b"-LOADING x\r\n", "refused: -LOADING x"),
            (b"+CONTINUE\r\n", "not understood: +CONTINUE"),
            (
                b"+FULLRESYNC short 5\r\n",
                "not understood: +FULLRESYNC short 5",
            ),
            (b"+HELLO\r\n", "not understood: +HELLO"),
            (b"$5\r\n", "not understood: $5"),
            (&endless, "not understood: ++++"),
        ] {
            let mut bench = Bench::asking();
            bench.feed(bytes);
            let log = bench.take();
            assert_eq!(log.len(), 1);
            assert!(log[0].starts_with(&format!("drop {want}")), "{log:?}");
        }
        for (header, want) in [
            (&b"$12x\r\n"[..], "data set without length or mark"),
            (
                b"$99999999999999999999\r\n",
                "data set without length or mark",
            ),
            (b"$EOF:short\r\n", "data set without length or mark"),
            (b"RDB\r\n", "data set without length or mark"),
            (b"-ERR no disk\r\n", "refused: -ERR no disk"),
        ] {
            let mut bench = Bench::asking();
            bench.feed(&[format!("+FULLRESYNC {ID} 1\r\n").as_bytes(), header].concat());
            assert_eq!(bench.take(), ["sync".into(), format!("drop {want} +250")]);
        }
    }

    #[test]
    fn silence_ends_a_connection() {
        let mut bench = Bench::new(None);
        bench.poll();
        bench.pass(5000);
        assert_eq!(bench.take(), ["connect", "drop unreachable +250"]);
        let mut bench = Bench::asking();
        bench.pass(59_000);
        bench.feed(b"\n");
        bench.pass(59_999);
        assert_eq!(bench.take(), [""; 0]);
        bench.pass(1);
        assert_eq!(bench.take(), ["drop silent +250"]);
        assert_eq!(bench.link.status().down_since, Some(1000));
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_changes_nothing(
            words in prop::collection::vec(0usize..9, 0..40),
            noise in prop::collection::vec(any::<u8>(), 0..20),
            piece in 1usize..50,
        ) {
            let mut bytes = format!("+FULLRESYNC {ID} 7\r\n$3\r\nRDB").into_bytes();
            for word in words {
                let line = [
                    "SET k v", "PING", "SELECT 2", "MULTI", "EXEC", "MULTI", "DEL a b c",
                    "REPLCONF GETACK *", "INCR n",
                ][word];
                bytes.extend(command(line));
            }
            bytes.extend(noise);
            let follow = |piece: usize| {
                let mut bench = Bench::asking();
                bytes.chunks(piece).for_each(|piece| bench.feed(piece));
                bench.log.retain(|line| !line.starts_with("send"));
                (bench.take(), bench.place())
            };
            prop_assert_eq!(follow(piece), follow(bytes.len()));
        }
    }
}
