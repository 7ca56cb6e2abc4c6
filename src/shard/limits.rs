//! What one client may take of the node: memory for replies that it does not read and for requests that it
//! does not finish, and time within a turn.

use std::mem;

use super::{
    conn::{Conn, Hold},
    state::State,
};
use crate::{
    base::{Ms, parse_i64},
    resp::ParseLimits,
};

/// Nanoseconds of a turn that one connection may take: whoever sends without end leaves room for others.
const CONN_NANOS: u64 = 500_000;
/// Nanoseconds of a turn that all connections and other cores may take together. What core 0 does beside
/// clients, elections above all, is done between turns.
const TURN_NANOS: u64 = 4_000_000;
/// What a request counts that is not timed.
pub(super) const QUICK_NANOS: u64 = 300;
/// Bytes that a client may send that has to show a password first, as with Redis.
const UNKNOWN_INPUT_MAX: usize = 1 << 20;

/// How much clients of one class may be owed; 0: there is no such limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimit {
    /// Bytes at which a client is closed.
    pub hard: usize,
    /// Bytes above which it may be for some time.
    pub soft: usize,
    /// For so many seconds.
    pub soft_secs: u64,
}

/// `client-output-buffer-limit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimits {
    /// Clients that get what they asked for.
    pub normal: OutputLimit,
    /// Replicas.
    pub replica: OutputLimit,
    /// Clients that are told without having asked for each message: listeners to channels, those that monitor
    /// and those that track.
    pub told: OutputLimit,
}

impl Default for OutputLimits {
    fn default() -> Self {
        let limit = |hard: usize, soft: usize, soft_secs| OutputLimit {
            hard: hard << 20,
            soft: soft << 20,
            soft_secs,
        };
        Self {
            normal: limit(0, 0, 0),
            replica: limit(256, 64, 60),
            told: limit(32, 8, 60),
        }
    }
}

impl std::fmt::Display for OutputLimits {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let classes = [
            ("normal", self.normal),
            (" slave", self.replica),
            (" pubsub", self.told),
        ];
        for (name, limit) in classes {
            let OutputLimit {
                hard,
                soft,
                soft_secs,
            } = limit;
            write!(out, "{name} {hard} {soft} {soft_secs}")?;
        }
        Ok(())
    }
}

impl OutputLimits {
    /// These limits, and what the text says otherwise: classes with three numbers each.
    ///
    /// # Errors
    /// What Redis says of such a text.
    pub fn changed(
        mut self,
        text: &[u8],
        bytes: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Self, &'static str> {
        let words: Vec<&[u8]> = text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .collect();
        if !words.len().is_multiple_of(4) {
            return Err("Wrong number of arguments in buffer limit configuration.");
        }
        for words in words.chunks_exact(4) {
            let class = match &words[0].to_ascii_lowercase()[..] {
                b"normal" => &mut self.normal,
                b"replica" | b"slave" => &mut self.replica,
                b"pubsub" => &mut self.told,
                _ => return Err("Invalid client class specified in buffer limit configuration."),
            };
            let secs = parse_i64(words[3]).and_then(|secs| u64::try_from(secs).ok());
            let (Some(hard), Some(soft), Some(soft_secs)) =
                (bytes(words[1]), bytes(words[2]), secs)
            else {
                return Err(
                    "Error in hard, soft or soft_seconds setting in buffer limit configuration.",
                );
            };
            *class = OutputLimit {
                hard,
                soft,
                soft_secs,
            };
        }
        Ok(self)
    }

    /// Below this nobody is over a hard limit.
    pub fn least(&self) -> usize {
        let hard = [self.normal.hard, self.told.hard].into_iter();
        hard.filter(|hard| *hard > 0).min().unwrap_or(usize::MAX)
    }
}

/// `maxmemory-clients`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientsMemory {
    /// Bytes; 0: there is no limit.
    Bytes(usize),
    /// Hundredths of `maxmemory`.
    Percent(usize),
}

