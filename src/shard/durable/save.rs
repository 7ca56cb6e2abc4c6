//! SAVE and its kin: a round of snapshots, one of each shard, and who waits for its end.

use std::sync::{Mutex, atomic::AtomicU64, atomic::Ordering::Relaxed};

use uring::SocketId;

use crate::{
    base::{Ms, parse_u64},
    cmd::Verb,
    resp::{Error, Out},
    shard::{
        conn::{Conn, Hold},
        message::Message,
        shared::lock,
        state::State,
    },
};

const NO_DIRECTORY: Error =
    Error::fixed("ERR there is no data directory to save to: start the node with --dir");
const UNDER_WAY: Error = Error::fixed("ERR Background save already in progress");
const REWRITE_UNDER_WAY: Error =
    Error::fixed("ERR Background append only file rewriting already in progress");
const FAILED: Error = Error::fixed("ERR the snapshot failed, see the log and INFO persistence");

/// After a failed round: until the next one that nobody asks for.
const RETRY_MS: Ms = 5000;

/// When snapshots are made by themselves: each so many seconds after the last good ones if there were so many
/// changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SavePoints(Vec<(u64, u64)>);

impl SavePoints {
    /// Reads pairs of seconds and changes; `None` if they are not that.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let words = text.split(u8::is_ascii_whitespace);
        let words = words.filter(|word| !word.is_empty());
        let numbers: Option<Vec<u64>> = words.map(parse_u64).collect();
        let numbers = numbers.filter(|numbers| numbers.len().is_multiple_of(2))?;
        let points = numbers.chunks(2).map(|point| (point[0], point[1]));
        // Redis refuses the same.
        let points: Vec<_> = points.collect();
        points
            .iter()
            .all(|(secs, _)| *secs > 0)
            .then_some(Self(points))
    }

    /// Is a snapshot due?
    fn is_due(&self, age: Ms, changes: u64) -> bool {
        let mut points = self.0.iter();
        changes > 0 && points.any(|(secs, least)| age / 1000 >= *secs && changes >= *least)
    }
}

impl std::fmt::Display for SavePoints {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let points = self.0.iter();
        let points: Vec<String> = points
            .map(|(secs, least)| format!("{secs} {least}"))
            .collect();
        out.write_str(&points.join(" "))
    }
}

/// The rounds of snapshots that were asked for.
#[derive(Debug, Default)]
pub struct Saves {
    /// Number of the newest round; cores look at it.
    pub round: AtomicU64,
    /// When the last good one ended; 0 before that.
    pub good_ms: AtomicU64,
    /// Changes of all cores when that one began.
    pub good_changes: AtomicU64,
    state: Mutex<Rounds>,
}

/// How the rounds went.
#[derive(Clone, Debug, Default)]
pub struct Rounds {
    /// Shards of the newest round whose snapshots are not done.
    pub open: usize,
    /// The last round that ended: its number, when it ended, and whether it failed.
    pub last: (u64, Ms, bool),
    /// When the newest round began.
    pub began: Ms,
    /// Changes of all cores before it.
    changes: u64,
    failed: bool,
}

impl Saves {
    /// Begins a round over so many shards, unless one is under way. Its number.
    fn begin(&self, shards: usize, now: Ms, changes: u64) -> Option<u64> {
        let mut rounds = lock(&self.state);
        if rounds.open > 0 {
            return None;
        }
        (rounds.open, rounds.began, rounds.failed) = (shards, now, false);
        rounds.changes = changes;
        Some(self.round.fetch_add(1, Relaxed) + 1)
    }

    /// The snapshot of one shard is done.
    pub fn end_one(&self, is_good: bool, now: Ms) {
        let mut rounds = lock(&self.state);
        rounds.failed |= !is_good;
        rounds.open = rounds.open.saturating_sub(1);
        if rounds.open == 0 {
            if !rounds.failed {
                self.good_ms.store(now, Relaxed);
                self.good_changes.store(rounds.changes, Relaxed);
            }
            rounds.last = (self.round.load(Relaxed), now, rounds.failed);
        }
    }

    /// How the rounds went.
    pub fn view(&self) -> Rounds {
        lock(&self.state).clone()
    }
}

