//! Latency histogram: logarithmic octaves of 128 equal buckets, so every value is kept within 0.8 %.

/// Counts of nanoseconds. Adding costs a few instructions and allocates nothing.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: vec![0; bucket(u64::MAX) + 1],
            total: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts `times` values of `ns`.
    #[inline]
    pub fn add(&mut self, ns: u64, times: u64) {
        self.counts[bucket(ns)] += times;
        self.total += times;
        self.sum += u128::from(ns) * u128::from(times);
        self.max = self.max.max(ns);
    }

    /// Counts all that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many values were added.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The smallest recorded bound that a share `q` of the values does not exceed; 0 when empty. The
    /// largest value is exact, the others are upper ends of their buckets.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((q * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(i).min(self.max);
            }
        }
        self.max
    }

    /// Arithmetic mean, 0 when empty.
    pub fn mean(&self) -> f64 {
        if self.total == 0 {
            0.0
        } else {
            self.sum as f64 / self.total as f64
        }
    }

    /// The largest value added.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// How many values were at least `ns`, to the precision of a bucket.
    pub fn at_least(&self, ns: u64) -> u64 {
        self.counts[bucket(ns)..].iter().sum()
    }
}

fn bucket(ns: u64) -> usize {
    let octave = (64 - u64::leading_zeros(ns)).saturating_sub(SUB_BITS + 1);
    (octave as usize) * SUB + (ns >> octave) as usize
}

fn upper_end(bucket: usize) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let octave = bucket / SUB - 1;
    let low = ((bucket - octave * SUB) as u64) << octave;
    low + ((1 << octave) - 1)
}

const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for shift in 0..63 {
            for step in 0..300u64 {
                let ns = (1u64 << shift) + step * ((1u64 << shift) / 300).max(1);
                let i = bucket(ns);
                assert!(upper_end(i) >= ns, "{ns}");
                assert!(upper_end(i) - ns <= ns / 128, "{ns}");
                assert_eq!(bucket(upper_end(i)), i, "{ns}");
                last = last.max(i);
            }
        }
        assert!(last < bucket(u64::MAX) + 1);
        assert!((1..100_000u64).all(|ns| bucket(ns) - bucket(ns - 1) <= 1));
    }

    #[test]
    fn quantiles_agree_with_the_sorted_list() {
        let mut histogram = Histogram::default();
        let mut values: Vec<u64> = (0..10_000u64).map(|i| (i * 7919) % 100_003 + 50).collect();
        values.iter().for_each(|&ns| histogram.add(ns, 1));
        values.sort_unstable();
        for q in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((q * 10_000.0_f64).ceil() as usize).max(1);
            let exact = values[rank - 1];
            let got = histogram.quantile(q);
            assert!(
                got >= exact && got <= exact + exact / 100,
                "{q}: {got} for {exact}"
            );
        }
        assert_eq!(histogram.quantile(1.0), *values.last().expect("not empty"));
    }

    #[test]
    fn merged_histograms_equal_one_that_saw_all() {
        let (mut a, mut b, mut all) = Default::default();
        for ns in (0..5_000u64).map(|i| i * i) {
            let half: &mut Histogram = if ns % 3 == 0 { &mut a } else { &mut b };
            half.add(ns, 2);
            Histogram::add(&mut all, ns, 2);
        }
        a.merge(&b);
        assert_eq!(
            (a.count(), a.max(), a.mean()),
            (all.count(), all.max(), all.mean())
        );
        assert!(
            [0.1, 0.5, 0.99, 0.9999]
                .iter()
                .all(|q| a.quantile(*q) == all.quantile(*q))
        );
    }

    #[test]
    fn the_tail_is_counted() {
        let mut histogram = Histogram::default();
        histogram.add(1_000, 99);
        histogram.add(5_000_000, 1);
        assert_eq!(histogram.at_least(1_000_000), 1);
        assert_eq!(histogram.max(), 5_000_000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