impl ClientsMemory {
    /// Reads it.
    ///
    /// # Errors
    /// What Redis says of such a text.
    pub fn parse(
        text: &[u8],
        bytes: impl Fn(&[u8]) -> Option<usize>,
    ) -> Result<Self, &'static str> {
        let read = match text.strip_suffix(b"%") {
            Some(percent) => parse_i64(percent)
                .and_then(|percent| usize::try_from(percent).ok())
                .map(Self::Percent),
            None => bytes(text).map(Self::Bytes),
        };
        match read.ok_or("argument must be a memory or percent value")? {
            Self::Percent(percent) if percent > 100 => {
                Err("percentage argument must be less or equal to 100")
            }
            read => Ok(read),
        }
    }

    /// The limit in bytes, if there is one.
    pub fn limit(self, memory_max: usize) -> Option<usize> {
        let limit = match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => memory_max / 100 * percent,
        };
        (limit > 0).then_some(limit)
    }
}

impl std::fmt::Display for ClientsMemory {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(out, "{bytes}"),
            Self::Percent(percent) => write!(out, "{percent}%"),
        }
    }
}

impl State {
    fn output_limit(&self, conn: &Conn) -> OutputLimit {
        let limits = &self.tunables.output_limits;
        match conn.is_told() {
            true => limits.told,
            false => limits.normal,
        }
    }

    /// Ends a connection that is owed more than its class may be. True if it was.
    pub(super) fn cut_if_owed_too_much(&mut self, conn: &mut Conn) -> bool {
        if conn.owed_all() < self.output_least || conn.is_gone() {
            return false;
        }
        let hard = self.output_limit(conn).hard;
        if hard == 0 || conn.owed_all() < hard {
            return false;
        }
        self.cut_for_output(conn);
        true
    }

    /// Ends a connection that has been owed much for too long. Looked at now and then.
    pub(super) fn cut_if_owed_for_long(&mut self, conn: &mut Conn) -> bool {
        let limit = self.output_limit(conn);
        let (owed, beat) = (conn.owed_all(), self.beat);
        if limit.soft == 0 || owed < limit.soft {
            conn.owes_since = None;
            return false;
        }
        let since = *conn.owes_since.get_or_insert(beat);
        let is_over = beat.saturating_sub(since) > limit.soft_secs.saturating_mul(1000);
        if is_over {
            self.cut_for_output(conn);
        }
        is_over
    }

    fn cut_for_output(&mut self, conn: &mut Conn) {
        self.stats.cut_output += 1;
        self.log_seldom(&format!(
            "client {}: is owed {} bytes, more than client-output-buffer-limit allows, closed",
            conn.peer_text(),
            conn.owed_all()
        ));
        self.drop_conn(conn);
    }

    /// Ends a connection whose unfinished request is larger than it may be.
    pub(super) fn cut_if_asks_too_much(&mut self, conn: &mut Conn) {
        let queued = conn.multi.as_ref().map_or(0, |multi| multi.bytes);
        let len = queued + conn.input.len();
        let is_unknown = len > UNKNOWN_INPUT_MAX && !self.is_known(conn);
        if conn.closing || !(is_unknown || len > self.tunables.queue_bytes_max) {
            return;
        }
        self.stats.cut_input += 1;
        self.log_seldom(&format!(
            "client {}: asks with {len} bytes, more than client-query-buffer-limit allows, closed",
            conn.peer_text()
        ));
        // What it has sent is of no use any more.
        conn.input = Vec::new();
        conn.parser.clear();
        conn.closing = true;
        self.list(conn);
    }

    /// The bounds of one request of this connection.
    pub(super) fn limits_of(&self, conn: &Conn) -> ParseLimits {
        ParseLimits {
            is_unknown: !conn.trusted && !self.is_known(conn),
            ..self.limits
        }
    }

