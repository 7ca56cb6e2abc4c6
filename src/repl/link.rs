//! Follows one stream of an upstream primary, kevy of any generation or ringkeep.
//!
//! How to drive a [`Link`]:
//!
//! 1. Whenever something happened, and at [`Link::deadline`], call [`Link::poll`] until it returns `None`
//!    and carry out each [`Action`].
//! 2. Report what became of [`Action::Connect`] by [`Link::on_connected`] or [`Link::on_closed`]. Where
//!    nodes have a key, [`Link::prove`] takes the place of the former.
//! 3. Hand what arrives to [`Link::feed`], in place, until it returns no event; keep the bytes it did not
//!    use and show them again with more behind them. Then poll.
//! 4. Report progress of the store by [`Link::applied_through`], and of its journal by
//!    [`Link::durable_through`]. Acknowledgements say what was applied, and to a ringkeep what is durable.
//! 5. A snapshot is handed out checked and whole. It replaces all keys of the stream. If loading fails,
//!    call [`Link::resync`].
//!
//! Three handshakes exist on the wire and none is announced. W3 primaries take six arguments, W1 and W2
//! take five; each closes the connection without a byte on the other form. W2 differs from W1 by its pings.

use std::io::Write as _;

use super::Position;
use super::source::{IMAGE, RINGKEEP};
use super::wire::{Item, Parser, WireError, WireLimits};
use crate::{
    image::{Checker, ImageError, ImageSummary},
    journal::Ancestry,
    proof::{self, Dialer, Fault, Heard},
    resp::Args,
};

/// The generations of kevy's replication protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    /// kevy 1.18 to 3.13: no generation, no pings, no acknowledgements. Also every older-form link on
    /// which no ping was seen yet.
    W1,
    /// kevy 3.14 to 3.18: pings that carry a generation, and acknowledgements.
    W2,
    /// kevy 4 and newer: the handshake carries the generation too.
    W3,
}

/// What a link is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Our own client port; part of the name that the primary shows for us.
    pub client_port: u16,
    /// Which of the upstream's streams this is; part of the name too.
    pub stream: usize,
    /// Longest snapshot image that is accepted.
    pub image_len_max: usize,
    /// How long a W2 or W3 primary may send nothing while a snapshot is due or on its way. It composes
    /// the image before it sends the first chunk, so this is longer than between pings.
    pub snapshot_silence_ms: u64,
    /// Bounds on frames.
    pub wire: WireLimits,
}

impl LinkConfig {
    /// The usual limits: images up to 64 GiB, 10 seconds for the primary to begin sending one.
    pub fn new(client_port: u16, stream: usize) -> Self {
        Self {
            client_port,
            stream,
            image_len_max: 64 << 30,
            snapshot_silence_ms: 10_000,
            wire: WireLimits::default(),
        }
    }
}

/// What the shell has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Open a connection to the stream's port.
    Connect,
    /// Send these bytes on it.
    Send(Vec<u8>),
    /// Close the connection, or give up opening it, and forget bytes that were not used. The link connects
    /// again at `retry_at`.
    Drop {
        /// Why; for the log and for `INFO`.
        reason: DropReason,
        /// When it will connect again.
        retry_at: u64,
    },
}

/// What arrived.
#[derive(Debug)]
pub enum Event<'a> {
    /// The primary accepted us.
    Up {
        /// Which protocol it speaks; W2 is told from W1 only by its first ping.
        wire: Wire,
        /// A snapshot must come before any frame.
        awaits_snapshot: bool,
        /// The database that the next frame is in, if the primary is a ringkeep: it sends frames of all.
        database: Option<u64>,
    },
    /// The stream begins at its first frame without a snapshot (W1 and W2 only). What the node holds of
    /// this stream belongs to another history: remove those keys before the next frame.
    HistoryStart,
    /// A snapshot began. What the node holds stays valid until [`Event::Snapshot`].
    SnapshotBegin,
    /// A snapshot arrived and its structure is good: replace all keys of this stream by it.
    Snapshot(Box<Image>),
    /// The frames that follow, up to an offset, are whole units: none of them is to be fed before all are
    /// here.
    Units(Units),
    /// Apply this command. Unknown commands, and those that fail, are to be ignored.
    Frame {
        /// Its offset; the one after it is what [`Link::applied_through`] takes once it is applied.
        offset: u64,
        /// The command.
        args: Args<'a>,
    },
}

/// Frames of a ringkeep that come together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Units {
    /// The offset behind the last of them.
    pub end: u64,
    /// Their bytes.
    pub len: usize,
    /// The CRC-32 of these.
    pub sum: u32,
    /// Some of them can only be applied together.
    pub is_joined: bool,
    /// Streams and their offsets at which parts of the same unit begin, this one's among them; none if it
    /// has no other parts.
    pub participants: Vec<(u64, u64)>,
}

/// A checked snapshot image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The image, to be read by [`ImageReader`](crate::image::ImageReader).
    pub bytes: Vec<u8>,
    /// What is in it.
    pub summary: ImageSummary,
    /// Where the stream goes on behind it.
    pub position: Position,
    /// Other streams, and where they have to be for the copy to be a state that ever was: parts of units that
    /// are in the image are below that. A ringkeep alone tells.
    pub needs: Vec<(u64, u64)>,
}

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// It could not be opened, or not within five seconds.
    Unreachable,
    /// The primary closed it instead of answering the handshake: it is no replication port, or speaks
    /// another generation. The next attempt uses the other form.
    Refused,
    /// No answer to the handshake within fifteen seconds.
    AckTimeout,
    /// The answer has the form of another generation than the question.
    AckForm,
    /// The primary closed it.
    Closed,
    /// The primary was silent for longer than its pings allow.
    Silent,
    /// The primary broke the protocol.
    Wire(WireError),
    /// A frame is missing, or came twice.
    Gap {
        /// The offset that should have come.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// A frame came where a snapshot was due.
    SnapshotMissing,
    /// The primary is on another history than the one this session follows.
    GenerationChanged,
    /// The primary's next frame is one that we have already: it is on another history. All is asked for.
    Ahead {
        /// The primary's next offset.
        next: u64,
        /// Ours.
        expected: u64,
    },
    /// The snapshot is faulty. All is asked for again, with growing delay.
    BadImage(ImageError),
    /// The snapshot is longer than allowed. Tried again with growing delay.
    ImageTooLong,
    /// Frames are not those that were sent.
    Damaged,
    /// [`Link::resync`] was called.
    Resync,
    /// The primary does not prove the key of the nodes, or is not content with ours.
    Key(Fault),
    /// TLS cannot be spoken with the primary, for this reason.
    Tls(&'static str),
}

impl DropReason {
    /// Does what answered speak something else than replication?
    pub fn is_no_stream(self) -> bool {
        matches!(self, Self::Wire(WireError::AckMissing))
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable => out.write_str("unreachable"),
            Self::Refused => out.write_str("closed instead of answering the handshake"),
            Self::AckTimeout => out.write_str("no answer to the handshake"),
            Self::AckForm => out.write_str("handshake answered in another form"),
            Self::Closed => out.write_str("closed by the primary"),
            Self::Silent => out.write_str("silent"),
            Self::Wire(error) => write!(out, "protocol broken: {error}"),
            Self::Gap { expected, got } => write!(out, "frame {got} came where {expected} was due"),
            Self::SnapshotMissing => out.write_str("frame came where a snapshot was due"),
            Self::GenerationChanged => out.write_str("primary changed its history"),
            Self::Ahead { next, expected } => {
                write!(
                    out,
                    "primary is at {next}, behind our {expected}: another history"
                )
            }
            Self::BadImage(error) => write!(out, "bad snapshot: {error}"),
            Self::ImageTooLong => out.write_str("snapshot longer than allowed"),
            Self::Damaged => out.write_str("frames were damaged on the way"),
            Self::Resync => out.write_str("full resync wanted"),
            Self::Key(fault) => out.write_str(fault.text()),
            Self::Tls(why) => out.write_str(why),
        }
    }
}

/// Where a link stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Waits before the next attempt.
    Waiting,
    /// Opens a connection.
    Connecting,
    /// Waits for the answer to its handshake.
    Handshake,
    /// Waits for a snapshot to begin.
    AwaitingSnapshot,
    /// Receives a snapshot.
    Snapshot,
    /// Receives frames.
    Streaming,
}

