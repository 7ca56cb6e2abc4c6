//! Reads a segment: its blocks in order, and how it ends.

use std::{fmt, ops::Range};

use zerocopy::FromBytes;

use super::{
    frame::{Frames, OFFSET_MAX, Order},
    segment::{
        BLOCK_HEADER_LEN, BLOCK_MAGIC, BlockHeader, CLEAN_END, HeaderFault, PARTICIPANT_LEN,
        Participant, SEGMENT_HEADER_LEN, Segment,
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
    /// The last good block is a clean end.
    is_clean: bool,
    last: Option<Landmark>,
    ended: Option<Ended>,
    parser: Parser,
}

/// Where and how the last good block begins.
type Landmark = (u64, [u8; BLOCK_HEADER_LEN]);

/// A place behind a good block, from which a scan of the same segment can go on another time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The segment.
    pub segment: Segment,
    /// Where in the file the place is.
    pub at: u64,
    next: u64,
    is_clean: bool,
    last: Option<Landmark>,
}

impl Mark {
    /// What stands where in the file if it is still the same: its header, and that of the block before the
    /// place.
    pub fn landmarks(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let last = self.last.map(|(at, header)| (at, header.to_vec()));
        [(0, self.segment.compose().to_vec())]
            .into_iter()
            .chain(last)
    }
}

/// What is known of the bytes behind the last good block.
#[derive(Clone, Copy, Debug)]
struct Ended {
    at: u64,
    /// Nothing is wrong with a place that has only zeros.
    reason: Option<BlockFault>,
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
    generation: u64,
    participants: &'a [Participant],
    frames: &'a [u8],
    parser: &'a mut Parser,
}

impl ScannedBlock<'_> {
    /// The parts of its unit by shard and first offset there; none if it is of this shard alone.
    pub fn participants(&self) -> impl ExactSizeIterator<Item = (u32, u64)> + Clone + use<'_> {
        self.participants
            .iter()
            .map(|row| (row.shard.get(), row.first.get()))
    }

    /// The history that it belongs to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The same as they stand there.
    pub fn frame_bytes(&self) -> &[u8] {
        self.frames
    }

    /// The database that its first frame finds itself in.
    pub fn database(&self) -> u32 {
        self.database
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
                write!(
                    out,
                    "a block begins with frame {found} where {wanted} belongs"
                )
            }
            Self::Numbers => out.write_str("the numbers of a block contradict one another"),
        }
    }
}

impl std::error::Error for BlockFault {}

impl Scan {
    /// Goes on behind a block of the same file: the first bytes are those at `mark.at`.
    pub fn behind(mark: Mark) -> Self {
        Self {
            base: mark.at,
            segment: Some(mark.segment),
            next: mark.next,
            is_clean: mark.is_clean,
            last: mark.last,
            ..Self::default()
        }
    }

    /// The place behind the last good block that was shown; `None` before the header was read.
    pub fn mark(&self) -> Option<Mark> {
        let at = self.base + self.at as u64;
        Some(Mark {
            segment: self.segment?,
            at: self.ended.map_or(at, |ended| ended.at),
            next: self.next,
            is_clean: self.is_clean,
            last: self.last,
        })
    }

