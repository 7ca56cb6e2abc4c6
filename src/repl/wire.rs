//! Cuts what a kevy primary sends into acknowledgements, pings, snapshot chunks and frames.
//!
//! ```text
//! +ACK [generation] offset         first, once; a ringkeep adds the database of the next frame,
//!                                  whether slots place keys, and the histories that its own goes on from:
//!                                  generation and end of each
//! +PING [generation] next          anywhere after
//! +SNAPSHOT [ship [from]], then $len chunk ..., then +SNAPSHOT_END next [end [stream at]...]
//!                                  a ringkeep names it, and the byte from which on it comes
//! *2 :offset *argc $len arg ...    a frame; not inside a snapshot
//! +UNITS end len sum joined [shard first ...]    the next so many bytes are frames that come together;
//!                                                only ringkeeps say so
//! ```
//! Every line ends in CRLF, and so do chunks and arguments.

use crate::resp::{Args, Span};

/// Bounds on what a primary may make us hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WireLimits {
    /// Longest frame in bytes, its own framing included. At most 4 GiB - 1.
    pub frame_len_max: usize,
    /// Most arguments of a frame.
    pub argc_max: usize,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            frame_len_max: 512 << 20,
            argc_max: 1 << 20,
        }
    }
}

/// What stands next in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// The handshake's answer. Always the first item, and never another.
    Ack {
        /// The primary's generation; absent from those before kevy 4.
        generation: Option<u64>,
        /// The offset we asked for, echoed.
        offset: u64,
        /// The database that the next frame is in; ringkeep alone tells, and where it has been before:
        /// [`Parser::pairs`] has generations and offsets.
        database: Option<u64>,
        /// Keys are placed by slots.
        has_slots: bool,
    },
    /// A heartbeat.
    Ping {
        /// The primary's generation, 0 if it named none.
        generation: u64,
        /// The offset that its next frame will get.
        next: u64,
    },
    /// A snapshot image follows in chunks.
    SnapshotBegin {
        /// Its name; ringkeep alone tells.
        ship: Option<u64>,
        /// Bytes of it that came over an earlier connection, and do not come again.
        from: u64,
    },
    /// A piece of the image, maybe empty: these bytes of the buffer. Pieces come as they arrive; where they
    /// are cut means nothing.
    Chunk {
        /// First byte in the buffer.
        start: usize,
        /// First byte after it.
        end: usize,
    },
    /// The image is complete.
    SnapshotEnd {
        /// The offset of the frame that follows the image.
        next: u64,
        /// Frames below this one belong to the image; ringkeep alone tells.
        end: Option<u64>,
    },
    /// The frames that follow, up to an offset, belong together; [`Parser::pairs`] tells where else.
    Units {
        /// The offset behind the last of them.
        end: u64,
        /// Their bytes.
        len: u64,
        /// The CRC-32 of these.
        sum: u32,
        /// Some of them can only be applied together.
        is_joined: bool,
    },
    /// A command; [`Parser::args`] gives its arguments.
    Frame {
        /// Its offset.
        offset: u64,
    },
}

/// An item and how many bytes of the buffer it used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The buffer begins with the next item after so many bytes.
    pub used: usize,
    /// What they were.
    pub item: Item,
}

