//! The keyspace as a table of strings, against std's `HashMap`. One operation is one key of 16 bytes with a
//! value of 16 bytes, among a million of them.

use std::{collections::HashMap, hint::black_box, time::Instant};

use ringkeep::{base::Rng, store::Keyspace};

use crate::{
    measure::{Meter, compare},
    store::key,
};

pub fn run() {
    let mut ours = filled::<Keyspace>(KEYS);
    let mut naive = filled::<Naive>(KEYS);
    for at in 0..KEYS + 10 {
        assert_eq!(ours.find(&key(at)), naive.find(&key(at)));
    }
    compare(
        "get",
        ACCESSES,
        |meter| get(meter, &mut ours, 0),
        |meter| get(meter, &mut naive, 0),
    );
    compare(
        "get, absent",
        ACCESSES,
        |meter| get(meter, &mut ours, KEYS),
        |meter| get(meter, &mut naive, KEYS),
    );
    compare(
        "set, over a value of the same length",
        ACCESSES,
        |meter| set(meter, &mut ours),
        |meter| set(meter, &mut naive),
    );
    drop((ours, naive));
    compare(
        "insert, from empty",
        KEYS,
        insert::<Keyspace>,
        insert::<Naive>,
    );
    compare(
        "remove, until empty",
        KEYS,
        remove::<Keyspace>,
        remove::<Naive>,
    );
    let [ours, naive] = slowest_inserts();
    println!(
        "  slowest insert, the least of {REPETITIONS} repetitions: {ours} us, naive {naive} us"
    );
}

/// What both can do.
trait Strings {
    fn empty() -> Self;
    fn find(&mut self, key: &[u8]) -> Option<&[u8]>;
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn delete(&mut self, key: &[u8]) -> bool;
    fn count(&self) -> usize;
}

impl Strings for Keyspace {
    fn empty() -> Self {
        Keyspace::new(7)
    }

    #[inline]
    fn find(&mut self, key: &[u8]) -> Option<&[u8]> {
        let found = self.string(key, NOW).expect("all values are strings")?;
        Some(found.as_bytes())
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.set_string(key, value, None);
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        self.remove(key, NOW)
    }

    fn count(&self) -> usize {
        self.len()
    }
}

/// The naive twin. Unlike ours it has no deadlines, no types and no time of last use to look after.
type Naive = HashMap<Vec<u8>, Vec<u8>>;

impl Strings for Naive {
    fn empty() -> Self {
        HashMap::new()
    }

    #[inline]
    fn find(&mut self, key: &[u8]) -> Option<&[u8]> {
        self.get(key).map(Vec::as_slice)
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.insert(key.to_vec(), value.to_vec());
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        self.remove(key).is_some()
    }

    fn count(&self) -> usize {
        self.len()
    }
}

fn filled<S: Strings>(keys: u64) -> S {
    let mut strings = S::empty();
    for at in 0..keys {
        strings.put(&key(at), VALUE);
    }
    strings
}

/// Gets keys at random, from `first` on.
fn get(meter: &mut Meter, strings: &mut impl Strings, first: u64) {
    let mut rng = Rng::seeded(first);
    meter.time(|| {
        for _ in 0..ACCESSES {
            black_box(strings.find(&key(first + rng.below(KEYS))));
        }
    });
}

fn set(meter: &mut Meter, strings: &mut impl Strings) {
    let mut rng = Rng::seeded(1);
    meter.time(|| {
        for _ in 0..ACCESSES {
            strings.put(&key(rng.below(KEYS)), b"another 16 bytes");
        }
    });
}

fn insert<S: Strings>(meter: &mut Meter) {
    let strings = meter.time(|| filled::<S>(KEYS));
    assert_eq!(strings.count() as u64, KEYS);
}

fn remove<S: Strings>(meter: &mut Meter) {
    let mut strings = filled::<S>(KEYS);
    meter.time(|| {
        for at in 0..KEYS {
            black_box(strings.delete(&key(at)));
        }
    });
    assert_eq!(strings.count(), 0);
}

/// The slowest single insert of both, in microseconds. Every repetition does the same work, so that what
/// the scheduler added to one insert is told from what the insert takes.
fn slowest_inserts() -> [u32; 2] {
    let mut spent = [(); 2].map(|()| vec![u32::MAX; KEYS as usize]);
    for _ in 0..REPETITIONS {
        note_inserts::<Keyspace>(&mut spent[0]);
        note_inserts::<Naive>(&mut spent[1]);
    }
    spent.map(|spent| spent.into_iter().max().unwrap_or(0) / 1000)
}

fn note_inserts<S: Strings>(spent: &mut [u32]) {
    let mut strings = S::empty();
    let mut last = Instant::now();
    for (at, least) in spent.iter_mut().enumerate() {
        strings.put(&key(at as u64), VALUE);
        let now = Instant::now();
        *least = (*least).min((now - last).as_nanos() as u32);
        last = now;
    }
    black_box(strings);
}

const NOW: u64 = 1_000_000_000_000;
const VALUE: &[u8] = b"sixteen bytes v.";
const KEYS: u64 = 1_000_000;
const ACCESSES: u64 = 200_000;
const REPETITIONS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn both_hold_the_same_strings(ops in vec((0..3u8, 0..300u64, vec(any::<u8>(), 0..400)), 0..2000)) {
            let (mut ours, mut naive) = (Keyspace::empty(), Naive::empty());
            for (op, at, value) in &ops {
                let key = key(*at);
                match op {
                    0 => prop_assert_eq!(ours.find(&key), naive.find(&key)),
                    1 => {
                        ours.put(&key, value);
                        naive.put(&key, value);
                    }
                    _ => prop_assert_eq!(ours.delete(&key), naive.delete(&key)),
                }
                prop_assert_eq!(ours.count(), naive.count());
            }
        }
    }
}
