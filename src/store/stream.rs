//! The stream value: a log of entries under ascending ids, and consumer groups that read it.

mod group;
mod id;
mod log;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use group::{Consumer, Group, Pending};
pub use id::StreamId;
pub use log::{IdTooSmall, Log, NewId, Trim};
pub use node::{Entry, Pairs};

use super::value::Typed;
use crate::base::Ms;

/// A stream value. The log and the groups are separate parts, so that a group can be changed while
/// entries are read.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    log: Log,
    groups: BTreeMap<Box<[u8]>, Group>,
    /// Groups that were destroyed with many pending entries; freed in slices by later changes.
    dead: Vec<Group>,
}

/// Pending entries of destroyed groups that one later change frees.
const DEAD_SLICE: usize = 256;
/// Groups that an estimate of the stream's memory looks at.
const GROUP_SAMPLE: usize = 8;

impl Stream {
    /// A stream without entries whose counters are as given: the start of rebuilding one from an
    /// image. Follow with [`Log::restore`] through [`log_mut`](Stream::log_mut) in id order.
    pub fn restored(last_id: StreamId, max_deleted: StreamId, entries_added: u64) -> Self {
        let mut stream = Self::default();
        stream.log.set_last_id(last_id);
        stream.log.set_max_deleted(max_deleted);
        stream.log.set_entries_added(entries_added);
        stream
    }

    /// The entries.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The entries, to change.
    pub fn log_mut(&mut self) -> &mut Log {
        &mut self.log
    }

    /// A consumer group.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// The entries and a consumer group to change.
    pub fn with_group(&mut self, name: &[u8]) -> Option<(&Log, &mut Group)> {
        Some((&self.log, self.groups.get_mut(name)?))
    }

    /// All groups by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, group))
    }

    /// Makes a group; `None` if the name is taken.
    pub fn create_group(
        &mut self,
        name: &[u8],
        last_id: StreamId,
        entries_read: Option<u64>,
    ) -> Option<&mut Group> {
        if self.groups.contains_key(name) {
            return None;
        }
        let group = self.groups.entry(name.into()).or_default();
        group.last_id = last_id;
        group.entries_read = entries_read;
        Some(group)
    }

    /// Removes a group; false if there is none. Its pending entries are freed later, in slices.
    pub fn destroy_group(&mut self, name: &[u8]) -> bool {
        self.free_dead(DEAD_SLICE);
        let Some(mut group) = self.groups.remove(name) else {
            return false;
        };
        if !group.free_slice(DEAD_SLICE) {
            self.dead.push(group);
        }
        true
    }

    /// Appends an entry and returns its id.
    ///
    /// # Errors
    /// [`IdTooSmall`] if the id is not above the last one.
    pub fn add<'a>(
        &mut self,
        id: NewId,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
        now: Ms,
    ) -> Result<StreamId, IdTooSmall> {
        self.free_dead(DEAD_SLICE);
        self.log.add(id, pairs, now)
    }

    /// Reads the next entries of a group for a consumer, from behind the last delivered one: each is
    /// visited, the group's position moves, and unless `no_ack` the entry becomes pending for the
    /// consumer. At most `count` entries. Returns how many were visited; nothing without the group.
    pub fn deliver(
        &mut self,
        group: &[u8],
        consumer: u32,
        count: Option<u64>,
        no_ack: bool,
        now: Ms,
        mut visit: impl FnMut(Entry<'_>),
    ) -> usize {
        let Some((log, group)) = self.with_group(group) else {
            return 0;
        };
        let Some(start) = group.last_id.next() else {
            return 0;
        };
        let mut visited = 0;
        for entry in log.range(start, StreamId::MAX) {
            if count.is_some_and(|count| visited as u64 >= count) {
                break;
            }
            group.entries_read = match group.entries_read {
                Some(read) if !log.has_tombstones_from(entry.id) => Some(read + 1),
                _ => log.entries_before(entry.id),
            };
            group.last_id = entry.id;
            visit(entry);
            if !no_ack {
                group.assign(entry.id, consumer, now, 1);
                group.touch_active(consumer, now);
            }
            visited += 1;
        }
        visited
    }

    /// How many entries the group has still to read, if that can be told. Negative where a counter
    /// was set by hand to more than the stream ever had.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        let log = &self.log;
        if log.entries_added() == 0 {
            return Some(0);
        }
        let read = match group.entries_read {
            Some(read) if !log.has_tombstones_from(group.last_id) => Some(read),
            _ => log.entries_before(group.last_id),
        };
        read.map(|read| log.entries_added().wrapping_sub(read) as i64)
    }

    fn free_dead(&mut self, budget: usize) {
        if let Some(group) = self.dead.last_mut()
            && group.free_slice(budget)
        {
            self.dead.pop();
        }
    }
}

impl Typed for Stream {
    const KIND: super::Kind = super::Kind::Stream;

    /// A stream lives on without entries: its last id must never be given out again.
    fn is_empty(&self) -> bool {
        false
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        if !self.log.free_slice(budget) {
            return false;
        }
        let mut left = budget;
        while let Some(mut group) = self.dead.pop() {
            let held = group.pending_len();
            if !group.free_slice(left) {
                self.dead.push(group);
                return false;
            }
            left = left.saturating_sub(held);
        }
        while let Some((_, group)) = self.groups.pop_first() {
            self.dead.push(group);
            if left == 0 {
                return false;
            }
            left -= 1;
        }
        self.dead.is_empty()
    }

    fn heap_bytes(&self) -> usize {
        let sampled = self.groups.len().clamp(1, GROUP_SAMPLE);
        let groups: usize = self
            .groups
            .iter()
            .take(sampled)
            .map(|(name, group)| name.len() + group.heap_bytes())
            .sum();
        size_of::<Self>() + self.log.heap_bytes() + groups * self.groups.len() / sampled
    }

    fn encoding(&self) -> &'static str {
        "stream"
    }
}
