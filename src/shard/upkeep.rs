//! What has no client waiting: time-outs, expiry, freeing, counters, the slow log.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    conn::Conn,
    core::micros_since,
    message::{Message, Topics},
    oddities::{Went, odd},
    shared::{SlowEntry, lock},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{Spec, flag},
    resp::Args,
};

/// Keys that one turn may expire per database.
const EXPIRE_BUDGET: usize = 200;
/// Elements that one turn may free.
const FREE_BUDGET: usize = 256;

impl State {
    /// A bounded piece of what has no client waiting; true if something was done.
    pub(super) fn background(&mut self) -> bool {
        let mut worked = false;
        if self.odd != 0 {
            self.broadcast_invalid();
            self.deliver_news(None);
            self.deliver_lines(None);
        }
        for message in std::mem::take(&mut self.published) {
            match message {
                Message::Published(channel, text) => {
                    self.deliver(None, Topics::Channels, &channel, &text);
                }
                Message::ShardPublished(channel, text) => {
                    self.deliver(None, Topics::Shards, &channel, &text);
                }
                _ => {}
            }
        }
        if self.more_due {
            self.expire(self.now);
        }
        if self.memory.limit > 0 || self.memory.has_work() {
            self.memory_background();
        }
        if let Some((mut held, mut load)) = self.loans.load.take() {
            worked = true;
            // The shards are in their places only while the load works on them, so that whatever else
            // wants them waits for its end.
            for (shard, lent) in held.need.iter().zip(held.got.drain(..)) {
                self.homes.shards.put(*shard, lent);
            }
            if load.step(&mut self.homes.shards, self.now) {
                self.end_load(&held.need, *load);
            } else {
                held.got.extend(
                    held.need
                        .iter()
                        .filter_map(|shard| self.homes.shards.take(*shard)),
                );
                self.loans.load = Some((held, load));
            }
        } else if self.freeing {
            self.freeing = false;
            for shard in self.homes.own() {
                if self.homes.shards.has(shard) {
                    for (_, keys) in self.homes.shards.shard(shard).databases() {
                        self.freeing |= keys.free_some(FREE_BUDGET);
                    }
                }
            }
        }
        worked
    }

    /// The beat: time-outs, expiry, counters.
    pub(super) fn tick(&mut self, stall_ms: Ms) {
        let now = self.now;
        while let Some((deadline, index)) = self.waits.deadlines.first().copied() {
            if deadline > now {
                break;
            }
            self.waits.deadlines.pop_first();
            if let Some(mut conn) = self.take_conn_at(index) {
                self.give_up(&mut conn);
                self.put_conn(conn);
            }
        }
        self.end_pause(now);
        self.expire(now);
        let beat = self.beat;
        let idle_ms = self.tunables.timeout_secs.saturating_mul(1000);
        for index in 0..self.clients.places.len() {
            let Some(conn) = &mut self.clients.places[index] else {
                continue;
            };
            if conn.owed() == 0 && !conn.sending {
                conn.progress = beat;
            }
            let stalled = beat.saturating_sub(conn.progress) > stall_ms;
            let idle = idle_ms > 0
                && beat.saturating_sub(conn.used) > idle_ms
                && conn.is_free()
                && !conn.is_subscribed();
            if (stalled || idle)
                && let Some(mut conn) = self.take_conn_at(index as u32)
            {
                if stalled {
                    self.log_seldom(&format!(
                        "client {}: reads too slowly, closed",
                        conn.peer_text()
                    ));
                }
                self.drop_conn(&mut conn);
                self.put_conn(conn);
            }
        }
        self.track_uses();
        self.publish();
    }

    /// Takes over what CONFIG SET changed.
    #[inline]
    pub(super) fn heed_tunables(&mut self) {
        if self.shared.tunables_version.load(Relaxed) != self.tunables_version {
            self.read_tunables();
        }
    }

    /// Removes some keys that are due; the next turn goes on if more are.
    fn expire(&mut self, now: Ms) {
        self.more_due = false;
        if self.pause.is_some() {
            return;
        }
        // A replica of a primary that sends no DEL for expired keys must do this by its own clock too.
        for shard in self.homes.own() {
            if !self.homes.shards.has(shard) {
                continue;
            }
            let mut expired = Vec::new();
            let listened = self.homes.has_listeners() || self.odd & odd::EVENTS != 0;
            for (db, keys) in self.homes.shards.shard(shard).databases() {
                let mut count = 0;
                self.more_due |= keys.expire_due(now, EXPIRE_BUDGET, |key| {
                    count += 1;
                    if listened {
                        expired.push((db, key.to_vec()));
                    }
                });
                self.stats.expired += count;
                self.freeing |= count > 0;
            }
            let mut heard = Vec::new();
            for (db, key) in expired {
                self.key_went(shard, db, &key, Went::Expired, &mut heard);
            }
            self.note_heard(heard);
        }
        self.hear_all();
    }

    pub(super) fn publish(&mut self) {
        let stats = &self.shared.stats[self.me];
        stats.commands.store(self.stats.commands, Relaxed);
        stats.accepted.store(self.stats.accepted, Relaxed);
        stats.refused.store(self.stats.refused, Relaxed);
        stats.clients.store(self.clients.count, Relaxed);
        stats.blocked.store(self.stats.blocked, Relaxed);
        stats.subscribed.store(self.subs.local_len(), Relaxed);
        stats.trackers.store(self.tracked.clients, Relaxed);
        let [keys, items, prefixes] = self.tracked.sizes();
        stats.tracked_keys.store(keys, Relaxed);
        stats.tracked_items.store(items, Relaxed);
        stats.tracked_prefixes.store(prefixes, Relaxed);
        stats.bytes_in.store(self.stats.bytes_in, Relaxed);
        stats.bytes_out.store(self.stats.bytes_out, Relaxed);
        stats.turns.store(self.stats.turns, Relaxed);
        stats.expired.store(self.stats.expired, Relaxed);
        stats
            .protocol_errors
            .store(self.stats.protocol_errors, Relaxed);
        self.publish_memory();
    }

    /// The start of a command that may be slow.
    pub(super) fn slow_clock(&self, spec: &Spec) -> Option<Instant> {
        (self.tunables.slow_us >= 0 && spec.flags & (flag::FAST | flag::QUICK) == 0)
            .then(Instant::now)
    }

    /// Notes a slow command. Which client sent it is not known where it is run for another core.
    pub(super) fn note_slow(&mut self, conn: Option<&Conn>, args: Args<'_>, start: Instant) {
        let us = micros_since(start);
        if us < self.tunables.slow_us as u64 {
            return;
        }
        let mut guard = lock(&self.shared.slow);
        let (next, entries) = &mut *guard;
        let args = args
            .iter()
            .take(32)
            .map(|arg| arg[..arg.len().min(128)].to_vec())
            .collect();
        entries.push_front(SlowEntry {
            id: *next,
            at_secs: self.now / 1000,
            us,
            args,
            peer: conn.map(Conn::peer_text).unwrap_or_default(),
            name: conn.map(|conn| conn.name.clone()).unwrap_or_default(),
        });
        *next += 1;
        entries.truncate(self.tunables.slow_len);
    }

    /// Logs a line, at most one per second of such lines.
    pub(super) fn log_seldom(&mut self, line: &str) {
        if self.now.saturating_sub(self.last_log) >= 1000 {
            self.last_log = self.now;
            super::log(line);
        }
    }
}
