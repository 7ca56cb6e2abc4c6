//! What a shard did, in memory: frames, units of them, and the blocks that they leave in.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use zerocopy::IntoBytes;

use super::{
    Position,
    frame::{self, Frames, Head, Order, SKIP},
    segment::{
        BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, CLEAN_END, PARTICIPANT_LEN, Participant,
    },
};

use crate::resp::Parser;

/// The effects of one shard in order, from the moment they happen until a block of them is taken.
///
/// A frame is composed once, in the form in which it is written to disk and sent to replicas, behind the
/// room for the header of its block; so taking a block copies nothing. Blocks that follow each other share
/// a chunk of memory, which the disk and any number of replicas read from. Frames between two calls of
/// [`end_unit`](Stream::end_unit) or [`end_shared_unit`](Stream::end_shared_unit) are a unit: they are
/// applied whole or not at all, and stay together in a block.
#[derive(Debug)]
pub struct Stream {
    shard: u32,
    generation: u64,
    /// Beginning of the next frame.
    head: Head,
    /// Database of the frame before it; the next one says it anew while it is unknown. In an adopted history
    /// no frame of ours finds itself in it: see [`select`](Stream::select).
    db: u32,
    /// The history is a primary's: what changes it.
    adopted: Option<Adopted>,
    /// The histories that this one goes on from.
    ancestry: Ancestry,
    /// What is our own, where a primary's history was left for this one.
    own: Option<Own>,
    /// Among the frames of the block in `bytes` are some that not every peer takes as they are.
    is_special: bool,
    /// Among the units of the block in `bytes` are some of several frames.
    is_joined: bool,
    /// Peers follow that know few commands.
    is_plain: bool,
    /// Room for a header, whole units, then the open unit.
    bytes: BytesMut,
    /// Of the block in `bytes`: its first frame and the database before it.
    start: Mark,
    /// Behind the last whole unit in `bytes`.
    complete: usize,
    complete_at: Mark,
    closed: VecDeque<Block>,
    closed_bytes: usize,
    /// Other shards, and how far their streams are with the last units that they share with this one.
    met: Vec<(u32, u64)>,
    /// Chunks that nobody reads any more.
    spare: Vec<BytesMut>,
}

/// Of a history that is a primary's.
#[derive(Clone, Copy, Debug)]
struct Adopted {
    /// The database of the frame before, as far as it is known.
    db: u32,
    /// The history that begins with the first frame of our own.
    own: u64,
}

/// A place between two frames.
#[derive(Clone, Copy, Debug)]
struct Mark {
    offset: u64,
    db: u32,
}

impl Mark {
    /// The database that is said of the place.
    fn database(self) -> u32 {
        if self.db == UNKNOWN { 0 } else { self.db }
    }
}

/// What a node did since it follows nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Own {
    /// Where the history began that it is in.
    pub from: u64,
    /// Frames of histories before that one, which no file has.
    pub before: u64,
}

/// No database has this number.
const UNKNOWN: u32 = u32::MAX;
/// Nor this one: frames come from a primary only.
const ADOPTED: u32 = u32::MAX - 1;

/// Histories that have the same frames as another one, each up to an offset; the newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ancestry(Vec<Position>);

impl Ancestry {
    /// Of these generations, each with the offset up to which it is the same.
    pub fn of(mut histories: Vec<Position>) -> Self {
        histories.truncate(ANCESTORS_MAX);
        Self(histories)
    }

    /// The histories and their ends.
    pub fn histories(&self) -> &[Position] {
        &self.0
    }

    /// Does whoever is there have nothing that this history lacks?
    pub fn has(&self, at: Position) -> bool {
        let mut ends = self.0.iter();
        ends.any(|end| end.generation == at.generation && at.offset <= end.offset)
    }

    /// The history turned into another one at its end.
    fn push(&mut self, end: Position) {
        // What goes on from a place before that place is no part of this history.
        self.0.retain(|old| old.generation != end.generation);
        self.0.insert(0, end);
        self.0.truncate(ANCESTORS_MAX);
    }
}

/// How many histories back replicas are known.
pub const ANCESTORS_MAX: usize = 8;

/// Set in the generations that files name while what is written belongs to a primary's history.
const COPIED: u64 = 1 << 63;

/// A generation as files name it: whether it is a primary's can be told.
pub fn in_files(generation: u64, is_adopted: bool) -> u64 {
    match is_adopted {
        true => generation | COPIED,
        false => generation,
    }
}

/// The generation that a file names, and whether it is a primary's.
pub fn from_files(generation: u64) -> (u64, bool) {
    (generation & !COPIED, generation & COPIED != 0)
}

impl Stream {
    /// A stream whose first frame gets the offset of `at` and finds itself in the first database.
    pub fn new(shard: u32, at: Position) -> Stream {
        Stream::begin(shard, at, 0)
    }

