//! Data directories, out and in.

use std::{
    hash::{BuildHasher, RandomState},
    path::Path,
};

use super::{DataDir, Progress, ToolError, databases, io, publish::Unpublished, routing_number};
use crate::{
    cmd::{ShardWalk, Shards, libraries},
    journal::{
        FileName, frame,
        meta::Meta,
        snapshot::{Composer, Kind, Snapshot},
    },
    recover::{self, Place},
    route::Routing,
    store::Budget,
};

/// What goes into a chunk of a snapshot.
const CHUNK: Budget = Budget {
    records: 10_000,
    bytes: 1 << 20,
};

/// Refuses a directory that is there and not empty.
pub fn refuse_taken(path: &Path) -> Result<(), ToolError> {
    match path.read_dir() {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(ToolError::Taken(path.to_path_buf())),
            None => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Writes a data directory: a snapshot for each shard and, last of all, the file without which they are
/// no data directory.
pub fn write(
    path: &Path,
    routing: Routing,
    shards: &mut Shards,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    std::fs::create_dir_all(path).map_err(io("create", path))?;
    let shard_count = shards.count() as u32;
    let routing = routing_number(routing);
    // 0 stands for no history at all.
    let generation = RandomState::new().hash_one(0u8) | 1;
    let mut files = Vec::new();
    for shard in 0..shard_count {
        let snapshot = Snapshot {
            seq: 1,
            shard,
            shard_count,
            routing,
            generation,
            start: 0,
        };
        let name = FileName::Snapshot { shard, seq: 1 };
        let mut file = Unpublished::create(&path.join(name.to_string()))?;
        write_snapshot(&mut file, &snapshot, shards, progress)?;
        file.sync()?;
        files.push(file);
    }
    let meta = Meta {
        shard_count,
        routing,
    };
    let mut file = Unpublished::create(&path.join(FileName::Meta.to_string()))?;
    file.write(&meta.compose())?;
    files.push(file);
    // The last one is what makes it a data directory.
    files.into_iter().try_for_each(Unpublished::publish)
}

fn write_snapshot(
    file: &mut Unpublished,
    snapshot: &Snapshot,
    shards: &mut Shards,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let shard = shards.shard(snapshot.shard as usize);
    let used = shard.databases().map(|(at, _)| at + 1).max();
    let mut walk = ShardWalk::new(used.unwrap_or(1));
    let mut out = Vec::new();
    let mut composer = Composer::new(snapshot, &mut out);
    let mut end = snapshot.start;
    let sources = shard.take_libraries();
    if !sources.is_empty() {
        let chunk = composer.open(&mut out);
        let words = libraries::words(&sources);
        frame::compose(&mut out, end, words.into_iter());
        composer.close(&mut out, chunk, Kind::Frames, 0, 1);
        end += 1;
    }
    loop {
        let start = out.len();
        let chunk = composer.open(&mut out);
        let body = out.len();
        let slice = walk.next_slice(shard, CHUNK, &mut out);
        if out.len() > body {
            let (database, count) = (slice.database as u32, slice.records as u32);
            composer.close(&mut out, chunk, Kind::Records, database, count);
            progress.things(slice.records as u64);
        } else {
            out.truncate(start);
        }
        progress.bytes(out.len() as u64);
        file.write(&out)?;
        out.clear();
        if slice.is_last {
            break;
        }
    }
    composer.finish(&mut out, end);
    file.write(&out)
}

/// Reads a data directory as a node would that starts with it.
pub fn read(dir: &DataDir, progress: &mut Progress) -> Result<Shards, ToolError> {
    let refused = |error| ToolError::Recover(dir.path().to_path_buf(), error);
    let routing = dir.routing().map_err(ToolError::Data)?;
    progress.start("looking", 0, "blocks");
    let plans = recover::survey(dir, &dir.meta).map_err(refused)?;
    let bytes = plans.iter().map(|plan| plan.bytes).sum();
    progress.start("reading", bytes, "keys");
    let mut shards = Shards::none_of(plans.len() as u32).routed(routing);
    for plan in &plans {
        let place = Place {
            shard: plan.shard,
            shards: plans.len(),
            databases: databases(routing),
            routing,
            seed: plan.shard as u64,
        };
        let loaded = recover::load(dir, plan, place, |bytes| progress.bytes(bytes));
        let mut loaded = loaded.map_err(refused)?;
        let keys = loaded.databases().map(|(_, keys)| keys.len() as u64);
        progress.things(keys.sum());
        shards.put(plan.shard, loaded);
    }
    Ok(shards)
}
