//! What of one shard's stream is durable, and complete over shards.
//!
//! A unit over several shards is in the journal of each of them, and counts only if all of them have it: a
//! recovery cuts each journal before the first unit that another shard lacks. So nothing behind such a unit
//! is safe before the unit is durable everywhere. Shards tell each other with one number each: how far they
//! have synced, up to and with the first shared unit that they do not know to be complete.

use std::collections::VecDeque;

/// A unit over several shards, as one of them sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedUnit {
    /// Its first offset here.
    pub first: u64,
    /// The offset behind it here.
    pub end: u64,
    /// The other shards and its first offset there.
    pub others: Vec<(usize, u64)>,
}

/// See the module page. Offsets of one shard.
#[derive(Debug)]
pub struct Frontier {
    synced: u64,
    ready: u64,
    passed: u64,
    units: VecDeque<SharedUnit>,
}

impl Frontier {
    /// All up to this offset is durable and complete.
    pub fn new(at: u64) -> Self {
        Self {
            synced: at,
            ready: at,
            passed: at,
            units: VecDeque::new(),
        }
    }

    /// A shared unit is on its way to the disk. In order.
    pub fn expect(&mut self, unit: SharedUnit) {
        self.units.push_back(unit);
    }

    /// Everything below `end` is on the disk.
    pub fn synced(&mut self, end: u64) {
        assert!(self.synced <= end, "the disk forgot something");
        self.synced = end;
    }

    /// Everything below is on the disk of this shard.
    pub fn synced_end(&self) -> u64 {
        self.synced
    }

    /// How far this shard has synced, for the others: up to and with the first shared unit that is not
    /// known to be complete.
    pub fn ready(&self) -> u64 {
        self.ready
    }

    /// Everything below is durable and complete.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Goes as far as it can with what the others have told. `ready_of` is asked after `publish` has been
    /// called with the own number, so that of two shards that wait for each other one sees the other.
    /// Shards that may wait for the new number go to `tell`.
    pub fn advance(
        &mut self,
        mut publish: impl FnMut(u64),
        ready_of: impl Fn(usize) -> u64,
        tell: &mut Vec<usize>,
    ) {
        loop {
            let Some(unit) = self.units.front() else {
                self.passed = self.synced;
                break;
            };
            if self.synced < unit.end {
                self.passed = self.synced.min(unit.first);
                break;
            }
            if self.ready < unit.end {
                self.ready = unit.end;
                publish(self.ready);
                tell.extend(unit.others.iter().map(|(shard, _)| *shard));
            }
            if !unit
                .others
                .iter()
                .all(|(shard, first)| ready_of(*shard) > *first)
            {
                self.passed = unit.first;
                return;
            }
            self.passed = unit.end;
            self.units.pop_front();
        }
        if self.ready < self.passed {
            self.ready = self.passed;
            publish(self.ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    fn step(shards: &mut [Frontier], at: usize) {
        let ready: Vec<u64> = shards.iter().map(Frontier::ready).collect();
        let mut tell = Vec::new();
        shards[at].advance(|_| (), |other| ready[other], &mut tell);
    }

    #[test]
    fn nothing_passes_a_unit_that_another_shard_lacks() {
        let mut shards = [Frontier::new(0), Frontier::new(0)];
        let unit = |others| SharedUnit {
            first: 5,
            end: 7,
            others,
        };
        shards[0].expect(unit(vec![(1, 5)]));
        shards[1].expect(unit(vec![(0, 5)]));
        shards[0].synced(9);
        step(&mut shards, 0);
        assert_eq!((shards[0].ready(), shards[0].passed()), (7, 5));
        shards[1].synced(6);
        step(&mut shards, 1);
        step(&mut shards, 0);
        assert_eq!(shards[0].passed(), 5, "half of the unit is not the unit");
        shards[1].synced(8);
        step(&mut shards, 1);
        assert_eq!(shards[1].passed(), 8, "the other side has it");
        step(&mut shards, 0);
        assert_eq!(shards[0].passed(), 9);
    }

    /// Against the definition: a shard's frontier is the longest part of what is synced that holds no unit
    /// which is cut somewhere, where cutting one unit cuts what follows it.
    #[test]
    fn it_is_what_a_recovery_would_keep() {
        for seed in 0..2000 {
            let mut rng = Rng::seeded(seed);
            let count = 2 + rng.below(3) as usize;
            let mut shards: Vec<_> = (0..count).map(|_| Frontier::new(0)).collect();
            let mut next = vec![0u64; count];
            let mut units: Vec<Vec<(usize, u64, u64)>> = Vec::new();
            for _ in 0..rng.below(12) {
                let mut unit = Vec::new();
                for (shard, next) in next.iter_mut().enumerate() {
                    *next += rng.below(3);
                    if rng.below(2) == 0 {
                        let first = *next;
                        *next += 1 + rng.below(3);
                        unit.push((shard, first, *next));
                    }
                }
                if unit.len() > 1 {
                    for (shard, first, end) in &unit {
                        let others = unit.iter().filter(|(other, ..)| other != shard);
                        shards[*shard].expect(SharedUnit {
                            first: *first,
                            end: *end,
                            others: others.map(|(other, first, _)| (*other, *first)).collect(),
                        });
                    }
                    units.push(unit);
                }
            }
            let mut synced = vec![0; count];
            for _ in 0..6 {
                let at = rng.below(count as u64) as usize;
                synced[at] += rng.below(next[at] - synced[at] + 1);
                shards[at].synced(synced[at]);
                for _ in 0..2 * units.len() + 2 {
                    for shard in 0..count {
                        step(&mut shards, shard);
                    }
                }
                let mut want = synced.clone();
                for _ in 0..=units.len() {
                    for unit in &units {
                        if unit.iter().any(|(shard, _, end)| want[*shard] < *end) {
                            for (shard, first, _) in unit {
                                want[*shard] = want[*shard].min(*first);
                            }
                        }
                    }
                }
                let got: Vec<_> = shards.iter().map(Frontier::passed).collect();
                assert_eq!(got, want, "seed {seed}: {units:?} synced {synced:?}");
            }
        }
    }
}
