//! The key space and the numbers that choose from it.

use crate::error::Error;

/// Keys `key:000000000042` of one length: a prefix, then the number with leading zeros.
#[derive(Clone, Copy, Debug)]
pub struct KeySpace {
    /// How many keys.
    pub keys: u64,
    /// Length of each.
    pub len: usize,
}

impl KeySpace {
    /// A space of `keys` keys of `len` bytes.
    ///
    /// # Errors
    /// [`Error::Value`] when there are none, or when the number does not fit the length.
    pub fn new(keys: u64, len: usize) -> Result<KeySpace, Error> {
        if keys == 0 || keys > KEYS_MAX {
            let expected = "between 1 and 10^15";
            return Err(Error::Value {
                option: "--keys",
                expected,
            });
        }
        let space = KeySpace { keys, len };
        if len > 65536 || len < space.digits() {
            let expected = "long enough for the largest key number, and at most 65536";
            return Err(Error::Value {
                option: "--key-size",
                expected,
            });
        }
        Ok(space)
    }

    /// Decimal digits that differ between keys, rounded up to a whole pair.
    pub fn digits(&self) -> usize {
        ((self.keys - 1).max(1).ilog10() as usize + 2) & !1
    }

    /// Key number 0 of the keys that begin with `prefix`, as far as there is room for it.
    pub fn zero_key(&self, prefix: &[u8; 4]) -> Vec<u8> {
        let prefix = &prefix[..4.min(self.len - self.digits())];
        let mut key = vec![b'0'; self.len];
        key[..prefix.len()].copy_from_slice(prefix);
        key
    }
}

/// A fast generator with a fixed start, so that two runs ask for the same keys.
pub struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits (splitmix64).
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A uniform number below `bound`.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A uniform number in [0, 1).
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How a load spreads over the keys.
pub enum Spread {
    /// Every key as likely as any other.
    Uniform(u64),
    /// The lower the number, the likelier.
    Zipf(Zipf),
    /// In turn.
    Sequential {
        /// The key to come.
        next: u64,
        /// How many keys.
        keys: u64,
    },
}

impl Spread {
    /// The number of the next key.
    #[inline]
    pub fn pick(&mut self, random: &mut Random) -> u64 {
        match self {
            Spread::Uniform(keys) => random.below(*keys),
            Spread::Zipf(zipf) => zipf.pick(random),
            Spread::Sequential { next, keys } => {
                let key = *next;
                *next = if key + 1 == *keys { 0 } else { key + 1 };
                key
            }
        }
    }
}

/// Zipf's law: number `k` comes with a probability proportional to `1 / (k + 1)^exponent`. Exact and
/// without a table: rejection-inversion after Hoermann and Derflinger, "Rejection-inversion to generate
/// variates from monotone discrete distributions", ACM TOMACS 6 (1996).
pub struct Zipf {
    keys: f64,
    exponent: f64,
    area_of_first: f64,
    area_of_all: f64,
    /// Draws this close below their number need no second look.
    sure: f64,
}

impl Zipf {
    /// Over `0..keys`; the exponent is above 0.
    pub fn new(keys: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf {
            keys: keys as f64,
            exponent,
            area_of_first: 0.0,
            area_of_all: 0.0,
            sure: 0.0,
        };
        zipf.area_of_first = zipf.area(1.5) - 1.0;
        zipf.area_of_all = zipf.area(zipf.keys + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.height(2.0));
        zipf
    }

    /// The next number.
    #[inline]
    pub fn pick(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.area_of_all + random.unit() * (self.area_of_first - self.area_of_all);
            let x = self.area_inverse(u);
            let k = (x + 0.5).floor().clamp(1.0, self.keys);
            if k - x <= self.sure || u >= self.area(k + 0.5) - self.height(k) {
                return k as u64 - 1;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of `height` from 1 to x.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        // expm1(t) / t, by its series where the quotient loses its digits.
        let ratio = if t.abs() > 1e-8 {
            t.exp_m1() / t
        } else {
            1.0 + t / 2.0 * (1.0 + t / 3.0)
        };
        ratio * log
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        // ln1p(t) / t, likewise.
        let ratio = if t.abs() > 1e-8 {
            t.ln_1p() / t
        } else {
            1.0 - t * (0.5 - t / 3.0)
        };
        (ratio * area).exp()
    }
}

/// Choices with weights.
pub struct Weighted<T> {
    /// Ascending sums of the weights.
    ends: Vec<u64>,
    choices: Vec<T>,
}

impl<T> Weighted<T> {
    /// Of at least one choice, with weights that are not all 0.
    pub fn new(parts: impl IntoIterator<Item = (T, u32)>) -> Weighted<T> {
        let (mut ends, mut choices, mut sum) = (Vec::new(), Vec::new(), 0);
        for (choice, weight) in parts {
            sum += u64::from(weight);
            ends.push(sum);
            choices.push(choice);
        }
        Weighted { ends, choices }
    }

