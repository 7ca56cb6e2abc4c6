//! Requests out of bytes: the parser in place against one that copies each argument. One operation is one
//! request; a round walks a buffer of 64 of them again and again.

use std::hint::black_box;

use ringkeep::resp::{Args, ParseLimits, Parser, ProtocolError, Step};

use crate::measure::compare;

pub fn run() {
    let get: &[&[u8]] = &[b"GET", b"key:000000000042"];
    let value = [b'v'; 64];
    let set: &[&[u8]] = &[b"SET", b"key:000000000042", &value];
    let many: Vec<&[u8]> = std::iter::once(b"MSET".as_slice())
        .chain((0..16).flat_map(|_| [b"key:000000000042".as_slice(), &value]))
        .collect();
    for (what, request) in [
        ("GET, key of 16 bytes", get),
        ("SET, key of 16, value of 64", set),
        ("MSET, 16 keys of 16, values of 64", &many),
    ] {
        one(what, request);
    }
}

fn one(what: &str, request: &[&[u8]]) {
    let buffer = encode(request).repeat(PIPELINE);
    assert_eq!(ours(&buffer), naive(&buffer));
    let walks = WALKS / request.len() as u64;
    let limits = ParseLimits::default();
    let mut parser = Parser::default();
    compare(
        what,
        walks * PIPELINE as u64,
        |meter| {
            meter.time(|| {
                for _ in 0..walks {
                    parser.clear();
                    let mut at = 0;
                    while let Some(end) = next(&mut parser, black_box(&buffer), at, &limits) {
                        at = end;
                    }
                    black_box(parser.spans());
                }
            });
        },
        |meter| {
            meter.time(|| {
                for _ in 0..walks {
                    let mut at = 0;
                    while let Ok(Some((args, end))) = naive_next(black_box(&buffer), at, &limits) {
                        black_box(args);
                        at = end;
                    }
                }
            });
        },
    );
}

/// The next request as the node looks for it: the usual form first. Where the one after it starts.
#[inline]
fn next(parser: &mut Parser, buffer: &[u8], at: usize, limits: &ParseLimits) -> Option<usize> {
    match parser.next_plain(buffer, at) {
        Some(end) => Some(end),
        None => match parser.next(buffer, at, limits) {
            Ok(Step::Request { end, .. } | Step::Empty { end }) => Some(end),
            _ => None,
        },
    }
}

/// One request's arguments; none for a request without any.
type Copied = Vec<Vec<u8>>;

/// The naive twin: the arguments of the request at `at`, copied, and where the next one starts; `None` if
/// the bytes end before it does. What is at `at` is an array; lines that never end have no bound.
fn naive_next(
    buffer: &[u8],
    mut at: usize,
    limits: &ParseLimits,
) -> Result<Option<(Copied, usize)>, ProtocolError> {
    if at == buffer.len() {
        return Ok(None);
    }
    let Some((count, start)) = naive_number(buffer, at + 1) else {
        return Ok(None);
    };
    let count = count.ok_or(ProtocolError::ArrayLength)?;
    if count > limits.args_max as i64 {
        return Err(ProtocolError::ArrayLength);
    }
    at = start;
    let mut args = Vec::new();
    for _ in 0..count {
        match buffer.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(byte) => return Err(ProtocolError::ExpectedBulk(*byte)),
        }
        let Some((len, start)) = naive_number(buffer, at + 1) else {
            return Ok(None);
        };
        let len = len
            .filter(|len| (0..=limits.bulk_len_max as i64).contains(len))
            .ok_or(ProtocolError::BulkLength)? as usize;
        let Some(line_end) = buffer.get(start + len..start + len + 2) else {
            return Ok(None);
        };
        if line_end != b"\r\n" {
            return Err(ProtocolError::ExpectedLineEnd);
        }
        args.push(buffer[start..start + len].to_vec());
        at = start + len + 2;
    }
    Ok(Some((args, at)))
}

