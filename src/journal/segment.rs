//! The layouts of a journal file, a segment: its header, and the header of each block. Drawn in
//! `src/docs/journal.md`.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

use super::{Position, frame::OFFSET_MAX};

/// What the header of a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Number of the segment among those of its shard.
    pub seq: u64,
    /// The shard whose frames it holds.
    pub shard: u32,
    /// Number of shards of the directory.
    pub shard_count: u32,
    /// How keys are placed on shards, as a number that the directory keeps.
    pub routing: u32,
    /// Generation and offset of its first frame.
    pub start: Position,
    /// Where the history ended that it goes on from; [`Position::UNKNOWN`] if it begins with nothing.
    pub parent: Position,
}

impl Segment {
    /// The header as bytes.
    pub fn compose(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC,
            version: VERSION.into(),
            seq: self.seq.into(),
            generation: self.start.generation.into(),
            first: self.start.offset.into(),
            parent_generation: self.parent.generation.into(),
            parent_end: self.parent.offset.into(),
            shard: self.shard.into(),
            shard_count: self.shard_count.into(),
            routing: self.routing.into(),
            header_crc: 0.into(),
        };
        header.header_crc = header_sum(header.as_bytes()).into();
        zerocopy::transmute!(header)
    }

    /// Reads the header at the start of a file.
    ///
    /// # Errors
    /// [`HeaderFault`]: the file is no segment that can be read.
    pub fn read(bytes: &[u8]) -> Result<Segment, HeaderFault> {
        let (header, _) = SegmentHeader::ref_from_prefix(bytes).map_err(|_| HeaderFault::Cut)?;
        let version = header.version.get();
        check_header(header.as_bytes(), (header.magic, SEGMENT_MAGIC), version)?;
        let position = |generation: U64, offset: U64| Position {
            generation: generation.get(),
            offset: offset.get(),
        };
        let segment = Segment {
            seq: header.seq.get(),
            shard: header.shard.get(),
            shard_count: header.shard_count.get(),
            routing: header.routing.get(),
            start: position(header.generation, header.first),
            parent: position(header.parent_generation, header.parent_end),
        };
        let is_sound = segment.shard < segment.shard_count && segment.start.offset <= OFFSET_MAX;
        is_sound.then_some(segment).ok_or(HeaderFault::Numbers)
    }
}

/// What stands at the start of a segment.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
struct SegmentHeader {
    magic: [u8; 4],
    version: U32,
    seq: U64,
    generation: U64,
    first: U64,
    parent_generation: U64,
    parent_end: U64,
    shard: U32,
    shard_count: U32,
    routing: U32,
    header_crc: U32,
}

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = size_of::<SegmentHeader>();
const _: () = assert!(SEGMENT_HEADER_LEN == 64);

/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 4] = *b"RKJS";

/// Version of all layouts of this directory's files.
pub const VERSION: u32 = 1;

/// Why the header of a file was refused. Nothing of the file can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderFault {
    /// The file is shorter than its header.
    Cut,
    /// It begins with something else.
    Magic,
    /// A later version of ringkeep wrote it; that version can read it.
    Version(u32),
    /// Its sum is another: damage.
    Sum,
    /// Its numbers contradict one another.
    Numbers,
}

impl fmt::Display for HeaderFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => out.write_str("the file ends inside its header"),
            Self::Magic => out.write_str("the file begins with other bytes than its kind has"),
            Self::Version(version) => {
                write!(
                    out,
                    "the file has version {version} of its format, {VERSION} is known"
                )
            }
            Self::Sum => out.write_str("the sum of the file's header is wrong"),
            Self::Numbers => {
                out.write_str("the numbers of the file's header contradict one another")
            }
        }
    }
}

impl std::error::Error for HeaderFault {}

/// What the headers of all files have in common: their first bytes, their version, and the sum at their end.
/// The version is looked at before the sum, because another version may have its sum elsewhere.
pub(super) fn check_header(
    header: &[u8],
    (found, wanted): ([u8; 4], [u8; 4]),
    version: u32,
) -> Result<(), HeaderFault> {
    let (_, sum) = header.split_last_chunk().ok_or(HeaderFault::Cut)?;
    match () {
        _ if found != wanted => Err(HeaderFault::Magic),
        _ if header_sum(header) == u32::from_le_bytes(*sum) && version == VERSION => Ok(()),
        // A flipped bit must not look like a later version, nor a later version like damage.
        _ if version > VERSION && version < VERSION_MAX => Err(HeaderFault::Version(version)),
        _ => Err(HeaderFault::Sum),
    }
}

/// No version will be as high as this; what is, is damage.
const VERSION_MAX: u32 = 64;

/// Bytes before the body of a block.
pub const BLOCK_HEADER_LEN: usize = size_of::<BlockHeader>();

/// First bytes of a block.
pub const BLOCK_MAGIC: [u8; 4] = *b"RKJB";

/// Flag of the block that says: the node stopped in order, nothing follows.
pub const CLEAN_END: u32 = 1;

/// One part of a unit over several shards, at the start of a block's body.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Participant {
    pub(super) shard: U32,
    /// Offset of the part's first frame.
    pub(super) first: U64,
}

/// Bytes of a participant.
pub(super) const PARTICIPANT_LEN: usize = size_of::<Participant>();
const _: () = assert!(PARTICIPANT_LEN == 12);

/// What stands before the body of a block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct BlockHeader {
    /// [`BLOCK_MAGIC`].
    pub(super) magic: [u8; 4],
    /// `CLEAN_END`, or nothing.
    pub(super) flags: U32,
    /// Number of the segment that it was written for.
    pub(super) segment: U64,
    /// Generation of its frames.
    pub(super) generation: U64,
    /// Offset of its first frame, or of the next frame if it has none.
    pub(super) first: U64,
    /// Every frame below this offset was known to be durable when the block was made.
    pub(super) durable: U64,
    /// Bytes of the body: participants, then frames.
    pub(super) body_len: U64,
    /// Shard whose frames these are.
    pub(super) shard: U32,
    /// Number of frames.
    pub(super) frame_count: U32,
    /// Database that the first frame finds itself in.
    pub(super) database: U32,
    /// Number of participants at the start of the body.
    pub(super) participant_count: U32,
    /// CRC-32 of the body.
    pub(super) body_crc: U32,
    /// CRC-32 of all before it in the header.
    pub(super) header_crc: U32,
}

const _: () = assert!(BLOCK_HEADER_LEN == 72);

impl BlockHeader {
    /// The sum that belongs into `header_crc`.
    pub(super) fn sum(&self) -> u32 {
        header_sum(self.as_bytes())
    }
}

/// CRC-32 of a header up to the sum in its last four bytes.
pub(super) fn header_sum(header: &[u8]) -> u32 {
    crc32fast::hash(&header[..header.len() - 4])
}
