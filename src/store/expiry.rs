//! The index of deadlines: buckets of about a second, in order of time.
//!
//! An item is a cell whose entry holds a deadline and the item's place in its bucket, so that an
//! item is found, moved and removed without a search. There is exactly one item per deadline.

use std::collections::BTreeMap;

use crate::base::{Ms, Rng};

/// What is due: a key, or the first field of a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Item {
    /// The entry.
    pub cell: u64,
    /// Its fields' deadline and not its own.
    pub fields: bool,
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    buckets: BTreeMap<u64, Bucket>,
    len: usize,
    sweep: Sweep,
}

/// Items in chunks, so that no growth copies more than a chunk. The packed form keeps the low bits
/// of the deadline beside the cell: looking for what is due reads no entries.
#[derive(Debug, Default)]
struct Bucket {
    full: Vec<Box<[u64]>>,
    tail: Vec<u64>,
}

/// The walk through the bucket of the current second.
#[derive(Debug, Default)]
struct Sweep {
    bucket: u64,
    /// Items before this one are not due before `next`.
    at: usize,
    next: Ms,
}

impl Expiry {
    /// Number of items.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory held, roughly.
    pub fn bytes(&self) -> usize {
        self.len * 10 + self.buckets.len() * 88
    }

    /// Adds an item; its place.
    pub fn insert(&mut self, due: Ms, item: Item) -> u32 {
        let bucket = self.buckets.entry(due >> SPAN_BITS).or_default();
        let at = bucket.len();
        bucket.push(pack(due, item));
        self.len += 1;
        self.note(due, at);
        at as u32
    }

    /// Removes the item at a place. The item that has taken its place, if one has: its entry has to
    /// be told.
    pub fn remove(&mut self, due: Ms, at: u32) -> Option<Item> {
        let key = due >> SPAN_BITS;
        let Some(bucket) = self.buckets.get_mut(&key) else {
            panic!("an item of a bucket that is not there")
        };
        let last = bucket.pop();
        self.len -= 1;
        let at = at as usize;
        let moved = (at < bucket.len()).then(|| {
            *bucket.slot(at) = last;
            (key << SPAN_BITS | low(last), unpack(last))
        });
        if bucket.len() == 0 {
            self.buckets.remove(&key);
        }
        let (due, item) = moved?;
        self.note(due, at);
        Some(item)
    }

    /// Gives the item at a place another cell.
    pub fn replace(&mut self, due: Ms, at: u32, item: Item) {
        if let Some(bucket) = self.buckets.get_mut(&(due >> SPAN_BITS)) {
            *bucket.slot(at as usize) = pack(due, item);
        }
    }

    /// Gives an item another deadline without moving it; false if it has to be moved.
    pub fn nudge(&mut self, old: Ms, new: Ms, at: u32, item: Item) -> bool {
        if old >> SPAN_BITS != new >> SPAN_BITS {
            return false;
        }
        self.replace(new, at, item);
        self.note(new, at as usize);
        true
    }

    /// An item that is due, to be removed by the caller. Looks at no more than `budget` items, which
    /// is lowered by what was looked at; [`Due::Later`] when the budget is used up.
    pub fn due(&mut self, now: Ms, budget: &mut usize) -> Due {
        let Some((key, bucket)) = self.buckets.iter_mut().next() else {
            return Due::Nothing;
        };
        let current = now >> SPAN_BITS;
        if *key > current {
            return Due::Nothing;
        }
        if *key < current {
            return Due::Item(unpack(*bucket.slot(bucket.len() - 1)));
        }
        let sweep = &mut self.sweep;
        if sweep.bucket != current {
            *sweep = Sweep {
                bucket: current,
                at: 0,
                next: Ms::MAX,
            };
        }
        if sweep.at >= bucket.len() {
            if now < sweep.next {
                return Due::Nothing;
            }
            (sweep.at, sweep.next) = (0, Ms::MAX);
        }
        while sweep.at < bucket.len() {
            if *budget == 0 {
                return Due::Later;
            }
            *budget -= 1;
            let item = *bucket.slot(sweep.at);
            let due = *key << SPAN_BITS | low(item);
            if due <= now {
                return Due::Item(unpack(item));
            }
            sweep.next = sweep.next.min(due);
            sweep.at += 1;
        }
        if now < sweep.next {
            Due::Nothing
        } else {
            Due::Later
        }
    }