/// What a primary sent that none may send. Every variant means: drop the link, reconnect later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The first byte of an item is none of `+`, `$`, `*`.
    UnknownItem(u8),
    /// A line that is not known, or has numbers where none belong, or lacks them.
    BadLine,
    /// A line longer than 256 bytes.
    LineTooLong,
    /// No digits where a number belongs, or a number that does not fit.
    BadNumber,
    /// Something else where CRLF belongs.
    BadLineEnd,
    /// Something else before the handshake's answer.
    AckMissing,
    /// A second answer to one handshake.
    AckRepeated,
    /// A chunk or the end of a snapshot outside of one.
    OutsideSnapshot,
    /// A frame or the begin of a snapshot inside of one.
    InsideSnapshot,
    /// A chunk of no bytes, or of more than 65536.
    BadChunkLen(u64),
    /// A frame is not an offset and an array of arguments.
    BadFrame,
    /// A frame without arguments, or with more than the limit.
    BadArgc(u64),
    /// A frame longer than the limit.
    FrameTooLong,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownItem(byte) => write!(out, "unknown item '{}'", byte.escape_ascii()),
            Self::BadLine => out.write_str("unknown line"),
            Self::LineTooLong => out.write_str("line too long"),
            Self::BadNumber => out.write_str("bad number"),
            Self::BadLineEnd => out.write_str("bad line end"),
            Self::AckMissing => out.write_str("no answer to the handshake"),
            Self::AckRepeated => out.write_str("second answer to the handshake"),
            Self::OutsideSnapshot => out.write_str("snapshot data outside of a snapshot"),
            Self::InsideSnapshot => out.write_str("live data inside a snapshot"),
            Self::BadChunkLen(len) => write!(out, "bad chunk length {len}"),
            Self::BadFrame => out.write_str("bad frame"),
            Self::BadArgc(argc) => write!(out, "bad argument count {argc}"),
            Self::FrameTooLong => out.write_str("frame too long"),
        }
    }
}

impl std::error::Error for WireError {}

/// Parses one connection, in place. In steady state it allocates nothing: the places of a frame's
/// arguments go into a vector that it keeps.
///
/// Call [`next`](Self::next) with the unread bytes until it returns `None`; then call again with the same
/// bytes and more behind them. An unfinished frame is not parsed again from its start.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: WireLimits,
    phase: Phase,
    frame: Option<OpenFrame>,
    spans: Vec<Span>,
    pairs: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Handshake,
    Live,
    Snapshot,
    /// Inside a chunk, with so many bytes of it to come.
    Chunk(usize),
    /// Behind a chunk's bytes, before its CRLF.
    ChunkEnd,
}

/// A frame of which a part has arrived.
#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    offset: u64,
    argc: usize,
    /// Where the next argument begins.
    at: usize,
}

/// Why nothing came out: more bytes may help, or not.
enum Stop {
    Short,
    Bad(WireError),
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Bad(error)
    }
}

impl Parser {
    /// A parser before the handshake's answer.
    pub fn new(limits: WireLimits) -> Self {
        let frame_len_max = limits.frame_len_max.min(u32::MAX as usize);
        Self {
            limits: WireLimits {
                frame_len_max,
                ..limits
            },
            phase: Phase::Handshake,
            frame: None,
            spans: Vec::new(),
            pairs: Vec::new(),
        }
    }

