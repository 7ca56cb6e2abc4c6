//! The table behind large hashes, sets and sorted sets. It never stops to grow as a whole: it is made
//! of segments of bounded size, and one insertion splits at most one of them (linear hashing).

use std::{fmt, hash::Hasher, sync::OnceLock};

use foldhash::{SharedSeed, quality::FoldHasher};
use hashbrown::{HashTable, hash_table::Entry as Slot, hash_table::VacantEntry};

use crate::base::Rng;

/// A map from byte strings to values. Growing and shrinking move the elements of one segment per
/// operation, so no operation takes a time that grows with the map. Iteration and scans follow the
/// hash order, which is the same for every map of the process.
#[derive(Clone)]
pub struct Dict<V> {
    table: Table<Pair<V>>,
}

impl<V> Default for Dict<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Dict<V> {
    /// An empty map; allocates nothing.
    pub fn new() -> Self {
        Self {
            table: Table::default(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Is the key there?
    pub fn contains(&self, key: &[u8]) -> bool {
        self.table.find(key).is_some()
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        self.table.find(key).map(|pair| &pair.value)
    }

    /// The value of a key, to change.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        self.table.find_mut(key).map(|pair| &mut pair.value)
    }

    /// Sets the value of a key; the old value if there was one. The key is copied only if it is new.
    pub fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        match self.table.entry(key) {
            Entry::Found(pair) => Some(std::mem::replace(&mut pair.value, value)),
            Entry::Absent(place) => {
                place.insert(Pair {
                    key: Short::new(key),
                    value,
                });
                None
            }
        }
    }

    /// Removes a key; its value if it was there.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        self.table.remove(key).map(|pair| pair.value)
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.table.iter().map(|pair| (pair.key(), &pair.value))
    }

    /// Visits some elements, about `count`, from a cursor on; the next cursor, 0 at the end. An
    /// element that is there during the whole iteration is visited exactly once, whatever else is
    /// added or removed.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], &V)) -> u64 {
        self.table
            .scan(cursor, count, |pair| visit(pair.key(), &pair.value))
    }

    /// An element chosen at random, each with the same chance.
    pub fn random(&self, rng: &mut Rng) -> Option<(&[u8], &V)> {
        let pair = self.table.random(rng)?;
        Some((pair.key(), &pair.value))
    }

    /// Frees at least `budget` elements or all; true once nothing is left. The rest can only be
    /// freed further: lookups no longer find all of it.
    pub fn free_slice(&mut self, budget: usize) -> bool {
        self.table.free_slice(budget)
    }

    /// Heap bytes held, from a sample of the elements.
    pub fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }
}

impl<V: fmt::Debug> fmt::Debug for Dict<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[derive(Clone)]
struct Pair<V> {
    key: Short,
    value: V,
}

impl<V> Keyed for Pair<V> {
    fn key(&self) -> &[u8] {
        self.key.as_slice()
    }
    fn heap_bytes(&self) -> usize {
        self.key.heap_bytes()
    }
}

/// A byte string that never grows, kept in place if it is short. As large as three pointers; most
/// members and fields need no allocation and no second cache miss.
#[derive(Clone, PartialEq, Eq)]
pub enum Short {
    /// Kept in place.
    Inline {
        /// Number of bytes.
        len: u8,
        /// The bytes, zeros behind them.
        bytes: [u8; INLINE_MAX],
    },
    /// Too long for that.
    Heap(Box<[u8]>),
}

/// Longest byte string that [`Short`] keeps in place.
pub const INLINE_MAX: usize = 22;
const _: () = assert!(size_of::<Short>() == 24);

impl Short {
    /// Copies the bytes.
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; INLINE_MAX];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                Short::Inline {
                    len: text.len() as u8,
                    bytes,
                }
            }
            None => Short::Heap(text.into()),
        }
    }

    /// Copies the bytes of all parts, one behind the other.
    pub fn concat(parts: &[&[u8]]) -> Self {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > INLINE_MAX {
            return Short::Heap(parts.concat().into());
        }
        let mut bytes = [0; INLINE_MAX];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Short::Inline {
            len: len as u8,
            bytes,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Short::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Short::Heap(bytes) => bytes,
        }
    }

    /// The bytes, to change without changing their number.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Short::Inline { len, bytes } => &mut bytes[..usize::from(*len)],
            Short::Heap(bytes) => bytes,
        }
    }

    /// Bytes held outside of it.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Short::Inline { .. } => 0,
            Short::Heap(bytes) => bytes.len(),
        }
    }
}

