//! A frame: one command with its offset, in the form in which it is written to disk and sent to replicas.
//!
//! ```text
//! *2 :offset *argc ($len arg)*         every word ends in CRLF
//! ```

use std::fmt;

use bytes::BytesMut;

/// How the names of frames begin that are notes of ours and no commands.
pub const NOTE: &[u8] = b"RINGKEEP.";

/// The name of a frame that changes nothing: up to there the shard has what a primary's stream had for it.
/// Stream, number of streams, generation, offset.
pub const AT: &str = "RINGKEEP.AT";

/// The name of a frame that changes nothing: from there on the shard is no primary's copy.
pub const ALONE: &str = "RINGKEEP.ALONE";

/// The name of a frame that changes nothing: for replicas that acknowledge frames, once they have got one.
pub const NUDGE: &str = "RINGKEEP.NUDGE";

/// The name of a frame of the first shard that changes no key: the sources of all libraries of functions.
pub const LIBRARIES: &str = "RINGKEEP.LIBRARIES";

/// The name of a frame that changes nothing. A replica that loaded a snapshot was told to be at the offset
/// that it names, until it had all that comes before this frame: in between it was nowhere.
pub const SHIPPED: &str = "RINGKEEP.SHIPPED";

/// The name of a frame that changes nothing: it has the offset of one of the primary's that changes nothing
/// here.
pub const SKIP: &str = "RINGKEEP.SKIP";

use crate::resp::{Args, ParseLimits, Parser, ProtocolError, Step};

/// Memory that frames are composed in.
pub(super) trait Room {
    fn len(&self) -> usize;
    fn reserve(&mut self, more: usize);
    fn append(&mut self, bytes: &[u8]);
    fn truncate(&mut self, len: usize);
}

impl Room for Vec<u8> {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        self.reserve(more);
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Room for BytesMut {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        self.reserve(more);
    }

    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// Appends one frame.
#[inline]
pub fn compose<'a>(
    out: &mut Vec<u8>,
    offset: u64,
    args: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    put(out, &Head::new(offset), args);
}

/// The same with a beginning that is known already.
#[inline]
pub(super) fn put<'a>(
    out: &mut impl Room,
    head: &Head,
    args: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
) {
    let len: usize = args.clone().map(|arg| arg.len() + NUMBER_LEN + 2).sum();
    out.reserve(len + HEAD_LEN + NUMBER_LEN);
    head.put(out);
    put_args(out, args);
}

/// Appends one frame without its beginning.
pub fn compose_args<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]> + Clone) {
    put_args(out, args);
}

#[inline]
fn put_args<'a>(out: &mut impl Room, args: impl ExactSizeIterator<Item = &'a [u8]> + Clone) {
    put_number(out, b'*', args.len());
    for arg in args {
        put_number(out, b'$', arg.len());
        out.append(arg);
        out.append(b"\r\n");
    }
}

/// `*2 :offset` of the next frame, as text that is counted up in place: from frame to frame only the last
/// digit differs mostly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    offset: u64,
    text: [u8; HEAD_LEN],
    len: usize,
}

impl Head {
    pub(super) fn new(offset: u64) -> Self {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(offset).as_bytes();
        let mut text = [0; HEAD_LEN];
        let len = HEAD_START.len() + digits.len() + 2;
        text[..HEAD_START.len()].copy_from_slice(HEAD_START);
        text[HEAD_START.len()..len - 2].copy_from_slice(digits);
        text[len - 2..len].copy_from_slice(b"\r\n");
        Self { offset, text, len }
    }

    /// The offset that it stands for.
    #[inline]
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    #[inline]
    pub(super) fn count_up(&mut self) {
        self.offset += 1;
        match self.text.get_mut(self.len - 3) {
            Some(digit @ b'0'..=b'8') => *digit += 1,
            _ => self.carry(),
        }
    }

    fn carry(&mut self) {
        *self = Self::new(self.offset);
    }

    /// Copies all of the text and cuts off what is too much: a length known beforehand needs no call.
    #[inline]
    fn put(&self, out: &mut impl Room) {
        let end = out.len() + self.len;
        out.append(&self.text);
        out.truncate(end);
    }

