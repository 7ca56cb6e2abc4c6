//! A snapshot of one shard on its way to the disk, a slice per turn.
//!
//! The walk goes through the shard while commands change it; what they do to keys that it has passed goes
//! into the file too, so that the file is exactly the shard as it was when the walk ended. It counts once
//! it is synced, named, and everything up to its end is durable in the journal. One of a round of
//! [`mend`](super::mend) goes on noting until it is cut, and counts when the round is committed.

use std::path::PathBuf;

use uring::{DIRECT_UNIT, FileId, OpenHow, Reactor};

use super::{EIO, mark};
use crate::{
    cmd::{Shard, Walker},
    journal::{
        FileName, Position,
        snapshot::{Composer, Kind, Snapshot},
    },
    store::Budget,
};

/// What one slice writes down at most.
const SLICE: Budget = Budget {
    records: 128,
    bytes: 32 << 10,
};
/// Writes on their way to the disk.
const FLIGHTS_MAX: usize = 2;

/// What a request to the ring was for; see [`Step`](super::journal::Step).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapStep {
    /// A chunk was written.
    Chunk = 16,
    /// The file was synced.
    Sync,
    /// It got its name.
    Rename,
    /// The name is durable.
    Name,
    /// An older file was removed.
    Remove,
}

impl SnapStep {
    /// Of a mark.
    pub fn of(step: u8) -> Option<Self> {
        [
            Self::Chunk,
            Self::Sync,
            Self::Rename,
            Self::Name,
            Self::Remove,
        ]
        .into_iter()
        .find(|known| *known as u8 == step)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Chunk => "writing a snapshot",
            Self::Sync => "syncing a snapshot",
            Self::Rename | Self::Name => "naming a snapshot",
            Self::Remove => "removing a file",
        }
    }
}

/// How far a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Walking,
    /// All keys were passed; what happens is noted until the cut.
    Noting,
    /// The footer is on its way.
    Ending,
    Syncing,
    /// Synced; the journal is not that far yet.
    Waiting,
    Renaming,
    Naming,
}

/// Where snapshots of a shard go.
#[derive(Clone, Debug)]
pub struct SnapPlace {
    /// The shard.
    pub shard: usize,
    /// Its number among those of its core.
    pub own: usize,
    /// Shards of the node.
    pub shards: usize,
    /// How keys are placed on them, as a number.
    pub routing: u32,
    /// The data directory.
    pub dir: PathBuf,
    /// The same, open.
    pub folder: FileId,
    /// Bytes of chunks from which on they are written.
    pub write_len: usize,
}

/// See the module page.
#[derive(Debug)]
pub struct Snap {
    place: SnapPlace,
    /// Its number.
    pub seq: u64,
    /// The history that it is taken from, as files name it.
    pub generation: u64,
    file: FileId,
    at: u64,
    flights: usize,
    phase: Phase,
    composer: Option<Composer>,
    /// Chunks that are not written yet.
    chunks: Vec<u8>,
    /// Memory of chunks that were.
    spare: Vec<Vec<u8>>,
    /// Where the shard's stream was when the walk ended.
    end: Option<Position>,
    /// The round that it belongs to, if a client asked for it.
    pub is_asked: bool,
    /// The round of new beginnings that it belongs to.
    pub mends: Option<u64>,
    /// Its name is surely durable.
    pub is_sure: bool,
    /// Its name may be lost, whatever a sync of the folder says.
    is_name_lost: bool,
    /// Bytes of the file.
    pub bytes: u64,
}

/// How a snapshot ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It is there: everything below this.
    Published(Position),
    /// It counts, but could not get its name; that is to be tried again.
    Unnamed(i32),
    /// Something failed: what, and what the kernel said.
    Failed(&'static str, i32),
}