    /// Counts time that a connection has taken in this turn.
    #[inline]
    pub(super) fn charge(&mut self, conn: &mut Conn, nanos: u64) {
        self.turn_nanos += nanos;
        if conn.turn != self.stats.turns {
            (conn.turn, conn.turn_nanos) = (self.stats.turns, 0);
        }
        conn.turn_nanos += nanos;
    }

    /// The same for a command that was timed; the connection may have to wait for the next turn now.
    pub(super) fn charge_timed(&mut self, conn: &mut Conn) {
        let nanos = mem::take(&mut self.timed_nanos);
        self.charge(conn, nanos);
        if conn.is_free() && self.has_had_its_turn(conn) {
            self.end_its_turn(conn);
        }
    }

    /// Counts what was run for other cores. That alone never takes the whole turn from clients of this one.
    pub(super) fn charge_others(&mut self) {
        let most = self.turn_nanos.max(TURN_NANOS / 2);
        self.turn_nanos = most.min(self.turn_nanos + mem::take(&mut self.timed_nanos));
    }

    /// Have other cores had their part of this turn? What they ask for while it runs waits for the next one.
    pub(super) fn have_others_had_theirs(&self) -> bool {
        self.timed_nanos > TURN_NANOS / 2
    }

    /// Has it, or have all together, taken enough of this turn?
    #[inline]
    pub(super) fn has_had_its_turn(&self, conn: &Conn) -> bool {
        let mine = conn.turn_nanos > CONN_NANOS && conn.turn == self.stats.turns;
        mine || self.is_turn_full()
    }

    /// Is it time for the next turn?
    #[inline]
    pub(super) fn is_turn_full(&self) -> bool {
        self.turn_nanos > TURN_NANOS
    }

    /// The connection's next requests run in the next turn.
    pub(super) fn end_its_turn(&mut self, conn: &mut Conn) {
        conn.hold = Hold::Turn;
        self.stats.turns_ended += 1;
        self.clients.rested.push_back(conn.socket);
    }

    /// Goes on with connections that had to wait for this turn, before anything new is looked at: who has
    /// waited longest is first. True if there were any.
    pub(super) fn go_on_rested(&mut self) -> bool {
        let count = self.clients.rested.len();
        for _ in 0..count {
            if self.is_turn_full() {
                break;
            }
            let next = self.clients.rested.pop_front();
            if let Some(mut conn) = next.and_then(|socket| self.take_conn(socket)) {
                match (&conn.hold, conn.is_full()) {
                    (Hold::Turn, true) => conn.hold = Hold::SlowReader,
                    (Hold::Turn, false) => {
                        conn.hold = Hold::Free;
                        self.resume(&mut conn);
                    }
                    _ => {}
                }
                self.put_conn(conn);
            }
        }
        count > 0
    }

    /// Ends the clients that hold most, until all together hold less than they may. Each core does its part.
    pub(super) fn evict_clients(&mut self) {
        let limit = self.tunables.clients_memory;
        let Some(limit) = limit.limit(self.tunables.memory_max) else {
            return;
        };
        let all = self.shared.clients_bytes().max(self.clients.bytes);
        let mut excess = match all > limit {
            true => (all - limit) as u128 * self.clients.bytes as u128 / all.max(1) as u128,
            false => return,
        } as usize;
        let holds = |conn: &Conn| (conn.held_bytes(), conn.socket.index);
        let mut found: Vec<(usize, u32)> = self
            .conns()
            .filter(|conn| !conn.no_evict && conn.leaving.is_none())
            .map(holds)
            .collect();
        found.sort_unstable();
        while excess > 0
            && let Some((bytes, index)) = found.pop()
        {
            excess = excess.saturating_sub(bytes);
            self.clients.bytes = self.clients.bytes.saturating_sub(bytes);
            if let Some(mut conn) = self.take_conn_at(index) {
                self.stats.evicted_clients += 1;
                self.log_seldom(&format!(
                    "client {}: holds {bytes} bytes while maxmemory-clients is reached, closed",
                    conn.peer_text()
                ));
                self.drop_conn(&mut conn);
                self.put_conn(conn);
            }
        }
    }