    /// A stream that goes on where another one ended, in whatever database that was. A replica that had
    /// the other's last frame is told.
    pub fn resume(shard: u32, at: Position) -> Stream {
        Stream::begin(shard, at, UNKNOWN)
    }

    fn begin(shard: u32, at: Position, db: u32) -> Stream {
        let start = Mark {
            offset: at.offset,
            db,
        };
        let mut bytes = BytesMut::with_capacity(CHUNK_LEN);
        bytes.resize(BLOCK_HEADER_LEN, 0);
        Stream {
            shard,
            generation: at.generation,
            head: Head::new(at.offset),
            db,
            adopted: None,
            ancestry: Ancestry::default(),
            own: None,
            is_special: false,
            is_joined: false,
            is_plain: false,
            bytes,
            start,
            complete: BLOCK_HEADER_LEN,
            complete_at: start,
            closed: VecDeque::new(),
            closed_bytes: 0,
            met: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// The offset that the next frame gets.
    pub fn next(&self) -> u64 {
        self.head.offset()
    }

    /// Where the next frame goes.
    pub fn position(&self) -> Position {
        Position {
            generation: self.generation,
            offset: self.next(),
        }
    }

    /// The database that the next frame finds itself in; any, if that one names its own.
    pub fn database(&self) -> u32 {
        self.here().database()
    }

    /// The history goes on from these, and no others.
    pub fn descend_from(&mut self, ancestry: Ancestry) {
        self.ancestry = ancestry;
    }

    /// Is the history a primary's?
    pub fn is_adopted(&self) -> bool {
        self.adopted.is_some()
    }

    /// What [`adopt`](Stream::adopt) was told, if the history is a primary's: the history of our own, and
    /// the database of the next frame.
    pub fn adoption(&self) -> Option<(u64, u32)> {
        let adopted = self.adopted?;
        Some((adopted.own, self.database()))
    }

    /// The histories that this one goes on from.
    pub fn ancestry(&self) -> &Ancestry {
        &self.ancestry
    }

    /// The history as files name it.
    pub fn generation_in_files(&self) -> u64 {
        in_files(self.generation, self.is_adopted())
    }

    /// Where the next block begins, and its history as files name it.
    pub fn pending_at(&self) -> Position {
        let (generation, offset) = match self.closed.front() {
            Some(block) => (block.generation, block.first),
            None => (self.generation_in_files(), self.start.offset),
        };
        Position { generation, offset }
    }

    /// From here on the frames are a primary's, [copied](Stream::copy) one by one: the history is the one of
    /// this name. `own` is the one that begins with the first other frame. The next frame finds itself in
    /// database `db`, if that is known: it is before the first one is copied.
    pub fn adopt(&mut self, generation: u64, own: u64, db: Option<u32>) {
        self.turn(Position {
            generation,
            offset: self.next(),
        });
        let db = db.unwrap_or(UNKNOWN);
        self.adopted = Some(Adopted { db, own });
        self.db = ADOPTED;
        (self.start, self.complete_at) = (self.here(), self.here());
    }

    /// Goes on in another history, at the same offset or a higher one. What was said before stays in the old
    /// one.
    pub fn turn(&mut self, at: Position) {
        self.end_unit();
        self.close();
        if at.offset > self.next() {
            self.ancestry = Ancestry::default();
        } else if at.generation != self.generation {
            let end = self.position();
            self.ancestry.push(end);
        }
        self.generation = at.generation;
        self.head = Head::new(at.offset.max(self.next()));
        (self.adopted, self.own, self.db) = (None, None, UNKNOWN);
        (self.start, self.complete_at) = (self.here(), self.here());
    }

    /// Frames of our own may follow, in a history of our own.
    pub fn leave(&mut self) {
        if let Some(adopted) = self.adopted {
            self.turn(Position {
                generation: adopted.own,
                offset: self.next(),
            });
            self.own = Some(Own {
                from: self.next(),
                before: 0,
            });
        }
    }

    /// What is our own, if the history went on from a primary's while the node was running.
    pub fn own(&self) -> Option<Own> {
        self.own
    }

    /// Begins another history of ours there: some of what this one has is in no file.
    pub fn renew(&mut self, at: Position) {
        let own = self.own.map(|own| Own {
            from: at.offset,
            before: own.before + (self.next() - own.from),
        });
        *self = Stream::new(self.shard, at);
        self.own = own;
    }

    /// Is the next frame that is to be copied, at this offset and in this database, one that can be? If not,
    /// the history is the primary's no more.
    pub fn awaits(&mut self, offset: u64, db: u32) -> bool {
        // Where the database changed, the primary said so itself in a frame before.
        let is_here = self.adopted.is_some_and(|adopted| {
            let before = offset.checked_sub(u64::from(adopted.db != db));
            before.is_some_and(|before| self.next() <= before)
        });
        if !is_here {
            self.leave();
        }
        is_here
    }

    /// Goes to the offset of a frame of the primary, which finds itself in database `db`. Those before it
    /// that are for nobody here are made up for, the last of them by a SELECT: a primary that has been
    /// started anew says the database again, and until then what it is said to be is a guess, here and there.
    /// False if that is not possible.
    pub fn skip_to(&mut self, offset: u64, db: u32) -> bool {
        let next = self.next();
        let Some(adopted) = self.adopted.as_mut().filter(|_| next <= offset) else {
            return false;
        };
        if next == offset {
            return true;
        }
        adopted.db = db;
        while self.next() < offset - 1 {
            frame::put(
                &mut self.bytes,
                &self.head,
                std::iter::once(SKIP.as_bytes()),
            );
            self.head.count_up();
        }
        self.put_select(db);
        true
    }

    /// Appends a frame of the primary to the open unit, at its offset there. False, and nothing is appended,
    /// if the stream does not [await](Stream::awaits) it.
    pub fn copy<'a>(
        &mut self,
        offset: u64,
        db: u32,
        args: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> bool {
        if !self.awaits(offset, db) {
            return false;
        }
        self.skip_to(offset, db);
        // Peers that know few commands get none of this.
        self.is_special = true;
        frame::put(&mut self.bytes, &self.head, args);
        self.head.count_up();
        true
    }

    /// Is it known what [`database`](Stream::database) tells? Of a primary's history only the primary can say
    /// it, after a start; in one of our own the next frame does.
    pub fn knows_database(&self) -> bool {
        self.adopted.is_none_or(|adopted| adopted.db != UNKNOWN)
    }

    /// The history that the frames belong to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Appends one frame to the open unit, or begins one with it. A frame of another database than the
    /// one before gets a SELECT frame before it. Allocates only where the memory for all of them grows.
    #[inline]
    pub fn frame<'a>(&mut self, db: usize, args: impl ExactSizeIterator<Item = &'a [u8]> + Clone) {
        if db as u32 != self.db {
            self.select(db as u32);
        }
        frame::put(&mut self.bytes, &self.head, args);
        self.head.count_up();
    }

    /// Appends a frame in whatever database the stream is.
    pub fn note<'a>(&mut self, args: impl ExactSizeIterator<Item = &'a [u8]> + Clone) {
        if self.is_adopted() {
            self.leave();
        }
        frame::put(&mut self.bytes, &self.head, args);
        self.head.count_up();
    }

