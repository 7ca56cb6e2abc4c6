//! A data directory split into another number of shards.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use uring::sys;

use super::{DataDir, Progress, Tally, ToolError, directory, empty, io, now};
use crate::cmd::libraries;

/// Keys that are moved in one step.
const STEP: usize = 1000;

/// What to split, and into how many parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reshard {
    /// The data directory.
    pub dir: PathBuf,
    /// Its new number of shards.
    pub shards: usize,
}

/// Writes the directory anew beside the old one, then exchanges them in one step. The old one is kept.
///
/// # Errors
/// [`ToolError`]: under its name the directory is what it was, or what it was to become.
pub fn reshard(reshard: &Reshard) -> Result<bool, ToolError> {
    let dir = DataDir::existing(&reshard.dir).map_err(ToolError::Data)?;
    let path = &reshard
        .dir
        .canonicalize()
        .map_err(io("find", &reshard.dir))?;
    let refused = |why: String| ToolError::Refused(path.clone(), why);
    let count = reshard.shards;
    if dir.meta.shard_count as usize == count {
        return Err(refused(format!("it has {count} shards already")));
    }
    let beside = |end: &str| {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(end);
        path.with_file_name(name)
    };
    let (new, old) = (beside(".reshard"), beside(".old"));
    for there in [&new, &old] {
        if there.exists() {
            let why = "it is there from a reshard before: move it away or remove it";
            return Err(ToolError::Refused(there.clone(), why.into()));
        }
    }
    let routing = dir.routing().map_err(ToolError::Data)?;
    let mut progress = Progress::new();
    let mut from = directory::read(&dir, &mut progress)?;
    let mut shards = empty(count, routing);
    progress.start("moving", 0, "keys");
    for at in 0..from.count() {
        for database in 0..from.databases() {
            if from.shard(at).used_database(database).is_none() {
                continue;
            }
            let keys = from.keyspace(at, database);
            let (mut cursor, mut names) = (0, Vec::new());
            loop {
                cursor = keys.scan(cursor, STEP, 0, |key, _| names.push(key.to_vec()));
                for name in names.drain(..) {
                    if let Some((value, deadline)) = keys.take(&name, 0) {
                        shards.of(database, &name).insert(&name, value, deadline);
                        progress.things(1);
                    }
                }
                if cursor == 0 {
                    break;
                }
            }
        }
    }
    for source in from.shard(libraries::HOME).take_libraries() {
        shards.shard(libraries::HOME).add_library(source);
    }
    let mut tally = Tally::default();
    tally.settle(&mut shards, now());
    progress.start("writing", 0, "keys");
    directory::write(&new, routing, &mut shards, &mut progress)?;
    progress.finish();
    sys::exchange(path, &new).map_err(io("exchange with its successor", path))?;
    // From here on the new one is in its place; the rest is about the name of the old one.
    fs::rename(&new, &old).map_err(io("rename", &new))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(io("sync", parent))?;
    print!("{tally}");
    println!(
        "{} has {count} shards now, not {}; as it was: {}",
        path.display(),
        dir.meta.shard_count,
        old.display()
    );
    Ok(true)
}
