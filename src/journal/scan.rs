//! Reads a segment: its blocks in order, and how it ends.

use std::fmt;

use zerocopy::{FromBytes, IntoBytes};

use super::{
    frame::{Frames, OFFSET_MAX, Order},
    segment::{
        BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, CLEAN_END, HeaderFault, PARTICIPANT_LEN,
        SEGMENT_HEADER_LEN, Segment,
    },
};
use crate::resp::Parser;

/// Walks over the bytes of one segment, in whatever pieces they come. Holds what it has not read yet: at
/// most a block and a piece.
///
/// [`feed`](Scan::feed) a piece, call [`next`](Scan::next) until it has no more, and so on; at the end of
/// the file [`finish`](Scan::finish) says how the segment ends.
#[derive(Debug, Default)]
pub struct Scan {
    bytes: Vec<u8>,
    /// First byte in `bytes` that was not read yet.
    at: usize,
    /// Where in the file `bytes` begins.
    base: u64,
    segment: Option<Segment>,
    next: u64,
    ended: Option<Ended>,
    parser: Parser,
}

/// What is known of the bytes behind the last good block.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: u64,
    /// Nothing is wrong with a place that has only zeros, or that follows a clean end.
    reason: Option<BlockFault>,
    is_clean: bool,
    has_zeros_only: bool,
    /// A later block that was written when more was durable than could be read.
    proof: Option<u64>,
}

/// A good block.
#[derive(Debug)]
pub struct ScannedBlock<'a> {
    /// Where in the file it begins.
    pub at: u64,
    /// Offset of its first frame.
    pub first: u64,
    /// Offset behind its last frame.
    pub end: u64,
    /// Every frame below this was durable before the block was written.
    pub durable: u64,
    /// The node stopped in order behind it.
    pub is_clean_end: bool,
    database: u32,
    participants: &'a [u8],
    frames: &'a [u8],
    parser: &'a mut Parser,
}

impl ScannedBlock<'_> {
    /// The parts of its unit by shard and first offset there; none if it is of this shard alone.
    pub fn participants(&self) -> impl ExactSizeIterator<Item = (u32, u64)> + Clone + use<'_> {
        let rows = self.participants.chunks_exact(PARTICIPANT_LEN);
        rows.map(|row| {
            let (shard, first) = row.split_at(4);
            (
                shard.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)),
                first.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            )
        })
    }

    /// Its frames. Their form has not been looked at yet.
    pub fn frames(&mut self) -> Frames<'_> {
        let span = (self.first, self.end - self.first);
        Frames::new(self.frames, span, Order::Dense, self.database, self.parser)
    }
}

/// How a segment ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanEnd {
    /// Offset behind the last good frame.
    pub next: u64,
    /// Where in the file the last good block ends.
    pub at: u64,
    /// What follows it.
    pub tail: Tail,
}

/// What follows the last good block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// The node stopped in order.
    Clean,
    /// Nothing, or zeros.
    Zeros,
    /// The remains of a write that was never confirmed, as far as this file tells.
    Torn(BlockFault),
    /// Something that had been durable and cannot be read any more.
    Damaged {
        /// What is wrong with the first bad block.
        reason: BlockFault,
        /// Where the block begins that proves it.
        proof: u64,
    },
}

/// What is wrong with the block at some place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockFault {
    /// The file ends inside of it.
    Cut,
    /// No block begins there.
    Magic,
    /// The sum of the header is another.
    HeaderSum,
    /// The sum of the body is another.
    BodySum,
    /// It was written for another segment, shard or generation.
    Foreign,
    /// Its frames do not follow those before.
    Gap {
        /// The offset that comes next.
        wanted: u64,
        /// The offset that it begins with.
        found: u64,
    },
    /// Its numbers contradict one another.
    Numbers,
}

impl fmt::Display for BlockFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => out.write_str("the file ends inside a block"),
            Self::Magic => out.write_str("no block begins there"),
            Self::HeaderSum => out.write_str("the sum of a block's header is wrong"),
            Self::BodySum => out.write_str("the sum of a block's body is wrong"),
            Self::Foreign => out.write_str("a block was written for another segment"),
            Self::Gap { wanted, found } => {
                write!(out, "a block begins with frame {found} where {wanted} belongs")
            }
            Self::Numbers => out.write_str("the numbers of a block contradict one another"),
        }
    }
}

impl std::error::Error for BlockFault {}

impl Scan {
    /// Takes the next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.base += self.at as u64;
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The segment's header, once it has been read.
    pub fn segment(&self) -> Option<&Segment> {
        self.segment.as_ref()
    }

    /// The next good block; `None` if more bytes are needed, or none will follow.
    ///
    /// # Errors
    /// [`HeaderFault`]: the file is no segment, or not one of this version.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<ScannedBlock<'_>>, HeaderFault> {
        let Some(segment) = self.segment()?.copied() else {
            return Ok(None);
        };
        if self.ended.is_none() {
            match self.look(&segment) {
                Look::Short => return Ok(None),
                Look::Block(header) => return Ok(Some(self.take(&header))),
                Look::Bad(reason) => self.end_at(Some(reason), false),
            }
        }
        self.search(&segment);
        Ok(None)
    }

    /// The file has no more bytes.
    ///
    /// # Errors
    /// [`HeaderFault`], if the file ends inside its header.
    pub fn finish(mut self) -> Result<ScanEnd, HeaderFault> {
        let Some(segment) = self.segment else {
            return Err(HeaderFault::Cut);
        };
        if self.ended.is_none() {
            let is_end = self.at == self.bytes.len();
            self.end_at((!is_end).then_some(BlockFault::Cut), false);
        }
        self.search(&segment);
        let ended = self.ended.expect("it was set above");
        let rest = &self.bytes[self.at..];
        let has_zeros_only = ended.has_zeros_only && is_zero(rest);
        let reason = ended.reason.unwrap_or(BlockFault::Magic);
        let tail = match ended.proof {
            Some(proof) => Tail::Damaged { reason, proof },
            None if ended.is_clean => Tail::Clean,
            None if has_zeros_only => Tail::Zeros,
            None => Tail::Torn(reason),
        };
        Ok(ScanEnd {
            next: self.next,
            at: ended.at,
            tail,
        })
    }
}
