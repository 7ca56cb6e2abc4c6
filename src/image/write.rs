//! Appends records.

use super::{
    Consumer, EntryId, FIELD_TTL, GROUP_READS, HASH, LIST, MORE, Pending, SET, SORTED_SET, STREAM,
    STRING, StreamMeta, WideCount,
};

/// Appends records to a body, or to the parts of an image.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

/// The type of a collection whose items are written one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum ItemKind {
    Hash,
    List,
    Set,
    SortedSet,
}

/// A collection that is being written: where its number of items stands.
#[derive(Debug)]
#[must_use = "the number of items is written at the end"]
pub struct Items {
    at: usize,
    count: u32,
}

impl Items {
    /// Items written so far.
    pub fn count(&self) -> u32 {
        self.count
    }
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Bytes of all that is in `out`.
    #[expect(clippy::len_without_is_empty, reason = "a place, not a collection")]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// A string.
    #[inline]
    pub fn string(&mut self, key: &[u8], deadline: Option<u64>, value: &[u8]) {
        // Room for all of it at once: this is the record of which there are most.
        self.out.reserve(STRING_HEAD + key.len() + value.len());
        self.head(STRING, key, deadline);
        self.text(value);
    }

    /// Begins a collection, or goes on with one that an earlier record of the body began.
    pub fn begin(
        &mut self,
        kind: ItemKind,
        is_more: bool,
        key: &[u8],
        deadline: Option<u64>,
    ) -> Items {
        if is_more {
            self.out.push(MORE);
        }
        let kind = match kind {
            ItemKind::Hash => HASH,
            ItemKind::List => LIST,
            ItemKind::Set => SET,
            ItemKind::SortedSet => SORTED_SET,
        };
        self.head(kind, key, deadline);
        let at = self.out.len();
        self.number(0);
        Items { at, count: 0 }
    }

    /// An element of a list or a member of a set.
    #[inline]
    pub fn element(&mut self, items: &mut Items, element: &[u8]) {
        items.count += 1;
        self.text(element);
    }

    /// A field of a hash with its value.
    #[inline]
    pub fn pair(&mut self, items: &mut Items, field: &[u8], value: &[u8]) {
        items.count += 1;
        self.text(field);
        self.text(value);
    }

    /// A member of a sorted set. The score is a number.
    #[inline]
    pub fn member(&mut self, items: &mut Items, member: &[u8], score: f64) {
        items.count += 1;
        self.text(member);
        self.wide(score.to_bits());
    }

    /// Ends a collection.
    pub fn end(&mut self, items: Items) {
        self.out[items.at..items.at + 4].copy_from_slice(&items.count.to_le_bytes());
    }

    /// A hash field's deadline.
    pub fn field_deadline(&mut self, key: &[u8], field: &[u8], deadline: u64) {
        self.out.push(FIELD_TTL);
        self.text(key);
        self.text(field);
        self.wide(deadline);
    }

    /// A stream's head. Its entries follow by [`entry`](Self::entry), exactly `count`, then
    /// [`groups`](Self::groups).
    pub fn stream(&mut self, key: &[u8], deadline: Option<u64>, meta: StreamMeta, count: u32) {
        self.head(STREAM, key, deadline);
        self.id(meta.last_id);
        self.id(meta.max_deleted_id);
        self.wide(meta.entries_added);
        self.number(count);
    }

    /// An entry of a stream.
    pub fn entry<'b>(&mut self, id: EntryId, pairs: impl Iterator<Item = (&'b [u8], &'b [u8])>) {
        self.id(id);
        self.list(pairs, |writer, (field, value)| {
            writer.text(field);
            writer.text(value);
        });
    }

    /// How many groups a stream has. As many follow by [`group`](Self::group).
    pub fn groups(&mut self, count: u32) {
        self.number(count);
    }

    /// A group of a stream.
    pub fn group<'b>(
        &mut self,
        name: &[u8],
        last_delivered: EntryId,
        consumers: impl Iterator<Item = Consumer<'b>>,
        pending: impl Iterator<Item = Pending<'b>>,
    ) {
        self.text(name);
        self.id(last_delivered);
        self.list(consumers, Self::consumer);
        self.list(pending, |writer, row| {
            writer.id(row.id);
            writer.text(row.consumer);
            writer.wide(row.delivered_at);
            writer.number(row.delivery_count);
        });
    }

    /// What the record of a stream does not say of a group: see [`GroupReads`](super::GroupReads).
    pub fn group_reads<'b>(
        &mut self,
        key: &[u8],
        group: &[u8],
        entries_read: Option<u64>,
        active: impl Iterator<Item = Consumer<'b>>,
        wide: impl Iterator<Item = WideCount>,
    ) {
        self.out.push(GROUP_READS);
        self.text(key);
        self.text(group);
        self.out.push(u8::from(entries_read.is_some()));
        if let Some(count) = entries_read {
            self.wide(count);
        }
        self.list(active, Self::consumer);
        self.list(wide, |writer, row| {
            writer.id(row.id);
            writer.wide(row.delivery_count);
        });
    }

    #[inline]
    fn head(&mut self, kind: u8, key: &[u8], deadline: Option<u64>) {
        self.out.push(kind);
        self.out.push(u8::from(deadline.is_some()));
        if let Some(deadline) = deadline {
            self.wide(deadline);
        }
        self.text(key);
    }

    fn consumer(&mut self, consumer: Consumer<'_>) {
        self.text(consumer.name);
        self.wide(consumer.at);
    }

    /// Items behind their number.
    fn list<T>(&mut self, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        let at = self.out.len();
        self.number(0);
        let mut count = 0u32;
        for item in items {
            write(self, item);
            count += 1;
        }
        self.out[at..at + 4].copy_from_slice(&count.to_le_bytes());
    }

    fn id(&mut self, id: EntryId) {
        self.wide(id.ms);
        self.wide(id.seq);
    }

    #[inline]
    fn text(&mut self, text: &[u8]) {
        assert!(text.len() <= u32::MAX as usize, "a string of 4 GiB");
        self.number(text.len() as u32);
        self.out.extend_from_slice(text);
    }

    #[inline]
    fn number(&mut self, number: u32) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    #[inline]
    fn wide(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Bytes of a string's record besides key and value.
const STRING_HEAD: usize = 18;