    /// Appends a frame of a command that not every peer knows.
    pub fn special_frame<'a>(
        &mut self,
        db: usize,
        args: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) {
        self.frame(db, args);
        self.is_special = true;
    }

    /// Are frames to be of commands that every peer knows, whatever that costs?
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Who follows knows few commands, or no such one does.
    pub fn set_plain(&mut self, is_plain: bool) {
        self.is_plain = is_plain;
    }

    /// A unit has begun and has not ended.
    pub fn unit_is_open(&self) -> bool {
        self.next() != self.complete_at.offset
    }

    /// The offset of the first frame of the open unit.
    pub fn unit_first(&self) -> Option<u64> {
        self.unit_is_open().then_some(self.complete_at.offset)
    }

    /// The frames of the open unit so far.
    pub fn open_frames<'a>(&'a self, parser: &'a mut Parser) -> Frames<'a> {
        let first = self.complete_at.offset;
        let span = (first, self.next() - first);
        let bytes = &self.bytes[self.complete..];
        Frames::new(
            bytes,
            span,
            Order::Dense,
            self.complete_at.database(),
            parser,
        )
    }

    /// The open unit, if there is one, is complete.
    #[inline]
    pub fn end_unit(&mut self) {
        self.is_joined |= self.next() > self.complete_at.offset + 1;
        self.complete = self.bytes.len();
        self.complete_at = self.here();
        if self.complete >= BLOCK_LEN || self.bytes.capacity() - self.complete < ROOM_MIN {
            self.close();
        }
    }

    /// The open unit is complete and is one part of a unit over several shards: these, by shard and first
    /// offset there, in ascending order and this shard among them. It gets a block of its own.
    ///
    /// # Panics
    /// If the open unit is not the part of this shard.
    pub fn end_shared_unit(&mut self, participants: &[(u32, u64)]) {
        let own = self.unit_first().map(|first| (self.shard, first));
        assert!(
            participants
                .iter()
                .any(|participant| Some(*participant) == own),
            "a shared unit without its own shard"
        );
        self.meet(participants);
        let room = participants.len() * PARTICIPANT_LEN;
        let len = BLOCK_HEADER_LEN + room + self.bytes.len() - self.complete;
        let mut bytes = BytesMut::with_capacity(len);
        bytes.resize(BLOCK_HEADER_LEN, 0);
        for (shard, first) in participants {
            let row = Participant {
                shard: (*shard).into(),
                first: (*first).into(),
            };
            bytes.extend_from_slice(row.as_bytes());
        }
        bytes.extend_from_slice(&self.bytes[self.complete..]);
        // Without it what is before leaves the rest of its memory to what comes.
        self.bytes.truncate(self.complete);
        self.close();
        let start = self.complete_at;
        self.start = self.here();
        self.complete_at = self.start;
        let block = self.block(bytes, start, self.start.offset);
        self.is_special = false;
        self.push_closed(Block {
            participants: participants.to_vec(),
            is_joined: true,
            ..block
        });
    }

    /// Notes where the other parts of a unit are.
    fn meet(&mut self, participants: &[(u32, u64)]) {
        for (shard, first) in participants
            .iter()
            .filter(|(shard, _)| *shard != self.shard)
        {
            match self.met.iter_mut().find(|(met, _)| met == shard) {
                Some((_, through)) => *through = first + 1,
                None => self.met.push((*shard, first + 1)),
            }
        }
    }

    /// The shard that it is of.
    pub fn shard(&self) -> u32 {
        self.shard
    }

    /// How far another shard's stream has to be, at least, for all units that it shares with this one since
    /// this was made to be whole.
    pub fn met(&self, shard: u32) -> u64 {
        let met = self.met.iter().find(|(met, _)| *met == shard);
        met.map_or(0, |(_, through)| *through)
    }

    /// Bytes of complete units that were not taken yet, with the headers of their blocks.
    pub fn pending_bytes(&self) -> usize {
        let whole = self.complete - BLOCK_HEADER_LEN;
        self.closed_bytes + if whole == 0 { 0 } else { self.complete }
    }

    /// The next block to write: whole units, at least one; a shared unit alone. Blocks are closed when they
    /// reach [`BLOCK_LEN`], so that one is longer than that by less than a unit. Copies nothing but the
    /// beginning of an open unit.
    pub fn take_block(&mut self) -> Option<Block> {
        if self.closed.is_empty() {
            self.close();
        }
        let block = self.closed.pop_front()?;
        self.closed_bytes -= block.bytes.len();
        Some(block)
    }

    /// The block that says: nothing follows, the node stopped in order. What was pending has been taken.
    ///
    /// # Panics
    /// If it was not.
    pub fn clean_end(&mut self) -> Block {
        let is_all_taken = self.pending_bytes() == 0 && !self.unit_is_open();
        assert!(is_all_taken, "a clean end before the last block");
        let bytes = BytesMut::zeroed(BLOCK_HEADER_LEN);
        Block {
            flags: CLEAN_END,
            ..self.block(bytes, self.here(), self.next())
        }
    }

    /// Takes back the memory of a block, for others, if this was the last block in its chunk that anybody
    /// had.
    pub fn reuse(&mut self, bytes: Bytes) {
        if self.spare.len() < SPARE_COUNT
            && let Ok(mut chunk) = bytes.try_into_mut()
        {
            chunk.clear();
            if chunk.try_reclaim(CHUNK_LEN) {
                self.spare.push(chunk);
            }
        }
    }

    /// The next frame is in another database; or it is the first one of our own.
    #[cold]
    fn select(&mut self, db: u32) {
        self.leave();
        // A note needs none.
        if db < ADOPTED {
            self.db = db;
            self.put_select(db);
        }
    }

    fn put_select(&mut self, db: u32) {
        self.is_special = true;
        let mut digits = itoa::Buffer::new();
        let args = [b"SELECT", digits.format(db).as_bytes()];
        frame::put(&mut self.bytes, &self.head, args.into_iter());
        self.head.count_up();
    }

    /// The place behind the last frame.
    fn here(&self) -> Mark {
        Mark {
            offset: self.next(),
            db: self.adopted.map_or(self.db, |adopted| adopted.db),
        }
    }

    /// Makes a block of the complete units. What is there of an open unit moves on into fresh memory.
    fn close(&mut self) {
        if self.complete == BLOCK_HEADER_LEN {
            return;
        }
        let bytes = self.bytes.split_to(self.complete);
        if self.bytes.is_empty() && self.bytes.capacity() >= ROOM_MIN {
            self.bytes.resize(BLOCK_HEADER_LEN, 0);
        } else {
            let open = std::mem::take(&mut self.bytes);
            let mut chunk = self.spare.pop().unwrap_or_default();
            chunk.reserve(CHUNK_LEN.max(BLOCK_HEADER_LEN + open.len() + ROOM_MIN));
            chunk.resize(BLOCK_HEADER_LEN, 0);
            chunk.extend_from_slice(&open);
            self.bytes = chunk;
        }
        let block = self.block(bytes, self.start, self.complete_at.offset);
        // The special one may be in the open unit.
        self.is_special &= self.unit_is_open();
        self.start = self.complete_at;
        self.complete = BLOCK_HEADER_LEN;
        self.is_joined = false;
        self.push_closed(block);
    }

    fn block(&self, bytes: BytesMut, start: Mark, end: u64) -> Block {
        Block {
            bytes,
            shard: self.shard,
            generation: self.generation_in_files(),
            database: start.database(),
            first: start.offset,
            end,
            flags: 0,
            is_plain: start.db == 0 && !self.is_special,
            is_joined: self.is_joined,
            sum: None,
            participants: Vec::new(),
        }
    }

    fn push_closed(&mut self, block: Block) {
        self.closed_bytes += block.bytes.len();
        self.closed.push_back(block);
    }
}

