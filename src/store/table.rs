//! The hash table: extendible hashing over segments of cache-line buckets.
//!
//! The top bits of a hash choose a segment through the directory, its low bits the home bucket in
//! the segment. A bucket is one cache line: seven slots and a word that says which of the next
//! seven buckets hold entries that found no room here, so that most lookups end after one line.
//! A full segment splits in two; no other segment is touched, and no key is read, because a slot
//! keeps the hash bits that the next splits need. Only the directory grows as a whole: four bytes
//! for several hundred keys.
//!
//! Slot, from the top: 22 hash bits (those behind the directory bits of the segment's depth class),
//! 3 bits distance from the home bucket, 3 bits kind (never 0), 36 bits cell. 0 is an empty slot.

use std::fmt;

use arrayvec::ArrayVec;

/// Kind and cell of an entry, as the table keeps them for the keyspace: one word, so that it is passed
/// around in a register.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    /// `kind` is 1 to 7, whatever the keyspace means by it; `cell` is where the entry's bytes are.
    #[inline]
    pub fn new(kind: u64, cell: u64) -> Entry {
        debug_assert!((1..8).contains(&kind) && cell <= CELL_MASK);
        Entry(kind << KIND_SHIFT | cell)
    }

    #[inline]
    pub fn kind(self) -> u64 {
        self.0 >> KIND_SHIFT
    }

    #[inline]
    pub fn cell(self) -> u64 {
        self.0 & CELL_MASK
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({}, {})", self.kind(), self.cell())
    }
}

/// Where an entry's slot is. Valid until the table is next changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct At(u64);

impl At {
    /// One word, so that it is passed around in a register.
    #[inline]
    fn new(segment: usize, bucket: usize, slot: usize) -> At {
        At((segment as u64) << 32 | (bucket << 8 | slot) as u64)
    }

    #[inline]
    fn segment(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline]
    fn bucket(self) -> usize {
        (self.0 as u32 >> 8) as usize
    }

    #[inline]
    fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

/// What the first look of a search showed.
pub(super) enum First {
    /// There is no such entry.
    Nothing,
    /// This entry has the stored hash bits: it is nearly always the one.
    Likely(At, Entry),
    /// The entry, if there is one, is not where it belongs: ask [`Table::find`].
    Elsewhere,
}

/// A place in the one order that splits and merges do not change: home bucket first, then the top
/// hash bits. What cursors are made of.
pub(super) type Place = u64;

/// The table. Knows hashes and slots, not keys.
pub(super) struct Table {
    /// By the top `depth` hash bits: segment number, and its depth in the top six bits.
    directory: Vec<u32>,
    depth: u32,
    segments: Vec<Box<Segment>>,
    infos: Vec<Info>,
    /// How many segments have each depth: tells when the directory can be halved.
    by_depth: [u32; DEPTH_MAX as usize + 1],
    len: usize,
    /// The most entries that one call has moved.
    most_moved: usize,
}

type Segment = [Bucket; BUCKETS];

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket {
    slots: [u64; SLOTS],
    /// Bit d - 1: the bucket d further on holds entries whose home is here.
    displaced: u64,
}
const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The slots that fit, a bit each. Which slot holds an entry cannot be foreseen, so a search that
    /// branched at each would mostly be guessed wrong by the processor.
    #[inline(always)]
    fn fitting(&self, want: u64) -> u32 {
        let mut mask = 0;
        for (at, slot) in self.slots.iter().enumerate() {
            mask |= u32::from(fits(*slot, want)) << at;
        }
        mask
    }
}

/// What is known of a segment besides its buckets.
#[derive(Clone, Copy)]
struct Info {
    /// The hash bits that all its entries share, at the top; the rest is zero.
    prefix: u64,
    depth: u8,
    count: u16,
}

