//! Consumer groups: who was given which entry and has not acknowledged it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeBounds,
};

use super::StreamId;
use crate::base::Ms;

/// A consumer group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The last entry given to anybody.
    pub last_id: StreamId,
    /// How many entries of the stream lie up to that one, if known.
    pub entries_read: Option<u64>,
    pending: BTreeMap<StreamId, Pending>,
    names: BTreeMap<Box<[u8]>, u32>,
    /// Consumers by the number that pending entries carry; `None` is a number to use again.
    consumers: Vec<Option<Consumer>>,
}

/// An entry that was given out and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The consumer that has it; see [`Group::consumer`].
    pub consumer: u32,
    /// When it was given out last.
    pub delivered: Ms,
    /// How often it was given out.
    pub count: u64,
}

/// A consumer of a group.
#[derive(Clone, Debug)]
pub struct Consumer {
    name: Box<[u8]>,
    /// When it last asked for anything.
    pub seen: Ms,
    /// When it was last given an entry.
    pub active: Option<Ms>,
    pending: BTreeSet<StreamId>,
}

impl Consumer {
    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Number of entries that it has not acknowledged.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
}

impl Group {
    /// Number of consumers.
    pub fn consumer_count(&self) -> usize {
        self.names.len()
    }

    /// All consumers by name, with their numbers.
    pub fn consumers(&self) -> impl Iterator<Item = (u32, &Consumer)> {
        self.names.values().map(|at| (*at, self.consumer(*at)))
    }

    /// The number of a consumer.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// A consumer by its number.
    ///
    /// # Panics
    /// If there is no such consumer: numbers come only from this group.
    pub fn consumer(&self, at: u32) -> &Consumer {
        match &self.consumers[at as usize] {
            Some(consumer) => consumer,
            None => panic!("consumer {at} was removed"),
        }
    }

    /// Makes a consumer, or finds the one with that name (whose times then stay as they are).
    pub fn create_consumer(&mut self, name: &[u8], seen: Ms, active: Option<Ms>) -> u32 {
        if let Some(at) = self.find(name) {
            return at;
        }
        let consumer = Some(Consumer {
            name: name.into(),
            seen,
            active,
            pending: BTreeSet::new(),
        });
        // Consumers are few and seldom removed: a search for a free number is cheap enough.
        let at = match self.consumers.iter().position(Option::is_none) {
            Some(at) => {
                self.consumers[at] = consumer;
                at
            }
            None => {
                self.consumers.push(consumer);
                self.consumers.len() - 1
            }
        };
        self.names.insert(name.into(), at as u32);
        at as u32
    }

    /// Notes that the consumer asked for something.
    pub fn touch_seen(&mut self, at: u32, now: Ms) {
        if let Some(Some(consumer)) = self.consumers.get_mut(at as usize) {
            consumer.seen = now;
        }
    }

    /// Notes that the consumer was given something.
    pub fn touch_active(&mut self, at: u32, now: Ms) {
        if let Some(Some(consumer)) = self.consumers.get_mut(at as usize) {
            consumer.active = Some(now);
        }
    }

    /// Removes a consumer and all that it has pending; how much that was. Linear in it.
    pub fn remove_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let at = self.names.remove(name)? as usize;
        let consumer = self.consumers[at].take()?;
        for id in &consumer.pending {
            self.pending.remove(id);
        }
        Some(consumer.pending.len())
    }

    /// Number of pending entries.
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// A pending entry.
    pub fn pending(&self, id: StreamId) -> Option<&Pending> {
        self.pending.get(&id)
    }

    /// Pending entries by id.
    pub fn pending_range(
        &self,
        range: impl RangeBounds<StreamId>,
    ) -> impl DoubleEndedIterator<Item = (StreamId, &Pending)> {
        self.pending.range(range).map(|(id, row)| (*id, row))
    }

    /// Pending entries of one consumer by id.
    pub fn pending_of(
        &self,
        at: u32,
        range: impl RangeBounds<StreamId>,
    ) -> impl DoubleEndedIterator<Item = StreamId> {
        self.consumer(at).pending.range(range).copied()
    }

    /// Gives an entry to a consumer, whoever had it.
    pub fn assign(&mut self, id: StreamId, consumer: u32, delivered: Ms, count: u64) {
        let row = Pending {
            consumer,
            delivered,
            count,
        };
        match self.pending.insert(id, row) {
            Some(old) if old.consumer == consumer => {}
            Some(old) => {
                self.unlink(old.consumer, id);
                self.link(consumer, id);
            }
            None => self.link(consumer, id),
        }
    }

    /// Forgets a pending entry; false if it was not pending.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        match self.pending.remove(&id) {
            Some(row) => {
                self.unlink(row.consumer, id);
                true
            }
            None => false,
        }
    }

    /// Bytes of memory, roughly.
    pub fn heap_bytes(&self) -> usize {
        let sampled = self.names.len().clamp(1, NAME_SAMPLE);
        let names: usize = self
            .names
            .keys()
            .take(sampled)
            .map(|name| 2 * name.len())
            .sum();
        self.pending.len() * (2 * size_of::<StreamId>() + size_of::<Pending>())
            + self.consumers.len() * size_of::<Consumer>()
            + names * self.names.len() / sampled
    }

    /// Frees `budget` pending entries; true once none is left. The group is of no use afterwards.
    pub(super) fn free_slice(&mut self, budget: usize) -> bool {
        for _ in 0..budget {
            match self.pending.pop_first() {
                Some((id, row)) => self.unlink(row.consumer, id),
                None => return true,
            }
        }
        self.pending.is_empty()
    }

    fn link(&mut self, at: u32, id: StreamId) {
        if let Some(Some(consumer)) = self.consumers.get_mut(at as usize) {
            consumer.pending.insert(id);
        }
    }

    fn unlink(&mut self, at: u32, id: StreamId) {
        if let Some(Some(consumer)) = self.consumers.get_mut(at as usize) {
            consumer.pending.remove(&id);
        }
    }
}

/// Consumers' names that an estimate of the group's memory looks at.
const NAME_SAMPLE: usize = 8;
