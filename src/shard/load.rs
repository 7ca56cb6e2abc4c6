//! Replacing the keys of an upstream stream by its snapshot, a slice per turn.

use crate::{
    base::Ms,
    cmd::{Shards, Upstream},
    image::{ImageReader, Record},
    route,
    store::Keyspace,
};

/// Image bytes that one turn loads.
const STEP_BYTES: usize = 128 << 10;
/// Items of one collection that one turn loads.
const STEP_ITEMS: usize = 4096;
/// Keys that one turn looks at while it removes old ones.
const STEP_KEYS: usize = 2000;
/// Keys of an image that are looked at to learn how the primary places keys.
const SAMPLE: usize = 64;

/// The first version of kevy that hashes the hashtag alone.
const HASHTAGS_SINCE: (u32, u32, u32) = (1, 27, 4);

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
    /// That of a kevy of this version, until one of its images tells otherwise.
    pub(super) fn of_version(version: Option<&str>) -> Self {
        let mut numbers = version
            .unwrap_or_default()
            .split('.')
            .map(str::parse::<u32>);
        let mut number = || numbers.next().and_then(Result::ok);
        match (number(), number(), number()) {
            (Some(major), Some(minor), Some(patch)) if (major, minor, patch) < HASHTAGS_SINCE => {
                Placement::WholeHash
            }
            _ => Placement::Hash,
        }
    }

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
    /// Only keys of this database go.
    database: Option<usize>,
    good: bool,
    /// What the keys are a copy of, if a later start can go on from there.
    pub(super) upstream: Option<Upstream>,
}

enum Phase {
    /// Old keys are removed: shard, database and cursor.
    Clear(usize, usize, u64),
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
            phase: Phase::Clear(0, 0, 0),
            database: None,
            good: true,
            upstream: None,
        }
    }

    /// Replaces the keys of a stream by those of a checked image which are not due at `now`.
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

    /// Leaves all databases but this one as they are.
    pub(super) fn only_in(mut self, database: usize) -> Self {
        self.database = Some(database);
        self
    }

    /// Has a shard keys of the stream?
    pub(super) fn is_about(&self, shard: usize, shards: usize) -> bool {
        let is_same = self.streams == shards && self.placement == Placement::Hash;
        !is_same || shard == self.stream
    }

    /// Stream, session, and whether everything was loaded.
    pub(super) fn outcome(&self) -> (usize, u64, bool) {
        (self.stream, self.session, self.good)
    }

    /// Works for one turn; true once everything is done. All shards are in `shards`.
    pub(super) fn step(&mut self, shards: &mut Shards) -> bool {
        match self.phase {
            Phase::Clear(..) if self.streams <= 1 => {
                for (_, shard) in shards.iter_mut() {
                    shard.databases().for_each(|(_, keys)| keys.clear());
                }
                self.phase = Phase::Fill;
                false
            }
            Phase::Clear(at, db, cursor) => {
                let is_meant = self.database.is_none_or(|only| only == db)
                    && shards.shard(at).used_database(db).is_some();
                let cursor = if is_meant {
                    self.clear(shards.keyspace(at, db), cursor)
                } else {
                    0
                };
                self.phase = match cursor {
                    0 if db + 1 < shards.databases() => Phase::Clear(at, db + 1, 0),
                    0 if at + 1 == shards.count() => Phase::Fill,
                    0 => Phase::Clear(at + 1, 0, 0),
                    cursor => Phase::Clear(at, db, cursor),
                };
                false
            }
            Phase::Fill => self.fill(shards),
        }
    }

    /// Removes some of the keys; where to go on.
    fn clear(&self, keys: &mut Keyspace, cursor: u64) -> u64 {
        // Keys that are due go too: where the primary says when they go, they are there until then.
        let now = 0;
        let mut old = Vec::new();
        let cursor = keys.scan(cursor, STEP_KEYS, now, |key, _| {
            if self.placement.stream_of(key, self.streams) == self.stream {
                old.push(key.to_vec());
            }
        });
        for key in old {
            keys.remove(&key, now);
        }
        cursor
    }

    fn fill(&mut self, shards: &mut Shards) -> bool {
        let Some(reader) = &mut self.reader else {
            return true;
        };
        let end = reader.read_len() + STEP_BYTES;
        if let Some(record) = reader.resume() {
            put(shards, record);
        }
        while reader.read_len() < end && !reader.is_inside() {
            match reader.next() {
                Ok(Some(record)) => put(shards, record),
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
        // Of a stream with groups several records name it.
        if let Some(key) = record.key()
            && keys.last().is_none_or(|last: &Vec<u8>| last != key)
        {
            keys.push(key.to_vec());
        }
    }
    keys
}

/// Stores one record, or the rest of one.
fn put(shards: &mut Shards, record: Record<'_>) {
    if let Some(key) = record.key() {
        shards.of(0, key).put_record(record, STEP_ITEMS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cmd::Shard, store::DueKeys};

    #[test]
    fn old_kevys_place_keys_by_all_of_their_bytes() {
        for (version, placement) in [
            ("1.19.0", Placement::WholeHash),
            ("1.27.3", Placement::WholeHash),
            ("1.27.4", Placement::Hash),
            ("2.0.20", Placement::Hash),
            ("unknown", Placement::Hash),
        ] {
            assert_eq!(Placement::of_version(Some(version)), placement, "{version}");
        }
    }

    #[test]
    fn keys_that_are_due_go_with_the_others_of_their_stream() {
        let mut shards = Shards::none_of(1);
        shards.put(0, Box::new(Shard::new(2, 7)));
        shards.shard(0).set_due_keys(DueKeys::Hidden);
        let names: Vec<_> = (0..20).map(|number| format!("key{number}")).collect();
        for (at, name) in names.iter().enumerate() {
            let deadline = (at % 2 == 0).then_some(1);
            let keys = shards.keyspace(0, 1);
            keys.set_string(name.as_bytes(), b"value", deadline);
        }
        let mut load = Load::clearing(1, 0, 2, Placement::Hash);
        while !load.step(&mut shards) {}
        for name in names {
            let is_there = shards.keyspace(0, 1).contains(name.as_bytes(), 0);
            let stream = Placement::Hash.stream_of(name.as_bytes(), 2);
            assert_eq!(is_there, stream == 0, "{name}");
        }
    }
}
