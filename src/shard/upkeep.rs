//! What has no client waiting: time-outs, expiry, freeing, counters.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    message::{Message, Topics},
    oddities::{Went, odd},
    shared::{CoreStats, Rate, lock},
    state::State,
};
use crate::{base::Ms, store::DueKeys};

/// Connections that a beat looks at, or a sixteenth of them if that is more.
const CLIENTS_PER_BEAT: usize = 256;
/// Keys that one turn may expire per database.
const EXPIRE_BUDGET: usize = 200;
/// Beats over which the rates of INFO are taken.
const RATE_BEATS: usize = 16;
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
        if !self.is_hushed() && (self.memory.limit > 0 || self.memory.has_work()) {
            self.memory_background();
        }
        if self.has_digest_work() {
            worked = true;
            self.digest_on();
        }
        if let Some(shards) = self.retired.last_mut() {
            worked = true;
            let mut more = false;
            for (_, shard) in shards.iter_mut() {
                for (_, keys) in shard.databases() {
                    more |= keys.free_some(FREE_BUDGET);
                }
            }
            if !more {
                self.retired.pop();
            }
        }
        if let Some((mut held, mut load)) = self.loans.load.take() {
            worked = true;
            // The shards are in their places only while the load works on them, so that whatever else
            // wants them waits for its end.
            for (shard, lent) in held.need.iter().zip(held.got.drain(..)) {
                self.homes.shards.put(*shard, lent);
            }
            if load.step(&mut self.homes.shards) {
                for shard in &held.need {
                    self.homes.shards.forget_gone(*shard);
                }
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
        let follows = self.shared.following.load(Relaxed);
        if follows && !std::mem::replace(&mut self.followed, follows) {
            self.end_blocks();
        }
        self.followed = follows;
        if self.is_scoped {
            self.heed_scopes();
        }
        self.end_pause(now);
        self.watched("expire-cycle", |state| state.expire(now));
        self.look_after_clients(stall_ms);
        self.end_accept_failure();
        self.track_uses();
        self.set_untimed();
        self.publish();
        let stats = &self.shared.stats[self.me];
        stats.cpu_ns.store(uring::sys::thread_cpu_ns(), Relaxed);
        if self.me == 0 {
            self.note_rate();
            self.look_at_save_points();
            self.count_good_replicas();
        }
    }

    fn count_good_replicas(&self) {
        let (shared, tunables) = (&self.shared, &self.tunables);
        let (least, lag_max) = (tunables.replicas_min, tunables.replica_lag_max_secs);
        let lacks = least > 0
            && lag_max > 0
            && !shared.following.load(Relaxed)
            && shared.good_replicas(lag_max, self.now) < least;
        shared.lacks_replicas.store(lacks, Relaxed);
    }

    /// Closes clients that are idle or read too slowly, and adds up what all hold. Of many connections a beat
    /// looks at a part, so that those that do nothing cost next to nothing.
    fn look_after_clients(&mut self, stall_ms: Ms) {
        let len = self.clients.places.len();
        let from = self.clients.swept.min(len);
        let to = (from + CLIENTS_PER_BEAT.max(len / 16)).min(len);
        for index in from..to {
            let Some(mut conn) = self.take_conn_at(index as u32) else {
                continue;
            };
            self.clients.sweeping += conn.held_bytes();
            self.cut_if_silent(&mut conn, stall_ms);
            self.put_conn(conn);
        }
        self.clients.swept = to;
        if to == len {
            self.clients.swept = 0;
            self.clients.bytes = std::mem::take(&mut self.clients.sweeping);
            self.evict_clients();
        }
    }

    /// Takes over what CONFIG SET changed.
    #[inline]
    pub(super) fn heed_tunables(&mut self) {
        if self.shared.tunables_version.load(Relaxed) != self.tunables_version {
            self.read_tunables();
        }
    }

    /// Records, as a unit for each shard that is here, what went without a command.
    pub(super) fn record_gone(&mut self) {
        if !self.homes.shards.records() || self.homes.shards.unit_is_open() {
            return;
        }
        for shard in self.homes.own() {
            self.homes.shards.record_gone(shard);
            self.homes.shards.end_unit();
        }
    }

    /// Removes some keys that are due; the next turn goes on if more are.
    fn expire(&mut self, now: Ms) {
        self.remove_due(now);
        self.record_gone();
        self.hear_all();
    }

    fn remove_due(&mut self, now: Ms) {
        self.more_due = false;
        let is_held = self.pause.is_some() || self.is_frozen || self.is_hushed();
        if is_held || !self.shared.expires_by_itself.load(Relaxed) {
            return;
        }
        // Redis says when a key goes. A replica of a primary that does not must do this by its own clock.
        if self.shared.primary_expires.load(Relaxed) {
            for shard in self.homes.own() {
                if self.homes.shards.has(shard) {
                    let home = self.homes.shards.shard(shard);
                    home.set_due_keys(DueKeys::Hidden);
                }
            }
            return;
        }
        for shard in self.homes.own() {
            if !self.homes.shards.has(shard) {
                continue;
            }
            self.homes.shards.shard(shard).set_due_keys(DueKeys::Go);
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
        stats.changes.store(self.stats.changes, Relaxed);
        stats
            .protocol_errors
            .store(self.stats.protocol_errors, Relaxed);
        for (shown, count) in [
            (&stats.cut_output, self.stats.cut_output),
            (&stats.cut_input, self.stats.cut_input),
            (&stats.cut_idle, self.stats.cut_idle),
            (&stats.cut_stalled, self.stats.cut_stalled),
            (&stats.evicted_clients, self.stats.evicted_clients),
            (&stats.turns_ended, self.stats.turns_ended),
            (&stats.not_accepted, self.stats.not_accepted),
        ] {
            shown.store(count, Relaxed);
        }
        self.publish_memory();
    }

    /// Notes how fast the counters of all cores grew over the last second or so.
    fn note_rate(&mut self) {
        let sum = |counter: fn(&CoreStats) -> u64| self.shared.sum(counter);
        let newest = (
            self.now,
            sum(|stats| stats.commands.load(Relaxed)),
            sum(|stats| stats.bytes_in.load(Relaxed)),
            sum(|stats| stats.bytes_out.load(Relaxed)),
        );
        self.beats.push_back(newest);
        if self.beats.len() > RATE_BEATS {
            self.beats.pop_front();
        }
        let Some(oldest) = self.beats.front() else {
            return;
        };
        let millis = newest.0.saturating_sub(oldest.0).max(1);
        let per_second = |newest: u64, oldest: u64| newest.saturating_sub(oldest) * 1000 / millis;
        *lock(&self.shared.rate) = Rate {
            commands: per_second(newest.1, oldest.1),
            bytes_in: per_second(newest.2, oldest.2),
            bytes_out: per_second(newest.3, oldest.3),
        };
    }

    /// Logs a line, at most one per second of such lines.
    pub(super) fn log_seldom(&mut self, line: &str) {
        if self.now.saturating_sub(self.last_log) >= 1000 {
            self.last_log = self.now;
            super::log(line);
        }
    }
}
