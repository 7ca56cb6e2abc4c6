//! SAVE and its kin: a round of snapshots, one of each shard, and who waits for its end.

use std::sync::{Mutex, atomic::AtomicU64, atomic::Ordering::Relaxed};

use uring::SocketId;

use crate::{
    base::Ms,
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

/// The rounds of snapshots that were asked for.
#[derive(Debug, Default)]
pub struct Saves {
    /// Number of the newest round; cores look at it.
    pub round: AtomicU64,
    /// When the last good one ended; 0 before that.
    pub good_ms: AtomicU64,
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
    failed: bool,
}

impl Saves {
    /// Begins a round over so many shards, unless one is under way. Its number.
    fn begin(&self, shards: usize, now: Ms) -> Option<u64> {
        let mut rounds = lock(&self.state);
        if rounds.open > 0 {
            return None;
        }
        (rounds.open, rounds.began, rounds.failed) = (shards, now, false);
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
        let shards = self.shared.settings.shards;
        let Some(round) = self.shared.durable.saves.begin(shards, self.now) else {
            let rewrites = verb == Verb::BgRewriteAof;
            let error = if rewrites {
                REWRITE_UNDER_WAY
            } else {
                UNDER_WAY
            };
            return conn.out.error(&error);
        };
        for core in (0..self.mesh.cores()).filter(|core| *core != self.me) {
            self.mesh.send(core, Message::Frontier);
        }
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