impl Table {
    pub fn new() -> Self {
        let mut by_depth = [0; DEPTH_MAX as usize + 1];
        by_depth[0] = 1;
        Self {
            directory: vec![0],
            depth: 0,
            segments: vec![empty_segment()],
            infos: vec![Info {
                prefix: 0,
                depth: 0,
                count: 0,
            }],
            by_depth,
            len: 0,
            most_moved: 0,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.segments.len() * (size_of::<Segment>() + 8 + size_of::<Info>())
            + self.directory.len() * 4
    }

    #[cfg(test)]
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The most entries that one call has moved so far.
    #[cfg(test)]
    pub fn most_moved(&self) -> usize {
        self.most_moved
    }

    /// Where a lookup of this hash reads first, without reading it.
    #[inline]
    pub fn line(&self, hash: u64) -> &u64 {
        let (segment, _) = self.segment_of(hash);
        &self.segments[segment][home_of(hash)].displaced
    }

    /// The first entry that has the hash bits of `hash`, which is nearly always the entry itself.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<Entry> {
        let (segment, depth) = self.segment_of(hash);
        let want = tag(hash, depth);
        let bucket = &self.segments[segment][home_of(hash)];
        let fitting = bucket.fitting(want);
        (fitting != 0).then(|| entry(bucket.slots[fitting.trailing_zeros() as usize]))
    }

    /// Where a search for this hash looks first. See [`First`].
    #[inline(always)]
    pub fn first(&self, hash: u64) -> First {
        let (segment, depth) = self.segment_of(hash);
        let home = home_of(hash);
        let bucket = &self.segments[segment][home];
        let fitting = bucket.fitting(tag(hash, depth));
        if fitting == 0 {
            return if bucket.displaced == 0 {
                First::Nothing
            } else {
                First::Elsewhere
            };
        }
        let slot = fitting.trailing_zeros() as usize;
        First::Likely(At::new(segment, home, slot), entry(bucket.slots[slot]))
    }