impl Ord for Short {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl PartialOrd for Short {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_slice().escape_ascii())
    }
}

/// An element that carries its key.
pub trait Keyed {
    /// The key. It never changes while the element is in a table.
    fn key(&self) -> &[u8];
    /// Bytes that the element holds outside of its slot.
    fn heap_bytes(&self) -> usize;
}

/// The table of elements that carry their keys, for those that pack key and value together; [`Dict`]
/// is the usual form.
#[derive(Clone)]
pub struct Table<E> {
    /// Segments in order, `CHUNK` to a vector, so that adding one never moves all of them. With `n`
    /// segments a segment is found by the low bits of an address: as many as `n - 1` has, or one less
    /// where that number is past the end.
    chunks: Vec<Vec<HashTable<E>>>,
    segments: usize,
    len: usize,
    /// At least as many buckets as any segment has; a bound for [`Table::random`].
    widest: usize,
}

/// What [`Table::entry`] found.
pub enum Entry<'a, E> {
    /// The element is there.
    Found(&'a mut E),
    /// It is not; it can be put in its place.
    Absent(Absent<'a, E>),
}

/// The place of an element that is not there.
pub struct Absent<'a, E> {
    place: VacantEntry<'a, E>,
    len: &'a mut usize,
}

impl<'a, E> Absent<'a, E> {
    /// Puts the element there. Its key is the one that was asked for.
    pub fn insert(self, element: E) -> &'a mut E {
        *self.len += 1;
        self.place.insert(element).into_mut()
    }
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            segments: 0,
            len: 0,
            widest: 0,
        }
    }
}

