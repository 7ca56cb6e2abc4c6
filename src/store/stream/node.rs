//! A run of neighbouring entries in one block of memory.
//!
//! A node begins with the field names of the entry that opened it. Each entry then is
//! `length | ms | seq | form | values`, all numbers as variable-length integers:
//!
//! - `length` counts the bytes behind it, so that a seek skips an entry in one step;
//! - `ms` is the distance from the node's first id; `seq` is too if `ms` is 0, else it is the number
//!   itself;
//! - `form` 0 means that the entry has the node's field names and only values follow; any other
//!   value is the number of pairs plus one, and each pair follows in full.
//!
//! Streams mostly repeat their field names, so that an entry costs its values and a few bytes.

use super::StreamId;

/// Entries that a node takes at most.
const NODE_ENTRIES: u16 = 100;
/// Bytes that a node takes at most, unless one entry alone is larger.
const NODE_BYTES: usize = 4096;

/// A block of entries. Its first id (the key under which it is kept) is an argument of every method.
#[derive(Clone, Debug)]
pub(super) struct Node {
    bytes: Vec<u8>,
    /// Where the entries begin, behind the field names.
    entries_at: u32,
    /// Where the last entry begins, counted from there: readers ask for it all the time.
    last_at: u32,
    live: u16,
    /// Entries ever added: removing some must not let a node grow for ever.
    added: u16,
}

impl Node {
    /// A node that takes its field names from these pairs.
    pub fn with_names<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Self {
        let mut bytes = Vec::new();
        put_number(&mut bytes, pairs.clone().count() as u64);
        for (name, _) in pairs {
            put_text(&mut bytes, name);
        }
        Self {
            entries_at: bytes.len() as u32,
            bytes,
            last_at: 0,
            live: 0,
            added: 0,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.live.into()
    }

    /// Bytes in use.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Gives memory back that a full node will not need any more.
    pub fn close(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Appends an entry; false if the node is full. The id is above all ids of the node.
    pub fn push<'a>(
        &mut self,
        base: StreamId,
        id: StreamId,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> bool {
        if self.added >= NODE_ENTRIES {
            return false;
        }
        let ms = id.ms - base.ms;
        let seq = if ms == 0 { id.seq - base.seq } else { id.seq };
        let same = self.has_names(pairs.clone());
        let count = pairs.clone().count() as u64;
        let form = if same { 0 } else { count + 1 };
        let values: usize = pairs
            .clone()
            .map(|(name, value)| text_size(value) + if same { 0 } else { text_size(name) })
            .sum();
        let length = number_size(ms) + number_size(seq) + number_size(form) + values;
        let whole = number_size(length as u64) + length;
        if self.added > 0 && self.bytes.len() + whole >= NODE_BYTES {
            return false;
        }
        self.last_at = self.bytes.len() as u32 - self.entries_at;
        self.bytes.reserve(whole);
        for number in [length as u64, ms, seq, form] {
            put_number(&mut self.bytes, number);
        }
        for (name, value) in pairs {
            if !same {
                put_text(&mut self.bytes, name);
            }
            put_text(&mut self.bytes, value);
        }
        self.live += 1;
        self.added += 1;
        true
    }

    /// The entries from the first one on.
    pub fn iter(&self, base: StreamId) -> Entries<'_> {
        let mut names = &self.bytes[..self.entries_at as usize];
        Entries {
            base,
            pairs: take_number(&mut names) as usize,
            names,
            rest: &self.bytes[self.entries_at as usize..],
        }
    }

    /// The entries from the last one back: their places are found by skipping over all of them.
    pub fn iter_back(&self, base: StreamId) -> EntriesBack<'_> {
        let mut entries = self.iter(base);
        let mut places = [0u32; NODE_ENTRIES as usize];
        let mut count = 0;
        let rest = entries.rest;
        while !entries.rest.is_empty() {
            places[count] = (rest.len() - entries.rest.len()) as u32;
            count += 1;
            entries.skip_one();
        }
        entries.rest = rest;
        EntriesBack {
            entries,
            places,
            count,
        }
    }