    /// No item is due before this time.
    pub fn next(&self) -> Option<Ms> {
        let (key, bucket) = self.buckets.iter().next()?;
        let start = *key << SPAN_BITS;
        if self.sweep.bucket == *key && self.sweep.at >= bucket.len() {
            Some(self.sweep.next.max(start))
        } else {
            Some(start)
        }
    }

    /// The cell of a key whose deadline is among the nearest, by about a second. Deadlines of fields
    /// are skipped; if they are too many to look past, there is no answer.
    pub fn nearest(&mut self) -> Option<u64> {
        let mut looks = LOOKS_MAX;
        for bucket in self.buckets.values_mut() {
            for at in 0..bucket.len() {
                let item = unpack(*bucket.slot(at));
                if !item.fields {
                    return Some(item.cell);
                }
                looks -= 1;
                if looks == 0 {
                    return None;
                }
            }
        }
        None
    }

    /// The cell of a key with a deadline, by chance, if the try meets one. Keys alone in their second
    /// and keys near their deadline are met more often than others.
    pub fn sample(&mut self, now: Ms, rng: &mut Rng) -> Option<u64> {
        let first = *self.buckets.keys().next()?;
        let last = *self.buckets.keys().next_back()?;
        // Deadlines are spread over seconds to years. Chance is therefore over the logarithm of the
        // distance, or one key of next year would hide all those of the next hour.
        let (near, far) = (
            first.saturating_sub(now >> SPAN_BITS) + 1,
            last.saturating_sub(now >> SPAN_BITS) + 1,
        );
        let part = rng.below(1 << 20) as f64 / (1 << 20) as f64;
        let ahead = near as f64 * (far as f64 / near as f64).powf(part);
        let key = ((now >> SPAN_BITS) + ahead as u64)
            .saturating_sub(1)
            .clamp(first, last);
        let (_, bucket) = self.buckets.range_mut(key..).next()?;
        let at = rng.below(bucket.len() as u64) as usize;
        let item = unpack(*bucket.slot(at));
        (!item.fields).then_some(item.cell)
    }

    /// Gives the memory of some items back, whatever they are; false once nothing is left.
    pub fn free_bucket(&mut self) -> bool {
        let Some(mut first) = self.buckets.first_entry() else {
            return false;
        };
        if first.get_mut().full.pop().is_none() {
            first.remove();
        }
        true
    }

    /// An item was put at a place that the sweep may have passed.
    fn note(&mut self, due: Ms, at: usize) {
        if self.sweep.bucket == due >> SPAN_BITS && at < self.sweep.at {
            self.sweep.next = self.sweep.next.min(due);
        }
    }
}

/// What [`Expiry::due`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// This item is due.
    Item(Item),
    /// There may be more, but the budget is used up.
    Later,
    /// Nothing is due.
    Nothing,
}

impl Bucket {
    fn len(&self) -> usize {
        self.full.len() * CHUNK + self.tail.len()
    }

    fn push(&mut self, item: u64) {
        if self.tail.len() == CHUNK {
            self.full
                .push(std::mem::take(&mut self.tail).into_boxed_slice());
        }
        self.tail.push(item);
    }

    fn pop(&mut self) -> u64 {
        if self.tail.is_empty()
            && let Some(chunk) = self.full.pop()
        {
            self.tail = chunk.into_vec();
        }
        match self.tail.pop() {
            Some(item) => item,
            None => panic!("an empty bucket was kept"),
        }
    }

    fn slot(&mut self, at: usize) -> &mut u64 {
        let whole = self.full.len() * CHUNK;
        if at < whole {
            &mut self.full[at / CHUNK][at % CHUNK]
        } else {
            &mut self.tail[at - whole]
        }
    }
}

fn pack(due: Ms, item: Item) -> u64 {
    item.cell | u64::from(item.fields) << CELL_BITS | (due & (SPAN - 1)) << (CELL_BITS + 1)
}

fn unpack(packed: u64) -> Item {
    Item {
        cell: packed & ((1 << CELL_BITS) - 1),
        fields: packed >> CELL_BITS & 1 == 1,
    }
}

fn low(packed: u64) -> u64 {
    packed >> (CELL_BITS + 1)
}

const SPAN_BITS: u32 = 10;
const SPAN: Ms = 1 << SPAN_BITS;
const CELL_BITS: u32 = 36;
const CHUNK: usize = 512;
/// Items of fields that a search for a key's item looks past.
const LOOKS_MAX: usize = 64;
