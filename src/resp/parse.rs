//! Requests out of bytes, in place.
//!
//! The parser walks over the receive buffer and notes where the arguments are; nothing is copied. A
//! request that is not complete leaves the parser in the middle of it, so that a large request is
//! never walked twice: the caller keeps its bytes together and calls again with more of them.

use super::{OwnedArgs, Span};

/// Bounds on what a client may send.
#[derive(Clone, Copy, Debug)]
pub struct ParseLimits {
    /// Longest argument (`proto-max-bulk-len`).
    pub bulk_len_max: usize,
    /// Most arguments of one request.
    pub args_max: usize,
    /// The client has to show a password first: what that takes is little.
    pub is_unknown: bool,
}

impl Default for ParseLimits {
    fn default() -> Self {
        Self {
            bulk_len_max: 512 << 20,
            args_max: i32::MAX as usize,
            is_unknown: false,
        }
    }
}

/// What a client may send that has to show a password first.
const UNKNOWN_ARGS_MAX: u64 = 10;
const UNKNOWN_BULK_LEN_MAX: u64 = 16 << 10;

/// Longest line: an inline request, or a header that never ends.
const LINE_MAX: usize = 64 * 1024;

/// Why the bytes are no request. The client gets the text as an error reply and is closed, because
/// the next request cannot be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// The number of arguments is no number or too large.
    ArrayLength,
    /// There are more arguments than it takes to show a password.
    UnknownArrayLength,
    /// An argument's length is no number or too large.
    BulkLength,
    /// An argument is longer than it takes to show a password.
    UnknownBulkLength,
    /// An argument begins with another byte than `$`.
    ExpectedBulk(u8),
    /// An array header does not end.
    ArrayLineTooLong,
    /// An argument header does not end.
    BulkLineTooLong,
    /// An inline request does not end.
    InlineTooLong,
    /// Quotes in an inline request do not close.
    Quotes,
    /// An argument is not followed by a line end.
    ExpectedLineEnd,
}

impl ProtocolError {
    /// The error reply.
    pub fn reply(&self) -> super::Error {
        let text = match self {
            ProtocolError::ArrayLength => "invalid multibulk length".to_string(),
            ProtocolError::UnknownArrayLength => "unauthenticated multibulk length".to_string(),
            ProtocolError::BulkLength => "invalid bulk length".to_string(),
            ProtocolError::UnknownBulkLength => "unauthenticated bulk length".to_string(),
            ProtocolError::ExpectedBulk(got) => format!("expected '$', got '{}'", *got as char),
            ProtocolError::ArrayLineTooLong => "too big mbulk count string".to_string(),
            ProtocolError::BulkLineTooLong => "too big bulk count string".to_string(),
            ProtocolError::InlineTooLong => "too big inline request".to_string(),
            ProtocolError::Quotes => "unbalanced quotes in request".to_string(),
            ProtocolError::ExpectedLineEnd => "expected line end after bulk".to_string(),
        };
        super::Error::text(format!("ERR Protocol error: {text}"))
    }
}

/// What the parser found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A request: `count` spans from `first` on in [`Parser::spans`]. The next one starts at `end`.
    Request {
        /// Index of the first span.
        first: usize,
        /// Number of arguments.
        count: usize,
        /// Where the next request starts.
        end: usize,
    },
    /// An inline request that had to be unquoted.
    Unquoted {
        /// Its arguments.
        args: OwnedArgs,
        /// Where the next request starts.
        end: usize,
    },
    /// A request without arguments, to be skipped.
    Empty {
        /// Where the next request starts.
        end: usize,
    },
    /// The bytes end inside a request. It is complete not before the buffer has `len_min` bytes.
    More {
        /// Length that the buffer must reach at least.
        len_min: usize,
    },
}

/// An incremental request parser. See the module page.
#[derive(Debug, Default)]
pub struct Parser {
    spans: Vec<Span>,
    /// The request under way: its first span, where parsing goes on, and arguments still missing.
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    first: usize,
    at: usize,
    missing: usize,
}

