//! RDB files in and out.

use std::{collections::BTreeMap, path::Path};

use super::{
    Progress, Tally, ToolError,
    input::{self, Input},
    now,
    publish::Unpublished,
};
use crate::{
    cmd::{Shards, libraries},
    rdb::{FileReader, FileWriter, Item, VERSION, VERSION_FIELDS, borrow_value},
    store::{Hash, Kind},
};

/// Keys that are looked up and written in one step, and bytes that are written at a time.
const STEP: usize = 1000;
const WRITE: usize = 1 << 20;

/// Takes an RDB file.
pub fn import(
    path: &Path,
    shards: &mut Shards,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    progress.start("reading", input::size(path)?, "keys");
    let mut input = Input::open(path)?;
    let (end, rest) = load(path, &mut input, &[], shards, tally, progress)?;
    if !rest.is_empty() || !input.next(progress)?.is_empty() {
        tally.note(format!(
            "what stands behind the end of the file, from byte {end} on, was not looked at"
        ));
    }
    Ok(())
}

/// Takes an RDB file that begins with `first` and goes on with what is left of `input`. Where the file
/// ended, and what was read beyond.
pub fn load(
    path: &Path,
    input: &mut Input,
    first: &[u8],
    shards: &mut Shards,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(u64, Vec<u8>), ToolError> {
    let bad = |error| ToolError::Rdb(path.to_path_buf(), error);
    let mut reader = FileReader::default();
    reader.feed(first);
    let (mut database, mut is_all) = (0, false);
    loop {
        while let Some(item) = reader.next(is_all).map_err(bad)? {
            match item {
                Item::Key(key) => {
                    let keys = shards.of(database, &key.name);
                    keys.insert(&key.name, key.value, key.deadline);
                    if let Some(used) = key.used {
                        keys.set_used(&key.name, used, now());
                    }
                    progress.things(1);
                }
                Item::Database(at) => {
                    database = usize::try_from(at).unwrap_or(usize::MAX);
                    if database >= shards.databases() {
                        let (at, count) = (reader.offset(), shards.databases());
                        let why = format!(
                            "before byte {at}: keys of database {database}, where there are only {count}"
                        );
                        return Err(ToolError::Refused(path.to_path_buf(), why));
                    }
                }
                Item::Library(source) => {
                    shards.shard(libraries::HOME).add_library(source);
                    tally.note("a library of functions: a node loads it when it starts");
                }
                Item::Module { module, key } => {
                    let why = format!("data of the module type {module}");
                    tally.left_out(why, key.as_deref().unwrap_or_default());
                }
                Item::Aux { .. } | Item::Sizes(_) => {}
                Item::End => return Ok((reader.offset(), reader.rest().to_vec())),
            }
        }
        let piece = input.next(progress)?;
        is_all = piece.is_empty();
        reader.feed(piece);
    }
}

/// Writes an RDB file with all keys.
pub fn export(
    path: &Path,
    shards: &mut Shards,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    progress.start("writing", 0, "keys");
    let version = if has_field_deadlines(shards) {
        tally.note(
            "fields of hashes have deadlines: Redis 7.4 or newer loads the file, older ones do not",
        );
        VERSION_FIELDS
    } else {
        VERSION
    };
    let time = (now() / 1000).to_string();
    let notes = [
        ("ringkeep-ver", env!("CARGO_PKG_VERSION")),
        ("redis-bits", "64"),
        ("ctime", &time),
    ];
    let mut file = Unpublished::create(path)?;
    let mut writer = FileWriter::new(version, &notes);
    for source in shards.shard(libraries::HOME).take_libraries() {
        writer.library(&source);
    }
    // Keys and deadlines of each database.
    let mut sizes = BTreeMap::<usize, (u64, u64)>::new();
    for (_, shard) in shards.iter_mut() {
        for (database, keys) in shard.databases().filter(|(_, keys)| !keys.is_empty()) {
            let size = sizes.entry(database).or_default();
            size.0 += keys.len() as u64;
            size.1 += keys.expiring() as u64;
        }
    }
    for (database, (keys, deadlines)) in sizes {
        writer.database(database as u64, keys, deadlines);
        for shard in 0..shards.count() {
            let keys = shards.keyspace(shard, database);
            let (mut cursor, mut names) = (0, Vec::new());
            loop {
                // Nothing expires from here on: the sizes have been told.
                cursor = keys.scan(cursor, STEP, 0, |key, _| names.push(key.to_vec()));
                for name in names.drain(..) {
                    let deadline = keys.meta(&name, 0).and_then(|meta| meta.deadline);
                    if let Some(value) = borrow_value(keys, &name, 0) {
                        writer.key(&name, deadline, value);
                        progress.things(1);
                    }
                    if writer.waiting() >= WRITE {
                        let bytes = writer.take();
                        progress.bytes(bytes.len() as u64);
                        file.write(&bytes)?;
                    }
                }
                if cursor == 0 {
                    break;
                }
            }
        }
    }
    writer.end();
    file.write(&writer.take())?;
    file.publish()
}

fn has_field_deadlines(shards: &mut Shards) -> bool {
    for (_, shard) in shards.iter_mut() {
        for (_, keys) in shard.databases() {
            let (mut cursor, mut hashes) = (0, Vec::new());
            loop {
                cursor = keys.scan(cursor, STEP, 0, |key, kind| {
                    if kind == Kind::Hash {
                        hashes.push(key.to_vec());
                    }
                });
                for name in hashes.drain(..) {
                    if let Ok(Some(hash)) = keys.get::<Hash>(&name, 0)
                        && hash.deadlines().next().is_some()
                    {
                        return true;
                    }
                }
                if cursor == 0 {
                    break;
                }
            }
        }
    }
    false
}
