//! A snapshot file: all keys of one shard, exact at one position.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::{
    frame::{Frames, OFFSET_MAX, Order},
    segment::{HeaderFault, VERSION, check_header, header_sum},
};
use crate::resp::Parser;

/// What the header of a snapshot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Number of the snapshot among those of its shard.
    pub seq: u64,
    /// The shard.
    pub shard: u32,
    /// Number of shards of the directory.
    pub shard_count: u32,
    /// How keys are placed on shards, as a number.
    pub routing: u32,
    /// The history that it was taken from.
    pub generation: u64,
    /// The next offset when it was begun. No frame in it is older.
    pub start: u64,
}

/// What the footer of a snapshot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The offset that follows all that the snapshot holds: here the journal goes on.
    pub end: u64,
    /// Number of records.
    pub record_count: u64,
    /// Number of frames.
    pub frame_count: u64,
    /// Number of chunks before the footer.
    pub chunk_count: u64,
    /// Bytes of the file, the footer included.
    pub file_len: u64,
}

/// What a chunk holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Keys with their values.
    Records,
    /// What happened to keys that had been written already.
    Frames,
}

/// Composes a snapshot. The caller writes what is composed, in order, and nothing else.
#[derive(Debug)]
pub struct Composer {
    previous_crc: u32,
    summary: Summary,
}

impl Composer {
    /// Appends the header of the file.
    pub fn new(snapshot: &Snapshot, out: &mut Vec<u8>) -> Self {
        let mut header = SnapshotHeader {
            magic: SNAPSHOT_MAGIC,
            version: VERSION.into(),
            seq: snapshot.seq.into(),
            generation: snapshot.generation.into(),
            start: snapshot.start.into(),
            shard: snapshot.shard.into(),
            shard_count: snapshot.shard_count.into(),
            routing: snapshot.routing.into(),
            header_crc: 0.into(),
        };
        header.header_crc = header_sum(header.as_bytes()).into();
        out.extend_from_slice(header.as_bytes());
        Self {
            previous_crc: header.header_crc.get(),
            summary: Summary {
                file_len: SNAPSHOT_HEADER_LEN as u64,
                ..Summary::default()
            },
        }
    }

    /// Appends room for the header of a chunk, whose body the caller appends next. What it returns belongs
    /// into [`close`](Composer::close).
    pub fn open(&self, out: &mut Vec<u8>) -> OpenChunk {
        let at = out.len();
        out.resize(at + CHUNK_HEADER_LEN, 0);
        OpenChunk(at)
    }

    /// Fills in the header of the chunk whose body ends where `out` does: `count` records or frames of one
    /// database. Reads the body once, for its sum.
    pub fn close(
        &mut self,
        out: &mut [u8],
        chunk: OpenChunk,
        kind: Kind,
        database: u32,
        count: u32,
    ) {
        let (code, counted) = match kind {
            Kind::Records => (RECORDS, &mut self.summary.record_count),
            Kind::Frames => (FRAMES, &mut self.summary.frame_count),
        };
        *counted += u64::from(count);
        self.fill(out, chunk, (code, database, count));
    }

    /// Appends the footer: the snapshot is exact where frame `end` comes next. How long the file is now.
    pub fn finish(mut self, out: &mut Vec<u8>, end: u64) -> u64 {
        let chunk = self.open(out);
        let summary = self.summary;
        let file_len = summary.file_len + FOOTER_LEN as u64;
        let footer = Footer {
            end: end.into(),
            record_count: summary.record_count.into(),
            frame_count: summary.frame_count.into(),
            chunk_count: summary.chunk_count.into(),
            file_len: file_len.into(),
        };
        out.extend_from_slice(footer.as_bytes());
        self.fill(out, chunk, (FOOTER, 0, 0));
        file_len
    }

