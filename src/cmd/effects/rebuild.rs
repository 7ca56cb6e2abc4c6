//! Whole keys as commands that make them.

use super::{BYTES_MAX, Batch, ELEMENTS_MAX, Writer};
use crate::{
    base::{Ms, format_f64},
    resp::OwnedArgs,
    store::{
        Consumer, Group, Hash, Keyspace, Kind, List, Pending, Set, Str, Stream, StreamId,
        WrongType, Zset,
    },
};

/// Writes the commands that make a key as it is now where there is none; nothing for a key that is not
/// there.
pub fn rebuild(keys: &mut Keyspace, key: &[u8], now: Ms, writer: &mut Writer<'_>) {
    let Some(meta) = keys.meta(key, now) else {
        return;
    };
    // The type is the one that was just looked at.
    let _ = elements(keys, key, meta.kind, now, writer);
    expire_at(meta.deadline, key, writer);
}

/// Writes the commands that make a value of this type, without a deadline.
fn elements(
    keys: &mut Keyspace,
    key: &[u8],
    kind: Kind,
    now: Ms,
    writer: &mut Writer<'_>,
) -> Result<(), WrongType> {
    match kind {
        Kind::String => {
            if let Some(value) = keys.string(key, now)? {
                writer.say([b"SET", key, value.as_bytes()]);
            }
        }
        Kind::Hash => {
            if let Some(value) = keys.get::<Hash>(key, now)? {
                hash(value, key, writer);
            }
        }
        Kind::List => {
            if let Some(value) = keys.get::<List>(key, now)? {
                let mut batch = Batch::new(writer, &[b"RPUSH", key], &[]);
                let each = |element: Str<'_>| batch.push(&[element.as_bytes()]);
                value.iter().for_each(each);
                batch.end();
            }
        }
        Kind::Set => {
            if let Some(value) = keys.get::<Set>(key, now)? {
                let mut batch = Batch::new(writer, &[b"SADD", key], &[]);
                value.iter().for_each(|member| batch.push(&[&member]));
                batch.end();
            }
        }
        Kind::Zset => {
            if let Some(value) = keys.get::<Zset>(key, now)? {
                let mut batch = Batch::new(writer, &[b"ZADD", key], &[]);
                for (member, score) in value.iter() {
                    batch.push(&[format_f64(score).as_bytes(), member]);
                }
                batch.end();
            }
        }
        Kind::Stream => {
            if let Some(value) = keys.get::<Stream>(key, now)? {
                stream(value, key, writer);
            }
        }
    }
    Ok(())
}

/// Writes the commands that make a key as it is now, whatever was there before.
pub(super) fn replace(keys: &mut Keyspace, key: &[u8], now: Ms, writer: &mut Writer<'_>) {
    // SET replaces a key of any type, and its deadline.
    if keys
        .meta(key, now)
        .is_none_or(|meta| meta.kind != Kind::String)
    {
        writer.say([b"DEL", key]);
    }
    rebuild(keys, key, now, writer);
}

pub(super) fn expire_at(deadline: Option<Ms>, key: &[u8], writer: &mut Writer<'_>) {
    if let Some(deadline) = deadline {
        let mut digits = itoa::Buffer::new();
        writer.say([b"PEXPIREAT", key, digits.format(deadline).as_bytes()]);
    }
}

fn hash(hash: &Hash, key: &[u8], writer: &mut Writer<'_>) {
    let mut batch = Batch::new(writer, &[b"HSET", key], &[]);
    hash.iter()
        .for_each(|(field, value)| batch.push(&[field, value]));
    batch.end();
    let mut fields = Vec::new();
    let mut due = None;
    for (deadline, field) in hash.deadlines() {
        if due.is_some_and(|due| due != deadline) {
            expire_fields(due, key, &fields, writer);
            fields.clear();
        }
        due = Some(deadline);
        fields.push(field);
    }
    expire_fields(due, key, &fields, writer);
}

/// Gives fields of a hash a deadline, or takes it away.
pub(super) fn expire_fields(
    deadline: Option<Ms>,
    key: &[u8],
    mut fields: &[&[u8]],
    writer: &mut Writer<'_>,
) {
    let (mut digits, mut counted) = (itoa::Buffer::new(), itoa::Buffer::new());
    while !fields.is_empty() {
        let mut bytes = 0;
        let count = fields
            .iter()
            .take(ELEMENTS_MAX)
            .take_while(|field| {
                let fits = bytes < BYTES_MAX;
                bytes += field.len();
                fits
            })
            .count();
        let (some, rest) = fields.split_at(count);
        let mut words = OwnedArgs::default();
        match deadline {
            Some(deadline) => {
                words.push(b"HPEXPIREAT");
                words.push(key);
                words.push(digits.format(deadline).as_bytes());
            }
            None => {
                words.push(b"HPERSIST");
                words.push(key);
            }
        }
        words.push(b"FIELDS");
        words.push(counted.format(count).as_bytes());
        some.iter().for_each(|field| words.push(field));
        writer.frame(words.as_args().iter());
        fields = rest;
    }
}