    /// The next choice.
    #[inline]
    pub fn pick(&self, random: &mut Random) -> &T {
        let [.., sum] = self.ends[..] else {
            unreachable!("there is a choice");
        };
        let draw = random.below(sum);
        let at = self.ends.iter().position(|end| draw < *end);
        &self.choices[at.unwrap_or(0)]
    }
}

/// Visits every number below a bound once, in an order without pattern, holding no list: a Feistel
/// network over the next power of four, walked on until the number lies below the bound.
pub struct Shuffle {
    bound: u64,
    half_bits: u32,
}

impl Shuffle {
    /// A permutation of `0..bound`.
    pub fn new(bound: u64) -> Shuffle {
        let bits = 64 - bound.saturating_sub(1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        Shuffle { bound, half_bits }
    }

    /// Where `i`, which is below the bound, goes.
    pub fn at(&self, i: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut number = i;
        loop {
            let (mut high, mut low) = (number >> self.half_bits, number & mask);
            for round in 1..=4u64 {
                (high, low) = (low, high ^ (mix(low ^ (round << 56)) & mask));
            }
            number = high << self.half_bits | low;
            if number < self.bound {
                return number;
            }
        }
    }
}

/// Scatters 64 bits.
#[inline]
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const KEYS_MAX: u64 = 1_000_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_number_must_fit_its_length() {
        assert!(KeySpace::new(10_000, 4).is_ok());
        assert!(KeySpace::new(10_000, 3).is_err());
        assert!(KeySpace::new(0, 16).is_err());
    }

    #[test]
    fn a_shuffle_visits_every_number_once_and_not_in_order() {
        for bound in [1u64, 2, 3, 100, 1000, 4097] {
            let shuffle = Shuffle::new(bound);
            let mut seen: Vec<u64> = (0..bound).map(|i| shuffle.at(i)).collect();
            assert!(bound < 100 || seen.windows(2).filter(|w| w[1] == w[0] + 1).count() < 5);
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..bound), "{bound}");
        }
    }

    #[test]
    fn random_keys_reach_the_whole_space() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 16];
        for _ in 0..16_000 {
            seen[random.below(16) as usize] += 1;
        }
        assert!(seen.iter().all(|n| (850..1150).contains(n)), "{seen:?}");
    }
    #[test]
    fn a_zipf_distribution_has_the_shares_it_names() {
        for (keys, exponent) in [
            (1000u64, 0.99),
            (1000, 1.0),
            (50, 2.5),
            (100_000, 0.5),
            (1, 0.99),
        ] {
            let (zipf, mut random) = (Zipf::new(keys, exponent), Random::new(7));
            let mut counts = vec![0u32; keys as usize];
            const DRAWS: u32 = 400_000;
            for _ in 0..DRAWS {
                counts[zipf.pick(&mut random) as usize] += 1;
            }
            let weight = |k: usize| ((k + 1) as f64).powf(-exponent);
            let sum: f64 = (0..keys as usize).map(weight).sum();
            // The first keys one by one, the rest in groups of doubling width: each group lies within
            // five deviations of a binomial distribution.
            let (mut from, mut width) = (0, 1);
            while from < counts.len() {
                let to = (from + width).min(counts.len());
                let share: f64 = (from..to).map(weight).sum::<f64>() / sum;
                let got: u32 = counts[from..to].iter().sum();
                let want = share * f64::from(DRAWS);
                let deviation = (want * (1.0 - share)).sqrt();
                let off = (f64::from(got) - want).abs();
                assert!(
                    off <= 5.0 * deviation + 1e-6,
                    "{exponent}: {from}..{to} {got} for {want}"
                );
                from = to;
                width = if from < 8 { 1 } else { width * 2 };
            }
        }
    }

    #[test]
    fn weighted_choices_come_in_their_ratios() {
        let weighted = Weighted::new([('a', 90), ('b', 9), ('c', 1)]);
        let (mut random, mut counts) = (Random::new(3), [0i32; 3]);
        for _ in 0..100_000 {
            counts[(*weighted.pick(&mut random) as u8 - b'a') as usize] += 1;
        }
        for (count, want) in counts.into_iter().zip([90_000, 9_000, 1_000]) {
            assert!((count - want).abs() < 500, "{counts:?}");
        }
    }

    #[test]
    fn a_sequence_begins_again_after_the_last_key() {
        let (mut spread, mut random) = (Spread::Sequential { next: 1, keys: 3 }, Random::new(1));
        let picked: Vec<u64> = (0..5).map(|_| spread.pick(&mut random)).collect();
        assert_eq!(picked, [1, 2, 0, 1, 2]);
    }
}
