//! One client connection: what it asked, what it is owed, and what it waits for. No I/O here.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use uring::{GATHER_MAX, Outgoing, SocketId};

use super::{
    homes::Want,
    passing::{GiveUpAt, Leaving},
    tls::Session,
    tracking::Tracking,
};
use crate::{
    acl::User,
    base::Ms,
    cmd::{OnTimeout, Spec},
    handoff::passing,
    resp::{Out, OwnedArgs, Parser, Proto},
};

/// Owed bytes above which no further request of the connection is run.
pub const OWED_HIGH: usize = 1 << 20;
/// Owed bytes below which its requests are run again.
pub const OWED_LOW: usize = 256 << 10;
/// Replies missing or waiting behind missing ones above which no further request is run. Each of them may be
/// large, so it begins with fewer, and becomes what the size of those that came allows.
const SLOTS_FIRST: usize = 32;
const SLOTS_HIGH: usize = 512;
/// Unparsed bytes of a waiting connection above which nothing more is received from it.
pub const UNPARSED_HIGH: usize = 256 << 10;
/// What the buffer of an unfinished request reserves at first; later steps are larger.
const INPUT_STEP: usize = 1 << 20;
/// Names of which the size is looked at where all of them are to be known, and what each takes beside its
/// bytes: it is also in the table of who is to be told.
const NAMES_LOOKED_AT: usize = 32;
const NAME_OVERHEAD: usize = 128;
/// Bytes of one send: the progress of a slow reader is seen in steps of this size.
const SEND_LEN_MAX: usize = 1 << 20;

/// Why a connection's next request is not run yet.
#[derive(Debug, Default)]
pub enum Hold {
    /// It may run.
    #[default]
    Free,
    /// Requests wait for shards of other cores.
    Loan {
        /// How many.
        requests: usize,
        /// The collection in which the next ones may run, too.
        follow: Option<u64>,
    },
    /// A request waits for other cores' answers.
    Gather,
    /// A script runs on another core.
    Away,
    /// A blocking command waits for a key or its time.
    Blocked(Box<Blocked>),
    /// Too many messages to other cores wait.
    Mail,
    /// CLIENT PAUSE: the next request has not begun.
    Paused,
    /// The next request is about what was asked before it, and has not begun: replies are still missing.
    Behind,
    /// The client does not read its replies, or too many of them are missing.
    SlowReader,
    /// It has had its part of this turn.
    Turn,
}

/// A blocking command that waits.
#[derive(Debug)]
pub struct Blocked {
    /// The command.
    pub spec: &'static Spec,
    /// Its arguments.
    pub args: OwnedArgs,
    /// Its database.
    pub db: usize,
    /// When it gives up.
    pub deadline: Option<Ms>,
    /// What it answers then.
    pub on_timeout: GiveUp,
    /// Its place among the replies.
    pub slot: u64,
    /// A run of it waits for shards of other cores.
    pub trying: bool,
    /// A key changed while that run was waiting: try once more.
    pub again: bool,
}

/// The reply of a blocking command whose time is up.
#[derive(Clone, Copy, Debug)]
pub enum GiveUp {
    /// As the command said.
    Null(OnTimeout),
    /// WAIT: the number of replicas.
    Count(i64),
    /// WAITAOF: whether it is durable here, and on how many replicas.
    Durable(bool, i64),
    /// REPL.WAIT: the primary is elsewhere.
    Misdirected,
    /// REPL.FAILOVER: nothing can be said yet.
    Unanswered,
}

/// Commands queued by MULTI.
#[derive(Debug, Default)]
pub struct Multi {
    /// In order.
    pub queued: Vec<(&'static Spec, OwnedArgs)>,
    /// Bytes of all of them.
    pub bytes: usize,
    /// A command was refused while queueing: EXEC will refuse all.
    pub failed: bool,
}

impl Multi {
    /// Queues a command.
    pub fn push(&mut self, spec: &'static Spec, args: OwnedArgs) {
        self.bytes += args.bytes_len();
        self.queued.push((spec, args));
    }
}

/// CLIENT REPLY.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyMode {
    /// Every reply is sent.
    #[default]
    On,
    /// None is sent.
    Off,
    /// The next one is not sent, then all are.
    SkipNext,
}