    fn fill(&mut self, out: &mut [u8], chunk: OpenChunk, (kind, database, count): (u32, u32, u32)) {
        let (room, body) = out[chunk.0..].split_at_mut(CHUNK_HEADER_LEN);
        let mut header = ChunkHeader {
            magic: CHUNK_MAGIC,
            kind: kind.into(),
            number: self.summary.chunk_count.into(),
            body_len: (body.len() as u64).into(),
            database: database.into(),
            count: count.into(),
            previous_crc: self.previous_crc.into(),
            body_crc: crc32fast::hash(body).into(),
            header_crc: 0.into(),
        };
        header.header_crc = header_sum(header.as_bytes()).into();
        room.copy_from_slice(header.as_bytes());
        self.previous_crc = header.header_crc.get();
        self.summary.chunk_count += 1;
        self.summary.file_len += (room.len() + body.len()) as u64;
    }
}

/// Where a chunk begins whose header is missing yet.
#[derive(Debug)]
pub struct OpenChunk(usize);

/// Reads a snapshot, in whatever pieces its bytes come. Holds what it has not read yet: at most a chunk and
/// a piece.
///
/// [`feed`](Reader::feed) a piece, call [`next`](Reader::next) until it has no more, and so on; at the end
/// of the file [`finish`](Reader::finish) says whether it was complete. Only then is anything that was read
/// to be kept.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
    base: u64,
    snapshot: Option<Snapshot>,
    previous_crc: u32,
    found: Summary,
    footer: Option<Summary>,
    parser: Parser,
}

/// A chunk whose sums are right.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// Keys with their values, one record after the other.
    Records {
        /// The database that they are in.
        database: u32,
        /// How many there are.
        count: u32,
        /// Their bytes.
        body: &'a [u8],
    },
    /// Frames, not looked at yet, that are to be applied to what has been read so far.
    Frames(Frames<'a>),
}

/// Why a snapshot was refused, and where in the file that was seen. Nothing of it is to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFault {
    /// First byte of what is wrong.
    pub at: u64,
    /// What is wrong.
    pub reason: SnapshotReason,
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotReason {
    /// Its header.
    Header(HeaderFault),
    /// The file ends before a footer.
    Cut,
    /// No chunk begins there.
    Magic,
    /// The sum of a chunk's header is another.
    HeaderSum,
    /// The sum of a chunk's body is another.
    BodySum,
    /// The chunk does not follow the one before.
    Order,
    /// A chunk of an unknown kind.
    Kind(u32),
    /// The footer counts something else than was read, or its numbers contradict one another.
    Numbers,
    /// Something follows the footer.
    Surplus,
}

impl fmt::Display for SnapshotFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "byte {}: ", self.at)?;
        match self.reason {
            SnapshotReason::Header(fault) => fault.fmt(out),
            SnapshotReason::Cut => out.write_str("the file ends before its footer"),
            SnapshotReason::Magic => out.write_str("no chunk begins there"),
            SnapshotReason::HeaderSum => out.write_str("the sum of a chunk's header is wrong"),
            SnapshotReason::BodySum => out.write_str("the sum of a chunk's body is wrong"),
            SnapshotReason::Order => out.write_str("a chunk does not follow the one before"),
            SnapshotReason::Kind(kind) => write!(out, "a chunk has the unknown kind {kind}"),
            SnapshotReason::Numbers => out.write_str("the footer does not fit what was read"),
            SnapshotReason::Surplus => out.write_str("something follows the footer"),
        }
    }
}

impl std::error::Error for SnapshotFault {}

