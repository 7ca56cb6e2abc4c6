//! Values as records of [`image`](crate::image).

use super::{Hash, List, Set, Stream, StreamId, Typed, Value, Zset};
use crate::{
    base::Ms,
    image::{Consumer, EntryId, ItemKind, Items, Pending, StreamMeta, WideCount, Writer},
};

/// How far a collection has been written that is written in parts.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Progress {
    /// A hash or a set, by its scan cursor.
    Cursor(u64),
    /// A sorted set, up to this element.
    Element(f64, Box<[u8]>),
}

impl Progress {
    /// Can a value be the one that was begun?
    pub fn fits(&self, value: &Value) -> bool {
        match self {
            Progress::Cursor(_) => matches!(value, Value::Hash(_) | Value::Set(_)),
            Progress::Element(..) => matches!(value, Value::Zset(_)),
        }
    }
}

/// What a value's records say of its key, and where a part of them ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub key: &'a [u8],
    pub deadline: Option<Ms>,
    /// The length of the output at which a collection is left, to go on later.
    pub until: usize,
}

/// Appends the records of a value. Of a hash, a set or a sorted set that is a part, and what this returns
/// is for the next one. The collection may be changed between its parts by commands that name the members
/// they change and do the same to each of them whatever else is there, if these commands are applied
/// behind the parts before them: a member that stays as it is from the first part to the last is in one of
/// them, and what a part says of a member is what it is by then.
///
/// A value that does not fit `from` is written from its beginning.
///
/// Lists and streams are written as wholes, because commands name their elements by place. That takes
/// about a millisecond for each megabyte of them, during which nobody is served.
pub(super) fn write_value(
    out: &mut Vec<u8>,
    part: Part<'_>,
    value: &Value,
    from: Option<Progress>,
) -> Option<Progress> {
    let Part { key, deadline, .. } = part;
    match (value, from) {
        (Value::String(text), _) => {
            Writer::new(out).string(key, deadline, text);
            None
        }
        (Value::List(list), _) => {
            write_list(out, part, list);
            None
        }
        (Value::Stream(stream), _) => {
            write_stream(out, part, stream);
            write_group_reads(out, key, stream);
            None
        }
        (Value::Hash(hash), Some(Progress::Cursor(from))) => {
            write_hash(out, part, hash, Some(from))
        }
        (Value::Hash(hash), _) => write_hash(out, part, hash, None),
        (Value::Set(set), Some(Progress::Cursor(from))) => write_set(out, part, set, Some(from)),
        (Value::Set(set), _) => write_set(out, part, set, None),
        (Value::Zset(zset), Some(Progress::Element(score, member))) => {
            write_zset(out, part, zset, Some((score, &member)))
        }
        (Value::Zset(zset), _) => write_zset(out, part, zset, None),
    }
}

/// Do more records than one say what the value is?
pub(super) fn has_more_records(value: &Value) -> bool {
    match value {
        Value::Hash(hash) => hash.next_deadline().is_some(),
        Value::Stream(stream) => stream.groups().next().is_some(),
        _ => false,
    }
}

/// Appends a record that says that the key is not there.
pub(super) fn write_absence(out: &mut Vec<u8>, key: &[u8]) {
    let mut writer = Writer::new(out);
    let items = writer.begin(ItemKind::Set, false, key, None);
    writer.end(items);
}

fn write_hash(
    out: &mut Vec<u8>,
    part: Part<'_>,
    hash: &Hash,
    from: Option<u64>,
) -> Option<Progress> {
    let has_deadlines = hash.next_deadline().is_some();
    // They stand behind the hash, and a scan lends a field only while it visits it.
    let mut deadlines = Vec::new();
    let next = scanned(
        out,
        part,
        ItemKind::Hash,
        from,
        |writer, items, cursor, count| {
            hash.scan(cursor, count, |field, value| {
                writer.pair(items, field, value);
                if has_deadlines && let Some(due) = hash.deadline(field) {
                    Writer::new(&mut deadlines).field_deadline(part.key, field, due);
                }
            })
        },
    );
    out.extend_from_slice(&deadlines);
    next
}

fn write_set(out: &mut Vec<u8>, part: Part<'_>, set: &Set, from: Option<u64>) -> Option<Progress> {
    scanned(
        out,
        part,
        ItemKind::Set,
        from,
        |writer, items, cursor, count| {
            set.scan(cursor, count, |member| writer.element(items, member))
        },
    )
}

