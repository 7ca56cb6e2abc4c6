//! Data directories, out and in.

use std::{
    fmt::Display,
    fs::File,
    hash::{BuildHasher, RandomState},
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use super::{
    Progress, ToolError, empty,
    input::Input,
    io,
    publish::{Unpublished, refuse_locked},
};
use crate::{
    cmd::{
        ShardWalk, Shards,
        effects::{Replay, Unplayable},
    },
    journal::{
        FileName,
        frame::Frame,
        meta::Meta,
        plan::{Scanned, SegmentFile, ShardFiles, ShardPlan, SharedUnit, SnapshotFile, plan},
        scan::Scan,
        segment::HeaderFault,
        snapshot::{
            Chunk, Composer, FOOTER_LEN, Kind, Reader, SNAPSHOT_HEADER_LEN, Snapshot,
            SnapshotFault, SnapshotReason, Summary,
        },
    },
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
    let routing = routing as u32;
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
    composer.finish(&mut out, snapshot.start);
    file.write(&out)
}

/// Reads a data directory as a node would that starts with it.
pub fn read(path: &Path, progress: &mut Progress) -> Result<Shards, ToolError> {
    refuse_locked(&path.join(FileName::Lock.to_string()), path)?;
    let meta_path = path.join(FileName::Meta.to_string());
    let meta = match std::fs::read(&meta_path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = "there is no ringkeep.meta: it is no data directory of ringkeep";
            return Err(ToolError::Nothing(path.to_path_buf(), what));
        }
        Err(error) => return Err(io("read", &meta_path)(error)),
    };
    let refused =
        |path: &Path, why: &dyn Display| ToolError::Refused(path.to_path_buf(), why.to_string());
    let meta = Meta::read(&meta).map_err(|fault| refused(&meta_path, &fault))?;
    let routing = [Routing::KevyHash, Routing::Slots]
        .into_iter()
        .find(|routing| *routing as u32 == meta.routing)
        .ok_or_else(|| refused(&meta_path, &"a way of placing keys that is not known"))?;
    progress.start("looking", 0, "blocks");
    let files = find(path, &meta, progress)?;
    let plans = plan(&meta, &files)
        .map_err(|error| refused(path, &format!("{error}: {}", error.remedy())))?;
    progress.start("reading", 0, "keys and frames");
    let mut shards = empty(meta.shard_count as usize, routing);
    let mut replay = Replay::default();
    for (shard, plan) in plans.iter().enumerate() {
        load(path, shard, plan, &mut shards, &mut replay, progress)?;
    }
    Ok(shards)
}

/// What all files say of themselves.
fn find(path: &Path, meta: &Meta, progress: &mut Progress) -> Result<Vec<ShardFiles>, ToolError> {
    let mut files = vec![ShardFiles::default(); meta.shard_count as usize];
    for entry in path.read_dir().map_err(io("read", path))? {
        let entry = entry.map_err(io("read", path))?;
        let name = entry.file_name();
        match name.to_str().and_then(FileName::parse) {
            Some(FileName::Snapshot { shard, seq }) => {
                if let Some(files) = files.get_mut(shard as usize) {
                    let found = look_at_snapshot(&entry.path())?;
                    files.snapshots.push(SnapshotFile { seq, found });
                }
            }
            Some(FileName::Segment { shard, seq }) => {
                if let Some(files) = files.get_mut(shard as usize) {
                    let found = scan(&entry.path(), progress)?;
                    files.segments.push(SegmentFile { seq, found });
                }
            }
            _ => {}
        }
    }
    Ok(files)
}

/// A snapshot by its two ends.
fn look_at_snapshot(path: &Path) -> Result<Result<(Snapshot, Summary), SnapshotFault>, ToolError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let len = file.metadata().map_err(io("look at", path))?.len();
    let mut head = vec![0; SNAPSHOT_HEADER_LEN.min(len as usize)];
    file.read_exact(&mut head).map_err(io("read", path))?;
    let tail_len = (FOOTER_LEN as u64).min(len);
    let mut tail = vec![0; tail_len as usize];
    file.seek(SeekFrom::Start(len - tail_len))
        .and_then(|_| file.read_exact(&mut tail))
        .map_err(io("read", path))?;
    let snapshot = Snapshot::read(&head).map_err(|fault| SnapshotFault {
        at: 0,
        reason: SnapshotReason::Header(fault),
    });
    Ok(snapshot.and_then(|snapshot| Ok((snapshot, Summary::read(&tail, len)?))))
}

