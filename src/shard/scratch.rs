//! The data set of a Redis primary as it arrives: an RDB file becomes shards of its own.
//!
//! Nothing of what the node holds is touched meanwhile. When the file has ended and its checksum is right,
//! the new databases take the place of the old ones at once.

use crate::{
    base::{Ms, parse_u64},
    cmd::Shards,
    rdb::{FileError, FileReader, Item},
};

/// A data set on its way.
pub(super) struct Scratch {
    reader: FileReader,
    databases: usize,
    db: usize,
    has_ended: bool,
    received: Received,
}

/// One that has arrived.
pub(super) struct Received {
    /// Its keys.
    pub shards: Shards,
    /// How many they are.
    pub keys: u64,
    /// Values of modules, which only those modules understand.
    pub left_out: u64,
    /// Sources of its libraries of functions.
    pub libraries: Vec<Vec<u8>>,
    /// The database that the stream goes on with.
    pub stream_db: Option<u64>,
}

/// Why a data set is not taken.
#[derive(Debug)]
pub(super) enum Unusable {
    File(FileError),
    /// Keys are in this database, where there are only so many.
    Database(u64, usize),
    /// Something stands behind the end of the file.
    Behind,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unusable::File(error) => error.fmt(out),
            Unusable::Database(db, count) => {
                write!(out, "keys of database {db}, where there are only {count}")
            }
            Unusable::Behind => out.write_str("bytes behind the end of the file"),
        }
    }
}

impl Scratch {
    /// For a data set that goes into these empty shards.
    pub(super) fn new(shards: Shards, databases: usize) -> Self {
        Self {
            reader: FileReader::default(),
            databases,
            db: 0,
            has_ended: false,
            received: Received {
                shards,
                keys: 0,
                left_out: 0,
                libraries: Vec::new(),
                stream_db: None,
            },
        }
    }

    /// Takes in the next piece of the file.
    pub(super) fn feed(&mut self, piece: &[u8], now: Ms) -> Result<(), Unusable> {
        self.reader.feed(piece);
        self.read(false, now)
    }

    /// The file has ended.
    pub(super) fn finish(mut self, now: Ms) -> Result<Received, Box<(Unusable, Shards)>> {
        let result = self.read(true, now);
        match result {
            Ok(()) if self.reader.rest().is_empty() => Ok(self.received),
            Ok(()) => Err(Box::new((Unusable::Behind, self.received.shards))),
            Err(error) => Err(Box::new((error, self.received.shards))),
        }
    }

    /// What has arrived so far, to be freed.
    pub(super) fn into_shards(self) -> Shards {
        self.received.shards
    }

    fn read(&mut self, is_all: bool, now: Ms) -> Result<(), Unusable> {
        let received = &mut self.received;
        while !self.has_ended
            && let Some(item) = self.reader.next(is_all).map_err(Unusable::File)?
        {
            match item {
                Item::Key(key) => {
                    let keys = received.shards.of(self.db, &key.name);
                    keys.insert(&key.name, key.value, key.deadline);
                    if let Some(used) = key.used {
                        keys.set_used(&key.name, used, now);
                    }
                    received.keys += 1;
                }
                Item::Database(db) => {
                    self.db = usize::try_from(db)
                        .ok()
                        .filter(|db| *db < self.databases)
                        .ok_or(Unusable::Database(db, self.databases))?;
                }
                Item::Library(source) => received.libraries.push(source),
                Item::Aux { name, text } if name == b"repl-stream-db" => {
                    received.stream_db = parse_u64(&text);
                }
                Item::Module { .. } => received.left_out += 1,
                Item::Aux { .. } | Item::Sizes(_) => {}
                Item::End => self.has_ended = true,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cmd::testing::Desk, rdb::FileWriter};

    fn fresh() -> Scratch {
        Scratch::new(Shards::none_of(3).fresh(4, 7), 4)
    }

    /// A file with a key in databases 0 and 3, and what a primary notes.
    fn file() -> Vec<u8> {
        let mut desk = Desk::with_shards(1);
        desk.say("RPUSH l a b c");
        desk.say("SET s v");
        let mut writer = FileWriter::new(10, &[("repl-stream-db", "3")]);
        for (db, key) in [(0, b"l"), (3, b"s")] {
            writer.database(db, 1, 0);
            let keys = desk.shards.keyspace(0, 0);
            let value = crate::rdb::borrow_value(keys, key, 0).expect("a value");
            writer.key(key, (db == 3).then_some(5000), value);
        }
        writer.end();
        writer.take()
    }

    #[test]
    fn a_file_becomes_shards() {
        let bytes = file();
        for piece in [1, 7, 1000] {
            let mut scratch = fresh();
            for piece in bytes.chunks(piece) {
                scratch.feed(piece, 1000).expect("it is good");
            }
            let Ok(mut received) = scratch.finish(1000) else {
                panic!("it is whole")
            };
            assert_eq!((received.keys, received.stream_db), (2, Some(3)));
            let shards = &mut received.shards;
            let text = shards.of(3, b"s").string(b"s", 1000).expect("a string");
            assert_eq!(
                text.map(|text| text.as_bytes().to_vec()),
                Some(b"v".to_vec())
            );
            // Due keys come too: their primary says when they go.
            let meta = shards.of(3, b"s").meta(b"s", 1000).expect("it is there");
            assert_eq!(meta.deadline, Some(5000));
            assert!(shards.of(0, b"l").contains(b"l", 1000));
        }
    }

    #[test]
    fn what_is_cut_or_spoiled_is_refused() {
        let bytes = file();
        for len in 0..bytes.len() {
            let mut scratch = fresh();
            let is_good = scratch.feed(&bytes[..len], 1).is_ok() && scratch.finish(1).is_ok();
            assert!(!is_good, "{len} bytes");
        }
        for (at, bit) in (0..bytes.len()).zip([1, 4, 16, 64].into_iter().cycle()) {
            let mut wrong = bytes.clone();
            wrong[at] ^= bit;
            // A version without a checksum has another end.
            if (5..9).contains(&at) {
                continue;
            }
            let mut scratch = fresh();
            let is_good = scratch.feed(&wrong, 1).is_ok() && scratch.finish(1).is_ok();
            assert!(!is_good, "byte {at}");
        }
        let mut scratch = fresh();
        scratch.feed(&[&bytes[..], b"x"].concat(), 1).expect("read");
        let refused = scratch.finish(1).err().map(|refused| refused.0);
        assert!(matches!(refused, Some(Unusable::Behind)));
        let mut scratch = fresh();
        let refused = scratch.feed(b"REDIS0003\xfe\x04\x00\x01k\x01v\xff", 1);
        assert!(matches!(refused, Err(Unusable::Database(4, 4))));
    }
}