/// What `INFO` shows of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkStatus {
    /// Where it stands.
    pub state: LinkState,
    /// It streams, and the primary was heard within the last three seconds if it is one that pings.
    pub is_up: bool,
    /// Which protocol the primary speaks, while connected.
    pub wire: Option<Wire>,
    /// What has been received; a reconnect goes on from here.
    pub received: Position,
    /// What has been applied of that history; `None` while its snapshot is being loaded.
    pub applied: Option<u64>,
    /// The primary's next offset, by its last ping.
    pub upstream_next: Option<u64>,
    /// Frames between the primary's last ping and what was applied.
    pub lag: Option<u64>,
    /// Ms since anything arrived.
    pub last_io_age: Option<u64>,
    /// When the primary last said where it is, so that all of that was applied since.
    pub fresh_at: Option<u64>,
    /// Bytes of the snapshot that have arrived.
    pub image_len: usize,
    /// Connections lost or not made.
    pub drop_count: u64,
    /// Why the last of them ended.
    pub last_drop: Option<DropReason>,
}

/// One upstream stream. See the module's page for how to drive it.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    parser: Parser,
    phase: Phase,
    /// Which handshake comes next.
    form: Form,
    /// What our data is. Moves only with frames that fit it and with complete snapshots: a snapshot that
    /// breaks off must leave the old position, or a primary could take us for caught up.
    position: Position,
    /// Which protocol `position` came from. It means nothing to a primary of another.
    learned: Option<Wire>,
    /// The histories that the primary's goes on from.
    ancestry: Ancestry,
    /// The primary places keys by slots.
    has_slots: bool,
    applied: Option<u64>,
    /// What of that is durable, if anybody keeps it.
    durable: Option<u64>,
    acked: (u64, Option<u64>, Option<u64>),
    /// Acknowledgements are of the epoch of this primary.
    epoch: Option<u64>,
    /// The primary asked when its next offset was this one; it hears at once when all of that is applied, and
    /// again when it is durable.
    asked: Option<u64>,
    asked_disk: Option<u64>,
    acked_at: u64,
    ack_due: bool,
    outgoing: Option<Vec<u8>>,
    dropped: Option<Action>,
    last_io: Option<u64>,
    upstream_next: Option<u64>,
    /// When all that was applied was all that there was.
    fresh_at: Option<u64>,
    /// The primary's next offset by a ping, and when it came: not all of that is applied yet.
    behind: Option<(u64, u64)>,
    /// The last snapshot did not become whole.
    is_torn: bool,
    /// The connection was lost while this came.
    kept: Option<Incoming>,
    image_failures: u32,
    gap_count: u32,
    drop_count: u64,
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
    /// The key of the nodes comes before everything else.
    Proving {
        since: u64,
        dialer: Box<Dialer>,
    },
    Handshake {
        since: u64,
        asked: Asked,
        heard: bool,
    },
    Session(Session),
}

/// What the handshake named.
#[derive(Clone, Copy, Debug)]
struct Asked {
    position: Position,
    /// It is where our data is, and not just a request for everything.
    is_ours: bool,
}

#[derive(Debug)]
struct Session {
    wire: Wire,
    /// 0 until it is known.
    generation: u64,
    expected: u64,
    awaits_snapshot: bool,
    /// The first frame will be the first of its history, on a link that clears nothing by itself.
    starts_history: bool,
    /// The primary is a ringkeep.
    is_ringkeep: bool,
    /// Frames below this offset belong to the snapshot before them.
    behind: u64,
    began: u64,
    snapshot: Option<Incoming>,
}

#[derive(Debug, Default)]
struct Incoming {
    /// Its name, if the primary is a ringkeep.
    ship: Option<u64>,
    bytes: Vec<u8>,
    /// Bytes that the primary was told to be here.
    told: usize,
    checker: Checker,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Six,
    Five,
}

/// What an item led to.
enum Outcome {
    Nothing,
    Dropped,
    /// The item is to be parsed again after this event.
    Before(Event<'static>),
    Event(Event<'static>),
    Frame(u64),
}

impl Link {
    /// A link that connects at once. `position` and `learned` come from an earlier link to the same
    /// upstream, if our data is what it left; otherwise [`Position::UNKNOWN`] and `None`.
    pub fn new(config: LinkConfig, position: Position, learned: Option<Wire>) -> Self {
        let form = match learned {
            None | Some(Wire::W3) => Form::Six,
            Some(Wire::W1 | Wire::W2) => Form::Five,
        };
        Self {
            parser: Parser::new(config.wire),
            config,
            phase: Phase::Waiting { until: 0 },
            form,
            position: if learned.is_some() {
                position
            } else {
                Position::UNKNOWN
            },
            learned,
            ancestry: Ancestry::default(),
            has_slots: false,
            applied: learned.map(|_| position.offset),
            durable: None,
            acked: (0, None, None),
            epoch: None,
            asked: None,
            asked_disk: None,
            acked_at: 0,
            ack_due: false,
            outgoing: None,
            dropped: None,
            last_io: None,
            upstream_next: None,
            fresh_at: None,
            behind: None,
            is_torn: false,
            kept: None,
            image_failures: 0,
            gap_count: 0,
            drop_count: 0,
            last_drop: None,
        }
    }

    /// The name under which the primary knows this link.
    pub fn replica_id(&self) -> String {
        let part = match &self.kept {
            Some(Incoming {
                ship: Some(ship),
                bytes,
                ..
            }) => format!("{IMAGE}{ship},{}", bytes.len()),
            _ => String::new(),
        };
        format!(
            "kevy-replica-{}#{}{part}{RINGKEEP}",
            self.config.client_port, self.config.stream
        )
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
        if let Some(bytes) = self.outgoing.take() {
            return Some(Action::Send(bytes));
        }
        self.poll_ack(now).map(Action::Send)
    }

    /// When to call [`poll`](Self::poll) if nothing happens before. `None`: not until something does.
    pub fn deadline(&self) -> Option<u64> {
        match &self.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Connecting { since } => Some(since + CONNECT_MS),
            Phase::Proving { since, .. } => Some(since + proof::PATIENCE_MS),
            Phase::Handshake { since, .. } => Some(since + ACK_WAIT_MS),
            Phase::Session(session) => {
                let silence = self
                    .silence_limit(session)
                    .map(|limit| self.heard_at(session) + limit);
                let ack = self
                    .owes_ack(session)
                    .then_some(self.acked_at + ACK_EVERY_MS);
                match (silence, ack) {
                    (Some(silence), Some(ack)) => Some(silence.min(ack)),
                    (silence, ack) => silence.or(ack),
                }
            }
        }
    }

    /// The connection is open. Ignored unless one was asked for.
    pub fn on_connected(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Connecting { .. } | Phase::Proving { .. }) {
            return;
        }
        self.parser.reset();
        let is_ours = match self.form {
            Form::Six => self.learned == Some(Wire::W3),
            Form::Five => matches!(self.learned, Some(Wire::W1 | Wire::W2)),
        };
        let position = if is_ours {
            self.position
        } else {
            Position::UNKNOWN
        };
        self.outgoing = Some(handshake(self.form, position, &self.replica_id()));
        let asked = Asked { position, is_ours };
        self.phase = Phase::Handshake {
            since: now,
            asked,
            heard: false,
        };
    }