/// One client connection.
#[derive(Debug)]
pub struct Conn {
    /// Its socket.
    pub socket: SocketId,
    /// Number in CLIENT ID; unique in the node.
    pub id: u64,
    /// The other end; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// This end; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// Replies not yet handed to the ring.
    pub out: Out,
    /// Where replies go while older ones are missing.
    side: Out,
    /// Replies in order behind the first one that is missing.
    slots: VecDeque<Option<Out>>,
    /// Number of the first slot.
    first_slot: u64,
    /// How many there may be.
    slots_max: usize,
    /// Bytes of the replies that wait in `slots`.
    behind_len: usize,
    /// Slots whose replies CLIENT REPLY suppressed.
    muted: Vec<u64>,
    /// Replies that wait for the disk or a majority, with the numbers under which they do.
    held: VecDeque<(u64, Out)>,
    held_len: usize,
    /// Bytes of the replies in `out` that tell nothing of the data.
    pub blind_len: usize,
    /// Those that no longer wait.
    freed: Out,
    /// Large replies on their way, cut into sendable pieces.
    pieces: VecDeque<Bytes>,
    pieces_len: usize,
    /// A send is in flight.
    pub sending: bool,
    /// Its bytes.
    pub sending_len: usize,
    spare: Vec<u8>,
    /// Received bytes not yet run: an unfinished request, or requests that wait.
    pub input: Vec<u8>,
    /// The state of the unfinished request in `input`.
    pub parser: Parser,
    /// Bytes that `input` must hold before its first request can be complete.
    pub need: usize,
    /// A receive is armed.
    pub receiving: bool,
    /// Why the next request is not run.
    pub hold: Hold,
    /// Close once everything owed is sent.
    pub closing: bool,
    /// The peer finished sending.
    pub ended: bool,
    /// Selected database.
    pub db: usize,
    /// CLIENT SETNAME.
    pub name: Vec<u8>,
    /// CLIENT SETINFO.
    pub lib_name: Vec<u8>,
    /// CLIENT SETINFO.
    pub lib_version: Vec<u8>,
    /// CLIENT REPLY.
    pub reply_mode: ReplyMode,
    /// CLIENT NO-TOUCH.
    pub no_touch: bool,
    /// CLIENT NO-EVICT.
    pub no_evict: bool,
    /// Who it is.
    pub user: Arc<User>,
    /// Has shown a password, or none was wanted when it came.
    pub trusted: bool,
    /// Its user may do everything: nothing it asks for has to be judged.
    pub unlimited: bool,
    /// Came to the TLS port, or may be another node that speaks TLS at the plain one.
    pub tls: Option<Box<Session>>,
    /// Came to the port of this shard.
    pub port_shard: Option<usize>,
    /// READONLY: is answered by replicas.
    pub reads_replica: bool,
    /// MULTI.
    pub multi: Option<Multi>,
    /// CLIENT TRACKING.
    pub tracking: Option<Box<Tracking>>,
    /// WATCH: databases and keys.
    pub watching: Vec<(usize, Vec<u8>)>,
    /// A watched key changed.
    pub tainted: bool,
    /// Counts how often the connection stopped watching.
    pub watch_round: u64,
    /// SUBSCRIBE.
    pub channels: BTreeSet<Vec<u8>>,
    /// PSUBSCRIBE.
    pub patterns: BTreeSet<Vec<u8>>,
    /// SSUBSCRIBE.
    pub shard_channels: BTreeSet<Vec<u8>>,
    /// MONITOR.
    pub monitors: bool,
    /// It is being given to another process, and nothing of it is run here.
    pub leaving: Option<Leaving>,
    /// With what it was blocked in another process, to be asked again here.
    pub carried: Option<Box<passing::Blocked>>,
    /// When that gives up, and the place of its reply.
    pub give_up_at: GiveUpAt,
    /// Is in the list of connections with something to send.
    pub listed: bool,
    /// When it was accepted, by the clock that nobody sets; so are the next two.
    pub since: Ms,
    /// When it last sent a request.
    pub used: Ms,
    /// When the kernel last took bytes, or nothing was owed.
    pub progress: Ms,
    /// The turn in which it ran something last, and nanoseconds that it took then.
    pub turn: u64,
    /// See there.
    pub turn_nanos: u64,
    /// Since when it is owed more than it may be for long.
    pub owes_since: Option<Ms>,
    /// Last command.
    pub last: &'static str,
    gone: bool,
}

