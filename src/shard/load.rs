//! Replacing the keys of an upstream stream by its snapshot, a slice per turn.

use crate::{
    base::Ms,
    cmd::Shards,
    image::{EntryId, ImageReader, Key, Record},
    route,
    store::{End, Hash, InValue, List, Set, Stream, StreamId, Zset},
};

/// Image bytes that one turn loads.
const STEP_BYTES: usize = 128 << 10;
/// Items of one collection that one turn loads.
const STEP_ITEMS: usize = 4096;
/// Keys that one turn looks at while it removes old ones.
const STEP_KEYS: usize = 2000;
/// Keys of an image that are looked at to learn how the primary places keys.
const SAMPLE: usize = 64;

/// How the primary splits keys over its streams. It does not say so; the keys in its images do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Placement {
    /// kevy's hash of the hashtag.
    #[default]
    Hash,
    /// kevy's hash of the whole key (before 1.27.4).
    WholeHash,
    /// Cluster slots.
    Slots,
}

impl Placement {
    fn stream_of(self, key: &[u8], streams: usize) -> usize {
        if streams <= 1 {
            return 0;
        }
        match self {
            Placement::Hash => route::hash_shard(route::kevy_hash(key), streams),
            Placement::WholeHash => route::hash_shard(route::kevy_hash_whole(key), streams),
            Placement::Slots => route::slot_shard(route::slot(key), streams),
        }
    }

    /// The placement under which all of some keys belong to `stream`; the old one if none does.
    fn learn(self, keys: &[Vec<u8>], stream: usize, streams: usize) -> Self {
        let fits = |placement: &Placement| {
            keys.iter()
                .all(|key| placement.stream_of(key, streams) == stream)
        };
        [
            self,
            Placement::Hash,
            Placement::WholeHash,
            Placement::Slots,
        ]
        .into_iter()
        .find(fits)
        .unwrap_or(self)
    }
}

/// One replacement of all keys of one stream, under way.
pub(super) struct Load {
    stream: usize,
    session: u64,
    streams: usize,
    placement: Placement,
    reader: Option<ImageReader<Vec<u8>>>,
    phase: Phase,
    good: bool,
}

enum Phase {
    /// Old keys are removed: shard and cursor.
    Clear(usize, u64),
    Fill,
}

impl Load {
    /// Removes the keys of a stream.
    pub(super) fn clearing(
        stream: usize,
        session: u64,
        streams: usize,
        placement: Placement,
    ) -> Self {
        Self {
            stream,
            session,
            streams,
            placement,
            reader: None,
            phase: Phase::Clear(0, 0),
            good: true,
        }
    }

    /// Replaces the keys of a stream by those of a checked image.
    pub(super) fn of_image(
        stream: usize,
        session: u64,
        streams: usize,
        placement: &mut Placement,
        image: Vec<u8>,
        now: Ms,
    ) -> Self {
        if streams > 1 {
            *placement = placement.learn(&sample(&image, now), stream, streams);
        }
        let reader = ImageReader::new(image, now).ok();
        let good = reader.is_some();
        Self {
            reader,
            good,
            ..Self::clearing(stream, session, streams, *placement)
        }
    }

    /// Stream, session, and whether everything was loaded.
    pub(super) fn outcome(&self) -> (usize, u64, bool) {
        (self.stream, self.session, self.good)
    }

    /// Works for one turn; true once everything is done. All shards are in `shards`.
    pub(super) fn step(&mut self, shards: &mut Shards, now: Ms) -> bool {
        match self.phase {
            Phase::Clear(..) if self.streams <= 1 => {
                for (_, shard) in shards.iter_mut() {
                    shard.databases().for_each(|(_, keys)| keys.clear());
                }
                self.phase = Phase::Fill;
                false
            }
            Phase::Clear(at, cursor) => {
                let mut old = Vec::new();
                let keys = shards.keyspace(at, 0);
                let cursor = keys.scan(cursor, STEP_KEYS, now, |key, _| {
                    if self.placement.stream_of(key, self.streams) == self.stream {
                        old.push(key.to_vec());
                    }
                });
                for key in old {
                    keys.remove(&key, now);
                }
                self.phase = match cursor {
                    0 if at + 1 == shards.count() => Phase::Fill,
                    0 => Phase::Clear(at + 1, 0),
                    cursor => Phase::Clear(at, cursor),
                };
                false
            }
            Phase::Fill => self.fill(shards, now),
        }
    }

    fn fill(&mut self, shards: &mut Shards, now: Ms) -> bool {
        let Some(reader) = &mut self.reader else {
            return true;
        };
        let end = reader.read_len() + STEP_BYTES;
        if let Some(record) = reader.resume() {
            put(shards, record, now);
        }
        while reader.read_len() < end && !reader.is_inside() {
            match reader.next() {
                Ok(Some(record)) => put(shards, record, now),
                Ok(None) => return true,
                Err(_) => {
                    self.good = false;
                    return true;
                }
            }
        }
        false
    }
}