    /// Forgets the connection, for the next one.
    pub fn reset(&mut self) {
        self.phase = Phase::Handshake;
        self.frame = None;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT);
    }

    /// The next item at the start of `bytes`, or `None` if more bytes are needed first.
    ///
    /// # Errors
    /// The primary broke the protocol: drop the connection. Where the bytes were cut between calls makes
    /// no difference to items or errors.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Step>, WireError> {
        match self.item(bytes) {
            Ok(step) => Ok(Some(step)),
            Err(Stop::Short) => Ok(None),
            Err(Stop::Bad(error)) => Err(error),
        }
    }

    /// The arguments of the frame that [`next`](Self::next) just returned; `bytes` is what it got.
    pub fn args<'a>(&'a self, bytes: &'a [u8]) -> Args<'a> {
        Args::new(bytes, &self.spans)
    }

    /// Of [`Item::Units`] that [`next`](Self::next) just returned: streams and their offsets at which parts
    /// of the same unit begin. Of [`Item::Ack`]: the histories that the primary's goes on from, and their
    /// ends. Of [`Item::SnapshotEnd`]: streams and where they have to be for the copy to be whole.
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.pairs
    }

    /// Inside a snapshot, from its begin to its end.
    pub fn is_in_snapshot(&self) -> bool {
        matches!(
            self.phase,
            Phase::Snapshot | Phase::Chunk(_) | Phase::ChunkEnd
        )
    }

    fn item(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let first = *bytes.first().ok_or(Stop::Short)?;
        match (self.phase, first) {
            (Phase::Chunk(left), _) => Ok(self.piece(bytes, 0, left)),
            (Phase::ChunkEnd, _) => {
                let end = line_end(bytes, 0)?;
                self.phase = Phase::Snapshot;
                Ok(Step {
                    used: end,
                    item: Item::Chunk { start: end, end },
                })
            }
            (_, b'+') => self.line(bytes),
            (Phase::Handshake, _) => Err(WireError::AckMissing.into()),
            (Phase::Live, b'*') => self.frame(bytes),
            (Phase::Live, b'$') => Err(WireError::OutsideSnapshot.into()),
            (Phase::Snapshot, b'$') => {
                let (len, start) = number(bytes, 1)?;
                if len == 0 || len > CHUNK_LEN_MAX {
                    return Err(WireError::BadChunkLen(len).into());
                }
                Ok(self.piece(bytes, start, len as usize))
            }
            (Phase::Snapshot, b'*') => Err(WireError::InsideSnapshot.into()),
            (_, other) => Err(WireError::UnknownItem(other).into()),
        }
    }

    /// What is there of a chunk that has `left` bytes to come from `start` on.
    fn piece(&mut self, bytes: &[u8], start: usize, left: usize) -> Step {
        let len = left.min(bytes.len() - start);
        self.phase = if len == left {
            Phase::ChunkEnd
        } else {
            Phase::Chunk(left - len)
        };
        let end = start + len;
        Step {
            used: end,
            item: Item::Chunk { start, end },
        }
    }

    fn line(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let len_max = match bytes {
            [b'+', b'U', b'N', ..] | [b'+', b'S', ..] => UNITS_LINE_MAX,
            [b'+', b'A', ..] => ACK_LINE_MAX,
            _ => LINE_LEN_MAX,
        };
        let seen = &bytes[..bytes.len().min(len_max + 2)];
        let Some(len) = seen.windows(2).position(|pair| pair == b"\r\n") else {
            let full = seen.len() == len_max + 2;
            return Err(if full {
                WireError::LineTooLong.into()
            } else {
                Stop::Short
            });
        };
        let line = &bytes[..len];
        let item = if let Some(words) = line.strip_prefix(b"+UNITS ") {
            parse_units(words, &mut self.pairs)?
        } else if let Some(words) = line.strip_prefix(b"+ACK ") {
            parse_ack(words, &mut self.pairs)?
        } else if let Some(words) = line.strip_prefix(b"+SNAPSHOT_END ") {
            parse_snapshot_end(words, &mut self.pairs)?
        } else {
            parse_line(line)?
        };
        self.phase = match (self.phase, item) {
            (Phase::Handshake, Item::Ack { .. }) => Phase::Live,
            (Phase::Handshake, _) => return Err(WireError::AckMissing.into()),
            (Phase::Snapshot, Item::Units { .. }) => return Err(WireError::InsideSnapshot.into()),
            (_, Item::Ack { .. }) => return Err(WireError::AckRepeated.into()),
            (Phase::Snapshot, Item::SnapshotBegin { .. }) => {
                return Err(WireError::InsideSnapshot.into());
            }
            (_, Item::SnapshotBegin { .. }) => Phase::Snapshot,
            (Phase::Snapshot, Item::SnapshotEnd { .. }) => Phase::Live,
            (_, Item::SnapshotEnd { .. }) => return Err(WireError::OutsideSnapshot.into()),
            (phase, _) => phase,
        };
        Ok(Step {
            used: len + 2,
            item,
        })
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<Step, Stop> {
        let mut frame = match self.frame {
            Some(frame) => frame,
            None => {
                let frame = frame_head(bytes, self.limits)?;
                self.spans.clear();
                frame
            }
        };
        match self.arguments(bytes, &mut frame) {
            Ok(()) => {
                self.frame = None;
                Ok(Step {
                    used: frame.at,
                    item: Item::Frame {
                        offset: frame.offset,
                    },
                })
            }
            Err(stop) => {
                self.frame = Some(frame);
                Err(stop)
            }
        }
    }

    fn arguments(&mut self, bytes: &[u8], frame: &mut OpenFrame) -> Result<(), Stop> {
        while self.spans.len() < frame.argc {
            expect(bytes, frame.at, b'$')?;
            let (len, start) = number(bytes, frame.at + 1)?;
            if len > self.limits.frame_len_max as u64 {
                return Err(WireError::FrameTooLong.into());
            }
            let end = start + len as usize;
            // Known from its head already, so that nobody waits for a frame that will be refused.
            if end + 2 > self.limits.frame_len_max {
                return Err(WireError::FrameTooLong.into());
            }
            let next = line_end(bytes, end)?;
            self.spans.push(Span {
                start: start as u32,
                len: len as u32,
            });
            frame.at = next;
        }
        Ok(())
    }
}

