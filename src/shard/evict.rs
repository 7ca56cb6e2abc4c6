//! The memory limit: how much is used, what goes when it is too much, and who is refused.
//!
//! The limit holds for the node. Each core counts its own shards exactly and publishes the sum once per
//! turn; it compares the limit with its own count of this moment plus what the others published. A command
//! that may grow memory makes room where it runs before it runs: its core evicts its part of the excess, as
//! large as its part of what is used, so that the cores' parts follow what is written to them. Every core
//! goes on with that in the background of its turns while the node is above the limit.
//!
//! Memory may exceed the limit by what one command adds, by what the other cores add in one turn, and,
//! where values much larger than the evicted ones come in, by what [`EVICTED_PER_COMMAND`] is too little
//! for; the background then catches up.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    conn::Conn,
    durable::Fsync,
    oddities::{Went, odd},
    shared::{DbSize, lock},
    state::State,
};
use crate::{
    cmd::{Spec, Tracking, flag},
    resp::Error,
    store::{EvictionPool, Lfu, Policy, Sampling},
};

pub(super) const OUT_OF_MEMORY: Error =
    Error::fixed("OOM command not allowed when used memory > 'maxmemory'.");
/// Keys that one command may evict.
const EVICTED_PER_COMMAND: usize = 256;
/// Keys that one turn may evict in the background.
const EVICTED_PER_TURN: usize = 512;
/// Samples in a row that may meet no key before chance is tried again later.
const MISSES_MAX: usize = 64;
/// Keyspaces that one sample looks into.
const PLACES_PER_SAMPLE: usize = 4;
/// Elements of removed values that a command frees while memory is short.
const FREED_PER_COMMAND: usize = 256;
/// Collections of a keyspace that one turn counts.
const COUNTED_PER_TURN: u32 = 1024;
/// Shards that are counted afresh for each command; with more of them, only every so many commands count.
const SHARDS_PER_COUNT: u32 = 8;

/// What this core knows of the node's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The limit in force; 0 without one, and while this node follows a primary or loads a snapshot.
    pub limit: usize,
    /// What the core itself holds, and how many keys of it may go.
    own: Share,
    /// The same for all other cores.
    others: Share,
    /// The last count of each shard, for the time that it is away.
    shards: Vec<Share>,
    pool: EvictionPool,
    /// The policy that the pool's scores are about.
    policy: Policy,
    /// Keyspaces with keys that may go: shard and database.
    places: Vec<(usize, usize)>,
    next_place: usize,
    /// Commands until the shards are counted afresh.
    until_count: u32,
    /// Writes of the script that runs now are refused, but for what it removes.
    pub script_is_refused: bool,
    /// Collections are being counted.
    counting: bool,
    /// The background has evicted and there is more to do.
    more: bool,
}

/// A part of the node's memory.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    used: usize,
    /// What is waiting to be freed, not in `used`.
    waiting: usize,
    evictable: usize,
}

impl Share {
    fn add(&mut self, other: Share) {
        self.used += other.used;
        self.waiting += other.waiting;
        self.evictable += other.evictable;
    }
}

impl Memory {
    /// Has the background something to do?
    pub(super) fn has_work(&self) -> bool {
        self.counting || self.more
    }
}

impl State {
    /// Takes in changed parameters; then, if memory is limited, counts and tells the other cores.
    #[inline]
    pub(super) fn begin_memory(&mut self) {
        self.heed_tunables();
        let limit = self.tunables.memory_max;
        if limit > 0 || self.memory.limit > 0 {
            self.begin_limited(limit);
        }
    }

    fn begin_limited(&mut self, limit: usize) {
        // What a primary sends must be kept, whatever it takes; the primary evicts.
        let is_free = !self.shared.following.load(Relaxed) && !self.shared.loading.load(Relaxed);
        self.memory.limit = if is_free { limit } else { 0 };
        self.count_memory();
        let own = self.memory.own;
        let stats = &self.shared.stats[self.me];
        stats.used.store(own.used, Relaxed);
        stats.waiting.store(own.waiting, Relaxed);
        stats.evictable.store(own.evictable, Relaxed);
        let mut others = Share::default();
        for (core, stats) in self.shared.stats.iter().enumerate() {
            if core != self.me {
                others.add(Share {
                    used: stats.used.load(Relaxed),
                    waiting: stats.waiting.load(Relaxed),
                    evictable: stats.evictable.load(Relaxed),
                });
            }
        }
        self.memory.others = others;
    }

    /// Copies the parameters that CONFIG SET changes.
    pub(super) fn read_tunables(&mut self) {
        self.tunables_version = self.shared.tunables_version.load(Relaxed);
        self.tunables = self
            .shared
            .tunables
            .read()
            .map(|tunables| tunables.clone())
            .unwrap_or_default();
        self.limits.bulk_len_max = self.tunables.bulk_len_max;
        self.output_least = self.tunables.output_limits.least();
        // From now on, not from the next beat on: whoever set it has been told so.
        if self.tunables.fsync == Fsync::Always && self.shared.settings.journals {
            self.gate.wait_for_disk(true);
        }
        let election = self.shared.election.as_ref();
        let others = election.map_or(0, |election| election.others_needed.load(Relaxed));
        let waits = self.tunables.quorum_writes && others > 0;
        self.gate.wait_for_majority(waits);
        self.note_events();
        if self.memory.policy != self.tunables.policy {
            self.memory.policy = self.tunables.policy;
            self.memory.pool.clear();
        }
        self.track_uses();
    }

