//! Replies into bytes: `Out` against `write!` into a vector. One operation is one reply; a round fills and
//! clears the same block with 64 of them again and again, as a turn does.

use std::{hint::black_box, io::Write};

use bytes::Bytes;
use ringkeep::resp::{Out, Proto};

use crate::measure::compare;

pub fn run() {
    let value = Bytes::from(vec![b'v'; 64]);
    let list: Vec<Reply> = std::iter::once(Reply::Array(100))
        .chain((0..100).map(|_| Reply::Bulk(value.slice(..16))))
        .collect();
    for (what, replies) in [
        ("OK", vec![Reply::Simple("OK")]),
        ("integer of 1 digit", vec![Reply::Int(1)]),
        ("integer of 7 digits", vec![Reply::Int(1_234_567)]),
        ("null", vec![Reply::Null]),
        ("bulk of 16 bytes", vec![Reply::Bulk(value.slice(..16))]),
        ("bulk of 64 bytes", vec![Reply::Bulk(value.clone())]),
        ("array of 100 bulks of 16 bytes", list),
        (
            "bulk of 16 KiB, by reference",
            vec![Reply::Shared(Bytes::from(vec![b'v'; 16 << 10]))],
        ),
    ] {
        one(what, &replies);
    }
}

fn one(what: &str, replies: &[Reply]) {
    let (mut out, mut naive) = (Out::default(), Naive::default());
    replies.iter().for_each(|reply| reply.compose(&mut out));
    replies
        .iter()
        .for_each(|reply| reply.compose_naively(&mut naive));
    assert_eq!(out.to_vec(), naive.bytes);

    let turns = TURNS / replies.len() as u64;
    compare(
        what,
        turns * PIPELINE,
        |meter| {
            meter.time(|| {
                for _ in 0..turns {
                    out.clear();
                    for _ in 0..PIPELINE {
                        for reply in black_box(replies) {
                            reply.compose(&mut out);
                        }
                    }
                    black_box(&out);
                }
            });
        },
        |meter| {
            meter.time(|| {
                for _ in 0..turns {
                    naive.bytes.clear();
                    for _ in 0..PIPELINE {
                        for reply in black_box(replies) {
                            reply.compose_naively(&mut naive);
                        }
                    }
                    black_box(&naive);
                }
            });
        },
    );
}

/// What a reply is made of, for both.
#[derive(Clone, Debug)]
enum Reply {
    Simple(&'static str),
    Int(i64),
    Bulk(Bytes),
    Shared(Bytes),
    Null,
    Array(usize),
}

impl Reply {
    #[inline]
    fn compose(&self, out: &mut Out) {
        match self {
            Reply::Simple("OK") => out.ok(),
            Reply::Simple(text) => out.simple(text),
            Reply::Int(value) => out.int(*value),
            Reply::Bulk(bytes) => out.bulk(bytes),
            Reply::Shared(bytes) => out.bulk_shared(bytes),
            Reply::Null => out.null(),
            Reply::Array(len) => out.array(*len),
        }
    }

    #[inline]
    fn compose_naively(&self, out: &mut Naive) {
        match self {
            Reply::Simple(text) => out.line(format_args!("+{text}")),
            Reply::Int(value) => out.line(format_args!(":{value}")),
            Reply::Bulk(bytes) | Reply::Shared(bytes) => out.bulk(bytes),
            Reply::Null if out.proto == Proto::Two => out.line(format_args!("$-1")),
            Reply::Null => out.line(format_args!("_")),
            Reply::Array(len) => out.line(format_args!("*{len}")),
        }
    }
}

/// The naive twin: everything formatted and copied into one block.
#[derive(Default)]
struct Naive {
    bytes: Vec<u8>,
    proto: Proto,
}

impl Naive {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        write!(self.bytes, "{text}\r\n").expect("a vector takes everything");
    }

    fn bulk(&mut self, bytes: &[u8]) {
        self.line(format_args!("${}", bytes.len()));
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

const PIPELINE: u64 = 64;
const TURNS: u64 = 6000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};
    use ringkeep::resp::SHARE_MIN;

    fn reply() -> impl Strategy<Value = Reply> {
        let bytes = |len| vec(any::<u8>(), len).prop_map(Bytes::from);
        let large = SHARE_MIN - 2..SHARE_MIN + 2;
        prop_oneof![
            prop::sample::select(vec!["OK", "QUEUED", ""]).prop_map(Reply::Simple),
            prop_oneof![any::<i64>(), -120..1200i64].prop_map(Reply::Int),
            bytes(0..150).prop_map(Reply::Bulk),
            prop_oneof![bytes(0..10), bytes(large)].prop_map(Reply::Shared),
            Just(Reply::Null),
            prop_oneof![0..120usize, Just(1 << 40)].prop_map(Reply::Array),
        ]
    }

    proptest! {
        #[test]
        fn both_write_the_same_bytes(replies in vec(reply(), 0..12), third in any::<bool>()) {
            let proto = if third { Proto::Three } else { Proto::Two };
            let mut out = Out::new(proto);
            let mut naive = Naive { proto, ..Naive::default() };
            for reply in &replies {
                reply.compose(&mut out);
                reply.compose_naively(&mut naive);
            }
            prop_assert_eq!(out.len(), naive.bytes.len());
            prop_assert_eq!(out.to_vec(), naive.bytes);
        }
    }
}
