//! Snapshots as bytes: keys written down by a walk, and loaded again into an empty keyspace that grows. One
//! operation is one string key of 16 bytes with a value of 16 bytes. The twin is a `HashMap` that is written
//! and read record by record.

use std::{collections::HashMap, hint::black_box, time::Instant};

use ringkeep::store::{Budget, Keyspace, Walk};

use crate::{
    measure::{Meter, compare},
    store::key,
};

pub fn run(sizes: &[u64]) {
    let keys = KEYS;
    let (ours, naive) = (ours(keys), naive(keys));
    let (bodies, twins) = (write(&ours), write_naive(&naive));
    assert_eq!(
        read_all(&bodies),
        naive,
        "the bodies hold what the twin holds"
    );
    assert_eq!(load_naive(&bodies), load_naive(&twins));
    let loaded = load(&bodies, OTHER_SEED);
    assert_eq!(loaded.len() as u64, keys);
    assert_eq!(read_all(&write(&loaded)), naive);
    drop(loaded);
    compare(
        "write a million keys in slices of 64 KiB",
        keys,
        |meter| drop(meter.time(|| write(&ours))),
        |meter| drop(meter.time(|| write_naive(&naive))),
    );
    compare(
        "load a million keys into an empty keyspace",
        keys,
        |meter| load_timed(meter, || load(&bodies, OTHER_SEED)),
        |meter| load_timed(meter, || load_naive(&bodies)),
    );
    drop((ours, naive, bodies, twins));
    for size in if sizes.is_empty() { &SIZES } else { sizes } {
        at_size(*size);
    }
}

/// Times of a large keyspace, the best of some repetitions.
fn at_size(size: u64) {
    let space = ours(size);
    let (written, bodies) = best(|| write(&space));
    drop(space);
    let (elsewhere, loaded) = best(|| load(&bodies, OTHER_SEED));
    assert_eq!(loaded.len() as u64, size);
    drop(loaded);
    // The walk's order is then the table's own, which fills it from one side.
    let (in_order, loaded) = best(|| load(&bodies, SEED));
    assert_eq!(loaded.len() as u64, size);
    let rate = |nanos: f64| 1000.0 / nanos;
    let [written, elsewhere, in_order] = [written, elsewhere, in_order].map(|spent| {
        let nanos = spent * 1e9 / size as f64;
        format!("{nanos:.0} ns, {:.2} million a second", rate(nanos))
    });
    println!(
        "  {size} keys: write {written}; load {elsewhere}; load in the order of the table {in_order}"
    );
}

/// Seconds of the fastest repetition, and its result.
fn best<R>(mut work: impl FnMut() -> R) -> (f64, R) {
    let mut least = f64::MAX;
    loop {
        for left in (0..REPETITIONS).rev() {
            let start = Instant::now();
            let result = work();
            least = least.min(start.elapsed().as_secs_f64());
            if left == 0 {
                return (least, result);
            }
        }
    }
}

fn load_timed<R>(meter: &mut Meter, load: impl FnOnce() -> R) {
    // Giving the memory back is not what is measured.
    black_box(meter.time(load));
}

fn ours(keys: u64) -> Keyspace {
    let mut space = Keyspace::new(SEED);
    for at in 0..keys {
        space.set_string(&key(at), VALUE, None);
    }
    space
}

fn write(space: &Keyspace) -> Vec<Vec<u8>> {
    let mut walk = Walk::default();
    let budget = Budget {
        records: usize::MAX,
        bytes: SLICE,
    };
    let mut bodies = Vec::new();
    loop {
        let mut body = Vec::with_capacity(SLICE + SLICE / 8);
        let slice = walk.next_slice(space, budget, &mut body);
        bodies.push(body);
        if slice.is_last {
            return bodies;
        }
    }
}

fn load(bodies: &[Vec<u8>], seed: u64) -> Keyspace {
    let mut space = Keyspace::new(seed);
    for body in bodies {
        space.load(body).expect("the body was just written");
    }
    space
}

type Naive = HashMap<Vec<u8>, Vec<u8>>;

fn naive(keys: u64) -> Naive {
    (0..keys)
        .map(|at| (key(at).to_vec(), VALUE.to_vec()))
        .collect()
}

fn write_naive(map: &Naive) -> Vec<Vec<u8>> {
    let mut bodies = vec![Vec::new()];
    for (key, value) in map {
        let mut body = bodies.pop().unwrap_or_default();
        if body.len() >= SLICE {
            bodies.push(std::mem::take(&mut body));
        }
        body.extend([1, 0]);
        for text in [key, value] {
            body.extend((text.len() as u32).to_le_bytes());
            body.extend(text);
        }
        bodies.push(body);
    }
    bodies
}

fn load_naive(bodies: &[Vec<u8>]) -> Naive {
    let mut map = Naive::new();
    for body in bodies {
        let mut rest = &body[..];
        while let Some((head, behind)) = rest.split_first_chunk::<2>() {
            assert_eq!(*head, [1, 0]);
            rest = behind;
            let mut text = || {
                let (len, behind) = rest.split_first_chunk().expect("a length");
                let (text, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
                rest = behind;
                text.to_vec()
            };
            let (key, value) = (text(), text());
            map.insert(key, value);
        }
    }
    map
}

fn read_all(bodies: &[Vec<u8>]) -> Naive {
    load_naive(bodies)
}

const SEED: u64 = 7;
/// As of another process.
const OTHER_SEED: u64 = 8;
const VALUE: &[u8] = b"sixteen bytes v.";
const SLICE: usize = 64 << 10;
const KEYS: u64 = 1_000_000;
const SIZES: [u64; 1] = [10_000_000];
const REPETITIONS: u32 = 3;