impl<E: Keyed + fmt::Debug> fmt::Debug for Table<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<E> Table<E> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.chunks.iter().flatten().flat_map(HashTable::iter)
    }

    /// Frees at least `budget` elements or all; true once nothing is left. The rest can only be
    /// freed further: lookups no longer find all of it.
    pub fn free_slice(&mut self, budget: usize) -> bool {
        let mut freed = 0;
        while freed < budget {
            let Some(segment) = self.pop_segment() else {
                break;
            };
            freed += segment.len();
            self.len -= segment.len();
        }
        self.segments == 0
    }

    /// The place of a hash in the order of scans: 48 of its bits. hashbrown looks at the highest and
    /// the lowest bits, which must stay independent of the choice of the segment.
    fn place(hash: u64) -> u64 {
        (hash >> 9) & (PLACES - 1)
    }

    /// The place with its bits in reverse: its low bits choose the segment, and so each segment holds
    /// one unbroken range of places, however often it was split.
    fn address(place: u64) -> usize {
        (place.reverse_bits() >> (64 - PLACE_BITS)) as usize
    }

    fn segment_of(&self, hash: u64) -> usize {
        if self.segments == 1 {
            return 0;
        }
        self.segment_at(Self::address(Self::place(hash)))
    }

    fn segment_at(&self, address: usize) -> usize {
        let mask = self.segments.next_power_of_two() - 1;
        let at = address & mask;
        if at < self.segments {
            at
        } else {
            at & (mask >> 1)
        }
    }

    /// How many low bits of an address lead to the segment: one less where it was not split yet in
    /// this round.
    fn depth(&self, segment: usize) -> u32 {
        let half = self.segments.next_power_of_two() / 2;
        if segment < half && segment + half >= self.segments {
            half.ilog2()
        } else {
            self.segments.next_power_of_two().ilog2()
        }
    }

    fn segment(&self, at: usize) -> &HashTable<E> {
        &self.chunks[at / CHUNK][at % CHUNK]
    }

    fn segment_mut(&mut self, at: usize) -> &mut HashTable<E> {
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }

    fn push_segment(&mut self, segment: HashTable<E>) {
        self.widest = self.widest.max(segment.num_buckets());
        if self.segments.is_multiple_of(CHUNK) {
            // The first vector grows as it is needed, because most tables have few segments.
            let room = if self.segments == 0 { 1 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        self.chunks[self.segments / CHUNK].push(segment);
        self.segments += 1;
    }

    fn pop_segment(&mut self) -> Option<HashTable<E>> {
        let segment = self.chunks.last_mut()?.pop()?;
        self.segments -= 1;
        if self.segments.is_multiple_of(CHUNK) {
            self.chunks.pop();
        }
        Some(segment)
    }
}

impl<E: Keyed> Table<E> {
    /// The element with this key.
    pub fn find(&self, key: &[u8]) -> Option<&E> {
        if self.len == 0 {
            return None;
        }
        let hash = hash(key);
        self.segment(self.segment_of(hash))
            .find(hash, |element| element.key() == key)
    }

    /// The element with this key, to change (never its key).
    pub fn find_mut(&mut self, key: &[u8]) -> Option<&mut E> {
        if self.len == 0 {
            return None;
        }
        let hash = hash(key);
        let at = self.segment_of(hash);
        self.segment_mut(at)
            .find_mut(hash, |element| element.key() == key)
    }

    /// The element with this key or the place for it.
    pub fn entry(&mut self, key: &[u8]) -> Entry<'_, E> {
        if self.len >= self.segments * SEGMENT_LEN {
            self.split();
        }
        let hash = hash(key);
        let at = self.segment_of(hash);
        let segment = &mut self.chunks[at / CHUNK][at % CHUNK];
        // `entry` makes room for one more, so this is the width after the insertion.
        if segment.len() == segment.capacity() {
            segment.reserve(1, rehash);
        }
        self.widest = self.widest.max(segment.num_buckets());
        match segment.entry(hash, |element| element.key() == key, rehash) {
            Slot::Occupied(found) => Entry::Found(found.into_mut()),
            Slot::Vacant(place) => Entry::Absent(Absent {
                place,
                len: &mut self.len,
            }),
        }
    }

    /// Takes the element with this key out.
    pub fn remove(&mut self, key: &[u8]) -> Option<E> {
        if self.len == 0 {
            return None;
        }
        let hash = hash(key);
        let at = self.segment_of(hash);
        let segment = self.segment_mut(at);
        let found = segment.find_entry(hash, |element| element.key() == key);
        let (element, _) = found.ok()?.remove();
        if segment.num_buckets() > 16 && segment.len() * 4 < segment.num_buckets() {
            segment.shrink_to(segment.len() * 2, rehash);
        }
        self.len -= 1;
        // Half of what makes it split, so that it does not go to and fro.
        if self.segments > 1 && self.len < self.segments * SEGMENT_LEN / 2 {
            self.merge();
        }
        Some(element)
    }

    /// Visits some elements, about `count`, from a cursor on; the next cursor, 0 at the end. An
    /// element that is there during the whole iteration is visited exactly once, because its place
    /// follows from its key alone.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&E)) -> u64 {
        let mut from = cursor;
        let mut left = count.max(1);
        while from < PLACES && self.segments > 0 {
            let at = self.segment_at(Self::address(from));
            let behind = (from | ((PLACES - 1) >> self.depth(at))) + 1;
            let mut found: Vec<(u64, &E)> = self
                .segment(at)
                .iter()
                .map(|element| (Self::place(hash(element.key())), element))
                .filter(|(place, _)| *place >= from)
                .collect();
            if found.len() <= left {
                found.iter().for_each(|(_, element)| visit(element));
                left -= found.len();
                from = behind;
                if left == 0 {
                    break;
                }
                continue;
            }
            found.sort_unstable_by_key(|(place, _)| *place);
            let last = found[left - 1].0;
            found
                .iter()
                .take_while(|(place, _)| *place <= last)
                .for_each(|(_, element)| visit(element));
            from = last + 1;
            break;
        }
        if from < PLACES && self.segments > 0 {
            from
        } else {
            0
        }
    }

    /// An element chosen at random, each with the same chance.
    pub fn random(&self, rng: &mut Rng) -> Option<&E> {
        if self.len == 0 {
            return None;
        }
        // Any bucket of any segment with the same chance, until one is occupied. A segment that is
        // narrower than the widest misses more often, which makes up for having fewer buckets.
        let widest = if self.segments == 1 {
            self.segment(0).num_buckets()
        } else {
            self.widest
        };
        for _ in 0..RANDOM_TRIES {
            let segment = self.segment(rng.below(self.segments as u64) as usize);
            if let Some(element) = segment.get_bucket(rng.below(widest as u64) as usize) {
                return Some(element);
            }
        }
        // Only after nearly everything was removed; a slight preference is better than a long search.
        let start = rng.below(self.segments as u64) as usize;
        (0..self.segments)
            .map(|step| self.segment((start + step) % self.segments))
            .find(|segment| !segment.is_empty())
            .and_then(|segment| segment.iter().nth(rng.below(segment.len() as u64) as usize))
    }

    /// Heap bytes held, from a sample of the elements.
    pub fn heap_bytes(&self) -> usize {
        let sample = self.len.min(16);
        let sampled: usize = self.iter().take(sample).map(Keyed::heap_bytes).sum();
        let elements = match sample {
            0 => 0,
            _ => (sampled as u128 * self.len as u128 / sample as u128) as usize,
        };
        let width = self.chunks.first().and_then(|chunk| chunk.first());
        let buckets = width.map_or(0, HashTable::num_buckets) * self.segments;
        elements + buckets * (size_of::<E>() + 1) + self.segments * size_of::<HashTable<E>>()
    }

    /// Adds a segment and moves its share of elements out of the one that held them.
    fn split(&mut self) {
        if self.segments == 0 {
            return self.push_segment(HashTable::new());
        }
        let new = self.segments;
        let bit = 1 << new.ilog2();
        let old = new ^ bit;
        let source = self.segment_mut(old);
        let mut target = HashTable::with_capacity(source.len() / 2);
        let moved =
            source.extract_if(|element| Self::address(Self::place(hash(element.key()))) & bit != 0);
        for element in moved {
            target.insert_unique(hash(element.key()), element, rehash);
        }
        source.shrink_to(source.len() + source.len() / 8, rehash);
        self.push_segment(target);
    }

    /// Takes the last segment away and moves its elements to where they came from.
    fn merge(&mut self) {
        let Some(last) = self.pop_segment() else {
            return;
        };
        let at = self.segments ^ (1 << self.segments.ilog2());
        let target = self.segment_mut(at);
        for element in last {
            target.insert_unique(hash(element.key()), element, rehash);
        }
        let width = target.num_buckets();
        self.widest = self.widest.max(width);
    }
}