    /// Finds the entry with this hash that `is` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is: impl FnMut(Entry) -> bool) -> Option<(At, Entry)> {
        let (segment, depth) = self.segment_of(hash);
        let buckets = &*self.segments[segment];
        let home = home_of(hash);
        let mut want = tag(hash, depth);
        let mut bucket = home;
        let mut displaced = buckets[home].displaced;
        loop {
            let mut fitting = buckets[bucket].fitting(want);
            while fitting != 0 {
                let at = fitting.trailing_zeros() as usize;
                fitting &= fitting - 1;
                let entry = entry(buckets[bucket].slots[at]);
                if is(entry) {
                    return Some((At::new(segment, bucket, at), entry));
                }
            }
            if displaced == 0 {
                return None;
            }
            let distance = displaced.trailing_zeros() as usize + 1;
            displaced &= displaced - 1;
            bucket = (home + distance) % BUCKETS;
            want = (want & TAG_MASK) | (distance as u64) << DISTANCE_SHIFT;
        }
    }

    /// The entry at a place that was found.
    #[inline]
    pub fn entry_at(&self, at: At) -> Entry {
        entry(self.segments[at.segment()][at.bucket()].slots[at.slot()])
    }

    /// Adds an entry that is not there yet. `rehash` gives the hashes of entries, should their stored
    /// bits not suffice for a split.
    pub fn insert(&mut self, hash: u64, entry: Entry, rehash: impl Fn(&[Entry], &mut [u64])) {
        loop {
            let (segment, depth) = self.segment_of(hash);
            let slot = tag(hash, depth) | pack(entry);
            if self.infos[segment].count < COUNT_MAX
                && put(&mut self.segments[segment], home_of(hash), slot)
            {
                self.infos[segment].count += 1;
                self.len += 1;
                return;
            }
            self.split(segment, &rehash);
        }
    }

    /// Changes what a slot points to.
    pub fn set(&mut self, at: At, entry: Entry) {
        let slot = &mut self.segments[at.segment()][at.bucket()].slots[at.slot()];
        *slot = (*slot & !ENTRY_MASK) | pack(entry);
    }

    /// Removes an entry. Segments that have become nearly empty are merged.
    pub fn remove(&mut self, at: At, rehash: impl Fn(&[Entry], &mut [u64])) {
        let segment = at.segment();
        let buckets = &mut self.segments[segment];
        let bucket = at.bucket();
        let slot = std::mem::take(&mut buckets[bucket].slots[at.slot()]);
        assert!(slot != 0, "an empty slot was removed");
        let distance = distance_of(slot);
        if distance > 0
            && !buckets[bucket]
                .slots
                .iter()
                .any(|slot| distance_of(*slot) == distance)
        {
            let home = (bucket + BUCKETS - distance) % BUCKETS;
            buckets[home].displaced &= !(1 << (distance - 1));
        }
        self.len -= 1;
        let info = &mut self.infos[segment];
        info.count -= 1;
        if info.count < MERGE_BELOW && info.depth > 0 {
            self.merge(segment, &rehash);
        }
    }

    /// The place of a hash in the order of cursors.
    pub fn place(hash: u64) -> Place {
        (home_of(hash) as u64) << DEPTH_MAX | hash >> (64 - DEPTH_MAX)
    }

    /// Calls `visit` with the entries at `place` and some that follow it in the order of cursors:
    /// those with one home bucket in one segment. The next place, or `None` at the end.
    pub fn walk(&self, place: Place, mut visit: impl FnMut(Entry)) -> Option<Place> {
        let home = (place >> DEPTH_MAX) as usize;
        if home >= BUCKETS {
            return None;
        }
        let prefix = place & PREFIX_MASK;
        let (segment, depth) = self.segment_of(prefix << (64 - DEPTH_MAX));
        let buckets = &self.segments[segment];
        let mut reach = buckets[home].displaced << 1 | 1;
        while reach != 0 {
            let distance = reach.trailing_zeros() as usize;
            reach &= reach - 1;
            for slot in &buckets[(home + distance) % BUCKETS].slots {
                if *slot != 0 && distance_of(*slot) == distance {
                    visit(entry(*slot));
                }
            }
        }
        let width = DEPTH_MAX - depth;
        let next = ((prefix >> width) + 1) << width;
        if next <= PREFIX_MASK {
            Some((home as u64) << DEPTH_MAX | next)
        } else if home + 1 < BUCKETS {
            Some((home as u64 + 1) << DEPTH_MAX)
        } else {
            None
        }
    }

    /// Does a [`walk`](Table::walk) from `place` visit entries before it, too? It does where two segments
    /// were merged whose border it was.
    pub fn is_within(&self, place: Place) -> bool {
        let prefix = place & PREFIX_MASK;
        let (_, depth) = self.segment_of(prefix << (64 - DEPTH_MAX));
        prefix & ((1 << (DEPTH_MAX - depth)) - 1) != 0
    }

    /// The `chance`-th entry (modulo their number) of the segment that holds `hash`.
    pub fn pick(&self, hash: u64, chance: u64) -> Option<Entry> {
        let (segment, _) = self.segment_of(hash);
        let count = u64::from(self.infos[segment].count);
        if count == 0 {
            return None;
        }
        let buckets = &self.segments[segment];
        let mut slots = buckets.iter().flat_map(|bucket| &bucket.slots);
        slots
            .by_ref()
            .filter(|slot| **slot != 0)
            .nth((chance % count) as usize)
            .map(|slot| entry(*slot))
    }

    /// Visits about `count` entries, all those in some neighbouring slots that chance chooses. Every entry
    /// is as likely to be visited as any other: as many slots are looked at as hold so many on average.
    pub fn sample(&self, hash: u64, chance: u64, count: usize, mut visit: impl FnMut(Entry)) {
        let (segment, _) = self.segment_of(hash);
        let entries = usize::from(self.infos[segment].count);
        if entries == 0 {
            return;
        }
        let all = BUCKETS * SLOTS;
        let width = (count * all).div_ceil(entries).min(all);
        let first = (chance % all as u64) as usize;
        let buckets = &self.segments[segment];
        for at in first..first + width {
            let slot = buckets[at / SLOTS % BUCKETS].slots[at % SLOTS];
            if slot != 0 {
                visit(entry(slot));
            }
        }
    }

    /// Gives one segment's memory back, whatever is in it; false once nothing is left. The table is
    /// of no use afterwards.
    pub fn free_segment(&mut self) -> bool {
        self.segments.pop().is_some()
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> (usize, u32) {
        // Shifted twice, because a shift by 64 is none.
        let entry = self.directory[((hash >> 1) >> (63 - self.depth)) as usize];
        ((entry & SEGMENT_MASK) as usize, entry >> SEGMENT_BITS)
    }

    fn split(&mut self, segment: usize, rehash: &impl Fn(&[Entry], &mut [u64])) {
        let info = self.infos[segment];
        let depth = u32::from(info.depth);
        // The hash is keyed, so that only a broken hash gets here.
        assert!(depth < DEPTH_MAX, "too many keys share their hash bits");
        if depth == self.depth {
            self.directory = self
                .directory
                .iter()
                .flat_map(|entry| [*entry, *entry])
                .collect();
            self.depth += 1;
        }

        // Both halves keep their entries where they were, so that nothing can fail to fit.
        let split_bit = 1 << (63 - (depth - base_of(depth)));
        let mut upper: Box<Segment> = self.segments[segment].clone();
        let lower = &mut self.segments[segment];
        let mut moved = 0;
        for (low, high) in lower.iter_mut().zip(upper.iter_mut()) {
            for (low, high) in low.slots.iter_mut().zip(&mut high.slots) {
                if *low & split_bit == 0 {
                    *high = 0;
                } else {
                    *low = 0;
                    moved += 1;
                }
            }
        }
        if base_of(depth + 1) != base_of(depth) {
            retag(lower, depth + 1, rehash);
            retag(&mut upper, depth + 1, rehash);
            moved = usize::from(info.count);
        }
        bring_home(lower);
        bring_home(&mut upper);
        self.most_moved = self.most_moved.max(usize::from(info.count));

        let new = self.segments.len();
        assert!(new < SEGMENT_MASK as usize, "the table is full");
        self.segments.push(upper);
        self.infos.push(Info {
            prefix: info.prefix | 1 << (63 - depth),
            depth: info.depth + 1,
            count: 0,
        });
        self.by_depth[depth as usize] -= 1;
        self.by_depth[depth as usize + 1] += 2;
        let count = |buckets: &Segment| {
            let slots = buckets.iter().flat_map(|bucket| &bucket.slots);
            slots.filter(|slot| **slot != 0).count() as u16
        };
        self.infos[new].count = count(&self.segments[new]);
        self.infos[segment].count = count(&self.segments[segment]);
        self.infos[segment].depth += 1;
        debug_assert!(moved <= usize::from(info.count));
        self.point_at(segment);
        self.point_at(new);
    }

    /// Joins a segment with its other half if together they are small enough to stay so.
    fn merge(&mut self, segment: usize, rehash: &impl Fn(&[Entry], &mut [u64])) {
        let info = self.infos[segment];
        let depth = u32::from(info.depth);
        let (other, other_depth) = self.segment_of(info.prefix ^ 1 << (64 - depth));
        if other_depth != depth || self.infos[other].count + info.count > MERGED_MAX {
            return;
        }
        let mut joined = self.segments[segment].clone();
        let from = &self.segments[other];
        for (at, bucket) in from.iter().enumerate() {
            for slot in bucket.slots.iter().filter(|slot| **slot != 0) {
                let home = (at + BUCKETS - distance_of(*slot)) % BUCKETS;
                if !put(&mut joined, home, *slot & !DISTANCE_MASK) {
                    return;
                }
            }
        }
        if base_of(depth - 1) != base_of(depth) {
            retag(&mut joined, depth - 1, rehash);
        }
        self.most_moved = self
            .most_moved
            .max(usize::from(info.count + self.infos[other].count));
        self.segments[segment] = joined;
        self.infos[segment] = Info {
            prefix: info.prefix & !(1 << (64 - depth)),
            depth: info.depth - 1,
            count: info.count + self.infos[other].count,
        };
        self.by_depth[depth as usize] -= 2;
        self.by_depth[depth as usize - 1] += 1;
        self.point_at(segment);
        self.segments.swap_remove(other);
        self.infos.swap_remove(other);
        if other < self.segments.len() {
            self.point_at(other);
        }
        while self.depth > 0 && self.by_depth[self.depth as usize] == 0 {
            self.directory = self.directory.iter().step_by(2).copied().collect();
            self.depth -= 1;
        }
    }

    /// Writes a segment's number and depth into its part of the directory.
    fn point_at(&mut self, segment: usize) {
        let info = self.infos[segment];
        let first = ((info.prefix >> 1) >> (63 - self.depth)) as usize;
        let width = 1 << (self.depth - u32::from(info.depth));
        self.directory[first..first + width]
            .fill(segment as u32 | u32::from(info.depth) << SEGMENT_BITS);
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("len", &self.len)
            .field("segments", &self.segments.len())
            .field("depth", &self.depth)
            .finish()
    }
}