/// `*2 :offset *argc`.
fn frame_head(bytes: &[u8], limits: WireLimits) -> Result<OpenFrame, Stop> {
    for (at, &wanted) in b"*2\r\n:".iter().enumerate() {
        expect(bytes, at, wanted)?;
    }
    let (offset, at) = number(bytes, 5)?;
    if offset > i64::MAX as u64 {
        return Err(WireError::BadNumber.into());
    }
    expect(bytes, at, b'*')?;
    let (argc, at) = number(bytes, at + 1)?;
    if argc == 0 || argc > limits.argc_max as u64 {
        return Err(WireError::BadArgc(argc).into());
    }
    Ok(OpenFrame {
        offset,
        argc: argc as usize,
        at,
    })
}

fn parse_line(line: &[u8]) -> Result<Item, WireError> {
    let mut words = line[1..].split(|&byte| byte == b' ');
    let name = words.next().unwrap_or_default();
    let mut numbers = [0; 2];
    let mut count = 0;
    for word in words {
        *numbers.get_mut(count).ok_or(WireError::BadLine)? =
            decimal(word).ok_or(WireError::BadNumber)?;
        count += 1;
    }
    let [first, second] = numbers;
    match (name, count) {
        (b"PING", 1) => Ok(Item::Ping {
            generation: 0,
            next: first,
        }),
        (b"PING", 2) => Ok(Item::Ping {
            generation: first,
            next: second,
        }),
        (b"SNAPSHOT", _) => Ok(Item::SnapshotBegin {
            ship: (count > 0).then_some(first),
            from: second,
        }),
        _ => Err(WireError::BadLine),
    }
}

/// Numbers between spaces, one by one.
fn numbers(words: &[u8]) -> impl FnMut() -> Result<Option<u64>, WireError> {
    let mut words = words.split(|&byte| byte == b' ');
    move || match words.next() {
        Some(word) => decimal(word).map(Some).ok_or(WireError::BadNumber),
        None => Ok(None),
    }
}

/// The rest of the numbers, two by two.
fn pairs(
    mut number: impl FnMut() -> Result<Option<u64>, WireError>,
    out: &mut Vec<(u64, u64)>,
) -> Result<(), WireError> {
    out.clear();
    while let Some(first) = number()? {
        out.push((first, number()?.ok_or(WireError::BadLine)?));
    }
    Ok(())
}

/// The words of a `+ACK`.
fn parse_ack(words: &[u8], histories: &mut Vec<(u64, u64)>) -> Result<Item, WireError> {
    let mut number = numbers(words);
    let first = number()?.ok_or(WireError::BadLine)?;
    let Some(offset) = number()? else {
        return Ok(Item::Ack {
            generation: None,
            offset: first,
            database: None,
            has_slots: false,
        });
    };
    let database = number()?;
    let has_slots = number()?.is_some_and(|slots| slots != 0);
    pairs(number, histories)?;
    Ok(Item::Ack {
        generation: Some(first),
        offset,
        database,
        has_slots,
    })
}

