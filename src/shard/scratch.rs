//! The data set of a Redis primary as it arrives: an RDB file becomes shards of its own.
//!
//! Nothing of what the node holds is touched meanwhile. When the file has ended and its checksum is right, the
//! new databases take the place of the old ones at once.

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
    pub(super) fn finish(mut self, now: Ms) -> Result<Received, (Unusable, Shards)> {
        let result = self.read(true, now);
        match result {
            Ok(()) if self.reader.rest().is_empty() => Ok(self.received),
            Ok(()) => Err((Unusable::Behind, self.received.shards)),
            Err(error) => Err((error, self.received.shards)),
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