impl Reader {
    /// Takes the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.base += self.at as u64;
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The snapshot's header, once it has been read.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// The next chunk; `None` if more bytes are needed, or none will follow.
    ///
    /// # Errors
    /// [`SnapshotFault`]: drop all that was read.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Chunk<'_>>, SnapshotFault> {
        let Some(snapshot) = self.header()? else {
            return Ok(None);
        };
        let Some(header) = self.look()? else {
            return Ok(None);
        };
        let start = self.at + CHUNK_HEADER_LEN;
        let end = start + header.body_len.get() as usize;
        if header.kind.get() == FOOTER {
            self.footer = Some(self.footer_of(&header, start, end)?);
            self.at = end;
            self.end()?;
            return Ok(None);
        }
        self.at = end;
        self.previous_crc = header.header_crc.get();
        self.found.chunk_count += 1;
        let body = &self.bytes[start..end];
        let (database, count) = (header.database.get(), header.count.get());
        Ok(Some(if header.kind.get() == RECORDS {
            self.found.record_count += u64::from(count);
            Chunk::Records {
                database,
                count,
                body,
            }
        } else {
            self.found.frame_count += u64::from(count);
            let span = (snapshot.start, u64::from(count));
            Chunk::Frames(Frames::new(
                body,
                span,
                Order::Sparse,
                database,
                &mut self.parser,
            ))
        }))
    }

    /// The file has no more bytes: what its footer says.
    ///
    /// # Errors
    /// [`SnapshotFault`]: drop all that was read.
    pub fn finish(mut self) -> Result<Summary, SnapshotFault> {
        while self.next()?.is_some() {}
        let is_in_header = self.snapshot.is_none();
        let reason = if is_in_header {
            SnapshotReason::Header(HeaderFault::Cut)
        } else {
            SnapshotReason::Cut
        };
        self.footer.ok_or(self.fault(reason))
    }

    fn fault(&self, reason: SnapshotReason) -> SnapshotFault {
        SnapshotFault {
            at: self.base + self.at as u64,
            reason,
        }
    }

    /// The header of the file, read if it was not yet.
    fn header(&mut self) -> Result<Option<Snapshot>, SnapshotFault> {
        if self.snapshot.is_none() && self.bytes.len() >= SNAPSHOT_HEADER_LEN {
            let snapshot = Snapshot::read(&self.bytes);
            let snapshot = snapshot.map_err(|fault| self.fault(SnapshotReason::Header(fault)))?;
            self.previous_crc = sum_at_end(&self.bytes[..SNAPSHOT_HEADER_LEN]);
            self.at = SNAPSHOT_HEADER_LEN;
            self.snapshot = Some(snapshot);
        }
        Ok(self.snapshot)
    }

    /// The header of the next chunk, if that is there in full and good.
    fn look(&mut self) -> Result<Option<ChunkHeader>, SnapshotFault> {
        if self.footer.is_some() {
            self.end()?;
            return Ok(None);
        }
        let Ok((header, body)) = ChunkHeader::read_from_prefix(&self.bytes[self.at..]) else {
            return Ok(None);
        };
        header.check().map_err(|reason| self.fault(reason))?;
        let number = header.number.get();
        if number != self.found.chunk_count || header.previous_crc.get() != self.previous_crc {
            return Err(self.fault(SnapshotReason::Order));
        }
        let body_len = usize::try_from(header.body_len.get()).ok();
        let Some(body) = body_len.and_then(|len| body.get(..len)) else {
            return Ok(None);
        };
        if crc32fast::hash(body) != header.body_crc.get() {
            return Err(self.fault(SnapshotReason::BodySum));
        }
        Ok(Some(header))
    }

    /// Holds the footer against what was found.
    fn footer_of(
        &self,
        header: &ChunkHeader,
        start: usize,
        end: usize,
    ) -> Result<Summary, SnapshotFault> {
        let summary = summary_of(header, &self.bytes[start..end]);
        let found = Summary {
            file_len: self.base + end as u64,
            end: summary.map_or(0, |summary| summary.end),
            ..self.found
        };
        let is_later = |snapshot: &Snapshot| found.end >= snapshot.start;
        summary
            .filter(|summary| *summary == found && self.snapshot.as_ref().is_some_and(is_later))
            .ok_or(self.fault(SnapshotReason::Numbers))
    }

    /// Behind the footer nothing may follow.
    fn end(&self) -> Result<(), SnapshotFault> {
        if self.at < self.bytes.len() {
            return Err(self.fault(SnapshotReason::Surplus));
        }
        Ok(())
    }
}

impl Snapshot {
    /// Reads the header at the start of a file.
    ///
    /// # Errors
    /// [`HeaderFault`]: the file is no snapshot that can be read.
    pub fn read(bytes: &[u8]) -> Result<Snapshot, HeaderFault> {
        let (header, _) = SnapshotHeader::ref_from_prefix(bytes).map_err(|_| HeaderFault::Cut)?;
        let version = header.version.get();
        check_header(header.as_bytes(), (header.magic, SNAPSHOT_MAGIC), version)?;
        let snapshot = Snapshot {
            seq: header.seq.get(),
            shard: header.shard.get(),
            shard_count: header.shard_count.get(),
            routing: header.routing.get(),
            generation: header.generation.get(),
            start: header.start.get(),
        };
        let is_sound = snapshot.shard < snapshot.shard_count && snapshot.start <= OFFSET_MAX;
        is_sound.then_some(snapshot).ok_or(HeaderFault::Numbers)
    }
}