impl Parser {
    /// The spans of the requests since the last [`clear`](Parser::clear).
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Memory that it holds.
    pub fn bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>()
    }

    /// Forgets all requests and any unfinished one.
    pub fn clear(&mut self) {
        self.spans.clear();
        self.open = None;
    }

    /// Hands an unfinished request over to a parser of its own, whose buffer will start where that
    /// request starts, at `from` in this one's buffer.
    pub fn split_open(&mut self, from: usize) -> Parser {
        let Some(open) = self.open.take() else {
            return Parser::default();
        };
        if from == 0 && open.first == 0 {
            // There may be millions of arguments already.
            return Parser {
                spans: std::mem::take(&mut self.spans),
                open: Some(open),
            };
        }
        let moved = self.spans.drain(open.first..);
        let spans = moved
            .map(|span| Span {
                start: span.start - from as u32,
                ..span
            })
            .collect();
        Parser {
            spans,
            open: Some(Open {
                first: 0,
                at: open.at - from,
                ..open
            }),
        }
    }

    /// Finds the request that starts at `from`. After [`Step::More`], call again with the same
    /// `from` and a buffer that has the same bytes and more.
    ///
    /// # Errors
    /// [`ProtocolError`]: the stream is lost from here on.
    pub fn next(
        &mut self,
        buffer: &[u8],
        from: usize,
        limits: &ParseLimits,
    ) -> Result<Step, ProtocolError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                match buffer.get(from) {
                    None => return Ok(Step::More { len_min: from + 1 }),
                    Some(b'*') => {}
                    Some(_) => return self.inline(buffer, from),
                }
                let Some((count, at)) = header(buffer, from + 1) else {
                    if buffer.len() - from > LINE_MAX {
                        return Err(ProtocolError::ArrayLineTooLong);
                    }
                    return Ok(Step::More {
                        len_min: buffer.len() + 1,
                    });
                };
                let count = count.ok_or(ProtocolError::ArrayLength)?;
                if count <= 0 {
                    return Ok(Step::Empty { end: at });
                }
                if count as u64 > limits.args_max as u64 {
                    return Err(ProtocolError::ArrayLength);
                }
                if limits.is_unknown && count as u64 > UNKNOWN_ARGS_MAX {
                    return Err(ProtocolError::UnknownArrayLength);
                }
                Open {
                    first: self.spans.len(),
                    at,
                    missing: count as usize,
                }
            }
        };
        while open.missing > 0 {
            match buffer.get(open.at) {
                Some(b'$') => {}
                Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
                None => return Ok(self.pause(open, buffer.len() + 1)),
            }
            let Some((len, start)) = header(buffer, open.at + 1) else {
                if buffer.len() - open.at > LINE_MAX {
                    return Err(ProtocolError::BulkLineTooLong);
                }
                return Ok(self.pause(open, buffer.len() + 1));
            };
            let len = match len {
                Some(len @ 0..) if len as u64 <= limits.bulk_len_max as u64 => len as usize,
                _ => return Err(ProtocolError::BulkLength),
            };
            if limits.is_unknown && len as u64 > UNKNOWN_BULK_LEN_MAX {
                return Err(ProtocolError::UnknownBulkLength);
            }
            let end = start + len;
            if buffer.len() < end + 2 {
                return Ok(self.pause(open, end + 2));
            }
            if buffer[end..end + 2] != *b"\r\n" {
                return Err(ProtocolError::ExpectedLineEnd);
            }
            self.spans.push(Span {
                start: start as u32,
                len: len as u32,
            });
            open.at = end + 2;
            open.missing -= 1;
        }
        Ok(Step::Request {
            first: open.first,
            count: self.spans.len() - open.first,
            end: open.at,
        })
    }

    /// Finds the request that starts at `from` if it is whole and of the form that nearly all have: up
    /// to nine arguments of up to 999 bytes. Its spans are appended; returns where the next one starts.
    /// `None` says nothing about the request: [`next`](Parser::next) does.
    #[inline]
    pub fn next_plain(&mut self, buffer: &[u8], from: usize) -> Option<usize> {
        if self.open.is_some() {
            return None;
        }
        let first = self.spans.len();
        let (count, mut at) = plain_header(buffer, from, b'*')?;
        for _ in 0..count {
            let span = plain_header(buffer, at, b'$').and_then(|(len, start)| {
                let line_end = buffer.get(start + len..start + len + 2)?;
                (line_end == b"\r\n").then_some((len, start))
            });
            let Some((len, start)) = span else {
                self.spans.truncate(first);
                return None;
            };
            self.spans.push(Span {
                start: start as u32,
                len: len as u32,
            });
            at = start + len + 2;
        }
        (count > 0).then_some(at)
    }

    fn pause(&mut self, open: Open, len_min: usize) -> Step {
        self.open = Some(open);
        Step::More { len_min }
    }

    fn inline(&mut self, buffer: &[u8], from: usize) -> Result<Step, ProtocolError> {
        let Some(len) = buffer[from..]
            .iter()
            .take(LINE_MAX + 1)
            .position(|byte| *byte == b'\n')
        else {
            if buffer.len() - from > LINE_MAX {
                return Err(ProtocolError::InlineTooLong);
            }
            return Ok(Step::More {
                len_min: buffer.len() + 1,
            });
        };
        let end = from + len + 1;
        let line = &buffer[from..from + len];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
            let args = unquote(line).ok_or(ProtocolError::Quotes)?;
            return Ok(if args.as_args().is_empty() {
                Step::Empty { end }
            } else {
                Step::Unquoted { args, end }
            });
        }
        let first = self.spans.len();
        let mut at = 0;
        while at < line.len() {
            if is_space(line[at]) {
                at += 1;
                continue;
            }
            let len = line[at..]
                .iter()
                .position(|byte| is_space(*byte))
                .unwrap_or(line.len() - at);
            self.spans.push(Span {
                start: (from + at) as u32,
                len: len as u32,
            });
            at += len;
        }
        let count = self.spans.len() - first;
        Ok(if count == 0 {
            Step::Empty { end }
        } else {
            Step::Request { first, count, end }
        })
    }
}