fn empty_segment() -> Box<Segment> {
    Box::new(
        [Bucket {
            slots: [0; SLOTS],
            displaced: 0,
        }; BUCKETS],
    )
}

/// Puts a slot into its home bucket or the nearest after it with room; false if there is none.
#[inline]
fn put(buckets: &mut Segment, home: usize, slot: u64) -> bool {
    for distance in 0..=DISTANCE_MAX {
        let bucket = &mut buckets[(home + distance) % BUCKETS];
        if let Some(free) = bucket.slots.iter_mut().find(|slot| **slot == 0) {
            *free = slot | (distance as u64) << DISTANCE_SHIFT;
            if distance > 0 {
                buckets[home].displaced |= 1 << (distance - 1);
            }
            return true;
        }
    }
    false
}

/// Moves displaced entries nearer to their homes where there is room now, and notes what is left
/// displaced.
fn bring_home(buckets: &mut Segment) {
    for at in 0..BUCKETS {
        for slot in 0..SLOTS {
            let value = buckets[at].slots[slot];
            let distance = distance_of(value);
            if distance > 0 {
                buckets[at].slots[slot] = 0;
                let home = (at + BUCKETS - distance) % BUCKETS;
                let placed = put(buckets, home, value & !DISTANCE_MASK);
                assert!(placed, "the slot that was just emptied is there");
            }
        }
    }
    for bucket in buckets.iter_mut() {
        bucket.displaced = 0;
    }
    for at in 0..BUCKETS {
        for slot in 0..SLOTS {
            let distance = distance_of(buckets[at].slots[slot]);
            if distance > 0 {
                buckets[(at + BUCKETS - distance) % BUCKETS].displaced |= 1 << (distance - 1);
            }
        }
    }
}