    /// The last entry.
    pub fn last(&self, base: StreamId) -> Option<Entry<'_>> {
        let mut entries = self.iter(base);
        entries.rest = entries.rest.get(self.last_at as usize..)?;
        entries.next()
    }

    /// Removes an entry; false if it is not here. Moves the bytes behind it, at most a node's worth.
    pub fn remove(&mut self, base: StreamId, id: StreamId) -> bool {
        let mut entries = self.iter(base);
        let all = entries.rest.len();
        loop {
            let from = all - entries.rest.len();
            match entries.next() {
                None => return false,
                Some(entry) if entry.id < id => {}
                Some(entry) if entry.id > id => return false,
                Some(_) => {
                    let to = all - entries.rest.len();
                    let start = self.entries_at as usize;
                    self.bytes.drain(start + from..start + to);
                    self.live -= 1;
                    self.last_at = if from as u32 == self.last_at {
                        let back = self.iter_back(base);
                        back.count.checked_sub(1).map_or(0, |at| back.places[at])
                    } else {
                        self.last_at - (to - from) as u32
                    };
                    return true;
                }
            }
        }
    }

    /// Removes entries from the front as long as `keep` refuses them; how many.
    pub fn remove_front(
        &mut self,
        base: StreamId,
        mut drop: impl FnMut(usize, StreamId) -> bool,
    ) -> usize {
        let mut entries = self.iter(base);
        let all = entries.rest.len();
        let (mut count, mut to) = (0, 0);
        while let Some(entry) = entries.next() {
            if !drop(count, entry.id) {
                break;
            }
            count += 1;
            to = all - entries.rest.len();
        }
        let start = self.entries_at as usize;
        self.bytes.drain(start..start + to);
        self.live -= count as u16;
        self.last_at = self.last_at.saturating_sub(to as u32);
        count
    }

    fn has_names<'a>(&self, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> bool {
        let mut names = &self.bytes[..self.entries_at as usize];
        let mut left = take_number(&mut names);
        for (name, _) in pairs {
            if left == 0 || take_text(&mut names) != name {
                return false;
            }
            left -= 1;
        }
        left == 0
    }
}

/// One entry, borrowed from its stream.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub id: StreamId,
    pairs: usize,
    /// The field names, if they are the node's.
    names: Option<&'a [u8]>,
    values: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Number of field-value pairs.
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// True without pairs (XADD makes no such entry).
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The pairs in the order they were given.
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs {
            left: self.pairs,
            names: self.names,
            values: self.values,
        }
    }
}

/// The field-value pairs of an entry.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    left: usize,
    names: Option<&'a [u8]>,
    values: &'a [u8],
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = match &mut self.names {
            Some(names) => take_text(names),
            None => take_text(&mut self.values),
        };
        Some((name, take_text(&mut self.values)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

/// Walks a node forwards.
#[derive(Clone, Debug)]
pub(super) struct Entries<'a> {
    base: StreamId,
    pairs: usize,
    names: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Skips entries below `start`.
    pub fn seek(&mut self, start: StreamId) {
        loop {
            let here = self.rest;
            match self.next() {
                Some(entry) if entry.id < start => {}
                _ => {
                    self.rest = here;
                    return;
                }
            }
        }
    }

    fn skip_one(&mut self) {
        let length = take_number(&mut self.rest) as usize;
        self.rest = &self.rest[length..];
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let length = take_number(&mut self.rest) as usize;
        let (mut body, rest) = self.rest.split_at(length);
        self.rest = rest;
        let ms = take_number(&mut body);
        let seq = take_number(&mut body);
        let id = if ms == 0 {
            StreamId::new(self.base.ms, self.base.seq + seq)
        } else {
            StreamId::new(self.base.ms + ms, seq)
        };
        let form = take_number(&mut body) as usize;
        Some(Entry {
            id,
            pairs: if form == 0 { self.pairs } else { form - 1 },
            names: (form == 0).then_some(self.names),
            values: body,
        })
    }
}

/// Walks a node backwards.
#[derive(Clone, Debug)]
pub(super) struct EntriesBack<'a> {
    entries: Entries<'a>,
    places: [u32; NODE_ENTRIES as usize],
    count: usize,
}

impl<'a> Iterator for EntriesBack<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        self.count = self.count.checked_sub(1)?;
        let mut at = self.entries.clone();
        at.rest = &at.rest[self.places[self.count] as usize..];
        at.next()
    }
}

fn put_number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text);
}

fn number_size(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn text_size(text: &[u8]) -> usize {
    number_size(text.len() as u64) + text.len()
}

/// Takes a number off the front. Nodes hold only what `put_number` wrote.
fn take_number(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return value;
        }
        shift += 7;
    }
    panic!("a stream node ends inside a number")
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let length = take_number(bytes) as usize;
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    text
}

#[cfg(test)]
#[test]
fn numbers_have_their_size() {
    for value in [0, 1, 127, 128, 16383, 16384, u64::MAX >> 1, u64::MAX] {
        let mut bytes = Vec::new();
        put_number(&mut bytes, value);
        assert_eq!(bytes.len(), number_size(value), "{value}");
        assert_eq!(take_number(&mut &bytes[..]), value);
    }
}