    /// Where the arguments begin, if the bytes begin with this.
    #[inline]
    fn is_before(&self, bytes: &[u8]) -> Option<usize> {
        (bytes.get(..self.len)? == self.text.get(..self.len)?).then_some(self.len)
    }
}

/// A count or length with its sign in front and its line end.
#[inline]
fn put_number(out: &mut impl Room, sign: u8, value: usize) {
    match value {
        0..10 => out.append(&[sign, b'0' + value as u8, b'\r', b'\n']),
        10..100 => {
            let value = value as u8;
            let (tens, ones) = (b'0' + value / 10, b'0' + value % 10);
            out.append(&[sign, tens, ones, b'\r', b'\n']);
        }
        _ => {
            let mut digits = itoa::Buffer::new();
            out.append(&[sign]);
            out.append(digits.format(value).as_bytes());
            out.append(b"\r\n");
        }
    }
}

/// One command of a shard's history.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its offset.
    pub offset: u64,
    /// The database that it works on.
    pub database: u32,
    /// Its name and arguments; at least one.
    pub args: Args<'a>,
}

/// What is wrong with frames whose sums are right: a file of a program that writes something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameFault {
    /// It does not begin with `*2`, an offset, and an array.
    Head,
    /// It has another offset than the place asks for.
    Offset {
        /// The least or only offset that fits.
        wanted: u64,
        /// What stands there.
        found: u64,
    },
    /// Its arguments cannot be told apart.
    Args,
    /// It is longer than 4 GiB.
    TooLong,
    /// A SELECT without the number of a database.
    Select,
    /// The bytes end inside of it.
    Cut,
    /// There are more bytes than frames.
    Surplus,
}

impl fmt::Display for FrameFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => out.write_str("a frame does not begin as one"),
            Self::Offset { wanted, found } => {
                write!(out, "a frame has offset {found} where {wanted} belongs")
            }
            Self::Args => out.write_str("the arguments of a frame cannot be told apart"),
            Self::TooLong => out.write_str("a frame is longer than 4 GiB"),
            Self::Select => out.write_str("a SELECT does not name a database"),
            Self::Cut => out.write_str("the last frame is cut short"),
            Self::Surplus => out.write_str("there are bytes behind the last frame"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// Reads the frames of a block or chunk one by one, in place. SELECT frames are followed and not shown.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u64,
    head: Head,
    order: Order,
    database: u32,
    parser: &'a mut Parser,
}

/// How offsets go on from frame to frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// By one.
    Dense,
    /// Upwards.
    Sparse,
}

impl<'a> Frames<'a> {
    /// The `count` frames that fill `bytes`, the first of them with offset `first`, or no lower one.
    pub(super) fn new(
        bytes: &'a [u8],
        (first, count): (u64, u64),
        order: Order,
        database: u32,
        parser: &'a mut Parser,
    ) -> Self {
        Self {
            bytes,
            at: 0,
            left: count,
            head: Head::new(first),
            order,
            database,
            parser,
        }
    }

    /// The `span.1` frames of `span.0` on that fill `bytes`, as replicas get them.
    pub fn of_part(
        bytes: &'a [u8],
        span: (u64, u64),
        database: u32,
        parser: &'a mut Parser,
    ) -> Self {
        Self::new(bytes, span, Order::Dense, database, parser)
    }

    /// The frames that were noted during a walk.
    pub fn noted(bytes: &'a [u8], count: u32, database: u32, parser: &'a mut Parser) -> Self {
        Self::new(bytes, (0, count.into()), Order::Sparse, database, parser)
    }

