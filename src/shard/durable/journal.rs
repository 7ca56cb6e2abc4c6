//! The journal of one shard as its core writes it: segments, group commit, syncs.
//!
//! One write is in flight at a time; what comes meanwhile goes with the next one, so the slower the disk
//! is, the more requests share a write. A segment is made ready before the one in use is full. Every request
//! to the ring ends in an event that comes back here; nothing waits.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use uring::{DIRECT_UNIT, FileId, Nanos, OpenHow, Reactor};

use super::{
    EIO, Fsync,
    frontier::{Frontier, SharedUnit},
    mark,
};
use crate::{
    journal::{Block, FileName, Position, Stream, segment::Segment as Header},
    repl::Part,
};

/// Bytes that one write takes, unless one block is longer.
const WRITE_LEN: usize = 1 << 20;
/// Segments that are kept for replicas although a snapshot has all of them. Those that a crash left behind
/// are short, however many bytes may be kept.
const KEPT_MAX: usize = 64;

/// What a request to the ring was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A block was written.
    Block = 1,
    /// The header of a fresh segment was written.
    Header,
    /// The segment in use was synced.
    Sync,
    /// Space was reserved for the next segment.
    Reserve,
    /// The name of the next segment is durable.
    Name,
    /// The last block of a node that stops was written.
    Close,
}

impl Step {
    /// Of a mark.
    pub fn of(step: u8) -> Option<Self> {
        [
            Self::Block,
            Self::Header,
            Self::Sync,
            Self::Reserve,
            Self::Name,
            Self::Close,
        ]
        .into_iter()
        .find(|known| *known as u8 == step)
    }
}

/// Where a journal is kept.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its shard.
    pub shard: usize,
    /// The shard's number among those of its core.
    pub own: usize,
    /// Shards of the node.
    pub shards: usize,
    /// How keys are placed on them, as a number.
    pub routing: u32,
    /// The data directory.
    pub dir: PathBuf,
    /// The same, open.
    pub folder: FileId,
    /// Bytes of a segment, unless one write is longer.
    pub segment_len: u64,
    /// Number of the next segment: above those of all files of the shard.
    pub next_seq: u64,
}

/// The segment that is written to.
#[derive(Debug)]
struct Segment {
    file: FileId,
    seq: u64,
    at: u64,
    /// What is written of the unit of the disk that `at` lies in.
    begun: Vec<u8>,
}

impl Segment {
    /// Makes whole units of `bytes`, which go where the segment ends: what is there of the first unit
    /// stands before them, zeros behind. With where that goes.
    fn fill_up(&self, bytes: &[u8]) -> (Bytes, u64) {
        let len = self.begun.len() + bytes.len();
        let mut whole = BytesMut::with_capacity(len.next_multiple_of(DIRECT_UNIT));
        whole.extend_from_slice(&self.begun);
        whole.extend_from_slice(bytes);
        whole.resize(len.next_multiple_of(DIRECT_UNIT), 0);
        (whole.freeze(), self.at - self.begun.len() as u64)
    }

    /// Notes that these were written to its end.
    fn go_on(&mut self, bytes: &[u8]) {
        self.at += bytes.len() as u64;
        let rest = (self.at % DIRECT_UNIT as u64) as usize;
        match bytes.len().checked_sub(rest) {
            Some(at) => {
                self.begun.clear();
                self.begun.extend_from_slice(&bytes[at..]);
            }
            None => self.begun.extend_from_slice(bytes),
        }
    }
}

/// The segment that comes next.
#[derive(Debug)]
enum Next {
    None,
    /// It is being made.
    Making(FileId, u64),
    /// Its header can be written.
    Made(FileId, u64),
}

/// A write in flight.
#[derive(Debug)]
struct Flight {
    end: u64,
    /// Of a durable one: since when.
    durable: Option<Nanos>,
    /// What is kept for replicas once it is written.
    parts: Vec<Part>,
}

/// A segment that is no longer written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldSegment {
    /// Its number.
    pub seq: u64,
    /// The offset behind its last frame.
    pub end: u64,
    /// Its length.
    pub bytes: u64,
}

/// Why nothing is written any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// What failed.
    pub step: &'static str,
    /// What the kernel said.
    pub errno: i32,
}

