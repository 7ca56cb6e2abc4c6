//! Streams: entries in listpacks under the id of the first entry of each, counters, consumer groups.
//!
//! A listpack begins with `entries, removed entries, fields, field ..., 0`. Each entry then is
//! `flags, ms, seq | fields, (field, value) ... | items`, ids as distances from the listpack's; one with
//! the fields of the listpack's head has `value ...` alone. `items` counts those before it.

use std::collections::BTreeMap;

use super::{
    Damaged, kind,
    listpack::{Builder, Item, Items},
    read::{Reader, once},
    write::Writer,
};
use crate::store::{Entry, Group, Log, Stream, StreamId};

/// The entry was removed.
const REMOVED: i64 = 1;
/// The entry has the fields of its listpack's head.
const SAME_FIELDS: i64 = 2;

/// Entries and bytes that a listpack takes at most, as Redis has it by default.
const ENTRIES_MAX: u8 = 100;
const BYTES_MAX: usize = 4096;

/// Names of the head that every entry repeats in memory may take so much before they are counted.
const NAMES_FREE: usize = 1024;

pub fn read(reader: &mut Reader<'_>, kind: u8) -> Result<Stream, Damaged> {
    // The last id comes behind the entries, which need it: they are not above it.
    let mut stream = Stream::default();
    for _ in 0..reader.number()? {
        let key = reader.string()?;
        let key: [u8; 16] = (*key).try_into().map_err(|_| Damaged)?;
        let text = reader.string()?;
        read_entries(reader, stream.log_mut(), id_of(key), &text)?;
    }
    let log = stream.log_mut();
    let (len, last_id) = (reader.number()?, read_id(reader)?);
    if len != log.len() || last_id < log.last_id() {
        return Err(Damaged);
    }
    log.set_last_id(last_id);
    if kind == kind::STREAM_1 {
        log.set_entries_added(len);
    } else {
        // The first id; the entries tell it too.
        read_id(reader)?;
        log.set_max_deleted(read_id(reader)?);
        let added = counter(reader.number()?)?;
        log.set_entries_added(added);
    }
    for _ in 0..reader.number()? {
        read_group(reader, &mut stream, kind)?;
    }
    Ok(stream)
}

/// Counters are signed elsewhere.
fn counter(count: u64) -> Result<u64, Damaged> {
    if count <= i64::MAX as u64 {
        Ok(count)
    } else {
        Err(Damaged)
    }
}

fn id_of(bytes: [u8; 16]) -> StreamId {
    let (ms, seq) = bytes.split_at(8);
    let word = |half: &[u8]| {
        half.iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    StreamId::new(word(ms), word(seq))
}

fn read_id(reader: &mut Reader<'_>) -> Result<StreamId, Damaged> {
    Ok(StreamId::new(reader.number()?, reader.number()?))
}

fn read_entries(
    reader: &mut Reader<'_>,
    log: &mut Log,
    key: StreamId,
    text: &[u8],
) -> Result<(), Damaged> {
    let mut items = Items::open(text)?;
    let (live, removed) = (items.take()?.int()?, items.take()?.int()?);
    let names = fields(&mut items, text)?;
    let names: Vec<Item<'_>> = (0..names).map(|_| items.take()).collect::<Result<_, _>>()?;
    let repeated: usize = names.iter().map(item_size).sum();
    if items.take()?.int()? != 0 {
        return Err(Damaged);
    }
    let (mut live_left, mut removed_left) = (live, removed);
    while let Some(flags) = items.next()? {
        let flags = flags.int()?;
        let id = StreamId::new(
            key.ms.wrapping_add(items.take()?.int()? as u64),
            key.seq.wrapping_add(items.take()?.int()? as u64),
        );
        let is_same = flags & SAME_FIELDS != 0;
        let mut pairs = Vec::new();
        let expected = if is_same {
            for name in &names {
                pairs.push((*name, items.take()?));
            }
            3 + names.len() as i64
        } else {
            let count = fields(&mut items, text)?;
            for _ in 0..count {
                pairs.push((items.take()?, items.take()?));
            }
            4 + 2 * count
        };
        if items.take()?.int()? != expected {
            return Err(Damaged);
        }
        let left = if flags & REMOVED != 0 {
            &mut removed_left
        } else {
            &mut live_left
        };
        *left = left.checked_sub(1).ok_or(Damaged)?;
        if flags & REMOVED != 0 {
            continue;
        }
        if is_same && repeated > NAMES_FREE {
            reader.expand(repeated)?;
        }
        let pairs: Vec<(Owned<'_>, Owned<'_>)> = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.bytes(), value.bytes()));
        once(log.restore(id, pairs))?;
    }
    if (live_left, removed_left) == (0, 0) {
        Ok(())
    } else {
        Err(Damaged)
    }
}

/// A number of fields; each takes at least two bytes of the listpack.
fn fields(items: &mut Items<'_>, text: &[u8]) -> Result<i64, Damaged> {
    let count = items.take()?.int()?;
    if (0..=text.len() as i64 / 2).contains(&count) {
        Ok(count)
    } else {
        Err(Damaged)
    }
}

fn item_size(item: &Item<'_>) -> usize {
    match item {
        Item::Text(text) => text.len(),
        Item::Int(_) => 20,
    }
}

/// An item as the bytes it stands for.
enum Owned<'a> {
    Text(&'a [u8]),
    Digits(String),
}

impl<'a> From<Item<'a>> for Owned<'a> {
    fn from(item: Item<'a>) -> Self {
        match item {
            Item::Text(text) => Owned::Text(text),
            Item::Int(value) => Owned::Digits(value.to_string()),
        }
    }
}