/// Whole units with room for a header in front: one write, once it is sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    bytes: BytesMut,
    shard: u32,
    generation: u64,
    database: u32,
    first: u64,
    end: u64,
    flags: u32,
    is_plain: bool,
    is_joined: bool,
    /// The CRC-32 of the frames, where sealing has found it.
    sum: Option<u32>,
    participants: Vec<(u32, u64)>,
}

impl Block {
    /// A block of frames that were composed before, up to offset `end`; the first of them finds itself in
    /// this database.
    pub fn of_frames(
        shard: u32,
        at: Position,
        end: u64,
        (database, frames): (u32, &[u8]),
    ) -> Block {
        let mut bytes = BytesMut::zeroed(BLOCK_HEADER_LEN);
        bytes.extend_from_slice(frames);
        Block {
            bytes,
            shard,
            generation: at.generation,
            database,
            first: at.offset,
            end,
            flags: 0,
            is_plain: false,
            is_joined: true,
            sum: None,
            participants: Vec::new(),
        }
    }

    /// Offset of its first frame.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The history of its frames, as files name it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Offset behind its last frame.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Does it hold one part of a unit over several shards?
    pub fn is_shared(&self) -> bool {
        !self.participants.is_empty()
    }

    /// The parts of its unit by shard and first offset there, ascending; none if it is not shared.
    pub fn participants(&self) -> &[(u32, u64)] {
        &self.participants
    }

