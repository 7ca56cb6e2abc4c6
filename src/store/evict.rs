//! Which keys go when memory is short, and the best candidates met so far.

use arrayvec::ArrayVec;

/// What is evicted when memory is short.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Nothing: writes that need memory are refused.
    #[default]
    NoEviction,
    /// Of all keys, those that were not used for longest.
    AllKeysLru,
    /// Of all keys, those that are used least often.
    AllKeysLfu,
    /// Any keys.
    AllKeysRandom,
    /// Of the keys with a deadline, those that were not used for longest.
    VolatileLru,
    /// Of the keys with a deadline, those that are used least often.
    VolatileLfu,
    /// Any keys with a deadline.
    VolatileRandom,
    /// Of the keys with a deadline, those whose deadline is nearest.
    VolatileTtl,
}

impl Policy {
    /// In the order in which Redis names them.
    pub const ALL: [(&str, Policy); 8] = [
        ("volatile-lru", Policy::VolatileLru),
        ("volatile-lfu", Policy::VolatileLfu),
        ("volatile-random", Policy::VolatileRandom),
        ("volatile-ttl", Policy::VolatileTtl),
        ("allkeys-lru", Policy::AllKeysLru),
        ("allkeys-lfu", Policy::AllKeysLfu),
        ("allkeys-random", Policy::AllKeysRandom),
        ("noeviction", Policy::NoEviction),
    ];

    /// The policy with this name, in any case.
    pub fn named(name: &[u8]) -> Option<Policy> {
        let mut all = Self::ALL.iter();
        Some(
            all.find(|(own, _)| own.as_bytes().eq_ignore_ascii_case(name))?
                .1,
        )
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let mut all = Self::ALL.iter();
        all.find(|(_, policy)| *policy == self)
            .map_or("", |(name, _)| name)
    }

    /// Are only keys with a deadline evicted?
    pub fn is_volatile(self) -> bool {
        matches!(
            self,
            Policy::VolatileLru
                | Policy::VolatileLfu
                | Policy::VolatileRandom
                | Policy::VolatileTtl
        )
    }

    /// Must uses be counted?
    pub fn counts_uses(self) -> bool {
        matches!(self, Policy::AllKeysLfu | Policy::VolatileLfu)
    }

    /// Is one key as good as another?
    pub fn is_random(self) -> bool {
        matches!(self, Policy::AllKeysRandom | Policy::VolatileRandom)
    }
}

/// The best candidates for eviction that samples have met, worst first. Those that are not evicted this
/// time stay, so that over time far more keys compete than one sample has.
#[derive(Debug, Default)]
pub struct EvictionPool {
    candidates: ArrayVec<Candidate, POOL_LEN>,
}

/// A key that may be evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its keyspace, as the caller numbers them.
    pub place: usize,
    /// The hash of its name.
    pub(super) hash: u64,
    /// Where it was. Another key may be there now.
    pub(super) cell: u64,
    /// The higher, the sooner it goes.
    pub(super) score: u64,
}

impl EvictionPool {
    /// Forgets all candidates: their scores mean nothing any more.
    pub fn clear(&mut self) {
        self.candidates.clear();
    }

    /// Takes the best candidate out.
    pub fn pop(&mut self) -> Option<Candidate> {
        self.candidates.pop()
    }

    /// Would a candidate with this score be kept?
    pub(super) fn wants(&self, score: u64) -> bool {
        !self.candidates.is_full()
            || self
                .candidates
                .first()
                .is_none_or(|worst| worst.score < score)
    }

    /// Offers a candidate. What was known of its place before is forgotten.
    pub(super) fn offer(&mut self, new: Candidate) {
        self.candidates
            .retain(|old| (old.place, old.cell) != (new.place, new.cell));
        if !self.wants(new.score) {
            return;
        }
        if self.candidates.is_full() {
            self.candidates.remove(0);
        }
        let at = self
            .candidates
            .partition_point(|old| old.score <= new.score);
        self.candidates.insert(at, new);
    }
}

const POOL_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    #[test]
    fn the_pool_keeps_the_best_and_each_key_once() {
        let mut rng = Rng::seeded(9);
        let mut pool = EvictionPool::default();
        let mut scores = std::collections::BTreeMap::new();
        for _ in 0..1000 {
            let (cell, score) = (rng.below(200), rng.below(1000));
            pool.offer(Candidate {
                place: 0,
                hash: 0,
                cell,
                score,
            });
            scores.insert(cell, score);
        }
        assert!(pool.candidates.is_full());
        assert!(
            pool.candidates
                .is_sorted_by_key(|candidate| candidate.score)
        );
        let mut cells: Vec<u64> = pool.candidates.iter().map(|one| one.cell).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), POOL_LEN);
        let best = *scores.values().max().expect("not empty");
        let popped = pool.pop().expect("it is full");
        assert_eq!(scores[&popped.cell], popped.score);
        assert_eq!(popped.score, best);
    }

    #[test]
    fn policies_have_the_names_of_redis() {
        for (name, policy) in Policy::ALL {
            assert_eq!(Policy::named(name.to_uppercase().as_bytes()), Some(policy));
            assert_eq!(policy.name(), name);
            assert_eq!(policy.is_volatile(), name.starts_with("volatile"));
            assert_eq!(policy.counts_uses(), name.ends_with("lfu"));
            assert_eq!(policy.is_random(), name.ends_with("random"));
        }
        assert_eq!(Policy::named(b"lru"), None);
    }
}