    /// Ends a client that was silent, or took nothing, for too long; `stall_ms` is how long that is.
    pub(super) fn cut_if_silent(&mut self, conn: &mut Conn, stall_ms: Ms) {
        let (beat, idle_ms) = (self.beat, self.tunables.timeout_secs.saturating_mul(1000));
        if conn.owed() == 0 && !conn.sending {
            conn.progress = beat;
        }
        if beat.saturating_sub(conn.progress) > stall_ms {
            self.stats.cut_stalled += 1;
            self.log_seldom(&format!(
                "client {}: reads too slowly, closed",
                conn.peer_text()
            ));
            return self.drop_conn(conn);
        }
        let since = beat.saturating_sub(conn.since);
        if conn.tls.as_ref().is_some_and(|tls| tls.is_late(since)) {
            self.stats.cut_stalled += 1;
            self.log_seldom(&format!(
                "client {}: TLS: no handshake in time, closed",
                conn.peer_text()
            ));
            return self.drop_conn(conn);
        }
        let is_idle = idle_ms > 0 && beat.saturating_sub(conn.used) > idle_ms;
        if is_idle && conn.is_free() && !conn.is_subscribed() && !conn.monitors {
            self.stats.cut_idle += 1;
            return self.drop_conn(conn);
        }
        self.cut_if_owed_for_long(conn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Option<usize> {
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    #[test]
    fn limits_are_shown_and_read_as_redis_does() {
        let limits = OutputLimits::default();
        let shown = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(limits.to_string(), shown);
        assert_eq!(limits.changed(shown.as_bytes(), bytes), Ok(limits));
        let changed = limits.changed(b"replica 5 4 3  PUBSUB 9 8 7", bytes);
        let shown = "normal 0 0 0 slave 5 4 3 pubsub 9 8 7";
        assert_eq!(changed.map(|limits| limits.to_string()), Ok(shown.into()));
    }

    #[test]
    fn what_is_no_limit_is_told_as_redis_does() {
        let why = |text: &[u8]| OutputLimits::default().changed(text, bytes).err();
        let count = Some("Wrong number of arguments in buffer limit configuration.");
        assert_eq!(why(b""), None);
        assert_eq!(why(b"normal 0 0"), count);
        let class = Some("Invalid client class specified in buffer limit configuration.");
        assert_eq!(why(b"master 0 0 0"), class);
        let number = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
        for text in [b"normal x 0 0", b"normal 0 x 0", b"normal 0 0 x"] {
            assert_eq!(why(text), Some(number));
        }
        assert_eq!(why(b"normal 0 0 -1"), Some(number));
    }

    #[test]
    fn the_least_of_the_hard_limits_is_that_of_who_has_one() {
        let mut limits = OutputLimits::default();
        assert_eq!(limits.least(), 32 << 20);
        limits.normal.hard = 5;
        assert_eq!(limits.least(), 5);
        (limits.normal.hard, limits.told.hard) = (0, 0);
        assert_eq!(limits.least(), usize::MAX);
    }

    #[test]
    fn the_memory_of_clients_is_bytes_or_a_part() {
        let parse = |text: &[u8]| ClientsMemory::parse(text, bytes);
        assert_eq!(parse(b"7%"), Ok(ClientsMemory::Percent(7)));
        assert_eq!(ClientsMemory::Percent(7).limit(1000), Some(70));
        assert_eq!(parse(b"70"), Ok(ClientsMemory::Bytes(70)));
        assert_eq!(ClientsMemory::Bytes(0).limit(1000), None);
        assert!(parse(b"-1%").is_err() && parse(b"x").is_err() && parse(b"101%").is_err());
    }
}