    /// Has the shards that are here keep track of what the policy needs. Called at every beat, too, for
    /// those that were away.
    pub(super) fn track_uses(&mut self) {
        let tunables = &self.tunables;
        let tracking = Tracking {
            lfu: tunables.policy.counts_uses().then_some(Lfu {
                log_factor: tunables.lfu_log_factor,
                decay_minutes: tunables.lfu_decay_minutes,
            }),
            collections: tunables.memory_max > 0,
        };
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                self.homes.shards.shard(shard).track(tracking, self.now);
            }
        }
        self.memory.counting = tracking.collections;
    }

    /// Counts what the shards of this core hold. Those that are away count as they did last.
    fn count_memory(&mut self) {
        let policy = self.memory.policy;
        self.memory
            .shards
            .resize(self.homes.shards.count(), Share::default());
        let mut own = Share::default();
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                let mut share = Share::default();
                for (_, keys) in self.homes.shards.shard(shard).databases() {
                    share.add(Share {
                        used: keys.used_bytes(),
                        waiting: keys.waiting_bytes(),
                        evictable: keys.evictable(policy),
                    });
                }
                self.memory.shards[shard] = share;
            }
            own.add(self.memory.shards[shard]);
        }
        own.used += self.clients.bytes;
        self.memory.own = own;
        self.memory.until_count = self.homes.own().count() as u32 / SHARDS_PER_COUNT;
    }

    /// Publishes what INFO and MEMORY tell of this core.
    pub(super) fn publish_memory(&mut self) {
        self.count_memory();
        let own = self.memory.own;
        let stats = &self.shared.stats[self.me];
        stats.used.store(own.used, Relaxed);
        stats.waiting.store(own.waiting, Relaxed);
        stats.evictable.store(own.evictable, Relaxed);
        stats.evicted.store(self.stats.evicted, Relaxed);
        stats.clients_bytes.store(self.clients.bytes, Relaxed);
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                let mut sizes = vec![DbSize::default(); self.shared.settings.databases];
                for (db, keys) in self.homes.shards.shard(shard).databases() {
                    sizes[db] = DbSize {
                        keys: keys.len(),
                        expiring: keys.expiring(),
                        table_bytes: keys.table_bytes(),
                        expiry_bytes: keys.expiry_bytes(),
                        spare_bytes: keys.spare_bytes(),
                    };
                }
                *lock(&self.shared.sizes[shard]) = sizes;
            }
        }
        self.shared
            .used_peak
            .fetch_max(self.shared.used_bytes(), Relaxed);
    }

    /// Bytes above the limit.
    fn excess(&self) -> usize {
        let Memory {
            own, others, limit, ..
        } = &self.memory;
        (own.used + others.used).saturating_sub(*limit)
    }

    /// Makes room for a command that may grow memory; false if there is none, and it has to be refused.
    pub(super) fn make_room(&mut self) -> bool {
        match self.memory.until_count.checked_sub(1) {
            Some(left) => self.memory.until_count = left,
            None => self.count_memory(),
        }
        let Memory { own, others, .. } = &self.memory;
        let held = own.used + own.waiting + others.used + others.waiting;
        if own.waiting > 0 && held > self.memory.limit {
            self.free_some(FREED_PER_COMMAND);
        }
        if self.excess() == 0 {
            return true;
        }
        self.evict_some(EVICTED_PER_COMMAND);
        !self.is_out_of_room()
    }

    /// Is the node above its limit, and nothing may go?
    fn is_out_of_room(&self) -> bool {
        self.excess() > 0 && self.memory.own.evictable + self.memory.others.evictable == 0
    }

    /// Makes room for a script, which is told by its first write that there is none.
    /// Between the commands of a transaction nothing is evicted.
    pub(super) fn make_room_for_script(&mut self, from_primary: bool, may_evict: bool) {
        self.memory.script_is_refused = match self.memory.limit > 0 && !from_primary {
            false => false,
            true if may_evict => !self.make_room(),
            true => self.is_out_of_room(),
        };
    }

    /// May a client's command run, as far as memory goes? Keys may be evicted for it.
    pub(super) fn has_room_for(&mut self, conn: &mut Conn, spec: &Spec) -> bool {
        let grows = |spec: &Spec| spec.flags & flag::DENY_OOM != 0;
        let needs_room = match &conn.multi {
            // Queueing takes memory, too.
            Some(multi) => match spec.name {
                "EXEC" => multi.queued.iter().any(|(spec, _)| grows(spec)),
                "DISCARD" | "QUIT" | "RESET" => false,
                _ => true,
            },
            None => grows(spec),
        };
        if !needs_room {
            return true;
        }
        let has_room = self.make_room();
        // A transaction that watches an evicted key must know before it runs.
        self.hear_beside(conn);
        has_room
    }

    /// Refuses a command for want of memory.
    pub(super) fn refuse_for_memory(&mut self, conn: &mut Conn, spec: &Spec) {
        if spec.name != "EXEC" {
            return self.refuse(conn, Some(spec), &OUT_OF_MEMORY);
        }
        self.discard(conn);
        conn.out.error(&Error::text(format!(
            "EXECABORT Transaction discarded because of: {}",
            OUT_OF_MEMORY.as_str()
        )));
    }

    /// A turn's piece of counting and evicting. All connections are in their places.
    pub(super) fn memory_background(&mut self) {
        self.memory.more = false;
        if self.memory.counting {
            self.memory.counting = false;
            for shard in self.homes.own() {
                if self.homes.shards.has(shard) {
                    for (_, keys) in self.homes.shards.shard(shard).databases() {
                        self.memory.counting |= keys.count_some(COUNTED_PER_TURN);
                    }
                }
            }
        }
        if self.memory.limit == 0 || self.memory.policy == Policy::NoEviction || self.is_frozen {
            return;
        }
        self.count_memory();
        if self.excess() > 0 {
            let before = self.stats.evicted;
            self.evict_some(EVICTED_PER_TURN);
            self.memory.more = self.stats.evicted > before && self.excess() > 0;
            self.hear_all();
        }
    }

    /// Evicts this core's part of the excess, up to `budget` keys.
    fn evict_some(&mut self, mut budget: usize) {
        let policy = self.memory.policy;
        let own = self.memory.own.used as u128;
        let all = (own + self.memory.others.used as u128).max(1);
        let goal = (self.excess() as u128 * own).div_ceil(all) as usize;
        let floor = self.memory.own.used.saturating_sub(goal);
        self.memory.places.clear();
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                for (db, keys) in self.homes.shards.shard(shard).databases() {
                    if keys.evictable(policy) > 0 {
                        self.memory.places.push((shard, db));
                    }
                }
            }
        }
        let mut misses = 0;
        while self.memory.own.used > floor && budget > 0 && misses < MISSES_MAX {
            self.sample_keys();
            if self.evict_one() {
                budget -= 1;
                misses = 0;
            } else if self.memory.places.is_empty() {
                break;
            } else {
                misses += 1;
            }
        }
        self.record_gone();
    }

    /// Looks for candidates.
    fn sample_keys(&mut self) {
        let policy = self.memory.policy;
        for _ in 0..PLACES_PER_SAMPLE.min(self.memory.places.len()) {
            self.memory.next_place += 1;
            let at = self.memory.next_place % self.memory.places.len();
            let (shard, db) = self.memory.places[at];
            let keys = self.homes.shards.keyspace(shard, db);
            if keys.evictable(policy) == 0 {
                self.memory.places.swap_remove(at);
                if self.memory.places.is_empty() {
                    return;
                }
                continue;
            }
            let count = if policy.is_random() {
                1
            } else {
                self.tunables.memory_samples
            };
            let sampling = Sampling {
                policy,
                count,
                place: shard * self.shared.settings.databases + db,
            };
            keys.sample(sampling, &mut self.memory.pool, &mut self.rng, self.now);
        }
    }

    /// Evicts the best candidate that still is one; false if there is none.
    fn evict_one(&mut self) -> bool {
        let policy = self.memory.policy;
        let databases = self.shared.settings.databases;
        while let Some(candidate) = self.memory.pool.pop() {
            let (shard, db) = (candidate.place / databases, candidate.place % databases);
            if !self.homes.shards.has(shard) {
                continue;
            }
            let keys = self.homes.shards.keyspace(shard, db);
            let (before, could) = (keys.used_bytes(), keys.evictable(policy));
            let wants_name = self.homes.has_listeners() || self.odd & odd::EVENTS != 0;
            let keys = self.homes.shards.keyspace(shard, db);
            let mut name = None;
            let evicted = keys.evict(candidate, policy, self.now, |key| {
                if wants_name {
                    name = Some(key.to_vec());
                }
            });
            if !evicted {
                continue;
            }
            let freed = before.saturating_sub(keys.used_bytes());
            let gone = could.saturating_sub(keys.evictable(policy));
            for share in [&mut self.memory.own, &mut self.memory.shards[shard]] {
                share.used = share.used.saturating_sub(freed);
                share.evictable = share.evictable.saturating_sub(gone);
            }
            self.stats.evicted += 1;
            self.freeing = true;
            if let Some(name) = name {
                let mut heard = Vec::new();
                self.key_went(shard, db, &name, Went::Evicted, &mut heard);
                self.note_heard(heard);
            }
            return true;
        }
        false
    }

    /// Frees a piece of what was removed.
    fn free_some(&mut self, budget: usize) {
        for shard in self.homes.own() {
            if self.homes.shards.has(shard) {
                for (_, keys) in self.homes.shards.shard(shard).databases() {
                    if keys.waiting_bytes() > 0 {
                        self.freeing |= keys.free_some(budget);
                    }
                }
            }
        }
    }
}
