//! From key to shard, exactly as kevy places keys, so that the streams of two nodes line up, and to the node
//! that may write to it.

mod scopes;

pub use scopes::{Scope, ScopeFault, Scopes};

/// How a node splits its keys over its shards. Fixed in the data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Routing {
    /// kevy's own hash of the hashtag, or of the whole key without one.
    #[default]
    KevyHash,
    /// CRC16 slots in contiguous ranges, as cluster clients expect.
    Slots,
}

impl Routing {
    /// The shard of `key` among `shard_count`. A count of 0 is read as 1.
    #[inline(always)]
    pub fn shard_of(self, key: &[u8], shard_count: usize) -> usize {
        if shard_count <= 1 {
            return 0;
        }
        match self {
            Routing::KevyHash => hash_shard(kevy_hash(key), shard_count),
            Routing::Slots => slot_shard(slot(key), shard_count),
        }
    }
}

/// Number of cluster slots.
pub const SLOT_COUNT: u16 = 16384;

/// The shard that a hash of [`kevy_hash`] belongs to. `shard_count` is at least 1.
#[inline]
pub fn hash_shard(hash: u64, shard_count: usize) -> usize {
    // A 64-bit division costs more than the rest of a short key's hash, and most nodes run a power of two.
    if shard_count.is_power_of_two() {
        (hash & (shard_count as u64 - 1)) as usize
    } else {
        (hash % shard_count as u64) as usize
    }
}

/// The shard that owns `slot`.
#[inline]
pub fn slot_shard(slot: u16, shard_count: usize) -> usize {
    (slot as usize * shard_count) >> 14
}

/// The slots that `shard` owns, as first slot and end (not included).
pub fn slot_range(shard: usize, shard_count: usize) -> (u16, u16) {
    let count = shard_count.max(1);
    let first = |shard: usize| (shard * SLOT_COUNT as usize).div_ceil(count) as u16;
    (first(shard), first(shard + 1))
}

/// The part of a key that decides its place: what stands between the first `{` and the next `}`, if that
/// is not empty; otherwise the whole key.
#[inline]
pub fn hashtag(key: &[u8]) -> &[u8] {
    let Some(open) = find(key, b'{') else {
        return key;
    };
    let tail = &key[open + 1..];
    match find(tail, b'}') {
        Some(len) if len > 0 => &tail[..len],
        _ => key,
    }
}

/// kevy's shard hash of a key, hashtag rule applied (kevy 1.27.4 and newer).
#[inline]
pub fn kevy_hash(key: &[u8]) -> u64 {
    kevy_hash_whole(hashtag(key))
}

/// kevy's shard hash of all bytes of a key: how kevy before 1.27.4 placed keys. Only an import of such a
/// data directory needs it.
#[inline]
pub fn kevy_hash_whole(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut s0 = SEED_0;
    let mut s1 = SEED_1;
    match len {
        0 => {}
        1..=3 => {
            s0 ^= bytes[0] as u64;
            s1 ^= (bytes[len - 1] as u64) << 8 | bytes[len / 2] as u64;
        }
        4..=7 => {
            s0 ^= le32(bytes, 0);
            s1 ^= le32(bytes, len - 4);
        }
        8..=16 => {
            s0 ^= le64(bytes, 0);
            s1 ^= le64(bytes, len - 8);
        }
        _ => {
            // One byte short of the end, so that a key of whole blocks still has its last one below.
            for block in bytes[..len - 1].chunks_exact(16) {
                let mixed = fold(s0 ^ le64(block, 0), STEP ^ le64(block, 8));
                s0 = s1;
                s1 = mixed;
            }
            s0 ^= le64(bytes, len - 16);
            s1 ^= le64(bytes, len - 8);
        }
    }
    finish(fold(s0, s1) ^ len as u64)
}

/// The cluster slot of a key, hashtag rule applied.
#[inline]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hashtag(key)) & (SLOT_COUNT - 1)
}

/// CRC16 as clusters use it (XMODEM: polynomial 1021 hex, start 0, nothing reflected).
#[inline]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (crc << 8) ^ CRC_TABLE[((crc >> 8) as u8 ^ byte) as usize]
    })
}

/// Place of the first `wanted`. Eight bytes at a time: keys are short and this runs for every request,
/// where the call into a vectorised search costs more than it saves.
#[inline]
fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let pattern = LOW * wanted as u64;
    let mut blocks = bytes.chunks_exact(8);
    let mut at = 0;
    for block in &mut blocks {
        // A zero byte marks a match. Borrows can only raise false marks above a true one, so the lowest
        // mark is exact.
        let difference = le64(block, 0) ^ pattern;
        let marks = difference.wrapping_sub(LOW) & !difference & HIGH;
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    blocks
        .remainder()
        .iter()
        .position(|&byte| byte == wanted)
        .map(|place| at + place)
}