/// The first argument of the request at the start of the buffer, if it is there whole and nothing is
/// unusual about the request: a look ahead that changes nothing.
#[inline]
pub fn peek_argument(buffer: &[u8]) -> Option<&[u8]> {
    if *buffer.first()? != b'*' {
        return None;
    }
    let (count, at) = header(buffer, 1)?;
    let bulk = |at: usize| {
        let (len, start) = header(buffer, at + 1).filter(|_| buffer.get(at) == Some(&b'$'))?;
        let len = usize::try_from(len?).ok()?;
        Some((start, start.checked_add(len)?))
    };
    if count? < 2 {
        return None;
    }
    let (_, name_end) = bulk(at)?;
    let (start, end) = bulk(name_end.checked_add(2)?)?;
    buffer.get(start..end)
}

/// Reads a header of one to three digits at `at`, where at least eight bytes are left: its number and
/// the place behind it. One load instead of a look at each byte.
#[inline(always)]
fn plain_header(buffer: &[u8], at: usize, lead: u8) -> Option<(usize, usize)> {
    let mut word = [0; 8];
    word.copy_from_slice(buffer.get(at..at + 8)?);
    let word = u64::from_le_bytes(word);
    let byte = |at: u32| (word >> (8 * at)) as u8;
    let digit = |at: u32| usize::from(byte(at).wrapping_sub(b'0'));
    let ends_at = |at: u32| (word >> (8 * at)) as u16 == u16::from_le_bytes(*b"\r\n");
    if byte(0) != lead || digit(1) > 9 {
        return None;
    }
    if ends_at(2) {
        return Some((digit(1), at + 4));
    }
    if digit(1) == 0 || digit(2) > 9 {
        return None;
    }
    let two = digit(1) * 10 + digit(2);
    if ends_at(3) {
        return Some((two, at + 5));
    }
    (digit(3) <= 9 && ends_at(4)).then(|| (two * 10 + digit(3), at + 6))
}