/// Stores the hash bits that entries at this depth need. Asks for many hashes at once: the keys are
/// all over the memory, and reading them one after the other would take most of a split's time.
fn retag(buckets: &mut Segment, depth: u32, rehash: &impl Fn(&[Entry], &mut [u64])) {
    let mut hashes = [0; RETAG_BUCKETS * SLOTS];
    for buckets in buckets.chunks_mut(RETAG_BUCKETS) {
        let slots = || buckets.iter().flat_map(|bucket| bucket.slots);
        let entries: ArrayVec<Entry, { RETAG_BUCKETS * SLOTS }> =
            slots().filter(|slot| *slot != 0).map(entry).collect();
        rehash(&entries, &mut hashes[..entries.len()]);
        let slots = buckets.iter_mut().flat_map(|bucket| &mut bucket.slots);
        for (slot, hash) in slots.filter(|slot| **slot != 0).zip(hashes) {
            *slot = (*slot & !TAG_MASK) | tag(hash, depth);
        }
    }
}

#[inline]
fn home_of(hash: u64) -> usize {
    hash as usize % BUCKETS
}

/// The hash bits that a segment of this depth stores, at the top.
#[inline]
fn tag(hash: u64, depth: u32) -> u64 {
    (hash << base_of(depth)) & TAG_MASK
}