/// A segment from its first block to its end.
fn scan(path: &Path, progress: &mut Progress) -> Result<Result<Scanned, HeaderFault>, ToolError> {
    let mut input = Input::open(path)?;
    let mut scan = Scan::default();
    let mut shared = Vec::new();
    loop {
        let piece = input.next(progress)?;
        if piece.is_empty() {
            break;
        }
        scan.feed(piece);
        loop {
            match scan.next() {
                Ok(Some(block)) => {
                    progress.things(1);
                    let participants: Vec<_> = block.participants().collect();
                    if !participants.is_empty() {
                        let first = block.first;
                        shared.push(SharedUnit {
                            first,
                            participants,
                        });
                    }
                }
                Ok(None) => break,
                Err(fault) => return Ok(Err(fault)),
            }
        }
    }
    let segment = scan.segment().copied();
    let end = scan.finish();
    Ok(end.and_then(|end| {
        let segment = segment.ok_or(HeaderFault::Cut)?;
        Ok(Scanned {
            segment,
            end,
            shared,
        })
    }))
}

/// Loads what is planned for a shard.
fn load(
    path: &Path,
    shard: usize,
    plan: &ShardPlan,
    shards: &mut Shards,
    replay: &mut Replay,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let number = shard as u32;
    if let Some(seq) = plan.snapshot {
        let name = FileName::Snapshot { shard: number, seq };
        let path = path.join(name.to_string());
        load_snapshot(&path, shard, shards, replay, progress)?;
    }
    for span in &plan.replays {
        let name = FileName::Segment {
            shard: number,
            seq: span.seq,
        };
        let path = path.join(name.to_string());
        let refused = |error: &dyn Display| ToolError::Refused(path.clone(), error.to_string());
        let mut input = Input::open(&path)?;
        let mut scan = Scan::default();
        loop {
            let piece = input.next(progress)?;
            let is_all = piece.is_empty();
            scan.feed(piece);
            while let Some(mut block) = scan.next().map_err(|fault| refused(&fault))? {
                let at = block.at;
                let mut frames = block.frames();
                while let Some(frame) = frames
                    .next()
                    .map_err(|fault| refused(&format!("block at byte {at}: {fault}")))?
                {
                    if (span.from..span.to).contains(&frame.offset) {
                        apply(replay, shards, shard, &frame)
                            .map_err(|why| refused(&format!("block at byte {at}: {why}")))?;
                        progress.things(1);
                    }
                }
            }
            if is_all {
                break;
            }
        }
    }
    Ok(())
}

fn load_snapshot(
    path: &Path,
    shard: usize,
    shards: &mut Shards,
    replay: &mut Replay,
    progress: &mut Progress,
) -> Result<(), ToolError> {
    let refused = |error: &dyn Display| ToolError::Refused(path.to_path_buf(), error.to_string());
    let mut input = Input::open(path)?;
    let mut reader = Reader::default();
    loop {
        let piece = input.next(progress)?;
        let is_all = piece.is_empty();
        reader.feed(piece);
        while let Some(chunk) = reader.next().map_err(|fault| refused(&fault))? {
            match chunk {
                Chunk::Records { database, body, .. } => {
                    let database = database as usize;
                    if database >= shards.databases() {
                        return Err(refused(&format!("there is no database {database}")));
                    }
                    let keys = shards.keyspace(shard, database);
                    let count = keys.load(body).map_err(|error| refused(&error))?;
                    progress.things(count as u64);
                }
                Chunk::Frames(mut frames) => {
                    while let Some(frame) = frames.next().map_err(|fault| refused(&fault))? {
                        apply(replay, shards, shard, &frame).map_err(|why| refused(&why))?;
                        progress.things(1);
                    }
                }
            }
        }
        if is_all {
            break;
        }
    }
    reader.finish().map(drop).map_err(|fault| refused(&fault))
}

fn apply(
    replay: &mut Replay,
    shards: &mut Shards,
    shard: usize,
    frame: &Frame<'_>,
) -> Result<(), String> {
    let mut database = frame.database as usize;
    let applied = replay.apply(shards, shard, &mut database, frame.args);
    applied.map_err(|why| {
        let why = match why {
            Unplayable::Unknown => "no command that the node writes".to_string(),
            Unplayable::Misplaced => "its key is not one of this shard".to_string(),
            Unplayable::Failed(error) => error.as_str().to_string(),
        };
        format!("frame {}: {why}", frame.offset)
    })
}