/// Reads the number of a header line at `at`: `None` if the line is not complete, the number (or
/// `None` if it is none) and the place behind the line otherwise.
fn header(buffer: &[u8], at: usize) -> Option<(Option<i64>, usize)> {
    // One and two digit numbers are nearly all there is.
    match buffer.get(at..) {
        Some([a @ b'0'..=b'9', b'\r', b'\n', ..]) => {
            return Some((Some(i64::from(a - b'0')), at + 3));
        }
        Some([a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..]) => {
            return Some((Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')), at + 4));
        }
        _ => {}
    }
    let rest = buffer.get(at..)?;
    let len = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n')?;
    let number = rest[..len]
        .strip_suffix(b"\r")
        .and_then(crate::base::parse_i64);
    Some((number, at + len + 1))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0)
}

/// Splits a line with quoted words: `"…"` with escapes, `'…'` without (but for `\'`). `None` if the quotes
/// do not fit.
pub fn unquote(line: &[u8]) -> Option<OwnedArgs> {
    let mut args = OwnedArgs::default();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        if at >= line.len() {
            return Some(args);
        }
        let mut word = Vec::new();
        while let Some(byte) = line.get(at).copied().filter(|byte| !is_space(*byte)) {
            at += 1;
            match byte {
                b'"' | b'\'' => {
                    at = quoted(line, at, byte, &mut word)?;
                    // A closing quote ends the word.
                    if line.get(at).is_some_and(|byte| !is_space(*byte)) {
                        return None;
                    }
                }
                plain => word.push(plain),
            }
        }
        args.push(&word);
    }
}