impl Conn {
    /// A new connection.
    pub fn new(
        socket: SocketId,
        id: u64,
        peer: Option<SocketAddr>,
        user: Arc<User>,
        now: Ms,
    ) -> Self {
        Self {
            socket,
            id,
            peer,
            local: None,
            out: Out::default(),
            side: Out::default(),
            slots: VecDeque::new(),
            first_slot: 0,
            slots_max: SLOTS_FIRST,
            behind_len: 0,
            muted: Vec::new(),
            held: VecDeque::new(),
            held_len: 0,
            blind_len: 0,
            freed: Out::default(),
            pieces: VecDeque::new(),
            pieces_len: 0,
            sending: false,
            sending_len: 0,
            spare: Vec::new(),
            input: Vec::new(),
            parser: Parser::default(),
            need: 0,
            receiving: true,
            hold: Hold::Free,
            closing: false,
            ended: false,
            db: 0,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            reply_mode: ReplyMode::On,
            no_touch: false,
            no_evict: false,
            user,
            trusted: false,
            unlimited: false,
            tls: None,
            port_shard: None,
            reads_replica: false,
            multi: None,
            tracking: None,
            watching: Vec::new(),
            tainted: false,
            watch_round: 0,
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            shard_channels: BTreeSet::new(),
            monitors: false,
            leaving: None,
            carried: None,
            give_up_at: None,
            listed: false,
            since: now,
            used: now,
            progress: now,
            turn: 0,
            turn_nanos: 0,
            owes_since: None,
            last: "",
            gone: false,
        }
    }

    /// The other end as CLIENT LIST shows it.
    pub fn peer_text(&self) -> String {
        self.peer
            .map_or_else(|| "unix:0".to_string(), |peer| peer.to_string())
    }

    /// Has the connection ended?
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The connection has ended; it is freed when it would be put back.
    pub fn mark_gone(&mut self) {
        self.gone = true;
    }

    /// Is the next request free to run?
    pub fn is_free(&self) -> bool {
        matches!(self.hold, Hold::Free)
    }

    /// Has the next request not begun, although it was read?
    pub fn is_paused(&self) -> bool {
        matches!(self.hold, Hold::Paused | Hold::Behind)
    }

    /// Is each reply to be sent, and are no commands queued or forbidden?
    pub fn is_plain(&self) -> bool {
        self.reply_mode == ReplyMode::On && self.multi.is_none() && !self.is_subscribed()
    }

    /// Does the connection listen to channels?
    pub fn is_subscribed(&self) -> bool {
        !self.channels.is_empty() || !self.patterns.is_empty() || !self.shard_channels.is_empty()
    }

    /// Is it told without having asked for each message?
    pub fn is_told(&self) -> bool {
        self.is_subscribed() || self.monitors || self.tracking.is_some()
    }

    /// A key changed: voids the transaction if the key is one of those watched now.
    pub fn hear_taint(&mut self, want: Want) {
        self.tainted |= want == Want::Taint(self.watch_round);
    }

    /// HELLO: all later replies take the form of `proto`.
    pub fn set_proto(&mut self, proto: Proto) {
        self.out.proto = proto;
        self.side.proto = proto;
    }

    /// Points `out` to where the next reply belongs: behind missing ones if there are any. Ended by
    /// [`end_reply`](Conn::end_reply) with the returned value.
    #[inline]
    pub fn begin_reply(&mut self) -> bool {
        let behind = !self.slots.is_empty();
        if behind {
            std::mem::swap(&mut self.out, &mut self.side);
        }
        behind
    }

    /// See [`begin_reply`](Conn::begin_reply).
    #[inline]
    pub fn end_reply(&mut self, behind: bool) {
        if behind {
            std::mem::swap(&mut self.out, &mut self.side);
            if !self.side.is_empty() {
                let fresh = Out::new(self.out.proto);
                self.behind_len += self.side.len();
                self.slots
                    .push_back(Some(std::mem::replace(&mut self.side, fresh)));
                self.move_ready();
            }
        }
    }

    /// Keeps a place for a reply that comes later.
    pub fn open_slot(&mut self) -> u64 {
        self.slots.push_back(None);
        self.next_slot() - 1
    }