    /// Are all its frames, surely, of the first database and of commands that every peer knows?
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The CRC-32 of its frames, if it is known.
    pub fn sum(&self) -> Option<u32> {
        self.sum
    }

    /// May some of its frames only be applied together?
    pub fn is_joined(&self) -> bool {
        self.is_joined
    }

    /// The database that the first frame finds itself in.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// The frames, as replicas get them.
    pub fn frames(&self) -> &[u8] {
        &self.bytes[self.frames_at()..]
    }

    /// Where they begin in what is written.
    pub fn frames_at(&self) -> usize {
        BLOCK_HEADER_LEN + self.participants.len() * PARTICIPANT_LEN
    }

    /// Fills in the header for the segment that the block will be written to. Every frame below `durable`
    /// is known to be durable. Reads the body once, for its sum. A block that has to go to another segment
    /// after all is sealed again.
    ///
    /// # Panics
    /// If the block itself is said to be durable: it would not be read again.
    pub fn seal(&mut self, segment: u64, durable: u64) {
        assert!(durable <= self.first, "durable before it was written");
        let (room, body) = self.bytes.split_at_mut(BLOCK_HEADER_LEN);
        let sum = crc32fast::hash(body);
        self.sum = self.participants.is_empty().then_some(sum);
        let mut header = BlockHeader {
            magic: BLOCK_MAGIC,
            flags: self.flags.into(),
            segment: segment.into(),
            generation: self.generation.into(),
            first: self.first.into(),
            durable: durable.into(),
            body_len: (body.len() as u64).into(),
            shard: self.shard.into(),
            frame_count: ((self.end - self.first) as u32).into(),
            database: self.database.into(),
            participant_count: (self.participants.len() as u32).into(),
            body_crc: sum.into(),
            header_crc: 0.into(),
        };
        header.header_crc = header.sum().into();
        room.copy_from_slice(header.as_bytes());
    }

    /// What is written, once it is [sealed](Block::seal).
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same to share; [`reuse`](Stream::reuse) takes the memory back.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// A block that has grown so long is closed.
pub const BLOCK_LEN: usize = 1 << 20;

/// Memory that blocks share.
const CHUNK_LEN: usize = 1 << 20;
/// With less room than this left in a chunk, the next block begins in another one.
const ROOM_MIN: usize = 16 << 10;
/// Chunks kept for blocks to come.
const SPARE_COUNT: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn stream(offset: u64) -> Stream {
        Stream::new(
            3,
            Position {
                generation: 7,
                offset,
            },
        )
    }

    fn frame(stream: &mut Stream, db: usize, args: &[&str]) {
        stream.frame(db, args.iter().map(|arg| arg.as_bytes()));
    }