fn stream(stream: &Stream, key: &[u8], writer: &mut Writer<'_>) {
    let log = stream.log();
    let mut words = OwnedArgs::default();
    for entry in log.range(StreamId::MIN, StreamId::MAX) {
        words.truncate(0);
        words.push(b"XADD");
        words.push(key);
        entry.id.with_text(|id| words.push(id));
        for (name, value) in entry.pairs() {
            words.push(name);
            words.push(value);
        }
        writer.frame(words.as_args().iter());
    }
    if log.is_empty() {
        // No other command makes a stream without entries.
        writer.say([b"XGROUP", b"CREATE", key, b"new", b"0-0", b"MKSTREAM"]);
        writer.say([b"XGROUP", b"DESTROY", key, b"new"]);
    }
    let (mut digits, max_deleted) = (itoa::Buffer::new(), log.max_deleted().to_string());
    writer.say([
        b"XSETID",
        key,
        log.last_id().to_string().as_bytes(),
        b"ENTRIESADDED",
        digits.format(log.entries_added()).as_bytes(),
        b"MAXDELETEDID",
        max_deleted.as_bytes(),
    ]);
    for (name, group) in stream.groups() {
        group_at(b"CREATE", key, (name, group), writer);
        for (number, consumer) in group.consumers() {
            writer.say([b"XGROUP", b"CREATECONSUMER", key, name, consumer.name()]);
            let ids = group.pending_of(number, ..);
            pending(stream, key, (name, group), ids, writer);
            seen(key, name, consumer, writer);
        }
    }
}

/// Writes how far a group is, by this subcommand. That tells also how many entries it has read; a peer
/// that knows no such thing leaves the whole command out, and gets another one before it.
pub(super) fn group_at(
    mut verb: &[u8],
    key: &[u8],
    (name, group): (&[u8], &Group),
    writer: &mut Writer<'_>,
) {
    let last = group.last_id.to_string();
    let last = last.as_bytes();
    let is_plain = writer.is_plain();
    if is_plain {
        writer.say([b"XGROUP", verb, key, name, last]);
        if group.entries_read.is_none() {
            return;
        }
        verb = b"SETID";
    }
    let read = group.entries_read;
    let read = read.map_or("-1".into(), |count| count.to_string());
    let words = [
        b"XGROUP",
        verb,
        key,
        name,
        last,
        b"ENTRIESREAD",
        read.as_bytes(),
    ];
    match is_plain {
        true => writer.frame(words.into_iter()),
        false => writer.special(words.into_iter()),
    }
}

/// Writes how entries of a group are pending, for whichever consumer they are.
pub(super) fn pending(
    stream: &Stream,
    key: &[u8],
    (name, group): (&[u8], &Group),
    ids: impl Iterator<Item = StreamId>,
    writer: &mut Writer<'_>,
) {
    let mut alike = Vec::new();
    let mut row = None;
    for id in ids {
        let Some(next) = group.pending(id).copied() else {
            continue;
        };
        let owner = group.consumer(next.consumer);
        // XCLAIM knows nothing of entries that were deleted, and says that the consumer was given one.
        let is_plain = stream.log().contains(id)
            && owner.active.is_some()
            && i64::try_from(next.count.max(next.delivered)).is_ok();
        if row.is_some_and(|row| row != next || !is_plain) {
            claim(key, (name, group), row.take(), &alike, writer);
            alike.clear();
        }
        let mut digits = (itoa::Buffer::new(), itoa::Buffer::new());
        if is_plain {
            alike.push(id);
            row = Some(next);
        } else {
            writer.say([
                b"XINTERNAL.PENDING",
                key,
                name,
                owner.name(),
                digits.0.format(next.delivered).as_bytes(),
                digits.1.format(next.count).as_bytes(),
                id.to_string().as_bytes(),
            ]);
        }
    }
    claim(key, (name, group), row, &alike, writer);
}

/// Writes that entries are pending in the same way.
fn claim(
    key: &[u8],
    (name, group): (&[u8], &Group),
    row: Option<Pending>,
    ids: &[StreamId],
    writer: &mut Writer<'_>,
) {
    let Some(row) = row else {
        return;
    };
    let (mut time, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
    let owner = group.consumer(row.consumer).name();
    let tail: [&[u8]; 6] = [
        b"TIME",
        time.format(row.delivered).as_bytes(),
        b"RETRYCOUNT",
        count.format(row.count).as_bytes(),
        b"FORCE",
        b"JUSTID",
    ];
    let mut batch = Batch::new(writer, &[b"XCLAIM", key, name, owner, b"0"], &tail);
    for id in ids {
        id.with_text(|id| batch.push(&[id]));
    }
    batch.end();
}

/// Writes when a consumer was there last.
pub(super) fn seen(key: &[u8], group: &[u8], consumer: &Consumer, writer: &mut Writer<'_>) {
    let (mut seen, mut active) = (itoa::Buffer::new(), itoa::Buffer::new());
    let verb = b"XINTERNAL.CONSUMERSEEN";
    let seen = seen.format(consumer.seen).as_bytes();
    match consumer.active {
        None => writer.say([verb, key, group, consumer.name(), seen]),
        Some(at) => {
            let active = active.format(at).as_bytes();
            writer.say([verb, key, group, consumer.name(), seen, active]);
        }
    }
}