#[inline]
fn le32(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word) as u64
}

#[inline]
fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn fold(x: u64, y: u64) -> u64 {
    let product = x as u128 * y as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn finish(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

const SEED_0: u64 = 0x243f_6a88_85a3_08d3;
const SEED_1: u64 = 0x1319_8a2e_0370_7344;
const STEP: u64 = 0xa409_3822_299f_31d0;

const CRC_TABLE: [u16; 256] = crc_table();

const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                crc << 1 ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Key, hash, shard among 2, 3, 4, slot, shard among 2, 3, 4 in cluster mode. Placed by real kevys.
    type Row = (&'static [u8], u64, [usize; 3], u16, [usize; 3]);
    const PLACED: &[Row] = &[
        (b"a", 0xac53b2c7027b4092, [0, 1, 2], 15495, [1, 2, 3]),
        (b"ab", 0xe9f5fabb0b9d3e7f, [1, 0, 3], 13567, [1, 2, 3]),
        (b"abc", 0xf2be3ca2ebaf98e7, [1, 1, 3], 7638, [0, 1, 1]),
        (b"key1", 0xca49a6bdcd746f49, [1, 1, 1], 9189, [1, 1, 2]),
        (b"key:123", 0xdad556af28c54968, [0, 2, 0], 710, [0, 0, 0]),
        (b"12345678", 0xfd21f92e8902ef94, [0, 0, 0], 4117, [0, 0, 1]),
        (
            b"key:1234567890ab",
            0x90d2bc2efe2f7c28,
            [0, 0, 0],
            11170,
            [1, 2, 2],
        ),
        (
            b"0123456789abcdef",
            0x73aa805e445e5ddc,
            [0, 1, 0],
            10405,
            [1, 1, 2],
        ),
        (
            b"0123456789abcdefg",
            0xc44ff0bd3f0b26be,
            [0, 1, 2],
            1383,
            [0, 0, 0],
        ),
        (
            b"user:{42}:name",
            0xb7a49c43b3d1283f,
            [1, 2, 3],
            8000,
            [0, 1, 1],
        ),
        (b"{}x", 0x5b8f699963ede6c0, [0, 2, 0], 10595, [1, 1, 2]),
        (
            b"a-key-that-is-longer-than-thirty-two-bytes!",
            0x09a3cd7894bcb9d4,
            [0, 0, 0],
            4715,
            [0, 0, 1],
        ),
    ];

    #[test]
    fn keys_go_where_kevy_puts_them() {
        for &(key, hash, shards, slot_wanted, slot_shards) in PLACED {
            assert_eq!(kevy_hash(key), hash, "{}", key.escape_ascii());
            assert_eq!(slot(key), slot_wanted, "{}", key.escape_ascii());
            for (at, count) in (2..=4).enumerate() {
                assert_eq!(Routing::KevyHash.shard_of(key, count), shards[at]);
                assert_eq!(Routing::Slots.shard_of(key, count), slot_shards[at]);
            }
            assert_eq!(Routing::KevyHash.shard_of(key, 1), 0);
            assert_eq!(Routing::Slots.shard_of(key, 0), 0);
        }
        assert_eq!(kevy_hash_whole(b"user:{42}:name"), 0xbfb90a3fe7f2cec4);
    }

    #[test]
    fn the_hashtag_is_the_first_pair_unless_empty() {
        assert_eq!(hashtag(b"a{b}c{d}"), b"b");
        assert_eq!(hashtag(b"a{}c{d}"), b"a{}c{d}");
        assert_eq!(hashtag(b"a{b"), b"a{b");
        assert_eq!(hashtag(b"}a{b}"), b"b");
        assert_eq!(hashtag(b"{{b}}"), b"{b");
        assert_eq!(hashtag(b""), b"");
    }

    #[test]
    fn slot_ranges_cover_every_slot_once() {
        for count in [1, 2, 3, 5, 16, 100] {
            let mut next = 0;
            for shard in 0..count {
                let (first, end) = slot_range(shard, count);
                assert_eq!(first, next);
                for slot in first..end {
                    assert_eq!(slot_shard(slot, count), shard);
                }
                next = end;
            }
            assert_eq!(next, SLOT_COUNT);
        }
    }

    #[test]
    fn crc16_matches_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    proptest! {
        #[test]
        fn find_equals_its_naive_twin(bytes in prop::collection::vec(prop::sample::select(
            vec![b'{', b'}', b'|', b'z', 0, 0x7a, 0x7c, 0xfb, 0xff]), 0..40)) {
            prop_assert_eq!(find(&bytes, b'{'), bytes.iter().position(|&byte| byte == b'{'));
            prop_assert_eq!(find(&bytes, b'}'), bytes.iter().position(|&byte| byte == b'}'));
        }
    }
}