impl Snap {
    /// Begins a snapshot of a shard that is here and whose stream is at `position`.
    ///
    /// # Errors
    /// The errno of opening the file.
    pub fn begin<R: Reactor>(
        place: SnapPlace,
        seq: u64,
        shard: &mut Shard,
        position: Position,
        reactor: &mut R,
    ) -> Result<Self, i32> {
        let how = OpenHow {
            create: true,
            truncate: true,
            direct: true,
            ..OpenHow::default()
        };
        let name = place.name(seq);
        let file = reactor
            .open(&place.dir.join(name.unfinished()), how)
            .map_err(|error| error.raw_os_error().unwrap_or(0))?;
        let header = Snapshot {
            seq,
            shard: place.shard as u32,
            shard_count: place.shards as u32,
            routing: place.routing,
            generation: position.generation,
            // Libraries of functions that no frame has told stand one before.
            start: position.offset.saturating_sub(1),
        };
        let mut chunks = Vec::new();
        let composer = Composer::new(&header, &mut chunks);
        shard.begin_walk(Walker::Disk);
        // What is older than the walk may be gone when this is read.
        shard.tell_upstreams();
        Ok(Self {
            place,
            seq,
            generation: position.generation,
            file,
            at: 0,
            flights: 0,
            phase: Phase::Walking,
            composer: Some(composer),
            chunks,
            spare: Vec::new(),
            end: None,
            is_asked: false,
            mends: None,
            is_sure: true,
            is_name_lost: false,
            bytes: 0,
        })
    }

    /// Is there something to do that no event will tell of?
    pub fn has_work(&self) -> bool {
        self.phase == Phase::Walking && self.flights < FLIGHTS_MAX
    }

    /// Where the walk ended, if it has.
    pub fn end(&self) -> Option<Position> {
        self.end
    }

    /// Has it passed all keys, and waits for the cut?
    pub fn is_noting(&self) -> bool {
        self.phase == Phase::Noting
    }

    /// Is it synced, and waits for its name?
    pub fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Works for one turn on a shard that is here. `position` is where its stream is. True when the walk has
    /// just ended.
    pub fn step<R: Reactor>(
        &mut self,
        shard: &mut Shard,
        position: Position,
        reactor: &mut R,
    ) -> bool {
        match self.phase {
            Phase::Walking if self.flights < FLIGHTS_MAX => {
                return self.walk(shard, position, reactor);
            }
            Phase::Noting if self.flights < FLIGHTS_MAX => return self.note(shard, reactor),
            Phase::Ending if self.flights == 0 => {
                self.phase = Phase::Syncing;
                reactor.sync(self.file, self.mark(SnapStep::Sync));
            }
            _ => {}
        }
        false
    }

    /// Gives it its name, once it waits for that.
    pub fn name<R: Reactor>(&mut self, reactor: &mut R) {
        let name = self.place.name(self.seq);
        let from = self.place.dir.join(name.unfinished());
        let to = self.place.dir.join(name.to_string());
        self.phase = Phase::Renaming;
        reactor.rename(&from, &to, self.mark(SnapStep::Rename));
    }

    fn walk<R: Reactor>(&mut self, shard: &mut Shard, position: Position, reactor: &mut R) -> bool {
        let Some(composer) = &mut self.composer else {
            return false;
        };
        // What happened since the last slice stands behind it and before the next one.
        take_noted(shard, composer, &mut self.chunks);
        let before = self.chunks.len();
        let chunk = composer.open(&mut self.chunks);
        let body = self.chunks.len();
        let slice = shard.walk_on(Walker::Disk, SLICE, &mut self.chunks);
        if self.chunks.len() > body {
            let (database, count) = (slice.database as u32, slice.records as u32);
            composer.close(&mut self.chunks, chunk, Kind::Records, database, count);
        } else {
            self.chunks.truncate(before);
        }
        if slice.is_last && self.mends.is_some() {
            self.phase = Phase::Noting;
        } else if slice.is_last {
            self.end_at(position, shard);
        }
        self.write(reactor);
        self.end.is_some()
    }

    /// Takes down what happens behind the walk, and ends at the cut.
    fn note<R: Reactor>(&mut self, shard: &mut Shard, reactor: &mut R) -> bool {
        if let Some(composer) = &mut self.composer {
            take_noted(shard, composer, &mut self.chunks);
        }
        if let Some(cut) = shard.walk_cut() {
            self.end_at(cut, shard);
        }
        self.write(reactor);
        self.end.is_some()
    }

    fn end_at(&mut self, position: Position, shard: &mut Shard) {
        shard.end_walk(Walker::Disk);
        self.end = Some(position);
        self.phase = Phase::Ending;
        if let Some(composer) = self.composer.take() {
            self.bytes = composer.finish(&mut self.chunks, position.offset);
        }
    }

