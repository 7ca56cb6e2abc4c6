//! From key to shard: both hashes against twins that read a byte at a time and a bit at a time. One
//! operation is one key; a round goes through a thousand keys again and again.

use std::hint::black_box;

use ringkeep::{
    base::Rng,
    route::{Routing, kevy_hash, slot},
};

use crate::measure::compare;

pub fn run() {
    let mut rng = Rng::seeded(3);
    let mut keys = |make: fn(u64) -> String| -> Vec<Vec<u8>> {
        (0..KEYS).map(|_| make(rng.below(1 << 40)).into()).collect()
    };
    let short = keys(|number| format!("key:{number:012}"));
    let long = keys(|number| format!("session:of:a:long:prefix:{number:039}"));
    let tagged = keys(|number| format!("cart:{{user:{number:010}}}:items"));
    for (what, keys) in [
        ("16 bytes", &short),
        ("64 bytes", &long),
        ("28 bytes with a hashtag", &tagged),
    ] {
        one(
            &format!("kevy's hash, {what}"),
            keys,
            kevy_hash,
            naive_kevy_hash,
        );
        one(
            &format!("slot, {what}"),
            keys,
            |key| slot(key).into(),
            |key| naive_slot(key).into(),
        );
    }
    one(
        "shard among 4, 16 bytes",
        &short,
        |key| Routing::KevyHash.shard_of(key, 4) as u64,
        |key| naive_kevy_hash(key) % 4,
    );
}

fn one(what: &str, keys: &[Vec<u8>], ours: impl Fn(&[u8]) -> u64, naive: impl Fn(&[u8]) -> u64) {
    for key in keys {
        assert_eq!(ours(key), naive(key), "{}", key.escape_ascii());
    }
    compare(
        what,
        WALKS * KEYS,
        |meter| meter.time(|| walk(keys, &ours)),
        |meter| meter.time(|| walk(keys, &naive)),
    );
}

fn walk(keys: &[Vec<u8>], hash: impl Fn(&[u8]) -> u64) {
    for _ in 0..WALKS {
        let sum = |sum: u64, key: &Vec<u8>| sum.wrapping_add(hash(key));
        black_box(black_box(keys).iter().fold(0, sum));
    }
}

/// The naive twin of the hash: the same arithmetic, a byte at a time.
fn naive_kevy_hash(key: &[u8]) -> u64 {
    let key = naive_hashtag(key);
    let word = |at: usize, len: usize| {
        let bytes = key[at..at + len].iter().rev();
        bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let fold = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        product as u64 ^ (product >> 64) as u64
    };
    let mut a: u64 = 0x243f_6a88_85a3_08d3;
    let mut b: u64 = 0x1319_8a2e_0370_7344;
    let len = key.len();
    if len > 16 {
        let mut at = 0;
        while at + 16 < len {
            let mixed = fold(a ^ word(at, 8), 0xa409_3822_299f_31d0 ^ word(at + 8, 8));
            (a, b) = (b, mixed);
            at += 16;
        }
    }
    if len >= 8 {
        a ^= word(len - if len > 16 { 16 } else { len }, 8);
        b ^= word(len - 8, 8);
    } else if len >= 4 {
        a ^= word(0, 4);
        b ^= word(len - 4, 4);
    } else if len > 0 {
        a ^= word(0, 1);
        b ^= word(len - 1, 1) << 8 | word(len / 2, 1);
    }
    let mut hash = fold(a, b) ^ len as u64;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ hash >> 33).wrapping_mul(factor);
    }
    hash ^ hash >> 33
}

/// The naive twin of the slot: the remainder, a bit at a time.
fn naive_slot(key: &[u8]) -> u16 {
    let mut rest: u16 = 0;
    for byte in naive_hashtag(key) {
        for bit in (0..8).rev() {
            let out = rest >> 15 != u16::from(byte >> bit & 1);
            rest = rest << 1 ^ if out { 0x1021 } else { 0 };
        }
    }
    rest % 16384
}

fn naive_hashtag(key: &[u8]) -> &[u8] {
    let open = key.iter().position(|byte| *byte == b'{');
    let tag = open.and_then(|open| {
        let len = key[open + 1..].iter().position(|byte| *byte == b'}')?;
        (len > 0).then(|| &key[open + 1..open + 1 + len])
    });
    tag.unwrap_or(key)
}

const KEYS: u64 = 1000;
const WALKS: u64 = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let brackets = prop::sample::select(vec![b'{', b'}', b'{', b'}', 0, 1, b'z', 0xff]);
        prop_oneof![vec(any::<u8>(), 0..70), vec(brackets, 0..40)]
    }

    proptest! {
        #[test]
        fn both_put_a_key_in_the_same_place(key in key(), shards in 1..9usize) {
            prop_assert_eq!(kevy_hash(&key), naive_kevy_hash(&key));
            prop_assert_eq!(slot(&key), naive_slot(&key));
            let shard = naive_kevy_hash(&key) % shards as u64;
            prop_assert_eq!(Routing::KevyHash.shard_of(&key, shards) as u64, shard);
            let shard = usize::from(naive_slot(&key)) * shards / 16384;
            prop_assert_eq!(Routing::Slots.shard_of(&key, shards), shard);
        }
    }
}
