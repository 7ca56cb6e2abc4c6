//! A number for all that a shard holds: the same wherever the same is held, however many shards it is spread
//! over and in whatever order.

use xxhash_rust::xxh3::xxh3_128;

use crate::image::{EntryId, ImageReader, Key, Record};

/// The sum, modulo 2^128, of one hash for each key and each element: what was added last is of no
/// importance, and sums of parts can be added. It is not made against people who choose their data so that
/// two sums are equal.
///
/// Times at which consumers were last seen are left out: they are not on the stream of a primary.
#[derive(Clone, Default, Debug)]
pub struct Digest {
    /// The sum.
    pub sum: u128,
    /// Keys in it.
    pub keys: u64,
    /// Elements of the list that was read last.
    elements: u64,
    part: Vec<u8>,
}

/// What a hash is about. A part of what is hashed, so the numbers stay as they are.
#[derive(Clone, Copy)]
enum Kind {
    String = 1,
    Hash,
    List,
    Set,
    SortedSet,
    Stream,
    Field,
    Element,
    Member,
    Score,
    Entry,
    Deadline,
    Group,
    Consumer,
    Pending,
    Reads,
    Deliveries,
    Library,
}

impl Digest {
    /// Adds the records of a body (see [`image`](crate::image)), all of one database. What a record says of a
    /// key must be said once only, and more of a collection in the order of its parts.
    pub fn add(&mut self, database: usize, body: &[u8]) {
        let mut reader = ImageReader::of_body(body);
        // What was written by a walk can be read.
        while let Ok(Some(record)) = reader.next() {
            self.add_record(database, record);
        }
    }

    /// Adds the source of a library of functions.
    pub fn add_library(&mut self, source: &[u8]) {
        self.hash(0, Kind::Library, &[source]);
    }

    fn add_record(&mut self, database: usize, record: Record<'_>) {
        match record {
            Record::String { key, value } => {
                self.begin(database, Kind::String, key);
                self.hash(database, Kind::Element, &[key.bytes, value]);
            }
            Record::Hash { key, pairs } => {
                for (at, (field, value)) in pairs.enumerate() {
                    self.begin_at(at, database, Kind::Hash, key);
                    self.hash(database, Kind::Field, &[key.bytes, field, value]);
                }
            }
            Record::List { key, elements } => {
                for (at, element) in elements.enumerate() {
                    if at == 0 && !key.is_resumed {
                        self.elements = 0;
                    }
                    self.begin_at(at, database, Kind::List, key);
                    let number = self.elements.to_le_bytes();
                    self.hash(database, Kind::Element, &[key.bytes, &number, element]);
                    self.elements += 1;
                }
            }
            Record::Set { key, members } => {
                for (at, member) in members.enumerate() {
                    self.begin_at(at, database, Kind::Set, key);
                    self.hash(database, Kind::Member, &[key.bytes, member]);
                }
            }
            Record::SortedSet { key, members } => {
                for (at, (member, score)) in members.enumerate() {
                    self.begin_at(at, database, Kind::SortedSet, key);
                    let score = score.to_bits().to_le_bytes();
                    self.hash(database, Kind::Score, &[key.bytes, member, &score]);
                }
            }
            Record::Stream { key, meta, entries } => {
                if !key.is_resumed {
                    self.begin(database, Kind::Stream, key);
                    let (last, deleted) = (id(meta.last_id), id(meta.max_deleted_id));
                    let added = meta.entries_added.to_le_bytes();
                    self.hash(
                        database,
                        Kind::Stream,
                        &[key.bytes, &last, &deleted, &added],
                    );
                }
                for entry in entries {
                    let mut all = entry.fields.fold(Vec::new(), |mut all, (field, value)| {
                        append(&mut all, field);
                        append(&mut all, value);
                        all
                    });
                    append(&mut all, &id(entry.id));
                    self.hash(database, Kind::Entry, &[key.bytes, &all]);
                }
            }
            Record::Group(group) => {
                let (key, name, last) = (group.key, group.name, id(group.last_delivered));
                self.hash(database, Kind::Group, &[key, name, &last]);
                for consumer in group.consumers {
                    self.hash(database, Kind::Consumer, &[key, name, consumer.name]);
                }
                for row in group.pending {
                    let (at, delivered) = (id(row.id), row.delivered_at.to_le_bytes());
                    let count = row.delivery_count.to_le_bytes();
                    let parts = [key, name, row.consumer, &at, &delivered, &count];
                    self.hash(database, Kind::Pending, &parts);
                }
            }
            Record::FieldTtl {
                key,
                field,
                deadline,
            } => {
                let deadline = deadline.to_le_bytes();
                self.hash(database, Kind::Deadline, &[key, field, &deadline]);
            }
            Record::GroupReads(reads) => {
                if let Some(count) = reads.entries_read {
                    let parts = [reads.key, reads.group, &count.to_le_bytes()];
                    self.hash(database, Kind::Reads, &parts);
                }
                for wide in reads.wide {
                    let (at, count) = (id(wide.id), wide.delivery_count.to_le_bytes());
                    let parts = [reads.key, reads.group, &at, &count];
                    self.hash(database, Kind::Deliveries, &parts);
                }
            }
            Record::Aux(_) => {}
        }
    }