    /// Was a place met where no good block begins?
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

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
        let Some(segment) = self.header()? else {
            return Ok(None);
        };
        if self.ended.is_none() {
            match self.look(&segment) {
                Look::Short => return Ok(None),
                Look::Block(header) => return Ok(Some(self.take(&header))),
                Look::Bad(reason) => self.end_here(Some(reason)),
            }
        }
        self.search(&segment);
        Ok(None)
    }

    /// The file has no more bytes. Blocks that [`next`](Scan::next) was not asked for are read and not shown.
    ///
    /// # Errors
    /// [`HeaderFault`], if the file ends inside its header.
    pub fn finish(mut self) -> Result<ScanEnd, HeaderFault> {
        let segment = self.header()?.ok_or(HeaderFault::Cut)?;
        while self.next()?.is_some() {}
        if self.ended.is_none() {
            let is_all = self.at == self.bytes.len();
            self.end_here((!is_all).then_some(BlockFault::Cut));
        }
        let ended = self.search(&segment);
        let has_zeros_only = ended.has_zeros_only && is_zero(&self.bytes[self.at..]);
        let reason = ended.reason.unwrap_or(BlockFault::Magic);
        let tail = match ended.proof {
            Some(proof) => Tail::Damaged { reason, proof },
            None if has_zeros_only && self.is_clean => Tail::Clean,
            None if has_zeros_only => Tail::Zeros,
            None => Tail::Torn(reason),
        };
        Ok(ScanEnd {
            next: self.next,
            at: ended.at,
            tail,
        })
    }

    /// The header of the file, read if it was not yet.
    fn header(&mut self) -> Result<Option<Segment>, HeaderFault> {
        if self.segment.is_none() && self.bytes.len() >= SEGMENT_HEADER_LEN {
            let segment = Segment::read(&self.bytes)?;
            self.next = segment.start.offset;
            self.at = SEGMENT_HEADER_LEN;
            self.segment = Some(segment);
        }
        Ok(self.segment)
    }

    fn look(&self, segment: &Segment) -> Look {
        let rest = &self.bytes[self.at..];
        let Ok((header, body)) = BlockHeader::ref_from_prefix(rest) else {
            return Look::Short;
        };
        if let Some(fault) = self.fault_of(header, segment) {
            return Look::Bad(fault);
        }
        let body_len = usize::try_from(header.body_len.get()).ok();
        let Some(body) = body_len.and_then(|len| body.get(..len)) else {
            return Look::Short;
        };
        if crc32fast::hash(body) != header.body_crc.get() {
            return Look::Bad(BlockFault::BodySum);
        }
        let own = (header.shard.get(), header.first.get());
        let mut rows = participants(header, body).0.iter();
        let has_own = rows.any(|row| (row.shard.get(), row.first.get()) == own);
        if header.participant_count.get() > 0 && !has_own {
            return Look::Bad(BlockFault::Numbers);
        }
        Look::Block(*header)
    }

    fn fault_of(&self, header: &BlockHeader, segment: &Segment) -> Option<BlockFault> {
        if header.magic != BLOCK_MAGIC {
            return Some(BlockFault::Magic);
        }
        if header.sum() != header.header_crc.get() {
            return Some(BlockFault::HeaderSum);
        }
        if !is_of(header, segment) {
            return Some(BlockFault::Foreign);
        }
        let (wanted, found) = (self.next, header.first.get());
        if found != wanted {
            return Some(BlockFault::Gap { wanted, found });
        }
        let frame_count = u64::from(header.frame_count.get());
        let participants_len = u64::from(header.participant_count.get()) * PARTICIPANT_LEN as u64;
        let flags = header.flags.get();
        let is_sound = found + frame_count <= OFFSET_MAX
            && header.durable.get() <= found
            && participants_len <= header.body_len.get()
            && flags & !CLEAN_END == 0
            && (frame_count > 0 || header.body_len.get() == 0)
            && (frame_count == 0 || flags == 0);
        (!is_sound).then_some(BlockFault::Numbers)
    }

    /// Steps over the block that was just found good.
    fn take(&mut self, header: &BlockHeader) -> ScannedBlock<'_> {
        let start = self.at + BLOCK_HEADER_LEN;
        let end = start + header.body_len.get() as usize;
        let at = self.base + self.at as u64;
        let first = header.first.get();
        let is_clean_end = header.flags.get() & CLEAN_END != 0;
        self.at = end;
        self.next = first + u64::from(header.frame_count.get());
        self.is_clean = is_clean_end;
        self.last = Some((at, zerocopy::transmute!(*header)));
        let (participants, frames) = participants(header, &self.bytes[start..end]);
        ScannedBlock {
            at,
            first,
            end: self.next,
            durable: header.durable.get(),
            is_clean_end,
            database: header.database.get(),
            generation: header.generation.get(),
            participants,
            frames,
            parser: &mut self.parser,
        }
    }

    fn end_here(&mut self, reason: Option<BlockFault>) {
        self.ended = Some(Ended {
            at: self.base + self.at as u64,
            reason,
            has_zeros_only: true,
            proof: None,
        });
    }

    /// Looks through what follows the last good block for a block that proves that more had been durable.
    fn search(&mut self, segment: &Segment) -> Ended {
        let mut ended = self.ended.expect("the last good block was found");
        let rest = &self.bytes[self.at..];
        let mut done = 0;
        if ended.proof.is_some() || is_zero(rest) {
            done = rest.len();
        }
        // Only beginnings whose header is there in full can be judged; the others wait for more bytes.
        while rest.len() - done >= BLOCK_HEADER_LEN {
            let last = rest.len() - BLOCK_HEADER_LEN;
            let magic = rest[done..=last]
                .iter()
                .position(|byte| *byte == BLOCK_MAGIC[0]);
            let Some(skipped) = magic else {
                done = last + 1;
                break;
            };
            let at = done + skipped;
            if proves(&rest[at..], segment, self.next) {
                ended.proof = Some(self.base + (self.at + at) as u64);
                done = rest.len();
                break;
            }
            done = at + 1;
        }
        ended.has_zeros_only &= is_zero(&rest[..done]);
        self.at += done;
        self.ended = Some(ended);
        ended
    }
}