    /// The connection is open, and the key of the nodes is proven on it first.
    pub fn prove(&mut self, now: u64, dialer: Dialer) {
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.outgoing = Some(dialer.hello().into());
            let dialer = Box::new(dialer);
            self.phase = Phase::Proving { since: now, dialer };
        }
    }

    /// Has the key not been proven yet?
    pub fn is_proving(&self) -> bool {
        matches!(self.phase, Phase::Proving { .. })
    }

    /// The key cannot be proven.
    pub fn refuse(&mut self, now: u64, fault: Fault) {
        self.drop_for(now, DropReason::Key(fault), KEY_RETRY_MS);
    }

    /// There is no TLS with the primary.
    pub fn refuse_tls(&mut self, now: u64, why: &'static str) {
        if !matches!(self.phase, Phase::Waiting { .. }) {
            self.drop_for(now, DropReason::Tls(why), KEY_RETRY_MS);
        }
    }

    fn hear_proof(&mut self, now: u64, bytes: &[u8]) {
        let Phase::Proving { dialer, .. } = &mut self.phase else {
            return;
        };
        match dialer.hear(bytes) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Say(line)) => self.outgoing = Some(line.into()),
            Ok(Heard::Proven(_)) => self.on_connected(now),
            Err(fault) => self.refuse(now, fault),
        }
    }

    /// The connection could not be opened, or was closed by the other side.
    pub fn on_closed(&mut self, now: u64) {
        match self.phase {
            Phase::Waiting { .. } => {}
            Phase::Connecting { .. } => self.drop_link(now, DropReason::Unreachable),
            Phase::Proving { .. } => self.drop_link(now, DropReason::Key(Fault::Closed)),
            Phase::Handshake { heard: false, .. } => {
                self.form = match self.form {
                    Form::Six => Form::Five,
                    Form::Five => Form::Six,
                };
                self.drop_link(now, DropReason::Refused);
            }
            Phase::Handshake { .. } | Phase::Session(_) => self.drop_link(now, DropReason::Closed),
        }
    }

    /// Takes what arrived, up to the first event. Returns how many bytes were used and the event; without
    /// one, more bytes are needed, or [`poll`](Self::poll) says that the link is dropped.
    pub fn feed<'a>(&'a mut self, now: u64, bytes: &'a [u8]) -> (usize, Option<Event<'a>>) {
        match &mut self.phase {
            Phase::Waiting { .. } | Phase::Connecting { .. } => return (bytes.len(), None),
            Phase::Proving { .. } => {
                self.hear_proof(now, bytes);
                return (bytes.len(), None);
            }
            Phase::Handshake { heard: false, .. } if proof::wants_key(bytes) => {
                self.refuse(now, Fault::Wanted);
                return (bytes.len(), None);
            }
            Phase::Handshake { heard, .. } => *heard |= !bytes.is_empty(),
            Phase::Session(_) => {}
        }
        if !bytes.is_empty() {
            self.last_io = Some(now);
        }
        let mut used = 0;
        let (start, offset) = loop {
            let rest = &bytes[used..];
            let step = match self.parser.next(rest) {
                Ok(Some(step)) => step,
                Ok(None) => return (used, None),
                Err(error) => {
                    self.drop_link(now, DropReason::Wire(error));
                    return (bytes.len(), None);
                }
            };
            let start = used;
            used += step.used;
            match self.on_item(now, step.item, rest) {
                Outcome::Nothing => {}
                Outcome::Dropped => return (bytes.len(), None),
                Outcome::Before(event) => return (start, Some(event)),
                Outcome::Event(event) => return (used, Some(event)),
                Outcome::Frame(offset) => break (start, offset),
            }
        };
        let args = self.parser.args(&bytes[start..]);
        (used, Some(Event::Frame { offset, args }))
    }

    /// All frames below `offset` are applied, and durable where that was asked for. After a snapshot: the
    /// image is loaded. Offsets beyond what was received are ignored.
    pub fn applied_through(&mut self, offset: u64) {
        let is_news = self.applied.is_none_or(|applied| offset > applied);
        if is_news && offset <= self.position.offset {
            self.applied = Some(offset);
        }
        if self.asked.is_some_and(|asked| self.applied >= Some(asked)) {
            (self.asked, self.ack_due) = (None, true);
        }
        if let Some((next, at)) = self.behind
            && self.applied.is_some_and(|applied| applied >= next)
        {
            (self.fresh_at, self.behind) = (Some(at), None);
        }
    }

    /// All frames below `offset` would be there again after a crash. What was not applied is not counted.
    pub fn durable_through(&mut self, offset: u64) {
        let Some(applied) = self.applied else { return };
        let durable = offset.min(applied);
        self.durable = Some(self.durable.map_or(durable, |old| old.max(durable)));
        let tells = matches!(&self.phase, Phase::Session(session) if session.is_ringkeep);
        if tells && self.asked_disk.is_some_and(|asked| durable >= asked) {
            (self.asked_disk, self.ack_due) = (None, true);
        }
    }

    /// Our data is not what the stream says it is: ask for all of it again.
    pub fn resync(&mut self, now: u64) {
        self.forget_position();
        if !matches!(self.phase, Phase::Waiting { .. }) {
            self.drop_link(now, DropReason::Resync);
        }
    }

    /// Something arrived that cannot be fed yet.
    pub fn heard(&mut self, now: u64) {
        self.last_io = Some(now);
    }

    /// What [`Event::Units`] told of is not what came.
    pub fn damaged(&mut self, now: u64) {
        if !matches!(self.phase, Phase::Waiting { .. }) {
            self.drop_link(now, DropReason::Damaged);
        }
    }

    /// What has been received: where a reconnect goes on.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Are frames still to come without which the last snapshot is no state that ever was? Where the link
    /// ended before they came, another snapshot has to.
    pub fn is_behind(&self) -> bool {
        self.is_behind_at(self.position.offset)
    }

    /// The same for somebody who has what is below this offset.
    pub fn is_behind_at(&self, offset: u64) -> bool {
        let behind = match &self.phase {
            Phase::Session(session) => session.behind,
            _ => 0,
        };
        self.is_torn || offset < behind
    }

    /// Has the primary answered the handshake of this connection?
    pub fn is_in_session(&self) -> bool {
        matches!(self.phase, Phase::Session(_))
    }

    /// The history that the primary of this session is in; 0 if that is not known.
    pub fn offered(&self) -> u64 {
        match &self.phase {
            Phase::Session(session) => session.generation,
            _ => 0,
        }
    }

    /// The histories that the primary's goes on from.
    pub fn ancestry(&self) -> &Ancestry {
        &self.ancestry
    }

    /// Does the primary place keys by slots?
    pub fn has_slots(&self) -> bool {
        self.has_slots
    }

    /// What to store with the data that has been applied, for [`Link::new`] after a restart.
    pub fn applied_position(&self) -> Option<(Position, Wire)> {
        let position = Position {
            offset: self.applied?,
            ..self.position
        };
        Some((position, self.learned?))
    }

    /// What `INFO` shows.
    pub fn status(&self, now: u64) -> LinkStatus {
        let last_io_age = self.last_io.map(|at| now.saturating_sub(at));
        let (state, wire) = match &self.phase {
            Phase::Waiting { .. } => (LinkState::Waiting, None),
            Phase::Connecting { .. } => (LinkState::Connecting, None),
            Phase::Proving { .. } | Phase::Handshake { .. } => (LinkState::Handshake, None),
            Phase::Session(session) if session.snapshot.is_some() => {
                (LinkState::Snapshot, Some(session.wire))
            }
            Phase::Session(session) if session.awaits_snapshot => {
                (LinkState::AwaitingSnapshot, Some(session.wire))
            }
            Phase::Session(session) => (LinkState::Streaming, Some(session.wire)),
        };
        let is_fresh = wire == Some(Wire::W1) || last_io_age.is_some_and(|age| age < SILENCE_MS);
        let image_len = match &self.phase {
            Phase::Session(Session {
                snapshot: Some(incoming),
                ..
            }) => incoming.bytes.len(),
            _ => 0,
        };
        LinkStatus {
            state,
            is_up: state == LinkState::Streaming && is_fresh,
            wire,
            received: self.position,
            applied: self.applied,
            upstream_next: self.upstream_next,
            lag: self
                .upstream_next
                .zip(self.applied)
                .map(|(next, applied)| next.saturating_sub(applied)),
            last_io_age,
            fresh_at: self.fresh_at,
            image_len,
            drop_count: self.drop_count,
            last_drop: self.last_drop,
        }
    }

    fn on_item(&mut self, now: u64, item: Item, bytes: &[u8]) -> Outcome {
        match item {
            Item::Ack {
                generation,
                database,
                has_slots,
                ..
            } => {
                self.has_slots = has_slots;
                self.on_ack(now, generation, database)
            }
            Item::Ping { generation, next } => self.on_ping(now, generation, next),
            Item::SnapshotBegin { ship, from } => self.on_snapshot_begin(now, ship, from),
            Item::Chunk { start, end } => self.on_chunk(now, &bytes[start..end]),
            Item::SnapshotEnd { next, end } => self.on_snapshot_end(now, next, end),
            Item::Units {
                end,
                len,
                sum,
                is_joined,
            } => self.on_units(now, (end, len), sum, is_joined),
            Item::Frame { offset } => self.on_frame(now, offset),
        }
    }

    fn on_units(&mut self, now: u64, (end, len): (u64, u64), sum: u32, is_joined: bool) -> Outcome {
        let limit = self.config.image_len_max;
        let is_known = matches!(
            &self.phase,
            Phase::Session(session) if session.is_ringkeep && end > session.expected
        );
        match usize::try_from(len).ok().filter(|len| *len <= limit) {
            Some(len) if is_known => Outcome::Event(Event::Units(Units {
                end,
                len,
                sum,
                is_joined,
                participants: self.parser.pairs().to_vec(),
            })),
            _ => self.dropped(now, DropReason::Wire(WireError::BadLine)),
        }
    }

    /// The answer's offset only echoes the question, so nothing is learned from it.
    fn on_ack(&mut self, now: u64, generation: Option<u64>, database: Option<u64>) -> Outcome {
        let Phase::Handshake { asked, .. } = self.phase else {
            return Outcome::Nothing;
        };
        let (wire, generation) = match (self.form, generation) {
            (Form::Six, Some(generation)) => (Wire::W3, generation),
            // What we hold is of the generation we last saw, until a ping says otherwise.
            (Form::Five, None) => (Wire::W1, asked.position.generation),
            _ => return self.dropped(now, DropReason::AckForm),
        };
        let histories = self.parser.pairs().iter();
        let histories = histories.map(|(generation, offset)| Position {
            generation: *generation,
            offset: *offset,
        });
        self.ancestry = match database {
            Some(_) => Ancestry::of(histories.collect()),
            None => Ancestry::default(),
        };
        let is_known = asked.is_ours && self.ancestry.has(asked.position);
        if is_known {
            // The primary's history goes on from ours.
            self.position.generation = generation;
        }
        let fits = generation != 0 && (is_known || generation == asked.position.generation);
        let awaits_snapshot = wire == Wire::W3 && !fits;
        self.acked = (0, None, None);
        self.acked_at = now;
        (self.asked, self.asked_disk, self.behind) = (None, None, None);
        self.upstream_next = None;
        if !awaits_snapshot {
            self.kept = None;
        }
        self.phase = Phase::Session(Session {
            wire,
            generation,
            expected: asked.position.offset,
            awaits_snapshot,
            starts_history: wire == Wire::W1 && !asked.is_ours,
            is_ringkeep: database.is_some(),
            behind: 0,
            began: now,
            snapshot: None,
        });
        Outcome::Event(Event::Up {
            wire,
            awaits_snapshot,
            database,
        })
    }

    fn on_ping(&mut self, now: u64, generation: u64, next: u64) -> Outcome {
        let Phase::Session(session) = &mut self.phase else {
            return Outcome::Nothing;
        };
        if session.wire == Wire::W1 {
            session.wire = Wire::W2;
        }
        if session.generation == 0 {
            session.generation = generation;
            if !session.awaits_snapshot && !session.starts_history && session.snapshot.is_none() {
                self.position.generation = generation;
            }
        } else if generation != 0 && generation != session.generation {
            // W3 primaries compare generations themselves. To the others an old offset would look valid.
            if session.wire != Wire::W3 {
                self.forget_position();
            }
            return self.dropped(now, DropReason::GenerationChanged);
        }
        let expected = session.expected;
        let is_streaming = !session.awaits_snapshot && session.snapshot.is_none();
        if next < expected && is_streaming {
            self.forget_position();
            return self.dropped(now, DropReason::Ahead { next, expected });
        }
        if self.learned == Some(Wire::W1) {
            self.learned = Some(Wire::W2);
        }
        self.upstream_next = Some(next);
        self.ack_due = true;
        self.asked = (self.applied.unwrap_or(0) < next).then_some(next);
        self.asked_disk = Some(next);
        // A stream on which nothing has happened yet has nothing to apply.
        if is_streaming && self.applied.unwrap_or(0) >= next {
            (self.fresh_at, self.behind) = (Some(now), None);
        } else {
            self.behind.get_or_insert((next, now));
        }
        Outcome::Nothing
    }

    fn on_snapshot_begin(&mut self, now: u64, ship: Option<u64>, from: u64) -> Outcome {
        let Phase::Session(session) = &mut self.phase else {
            return Outcome::Nothing;
        };
        let is_kept = |kept: &Incoming| kept.ship == ship && kept.bytes.len() as u64 == from;
        let incoming = match self.kept.take() {
            Some(kept) if from > 0 && is_kept(&kept) => kept,
            _ if from > 0 => return self.dropped(now, DropReason::Wire(WireError::BadLine)),
            _ => Incoming {
                ship: ship.filter(|_| session.is_ringkeep),
                ..Incoming::default()
            },
        };
        session.snapshot = Some(incoming);
        // Without one in the handshake, the next ping names the generation that the image belongs to.
        if session.wire != Wire::W3 {
            session.generation = 0;
        }
        Outcome::Event(Event::SnapshotBegin)
    }

    fn on_chunk(&mut self, now: u64, piece: &[u8]) -> Outcome {
        let Phase::Session(Session {
            snapshot: Some(incoming),
            ..
        }) = &mut self.phase
        else {
            return Outcome::Nothing;
        };
        if piece.len()
            > self
                .config
                .image_len_max
                .saturating_sub(incoming.bytes.len())
        {
            return self.dropped_image(now, DropReason::ImageTooLong);
        }
        incoming.bytes.extend_from_slice(piece);
        if incoming.ship.is_some() && incoming.bytes.len() >= incoming.told + IMAGE_TOLD_EVERY {
            incoming.told = incoming.bytes.len();
            self.ack_due = true;
        }
        match incoming.checker.feed(&incoming.bytes) {
            Ok(()) => Outcome::Nothing,
            Err(error) => self.dropped_image(now, DropReason::BadImage(error)),
        }
    }

    fn on_snapshot_end(&mut self, now: u64, next: u64, end: Option<u64>) -> Outcome {
        let Phase::Session(session) = &mut self.phase else {
            return Outcome::Nothing;
        };
        let Some(incoming) = session.snapshot.take() else {
            return Outcome::Nothing;
        };
        let summary = match incoming.checker.finish(&incoming.bytes) {
            Ok(summary) => summary,
            Err(error) => return self.dropped_image(now, DropReason::BadImage(error)),
        };
        session.expected = next;
        session.behind = end.unwrap_or(next);
        self.is_torn = false;
        session.awaits_snapshot = false;
        session.starts_history = false;
        let position = Position {
            generation: session.generation,
            offset: next,
        };
        self.position = position;
        self.learned = Some(session.wire);
        (self.applied, self.durable) = (None, None);
        self.image_failures = 0;
        self.gap_count = 0;
        Outcome::Event(Event::Snapshot(Box::new(Image {
            bytes: incoming.bytes,
            summary,
            position,
            needs: self.parser.pairs().to_vec(),
        })))
    }

    #[inline]
    fn on_frame(&mut self, now: u64, offset: u64) -> Outcome {
        let Phase::Session(session) = &mut self.phase else {
            return Outcome::Nothing;
        };
        let expected = session.expected;
        if session.awaits_snapshot {
            return self.dropped(now, DropReason::SnapshotMissing);
        }
        if offset != expected {
            return self.dropped_gap(
                now,
                DropReason::Gap {
                    expected,
                    got: offset,
                },
            );
        }
        if session.starts_history {
            session.starts_history = false;
            self.position = Position {
                generation: session.generation,
                offset,
            };
            self.learned = Some(session.wire);
            (self.applied, self.durable) = (Some(offset), None);
            return Outcome::Before(Event::HistoryStart);
        }
        session.expected = offset + 1;
        self.position.offset = offset + 1;
        self.gap_count = 0;
        Outcome::Frame(offset)
    }

    fn poll_ack(&mut self, now: u64) -> Option<Vec<u8>> {
        let Phase::Session(session) = &self.phase else {
            return None;
        };
        let is_due =
            self.ack_due || (self.owes_ack(session) && now >= self.acked_at + ACK_EVERY_MS);
        if !is_due {
            return None;
        }
        // While the image is on its way or being loaded, nothing of this history is applied.
        let is_ours = !session.awaits_snapshot && session.snapshot.is_none();
        self.acked = match is_ours {
            true => (
                self.applied.unwrap_or(0),
                self.tells_durable(session),
                self.tells_epoch(session),
            ),
            false => (0, None, None),
        };
        self.acked_at = now;
        self.ack_due = false;
        let mut line = Vec::with_capacity(64);
        // Writing to a Vec cannot fail.
        let (applied, durable, epoch) = self.acked;
        let _ = write!(line, "REPLCONF ACK {applied}");
        if let Some(durable) = durable {
            let _ = write!(line, " FACK {durable}");
        }
        if let Some(epoch) = epoch {
            let _ = write!(line, " EPOCH {epoch}");
        }
        if let Some(Incoming {
            ship: Some(_),
            bytes,
            ..
        }) = &session.snapshot
        {
            let _ = write!(line, " IMAGE {}", bytes.len());
        }
        line.extend(b"\r\n");
        Some(line)
    }

    /// There is news that the primary can read. W1 primaries read nothing, and W2 ones show themselves by
    /// their first ping.
    fn owes_ack(&self, session: &Session) -> bool {
        session.wire != Wire::W1
            && !session.awaits_snapshot
            && session.snapshot.is_none()
            && self.applied.is_some_and(|applied| {
                let (durable, epoch) = (self.tells_durable(session), self.tells_epoch(session));
                (applied, durable, epoch) != self.acked
            })
    }

    /// What it is told of durability: nobody but a ringkeep can read that.
    fn tells_durable(&self, session: &Session) -> Option<u64> {
        self.durable.filter(|_| session.is_ringkeep)
    }

    /// And of elections.
    fn tells_epoch(&self, session: &Session) -> Option<u64> {
        self.epoch.filter(|_| session.is_ringkeep)
    }

    /// Acknowledgements are to a primary of this epoch; of none if that is not known yet.
    pub fn acknowledge_for(&mut self, epoch: Option<u64>) {
        self.epoch = epoch;
    }

    fn check_timers(&mut self, now: u64) {
        let reason = match &self.phase {
            Phase::Waiting { .. } => return,
            Phase::Connecting { since } if now >= since + CONNECT_MS => DropReason::Unreachable,
            Phase::Proving { since, .. } if now >= since + proof::PATIENCE_MS => {
                return self.refuse(now, Fault::Late);
            }
            Phase::Handshake { since, .. } if now >= since + ACK_WAIT_MS => DropReason::AckTimeout,
            Phase::Session(session) => match self.silence_limit(session) {
                Some(limit) if now >= self.heard_at(session) + limit => DropReason::Silent,
                _ => return,
            },
            _ => return,
        };
        self.drop_link(now, reason);
    }

    /// How long the primary may be silent. W1 primaries send nothing unless something is written.
    fn silence_limit(&self, session: &Session) -> Option<u64> {
        let composes = session.awaits_snapshot || session.snapshot.is_some();
        match session.wire {
            Wire::W1 => None,
            Wire::W2 | Wire::W3 if composes => Some(self.config.snapshot_silence_ms),
            Wire::W2 | Wire::W3 if self.upstream_next.is_none() => {
                Some(self.config.snapshot_silence_ms)
            }
            Wire::W2 | Wire::W3 => Some(SILENCE_MS),
        }
    }

    fn heard_at(&self, session: &Session) -> u64 {
        self.last_io
            .map_or(session.began, |at| at.max(session.began))
    }

    fn forget_position(&mut self) {
        self.position = Position::UNKNOWN;
        self.learned = None;
        (self.applied, self.durable) = (None, None);
    }

    fn dropped(&mut self, now: u64, reason: DropReason) -> Outcome {
        self.drop_link(now, reason);
        Outcome::Dropped
    }

    /// The primary composes an image for each attempt, so attempts become rare.
    fn dropped_image(&mut self, now: u64, reason: DropReason) -> Outcome {
        if let DropReason::BadImage(_) = reason {
            self.forget_position();
        }
        let delay = RETRY_MS << self.image_failures.min(IMAGE_BACKOFF_MAX);
        self.image_failures += 1;
        self.drop_for(now, reason, delay);
        Outcome::Dropped
    }

    /// A primary that answers a position with a gap again and again does not hold that history.
    fn dropped_gap(&mut self, now: u64, reason: DropReason) -> Outcome {
        self.gap_count += 1;
        if self.gap_count >= GAPS_MAX {
            self.gap_count = 0;
            self.forget_position();
        }
        self.dropped(now, reason)
    }

    fn drop_link(&mut self, now: u64, reason: DropReason) {
        self.drop_for(now, reason, RETRY_MS);
    }

    fn drop_for(&mut self, now: u64, reason: DropReason, delay: u64) {
        if self.is_behind() {
            self.is_torn = true;
            self.forget_position();
        }
        let retry_at = now + delay;
        let phase = std::mem::replace(&mut self.phase, Phase::Waiting { until: retry_at });
        if let Phase::Session(Session {
            snapshot: Some(incoming),
            ..
        }) = phase
            && let DropReason::Closed | DropReason::Silent = reason
            && incoming.ship.is_some()
        {
            self.kept = Some(incoming);
        }
        self.outgoing = None;
        self.ack_due = false;
        self.drop_count += 1;
        self.last_drop = Some(reason);
        self.dropped = Some(Action::Drop { reason, retry_at });
    }
}

