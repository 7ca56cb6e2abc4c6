//! One shard filled from its files.

use super::{Files, Plan, RecoverError, read};
use crate::{
    cmd::{Shard, Shards, effects::Replay},
    journal::{
        FileName,
        frame::{FrameFault, Frames},
        plan::PlanError,
        scan::Scan,
        snapshot::{Chunk, Reader},
    },
    route::Routing,
};

/// What a shard is to become.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number.
    pub shard: usize,
    /// Shards of the node.
    pub shards: usize,
    /// Databases of SELECT.
    pub databases: usize,
    /// How keys are placed on shards.
    pub routing: Routing,
    /// Of its tables.
    pub seed: u64,
}

/// Fills a shard: the snapshot, then what the journal has behind it. `progress` hears of bytes that were
/// read.
///
/// # Errors
/// [`RecoverError`]: damage that could only be seen now. What was loaded is not to be used.
pub fn load(
    files: &impl Files,
    plan: &Plan,
    place: Place,
    mut progress: impl FnMut(u64),
) -> Result<Box<Shard>, RecoverError> {
    let mut filling = Filling::new(place);
    let shard = plan.shard as u32;
    if let Some(seq) = plan.snapshot {
        filling.snapshot(files, FileName::Snapshot { shard, seq }, &mut progress)?;
    }
    for part in &plan.replays {
        let name = FileName::Segment {
            shard,
            seq: part.seq,
        };
        filling.segment(files, name, part.from..part.to, &mut progress)?;
    }
    Ok(filling.finish())
}

struct Filling {
    shards: Shards,
    shard: usize,
    databases: usize,
    replay: Replay,
}

impl Filling {
    fn new(place: Place) -> Self {
        let mut shards = Shards::none_of(place.shards as u32).routed(place.routing);
        let shard = Shard::new(place.databases, place.seed);
        shards.put(place.shard, Box::new(shard));
        Self {
            shards,
            shard: place.shard,
            databases: place.databases,
            replay: Replay::default(),
        }
    }

    fn finish(mut self) -> Box<Shard> {
        match self.shards.take(self.shard) {
            Some(shard) => shard,
            None => unreachable!("it was put there"),
        }
    }

    fn snapshot(
        &mut self,
        files: &impl Files,
        name: FileName,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        let mut reader = Reader::default();
        let (mut at, mut memory) = (0, Vec::new());
        let refused =
            |fault| RecoverError::Plan(Box::new(PlanError::Snapshot { file: name, fault }));
        loop {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            progress(bytes.len() as u64);
            reader.feed(bytes);
            while let Some(chunk) = reader.next().map_err(refused)? {
                match chunk {
                    Chunk::Records { database, body, .. } => {
                        self.records(name, at, database, body)?
                    }
                    Chunk::Frames(frames) => self.frames(name, at, frames, 0..u64::MAX)?,
                }
            }
        }
        reader.finish().map_err(refused)?;
        Ok(())
    }

    fn records(
        &mut self,
        name: FileName,
        at: u64,
        database: u32,
        body: &[u8],
    ) -> Result<(), RecoverError> {
        let database = database as usize;
        if database >= self.databases {
            return Err(RecoverError::Database(name, database));
        }
        let keys = self.shards.keyspace(self.shard, database);
        keys.load(body)
            .map_err(|error| RecoverError::Record(name, at, error.to_string()))?;
        Ok(())
    }

    fn segment(
        &mut self,
        files: &impl Files,
        name: FileName,
        range: std::ops::Range<u64>,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        let mut scan = Scan::default();
        let (mut at, mut memory) = (0, Vec::new());
        let refused = |fault| RecoverError::Plan(Box::new(PlanError::Header { file: name, fault }));
        loop {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let len = bytes.len() as u64;
            at += len;
            scan.feed(bytes);
            let mut is_over = true;
            while let Some(mut block) = scan.next().map_err(refused)? {
                is_over = false;
                if block.first >= range.end {
                    return Ok(());
                }
                let (place, end) = (block.at, block.end);
                if end > range.start {
                    let range = range.clone();
                    self.frames(name, place, block.frames(), range)?;
                }
                if end >= range.end {
                    // What follows was looked at before.
                    progress(len);
                    return Ok(());
                }
            }
            if !is_over {
                progress(len);
            }
        }
    }

    fn frames(
        &mut self,
        name: FileName,
        at: u64,
        mut frames: Frames<'_>,
        range: std::ops::Range<u64>,
    ) -> Result<(), RecoverError> {
        let refused = |fault: FrameFault| RecoverError::Frame(name, at, fault);
        while let Some(frame) = frames.next().map_err(refused)? {
            if !range.contains(&frame.offset) {
                continue;
            }
            let mut database = frame.database as usize;
            self.replay
                .apply(&mut self.shards, self.shard, &mut database, frame.args)
                .map_err(|error| {
                    let text = format!(
                        "{} at offset {}: {error:?}",
                        String::from_utf8_lossy(frame.args.at(0)),
                        frame.offset
                    );
                    RecoverError::Unplayable(name, at, text)
                })?;
        }
        Ok(())
    }
}