/// See the module page.
#[derive(Debug)]
pub struct Journal {
    place: Place,
    active: Option<Segment>,
    next: Next,
    /// The name of the next segment may be lost, whatever a sync of the folder says.
    is_name_lost: bool,
    /// The header of the segment in use is being written.
    is_heading: bool,
    flight: Option<Flight>,
    /// What a sync in flight covers, and since when it is.
    syncing: Option<(u64, Nanos)>,
    wants_sync: bool,
    /// End of what was written, synced or not.
    written: u64,
    /// The history that a fresh segment goes on from.
    parent: Position,
    /// The history of the segment in use. Files tell those of a primary from our own.
    generation: u64,
    /// Nothing is written until a snapshot makes a new beginning.
    is_suspended: bool,
    /// The beginning of the present history, and so the end of the one before, is durable.
    is_rooted: bool,
    /// The block that says so is on its way, or written, when the node stops in order.
    closing: Option<bool>,
    /// Tells events of what was given up from others.
    era: u8,
    /// How far the disk and the other shards are.
    pub frontier: Frontier,
    /// What is written is kept for replicas.
    pub keeps: bool,
    /// Nothing is written until this is over.
    pub trouble: Option<Trouble>,
    /// Bytes written since the start.
    pub bytes: u64,
    /// Writes since the start.
    pub writes: u64,
    /// Syncs and durable writes since the start.
    pub syncs: u64,
    /// How long it took what is durable since that was last asked for.
    pub took: Option<Nanos>,
    /// Segments before the one in use.
    pub old_segments: Vec<OldSegment>,
}

impl Journal {
    /// A journal that goes on at `at`, where the recovered history ended at `parent`.
    pub fn new(place: Place, at: Position, parent: Position) -> Self {
        Self {
            frontier: Frontier::new(at.offset),
            written: at.offset,
            parent,
            generation: at.generation,
            place,
            active: None,
            next: Next::None,
            is_name_lost: false,
            is_heading: false,
            flight: None,
            syncing: None,
            wants_sync: false,
            is_suspended: false,
            is_rooted: false,
            closing: None,
            era: 0,
            keeps: false,
            trouble: None,
            bytes: 0,
            writes: 0,
            syncs: 0,
            took: None,
            old_segments: Vec::new(),
        }
    }

    /// Has everything of the stream been written and synced, with nothing in flight?
    pub fn is_settled(&self, stream: &Stream) -> bool {
        let turns = self.active.is_some() && self.generation != stream.generation_in_files();
        self.is_suspended()
            || (self.flight.is_none()
                && self.syncing.is_none()
                && !self.is_heading
                && !turns
                && self.frontier.synced_end() >= stream.next())
    }

    /// A number for a file that is above those of all others.
    pub fn take_seq(&mut self) -> u64 {
        self.place.next_seq += 1;
        self.place.next_seq - 1
    }

    /// Hands to the ring what can be handed over now.
    pub fn step<R: Reactor>(&mut self, stream: &mut Stream, fsync: Fsync, reactor: &mut R) {
        if self.is_suspended() {
            return;
        }
        let half_full = self
            .active
            .as_ref()
            .is_none_or(|active| active.at > self.place.segment_len / 2);
        let at = stream.pending_at();
        let turns = self.active.is_some() && at.generation != self.generation;
        if turns
            && let Next::Made(file, seq) = self.next
            && seq + 1 < self.place.next_seq
        {
            // A segment of another history has a higher number than the snapshots before it.
            reactor.close_file(file);
            self.next = Next::None;
        }
        if (half_full || turns) && matches!(self.next, Next::None) {
            self.make_next(reactor);
        }
        // Before the next write: under load there is always one.
        if self.wants_sync && self.frontier.synced_end() < self.written {
            self.sync(reactor);
        }
        if self.flight.is_some() || self.is_heading || self.closing == Some(false) {
            return;
        }
        let pending = stream.pending_bytes() as u64;
        if self.active.is_none() {
            // Also with nothing to write: that this history is over, and where it ended, has to stay so
            // whatever the other shards write now.
            self.begin_segment(at, reactor);
        } else if turns {
            self.roll(at, reactor);
        } else if pending > 0 {
            match &self.active {
                Some(active)
                    // One that is not half full takes whatever comes: the next one is not made yet.
                    if half_full && active.at + pending > self.place.segment_len =>
                {
                    self.roll(at, reactor);
                }
                _ => self.write(stream, fsync, reactor),
            }
        }
        let is_behind = self.frontier.synced_end() < self.written;
        if fsync == Fsync::Always && is_behind && self.flight.is_none() {
            self.sync(reactor);
        }
    }