impl State {
    /// SAVE, BGSAVE and BGREWRITEAOF: all make a snapshot of every shard. SAVE is answered at its end.
    pub(in crate::shard) fn save(&mut self, conn: &mut Conn, verb: Verb) {
        if !self.shared.durable.has_directory {
            return conn.out.error(&NO_DIRECTORY);
        }
        let Some(round) = self.begin_round() else {
            let rewrites = verb == Verb::BgRewriteAof;
            let error = if rewrites {
                REWRITE_UNDER_WAY
            } else {
                UNDER_WAY
            };
            return conn.out.error(&error);
        };
        match verb {
            Verb::Save => {
                let slot = conn.open_slot();
                conn.hold = Hold::Gather;
                self.saving.push((conn.socket, slot, round));
            }
            Verb::BgRewriteAof => conn
                .out
                .simple("Background append only file rewriting started"),
            _ => conn.out.simple("Background saving started"),
        }
    }

    fn begin_round(&mut self) -> Option<u64> {
        let shared = &self.shared;
        let (shards, changes) = (shared.settings.shards, shared.changes());
        let round = shared.durable.saves.begin(shards, self.now, changes)?;
        self.tell_all(|| Message::Frontier);
        Some(round)
    }

    /// Begins a round if one is due.
    pub(in crate::shard) fn look_at_save_points(&mut self) {
        let shared = self.shared.clone();
        let points = &self.tunables.save_points;
        if points.0.is_empty() || !shared.durable.has_directory || shared.loading.load(Relaxed) {
            return;
        }
        let (_, ended, failed) = shared.durable.saves.view().last;
        let good = shared.durable.saves.good_ms.load(Relaxed);
        let age = self.now.saturating_sub(good.max(shared.started));
        let is_early = failed && self.now.saturating_sub(ended) < RETRY_MS;
        if !is_early && points.is_due(age, shared.unsaved_changes()) {
            self.begin_round();
        }
    }

    /// When the last good round of snapshots ended; at first, when the node started.
    pub(in crate::shard) fn last_save_secs(&self) -> u64 {
        let saves = &self.shared.durable.saves;
        saves.good_ms.load(Relaxed).max(self.shared.started) / 1000
    }

    /// Answers those whose SAVE is done.
    pub(in crate::shard) fn answer_saves(&mut self) {
        if self.saving.is_empty() {
            return;
        }
        let (done, _, failed) = self.shared.durable.saves.view().last;
        let waiting: Vec<(SocketId, u64, u64)> = std::mem::take(&mut self.saving);
        for (socket, slot, round) in waiting {
            if round > done {
                self.saving.push((socket, slot, round));
            } else if let Some(mut conn) = self.take_conn(socket) {
                let mut out = Out::new(conn.out.proto);
                match failed {
                    true => out.error(&FAILED),
                    false => out.ok(),
                }
                conn.fill_slot(slot, out);
                self.wake(&mut conn);
                self.put_conn(conn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn save_points_are_pairs_of_seconds_and_changes() {
        for text in ["", "3600 1", "3600 1 300 100 60 10000"] {
            let points = SavePoints::parse(text.as_bytes()).expect("as Redis shows them");
            assert_eq!(points.to_string(), text);
        }
        let spaced = SavePoints::parse(b" 60  0 ").expect("more space is nothing");
        assert_eq!(spaced.to_string(), "60 0");
        for text in ["60", "0 1", "60 -1", "60 x", "60 1 30", "60,1"] {
            assert_eq!(SavePoints::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn any_save_point_makes_a_snapshot_due_if_something_changed() {
        let points = SavePoints::parse(b"60 1 5 100").expect("two of them");
        for (age, changes, is_due) in [
            (59_999, 99, false),
            (60_000, 1, true),
            (60_000, 0, false),
            (4999, 1000, false),
            (5000, 99, false),
            (5000, 100, true),
        ] {
            assert_eq!(points.is_due(age, changes), is_due, "{age} {changes}");
        }
        let always = SavePoints::parse(b"1 0").expect("one");
        assert!(!always.is_due(5000, 0) && always.is_due(5000, 1));
        assert!(!SavePoints::default().is_due(u64::MAX, u64::MAX));
    }
}