fn quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match (*line.get(at)?, quote) {
            (byte, quote) if byte == quote => return Some(at + 1),
            (b'\\', b'"') => {
                let hex = |at: usize| line.get(at).and_then(|byte| (*byte as char).to_digit(16));
                match (*line.get(at + 1)?, hex(at + 2), hex(at + 3)) {
                    (b'x', Some(high), Some(low)) => {
                        word.push((high * 16 + low) as u8);
                        at += 4;
                        continue;
                    }
                    (b'n', ..) => word.push(b'\n'),
                    (b'r', ..) => word.push(b'\r'),
                    (b't', ..) => word.push(b'\t'),
                    (b'b', ..) => word.push(8),
                    (b'a', ..) => word.push(7),
                    (other, ..) => word.push(other),
                }
                at += 2;
            }
            (b'\\', _) if line.get(at + 1) == Some(&b'\'') => {
                word.push(b'\'');
                at += 2;
            }
            (byte, _) => {
                word.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Args, *};
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let mut parser = Parser::default();
        let mut requests = Vec::new();
        let mut from = 0;
        loop {
            match parser.next(bytes, from, &ParseLimits::default()) {
                Ok(Step::Request { first, count, end }) => {
                    let args = Args::new(bytes, &parser.spans()[first..first + count]);
                    requests.push(args.iter().map(<[u8]>::to_vec).collect());
                    from = end;
                }
                Ok(Step::Unquoted { args, end }) => {
                    requests.push(args.as_args().iter().map(<[u8]>::to_vec).collect());
                    from = end;
                }
                Ok(Step::Empty { end }) => from = end,
                Ok(Step::More { .. }) => return (requests, None),
                Err(error) => return (requests, Some(error)),
            }
        }
    }

    /// Feeds the bytes in pieces, as a connection does: the unfinished request is kept, moved to the
    /// front, and parsed on.
    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
        let mut requests = Vec::new();
        let mut kept: Vec<u8> = Vec::new();
        let mut parser = Parser::default();
        let mut done = 0;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        for cut in cuts {
            kept.extend_from_slice(&bytes[done..cut]);
            done = cut;
            let mut from = 0;
            loop {
                match parser.next(&kept, from, &ParseLimits::default()) {
                    Ok(Step::Request { first, count, end }) => {
                        let args = Args::new(&kept, &parser.spans()[first..first + count]);
                        requests.push(args.iter().map(<[u8]>::to_vec).collect());
                        from = end;
                    }
                    Ok(Step::Unquoted { args, end }) => {
                        requests.push(args.as_args().iter().map(<[u8]>::to_vec).collect());
                        from = end;
                    }
                    Ok(Step::Empty { end }) => from = end,
                    Ok(Step::More { .. }) => break,
                    Err(error) => return (requests, Some(error)),
                }
            }
            parser = parser.split_open(from);
            kept.drain(..from);
        }
        (requests, None)
    }

    #[test]
    fn requests_of_both_forms_are_found() {
        let (requests, error) =
            all(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\nPING  a\r\n\r\n*0\r\nset k \"a\\x41\\n\" 'b c'\n");
        assert_eq!(error, None);
        let want: Vec<Vec<&[u8]>> = vec![
            vec![b"GET", b""],
            vec![b"PING", b"a"],
            vec![b"set", b"k", b"aA\n", b"b c"],
        ];
        assert_eq!(requests, want);
    }

    #[test]
    fn who_has_not_shown_a_password_may_send_what_that_takes() {
        let limits = ParseLimits {
            is_unknown: true,
            ..ParseLimits::default()
        };
        let parse = |bytes: &[u8]| Parser::default().next(bytes, 0, &limits);
        assert!(matches!(parse(b"*10\r\n$16384\r\n"), Ok(Step::More { .. })));
        let text = |bytes: &[u8]| {
            let error = parse(bytes).err();
            error.map(|error| error.reply().as_str().to_string())
        };
        let array = "ERR Protocol error: unauthenticated multibulk length";
        assert_eq!(text(b"*11\r\n").as_deref(), Some(array));
        let bulk = "ERR Protocol error: unauthenticated bulk length";
        assert_eq!(text(b"*1\r\n$16385\r\n").as_deref(), Some(bulk));
        let invalid = "ERR Protocol error: invalid bulk length";
        assert_eq!(text(b"*1\r\n$536870913\r\n").as_deref(), Some(invalid));
    }

    #[test]
    fn bad_requests_get_the_texts_that_clients_know() {
        for (bytes, want) in [
            (
                &b"*x\r\n"[..],
                "ERR Protocol error: invalid multibulk length",
            ),
            (b"*1\r\n:1\r\n", "ERR Protocol error: expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
            (
                b"*1\r\n$536870913\r\n",
                "ERR Protocol error: invalid bulk length",
            ),
            (
                b"*3000000000\r\n",
                "ERR Protocol error: invalid multibulk length",
            ),
            (
                b"set \"a\n",
                "ERR Protocol error: unbalanced quotes in request",
            ),
            (
                b"set \"a\"b\n",
                "ERR Protocol error: unbalanced quotes in request",
            ),
        ] {
            let (_, error) = all(bytes);
            assert_eq!(
                error
                    .map(|error| error.reply().as_str().to_string())
                    .as_deref(),
                Some(want)
            );
        }
        assert_eq!(all(&[b'a'; 70_000]).1, Some(ProtocolError::InlineTooLong));
        let mut endless = b"*".to_vec();
        endless.resize(70_000, b'1');
        assert_eq!(all(&endless).1, Some(ProtocolError::ArrayLineTooLong));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_requests(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
                0..8,
            ),
            cuts in prop::collection::vec(any::<usize>(), 0..10),
        ) {
            let mut bytes = Vec::new();
            for request in &requests {
                bytes.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
                for arg in request {
                    bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
                    bytes.extend_from_slice(arg);
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            prop_assert_eq!(all(&bytes), (requests.clone(), None));
            prop_assert_eq!(in_pieces(&bytes, &cuts), (requests, None));
        }

        #[test]
        fn any_bytes_in_any_split_give_the_same_result(
            bytes in prop::collection::vec(
                prop_oneof![7 => prop::sample::select(b"*$12\r\n\"".as_slice()), 1 => any::<u8>()],
                0..200,
            ),
            cuts in prop::collection::vec(any::<usize>(), 0..10),
        ) {
            prop_assert_eq!(all(&bytes), in_pieces(&bytes, &cuts));
        }
    }
}
