//! The members of a large sorted set, each kept once, with a number by which the order refers to it.

use hashbrown::HashTable;

use crate::store::dict::{self, Short};

/// Members and scores by number and by member. Numbers are dense: slots of removed members are used
/// again, and when too many are free, members from the end are moved into them.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Slots in blocks of [`BLOCK_LEN`], so that growing moves none.
    blocks: Vec<Vec<Slot>>,
    /// First of the chain of free slots.
    free: Option<u32>,
    free_count: u32,
    index: Index,
}

/// A member and its score, or a link of the chain of free slots.
#[derive(Clone, Debug)]
enum Slot {
    Live {
        member: Short,
        score: f64,
    },
    Free {
        before: Option<u32>,
        after: Option<u32>,
    },
}

const BLOCK_LEN: usize = 256;
const _: () = assert!(size_of::<Slot>() == 32);

/// A member that should change its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The number it has, the highest one.
    pub from: u32,
    /// The number it gets.
    pub to: u32,
}

impl Members {
    /// Number of slots, free ones included; every number is below it.
    pub fn slots(&self) -> usize {
        match self.blocks.last() {
            Some(last) => (self.blocks.len() - 1) * BLOCK_LEN + last.len(),
            None => 0,
        }
    }

    /// The number of a member.
    pub fn find(&self, member: &[u8]) -> Option<u32> {
        self.index
            .find(hash(member), |id| self.member(id) == member)
    }

    /// The member of a number in use.
    pub fn member(&self, id: u32) -> &[u8] {
        match self.slot(id) {
            Slot::Live { member, .. } => member.as_slice(),
            Slot::Free { .. } => &[],
        }
    }

    /// The score of a number in use.
    pub fn score(&self, id: u32) -> f64 {
        match self.slot(id) {
            Slot::Live { score, .. } => *score,
            Slot::Free { .. } => 0.0,
        }
    }

    /// Sets the score of a number in use.
    pub fn set_score(&mut self, id: u32, to: f64) {
        if let Slot::Live { score, .. } = self.slot_mut(id) {
            *score = to;
        }
    }

    /// Adds a member that is not there; its number.
    ///
    /// # Panics
    /// Past four thousand million members, which take more memory than a shard may.
    pub fn insert(&mut self, member: &[u8], score: f64) -> u32 {
        let slot = Slot::Live {
            member: Short::new(member),
            score,
        };
        let id = match self.free {
            Some(id) => {
                self.unchain(id);
                *self.slot_mut(id) = slot;
                id
            }
            None => self.append(slot),
        };
        self.index.insert(hash(member), id);
        id
    }

    /// Removes the member of a number in use.
    pub fn remove(&mut self, id: u32) {
        self.index.remove(hash(self.member(id)), id);
        let after = self.free.replace(id);
        if let Some(next) = after
            && let Slot::Free { before, .. } = self.slot_mut(next)
        {
            *before = Some(id);
        }
        *self.slot_mut(id) = Slot::Free {
            before: None,
            after,
        };
        self.free_count += 1;
    }

    /// If more slots are free than in use: drops a free slot from the end, or names the member at the
    /// end and the free slot that it should [move](Self::relocate) to. Members only ever move down,
    /// which is what [`scan`](Self::scan) relies on.
    pub fn tidy(&mut self) -> Option<Move> {
        let slots = self.slots();
        if (self.free_count as usize) <= slots / 2 + BLOCK_LEN {
            return None;
        }
        let from = slots as u32 - 1;
        if let Slot::Free { .. } = self.slot(from) {
            self.unchain(from);
            self.pop();
            return None;
        }
        self.free.map(|to| Move { from, to })
    }

    /// Does what [`tidy`](Self::tidy) asked for. The number `from` is not valid any more.
    pub fn relocate(&mut self, step: Move) {
        self.unchain(step.to);
        let Some(slot) = self.pop() else {
            return;
        };
        if let Slot::Live { member, .. } = &slot {
            let hash = hash(member.as_slice());
            self.index.remove(hash, step.from);
            self.index.insert(hash, step.to);
        }
        *self.slot_mut(step.to) = slot;
    }

    /// Visits about `count` members from a cursor on, in falling order of their numbers; the next
    /// cursor, 0 at the end. A member that is there all the time is visited.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], f64)) -> u64 {
        let slots = self.slots() as u64;
        let top = if cursor == 0 {
            slots
        } else {
            cursor.min(slots)
        };
        let mut at = top;
        // Free slots count for less, or a scan of a set that lost most of its members would take long
        // turns or many.
        let mut effort = count.max(1) * 8;
        while at > 0 && effort > 0 {
            at -= 1;
            match self.slot(at as u32) {
                Slot::Live { member, score } => {
                    visit(member.as_slice(), *score);
                    effort = effort.saturating_sub(8);
                }
                Slot::Free { .. } => effort -= 1,
            }
        }
        at
    }

    /// Drops about `budget` members; true once none is left. Nothing else may be asked then.
    pub fn free_slice(&mut self, budget: usize) -> bool {
        let mut freed = 0;
        while freed < budget {
            match self.blocks.pop() {
                Some(block) => freed += block.len(),
                None => break,
            }
        }
        self.blocks.is_empty() && self.index.free_slice(budget)
    }

    /// Heap bytes held. Long members are counted from a sample.
    pub fn heap_bytes(&self) -> usize {
        let slots = self.blocks.len() * BLOCK_LEN * size_of::<Slot>();
        let sample = self.slots().min(BLOCK_LEN);
        let long: usize = (0..sample as u32)
            .map(|id| match self.slot(id) {
                Slot::Live { member, .. } => member.heap_bytes(),
                Slot::Free { .. } => 0,
            })
            .sum();
        slots + long * self.slots() / sample.max(1) + self.index.heap_bytes()
    }

    fn slot(&self, id: u32) -> &Slot {
        &self.blocks[id as usize / BLOCK_LEN][id as usize % BLOCK_LEN]
    }

    fn slot_mut(&mut self, id: u32) -> &mut Slot {
        &mut self.blocks[id as usize / BLOCK_LEN][id as usize % BLOCK_LEN]
    }

    fn append(&mut self, slot: Slot) -> u32 {
        let id = self.slots();
        assert!(id < u32::MAX as usize, "a sorted set past its limit");
        if id.is_multiple_of(BLOCK_LEN) {
            self.blocks.push(Vec::with_capacity(BLOCK_LEN));
        }
        self.blocks[id / BLOCK_LEN].push(slot);
        id as u32
    }

    fn pop(&mut self) -> Option<Slot> {
        let last = self.blocks.last_mut()?;
        let slot = last.pop();
        if last.is_empty() {
            self.blocks.pop();
        }
        slot
    }

    /// Takes a free slot out of the chain.
    fn unchain(&mut self, id: u32) {
        let &Slot::Free { before, after } = self.slot(id) else {
            return;
        };
        match before {
            Some(link) => {
                if let Slot::Free { after: next, .. } = self.slot_mut(link) {
                    *next = after;
                }
            }
            None => self.free = after,
        }
        if let Some(link) = after
            && let Slot::Free { before: back, .. } = self.slot_mut(link)
        {
            *back = before;
        }
        self.free_count -= 1;
    }
}