/// The frames of a block that was written for the segment and whose header begins these bytes, wherever it
/// stands: what was there, though it cannot be counted any more.
pub fn stray_block(bytes: &[u8], segment: &Segment) -> Option<Range<u64>> {
    let (header, _) = BlockHeader::ref_from_prefix(bytes).ok()?;
    let is_good = header.magic == BLOCK_MAGIC
        && is_of(header, segment)
        && header.sum() == header.header_crc.get();
    let first = header.first.get();
    is_good.then(|| first..first.saturating_add(header.frame_count.get().into()))
}

/// What stands at a place where a block belongs.
enum Look {
    Short,
    Block(BlockHeader),
    Bad(BlockFault),
}

/// Was the block written for this segment?
fn is_of(header: &BlockHeader, segment: &Segment) -> bool {
    header.segment.get() == segment.seq
        && header.shard.get() == segment.shard
        && header.generation.get() == segment.start.generation
}

/// Does a block begin here that was written when frames from `next` on were durable?
fn proves(bytes: &[u8], segment: &Segment, next: u64) -> bool {
    let header = BlockHeader::ref_from_prefix(bytes);
    header.is_ok_and(|(header, _)| {
        header.magic == BLOCK_MAGIC
            && is_of(header, segment)
            && header.durable.get() > next
            && header.sum() == header.header_crc.get()
    })
}

/// The participants in a body, and the frames behind them.
fn participants<'a>(header: &BlockHeader, body: &'a [u8]) -> (&'a [Participant], &'a [u8]) {
    let count = header.participant_count.get() as usize;
    <[Participant]>::ref_from_prefix_with_elems(body, count).unwrap_or((&[], body))
}

