//! The small form of a sorted set: members and scores in order in one block.

use std::cmp::Ordering;

use crate::store::block::Block;

/// Most elements of the packed form, as Redis's default `zset-max-listpack-entries`.
pub const PACKED_LEN: usize = 128;
/// Longest member of the packed form, as Redis's default `zset-max-listpack-value`.
pub const PACKED_MEMBER: usize = 64;

/// Elements ordered by score and member, behind a byte with their number; without elements it holds
/// nothing. Each is a byte with the member's length, the member and the
/// score: four bytes for an integer of that size, eight otherwise, which the high bit of the first
/// byte tells.
#[derive(Clone, Debug, Default)]
pub struct Packed(Block);

const WIDE: u8 = 0x80;
const _: () = assert!(PACKED_MEMBER < WIDE as usize);
const _: () = assert!(PACKED_LEN <= u8::MAX as usize);
const _: () = assert!(PACKED_LEN * (PACKED_MEMBER + 9) < u16::MAX as usize);

/// One element and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its bytes.
    pub member: &'a [u8],
    /// Its score.
    pub score: f64,
    offset: usize,
    size: usize,
}

impl Packed {
    pub fn len(&self) -> usize {
        self.0.first().copied().unwrap_or(0).into()
    }

    pub fn heap_bytes(&self) -> usize {
        self.0.heap_bytes()
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter {
            bytes: &self.0,
            offset: 1,
        }
    }

    /// An element by its member, with its rank.
    pub fn find(&self, member: &[u8]) -> Option<(usize, Entry<'_>)> {
        self.iter()
            .enumerate()
            .find(|(_, entry)| entry.member == member)
    }

    /// An element by its rank.
    pub fn at(&self, rank: usize) -> Option<Entry<'_>> {
        self.iter().nth(rank)
    }

    /// Number of elements before the first that fails the test.
    pub fn partition_point(&self, test: impl Fn(f64, &[u8]) -> bool) -> usize {
        self.iter()
            .take_while(|entry| test(entry.score, entry.member))
            .count()
    }

    /// Adds a member that is not there.
    pub fn insert(&mut self, member: &[u8], score: f64) {
        let at = self
            .iter()
            .find(|entry| order(entry.score, entry.member, score, member) == Ordering::Greater)
            .map_or(self.0.len(), |entry| entry.offset);
        let (small, wide);
        let (mark, score): (u8, &[u8]) = match narrow(score) {
            Some(score) => {
                small = score.to_le_bytes();
                (0, &small)
            }
            None => {
                wide = score.to_le_bytes();
                (WIDE, &wide)
            }
        };
        let head = member.len() as u8 | mark;
        if self.0.is_empty() {
            self.0.splice(0..0, &[&[1, head], member, score]);
        } else {
            self.0.splice(at..at, &[&[head], member, score]);
            self.0[0] += 1;
        }
    }

    /// Removes an element by its member; its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (_, entry) = self.find(member)?;
        let (score, range) = (entry.score, entry.offset..entry.offset + entry.size);
        self.cut(range, 1);
        Some(score)
    }

    /// Removes the elements of a range of ranks that lies inside.
    pub fn remove_range(&mut self, ranks: std::ops::Range<usize>) {
        let offset = |rank| self.at(rank).map_or(self.0.len(), |entry| entry.offset);
        let range = offset(ranks.start)..offset(ranks.end);
        self.cut(range, ranks.len());
    }

    fn cut(&mut self, range: std::ops::Range<usize>, count: usize) {
        if count > 0 {
            self.0.splice(range, &[]);
            self.0[0] -= count as u8;
        }
    }

    /// Where each element begins, for walks that go backwards.
    pub fn offsets(&self) -> [u16; PACKED_LEN] {
        let mut offsets = [0; PACKED_LEN];
        for (place, entry) in offsets.iter_mut().zip(self.iter()) {
            *place = entry.offset as u16;
        }
        offsets
    }

    /// The element that begins at an offset.
    pub fn entry_at(&self, offset: u16) -> Option<Entry<'_>> {
        Iter {
            bytes: &self.0,
            offset: offset.into(),
        }
        .next()
    }
}

/// The elements in order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let (head, rest) = self.bytes.get(self.offset..)?.split_first()?;
        let (member, rest) = rest.split_at(usize::from(head & !WIDE));
        let (score, width) = if head & WIDE == 0 {
            (
                rest.first_chunk().map(|s| i32::from_le_bytes(*s).into())?,
                4,
            )
        } else {
            (rest.first_chunk().map(|s| f64::from_le_bytes(*s))?, 8)
        };
        let entry = Entry {
            member,
            score,
            offset: self.offset,
            size: 1 + member.len() + width,
        };
        self.offset += entry.size;
        Some(entry)
    }
}

/// The order of a sorted set. Scores are never NaN, and the two zeros are equal.
pub fn order(score: f64, member: &[u8], other_score: f64, other_member: &[u8]) -> Ordering {
    score
        .partial_cmp(&other_score)
        .unwrap_or(Ordering::Equal)
        .then_with(|| member.cmp(other_member))
}

/// The score as a small integer, if it is one. Negative zero is not: its sign would be lost.
fn narrow(score: f64) -> Option<i32> {
    let small = score as i32;
    (f64::from(small).to_bits() == score.to_bits()).then_some(small)
}