impl Summary {
    /// Reads the footer from the last [`FOOTER_LEN`] bytes of a file of `file_len` bytes, without the rest:
    /// whether the file was finished, and where the journal goes on. Damage before the footer shows only
    /// when the file is read.
    ///
    /// # Errors
    /// [`SnapshotFault`]: the file is not complete, or damaged.
    pub fn read(tail: &[u8], file_len: u64) -> Result<Summary, SnapshotFault> {
        let fault = |reason| SnapshotFault {
            at: file_len.saturating_sub(FOOTER_LEN as u64),
            reason,
        };
        let (header, body) =
            ChunkHeader::read_from_prefix(tail).map_err(|_| fault(SnapshotReason::Cut))?;
        header.check().map_err(fault)?;
        if crc32fast::hash(body) != header.body_crc.get() {
            return Err(fault(SnapshotReason::BodySum));
        }
        summary_of(&header, body)
            .filter(|summary| header.kind.get() == FOOTER && summary.file_len == file_len)
            .ok_or(fault(SnapshotReason::Numbers))
    }
}

/// What the body of a footer says, as far as it does not contradict the header of the footer.
fn summary_of(header: &ChunkHeader, body: &[u8]) -> Option<Summary> {
    let footer = Footer::ref_from_bytes(body).ok()?;
    let summary = Summary {
        end: footer.end.get(),
        record_count: footer.record_count.get(),
        frame_count: footer.frame_count.get(),
        chunk_count: footer.chunk_count.get(),
        file_len: footer.file_len.get(),
    };
    let is_sound = summary.chunk_count == header.number.get() && summary.end <= OFFSET_MAX;
    is_sound.then_some(summary)
}

impl ChunkHeader {
    fn check(&self) -> Result<(), SnapshotReason> {
        match self.kind.get() {
            _ if self.magic != CHUNK_MAGIC => Err(SnapshotReason::Magic),
            _ if header_sum(self.as_bytes()) != self.header_crc.get() => {
                Err(SnapshotReason::HeaderSum)
            }
            RECORDS | FRAMES | FOOTER => Ok(()),
            other => Err(SnapshotReason::Kind(other)),
        }
    }
}

