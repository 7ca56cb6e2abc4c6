//! Histograms with bounds at powers of two.
//!
//! One writer each: noting a value is a count of leading zeros and two plain additions to memory that nobody
//! else writes, so that each turn can afford it. Whoever wants to know reads meanwhile.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Buckets, the one without a bound included.
const BUCKETS: usize = 20;

/// Spans of turns, in nanoseconds: from a microsecond to a quarter of a second.
pub type Turns = Meter<10>;
/// Things counted: from 1 to a quarter of a million.
pub type Counts = Meter<0>;
/// Spans of what waits for a disk, in nanoseconds: from 16 microseconds to 4 seconds.
pub type Commits = Meter<14>;
/// Spans of what waits for another node, in milliseconds: from one to four minutes.
pub type Lags = Meter<0>;

/// A histogram whose lowest bound is 2 to the power of `LOW`. Bounds belong to the bucket below.
#[derive(Debug)]
pub struct Meter<const LOW: u32> {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl<const LOW: u32> Default for Meter<LOW> {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
        }
    }
}

/// Adds to a counter that nobody else writes.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(count), Relaxed);
}

impl<const LOW: u32> Meter<LOW> {
    /// Notes a value. For one thread only.
    #[inline]
    pub fn note(&self, value: u64) {
        let power = u64::BITS - value.saturating_sub(1).leading_zeros();
        let bucket = power.saturating_sub(LOW) as usize;
        add(&self.counts[bucket.min(BUCKETS - 1)], 1);
        add(&self.sum, value);
    }

    /// The sum of all values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// For each bound how many values are not above it, and last how many there are.
    pub fn curve(&self) -> [(Option<u64>, u64); BUCKETS] {
        let mut below = 0;
        std::array::from_fn(|bucket| {
            below += self.counts[bucket].load(Relaxed);
            let bound = (bucket + 1 < BUCKETS).then(|| 1 << (bucket as u32 + LOW));
            (bound, below)
        })
    }
}

/// What one core measures in its turns.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreMeters {
    /// Turns that had work: how long they took, from the end of the one before or from waking up.
    pub turns: Turns,
    /// Requests that began in a turn in which any did.
    pub requests: Counts,
    /// What the ring told at once, if it told anything.
    pub completions: Counts,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_lies_between_the_bounds_of_its_bucket(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let meter = Turns::default();
            meter.note(value);
            for (bound, count) in meter.curve() {
                let is_below = bound.is_none_or(|bound| value <= bound);
                prop_assert_eq!(count, u64::from(is_below));
            }
            prop_assert_eq!(meter.sum(), value);
        }
    }

    #[test]
    fn counts_add_up() {
        let meter = Counts::default();
        [0, 1, 2, 3, 4, u64::from(u32::MAX)]
            .into_iter()
            .for_each(|value| meter.note(value));
        let curve = meter.curve();
        assert_eq!(curve[..3], [(Some(1), 2), (Some(2), 3), (Some(4), 5)]);
        assert_eq!(curve[BUCKETS - 2], (Some(1 << 18), 5));
        assert_eq!(curve[BUCKETS - 1], (None, 6));
        assert_eq!(meter.count(), 6);
    }
}