/// The words of a `+SNAPSHOT_END`.
fn parse_snapshot_end(words: &[u8], needs: &mut Vec<(u64, u64)>) -> Result<Item, WireError> {
    let mut number = numbers(words);
    let next = number()?.ok_or(WireError::BadLine)?;
    let end = number()?;
    pairs(number, needs)?;
    Ok(Item::SnapshotEnd { next, end })
}

/// The words of a `+UNITS`.
fn parse_units(words: &[u8], participants: &mut Vec<(u64, u64)>) -> Result<Item, WireError> {
    let mut number = numbers(words);
    let mut numbers = [0; 4];
    for place in &mut numbers {
        *place = number()?.ok_or(WireError::BadLine)?;
    }
    pairs(number, participants)?;
    let [end, len, sum, joined] = numbers;
    Ok(Item::Units {
        end,
        len,
        sum: u32::try_from(sum).map_err(|_| WireError::BadNumber)?,
        is_joined: joined != 0,
    })
}

/// A whole word of digits.
pub(super) fn decimal(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |value, &byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add((byte - b'0') as u64),
        _ => None,
    })
}

/// Digits and CRLF from `at` on: the number, and where the next thing begins.
#[inline]
fn number(bytes: &[u8], at: usize) -> Result<(u64, usize), Stop> {
    let mut value = 0_u64;
    let mut place = at;
    loop {
        match bytes.get(place) {
            Some(&byte @ b'0'..=b'9') if place - at < DIGITS_MAX => {
                let digit = (byte - b'0') as u64;
                // Only the last digit that a u64 can have can be too much for it.
                value = if place - at < DIGITS_MAX - 1 {
                    value * 10 + digit
                } else {
                    let grown = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(digit));
                    grown.ok_or(WireError::BadNumber)?
                };
                place += 1;
            }
            Some(b'\r') if place > at => return Ok((value, line_end(bytes, place)?)),
            Some(_) => return Err(WireError::BadNumber.into()),
            None => return Err(Stop::Short),
        }
    }
}

/// CRLF at `at`: where the next thing begins.
#[inline]
fn line_end(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(at + 2),
        (None, _) | (Some(b'\r'), None) => Err(Stop::Short),
        _ => Err(WireError::BadLineEnd.into()),
    }
}

#[inline]
fn expect(bytes: &[u8], at: usize, wanted: u8) -> Result<(), Stop> {
    match bytes.get(at) {
        Some(&found) if found == wanted => Ok(()),
        Some(_) => Err(WireError::BadFrame.into()),
        None => Err(Stop::Short),
    }
}