/// The number of the line at `at`, if it is one in its shortest form, and where the line after it starts;
/// `None` if the line does not end.
fn naive_number(buffer: &[u8], at: usize) -> Option<(Option<i64>, usize)> {
    let len = buffer[at..].iter().position(|byte| *byte == b'\n')?;
    let number = || {
        let line = buffer[at..at + len].strip_suffix(b"\r")?;
        let text = std::str::from_utf8(line).ok()?;
        let number: i64 = text.parse().ok()?;
        (number.to_string() == text).then_some(number)
    };
    Some((number(), at + len + 1))
}

/// Why a walk through a buffer ended.
#[derive(PartialEq, Debug)]
enum Stop {
    /// At the buffer's end or inside a request.
    More,
    /// At a byte that starts no array.
    Inline,
    Error(ProtocolError),
}

/// All requests of a buffer, and why there are no more.
fn ours(buffer: &[u8]) -> (Vec<Copied>, Stop) {
    let limits = ParseLimits::default();
    let (mut found, mut parser, mut at) = (Vec::new(), Parser::default(), 0);
    loop {
        if buffer.get(at).is_some_and(|byte| *byte != b'*') {
            return (found, Stop::Inline);
        }
        let first = parser.spans().len();
        let end = match parser.next_plain(buffer, at) {
            Some(end) => end,
            None => match parser.next(buffer, at, &limits) {
                Ok(Step::Request { end, .. } | Step::Empty { end }) => end,
                Ok(Step::Unquoted { .. }) => return (found, Stop::Inline),
                Ok(Step::More { .. }) => return (found, Stop::More),
                Err(error) => return (found, Stop::Error(error)),
            },
        };
        let args = Args::new(buffer, &parser.spans()[first..]);
        found.push(args.iter().map(<[u8]>::to_vec).collect());
        at = end;
    }
}

/// The same by the naive twin.
fn naive(buffer: &[u8]) -> (Vec<Copied>, Stop) {
    let limits = ParseLimits::default();
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        if buffer.get(at).is_some_and(|byte| *byte != b'*') {
            return (found, Stop::Inline);
        }
        match naive_next(buffer, at, &limits) {
            Ok(Some((args, end))) => {
                found.push(args);
                at = end;
            }
            Ok(None) => return (found, Stop::More),
            Err(error) => return (found, Stop::Error(error)),
        }
    }
}

fn encode(request: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for arg in request {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

const PIPELINE: usize = 64;
const WALKS: u64 = 6000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn request() -> impl Strategy<Value = Vec<u8>> {
        vec(vec(any::<u8>(), 0..120), 0..12).prop_map(|args| {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            encode(&args)
        })
    }

    proptest! {
        /// Whole requests, then bytes of which one may be another and the end may be missing.
        #[test]
        fn both_find_the_same_requests(
            requests in vec(request(), 0..6),
            damage in any::<Option<(prop::sample::Index, u8)>>(),
            kept in any::<Option<prop::sample::Index>>(),
        ) {
            let mut buffer = requests.concat();
            if let Some((at, byte)) = damage && !buffer.is_empty() {
                let at = at.index(buffer.len());
                buffer[at] = byte;
            }
            if let Some(kept) = kept {
                buffer.truncate(kept.index(buffer.len() + 1));
            }
            prop_assert_eq!(ours(&buffer), naive(&buffer));
        }

        /// Bytes that look like headers, in any order.
        #[test]
        fn both_refuse_the_same_bytes(parts in vec(prop::sample::select(vec![
            "*1\r\n", "*2\r\n", "*0\r\n", "*-1\r\n", "*01\r\n", "*12\r\n", "*", "$", "$0\r\n", "$1\r\n",
            "$-1\r\n", "$-0\r\n", "$+1\r\n", "$10\r\n", "$00\r\n", "$999999999999\r\n", "a", "0", "9",
            "\r\n", "\r", "\n", "0123456789",
        ]), 0..12)) {
            let buffer = format!("*{}", parts.concat()).into_bytes();
            prop_assert_eq!(ours(&buffer), naive(&buffer));
        }
    }
}
