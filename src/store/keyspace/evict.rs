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
            .sample(rng.next_u64(), rng.next_u64(), looks, |entry| {
                batch.push(entry)
            });
        for entry in &batch {
            self.offer(entry.cell(), sampling, pool, rng, now);
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
        self.bury_gone(Found { at, entry, head });
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::store::{Hash, List, Set, Zset};

    const START: Ms = 1_000_000_000_000;

    fn key(at: u64) -> Vec<u8> {
        format!("key:{at}").into_bytes()
    }

    /// Evicts one key; its name.
    fn evict(space: &mut Keyspace, pool: &mut EvictionPool, policy: Policy, now: Ms) -> Vec<u8> {
        let mut rng = Rng::seeded(now ^ space.len() as u64);
        for _ in 0..1000 {
            let sampling = Sampling {
                policy,
                count: 5,
                place: 0,
            };
            space.sample(sampling, pool, &mut rng, now);
            while let Some(candidate) = pool.pop() {
                let mut name = None;
                if space.evict(candidate, policy, now, |key| name = Some(key.to_vec())) {
                    return name.expect("what is evicted is visited");
                }
            }
        }
        panic!("nothing can be evicted");
    }

    #[test]
    fn only_keys_with_a_deadline_are_evicted_where_the_policy_says_so() {
        // Few and many keys with a deadline: found by the index, and among all keys.
        for every in [2, 100] {
            for (_, policy) in Policy::ALL {
                if !policy.is_volatile() {
                    continue;
                }
                let mut space = Keyspace::new(3);
                let mut pool = EvictionPool::default();
                for at in 0..5_000 {
                    let deadline = (at % every == 0).then(|| START + 10_000_000 - at * 2_000);
                    space.set_string(&key(at), b"value", deadline);
                }
                // The deadline of a field is none of the key.
                space
                    .get_or_create::<Hash>(b"hash", START)
                    .expect("a hash")
                    .set(b"field", b"value");
                let mut gone = Vec::new();
                while space.evictable(policy) > 0 {
                    gone.push(evict(&mut space, &mut pool, policy, START));
                }
                assert_eq!(gone.len() as u64, 5_000u64.div_ceil(every), "{policy:?}");
                if policy == Policy::VolatileTtl {
                    let want: Vec<_> = (0..5_000)
                        .rev()
                        .filter(|at| at % every == 0)
                        .map(key)
                        .collect();
                    assert_eq!(gone, want);
                }
                gone.sort();
                gone.dedup();
                assert_eq!(gone.len() as u64, 5_000u64.div_ceil(every));
                assert_eq!(space.len() as u64, 5_001 - 5_000u64.div_ceil(every));
                assert_eq!(space.expiring(), 0);
            }
        }
    }

    #[test]
    fn a_candidate_that_changed_meanwhile_stays() {
        let mut space = Keyspace::new(4);
        let mut rng = Rng::seeded(4);
        let mut pool = EvictionPool::default();
        let policy = Policy::VolatileLru;
        for at in 0..4 {
            space.set_string(&key(at), b"value", Some(START + 1_000_000));
        }
        let sampling = Sampling {
            policy,
            count: 100,
            place: 7,
        };
        space.sample(sampling, &mut pool, &mut rng, START);
        let later = START + 60_000;
        // Used, without a deadline, gone, and gone with its memory used by another key.
        assert!(space.contains(&key(0), later));
        space.set_deadline(&key(1), None, later);
        space.remove(&key(2), later);
        space.remove(&key(3), later);
        space.set_string(b"new:1", b"value", Some(START + 1_000_000));
        for _ in 0..4 {
            let candidate = pool.pop().expect("all were offered");
            assert_eq!(candidate.place, 7);
            assert!(!space.evict(candidate, policy, later, |_| ()));
        }
        assert_eq!(space.len(), 3);
    }

    /// A zipfian choice among `range` things, by rejection of none: the inverse of the sum is close enough.
    fn zipf(rng: &mut Rng, range: u64) -> u64 {
        let part = rng.below(1 << 32) as f64 / (1u64 << 32) as f64;
        let rank = ((range as f64).powf(part) - 1.0) as u64;
        // Ranks are spread, so that neighbours in number are no neighbours in use.
        rank.wrapping_mul(7919) % range
    }

    /// Hits per thousand of a cache of `room` keys under a zipfian load.
    fn hits(policy: Policy, room: usize) -> u64 {
        let range = 20_011;
        let mut space = Keyspace::new(11);
        let mut pool = EvictionPool::default();
        let mut rng = Rng::seeded(12);
        space.track(
            policy.counts_uses().then_some(Lfu {
                log_factor: 10,
                decay_minutes: 1,
            }),
            START,
        );
        let (mut now, mut hits, mut counted) = (START, 0, 0);
        for step in 0..200_000 {
            now += 20;
            let name = key(zipf(&mut rng, range));
            let hit = space.contains(&name, now);
            if step >= 50_000 {
                counted += 1;
                hits += u64::from(hit);
            }
            if !hit {
                while space.len() >= room {
                    evict(&mut space, &mut pool, policy, now);
                }
                space.set_string(&name, b"value", None);
            }
        }
        hits * 1000 / counted
    }

    /// The same with the key that was not used for longest always found.
    fn hits_of_exact_lru(room: usize) -> u64 {
        let mut rng = Rng::seeded(12);
        let (mut by_key, mut by_use) = (BTreeMap::new(), BTreeMap::new());
        let (mut hits, mut counted) = (0, 0);
        for step in 0..200_000u64 {
            let name = zipf(&mut rng, 20_011);
            let old = by_key.insert(name, step);
            if step >= 50_000 {
                counted += 1;
                hits += u64::from(old.is_some());
            }
            match old {
                Some(old) => by_use.remove(&old),
                None if by_key.len() > room => by_use.pop_first().map(|(_, key)| {
                    by_key.remove(&key);
                    key
                }),
                None => None,
            };
            by_use.insert(step, name);
        }
        hits * 1000 / counted
    }

    #[test]
    fn samples_choose_nearly_as_well_as_a_full_order_would() {
        let room = 2_000;
        let exact = hits_of_exact_lru(room);
        let lru = hits(Policy::AllKeysLru, room);
        let lfu = hits(Policy::AllKeysLfu, room);
        let random = hits(Policy::AllKeysRandom, room);
        assert!(exact.abs_diff(lru) <= 10, "{lru} of {exact}");
        assert!(lfu >= lru, "{lfu} of {lru}");
        assert!(random + 30 <= lru, "{random} of {lru}");
    }

    #[test]
    fn memory_is_counted_as_it_changes() {
        for seed in 0..4 {
            let mut rng = Rng::seeded(seed);
            let mut space = Keyspace::new(seed);
            let mut pool = EvictionPool::default();
            let mut now = START;
            for step in 0..30_000u64 {
                now += 1;
                let name = key(rng.below(300));
                let kind = rng.below(12);
                let item = key(rng.below(3_000));
                match kind {
                    0 => space.set_string(&name, &vec![b'x'; rng.below(9_000) as usize], None),
                    1 => {
                        space.remove(&name, now);
                    }
                    2 if step % 7 == 0 && !space.is_empty() => {
                        evict(&mut space, &mut pool, Policy::AllKeysLru, now);
                    }
                    3 if step % 5_000 < 20 => space.clear(),
                    4 => {
                        if let Some((value, deadline)) = space.take(&name, now) {
                            space.insert(&key(rng.below(300)), value, deadline);
                        }
                    }
                    5 | 6 => {
                        if let Ok(list) = space.get_or_create::<List>(&name, now) {
                            list.push(crate::store::End::Right, &item);
                        }
                    }
                    7 | 8 => {
                        if let Ok(hash) = space.get_or_create::<Hash>(&name, now) {
                            hash.set(&item, &vec![b'v'; rng.below(100) as usize]);
                            hash.set_deadline(&item, Some(now + rng.below(5_000)));
                        }
                    }
                    9 | 10 => {
                        if let Ok(set) = space.get_or_create::<Set>(&name, now) {
                            set.insert(&item);
                        }
                    }
                    _ => {
                        if let Ok(zset) = space.get_or_create::<Zset>(&name, now) {
                            zset.insert(&item, rng.below(100) as f64);
                        }
                    }
                }
                match step {
                    // Counting begins and ends in the middle.
                    5_000 | 20_000 => space.count_collections(true),
                    15_000 => space.count_collections(false),
                    _ => {}
                }
                space.count_some(1);
                if step % 500 == 499 {
                    check_count(&mut space);
                }
            }
        }
    }

    /// What is counted is what is there.
    fn check_count(space: &mut Keyspace) {
        space.settle();
        let (mut text, mut len, mut bytes) = (0, 0, 0);
        let mut cells = BTreeSet::new();
        let mut place = Some(0);
        while let Some(from) = place {
            place = space.table.walk(from, |entry| {
                cells.insert(entry.cell());
            });
        }
        for at in 0..space.objects.end() {
            let Some(value) = space.objects.find(at) else {
                continue;
            };
            text += crate::each_collection!(value, text => text.len(), _inner => 0);
            if at < space.heap.end {
                len += 1;
                bytes += super::super::heap_of(value);
            }
        }
        assert_eq!((space.heap.len, space.heap.bytes), (len, bytes));
        assert_eq!(space.text_bytes, text);
        assert_eq!(cells.len(), space.len());
    }
}
