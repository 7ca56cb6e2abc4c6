//! The key space, the random numbers that choose from it, and the requests made of them.

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
    fn digits(&self) -> usize {
        ((self.keys - 1).max(1).ilog10() as usize + 2) & !1
    }

    fn zero_key(&self) -> Vec<u8> {
        let prefix = &b"key:"[..4.min(self.len - self.digits())];
        let mut key = vec![b'0'; self.len];
        key[..prefix.len()].copy_from_slice(prefix);
        key
    }
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// GET key
    Get,
    /// SET key value
    Set,
}

/// A request whose key is written over in place.
#[derive(Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits that change begin.
    digits_at: usize,
    digits: usize,
}

impl Template {
    /// The request for a space and, with SET, a value of `size` bytes.
    pub fn new(verb: Verb, space: KeySpace, size: usize) -> Template {
        let key = space.zero_key();
        let (count, name) = match verb {
            Verb::Get => (2, "GET"),
            Verb::Set => (3, "SET"),
        };
        let mut bytes = format!("*{count}\r\n$3\r\n{name}\r\n${}\r\n", key.len()).into_bytes();
        let digits = space.digits();
        let digits_at = bytes.len() + key.len() - digits;
        bytes.extend_from_slice(&key);
        bytes.extend_from_slice(b"\r\n");
        if verb == Verb::Set {
            bytes.extend_from_slice(format!("${size}\r\n").as_bytes());
            bytes.resize(bytes.len() + size, b'x');
            bytes.extend_from_slice(b"\r\n");
        }
        Template {
            bytes,
            digits_at,
            digits,
        }
    }

    /// Length of the request.
    #[allow(clippy::len_without_is_empty)] // a request is never empty
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the request for key number `key`.
    #[inline]
    pub fn append(&self, key: u64, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        self.rewrite(key, &mut out[at..]);
    }

    /// Changes the key of a request that was appended before; `request` starts at its first byte.
    #[inline]
    pub fn rewrite(&self, mut key: u64, request: &mut [u8]) {
        let field = &mut request[self.digits_at..self.digits_at + self.digits];
        for pair in field.chunks_exact_mut(2).rev() {
            pair.copy_from_slice(&PAIRS[(key % 100) as usize]);
            key /= 100;
        }
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

#[inline]
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const KEYS_MAX: u64 = 1_000_000_000_000_000;

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_length_asked_for_and_the_number_at_the_end() {
        for (keys, len, number, want) in [
            (100_000, 16, 42, "key:000000000042"),
            (10_000_000, 8, 9_999_999, "09999999"),
            (10_000_000, 10, 1, "ke00000001"),
            (1, 4, 0, "ke00"),
            (100, 2, 99, "99"),
        ] {
            let space = KeySpace::new(keys, len).expect("fits");
            let (mut out, template) = (Vec::new(), Template::new(Verb::Get, space, 0));
            template.append(number, &mut out);
            assert_eq!(
                String::from_utf8_lossy(&out),
                format!("*2\r\n$3\r\nGET\r\n${len}\r\n{want}\r\n")
            );
            assert_eq!(out.len(), template.len());
        }
        assert!(KeySpace::new(10_000, 3).is_err());
        assert!(KeySpace::new(0, 16).is_err());
    }

    #[test]
    fn a_rewritten_request_equals_a_fresh_one() {
        let space = KeySpace::new(1_000_000, 20).expect("fits");
        let template = Template::new(Verb::Set, space, 3);
        let (mut old, mut fresh) = (Vec::new(), Vec::new());
        template.append(999_999, &mut old);
        template.rewrite(17, &mut old);
        template.append(17, &mut fresh);
        assert_eq!(old, fresh);
        assert!(fresh.ends_with(b"000017\r\n$3\r\nxxx\r\n"));
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
}