    /// Does nothing happen until a snapshot makes a new beginning?
    pub fn is_suspended(&self) -> bool {
        self.is_suspended || self.trouble.is_some()
    }

    /// Would a recovery know where the history before the present one ended, whatever this shard has beside
    /// the journal?
    pub fn is_rooted(&self) -> bool {
        self.is_rooted
    }

    /// The journal is of data that is gone, or gets a new beginning with others.
    pub fn suspend(&mut self) {
        self.is_suspended = true;
    }

    /// Bytes of all segments that are there.
    pub fn size(&self) -> u64 {
        let old: u64 = self.old_segments.iter().map(|old| old.bytes).sum();
        old + self.active.as_ref().map_or(0, |active| active.at)
    }

    /// Forgets the segments in which everything lies below `end`, but for the newest of them with about
    /// `keep` bytes and [`KEPT_MAX`] at most; their numbers.
    pub fn take_older(&mut self, end: u64, keep: u64) -> impl Iterator<Item = u64> + use<> {
        let all = std::mem::take(&mut self.old_segments);
        let (mut older, mut kept, mut kept_bytes) = (Vec::new(), 0, 0);
        for old in all.into_iter().rev() {
            if old.end > end {
                self.old_segments.insert(0, old);
            } else if kept_bytes < keep && kept < KEPT_MAX {
                kept += 1;
                kept_bytes += old.bytes;
                self.old_segments.insert(0, old);
            } else {
                older.push(old.seq);
            }
        }
        older.into_iter()
    }

    /// Says on the disk that nothing follows. Everything else was written.
    pub fn close<R: Reactor>(&mut self, stream: &mut Stream, reactor: &mut R) {
        let Some(active) = self.active.as_ref().filter(|_| !self.is_suspended()) else {
            // A node that wrote nothing has nothing to say.
            self.closing = Some(true);
            return;
        };
        let mut block = stream.clean_end();
        block.seal(active.seq, self.frontier.synced_end());
        self.closing = Some(false);
        let (file, at) = (active.file, active.at);
        reactor.write_durable(file, block.into_bytes(), at, self.mark(Step::Close));
    }

    /// Gives back the space behind the end that was reserved: whoever loads the segment would read it all.
    /// What is written after all makes it longer again.
    ///
    /// # Errors
    /// What the operating system said; nothing depends on it.
    pub fn trim(&self) -> std::io::Result<()> {
        let active = self.active.as_ref().map(|active| (active.seq, active.at));
        let next = match self.next {
            Next::Made(_, seq) => Some((seq, 0)),
            Next::Making(..) | Next::None => None,
        };
        for (seq, end) in active.into_iter().chain(next) {
            let name = FileName::Segment {
                shard: self.place.shard as u32,
                seq,
            };
            let path = self.place.dir.join(name.to_string());
            let file = std::fs::File::options().write(true).open(path)?;
            let len = end.next_multiple_of(DIRECT_UNIT as u64);
            if file.metadata()?.len() > len {
                file.set_len(len)?;
            }
        }
        Ok(())
    }

    /// Was [`close`](Journal::close) called since the last write?
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Has [`close`](Journal::close) done all?
    pub fn is_closed(&self) -> bool {
        self.closing == Some(true)
    }

    /// Everything that is written is to be synced.
    pub fn want_sync(&mut self) {
        self.wants_sync = self.frontier.synced_end() < self.written;
    }

    fn make_next<R: Reactor>(&mut self, reactor: &mut R) {
        let seq = self.place.next_seq;
        let name = FileName::Segment {
            shard: self.place.shard as u32,
            seq,
        };
        let path = self.place.dir.join(name.to_string());
        let how = OpenHow {
            create: true,
            exclusive: true,
            direct: true,
            ..OpenHow::default()
        };
        match reactor.open(&path, how) {
            Ok(file) => {
                self.take_seq();
                self.is_name_lost = false;
                reactor.reserve(file, self.place.segment_len, self.mark(Step::Reserve));
                self.next = Next::Making(file, seq);
            }
            Err(error) => self.fail("making a segment", error.raw_os_error().unwrap_or(0)),
        }
    }