/// How many top hash bits the slots of a segment of this depth leave out.
#[inline]
fn base_of(depth: u32) -> u32 {
    depth.saturating_sub(1) / SPLITS_PER_TAG * SPLITS_PER_TAG
}

#[inline]
fn fits(slot: u64, want: u64) -> bool {
    // An entry at home whose stored bits are all zero looks like `want` but for its kind.
    (slot ^ want) & (TAG_MASK | DISTANCE_MASK) == 0 && slot != 0
}

#[inline]
fn entry(slot: u64) -> Entry {
    Entry(slot & ENTRY_MASK)
}

#[inline]
fn pack(entry: Entry) -> u64 {
    entry.0
}

#[inline]
fn distance_of(slot: u64) -> usize {
    ((slot & DISTANCE_MASK) >> DISTANCE_SHIFT) as usize
}

/// Buckets of a segment: 8 KB, so that a split takes microseconds and the directory stays small.
const BUCKETS: usize = 128;
const SLOTS: usize = 7;
const DISTANCE_MAX: usize = 7;
/// Buckets whose keys are read side by side in [`retag`].
const RETAG_BUCKETS: usize = 8;
const CELL_MASK: u64 = (1 << 36) - 1;
const KIND_SHIFT: u32 = 36;
const DISTANCE_SHIFT: u32 = 39;
const DISTANCE_MASK: u64 = 7 << DISTANCE_SHIFT;
const TAG_SHIFT: u32 = 42;
const TAG_MASK: u64 = !0 << TAG_SHIFT;
const ENTRY_MASK: u64 = (1 << DISTANCE_SHIFT) - 1;
/// The stored bits serve this many splits; the ten that remain then still tell entries apart.
const SPLITS_PER_TAG: u32 = 12;
const DEPTH_MAX: u32 = 40;
const PREFIX_MASK: u64 = (1 << DEPTH_MAX) - 1;
const SEGMENT_BITS: u32 = 26;
const SEGMENT_MASK: u32 = (1 << SEGMENT_BITS) - 1;
/// Fuller segments split although there is room: too many lookups would need a second line.
const COUNT_MAX: u16 = (BUCKETS * SLOTS * 88 / 100) as u16;
const MERGE_BELOW: u16 = (BUCKETS * SLOTS / 8) as u16;
const MERGED_MAX: u16 = (BUCKETS * SLOTS * 3 / 10) as u16;
/// A place has this many bits.
pub(super) const PLACE_BITS: u32 = DEPTH_MAX + BUCKETS.ilog2();
const _: () = assert!(DEPTH_MAX < 1 << (32 - SEGMENT_BITS) && PLACE_BITS <= 48);
const _: () = assert!(BUCKETS.is_power_of_two() && DISTANCE_MAX < BUCKETS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    /// Hashes that share their top bits make the table as deep as millions of keys would.
    #[test]
    fn deep_tables_store_other_hash_bits_and_find_everything() {
        let mut rng = Rng::seeded(4);
        let hashes: Vec<u64> = (0..30_000)
            .map(|_| rng.next_u64() >> 23 | 0b101 << 61)
            .collect();
        let hash = |entries: &[Entry], into: &mut [u64]| {
            for (entry, into) in entries.iter().zip(into) {
                *into = hashes[entry.cell() as usize];
            }
        };
        let mut table = Table::new();
        for (at, hash_of) in hashes.iter().enumerate() {
            let entry = Entry::new(1 + (at % 7) as u64, at as u64);
            table.insert(*hash_of, entry, hash);
        }
        assert!(table.depth > 2 * SPLITS_PER_TAG);
        check(&table, &hashes, 0);
        for (at, hash_of) in hashes.iter().enumerate() {
            let (place, _) = table
                .find(*hash_of, |entry| entry.cell() == at as u64)
                .expect("present");
            table.remove(place, hash);
            if at % 5_000 == 0 {
                check(&table, &hashes, at + 1);
            }
        }
        assert_eq!((table.len(), table.segments(), table.depth), (0, 1, 0));
        assert_eq!(table.directory, [0]);
    }

    /// Also while keys come and go, which puts new ones where there is room.
    #[test]
    fn samples_favour_nobody() {
        let mut rng = Rng::seeded(8);
        let hashes: Vec<u64> = (0..4_000).map(|_| rng.next_u64()).collect();
        let hash = |entries: &[Entry], into: &mut [u64]| {
            for (entry, into) in entries.iter().zip(into) {
                *into = hashes[entry.cell() as usize];
            }
        };
        let mut table = Table::new();
        let insert = |table: &mut Table, at: usize| {
            table.insert(hashes[at], Entry::new(1, at as u64), hash);
        };
        let mut present = vec![false; hashes.len()];
        for (at, present) in present.iter_mut().enumerate().take(2_000) {
            insert(&mut table, at);
            *present = true;
        }
        // By age, the youngest tenth of the keys first.
        let mut visits = [0u32; 10];
        let mut order: Vec<usize> = (0..2_000).collect();
        for _ in 0..60_000 {
            let gone = order.remove(rng.below(2_000) as usize);
            let (place, _) = table
                .find(hashes[gone], |entry| entry.cell() == gone as u64)
                .expect("present");
            table.remove(place, hash);
            present[gone] = false;
            let new = loop {
                let new = rng.below(4_000) as usize;
                if !present[new] {
                    break new;
                }
            };
            insert(&mut table, new);
            present[new] = true;
            order.push(new);
            table.sample(rng.next_u64(), rng.next_u64(), 3, |entry| {
                let at = order.iter().rposition(|one| *one as u64 == entry.cell());
                visits[(1_999 - at.expect("present")) / 200] += 1;
            });
        }
        let mean = visits.iter().sum::<u32>() / 10;
        assert!((170_000..230_000).contains(&(mean * 10)), "{visits:?}");
        assert!(
            visits.iter().all(|count| count.abs_diff(mean) < mean / 20),
            "{visits:?}"
        );
    }

    /// Entries from `first` on are found by their hashes and met once by a walk in order of places.
    fn check(table: &Table, hashes: &[u64], first: usize) {
        for (at, hash) in hashes.iter().enumerate() {
            let found = table.find(*hash, |entry| entry.cell() == at as u64);
            assert_eq!(found.is_some(), at >= first);
            if let Some((_, entry)) = found {
                assert_eq!(entry.kind(), 1 + (at % 7) as u64);
            }
        }
        let mut seen = vec![false; hashes.len()];
        let mut place = Some(0);
        while let Some(from) = place {
            let mut batch = Vec::new();
            place = table.walk(from, |entry| batch.push(entry.cell() as usize));
            for at in batch {
                let own = Table::place(hashes[at]);
                assert!(own >= from && place.is_none_or(|next| own < next));
                assert!(!std::mem::replace(&mut seen[at], true));
            }
        }
        assert_eq!(
            seen.iter().filter(|seen| **seen).count(),
            hashes.len() - first
        );
        for segment in &table.segments {
            for (at, bucket) in segment.iter().enumerate() {
                let displaced = (1..=DISTANCE_MAX).filter(|distance| {
                    let other = &segment[(at + distance) % BUCKETS];
                    other
                        .slots
                        .iter()
                        .any(|slot| distance_of(*slot) == *distance)
                });
                let mask = displaced.fold(0, |mask, distance| mask | 1 << (distance - 1));
                assert_eq!(bucket.displaced, mask);
            }
        }
    }
}