const LINE_LEN_MAX: usize = 256;
/// Longest answer to a handshake: it names a few histories.
const ACK_LINE_MAX: usize = 1024;
/// It may name all shards.
const UNITS_LINE_MAX: usize = 64 << 10;
const CHUNK_LEN_MAX: u64 = 65536;
/// A u64 has at most 20; more can only be leading zeros.
const DIGITS_MAX: usize = 20;
/// Places kept from connection to connection; a frame with more is rare.
const SPANS_KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An item with its bytes, for comparison.
    #[derive(Clone, PartialEq, Debug)]
    enum Seen {
        Item(Item),
        Image(Vec<u8>),
        Frame(u64, Vec<Vec<u8>>),
    }

    /// Parses `bytes` as they arrive cut at `cuts`; keeps what is unread, as a caller would.
    fn parse(
        bytes: &[u8],
        cuts: &[usize],
        limits: WireLimits,
    ) -> (Vec<Seen>, usize, Option<WireError>) {
        let mut parser = Parser::new(limits);
        let mut seen = Vec::new();
        let mut read = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            loop {
                let unread = &bytes[read.min(cut)..cut];
                match parser.next(unread) {
                    Err(error) => return (seen, read, Some(error)),
                    Ok(None) => break,
                    Ok(Some(step)) => {
                        note(&mut seen, step.item, unread, &parser);
                        read += step.used;
                    }
                }
            }
        }
        (seen, read, None)
    }

    fn note(seen: &mut Vec<Seen>, item: Item, bytes: &[u8], parser: &Parser) {
        match item {
            Item::Frame { offset } => {
                seen.push(Seen::Frame(
                    offset,
                    parser.args(bytes).iter().map(<[u8]>::to_vec).collect(),
                ));
            }
            Item::Chunk { start, end } => match seen.last_mut() {
                Some(Seen::Image(image)) => image.extend_from_slice(&bytes[start..end]),
                _ => seen.push(Seen::Image(bytes[start..end].to_vec())),
            },
            other => seen.push(Seen::Item(other)),
        }
    }

    fn whole(bytes: &[u8]) -> (Vec<Seen>, usize, Option<WireError>) {
        parse(bytes, &[], WireLimits::default())
    }

    fn error_of(bytes: &[u8]) -> WireError {
        whole(bytes).2.expect("refused")
    }

    const STREAM: &[u8] = b"+ACK 7 0\r\n+SNAPSHOT\r\n+PING 7 99\r\n$3\r\na\r\n\r\n$1\r\nz\r\n\
        +SNAPSHOT_END 99\r\n*2\r\n:99\r\n*3\r\n$3\r\nSET\r\n$3\r\nfoo\r\n$0\r\n\r\n+PING 100\r\n";

    #[test]
    fn a_stream_comes_apart_into_its_items() {
        let (seen, used, error) = whole(STREAM);
        assert_eq!(error, None);
        assert_eq!(used, STREAM.len());
        let arguments = [&b"SET"[..], b"foo", b""].map(<[u8]>::to_vec).to_vec();
        assert_eq!(
            seen,
            [
                Seen::Item(Item::Ack {
                    generation: Some(7),
                    offset: 0,
                    database: None,
                    has_slots: false,
                }),
                Seen::Item(Item::SnapshotBegin {
                    ship: None,
                    from: 0
                }),
                Seen::Item(Item::Ping {
                    generation: 7,
                    next: 99
                }),
                Seen::Image(b"a\r\nz".to_vec()),
                Seen::Item(Item::SnapshotEnd {
                    next: 99,
                    end: None,
                }),
                Seen::Frame(99, arguments),
                Seen::Item(Item::Ping {
                    generation: 0,
                    next: 100
                }),
            ]
        );
    }

    #[test]
    fn the_end_of_a_snapshot_names_streams_in_pairs() {
        let head = b"+ACK 7 0\r\n+SNAPSHOT\r\n".to_vec();
        let end = |line: &[u8]| [&head[..], line].concat();
        let limits = WireLimits::default();
        let mut parser = Parser::new(limits);
        let bytes = end(b"+SNAPSHOT_END 5 7 1 90 3 12\r\n");
        let mut at = 0;
        while let Ok(Some(step)) = parser.next(&bytes[at..]) {
            at += step.used;
        }
        assert_eq!((at, parser.pairs()), (bytes.len(), &[(1, 90), (3, 12)][..]));
        for odd in [&b"+SNAPSHOT_END 5 7 1\r\n"[..], b"+SNAPSHOT_END \r\n"] {
            assert!(whole(&end(odd)).2.is_some(), "{odd:?}");
        }
    }

    #[test]
    fn every_cut_point_waits_for_more() {
        for cut in 0..STREAM.len() {
            let (_, used, error) = whole(&STREAM[..cut]);
            assert_eq!(error, None, "cut at {cut}");
            assert!(used <= cut);
            assert_eq!(
                parse(STREAM, &[cut], WireLimits::default()),
                whole(STREAM),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn what_no_primary_may_send_is_refused_by_name() {
        let live = |tail: &str| error_of(format!("+ACK 1 2\r\n{tail}").as_bytes());
        let inside = |tail: &str| error_of(format!("+ACK 1 2\r\n+SNAPSHOT\r\n{tail}").as_bytes());
        assert_eq!(error_of(b"-ERR no\r\n"), WireError::AckMissing);
        assert_eq!(error_of(b"+PING 1 2\r\n"), WireError::AckMissing);
        assert_eq!(error_of(b"+ACK -1\r\n"), WireError::BadNumber);
        assert_eq!(error_of(b"+ACK 1 2 3 4 5\r\n"), WireError::BadLine);
        assert_eq!(
            error_of(b"+ACK 18446744073709551616\r\n"),
            WireError::BadNumber
        );
        assert_eq!(live("+ACK 1 2\r\n"), WireError::AckRepeated);
        assert_eq!(live("+FULLRESYNC\r\n"), WireError::BadLine);
        assert_eq!(live("+PING  1\r\n"), WireError::BadNumber);
        assert_eq!(live("$1\r\nx\r\n"), WireError::OutsideSnapshot);
        assert_eq!(live("+SNAPSHOT_END 1\r\n"), WireError::OutsideSnapshot);
        assert_eq!(live("x"), WireError::UnknownItem(b'x'));
        assert_eq!(live("*3\r\n"), WireError::BadFrame);
        assert_eq!(live("*2\r\n$1"), WireError::BadFrame);
        assert_eq!(live("*2\r\n:-1\r\n"), WireError::BadNumber);
        assert_eq!(live("*2\r\n:9223372036854775808\r\n"), WireError::BadNumber);
        assert_eq!(live("*2\r\n:1\r\n*0\r\n"), WireError::BadArgc(0));
        assert_eq!(
            live("*2\r\n:1\r\n*1048577\r\n"),
            WireError::BadArgc(1048577)
        );
        assert_eq!(live("*2\r\n:1\r\n*1\r\n:1"), WireError::BadFrame);
        assert_eq!(live("*2\r\n:1\r\n*1\r\n$2\r\nabc"), WireError::BadLineEnd);
        assert_eq!(
            live("*2\r\n:1\r\n*1\r\n$536870912\r\n"),
            WireError::FrameTooLong
        );
        assert_eq!(
            live("*2\r\n:000000000000000000001\r\n"),
            WireError::BadNumber
        );
        assert_eq!(inside("*2\r\n"), WireError::InsideSnapshot);
        assert_eq!(inside("+SNAPSHOT\r\n"), WireError::InsideSnapshot);
        assert_eq!(inside("$0\r\n"), WireError::BadChunkLen(0));
        assert_eq!(inside("$65537\r\n"), WireError::BadChunkLen(65537));
        assert_eq!(inside("$1\r\nxx"), WireError::BadLineEnd);
    }

    #[test]
    fn units_name_their_frames_and_where_the_others_are() {
        let mut parser = Parser::new(WireLimits::default());
        let bytes = b"+ACK 1 2 0\r\n+UNITS 9 100 4294967295 1 0 7 12 8\r\n";
        let used = parser.next(bytes).unwrap().unwrap().used;
        let step = parser.next(&bytes[used..]).unwrap().unwrap();
        let units = Item::Units {
            end: 9,
            len: 100,
            sum: u32::MAX,
            is_joined: true,
        };
        assert_eq!((step.item, parser.pairs()), (units, &[(0, 7), (12, 8)][..]));
        let live = |tail: &str| error_of(format!("+ACK 1 2\r\n{tail}").as_bytes());
        assert_eq!(live("+UNITS 9 100 1\r\n"), WireError::BadLine);
        assert_eq!(live("+UNITS 9 100 4294967296 1\r\n"), WireError::BadNumber);
        assert_eq!(live("+UNITS 9 100 1 1 5\r\n"), WireError::BadLine);
        assert_eq!(
            live("+SNAPSHOT\r\n+UNITS 9 100 1 1\r\n"),
            WireError::InsideSnapshot
        );
    }

    #[test]
    fn a_line_may_have_256_bytes_and_no_more() {
        let padded = |zeros: usize| format!("+PING {}1\r\n", "0".repeat(zeros)).into_bytes();
        let live = |line: &[u8]| whole(&[b"+ACK 1\r\n", line].concat());
        let ping = Item::Ping {
            generation: 0,
            next: 1,
        };
        assert_eq!(live(&padded(249)).0[1..], [Seen::Item(ping)]);
        assert_eq!(live(&padded(250)).2, Some(WireError::LineTooLong));
        assert_eq!(live(&padded(250)[..257]).2, None);
        let cut = live(&padded(500)[..258]);
        assert_eq!(cut.2, Some(WireError::LineTooLong));
    }

    #[test]
    fn a_ringkeep_answers_with_the_histories_that_its_own_goes_on_from() {
        let mut parser = Parser::new(WireLimits::default());
        let step = parser.next(b"+ACK 9 50 3 1 8 40 7 30\r\n").unwrap();
        let ack = Item::Ack {
            generation: Some(9),
            offset: 50,
            database: Some(3),
            has_slots: true,
        };
        assert_eq!(step.map(|step| step.item), Some(ack));
        assert_eq!(parser.pairs(), [(8, 40), (7, 30)]);
        assert_eq!(error_of(b"+ACK 9 50 3 1 8\r\n"), WireError::BadLine);
        assert_eq!(error_of(b"+ACK 9 x\r\n"), WireError::BadNumber);
    }

    #[test]
    fn a_long_frame_is_refused_from_its_head() {
        let limits = WireLimits {
            frame_len_max: 40,
            argc_max: 10,
        };
        let fits = b"+ACK 1\r\n*2\r\n:1\r\n*1\r\n$20\r\n01234567890123456789\r\n";
        assert_eq!(parse(fits, &[], limits).2, None);
        let long = b"+ACK 1\r\n*2\r\n:1\r\n*1\r\n$40\r\n";
        assert_eq!(parse(long, &[], limits).2, Some(WireError::FrameTooLong));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let frame = (
            any::<u16>(),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..5),
        )
            .prop_map(|(offset, args)| {
                let mut bytes = format!("*2\r\n:{offset}\r\n*{}\r\n", args.len()).into_bytes();
                for arg in args {
                    bytes.extend(format!("${}\r\n", arg.len()).bytes());
                    bytes.extend(arg);
                    bytes.extend(b"\r\n");
                }
                bytes
            });
        let ping = (any::<u64>(), any::<u64>())
            .prop_map(|(g, n)| format!("+PING {g} {n}\r\n").into_bytes());
        let snapshot = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..30), 0..4)
            .prop_map(|chunks| {
                let mut bytes = b"+SNAPSHOT\r\n".to_vec();
                for chunk in chunks {
                    bytes.extend(format!("${}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"+SNAPSHOT_END 5\r\n");
                bytes
            });
        let item = prop_oneof![4 => frame, 1 => ping, 1 => snapshot];
        prop::collection::vec(item, 0..12)
            .prop_map(|items| [b"+ACK 1 0\r\n".to_vec(), items.concat()].concat())
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_changes_nothing(
            mut bytes in stream(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            for (at, to) in flips {
                let at = at.index(bytes.len());
                bytes[at] = to;
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let (seen, _, error) = parse(&bytes, &cuts, WireLimits::default());
            let (seen_whole, _, error_whole) = whole(&bytes);
            prop_assert_eq!(error, error_whole);
            // Empty pieces differ with the cuts; the bytes do not.
            prop_assert_eq!(seen, seen_whole);
        }

        #[test]
        fn well_formed_streams_are_used_up(bytes in stream()) {
            let (_, used, error) = whole(&bytes);
            prop_assert_eq!(error, None);
            prop_assert_eq!(used, bytes.len());
        }

        #[test]
        fn one_byte_at_a_time_is_the_same(bytes in stream()) {
            let cuts: Vec<_> = (0..bytes.len()).collect();
            prop_assert_eq!(parse(&bytes, &cuts, WireLimits::default()), whole(&bytes));
        }
    }
}
