//! Records back into keys.

use std::hint::black_box;

use arrayvec::ArrayVec;
use bytes::Bytes;

use super::{Found, Keyspace};
use crate::{
    image::{EntryId, ImageError, ImageReader, Key, Record, StringRecord},
    store::{End, Hash, InValue, List, Set, Stream, StreamId, Zset},
};

impl Keyspace {
    /// Puts all records of a body in. A record of a key stands for all of it, whatever was there. Nothing
    /// expires, however long ago it was due. How many keys were begun, absent ones included.
    ///
    /// # Errors
    /// The body is damaged; what stands before the damage is in.
    pub fn load(&mut self, body: &[u8]) -> Result<usize, ImageError> {
        let mut reader = ImageReader::of_body(body);
        let mut strings = ArrayVec::<_, BATCH>::new();
        let mut begun = 0;
        loop {
            strings.clear();
            let outcome = reader.strings(&mut strings);
            self.put_strings(&strings);
            begun += strings.len();
            outcome?;
            if strings.is_full() {
                continue;
            }
            match reader.next()? {
                Some(record) => {
                    begun += usize::from(begins(&record));
                    self.put_record(record, usize::MAX);
                }
                None => return Ok(begun),
            }
        }
    }

    /// Puts one record in, or of a collection's the next `items_max` items, at least one. Nothing expires.
    /// What does not fit what is there is left out: a hostile image may name a key twice with different
    /// types, or parts of what it never began.
    pub fn put_record(&mut self, record: Record<'_>, items_max: usize) {
        match record {
            Record::String { key, value } => self.set_string(key.bytes, value, key.deadline),
            Record::Hash { key, mut pairs } => {
                let count = pairs.size_hint().0.min(items_max);
                self.put_items(key, &mut pairs, items_max, |hash: &mut Hash, pair| {
                    if hash.is_empty() {
                        hash.reserve(count);
                    }
                    // A field that goes on in a later part has the deadline that follows there, or none.
                    hash.set(pair.0, pair.1);
                });
            }
            Record::List { key, mut elements } => {
                self.put_items(key, &mut elements, items_max, |list: &mut List, element| {
                    list.push(End::Right, element);
                });
            }
            Record::Set { key, mut members } => {
                let count = members.size_hint().0.min(items_max);
                self.put_items(key, &mut members, items_max, |set: &mut Set, member| {
                    if set.is_empty() {
                        set.reserve(member, count);
                    }
                    set.insert(member);
                });
            }
            Record::SortedSet { key, mut members } => {
                self.put_items(key, &mut members, items_max, |zset: &mut Zset, member| {
                    zset.insert(member.0, member.1);
                });
            }
            Record::Stream {
                key,
                meta,
                mut entries,
            } => {
                if !key.is_resumed {
                    let stream = Stream::restored(
                        id(meta.last_id),
                        id(meta.max_deleted_id),
                        meta.entries_added,
                    );
                    self.insert(key.bytes, stream.wrap(), key.deadline);
                }
                let mut stream = self.stored::<Stream>(key.bytes);
                for entry in entries.by_ref().take(items_max.max(1)) {
                    if let Some(stream) = &mut stream {
                        // An entry out of order is refused by the log and left out.
                        stream.log_mut().restore(id(entry.id), entry.fields);
                    }
                }
            }
            Record::Group(group) => {
                let Some(stream) = self.stored::<Stream>(group.key) else {
                    return;
                };
                let Some(made) = stream.create_group(group.name, id(group.last_delivered), None)
                else {
                    return;
                };
                for consumer in group.consumers {
                    made.create_consumer(consumer.name, consumer.at, None);
                }
                for row in group.pending {
                    let consumer = made.create_consumer(row.consumer, row.delivered_at, None);
                    let count = u64::from(row.delivery_count);
                    made.assign(id(row.id), consumer, row.delivered_at, count);
                }
            }
            Record::FieldTtl {
                key,
                field,
                deadline,
            } => {
                if let Some(hash) = self.stored::<Hash>(key) {
                    hash.set_deadline(field, Some(deadline));
                }
            }
            Record::GroupReads(reads) => {
                let Some(stream) = self.stored::<Stream>(reads.key) else {
                    return;
                };
                let Some((_, group)) = stream.with_group(reads.group) else {
                    return;
                };
                group.entries_read = reads.entries_read;
                for consumer in reads.active {
                    if let Some(at) = group.find(consumer.name) {
                        group.touch_active(at, consumer.at);
                    }
                }
                for wide in reads.wide {
                    let row = group.pending(id(wide.id));
                    if let Some((consumer, at)) = row.map(|row| (row.consumer, row.delivered)) {
                        group.assign(id(wide.id), consumer, at, wide.delivery_count);
                    }
                }
            }
            Record::Aux(_) => {}
        }
    }

    /// Puts strings in whose places in the table are not near.
    fn put_strings(&mut self, strings: &[StringRecord<'_>]) {
        self.settle();
        let mut hashes = ArrayVec::<u64, BATCH>::new();
        // The reads do not depend on each other, so the processor waits for memory once, not for every key.
        let mut touched = 0;
        for string in strings {
            let hash = self.cells.hash(string.key);
            touched ^= *self.table.line(hash);
            hashes.push(hash);
        }
        black_box(touched);
        for (string, hash) in strings.iter().zip(hashes) {
            let StringRecord {
                key,
                value,
                deadline,
            } = *string;
            self.set_text(hash, key, value, deadline, || Bytes::copy_from_slice(value));
        }
    }

    /// Makes a collection of items, or adds them to the one that was begun.
    fn put_items<T: InValue, I: Iterator>(
        &mut self,
        key: Key<'_>,
        items: &mut I,
        items_max: usize,
        mut add: impl FnMut(&mut T, I::Item),
    ) {
        let mut items = items.take(items_max.max(1)).peekable();
        if key.is_resumed
            && let Some(found) = self.find_settled(key.bytes)
        {
            let Ok(collection) = self.borrow_mut::<T>(found) else {
                // They are taken all the same, or the reader would never get past them.
                return items.for_each(drop);
            };
            items.for_each(|item| add(collection, item));
            if let Some(found) = self.find_settled(key.bytes) {
                self.redate(found, key.deadline);
            }
        } else if items.peek().is_some() {
            let mut collection = T::default();
            items.for_each(|item| add(&mut collection, item));
            self.insert(key.bytes, collection.wrap(), key.deadline);
        } else if let Some(found) = self.find_settled(key.bytes) {
            self.bury(found);
        }
    }

    /// A collection of this type under a key, due or not, to change.
    fn stored<T: InValue>(&mut self, key: &[u8]) -> Option<&mut T> {
        let found = self.find_settled(key)?;
        self.borrow_mut(found).ok()
    }

    fn find_settled(&mut self, key: &[u8]) -> Option<Found> {
        self.settle();
        self.find(self.cells.hash(key), key)
    }
}

/// Does a record stand for a key, and not for more of it?
fn begins(record: &Record<'_>) -> bool {
    match record {
        Record::String { key, .. }
        | Record::Hash { key, .. }
        | Record::List { key, .. }
        | Record::Set { key, .. }
        | Record::SortedSet { key, .. }
        | Record::Stream { key, .. } => !key.is_resumed,
        Record::Group(_) | Record::FieldTtl { .. } | Record::GroupReads(_) | Record::Aux(_) => {
            false
        }
    }
}

fn id(id: EntryId) -> StreamId {
    StreamId {
        ms: id.ms,
        seq: id.seq,
    }
}

/// Strings that are read ahead.
const BATCH: usize = 32;