/// Chooses the hash of all collections of the process. It is called once, before the first of them is
/// made; without it, and on later calls, the hash stays as it is. Clients must not know the seed, or they
/// could choose members that collide. One for all, so that values can move between keyspaces.
pub fn seed_collections(seed: u64) {
    // Somebody was first: then there are tables that rely on that seed.
    let _ = SEED.set(Seed::new(seed));
}

/// The hash of a key in every collection.
pub(super) fn hash(key: &[u8]) -> u64 {
    let seed = SEED.get_or_init(|| Seed::new(0));
    let mut hasher = FoldHasher::with_seed(seed.own, &seed.shared);
    hasher.write(key);
    hasher.finish()
}

static SEED: OnceLock<Seed> = OnceLock::new();

struct Seed {
    own: u64,
    shared: SharedSeed,
}

impl Seed {
    fn new(seed: u64) -> Self {
        Self {
            own: seed ^ 0x1319_8a2e_0370_7344,
            shared: SharedSeed::from_u64(seed),
        }
    }
}

fn rehash<E: Keyed>(element: &E) -> u64 {
    hash(element.key())
}

/// Elements per segment on average; a segment holds up to twice as many before its turn to split.
const SEGMENT_LEN: usize = 96;
/// Segments per vector.
const CHUNK: usize = 256;
/// Places in the order of scans. Cursors stay below what a double holds exactly.
const PLACE_BITS: u32 = 48;
const PLACES: u64 = 1 << PLACE_BITS;
/// Buckets tried at random before the search takes the next best one.
const RANDOM_TRIES: usize = 1000;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::base::Rng;

    fn key(number: u32) -> Vec<u8> {
        // Every third key is too long to be kept in place.
        match number % 3 {
            0 => format!("a key that does not fit in place {number}").into_bytes(),
            _ => number.to_string().into_bytes(),
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32, u64),
        Remove(u32),
        InsertMany(u32, u32),
        RemoveMany(u32, u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0u32..4000, any::<u64>()).prop_map(|(key, value)| Op::Insert(key, value)),
            (0u32..4000).prop_map(Op::Remove),
            (0u32..4000, 0u32..1500).prop_map(|(from, count)| Op::InsertMany(from, count)),
            (0u32..4000, 0u32..1500).prop_map(|(from, count)| Op::RemoveMany(from, count)),
        ]
    }

    fn apply(dict: &mut Dict<u64>, model: &mut BTreeMap<Vec<u8>, u64>, op: &Op) {
        match *op {
            Op::Insert(at, value) => {
                assert_eq!(dict.insert(&key(at), value), model.insert(key(at), value));
            }
            Op::Remove(at) => assert_eq!(dict.remove(&key(at)), model.remove(&key(at))),
            Op::InsertMany(from, count) => {
                for at in from..from + count {
                    assert_eq!(dict.insert(&key(at), 1), model.insert(key(at), 1));
                }
            }
            Op::RemoveMany(from, count) => {
                for at in from..from + count {
                    assert_eq!(dict.remove(&key(at)), model.remove(&key(at)));
                }
            }
        }
    }

    fn same(dict: &Dict<u64>, model: &BTreeMap<Vec<u8>, u64>) {
        let all: BTreeMap<Vec<u8>, u64> = dict
            .iter()
            .map(|(key, value)| (key.to_vec(), *value))
            .collect();
        assert_eq!(&all, model);
        assert_eq!(dict.len(), model.len());
        for (key, value) in model {
            assert_eq!(dict.get(key), Some(value));
        }
        assert_eq!(dict.get(b"never inserted"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_dict_behaves_as_a_map(ops in prop::collection::vec(op(), 1..30)) {
            let (mut dict, mut model) = (Dict::new(), BTreeMap::new());
            for op in &ops {
                apply(&mut dict, &mut model, op);
            }
            same(&dict, &model);
            let copy = dict.clone();
            while !dict.free_slice(50) {}
            prop_assert!(dict.is_empty());
            same(&copy, &model);
        }

        #[test]
        fn a_scan_sees_once_what_stays(
            before in prop::collection::vec(op(), 1..12),
            during in prop::collection::vec(op(), 1..40),
            count in 1usize..200,
        ) {
            let (mut dict, mut model) = (Dict::new(), BTreeMap::new());
            for op in &before {
                apply(&mut dict, &mut model, op);
            }
            let mut stays: BTreeSet<Vec<u8>> = model.keys().cloned().collect();
            let mut seen: Vec<Vec<u8>> = Vec::new();
            let mut cursor = 0;
            let mut during = during.iter();
            loop {
                cursor = dict.scan(cursor, count, |key, _| seen.push(key.to_vec()));
                if cursor == 0 {
                    break;
                }
                if let Some(op) = during.next() {
                    apply(&mut dict, &mut model, op);
                    stays.retain(|key| model.contains_key(key));
                }
            }
            for key in &stays {
                prop_assert_eq!(seen.iter().filter(|other| *other == key).count(), 1);
            }
        }
    }

    #[test]
    fn segments_stay_small() {
        let mut dict = Dict::new();
        for at in 0..100_000 {
            dict.insert(&key(at), 0u64);
            assert!(dict.table.widest <= 512, "{} at {at}", dict.table.widest);
        }
        for at in 0..99_990 {
            dict.remove(&key(at));
        }
        assert_eq!(dict.table.segments, 1);
        assert!(dict.table.segment(0).num_buckets() <= 64);
    }

    #[test]
    fn random_choice_is_even() {
        let mut rng = Rng::seeded(3);
        for size in [1u32, 10, 400] {
            let mut dict = Dict::new();
            for at in 0..size {
                dict.insert(&key(at), at);
            }
            let mut hits = vec![0u32; size as usize];
            for _ in 0..size * 200 {
                let (_, at) = dict.random(&mut rng).unwrap();
                hits[*at as usize] += 1;
            }
            assert!(
                hits.iter().all(|hits| (100..320).contains(hits)),
                "{hits:?}"
            );
        }
    }
}
