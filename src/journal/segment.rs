//! The layouts of a journal file, a segment: its header, and the header of each block. Drawn in
//! `src/docs/journal.md`.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// Bytes before the body of a block.
pub const BLOCK_HEADER_LEN: usize = size_of::<BlockHeader>();

/// First bytes of a block.
pub const BLOCK_MAGIC: [u8; 4] = *b"RKJB";

/// Flag of the block that says: the node stopped in order, nothing follows.
pub const CLEAN_END: u32 = 1;

/// One participant of a unit over several shards, in a block's body: 12 bytes.
pub const PARTICIPANT_LEN: usize = 12;

/// What stands before the body of a block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct BlockHeader {
    /// [`BLOCK_MAGIC`].
    pub magic: [u8; 4],
    /// [`CLEAN_END`], or nothing.
    pub flags: U32,
    /// Number of the segment that it was written for.
    pub segment: U64,
    /// Generation of its frames.
    pub generation: U64,
    /// Offset of its first frame, or of the next frame if it has none.
    pub first: U64,
    /// Every frame below this offset was known to be durable when the block was made.
    pub durable: U64,
    /// Bytes of the body: participants, then frames.
    pub body_len: U64,
    /// Shard whose frames these are.
    pub shard: U32,
    /// Number of frames.
    pub frame_count: U32,
    /// Database that the first frame finds itself in.
    pub database: U32,
    /// Number of participants at the start of the body.
    pub participant_count: U32,
    /// CRC-32 of the body.
    pub body_crc: U32,
    /// CRC-32 of all before it in the header.
    pub header_crc: U32,
}

const _: () = assert!(BLOCK_HEADER_LEN == 72);

impl BlockHeader {
    /// The sum that belongs into [`header_crc`](Self::header_crc).
    pub fn sum(&self) -> u32 {
        header_sum(self.as_bytes())
    }
}

/// CRC-32 of a header up to the sum in its last four bytes.
pub(super) fn header_sum(header: &[u8]) -> u32 {
    crc32fast::hash(&header[..header.len() - 4])
}