fn handshake(form: Form, asked: Position, id: &str) -> Vec<u8> {
    let generation = asked.generation.to_string();
    let offset = asked.offset.to_string();
    let six = ["REPLICATE", "FROM", &generation, &offset, "ID", id];
    let five = ["REPLICATE", "FROM", &offset, "ID", id];
    let words: &[&str] = match form {
        Form::Six => &six,
        Form::Five => &five,
    };
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes.into_bytes()
}

const CONNECT_MS: u64 = 5000;
/// A ringkeep may have to read its journal first.
const ACK_WAIT_MS: u64 = 15_000;
/// Three pings missed.
const SILENCE_MS: u64 = 3000;
const RETRY_MS: u64 = 250;
/// A key that is another one will be that a moment later, too.
const KEY_RETRY_MS: u64 = 1000;
/// 250 ms doubled so often: 16 s.
const IMAGE_BACKOFF_MAX: u32 = 6;
const ACK_EVERY_MS: u64 = 100;
const GAPS_MAX: u32 = 3;
/// The primary keeps what it has sent of an image until it hears that this is here.
const IMAGE_TOLD_EVERY: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_IMAGE: &[u8] = b"KEVYSNAP\x04\x00";

    /// A link, its clock, and what it said since the last look.
    struct Bench {
        link: Link,
        now: u64,
        log: Vec<String>,
    }

    impl Bench {
        fn new(position: Position, learned: Option<Wire>) -> Self {
            Self {
                link: Link::new(LinkConfig::new(6004, 1), position, learned),
                now: 1000,
                log: Vec::new(),
            }
        }

        fn fresh() -> Self {
            Self::new(Position::UNKNOWN, None)
        }

        /// A fresh link that has loaded an empty snapshot and stands at 7:5.
        fn streaming() -> Self {
            let mut bench = Self::fresh();
            bench.connect();
            bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n");
            bench.feed(b"$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5\r\n");
            bench.link.applied_through(5);
            bench.feed(b"+PING 7 5\r\n");
            bench.take();
            bench
        }

        fn connect(&mut self) {
            self.poll();
            self.link.on_connected(self.now);
            self.poll();
        }

        fn closed(&mut self) {
            self.link.on_closed(self.now);
            self.poll();
        }

        fn feed(&mut self, bytes: &[u8]) {
            let mut used = 0;
            loop {
                let (len, event) = self.link.feed(self.now, &bytes[used..]);
                used += len;
                let Some(event) = event else {
                    break;
                };
                self.log.push(match event {
                    Event::Up {
                        wire,
                        awaits_snapshot,
                        ..
                    } => format!("up {wire:?} {awaits_snapshot}"),
                    Event::HistoryStart => "history start".into(),
                    Event::SnapshotBegin => "snapshot begin".into(),
                    Event::Snapshot(image) => format!("snapshot {:?}", image.position),
                    Event::Units(units) => format!("units {} {}", units.end, units.len),
                    Event::Frame { offset, args } => format!("frame {offset} {}", args.len()),
                });
            }
            assert_eq!(used, bytes.len());
            self.poll();
        }

        fn frame(&mut self, offset: u64) {
            self.feed(format!("*2\r\n:{offset}\r\n*1\r\n$4\r\nPING\r\n").as_bytes());
        }

        fn pass(&mut self, ms: u64) {
            self.now += ms;
            self.poll();
        }

        fn poll(&mut self) {
            while let Some(action) = self.link.poll(self.now) {
                self.log.push(match action {
                    Action::Connect => "connect".into(),
                    Action::Send(bytes) => {
                        let text = String::from_utf8(bytes).expect("text").replace("\r\n", " ");
                        format!("send {}", text.trim_end())
                    }
                    Action::Drop { reason, retry_at } => {
                        format!("drop {reason:?} +{}", retry_at - self.now)
                    }
                });
            }
        }

        fn take(&mut self) -> Vec<String> {
            std::mem::take(&mut self.log)
        }

        fn position(&self) -> (u64, u64) {
            (self.link.position().generation, self.link.position().offset)
        }
    }

    const SIX: &str =
        "send *6 $9 REPLICATE $4 FROM $1 0 $1 0 $2 ID $29 kevy-replica-6004#1+ringkeep1";
    const FIVE: &str = "send *5 $9 REPLICATE $4 FROM $1 0 $2 ID $29 kevy-replica-6004#1+ringkeep1";

    fn dialer(secret: &[u8]) -> (Dialer, proof::Listener) {
        let key = proof::NodeKey::of_file(secret).expect("it is long enough");
        let ours = proof::NodeKey::of_file(b"0123456789abcdef").expect("it is long enough");
        let purpose = proof::Purpose::Stream(1);
        (
            Dialer::new(key, purpose, "us", None, [1; 32]),
            proof::Listener::new(ours, purpose, "them", [2; 32]),
        )
    }

    /// A link up to the answer that the primary has for its proof.
    fn proving(bench: &mut Bench, secret: &[u8]) -> Result<Heard, Fault> {
        let (dialer, mut primary) = dialer(secret);
        bench.poll();
        let hello = dialer.hello();
        bench.link.prove(bench.now, dialer);
        bench.poll();
        assert_eq!(
            bench.take(),
            ["connect".to_string(), format!("send {}", hello.trim_end())]
        );
        let Ok(Heard::Say(challenge)) = primary.hear(hello.as_bytes()) else {
            panic!("no challenge")
        };
        bench.feed(challenge.as_bytes());
        let said = bench.take().concat();
        let proof = said.strip_prefix("send ").expect("it answers");
        primary.hear(format!("{proof}\r\n").as_bytes())
    }

    #[test]
    fn nothing_is_asked_of_a_primary_before_it_has_proven_the_key() {
        let mut bench = Bench::fresh();
        let Ok(Heard::Proven(answer)) = proving(&mut bench, b"0123456789abcdef") else {
            panic!("the keys are one")
        };
        assert!(bench.link.is_proving());
        bench.feed(answer.as_bytes());
        assert_eq!(bench.take(), [SIX]);
        bench.feed(b"+ACK 7 0\r\n");
        assert_eq!(bench.take(), ["up W3 true"]);
    }

    #[test]
    fn a_link_without_a_proof_is_dropped_with_its_reason_and_tried_seldom() {
        let mut bench = Bench::fresh();
        let fault = proving(&mut bench, b"another secret key").expect_err("another key");
        bench.feed(fault.answer().expect("it is told").as_bytes());
        assert_eq!(bench.take(), ["drop Key(Refused) +1000"]);
        bench.now += 1000;
        // What the primary says is worth nothing without the proof.
        let _ = proving(&mut bench, b"0123456789abcdef");
        bench.feed(b"+ACK 7 0\r\n");
        assert_eq!(bench.take(), ["drop Key(Form) +1000"]);
        bench.now += 1000;
        let _ = proving(&mut bench, b"0123456789abcdef");
        bench.closed();
        assert_eq!(bench.take(), ["drop Key(Closed) +250"]);
        bench.now += 250;
        let _ = proving(&mut bench, b"0123456789abcdef");
        assert_eq!(bench.link.deadline(), Some(bench.now + proof::PATIENCE_MS));
        bench.pass(proof::PATIENCE_MS);
        assert_eq!(bench.take(), ["drop Key(Late) +1000"]);
        // And a node without a key knows what a primary with one wants of it.
        bench.now += 1000;
        bench.connect();
        bench.feed(Fault::Plain.answer().expect("it is told").as_bytes());
        assert_eq!(bench.take(), ["connect", SIX, "drop Key(Wanted) +1000"]);
    }

    #[test]
    fn forms_alternate_while_the_primary_closes_without_a_byte() {
        let mut bench = Bench::fresh();
        for form in [SIX, FIVE, SIX, FIVE] {
            bench.connect();
            assert_eq!(bench.take(), ["connect", form]);
            bench.closed();
            assert_eq!(bench.take(), ["drop Refused +250"]);
            bench.pass(249);
            assert_eq!(bench.take(), [""; 0]);
            bench.now += 1;
        }
        // A connection that is not made, or lost later, says nothing about the form.
        bench.poll();
        bench.closed();
        assert_eq!(bench.take(), ["connect", "drop Unreachable +250"]);
        bench.now += 250;
        bench.connect();
        assert_eq!(bench.link.feed(bench.now, b"+ACK").0, 0);
        bench.closed();
        assert_eq!(bench.take(), ["connect", SIX, "drop Closed +250"]);
        bench.now += 250;
        bench.connect();
        assert_eq!(bench.take(), ["connect", SIX]);
    }

    #[test]
    fn only_a_ringkeep_hears_what_is_durable_and_at_once_when_it_asked() {
        for (answer, tells) in [("+ACK 7 0 0\r\n", true), ("+ACK 7 0\r\n", false)] {
            let mut bench = Bench::fresh();
            bench.connect();
            bench.feed(answer.as_bytes());
            bench.feed(b"+SNAPSHOT\r\n$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5\r\n");
            bench.link.durable_through(5);
            bench.link.applied_through(5);
            bench.pass(100);
            bench.frame(5);
            bench.link.applied_through(6);
            bench.take();
            bench.feed(b"+PING 7 6\r\n");
            assert_eq!(bench.take(), ["send REPLCONF ACK 6"]);
            bench.link.durable_through(9);
            bench.poll();
            match tells {
                true => assert_eq!(bench.take(), ["send REPLCONF ACK 6 FACK 6"]),
                false => assert_eq!(bench.take(), [""; 0]),
            }
            bench.link.durable_through(5);
            bench.pass(100);
            assert_eq!(bench.take(), [""; 0]);
        }
    }

    #[test]
    fn data_is_as_fresh_as_the_last_ping_that_it_has_reached() {
        let mut bench = Bench::fresh();
        let fresh = |bench: &Bench| bench.link.status(bench.now).fresh_at;
        bench.connect();
        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n+PING 7 5\r\n");
        assert_eq!(fresh(&bench), None);
        bench.pass(10);
        bench.feed(b"$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5\r\n");
        assert_eq!(fresh(&bench), None, "it is not loaded");
        bench.link.applied_through(5);
        assert_eq!(fresh(&bench), Some(1000));
        bench.pass(90);
        bench.feed(b"+PING 7 5\r\n");
        assert_eq!(fresh(&bench), Some(1100));
        bench.pass(100);
        bench.feed(b"+PING 7 7\r\n");
        bench.pass(100);
        bench.feed(b"+PING 7 8\r\n");
        assert_eq!(fresh(&bench), Some(1100));
        bench.frame(5);
        bench.frame(6);
        bench.link.applied_through(6);
        assert_eq!(fresh(&bench), Some(1100));
        bench.link.applied_through(7);
        assert_eq!(fresh(&bench), Some(1200));
        bench.closed();
        bench.pass(5000);
        assert_eq!(fresh(&bench), Some(1200));
    }

    #[test]
    fn an_image_goes_on_over_the_next_connection() {
        const NAMED: &str = "send *6 $9 REPLICATE $4 FROM $1 0 $1 0 $2 ID $40 \
                             kevy-replica-6004#1+image,77,6+ringkeep1";
        let mut bench = Bench::fresh();
        bench.connect();
        bench.feed(b"+ACK 7 0 0\r\n+SNAPSHOT 77\r\n$10\r\nKEVYSN");
        bench.closed();
        bench.take();
        bench.now += 250;
        bench.connect();
        assert_eq!(bench.take(), ["connect", NAMED]);
        bench.feed(b"+ACK 7 0 0\r\n+SNAPSHOT 77 6\r\n$4\r\nAP\x04\x00\r\n+SNAPSHOT_END 5 5\r\n");
        assert_eq!(bench.position(), (7, 5));
        bench.closed();
        bench.now += 250;
        bench.connect();
        assert!(!bench.take().concat().contains("image"), "it is complete");
    }

    #[test]
    fn an_image_that_does_not_go_on_begins_anew_and_only_a_ringkeeps_can_go_on() {
        for (again, is_good) in [
            ("+SNAPSHOT 78", true),
            ("+SNAPSHOT 77 5", false),
            ("+SNAPSHOT 78 6", false),
        ] {
            let mut bench = Bench::fresh();
            bench.connect();
            bench.feed(b"+ACK 7 0 0\r\n+SNAPSHOT 77\r\n$10\r\nKEVYSN");
            bench.closed();
            bench.now += 250;
            bench.connect();
            bench.take();
            let image = "$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5 5\r\n";
            bench.feed(format!("+ACK 7 0 0\r\n{again}\r\n{image}").as_bytes());
            assert_eq!(
                bench.position() == (7, 5),
                is_good,
                "{again}: {:?}",
                bench.take()
            );
        }
        let mut bench = Bench::fresh();
        bench.connect();
        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n$10\r\nKEVYSN");
        bench.closed();
        bench.now += 250;
        bench.take();
        bench.connect();
        assert_eq!(bench.take(), ["connect", SIX]);
    }

    #[test]
    fn a_ringkeep_hears_how_much_of_its_image_is_here() {
        let mut bench = Bench::fresh();
        bench.connect();
        bench.feed(b"+ACK 7 0 0\r\n+SNAPSHOT 77\r\n");
        bench.take();
        // A record of a string that is longer than what comes.
        let mut image = [&EMPTY_IMAGE[..9], &[1, 0]].concat();
        image.extend(1u32.to_le_bytes());
        image.push(b'k');
        image.extend((4u32 << 20).to_le_bytes());
        image.resize(20 * 65536, 0);
        let mut told = Vec::new();
        for chunk in image.chunks(65536) {
            bench.feed(&[&b"$65536\r\n"[..], chunk, b"\r\n"].concat());
            told.extend(bench.take());
        }
        assert_eq!(
            told,
            [
                "send REPLCONF ACK 0 IMAGE 524288",
                "send REPLCONF ACK 0 IMAGE 1048576"
            ]
        );
    }

    #[test]
    fn frames_behind_a_snapshot_belong_to_it() {
        let mut bench = Bench::fresh();
        bench.connect();
        let snapshot =
            b"+ACK 7 0 0 0\r\n+SNAPSHOT\r\n$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5 7\r\n";
        bench.feed(snapshot);
        bench.link.applied_through(5);
        bench.frame(5);
        assert!(bench.link.is_behind());
        bench.closed();
        assert_eq!(bench.position(), (0, 0), "it was nowhere");
        assert!(bench.link.is_behind(), "and what was loaded stays torn");
        bench.pass(5000);
        bench.connect();
        assert!(bench.link.is_behind());
        bench.feed(snapshot);
        bench.frame(5);
        bench.frame(6);
        assert!(!bench.link.is_behind());
        bench.closed();
        assert_eq!(bench.position(), (7, 7));
    }

    #[test]
    fn a_snapshot_says_where_other_streams_have_to_be() {
        let mut bench = Bench::fresh();
        bench.connect();
        let head = b"+ACK 7 0 0 0\r\n+SNAPSHOT\r\n$10\r\nKEVYSNAP\x04\x00\r\n";
        let bytes = [&head[..], b"+SNAPSHOT_END 5 7 1 90 3 12\r\n"].concat();
        let mut needs = Vec::new();
        let mut at = 0;
        while let (used, Some(event)) = bench.link.feed(bench.now, &bytes[at..]) {
            at += used;
            if let Event::Snapshot(image) = event {
                needs = image.needs;
            }
        }
        assert_eq!(needs, [(1, 90), (3, 12)]);
        assert!(bench.link.is_behind_at(6) && !bench.link.is_behind_at(7));
    }

    #[test]
    fn a_history_that_goes_on_under_another_name_is_followed() {
        let at = Position {
            generation: 7,
            offset: 40,
        };
        for (ends, fits) in [
            ("7 40", true),
            ("8 50 7 41", true),
            ("7 39", false),
            ("8 40", false),
        ] {
            let mut bench = Bench::new(at, Some(Wire::W3));
            bench.connect();
            bench.feed(format!("+ACK 9 40 0 0 {ends}\r\n").as_bytes());
            let is_streaming = bench.link.status(bench.now).state == LinkState::Streaming;
            assert_eq!(is_streaming, fits, "{ends}");
            assert_eq!(bench.position(), (if fits { 9 } else { 7 }, 40), "{ends}");
        }
    }

    #[test]
    fn units_move_nothing_and_only_a_ringkeep_has_them() {
        let mut bench = Bench::fresh();
        bench.connect();
        bench.feed(b"+ACK 7 0 0\r\n+SNAPSHOT\r\n$10\r\nKEVYSNAP\x04\x00\r\n+SNAPSHOT_END 5\r\n");
        bench.take();
        bench.feed(b"+UNITS 6 29 0 0\r\n");
        assert_eq!(
            (bench.take(), bench.position()),
            (vec!["units 6 29".into()], (7, 5))
        );
        bench.frame(5);
        bench.take();
        bench.feed(b"+UNITS 6 29 0 0\r\n");
        assert_eq!(
            bench.take(),
            ["drop Wire(BadLine) +250"],
            "these came already"
        );
        let mut bench = Bench::streaming();
        bench.feed(b"+UNITS 6 29 0 0\r\n");
        assert_eq!(bench.take(), ["drop Wire(BadLine) +250"]);
    }

    #[test]
    fn a_link_without_tls_is_dropped_with_its_reason_and_tried_seldom() {
        let mut bench = Bench::fresh();
        bench.poll();
        bench.link.refuse_tls(bench.now, "it does not speak TLS");
        // That the connection is over is told, too.
        bench.closed();
        bench.link.refuse_tls(bench.now, "again");
        let dropped = "drop Tls(\"it does not speak TLS\") +1000";
        assert_eq!(bench.take(), ["connect", dropped]);
        bench.now += 1000;
        bench.connect();
        bench.feed(b"+ACK 7 0\r\n");
        bench.take();
        // Also one that was there.
        bench
            .link
            .refuse_tls(bench.now, "it does not accept our certificate");
        bench.poll();
        let dropped = "drop Tls(\"it does not accept our certificate\") +1000";
        assert_eq!(bench.take(), [dropped]);
    }

    #[test]
    fn an_answer_of_another_form_is_refused() {
        let mut bench = Bench::fresh();
        bench.connect();
        bench.take();
        bench.feed(b"+ACK 0\r\n");
        assert_eq!(bench.take(), ["drop AckForm +250"]);
    }

    #[test]
    fn connecting_takes_five_seconds_at_most_and_the_answer_fifteen() {
        let mut bench = Bench::fresh();
        bench.poll();
        assert_eq!(bench.link.deadline(), Some(6000));
        bench.pass(5000);
        assert_eq!(bench.take(), ["connect", "drop Unreachable +250"]);
        bench.now += 250;
        bench.connect();
        bench.pass(14_999);
        assert_eq!(bench.take(), ["connect", SIX]);
        bench.pass(1);
        assert_eq!(bench.take(), ["drop AckTimeout +250"]);
    }

    #[test]
    fn a_snapshot_sets_the_position_only_at_its_end() {
        let mut bench = Bench::fresh();
        bench.connect();
        bench.take();
        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n+PING 7 5\r\n$9\r\nKEVYSNAP\x04\r\n");
        assert_eq!(
            bench.take(),
            ["up W3 true", "snapshot begin", "send REPLCONF ACK 0"]
        );
        assert_eq!(bench.position(), (0, 0));
        bench.closed();
        assert_eq!(bench.take(), ["drop Closed +250"]);
        bench.now += 250;
        bench.connect();
        assert_eq!(bench.take(), ["connect", SIX]);

        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n");
        bench.feed(&[b"$10\r\n", EMPTY_IMAGE, b"\r\n+SNAPSHOT_END 5\r\n"].concat());
        bench.take();
        assert_eq!(bench.position(), (7, 5));
        assert_eq!(bench.link.applied_position(), None);
        bench.link.applied_through(5);
        let position = Position {
            generation: 7,
            offset: 5,
        };
        assert_eq!(bench.link.applied_position(), Some((position, Wire::W3)));
    }

    #[test]
    fn frames_come_in_order_or_the_link_is_dropped() {
        for wrong in [4, 5, 7] {
            let mut bench = Bench::streaming();
            bench.frame(5);
            assert_eq!(bench.take(), ["frame 5 1"]);
            bench.frame(wrong);
            assert_eq!(
                bench.take(),
                [format!("drop Gap {{ expected: 6, got: {wrong} }} +250")]
            );
            assert_eq!(bench.position(), (7, 6));
            bench.now += 250;
            bench.connect();
            assert!(bench.take()[1].contains("FROM $1 7 $1 6 $2 ID"));
        }
    }

    #[test]
    fn gaps_again_and_again_ask_for_everything() {
        let mut bench = Bench::streaming();
        for _ in 0..3 {
            bench.frame(9);
            bench.now += 250;
            bench.connect();
            bench.take();
            bench.feed(b"+ACK 7 5\r\n");
        }
        assert_eq!(bench.position(), (0, 0));
    }

    #[test]
    fn a_frame_before_the_snapshot_is_refused() {
        let mut bench = Bench::new(
            Position {
                generation: 6,
                offset: 5,
            },
            Some(Wire::W3),
        );
        bench.connect();
        bench.feed(b"+ACK 7 5\r\n");
        bench.take();
        bench.frame(5);
        assert_eq!(bench.take(), ["drop SnapshotMissing +250"]);
        assert_eq!(bench.position(), (6, 5));
    }

    #[test]
    fn pings_are_answered_with_what_was_applied() {
        let mut bench = Bench::streaming();
        bench.frame(5);
        bench.feed(b"+PING 7 6\r\n");
        assert_eq!(bench.take(), ["frame 5 1", "send REPLCONF ACK 5"]);
        bench.link.applied_through(6);
        bench.poll();
        assert_eq!(bench.take(), ["send REPLCONF ACK 6"]);
        // What nobody asked for can wait.
        bench.frame(6);
        bench.link.applied_through(7);
        bench.poll();
        assert_eq!(bench.take(), ["frame 6 1"]);
        assert_eq!(bench.link.deadline(), Some(bench.now + 100));
        bench.pass(100);
        assert_eq!(bench.take(), ["send REPLCONF ACK 7"]);
        // Nothing more to say, and nobody can have applied what did not come.
        bench.link.applied_through(99);
        bench.link.applied_through(3);
        bench.pass(100);
        assert_eq!(bench.take(), [""; 0]);
        assert_eq!(bench.link.status(bench.now).applied, Some(7));
    }

    #[test]
    fn a_ping_before_the_frames_that_it_counts_is_answered_again_behind_them() {
        let mut bench = Bench::streaming();
        bench.feed(b"+PING 7 7\r\n");
        assert_eq!(bench.take(), ["send REPLCONF ACK 5"]);
        bench.frame(5);
        bench.link.applied_through(6);
        bench.frame(6);
        bench.poll();
        assert_eq!(bench.take(), ["frame 5 1", "frame 6 1"]);
        bench.link.applied_through(7);
        bench.poll();
        assert_eq!(bench.take(), ["send REPLCONF ACK 7"]);
    }

    #[test]
    fn another_generation_in_a_ping_ends_the_session_with_the_old_position() {
        let mut bench = Bench::streaming();
        bench.feed(b"+PING 8 0\r\n");
        assert_eq!(bench.take(), ["drop GenerationChanged +250"]);
        assert_eq!(bench.position(), (7, 5));
        bench.now += 250;
        bench.connect();
        assert!(bench.take()[1].starts_with("send *6 $9 REPLICATE $4 FROM $1 7 $1 5 "));
    }

    #[test]
    fn a_primary_behind_us_is_on_another_history() {
        let mut bench = Bench::streaming();
        bench.feed(b"+PING 7 4\r\n");
        assert_eq!(bench.take(), ["drop Ahead { next: 4, expected: 5 } +250"]);
        assert_eq!(bench.position(), (0, 0));
    }

    #[test]
    fn three_silent_seconds_end_the_session() {
        let mut bench = Bench::streaming();
        bench.pass(2999);
        assert!(bench.link.status(bench.now).is_up);
        assert_eq!(bench.take(), [""; 0]);
        bench.pass(1);
        assert_eq!(bench.take(), ["drop Silent +250"]);
        assert!(!bench.link.status(bench.now).is_up);
    }

    #[test]
    fn composing_a_snapshot_may_take_longer() {
        let mut bench = Bench::fresh();
        bench.connect();
        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n+PING 7 5\r\n");
        bench.take();
        bench.pass(9_999);
        assert_eq!(bench.take(), [""; 0]);
        bench.pass(1);
        assert_eq!(bench.take(), ["drop Silent +250"]);
    }

    #[test]
    fn a_w1_primary_may_be_silent_and_hears_nothing() {
        let mut bench = Bench::new(
            Position {
                generation: 0,
                offset: 3,
            },
            Some(Wire::W1),
        );
        bench.connect();
        bench.feed(b"+ACK 3\r\n");
        bench.frame(3);
        bench.link.applied_through(4);
        bench.take();
        assert_eq!(bench.link.deadline(), None);
        bench.pass(1_000_000);
        assert_eq!(bench.take(), [""; 0]);
        assert!(bench.link.status(bench.now).is_up);
        // A ping shows it to be W2.
        bench.feed(b"+PING 2 4\r\n");
        assert_eq!(bench.take(), ["send REPLCONF ACK 4"]);
        assert_eq!(bench.link.status(bench.now).wire, Some(Wire::W2));
        assert_eq!(bench.position(), (2, 4));
        bench.pass(3000);
        assert_eq!(bench.take(), ["drop Silent +250"]);
    }

    #[test]
    fn an_older_stream_from_its_start_replaces_what_we_hold() {
        let mut bench = Bench::new(
            Position {
                generation: 7,
                offset: 5,
            },
            Some(Wire::W3),
        );
        bench.connect();
        bench.closed();
        bench.now += 250;
        bench.take();
        bench.connect();
        // An offset of another protocol's history means nothing here.
        assert_eq!(bench.take(), ["connect", FIVE]);
        bench.feed(b"+ACK 0\r\n");
        assert_eq!(bench.position(), (7, 5));
        bench.frame(0);
        bench.frame(1);
        assert_eq!(
            bench.take(),
            ["up W1 false", "history start", "frame 0 1", "frame 1 1"]
        );
        assert_eq!(bench.position(), (0, 2));
        bench.closed();
        bench.now += 250;
        bench.connect();
        bench.feed(b"+ACK 2\r\n");
        bench.take();
        bench.frame(2);
        assert_eq!(bench.take(), ["frame 2 1"]);
    }

    #[test]
    fn a_flushed_w2_primary_is_followed_from_its_new_start() {
        let mut bench = Bench::new(
            Position {
                generation: 1,
                offset: 2,
            },
            Some(Wire::W2),
        );
        bench.connect();
        bench.feed(b"+ACK 2\r\n+PING 2 1\r\n");
        assert_eq!(
            bench.take()[2..],
            ["up W1 false", "drop GenerationChanged +250"]
        );
        bench.now += 250;
        bench.connect();
        bench.feed(b"+ACK 0\r\n+PING 2 1\r\n");
        bench.frame(0);
        let wanted = [
            "connect",
            FIVE,
            "up W1 false",
            "send REPLCONF ACK 0",
            "history start",
            "frame 0 1",
        ];
        assert_eq!(bench.take(), wanted);
        assert_eq!(bench.position(), (2, 1));
    }

    #[test]
    fn bad_images_are_asked_for_again_ever_more_rarely() {
        let mut bench = Bench::streaming();
        for delay in [250, 500, 1000, 2000, 4000, 8000, 16000, 16000] {
            bench.feed(b"+SNAPSHOT\r\n$3\r\nXXX\r\n");
            let dropped = bench.take();
            let (last, _) = dropped.split_last().expect("dropped");
            assert_eq!(*last, format!("drop BadImage(BadMagic) +{delay}"));
            assert_eq!(bench.position(), (0, 0));
            bench.now += delay;
            bench.connect();
            bench.feed(b"+ACK 7 0\r\n");
        }
        // A snapshot that ends early is one, too.
        bench.feed(b"+SNAPSHOT\r\n$9\r\nKEVYSNAP\x04\r\n+SNAPSHOT_END 5\r\n");
        assert!(
            bench
                .take()
                .concat()
                .contains("BadImage(Truncated { at: 9 })")
        );
    }

    #[test]
    fn an_image_has_a_limit() {
        let config = LinkConfig {
            image_len_max: 9,
            ..LinkConfig::new(6004, 1)
        };
        let mut bench = Bench::fresh();
        bench.link = Link::new(config, Position::UNKNOWN, None);
        bench.connect();
        bench.take();
        bench.feed(b"+ACK 7 0\r\n+SNAPSHOT\r\n$10\r\nKEVYSNAP\x04\x00\r\n");
        assert_eq!(
            bench.take(),
            ["up W3 true", "snapshot begin", "drop ImageTooLong +250"]
        );
    }

    #[test]
    fn a_resync_asks_for_everything() {
        let mut bench = Bench::streaming();
        bench.link.resync(bench.now);
        bench.poll();
        bench.now += 250;
        bench.connect();
        assert_eq!(bench.take(), ["drop Resync +250", "connect", SIX]);
        bench.feed(b"+ACK 7 0\r\n");
        assert_eq!(bench.take(), ["up W3 true"]);
        assert_eq!(
            bench.link.status(bench.now).state,
            LinkState::AwaitingSnapshot
        );
    }

    #[test]
    fn lag_is_what_the_last_ping_is_ahead_of_the_store() {
        let mut bench = Bench::streaming();
        bench.feed(b"+PING 7 9\r\n");
        bench.frame(5);
        bench.now += 40;
        let status = bench.link.status(bench.now);
        assert_eq!(
            (status.lag, status.last_io_age, status.applied),
            (Some(4), Some(40), Some(5))
        );
        assert_eq!(
            status.received,
            Position {
                generation: 7,
                offset: 6
            }
        );
        assert_eq!(status.state, LinkState::Streaming);
    }

    #[test]
    fn bytes_behind_a_drop_are_swallowed() {
        let mut bench = Bench::streaming();
        bench.feed(b"-ERR\r\n+PING 7 5\r\n*2\r\n");
        bench.feed(b"whatever");
        assert_eq!(bench.take(), ["drop Wire(UnknownItem(45)) +250"]);
    }
}