impl Owned<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Owned::Text(text) => text,
            Owned::Digits(digits) => digits.as_bytes(),
        }
    }
}

fn read_group(reader: &mut Reader<'_>, stream: &mut Stream, kind: u8) -> Result<(), Damaged> {
    let name = reader.string()?;
    let last_id = read_id(reader)?;
    let entries_read = if kind == kind::STREAM_1 {
        stream.log().entries_before(last_id)
    } else {
        match reader.number()? {
            u64::MAX => None,
            count => Some(counter(count)?),
        }
    };
    let group = stream
        .create_group(&name, last_id, entries_read)
        .ok_or(Damaged)?;
    // Delivered entries come first, to whom each was delivered behind them.
    let mut rows = BTreeMap::new();
    for _ in 0..reader.number()? {
        let id = id_of(reader.array()?);
        let row = (reader.time()?, reader.number()?);
        once(rows.insert(id, row).is_none())?;
    }
    for _ in 0..reader.number()? {
        let name = reader.string()?;
        once(group.find(&name).is_none())?;
        let seen = reader.time()?;
        let active = if kind == kind::STREAM_3 {
            u64::try_from(i64::from_le_bytes(reader.array()?)).ok()
        } else {
            Some(seen)
        };
        let consumer = group.create_consumer(&name, seen, active);
        for _ in 0..reader.number()? {
            let id = id_of(reader.array()?);
            let (delivered, count) = rows.remove(&id).ok_or(Damaged)?;
            group.assign(id, consumer, delivered, count);
        }
    }
    // Each was delivered to somebody.
    once(rows.is_empty())
}

pub fn write(writer: &mut Writer<'_>, stream: &Stream) {
    let log = stream.log();
    let mut nodes: Vec<Node> = Vec::new();
    for entry in log.range(StreamId::MIN, StreamId::MAX) {
        if nodes.last().is_none_or(|node| !node.takes(&entry)) {
            nodes.push(Node::opened_by(&entry));
        }
        if let Some(node) = nodes.last_mut() {
            node.push(&entry);
        }
    }
    writer.number(nodes.len() as u64);
    for node in nodes {
        writer.number(16);
        write_raw_id(writer, node.first);
        writer.string(&node.builder.finish());
    }
    writer.number(log.len());
    for id in [log.last_id(), log.first_id(), log.max_deleted()] {
        write_id(writer, id);
    }
    writer.number(log.entries_added());
    writer.number(stream.groups().len() as u64);
    for (name, group) in stream.groups() {
        write_group(writer, name, group);
    }
}

fn write_id(writer: &mut Writer<'_>, id: StreamId) {
    writer.number(id.ms);
    writer.number(id.seq);
}

fn write_raw_id(writer: &mut Writer<'_>, id: StreamId) {
    writer.raw(&id.ms.to_be_bytes());
    writer.raw(&id.seq.to_be_bytes());
}

fn write_group(writer: &mut Writer<'_>, name: &[u8], group: &Group) {
    writer.string(name);
    write_id(writer, group.last_id);
    writer.number(group.entries_read.unwrap_or(u64::MAX));
    writer.number(group.pending_len() as u64);
    for (id, row) in group.pending_range(..) {
        write_raw_id(writer, id);
        writer.raw(&row.delivered.to_le_bytes());
        writer.number(row.count);
    }
    writer.number(group.consumer_count() as u64);
    for (at, consumer) in group.consumers() {
        writer.string(consumer.name());
        writer.raw(&consumer.seen.to_le_bytes());
        writer.number(consumer.pending_len() as u64);
        for id in group.pending_of(at, ..) {
            write_raw_id(writer, id);
        }
    }
}

/// A listpack of entries that is being built.
struct Node {
    first: StreamId,
    names: Vec<Box<[u8]>>,
    builder: Builder,
    live: u8,
}

impl Node {
    /// An empty one that takes its fields from an entry.
    fn opened_by(entry: &Entry<'_>) -> Self {
        let mut builder = Builder::new();
        for number in [0, 0, entry.len() as i64] {
            builder.push_int(number);
        }
        for (name, _) in entry.pairs() {
            builder.push(name);
        }
        builder.push_int(0);
        Self {
            first: entry.id,
            names: entry.pairs().map(|(name, _)| name.into()).collect(),
            builder,
            live: 0,
        }
    }

    /// Is there room for the entry?
    fn takes(&self, entry: &Entry<'_>) -> bool {
        let size: usize = entry
            .pairs()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.live < ENTRIES_MAX && self.builder.size() + size < BYTES_MAX
    }

    fn push(&mut self, entry: &Entry<'_>) {
        let is_same = entry.len() == self.names.len()
            && entry
                .pairs()
                .zip(&self.names)
                .all(|((name, _), same)| name == &**same);
        let before = self.builder.len();
        self.builder.push_int(if is_same { SAME_FIELDS } else { 0 });
        self.builder
            .push_int(entry.id.ms.wrapping_sub(self.first.ms) as i64);
        self.builder
            .push_int(entry.id.seq.wrapping_sub(self.first.seq) as i64);
        if !is_same {
            self.builder.push_int(entry.len() as i64);
        }
        for (name, value) in entry.pairs() {
            if !is_same {
                self.builder.push(name);
            }
            self.builder.push(value);
        }
        let items = self.builder.len() - before;
        self.builder.push_int(items as i64);
        self.live += 1;
        self.builder.set_first(self.live);
    }
}