    /// The naive twin.
    fn composed(offset: u64, args: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*2\r\n:{offset}\r\n*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn text(block: &Block) -> String {
        String::from_utf8_lossy(block.frames()).replace("\r\n", " ")
    }

    #[test]
    fn frames_have_the_form_that_replicas_read() {
        let mut stream = stream(8);
        frame(&mut stream, 0, &["SET", "k", ""]);
        frame(&mut stream, 0, &["DEL", "key:00000001"]);
        frame(&mut stream, 0, &["FLUSHALL"]);
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(
            text(&block),
            "*2 :8 *3 $3 SET $1 k $0  *2 :9 *2 $3 DEL $12 key:00000001 *2 :10 *1 $8 FLUSHALL "
        );
        assert_eq!((block.first(), block.end(), stream.next()), (8, 11, 11));
        assert!(stream.take_block().is_none());
    }

    fn copy(stream: &mut Stream, offset: u64, db: u32, args: &[&str]) -> bool {
        stream.copy(offset, db, args.iter().map(|arg| arg.as_bytes()))
    }

    fn at(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    #[test]
    fn copied_frames_have_the_offsets_that_they_had() {
        let mut stream = stream(8);
        stream.adopt(7, 9, Some(0));
        assert!(copy(&mut stream, 8, 0, &["DEL", "a"]));
        // Before it came a SELECT, and something that is for nobody here.
        assert!(copy(&mut stream, 11, 3, &["DEL", "b"]));
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(
            text(&block),
            "*2 :8 *2 $3 DEL $1 a *2 :9 *1 $13 RINGKEEP.SKIP *2 :10 *2 $6 SELECT $1 3 \
             *2 :11 *2 $3 DEL $1 b "
        );
        assert_eq!(from_files(block.generation()), (7, true));
        assert!(stream.skip_to(14, 3));
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!((block.first(), block.end(), block.database()), (12, 14, 3));
        assert_eq!(stream.position(), at(7, 14));
        // The primary went to another database and then had nothing to say there.
        assert!(stream.skip_to(16, 0) && copy(&mut stream, 16, 0, &["DEL", "c"]));
        stream.end_unit();
        assert_eq!(
            text(&stream.take_block().unwrap()),
            "*2 :14 *1 $13 RINGKEEP.SKIP *2 :15 *2 $6 SELECT $1 0 *2 :16 *2 $3 DEL $1 c "
        );
    }

    /// Who reads on here has not heard what the primary said to us.
    #[test]
    fn a_primary_that_was_started_anew_says_the_database_for_all_who_read_on() {
        let mut stream = stream(8);
        stream.adopt(7, 9, Some(3));
        assert!(copy(&mut stream, 8, 3, &["DEL", "a"]));
        stream.end_unit();
        // It does not know its database, and tells of the first one.
        // In that is its next frame, behind a SELECT.
        stream.adopt(7, 9, Some(0));
        assert!(copy(&mut stream, 10, 0, &["DEL", "b"]));
        stream.end_unit();
        assert_eq!(text(&stream.take_block().unwrap()), "*2 :8 *2 $3 DEL $1 a ");
        let block = stream.take_block().unwrap();
        assert_eq!(
            text(&block),
            "*2 :9 *2 $6 SELECT $1 0 *2 :10 *2 $3 DEL $1 b "
        );
    }

    #[test]
    fn the_first_frame_of_our_own_begins_a_history_of_our_own() {
        let mut stream = stream(8);
        stream.adopt(7, 9, Some(0));
        assert!(copy(&mut stream, 8, 0, &["DEL", "a"]));
        stream.end_unit();
        frame(&mut stream, 0, &["DEL", "b"]);
        stream.end_unit();
        assert!(!stream.is_adopted() && !copy(&mut stream, 11, 0, &["DEL", "c"]));
        assert_eq!(stream.pending_at(), at(in_files(7, true), 8));
        assert_eq!(text(&stream.take_block().unwrap()), "*2 :8 *2 $3 DEL $1 a ");
        assert_eq!(stream.pending_at(), at(9, 9));
        assert_eq!(
            text(&stream.take_block().unwrap()),
            "*2 :9 *2 $6 SELECT $1 0 *2 :10 *2 $3 DEL $1 b "
        );
        assert_eq!(stream.position(), at(9, 11));
        let has = |generation, offset| stream.ancestry().has(at(generation, offset));
        assert!(has(7, 3) && has(7, 9) && !has(7, 10) && !has(9, 3));
    }

    #[test]
    fn what_is_our_own_is_counted_over_new_beginnings() {
        let mut stream = stream(8);
        stream.renew(at(5, 100));
        assert_eq!(stream.own(), None, "nobody was followed");
        stream.adopt(7, 9, Some(0));
        assert_eq!(stream.own(), None);
        stream.leave();
        let from = stream.next();
        let own = |from, before| Some(Own { from, before });
        assert_eq!(stream.own(), own(from, 0));
        for _ in 0..3 {
            frame(&mut stream, 0, &["DEL", "a"]);
            stream.end_unit();
        }
        let done = stream.next() - from;
        stream.renew(at(11, 500));
        assert_eq!(stream.own(), own(500, done));
        frame(&mut stream, 0, &["DEL", "a"]);
        stream.end_unit();
        stream.renew(at(12, 900));
        assert_eq!(stream.own(), own(900, done + 1));
        stream.adopt(7, 9, Some(0));
        assert_eq!(stream.own(), None);
    }

    #[test]
    fn a_frame_that_does_not_fit_ends_the_adoption() {
        for (offset, db) in [(7, 0), (8, 3)] {
            let mut stream = stream(8);
            stream.adopt(7, 9, Some(0));
            assert!(
                !copy(&mut stream, offset, db, &["DEL", "a"]),
                "{offset} {db}"
            );
            assert_eq!(stream.position(), at(9, 8));
        }
        // A note of ours is one, too.
        let mut stream = stream(8);
        stream.adopt(7, 9, None);
        stream.note([&b"NOTE"[..]].into_iter());
        assert_eq!(stream.position(), at(9, 9));
    }

    #[test]
    fn a_history_that_goes_on_elsewhere_has_no_ancestors() {
        let mut stream = stream(8);
        for generation in 10..30 {
            frame(&mut stream, 0, &["DEL", "a"]);
            stream.turn(at(generation, 0));
        }
        let ancestors: Vec<_> = (0..ANCESTORS_MAX as u64)
            .map(|back| at(28 - back, 48 - 2 * back))
            .collect();
        let found = stream.ancestry().histories();
        let generations = |all: &[Position]| all.iter().map(|at| at.generation).collect::<Vec<_>>();
        assert_eq!(generations(found), generations(&ancestors));
        stream.turn(at(40, 1000));
        assert_eq!(
            (stream.ancestry().histories(), stream.next()),
            (&[][..], 1000)
        );
    }

    #[test]
    fn a_stream_that_goes_on_elsewhere_names_its_database_first() {
        for db in [0, 3] {
            let at = Position {
                generation: 1,
                offset: 8,
            };
            let mut stream = Stream::resume(2, at);
            assert_eq!(stream.database(), 0);
            // A note is of no database.
            stream.note([&b"NOTE"[..]].into_iter());
            stream.end_unit();
            let block = stream.take_block().unwrap();
            assert_eq!((block.database(), block.is_plain()), (0, false));
            frame(&mut stream, db, &["DEL", "a"]);
            assert_eq!(stream.database(), db as u32);
            stream.end_unit();
            let block = stream.take_block().unwrap();
            assert_eq!((block.database(), block.is_plain()), (0, false));
            assert_eq!(
                text(&block),
                format!("*2 :9 *2 $6 SELECT $1 {db} *2 :10 *2 $3 DEL $1 a ")
            );
            frame(&mut stream, db, &["DEL", "b"]);
            stream.end_unit();
            let block = stream.take_block().unwrap();
            assert_eq!(text(&block), "*2 :11 *2 $3 DEL $1 b ");
        }
    }

    #[test]
    fn another_database_is_selected_in_the_stream_and_named_by_the_next_block() {
        let mut stream = stream(0);
        frame(&mut stream, 0, &["DEL", "a"]);
        frame(&mut stream, 5, &["DEL", "b"]);
        frame(&mut stream, 5, &["DEL", "c"]);
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(
            text(&block),
            "*2 :0 *2 $3 DEL $1 a *2 :1 *2 $6 SELECT $1 5 *2 :2 *2 $3 DEL $1 b *2 :3 *2 $3 DEL $1 c "
        );
        assert_eq!((block.database(), block.end()), (0, 4));
        frame(&mut stream, 5, &["DEL", "d"]);
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(text(&block), "*2 :4 *2 $3 DEL $1 d ");
        assert_eq!(block.database(), 5);
        frame(&mut stream, 0, &["DEL", "e"]);
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(
            text(&block),
            "*2 :5 *2 $6 SELECT $1 0 *2 :6 *2 $3 DEL $1 e "
        );
        assert_eq!(block.database(), 5);
    }

    #[test]
    fn an_open_unit_stays_behind_whole() {
        let mut stream = stream(0);
        assert_eq!(stream.unit_first(), None);
        frame(&mut stream, 0, &["DEL", "a"]);
        assert_eq!((stream.unit_first(), stream.pending_bytes()), (Some(0), 0));
        assert!(stream.take_block().is_none());
        stream.end_unit();
        frame(&mut stream, 0, &["DEL", "b"]);
        assert_eq!(stream.unit_first(), Some(1));
        let pending = stream.pending_bytes();
        let block = stream.take_block().unwrap();
        assert_eq!(block.bytes().len(), pending);
        assert_eq!(text(&block), "*2 :0 *2 $3 DEL $1 a ");
        assert!(stream.take_block().is_none() && stream.unit_is_open());
        frame(&mut stream, 0, &["DEL", "c"]);
        stream.end_unit();
        let block = stream.take_block().unwrap();
        assert_eq!(text(&block), "*2 :1 *2 $3 DEL $1 b *2 :2 *2 $3 DEL $1 c ");
        assert_eq!((block.first(), block.end()), (1, 3));
    }

    #[test]
    fn shared_units_that_wait_take_no_more_memory_than_they_are_long() {
        let mut stream = stream(0);
        let chunk = stream.bytes.as_ptr();
        for _ in 0..100 {
            frame(&mut stream, 0, &["DEL", "a"]);
            stream.end_unit();
            frame(&mut stream, 0, &["DEL", "b"]);
            let first = stream.unit_first().unwrap();
            stream.end_shared_unit(&[(stream.shard, first)]);
        }
        let far = stream.bytes.as_ptr().addr() - chunk.addr();
        assert!(far < CHUNK_LEN, "{far}");
        assert_eq!(stream.closed.len(), 200);
    }

    #[test]
    fn a_shared_unit_has_a_block_of_its_own() {
        let mut stream = stream(10);
        let parts = [(1, 77), (3, 11)];
        frame(&mut stream, 0, &["DEL", "a"]);
        stream.end_unit();
        frame(&mut stream, 2, &["DEL", "b"]);
        stream.end_shared_unit(&parts);
        assert_eq!([1, 2, 3].map(|shard| stream.met(shard)), [78, 0, 0]);
        frame(&mut stream, 2, &["DEL", "c"]);
        stream.end_unit();
        let pending = stream.pending_bytes();
        let blocks: Vec<Block> = std::iter::from_fn(|| stream.take_block()).collect();
        let lens: usize = blocks.iter().map(|block| block.bytes().len()).sum();
        assert_eq!((pending, stream.pending_bytes()), (lens, 0));
        let texts: Vec<String> = blocks.iter().map(text).collect();
        assert_eq!(
            texts,
            [
                "*2 :10 *2 $3 DEL $1 a ",
                "*2 :11 *2 $6 SELECT $1 2 *2 :12 *2 $3 DEL $1 b ",
                "*2 :13 *2 $3 DEL $1 c "
            ]
        );
        let shared: Vec<bool> = blocks.iter().map(Block::is_shared).collect();
        assert_eq!(shared, [false, true, false]);
        assert_eq!(blocks[1].participants(), parts);
        let databases: Vec<u32> = blocks.iter().map(Block::database).collect();
        assert_eq!(databases, [0, 0, 2]);
    }

    #[test]
    fn a_long_block_is_closed_between_units() {
        let mut stream = stream(0);
        let value = "v".repeat(BLOCK_LEN / 2);
        for _ in 0..5 {
            frame(&mut stream, 0, &["SET", "k", &value]);
            stream.end_unit();
        }
        let counts: Vec<u64> = std::iter::from_fn(|| stream.take_block())
            .map(|block| block.end() - block.first())
            .collect();
        assert_eq!(counts, [2, 2, 1]);
    }

    #[test]
    fn memory_comes_back() {
        let mut stream = stream(0);
        frame(&mut stream, 0, &["DEL", "a"]);
        stream.end_unit();
        drop(stream.take_block());
        let value = "v".repeat(CHUNK_LEN - 2 * ROOM_MIN);
        let mut memory = Vec::new();
        for _ in 0..4 {
            frame(&mut stream, 0, &["SET", "k", &value]);
            frame(&mut stream, 0, &["SET", "k", &value[..ROOM_MIN]]);
            stream.end_unit();
            let block = stream.take_block().unwrap();
            memory.push(block.bytes().as_ptr() as usize / CHUNK_LEN);
            assert!(block.frames().starts_with(b"*2"));
            stream.reuse(block.into_bytes());
        }
        assert!(
            !stream.spare.is_empty(),
            "a chunk that nobody reads is used again"
        );
    }

    proptest! {
        #[test]
        fn frames_are_those_of_the_naive_twin(
            offset in 0..2_000_000_000u64,
            frames in vec(vec(vec(any::<u8>(), 0..130), 1..5), 1..30),
            units in vec(any::<bool>(), 30),
        ) {
            let mut stream = stream(offset);
            let mut want = Vec::new();
            for ((at, args), ends) in frames.iter().enumerate().zip(units) {
                stream.frame(0, args.iter().map(Vec::as_slice));
                want.extend(composed(offset + at as u64, args));
                if ends {
                    stream.end_unit();
                }
            }
            stream.end_unit();
            let mut found = Vec::new();
            while let Some(block) = stream.take_block() {
                found.extend_from_slice(block.frames());
            }
            prop_assert_eq!(found, want);
        }
    }
}