/// Many bytes at a time: most of a segment may be zeros that nothing was written over.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(256)
        .all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Position, Stream};
    use proptest::{collection::vec, prelude::*};

    const SEGMENT: Segment = Segment {
        seq: 5,
        shard: 1,
        shard_count: 4,
        routing: 0,
        start: Position {
            generation: 9,
            offset: 100,
        },
        parent: Position {
            generation: 9,
            offset: 100,
        },
    };

    /// A file, where its blocks begin and where the last one ends.
    struct File {
        bytes: Vec<u8>,
        places: Vec<usize>,
    }

    /// A block of each line, its frames apart by `;`. Every block knows that those before are durable but
    /// for the last `late` of them.
    fn file(lines: &[&str], late: usize, is_clean: bool) -> File {
        let mut stream = Stream::new(SEGMENT.shard, SEGMENT.start);
        let mut bytes = SEGMENT.compose().to_vec();
        let mut places = vec![];
        let mut firsts = vec![SEGMENT.start.offset];
        for line in lines {
            for frame in line.split(';') {
                let args: Vec<&[u8]> = frame.split(' ').map(str::as_bytes).collect();
                stream.frame(0, args.into_iter());
            }
            match line.starts_with("SHARED") {
                true => {
                    let first = stream.unit_first().unwrap();
                    stream.end_shared_unit(&[(0, 7), (1, first)]);
                }
                false => stream.end_unit(),
            }
            let mut block = stream.take_block().unwrap();
            let known = firsts.len().saturating_sub(1 + late);
            block.seal(SEGMENT.seq, firsts[known]);
            firsts.push(block.end());
            places.push(bytes.len());
            bytes.extend_from_slice(block.bytes());
        }
        places.push(bytes.len());
        if is_clean {
            let mut block = stream.clean_end();
            block.seal(SEGMENT.seq, stream.next());
            bytes.extend_from_slice(block.bytes());
        }
        File { bytes, places }
    }

    /// All that is found, fed in pieces of `piece` bytes.
    fn scan(bytes: &[u8], piece: usize) -> Result<(Vec<String>, ScanEnd), HeaderFault> {
        let mut scan = Scan::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            scan.feed(piece);
            while let Some(mut block) = scan.next()? {
                let parts: Vec<(u32, u64)> = block.participants().collect();
                if !parts.is_empty() {
                    found.push(format!("{parts:?}"));
                }
                let mut frames = block.frames();
                while let Some(frame) = frames.next().expect("good frames") {
                    let words: Vec<_> = frame.args.iter().map(String::from_utf8_lossy).collect();
                    found.push(format!("{} {}", frame.offset, words.join(" ")));
                }
            }
        }
        Ok((found, scan.finish()?))
    }

    const LINES: [&str; 4] = ["DEL a;DEL b", "SHARED c", "SET d RKJB", "DEL e"];

    #[test]
    fn blocks_are_read_in_order_to_the_end() {
        let File { mut bytes, places } = file(&LINES, 1, false);
        let end = ScanEnd {
            next: 105,
            at: places[4] as u64,
            tail: Tail::Zeros,
        };
        let want = [
            "100 DEL a",
            "101 DEL b",
            "[(0, 7), (1, 102)]",
            "102 SHARED c",
            "103 SET d RKJB",
            "104 DEL e",
        ];
        let (found, found_end) = scan(&bytes, 4096).unwrap();
        assert_eq!(found, want);
        assert_eq!(found_end, end);
        bytes.resize(bytes.len() + 5000, 0);
        assert_eq!(scan(&bytes, 4096).unwrap().1, end);
        let clean = file(&LINES, 1, true);
        let (found, found_end) = scan(&clean.bytes, 4096).unwrap();
        assert_eq!((found.len(), found_end.tail), (6, Tail::Clean));
    }

    #[test]
    fn a_write_that_was_not_confirmed_is_a_torn_tail() {
        let File { bytes, places } = file(&LINES, 3, false);
        // Three blocks were on their way at once; the first of them did not arrive.
        let mut torn = bytes.clone();
        torn[places[1]..places[2]].fill(0);
        let (found, end) = scan(&torn, 4096).unwrap();
        assert_eq!(found, ["100 DEL a", "101 DEL b"]);
        assert_eq!((end.next, end.at), (102, places[1] as u64));
        assert_eq!(end.tail, Tail::Torn(BlockFault::Magic));
        for len in places[3] + 1..places[4] {
            let end = scan(&bytes[..len], 4096).unwrap().1;
            assert_eq!((end.next, end.tail), (104, Tail::Torn(BlockFault::Cut)));
        }
        let mut torn = bytes;
        torn[places[4] - 1] ^= 1;
        let end = scan(&torn, 4096).unwrap().1;
        assert_eq!((end.next, end.tail), (104, Tail::Torn(BlockFault::BodySum)));
    }

    #[test]
    fn what_had_been_durable_and_is_gone_is_damage() {
        let File { bytes, places } = file(&LINES, 0, true);
        let proof = |at: usize| places[at] as u64;
        let mut bad = bytes.clone();
        bad[places[1]..places[2]].fill(0);
        let end = scan(&bad, 4096).unwrap().1;
        let reason = BlockFault::Magic;
        let tail = Tail::Damaged {
            reason,
            proof: proof(2),
        };
        assert_eq!((end.next, end.at, end.tail), (102, proof(1), tail));
        // The clean end proves the last block.
        let mut bad = bytes;
        bad[places[4] - 3] ^= 4;
        let tail = Tail::Damaged {
            reason: BlockFault::BodySum,
            proof: proof(4),
        };
        let end = scan(&bad, 4096).unwrap().1;
        assert_eq!((end.next, end.tail), (104, tail));
    }

    #[test]
    fn what_follows_a_clean_end_counts_and_it_ends_clean_no_more() {
        let File { bytes, .. } = file(&LINES, 1, true);
        let mut stream = Stream::new(
            SEGMENT.shard,
            Position {
                offset: 105,
                ..SEGMENT.start
            },
        );
        let (_, end) = scan(&bytes, 4096).unwrap();
        assert_eq!(end.next, 105);
        stream.frame(0, [b"DEL".as_slice(), b"late"].into_iter());
        stream.end_unit();
        let mut block = stream.take_block().unwrap();
        block.seal(SEGMENT.seq, 105);
        let bytes = [&bytes[..end.at as usize], block.bytes()].concat();
        let (found, end) = scan(&bytes, 4096).unwrap();
        assert_eq!(found.last().map(String::as_str), Some("105 DEL late"));
        assert_eq!((end.next, end.tail), (106, Tail::Zeros));
        let torn = &bytes[..bytes.len() - 1];
        let (_, end) = scan(torn, 4096).unwrap();
        assert_eq!((end.next, end.tail), (105, Tail::Torn(BlockFault::Cut)));
    }

    #[test]
    fn blocks_of_another_time_are_none() {
        let File { bytes, places } = file(&LINES, 0, false);
        let mut recycled = bytes[..places[2]].to_vec();
        let mut stream = Stream::new(SEGMENT.shard, SEGMENT.start);
        for _ in 0..3 {
            stream.frame(0, [b"DEL".as_slice(), b"x"].into_iter());
        }
        stream.end_unit();
        let mut stale = stream.take_block().unwrap();
        stale.seal(SEGMENT.seq - 1, 100);
        recycled.extend_from_slice(stale.bytes());
        let end = scan(&recycled, 4096).unwrap().1;
        assert_eq!((end.next, end.tail), (103, Tail::Torn(BlockFault::Foreign)));
        recycled.truncate(places[2]);
        stale.seal(SEGMENT.seq, 100);
        recycled.extend_from_slice(stale.bytes());
        let (wanted, found) = (103, 100);
        let end = scan(&recycled, 4096).unwrap().1;
        assert_eq!(end.tail, Tail::Torn(BlockFault::Gap { wanted, found }));
    }

    #[test]
    fn a_header_that_cannot_be_read_is_told() {
        let File { mut bytes, .. } = file(&LINES, 0, false);
        assert_eq!(scan(&bytes[..63], 10).err(), Some(HeaderFault::Cut));
        bytes[20] ^= 1;
        assert_eq!(scan(&bytes, 4096).err(), Some(HeaderFault::Sum));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(
            lines in vec("DEL [a-z]{0,60}(;SET [a-z]{1,5} [A-Z]{0,300}){0,3}", 0..8),
            late in 0..3usize,
            is_clean in any::<bool>(),
            zeros in 0..300usize,
            damage in any::<Option<(prop::sample::Index, u8)>>(),
            kept in any::<Option<prop::sample::Index>>(),
            piece in 1..500usize,
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let File { mut bytes, .. } = file(&lines, late, is_clean);
            bytes.resize(bytes.len() + zeros, 0);
            if let Some((at, bits)) = damage {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            if let Some(kept) = kept {
                bytes.truncate(kept.index(bytes.len() + 1));
            }
            prop_assert_eq!(scan(&bytes, bytes.len().max(1)), scan(&bytes, piece));
        }

        #[test]
        fn what_was_composed_is_found(
            lines in vec("DEL [a-z]{0,60}(;SET [a-z]{1,5} [A-Z]{0,300}){0,3}", 0..8),
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (found, end) = scan(&file(&lines, 0, false).bytes, 1 << 16).unwrap();
            let frames = lines.iter().flat_map(|line| line.split(';')).zip(100..);
            let want: Vec<String> = frames.map(|(line, offset)| format!("{offset} {line}")).collect();
            prop_assert_eq!(end.next, 100 + want.len() as u64);
            prop_assert_eq!(found, want);
        }
    }
}