/// Appends items by a scan that begins at a cursor and writes about so many.
fn scanned(
    out: &mut Vec<u8>,
    part: Part<'_>,
    kind: ItemKind,
    from: Option<u64>,
    mut scan: impl FnMut(&mut Writer<'_>, &mut Items, u64, usize) -> u64,
) -> Option<Progress> {
    let mut writer = Writer::new(out);
    let mut items = writer.begin(kind, from.is_some(), part.key, part.deadline);
    let start = writer.len();
    let (mut cursor, mut count) = (from.unwrap_or(0), ITEMS_FIRST);
    loop {
        cursor = scan(&mut writer, &mut items, cursor, count);
        if cursor == 0 || writer.len() >= part.until {
            break;
        }
        let mean = (writer.len() - start) / items.count().max(1) as usize;
        count = ((part.until - writer.len()) / mean.max(1)).clamp(1, ITEMS_MAX);
    }
    writer.end(items);
    (cursor != 0).then_some(Progress::Cursor(cursor))
}

/// In ascending order, as kevy has it; a reader then only ever adds at the end.
fn write_zset(
    out: &mut Vec<u8>,
    part: Part<'_>,
    zset: &Zset,
    from: Option<(f64, &[u8])>,
) -> Option<Progress> {
    let rank = from.map_or(0, |(score, member)| zset.rank_behind(score, member));
    let mut writer = Writer::new(out);
    let mut items = writer.begin(ItemKind::SortedSet, from.is_some(), part.key, part.deadline);
    let mut left = zset.len() - rank;
    let mut next = None;
    for (member, score) in zset.range(rank..zset.len(), false) {
        writer.member(&mut items, member, score);
        left -= 1;
        if left > 0 && writer.len() >= part.until {
            next = Some(Progress::Element(score, member.into()));
            break;
        }
    }
    writer.end(items);
    next
}

fn write_list(out: &mut Vec<u8>, part: Part<'_>, list: &List) {
    let mut writer = Writer::new(out);
    let mut elements = list.iter();
    let mut left = list.len();
    let mut is_more = false;
    // More than once only where a list has more elements than a record can count.
    while left > 0 || !is_more {
        let mut items = writer.begin(ItemKind::List, is_more, part.key, part.deadline);
        for element in elements.by_ref().take(u32::MAX as usize) {
            writer.element(&mut items, element.as_bytes());
        }
        left -= items.count() as usize;
        writer.end(items);
        is_more = true;
    }
}

fn write_stream(out: &mut Vec<u8>, part: Part<'_>, stream: &Stream) {
    let mut writer = Writer::new(out);
    let log = stream.log();
    let meta = StreamMeta {
        last_id: id(log.last_id()),
        max_deleted_id: id(log.max_deleted()),
        entries_added: log.entries_added(),
    };
    let count = u32::try_from(log.len());
    let count = count.expect("entries of a stream fit the memory, and that many do not");
    writer.stream(part.key, part.deadline, meta, count);
    for entry in log.range(StreamId::MIN, StreamId::MAX) {
        writer.entry(id(entry.id), entry.pairs());
    }
    writer.groups(stream.groups().len() as u32);
    for (name, group) in stream.groups() {
        let consumers = group.consumers().map(|(_, consumer)| Consumer {
            name: consumer.name(),
            at: consumer.seen,
        });
        let pending = group.pending_range(..).map(|(row_id, row)| Pending {
            id: id(row_id),
            consumer: group.consumer(row.consumer).name(),
            delivered_at: row.delivered,
            // The whole count is among the group reads.
            delivery_count: u32::try_from(row.count).unwrap_or(u32::MAX),
        });
        writer.group(name, id(group.last_id), consumers, pending);
    }
}

/// What a stream's record has no room for. Stands behind the stream in a body, and behind the end in an
/// image of kevy.
fn write_group_reads(out: &mut Vec<u8>, key: &[u8], stream: &Stream) {
    let mut writer = Writer::new(out);
    for (name, group) in stream.groups() {
        let active = || {
            group.consumers().filter_map(|(_, consumer)| {
                Some(Consumer {
                    name: consumer.name(),
                    at: consumer.active?,
                })
            })
        };
        let wide = || {
            let rows = group.pending_range(..);
            rows.filter(|(_, row)| row.count > u64::from(u32::MAX))
                .map(|(row_id, row)| WideCount {
                    id: id(row_id),
                    delivery_count: row.count,
                })
        };
        if group.entries_read.is_some() || active().next().is_some() || wide().next().is_some() {
            writer.group_reads(key, name, group.entries_read, active(), wide());
        }
    }
}

fn id(id: StreamId) -> EntryId {
    EntryId {
        ms: id.ms,
        seq: id.seq,
    }
}

/// Items that a part asks for before it knows how large they are.
const ITEMS_FIRST: usize = 16;
/// Most items that it asks for at once. A scan looks at whole segments of a table, so few at a time are
/// dear.
const ITEMS_MAX: usize = 1024;