    /// Goes to the frame with this offset; where it begins in the bytes.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn skip_to(&mut self, offset: u64) -> Result<usize, FrameFault> {
        while self.left > 0 && self.head.offset() < offset {
            self.step()?;
        }
        Ok(self.at)
    }

    /// The next frame; `None` behind the last one.
    ///
    /// # Errors
    /// [`FrameFault`]: the sums of the file are right and its content is not. Nothing of the file is to be
    /// trusted.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, FrameFault> {
        loop {
            if self.left == 0 {
                let is_end = self.at == self.bytes.len();
                return if is_end {
                    Ok(None)
                } else {
                    Err(FrameFault::Surplus)
                };
            }
            let (offset, rest) = self.step()?;
            let args = Args::new(rest, self.parser.spans());
            if args.at(0) == b"SELECT" {
                self.database = selected(args).ok_or(FrameFault::Select)?;
                continue;
            }
            return Ok(Some(Frame {
                offset,
                database: self.database,
                args: Args::new(rest, self.parser.spans()),
            }));
        }
    }

    /// The database that the frame with this offset finds itself in.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn database_at(&mut self, offset: u64) -> Result<u32, FrameFault> {
        while self.left > 0 && self.head.offset() < offset {
            let (_, rest) = self.step()?;
            let args = Args::new(rest, self.parser.spans());
            if args.at(0) == b"SELECT" {
                self.database = selected(args).ok_or(FrameFault::Select)?;
            }
        }
        Ok(self.database)
    }

    /// Offset of the next frame, and the bytes that its arguments are in.
    #[inline]
    fn step(&mut self) -> Result<(u64, &'a [u8]), FrameFault> {
        let rest = &self.bytes[self.at..];
        let len = match self.head.is_before(rest) {
            Some(len) => len,
            None => self.other_head(rest)?,
        };
        let rest = &rest[len..];
        self.parser.clear();
        let args_len = match self.parser.next_plain(rest, 0) {
            Some(end) => end,
            None => args_end(self.parser, rest)?,
        };
        self.at += len + args_len;
        self.left -= 1;
        let offset = self.head.offset();
        self.head.count_up();
        Ok((offset, rest))
    }

    /// The beginning is not the one that comes next in a dense order. Reads it.
    fn other_head(&mut self, rest: &[u8]) -> Result<usize, FrameFault> {
        if rest.is_empty() {
            return Err(FrameFault::Cut);
        }
        let digits = rest.strip_prefix(HEAD_START).ok_or(FrameFault::Head)?;
        let end = digits.iter().take(21).position(|byte| *byte == b'\r');
        let end = end.ok_or(FrameFault::Head)?;
        let found = crate::base::parse_u64(&digits[..end]).ok_or(FrameFault::Head)?;
        let wanted = self.head.offset();
        if self.order == Order::Dense || found < wanted || found > OFFSET_MAX {
            return if found == wanted {
                Err(FrameFault::Head)
            } else {
                Err(FrameFault::Offset { wanted, found })
            };
        }
        self.head = Head::new(found);
        self.head.is_before(rest).ok_or(FrameFault::Head)
    }
}

/// Where the arguments at the start of the bytes end, whatever their size.
fn args_end(parser: &mut Parser, bytes: &[u8]) -> Result<usize, FrameFault> {
    if bytes.first().is_some_and(|first| *first != b'*') {
        return Err(FrameFault::Args);
    }
    let limits = ParseLimits {
        bulk_len_max: u32::MAX as usize,
        ..ParseLimits::default()
    };
    match parser.next(bytes, 0, &limits) {
        Ok(Step::Request { end, .. }) if end > u32::MAX as usize => Err(FrameFault::TooLong),
        Ok(Step::Request { end, .. }) => Ok(end),
        Ok(Step::More { .. }) => Err(FrameFault::Cut),
        Err(ProtocolError::BulkLength) => Err(FrameFault::TooLong),
        Ok(Step::Empty { .. } | Step::Unquoted { .. }) | Err(_) => Err(FrameFault::Args),
    }
}

fn selected(args: Args<'_>) -> Option<u32> {
    let number = args.get(1).filter(|_| args.len() == 2)?;
    u32::try_from(crate::base::parse_u64(number)?).ok()
}

/// No offset is higher: kevy reads them as signed numbers.
pub const OFFSET_MAX: u64 = i64::MAX as u64;