    /// Puts a reply in its place.
    pub fn fill_slot(&mut self, slot: u64, reply: Out) {
        let Some(at) = slot.checked_sub(self.first_slot) else {
            return;
        };
        let reply = if self.muted.contains(&slot) {
            self.muted.retain(|muted| *muted != slot);
            Out::new(reply.proto)
        } else {
            reply
        };
        if let Some(place) = self.slots.get_mut(at as usize) {
            let fits = OWED_HIGH / reply.len().max(1);
            self.slots_max = (self.slots_max + 1).min(fits).clamp(1, SLOTS_HIGH);
            self.behind_len += reply.len();
            *place = Some(reply);
        }
        self.move_ready();
    }

    /// A reply that was missing took long to make: fewer are asked for at a time, so that others come between
    /// them.
    pub fn ask_for_fewer(&mut self) {
        self.slots_max = (self.slots_max / 2).max(1);
    }

    /// The number that the next slot will have.
    pub fn next_slot(&self) -> u64 {
        self.first_slot + self.slots.len() as u64
    }

    /// Suppresses the replies of all slots from this one on.
    pub fn mute_from(&mut self, slot: u64) {
        self.muted.extend(slot..self.next_slot());
    }

    /// Is this slot's reply suppressed?
    pub fn is_muted(&self, slot: u64) -> bool {
        self.muted.contains(&slot)
    }

    /// Writes a message behind everything that is owed, replies included that are still missing. Not while
    /// a reply is being written.
    pub fn tell(&mut self, write: impl FnOnce(&mut Out)) {
        if self.slots.is_empty() {
            return write(&mut self.out);
        }
        let mut message = Out::new(self.out.proto);
        write(&mut message);
        self.behind_len += message.len();
        self.slots.push_back(Some(message));
    }

    fn move_ready(&mut self) {
        while let Some(Some(_)) = self.slots.front() {
            if let Some(Some(mut reply)) = self.slots.pop_front() {
                self.first_slot += 1;
                self.behind_len -= reply.len();
                self.out.append(&mut reply);
            }
        }
    }

    /// Keeps received bytes until their request is complete, which needs `need` bytes. The buffer grows to
    /// just that, but in steps, so that a header alone reserves little.
    pub fn keep(&mut self, bytes: &[u8]) {
        let have = self.input.len();
        let room = self.need.saturating_sub(have);
        if self.input.capacity() - have < bytes.len() && room >= bytes.len().max(have / 8) {
            let step = (8 * have).max(INPUT_STEP);
            let len = if self.need <= step + step / 8 {
                self.need
            } else {
                step
            };
            self.input.reserve_exact(len - have);
        }
        self.input.extend_from_slice(bytes);
    }

    /// Should a receive be armed?
    pub fn wants_input(&self) -> bool {
        !self.closing && self.input.len() < UNPARSED_HIGH.max(self.need) && self.owed() < OWED_HIGH
    }

    /// Everything owed, in bytes, replies behind missing ones left out.
    pub fn owed(&self) -> usize {
        self.out.len() + self.held_len + self.freed.len() + self.pieces_len
    }

    /// Everything owed, in bytes.
    pub fn owed_all(&self) -> usize {
        self.owed() + self.behind_len
    }

    /// Do replies wait for the disk or a majority?
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Do all replies that would be sent next tell nothing of the data? They may have been written in several
    /// turns, while others were on their way.
    pub fn is_blind(&self) -> bool {
        !self.has_held() && self.blind_len > 0 && self.blind_len == self.out.len()
    }

    /// Has the replies written so far wait under this number.
    pub fn hold_back(&mut self, number: u64) {
        if !self.out.is_empty() {
            let fresh = Out::new(self.out.proto);
            self.blind_len = 0;
            self.held_len += self.out.len();
            let out = std::mem::replace(&mut self.out, fresh);
            self.held.push_back((number, out));
        }
    }

    /// What waits under this number or an earlier one may leave.
    pub fn let_go(&mut self, number: u64) {
        while let Some((held, _)) = self.held.front()
            && *held <= number
        {
            if let Some((_, mut out)) = self.held.pop_front() {
                self.held_len -= out.len();
                self.freed.append(&mut out);
            }
        }
    }

