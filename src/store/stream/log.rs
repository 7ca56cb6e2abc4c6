//! The entries of a stream and its counters.

use std::collections::{BTreeMap, btree_map};

use super::{
    StreamId,
    node::{Entries, EntriesBack, Entry, Node},
};
use crate::base::Ms;

/// The entries of a stream in nodes by their first id, and the counters that survive them.
#[derive(Clone, Debug, Default)]
pub struct Log {
    nodes: BTreeMap<StreamId, Node>,
    /// Nodes that were trimmed away all at once, to be freed in slices.
    dead: BTreeMap<StreamId, Node>,
    len: u64,
    bytes: usize,
    last_id: StreamId,
    max_deleted: StreamId,
    entries_added: u64,
}

/// The id that a new entry asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewId {
    /// `*`: the time now, or just above the last id.
    Auto,
    /// `ms-*`: the next free sequence number of that millisecond.
    AutoSeq(Ms),
    /// This very id.
    Exact(StreamId),
}

/// The id asked for is not above the stream's last id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdTooSmall;

/// How far a stream is trimmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trim {
    /// The newest so many entries stay.
    MaxLen(u64),
    /// Entries with this id or a larger one stay.
    MinId(StreamId),
}

/// Nodes of a log emptied in one go that one later change frees.
const DEAD_SLICE: usize = 64;

impl Log {
    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of nodes that hold the entries.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The largest id ever added; the next one is above it.
    pub fn last_id(&self) -> StreamId {
        self.last_id
    }

    /// The largest id that XDEL ever removed.
    pub fn max_deleted(&self) -> StreamId {
        self.max_deleted
    }

    /// Number of entries ever added.
    pub fn entries_added(&self) -> u64 {
        self.entries_added
    }

    /// Sets the last id. It must not be below any entry.
    pub fn set_last_id(&mut self, id: StreamId) {
        self.last_id = id;
    }

    /// Sets the largest removed id.
    pub fn set_max_deleted(&mut self, id: StreamId) {
        self.max_deleted = id;
    }

    /// Sets the number of entries ever added.
    pub fn set_entries_added(&mut self, count: u64) {
        self.entries_added = count;
    }

    /// The first entry's id, `0-0` without entries.
    pub fn first_id(&self) -> StreamId {
        self.first().map_or(StreamId::MIN, |entry| entry.id)
    }