/// What every frame begins with, before its offset.
const HEAD_START: &[u8] = b"*2\r\n:";
/// The longest beginning of a frame: start, 20 digits, line end.
const HEAD_LEN: usize = HEAD_START.len() + 20 + 2;
/// The longest sign, number and line end.
const NUMBER_LEN: usize = 1 + 20 + 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the frames in `bytes` say, and how they end.
    fn read(bytes: &[u8], span: (u64, u64), order: Order) -> (Vec<String>, Option<FrameFault>) {
        let mut parser = Parser::default();
        let mut frames = Frames::new(bytes, span, order, 0, &mut parser);
        let mut found = Vec::new();
        loop {
            match frames.next() {
                Ok(Some(frame)) => {
                    let words: Vec<_> = frame.args.iter().map(String::from_utf8_lossy).collect();
                    let (offset, database) = (frame.offset, frame.database);
                    found.push(format!("{offset} {database} {}", words.join(" ")));
                }
                Ok(None) => return (found, None),
                Err(fault) => return (found, Some(fault)),
            }
        }
    }

    fn composed(frames: &[(u64, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, line) in frames {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            compose(&mut bytes, *offset, args.into_iter());
        }
        bytes
    }

    #[test]
    fn offsets_count_up_as_text() {
        for start in [0, 8, 98, 1999, 999_999_998, OFFSET_MAX - 13] {
            let mut head = Head::new(start);
            for next in start + 1..start + 12 {
                head.count_up();
                let want = format!("*2\r\n:{next}\r\n");
                assert_eq!(&head.text[..head.len], want.as_bytes());
            }
        }
    }

    #[test]
    fn frames_are_read_in_order_with_their_database() {
        let bytes = composed(&[
            (9, "SET a 1"),
            (10, "SELECT 15"),
            (11, "DEL b"),
            (12, "DEL c"),
        ]);
        let (found, fault) = read(&bytes, (9, 4), Order::Dense);
        assert_eq!(found, ["9 0 SET a 1", "11 15 DEL b", "12 15 DEL c"]);
        assert_eq!(fault, None);
        let bytes = composed(&[(9, "DEL a"), (30, "DEL b"), (31, "DEL c")]);
        let (found, fault) = read(&bytes, (5, 3), Order::Sparse);
        assert_eq!(found, ["9 0 DEL a", "30 0 DEL b", "31 0 DEL c"]);
        assert_eq!(fault, None);
    }

    #[test]
    fn large_arguments_are_read() {
        let value = "v".repeat(2000);
        let line = format!("RPUSH k{}", format!(" {value}").repeat(20));
        let bytes = composed(&[(1, &line), (2, "DEL a")]);
        let (found, fault) = read(&bytes, (1, 2), Order::Dense);
        assert_eq!((found.len(), fault), (2, None));
        assert_eq!(found[0], format!("1 0 {line}"));
    }

    #[test]
    fn what_is_wrong_with_frames_is_told() {
        let bytes = composed(&[(4, "DEL a"), (5, "DEL b")]);
        let fault = |bytes: &[u8], span| read(bytes, span, Order::Dense).1;
        let offset = |wanted, found| Some(FrameFault::Offset { wanted, found });
        assert_eq!(fault(&bytes, (3, 2)), offset(3, 4));
        assert_eq!(fault(&bytes, (4, 1)), Some(FrameFault::Surplus));
        assert_eq!(fault(&bytes, (4, 3)), Some(FrameFault::Cut));
        assert_eq!(
            fault(&bytes[..bytes.len() - 1], (4, 2)),
            Some(FrameFault::Cut)
        );
        assert_eq!(
            fault(b"*2\r\n:04\r\n*1\r\n$1\r\na\r\n", (4, 1)),
            Some(FrameFault::Head)
        );
        assert_eq!(
            fault(b"*2\r\n:4\r\nPING\r\n", (4, 1)),
            Some(FrameFault::Args)
        );
        assert_eq!(fault(b"*2\r\n:4\r\n*0\r\n", (4, 1)), Some(FrameFault::Args));
        assert_eq!(fault(b"+PING 1\r\n", (4, 1)), Some(FrameFault::Head));
        let bytes = composed(&[(4, "SELECT x")]);
        assert_eq!(fault(&bytes, (4, 1)), Some(FrameFault::Select));
        let bytes = composed(&[(4, "DEL a"), (4, "DEL b")]);
        let sparse = read(&bytes, (4, 2), Order::Sparse).1;
        assert_eq!(sparse, offset(5, 4));
    }
}