/// Numbers by the hash of their member. It grows one small segment at a time (linear hashing) and
/// keeps 32 bits of each hash, so that growing looks at no member.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Segments in order, `CHUNK` to a vector, so that adding one never moves all of them.
    chunks: Vec<Vec<Segment>>,
    segments: usize,
    len: usize,
}

type Segment = HashTable<(u32, u32)>;

/// Segments per vector.
const CHUNK: usize = 256;

/// Elements per segment on average.
const SEGMENT_LEN: usize = 110;

impl Index {
    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.segments == 0 {
            return None;
        }
        let at = address(hash, self.segments);
        let segment = &self.chunks[at / CHUNK][at % CHUNK];
        let found = segment.find(spread(hash), |(other, id)| *other == hash && is_it(*id));
        found.map(|(_, id)| *id)
    }

    fn insert(&mut self, hash: u32, id: u32) {
        if self.len >= self.segments * SEGMENT_LEN {
            self.split();
        }
        put(self.segment_mut(address(hash, self.segments)), (hash, id));
        self.len += 1;
    }

    fn remove(&mut self, hash: u32, id: u32) {
        if self.segments == 0 {
            return;
        }
        let segment = self.segment_mut(address(hash, self.segments));
        if let Ok(found) = segment.find_entry(spread(hash), |(_, other)| *other == id) {
            found.remove();
            self.len -= 1;
        }
        if self.segments > 1 && self.len < self.segments * SEGMENT_LEN / 4 {
            self.join();
        }
    }

    fn segment_mut(&mut self, at: usize) -> &mut Segment {
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }

    /// Adds a segment and moves to it what belongs there, all from one other segment.
    fn split(&mut self) {
        let count = self.segments;
        let mut added = Segment::new();
        if count > 0 {
            let source = self.segment_mut(origin(count));
            added = Segment::with_capacity(source.len() / 2);
            let moving = source.extract_if(|(hash, _)| address(*hash, count + 1) == count);
            moving.for_each(|entry| put(&mut added, entry));
            source.shrink_to(source.len() + source.len() / 8, |(hash, _)| spread(*hash));
        }
        if count.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::new());
        }
        self.chunks[count / CHUNK].push(added);
        self.segments += 1;
    }

    /// Moves the last segment's content back to where it was split from.
    fn join(&mut self) {
        let Some(last) = self.pop_segment() else {
            return;
        };
        let target = self.segment_mut(origin(self.segments));
        last.into_iter().for_each(|entry| put(target, entry));
    }

    fn pop_segment(&mut self) -> Option<Segment> {
        let chunk = self.chunks.last_mut()?;
        let last = chunk.pop();
        if chunk.is_empty() {
            self.chunks.pop();
        }
        self.segments -= 1;
        last
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        for _ in 0..=budget / SEGMENT_LEN {
            if self.segments == 0 {
                break;
            }
            self.pop_segment();
        }
        self.segments == 0
    }

    fn heap_bytes(&self) -> usize {
        let sample = self.chunks.first().map_or(&[][..], |chunk| &chunk[..]);
        let bytes: usize = sample.iter().map(Segment::allocation_size).sum();
        bytes * self.segments / sample.len().max(1) + self.segments * size_of::<Segment>()
    }
}

fn put(segment: &mut Segment, entry: (u32, u32)) {
    segment.insert_unique(spread(entry.0), entry, |(hash, _)| spread(*hash));
}

/// The segment of a hash among `count`, which is not 0: as many low bits as `count - 1` has, or one
/// less where that number is past the end.
fn address(hash: u32, count: usize) -> usize {
    let mask = count.next_power_of_two() - 1;
    let at = hash as usize & mask;
    if at < count { at } else { at & (mask >> 1) }
}

/// The segment that segment `at`, which is not 0, was split from: the same without the highest bit.
fn origin(at: usize) -> usize {
    at ^ (1 << at.ilog2())
}

fn hash(member: &[u8]) -> u32 {
    (dict::hash(member) >> 32) as u32
}

/// Spreads 32 bits over the places that the table looks at: the lowest ones, which are alike within
/// a segment, and the highest seven.
fn spread(hash: u32) -> u64 {
    let mixed = u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}