    /// The first entry.
    pub fn first(&self) -> Option<Entry<'_>> {
        let (base, node) = self.nodes.first_key_value()?;
        node.iter(*base).next()
    }

    /// The last entry.
    pub fn last(&self) -> Option<Entry<'_>> {
        let (base, node) = self.nodes.last_key_value()?;
        node.last(*base)
    }

    /// Is there an entry with this id?
    pub fn contains(&self, id: StreamId) -> bool {
        self.get(id).is_some()
    }

    /// The entry with this id.
    pub fn get(&self, id: StreamId) -> Option<Entry<'_>> {
        let (base, node) = self.nodes.range(..=id).next_back()?;
        let mut entries = node.iter(*base);
        entries.seek(id);
        entries.next().filter(|entry| entry.id == id)
    }

    /// Entries from `start` to `end`, both included, in order.
    pub fn range(&self, start: StreamId, end: StreamId) -> Range<'_> {
        let from = self.nodes.range(..=start).next_back();
        let from = from.map_or(start, |(base, _)| *base);
        if start > end {
            return Range {
                nodes: self.nodes.range(StreamId::MAX..),
                entries: None,
                start,
                end: StreamId::MIN,
            };
        }
        Range {
            nodes: self.nodes.range(from..=end),
            entries: None,
            start,
            end,
        }
    }

    /// Entries from `end` down to `start`, both included.
    pub fn range_rev(&self, start: StreamId, end: StreamId) -> RangeRev<'_> {
        let nodes = if start > end {
            self.nodes.range(StreamId::MAX..)
        } else {
            let from = self.nodes.range(..=start).next_back();
            let from = from.map_or(start, |(base, _)| *base);
            self.nodes.range(from..=end)
        };
        RangeRev {
            nodes,
            entries: None,
            start,
            end,
        }
    }

    /// Appends an entry under a new id and counts it.
    ///
    /// # Errors
    /// [`IdTooSmall`] if the id is not above the last one, or no such id is left.
    pub fn add<'a>(
        &mut self,
        id: NewId,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        now: Ms,
    ) -> Result<StreamId, IdTooSmall> {
        let last = self.last_id;
        let id = match id {
            NewId::Exact(id) => id,
            NewId::Auto if now > last.ms => StreamId::new(now, 0),
            NewId::Auto => last.next().ok_or(IdTooSmall)?,
            NewId::AutoSeq(ms) if ms == last.ms => {
                StreamId::new(ms, last.seq.checked_add(1).ok_or(IdTooSmall)?)
            }
            NewId::AutoSeq(ms) => StreamId::new(ms, 0),
        };
        if id <= last {
            return Err(IdTooSmall);
        }
        self.free_dead(DEAD_SLICE);
        self.push(id, pairs);
        self.last_id = id;
        self.entries_added += 1;
        Ok(id)
    }

    /// Appends an entry of an image; the counters stay as they are, but the last id never falls
    /// behind. False if the id is not above the last entry's, or above a last id set before.
    pub fn restore<'a>(
        &mut self,
        id: StreamId,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> bool {
        if self.last().is_some_and(|last| last.id >= id) {
            return false;
        }
        self.push(id, pairs);
        self.last_id = self.last_id.max(id);
        true
    }

    /// Removes an entry; false if there is none.
    pub fn remove(&mut self, id: StreamId) -> bool {
        let Some((base, node)) = self.nodes.range_mut(..=id).next_back() else {
            return false;
        };
        let base = *base;
        let before = node.size();
        if !node.remove(base, id) {
            return false;
        }
        self.bytes = self.bytes + node.size() - before;
        self.len -= 1;
        if node.len() == 0 {
            self.bytes -= node.size();
            self.nodes.remove(&base);
        }
        self.max_deleted = self.max_deleted.max(id);
        true
    }

    /// Removes entries from the front; how many. `whole_nodes` stops before the node that would have
    /// to be cut; `limit` stops before more than so many entries are removed.
    pub fn trim(&mut self, to: Trim, whole_nodes: bool, limit: Option<u64>) -> u64 {
        if matches!(to, Trim::MaxLen(0)) && limit.is_none_or(|limit| self.len <= limit) {
            return self.clear();
        }
        self.free_dead(DEAD_SLICE);
        let mut removed = 0;
        while let Some(mut first) = self.nodes.first_entry() {
            let (base, held) = (*first.key(), first.get().len() as u64);
            let drop_node = match to {
                Trim::MaxLen(max) if self.len <= max => break,
                Trim::MaxLen(max) => self.len - held >= max,
                Trim::MinId(min) => first.get().last(base).is_none_or(|last| last.id < min),
            };
            if limit.is_some_and(|limit| removed + held > limit) {
                break;
            }
            if drop_node {
                let node = first.remove();
                self.bytes -= node.size();
                self.len -= held;
                removed += held;
                continue;
            }
            if whole_nodes {
                break;
            }
            let len = self.len;
            let node = first.get_mut();
            let before = node.size();
            let cut = node.remove_front(base, |count, id| match to {
                Trim::MaxLen(max) => len - count as u64 > max,
                Trim::MinId(min) => id < min,
            }) as u64;
            self.bytes = self.bytes + node.size() - before;
            self.len -= cut;
            removed += cut;
            break;
        }
        removed
    }

    /// May entries be missing at or behind `id`, because XDEL took some out? What was removed before
    /// the first entry leaves no hole.
    pub fn has_tombstones_from(&self, id: StreamId) -> bool {
        self.len > 0
            && self.max_deleted != StreamId::MIN
            && id <= self.max_deleted
            && self.first_id() <= self.max_deleted
    }

    /// How many entries were ever added up to and including `id`, where that can be told: at either
    /// end of a stream without holes.
    pub fn entries_before(&self, id: StreamId) -> Option<u64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        if self.len == 0 && id <= self.last_id {
            return Some(self.entries_added);
        }
        if id >= self.last_id {
            return (id == self.last_id).then_some(self.entries_added);
        }
        let first = self.first_id();
        if self.max_deleted == StreamId::MIN || self.max_deleted < first {
            let gone = self.entries_added.saturating_sub(self.len);
            if id < first {
                return Some(gone);
            }
            if id == first {
                return Some(gone + 1);
            }
        }
        None
    }

    /// Bytes of memory, roughly.
    pub fn heap_bytes(&self) -> usize {
        self.bytes + self.nodes.len() * (size_of::<StreamId>() + size_of::<Node>())
    }

    /// Frees nodes with about `budget` entries; true once none is left.
    pub(super) fn free_slice(&mut self, budget: usize) -> bool {
        if !self.nodes.is_empty() && self.dead.is_empty() {
            self.clear();
        }
        let mut left = budget;
        while left > 0
            && let Some((_, node)) = self.dead.pop_first()
        {
            left = left.saturating_sub(node.len().max(1));
        }
        self.dead.is_empty() && self.nodes.is_empty()
    }

    fn push<'a>(
        &mut self,
        id: StreamId,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) {
        self.len += 1;
        if let Some(mut last) = self.nodes.last_entry() {
            let base = *last.key();
            let node = last.get_mut();
            let before = node.size();
            if node.push(base, id, pairs.clone()) {
                self.bytes += node.size() - before;
                return;
            }
            node.close();
        }
        let mut node = Node::with_names(pairs.clone());
        node.push(id, id, pairs);
        self.bytes += node.size();
        self.nodes.insert(id, node);
    }

    /// Removes everything at once; the memory is given back later.
    fn clear(&mut self) -> u64 {
        let removed = std::mem::take(&mut self.len);
        self.bytes = 0;
        if self.dead.is_empty() {
            self.dead = std::mem::take(&mut self.nodes);
        } else {
            // Two heaps are rare; ids of the second are all above those of the first.
            self.dead.append(&mut self.nodes);
        }
        self.free_dead(DEAD_SLICE);
        removed
    }

    fn free_dead(&mut self, budget: usize) {
        for _ in 0..budget {
            if self.dead.pop_first().is_none() {
                return;
            }
        }
    }
}

/// Entries in order.
#[derive(Clone, Debug)]
pub struct Range<'a> {
    nodes: btree_map::Range<'a, StreamId, Node>,
    entries: Option<Entries<'a>>,
    start: StreamId,
    end: StreamId,
}

impl<'a> Iterator for Range<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            if let Some(entry) = self.entries.as_mut().and_then(Iterator::next) {
                return (entry.id <= self.end).then_some(entry);
            }
            let (base, node) = self.nodes.next()?;
            let mut entries = node.iter(*base);
            if *base < self.start {
                entries.seek(self.start);
            }
            self.entries = Some(entries);
        }
    }
}

/// Entries in falling order.
#[derive(Clone, Debug)]
pub struct RangeRev<'a> {
    nodes: btree_map::Range<'a, StreamId, Node>,
    entries: Option<EntriesBack<'a>>,
    start: StreamId,
    end: StreamId,
}

impl<'a> Iterator for RangeRev<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        loop {
            while let Some(entry) = self.entries.as_mut().and_then(Iterator::next) {
                if entry.id <= self.end {
                    return (entry.id >= self.start).then_some(entry);
                }
            }
            let (base, node) = self.nodes.next_back()?;
            self.entries = Some(node.iter_back(*base));
        }
    }
}