    /// A collection is there once it has an element.
    fn begin_at(&mut self, at: usize, database: usize, kind: Kind, key: Key<'_>) {
        if at == 0 && !key.is_resumed {
            self.begin(database, kind, key);
        }
    }

    fn begin(&mut self, database: usize, kind: Kind, key: Key<'_>) {
        self.keys += 1;
        // No deadline is a later one than any.
        let deadline = key.deadline.unwrap_or(u64::MAX).to_le_bytes();
        self.hash(database, kind, &[key.bytes, &deadline]);
    }

    fn hash(&mut self, database: usize, kind: Kind, parts: &[&[u8]]) {
        let mut part = std::mem::take(&mut self.part);
        part.clear();
        part.push(kind as u8);
        part.extend_from_slice(&(database as u32).to_le_bytes());
        for one in parts {
            append(&mut part, one);
        }
        self.sum = self.sum.wrapping_add(xxh3_128(&part));
        self.part = part;
    }
}

fn append(all: &mut Vec<u8>, part: &[u8]) {
    all.extend_from_slice(&(part.len() as u64).to_le_bytes());
    all.extend_from_slice(part);
}

fn id(id: EntryId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.ms.to_le_bytes());
    bytes[8..].copy_from_slice(&id.seq.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cmd::{Walker, testing::Desk},
        store::Budget,
    };

    /// Of all shards of a desk, read in slices of so many records.
    fn digest(desk: &mut Desk, records: usize) -> (u128, u64) {
        let (mut sum, mut keys) = (0u128, 0);
        for (_, shard) in desk.shards.iter_mut() {
            let mut digest = Digest::default();
            shard.begin_walk(Walker::Digest);
            loop {
                let mut body = Vec::new();
                let budget = Budget {
                    records,
                    bytes: 16 * records,
                };
                let slice = shard.walk_on(Walker::Digest, budget, &mut body);
                digest.add(slice.database, &body);
                if slice.is_last {
                    break;
                }
            }
            shard.end_walk(Walker::Digest);
            sum = sum.wrapping_add(digest.sum);
            keys += digest.keys;
        }
        (sum, keys)
    }

    const LINES: [&str; 14] = [
        "SET a 1",
        "SET b 1 PXAT 9000000000000",
        "APPEND text of-some-length-that-does-not-sit-inline",
        "RPUSH list a b c a",
        "HSET hash f 1 g 2",
        "HPEXPIREAT hash 9000000000000 FIELDS 1 f",
        "SADD set a b 7",
        "ZADD zset 1 a 2.5 b",
        "XADD stream 5-1 f v g w",
        "XADD stream 6-1 f v",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group reader COUNT 1 STREAMS stream >",
        "XDEL stream 6-1",
        "PFADD sketch a b",
    ];

    fn filled(shards: u32, skip: usize) -> Desk {
        let mut desk = Desk::with_shards(shards);
        for (at, line) in LINES.iter().enumerate() {
            if at != skip {
                desk.say(line);
            }
        }
        for number in 0..700 {
            desk.say(&format!("RPUSH long {number}"));
            desk.say(&format!("ZADD wide {number} {}", number % 97));
        }
        desk
    }

    #[test]
    fn it_does_not_depend_on_shards_and_slices() {
        let whole = digest(&mut filled(1, usize::MAX), 10_000);
        assert_eq!(whole.1, 11);
        for shards in [1, 2, 3] {
            for records in [1, 2, 50] {
                assert_eq!(digest(&mut filled(shards, usize::MAX), records), whole);
            }
        }
    }

    #[test]
    fn it_depends_on_everything_else() {
        let mut seen = std::collections::BTreeSet::new();
        for skip in 0..=LINES.len() {
            assert!(seen.insert(digest(&mut filled(2, skip), 50).0), "{skip}");
        }
        for line in [
            "LSET long 5 x",
            "LSET list 3 b",
            "PEXPIREAT a 9000000000001",
            "HPEXPIREAT hash 9000000000001 FIELDS 1 f",
        ] {
            let mut desk = filled(2, usize::MAX);
            desk.say(line);
            assert!(seen.insert(digest(&mut desk, 50).0), "{line}");
        }
        let mut desk = filled(2, usize::MAX);
        for line in ["SET a 2", "SET a 1", "RPUSH list z", "RPOP list"] {
            desk.say(line);
        }
        assert!(!seen.insert(digest(&mut desk, 50).0));
    }
}