/// Some keys of an image.
fn sample(image: &[u8], now: Ms) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let Ok(mut reader) = ImageReader::new(image, now) else {
        return keys;
    };
    while keys.len() < SAMPLE
        && let Ok(Some(record)) = reader.next()
    {
        if let Record::String { key, .. }
        | Record::Hash { key, .. }
        | Record::List { key, .. }
        | Record::Set { key, .. }
        | Record::SortedSet { key, .. }
        | Record::Stream { key, .. } = record
        {
            keys.push(key.bytes.to_vec());
        }
    }
    keys
}

/// Stores one record, or the rest of one. A hostile image may name a key twice, with another type: the
/// later record then wins.
fn put(shards: &mut Shards, record: Record<'_>, now: Ms) {
    match record {
        Record::String { key, value } => {
            shards
                .of(0, key.bytes)
                .set_string(key.bytes, value, key.deadline)
        }
        Record::Hash { key, mut pairs } => {
            fill::<Hash, _>(shards, key, &mut pairs, now, |hash, (field, value)| {
                hash.put(field, value);
            })
        }
        Record::List { key, mut elements } => {
            fill::<List, _>(shards, key, &mut elements, now, |list, element| {
                list.push(End::Right, element);
            })
        }
        Record::Set { key, mut members } => {
            fill::<Set, _>(shards, key, &mut members, now, |set, member| {
                set.insert(member);
            })
        }
        Record::SortedSet { key, mut members } => {
            fill::<Zset, _>(shards, key, &mut members, now, |zset, (member, score)| {
                zset.insert(member, score);
            });
        }
        Record::Stream {
            key,
            meta,
            mut entries,
        } => {
            let keys = shards.of(0, key.bytes);
            if !key.is_resumed {
                let stream = Stream::restored(
                    id(meta.last_id),
                    id(meta.max_deleted_id),
                    meta.entries_added,
                );
                keys.insert(key.bytes, stream.wrap(), key.deadline);
            }
            if let Ok(Some(stream)) = keys.get_mut::<Stream>(key.bytes, now) {
                for entry in entries.by_ref().take(STEP_ITEMS) {
                    // An entry out of order is refused by the log and left out.
                    stream.log_mut().restore(id(entry.id), entry.fields);
                }
            }
        }
        Record::Group(group) => {
            let keys = shards.of(0, group.key);
            let Ok(Some(stream)) = keys.get_mut::<Stream>(group.key, now) else {
                return;
            };
            let Some(made) = stream.create_group(group.name, id(group.last_delivered), None) else {
                return;
            };
            for consumer in group.consumers {
                made.create_consumer(consumer.name, consumer.at, None);
            }
            for row in group.pending {
                let consumer = made.create_consumer(row.consumer, row.delivered_at, None);
                made.assign(
                    id(row.id),
                    consumer,
                    row.delivered_at,
                    u64::from(row.delivery_count),
                );
            }
        }
        Record::FieldTtl {
            key,
            field,
            deadline,
        } => {
            let keys = shards.of(0, key);
            if let Ok(Some(hash)) = keys.get_mut::<Hash>(key, now) {
                hash.set_deadline(field, Some(deadline));
                keys.reindex(key);
            }
        }
        Record::GroupReads(reads) => {
            let keys = shards.of(0, reads.key);
            let Ok(Some(stream)) = keys.get_mut::<Stream>(reads.key, now) else {
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
                let row = group
                    .pending(id(wide.id))
                    .map(|row| (row.consumer, row.delivered));
                if let Some((consumer, delivered)) = row {
                    group.assign(id(wide.id), consumer, delivered, wide.delivery_count);
                }
            }
        }
        Record::Aux(_) => {}
    }
}

/// Adds items to a collection until they end or the turn's share is used up.
fn fill<T: InValue, I: Iterator>(
    shards: &mut Shards,
    key: Key<'_>,
    items: &mut I,
    now: Ms,
    mut add: impl FnMut(&mut T, I::Item),
) {
    let keys = shards.of(0, key.bytes);
    let Some(first) = items.next() else { return };
    if !key.is_resumed {
        keys.insert(key.bytes, T::default().wrap(), None);
    }
    // The deadline follows once the items are in: a key that is due would be removed with each access.
    if let Ok(Some(collection)) = keys.get_mut::<T>(key.bytes, now) {
        add(collection, first);
        for item in items.take(STEP_ITEMS) {
            add(collection, item);
        }
    }
    if key.deadline.is_some() {
        keys.set_deadline(key.bytes, key.deadline, now);
    }
}

fn id(id: EntryId) -> StreamId {
    StreamId {
        ms: id.ms,
        seq: id.seq,
    }
}