    /// Leaves the segment, which is full or of another history, once all of it is synced.
    fn roll<R: Reactor>(&mut self, at: Position, reactor: &mut R) {
        if self.frontier.synced_end() < self.written {
            return self.sync(reactor);
        }
        if self.syncing.is_some() || !matches!(self.next, Next::Made(..)) {
            return;
        }
        if let Some(full) = self.active.take() {
            self.old_segments.push(OldSegment {
                seq: full.seq,
                end: self.written,
                bytes: full.at,
            });
            reactor.close_file(full.file);
        }
        self.parent = Position {
            generation: self.generation,
            offset: self.written,
        };
        self.begin_segment(at, reactor);
    }

    /// Begins a segment at the place of the stream where the next block begins.
    fn begin_segment<R: Reactor>(&mut self, at: Position, reactor: &mut R) {
        let Next::Made(file, seq) = self.next else {
            return;
        };
        self.next = Next::None;
        self.generation = at.generation;
        if at.offset > self.written {
            // The history went on from another offset.
            self.written = at.offset;
            self.frontier.synced(at.offset);
        }
        let header = Header {
            seq,
            shard: self.place.shard as u32,
            shard_count: self.place.shards as u32,
            routing: self.place.routing,
            start: Position {
                generation: at.generation,
                offset: self.written,
            },
            parent: self.parent,
        };
        let mut header = header.compose().to_vec();
        let mut segment = Segment {
            file,
            seq,
            at: 0,
            begun: Vec::new(),
        };
        segment.go_on(&header);
        header.resize(DIRECT_UNIT, 0);
        self.active = Some(segment);
        self.is_heading = true;
        reactor.write_durable(file, header.into(), 0, self.mark(Step::Header));
    }

    fn write<R: Reactor>(&mut self, stream: &mut Stream, fsync: Fsync, reactor: &mut R) {
        let Some(active) = &self.active else { return };
        let (seq, synced) = (active.seq, self.frontier.synced_end());
        let Some(first) = stream.take_block() else {
            return;
        };
        let (mut end, mut parts) = (first.end(), Vec::new());
        let mut bytes = self.sealed(first, seq, synced, &mut parts);
        // Units over several shards have blocks of their own; they still share a write.
        while bytes.len() < WRITE_LEN
            && stream.pending_bytes() > 0
            && stream.pending_at().generation == self.generation
            && let Some(block) = stream.take_block()
        {
            end = block.end();
            let more = self.sealed(block, seq, synced, &mut parts);
            let joined = bytes.try_into_mut();
            let mut joined = joined.unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            joined.extend_from_slice(&more);
            bytes = joined.freeze();
            stream.reuse(more);
        }
        self.closing = None;
        let mark = self.mark(Step::Block);
        let Some(active) = &mut self.active else {
            return;
        };
        let durable = fsync == Fsync::Always && synced == self.written;
        self.flight = Some(Flight {
            end,
            durable: durable.then(|| reactor.now()),
            parts,
        });
        self.bytes += bytes.len() as u64;
        self.writes += 1;
        let file = active.file;
        if durable {
            // Past the page cache, which costs a write that waits for the disk most of its time.
            let (whole, at) = active.fill_up(&bytes);
            active.go_on(&bytes);
            stream.reuse(bytes);
            self.syncs += 1;
            reactor.write_durable(file, whole, at, mark);
        } else {
            let at = active.at;
            active.go_on(&bytes);
            reactor.write(file, bytes, at, mark);
        }
    }

    fn sealed(&mut self, mut block: Block, seq: u64, synced: u64, parts: &mut Vec<Part>) -> Bytes {
        block.seal(seq, synced);
        if block.is_shared() {
            let others = block.participants().iter();
            self.frontier.expect(SharedUnit {
                first: block.first(),
                end: block.end(),
                others: others
                    .map(|(shard, first)| (*shard as usize, *first))
                    .filter(|(shard, _)| *shard != self.place.shard)
                    .collect(),
            });
        }
        if !self.keeps {
            return block.into_bytes();
        }
        let (part, bytes) = Part::of(block);
        parts.push(part);
        bytes
    }