    /// Large replies on their way, in pieces.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes of memory that the connection holds, roughly.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + self.input.capacity()
            + self.spare.capacity()
            + self.parser.bytes()
            + self.owed_all()
            + self.sending_len
            + self.slots.capacity() * size_of::<Option<Out>>()
            + self.multi.as_ref().map_or(0, |multi| multi.bytes)
            + match &self.hold {
                Hold::Blocked(blocked) => blocked.args.bytes_len(),
                _ => 0,
            }
            + estimate(self.watching.iter().map(|(_, key)| key))
            + [&self.channels, &self.patterns, &self.shard_channels]
                .map(|names| estimate(names.iter()))
                .iter()
                .sum::<usize>()
            + self.tls.as_ref().map_or(0, |tls| tls.held_bytes())
    }

    /// Is so much owed, or so many replies missing, that no further request should be run?
    pub fn is_full(&self) -> bool {
        self.owed_all() >= OWED_HIGH || self.slots.len() >= self.slots_max
    }

    /// Is so little owed that requests should be run again?
    pub fn has_room(&self) -> bool {
        self.owed_all() < OWED_LOW && self.slots.len() <= self.slots_max / 2
    }

    /// Are replies missing that other cores will bring?
    pub fn is_waiting(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Is it in TLS?
    pub fn is_in_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_undecided())
    }

    /// Is it to be closed, and has it been told all that it is to be told?
    pub fn is_over(&self) -> bool {
        self.closing && !self.is_waiting() && !self.has_held()
    }

    /// Takes the next bytes to send.
    pub fn next_outgoing(&mut self) -> Option<Outgoing> {
        if self.pieces.is_empty() {
            let from = if !self.freed.is_empty() {
                &mut self.freed
            } else if self.held.is_empty() && !self.out.is_empty() {
                self.blind_len = 0;
                &mut self.out
            } else {
                return None;
            };
            let (block, shared) = from.take(std::mem::take(&mut self.spare));
            if shared.is_empty() && block.len() <= SEND_LEN_MAX {
                return Some(Outgoing::Block(block));
            }
            self.cut(block, shared);
        }
        let mut gather = Vec::with_capacity(self.pieces.len().min(GATHER_MAX));
        let mut len = 0;
        while let Some(piece) = self.pieces.front() {
            if gather.len() == GATHER_MAX || (len > 0 && len + piece.len() > SEND_LEN_MAX) {
                break;
            }
            len += piece.len();
            gather.extend(self.pieces.pop_front());
        }
        self.pieces_len -= len;
        Some(Outgoing::Gather(gather))
    }

    /// Takes back the memory of a finished send.
    pub fn reuse(&mut self, outgoing: Outgoing) {
        match (outgoing, &mut self.tls) {
            (Outgoing::Block(block), None) if block.capacity() <= 64 << 10 => self.spare = block,
            (Outgoing::Block(block), Some(tls)) => tls.reuse(block),
            _ => {}
        }
    }

    /// Cuts a block with values at places in it into pieces of sendable size.
    fn cut(&mut self, block: Vec<u8>, shared: Vec<(usize, Bytes)>) {
        let block = Bytes::from(block);
        let mut from = 0;
        for (at, value) in shared {
            self.push_piece(block.slice(from..at));
            self.push_piece(value);
            from = at;
        }
        self.push_piece(block.slice(from..));
    }

    fn push_piece(&mut self, mut piece: Bytes) {
        self.pieces_len += piece.len();
        while piece.len() > SEND_LEN_MAX {
            self.pieces.push_back(piece.split_to(SEND_LEN_MAX));
        }
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }
}

