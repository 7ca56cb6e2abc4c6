//! Sampling and removing the keys of a keyspace that memory is short for.

use super::{Found, Head, Keyspace};
use crate::{
    base::{Ms, Rng},
    store::{
        entry::{DEADLINE, Lfu, clock_of, idle},
        evict::{Candidate, EvictionPool, Policy},
    },
};

/// What is looked for, and where.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// What is to be evicted.
    pub policy: Policy,
    /// Keys to look at.
    pub count: usize,
    /// How the caller numbers this keyspace.
    pub place: usize,
}

impl Keyspace {
    /// How many keys the policy may evict.
    pub fn evictable(&self, policy: Policy) -> usize {
        match policy {
            Policy::NoEviction => 0,
            _ if policy.is_volatile() => self.expiring,
            _ => self.len(),
        }
    }

    /// Looks at some keys by chance, and offers those that may be evicted to the pool. It may meet none,
    /// even if there are some.
    pub fn sample(&mut self, sampling: Sampling, pool: &mut EvictionPool, rng: &mut Rng, now: Ms) {
        self.settle();
        self.clock = self.clock_at(now);
        let Sampling { policy, count, .. } = sampling;
        if policy == Policy::VolatileTtl
            && let Some(cell) = self.expiry.nearest()
        {
            return self.offer(cell, sampling, pool, rng, now);
        }
        let volatile = policy.is_volatile();
        if volatile && self.expiring.saturating_mul(VOLATILE_SPARSE) < self.len() {
            for _ in 0..count {
                if let Some(cell) = self.expiry.sample(now, rng) {
                    self.offer(cell, sampling, pool, rng, now);
                }
            }
            return;
        }
        let looks = if volatile {
            (count * self.len()).div_ceil(self.expiring.max(1))
        } else {
            count
        };
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        self.table
            .sample(rng.next_u64(), looks, |entry| batch.push(entry));
        for cell in batch.iter().map(|entry| entry.cell()) {
            self.offer(cell, sampling, pool, rng, now);
        }
        self.batch = batch;
    }

    /// Removes a candidate, unless it is no longer what was offered: another key, or one that has been
    /// used since, or has lost its deadline. True if it was removed; `visit` then was given its name.
    pub fn evict(
        &mut self,
        candidate: Candidate,
        policy: Policy,
        now: Ms,
        visit: impl FnOnce(&[u8]),
    ) -> bool {
        self.settle();
        self.clock = self.clock_at(now);
        // The cell's memory may be gone: only what the table still names may be read.
        let slot = self
            .table
            .find(candidate.hash, |entry| entry.cell() == candidate.cell);
        let Some((at, entry)) = slot else {
            return false;
        };
        let head = Head::read(self.cells.arena.at(entry.cell()));
        if policy.is_volatile() && !head.has(DEADLINE) {
            return false;
        }
        if !policy.is_random() && self.score(entry.cell(), policy, now) < candidate.score {
            return false;
        }
        visit(self.cells.key(entry.cell()));
        self.bury(Found { at, entry, head });
        true
    }

    fn offer(
        &self,
        cell: u64,
        sampling: Sampling,
        pool: &mut EvictionPool,
        rng: &mut Rng,
        now: Ms,
    ) {
        let Sampling { policy, place, .. } = sampling;
        let head = Head::read(self.cells.arena.at(cell));
        if policy.is_volatile() && !head.has(DEADLINE) {
            return;
        }
        let score = if policy.is_random() {
            rng.next_u64()
        } else {
            self.score(cell, policy, now)
        };
        if pool.wants(score) {
            let hash = self.cells.hash(self.cells.key(cell));
            pool.offer(Candidate {
                place,
                hash,
                cell,
                score,
            });
        }
    }

    /// How soon a key should go; it grows while the key is not used, but for what that adds to every key
    /// alike, so that scores of different times can be compared.
    fn score(&self, cell: u64, policy: Policy, now: Ms) -> u64 {
        let bytes = self.cells.arena.at(cell);
        let head = Head::read(bytes);
        match policy {
            Policy::VolatileTtl => u64::MAX - head.deadline(bytes).unwrap_or(Ms::MAX),
            Policy::AllKeysLfu | Policy::VolatileLfu => {
                let Some(lfu) = self.lfu else {
                    return 0;
                };
                let counter = lfu.counter(head.clock(), self.clock);
                // Of those used equally often, the one that was not used for longest.
                u64::from(u8::MAX as u32 - counter) << 16
                    | u64::from(Lfu::age(head.clock(), self.clock))
            }
            _ => u64::MAX - (now / 1000).saturating_sub(idle(head.clock(), clock_of(now))),
        }
    }
}

/// With fewer keys with a deadline than one in this many, chance looks for them in the index of
/// deadlines, and not among all keys.
const VOLATILE_SPARSE: usize = 32;