    fn sync<R: Reactor>(&mut self, reactor: &mut R) {
        if let (None, Some(active)) = (self.syncing, &self.active) {
            self.syncing = Some((self.written, reactor.now()));
            self.wants_sync = false;
            self.syncs += 1;
            reactor.sync(active.file, self.mark(Step::Sync));
        }
    }

    /// Was this asked for before what happened last to be given up?
    pub fn is_stale(&self, era: u8) -> bool {
        self.era != era
    }

    /// A write of a block is over. What is kept of it for replicas.
    pub fn on_written<R: Reactor>(
        &mut self,
        step: Step,
        block: &[u8],
        result: Result<(), i32>,
        reactor: &R,
    ) -> Vec<Part> {
        if step == Step::Close {
            self.closing = Some(true);
            match (result, &mut self.active) {
                // Other cores may still have something for us, and that stands behind it.
                (Ok(()), Some(active)) => active.go_on(block),
                (Ok(()), None) => {}
                (Err(errno), _) => self.fail("writing", errno),
            }
            return Vec::new();
        }
        if step == Step::Header {
            self.is_heading = false;
            match result {
                Ok(()) => self.is_rooted = true,
                Err(errno) => self.fail("writing a segment header", errno),
            }
            return Vec::new();
        }
        let Some(flight) = self.flight.take() else {
            return Vec::new();
        };
        match result {
            Ok(()) => {
                self.written = flight.end;
                if let Some(since) = flight.durable {
                    self.took = Some(reactor.now().saturating_sub(since));
                    self.frontier.synced(flight.end);
                }
            }
            Err(errno) => {
                self.fail("writing", errno);
                return Vec::new();
            }
        }
        flight.parts
    }

    /// A sync of the segment or of the folder, or a reservation, is over.
    pub fn on_done<R: Reactor>(&mut self, step: Step, result: Result<(), i32>, reactor: &mut R) {
        match (step, result) {
            (Step::Sync, Ok(())) => {
                if let Some((end, since)) = self.syncing.take() {
                    self.took = Some(reactor.now().saturating_sub(since));
                    self.frontier.synced(end);
                }
            }
            (Step::Sync, Err(errno)) => {
                self.syncing = None;
                self.fail("syncing", errno);
            }
            (Step::Reserve, Ok(())) => reactor.sync(self.place.folder, self.mark(Step::Name)),
            (Step::Name, Ok(())) if self.is_name_lost => self.fail("making a segment", EIO),
            (Step::Name, Ok(())) => {
                if let Next::Making(file, seq) = self.next {
                    self.next = Next::Made(file, seq);
                }
            }
            (_, Err(errno)) => self.fail("making a segment", errno),
            (Step::Block | Step::Header | Step::Close, Ok(())) => {}
        }
    }

    /// A sync of the folder has failed. A later one says nothing of the names that it should have covered.
    pub fn folder_failed(&mut self) {
        self.is_name_lost = true;
    }

    fn fail(&mut self, step: &'static str, errno: i32) {
        self.trouble.get_or_insert(Trouble { step, errno });
    }

    /// A snapshot has made everything below `at` durable: the journal goes on from there in a fresh segment.
    /// Older ones are of no more use.
    pub fn heal<R: Reactor>(&mut self, at: Position, reactor: &mut R) {
        let unused = match std::mem::replace(&mut self.next, Next::None) {
            Next::Making(file, _) | Next::Made(file, _) => Some(file),
            Next::None => None,
        };
        let used = self.active.take();
        if let Some(used) = &used {
            self.old_segments.push(OldSegment {
                seq: used.seq,
                end: self.frontier.synced_end(),
                bytes: used.at,
            });
        }
        for old in &mut self.old_segments {
            old.end = old.end.min(at.offset);
        }
        for file in unused.into_iter().chain(used.map(|used| used.file)) {
            reactor.close_file(file);
        }
        (self.trouble, self.flight, self.syncing) = (None, None, None);
        (self.is_heading, self.wants_sync, self.is_suspended) = (false, false, false);
        self.is_rooted = true;
        self.era = self.era.wrapping_add(1);
        self.written = at.offset;
        (self.parent, self.generation) = (at, at.generation);
        self.frontier = Frontier::new(at.offset);
    }

    fn mark(&self, step: Step) -> u64 {
        mark(self.place.own, self.era, step as u8)
    }
}