/// Bytes of names that are kept, as the first of them let suppose: there may be millions.
fn estimate<'a>(names: impl ExactSizeIterator<Item = &'a Vec<u8>>) -> usize {
    let count = names.len();
    let looked_at = count.clamp(1, NAMES_LOOKED_AT);
    let seen = names.take(NAMES_LOOKED_AT);
    let bytes: usize = seen.map(|name| name.capacity() + NAME_OVERHEAD).sum();
    bytes / looked_at * count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn() -> Conn {
        Conn::new(
            SocketId {
                index: 0,
                generation: 0,
            },
            1,
            None,
            Arc::new(User::new(b"")),
            0,
        )
    }

    #[test]
    fn replies_leave_in_the_order_of_their_requests() {
        let mut conn = conn();
        let first = conn.open_slot();
        let behind = conn.begin_reply();
        conn.out.int(2);
        conn.end_reply(behind);
        let third = conn.open_slot();
        assert!(conn.out.is_empty());
        let mut reply = Out::default();
        reply.int(3);
        conn.fill_slot(third, reply);
        assert!(conn.out.is_empty());
        let mut reply = Out::default();
        reply.int(1);
        conn.fill_slot(first, reply);
        assert_eq!(conn.out.as_bytes(), b":1\r\n:2\r\n:3\r\n");
        assert!(!conn.is_waiting());
    }

    #[test]
    fn replies_are_blind_as_long_as_all_of_them_are() {
        let mut conn = conn();
        assert!(!conn.is_blind());
        let blind = |conn: &mut Conn| {
            let before = conn.out.len();
            conn.out.simple("PONG");
            conn.blind_len += conn.out.len() - before;
        };
        blind(&mut conn);
        assert!(conn.is_blind());
        assert!(conn.is_blind(), "in the next turn it is, too");
        blind(&mut conn);
        assert!(conn.is_blind());
        assert!(conn.next_outgoing().is_some());
        conn.out.simple("TEXT");
        assert!(!conn.is_blind(), "what was blind is on its way");
        assert!(conn.next_outgoing().is_some());
        blind(&mut conn);
        conn.out.int(1);
        assert!(!conn.is_blind());
        conn.hold_back(1);
        blind(&mut conn);
        assert!(!conn.is_blind(), "another one waits before them");
    }

    #[test]
    fn a_message_waits_for_the_replies_before_it() {
        let mut conn = conn();
        let first = conn.open_slot();
        conn.tell(|out| out.int(2));
        assert!(conn.out.is_empty());
        let mut reply = Out::default();
        reply.int(1);
        conn.fill_slot(first, reply);
        conn.tell(|out| out.int(3));
        assert_eq!(conn.out.as_bytes(), b":1\r\n:2\r\n:3\r\n");
    }

    #[test]
    fn of_large_replies_few_are_missing_at_a_time() {
        let mut conn = conn();
        let fill = |conn: &mut Conn, slot, len| {
            let mut reply = Out::default();
            reply.bulk(&vec![b'x'; len]);
            conn.fill_slot(slot, reply);
        };
        let room = |conn: &mut Conn| {
            let mut open = Vec::new();
            while !conn.is_full() {
                open.push(conn.open_slot());
            }
            open
        };
        let first = room(&mut conn);
        assert_eq!(first.len(), SLOTS_FIRST);
        for slot in first {
            fill(&mut conn, slot, 10);
        }
        let then = room(&mut conn);
        assert_eq!(then.len(), 2 * SLOTS_FIRST, "small ones allow for more");
        for slot in then {
            fill(&mut conn, slot, OWED_HIGH / 4);
            while conn.next_outgoing().is_some() {}
        }
        assert_eq!(room(&mut conn).len(), 3);
        conn.ask_for_fewer();
        conn.ask_for_fewer();
        assert_eq!(conn.slots_max, 1);
    }

    #[test]
    fn what_a_connection_holds_is_counted() {
        let mut conn = conn();
        let empty = conn.held_bytes();
        let grown = |conn: &Conn, by: usize| {
            let held = conn.held_bytes() - empty;
            assert!(held >= by && held < 2 * by, "{held} instead of {by}");
        };
        conn.watching = vec![(0, vec![b'k'; 900]); 1000];
        grown(&conn, 900_000);
        conn.watching.clear();
        conn.sending_len = 1 << 20;
        grown(&conn, 1 << 20);
        conn.sending_len = 0;
        conn.open_slot();
        conn.tell(|out| out.bulk(&[b'x'; 500_000]));
        grown(&conn, 500_000);
        assert!(
            conn.owed() == 0 && conn.owed_all() > 500_000,
            "it waits behind what is missing"
        );
    }

    #[test]
    fn large_replies_leave_in_pieces_and_whole() {
        let mut conn = conn();
        let value = Bytes::from(vec![7; 3 * SEND_LEN_MAX + 5]);
        conn.out.bulk_shared(&value);
        let owed = conn.owed();
        let want = conn.out.to_vec();
        let mut sent = Vec::new();
        while let Some(outgoing) = conn.next_outgoing() {
            match outgoing {
                Outgoing::Block(block) => sent.extend(block),
                Outgoing::Gather(pieces) => pieces
                    .iter()
                    .for_each(|piece| sent.extend_from_slice(piece)),
            }
        }
        assert_eq!(sent.len(), owed);
        assert_eq!(sent, want);
        assert_eq!(conn.owed(), 0);
    }
}