fn sum_at_end(header: &[u8]) -> u32 {
    header
        .last_chunk()
        .map_or(0, |sum| u32::from_le_bytes(*sum))
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct SnapshotHeader {
    magic: [u8; 4],
    version: U32,
    seq: U64,
    generation: U64,
    start: U64,
    shard: U32,
    shard_count: U32,
    routing: U32,
    header_crc: U32,
}

/// Bytes of a snapshot's header.
pub const SNAPSHOT_HEADER_LEN: usize = size_of::<SnapshotHeader>();
const _: () = assert!(SNAPSHOT_HEADER_LEN == 48);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct ChunkHeader {
    magic: [u8; 4],
    kind: U32,
    number: U64,
    body_len: U64,
    database: U32,
    count: U32,
    /// The sum of the header before: of the chunk before, or of the file. So every sum stands for all of
    /// the file up to it.
    previous_crc: U32,
    body_crc: U32,
    header_crc: U32,
}

/// Bytes before the body of a chunk.
pub const CHUNK_HEADER_LEN: usize = size_of::<ChunkHeader>();
const _: () = assert!(CHUNK_HEADER_LEN == 44);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct Footer {
    end: U64,
    record_count: U64,
    frame_count: U64,
    chunk_count: U64,
    file_len: U64,
}

/// Bytes of the footer, its chunk header included.
pub const FOOTER_LEN: usize = CHUNK_HEADER_LEN + size_of::<Footer>();
const _: () = assert!(FOOTER_LEN == 84);

const SNAPSHOT_MAGIC: [u8; 4] = *b"RKSN";
const CHUNK_MAGIC: [u8; 4] = *b"RKSC";

const RECORDS: u32 = 1;
const FRAMES: u32 = 2;
const FOOTER: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::frame::compose;
    use proptest::{collection::vec, prelude::*};

    const SNAPSHOT: Snapshot = Snapshot {
        seq: 3,
        shard: 2,
        shard_count: 4,
        routing: 0,
        generation: 9,
        start: 50,
    };

    /// A chunk per body: of records, or of frames where the body is empty.
    fn file(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut composer = Composer::new(&SNAPSHOT, &mut out);
        for (body, number) in bodies.iter().zip(0..) {
            let chunk = composer.open(&mut out);
            if body.is_empty() {
                compose(&mut out, 60 + number, [b"DEL".as_slice(), b"k"].into_iter());
                composer.close(&mut out, chunk, Kind::Frames, 1, 1);
            } else {
                out.extend_from_slice(body);
                composer.close(&mut out, chunk, Kind::Records, 0, body.len() as u32);
            }
        }
        let len = composer.finish(&mut out, 1000);
        assert_eq!(len, out.len() as u64);
        out
    }

    /// What is read, fed in pieces of `piece` bytes.
    fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Result<Summary, SnapshotFault>) {
        let mut reader = Reader::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.feed(piece);
            loop {
                match reader.next() {
                    Ok(None) => break,
                    Err(fault) => return (found, Err(fault)),
                    Ok(Some(Chunk::Records { body, count, .. })) => {
                        found.push(format!("{count} {}", String::from_utf8_lossy(body)));
                    }
                    Ok(Some(Chunk::Frames(mut frames))) => {
                        while let Ok(Some(frame)) = frames.next() {
                            found.push(format!("frame {} {}", frame.offset, frame.database));
                        }
                    }
                }
            }
        }
        (found, reader.finish())
    }

    #[test]
    fn chunks_are_read_in_order_to_the_footer() {
        let bytes = file(&[b"abc".to_vec(), vec![], b"de".to_vec()]);
        let (found, summary) = read(&bytes, 4096);
        assert_eq!(found, ["3 abc", "frame 61 1", "2 de"]);
        let summary = summary.unwrap();
        let wanted = Summary {
            end: 1000,
            record_count: 5,
            frame_count: 1,
            chunk_count: 3,
            file_len: bytes.len() as u64,
        };
        assert_eq!(summary, wanted);
        let tail = &bytes[bytes.len() - FOOTER_LEN..];
        assert_eq!(Summary::read(tail, bytes.len() as u64), Ok(wanted));
        assert!(Summary::read(tail, bytes.len() as u64 + 1).is_err());
    }

    #[test]
    fn chunks_of_another_file_or_place_are_refused() {
        let reason = |bytes: &[u8]| read(bytes, 4096).1.map_err(|fault| fault.reason);
        let one = file(&[b"abc".to_vec(), b"def".to_vec()]);
        let other = file(&[b"abd".to_vec(), b"def".to_vec()]);
        let chunk_len = CHUNK_HEADER_LEN + 3;
        let first = SNAPSHOT_HEADER_LEN..SNAPSHOT_HEADER_LEN + chunk_len;
        let second = first.end..first.end + chunk_len;
        let mut mixed = one.clone();
        mixed[first.clone()].copy_from_slice(&other[first.clone()]);
        assert_eq!(reason(&mixed), Err(SnapshotReason::Order));
        let mut left_out = one.clone();
        left_out.drain(second);
        assert_eq!(reason(&left_out), Err(SnapshotReason::Order));
        let mut more = one;
        more.push(0);
        assert_eq!(reason(&more), Err(SnapshotReason::Surplus));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let bytes = file(&[b"abc".to_vec(), vec![]]);
        for at in 0..bytes.len() {
            assert!(read(&bytes[..at], 4096).1.is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&bad, 4096).1.is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(
            bodies in vec(vec(any::<u8>(), 0..300), 0..6),
            damage in any::<Option<(prop::sample::Index, u8)>>(),
            kept in any::<Option<prop::sample::Index>>(),
            piece in 1..400usize,
        ) {
            let mut bytes = file(&bodies);
            if let Some((at, bits)) = damage {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            if let Some(kept) = kept {
                bytes.truncate(kept.index(bytes.len() + 1));
            }
            prop_assert_eq!(read(&bytes, bytes.len().max(1)), read(&bytes, piece));
        }
    }
}