    /// Hands over the chunks, if they are enough or the last.
    fn write<R: Reactor>(&mut self, reactor: &mut R) {
        let is_last = self.end.is_some();
        if is_last || self.chunks.len() >= self.place.write_len {
            // Past the page cache as far as it goes: what waits there would be written in one go, and
            // make the journal wait.
            let whole = self.chunks.len() - self.chunks.len() % DIRECT_UNIT;
            self.write_first(whole, reactor);
        }
        if is_last {
            self.write_first(self.chunks.len(), reactor);
        }
    }

    /// Writes the first `len` bytes of what is not written yet.
    fn write_first<R: Reactor>(&mut self, len: usize, reactor: &mut R) {
        if len == 0 {
            return;
        }
        let mut rest = self.spare.pop().unwrap_or_default();
        rest.clear();
        rest.extend_from_slice(&self.chunks[len..]);
        self.chunks.truncate(len);
        let chunks = std::mem::replace(&mut self.chunks, rest);
        let (at, mark) = (self.at, self.mark(SnapStep::Chunk));
        self.at += len as u64;
        self.flights += 1;
        reactor.write(self.file, chunks.into(), at, mark);
    }

    /// Takes back the memory of chunks that were written.
    pub fn reuse(&mut self, chunks: Vec<u8>) {
        // One long value makes chunks that would only keep memory.
        let is_usual = chunks.capacity() <= 4 * self.place.write_len;
        if is_usual && self.spare.len() < FLIGHTS_MAX {
            self.spare.push(chunks);
        }
    }

    /// A sync of the folder has failed. A later one says nothing of the names that it should have covered.
    pub fn folder_failed(&mut self) {
        self.is_name_lost |= matches!(self.phase, Phase::Renaming | Phase::Naming);
    }

    /// A request is over; how the snapshot ended, if that ends it.
    pub fn on_done<R: Reactor>(
        &mut self,
        step: SnapStep,
        result: Result<(), i32>,
        reactor: &mut R,
    ) -> Option<Ended> {
        if step == SnapStep::Chunk {
            self.flights -= 1;
        }
        let result = match step {
            SnapStep::Name if self.is_name_lost => result.and(Err(EIO)),
            _ => result,
        };
        if let Err(errno) = result {
            match step {
                // It counts already, and a start finds it under the other name, too.
                SnapStep::Name if self.mends.is_some() => self.is_sure = false,
                SnapStep::Rename if self.mends.is_some() => {
                    let error = std::io::Error::from_raw_os_error(errno);
                    // After a failure it may have its name all the same.
                    if error.kind() != std::io::ErrorKind::NotFound {
                        self.phase = Phase::Waiting;
                        return Some(Ended::Unnamed(errno));
                    }
                }
                _ => return Some(Ended::Failed(step.name(), errno)),
            }
        }
        match step {
            SnapStep::Chunk => {}
            SnapStep::Sync => self.phase = Phase::Waiting,
            SnapStep::Rename => {
                self.phase = Phase::Naming;
                reactor.sync(self.place.folder, self.mark(SnapStep::Name));
            }
            SnapStep::Name => {
                reactor.close_file(self.file);
                return self.end.map(Ended::Published);
            }
            SnapStep::Remove => {}
        }
        None
    }

    /// Gives up: closes the file and has it removed.
    pub fn give_up<R: Reactor>(&self, shard: Option<&mut Shard>, reactor: &mut R) {
        if let Some(shard) = shard {
            shard.end_walk(Walker::Disk);
        }
        reactor.close_file(self.file);
        let name = self.place.name(self.seq).unfinished();
        reactor.remove(&self.place.dir.join(name), self.mark(SnapStep::Remove));
    }

    fn mark(&self, step: SnapStep) -> u64 {
        // The number tells events of a snapshot that was given up from those of the next one.
        mark(self.place.own, self.seq as u8, step as u8)
    }
}

fn take_noted(shard: &mut Shard, composer: &mut Composer, chunks: &mut Vec<u8>) {
    shard.take_noted(Walker::Disk, |database, count, frames| {
        let chunk = composer.open(chunks);
        chunks.extend_from_slice(frames);
        composer.close(chunks, chunk, Kind::Frames, database, count);
    });
}

impl SnapPlace {
    fn name(&self, seq: u64) -> FileName {
        FileName::Snapshot {
            shard: self.shard as u32,
            seq,
        }
    }
}
