//! The store alone: nanoseconds per operation, bytes per key, and the longest single operation.
//! One iteration is one key of 16 bytes with a value of 16 bytes.

use std::{hint::black_box, time::Instant};

use ringkeep::{base::Rng, store::Keyspace};

const NOW: u64 = 1_000_000_000_000;

/// Measures keyspaces of the given sizes, or of the usual ones.
pub fn run(sizes: &[u64]) {
    let sizes = if sizes.is_empty() { &SIZES } else { sizes };
    for size in sizes {
        one(*size);
    }
}

fn one(size: u64) {
    // Every repetition does the very same work, so that what the scheduler added to one operation is
    // told from what the operation itself takes.
    let mut spent = vec![u32::MAX; size as usize];
    // They are all kept: giving memory back to the system is not what is measured here.
    let others: Vec<Keyspace> = (1..REPETITIONS).map(|_| fill(size, &mut spent)).collect();
    let resident = || uring::sys::resident_bytes().unwrap_or(0);
    let before = resident();
    let start = Instant::now();
    let mut space = fill(size, &mut spent);
    let insert = start.elapsed().as_nanos() as f64 / size as f64;
    let bytes = resident().saturating_sub(before) as f64 / size as f64;
    let slow = spent
        .iter()
        .enumerate()
        .filter(|(_, nanos)| **nanos > SLOW_NS);
    for (at, nanos) in slow {
        println!("    insert {at} took {nanos} ns every time");
    }
    spent.sort_unstable();
    let longest: Vec<u32> = spent
        .iter()
        .rev()
        .take(5)
        .map(|nanos| nanos / 1000)
        .collect();
    let counted = space.used_bytes() as f64 / size as f64;

    let mut rng = Rng::seeded(1);
    let rounds = 2_000_000;
    let get = time(rounds, || {
        let found = space.string(&key(rng.below(size)), NOW);
        black_box(found.is_ok());
    });
    let set = time(rounds, || {
        space.set_string(&key(rng.below(size)), b"another 16 bytes", None);
    });
    let miss = time(rounds, || {
        let found = space.string(&key(size + rng.below(size)), NOW);
        black_box(found.is_ok());
    });
    let batch = time(rounds / 32, || {
        let keys: [_; 32] = std::array::from_fn(|_| key(rng.below(size)));
        let hashed = keys.each_ref().map(|key| {
            let (hashed, line) = space.first_line(key);
            uring::sys::prefetch(line);
            hashed
        });
        for hashed in hashed {
            space
                .entry_bytes(hashed)
                .and_then(|bytes| bytes.first())
                .map(uring::sys::prefetch);
        }
        for key in &keys {
            black_box(space.string(key, NOW).is_ok());
        }
    }) / 32.0;

    drop(others);
    let start = Instant::now();
    space.clear();
    let clear = start.elapsed().as_micros();
    let mut slice = 0;
    loop {
        let start = Instant::now();
        let more = space.free_some(64);
        slice = slice.max(start.elapsed().as_micros());
        if !more {
            break;
        }
    }
    println!(
        "  {size} keys: insert {insert:.0} ns, get {get:.0}, in batches of 32 {batch:.0}, miss {miss:.0}, \
         set {set:.0}; {bytes:.1} B/key resident ({counted:.1} counted)"
    );
    println!(
        "    longest inserts {longest:?} us; clear {clear} us, longest slice of freeing {slice} us"
    );
}

fn fill(size: u64, spent: &mut [u32]) -> Keyspace {
    let mut space = Keyspace::new(7);
    let mut last = Instant::now();
    for at in 0..size {
        space.set_string(&key(at), b"sixteen bytes v.", None);
        let now = Instant::now();
        let least = &mut spent[at as usize];
        *least = (*least).min((now - last).as_nanos() as u32);
        last = now;
    }
    space
}

fn time(rounds: u64, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        work();
    }
    start.elapsed().as_nanos() as f64 / rounds as f64
}

/// `key:` and the number in twelve digits.
pub fn key(at: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = at;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

const SIZES: [u64; 3] = [100_000, 1_000_000, 10_000_000];
const REPETITIONS: u32 = 4;
const SLOW_NS: u32 = 200_000;
